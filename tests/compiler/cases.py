"""The pairs and plans the compiler is tested on; run as a script, it writes the golden plans."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import attrs

from pycolo.compiler import compile_offline
from pycolo.model import (
    ColoPair,
    FilterChain,
    Machine,
    Netdev,
    Node,
    ReplicationDisk,
)
from pycolo.plan import DialectName, Plan, Procedure
from pycolo.qmp.replies import Version
from pycolo.record import PairRecord, highest
from pycolo.snapshot import Snapshot
from pycolo.wire import plan_to_json

GOLDEN = Path(__file__).parent.parent / "golden"
VERSIONS: tuple[Literal["7.2.22", "10.0.13", "11.1.3"], ...] = ("7.2.22", "10.0.13", "11.1.3")

Case: TypeAlias = tuple[Procedure, str | None]
CASES: Mapping[str, Case] = {
    "launch/both": ("launch", None),
    "start/first": ("start", None),
    "set-checkpoint-delay/two-seconds": ("set-checkpoint-delay", None),
    "failover/primary-survives": ("failover", "alpha"),
    "failover/secondary-survives": ("failover", "beta"),
    "resume/on-the-primary": ("resume", "alpha"),
    "resume/on-the-promoted": ("resume", "beta"),
    "stop/protected": ("stop", None),
    "switch-over/protected": ("switch-over", None),
}


def one_of_each() -> ColoPair:
    """A pair with one disk, one card and a spare node."""
    return ColoPair(
        name="vm0",
        nodes=(
            Node(name="alpha", address="192.0.2.1", image_folder="/var/lib/vm0"),
            Node(name="beta", address="192.0.2.2", image_folder="/var/lib/vm0"),
        ),
        spares=(Node(name="gamma", address="192.0.2.3", image_folder="/var/lib/vm0"),),
        machine=Machine(memory_mib=512, cpu="qemu64,kvmclock=on"),
        disks=(ReplicationDisk(size_bytes=10 * 2**30),),
        chains=(FilterChain(netdev=Netdev(type="tap", options={"ifname": "vm0"})),),
        checkpoint_delay_ms=1000,
    )


def two_of_each() -> ColoPair:
    """A pair with two disks and two cards, one of them virtio."""
    one = one_of_each()
    net = Netdev(type="tap", options={"ifname": "vm0b"})
    disk = ReplicationDisk(
        size_bytes=2**30,
        image="data.raw",
        image_format="raw",
        active_image="data-active.qcow2",
        hidden_image="data-hidden.qcow2",
        device="virtio-blk-pci",
    )
    chains = (attrs.evolve(one.chains[0], ids=None, ports=None),)
    return attrs.evolve(
        one,
        disks=(*one.disks, disk),
        chains=(*chains, FilterChain(netdev=net, model="virtio-net-pci")),
    )


PAIRS = {"one": one_of_each(), "two": two_of_each()}


def compiled(case: Case, pair: ColoPair, version: str, dialect: DialectName = "auto") -> Plan:
    """The plan of a case, compiled offline."""
    procedure, survivor = case
    return compile_offline(
        procedure,
        pair,
        version=Version.parse(version),
        survivor=survivor,
        checkpoint_delay_ms=2000 if procedure == "set-checkpoint-delay" else None,
        dialect=dialect,
    )


def golden_plans() -> Iterator[tuple[str, Plan]]:
    """File name and plan of every golden case."""
    for name, case in CASES.items():
        for version in VERSIONS:
            yield f"{name}-{version}.json", compiled(case, PAIRS["one"], version)
        yield f"{name}-two-of-each-11.1.3.json", compiled(case, PAIRS["two"], "11.1.3")


def settled(plan: Plan) -> Snapshot:
    """A plan's planned state, but for revisions: every change of a record is written again.

    The file of a peer that need not be reached is no part of that either.
    """
    top = highest(plan.planned_state.records)
    alone = plan.procedure in ("failover", "switch-over")
    records = {
        name: attrs.evolve(state, revision=0) if isinstance(state, PairRecord) else state
        for name, state in plan.planned_state.records.items()
        if not alone or (top is not None and name == top.holder)
    }
    return attrs.evolve(plan.planned_state, records=records)


def as_text(plan: Plan) -> str:
    """A plan as its file holds it."""
    return json.dumps(plan_to_json(plan), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for file_name, golden_plan in golden_plans():
        path = GOLDEN / file_name
        path.parent.mkdir(exist_ok=True)
        path.write_text(as_text(golden_plan))

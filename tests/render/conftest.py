"""Small plans made by hand, for every reader to show."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.real_qemu import bare_qemu, build_of

from pycolo.conditions import Gone, PeerDead, RunStateIs
from pycolo.evidence import Evidence, Victim
from pycolo.model import (
    ColoPair,
    FilterChain,
    Netdev,
    Node,
    ReplicationDisk,
)
from pycolo.plan import (
    Check,
    CreateImage,
    Execute,
    Plan,
    Record,
    Recovery,
    Refusal,
    RunHost,
    Step,
    Wait,
)
from pycolo.qmp.chardevs import SocketServer, UnixSocketAddress
from pycolo.qmp.commands import ChardevAdd, Command, Cont, Yank
from pycolo.qmp.objects import YankBlockNode
from pycolo.qmp.replies import Version
from pycolo.record import Change, NoRecord, PairRecord
from pycolo.snapshot import Dead, Live, Snapshot

QEMU = Version(major=11, minor=1, micro=3)
MakePlan = Callable[..., Plan]


@pytest.fixture
def pair() -> ColoPair:
    """A pair with one disk and one card, whose folders no shell may take apart."""
    return ColoPair(
        name="colo",
        nodes=(
            Node(name="alpha", address="127.0.0.1", image_folder='/vms/al\'pha "1"'),
            Node(name="beta", address="10.0.0.2", image_folder="/vms/$(beta)"),
        ),
        disks=(ReplicationDisk(size_bytes=1048576),),
        chains=(FilterChain(netdev=Netdev(type="user")),),
    )


@pytest.fixture
def make_plan(pair: ColoPair) -> MakePlan:
    """Make a plan of the given steps for a running alpha whose peer was fenced."""
    evidence = Evidence(
        kind="fence",
        node="beta",
        instance="colo:beta:0000000b",
        epoch=4,
        who="ops",
        how="pulled the plug",
        when="2026-01-02T03:04:05Z",
    )
    state = Snapshot(
        nodes={"alpha": Live(version=QEMU, run_state="running"), "beta": Dead(evidence=evidence)}
    )

    def make(
        *steps: Step,
        recoveries: tuple[Recovery, ...] = (),
        restored_after: str | None = None,
        of: ColoPair = pair,
    ) -> Plan:
        return Plan(
            procedure="failover",
            pair=of,
            qemu={"alpha": QEMU},
            dialect="auto",
            prior_state=state,
            planned_state=state,
            steps=steps,
            recoveries=recoveries,
            restored_after=restored_after,
        )

    return make


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    """A plan that has a step of each kind, a recovery range and a point of restored service."""

    def step(command: Command, *, oob: bool = False, accepts: tuple[Refusal, ...] = ()) -> Execute:
        return Execute(
            address=f"alpha/{command.qmp_name}/{command.subject}",
            node="alpha",
            command=command,
            why="the reason why (qemu-behaviour 1.1)",
            limit_s=10,
            oob=oob,
            accepts=accepts,
            rescue=() if oob else (yank,),
        )

    yank = Yank(instances=(YankBlockNode(node_name="nbd0"),))
    gone = Refusal(error_class="DeviceNotFound", text="Instance not found")
    image = '/vms/al\'pha "1"/primary.qcow2'
    create = CreateImage(
        path=image,
        image_format="qcow2",
        size_bytes=1048576,
        argv=("qemu-img", "create", image, "1048576"),
    )
    sole = PairRecord(
        pair="colo",
        birth="00000001",
        epoch=5,
        revision=0,
        holder="alpha",
        eligible={"alpha": "colo:alpha:0000000a"},
        phase="alone",
    )
    add = ChardevAdd(
        id="mirror0",
        backend=SocketServer(addr=UnixSocketAddress(path="/run/a b.sock"), wait=False),
    )
    return make_plan(
        Check(
            address="beta/dead",
            node="beta",
            condition=PeerDead(node="beta", instance="colo:beta:0000000b", epoch=4),
            why="or split brain",
        ),
        step(yank, oob=True, accepts=(gone,)),
        step(add),
        Wait(
            address="alpha/wait/running",
            node="alpha",
            until=RunStateIs(node="alpha", states=("running",)),
            unless=Gone(node="alpha"),
            why="the guest runs",
            limit_s=2.5,
        ),
        RunHost(address="beta/image", node="beta", action=create, why="for later", limit_s=60),
        Record(
            address="alpha/record/sole",
            node="alpha",
            change=Change(expects=NoRecord(), becomes=sole),
            why="beta may not run alone",
            limit_s=5,
            needs=Victim(node="beta", instance="colo:beta:0000000b", epoch=4),
            may_fail=True,
        ),
        recoveries=(
            Recovery(
                first="alpha/chardev-add/mirror0",
                last="alpha/wait/running",
                steps=(step(Cont()),),
                why="the guest is paused",
            ),
        ),
        restored_after="alpha/wait/running",
    )


@pytest.fixture
def live_node() -> Iterator[Node]:
    """A bare QEMU 11.1, stopped, with two monitors in a folder whose name needs quoting."""
    # A socket's path is short, pytest's folders are not.
    with tempfile.TemporaryDirectory(prefix="it's $HOME ") as folder:
        machine = ("-machine", "pc", "-accel", "tcg", "-m", "32", "-name", "one")
        with bare_qemu("11.1", Path(folder), *machine):
            yield Node(
                name="alpha",
                address="127.0.0.1",
                image_folder=folder,
                run_dir=folder,
                qemu_img_binary=str(build_of("11.1").qemu_img),
            )

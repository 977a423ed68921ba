"""The pairs and plans the compiler is tested on; run as a script, it writes the golden plans."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import attrs

from pycolo._json import JsonValue
from pycolo.compiler import compile_offline
from pycolo.model import (
    X509,
    BackingImage,
    Cdrom,
    Channel,
    ColoPair,
    Device,
    DeviceObject,
    DiskOnNode,
    FilterChain,
    Firmware,
    Iscsi,
    Machine,
    Nbd,
    Netdev,
    Nfs,
    Node,
    Psk,
    Rbd,
    RbdMonitor,
    Remote,
    ReplicationDisk,
    Throttle,
    Tls,
    Vnc,
)
from pycolo.plan import DialectName, Execute, LaunchQemu, Plan, Procedure, RunHost
from pycolo.qmp.commands import BlockdevAdd, Command
from pycolo.qmp.replies import Version
from pycolo.record import PairRecord, highest
from pycolo.snapshot import Snapshot
from pycolo.wire import dumps, plan_to_json

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
    "shutdown/protected": ("shutdown", None),
    "checkpoint/protected": ("checkpoint", None),
    "launch/storage": ("launch", None),
    "start/storage": ("start", None),
    "launch/hardware": ("launch", None),
    "start/hardware": ("start", None),
    "launch/layers": ("launch", None),
    "launch/remote": ("launch", None),
}
# The same again for the golden plans, over encrypted connections.
OVER_TLS: Mapping[str, Case] = {
    "launch/over-tls": ("launch", None),
    "start/over-tls": ("start", None),
    "resume/on-the-primary-over-tls": ("resume", "alpha"),
    "resume/on-the-promoted-over-tls": ("resume", "beta"),
}
SHAPES: Mapping[str, str] = {
    **dict.fromkeys(("launch/storage", "start/storage"), "storage"),
    **dict.fromkeys(("launch/hardware", "start/hardware"), "hardware"),
    "launch/layers": "layers",
    "launch/remote": "remote",
}
"Case to the pair that it is compiled for, where that is not one of each."


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


def on_other_storage() -> ColoPair:
    """A pair with a block device and an image elsewhere, overlays in memory, and no card."""
    one = one_of_each()
    nodes = [attrs.evolve(node, overlay_folder="/run/vm0") for node in one.nodes]
    device = ReplicationDisk(
        size_bytes=10 * 2**30,
        image="/dev/vg0/vm0",
        image_format="raw",
        driver="host_device",
        cache="directsync",
        aio="native",
        discard="unmap",
        detect_zeroes="unmap",
    )
    file = ReplicationDisk(
        size_bytes=2**30,
        image="/srv/vm0/data.qcow2",
        active_image="data-active.qcow2",
        hidden_image="/var/tmp/data-hidden.qcow2",
        cache="unsafe",
        nodes={"beta": DiskOnNode(image="data.raw", image_format="raw", aio="io_uring")},
    )
    encrypted = ReplicationDisk(
        size_bytes=2**30,
        image="secret.luks",
        image_format="luks",
        secret_file="/etc/vm0,key",  # noqa: S106 - a path
        active_image="secret-active.qcow2",
        hidden_image="secret-hidden.qcow2",
        throttle=Throttle(iops_total=500, bps_read=10**7, bps_write=5 * 10**6),
        resync_bytes_per_s=2**20,
        nodes={"beta": DiskOnNode(image_format="qcow2")},
    )
    return attrs.evolve(one, nodes=nodes, disks=(device, file, encrypted), chains=())


def on_layers() -> ColoPair:
    """A pair whose images are backed by others."""
    one = one_of_each()
    base = BackingImage(
        image="https://images.example/base,1.raw",
        image_format="raw",
        options={"offset": 512},
        file_options={"sslverify": False},
    )
    chain = (BackingImage(image="/srv/golden/vm0.qcow2"), base)
    backed = ReplicationDisk(
        size_bytes=10 * 2**30,
        backing=chain,
        options={
            "l2-cache-size": 2**21,
            "overlap-check": {"template": "cached", "main-header": True},
        },
        file_options={"locking": "on"},
        nodes={"beta": DiskOnNode(backing=chain[1:], file_options={})},
    )
    device = ReplicationDisk(
        size_bytes=2**30,
        image="data.qcow2",
        backing=(BackingImage(image="/dev/vg0/golden", image_format="raw", driver="host_device"),),
        active_image="data-active.qcow2",
        hidden_image="data-hidden.qcow2",
        nodes={"beta": DiskOnNode(backing=())},
    )
    return attrs.evolve(one, disks=(backed, device), chains=())


def on_remote_storage() -> ColoPair:
    """A pair whose images are on storage that QEMU reaches by itself."""
    one = one_of_each()
    monitors = (RbdMonitor(host="192.0.2.31"), RbdMonitor(host="192.0.2.32", port=3300))
    key, word = "/etc/vm0/ceph,key", "/etc/vm0/chap"
    remotes: tuple[tuple[Remote, Remote, Remote], ...] = (
        (
            Rbd(pool="vm0", image="a", monitors=monitors, user="pycolo", secret_file=key),
            Rbd(pool="vm0", image="b", namespace="spare", conf="/etc/ceph/b.conf"),
            Rbd(pool="vm0", image="c"),
        ),
        (
            Iscsi(portal="192.0.2.41", target="iqn.2026-01.com.example:a"),
            Iscsi(
                portal="192.0.2.41:3261",
                target="iqn.2026-01.com.example:a",
                lun=1,
                user="vm0",
                secret_file=word,
                initiator_name="iqn.2026-01.com.example:vm0",
            ),
            Iscsi(portal="192.0.2.42", target="iqn.2026-01.com.example:c", transport="iser"),
        ),
        (
            Nfs(host="192.0.2.51", path="/srv/a,1.raw"),
            Nfs(host="192.0.2.51", path="/srv/b.raw", user=1000, group=1000),
            Nfs(host="192.0.2.52", path="/srv/a,1.raw"),
        ),
        (
            Nbd(host="127.0.0.1", export="vm0"),
            Nbd(path="/run/nbd,b.sock"),
            Nbd(host="127.0.0.1", export="vm0"),
        ),
    )
    disks = (
        ReplicationDisk(
            size_bytes=2**30,
            image_format="raw",
            active_image=f"active{n}.qcow2",
            hidden_image=f"hidden{n}.qcow2",
            nodes={name: DiskOnNode(remote=at) for name, at in zip(one.names, where, strict=True)},
        )
        for n, where in enumerate(remotes)
    )
    return attrs.evolve(one, disks=tuple(disks), chains=())


def with_hardware() -> ColoPair:
    """A pair whose guest has controllers, firmware, channels, drives and a screen."""
    one = one_of_each()
    devices = (
        Device(driver="virtio-scsi-pci", id="scsi0", properties={"addr": "0x8"}),
        Device(driver="virtio-serial-pci"),
        Device(driver="virtio-rng-pci", properties={"rng": "rng0"}),
        Device(driver="VGA"),
    )
    machine = attrs.evolve(
        one.machine,
        vcpus=4,
        cores=2,
        threads=2,
        firmware=Firmware(code="/usr/share/OVMF/code,4m.fd", variables="/usr/share/OVMF/vars.fd"),
        objects=(
            DeviceObject(kind="iothread", id="io0", properties={"poll-max-ns": 0}),
            DeviceObject(kind="rng-random", id="rng0"),
        ),
        devices=devices,
        cdroms=(Cdrom(image="/srv/iso/a,b.iso"), Cdrom()),
        channels=(
            Channel(properties={"name": "org.qemu.guest_agent.0"}),
            Channel(device="isa-serial", properties={"index": 1}),
        ),
    )
    disk = ReplicationDisk(
        size_bytes=10 * 2**30,
        device="scsi-hd",
        properties={"bus": "scsi0.0", "lun": 1, "serial": "a,id=b", "bootindex": 1},
    )
    card = FilterChain(
        netdev=one.chains[0].netdev,
        model="virtio-net-pci",
        properties={"csum": False, "vectors": 3, "addr": "0x9"},
    )
    first, second = one.nodes
    nodes = (
        attrs.evolve(first, vnc=Vnc()),
        attrs.evolve(second, vnc=Vnc(host="192.0.2.2", port=5901, password_file="/etc/vnc,key")),  # noqa: S106 - a path
    )
    return attrs.evolve(one, nodes=nodes, machine=machine, disks=(disk,), chains=(card,))


def over_tls(tls: Tls) -> ColoPair:
    """A pair with one of each whose connections are encrypted."""
    return attrs.evolve(one_of_each(), tls=tls)


CERTIFICATES = X509(
    folder="/etc/pycolo/tls", authz=tuple(f"O=Example,CN={name}" for name in one_of_each().names)
)
PAIRS: Mapping[str, ColoPair] = {
    "one": one_of_each(),
    "two": two_of_each(),
    "storage": on_other_storage(),
    "x509": over_tls(CERTIFICATES),
}
EVERY_PAIR: Mapping[str, ColoPair] = {
    **PAIRS,
    "hardware": with_hardware(),
    "layers": on_layers(),
    "remote": on_remote_storage(),
    "psk": over_tls(Psk(folder="/etc/pycolo/tls", username="vm0")),
}
# What a file shows: each with its QEMU and its pair.
VARIANTS: Mapping[str, tuple[str, str]] = {
    **{version: (version, "one") for version in VERSIONS},
    "11.1.3, two of each": ("11.1.3", "two"),
}
VARIANTS_OVER_TLS: Mapping[str, tuple[str, str]] = {
    "7.2.22, psk": ("7.2.22", "psk"),
    "10.0.13, psk": ("10.0.13", "psk"),
    "10.0.13, x509": ("10.0.13", "x509"),
    "11.1.3, x509": ("11.1.3", "x509"),
}
# Those whose states are written out.
SHOWN, SHOWN_OVER_TLS = "11.1.3", "11.1.3, x509"


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


def golden_plans(cases: Iterable[str] = (*CASES, *OVER_TLS)) -> Iterator[tuple[str, str, Plan]]:
    """Case, variant and plan of every golden plan of some cases."""
    for name in cases:
        variants = VARIANTS_OVER_TLS if name in OVER_TLS else VARIANTS
        if name in SHAPES:
            variants = {version: (version, SHAPES[name]) for version in VERSIONS}
        case = OVER_TLS[name] if name in OVER_TLS else CASES[name]
        for variant, (version, pair) in variants.items():
            yield name, variant, compiled(case, EVERY_PAIR[pair], version)


def golden_text(case: str) -> str:
    """What a case's file holds: what is done, a line a step and no reason, and the states, once."""
    plans = {variant: plan for _, variant, plan in golden_plans((case,))}
    return "\n".join(_lines(plans)) + "\n"


def _lines(variants: Mapping[str, Plan]) -> Iterator[str]:
    for variant, plan in variants.items():
        yield f"== {variant}"
        yield from lines_of(plan)
    written = plan_to_json(variants[SHOWN if SHOWN in variants else SHOWN_OVER_TLS])
    for state in ("prior_state", "planned_state"):
        yield f"== {state}"
        yield json.dumps(written[state], indent=1, ensure_ascii=False)


def lines_of(plan: Plan) -> Iterator[str]:
    """What a plan does, a line a step, and then what its recoveries do."""
    written = plan_to_json(plan)
    yield from map(_line, _objects(written["steps"]))
    for recovery in _objects(written["recoveries"]):
        yield f"-- recovery from {recovery['first']} to {recovery['last']}"
        yield from map(_line, _objects(recovery["steps"]))


def commands_of(plan: Plan) -> Iterator[tuple[Command, bool]]:
    """Every command of a plan, and whether it is sent out of band.

    The block nodes of a command line are among them, as the commands that would make them.
    """
    for step in (*plan.steps, *(s for one in plan.recoveries for s in one.steps)):
        match step:
            case Execute(command=command, oob=oob, rescue=rescue):
                yield command, oob
                yield from ((yank, True) for yank in rescue)
            case RunHost(action=LaunchQemu(argv=argv)):
                for option, value in itertools.pairwise(argv):
                    if option == "-blockdev":
                        yield BlockdevAdd.from_arguments(json.loads(value)), False
            case _:
                pass


def _line(step: Mapping[str, JsonValue]) -> str:
    rest = {key: value for key, value in step.items() if key not in ("address", "node", "why")}
    return f"{step['address']} {json.dumps(rest, ensure_ascii=False)}"


def _objects(value: JsonValue) -> list[Mapping[str, JsonValue]]:
    assert isinstance(value, list)
    return [one for one in value if isinstance(one, dict)]


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
    """A plan as a file of its own holds it."""
    return dumps(plan_to_json(plan))


if __name__ == "__main__":
    for name in (*CASES, *OVER_TLS):
        path = GOLDEN / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(golden_text(name))

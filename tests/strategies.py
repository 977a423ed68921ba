"""Strategies for what users declare and what is made of it: pairs, snapshots, plans, reports."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import attrs
from hypothesis import strategies as st
from tests.qmp.strategies import commands

from pycolo._json import JsonValue
from pycolo.compiler import compile_offline
from pycolo.conditions import AllOf, AnyOf, Condition, Leaf
from pycolo.errors import RefusedError
from pycolo.evidence import Evidence
from pycolo.model import (
    X509,
    BackingImage,
    Cdrom,
    ChainIds,
    ChainPorts,
    Channel,
    ColoPair,
    Device,
    DiskIds,
    DiskOnNode,
    FilterChain,
    Firmware,
    Iscsi,
    Machine,
    MemoryBackend,
    Migration,
    Monitor,
    Nbd,
    Netdev,
    Nfs,
    Node,
    Ports,
    Psk,
    Rbd,
    RbdMonitor,
    Remote,
    ReplicationDisk,
    TcpMonitor,
    Throttle,
    Timeouts,
    Tls,
    UnixMonitor,
)
from pycolo.model.disk import ImageFormat
from pycolo.model.hardware import Property
from pycolo.model.storage import Driver
from pycolo.plan import Check, Execute, Plan, Procedure, Record, Recovery, RunHost, Step, Wait
from pycolo.qmp.commands import Command, Yank
from pycolo.qmp.objects import YankBlockNode, YankChardev
from pycolo.qmp.replies import Version
from pycolo.qmp.schema import Schema
from pycolo.result import Outcome, Report
from pycolo.snapshot import NodeState, Snapshot

T = TypeVar("T")

ids = st.from_regex(r"[A-Za-z][A-Za-z0-9\-._]{0,11}", fullmatch=True)
"""What QEMU takes for an id."""

printable = st.text(st.sampled_from("aZ0 ,;'\"\\$%=é漢-_."), min_size=1, max_size=12)
"""Text for file names and arguments, with the characters that quoting gets wrong."""

versions = st.sampled_from([Version.parse(text) for text in ("7.2.22", "10.0.13", "11.1.3")])
"""The QEMU versions that pycolo is tested on."""

seconds = st.floats(min_value=0.001, max_value=1e6) | st.integers(1, 10**6).map(float)


def _maybe(values: st.SearchStrategy[T]) -> st.SearchStrategy[T | None]:
    return st.none() | values


@st.composite
def _monitors(draw: st.DrawFn, n: int, kind: str) -> Monitor | None:
    place = draw(st.sampled_from(["default", "unix", "tcp"]))
    if place == "unix":
        return UnixMonitor(path=f"/run/{draw(printable)}/{n}-{kind}")
    if place == "tcp":
        port = 40000 + 2 * n + (kind == "observer")
        return TcpMonitor(host=draw(st.sampled_from(["127.0.0.1", "::1", "localhost"])), port=port)
    return None


@st.composite
def _nodes(draw: st.DrawFn, n: int, name: str) -> Node:
    address = draw(st.sampled_from(["192.0.2.{}", "127.0.0.{}", "host{}.example"])).format(n + 1)
    node = Node(
        name=name,
        address=address,
        image_folder=f"/{draw(printable)}/{n}",
        overlay_folder=f"/{draw(printable)}/{n}",
        run_dir=draw(st.sampled_from([None, f"/run/pycolo/{n}", f"/var/run/pair one/{n}/"])),
        control=draw(_monitors(n, "control")),
        observer=draw(_monitors(n, "observer")),
        qemu_binary=draw(st.sampled_from(["qemu-system-x86_64", "/opt/qemu/bin/qemu"])),
    )
    return attrs.evolve(node, listen_address=draw(st.sampled_from([address, "0.0.0.0"])))  # noqa: S104


_arguments: st.SearchStrategy[tuple[str, ...]] = st.sampled_from(
    [("-no-reboot",), ("-vga", "none"), ("--display", "none"), ("-rtc", "base=utc,clock=vm")]
)


_memory = st.one_of(
    st.builds(MemoryBackend, prealloc=st.booleans(), share=st.booleans()),
    st.builds(MemoryBackend, kind=st.just("file"), folder=st.just("/dev/huge,pages")),
    st.builds(
        MemoryBackend, kind=st.just("memfd"), huge_page_size_mib=st.sampled_from([None, 2, 1024])
    ),
)
_migrations = st.builds(
    Migration,
    max_bandwidth_bytes_per_s=st.integers(0, 2**40),
    downtime_limit_ms=st.integers(0, 2000),
    multifd_channels=_maybe(st.integers(0, 255)),
)
_properties: st.SearchStrategy[dict[str, Property]] = st.dictionaries(
    st.sampled_from(["bootindex", "serial", "x.y-z_0"]),
    st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | printable,
    max_size=2,
)
_devices = st.builds(
    Device,
    driver=st.sampled_from(["usb-tablet", "VGA", "virtio-scsi-pci"]),
    properties=_properties,
)


def _machines() -> st.SearchStrategy[Machine]:
    return st.builds(
        Machine,
        memory_mib=st.integers(1, 2**9).map(lambda gib: gib * 1024),
        memory_backend=_maybe(_memory),
        vcpus=st.integers(1, 255),
        accelerator=st.sampled_from(["kvm", "tcg"]),
        machine_type=st.sampled_from(["pc", "q35", "pc-i440fx-7.2"]),
        cpu=_maybe(printable),
        devices=st.lists(_devices, max_size=2),
        channels=st.lists(st.builds(Channel, properties=_properties), max_size=2),
        cdroms=st.lists(
            st.builds(Cdrom, image=_maybe(printable.map("/iso/{}".format))), max_size=2
        ),
        firmware=_maybe(st.just(Firmware(code="/fd/code", variables="/fd/variables"))),
        kernel=st.just("/boot/vmlinuz"),
        initrd=_maybe(printable.map("/boot/{}".format)),
        append=_maybe(printable),
        serial_log=st.booleans(),
        arguments=st.lists(_arguments, max_size=2).map(lambda some: sum(some, ())),
    )


@st.composite
def _disks(draw: st.DrawFn, n: int, names: list[str]) -> ReplicationDisk:
    tail = draw(printable)
    image_format: ImageFormat = draw(st.sampled_from(["qcow2", "raw"]))
    driver: Driver = draw(st.sampled_from(["file", "host_device"]))
    nodes = {name: DiskOnNode(image=f"/dev/{name}/{n}{tail}") for name in names}
    if draw(st.booleans()):
        nodes = {name: DiskOnNode(remote=draw(_remotes(f"{name}{n}{tail}"))) for name in names}
    if driver == "file":
        nodes = draw(st.dictionaries(st.sampled_from(names), _elsewhere(n), max_size=2))
    direct = draw(st.booleans())
    own = attrs.evolve(DiskIds.numbered(n), quorum=f"disk.{n}", device=f"device_{n}")
    return ReplicationDisk(
        size_bytes=512 * draw(st.integers(1, 2**40)),
        image=f"image {n}{tail}" if driver == "file" else f"/dev/{n}{tail}",
        driver=driver,
        cache=draw(st.sampled_from(["none"] if direct else ["writeback", "unsafe"])),
        aio=draw(_maybe(st.sampled_from(["threads", "io_uring", *(["native"] * direct)]))),
        options={} if image_format == "raw" else draw(_qcow2_options),
        file_options=draw(st.sampled_from([{}, {"locking": "on"}])) if driver == "file" else {},
        discard=draw(st.sampled_from([None, "unmap"])),
        detect_zeroes=draw(st.sampled_from([None, "off", "on"])),
        throttle=draw(_maybe(_throttles)),
        resync_bytes_per_s=draw(_maybe(st.integers(2**20, 2**40))),
        nodes=nodes,
        image_format=image_format,
        backing=() if image_format == "raw" else draw(_backing),
        secret_file=None if image_format == "raw" else draw(_maybe(st.just(f"/keys/{n}{tail}"))),
        active_image=f"active,{n}{tail}",
        hidden_image=f"hidden'{n}{tail}",
        device=draw(st.sampled_from(["ide-hd", "virtio-blk-pci", "scsi-hd"])),
        ids=draw(_maybe(st.just(own))),
    )


_qcow2_options: st.SearchStrategy[dict[str, JsonValue]] = st.sampled_from(
    [{}, {"l2-cache-size": 2**20}, {"overlap-check": {"template": "all", "main-header": False}}]
)


def _remotes(name: str) -> st.SearchStrategy[Remote]:
    """An image of any kind of remote storage, which has this name alone."""
    monitors = st.lists(st.just(RbdMonitor(host="m", port=1)), max_size=2).map(tuple)
    return st.one_of(
        st.builds(Rbd, pool=st.just("p"), image=st.just(name), monitors=monitors),
        st.builds(Iscsi, portal=st.just("h"), target=st.just(name), lun=st.integers(0, 9)),
        st.builds(Nfs, host=st.just("h"), path=st.just(f"/{name}"), user=_maybe(st.just(0))),
        st.builds(Nbd, host=st.just("h"), export=st.just(name)),
    )


_backing = st.lists(
    st.sampled_from(("/base/a", "/base,b", "http://host/c", "https://[::1]:8443/d")),
    max_size=2,
    unique=True,
).map(lambda images: tuple(BackingImage(image=image) for image in images))
_throttles = st.builds(Throttle, iops_total=st.integers(1, 10**15), bps_read=st.just(1))


def _elsewhere(n: int) -> st.SearchStrategy[DiskOnNode]:
    return st.builds(
        DiskOnNode,
        hidden_image=st.sampled_from([None, f"elsewhere {n}"]),
        discard=st.sampled_from([None, "unmap"]),
    )


_options = st.dictionaries(
    st.sampled_from(["ifname", "script", "downscript", "hostfwd", "restrict"]),
    printable | st.lists(printable, min_size=1, max_size=3).map(tuple),
    max_size=3,
)
_netdevs = st.builds(Netdev, type=st.sampled_from(["tap", "user", "hubport"]), options=_options)


@st.composite
def _chains(draw: st.DrawFn, n: int, nodes: tuple[Node, ...]) -> FilterChain:
    small = _maybe(st.integers(1, 2**32 - 1))
    names = st.sampled_from([node.name for node in nodes])
    return FilterChain(
        netdev=draw(_netdevs),
        netdevs=draw(st.dictionaries(names, _netdevs, max_size=2)),
        model=draw(st.sampled_from(["rtl8139", "e1000", "virtio-net-pci"])),
        mac=draw(_maybe(st.just(f"52:54:00:12:34:{n:02x}"))),
        vnet_hdr=draw(_maybe(st.just(value=True))),
        compare_timeout_ms=draw(small),
        expired_scan_cycle_ms=draw(small),
        max_queue_size=draw(small),
        ids=draw(_maybe(st.just(attrs.evolve(ChainIds.numbered(n), compare=f"compare.{n}")))),
        ports=draw(_maybe(st.just(attrs.evolve(ChainPorts.numbered(n), mirror=20000 + n)))),
    )


_TLS: st.SearchStrategy[Tls | None] = st.sampled_from(
    [
        None,
        X509(folder="/etc/tls"),
        X509(folder="/etc/tls", authz=("O=a,CN=b", "CN=c")),
        Psk(folder="/etc/tls", username="colo"),
    ]
)


@st.composite
def pairs(draw: st.DrawFn) -> ColoPair:
    """Pairs of every kind that can be declared."""
    names = draw(st.lists(ids, min_size=2, max_size=4, unique=True))
    nodes = tuple(draw(_nodes(n, name)) for n, name in enumerate(names))
    return ColoPair(
        nodes=(nodes[0], nodes[1]),
        spares=nodes[2:],
        machine=draw(_machines()),
        disks=[draw(_disks(n, names)) for n in range(draw(st.integers(0, 3)))],
        chains=[draw(_chains(n, nodes)) for n in range(draw(st.integers(0, 3)))],
        name=draw(ids),
        checkpoint_delay_ms=draw(st.integers(1, 2**32 - 1)),
        ports=Ports(migration=draw(st.integers(30000, 30009)), nbd=draw(st.integers(30010, 30019))),
        timeouts=draw(st.builds(Timeouts, command_s=seconds, resync_s=seconds, failover_s=seconds)),
        migration=draw(_migrations),
        initial_sync=draw(st.sampled_from(["full", "identical"])),
        tls=draw(_TLS),
    )


# -- values by their annotations ---------------------------------------------------------------


def values(hint: object) -> st.SearchStrategy[object]:
    """The values of an annotation: scalars, literals, containers, unions and attrs classes."""
    simple = _SIMPLE.get(hint)
    if simple is not None:
        return simple
    if hint in (Condition, Command):
        return conditions if hint == Condition else commands
    return made(hint) if isinstance(hint, type) and attrs.has(hint) else _composed(hint)


def made(kind: type[T], **given: st.SearchStrategy[object]) -> st.SearchStrategy[T]:
    """The values of an attrs class; a field that has a default may take it."""
    hints: Mapping[str, object] = get_type_hints(kind)
    rest = {name: values(hint) for name, hint in hints.items() if name not in given}
    return st.fixed_dictionaries({**rest, **given}).map(lambda members: kind(**members))


def _composed(hint: object) -> st.SearchStrategy[object]:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (Union, types.UnionType):
        return st.one_of(*(values(arg) for arg in args))
    if origin is tuple:
        return st.lists(values(args[0]), min_size=1, max_size=2).map(tuple)
    if origin is frozenset:
        return st.frozensets(values(args[0]), max_size=2)
    return st.dictionaries(ids, values(args[1]), max_size=2)


_SIMPLE: dict[object, st.SearchStrategy[object]] = {
    str: printable,
    int: st.integers(1, 2**63),
    float: seconds,
    bool: st.booleans(),
    type(None): st.none(),
    Version: versions,
    Schema: st.from_regex("[0-9a-f]{64}", fullmatch=True).map(Schema.from_digest),
    Evidence: st.builds(
        Evidence,
        kind=st.sampled_from(["exit", "fence"]),
        node=ids,
        instance=ids,
        epoch=st.integers(1, 2**63),
        who=ids,
        how=ids,
        when=ids,
    ),
}


def _several(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    parts = st.lists(inner, min_size=1, max_size=2).map(tuple)
    return made(AllOf, conditions=parts) | made(AnyOf, conditions=parts)


conditions: st.SearchStrategy[object] = st.recursive(
    st.one_of(*(made(leaf) for leaf in get_args(Leaf))), _several, max_leaves=3
)
"""Conditions of every kind."""

snapshots: st.SearchStrategy[Snapshot] = made(
    Snapshot, nodes=st.dictionaries(ids, values(NodeState), max_size=3)
)
"""What can be known of nodes, likely or not."""


# -- plans -------------------------------------------------------------------------------------


_instances = ids.map(lambda name: YankChardev(id=name)) | ids.map(
    lambda name: YankBlockNode(node_name=name)
)
_yanks = _instances.map(lambda instance: (Yank(instances=(instance,)),))


_executes = made(Execute, rescue=st.just(()) | _yanks)
_steps: st.SearchStrategy[Step] = st.one_of(
    _executes, made(Wait), made(Check), made(RunHost), made(Record)
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans with every kind of step, likely or not: for whoever carries plans about."""
    pair = draw(pairs())
    addresses = draw(st.lists(printable, min_size=1, max_size=5, unique=True))
    nodes = st.sampled_from([node.name for node in (*pair.nodes, *pair.spares)])
    recovery = Recovery(
        first=addresses[0],
        last=addresses[-1],
        steps=(attrs.evolve(draw(_executes), address="recovery", node=draw(nodes)),),
        why=draw(printable),
    )
    return Plan(
        procedure=draw(st.sampled_from(get_args(Procedure))),
        pair=pair,
        qemu=draw(st.dictionaries(nodes, versions)),
        dialect=draw(st.sampled_from(["auto", "doc"])),
        prior_state=draw(snapshots),
        planned_state=draw(snapshots),
        steps=tuple(
            attrs.evolve(draw(_steps), address=address, node=draw(nodes)) for address in addresses
        ),
        restored_after=draw(_maybe(st.sampled_from(addresses))),
        recoveries=draw(st.sampled_from([(), (recovery,)])),
    )


@st.composite
def offline_plans(draw: st.DrawFn) -> Plan:
    """Plans as the compiler makes them, of any pair, procedure and version."""
    pair, version = draw(pairs()), draw(versions)
    procedure = draw(st.sampled_from([name for name in get_args(Procedure) if name != "converge"]))
    survivor = draw(st.sampled_from([node.name for node in pair.nodes]))
    compiled = functools.partial(
        compile_offline,
        procedure,
        version=version,
        survivor=survivor,
        checkpoint_delay_ms=7,
        gone=pair.nodes[1].name,
    )
    try:
        return compiled(pair=pair)
    except RefusedError:
        return compiled(pair=attrs.evolve(pair, machine=Machine(), migration=Migration()))


@st.composite
def reports(draw: st.DrawFn) -> Report:
    """Reports of plans, with every kind of outcome."""
    plan = draw(plans())
    return Report(
        plan=plan,
        outcomes={step.address: draw(_OUTCOMES) for step in plan.steps},
        recovery=draw(st.dictionaries(st.just("recovery"), _OUTCOMES)),
        after=draw(_maybe(snapshots)),
    )


_OUTCOMES: st.SearchStrategy[Outcome] = st.one_of(*(made(kind) for kind in get_args(Outcome)))

"""Dialect `doc`: the commands of QEMU's `docs/COLO-FT.txt`, in its order and unchanged.

The commands depend on which node is primary and whether it was a secondary before; parts that exist
already are not looked for. The dialect is for comparing and teaching, so a command is printed even
if this QEMU would refuse it. The checks, waits and records between the commands are pycolo's: the
document describes them in prose, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import attrs

from pycolo import topology
from pycolo.compiler._draft import Draft
from pycolo.compiler._options import (
    as_json,
    device_words,
    escaped,
    machine_options,
    monitor_options,
    netdev_option,
    object_json,
    processors_option,
    secret_option,
    throttling,
)
from pycolo.compiler.failover import claim_alone
from pycolo.compiler.launch import last_devices, screen
from pycolo.compiler.protect import join, widen
from pycolo.conditions import (
    AllOf,
    AnyOf,
    CheckpointSeen,
    ColoExited,
    ColoModeIs,
    Condition,
    JobFailed,
    JobIs,
    MigrationIs,
    RunStateIs,
)
from pycolo.model.disk import THROUGH, ReplicationDisk
from pycolo.model.filters import FilterChain
from pycolo.model.node import Node
from pycolo.model.pair import SERIAL_LOG, ColoPair
from pycolo.qmp._base import QmpValue
from pycolo.qmp.chardevs import InetSocketAddress, SocketClient, SocketServer
from pycolo.qmp.commands import (
    BlockJobCancel,
    ChardevAdd,
    ChardevRemove,
    DriveMirror,
    HumanMonitorCommand,
    Migrate,
    MigrateSetCapabilities,
    MigrateSetParameters,
    MigrationCapability,
    NbdServerAdd,
    NbdServerStart,
    NbdServerStop,
    ObjectAdd,
    ObjectDel,
    Stop,
    XBlockdevChange,
    XColoLostHeartbeat,
)
from pycolo.qmp.objects import FilterMirror, FilterRedirector, QomObject
from pycolo.qmp.states import MIGRATION_OVER

WHY_START = "document, Test procedure, step 3"
WHY_PRIMARY = "document, Test procedure, step 4"
WHY_RESUME = "document, resume replication"
WHY_FAILOVER = "document, Failover test"
LOOPBACK = "127.0.0.1"
JOB = "resync"


def start(draft: Draft, primary: str, secondary: str) -> None:
    """Emit steps 3 and 4 of QEMU's COLO document: the secondary's commands, then the primary's.

    Before them come the checks and the record steps with which the secondary joins.

    Raises:
        CompileError: The records do not let the secondary join.
    """
    join(draft, primary, secondary, alone=True)
    _prepare_secondary(draft, secondary)
    _attach(draft, primary, secondary, WHY_PRIMARY)
    _migrate(draft, primary, secondary, WHY_PRIMARY)


def resume(draft: Draft, primary: str, secondary: str) -> None:
    """Emit step 3 of QEMU's COLO document for the new secondary, then its resume for the survivor.

    Raises:
        CompileError: The records do not let the secondary join.
    """
    join(draft, primary, secondary, alone=True)
    _prepare_secondary(draft, secondary)
    peer = draft.pair.node(secondary)
    for disk in draft.pair.disks:
        target = f"nbd://{peer.address}:{draft.pair.ports.nbd}/{disk.names.parent}"
        mirror = DriveMirror(
            device=disk.names.quorum,
            job_id=_job(disk),
            target=target,
            mode="existing",
            format="raw",
            sync="full",
            speed=disk.resync_bytes_per_s,
        )
        draft.execute(primary, mirror, WHY_RESUME)
    jobs = [(d, JobIs(node=primary, job=_job(d), statuses=("ready",))) for d in draft.pair.disks]
    if jobs:
        draft.wait(
            primary,
            "mirrored",
            AllOf(conditions=tuple(ready for _, ready in jobs)),
            "document: wait until disk is synced",
            limit_s=draft.timeouts.resync_s,
            unless=AnyOf(conditions=tuple(JobFailed(node=primary, job=_job(d)) for d, _ in jobs)),
        )
    draft.execute(primary, Stop(), WHY_RESUME)
    for disk in draft.pair.disks:
        draft.execute(primary, BlockJobCancel(device=_job(disk)), WHY_RESUME)
    if jobs:
        # The document's job dismisses itself, so it is gone and not `concluded` when it ends.
        draft.wait(
            primary,
            "mirror-ended",
            AllOf(conditions=tuple(JobFailed(node=primary, job=_job(d)) for d, _ in jobs)),
            "the job is gone before its disk is used anew (qemu-behaviour 5.15)",
            limit_s=draft.timeouts.command_s,
        )
    _attach(draft, primary, secondary, WHY_RESUME)
    promoted = draft.live(primary).last_colo_mode == "secondary"
    for chain in draft.pair.chains:
        for item in _primary_objects(chain, promoted=promoted):
            draft.execute(primary, ObjectAdd(object=item), WHY_RESUME)
    _migrate(draft, primary, secondary, WHY_RESUME)


def fail_over(draft: Draft, survivor: str) -> None:
    """Emit the failover of QEMU's COLO document, for a secondary in COLO or else for a primary.

    Raises:
        CompileError: The records do not let the survivor run alone.
        UndecidedError: Only a person can decide whether the survivor may run alone.
    """
    claim_alone(draft, survivor)
    if draft.live(survivor).colo_mode == "secondary":
        _promote(draft, survivor)
    else:
        _run_alone(draft, survivor)


def set_delay(draft: Draft, primary: str, checkpoint_delay_ms: int) -> None:
    """Emit step 5 of QEMU's COLO document, which sets the checkpoint delay."""
    command = MigrateSetParameters(x_checkpoint_delay_ms=checkpoint_delay_ms)
    draft.execute(primary, command, "document, Test procedure, step 5")


def _prepare_secondary(draft: Draft, secondary: str) -> None:
    node = draft.pair.node(secondary)
    draft.execute(secondary, _x_colo(), WHY_START)
    address = InetSocketAddress(host=node.listen_address, port=draft.pair.ports.nbd)
    draft.execute(secondary, NbdServerStart(addr=address), WHY_START)
    for disk in draft.pair.disks:
        draft.execute(secondary, NbdServerAdd(device=disk.names.parent, writable=True), WHY_START)


def _x_colo() -> MigrateSetCapabilities:
    return MigrateSetCapabilities(
        capabilities=(MigrationCapability(capability="x-colo", state=True),)
    )


def _attach(draft: Draft, primary: str, secondary: str, why: str) -> None:
    peer = draft.pair.node(secondary)
    for disk in draft.pair.disks:
        ids = disk.names
        line = HumanMonitorCommand.drive_add(
            node_name=ids.primary_replication,
            host=peer.address,
            port=draft.pair.ports.nbd,
            export=ids.parent,
        )
        draft.execute(primary, line, why)
        command = XBlockdevChange(parent=ids.quorum, node=ids.primary_replication)
        draft.execute(primary, command, why)


def _migrate(draft: Draft, primary: str, secondary: str, why: str) -> None:
    draft.execute(primary, _x_colo(), why)
    peer = draft.pair.node(secondary)
    uri = f"tcp:{peer.address}:{draft.pair.ports.migration}"
    draft.execute(primary, Migrate(uri=uri), why)
    until: tuple[Condition, ...] = (
        MigrationIs(node=primary, statuses=("colo",)),
        ColoModeIs(node=primary, mode="primary"),
        ColoModeIs(node=secondary, mode="secondary"),
        RunStateIs(node=primary, states=("running",)),
        RunStateIs(node=secondary, states=("running",)),
    )
    unless = (MigrationIs(node=primary, statuses=MIGRATION_OVER), ColoExited(node=secondary))
    entered = draft.wait(
        primary,
        "protected",
        AllOf(conditions=until),
        "both guests run and both sides say so (qemu-behaviour 4.4)",
        limit_s=draft.timeouts.migration_s,
        unless=AnyOf(conditions=unless),
    )
    draft.restored(entered)
    seen = AllOf(
        conditions=tuple(CheckpointSeen(node=node, since=entered) for node in (primary, secondary))
    )
    draft.wait(
        primary,
        "checkpoint",
        seen,
        "the document forces none: the next one is the proof (qemu-behaviour 18.4)",
        limit_s=draft.timeouts.checkpoint_s,
        unless=AnyOf(conditions=tuple(ColoExited(node=node) for node in (primary, secondary))),
    )
    widen(draft, primary, secondary)


def _run_alone(draft: Draft, primary: str) -> None:
    for disk in draft.pair.disks:
        ids = disk.names
        command = XBlockdevChange(parent=ids.quorum, child=_peer_child(draft, primary, disk))
        draft.execute(primary, command, WHY_FAILOVER)
        line = HumanMonitorCommand.drive_del(ids.primary_replication)
        draft.execute(primary, line, WHY_FAILOVER)
    for chain in draft.pair.chains:
        ids_ = chain.names
        for item in (
            ids_.compare,
            ids_.iothread,
            ids_.filter_mirror,
            ids_.redirector_out,
            ids_.redirector_in,
        ):
            draft.execute(primary, ObjectDel(id=item), WHY_FAILOVER)
    draft.execute(primary, XColoLostHeartbeat(), WHY_FAILOVER)
    _restored(draft, primary)


def _peer_child(draft: Draft, primary: str, disk: ReplicationDisk) -> str:
    ids = disk.names
    for child in draft.live(primary).children.get(ids.quorum, ()):
        if child.node == ids.primary_replication:
            return child.name
    return "children.1"


def _promote(draft: Draft, secondary: str) -> None:
    draft.execute(secondary, NbdServerStop(), WHY_FAILOVER)
    draft.execute(secondary, XColoLostHeartbeat(), WHY_FAILOVER)
    _restored(draft, secondary)
    node = draft.pair.node(secondary)
    for chain in draft.pair.chains:
        ids = chain.names
        for item in (ids.redirector_to_primary, ids.redirector_from_primary):
            draft.execute(secondary, ObjectDel(id=item), WHY_FAILOVER)
        for chardev in (ids.red_out, ids.red_in):
            draft.execute(secondary, ChardevRemove(id=chardev), WHY_FAILOVER)
        for added in _primary_chardevs(node, chain):
            draft.execute(secondary, added, WHY_FAILOVER)


def _restored(draft: Draft, node: str) -> None:
    until = AllOf(
        conditions=(
            RunStateIs(node=node, states=("running",)),
            ColoModeIs(node=node, mode="none"),
        )
    )
    why = "the reply comes before the work is done (qemu-behaviour 8.2)"
    draft.restored(draft.wait(node, "restored", until, why, limit_s=draft.timeouts.failover_s))


def _primary_chardevs(node: Node, chain: FilterChain) -> Iterator[ChardevAdd]:
    ids, ports = chain.names, chain.proxy_ports
    listening = ((ids.mirror, ports.mirror), (ids.compare_in, ports.compare_in))
    for chardev, port in listening:
        addr = InetSocketAddress(host=node.listen_address, port=port)
        yield ChardevAdd(id=chardev, backend=SocketServer(addr=addr))
    loops = (
        (ids.compare_local, ids.compare_local_client, ports.compare_local),
        (ids.compare_out, ids.compare_out_client, ports.compare_out),
    )
    for server, client, port in loops:
        addr = InetSocketAddress(host=LOOPBACK, port=port)
        yield ChardevAdd(id=server, backend=SocketServer(addr=addr))
        yield ChardevAdd(id=client, backend=SocketClient(addr=addr))


def _primary_objects(chain: FilterChain, *, promoted: bool) -> Iterator[QomObject]:
    for item in topology.primary_objects(chain, promoted=promoted):
        if isinstance(item, FilterMirror | FilterRedirector):
            # The document's filters are on as soon as they are made.
            yield attrs.evolve(item, status=None)
        else:
            yield item


def _job(disk: ReplicationDisk) -> str:
    return JOB if disk.names.quorum == "colo-disk0" else f"{JOB}-{disk.names.quorum}"


def launch_argv(
    pair: ColoPair, node: str, role: Literal["primary", "secondary"], instance: str
) -> tuple[str, ...]:
    """A node's command line: step 1 of QEMU's COLO document for a primary, else step 2.

    A declared monitor replaces that document's `stdio`. `-name` has the QEMU's identity, where the
    document has the role, because records and evidence name that identity.

    Args:
        pair: The declaration.
        node: The node's name.
        role: The role in which the QEMU starts.
        instance: The identity that the QEMU gets.
    """
    place = pair.node(node)
    network = _primary_network if role == "primary" else _secondary_network
    storage = _primary_storage if role == "primary" else _secondary_storage
    return (
        place.qemu_binary,
        *_machine(pair, place, instance),
        *(word for chain in pair.chains for word in network(pair, place, chain)),
        *(word for disk in pair.disks for word in _secrets(place, disk)),
        *(word for disk in pair.disks for word in storage(place, disk)),
        *last_devices(pair, node, device_words),
        *pair.machine.arguments,
        *(("-S",) if role == "primary" else ("-incoming", _incoming(pair, place))),
    )


def _incoming(pair: ColoPair, node: Node) -> str:
    return f"tcp:{node.listen_address}:{pair.ports.migration}"


def _machine(pair: ColoPair, node: Node, instance: str) -> Iterator[str]:
    machine = pair.machine
    yield from ("-enable-kvm",) if machine.accelerator == "kvm" else ("-accel", machine.accelerator)
    for block in topology.machine_blocks(pair, node.name):
        yield from ("-blockdev", as_json(block.to_qmp()))
    is_plain = machine.machine_type == "pc" and machine.firmware is None
    if not is_plain or machine.memory_backend is not None:
        yield from machine_options(machine)
    if machine.cpu is not None:
        yield from ("-cpu", machine.cpu)
    yield from ("-m", str(machine.memory_mib), "-smp", processors_option(machine))
    monitors = [m for m in (node.control, node.observer) if m is not None]
    yield from monitor_options(monitors) if monitors else ("-qmp", "stdio")
    for option in ("kernel", "initrd", "append"):
        value: str | None = getattr(machine, option)
        if value is not None:
            yield from (f"-{option}", value)
    if machine.serial_log:
        yield from ("-serial", f"file:{node.run_path(SERIAL_LOG)}")
    yield from screen(node)
    for item in machine.objects:
        yield from ("-object", object_json(item))
    for device in topology.first_devices(machine):
        yield from ("-device", device_words(device))
    yield from ("-name", instance)


def _card(chain: FilterChain, node: Node) -> Iterator[str]:
    yield from ("-netdev", netdev_option(chain, node.name))
    yield from ("-device", device_words(topology.card_device(chain)))


def _vnet(chain: FilterChain) -> str:
    return ",vnet_hdr_support=on" if chain.vnet_hdr_support else ""


def _primary_network(pair: ColoPair, node: Node, chain: FilterChain) -> Iterator[str]:
    del pair
    ids, ports, vnet = chain.names, chain.proxy_ports, _vnet(chain)
    yield from _card(chain, node)
    listen = f"host={node.listen_address}"
    chardevs = (
        f"id={ids.mirror},{listen},port={ports.mirror},server=on,wait=off",
        f"id={ids.compare_in},{listen},port={ports.compare_in},server=on,wait=on",
        f"id={ids.compare_local},host={LOOPBACK},port={ports.compare_local},server=on,wait=off",
        f"id={ids.compare_local_client},host={LOOPBACK},port={ports.compare_local}",
        f"id={ids.compare_out},host={LOOPBACK},port={ports.compare_out},server=on,wait=off",
        f"id={ids.compare_out_client},host={LOOPBACK},port={ports.compare_out}",
    )
    for chardev in chardevs:
        yield from ("-chardev", f"socket,{chardev}")
    on = f"netdev={ids.netdev}"
    compare = f"primary_in={ids.compare_local_client},secondary_in={ids.compare_in}"
    out = f"outdev={ids.compare_out_client}"
    objects = (
        f"filter-mirror,id={ids.filter_mirror},{on},queue=tx,outdev={ids.mirror}{vnet}",
        f"filter-redirector,{on},id={ids.redirector_out},queue=rx,indev={ids.compare_out}{vnet}",
        f"filter-redirector,{on},id={ids.redirector_in},queue=rx,outdev={ids.compare_local}{vnet}",
        f"iothread,id={ids.iothread}",
        f"colo-compare,id={ids.compare},{compare},{out},iothread={ids.iothread}{vnet}",
    )
    for item in objects:
        yield from ("-object", item)


def _secondary_network(pair: ColoPair, node: Node, chain: FilterChain) -> Iterator[str]:
    ids, ports, vnet = chain.names, chain.proxy_ports, _vnet(chain)
    yield from _card(chain, node)
    primary = pair.peer_of(node.name).address
    for chardev, port in ((ids.red_in, ports.mirror), (ids.red_out, ports.compare_in)):
        yield from ("-chardev", f"socket,id={chardev},host={primary},port={port},reconnect-ms=1000")
    on = f"netdev={ids.netdev}"
    objects = (
        f"filter-redirector,id={ids.redirector_from_primary},{on},queue=tx,indev={ids.red_in}{vnet}",
        f"filter-redirector,id={ids.redirector_to_primary},{on},queue=rx,outdev={ids.red_out}{vnet}",
        f"filter-rewriter,id={ids.rewriter},{on},queue=all{vnet}",
    )
    for item in objects:
        yield from ("-object", item)


def _quorum(disk: ReplicationDisk) -> str:
    head = f"if=ide,id={disk.names.quorum},driver=quorum"
    through = ["cache.writeback=off"] if disk.cache in THROUGH else []
    return ",".join([head, "read-pattern=fifo", "vote-threshold=1", *through, *throttling(disk)])


def _primary_storage(node: Node, disk: ReplicationDisk) -> Iterator[str]:
    local = image_words(node, disk, "children.0.")
    yield from ("-drive", f"{_quorum(disk)},{local}")


def _secrets(node: Node, disk: ReplicationDisk) -> Iterator[str]:
    for secret in topology.secrets(node, disk):
        yield from ("-object", secret_option(secret))


def _encryption(node: Node, disk: ReplicationDisk) -> str:
    """The options that open both overlays of a disk if they are encrypted; else empty."""
    secret = topology.secret(node, disk)
    overlays = () if secret is None else ("file.encrypt", "file.backing.encrypt")
    return "".join(f",{o}.format=luks,{o}.key-secret={disk.names.secret}" for o in overlays)


def image_words(node: Node, disk: ReplicationDisk, prefix: str) -> str:
    """The options of a disk's image, the document's two first; QEMU's defaults are left out.

    Args:
        node: The node.
        disk: The disk.
        prefix: The words before each option, such as those of a quorum's child.
    """
    options = topology.image(node, disk).to_qmp()
    del options["node-name"]
    flat = dict(_flat(options, prefix))
    driver = f"{prefix}file.driver"
    if flat[driver] == "file":
        del flat[driver]
    place = f"{prefix}file.filename"
    first = (*((place,) if place in flat else ()), f"{prefix}driver")
    return ",".join(f"{key}={escaped(flat[key])}" for key in dict.fromkeys((*first, *flat)))


def _flat(options: dict[str, QmpValue], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in options.items():
        match value:
            case dict():
                yield from _flat(value, f"{prefix}{key}.")
            case list():
                yield from _flat({str(n): item for n, item in enumerate(value)}, f"{prefix}{key}.")
            case bool():
                yield prefix + key, "on" if value else "off"
            case _:
                yield prefix + key, str(value)


def _secondary_storage(node: Node, disk: ReplicationDisk) -> Iterator[str]:
    ids = disk.names
    paths = disk.paths(node)
    active, hidden = escaped(paths["active_image"]), escaped(paths["hidden_image"])
    parent = f"if=none,id={ids.parent},{image_words(node, disk, '')}"
    yield from ("-drive", parent)
    replication = (
        f"if=none,id={ids.replication},driver=replication,mode=secondary,file.driver=qcow2,"
        f"top-id={ids.quorum},file.file.filename={active},"
        f"file.backing.driver=qcow2,file.backing.file.filename={hidden},"
        f"file.backing.backing={ids.parent}{_encryption(node, disk)}"
    )
    yield from ("-drive", replication)
    yield from ("-drive", f"{_quorum(disk)},children.0={ids.replication}")

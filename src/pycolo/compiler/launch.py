"""`launch`: the command lines of both QEMUs, and the images that a secondary needs.

Only QEMU's own JSON forms and strings with doubled commas are used, so that no path can become an
option. The primary starts as an unprotected guest with its plain network. The parts that COLO needs
are added later, over QMP, by the same steps at the first start and at every resume.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Literal

import attrs

from pycolo import record, topology
from pycolo.compiler import _disks
from pycolo.compiler._draft import Draft
from pycolo.compiler._options import (
    as_json,
    chardev_option,
    device_json,
    machine_options,
    monitor_options,
    netdev_option,
    object_json,
    processors_option,
    secret_option,
    server_option,
    throttled_option,
    vnc_option,
)
from pycolo.conditions import NotRunning, PeerDead
from pycolo.errors import compile_error, undecided
from pycolo.evidence import Victim
from pycolo.features import Features
from pycolo.model.disk import ImageFormat, ReplicationDisk
from pycolo.model.hardware import FIRMWARE_IDS, Firmware, GuestDevice
from pycolo.model.node import Node
from pycolo.model.pair import SERIAL_LOG, ColoPair
from pycolo.plan import CheckDevices, CreateImage, LaunchQemu
from pycolo.qmp._base import QmpRecord
from pycolo.qmp.blockdevs import QuorumNode
from pycolo.qmp.replies import Version
from pycolo.qmp.schema import Schema
from pycolo.record import NOT_READ, PairRecord, UnreadRecord

Role = Literal["primary", "secondary"]
# Before its first domain libvirt probes the capabilities of QEMU (qemu-behaviour 21.1).
LIBVIRT_S = 60.0


def launch_node(
    draft: Draft, node: str, role: Role, *, instance: str, argv: tuple[str, ...], given: bool
) -> None:
    """Emit the steps that create a node's missing images and start its QEMU.

    An image that exists is left as it is. A primary's disks are never created; the firmware's
    variables are, for both roles. The caller must have emitted the step that makes this instance
    alone eligible in a primary's own record, which is not checked here: the host starts the QEMU
    only if the record is still the same then. The start of a secondary does not depend on its
    record.

    Args:
        draft: The plan so far.
        node: The node's name.
        role: The role in which the QEMU starts.
        instance: The identity of the QEMU.
        argv: The command line of the QEMU.
        given: Whether the operator provides the images that the secondary's disks begin with; then
            only the overlays and the firmware's variables are created. Without effect for a
            primary.
    """
    place = draft.pair.node(node)
    limit_s = draft.timeouts.command_s + _disks.opening_s(draft, node)
    for action, what in images(place, draft.pair.disks, role, given=given):
        why = "made once; a launch never overwrites it (qemu-behaviour 5.2)"
        draft.run_host(node, "create-image", what, action, why=why, limit_s=limit_s)
    if draft.pair.machine.firmware is not None:
        action = _variables(draft.pair, place, draft.pair.machine.firmware)
        why = "each node has its own; an entry into COLO makes them equal (qemu-behaviour 23.4)"
        draft.run_host(node, "create-image", FIRMWARE_IDS[1], action, why=why, limit_s=limit_s)
    own = draft.now.records.get(node)
    kept = own if role == "primary" and isinstance(own, PairRecord) else None
    started = LaunchQemu(role=role, instance=instance, argv=argv, record=kept)
    why = "both machines must be equal but for their role (qemu-behaviour 3.11)"
    if place.libvirt is not None:
        limit_s += LIBVIRT_S
        why += f"; a domain of {place.libvirt.uri} runs it"
    draft.run_host(node, "launch-qemu", role, started, why=why, limit_s=limit_s)


def check_not_running(draft: Draft, nodes: Iterable[str]) -> None:
    """Emit one check for each node, before any change, that no QEMU of the node is known to run.

    A QEMU may give no answer and still run the guest: another client uses its monitor, its main
    loop is stuck, or its sockets were removed. If a host is out of reach, the check passes.
    """
    why = "a QEMU that gives no answer may serve: it keeps its rights (qemu-behaviour 8.6)"
    with draft.batch("not-running"):
        for node in nodes:
            draft.check(node, "not-running", NotRunning(node=node), why)


def check_devices(draft: Draft, node: str) -> None:
    """Emit the check that a node's QEMU knows the guest's devices and their properties.

    Nothing is emitted if the declaration has no devices, CD-ROM drives, channels or properties.
    """
    devices = topology.checked_devices(draft.pair)
    if devices:
        action = CheckDevices(devices=devices)
        why = "a wrong name ends QEMU at its start, after the records were written"
        what = "properties"
        limit_s = draft.timeouts.command_s
        draft.run_host(node, "check-devices", what, action, why=why, limit_s=limit_s)


def check_options(draft: Draft, node: str, version: Version) -> None:
    """Refuse options of images that the node's QEMU does not have, if its schema is in the package.

    Without it, the preflight asks the QEMU of the node's host.

    Args:
        draft: The plan so far.
        node: The node's name.
        version: The version of its QEMU.

    Raises:
        CompileError: The QEMU does not accept an option.
    """
    schema = Schema.of_version(str(version))
    if schema is not None:
        for why in topology.refused_options(draft.pair, node, schema):
            raise compile_error("unknown-option", why, topology.OPTIONS_REMEDY, node=node)


def claim_boot(draft: Draft, node: str, instance: str, birth: str) -> None:
    """Emit the records that make a node the holder, before its QEMU is started.

    Args:
        draft: The plan so far.
        node: The node that becomes the holder.
        instance: The identity of the QEMU that is to be started on it.
        birth: The birth of the pair, for a pair that has no record yet.

    Raises:
        CompileError: Another node holds the newest data, or a file that must be written first is
            out of reach.
        UndecidedError: The records do not tell who holds the newest data.
    """
    pair = draft.pair
    others = record.may_boot(draft.now.records, node, pair.nodes[0].name)
    for other in others:
        why = f"{other} must lose its right to run alone before {node} is started (record, rule 6)"
        draft.record(other, "out", record.others_revoked(draft.now.records, node), why)
    why = f"{node} is started as the one with the newest data (record, rule 6)"
    booted = record.booted(draft.now.records, node, instance, birth, pair.name)
    draft.record(node, "sole", booted, why)


def claim_newest(draft: Draft, node: str, instance: str, birth: str) -> None:
    """Emit the records of a person's decision that a node holds the newest data.

    The record is written to every file within reach, the node's own file last.

    Args:
        draft: The plan so far.
        node: The node that becomes the holder.
        instance: The identity of its QEMU, which runs or is to be started.
        birth: The birth of the pair, for a pair that has no record yet.

    Raises:
        CompileError: Another node's QEMU answers, or the node's own file is out of reach.
    """
    pair, records = draft.pair, draft.now.records
    names = [other for other in pair.names if other != node]
    answering = [other for other in names if draft.now.live(other) is not None]
    if answering:
        why = f"--newest names {node}, and the QEMU of {', '.join(answering)} answers"
        advice = f"end the QEMU of {', '.join(answering)} if you do not need its data"
        raise compile_error("answers", why, advice, node=answering[0])
    accepted = record.accepted(records, node, instance, birth, pair.name)
    unread = [o for o in names if isinstance(records.get(o, NOT_READ), UnreadRecord)]
    for other in (other for other in names if other not in unread):
        why = f"the operator states that {node} holds the newest data, not {other}"
        draft.record(other, "out", accepted, why)
    left = f"; out of reach and not written: {', '.join(unread)}" if unread else ""
    why = f"the operator states that {node} holds the newest data{left}"
    draft.record(node, "sole", accepted, why)


def forget_node(draft: Draft, gone: str) -> None:
    """Emit the steps that remove a node from every record within reach.

    A record out of reach is left as it is.

    Args:
        draft: The plan so far.
        gone: The node, which will never come back.

    Raises:
        CompileError: The record of the node that holds the newest data, as another record says, is
            absent, damaged or out of reach. Repair that.
        UndecidedError: The node that is gone holds the newest data or may have run alone, or no
            record could be read. A person must decide.
    """
    records = draft.now.records
    top = record.highest(records)
    if top is None:
        why = "no record of this pair was found or could be read, so no node can be forgotten"
        raise undecided("unread-records", why, "make the records readable, and run forget again")
    if top.holder == gone:
        why = f"{gone} holds the newest data, by the latest record"
        raise undecided(
            "holder-forgotten",
            why,
            "to continue with older data, launch another node with --newest",
            node=gone,
        )
    _check_not_run_alone(draft, top, gone)
    becomes = record.forgotten(records, top.holder, gone)
    own = records[top.holder]
    assert isinstance(own, PairRecord)  # noqa: S101 - `forgotten` has looked
    victim = None
    if gone in own.eligible:
        victim = Victim(node=gone, instance=own.eligible[gone], epoch=own.epoch)
        evidence = PeerDead(node=gone, instance=victim.instance, epoch=victim.epoch)
        why = "a node that may still run alone is not gone (record, rule 1)"
        draft.check(top.holder, f"dead:{gone}", evidence, why)
    declared = draft.pair.names
    check_not_running(draft, [name for name in declared if name == gone])
    why = f"the operator states that {gone} is gone for good"
    draft.record(top.holder, "without", becomes, why, needs=victim)
    for node, state in records.items():
        if node not in (top.holder, gone) and isinstance(state, PairRecord):
            draft.record(node, "without", becomes, why)


def _check_not_run_alone(draft: Draft, top: PairRecord, gone: str) -> None:
    """Check that the node that is gone cannot have run alone before it ended.

    The node cannot have if the record does not name it as eligible, or if the holder's QEMU still
    answers. If the node's own file was read, that file says whether it did.

    Raises:
        UndecidedError: The node may have run alone, and then has writes that no other node has.
    """
    if gone not in top.eligible or isinstance(draft.now.records.get(gone), PairRecord):
        return
    live = draft.now.live(top.holder)
    if live is None or live.instance != top.eligible.get(top.holder):
        why = f"{gone} may have run alone without {top.holder} before it ended"
        advice = (
            f"bring its record back; if it is lost, launch {top.holder} with --newest {top.holder},"
            f" which gives up what {gone} may have written"
        )
        raise undecided("rival-unread", why, advice, node=gone)


def images(
    node: Node, disks: Collection[ReplicationDisk], role: Role, *, given: bool
) -> Iterator[tuple[CreateImage, str]]:
    """The images that `launch` creates for a node, each with its name in step addresses.

    For a primary there are none: its images hold the guest, and the operator provides them. For a
    secondary they are the overlays, and the image that the first copy fills, if it is a file.

    Args:
        node: The node.
        disks: The pair's disks.
        role: The role in which the node's QEMU starts.
        given: Whether the operator provides the secondary's images; then only the overlays are
            created.
    """
    if role == "primary":
        return
    for disk in disks:
        here, paths = disk.on(node.name), disk.paths(node)
        # pycolo creates files only; if a block device is missing, QEMU reports it.
        if not given and here.is_file:
            yield _create(node, here, paths["image"], here.image_format), disk.names.parent
        bare = attrs.evolve(here, backing=())
        yield _create(node, bare, paths["active_image"], "qcow2"), disk.names.active
        yield _create(node, bare, paths["hidden_image"], "qcow2"), disk.names.hidden


def _variables(pair: ColoPair, node: Node, firmware: Firmware) -> CreateImage:
    path = pair.firmware_path(node.name)
    convert = (node.qemu_img_binary, "convert", "-f", "raw", "-O", "raw")
    return CreateImage(
        path=path,
        image_format="raw",
        size_bytes=firmware.variables_bytes,
        argv=(*convert, firmware.variables, path),
    )


def _create(node: Node, disk: ReplicationDisk, path: str, image_format: ImageFormat) -> CreateImage:
    return CreateImage(
        path=path,
        image_format=image_format,
        size_bytes=disk.size_bytes,
        argv=(
            *(node.qemu_img_binary, "create", "-f", image_format),
            *_encryption(node, disk, image_format),
            *_backing(disk),
            *(path, _size(disk.size_bytes)),
        ),
    )


def _encryption(node: Node, disk: ReplicationDisk, image_format: ImageFormat) -> tuple[str, ...]:
    secret = topology.secret(node, disk)
    if secret is None:
        return ()
    key = f"key-secret={secret.id}"
    options = key if image_format == "luks" else f"encrypt.format=luks,encrypt.{key}"
    return ("--object", secret_option(secret), "-o", options)


def _backing(disk: ReplicationDisk) -> tuple[str, ...]:
    """The options by which an image's header names the first image of its declared chain."""
    if not disk.backing:
        return ()
    below = disk.backing[0]
    # Without -u the program opens the image below, which for a URL may take for ever.
    unopened = () if below.is_local else ("-u",)
    return (*unopened, "-b", below.image, "-F", below.image_format)


def _size(size_bytes: int) -> str:
    gib = 2**30
    return f"{size_bytes // gib}G" if size_bytes % gib == 0 else str(size_bytes)


def own_argv(
    pair: ColoPair, node: str, role: Role, instance: str, features: Features
) -> tuple[str, ...]:
    """The command line of a node's QEMU in dialect `auto`; see `launch_argv`."""
    place = pair.node(node)
    return (
        place.qemu_binary,
        *_machine(pair, place, instance),
        *monitor_options((place.control_monitor, place.observer_monitor)),
        *_credentials(pair, node),
        *_network(pair, place, role, features),
        *_storage(pair, place, role),
        *last_devices(pair, node),
        *(("-incoming", "defer") if role == "secondary" else ("-S",)),
        *pair.machine.arguments,
    )


def _machine(pair: ColoPair, node: Node, instance: str) -> Iterator[str]:
    machine = pair.machine
    yield from ("-name", f"guest={instance}")
    yield from ("-nodefaults", "-no-user-config", "-display", "none")
    for block in topology.machine_blocks(pair, node.name):
        yield from ("-blockdev", _json(block))
    ring = "" if machine.dirty_ring_size is None else f",dirty-ring-size={machine.dirty_ring_size}"
    yield from ("-accel", f"{machine.accelerator}{ring}")
    yield from machine_options(machine)
    if machine.cpu is not None:
        yield from ("-cpu", machine.cpu)
    yield from ("-m", str(machine.memory_mib), "-smp", processors_option(machine))
    for option in ("kernel", "initrd", "append"):
        value: str | None = getattr(machine, option)
        if value is not None:
            yield from (f"-{option}", value)
    if machine.serial_log:
        # QEMU takes everything after `file:` as the path, commas included.
        yield from ("-serial", f"file:{node.run_path(SERIAL_LOG)}")
    yield from screen(node)
    for item in machine.objects:
        yield from ("-object", object_json(item))
    yield from _devices(topology.first_devices(machine))


def screen(node: Node) -> Iterator[str]:
    """The arguments by which a node shows the guest's screen over VNC; none if it does not."""
    if node.vnc is None:
        return
    password = topology.password(node)
    if password is not None:
        yield from ("-object", _json(password))
    yield from ("-vnc", vnc_option(node, node.vnc))


def _devices(devices: Iterable[GuestDevice]) -> Iterator[str]:
    for device in devices:
        yield from ("-device", device_json(device))


def last_devices(
    pair: ColoPair, node: str, write: Callable[[GuestDevice], str] = device_json
) -> Iterator[str]:
    """The options of the devices that come after disks and cards, with their sockets.

    Args:
        pair: The declaration.
        node: The node's name.
        write: How a device is written.
    """
    for chardev in topology.channel_chardevs(pair, node):
        yield from ("-chardev", server_option(chardev))
    for device in topology.last_devices(pair.machine):
        yield from ("-device", write(device))


def _credentials(pair: ColoPair, node: str) -> Iterator[str]:
    for item in topology.tls_objects(pair.tls, node):
        yield from ("-object", _json(item))


def _network(pair: ColoPair, node: Node, role: Role, features: Features) -> Iterator[str]:
    for chain in pair.chains:
        yield from ("-netdev", netdev_option(chain, node.name))
        yield from _devices([topology.card_device(chain)])
        if role == "secondary":
            for chardev in topology.secondary_chardevs(pair, node.name, chain, features):
                yield from ("-chardev", chardev_option(chardev))
            for item in topology.secondary_objects(chain):
                yield from ("-object", _json(item))


def _storage(pair: ColoPair, node: Node, role: Role) -> Iterator[str]:
    for disk in pair.disks:
        blocks = topology.primary_blocks if role == "primary" else topology.secondary_blocks
        for item in topology.secrets(node, disk):
            yield from ("-object", _json(item))
        for block in blocks(node, disk):
            if isinstance(block, QuorumNode) and disk.throttle is not None:
                yield from ("-drive", throttled_option(disk, block))
            else:
                yield from ("-blockdev", _json(block))
        yield from _devices([topology.disk_device(disk)])


def _json(value: QmpRecord) -> str:
    return as_json(value.to_qmp())

"""The effect of each command on a fake, or the refusal in QEMU's words (qemu-behaviour 11)."""

from __future__ import annotations

from typing import Final, assert_never

import attrs

from pycolo.qmp import commands as qmp
from pycolo.qmp._base import QmpValue
from pycolo.qmp.blockdevs import NbdNode
from pycolo.qmp.chardevs import InetSocketAddress, SocketServer
from pycolo.qmp.objects import (
    ColoCompare,
    FilterMirror,
    FilterRedirector,
    FilterRewriter,
    QomObject,
    YankBlockNode,
    YankChardev,
    YankMigration,
)
from pycolo.testing import _chardevs, _colo, _jobs, _network
from pycolo.testing._answers import Question, answer, used_chardevs, yankable
from pycolo.testing._argv import LIMIT_NAMES
from pycolo.testing._process import DiskLink, Process, Refused, Stuck

_POWER_OFF_S: Final = 0.1


def perform(qemu: Process, command: qmp.Command) -> QmpValue:  # noqa: C901, PLR0915 - one line a command
    """Perform a command on a fake.

    Args:
        qemu: The fake.
        command: The command.

    Returns:
        The `return` member of the reply.

    Raises:
        Refused: QEMU would answer with an error, or fakes do not play the command; nothing was
            changed.
        Stuck: The main loop hangs in the command; call this again when it no longer hangs.
    """
    match command:
        case qmp.Migrate():
            _colo.migrate(qemu, command)
        case qmp.MigrateIncoming():
            _incoming(qemu, command)
        case qmp.MigrateContinue():
            _colo.continue_migration(qemu, command)
        case qmp.MigrateSetCapabilities():
            _colo.capabilities(qemu, command)
        case qmp.MigrateSetParameters():
            qemu.accept(command)
            if command.x_checkpoint_delay_ms is not None:
                _colo.force_checkpoint(qemu)
        case qmp.XColoLostHeartbeat():
            _colo.lost_heartbeat(qemu, command)
        case qmp.Stop():
            _stop(qemu)
        case qmp.Cont():
            _cont(qemu)
        case qmp.Quit():
            _quit(qemu)
        case qmp.SystemPowerdown():
            qemu.event("POWERDOWN")
            qemu.later(_POWER_OFF_S, lambda: _power_off(qemu))
        case qmp.Yank():
            _yank(qemu, command)
        case qmp.NbdServerStart() | qmp.NbdServerAdd() | qmp.NbdServerStop():
            _nbd_server(qemu, command)
        case qmp.BlockExportAdd() | qmp.BlockExportDel():
            _export(qemu, command)
        case qmp.BlockdevAdd():
            _blockdev_add(qemu, command)
        case qmp.BlockdevDel():
            _blockdev_del(qemu, command)
        case qmp.XBlockdevChange():
            _change(qemu, command)
        case qmp.BlockSetIoThrottle(id=device):
            if device not in qemu.line.drives:
                raise Refused(f"Device '{device}' not found", "DeviceNotFound")
            arguments = command.arguments()
            qemu.limits[device] = {name: int(str(arguments[name])) for name in LIMIT_NAMES.values()}
        case qmp.BlockdevMirror():
            _jobs.mirror(qemu, command)
        case qmp.BlockJobCancel():
            _jobs.cancel(qemu, command)
        case qmp.JobDismiss():
            _jobs.dismiss(qemu, command)
        case qmp.ObjectAdd():
            _object_add(qemu, command)
        case qmp.ObjectDel():
            if command.id not in qemu.live.objects:
                raise Refused(f"object '{command.id}' not found")
            qemu.accept(command)
        case qmp.QomSet():
            if command.path.removeprefix("/objects/") not in qemu.live.objects:
                raise Refused(f"Device '{command.path}' not found", "DeviceNotFound")
            qemu.accept(command)
        case qmp.ChardevAdd():
            _chardev_add(qemu, command)
            return {}
        case qmp.ChardevRemove():
            _chardev_remove(qemu, command)
        case qmp.HumanMonitorCommand():
            verb = command.command_line.partition(" ")[0]
            return f"{qemu.quirks.error_prefix}unknown command: '{verb}'\r\n"
        case qmp.DriveMirror():
            raise Refused(f"FakeQemu does not play {command.qmp_name}")
        case _:
            question: Question = command
            return answer(qemu, question)
    return {}


# -- the guest -------------------------------------------------------------------------------------


def _stop(qemu: Process) -> None:
    if qemu.live.run_state in ("running", "paused"):
        if qemu.live.run_state == "running":
            qemu.halt("paused")
            _jobs.pause(qemu)
        qemu.flush()


def _cont(qemu: Process) -> None:
    state = qemu.live.run_state
    if state == "finish-migrate":
        raise Refused("Migration is not finalized yet")
    if state == "colo" and not qemu.quirks.cont_in_checkpoint:
        raise Refused("COLO checkpoint in progress")
    if state != "inmigrate":
        qemu.resume_guest()


def _quit(qemu: Process) -> None:
    qemu.need(*qemu.disk_links.values())
    qemu.event("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
    for export in qemu.live.exports:
        qemu.event("BLOCK_EXPORT_DELETED", {"id": export})
    # QEMU sends the reply before it ends.
    qemu.later(0, lambda: _network.end(qemu, 0))


def _power_off(qemu: Process) -> None:
    """Have the guest react to its ACPI power button; a paused guest does nothing."""
    if qemu.live.run_state == "colo":
        qemu.later(_POWER_OFF_S, lambda: _power_off(qemu))
    elif qemu.runs:
        qemu.event("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})
        _network.end(qemu, 0)


# -- cutting connections ---------------------------------------------------------------------------


def _yank(qemu: Process, command: qmp.Yank) -> None:
    known = yankable(qemu)
    if any(instance.to_qmp() not in known for instance in command.instances):
        raise Refused("Instance not found", "DeviceNotFound")
    for instance in command.instances:
        match instance:
            case YankBlockNode(node_name=name):
                if name in qemu.disk_links:
                    qemu.disk_links[name].up = False
            case YankChardev(id=name):
                _chardevs.unplug(qemu, name)
            case YankMigration():
                if qemu.channel is not None:
                    qemu.channel.cut()
            case _:
                assert_never(instance)


# -- the secondary's side --------------------------------------------------------------------------


def _incoming(qemu: Process, command: qmp.MigrateIncoming) -> None:
    if not qemu.line.incoming:
        raise Refused("'-incoming' was not specified on the command line")
    if qemu.live.incoming or qemu.live.run_state != "inmigrate":
        raise Refused("The incoming migration has already been started")
    host, _, port = command.uri.removeprefix("tcp:").rpartition(":")
    _listen(qemu, "migration", host.strip("[]"), int(port))
    qemu.accept(command)
    qemu.tell_migration("setup")


def _nbd_server(
    qemu: Process, command: qmp.NbdServerStart | qmp.NbdServerAdd | qmp.NbdServerStop
) -> None:
    running = qemu.live.nbd_server
    match command:
        case qmp.NbdServerStart(addr=address):
            if running:
                raise Refused("NBD server already running")
            if isinstance(address, InetSocketAddress):
                _listen(qemu, "nbd", address.host, address.port)
            qemu.accept(command)
        case qmp.NbdServerStop():
            if not running:
                raise Refused("NBD server not running")
            exports = tuple(qemu.live.exports)
            qemu.accept(command)
            qemu.listens.pop("nbd", None)
            for export in exports:
                qemu.event("BLOCK_EXPORT_DELETED", {"id": export})
            _network.unserve(qemu, exports)
        case qmp.NbdServerAdd(device=device):
            if not running:
                raise Refused("NBD server not running")
            if device not in qemu.blocks:
                raise Refused(f"Cannot find device='{device}' nor node-name='{device}'")
            qemu.accept(command)
        case _:
            assert_never(command)


def _export(qemu: Process, command: qmp.BlockExportAdd | qmp.BlockExportDel) -> None:
    exports = qemu.live.exports
    match command:
        case qmp.BlockExportAdd(id=export, node_name=node):
            if export in exports:
                raise Refused(f"Block export id '{export}' is already in use")
            if node not in qemu.blocks:
                raise Refused(f"Cannot find device='' nor node-name='{node}'")
            if not qemu.live.nbd_server:
                raise Refused("NBD server not running")
            if node in exports.values():
                raise Refused(f"NBD server already has export named '{command.name or node}'")
        case qmp.BlockExportDel(id=export):
            if export not in exports:
                raise Refused(f"Export '{export}' is not found")
            qemu.event("BLOCK_EXPORT_DELETED", {"id": export})
            _network.unserve(qemu, (export,))
        case _:
            assert_never(command)
    qemu.accept(command)


def _listen(qemu: Process, what: str, host: str, port: int) -> None:
    if _network.taken(qemu, port):
        raise Refused("Failed to find an available port: Address already in use")
    qemu.listens[what] = (host, port)


# -- block nodes -----------------------------------------------------------------------------------


def _blockdev_add(qemu: Process, command: qmp.BlockdevAdd) -> None:
    node, name = command.node, command.node.node_name
    if name is None:
        raise Refused("'node-name' must be specified for the root node")
    if not isinstance(node, NbdNode) or not isinstance(node.server, InetSocketAddress):
        raise Refused(f"FakeQemu does not play blockdev-add of {type(node).__name__}")
    link = qemu.opening.get(name) or _connect(qemu, name, node, node.server)
    # The connection can be yanked from now on; that does not end the command (qemu-behaviour 5.19).
    qemu.opening[name] = link
    qemu.need(link)
    del qemu.opening[name]
    if not link.server.alive:
        why = "Unable to read from socket: Connection reset by peer"
        raise Refused(f"Failed to read initial magic: {why}")
    if node.export not in link.server.live.exports:
        raise Refused("Requested export not available")
    qemu.disk_links[name] = link
    qemu.blocks[name] = node
    qemu.accept(command)
    size = link.image.size_bytes
    qemu.live = attrs.evolve(qemu.live, sizes_bytes={**qemu.live.sizes_bytes, name: size})


def _connect(qemu: Process, name: str, node: NbdNode, address: InetSocketAddress) -> DiskLink:
    server = _network.listener(qemu, "nbd", address.host, address.port)
    if server is None:
        why = f"'{address.host}:{address.port}': Connection refused"
        raise Refused(f"Failed to connect to {why}")
    if name in qemu.blocks:
        raise Refused(f"Duplicate nodes with node-name='{name}'")
    return DiskLink(client=qemu, server=server, export=node.export or "")


def _blockdev_del(qemu: Process, command: qmp.BlockdevDel) -> None:
    name = command.node_name
    if name not in qemu.blocks:
        raise Refused(f"Failed to find node with node-name='{name}'")
    if qemu.is_child(name) or name in qemu.targets.values():
        raise Refused(f"Block device {name} is in use")
    if qemu.live.commit_pending and name in [
        block for children in qemu.live.children.values() for block in qemu.below(children[0].node)
    ]:
        why = "block device is in use by block job: commit"
        raise Refused(f"Node '{name}' is busy: {why}")
    link = qemu.disk_links.get(name)
    if link is not None:
        qemu.need(link)
        del qemu.disk_links[name]
    del qemu.blocks[name]
    qemu.accept(command)
    sizes = {block: size for block, size in qemu.live.sizes_bytes.items() if block != name}
    qemu.live = attrs.evolve(qemu.live, sizes_bytes=sizes)


def _change(qemu: Process, command: qmp.XBlockdevChange) -> None:
    children = qemu.live.children.get(command.parent)
    if children is None:
        raise Refused(f"Cannot find device='{command.parent}' nor node-name='{command.parent}'")
    if command.node is not None:
        if command.node not in qemu.blocks:
            raise Refused(f"Node '{command.node}' not found")
        if qemu.is_child(command.node):
            raise Refused(f"The node {command.node} already has a parent")
    else:
        taken = [child for child in children if child.name == command.child]
        if not taken:
            why = f"does not have child '{command.child}'"
            raise Refused(f"Node '{command.parent}' {why}")
        if len(children) == 1:
            why = "The number of children cannot be lower than the vote threshold 1"
            raise Refused(why)
        link = qemu.disk_links.get(taken[0].node)
        if link is not None and qemu.hangs_on(taken[0].node):
            # The command waits for the guest's write that hangs (qemu-behaviour 5.12).
            qemu.need(link)
    qemu.accept(command)


# -- objects and chardevs --------------------------------------------------------------------------


def _object_add(qemu: Process, command: qmp.ObjectAdd) -> None:
    item = command.object
    if item.id in qemu.live.objects:
        raise Refused(f"attempt to add duplicate property '{item.id}' to object (type 'container')")
    if isinstance(item, ColoCompare):
        _check_compare(qemu, item)
    else:
        _check_filter(qemu, item)
    qemu.accept(command)


def _check_compare(qemu: Process, item: ColoCompare) -> None:
    taken = _in_use(qemu)
    devices = used_chardevs(item)
    if any(device not in qemu.live.chardevs or device in taken for device in devices):
        # QEMU ends or hangs on such an object (qemu-behaviour 6.9).
        if not qemu.quirks.bad_compare_hangs:
            _network.end(qemu, -6)
        raise Stuck(())
    if item.iothread not in qemu.live.objects:
        raise Refused(f"Device '{item.iothread}' not found", "DeviceNotFound")


def _check_filter(qemu: Process, item: QomObject) -> None:
    if not isinstance(item, FilterMirror | FilterRedirector | FilterRewriter):
        return
    if item.netdev not in qemu.line.netdevs:
        raise Refused("Parameter 'netdev' expects a network backend id")
    before = (item.position or "").removeprefix("id=")
    if (item.position or "").startswith("id=") and before not in qemu.live.objects:
        raise Refused(f"filter '{before}' not found")
    taken = _in_use(qemu)
    for device in used_chardevs(item):
        if device not in qemu.live.chardevs:
            side = "" if isinstance(item, FilterMirror | FilterRewriter) else _side(item, device)
            raise Refused(f"{side}Device '{device}' not found", "DeviceNotFound")
        if device in taken:
            raise Refused(qemu.quirks.taken_twice.format(device))


def _side(item: FilterRedirector, device: str) -> str:
    return "IN " if item.indev == device else "OUT "


_DEVICES = ("indev", "outdev", "primary_in", "secondary_in")


def _in_use(qemu: Process) -> set[str]:
    return {
        item.settings[name]
        for item in qemu.live.objects.values()
        for name in _DEVICES
        if item.settings.get(name)
    }


def _chardev_add(qemu: Process, command: qmp.ChardevAdd) -> None:
    if command.id in qemu.live.chardevs:
        raise Refused(f"Chardev with id '{command.id}' already exists")
    backend = command.backend
    place = backend.addr
    if backend.tls_creds is not None and backend.tls_creds not in qemu.live.objects:
        why = f"No TLS credentials with id '{backend.tls_creds}'"
        raise Refused(f"Failed to add chardev '{command.id}': {why}")
    if isinstance(backend, SocketServer):
        if isinstance(place, InetSocketAddress) and _network.taken(qemu, place.port):
            why = "Failed to find an available port: Address already in use"
            raise Refused(f"Failed to add chardev '{command.id}': {why}")
    elif _chardevs.server_at(qemu, place) is None and not (
        backend.reconnect_ms or backend.reconnect_s
    ):
        at = f"{place.host}:{place.port}" if isinstance(place, InetSocketAddress) else place.path
        why = f"Failed to connect to '{at}': Connection refused"
        raise Refused(f"Failed to add chardev '{command.id}': {why}")
    qemu.accept(command)
    _chardevs.connected(qemu, command.id, now=False)
    _chardevs.add(qemu, command)


def _chardev_remove(qemu: Process, command: qmp.ChardevRemove) -> None:
    if command.id not in qemu.live.chardevs:
        raise Refused(f"Chardev '{command.id}' not found")
    if command.id in _in_use(qemu):
        raise Refused(f"Chardev '{command.id}' is busy")
    _chardevs.unplug(qemu, command.id)
    qemu.unnoticed.discard(command.id)
    del qemu.backends[command.id]
    qemu.accept(command)

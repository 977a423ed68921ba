"""The network between fakes: which QEMU listens where, and which peers see a connection end."""

from __future__ import annotations

from collections.abc import Iterable

from pycolo.qmp.chardevs import InetSocketAddress, SocketServer
from pycolo.testing import _chardevs
from pycolo.testing._process import Process


def listener(seeker: Process, what: str, host: str, port: int) -> Process | None:
    """Find the QEMU that listens at an address, even if it does not respond.

    Args:
        seeker: The QEMU that connects.
        what: The service: `migration` or `nbd`.
        host: The address.
        port: The TCP port.

    Returns:
        The QEMU; None if the connection would be refused.
    """
    for process in seeker.at(host):
        place = process.listens.get(what)
        if place is None or place[1] != port:
            continue
        if host in (process.node.address, place[0]):
            return process
    return None


def incoming_at(seeker: Process, uri: str) -> Process | None:
    """Find the QEMU that waits for a migration at a URI; one that had one takes no other (7.12)."""
    host, _, port = uri.removeprefix("tcp:").rpartition(":")
    found = listener(seeker, "migration", host.strip("[]"), int(port))
    if found is None or found.live.run_state != "inmigrate" or found.channel is not None:
        return None
    return found


def taken(qemu: Process, port: int) -> bool:
    """Whether a QEMU already listens on a port at the address of this QEMU's node."""
    here = [process for process in qemu.running if process.node.address == qemu.node.address]
    return any(port in _ports(process) for process in here)


def _ports(qemu: Process) -> list[int]:
    addresses = [b.addr for b in qemu.backends.values() if isinstance(b, SocketServer)]
    chardevs = [a.port for a in addresses if isinstance(a, InetSocketAddress)]
    return [*chardevs, *(port for _, port in qemu.listens.values())]


def unserve(server: Process, exports: Iterable[str]) -> None:
    """End the clients' connections to exports that were removed.

    Args:
        server: The QEMU that had the exports.
        exports: The names of the removed exports.
    """
    gone = set(exports)
    for process in server.running:
        for link in process.disk_links.values():
            if link.server is server and link.export in gone:
                link.up = False


def end(qemu: Process, code: int) -> None:
    """End a QEMU's process; its peers see their connections end.

    Args:
        qemu: The QEMU; nothing is done if it has ended already.
        code: The exit code; negative for a signal.
    """
    if not qemu.alive:
        return
    qemu.exit_code = code
    for monitor in qemu.monitors:
        monitor.hang_up()
    qemu.world.waiting.pop(qemu.settle, None)
    lost(qemu)
    qemu.world.settle()


def lost(dead: Process) -> None:
    """End the connections of a QEMU that has ended, except those that a network cut hides."""
    for name, wire in tuple(dead.wires.items()):
        peer = wire.client if wire.server is dead else wire.server
        if not dead.is_cut(peer):
            _chardevs.unplug(dead, name)
    for process in dead.running:
        for link in (*process.disk_links.values(), *process.opening.values()):
            if link.server is dead and not dead.is_cut(process):
                link.up = False
    channel = dead.channel
    if channel is not None and channel.up and channel.target is not None:
        peer = channel.target if channel.source is dead else channel.source
        if not dead.is_cut(peer):
            channel.cut()

"""The network between fakes: which QEMU listens where, and which notices that a peer is gone."""

from __future__ import annotations

from collections.abc import Iterable

from pycolo.qmp.chardevs import InetSocketAddress, SocketServer
from pycolo.testing import _chardevs
from pycolo.testing._process import Process


def listener(seeker: Process, what: str, host: str, port: int) -> Process | None:
    """The QEMU that listens there, also a silent one; None if a connection would be refused."""
    for process in seeker.at(host):
        place = process.listens.get(what)
        if place is None or place[1] != port:
            continue
        if host in (process.node.address, place[0]):
            return process
    return None


def incoming_at(seeker: Process, uri: str) -> Process | None:
    """The QEMU that waits for a migration there; one that had a migration takes no other (7.12)."""
    host, _, port = uri.removeprefix("tcp:").rpartition(":")
    found = listener(seeker, "migration", host.strip("[]"), int(port))
    if found is None or found.live.run_state != "inmigrate" or found.channel is not None:
        return None
    return found


def taken(qemu: Process, port: int) -> bool:
    """Whether somebody listens already where a node wants to."""
    here = [process for process in qemu.running if process.node.address == qemu.node.address]
    return any(port in _ports(process) for process in here)


def _ports(qemu: Process) -> list[int]:
    addresses = [b.addr for b in qemu.backends.values() if isinstance(b, SocketServer)]
    chardevs = [a.port for a in addresses if isinstance(a, InetSocketAddress)]
    return [*chardevs, *(port for _, port in qemu.listens.values())]


def unserve(server: Process, exports: Iterable[str]) -> None:
    """Exports are gone: their clients' connections end."""
    gone = set(exports)
    for process in server.running:
        for link in process.disk_links.values():
            if link.server is server and link.export in gone:
                link.up = False


def end(qemu: Process, code: int) -> None:
    """A process ends with an exit code; its peers see their connections end."""
    if not qemu.alive:
        return
    qemu.exit_code = code
    for monitor in qemu.monitors:
        monitor.hang_up()
    qemu.world.waiting.pop(qemu.settle, None)
    lost(qemu)
    qemu.world.settle()


def lost(dead: Process) -> None:
    """Tell the peers that the host of an ended QEMU can still reach."""
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

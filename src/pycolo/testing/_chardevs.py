"""Chardevs of fakes: client sockets connect to server sockets, and both show it."""

from __future__ import annotations

import attrs

from pycolo.qmp.chardevs import (
    ChardevBackend,
    SocketAddress,
    SocketClient,
    SocketServer,
    UnixSocketAddress,
)
from pycolo.qmp.commands import ChardevAdd
from pycolo.testing._process import Process, Wire


def add(qemu: Process, chardev: ChardevAdd) -> None:
    """Add a chardev to a fake; if it is a client, it begins to connect."""
    qemu.backends[chardev.id] = chardev.backend
    if isinstance(chardev.backend, SocketClient):
        _connect(qemu, chardev.id)


def _connect(qemu: Process, chardev: str) -> None:
    """Connect a client chardev to its server; if there is none, try again as `reconnect` says."""
    backend = qemu.backends.get(chardev)
    if not isinstance(backend, SocketClient) or chardev in qemu.wires:
        return
    found = server_at(qemu, backend.addr)
    if found is not None and not _both_encrypt(found[0].backends[found[1]], backend):
        found = None
    if found is not None:
        server, server_id = found
        wire = Wire(server=server, server_id=server_id, client=qemu, client_id=chardev)
        qemu.wires[chardev] = server.wires[server_id] = wire
        connected(server, server_id, now=True)
    connected(qemu, chardev, now=found is not None)
    if found is None:
        _connect_later(qemu, chardev, backend)


def _both_encrypt(server: ChardevBackend, client: ChardevBackend) -> bool:
    """Whether the two ends can connect: both use TLS, or neither does."""
    return (server.tls_creds is None) == (client.tls_creds is None)


def _connect_later(qemu: Process, chardev: str, client: SocketClient) -> None:
    again_s = (client.reconnect_ms or 0) / 1000 or client.reconnect_s
    if again_s:
        qemu.later(again_s, lambda: _connect(qemu, chardev))


def connected(qemu: Process, chardev: str, *, now: bool) -> None:
    """Set whether a chardev shows a peer.

    Args:
        qemu: The fake.
        chardev: The chardev's name.
        now: Whether it has a peer now.
    """
    if chardev in qemu.live.chardevs:
        changed = {**qemu.live.chardevs, chardev: now}
        qemu.live = attrs.evolve(qemu.live, chardevs=changed)


def unplug(qemu: Process, chardev: str) -> None:
    """End the connection of a chardev; a client with a reconnect delay connects again later."""
    wire = qemu.wires.pop(chardev, None)
    if chardev in qemu.unnoticed:
        qemu.unnoticed.discard(chardev)
        connected(qemu, chardev, now=False)
    if wire is None:
        return
    for end, name in ((wire.server, wire.server_id), (wire.client, wire.client_id)):
        end.wires.pop(name, None)
        if end is not qemu and _only_writes(end, name):
            # A chardev that only writes does not notice that its peer is gone.
            end.unnoticed.add(name)
        else:
            connected(end, name, now=False)
    backend = wire.client.backends.get(wire.client_id)
    if isinstance(backend, SocketClient):
        _connect_later(wire.client, wire.client_id, backend)


def _only_writes(qemu: Process, chardev: str) -> bool:
    """Whether an object writes to a chardev and none reads from it."""
    used = [n for o in qemu.live.objects.values() for n, v in o.settings.items() if v == chardev]
    return bool(used) and set(used) == {"outdev"}


def server_at(seeker: Process, place: SocketAddress) -> tuple[Process, str] | None:
    """Find the server chardev at an address that has no client yet.

    Args:
        seeker: The fake that connects.
        place: The address that it connects to.

    Returns:
        The fake and the name of its chardev; None if there is none.
    """
    far = [] if isinstance(place, UnixSocketAddress) else seeker.at(place.host)
    for process in far or [seeker]:
        if process is not seeker and not seeker.talks(process):
            continue
        for name, backend in process.backends.items():
            if (
                isinstance(backend, SocketServer)
                and name not in process.wires
                and name not in process.unnoticed
                and _reaches(process, backend.addr, seeker, place)
            ):
                return process, name
    return None


def _reaches(
    server: Process, listens: SocketAddress, seeker: Process, place: SocketAddress
) -> bool:
    if isinstance(listens, UnixSocketAddress) or isinstance(place, UnixSocketAddress):
        return server is seeker and listens == place
    return listens.port == place.port and place.host in (server.node.address, listens.host)

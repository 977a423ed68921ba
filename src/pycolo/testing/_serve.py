"""Sockets in front of a fake's monitors."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import final

from typing_extensions import override

from pycolo.model.node import UnixMonitor
from pycolo.testing._monitor import Client, Monitor


@final
class _Connection(asyncio.Protocol):
    """One client's socket."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._client: Client | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - sockets have no other
        self._client = Client(transport.write, transport.close)
        self._monitor.join(self._client)

    @override
    def data_received(self, data: bytes) -> None:
        if self._client is not None:
            self._monitor.receive(self._client, data)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._client is not None:
            self._monitor.leave(self._client)


async def connect(monitor: Monitor) -> socket.socket:
    """Open a connection to a monitor without an address, and return the client's socket."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(0)
    ours.settimeout(0)
    loop = asyncio.get_running_loop()
    try:
        await loop.connect_accepted_socket(lambda: _Connection(monitor), theirs)
    except BaseException:
        # Cancelled before the caller got the socket.
        ours.close()
        raise
    return ours


async def listen(monitor: Monitor) -> asyncio.Server:
    """Accept connections to a monitor at the address that its command line gives."""
    loop = asyncio.get_running_loop()
    place = monitor.place
    if isinstance(place, UnixMonitor):
        if sys.version_info >= (3, 13):
            # Keep the socket file at the end, as a QEMU that is killed does.
            return await loop.create_unix_server(
                lambda: _Connection(monitor), place.path, cleanup_socket=False
            )
        return await loop.create_unix_server(lambda: _Connection(monitor), place.path)
    return await loop.create_server(lambda: _Connection(monitor), place.host, place.port)

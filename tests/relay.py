"""A stretch of network that can stop responding: it takes connections, and nothing comes through.

Each `Relay` stands at one address and port and passes on to another address. While it is silent it
still accepts, as a server does whose process is stopped or whose network was cut behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import final

CHUNK_BYTES = 1 << 16


@final
class Relay:
    """One port of one address."""

    def __init__(self, host: str, port: int, to: str) -> None:
        self.host = host
        self.port = port
        self._to = to
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._ends: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def hold_back(self) -> None:
        """Pass nothing on any more, in neither direction."""
        self._speaks.clear()

    def speak(self) -> None:
        """Pass on what comes, and what came meanwhile."""
        self._speaks.set()

    async def serve(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        """Pass on what is said over one connection."""
        serving = asyncio.current_task()
        assert serving is not None
        self._ends[serving] = to_near
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._serve(near, to_near)
        to_near.close()
        del self._ends[serving]

    async def _serve(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        await self._speaks.wait()
        far, to_far = await asyncio.open_connection(self._to, self.port)
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pass(near, to_far))
                ways.create_task(self._pass(far, to_near))
        except* OSError:
            pass
        finally:
            to_far.close()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(CHUNK_BYTES):
            await self._speaks.wait()
            sink.write(data)
            await sink.drain()
        await self._speaks.wait()
        sink.close()

    async def aclose(self) -> None:
        """End what is still connected."""
        for serving in self._ends:
            serving.cancel()
        if self._ends:
            await asyncio.wait(tuple(self._ends))


@asynccontextmanager
async def relays(host: str, ports: Iterable[int], to: str) -> AsyncGenerator[tuple[Relay, ...]]:
    """Stand at some ports of an address for another address.

    Args:
        host: Where others connect.
        ports: At which ports.
        to: Whose listeners they reach, at the same ports.
    """
    async with AsyncExitStack() as stack:
        made = []
        for port in ports:
            relay = Relay(host, port, to)
            server = await asyncio.start_server(relay.serve, host, port)
            stack.push_async_callback(relay.aclose)
            stack.callback(server.close)
            made.append(relay)
        yield tuple(made)

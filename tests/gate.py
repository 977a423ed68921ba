"""An HTTP server between an arbiter and etcd: it answers by itself, passes on, or holds up."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias, final

import aiohttp
from aiohttp import web
from tests.certificates import Signed

Answer: TypeAlias = "web.StreamResponse | None"
"""An answer; None for that of the server behind."""


@final
class Gate:
    """One such server."""

    def __init__(self, behind: str, session: aiohttp.ClientSession) -> None:
        self.url = ""
        self.asked: list[tuple[str, dict[str, object]]] = []
        "What it was asked: the paths, and the requests as JSON."
        self.headers: list[str] = []
        "The authorization that came with each of them."
        self.answer: Callable[[str], Answer] = lambda _: None
        "What it answers to a path."
        self._behind = behind
        self._session = session
        self._held = ""
        self._released = asyncio.Event()
        self._passed: list[asyncio.Task[tuple[int, bytes]]] = []

    def hold(self, path: str) -> None:
        """Keep what is asked at a path from being passed on, and its answer with it."""
        self._held = path

    async def release(self) -> None:
        """Pass on what was held up, and wait until it was answered."""
        self._released.set()
        await asyncio.gather(*self._passed)

    def give_up(self) -> None:
        """Leave what is held up where it is."""
        for task in self._passed:
            task.cancel()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        data = await request.read()
        self.asked.append((request.path, json.loads(data)))
        self.headers.append(request.headers.get("Authorization", ""))
        answer = self.answer(request.path)
        if answer is not None:
            return answer
        # It is passed on also when whoever asked has hung up.
        task = asyncio.create_task(self._pass(request.path, data))
        self._passed.append(task)
        status, body = await asyncio.shield(task)
        return web.Response(status=status, body=body)

    async def _pass(self, path: str, data: bytes) -> tuple[int, bytes]:
        if path == self._held:
            await self._released.wait()
        async with self._session.post(self._behind + path, data=data) as answer:
            return answer.status, await answer.read()


@asynccontextmanager
async def gate(behind: str = "", tls: Signed | None = None) -> AsyncGenerator[Gate]:
    """Serve on loopback until the context is left.

    Args:
        behind: The server to which it passes on what it does not answer.
        tls: Its certificate, good for 127.0.0.1; plain HTTP if None.
    """
    context = None
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls.cert, tls.key)
    async with aiohttp.ClientSession() as session:
        server = Gate(behind, session)
        app = web.Application()
        app.router.add_post("/{path:.*}", server.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
            await site.start()
            host, port = runner.addresses[0][:2]
            server.url = f"{'https' if tls else 'http'}://{host}:{port}"
            yield server
        finally:
            server.give_up()
            await runner.cleanup()

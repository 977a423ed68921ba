"""The HTTP server: each answer is made from the state of the supervisor at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final, final
from urllib.parse import urlsplit

from aiohttp import web

from pycolo import _json
from pycolo._json import JsonObject
from pycolo.model.node import is_loopback
from pycolo.supervise.endpoint import HttpEndpoint
from pycolo.supervise.http import _health, _metrics, _page
from pycolo.supervise.supervisor import Keeping

_END_S: Final = 1.0
"How long answers that are under way may take when the server ends, in seconds."
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _page.POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@asynccontextmanager
async def served(supervisor: Keeping, endpoint: HttpEndpoint) -> AsyncGenerator[str]:
    """Serve a supervisor's pages until the block is left.

    Args:
        supervisor: The supervisor or agent whose pairs are shown. It may be entered after this
            block was entered, and left before the block is left.
        endpoint: The address to listen at.

    Yields:
        The URL of the status page.

    Raises:
        OSError: The address cannot be listened at; nothing is served.
    """
    app = web.Application(middlewares=[_guarded])
    pages = _Pages(supervisor)
    app.add_routes(
        [
            web.get("/", pages.page),
            web.get("/pairs", pages.pairs),
            web.get("/health", pages.health),
            web.get("/health/live", pages.live),
            web.get("/metrics", pages.metrics),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_END_S)
    try:
        await runner.setup()
        await web.TCPSite(runner, endpoint.host, endpoint.port).start()
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        port: int = runner.addresses[0][1]
        yield f"http://{host}:{port}/"
    finally:
        await runner.cleanup()


@final
class _Pages:
    def __init__(self, supervisor: Keeping) -> None:
        self._supervisor = supervisor
        self._turn = asyncio.Lock()

    async def page(self, _: web.Request) -> web.Response:
        when = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        text = _page.page(self._supervisor.statuses, when)
        return web.Response(text=text, content_type="text/html", charset="utf-8")

    async def pairs(self, _: web.Request) -> web.Response:
        return _answer(_health.pairs_to_json(self._supervisor.statuses))

    async def health(self, _: web.Request) -> web.Response:
        found = _health.health_to_json(self._supervisor.statuses)
        status = HTTPStatus.OK if found["healthy"] else HTTPStatus.SERVICE_UNAVAILABLE
        return _answer(found, status)

    async def live(self, _: web.Request) -> web.Response:
        return _answer({"format_version": 1, "live": True})

    async def metrics(self, _: web.Request) -> web.Response:
        async with self._turn:
            supervisor = self._supervisor
            # In a thread, so that no failover has to wait for it.
            body = await asyncio.to_thread(
                _metrics.exposition, supervisor.statuses, supervisor.measures
            )
        return web.Response(body=body, headers={"Content-Type": _metrics.CONTENT_TYPE})


def _answer(value: JsonObject, status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    text = _json.dumps(value) + "\n"
    return web.Response(status=status, text=text, content_type="application/json")


@web.middleware
async def _guarded(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer only a request whose Host header names a loopback address.

    This prevents DNS rebinding: a foreign page in a browser on this machine could send requests
    here under a host name of its own, which it has let point to a loopback address.
    """
    if not _is_own(request.headers.get("Host", "")):
        raise web.HTTPMisdirectedRequest(text="ask for a loopback address\n", headers=_HEADERS)
    response = await handler(request)
    response.headers.update(_HEADERS)
    return response


def _is_own(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False

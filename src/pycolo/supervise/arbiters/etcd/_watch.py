"""A watch over the keys of one pair: it reports a change soon, but its silence shows nothing.

A member that is stopped, or cut off from the others, sends nothing to the clients that watch there.
So a client that watches also reads the keys again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Self, final

import aiohttp

from pycolo import _decode
from pycolo._json import JsonObject, array_at, object_at
from pycolo.errors import ParseError
from pycolo.supervise.arbiters.etcd._gateway import Gateway, NoAnswer
from pycolo.supervise.arbiters.etcd._keys import Keys, View, decoded

_PATH: Final = "/v3/watch"
_PAUSE_S: Final = 0.1
"How long to wait before a watch is opened again, in seconds."


@final
class Watching:
    """A watch at the endpoint that answers. An async context manager, which closes it."""

    def __init__(self, gateway: Gateway, keys: Keys) -> None:
        self._gateway = gateway
        self._keys = keys
        self._endpoint = ""
        self._response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()

    async def news(self, view: View, *, until_s: float) -> bool:
        """Wait until a key was changed, other than by the renewal of a lease.

        Args:
            view: What was read last.
            until_s: Until when to wait at most, by the event loop's clock.

        Returns:
            Whether a key was changed; False also if that is not known.
        """
        if self._endpoint != self._gateway.endpoint:
            # The view came from another endpoint: the one of this watch does not answer.
            self._close()
        try:
            async with asyncio.timeout_at(until_s):
                try:
                    response = self._response or await self._opened(view, until_s)
                    while not self._is_news(view, await self._line(response)):
                        pass
                except NoAnswer:
                    self._close()
                    self._gateway.avoid(self._endpoint)
                    await asyncio.sleep(_PAUSE_S)
                else:
                    return True
        except TimeoutError:
            pass
        # The caller reads the keys again, and sees a change that the watch did not report.
        return False

    async def _opened(self, view: View, until_s: float) -> aiohttp.ClientResponse:
        request: JsonObject = {**self._keys.all, "start_revision": str(view.revision + 1)}
        self._endpoint, self._response = await self._gateway.open(
            _PATH, {"create_request": request}, end_s=until_s
        )
        return self._response

    def _close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    async def _line(self, response: aiohttp.ClientResponse) -> Mapping[str, object]:
        try:
            line = await response.content.readline()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NoAnswer(f"{self._endpoint}: the watch has ended: {error}") from error
        try:
            result = object_at(_decode.json_value(line), "").get("result")
            answer = object_at(result, "result")
        except ParseError as error:
            raise NoAnswer(f"{self._endpoint}: the watch has ended: {error}") from error
        if answer.get("canceled"):
            why = answer.get("cancel_reason", "no reason given")
            raise NoAnswer(f"{self._endpoint}: the watch was cancelled: {why}")
        return answer

    def _is_news(self, view: View, answer: Mapping[str, object]) -> bool:
        events = array_at(answer.get("events", []), "events")
        return any(not self._is_renewal(view, event, path) for path, event in events)

    def _is_renewal(self, view: View, event: object, path: str) -> bool:
        members = object_at(event, path)
        folder, node = self._keys.parts(decoded(object_at(members.get("kv"), path), "key", path))
        # An event that puts a key has no type.
        return folder == "leases" and node in view.held.leases and "type" not in members

"""A stream of items for any number of listeners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final, Generic, TypeVar, final

_T = TypeVar("_T")
_KEPT: Final = 1000


@final
class Stream(Generic[_T]):
    """Gives each item to every listener."""

    def __init__(self) -> None:
        self._listeners: dict[object, asyncio.Queue[_T]] = {}

    def tell(self, item: _T) -> None:
        """Give an item to every listener; one that has not read a thousand loses the oldest."""
        for queue in self._listeners.values():
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(item)

    async def listen(self) -> AsyncGenerator[_T]:
        """Yield each item that is given from the first read on, until the generator is closed."""
        queue: asyncio.Queue[_T] = asyncio.Queue(_KEPT)
        key = object()
        self._listeners[key] = queue
        try:
            while True:
                yield await queue.get()
        finally:
            del self._listeners[key]

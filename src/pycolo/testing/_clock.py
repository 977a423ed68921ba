"""An event loop whose time is a world's: it passes fast while nobody has anything to do."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from typing_extensions import override

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

    from pycolo.testing.world import World


_ROUND_S = 0.0001


@final
class _Selector(selectors.BaseSelector):
    """Looks for input that is there; where there is none, lets the world's time pass instead."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._real = selectors.DefaultSelector()

    @override
    def register(
        self, fileobj: FileDescriptorLike, events: int, data: object = None
    ) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    @override
    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    @override
    def modify(
        self, fileobj: FileDescriptorLike, events: int, data: object = None
    ) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = self._real.select(0)
        if found or (timeout is not None and timeout <= 0):
            # Whoever asks again and again must see time pass, too.
            self._world.advance(_ROUND_S)
            return found
        due_s = self._world.next_s
        if timeout is None and due_s is None:
            # Only another thread can continue from here.
            return self._real.select(None)
        now_s = self._world.now_s
        ends = [end for end in (due_s, None if timeout is None else now_s + timeout) if end]
        self._world.advance(max(min(ends) - now_s, 0.0))
        return self._real.select(0)

    @override
    def close(self) -> None:
        self._real.close()

    @override
    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._real.get_map()


@final
class WorldLoop(asyncio.SelectorEventLoop):
    """The event loop of `World.run`."""

    def __init__(self, world: World) -> None:
        """Take the world's clock for its own."""
        self._clock_world = world
        super().__init__(_Selector(world))

    @override
    def time(self) -> float:
        return self._clock_world.now_s

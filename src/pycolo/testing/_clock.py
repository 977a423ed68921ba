"""A world's time, and an event loop that goes by it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import selectors
from collections.abc import Callable, Iterator
from typing import final

import attrs
from typing_extensions import override

_ROUND_S = 0.0001


@attrs.define(eq=False, repr=False)
class Clock:
    """Time that stops unless it is advanced, and what happens when it passes."""

    now_s: float = attrs.field(default=0.0, init=False)
    "The world's clock, in seconds since it was made."
    waiting: dict[Callable[[], bool], None] = attrs.field(factory=dict, init=False)
    "What resumes each main loop that waits, in the order in which they began to: see `settle`."
    _agenda: list[tuple[float, int, Callable[[], None]]] = attrs.field(factory=list, init=False)
    _order: Iterator[int] = attrs.field(factory=itertools.count, init=False)

    def advance(self, seconds: float) -> None:
        """Let time pass, and what is due in it happen.

        Args:
            seconds: How long, 0 or more.
        """
        end = self.now_s + seconds
        while self._agenda and self._agenda[0][0] <= end:
            due_s, _, action = heapq.heappop(self._agenda)
            self.now_s = max(self.now_s, due_s)
            action()
            self.settle()
        self.now_s = end

    @property
    def next_s(self) -> float | None:
        """When the next thing is due, by the world's clock; None if nothing ever is."""
        return self._agenda[0][0] if self._agenda else None

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Have something happen when time has passed.

        Args:
            delay_s: How long from now, 0 or more.
            action: What happens.
        """
        heapq.heappush(self._agenda, (self.now_s + delay_s, next(self._order), action))

    def settle(self) -> None:
        """Resume each main loop that waited for something that is over, until none is left."""
        # One that is resumed may free another, before or after it in the list.
        while [tries for tries in tuple(self.waiting) if tries()]:
            pass


@final
class _Selector(selectors.DefaultSelector):
    """Looks for input that is there; if there is none, lets the clock's time pass instead."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if found or (timeout is not None and timeout <= 0):
            # Whoever asks again and again must see time pass, too.
            self._clock.advance(_ROUND_S)
            return found
        due_s = self._clock.next_s
        if timeout is None and due_s is None:
            # Only another thread can continue from here.
            return super().select(None)
        now_s = self._clock.now_s
        ends = [end for end in (due_s, None if timeout is None else now_s + timeout) if end]
        self._clock.advance(max(min(ends) - now_s, 0.0))
        return super().select(0)


@final
class ClockLoop(asyncio.SelectorEventLoop):
    """The event loop of `World.run`: time passes fast while nobody has anything to do."""

    def __init__(self, clock: Clock) -> None:
        """Take a world's clock for its own."""
        self._world_clock = clock
        super().__init__(_Selector(clock))

    @override
    def time(self) -> float:
        return self._world_clock.now_s

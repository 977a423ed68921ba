"""The clock of a world, and an event loop that uses this clock."""

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
    """A clock that moves only when it is advanced, and the actions that are due at a time."""

    now_s: float = attrs.field(default=0.0, init=False)
    "The time in seconds since the world was made."
    waiting: dict[Callable[[], bool], None] = attrs.field(factory=dict, init=False)
    "The functions that try to resume each waiting main loop, the longest wait first."
    _agenda: list[tuple[float, int, Callable[[], None]]] = attrs.field(factory=list, init=False)
    _order: Iterator[int] = attrs.field(factory=itertools.count, init=False)

    def advance(self, seconds: float) -> None:
        """Advance the clock, and perform the actions that become due.

        Args:
            seconds: By how much, 0 or more.
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
        """The time at which the next action is due; None if there is none."""
        return self._agenda[0][0] if self._agenda else None

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Schedule an action.

        Args:
            delay_s: How long from now, in seconds of this clock, 0 or more.
            action: The function that is called then.
        """
        heapq.heappush(self._agenda, (self.now_s + delay_s, next(self._order), action))

    def settle(self) -> None:
        """Resume every waiting main loop that can continue, until none of them can."""
        # A main loop that resumes may free another one, before or after it in the list.
        while [tries for tries in tuple(self.waiting) if tries()]:
            pass


@final
class _Selector(selectors.DefaultSelector):
    """A selector that, if no input is there, advances the clock instead of waiting."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if found or (timeout is not None and timeout <= 0):
            # Advance a little here too, or a task that polls would poll for ever.
            self._clock.advance(_ROUND_S)
            return found
        due_s = self._clock.next_s
        if timeout is None and due_s is None:
            # Nothing is due: only another thread can wake this loop.
            return super().select(None)
        now_s = self._clock.now_s
        ends = [end for end in (due_s, None if timeout is None else now_s + timeout) if end]
        self._clock.advance(max(min(ends) - now_s, 0.0))
        return super().select(0)


@final
class ClockLoop(asyncio.SelectorEventLoop):
    """The event loop of `World.run`: while all tasks wait, the clock jumps to the next due time."""

    def __init__(self, clock: Clock) -> None:
        """Use a world's clock."""
        self._world_clock = clock
        self.fatal: BaseException | None = None
        "An exception of a callback that ends programs, such as that of a test whose time is over."
        super().__init__(_Selector(clock))

    @override
    def call_exception_handler(self, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException) and not isinstance(error, Exception):
            # asyncio would report it and run on, so that a test whose limit has passed never ends.
            self.fatal = error
            self.stop()
        super().call_exception_handler(context)

    @override
    def time(self) -> float:
        return self._world_clock.now_s

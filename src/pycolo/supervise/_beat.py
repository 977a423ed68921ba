"""One timer for the periodic work of many pairs, and a clock that excludes the timer's delays."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, final

# The calls of a slot are made together: a turn of the event loop costs as much as one query.
_SLOT_S: Final = 0.01
# Yet not more than so many in one turn: the answer to a death takes several turns, and each would
# be as long as all the queries of the slot, which are a hundred for a thousand pairs.
_CALLS_A_TURN: Final = 8
# An answer needs two turns of the event loop. So a loop that is always late adds at most twice the
# sum of these two to the time that the clock shows for an answer; limits are longer than that.
_PULSE_S: Final = 0.05
_LATE_S: Final = 0.02


@final
class Beat:
    """Makes timed calls for all pairs of an event loop, and has the clock by which they are judged.

    A QEMU is not silent while this process does not read. So the clock excludes each time for which
    the timer fired late: this process was stopped, or had too much to do. The calls follow the same
    clock, so that less is done while there is too much to do.

    A beat belongs to the event loop in which it is used first.
    """

    def __init__(self) -> None:
        self._slots: dict[int, list[Callable[[], None]]] = {}
        self._due: deque[Callable[[], None]] = deque()
        "The calls whose slot has begun, and which are not made yet."
        self._timer: asyncio.TimerHandle | None = None
        self._slot = 0
        self._due_s = 0.0
        "When the timer is due, by the event loop's clock."
        self._members = 0
        self._excluded_s = 0.0
        "How much the clock excludes, in seconds."
        self._excluded_until_s = -math.inf
        self._last_s = -math.inf

    @contextmanager
    def joined(self) -> Generator[None]:
        """Inside the block the timer always runs, so that each delay is noticed."""
        self._members += 1
        try:
            self._set_next()
            yield
        finally:
            self._members -= 1

    def now_s(self) -> float:
        """The time of the event loop's clock, less the time in which this process was late."""
        now_s = _now_s()
        if self._timer is not None:
            late_s = now_s - max(self._due_s, self._excluded_until_s)
            if late_s > _LATE_S:
                self._excluded_s += late_s
                self._excluded_until_s = now_s
        # A delay is excluded only once it is long, so what was shown meanwhile is not undercut.
        self._last_s = max(self._last_s, now_s - self._excluded_s)
        return self._last_s

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call something once, up to a hundredth of a second late; later if much is due at once.

        Args:
            delay_s: In how many seconds of this clock.
            call: What to call; must be quick. A call cannot be cancelled: one that is not needed
                any more must do nothing.
        """
        slot = self._slot_in(delay_s)
        self._slots.setdefault(slot, []).append(call)
        if self._timer is None or slot < self._slot:
            self._set(slot)

    async def wait_on_time(self, limit_s: float) -> None:
        """Wait for a moment at which the event loop is not late.

        Args:
            limit_s: The longest wait, in seconds of this clock.
        """
        until_s = self.now_s() + limit_s
        while self.now_s() < until_s:
            began_s = _now_s()
            await asyncio.sleep(_SLOT_S)
            if _now_s() - began_s - _SLOT_S <= _LATE_S:
                return

    def _set_next(self) -> None:
        """Set the timer to what is due next; while somebody has joined, to a moment soon."""
        slots = [self._slot_in(_PULSE_S)] if self._members else []
        slot = min((*slots, *self._slots), default=None)
        if slot is not None and (self._timer is None or slot < self._slot):
            self._set(slot)

    def _slot_in(self, delay_s: float) -> int:
        """The first slot that begins in so many seconds or later."""
        return math.ceil((self.now_s() + delay_s) / _SLOT_S)

    def _set(self, slot: int) -> None:
        now_s = self.now_s()
        if self._timer is not None:
            self._timer.cancel()
        self._slot = slot
        self._due_s = _now_s() + slot * _SLOT_S - now_s
        self._timer = asyncio.get_running_loop().call_at(self._due_s, self._run)

    def _run(self) -> None:
        # By rounding, the clock may still be just before the slot that the timer was set to.
        last = max(self._slot, math.floor(self.now_s() / _SLOT_S))
        self._timer = None
        is_calling = bool(self._due)
        for slot in sorted(slot for slot in self._slots if slot <= last):
            self._due.extend(self._slots.pop(slot))
        if not is_calling:
            self._call_due()
        self._set_next()

    def _call_due(self) -> None:
        """Make the first of the calls that are due, and leave the others to later turns."""
        loop = asyncio.get_running_loop()
        for _ in range(min(len(self._due), _CALLS_A_TURN)):
            # Not called here: one call that raises must not prevent the others.
            loop.call_soon(self._due.popleft())
        if self._due:
            loop.call_soon(self._call_due)


def _now_s() -> float:
    return asyncio.get_running_loop().time()

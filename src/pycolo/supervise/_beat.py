"""One timer for the periodic work of many pairs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, TypeAlias, final

Excluding: TypeAlias = Callable[[float, float], None]
"Is called after a time in which this process did not run: its length, and the time now."

# All calls of a slot are made in one turn: a turn of the event loop costs as much as one query.
_SLOT_S: Final = 0.01
_PULSE_S: Final = 0.25
_LATE_S: Final = 0.1


@final
class Beat:
    """Makes timed calls for all pairs of an event loop, and notices when its timer fires late.

    A beat belongs to the event loop in which it is used first.
    """

    def __init__(self) -> None:
        self._slots: dict[int, list[Callable[[], None]]] = {}
        self._members: dict[object, Excluding] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._slot = 0
        self._excluded_s = -math.inf
        self._is_pulsing = False

    @contextmanager
    def joined(self, excluding: Excluding) -> Generator[None]:
        """Inside the block, report each time in which this process did not run.

        Args:
            excluding: Is called with each such time; must be quick and must not raise.
        """
        key = object()
        self._members[key] = excluding
        try:
            if not self._is_pulsing:
                self._pulse()
            yield
        finally:
            del self._members[key]

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call something once, up to a hundredth of a second late.

        Args:
            delay_s: In how many seconds.
            call: What to call; must be quick. A call cannot be cancelled: one that is not needed
                any more must do nothing.
        """
        slot = math.ceil((_now_s() + delay_s) / _SLOT_S)
        self._slots.setdefault(slot, []).append(call)
        if self._timer is None or slot < self._slot:
            self._set(slot)

    def exclude_own_delay(self) -> None:
        """Report it to all members if this process has not run for a while.

        Call it before anything is concluded from how long ago something was.
        """
        if self._timer is None:
            return
        now_s = _now_s()
        late_s = now_s - max(self._slot * _SLOT_S, self._excluded_s)
        if late_s > _LATE_S:
            self._excluded_s = now_s
            for excluding in tuple(self._members.values()):
                excluding(late_s, now_s)

    def _pulse(self) -> None:
        # A timer always runs, so that a delay is noticed.
        self._is_pulsing = bool(self._members)
        if self._is_pulsing:
            self.call_later(_PULSE_S, self._pulse)

    def _set(self, slot: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._slot = slot
        self._timer = asyncio.get_running_loop().call_at(slot * _SLOT_S, self._run)

    def _run(self) -> None:
        self.exclude_own_delay()
        # By rounding, the clock may still be just before the slot that the timer was set to.
        last = max(self._slot, math.floor(_now_s() / _SLOT_S))
        self._timer = None
        for slot in sorted(slot for slot in self._slots if slot <= last):
            for call in self._slots.pop(slot):
                # Not called here: one call that raises must not prevent the others.
                asyncio.get_running_loop().call_soon(call)
        if self._slots:
            self._set(min(self._slots))


def _now_s() -> float:
    return asyncio.get_running_loop().time()

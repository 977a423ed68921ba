"""The guests that wait for a failover, so that other work leaves the processor to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from typing_extensions import override

from pycolo.observers import Observer
from pycolo.plan import Plan
from pycolo.result import Outcome, Report

_LONGEST_S: Final = 1.0


@final
class Outages(Observer):
    """The pairs whose failover is executed, and whose guest does not run yet.

    It observes the executions for all pairs of an event loop.

    Args:
        clock: The present time of that loop, in seconds.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since_s: dict[str, float] = {}
        # A dict, since a keeper may ask again: it is woken once, in the order of the first calls.
        self._wakes: dict[Callable[[], None], None] = {}

    def last(self, wake: Callable[[], None]) -> bool:
        """Whether a guest waits for a failover that began less than a second ago.

        Args:
            wake: If a guest waits, is called once none does any more; must be quick and must not
                raise. Ask again after a second: a failover may take long, since a host may not
                answer.
        """
        if self._waits:
            self._wakes[wake] = None
        return self._waits

    @property
    def _waits(self) -> bool:
        now_s = self._clock()
        return any(now_s - at_s < _LONGEST_S for at_s in self._since_s.values())

    @override
    def plan_started(self, plan: Plan) -> None:
        """Take note that a failover begins."""
        if plan.procedure == "failover":
            self._since_s[plan.pair.name] = self._clock()

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        """Take note that a guest runs again."""
        if address == plan.restored_after:
            self._end(plan.pair.name)

    @override
    def plan_finished(self, report: Report) -> None:
        """Take note that a plan has ended, whatever came of it."""
        self._end(report.plan.pair.name)

    def _end(self, pair: str) -> None:
        self._since_s.pop(pair, None)
        if not self._waits:
            wakes, self._wakes = self._wakes, {}
            for wake in wakes:
                wake()

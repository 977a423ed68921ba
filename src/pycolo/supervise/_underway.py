"""The progress of the plan that is executed for a pair."""

from __future__ import annotations

from typing import final

import attrs
from typing_extensions import override

from pycolo.observers import Observer
from pycolo.plan import Plan, Procedure, Step
from pycolo.result import Report


@final
@attrs.frozen(kw_only=True)
class Underway:
    """The progress of a plan that is executed."""

    procedure: Procedure
    "The procedure of the plan."
    step: str
    "The address of the step under way; empty before the first one."
    number: int
    "The position of that step in the plan, from 1; 0 before the first one, and in a recovery."
    steps: int
    "How many steps the plan has."
    done_bytes: int = 0
    "How much the step has copied; may fall for the RAM. 0 if it copies nothing."
    total_bytes: int = 0
    "How much the step has to copy, as far as that is known; may grow."
    rate_bytes_s: float = 0.0
    "The average of what the step copies in a second, since its first reply."

    @property
    def percent(self) -> int | None:
        """How much of the copy is done, in percent; None if nothing is copied."""
        return None if not self.total_bytes else self.done_bytes * 100 // self.total_bytes

    @property
    def left_s(self) -> float | None:
        """How long the copy still takes at this rate, in seconds; None if that is not known."""
        if not self.total_bytes or self.rate_bytes_s <= 0:
            return None
        return max(0, self.total_bytes - self.done_bytes) / self.rate_bytes_s


@final
@attrs.define(eq=False)
class Following(Observer):
    """An observer that keeps the progress of one pair's plan."""

    underway: Underway | None = None
    "The progress; None while no plan is executed."

    @override
    def plan_started(self, plan: Plan) -> None:
        """Take note that a plan begins."""
        self.underway = Underway(procedure=plan.procedure, step="", number=0, steps=len(plan.steps))

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        """Take note which step begins."""
        addresses = [one.address for one in plan.steps]
        known = step.address in addresses
        self.underway = Underway(
            procedure=plan.procedure,
            step=step.address,
            number=addresses.index(step.address) + 1 if known else 0,
            steps=len(addresses),
        )

    @override
    def step_progress(
        self, plan: Plan, address: str, done_bytes: int, total_bytes: int, rate_bytes_s: float
    ) -> None:
        """Take note how much is copied."""
        if self.underway is not None:
            self.underway = attrs.evolve(
                self.underway,
                done_bytes=done_bytes,
                total_bytes=total_bytes,
                rate_bytes_s=rate_bytes_s,
            )

    @override
    def plan_finished(self, report: Report) -> None:
        """Take note that the plan has ended."""
        self.underway = None

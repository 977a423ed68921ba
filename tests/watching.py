"""An observer by which a test does something at a chosen step."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from pycolo.plan import Plan, Recovery, Step
from pycolo.result import Outcome, Report


def nothing(_: str) -> None:
    """Do nothing at a step."""


@final
class Watching:
    """Calls a function with the address of each step as it begins, and another as it ends."""

    def __init__(
        self, begins: Callable[[str], None] = nothing, ends: Callable[[str], None] = nothing
    ) -> None:
        self._begins = begins
        self._ends = ends

    def plan_started(self, plan: Plan) -> None:
        """Nothing."""

    def step_started(self, step: Step) -> None:
        """Tell that it begins."""
        self._begins(step.address)

    def step_progress(
        self, address: str, done_bytes: int, total_bytes: int, rate_bytes_s: float
    ) -> None:
        """Nothing."""

    def step_finished(self, address: str, outcome: Outcome) -> None:  # noqa: ARG002 - as declared
        """Tell that it ended."""
        self._ends(address)

    def recovery_started(self, recovery: Recovery) -> None:
        """Nothing."""

    def plan_finished(self, report: Report) -> None:
        """Nothing."""

"""An observer by which a test does something at a chosen step."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from typing_extensions import override

from pycolo.observers import Observer
from pycolo.plan import Plan, Step
from pycolo.result import Outcome


def nothing(_: str) -> None:
    """Do nothing at a step."""


@final
class Watching(Observer):
    """Calls a function with the address of each step as it begins, and another as it ends."""

    def __init__(
        self, begins: Callable[[str], None] = nothing, ends: Callable[[str], None] = nothing
    ) -> None:
        self._begins = begins
        self._ends = ends

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        """Tell that it begins."""
        self._begins(step.address)

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        """Tell that it ended."""
        self._ends(address)

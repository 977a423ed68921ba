"""Progress of a plan on standard error: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import attrs
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column
from rich.text import Text
from typing_extensions import override

from pycolo._printable import one_line
from pycolo.cli import _say
from pycolo.cli._options import Detail
from pycolo.observers import Observer, words
from pycolo.plan import Check, Execute, Plan, Recovery, Step
from pycolo.render._wire import step_line
from pycolo.render.text import outcome_words, summary
from pycolo.result import Done, Outcome, Report

PERCENT_A_LINE = 10
WIDE = 100
MIB = 1024 * 1024


@contextmanager
def on_stderr(detail: Detail = "usual") -> Iterator[Kept]:
    """Give the observer that fits standard error and the wanted detail.

    Args:
        detail: How much to print.

    Yields:
        `Kept` if nothing is printed; `Lines` for verbose output or if standard error takes no
        colour; else `Bars`.
    """
    if detail == "quiet":
        yield Kept()
        return
    if detail == "verbose" or not _say.in_colour(sys.stderr):
        is_reported = _say.is_one_stream()
        yield Lines(is_verbose=detail == "verbose", is_reported=is_reported)
        return
    console = Console(stderr=True, highlight=False)
    with bars(console) as progress:
        # If results go to a terminal too, the report there has a line for each step already.
        yield Bars(progress=progress, keeps_lines=not sys.stdout.isatty())


def bars(console: Console) -> Progress:
    """Make progress bars; a narrow console gets no bar, no byte counts and a shortened text."""
    shortened = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    wide = (BarColumn(), DownloadColumn(binary_units=True)) if console.width >= WIDE else ()
    return Progress(
        TextColumn("{task.description}", table_column=shortened),
        *wide,
        TaskProgressColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        expand=True,
        transient=True,
    )


@attrs.define(kw_only=True)
class Kept(Observer):
    """An observer that prints nothing, and stores the current step and the report."""

    report: Report | None = None
    "The report of the plan; None until the plan has ended."
    step: Step | None = None
    "The step that began last; None before the first one."
    has_lines: bool = False
    "Whether this observer prints a line for each step."

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        """Remember the step that began last."""
        self.step = step

    @override
    def plan_finished(self, report: Report) -> None:
        """Store the report; the command itself prints it."""
        self.report = report


@final
@attrs.define(kw_only=True)
class Lines(Kept):
    """An observer that prints a line for each step, and one for every tenth of a copy."""

    has_lines: bool = True
    is_verbose: bool = False
    "Whether each step's QMP command is printed too."
    is_reported: bool = False
    "Whether the report goes to the same file or terminal, and says why a step failed."
    _told: dict[str, int] = attrs.field(factory=dict)

    @override
    def plan_started(self, plan: Plan) -> None:
        """Print the number of steps."""
        _say.note(f"{plan.procedure}: {_steps(plan)}")

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        """Print the step that begins."""
        self.step = step
        _say.note(summary(step))
        if self.is_verbose and isinstance(step, Execute):
            _say.note(f"  {step_line(step)}")

    @override
    def step_progress(
        self, plan: Plan, address: str, done_bytes: int, total_bytes: int, rate_bytes_s: float
    ) -> None:
        """Print how much is copied, every tenth."""
        percent = 100 * done_bytes // total_bytes if total_bytes else 0
        if percent - self._told.get(address, -PERCENT_A_LINE) >= PERCENT_A_LINE:
            self._told[address] = percent
            _say.note(
                f"  {percent} % of {total_bytes / MIB:.1f} MiB, {rate_bytes_s / MIB:.1f} MiB/s"
            )

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        """Print the step's outcome."""
        line = words(outcome)
        if self.is_reported and not isinstance(outcome, Done) and _ends(plan, address):
            line = line.partition(":")[0]
        _say.note(f"  {line}")

    @override
    def recovery_started(self, plan: Plan, recovery: Recovery) -> None:
        """Print why the guest is being brought back."""
        _say.note(one_line(f"recovery: {recovery.why}"))


def _ends(plan: Plan, address: str) -> bool:
    """Whether execution ends if this step of the plan fails; false for a step of a recovery."""
    steps = (step for step in plan.steps if step.address == address)
    return any(isinstance(step, Check) or not step.may_fail for step in steps)


@final
@attrs.define(kw_only=True)
class Bars(Kept):
    """An observer that shows a bar for the current step, with percent and rate if it is a copy."""

    progress: Progress
    keeps_lines: bool
    "Whether a line is printed for each step that ended."
    _bars: dict[str, TaskID] = attrs.field(factory=dict)

    @override
    def plan_started(self, plan: Plan) -> None:
        """Print the number of steps."""
        self.progress.console.print(Text(f"{plan.procedure}: {_steps(plan)}", "bold"))

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        """Show a bar for the step."""
        self.step = step
        description = Text(summary(step)).plain.replace("[", r"\[")
        self._bars[step.address] = self.progress.add_task(description, total=None)

    @override
    def step_progress(
        self,
        plan: Plan,
        address: str,
        done_bytes: int,
        total_bytes: int,
        rate_bytes_s: float,
    ) -> None:
        """Move the bar."""
        self.progress.update(self._bars[address], completed=done_bytes, total=total_bytes)

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        """Remove the step's bar."""
        if address in self._bars:
            self.progress.remove_task(self._bars.pop(address))
        if not self.keeps_lines:
            return
        line = f"{outcome_words(outcome, colour=True)}  {one_line(address)}"
        self.progress.console.print(Text.from_ansi(line))

    @override
    def recovery_started(self, plan: Plan, recovery: Recovery) -> None:
        """Print why the guest is being brought back."""
        self.progress.console.print(Text(one_line(f"recovery: {recovery.why}"), "bold red"))


def _steps(plan: Plan) -> str:
    """How many steps a plan has, in words."""
    return "1 step" if len(plan.steps) == 1 else f"{len(plan.steps)} steps"

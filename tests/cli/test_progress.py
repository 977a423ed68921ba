"""What is said on standard error while a plan is executed."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from pycolo import compiler, pairfile
from pycolo.cli._progress import MIB, Bars, Kept, Lines, bars
from pycolo.observers import Observer
from pycolo.plan import Execute, Plan
from pycolo.qmp.replies import Version
from pycolo.render.text import summary
from pycolo.result import Done, Refused


@pytest.fixture
def plan(pair_file: Path) -> Plan:
    """What `start` does."""
    pair = pairfile.load(pair_file)
    return compiler.compile_offline("start", pair, version=Version.parse("11.1.3"))


def tell(observer: Observer, plan: Plan) -> None:
    """Have an observer see a resync, a refusal and its recovery."""
    wait = plan.step("alpha/wait/mirrored")
    observer.plan_started(plan)
    observer.step_started(plan, wait)
    for done_mib in range(0, 101, 5):
        observer.step_progress(plan, wait.address, done_mib * MIB, 100 * MIB, 2.5 * MIB)
    observer.step_finished(plan, wait.address, Done(took_s=40))
    recovery = plan.recoveries[0]
    observer.recovery_started(plan, recovery)
    observer.step_started(plan, recovery.steps[0])
    observer.step_finished(
        plan, recovery.steps[0].address, Refused(took_s=0, reason="no [such] node")
    )


def test_lines_tell_every_tenth_of_a_copy(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody draws bars, a log stays readable, and standard output stays free."""
    tell(Lines(), plan)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert "" == captured.out
    assert f"start: {len(plan.steps)} steps" == lines[0]
    assert "  0 % of 100.0 MiB, 2.5 MiB/s" == lines[2]
    assert 11 == sum(" % of " in line for line in lines)
    assert "  refused: no [such] node" == lines[-1]


def test_lines_leave_to_the_report_why_execution_ended(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where both go to one place it is said once; of a recovery's step the lines alone say it."""
    lines = Lines(is_reported=True)
    refused = Refused(took_s=0, reason="no such device")
    lines.step_finished(plan, plan.steps[0].address, refused)
    lines.step_finished(plan, plan.recoveries[0].steps[0].address, refused)
    assert ["  refused", "  refused: no such device"] == capsys.readouterr().err.splitlines()


def test_nothing_is_told_where_nothing_is_wanted(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --quiet the steps are kept to be told of at an interrupt, and not said."""
    kept = Kept()
    tell(kept, plan)
    assert ("", "") == capsys.readouterr()
    assert kept.step == plan.recoveries[0].steps[0]


def test_each_command_is_shown_where_it_is_asked_for(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --verbose a step that sends a command shows what it sends."""
    step = next(step for step in plan.steps if isinstance(step, Execute))
    Lines(is_verbose=True).step_started(plan, step)
    shown = capsys.readouterr().err.splitlines()
    assert f'{{"execute": "{step.command.qmp_name}"' in shown[1]


@pytest.mark.parametrize("width", [40, 60, 200])
def test_a_narrow_terminal_keeps_the_figures(plan: Plan, width: int) -> None:
    """Percent, rate and time left stay, and what the wait is for is shortened."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width)
    progress = bars(console)
    wait = plan.step("alpha/wait/mirrored")
    task = progress.add_task(summary(wait), total=100 * MIB)
    progress.update(task, completed=25 * MIB)
    console.print(progress.get_renderable())
    lines = [re.sub("\\x1b[^m]*m", "", line) for line in screen.getvalue().splitlines()]
    assert 1 == len(lines)
    assert len(lines[0]) <= width
    assert "25%" in lines[0]
    assert "--:--" in lines[0]
    assert ("without an error" in lines[0]) == (width > 60)


def test_bars_show_percent_and_rate(plan: Plan) -> None:
    """On a terminal a copy under way has its percent and its rate; ended steps leave a line."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=200)
    with Progress(console=console, auto_refresh=False) as progress:
        bars = Bars(progress=progress, keeps_lines=True)
        wait = plan.step("alpha/wait/mirrored")
        bars.step_started(plan, wait)
        bars.step_progress(plan, wait.address, 25 * MIB, 100 * MIB, MIB)
        progress.refresh()
        tell(bars, plan)
    shown = screen.getvalue()
    assert "25%" in shown
    assert "alpha/wait/mirrored" in shown

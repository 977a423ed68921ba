"""What is said on standard error while a plan is executed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from pycolo import compiler, pairfile
from pycolo.cli._progress import MIB, Bars, Lines
from pycolo.observers import Observer
from pycolo.plan import Plan
from pycolo.qmp.replies import Version
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

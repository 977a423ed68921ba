"""What Ctrl-C says and does, and what goes where, in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pycolo.cli import _exits

EXECUTES = """
import asyncio
from pycolo import cli
from pycolo.cli import _app
import attrs
from pycolo.result import Done, Report
from tests.test_observers import PLAN as LONGER

PLAN = attrs.evolve(LONGER, steps=({step},))
DONE = Done(took_s=0.1)
REPORT = Report(plan=PLAN, outcomes={{PLAN.steps[0].address: DONE}})

async def act(observer, *, recorder):
    observer.plan_started(PLAN)
    observer.step_started(PLAN, PLAN.steps[0])
    try:
        {body}
    finally:
        observer.step_finished(PLAN, PLAN.steps[0].address, DONE)
        observer.plan_finished(REPORT)
    return REPORT

async def stuck():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

cli._run = lambda words: _app._reported(act, {detail!r}, None, "text")
cli.main([])
"""
ENDS_BETWEEN_STEPS = "await asyncio.sleep(60)"
IGNORES_IT = "await stuck()"
SENDS = "LONGER.steps[0]"
WAITS = "next(step for step in LONGER.steps if type(step).__name__ == 'Wait')"


@contextmanager
def executing(body: str, step: str = SENDS) -> Iterator[subprocess.Popen[str]]:
    """A command whose plan has begun with this step."""
    with subprocess.Popen(
        [sys.executable, "-c", EXECUTES.format(body=body, step=step, detail="usual")],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            for _ in range(2):
                process.stderr.readline()
            yield process
        finally:
            process.kill()


def test_the_first_interrupt_is_answered_at_once() -> None:
    """It says what is finished first and what keeps running; then the report comes."""
    with executing(ENDS_BETWEEN_STEPS) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert err.startswith("interrupted: this step is finished first: ")
    assert "every QEMU keeps running;\n  press Ctrl-C again to leave at once" in err
    assert out
    assert "Traceback" not in err


def test_wait_is_given_up_by_an_interrupt() -> None:
    """It sends nothing, so that nothing has to be finished, and nothing is unknown afterwards."""
    with executing(IGNORES_IT, WAITS) as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        said = [process.stderr.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert said[0].startswith("interrupted: this step is given up: ")
    assert "it changes nothing itself" in err


def test_the_second_interrupt_leaves_and_says_what_is_left() -> None:
    """It waits for nothing, and names the step, the state and the way on."""
    with executing(IGNORES_IT) as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline().startswith("interrupted: ")
        for _ in range(2):
            process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert _exits.UNFINISHED == process.returncode
    assert err.startswith("left in the middle of ")
    assert "run the same procedure again" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("detail", "times"), [("usual", 1), ("quiet", 0)])
@pytest.mark.parametrize("is_one", [True, False])
def test_a_step_is_printed_once(detail: str, times: int, *, is_one: bool) -> None:
    """Where both streams end in one file, the report does not repeat what was said before."""
    ended = subprocess.run(
        [sys.executable, "-c", EXECUTES.format(body="pass", step=SENDS, detail=detail)],
        check=False,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if is_one else subprocess.PIPE,
        text=True,
    )
    both = ended.stdout + ("" if is_one else ended.stderr)
    lines = [line for line in both.splitlines() if "alpha/" in line]
    expected = times if is_one or detail == "quiet" else 2
    assert expected == len(lines), both

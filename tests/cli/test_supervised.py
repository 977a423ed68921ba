"""Commands about a pair that a supervisor of this machine keeps."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from rich.console import Console
from tests.cli.conftest import PAIR, Pycolo

from pycolo.cli import _measure, _supervised, _watch
from pycolo.observers import Observer
from pycolo.pace import Checkpoint, Pace
from pycolo.pairfile import load
from pycolo.standing import Standing
from pycolo.supervise import Store, Underway
from pycolo.supervise.control import Control, PairView, find, of_agents

VIEW = PairView(
    pair="shop-db",
    want="protected",
    paused=None,
    are_monitors_free=False,
    phases={"alpha": "protected", "beta": "protected"},
    epoch=12,
    standing=Standing(state="protected", text="alpha is primary, beta is secondary"),
    primary="alpha",
    checkpoint_delay_ms=20000,
    is_protected=True,
    person="",
    checkpoints=100,
    pause_sum_s=1.0,
    longest_s=0.064,
    limit_s=1.5,
    underway=None,
)

LIMIT_S = 20.0


@pytest.mark.parametrize("kind", ["act", "move"])
async def test_interrupt_says_who_finishes_what_was_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Only the wait ends, for a procedure as for a move."""
    asked = asyncio.Event()

    async def perform(*_: object, **__: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    for method in ("perform", "move"):
        monkeypatch.setattr(Control, method, perform)
    control = Control(pair="shop-db", folder=Path("/run"), pid=4711)
    request = (
        _supervised.Act(control=control, procedure="switch-over", ms=None)
        if kind == "act"
        else _supervised.Move(control=control, to="gamma")
    )
    waiting = asyncio.create_task(request(Observer(), recorder=None))
    await asked.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (
        "only this command ends: process 4711 finishes what was asked for"
        in capsys.readouterr().err
    )


@attrs.frozen
class Kept:
    """A pair that a supervisor keeps, of which nothing can be launched."""

    pair_file: Path
    store: tuple[str, ...]
    pid: int


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    """A supervisor in a process of its own, paused until `unpause` is typed."""
    pair_file, folder = tmp_path / "pair.toml", tmp_path / "store"
    pair_file.write_text(PAIR.format(run_dir=tmp_path))
    with Store(folder) as store:
        store.pause("colo", "by the test")
    command = (sys.executable, "-m", "pycolo", "supervise", str(pair_file), "--store", str(folder))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "supervision is paused by the test" in process.stdout.readline()
            # It listens once it keeps the pair, which is some moments after the line.
            deadline_s = time.monotonic() + LIMIT_S
            while not list(folder.glob("*.sock")):
                assert time.monotonic() < deadline_s
                os.sched_yield()
            yield Kept(pair_file, ("--store", str(folder)), process.pid)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
        finally:
            process.kill()
    assert 0 == process.returncode
    assert not list(folder.glob("*.sock"))


def test_procedure_of_a_supervised_pair_is_asked_of_its_supervisor_or_refused(
    pycolo: Pycolo, kept: Kept
) -> None:
    """In one line that names the process, and what to type; never with a busy monitor."""
    assert 0 == pycolo("unpause", kept.pair_file, *kept.store).code
    seen = pycolo("run", "switch-over", kept.pair_file, *kept.store)
    assert (4, "") == (seen.code, seen.out)
    assert "colo is not protected now: no QEMU is known to run" in seen.err
    for words, advice in (
        (("run", "failover"), "`pycolo fenced PAIRFILE NODE --how TEXT`"),
        (("run", "stop"), "type `pycolo want unprotected PAIRFILE`"),
        (("run", "launch"), "it launches what is missing by itself"),
        (("plan", "start", "--live"), "type `pycolo pause PAIRFILE`"),
    ):
        ended = pycolo(*words[:2], kept.pair_file, *words[2:], *kept.store)
        assert (4, "") == (ended.code, ended.out), ended.err
        why = f"pycolo: a supervisor (pid {kept.pid}) keeps colo and holds its control monitors"
        assert ended.err.startswith(why)
        assert advice in ended.err
        assert 1 == len(ended.err.splitlines())
    as_json = pycolo("run", "stop", kept.pair_file, *kept.store, "--as", "json")
    (finding,) = json.loads(as_json.out)["refused"]["findings"]
    assert "supervised" == finding["code"]


def test_procedure_of_a_paused_pair_is_executed_here(pycolo: Pycolo, kept: Kept) -> None:
    """It is refused for what the nodes show, as without a supervisor."""
    paused = pycolo("pause", kept.pair_file, "--why", "a test", *kept.store)
    assert 0 == paused.code
    ended = pycolo("run", "checkpoint", kept.pair_file, *kept.store)
    assert 4 == ended.code
    assert "supervis" not in ended.err


def test_fence_is_stated_to_a_supervisor(pycolo: Pycolo, kept: Kept, tmp_path: Path) -> None:
    """Without one it is said how; one that is paused does not take it."""
    state = ("fenced", kept.pair_file, "alpha", "--how", "power off")
    ended = pycolo(*state, *kept.store)
    assert 4 == ended.code
    assert "the supervision of colo is paused by the test; type `pycolo unpause`" in ended.err
    alone = pycolo(*state, "--store", tmp_path / "another")
    assert 1 == alone.code
    nobody = "no supervisor or agent of colo listens; without one, type `pycolo run failover`"
    assert nobody in alone.err


def test_move_is_asked_of_a_supervisor(pycolo: Pycolo, kept: Kept, tmp_path: Path) -> None:
    """Without one it is said what to type; one that is paused does not do it."""
    move = ("move", kept.pair_file, "--to", "beta")
    ended = pycolo(*move, *kept.store)
    assert 4 == ended.code
    assert "the supervision of colo is paused by the test" in ended.err
    alone = pycolo(*move, "--store", tmp_path / "another")
    assert 1 == alone.code
    assert "no supervisor or agent of colo listens" in alone.err


def test_watch_writes_a_line_a_change(kept: Kept, pycolo: Pycolo) -> None:
    """Where it writes to no terminal; it ends with Ctrl-C as a command that is done."""
    command = (sys.executable, "-m", "pycolo", "status", "--watch", *kept.store)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert first.startswith("colo: supervision is paused by the test")
            assert 0 == pycolo("want", "stopped", kept.pair_file, *kept.store).code
            while "stopped is wanted" not in first:
                first = process.stdout.readline()
                assert first
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (0, "") == (process.returncode, told)


def test_watch_needs_somebody_to_watch(pycolo: Pycolo, pair_file: Path, tmp_path: Path) -> None:
    """With no supervisor it says so; and it is not for plugins."""
    nobody = pycolo("status", "--watch", "--store", tmp_path)
    assert 1 == nobody.code
    assert "no supervisor or agent that uses this store is running" in nobody.err
    assert 3 == pycolo("status", "--watch", "--check", pair_file).code
    assert 64 == pycolo("status").code
    assert 64 == pycolo("status", pair_file, pair_file).code


@pytest.mark.parametrize("width", [60, 79, 80, 120])
def test_table_fits_the_terminal(width: int) -> None:
    """Every figure is whole, and no line is longer than the terminal is wide."""
    copying = Underway(
        procedure="resume",
        step="alpha/wait/mirror",
        number=12,
        steps=60,
        done_bytes=430,
        total_bytes=1000,
        rate_bytes_s=57.0,
    )
    rows = [_watch.Row("shop-db", view=VIEW), _watch.Row("mail", why="no supervisor keeps it")]
    rows.append(_watch.Row("files"))
    rows[2].view = attrs.evolve(
        VIEW, pair="files", person="bring its host back", underway=copying, phases={"a": "alone"}
    )
    for at_s, count in ((0.0, 100), (10.0, 120)):
        later = attrs.evolve(VIEW, checkpoints=count, pause_sum_s=count / 100)
        rows[0].pace.take(at_s, later)
    with Path("/dev/null").open("w", encoding="utf-8") as nowhere:
        console = Console(file=nowhere, width=width, record=True)
        console.print(_watch.table(rows, console))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for figure in ("shop-db", "alpha protected", " 12 ", " 2 ", "10.0", "a alone"):
        assert figure in text
    assert ("0.064 / 1.5 s" in text) == (width >= 80)
    assert "files: ! bring its host back" in lines
    assert "files: resume: step 12 of 60, 43 %, 10 s left" in lines
    assert "mail: no supervisor keeps it" in lines


def test_pace_begins_anew_with_another_supervisor() -> None:
    """Which counts from the beginning; only a minute counts."""
    pace = _watch.Pace()
    pace.take(0.0, attrs.evolve(VIEW, checkpoints=1000))
    assert pace.per_second is None
    pace.take(1.0, attrs.evolve(VIEW, checkpoints=0, pause_sum_s=0.0))
    for second in range(2, 100):
        view = attrs.evolve(VIEW, checkpoints=second * 2, pause_sum_s=second * 0.02)
        pace.take(float(second), view)
    figures = (pace.per_second, pace.pause_ms)
    assert (2.0, 10.0) == tuple(round(figure or 0.0, 6) for figure in figures)


# -- measure


def checkpoints(*begins_s: float, pause_s: float = 0.01) -> list[Checkpoint]:
    """Checkpoints that began then."""
    return [Checkpoint(began_s=at_s, pause_s=pause_s) for at_s in begins_s]


def test_checkpoint_before_the_delay_was_asked_for() -> None:
    """By something other than the delay; it counts from beginning to beginning."""
    heard = checkpoints(0.0, 1.0, 2.02, 2.3, 3.3, 3.4)
    pace = Pace.of(heard, seconds=4.0, delay_ms=1000)
    assert (3, 2) == (pace.timed, pace.early)
    assert 0 == pace.forced
    assert (1.5, 0.015) == (pace.per_second, round(pace.share, 6))


def test_forced_checkpoint_is_not_taken_for_a_difference() -> None:
    """It is counted apart, early or not."""
    heard = checkpoints(0.0, 1.0, 1.3, 2.3, 2.4)
    heard = [attrs.evolve(one, forced=n in (0, 2, 3)) for n, one in enumerate(heard)]
    pace = Pace.of(heard, seconds=4.0, delay_ms=1000)
    assert (1, 2, 1) == (pace.timed, pace.forced, pace.early)


@pytest.mark.parametrize(
    ("pause_s", "suggested_ms"), [(0.001, 100), (0.0102, 510), (0.02, 1000), (0.123, 6200)]
)
def test_suggested_delay_keeps_the_pauses_short(pause_s: float, suggested_ms: int) -> None:
    """Two hundredths of the time, rounded up to two digits, and never below 100 ms."""
    pace = Pace.of(checkpoints(0.0, 1.0, pause_s=pause_s), seconds=2.0, delay_ms=1000)
    assert suggested_ms == pace.suggested_ms


def test_histogram_has_a_bar_for_each_doubling() -> None:
    """From the shortest pause to the longest, empty ones in between too."""
    drawn = list(_measure.histogram((0.003, 0.003, 0.0035, 0.02)))
    assert ["4", "8", "16", "32"] == [line.split()[2] for line in drawn]
    assert [40, 0, 0, 13] == [line.count("█") for line in drawn]


def test_measure_of_what_is_not_protected_is_refused(pycolo: Pycolo, kept: Kept) -> None:
    """With how the pair stands, before anything is listened for."""
    ended = pycolo("measure", kept.pair_file, *kept.store)
    assert 4 == ended.code
    assert "colo has no primary in COLO: stopped" in ended.err


def test_no_checkpoint_suggests_nothing(pair_file: Path) -> None:
    """It says for how long to measure instead."""
    pace = Pace.of([], seconds=1.0, delay_ms=20000)
    text = _measure.text(load(pair_file), pace)
    assert "the delay is 20000 ms: measure for longer with --seconds" in text
    assert pace.suggested_ms is None
    assert 0.0 == pace.pause_s(0.5)


def test_status_and_watch_ask_the_agent_of_this_host(pycolo: Pycolo, tmp_path: Path) -> None:
    """So does `run`, which says what to do instead; a second agent of the node is refused."""
    pair_file, folder, agent_file = (tmp_path / name for name in ("p.toml", "store", "agent.toml"))
    pair_file.write_text(PAIR.format(run_dir=tmp_path))
    # The agent of a spare launches nothing.
    agent_file.write_text(
        f'format_version = 1\nnode = "gamma"\n[sqlite]\nfolder = "{tmp_path}/arbiter"\n'
    )
    command = (sys.executable, "-m", "pycolo", "agent", agent_file, pair_file, "--store", folder)
    watch = (sys.executable, "-m", "pycolo", "status", "--watch", "--store", folder)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as agent:
        try:
            while find(of_agents(folder), "colo") is None:
                assert agent.poll() is None
            with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as watching:
                assert watching.stdout is not None
                line = watching.stdout.readline()
                watching.send_signal(signal.SIGINT)
            assert line.startswith("colo: ")
            assert "no supervisor" not in line
            state = ("fenced", pair_file, "alpha", "--how", "power off", "--store", folder)
            ended = pycolo(*state)
            assert 1 <= ended.code <= 4
            assert "no supervisor or agent" not in ended.err
            ended = pycolo("run", "stop", pair_file, "--store", folder)
            assert 4 == ended.code
            assert f"an agent (pid {agent.pid}) keeps colo" in ended.err
            assert "type `pycolo want unprotected PAIRFILE --agent AGENTFILE`" in ended.err
            assert "`pycolo release" in ended.err
            second = pycolo("agent", agent_file, pair_file, "--store", folder)
            assert 1 <= second.code <= 4
            assert "another agent of gamma of colo runs" in second.err
            # It has not taken the first one's socket either.
            assert find(of_agents(folder), "colo") is not None
        finally:
            agent.send_signal(signal.SIGTERM)
    assert 0 == agent.returncode

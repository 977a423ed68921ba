"""Journals of executions against scripted monitors, and what is read of them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import get_args

import attrs
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scripted_qmp import SILENCE, Refuse, ScriptedQmp, scripted_qmp

from pycolo._execute import execute
from pycolo._json import kebab
from pycolo.errors import ParseError
from pycolo.journal import (
    CommandAnswered,
    CommandSent,
    ConnectionEnded,
    EventSeen,
    Journal,
    Line,
    PlanBegan,
    Recording,
    RecoveryBegan,
    StepEnded,
    json_schema,
    line_to_json,
    load,
    loads,
)
from pycolo.model import ColoPair, Node, UnixMonitor
from pycolo.plan import Execute, Plan, Recovery, Refusal, Step
from pycolo.qmp import commands as qmp
from pycolo.qmp.objects import YankBlockNode
from pycolo.qmp.replies import Version
from pycolo.render import html
from pycolo.render.timeline import Timeline, duration, ticks, timeline
from pycolo.result import Done, Report
from pycolo.session import Session
from pycolo.snapshot import Live, Snapshot

VERSION = Version(major=11, minor=1, micro=3)
LIVE = Snapshot(nodes={"alpha": Live(version=VERSION), "beta": Live(version=VERSION)})
NASTY = "<script>alert('x')</script>\033[2J & more"
PAIR = ColoPair(
    name="colo",
    nodes=(
        Node(name="alpha", address="127.0.0.1", image_folder="/a"),
        Node(name="beta", address="127.0.0.2", image_folder="/b"),
    ),
)


@pytest.fixture
async def alpha(tmp_path: Path) -> AsyncGenerator[ScriptedQmp]:
    """The monitor of the only node that is spoken to."""
    async with scripted_qmp(tmp_path / "alpha") as served:
        yield served


def _execute(command: qmp.Command, why: str = "", limit_s: float = 20.0) -> Execute:
    return Execute(
        address=f"alpha/{command.qmp_name}/{command.subject}".rstrip("/"),
        node="alpha",
        command=command,
        why=why,
        limit_s=limit_s,
        accepts=(Refusal(text="not there"),),
        rescue=(qmp.Yank(instances=(YankBlockNode(node_name="nbd0"),)),),
    )


STOP, CONT = _execute(qmp.Stop()), _execute(qmp.Cont(), NASTY)
GONE = _execute(qmp.ChardevRemove(id="red0"))
RELIEF = Recovery(
    first="alpha/stop",
    last="alpha/cont",
    why="the guest stands",
    steps=(Execute(address="recovery", node="alpha", command=qmp.Cont(), why="", limit_s=5),),
)


def _plan(*steps: Step, recoveries: tuple[Recovery, ...] = (), restored: str | None = None) -> Plan:
    return Plan(
        procedure="start",
        pair=PAIR,
        qemu={"alpha": VERSION},
        dialect="auto",
        prior_state=LIVE,
        planned_state=LIVE,
        steps=steps,
        recoveries=recoveries,
        restored_after=restored,
    )


async def _recorded(alpha: ScriptedQmp, plan: Plan, path: Path) -> tuple[Report, Recording]:
    monitor = UnixMonitor(path=str(alpha.path))
    async with await Session.connect("alpha", monitor, limit_s=5) as session:
        with Journal(path) as journal:
            report = await execute(plan, {"alpha": session}, recorder=journal)
    return report, load(path)


def _of(kind: type[Line], recording: Recording) -> list[Line]:
    return [line for line in recording.lines if isinstance(line, kind)]


async def test_everything_is_written_in_order(alpha: ScriptedQmp, tmp_path: Path) -> None:
    """Steps, commands, answers and events stand in the order in which they happened."""

    def cont(_: object) -> object:
        alpha.event("RESUME")
        return {}

    alpha.replies["cont"] = cont
    plan = _plan(STOP, CONT)
    report, recording = await _recorded(alpha, plan, tmp_path / "j")
    assert plan == recording.began.plan
    kinds = [line_to_json(line)["kind"] for line in recording.lines]
    one = ["step-began", "command-sent", "command-answered", "step-ended"]
    assert [*one, *one[:2], "event-seen", *one[2:], "plan-ended"] == kinds
    assert [line.monotonic_s for line in recording.lines] == sorted(
        line.monotonic_s for line in recording.lines
    )
    assert (None, 0) == (report.failed, recording.ended and recording.ended.exit_code)


async def test_a_command_is_on_disk_before_it_is_sent(
    alpha: ScriptedQmp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When QEMU reads a command, its line has been written and the disk has been waited for."""
    path, synced = tmp_path / "j", []
    whole_sync = os.fdatasync

    def sync(file: int) -> None:
        whole_sync(file)
        synced.append(path.stat().st_size)

    monkeypatch.setattr(os, "fdatasync", sync)
    seen: list[Recording] = []
    sizes: list[bool] = []

    def stop(_: object) -> object:
        sizes.append(path.stat().st_size == synced[-1])
        seen.append(load(path))
        return {}

    alpha.replies["stop"] = stop
    await _recorded(alpha, _plan(STOP), path)
    assert [qmp.Stop()] == [line.command for line in seen[0].lines if isinstance(line, CommandSent)]
    assert [True] == sizes


async def test_refusals_are_written_as_they_came(alpha: ScriptedQmp, tmp_path: Path) -> None:
    """An accepted refusal is an answer with class and words, and the step is done all the same."""
    alpha.replies["chardev-remove"] = Refuse("red0 is not there")
    _, recording = await _recorded(alpha, _plan(GONE), tmp_path / "j")
    (answer,) = _of(CommandAnswered, recording)
    assert isinstance(answer, CommandAnswered)
    assert ("GenericError", "red0 is not there") == (answer.error_class, answer.text)
    (ended,) = _of(StepEnded, recording)
    assert isinstance(ended, StepEnded)
    assert isinstance(ended.outcome, Done)


async def test_rescue_and_late_answer_are_written(alpha: ScriptedQmp, tmp_path: Path) -> None:
    """A rescue is a command of its step, and an answer that comes after it belongs to the first."""

    def free(_: object) -> object:
        alpha.release("stop", {})
        return {}

    alpha.replies |= {"stop": SILENCE, "yank": free}
    plan = _plan(_execute(qmp.Stop(), limit_s=0.2))
    _, recording = await _recorded(alpha, plan, tmp_path / "j")
    sent = [line for line in recording.lines if isinstance(line, CommandSent)]
    assert [("stop", False), ("yank", True)] == [(s.command.qmp_name, s.oob) for s in sent]
    answered = {line.number for line in recording.lines if isinstance(line, CommandAnswered)}
    assert {line.number for line in sent} == answered


async def test_recovery_and_hang_up_are_written(alpha: ScriptedQmp, tmp_path: Path) -> None:
    """A journal tells why the guest was brought back, and that a monitor went."""

    def refuse(_: object) -> object:
        alpha.event("STOP", why="none")
        return Refuse("not now")

    alpha.replies["chardev-remove"] = refuse
    report, recording = await _recorded(
        alpha, _plan(STOP, GONE, CONT, recoveries=(RELIEF,)), tmp_path / "j"
    )
    assert "alpha/chardev-remove/red0" == report.failed
    assert 1 == len(_of(RecoveryBegan, recording))
    (event,) = _of(EventSeen, recording)
    assert isinstance(event, EventSeen)
    assert ("alpha", "STOP") == (event.node, event.event)
    drawn = timeline(recording)
    assert ["recovery"] == [step.address for step in drawn.recovery]
    assert ["done", "refused", "not-run"] == [step.state for step in drawn.steps]
    assert "the guest stands" in str([line_to_json(line) for line in recording.lines])


async def test_a_lost_monitor_leaves_a_command_unknown(alpha: ScriptedQmp, tmp_path: Path) -> None:
    """A command whose connection ended before the answer has none, and is drawn so."""

    def leave(_: object) -> object:
        alpha.hang_up()
        return SILENCE

    alpha.replies["stop"] = leave
    _, recording = await _recorded(alpha, _plan(STOP), tmp_path / "j")
    assert 1 == len(_of(ConnectionEnded, recording))
    assert [] == _of(CommandAnswered, recording)
    assert ["unknown"] == [call.answer for call in timeline(recording).steps[0].calls]


async def test_without_a_journal_nothing_listens(alpha: ScriptedQmp) -> None:
    """An execution that nobody records gives QEMU's answers to nobody else."""
    monitor = UnixMonitor(path=str(alpha.path))
    async with await Session.connect("alpha", monitor, limit_s=5) as session:
        report = await execute(_plan(STOP), {"alpha": session})
    assert None is report.failed


# -- the file


def test_no_journal_is_overwritten(tmp_path: Path) -> None:
    """A file that is there is kept as it is."""
    path = tmp_path / "j"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        Journal(path)
    assert "mine" == path.read_text()


def test_a_journal_of_nothing_leaves_no_file(tmp_path: Path) -> None:
    """Where no plan began there is nothing to keep; closing twice is fine."""
    with Journal(tmp_path / "j") as journal:
        journal.close()
    assert [] == list(tmp_path.iterdir())


def test_a_second_plan_ends_the_journal(tmp_path: Path) -> None:
    """A journal holds one plan, and stays readable: what is done after that is not in it."""
    with Journal(tmp_path / "j") as journal:
        journal.plan_started(_plan())
        assert None is journal.failure
        journal.plan_started(_plan())
        assert f"{tmp_path}/j: a journal holds one plan, and another one began" == journal.failure
        journal.plan_finished(Report(plan=_plan(), outcomes={}))
    assert () == load(tmp_path / "j").lines


def test_only_its_owner_reads_a_journal(tmp_path: Path) -> None:
    """A journal has the addresses of a cloud's inside in it."""
    with Journal(tmp_path / "j") as journal:
        journal.plan_started(_plan())
        assert 0o600 == (tmp_path / "j").stat().st_mode & 0o777


async def test_a_full_disk_ends_the_journal_and_not_the_execution(
    alpha: ScriptedQmp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written is given up, with the reason, and the plan continues."""
    whole_write, lines = os.write, []

    def write(file: int, data: bytes) -> int:
        if data.startswith(b"{") and b'"kind"' in data:
            lines.append(data)
            if len(lines) > 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole_write(file, data)

    monkeypatch.setattr(os, "write", write)
    monitor, path = UnixMonitor(path=str(alpha.path)), tmp_path / "j"
    async with await Session.connect("alpha", monitor, limit_s=5) as session:
        with Journal(path) as journal:
            report = await execute(_plan(STOP, CONT), {"alpha": session}, recorder=journal)
    assert (None, f"{path}: No space left on device") == (report.failed, journal.failure)
    assert 2 == len(load(path).lines)


# -- reading


@pytest.fixture
async def written(alpha: ScriptedQmp, tmp_path: Path) -> str:
    """A journal with refusals, events and texts that want to be more than text."""

    def stop(_: object) -> object:
        alpha.event("ODD", words=NASTY)
        return {}

    alpha.replies |= {"stop": stop, "chardev-remove": Refuse("Chardev 'red0' is busy")}
    plan = _plan(STOP, CONT, GONE, recoveries=(RELIEF,), restored="alpha/cont")
    await _recorded(alpha, plan, tmp_path / "written")
    return (tmp_path / "written").read_text()


def test_a_journal_can_be_read_as_far_as_it_goes(written: str) -> None:
    """Cut anywhere behind its first line, a journal is read to the last whole line and drawn."""
    first = written.index("\n") + 1
    whole = loads(written)
    for end in range(first, len(written) + 1, 97):
        recording = loads(written[:end])
        assert whole.lines[: len(recording.lines)] == recording.lines
        assert (written[:end].endswith("\n")) == (recording.cut is None)
        html.render(timeline(recording))


def test_a_command_without_an_answer_is_unknown(written: str) -> None:
    """After a crash right behind a send nobody knows, and the drawing says so."""
    lines = written.splitlines(keepends=True)
    sent = next(n for n, line in enumerate(lines) if '"kind":"command-sent"' in line)
    drawn = timeline(loads("".join(lines[: sent + 1]) + '{"kind":"command-an'))
    assert "not-seen" == drawn.end
    assert (
        "the journal ends before the execution does; its last line is cut off;"
        " whether stop on alpha took effect is unknown" == drawn.verdict
    )
    assert "unknown" == drawn.steps[0].state
    page = html.render(drawn)
    assert "whether it took effect is unknown" in page
    assert '<p class="verdict not-seen"' in page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 must be the first line of a journal"),
        ("{}\n", "line 1.kind must be one of"),
        ("[]\n", "line 1 must be an object"),
        ("{\n", "line 1 must be JSON"),
        ('{"kind":"plan-began"}\n', "line 1.format_version must be 1"),
        ('{"kind":"step-began","at":"","monotonic_s":1,"address":"a"}\n', "line 1 must tell"),
    ],
)
def test_what_is_no_journal_is_refused(text: str, message: str) -> None:
    """A file that does not begin as a journal does is none, and the place is named."""
    with pytest.raises(ParseError, match=message):
        loads(text)


def test_a_broken_line_in_the_middle_is_refused(written: str) -> None:
    """Only the last line can be cut off; anything else was changed by somebody."""
    lines = written.splitlines(keepends=True)
    with pytest.raises(ParseError, match="line 3 must be JSON"):
        loads("".join([*lines[:2], lines[2][:10] + "\n", *lines[3:]]))
    with pytest.raises(ParseError, match="line 2 must not begin another plan"):
        loads(lines[0] * 2)


def test_every_line_keeps_the_schema(written: str) -> None:
    """Each line is what `pycolo schema journal` says, and each kind is in it."""
    schema = json_schema()
    validator = jsonschema.Draft202012Validator(json.loads(json.dumps(schema)))
    validator.check_schema(schema)
    for line in written.splitlines():
        value = json.loads(line)
        validator.validate(value)
        kind = next(kind for kind in get_args(Line) if kebab(kind) == value["kind"])
        fields = {field.name for field in attrs.fields(kind)} | {"kind", "format_version"}
        assert value.keys() <= fields
    assert not validator.is_valid({"kind": "step-began"})
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    assert {kind.__name__ for kind in get_args(Line)} <= set(definitions)
    assert PlanBegan.__name__ in definitions


# -- drawing


@pytest.fixture
def drawn(written: str) -> Timeline:
    """That journal on a time axis."""
    return timeline(loads(written))


def test_a_page_stands_alone_and_runs_nothing(drawn: Timeline) -> None:
    """No text becomes markup, nothing is loaded and nothing is executed."""
    page = html.render(drawn)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\033" not in page
    for loads_something in ("http://", "https://", "src=", "url(", "@import", "<link", "onclick"):
        assert loads_something not in page
    assert "default-src 'none'" in page


def test_a_page_shows_steps_answers_and_what_refusals_mean(drawn: Timeline) -> None:
    """Each step can be opened, those that went wrong are, and the catalogue speaks."""
    page = html.render(drawn)
    assert page.count("<details") == len(drawn.steps) + len(drawn.recovery)
    assert page.count("<details open") == sum(step.state == "refused" for step in drawn.steps)
    assert "prefers-color-scheme:dark" in page
    assert "guest serves again" in page
    assert '<p class="verdict failed"' in page
    assert {"ODD"} == {moment.name for moment in drawn.moments}


@pytest.mark.parametrize(
    ("took_s", "words"),
    [
        (0.00012, "0.1 ms"),
        (0.0634, "63.4 ms"),
        (0.2634, "263 ms"),
        (1.2, "1.20 s"),
        (75, "75.00 s"),
    ],
)
def test_a_duration_has_a_unit_that_fits(took_s: float, words: str) -> None:
    """Milliseconds below a second, seconds above."""
    assert words == duration(took_s)


@pytest.mark.property
@given(st.floats(0, 1e6), st.integers(1, 20))
def test_ticks_are_few_and_evenly_spread(took_s: float, most: int) -> None:
    """A time axis begins with 0, ends within the time and is never crowded."""
    found = list(ticks(took_s, most))
    assert 0 == found[0]
    assert len(found) <= most + 1
    assert found[-1] <= took_s * (1 + 1e-6) + 1e-6


async def test_nothing_is_written_after_the_end(alpha: ScriptedQmp, tmp_path: Path) -> None:
    """An answer that comes when the journal is closed is not waited for, and hurts nobody."""
    alpha.replies["stop"] = SILENCE
    alpha.replies["yank"] = Refuse("Instance not found", "DeviceNotFound")
    monitor = UnixMonitor(path=str(alpha.path))
    async with await Session.connect("alpha", monitor, limit_s=5) as session:
        with Journal(tmp_path / "j") as journal:
            plan = _plan(_execute(qmp.Stop(), limit_s=0.1))
            await execute(plan, {"alpha": session}, recorder=journal)
        size = (tmp_path / "j").stat().st_size
        alpha.release("stop", {})
        alpha.event("RESUME")
        await session.wait_change(5)
        await asyncio.sleep(0)  # whoever heard of the reply has its turn
    assert size == (tmp_path / "j").stat().st_size
    assert None is journal.failure

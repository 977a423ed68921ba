"""Text from outside never reaches a terminal, a log or a message as it came."""

from __future__ import annotations

import json
import logging
import re
import tracemalloc
from collections.abc import Callable
from io import StringIO

import attrs
import pytest
from tests.test_observers import PLAN, RELIEF

from pycolo import _json, errors
from pycolo._printable import LONGEST_MESSAGE, LONGEST_VALUE, brief, page, shown
from pycolo.catalogue import explain
from pycolo.observers import JsonLinesObserver, LogObserver, words
from pycolo.plan import Execute, Plan, Refusal
from pycolo.qmp import commands as qmp
from pycolo.qmp.replies import Version
from pycolo.render import qmp as as_qmp
from pycolo.render import text
from pycolo.result import Done, Outcome, PlanFailed, Refused, Report, TimedOut, Unknown
from pycolo.snapshot import Job, Live, NodeState, Snapshot, Unreachable, Unresponsive

HOSTILE = "a\x1b[2J\x1b]0;title\x07b\r\n\x9b31m\x7f\u202eevil\u2066\u2028\u200f\x00 Z"
MEGABYTES = 1_000_000
STYLE = re.compile("\x1b\\[[0-9]{1,2}m")


def assert_harmless(text_: str, *, lines: bool = False) -> None:
    """Each character of it is printable, line ends aside where there may be some."""
    kept = text_.replace("\n", "") if lines else text_
    assert "" == "".join(c for c in kept if not c.isprintable())


ERRORS = (
    errors.PycoloError(HOSTILE),
    errors.DeclarationError(HOSTILE, HOSTILE, HOSTILE),
    errors.ParseError(HOSTILE, HOSTILE, {HOSTILE: [HOSTILE]}),
    errors.SchemaError(HOSTILE, HOSTILE, (HOSTILE, HOSTILE)),
    errors.VersionError((HOSTILE,), HOSTILE, HOSTILE),
    errors.compile_error("no-answer", HOSTILE, HOSTILE),
    errors.undecided("no-answer", HOSTILE),
    errors.CommandRefused(HOSTILE, HOSTILE, HOSTILE, HOSTILE),
    errors.CommandUnknown(HOSTILE, HOSTILE, HOSTILE),
    errors.Busy(HOSTILE, HOSTILE),
    errors.Unresponsive(HOSTILE, 1.0),
    errors.ConnectionFailed(HOSTILE, HOSTILE, HOSTILE),
    errors.HostRefused(HOSTILE, HOSTILE, HOSTILE),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_one_printable_line(error: errors.PycoloError) -> None:
    """Whatever an error was made from, its text can be shown; its attributes stay as they came."""
    assert_harmless(str(error))
    assert "evil" in str(error)


def test_an_error_keeps_what_it_was_made_from() -> None:
    """A program that compares QEMU's words gets them as QEMU said them."""
    assert HOSTILE == errors.CommandRefused("alpha", "stop", "GenericError", HOSTILE).text


def test_an_error_stays_short() -> None:
    """A megabyte in a path, a rule, a value or QEMU's words does not become a megabyte of text."""
    big = "x" * MEGABYTES
    for error in (
        errors.ParseError(big, big, big),
        errors.DeclarationError(big, [big] * 9, big),
        errors.CommandRefused("alpha", "stop", "GenericError", big),
    ):
        assert LONGEST_MESSAGE + len("...") >= len(str(error))
    assert "must be short" in str(errors.ParseError(big, "be short", big))


def _deep(levels: int) -> object:
    value: object = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        "x" * MEGABYTES,
        b"x" * MEGABYTES,
        ["x"] * MEGABYTES,
        {"x" * MEGABYTES: "y" * MEGABYTES},
        _deep(100_000),
        10**5000,
        [10**5000],
    ],
    ids=["string", "bytes", "list", "object", "deep", "number", "list with a number"],
)
def test_a_value_is_quoted_without_being_written_out(value: object) -> None:
    """A message with a huge or deeply nested value takes no memory of its size, and never fails."""
    tracemalloc.start()
    try:
        quoted = shown(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert LONGEST_VALUE + len("...") >= len(quoted)
    assert MEGABYTES // 4 > peak


@pytest.mark.parametrize(
    "value",
    ["a", 'it\'s "one"', b"a", 7, -0.5, None, True, [1, "b"], (1,), (1, 2), {"a": {"b": []}}, {}],
)
def test_a_small_value_is_quoted_as_python_writes_it(value: object) -> None:
    """What is short and printable is shown whole."""
    assert repr(value) == shown(value)


OUTCOMES: tuple[Outcome, ...] = (
    Done(took_s=0.1, reply=HOSTILE),
    Refused(took_s=0.1, reason=HOSTILE),
    Unknown(took_s=0.1, reason=HOSTILE),
    TimedOut(took_s=0.1, reason=HOSTILE),
)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_an_outcome_holds_one_printable_line(outcome: Outcome) -> None:
    """What QEMU said is made harmless when it becomes an outcome, so that no reader can forget."""
    assert_harmless(repr(outcome))
    assert_harmless(words(outcome))
    assert "evil" in words(outcome)


def test_a_node_s_state_holds_one_printable_line() -> None:
    """Why a node is not reached is told by whoever listens on its socket."""
    assert brief(HOSTILE) == Unreachable(why=HOSTILE).why
    assert brief(HOSTILE) == Unresponsive(why=HOSTILE, oob=True).why


def _hostile_plan() -> Plan:
    """A plan as somebody's file may hold it."""
    accepts = Refusal(error_class=HOSTILE, text=HOSTILE)
    step = Execute(
        address=f"alpha/{HOSTILE}",
        node="alpha",
        command=qmp.ObjectDel(id="m0"),
        why=HOSTILE,
        limit_s=1,
        accepts=(accepts,),
    )
    prior: dict[str, NodeState] = {"alpha": _hostile_live(), "beta": Unreachable(why=HOSTILE)}
    return attrs.evolve(PLAN, steps=(step,), prior_state=Snapshot(nodes=prior))


def _hostile_live() -> Live:
    """A QEMU that answers with anything."""
    return Live(
        version=Version.parse("11.1.3"),
        instance=HOSTILE,
        run_state=HOSTILE,
        migration=HOSTILE,
        exports={HOSTILE: HOSTILE},
        jobs={HOSTILE: Job(status=HOSTILE, error=HOSTILE)},
        chardevs={HOSTILE: True},
    )


def _hostile_report() -> Report:
    plan = _hostile_plan()
    return Report(plan=plan, outcomes={plan.steps[0].address: OUTCOMES[1]})


RENDERED: dict[str, Callable[[], str]] = {
    "a plan": lambda: text.render(_hostile_plan()),
    "a plan in colour": lambda: STYLE.sub("", text.render(_hostile_plan(), colour=True)),
    "a plan as QMP": lambda: as_qmp.render(_hostile_plan()),
    "a report": lambda: text.render_report(_hostile_report()),
    "a snapshot": lambda: text.render_snapshot(_hostile_plan().prior_state),
    "explanations": lambda: text.render_explanations(
        explain(f"Device '{HOSTILE}' not found", command="object-del")
    ),
}


@pytest.mark.parametrize("case", RENDERED)
def test_what_is_rendered_is_harmless(case: str) -> None:
    """No line for people holds a sequence, a line end or a mark from a file or from QEMU."""
    assert_harmless(RENDERED[case](), lines=True)


def test_styles_are_the_only_sequences_of_a_page() -> None:
    """Colour stays where it is asked for; whatever else begins with ESC goes."""
    line = "\x1b[31mred\x1b[0m \x1b[2J\x1b]0;x\x07 \tend"
    assert "\x1b[31mred\x1b[0m  [2J ]0;x  \tend\n" == page([line], colour=True)
    assert " [31mred [0m  [2J ]0;x  \tend\n" == page([line])


def test_the_advice_of_a_report_is_one_printable_line() -> None:
    """A step's address comes from a plan file, its reason from QEMU."""
    report = _hostile_report()
    assert_harmless(report.advice)
    assert_harmless(str(PlanFailed(report)))


def test_a_log_line_cannot_be_forged(caplog: pytest.LogCaptureFixture) -> None:
    """A line end in a plan file or in QEMU's words begins no log line of its own."""
    caplog.set_level(logging.DEBUG)
    observer, report = LogObserver(), _hostile_report()
    observer.plan_started(report.plan)
    for step in report.plan.steps:
        observer.step_started(report.plan, step)
        observer.step_progress(report.plan, step.address, 1, 2, 3.0)
        observer.step_finished(report.plan, step.address, report.outcomes[step.address])
    observer.recovery_started(report.plan, attrs.evolve(RELIEF, why=HOSTILE))
    observer.plan_finished(report)
    assert 6 == len(caplog.messages)
    for message in caplog.messages:
        assert_harmless(message)


def test_json_is_printable_and_loses_nothing() -> None:
    """JSON for programs may be read on a terminal all the same; a program gets what was there."""
    value: _json.JsonValue = {HOSTILE: [HOSTILE, "\ud800", "\U000e0041", "é"]}
    for indent in (None, 2):
        told = _json.dumps(value, indent=indent)
        assert_harmless(told, lines=indent is not None)
        assert value == json.loads(told)
        assert "é" in told


def test_lines_for_programs_are_printable() -> None:
    """The lines of an execution are written while a terminal may show them."""
    stream, report = StringIO(), _hostile_report()
    observer = JsonLinesObserver(stream)
    for address, outcome in report.outcomes.items():
        observer.step_finished(report.plan, address, outcome)
    observer.plan_finished(report)
    assert_harmless(stream.getvalue(), lines=True)

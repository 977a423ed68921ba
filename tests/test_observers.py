"""What observers are told, and what they make of it."""

import json
import logging
from io import StringIO

import pytest

from pycolo import conditions as c
from pycolo.model import ColoPair, Node
from pycolo.observers import JsonLinesObserver, LogObserver, Observer, Several, words
from pycolo.plan import Check, CreateImage, Execute, Plan, Recovery, RunHost, Wait
from pycolo.qmp import commands as qmp
from pycolo.result import Done, NotRun, Outcome, Refused, Report, TimedOut, Unknown
from pycolo.snapshot import Snapshot

NOTHING = Snapshot(nodes={})
RUNS = c.RunStateIs(node="alpha", states=("running",))
CONT = Execute(address="alpha/cont", node="alpha", command=qmp.Cont(), why="it stands", limit_s=1)
IMAGE = CreateImage(path="/a/x", image_format="raw", size_bytes=512, argv=("qemu-img",))
STEPS = (
    CONT,
    Wait(address="alpha/wait", node="alpha", until=RUNS, why="", limit_s=1),
    Check(address="alpha/check", node="alpha", condition=RUNS, why=""),
    RunHost(address="alpha/image", node="alpha", action=IMAGE, why="", limit_s=1),
)
PLAN = Plan(
    procedure="start",
    pair=ColoPair(
        name="colo",
        nodes=(
            Node(name="alpha", address="127.0.0.1", image_folder="/a"),
            Node(name="beta", address="127.0.0.2", image_folder="/b"),
        ),
    ),
    qemu={},
    dialect="auto",
    prior_state=NOTHING,
    planned_state=NOTHING,
    steps=STEPS,
)
RELIEF = Recovery(first=CONT.address, last=CONT.address, steps=(), why="the guest stands")
REPORT = Report(plan=PLAN, outcomes={CONT.address: Refused(took_s=0.1, reason="no")})
OUTCOMES: tuple[tuple[Outcome, str, str], ...] = (
    (Done(took_s=0.0015), "done", "done in 1.5 ms"),
    (Done(took_s=0.001, reply="so already"), "done", "done in 1.0 ms: so already"),
    (Refused(took_s=1, reason="no"), "refused", "refused: no"),
    (Unknown(took_s=1, reason="silence"), "unknown", "unknown: silence"),
    (TimedOut(took_s=1, reason="late"), "timed-out", "timed out: late"),
    (NotRun(), "not-run", "not run"),
)


def _everything(observer: Observer) -> None:
    """Tell an observer all there is to tell."""
    observer.plan_started(PLAN)
    for step in STEPS:
        observer.step_started(PLAN, step)
    observer.step_progress(PLAN, CONT.address, 1, 2, 3.4)
    for outcome, _, _ in OUTCOMES:
        observer.step_finished(PLAN, CONT.address, outcome)
    observer.recovery_started(PLAN, RELIEF)
    observer.plan_finished(REPORT)


def test_each_line_is_one_json_object() -> None:
    """Programs read line by line, and each line says by itself what it is about."""
    told = StringIO()
    _everything(JsonLinesObserver(told))
    lines = [json.loads(line) for line in told.getvalue().splitlines()]
    expected = ["plan-started", *["step-started"] * 4, "step-progress", *["step-finished"] * 6]
    assert [*expected, "recovery-started", "plan-finished"] == [line["event"] for line in lines]
    kinds = ["execute", "wait", "check", "run-host"]
    assert kinds == [line["kind"] for line in lines if line["event"] == "step-started"]
    found = [line["outcome"] for line in lines if line["event"] == "step-finished"]
    assert [verdict for _, verdict, _ in OUTCOMES] == found
    assert (1, "alpha/cont") == (lines[-1]["exit_code"], lines[-1]["failed"])


@pytest.mark.parametrize(("outcome", "text"), [(outcome, text) for outcome, _, text in OUTCOMES])
def test_outcome_in_words(outcome: Outcome, text: str) -> None:
    """A person reads what became of a step, and why."""
    assert text == words(outcome)


def test_log_warns_of_what_went_wrong(caplog: pytest.LogCaptureFixture) -> None:
    """Failures stand out in a log: steps and recovery as warnings, the end as an error."""
    caplog.set_level(logging.DEBUG, "pycolo.execute")
    _everything(LogObserver())
    loud = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    name = PLAN.pair.name
    assert f"{name}: alpha/cont: refused: no" in loud
    assert f"{name}: recovery: the guest stands" in loud
    assert f"{name}: {REPORT.advice}" == loud[-1]


def test_several_are_told_alike() -> None:
    """Each of several observers is told everything."""
    first, second = StringIO(), StringIO()
    _everything(Several((JsonLinesObserver(first), Observer(), JsonLinesObserver(second))))
    assert first.getvalue() == second.getvalue() != ""

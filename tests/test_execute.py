"""The executor against scripted monitors: steps that QEMU refuses, or leaves open."""

import asyncio
import json
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping
from io import StringIO
from pathlib import Path

import attrs
import pytest
from tests.scripted_qmp import HANG_UP, SILENCE, Refuse, ScriptedQmp, scripted_qmp
from tests.watching import Watching
from typing_extensions import override

from pycolo import conditions as c
from pycolo import wire
from pycolo._execute import execute
from pycolo.evidence import Evidence, Victim
from pycolo.hosts.local import LocalHost
from pycolo.model import ColoPair, Node, UnixMonitor
from pycolo.observers import JsonLinesObserver
from pycolo.plan import Check, Execute, Plan, Record, Recovery, Refusal, Step, Wait
from pycolo.qmp import commands as qmp
from pycolo.qmp.objects import YankBlockNode
from pycolo.qmp.replies import Version
from pycolo.record import Change, NoRecord, PairRecord, dumps
from pycolo.result import (
    Done,
    InUse,
    NotConnected,
    NotRun,
    Outcome,
    PlanFailed,
    Refused,
    Report,
    TimedOut,
    Unknown,
)
from pycolo.session import Session
from pycolo.snapshot import Dead, Live, Snapshot

VERSION = Version(major=11, minor=1, micro=3)
PAIR = ColoPair(
    name="colo",
    nodes=(
        Node(name="alpha", address="127.0.0.1", image_folder="/a"),
        Node(name="beta", address="127.0.0.2", image_folder="/b"),
    ),
)
LIVE = Snapshot(nodes={"alpha": Live(version=VERSION), "beta": Live(version=VERSION)})
SHORT_S = 0.1
LONG_S = 20.0
RUNNING = {"running": True, "status": "running"}
PAUSED = {"running": False, "status": "paused"}


@pytest.fixture
async def alpha(tmp_path: Path) -> AsyncGenerator[ScriptedQmp]:
    """The monitor of one node."""
    async with scripted_qmp(tmp_path / "alpha") as served:
        yield served


@pytest.fixture
async def beta(tmp_path: Path) -> AsyncGenerator[ScriptedQmp]:
    """The monitor of the other node."""
    async with scripted_qmp(tmp_path / "beta") as served:
        yield served


@pytest.fixture
async def sessions(alpha: ScriptedQmp, beta: ScriptedQmp) -> AsyncGenerator[dict[str, Session]]:
    """A session with each."""
    opened = {}
    for name, script in (("alpha", alpha), ("beta", beta)):
        monitor = UnixMonitor(path=str(script.path))
        opened[name] = await Session.connect(name, monitor, limit_s=5)
    yield opened
    for session in opened.values():
        await session.aclose()


def _plan(
    *steps: Step, recoveries: tuple[Recovery, ...] = (), prior_state: Snapshot = LIVE
) -> Plan:
    return Plan(
        procedure="start",
        pair=PAIR,
        qemu={"alpha": VERSION, "beta": VERSION},
        dialect="auto",
        prior_state=prior_state,
        planned_state=prior_state,
        steps=steps,
        recoveries=recoveries,
    )


def _execute(
    command: qmp.Command,
    node: str = "alpha",
    *,
    limit_s: float = LONG_S,
    accepts: tuple[Refusal, ...] = (),
    rescue: tuple[qmp.Yank, ...] = (),
) -> Execute:
    address = f"{node}/{command.qmp_name}/{command.subject}".rstrip("/")
    return Execute(
        address=address,
        node=node,
        command=command,
        why="",
        limit_s=limit_s,
        accepts=accepts,
        rescue=rescue,
    )


def _wait(
    until: c.Condition, *, limit_s: float = LONG_S, unless: c.Condition | None = None
) -> Wait:
    return Wait(address="wait", node="alpha", until=until, why="", limit_s=limit_s, unless=unless)


def _check(condition: c.Condition) -> Check:
    return Check(address="check", node="alpha", condition=condition, why="")


def _kinds(outcomes: Mapping[str, Outcome]) -> list[object]:
    return [type(outcome) for outcome in outcomes.values()]


def _reason(report: Report) -> str:
    outcome = report.outcomes[report.failed or ""]
    assert not isinstance(outcome, Done | NotRun)
    return outcome.reason


STOP = _execute(qmp.Stop())
CONT = _execute(qmp.Cont())
YANK = qmp.Yank(instances=(YankBlockNode(node_name="nbd0"),))
ALPHA_RUNS = c.RunStateIs(node="alpha", states=("running",))


async def test_steps_run_in_order_and_the_report_says_so(
    sessions: dict[str, Session], alpha: ScriptedQmp, beta: ScriptedQmp
) -> None:
    """Each step goes to its node, one after the other, and all are done."""
    report = await execute(_plan(STOP, _execute(qmp.Cont(), "beta"), CONT), sessions)
    assert [Done, Done, Done] == _kinds(report.outcomes)
    assert (["stop", "cont"], ["cont"]) == (alpha.commands, beta.commands)
    assert (None, 0) == (report.failed, report.exit_code)
    assert report is report.raise_on_failure()


async def test_what_only_waits_had_nothing_to_do(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """As for the end of a checkpoint, by a procedure that is finished."""
    alpha.replies["query-status"] = RUNNING
    report = await execute(_plan(_wait(ALPHA_RUNS)), sessions)
    assert report.advice.endswith(" is done: there was nothing to do")


async def test_empty_plan_is_done(sessions: dict[str, Session]) -> None:
    """Nothing to do is done, and that is said."""
    report = await execute(_plan(), sessions)
    assert 0 == report.exit_code
    assert report.advice.endswith(" is done: there was nothing to do")


async def test_refusal_ends_it(sessions: dict[str, Session], alpha: ScriptedQmp) -> None:
    """After a refusal nothing more is sent, and nothing was changed."""
    alpha.replies["stop"] = Refuse("not now")
    report = await execute(_plan(STOP, CONT), sessions)
    assert [Refused, NotRun] == _kinds(report.outcomes)
    assert ("alpha/stop", 1) == (report.failed, report.exit_code)
    assert "not now" in report.advice
    with pytest.raises(PlanFailed, match="not now"):
        report.raise_on_failure()


async def test_change_before_a_refusal_is_unfinished(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """What was done before a refusal stays done: the exit code says changed."""
    alpha.replies["cont"] = Refuse("no")
    assert 3 == (await execute(_plan(STOP, CONT), sessions)).exit_code


async def test_accepted_refusal_is_done(sessions: dict[str, Session], alpha: ScriptedQmp) -> None:
    """A refusal that means "so already" is done, with QEMU's words kept."""
    alpha.replies["object-del"] = Refuse("object 'm0' not found")
    step = _execute(qmp.ObjectDel(id="m0"), accepts=(Refusal(text="not found"),))
    report = await execute(_plan(step), sessions)
    outcome = report.outcomes[step.address]
    assert isinstance(outcome, Done)
    assert "object 'm0' not found" == outcome.reply


async def test_accepted_words_in_another_class_are_refused(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """The error's class has to be the accepted one too."""
    alpha.replies["object-del"] = Refuse("object 'm0' not found", "DeviceNotFound")
    step = _execute(qmp.ObjectDel(id="m0"), accepts=(Refusal(text="not found"),))
    assert [Refused] == _kinds((await execute(_plan(step), sessions)).outcomes)


async def test_silence_is_unknown(sessions: dict[str, Session], alpha: ScriptedQmp) -> None:
    """A command without an answer may have taken effect."""
    alpha.replies["stop"] = SILENCE
    step = _execute(qmp.Stop(), limit_s=SHORT_S)
    report = await execute(_plan(step, CONT), sessions)
    assert [Unknown, NotRun] == _kinds(report.outcomes)
    assert 3 == report.exit_code
    assert "never repeat" in report.advice


async def test_rescue_is_sent_out_of_band_and_the_command_once(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """When the limit passes the rescue goes out of band; the same command's late reply counts."""
    alpha.replies["x-colo-lost-heartbeat"] = SILENCE

    def cured(_: Mapping[str, object]) -> object:
        alpha.release("x-colo-lost-heartbeat", {})
        return Refuse("Instance not found", "DeviceNotFound")

    alpha.replies["yank"] = cured
    step = _execute(qmp.XColoLostHeartbeat(), limit_s=SHORT_S, rescue=(YANK,))
    report = await execute(_plan(step), sessions)
    assert [Done] == _kinds(report.outcomes)
    assert ["x-colo-lost-heartbeat", "yank"] == alpha.commands
    assert "yank" == alpha.seen[1]["exec-oob"]


async def test_human_monitor_words_are_a_refusal(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """The human monitor refuses in words, in a reply that says success."""
    alpha.replies["human-monitor-command"] = "Error: Duplicate nodes with node-name='nbd0'\r\n"
    add = qmp.HumanMonitorCommand.drive_add(
        node_name="replication0", host="127.0.0.2", port=9999, export="parent0"
    )
    report = await execute(_plan(_execute(add)), sessions)
    assert "Duplicate nodes" in _reason(report)


@pytest.mark.parametrize(
    ("text", "nodes", "expected"),
    [
        ("", [], Done),
        ("Failed flush for 'nbd://h:1/parent0' during close: Input/output error\r\n", [], Done),
        ("Error: Device 'replication0' not found\r\n", [], Done),
        ("Error: Block device replication0 is in use\r\n", ["replication0"], Refused),
    ],
)
async def test_drive_del_is_judged_by_the_nodes(
    sessions: dict[str, Session], alpha: ScriptedQmp, text: str, nodes: list[str], expected: type
) -> None:
    """A deletion is done when the node is gone, whatever was said about it."""
    alpha.replies["human-monitor-command"] = text
    alpha.replies["query-named-block-nodes"] = [
        {
            "node-name": name,
            "drv": "replication",
            "file": "x",
            "image": {"virtual-size": 1},
            "ro": False,
        }
        for name in nodes
    ]
    step = _execute(qmp.HumanMonitorCommand.drive_del("replication0"))
    assert [expected] == _kinds((await execute(_plan(step), sessions)).outcomes)


async def test_wait_is_woken_by_an_event(sessions: dict[str, Session], alpha: ScriptedQmp) -> None:
    """An event makes the condition be looked at again; it is the query that decides."""
    alpha.replies["query-status"] = PAUSED
    task = asyncio.create_task(execute(_plan(_wait(ALPHA_RUNS)), sessions))
    await alpha.until_seen("query-status")
    alpha.replies["query-status"] = RUNNING
    alpha.event("RESUME")
    assert [Done] == _kinds((await task).outcomes)


async def test_wait_that_does_not_come_true_names_what_was_seen(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """The report says which part is not true, and what was seen instead."""
    alpha.replies["query-status"] = PAUSED
    report = await execute(_plan(_wait(ALPHA_RUNS, limit_s=SHORT_S)), sessions)
    assert [TimedOut] == _kinds(report.outcomes)
    assert "alpha has run state running (run state paused)" in _reason(report)
    assert 1 == report.exit_code


async def test_wait_ends_where_it_is_pointless(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """What makes waiting pointless ends it at once, and is named."""
    alpha.replies["query-status"] = PAUSED
    alpha.replies["query-migrate"] = {"status": "failed"}
    failed = c.MigrationIs(node="alpha", statuses=("failed",))
    report = await execute(_plan(_wait(ALPHA_RUNS, unless=failed)), sessions)
    assert "alpha's migration is failed" in _reason(report)


async def test_migration_that_failed_says_why(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """QEMU's own reason stands in the report: a blocked port, a certificate that it refused."""
    alpha.replies["query-status"] = PAUSED
    reason = "Failed to connect to '192.0.2.12:9998': No route to host"
    alpha.replies["query-migrate"] = {"status": "failed", "error-desc": reason}
    failed = c.MigrationIs(node="alpha", statuses=("failed",))
    report = await execute(_plan(_wait(ALPHA_RUNS, unless=failed)), sessions)
    assert reason in _reason(report)


async def test_silent_node_makes_no_condition_true(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """Of a node that is silent nothing holds; its monitor is not even gone."""
    alpha.replies["query-status"] = SILENCE
    condition = c.AnyOf(conditions=(ALPHA_RUNS, c.Gone(node="alpha")))
    report = await execute(_plan(_wait(condition, limit_s=SHORT_S)), sessions)
    assert [TimedOut] == _kinds(report.outcomes)
    assert "did not answer query-status" in _reason(report)


async def test_waiting_ends_when_a_main_loop_is_stuck(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """A node that leaves a query unanswered for a command's time is not waited for any longer."""
    alpha.replies["query-status"] = SILENCE
    plan = _plan(_wait(ALPHA_RUNS))
    timeouts = attrs.evolve(plan.pair.timeouts, command_s=SHORT_S)
    impatient = attrs.evolve(plan, pair=attrs.evolve(plan.pair, timeouts=timeouts))
    report = await execute(impatient, sessions)
    assert [Unknown] == _kinds(report.outcomes)
    assert "no answer within" in _reason(report)


async def test_wait_may_allow_a_longer_silence(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """A main loop that computes for long is not stuck, where a step says how long it may."""
    alpha.replies["query-status"] = SILENCE
    patient = attrs.evolve(_wait(ALPHA_RUNS), answer_s=2 * SHORT_S)
    plan = _plan(patient)
    timeouts = attrs.evolve(plan.pair.timeouts, command_s=SHORT_S)
    plan = attrs.evolve(plan, pair=attrs.evolve(plan.pair, timeouts=timeouts))
    report = await execute(plan, sessions)
    assert [Unknown] == _kinds(report.outcomes)
    assert f"no answer within {2 * SHORT_S:g} s" in _reason(report)


async def test_hang_up_is_gone(sessions: dict[str, Session], alpha: ScriptedQmp) -> None:
    """A closed monitor is what `Gone` waits for."""
    alpha.replies["query-name"] = {}
    task = asyncio.create_task(execute(_plan(_wait(c.Gone(node="alpha"))), sessions))
    await asyncio.sleep(0)  # the plan begins
    alpha.hang_up()
    assert [Done] == _kinds((await task).outcomes)


async def test_checkpoint_after_a_step_is_seen_on_the_other_node(
    sessions: dict[str, Session], alpha: ScriptedQmp, beta: ScriptedQmp
) -> None:
    """A checkpoint counts from the sending of the step it names, on whatever node."""
    beta.event("STOP")
    beta.event("RESUME")
    await sessions["beta"].wait_change(LONG_S, since=0)
    force = _execute(qmp.MigrateSetParameters(x_checkpoint_delay_ms=20000))
    wait = _wait(c.CheckpointSeen(node="beta", since=force.address))
    task = asyncio.create_task(execute(_plan(force, wait), sessions))
    await alpha.until_seen("migrate-set-parameters")
    assert not (await asyncio.wait((task,), timeout=SHORT_S))[0]
    beta.event("STOP")
    beta.event("RESUME")
    assert [Done, Done] == _kinds((await task).outcomes)


async def test_colo_exit_of_the_generation_before_is_forgotten_at_migrate(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """A latched COLO_EXIT refuses, unless a migrate of this plan began a new generation."""
    alpha.event("COLO_EXIT", mode="secondary", reason="request")
    await sessions["alpha"].wait_change(LONG_S, since=0)
    whole = _check(c.NoColoExit(node="alpha"))
    assert [Refused] == _kinds((await execute(_plan(whole), sessions)).outcomes)
    migrate = _execute(qmp.Migrate(uri="tcp:127.0.0.2:9998"))
    assert [Done, Done] == _kinds((await execute(_plan(migrate, whole), sessions)).outcomes)


VICTIM = Victim(node="beta", instance="colo:beta:0000000b", epoch=4)


def _fence(
    instance: str = VICTIM.instance, epoch: int = VICTIM.epoch, node: str = "beta"
) -> Evidence:
    return Evidence(
        kind="fence",
        node=node,
        instance=instance,
        epoch=epoch,
        who="me",
        how="power",
        when="2026-01-01T00:00:00Z",
    )


def _dead(evidence: Evidence | None) -> Snapshot:
    return LIVE.with_node("beta", Dead(evidence=evidence))


@pytest.mark.parametrize(
    ("prior_state", "given", "expected"),
    [
        (LIVE, {}, Refused),
        (LIVE, {"beta": _fence()}, Done),
        (LIVE, {"beta": _fence("colo:beta:0000000c")}, Refused),
        (LIVE, {"beta": _fence(epoch=3)}, Refused),
        (LIVE, {"beta": _fence(node="alpha")}, Refused),
        (_dead(None), {}, Refused),
        (_dead(attrs.evolve(_fence(), kind="exit")), {}, Refused),
        (_dead(_fence()), {}, Done),
        (_dead(_fence("colo:beta:0000000c")), {}, Refused),
        (_dead(_fence(epoch=3)), {}, Refused),
    ],
)
async def test_death_needs_evidence_of_that_very_qemu(
    sessions: dict[str, Session],
    prior_state: Snapshot,
    given: dict[str, Evidence],
    expected: type,
) -> None:
    """Only evidence given now, or a fence kept in the plan, of this instance in this epoch."""
    dead = c.PeerDead(node=VICTIM.node, instance=VICTIM.instance, epoch=VICTIM.epoch)
    plan = _plan(_check(dead), prior_state=prior_state)
    report = await execute(plan, {"alpha": sessions["alpha"]}, evidence=given)
    assert [expected] == _kinds(report.outcomes)
    assert (0 if expected is Done else 4) == report.exit_code


async def test_plan_for_another_version_is_refused(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """A plan made for another QEMU is not begun."""
    alpha.version["micro"] = 4
    monitor = UnixMonitor(path=str(alpha.path))
    await sessions["alpha"].aclose()
    async with await Session.connect("alpha", monitor, limit_s=5) as newer:
        report = await execute(_plan(STOP), {"alpha": newer})
    assert ([Refused], []) == (_kinds(report.outcomes), alpha.commands[:0])
    assert "stop" not in alpha.commands


async def test_plan_for_another_instance_is_refused(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """A QEMU that was started anew is not taken for the old one."""
    alpha.replies["query-name"] = {"name": "new"}
    prior_state = LIVE.with_node("alpha", Live(version=VERSION, instance="old"))
    report = await execute(_plan(STOP, prior_state=prior_state), sessions)
    assert "the plan is for the QEMU old, on alpha runs new" in _reason(report)
    assert "stop" not in alpha.commands


async def test_missing_session_is_refused() -> None:
    """A plan that speaks to a node needs a session with it."""
    report = await execute(_plan(STOP), {})
    assert "no connection to alpha" in _reason(report)


def _recovery(first: Step, last: Step) -> Recovery:
    again = Execute(
        address="recovery/cont", node="alpha", command=qmp.Cont(), why="", limit_s=LONG_S
    )
    return Recovery(first=first.address, last=last.address, steps=(again,), why="the guest stands")


async def test_recovery_runs_when_execution_ends_inside_the_range(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """A failure inside a range brings the guest back, and the report tells both."""
    alpha.replies["object-add"] = {}
    alpha.replies["object-del"] = Refuse("no")
    fail = _execute(qmp.ObjectDel(id="m0"))
    plan = _plan(STOP, fail, CONT, recoveries=(_recovery(STOP, CONT),))
    report = await execute(plan, sessions)
    assert [Done, Refused, NotRun] == _kinds(report.outcomes)
    assert {"recovery/cont": Done} == {a: type(o) for a, o in report.recovery.items()}
    assert ["stop", "object-del", "cont"] == alpha.commands[:3]
    assert report.after is not None


async def test_recovery_does_not_run_after_the_range(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """A range that was left is left alone."""
    alpha.replies["object-del"] = Refuse("no")
    fail = _execute(qmp.ObjectDel(id="m0"))
    report = await execute(_plan(STOP, CONT, fail, recoveries=(_recovery(STOP, CONT),)), sessions)
    assert {} == report.recovery


async def test_cancelling_keeps_the_reply_of_a_command_that_was_sent(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """Cancelled between two steps: the first is finished, the second never sent, all is told."""
    alpha.replies["stop"] = SILENCE
    told = StringIO()
    plan = _plan(STOP, _execute(qmp.Cont()))
    task = asyncio.create_task(execute(plan, sessions, observer=JsonLinesObserver(told)))
    await alpha.until_seen("stop")
    task.cancel()
    await asyncio.sleep(0)  # the cancellation arrives before the reply does
    alpha.release("stop", {})
    with pytest.raises(asyncio.CancelledError):
        await task
    lines = [json.loads(line) for line in told.getvalue().splitlines()]
    outcomes = {line["address"]: line["outcome"] for line in lines if "outcome" in line}
    assert {"alpha/stop": "done"} == outcomes
    assert ("plan-finished", 3) == (lines[-1]["event"], lines[-1]["exit_code"])
    assert "cont" not in alpha.commands


async def test_cancelling_inside_a_range_finishes_it(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """A guest that was stopped continues before a cancellation takes effect."""
    alpha.replies["object-del"] = SILENCE
    inside = _execute(qmp.ObjectDel(id="m0"))
    later = _execute(qmp.ObjectDel(id="m1"))
    plan = _plan(STOP, inside, CONT, later, recoveries=(_recovery(STOP, CONT),))
    task = asyncio.create_task(execute(plan, sessions))
    await alpha.until_seen("object-del")
    task.cancel()
    await asyncio.sleep(0)  # the cancellation arrives before the reply does
    alpha.replies["object-del"] = {}
    alpha.release("object-del", {})
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ["stop", "object-del", "cont"] == alpha.commands[:3]
    assert 1 == alpha.commands.count("object-del")


async def test_cancelling_ends_a_wait_that_changes_nothing(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """A long wait outside of all ranges is left at once."""
    alpha.replies["query-status"] = PAUSED
    task = asyncio.create_task(execute(_plan(_wait(ALPHA_RUNS, limit_s=1e6)), sessions))
    await alpha.until_seen("query-status")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, LONG_S)


async def test_one_session_serves_one_execution(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """A second execution over a session in use changes nothing; afterwards it is free again."""
    alpha.replies["stop"] = SILENCE
    first = asyncio.create_task(execute(_plan(STOP), sessions))
    await alpha.until_seen("stop")
    second = await execute(_plan(_execute(qmp.Cont())), sessions)
    assert "another execution uses the session with alpha" in second.advice
    remedy = "wait until the other execution has ended, then run the procedure again"
    assert second.advice.endswith(remedy)
    checked = await execute(_plan(_check(ALPHA_RUNS)), sessions)
    assert isinstance(outcome := checked.outcomes["check"], Refused)
    assert InUse(nodes=("alpha",)) == outcome.hindrance
    assert "compile it again" not in checked.advice
    assert checked.outcomes == wire.report_from_json(wire.report_to_json(checked)).outcomes
    assert 1 == second.exit_code
    alpha.release("stop", {})
    assert None is (await first).failed
    assert ["stop"] == [name for name in alpha.commands if name in ("stop", "cont")]
    assert None is (await execute(_plan(_execute(qmp.Cont())), sessions)).failed


async def test_limit_ends_execution_and_keeps_its_report(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """What was not begun by then is not run, and all that was done is told."""
    alpha.replies["query-status"] = PAUSED
    plan = _plan(STOP, _wait(ALPHA_RUNS, limit_s=1e6), CONT)
    report = await execute(plan, sessions, limit_s=SHORT_S)
    outcomes = [type(outcome) for outcome in report.outcomes.values()]
    assert [Done, NotRun, NotRun] == outcomes
    assert 3 == report.exit_code
    assert report.advice.endswith("; run the procedure again: it continues from what is there")


# -- the record


@pytest.fixture
def host() -> LocalHost:
    """This machine."""
    return LocalHost()


@pytest.fixture
def pair() -> Generator[ColoPair]:
    """The pair, with a folder on a disk for the record of each node."""
    with tempfile.TemporaryDirectory(prefix="colo-", dir="/var/tmp") as folder:
        nodes = []
        for node in PAIR.nodes:
            place = Path(folder, node.name)
            place.mkdir()
            nodes.append(attrs.evolve(node, image_folder=str(place), state_dir=str(place)))
        yield attrs.evolve(PAIR, nodes=tuple(nodes))


def _sole(node: str, epoch: int, revision: int = 0) -> PairRecord:
    return PairRecord(
        pair="colo",
        birth="00000001",
        epoch=epoch,
        revision=revision,
        holder=node,
        eligible={node: f"colo:{node}:0000000a"},
        phase="alone",
    )


def _record(node: str, change: Change, *, needs: Victim | None = None) -> Record:
    address = f"{node}/record"
    return Record(address=address, node=node, change=change, why="", limit_s=LONG_S, needs=needs)


def _kept(pair: ColoPair) -> str | None:
    path = Path(pair.record_path("alpha"))
    return path.read_text(encoding="utf-8") if path.exists() else None


def _keep(pair: ColoPair, text: str) -> None:
    Path(pair.record_path("alpha")).write_text(text, encoding="utf-8")


FIRST = Change(expects=NoRecord(), becomes=_sole("alpha", 1))


def _of(pair: ColoPair, *steps: Step, recoveries: tuple[Recovery, ...] = ()) -> Plan:
    return attrs.evolve(_plan(*steps, recoveries=recoveries), pair=pair)


async def test_record_is_written_before_the_next_command(
    sessions: dict[str, Session], alpha: ScriptedQmp, host: LocalHost, pair: ColoPair
) -> None:
    """What the next step relies on is on the disk before it is sent."""
    seen: list[str | None] = []

    def observe(_: Mapping[str, object]) -> object:
        seen.append(_kept(pair))
        return {}

    alpha.replies["stop"] = observe
    report = await execute(_of(pair, _record("alpha", FIRST), STOP), sessions, {"alpha": host})
    assert ([Done, Done], [dumps(FIRST.becomes)]) == (_kinds(report.outcomes), seen)


async def test_record_that_was_changed_meanwhile_ends_the_plan(
    sessions: dict[str, Session], alpha: ScriptedQmp, host: LocalHost, pair: ColoPair
) -> None:
    """Somebody else was first: nothing is sent and his record stays."""
    theirs = dumps(_sole("alpha", 9))
    _keep(pair, theirs)
    report = await execute(_of(pair, _record("alpha", FIRST), STOP), sessions, {"alpha": host})
    assert ("alpha/record", 1) == (report.failed, report.exit_code)
    assert "somebody else has changed it" in report.advice
    assert (theirs, 0) == (_kept(pair), alpha.commands.count("stop"))


async def test_record_without_a_way_to_its_host_ends_the_plan(
    sessions: dict[str, Session], alpha: ScriptedQmp, pair: ColoPair
) -> None:
    """Without the record the stale image could be started later: nothing is sent."""
    report = await execute(_of(pair, _record("alpha", FIRST), STOP), sessions)
    assert "no way to the host of alpha" in _reason(report)
    assert "stop" not in alpha.commands


async def test_record_of_a_promotion_needs_evidence_and_keeps_it(
    sessions: dict[str, Session], host: LocalHost, pair: ColoPair
) -> None:
    """Without evidence it is not written; with it the evidence is in the file and the report."""
    promotion = Change(expects=NoRecord(), becomes=_sole("alpha", 5))
    plan = _of(pair, _record("alpha", promotion, needs=VICTIM))
    refused = await execute(plan, sessions, {"alpha": host})
    assert [Refused] == _kinds(refused.outcomes)
    assert _kept(pair) is None
    alone = {"alpha": sessions["alpha"]}
    done = await execute(plan, alone, {"alpha": host}, evidence={"beta": _fence()})
    written = attrs.evolve(promotion.becomes, evidence=_fence())
    assert dumps(written) == _kept(pair)
    assert ({"beta": _fence()}, 0) == (done.evidence, done.exit_code)


async def test_batch_is_sent_together_and_awaited_together(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """What is in a batch with a yank does not wait for it, and what follows waits for both."""
    alpha.replies["yank"] = SILENCE
    yank = attrs.evolve(_execute(YANK), batch="together", oob=True)
    delete = attrs.evolve(_execute(qmp.ObjectDel(id="m0")), batch="together")
    deleted = asyncio.Event()
    watching = Watching(ends=lambda address: deleted.set() if address == delete.address else None)
    task = asyncio.create_task(execute(_plan(yank, delete, STOP), sessions, observer=watching))
    await asyncio.wait_for(deleted.wait(), LONG_S)
    assert ["yank", "object-del"] == alpha.commands
    alpha.release("yank", {})
    assert [Done, Done, Done] == _kinds((await task).outcomes)
    assert ["yank", "object-del", "stop"] == alpha.commands


async def test_step_that_may_fail_ends_nothing_and_is_told(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """The other node's record is best effort after a failover: the report names it."""
    alpha.replies["stop"] = Refuse("no")
    report = await execute(_plan(attrs.evolve(STOP, may_fail=True), CONT), sessions)
    expected: list[object] = [Refused, Done]
    assert expected == _kinds(report.outcomes)
    assert (None, (STOP.address,), 0) == (report.failed, report.left, report.exit_code)


@pytest.mark.parametrize("changed", [False, True])
async def test_recovery_over_a_new_connection_needs_the_record_to_be_ours(
    sessions: dict[str, Session],
    alpha: ScriptedQmp,
    host: LocalHost,
    pair: ColoPair,
    *,
    changed: bool,
) -> None:
    """A session is the lock: after it was lost, somebody else may have continued from there."""

    def lose(_: Mapping[str, object]) -> object:
        if changed:
            _keep(pair, dumps(_sole("alpha", 2)))
        return HANG_UP

    alpha.replies["object-del"] = lose
    fail = _execute(qmp.ObjectDel(id="m0"))
    plan = _of(pair, _record("alpha", FIRST), STOP, fail, CONT, recoveries=(_recovery(STOP, CONT),))
    report = await execute(plan, sessions, {"alpha": host})
    expected: type = Refused if changed else Done
    assert [expected] == _kinds(report.recovery)
    assert (0 if changed else 1) == alpha.commands.count("cont")


async def test_copy_without_a_byte_in_its_time_is_ended(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """A limit of an hour is not the time in which a black hole is noticed."""
    moving = {"status": "active", "ram": {"transferred": 5, "remaining": 4, "total": 9}}
    alpha.replies["query-migrate"] = moving
    until = c.MigrationIs(node="alpha", statuses=("colo",))
    wait = attrs.evolve(_wait(until, limit_s=3600.0), stall_s=SHORT_S)
    report = await execute(_plan(wait), sessions)
    assert [TimedOut] == _kinds(report.outcomes)
    assert f"no byte has arrived for {SHORT_S:g} s" in _reason(report)


async def test_copy_is_told_with_its_progress(
    sessions: dict[str, Session], alpha: ScriptedQmp
) -> None:
    """How far a mirror is comes from the replies that the wait needs anyway."""
    job = {"id": "resync", "type": "mirror", "current-progress": 5, "total-progress": 9}
    alpha.replies["query-jobs"] = [{**job, "status": "ready"}]
    told = StringIO()
    wait = _wait(c.JobIs(node="alpha", job="resync", statuses=("ready",)))
    await execute(_plan(wait), sessions, observer=JsonLinesObserver(told))
    progress = [json.loads(x) for x in told.getvalue().splitlines() if "progress" in x]
    assert [(5, 9)] == [(x["done_bytes"], x["total_bytes"]) for x in progress]


class _Rude(StringIO):
    @override
    def write(self, _: str) -> int:
        raise ValueError("closed")


async def test_failing_observer_changes_nothing(sessions: dict[str, Session]) -> None:
    """Whoever looks on cannot end an execution."""
    report = await execute(_plan(STOP), sessions, observer=JsonLinesObserver(_Rude()))
    assert 0 == report.exit_code


async def test_missing_connection_is_not_taken_for_another_state(
    sessions: dict[str, Session],
) -> None:
    """The advice is to connect, with the reason if it is known; the plan may well fit."""
    plan = _plan(_check(ALPHA_RUNS))
    remedy = "nothing was changed; connect to alpha, then run the procedure again"
    assert (await execute(plan, {})).advice.endswith(f"no connection to alpha; {remedy}")
    await sessions["alpha"].aclose()
    report = await execute(plan, sessions)
    assert isinstance(outcome := report.outcomes["check"], Refused)
    assert NotConnected(node="alpha") == outcome.hindrance
    assert f"no connection to alpha: {sessions['alpha'].why_closed};" in report.advice
    assert "connect to alpha, then run the procedure again" in report.advice

"""What is next for a pair: every combination of what two nodes and their records may show."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import get_args

import attrs
import pytest
from tests.compiler.cases import PAIRS

from pycolo import effects, record
from pycolo.compiler import compile_plan, launch
from pycolo.compiler.roles import IN_COLO, PRIMARIES
from pycolo.errors import CompileError
from pycolo.evidence import Evidence
from pycolo.plan import Options, Plan, Procedure
from pycolo.qmp.replies import Version
from pycolo.reconcile import (
    Act,
    Decide,
    End,
    Launch,
    NextStep,
    Prove,
    Settled,
    Want,
    next_step,
)
from pycolo.record import DamagedRecord, NoRecord, RecordState, UnreadRecord
from pycolo.snapshot import (
    Absent,
    Dead,
    Live,
    NodeState,
    Role,
    Running,
    Snapshot,
    Unreachable,
    Unresponsive,
    role_of,
)
from pycolo.standing import standing

PAIR = PAIRS["one"]
VERSION = Version.parse("11.1.3")
NEW = Snapshot(
    nodes={node.name: Absent() for node in PAIR.nodes},
    records={node.name: NoRecord() for node in PAIR.all_nodes},
)
HUNG_UP = Unreachable(why="the connection ended")


def _launched(known: Snapshot, *names: str) -> Snapshot:
    nodes = names or tuple(node.name for node in PAIR.nodes)
    return launch(PAIR, known, qemu=dict.fromkeys(nodes, VERSION), nodes=nodes).planned_state


def _plan(procedure: Procedure, known: Snapshot, survivor: str | None = None) -> Plan:
    return compile_plan(procedure, PAIR, known, Options(survivor=survivor))


def _dead(known: Snapshot, name: str, survivor: str) -> Snapshot:
    """A snapshot in which one node's QEMU has ended, as its host has shown."""
    plan = _plan("failover", known, survivor)
    (victim,) = plan.victims()
    shown = Evidence.of(victim, kind="exit", who=name, how="it has ended", when="now")
    return known.with_node(name, Dead(evidence=shown))


LAUNCHED = _launched(NEW)
STARTED = _plan("start", LAUNCHED).planned_state
SURVIVED = _plan("failover", _dead(STARTED, "beta", "alpha"), "alpha").planned_state
PROMOTED = _plan("failover", _dead(STARTED, "alpha", "beta"), "beta").planned_state
RELAUNCHED = _launched(PROMOTED.with_node("alpha", Absent()), "alpha")
SWAPPED = _plan("resume", RELAUNCHED).planned_state


def _met() -> Iterator[Snapshot]:
    """What a pair passes through in a life in which its roles are swapped."""
    plans = (
        _plan("start", LAUNCHED),
        _plan("failover", _dead(STARTED, "beta", "alpha"), "alpha"),
        _plan("failover", _dead(STARTED, "alpha", "beta"), "beta"),
        _plan("resume", RELAUNCHED),
        _plan("failover", _dead(SWAPPED, "beta", "alpha"), "alpha"),
    )
    for plan in plans:
        for done in range(len(plan.steps) + 1):
            yield effects.fold(plan.pair, plan.qemu, plan.prior_state, plan.steps[:done])


MET = list(_met())


def _states(name: str) -> dict[str, NodeState]:
    """One node as each role, where lives bring it there, and in what they do not show."""
    found: dict[str, NodeState] = {}
    for snapshot in MET:
        live = snapshot.live(name)
        if live is None:
            continue
        found.setdefault(role_of(live), live)
        if live.colo_mode != "none":
            broken = attrs.evolve(live, colo_exited=True)
            found.setdefault(role_of(broken), broken)
        if live.incoming and live.colo_mode == "none":
            used = attrs.evolve(live, run_state="postmigrate", last_colo_mode="none")
            found.setdefault(role_of(used), used)
    return {
        **found,
        "absent": Absent(),
        "hung up": HUNG_UP,
        "unresponsive": Unresponsive(why="no reply within 1 s", oob=True),
    }


ROLES = sorted(_states("alpha"))
RECORDS: dict[str, Mapping[str, RecordState]] = {
    "new": NEW.records,
    "alone": LAUNCHED.records,
    "joining": next(
        s.records
        for s in MET
        if isinstance(own := s.records["alpha"], record.PairRecord) and own.phase == "joining"
    ),
    "protected": STARTED.records,
    "alpha took over": SURVIVED.records,
    "beta took over": PROMOTED.records,
    "swapped": SWAPPED.records,
    "beta unread": {**STARTED.records, "beta": UnreadRecord(why="its host does not answer")},
    "alpha unread": {**STARTED.records, "alpha": UnreadRecord(why="its host does not answer")},
    "alpha damaged": {**STARTED.records, "alpha": DamagedRecord(why="edited", digest="00")},
    "unread": dict.fromkeys(PAIR.names, UnreadRecord(why="its host does not answer")),
}


def _combinations() -> Iterator[Snapshot]:
    firsts, seconds = _states("alpha"), _states("beta")
    for alpha, beta in itertools.product(firsts, seconds):
        nodes = {"alpha": firsts[alpha], "beta": seconds[beta]}
        for records in RECORDS.values():
            # The identities are those that the records name, so that the rights count.
            named = {n: _named(state, n, records) for n, state in nodes.items()}
            snapshot = Snapshot(nodes=named, records=records)
            yield snapshot
            silent = [n for n, state in named.items() if isinstance(state, Unreachable)]
            for name in silent:
                runs = Running(instance=f"{PAIR.name}:{name}:00000001", how="its host knows it")
                yield attrs.evolve(snapshot, running={name: runs})


def _named(state: NodeState, name: str, records: Mapping[str, RecordState]) -> NodeState:
    own = records[name]
    if isinstance(state, Live) and isinstance(own, record.PairRecord) and name in own.eligible:
        return attrs.evolve(state, instance=own.eligible[name])
    return state


def _may(snapshot: Snapshot, name: str) -> bool:
    live = snapshot.live(name)
    assert live is not None
    leads = live.colo_mode != "secondary"
    try:
        record.may_run_alone(snapshot.records, name, live.instance, leads=leads)
    except CompileError:
        return False
    return True


def _denied(snapshot: Snapshot, name: str) -> bool:
    """Whether a record that was read says that this node may not run alone."""
    own = snapshot.records[name]
    return isinstance(own, record.PairRecord) and not _may(snapshot, name)


def _problem(snapshot: Snapshot, want: Want, step: NextStep) -> str | None:
    """What is wrong with what is said to be next; None for nothing."""
    roles = {name: role_of(state) for name, state in snapshot.nodes.items()}
    match step:
        case End(node=node) if want == "protected" and roles[node] in (*PRIMARIES, *IN_COLO):
            return _wrong_end(snapshot, roles, node)
        case Act(plan=plan) if any(
            not isinstance(snapshot.state(victim.node), Dead) for victim in plan.victims()
        ):
            return "a failover acts without evidence"
        case Launch(role="primary") if snapshot.running or {*PRIMARIES, *IN_COLO} & {
            *roles.values()
        }:
            return "a primary is launched beside what may serve"
        case Settled() if want == "protected" and standing(snapshot).state != "protected":
            return f"settled, and {standing(snapshot).text}"
        case _:
            return None


def _wrong_end(snapshot: Snapshot, roles: Mapping[str, Role], node: str) -> str | None:
    others = [role for name, role in roles.items() if name != node]
    anew = roles[node] in PRIMARIES and any(role in IN_COLO for role in others)
    guests = any(role in PRIMARIES for role in others)
    if guests or anew or _denied(snapshot, node):
        return None
    return f"the only guest, on {node}, is ended"


@pytest.mark.parametrize("want", get_args(Want))
def test_every_combination_has_a_safe_next_step(want: Want) -> None:
    """Whatever nodes and records show, it says something, and nothing that ends the only guest."""
    wrong = [
        (problem, roles)
        for snapshot in _combinations()
        if (problem := _problem(snapshot, want, next_step(PAIR, snapshot, want)))
        and (roles := {n: role_of(s) for n, s in snapshot.nodes.items()})
    ]
    assert [] == wrong
    assert len(ROLES) > 10


def _next(snapshot: Snapshot, want: Want = "protected") -> NextStep:
    return next_step(PAIR, snapshot, want)


@pytest.mark.parametrize("exited", [False, True])
def test_between_hang_up_and_exit_nobody_is_ended(*, exited: bool) -> None:
    """The primary's monitor hung up, its process is still there: the secondary is the survivor."""
    beta = STARTED.live("beta")
    assert beta is not None
    snapshot = attrs.evolve(
        STARTED.with_node("alpha", HUNG_UP).with_node(
            "beta", attrs.evolve(beta, colo_exited=exited)
        ),
        running={"alpha": Running(instance="colo:alpha:00000001", how="its host knows it")},
    )
    step = _next(snapshot)
    assert isinstance(step, Prove)
    assert "alpha" == step.node
    assert step.plan is not None
    assert "beta/record/sole" in [s.address for s in step.plan.steps]


def test_primary_that_has_not_noticed_the_end_of_colo_may_be_dying() -> None:
    """Only the secondary says that COLO has ended: nobody is ended before the primary is asked."""
    beta = STARTED.live("beta")
    assert beta is not None
    step = _next(STARTED.with_node("beta", attrs.evolve(beta, colo_exited=True)))
    assert isinstance(step, Prove)
    assert "alpha" == step.node


def test_primary_that_has_noticed_it_continues() -> None:
    """It lives, by its own word since COLO ended, so its secondary is the one to be replaced."""
    alpha = STARTED.live("alpha")
    assert alpha is not None
    step = _next(STARTED.with_node("alpha", attrs.evolve(alpha, colo_exited=True)))
    assert isinstance(step, End)
    assert "beta" == step.node
    after = _next(_dead(STARTED, "beta", "alpha"))
    assert isinstance(after, Act)
    assert "failover" == after.plan.procedure


def test_survivor_that_is_wedged_is_freed_by_its_armed_plan() -> None:
    """It answers no question; the plan that was armed while it did needs the other one's end."""
    settled = _next(STARTED)
    assert isinstance(settled, Settled)
    snapshot = STARTED.with_node("alpha", Unresponsive(why="no reply", oob=True)).with_node(
        "beta", HUNG_UP
    )
    step = next_step(PAIR, snapshot, armed=settled.armed)
    assert isinstance(step, Prove)
    assert ("beta", settled.armed["alpha"]) == (step.node, step.plan)
    stale = next_step(PAIR, attrs.evolve(snapshot, records=PROMOTED.records), armed=settled.armed)
    assert not isinstance(stale, Prove) or stale.plan is None


@pytest.mark.parametrize(
    ("before", "want", "kind", "detail"),
    [
        (NEW, "protected", Launch, "alpha"),
        (LAUNCHED, "protected", Act, "resume"),
        (STARTED, "unprotected", Act, "stop"),
        (STARTED, "stopped", Act, "stop"),
        (SURVIVED.with_node("beta", Absent()), "protected", Launch, "beta"),
        (PROMOTED.with_node("alpha", Absent()), "protected", Launch, "alpha"),
        (PROMOTED.with_node("alpha", Absent()), "unprotected", Settled, ""),
        (PROMOTED.with_node("alpha", Absent()), "stopped", End, "beta"),
        (RELAUNCHED, "unprotected", End, "alpha"),
        (NEW, "stopped", Settled, ""),
    ],
)
def test_what_is_wanted_leads_there(
    before: Snapshot, want: Want, kind: type[NextStep], detail: str
) -> None:
    """Each want has its way from each state."""
    step = _next(before, want)
    assert isinstance(step, kind), step
    match step:
        case Act(plan=plan):
            assert detail == plan.procedure
        case Launch(node=node) | End(node=node):
            assert detail == node
        case _:
            assert "" == detail


def test_nodes_to_avoid_get_no_secondary() -> None:
    """The spare is launched in place of the node that is to be avoided."""
    step = next_step(PAIR, SURVIVED.with_node("beta", Absent()), avoid=("beta",))
    spare = PAIR.spares[0].name
    assert Launch(node=spare, role="secondary") == step


def test_second_secondary_that_waits_is_ended() -> None:
    """Its host was away while another node was launched: nobody has to decide which one joins."""
    spare = PAIR.spares[0].name
    waits = _launched(SURVIVED.with_node("beta", Absent()), "beta")
    other = _launched(SURVIVED.with_node("beta", Absent()).with_node(spare, Absent()), spare)
    step = _next(waits.with_node(spare, other.nodes[spare]))
    assert isinstance(step, End)
    assert spare == step.node


def test_person_decides_what_no_record_tells() -> None:
    """No record can be read: the finding says so."""
    step = _next(attrs.evolve(NEW, records=RECORDS["unread"]))
    assert isinstance(step, Decide)
    assert "unread-records" == step.findings[0].code


def test_qemu_that_nobody_can_name_is_a_persons() -> None:
    """Something serves its monitor and tells no identity: it cannot be ended by one."""
    runs = Running(instance="", how="something serves /run/beta/control.qmp on its host")
    alone = SURVIVED.with_node("beta", HUNG_UP)
    step = _next(attrs.evolve(alone, running={"beta": runs}))
    assert isinstance(step, Decide)
    assert ("runs-unseen", "beta") == (step.findings[0].code, step.findings[0].node)


@pytest.mark.parametrize("want", get_args(Want))
@pytest.mark.parametrize("exited", ["alpha", "beta"])
def test_secondary_that_alone_has_a_write_is_not_ended(want: Want, exited: str) -> None:
    """The primary's disk refused it, and COLO has ended: a person decides, and both live."""
    snapshot = STARTED
    for name in ("alpha", "beta"):
        live = snapshot.live(name)
        assert live is not None
        seen = attrs.evolve(live, disk_error=name == "alpha", colo_exited=name == exited)
        snapshot = snapshot.with_node(name, seen)
    step = _next(snapshot, want)
    assert isinstance(step, Decide)
    assert "disk-failed" == step.findings[0].code


def test_guest_on_a_host_out_of_reach_may_still_run() -> None:
    """Nobody can look there: that is not stopped."""
    away = UnreadRecord(why="its host does not answer")
    snapshot = SURVIVED.with_node("alpha", HUNG_UP).with_record("alpha", away)
    step = _next(snapshot.with_node("beta", Absent()), "stopped")
    assert isinstance(step, Decide)
    assert "alpha" == step.findings[0].node

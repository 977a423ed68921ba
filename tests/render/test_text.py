"""Plans, reports and snapshots for people."""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs
import pytest

from pycolo.diff import diff
from pycolo.plan import Check, Plan
from pycolo.qmp.replies import Version
from pycolo.render import text
from pycolo.result import Done, NotRun, Outcome, Refused, Report, TimedOut, Unknown
from pycolo.snapshot import (
    Absent,
    Child,
    Filter,
    Job,
    Live,
    NodeState,
    Snapshot,
    Unreachable,
)

MakePlan = Callable[..., Plan]
LIVE = Live(version=Version(major=11, minor=1, micro=3), run_state="running")


def test_colour_adds_styles_and_nothing_else(plan: Plan) -> None:
    """Without its styles a coloured plan is the plain one."""
    coloured = text.render(plan, colour=True)
    assert "\033[" in coloured
    assert text.render(plan) == re.sub(r"\033\[\d+m", "", coloured)


def test_an_empty_plan_says_so(make_plan: MakePlan) -> None:
    """A procedure that has nothing to do says that it has nothing to do."""
    assert "nothing to do" == text.render(make_plan()).splitlines()[-1]


def test_no_text_of_a_plan_moves_the_cursor(plan: Plan) -> None:
    """Control characters in reasons cannot draw on the reader's terminal."""
    first = attrs.evolve(plan.steps[0], why="\033[2Jgone\rover\nover")
    shown = text.render(attrs.evolve(plan, steps=(first, *plan.steps[1:])))
    assert "     [2Jgone over over" in shown.splitlines()
    assert "\033" not in shown


def test_a_report_has_a_line_for_each_step_and_says_how_it_ended(plan: Plan) -> None:
    """Every outcome has its word, its time and its reason; the last lines say what to know."""
    outcomes: list[Outcome] = [
        Done(took_s=0.001),
        Done(took_s=0.5, reply="Instance not found"),
        Unknown(took_s=10, reason="the connection ended"),
        NotRun(),
        NotRun(),
        NotRun(),
    ]
    addresses = [step.address for step in plan.steps]
    report = Report(
        plan=plan,
        outcomes=dict(zip(addresses, outcomes, strict=True)),
        recovery={
            "recovery/cont": Refused(took_s=1, reason="no"),
            "x": TimedOut(took_s=2, reason="late"),
        },
        after=Snapshot(nodes={"alpha": LIVE, "beta": Unreachable(why="no socket")}),
    )
    assert (
        """\
done        0.001 s  beta/dead
done        0.500 s  alpha/yank/block-node:nbd0: so already (Instance not found)
unknown    10.000 s  alpha/chardev-add/mirror0
not run              alpha/wait/running
not run              beta/image
not run              alpha/record/sole
recovery:
  refused     1.000 s  recovery/cont: no
  timed out   2.000 s  x: late
"""
        + report.advice
        + "\n"
        == text.render_report(report)
    )


def test_a_snapshot_shows_the_facts_and_a_verdict() -> None:
    """What is known of each node, and what it makes of the pair."""
    live = attrs.evolve(
        LIVE,
        instance="colo-1",
        last_colo_mode="secondary",
        commit_pending=frozenset({"colo-disk0"}),
        children={"colo-disk0": (Child(name="children.0", node="childs0"),)},
        objects={"rew0": Filter(qom_type="filter-rewriter", on=False)},
        chardevs={"red0": False, "red1": True},
        jobs={"resync0": Job(status="concluded", error="no\nspace")},
        exports={"parent0": "parent0"},
    )
    assert """\
alpha: unprotected
  qemu        11.1.3 colo-1
  run state   running
  colo        none
  migration   none
  disks       colo-disk0 (children.0 childs0, commit pending)
  filters     rew0 (off)
  chardevs    red0 (not connected), red1
  exports     parent0
  jobs        resync0 concluded (no space)
beta: absent
at risk: alpha has the guest alone (running), commit pending
""" == text.render_snapshot(Snapshot(nodes={"alpha": live, "beta": Absent()}))


PRIMARY = attrs.evolve(LIVE, colo_mode="primary")
SECONDARY = attrs.evolve(LIVE, colo_mode="secondary")


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        (attrs.evolve(PRIMARY, proven=True), attrs.evolve(SECONDARY, proven=True), "protected"),
        (PRIMARY, SECONDARY, "joining"),
        (attrs.evolve(PRIMARY, colo_exited=True), SECONDARY, "at risk"),
        (PRIMARY, Unreachable(why="silent"), "at risk"),
        (Unreachable(why="silent"), SECONDARY, "at risk"),
        (LIVE, LIVE, "two guests"),
        (PRIMARY, LIVE, "two guests"),
        (LIVE, attrs.evolve(PRIMARY, colo_exited=True), "two guests"),
        (LIVE, Absent(), "unprotected"),
        (Absent(), Unreachable(why="silent"), "unknown"),
        (Absent(), Absent(), "stopped"),
    ],
)
def test_the_verdict_names_the_pairs_state(first: NodeState, second: NodeState, word: str) -> None:
    """It begins the line; protected is one only where a checkpoint was seen on both sides."""
    snapshot = Snapshot(nodes={"alpha": first, "beta": second})
    assert word == text.verdict(snapshot).partition(":")[0]


def test_a_difference_has_a_line_for_each_step(plan: Plan) -> None:
    """Steps that are gone, new, moved and changed can be told apart, and counted from 1."""
    first, _, third, fourth, fifth, sixth = plan.steps
    assert isinstance(first, Check)
    changed = attrs.evolve(first, why="because\x07")
    added = attrs.evolve(fifth, address="beta/image2")
    other = attrs.evolve(plan, steps=(changed, fifth, third, fourth, added, sixth))
    assert """\
- alpha/yank/block-node:nbd0: \
yank instances=[{type=block-node, node-name=nbd0}] (out of band)
+ beta/image2: on its host: create image /vms/al'pha "1"/primary.qcow2: \
qemu-img create '/vms/al'"'"'pha "1"/primary.qcow2' 1048576
> beta/image: step 5 -> 2
~ beta/dead: why: "or split brain" -> "because\\u0007"
""" == text.render_diff(diff(plan, other))
    assert "no difference\n" == text.render_diff(diff(plan, plan))

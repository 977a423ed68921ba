"""Conditions: what must be asked, whether they hold, and what they assume offline."""

from __future__ import annotations

from typing import get_args

import attrs
import pytest

from pycolo.conditions import (
    AllOf,
    AnyOf,
    ChardevConnected,
    CheckpointSeen,
    ChildIs,
    ColoExited,
    ColoModeIs,
    Committed,
    Condition,
    Gone,
    InstanceIs,
    JobFailed,
    JobIs,
    Leaf,
    MigrationIs,
    NoColoExit,
    NotRunning,
    PartsAre,
    PeerDead,
    PoweredOff,
    Replicates,
    RunStateIs,
    SizeIs,
    VersionIs,
    assume,
    holds,
    leaves,
)
from pycolo.qmp.replies import Version
from pycolo.snapshot import Child, Dead, Job, Live, Running, Snapshot, Unreachable

V = Version.parse("11.1.3")
LIVE = Live(
    version=V,
    instance="vm0.a",
    run_state="running",
    colo_mode="primary",
    migration="colo",
    chardevs={"mirror0": True, "compare1": False},
    children={"colo-disk0": (Child(name="children.1", node="nbd0"),)},
    sizes_bytes={"parent0": 512},
    jobs={"good": Job(status="ready"), "bad": Job(status="concluded", error="I/O")},
    commit_pending=frozenset({"colo-disk1"}),
    proven=True,
)
SNAPSHOT = Snapshot(
    nodes={
        "a": LIVE,
        "gone": Unreachable(why="x"),
        "stuck": Unreachable(why="x"),
        "dead": Dead(evidence=None),
        "lacking": attrs.evolve(LIVE, replication_error=True),
    },
    running={"stuck": Running(instance="p:stuck:00000001", how="its host knows it")},
)

TRUE_AND_FALSE: list[tuple[Leaf, Leaf]] = [
    (RunStateIs(node="a", states=("paused", "running")), RunStateIs(node="a", states=("colo",))),
    (ColoModeIs(node="a", mode="primary"), ColoModeIs(node="a", mode="none")),
    (NoColoExit(node="a"), ColoExited(node="a")),
    (CheckpointSeen(node="a", since="x"), CheckpointSeen(node="gone", since="x")),
    (MigrationIs(node="a", statuses=("colo",)), MigrationIs(node="a", statuses=("failed",))),
    (
        JobIs(node="a", job="good", statuses=("ready",)),
        JobIs(node="a", job="bad", statuses=("concluded",)),
    ),
    (JobFailed(node="a", job="bad"), JobFailed(node="a", job="good")),
    (JobFailed(node="a", job="unheard"), JobIs(node="a", job="unheard", statuses=("ready",))),
    (
        ChardevConnected(node="a", chardev="mirror0"),
        ChardevConnected(node="a", chardev="compare1"),
    ),
    (
        ChildIs(node="a", quorum="colo-disk0", child="children.1", child_node="nbd0"),
        ChildIs(node="a", quorum="colo-disk0", child="children.2", child_node="nbd0"),
    ),
    (
        Replicates(node="a", quorum="colo-disk0", child_node="nbd0"),
        Replicates(node="lacking", quorum="colo-disk0", child_node="nbd0"),
    ),
    (
        SizeIs(node="a", block_node="parent0", size_bytes=512),
        SizeIs(node="a", block_node="parent0", size_bytes=1024),
    ),
    (
        Committed(node="a", quorum="colo-disk0", replication="childs0", parent="parent0"),
        Committed(node="a", quorum="colo-disk1", replication="childs1", parent="parent1"),
    ),
    (
        PartsAre(node="a", chardevs=("compare1", "mirror0"), jobs=("bad", "good")),
        PartsAre(node="a", chardevs=("mirror0",), jobs=("bad", "good")),
    ),
    (InstanceIs(node="a", instance="vm0.a"), InstanceIs(node="a", instance="vm0.b")),
    (VersionIs(node="a", version=V), VersionIs(node="a", version=Version.parse("10.0.13"))),
    (Gone(node="gone"), Gone(node="a")),
    (PoweredOff(node="gone"), PoweredOff(node="a")),
    (
        PeerDead(node="dead", instance="p:dead:00000001", epoch=1),
        PeerDead(node="gone", instance="p:gone:00000001", epoch=1),
    ),
    (NotRunning(node="gone"), NotRunning(node="stuck")),
]


@pytest.mark.parametrize(("true", "false"), TRUE_AND_FALSE)
def test_each_leaf_is_judged_on_what_is_known(true: Leaf, false: Leaf) -> None:
    """Of each kind of leaf, one that is so holds and one that is not so does not."""
    assert holds(true, SNAPSHOT)
    assert not holds(false, SNAPSHOT)


def test_every_kind_of_leaf_is_judged_here() -> None:
    """No kind of leaf is missing from the comparison above."""
    assert set(get_args(Leaf)) == {type(leaf) for pair in TRUE_AND_FALSE for leaf in pair}


def test_all_and_any_are_what_they_say() -> None:
    """AllOf needs every part, AnyOf one; neither holds by a part that does not."""
    good, bad = TRUE_AND_FALSE[0]

    assert holds(AllOf(conditions=(good, good)), SNAPSHOT)
    assert not holds(AllOf(conditions=(good, bad)), SNAPSHOT)
    assert holds(AnyOf(conditions=(bad, good)), SNAPSHOT)
    assert not holds(AnyOf(conditions=(bad, bad)), SNAPSHOT)


@pytest.mark.parametrize("leaf", [leaf for _, leaf in TRUE_AND_FALSE])
def test_what_waiting_can_bring_about_is_assumed_and_the_rest_is_not(leaf: Leaf) -> None:
    """Offline a wait makes its leaf true; a fact that no waiting changes stays as it was."""
    facts = (
        ChildIs | Replicates | PartsAre | InstanceIs | VersionIs | PeerDead | NotRunning | JobFailed
    )
    after = assume(leaf, SNAPSHOT)

    if isinstance(leaf, facts) or leaf.node != "a":
        assert SNAPSHOT == after
    else:
        assert holds(leaf, after)


def test_of_alternatives_the_first_is_assumed() -> None:
    """A plan lists what it hopes for first."""
    hoped, feared = (
        MigrationIs(node="a", statuses=("active",)),
        MigrationIs(node="a", statuses=("failed",)),
    )

    after = assume(AnyOf(conditions=(hoped, feared)), SNAPSHOT).live("a")

    assert after is not None
    assert "active" == after.migration


def test_leaves_come_in_the_conditions_order() -> None:
    """Nested conditions are walked in order."""
    one, two = RunStateIs(node="b", states=("running",)), Gone(node="a")
    nested: Condition = AnyOf(conditions=(AllOf(conditions=(one, two)), one))

    assert [one, two, one] == list(leaves(nested))


@pytest.mark.parametrize("leaf", [true for true, _ in TRUE_AND_FALSE])
def test_each_leaf_says_what_must_be_asked(leaf: Leaf) -> None:
    """What is latched, greeted or proven is not asked for; everything else is."""
    known = NoColoExit | ColoExited | CheckpointSeen | VersionIs
    unasked = known | Gone | PoweredOff | PeerDead | NotRunning

    assert isinstance(leaf, unasked) == (leaf.queries() == ())
    assert all(attrs.has(type(query)) for query in leaf.queries())

"""Conditions in words."""

from __future__ import annotations

import typing

import pytest

from pycolo import conditions as c
from pycolo.qmp.replies import Version
from pycolo.render import describe

WORDS: list[tuple[c.Condition, str]] = [
    (
        c.RunStateIs(node="a", states=("paused", "prelaunch")),
        "a has run state paused or prelaunch",
    ),
    (c.ColoModeIs(node="a", mode="primary"), "a is COLO's primary"),
    (c.ColoModeIs(node="a", mode="none"), "a is outside COLO"),
    (c.NoColoExit(node="a"), "a has sent no COLO_EXIT"),
    (c.ColoExited(node="a"), "a has sent COLO_EXIT"),
    (c.CheckpointSeen(node="a", since="a/x"), "a has gone through a whole checkpoint since a/x"),
    (c.MigrationIs(node="a", statuses=("colo",)), "a's migration is colo"),
    (
        c.JobIs(node="a", job="resync0", statuses=("ready",)),
        "a's job resync0 is ready without an error",
    ),
    (c.JobFailed(node="a", job="resync0"), "a's job resync0 has failed or is gone"),
    (c.ChardevConnected(node="a", chardev="red0"), "a's chardev red0 is connected"),
    (
        c.ChildIs(node="a", quorum="q", child="children.1", child_node="nbd0"),
        "a's q has nbd0 as children.1",
    ),
    (
        c.Replicates(node="a", quorum="q", child_node="nbd0"),
        "a has reported no failed write of q to nbd0",
    ),
    (c.SizeIs(node="a", block_node="parent0", size_bytes=512), "a's parent0 has 512 bytes"),
    (
        c.Committed(node="a", quorum="q", replication="childs0", parent="parent0"),
        "a's q has merged its overlays into parent0",
    ),
    (
        c.PartsAre(node="a", exports=("parent0",), objects=("f1", "f2")),
        "a has just these parts: exports parent0; objects f1, f2",
    ),
    (c.PartsAre(node="a"), "a has just these parts: none"),
    (c.InstanceIs(node="a", instance="x\ny"), r"a is still the QEMU 'x\ny', and answers"),
    (c.VersionIs(node="a", version=Version.parse("11.1.3")), "a runs QEMU 11.1.3"),
    (c.Gone(node="a"), "a has hung up"),
    (c.PoweredOff(node="a"), "the guest on a has powered itself off"),
    (
        c.PeerDead(node="a", instance="p:a:00000001", epoch=4),
        "there is evidence that p:a:00000001 on a has ended",
    ),
    (c.NotRunning(node="a"), "no QEMU of a is known to run"),
]


@pytest.mark.parametrize(("condition", "words"), WORDS, ids=lambda value: type(value).__name__)
def test_every_condition_has_words(condition: c.Condition, words: str) -> None:
    """Each leaf reads as a sentence that names its node."""
    assert words == describe(condition)


def test_no_leaf_is_left_out() -> None:
    """The list above has every leaf of the union."""
    assert set(typing.get_args(c.Leaf)) == {type(condition) for condition, _ in WORDS}


def test_alternatives_inside_a_conjunction_are_bracketed() -> None:
    """Brackets show what belongs together, and only where they are needed."""
    gone, dead = c.Gone(node="a"), c.Gone(node="b")
    either = c.AnyOf(conditions=(gone, dead))
    both = c.AllOf(conditions=(either, dead))
    assert "(a has hung up or b has hung up) and b has hung up" == describe(both)
    assert "a has hung up" == describe(c.AllOf(conditions=(c.AnyOf(conditions=(gone,)),)))
    assert "nothing more" == describe(c.AllOf(conditions=()))
    assert "what never comes" == describe(c.AnyOf(conditions=()))

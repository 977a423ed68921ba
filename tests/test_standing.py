"""How a pair stands: nothing is called better than it is."""

from __future__ import annotations

import attrs
import pytest
from tests.compiler.cases import CASES, compiled, one_of_each

from pycolo.effects import fold
from pycolo.snapshot import Live, Running, Snapshot, Unreachable
from pycolo.standing import standing

PROTECTED = compiled(CASES["start/first"], one_of_each(), "11.1.3").planned_state
ALONE = compiled(CASES["failover/primary-survives"], one_of_each(), "11.1.3").planned_state
HELD = Unreachable(why="its monitor gives no greeting")
UNSEEN = Running(instance="vm0:beta:00000001", how="its host knows it as process 7")


def _with(snapshot: Snapshot, node: str, **changes: object) -> Snapshot:
    live = snapshot.live(node)
    assert live is not None
    changed: Live = attrs.evolve(live, **changes)  # type: ignore[arg-type]  # fields by name
    return snapshot.with_node(node, changed)


@pytest.mark.parametrize("before", [PROTECTED, ALONE])
def test_qemu_that_runs_unseen_makes_it_unknown(before: Snapshot) -> None:
    """Whether a guest is served twice, or not protected, cannot be told."""
    snapshot = attrs.evolve(before.with_node("beta", HELD), running={"beta": UNSEEN})
    found = standing(snapshot)
    assert ("unknown", 3) == (found.state, found.code)
    assert "its host knows it as process 7" in found.text


@pytest.mark.parametrize("run_state", ["prelaunch", "paused", "guest-panicked"])
def test_guest_that_stands_is_not_unprotected_but_stopped(run_state: str) -> None:
    """Nobody is served, whoever has it."""
    found = standing(_with(ALONE, "alpha", run_state=run_state))
    assert ("stopped", 2) == (found.state, found.code)
    assert run_state in found.text
    assert "unprotected" == standing(_with(ALONE, "alpha", run_state="running")).state


def test_guest_that_stands_while_a_secondary_joins_is_stopped() -> None:
    """The first copy of a guest that was never started, or of one that somebody paused."""
    prior = compiled(CASES["start/first"], one_of_each(), "11.1.3")
    joining = fold(prior.pair, prior.qemu, prior.prior_state, prior.steps[:8])
    found = standing(joining.with_node("beta", HELD))
    assert ("stopped", 2) == (found.state, found.code)
    assert "prelaunch" in found.text
    assert "joins" in found.text


def test_disk_that_refused_a_write_is_told_from_a_lost_link() -> None:
    """Of the two the one loses writes by staying, the other by moving."""
    own = standing(_with(PROTECTED, "alpha", disk_error=True))
    link = standing(_with(PROTECTED, "alpha", replication_error=True))
    assert {"at risk"} == {own.state, link.state}
    assert "switch over" in own.text
    assert "a failover would lose writes" in link.text

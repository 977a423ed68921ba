"""What people ask for, and hosts that never come back, break nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs
import pytest
from tests.supervise.search import (
    FULL,
    Rules,
    Search,
    State,
    after,
    alone,
    asked,
    joining,
    moving,
    paused,
    promoted,
    protected,
    retaken,
    without_fuses,
)

from pycolo.supervise import TABLE, Decision, decide

pytestmark = [pytest.mark.property, pytest.mark.timeout(600)]

FENCES: Final = attrs.evolve(FULL, self_fence=False)
LEASES: Final = attrs.evolve(FULL, fences=False)
DEPLOYMENTS: Final[Mapping[str, Rules]] = {
    "leases and fences": FULL,
    "fences alone": FENCES,
    "leases alone": LEASES,
}


def _breaks(search: Search, begin: State) -> str:
    """What goes wrong, though an arbiter that is away comes back; empty for nothing."""
    wrong, path = search.run(begin)
    if wrong:
        return f"{wrong}: {'; '.join(path)}"
    stuck = search.stuck(arbiter_returns=True)
    return "" if stuck is None else f"stuck: {'; '.join(search.path(stuck))}"


# Nightly cases that were searched whole, with their states: a switch-over at any moment with
# `leases alone` (19,917) and `fences alone` (28,949), a pause at any moment with `leases alone`
# (27,688) and `fences alone` (57,037), and a word with either (6,284 to 12,143). Of the others no
# whole run is known.

# -- a switch-over under agents

MOVES: Final = attrs.evolve(LEASES, moves=True)


def test_switch_over_that_is_cut_by_a_fault_breaks_nothing() -> None:
    """At each step after the arbiter was asked; the guest is moved, or stays, or is booted."""
    search = Search(MOVES)
    assert _breaks(search, moving(1)) == ""
    moved = [s for s in search.seen if s.record.holder == 1]
    assert any(s.record.phase == "protected" and s.nodes[1].qemu == "primary" for s in moved)
    booted = [s.nodes[0] for s in search.seen if s.record.holder == 0]
    assert any(node.qemu == "alone" and node.instance > 1 for node in booted)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_switch_over_that_begins_at_any_moment_breaks_nothing(deployment: str) -> None:
    """By the agent of either node; also while a fault is there already."""
    rules = attrs.evolve(DEPLOYMENTS[deployment], moves=True)
    assert _breaks(Search(rules), asked(1)) == ""


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("by", [0, 1])
def test_switch_over_that_is_cut_by_two_faults_breaks_nothing(by: int) -> None:
    """The same as with one fault, by the agent of either node."""
    assert _breaks(Search(MOVES), moving(2, by)) == ""


def test_switch_over_states_the_end_of_a_primary_only_after_it() -> None:
    """Else an agent that is stopped between the two makes two guests."""
    wrong, path = Search(attrs.evolve(MOVES, ended=False)).run(moving(0))
    assert "two guests" == wrong
    assert "alpha states an end that has not come" in path


# -- a person's word

WORDS: Final = attrs.evolve(FENCES, fences=False, words=True)
_FALSE: Final = attrs.evolve(WORDS, true_words=False)


def test_true_word_of_a_person_breaks_nothing() -> None:
    """At any moment, and to either agent; with it, a pair without fences and leases continues."""
    assert _breaks(Search(WORDS), protected(1)) == ""
    assert _breaks(Search(attrs.evolve(WORDS, words=False)), after(protected, "link cut"))


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("deployment", DEPLOYMENTS)
@pytest.mark.parametrize("begin", [protected, promoted])
def test_true_word_of_a_person_breaks_nothing_beside_other_evidence(
    begin: Callable[[int], State], deployment: str
) -> None:
    """The same in every other deployment."""
    rules = attrs.evolve(DEPLOYMENTS[deployment], words=True)
    assert _breaks(Search(rules), begin(1)) == ""


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_true_word_of_a_person_breaks_nothing_with_two_faults() -> None:
    """The same as with one fault."""
    assert _breaks(Search(WORDS), protected(2)) == ""


def test_false_word_of_a_person_makes_two_guests() -> None:
    """It is accepted only where the host of that QEMU cannot be asked."""
    wrong, path = Search(_FALSE).run(protected(1))
    assert "two guests" == wrong
    assert "link cut" in path
    assert "beta hears that alpha has ended" in path


# -- a pause

PAUSES: Final = attrs.evolve(LEASES, pauses=True)


def test_fault_in_a_pause_breaks_nothing() -> None:
    """Whenever the pause ends, one guest serves then."""
    search = Search(PAUSES)
    assert _breaks(search, paused(1)) == ""
    assert any(s.record.phase == "protected" and s.record.epoch > 1 for s in search.seen)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_pause_that_begins_at_any_moment_breaks_nothing(deployment: str) -> None:
    """Also while a fault is there already."""
    rules = attrs.evolve(DEPLOYMENTS[deployment], pauses=True)
    assert _breaks(Search(rules), asked(1)) == ""


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_two_faults_in_a_pause_break_nothing() -> None:
    """The same as with one fault."""
    assert _breaks(Search(PAUSES), paused(2)) == ""


def test_pause_in_a_switch_over_breaks_nothing() -> None:
    """The guest may stand until the pause ends, and then one serves."""
    search = Search(attrs.evolve(MOVES, pauses=True))
    assert _breaks(search, moving(0)._replace(asks=1)) == ""
    assert any(s.record.paused and s.nodes[0].qemu == "none" for s in search.seen)


def test_shutdown_in_a_pause_must_be_remembered() -> None:
    """Else the guest is booted when the pause ends."""
    wrong, path = Search(attrs.evolve(PAUSES, remembers=False)).run(paused(1))
    assert "alpha is booted though its guest shut down" == wrong
    assert "guest shuts down" in path


# -- a host that never comes back

LOST: Final = attrs.evolve(LEASES, losses=True)
FENCED: Final = attrs.evolve(FENCES, losses=True, fuse=False, equipped=False)


@pytest.mark.parametrize("begin", [protected, joining])
def test_host_that_never_comes_back_leaves_a_guest_or_a_person(
    begin: Callable[[int], State],
) -> None:
    """The other node serves alone, unless the host that is lost had the only newest data."""
    search = Search(LOST)
    assert _breaks(search, begin(1)) == ""
    assert any(s.nodes[0].gone for s in search.seen)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("deployment", DEPLOYMENTS)
@pytest.mark.parametrize("begin", [protected, joining, alone, promoted])
def test_host_that_never_comes_back_leaves_a_guest_or_a_person_with_two_faults(
    begin: Callable[[int], State], deployment: str
) -> None:
    """The same in every deployment; a fuse is of no use where no lease is evidence."""
    if deployment == "fences alone":
        assert _breaks(Search(FENCED), without_fuses(begin(2))) == ""
    else:
        rules = attrs.evolve(DEPLOYMENTS[deployment], losses=True)
        assert _breaks(Search(rules), begin(2)) == ""


@pytest.mark.parametrize("is_told", [False, True])
def test_fence_that_is_lost_with_its_host_is_for_a_person(*, is_told: bool) -> None:
    """If no lease is evidence either; a fence that acts without its host ends the wait."""
    search = Search(attrs.evolve(FENCED, lights_out=not is_told))
    assert _breaks(search, without_fuses(retaken(0))) == ""
    assert is_told == any(s.told for s in search.seen)


def test_claim_of_a_host_that_never_comes_back_must_be_taken_over() -> None:
    """The claim has its fuse stop the primary, which the primary's agent alone continues."""
    row = TABLE["protected", "halted"]

    def decided(*known: object, **at: object) -> Decision:
        found: Decision = decide(*known, **at)  # type: ignore[arg-type] # passed on as it is
        is_here = TABLE[found.state, found.event] is row
        return attrs.evolve(found, actions=()) if is_here else found

    search = Search(LOST)
    assert _breaks(search, retaken(0)) == ""
    assert ("protected", "halted") in search.events
    assert "stuck" in _breaks(Search(LOST, decided), retaken(0))

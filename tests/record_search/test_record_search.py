"""The rules of the record hold in every interleaving, and none of them can be left out."""

from __future__ import annotations

import pytest
from tests.record_search.plans import Compiler
from tests.record_search.search import Limits, Rules, Search, Stuck
from tests.record_search.weakened import (
    LEFT_OUT,
    SHORT,
    SPARE,
    SWAPPED,
    THREE,
    WEAKENED,
    Weak,
    applied,
    when_emitted,
    without,
)

from pycolo.compiler._draft import Draft
from pycolo.record import PairRecord

pytestmark = [pytest.mark.property, pytest.mark.timeout(600)]
EVERY_TIME = {
    "a protected pair": Limits(),
    "a new pair": Limits(begin="new", faults=1, procedures=5),
    "files are damaged": Limits(faults=1, procedures=3, damages=1),
    "a spare": THREE,
}
NIGHTLY = {
    "a pair alone": Limits(begin="alone", procedures=5),
    "files are damaged": Limits(damages=1, faults=1, procedures=4),
    "a spare": Limits(nodes=3, faults=1, procedures=4),
    "three faults": Limits(faults=3, procedures=4),
}


def _search(limits: Limits, weak: Weak | None = None) -> Search:
    change = None if weak is None else weak.change
    rules = Rules() if weak is None else weak.rules
    return Search(limits, Compiler(limits.nodes, change), rules)


def _is_safe(limits: Limits, *, at_least: int = 0) -> None:
    search = _search(limits)
    found = search.run()
    assert None is found.verdict, found.path
    assert found.whole
    assert found.states >= at_least
    _, stuck = Stuck(search).run()
    assert None is stuck


@pytest.mark.parametrize("name", EVERY_TIME)
def test_no_interleaving_breaks_a_rule(name: str) -> None:
    """No two guests serve, no write is lost, no epoch has two holders, nobody is stuck."""
    _is_safe(EVERY_TIME[name], at_least=500_000 if name == "a protected pair" else 10_000)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NIGHTLY)
def test_no_interleaving_of_many_breaks_a_rule(name: str) -> None:
    """The same, further out."""
    _is_safe(NIGHTLY[name])


def _refuted(weak: Weak) -> bool:
    """Whether the search finds what the missing rule keeps from happening."""
    search = _search(weak.limits, weak)
    with applied(weak):
        found = search.run()
        if found.verdict is not None:
            return True
        return found.whole and Stuck(search).run()[1] is not None


@pytest.mark.parametrize("step", LEFT_OUT)
def test_no_record_step_can_be_left_out(step: str) -> None:
    """Without the step something is lost, serves twice, or is stuck."""
    limits, left = LEFT_OUT[step]
    assert _refuted(Weak(limits, patch=without(left)))


def test_every_record_step_is_taken_out_once() -> None:
    """The tables of steps to leave out name each one that the compiler emits in a search."""
    seen: set[tuple[str, str, int]] = set()

    def see(draft: Draft, _node: str, name: str, _becomes: PairRecord, nth: int) -> bool:
        seen.add((draft.procedure, name, nth))
        return True

    with pytest.MonkeyPatch.context() as monkeypatch:
        when_emitted(monkeypatch, see)
        _search(SHORT).run()
    tables = [left for _, left in LEFT_OUT.values()] + list(SPARE.values())
    assert set() == {one for one in seen if not any(left.has(*one) for left in tables)}
    assert {"launch", "start", "failover", "switch-over", "stop"} == {one[0] for one in seen}


@pytest.mark.parametrize("step", SPARE)
def test_these_steps_only_make_things_sooner_known(step: str) -> None:
    """Without one of them nothing is lost, and nobody is stuck: another step does the same."""
    limits = Limits(faults=1, procedures=3)
    assert not _refuted(Weak(limits, patch=without(SPARE[step])))


@pytest.mark.parametrize("order", SWAPPED)
def test_no_steps_can_be_swapped(order: str) -> None:
    """In the other order something is lost or serves twice."""
    assert _refuted(SWAPPED[order])


@pytest.mark.parametrize("rule", WEAKENED)
def test_no_rule_can_be_weakened(rule: str) -> None:
    """Where the rule does not hold, something is lost, serves twice, or is stuck."""
    assert _refuted(WEAKENED[rule])

"""An armed failover plan: what leaves it valid, and what makes another one of it."""

from __future__ import annotations

import attrs
import pytest
from tests.compiler.cases import CASES, compiled, one_of_each

from pycolo.compiler import failover
from pycolo.errors import CompileError
from pycolo.plan import Step
from pycolo.record import PairRecord
from pycolo.snapshot import Child, Live, Snapshot, Unreachable

PAIR = one_of_each()
PROTECTED = compiled(CASES["start/first"], PAIR, "11.1.3").planned_state


def _armed(survivor: str, **changes: object) -> tuple[Step, ...]:
    live = PROTECTED.live(survivor)
    assert isinstance(live, Live)
    changed = attrs.evolve(live, **changes)  # type: ignore[arg-type]  # fields by name
    snapshot: Snapshot = PROTECTED.with_node(survivor, changed)
    return failover(PAIR, snapshot, survivor=survivor).steps


@pytest.mark.parametrize("survivor", ["alpha", "beta"])
@pytest.mark.parametrize(
    "changes",
    [
        {"run_state": "colo"},
        {"run_state": "prelaunch"},
        {"colo_exited": True},
        {"proven": None},
        {"checkpoint_delay_ms": 5},
        {"yanks": frozenset({"migration"})},
        {"replication_error": True},
    ],
    ids=str,
)
def test_an_armed_plan_outlives_what_happens_by_itself(
    survivor: str, changes: dict[str, object]
) -> None:
    """Checkpoints, the death itself and another delay change no step of a failover plan."""
    assert _armed(survivor) == _armed(survivor, **changes)


def test_an_armed_plan_outlives_the_peer() -> None:
    """Whether the peer answers or not, the survivor's steps are the same."""
    gone = PROTECTED.with_node("beta", Unreachable(why="hung up"))

    assert _armed("alpha") == failover(PAIR, gone, survivor="alpha").steps


@pytest.mark.parametrize(
    ("survivor", "changes"),
    [
        ("alpha", {"children": {"colo-disk0": (Child(name="children.2", node="nbd0"),)}}),
        ("alpha", {"objects": {}}),
        ("beta", {"colo_mode": "none", "last_colo_mode": "secondary"}),
        ("beta", {"chardevs": {}}),
    ],
    ids=str,
)
def test_what_really_changes_a_failover_arms_it_anew(
    survivor: str, changes: dict[str, object]
) -> None:
    """Another child, other parts, another side: each gives another plan."""
    assert _armed(survivor) != _armed(survivor, **changes)


@pytest.mark.parametrize("survivor", ["alpha", "beta"])
def test_a_record_that_changed_arms_it_anew(survivor: str) -> None:
    """The plan replaces just the record that it was compiled from."""
    own = PROTECTED.records[survivor]
    assert isinstance(own, PairRecord)
    changed = PROTECTED.with_record(survivor, attrs.evolve(own, revision=9))

    armed = failover(PAIR, PROTECTED, survivor=survivor)
    assert armed.steps != failover(PAIR, changed, survivor=survivor).steps


@pytest.mark.parametrize("survivor", ["alpha", "beta"])
def test_a_qemu_that_the_record_does_not_name_runs_alone_for_nobody(survivor: str) -> None:
    """One that was started since has no part in what the pair has done."""
    with pytest.raises(CompileError, match=rf"does not let vm0:{survivor}:00000002 run alone"):
        _armed(survivor, instance=f"vm0:{survivor}:00000002")

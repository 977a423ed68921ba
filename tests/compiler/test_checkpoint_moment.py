"""A pair that is observed in the middle of a checkpoint is a protected pair."""

from __future__ import annotations

import attrs
import pytest
from tests.compiler.cases import CASES, PAIRS, VERSIONS, compiled

from pycolo.compiler import compile_plan
from pycolo.plan import Execute, Wait


@pytest.mark.parametrize("run_state", ["colo", "prelaunch"])
@pytest.mark.parametrize("stopped", [("alpha",), ("beta",), ("alpha", "beta")])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", ["start/first", "resume/on-the-primary"])
def test_a_moment_in_a_checkpoint_is_waited_out(
    case: str, version: str, stopped: tuple[str, ...], run_state: str
) -> None:
    """Nothing is sent to guests in a checkpoint, also to those that reset themselves in it."""
    plan = compiled(CASES[case], PAIRS["one"], version)
    snapshot = plan.planned_state
    for node in stopped:
        live = snapshot.live(node)
        assert live is not None
        snapshot = snapshot.with_node(node, attrs.evolve(live, run_state=run_state))

    again = compile_plan(plan.procedure, plan.pair, snapshot)

    assert [] == [step.address for step in again.steps if isinstance(step, Execute)]
    assert ["alpha/wait/protected"] == [s.address for s in again.steps if isinstance(s, Wait)]
    assert plan.planned_state == again.planned_state

"""A plan as a value that is read: its text, and one node's part of it."""

from __future__ import annotations

import pytest
from tests.compiler.cases import CASES, PAIRS, compiled

from pycolo.compiler import resume
from pycolo.errors import DeclarationError
from pycolo.render import text


def test_str_is_what_is_printed() -> None:
    """A plan in a log or a shell is the text that a person is shown, without colours."""
    plan = compiled(CASES["start/first"], PAIRS["one"], "11.1.3")
    assert text.render(plan) == str(plan)
    assert "\x1b" not in str(plan)


def test_each_step_is_in_one_nodes_part() -> None:
    """Together the nodes' parts are the plan, each in its order; a stranger has no part."""
    plan = compiled(CASES["start/first"], PAIRS["one"], "11.1.3")
    alpha, beta = plan.for_node("alpha"), plan.for_node("beta")
    assert {"alpha"} == {step.node for step in alpha}
    assert [s for s in plan.steps if s.node == "beta"] == list(beta)
    assert len(plan.steps) == len(alpha) + len(beta)
    assert () == plan.for_node("gamma")
    with pytest.raises(DeclarationError, match="delta"):
        plan.for_node("delta")


def test_digest_is_of_what_a_plan_does() -> None:
    """Compiled again it is the same; another survivor makes another plan."""
    plan = compiled(CASES["start/first"], PAIRS["one"], "11.1.3")
    again = compiled(CASES["start/first"], PAIRS["one"], "11.1.3")
    other = compiled(CASES["start/first"], PAIRS["one"], "10.0.13")
    assert plan.digest == again.digest
    assert 64 == len(plan.digest)
    assert plan.digest != other.digest


def test_plan_of_a_finished_procedure_does_not_act() -> None:
    """It has checks at most, and says so."""
    plan = compiled(CASES["start/first"], PAIRS["one"], "11.1.3")
    assert plan.acts
    assert not resume(plan.pair, plan.planned_state).acts

"""A plan as a value that is read: its text, and one node's part of it."""

from __future__ import annotations

import pytest
from tests.compiler.cases import CASES, PAIRS, compiled

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

"""What the readers print, to the letter: `golden/NAME` beside this file holds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pycolo.model import ColoPair
from pycolo.plan import Plan
from pycolo.render import mermaid, qmp, shell, text
from pycolo.render._shell_library import LIBRARY

GOLDEN = Path(__file__).parent / "golden"


def own_part(plan: Plan) -> str:
    """A script without what all scripts carry, which other tests run."""
    return shell.render(plan).partition(LIBRARY)[2]


@pytest.mark.parametrize(
    ("name", "render"),
    [
        ("plan.txt", text.render),
        ("plan.qmp", qmp.render),
        ("plan.sh", own_part),
        ("plan.mmd", mermaid.render),
    ],
)
def test_a_plan_reads_as_its_golden_file(
    plan: Plan, name: str, render: Callable[[Plan], str]
) -> None:
    """One plan, four readers, and each prints the same every time."""
    assert (GOLDEN / name).read_text() == render(plan)
    assert render(plan) == render(plan)


def test_a_declaration_is_drawn_with_its_first_node_as_primary(pair: ColoPair) -> None:
    """The diagram of a pair shows both block graphs, both filter chains and the four links."""
    assert (GOLDEN / "pair.mmd").read_text() == mermaid.render(pair)

"""For what a person is asked: the manual names each case, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.persons import CASES, NO_EVIDENCE, WAITS, Case

_DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_manual_names_each_case(case: Case) -> None:
    """In a row of the table that says what to do."""
    lines = (_DOCS / case.page).read_text().splitlines()
    named = [line for line in lines if line.startswith("|") and f"`{case.text}`" in line]
    assert 1 == len(named)


def test_a_text_belongs_to_its_case_alone() -> None:
    """What varies may be anything, and nothing else may differ."""
    text = "nobody can show that colo:alpha:1 has ended, and no fence has ended it; bring it back"
    assert [NO_EVIDENCE] == [case for case in CASES if case.asks(text)]
    assert [WAITS] == [case for case in CASES if case.asks("waiting: its QEMU does not run")]
    assert not [case for case in CASES if case.asks("alpha may be gone")]

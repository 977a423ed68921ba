"""A pair can be handed to an arbiter, and back to its files, at any moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import pytest
from tests.supervise.handing import (
    Rules,
    State,
    adopted,
    found,
    protected,
    restored,
    unprotected,
)

pytestmark = [pytest.mark.property, pytest.mark.timeout(600)]

BEGINNINGS: Final = (protected, adopted, unprotected, restored)
FULL: Final = Rules()


@pytest.mark.parametrize("begin", BEGINNINGS)
def test_hand_over_breaks_nothing(begin: Callable[[int, int], State]) -> None:
    """Whoever acts between its steps, no two guests answer, and no write is lost."""
    wrong, path, _ = found(FULL, begin(1, 8))
    assert ("", []) == (wrong, path)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("begin", BEGINNINGS)
def test_hand_over_breaks_nothing_with_two_faults(begin: Callable[[int, int], State]) -> None:
    """The same with any two faults, and with longer ways."""
    wrong, path, count = found(FULL, begin(2, 11))
    assert ("", []) == (wrong, path)
    # After the arbiter was restored, nearly everything is left to a person.
    assert count > (50 if begin is restored else 10000)


@pytest.mark.parametrize(
    ("rule", "begin", "wrong"),
    [("marks", protected, "alpha lacks writes"), ("refuses", restored, "alpha lacks writes")],
)
def test_no_rule_of_the_hand_over_can_be_left_out(
    rule: str, begin: Callable[[int, int], State], wrong: str
) -> None:
    """The arbiter gets the record after the files are marked; release reads every file first."""
    faults = 2 if rule == "marks" else 1
    assert wrong == found(attrs.evolve(FULL, **{rule: False}), begin(faults, 9))[0]

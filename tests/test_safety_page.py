"""The manual's argument for safety: each part names a test, and each test that it names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

_ROOT: Final = Path(__file__).parents[1]
_PAGE: Final = (_ROOT / "docs" / "explanation" / "safety.md").read_text()
_NAME: Final = re.compile(r"`(test_\w+)(?:\[[^\]]+\])?`")
_ARGUED: Final = (
    "Why it is safe",
    "Agents",
    "The fuse",
    "One supervisor for both nodes",
    "Fences that fail or lie",
    "Switching off a network port",
)
_KINDS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


def _sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)\n", _PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _items(section: str) -> Iterator[str]:
    """The items of a section's lists, each as one line."""
    for block in re.split(r"\n(?=- |\d+\. |\n)", section):
        text = " ".join(block.split())
        if re.match(r"(- |\d+\. )", text):
            yield text


def _tests() -> frozenset[str]:
    trees = (ast.parse(path.read_text()) for path in (_ROOT / "tests").rglob("test_*.py"))
    return frozenset(n.name for tree in trees for n in tree.body if isinstance(n, _KINDS))


def test_every_test_that_is_named_exists() -> None:
    """One that was renamed or removed leaves its sentence without a proof."""
    named = set(_NAME.findall(_PAGE))
    assert len(named) > 60
    assert set() == named - _tests()


@pytest.mark.parametrize(
    ("section", "item"),
    [(section, item) for section in _ARGUED for item in _items(_sections()[section])],
)
def test_each_item_of_the_argument_names_a_test(section: str, item: str) -> None:
    """Whoever doubts it finds what shows it."""
    assert _NAME.search(item), f"{section}: {item}"


@pytest.mark.parametrize("section", ["The table", "The limits"])
def test_what_the_argument_rests_on_names_a_test(section: str) -> None:
    """The table and the limits are as the tests have them."""
    assert _NAME.search(_sections()[section])

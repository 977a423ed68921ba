"""The manual's pictures: each that a page refers to exists, and plots show what was measured."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

_DOCS: Final = Path(__file__).parents[1] / "docs"
_PICTURE: Final = re.compile(r"^```\{(?:figure|image)\} (\S+)", re.MULTILINE)
_PLOT: Final = re.compile(r"^```\{measured-plot\} (\S+)", re.MULTILINE)


def _pages() -> Iterator[tuple[Path, str]]:
    for page in _DOCS.rglob("*.md"):
        yield page, page.read_text(encoding="utf-8")


def test_each_picture_that_a_page_refers_to_exists() -> None:
    """A page shows no picture that was moved or never drawn."""
    found = [page.parent / name for page, text in _pages() for name in _PICTURE.findall(text)]

    assert found
    assert [] == [str(path) for path in found if not path.exists()]


def test_each_plot_is_shown_and_drawn_from_what_was_measured() -> None:
    """What was published is on a page, and its plot is the one that its figures make."""
    pytest.importorskip("benchmarks", reason="a source distribution has no benchmarks")
    from benchmarks.__main__ import BENCHMARKS  # noqa: PLC0415 - see above
    from benchmarks.publishing import FOLDER, drawn, published  # noqa: PLC0415 - see above

    shown = {name for _, text in _pages() for name in _PLOT.findall(text)}
    plots = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.svg")}

    assert shown <= set(BENCHMARKS)
    assert set(published()) <= shown
    assert {name: drawn(name) for name in published()} == plots

"""What the manual shows of the benchmarks: their figures as JSON, and the plots of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from benchmarks.measure import Figure
from benchmarks.plotting import plot

FOLDER: Final = Path(__file__).parents[1] / "docs" / "_static" / "measured"


def publish(name: str, figures: Sequence[Figure]) -> None:
    """Write the figures of a benchmark, and the plot of them."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(as_json(figures), encoding="utf-8")
    (FOLDER / f"{name}.svg").write_text(drawn(name), encoding="utf-8")


def published() -> list[str]:
    """The names of the benchmarks with figures that were published."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def redraw() -> None:
    """Draw every plot again, from the figures that were published."""
    for name in published():
        (FOLDER / f"{name}.svg").write_text(drawn(name), encoding="utf-8")


def drawn(name: str) -> str:
    """The plot of the figures of a benchmark that were published."""
    found = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    figures = [Figure(**one) for one in found]
    return plot(f"python -m benchmarks {name}", figures)


def as_json(figures: Sequence[Figure]) -> str:
    """The figures, as `publish` writes them."""
    return json.dumps([attrs.asdict(one) for one in figures], indent=2) + "\n"

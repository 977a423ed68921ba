"""A plot of what was measured with several sizes, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from benchmarks.measure import Figure

WIDTH: Final = 720
HEIGHT: Final = 360
LEFT, RIGHT, TOP, BOTTOM = 60, 460, 30, 310
# Readable on white and on black, and told apart without colour by their dashes.
STROKES: Final = (
    ("#0969da", "none"),
    ("#cf222e", "6 4"),
    ("#1a7f37", "2 3"),
    ("#8250df", "10 3"),
    ("#bf8700", "8 3 2 3"),
    ("#57606a", "1 2"),
)
_STYLE: Final = (
    "svg { --page: #ffffff; --text: #1b1f24; --line: #8c959f }"
    "@media (prefers-color-scheme: dark) {"
    "svg { --page: #131416; --text: #e6edf3; --line: #6e7681 } }"
    "text { fill: var(--text) } .page { fill: var(--page) }"
    ".axis { stroke: var(--line); fill: none }"
)


def plot(title: str, figures: Sequence[Figure]) -> str:
    """Draw a line for each thing that was measured, over the logarithm of the size.

    Args:
        title: What the plot shows, for its heading and for screen readers.
        figures: Figures of one unit, each with a size.

    Raises:
        ValueError: There is no figure with a size.
    """
    sized = [one for one in figures if one.size]
    if not sized:
        raise ValueError("nothing was measured with several sizes")
    return "\n".join(_lines(title, sized)) + "\n"


def _lines(title: str, figures: Sequence[Figure]) -> Iterator[str]:
    most, step = _scale(max(one.value for one in figures))
    sizes = sorted({one.size for one in figures if one.size is not None})
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-labelledby="t" font-family="system-ui, sans-serif" font-size="13">'
    )
    yield f'<title id="t">{escape(title)}</title><style>{_STYLE}</style>'
    yield f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
    yield f'<text x="{LEFT}" y="{TOP - 10}">{escape(figures[0].unit)}</text>'
    for n in range(round(most / step) + 1):
        y = _y(n * step, most)
        yield f'<path class="axis" stroke-opacity="0.4" d="M{LEFT} {y} H{RIGHT}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{n * step:g}</text>'
    for size in sizes:
        x = _x(size, sizes)
        yield f'<text x="{x}" y="{BOTTOM + 20}" text-anchor="middle">{size}</text>'
    for n, what in enumerate(dict.fromkeys(one.what for one in figures)):
        yield from _series(n, [one for one in figures if one.what == what], sizes, most)
    yield "</svg>"


def _series(
    number: int, figures: Sequence[Figure], sizes: Sequence[int], most: float
) -> Iterator[str]:
    colour, dashes = STROKES[number % len(STROKES)]
    stroke = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}" fill="none"'
    points = " ".join(
        f"{_x(one.size, sizes)},{_y(one.value, most)}" for one in figures if one.size is not None
    )
    y = TOP + 10 + 24 * number
    yield f'<polyline points="{points}" {stroke}/>'
    yield f'<path d="M{RIGHT + 20} {y} h30" {stroke}/>'
    yield f'<text x="{RIGHT + 58}" y="{y + 4}">{escape(figures[0].what)}</text>'


def _x(size: int, sizes: Sequence[int]) -> int:
    whole = math.log(sizes[-1] / sizes[0]) or 1.0
    return round(LEFT + 20 + (RIGHT - LEFT - 40) * math.log(size / sizes[0]) / whole)


def _y(value: float, most: float) -> int:
    return round(BOTTOM - (BOTTOM - TOP) * value / most)


def _scale(highest: float) -> tuple[float, float]:
    """Where an axis ends, and its step: the next of 1, 2 and 5 that makes at most five steps."""
    power = 10.0 ** math.floor(math.log10(highest / 5))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= highest / 5)
    return step * math.ceil(highest / step), step

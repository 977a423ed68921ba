"""A plot of what was measured, as SVG: a line over several sizes, or a bar for each time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Final

from benchmarks.measure import Figure

WIDTH: Final = 720
HEIGHT: Final = 360
LEFT, RIGHT, TOP, BOTTOM = 60, 460, 30, 310
EDGE: Final = 20
VISIBLE: Final = 10
"How many times longer than a time may be what is drawn on the same axis."
BAR: Final = 40
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
    """Draw what was measured with several sizes, or else all times.

    Things with sizes get a line each, over the logarithm of the size. Times get a bar each, from 0
    to the median, and a thin line from the lowest run to the highest. Times that would be too short
    to be seen beside the longest have an axis of their own.

    Args:
        title: What the plot shows, for its heading and for screen readers.
        figures: The figures; those with a size have one unit.

    Raises:
        ValueError: There is neither a figure with a size nor a time in milliseconds.
    """
    sized = [one for one in figures if one.size]
    times = [one for one in figures if one.unit == "ms"]
    if sized:
        return "\n".join(_framed(title, HEIGHT, _lines(sized))) + "\n"
    if not times:
        raise ValueError("nothing was measured that could be drawn")
    panels = _panels(times)
    height = sum(_height(panel) for panel in panels)
    return "\n".join(_framed(title, height, _stacked(panels))) + "\n"


def _framed(title: str, height: int, inside: Iterable[str]) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-labelledby="t" font-family="system-ui, sans-serif" font-size="13">'
    )
    yield f'<title id="t">{escape(title)}</title><style>{_STYLE}</style>'
    yield f'<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>'
    yield from inside
    yield "</svg>"


def _panels(figures: Sequence[Figure]) -> list[list[Figure]]:
    """The figures, apart by how long they are, if some would hardly be seen beside others."""
    least = max(map(_highest, figures)) / VISIBLE
    short = [one for one in figures if _highest(one) < least]
    return [panel for panel in (short, [one for one in figures if one not in short]) if panel]


def _highest(figure: Figure) -> float:
    return max(map(abs, figure.spread or (figure.value,)))


def _height(figures: Sequence[Figure]) -> int:
    return TOP + BAR * len(figures) + 30


def _stacked(panels: Iterable[Sequence[Figure]]) -> Iterator[str]:
    y = 0
    for panel in panels:
        yield f'<g transform="translate(0 {y})">'
        yield from _bars(panel)
        yield "</g>"
        y += _height(panel)


def _bars(figures: Sequence[Figure]) -> Iterator[str]:
    """A bar for each figure, its name above it and its value at its end."""
    most, step = _scale(max(map(_highest, figures)))
    bottom, right = TOP + BAR * len(figures), WIDTH - 90
    for n in range(round(most / step) + 1):
        x = _along(n * step, most, right)
        yield f'<path class="axis" stroke-opacity="0.4" d="M{x} {TOP - 10} V{bottom}"/>'
        yield f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{n * step:g}</text>'
    yield f'<text x="{WIDTH - 10}" y="{bottom + 18}" text-anchor="end">{figures[0].unit}</text>'
    for n, one in enumerate(figures):
        y, end = TOP + BAR * n, _along(one.value, most, right)
        colour, _ = STROKES[0]
        yield f'<text x="{EDGE}" y="{y + 8}">{escape(one.what)}</text>'
        yield f'<rect x="{EDGE}" y="{y + 14}" width="{end - EDGE}" height="12" fill="{colour}"/>'
        if one.spread is not None:
            low, high = (_along(value, most, right) for value in one.spread)
            yield f'<path class="axis" stroke-width="2" d="M{low} {y + 20} H{high}"/>'
            end = max(end, high)
        yield f'<text x="{end + 8}" y="{y + 25}">{_text(one.value)}</text>'


def _text(value: float) -> str:
    """Three digits, or all that are before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - of three digits


def _along(value: float, most: float, right: int) -> int:
    # What came before it was due is less than nothing: its number alone tells that.
    return round(EDGE + (right - EDGE) * max(value, 0.0) / most)


def _lines(figures: Sequence[Figure]) -> Iterator[str]:
    most, step = _scale(max(one.value for one in figures))
    sizes = sorted({one.size for one in figures if one.size is not None})
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

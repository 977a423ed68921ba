"""Draw the states of a node and the transitions between them, from the rows of the decision table.

What the table says is computed from it. Only the places of boxes, arrows and labels are fixed here;
a transition without a place, or a place without a transition, is an error.

`python states.py TITLE [EVENT...]` prints the drawing, without the rows of these events.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from pycolo.supervise.table import ROWS, Event, Phase, Row, State

WIDTH, HEIGHT = 900, 720
BOX_WIDTH, BOX_HEIGHT = 116, 36
LINE = 16
# Of a letter of 12 pixels in a wide sans-serif font.
LETTER = 6.4
# From how many states an event has to do the same to be drawn as one line.
MANY = 4

Anchor: TypeAlias = Literal["start", "middle", "end"]
Point: TypeAlias = tuple[int, int]
Edge: TypeAlias = tuple[State, Phase]

STYLE = """
.states { width: 100%; font-size: 12px; fill: currentColor; }
.states .name { font-size: 14px; font-weight: 600; text-anchor: middle; }
.states .start { text-anchor: start; }
.states .middle { text-anchor: middle; }
.states .end { text-anchor: end; }
.states .box { fill: var(--color-background-secondary, none); stroke: currentColor;
  stroke-opacity: .6; }
.states .word { stroke-dasharray: 4 3; }
.states .arrow { fill: none; stroke: var(--color-brand-primary, currentColor);
  stroke-width: 1.6; }
.states .later { stroke-dasharray: 5 4; }
.states .head { fill: var(--color-brand-primary, currentColor); }
.states .rule { stroke: currentColor; stroke-opacity: .35; }
"""


class Place(NamedTuple):
    """Where an arrow runs and where its label begins."""

    points: tuple[Point, ...]
    "The corners of the arrow, from its start to its head."
    label: Point
    "Where the first line of the label is anchored."
    anchor: Anchor = "start"
    columns: int = 34
    "The most letters in a line of the label."


_LEFT, _MIDDLE, _RIGHT = 170, 480, 790
_TOP, _CENTRE, _BOTTOM = 56, 266, 486
BOXES: Final[Mapping[Phase, Point]] = {
    "alone": (_LEFT, _TOP),
    "joining": (_MIDDLE, _TOP),
    "following": (_RIGHT, _TOP),
    "serving": (_LEFT, _CENTRE),
    "protected": (_MIDDLE, _CENTRE),
    "suspect": (_RIGHT, _CENTRE),
    "stopped": (_LEFT, _BOTTOM),
    "claiming": (_MIDDLE, _BOTTOM),
    "waiting": (_RIGHT, _BOTTOM),
}
PLACES: Final[Mapping[Edge, Place]] = {
    ("joining", "alone"): Place(((422, 64), (228, 64)), (325, 82), "middle", 28),
    ("protected", "following"): Place(((538, 256), (778, 74)), (690, 166), "start", 30),
    ("protected", "serving"): Place(((422, _CENTRE), (228, _CENTRE)), (325, 226), "middle", 32),
    ("protected", "suspect"): Place(((538, _CENTRE), (732, _CENTRE)), (652, 242), "middle", 24),
    ("protected", "claiming"): Place(((494, 284), (494, 468)), (504, 396), "start", 20),
    ("protected", "waiting"): Place(((538, 280), (732, 474)), (662, 360), "start", 26),
    ("claiming", "protected"): Place(((466, 468), (466, 284)), (456, 304), "end", 28),
    ("claiming", "serving"): Place(((422, 474), (228, 280)), (282, 396), "end", 26),
    ("claiming", "stopped"): Place(((422, _BOTTOM), (228, _BOTTOM)), (325, 504), "middle", 30),
    ("claiming", "waiting"): Place(((538, _BOTTOM), (732, _BOTTOM)), (635, 504), "middle", 28),
    ("serving", "alone"): Place(((_LEFT, 248), (_LEFT, 74)), (162, 150), "end", 16),
}
# What `reconcile` or the other node's supervisor changes in the record, step by step.
LATER: Final[Mapping[Edge, tuple[Place, str]]] = {
    ("alone", "joining"): (
        Place(((228, 48), (422, 48)), (325, 40), "middle"),
        "a secondary is launched",
    ),
    ("joining", "protected"): (
        Place(((_MIDDLE, 74), (_MIDDLE, 248)), (490, 160), "start", 12),
        "a checkpoint is proven",
    ),
    ("following", "protected"): (
        Place(((744, 74), (514, 248)), (650, 96), "end", 16),
        "it has joined as secondary",
    ),
    ("stopped", "alone"): (
        Place(((112, _BOTTOM), (28, _BOTTOM), (28, _TOP), (112, _TOP)), (38, 420), "start", 16),
        "the guest is wanted again",
    ),
}


def draw(title: str, rows: Sequence[Row]) -> str:
    """Draw a table of decisions.

    Args:
        title: What it shows, for those who hear the page.
        rows: The table.

    Returns:
        An `svg` element.

    Raises:
        ValueError: A transition of the table has no place, or a place has no transition.
    """
    shared = {row: events for row in rows if (events := _shared(row, rows))}
    labels = _labels(rows, shared)
    if wrong := labels.keys() ^ PLACES.keys():
        raise ValueError(f"places and transitions differ: {sorted(wrong)}")
    parts = [_box(phase, *at) for phase, at in BOXES.items()]
    for edge, texts in labels.items():
        parts += _arrow(PLACES[edge], texts)
    for place, text in LATER.values():
        parts += _arrow(place, [text], later=True)
    parts += _common(rows, shared)
    described = "; ".join(f"{a} to {b}: {' / '.join(said)}" for (a, b), said in labels.items())
    return (
        f'<svg class="states" xmlns="http://www.w3.org/2000/svg" role="img"'
        f' viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' style="max-width: {WIDTH}px; min-width: {WIDTH * 3 // 4}px">'
        f"<title>{escape(title)}</title><desc>{escape(described)}</desc><style>{STYLE}</style>"
        f"{''.join(parts)}</svg>"
    )


def _shared(row: Row, rows: Iterable[Row]) -> tuple[Event, ...]:
    """The events of a row that do the same in many states."""
    return tuple(event for event in row.events if len([*_alike(event, row, rows)]) >= MANY)


def _alike(event: Event, row: Row, rows: Iterable[Row]) -> Iterator[State]:
    for other in rows:
        same = (other.actions, other.phase) == (row.actions, row.phase)
        if event in other.events and same and row.actions and row.phase != row.state:
            yield other.state


def _labels(rows: Iterable[Row], shared: Mapping[Row, tuple[Event, ...]]) -> dict[Edge, list[str]]:
    """Each transition that is not shared, with a text for each row that leads to it."""
    found: dict[Edge, list[str]] = {}
    for row in rows:
        events = [event for event in row.events if event not in shared.get(row, ())]
        if events and row.phase != row.state:
            # The row of a quiet node is the one for everything that no other row is about.
            named = "otherwise" if "quiet" in events else ", ".join(events)
            text = f"{named}: {', '.join(row.actions)}"
            found.setdefault((row.state, row.phase), []).append(text)
    return found


def _common(rows: Sequence[Row], shared: Mapping[Row, tuple[Event, ...]]) -> Iterator[str]:
    lines = {
        (event, row.actions, row.phase): tuple(_alike(event, row, rows))
        for row, events in shared.items()
        for event in events
    }
    y = _BOTTOM + 64
    yield f'<line class="rule" x1="12" y1="{y}" x2="{WIDTH - 12}" y2="{y}"/>'
    for (event, actions, phase), states in lines.items():
        y += 28
        every = len(states) == len(get_args(State))
        source = "every state" if every else ", ".join(states)
        text = f"{event}: {', '.join(actions)}"
        yield _text(source, 330, y, "end")
        yield from _arrow(Place(((344, y - 4), (596, y - 4)), (470, y - 9), "middle"), [text])
        yield _text(phase, 610, y, "start")


def _box(phase: Phase, x: int, y: int) -> str:
    kind = "box" if phase in get_args(State) else "box word"
    left, top = x - BOX_WIDTH // 2, y - BOX_HEIGHT // 2
    size = f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"'
    box = f'<rect class="{kind}" x="{left}" y="{top}" {size}/>'
    return f'{box}<text class="name" x="{x}" y="{y + 5}">{escape(phase)}</text>'


def _arrow(place: Place, texts: Sequence[str], *, later: bool = False) -> Iterator[str]:
    kind = "arrow later" if later else "arrow"
    corners = " ".join(f"{x},{y}" for x, y in place.points)
    yield f'<polyline class="{kind}" points="{corners}"/>'
    yield _head(*place.points[-2:])
    lines = [line for text in texts for line in _wrapped(text, place.columns)]
    x, y = place.label
    for n, line in enumerate(lines):
        yield _text(line, x, y + n * LINE, place.anchor)


def _wrapped(text: str, columns: int) -> list[str]:
    return textwrap.wrap(text, columns, break_on_hyphens=False)


def _head(before: Point, end: Point) -> str:
    (x0, y0), (x, y) = before, end
    length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
    dx, dy = (x - x0) / length, (y - y0) / length
    base_x, base_y = x - 9 * dx, y - 9 * dy
    sides = ((base_x - 5 * dy, base_y + 5 * dx), (base_x + 5 * dy, base_y - 5 * dx))
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in ((x, y), *sides))
    return f'<polygon class="head" points="{points}"/>'


def _text(text: str, x: int, y: int, anchor: Anchor) -> str:
    return f'<text class="{anchor}" x="{x}" y="{y}">{escape(text)}</text>'


if __name__ == "__main__":
    print(draw(sys.argv[1], [row for row in ROWS if not {*sys.argv[2:]} & {*row.events}]))

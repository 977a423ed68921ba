"""Draw a sequence diagram: from a few plain lines to an SVG that is light or dark as its page is.

The first line names the participants, from left to right. Then each line is one of

    A -> B: text     A sends B something
    A: text          something that A does; `A, B: text` for all from A to B
    == text          what the part from here on is about

`python sequence.py TITLE <FILE` prints the drawing.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from html import escape

COLUMN = 170
SIDE = 8
LINE = 17
# Of a letter of 13 pixels in a wide sans-serif font.
LETTER = 7.0

MESSAGE = re.compile(r"(\w+) -> (\w+): (.+)")
ACTION = re.compile(r"(\w+)(?:, (\w+))?: (.+)")
STYLE = """
.sequence { width: 100%; font-size: 13px; fill: currentColor; }
.sequence text { text-anchor: middle; }
.sequence .name { font-weight: 600; }
.sequence .life { stroke: currentColor; stroke-opacity: .35; }
.sequence .box { fill: var(--color-background-secondary, none); stroke: currentColor;
  stroke-opacity: .5; }
.sequence .arrow { stroke: var(--color-brand-primary, currentColor); stroke-width: 1.6; }
.sequence .head { fill: var(--color-brand-primary, currentColor); }
.sequence .part { font-weight: 600; fill: var(--color-brand-primary, currentColor); }
.sequence .rule { stroke: var(--color-brand-primary, currentColor); stroke-dasharray: 2 4; }
"""


def draw(title: str, description: str) -> str:
    """Draw a description.

    Args:
        title: What it shows, for those who hear the page.
        description: As above.

    Returns:
        An `svg` element.

    Raises:
        ValueError: A line is none of those above, or names a participant that the first does not.
    """
    first, *lines = [line.strip() for line in description.strip().splitlines() if line.strip()]
    names = [name.strip() for name in first.split(",")]
    drawing = _Drawing(names)
    for line in lines:
        drawing.add(line)
    return drawing.svg(title, "; ".join(lines))


class _Drawing:
    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._width = COLUMN * len(names)
        self._y = 44
        self._parts: list[str] = []

    def add(self, line: str) -> None:
        if line.startswith("== "):
            self._divide(line[3:])
        elif message := MESSAGE.fullmatch(line):
            self._send(message[1], message[2], message[3])
        elif action := ACTION.fullmatch(line):
            self._act(action[1], action[2] or action[1], action[3])
        else:
            raise ValueError(f"neither a message nor an action: {line}")

    def svg(self, title: str, told: str) -> str:
        height = self._y + 8
        lives = (
            f'<line class="life" x1="{x}" y1="32" x2="{x}" y2="{height}"/>'
            f'<rect class="box" x="{x - 70}" y="4" width="140" height="28" rx="6"/>'
            f'<text class="name" x="{x}" y="23">{escape(name)}</text>'
            for name in self._names
            for x in [self._x(name)]
        )
        return (
            f'<svg class="sequence" xmlns="http://www.w3.org/2000/svg" role="img"'
            f' viewBox="0 0 {self._width} {height}"'
            f' style="max-width: {self._width}px; min-width: {self._width * 2 // 3}px">'
            f"<title>{escape(title)}</title><desc>{escape(told)}</desc><style>{STYLE}</style>"
            f"{''.join(lives)}{''.join(self._parts)}</svg>"
        )

    def _x(self, name: str) -> int:
        if name not in self._names:
            raise ValueError(f"{name} is none of the participants {', '.join(self._names)}")
        return COLUMN * self._names.index(name) + COLUMN // 2

    def _divide(self, text: str) -> None:
        self._y += 10
        ends = f'x1="{SIDE}" y1="{self._y}" x2="{self._width - SIDE}" y2="{self._y}"'
        self._parts.append(f'<line class="rule" {ends}/>')
        self._y += LINE
        self._parts += self._text(text, self._width // 2, self._width - 2 * SIDE, "part")
        self._y += 6

    def _send(self, sender: str, receiver: str, text: str) -> None:
        start, end = self._x(sender), self._x(receiver)
        self._y += LINE
        self._parts += self._text(text, (start + end) // 2, abs(end - start) - 2 * SIDE, "told")
        y, to_right = self._y - 8, 1 if end > start else -1
        stop = end - 2 * to_right
        self._parts.append(f'<line class="arrow" x1="{start}" y1="{y}" x2="{stop}" y2="{y}"/>')
        self._parts.append(f'<path class="head" d="M{stop} {y}l{-9 * to_right} -5v10z"/>')
        self._y += 6

    def _act(self, first: str, last: str, text: str) -> None:
        left, right = sorted((self._x(first), self._x(last)))
        width = right - left + COLUMN - 2 * SIDE
        top, middle = self._y, (left + right) // 2
        self._y += LINE
        words = list(self._text(text, middle, width - 10, "told"))
        height = self._y - top - LINE + 6
        box = f'x="{middle - width // 2}" y="{top}" width="{width}" height="{height}"'
        self._parts += [f'<rect class="box" {box} rx="4"/>', *words]
        self._y = top + height + 6

    def _text(self, text: str, middle: int, width: int, kind: str) -> Iterator[str]:
        for line in textwrap.wrap(text, int(width / LETTER)):
            yield f'<text class="{kind}" x="{middle}" y="{self._y}">{escape(line)}</text>'
            self._y += LINE


if __name__ == "__main__":
    print(draw(sys.argv[1], sys.stdin.read()))

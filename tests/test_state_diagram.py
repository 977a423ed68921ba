"""The script that draws the states of a node from the decision table."""

import itertools
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

from pycolo.supervise import table

SCRIPT = Path(__file__).parent.parent / "docs" / "_extensions" / "states.py"
SVG = "{http://www.w3.org/2000/svg}"
LETTER = 6.4
COLOUR = re.compile(r"#[0-9a-fA-F]{3,8}\b|\b(?:rgb|hsl)\(|\b(?:black|white|red|green|blue)\b")


class Box(NamedTuple):
    """The part of a drawing that a text or a rectangle fills."""

    left: float
    top: float
    right: float
    bottom: float
    what: str

    def overlaps(self, other: "Box") -> bool:
        """Whether the two fill the same place somewhere."""
        beside = self.right <= other.left or other.right <= self.left
        return not (beside or self.bottom <= other.top or other.bottom <= self.top)


@cache
def draw(*without: str) -> "subprocess.CompletedProcess[str]":
    """Run the script, on the table without the rows that have these events."""
    argv = [sys.executable, str(SCRIPT), "the title", *without]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def boxes(drawing: ET.Element) -> list[Box]:
    """What the drawing's rectangles and labels fill."""
    found = []
    for text in drawing.iter(f"{SVG}text"):
        if text.attrib["class"] == "name":
            continue
        told, x, y = text.text or "", float(text.attrib["x"]), float(text.attrib["y"])
        width = LETTER * len(told)
        left = {"start": x, "middle": x - width / 2, "end": x - width}[text.attrib["class"]]
        found.append(Box(left, y - 11, left + width, y + 3, told))
    for box in drawing.iter(f"{SVG}rect"):
        x, y, width, height = (float(box.attrib[key]) for key in ("x", "y", "width", "height"))
        found.append(Box(x, y, x + width, y + height, "a box"))
    return found


def test_nothing_in_the_drawing_covers_anything_else() -> None:
    """Each label and each box has a place of its own, inside the drawing."""
    drawing = ET.fromstring(draw().stdout)  # noqa: S314 - our own
    _, _, width, height = map(float, drawing.attrib["viewBox"].split())
    found = boxes(drawing)
    pairs = itertools.combinations(found, 2)
    assert [] == [(a.what, b.what) for a, b in pairs if a.overlaps(b)]
    outside = [box.what for box in found if box.left < 0 or box.right > width or box.top < 0]
    assert [] == outside + [box.what for box in found if box.bottom > height]


def test_every_change_of_state_is_drawn() -> None:
    """The words of each row that leads elsewhere are in the drawing, and each state has a box."""
    drawn = draw().stdout
    drawing = ET.fromstring(drawn)  # noqa: S314 - our own
    words = {word for text in drawing.itertext() for word in re.findall(r"[a-z][a-z-]*", text)}
    for row in table.ROWS:
        if row.phase != row.state:
            assert {row.state, row.phase, *row.actions} <= words
            assert "quiet" in row.events or set(row.events) <= words


def test_drawing_takes_its_colours_from_the_page() -> None:
    """It can be read on a light page and on a dark one."""
    assert [] == COLOUR.findall(draw().stdout)


def test_change_of_state_without_a_place_is_refused() -> None:
    """A table that has changed does not leave an old drawing behind."""
    assert (
        "places and transitions differ: [('protected', 'following')]" in draw("disk-failed").stderr
    )

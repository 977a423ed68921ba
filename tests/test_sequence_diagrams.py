"""The script that draws the manual's sequence diagrams."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "docs" / "_extensions" / "sequence.py"
SVG = "{http://www.w3.org/2000/svg}"
DIAGRAM = re.compile(r"```\{sequence-diagram\} (.*?)\n(.*?)```", re.DOTALL)
# A colour of its own would not be seen on a page of that colour.
COLOUR = re.compile(r"#[0-9a-fA-F]{3,8}\b|\b(?:rgb|hsl)\(|\b(?:black|white|red|green|blue)\b")


def draw(title: str, description: str) -> subprocess.CompletedProcess[str]:
    """Run the script."""
    argv = [sys.executable, str(SCRIPT), title]
    return subprocess.run(argv, input=description, capture_output=True, text=True, check=False)


def diagrams() -> list[tuple[str, str]]:
    """Title and description of each diagram of the manual."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return [found for page in pages for found in DIAGRAM.findall(page.read_text("utf-8"))]


def test_every_diagram_stays_inside_its_drawing() -> None:
    """No text is cut off at an edge, and every participant has its line."""
    for title, description in diagrams():
        drawing = ET.fromstring(draw(title, description).stdout)  # noqa: S314 - our own
        _, _, width, height = map(int, drawing.attrib["viewBox"].split())
        names = description.splitlines()[0].split(",")
        lives = [line for line in drawing.iter(f"{SVG}line") if line.attrib["class"] == "life"]
        assert len(names) == len(lives)
        for text in drawing.iter(f"{SVG}text"):
            half = 3.5 * len(text.text or "")
            assert half <= int(text.attrib["x"]) <= width - half, text.text
            assert 0 < int(text.attrib["y"]) < height, text.text


def test_diagrams_take_their_colours_from_the_page() -> None:
    """They can be read on a light page and on a dark one."""
    drawings = [draw(*diagram).stdout for diagram in diagrams()]
    assert drawings
    assert [] == [found for drawing in drawings for found in COLOUR.findall(drawing)]


def test_a_line_that_says_nothing_is_refused() -> None:
    """The error names the line, or the participant that nobody has named."""
    assert "neither a message nor an action: a => b" in draw("t", "a, b\na => b").stderr
    assert "c is none of the participants a, b" in draw("t", "a, b\na -> c: text").stderr

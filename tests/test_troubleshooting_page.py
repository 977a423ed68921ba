"""docs/how-to/troubleshooting.md: its headings are what pycolo says."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "how-to" / "troubleshooting.md"
HEADING = re.compile(r"^### `(.+?)`", re.MULTILINE)


def test_each_heading_quotes_a_message() -> None:
    """A reader finds the words on the screen; `...` stands for names and values."""
    source = "".join(path.read_text("utf-8") for path in (ROOT / "src" / "pycolo").rglob("*.py"))
    quoted = HEADING.findall(PAGE.read_text(encoding="utf-8"))
    parts = [
        part.strip(" :;(),") for heading in quoted for part in re.split(r"\.\.\.|[:,] ", heading)
    ]
    assert parts
    assert [] == [part for part in parts if part not in source]

"""Read a journal, also an incomplete one."""

from __future__ import annotations

from pathlib import Path
from typing import final

import attrs

from pycolo import _decode
from pycolo.errors import ParseError
from pycolo.journal._lines import Line, PlanBegan, PlanEnded, line_from_json


@final
@attrs.frozen(kw_only=True)
class Recording:
    """The content of a journal."""

    began: PlanBegan
    lines: tuple[Line, ...]
    "The lines after the first one, in order."
    cut: str | None = None
    "The text of a last line that was not written to its end; None if there is none."

    @property
    def ended(self) -> PlanEnded | None:
        """How the execution ended; None if the journal has no last line.

        Then the execution still runs, its process ended before, or the journal ended early.
        """
        last = self.lines[-1] if self.lines else None
        return last if isinstance(last, PlanEnded) else None


def load(path: Path) -> Recording:
    """Read a journal file, also one that is still being written.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read.
        ParseError: See `loads`.
    """
    return loads(path.read_text(encoding="utf-8", errors="replace"))


def loads(text: str) -> Recording:
    """Parse a journal.

    Args:
        text: The file's text.

    Raises:
        ParseError: The first line is not a plan, a complete line is not a line of a journal, or
            there is a second plan.
    """
    *whole, rest = text.split("\n")
    if not whole:
        raise ParseError("line 1", "be the first line of a journal", rest)
    lines = [_line(line, f"line {n}") for n, line in enumerate(whole, 1)]
    began = lines[0]
    if not isinstance(began, PlanBegan):
        raise ParseError("line 1", "tell the plan", whole[0])
    for n, line in enumerate(lines[1:], 2):
        if isinstance(line, PlanBegan):
            raise ParseError(
                f"line {n}", "not begin another plan: a journal holds one", whole[n - 1]
            )
    return Recording(began=began, lines=tuple(lines[1:]), cut=rest or None)


def _line(text: str, path: str) -> Line:
    try:
        value = _decode.json_value(text)
    except ParseError as error:
        raise ParseError(path, error.rule, error.value) from error
    return line_from_json(value, path)

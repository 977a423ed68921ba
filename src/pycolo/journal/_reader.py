"""Reading a journal, as far as it goes."""

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
    """What a journal holds."""

    began: PlanBegan
    lines: tuple[Line, ...]
    "What followed, in order."
    cut: str | None = None
    "The beginning of a last line that was not written to its end."

    @property
    def ended(self) -> PlanEnded | None:
        """How the execution ended; None if its process did before."""
        last = self.lines[-1] if self.lines else None
        return last if isinstance(last, PlanEnded) else None


def load(path: Path) -> Recording:
    """Read a journal file, also one that is still being written.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be read.
        ParseError: See `loads`.
    """
    return loads(path.read_text(encoding="utf-8", errors="replace"))


def loads(text: str) -> Recording:
    """Parse a journal.

    Args:
        text: What stands in the file.

    Raises:
        ParseError: It does not begin with a plan, or a line that was written to its end is none.
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

"""Make text from outside safe to show in a message, on a terminal or in a log.

Text from QEMU, from a file or from a host may contain anything: sequences that move a cursor or
colour a terminal, line ends that forge a log line, marks that change the direction of writing, a
hundred megabytes. pycolo prints and logs none of it unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

__all__ = (
    "LONGEST_MESSAGE",
    "LONGEST_VALUE",
    "brief",
    "cut",
    "one_line",
    "page",
    "printable",
    "reason",
    "shown",
)

LONGEST_MESSAGE: Final = 4000
"How many characters a message has at most."
LONGEST_VALUE: Final = 120
"How many characters of a value a message shows at most."
_DEEPEST: Final = 8
_ELLIPSIS: Final = "..."
# The escape sequences of the styles of `pycolo.render`; they only change colour and weight.
_STYLE: Final = re.compile("(\x1b\\[[0-9]{1,2}m)")


def printable(text: str) -> str:
    """The text with a space for each line end and for each other character that moves a cursor."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)


def one_line(text: str) -> str:
    """The text as one printable line, with single spaces between its words."""
    return " ".join(printable(text).split())


def page(lines: Iterable[str], *, colour: bool = False) -> str:
    """The text of several lines for a terminal, each made printable and ended by a line feed.

    Tabs are kept.

    Args:
        lines: The lines, without line ends.
        colour: Whether to keep the escape sequences of the styles of `pycolo.render`.
    """
    return "".join(f"{_line(line, colour=colour)}\n" for line in lines)


def _line(line: str, *, colour: bool) -> str:
    if line.isprintable():
        return line
    parts = _STYLE.split(line) if colour else [line]
    return "".join(part if place % 2 else _but_tabs(part) for place, part in enumerate(parts))


def _but_tabs(text: str) -> str:
    return "\t".join(map(printable, text.split("\t")))


def cut(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """The text; if it has more than `longest` characters, their beginning and an ellipsis."""
    return text if len(text) <= longest else text[:longest] + _ELLIPSIS


def brief(text: str) -> str:
    """One printable line of a text from outside, cut to the length of a message."""
    return one_line(cut(text))


def reason(error: Exception) -> str:
    """The text of an error; of a system's error its path and its words, without its number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def shown(value: object) -> str:
    """A value as a message shows it: its repr, printable and cut to `LONGEST_VALUE` characters.

    A large or deeply nested value is not written out as a whole, so that the call is quick.
    """
    text = ""
    for piece in _pieces(value, 0):
        text += piece
        if len(text) > LONGEST_VALUE:
            break
    return printable(cut(text, LONGEST_VALUE))


def _pieces(value: object, depth: int) -> Iterator[str]:
    """The parts of a value's repr, in order, made as they are asked for."""
    if depth > _DEEPEST:
        yield _ELLIPSIS
        return
    match value:
        case str() | bytes():
            yield repr(value[: LONGEST_VALUE + 1])
        case int() if value.bit_length() > 4 * LONGEST_VALUE:
            # Python refuses to write out a number of several thousand digits.
            yield f"a number of {value.bit_length()} bits"
        case list():
            yield from _within("[", value, "]", depth)
        case tuple():
            yield from _within("(", value, ",)" if len(value) == 1 else ")", depth)
        case Mapping():
            yield from _members(value, depth)
        case _:
            yield repr(value)


def _within(
    first: str, items: list[object] | tuple[object, ...], last: str, depth: int
) -> Iterator[str]:
    yield first
    for place, item in enumerate(items):
        yield ", " if place else ""
        yield from _pieces(item, depth + 1)
    yield last


def _members(members: Mapping[object, object], depth: int) -> Iterator[str]:
    yield "{"
    for place, (key, value) in enumerate(members.items()):
        yield ", " if place else ""
        yield from _pieces(key, depth + 1)
        yield ": "
        yield from _pieces(value, depth + 1)
    yield "}"

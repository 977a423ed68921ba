"""JSON as text and as plain values: what may be shown, and how a value is narrowed by its path."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias, TypeVar

from typing_extensions import TypeAliasType

from pycolo.errors import ParseError

JsonValue = TypeAliasType(
    "JsonValue", "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
)
"""What JSON can say."""

JsonObject: TypeAlias = dict[str, JsonValue]
_Item = TypeVar("_Item")


# -- text --------------------------------------------------------------------------------------


def dumps(value: JsonValue, *, indent: int | None = None) -> str:
    """JSON that can be shown on a terminal: what is not printable is escaped, nothing is lost.

    Args:
        value: What to write.
        indent: Spaces a level; None for one line without spaces.
    """
    separators = None if indent else (",", ":")
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[n : n + 4]}" for n in range(0, len(units), 4))


# -- paths and narrowing -----------------------------------------------------------------------


def at(path: str, key: str) -> str:
    """The path of a member."""
    return f"{path}.{key}" if path else key


def object_at(value: object, path: str) -> Mapping[str, object]:
    """Narrow to a JSON object.

    Raises:
        ParseError: It is not an object.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ParseError(path, "be an object", value)
    return value


def array_at(value: object, path: str) -> tuple[tuple[str, object], ...]:
    """Narrow to a JSON array; gives its items with their paths.

    Raises:
        ParseError: It is not an array.
    """
    if not isinstance(value, list | tuple):
        raise ParseError(path, "be an array", value)
    return tuple((f"{path}[{n}]", item) for n, item in enumerate(value))


def list_at(value: object, path: str, parse: Callable[[object, str], _Item]) -> tuple[_Item, ...]:
    """Parse a JSON array item by item.

    Raises:
        ParseError: It is not an array, or `parse` refuses an item.
    """
    return tuple(parse(item, place) for place, item in array_at(value, path))


def refuse_unknown(members: Mapping[str, object], known: Iterable[str], path: str) -> None:
    """Refuse keys that nobody reads.

    Raises:
        ParseError: There is one; it names the nearest known one, or all of them.
    """
    names = tuple(known)
    for key, value in members.items():
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            known = f"did you mean {near[0]}?" if near else f"one of {', '.join(names)}"
            raise ParseError(at(path, key), f"be a known key ({known})", value)


def is_same(value: object, constant: object) -> bool:
    """Compare as JSON does: true is not 1."""
    return type(value) is type(constant) and value == constant


def object_of(value: JsonValue) -> JsonObject:
    """Narrow what a form wrote to an object."""
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no object")
    return value


def list_of(value: JsonValue) -> list[JsonValue]:
    """Narrow what a form wrote to an array."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no array")
    return value


def kebab(kind: type) -> str:
    """A class's name in small letters with hyphens."""
    return _kebab(kind.__name__)


@functools.cache
def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()

"""JSON as text that can be shown, and as plain values whose types are checked."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias, TypeVar

from typing_extensions import TypeAliasType

from pycolo._mapping import ReadOnlyDict
from pycolo.errors import ParseError

JsonValue = TypeAliasType(
    "JsonValue", "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
)
"""Any value that JSON has."""

JsonObject: TypeAlias = dict[str, JsonValue]
_Item = TypeVar("_Item")


# -- text --------------------------------------------------------------------------------------


def dumps(value: JsonValue, *, indent: int | None = None) -> str:
    """Write a value as JSON that can be shown on a terminal.

    Characters that are not printable are escaped, so that a reader gets the same value.

    Args:
        value: The value.
        indent: The number of spaces per level; None for one line without spaces.
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
    """The path of a member of the object at `path`."""
    return f"{path}.{key}" if path else key


def object_at(value: object, path: str) -> Mapping[str, object]:
    """Check that a value is a JSON object, and return it.

    Raises:
        ParseError: The value is not an object.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ParseError(path, "be an object", value)
    return value


def array_at(value: object, path: str) -> tuple[tuple[str, object], ...]:
    """Check that a value is a JSON array, and return its items, each after its path.

    Raises:
        ParseError: The value is not an array.
    """
    if not isinstance(value, list | tuple):
        raise ParseError(path, "be an array", value)
    return tuple((f"{path}[{n}]", item) for n, item in enumerate(value))


def list_at(value: object, path: str, parse: Callable[[object, str], _Item]) -> tuple[_Item, ...]:
    """Parse a JSON array item by item.

    Raises:
        ParseError: The value is not an array, or `parse` refuses an item.
    """
    return tuple(parse(item, place) for place, item in array_at(value, path))


def refuse_unknown(members: Mapping[str, object], known: Iterable[str], path: str) -> None:
    """Refuse an object with an unknown key.

    Raises:
        ParseError: A key is not one of `known`. The error names the known key that is most like
            it, or all known keys.
    """
    names = tuple(known)
    for key, value in members.items():
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            known = f"did you mean {near[0]}?" if near else f"one of {', '.join(names)}"
            raise ParseError(at(path, key), f"be a known key ({known})", value)


def is_same(value: object, constant: object) -> bool:
    """Whether two JSON values are equal and of one type: true is not 1."""
    return type(value) is type(constant) and value == constant


def object_of(value: JsonValue) -> JsonObject:
    """Check that a value is a JSON object, and return it; for values that a form wrote.

    Raises:
        TypeError: The value is not an object, which is a defect of pycolo.
    """
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no object")
    return value


def list_of(value: JsonValue) -> list[JsonValue]:
    """Check that a value is a JSON array, and return it; for values that a form wrote.

    Raises:
        TypeError: The value is not an array, which is a defect of pycolo.
    """
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no array")
    return value


def kebab(kind: type) -> str:
    """A class's name in lower case with hyphens: `run-state-is` for `RunStateIs`."""
    return _kebab(kind.__name__)


@functools.cache
def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def frozen_json(value: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """A deep copy of a JSON object; no object in it can be changed."""
    return ReadOnlyDict({name: _frozen(item) for name, item in value.items()})


def _frozen(value: JsonValue) -> JsonValue:
    match value:
        case Mapping():
            return ReadOnlyDict({name: _frozen(item) for name, item in value.items()})
        case list() | tuple():
            return [_frozen(item) for item in value]
        case _:
            return value

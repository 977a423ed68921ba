"""Decode the text of a file into plain values; every fault of the text is a ParseError."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from pycolo.errors import ParseError

SIZE_MAX_BYTES: Final = 16 << 20
"The greatest length of a file; the plan of any pair is far shorter."
DEPTH_MAX: Final = 64
"The deepest nesting of a document. No document needs it; a deeper one would exhaust the stack."
_SHALLOW: Final = f"be nested at most {DEPTH_MAX} levels deep"
_SHOWN_CHARS: Final = 80
# The beginning of the JSON escape of either half of a surrogate pair.
_ESCAPED_HALF: Final = r"\ud"


def file_text(path: Path, *, size_max_bytes: int = SIZE_MAX_BYTES) -> str:
    """Read the text of a file.

    Raises:
        ParseError: The file is longer than `size_max_bytes`, or not UTF-8.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return stream_text(file, path.name, size_max_bytes=size_max_bytes)


def stream_text(stream: BinaryIO, name: str, *, size_max_bytes: int = SIZE_MAX_BYTES) -> str:
    """Read a stream to its end, as text.

    Args:
        stream: The stream.
        name: The stream's name, for the error.
        size_max_bytes: How much it may hold at most.

    Raises:
        ParseError: See `file_text`.
        OSError: See `file_text`.
    """
    data = stream.read(size_max_bytes + 1)
    if len(data) > size_max_bytes:
        raise ParseError("", f"be a file of at most {size_max_bytes} bytes", name)
    try:
        # Some editors put a byte order mark first.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ParseError("", f"be text in UTF-8 ({error.reason})", name) from error


def json_value(
    text: str | bytes, *, members: Callable[[list[tuple[str, object]]], object] | None = None
) -> object:
    """Decode a JSON text.

    NaN and Infinity, which JSON does not have, are read as numbers: the forms of the document
    refuse them later, with their path.

    Args:
        text: The text.
        members: Makes the value of a JSON object from its key-value pairs; a dict if None.

    Raises:
        ParseError: The text is not JSON, is nested too deeply, has a number that is too long, or
            has half of a surrogate pair, which UTF-8 cannot encode.
    """
    try:
        # From bytes, `json.loads` would accept half of a surrogate pair as text.
        plain = text if isinstance(text, str) else text.decode()
        value: object = json.loads(plain, object_pairs_hook=members)
        if _ESCAPED_HALF in plain.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ParseError("", _SHALLOW, _line_of(text, error)) from error
    except ValueError as error:
        raise ParseError("", f"be JSON: {_brief(error)}", _line_of(text, error)) from error
    return value


def toml_value(text: str) -> object:
    """Decode a TOML text.

    Raises:
        ParseError: The text is not TOML, is nested too deeply, or has a number that is too long.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ParseError("", _SHALLOW, _line_of(text, error)) from error
    except ValueError as error:
        raise ParseError("", f"be TOML: {_brief(error)}", _line_of(text, error)) from error


def check_depth(value: object, path: str) -> None:
    """Refuse a decoded value that is nested too deeply.

    Raises:
        ParseError: The value has more than `DEPTH_MAX` levels. If it is an object, the error is
            about the member that has them.
    """
    if not _is_deeper(value, DEPTH_MAX):
        return
    if isinstance(value, Mapping):
        deep = (key for key, member in value.items() if _is_deeper(member, DEPTH_MAX - 1))
        key = next(deep)
        path, value = f"{path}.{key}" if path else key, value[key]
    raise ParseError(path, _SHALLOW, value)


def _is_deeper(value: object, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return False
    return True


def _inside(value: object) -> Sequence[object]:
    """The values of an object or the items of an array; empty for any other value."""
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else ()


def _brief(error: Exception) -> str:
    """The text of a decoder's error, without Python's hints for programmers."""
    # After the semicolon, Python tells programmers how to raise its limit of digits.
    return str(error).partition(";")[0]


def _line_of(text: str | bytes, error: Exception) -> str:
    """The line of the text that a decoder's error is about, cut to 80 characters.

    If the error names no line, it is the last line of a TOML text; the line with the most brackets
    if the text is nested too deeply; and else the line with the most digits.
    """
    lines = (text if isinstance(text, str) else text.decode(errors="replace")).splitlines()
    number = 1
    if isinstance(error, json.JSONDecodeError):
        number = error.lineno
    elif isinstance(error, tomllib.TOMLDecodeError):
        found = [word.strip(",)") for word in str(error).partition("at line ")[2].split()[:1]]
        number = int(found[0]) if found and found[0].isdecimal() else len(lines)
    elif lines and not isinstance(error, UnicodeError):
        asked = "[{" if isinstance(error, RecursionError) else "0123456789"
        counts = [sum(map(line.count, asked)) for line in lines]
        number = counts.index(max(counts)) + 1
    return lines[number - 1][:_SHOWN_CHARS] if 0 < number <= len(lines) else ""

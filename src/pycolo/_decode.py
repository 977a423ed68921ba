"""From the text of a file to plain values; whatever is wrong with it is a ParseError."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from pycolo.errors import ParseError

SIZE_MAX_BYTES: Final = 16 << 20
"Far more than the plan of any pair takes; a longer file is refused."
DEPTH_MAX: Final = 64
"Far deeper than any document; a deeper one would exhaust the stack of its reader."
_SHOWN_CHARS: Final = 80
# How JSON escapes either half of a surrogate pair.
_ESCAPED_HALF: Final = r"\ud"


def file_text(path: Path, *, size_max_bytes: int = SIZE_MAX_BYTES) -> str:
    """The text of a file.

    Raises:
        ParseError: It is too long, or not UTF-8.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return stream_text(file, path.name, size_max_bytes=size_max_bytes)


def stream_text(stream: BinaryIO, name: str, *, size_max_bytes: int = SIZE_MAX_BYTES) -> str:
    """The text that a stream still has; errors are those of `file_text`."""
    data = stream.read(size_max_bytes + 1)
    if len(data) > size_max_bytes:
        raise ParseError("", f"have at most {size_max_bytes} bytes", name)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ParseError("", f"be text in UTF-8 ({error.reason})", name) from error


def json_value(
    text: str | bytes, *, members: Callable[[list[tuple[str, object]]], object] | None = None
) -> object:
    """The value of a JSON text.

    NaN and Infinity, which are no JSON, are read as numbers: whoever parses the document refuses
    them by their path.

    Args:
        text: The text.
        members: Makes an object of its members; a dict if None.

    Raises:
        ParseError: It is not JSON, is nested too deeply, has a number that is too long, or half of
            a surrogate pair, which no file can hold.
    """
    try:
        # Given bytes, json would accept half of a surrogate pair as text.
        plain = text if isinstance(text, str) else text.decode()
        value: object = json.loads(plain, object_pairs_hook=members)
        if _ESCAPED_HALF in plain.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ParseError("", f"be JSON: {_brief(error)}", _line_of(text, error)) from error
    return value


def toml_value(text: str) -> object:
    """The value of a TOML text.

    Raises:
        ParseError: It is no TOML, is nested too deeply, or has a number that is too long.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParseError("", f"be TOML: {_brief(error)}", _line_of(text, error)) from error


def check_depth(value: object, path: str) -> None:
    """Refuse what is nested more deeply than any document.

    Raises:
        ParseError: It is nested too deeply.
    """
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return
    raise ParseError(path, f"be nested at most {DEPTH_MAX} levels deep", type(value).__name__)


def _inside(value: object) -> Sequence[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else ()


def _brief(error: Exception) -> str:
    # Python's hint about its own limit is for programmers.
    return str(error).partition(";")[0]


def _line_of(text: str | bytes, error: Exception) -> str:
    """The line that an error names; the first one if it names none."""
    lines = (text if isinstance(text, str) else text.decode(errors="replace")).splitlines()
    number = 1
    if isinstance(error, json.JSONDecodeError):
        number = error.lineno
    elif isinstance(error, tomllib.TOMLDecodeError):
        found = [word.strip(",)") for word in str(error).partition("at line ")[2].split()[:1]]
        number = int(found[0]) if found and found[0].isdecimal() else len(lines)
    return lines[number - 1][:_SHOWN_CHARS] if 0 < number <= len(lines) else ""

"""Files named on the command line; `-` is standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias, TypeVar, final

import attrs
from typing_extensions import override

from pycolo import _decode, journal, pairfile, wire
from pycolo._printable import reason
from pycolo.errors import DeclarationError, ParseError, PycoloError
from pycolo.model import ColoPair, refuse_collisions
from pycolo.plan import Plan
from pycolo.snapshot import Snapshot

STDIN: Final = Path("-")
_T = TypeVar("_T")
_V = TypeVar("_V")
_Wrong: TypeAlias = DeclarationError | OSError


@final
class BadFiles(PycoloError):
    """Several things are wrong in or between the pair files of one command."""

    def __init__(self, *errors: _Wrong) -> None:
        """Keep the errors, in the order of the files."""
        super().__init__(*errors)
        self.errors = errors

    @override
    def message(self) -> str:
        """Give the messages of all errors."""
        return "; ".join(map(reason, self.errors))


@final
@attrs.frozen(kw_only=True)
class PairFiles:
    """The pair files of one command: those that are valid, and what is wrong with the others."""

    pairs: Mapping[Path, ColoPair]
    "Each file that is valid, with its pair; the pairs have different names."
    error: _Wrong | BadFiles | None
    "What is wrong in the other files, or between the valid ones; None if nothing is."


def pair(path: Path) -> ColoPair:
    """Read a pair file.

    Raises:
        DeclarationError: The file is not a pair file; the error's field begins with the file's
            name.
        OSError: The file cannot be read.
    """
    try:
        return pairfile.loads(_text(path)) if path == STDIN else pairfile.load(path)
    except ParseError as error:
        raise DeclarationError(f"{path}: the pair file", error.value, error.rule) from error
    except DeclarationError as error:
        raise DeclarationError(f"{path}: {error.field}", error.value, error.rule) from error


def read_pairs(paths: Sequence[Path]) -> PairFiles:
    """Read pair files, also if some are wrong, and check that the pairs can run side by side."""
    found: dict[Path, ColoPair] = {}
    errors: list[_Wrong] = []
    for path in paths:
        try:
            found[path] = _another_pair(path, found)
        except (DeclarationError, OSError) as error:
            errors.append(error)
    try:
        refuse_collisions(tuple(found.values()))
    except DeclarationError as error:
        errors.append(error)
    return PairFiles(
        pairs=found, error=BadFiles(*errors) if errors[1:] else next(iter(errors), None)
    )


def _another_pair(path: Path, before: Mapping[Path, ColoPair]) -> ColoPair:
    """Read a pair file, and refuse a pair of the same name as one before."""
    if path in before:
        raise DeclarationError(f"{path}: the pair file", before[path].name, "be given once")
    another = pair(path)
    same = next((other for other, one in before.items() if one.name == another.name), None)
    if same is not None:
        rule = f"differ from the name in {same} (a pair's name tells it from others)"
        raise DeclarationError(f"{path}: name", another.name, rule)
    return another


def pairs(paths: Sequence[Path]) -> tuple[ColoPair, ...]:
    """Read pair files, and check that their pairs can run side by side.

    Raises:
        DeclarationError: A file is not a pair file, two pairs have the same name, or two pairs
            would use the same port or file of a host.
        OSError: A file cannot be read.
        BadFiles: There are several such errors.
    """
    found = read_pairs(paths)
    if found.error is not None:
        raise found.error
    return tuple(found.pairs.values())


def plan(path: Path) -> Plan:
    """Read a plan file.

    Raises:
        ParseError: The file is not a plan file; the error's path begins with the file's name.
        OSError: The file cannot be read.
    """
    return _parsed(path, _decoded(path), wire.plan_from_json)


def prior_state(path: Path) -> Snapshot:
    """Read the state to compile from: the planned state of a plan file, or a snapshot.

    The snapshot may be the whole file, or the `snapshot` member of what `status --as json` writes.

    Raises:
        ParseError: The file is neither a plan file nor a snapshot.
        OSError: The file cannot be read.
    """
    value = _decoded(path)
    if _is_plan(value):
        return _parsed(path, value, wire.plan_from_json).planned_state
    if isinstance(value, Mapping) and "snapshot" in value:
        value = value["snapshot"]
    return _parsed(path, value, wire.snapshot_from_json)


def recording(path: Path) -> journal.Recording:
    """Read a journal.

    Raises:
        ParseError: The file is not a journal; the error's path begins with the file's name.
        OSError: The file cannot be read.
    """
    if path == STDIN:
        return _parsed(path, _text(path), journal.loads)
    return _parsed(path, path.read_text(encoding="utf-8", errors="replace"), journal.loads)


def plan_if_one(path: Path) -> Plan | None:
    """Read a plan file; None if the file is something else, such as a pair file.

    Raises:
        ParseError: The file is a damaged plan file.
        OSError: The file cannot be read.
    """
    try:
        value = _decoded(path)
    except ParseError:
        return None
    return _parsed(path, value, wire.plan_from_json) if _is_plan(value) else None


def _is_plan(value: object) -> bool:
    return isinstance(value, Mapping) and "steps" in value


def _decoded(path: Path) -> object:
    return _parsed(path, path, lambda file: _decode.json_value(_text(file)))


def _text(path: Path) -> str:
    if path != STDIN:
        return _decode.file_text(path)
    return _decode.stream_text(sys.stdin.buffer, "standard input")


def _parsed(path: Path, value: _V, parse: Callable[[_V], _T]) -> _T:
    try:
        return parse(value)
    except ParseError as error:
        where = f"{path}: {error.path}" if error.path else str(path)
        raise ParseError(where, error.rule, error.value) from error

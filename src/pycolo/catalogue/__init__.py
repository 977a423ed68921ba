"""What QEMU's error messages mean, whether the command's goal is reached, and what to do.

QEMU has hardly any error classes, so only the text of a message tells one error from another.
`ENTRIES` holds the messages that QEMU gives when it enters COLO, runs in it or leaves it; `explain`
finds the entries that match a message. For a message that is not in the table, pycolo does not
guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, final

import attrs

from pycolo import _decode
from pycolo._mapping import read_only_mappings
from pycolo.catalogue import _block, _general, _migration, _network
from pycolo.catalogue._entry import (
    EVERY,
    HUMAN,
    Entry,
    ErrorClass,
    Goal,
    Place,
    Wording,
)
from pycolo.errors import ParseError
from pycolo.qmp.replies import Version

__all__ = [
    "ENTRIES",
    "EVERY",
    "HUMAN",
    "PARTS",
    "Entry",
    "ErrorClass",
    "Explanation",
    "Goal",
    "Place",
    "Wording",
    "explain",
    "goal_words",
]

PARTS: Final[Mapping[str, tuple[Entry, ...]]] = {
    "COLO and migration": _migration.ENTRIES,
    "Disks": _block.ENTRIES,
    "Network": _network.ENTRIES,
    "Any command": _general.ENTRIES,
}
"""The catalogue by subject."""

ENTRIES: Final = tuple(entry for part in PARTS.values() for entry in part)
"""The whole catalogue."""

_LONGEST: Final = 4096
_MOST_CAUSES: Final = 8
_CLASSES: Final = "GenericError|DeviceNotFound|DeviceNotActive|CommandNotFound"
_OURS: Final = re.compile(
    rf"(?:\S+ refused (?P<command>\S+): )?(?P<text>.+?) \((?P<c>{_CLASSES})\)"
)


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Explanation:
    """An entry of the catalogue that a message, or a part of it, matches."""

    entry: Entry
    text: str
    "The part of the message that was recognized."
    values: Mapping[str, str]
    "The value of each placeholder, by its name."
    whole: bool
    "Whether `text` is the whole message, and not only one line or one cause of it."
    fits: bool
    "Whether the entry applies to the given command, version and error class."


@final
@attrs.frozen
class _Message:
    """A message without the text around it, and the command and error class found in that text."""

    text: str
    command: str | None = None
    error_class: str | None = None
    version: Version | None = None


def explain(
    message: str,
    *,
    command: str | None = None,
    error_class: str | None = None,
    version: Version | None = None,
) -> tuple[Explanation, ...]:
    """Find the catalogue entries that match a message of QEMU's.

    Args:
        message: QEMU's words: as QEMU wrote them, as pycolo quotes them in a report, or the JSON of
            a QMP error. A message of the human monitor may keep the prefix `Error:` and its line
            ends. Only the first 4096 characters are read.
        command: The command that QEMU answered with this message, by its name in QMP or in the
            human monitor. None if it is not known: then what the message itself says is used.
        error_class: QMP's class of the error, such as `GenericError`; None as for `command`.
        version: The version of the QEMU that wrote the message; None if it is not known.

    Returns:
        One explanation for each matching entry, the best first. Entries that apply to the command,
        version and class come before those that do not; then a match of the whole message comes
        before a match of one line or cause; then a match with more literal text comes before one
        with less. Empty if no entry matches.

    >>> from pycolo.catalogue import explain
    >>> for found in explain("Chardev 'red0' is busy", command="chardev-remove"):
    ...     print(found.entry.name, found.values["ID"])
    chardev-busy red0
    """
    said = _unwrapped(message[:_LONGEST])
    said = attrs.evolve(
        said,
        command=command or said.command,
        error_class=error_class or said.error_class,
        version=version,
    )
    found = [
        Explanation(
            entry=entry, text=text, values=values, whole=n == 0, fits=_fits(entry, wording, said)
        )
        for n, text in enumerate(_texts(said.text))
        for entry in ENTRIES
        for wording, values in _readings(entry, text)
    ]
    best: dict[str, Explanation] = {}
    for one in sorted(found, key=lambda one: (not one.fits, not one.whole, -_exactness(one))):
        best.setdefault(one.entry.name, one)
    return tuple(best.values())


def _fits(entry: Entry, wording: Wording, said: _Message) -> bool:
    return (
        (said.command is None or entry.answers(said.command))
        and (said.version is None or wording.used_by(said.version))
        and said.error_class in (None, entry.error_class)
    )


def _readings(entry: Entry, text: str) -> Iterator[tuple[Wording, Mapping[str, str]]]:
    for wording in entry.wordings:
        values = wording.values_in(text)
        if values is not None:
            yield wording, values


def _exactness(explanation: Explanation) -> int:
    """The number of characters of the text that are literal words, not placeholder values."""
    return len(explanation.text) - sum(map(len, explanation.values.values()))


# -- what a message comes in ---------------------------------------------------------------------


def _unwrapped(message: str) -> _Message:
    text = message.strip()
    found = _from_json(text)
    if found is not None:
        return found
    ours = _OURS.fullmatch(text)
    return _Message(ours["text"], ours["command"], ours["c"]) if ours else _Message(text)


def _from_json(text: str) -> _Message | None:
    """Read the JSON of a QMP error reply, or of its `error` member; None for any other text."""
    if not text.startswith("{"):
        return None
    try:
        value = _decode.json_value(text)
    except ParseError:
        return None
    error: object = value.get("error", value) if isinstance(value, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("desc"), str):
        return None
    return _Message(error["desc"], error_class=str(error.get("class", "GenericError")))


def _texts(text: str) -> tuple[str, ...]:
    """The texts to look up: the whole message, each line, and what follows each `: ` of a line."""
    lines = [line.strip().removeprefix("Error: ") for line in text.splitlines() if line.strip()]
    found = [" ".join(lines)]
    for line in lines:
        rest = line
        for _ in range(_MOST_CAUSES):
            found.append(rest)
            _, colon, rest = rest.partition(": ")
            if not colon:
                break
    return tuple(dict.fromkeys(found))


def goal_words(entry: Entry) -> str:
    """Say in words whether the command's goal is reached already in spite of the message.

    Args:
        entry: The catalogue entry.

    Returns:
        `yes`, `no`, or `only if` with the condition.
    """
    match entry.goal:
        case "reached":
            return "yes"
        case "depends":
            return f"only if {entry.only_if}"
        case "missed":
            return "no"

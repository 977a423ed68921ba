"""What QEMU's refusals mean, whether the goal is reached in spite of them, and what to do.

QEMU has hardly any error classes, so a refusal is said by its words. `ENTRIES` holds the messages
that were met on the way into COLO and out of it; `explain` finds those that a message is. What is
not in the table is not guessed at.
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
    "What stood in the placeholders."
    whole: bool
    "Whether the message says nothing else."
    fits: bool
    "Whether the entry is known for the command, the version and the class that were given."


@final
@attrs.frozen
class _Message:
    """A message without its wrapping, and what is known of where it came from."""

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
    """Find what a message of QEMU's means.

    Args:
        message: QEMU's words; as they came, as pycolo quotes them in a report, or the JSON of a
            QMP error. Words of the human monitor may keep their prefix and their line ends.
        command: The command that was answered, by its QMP name or the human monitor's.
        error_class: QMP's class of the error, such as `GenericError`.
        version: The version of that QEMU.

    Returns:
        What it may be, best first. What fits command, version and class comes before what does
        not, the whole message before a cause that it names, exact words before less exact ones.
        Empty if nothing is known.

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
    """How much of the text the words themselves cover."""
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
    """The error of a QMP reply, as it stands on the wire."""
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
    """The whole message first, then each of its lines and the causes that they name."""
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
    """Whether the goal of the command is reached already, for people."""
    match entry.goal:
        case "reached":
            return "yes"
        case "depends":
            return f"only if {entry.only_if}"
        case "missed":
            return "no"

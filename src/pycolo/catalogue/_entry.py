"""One entry of the catalogue, and how its wordings are matched against a message."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, final

import attrs

from pycolo.errors import DeclarationError
from pycolo.qmp.replies import Version

ErrorClass: TypeAlias = Literal[
    "GenericError", "DeviceNotFound", "DeviceNotActive", "CommandNotFound"
]
Place: TypeAlias = Literal["reply", "query", "stderr"]
Goal: TypeAlias = Literal["reached", "depends", "missed"]

HUMAN: Final = "human-monitor-command"
EVERY: Final = "*"
"Stands in `Entry.commands` for every QMP command."

_PLACEHOLDER: Final = re.compile(r"\{([A-Z]+)\}")
# A value in quotes contains no quote and a value without quotes contains no blank, so that a
# message can be matched in one way only.
_QUOTED: Final = r"[^'\r\n]+"
_BARE: Final = r"\S+"
_REST: Final = r"[^\r\n]+"


@final
@attrs.frozen
class Wording:
    """The text of a message, and the QEMU versions that use this text."""

    text: str
    "The message, with placeholders such as `{ID}`; `{CAUSE}` matches the rest of the line."
    since: Version | None = None
    "The first version that uses this text; None if no earlier version with another text is known."
    until: Version | None = None
    "The first version that no longer uses this text; None if the newest version still uses it."

    def literals(self) -> str:
        """The text without its placeholders."""
        return _PLACEHOLDER.sub("", self.text)

    def values_in(self, message: str) -> Mapping[str, str] | None:
        """The value of each placeholder in a message, by name; None if it does not match."""
        found = _matcher(self.text).fullmatch(message)
        return None if found is None else found.groupdict()

    def used_by(self, version: Version) -> bool:
        """Whether a QEMU version uses this text, as far as `since` and `until` tell."""
        old_enough = self.until is None or version < self.until
        return old_enough and (self.since is None or version >= self.since)


@functools.cache
def _matcher(text: str) -> re.Pattern[str]:
    parts: list[str] = []
    end = 0
    for found in _PLACEHOLDER.finditer(text):
        literal = text[end : found.start()]
        name, end = found[1], found.end()
        value = _REST if name == "CAUSE" else _QUOTED if literal.endswith("'") else _BARE
        parts += [re.escape(literal), f"(?P<{name}>{value})"]
    return re.compile("".join([*parts, re.escape(text[end:])]))


def words(text: str, *, since: str | None = None, until: str | None = None) -> Wording:
    """Make a `Wording` from versions that are given as text.

    Args:
        text: The message with its placeholders.
        since: The first version that uses this text, such as `10.0.0`.
        until: The first version that no longer uses it.
    """
    first, end = (None if version is None else Version.parse(version) for version in (since, until))
    return Wording(text, first, end)


@final
@attrs.frozen(kw_only=True)
class Entry:
    """A message that QEMU answers with, what it means and what to do.

    Raises:
        DeclarationError: `goal` is `depends` and `only_if` is empty, or the other way round.
    """

    name: str
    "The unique name of the entry."
    wordings: tuple[Wording, ...]
    commands: tuple[str, ...]
    "The commands that QEMU answers with this message; a name with `hmp:` is the human monitor's."
    meaning: str
    "What the message means, as a sentence without a full stop."
    goal: Goal
    "Whether the goal of the command is reached already."
    remedy: str
    "What to do, as a sentence without a full stop."
    source: str
    "The entry or part of docs/qemu-behaviour.md that describes the message."
    only_if: str = ""
    "If `goal` is `depends`: the condition under which the goal is reached, without `only if`."
    error_class: ErrorClass = "GenericError"
    "The class of a QMP error reply; it says nothing about messages that come another way."
    place: Place = "reply"
    "Where the message appears: in a command's reply, in a query's result, or on QEMU's stderr."

    def __attrs_post_init__(self) -> None:
        if (self.goal == "depends") != bool(self.only_if):
            raise DeclarationError(f"{self.name}.only_if", self.only_if, "be given with `depends`")

    def answers(self, command: str) -> bool:
        """Whether QEMU is known to answer a command with this message."""
        human = [name.removeprefix("hmp:") for name in self.commands if name.startswith("hmp:")]
        known = {*self.commands, *human, *([HUMAN] if human else [])}
        return command in known or EVERY in known

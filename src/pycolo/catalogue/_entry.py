"""One row of the catalogue, and how a message is recognized by it."""

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
"Among an entry's commands: any command of QMP."

_PLACEHOLDER: Final = re.compile(r"\{([A-Z]+)\}")
# What stands in quotes holds no quote, what stands bare holds no blank: each form has one reading.
_QUOTED: Final = r"[^'\r\n]+"
_BARE: Final = r"\S+"
_REST: Final = r"[^\r\n]+"


@final
@attrs.frozen
class Wording:
    """The words of a message, in the versions that use them."""

    text: str
    "The message, with placeholders such as `{ID}`; `{CAUSE}` is whatever follows."
    since: Version | None = None
    "The first version that uses these words; None if no older one is known."
    until: Version | None = None
    "The first version that uses others; None if the newest still has these."

    def literals(self) -> str:
        """The words without the placeholders."""
        return _PLACEHOLDER.sub("", self.text)

    def values_in(self, message: str) -> Mapping[str, str] | None:
        """What stands in the placeholders of a message; None if it is another message."""
        found = _matcher(self.text).fullmatch(message)
        return None if found is None else found.groupdict()

    def used_by(self, version: Version) -> bool:
        """Whether a version uses these words, as far as is known."""
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
        since: The first version that uses it.
        until: The first version that uses another.
    """
    first, end = (None if version is None else Version.parse(version) for version in (since, until))
    return Wording(text, first, end)


@final
@attrs.frozen(kw_only=True)
class Entry:
    """A message that QEMU answers with, what it means and what to do.

    Raises:
        DeclarationError: `only_if` does not fit `goal`.
    """

    name: str
    "What the catalogue calls it; never used for another."
    wordings: tuple[Wording, ...]
    commands: tuple[str, ...]
    "Commands whose answer it is: QMP's names, and the human monitor's with `hmp:` before them."
    meaning: str
    "What it tells, as a sentence without a full stop."
    goal: Goal
    "Whether the goal of the command is reached already."
    remedy: str
    "What to do, as a sentence without a full stop."
    source: str
    "Entry or part of docs/qemu-behaviour.md."
    only_if: str = ""
    "For the goal `depends`: when it is reached, to be read after `only if`."
    error_class: ErrorClass = "GenericError"
    "QMP's class; errors of the human monitor and of queries have none."
    place: Place = "reply"
    "Where it is read: a command's answer, an error that a query tells of, or QEMU's stderr."

    def __attrs_post_init__(self) -> None:
        if (self.goal == "depends") != bool(self.only_if):
            raise DeclarationError(f"{self.name}.only_if", self.only_if, "be given with `depends`")

    def answers(self, command: str) -> bool:
        """Whether it is known as an answer to a command."""
        human = [name.removeprefix("hmp:") for name in self.commands if name.startswith("hmp:")]
        known = {*self.commands, *human, *([HUMAN] if human else [])}
        return command in known or EVERY in known

"""The messages that the client sends to the demo, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, TypeAlias, final

import attrs

from pycolo._forms import Forms
from pycolo._mapping import read_only_mappings
from pycolo.errors import ParseError


@final
@attrs.frozen(kw_only=True)
class Waited:
    """An answer took notably long."""

    stream: str
    from_s: float
    "When it was asked for; for pings, when the last answer before came."
    to_s: float
    "When the answer came."

    @property
    def took_s(self) -> float:
        """How long the client waited."""
        return self.to_s - self.from_s


@final
@attrs.frozen(kw_only=True)
class Lost:
    """A connection ended; the client makes a new one."""

    stream: str
    at_s: float
    why: str


@final
@attrs.frozen(kw_only=True)
class Counters:
    """How far one stream is."""

    answered: int
    "Requests answered, over all connections."
    last_s: float
    "When the last answer came; 0 before the first."
    connection: int
    "How many connections ended before this one."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class State:
    """How far everything is."""

    at_s: float
    acknowledged: int
    "How many disk writes were acknowledged; with one writer, the client's first records."
    streams: Mapping[str, Counters]


@final
@attrs.frozen(kw_only=True)
class ReadBack:
    """The guest's disk was read, through the guest."""

    at_s: float
    acknowledged: int
    "Writes that were acknowledged before the reading began."
    missing: int
    "How many of these are not on the disk."


Message: TypeAlias = Waited | Lost | State | ReadBack

_FORM: Final = Forms(tags=dict.fromkeys((Waited, Lost, State, ReadBack), "kind")).union(
    "Message", Message
)


def to_line(message: Message) -> str:
    """Write one as a line."""
    return json.dumps(_FORM.write(message)) + "\n"


def from_line(line: str) -> Message:
    """Parse a line.

    Raises:
        ParseError: The client writes no such line.
    """
    try:
        value: object = json.loads(line)
    except ValueError as error:
        raise ParseError("line", "be JSON", line) from error
    found = _FORM.read(value, "")
    assert isinstance(found, Waited | Lost | State | ReadBack)  # noqa: S101 - a member of the union
    return found

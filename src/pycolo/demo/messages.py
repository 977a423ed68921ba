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
    """An answer took notably long; times are seconds of the monotonic clock."""

    stream: str
    "The name of one kind of request that the client repeats, such as `echo-1`."
    from_s: float
    "When the request was sent; for pings, when the previous answer came."
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
    "The name of the kind of request that used the connection; see `Waited`."
    at_s: float
    "When the client noticed it, in seconds of the monotonic clock."
    why: str
    "The error, for people."


@final
@attrs.frozen(kw_only=True)
class Counters:
    """The counters of one stream, which is one kind of request that the client repeats."""

    answered: int
    "How many requests were answered, over all connections."
    last_s: float
    "When the last answer came, in seconds of the monotonic clock; 0 before the first."
    connection: int
    "The number of the connection: how many ended before it."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class State:
    """The counters of all streams, sent several times a second."""

    at_s: float
    "When the counters were read, in seconds of the monotonic clock."
    acknowledged: int
    "How many disk writes were acknowledged; with one writer, the client's first records."
    streams: Mapping[str, Counters]
    "The name of each stream to its counters; a stream that was not used yet is absent."


@final
@attrs.frozen(kw_only=True)
class ReadBack:
    """The result of reading the guest's disk through the guest."""

    at_s: float
    "When the reading ended, in seconds of the monotonic clock."
    acknowledged: int
    "How many writes were acknowledged before the reading began."
    missing: int
    "How many of these are not on the disk."


Message: TypeAlias = Waited | Lost | State | ReadBack

_FORM: Final = Forms(tags=dict.fromkeys((Waited, Lost, State, ReadBack), "kind")).union(
    "Message", Message
)


def to_line(message: Message) -> str:
    """Write a message as one line of JSON."""
    return json.dumps(_FORM.write(message)) + "\n"


def from_line(line: str) -> Message:
    """Parse a line of JSON into a message.

    Raises:
        ParseError: The line is not a message of the client.
    """
    try:
        value: object = json.loads(line)
    except ValueError as error:
        raise ParseError("line", "be JSON", line) from error
    found = _FORM.read(value, "")
    assert isinstance(found, Waited | Lost | State | ReadBack)  # noqa: S101 - a member of the union
    return found

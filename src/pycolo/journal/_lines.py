"""The lines of a journal as values, and as JSON."""

from __future__ import annotations

import functools
from typing import TypeAlias, final, get_args

import attrs

from pycolo import _forms, _json, wire
from pycolo._forms import Anything, Document
from pycolo._json import JsonObject, JsonValue
from pycolo.plan import Plan
from pycolo.qmp.commands import Command
from pycolo.result import Outcome


@final
@attrs.frozen(kw_only=True)
class PlanBegan:
    """The first line: the plan that is about to be executed."""

    at: str
    "The time by the wall clock, in UTC; so in every line."
    monotonic_s: float
    "The time by the machine's monotonic clock; only differences have a meaning; so in every line."
    plan: Plan


@final
@attrs.frozen(kw_only=True)
class StepBegan:
    """A step of the plan or of a recovery is about to begin."""

    at: str
    monotonic_s: float
    address: str


@final
@attrs.frozen(kw_only=True)
class CommandSent:
    """A command is about to be sent. The line is on disk before QEMU gets the command."""

    at: str
    monotonic_s: float
    number: int
    "Counts the commands of the execution from 1; the line of the answer has the same number."
    address: str
    "The address of the step that the command belongs to."
    node: str
    command: Command
    oob: bool
    "Whether the command is sent out of band."


@final
@attrs.frozen(kw_only=True)
class CommandAnswered:
    """QEMU answered a command, however late."""

    at: str
    monotonic_s: float
    number: int
    "The command's number."
    value: JsonValue = None
    "The returned value, unparsed; null if QEMU refused the command."
    error_class: str | None = None
    "QEMU's error class if it refused the command."
    text: str | None = None
    "QEMU's error message if it refused the command."


@final
@attrs.frozen(kw_only=True)
class EventSeen:
    """QEMU sent an event."""

    at: str
    monotonic_s: float
    node: str
    event: str
    "The event's name."
    data: JsonValue = None


@final
@attrs.frozen(kw_only=True)
class ConnectionEnded:
    """The connection to a monitor ended; that does not prove that the node is dead."""

    at: str
    monotonic_s: float
    node: str
    why: str


@final
@attrs.frozen(kw_only=True)
class ProgressSeen:
    """A copy of a disk or of the RAM continues."""

    at: str
    monotonic_s: float
    address: str
    done_bytes: int
    total_bytes: int
    rate_bytes_s: float


@final
@attrs.frozen(kw_only=True)
class StepEnded:
    """A step of the plan or of a recovery ended, with this outcome."""

    at: str
    monotonic_s: float
    address: str
    outcome: Outcome


@final
@attrs.frozen(kw_only=True)
class RecoveryBegan:
    """Execution ended inside a range of steps, and the guest's recovery begins."""

    at: str
    monotonic_s: float
    first: str
    last: str
    why: str


@final
@attrs.frozen(kw_only=True)
class PlanEnded:
    """The last line: how the execution ended."""

    at: str
    monotonic_s: float
    failed: str | None
    "Address of the step that ended execution; None if the plan was executed to its end."
    exit_code: int
    advice: str


Line: TypeAlias = (
    PlanBegan
    | StepBegan
    | CommandSent
    | CommandAnswered
    | EventSeen
    | ConnectionEnded
    | ProgressSeen
    | StepEnded
    | RecoveryBegan
    | PlanEnded
)


@functools.cache
def _lines() -> _forms.Tagged:
    kinds: tuple[type[Line], ...] = get_args(Line)
    forms = wire.forms()
    forms = attrs.evolve(
        forms,
        known={**forms.known, JsonValue: Anything()},
        tags={**forms.tags, **dict.fromkeys(kinds, "kind")},
        sparse=forms.sparse | {CommandAnswered, EventSeen},
    )
    began = Document("PlanBegan", forms.record(PlanBegan))
    forms = attrs.evolve(forms, known={**forms.known, PlanBegan: began})
    return forms.union("Line", Line)


def line_to_json(line: Line) -> JsonObject:
    """A line as JSON; a first line has the format's version."""
    return _json.object_of(_lines().write(line))


def line_from_json(value: object, path: str) -> Line:
    """Make a line from decoded JSON.

    Args:
        value: The decoded JSON.
        path: The line's name in errors.

    Raises:
        ParseError: The value is not a line of a journal, or is a first line of another format.
    """
    line = _lines().read(value, path)
    assert isinstance(line, Line)  # noqa: S101 - the union's forms make nothing else
    return line


def json_schema() -> JsonObject:
    """The JSON Schema of one line of a journal."""
    return _forms.whole_schema("one line of a pycolo journal", _lines())

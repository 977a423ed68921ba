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
    """The first line: what is about to be executed."""

    at: str
    "The wall clock, in UTC, as all `at` are."
    monotonic_s: float
    "The machine's monotonic clock, as all `monotonic_s` are: only differences have a meaning."
    plan: Plan


@final
@attrs.frozen(kw_only=True)
class StepBegan:
    """A step, of the plan or of a recovery, is about to begin."""

    at: str
    monotonic_s: float
    address: str


@final
@attrs.frozen(kw_only=True)
class CommandSent:
    """A command is about to be sent; the line was on disk before."""

    at: str
    monotonic_s: float
    number: int
    "Rises from 1; by it the answer is found."
    address: str
    "The step's."
    node: str
    command: Command
    oob: bool
    "Out of band."


@final
@attrs.frozen(kw_only=True)
class CommandAnswered:
    """An answer came, however late."""

    at: str
    monotonic_s: float
    number: int
    "The command's."
    value: JsonValue = None
    "What was returned, as it came; null for a refusal."
    error_class: str | None = None
    "The class of a refusal."
    text: str | None = None
    "The words of a refusal."


@final
@attrs.frozen(kw_only=True)
class EventSeen:
    """QEMU sent an event."""

    at: str
    monotonic_s: float
    node: str
    event: str
    "Its name."
    data: JsonValue = None


@final
@attrs.frozen(kw_only=True)
class ConnectionEnded:
    """A monitor's connection ended, which proves nothing about the node's death."""

    at: str
    monotonic_s: float
    node: str
    why: str


@final
@attrs.frozen(kw_only=True)
class ProgressSeen:
    """A copy continues."""

    at: str
    monotonic_s: float
    address: str
    done_bytes: int
    total_bytes: int
    rate_bytes_s: float


@final
@attrs.frozen(kw_only=True)
class StepEnded:
    """What became of a step."""

    at: str
    monotonic_s: float
    address: str
    outcome: Outcome


@final
@attrs.frozen(kw_only=True)
class RecoveryBegan:
    """Execution ended inside a range of steps, and the guest is being brought back."""

    at: str
    monotonic_s: float
    first: str
    last: str
    why: str


@final
@attrs.frozen(kw_only=True)
class PlanEnded:
    """The last line: how it ended."""

    at: str
    monotonic_s: float
    failed: str | None
    "Address of the step that ended execution."
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
    """A line as JSON; the first one says the format's version."""
    return _json.object_of(_lines().write(line))


def line_from_json(value: object, path: str) -> Line:
    """Parse a line.

    Raises:
        ParseError: It is not a line of a journal, or the first line of another format.
    """
    line = _lines().read(value, path)
    assert isinstance(line, Line)  # noqa: S101 - the union's forms make nothing else
    return line


def json_schema() -> JsonObject:
    """The JSON Schema of one line of a journal."""
    return _forms.whole_schema("one line of a pycolo journal", _lines())

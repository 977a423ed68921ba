"""The lines of a journal as values, and as JSON."""

from __future__ import annotations

import functools
from typing import TypeAlias, final, get_args

import attrs

from pycolo import _json, wire
from pycolo._json import FORMAT_VERSION, JsonObject, JsonValue
from pycolo.errors import ParseError
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


@final
@attrs.frozen
class _Anything:
    """Whatever JSON can say."""

    def read(self, value: object, path: str) -> object:  # noqa: ARG002 - all is well
        return value

    def write(self, value: object) -> JsonValue:
        return json_of(value)

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:  # noqa: ARG002 - it refers to none
        return {}


def json_of(value: object) -> JsonValue:
    """A value that was parsed from JSON as one that can be written as JSON.

    Tuples become lists and keys become strings; anything that JSON does not have becomes its text.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [json_of(item) for item in value]
        case dict():
            return {str(key): json_of(item) for key, item in value.items()}
        case _:
            return str(value)


@functools.cache
def _lines() -> _json.Tagged:
    kinds: tuple[type[Line], ...] = get_args(Line)
    forms = wire.forms()
    forms = attrs.evolve(
        forms,
        known={**forms.known, JsonValue: _Anything()},
        tagged=forms.tagged | frozenset(kinds),
        sparse=forms.sparse | {CommandAnswered, EventSeen},
    )
    return forms.union("Line", Line)


def line_to_json(line: Line) -> JsonObject:
    """A line as JSON; the first one says the format's version."""
    written = _json.object_of(_lines().write(line))
    return {"format_version": FORMAT_VERSION, **written} if isinstance(line, PlanBegan) else written


def line_from_json(value: object, path: str) -> Line:
    """Parse a line.

    Raises:
        ParseError: It is none, or the first of another format.
    """
    members = dict(_json.object_at(value, path))
    if members.get("kind") == "plan-began":
        version = members.pop("format_version", None)
        if version != FORMAT_VERSION or type(version) is not int:
            rule = f"be {FORMAT_VERSION}, the version that this pycolo reads and writes"
            raise ParseError(_json.at(path, "format_version"), rule, version)
    line = _lines().read(members, path)
    assert isinstance(line, Line)  # noqa: S101 - the union's forms make nothing else
    return line


def json_schema() -> JsonObject:
    """The JSON Schema of one line of a journal."""
    definitions: dict[str, JsonValue] = {}
    reference = _lines().schema(definitions)
    began = _json.object_of(definitions["PlanBegan"])
    properties = _json.object_of(began["properties"])
    began["properties"] = {"format_version": {"const": FORMAT_VERSION}, **properties}
    began["required"] = ["format_version", *_json.list_of(began["required"])]
    head: JsonObject = {"$schema": _json.DIALECT, "title": "one line of a pycolo journal"}
    return {**head, **reference, "$defs": definitions}

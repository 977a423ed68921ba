"""The messages over a socket: each is one line of JSON, and a connection has one request."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Final, TypeAlias, final, get_args

import attrs

from pycolo import _decode, _json, wire
from pycolo._forms import FORMAT_VERSION, SCALARS, Table, Tagged
from pycolo._json import JsonObject, JsonValue
from pycolo._mapping import read_only_mappings
from pycolo.errors import ParseError
from pycolo.evidence import Evidence
from pycolo.findings import Finding
from pycolo.pace import Checkpoint
from pycolo.plan import Plan, Procedure
from pycolo.reconcile import Want
from pycolo.result import Outcome, Report
from pycolo.standing import Standing
from pycolo.supervise._underway import Underway

LINE_BYTES: Final = 64 * 1024 * 1024
"How long one line may be: a report contains its plan, which contains snapshots."


# -- requests


@final
@attrs.frozen(kw_only=True)
class Perform:
    """Execute a procedure; answered by what an observer is called with, and then by `Ended`."""

    procedure: Procedure
    checkpoint_delay_ms: int | None = None


@final
@attrs.frozen(kw_only=True)
class Move:
    """Move the secondary to a spare; answered as `Perform` is."""

    to: str


@final
@attrs.frozen(kw_only=True)
class StateFence:
    """Accept a person's statement that a QEMU has ended; answered by `Noted`."""

    node: str
    who: str
    how: str
    instance: str | None = None


@final
@attrs.frozen(kw_only=True)
class Watch:
    """Show the pair again and again; answered by `Shown`, until the connection is closed."""


@final
@attrs.frozen(kw_only=True)
class Listen:
    """Report each checkpoint; answered by `Heard`, until the connection is closed."""


Request: TypeAlias = Perform | Move | StateFence | Watch | Listen


# -- answers


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class PairView:
    """What `status --watch` shows of a pair."""

    pair: str
    "The pair's name."
    want: Want
    "What is wanted of the pair."
    paused: str | None
    "Who paused the pair's supervision, and when; None if it is not paused."
    are_monitors_free: bool
    "Supervision is paused, and `pycolo run` may act."
    phases: Mapping[str, str]
    "Node to its phase, the holder first."
    epoch: int | None
    "The epoch of the latest record."
    standing: Standing | None
    "How the pair stood at the last observation; None before the first one."
    primary: str | None
    "The node of the primary in COLO at the last observation; None for none."
    checkpoint_delay_ms: int | None
    "The primary's checkpoint delay at the last observation, in milliseconds; None without one."
    is_protected: bool
    "Each node may continue alone, and nothing says that a QEMU has ended or that a write is lost."
    person: str
    "What a person has to do about the pair; empty for nothing."
    checkpoints: int
    "How many checkpoints the supervisor has heard of."
    pause_sum_s: float
    "How long the guest was paused for all of these checkpoints together, in seconds."
    longest_s: float
    "The longest time that a QEMU has left a question unanswered, in seconds."
    limit_s: float | None
    "After how many seconds such a QEMU is suspected; None before the first observation."
    underway: Underway | None
    "The plan that is executed; None for none."


@final
@attrs.frozen(kw_only=True)
class PlanStarted:
    """See `Observer.plan_started`; later messages name the plan's steps by their addresses."""

    plan: Plan


@final
@attrs.frozen(kw_only=True)
class StepStarted:
    """See `Observer.step_started`."""

    address: str


@final
@attrs.frozen(kw_only=True)
class StepProgress:
    """See `Observer.step_progress`."""

    address: str
    done_bytes: int
    total_bytes: int
    rate_bytes_s: float


@final
@attrs.frozen(kw_only=True)
class StepFinished:
    """See `Observer.step_finished`."""

    address: str
    outcome: Outcome


@final
@attrs.frozen(kw_only=True)
class RecoveryStarted:
    """See `Observer.recovery_started`; the recovery is named by the first step of its range."""

    first: str


@final
@attrs.frozen(kw_only=True)
class Ended:
    """The report of a procedure that was executed."""

    report: Report


@final
@attrs.frozen(kw_only=True)
class Noted:
    """The evidence that was made from a person's statement."""

    evidence: Evidence


@final
@attrs.frozen(kw_only=True)
class Shown:
    """The pair at one moment."""

    view: PairView


@final
@attrs.frozen(kw_only=True)
class Heard:
    """A checkpoint has ended."""

    checkpoint: Checkpoint


@final
@attrs.frozen(kw_only=True)
class NotDone:
    """The request was refused, or could not be read."""

    why: str
    "The reason, in words."
    findings: tuple[Finding, ...] = ()
    "The findings that prevent the procedure; empty if the reason is another one."


Told: TypeAlias = PlanStarted | StepStarted | StepProgress | StepFinished | RecoveryStarted
Answer: TypeAlias = Told | Ended | Noted | Shown | Heard | NotDone


# -- as lines


def request_line(request: Request) -> bytes:
    """Write a request as a line."""
    return _line("Request", Request, request)


def read_request(line: bytes) -> Request:
    """Parse a request.

    Raises:
        ParseError: The line is not a request that this version of pycolo knows.
    """
    request = _read("Request", Request, line)
    assert isinstance(request, Request)  # noqa: S101 - the union's forms make nothing else
    return request


def answer_line(answer: Answer) -> bytes:
    """Write an answer as a line."""
    return _line("Answer", Answer, answer)


def read_answer(line: bytes) -> Answer:
    """Parse an answer.

    Raises:
        ParseError: The line is not an answer that this version of pycolo knows.
    """
    answer = _read("Answer", Answer, line)
    assert isinstance(answer, Answer)  # noqa: S101 - the union's forms make nothing else
    return answer


@final
@attrs.frozen
class _Report:
    """The form of a report inside a message: the JSON that other programs read as well."""

    def read(self, value: object, path: str) -> object:
        return wire.report_from_json(value, path)

    def write(self, value: object) -> JsonValue:
        assert isinstance(value, Report)  # noqa: S101 - the type this form is for
        return wire.report_to_json(value)

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:  # noqa: ARG002 - it refers to none
        return {"type": "object"}


@functools.cache
def _form(name: str, union: object) -> Tagged:
    kinds = frozenset(kind for kind in get_args(union) if isinstance(kind, type))
    forms = wire.forms()
    forms = attrs.evolve(
        forms,
        known={**forms.known, Report: _Report()},
        tags={**forms.tags, **dict.fromkeys(kinds, "kind")},
        sparse=forms.sparse | {Perform, StateFence},
    )
    phases = Table(SCALARS[str], is_ordered=True)
    view = forms.record(PairView, phases=phases)
    return attrs.evolve(forms, known={**forms.known, PairView: view}).union(name, union)


def _line(name: str, union: object, message: object) -> bytes:
    written = _json.object_of(_form(name, union).write(message))
    value: JsonObject = {"format_version": FORMAT_VERSION, **written}
    return f"{_json.dumps(value)}\n".encode()


def _read(name: str, union: object, line: bytes) -> object:
    members = dict(_json.object_at(_decode.json_value(line), ""))
    version = members.pop("format_version", None)
    if version != FORMAT_VERSION or type(version) is not int:
        rule = f"be {FORMAT_VERSION}: use one pycolo for the supervisor and its commands"
        raise ParseError("format_version", rule, version)
    return _form(name, union).read(members, "")

"""Plans, reports and snapshots as JSON, for files and for other programs.

Every document begins with `format_version`. A pair, a plan or a snapshot inside another document is
a whole document itself and can be extracted. A step leaves out fields that have their default: a
missing `oob` is false, a missing `unless` is None. Keys are written in a fixed order, so that equal
values give equal text.

Other programs must ignore keys that they do not know: a later pycolo may add keys under the same
`format_version`. pycolo itself refuses unknown keys: it executes only plans that it understands
completely.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Literal, TypeAlias, final, get_args

import attrs

from pycolo import _decode, _json, pairfile
from pycolo._forms import (
    FORMAT_VERSION,
    Document,
    Forms,
    Lazy,
    Record,
    Table,
    Tagged,
    Text,
    beside,
    whole_schema,
)
from pycolo._json import JsonObject, JsonValue
from pycolo.catalogue import Explanation
from pycolo.conditions import Condition
from pycolo.differences import Drift
from pycolo.errors import ParseError
from pycolo.model.pair import ColoPair
from pycolo.plan import HostAction, Plan, RunHost, Step
from pycolo.qmp._base import command_schema
from pycolo.qmp.commands import Command, Yank, command_from_qmp
from pycolo.qmp.replies import Version
from pycolo.qmp.schema import Schema
from pycolo.record import NoRecord, ReadState, RecordState
from pycolo.result import Hindrance, Outcome, Report
from pycolo.snapshot import NodeState, Snapshot

DocumentName: TypeAlias = Literal["plan", "report", "snapshot", "drift"]


def plan_to_json(plan: Plan) -> JsonObject:
    """The plan as JSON."""
    return _document("plan").write(plan)


def plan_from_json(value: object, path: str = "") -> Plan:
    """Make a plan from decoded JSON.

    Args:
        value: The decoded JSON.
        path: The value's path in its document, for the error; empty for the whole document.

    Raises:
        ParseError: The value has another `format_version`, an unknown or missing key, a value of
            the wrong type or a command that pycolo does not know, or it breaks a rule of `Plan`.
    """
    plan = _document("plan").read(value, path)
    assert isinstance(plan, Plan)  # noqa: S101 - the form makes no other type
    return plan


def report_to_json(report: Report) -> JsonObject:
    """The report as JSON, with its plan in it."""
    return _document("report").write(report)


def report_from_json(value: object, path: str = "") -> Report:
    """Make a report from decoded JSON.

    Args:
        value: The decoded JSON.
        path: The value's path in its document, for the error; empty for the whole document.

    Raises:
        ParseError: As for `plan_from_json`; or an outcome belongs to no step of the plan, or
            `failed` or `changed` is not what the outcomes say.
    """
    report = _document("report").read(value, path)
    assert isinstance(report, Report)  # noqa: S101 - the form makes no other type
    return report


def snapshot_to_json(snapshot: Snapshot) -> JsonObject:
    """The snapshot as JSON, every field written out."""
    return _document("snapshot").write(snapshot)


def snapshot_from_json(value: object, path: str = "") -> Snapshot:
    """Make a snapshot from decoded JSON.

    Args:
        value: The decoded JSON.
        path: The value's path in its document, for the error; empty for the whole document.

    Raises:
        ParseError: As for `plan_from_json`.
    """
    snapshot = _document("snapshot").read(value, path)
    assert isinstance(snapshot, Snapshot)  # noqa: S101 - the form makes no other type
    return snapshot


def drift_to_json(drift: Drift) -> JsonObject:
    """A drift as JSON."""
    return _document("drift").write(drift)


def explanations_to_json(explanations: Iterable[Explanation]) -> JsonObject:
    """Explanations of a message of QEMU as JSON, best first."""
    form = _forms().record(Explanation)
    found = [form.write(one) for one in explanations]
    return {"format_version": FORMAT_VERSION, "explanations": list[JsonValue](found)}


def dumps(value: JsonValue) -> str:
    """The text of a document, for a file; text that cannot be printed is escaped."""
    return _json.dumps(value, indent=2) + "\n"


def loads(text: str | bytes) -> object:
    """Decode a document's text, for `plan_from_json` and the other `*_from_json` functions.

    Raises:
        ParseError: The text is not JSON, is nested too deeply, or has a number that is too long.
            NaN and Infinity are accepted here; `plan_from_json` and the others refuse them.
    """
    return _decode.json_value(text)


def json_schema(name: DocumentName) -> JsonObject:
    """The JSON Schema of a document.

    Args:
        name: `plan`, `report`, `snapshot` or `drift`; a pair file's is `pairfile.json_schema()`.
    """
    return whole_schema(f"pycolo {name}", _document(name))


def forms() -> Forms:
    """The JSON forms of plans, outcomes, commands and their parts.

    A form reads a value from JSON, writes it and gives its JSON Schema. Use these for a file or a
    message of another kind that contains such values.

    Returns:
        A new value; `attrs.evolve` adds forms to it.
    """
    forms = _forms()
    known = {**forms.known, Plan: _document("plan"), Snapshot: _document("snapshot")}
    return _with_union(attrs.evolve(forms, known=known), "Outcome", Outcome)


# -- the documents -----------------------------------------------------------------------------


@functools.cache
def _document(name: DocumentName) -> Document:
    forms = _forms()
    if name == "snapshot":
        return Document(name, forms.record(Snapshot))
    if name == "drift":
        return Document(name, forms.record(Drift))
    known = {**forms.known, Snapshot: _document("snapshot")}
    if name == "plan":
        return Document(name, _in_order(attrs.evolve(forms, known=known).record(Plan)))
    forms = attrs.evolve(forms, known={**known, Plan: _document("plan")})
    outcomes = Table(forms.union("Outcome", Outcome), is_ordered=True)
    return Document(name, _ReportForm(forms.record(Report, outcomes=outcomes, recovery=outcomes)))


def _in_order(plan: Record[Plan]) -> Record[Plan]:
    """The record of a plan with the important members first and the long snapshots last."""
    first = ("procedure", "pair", "qemu", "dialect", "restored_after", "steps", "recoveries")
    members = {member.field: member for member in plan.members}
    return attrs.evolve(
        plan, layout=tuple(members[name] for name in dict.fromkeys([*first, *members]))
    )


# -- forms that the annotations do not define ----------------------------------------------------


@functools.cache
def _forms() -> Forms:
    sparse = frozenset((*get_args(Step), *get_args(Condition)))
    full = frozenset(
        kind for union in (NodeState, RecordState, Outcome, Hindrance) for kind in get_args(union)
    )
    forms = Forms(
        known={
            Version: Text(Version.parse, "be a version such as 10.0.13", r"\d+\.\d+\.\d+"),
            Schema: Text(Schema.from_digest, "be a SHA-256 digest", "[0-9a-f]{64}"),
            ColoPair: pairfile.document(),
            Yank: _CommandForm((Yank,)),
            frozenset(get_args(Command)): _CommandForm(get_args(Command)),
            frozenset(get_args(Condition)): Lazy(_condition),
        },
        tags={
            **dict.fromkeys(sparse | full, "kind"),
            **dict.fromkeys(get_args(HostAction), "action"),
        },
        sparse=sparse | {NoRecord},
        omits="nothing",
    )
    forms = _with_union(forms, "RecordState", RecordState)
    forms = _with_union(forms, "ReadState", ReadState)
    forms = _with_union(forms, "NodeState", NodeState)
    forms = _with_union(forms, "Hindrance", Hindrance)
    run_host = forms.record(RunHost, inline=("action", forms.union("HostAction", HostAction)))
    forms = attrs.evolve(forms, known={**forms.known, RunHost: run_host})
    return _with_union(forms, "Step", Step)


def _with_union(forms: Forms, name: str, union: object) -> Forms:
    """The forms with a tagged form for a union, which is named in the schema."""
    known = {**forms.known, frozenset(get_args(union)): forms.union(name, union)}
    return attrs.evolve(forms, known=known)


@functools.cache
def _condition() -> Tagged:
    return _forms().union("Condition", Condition)


@final
@attrs.frozen
class _CommandForm:
    """The form of a command: the JSON object that QMP itself uses."""

    kinds: tuple[type[Command], ...]

    def read(self, value: object, path: str) -> object:
        command = command_from_qmp(value, path)
        if not isinstance(command, self.kinds):
            names = ", ".join(self._names())
            raise ParseError(_json.at(path, "execute"), f"be {names}", command.qmp_name)
        return command

    def write(self, value: object) -> JsonValue:
        assert isinstance(value, self.kinds)  # noqa: S101 - the types this form is for
        return value.to_qmp()

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        for kind in self.kinds:
            if kind.qmp_name not in definitions:
                definitions[kind.qmp_name] = command_schema(kind, definitions)
        return {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in self._names()]}

    def _names(self) -> list[str]:
        return sorted(kind.qmp_name for kind in self.kinds)


@final
@attrs.frozen
class _ReportForm:
    """The form of a report: `failed` and `changed`, which follow from its outcomes, are added."""

    report: Record[Report]

    def read(self, value: object, path: str) -> Report:
        members = dict(_json.object_at(value, path))
        derived = {key: members.pop(key, None) for key in ("failed", "changed")}
        report = self.report.read(members, path)
        self._refuse_strangers(report, path)
        for key, given in derived.items():
            expected: object = getattr(report, key)
            if given != expected:
                rule = f"be {expected!r}, which is what the outcomes say"
                raise ParseError(_json.at(path, key), rule, given)
        return report

    def _refuse_strangers(self, report: Report, path: str) -> None:
        """Refuse outcomes of steps that the plan does not have."""
        addresses = {step.address for step in report.plan.steps}
        for address in report.outcomes:
            if address not in addresses:
                rule = "be the address of a step of the plan"
                raise ParseError(_json.at(path, "outcomes"), rule, address)

    def write(self, value: object) -> JsonValue:
        assert isinstance(value, Report)  # noqa: S101 - the type this form is for
        return {"failed": value.failed, "changed": value.changed, **self.report.write(value)}

    def inline_schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        failed: JsonObject = {"anyOf": [{"type": "string"}, {"type": "null"}]}
        derived: JsonObject = {
            "properties": {"failed": failed, "changed": {"type": "boolean"}},
            "required": ["failed", "changed"],
        }
        return beside(derived, self.report.inline_schema(definitions))

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        return self.inline_schema(definitions)

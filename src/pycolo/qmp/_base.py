"""Commands, replies and events of QMP as values, and the form of each in QMP's JSON.

A class states its members once, as attrs fields; its form is derived from them on first use. An
underscore in a field's name is a hyphen in QMP's, and None means "absent". If that does not
hold, the field's metadata says so:

``qmp_name``
    The member's name, if the rule does not give it. A dot leads into a nested object:
    ``image.virtual-size``.
``qmp_form``
    ``"wrapped"``: a tagged object in QMP's older nesting, ``{"type": ..., "data": {...}}``
    (qemu-behaviour 3.13).

    ``"text"``: an integer that QMP carries as a string.

    ``"inline"``: the members of this value are the members of the object itself.

    ``"rest"``: a mapping of all members that no other field holds.

Reading is strict: an unknown key, a missing key or a value of the wrong type raises a ParseError
that names the path. Classes marked ``qmp_open`` are read from QEMU's replies and events: there
unknown keys are ignored, because new versions of QEMU add some.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping, Sequence
from typing import (
    ClassVar,
    Final,
    Generic,
    Self,
    TypeAlias,
    TypeVar,
    final,
    get_args,
    get_origin,
    get_type_hints,
)

import attrs
from typing_extensions import override

from pycolo._forms import (
    Anything,
    Array,
    Constant,
    Form,
    Forms,
    Lazy,
    Member,
    Nullable,
    Record,
    StringOr,
    Tagged,
    Text,
    members_of,
)
from pycolo._json import JsonObject, JsonValue, at, object_at, object_of, refuse_unknown
from pycolo.errors import ParseError

__all__ = ["NULL", "Null", "QmpCommand", "QmpRecord", "QmpValue"]

QmpValue: TypeAlias = JsonValue
"""A JSON value, and so any value in QMP."""

R_co = TypeVar("R_co", covariant=True)


class Null(enum.Enum):
    """QMP's explicit ``null``, for members in which it differs from an absent member."""

    NULL = "null"


NULL: Final = Null.NULL
"""The explicit ``null``."""


class _Value:
    """The base of values that are compared and shown by their fields.

    If attrs made these methods, it would compile them for each of a hundred classes whenever pycolo
    is imported. As methods of a base class they are compiled once.
    """

    __slots__ = ()

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = ()
    """Wire members with one value for the whole class; by them the classes of a union are told
    apart."""

    qmp_open: ClassVar[bool] = False
    """Whether keys that the class does not know are ignored when it is read."""

    @override
    def __repr__(self) -> str:
        """Show the fields that are given and leave out the absent ones."""
        given = zip(form_of(type(self)).fields, _values(self), strict=True)
        parts = [f"{name}={value!r}" for name, value in given if value not in (None, {})]
        return f"{type(self).__name__}({', '.join(parts)})"

    @override
    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _values(self) == _values(other)

    @override
    def __hash__(self) -> int:
        # A mapping cannot be hashed; values that differ only there have one hash.
        return hash((type(self), *(v for v in _values(self) if not isinstance(v, Mapping))))


class QmpRecord(_Value):
    """A part of a command, a reply or an event, with a form in QMP's JSON."""

    __slots__ = ()

    def to_qmp(self) -> dict[str, QmpValue]:
        """Give the wire form, without absent members."""
        return form_of(type(self)).write(self)

    @classmethod
    def from_qmp(cls, value: object, path: str = "") -> Self:
        """Parse the wire form.

        Args:
            value: The decoded JSON.
            path: Where ``value`` stands in its document, for the error.

        Raises:
            ParseError: ``value`` is not the wire form of this class.
        """
        record = form_of(cls).read(value, path)
        assert isinstance(record, cls)  # noqa: S101 - what the form makes
        return record


class QmpCommand(_Value, Generic[R_co]):
    """One QMP command with its arguments, as a value; R_co is the type of its reply."""

    __slots__ = ()

    qmp_name: ClassVar[str]
    """The command's name in QMP."""

    oob_capable: ClassVar[bool] = False
    """Whether QEMU can run it out of band (qemu-behaviour 7.6)."""

    def to_qmp(self) -> dict[str, QmpValue]:
        """Give the wire form; without an ``arguments`` key if there are none."""
        arguments = self.arguments()
        return (
            {"execute": self.qmp_name, "arguments": arguments}
            if arguments
            else {"execute": self.qmp_name}
        )

    def arguments(self) -> dict[str, QmpValue]:
        """Give the arguments in their wire form, without absent ones."""
        return form_of(type(self)).write(self)

    @classmethod
    def from_arguments(cls, value: object, path: str = "arguments") -> Self:
        """Parse the wire form of the arguments.

        Args:
            value: The decoded JSON.
            path: Where ``value`` stands in its document, for the error.

        Raises:
            ParseError: ``value`` is not the wire form of this command's arguments.
        """
        command = form_of(cls).read(value, path)
        assert isinstance(command, cls)  # noqa: S101 - what the form makes
        return command

    def parse_reply(self, value: object) -> R_co:
        """Parse what QEMU returned for this command.

        Raises:
            ParseError: ``value`` is not a reply to this command; paths begin with ``return``.
        """
        raise NotImplementedError

    @property
    def subject(self) -> str:
        """The name of the object that the command acts on, for the address of a step.

        Empty if the command acts on the node as a whole.
        """
        return ""


# -- the form of a class ---------------------------------------------------------------------------


def _values(record: _Value) -> tuple[object, ...]:
    """Give the values of a record's fields, in order."""
    return tuple([getattr(record, name) for name in form_of(type(record)).fields])


_FORMS: Final[dict[type, Record[_Value]]] = {}


def form_of(kind: type[_Value]) -> Record[_Value]:
    """The form of a record, or of a command's arguments."""
    found = _FORMS.get(kind)
    if found is None:
        found = _FORMS[kind] = _derived(kind)
    return found


def _fields(kind: type) -> tuple[attrs.Attribute[object], ...]:
    fields: tuple[attrs.Attribute[object], ...] = attrs.fields(kind)
    return fields


def _derived(kind: type[_Value]) -> Record[_Value]:
    hints = get_type_hints(kind)
    members: list[Member] = []
    inline: tuple[str, Tagged] | None = None
    rest: str | None = None
    for field in _fields(kind):
        name, style = field.name, field.metadata.get("qmp_form")
        if style == "inline":
            inline = name, _tagged(get_args(hints[name]))
        elif style == "rest":
            rest = name
        else:
            form = _styled(style, hints[name])
            place = field.metadata.get("qmp_name", name.replace("_", "-"))
            members.append(Member(name, form, field.default, place))
    constants = [Constant(key, value) for key, value in kind.qmp_constants]
    # In the wire form the tag comes first, and further constants come last.
    layout: list[Constant | Member] = [*constants[:1], *members, *constants[1:]]
    return Record(kind, tuple(layout), is_open=kind.qmp_open, inline=inline, rest=rest)


def command_schema(kind: type[QmpCommand[object]], definitions: dict[str, JsonValue]) -> JsonObject:
    """The JSON Schema of a command with its arguments."""
    arguments = form_of(kind).inline_schema(definitions)
    return {
        "type": "object",
        "properties": {"execute": {"const": kind.qmp_name}, "arguments": arguments},
        "required": ["execute", *(["arguments"] if arguments.get("required", True) else [])],
        "additionalProperties": False,
    }


def _styled(style: str | None, hint: object) -> Form:
    if style == "text":
        return Text(int, "be a string of digits", "[0-9]{1,9}")
    return _Wrapped(_tagged(get_args(hint))) if style == "wrapped" else _form(hint)


def _form(hint: object) -> Form:
    """The form of a field's type; a None in the type means only that the member may be absent."""
    kinds = [kind for kind in members_of(hint) if kind is not type(None)]
    records = [k for k in kinds if isinstance(k, type) and issubclass(k, QmpRecord)]
    if records:
        form: Form = _tagged(records) if len(records) > 1 else _lazy(records[0])
        if str in kinds:
            form = StringOr(form, Mapping, "be an object or a string")
        return Nullable(form, NULL) if Null in kinds else form
    (kind,) = kinds
    is_tuple = get_origin(kind) is tuple
    return Array(_form(get_args(kind)[0])) if is_tuple else _PLAIN.of(kind)


_PLAIN: Final = Forms(known={QmpValue: Anything()})


def _lazy(kind: type[QmpRecord]) -> Lazy:
    return Lazy(functools.partial(form_of, kind))


def _tagged(kinds: Sequence[type[QmpRecord]], place: int = 0) -> Tagged:
    """The form of a union of records, told apart by their constants.

    Args:
        kinds: The classes of the union.
        place: The index of the constant to look at. Classes with equal values there are told apart
            by the next constant.
    """
    groups: dict[str | bool, list[type[QmpRecord]]] = {}
    for kind in kinds:
        groups.setdefault(kind.qmp_constants[place][1], []).append(kind)
    forms: dict[str | bool, Form] = {
        tag: _tagged(group, place + 1) if len(group) > 1 else _lazy(group[0])
        for tag, group in groups.items()
    }
    key = kinds[0].qmp_constants[place][0]
    tags = {kind: kind.qmp_constants[place][1] for kind in kinds}
    return Tagged(None, forms, key, lambda kind: tags[kind])


@final
@attrs.frozen
class _Wrapped:
    """A tagged object in QMP's older nesting: all members but the tag are in an inner object."""

    tagged: Tagged

    def read(self, value: object, path: str) -> object:
        members = object_at(value, path)
        form = self.tagged.pick(members, path)
        if "data" not in members:
            raise ParseError(at(path, "data"), "be present", None)
        refuse_unknown(members, ("type", "data"), path)
        path = at(path, "data")
        data = object_at(members["data"], path)
        if "type" in data:
            raise ParseError(at(path, "type"), "be absent", data["type"])
        return form.read({"type": members["type"], **data}, path)

    def write(self, value: object) -> JsonValue:
        members = object_of(self.tagged.write(value))
        return {"type": members.pop("type"), "data": members}

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:  # noqa: ARG002 - it refers to none
        return {
            "type": "object",
            "properties": {"type": {"enum": list(self.tagged.records)}, "data": {"type": "object"}},
            "required": ["type", "data"],
            "additionalProperties": False,
        }

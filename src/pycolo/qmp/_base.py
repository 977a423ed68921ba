"""How typed values become QMP's JSON and come back from it.

A class states its members once, as attrs fields; from them this module derives, once per class and
on first use, a table for writing and a table for reading. An underscore in a field's name is a
hyphen in QMP's, and None means "absent". Where that does not hold, the field's metadata says so:

``qmp_name``
    The member's name, where the rule does not give it. A dot leads into a nested object:
    ``image.virtual-size``.
``qmp_form``
    ``"wrapped"``: a tagged object in QMP's older nesting, ``{"type": ..., "data": {...}}``
    (qemu-behaviour 3.13).

    ``"text"``: an integer that QMP carries as a string.

    ``"inline"``: the members of this value are the members of the object itself; it is the class's
    only field.

Reading is strict: an unknown key, a missing one or a value of the wrong type is a ParseError that
names the path. Classes marked ``qmp_open`` are what QEMU says to us: there unknown keys are
ignored, because new versions of QEMU add some.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Callable, Mapping
from typing import (
    ClassVar,
    Final,
    Generic,
    Literal,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import attrs
from typing_extensions import TypeAliasType, override

from pycolo._json import SCALARS, Choice, at, list_at, object_at
from pycolo.errors import DeclarationError, ParseError

__all__ = ["NULL", "Null", "QmpCommand", "QmpRecord", "QmpValue"]

QmpValue = TypeAliasType(
    "QmpValue", "bool | int | float | str | list[QmpValue] | dict[str, QmpValue] | None"
)
"""What JSON can say, and so what QMP can carry."""

R_co = TypeVar("R_co", covariant=True)
_T = TypeVar("_T")


class Null(enum.Enum):
    """QMP's explicit ``null``, where it means something else than an absent member."""

    NULL = "null"


NULL: Final = Null.NULL
"""The explicit ``null``."""


class _Value:
    """A value compared and shown by its fields.

    attrs would compile these methods anew for each of a hundred classes, each time pycolo is
    imported; shared, they cost nothing then.
    """

    __slots__ = ()

    @override
    def __repr__(self) -> str:
        """Show the fields that are given and leave out the absent ones."""
        names = [writer.name for writer in _writers(type(self))]
        given = zip(names, _values(self), strict=True)
        parts = [f"{name}={value!r}" for name, value in given if value is not None]
        return f"{type(self).__name__}({', '.join(parts)})"

    @override
    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _values(self) == _values(other)

    @override
    def __hash__(self) -> int:
        return hash((type(self), *_values(self)))


class QmpRecord(_Value):
    """A value with a form in QMP that is a part of a command, a reply or an event."""

    __slots__ = ()

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = ()
    """Members that are the same in every value of the class; they tell the members of a union
    apart."""

    qmp_open: ClassVar[bool] = False
    """Whether keys that the class does not know are ignored when it is read."""

    def to_qmp(self) -> dict[str, QmpValue]:
        """Give the wire form, without absent members."""
        return written(self, self.qmp_constants)

    @classmethod
    def from_qmp(cls, value: object, path: str = "") -> Self:
        """Parse the wire form.

        Args:
            value: The decoded JSON.
            path: Where ``value`` stands in its document, for the error.

        Raises:
            ParseError: ``value`` is not the wire form of this class.
        """
        return read(cls, value, path, constants=cls.qmp_constants, is_open=cls.qmp_open)


class QmpCommand(_Value, Generic[R_co]):
    """One QMP command with its arguments, as a value; R_co is the type of its reply."""

    __slots__ = ()

    qmp_name: ClassVar[str]
    """The command's name in QMP."""

    oob_capable: ClassVar[bool] = False
    """Whether QEMU can run it out of band (qemu-behaviour 7.6)."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = ()
    """Arguments that are the same in every value of the class."""

    def to_qmp(self) -> dict[str, QmpValue]:
        """Give the wire form; without an ``arguments`` key where there are none."""
        arguments = self.arguments()
        return (
            {"execute": self.qmp_name, "arguments": arguments}
            if arguments
            else {"execute": self.qmp_name}
        )

    def arguments(self) -> dict[str, QmpValue]:
        """Give the arguments in their wire form, without absent ones."""
        return written(self, self.qmp_constants)

    @classmethod
    def from_arguments(cls, value: object, path: str = "arguments") -> Self:
        """Parse the wire form of the arguments.

        Args:
            value: The decoded JSON.
            path: Where ``value`` stands in its document, for the error.

        Raises:
            ParseError: ``value`` is not the wire form of this command's arguments.
        """
        return read(cls, value, path, constants=cls.qmp_constants)

    def parse_reply(self, value: object) -> R_co:
        """Parse what QEMU returned for this command.

        Raises:
            ParseError: It is not a reply to this command; paths begin with ``return``.
        """
        raise NotImplementedError

    @property
    def subject(self) -> str:
        """What the command acts on, for the address of a step.

        Empty where that is the node as a whole.
        """
        return ""


# -- the fields of a class -------------------------------------------------------------------------

_Form = Literal["plain", "wrapped", "text", "inline"]


@attrs.frozen
class _Writer:
    """How one field is written.

    Its name, the keys that lead to its place, its last key and its form.
    """

    name: str
    parents: tuple[str, ...]
    key: str
    form: _Form
    optional: bool


@attrs.frozen
class _Reader:
    """How one field is read."""

    writer: _Writer
    path: str
    decode: Callable[[object, str], object]


_WRITERS: dict[type, tuple[_Writer, ...]] = {}
_READERS: dict[type, tuple[_Reader, ...]] = {}


def _values(record: object) -> tuple[object, ...]:
    """Give the values of a record's fields, in order."""
    return tuple([getattr(record, writer.name) for writer in _writers(type(record))])


def _writers(kind: type) -> tuple[_Writer, ...]:
    found = _WRITERS.get(kind)
    if found is None:
        found = _WRITERS[kind] = tuple(_writer(field) for field in attrs.fields(kind))
    return found


def _writer(field: attrs.Attribute[object]) -> _Writer:
    name = str(field.metadata.get("qmp_name", field.name.replace("_", "-")))
    *parents, key = name.split(".")
    form: _Form = field.metadata.get("qmp_form", "plain")
    return _Writer(field.name, tuple(parents), key, form, field.default is not attrs.NOTHING)


def _readers(kind: type) -> tuple[_Reader, ...]:
    found = _READERS.get(kind)
    if found is None:
        hints: dict[str, object] = get_type_hints(kind)
        found = _READERS[kind] = tuple(_reader(w, hints[w.name]) for w in _writers(kind))
    return found


def _reader(writer: _Writer, hint: object) -> _Reader:
    return _Reader(
        writer, ".".join((*writer.parents, writer.key)), _form_decoder(writer.form, hint)
    )


# -- writing ---------------------------------------------------------------------------------------

_SCALARS: Final = frozenset({str, int, bool, float})


def written(record: object, constants: tuple[tuple[str, str | bool], ...]) -> dict[str, QmpValue]:
    """Write a record's members.

    The first constant is the tag and comes first, further ones come last.
    """
    members: dict[str, QmpValue] = dict(constants[:1])
    for writer in _WRITERS.get(type(record)) or _writers(type(record)):
        value: object = getattr(record, writer.name)
        if value is not None or not writer.optional:
            _write(members, writer, value)
    if len(constants) > 1:
        members.update(constants[1:])
    return members


def _write(members: dict[str, QmpValue], writer: _Writer, value: object) -> None:
    if writer.form == "inline":
        members.update(_as_record(value).to_qmp())
        return
    place = members
    for key in writer.parents:
        inner = place.setdefault(key, {})
        place = inner if isinstance(inner, dict) else place
    place[writer.key] = (
        _encoded(value) if writer.form == "plain" else _encoded_as(writer.form, value)
    )


def _as_record(value: object) -> QmpRecord:
    if not isinstance(value, QmpRecord):
        raise TypeError(f"{value!r} has no form in QMP")
    return value


def _encoded_as(form: _Form, value: object) -> QmpValue:
    if form == "text":
        return str(value)
    members = _as_record(value).to_qmp()
    return {"type": members.pop("type"), "data": members}


def _encoded(value: object) -> QmpValue:
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, QmpRecord):
        return value.to_qmp()
    if isinstance(value, tuple):
        return [_encoded(item) for item in value]
    if value is NULL or value is None:
        return None
    if isinstance(value, (list, dict)):
        return value
    raise TypeError(f"{value!r} has no form in QMP")


# -- reading ---------------------------------------------------------------------------------------

_ABSENT: Final = object()


def read(
    kind: type[_T],
    value: object,
    path: str,
    *,
    constants: tuple[tuple[str, str | bool], ...] = (),
    is_open: bool = False,
) -> _T:
    """Build a ``kind`` from its members' wire form.

    Raises:
        ParseError: ``value`` is not that form.
    """
    members = object_at(value, path)
    for key, constant in constants:
        if not _same(members.get(key), constant):
            raise ParseError(at(path, key), f"be {constant!r}", members.get(key))
    if not is_open:
        _refuse_unknown(kind, members, path, constants)
    return _built(kind, _fields(kind, members, path, is_open=is_open), path)


def _fields(
    kind: type, members: Mapping[str, object], path: str, *, is_open: bool
) -> dict[str, object]:
    fields: dict[str, object] = {}
    for reader in _readers(kind):
        if reader.writer.form == "inline":
            return {reader.writer.name: reader.decode(members, path)}
        value = _found(members, reader.writer, path)
        if value is _ABSENT or (value is None and is_open):
            if not reader.writer.optional:
                raise ParseError(at(path, reader.path), "be present", None)
        else:
            fields[reader.writer.name] = reader.decode(value, at(path, reader.path))
    return fields


def _found(members: Mapping[str, object], writer: _Writer, path: str) -> object:
    for key in writer.parents:
        path = at(path, key)
        if key not in members:
            return _ABSENT
        members = object_at(members[key], path)
    return members.get(writer.key, _ABSENT)


def _refuse_unknown(
    kind: type,
    members: Mapping[str, object],
    path: str,
    constants: tuple[tuple[str, str | bool], ...],
) -> None:
    writers = _writers(kind)
    if any(w.form == "inline" for w in writers):
        return
    known = {(*w.parents, w.key)[0] for w in writers} | {key for key, _ in constants}
    for key in members:
        if key not in known:
            raise ParseError(at(path, key), "be absent", members[key])


def _built(kind: type[_T], fields: dict[str, object], path: str) -> _T:
    """Make the value; a rule it breaks is an error of the document."""
    make: Callable[..., _T] = kind
    try:
        return make(**fields)
    except DeclarationError as error:
        places = {reader.writer.name: reader.path for reader in _readers(kind)}
        raise ParseError(
            at(path, places.get(error.field, error.field)), error.rule, error.value
        ) from error


def _same(value: object, constant: object) -> bool:
    """Compare as JSON does: true is not 1."""
    return type(value) is type(constant) and value == constant


# -- a decoder for each type a field can have ------------------------------------------------------

_Decoder = Callable[[object, str], object]


def _form_decoder(form: _Form, hint: object) -> _Decoder:
    if form == "text":
        return _integer_text
    decode = _decoder(hint)
    return _wrapped(hint) if form == "wrapped" else decode


def _decoder(hint: object) -> _Decoder:
    if hint in SCALARS:
        return SCALARS[hint].read
    if hint is QmpValue:
        return _json
    if isinstance(hint, type) and issubclass(hint, QmpRecord):
        return hint.from_qmp
    return _composed(hint)


def _composed(hint: object) -> _Decoder:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return Choice(args).read
    if origin is tuple:
        item = _decoder(args[0])
        return lambda value, path: list_at(value, path, item)
    if origin in (Union, types.UnionType):
        given = tuple(arg for arg in args if arg is not type(None))
        return _decoder(given[0]) if len(given) == 1 else _union(given)
    raise TypeError(f"{hint!r} has no form in QMP")


def _json(value: object, path: str) -> QmpValue:
    """Narrow to what JSON can say; the value itself is kept apart from its source."""
    if isinstance(value, (list, tuple)):
        return [_json(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return read_json(object_at(value, path), path)
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ParseError(path, "be a JSON value", value)


def read_json(members: Mapping[str, object], path: str) -> dict[str, QmpValue]:
    """Copy an object of any JSON values.

    Raises:
        ParseError: There is something in it that JSON cannot say.
    """
    return {key: _json(item, at(path, key)) for key, item in members.items()}


def _integer_text(value: object, path: str) -> int:
    if not isinstance(value, str) or not value.isdecimal() or not value.isascii():
        raise ParseError(path, "be a string of digits", value)
    return int(value)


def _records_in(hint: object) -> tuple[type[QmpRecord], ...]:
    kinds = get_args(hint) or (hint,)
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, QmpRecord))


def _union(kinds: tuple[object, ...]) -> _Decoder:
    """Tell the members of a union apart.

    Records by their constants, the rest by their JSON type.
    """
    records = tuple(
        kind for kind in kinds if isinstance(kind, type) and issubclass(kind, QmpRecord)
    )
    scalars = tuple(kind for kind in kinds if kind in SCALARS)
    names = [SCALARS[kind].rule.removeprefix("be ") for kind in scalars]
    rule = "be " + " or ".join(["an object", *names, *(["null"] if Null in kinds else [])])

    def decode(value: object, path: str) -> object:
        if isinstance(value, Mapping) and records:
            return _picked(records, value, path).from_qmp(value, path)
        if value is None and Null in kinds:
            return NULL
        if type(value) not in scalars:
            raise ParseError(path, rule, value)
        return value

    return decode


def _picked(
    records: tuple[type[QmpRecord], ...], members: Mapping[str, object], path: str
) -> type[QmpRecord]:
    for kind in records:
        if all(_same(members.get(key), constant) for key, constant in kind.qmp_constants):
            return kind
    choices = (
        ", ".join(f"{key} {constant!r}" for key, constant in kind.qmp_constants) for kind in records
    )
    raise ParseError(path, "have " + " or ".join(choices), dict(members))


def _wrapped(hint: object) -> _Decoder:
    records = _records_in(hint)

    def decode(value: object, path: str) -> object:
        members = object_at(value, path)
        for key in ("type", "data"):
            if key not in members:
                raise ParseError(at(path, key), "be present", None)
        for key in members:
            if key not in ("type", "data"):
                raise ParseError(at(path, key), "be absent", members[key])
        data = object_at(members["data"], at(path, "data"))
        if "type" in data:
            raise ParseError(at(path, "data.type"), "be absent", data["type"])
        flat = {"type": members["type"], **data}
        return _picked(records, flat, path).from_qmp(flat, at(path, "data"))

    return decode

"""Frozen values as JSON. The form of a type reads it, writes it and makes its JSON Schema.

Forms are derived from the attrs classes and their annotations, so that each field is declared once.
A value of a class is written as a JSON object whose keys are the fields. In a union of classes the
key `kind` names the class, in lower case with hyphens (`RunStateIs`: `run-state-is`). If the
annotation does not define the JSON, as for a version that is written as a string, `Forms` is given
the form.

Reading is strict: an unknown key, a missing key, a value of another type or a value that breaks a
rule of its class is a ParseError that names the path. Nothing is converted: a string is no number.
"""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import (
    Final,
    Generic,
    Literal,
    Protocol,
    TypeAlias,
    TypeVar,
    Union,
    final,
    get_args,
    get_origin,
    get_type_hints,
)

import attrs

from pycolo._decode import check_depth
from pycolo._json import (
    JsonObject,
    JsonValue,
    array_at,
    at,
    is_same,
    kebab,
    list_of,
    object_at,
    object_of,
    refuse_unknown,
)
from pycolo.errors import DeclarationError, ParseError

Omits: TypeAlias = Literal["nothing", "none", "defaults"]

FORMAT_VERSION = 1
DIALECT = "https://json-schema.org/draft/2020-12/schema"

T = TypeVar("T")
A = TypeVar("A", bound=attrs.AttrsInstance)


class Form(Protocol):
    """The JSON form of one type: reads its values, writes them and describes them."""

    def read(self, value: object, path: str) -> object:
        """Make a value of the type from decoded JSON.

        Args:
            value: The decoded JSON.
            path: The JSON's place in the document, for the error.

        Raises:
            ParseError: The JSON is not a value of the type.
        """

    def write(self, value: object) -> JsonValue:
        """Return the JSON of a value; `read` makes the same value from it."""

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Return the JSON Schema of the JSON that `read` accepts.

        Args:
            definitions: The document's `$defs`; schemas that the result refers to are added to it.
        """


@final
@attrs.frozen
class Scalar:
    """A string, a number, true or false."""

    kinds: tuple[type, ...]
    rule: str
    keywords: Mapping[str, JsonValue]

    def read(self, value: object, path: str) -> object:
        """Accept a value of one of the kinds; NaN and infinite numbers are refused."""
        if type(value) not in self.kinds or (isinstance(value, float) and not math.isfinite(value)):
            raise ParseError(path, self.rule, value)
        return value

    def write(self, value: object) -> JsonValue:
        """Return the value unchanged."""
        if not isinstance(value, str | int | float):
            raise TypeError(f"{value!r} is no scalar")
        return value

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:  # noqa: ARG002 - it adds no definition
        """Return the type and the bounds of the value."""
        return dict(self.keywords)


SCALARS: Mapping[object, Scalar] = {
    str: Scalar((str,), "be a string", {"type": "string"}),
    bool: Scalar((bool,), "be true or false", {"type": "boolean"}),
    int: Scalar((int,), "be a whole number", {"type": "integer"}),
    float: Scalar((float, int), "be a finite number", {"type": "number"}),
}


def _any_scalar(scalars: Sequence[Scalar]) -> Scalar:
    """The form of a value of any of several scalar types."""
    kinds = tuple(kind for scalar in scalars for kind in scalar.kinds)
    rule = "be " + " or ".join(scalar.rule.removeprefix("be ") for scalar in scalars)
    return Scalar(kinds, rule, {"type": [scalar.keywords["type"] for scalar in scalars]})


def _words(constants: Iterable[str | bool | int]) -> str:
    return ", ".join(one if isinstance(one, str) else json.dumps(one) for one in constants)


@final
@attrs.frozen
class Choice:
    """One of a fixed set of constants: words, numbers, true or false."""

    words: tuple[str | bool | int, ...]

    def read(self, value: object, path: str) -> object:
        """Accept one of the constants."""
        if not any(is_same(value, word) for word in self.words):
            raise ParseError(path, f"be one of {_words(self.words)}", value)
        return value

    def write(self, value: object) -> JsonValue:
        """Return the constant unchanged."""
        if not isinstance(value, str | int):
            raise TypeError(f"{value!r} is not one of {_words(self.words)}")
        return value

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:  # noqa: ARG002 - it adds no definition
        """List the constants."""
        return {"enum": list(self.words)}


@final
@attrs.frozen
class Nullable:
    """A value of another form, or null."""

    form: Form
    null: object = None
    "The value that null is read as."

    def read(self, value: object, path: str) -> object:
        """Read null as the value `null`, and any other JSON by the other form."""
        return self.null if value is None else self.form.read(value, path)

    def write(self, value: object) -> JsonValue:
        """Write null for the value `null`, and any other value by the other form."""
        return None if value is self.null else self.form.write(value)

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Allow null, and the JSON that the other form allows."""
        return {"anyOf": [self.form.schema(definitions), {"type": "null"}]}


@final
@attrs.frozen
class StringOr:
    """A string, or a value of another form."""

    form: Form
    container: type
    "The Python type of the JSON that the other form reads: `list` or `dict`."
    rule: str

    def read(self, value: object, path: str) -> object:
        """Accept a string unchanged, and read any other JSON by the other form."""
        if isinstance(value, str):
            return value
        if not isinstance(value, self.container):
            raise ParseError(path, self.rule, value)
        return self.form.read(value, path)

    def write(self, value: object) -> JsonValue:
        """Write a string unchanged, and any other value by the other form."""
        return value if isinstance(value, str) else self.form.write(value)

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Allow a string, and the JSON that the other form allows."""
        return {"anyOf": [{"type": "string"}, self.form.schema(definitions)]}


@final
@attrs.frozen
class Array:
    """A tuple in its order, or a set in sorted order."""

    item: Form
    is_set: bool = False

    def read(self, value: object, path: str) -> object:
        """Read an array, each item by the form of the items."""
        items = [self.item.read(item, place) for place, item in array_at(value, path)]
        return frozenset(items) if self.is_set else tuple(items)

    def write(self, value: object) -> JsonValue:
        """Write an array; a set is sorted, so that equal sets give equal text."""
        if isinstance(value, frozenset):
            return [self.item.write(item) for item in sorted(value)]
        return [self.item.write(item) for _, item in array_at(value, "")]

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Allow an array of items that the form of the items allows."""
        return {"type": "array", "items": self.item.schema(definitions)}


@final
@attrs.frozen
class Table:
    """A mapping from strings; written in sorted order, unless its own order has a meaning."""

    item: Form
    is_ordered: bool = False

    def read(self, value: object, path: str) -> object:
        """Read an object into a dict with the same keys, each value by the form of the values."""
        members = object_at(value, path)
        return {key: self.item.read(member, at(path, key)) for key, member in members.items()}

    def write(self, value: object) -> JsonValue:
        """Write an object, each value by the form of the values."""
        members = object_at(value, "")
        keys = members if self.is_ordered else sorted(members)
        return {key: self.item.write(members[key]) for key in keys}

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Allow an object with any keys, and values that the form of the values allows."""
        return {"type": "object", "additionalProperties": self.item.schema(definitions)}


@final
@attrs.frozen
class Text:
    """A value that is written as a string."""

    parse: Callable[[str], object]
    "Makes the value from a string that matches the pattern."
    rule: str
    pattern: str

    def read(self, value: object, path: str) -> object:
        """Make the value from a string that matches the pattern."""
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            raise ParseError(path, self.rule, value)
        return self.parse(value)

    def write(self, value: object) -> JsonValue:
        """Write `str(value)`."""
        return str(value)

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:  # noqa: ARG002 - it adds no definition
        """Return the JSON Schema of a string that matches the pattern."""
        return {"type": "string", "pattern": f"^{self.pattern}$"}


class Described(Form, Protocol):
    """A form that can also return the content of its schema, so that a caller can add to it."""

    def inline_schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Return the content of the schema, not a reference to it; a new object at each call."""


@final
@attrs.frozen
class Lazy:
    """A form that is looked up at each use, so that a recursive type can refer to itself."""

    find: Callable[[], Form]

    def read(self, value: object, path: str) -> object:
        """Read as the form does."""
        return self.find().read(value, path)

    def write(self, value: object) -> JsonValue:
        """Write as the form does."""
        return self.find().write(value)

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Return the form's schema, which is a reference."""
        return self.find().schema(definitions)


@final
@attrs.frozen
class Anything:
    """Any JSON value. It is copied, so that it shares no list or dict with its source."""

    def read(self, value: object, path: str) -> JsonValue:
        """Copy the value.

        Raises:
            ParseError: The value holds something that is not a JSON value.
        """
        if value is None or isinstance(value, str | int | float):
            return value
        if isinstance(value, list | tuple):
            return [self.read(item, place) for place, item in array_at(value, path)]
        if isinstance(value, Mapping):
            members = object_at(value, path).items()
            return {key: self.read(item, at(path, key)) for key, item in members}
        raise ParseError(path, "be a JSON value", value)

    def write(self, value: object) -> JsonValue:
        """Copy the value; see `read`."""
        return self.read(value, "")

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:  # noqa: ARG002 - it adds no definition
        """Allow every JSON value."""
        return {}


@final
@attrs.frozen
class Constant:
    """A member of a JSON object that has the same value for every value of a class."""

    key: str
    value: str | bool


@final
@attrs.frozen
class Member:
    """A member of a JSON object that holds a field of a class."""

    field: str
    form: Form
    default: object
    "The field's default, or attrs.NOTHING."
    place: str
    "The member's key; if it is in an inner object, the keys on the way to it, joined by dots."
    is_sparse: bool = False
    "Whether it is left out if its value is empty, whatever `Record.omits` says."
    outer: tuple[str, ...] = attrs.field(init=False)
    last: str = attrs.field(init=False)

    @outer.default
    def _outer(self) -> tuple[str, ...]:
        return tuple(self.place.split(".")[:-1])

    @last.default
    def _last(self) -> str:
        return self.place.rpartition(".")[2]

    def find(self, members: Mapping[str, object], path: str) -> object:
        """Find the member's value in the object at `path`; attrs.NOTHING if it is absent."""
        for key in self.outer:
            path = at(path, key)
            if key not in members:
                return attrs.NOTHING
            members = object_at(members[key], path)
        return members.get(self.last, attrs.NOTHING)

    def put(self, members: JsonObject, value: JsonValue) -> None:
        """Put the member into an object, with the value."""
        for key in self.outer:
            members = object_of(members.setdefault(key, {}))
        members[self.last] = value


@final
@attrs.frozen
class Record(Generic[T]):
    """The form of an attrs class: a JSON object whose members are the fields."""

    kind: type[T]
    layout: tuple[Constant | Member, ...]
    "The members, in the order in which they are written."
    omits: Omits = "none"
    """Which fields with a default are left out when a value is written.

    `nothing`: none of them. `none`: those that are None. `defaults`: those that are None, and those
    that have their default.
    """
    is_open: bool = False
    "Whether reading ignores unknown keys, and takes a null for an absent member."
    inline: tuple[str, Tagged] | None = None
    "The name and form of a field whose own members are written into this object; None for none."
    rest: str | None = None
    "The name of a field that is a mapping of all members that no other field holds; None for none."
    constants: tuple[Constant, ...] = attrs.field(init=False)
    members: tuple[Member, ...] = attrs.field(init=False)
    keys: tuple[str, ...] = attrs.field(init=False)
    "Every key of the object, without those of the inline field."
    fields: tuple[str, ...] = attrs.field(init=False)
    "The names of the fields that are written."

    @constants.default
    def _constants(self) -> tuple[Constant, ...]:
        return tuple(part for part in self.layout if isinstance(part, Constant))

    @members.default
    def _members(self) -> tuple[Member, ...]:
        return tuple(part for part in self.layout if isinstance(part, Member))

    @keys.default
    def _keys(self) -> tuple[str, ...]:
        return tuple(
            part.key if isinstance(part, Constant) else part.place.partition(".")[0]
            for part in self.layout
        )

    @fields.default
    def _field_names(self) -> tuple[str, ...]:
        inline = () if self.inline is None else self.inline[:1]
        rest = () if self.rest is None else (self.rest,)
        return (*(member.field for member in self.members), *inline, *rest)

    def read(self, value: object, path: str) -> T:
        """Read an object, and make a value of the class from it.

        Raises:
            ParseError: A key is unknown or missing, a value is wrong, or a field breaks its rule.
        """
        members = object_at(value, path)
        for constant in self.constants:
            if not is_same(members.get(constant.key), constant.value):
                rule = f"be {constant.value!r}"
                raise ParseError(at(path, constant.key), rule, members.get(constant.key))
        fields = self._fields(members, path)
        make: Callable[..., T] = self.kind
        try:
            return make(**fields)
        except DeclarationError as error:
            field = error.field.removeprefix(self.kind.__name__).removeprefix(".")
            places = {member.field: member.place for member in self.members}
            place = at(path, places.get(field, field)) if field else path
            raise ParseError(place, error.rule, error.value) from error

    def _fields(self, members: Mapping[str, object], path: str) -> dict[str, object]:
        fields: dict[str, object] = {}
        if self.inline is not None:
            name, form = self.inline
            rest = {key: members[key] for key in members if key not in self.keys}
            fields[name] = form.read(rest, path)
        elif self.rest is not None:
            rest = {key: members[key] for key in members if key not in self.keys}
            fields[self.rest] = Anything().read(rest, path)
        elif not self.is_open:
            refuse_unknown(members, self.keys, path)
        for member in self.members:
            found = member.find(members, path)
            if found is attrs.NOTHING or (found is None and self.is_open):
                if member.default is attrs.NOTHING:
                    raise ParseError(at(path, member.place), "be present", None)
            else:
                fields[member.field] = member.form.read(found, at(path, member.place))
        return fields

    def write(self, value: object) -> JsonObject:
        """Write an object, without the members that `omits` and `Member.is_sparse` leave out."""
        members: JsonObject = {}
        for part in self.layout:
            if isinstance(part, Constant):
                members[part.key] = part.value
            elif not self._is_omitted(part, field := getattr(value, part.field)):
                part.put(members, part.form.write(field))
        if self.inline is not None:
            name, form = self.inline
            members.update(object_of(form.write(getattr(value, name))))
        if self.rest is not None:
            members.update(object_of(Anything().write(getattr(value, self.rest))))
        return members

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Add the schema to the definitions if it is not there yet, and return a reference."""
        name = self.kind.__name__
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = self.inline_schema(definitions)
        return {"$ref": f"#/$defs/{name}"}

    def inline_schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Return the schema itself, not a reference to it."""
        properties: JsonObject = {
            part.key if isinstance(part, Constant) else part.place: (
                {"const": part.value}
                if isinstance(part, Constant)
                else part.form.schema(definitions)
            )
            for part in self.layout
        }
        optional = {m.place for m in self.members if m.default is not attrs.NOTHING}
        schema: JsonObject = {
            "description": (self.kind.__doc__ or "").partition("\n")[0],
            "type": "object",
            "properties": properties,
            "required": [key for key in properties if key not in optional],
            "additionalProperties": self.rest is not None,
        }
        if self.inline is None:
            return schema
        others = [form.schema(definitions) for form in self.inline[1].records.values()]
        return {"oneOf": [beside(schema, _resolved(other, definitions)) for other in others]}

    def _is_omitted(self, member: Member, value: object) -> bool:
        if member.default is attrs.NOTHING:
            return False
        if member.is_sparse:
            return not value
        if self.omits == "nothing":
            return False
        return value is None or (self.omits == "defaults" and value == member.default)


def _resolved(schema: JsonObject, definitions: dict[str, JsonValue]) -> JsonObject:
    return object_of(definitions[str(schema["$ref"]).removeprefix("#/$defs/")])


def beside(schema: JsonObject, other: JsonObject) -> JsonObject:
    """The schema of an object that has the properties of two object schemas."""
    properties = object_of(schema["properties"]) | object_of(other["properties"])
    return {
        **other,
        "properties": properties,
        "required": [*list_of(schema["required"]), *list_of(other["required"])],
    }


@final
@attrs.frozen
class Tagged:
    """The form of one of several classes; the member `key` of the object names the class."""

    name: str | None
    "The name of its schema in `$defs`; None to repeat the schema at every use."
    records: Mapping[str | bool, Form]
    key: str = "kind"
    tag_of: Callable[[type], str | bool] = kebab
    "The value of the key for a class."

    def pick(self, members: Mapping[str, object], path: str) -> Form:
        """The form of the class that the key names.

        Raises:
            ParseError: The key is absent or does not name one of the classes.
        """
        tag = members.get(self.key)
        found = self.records.get(tag) if isinstance(tag, str | bool) else None
        if found is None:
            raise ParseError(at(path, self.key), f"be one of {_words(self.records)}", tag)
        return found

    def read(self, value: object, path: str) -> object:
        """Read the object by the form of the class that the key names."""
        return self.pick(object_at(value, path), path).read(value, path)

    def write(self, value: object) -> JsonValue:
        """Write the value by the form of its class."""
        return self.records[self.tag_of(type(value))].write(value)

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Add the schema to the definitions if it is not there yet, and return a reference.

        Without a name, return the schema itself.
        """
        if self.name is None:
            return self.inline_schema(definitions)
        if self.name not in definitions:
            definitions[self.name] = {}
            definitions[self.name] = self.inline_schema(definitions)
        return {"$ref": f"#/$defs/{self.name}"}

    def inline_schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Allow JSON that exactly one of the forms allows."""
        return {"oneOf": [record.schema(definitions) for record in self.records.values()]}


@final
@attrs.frozen
class Document:
    """The form of a whole file: `write` puts `format_version` first, `read` checks it."""

    name: str
    form: Described

    def read(self, value: object, path: str) -> object:
        """Read the document.

        Raises:
            ParseError: The document has another `format_version`, is nested too deeply, or the form
                refuses it.
        """
        check_depth(value, path)
        members = object_at(value, path)
        version = members.get("format_version")
        if type(version) is not int or version != FORMAT_VERSION:
            missing = "" if "format_version" in members else " (the key is missing)"
            rule = f"be {FORMAT_VERSION}, the version that this pycolo reads and writes{missing}"
            raise ParseError(at(path, "format_version"), rule, version)
        return self.form.read({k: v for k, v in members.items() if k != "format_version"}, path)

    def write(self, value: object) -> JsonObject:
        """Write the document, with `format_version` first."""
        return {"format_version": FORMAT_VERSION, **object_of(self.form.write(value))}

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Add the schema to the definitions if it is not there yet, and return a reference."""
        if self.name not in definitions:
            definitions[self.name] = {}
            schema = self.form.inline_schema(definitions)
            properties = object_of(schema["properties"])
            schema["properties"] = {"format_version": {"const": FORMAT_VERSION}, **properties}
            schema["required"] = ["format_version", *list_of(schema["required"])]
            definitions[self.name] = schema
        return {"$ref": f"#/$defs/{self.name}"}


def whole_schema(title: str, form: Form) -> JsonObject:
    """The JSON Schema of a document whose root has this form."""
    definitions: dict[str, JsonValue] = {}
    reference = form.schema(definitions)
    return {"$schema": DIALECT, "title": title, **reference, "$defs": definitions}


# -- from annotations to forms -----------------------------------------------------------------


_STEP: Final = ("address", "node", "why")
Narrow: TypeAlias = Callable[[Form, object], Form]


def _as_it_is(form: Form, validator: object) -> Form:  # noqa: ARG001 - the default of `narrow`
    return form


@final
@attrs.frozen
class Forms:
    """Derives forms from annotations.

    Args:
        known: Type to a form that cannot be derived; the key of a union is the frozenset of its
            members.
        sparse: Classes whose records leave out every field that is None or has its default.
        omits: Which fields the records of the other classes leave out; see `Record.omits`.
        tags: Class to the key that holds its kind, for the classes that are always written with it.
        narrow: Takes the form and the validator of a field, and returns the form with the
            validator's rule in its schema.
    """

    known: Mapping[object, Form] = attrs.field(factory=dict)
    sparse: frozenset[type] = frozenset()
    omits: Omits = "none"
    tags: Mapping[type, str] = attrs.field(factory=dict)
    narrow: Narrow = _as_it_is

    def of(self, hint: object) -> Form:
        """The form of a type annotation.

        Raises:
            TypeError: The annotation has no form, and `known` does not give one.
        """
        members = members_of(hint)
        found = self.known.get(frozenset(members)) or self.known.get(hint)
        if found is not None:
            return found
        if type(None) in members:
            rest = tuple(kind for kind in members if kind is not type(None))
            # `Union` takes a tuple of members; `|` does not.
            return Nullable(self.of(rest[0] if len(rest) == 1 else Union[rest]))  # noqa: UP007
        if isinstance(hint, type) and attrs.has(hint):
            return self.record(hint)
        if len(members) > 1 and all(kind in SCALARS for kind in members):
            return _any_scalar([SCALARS[kind] for kind in members])
        return SCALARS[hint] if hint in SCALARS else self._generic(hint)

    def record(
        self, kind: type[A], *, inline: tuple[str, Tagged] | None = None, **given: Form
    ) -> Record[A]:
        """The record of a class.

        Args:
            kind: The class.
            inline: The name and form of a field whose own members are written beside the other
                fields; None for none.
            given: Field name to its form, for fields whose annotation does not define it.
        """
        hints = get_type_hints(kind)
        layout: dict[str, Constant | Member] = {}
        for field in attrs.fields(kind):
            if inline is not None and field.name == inline[0]:
                continue
            form = self.narrow(given.get(field.name) or self.of(hints[field.name]), field.validator)
            # A field that was added to the format later: a document without it stays valid.
            is_sparse = bool(field.metadata.get("sparse"))
            layout[field.name] = Member(field.name, form, field.default, field.name, is_sparse)
        if kind in self.tags:
            # A step begins with its address, node, kind and reason; other objects with the kind.
            order = (*_STEP[:2], "", _STEP[2]) if layout.keys() >= set(_STEP) else ("",)
            layout = {"": Constant(self.tags[kind], kebab(kind)), **layout}
            layout = {name: layout[name] for name in dict.fromkeys([*order, *layout])}
        omits: Omits = "defaults" if kind in self.sparse else self.omits
        return Record(kind, tuple(layout.values()), omits, inline=inline)

    def union(self, name: str, hint: object) -> Tagged:
        """The form of a union of tagged classes; `name` is the name of its schema."""
        kinds = [kind for kind in get_args(hint) if isinstance(kind, type)]
        forms: dict[str | bool, Form] = {kebab(kind): self.of(kind) for kind in kinds}
        return Tagged(name, forms, self.tags[kinds[0]])

    def _generic(self, hint: object) -> Form:
        origin, args = get_origin(hint), get_args(hint)
        if origin is Literal:
            return Choice(args)
        if origin in (tuple, frozenset):
            return Array(self.of(args[0]), is_set=origin is frozenset)
        if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
            return Table(self.of(args[1]))
        raise TypeError(f"{hint!r} has no form in JSON")


def members_of(hint: object) -> tuple[object, ...]:
    """The members of a union; for any other type, the type alone."""
    is_union = get_origin(hint) in (Union, types.UnionType)
    return get_args(hint) if is_union else (hint,)

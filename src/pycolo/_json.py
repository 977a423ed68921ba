"""Frozen values as JSON: one form of a type reads it, writes it and gives its JSON Schema.

Forms are derived from the attrs classes and their annotations, so that a field is stated once. A
class is an object with its fields as keys; a union of classes is told apart by the key `kind`,
which is the class's name in small letters with hyphens (`RunStateIs`: `run-state-is`). What no
annotation says, such as a version written as a string, is a form of its own, given to `Forms`.

Reading is strict: an unknown key, a missing one, a value of another type or one that breaks a rule
of its class is a ParseError that names the path. Nothing is converted: a string is no number.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import (
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
from typing_extensions import TypeAliasType

from pycolo._decode import check_depth
from pycolo.errors import DeclarationError, ParseError

JsonValue = TypeAliasType(
    "JsonValue", "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
)
"""What JSON can say."""

JsonObject: TypeAlias = dict[str, JsonValue]
Omits: TypeAlias = Literal["nothing", "none", "defaults"]

FORMAT_VERSION = 1
DIALECT = "https://json-schema.org/draft/2020-12/schema"

T = TypeVar("T", bound=attrs.AttrsInstance)
_Item = TypeVar("_Item")


class Form(Protocol):
    """How values of one type look in JSON."""

    def read(self, value: object, path: str) -> object:
        """Parse decoded JSON that stands at `path`, or raise ParseError."""

    def write(self, value: object) -> JsonValue:
        """Give the JSON of a value of the type."""

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Give the schema; what it refers to is put into `definitions`."""


# -- text --------------------------------------------------------------------------------------


def dumps(value: JsonValue, *, indent: int | None = None) -> str:
    """JSON that can be shown on a terminal: what is not printable is escaped, nothing is lost.

    Args:
        value: What to write.
        indent: Spaces a level; None for one line without spaces.
    """
    separators = None if indent else (",", ":")
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[n : n + 4]}" for n in range(0, len(units), 4))


# -- paths and narrowing -----------------------------------------------------------------------


def at(path: str, key: str) -> str:
    """The path of a member."""
    return f"{path}.{key}" if path else key


def object_at(value: object, path: str) -> Mapping[str, object]:
    """Narrow to a JSON object.

    Raises:
        ParseError: It is none.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ParseError(path, "be an object", value)
    return value


def array_at(value: object, path: str) -> tuple[tuple[str, object], ...]:
    """Narrow to a JSON array; gives its items with their paths.

    Raises:
        ParseError: It is none.
    """
    if not isinstance(value, list | tuple):
        raise ParseError(path, "be an array", value)
    return tuple((f"{path}[{n}]", item) for n, item in enumerate(value))


def list_at(value: object, path: str, parse: Callable[[object, str], _Item]) -> tuple[_Item, ...]:
    """Parse a JSON array item by item.

    Raises:
        ParseError: It is none, or `parse` refuses an item.
    """
    return tuple(parse(item, place) for place, item in array_at(value, path))


def refuse_unknown(members: Mapping[str, object], known: Iterable[str], path: str) -> None:
    """Refuse keys that nobody reads.

    Raises:
        ParseError: There is one; it names the nearest known one, or all of them.
    """
    names = tuple(known)
    for key, value in members.items():
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            known = f"did you mean {near[0]}?" if near else f"one of {', '.join(names)}"
            raise ParseError(at(path, key), f"be a known key ({known})", value)


def kebab(kind: type) -> str:
    """A class's name in small letters with hyphens."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()


# -- forms -------------------------------------------------------------------------------------


@final
@attrs.frozen
class Scalar:
    """A string, a number, true or false."""

    kinds: tuple[type, ...]
    rule: str
    keywords: Mapping[str, JsonValue]

    def read(self, value: object, path: str) -> object:
        """Parse it."""
        if type(value) not in self.kinds or (isinstance(value, float) and not math.isfinite(value)):
            raise ParseError(path, self.rule, value)
        return value

    def write(self, value: object) -> JsonValue:
        """Give it as it is."""
        if not isinstance(value, str | int | float):
            raise TypeError(f"{value!r} is no scalar")
        return value

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:  # noqa: ARG002 - it refers to none
        """Give type and bounds."""
        return dict(self.keywords)


SCALARS: Mapping[object, Scalar] = {
    str: Scalar((str,), "be a string", {"type": "string"}),
    bool: Scalar((bool,), "be true or false", {"type": "boolean"}),
    int: Scalar((int,), "be a whole number", {"type": "integer"}),
    float: Scalar((float, int), "be a finite number", {"type": "number"}),
}


def _any_scalar(scalars: Sequence[Scalar]) -> Scalar:
    """A value of any of some scalar types."""
    kinds = tuple(kind for scalar in scalars for kind in scalar.kinds)
    rule = "be " + " or ".join(scalar.rule.removeprefix("be ") for scalar in scalars)
    return Scalar(kinds, rule, {"type": [scalar.keywords["type"] for scalar in scalars]})


@final
@attrs.frozen
class Choice:
    """One of some words, or of some other constants."""

    words: tuple[str | bool | int, ...]

    def read(self, value: object, path: str) -> object:
        """Parse it."""
        # To JSON true is not 1.
        if not any(type(value) is type(word) and value == word for word in self.words):
            words = (word if isinstance(word, str) else json.dumps(word) for word in self.words)
            raise ParseError(path, f"be one of {', '.join(words)}", value)
        return value

    def write(self, value: object) -> JsonValue:
        """Give the word."""
        if not isinstance(value, str | int):
            raise TypeError(f"{value!r} is none of the words")
        return value

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:  # noqa: ARG002 - it refers to none
        """Give the words."""
        return {"enum": list(self.words)}


@final
@attrs.frozen
class Nullable:
    """What another form says, or null."""

    form: Form

    def read(self, value: object, path: str) -> object:
        """Parse it; null is None."""
        return None if value is None else self.form.read(value, path)

    def write(self, value: object) -> JsonValue:
        """Give it; None is null."""
        return None if value is None else self.form.write(value)

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Give the alternative."""
        return {"anyOf": [self.form.schema(definitions), {"type": "null"}]}


@final
@attrs.frozen
class Array:
    """A tuple in its order, or a set in sorted order."""

    item: Form
    is_set: bool = False

    def read(self, value: object, path: str) -> object:
        """Parse each item."""
        items = [self.item.read(item, place) for place, item in array_at(value, path)]
        return frozenset(items) if self.is_set else tuple(items)

    def write(self, value: object) -> JsonValue:
        """Give each item."""
        if isinstance(value, frozenset):
            return [self.item.write(item) for item in sorted(value)]
        return [self.item.write(item) for _, item in array_at(value, "")]

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Give the items' schema."""
        return {"type": "array", "items": self.item.schema(definitions)}


@final
@attrs.frozen
class Table:
    """A mapping from strings; sorted, unless its order has a meaning."""

    item: Form
    is_ordered: bool = False

    def read(self, value: object, path: str) -> object:
        """Parse each value and return a dict with the same keys."""
        members = object_at(value, path)
        return {key: self.item.read(member, at(path, key)) for key, member in members.items()}

    def write(self, value: object) -> JsonValue:
        """Give each value."""
        members = object_at(value, "")
        keys = members if self.is_ordered else sorted(members)
        return {key: self.item.write(members[key]) for key in keys}

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Give the values' schema."""
        return {"type": "object", "additionalProperties": self.item.schema(definitions)}


@final
@attrs.frozen
class Text:
    """A value that is written as a string."""

    parse: Callable[[str], object]
    "Raises ValueError where the string is none of its kind."
    rule: str
    pattern: str

    def read(self, value: object, path: str) -> object:
        """Parse the string."""
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            raise ParseError(path, self.rule, value)
        return self.parse(value)

    def write(self, value: object) -> JsonValue:
        """Give the value's own text."""
        return str(value)

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:  # noqa: ARG002 - it refers to none
        """Return the JSON Schema of a string that matches the pattern."""
        return {"type": "string", "pattern": f"^{self.pattern}$"}


@final
@attrs.frozen
class Lazy:
    """A form that is looked up when it is used: how a recursive type refers to itself."""

    find: Callable[[], Form]

    def read(self, value: object, path: str) -> object:
        """Parse as the form does."""
        return self.find().read(value, path)

    def write(self, value: object) -> JsonValue:
        """Write as the form does."""
        return self.find().write(value)

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Describe it as the form does, which defines itself once."""
        return self.find().schema(definitions)


@final
@attrs.frozen
class Record(Generic[T]):
    """An attrs class as an object with its fields as keys."""

    kind: type[T]
    forms: Mapping[str, Form]
    "Field to form, in the order in which they are written."
    omits: Omits = "none"
    "Which fields are left out when it is written."
    tag: tuple[str, str] | None = None
    "Key and value that tell it from the other members of its union."

    def read(self, value: object, path: str) -> T:
        """Parse and make it."""
        return self.made(self.fields(object_at(value, path), path), path)

    def fields(self, members: Mapping[str, object], path: str) -> dict[str, object]:
        """Parse the fields.

        Raises:
            ParseError: A key is unknown or missing, or a value is wrong.
        """
        refuse_unknown(members, self._keys(), path)
        fields: dict[str, object] = {}
        for name, form in self.forms.items():
            if name in members:
                fields[name] = form.read(members[name], at(path, name))
            elif self.is_required(name):
                raise ParseError(at(path, name), "be present", None)
        return fields

    def made(self, fields: Mapping[str, object], path: str) -> T:
        """Make it from its fields.

        Raises:
            ParseError: A field breaks its rule.
        """
        make: Callable[..., T] = self.kind
        try:
            return make(**fields)
        except DeclarationError as error:
            field = error.field.removeprefix(self.kind.__name__).removeprefix(".")
            raise ParseError(at(path, field) if field else path, error.rule, error.value) from error

    def write(self, value: object) -> JsonObject:
        """Give its fields."""
        members: JsonObject = {}
        for key in self._keys():
            field: object = getattr(value, key, None)
            if key not in self.forms:
                members[key] = self._tag_value()
            elif not self._is_omitted(key, field):
                members[key] = self.forms[key].write(field)
        return members

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Define it once, and refer to it."""
        name = self.kind.__name__
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = self.inline_schema(definitions)
        return {"$ref": f"#/$defs/{name}"}

    def inline_schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Give its schema where it stands."""
        properties: JsonObject = {}
        for key in self._keys():
            form = self.forms.get(key)
            properties[key] = form.schema(definitions) if form else {"const": self._tag_value()}
        required = [key for key in self._keys() if key not in self.forms or self.is_required(key)]
        return {
            "description": (self.kind.__doc__ or "").partition("\n")[0],
            "type": "object",
            "properties": properties,
            "required": list[JsonValue](required),
            "additionalProperties": False,
        }

    def is_required(self, name: str) -> bool:
        """Whether a field has no default."""
        return self._default(name) is attrs.NOTHING

    def _keys(self) -> tuple[str, ...]:
        if self.tag is None:
            return tuple(self.forms)
        # What a step is and why comes before its details; elsewhere the kind comes first.
        step = ("address", "node", self.tag[0], "why")
        first = step if "address" in self.forms else (self.tag[0],)
        return tuple(dict.fromkeys([*first, *self.forms]))

    def _tag_value(self) -> JsonValue:
        return self.tag[1] if self.tag else None

    def _default(self, name: str) -> object:
        default: object = attrs.fields_dict(self.kind)[name].default
        return default

    def _is_omitted(self, name: str, value: object) -> bool:
        if self.omits == "nothing" or self.is_required(name):
            return False
        return value is None or (self.omits == "defaults" and value == self._default(name))


@final
@attrs.frozen
class Tagged:
    """The form of an object whose `key` says which of several classes it is."""

    name: str
    records: Mapping[str, Form]
    key: str = "kind"

    def read(self, value: object, path: str) -> object:
        """Parse the member that the key names."""
        members = object_at(value, path)
        tag = members.get(self.key)
        if not isinstance(tag, str) or tag not in self.records:
            raise ParseError(at(path, self.key), f"be one of {', '.join(self.records)}", tag)
        return self.records[tag].read(value, path)

    def write(self, value: object) -> JsonValue:
        """Write it as its class does."""
        return self.records[kebab(type(value))].write(value)

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Define the alternatives once, and refer to them."""
        if self.name not in definitions:
            definitions[self.name] = {}
            alternatives = [record.schema(definitions) for record in self.records.values()]
            definitions[self.name] = {"oneOf": list[JsonValue](alternatives)}
        return {"$ref": f"#/$defs/{self.name}"}


class Described(Form, Protocol):
    """A form whose schema can stand where it is used, to be added to."""

    def inline_schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Give the schema itself, not a reference."""


@final
@attrs.frozen
class Document:
    """The form of a whole file: `write` puts `format_version` first, `read` refuses another one."""

    name: str
    form: Described

    def read(self, value: object, path: str) -> object:
        """Parse it.

        Raises:
            ParseError: It has another version, or is wrong.
        """
        check_depth(value, path)
        members = object_at(value, path)
        version = members.get("format_version")
        if type(version) is not int or version != FORMAT_VERSION:
            rule = f"be {FORMAT_VERSION}, the version that this pycolo reads and writes"
            raise ParseError(at(path, "format_version"), rule, version)
        return self.form.read({k: v for k, v in members.items() if k != "format_version"}, path)

    def write(self, value: object) -> JsonObject:
        """Give it with its version."""
        return {"format_version": FORMAT_VERSION, **object_of(self.form.write(value))}

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        """Define it once, and refer to it."""
        if self.name not in definitions:
            definitions[self.name] = {}
            schema = self.form.inline_schema(definitions)
            properties = object_of(schema["properties"])
            schema["properties"] = {"format_version": {"const": FORMAT_VERSION}, **properties}
            schema["required"] = ["format_version", *list_of(schema["required"])]
            definitions[self.name] = schema
        return {"$ref": f"#/$defs/{self.name}"}

    def whole_schema(self) -> JsonObject:
        """Give the JSON Schema of a file that holds it."""
        definitions: dict[str, JsonValue] = {}
        reference = self.schema(definitions)
        head: JsonObject = {"$schema": DIALECT, "title": f"pycolo {self.name}"}
        return {**head, **reference, "$defs": definitions}


def object_of(value: JsonValue) -> JsonObject:
    """Narrow what a form wrote to an object."""
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no object")
    return value


def list_of(value: JsonValue) -> list[JsonValue]:
    """Narrow what a form wrote to an array."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no array")
    return value


# -- from annotations to forms -----------------------------------------------------------------


Narrow: TypeAlias = Callable[[Form, object], Form]


def _as_it_is(form: Form, validator: object) -> Form:  # noqa: ARG001 - the default of `narrow`
    return form


@final
@attrs.frozen
class Forms:
    """Derives forms from annotations.

    Args:
        known: Forms that no annotation gives, by type; a union by the frozenset of its members.
        sparse: Classes whose records leave out every field that has its default.
        omits: What the records of the other classes leave out.
        tagged: Classes that carry their kind wherever they stand.
        narrow: Adds to a field's form what its validator says.
    """

    known: Mapping[object, Form] = attrs.field(factory=dict)
    sparse: frozenset[type] = frozenset()
    omits: Omits = "none"
    tagged: frozenset[type] = frozenset()
    narrow: Narrow = _as_it_is

    def of(self, hint: object) -> Form:
        """The form of an annotation."""
        members = _members(hint)
        found = self.known.get(members) or self.known.get(hint)
        if found is not None:
            return found
        if type(None) in members:
            rest = tuple(kind for kind in get_args(hint) if kind is not type(None))
            # `|` between the members would need them one by one.
            return Nullable(self.of(rest[0] if len(rest) == 1 else Union[rest]))  # noqa: UP007
        if isinstance(hint, type) and attrs.has(hint):
            return self.record(hint)
        if members and all(kind in SCALARS for kind in members):
            return _any_scalar([SCALARS[kind] for kind in get_args(hint)])
        return SCALARS[hint] if hint in SCALARS else self._generic(hint)

    def record(self, kind: type[T], **given: Form) -> Record[T]:
        """The record of a class.

        Args:
            kind: The class.
            given: Forms of single fields, where the annotation does not say all.
        """
        hints = get_type_hints(kind)
        forms: dict[str, Form] = {}
        for field in attrs.fields(kind):
            form = given.get(field.name) or self.of(hints[field.name])
            forms[field.name] = self.narrow(form, field.validator)
        tag = ("kind", kebab(kind)) if kind in self.tagged else None
        return Record(kind, forms, "defaults" if kind in self.sparse else self.omits, tag)

    def union(self, name: str, hint: object) -> Tagged:
        """The union of some of the tagged classes."""
        kinds = [kind for kind in get_args(hint) if isinstance(kind, type)]
        return Tagged(name, {kebab(kind): self.of(kind) for kind in kinds})

    def _generic(self, hint: object) -> Form:
        origin, args = get_origin(hint), get_args(hint)
        if origin is Literal:
            return Choice(args)
        if origin in (tuple, frozenset):
            return Array(self.of(args[0]), is_set=origin is frozenset)
        if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
            return Table(self.of(args[1]))
        raise TypeError(f"{hint!r} has no form in JSON")


def _members(hint: object) -> frozenset[object]:
    is_union = get_origin(hint) in (Union, types.UnionType)
    return frozenset(get_args(hint)) if is_union else frozenset()

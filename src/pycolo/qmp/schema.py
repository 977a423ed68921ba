"""A QEMU's own schema, and whether it accepts a command.

``query-qmp-schema`` describes every command, event and type; the schemas of the versions that
pycolo is tested with are in the package. Integer widths are not in it: QEMU still refuses a
``uint32`` that is too large (qemu-behaviour 4.11). Source of the format: QEMU's "QAPI" document,
section "Client JSON Protocol introspection".
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import weakref
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Final, Literal, Self, TypeAlias, final

import attrs
from typing_extensions import override

from pycolo._json import at, list_at, object_at
from pycolo.errors import ParseError
from pycolo.qmp._base import QmpCommand, QmpValue

__all__ = ["PackagedVersion", "Schema", "SchemaFeature", "SchemaProblem", "packaged_entries"]

PackagedVersion: TypeAlias = Literal["7.2.22", "10.0.13", "11.1.3"]
"""The QEMU versions whose schema is in the package."""

FeatureName: TypeAlias = Literal["unstable", "deprecated"]
"""QEMU's words for parts that may change or be removed."""

_FEATURES: Final[tuple[FeatureName, ...]] = ("unstable", "deprecated")
_INTEGERS: Final = range(-(2**63), 2**64)


@final
@attrs.frozen
class SchemaProblem:
    """A part of a command that the QEMU does not accept."""

    path: str
    """Where in the command, such as ``arguments.addr.data``."""
    rule: str
    """The rule that is broken, as words that follow "must"."""

    @override
    def __str__(self) -> str:
        """Name the path and the rule."""
        return f"{self.path} must {self.rule}"


@final
@attrs.frozen
class SchemaFeature:
    """A part of a command that is unstable or deprecated in the QEMU."""

    path: str
    """Where in the command; ``execute`` for the command as a whole."""
    feature: FeatureName
    """Whether the part is unstable or deprecated."""

    @override
    def __str__(self) -> str:
        """Name the path and the feature."""
        return f"{self.path} is {self.feature}"


_Found: TypeAlias = SchemaProblem | SchemaFeature


@final
@attrs.frozen
class Schema:
    """The commands, events and types of one QEMU; equal for every QEMU of one build."""

    digest: str
    """SHA-256 of the schema, as hexadecimal digits, by which documents name the schema."""
    _commands: Mapping[str, Mapping[str, object]] | None = attrs.field(repr=False, eq=False)
    _events: frozenset[str] = attrs.field(repr=False, eq=False)
    _types: Mapping[str, Mapping[str, object]] = attrs.field(repr=False, eq=False)

    @override
    def __str__(self) -> str:
        """Give the digest."""
        return self.digest

    @classmethod
    def from_reply(cls, value: object, path: str = "return") -> Schema:
        """Read the reply to query-qmp-schema.

        Equal replies, such as those of all QEMUs of one build, give the same object.

        Args:
            value: The decoded JSON: a list of entries, as in ``SchemaInfo.entries``.
            path: Where ``value`` stands in its document, for the error.

        Raises:
            ParseError: ``value`` is not such a reply.
        """
        entries = list_at(value, path, _Entry.from_qmp)
        text = json.dumps([entry.content for entry in entries], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        known = _READ.get(digest)
        if known is None:
            known = _READ[digest] = cls(
                digest=digest,
                commands={e.name: e.content for e in entries if e.meta_type == "command"},
                events=frozenset(e.name for e in entries if e.meta_type == "event"),
                types={
                    e.name: e.content for e in entries if e.meta_type not in ("command", "event")
                },
            )
        return known

    @classmethod
    def packaged(cls, version: PackagedVersion) -> Schema:
        """Give the schema of a version that pycolo is tested with."""
        return _packaged(version)

    @classmethod
    def of_version(cls, version: str) -> Schema | None:
        """Give the schema of a version; None if pycolo is not tested with this very version."""
        return next((_packaged(known) for known in _PACKAGED_DIGESTS if known == version), None)

    @classmethod
    def from_digest(cls, digest: str) -> Schema:
        """Give the schema that a document names by its digest.

        Args:
            digest: SHA-256 of the schema, as hexadecimal digits.

        Returns:
            The packaged schema with that digest. If there is none, an empty schema with that
            digest, whose `check` finds nothing wrong with any command.
        """
        for version, packaged in _PACKAGED_DIGESTS.items():
            if digest == packaged:
                return _packaged(version)
        return cls(digest=digest, commands=None, events=frozenset(), types={})

    @property
    def is_packaged(self) -> bool:
        """Whether the schema is one of those in the package, by which all plans are tested."""
        return self.digest in _PACKAGED_DIGESTS.values()

    @property
    def commands(self) -> frozenset[str]:
        """The names of all commands; empty if only the digest of the schema is known."""
        return frozenset(self._commands or ())

    def has_command(self, name: str) -> bool:
        """Tell whether there is a command of that name."""
        return self._command(name) is not None

    def has_event(self, name: str) -> bool:
        """Tell whether there is an event of that name."""
        return name in self._events

    def check(
        self, command: QmpCommand[object] | Mapping[str, object], *, oob: bool = False
    ) -> tuple[SchemaProblem, ...]:
        """Find the parts of ``command`` that this QEMU does not accept.

        Args:
            command: A command, or its wire form.
            oob: Whether the command is to be sent out of band.

        Returns:
            The problems; empty if QEMU accepts the command, or if only the digest of the schema is
            known.
        """
        if self._commands is None:
            return ()
        wire = _wire(command)
        return _problems(self, json.dumps(wire), oob=oob)

    def _check(self, wire: Mapping[str, object], *, oob: bool) -> tuple[SchemaProblem, ...]:
        problems = tuple(found for found in self._walk(wire) if type(found) is SchemaProblem)
        entry = self._command(wire.get("execute"))
        if oob and entry is not None and entry.get("allow-oob") is not True:
            return (
                SchemaProblem("execute", "be in band: QEMU cannot run it out of band"),
                *problems,
            )
        return problems

    def features(
        self, command: QmpCommand[object] | Mapping[str, object]
    ) -> tuple[SchemaFeature, ...]:
        """Find the parts that ``command`` uses and that are unstable or deprecated.

        Args:
            command: A command, or its wire form.
        """
        return tuple(found for found in self._walk(command) if type(found) is SchemaFeature)

    def _command(self, name: object) -> Mapping[str, object] | None:
        if self._commands is None or not isinstance(name, str):
            return None
        return self._commands.get(name)

    def _walk(self, command: QmpCommand[object] | Mapping[str, object]) -> Iterator[_Found]:
        wire = _wire(command)
        for key in wire:
            if key not in ("execute", "arguments"):
                yield SchemaProblem(key, "be absent")
        name = wire.get("execute")
        entry = self._command(name)
        if entry is None:
            yield SchemaProblem("execute", f"be a command of this QEMU, not {name!r}")
            return
        yield from _features_of(entry, "execute")
        yield from self._value(_text(entry, "arg-type"), wire.get("arguments", {}), "arguments")

    def _value(self, type_name: str, value: object, path: str) -> Iterator[_Found]:
        """Find the problems and features of a value that should have the type ``type_name``."""
        entry = self._type(type_name)
        match entry["meta-type"]:
            case "builtin":
                yield from _builtin(_text(entry, "json-type"), value, path)
            case "enum":
                yield from _enum(entry, value, path)
            case "array":
                yield from self._array(_text(entry, "element-type"), value, path)
            case "alternate":
                yield from self._alternate(entry, value, path)
            case _:
                yield from self._object(entry, value, path)

    def _type(self, name: str) -> Mapping[str, object]:
        entry = self._types.get(name)
        if entry is None:
            raise ParseError("return", f"contain the type {name!r}, which it refers to", None)
        return entry

    def _array(self, element: str, value: object, path: str) -> Iterator[_Found]:
        if not isinstance(value, (list, tuple)):
            yield SchemaProblem(path, "be an array")
            return
        for index, item in enumerate(value):
            yield from self._value(element, item, f"{path}[{index}]")

    def _alternate(self, entry: Mapping[str, object], value: object, path: str) -> Iterator[_Found]:
        """Check a value by the branch of its JSON type; QEMU's schema has at most one per type."""
        branches = [_text(branch, "type") for branch in _entries(entry, "members")]
        kinds = {name: self._json_kind(name) for name in branches}
        kind = _kind_of(value)
        for name, accepted in kinds.items():
            if kind == accepted or (kind == "int" and accepted == "number"):
                yield from self._value(name, value, path)
                return
        yield SchemaProblem(path, "be " + " or ".join(sorted(set(kinds.values()))))

    def _json_kind(self, type_name: str) -> str:
        entry = self._type(type_name)
        match entry["meta-type"]:
            case "builtin":
                return _text(entry, "json-type")
            case "enum":
                return "string"
            case "array":
                return "array"
            case _:
                return "object"

    def _object(self, entry: Mapping[str, object], value: object, path: str) -> Iterator[_Found]:
        if not isinstance(value, Mapping):
            yield SchemaProblem(path, "be an object")
            return
        yield from _features_of(entry, path)
        members = {_text(member, "name"): member for member in self._members(entry, value)}
        for name, member in members.items():
            if name in value:
                yield from _features_of(member, at(path, name))
                yield from self._value(_text(member, "type"), value[name], at(path, name))
            elif "default" not in member:
                yield SchemaProblem(at(path, name), "be present")
        for name in value:
            if name not in members:
                near = difflib.get_close_matches(str(name), members.keys() - value.keys(), n=1)
                meant = f" (did you mean {near[0]}?)" if near else ""
                yield SchemaProblem(at(path, str(name)), f"be absent{meant}")

    def _members(
        self, entry: Mapping[str, object], value: Mapping[str, object]
    ) -> Iterator[Mapping[str, object]]:
        """Give the members of an object type, with those of the variant that the tag names."""
        yield from _entries(entry, "members")
        tag = entry.get("tag")
        chosen = value.get(tag) if isinstance(tag, str) else None
        for variant in _entries(entry, "variants"):
            if variant.get("case") == chosen:
                yield from self._members(self._type(_text(variant, "type")), value)


@functools.lru_cache(maxsize=4096)
def _problems(schema: Schema, wire: str, *, oob: bool) -> tuple[SchemaProblem, ...]:
    # A controller checks the same commands again and again, and a walk through the schema takes far
    # longer than writing a command as JSON, which is the key of this cache.
    return schema._check(json.loads(wire), oob=oob)  # noqa: SLF001 - what it remembers


# With these digests a document can be read without reading every schema of the package.
_PACKAGED_DIGESTS: Final[Mapping[PackagedVersion, str]] = {
    "7.2.22": "0d7fb804908eaca89a78741aca7f3ef072a2c235ae648d0882449e10bab57d8b",
    "10.0.13": "f8c9d6ca32717dfb4505e657be1718bf2d104cc3067bbd45ab81cc8059ce61a4",
    "11.1.3": "c5be8d7dd31a7e952b97568158a0c41df8809a430a459e25448d55696b124bca",
}
# A schema is megabytes of small values, and a controller reads an equal one from many nodes.
_READ: Final[MutableMapping[str, Schema]] = weakref.WeakValueDictionary()


@functools.cache
def _packaged(version: PackagedVersion) -> Schema:
    return Schema.from_reply(packaged_entries(version), f"schemas/qemu-{version}.json.gz")


@functools.cache
def packaged_entries(version: PackagedVersion) -> QmpValue:
    """Give the packaged reply to query-qmp-schema of a version that pycolo is tested with."""
    # Packaged schemas are rarely read, and these modules are slow to import.
    import gzip  # noqa: PLC0415
    from importlib import resources  # noqa: PLC0415

    source = resources.files("pycolo.qmp") / "schemas" / f"qemu-{version}.json.gz"
    entries: QmpValue = json.loads(gzip.decompress(source.read_bytes()))
    return entries


# -- narrowing the entries ---------------------------------------------------------------------


@final
@attrs.frozen
class _Entry:
    """One entry of the reply, whose name and meta-type are checked to be strings."""

    name: str
    meta_type: str
    content: Mapping[str, object]

    @classmethod
    def from_qmp(cls, value: object, path: str) -> Self:
        content = object_at(value, path)
        name, meta_type = content.get("name"), content.get("meta-type")
        if not isinstance(name, str):
            raise ParseError(at(path, "name"), "be a string", name)
        if not isinstance(meta_type, str):
            raise ParseError(at(path, "meta-type"), "be a string", meta_type)
        return cls(name=name, meta_type=meta_type, content=content)


def _wire(command: QmpCommand[object] | Mapping[str, object]) -> Mapping[str, object]:
    return command.to_qmp() if isinstance(command, QmpCommand) else command


def _text(entry: Mapping[str, object], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise ParseError(f"{entry.get('name')}.{key}", "be a string", value)
    return value


def _entries(entry: Mapping[str, object], key: str) -> tuple[Mapping[str, object], ...]:
    return list_at(entry.get(key, []), f"{entry.get('name')}.{key}", object_at)


def _features_of(entry: Mapping[str, object], path: str) -> Iterator[SchemaFeature]:
    features = entry.get("features", ())
    if isinstance(features, (list, tuple)):
        yield from (SchemaFeature(path, feature) for feature in _FEATURES if feature in features)


# -- values without members --------------------------------------------------------------------


def _kind_of(value: object) -> str:
    """Name the JSON type of a value, in the schema's words."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "int"
        case float():
            return "number"
        case str():
            return "string"
        case Mapping():
            return "object"
        case _:
            return "array"


def _builtin(json_type: str, value: object, path: str) -> Iterator[SchemaProblem]:
    kind = _kind_of(value)
    accepted = {json_type, "int"} if json_type == "number" else {json_type}
    if json_type != "value" and kind not in accepted:
        yield SchemaProblem(path, f"be {json_type}, not {kind}")
    elif json_type == "int" and value not in _INTEGERS:
        yield SchemaProblem(path, "be an integer of at most 64 bits")


def _enum(entry: Mapping[str, object], value: object, path: str) -> Iterator[_Found]:
    # QEMU before 6.2 has "values" alone; later ones have "members", which can carry features.
    members = {_text(member, "name"): member for member in _entries(entry, "members")}
    if not isinstance(value, str):
        yield SchemaProblem(path, f"be string, not {_kind_of(value)}")
    elif value not in members:
        yield SchemaProblem(path, f"be one of {', '.join(sorted(members))}, not {value!r}")
    else:
        yield from _features_of(members[value], path)

"""The file that declares a pair: TOML for people, JSON for programs, one set of keys for both.

Its keys are the fields of `pycolo.model`, with two differences that make a file easier to write.
`nodes` holds the pair's two nodes and then its spares. `ids` and `ports` of a disk or a chain may
hold only some of their keys; the others get their defaults, by the disk's or the chain's index.
Nothing here opens a socket or resolves a name.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias, final

import attrs

from pycolo import _decode, _json
from pycolo._forms import (
    SCALARS,
    Anything,
    Array,
    Document,
    Form,
    Forms,
    Nullable,
    Record,
    Scalar,
    StringOr,
    Table,
    Tagged,
    whole_schema,
)
from pycolo._json import JsonObject, JsonValue, kebab
from pycolo.errors import DeclarationError, ParseError
from pycolo.model import _rules as rules
from pycolo.model import hardware
from pycolo.model.disk import DiskIds, ReplicationDisk
from pycolo.model.filters import ChainIds, ChainPorts, FilterChain, Netdev
from pycolo.model.node import Monitor, Node, TcpMonitor, UnixMonitor
from pycolo.model.pair import BASE_MAX, ColoPair
from pycolo.model.remote import Iscsi, Nbd, Nfs, Rbd
from pycolo.model.tls import X509, Psk

Format: TypeAlias = Literal["toml", "json"]
SIZE_MAX_BYTES: Final = 1 << 18
"The greatest length of a pair file; a pair with a hundred disks needs a tenth of it."
REMOTE: Final = (Rbd, Iscsi, Nfs, Nbd)
_Parts: TypeAlias = Mapping[str, Callable[[int], attrs.AttrsInstance]]


def load(path: str | Path) -> ColoPair:
    """Read a pair file.

    Args:
        path: The file; one whose name ends in `.json` is JSON, any other is TOML.

    Raises:
        DeclarationError: The file is not a pair file, or a value breaks a rule; the error's field
            is the path of the key.
        OSError: The file cannot be read.
    """
    path = Path(path)
    try:
        text = _decode.file_text(path, size_max_bytes=SIZE_MAX_BYTES)
    except ParseError as error:
        raise DeclarationError("the pair file", error.value, error.rule) from error
    return loads(text, "json" if path.suffix == ".json" else "toml")


def loads(text: str, file_format: Format | None = None) -> ColoPair:
    """Read the text of a pair file.

    Args:
        text: The file's text.
        file_format: `toml` or `json`; None for JSON if the text begins with a brace, else TOML.

    Raises:
        DeclarationError: The text is no string, empty or not a pair file, or a value breaks a rule;
            the error's field is the path of the key, such as `nodes[1].address`.
    """
    rules.instance_of(str)("text", text)
    if file_format is None:
        file_format = "json" if text.lstrip().startswith("{") else "toml"
    if not text.strip():
        rule = "declare a pair (`pycolo init FILE` writes one that you can edit)"
        raise DeclarationError("the pair file", text, rule)
    try:
        value = _decoded(text, file_format)
        return from_json_value(value)
    except ParseError as error:
        field = error.path or "the pair file"
        raise DeclarationError(field, error.value, error.rule) from error


def dumps(pair: ColoPair) -> str:
    """Write a pair as the text of a pair file in JSON; `loads` returns the same pair."""
    return _json.dumps(to_json_value(pair), indent=2) + "\n"


def to_json_value(pair: ColoPair) -> JsonObject:
    """The pair as JSON with every default written out.

    So the JSON keeps its meaning if a later version of pycolo has other defaults.
    """
    return document().write(pair)


def from_json_value(value: object, path: str = "") -> ColoPair:
    """Make a pair from decoded JSON.

    Args:
        value: The decoded JSON.
        path: The value's path in its document, for the error; empty for the whole document.

    Raises:
        ParseError: The value is not a pair, or breaks a rule.
    """
    pair = document().read(value, path)
    assert isinstance(pair, ColoPair)  # noqa: S101 - the form makes no other type
    return pair


def json_schema() -> JsonObject:
    """The JSON Schema of a pair file.

    A JSON Schema cannot express rules between several values, such as that ports differ. `loads`
    checks them too.
    """
    return whole_schema("pycolo pair", document())


@functools.cache
def document() -> Document:
    """The JSON form of a pair, for a file or a message of another kind that contains a pair."""
    return Document("pair", _PairForm(_forms().record(ColoPair), _nodes_form()))


def _decoded(text: str, file_format: Format) -> object:
    if file_format == "toml":
        return _decode.toml_value(text)
    return _decode.json_value(text, members=_without_doubles)


def _without_doubles(members: list[tuple[str, object]]) -> dict[str, object]:
    """Make a dict of a JSON object's members, and refuse a key that is given twice."""
    found = dict(members)
    if len(found) != len(members):
        keys = [key for key, _ in members]
        double = next(key for key in keys if keys.count(key) > 1)
        raise ParseError(double, "be given once in its object", found[double])
    return found


# -- forms that the annotations of the model do not define ---------------------------------------


@functools.cache
def _forms() -> Forms:
    plain = Forms(narrow=_narrowed)
    strings = Array(SCALARS[str])
    values = StringOr(strings, list, "be a string or an array of strings")
    options = Table(values, is_ordered=True)
    tagged = attrs.evolve(plain, tags=dict.fromkeys((X509, Psk, *REMOTE), "kind")).record
    known: dict[object, Form] = {
        frozenset((UnixMonitor, TcpMonitor)): _MonitorForm(
            plain.record(UnixMonitor), plain.record(TcpMonitor)
        ),
        Netdev: plain.record(Netdev, options=options),
        JsonValue: Anything(),
        frozenset((X509, Psk)): Tagged("Tls", {"x509": tagged(X509), "psk": tagged(Psk)}),
        frozenset(REMOTE): Tagged("Remote", {kebab(kind): tagged(kind) for kind in REMOTE}),
    }
    forms = attrs.evolve(plain, known=known)
    disks = _Numbered(forms.record(ReplicationDisk), {"ids": DiskIds.numbered})
    chain_parts: _Parts = {"ids": ChainIds.numbered, "ports": ChainPorts.numbered}
    chains = _Numbered(forms.record(FilterChain), chain_parts)
    parts: dict[object, Form] = {
        tuple[ReplicationDisk, ...]: disks,
        tuple[FilterChain, ...]: chains,
    }
    return attrs.evolve(forms, known={**known, **parts})


def _nodes_form() -> Array:
    return Array(_forms().record(Node))


_KEYWORDS: Mapping[object, JsonObject] = {
    rules.identifier: {"pattern": f"^{rules.QEMU_ID.pattern.removesuffix(chr(92) + 'Z')}$"},
    rules.text: {"minLength": 1},
    rules.absolute_path: {"pattern": "^/"},
    rules.seconds: {"exclusiveMinimum": 0},
}


def _keywords(rule: object) -> JsonObject:
    """The JSON Schema keywords of a field's rule."""
    if isinstance(rule, rules.Whole):
        return {"minimum": rule.minimum, "maximum": rule.maximum}
    if rule is hardware.emulated:
        return _KEYWORDS[rules.identifier]
    if rule is rules.pair_name:
        return {**_KEYWORDS[rules.identifier], "maxLength": rules.PAIR_NAME_MAX}
    if rule is rules.block_node_name:
        return {**_KEYWORDS[rules.identifier], "maxLength": rules.BLOCK_NODE_NAME_MAX}
    return _KEYWORDS.get(rule, {})


def _narrowed(form: Form, validator: object) -> Form:
    """A field's form with the rule of the field's validator in its schema."""
    rule = (
        validator.rule
        if isinstance(validator, rules.Valid | rules.Optional | rules.Each)
        else validator
    )
    if isinstance(rule, rules.Optional) and isinstance(form, Nullable):
        return Nullable(_narrowed(form.form, rule))
    if isinstance(rule, rules.Each) and isinstance(form, Array):
        return attrs.evolve(form, item=_narrowed(form.item, rule))
    if isinstance(form, Scalar):
        return attrs.evolve(form, keywords={**form.keywords, **_keywords(rule)})
    return form


@final
@attrs.frozen
class _MonitorForm:
    """The form of a monitor: a Unix socket if it has a `path`, TCP if it has `host` and `port`."""

    unix: Record[UnixMonitor]
    tcp: Record[TcpMonitor]

    def read(self, value: object, path: str) -> Monitor:
        members = _json.object_at(value, path)
        if "path" in members:
            return self.unix.read(members, path)
        if not members.keys() & {"host", "port"}:
            raise ParseError(path, "have a path, or host and port", dict(members))
        return self.tcp.read(members, path)

    def write(self, value: object) -> JsonValue:
        return (self.unix if isinstance(value, UnixMonitor) else self.tcp).write(value)

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        return {"oneOf": [self.unix.schema(definitions), self.tcp.schema(definitions)]}


@final
@attrs.frozen
class _Numbered:
    """The form of disks or chains: keys missing in `ids` or `ports` get the index's defaults."""

    item: Record[ReplicationDisk] | Record[FilterChain]
    numbered: _Parts

    def read(self, value: object, path: str) -> object:
        return tuple(
            self.item.read(self._filled(item, n, place), place)
            for n, (place, item) in enumerate(_json.array_at(value, path))
        )

    def _filled(self, item: object, n: int, path: str) -> Mapping[str, object]:
        members = _json.object_at(item, path)
        filled = {
            key: {**attrs.asdict(numbered(n)), **given}
            for key, numbered in self.numbered.items()
            if isinstance(given := members.get(key), Mapping)
        }
        return {**members, **filled}

    def write(self, value: object) -> JsonValue:
        return [self.item.write(item) for _, item in _json.array_at(value, "")]

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        reference = self.item.schema(definitions)
        for numbered in self.numbered.values():
            part = _json.object_of(definitions[type(numbered(0)).__name__])
            part["required"] = []
        return {"type": "array", "items": reference}


@final
@attrs.frozen
class _PairForm:
    """The form of a pair whose spares follow its two nodes in `nodes`."""

    pair: Record[ColoPair]
    nodes: Array

    def read(self, value: object, path: str) -> ColoPair:
        members = dict(_json.object_at(value, path))
        place = _json.at(path, "nodes")
        if "spares" in members:
            raise ParseError(_json.at(path, "spares"), "stand in nodes, behind the first two", None)
        members["chains"] = _with_base(members.get("chains", []), members.get("ports"))
        given = self._some(members.get("nodes", ()), place)
        members["nodes"], members["spares"] = given[:2], given[2:]
        try:
            return self.pair.read(members, path)
        except ParseError as error:
            raise ParseError(_in_file(error.path), _in_file(error.rule), error.value) from error

    def _some(self, value: object, path: str) -> list[object]:
        nodes = [item for _, item in _json.array_at(value, path)]
        if len(nodes) < 2:  # noqa: PLR2004 - a pair
            raise ParseError(path, "be two nodes or more: the pair, then its spares", value)
        return nodes

    def write(self, value: object) -> JsonObject:
        assert isinstance(value, ColoPair)  # noqa: S101 - the type this form is for
        members = self.pair.write(value)
        del members["spares"]
        return {**members, "nodes": self.nodes.write(value.all_nodes)}

    def schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        return self.inline_schema(definitions)

    def inline_schema(self, definitions: dict[str, JsonValue]) -> JsonObject:
        schema = self.pair.inline_schema(definitions)
        properties = _json.object_of(schema["properties"])
        del properties["spares"]
        properties["nodes"] = {**self.nodes.schema(definitions), "minItems": 2}
        return schema


def _with_base(chains: object, ports: object) -> object:
    """The chains, in which partly given `ports` are completed from the pair's `ports.base`."""
    base = ports.get("base") if isinstance(ports, Mapping) else None
    if not isinstance(chains, list) or not isinstance(base, int) or not 0 < base <= BASE_MAX:
        # The forms that read these values report what is wrong.
        return chains
    return [_with_ports(chain, ChainPorts.from_base(base, n)) for n, chain in enumerate(chains)]


def _with_ports(chain: object, ports: ChainPorts) -> object:
    given = chain.get("ports") if isinstance(chain, Mapping) else None
    if not isinstance(chain, Mapping) or not isinstance(given, Mapping):
        return chain
    return {**chain, "ports": {**attrs.asdict(ports), **given}}


def _in_file(words: str) -> str:
    """Replace the index of a spare by its index in the file's `nodes`."""
    return re.sub(r"\bspares\[(\d+)\]", lambda match: f"nodes[{int(match[1]) + 2}]", words)

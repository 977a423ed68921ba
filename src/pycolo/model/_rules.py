"""The rules that several declared values share, as attrs validators.

Each raises `DeclarationError`, which names the field, the value and the rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import attrs

from pycolo.errors import DeclarationError

QEMU_ID = re.compile(r"[A-Za-z][A-Za-z0-9\-._]*\Z")
BLOCK_NODE_NAME_MAX = 31
SOCKET_PATH_MAX_BYTES = 107
PORT_MAX = 65535

Validator: TypeAlias = Callable[[object, "attrs.Attribute[object]", object], None]


def _field(instance: object, attribute: attrs.Attribute[object]) -> str:
    return f"{type(instance).__name__}.{attribute.name}"


def identifier(instance: object, attribute: attrs.Attribute[object], value: object) -> None:
    """A QEMU id: a letter, then letters, digits, '-', '.', '_'."""
    if not isinstance(value, str) or not QEMU_ID.match(value):
        rule = "must be a letter followed by letters, digits, '-', '.' or '_' (QEMU's rule for ids)"
        raise DeclarationError(_field(instance, attribute), value, rule)


def block_node_name(instance: object, attribute: attrs.Attribute[object], value: object) -> None:
    """A block node name: a QEMU id of at most 31 characters."""
    identifier(instance, attribute, value)
    if len(str(value)) > BLOCK_NODE_NAME_MAX:
        rule = f"must have at most {BLOCK_NODE_NAME_MAX} characters (QEMU's limit for node names)"
        raise DeclarationError(_field(instance, attribute), value, rule)


def text(instance: object, attribute: attrs.Attribute[object], value: object) -> None:
    """A non-empty string without control characters."""
    if not isinstance(value, str) or not value or not value.isprintable():
        rule = "must be a non-empty string of printable characters"
        raise DeclarationError(_field(instance, attribute), value, rule)


def absolute_path(instance: object, attribute: attrs.Attribute[object], value: object) -> None:
    """An absolute path: QEMU and the caller may have different working directories."""
    text(instance, attribute, value)
    if not str(value).startswith("/"):
        rule = "must be an absolute path"
        raise DeclarationError(_field(instance, attribute), value, rule)


def port(instance: object, attribute: attrs.Attribute[object], value: object) -> None:
    """A TCP port, 1 to 65535."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= PORT_MAX:
        rule = f"must be a whole number from 1 to {PORT_MAX}"
        raise DeclarationError(_field(instance, attribute), value, rule)


def boolean(instance: object, attribute: attrs.Attribute[object], value: object) -> None:
    """True or false, and nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise DeclarationError(_field(instance, attribute), value, "must be true or false")


def whole(minimum: int, maximum: int) -> Validator:
    """A whole number between two bounds, both included."""

    def check(instance: object, attribute: attrs.Attribute[object], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            rule = f"must be a whole number from {minimum} to {maximum}"
            raise DeclarationError(_field(instance, attribute), value, rule)

    return check


def seconds(instance: object, attribute: attrs.Attribute[object], value: object) -> None:
    """A positive, finite number of seconds."""
    ok = isinstance(value, int | float) and not isinstance(value, bool)
    if not ok or not 0 < float(str(value)) < float("inf"):
        rule = "must be a positive number of seconds"
        raise DeclarationError(_field(instance, attribute), value, rule)


def one_of(*allowed: str) -> Validator:
    """One of the named words."""

    def check(instance: object, attribute: attrs.Attribute[object], value: object) -> None:
        if value not in allowed:
            rule = "must be one of " + ", ".join(allowed)
            raise DeclarationError(_field(instance, attribute), value, rule)

    return check


def instance_of(*kinds: type) -> Validator:
    """A value of one of the given classes, named in the refusal."""

    def check(instance: object, attribute: attrs.Attribute[object], value: object) -> None:
        if not isinstance(value, kinds):
            rule = "must be a " + " or ".join(kind.__name__ for kind in kinds)
            raise DeclarationError(_field(instance, attribute), value, rule)

    return check


def each(rule: Validator) -> Validator:
    """A tuple, each of whose members obeys `rule`."""

    def check(instance: object, attribute: attrs.Attribute[object], value: object) -> None:
        if not isinstance(value, tuple):
            raise DeclarationError(_field(instance, attribute), value, "must be a list")
        for member in value:
            rule(instance, attribute, member)

    return check


def optional(rule: Validator) -> Validator:
    """None, or what `rule` asks for."""

    def check(instance: object, attribute: attrs.Attribute[object], value: object) -> None:
        if value is not None:
            rule(instance, attribute, value)

    return check


def as_tuple(value: object) -> object:
    """Lists become tuples, so that declared values stay frozen; all else is left to the validator."""
    return tuple(value) if isinstance(value, list) else value


def socket_path(field: str, path: str) -> None:
    """A Unix socket's path must fit into the kernel's `sun_path`.

    Raises:
        DeclarationError: the path has more than 107 bytes.
    """
    if len(path.encode()) > SOCKET_PATH_MAX_BYTES:
        rule = f"makes a socket path of more than {SOCKET_PATH_MAX_BYTES} bytes, the kernel's limit"
        raise DeclarationError(field, path, rule)


def distinct(field: str, named: Iterable[tuple[str, object]], rule: str) -> None:
    """No two of the named values may be equal.

    Raises:
        DeclarationError: two are; it names both.
    """
    seen: dict[object, str] = {}
    for name, value in named:
        if value in seen:
            raise DeclarationError(field, value, f"{rule}: {seen[value]} and {name}")
        seen[value] = name


def fields_of(value: attrs.AttrsInstance, prefix: str) -> Sequence[tuple[str, object]]:
    """The fields of a value with a prefix before their names, for `distinct`."""
    return [(f"{prefix}.{f.name}", getattr(value, f.name)) for f in attrs.fields(type(value))]

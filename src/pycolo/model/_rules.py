"""The rules that several declared values share.

A rule takes a field's name and its value and raises `DeclarationError`, which names the field, the
value and the rule; `Valid` makes an attrs validator of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar, final

import attrs

from pycolo.errors import DeclarationError

QEMU_ID = re.compile(r"[A-Za-z][A-Za-z0-9\-._]*\Z")
BLOCK_NODE_NAME_MAX = 31
SOCKET_PATH_MAX_BYTES = 107
PORT_MAX = 65535

_T = TypeVar("_T")
Rule: TypeAlias = Callable[[str, object], None]


@final
@attrs.frozen
class Valid:
    """The attrs validator that holds a field to a rule."""

    rule: Rule

    def __call__(self, instance: object, attribute: attrs.Attribute[_T], value: _T, /) -> None:
        """Refuse a wrong value."""
        self.rule(f"{type(instance).__name__}.{attribute.name}", value)


def identifier(field: str, value: object) -> None:
    """Check that a value is a QEMU id: an ASCII letter, then any of a-z, A-Z, 0-9, '-', '.', '_'.

    Raises:
        DeclarationError: It is not one. Every rule of this module raises this error.
    """
    if not isinstance(value, str) or not QEMU_ID.match(value):
        rule = "be a letter followed by letters, digits, '-', '.' or '_' (QEMU's rule for ids)"
        raise DeclarationError(field, value, rule)


def block_node_name(field: str, value: object) -> None:
    """Check that a value is a name for a block node: a QEMU id of at most 31 characters."""
    identifier(field, value)
    if len(str(value)) > BLOCK_NODE_NAME_MAX:
        rule = f"have at most {BLOCK_NODE_NAME_MAX} characters (QEMU's limit for node names)"
        raise DeclarationError(field, value, rule)


def text(field: str, value: object) -> None:
    """Check that a value is a non-empty string without control characters."""
    if not isinstance(value, str) or not value or not value.isprintable():
        rule = "be a non-empty string of printable characters"
        raise DeclarationError(field, value, rule)


def absolute_path(field: str, value: object) -> None:
    """An absolute path: QEMU and the caller may have different working directories."""
    text(field, value)
    if not str(value).startswith("/"):
        rule = "be an absolute path"
        raise DeclarationError(field, value, rule)


def boolean(field: str, value: object) -> None:
    """True or false, and nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise DeclarationError(field, value, "be true or false")


@final
@attrs.frozen
class Whole:
    """A whole number between two bounds, both included."""

    minimum: int
    maximum: int

    def __call__(self, field: str, value: object) -> None:
        """Refuse any other value."""
        if not isinstance(value, int) or isinstance(value, bool) or not self._admits(value):
            rule = f"be a whole number from {self.minimum} to {self.maximum}"
            raise DeclarationError(field, value, rule)

    def _admits(self, value: int) -> bool:
        return self.minimum <= value <= self.maximum


port = Whole(1, PORT_MAX)
"""A TCP port."""


def seconds(field: str, value: object) -> None:
    """A positive, finite number of seconds."""
    ok = isinstance(value, int | float) and not isinstance(value, bool)
    if not ok or not 0 < float(str(value)) < float("inf"):
        rule = "be a positive number of seconds"
        raise DeclarationError(field, value, rule)


def one_of(*allowed: str) -> Rule:
    """One of the named words."""

    def check(field: str, value: object) -> None:
        if value not in allowed:
            rule = "be one of " + ", ".join(allowed)
            raise DeclarationError(field, value, rule)

    return check


def instance_of(*kinds: type) -> Rule:
    """A value of one of the given classes, named in the refusal."""

    def check(field: str, value: object) -> None:
        if not isinstance(value, kinds):
            rule = "be a " + " or ".join(kind.__name__ for kind in kinds)
            raise DeclarationError(field, value, rule)

    return check


@final
@attrs.frozen
class Each:
    """A tuple, each of whose members obeys a rule."""

    rule: Rule

    def __call__(self, field: str, value: object) -> None:
        """Refuse a value that is no tuple, and the first member that breaks the rule."""
        if not isinstance(value, tuple):
            raise DeclarationError(field, value, "be a list")
        for place, member in enumerate(value):
            self.rule(f"{field}[{place}]", member)


@final
@attrs.frozen
class Optional:
    """None, or what a rule asks for."""

    rule: Rule

    def __call__(self, field: str, value: object) -> None:
        """Refuse what the rule refuses."""
        if value is not None:
            self.rule(field, value)


def as_tuple(value: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Lists become tuples, so that declared values stay frozen; the validator checks the rest."""
    return tuple(value) if isinstance(value, list) else value


def socket_path(field: str, path: str) -> None:
    """A Unix socket's path must fit into the kernel's `sun_path`.

    Raises:
        DeclarationError: the path has more than 107 bytes.
    """
    if len(path.encode()) > SOCKET_PATH_MAX_BYTES:
        rule = (
            f"not make a socket path of more than {SOCKET_PATH_MAX_BYTES} bytes, the kernel's limit"
        )
        raise DeclarationError(field, path, rule)


def distinct(owner: str, named: Iterable[tuple[str, object]], why: str) -> None:
    """No two of the named values may be equal.

    Args:
        owner: The class whose fields they are.
        named: Fields, as paths from the owner, with their values; of a tuple, such as a host and
            a path on it, the last part is the field's own.
        why: The rule behind it, as a sentence without a full stop.

    Raises:
        DeclarationError: Two are equal; its field is the second, its rule names the first.
    """
    seen: dict[object, str] = {}
    for name, value in named:
        if value in seen:
            own = value[-1] if isinstance(value, tuple) else value
            raise DeclarationError(f"{owner}.{name}", own, f"differ from {seen[value]} ({why})")
        seen[value] = name


def fields_of(value: attrs.AttrsInstance, prefix: str) -> Sequence[tuple[str, object]]:
    """The fields of a value with a prefix before their names, for `distinct`."""
    return [(f"{prefix}.{f.name}", getattr(value, f.name)) for f in attrs.fields(type(value))]

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
PAIR_NAME_MAX = 64
SOCKET_PATH_MAX_BYTES = 107
PORT_MAX = 65535

_T = TypeVar("_T")
Rule: TypeAlias = Callable[[str, object], None]


@final
@attrs.frozen
class Valid:
    """An attrs validator that checks a field by a rule."""

    rule: Rule

    def __call__(self, instance: object, attribute: attrs.Attribute[_T], value: _T, /) -> None:
        """Refuse a value that breaks the rule."""
        self.rule(f"{type(instance).__name__}.{attribute.name}", value)


def identifier(field: str, value: object) -> None:
    """Check that a value is a QEMU id: an ASCII letter, then any of a-z, A-Z, 0-9, '-', '.', '_'.

    Raises:
        DeclarationError: The value is no QEMU id. Every rule of this module raises this error.
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


def pair_name(field: str, value: object) -> None:
    """Check that a value is a name for a pair: a QEMU id of at most 64 characters."""
    identifier(field, value)
    if len(str(value)) > PAIR_NAME_MAX:
        rule = f"have at most {PAIR_NAME_MAX} characters (it is part of the paths of sockets)"
        raise DeclarationError(field, value, rule)


def text(field: str, value: object) -> None:
    """Check that a value is a non-empty string of printable characters."""
    if not isinstance(value, str) or not value or not value.isprintable():
        rule = "be a non-empty string of printable characters"
        raise DeclarationError(field, value, rule)


def string(field: str, value: object) -> None:
    """Check that a value is a string of printable characters, perhaps an empty one."""
    if not isinstance(value, str) or not value.isprintable():
        raise DeclarationError(field, value, "be a string of printable characters")


def absolute_path(field: str, value: object) -> None:
    """Check that a value is an absolute path.

    A relative one would be read by QEMU and by the caller from different working directories.
    """
    text(field, value)
    if not str(value).startswith("/"):
        rule = "be an absolute path"
        raise DeclarationError(field, value, rule)


def boolean(field: str, value: object) -> None:
    """Check that a value is `True` or `False`; 0 and 1 are refused."""
    if not isinstance(value, bool):
        raise DeclarationError(field, value, "be true or false")


@final
@attrs.frozen
class Whole:
    """The rule that a value is a whole number between two bounds, both included."""

    minimum: int
    maximum: int

    def __call__(self, field: str, value: object) -> None:
        """Refuse a value that is no such number, such as `True`."""
        if not isinstance(value, int) or isinstance(value, bool) or not self._admits(value):
            rule = f"be a whole number from {self.minimum} to {self.maximum}"
            raise DeclarationError(field, value, rule)

    def _admits(self, value: int) -> bool:
        return self.minimum <= value <= self.maximum


port = Whole(1, PORT_MAX)
"""The rule that a value is a TCP port, 1 to 65535."""


def seconds(field: str, value: object) -> None:
    """Check that a value is a positive, finite number of seconds."""
    ok = isinstance(value, int | float) and not isinstance(value, bool)
    if not ok or not 0 < float(str(value)) < float("inf"):
        rule = "be a positive number of seconds"
        raise DeclarationError(field, value, rule)


def one_of(*allowed: str) -> Rule:
    """Make the rule that a value is one of some words."""

    def check(field: str, value: object) -> None:
        if value not in allowed:
            rule = "be one of " + ", ".join(allowed)
            raise DeclarationError(field, value, rule)

    return check


def instance_of(*kinds: type) -> Rule:
    """Make the rule that a value is of one of some classes, which the error names."""

    def check(field: str, value: object) -> None:
        if not isinstance(value, kinds):
            rule = "be a " + " or ".join(kind.__name__ for kind in kinds)
            raise DeclarationError(field, value, rule)

    return check


@final
@attrs.frozen
class Each:
    """The rule that a value is a tuple and that each of its members obeys another rule."""

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
    """The rule that a value is None or obeys another rule."""

    rule: Rule

    def __call__(self, field: str, value: object) -> None:
        """Refuse a value that is not None and breaks the rule."""
        if value is not None:
            self.rule(field, value)


def as_tuple(value: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Convert a list to a tuple, so that declared values stay frozen.

    Other values are returned as they are; the field's validator checks them.
    """
    return tuple(value) if isinstance(value, list) else value


def socket_path(field: str, path: str) -> None:
    """Check that the path of a Unix socket fits into the kernel's `sun_path`.

    Raises:
        DeclarationError: The path has more than 107 bytes.
    """
    if len(path.encode()) > SOCKET_PATH_MAX_BYTES:
        rule = (
            f"not make a socket path of more than {SOCKET_PATH_MAX_BYTES} bytes, the kernel's limit"
        )
        raise DeclarationError(field, path, rule)


def distinct(owner: str, named: Iterable[tuple[str, object]], why: str) -> None:
    """Check that no two of some fields have equal values.

    Args:
        owner: The class that has the fields.
        named: Each field, as a path from the owner, with its value. A value may be a tuple, such as
            a host and a path on it: tuples are compared as a whole, and an error shows the last
            member.
        why: The reason for the rule, as a sentence without a full stop.

    Raises:
        DeclarationError: Two values are equal. The error is about the second field, and its rule
            names the first.
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

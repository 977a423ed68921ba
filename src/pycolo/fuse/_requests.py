"""The requests that the fuse accepts: each is one JSON object, whose every field is checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

from pycolo._printable import shown

REQUEST_MAX_BYTES: Final = 4096
REPLY_MAX_BYTES: Final = 1 << 18
FuseState: TypeAlias = Literal["armed", "stopped", "killed"]
"""What a fuse has done to its QEMU: nothing yet, stopped it (SIGSTOP), or killed it (SIGKILL)."""
_NAME_MAX: Final = 100
_PID_MAX: Final = 1 << 22
_START_MAX: Final = 1 << 63
# In seconds since boot: far longer than any machine has been running.
_MOMENT_MAX_S: Final = 1e12
_LIMIT_MIN_S: Final = 0.01
_LIMIT_MAX_S: Final = 3600.0
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9\-._]*\Z")
_NUMBER: Final = re.compile(r"[0-9a-f]{8}\Z")


class Refused(Exception):
    """The fuse refused a request, a process or its folder; what is armed stays as it was."""


class Gone(Refused):
    """The process to guard has ended; its process ID may belong to another one by now."""


class Arm(NamedTuple):
    """The request to arm the fuse for a QEMU."""

    pair: str
    node: str
    instance: str
    pid: int
    start_time: int
    "When the process started, field 22 of /proc/PID/stat."
    fuse_s: float
    kill_s: float
    as_of_s: float
    "The moment on CLOCK_BOOTTIME from which `fuse_s` counts."


class Renew(NamedTuple):
    """The request to let a QEMU run until `fuse_s` after `as_of_s`, when it was allowed to run."""

    pair: str
    node: str
    instance: str
    as_of_s: float


class Disarm(NamedTuple):
    """The request to stop guarding a QEMU."""

    pair: str
    node: str
    instance: str


class List(NamedTuple):
    """The request to list the guarded QEMUs."""


Request: TypeAlias = Arm | Renew | Disarm | List


def parse(data: bytes) -> Request:
    """Parse a message as a request.

    Args:
        data: The message: one JSON object in at most `REQUEST_MAX_BYTES`.

    Raises:
        Refused: The message is not a request of the fuse, or a field is missing, unknown or wrong.
    """
    if len(data) > REQUEST_MAX_BYTES:
        raise Refused(f"a request must have at most {REQUEST_MAX_BYTES} bytes")
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused(f"a request must be one JSON object: {error}") from error
    if not isinstance(found, dict):
        raise Refused(f"a request must be one JSON object, not {shown(found)}")
    name = found.pop("request", None)
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise Refused(f"request must be one of {', '.join(_KINDS)}, not {shown(name)}")
    return kind(found)


def arm(found: Mapping[object, object]) -> Arm:
    """Make an `Arm` request from its fields.

    Args:
        found: Field name to value, as parsed from JSON.

    Raises:
        Refused: A field is missing, unknown or wrong.
    """
    _only(found, Arm._fields)
    return Arm(
        *_who(found),
        pid=_whole("pid", found["pid"], 1, _PID_MAX),
        start_time=_whole("start_time", found["start_time"], 0, _START_MAX),
        fuse_s=_seconds("fuse_s", found["fuse_s"], _LIMIT_MIN_S, _LIMIT_MAX_S),
        kill_s=_seconds("kill_s", found["kill_s"], 0.0, _LIMIT_MAX_S),
        as_of_s=_seconds("as_of_s", found["as_of_s"], 0.0, _MOMENT_MAX_S),
    )


def _renew(found: Mapping[object, object]) -> Renew:
    _only(found, Renew._fields)
    return Renew(*_who(found), as_of_s=_seconds("as_of_s", found["as_of_s"], 0.0, _MOMENT_MAX_S))


def _disarm(found: Mapping[object, object]) -> Disarm:
    _only(found, Disarm._fields)
    return Disarm(*_who(found))


def _list(found: Mapping[object, object]) -> List:
    _only(found, List._fields)
    return List()


_KINDS: Final[Mapping[str, Callable[[Mapping[object, object]], Request]]] = {
    "arm": arm,
    "renew": _renew,
    "disarm": _disarm,
    "list": _list,
}


def _only(found: Mapping[object, object], names: tuple[str, ...]) -> None:
    for name in names:
        if name not in found:
            raise Refused(f"{name} is missing")
    for other in found:
        if other not in names:
            known = ", ".join(names) or "none"
            raise Refused(f"there is no field {shown(other)}: the fields are {known}")


def _who(found: Mapping[object, object]) -> tuple[str, str, str]:
    pair, node = _name("pair", found["pair"]), _name("node", found["node"])
    instance, prefix = found["instance"], f"{pair}:{node}:"
    is_own = isinstance(instance, str) and instance.startswith(prefix)
    if not is_own or not _NUMBER.match(str(instance)[len(prefix) :]):
        rule = f"be {prefix} and 8 hexadecimal digits"
        raise Refused(f"instance must {rule}, not {shown(instance)}")
    return pair, node, str(instance)


def _name(field: str, value: object) -> str:
    if not isinstance(value, str) or not _NAME.match(value) or len(value) > _NAME_MAX:
        rule = (
            "be a letter followed by letters, digits, '-', '.' or '_',"
            f" at most {_NAME_MAX} characters"
        )
        raise Refused(f"{field} must {rule}, not {shown(value)}")
    return value


def _whole(field: str, value: object, minimum: int, maximum: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        rule = f"be a whole number from {minimum} to {maximum}"
        raise Refused(f"{field} must {rule}, not {shown(value)}")
    return value


def _seconds(field: str, value: object, minimum: float, maximum: float) -> float:
    # NaN is in no range. The range is checked first, since `float` fails for a huge integer.
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and minimum <= value <= maximum
    ):
        return float(value)
    rule = f"be a number of seconds from {minimum:g} to {maximum:g}"
    raise Refused(f"{field} must {rule}, not {shown(value)}")

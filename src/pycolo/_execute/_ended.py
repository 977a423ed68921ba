"""How an exception that ends a step becomes the step's outcome."""

from __future__ import annotations

from collections.abc import Callable

from pycolo.errors import (
    Busy,
    CommandRefused,
    ConnectionFailed,
    HostRefused,
    PycoloError,
    RefusedError,
)
from pycolo.result import (
    Hindrance,
    NotConnected,
    Outcome,
    QemuError,
    Refused,
    TimedOut,
    Unknown,
)


class Ended(Exception):
    """Ends a step that was not done for a reason other than an error of a session or a host."""

    def __init__(self, make: Callable[[float], Outcome]) -> None:
        """Keep the function that makes the outcome.

        Args:
            make: Takes how long the step took, in seconds, and returns the step's outcome.
        """
        super().__init__()
        self.make = make


def refused(reason: str, error: QemuError | None = None) -> Ended:
    """An `Ended` whose outcome is `Refused`: the step changed nothing.

    Args:
        reason: Who refused what, and why.
        error: QEMU's answer; None if it was not QEMU that refused.
    """
    return Ended(lambda took_s: Refused(took_s=took_s, reason=reason, error=error))


def hindered(reason: str, hindrance: Hindrance) -> Ended:
    """An `Ended` whose outcome is `Refused`, by something that must be removed first.

    Args:
        reason: What hinders the execution, and why.
        hindrance: The same as a value, for the report's advice.
    """
    return Ended(lambda took_s: Refused(took_s=took_s, reason=reason, hindrance=hindrance))


def not_connected(node: str, why: str | None = None) -> Ended:
    """An `Ended` for a node without an open session.

    Args:
        node: The node.
        why: Why its session was closed; None if that is not known.
    """
    reason = f"there is no connection to {node}"
    return hindered(reason if why is None else f"{reason}: {why}", NotConnected(node=node))


def unknown(reason: str) -> Ended:
    """An `Ended` whose outcome is `Unknown`: the step may have taken effect."""
    return Ended(lambda took_s: Unknown(took_s=took_s, reason=reason))


def timed_out(reason: str) -> Ended:
    """An `Ended` whose outcome is `TimedOut`: the condition did not become true in time."""
    return Ended(lambda took_s: TimedOut(took_s=took_s, reason=reason))


def outcome_of(error: PycoloError, took_s: float) -> Outcome:
    """The outcome of a step that an error ended.

    Args:
        error: The error of a session, a host or a plan.
        took_s: How long the step took, in seconds.
    """
    match error:
        case CommandRefused():
            said = QemuError(text=error.text, error_class=error.error_class)
            return Refused(took_s=took_s, reason=str(error), error=said)
        case ConnectionFailed() | Busy() | HostRefused() | RefusedError():
            return Refused(took_s=took_s, reason=str(error))
        case _:
            return Unknown(took_s=took_s, reason=str(error))

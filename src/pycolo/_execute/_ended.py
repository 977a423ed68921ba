"""The exceptions that end a step which was not done."""

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
from pycolo.result import Outcome, QemuError, Refused, TimedOut, Unknown


class Ended(Exception):
    """The step ended, and not by an error of a session or a host."""

    def __init__(self, make: Callable[[float], Outcome]) -> None:
        """Take what makes the outcome of the seconds that the step took."""
        super().__init__()
        self.make = make


def refused(reason: str, error: QemuError | None = None) -> Ended:
    """The step was refused; nothing came of it."""
    return Ended(lambda took_s: Refused(took_s=took_s, reason=reason, error=error))


def unknown(reason: str) -> Ended:
    """What became of the step is not known."""
    return Ended(lambda took_s: Unknown(took_s=took_s, reason=reason))


def timed_out(reason: str) -> Ended:
    """What was waited for did not come true in time."""
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

"""Interfaces of the kernel that the fuse needs and Python 3.11 does not offer."""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Iterator
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_TFD_TIMER_ABSTIME: Final = 1
_MCL_CURRENT_AND_FUTURE: Final = 3
_NSEC: Final = 10**9
# Any real-time priority comes before all processes that have none.
_PRIORITY: Final = 1
_NEVER_KILLED: Final = b"-1000"


def boottime_s() -> float:
    """The time on CLOCK_BOOTTIME, which also counts while the machine is suspended, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Timer:
    """A timer whose descriptor becomes readable at a moment on CLOCK_BOOTTIME.

    The timeout of `poll` and `epoll` would be late after a suspension: it counts on
    CLOCK_MONOTONIC, which does not advance meanwhile.
    """

    def __init__(self) -> None:
        descriptor: int = _LIBC.timerfd_create(time.CLOCK_BOOTTIME, os.O_CLOEXEC | os.O_NONBLOCK)
        if descriptor < 0:
            raise _error()
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor that becomes readable when the timer fires."""
        return self._descriptor

    def set(self, at_s: float | None) -> None:
        """Set the moment at which the timer fires; until then its descriptor is not readable.

        Args:
            at_s: The moment, in seconds on CLOCK_BOOTTIME: one that has passed fires the timer at
                once. None for never.
        """
        # To the kernel 0 means never.
        when = 0 if at_s is None else max(1, math.ceil(at_s * _NSEC))
        value = _Itimerspec(_Timespec(0, 0), _Timespec(*divmod(when, _NSEC)))
        pointer = ctypes.byref(value)
        if _LIBC.timerfd_settime(self._descriptor, _TFD_TIMER_ABSTIME, pointer, None) != 0:
            raise _error()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


def take_precedence() -> Iterator[str]:
    """Give this process a real-time priority, exempt it from the OOM killer, and lock its memory.

    Yields:
        A message for each of the three that was refused; the process continues without it.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except OSError as error:
        yield f"no real-time priority, so a busy host delays the fuse: {error.strerror}"
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as score:
            score.write(_NEVER_KILLED)
    except OSError as error:
        yield f"it may be killed when memory runs out: {error.strerror}"
    if _LIBC.mlockall(_MCL_CURRENT_AND_FUTURE) != 0:
        yield f"its memory is not locked, so swapping delays the fuse: {_error().strerror}"


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))

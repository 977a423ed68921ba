"""How far a copy of a disk or of the RAM is, from the replies that a wait gets anyway."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import attrs

from pycolo.qmp.replies import Job, MigrationInfo


@final
@attrs.frozen(kw_only=True)
class News:
    """How much of a copy is done, and how fast it is."""

    done_bytes: int
    total_bytes: int
    rate_bytes_s: float
    "The average since the first reply, in bytes per second."


@final
class Progress:
    """Follows a copy by the replies that it is given.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started: tuple[float, int] | None = None
        self._now: tuple[int, int] | None = None
        self._told: tuple[int, int] | None = None
        self._sign: object = None
        self._moved_s = clock()

    def note(self, reply: object) -> None:
        """Note a parsed reply; a reply that is not about a copy is ignored."""
        sign = _sign(reply)
        if sign is not None and (sign != self._sign or _is_past(reply)):
            self._sign, self._moved_s = sign, self._clock()
        found = _copied(reply)
        if found is not None:
            self._now = found
            self._started = self._started or (self._clock(), found[0])

    @property
    def stands_s(self) -> float:
        """For how many seconds no byte of a copy has arrived."""
        return self._clock() - self._moved_s

    def news(self) -> News | None:
        """How far the copy is; None if that has not changed since the last call."""
        if self._now is None or self._started is None or self._now == self._told:
            return None
        self._told = self._now
        since, first = self._started
        passed_s = self._clock() - since
        rate = (self._now[0] - first) / passed_s if passed_s > 0 else 0.0
        return News(done_bytes=self._now[0], total_bytes=self._now[1], rate_bytes_s=max(rate, 0.0))


def _sign(reply: object) -> object:
    """A value that changes while a copy moves; None if the reply is not about a copy."""
    match reply:
        case MigrationInfo(status=status, ram_remaining_bytes=remaining):
            return status, remaining
        case tuple() if any(isinstance(job, Job) for job in reply):
            jobs = [job for job in reply if isinstance(job, Job)]
            return [(job.id, job.status, job.current_progress) for job in jobs]
        case _:
            return None


def _is_past(reply: object) -> bool:
    """Whether the reply says that the copy of the RAM is over; QEMU counts no later bytes."""
    return isinstance(reply, MigrationInfo) and reply.status not in ("setup", "active")


def _copied(reply: object) -> tuple[int, int] | None:
    """The bytes copied and the bytes in all; None if the reply is not about a copy."""
    match reply:
        case MigrationInfo(ram_total_bytes=int(total), ram_remaining_bytes=int(remaining)):
            return total - remaining, total
        case tuple():
            jobs = [job for job in reply if isinstance(job, Job) and job.total_progress > 0]
            if jobs:
                done = sum(job.current_progress for job in jobs)
                return done, sum(job.total_progress for job in jobs)
        case _:
            pass
    return None

"""How far a copy of a disk or of the RAM is, from the replies that are asked for anyway."""

from __future__ import annotations

import time
from typing import final

import attrs

from pycolo.qmp.replies import Job, MigrationInfo


@final
@attrs.frozen(kw_only=True)
class News:
    """How far it is."""

    done_bytes: int
    total_bytes: int
    rate_bytes_s: float
    "Since the first reply."


@final
class Progress:
    """Listens to replies and tells what is new in them."""

    def __init__(self) -> None:
        self._started: tuple[float, int] | None = None
        self._now: tuple[int, int] | None = None
        self._told: tuple[int, int] | None = None

    def hear(self, reply: object) -> None:
        """Take a reply; those that are about no copy are ignored."""
        found = _copied(reply)
        if found is not None:
            self._now = found
            self._started = self._started or (time.monotonic(), found[0])

    def news(self) -> News | None:
        """How far it is, if that changed since it was last told."""
        if self._now is None or self._started is None or self._now == self._told:
            return None
        self._told = self._now
        since, first = self._started
        passed_s = time.monotonic() - since
        rate = (self._now[0] - first) / passed_s if passed_s > 0 else 0.0
        return News(done_bytes=self._now[0], total_bytes=self._now[1], rate_bytes_s=max(rate, 0.0))


def _copied(reply: object) -> tuple[int, int] | None:
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

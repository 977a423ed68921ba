"""When to try again after a failure: after growing waits, and a limited number of times an hour."""

from __future__ import annotations

import math
from typing import Final, final

import attrs

from pycolo.model.supervision import Supervision

LONGEST_S: Final = 60.0
HOUR_S: Final = 3600.0


@final
@attrs.frozen(kw_only=True)
class Retries:
    """The tries that have failed lately; times are seconds of one clock."""

    limits: Supervision
    failed_s: tuple[float, ...] = ()
    "When each of them failed, the latest last."

    def failed(self, now_s: float) -> Retries:
        """These tries and one more that has failed now."""
        kept = tuple(at_s for at_s in self.failed_s if now_s - at_s < HOUR_S)
        return attrs.evolve(self, failed_s=(*kept, now_s))

    def succeeded(self) -> Retries:
        """The same limits without any failed try, since one has succeeded."""
        return attrs.evolve(self, failed_s=())

    @property
    def are_spent(self) -> bool:
        """Whether as many tries have failed within an hour as are allowed to."""
        recent = [at_s for at_s in self.failed_s if self.failed_s[-1] - at_s < HOUR_S]
        return len(recent) >= self.limits.tries_per_hour

    @property
    def next_s(self) -> float:
        """When to try again; minus infinity if nothing has failed."""
        if not self.failed_s:
            return -math.inf
        if self.are_spent:
            return self.failed_s[-self.limits.tries_per_hour] + HOUR_S
        return self.failed_s[-1] + waited_s(self.limits, len(self.failed_s))


def waited_s(limits: Supervision, count: int) -> float:
    """How long to wait after this many failures in a row (1 or more), in seconds."""
    return min(limits.retry_s * 2.0 ** (count - 1), LONGEST_S)

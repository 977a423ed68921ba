"""How often checkpoints come, how long they pause the guest, and which checkpoint delay fits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final, final

import attrs

JITTER: Final = 0.1
"A checkpoint up to this part of the delay early still counts as caused by the delay."
JITTER_S: Final = 0.05
"The same in seconds, for short delays: a loaded host may begin a checkpoint that much later."
COST: Final = 0.02
"The part of the guest's time that checkpoints with the suggested delay may take at most."
SHORTEST_MS: Final = 100
_MS: Final = 1000.0


@final
@attrs.frozen(kw_only=True)
class Checkpoint:
    """A checkpoint of the primary, by the times at which its events arrived."""

    began_s: float
    "When the guest was paused, in seconds; only the difference of two such times has a meaning."
    pause_s: float
    "How long the guest was paused, in seconds."
    forced: bool = False
    "Whether the supervisor had forced one, for itself or for a person; False if nobody knows."


@final
@attrs.frozen(kw_only=True)
class Pace:
    """The checkpoints that were measured during some time.

    QEMU does not report the cause of a checkpoint, so it is inferred. A checkpoint that the delay
    causes begins one delay after the beginning of the one before (qemu-behaviour 4.18). An earlier
    one had another cause: a program forced it, or the guests' packets differed. A supervisor knows
    which ones it has forced itself. A failover causes none.
    """

    seconds: float
    "The duration of the measurement."
    delay_ms: int
    "The checkpoint delay during the measurement."
    pauses_s: tuple[float, ...]
    "How long each checkpoint paused the guest, ascending."
    timed: int
    "The number of checkpoints that the delay caused."
    forced: int
    "The number of checkpoints that the supervisor forced."
    early: int
    "The number of earlier checkpoints with another cause; the first one is in none of the numbers."

    @classmethod
    def of(cls, checkpoints: Sequence[Checkpoint], *, seconds: float, delay_ms: int) -> Pace:
        """Compute the pace of some checkpoints.

        Args:
            checkpoints: The checkpoints, in the order in which they began.
            seconds: The duration of the measurement, above 0.
            delay_ms: The checkpoint delay, in milliseconds.
        """
        delay_s = delay_ms / _MS
        least_s = delay_s - max(JITTER * delay_s, JITTER_S)
        rest = [(b, b.began_s - a.began_s) for a, b in itertools.pairwise(checkpoints)]
        forced = sum(one.forced for one, _ in rest)
        early = sum(gap_s < least_s for one, gap_s in rest if not one.forced)
        return cls(
            seconds=seconds,
            delay_ms=delay_ms,
            pauses_s=tuple(sorted(one.pause_s for one in checkpoints)),
            timed=len(rest) - forced - early,
            forced=forced,
            early=early,
        )

    @property
    def per_second(self) -> float:
        """The number of checkpoints per second."""
        return len(self.pauses_s) / self.seconds

    @property
    def share(self) -> float:
        """The part of `seconds` for which checkpoints paused the guest, 0 to 1.

        0 if no checkpoint was seen.
        """
        return sum(self.pauses_s) / self.seconds

    def pause_s(self, part: float) -> float:
        """The quantile of the pauses, in seconds; 0 if there are none.

        Args:
            part: The part of the pauses that are not longer than the result, above 0 and up to 1;
                0.5 for the median.
        """
        if not self.pauses_s:
            return 0.0
        return self.pauses_s[max(0, math.ceil(part * len(self.pauses_s)) - 1)]

    @property
    def suggested_ms(self) -> int | None:
        """The shortest delay, in milliseconds, with which pauses take 2 % of the time at most.

        At least 100 and rounded up to two digits; computed from the pause that 90 % of the
        checkpoints do not exceed. None if no checkpoint was seen. With a shorter delay, a lost
        connection between the hosts is noticed sooner, and each checkpoint has less to send.
        """
        if not self.pauses_s:
            return None
        least_ms = max(SHORTEST_MS, self.pause_s(0.9) / COST * _MS)
        step = int(10 ** (len(str(math.ceil(least_ms))) - 2))
        return math.ceil(least_ms / step) * step

"""How often a pair's checkpoints come, how long they pause the guest, and which delay fits that."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final, final

import attrs

JITTER: Final = 0.1
"By which part of the delay a checkpoint may come too early without having been asked for."
JITTER_S: Final = 0.05
"The same in seconds, for short delays: what a loaded host takes to begin with a checkpoint."
COST: Final = 0.02
"How much of the guest's time the checkpoints of the suggested delay may take."
SHORTEST_MS: Final = 100
_MS: Final = 1000.0


@final
@attrs.frozen(kw_only=True)
class Checkpoint:
    """A checkpoint of the primary, as it was heard of."""

    began_s: float
    "When the guest was paused; only differences of two have a meaning."
    pause_s: float
    "How long it was paused."


@final
@attrs.frozen(kw_only=True)
class Pace:
    """What was measured of the checkpoints within some time.

    Which of them the delay asked for is not said by QEMU, so it is concluded: the next checkpoint
    that nobody asks for begins one delay after the one before has begun (qemu-behaviour 4.18). An
    earlier one was asked for: the guests' packets differed, or somebody forced it.
    """

    seconds: float
    "How long it was measured."
    delay_ms: int
    "The checkpoint delay meanwhile."
    pauses_s: tuple[float, ...]
    "How long each one paused the guest, ascending."
    timed: int
    "How many the delay asked for."
    early: int
    "How many came before; of the first one it is not known."

    @classmethod
    def of(cls, checkpoints: Sequence[Checkpoint], *, seconds: float, delay_ms: int) -> Pace:
        """Compute the pace of some checkpoints.

        Args:
            checkpoints: The checkpoints, in the order in which they began.
            seconds: How long they were recorded, in seconds.
            delay_ms: The checkpoint delay, in milliseconds.
        """
        delay_s = delay_ms / _MS
        least_s = delay_s - max(JITTER * delay_s, JITTER_S)
        gaps_s = [b.began_s - a.began_s for a, b in itertools.pairwise(checkpoints)]
        early = sum(gap_s < least_s for gap_s in gaps_s)
        return cls(
            seconds=seconds,
            delay_ms=delay_ms,
            pauses_s=tuple(sorted(one.pause_s for one in checkpoints)),
            timed=len(gaps_s) - early,
            early=early,
        )

    @property
    def per_second(self) -> float:
        """How many came in a second."""
        return len(self.pauses_s) / self.seconds

    @property
    def share(self) -> float:
        """Which part of the time the guest was paused, 0 to 1."""
        return sum(self.pauses_s) / self.seconds

    def pause_s(self, part: float) -> float:
        """How long a part of the pauses are at most, in seconds; 0 if there are none.

        Args:
            part: Above 0, to 1: 0.5 gives the median.
        """
        if not self.pauses_s:
            return 0.0
        return self.pauses_s[max(0, math.ceil(part * len(self.pauses_s)) - 1)]

    @property
    def suggested_ms(self) -> int | None:
        """The shortest delay whose checkpoints pause the guest for 2 % of the time at most.

        In full tens or hundreds of milliseconds; None if no checkpoint was seen. A shorter one
        shows sooner that the way between the hosts is lost, and leaves less to send at once.
        """
        if not self.pauses_s:
            return None
        least_ms = max(SHORTEST_MS, self.pause_s(0.9) / COST * _MS)
        step = int(10 ** (len(str(math.ceil(least_ms))) - 2))
        return math.ceil(least_ms / step) * step

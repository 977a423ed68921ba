"""The measures of a pair under its supervisor: counts, durations and silences."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, TypeAlias, final

import attrs
from typing_extensions import override

from pycolo._mapping import read_only_mappings
from pycolo.evidence import Kind
from pycolo.observers import Observer
from pycolo.pace import Checkpoint
from pycolo.plan import Execute, Plan, Procedure, Step
from pycolo.qmp.commands import MigrateSetParameters
from pycolo.result import Outcome, Report
from pycolo.snapshot import role_of
from pycolo.supervise._streams import Stream
from pycolo.supervise._underway import Underway
from pycolo.supervise.observation import Signal

Result: TypeAlias = Literal["done", "failed", "not-begun"]
"""What came of a procedure that was due; `not-begun`: no plan was executed."""

Survivor: TypeAlias = Literal["primary", "secondary"]
"""Whether the node that continued was COLO's primary or its secondary before the failover."""

Reason: TypeAlias = Kind | Literal["recorded"]
"""What a failover rested on: the kind of its evidence, or `recorded` if the record already let the
survivor alone run."""

FAILOVER_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
PAUSE_S: Final = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24)


@final
@attrs.frozen(kw_only=True)
class Histogram:
    """A histogram of durations."""

    bounds_s: tuple[float, ...]
    "The upper bounds of the buckets, inclusive and ascending; the last bucket has no bound."
    counts: tuple[int, ...]
    "How many durations fell into each bucket: one more than there are bounds."
    sum_s: float = 0.0
    "The sum of all durations."

    @classmethod
    def of(cls, bounds_s: tuple[float, ...]) -> Histogram:
        """Make a histogram without any duration."""
        return cls(bounds_s=bounds_s, counts=(0,) * (len(bounds_s) + 1))

    def plus(self, took_s: float) -> Histogram:
        """This histogram with one more duration, in seconds."""
        place = bisect.bisect_left(self.bounds_s, took_s)
        counts = (*self.counts[:place], self.counts[place] + 1, *self.counts[place + 1 :])
        return attrs.evolve(self, counts=counts, sum_s=self.sum_s + took_s)

    @property
    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Each bound with how many durations are not above it; the last bound is infinite."""
        return zip((*self.bounds_s, float("inf")), itertools.accumulate(self.counts), strict=True)


@final
@attrs.frozen(kw_only=True)
class LeaseAge:
    """How long the lease of an agent's node has not been renewed; in seconds."""

    age_s: float
    "How long ago the latest renewal that succeeded was sent."
    longest_s: float
    "The longest time between two such renewals for the present QEMU, the present time included."
    limit_s: float
    "How long the lease lasts."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Silence:
    """How long a pair's QEMUs have been silent, against how long they may be; in seconds."""

    question_s: Mapping[str, float]
    "Node to the age of the question that its QEMU has not answered; 0 for none."
    longest_question_s: Mapping[str, float]
    """Node to the longest time that its QEMU has left a question unanswered; compared with the
    limit of `stuck`, and so begun anew at the second checkpoint in COLO."""
    longest_s: Mapping[str, float]
    """Node to the longest time that its QEMU has answered neither in nor out of band; compared with
    the limit of `silent`."""
    checkpoint_s: float | None
    "How long ago the last checkpoint ended, or COLO began; None outside COLO."
    longest_checkpoint_s: float | None
    """The longest time without a checkpoint since the pair's second one in COLO, the present time
    included; None before that."""
    lease: LeaseAge | None
    "The lease of the agent's own node; None while it has none, and under a supervisor."
    limits_s: Mapping[Signal, float]
    "How long each signal must last before it is a suspicion; empty before the first observation."


NO_SILENCE: Final = Silence(
    question_s={},
    longest_question_s={},
    longest_s={},
    checkpoint_s=None,
    longest_checkpoint_s=None,
    lease=None,
    limits_s={},
)
"The silence of a pair that was not observed yet."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Measures:
    """The counts and durations of a pair since its supervisor was made."""

    pair: str
    "The pair's name."
    unprotected_s: float
    "How long the pair was not known to be protected while that was wanted, in seconds."
    executions: Mapping[tuple[Procedure, Result], int]
    "How often each procedure was due, by its result."
    failovers: Mapping[tuple[Survivor, Reason], int]
    "How many failovers succeeded, by survivor and reason."
    failover: Histogram
    "How long each of these failovers took, from its beginning until the guest served again."
    checkpoint_pause: Histogram
    "How long the primary's guest was paused for each checkpoint, as the supervisor heard of it."
    silence: Silence
    "How long the pair's QEMUs have been silent."
    underway: Underway | None
    "The progress of the plan that is executed; None if none is."
    is_queued: bool
    "Whether a resync of the pair waits until others have ended."


@final
@attrs.define(kw_only=True, eq=False)
class Tally(Observer):
    """Counts for one pair, across restarts of its keeper; it observes every execution."""

    pair: str
    "The pair's name."
    clock: Callable[[], float]
    "Gives the time in seconds."
    checkpoints: Stream[Checkpoint] = attrs.field(factory=Stream)
    "Gives each checkpoint to its listeners, as it ends."
    _unprotected_s: float = 0.0
    _since_s: float | None = None
    _executions: Counter[tuple[Procedure, Result]] = attrs.field(factory=Counter)
    _failovers: Counter[tuple[Survivor, Reason]] = attrs.field(factory=Counter)
    _failover: Histogram = attrs.field(factory=functools.partial(Histogram.of, FAILOVER_S))
    _pause: Histogram = attrs.field(factory=functools.partial(Histogram.of, PAUSE_S))
    _began_s: float = 0.0
    _restored_s: float | None = None
    _is_asked: bool = False
    _is_forced: bool = False

    def protection(self, *, lacks: bool) -> None:
        """Take note whether the pair lacks the protection that is wanted; call this repeatedly."""
        now_s = self.clock()
        self._unprotected_s += self._lacking_s(now_s)
        self._since_s = now_s if lacks else None

    def force(self) -> None:
        """Take note that a checkpoint is forced: the next one that begins."""
        self._is_asked = True

    def checkpoint_begins(self) -> None:
        """Take note that the primary's guest was paused, such as for a checkpoint."""
        self._is_forced, self._is_asked = self._is_asked, False

    def checkpoint(self, pause_s: float) -> None:
        """Count a checkpoint for which the primary's guest was paused for `pause_s` seconds."""
        self._pause = self._pause.plus(pause_s)
        began_s = self.clock() - pause_s
        self.checkpoints.tell(Checkpoint(began_s=began_s, pause_s=pause_s, forced=self._is_forced))

    def not_begun(self, procedure: Procedure) -> None:
        """Count a procedure that was due, and for which no plan was executed."""
        self._executions[procedure, "not-begun"] += 1

    @override
    def plan_started(self, plan: Plan) -> None:
        """Note when the plan began."""
        self._began_s, self._restored_s = self.clock(), None

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        """Take note of a step that forces a checkpoint in COLO (qemu-behaviour 4.11)."""
        command = step.command if isinstance(step, Execute) else None
        if isinstance(command, MigrateSetParameters) and command.x_checkpoint_delay_ms is not None:
            self.force()

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        """Note when the guest served again."""
        if address == plan.restored_after:
            self._restored_s = self.clock()

    @override
    def plan_finished(self, report: Report) -> None:
        """Count the execution, and its duration if it is a failover that succeeded."""
        plan = report.plan
        self._executions[plan.procedure, "done" if report.failed is None else "failed"] += 1
        if plan.procedure == "failover" and plan.acts and report.failed is None:
            self._failovers[_survivor(plan), _reason(report)] += 1
            ended_s = self.clock() if self._restored_s is None else self._restored_s
            self._failover = self._failover.plus(ended_s - self._began_s)

    def measures(self, silence: Silence, underway: Underway | None, *, is_queued: bool) -> Measures:
        """The measures until now, with what is under way for the pair at present."""
        return Measures(
            pair=self.pair,
            unprotected_s=self._unprotected_s + self._lacking_s(self.clock()),
            executions=dict(self._executions),
            failovers=dict(self._failovers),
            failover=self._failover,
            checkpoint_pause=self._pause,
            silence=silence,
            underway=underway,
            is_queued=is_queued,
        )

    def _lacking_s(self, now_s: float) -> float:
        return 0.0 if self._since_s is None else now_s - self._since_s


def _survivor(plan: Plan) -> Survivor:
    """The role that the survivor had: the node to which the failover sends its commands."""
    node = next(step.node for step in plan.steps if isinstance(step, Execute))
    return "secondary" if "secondary" in role_of(plan.prior_state.state(node)) else "primary"


def _reason(report: Report) -> Reason:
    return next((evidence.kind for evidence in report.evidence.values()), "recorded")

"""The measures of a supervisor, as text that Prometheus reads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final, final, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    StateSetMetricFamily,
)
from prometheus_client.registry import Collector
from typing_extensions import override

from pycolo.evidence import Kind
from pycolo.plan import Procedure
from pycolo.reconcile import Want
from pycolo.supervise._events import PairStatus
from pycolo.supervise._measures import Histogram, Measures, Result, Survivor
from pycolo.supervise.table import Phase

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PAIR: Final = ("pair",)
_NODE: Final = ("pair", "node")
_USUAL: Final[tuple[Procedure, ...]] = ("launch", "start", "resume", "failover", "switch-over")
"The procedures that are shown, with the count 0, before they were ever due."
_JOINING: Final[frozenset[Procedure]] = frozenset({"start", "resume"})


def exposition(statuses: Sequence[PairStatus], measures: Sequence[Measures]) -> bytes:
    """All metrics as text; making it takes about a millisecond for each pair.

    Args:
        statuses: The status of each pair.
        measures: The measures of each pair.
    """
    registry = CollectorRegistry()
    registry.register(_Collector(statuses, measures))
    return generate_latest(registry)


@final
class _Collector(Collector):
    """Gives the metrics of all pairs to a registry that is made for one text."""

    def __init__(self, statuses: Sequence[PairStatus], measures: Sequence[Measures]) -> None:
        self._statuses = statuses
        self._measures = measures

    @override
    def collect(self) -> Iterator[Metric]:
        """Every metric of every pair."""
        yield from _of_statuses(self._statuses)
        yield from _counters(self._measures)
        yield from _histograms(self._measures)
        yield from _silences(self._measures)
        yield from _leases(self._measures)
        yield from _resyncs(self._measures)


def _of_statuses(statuses: Sequence[PairStatus]) -> Iterator[Metric]:
    phase = StateSetMetricFamily("pycolo_node_phase", "What a node is in.", labels=_NODE)
    want = StateSetMetricFamily("pycolo_pair_want", "What is wanted of a pair.", labels=_PAIR)
    epoch = GaugeMetricFamily(
        "pycolo_pair_epoch", "The epoch of a pair's latest record.", labels=_PAIR
    )
    protected = GaugeMetricFamily(
        "pycolo_pair_protected", "Whether each node of a pair may continue alone.", labels=_PAIR
    )
    person = GaugeMetricFamily(
        "pycolo_pair_person_needed", "Whether a person must act first.", labels=_PAIR
    )
    paused = GaugeMetricFamily("pycolo_pair_paused", "Whether supervision is paused.", labels=_PAIR)
    for status in statuses:
        for node, now in status.phases.items():
            states = {name: name == now for name in get_args(Phase)}
            phase.add_metric((status.pair, node), states)
        want.add_metric((status.pair,), {name: name == status.want for name in get_args(Want)})
        if status.record is not None:
            epoch.add_metric((status.pair,), status.record.epoch)
        protected.add_metric((status.pair,), int(status.is_protected))
        person.add_metric((status.pair,), int(bool(status.person)))
        paused.add_metric((status.pair,), int(status.paused is not None))
    yield from (phase, want, epoch, protected, person, paused)


def _counters(measures: Sequence[Measures]) -> Iterator[Metric]:
    lacking = CounterMetricFamily(
        "pycolo_pair_unprotected_seconds",
        "How long a pair was not known to be protected while that was wanted.",
        labels=_PAIR,
    )
    failovers = CounterMetricFamily(
        "pycolo_failovers",
        "Failovers that were done, by what the survivor was and what they rested on.",
        labels=("pair", "survivor", "reason"),
    )
    executions = CounterMetricFamily(
        "pycolo_executions",
        "Procedures that were due, by what came of them.",
        labels=("pair", "procedure", "result"),
    )
    # An event that has not happened yet is counted as 0: else `increase` does not see the first.
    reasons = (*get_args(Kind), "recorded")
    for one in measures:
        lacking.add_metric((one.pair,), one.unprotected_s)
        for kind in itertools.product(get_args(Survivor), reasons):
            failovers.add_metric((one.pair, *kind), one.failovers.get(kind, 0))
        for what in itertools.product(_USUAL, get_args(Result)):
            executions.add_metric((one.pair, *what), one.executions.get(what, 0))
        for what, count in one.executions.items():
            if what[0] not in _USUAL:
                executions.add_metric((one.pair, *what), count)
    yield from (lacking, failovers, executions)


def _histograms(measures: Sequence[Measures]) -> Iterator[Metric]:
    failover = HistogramMetricFamily(
        "pycolo_failover_duration_seconds",
        "From the beginning of a failover until the guest served again.",
        labels=_PAIR,
    )
    pause = HistogramMetricFamily(
        "pycolo_checkpoint_pause_seconds",
        "How long a checkpoint paused the primary's guest.",
        labels=_PAIR,
    )
    for one in measures:
        failover.add_metric((one.pair,), _buckets(one.failover), one.failover.sum_s)
        pause.add_metric((one.pair,), _buckets(one.checkpoint_pause), one.checkpoint_pause.sum_s)
    yield from (failover, pause)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    return [
        ("+Inf" if bound_s == float("inf") else repr(bound_s), count)
        for bound_s, count in histogram.cumulative
    ]


def _silences(measures: Sequence[Measures]) -> Iterator[Metric]:
    question = GaugeMetricFamily(
        "pycolo_node_question_age_seconds",
        "How long a node's QEMU has left the present question unanswered; 0 for none.",
        labels=_NODE,
    )
    gap = GaugeMetricFamily(
        "pycolo_checkpoint_age_max_seconds",
        "The longest time without a checkpoint, from the second checkpoint in COLO on.",
        labels=_PAIR,
    )
    longest = GaugeMetricFamily(
        "pycolo_node_question_age_max_seconds",
        "The longest that a node's QEMU has left a question unanswered.",
        labels=_NODE,
    )
    silent = GaugeMetricFamily(
        "pycolo_node_silence_max_seconds",
        "The longest that a node's QEMU has answered neither in nor out of band.",
        labels=_NODE,
    )
    checkpoint = GaugeMetricFamily(
        "pycolo_checkpoint_age_seconds",
        "How long ago the last checkpoint ended.",
        labels=_PAIR,
    )
    limit = GaugeMetricFamily(
        "pycolo_signal_limit_seconds",
        "How long a signal must last before it becomes a suspicion.",
        labels=("pair", "signal"),
    )
    for one in measures:
        silence = one.silence
        for node, age_s in silence.question_s.items():
            question.add_metric((one.pair, node), age_s)
            longest.add_metric((one.pair, node), silence.longest_question_s[node])
            silent.add_metric((one.pair, node), silence.longest_s[node])
        if silence.checkpoint_s is not None:
            checkpoint.add_metric((one.pair,), silence.checkpoint_s)
        if silence.longest_checkpoint_s is not None:
            gap.add_metric((one.pair,), silence.longest_checkpoint_s)
        for signal, limit_s in silence.limits_s.items():
            # Signals without a limit are a suspicion at once.
            if limit_s > 0.0:
                limit.add_metric((one.pair, signal), limit_s)
    yield from (question, longest, silent, checkpoint, gap, limit)


def _leases(measures: Sequence[Measures]) -> Iterator[Metric]:
    age = GaugeMetricFamily(
        "pycolo_lease_age_seconds",
        "How long ago the last renewal of the lease of this agent's node was sent.",
        labels=_PAIR,
    )
    longest = GaugeMetricFamily(
        "pycolo_lease_age_max_seconds",
        "The longest time between two renewals of that lease.",
        labels=_PAIR,
    )
    limit = GaugeMetricFamily(
        "pycolo_lease_limit_seconds", "How long that lease lasts.", labels=_PAIR
    )
    for one in measures:
        lease = one.silence.lease
        if lease is not None:
            age.add_metric((one.pair,), lease.age_s)
            longest.add_metric((one.pair,), lease.longest_s)
            limit.add_metric((one.pair,), lease.limit_s)
    yield from (age, longest, limit)


def _resyncs(measures: Sequence[Measures]) -> Iterator[Metric]:
    done = GaugeMetricFamily(
        "pycolo_resync_done_bytes", "How much a resync has copied in its step.", labels=_PAIR
    )
    total = GaugeMetricFamily(
        "pycolo_resync_total_bytes", "How much that step has to copy.", labels=_PAIR
    )
    left = GaugeMetricFamily(
        "pycolo_resync_left_seconds", "How long that step still takes at its rate.", labels=_PAIR
    )
    queued = GaugeMetricFamily(
        "pycolo_resync_queued", "Whether a resync waits until others have ended.", labels=_PAIR
    )
    for one in measures:
        queued.add_metric((one.pair,), int(one.is_queued))
        underway = one.underway
        if underway is None or underway.procedure not in _JOINING or not underway.total_bytes:
            continue
        done.add_metric((one.pair,), underway.done_bytes)
        total.add_metric((one.pair,), underway.total_bytes)
        if underway.left_s is not None:
            left.add_metric((one.pair,), underway.left_s)
    yield from (done, total, left, queued)

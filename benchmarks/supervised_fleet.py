"""Many pairs under one supervisor: what they cost at rest, and how soon it answers their deaths.

Unlike `fleet`, nobody tells of a death: the supervisor notices it, decides, and acts.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, final
from unittest import mock

import attrs
from typing_extensions import override

from benchmarks.compiling import declared
from benchmarks.fakes_apart import Apart, apart
from benchmarks.fleet import (
    AT_A_TIME,
    DEATHS,
    STALLED_S,
    WINDOW_S,
    figure,
    longest_stop,
    p99,
    rss_kib,
    with_goals,
)
from benchmarks.measure import Figure
from pycolo.observers import Observer
from pycolo.plan import Plan
from pycolo.result import Outcome
from pycolo.session._client import Client
from pycolo.supervise import Store, Supervisor, _open_files
from pycolo.supervise._keeper import OBSERVATION_S

SIZES: Final = (1, 10, 100, 1000)
SINGLES: Final = 50
LIMIT_S: Final = 60.0
POLL_S: Final = 0.05
_STATUSES_S: Final = 0.5
_SHORT_DELAY_MS: Final = 500
_SETTLED_S: Final = OBSERVATION_S + 5.0
_QUESTION: Final = '"query-status"'
GOALS: Final[Mapping[str, float]] = {
    "memory a pair": 100.0,
    "at rest, 20 s checkpoint delay": 25.0,
    "at rest, 0.5 s checkpoint delay": 25.0,
    "death to first command, p99": 20.0,
    "50 at once, first command p50": 40.0,
    "50 at once, all serving": 354.0,
}
"What a thousand pairs should cost at most, on two cores that do nothing else."


def run() -> list[Figure]:
    """Measure each size in turn."""
    _open_files.allow(max(SIZES))
    _open_files.check(max(SIZES))
    figures = [one for pairs in SIZES for one in asyncio.run(_measured(pairs))]
    return with_goals(figures, GOALS)


@final
class _Serving(Observer):
    """When the guest of each pair was served again."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        if plan.procedure == "failover" and address == plan.restored_after:
            self.at[plan.pair.name] = time.perf_counter()


@final
class _Heard:
    """When each session first sent a command that is no question, by clock and by processor."""

    def __init__(self) -> None:
        self.at: dict[Client, tuple[float, float]] = {}

    @contextmanager
    def listening(self) -> Generator[None]:
        """Note the first command of each session, while the block lasts."""
        issue = Client.issue

        def noted(client: Client, command: str, *, oob: bool = False) -> asyncio.Future[object]:
            if _QUESTION not in command:
                self.at.setdefault(client, (time.perf_counter(), time.process_time()))
            return issue(client, command, oob=oob)

        with mock.patch.object(Client, "issue", noted):
            yield


@final
@attrs.frozen
class _Kept:
    """A supervisor, and the fakes of its pairs."""

    supervisor: Supervisor
    fakes: Apart
    serving: _Serving
    heard: _Heard

    async def protected(self) -> None:
        """Wait until all pairs are, as long as one more of them becomes so now and then."""
        most, since_s = 0, time.monotonic()
        while (count := self._protected) < len(self.fakes.pairs):
            if count > most:
                most, since_s = count, time.monotonic()
            if time.monotonic() - since_s > STALLED_S:
                missing = [one for one in self.supervisor.statuses if not one.is_protected]
                why = f"{missing[0].pair}: {missing[0].person or missing[0].standing}"
                all_pairs = len(self.fakes.pairs)
                raise RuntimeError(f"{most} of {all_pairs} pairs are protected, no more; {why}")
            # A thousand statuses take a hundredth of a second.
            await asyncio.sleep(_STATUSES_S)

    @property
    def _protected(self) -> int:
        return sum(one.is_protected for one in self.supervisor.statuses)

    async def at_rest(self, delay_ms: int) -> list[Figure]:
        """What all pairs cost at rest while checkpoints come that often."""
        pairs, what = len(self.fakes.pairs), f"{delay_ms / 1000:g} s checkpoint delay"
        primaries = [(pair.name, self.nodes(pair.name)[0]) for pair in self.fakes.pairs]
        await self.fakes.set_delay(primaries, delay_ms)
        # The next round of each pair finds the other delay, and reads the whole pair.
        await asyncio.sleep(_SETTLED_S)
        fakes_s, cpu_s = await self.fakes.cpu_s(), time.process_time()
        await asyncio.sleep(WINDOW_S)
        own_s, theirs_s = time.process_time() - cpu_s, await self.fakes.cpu_s() - fakes_s
        return [
            figure(pairs, f"at rest, {what}", own_s / WINDOW_S * 100, "% of a core"),
            figure(pairs, f"the fakes, {what}", theirs_s / WINDOW_S * 100, "% of a core"),
        ]

    def nodes(self, name: str) -> tuple[str, str]:
        """The primary and the secondary of a pair."""
        first, second = self.supervisor.status(name).phases
        return first, second

    def survivor(self, name: str) -> Client:
        """What the supervisor sends to a pair's secondary with."""
        keeper = self.supervisor._kept_by(name)  # noqa: SLF001 - a look inside
        session = keeper._detector.session(self.nodes(name)[1])  # noqa: SLF001
        assert session is not None  # noqa: S101 - a protected pair is asked
        return session._client  # noqa: SLF001


@asynccontextmanager
async def _fleet(pairs: int) -> AsyncGenerator[_Kept]:
    async with AsyncExitStack() as stack:
        fakes = await stack.enter_async_context(apart(pairs))
        serving, heard = _Serving(), _Heard()
        store = stack.enter_context(Store(Path(stack.enter_context(TemporaryDirectory()))))
        hosts = {pair.name: fakes.hosts(pair) for pair in fakes.pairs}
        supervisor = Supervisor(fakes.pairs, hosts, store, observer=serving, resyncs=AT_A_TIME)
        await stack.enter_async_context(supervisor)
        kept = _Kept(supervisor, fakes, serving, heard)
        await kept.protected()
        yield kept


async def _measured(pairs: int) -> list[Figure]:
    before_kib, cpu_s, began_s = rss_kib(), time.process_time(), time.monotonic()
    async with _fleet(pairs) as kept:
        spent_s, took_s = time.process_time() - cpu_s, time.monotonic() - began_s
        figures = [
            figure(pairs, "until all are protected", took_s, "s"),
            figure(pairs, "set-up, CPU a pair", spent_s / pairs * 1000, "ms"),
            figure(pairs, "memory a pair", (rss_kib() - before_kib) / pairs, "KiB"),
            longest_stop(pairs, "longest stop for garbage"),
        ]
        gc.freeze()
        figures.append(longest_stop(pairs, "longest stop for garbage after gc.freeze"))
        # The declared delay, so that checkpoints come as often as the supervisor expects them.
        figures += await kept.at_rest(declared().checkpoint_delay_ms)
        figures += await _deaths(pairs, kept)
        await kept.protected()
        figures += await kept.at_rest(_SHORT_DELAY_MS)
        gc.unfreeze()
    return [attrs.evolve(one, benchmark="supervised-fleet") for one in figures]


async def _deaths(pairs: int, kept: _Kept) -> list[Figure]:
    names = [pair.name for pair in kept.fakes.pairs]
    found = []
    for name in names[:SINGLES]:
        found.append(await _death((name,), kept))
        await kept.protected()
    first_s = [one.first_s[0] for one in found]
    own_s = [one.first_cpu_s[0] for one in found]
    figures = [
        figure(pairs, f"{what} to first command, {part}", value_s * 1000, "ms", len(found))
        for what, seconds in (("death", first_s), ("own CPU from death", own_s))
        for part, value_s in (("p50", statistics.median(seconds)), ("p99", p99(seconds)))
    ]
    together = names[SINGLES:][:DEATHS]
    if together:
        many = await _death(together, kept)
        taken_s = {
            "first command p50": statistics.median(many.first_s),
            "last first command": max(many.first_s),
            "own CPU to the last first command": max(many.first_cpu_s),
            "all serving": max(many.served_s),
        }
        figures += [
            figure(pairs, f"{len(together)} at once, {what}", value_s * 1000, "ms", len(together))
            for what, value_s in taken_s.items()
        ]
    return figures


@final
@attrs.frozen(kw_only=True)
class _Death:
    """How soon deaths at one moment were answered, in seconds from it."""

    first_s: Sequence[float]
    served_s: Sequence[float]
    first_cpu_s: Sequence[float]
    "The time of the supervisor's processor until then."


async def _death(names: Sequence[str], kept: _Kept) -> _Death:
    victims = [(name, kept.nodes(name)[0]) for name in names]
    survivors = {name: kept.survivor(name) for name in names}
    kept.serving.at.clear()
    kept.heard.at.clear()
    with kept.heard.listening():
        cpu_s = time.process_time()
        ended_s = await kept.fakes.kill(victims)
        async with asyncio.timeout(LIMIT_S):
            while not kept.serving.at.keys() >= set(names):  # noqa: ASYNC110 - the same
                await asyncio.sleep(POLL_S)
    heard = {name: kept.heard.at[survivor] for name, survivor in survivors.items()}
    return _Death(
        first_s=[heard[name][0] - ended_s[name] for name in names],
        first_cpu_s=[heard[name][1] - cpu_s for name in names],
        served_s=[kept.serving.at[name] - ended_s[name] for name in names],
    )

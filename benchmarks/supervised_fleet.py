"""Many pairs under one supervisor: what they cost at rest, and how soon it answers their deaths.

Unlike `fleet`, nobody tells of a death: the supervisor notices it, decides, and acts.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
import tracemalloc
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, final

import attrs
from typing_extensions import override

from benchmarks.compiling import declared
from benchmarks.fleet import (
    AT_A_TIME,
    DEATHS,
    STALLED_S,
    TRACED,
    Fakes,
    at_rest,
    figure,
    longest_stop,
    p99,
    rss_kib,
    set_delay,
    set_up,
    with_goals,
    world_of,
)
from benchmarks.measure import Figure
from pycolo.observers import Observer
from pycolo.plan import Plan
from pycolo.result import Outcome
from pycolo.supervise import Store, Supervisor, _open_files
from pycolo.testing import FakeQemu, World

SIZES: Final = (1, 10, 100, 1000)
SINGLES: Final = 20
LIMIT_S: Final = 60.0
POLL_S: Final = 0.05
_STATUSES_S: Final = 0.5
_SHORT_DELAY_MS: Final = 500
GOALS: Final[Mapping[str, float]] = {
    "memory a pair, without its fakes": 100.0,
    "at rest, 20 s checkpoint delay": 25.0,
    "death to first command, p99": 20.0,
    "50 at once, first command p50": 40.0,
    "50 at once, all serving": 354.0,
}
"What a thousand pairs should cost at most, on two cores that do nothing else."


def run() -> list[Figure]:
    """Measure each size in turn, then tell the fakes' memory from the library's on a few pairs."""
    _open_files.allow(max(SIZES))
    _open_files.check(max(SIZES))
    figures = [one for pairs in SIZES for one in asyncio.run(_measured(pairs))]
    return with_goals([*figures, asyncio.run(_own_memory(TRACED))], GOALS)


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
@attrs.frozen
class _Kept:
    """A supervisor and the worlds of its pairs."""

    supervisor: Supervisor
    worlds: dict[str, World]
    serving: _Serving
    fakes: Fakes

    async def protected(self) -> None:
        """Wait until all pairs are, as long as one more of them becomes so now and then."""
        most, since_s = 0, time.monotonic()
        while (count := self._protected) < len(self.worlds):
            if count > most:
                most, since_s = count, time.monotonic()
            if time.monotonic() - since_s > STALLED_S:
                missing = [one for one in self.supervisor.statuses if not one.is_protected]
                why = f"{missing[0].pair}: {missing[0].person or missing[0].standing}"
                all_pairs = len(self.worlds)
                raise RuntimeError(f"{most} of {all_pairs} pairs are protected, no more; {why}")
            # A thousand statuses take a hundredth of a second.
            await asyncio.sleep(_STATUSES_S)

    @property
    def _protected(self) -> int:
        return sum(one.is_protected for one in self.supervisor.statuses)

    async def at_rest(self, delay_ms: int) -> list[Figure]:
        """What all pairs cost at rest while checkpoints come that often."""
        for name, world in self.worlds.items():
            set_delay(world, self.primary(name), delay_ms)
        what = f"{delay_ms / 1000:g} s checkpoint delay"
        return await at_rest(len(self.worlds), what, self.fakes)

    def kill(self, name: str) -> FakeQemu:
        """End the primary's QEMU of a pair; gives the other one."""
        holder, other = self._nodes(name)
        with self.fakes.timed():
            self.worlds[name].qemu(holder).kill()
        return self.worlds[name].qemu(other)

    def primary(self, name: str) -> FakeQemu:
        """The QEMU of a pair's primary."""
        return self.worlds[name].qemu(self._nodes(name)[0])

    def _nodes(self, name: str) -> tuple[str, str]:
        first, second = self.supervisor.status(name).phases
        return first, second


@asynccontextmanager
async def _fleet(pairs: int, fakes: Fakes) -> AsyncGenerator[_Kept]:
    serving, worlds = _Serving(), dict[str, World]()
    declarations = [attrs.evolve(declared(), name=f"pair{n}") for n in range(pairs)]
    async with AsyncExitStack() as stack:
        stack.enter_context(fakes.listening())
        ticking = asyncio.get_running_loop().create_task(fakes.tick())
        stack.callback(ticking.cancel)
        for pair in declarations:
            worlds[pair.name] = world_of(pair)
            fakes.add(worlds[pair.name])
        store = stack.enter_context(Store(Path(stack.enter_context(TemporaryDirectory()))))
        hosts = {pair.name: worlds[pair.name].hosts(pair) for pair in declarations}
        supervisor = Supervisor(declarations, hosts, store, observer=serving, resyncs=AT_A_TIME)
        await stack.enter_async_context(supervisor)
        kept = _Kept(supervisor, worlds, serving, fakes)
        await kept.protected()
        yield kept


async def _measured(pairs: int) -> list[Figure]:
    fakes, before_kib, cpu_s = Fakes(), rss_kib(), time.process_time()
    async with _fleet(pairs, fakes) as kept:
        figures = [
            set_up(pairs, time.process_time() - cpu_s, fakes),
            figure(pairs, "memory a pair, with its fakes", (rss_kib() - before_kib) / pairs, "KiB"),
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
    names = list(kept.worlds)
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
    "The processor's time until then, without the fakes and without other processes."


async def _death(names: Sequence[str], kept: _Kept) -> _Death:
    kept.serving.at.clear()
    kept.fakes.heard.clear()
    # Nothing is noticed before the event loop goes on, so the time begins when all have ended.
    survivors = [kept.kill(name) for name in names]
    began_s, own_s = time.perf_counter(), time.thread_time() - kept.fakes.spent_s
    async with asyncio.timeout(LIMIT_S):
        while not kept.serving.at.keys() >= set(names):  # noqa: ASYNC110 - the same
            await asyncio.sleep(POLL_S)
    heard = [kept.fakes.heard[survivor] for survivor in survivors]
    return _Death(
        first_s=[wall_s - began_s for wall_s, _ in heard],
        first_cpu_s=[cpu_s - own_s for _, cpu_s in heard],
        served_s=[kept.serving.at[name] - began_s for name in names],
    )


async def _own_memory(pairs: int) -> Figure:
    """What was allocated without a fake's code on the stack."""
    fakes = Fakes()
    async with _fleet(1, fakes):
        gc.collect()
        tracemalloc.start(25)
        async with _fleet(pairs, fakes):
            gc.collect()
            taken = tracemalloc.take_snapshot()
        tracemalloc.stop()
    own = [
        t for t in taken.traces if not any("/pycolo/testing/" in f.filename for f in t.traceback)
    ]
    kib = sum(trace.size for trace in own) / pairs / 1024
    found = figure(pairs, "memory a pair, without its fakes", kib, "KiB")
    return attrs.evolve(found, benchmark="supervised-fleet")

"""Many pairs in one process: what they cost at rest, and how soon their deaths are answered."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import statistics
import time
import tracemalloc
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, final
from unittest import mock

import attrs
from typing_extensions import override

from benchmarks.compiling import declared
from benchmarks.measure import Figure, timed_s
from pycolo.controller import PairController
from pycolo.evidence import Evidence
from pycolo.model import ColoPair
from pycolo.observers import Observer
from pycolo.plan import Plan
from pycolo.reconcile import Settled
from pycolo.result import Outcome
from pycolo.session import SchemaCache
from pycolo.supervise import _open_files
from pycolo.testing import FakeQemu, World
from pycolo.testing._colo import force_checkpoint
from pycolo.testing._monitor import Client, Monitor

SIZES: Final = (1, 10, 100, 1000)
DELAYS_MS: Final = (500, 20_000)
WINDOW_S: Final = 10.0
DEATHS: Final = 50
ROUNDS: Final = 12
AT_A_TIME: Final = 8
OBSERVATION_S: Final = 20.0
TICK_S: Final = 0.02
TRACED: Final = 10
STALLED_S: Final = 120.0
GOALS: Final[Mapping[str, float]] = {
    "memory a pair, without its fakes": 100.0,
    "at rest, 20 s checkpoint delay": 4.2,
    "at rest, 0.5 s checkpoint delay": 24.5,
    "death to first command, p50": 3.5,
    "death to first command, p99": 11.0,
    "50 at once, first command p50": 40.0,
    "50 at once, all serving": 354.0,
}
"What a thousand pairs should cost at most, on two cores that do nothing else."
QUESTION: Final = b'"query-status"'


def run() -> list[Figure]:
    """Measure each size in turn, then tell the fakes' memory from the library's on a few pairs."""
    _open_files.allow(max(SIZES))
    _open_files.check(max(SIZES))
    figures = asyncio.run(_nothing())
    for pairs in SIZES:
        figures += asyncio.run(_measured(pairs))
    return with_goals([*figures, asyncio.run(_own_memory(TRACED))], GOALS)


# -- the fakes, and what they cost themselves ----------------------------------------------------


@final
class Fakes:
    """The worlds of all pairs, their clock, and the time that is theirs."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.spent_s = 0.0
        "How long the fakes have worked."
        self.heard: dict[object, tuple[float, float]] = {}
        """Each QEMU to when it was first sent a command since this was cleared, by clock and CPU;
        a supervisor's questions are none."""
        self._worlds: list[World] = []

    def add(self, world: World) -> None:
        """Have a world's clock go."""
        world.advance(time.monotonic())
        self._worlds.append(world)

    async def tick(self) -> None:
        """Advance all clocks as real time passes, until cancelled."""
        while True:
            with self.timed():
                now_s = time.monotonic()
                for world in self._worlds:
                    world.advance(now_s - world.now_s)
            await asyncio.sleep(TICK_S)

    @contextmanager
    def timed(self) -> Generator[None]:
        """What happens inside is the fakes' work."""
        # The processor's time: whoever else is on the machine must not count as the fakes.
        started = time.thread_time()
        try:
            yield
        finally:
            self.spent_s += time.thread_time() - started

    @contextmanager
    def listening(self) -> Generator[None]:
        """Time what the fakes do with commands."""
        receive = Monitor.receive

        def timed(monitor: Monitor, client: Client, data: bytes) -> None:
            if QUESTION not in data:
                now = (time.perf_counter(), time.thread_time() - self.spent_s)
                self.heard.setdefault(monitor._qemu, now)  # noqa: SLF001 - a look inside
            with self.timed():
                receive(monitor, client, data)

        with mock.patch.object(Monitor, "receive", timed):
            yield


# -- the pairs ---------------------------------------------------------------------------------


@final
@attrs.define(eq=False)
class Kept:
    """One pair under its controller."""

    world: World
    controller: PairController
    served_at: float = 0.0
    "When its guest was served again, by the clock of `time.perf_counter`."

    def kill(self) -> tuple[FakeQemu, Evidence]:
        """End the primary's QEMU; gives the survivor's and the evidence."""
        victim, survivor = (node.name for node in self.controller.pair.nodes)
        (named,) = self.controller.armed[survivor].victims()
        self.world.qemu(victim).kill()
        evidence = Evidence.of(named, kind="exit", who="bench", how="it has ended", when="now")
        return self.world.qemu(survivor), evidence


def set_delay(world: World, primary: FakeQemu, delay_ms: int) -> None:
    """Have checkpoints come that often, from a moment of the pair's own on."""
    primary.live = attrs.evolve(primary.live, checkpoint_delay_ms=delay_ms)
    first_s = random.uniform(0, delay_ms / 1000)  # noqa: S311
    world.later(first_s, lambda: force_checkpoint(primary))


@final
class _Serving(Observer):
    """Notes when the guest of each pair is served again."""

    def __init__(self) -> None:
        self.pairs: dict[str, Kept] = {}

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        if plan.procedure == "failover" and address == plan.restored_after:
            self.pairs[plan.pair.name].served_at = time.perf_counter()


@asynccontextmanager
async def _fleet(pairs: int, fakes: Fakes) -> AsyncGenerator[list[Kept]]:
    """So many protected pairs."""
    serving, schemas = _Serving(), SchemaCache()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(fakes.listening())
        ticking = asyncio.get_running_loop().create_task(fakes.tick())
        stack.callback(ticking.cancel)
        places = asyncio.Semaphore(AT_A_TIME)
        for n in range(pairs):
            pair = attrs.evolve(declared(), name=f"pair{n}")
            world = world_of(pair)
            fakes.add(world)
            controller = PairController(pair, world.hosts(pair), observer=serving, schemas=schemas)
            await stack.enter_async_context(controller)
            serving.pairs[pair.name] = Kept(world, controller)
        await asyncio.gather(*(_protect(k.controller, places) for k in serving.pairs.values()))
        yield list(serving.pairs.values())


def world_of(pair: ColoPair) -> World:
    """The fakes of a pair, whose copies take no time."""
    world = World("11.1.3", ram_copy_s=0.0, disk_copy_s=0.0, commit_s=0.0)
    world.install(pair, pair.nodes[0].name)
    return world


async def _protect(controller: PairController, places: asyncio.Semaphore) -> None:
    async with places:
        for _ in range(ROUNDS):
            found = await controller.reconcile()
            if isinstance(found.step, Settled):
                # The round after a resync reads the whole pair, so the pair is not at rest yet.
                await controller.reconcile()
                return
            if found.report is not None:
                found.report.raise_on_failure()
    raise RuntimeError(f"{controller.pair.name} was not protected: {found}")


# -- measuring ---------------------------------------------------------------------------------


async def _nothing() -> list[Figure]:
    """What the loop and the clock of the fakes cost with no pair at all."""
    fakes = Fakes()
    async with _fleet(0, fakes):
        return await at_rest(0, "nothing", fakes)


async def _measured(pairs: int) -> list[Figure]:
    fakes, before_kib = Fakes(), rss_kib()
    cpu_s = time.process_time()
    async with _fleet(pairs, fakes) as fleet:
        figures = [
            set_up(pairs, time.process_time() - cpu_s, fakes),
            figure(pairs, "memory a pair, with its fakes", (rss_kib() - before_kib) / pairs, "KiB"),
            longest_stop(pairs, "longest stop for garbage"),
        ]
        gc.freeze()
        figures.append(longest_stop(pairs, "longest stop for garbage after gc.freeze"))
        for delay_ms in DELAYS_MS:
            for kept in fleet:
                primary = kept.world.qemu(kept.controller.pair.nodes[0].name)
                set_delay(kept.world, primary, delay_ms)
            figures += await at_rest(pairs, f"{delay_ms / 1000:g} s checkpoint delay", fakes)
        # With the default delay: half a second keeps a core half busy with events.
        figures += await _observing(pairs, fleet, fakes)
        figures += await _deaths(pairs, fleet, fakes)
        gc.unfreeze()
    return figures


def figure(pairs: int, what: str, value: float, unit: str, runs: int = 1) -> Figure:
    """A figure of so many pairs."""
    return Figure(benchmark="fleet", what=what, value=value, unit=unit, runs=runs, size=pairs)


def with_goals(figures: Sequence[Figure], goals: Mapping[str, float]) -> list[Figure]:
    """The figures of a thousand pairs with the most that they should be."""
    return [
        attrs.evolve(one, goal=f"at most {most:g}", ratio=one.value / most)
        if one.size == max(SIZES) and (most := goals.get(one.what))
        else one
        for one in figures
    ]


def set_up(pairs: int, cpu_s: float, fakes: Fakes) -> Figure:
    """What the processor did for a pair until it was protected, without the fakes."""
    return figure(pairs, "set-up, CPU a pair", (cpu_s - fakes.spent_s) / pairs * 1000, "ms")


def longest_stop(pairs: int, what: str) -> Figure:
    """How long the collector of garbage stops everything."""
    return figure(pairs, what, timed_s(gc.collect) * 1000, "ms")


async def at_rest(pairs: int, what: str, fakes: Fakes) -> list[Figure]:
    """What the processor does while nothing happens, without the fakes, and for these."""
    cpu_s, fakes_s = time.process_time(), fakes.spent_s
    await asyncio.sleep(WINDOW_S)
    spent, theirs = time.process_time() - cpu_s, fakes.spent_s - fakes_s
    return [
        figure(pairs, f"at rest, {what}", (spent - theirs) / WINDOW_S * 100, "% of a core"),
        figure(pairs, f"the fakes alone, {what}", theirs / WINDOW_S * 100, "% of a core"),
    ]


async def _observing(pairs: int, fleet: Sequence[Kept], fakes: Fakes) -> list[Figure]:
    """The same while each pair is kept as `examples/keep_protected.py` does it."""

    async def keep(controller: PairController, first_s: float) -> None:
        await controller.wait(first_s)
        while True:
            await controller.reconcile()
            await controller.wait(OBSERVATION_S)

    async with asyncio.TaskGroup() as group:
        keeping = [
            group.create_task(keep(kept.controller, random.uniform(0, OBSERVATION_S)))  # noqa: S311
            for kept in fleet
        ]
        figures = await at_rest(pairs, f"a look every {OBSERVATION_S:g} s", fakes)
        for task in keeping:
            task.cancel()
    return figures


async def _deaths(pairs: int, fleet: Sequence[Kept], fakes: Fakes) -> list[Figure]:
    places = asyncio.Semaphore(AT_A_TIME)
    await asyncio.gather(*(_protect(kept.controller, places) for kept in fleet))
    singles = fleet[: min(DEATHS, (pairs + 1) // 2)]
    together = fleet[len(singles) :][:DEATHS]
    found = [await _death((kept,), fakes) for kept in singles]
    first_s = [one.first_s[0] for one in found]
    figures = [
        figure(pairs, "death to first command, p50", *_median_ms(first_s)),
        figure(pairs, "death to first command, p99", p99(first_s) * 1000, "ms", len(first_s)),
        figure(pairs, "death to serving, p50", *_median_ms([d.served_s[0] for d in found])),
    ]
    if together:
        figures += _together(pairs, await _death(together, fakes))
    return figures


def _together(pairs: int, many: Death) -> list[Figure]:
    count = len(many.first_s)
    found_s = {
        "first command p50": statistics.median(many.first_s),
        "last first command": max(many.first_s),
        "all serving": max(many.served_s),
        "own CPU to the last first command": max(many.first_cpu_s),
        "own CPU in all": many.cpu_s - many.fakes_s,
        "CPU of the fakes": many.fakes_s,
    }
    return [
        figure(pairs, f"{count} at once, {what}", value_s * 1000, "ms", count)
        for what, value_s in found_s.items()
    ]


def _median_ms(seconds: Sequence[float]) -> tuple[float, str, int]:
    return statistics.median(seconds) * 1000, "ms", len(seconds)


def p99(seconds: Sequence[float]) -> float:
    """What all but one in a hundred stay below."""
    return statistics.quantiles(seconds, n=100)[-1] if len(seconds) > 1 else seconds[0]


@final
@attrs.frozen(kw_only=True)
class Death:
    """How soon some deaths at one moment were answered; in seconds from that moment."""

    first_s: Sequence[float]
    served_s: Sequence[float]
    first_cpu_s: Sequence[float]
    "The same in seconds of the processor, without the fakes and whoever else is on the machine."
    cpu_s: float
    "How long the processor worked until all reports were there."
    fakes_s: float
    "How long the fakes worked meanwhile."


async def _death(dying: Sequence[Kept], fakes: Fakes) -> Death:
    before_s = fakes.spent_s
    killed = [kept.kill() for kept in dying]
    fakes.heard.clear()
    began, began_cpu = time.perf_counter(), time.thread_time()
    own_cpu = began_cpu - fakes.spent_s
    reports = await asyncio.gather(
        *(k.controller.died(evidence) for k, (_, evidence) in zip(dying, killed, strict=True))
    )
    for report in reports:
        if report is None:
            raise RuntimeError("no failover was armed")
        report.raise_on_failure()
    return Death(
        first_s=[fakes.heard[survivor][0] - began for survivor, _ in killed],
        first_cpu_s=[fakes.heard[survivor][1] - own_cpu for survivor, _ in killed],
        cpu_s=time.thread_time() - began_cpu,
        served_s=[kept.served_at - began for kept in dying],
        fakes_s=fakes.spent_s - before_s,
    )


# -- memory ------------------------------------------------------------------------------------


def rss_kib() -> float:
    """The memory that this process uses."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


async def _own_memory(pairs: int) -> Figure:
    """What was allocated without a fake's code on the stack, after one pair more to warm up."""
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
    return figure(pairs, "memory a pair, without its fakes", kib, "KiB")

"""How long the guest is paused by the size of its RAM: while a pair is entered, and in checkpoints.

KVM and a BIOS guest, whose RAM is hardly touched: what grows with the RAM is then QEMU's own work
on every page, and what a host does to give it out (qemu-behaviour 22.5).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final, TypeAlias, final

import attrs

from benchmarks.measure import Figure, milliseconds
from benchmarks.pairs import NODES, LivePair, bios_pair
from pycolo.compiler import compile_plan
from pycolo.demo.builds import Release
from pycolo.model import MemoryBackend
from pycolo.qmp.events import ResumeEvent, StopEvent
from pycolo.session import Notice

RUNS = 3
LIMIT_S = 60.0
SIZES_MIB = (128, 2048)
PREALLOCATED = MemoryBackend(prealloc=True)
RING_SIZE = 4096
MOMENTS: Final = ("entry", "first checkpoint", "another checkpoint")
RESUME_GOAL_MS, CHECKPOINT_GOAL_MS = 150, 250
_Runs: TypeAlias = Mapping[str, Sequence[float]]


@final
@attrs.frozen(kw_only=True)
class Shape:
    """A release, and what is declared of the RAM."""

    release: Release
    backend: MemoryBackend | None = None
    ring_size: int | None = None
    channels: int | None = None
    words: str


SHAPES: Final = (
    Shape(release="7.2", words="as QEMU makes it"),
    Shape(release="7.2", backend=PREALLOCATED, words="prealloc"),
    Shape(release="10.0", words="as QEMU makes it"),
    Shape(release="10.0", backend=PREALLOCATED, words="prealloc"),
    Shape(release="11.1", channels=0, words="without multifd"),
    Shape(release="11.1", words="multifd"),
    Shape(release="11.1", backend=PREALLOCATED, words="multifd, prealloc"),
    Shape(
        release="11.1",
        backend=PREALLOCATED,
        ring_size=RING_SIZE,
        words="multifd, prealloc, dirty ring",
    ),
)


def run() -> list[Figure]:
    """Protect a guest, force a checkpoint and end the secondary, with little RAM and much."""
    figures: list[Figure] = []
    for shape in SHAPES:
        least, most = (asyncio.run(_measured(shape, size_mib)) for size_mib in SIZES_MIB)
        for moment in MOMENTS:
            figures += _figures(shape, moment, least, most)
    return figures


def _figures(shape: Shape, moment: str, least: _Runs, most: _Runs) -> list[Figure]:
    what = f"{moment}, {shape.release}, {shape.words}"
    goals = {"entry": RESUME_GOAL_MS, "first checkpoint": CHECKPOINT_GOAL_MS}
    goal = f"at most {goals[moment]}" if shape.ring_size and moment in goals else ""
    ratio = median(most[moment]) / median(least[moment])
    small, large = (
        milliseconds("ram", f"{what}, {size_mib} MiB", runs[moment])
        for size_mib, runs in zip(SIZES_MIB, (least, most), strict=True)
    )
    return [
        small,
        attrs.evolve(large, goal=goal),
        Figure(
            benchmark="ram",
            what=f"{what}, {SIZES_MIB[1]} MiB / {SIZES_MIB[0]} MiB",
            value=ratio,
            unit="",
            runs=RUNS,
        ),
    ]


async def _measured(shape: Shape, size_mib: int) -> _Runs:
    found: dict[str, list[float]] = {moment: [] for moment in MOMENTS}
    primary, secondary = NODES
    async with bios_pair(size_mib, shape.release) as living:
        machine = attrs.evolve(
            living.pair.machine, memory_backend=shape.backend, dirty_ring_size=shape.ring_size
        )
        migration = attrs.evolve(living.pair.migration, multifd_channels=shape.channels)
        # To take gigabytes from the host takes long on one that is busy.
        timeouts = attrs.evolve(living.pair.timeouts, command_s=LIMIT_S, connect_s=LIMIT_S)
        living.pair = attrs.evolve(
            living.pair,
            machine=machine,
            migration=migration,
            timeouts=timeouts,
            # The checkpoints that are timed are those that a plan forces.
            checkpoint_delay_ms=3_600_000,
        )
        await living.launch(primary)
        await living.cont(primary)
        for _ in range(RUNS):
            await living.launch(secondary)
            for moment, paused_s in zip(MOMENTS, await _pauses_s(living, primary), strict=True):
                found[moment].append(paused_s)
            await living.kill(secondary)
            await living.run("failover", survivor=primary)
    return found


async def _pauses_s(living: LivePair, primary: str) -> tuple[float, float, float]:
    """Resume, and force another checkpoint; how long each moment took, in seconds."""
    clock = _Clock()
    end = living.sessions[primary].subscribe(clock.note)
    await living.execute(compile_plan("resume", living.pair, await living.snapshot()))
    await living.run("checkpoint")
    end()
    # The copy of the disk ends with a pause of its own before the last one of the entry.
    *entry, first, another = clock.pauses_s
    return sum(entry), first, another


@final
class _Clock:
    """Takes the time of each pause."""

    def __init__(self) -> None:
        self.pauses_s: list[float] = []
        self._stopped_at: float | None = None

    def note(self, notice: Notice) -> None:
        """Take an event."""
        now = time.perf_counter()
        if isinstance(notice, StopEvent) and self._stopped_at is None:
            self._stopped_at = now
        if isinstance(notice, ResumeEvent) and self._stopped_at is not None:
            self.pauses_s.append(now - self._stopped_at)
            self._stopped_at = None

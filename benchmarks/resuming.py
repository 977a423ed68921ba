"""How long the guest is paused while its survivor gets a new secondary."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import final

from benchmarks.measure import Figure, milliseconds
from benchmarks.pairs import LivePair, bios_pair, linux_pair
from pycolo._execute import execute
from pycolo.compiler import compile_plan
from pycolo.plan import Plan
from pycolo.qmp.events import ResumeEvent, StopEvent
from pycolo.result import Done
from pycolo.session import Notice

RUNS = 5
MEMORIES_MIB = (128, 1024)


def run() -> list[Figure]:
    """Protect a running guest again and again, with little RAM and with much.

    With KVM it runs while its RAM is copied; under TCG it may not (qemu-behaviour 17.6, 17.11).
    """
    figures: list[Figure] = []
    for memory_mib in MEMORIES_MIB:
        figures += asyncio.run(
            _measured(f"KVM, BIOS guest, {memory_mib} MiB", bios_pair(memory_mib))
        )
        figures += asyncio.run(_measured(f"TCG, Linux, {memory_mib} MiB", linux_pair(memory_mib)))
    return figures


async def _measured(what: str, pair: AbstractAsyncContextManager[LivePair]) -> list[Figure]:
    paused_s: list[float] = []
    whole_s: list[float] = []
    async with pair as living:
        primary, secondary = (node.name for node in living.pair.nodes)
        await living.launch(primary)
        await living.boot(primary)
        for _ in range(RUNS):
            await living.launch(secondary)
            started = time.perf_counter()
            paused_s.append(await _resumed(living, primary))
            whole_s.append(time.perf_counter() - started)
            await living.kill(secondary)
            await living.run("failover", survivor=primary)
    return [
        milliseconds("resume", f"the guest is paused, {what}", paused_s),
        milliseconds("resume", f"the whole plan, {what}", whole_s),
    ]


async def _resumed(living: LivePair, primary: str) -> float:
    """Execute `resume`; how long the guest was paused until COLO was entered, in seconds."""
    plan = compile_plan("resume", living.pair, await living.snapshot())
    clock = _Clock()
    started = time.perf_counter()
    end = living.sessions[primary].subscribe(clock.note)
    entered_s = await _entered_after_s(living, plan)
    end()
    return clock.paused_s(started + entered_s)


async def _entered_after_s(living: LivePair, plan: Plan) -> float:
    """Execute a plan; after how long it had brought both guests into COLO."""
    report = await execute(plan, living.sessions, living.hosts)
    if report.failed is not None or plan.restored_after is None:
        raise RuntimeError(report.advice)
    taken_s = 0.0
    for address, outcome in report.outcomes.items():
        taken_s += outcome.took_s if isinstance(outcome, Done) else 0.0
        if address == plan.restored_after:
            break
    return taken_s


@final
class _Clock:
    """Remembers from when to when the guest was paused."""

    def __init__(self) -> None:
        self._stopped_at: float | None = None
        self._stops: list[tuple[float, float]] = []

    def note(self, notice: Notice) -> None:
        """Take an event."""
        now = time.perf_counter()
        if isinstance(notice, StopEvent) and self._stopped_at is None:
            self._stopped_at = now
        if isinstance(notice, ResumeEvent) and self._stopped_at is not None:
            self._stops.append((self._stopped_at, now))
            self._stopped_at = None

    def paused_s(self, entered: float) -> float:
        """The time it was paused in stops that began before COLO was entered, in seconds."""
        return sum(to - since for since, to in self._stops if since < entered)

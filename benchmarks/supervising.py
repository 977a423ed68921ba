"""From a fault until the guest runs again, with nobody at the keyboard.

Beside a script that knows of the death beforehand: it waits for the process that it has killed, and
sends its commands. The supervisor has to notice the death, to have it shown, and to write its
record, durably, before it does the same.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, final

from benchmarks.failing_over import script_commands
from benchmarks.measure import Figure, compared, milliseconds, undisturbed
from benchmarks.pairs import LivePair, bios_pair
from benchmarks.script import Script, observer_path
from pycolo.model import ColoPair
from pycolo.qmp.events import ResumeEvent
from pycolo.session import Notice, Session
from pycolo.supervise import Store, Supervisor, SupervisorEvent

RUNS: Final = 10
SILENT_RUNS: Final = 3
LIMIT_S: Final = 60.0
KINDS: Final = ("primary", "secondary")


def run() -> list[Figure]:
    """Kill each side in turn, then stop each side, and time the supervisor; then the script."""
    return asyncio.run(_measured())


async def _measured() -> list[Figure]:
    figures: list[Figure] = []
    async with bios_pair() as living, _kept(living) as watched:
        killed = await _faults(watched, signal.SIGKILL, RUNS)
        stopped = await _faults(watched, signal.SIGSTOP, SILENT_RUNS)
    async with bios_pair() as living:
        beside = await _by_script(living)
    for kind in KINDS:
        ours = (f"SIGKILL to RESUME, {kind} survives", killed[kind])
        figures += compared("supervise", ours, (f"script, {kind} survives", beside[kind]))
        what = f"SIGSTOP to RESUME, {kind} survives"
        figures.append(milliseconds("supervise", what, stopped[kind]))
    return figures


@final
class _Watched:
    """A pair under a supervisor, and the moments in which a guest resumed."""

    def __init__(self, pair: ColoPair, host: LivePair, supervisor: Supervisor) -> None:
        self.pair = pair
        self.living = host
        self._supervisor = supervisor
        self.resumed_s = 0.0

    def hear(self, notice: Notice) -> None:
        """Keep when the guest resumed last."""
        if isinstance(notice, ResumeEvent):
            self.resumed_s = time.perf_counter()

    async def protected(self) -> None:
        """Wait until both nodes are protected."""
        async with asyncio.timeout(LIMIT_S):
            while not self._is_protected():  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.05)
        # A fault inside the first checkpoints is another case.
        await asyncio.sleep(2.0)

    def _is_protected(self) -> bool:
        (status,) = self._supervisor.statuses
        return not status.is_busy and tuple(status.phases.values()) == ("protected",) * 2

    @property
    def primary(self) -> str:
        """Who is primary now."""
        (status,) = self._supervisor.statuses
        return next(iter(status.phases))

    async def fault(self, survivor: str, number: signal.Signals) -> float:
        """Send the peer a signal; how long until the survivor's guest runs alone."""
        peer = self.pair.peer_of(survivor).name
        victim = self.living.host.watch(self.pair, peer)
        if victim is None:
            raise RuntimeError(f"{peer} does not run")
        monitor = self.pair.node(survivor).observer_monitor
        async with await Session.connect(survivor, monitor, limit_s=LIMIT_S) as session:
            session.subscribe(self.hear)
            events = self._supervisor.events()
            waiting = asyncio.create_task(_failed_over(events))
            # Events are heard before the fault.
            await asyncio.sleep(0)
            began_s = time.perf_counter()
            os.kill(victim.pid, number)
            victim.close()
            async with asyncio.timeout(LIMIT_S):
                await waiting
            return self.resumed_s - began_s


async def _failed_over(events: AsyncGenerator[SupervisorEvent]) -> None:
    async for event in events:
        if event.report is not None and event.report.plan.procedure == "failover":
            break
    await events.aclose()


@asynccontextmanager
async def _kept(living: LivePair) -> AsyncGenerator[_Watched]:
    folder = Path(living.pair.nodes[0].state_dir).parent / "store"
    with Store(folder) as store:
        supervisor = Supervisor((living.pair,), {living.pair.name: living.hosts}, store)
        async with supervisor:
            yield _Watched(living.pair, living, supervisor)


async def _faults(watched: _Watched, number: signal.Signals, runs: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(runs):
        for kind, times_s in found.items():
            await watched.protected()
            primary = watched.primary
            survivor = primary if kind == "primary" else watched.pair.peer_of(primary).name
            times_s.append(await watched.fault(survivor, number))
    return found


async def _by_script(living: LivePair) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    primary, secondary = (node.name for node in living.pair.nodes)
    await living.launch(primary, secondary)
    await living.run("start")
    for _ in range(RUNS):
        for kind, times_s in found.items():
            survivor, peer = (primary, secondary) if kind == "primary" else (secondary, primary)
            times_s.append(await _scripted(living, survivor, peer, kind))
            await living.whole_again(survivor, peer)
            primary, secondary = survivor, peer
    return found


async def _scripted(living: LivePair, survivor: str, peer: str, kind: str) -> float:
    commands = await script_commands(living, survivor, kind)
    victim = living.host.watch(living.pair, peer)
    if victim is None:
        raise RuntimeError(f"{peer} does not run")
    with Script(observer_path(living.pair, survivor)) as script, undisturbed():
        began_s = time.perf_counter()
        os.kill(victim.pid, signal.SIGKILL)
        await victim.wait_ended()
        script.fail_over(commands)
        took_s = time.perf_counter() - began_s
    victim.close()
    await living.sessions.pop(peer).aclose()
    return took_s

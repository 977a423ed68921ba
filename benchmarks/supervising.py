"""From a fault until the guest runs again, with nobody at the keyboard.

Beside a script that knows of the death beforehand: it waits for the process that it has killed, and
sends its commands. The supervisor has to notice the death, to have it shown, and to write its
record, durably, before it does the same; what the disk takes for that is given apart. After a
silence, so are the limits that the pair declares.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final, final

import attrs
from typing_extensions import override

from benchmarks.dying import fitting_mib
from benchmarks.failing_over import script_commands
from benchmarks.measure import Figure, compared, milliseconds, undisturbed
from benchmarks.pairs import LivePair, bios_pair
from benchmarks.script import Script, observer_path
from pycolo.model import ColoPair, MemoryBackend, Supervision
from pycolo.observers import Observer
from pycolo.plan import Plan
from pycolo.qmp.events import ResumeEvent
from pycolo.result import Done, Report
from pycolo.session import Notice, Session
from pycolo.supervise import Store, Supervisor, SupervisorEvent

RUNS: Final = 20
SILENT_RUNS: Final = 5
RAM_MIB: Final = (128, 512, 2048, 8192)
RAM_RUNS: Final = 5
LIMIT_S: Final = 60.0
KINDS: Final = ("primary", "secondary")
AT_MOST: Final = 1.3
"What a supervisor may take of a script's time, its durable write not counted."
AFTER_LIMITS_MS: Final = 50.0
"How much longer than its declared limits and the evidence a silence may take, in milliseconds."


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
        figures += _after_a_death(kind, killed[kind], beside[kind])
        figures += _after_a_silence(kind, stopped[kind])
    return figures


def run_by_ram() -> list[Figure]:
    """Kill each side, with more RAM each time, all of it touched, as far as it fits."""
    sizes_mib = fitting_mib(RAM_MIB)
    return [figure for size_mib in sizes_mib for figure in asyncio.run(_by_ram(size_mib))]


async def _by_ram(size_mib: int) -> list[Figure]:
    async with bios_pair(size_mib) as living:
        machine = attrs.evolve(living.pair.machine, memory_backend=MemoryBackend(prealloc=True))
        living.pair = attrs.evolve(living.pair, machine=machine)
        async with _kept(living) as watched:
            killed = await _faults(watched, signal.SIGKILL, RAM_RUNS)
    figures = []
    for kind, faults in killed.items():
        one = milliseconds("supervise-ram", f"SIGKILL to RESUME, {kind} survives", _resumed(faults))
        figures.append(attrs.evolve(one, size=size_mib))
    return figures


def _after_a_death(kind: str, faults: Sequence[_Fault], script_s: Sequence[float]) -> list[Figure]:
    ours, rest = f"SIGKILL to RESUME, {kind} survives", "without its durable write"
    written_s = [one.written_s for one in faults]
    rest_s = [one.resumed_s - one.written_s for one in faults]
    by_script = (f"script, {kind} survives", script_s)
    return [
        milliseconds("supervise", ours, [one.resumed_s for one in faults]),
        milliseconds(
            "supervise",
            f"until the failover begins, {kind} survives",
            [one.begun_s for one in faults],
        ),
        milliseconds("supervise", f"its durable write, {kind} survives", written_s),
        *compared("supervise", (f"{rest}, {kind} survives", rest_s), by_script, at_most=AT_MOST),
    ]


def _after_a_silence(kind: str, faults: Sequence[_Fault]) -> list[Figure]:
    limits = Supervision()
    declared_s = limits.silent_s + (limits.primary_s if kind == "primary" else limits.secondary_s)
    # The evidence of a QEMU that is silent is that its host has ended it.
    evidence_s = [one.begun_s - declared_s for one in faults]
    failover = milliseconds("supervise", f"from then to RESUME, {kind} survives", _after(faults))
    return [
        milliseconds("supervise", f"SIGSTOP to RESUME, {kind} survives", _resumed(faults)),
        milliseconds("supervise", f"the declared limits, {kind} survives", [declared_s]),
        milliseconds(
            "supervise", f"after them, until the failover begins, {kind} survives", evidence_s
        ),
        attrs.evolve(
            failover,
            goal=f"at most {AFTER_LIMITS_MS:g}",
            ratio=failover.value / AFTER_LIMITS_MS,
        ),
    ]


def _resumed(faults: Sequence[_Fault]) -> list[float]:
    return [one.resumed_s for one in faults]


def _after(faults: Sequence[_Fault]) -> list[float]:
    return [one.resumed_s - one.begun_s for one in faults]


@final
@attrs.frozen(kw_only=True)
class _Fault:
    """What followed a fault, in seconds since it."""

    begun_s: float
    "When the failover began."
    resumed_s: float
    "When the guest ran again."
    written_s: float
    "How long the failover's record took to be on the disk."


@final
class _Begun(Observer):
    """Keeps when the last failover began."""

    def __init__(self) -> None:
        self.at_s = 0.0

    @override
    def plan_started(self, plan: Plan) -> None:
        if plan.procedure == "failover":
            self.at_s = time.perf_counter()


@final
class _Watched:
    """A pair under a supervisor, and the moments in which a guest resumed."""

    def __init__(
        self, pair: ColoPair, host: LivePair, supervisor: Supervisor, begun: _Begun
    ) -> None:
        self.pair = pair
        self.living = host
        self._supervisor = supervisor
        self._begun = begun
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

    async def fault(self, survivor: str, number: signal.Signals) -> _Fault:
        """Send the peer a signal; what follows, until the survivor's guest runs alone."""
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
                report = await waiting
            return _Fault(
                begun_s=self._begun.at_s - began_s,
                resumed_s=self.resumed_s - began_s,
                written_s=_written_s(report, survivor),
            )


async def _failed_over(events: AsyncGenerator[SupervisorEvent]) -> Report:
    async with aclosing(events):
        async for event in events:
            if event.report is not None and event.report.plan.procedure == "failover":
                return event.report
    raise RuntimeError("the supervisor has ended")


def _written_s(report: Report, survivor: str) -> float:
    """How long a failover's own record took to be on the disk, in seconds."""
    written = report.outcomes[f"{survivor}/record/sole"]
    if isinstance(written, Done):
        return written.took_s
    raise RuntimeError(f"the record was not written: {report.advice}")


@asynccontextmanager
async def _kept(living: LivePair) -> AsyncGenerator[_Watched]:
    folder = Path(living.pair.nodes[0].state_dir).parent / "store"
    with Store(folder) as store:
        hosts, begun = {living.pair.name: living.hosts}, _Begun()
        supervisor = Supervisor((living.pair,), hosts, store, observer=begun)
        async with supervisor:
            yield _Watched(living.pair, living, supervisor, begun)


async def _faults(watched: _Watched, number: signal.Signals, runs: int) -> dict[str, list[_Fault]]:
    found: dict[str, list[_Fault]] = {kind: [] for kind in KINDS}
    for _ in range(runs):
        for kind, faults in found.items():
            await watched.protected()
            primary = watched.primary
            survivor = primary if kind == "primary" else watched.pair.peer_of(primary).name
            faults.append(await watched.fault(survivor, number))
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

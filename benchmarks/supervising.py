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
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Final, final

import attrs
from typing_extensions import override

from benchmarks.dying import fitting_mib
from benchmarks.failing_over import script_commands
from benchmarks.measure import Figure, compared, milliseconds, undisturbed
from benchmarks.pairs import LivePair, bios_pair
from benchmarks.script import Script, observer_path
from pycolo.hosts.local import QemuWatch
from pycolo.model import ColoPair, MemoryBackend, Supervision
from pycolo.observers import Observer
from pycolo.plan import Plan
from pycolo.qmp.commands import Command
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
    async with bios_pair() as living, kept(living) as watched:
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
        async with kept(living) as watched:
            killed = await _faults(watched, signal.SIGKILL, RAM_RUNS)
    figures = []
    for kind, faults in killed.items():
        one = milliseconds("supervise-ram", f"SIGKILL to RESUME, {kind} survives", _resumed(faults))
        figures.append(attrs.evolve(one, size=size_mib))
    return figures


def _after_a_death(kind: str, faults: Sequence[Fault], script_s: Sequence[float]) -> list[Figure]:
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


def _after_a_silence(kind: str, faults: Sequence[Fault]) -> list[Figure]:
    limits = Supervision()
    declared_s = limits.silent_s + (limits.primary_s if kind == "primary" else limits.secondary_s)
    return after_limits("supervise", f"SIGSTOP to RESUME, {kind} survives", declared_s, faults)


def after_limits(
    benchmark: str, what: str, declared_s: float, faults: Sequence[Fault]
) -> list[Figure]:
    """What an outage is made of whose fault only limits show.

    Args:
        benchmark: The benchmark's name.
        what: From what to RESUME, and who survives.
        declared_s: How long the pair's limits let the fault last, in seconds.
        faults: What followed each fault.
    """
    fault, who = what.partition(" to ")[0], what.rpartition(", ")[2]
    # The evidence of a QEMU that may still run is that its host has ended it.
    evidence_s = [one.begun_s - declared_s for one in faults]
    failover_s = [one.resumed_s - one.begun_s for one in faults]
    failover = milliseconds(benchmark, f"{fault}: from then to RESUME, {who}", failover_s)
    return [
        milliseconds(benchmark, what, _resumed(faults)),
        milliseconds(benchmark, f"{fault}: the declared limits, {who}", [declared_s]),
        milliseconds(
            benchmark, f"{fault}: from the limits until the failover begins, {who}", evidence_s
        ),
        attrs.evolve(
            failover,
            goal=f"at most {AFTER_LIMITS_MS:g}",
            ratio=failover.value / AFTER_LIMITS_MS,
        ),
    ]


def _resumed(faults: Sequence[Fault]) -> list[float]:
    return [one.resumed_s for one in faults]


@final
@attrs.frozen(kw_only=True)
class Fault:
    """What followed a fault, in seconds since it."""

    at_s: float
    "When it struck, by the monotonic clock."
    survivor: str
    "Who runs alone: `primary` or `secondary`."
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
            self.at_s = time.monotonic()


@final
class Watched:
    """A pair under a supervisor, and the moments in which a guest resumed."""

    def __init__(
        self, pair: ColoPair, host: LivePair, supervisor: Supervisor, begun: _Begun
    ) -> None:
        self.pair = pair
        self.living = host
        self._supervisor = supervisor
        self._begun = begun
        self.resumed_s: dict[str, float] = {}
        self._heard = asyncio.Event()

    def hear(self, node: str, notice: Notice) -> None:
        """Keep when the guest of a node resumed last."""
        if isinstance(notice, ResumeEvent):
            self.resumed_s[node] = time.monotonic()
            self._heard.set()

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

    def survivor(self, kind: str) -> str:
        """The node that survives a fault of its peer.

        Args:
            kind: What it is: `primary` or `secondary`.
        """
        return self.primary if kind == "primary" else self.pair.peer_of(self.primary).name

    async def signal(self, survivor: str, number: signal.Signals) -> Fault:
        """Send the peer a signal; what follows, until the survivor's guest runs alone."""
        victim = running(self.living, self.pair.peer_of(survivor).name)
        with closing(victim):
            return await self.fault(lambda: os.kill(victim.pid, number))

    async def fault(self, strike: Callable[[], None], *, after_checkpoint: bool = False) -> Fault:
        """Have a fault strike; what follows, until a node's guest runs alone.

        Args:
            strike: Makes the fault.
            after_checkpoint: Strike as soon as the next checkpoint has ended.
        """
        primary = self.primary
        async with AsyncExitStack() as stack:
            for node in self.pair.nodes:
                session = await Session.connect(node.name, node.observer_monitor, limit_s=LIMIT_S)
                await stack.enter_async_context(session)
                session.subscribe(partial(self.hear, node.name))
            waiting = asyncio.create_task(_failed_over(self._supervisor.events()))
            # Events are heard before the fault.
            await asyncio.sleep(0)
            if after_checkpoint:
                self._heard.clear()
                async with asyncio.timeout(LIMIT_S):
                    await self._heard.wait()
            began_s = time.monotonic()
            strike()
            async with asyncio.timeout(LIMIT_S):
                report = await waiting
            survivor = report.plan.options.survivor
            if survivor is None:
                raise RuntimeError("nobody survived")
            return Fault(
                at_s=began_s,
                survivor="primary" if survivor == primary else "secondary",
                begun_s=self._begun.at_s - began_s,
                resumed_s=self.resumed_s[survivor] - began_s,
                written_s=_written_s(report, survivor),
            )


def running(living: LivePair, node: str) -> QemuWatch:
    """The QEMU of a node, by a handle that the caller closes.

    Raises:
        RuntimeError: None runs.
    """
    found = living.host.watch(living.pair, node)
    if found is None:
        raise RuntimeError(f"{node} does not run")
    return found


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
async def kept(living: LivePair) -> AsyncGenerator[Watched]:
    """A pair under a supervisor, from whatever it is; nobody else may have a session with it."""
    folder = Path(living.pair.nodes[0].state_dir).parent / "store"
    with Store(folder) as store:
        hosts, begun = {living.pair.name: living.hosts}, _Begun()
        supervisor = Supervisor((living.pair,), hosts, store, observer=begun)
        async with supervisor:
            yield Watched(living.pair, living, supervisor, begun)


async def _faults(watched: Watched, number: signal.Signals, runs: int) -> dict[str, list[Fault]]:
    found: dict[str, list[Fault]] = {kind: [] for kind in KINDS}
    for _ in range(runs):
        for kind, faults in found.items():
            await watched.protected()
            faults.append(await watched.signal(watched.survivor(kind), number))
    return found


async def _by_script(living: LivePair) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    primary, secondary = (node.name for node in living.pair.nodes)
    await living.launch(primary, secondary)
    await living.run("start")
    for _ in range(RUNS):
        for kind, times_s in found.items():
            survivor, peer = (primary, secondary) if kind == "primary" else (secondary, primary)
            commands = await script_commands(living, survivor, kind)
            _, took_s = await scripted(living, survivor, peer, commands)
            times_s.append(took_s)
            await living.whole_again(survivor, peer)
            primary, secondary = survivor, peer
    return found


async def scripted(
    living: LivePair, survivor: str, peer: str, commands: Sequence[Command]
) -> tuple[float, float]:
    """Kill a QEMU and send its peer commands, once it has ended.

    Returns:
        When it was killed, by the monotonic clock, and how long it took from then until the guest
        ran, in seconds.
    """
    victim = running(living, peer)
    with closing(victim), Script(observer_path(living.pair, survivor)) as script, undisturbed():
        began_s = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        await victim.wait_ended()
        script.fail_over(commands)
        took_s = time.monotonic() - began_s
    await living.sessions.pop(peer).aclose()
    return began_s, took_s

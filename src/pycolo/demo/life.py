"""The demonstration: a guest that stays in service while what is under it fails.

A supervisor gets the wish that a guest runs and is protected. Then QEMU processes are
killed or stopped, and the cable between the hosts is cut, one fault after another. The supervisor
gets no word of these faults: it notices each one, fails over to one of the QEMUs, and starts a new
secondary. Meanwhile a client sends requests to the guest and reports how long it waited.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final, TypeAlias, final

import attrs
from typing_extensions import override

from pycolo.demo.client import BUSY, DISK, IDLE, NEW, PING
from pycolo.demo.guests import READY_LINE, acknowledged_in_image
from pycolo.demo.listener import KEPT, Listener, UnreadDiskError, listening
from pycolo.demo.messages import Waited
from pycolo.demo.network import Cable
from pycolo.demo.report import Failover, Fault, LifeReport, Moment, Protection, Role, Span
from pycolo.demo.testbed import LifeError, Testbed, fetched, open_testbed
from pycolo.errors import PycoloError
from pycolo.hosts.local import LocalHost
from pycolo.observers import Observer
from pycolo.plan import CreateImage, Plan, Procedure, StopQemu
from pycolo.qmp.events import ResumeEvent, StopEvent
from pycolo.result import Outcome, Report
from pycolo.session import Notice, Session
from pycolo.supervise import Store, Supervisor

Progress: TypeAlias = Callable[[str], None]
STREAMS: Final = (PING, BUSY, *IDLE, DISK, NEW)

_CONNECT_S: Final = 10.0
_BOOT_S: Final = 90.0
_BACK_S: Final = 45.0
_DONE_S: Final = 60.0
"How long the supervisor may take for a launch, a resync or a failover."
_STOP_S: Final = 10.0
_POLL_S: Final = 0.05


@final
@attrs.frozen(kw_only=True)
class LifeOptions:
    """The faults of the demonstration, and the pair on which they are shown."""

    faults: tuple[Fault, ...] = ("stop primary", "cut cable", "kill primary")
    "The faults of the protected pair, in their order; a cable that cannot be cut is left out."
    protected_s: float = 6.0
    "How long the guest runs protected before each fault, in seconds."
    checkpoint_delay_ms: int = 2000
    "The longest time between two checkpoints, in milliseconds."
    disk_mib: int = 64
    "Size of the guest's disk in MiB, at least 16."
    may_isolate: bool = True
    "Use network namespaces if this process is root and the kernel permits them."
    card: str = "rtl8139"
    "QEMU's model of the guest's network card; `linux_guest` needs a driver for it."
    cache: Path | None = None
    "The folder that caches QEMU and the guest; `builds.default_cache()` if None."


def run(options: LifeOptions, progress: Progress) -> LifeReport:
    """Run the whole demonstration and remove everything it made; blocks for one or two minutes.

    Args:
        options: The faults and the pair.
        progress: Called with a line of text for each thing that is done.

    Returns:
        The report. If the demonstration ended early, its `error` says why.

    Raises:
        FetchError: QEMU or the guest could not be fetched or made; nothing was started.
        DeclarationError: pycolo does not support the network card; nothing was started.
        NetworkError: No network could be made; nothing was started.
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came; everything was removed.
    """
    with _terminable():
        programs = fetched(options.cache, progress)
        with open_testbed(
            programs,
            checkpoint_delay_ms=options.checkpoint_delay_ms,
            disk_mib=options.disk_mib,
            may_isolate=options.may_isolate,
            card=options.card,
        ) as testbed:
            report = asyncio.run(live(testbed, options, progress))
            return report if report.ok else attrs.evolve(report, logs=str(testbed.keep_logs()))


async def live(testbed: Testbed, options: LifeOptions, progress: Progress) -> LifeReport:
    """Run the whole demonstration on a testbed.

    Args:
        testbed: The testbed. The caller closes it, which ends the processes that an interrupt
            leaves.
        options: The faults and the pair.
        progress: Called with a line of text for each thing that is done.

    Returns:
        The report. If the demonstration ended early, its `error` says why.
    """
    life = _Life(testbed, progress)
    error: str | None = None
    try:
        async with life:
            await life.live(options)
    except PycoloError as caught:
        error = str(caught)
        progress(f"ended early: {error}")
    return life.report(options, error)


@contextmanager
def _terminable() -> Generator[None]:
    """Turn SIGTERM and SIGHUP into an interrupt during the block, so that its clean-up is done."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    # A shell starts background jobs with SIGINT ignored, and asyncio then installs no handler.
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        for number, handler in (*before.items(), (signal.SIGINT, interrupted)):
            signal.signal(number, handler)


@final
@attrs.frozen(kw_only=True)
class _Executed:
    """A plan that the supervisor executed, and the times of its steps."""

    report: Report
    started_s: float
    finished_s: float
    ended_s: Mapping[str, float]
    "Step address to the time at which the step ended."

    @property
    def plan(self) -> Plan:
        """The plan that was executed."""
        return self.report.plan

    @property
    def restored_s(self) -> float:
        """When the guest served again; the end of the last step if the plan never interrupts it."""
        return self.ended_s[self.plan.restored_after or self.plan.steps[-1].address]


@final
class _Clockwork(Observer):
    """An observer that notes when plans and their steps ended; only one plan runs at a time."""

    def __init__(self) -> None:
        self._executed: asyncio.Queue[_Executed] = asyncio.Queue()
        self._started_s = 0.0
        self._ended_s: dict[str, float] = {}

    @override
    def plan_started(self, plan: Plan) -> None:
        """Note the start of the plan."""
        self._started_s, self._ended_s = time.monotonic(), {}

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        """Note the end of the step."""
        self._ended_s[address] = time.monotonic()

    @override
    def plan_finished(self, report: Report) -> None:
        """Queue the plan with its times."""
        executed = _Executed(
            report=report,
            started_s=self._started_s,
            finished_s=time.monotonic(),
            ended_s=self._ended_s,
        )
        self._executed.put_nowait(executed)

    async def next(self, procedure: Procedure) -> _Executed:
        """Wait until a plan of this procedure has been executed completely; skip all other plans.

        Raises:
            LifeError: No such plan was completed within 60 s.
        """
        why = ""
        try:
            async with asyncio.timeout(_DONE_S):
                while True:
                    found = await self._executed.get()
                    if found.plan.procedure == procedure and found.report.failed is None:
                        return found
                    why = f"; the last plan: {found.report.advice}"
        except TimeoutError as error:
            raise LifeError(f"no {procedure} within {_DONE_S:g} s{why}") from error


@final
class _Qemu:
    """When one QEMU stopped and resumed its guest, from the events of its observer monitor."""

    def __init__(self, session: Session) -> None:
        self.session: Final = session
        self.stopped_s: list[float] = []
        self.resumed_s: list[float] = []
        self._unsubscribe = session.subscribe(self._note)

    def _note(self, notice: Notice) -> None:
        match notice:
            case StopEvent():
                self.stopped_s.append(time.monotonic())
            case ResumeEvent():
                self.resumed_s.append(time.monotonic())
            case _:
                pass

    def stops(self, from_s: float, to_s: float) -> tuple[float, ...]:
        """How long the guest was paused, for each pause that began in a span of time.

        Args:
            from_s: The beginning of the span, by the monotonic clock.
            to_s: The end of the span; a pause that has not ended is counted up to it.
        """
        ends = [
            (began, next((at for at in self.resumed_s if at > began), to_s))
            for began in self.stopped_s
            if from_s <= began < to_s
        ]
        return tuple(end - began for began, end in ends)

    async def aclose(self) -> None:
        """Close the session; the QEMU is left as it is."""
        self._unsubscribe()
        await self.session.aclose()


@final
class _Life:
    """One run of the demo."""

    def __init__(self, testbed: Testbed, progress: Progress) -> None:
        self._testbed = testbed
        self._pair = testbed.pair
        # Both hosts are this machine, whatever addresses they have in their network namespaces.
        self._host = LocalHost()
        self._hosts = {node.name: self._host for node in testbed.pair.nodes}
        self._progress = progress
        self._begun_s = time.monotonic()
        self._stack = AsyncExitStack()
        self._qemus: dict[str, _Qemu] = {}
        self._protected_s = 0.0
        self._clockwork = _Clockwork()
        self._listener = Listener()
        self._roles: dict[str, tuple[Role, float]] = {}
        self._spans: list[Span] = []
        self._moments: list[Moment] = []
        self._protections: list[Protection] = []
        self._failovers: list[Failover] = []
        self._lost_writes: int | None = None

    async def __aenter__(self) -> None:
        self._stack.push_async_callback(self._disconnect)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        for node in tuple(self._roles):
            self._becomes(node, None)

    async def _disconnect(self) -> None:
        for qemu in self._qemus.values():
            await qemu.aclose()

    async def live(self, options: LifeOptions) -> None:
        """Run all parts of the demonstration in order.

        Raises:
            PycoloError: A part failed, so that the demonstration cannot continue.
        """
        primary = self._pair.nodes[0].name
        await self._make_disks(primary)
        store = self._stack.enter_context(Store(self._testbed.folder / "store"))
        supervisor = Supervisor(
            (self._pair,), {self._pair.name: self._hosts}, store, observer=self._clockwork
        )
        store.want(self._pair.name, "unprotected")
        await self._stack.enter_async_context(supervisor)
        await self._booted(primary)
        await self._listen(primary)
        store.want(self._pair.name, "protected")
        await self._protected(primary)
        for n, fault in enumerate(self._faults(options)):
            if n:
                await self._protected(primary)
            await self._rest(options.protected_s)
            primary = await self._strike(primary, fault)
        await self._end(primary)

    # -- messages

    def _now_s(self) -> float:
        return time.monotonic() - self._begun_s

    def _say(self, text: str, *, at_s: float | None = None) -> None:
        moment = Moment(at_s=self._now_s() if at_s is None else at_s - self._begun_s, text=text)
        self._moments.append(moment)
        self._progress(f"{moment.at_s:7.2f} s  {text}")

    def _becomes(self, node: str, role: Role | None, *, at_s: float | None = None) -> None:
        now_s = self._now_s() if at_s is None else at_s - self._begun_s
        if node in self._roles:
            before, since_s = self._roles.pop(node)
            self._spans.append(Span(node=node, role=before, from_s=since_s, to_s=now_s))
        if role is not None:
            self._roles[node] = (role, now_s)

    # -- parts of the demonstration

    async def _booted(self, node: str) -> None:
        await self._clockwork.next("launch")
        self._becomes(node, "alone")
        end_s = time.monotonic() + _BOOT_S
        while READY_LINE not in self._testbed.serial_text(node):
            if time.monotonic() > end_s:
                raise LifeError(f"the guest on {node} was not up within {_BOOT_S:g} s")
            await asyncio.sleep(_POLL_S)
        await self._connect_observer(node)
        self._say(f"the guest is up on {node}, alone")

    async def _connect_observer(self, node: str) -> None:
        """Follow the events of a QEMU on its observer monitor; the supervisor has the other one."""
        before = self._qemus.pop(node, None)
        if before is not None:
            await before.aclose()
        monitor = self._pair.node(node).observer_monitor
        self._qemus[node] = _Qemu(await Session.connect(node, monitor, limit_s=_CONNECT_S))

    async def _make_disks(self, name: str) -> None:
        node = self._pair.node(name)
        for disk in self._pair.disks:
            path = node.image_path(disk.image)
            size = str(disk.size_bytes)
            argv = (node.qemu_img_binary, "create", "-f", disk.image_format, path, size)
            action = CreateImage(
                path=path, image_format=disk.image_format, size_bytes=disk.size_bytes, argv=argv
            )
            limit_s = self._pair.timeouts.command_s
            await self._host.run(self._pair, name, action, limit_s=limit_s)

    async def _listen(self, node: str) -> None:
        service = self._testbed.network.places[node].service
        log = self._testbed.folder / "client.log"
        self._listener = await self._stack.enter_async_context(
            listening(self._testbed.network, service, log)
        )
        if not await self._listener.until(lambda: self._listener.answered_since(0.0), _BACK_S):
            raise LifeError(f"the client reached not all of the guest within {_BACK_S:g} s")
        self._say(f"the client has {len(KEPT)} connections and writes to the disk")

    async def _rest(self, rest_s: float) -> None:
        await self._listener.until(lambda: False, rest_s)

    # -- protection

    async def _protected(self, primary: str) -> None:
        """Wait until the supervisor has added a secondary, and note how long that took."""
        secondary = self._pair.peer_of(primary).name
        launched = await self._clockwork.next("launch")
        began_s, launched_s = launched.started_s, launched.finished_s
        self._becomes(secondary, "joining", at_s=began_s)
        self._say(f"the supervisor has launched a QEMU on {secondary}")
        joined = await self._clockwork.next("resume")
        protected_s, done_s = joined.restored_s, joined.finished_s
        self._protected_s = done_s
        await self._connect_observer(secondary)
        self._becomes(primary, "primary", at_s=protected_s)
        self._becomes(secondary, "secondary", at_s=protected_s)
        self._protections.append(
            Protection(
                primary=primary,
                secondary=secondary,
                at_s=began_s - self._begun_s,
                launched_s=launched_s - began_s,
                protected_s=protected_s - launched_s,
                proven_s=done_s - protected_s,
                stops_s=self._qemus[primary].stops(launched_s, protected_s),
                waits_s=self._worst(began_s, protected_s),
                steps=len(joined.plan.steps),
            )
        )
        self._say(f"protected: {primary} with {secondary}, proven by a checkpoint")

    def _worst(self, from_s: float, to_s: float) -> dict[str, float]:
        found = {stream: self._listener.worst(stream, from_s, to_s) for stream in STREAMS}
        return {stream: wait.took_s for stream, wait in found.items() if wait is not None}

    # -- failover

    async def _strike(self, primary: str, fault: Fault) -> str:
        """Let a fault happen, wait for the failover, and note what the client saw.

        Args:
            primary: The node that is the primary.
            fault: What happens, and to what.

        Returns:
            The node that runs the guest afterwards.
        """
        before = self._listener.connections()
        served = self._qemus[primary]
        struck_s, what = await self._happens(primary, fault)
        failover = await self._clockwork.next("failover")
        survivor, restored_s = failover.plan.options.survivor, failover.restored_s
        assert survivor is not None  # noqa: S101 - every failover has one
        victim = self._pair.peer_of(survivor).name
        cable = self._cable_of(fault)
        if cable is not None:
            await asyncio.to_thread(cable.mend)
        self._becomes(victim, None, at_s=struck_s if cable is None else failover.started_s)
        self._becomes(survivor, "alone", at_s=restored_s)
        self._say(what, at_s=struck_s)
        self._say(f"the supervisor knows that {victim} has ended", at_s=failover.started_s)
        self._say(f"{survivor} runs alone", at_s=restored_s)
        await self._back(survivor, restored_s)
        survived = self._survived(before)
        outages_s = self._worst(struck_s, time.monotonic())
        acknowledged, missing = await self._read_back()
        self._failovers.append(
            Failover(
                fault=fault,
                victim=victim,
                survivor=survivor,
                at_s=struck_s - self._begun_s,
                seen_s=failover.started_s - struck_s,
                resumed_s=self._resumed(survivor, struck_s, restored_s),
                restored_s=restored_s - struck_s,
                finished_s=failover.finished_s - struck_s,
                outages_s=outages_s,
                connections=len(before),
                survived=survived,
                acknowledged=acknowledged,
                missing=missing,
                checkpoints=len(served.stops(self._protected_s, struck_s)),
                protected_s=struck_s - self._protected_s,
                steps=len(failover.plan.steps),
            )
        )
        return survivor

    async def _read_back(self) -> tuple[int, int | None]:
        """Read the disk through the guest; gives the acknowledged writes, and how many it lacks.

        What the guest answers is reported and not judged: programs of a guest that is promoted
        under TCG may break (qemu-behaviour 1.12). What was lost is counted in the image at the end.
        """
        try:
            reading = await self._listener.read_back()
        except UnreadDiskError as error:
            acknowledged = self._listener.state.acknowledged
            self._say(f"{acknowledged} writes acknowledged; {error}")
            return acknowledged, None
        missing = f"{reading.missing} not read back" if reading.missing else "all read back"
        self._say(f"{reading.acknowledged} writes acknowledged, {missing}")
        return reading.acknowledged, reading.missing

    async def _happens(self, primary: str, fault: Fault) -> tuple[float, str]:
        """Kill or stop a QEMU, or cut the cable; gives when, and what has happened."""
        cable = self._cable_of(fault)
        if cable is not None:
            struck_s = time.monotonic()
            await asyncio.to_thread(cable.cut)
            return struck_s, "the cable between the hosts is cut"
        how, _, role = fault.partition(" ")
        victim = primary if role == "primary" else self._pair.peer_of(primary).name
        number = signal.SIGKILL if how == "kill" else signal.SIGSTOP
        dying = self._host.watch(self._pair, victim)
        if dying is None:
            raise LifeError(f"QEMU on {victim} does not run")
        struck_s = time.monotonic()
        os.kill(dying.pid, number)
        dying.close()
        return struck_s, f"{number.name} to the {role}, on {victim}"

    def _cable_of(self, fault: Fault) -> Cable | None:
        """The cable that a fault cuts; None for a fault of a QEMU."""
        return self._testbed.network.cable if fault == "cut cable" else None

    def _faults(self, options: LifeOptions) -> tuple[Fault, ...]:
        """The faults that can happen here."""
        can_cut = self._testbed.network.cable is not None
        return tuple(fault for fault in options.faults if can_cut or fault != "cut cable")

    def _resumed(self, survivor: str, struck_s: float, restored_s: float) -> float | None:
        resumes = self._qemus[survivor].resumed_s
        found = [at_s - struck_s for at_s in resumes if struck_s < at_s <= restored_s]
        return found[-1] if found else None

    async def _back(self, survivor: str, restored_s: float) -> None:
        if not self._testbed.network.isolated:
            await self._listener.go_to(self._testbed.network.places[survivor].service)
        if not await self._listener.until(
            lambda: self._listener.answered_since(restored_s), _BACK_S
        ):
            late = sorted(
                name
                for name, counters in self._listener.state.streams.items()
                if counters.last_s <= restored_s
            )
            self._say(f"no answer within {_BACK_S:g} s: {', '.join(late)}")

    def _survived(self, before: Mapping[str, int]) -> int:
        after = self._listener.connections()
        return sum(after[name] == number for name, number in before.items())

    # -- the end

    async def _end(self, node: str) -> None:
        """End the guest, and count the acknowledged writes that its image does not hold."""
        await self._stack.aclose()
        acknowledged = self._listener.state.acknowledged
        place = self._pair.node(node)
        running = self._host.watch(self._pair, node)
        if running is not None:
            action = StopQemu(instance=running.instance)
            await self._host.run(self._pair, node, action, limit_s=_STOP_S)
            running.close()
        self._becomes(node, None)
        found = acknowledged_in_image(
            Path(place.image_path(self._pair.disks[0].image)), self._testbed.programs.build.qemu_img
        )
        self._lost_writes = sum(n not in found for n in range(1, acknowledged + 1))
        self._say(f"the image of {node} lacks {self._lost_writes} of {acknowledged} writes")

    def report(self, options: LifeOptions, error: str | None) -> LifeReport:
        """Make the report of all that was seen until now.

        It may be made at any time, also after an error: what did not happen is missing from its
        tuples, and `failovers_wanted` says how many failovers there should have been. Lost writes
        are counted after the guest was ended; before that, `lost_writes` is None.

        Args:
            options: The options that the demonstration was run with.
            error: Why it ended early; None if it did not.
        """
        waits = tuple(
            Waited(
                stream=wait.stream,
                from_s=wait.from_s - self._begun_s,
                to_s=wait.to_s - self._begun_s,
            )
            for wait in self._listener.waits
        )
        return LifeReport(
            qemu=self._testbed.programs.build.version,
            checkpoint_delay_ms=options.checkpoint_delay_ms,
            isolated=self._testbed.network.isolated,
            not_shown=self._testbed.not_shown,
            failovers_wanted=len(self._faults(options)),
            protections=tuple(self._protections),
            failovers=tuple(self._failovers),
            spans=tuple(self._spans),
            moments=tuple(sorted(self._moments, key=lambda moment: moment.at_s)),
            waits=waits,
            took_s=self._now_s(),
            acknowledged=self._listener.state.acknowledged,
            lost_writes=self._lost_writes,
            error=error,
            logs=None,
        )

"""Run procedures on a live pair: reach the hosts, read nodes and records, compile and execute.

This module only reads the state and calls other modules; the compiler alone decides what to do. The
command line is a thin layer over this module, and scripts can call it in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import AsyncExitStack
from typing import Final, final

import attrs

from pycolo import compiler
from pycolo._execute import execute
from pycolo._preflight import preflight
from pycolo._probe import probe, with_latched
from pycolo.errors import Busy, ConnectionFailed, RemoteError
from pycolo.errors import Unresponsive as UnresponsiveError
from pycolo.evidence import Evidence, Victim, instance_of
from pycolo.findings import Finding
from pycolo.hosts import Host
from pycolo.hosts.requests import now
from pycolo.hosts.ways import hosts_of
from pycolo.model import ColoPair, Node
from pycolo.observers import Observer, Recorder
from pycolo.pace import Checkpoint
from pycolo.plan import (
    DialectName,
    Execute,
    LaunchQemu,
    Options,
    Plan,
    Procedure,
    RunHost,
    Wait,
)
from pycolo.qmp.events import ColoExitEvent, QuorumReportBadEvent, ResumeEvent, StopEvent
from pycolo.qmp.replies import Version
from pycolo.result import Report
from pycolo.session import HungUp, Notice, Session
from pycolo.snapshot import Dead, NodeState, Snapshot, Unreachable, Unresponsive

CONNECT_S: Final = 5.0
HOST_S: Final = 5.0
# After the first node has answered, the others have this long to answer.
LATER_S: Final = 1.0
SILENT: Final = "it did not answer within a second of the others"
VERSION_S: Final = 10.0
# QEMU sends QUORUM_REPORT_BAD for one block node at most once a second.
LISTEN_S: Final = 1.1
# The procedures before which a preflight is made.
PREFLIGHTED: Final[tuple[Procedure, ...]] = ("launch", "start", "resume")
# Procedures that do not wait for the node that they continue without.
WITHOUT_PEER: Final[tuple[Procedure, ...]] = ("failover", "forget")


@final
@attrs.frozen(kw_only=True)
class Fenced:
    """An operator's statement that a node's QEMU has ended."""

    who: str
    """The person who made sure that the QEMU has ended.

    It must not be empty, and must be printable; a method that compiles with it checks that.
    """
    how: str
    "How the person made sure: power switched off, host rebooted ...; checked as `who` is."


# -- procedures -----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def connect(
    pair: ColoPair, *, dialect: DialectName = "auto", assume_good: Collection[Version] = ()
) -> AsyncGenerator[Connection]:
    """Connect to the hosts and the control monitors of a pair's nodes; close them at the end.

    Entering the context does not wait for the nodes: the first procedure does.

    Args:
        pair: The declaration.
        dialect: The dialect of all plans that are compiled: `auto` or `doc`.
        assume_good: QEMU versions that the operator vouches for.

    Yields:
        The connection, for one procedure.

    Raises:
        ModuleNotFoundError: A node is declared with `ssh`, and the extra `ssh` is not installed.
    """
    async with hosts_of(pair) as hosts:
        connection = Connection(pair, hosts, dialect=dialect, assume_good=tuple(assume_good))
        try:
            yield connection
        finally:
            await connection.aclose()


@final
class Connection:
    """The hosts and nodes of one pair. Each procedure is a method that compiles its plan.

    Made by `connect`, for one procedure: a node that did not answer is not asked again. Compiling
    changes nothing; `execute` executes a plan. Every method that compiles raises `RefusedError` if
    there is no safe way to the goal or a person must decide, `DeclarationError` if a name is not
    one of the pair's nodes, and `Busy` if another client holds the control monitor of a node on
    which the plan acts. The connection can be used after such an error.
    """

    def __init__(
        self,
        pair: ColoPair,
        hosts: Mapping[str, Host],
        *,
        dialect: DialectName,
        assume_good: tuple[Version, ...],
    ) -> None:
        self._pair = pair
        self._hosts = hosts
        self._dialect = dialect
        self._assume_good = assume_good
        self._reached: _Reached | None = None
        loop = asyncio.get_running_loop()
        self._connecting = {
            node.name: loop.create_task(_connect(node, hosts[node.name])) for node in pair.all_nodes
        }

    async def launch(self, *, nodes: Collection[str] = (), newest: str | None = None) -> Plan:
        """Compile `pycolo.launch`, with QEMU's versions from the hosts and random identities.

        Args:
            nodes: The nodes to launch; if empty, the two that `pycolo.launch` chooses.
            newest: The node that holds the newest data, by an operator's statement; None if there
                is no such statement.

        Raises:
            HostRefused: A host cannot be reached, or its QEMU is missing, fails, or prints no
                version. Nothing was changed.
            CommandUnknown: A host gave no answer. Nothing was changed.
        """
        reached = await self._reach(without_peer=False)
        snapshot = await self._probe(reached)
        compiler.check_members(self._pair, snapshot)
        names = tuple(nodes) or tuple(n.name for n in compiler.members(self._pair, snapshot).nodes)
        absent = [name for name in names if snapshot.live(self._pair.node(name).name) is None]
        asked = [self._hosts[name].version(self._pair, name, limit_s=VERSION_S) for name in absent]
        versions = dict(zip(absent, await asyncio.gather(*asked), strict=True))
        live = {name: state.version for name in names if (state := snapshot.live(name)) is not None}
        options = Options(
            nodes=tuple(nodes),
            newest=newest,
            qemu={**versions, **live},
            instances={
                name: instance_of(self._pair.name, name, secrets.randbits(32)) for name in absent
            },
            birth=secrets.token_hex(4),
            assume_good=self._assume_good,
        )
        plan = self._plan("launch", snapshot, options)
        reached.refuse_busy(plan)
        return plan

    async def start(self, *, peer: str | None = None) -> Plan:
        """Compile `pycolo.start`.

        Args:
            peer: The node that shall protect the guest; None for the one that the record names.
        """
        return await self._compile("start", Options(peer=peer))

    async def resume(self, *, peer: str | None = None) -> Plan:
        """Compile `pycolo.resume`.

        Args:
            peer: The node that shall protect the guest; None for the one that the record names.
        """
        return await self._compile("resume", Options(peer=peer))

    async def converge(self, *, peer: str | None = None) -> Plan:
        """Compile `pycolo.converge`.

        Args:
            peer: The node that shall protect the guest; None for the one that the record names.
        """
        return await self._compile("converge", Options(peer=peer))

    async def failover(self, *, survivor: str | None = None, fenced: Fenced | None = None) -> Plan:
        """Compile `pycolo.failover`; once one node has answered, the other has a second left.

        Args:
            survivor: The node that survives; None for the one that answers.
            fenced: An operator's statement that the other node's QEMU has ended; the plan is not
                executed if that QEMU or its host shows that it runs. None if there is no such
                statement: then the other node's host is asked when the plan is executed.
        """
        return await self._compile("failover", Options(survivor=survivor), fenced)

    async def forget(self, gone: str, *, fenced: Fenced | None = None) -> Plan:
        """Compile `pycolo.forget`; once one node has answered, the others have a second left.

        Args:
            gone: The node that will not return; it need not be declared any more.
            fenced: An operator's statement that its QEMU has ended, or None; see
                `failover`.
        """
        return await self._compile("forget", Options(gone=gone), fenced)

    async def stop(self) -> Plan:
        """Compile `pycolo.stop`.

        For a primary in COLO, it listens a second for reports of disks first, as `status` does.
        """
        return await self._compile("stop", Options())

    async def switch_over(self) -> Plan:
        """Compile `pycolo.switch_over`."""
        return await self._compile("switch-over", Options())

    async def shutdown(self) -> Plan:
        """Compile `pycolo.shutdown`."""
        return await self._compile("shutdown", Options())

    async def checkpoint(self) -> Plan:
        """Compile `pycolo.checkpoint`."""
        return await self._compile("checkpoint", Options())

    async def set_checkpoint_delay(self, checkpoint_delay_ms: int | None = None) -> Plan:
        """Compile `pycolo.set_checkpoint_delay`.

        Args:
            checkpoint_delay_ms: The delay in milliseconds, 1 to 4294967295; None for the declared
                delay.
        """
        options = Options(checkpoint_delay_ms=checkpoint_delay_ms)
        return await self._compile("set-checkpoint-delay", options)

    async def execute(
        self, plan: Plan, observer: Observer, *, recorder: Recorder | None = None
    ) -> Report:
        """Execute a plan of this pair.

        Args:
            plan: The plan.
            observer: Called with the progress.
            recorder: Called with the progress, and with each command, reply and event of QEMU; None
                for none.

        Returns:
            The report; a failure is in it and raises nothing.

        Raises:
            Busy: Another client holds the control monitor of a node on which the plan acts. Nothing
                was sent.
        """
        reached = await self._reach(without_peer=plan.procedure in WITHOUT_PEER)
        reached.refuse_busy(plan)
        return await execute(
            plan, reached.sessions, self._hosts, observer=observer, recorder=recorder
        )

    async def preflight(self, plan: Plan) -> tuple[Finding, ...]:
        """Find the errors that stop a plan of `launch`, `start` or `resume`; nothing is changed.

        Args:
            plan: A plan of this pair. For `launch`, the hosts on which it starts a QEMU are
                examined; for `start` and `resume`, the hosts of all nodes that have a step.

        Returns:
            The errors that were found; empty for a plan of another procedure. A host that cannot be
            asked adds none.
        """
        actions = [(s.node, s.action) for s in plan.steps if isinstance(s, RunHost)]
        launched = {node: action for node, action in actions if isinstance(action, LaunchQemu)}
        acting = launched if plan.procedure == "launch" else {s.node for s in plan.steps}
        hosts = {name: host for name, host in self._hosts.items() if name in acting}
        if plan.procedure not in PREFLIGHTED or not hosts:
            return ()
        boots = [name for name, action in launched.items() if action.role == "primary"]
        return await preflight(plan.pair, hosts, before=plan.procedure, boots=boots)

    async def _compile(
        self, procedure: Procedure, options: Options, fenced: Fenced | None = None
    ) -> Plan:
        """Read the pair and compile; with `fenced`, compile again with its evidence."""
        reached = await self._reach(without_peer=procedure in WITHOUT_PEER)
        snapshot = await self._probe(reached)
        if procedure == "stop":
            snapshot = await _with_disk_news(self._pair, snapshot, reached.sessions)
        options = attrs.evolve(options, assume_good=self._assume_good)
        plan = self._plan(procedure, snapshot, options)
        if fenced is not None:
            for victim in plan.victims():
                dead = Dead(evidence=_by_word(fenced, victim))
                snapshot = snapshot.with_node(victim.node, dead)
            plan = self._plan(procedure, snapshot, options)
        reached.refuse_busy(plan)
        return plan

    def _plan(self, procedure: Procedure, snapshot: Snapshot, options: Options) -> Plan:
        return compiler.compile_plan(
            procedure, self._pair, snapshot, options, dialect=self._dialect
        )

    async def _probe(self, reached: _Reached) -> Snapshot:
        return await probe(reached.known, pair=self._pair, hosts=self._hosts)

    async def _reach(self, *, without_peer: bool) -> _Reached:
        """The sessions or states of all nodes; the first call waits for them.

        Args:
            without_peer: Once one node has answered, wait only `LATER_S` for the others.
        """
        if self._reached is None:
            self._reached = await self._settled(without_peer=without_peer)
        return self._reached

    async def _settled(self, *, without_peer: bool) -> _Reached:
        """Wait for the sessions, cancel the attempts that are too late, and collect the states."""
        tasks = self._connecting
        await _answered(tasks.values(), without_peer=without_peer)
        await self._cancel()
        known: dict[str, Session | NodeState] = {}
        busy: dict[str, Busy] = {}
        for name, task in tasks.items():
            state = Unreachable(why=SILENT) if task.cancelled() else task.result()
            if isinstance(state, Busy):
                busy[name], state = state, Unresponsive(why=str(state), oob=False)
            known[name] = state
        return _Reached(known=known, busy=busy)

    async def _cancel(self) -> None:
        for task in self._connecting.values():
            task.cancel()
        await asyncio.wait(self._connecting.values())

    async def aclose(self) -> None:
        """Close the sessions; `connect` calls it."""
        await self._cancel()
        for task in self._connecting.values():
            if task.cancelled() or task.exception() is not None:
                continue
            if isinstance(session := task.result(), Session):
                await session.aclose()


@final
@attrs.frozen(kw_only=True)
class _Reached:
    """The nodes' sessions, or their states if there is no session."""

    known: Mapping[str, Session | NodeState]
    busy: Mapping[str, Busy]
    "Nodes whose control monitor another client holds, or whose QEMU is stopped."

    @property
    def sessions(self) -> Mapping[str, Session]:
        """Node name to its session, for the nodes that answer."""
        return {name: state for name, state in self.known.items() if isinstance(state, Session)}

    def refuse_busy(self, plan: Plan) -> None:
        """Refuse a plan that acts on a node whose control monitor another client holds.

        Raises:
            Busy: The plan acts on such a node.
        """
        acting = {s.node for s in plan.steps if isinstance(s, Execute | Wait)}
        for name in (name for name in self.busy if name in acting):
            raise self.busy[name]


async def _answered(
    tasks: Collection[asyncio.Task[Session | NodeState | Busy]], *, without_peer: bool
) -> None:
    """Wait until all tasks have ended or, with `without_peer`, a second after the first session."""
    waiting = set(tasks)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if without_peer and any(isinstance(task.result(), Session) for task in done):
            if waiting:
                await asyncio.wait(waiting, timeout=LATER_S)
            return


async def _connect(node: Node, host: Host) -> Session | NodeState | Busy:
    """Open a node's session; an error becomes the node's state, except that `Busy` is returned."""
    try:
        return await Session.connect(
            node.name, node.control_monitor, limit_s=CONNECT_S, connector=host.connect
        )
    except Busy as error:
        return error
    except UnresponsiveError as error:
        return Unresponsive(why=str(error), oob=False)
    except ConnectionFailed as error:
        return Unreachable(why=str(error))


def _by_word(fenced: Fenced, victim: Victim) -> Evidence:
    """The evidence of an operator's statement about a victim."""
    return Evidence.of(victim, kind="fence", who=fenced.who, how=fenced.how, when=now())


async def apply(plan: Plan, observer: Observer, *, recorder: Recorder | None = None) -> Report:
    """Execute a saved plan, unchanged.

    Args:
        plan: A plan that a `Connection` compiled.
        observer: Called with the progress.
        recorder: Called with the progress, and with each command, reply and event of QEMU; None
            for none.

    Returns:
        The report; a failure is in it and raises nothing.

    Raises:
        ParseError: The plan is not the one that the compiler makes from the plan's declaration,
            snapshot and options.
        CompileError: The plan is a launch that was compiled offline.
        Busy: Another client holds the control monitor of a node on which the plan acts. Nothing was
            sent.
        ModuleNotFoundError: A node is declared with `ssh`, and the extra `ssh` is not installed.
    """
    compiler.check_compiled(plan)
    compiler.refuse_offline(plan)
    async with connect(plan.pair) as connection:
        return await connection.execute(plan, observer, recorder=recorder)


# -- before anything is launched -----------------------------------------------------------------


async def check(pair: ColoPair) -> tuple[Finding, ...]:
    """Make a preflight of all hosts of a pair, spares included; see `pycolo.preflight`.

    Args:
        pair: The declaration.

    Raises:
        ModuleNotFoundError: A node is declared with `ssh`, and the extra `ssh` is not installed.
    """
    async with hosts_of(pair) as hosts:
        return await preflight(pair, hosts)


# -- status ---------------------------------------------------------------------------------------


async def status(pair: ColoPair) -> Snapshot:
    """Read the state of all nodes, and their records, and leave the control monitors free.

    The nodes are read over their observer monitors. For a primary in COLO, the call listens a
    second for the report that a disk is not replicated: QEMU sends it when the guest writes, at
    most once a second, and no query returns it (qemu-behaviour 5.10). If the guest writes nothing
    in that second, the fault is not found.

    Args:
        pair: The declaration.

    Returns:
        The state of every node, spares included. A node or host that does not answer is part of it
        and raises no error.

    Raises:
        ModuleNotFoundError: A node is declared with `ssh`, and the extra `ssh` is not installed.
    """
    async with AsyncExitStack() as stack:
        hosts = await stack.enter_async_context(hosts_of(pair))
        nodes = pair.all_nodes
        found = await asyncio.gather(*(_observed(node, hosts[node.name]) for node in nodes))
        known = dict(zip((node.name for node in nodes), found, strict=True))
        for state in known.values():
            if isinstance(state, Session):
                await stack.enter_async_context(state)
        snapshot = await probe(known, pair=pair, hosts=hosts, limit_s=CONNECT_S)
        sessions = {name: state for name, state in known.items() if isinstance(state, Session)}
        return await _with_disk_news(pair, snapshot, sessions)


async def checkpoints(pair: ColoPair, node: str) -> AsyncGenerator[Checkpoint]:
    """Report the checkpoints of a primary when they end, over its observer monitor.

    No other client can use that monitor until the generator is closed. The generator ends when COLO
    or the connection ends, and does not say which. It does not check that the node is a primary in
    COLO: on another node it waits, and takes each pause of the guest for a checkpoint.

    Args:
        pair: The declaration.
        node: The primary.

    Yields:
        Each checkpoint that began after the connection was made.

    Raises:
        RemoteError: The primary's observer monitor cannot be used.
        DeclarationError: The pair has no such node.
        ModuleNotFoundError: A node is declared with `ssh`, and the extra `ssh` is not installed.
    """
    async with hosts_of(pair) as hosts:
        monitor, way = pair.node(node).observer_monitor, hosts[node].connect
        async with await Session.connect(
            node, monitor, limit_s=CONNECT_S, connector=way
        ) as session:
            queue: asyncio.Queue[tuple[Notice, float]] = asyncio.Queue()
            loop = asyncio.get_running_loop()
            session.subscribe(lambda notice: queue.put_nowait((notice, loop.time())))
            began_s: float | None = None
            while True:
                notice, at_s = await queue.get()
                if isinstance(notice, HungUp | ColoExitEvent):
                    return
                if isinstance(notice, StopEvent):
                    began_s = at_s
                elif isinstance(notice, ResumeEvent) and began_s is not None:
                    yield Checkpoint(began_s=began_s, pause_s=at_s - began_s)
                    began_s = None


async def _with_disk_news(
    pair: ColoPair, snapshot: Snapshot, sessions: Mapping[str, Session]
) -> Snapshot:
    """The snapshot with the faults of disks that a primary in COLO reports within a second."""
    for name, session in sessions.items():
        live = snapshot.live(name)
        if pair.disks and live is not None and live.colo_mode == "primary":
            await _listen(session)
            snapshot = snapshot.with_node(name, with_latched(live, session))
    return snapshot


async def _listen(session: Session) -> None:
    """Wait up to `LISTEN_S` for the report that a disk is not replicated.

    Returns at once if such a report is latched already, or if the session is closed.
    """
    heard = asyncio.Event()

    def note(notice: Notice) -> None:
        if isinstance(notice, QuorumReportBadEvent | HungUp):
            heard.set()

    end = session.subscribe(note)
    if not session.latched.quorum_bad and not session.closed:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LISTEN_S):
                await heard.wait()
    end()


async def _observed(node: Node, host: Host) -> Session | NodeState:
    """Open a session to a node's observer monitor; an error becomes the node's state."""
    try:
        return await Session.connect(
            node.name, node.observer_monitor, limit_s=CONNECT_S, connector=host.connect
        )
    except UnresponsiveError as error:
        return Unresponsive(why=str(error), oob=False)
    except RemoteError as error:
        return Unreachable(why=str(error))

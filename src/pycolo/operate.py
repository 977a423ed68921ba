"""Procedures on what is live: reach the hosts, read nodes and records, compile, execute.

It gathers and it calls; what is to be done is decided by the compiler alone. The command line is a
thin layer over this module, and scripts call it in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack
from typing import Final, final

import attrs

from pycolo import compiler
from pycolo._execute import execute
from pycolo._probe import probe, with_latched
from pycolo.errors import Busy, ConnectionFailed, RemoteError
from pycolo.errors import Unresponsive as UnresponsiveError
from pycolo.evidence import Evidence, Victim, instance_of
from pycolo.hosts import Host
from pycolo.hosts.requests import now
from pycolo.hosts.ways import hosts_of
from pycolo.model import ColoPair, Node
from pycolo.observers import Observer, Recorder
from pycolo.plan import DialectName, Execute, Options, Plan, Procedure, Wait
from pycolo.qmp.events import QuorumReportBadEvent
from pycolo.result import Report
from pycolo.session import HungUp, Notice, Session
from pycolo.snapshot import Dead, NodeState, Snapshot, Unreachable, Unresponsive

CONNECT_S: Final = 5.0
HOST_S: Final = 5.0
# How much longer than the first node another one may take to answer.
LATER_S: Final = 1.0
SILENT: Final = "it did not answer within a second of the others"
VERSION_S: Final = 10.0
# QEMU sends QUORUM_REPORT_BAD of one node at most once a second.
LISTEN_S: Final = 1.1
# The node that these continue without must not be waited for.
HASTY: Final[tuple[Procedure, ...]] = ("failover", "forget")


@final
@attrs.frozen(kw_only=True)
class Fenced:
    """Somebody's word that a node's QEMU has ended."""

    who: str
    "Who made sure."
    how: str
    "How: power switched off, host rebooted ..."


@final
@attrs.frozen(kw_only=True)
class Order:
    """What is to be done to a pair.

    Args:
        procedure: Its name.
        pair: The declaration.
        options: What the procedure is asked for besides. Identities, the birth of a new pair and
            installed versions are filled in here.
        fenced: For `failover` and `forget`: somebody's word that the other node's QEMU has ended.
        dialect: `auto` or `doc`.
    """

    procedure: Procedure
    pair: ColoPair
    options: Options = attrs.field(factory=Options)
    fenced: Fenced | None = None
    dialect: DialectName = "auto"


async def run(order: Order, observer: Observer, *, recorder: Recorder | None = None) -> Report:
    """Compile a procedure from what is live, and execute it.

    Args:
        order: What to do.
        observer: Is called with what happens.
        recorder: Called with the conversation with QEMU as well.

    Raises:
        Busy: Somebody else holds a node's control monitor.
        RefusedError: No safe way leads on, or a person must decide.
        DeclarationError: A name is none of the pair's.
        HostRefused: A host does not tell the version of its QEMU.
        ModuleNotFoundError: A node has `ssh`, and the extra of that name is not installed.
    """
    async with AsyncExitStack() as stack:
        reached = await _reached(order.pair, stack, hasty=order.procedure in HASTY)
        plan = await _compiled(order, reached)
        return await execute(
            plan, reached.sessions, reached.hosts, observer=observer, recorder=recorder
        )


async def plan_live(order: Order) -> Plan:
    """Compile a procedure from what is live, and change nothing; `apply` executes such a plan.

    Raises:
        RefusedError: See `run`.
        Busy: See `run`.
    """
    async with AsyncExitStack() as stack:
        reached = await _reached(order.pair, stack, hasty=order.procedure in HASTY)
        return await _compiled(order, reached)


async def apply(plan: Plan, observer: Observer, *, recorder: Recorder | None = None) -> Report:
    """Execute a saved plan, exactly as it is.

    Raises:
        Busy: Somebody else holds a node's control monitor.
        ParseError: It is not what its own declaration, snapshot and options compile to.
        CompileError: It is a launch that was compiled offline.
    """
    compiler.check_compiled(plan)
    compiler.refuse_offline(plan)
    async with AsyncExitStack() as stack:
        reached = await _reached(plan.pair, stack, hasty=plan.procedure in HASTY)
        reached.refuse_busy(plan)
        return await execute(
            plan, reached.sessions, reached.hosts, observer=observer, recorder=recorder
        )


async def status(pair: ColoPair) -> Snapshot:
    """Read all nodes over their observer monitors, which leaves the writers' free, and records.

    Of a primary in COLO it waits a second for the news that a disk is not replicated: QEMU tells
    that at the guest's writes, at most once a second, and answers no question about it
    (qemu-behaviour 5.10). A guest that writes nothing in that second hides it.

    Args:
        pair: The declaration.
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
        for name, state in known.items():
            live = snapshot.live(name)
            if pair.disks and isinstance(state, Session) and live and live.colo_mode == "primary":
                await _listen(state)
                snapshot = snapshot.with_node(name, with_latched(live, state))
        return snapshot


async def _listen(session: Session) -> None:
    """Wait for what QEMU tells of a disk that is not replicated, as long as it may keep it back."""
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
    try:
        return await Session.connect(
            node.name, node.observer_monitor, limit_s=CONNECT_S, connector=host.connect
        )
    except UnresponsiveError as error:
        return Unresponsive(why=str(error), oob=False)
    except RemoteError as error:
        return Unreachable(why=str(error))


# -- what is there --------------------------------------------------------------------------------


@final
@attrs.frozen(kw_only=True)
class _Reached:
    """The hosts, and what answers on them."""

    hosts: Mapping[str, Host]
    known: Mapping[str, Session | NodeState]
    busy: Mapping[str, Busy]
    "Nodes whose control monitor somebody else holds, or keeps silent."

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The sessions with the nodes that answer."""
        return {name: state for name, state in self.known.items() if isinstance(state, Session)}

    def refuse_busy(self, plan: Plan) -> None:
        """Refuse a plan that acts on a node that somebody else holds: the monitor is the lock.

        Raises:
            Busy: It does.
        """
        acting = {s.node for s in plan.steps if isinstance(s, Execute | Wait)}
        for name in (name for name in self.busy if name in acting):
            raise self.busy[name]


async def _reached(pair: ColoPair, stack: AsyncExitStack, *, hasty: bool) -> _Reached:
    """Sessions with the nodes that answer, and what is known of the others.

    Args:
        pair: The declaration.
        stack: Closes what is opened.
        hasty: Once one node has answered, the others have a second left.
    """
    hosts = await stack.enter_async_context(hosts_of(pair))
    nodes = pair.all_nodes
    loop = asyncio.get_running_loop()
    tasks = {n.name: loop.create_task(_connect(n, hosts[n.name])) for n in nodes}
    try:
        await _answered(tasks.values(), hasty=hasty)
    finally:
        for task in tasks.values():
            task.cancel()
    await asyncio.wait(tasks.values())
    known: dict[str, Session | NodeState] = {}
    busy: dict[str, Busy] = {}
    for name, task in tasks.items():
        state = Unreachable(why=SILENT) if task.cancelled() else task.result()
        if isinstance(state, Busy):
            busy[name], state = state, Unresponsive(why=str(state), oob=False)
        if isinstance(state, Session):
            await stack.enter_async_context(state)
        known[name] = state
    return _Reached(hosts=hosts, known=known, busy=busy)


async def _answered(
    tasks: Collection[asyncio.Task[Session | NodeState | Busy]], *, hasty: bool
) -> None:
    waiting = set(tasks)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if hasty and any(isinstance(task.result(), Session) for task in done):
            if waiting:
                await asyncio.wait(waiting, timeout=LATER_S)
            return


async def _connect(node: Node, host: Host) -> Session | NodeState | Busy:
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


# -- what is compiled -----------------------------------------------------------------------------


async def _compiled(order: Order, reached: _Reached) -> Plan:
    snapshot = await probe(reached.known, pair=order.pair, hosts=reached.hosts)
    options = order.options
    if order.procedure == "launch":
        options = await _launching(order.pair, options, snapshot, reached.hosts)
    plan = _compile(order, snapshot, options)
    if order.fenced is not None:
        for victim in plan.victims():
            dead = Dead(evidence=_by_word(order.fenced, victim))
            snapshot = snapshot.with_node(victim.node, dead)
        plan = _compile(order, snapshot, options)
    reached.refuse_busy(plan)
    return plan


def _compile(order: Order, snapshot: Snapshot, options: Options) -> Plan:
    return compiler.compile_plan(
        order.procedure, order.pair, snapshot, options, dialect=order.dialect
    )


def _by_word(fenced: Fenced, victim: Victim) -> Evidence:
    return Evidence.of(victim, kind="fence", who=fenced.who, how=fenced.how, when=now())


async def _launching(
    pair: ColoPair, options: Options, snapshot: Snapshot, hosts: Mapping[str, Host]
) -> Options:
    """The options with what only chance and the hosts can tell."""
    compiler.check_members(pair, snapshot)
    names = options.nodes or tuple(n.name for n in compiler.members(pair, snapshot).nodes)
    for name in names:
        pair.node(name)
    absent = [name for name in names if snapshot.live(name) is None]
    told = await asyncio.gather(
        *(hosts[name].version(pair, name, limit_s=VERSION_S) for name in absent)
    )
    live = {name: state.version for name in names if (state := snapshot.live(name)) is not None}
    return attrs.evolve(
        options,
        qemu={**dict(zip(absent, told, strict=True)), **live},
        instances={name: instance_of(pair.name, name, secrets.randbits(32)) for name in absent},
        birth=secrets.token_hex(4),
    )

"""Control one pair: keep its sessions open, watch its events and keep its failover plans ready.

A `PairController` reads the state of a pair, asks `next_step` for the next step, and executes it. A
step that it cannot do is returned to the caller: a QEMU whose end is not proven, or a decision that
a person must make.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, Self, assert_never, final

import attrs
from typing_extensions import override

from pycolo import compiler
from pycolo._execute import execute
from pycolo._execute._shield import shielded
from pycolo._probe import glance, probe, records
from pycolo.errors import (
    Busy,
    ConnectionFailed,
    DeclarationError,
    PycoloError,
    RefusedError,
    RemoteError,
)
from pycolo.errors import Unresponsive as UnresponsiveError
from pycolo.evidence import Evidence, Victim, instance_of
from pycolo.hosts import Host, HostState
from pycolo.model import ColoPair
from pycolo.model import _rules as rules
from pycolo.observers import Observer, Several
from pycolo.plan import Options, Plan, Procedure, StopQemu
from pycolo.qmp.events import ResumeEvent, StopEvent
from pycolo.qmp.replies import Version
from pycolo.reconcile import (
    Act,
    Decide,
    End,
    Launch,
    NextStep,
    Prove,
    Settled,
    Want,
    check_want,
    next_step,
)
from pycolo.record import UnreadRecord
from pycolo.result import JOINING, Report
from pycolo.session import Notice, SchemaCache, Session
from pycolo.snapshot import Dead, NodeState, Snapshot, Unreachable, Unresponsive
from pycolo.standing import Standing, standing

CONNECT_S: Final = 5.0
HOST_S: Final = 10.0
AWAY_S: Final = 2.0
"The time limit of an attempt to reach a host that was out of reach when last observed, in seconds."
FULL_OBSERVATION_S: Final = 600.0
"How long a protected pair without events is read by `glance` alone, in seconds."


class ControllerClosed(PycoloError):
    """The controller was never entered, or its block was left, which closes its sessions."""


@final
@attrs.frozen(kw_only=True)
class Round:
    """The result of one `PairController.reconcile`."""

    step: NextStep
    "The next step that was found."
    report: Report | None = None
    "The report of the plan that was executed; None if no plan was executed."
    why: str = ""
    """Why the step was not done, as a sentence without a full stop; empty if it was done.

    It is also empty if a plan was executed and failed: then `report` says why.
    """
    is_overtaken: bool = False
    "Whether the state changed before the step was done: nothing failed, call `reconcile` again."


@final
@attrs.frozen(kw_only=True)
class Compiled:
    """A plan that `PairController.compile` returned, for `PairController.execute`."""

    plan: Plan
    "The plan."
    since: int
    "The controller's count of executions when the plan was compiled."


def check_hosts(pair: ColoPair, hosts: Mapping[str, Host]) -> None:
    """Check that each node of a pair, spares included, has a host.

    Args:
        pair: The declaration.
        hosts: Node name to its host.

    Raises:
        DeclarationError: A node has no host.
    """
    missing = [name for name in pair.names if name not in hosts]
    if missing:
        raise DeclarationError("hosts", sorted(hosts), f"have the host of {missing[0]}")


def _check_evidence(pair: ColoPair, evidence: object) -> None:
    if not isinstance(evidence, Evidence):
        raise DeclarationError("evidence", evidence, "be an Evidence")
    rules.one_of(*pair.names)("evidence.node", evidence.node)


@final
class PairController:
    """Keeps one pair in the wanted state; an asynchronous context manager that closes its sessions.

    Outside its block, what connects or acts raises `ControllerClosed`; what was read before can
    still be read, and evidence and wishes be noted. The block may be entered again after its end.

    A controller belongs to one event loop. If two of its methods execute a plan, the second one
    waits for the first. `died` does not wait for a resync, which the death of a node makes
    pointless: it cancels the resync, and the next `reconcile` fails over.

    Args:
        pair: The declaration.
        hosts: Node name to its host, spares included; the controller does not close them.
        want: The wanted state, until the method `want` sets another one.
        observer: Called with the progress of every execution.
        resyncs: A semaphore that is held during each resync. It limits how many resyncs run at once
            among the controllers that share it; a failover never waits for it. None for no limit.
        assume_good: QEMU versions that the operator vouches for.
        others: Nodes that have an agent of their own, which does their failovers.
        schemas: A cache to share among all controllers of an event loop, so that each QEMU build's
            schema is read once; None for a separate cache.
        on_event: Called with the node's name and each event or hang-up of its session; must be
            quick. An error that it raises is logged.

    Raises:
        DeclarationError: A node has no host, or `want` is not one of `Want`.
    """

    def __init__(
        self,
        pair: ColoPair,
        hosts: Mapping[str, Host],
        *,
        want: Want = "protected",
        observer: Observer | None = None,
        resyncs: asyncio.Semaphore | None = None,
        assume_good: Collection[Version] = (),
        others: Collection[str] = (),
        schemas: SchemaCache | None = None,
        on_event: Callable[[str, Notice], None] | None = None,
    ) -> None:
        check_hosts(pair, hosts)
        check_want("want", want)
        self.pair: Final = pair
        "The declaration."
        self._hosts = hosts
        self._want: Want = want
        self._observer = observer or Observer()
        self._resyncs = resyncs
        self._assume_good = tuple(assume_good)
        self._others = frozenset(others)
        self._schemas = schemas or SchemaCache()
        self._listener = on_event
        self._sessions: dict[str, Session] = {}
        self._instances: dict[str, str] = {}
        self._dead: dict[str, Evidence] = {}
        self._armed: Mapping[str, Plan] = {}
        self._snapshot: Snapshot | None = None
        self._observed_at = -math.inf
        self._joined: Snapshot | None = None
        self._waited_at = 0.0
        # One observation at a time: a monitor serves one client.
        self._rounds = asyncio.Lock()
        self._acting = asyncio.Lock()
        self._is_queued = False
        self._dialling: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._changed = asyncio.Event()
        self._executions = 0
        self._current: tuple[Plan, asyncio.Task[Report]] | None = None
        self._is_open = False

    async def __aenter__(self) -> Self:
        """Allow what connects or acts.

        Raises:
            RuntimeError: The controller is entered already.
        """
        if self._is_open:
            raise RuntimeError("a PairController is entered once at a time")
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_open = False
        await self.aclose()

    def _check_open(self) -> None:
        """Refuse to act, or to open a session, that nobody would close.

        Raises:
            ControllerClosed: The controller is not entered.
        """
        if not self._is_open:
            raise ControllerClosed("the controller is not open: use it inside its async with block")

    async def aclose(self) -> None:
        """Close the sessions; may be called again. QEMUs keep running.

        A running execution is cancelled first, and awaited: it ends between two steps. Inside its
        block the controller can be used afterwards: it connects again.
        """
        if self._current is not None:
            self._current[1].cancel()
            await asyncio.wait((self._current[1],))
        while self._sessions:
            _, session = self._sessions.popitem()
            await session.aclose()

    # -- the pair's state

    @property
    def armed(self) -> Mapping[str, Plan]:
        """The surviving node's name to its failover plan, for the plans that are ready.

        `reconcile` and `arm` set them if the pair is settled and protected. Every execution and
        every end of a QEMU by `reconcile` clear them, and so do `observe_aside` and the
        beginning of `arm`.
        """
        return self._armed

    @property
    def standing(self) -> Standing | None:
        """The pair's standing by the last snapshot; None before the first one."""
        return None if self._snapshot is None else standing(self._snapshot)

    @property
    def is_acting(self) -> bool:
        """Whether a plan is being executed, or is about to be."""
        return self._acting.locked()

    @property
    def snapshot(self) -> Snapshot | None:
        """The last snapshot of the pair; None before the first one."""
        return self._snapshot

    async def observe(self) -> Snapshot:
        """Read the whole state of the pair, and change nothing.

        Returns:
            The state. A node or host that does not answer is part of it and raises no error.

        Raises:
            ControllerClosed: The controller is not entered.
        """
        self._check_open()
        async with self._rounds:
            return await self._observe_pair()

    async def observe_aside(self) -> Snapshot:
        """Read the whole state of the pair over the observer monitors, and close every session.

        The sessions to the control monitors are closed first, so that another program can act on
        the pair. Plans that were armed or compiled before are not executed any more.

        Returns:
            The state; see `observe`.

        Raises:
            ControllerClosed: The controller is not entered.
        """
        self._check_open()
        async with self._rounds, self._acting:
            self._executions += 1
            self._armed = {}
            await self.aclose()
            async with contextlib.AsyncExitStack() as stack:
                names = self.pair.names
                found = await asyncio.gather(*(self._seen_aside(name) for name in names))
                for session in (one for one in found if isinstance(one, Session)):
                    await stack.enter_async_context(session)
                known = dict(zip(names, found, strict=True))
                self._observed_at = -math.inf
                self._snapshot = await probe(
                    known, pair=self.pair, hosts=self._hosts, limit_s=HOST_S
                )
            return self._snapshot

    async def reach(self, node: str, *, limit_s: float) -> Session | None:
        """The session to a node's QEMU, reopened if it was lost.

        Args:
            node: The node.
            limit_s: How long the connection and its negotiation may take, in seconds. A call that
                opens the same session is waited for before, and QEMU is asked for its identity
                after, for up to 5 s.

        Returns:
            The session. Send no command over it that changes the state that plans rely on. None if
            QEMU does not answer, or if the session is closed and a plan is being executed.

        Raises:
            DeclarationError: The pair has no such node.
            ControllerClosed: The controller is not entered.
        """
        self.pair.node(node)
        self._check_open()
        session = self._sessions.get(node)
        if session is not None and not session.closed:
            return session
        if self._current is not None:
            return None
        found = await self._connected(node, limit_s)
        return found if isinstance(found, Session) else None

    async def wait(self, limit_s: float) -> bool:
        """Wait for a change since the beginning of the last `reconcile` or `arm`.

        A change is an event of QEMU, the end of a session, an execution, evidence of a QEMU's end
        or a call of `want`. While failovers are armed, STOP and RESUME are no change: each
        checkpoint sends both. After a change, `wait` returns at once until `reconcile` or `arm` is
        called again.

        Args:
            limit_s: How long to wait, in seconds.

        Returns:
            Whether there was a change.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._changed.wait()
        return self._changed.is_set()

    # -- the wanted state

    def want(self, want: Want) -> None:
        """Set the wanted state; later rounds of `reconcile` bring the pair into it.

        Nothing is read or sent, and what a round does at the moment is not broken off. `wait`
        returns at once. A resync that waits for its turn is given up: call `reconcile` again.

        Args:
            want: `protected`, `unprotected` or `stopped`.

        Raises:
            DeclarationError: `want` is not one of `Want`; the controller keeps the value it had.
        """
        check_want("want", want)
        self._want = want
        self._changed.set()

    async def reconcile(self, *, avoid: Collection[str] = ()) -> Round:
        """Read the state of the pair and do the next step; call it until the step is `Settled`.

        If failovers are armed and there was no change since (see `wait`), each node is only asked
        the three questions of `glance`. The whole state is read if an answer differs, and every ten
        minutes.

        Args:
            avoid: Nodes on which no secondary is to be launched.

        Returns:
            The next step and its result. If the step was not done, `why` says why. If
            `is_overtaken` is true, another plan was executed meanwhile, or a change came while a
            resync waited for its turn: call `reconcile` again. If the step is `Prove` and there is
            no evidence that the QEMU has ended, call `reconcile` again as long as the QEMU may
            still answer or end; then fence it and call `died`. If the step is `Decide`, a person
            must act.

        Raises:
            ControllerClosed: The controller is not entered.
        """
        self._check_open()
        async with self._rounds:
            if await self._stands():
                return Round(step=Settled(armed=self._armed))
            self._changed.clear()
            since = self._executions
            step = self._next(await self._left() or await self._observe_pair(), avoid)
            if self._resyncs is None or not _joins(step):
                return await self._do(step, since)
        self._is_queued = True
        try:
            has_turn = await self._turn(self._resyncs)
        finally:
            self._is_queued = False
        if not has_turn:
            why = "something happened while the resync waited for its turn"
            return Round(step=step, why=why, is_overtaken=True)
        try:
            async with self._rounds:
                since = self._executions
                return await self._do(self._next(await self._observe_pair(), avoid), since)
        finally:
            self._resyncs.release()

    @property
    def is_queued(self) -> bool:
        """Whether a resync of the pair waits for the semaphore `resyncs`."""
        return self._is_queued

    def begin_generation(self) -> None:
        """Call `Session.begin_generation` of each session, before another program starts COLO."""
        for session in self._sessions.values():
            session.begin_generation()

    async def arm(self) -> Snapshot:
        """Read the whole state of the pair, arm its failovers if it is settled, and change nothing.

        It is for a controller that does not drive the pair, while another one calls `reconcile`.
        Plans that were armed before are dropped first. If the pair is not settled and protected,
        none is armed: wait for a change (see `wait`), and call this again.

        Returns:
            The state; see `observe`.

        Raises:
            ControllerClosed: The controller is not entered.
        """
        self._check_open()
        async with self._rounds:
            self._changed.clear()
            # The controller that drives the pair may have replaced any QEMU since.
            self._armed = {}
            since = self._executions
            snapshot = await self._observe_pair()
            step = self._next(snapshot, ())
            if isinstance(step, Settled):
                await self._do(step, since)
            return snapshot

    async def _turn(self, resyncs: asyncio.Semaphore) -> bool:
        """Acquire the semaphore of resyncs; False, without it, if there is a change first."""
        turn = asyncio.get_running_loop().create_task(resyncs.acquire())
        return await self._unless_changed(turn)

    async def _unless_changed(self, task: asyncio.Task[bool]) -> bool:
        """Wait for a task's result; if there is a change first, cancel the task: False."""
        change = asyncio.get_running_loop().create_task(self._changed.wait())
        try:
            await asyncio.wait((task, change), return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
            if not task.done():
                task.cancel()
        await asyncio.wait((task, change))
        return not task.cancelled() and task.result()

    async def died(self, evidence: Evidence) -> Report | None:
        """Note that a QEMU has ended, and fail over at once if a plan is armed for its end.

        Nothing is read or compiled first.

        Args:
            evidence: The evidence; it names the QEMU.

        Returns:
            The report of the failover. None if nothing was executed, because no plan was armed for
            this QEMU's end, the evidence is about another QEMU of the node, a disk of the survivor
            has refused a write, or another plan was executed meanwhile. Then call `reconcile`.

        Raises:
            DeclarationError: `evidence` is no `Evidence`, or the pair has no such node.
            ControllerClosed: The controller is not entered.
                The evidence is not noted.
        """
        self._check_open()
        if not self.note(evidence):
            return None
        node = evidence.node
        if self._current is not None and _joins(Act(plan=self._current[0])):
            self._current[1].cancel()
        plan = self._armed_for(evidence)
        report = None if plan is None else await self._execute(plan, self._executions)
        session = self._sessions.get(node)
        if session is not None:
            # The QEMU is gone, and a connection to a lost host may never end by itself. The session
            # stays in `_sessions`: a resync that was cancelled may still use it.
            await session.aclose()
        return report

    def note(self, evidence: Evidence) -> bool:
        """Note that a QEMU has ended, as evidence for later plans; nothing is executed.

        Args:
            evidence: The evidence; it names the QEMU.

        Returns:
            False if this controller last saw another QEMU on the node. Then the evidence proves
            nothing about that one, and is not kept.

        Raises:
            DeclarationError: `evidence` is no `Evidence`, or the pair has no such node.
        """
        _check_evidence(self.pair, evidence)
        node = evidence.node
        if self._instances.get(node, evidence.instance) != evidence.instance:
            return False
        self._dead[node] = evidence
        self._changed.set()
        return True

    async def compile(self, procedure: Procedure, options: Options) -> Compiled:
        """Read the state of the pair and compile a procedure from it, for `execute`.

        Args:
            procedure: The procedure; any but `launch`.
            options: The options of the procedure. The controller's own `assume_good` replaces
                theirs.

        Returns:
            The plan. `execute` does not execute it if another plan is executed first.

        Raises:
            RefusedError: There is no safe way to the goal, or a person must decide. Nothing was
                changed; the controller can still be used.
            DeclarationError: An option breaks its rule, or names a node that the pair does not
                have. The controller can still be used.
            ControllerClosed: The controller is not entered.
        """
        self._check_open()
        options = attrs.evolve(options, assume_good=self._assume_good)
        async with self._rounds:
            since = self._executions
            snapshot = await self._observe_pair()
        plan = compiler.compile_plan(procedure, self.pair, snapshot, options)
        return Compiled(plan=plan, since=since)

    async def execute(self, compiled: Compiled, observer: Observer | None = None) -> Report | None:
        """Execute a plan that `compile` returned.

        Args:
            compiled: The plan.
            observer: Called with the progress, in addition to the controller's own observer; None
                for that one only.

        Returns:
            The report. None, and nothing is done, if since the plan was compiled another plan was
            executed, `reconcile` ended a QEMU, or `observe_aside` was called.

        Raises:
            ControllerClosed: The controller is not entered.
        """
        self._check_open()
        return await self._execute(compiled.plan, compiled.since, observer)

    async def converge(self, approve: Callable[[Plan], Awaitable[bool]]) -> Report | None:
        """Compile `converge`, have the caller approve the plan, and execute it.

        Args:
            approve: Called with the plan; returns whether it may be executed.

        Returns:
            The report. None if nothing differs from the declaration, if the plan was not approved,
            or if `execute` returned None.

        Raises:
            RefusedError: There is no safe way to the declared state. Nothing was changed; the
                controller can still be used.
            ControllerClosed: The controller is not entered.
        """
        compiled = await self.compile("converge", Options())
        if not compiled.plan.acts or not await approve(compiled.plan):
            return None
        return await self.execute(compiled)

    # -- reading the state

    async def _left(self) -> Snapshot | None:
        """The state after a resync that has just succeeded; None if a glance shows another one.

        So the failovers are armed without a full read, which the next `reconcile` does.
        """
        left, self._joined = self._joined, None
        if left is None:
            return None
        sessions = {name: s for name, s in self._sessions.items() if left.live(name) is not None}
        if not await glance(sessions, left, limit_s=CONNECT_S):
            return None
        self._snapshot, self._observed_at = left, -math.inf
        return left

    async def _observe_pair(self) -> Snapshot:
        """Read the whole state of the pair; nodes that were away get a shorter limit."""
        now_s = asyncio.get_running_loop().time()
        away = self._away()
        if not away or now_s - self._waited_at > FULL_OBSERVATION_S:
            # Now and then the full time limit is used: a host may need longer than `AWAY_S`.
            away, self._waited_at = frozenset(), now_s
        self._observed_at = now_s
        nodes = await self._nodes(away)
        near = {name: host for name, host in self._hosts.items() if name not in away}
        far = {name: host for name, host in self._hosts.items() if name in away}
        snapshot, kept = await asyncio.gather(
            probe(nodes, pair=self.pair, hosts=near, limit_s=HOST_S),
            records(self.pair, far, limit_s=AWAY_S),
        )
        for name in away:
            snapshot = _with_host(snapshot, name, kept[name])
        self._snapshot = snapshot
        return snapshot

    def _away(self) -> frozenset[str]:
        """The nodes whose record was not read and whose QEMU did not answer when last observed.

        They get a shorter time limit, since a host that is gone may stay declared.
        """
        seen = self._snapshot
        if seen is None:
            return frozenset()
        return frozenset(
            name
            for name, kept in seen.records.items()
            if isinstance(kept, UnreadRecord) and seen.live(name) is None
        )

    async def _stands(self) -> bool:
        """Whether failovers are armed and a glance shows the pair as the last snapshot does."""
        old = asyncio.get_running_loop().time() - self._observed_at > FULL_OBSERVATION_S
        armed, seen = self._armed, self._snapshot
        if not armed or seen is None or old or self._changed.is_set():
            return False
        glancing = asyncio.get_running_loop().create_task(self._glance(seen))
        return await self._unless_changed(glancing) and armed is self._armed

    async def _glance(self, seen: Snapshot) -> bool:
        return await glance(await self._nodes(self._away()), seen, limit_s=CONNECT_S)

    async def _nodes(self, away: Collection[str]) -> Mapping[str, Session | NodeState]:
        """Each node's session, or its state if no session can be opened."""
        names = self.pair.names
        known = await asyncio.gather(
            *(self._known(name, AWAY_S if name in away else CONNECT_S) for name in names)
        )
        return dict(zip(names, known, strict=True))

    async def _known(self, name: str, limit_s: float) -> Session | NodeState:
        """A node's session, or its state if no session can be opened."""
        session = self._sessions.get(name)
        if session is not None and not session.closed:
            return session
        return self._by_evidence(name, await self._connected(name, limit_s))

    def _by_evidence(self, name: str, found: Session | NodeState) -> Session | NodeState:
        """The state that was found; `Dead` if QEMU does not answer and there is evidence."""
        evidence = self._dead.get(name)
        if evidence is not None and not isinstance(found, Session):
            return Dead(evidence=evidence)
        # A QEMU answers: another program has launched it, or the evidence was false.
        self._dead.pop(name, None)
        return found

    async def _connected(self, name: str, limit_s: float) -> Session | NodeState:
        """A node's session, or its state; one call at a time opens a node's session."""
        async with self._dialling[name]:
            # Another call may have opened the session while this one waited for the lock.
            session = self._sessions.get(name)
            if session is not None and not session.closed:
                return session
            return await self._dialled(name, limit_s)

    async def _dialled(self, name: str, limit_s: float) -> Session | NodeState:
        """Open a node's session, and return it or the node's state."""
        try:
            session = await self._opened(name, limit_s)
            instance = await session.instance(limit_s=CONNECT_S)
        except (Busy, UnresponsiveError) as error:
            return Unresponsive(why=str(error), oob=False)
        except RemoteError as error:
            return Unreachable(why=str(error))
        if self._instances.get(name, instance) != instance:
            # The latched events came from an earlier QEMU.
            session.begin_generation()
        self._instances[name] = instance
        return session

    async def _seen_aside(self, name: str) -> Session | NodeState:
        """A session to a node's observer monitor; if none can be opened, the node's state."""
        monitor, way = self.pair.node(name).observer_monitor, self._hosts[name].connect
        try:
            found = await Session.connect(
                name, monitor, limit_s=CONNECT_S, connector=way, schemas=self._schemas
            )
        except (Busy, UnresponsiveError) as error:
            return self._by_evidence(name, Unresponsive(why=str(error), oob=False))
        except RemoteError as error:
            return self._by_evidence(name, Unreachable(why=str(error)))
        return self._by_evidence(name, found)

    async def _opened(self, name: str, limit_s: float) -> Session:
        """Open a node's session; a session that was lost is reopened, and keeps its latched events.

        Raises:
            RemoteError: See `Session.connect` and `Session.reopen`.
            ControllerClosed: The controller is not entered, or its block was left meanwhile.
        """
        self._check_open()
        session = self._sessions.get(name)
        if session is not None:
            try:
                await session.reopen(limit_s=limit_s)
            except ConnectionFailed as error:
                if "answers there" in error.why:
                    # A QEMU of another version: the old session is of no use.
                    del self._sessions[name]
                raise
            await self._keep_open(session)
            return session
        monitor, way = self.pair.node(name).control_monitor, self._hosts[name].connect
        session = await Session.connect(
            name, monitor, limit_s=limit_s, connector=way, schemas=self._schemas
        )
        await self._keep_open(session)
        session.subscribe(functools.partial(self._observe, name))
        self._sessions[name] = session
        return session

    async def _keep_open(self, session: Session) -> None:
        """Close a new session if the block was left while it was opened: nobody else would.

        Raises:
            ControllerClosed: The block was left.
        """
        if not self._is_open:
            await session.aclose()
        self._check_open()

    def _observe(self, node: str, notice: Notice) -> None:
        """Note an event or the end of a session, as a change."""
        if (listener := self._listener) is not None:
            shielded(lambda: listener(node, notice))
        if self._armed and isinstance(notice, StopEvent | ResumeEvent):
            # Every checkpoint sends both. `glance` finds a guest that was paused otherwise.
            return
        self._changed.set()

    def _next(self, snapshot: Snapshot, avoid: Collection[str]) -> NextStep:
        return next_step(
            self.pair,
            snapshot,
            self._want,
            armed=self._armed,
            avoid=avoid,
            others=self._others,
            assume_good=self._assume_good,
        )

    # -- doing

    async def _do(self, step: NextStep, since: int) -> Round:
        """Do a step, unless `since` is no longer the count of executions."""
        match step:
            case Act(plan=plan):
                return self._done(step, await self._execute(plan, since))
            case Launch():
                return await self._launch(step, since)
            case Prove():
                return await self._prove(step, since)
            case End():
                return await self._end(step, since)
            case Settled(armed=armed):
                if since == self._executions:
                    self._armed = armed
                return Round(step=step)
            case Decide(findings=findings):
                return Round(step=step, why="; also: ".join(map(str, findings)))
            case _:
                assert_never(step)

    def _done(self, step: NextStep, report: Report | None) -> Round:
        """The round of a plan; without a report, the plan was overtaken by another one."""
        if report is None:
            return Round(step=step, why="another plan was executed meanwhile", is_overtaken=True)
        return Round(step=step, report=report)

    async def _launch(self, step: Launch, since: int) -> Round:
        """Compile a launch with the host's QEMU version, and execute it."""
        node, snapshot = step.node, self._snapshot
        assert snapshot is not None  # noqa: S101 - the step comes from it
        try:
            version = await self._hosts[node].version(self.pair, node, limit_s=HOST_S)
            plan = compiler.launch(
                self.pair,
                snapshot,
                qemu={node: version},
                nodes=(node,),
                instances={node: instance_of(self.pair.name, node, secrets.randbits(32))},
                birth=secrets.token_hex(4),
                assume_good=self._assume_good,
            )
        except (RemoteError, RefusedError) as error:
            return Round(step=step, why=str(error))
        report = await self._execute(plan, since)
        if report is not None:
            # The evidence was about an earlier QEMU of the node.
            self._dead.pop(node, None)
        return self._done(step, report)

    async def _prove(self, step: Prove, since: int) -> Round:
        """Ask for evidence that the victims have ended, and execute the plan with it."""
        if step.plan is None:
            return Round(step=step, why=f"{step.node} runs and gives no answer")
        for victim in step.plan.victims():
            evidence = await self._death(victim)
            if evidence is None:
                return Round(step=step, why=f"nobody shows that {victim.instance} has ended")
            self._dead[victim.node] = evidence
        return self._done(step, await self._execute(step.plan, since))

    async def _death(self, victim: Victim) -> Evidence | None:
        """The evidence that a victim has ended, as known or from its host; None if none."""
        known = self._dead.get(victim.node)
        if known is not None and known.instance == victim.instance:
            return known
        try:
            return await self._hosts[victim.node].death(self.pair, victim, limit_s=HOST_S)
        except RemoteError:
            # A host that gives no answer gives no evidence.
            return None

    async def _end(self, step: End, since: int) -> Round:
        """End a QEMU by its host."""
        async with self._acting:
            self._check_open()
            if since != self._executions:
                return self._done(step, None)
            self._executions += 1
            self._armed = {}
            session = self._sessions.pop(step.node, None)
            if session is not None:
                await session.aclose()
            action = StopQemu(instance=step.instance)
            try:
                await self._hosts[step.node].run(self.pair, step.node, action, limit_s=HOST_S)
            except RemoteError as error:
                return Round(step=step, why=str(error))
        return Round(step=step)

    def _armed_for(self, evidence: Evidence) -> Plan | None:
        """The armed plan for a QEMU's end; None if there is none, or its survivor lacks writes."""
        for survivor, plan in self._armed.items():
            for victim in plan.victims():
                if (victim.node, victim.instance) == (evidence.node, evidence.instance):
                    return None if self._lacks_writes(survivor) else plan
        return None

    def _lacks_writes(self, survivor: str) -> bool:
        """Whether a disk of the survivor itself has refused a write since its plan was armed."""
        session = self._sessions.get(survivor)
        links = {disk.names.nbd for disk in self.pair.disks}
        return session is not None and not links.issuperset(session.latched.quorum_bad)

    async def _execute(
        self, plan: Plan, since: int, observer: Observer | None = None
    ) -> Report | None:
        """Execute a plan; None, and nothing is done, if `_executions` is no longer `since`."""
        async with self._acting:
            # The block may have been left while this call waited.
            self._check_open()
            if since != self._executions:
                return None
            self._executions += 1
            self._armed = {}
            return await self._watched(plan, observer)

    async def _watched(self, plan: Plan, observer: Observer | None) -> Report | None:
        """Execute a plan; if this call is cancelled, cancel the execution and await its end."""
        kept = _Kept()
        told = (kept, self._observer) if observer is None else (kept, self._observer, observer)
        running = asyncio.get_running_loop().create_task(
            execute(plan, self._sessions, self._hosts, evidence=self._dead, observer=Several(told))
        )
        self._current = (plan, running)
        cancelled = False
        while not running.done():
            try:
                await asyncio.wait((running,))
            except asyncio.CancelledError:
                cancelled = True
                running.cancel()
        self._current = None
        self._changed.set()
        report = kept.report
        done = report is not None and report.failed is None and _joins(Act(plan=plan))
        self._joined = report.state_after if report is not None and done else None
        if cancelled:
            raise asyncio.CancelledError
        # An execution that `died` has cancelled has a report too, unless it had not begun.
        return report


@final
class _Kept(Observer):
    """Keeps the report: a cancelled execution passes it to observers alone."""

    def __init__(self) -> None:
        self.report: Report | None = None

    @override
    def plan_finished(self, report: Report) -> None:
        self.report = report


def _with_host(snapshot: Snapshot, name: str, kept: HostState) -> Snapshot:
    """The snapshot with one node's record, folder and running QEMU, as its host reports them."""
    folders = {name: kept.folder} if kept.folder else {}
    running = {name: kept.running} if kept.running else {}
    return attrs.evolve(
        snapshot.with_record(name, kept.record),
        folders={**snapshot.folders, **folders},
        running={**snapshot.running, **running},
    )


def _joins(step: NextStep) -> bool:
    """Whether a step is a plan that gives the guest a secondary."""
    return isinstance(step, Act) and step.plan.procedure in JOINING

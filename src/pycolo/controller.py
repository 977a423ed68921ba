"""One pair under control: its sessions held, its events watched, its failovers ready.

A `PairController` looks at a pair, has `next_step` say what is next, and does it. What it cannot do
by itself it gives back: a QEMU that nobody proves dead, or what a person must decide.
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
from pycolo._probe import glance, probe, records
from pycolo.errors import Busy, ConnectionFailed, DeclarationError, RefusedError, RemoteError
from pycolo.errors import Unresponsive as UnresponsiveError
from pycolo.evidence import Evidence, Victim, instance_of
from pycolo.hosts import Host, HostState
from pycolo.model import ColoPair
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
"How long a host is waited for that was out of reach at the last look."
FULL_LOOK_S: Final = 600.0
"How long a protected pair of which nothing is heard is only glanced at."


@final
@attrs.frozen(kw_only=True)
class Round:
    """One look at a pair, and what came of it."""

    step: NextStep
    "What was next."
    report: Report | None = None
    "What came of the plan that was executed; None if none was."
    why: str = ""
    "Why the step was not done, as a sentence without a full stop; empty if it was."
    is_overtaken: bool = False
    "It was not done since something else came first: look again, nothing has failed."


@final
@attrs.frozen(kw_only=True)
class Compiled:
    """A plan for `PairController.execute`."""

    plan: Plan
    "What to do."
    since: int
    "How many executions there had been when it was compiled."


@final
class PairController:
    """Keeps one pair as it is wanted; an asynchronous context manager, which closes its sessions.

    It belongs to one event loop. If two of its methods execute a plan, the second one waits for the
    first. `died` does not wait for a resync that has become pointless: it cancels the resync, and
    the next `reconcile` fails over.

    Args:
        pair: The declaration.
        hosts: Node name to its host, spares included; not closed by it.
        want: What is wanted, until the method `want` says otherwise.
        observer: Is called with what every execution does.
        resyncs: Held during each resync, so that among all pairs that share it at most its number
            run at once. A failover never waits for it.
        assume_good: QEMU versions that the operator vouches for.
        schemas: Shared by all controllers of an event loop, so that each QEMU build's schema is
            read once; None for a cache of its own.
        on_event: Is called with the node and each event and hang-up of its session; must be quick
            and must not raise.

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
        schemas: SchemaCache | None = None,
        on_event: Callable[[str, Notice], None] | None = None,
    ) -> None:
        missing = [name for name in pair.names if name not in hosts]
        if missing:
            raise DeclarationError("hosts", sorted(hosts), f"have the host of {missing[0]}")
        check_want("want", want)
        self.pair: Final = pair
        "The declaration."
        self._hosts = hosts
        self._want: Want = want
        self._observer = observer or Observer()
        self._resyncs = resyncs
        self._assume_good = tuple(assume_good)
        self._schemas = schemas or SchemaCache()
        self._listener = on_event
        self._sessions: dict[str, Session] = {}
        self._instances: dict[str, str] = {}
        self._dead: dict[str, Evidence] = {}
        self._armed: Mapping[str, Plan] = {}
        self._snapshot: Snapshot | None = None
        self._looked_at = -math.inf
        self._joined: Snapshot | None = None
        self._waited_at = 0.0
        # One look at a time: a monitor serves one client.
        self._rounds = asyncio.Lock()
        self._acting = asyncio.Lock()
        self._dialling: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._changed = asyncio.Event()
        self._executions = 0
        self._current: tuple[Plan, asyncio.Task[Report]] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the sessions; may be called again. QEMUs keep running.

        An execution is cancelled first, which takes effect between two steps. The controller can be
        used afterwards: it connects anew.
        """
        if self._current is not None:
            self._current[1].cancel()
            await asyncio.wait((self._current[1],))
        while self._sessions:
            _, session = self._sessions.popitem()
            await session.aclose()

    # -- how it stands

    @property
    def armed(self) -> Mapping[str, Plan]:
        """The failover plans that are ready, by survivor.

        `reconcile` and `arm` set them when the pair is settled and protected; every execution and
        `look_aside` clear them.
        """
        return self._armed

    @property
    def standing(self) -> Standing | None:
        """How the pair stood at the last look; None before the first one."""
        return None if self._snapshot is None else standing(self._snapshot)

    @property
    def is_acting(self) -> bool:
        """Whether a plan is executed, or about to be, right now."""
        return self._acting.locked()

    @property
    def snapshot(self) -> Snapshot | None:
        """What the last look showed; None before the first one."""
        return self._snapshot

    async def look(self) -> Snapshot:
        """Read the pair as a whole, and do nothing about what is found.

        Returns:
            What it shows. What does not answer is in it, and is no error.
        """
        async with self._rounds:
            return await self._look()

    async def look_aside(self) -> Snapshot:
        """Read the pair as a whole over the observer monitors, and leave every monitor free.

        The sessions to the control monitors are closed before, so that another program can act on
        the pair. What was armed or compiled before is not executed any more.

        Returns:
            What it shows; see `look`.
        """
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
                self._looked_at = -math.inf
                self._snapshot = await probe(
                    known, pair=self.pair, hosts=self._hosts, limit_s=HOST_S
                )
            return self._snapshot

    async def reach(self, node: str, *, limit_s: float) -> Session | None:
        """The session to a node's QEMU, opened anew if it was lost.

        Args:
            node: The node.
            limit_s: How long opening it may take, in seconds.

        Returns:
            The session; send nothing over it that changes what a plan relies on. None if nothing
            answers, or if it was lost while a plan is executed.

        Raises:
            DeclarationError: The pair has no such node.
        """
        session = self._sessions.get(node)
        if session is not None and not session.closed:
            return session
        if self._current is not None:
            return None
        found = await self._connected(node, limit_s)
        return found if isinstance(found, Session) else None

    async def wait(self, limit_s: float) -> bool:
        """Wait until something has happened since the last `reconcile` or `arm` began.

        An event or the end of a session, an execution, evidence of a QEMU's end and a change of
        what is wanted count; while failovers are armed, a checkpoint's STOP and RESUME do not. Once
        something has happened it returns at once, until `reconcile` or `arm` is called again.

        Args:
            limit_s: How long to wait, in seconds.

        Returns:
            Whether something happened.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._changed.wait()
        return self._changed.is_set()

    # -- what is wanted

    def want(self, want: Want) -> None:
        """Say what is wanted from now on; `reconcile` brings it about.

        Args:
            want: What is wanted.

        Raises:
            DeclarationError: `want` is not one of `Want`; the controller keeps the value it had.
        """
        check_want("want", want)
        self._want = want
        self._changed.set()

    async def reconcile(self, *, avoid: Collection[str] = ()) -> Round:
        """Look at the pair, and do what is next; call it again until it is settled.

        A protected pair of which nothing was heard since is asked three questions a node; only
        if an answer differs, and every ten minutes, it is read as a whole: see `glance`.

        Args:
            avoid: Nodes on which no secondary is to be launched.

        Returns:
            The next step and what came of it. If it was not done, `why` says why. If `is_overtaken`
            is set, another plan was executed meanwhile, or something happened while a resync waited
            for its turn: call `reconcile` again. If the step is `Prove` and nobody can show that
            the QEMU has ended, call it again while the QEMU may still answer or end; then fence it
            and call `died`. If the step is `Decide`, a person must act.
        """
        async with self._rounds:
            if await self._stands():
                return Round(step=Settled(armed=self._armed))
            self._changed.clear()
            since = self._executions
            step = self._next(await self._left() or await self._look(), avoid)
            if self._resyncs is None or not _joins(step):
                return await self._do(step, since)
        if not await self._turn(self._resyncs):
            why = "something happened while the resync waited for its turn"
            return Round(step=step, why=why, is_overtaken=True)
        try:
            async with self._rounds:
                since = self._executions
                return await self._do(self._next(await self._look(), avoid), since)
        finally:
            self._resyncs.release()

    def begin_generation(self) -> None:
        """Forget what QEMUs said of a COLO that has ended: another program begins the next one."""
        for session in self._sessions.values():
            session.begin_generation()

    async def arm(self) -> Snapshot:
        """Look at the pair, arm its failovers if it is settled, and do nothing else.

        For the node that does not drive the pair: what is not settled is the other one's to mend.

        Returns:
            What the pair shows.
        """
        async with self._rounds:
            self._changed.clear()
            # Whoever drives the pair may have replaced any QEMU since.
            self._armed = {}
            since = self._executions
            snapshot = await self._look()
            step = self._next(snapshot, ())
            if isinstance(step, Settled):
                await self._do(step, since)
            return snapshot

    async def _turn(self, resyncs: asyncio.Semaphore) -> bool:
        """Wait for a place among the resyncs; False, without one, if something happens first."""
        turn = asyncio.get_running_loop().create_task(resyncs.acquire())
        return await self._unless_changed(turn)

    async def _unless_changed(self, task: asyncio.Task[bool]) -> bool:
        """The result of a task; False if something happens first: the task is cancelled then."""
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
        """Take note that a QEMU has ended, and fail over at once if a plan is armed for it.

        Nothing is read or compiled first.

        Args:
            evidence: Who says so, and of which QEMU.

        Returns:
            What came of the failover. None if nothing was executed, because no plan was armed for
            this QEMU's end, the evidence is about another QEMU of the node, the survivor lacks
            writes, or another plan was executed meanwhile. Then `reconcile` says what is next.
        """
        node = evidence.node
        if not self.note(evidence):
            return None
        if self._current is not None and _joins(Act(plan=self._current[0])):
            self._current[1].cancel()
        plan = self._armed_for(evidence)
        report = None if plan is None else await self._execute(plan, self._executions)
        session = self._sessions.get(node)
        if session is not None:
            # Nothing answers there any more, and the connection to a lost host may never end. It
            # is not let go: a resync that was cancelled may not have ended yet.
            await session.aclose()
        return report

    def note(self, evidence: Evidence) -> bool:
        """Take note that a QEMU has ended, for the plans from now on; nothing is done about it.

        Args:
            evidence: Who says so, and of which QEMU.

        Returns:
            False, and no note is taken, if another QEMU was seen on the node since the controller
            was made: then the evidence says nothing of that one.
        """
        node = evidence.node
        if self._instances.get(node, evidence.instance) != evidence.instance:
            return False
        self._dead[node] = evidence
        self._changed.set()
        return True

    async def compile(self, procedure: Procedure, options: Options) -> Compiled:
        """Compile a procedure from what is live, for `execute`.

        Args:
            procedure: What to do; none that launches a QEMU.
            options: What it is asked for besides the pair.

        Returns:
            The plan, to be executed unless another execution comes first.

        Raises:
            RefusedError: No safe way leads there, or a person must decide. Nothing was changed.
            DeclarationError: An option breaks its rule, or names a node that the pair does not
                have.
        """
        options = attrs.evolve(options, assume_good=self._assume_good)
        async with self._rounds:
            since = self._executions
            snapshot = await self._look()
        plan = compiler.compile_plan(procedure, self.pair, snapshot, options)
        return Compiled(plan=plan, since=since)

    async def execute(self, compiled: Compiled, observer: Observer | None = None) -> Report | None:
        """Execute a plan that `compile` gave.

        Args:
            compiled: The plan.
            observer: Is called with what happens, besides the controller's own.

        Returns:
            What came of it. None, and nothing is done, if another plan was executed, or
            `look_aside` was called, since it was compiled.
        """
        return await self._execute(compiled.plan, compiled.since, observer)

    async def converge(self, approve: Callable[[Plan], Awaitable[bool]]) -> Report | None:
        """Remove what differs from the declaration, once the caller has approved the plan.

        Args:
            approve: Is shown the plan and says whether it may be executed.

        Returns:
            What came of it; None if nothing differs, or it was not approved.

        Raises:
            RefusedError: No safe way leads there. Nothing was changed.
        """
        compiled = await self.compile("converge", Options())
        if not compiled.plan.acts or not await approve(compiled.plan):
            return None
        return await self.execute(compiled)

    # -- looking

    async def _left(self) -> Snapshot | None:
        """What a resync that has just succeeded left; None if a glance shows something else.

        The failovers are armed by it at once, and the pair is read as a whole in the next round.
        """
        left, self._joined = self._joined, None
        if left is None:
            return None
        sessions = {name: s for name, s in self._sessions.items() if left.live(name) is not None}
        if not await glance(sessions, left, limit_s=CONNECT_S):
            return None
        self._snapshot, self._looked_at = left, -math.inf
        return left

    async def _look(self) -> Snapshot:
        now_s = asyncio.get_running_loop().time()
        away = self._away()
        if not away or now_s - self._waited_at > FULL_LOOK_S:
            # A way that takes longer must not stay closed for ever.
            away, self._waited_at = frozenset(), now_s
        self._looked_at = now_s
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
        """The nodes whose hosts nobody reached at the last look: a dead one may stay declared."""
        seen = self._snapshot
        if seen is None:
            return frozenset()
        return frozenset(
            name
            for name, kept in seen.records.items()
            if isinstance(kept, UnreadRecord) and seen.live(name) is None
        )

    async def _stands(self) -> bool:
        """Whether a glance shows a protected pair as it was when it was last read as a whole."""
        old = asyncio.get_running_loop().time() - self._looked_at > FULL_LOOK_S
        armed, seen = self._armed, self._snapshot
        if not armed or seen is None or old or self._changed.is_set():
            return False
        glancing = asyncio.get_running_loop().create_task(self._glance(seen))
        return await self._unless_changed(glancing) and armed is self._armed

    async def _glance(self, seen: Snapshot) -> bool:
        return await glance(await self._nodes(self._away()), seen, limit_s=CONNECT_S)

    async def _nodes(self, away: Collection[str]) -> Mapping[str, Session | NodeState]:
        names = self.pair.names
        known = await asyncio.gather(
            *(self._known(name, AWAY_S if name in away else CONNECT_S) for name in names)
        )
        return dict(zip(names, known, strict=True))

    async def _known(self, name: str, limit_s: float) -> Session | NodeState:
        session = self._sessions.get(name)
        if session is not None and not session.closed:
            return session
        return self._by_evidence(name, await self._connected(name, limit_s))

    def _by_evidence(self, name: str, found: Session | NodeState) -> Session | NodeState:
        """What is found, or the evidence that the QEMU which does not answer has ended."""
        evidence = self._dead.get(name)
        if evidence is not None and not isinstance(found, Session):
            return Dead(evidence=evidence)
        # Something answers: somebody else has launched it, or the evidence was false.
        self._dead.pop(name, None)
        return found

    async def _connected(self, name: str, limit_s: float) -> Session | NodeState:
        async with self._dialling[name]:
            # Whoever waited for its turn finds the session that the other one has opened.
            session = self._sessions.get(name)
            if session is not None and not session.closed:
                return session
            return await self._dialled(name, limit_s)

    async def _dialled(self, name: str, limit_s: float) -> Session | NodeState:
        try:
            session = await self._opened(name, limit_s)
            instance = await session.instance(limit_s=CONNECT_S)
        except (Busy, UnresponsiveError) as error:
            return Unresponsive(why=str(error), oob=False)
        except RemoteError as error:
            return Unreachable(why=str(error))
        if self._instances.get(name, instance) != instance:
            # What was latched was said by the QEMU before.
            session.begin_generation()
        self._instances[name] = instance
        return session

    async def _seen_aside(self, name: str) -> Session | NodeState:
        """A session to a node's observer monitor, or what is known of the node otherwise."""
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
        """A session anew, which keeps what the one before has latched."""
        session = self._sessions.get(name)
        if session is not None:
            try:
                await session.reopen(limit_s=limit_s)
            except ConnectionFailed as error:
                if "answers there" in error.why:
                    # A QEMU of another version: nothing of the one before is of use.
                    del self._sessions[name]
                raise
            return session
        monitor, way = self.pair.node(name).control_monitor, self._hosts[name].connect
        session = await Session.connect(
            name, monitor, limit_s=limit_s, connector=way, schemas=self._schemas
        )
        session.subscribe(functools.partial(self._observe, name))
        self._sessions[name] = session
        return session

    def _observe(self, node: str, notice: Notice) -> None:
        if self._listener is not None:
            self._listener(node, notice)
        if self._armed and isinstance(notice, StopEvent | ResumeEvent):
            # Every checkpoint is one of each; a guest that somebody has paused shows at a glance.
            return
        self._changed.set()

    def _next(self, snapshot: Snapshot, avoid: Collection[str]) -> NextStep:
        return next_step(
            self.pair,
            snapshot,
            self._want,
            armed=self._armed,
            avoid=avoid,
            assume_good=self._assume_good,
        )

    # -- doing

    async def _do(self, step: NextStep, since: int) -> Round:
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
        if report is None:
            return Round(step=step, why="another plan was executed meanwhile", is_overtaken=True)
        return Round(step=step, report=report)

    async def _launch(self, step: Launch, since: int) -> Round:
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
            # What is known of the QEMU before says nothing of the new one.
            self._dead.pop(node, None)
        return self._done(step, report)

    async def _prove(self, step: Prove, since: int) -> Round:
        if step.plan is None:
            return Round(step=step, why=f"{step.node} runs and gives no answer")
        for victim in step.plan.victims():
            evidence = await self._death(victim)
            if evidence is None:
                return Round(step=step, why=f"nobody shows that {victim.instance} has ended")
            self._dead[victim.node] = evidence
        return self._done(step, await self._execute(step.plan, since))

    async def _death(self, victim: Victim) -> Evidence | None:
        known = self._dead.get(victim.node)
        if known is not None and known.instance == victim.instance:
            return known
        try:
            return await self._hosts[victim.node].death(self.pair, victim, limit_s=HOST_S)
        except RemoteError:
            # A host that cannot say so has not said so.
            return None

    async def _end(self, step: End, since: int) -> Round:
        async with self._acting:
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
        for survivor, plan in self._armed.items():
            for victim in plan.victims():
                if (victim.node, victim.instance) == (evidence.node, evidence.instance):
                    return None if self._lacks_writes(survivor) else plan
        return None

    def _lacks_writes(self, survivor: str) -> bool:
        """Whether a disk of its own has refused a write since its plan was armed."""
        session = self._sessions.get(survivor)
        links = {disk.names.nbd for disk in self.pair.disks}
        return session is not None and not links.issuperset(session.latched.quorum_bad)

    async def _execute(
        self, plan: Plan, since: int, observer: Observer | None = None
    ) -> Report | None:
        """Execute a plan, unless another one was executed since it was compiled."""
        async with self._acting:
            if since != self._executions:
                return None
            self._executions += 1
            self._armed = {}
            return await self._watched(plan, observer)

    async def _watched(self, plan: Plan, observer: Observer | None) -> Report | None:
        """Execute a plan to its end, whoever is cancelled meanwhile."""
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
        # One that `died` has cancelled gave its report as well, unless it had not begun.
        return report


@final
class _Kept(Observer):
    """Keeps the report, which a cancelled execution gives nobody else."""

    def __init__(self) -> None:
        self.report: Report | None = None

    @override
    def plan_finished(self, report: Report) -> None:
        self.report = report


def _with_host(snapshot: Snapshot, name: str, kept: HostState) -> Snapshot:
    """The snapshot with what the host of one node says."""
    folders = {name: kept.folder} if kept.folder else {}
    running = {name: kept.running} if kept.running else {}
    return attrs.evolve(
        snapshot.with_record(name, kept.record),
        folders={**snapshot.folders, **folders},
        running={**snapshot.running, **running},
    )


def _joins(step: NextStep) -> bool:
    return isinstance(step, Act) and step.plan.procedure in JOINING

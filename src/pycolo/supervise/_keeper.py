"""Keeps one pair: a keeper observes it, has `decide` say what to do, does that, and repeats.

The keeper of a supervisor decides for both nodes, that of an agent for the agent's own node. Its
`Authority` reads and writes the record and the claim, in the nodes' own files or in an arbiter. A
keeper holds no state that it could not read again: if it is killed, another one continues.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Final, Literal, TypeAlias, TypeVar, assert_never, final

import attrs

from pycolo.controller import HOST_S, Compiled, PairController, Round
from pycolo.errors import (
    CommandRefused,
    CommandUnknown,
    RefusedError,
    RemoteError,
    StoreError,
    compile_error,
)
from pycolo.evidence import Evidence, Victim, node_of
from pycolo.hosts import Host
from pycolo.model import ColoPair
from pycolo.observers import Observer, Several
from pycolo.plan import Options, Procedure, StopQemu
from pycolo.qmp.commands import MigrateSetParameters, Yank
from pycolo.qmp.events import GuestPanickedEvent, ResetEvent, ResumeEvent, StopEvent
from pycolo.qmp.objects import YankMigration
from pycolo.qmp.replies import Version
from pycolo.reconcile import Act, Decide, Launch, NextStep, Prove, Settled, next_step
from pycolo.record import PairRecord
from pycolo.result import JOINING, Report
from pycolo.session import Notice, SchemaCache
from pycolo.snapshot import Snapshot
from pycolo.supervise._authority import Authority
from pycolo.supervise._beat import Beat
from pycolo.supervise._events import EventKind, PairStatus, SupervisorEvent
from pycolo.supervise._failure_detector import FailureDetector
from pycolo.supervise._measures import NO_SILENCE, Silence, Tally
from pycolo.supervise._node_health import CHECKPOINTS, SHUTDOWN_S, NodeHealth
from pycolo.supervise._outages import Outages
from pycolo.supervise._requests import COMPILE_S, Readiness, living, refuse_answering, stated
from pycolo.supervise._retries import Retries, waited_s
from pycolo.supervise._waits import Waits
from pycolo.supervise.decision import Decision, decide, suspicion_s
from pycolo.supervise.fences import FenceDevice, fenced
from pycolo.supervise.observation import SIGNALS, Limits, Observation, Signal
from pycolo.supervise.shared import SharedRecord
from pycolo.supervise.store import Wish
from pycolo.supervise.table import Action, Event, Phase
from pycolo.topology import secondary_yanks

OBSERVATION_S: Final = 20.0
"How long a pair that sends no event goes without an observation or a round, in seconds."
_AWAKE_S: Final = 1.0
_CUT_S: Final = 1.0
_PROOFS: Final = 2
_GIB: Final = 1024.0
_MS: Final = 1000.0
_YANK_MIGRATION: Final = Yank(instances=(YankMigration(),))
_T = TypeVar("_T")

Tell: TypeAlias = Callable[[SupervisorEvent], None]
_Outcome: TypeAlias = Literal["done", "nothing", "failed"]

_BY_ROUND: Final[frozenset[Action]] = frozenset({"reconcile", "boot", "hand-over"})
"The actions that a round does, one step at a time, by `next_step`."
_EVIDENCE_S: Final = 0.25
"How long nothing is read after the first sign of a death, in seconds."
_DOUBT: Final[frozenset[Event]] = frozenset(
    {"undecidable", "halted", "unresponsive", "claimed", "limit", "suspicion", "lease-gone"}
)
"While one of these is the event of a node, no round begins."
_WAITS: Final[frozenset[Event]] = frozenset({"no-arbiter", "own-ended", "lacks-writes"})
"Events that may last for ever while a node waits, so that a person gets a message after a while."
_GONE: Final[frozenset[Signal]] = frozenset({"hung-up", "silent", "stuck"})
"Signs that a QEMU gives no answer, whatever COLO does."
_ALERT: Final[frozenset[Phase]] = frozenset({"suspect", "claiming", "waiting"})
_WORDS: Final[Mapping[Event, str]] = {
    "undecidable": ": nothing is safe by itself: its record and its QEMU exclude each other, or the"
    " node that is left lacks writes, or its overlays are not merged; the next line says which, and"
    " what to do",
    "outdated": ": the record gives the pair to another QEMU",
    "no-arbiter": ": the record is out of reach",
    "shutdown": ": the guest has shut itself down",
    "both-ended": ": both QEMUs have ended",
    "own-ended": ": its QEMU does not run",
    "peer-ended": ": the other QEMU has ended",
    "lease-gone": ": the other node's lease has run out",
    "peer-shutdown": ": the other guest alone has shut itself down",
    "replication-lost": ": the secondary no longer gets the writes",
    "disk-failed": ": a disk of the primary has failed",
    "lacks-writes": ": it no longer gets the writes of the primary",
    "halted": ": the other node has claimed the pair and is gone, and the fuse stopped this QEMU",
    "unresponsive": ": its own QEMU gives no answer, so that it leaves the pair to the other node",
    "claimed": ": the other node claims the pair",
    "limit": ": the other QEMU may have ended, and has not answered within its limit",
    "suspicion": ": the other QEMU may have ended",
    "quiet": "",
}


@final
class Keeper:
    """Keeps one pair until the task of `run` is cancelled.

    Args:
        pair: The declaration.
        hosts: Node name to its host, spares included; not closed by it.
        fences: Node name to its fences, in the order in which they are tried.
        authority: The pair's record, what is wanted of it, and who claims it.
        tell: Is called with every event; must be quick and must not raise.
        beat: The timer, shared by all pairs of an event loop.
        tally: Counts for this pair, across restarts of its keeper.
        outages: The failovers of all pairs of an event loop.
        observer: Is called with what every execution does.
        resyncs: Limits how many resyncs run at once, among all pairs that share it.
        schemas: The cache of QMP schemas, shared by all pairs of an event loop.
        assume_good: QEMU versions that the operator vouches for.
    """

    def __init__(
        self,
        pair: ColoPair,
        hosts: Mapping[str, Host],
        fences: Mapping[str, Sequence[FenceDevice]],
        authority: Authority,
        tell: Tell,
        *,
        beat: Beat,
        tally: Tally,
        outages: Outages,
        observer: Observer | None,
        resyncs: asyncio.Semaphore,
        schemas: SchemaCache,
        assume_good: Collection[Version],
    ) -> None:
        self.pair: Final = pair
        "The declaration."
        self.begun: Final = asyncio.Event()
        "Set once the pair has been observed, and nothing more is to be done at once."
        self._hosts = hosts
        self._fences = fences
        self._authority = authority
        self._assume_good = assume_good
        self._tell = tell
        self._tally = tally
        self._outages = outages
        self._news = asyncio.Event()
        self._beat = beat
        # Whether the keeper waits for a while in which only an event can make something due.
        self._is_calm = False
        self._detector = FailureDetector(
            pair, hosts, self._news.set, beat, observed=authority.observed
        )
        self._controller = PairController(
            pair,
            hosts,
            observer=Several((tally,) if observer is None else (tally, observer)),
            resyncs=resyncs,
            schemas=schemas,
            assume_good=assume_good,
            others=authority.observed,
            on_event=self._observe,
        )
        self._wish = self._pursued = Wish()
        self._is_wish_known = False
        self._claim_since: tuple[str, float] | None = None
        self._asked: dict[str, int] = {}
        self._work: asyncio.Task[Round] | asyncio.Task[Snapshot] | None = None
        self._takeover: asyncio.Task[Report | None] | None = None
        # Whether the snapshot of the last observation is out of date.
        self._is_stale = True
        # Whether the last work was a failover that succeeded, so that nothing is urgent now.
        self._has_failed_over = False
        # Whether a procedure was executed for a person: observe, and update the phases, before the
        # next step.
        self._is_observation_first = False
        # When a failover for which no plan was armed is tried again.
        self._failover_due_s = 0.0
        self._is_aside = False
        # The QEMU that was killed last because the record gives the pair to another one.
        self._killed = ""
        # The spare to which this keeper itself has begun to move the secondary; None for none.
        self._own_move: str | None = None
        # Whether a move has ended, and this is to be stored.
        self._is_move_over = False
        # Whether a node is about to run alone, or may be: then nothing else is done with the pair.
        self._is_doubtful = False
        self._due_s = 0.0
        self._observation_due_s = 0.0
        self._search: asyncio.Task[None] | None = None
        self._search_due_s = 0.0
        self._searches = 0
        self._tries = Retries(limits=pair.supervision)
        self._said: dict[tuple[EventKind, str | None], str] = {}
        self._phases: Mapping[str, Phase] = {}
        self._waits = Waits()
        self._is_protected = False
        # When the pair was last not protected by its record: an end of COLO that was seen before
        # belongs to an earlier generation.
        self._unprotected_s = -math.inf
        # The QEMUs that may run alone by the last record, if the pair is protected by it.
        self._named: frozenset[str] = frozenset()
        self._person = ""

    async def run(self) -> None:
        """Keep the pair until the task is cancelled; QEMUs keep running after that.

        Raises:
            StoreError: What is wanted cannot be read, and was never read before.
        """
        async with self._controller:
            with self._beat.joined():
                await self._keep_on()

    async def _keep_on(self) -> None:
        try:
            while True:
                self._news.clear()
                self._apply_wish()
                try:
                    changed = await self._once()
                except StoreError as error:
                    # Nothing else is done meanwhile: a guest that shut down would be booted again.
                    why = f"what is wanted cannot be kept: {error}"
                    self._say("person", f"{why}; repair the store, nothing is done until then")
                    changed = False
                lacks = self._wish.want == "protected" and not self._is_protected
                self._tally.protection(lacks=lacks)
                if not changed:
                    await self._rest()
        finally:
            await self._detector.aclose()
            for task in filter(None, (self._work, self._takeover, self._search)):
                task.cancel()
                await asyncio.wait((task,))

    def wake(self) -> None:
        """Have the keeper decide again at once, since something was learnt."""
        self._news.set()

    def report(self, kind: EventKind, text: str, node: str) -> None:
        """Report what the keeper's authority found about a node, unless that was reported last."""
        self._say(kind, text, node)

    @property
    def status(self) -> PairStatus:
        """The status of the pair, as of its last observation."""
        return PairStatus(
            pair=self.pair.name,
            want=self._wish.want,
            paused=self._wish.paused,
            phases=self._phases,
            standing=self._controller.standing,
            record=self._record,
            primary=self._primary[0],
            checkpoint_delay_ms=self._primary[1],
            is_protected=self._is_protected,
            is_busy=self._work is not None or self._takeover is not None,
            are_monitors_free=self._detector.is_aside and self._is_aside,
            person=self._person,
        )

    def refuse_acting(self) -> None:
        """Refuse to end this keeper while it executes a plan.

        Raises:
            CompileError: A plan is executed, or a node is about to run alone.
        """
        self._readiness.refuse_acting()

    @property
    def is_queued(self) -> bool:
        """Whether a resync of the pair waits until those of other pairs have ended."""
        return self._controller.is_queued

    @property
    def silence(self) -> Silence:
        """How long the pair's QEMUs have been silent until now."""
        snapshot, record = self._controller.snapshot, self._record
        if snapshot is None or record is None:
            return NO_SILENCE
        limits, now_s = self._limits(snapshot, record), self._now_s()
        asked = {
            node: health
            for node in _members(record)
            if (health := self._health(node)).qemu != "none"
            and health.instance not in self._detector.ended
        }
        last_s = self._health(record.holder).checkpoint_s
        question_s = {node: health.question_s(now_s) for node, health in asked.items()}
        return Silence(
            question_s=question_s,
            longest_question_s={n: max(one.longest_s, question_s[n]) for n, one in asked.items()},
            longest_s={node: health.longest_silence_s(now_s) for node, health in asked.items()},
            checkpoint_s=None if last_s is None else now_s - last_s,
            longest_checkpoint_s=self._health(record.holder).longest_gap_s(now_s),
            lease=self._authority.lease,
            limits_s={signal: limits.stands_s(signal) for signal in SIGNALS},
        )

    @property
    def _primary(self) -> tuple[str, int] | tuple[None, None]:
        """The primary in COLO and its delay, as of the last observation; None if there is none."""
        snapshot = self._controller.snapshot
        if snapshot is None:
            return None, None
        for node in self.pair.names:
            live = snapshot.live(node)
            if live is not None and live.colo_mode == "primary":
                return node, live.checkpoint_delay_ms
        return None, None

    @property
    def _record(self) -> PairRecord | None:
        """The record to act by; None before the first observation, or without a record."""
        snapshot = self._controller.snapshot
        return None if snapshot is None else self._authority.record(snapshot)

    # -- requests of a person

    async def perform(
        self, procedure: Procedure, options: Options, observer: Observer | None
    ) -> Report:
        """Execute a procedure for a person, as the keeper's own work.

        The procedure is finished even if the caller is cancelled meanwhile.

        Args:
            procedure: The procedure.
            options: The options of the procedure.
            observer: Is called with what the execution does.

        Returns:
            The report; a step that failed is in it.

        Raises:
            RefusedError: The procedure is not begun: the pair is paused, other work on it comes
                first, or there is no safe way. Nothing was changed.
            CommandUnknown: The keeper has ended meanwhile: it is not known what was done.
        """
        return await self._execute(await self._compile(procedure, options), procedure, observer)

    async def _compile(self, procedure: Procedure, options: Options) -> Compiled:
        """Compile a procedure for a person; arguments and errors as those of `perform`."""
        self._readiness.refuse(procedure)
        if procedure == "switch-over":
            options = attrs.evolve(options, left_to=self._other_secondary)
        try:
            async with asyncio.timeout(COMPILE_S):
                return await self._controller.compile(procedure, options)
        except TimeoutError:
            raise self._readiness.at_work() from None

    async def _execute(
        self, compiled: Compiled, procedure: Procedure, observer: Observer | None
    ) -> Report:
        """Execute what was compiled for a person; arguments and errors as those of `perform`."""
        # The pair may have changed while the plan was compiled.
        self._readiness.refuse(procedure)
        self._is_observation_first = True
        work = self._takeover = self._task(self._controller.execute(compiled, observer))
        await asyncio.wait((work,))
        if work.cancelled():
            raise CommandUnknown("the supervisor", procedure, "it has ended meanwhile")
        report = work.result()
        if report is None:
            raise self._readiness.at_work()
        return report

    async def move(self, to: str, observer: Observer | None) -> Report:
        """End the secondary, so that the next one is launched on a spare.

        Args:
            to: The spare.
            observer: Is called with what the execution does.

        Returns:
            The report of the plan that ends the secondary; a step that failed is in it.

        Raises:
            RefusedError: It is not begun: as for `perform`, the pair is not protected, `to` is no
                spare or its host gives no answer, or another agent drives the pair.
            CommandUnknown: The keeper has ended meanwhile: it is not known what was done.
            StoreError: The store cannot be written; nothing was changed.
            DeclarationError: The pair has no such node.
        """
        self.pair.node(to)
        self._readiness.refuse_move(to, self._record)
        try:
            await self._hosts[to].version(self.pair, to, limit_s=HOST_S)
        except RemoteError as error:
            why = f"no secondary can be launched on {to}: {error}"
            raise compile_error("no-host", why, "repair that first", node=to) from error
        compiled = await self._compile("stop", Options())
        # It is stored before the secondary is ended, so that the next keeper carries the move on.
        self._own_move = to
        if not await self._authority.move(to):
            self._own_move = None
            why = "the arbiter has not stored that the secondary moves"
            raise compile_error("no-agent", why, "the agent says why; repair that, and try again")
        self._is_move_over = False
        self._apply_wish()
        try:
            report = await self._execute(compiled, "stop", observer)
        except RefusedError:
            await self._end_move()
            raise
        if report.failed is not None:
            await self._end_move()
        return report

    async def state_fence(self, node: str, instance: str | None, who: str, how: str) -> Evidence:
        """Accept a person's statement that a QEMU has ended.

        Args:
            node: The node on which the QEMU ran.
            instance: The identity of the QEMU; None for the one that the record names.
            who: Who made sure that it has ended.
            how: How that person made sure.

        Returns:
            The evidence that is used from now on.

        Raises:
            RefusedError: The pair is paused, the record names no such QEMU, the QEMU accepts
                connections, or checkpoints show that it runs.
            DeclarationError: The pair has no such node, or `who` or `how` is empty or not
                printable.
        """
        self._readiness.refuse_paused()
        monitor = self.pair.node(node).observer_monitor
        evidence = stated(self._record, node, instance, who=who, how=how)
        self._refuse_living(node)
        await refuse_answering(self._hosts[node], node, monitor)
        self._say("action", f"takes it from {who} that {evidence.instance} has ended: {how}", node)
        self._detector.ended[evidence.instance] = evidence
        self._controller.note(evidence)
        self._is_stale, self._due_s = True, self._now_s()
        self._news.set()
        return evidence

    def _refuse_living(self, node: str) -> None:
        """Refuse a statement that a node's QEMU has ended if checkpoints show that it still runs.

        Raises:
            CompileError: Its peer has finished checkpoints since the node stopped responding.
        """
        record = self._record
        peer = None if record is None else _peer(record, node)
        gone_s = min(self._health(node).signals.values(), default=None)
        if peer is None or gone_s is None:
            return
        if self._health(peer).checkpoints_since(gone_s) >= _PROOFS:
            raise living(node, f"checkpoints with {peer} go on")

    @property
    def _readiness(self) -> Readiness:
        return Readiness(
            pair=self.pair.name,
            paused=self._wish.paused,
            is_protected=self._is_protected,
            is_acting=self._takeover is not None or self._controller.is_acting,
            claims=self._authority.claimed_by,
            stands="" if (known := self._controller.standing) is None else known.text,
            spare=self._spare,
            driven_by=self._other_holder,
            frees_monitors=self._authority.frees_monitors,
            lacks=self._lacks_failover,
        )

    @property
    def _other_secondary(self) -> str | None:
        """The secondary, if another agent fails over to it; None if this keeper does."""
        record = self._record
        partner = None if record is None else record.partner
        return partner if partner in self._authority.observed else None

    @property
    def _other_holder(self) -> str | None:
        """The node that has the guest, if another agent keeps it; None if this keeper does."""
        record = self._record
        is_others = record is not None and record.holder in self._authority.observed
        return record.holder if record is not None and is_others else None

    @property
    def _spare(self) -> str | None:
        """The node of this agent if two other nodes are protected; None for a supervisor."""
        record = self._record
        if record is None or record.phase != "protected":
            return None
        members = _members(record)
        return next((n for n in self._authority.decides(members) if n not in members), None)

    @property
    def _lacks_failover(self) -> str:
        """Why nobody would fail over after the primary was ended, as a clause; empty if not."""
        if self._authority.is_lost:
            return "the arbiter gives no answer"
        other = self._other_secondary
        if other is not None and self._authority.lacks_lease(other):
            return f"the agent of {other} does not renew its lease"
        return ""

    # -- one turn

    async def _once(self) -> bool:
        """Take one turn: note the results of the work, decide for each node, and act.

        Returns:
            Whether something was done, so that the next turn follows at once.
        """
        self._detector.check()
        self._take_results()
        if self._is_executing:
            # While a plan is executed, the plan itself handles what happens.
            return False
        snapshot, record = self._controller.snapshot, self._record
        if snapshot is None or record is None:
            if snapshot is not None and await self._settles(snapshot):
                return True
            # An observation now and then shows whether a record can be read again.
            is_due = self._now_s() >= self._observation_due_s
            return self._begin_round() or (is_due and self._begin_observation())
        await self._note(record)
        # Also if something was done since the observation: the snapshot shows the nodes before it.
        self._detector.update(self._controller, snapshot, record)
        if self._is_stale:
            return self._begin_refresh()
        if await self._settles(snapshot):
            return True
        await self._reconsider(snapshot, record)
        nodes = self._authority.decides(_members(record))
        decided = [self._decided(node, snapshot, record) for node in nodes]
        self._ask_without_arbiter(decided)
        if self._detector.pop_recovered():
            self._due_s = min(self._due_s, self._now_s())
        self._phases = {one.node: one.decision.phase for one in decided}
        self._is_protected = _are_protected(decided)
        for one in decided:
            self._say_decision(one)
        await self._follow_move(record)
        for one in decided:
            if await self._acted(one):
                return True
        return await self._proceed(decided, snapshot)

    def _begin_refresh(self) -> bool:
        """Begin a round or an observation, since the snapshot is out of date.

        Returns:
            False if other work is under way, or comes first.
        """
        if self._has_failed_over and self._outages.last(self._news.set):
            # To read a pair and to compile takes the processor longer than another failover.
            return False
        # After a shutdown by the guest an observation comes first: a round would boot it again.
        is_first = self._is_observation_first or self._detector.has_shutdown
        return (not is_first and self._begin_round()) or self._begin_observation()

    async def _settles(self, snapshot: Snapshot) -> bool:
        """Make the record and the node's file agree.

        Returns:
            Whether the pair must be observed again because of that.
        """
        if self._work is not None or not await self._authority.settle(snapshot):
            return False
        self._is_stale = True
        return True

    async def _note(self, record: PairRecord) -> None:
        """Take note of the record's phase, and of the node that claims the pair."""
        before, self._named = self._named, frozenset[str]()
        is_protected = record.phase == "protected"
        if is_protected:
            self._named = frozenset(record.eligible.values())
        else:
            await self._withdraw()
            self._waits.end("evidence")
        # The other node's program may have had a new QEMU protect the guest while this one was
        # stopped, or out of reach of the arbiter.
        is_late = bool(before) and not self._named <= before
        if not is_protected or is_late:
            self._unprotected_s = self._now_s()
            if not self._authority.drives(record):
                self._controller.begin_generation()
        self._note_claim()

    async def _reconsider(self, snapshot: Snapshot, record: PairRecord) -> None:
        """Withdraw this keeper's claim if the other QEMU answers, or checkpoints show it works."""
        claimed_by = self._authority.claimed_by
        if claimed_by is None or claimed_by not in self._authority.decides(_members(record)):
            return
        seen = self._observed(claimed_by, record)
        stands = suspicion_s(seen, self._limits(snapshot, record), self._now_s()) is not None
        if stands or seen.evidence is not None or seen.cut_since_s is not None:
            return
        if await self._give_back():
            self._say("action", "gives its claim back: the other QEMU works", claimed_by)

    async def _give_back(self) -> bool:
        """Withdraw the claim on the pair, and end the search for evidence that it was made for.

        Returns:
            False if the claim could not be withdrawn.
        """
        if not await self._withdraw():
            return False
        self._waits.end("evidence")
        if self._search is not None:
            self._search.cancel()
        return True

    async def _withdraw(self) -> bool:
        """Withdraw the claim on the pair, if there is one.

        Returns:
            False if the claim could not be withdrawn.
        """
        is_given_back = self._authority.claimed_by is None or await self._authority.give_back()
        self._note_claim()
        return is_given_back

    def _note_claim(self) -> None:
        """Take note since when the present claim has been known."""
        claimed_by = self._authority.claimed_by
        if claimed_by is None:
            self._claim_since = None
        elif self._claim_since is None or self._claim_since[0] != claimed_by:
            self._claim_since = (claimed_by, self._now_s())

    @property
    def _is_executing(self) -> bool:
        """Whether a plan is executed, or is about to be."""
        return self._takeover is not None or self._controller.is_acting

    def _take_results(self) -> None:
        if self._search is not None and self._search.done():
            search, self._search = self._search, None
            if not search.cancelled():
                search.result()
        if self._work is not None and self._work.done():
            done, self._work = self._work, None
            self._finish(done.result())
        if self._takeover is not None and self._takeover.done():
            over, self._takeover = self._takeover, None
            self._finish(over.result())

    async def _proceed(self, decided: Sequence[_Decided], snapshot: Snapshot) -> bool:
        """Begin a round, which does what `next_step` says, unless a decision forbids it.

        Returns:
            Whether a round, or an observation instead of it, was begun.
        """
        events = {one.decision.event for one in decided}
        actions = {action for one in decided for action in one.decision.actions}
        if "undecidable" in events:
            self._say_findings(decided, snapshot)
        if {one.decision.state for one in decided}.isdisjoint({"protected", "claiming"}):
            # No node is about to continue alone, so a suspicion must not hold up rounds for ever.
            await self._withdraw()
            events.discard("limit")
        # While a node is about to continue alone, nothing else is done with the pair.
        is_doubtful = self._authority.claimed_by is not None or not events.isdisjoint(_DOUBT)
        is_paused = self._wish.paused is not None
        if is_doubtful and not self._is_doubtful and not is_paused:
            # Evidence may come within milliseconds: an observation would keep the processor and the
            # survivor's monitor from the failover. If it does not come, an observation is needed.
            self._observation_due_s = max(self._observation_due_s, self._now_s() + _EVIDENCE_S)
        self._is_doubtful = is_doubtful
        if is_doubtful or is_paused:
            # An observation now and then shows what a person does about it.
            return self._now_s() >= self._observation_due_s and self._begin_observation()
        return bool(actions & _BY_ROUND) and self._begin_round()

    def _decided(self, node: str, snapshot: Snapshot, record: PairRecord) -> _Decided:
        own = snapshot.records.get(node)
        seen = self._observed(node, record)
        decision = decide(
            node,
            SharedRecord(
                record=record,
                claimed_by=self._authority.claimed_by,
                want=self._wish.want,
                paused=self._wish.paused,
                fuses=self._authority.fuses,
            ),
            own if isinstance(own, PairRecord) else None,
            seen,
            limits=self._limits(snapshot, record),
            now_s=self._now_s(),
        )
        return _Decided(node=node, record=record, seen=seen, decision=decision)

    async def _acted(self, decided: _Decided) -> bool:
        """Do the actions of a decision, except those that a round does.

        Returns:
            Whether anything was changed.
        """
        changed = False
        for action in decided.decision.actions:
            match await self._do(action, decided):
                case "failed":
                    return changed
                case "done":
                    changed = True
                case "nothing":
                    pass
        return changed

    async def _do(self, action: Action, decided: _Decided) -> _Outcome:  # noqa: C901 - one case an action
        match action:
            case "tell" | "reconcile" | "boot" | "hand-over":
                # `_say_decision` has told it; the others are done by a round.
                return "nothing"
            case "say-exit":
                end = self._detector.ended.get(decided.seen.instance)
                if end is not None:
                    await self._authority.say_exit(end)
                return "nothing"
            case "ask":
                return self._ask(decided, decided.record.holder)
            case "cut":
                return await self._sever(decided)
            case "claim":
                return await self._begin_claim(decided)
            case "give-back":
                return "done" if await self._give_back() else "failed"
            case "seek-evidence":
                return self._begin_search(decided)
            case "serve" | "fail-over":
                return self._begin_failover(decided)
            case "narrow":
                return "done" if self._begin_round() else "nothing"
            case "end-own":
                return await self._end(decided)
            case "stop":
                if not await self._authority.stop():
                    return "failed"
                self._apply_wish()
                return "done"
            case _:
                assert_never(action)

    # -- observations

    def _observed(self, node: str, record: PairRecord) -> Observation:
        health, now_s, since = self._health(node), self._now_s(), self._claim_since
        peer = _peer(record, node)
        theirs = NodeHealth() if peer is None else self._health(peer)
        is_ended = not health.instance or health.instance in self._detector.ended
        return Observation(
            qemu="none" if is_ended else health.qemu,
            instance=health.instance,
            signals=self._signals(record, health, theirs),
            silent=health.is_silent(now_s, self.pair.supervision.silent_s),
            stuck_since_s=health.stuck_since_s,
            evidence=self._evidence(record, peer),
            arbiter_lost=self._authority.is_lost,
            claim_since_s=since[1] if since and since[0] != node else None,
            lease_gone=peer is not None and self._authority.lacks_lease(peer),
            cut_since_s=health.cut_s,
            shutdown=health.shutdown_s is not None,
            peer_shutdown=_has_diverged(health, theirs, now_s),
            replication_lost=self._detector.has_lost_replication(record.holder),
            disk_failed=self._detector.has_lost_disk(record.holder),
        )

    def _signals(
        self, record: PairRecord, health: NodeHealth, theirs: NodeHealth
    ) -> Mapping[Signal, float]:
        """Each sign that a node's peer may have ended, to the time since when there is one."""
        found: dict[Signal, float] = {}
        for signal, at_s in theirs.signals.items():
            # The peer takes part in every checkpoint. One may have been under way when the peer
            # ended; two show that it runs, and that only the connection to it is lost.
            proofs = health.checkpoints_since(at_s)
            if proofs < _PROOFS:
                found[signal] = max(at_s, health.checkpoint_s or at_s) if proofs else at_s
        ended_s = [at_s for at_s in (health.colo_exit_s, theirs.colo_exit_s) if at_s is not None]
        exits = [at_s for at_s in ended_s if at_s > self._unprotected_s]
        if exits:
            found["colo-exit"] = min(exits)
        ends = [at_s for at_s in (health.checkpoint_s, theirs.checkpoint_s) if at_s is not None]
        if record.phase == "protected" and ends and not self._detector.is_aside:
            found["no-checkpoint"] = max(ends)
        return found

    def _evidence(self, record: PairRecord, peer: str | None) -> Evidence | None:
        """Evidence that the peer's eligible QEMU has ended; None if there is none."""
        named = None if peer is None else record.eligible.get(peer)
        if named is None:
            return None
        found = self._detector.ended.get(named) or self._authority.ends.get(named)
        return None if found is None else attrs.evolve(found, epoch=record.epoch)

    def _limits(self, snapshot: Snapshot, record: PairRecord) -> Limits:
        live = snapshot.live(record.holder)
        delay_ms = self.pair.checkpoint_delay_ms if live is None else live.checkpoint_delay_ms
        return Limits(
            declared=self.pair.supervision,
            checkpoint_delay_s=delay_ms / _MS,
            ram_gib=self.pair.machine.memory_mib / _GIB,
            entering=self._health(record.holder).checkpoints < CHECKPOINTS,
        )

    def _health(self, node: str) -> NodeHealth:
        return self._detector.health.get(node) or NodeHealth()

    # -- actions

    def _ask(self, decided: _Decided, primary: str) -> _Outcome:
        """Force a checkpoint, unless the last forced one has not ended yet.

        Two checkpoints end a suspicion.
        """
        made = self._health(decided.node).checkpoints
        if self._asked.get(decided.node) == made:
            return "nothing"
        self._asked[decided.node] = made
        snapshot = self._controller.snapshot
        live = None if snapshot is None else snapshot.live(primary)
        session = self._detector.session(primary)
        if live is not None and session is not None and not session.closed:
            self._tally.force()
            session.send(MigrateSetParameters(x_checkpoint_delay_ms=live.checkpoint_delay_ms))
        return "nothing"

    def _ask_without_arbiter(self, decided: Sequence[_Decided]) -> None:
        """Have a primary make checkpoints while its lease is not renewed: each renews its fuse."""
        if not self._authority.needs_checkpoints:
            return
        for one in decided:
            last_s = self._health(one.node).checkpoint_s
            fuse_s = self._authority.fuses.get(one.node, self.pair.supervision.fuse_s)
            if last_s is None or self._now_s() - last_s >= fuse_s / 4:
                # The fuse guards this node's own QEMU, whichever node an old record names.
                self._ask(one, one.node)

    async def _sever(self, decided: _Decided) -> _Outcome:
        """Cut a node's side of COLO, before a claim or before its peer loses its rights.

        A supervisor does not cut before a claim: no other program acts on the pair, no checkpoint
        renews a fuse, and a failover begins with the same cut. As long as nothing shows that the
        other QEMU has ended, the two may continue: perhaps only the connection to it is lost.
        """
        node, seen = decided.node, decided.seen
        is_claim = self._authority.cuts and seen.evidence is None
        is_due = is_claim or "narrow" in decided.decision.actions
        if not is_due or seen.cut_since_s is not None:
            return "nothing"
        session = await self._controller.reach(node, limit_s=_CUT_S)
        if session is None:
            return "failed"
        try:
            # If QEMU refuses it, nothing is left to cut.
            for yank in self._yanks(decided):
                with contextlib.suppress(CommandRefused):
                    await session.execute(yank, limit_s=_CUT_S, oob=True)
        except RemoteError as error:
            self._say("trouble", f"its side of COLO could not be cut: {error}", node)
            return "failed"
        self._health(node).cut_s = self._now_s()
        self._say("action", "has cut its side of COLO", node)
        return "done"

    def _yanks(self, decided: _Decided) -> tuple[Yank, ...]:
        """The commands that cut a node's side of COLO, so that no checkpoint can end any more.

        A primary's disks and filters are cut later: a write that hangs there would be completed
        without the secondary, and answers over IPv6 would be sent without it.
        """
        holds = decided.record.holder == decided.node
        return (_YANK_MIGRATION,) if holds else secondary_yanks(self.pair)

    async def _begin_claim(self, decided: _Decided) -> _Outcome:
        if not await self._authority.claim(decided.node):
            return "failed"
        self._note_claim()
        self._say("action", f"claims the pair from {decided.peer}", decided.node)
        return "done"

    def _begin_search(self, decided: _Decided) -> _Outcome:
        """Begin to search for evidence that the peer's QEMU has ended, and to end it if needed."""
        named = None if decided.peer is None else decided.record.eligible.get(decided.peer)
        if named is not None:
            self._search_for(named, decided.record.epoch)
        return "nothing"

    def _search_for(self, instance: str, epoch: int) -> None:
        if self._search is None and self._now_s() >= self._search_due_s:
            victim = Victim(node=node_of(instance), instance=instance, epoch=epoch)
            self._search = self._task(self._searched(victim))

    async def _searched(self, victim: Victim) -> None:
        evidence = await self._found(victim)
        if evidence is not None:
            self._searches = 0
            self._waits.end("evidence")
            self._detector.ended[victim.instance] = evidence
            return
        self._searches += 1
        wait_s = waited_s(self.pair.supervision, self._searches)
        self._search_due_s = self._now_s() + wait_s
        why = f"nobody can show that {victim.instance} has ended, and no fence has ended it"
        if self._awaits_lease(victim.node, self._waits.waited_s("evidence", self._now_s())):
            later = f"the guest continues when the lease of {victim.node} has run out"
            self._say("trouble", f"{why}; {later}", victim.node)
            return
        self._say("person", f"{why}; {self._authority.way_out(victim.node)}", victim.node)

    def _awaits_lease(self, node: str, waited_s: float) -> bool:
        """Whether a node's lease may soon be the evidence that nothing else has given.

        The claim keeps the node from renewing it. A person is asked for if it still is no evidence
        `retake_s` after it should have run out, whoever claims the pair by then.
        """
        lease_s = self._authority.lease_s(node)
        return lease_s is not None and waited_s < lease_s + self.pair.supervision.retake_s

    async def _found(self, victim: Victim) -> Evidence | None:
        host, node = self._hosts[victim.node], victim.node
        known = await host.death(self.pair, victim, limit_s=HOST_S)
        if known is None and await self._may_act():
            known = await self._ended(victim)
        # No fence if no guest is wanted: a fence may end a whole host, and no node has to continue.
        if known is None and self._wish.want != "stopped" and await self._may_act():
            tell = functools.partial(self._say, "trouble", node=node)
            known = await fenced(self._fences[node], self.pair, victim, tell)
        return known

    async def _may_act(self) -> bool:
        """Whether this keeper may still end a QEMU, after a host may have taken long to answer."""
        is_ours = self._wish.paused is None and self._authority.drives(self._record)
        return is_ours and await self._authority.is_current()

    async def _ended(self, victim: Victim) -> Evidence | None:
        """Have a QEMU killed by its host.

        Returns:
            Evidence that it has ended; None if there is none.
        """
        if not await self._kill(victim.node, victim.instance, "its host has not ended it"):
            return None
        return await self._hosts[victim.node].death(self.pair, victim, limit_s=HOST_S)

    async def _kill(self, node: str, instance: str, why_not: str) -> bool:
        """Have a node's host kill a QEMU.

        Args:
            node: The node.
            instance: The identity of the QEMU.
            why_not: The beginning of the text that is reported if the host did not kill it.

        Returns:
            Whether the host killed it.
        """
        action = StopQemu(instance=instance, at_once=True)
        try:
            await self._hosts[node].run(self.pair, node, action, limit_s=HOST_S)
        except RemoteError as error:
            self._say("trouble", f"{why_not}: {error}", node)
            return False
        return True

    def _begin_failover(self, decided: _Decided) -> _Outcome:
        evidence = decided.seen.evidence or self._by_lease(decided)
        if evidence is None:
            # The record already lets this node alone run: a round does the rest of the failover.
            return "done" if self._begin_round() else "nothing"
        if self._now_s() < self._failover_due_s and decided.node not in self._controller.armed:
            # A round compiles one as soon as it can: the survivor's host may give no answer now.
            return "nothing"
        self._say("action", f"continues alone: {evidence.how}, says {evidence.who}", decided.node)
        self._takeover = self._task(self._controller.died(evidence))
        return "done"

    def _by_lease(self, decided: _Decided) -> Evidence | None:
        peer, record = decided.peer, decided.record
        named = None if peer is None else record.eligible.get(peer)
        if decided.decision.event != "lease-gone" or peer is None or named is None:
            return None
        return self._authority.lease_evidence(peer, named, record.epoch)

    async def _end(self, decided: _Decided) -> _Outcome:
        if decided.seen.instance == self._killed:
            # A snapshot that does not show it any more may wait for a host that gives no answer.
            return "nothing"
        if not await self._authority.is_current():
            # The record may name this QEMU again since, as one that joins.
            return "failed"
        if not await self._kill(decided.node, decided.seen.instance, "it was not ended"):
            return "failed"
        self._killed = decided.seen.instance
        self._due_s = self._now_s()
        return "nothing"

    def _begin_round(self) -> bool:
        if self._work is not None or self._wish.paused is not None:
            return False
        if self._now_s() < self._due_s or self._detector.is_shutting_down:
            # A round would fail over to a QEMU that still runs after that of its peer has ended.
            return False
        self._pursued = self._wish
        if self._authority.drives(self._record):
            self._work = self._task(self._controller.reconcile(avoid=self._avoided))
        else:
            self._work = self._task(self._controller.arm())
        return True

    @property
    def _avoided(self) -> frozenset[str]:
        """The nodes on which no secondary is to be launched now."""
        to = self._destination
        return frozenset() if to is None else frozenset(self.pair.names) - {to}

    def _begin_observation(self) -> bool:
        """Begin to read the pair without acting on it; False if other work is under way.

        This is for a pair that is paused, waits for its next round or needs a person.
        """
        if self._work is not None:
            return False
        is_aside = self._detector.is_aside
        self._work = self._task(self._observed_aside() if is_aside else self._controller.observe())
        return True

    async def _observed_aside(self) -> Snapshot:
        """Observe without a control monitor, so that a person can act on the pair."""
        wish = self._wish
        found = await self._controller.observe_aside()
        self._is_aside = wish is self._wish
        return found

    def _task(self, work: Coroutine[object, object, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda _: self._news.set())
        return task

    # -- results of the work

    def _finish(self, found: Round | Report | Snapshot | None) -> None:
        """Note the result of a round, a plan or an observation, and when the next one is due."""
        if isinstance(found, Snapshot):
            self._is_stale = self._is_observation_first = False
            self._observation_due_s = self._now_s() + OBSERVATION_S
            if not self._authority.drives(self._record):
                is_settled = bool(self._controller.armed)
                if is_settled:
                    self._person = ""
                wait_s = OBSERVATION_S if is_settled else self.pair.supervision.retry_s
                self._due_s = self._now_s() + wait_s
            return
        now_s = self._now_s()
        self._due_s = now_s
        report = found.report if isinstance(found, Round) else found
        if report is not None:
            self._say_report(report)
        failed = report is not None and report.failed is not None
        is_failover = report is not None and report.plan.procedure == "failover"
        self._has_failed_over = is_failover and not failed
        self._is_stale = report is not None or not isinstance(found, Round)
        if not isinstance(found, Round):
            # Without a report no failover plan was armed: a round compiles the next step.
            self._due_s += self.pair.supervision.retry_s if failed else 0.0
            if report is None:
                self._failover_due_s = now_s + self.pair.supervision.retry_s
            return
        if not found.is_overtaken:
            self._conclude(found, failed=failed)
        if self._pursued != self._wish:
            # The round brought about what was wanted before.
            self._due_s = now_s

    def _conclude(self, found: Round, *, failed: bool) -> None:
        """Tell the result of a round, and set when the next one is due."""
        now_s, report = self._now_s(), found.report
        if self._gives_up_move(found, failed=failed):
            return
        kind = self._kind_of(found.step)
        match found.step:
            case Settled():
                self._person = ""
                self._tries = self._tries.succeeded()
                self._due_s += OBSERVATION_S
            case Decide():
                self._say(kind, found.why)
                self._due_s += OBSERVATION_S
            case Prove(instance=instance, plan=plan) if report is None:
                is_ended = self._wish.want == "stopped" and instance != ""
                if is_ended:
                    self._search_for(instance, 0)
                self._say("trouble" if plan or is_ended else "person", found.why)
                self._due_s = now_s + self.pair.supervision.retry_s
            case step if failed or (report is None and found.why):
                if found.why:
                    self._say("trouble", found.why)
                if report is None:
                    self._count_not_begun(step)
                self._due_s = self._again_s(step, now_s)
            case _:
                pass

    async def _follow_move(self, record: PairRecord) -> None:
        """End a move of the secondary that is done, or that another keeper has not begun."""
        if self._is_move_over:
            await self._end_move()
        to = self._destination
        if to is None or self._wish.paused is not None or not self._authority.drives(record):
            return
        if to in record.eligible:
            await self._end_move()
        elif self._is_protected and to != self._own_move:
            why = "its supervisor or agent has ended before it had ended the secondary"
            again = f"type `pycolo move PAIRFILE --to {to}` again"
            self._say("trouble", f"the secondary is not moved to {to}: {why}; {again}")
            await self._end_move()

    async def _end_move(self) -> None:
        """Store that the secondary is moved no more; the next turn tries again if that fails."""
        self._own_move, self._is_move_over = None, True
        if await self._authority.move(None):
            self._apply_wish()
            self._is_move_over = False

    @property
    def _destination(self) -> str | None:
        """The spare on which the next secondary is to be launched; None for any node."""
        return None if self._is_move_over else self._wish.moves_to

    def _gives_up_move(self, found: Round, *, failed: bool) -> bool:
        """Launch the secondary on any node again if it was moved, or cannot be.

        Returns:
            Whether it cannot be moved: then the next round follows at once.
        """
        to = self._destination
        if to is None:
            return False
        joins = isinstance(found.step, Act) and found.step.plan.procedure in JOINING
        is_over = isinstance(found.step, Decide) or (
            (joins or isinstance(found.step, Launch)) and (failed or bool(found.why))
        )
        if not is_over:
            return False
        self._is_move_over = True
        why = found.why or "the line before says why"
        text = f"the secondary is not moved to {to}: {why}; it is launched where it can be"
        self._say("trouble", text)
        return True

    def _kind_of(self, step: NextStep) -> EventKind:
        """How to tell that no step is safe: a host that is away may be back soon by itself."""
        lacks_host = isinstance(step, Decide) and {"no-host"} == {f.code for f in step.findings}
        if not lacks_host:
            self._waits.end("host")
            return "person"
        has_waited = self._waits.waited_s("host", self._now_s()) >= self.pair.supervision.retake_s
        return "person" if has_waited else "trouble"

    def _count_not_begun(self, step: NextStep) -> None:
        match step:
            case Launch():
                self._tally.not_begun("launch")
            case Act(plan=plan):
                self._tally.not_begun(plan.procedure)
            case _:
                pass

    def _again_s(self, step: NextStep, now_s: float) -> float:
        """When to try a step again that has failed."""
        declared = self.pair.supervision
        joins = isinstance(step, Act) and step.plan.procedure in JOINING
        is_try = joins or isinstance(step, Launch)
        if not is_try or self._authority.is_lost:
            # Not a failed try: other steps are not counted, and without an arbiter none is tried.
            return now_s + declared.retry_s
        self._tries = self._tries.failed(now_s)
        if self._tries.are_spent:
            count = declared.tries_per_hour
            why = f"{count} launches or resyncs have failed within an hour"
            remedy = (
                "mend what the lines before name and `pycolo check` finds, then `pycolo pause` "
                "and `pycolo unpause`"
            )
            self._say("person", f"{why}; {remedy}, or wait: the next try is after that hour")
        return self._tries.next_s

    # -- telling

    def _say_report(self, report: Report) -> None:
        kind: EventKind = "execution" if report.failed is None else "trouble"
        event = SupervisorEvent(pair=self.pair.name, kind=kind, text=report.advice, report=report)
        self._tell(event)

    def _say_decision(self, decided: _Decided) -> None:
        decision = decided.decision
        is_persons = decision.phase == "person" or self._has_waited(decided)
        kind: EventKind = "person" if is_persons else "state"
        if decision.event not in ("suspicion", "limit"):
            self._asked.pop(decided.node, None)
        words = _WORDS[decision.event]
        if decision.event == "quiet" and decided.seen.signals.keys() - {"no-checkpoint"}:
            words = ": the other QEMU gives no answer"
        if is_persons and self._misses_holder(decided):
            words = f": {decided.record.holder} alone may run the guest, and gives no answer"
        if words and self._wish.paused is not None:
            words += "; nothing is done about it during the pause"
        self._say(kind, f"{decision.phase}{words}", decided.node)

    def _has_waited(self, decided: _Decided) -> bool:
        """Whether a node has waited for another node, the arbiter or its QEMU for `retake_s`."""
        decision = decided.decision
        waits = decision.phase == "waiting" and decision.event in _WAITS
        # A node with a suspicion leaves the claim to the other one, or cannot write its own claim.
        waits = waits or decision.event == "suspicion" or decision.phase == "claiming"
        # A supervisor decides for both nodes, so that it waits for no other program.
        waits = waits and bool(self._authority.observed)
        # It may wait for its own QEMU all the same, or for a primary that ended as its guest did.
        is_left = decision.event in ("unresponsive", "lacks-writes")
        waits = waits or (decision.phase == "waiting" and is_left)
        waits = waits or self._misses_holder(decided)
        if not waits:
            self._waits.end("other", node=decided.node)
            return False
        waited_s = self._waits.waited_s("other", self._now_s(), node=decided.node)
        return waited_s >= self.pair.supervision.retake_s

    def _misses_holder(self, decided: _Decided) -> bool:
        """Whether the node that alone may run the guest gives no answer to this other one.

        The agent of that node may be gone with its host, and then nobody else reports that.
        """
        is_left = decided.decision.state == "following" and decided.record.is_sole
        is_left = is_left and bool(self._authority.observed)
        return is_left and not decided.seen.signals.keys().isdisjoint(_GONE)

    def _say_findings(self, decided: Sequence[_Decided], snapshot: Snapshot) -> None:
        """Tell a person why the record cannot be right, or which findings they must decide on."""
        doubt = self._authority.doubt
        if doubt:
            self._say("person", doubt)
            return
        step = next_step(self.pair, snapshot, self._wish.want, assume_good=self._assume_good)
        if isinstance(step, Decide):
            self._say("person", "; also: ".join(map(str, step.findings)))
            return
        for one in decided:
            # The QEMU that has ended has reported the writes, and no snapshot shows them any more.
            holder = one.record.holder
            if one.decision.event == "undecidable" and one.lacks_writes:
                why = f"{holder} has ended, and {one.node} lacks writes that {holder} has"
                remedy = f"end the QEMU of {one.node}, and {holder} is booted"
                lost = f"if {holder} is lost for good, launch {one.node} then with --newest"
                self._say("person", f"{why}; {remedy}; {lost} {one.node}")

    def _say_of_guest(self, node: str, notice: Notice) -> None:
        """Tell what the guest did by itself, as often as it does: nothing is done about it."""
        match notice:
            case ResetEvent(reason=reason):
                text = f"the guest was reset: {reason}"
            case GuestPanickedEvent(action=action):
                text = f"the guest has panicked, and QEMU's reaction is {action}"
            case _:
                return
        record = self._record
        # In COLO the holder is the primary. Its secondary runs the same guest.
        if record is None or node != record.holder:
            return
        if node in self._authority.decides(_members(record)):
            self._tell(SupervisorEvent(pair=self.pair.name, kind="guest", text=text, node=node))

    def _say(self, kind: EventKind, text: str, node: str | None = None) -> None:
        """Tell an event, unless the last one of this kind and node had the same text."""
        if kind == "person":
            self._person = text
        if self._said.get((kind, node)) == text:
            return
        self._said[kind, node] = text
        self._tell(SupervisorEvent(pair=self.pair.name, kind=kind, text=text, node=node))

    # -- waiting

    def _observe(self, node: str, notice: Notice) -> None:
        self._count_checkpoint(node, notice)
        self._say_of_guest(node, notice)
        self._detector.observe(node, notice)
        is_checkpoint = self._is_calm and isinstance(notice, StopEvent | ResumeEvent)
        if not is_checkpoint and not self._is_executing:
            # A checkpoint matters only to a keeper that waits for one, and nothing to one whose
            # plan is executed: the end of that plan wakes it.
            self._news.set()
        if not isinstance(notice, StopEvent | ResumeEvent) and not self._tries.failed_s:
            self._due_s = min(self._due_s, self._now_s())

    def _count_checkpoint(self, node: str, notice: Notice) -> None:
        # The first of the phases is the holder's, COLO's primary: clients wait for its guest.
        if node == next(iter(self._phases), None):
            if isinstance(notice, StopEvent):
                self._authority.checkpoint_begins()
                self._tally.checkpoint_begins()
            pause_s = self._detector.pause_s(node, notice)
            if pause_s is not None:
                self._tally.checkpoint(pause_s)
                self._authority.checkpoint()

    def _apply_wish(self) -> None:
        """Take note of what is wanted, if that was changed.

        Raises:
            StoreError: What is wanted cannot be read, and was never read before.
        """
        try:
            wish = self._authority.wish()
        except StoreError as error:
            if not self._is_wish_known:
                raise
            # A failover needs no store, so the keeper continues.
            why = f"what is wanted cannot be read: {error}"
            self._say("person", f"{why}; repair the store, what was wanted before still is")
            return
        self._is_wish_known = True
        if wish == self._wish:
            return
        if wish.want not in ("stopped", self._wish.want):
            # A guest is wanted again: an earlier shutdown by the guest does not count any more. A
            # pause, or its end, says nothing of the guest.
            self._detector.forget_shutdowns()
        is_aside = wish.paused is not None and self._authority.frees_monitors
        if is_aside != self._detector.is_aside:
            self._detector.stand_aside(self._controller.snapshot, is_aside=is_aside)
            self._is_stale, self._is_aside = True, False
        left = self._destination
        self._wish = wish
        self._controller.want(wish.want)
        self._due_s = self._now_s()
        paused = "" if wish.paused is None else f"; supervision is paused {wish.paused}"
        moves = "" if wish.moves_to is None else f"; the secondary moves to {wish.moves_to}"
        if wish.want != "protected" and left is not None:
            moves = f"; the secondary moves to {left} no more"
        self._say("state", f"{wish.want} is wanted{moves}{paused}")

    async def _rest(self) -> None:
        if self._work is None:
            self.begun.set()
        limit_s = self._rest_s()
        self._is_calm = limit_s > _AWAKE_S
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await self._news.wait()
        finally:
            self._is_calm = False

    def _rest_s(self) -> float:
        """How long to wait for news before the next turn, in seconds."""
        declared = self.pair.supervision
        health = [self._health(node) for node in self._phases]
        is_alert = self._authority.claimed_by is not None or self._authority.is_lost
        is_alert = is_alert or not _ALERT.isdisjoint(self._phases.values())
        if is_alert or any(one.signals or one.colo_exit_s for one in health):
            return min(declared.silent_s, declared.primary_s) / 4
        return max(self._quiet_s(), _AWAKE_S)

    def _quiet_s(self) -> float:
        """How long a protected pair needs no decision without news, in seconds; else 0."""
        snapshot, record = self._controller.snapshot, self._record
        is_busy = self._work is not None or self._takeover is not None or self._is_stale
        is_busy = is_busy or self._search is not None or self._controller.is_acting
        if is_busy or not self._is_protected or snapshot is None or record is None:
            return 0.0
        if self._wish.paused is not None or self._detector.has_shutdown:
            return 0.0
        now_s, limits = self._now_s(), self._limits(snapshot, record)
        ends = [self._health(node).checkpoint_s for node in self._phases]
        last_s = max((at_s for at_s in ends if at_s is not None), default=now_s)
        return min(self._due_s, last_s + limits.stands_s("no-checkpoint")) - now_s

    def _now_s(self) -> float:
        return self._beat.now_s()


@final
@attrs.frozen(kw_only=True)
class _Decided:
    """A decision for one node, with the record and the observation that it was made on."""

    node: str
    record: PairRecord
    seen: Observation
    decision: Decision

    @property
    def lacks_writes(self) -> bool:
        """Whether this secondary no longer gets the writes of its primary."""
        return self.node != self.record.holder and self.seen.replication_lost

    @property
    def peer(self) -> str | None:
        """The other node that the record names; None if there is none."""
        return _peer(self.record, self.node)


def _members(record: PairRecord) -> tuple[str, ...]:
    """The one or two nodes that the record names, the holder first."""
    partner = record.partner
    return (record.holder,) if partner is None else (record.holder, partner)


def _peer(record: PairRecord, node: str) -> str | None:
    """The other node that the record names; None if there is none."""
    return next((name for name in _members(record) if name != node), None)


def _are_protected(decided: Sequence[_Decided]) -> bool:
    """Whether every decision has the state `protected` and the event `quiet`."""
    decisions = [(one.decision.state, one.decision.event) for one in decided]
    return bool(decisions) and all(one == ("protected", "quiet") for one in decisions)


def _has_diverged(health: NodeHealth, theirs: NodeHealth, now_s: float) -> bool:
    """Whether the other node's guest shut down over `SHUTDOWN_S` ago, and this node's has not."""
    at_s = theirs.shutdown_s
    return at_s is not None and health.shutdown_s is None and now_s - at_s > SHUTDOWN_S

"""An agent's authority: the record that an arbiter holds, before the files of the hosts.

Every record that a plan writes is swapped into the arbiter first, so that plans are the same as
without one. The files carry the arbiter's name (`managed_by`): whoever does not ask that arbiter
takes no right from them. With nothing else held back, a node's right is the arbiter's word, and its
own file, which is durable before its guest runs alone, shows an arbiter that was restored from a
backup.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Collection, Coroutine, Generator, Mapping
from datetime import UTC, datetime
from typing import Final, final

import attrs
from typing_extensions import override

from pycolo.errors import (
    ArbiterError,
    ArbiterLost,
    ArbiterOvertaken,
    CommandUnknown,
    FuseError,
    FuseRefused,
    HostRefused,
    RemoteError,
)
from pycolo.evidence import Evidence, Victim
from pycolo.facts import HostFacts, NoFacts, Part
from pycolo.hosts import Host, HostState
from pycolo.model import ColoPair
from pycolo.model.node import Monitor
from pycolo.plan import HostAction, LaunchQemu, StopQemu
from pycolo.qmp.replies import Version
from pycolo.record import Change, DamagedRecord, NoRecord, PairRecord, RecordState
from pycolo.snapshot import Snapshot
from pycolo.supervise._authority import Authority
from pycolo.supervise._events import EventKind
from pycolo.supervise.arbiter import Arbiter, Held
from pycolo.supervise.guard import Guard
from pycolo.supervise.shared import SharedRecord
from pycolo.supervise.store import Wish

_ANSWER_S: Final = 2.0
_FOLLOW_S: Final = 10.0
_AGAIN_S: Final = 0.25
_BEAT_S: Final = 0.25
_LOG: Final = logging.getLogger("pycolo.supervise")
_FIRST: Final = (1, 0)
_WRITE: Final = "write-record"
_STOP: Final = "stop-qemu"
_LATER: Final = "the arbiter holds a later record than the one that was read; look again"


@final
class Arbitration(Authority):
    """What one node's agent knows of the arbiter, and does there; a context manager.

    Args:
        pair: The declaration.
        node: The node of this agent.
        hosts: Node name to its host; the agent's own one is at hand, the others may be out of
            reach. Not closed by it.
        arbiter: Holds the pair's record; not closed by it.
        guard: The fuse of this node's host; None if it has none.
        wake: Is called whenever something was learnt; must be quick and must not raise.
        tell: Is called with what goes wrong: the kind of event, and words.
    """

    def __init__(
        self,
        pair: ColoPair,
        node: str,
        hosts: Mapping[str, Host],
        arbiter: Arbiter,
        *,
        guard: Guard | None,
        wake: Callable[[], None],
        tell: Callable[[EventKind, str], None],
    ) -> None:
        self._pair: Final = pair
        self._node: Final = node
        self._arbiter: Final = arbiter
        # What names the arbiter in the files; known before anything that it holds.
        self._name = ""
        self._guard: Final = guard
        self._wake: Final = wake
        self._tell: Final = tell
        self._is_outage_told = False
        self._plain: Final = hosts
        self._held: Held | None = None
        self._is_lost = True
        self._doubted = asyncio.Event()
        self._files: dict[str, RecordState] = {}
        self._written: PairRecord | None = None
        self._is_adopting = False
        self._looked_on: SharedRecord | None = None
        self._arming = asyncio.Lock()
        self._armed: str | None = None
        # An agent before this one may have armed it.
        self._may_be_armed = True
        # A swap without an answer may still arrive, and make a secondary eligible.
        self._may_arrive = True
        self._may_run = asyncio.Event()
        self._may_run_as_of_s = 0.0
        self._begun_as_of_s = 0.0
        self._leased_as_of: tuple[str, float] | None = None
        self._is_due = asyncio.Event()
        self._renewed: str | None = None
        # Whatever was said before the first of these moments has been read since.
        self._read_until_s = (0.0, 0.0)
        self._stack = contextlib.AsyncExitStack()
        self.hosts: Final[Mapping[str, Host]] = {
            one: _ArbitratedHost(host, one, self) for one, host in hosts.items()
        }
        "Node name to its host, with the arbiter before its record."

    async def __aenter__(self) -> Arbitration:
        async with contextlib.AsyncExitStack() as stack:
            for work in (self._follow, self._renew, self._relight, self._beat):
                stack.push_async_callback(_ended, asyncio.create_task(self._kept_up(work)))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # -- what is known

    @property
    def _shared(self) -> SharedRecord | None:
        return None if self._held is None else self._held.shared

    @property
    @override
    def claimed_by(self) -> str | None:
        shared = self._shared
        return None if shared is None else shared.claimed_by

    @property
    @override
    def is_lost(self) -> bool:
        return self._is_lost

    @property
    @override
    def fuses(self) -> Mapping[str, float]:
        shared = self._shared
        return {} if shared is None else shared.fuses

    @property
    @override
    def ends(self) -> Mapping[str, Evidence]:
        held = self._held
        return {} if held is None else {end.instance: end for end in held.ends.values()}

    @property
    @override
    def observed(self) -> frozenset[str]:
        return frozenset(self._pair.names) - {self._node}

    @property
    @override
    def needs_checkpoints(self) -> bool:
        # Where its lease is renewed, that renews the fuse.
        is_renewed = not self._is_lost and not self.doubt and self._leased == self._armed
        return self._armed is not None and not is_renewed

    @property
    @override
    def cuts(self) -> bool:
        return True

    @property
    @override
    def doubt(self) -> str:
        shared, own = self._shared, self._files.get(self._node)
        if shared is None or not isinstance(own, PairRecord):
            return ""
        held = shared.record
        if own.birth != held.birth:
            return (
                f"{self._name} holds the record of another pair of this name than the file of"
                f" {self._node}; find out whose data is needed, and give the other one a new name"
            )
        if own.epoch > held.epoch:
            return (
                f"{self._name} holds epoch {held.epoch}, and the file of {self._node} epoch"
                f" {own.epoch}: the arbiter was restored from a backup that is too old; restore a"
                " later one, and see the manual on arbiters"
            )
        return ""

    @property
    @override
    def lets_go(self) -> bool:
        return False

    @override
    def wish(self) -> Wish:
        if self._held is None:
            return Wish(paused="until the arbiter answers")
        shared = self._held.shared
        if shared is None:
            return Wish()
        return Wish(want=shared.want, paused=shared.paused)

    @override
    def record(self, snapshot: Snapshot) -> PairRecord | None:
        shared = self._shared
        if shared is not None:
            return shared.record
        own = self._files.get(self._node)
        # Until the arbiter has answered once the pair is paused: it is looked at, so that the
        # checkpoints are heard that renew a fuse which an agent before this one has armed.
        return own if self._held is None and isinstance(own, PairRecord) else None

    @override
    def decides(self, members: Collection[str]) -> tuple[str, ...]:
        # Even if the record does not name it: a guest that runs here then has to be ended.
        return (self._node,)

    @override
    def drives(self, record: PairRecord | None) -> bool:
        if self._held is None:
            return False
        if record is None:
            is_first = self._node == self._pair.nodes[0].name
            return is_first and self._files.get(self._node) == NoRecord()
        if self._is_lost and not record.is_sole:
            # Another node may run alone by now, or claim the pair.
            return False
        if self.claimed_by is not None:
            return self.claimed_by == self._node
        if self._node != record.holder:
            return False
        # Once its QEMU has ended it is the other node's turn, unless that has ended as well.
        ended = {node: instance in self.ends for node, instance in record.eligible.items()}
        return all(ended.values()) or not ended.get(self._node, False)

    @override
    def lacks_lease(self, node: str) -> bool:
        return self._held is not None and not self._is_lost and node not in self._held.leases

    @override
    async def is_current(self) -> bool:
        before = self._shared
        if self._is_lost:
            return False
        with self._noted():
            found = await self._arbiter.read(self._pair.name, limit_s=_ANSWER_S)
            if found.shared == before:
                return True
            self._doubt()
        return False

    # -- what is changed

    @override
    async def claim(self, node: str) -> bool:
        shared = self._shared
        if shared is None:
            return False
        if shared.claimed_by == node:
            return True
        if not await self._swapped(attrs.evolve(shared, claimed_by=node)):
            return False
        # The fuse may have stopped its QEMU, as the other node's claim kept the lease from it.
        self._is_due.set()
        return True

    @override
    async def give_back(self) -> bool:
        shared = self._shared
        if shared is None or shared.claimed_by is None:
            return True
        if shared.claimed_by != self._node and shared.want != "stopped":
            return True
        # Nobody is to run alone where no guest is wanted: the one who claimed it may be gone.
        return await self._swapped(attrs.evolve(shared, claimed_by=None))

    @override
    async def stop(self) -> bool:
        shared = self._shared
        if shared is None:
            return False
        return await self._swapped(attrs.evolve(shared, want="stopped"))

    @override
    async def say_exit(self, end: Evidence) -> None:
        if self._held is None or self._held.ends.get(end.node) == end:
            return
        with self._noted():
            await self._arbiter.state(self._pair.name, end, limit_s=_ANSWER_S)

    @override
    def lease_evidence(self, peer: str, instance: str, epoch: int) -> Evidence | None:
        return Evidence.of(
            Victim(node=peer, instance=instance, epoch=epoch),
            kind="self-fence",
            who=self._name,
            how=f"the lease of {peer} has run out",
            when=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )

    @override
    def way_out(self, node: str) -> str:
        # A lease may still run out, which is evidence if a fuse was armed.
        later = "if the guest does not continue within a few seconds"
        said = f"type `pycolo fenced PAIRFILE {node} --how TEXT` on this one"
        remedy = f"bring its host back, or switch that host off and {said}"
        return f"{later}, {remedy}"

    @override
    async def settle(self, snapshot: Snapshot) -> bool:
        if self._held is None or self._is_lost:
            return False
        shared, own = self._held.shared, self._files.get(self._node)
        if shared is None:
            return await self._adopted(snapshot)
        if self._looked_on is None or self._looked_on.record != shared.record:
            # Another node's agent may have launched or ended a QEMU here.
            return True
        is_due = self._node in shared.record.named and _is_behind(own, shared.record)
        # A file that was lost: the QEMU that the record names runs, as nothing has replaced it.
        is_due = is_due or (isinstance(own, NoRecord) and self._runs(snapshot, shared.record))
        # Else another node's agent wrote it, or one died between the arbiter and this file.
        return is_due and await self._filed(self._node, shared.record)

    def _runs(self, snapshot: Snapshot, record: PairRecord) -> bool:
        """Whether the QEMU that a record lets run alone on this node answers."""
        live = snapshot.live(self._node)
        return live is not None and live.instance == record.eligible.get(self._node)

    @override
    def checkpoint_begins(self) -> None:
        self._begun_as_of_s = self._read_until_s[0]

    @override
    def checkpoint(self) -> None:
        # The secondary took part in it after it began, and may have left COLO before it ended.
        self._may_run_as_of_s = self._begun_as_of_s
        self._may_run.set()

    # -- the files

    async def _adopted(self, snapshot: Snapshot) -> bool:
        """Hand the files' record over to the arbiter, by the holder's agent."""
        files = {n: r for n, r in snapshot.records.items() if isinstance(r, PairRecord)}
        top = max(files.values(), key=lambda record: record.order, default=None)
        if top is None or top.holder != self._node:
            return False
        others = {record.managed_by for record in files.values()} - {None}
        if others:
            # Its agents would go by that one, and this one by another.
            names = " and ".join(sorted(map(str, others)))
            why = f"the pair's records are handed over to {names}, not to {self._name}"
            self._tell("person", f"{why}: configure this agent with that arbiter")
            return False
        if any(not isinstance(state, PairRecord | NoRecord) for state in snapshot.records.values()):
            when = "once every node's record can be read: bring its hosts back"
            self._tell("trouble", f"the pair is handed to {self._name} {when}")
            return False
        if self._has_mark(self._node) and not self._is_adopting:
            why = f"{self._name} holds nothing of this pair, whose records are handed to it"
            remedy = "restore its data, and see the manual on arbiters"
            self._tell("person", f"{why}: it has lost them; {remedy}")
            return False
        # A marked file gives no right, so that nobody goes by it while both places hold a record.
        self._is_adopting = True
        for node in top.eligible:
            if not self._has_mark(node) and not await self._filed(node, files[node]):
                return False
        record = attrs.evolve(top, epoch=top.epoch + 1, revision=0)
        async with self._arming:
            return await self._swapped(await self._next(None, record))

    def _has_mark(self, node: str) -> bool:
        found = self._files.get(node)
        return isinstance(found, PairRecord) and found.managed_by == self._name

    async def _filed(self, node: str, record: PairRecord) -> bool:
        """Write a record that the arbiter has, or is to have, into a node's file."""
        found = self._files.get(node)
        if not isinstance(found, PairRecord | DamagedRecord | NoRecord):
            return False
        change = Change(expects=found, becomes=self.named(record))
        try:
            await self._plain[node].write(self._pair, node, change, limit_s=_ANSWER_S)
        except RemoteError as error:
            self._tell("trouble", f"the record of {node} could not be written: {error}")
            return False
        self._files[node] = change.becomes
        return True

    def named(self, record: PairRecord) -> PairRecord:
        """A record as a file keeps it."""
        return attrs.evolve(record, managed_by=self._name)

    def found(self, node: str, state: RecordState) -> RecordState:
        """Take note of what is in a file; gives what a plan is to take it for."""
        self._files[node] = state
        if node == self._node:
            self._looked_on = self._shared
        if isinstance(state, PairRecord) and state.managed_by == self._name:
            return attrs.evolve(state, managed_by=None)
        return state

    def change(self, node: str, change: Change) -> Change:
        """What a plan changes, as a change of the file."""
        found, expects = self._files.get(node), change.expects
        match expects, found:
            case PairRecord(), PairRecord() if _same(expects, found):
                expects = found
            case _:
                pass
        return Change(expects=expects, becomes=self.named(change.becomes))

    def monitor(self, node: str, monitor: Monitor) -> Monitor:
        """The monitor by which this agent speaks to a node: the first one is its own agent's."""
        declared = self._pair.node(node)
        is_peers = node != self._node and monitor == declared.control_monitor
        return declared.observer_monitor if is_peers else monitor

    async def permit(self, node: str, record: PairRecord) -> None:
        """Swap a record into the arbiter before a file gets it.

        Raises:
            HostRefused: The arbiter does not let it be written.
            CommandUnknown: It is not known whether the arbiter has it.
        """
        held = self._held
        shared = None if held is None else held.shared
        if shared is not None and _same(shared.record, record):
            # The arbiter has it already.
            return
        if held is None or self._is_lost:
            raise HostRefused(node, _WRITE, "the arbiter gives no answer")
        refusal = self._refusal(shared, record)
        if refusal is not None:
            raise HostRefused(node, _WRITE, refusal)
        try:
            async with self._arming:
                new = await self._next(shared, record)
                # What was armed for it has to be renewed in time, whether it succeeds or not.
                fuse_s = new.fuses.get(self._node, self._pair.supervision.fuse_s)
                await self._swap(
                    held,
                    new,
                    no_lease_of=_lessee(shared, record),
                    limit_s=min(_ANSWER_S, fuse_s / 2),
                )
        except ArbiterOvertaken as error:
            self._doubt()
            raise HostRefused(node, _WRITE, str(error)) from error
        except ArbiterLost as error:
            self._doubt()
            raise CommandUnknown(node, _WRITE, error.why) from error
        self._written = record
        self._wake()
        await self._disarm_needless()

    def _refusal(self, shared: SharedRecord | None, record: PairRecord) -> str | None:
        """Why a record must not replace the arbiter's; None if it may."""
        if shared is None:
            is_new = self._files.get(self._node) == NoRecord()
            return None if is_new else "its record is not the arbiter's yet"
        if shared.claimed_by not in (None, self._node):
            return f"{shared.claimed_by} claims the pair"
        if not self._knows(shared.record):
            return _LATER
        if record.order <= shared.record.order or record.birth != shared.record.birth:
            return "it does not follow on the arbiter's record; look again"
        return None

    def _knows(self, record: PairRecord) -> bool:
        """Whether a record is the one that this agent has read from its node's file, or written."""
        both = (self._files.get(self._node), self._written)
        return any(isinstance(one, PairRecord) and _same(one, record) for one in both)

    async def permit_end(self, node: str) -> None:
        """See that this agent may have another host end its QEMU.

        Raises:
            HostRefused: The arbiter gives no answer, another node claims the pair, or the record
                is not the one by which this agent acts.
        """
        if node == self._node:
            return
        if not await self.is_current():
            raise HostRefused(node, _STOP, "the arbiter gives no answer, or a new one; look again")
        shared = self._shared
        if shared is None:
            return
        if shared.claimed_by not in (None, self._node):
            raise HostRefused(node, _STOP, f"{shared.claimed_by} claims the pair")
        if not self._knows(shared.record):
            raise HostRefused(node, _STOP, _LATER)

    async def _next(self, shared: SharedRecord | None, record: PairRecord) -> SharedRecord:
        """What the arbiter is to hold; the fuse is armed before a secondary becomes eligible."""
        before = shared or SharedRecord(record=record)
        fuses: Mapping[str, float] = {} if record.is_sole else before.fuses
        if record.phase == "protected" and record.holder == self._node:
            armed_s = await self._arm(record.eligible[self._node])
            fuses = fuses if armed_s is None else {self._node: armed_s}
        return attrs.evolve(before, record=record, claimed_by=None, fuses=fuses)

    async def _swapped(self, shared: SharedRecord) -> bool:
        held = self._held
        if held is None:
            return False
        with self._noted():
            await self._swap(held, shared)
            self._wake()
            return True
        return False

    async def _swap(
        self,
        held: Held,
        shared: SharedRecord,
        *,
        no_lease_of: str | None = None,
        limit_s: float = _ANSWER_S,
    ) -> None:
        """Replace what the arbiter holds; errors as `Arbiter.swap`."""
        try:
            self._held = await self._arbiter.swap(
                self._pair.name, held, shared, no_lease_of=no_lease_of, limit_s=limit_s
            )
        except ArbiterOvertaken:
            raise
        except BaseException:
            self._may_arrive = True
            raise
        # Whatever was sent before was on another state of the record.
        self._may_arrive = False

    @contextlib.contextmanager
    def _noted(self) -> Generator[None]:
        """Take note that the arbiter gave no answer, or holds something else: it is read again."""
        try:
            yield
        except ArbiterError as error:
            self._doubt()
            self._tell("trouble", str(error))

    def _doubt(self) -> None:
        """Have the arbiter read again, and nothing be built on what it held."""
        self._is_lost = True
        self._doubted.set()
        self._wake()

    # -- what goes on all the time

    async def _follow(self) -> None:
        while True:
            self._doubted.clear()
            try:
                found = await self._news()
            except ArbiterLost as error:
                self._is_lost = True
                if not self._is_outage_told:
                    # Once an outage: its members may give different reasons in turn.
                    self._is_outage_told = True
                    self._tell("trouble", str(error))
                self._wake()
                await asyncio.sleep(_AGAIN_S)
                continue
            self._is_outage_told = False
            if found is None:
                continue
            is_news = self._is_lost or found != self._held
            self._held, self._is_lost = found, False
            if is_news:
                await self._disarm_needless()
                if self._leased != self._renewed:
                    # A QEMU that has just become eligible gets its lease at once.
                    self._is_due.set()
                self._wake()

    async def _kept_up(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run a background loop until it returns; report an error it raises, and start it again."""
        while True:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - as the next line says
                # Nobody waits for it: whatever ended it would leave the agent with an old record.
                _LOG.exception("a task that talks to the arbiter of %s failed", self._pair.name)
                why = f"a task that talks to the arbiter failed and is started again: {error}"
                self._tell("person", f"{why}; if it fails again, restart the agent and report it")
            else:
                return
            self._doubt()
            await asyncio.sleep(_AGAIN_S)

    async def _news(self) -> Held | None:
        """What the arbiter holds, once that has changed; None if it has to be read again."""
        pair = self._pair.name
        if not self._name:
            self._name = await self._arbiter.identity(limit_s=_ANSWER_S)
        if self._held is None or self._is_lost:
            return await self._arbiter.read(pair, limit_s=_ANSWER_S)
        before = self._held
        changed = asyncio.ensure_future(self._arbiter.changed(pair, before, limit_s=_FOLLOW_S))
        doubted = asyncio.ensure_future(self._doubted.wait())
        try:
            await asyncio.wait((changed, doubted), return_when=asyncio.FIRST_COMPLETED)
            # Whatever was changed from here since is newer than what was waited for.
            is_current = changed.done() and self._held is before
            return changed.result() if is_current else None
        finally:
            for waiting in (changed, doubted):
                waiting.cancel()
            await asyncio.wait((changed, doubted))

    async def _renew(self) -> None:
        """Renew the lease, and by it the fuse, as long as the arbiter lets this node run alone."""
        while True:
            interval_s = self.fuses.get(self._node, self._pair.supervision.fuse_s) / 4
            self._is_due.clear()
            instance = self._leased
            if instance is not None:
                await self._renew_once(instance, interval_s)
                self._renewed = instance
            # The fuse may have given no answer before.
            await self._disarm_needless()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._is_due.wait()

    @property
    def _leased(self) -> str | None:
        """The QEMU of this node whose lease is renewed: it may run alone beside another one."""
        shared = self._shared
        if shared is None or shared.record.is_sole:
            return None
        instance = shared.record.eligible.get(self._node)
        return instance if instance is not None and instance not in self.ends else None

    async def _renew_once(self, instance: str, interval_s: float) -> None:
        guard, shared = self._guard, self._shared
        if shared is None:
            return
        as_of_s = 0.0 if guard is None else guard.now_s()
        try:
            is_renewed = await self._arbiter.renew(
                self._pair.name,
                self._node,
                instance,
                lease_s=shared.lease_s(self._node, self._pair.supervision),
                limit_s=interval_s,
            )
        except ArbiterLost:
            self._doubt()
            return
        if is_renewed and self._node in self.fuses:
            self._leased_as_of = (instance, as_of_s)
            self._may_run.set()

    async def _take_over(self) -> None:
        """Take over the fuse that an agent before this one has armed, once it says so."""
        while self._guard is not None and self._may_be_armed:
            try:
                armed = await self._guard.armed()
            except FuseError as error:
                self._tell("trouble", str(error))
                await asyncio.sleep(_AGAIN_S)
                continue
            if self._may_be_armed:
                self._armed, self._may_be_armed = armed, False

    async def _beat(self) -> None:
        """Keep the moment since which every event is still new.

        After this process, or the whole machine, did not run for a while, what is read first was
        said before that. It may be read after the beat that comes first, but not after a second.
        """
        while self._guard is not None:
            self._read_until_s = (self._read_until_s[1], self._guard.now_s())
            await asyncio.sleep(_BEAT_S)

    async def _relight(self) -> None:
        """Renew the fuse by what checkpoints have shown, and by the lease.

        Apart from the lease: a fuse that gives no answer for a while must not delay that.
        """
        await self._take_over()
        while True:
            await self._may_run.wait()
            self._may_run.clear()
            leased, self._leased_as_of = self._leased_as_of, None
            if self._guard is None:
                continue
            if leased is not None and leased[0] != self._armed:
                # An agent before this one has armed it.
                await self._arm(leased[0])
            if self._armed is not None:
                await self._renew_fuse(self._guard, self._armed, leased)

    async def _renew_fuse(
        self, guard: Guard, instance: str, leased: tuple[str, float] | None
    ) -> None:
        is_leased = leased is not None and leased[0] == instance
        as_of_s = self._may_run_as_of_s
        if leased is not None and is_leased:
            as_of_s = max(as_of_s, leased[1])
        try:
            await guard.renew(instance, as_of_s=as_of_s)
        except FuseRefused as error:
            self._tell("trouble", str(error))
            if is_leased:
                # It has lost what was armed, and the arbiter says that it guards this node.
                await self._arm(instance)
        except FuseError as error:
            self._tell("trouble", str(error))

    async def _arm(self, instance: str) -> float | None:
        """Arm the fuse; gives after how many seconds it stops QEMU, None if it is not armed."""
        if self._guard is None:
            return None
        try:
            armed_s = await self._guard.arm(instance)
        except FuseError as error:
            self._tell("trouble", str(error))
            return None
        self._armed, self._may_be_armed = instance, False
        return armed_s

    async def _disarm_needless(self) -> None:
        """Disarm the fuse once the record names this node alone, or its QEMU has ended."""
        async with self._arming:
            shared, instance = self._shared, self._armed
            if self._guard is None or self._is_lost or shared is None or instance is None:
                return
            is_alone = shared.record.is_sole and shared.record.holder == self._node
            if instance not in self.ends and not (is_alone and await self._stays(shared)):
                return
            if await self._with_fuse(self._guard.disarm(instance)):
                self._armed = None

    async def _stays(self, shared: SharedRecord) -> bool:
        """Whether a record that names this node alone stays, unless this agent changes it."""
        if self._node not in self._files or self.doubt:
            # An arbiter that was restored from a backup may get a later one.
            return False
        # The same once more: whatever was sent on the state before does not succeed any more.
        return not self._may_arrive or await self._swapped(shared)

    async def _with_fuse(self, work: Coroutine[object, object, None]) -> bool:
        try:
            await work
        except FuseError as error:
            self._tell("trouble", str(error))
            return False
        return True


@final
class _ArbitratedHost:
    """A host whose records go by way of the arbiter."""

    def __init__(self, host: Host, node: str, arbitration: Arbitration) -> None:
        self._host = host
        self._node = node
        self._arbitration = arbitration

    async def connect(self, node: str, monitor: Monitor) -> socket.socket:
        """See `Host`."""
        return await self._host.connect(node, self._arbitration.monitor(node, monitor))

    async def observe(self, pair: ColoPair, node: str, *, limit_s: float) -> HostState:
        """See `Host`."""
        found = await self._host.observe(pair, node, limit_s=limit_s)
        return attrs.evolve(found, record=self._arbitration.found(node, found.record))

    async def write(self, pair: ColoPair, node: str, change: Change, *, limit_s: float) -> None:
        """See `Host`."""
        await self._arbitration.permit(node, change.becomes)
        file = self._arbitration.change(node, change)
        try:
            await self._host.write(pair, node, file, limit_s=limit_s)
        except HostRefused:
            # The node's own agent may have been first: it writes what the arbiter holds.
            there = (await self._host.observe(pair, node, limit_s=limit_s)).record
            if not isinstance(there, PairRecord) or not _same(there, file.becomes):
                raise
            file = attrs.evolve(file, becomes=there)
        self._arbitration.found(node, file.becomes)

    async def run(self, pair: ColoPair, node: str, action: HostAction, *, limit_s: float) -> str:
        """See `Host`."""
        if isinstance(action, StopQemu):
            await self._arbitration.permit_end(node)
        if isinstance(action, LaunchQemu) and action.record is not None:
            action = attrs.evolve(action, record=self._arbitration.named(action.record))
        return await self._host.run(pair, node, action, limit_s=limit_s)

    async def death(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """See `Host`."""
        return await self._host.death(pair, victim, limit_s=limit_s)

    async def ended(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """See `Host`."""
        return await self._host.ended(pair, victim, limit_s=limit_s)

    async def version(self, pair: ColoPair, node: str, *, limit_s: float) -> Version:
        """See `Host`."""
        return await self._host.version(pair, node, limit_s=limit_s)

    async def facts(
        self, pair: ColoPair, node: str, parts: Collection[Part], *, limit_s: float
    ) -> HostFacts | NoFacts:
        """See `Host`."""
        return await self._host.facts(pair, node, parts, limit_s=limit_s)

    async def aclose(self) -> None:
        """It closes nothing that it was given."""


def _same(one: PairRecord, other: PairRecord) -> bool:
    """Whether two records say the same, whoever gave the evidence and wherever they lie."""
    return _bare(one) == _bare(other)


def _bare(record: PairRecord) -> PairRecord:
    return attrs.evolve(record, evidence=None, managed_by=None)


def _is_behind(file: RecordState | None, record: PairRecord) -> bool:
    """Whether a file lacks what the arbiter's record says of the same pair."""
    match file:
        case DamagedRecord():
            return True
        case PairRecord():
            return file.birth == record.birth and file.order < record.order
        case NoRecord(lost=None):
            # Nothing has been launched by a pair's first record before its file was written.
            return record.order == _FIRST
        case _:
            return False


def _lessee(shared: SharedRecord | None, record: PairRecord) -> str | None:
    """The node that must have no lease when a record replaces the arbiter's.

    Later records keep the evidence of the last failover, while that node has a QEMU and a lease
    again.
    """
    evidence = record.evidence
    if shared is None or evidence is None or evidence.kind != "self-fence" or not record.is_sole:
        return None
    is_about_it = shared.record.eligible.get(evidence.node) == evidence.instance
    return evidence.node if is_about_it else None


async def _ended(task: asyncio.Task[object]) -> None:
    task.cancel()
    await asyncio.wait((task,))

"""An agent's authority: the record in an arbiter, which is changed before the files of the hosts.

Plans are the same as without an arbiter: if a plan writes a record into a node's file, the record
is swapped into the arbiter first. The files carry the arbiter's name (`managed_by`), and give no
rights to a program that does not ask that arbiter. An agent takes its node's rights from the
arbiter alone. From the node's own file, which is written before the node's guest runs alone, the
agent notices an arbiter that was restored from an old backup.
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
from pycolo.supervise._measures import LeaseAge
from pycolo.supervise.arbiter import Arbiter, Held
from pycolo.supervise.guard import Guard
from pycolo.supervise.shared import SharedRecord
from pycolo.supervise.store import Wish
from pycolo.supervise.wishes import wish_of

_ANSWER_S: Final = 2.0
_FOLLOW_S: Final = 10.0
_AGAIN_S: Final = 0.25
_BEAT_S: Final = 0.25
_LOG: Final = logging.getLogger("pycolo.supervise")
_FIRST: Final = (1, 0)
_WRITE: Final = "write-record"
_STOP: Final = "stop-qemu"
_RELEASED: Final = "the pair was released from the arbiter to its files"
_LATER: Final = "the arbiter holds a later record than the one that was read; it is read again"


@final
class Arbitration(Authority):
    """What one node's agent has read from the arbiter, and its changes there.

    Its background tasks run from `begin` to `end`.

    Args:
        pair: The declaration.
        node: The node of this agent.
        hosts: Node name to its host: this machine for the agent's own node; the other hosts may be
            out of reach. They are not closed.
        arbiter: Holds the pair's record; it is not closed.
        guard: The fuse of this node's host; None if it has none.
        wake: Is called when the arbiter's record may have changed, or is in doubt; must be quick
            and must not raise.
        tell: Is called when something goes wrong, with the kind of the event and a sentence
            without a full stop.
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
        # The arbiter's name in the files; read before anything that the arbiter holds.
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
        self._observed_record: SharedRecord | None = None
        self._arming = asyncio.Lock()
        self._armed: str | None = None
        # An earlier agent may have armed the fuse.
        self._may_be_armed = True
        # A swap that got no answer may still be done, and make a secondary eligible.
        self._may_arrive = True
        self._may_run = asyncio.Event()
        self._may_run_as_of_s = 0.0
        self._begun_as_of_s = 0.0
        self._leased_as_of: tuple[str, float] | None = None
        # The QEMU whose lease was renewed last, when that was sent, and the longest time between.
        self._lease: tuple[str, float, float] | None = None
        self._is_due = asyncio.Event()
        self._renewed: str | None = None
        # Every event that QEMU sent before the first of these moments has been read since.
        self._read_until_s = (0.0, 0.0)
        self._tasks: list[asyncio.Task[None]] = []
        self.hosts: Final[Mapping[str, Host]] = {
            one: _ArbitratedHost(host, one, self) for one, host in hosts.items()
        }
        "Node name to its host, which swaps records into the arbiter before it writes them."

    @override
    def begin(self) -> None:
        if not self._tasks:
            works = (self._follow, self._renew, self._relight, self._beat)
            self._tasks = [asyncio.create_task(self._kept_up(work)) for work in works]

    @override
    async def end(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in reversed(tasks):
            await _ended(task)

    @property
    @override
    def hinders_removal(self) -> str:
        if self._guard is None or not self._tasks:
            return ""
        if self._armed is None and not self._may_be_armed:
            return ""
        what = "guards" if self._armed is not None else "may guard"
        return f"the fuse of {self._node} {what} its QEMU, and would stop it without this agent"

    # -- what the arbiter holds

    @property
    def _stored(self) -> SharedRecord | None:
        """What the arbiter holds, even if the pair was released."""
        return None if self._held is None else self._held.shared

    @property
    def _shared(self) -> SharedRecord | None:
        """What this agent acts by: None if the arbiter holds nothing, or if the files count."""
        stored = self._stored
        return None if stored is None or stored.released is not None else stored

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
        # If the node's lease is renewed, this renews its fuse as well.
        is_renewed = not self._is_lost and not self.doubt and self._leased == self._armed
        return self._armed is not None and not is_renewed

    @property
    @override
    def cuts(self) -> bool:
        return True

    @property
    @override
    def doubt(self) -> str:
        stored, own = self._stored, self._files.get(self._node)
        if stored is None or not isinstance(own, PairRecord):
            return ""
        held = stored.record
        if own.birth != held.birth:
            return (
                f"{self._name} holds the record of another pair of this name than the file of"
                f" {self._node}; find out whose data is needed, and give the other one a new name"
            )
        if stored.released is not None and own.managed_by is None:
            # The pair was changed by its files since it was released.
            return ""
        if own.epoch > held.epoch:
            return (
                f"{self._name} holds epoch {held.epoch}, and the file of {self._node} epoch"
                f" {own.epoch}: the arbiter was restored from a backup that is too old; restore a"
                " later one, and see the manual on arbiters"
            )
        return ""

    @property
    @override
    def frees_monitors(self) -> bool:
        # No lease and no fuse is left to renew then, and other programs act by the files.
        stored = self._stored
        return stored is not None and stored.released == "to-files"

    @override
    def wish(self) -> Wish:
        if self._held is None:
            return Wish(paused="until the arbiter answers")
        shared = self._held.shared
        return Wish() if shared is None else wish_of(shared)

    @override
    def record(self, snapshot: Snapshot) -> PairRecord | None:
        shared = self._shared
        if shared is not None:
            return shared.record
        own = self._files.get(self._node)
        # Until the arbiter has answered once, the pair is paused. It is observed all the same, to
        # hear the checkpoints that renew a fuse which an earlier agent has armed.
        return own if self._held is None and isinstance(own, PairRecord) else None

    @override
    def decides(self, members: Collection[str]) -> tuple[str, ...]:
        # Even if the record does not name this node: a guest that runs here must then be ended.
        return (self._node,)

    @override
    def drives(self, record: PairRecord | None) -> bool:
        if self._held is None:
            return False
        if self._shared is None and self._stored is not None:
            # The files count. A node whose file is absent must not begin the pair anew.
            return False
        if record is None:
            return self._node == self._pair.nodes[0].name and self._is_new
        if self._is_lost and not record.is_sole:
            # Another node may run alone by now, or claim the pair.
            return False
        if self.claimed_by is not None:
            return self.claimed_by == self._node
        if self._node != record.holder:
            return False
        # Once the holder's QEMU has ended, the other node acts, unless its QEMU has ended as well.
        ended = {node: instance in self.ends for node, instance in record.eligible.items()}
        return all(ended.values()) or not ended.get(self._node, False)

    @override
    def lacks_lease(self, node: str) -> bool:
        return self._held is not None and not self._is_lost and node not in self._held.leases

    @override
    async def is_current(self) -> bool:
        before = self._stored
        if self._is_lost:
            return False
        with self._noted():
            found = await self._arbiter.read(self._pair.name, limit_s=_ANSWER_S)
            if found.shared == before:
                return True
            self._doubt()
        return False

    # -- changes in the arbiter

    @override
    async def claim(self, node: str) -> bool:
        shared = self._shared
        if shared is None:
            return False
        if shared.claimed_by == node:
            return True
        if not await self._swapped(attrs.evolve(shared, claimed_by=node)):
            return False
        # The other node's claim kept this node's lease from being renewed, so that the fuse may
        # have stopped QEMU: renew the lease at once.
        self._is_due.set()
        return True

    @override
    async def give_back(self) -> bool:
        shared = self._shared
        if shared is None or shared.claimed_by is None:
            return True
        if shared.claimed_by != self._node and shared.want != "stopped":
            return True
        # If no guest is wanted, no node is to run alone. The node that claims the pair may be gone.
        return await self._swapped(attrs.evolve(shared, claimed_by=None))

    @override
    async def stop(self) -> bool:
        shared = self._shared
        if shared is None:
            return False
        return await self._swapped(attrs.evolve(shared, want="stopped", moves_to=None))

    @override
    async def move(self, to: str | None) -> bool:
        shared = self._shared
        if shared is None or self._is_lost:
            return False
        return await self._swapped(attrs.evolve(shared, moves_to=to))

    @override
    async def say_exit(self, end: Evidence) -> None:
        if self._held is None:
            return
        stored = self._held.ends.get(end.node)
        if stored is not None and (stored.instance, stored.epoch) == (end.instance, end.epoch):
            # Whenever the host is asked it says when it was: to store that again proves no more.
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
    def lease_s(self, node: str) -> float | None:
        shared = self._shared
        if shared is None or (node == shared.record.holder and node not in shared.fuses):
            return None
        return shared.lease_s(node, self._pair.supervision)

    @override
    def way_out(self, node: str) -> str:
        said = f"type `pycolo fenced PAIRFILE {node} --how TEXT` on this one"
        return f"bring its host back, or switch that host off and {said}"

    @override
    async def settle(self, snapshot: Snapshot) -> bool:
        if self._held is None or self._is_lost:
            return False
        shared, own = self._shared, self._files.get(self._node)
        if shared is None:
            is_released = self._stored is not None and self._stored.released == "to-files"
            return not is_released and await self._adopted(snapshot)
        # If the arbiter loses this record later, a file with its name is not adopted again.
        self._is_adopting = False
        if self._observed_record is None or self._observed_record.record != shared.record:
            # Observe again: another node's agent may have launched or ended a QEMU here.
            return True
        is_due = self._node in shared.record.named and _is_behind(own, shared.record)
        # The file was lost, and the QEMU that the record names still runs: nothing replaced it.
        is_due = is_due or (isinstance(own, NoRecord) and self._runs(snapshot, shared.record))
        # The file is behind if another node's agent changed the record, or if an agent ended after
        # it changed the arbiter's record and before it wrote this file.
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
        # The beginning counts: the secondary may have left COLO before the checkpoint ended.
        self._may_run_as_of_s = self._begun_as_of_s
        self._may_run.set()

    # -- the files

    async def _adopted(self, snapshot: Snapshot) -> bool:
        """Put the newest record of the files into the arbiter, if this node is its holder.

        Before that, the arbiter's name is written into the files of all eligible nodes.

        Args:
            snapshot: What the last observation has shown.

        Returns:
            Whether the arbiter holds the record now.
        """
        files = {n: r for n, r in snapshot.records.items() if isinstance(r, PairRecord)}
        top = max(files.values(), key=lambda record: record.order, default=None)
        if top is None or top.holder != self._node:
            return False
        stored = self._stored
        if stored is not None and top.birth != stored.record.birth:
            # `doubt` says what a person must do.
            return False
        if stored is not None and top.order < stored.record.order:
            why = (
                f"{self._name} holds a later record than the files: the pair was not released whole"
            )
            self._tell("person", f"{why}; type `pycolo release` once more, then `pycolo want`")
            return False
        hindrance = self._hindrance(snapshot, top)
        if hindrance is not None:
            self._tell(*hindrance)
            return False
        # An agent may have ended before it had adopted the files again. A file that was written
        # after an adoption is newer than what is stored.
        is_begun = stored is not None and top.order == stored.record.order
        if self._has_mark(self._node) and not (self._is_adopting or is_begun):
            why = f"{self._name} holds nothing of this pair, whose records are handed to it"
            remedy = "restore its data, and see the manual on arbiters"
            self._tell("person", self.doubt or f"{why}: it has lost them; {remedy}")
            return False
        if stored is not None and stored.record != top:
            # This says which files may be marked, if this agent ends before it has adopted them.
            return await self._swapped(attrs.evolve(stored, record=top))
        # A file that names an arbiter gives no rights: no program acts by it once both the file and
        # the arbiter hold a record.
        self._is_adopting = True
        for node in top.eligible:
            if not self._has_mark(node) and not await self._filed(node, files[node]):
                return False
        record = attrs.evolve(top, epoch=top.epoch + 1, revision=0)
        async with self._arming:
            return await self._swapped(await self._next(stored, record))

    def _hindrance(self, snapshot: Snapshot, top: PairRecord) -> tuple[EventKind, str] | None:
        """What keeps the files from being adopted, as an event; None if nothing does.

        Args:
            snapshot: What the last observation has shown.
            top: The newest record of the files.
        """
        states = snapshot.records.values()
        others = {r.managed_by for r in states if isinstance(r, PairRecord)} - {None}
        if others:
            # The agents of that arbiter would act by its record, and this one by another record.
            names = " and ".join(sorted(map(str, others)))
            why = f"the pair's records are handed over to {names}, not to {self._name}"
            return "person", f"{why}: configure this agent with that arbiter"
        if any(not isinstance(state, PairRecord | NoRecord) for state in states):
            when = "once every node's record can be read: bring its hosts back"
            return "trouble", f"the pair is handed to {self._name} {when}"
        present = [n for n, r in snapshot.records.items() if isinstance(r, PairRecord)]
        absent = [node for node in (top.holder, *top.eligible) if node not in present]
        if absent:
            # That node may have continued alone since, and then has newer data.
            why = f"{absent[0]} may have run alone, and its record is absent"
            return "person", f"{why}: find out whose data is right, and see the manual on recovery"
        return None

    @property
    def _is_new(self) -> bool:
        """Whether the pair may be new: its own file is absent, and no other one holds a record.

        If one does, such as after this host was replaced, the holder's agent adopts it.
        """
        is_absent = self._files.get(self._node) == NoRecord()
        return is_absent and not any(isinstance(one, PairRecord) for one in self._files.values())

    def _has_mark(self, node: str) -> bool:
        found = self._files.get(node)
        return isinstance(found, PairRecord) and found.managed_by == self._name

    async def _filed(self, node: str, record: PairRecord) -> bool:
        """Write a record that the arbiter has, or is to have, into a node's file.

        Returns:
            Whether it was written; a host's error is reported and not raised.
        """
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
        """A record as it is written into a file: with the arbiter's name."""
        return attrs.evolve(record, managed_by=self._name)

    def found(self, node: str, state: RecordState) -> RecordState:
        """Take note of what a node's file holds.

        Args:
            node: The node.
            state: What was read from its file.

        Returns:
            The same for plans: without the name of this arbiter, which would deny the rights.
        """
        self._files[node] = state
        if node == self._node:
            self._observed_record = self._shared
        if isinstance(state, PairRecord) and state.managed_by == self._name:
            return attrs.evolve(state, managed_by=None)
        return state

    def change(self, node: str, change: Change) -> Change:
        """Translate a plan's change of a record into the change of a node's file.

        The file also holds the arbiter's name, and may hold other evidence than the plan knows.
        """
        found, expects = self._files.get(node), change.expects
        match expects, found:
            case PairRecord(), PairRecord() if _same(expects, found):
                expects = found
            case _:
                pass
        return Change(expects=expects, becomes=self.named(change.becomes))

    def monitor(self, node: str, monitor: Monitor) -> Monitor:
        """The monitor that this agent uses instead of a given one.

        The control monitor of another node is for that node's own agent: its observer monitor is
        used instead.
        """
        declared = self._pair.node(node)
        is_peers = node != self._node and monitor == declared.control_monitor
        return declared.observer_monitor if is_peers else monitor

    async def permit(self, node: str, record: PairRecord) -> None:
        """Swap a record into the arbiter before it is written into a node's file.

        Args:
            node: The node whose file is to be written, for the error.
            record: The record as a plan has it.

        Raises:
            HostRefused: The arbiter gives no answer, or its record must not be replaced by this
                one. The arbiter was not changed.
            CommandUnknown: No answer came: it is not known whether the arbiter has the record.
        """
        held, shared = self._held, self._shared
        if shared is None and self._stored is not None:
            raise HostRefused(node, _WRITE, _RELEASED)
        if shared is not None and _same(shared.record, record):
            # The arbiter holds this record already.
            return
        if held is None or self._is_lost:
            raise HostRefused(node, _WRITE, "the arbiter gives no answer")
        refusal = self._refusal(shared, record)
        if refusal is not None:
            raise HostRefused(node, _WRITE, refusal)
        try:
            async with self._arming:
                new = await self._next(shared, record)
                # A fuse that was armed for this swap must be renewed in time, whether the swap
                # succeeds or not.
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
        """Why a record must not replace the arbiter's, as a clause; None if it may."""
        if shared is None:
            return None if self._is_new else "its record is not the arbiter's yet"
        if shared.claimed_by not in (None, self._node):
            return f"{shared.claimed_by} claims the pair"
        if not self._knows(shared.record):
            return _LATER
        if record.order <= shared.record.order or record.birth != shared.record.birth:
            return "it does not follow on the arbiter's record, which is read again"
        return None

    def _knows(self, record: PairRecord) -> bool:
        """Whether a record is the one that this agent has read from its node's file, or written."""
        both = (self._files.get(self._node), self._written)
        return any(isinstance(one, PairRecord) and _same(one, record) for one in both)

    async def permit_end(self, node: str, instance: str) -> None:
        """Check that this agent may have a QEMU ended.

        It may end its own one, unless that is a primary whose secondary could not take over.

        Args:
            node: The node whose QEMU is to be ended.
            instance: The identity of that QEMU.

        Raises:
            HostRefused: The pair was released to its files. If it is another node's QEMU: the
                arbiter gives no answer, another node claims the pair, or the record is not the one
                by which this agent acts. If it is this node's primary: the arbiter gives no answer,
                or the agent of the secondary would not fail over.
        """
        if self._shared is None and self._stored is not None:
            raise HostRefused(node, _STOP, _RELEASED)
        if node == self._node:
            await self._permit_hand_over(instance)
            return
        if not await self.is_current():
            raise HostRefused(
                node,
                _STOP,
                "the arbiter does not respond, or its record has changed; it is read again",
            )
        shared = self._shared
        if shared is None:
            return
        if shared.claimed_by not in (None, self._node):
            raise HostRefused(node, _STOP, f"{shared.claimed_by} claims the pair")
        # A claim was made on the arbiter's own record, and stands.
        if shared.claimed_by is None and not self._knows(shared.record):
            raise HostRefused(node, _STOP, _LATER)

    async def _permit_hand_over(self, instance: str) -> None:
        """Check, before this node's primary is ended, that the secondary's agent will fail over.

        Args:
            instance: The identity of this node's QEMU.

        Raises:
            HostRefused: The QEMU is a protected primary, and the arbiter gives no answer or holds
                what would keep the other agent from a failover.
        """
        if self._shared is None or not self._is_primary(self._shared, instance):
            return
        try:
            held = await self._arbiter.read(self._pair.name, limit_s=_ANSWER_S)
        except ArbiterLost as error:
            self._doubt()
            raise HostRefused(self._node, _STOP, "the arbiter gives no answer") from error
        if held.shared is None or not self._is_primary(held.shared, instance):
            self._doubt()
            raise HostRefused(self._node, _STOP, "the record has changed; it is read again")
        partner = held.shared.record.partner
        if held.shared.paused is not None:
            why = f"supervision is paused {held.shared.paused}"
        elif held.shared.claimed_by is not None:
            why = f"{held.shared.claimed_by} claims the pair"
        elif partner not in held.leases:
            why = f"the agent of {partner}, which would fail over, does not renew its lease"
        else:
            return
        raise HostRefused(self._node, _STOP, why)

    def _is_primary(self, shared: SharedRecord, instance: str) -> bool:
        """Whether a QEMU is this node's primary, which is protected and wanted."""
        record = shared.record
        holds = record.holder == self._node and record.eligible.get(self._node) == instance
        return holds and record.phase == "protected" and shared.want != "stopped"

    async def say_end(self, node: str, instance: str) -> None:
        """Store that a QEMU has ended, if it was one of this node and the host shows that.

        The other node's agent may be unable to ask this host, and waits for that.

        Args:
            node: The node on which the QEMU ran.
            instance: The identity of the QEMU.
        """
        stored = self._stored
        if node != self._node or stored is None:
            return
        victim = Victim(node=node, instance=instance, epoch=stored.record.epoch)
        found = await self._plain[node].death(self._pair, victim, limit_s=_ANSWER_S)
        if found is not None:
            await self.say_exit(found)

    async def _next(self, shared: SharedRecord | None, record: PairRecord) -> SharedRecord:
        """Make the shared record that a swap puts into the arbiter, without a claim.

        If the record makes a secondary eligible beside this node, this node's fuse is armed first.

        Args:
            shared: What the arbiter holds; None if it holds nothing of this pair.
            record: The record that is to replace the present one.
        """
        before = shared or SharedRecord(record=record)
        fuses: Mapping[str, float] = {} if record.is_sole else before.fuses
        if record.phase == "protected" and record.holder == self._node:
            armed_s = await self._arm(record.eligible[self._node])
            fuses = fuses if armed_s is None else {self._node: armed_s}
        return attrs.evolve(before, record=record, claimed_by=None, fuses=fuses, released=None)

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
        """Replace what the arbiter holds; arguments and errors as those of `Arbiter.swap`."""
        try:
            self._held = await self._arbiter.swap(
                self._pair.name, held, shared, no_lease_of=no_lease_of, limit_s=limit_s
            )
        except ArbiterOvertaken:
            raise
        except BaseException:
            self._may_arrive = True
            raise
        # An earlier swap cannot be done any more: it expects another state of the record.
        self._may_arrive = False

    @contextlib.contextmanager
    def _noted(self) -> Generator[None]:
        """Tell an `ArbiterError` of the block instead of raising it, and read the arbiter again."""
        try:
            yield
        except ArbiterError as error:
            self._doubt()
            self._tell("trouble", str(error))

    def _doubt(self) -> None:
        """Have the arbiter read again; until then the agent does not rely on what it held."""
        self._is_lost = True
        self._doubted.set()
        self._wake()

    # -- background tasks

    async def _follow(self) -> None:
        while True:
            self._doubted.clear()
            try:
                found = await self._news()
            except ArbiterLost as error:
                self._is_lost = True
                if not self._is_outage_told:
                    # Reported once for each outage: the members may give different reasons in turn.
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
                # Nobody awaits this task: if it stayed ended, the agent would keep an old record.
                _LOG.exception("a task that talks to the arbiter of %s failed", self._pair.name)
                why = f"a task that talks to the arbiter failed and is started again: {error}"
                self._tell("person", f"{why}; if it fails again, restart the agent and report it")
            else:
                return
            self._doubt()
            await asyncio.sleep(_AGAIN_S)

    async def _news(self) -> Held | None:
        """Read what the arbiter holds: at once if it is in doubt, else after a change or a while.

        Returns:
            What is held; None if it must be read again.
        """
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
            # If this agent has changed the record meanwhile, it has a newer state than this answer.
            is_current = changed.done() and self._held is before
            return changed.result() if is_current else None
        finally:
            for waiting in (changed, doubted):
                waiting.cancel()
            await asyncio.wait((changed, doubted))

    async def _renew(self) -> None:
        """Renew the lease, and by it the fuse, again and again while `_leased` names a QEMU."""
        while True:
            interval_s = self.fuses.get(self._node, self._pair.supervision.fuse_s) / 4
            self._is_due.clear()
            instance = self._leased
            if instance is not None:
                await self._renew_once(instance, interval_s)
                self._renewed = instance
            # The fuse may not have answered when this was tried before.
            await self._disarm_needless()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await self._is_due.wait()

    @property
    def _leased(self) -> str | None:
        """This node's QEMU if it needs a lease, because the peer's may run alone as well."""
        shared = self._shared
        if shared is None or shared.record.is_sole:
            return None
        instance = shared.record.eligible.get(self._node)
        return instance if instance is not None and instance not in self.ends else None

    @property
    @override
    def lease(self) -> LeaseAge | None:
        """See `Authority`."""
        shared, last = self._shared, self._lease
        if shared is None or last is None or last[0] != self._leased:
            return None
        age_s = asyncio.get_running_loop().time() - last[1]
        limit_s = shared.lease_s(self._node, self._pair.supervision)
        return LeaseAge(age_s=age_s, longest_s=max(last[2], age_s), limit_s=limit_s)

    async def _renew_once(self, instance: str, interval_s: float) -> None:
        guard, shared = self._guard, self._shared
        if shared is None:
            return
        as_of_s = 0.0 if guard is None else guard.now_s()
        sent_s = asyncio.get_running_loop().time()
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
        if is_renewed:
            last = self._lease
            is_same = last is not None and last[0] == instance
            longest_s = max(last[2], sent_s - last[1]) if last is not None and is_same else 0.0
            self._lease = (instance, sent_s, longest_s)
        if is_renewed and self._node in self.fuses:
            self._leased_as_of = (instance, as_of_s)
            self._may_run.set()

    async def _take_over(self) -> None:
        """Ask the fuse, until it answers, for which QEMU an earlier agent has armed it."""
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
        """Keep a moment that is earlier than every event that is read from now on.

        After a time in which this process, or the whole machine, did not run, the events that are
        read first were sent before that time. They may be read after the first beat that follows,
        but not after the second: so the moment of the last beat but one is used.
        """
        while self._guard is not None:
            self._read_until_s = (self._read_until_s[1], self._guard.now_s())
            await asyncio.sleep(_BEAT_S)

    async def _relight(self) -> None:
        """Renew the fuse each time a checkpoint, or a renewed lease, shows that QEMU may run.

        This is a task apart from `_renew`: a fuse that does not answer must not delay the lease.
        """
        await self._take_over()
        while True:
            await self._may_run.wait()
            self._may_run.clear()
            leased, self._leased_as_of = self._leased_as_of, None
            if self._guard is None:
                continue
            if leased is not None and leased[0] != self._armed:
                # The record says that the fuse is armed: an earlier agent has armed it.
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
                # The fuse has lost what was armed, while the record says that it guards this node.
                await self._arm(instance)
        except FuseError as error:
            self._tell("trouble", str(error))

    async def _arm(self, instance: str) -> float | None:
        """Arm the fuse for a QEMU of this node.

        Returns:
            After how many seconds the fuse stops QEMU; None if it is not known to be armed.
        """
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
        """Disarm the fuse if this node alone may run, its QEMU has ended, or the files count."""
        async with self._arming:
            shared, instance = self._stored, self._armed
            if self._guard is None or self._is_lost or shared is None or instance is None:
                return
            is_alone = shared.record.is_sole and shared.record.holder == self._node
            # No lease is evidence then.
            is_alone = is_alone or shared.released == "to-files"
            if instance not in self.ends and not (is_alone and await self._stays(shared)):
                return
            if await self._with_fuse(self._guard.disarm(instance)):
                self._armed = None

    async def _stays(self, shared: SharedRecord) -> bool:
        """Make sure that only this agent can still change a record that lets its node alone run.

        Returns:
            Whether this is sure.
        """
        if self._node not in self._files or self.doubt:
            # The arbiter may have been restored from a backup, and get a later record again.
            return False
        # Write the same record once more: then an earlier swap without an answer cannot succeed.
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
    """A host whose records are swapped into the arbiter before they are written into its files."""

    def __init__(self, host: Host, node: str, arbitration: Arbitration) -> None:
        self._host = host
        self._node = node
        self._arbitration = arbitration

    async def connect(self, node: str, monitor: Monitor) -> socket.socket:
        """Open a connected, non-blocking socket to a monitor; see `Host.connect`."""
        return await self._host.connect(node, self._arbitration.monitor(node, monitor))

    async def observe(self, pair: ColoPair, node: str, *, limit_s: float) -> HostState:
        """Read a node's record, and find out whether its QEMU runs; see `Host.observe`."""
        found = await self._host.observe(pair, node, limit_s=limit_s)
        return attrs.evolve(found, record=self._arbitration.found(node, found.record))

    async def write(self, pair: ColoPair, node: str, change: Change, *, limit_s: float) -> None:
        """Replace a node's record durably, if it is the expected one; see `Host.write`."""
        await self._arbitration.permit(node, change.becomes)
        file = self._arbitration.change(node, change)
        try:
            await self._host.write(pair, node, file, limit_s=limit_s)
        except HostRefused:
            # The node's own agent may have written the record first: it writes the arbiter's.
            there = (await self._host.observe(pair, node, limit_s=limit_s)).record
            if not isinstance(there, PairRecord) or not _same(there, file.becomes):
                raise
            file = attrs.evolve(file, becomes=there)
        self._arbitration.found(node, file.becomes)

    async def run(self, pair: ColoPair, node: str, action: HostAction, *, limit_s: float) -> str:
        """Perform an action, such as to start or end a QEMU; see `Host.run`."""
        if isinstance(action, StopQemu):
            return await self._end(pair, action, limit_s)
        if isinstance(action, LaunchQemu) and action.record is not None:
            action = attrs.evolve(action, record=self._arbitration.named(action.record))
        return await self._host.run(pair, node, action, limit_s=limit_s)

    async def _end(self, pair: ColoPair, action: StopQemu, limit_s: float) -> str:
        await self._arbitration.permit_end(self._node, action.instance)
        said = await self._host.run(pair, self._node, action, limit_s=limit_s)
        await self._arbitration.say_end(self._node, action.instance)
        return said

    async def death(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """Ask for evidence that a QEMU has ended; None if there is none; see `Host.death`."""
        return await self._host.death(pair, victim, limit_s=limit_s)

    async def ended(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """Wait for evidence that a QEMU has ended; None if the limit passes; see `Host.ended`."""
        return await self._host.ended(pair, victim, limit_s=limit_s)

    async def version(self, pair: ColoPair, node: str, *, limit_s: float) -> Version:
        """Ask the QEMU binary for its version; see `Host.version`."""
        return await self._host.version(pair, node, limit_s=limit_s)

    async def facts(
        self, pair: ColoPair, node: str, parts: Collection[Part], *, limit_s: float
    ) -> HostFacts | NoFacts:
        """Read the facts that a preflight needs; see `Host.facts`."""
        return await self._host.facts(pair, node, parts, limit_s=limit_s)

    async def aclose(self) -> None:
        """Do nothing: the wrapped host is not closed."""


def _same(one: PairRecord, other: PairRecord) -> bool:
    """Whether two records are equal apart from their evidence and the arbiter that they name."""
    return _bare(one) == _bare(other)


def _bare(record: PairRecord) -> PairRecord:
    return attrs.evolve(record, evidence=None, managed_by=None)


def _is_behind(file: RecordState | None, record: PairRecord) -> bool:
    """Whether a file must be replaced by the arbiter's record of the same pair.

    A file must be replaced if it is damaged or holds an older record, or if the arbiter's record is
    the pair's first one and there is no file yet.
    """
    match file:
        case DamagedRecord():
            return True
        case PairRecord():
            return file.birth == record.birth and file.order < record.order
        case NoRecord(lost=None):
            # No QEMU is launched by a pair's first record before its file was written.
            return record.order == _FIRST
        case _:
            return False


def _lessee(shared: SharedRecord | None, record: PairRecord) -> str | None:
    """The node that must have no lease when a record replaces the arbiter's; None for none.

    It is the node whose lease has run out, if this record rests on that. Later records keep that
    evidence, while the node may have another QEMU and a lease again: for them it is None.

    Args:
        shared: What the arbiter holds; None if it holds nothing of this pair.
        record: The record that is to replace the present one.
    """
    evidence = record.evidence
    if shared is None or evidence is None or evidence.kind != "self-fence" or not record.is_sole:
        return None
    is_about_it = shared.record.eligible.get(evidence.node) == evidence.instance
    return evidence.node if is_about_it else None


async def _ended(task: asyncio.Task[object]) -> None:
    task.cancel()
    await asyncio.wait((task,))

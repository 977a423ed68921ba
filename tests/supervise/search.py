"""An exhaustive search of what two nodes' supervisors do with the real `decide`.

The world is two nodes in COLO, an arbiter with leases, a fuse on the primary's host, fences, and
faults. Every interleaving is searched, so that a supervisor that acts late is covered as well: it
decides by the record that it read, however long ago that was. Time is counted in ticks; a fuse that
is due blows before the next one.

It asks four things. Two guests: clients get answers from both nodes. A lost write: a node runs
alone that lacks acknowledged ones. Two holders of one epoch. Stuck: no way leads on, even though no
further fault comes, to one guest that serves or to a person who was told.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

import attrs

from pycolo.evidence import Evidence, instance_of
from pycolo.model.supervision import Supervision
from pycolo.record import PairRecord
from pycolo.supervise.decision import Decision, decide
from pycolo.supervise.observation import Limits, Observation, Qemu, Signal
from pycolo.supervise.shared import SharedRecord

NAMES: Final = ("alpha", "beta")
OLD: Final = 2
"A third node, which was in the pair before `beta`, and whose QEMU or supervisor is back."
_ALL: Final = (*NAMES, "gamma")
FUSE: Final = 1
LEASE: Final = 3
UNARMED: Final = 9
PROVEN: Final = 1
"A checkpoint has shown that the secondary can take over."
ASKED: Final = 2
"The arbiter has been asked, so that nothing is asked any more before the primary is ended."
INSTANCES: Final = 2
_DECLARED: Final = Supervision(fuse_s=2.0)
# A tick is a second, so that a lease is as long in the search as in the declaration.
_LIMITS: Final = Limits(declared=_DECLARED, checkpoint_delay_s=20.0, ram_gib=0.0)
NOW_S: Final = 1000.0


class Record(NamedTuple):
    """What the arbiter holds."""

    revision: int = 0
    epoch: int = 1
    holder: int = 0
    eligible: tuple[int, ...] = (0, 1)
    instances: tuple[int, ...] = (1, 1)
    phase: str = "protected"
    joining: int | None = None
    claimed: int | None = None
    stopped: bool = False
    fuses: tuple[int, ...] = (0,)
    pending: bool = False
    "The overlays of a promoted node are not merged into its image yet."
    paused: bool = False


class Node(NamedTuple):
    """One node: its QEMU, its supervisor, and its fuse."""

    qemu: str = "secondary"
    "none, joining, primary, secondary, alone"
    instance: int = 1
    halted: bool = False
    "Stopped by its fuse."
    silent: bool = False
    "Stopped by somebody else, with all its connections."
    knows: Record | None = None
    "The record as its supervisor last read it."
    up: bool = True
    evidence: int = 0
    "The peer's instance that is shown to have ended."
    cut: bool = False
    since_cut: int = 0
    "-1 where a supervisor that has ended took the time with it."
    fuse: int = UNARMED
    shutdown: bool = False
    file: int = 1
    "The epoch of its own file."
    noticed: bool = False
    "Its supervisor ran while the arbiter was restored, and takes no answer from it any more."
    saw_no_lease: bool = False
    "Its supervisor has read that the peer has no lease, and has not read again since."
    off: bool = False
    "The network port of its guest is switched off."
    late: bool = False
    "Somebody's command that switches the port on is under way, and acts at any time."
    moves: int = 0
    "How far its supervisor is with a switch-over; it decides nothing meanwhile: `PROVEN`, `ASKED`."
    moved: int = 0
    "The instance of the primary that is ended for it."
    broken: bool = False
    "Its supervisor knows that the primary had lost its disk which it has ended."
    forgot: bool = False
    "Its supervisor, which runs, has forgotten that the guest shut down."
    gone: bool = False
    "Its host never comes back, nor do its file and its QEMU."


class Program(NamedTuple):
    """What a node's supervisor keeps in its memory; see `Node`."""

    knows: Record | None = None
    up: bool = True
    evidence: int = 0
    since_cut: int = 0
    shutdown: bool = False
    noticed: bool = False
    saw_no_lease: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more; one that was stopped before it read anything is the same."""
        return not self.up and self.knows is None


class State(NamedTuple):
    """All of it."""

    nodes: tuple[Node, ...]
    "The two nodes of the pair, and `OLD` where there is one."
    record: Record = Record()
    leases: tuple[int, int] = (LEASE, LEASE)
    reach: tuple[bool, ...] = (True, True)
    "Whether each node reaches the arbiter."
    link: bool = True
    nbd: bool = True
    disk: bool = True
    "The primary's own disk works."
    restored: bool = False
    "The arbiter was restored from a backup."
    newest: tuple[bool, ...] = (True, True)
    faults: int = 1
    verdict: str = ""
    served: tuple[tuple[int, int], ...] = ()
    "Epoch and node, for each that was told to run alone."
    hasty: bool = False
    "A checkpoint takes so long that both sides suspect each other, for nothing."
    told: bool = False
    "A person was told, for one of the named reasons."
    second: tuple[int, Program] | None = None
    "A node that has a second supervisor, and what that one keeps."
    asks: int = 0
    "How many times a person still asks for a switch-over or a pause; a pause is ended at any time."


@attrs.frozen(kw_only=True)
class Rules:
    """What the world and whoever acts hold to; each can be left out."""

    swap: bool = True
    "A change of the record is a compare-and-swap."
    same_lease: bool = True
    "Serving by a lease checks in the same transaction that the key is absent."
    renewal: bool = True
    "A lease is renewed only by who may still run alone, and is not claimed by the other."
    fuse: bool = True
    "There is a fuse."
    armed: bool = True
    "The fuse is armed before the secondary becomes eligible."
    proven: bool = True
    "A secondary becomes eligible after a proven checkpoint."
    evidence: bool = True
    "Evidence is true."
    fences: bool = True
    "A fence ends the peer's QEMU; else only its host says whether it has ended."
    ports: bool = False
    "A fence may switch off the port of the peer's guest, whose QEMU runs on."
    kept_off: bool = True
    "That port is switched on only after that QEMU has ended; but see `given_back`."
    given_back: bool = False
    "It is switched on as well once the record lets its node alone run."
    restores: bool = False
    "The arbiter may be restored from a backup."
    notices: bool = True
    "A supervisor that runs meanwhile notices that, takes no answer any more and tells a person."
    self_fence: bool = True
    "A lease that ran out is evidence."
    equipped: bool = True
    "The hosts have fuses; else there are leases alone."
    old_leases: bool = False
    "A supervisor may decide by leases that it has read a while ago."
    sees_both: bool = False
    "The secondary's supervisor knows of a lost replication, or its primary's shutdown, as well."
    doubles: bool = False
    "A person may start a second supervisor for one node, at any moment."
    lock: bool = True
    "A supervisor has a lock while it runs or is stopped, without which no other one starts."
    moves: bool = False
    "A person may ask for a switch-over; one follows instead of a `hand-over`, as under agents."
    ended: bool = True
    "The end of the primary is stated after it, and not before."
    pauses: bool = False
    "A person may pause the pair."
    remembers: bool = True
    "A supervisor knows after a pause, and in it, that the guest has shut down."
    words: bool = False
    "A person may say that a QEMU has ended, and end one that was claimed against."
    true_words: bool = True
    "It has ended; else that is accepted where nobody can ask it."
    losses: bool = False
    "A host may be lost for ever."
    lights_out: bool = True
    "A fence can still act then."


FULL: Final = Rules()
Decide = Callable[..., Decision]


def protected(faults: int) -> State:
    """A protected pair."""
    record = Record()
    first = Node("primary", knows=record, fuse=FUSE)
    return State((first, Node("secondary", knows=record)), record, faults=faults)


def alone(faults: int) -> State:
    """A guest alone on the first node."""
    record = Record(epoch=2, eligible=(0,), phase="alone", fuses=())
    first = Node("alone", knows=record, file=2)
    return State(
        (first, Node("none", 0, knows=record, file=0)), record, newest=(True, False), faults=faults
    )


def returned(faults: int, qemu: str = "primary", *, has_claimed: bool = False) -> State:
    """The guest is alone on alpha, in a pair with gamma before; gamma has its old record.

    The second node, beta, is a spare, which joins. No fault comes to gamma any more, since whatever
    its supervisor does may come late or never; for the same reason it reaches the arbiter and has
    cut its side long ago, so that it may read the record, or act by the old one, at any moment.

    Args:
        faults: How many faults come to the others.
        qemu: What gamma has: a `primary` that its fuse has stopped, a `secondary`, or `none`.
        has_claimed: Its node had claimed the pair.
    """
    begin = alone(faults)
    record = begin.record._replace(instances=(1, 1, 1))
    begin = _node(_node(begin, 0, knows=record), 1, knows=record)
    holder = 0 if qemu == "secondary" else OLD
    claimed_by = OLD if has_claimed else None
    old = Record(-1, 1, holder, (0, OLD), (1, 1, 1), claimed=claimed_by, fuses=(holder,))
    node = Node(qemu, knows=old)
    if qemu != "none":
        node = node._replace(cut=True, since_cut=LEASE)
    if qemu == "primary":
        node = node._replace(halted=True, fuse=0)
    reach, newest = (True, True, True), (True, False, False)
    nodes = (*begin.nodes, node)
    return begin._replace(nodes=nodes, record=record, reach=reach, newest=newest)


def promoted(faults: int) -> State:
    """A guest alone on the first node, which was its secondary until a moment ago."""
    begin = alone(faults)
    record = begin.record._replace(pending=True)
    return _node(begin, 0, knows=record)._replace(record=record)


def handed_over(faults: int) -> State:
    """A pair whose primary has lost its disk, has handed over, and still runs."""
    begin = protected(faults)
    record = begin.record._replace(holder=1, eligible=(1,))
    begin = _node(_node(begin, 0, knows=record), 1, knows=record)
    return begin._replace(record=record, disk=False, newest=(False, True))


def lacking(faults: int) -> State:
    """A pair whose secondary no longer gets the writes."""
    return protected(faults)._replace(nbd=False)


def unanswered(faults: int) -> State:
    """The same, and that secondary does not respond any more."""
    return _node(lacking(faults), 1, silent=True)


def severed(faults: int) -> State:
    """A cut link; the secondary has cut its side without a claim; alpha's supervisor is stopped."""
    begin = _node(protected(faults), 1, cut=True)
    return _node(begin, 0, up=False)._replace(link=False)


def cut_off(faults: int) -> State:
    """A link that is cut just now; the primary's lease is gone, as the arbiter is out of reach."""
    return protected(faults)._replace(reach=(False, True), leases=(0, LEASE), link=False)


def abandoned(faults: int) -> State:
    """The same, and the primary has claimed the pair before it was cut off."""
    return claimed(faults)._replace(reach=(False, True))


def again(faults: int) -> State:
    """A pair of new QEMUs, whose second node has seen the end of the first one's earlier QEMU."""
    record = Record(instances=(2, 2))
    first = Node("primary", 2, knows=record, fuse=FUSE)
    second = Node("secondary", 2, knows=record, evidence=1)
    return State((first, second), record, faults=faults)


def asked(faults: int) -> State:
    """A protected pair, of which a person asks one thing at any moment."""
    return protected(faults)._replace(asks=1)


def moving(faults: int, by: int = 0) -> State:
    """A protected pair whose primary is about to be ended for a switch-over.

    Args:
        faults: How many faults come.
        by: The node of the agent that is asked.
    """
    return _node(protected(faults), by, moves=ASKED, moved=1)


def paused(faults: int) -> State:
    """A protected pair that a person has just paused."""
    begin = protected(faults)
    return begin._replace(record=begin.record._replace(revision=1, paused=True))


def shut_down(faults: int) -> State:
    """A pair whose guest has shut down on the primary, and not yet on the secondary."""
    return _node(protected(faults), 0, qemu="none", shutdown=True)


def doubled(faults: int) -> State:
    """An isolated primary with two supervisors; one has not read that a secondary has joined."""
    begin = protected(faults)
    earlier = Record(eligible=(0,), phase="joining", joining=1, fuses=())
    second = (0, Program(knows=earlier._replace(revision=-1)))
    return begin._replace(second=second, reach=(False, True), link=False)


def retaken(faults: int) -> State:
    """A cut link; the secondary's node has cut its side and claimed the pair, and is lost then."""
    begin = claimed(faults)
    record = begin.record._replace(claimed=1)
    begin = _node(begin, 0, knows=record, cut=False)._replace(record=record)
    lost = _restarted(begin, 1)._replace(gone=True)
    return _node(begin, 1, **lost._asdict())


def claimed(faults: int) -> State:
    """A pair whose link is cut, and whose primary has cut its side of COLO and claimed the pair."""
    begin = protected(faults)
    record = begin.record._replace(claimed=0)
    begin = _node(_node(begin, 0, knows=record, cut=True), 1, knows=record)
    return begin._replace(record=record, link=False)


def after(begin: Callable[[int], State], *faults: str) -> State:
    """What faults in this order have made of a state; no other one comes after them."""
    made = begin(len(faults))
    for fault in faults:
        made = dict(Search().faults(made))[fault]
    return made


def promotes(faults: int) -> State:
    """The lease of a primary that its fuse has stopped is gone, and its peer is about to serve."""
    begin = protected(faults)
    served = begin.record._replace(epoch=2, holder=1, eligible=(1,), phase="alone", fuses=())
    record = served._replace(pending=True)
    first = begin.nodes[0]._replace(halted=True, fuse=0)
    second = begin.nodes[1]._replace(knows=record, cut=True, since_cut=LEASE, file=2)
    made = begin._replace(nodes=(first, second), record=record, leases=(0, LEASE))
    return made._replace(served=((2, 1),))


def joining(faults: int) -> State:
    """A guest alone on the first node, and a QEMU on the second one that is about to join."""
    record = Record(epoch=2, eligible=(0,), phase="joining", joining=1, fuses=())
    first, second = Node("alone", knows=record, file=2), Node("joining", knows=record, file=2)
    return State((first, second), record, newest=(True, False), faults=faults)


def claimed_and_shut_down(faults: int) -> State:
    """The guest of the primary has shut down just after its node has claimed the pair."""
    return _node(claimed(faults), 0, qemu="none", shutdown=True)


def stopped_and_handed_over(faults: int) -> State:
    """A primary without rights that still runs while no guest is wanted any more."""
    begin = handed_over(faults)
    record = begin.record._replace(stopped=True)
    begin = _node(_node(begin, 0, knows=record), 1, knows=record)
    return begin._replace(record=record)


def without_fuses(begin: State) -> State:
    """The same on hosts that have none."""
    record = begin.record._replace(fuses=())
    nodes = [node._replace(knows=record, fuse=UNARMED) for node in begin.nodes]
    return begin._replace(nodes=(nodes[0], nodes[1]), record=record)


@functools.cache
def _shared(record: Record) -> SharedRecord:
    def identity(node: int) -> str:
        return instance_of("p", _ALL[node], record.instances[node])

    made = PairRecord(
        pair="p",
        birth="b",
        epoch=record.epoch,
        revision=0,
        holder=_ALL[record.holder],
        eligible={_ALL[node]: identity(node) for node in record.eligible},
        phase=record.phase,  # type: ignore[arg-type] # one of the three, by construction
        joining=None if record.joining is None else identity(record.joining),
        commit="pending" if record.pending else "clean",
    )
    return SharedRecord(
        record=made,
        claimed_by=None if record.claimed is None else _ALL[record.claimed],
        want="stopped" if record.stopped else "protected",
        paused="by a person" if record.paused else None,
        fuses={_ALL[node]: _DECLARED.fuse_s for node in record.fuses},
    )


_QEMUS: Final[Mapping[str, Qemu]] = {
    "none": "none",
    "joining": "joining",
    "primary": "colo",
    "secondary": "colo",
    "alone": "alone",
}


class Search:
    """Breadth first over every interleaving.

    Args:
        rules: What holds.
        decided: `decide`, or one that was weakened.
    """

    def __init__(self, rules: Rules = FULL, decided: Decide = decide) -> None:
        self.rules = rules
        self._decide = decided
        self._decisions: dict[tuple[object, ...], Decision] = {}
        self.seen: dict[State, tuple[State, str] | None] = {}
        self.events: set[tuple[str, str]] = set()

    # -- what a supervisor knows, and decides

    def decisions(self, s: State, i: int) -> Iterator[Decision]:
        """What the supervisor of a node may decide: without and, where COLO rests, by suspicion."""
        knows = s.nodes[i].knows
        assert knows is not None
        yield self._decided(s, i, knows, due=False)
        if not _in_colo(s) or s.hasty or i == OLD:
            yield self._decided(s, i, knows, due=True)

    def _decided(self, s: State, i: int, knows: Record, *, due: bool) -> Decision:
        me, peer = s.nodes[i], s.nodes[_peer(i)]
        # It may be about an older QEMU: `decide` has to tell.
        evidence = me.evidence
        # Its own file was read before the record, so that it is no later than that.
        epoch = me.file if knows == s.record else min(me.file, knows.epoch)
        eyes = {"primary", "secondary"} if self.rules.sees_both else {"primary"}
        if i == OLD:
            # What the two others replicate is none of its own.
            eyes = set()
        lost = me.qemu in eyes and not s.nbd
        broken = me.broken or (me.qemu == "primary" and not s.disk and i != OLD)
        ahead = peer.shutdown and not me.shutdown and me.qemu in eyes
        # Its former peer needs no lease while it is sole.
        no_lease = i == OLD or s.leases[1 - i] == 0 or me.saw_no_lease
        lease_gone = self.rules.self_fence and _reaches(s, i) and no_lease
        # A primary waits for a silent secondary, inside a checkpoint (qemu-behaviour 7.3).
        waits = me.qemu == "primary" and peer.silent
        key = (
            *(i, knows, me.qemu, me.instance, epoch, me.cut, me.since_cut, me.shutdown),
            *(due, evidence, lost, broken, ahead, lease_gone, _reaches(s, i)),
            *(me.silent, me.halted, waits, peer.silent, s.link, _signal(s, i) if due else ""),
        )
        found = self._decisions.get(key)
        if found is None:
            signals: dict[Signal, float] = {_signal(s, i): 0.0} if due else {}
            stuck_since_s = NOW_S if s.link else 0.0
            other = instance_of("p", _ALL[_peer(i)], me.evidence)
            seen = Observation(
                qemu=_QEMUS[me.qemu],
                instance=instance_of("p", _ALL[i], me.instance),
                signals=signals,
                silent=me.silent or me.halted,
                stuck_since_s=stuck_since_s if waits else None,
                evidence=_evidence(_ALL[_peer(i)], other, knows) if evidence else None,
                arbiter_lost=not _reaches(s, i),
                claim_since_s=0.0 if knows.claimed == _peer(i) else None,
                lease_gone=lease_gone,
                cut_since_s=NOW_S - me.since_cut if me.cut and me.since_cut >= 0 else None,
                shutdown=me.shutdown,
                peer_shutdown=ahead,
                replication_lost=lost,
                disk_failed=broken,
            )
            file = attrs.evolve(_shared(knows).record, epoch=epoch) if epoch else None
            found = self._decide(_ALL[i], _shared(knows), file, seen, limits=_LIMITS, now_s=NOW_S)
            self._decisions[key] = found
        self.events.add((found.state, found.event))
        return found

    # -- the world

    def following(self, s: State, *, heals: bool = True) -> Iterator[tuple[str, State]]:
        """Every state that one step leads to."""
        yield from self.faults(s)
        yield from self._people(s)
        for i in range(len(s.nodes)):
            if heals:
                yield from self._heals(s, i)
            yield from self._ports(s, i)
            yield from self._programs(s, i)
        yield from self._time(s)

    def _programs(self, s: State, i: int) -> Iterator[tuple[str, State]]:
        """What the supervisor of a node does, and a second one."""
        if s.second is None or s.second[0] != i:
            yield from self._program(s, i)
            if self.rules.doubles and s.second is None:
                second = s._replace(second=(i, Program()))
                if self._may_start(s, i):
                    yield f"a second supervisor of {_ALL[i]} is started", second
            return
        for what, after in self._program(s, i):
            yield what, _agreed(s, after, i)
        turned = _turned(s)
        for what, after in self._program(turned, i):
            yield f"the second {what}", _turned(_agreed(turned, after, i))

    def _may_start(self, s: State, i: int) -> bool:
        """Whether a supervisor can start beside the one that has the place of the first."""
        return not self.rules.lock or _program_of(s, i).has_ended

    def _program(self, s: State, i: int) -> Iterator[tuple[str, State]]:
        if s.nodes[i].up:
            yield from self._supervises(s, i)
        elif s.nodes[i].gone:
            return
        elif s.second is None or s.second[0] != i or self._may_start(_turned(s), i):
            yield f"supervisor of {_ALL[i]} is started", _node(s, i, up=True)

    def _people(self, s: State) -> Iterator[tuple[str, State]]:
        """What a person does: a pause, its end, and what is done by hand for a word to be true."""
        changed = s.record._replace(revision=s.record.revision + 1, paused=not s.record.paused)
        if s.record.paused:
            yield "the pause is ended", s._replace(record=changed)
        elif self.rules.pauses and s.asks:
            yield "the pair is paused", s._replace(record=changed, asks=s.asks - 1)
        if self.rules.words and s.record.claimed is not None:
            i = 1 - s.record.claimed
            if s.nodes[i].qemu != "none":
                ended = _node(s, i, qemu="none", halted=False, silent=False)
                yield f"a person ends the QEMU of {_ALL[i]}", ended

    def faults(self, s: State) -> Iterator[tuple[str, State]]:
        """Every state that one fault leads to; none if no more faults come."""
        if s.faults:
            for i in (0, 1):
                if not s.nodes[i].gone:
                    yield from self._node_faults(s, i)
            yield from self._pair_faults(s)

    def _node_faults(self, s: State, i: int) -> Iterator[tuple[str, State]]:
        me, f = s.nodes[i], s._replace(faults=s.faults - 1)
        name = _ALL[i]
        if me.qemu != "none":
            yield f"{name} is killed", _node(f, i, qemu="none", halted=False, silent=False)
        if me.qemu in ("primary", "secondary") and not me.silent:
            yield f"{name} stops responding", _node(f, i, silent=True)
        if me.up:
            yield (
                f"supervisor of {name} ends",
                _node(
                    f,
                    i,
                    up=False,
                    knows=None,
                    evidence=0,
                    shutdown=False,
                    noticed=False,
                    since_cut=-1 if me.cut else 0,
                    moves=0,
                    moved=0,
                    broken=False,
                    forgot=False,
                ),
            )
            yield f"supervisor of {name} is stopped", _node(f, i, up=False)
        if s.reach[i]:
            yield f"arbiter cut off {name}", f._replace(reach=_with(s.reach, i, value=False))
        if self.rules.losses:
            yield (
                f"the host of {name} is lost",
                _node(f, i, **_restarted(s, i)._replace(gone=True)._asdict())._replace(link=False),
            )
        if me.qemu == "secondary" and not me.shutdown:
            yield f"{name} runs ahead, and shuts down", _shuts_down(f, i)
        if me.qemu == "alone" and not me.shutdown:
            yield f"guest on {name} shuts down", _shuts_down(f, i)

    def _pair_faults(self, s: State) -> Iterator[tuple[str, State]]:
        f = s._replace(faults=s.faults - 1)
        if not s.hasty and _in_colo(s):
            yield "a checkpoint is late", f._replace(hasty=True)
        if s.link:
            yield "link cut", f._replace(link=False)
        if s.nbd and _in_colo(s):
            yield "replication lost", f._replace(nbd=False)
        if s.disk and _in_colo(s) and s.record.phase == "protected":
            lacking = _with(s.newest, s.record.holder, value=False)
            yield "disk of the primary fails", f._replace(disk=False, newest=lacking)
        if self.rules.restores and s.record.epoch > 1 and not s.restored:
            old = Record(revision=s.record.revision + 1)
            ran = [self.rules.notices and node.knows is not None for node in s.nodes]
            nodes = [node._replace(noticed=here) for node, here in zip(s.nodes, ran, strict=True)]
            yield (
                "arbiter restored",
                f._replace(
                    nodes=tuple(nodes),
                    record=old,
                    restored=True,
                    told=s.told or any(ran),
                ),
            )
        if s.disk and any(node.qemu != "none" for node in s.nodes):
            # Nobody knows of a disk that failed after that: see "Not covered" in the manual.
            yield (
                "both hosts restart",
                f._replace(nodes=(_restarted(s, 0), _restarted(s, 1), *s.nodes[OLD:])),
            )
        if _in_colo(s) and not any(node.shutdown for node in s.nodes):
            yield "guest shuts down", _shuts_down(_shuts_down(f, 0), 1)

    def _ports(self, s: State, i: int) -> Iterator[tuple[str, State]]:
        me = s.nodes[i]
        is_sole = self.rules.given_back and s.record.eligible == (i,)
        if me.off and (me.qemu == "none" or is_sole or not self.rules.kept_off):
            yield f"port of {_ALL[i]} is switched on", _node(s, i, off=False)
        if me.late:
            yield f"port of {_ALL[i]} is switched on late", _node(s, i, off=False, late=False)

    def _heals(self, s: State, i: int) -> Iterator[tuple[str, State]]:
        if s.nodes[i].silent:
            yield f"{_ALL[i]} responds again", _node(s, i, silent=False)
        if not s.reach[i]:
            yield f"arbiter back for {_ALL[i]}", s._replace(reach=_with(s.reach, i, value=True))
        if i == 0 and not s.link and not any(node.gone for node in s.nodes):
            yield "link back", s._replace(link=True)
        if i == 0 and s.hasty and _in_colo(s):
            yield "the checkpoint ends", s._replace(hasty=False)

    def _time(self, s: State) -> Iterator[tuple[str, State]]:
        due = [
            i
            for i, node in enumerate(s.nodes)
            if node.fuse == 0 and node.qemu == "primary" and not node.halted
        ]
        if self.rules.fuse:
            for i in due:
                yield f"fuse of {_ALL[i]} blows", _node(s, i, halted=True)
        for i, node in enumerate(s.nodes):
            if node.halted and node.fuse not in (0, UNARMED):
                yield f"{_ALL[i]} is continued", _node(s, i, halted=False)
        if due and self.rules.fuse:
            return
        nodes, leases = zip(*(self._later(s, i) for i in range(len(s.nodes))), strict=True)
        later = s._replace(nodes=nodes, leases=leases[:OLD], second=_second_later(s))
        if later != s:
            yield "time passes", later

    def _later(self, s: State, i: int) -> tuple[Node, int]:
        """A node and its lease a tick later; whoever runs renews what it may in time."""
        node, record = s.nodes[i], s.record
        may = (i in record.eligible and record.claimed in (None, i)) or not self.rules.renewal
        up = node.up or (s.second is not None and s.second[0] == i and s.second[1].up)
        renews = up and _reaches(s, i) and may
        lease = LEASE if renews or i == OLD else max(0, s.leases[i] - 1)
        fuse = node.fuse
        if fuse != UNARMED:
            # A checkpoint shows that the secondary was not promoted.
            fuse = FUSE if renews or (i != OLD and _in_colo(s)) else max(0, fuse - 1)
        elif renews and i in record.fuses and node.qemu == "primary":
            # It refuses to be renewed, and is armed again.
            fuse = FUSE
        since_cut = node.since_cut
        if node.cut and since_cut >= 0:
            since_cut = min(LEASE, since_cut + 1)
        return node._replace(fuse=fuse, since_cut=since_cut), lease

    # -- a supervisor

    def _supervises(self, s: State, i: int) -> Iterator[tuple[str, State]]:
        me = s.nodes[i]
        name = _ALL[i]
        if s.second is not None and _is_sole(me.knows, i) and me.fuse != UNARMED:
            # With one supervisor it is one step with the swap: none arms the fuse meanwhile.
            yield f"{name} disarms its fuse", _node(s, i, fuse=UNARMED, halted=False)
        if _reaches(s, i) and me.knows != s.record:
            yield f"{name} reads", self._read(s, i)
        if self.rules.old_leases and _reaches(s, i):
            gone = s.leases[_peer(i)] == 0
            if gone != me.saw_no_lease:
                yield f"{name} reads the leases", _node(s, i, knows=s.record, saw_no_lease=gone)
        if me.knows is None:
            return
        yield from self._hears(s, i)
        yield from self._moves(s, i)
        if me.moves:
            return
        for decision in self.decisions(s, i):
            found = self._first(s, i, decision)
            for what, after in found:
                yield f"{name}: {decision.state}, {decision.event}: {what}", after

    def _read(self, s: State, i: int) -> State:
        me = s.nodes[i]
        read = _node(s, i, knows=s.record, saw_no_lease=False)
        is_kept = me.knows is None or me.knows.paused == s.record.paused
        if me.shutdown and not (self.rules.remembers or is_kept):
            return _node(read, i, shutdown=False, forgot=True)
        return read

    def _hears(self, s: State, i: int) -> Iterator[tuple[str, State]]:
        """A person's word that the peer's QEMU has ended which the supervisor's record names."""
        me, j = s.nodes[i], _peer(i)
        assert me.knows is not None
        number, peer = me.knows.instances[j], s.nodes[j]
        named = j in me.knows.eligible or j == me.knows.joining
        if not self.rules.words or not named or me.knows.paused or me.evidence == number:
            return
        has_ended = peer.qemu == "none" or peer.instance != number
        if has_ended or (not self.rules.true_words and not s.link):
            yield f"{_ALL[i]} hears that {_ALL[j]} has ended", _node(s, i, evidence=number)

    def _moves(self, s: State, i: int) -> Iterator[tuple[str, State]]:
        """The steps of a switch-over, by the agent of either node.

        What follows the end of the primary is what both agents decide: its own one states that end,
        and the other one fails over.
        """
        me, knows, name = s.nodes[i], s.nodes[i].knows, _ALL[i]
        assert knows is not None
        if not self.rules.moves or not (me.moves or s.asks):
            return
        if not me.moves:
            ready = knows.phase == "protected" and not (knows.paused or knows.stopped)
            ready = ready and knows.claimed is None and i in knows.eligible and _reaches(s, i)
            for after in self._proven(s, i, knows) if ready else ():
                yield f"{name} moves the guest", after._replace(asks=s.asks - 1)
        elif me.moves == PROVEN:
            yield f"{name} moves the guest no more", _node(s, i, moves=0, moved=0)
            if _reaches(s, i) and self._may_end_primary(s, i):
                yield f"{name} asks the arbiter", _node(s, i, moves=ASKED)
        else:
            holder = i if me.qemu == "primary" or knows.holder == i else 1 - i
            if not self.rules.ended and holder == i:
                for after in self._say_exit(s, i):
                    yield f"{name} states an end that has not come", after
            yield from self._ended(s, i, holder)

    def _proven(self, s: State, i: int, knows: Record) -> Iterator[State]:
        """A checkpoint is proven before the primary is ended."""
        number = knows.instances[knows.holder]
        if _in_colo(s) and s.nbd and s.nodes[knows.holder].instance == number:
            yield _node(s, i, moves=PROVEN, moved=number)

    def _may_end_primary(self, s: State, i: int) -> bool:
        """Whether the arbiter lets the agent of a node end the primary: somebody fails over."""
        me, record = s.nodes[i], s.record
        if record.holder != i:
            return me.knows == record and record.claimed in (None, i)
        is_primary = record.phase == "protected" and not record.stopped and not record.paused
        is_primary = is_primary and record.instances[i] == me.moved and i in record.eligible
        return is_primary and record.claimed is None and s.leases[1 - i] > 0

    def _ended(self, s: State, i: int, holder: int) -> Iterator[tuple[str, State]]:
        """The primary is ended on its host, if its QEMU is still the one that is meant."""
        me, primary = s.nodes[i], s.nodes[holder]
        after = _node(s, i, moves=0, moved=0)
        if primary.qemu == "none" or primary.instance != me.moved:
            yield f"the QEMU that {_ALL[i]} would end is gone", after
            return
        after = _node(after, holder, qemu="none", halted=False, silent=False)
        if holder == i:
            after = _node(after, i, broken=not s.disk)
        else:
            after = _node(after, i, evidence=me.moved)
        yield f"{_ALL[i]} ends the primary", after

    def _first(self, s: State, i: int, decision: Decision) -> list[tuple[str, State]]:
        """What the first action leads to that has an effect; those before it have had theirs."""
        for action in decision.actions:
            act: Callable[[State, int], Iterator[State] | None] = getattr(
                self, "_" + action.replace("-", "_")
            )
            made = act(s, i)
            if made is None:
                # It fails, and what follows it is left out.
                if action == "seek-evidence" and self._lacks_evidence(s, i) and not s.told:
                    return [("a person is told", s._replace(told=True))]
                break
            results: list[tuple[str, State]] = [(action, after) for after in made if after != s]
            if results:
                return results
        in_vain = _waits_in_vain(s, i, decision)
        if (decision.phase == "person" or in_vain) and not s.told:
            # It may know no better: the answer that they are merged was lost.
            knows = s.nodes[i].knows
            unmerged = knows is not None and knows.pending and s.nodes[i].qemu == "none"
            # What a second supervisor without a lock tells for nothing is no harm.
            named = in_vain or s.restored or not s.disk or unmerged or not self.rules.lock
            verdict = s.verdict if named else "a person is told, and need not be"
            return [("a person is told", s._replace(told=True, verdict=verdict))]
        return []

    def _lacks_evidence(self, s: State, i: int) -> bool:
        """Whether no lease of a lost host may be the evidence that nothing else gives."""
        j, knows = _peer(i), s.nodes[i].knows
        assert knows is not None
        awaits = self.rules.self_fence and (j != knows.holder or j in knows.fuses)
        return s.nodes[j].gone and not awaits

    def _swapped(self, s: State, i: int, record: Record) -> Iterator[State]:
        """The change, and the same with its answer lost."""
        if record == s.record._replace(revision=0):
            return
        record = record._replace(revision=s.record.revision + 1)
        after = s._replace(record=record)
        yield _node(after, i, knows=record)
        if s.faults:
            yield after._replace(faults=s.faults - 1)

    def _writes(self, s: State, i: int) -> Record | None:
        knows = s.nodes[i].knows
        if knows is None or not _reaches(s, i) or (self.rules.swap and knows != s.record):
            return None
        return s.record._replace(revision=0)

    def _tell(self, s: State, _i: int) -> Iterator[State]:
        yield s

    def _ask(self, s: State, _i: int) -> Iterator[State]:
        yield s

    def _say_exit(self, s: State, i: int) -> Iterator[State]:
        j = 1 - i
        if i == OLD:
            # No record names its QEMU any more.
            return
        knows = s.nodes[i].knows
        if not _reaches(s, i) or knows is None:
            return
        ended = s.nodes[i].instance
        if i == 0 and len(s.nodes) > OLD:
            s = _node(s, OLD, evidence=ended)
        if s.second is not None and s.second[0] == j and s.second[1].up:
            s = s._replace(second=(j, s.second[1]._replace(evidence=ended)))
        yield _node(s, j, evidence=ended) if s.nodes[j].up else s

    def _cut(self, s: State, i: int) -> Iterator[State] | None:
        me = s.nodes[i]
        if me.qemu not in ("primary", "secondary") or (me.cut and me.since_cut >= 0):
            return iter(())
        if me.silent or me.halted:
            return None
        return iter((_node(s, i, cut=True, since_cut=max(0, s.nodes[i].since_cut)),))

    def _claim(self, s: State, i: int) -> Iterator[State] | None:
        record = self._writes(s, i)
        if record is None:
            return None
        return self._claimed(s, i, record)

    def _claimed(self, s: State, i: int, record: Record) -> Iterator[State]:
        if i in record.eligible and record.phase == "protected":
            yield from self._swapped(s, i, record._replace(claimed=i))

    def _give_back(self, s: State, i: int) -> Iterator[State] | None:
        record = self._writes(s, i)
        if record is None:
            return None
        return self._swapped(s, i, record._replace(claimed=None))

    def _seek_evidence(self, s: State, i: int) -> Iterator[State] | None:
        """Its host says that it has ended; or a fence ends it, or has no effect and says so."""
        j, knows = _peer(i), s.nodes[i].knows
        if i == OLD and knows != s.record:
            # The arbiter is asked once more before anything is ended.
            return None
        if knows is None or s.nodes[i].evidence == knows.instances[j]:
            return iter(())
        fenced = s
        if s.nodes[j].qemu != "none":
            fenced = _node(s, j, qemu="none", halted=False, silent=False)
            if s.nodes[i].silent or s.nodes[i].halted:
                worse = f"{_ALL[i]} gives no answer, and ends the QEMU of {_ALL[j]}"
                fenced = fenced._replace(verdict=worse)
            if knows.claimed != i:
                fenced = fenced._replace(verdict=f"{_ALL[i]} fences without a claim")
        if s.nodes[j].gone and not self.rules.lights_out:
            return None
        if not self.rules.fences and (fenced is not s or not s.nodes[j].up):
            # Nobody can tell: it fails, and what follows it is left out.
            return None
        if not self.rules.evidence:
            fenced = s
        found = [_node(fenced, i, evidence=knows.instances[j])]
        if self.rules.ports and s.nodes[j].qemu != "none":
            found.append(_node(_node(s, j, off=True), i, evidence=knows.instances[j]))
        return iter(found)

    def _serve(self, s: State, i: int) -> Iterator[State] | None:
        record, me = self._writes(s, i), s.nodes[i]
        if record is None:
            return None
        exits = me.evidence == record.instances[_peer(i)]
        # A node that is sole has no lease that would hold up an old one.
        gone = i == OLD or s.leases[1 - i] == 0
        if not exits and not gone and self.rules.same_lease:
            return None
        return self._sole(s, i, record)

    def _sole(self, s: State, i: int, record: Record) -> Iterator[State]:
        epoch = record.epoch + 1
        changed = record._replace(
            epoch=epoch,
            holder=i,
            eligible=(i,),
            phase="alone",
            joining=None,
            claimed=None,
            fuses=(),
            pending=s.nodes[i].qemu == "secondary",
        )
        for after in self._swapped(s, i, changed):
            served = (*after.served, (epoch, i))
            yield _node(after._replace(served=served), i, file=epoch)

    def _narrow(self, s: State, i: int) -> Iterator[State] | None:
        """The plan needs an answer of the peer, or its end, and no claim by the peer's node."""
        record, peer = self._writes(s, i), s.nodes[_peer(i)]
        if record is None or record.claimed == _peer(i):
            return None
        is_shown = s.nodes[i].evidence == record.instances[_peer(i)]
        if not is_shown and (peer.silent or not s.link):
            return None
        return self._sole(s, i, record)

    def _hand_over(self, s: State, i: int) -> Iterator[State] | None:
        record = self._writes(s, i)
        if record is None or not _in_colo(s) or record.phase != "protected":
            return None
        if self.rules.moves:
            return self._proven(s, i, record)
        return self._swapped(
            s, i, record._replace(holder=_peer(i), eligible=(_peer(i),), claimed=None)
        )

    def _fail_over(self, s: State, i: int) -> Iterator[State]:
        me = s.nodes[i]
        if me.qemu in ("primary", "secondary") and not me.silent:
            yield self._alone(_node(s, i, halted=False, fuse=UNARMED, cut=False, since_cut=0), i)

    def _alone(self, s: State, i: int) -> State:
        """It runs alone from here: its peer lacks what is written now."""
        lost = "" if s.newest[i] else f"{_ALL[i]} lacks writes"
        newest = tuple(node == i for node in range(len(s.nodes)))
        return _node(
            s._replace(newest=newest, disk=True, verdict=s.verdict or lost), i, qemu="alone"
        )

    def _end_own(self, s: State, i: int) -> Iterator[State]:
        ended = _node(s, i, qemu="none", halted=False, silent=False)
        yield _node(ended, i, fuse=UNARMED, cut=False, since_cut=0)

    def _boot(self, s: State, i: int) -> Iterator[State] | None:
        record = self._writes(s, i)
        if record is None:
            return None
        return self._booted(s, i, record)

    def _booted(self, s: State, i: int, record: Record) -> Iterator[State]:
        number = s.nodes[i].instance + 1
        knew = s.nodes[i].shutdown or s.nodes[i].forgot
        if knew or (s.second is not None and s.second[1].shutdown):
            yield s._replace(verdict=f"{_ALL[i]} is booted though its guest shut down")
        if record.pending:
            yield s._replace(verdict=f"{_ALL[i]} is booted without its overlays")
        if number > INSTANCES:
            return
        instances = (*record.instances[:i], number, *record.instances[i + 1 :])
        for after in self._sole(s, i, record._replace(instances=instances)):
            yield self._alone(
                _node(
                    after,
                    i,
                    instance=number,
                    shutdown=False,
                    cut=False,
                    since_cut=0,
                    fuse=UNARMED,
                    broken=False,
                    forgot=False,
                ),
                i,
            )

    def _stop(self, s: State, i: int) -> Iterator[State] | None:
        record = self._writes(s, i)
        if record is None:
            return None
        return self._stopped(s, i, record)

    def _stopped(self, s: State, i: int, record: Record) -> Iterator[State]:
        if not s.nodes[i].shutdown:
            yield s._replace(verdict=f"no guest is wanted, and that of {_ALL[i]} did not shut down")
        yield from self._swapped(s, i, record._replace(stopped=True, claimed=None))

    def _reconcile(self, s: State, i: int) -> Iterator[State]:
        me, knows = s.nodes[i], s.nodes[i].knows
        assert knows is not None
        if knows.stopped:
            if me.qemu != "none":
                yield _node(s, i, qemu="none", halted=False, silent=False, fuse=UNARMED)
            return
        record = self._writes(s, i)
        if record is None or knows.holder != i or knows.eligible != (i,):
            return
        if record.pending and me.qemu == "alone":
            yield from self._swapped(s, i, record._replace(pending=False))
        elif record.phase == "alone" and me.qemu == "alone":
            yield from self._launches(s, i, record)
        elif record.phase == "joining":
            yield from self._joins(s, i, record)

    def _launches(self, s: State, i: int, record: Record) -> Iterator[State]:
        j = 1 - i
        number = s.nodes[j].instance + 1
        if s.nodes[j].qemu != "none" or s.nodes[j].off or s.nodes[j].gone or number > INSTANCES:
            return
        instances = (*record.instances[:j], number, *record.instances[j + 1 :])
        changed = record._replace(phase="joining", joining=j, instances=instances)
        for after in self._swapped(s, i, changed):
            yield _node(
                after,
                j,
                qemu="joining",
                instance=number,
                # Its supervisor reads the record again.
                knows=None,
                shutdown=False,
                cut=False,
                since_cut=0,
                file=record.epoch,
                broken=False,
                forgot=False,
            )

    def _joins(self, s: State, i: int, record: Record) -> Iterator[State]:
        me, j = s.nodes[i], 1 - i
        peer = s.nodes[j]
        if me.qemu == "alone" and peer.qemu == "joining" and s.link:
            yield _node(_node(s, i, qemu="primary"), j, qemu="secondary")._replace(nbd=True)
        ready = _in_colo(s) and peer.instance == record.instances[j]
        if not self.rules.proven:
            ready = peer.qemu in ("joining", "secondary")
        if ready and me.fuse == UNARMED and self.rules.armed and self.rules.equipped:
            yield _node(s._replace(leases=(LEASE, LEASE)), i, fuse=FUSE)
        elif ready and s.nbd:
            fuses = (i,) if self.rules.equipped else ()
            changed = record._replace(eligible=(0, 1), phase="protected", joining=None, fuses=fuses)
            for after in self._swapped(s, i, changed):
                proven = (
                    after
                    if not _in_colo(s)
                    else after._replace(newest=(True, True, False)[: len(s.nodes)])
                )
                yield proven
        lost = peer.qemu == "none" or peer.silent or peer.cut
        if not me.silent and (lost or me.cut or not s.link or not s.nbd):
            yield from self._undone(s, i, record)

    def _undone(self, s: State, i: int, record: Record) -> Iterator[State]:
        changed = record._replace(phase="alone", joining=None)
        for after in self._swapped(s, i, changed):
            peer = after.nodes[1 - i]
            ended = after
            if peer.qemu != "none":
                ended = _node(after, 1 - i, qemu="none", silent=False)
            yield _node(ended, i, fuse=UNARMED)

    # -- what is asked

    def verdict(self, s: State) -> str:
        """What is wrong with a state; empty for nothing."""
        if s.verdict:
            return s.verdict
        if _answers(s, 0) and _answers(s, 1):
            return "two guests"
        if len(s.nodes) > OLD and (_answers(s, OLD) or s.nodes[OLD].qemu == "alone"):
            return "the guest of an old node is back"
        epochs = [epoch for epoch, _ in s.served]
        if len(epochs) != len(set(epochs)):
            return "two holders of an epoch"
        return ""

    def run(self, begin: State, *, most: int = 3_000_000) -> tuple[str, list[str]]:
        """Search; gives what was found wrong, and the way there."""
        self.seen = {_key(begin): None}
        queue = deque([begin])
        while queue:
            s = queue.popleft()
            key = _key(s)
            wrong = self.verdict(s)
            if wrong:
                return wrong, self.path(key)
            for what, after in self.following(s):
                known = _key(after)
                if known not in self.seen:
                    self.seen[known] = (key, what)
                    queue.append(after)
            assert len(self.seen) <= most
        return "", []

    def path(self, key: State) -> list[str]:
        """The steps that lead to a state."""
        steps: list[str] = []
        at: State = key
        while (before := self.seen[at]) is not None:
            at, what = before
            steps.append(what)
        return steps[::-1]

    def stuck(self, *, arbiter_returns: bool = False) -> State | None:
        """A state from which no way leads to what is good, though no further fault comes.

        No fault ends by itself either, but a supervisor is started anew.

        Args:
            arbiter_returns: The arbiter can be reached again.
        """
        before: dict[State, list[State]] = {}
        good: list[State] = []
        for s in self.seen:
            if self._is_good(s):
                good.append(s)
            if arbiter_returns and not all(s.reach):
                back = s._replace(reach=(True,) * len(s.nodes))
                before.setdefault(_key(back), []).append(s)
            for _, after in self.following(s._replace(faults=0, asks=0), heals=False):
                known = _key(after)._replace(faults=s.faults, asks=s.asks)
                before.setdefault(known, []).append(s)
        reached = set(good)
        queue = deque(good)
        while queue:
            for s in before.get(queue.popleft(), ()):
                if s not in reached:
                    reached.add(s)
                    queue.append(s)
        return next((s for s in self.seen if s not in reached), None)

    def _is_good(self, s: State) -> bool:
        """One guest serves, by right; or no guest is wanted and none runs; or a person knows."""
        if s.told:
            return True
        if s.record.stopped:
            return all(node.qemu == "none" for node in s.nodes[:OLD])
        holder = s.record.holder
        node = s.nodes[holder]
        is_left = any(one.gone for one in s.nodes)
        if node.gone and (s.record.eligible == (holder,) or s.nodes[1 - holder].gone):
            # The newest data is lost with the host, and nobody else may run.
            return True
        if node.silent and s.record.eligible == (holder,):
            # `next_step` tells a person: test_guest_alone_that_gets_stuck_is_told_to_a_person.
            return True
        spent = node.instance >= INSTANCES or s.nodes[1 - holder].instance >= INSTANCES
        if _answers(s, holder) and s.record.phase != "protected":
            # No third instance of a node is searched, and none joins without a link and a record.
            return spent or is_left or not s.link or not s.reach[holder]
        if spent and node.qemu == "none":
            return True
        settled = s.record.phase == "protected" and s.record.claimed is None
        return settled and _in_colo(s) and s.nbd and s.disk


def _signal(s: State, i: int) -> Signal:
    """What makes a node suspect its peer."""
    peer = s.nodes[_peer(i)]
    if not s.link or peer.qemu == "none":
        return "hung-up"
    # That it is silent is seen where it can be asked.
    if peer.silent:
        return "silent"
    return "no-checkpoint" if _in_colo(s) else "colo-exit"


def _evidence(node: str, instance: str, knows: Record) -> Evidence:
    """Of the epoch of the record where it is about the QEMU that this means, else of an older."""
    epoch = knows.epoch - (instance != instance_of("p", node, knows.instances[_ALL.index(node)]))
    return Evidence(
        kind="exit", node=node, instance=instance, epoch=epoch, who="h", how="h", when="now"
    )


def _peer(i: int) -> int:
    """The other node, by the record that a node has: `OLD` was in a pair with the first one."""
    return 0 if i == OLD else 1 - i


def _with(each: tuple[bool, ...], i: int, *, value: bool) -> tuple[bool, ...]:
    return (*each[:i], value, *each[i + 1 :])


def _node(s: State, i: int, **fields: object) -> State:
    changed = s.nodes[i]._replace(**fields)  # type: ignore[arg-type] # named as in `Node`
    return s._replace(nodes=(*s.nodes[:i], changed, *s.nodes[i + 1 :]))


def _program_of(s: State, i: int) -> Program:
    node = s.nodes[i]
    return Program(*(getattr(node, field) for field in Program._fields))


def _turned(s: State) -> State:
    """The same, with the two supervisors of the node that has two in each other's place."""
    assert s.second is not None
    i, second = s.second
    return _node(s, i, **second._asdict())._replace(second=(i, _program_of(s, i)))


def _agreed(before: State, after: State, i: int) -> State:
    """The second supervisor does not know when the first one has cut, and forgets what is over."""
    assert after.second is not None
    second, cut = after.second[1], after.nodes[i].cut
    if not cut:
        second = second._replace(since_cut=0)
    elif not before.nodes[i].cut:
        second = second._replace(since_cut=-1)
    return after._replace(second=(i, second))


def _second_later(s: State) -> tuple[int, Program] | None:
    """The second supervisor a tick later."""
    if s.second is None:
        return None
    i, second = s.second
    if s.nodes[i].cut and second.since_cut >= 0:
        second = second._replace(since_cut=min(LEASE, second.since_cut + 1))
    return i, second


def _is_named(record: Record | None) -> bool:
    """Whether a record gives the old node a right."""
    return record is not None and OLD in record.eligible


def _is_sole(record: Record | None, i: int) -> bool:
    return record is not None and record.eligible == (i,)


def _reaches(s: State, i: int) -> bool:
    """Whether a node's supervisor gets an answer of the arbiter, and takes it."""
    return s.reach[i] and not s.nodes[i].noticed


def _shuts_down(s: State, i: int) -> State:
    """A node's guest shuts down; a supervisor sees that unless it has ended before."""
    ended = _program_of(s, i).has_ended
    after = _node(s, i, qemu="none", shutdown=not ended)
    if s.second is None or s.second[0] != i or not ended:
        return after
    second = s.second[1]
    return after._replace(second=(i, second._replace(shutdown=not second.has_ended)))


def _restarted(s: State, i: int) -> Node:
    """A node whose host has restarted: its files are what is left."""
    was = s.nodes[i]
    return Node("none", was.instance, up=False, file=was.file, gone=was.gone)


def _in_colo(s: State) -> bool:
    """Whether a checkpoint can end."""
    both = s.nodes[:OLD]
    live = not any(node.halted or node.silent or node.cut for node in both)
    return s.link and live and {node.qemu for node in both} == {"primary", "secondary"}


def _may_answer(node: Node) -> bool:
    """Whether a node has a QEMU that answers, or that its fuse has stopped."""
    return node.qemu != "none" and not node.silent


def _waits_in_vain(s: State, i: int, decision: Decision) -> bool:
    """Whether no way leads on while a QEMU gives no answer; who waits for it tells a person."""
    if decision.event == "disk-failed":
        # It can hand over only after a checkpoint, and nobody else has every write: `next_step`
        # tells that (test_person_is_told_of_a_disk_that_failed_while_nobody_can_take_over).
        return not _may_answer(s.nodes[1 - i])
    return decision.event == "unresponsive" and not any(map(_may_answer, s.nodes[:OLD]))


def _answers(s: State, i: int) -> bool:
    """Whether clients get answers; COLO holds some packets back, and others not (17.2)."""
    node = s.nodes[i]
    works = not (node.halted or node.silent or node.off)
    return node.qemu in ("primary", "alone") and works


def _key(s: State) -> State:
    """The same state, without what can make no difference any more.

    The revision counts for whether a supervisor knows the latest one; leases count while somebody
    may serve by one, and evidence while it is about a QEMU that the record names.
    """
    record = s.record
    leads = record.phase == "protected" and not record.stopped
    if len(s.nodes) > OLD and not _is_named(s.nodes[OLD].knows):
        # It knows that it has no right, and ends its QEMU: which record says so does not matter.
        s = _node(s, OLD, knows=record, evidence=0, cut=False, since_cut=0)
    if s.second is not None:
        # The two supervisors of a node differ in nothing but what they keep.
        i, second = s.second
        if repr(second) < repr(_program_of(s, i)):
            s = _turned(s)
    nodes = [
        Node(
            node.qemu,
            node.instance,
            node.halted,
            node.silent,
            None
            if node.knows is None
            else node.knows._replace(revision=int(node.knows.revision == record.revision)),
            node.up,
            node.evidence,
            node.cut and node.qemu != "none",
            node.since_cut if leads or i == OLD else 0,
            node.fuse,
            node.shutdown,
            node.file,
            node.noticed,
            node.saw_no_lease and leads,
            node.off,
            node.late,
            node.moves,
            node.moved,
            node.broken,
            node.forgot,
            node.gone,
        )
        for i, node in enumerate(s.nodes)
    ]
    return s._replace(
        nodes=tuple(nodes),
        hasty=s.hasty and leads,
        record=record._replace(revision=1),
        leases=s.leases if leads else (LEASE, LEASE),
        served=s.served[-1:],
        second=_plain_second(s, leads=leads),
    )


def _plain_second(s: State, *, leads: bool) -> tuple[int, Program] | None:
    """The second supervisor, without what can make no difference any more."""
    if s.second is None:
        return None
    i, second = s.second
    knows = second.knows
    if knows is not None:
        knows = knows._replace(revision=int(knows.revision == s.record.revision))
    return i, second._replace(
        knows=knows,
        since_cut=second.since_cut if leads else 0,
        saw_no_lease=second.saw_no_lease and leads,
    )

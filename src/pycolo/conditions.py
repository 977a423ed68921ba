"""Predicates on the state of nodes: the conditions that a plan waits for or requires.

A closed union. A leaf names its node and is evaluated on that node's `Live` alone; so the compiler
evaluates it on a snapshot in the same way as the executor does on QEMU's latest replies. The class
of a leaf defines the questions to QEMU, when the leaf is true, the state of the node after it has
become true, and its text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias, final

import attrs
from typing_extensions import override

from pycolo.evidence import Evidence, Victim
from pycolo.qmp import commands as qmp
from pycolo.qmp.replies import ColoMode, Version
from pycolo.qmp.states import JobStatus, MigrationStatus, RunState
from pycolo.snapshot import Absent, Child, Dead, Job, Live, Snapshot

NO_EVIDENCE: Final = "there is no evidence"
END_OR_LET_GO: Final = (
    "close the other connection to its monitor; if there is none, or it does not help, kill -9 the"
    " QEMU on its host"
)

Query: TypeAlias = (
    qmp.QueryStatus
    | qmp.QueryColoStatus
    | qmp.QueryMigrate
    | qmp.QueryJobs
    | qmp.QueryChardev
    | qmp.QueryNamedBlockNodes
    | qmp.XDebugQueryBlockGraph
    | qmp.QueryBlockExports
    | qmp.QueryYank
    | qmp.QomList
)


@attrs.frozen(kw_only=True)
class _Fact(ABC):
    """A condition on the state of one node."""

    node: str

    def queries(self) -> tuple[Query, ...]:
        """The questions to the node before the condition can be evaluated.

        Empty if the session knows the answer: identity, latched events, greeting, connection.
        """
        return ()

    @abstractmethod
    def holds(self, live: Live) -> bool:
        """Whether the condition is true of a node that answers."""

    def assume(self, live: Live) -> Live:
        """The planned state of the node after the condition has become true.

        The state is unchanged for a condition that is only checked and never waited for.
        """
        return live

    @abstractmethod
    def words(self) -> str:
        """The condition as a clause for messages."""

    @abstractmethod
    def seen(self, live: Live) -> str:
        """The node's actual state as a clause for messages, if the condition is not true."""


@final
@attrs.frozen(kw_only=True)
class RunStateIs(_Fact):
    """The guest's run state is one of the named states."""

    states: tuple[RunState, ...]
    "The states; later steps are compiled as if the first one had come."

    @override
    def queries(self) -> tuple[Query, ...]:
        return (qmp.QueryStatus(),)

    @override
    def holds(self, live: Live) -> bool:
        return live.run_state in self.states

    @override
    def assume(self, live: Live) -> Live:
        return attrs.evolve(live, run_state=self.states[0])

    @override
    def words(self) -> str:
        return f"{self.node} has run state {_either(self.states)}"

    @override
    def seen(self, live: Live) -> str:
        return f"run state {live.run_state}"


@final
@attrs.frozen(kw_only=True)
class ColoModeIs(_Fact):
    """The node reports this COLO mode: `primary`, `secondary`, or `none` outside COLO."""

    mode: ColoMode

    @override
    def queries(self) -> tuple[Query, ...]:
        return (qmp.QueryColoStatus(),)

    @override
    def holds(self, live: Live) -> bool:
        return live.colo_mode == self.mode

    @override
    def assume(self, live: Live) -> Live:
        # In COLO both sides report this migration status.
        migration = live.migration if self.mode == "none" else "colo"
        return attrs.evolve(live, colo_mode=self.mode, migration=migration, proven=False)

    @override
    def words(self) -> str:
        side = "outside COLO" if self.mode == "none" else f"COLO's {self.mode}"
        return f"{self.node} is {side}"

    @override
    def seen(self, live: Live) -> str:
        return f"mode {live.colo_mode}"


@final
@attrs.frozen(kw_only=True)
class NoColoExit(_Fact):
    """No COLO_EXIT is latched in the node's session; see `Session.latched`."""

    @override
    def holds(self, live: Live) -> bool:
        return not live.colo_exited

    @override
    def words(self) -> str:
        return f"{self.node} has sent no COLO_EXIT"

    @override
    def seen(self, live: Live) -> str:
        return "COLO_EXIT was seen"


@final
@attrs.frozen(kw_only=True)
class ColoExited(_Fact):
    """COLO_EXIT is latched in the node's session; see `Session.latched`."""

    @override
    def holds(self, live: Live) -> bool:
        return live.colo_exited

    @override
    def assume(self, live: Live) -> Live:
        return attrs.evolve(live, colo_exited=True)

    @override
    def words(self) -> str:
        return f"{self.node} has sent COLO_EXIT"

    @override
    def seen(self, live: Live) -> str:
        return "COLO_EXIT was not seen"


@final
@attrs.frozen(kw_only=True)
class CheckpointSeen(_Fact):
    """STOP and then RESUME were seen on the node after the step at `since` was sent."""

    since: str
    "The address of a step of the plan."

    @override
    def holds(self, live: Live) -> bool:
        return live.proven is True

    @override
    def assume(self, live: Live) -> Live:
        return attrs.evolve(live, proven=True)

    @override
    def words(self) -> str:
        return f"{self.node} has gone through a whole checkpoint since {self.since}"

    @override
    def seen(self, live: Live) -> str:
        return "no STOP and RESUME since"


@final
@attrs.frozen(kw_only=True)
class MigrationIs(_Fact):
    """The migration's status is one of the named statuses."""

    statuses: tuple[MigrationStatus, ...]
    "The statuses; later steps are compiled as if the first one had come."

    @override
    def queries(self) -> tuple[Query, ...]:
        return (qmp.QueryMigrate(),)

    @override
    def holds(self, live: Live) -> bool:
        return live.migration in self.statuses

    @override
    def assume(self, live: Live) -> Live:
        return attrs.evolve(live, migration=self.statuses[0])

    @override
    def words(self) -> str:
        return f"{self.node}'s migration is {_either(self.statuses)}"

    @override
    def seen(self, live: Live) -> str:
        error = "" if live.migration_error is None else f", {live.migration_error}"
        return f"migration {live.migration}{error}"


@attrs.frozen(kw_only=True)
class _OfJob(_Fact):
    """A condition on a job of a node."""

    job: str
    "The job's id."

    @override
    def queries(self) -> tuple[Query, ...]:
        return (qmp.QueryJobs(),)

    @override
    def seen(self, live: Live) -> str:
        found = live.jobs.get(self.job)
        return "no such job" if found is None else f"{found.status}, error {found.error}"


@final
@attrs.frozen(kw_only=True)
class JobIs(_OfJob):
    """The job exists, has one of the named statuses, and has no error."""

    statuses: tuple[JobStatus, ...]
    "The statuses; later steps are compiled as if the first one had come."

    @override
    def holds(self, live: Live) -> bool:
        found = live.jobs.get(self.job)
        return found is not None and found.error is None and found.status in self.statuses

    @override
    def assume(self, live: Live) -> Live:
        return attrs.evolve(live, jobs={**live.jobs, self.job: Job(status=self.statuses[0])})

    @override
    def words(self) -> str:
        return f"{self.node}'s job {self.job} is {_either(self.statuses)} without an error"


@final
@attrs.frozen(kw_only=True)
class JobFailed(_OfJob):
    """The job ended with an error, or it no longer exists."""

    @override
    def holds(self, live: Live) -> bool:
        found = live.jobs.get(self.job)
        return found is None or found.error is not None

    @override
    def words(self) -> str:
        return f"{self.node}'s job {self.job} has failed or is gone"


@final
@attrs.frozen(kw_only=True)
class ChardevConnected(_Fact):
    """The chardev's peer is connected."""

    chardev: str

    @override
    def queries(self) -> tuple[Query, ...]:
        return (qmp.QueryChardev(),)

    @override
    def holds(self, live: Live) -> bool:
        return live.chardevs.get(self.chardev, False)

    @override
    def assume(self, live: Live) -> Live:
        return attrs.evolve(live, chardevs={**live.chardevs, self.chardev: True})

    @override
    def words(self) -> str:
        return f"{self.node}'s chardev {self.chardev} is connected"

    @override
    def seen(self, live: Live) -> str:
        return "disconnected" if self.chardev in live.chardevs else "no such chardev"


@final
@attrs.frozen(kw_only=True)
class ChildIs(_Fact):
    """The named child of a quorum is the named block node."""

    quorum: str
    "The quorum's block node."
    child: str
    "The child's name in the quorum, such as `children.0`."
    child_node: str
    "The block node that it must be."

    @override
    def queries(self) -> tuple[Query, ...]:
        return (qmp.XDebugQueryBlockGraph(),)

    @override
    def holds(self, live: Live) -> bool:
        wanted = Child(name=self.child, node=self.child_node)
        return wanted in live.children.get(self.quorum, ())

    @override
    def words(self) -> str:
        return f"{self.node}'s {self.quorum} has {self.child_node} as {self.child}"

    @override
    def seen(self, live: Live) -> str:
        now = ", ".join(f"{x.name} is {x.node}" for x in live.children.get(self.quorum, ()))
        return now or "no children"


@final
@attrs.frozen(kw_only=True)
class Replicates(_Fact):
    """No failed write to any disk of the secondary is latched in the node's session.

    A failed write to the node's own disk does not count. A session does not know of a write that
    failed before it was opened; see `Session.latched`.
    """

    quorum: str
    "The quorum's block node; what it has as `children.0` is the node's own disk."
    child_node: str
    "The block node that writes to the secondary's disk."

    @override
    def queries(self) -> tuple[Query, ...]:
        return (qmp.XDebugQueryBlockGraph(),)

    @override
    def holds(self, live: Live) -> bool:
        return not live.replication_error

    @override
    def words(self) -> str:
        return f"{self.node} has reported no failed write of {self.quorum} to {self.child_node}"

    @override
    def seen(self, live: Live) -> str:
        return "a write to the secondary's disk failed"


@final
@attrs.frozen(kw_only=True)
class SizeIs(_Fact):
    """The block node has this virtual size."""

    block_node: str
    "The block node's name."
    size_bytes: int
    "Its size as the guest sees it, in bytes."

    @override
    def queries(self) -> tuple[Query, ...]:
        return (qmp.QueryNamedBlockNodes(flat=True),)

    @override
    def holds(self, live: Live) -> bool:
        return live.sizes_bytes.get(self.block_node) == self.size_bytes

    @override
    def assume(self, live: Live) -> Live:
        sizes_bytes = {**live.sizes_bytes, self.block_node: self.size_bytes}
        return attrs.evolve(live, sizes_bytes=sizes_bytes)

    @override
    def words(self) -> str:
        return f"{self.node}'s {self.block_node} has {self.size_bytes} bytes"

    @override
    def seen(self, live: Live) -> str:
        return f"size {live.sizes_bytes.get(self.block_node)}"


@final
@attrs.frozen(kw_only=True)
class Committed(_Fact):
    """The overlays of a promoted secondary are merged into its image (qemu-behaviour 5.13).

    Until then the image lacks writes, and the end of its QEMU loses them. It also holds for a
    secondary that was not promoted: its overlays are in use, and nothing is being merged.
    """

    quorum: str
    "The block node of the disk that the guest uses; the condition is judged by it alone."
    replication: str
    "The block node that is merged from, with its overlays."
    parent: str
    "The block node of the image that is merged into."

    @override
    def queries(self) -> tuple[Query, ...]:
        return (qmp.XDebugQueryBlockGraph(),)

    @override
    def holds(self, live: Live) -> bool:
        return self.quorum not in live.commit_pending

    @override
    def assume(self, live: Live) -> Live:
        return attrs.evolve(live, commit_pending=live.commit_pending - {self.quorum})

    @override
    def words(self) -> str:
        return f"{self.node}'s {self.quorum} has merged its overlays into {self.parent}"

    @override
    def seen(self, live: Live) -> str:
        return "the overlays are still being merged"


@final
@attrs.frozen(kw_only=True)
class PartsAre(_Fact):
    """The node has these parts of COLO and no others, each list in alphabetical order.

    The plan was compiled for these parts: it makes only the parts that do not exist yet.
    """

    block_nodes: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    chardevs: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()

    @classmethod
    def of(cls, node: str, live: Live) -> PartsAre:
        """The condition that a node has exactly the parts of a state."""
        return cls(
            node=node,
            block_nodes=tuple(sorted(live.block_nodes)),
            exports=tuple(sorted(live.exports)),
            jobs=tuple(sorted(live.jobs)),
            chardevs=tuple(sorted(live.chardevs)),
            objects=tuple(sorted(live.objects)),
        )

    @override
    def queries(self) -> tuple[Query, ...]:
        return (
            qmp.QueryNamedBlockNodes(flat=True),
            qmp.QueryBlockExports(),
            qmp.QueryJobs(),
            qmp.QueryChardev(),
            qmp.QomList(path="/objects"),
        )

    @override
    def holds(self, live: Live) -> bool:
        return self == PartsAre.of(self.node, live)

    @override
    def words(self) -> str:
        named = [f"{kind} {', '.join(names)}" for kind, names in self.by_kind().items() if names]
        return f"{self.node} has just these parts: {'; '.join(named) or 'none'}"

    @override
    def seen(self, live: Live) -> str:
        found = PartsAre.of(self.node, live).by_kind()
        changes: list[str] = []
        for kind, then in self.by_kind().items():
            changes += [f"{name} is new" for name in found[kind] if name not in then]
            changes += [f"{name} is gone" for name in then if name not in found[kind]]
        return ", ".join(changes)

    def by_kind(self) -> dict[str, tuple[str, ...]]:
        """The names of the parts, by their kind."""
        return {
            "block nodes": self.block_nodes,
            "exports": self.exports,
            "jobs": self.jobs,
            "chardevs": self.chardevs,
            "objects": self.objects,
        }


@final
@attrs.frozen(kw_only=True)
class InstanceIs(_Fact):
    """The node still has the QEMU that the plan was compiled for, and the QEMU answers now.

    QEMU is asked out of band, so that it answers even if its main loop is stuck on a dead peer.
    """

    instance: str

    @override
    def queries(self) -> tuple[Query, ...]:
        return (qmp.QueryYank(),)

    @override
    def holds(self, live: Live) -> bool:
        return live.instance == self.instance

    @override
    def words(self) -> str:
        return f"{self.node} is still the QEMU {self.instance!r}, and answers"

    @override
    def seen(self, live: Live) -> str:
        return f"instance {live.instance!r}"


@final
@attrs.frozen(kw_only=True)
class VersionIs(_Fact):
    """The node's QEMU has the version that the plan was compiled for."""

    version: Version

    @override
    def holds(self, live: Live) -> bool:
        return live.version == self.version

    @override
    def words(self) -> str:
        return f"{self.node} runs QEMU {self.version}"

    @override
    def seen(self, live: Live) -> str:
        return f"version {live.version}"


@final
@attrs.frozen(kw_only=True)
class Gone(_Fact):
    """The connection to the node's monitor has ended; that does not prove that QEMU has ended."""

    @override
    def holds(self, live: Live) -> bool:
        return False

    @override
    def words(self) -> str:
        return f"{self.node} has hung up"

    @override
    def seen(self, live: Live) -> str:
        return "its monitor is open"


@final
@attrs.frozen(kw_only=True)
class PoweredOff(_Fact):
    """The guest has powered itself off: its QEMU reported that by a SHUTDOWN event.

    The session keeps this latched, also after QEMU has ended.
    """

    @override
    def holds(self, live: Live) -> bool:
        return False

    @override
    def words(self) -> str:
        return f"the guest on {self.node} has powered itself off"

    @override
    def seen(self, live: Live) -> str:
        return "it runs on"


@final
@attrs.frozen(kw_only=True)
class PeerDead(_Fact):
    """There is evidence that exactly this QEMU has ended; see `Evidence`."""

    instance: str
    "The identity of the QEMU."
    epoch: int
    "The epoch of the record in which it could have run alone."

    @property
    def victim(self) -> Victim:
        """The QEMU, as it is named in evidence."""
        return Victim(node=self.node, instance=self.instance, epoch=self.epoch)

    @override
    def holds(self, live: Live) -> bool:
        return False

    @override
    def words(self) -> str:
        return f"there is evidence that {self.instance} on {self.node} has ended"

    @override
    def seen(self, live: Live) -> str:
        return NO_EVIDENCE


@final
@attrs.frozen(kw_only=True)
class NotRunning(_Fact):
    """No QEMU of the node is known to run, by its monitors or by its host.

    The condition is also true if no monitor and no host answers. So it never suffices alone: a plan
    that requires it also relies on a record or on an operator's statement.
    """

    @override
    def holds(self, live: Live) -> bool:
        return False

    @override
    def words(self) -> str:
        return f"no QEMU of {self.node} is known to run"

    @override
    def seen(self, live: Live) -> str:
        return f"{live.instance} answers"


Leaf: TypeAlias = (
    RunStateIs
    | ColoModeIs
    | NoColoExit
    | ColoExited
    | CheckpointSeen
    | MigrationIs
    | JobIs
    | JobFailed
    | ChardevConnected
    | ChildIs
    | Replicates
    | SizeIs
    | Committed
    | PartsAre
    | InstanceIs
    | VersionIs
    | Gone
    | PoweredOff
    | PeerDead
    | NotRunning
)


@final
@attrs.frozen(kw_only=True)
class AllOf:
    """All of its conditions are true."""

    conditions: tuple[Condition, ...]


@final
@attrs.frozen(kw_only=True)
class AnyOf:
    """At least one of its conditions is true."""

    conditions: tuple[Condition, ...]


Condition: TypeAlias = Leaf | AllOf | AnyOf


def leaves(condition: Condition) -> Iterator[Leaf]:
    """The leaves of a condition, in order."""
    if isinstance(condition, AllOf | AnyOf):
        for part in condition.conditions:
            yield from leaves(part)
    else:
        yield condition


def evaluate(condition: Condition, true: Callable[[Leaf], bool]) -> bool:
    """Whether a condition is true.

    Args:
        condition: The condition; an empty `AllOf` is true, an empty `AnyOf` is false.
        true: Returns whether a leaf is true; called only for the leaves that decide the result.
    """
    match condition:
        case AllOf(conditions=parts):
            return all(evaluate(part, true) for part in parts)
        case AnyOf(conditions=parts):
            return any(evaluate(part, true) for part in parts)
        case leaf:
            return true(leaf)


def holds(condition: Condition, snapshot: Snapshot) -> bool:
    """Whether the condition is true of the snapshot.

    Args:
        condition: The condition.
        snapshot: The state of the nodes. If a node does not answer, every leaf about it is false
            except `Gone`, `PoweredOff`, `PeerDead` and `NotRunning`.
    """

    def true(leaf: Leaf) -> bool:
        match leaf, snapshot.state(leaf.node):
            case PeerDead(victim=victim), Dead(evidence=Evidence() as evidence):
                return evidence.proves(victim)
            case PeerDead(), state:
                return isinstance(state, Dead)
            case Gone() | PoweredOff(), state:
                return not isinstance(state, Live)
            case NotRunning(node=node), state:
                return not isinstance(state, Live) and node not in snapshot.running
            case _, state:
                return isinstance(state, Live) and leaf.holds(state)

    return evaluate(condition, true)


def assume(condition: Condition, snapshot: Snapshot) -> Snapshot:
    """The snapshot after the condition has come true.

    Of an `AnyOf`, the first alternative is assumed: a plan puts its goal first.
    """
    match condition:
        case AllOf(conditions=parts):
            for part in parts:
                snapshot = assume(part, snapshot)
            return snapshot
        case AnyOf(conditions=parts):
            return assume(parts[0], snapshot) if parts else snapshot
        case Gone(node=node) | PoweredOff(node=node):
            return snapshot if snapshot.live(node) is None else snapshot.with_node(node, Absent())
        case NotRunning(node=node) if snapshot.live(node) is None:
            running = {name: one for name, one in snapshot.running.items() if name != node}
            return attrs.evolve(snapshot, running=running)
        case leaf:
            live = snapshot.live(leaf.node)
            if live is None or leaf.holds(live):
                return snapshot
            after = leaf.assume(live)
            return snapshot if after is live else snapshot.with_node(leaf.node, after)


def describe(condition: Condition) -> str:
    """Describe a condition in words.

    Args:
        condition: The condition; parts of `AllOf` are joined by "and", those of `AnyOf` by "or".

    Returns:
        One line without a full stop.
    """
    match condition:
        case AllOf(conditions=parts):
            return _joined(parts, " and ", "nothing more")
        case AnyOf(conditions=parts):
            return _joined(parts, " or ", "what never comes")
        case leaf:
            return leaf.words()


def _joined(parts: tuple[Condition, ...], word: str, none: str) -> str:
    """Join descriptions by a word; `none` is the text if there are no parts."""
    if not parts:
        return none
    return word.join(_part(part) if len(parts) > 1 else describe(part) for part in parts)


def _part(part: Condition) -> str:
    """The description of a part, in brackets if it has parts itself."""
    compound = isinstance(part, AllOf | AnyOf) and len(part.conditions) > 1
    return f"({describe(part)})" if compound else describe(part)


def _either(words: tuple[str, ...]) -> str:
    """Join alternatives by "or"."""
    return " or ".join(words)

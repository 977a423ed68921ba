"""Predicates on what QEMU shows: what a plan waits for and what it requires.

A closed union. A leaf names its node and is evaluated on a `Live` alone, the same way when a
compiler reads a snapshot and when an executor has just asked QEMU: `queries` tells what has to
be asked to evaluate a leaf, `holds` evaluates it, `assume` gives the state after it came true.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, assert_never, final

import attrs

from pycolo.evidence import Evidence, Victim
from pycolo.qmp import commands as qmp
from pycolo.qmp.replies import Version
from pycolo.snapshot import Absent, Child, ColoMode, Dead, Job, Live, Snapshot


@final
@attrs.frozen(kw_only=True)
class RunStateIs:
    """The guest's run state is one of these."""

    node: str
    states: tuple[str, ...]


@final
@attrs.frozen(kw_only=True)
class ColoModeIs:
    """The node says it is this side of COLO."""

    node: str
    mode: ColoMode


@final
@attrs.frozen(kw_only=True)
class NoColoExit:
    """COLO_EXIT was not seen on the node since this connection was opened."""

    node: str


@final
@attrs.frozen(kw_only=True)
class ColoExited:
    """COLO_EXIT was seen on the node."""

    node: str


@final
@attrs.frozen(kw_only=True)
class CheckpointSeen:
    """STOP and then RESUME were seen on the node after the step at `since` was sent."""

    node: str
    since: str


@final
@attrs.frozen(kw_only=True)
class MigrationIs:
    """The migration's status is one of these."""

    node: str
    statuses: tuple[str, ...]


@final
@attrs.frozen(kw_only=True)
class JobIs:
    """The job exists, with one of these statuses and without an error."""

    node: str
    job: str
    statuses: tuple[str, ...]


@final
@attrs.frozen(kw_only=True)
class JobFailed:
    """The job ended with an error, or is gone before it could be read."""

    node: str
    job: str


@final
@attrs.frozen(kw_only=True)
class ChardevConnected:
    """The chardev's peer is connected."""

    node: str
    chardev: str


@final
@attrs.frozen(kw_only=True)
class ChildIs:
    """This child of a quorum is this block node."""

    node: str
    quorum: str
    child: str
    child_node: str


@final
@attrs.frozen(kw_only=True)
class SizeIs:
    """The block node has this virtual size."""

    node: str
    block_node: str
    size_bytes: int


@final
@attrs.frozen(kw_only=True)
class Committed:
    """The overlays of a promoted secondary are merged into its image (qemu-behaviour 5.13)."""

    node: str
    quorum: str
    replication: str
    parent: str


@final
@attrs.frozen(kw_only=True)
class PartsAre:
    """The node has these parts of COLO and no others, each list in alphabetical order.

    A plan is bound to them: what its compiler found is not made again, and what it did not find is.
    """

    node: str
    block_nodes: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    chardevs: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()

    @classmethod
    def of(cls, node: str, live: Live) -> PartsAre:
        """The parts that a node has."""
        return cls(
            node=node,
            block_nodes=tuple(sorted(live.block_nodes)),
            exports=tuple(sorted(live.exports)),
            jobs=tuple(sorted(live.jobs)),
            chardevs=tuple(sorted(live.chardevs)),
            objects=tuple(sorted(live.objects)),
        )


@final
@attrs.frozen(kw_only=True)
class InstanceIs:
    """It is still the QEMU that the plan was compiled for, and it answers now.

    It is asked out of band, so that a main loop that is stuck on a dead peer does not matter.
    """

    node: str
    instance: str


@final
@attrs.frozen(kw_only=True)
class VersionIs:
    """QEMU has the version that the plan was compiled for."""

    node: str
    version: Version


@final
@attrs.frozen(kw_only=True)
class Gone:
    """QEMU hung up: its monitor is closed. Proof of nothing but that."""

    node: str


@final
@attrs.frozen(kw_only=True)
class PeerDead:
    """There is evidence that this very QEMU has ended: its process did, or it was fenced."""

    node: str
    instance: str
    "Its identity."
    epoch: int
    "The epoch of the record in which it could have gone on alone."

    @property
    def victim(self) -> Victim:
        """The QEMU as evidence names it."""
        return Victim(node=self.node, instance=self.instance, epoch=self.epoch)


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
    | SizeIs
    | Committed
    | PartsAre
    | InstanceIs
    | VersionIs
    | Gone
    | PeerDead
)


@final
@attrs.frozen(kw_only=True)
class AllOf:
    """Every one of them holds."""

    conditions: tuple[Condition, ...]


@final
@attrs.frozen(kw_only=True)
class AnyOf:
    """At least one of them holds."""

    conditions: tuple[Condition, ...]


Condition: TypeAlias = Leaf | AllOf | AnyOf
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


def leaves(condition: Condition) -> Iterator[Leaf]:
    """The leaves of a condition, in its order."""
    if isinstance(condition, AllOf | AnyOf):
        for part in condition.conditions:
            yield from leaves(part)
    else:
        yield condition


def queries(leaf: Leaf) -> tuple[Query, ...]:
    """What has to be asked of the leaf's node before it can be evaluated."""
    match leaf:
        case RunStateIs():
            return (qmp.QueryStatus(),)
        case ColoModeIs():
            return (qmp.QueryColoStatus(),)
        case MigrationIs():
            return (qmp.QueryMigrate(),)
        case JobIs() | JobFailed():
            return (qmp.QueryJobs(),)
        case ChardevConnected():
            return (qmp.QueryChardev(),)
        case ChildIs() | Committed() | SizeIs() | PartsAre():
            return _of_blocks(leaf)
        case InstanceIs():
            return (qmp.QueryYank(),)
        case NoColoExit() | ColoExited() | CheckpointSeen() | VersionIs() | Gone() | PeerDead():
            # Known by the session: identity, latched events, greeting, connection; and the proofs.
            return ()
        case _:
            assert_never(leaf)


def _of_blocks(leaf: ChildIs | Committed | SizeIs | PartsAre) -> tuple[Query, ...]:
    match leaf:
        case ChildIs() | Committed():
            return (qmp.XDebugQueryBlockGraph(),)
        case SizeIs():
            return (qmp.QueryNamedBlockNodes(flat=True),)
        case PartsAre():
            return (
                qmp.QueryNamedBlockNodes(flat=True),
                qmp.QueryBlockExports(),
                qmp.QueryJobs(),
                qmp.QueryChardev(),
                qmp.QomList(path="/objects"),
            )
        case _:
            assert_never(leaf)


def holds(condition: Condition, snapshot: Snapshot) -> bool:
    """Whether the condition is true of the snapshot.

    Args:
        condition: What to evaluate.
        snapshot: What is known; a node that does not answer makes every leaf false but `Gone`
            and `PeerDead`.
    """
    match condition:
        case AllOf(conditions=parts):
            return all(holds(part, snapshot) for part in parts)
        case AnyOf(conditions=parts):
            return any(holds(part, snapshot) for part in parts)
        case PeerDead(node=node, victim=victim):
            match snapshot.state(node):
                case Dead(evidence=Evidence() as evidence):
                    return evidence.proves(victim)
                case Dead():
                    return True
                case _:
                    return False
        case Gone(node=node):
            return not isinstance(snapshot.state(node), Live)
        case leaf:
            live = snapshot.live(leaf.node)
            return live is not None and _holds(leaf, live)


def _holds(leaf: Leaf, live: Live) -> bool:  # noqa: C901 - one line a leaf
    match leaf:
        case RunStateIs(states=states):
            return live.run_state in states
        case ColoModeIs(mode=mode):
            return live.colo_mode == mode
        case NoColoExit():
            return not live.colo_exited
        case ColoExited():
            return live.colo_exited
        case CheckpointSeen():
            return live.proven is True
        case MigrationIs(statuses=statuses):
            return live.migration in statuses
        case JobIs(job=job, statuses=statuses):
            found = live.jobs.get(job)
            return found is not None and found.error is None and found.status in statuses
        case JobFailed(job=job):
            found = live.jobs.get(job)
            return found is None or found.error is not None
        case ChardevConnected(chardev=chardev):
            return live.chardevs.get(chardev, False)
        case ChildIs(quorum=quorum, child=child, child_node=child_node):
            return Child(name=child, node=child_node) in live.children.get(quorum, ())
        case SizeIs(block_node=block_node, size_bytes=size_bytes):
            return live.sizes_bytes.get(block_node) == size_bytes
        case Committed(quorum=quorum):
            return quorum not in live.commit_pending
        case PartsAre(node=node):
            return leaf == PartsAre.of(node, live)
        case InstanceIs(instance=instance):
            return live.instance == instance
        case VersionIs(version=version):
            return live.version == version
        case Gone() | PeerDead():
            return False
        case _:
            assert_never(leaf)


def assume(condition: Condition, snapshot: Snapshot) -> Snapshot:
    """The snapshot after the condition has come true.

    Of alternatives the first is assumed: a plan waits for what it hopes, and lists it first.
    """
    match condition:
        case AllOf(conditions=parts):
            for part in parts:
                snapshot = assume(part, snapshot)
            return snapshot
        case AnyOf(conditions=parts):
            return assume(parts[0], snapshot) if parts else snapshot
        case Gone(node=node):
            return snapshot if snapshot.live(node) is None else snapshot.with_node(node, Absent())
        case PeerDead():
            return snapshot
        case leaf:
            live = snapshot.live(leaf.node)
            if live is None or _holds(leaf, live):
                return snapshot
            return snapshot.with_node(leaf.node, _assume(leaf, live))


def _assume(leaf: Leaf, live: Live) -> Live:  # noqa: C901 - one line a leaf
    match leaf:
        case RunStateIs(states=states):
            return attrs.evolve(live, run_state=states[0])
        case ColoModeIs(mode=mode):
            # In COLO both sides call their migration so.
            migration = live.migration if mode == "none" else "colo"
            return attrs.evolve(live, colo_mode=mode, migration=migration, proven=False)
        case ColoExited():
            return attrs.evolve(live, colo_exited=True)
        case CheckpointSeen():
            return attrs.evolve(live, proven=True)
        case MigrationIs(statuses=statuses):
            return attrs.evolve(live, migration=statuses[0])
        case JobIs(job=job, statuses=statuses):
            return attrs.evolve(live, jobs={**live.jobs, job: Job(status=statuses[0])})
        case ChardevConnected(chardev=chardev):
            return attrs.evolve(live, chardevs={**live.chardevs, chardev: True})
        case Committed(quorum=quorum):
            return attrs.evolve(live, commit_pending=live.commit_pending - {quorum})
        case SizeIs(block_node=block_node, size_bytes=size_bytes):
            return attrs.evolve(live, sizes_bytes={**live.sizes_bytes, block_node: size_bytes})
        case (
            NoColoExit()
            | JobFailed()
            | ChildIs()
            | PartsAre()
            | InstanceIs()
            | VersionIs()
            | Gone()
            | PeerDead()
        ):
            # Facts that no waiting brings about: they hold, or the plan stops here.
            return live
        case _:
            assert_never(leaf)

"""What is known of each node and of the pair's record, as values.

A node is one of five things: `Absent` (no QEMU runs for it, by a plan or by whoever starts its
QEMUs), `Live` (QEMU answered, or a plan expects it to), `Unreachable` (no connection, which proves
nothing), `Unresponsive` (a connection and no answer) or `Dead` (proven).

The same `Live` describes what was read and what a plan leads to, so that a planned state can be
compared with what came true, and the compiler starts from either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, final

import attrs

from pycolo._mapping import read_only_mappings
from pycolo._printable import brief
from pycolo.evidence import Evidence
from pycolo.model.migration import BANDWIDTH_BYTES_PER_S, DOWNTIME_LIMIT_MS, MULTIFD_CHANNELS
from pycolo.qmp.replies import ColoMode, Version
from pycolo.qmp.schema import Schema
from pycolo.qmp.states import MIGRATION_MOVING
from pycolo.record import RecordState


@final
@attrs.frozen(kw_only=True)
class Child:
    """One child of a quorum, by QEMU's name for its place."""

    name: str
    "QEMU's name of the place, such as `children.1`."
    node: str
    "Name of the block node in that place."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Filter:
    """A network filter, or colo-compare, or an iothread."""

    qom_type: str
    "QEMU's type, such as `filter-mirror`."
    on: bool = True
    "Whether a filter works; always true for what is no filter."
    settings: Mapping[str, str] = attrs.field(factory=dict)
    "Its other properties by QEMU's names, as JSON writes them: netdev, queue, timeouts ..."


@final
@attrs.frozen(kw_only=True)
class Job:
    """A block job that has not been dismissed."""

    status: str
    "QEMU's job status: `running`, `ready`, `concluded` ..."
    error: str | None = None
    "Why it failed; None if it did not."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Live:
    """A QEMU that answers, as far as COLO control needs to know it."""

    version: Version
    "QEMU's version triple."
    instance: str = ""
    "Its identity, set at launch; empty if it was given none."
    run_state: str = "prelaunch"
    "QEMU's run state."
    colo_mode: ColoMode = "none"
    "Which side of COLO it says it is."
    last_colo_mode: ColoMode = "none"
    "Which side it was before a failover."
    colo_exited: bool = False
    "COLO_EXIT was seen; latched, QEMU itself forgets it (qemu-behaviour 18.4)."
    proven: bool | None = None
    "A whole checkpoint was seen since it entered COLO; None if that is not known."
    commit_pending: frozenset[str] = frozenset()
    "Quorums whose overlays a promotion still merges into the image (qemu-behaviour 5.13)."
    migration: str = "none"
    "Migration status."
    migration_error: str | None = attrs.field(default=None, eq=False)
    "Why the last migration failed; read, never planned (qemu-behaviour 19.4)."
    migration_blockers: tuple[str, ...] = attrs.field(default=(), eq=False)
    "Why no migration is possible; read, never planned (qemu-behaviour 19.4)."
    incoming: bool = False
    "A listener for the incoming migration was started."
    capabilities: frozenset[str] = frozenset()
    "Migration capabilities that are on."
    checkpoint_delay_ms: int = 20000
    "The parameter x-checkpoint-delay."
    max_bandwidth_bytes_per_s: int = BANDWIDTH_BYTES_PER_S
    "The parameter max-bandwidth."
    downtime_limit_ms: int = DOWNTIME_LIMIT_MS
    "The parameter downtime-limit."
    multifd_channels: int = MULTIFD_CHANNELS
    "The parameter multifd-channels; of no meaning without the capability multifd."
    migration_tls: Mapping[str, str] = attrs.field(factory=dict, metadata={"sparse": True})
    "The migration's TLS parameters that are set, by QEMU's names."
    block_nodes: frozenset[str] = frozenset()
    "Names of the block nodes."
    children: Mapping[str, tuple[Child, ...]] = attrs.field(factory=dict)
    "Quorum's node name to its children."
    sizes_bytes: Mapping[str, int] = attrs.field(factory=dict)
    "Block node's name to its virtual size, if it is known."
    images: Mapping[str, str] = attrs.field(factory=dict, eq=False)
    "Block node's name to the file that it is, as QEMU prints it; read, never planned."
    nbd_server: bool = False
    "An NBD server was started; after a restart of the controller known by its exports only."
    exports: Mapping[str, str] = attrs.field(factory=dict)
    "Export id to block node."
    jobs: Mapping[str, Job] = attrs.field(factory=dict)
    "Job id to job."
    chardevs: Mapping[str, bool] = attrs.field(factory=dict)
    "Chardev id to whether its peer is connected."
    objects: Mapping[str, Filter] = attrs.field(factory=dict)
    "Object id to what it is; only the types COLO uses."
    yanks: frozenset[str] = attrs.field(default=frozenset(), eq=False)
    "What could be yanked, as addresses name it; read, never planned."
    replication_error: bool | None = attrs.field(default=None, eq=False)
    """Whether a disk is known not to be replicated; read, never planned (qemu-behaviour 5.10).

    A replication node tells it when asked. A primary's plain NBD node only has it told by events,
    to sessions that were open at a write since.
    """
    disk_error: bool = attrs.field(default=False, eq=False)
    """Whether a disk of its own refused a write that its peer has; read, never planned.

    QEMU tells it by events alone, to sessions that were open then (qemu-behaviour 5.11).
    """
    schema: Schema | None = attrs.field(default=None, eq=False)
    "What commands this QEMU accepts; None if it was not read. Read, never planned."


@final
@attrs.frozen(kw_only=True)
class Absent:
    """No QEMU runs for this node.

    A plan assumes it, or whoever starts the QEMUs states it. Reading a node never finds it: a node
    whose monitor does not answer is read as `Unreachable`.
    """


@final
@attrs.frozen(kw_only=True)
class Unreachable:
    """No connection to its monitor, or no answer that can be read. The guest may be running."""

    why: str = attrs.field(converter=brief)
    "What was tried, and what came back."


@final
@attrs.frozen(kw_only=True)
class Unresponsive:
    """Something accepts the connection to its monitor and does not answer.

    QEMU's main loop is stuck, its process is stopped, or another client holds the monitor (`Busy`).
    The guest may run.
    """

    why: str = attrs.field(converter=brief)
    "What was tried, and what did not answer."
    oob: bool
    "Whether a session from before is left to send out-of-band commands over (qemu-behaviour 7.6)."


@final
@attrs.frozen(kw_only=True)
class Dead:
    """A node whose QEMU has ended."""

    evidence: Evidence | None
    "Who says so; None if a plan that was compiled offline assumes it: nothing executes on that."


@final
@attrs.frozen(kw_only=True)
class Running:
    """A QEMU that is known to run, even if its monitor gives no answer."""

    instance: str
    "Its identity; empty if it was given none, or if that could not be asked."
    how: str
    "How that is known, as a main clause: `its host knows it as process 4711`."


NOT_READ: Final = Unreachable(why="not read")
NodeState: TypeAlias = Absent | Live | Unreachable | Unresponsive | Dead


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Snapshot:
    """What is known of every node of a pair."""

    nodes: Mapping[str, NodeState]
    "Node to what is known of its QEMU."
    records: Mapping[str, RecordState] = attrs.field(factory=dict)
    "Node to what its own file says of the pair."
    folders: Mapping[str, str] = attrs.field(factory=dict)
    "Node to what tells its image folder from every other one, on whichever host."
    running: Mapping[str, Running] = attrs.field(factory=dict, eq=False)
    "Node to the QEMU that its host knows to run. Read, never planned."

    def state(self, name: str) -> NodeState:
        """What is known of one node; `Unreachable` for one nobody looked at."""
        return self.nodes.get(name, NOT_READ)

    def live(self, name: str) -> Live | None:
        """The node as QEMU shows it, or None if no QEMU answers."""
        state = self.state(name)
        return state if isinstance(state, Live) else None

    def with_node(self, name: str, state: NodeState) -> Snapshot:
        """The same snapshot with another state of one node."""
        return attrs.evolve(self, nodes={**self.nodes, name: state})

    def with_record(self, name: str, state: RecordState) -> Snapshot:
        """The same snapshot with another state of one node's record file."""
        return attrs.evolve(self, records={**self.records, name: state})


Role: TypeAlias = Literal[
    "absent",
    "unreachable",
    "unresponsive",
    "dead",
    "fresh secondary",
    "prepared secondary",
    "secondary",
    "broken secondary",
    "primary",
    "broken primary",
    "entering",
    "unprotected",
    "used up",
]


def role_of(state: NodeState) -> Role:  # noqa: C901 - one line a role, read as a ladder
    """What a node is at the moment, derived and never declared.

    Every ambiguous case has its line here: a secondary that never entered COLO is told from a
    promoted one by its run state, a primary inside its first copy by its migration.

    Args:
        state: What is known of the node.
    """
    match state:
        case Absent():
            return "absent"
        case Unreachable():
            return "unreachable"
        case Unresponsive():
            return "unresponsive"
        case Dead():
            return "dead"
        case Live(colo_mode="secondary", colo_exited=True):
            return "broken secondary"
        case Live(colo_mode="secondary"):
            return "secondary"
        case Live(colo_mode="primary", colo_exited=True):
            return "broken primary"
        case Live(colo_mode="primary"):
            return "primary"
        case Live(run_state="inmigrate", incoming=True):
            return "prepared secondary"
        case Live(run_state="inmigrate"):
            return "fresh secondary"
        case Live(incoming=True, last_colo_mode="none"):
            # It received a state without COLO (qemu-behaviour 4.6): no guest may run from that.
            return "used up"
        case Live(migration=status) if status in MIGRATION_MOVING:
            return "entering"
        case Live():
            return "unprotected"

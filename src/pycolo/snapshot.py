"""The known state of each node and of the pair's record, as values.

A node's state is one of five: `Absent` (no QEMU runs, by a plan or by a statement of the program
that starts the QEMUs), `Live` (QEMU answered, or a plan expects it to), `Unreachable` (there is no
connection, which proves nothing), `Unresponsive` (there is a connection but no answer) or `Dead`
(there is evidence that QEMU has ended).

`Live` describes both a state that was read and a state that is planned. So the two can be compared,
and the compiler can start from either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Protocol, TypeAlias, final

import attrs

from pycolo._mapping import read_only, read_only_mappings
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
    """One child of a quorum."""

    name: str
    "QEMU's name of the child, such as `children.1`."
    node: str
    "Name of the block node that is the child."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Filter:
    """A QOM object that COLO uses: a filter, colo-compare, an iothread or a TLS object."""

    qom_type: str
    "QEMU's type, such as `filter-mirror`."
    on: bool = True
    "Whether a filter is switched on; always true for an object that is not a filter."
    settings: Mapping[str, str] = attrs.field(factory=dict)
    "Its other properties by QEMU's names (netdev, queue, timeouts ...), each value as text."


@final
@attrs.frozen(kw_only=True)
class Job:
    """A block job that has not been dismissed."""

    status: str
    "QEMU's job status: `running`, `ready`, `concluded` ..."
    error: str | None = None
    "Why the job failed; None if it did not fail."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Drive:
    """A drive of the guest."""

    device: str
    "The id or QOM path of the guest's device."
    limits: Mapping[str, int]
    "The limits that are set, by the fields of `Throttle`."


def _as_read(value: Mapping[str, str] | None) -> Mapping[str, str] | None:
    return None if value is None else read_only(value)


def _drives_as_read(value: Mapping[str, Drive] | None) -> Mapping[str, Drive] | None:
    return None if value is None else read_only(value)


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Live:
    """The state of a QEMU that answers, as far as pycolo needs it."""

    version: Version
    "QEMU's version triple."
    instance: str = ""
    "The identity of the QEMU, set at launch; empty if it got none."
    run_state: str = "prelaunch"
    "QEMU's run state."
    colo_mode: ColoMode = "none"
    "The side of COLO that QEMU reports for itself."
    last_colo_mode: ColoMode = "none"
    "The side that QEMU was before a failover."
    colo_exited: bool = False
    "Whether the event COLO_EXIT came; latched, since QEMU forgets it (qemu-behaviour 18.4)."
    proven: bool | None = None
    "Whether a whole checkpoint was seen since QEMU entered COLO; None if that is not known."
    commit_pending: frozenset[str] = frozenset()
    "Quorums whose overlays a promotion still merges into the image (qemu-behaviour 5.13)."
    migration: str = "none"
    "Migration status."
    migration_error: str | None = attrs.field(default=None, eq=False)
    "Why the last migration failed; read, never planned (qemu-behaviour 19.4)."
    migration_blockers: tuple[str, ...] = attrs.field(default=(), eq=False)
    "Why no migration is possible; read, never planned (qemu-behaviour 19.4)."
    incoming: bool = False
    "Whether a listener for the incoming migration was started."
    capabilities: frozenset[str] = frozenset()
    "Migration capabilities that are on."
    checkpoint_delay_ms: int = 20000
    "The parameter x-checkpoint-delay."
    max_bandwidth_bytes_per_s: int = BANDWIDTH_BYTES_PER_S
    "The parameter max-bandwidth."
    downtime_limit_ms: int = DOWNTIME_LIMIT_MS
    "The parameter downtime-limit."
    multifd_channels: int = MULTIFD_CHANNELS
    "The parameter multifd-channels, which is also set, without effect, while multifd is off."
    migration_tls: Mapping[str, str] = attrs.field(factory=dict, metadata={"sparse": True})
    "The migration's TLS parameters that are set, by QEMU's names."
    block_nodes: frozenset[str] = frozenset()
    "Names of the block nodes."
    children: Mapping[str, tuple[Child, ...]] = attrs.field(factory=dict)
    "Quorum's node name to its children."
    sizes_bytes: Mapping[str, int] = attrs.field(factory=dict)
    "Block node's name to its virtual size, for nodes whose size is known."
    images: Mapping[str, str] = attrs.field(factory=dict, eq=False)
    "Block node's name to the path of its file, as QEMU prints it; read, never planned."
    caches: Mapping[str, str] | None = attrs.field(
        default=None, eq=False, converter=_as_read, metadata={"sparse": True}
    )
    """Block node's name to its use of the host's cache (`writeback`, `none`, `unsafe`, or `none,
    unsafe`); None if that was not read. Read, never planned."""
    drives: Mapping[str, Drive] | None = attrs.field(
        default=None, eq=False, converter=_drives_as_read, metadata={"sparse": True}
    )
    "Block node's name to the guest's drive on it; None if that was not read. Read, never planned."
    overlaid: bool = attrs.field(default=False, eq=False, metadata={"sparse": True})
    """Whether an external snapshot above a quorum takes the guest's writes, so that no node's image
    gets them (qemu-behaviour 20.6). Read, never planned."""
    nbd_server: bool = False
    "Whether an NBD server was started; when read, whether it has exports: QEMU shows no more."
    exports: Mapping[str, str] = attrs.field(factory=dict)
    "Export id to block node."
    jobs: Mapping[str, Job] = attrs.field(factory=dict)
    "Job id to job."
    chardevs: Mapping[str, bool] = attrs.field(factory=dict)
    "Chardev id to whether its peer is connected."
    objects: Mapping[str, Filter] = attrs.field(factory=dict)
    "Object id to the object; only of the types that COLO uses."
    yanks: frozenset[str] = attrs.field(default=frozenset(), eq=False)
    "The connections that can be yanked, named as in the addresses of steps; read, never planned."
    replication_error: bool | None = attrs.field(default=None, eq=False)
    """Whether a disk is known not to be replicated; read, never planned (qemu-behaviour 5.10).

    QEMU reports it for a replication node when asked. For a primary's plain NBD node QEMU reports
    it only by an event at a write, which only a session that is open then receives.
    """
    disk_error: bool = attrs.field(default=False, eq=False)
    """Whether the node's own disk failed, so that it may lack writes; read, never planned.

    QEMU reports it only by an event, to sessions that are open then; behind the report of a read
    that failed, that of a write may be missing (qemu-behaviour 5.11).
    """
    schema: Schema | None = attrs.field(default=None, eq=False)
    "The commands that this QEMU accepts; None if they were not read. Read, never planned."


@final
@attrs.frozen(kw_only=True)
class Absent:
    """No QEMU runs for this node.

    A plan assumes this state, or the program that starts the QEMUs states it. Reading a node never
    returns it: a node without a connection is read as `Unreachable`.
    """


@final
@attrs.frozen(kw_only=True)
class Unreachable:
    """No connection to the node's monitor, or a reply that cannot be read. The guest may run."""

    why: str = attrs.field(converter=brief)
    "What was tried, and the result."


@final
@attrs.frozen(kw_only=True)
class Unresponsive:
    """The node's monitor accepts a connection and does not answer.

    QEMU's main loop is stuck, its process is stopped, or another client holds the monitor (`Busy`).
    The guest may run.
    """

    why: str = attrs.field(converter=brief)
    "What was tried, and the result."
    oob: bool
    "Whether an open session is left that can send out-of-band commands (qemu-behaviour 7.6)."


@final
@attrs.frozen(kw_only=True)
class Dead:
    """A node whose QEMU has ended."""

    evidence: Evidence | None
    "The evidence; None if a plan that was compiled offline assumes it (it is never executed)."


@final
@attrs.frozen(kw_only=True)
class Running:
    """A QEMU that is known to run, even if its monitor gives no answer."""

    instance: str
    "The identity of the QEMU; empty if it got none, or if it is not known."
    how: str
    "How it is known that it runs, as a main clause: `its host knows it as process 4711`."


NOT_READ: Final = Unreachable(why="not read")
NodeState: TypeAlias = Absent | Live | Unreachable | Unresponsive | Dead


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Snapshot:
    """The known state of every node of a pair, and of its records."""

    nodes: Mapping[str, NodeState]
    "Node name to the state of its QEMU."
    records: Mapping[str, RecordState] = attrs.field(factory=dict)
    "Node name to the state of its own record file."
    folders: Mapping[str, str] = attrs.field(factory=dict)
    "Node name to an identity of its image folder that no other folder on any host has."
    running: Mapping[str, Running] = attrs.field(factory=dict, eq=False)
    "Node name to the QEMU that its host knows to run. Read, never planned."

    def state(self, name: str) -> NodeState:
        """The state of one node; `Unreachable` for a node that was not read."""
        return self.nodes.get(name, NOT_READ)

    def live(self, name: str) -> Live | None:
        """The state that the node's QEMU shows; None if no QEMU answers."""
        state = self.state(name)
        return state if isinstance(state, Live) else None

    def with_node(self, name: str, state: NodeState) -> Snapshot:
        """A copy of the snapshot with another state of one node."""
        return attrs.evolve(self, nodes={**self.nodes, name: state})

    def with_record(self, name: str, state: RecordState) -> Snapshot:
        """A copy of the snapshot with another state of one node's record file."""
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


class MigrationLimits(Protocol):
    """Numbers of a migration, as a query shows them or a command sets them; None if it does not."""

    @property
    def x_checkpoint_delay_ms(self) -> int | None:
        """The longest time between two checkpoints; None if QEMU or the command names none."""

    @property
    def max_bandwidth_bytes_per_s(self) -> int | None:
        """The highest rate of the RAM's copy; None if QEMU or the command names none."""

    @property
    def downtime_limit_ms(self) -> int | None:
        """The longest expected pause at the end of the RAM's copy, or None if none is named."""

    @property
    def multifd_channels(self) -> int | None:
        """The number of connections over which multifd sends the RAM, or None if none is named."""


class DriveLimits(Protocol):
    """The limits of a drive, as a query shows them or a command sets them; 0 for none."""

    @property
    def bps(self) -> int:
        """Bytes per second."""

    @property
    def bps_rd(self) -> int:
        """Bytes read per second."""

    @property
    def bps_wr(self) -> int:
        """Bytes written per second."""

    @property
    def iops(self) -> int:
        """Operations per second."""

    @property
    def iops_rd(self) -> int:
        """Reads per second."""

    @property
    def iops_wr(self) -> int:
        """Writes per second."""


def limits_of(found: DriveLimits) -> Mapping[str, int]:
    """The limits that are set, by the fields of `Throttle`."""
    named = {
        "iops_total": found.iops,
        "iops_read": found.iops_rd,
        "iops_write": found.iops_wr,
        "bps_total": found.bps,
        "bps_read": found.bps_rd,
        "bps_write": found.bps_wr,
    }
    return {name: limit for name, limit in named.items() if limit}


def with_limits(live: Live, limits: MigrationLimits) -> Live:
    """The state of a node with the limits that are given; the others stay as they were."""

    def given(value: int | None, before: int) -> int:
        return before if value is None else value

    return attrs.evolve(
        live,
        checkpoint_delay_ms=given(limits.x_checkpoint_delay_ms, live.checkpoint_delay_ms),
        max_bandwidth_bytes_per_s=given(
            limits.max_bandwidth_bytes_per_s, live.max_bandwidth_bytes_per_s
        ),
        downtime_limit_ms=given(limits.downtime_limit_ms, live.downtime_limit_ms),
        multifd_channels=given(limits.multifd_channels, live.multifd_channels),
    )


def role_of(state: NodeState) -> Role:  # noqa: C901 - one line a role, read as a ladder
    """The role that a node has at the moment, derived from its state and never declared.

    The run state tells a secondary that never entered COLO from a promoted one. The migration
    status identifies a primary during its first copy.

    Args:
        state: The state of the node.

    Returns:
        The role. For a node without an answer, `absent`, `unreachable`, `unresponsive` or `dead`,
        as its state says; for a QEMU that runs a guest without COLO, `unprotected`.
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
            # It received a guest without COLO (qemu-behaviour 4.6); that guest must not run.
            return "used up"
        case Live(migration=status) if status in MIGRATION_MOVING:
            return "entering"
        case Live():
            return "unprotected"

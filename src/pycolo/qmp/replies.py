"""The replies of QEMU, as typed values.

Each type strictly reads the keys that pycolo uses, and ignores every other key, because new
versions of QEMU add some. Vocabularies that grow with QEMU (run states, migration and job states)
are plain strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar, Final, Literal, Self, TypeAlias, final

import attrs
from typing_extensions import override

from pycolo._json import at, list_at, object_at
from pycolo.errors import ParseError
from pycolo.qmp._base import QmpRecord, QmpValue
from pycolo.qmp.objects import YankBlockNode, YankChardev, YankInstance, YankMigration

__all__ = [
    "BlockExport",
    "BlockGraph",
    "BlockJob",
    "Chardev",
    "ColoMode",
    "ColoReason",
    "ColoStatus",
    "GraphEdge",
    "GraphNode",
    "Job",
    "MigrationCapabilities",
    "MigrationInfo",
    "MigrationParameters",
    "NameInfo",
    "NamedBlockNode",
    "NodeChild",
    "QomProperty",
    "ReplicationStatus",
    "SchemaInfo",
    "StatusInfo",
    "Version",
    "VersionInfo",
    "yank_instances",
]

ColoMode: TypeAlias = Literal["none", "primary", "secondary"]
"""Which side of a pair a QEMU is, or was."""

ColoReason: TypeAlias = Literal["none", "request", "error", "processing"]
"""Why COLO ended, as QEMU reports it; it may be wrong (qemu-behaviour 8.5)."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class StatusInfo(QmpRecord):
    """The reply to query-status."""

    qmp_open: ClassVar[bool] = True

    running: bool
    """Whether the guest runs."""
    status: str
    """The run state, such as ``running``, ``paused``, ``colo``, ``inmigrate`` or
    ``postmigrate``."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class NameInfo(QmpRecord):
    """The reply to query-name."""

    qmp_open: ClassVar[bool] = True

    name: str | None = None
    """The name that the option ``-name`` gave."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class ColoStatus(QmpRecord):
    """The reply to query-colo-status.

    A broken pair can look healthy in it (qemu-behaviour 4.14, 18.4).
    """

    qmp_open: ClassVar[bool] = True

    mode: ColoMode
    """The side this QEMU is now."""
    last_mode: ColoMode
    """The side it was in its previous COLO run."""
    reason: ColoReason
    """Why the previous COLO run ended."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class ReplicationStatus(QmpRecord):
    """The reply to query-xen-replication-status, which concerns every replication node.

    Source: qemu-behaviour 5.10.
    """

    qmp_open: ClassVar[bool] = True

    error: bool
    """Whether one of the nodes failed."""
    desc: str | None = None
    """What failed."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class MigrationInfo(QmpRecord):
    """The reply to query-migrate."""

    qmp_open: ClassVar[bool] = True

    status: str | None = None
    """Such as ``active``, ``colo``, ``completed`` or ``failed``; None if there never was a
    migration."""
    error_desc: str | None = None
    """Why the migration failed."""
    ram_transferred_bytes: int | None = attrs.field(
        default=None, metadata={"qmp_name": "ram.transferred"}
    )
    """What was sent."""
    ram_remaining_bytes: int | None = attrs.field(
        default=None, metadata={"qmp_name": "ram.remaining"}
    )
    """What is still to send."""
    ram_total_bytes: int | None = attrs.field(default=None, metadata={"qmp_name": "ram.total"})
    """All of the guest's memory."""
    ram_mbps: float | None = attrs.field(default=None, metadata={"qmp_name": "ram.mbps"})
    """Throughput in megabits per second."""
    socket_address: tuple[QmpValue, ...] | None = None
    """Where a secondary listens for the incoming migration; None if no listener was started."""
    blocked_reasons: tuple[str, ...] = ()
    """Why a migration is impossible now."""


@final
@attrs.frozen(kw_only=True)
class MigrationCapabilities:
    """The reply to query-migrate-capabilities."""

    enabled: frozenset[str]
    """The capabilities that are on."""
    known: frozenset[str]
    """All capabilities that this QEMU has."""

    @classmethod
    def from_qmp(cls, value: object, path: str = "return") -> Self:
        """Parse the reply.

        Raises:
            ParseError: ``value`` is not a list of capabilities with their states.
        """
        states = list_at(value, path, _CapabilityState.from_qmp)
        return cls(
            enabled=frozenset(s.capability for s in states if s.state),
            known=frozenset(s.capability for s in states),
        )


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class _CapabilityState(QmpRecord):
    qmp_open: ClassVar[bool] = True

    capability: str
    state: bool


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class MigrationParameters(QmpRecord):
    """The reply to query-migrate-parameters."""

    qmp_open: ClassVar[bool] = True

    x_checkpoint_delay_ms: int | None = attrs.field(
        default=None, metadata={"qmp_name": "x-checkpoint-delay"}
    )
    """Milliseconds between two checkpoints."""
    tls_creds: str | None = None
    """The id of the migration's TLS credentials; empty for none."""
    tls_hostname: str | None = None
    """The name expected in the peer's certificate; empty for the name of the peer's host."""
    tls_authz: str | None = None
    """The id of the object that authorises clients; empty for none."""
    multifd_channels: int | None = None
    """The number of connections that multifd makes."""
    max_bandwidth_bytes_per_s: int | None = attrs.field(
        default=None, metadata={"qmp_name": "max-bandwidth"}
    )
    """The highest rate of the migration, in bytes per second; 0 for no limit."""
    downtime_limit_ms: int | None = attrs.field(
        default=None, metadata={"qmp_name": "downtime-limit"}
    )
    """The longest expected pause of the guest at the end of the copy, in milliseconds."""


_VERSION: Final = r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})"


@final
@attrs.frozen(kw_only=True, repr=False, order=True)
class Version(QmpRecord):
    """A QEMU version; versions are ordered."""

    qmp_open: ClassVar[bool] = True

    major: int
    minor: int
    micro: int

    @classmethod
    def parse(cls, text: str, path: str = "") -> Self:
        """Parse ``10.0.13``.

        Raises:
            ParseError: ``text`` is not three numbers with dots between them.
        """
        match = re.fullmatch(_VERSION, text, re.ASCII)
        if match is None:
            raise ParseError(path, "be a version such as 10.0.13", text)
        major, minor, micro = (int(part) for part in match.groups())
        return cls(major=major, minor=minor, micro=micro)

    @override
    def __str__(self) -> str:
        """Give ``10.0.13``."""
        return f"{self.major}.{self.minor}.{self.micro}"


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class VersionInfo(QmpRecord):
    """The reply to query-version, and the ``version`` of QMP's greeting."""

    qmp_open: ClassVar[bool] = True

    version: Version = attrs.field(metadata={"qmp_name": "qemu"})
    """The version."""
    package: str
    """The distribution's own version of it; may be empty."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class NodeChild(QmpRecord):
    """A child of a block node."""

    qmp_open: ClassVar[bool] = True

    child: str
    """Its role for the parent, such as ``file``, ``backing`` or ``children.1``."""
    node_name: str
    """The child node's name."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class NamedBlockNode(QmpRecord):
    """One entry of the reply to query-named-block-nodes."""

    qmp_open: ClassVar[bool] = True

    node_name: str = ""
    """The node's name; ``#block`` and a number if QEMU made it up."""
    driver: str = attrs.field(metadata={"qmp_name": "drv"})
    """The node's driver."""
    filename: str = attrs.field(metadata={"qmp_name": "file"})
    """The file or address that it opens, as QEMU prints it."""
    size_bytes: int = attrs.field(metadata={"qmp_name": "image.virtual-size"})
    """The size that its parents see."""
    read_only: bool = attrs.field(metadata={"qmp_name": "ro"})
    """Whether it refuses writes."""
    cache_direct: bool | None = attrs.field(default=None, metadata={"qmp_name": "cache.direct"})
    """Whether it bypasses the host's page cache."""
    cache_no_flush: bool | None = attrs.field(default=None, metadata={"qmp_name": "cache.no-flush"})
    """Whether it ignores flushes."""
    children: tuple[NodeChild, ...] | None = None
    """Its children; None if this QEMU does not tell (before 10.1, qemu-behaviour 2.3)."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockDevice(QmpRecord):
    """One entry of the reply to query-block: a device of the guest, with its limits."""

    qmp_open: ClassVar[bool] = True

    qdev: str = ""
    """The device's id or QOM path; empty if no device of the guest uses it."""
    node_name: str = attrs.field(default="", metadata={"qmp_name": "inserted.node-name"})
    """The block node below it; empty for an empty drive."""
    driver: str = attrs.field(default="", metadata={"qmp_name": "inserted.drv"})
    """The driver of that block node."""
    bps: int = attrs.field(default=0, metadata={"qmp_name": "inserted.bps"})
    """The limit in bytes per second; 0 for none, as in the other limits."""
    bps_rd: int = attrs.field(default=0, metadata={"qmp_name": "inserted.bps_rd"})
    """The limit for reads, in bytes per second."""
    bps_wr: int = attrs.field(default=0, metadata={"qmp_name": "inserted.bps_wr"})
    """The limit for writes, in bytes per second."""
    iops: int = attrs.field(default=0, metadata={"qmp_name": "inserted.iops"})
    """The limit in operations per second."""
    iops_rd: int = attrs.field(default=0, metadata={"qmp_name": "inserted.iops_rd"})
    """The limit in reads per second."""
    iops_wr: int = attrs.field(default=0, metadata={"qmp_name": "inserted.iops_wr"})
    """The limit in writes per second."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class GraphNode(QmpRecord):
    """A node of the block graph: a block node, or a drive, export or job that uses one."""

    qmp_open: ClassVar[bool] = True

    id: int
    """Its number in this reply; not kept from one reply to the next."""
    type: str
    """``block-driver`` for a node, ``block-backend`` for a drive or export, ``block-job``."""
    name: str
    """The node name, or the drive's or job's id; may be empty."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class GraphEdge(QmpRecord):
    """An edge of the block graph."""

    qmp_open: ClassVar[bool] = True

    parent: int
    """The ``id`` of the parent's `GraphNode`."""
    child: int
    """The ``id`` of the child's `GraphNode`."""
    name: str
    """What the child is to the parent, such as ``root``, ``file`` or ``children.1``."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockGraph(QmpRecord):
    """The reply to x-debug-query-block-graph.

    On every version of QEMU it has the names of a quorum's children.
    """

    qmp_open: ClassVar[bool] = True

    nodes: tuple[GraphNode, ...]
    """Its nodes."""
    edges: tuple[GraphEdge, ...]
    """Its edges, each from a parent to a child."""

    def find(self, name: str) -> GraphNode | None:
        """Find the block node that ``name`` means in x-blockdev-change.

        Args:
            name: A drive's id or, if no drive has that id, a node name.

        Returns:
            The block node; None if there is neither a drive nor a node of that name.
        """
        drive = self._named(name, "block-backend")
        roots = [] if drive is None else list(self._below(drive))
        return roots[0][1] if roots else self._named(name, "block-driver")

    def children_of(self, name: str) -> tuple[NodeChild, ...]:
        """Give the children of the node ``name`` (a node name or a drive's id), sorted.

        An empty tuple if there is no such node.
        """
        node = self.find(name)
        below = () if node is None else self._below(node)
        children = (NodeChild(child=edge.name, node_name=child.name) for edge, child in below)
        return tuple(sorted(children, key=lambda child: (len(child.child), child.child)))

    def has_node(self, node_name: str) -> bool:
        """Tell whether there is a node of that name."""
        return self._named(node_name, "block-driver") is not None

    def _named(self, name: str, kind: str) -> GraphNode | None:
        return next((node for node in self.nodes if node.name == name and node.type == kind), None)

    def _below(self, node: GraphNode) -> Iterator[tuple[GraphEdge, GraphNode]]:
        by_id = {other.id: other for other in self.nodes}
        for edge in self.edges:
            if edge.parent == node.id and edge.child in by_id:
                yield edge, by_id[edge.child]


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockJob(QmpRecord):
    """One entry of the reply to query-block-jobs, whose form differs between QEMU versions.

    Source: qemu-behaviour 2.3.
    """

    qmp_open: ClassVar[bool] = True

    id: str = attrs.field(metadata={"qmp_name": "device"})
    """The job's id."""
    type: str
    """Such as ``mirror``."""
    status: str
    """Such as ``running``, ``ready`` or ``concluded``."""
    ready: bool
    """Whether the copy has caught up."""
    length_bytes: int = attrs.field(metadata={"qmp_name": "len"})
    """The value of ``offset_bytes`` at which the job ends; it may grow."""
    offset_bytes: int = attrs.field(metadata={"qmp_name": "offset"})
    """The progress of the job."""
    auto_dismiss: bool
    """Whether the job vanishes when it ends."""
    io_status: str
    """``ok``, ``failed`` or ``nospace``."""
    error: str | None = None
    """The error with which the job ended; None if there is none."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class Job(QmpRecord):
    """One entry of the reply to query-jobs."""

    qmp_open: ClassVar[bool] = True

    id: str
    """The job's id."""
    type: str
    """Such as ``mirror``."""
    status: str
    """Such as ``running``, ``ready`` or ``concluded``."""
    current_progress: int
    """The progress of the job, in a unit that depends on the job."""
    total_progress: int
    """The value of ``current_progress`` at which the job ends; it may grow."""
    error: str | None = None
    """The error with which the job ended; on a concluded mirror None means a complete copy
    (qemu-behaviour 18.5)."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class Chardev(QmpRecord):
    """One entry of the reply to query-chardev."""

    qmp_open: ClassVar[bool] = True

    label: str
    """The chardev's id."""
    filename: str
    """Its backend, as QEMU prints it, with the prefix ``disconnected:`` if it has no peer."""
    frontend_open: bool
    """Whether an object or a device has opened it."""

    @property
    def connected(self) -> bool:
        """Whether the socket has a peer."""
        return not self.filename.startswith("disconnected:")


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QomProperty(QmpRecord):
    """One entry of the reply to qom-list."""

    qmp_open: ClassVar[bool] = True

    name: str
    """The property's name; under ``/objects``, an object's id."""
    type: str
    """The property's type; for an object ``child<filter-mirror>``."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockExport(QmpRecord):
    """One entry of the reply to query-block-exports."""

    qmp_open: ClassVar[bool] = True

    id: str
    """The export's id."""
    type: str
    """``nbd`` for COLO's."""
    node_name: str
    """The name of the exported block node."""
    shutting_down: bool
    """Whether the export is being deleted."""


@final
@attrs.frozen(kw_only=True)
class SchemaInfo:
    """The reply to query-qmp-schema, not yet read; ``Schema.from_reply`` reads it."""

    entries: tuple[Mapping[str, object], ...]
    """The entries as QEMU gave them."""

    @classmethod
    def from_qmp(cls, value: object, path: str = "return") -> Self:
        """Parse the reply.

        Raises:
            ParseError: ``value`` is not a list of objects.
        """
        return cls(entries=list_at(value, path, object_at))


def yank_instances(value: object, path: str = "return") -> tuple[YankInstance, ...]:
    """Parse the reply to query-yank; instances of a kind that pycolo does not know are left out.

    Raises:
        ParseError: ``value`` is not a list of instances.
    """
    found = list_at(value, path, _yank_instance)
    return tuple(instance for instance in found if instance is not None)


def _yank_instance(value: object, path: str) -> YankInstance | None:
    instance = object_at(value, path)
    match instance.get("type"):
        case "block-node":
            return YankBlockNode.from_qmp(
                {"type": "block-node", "node-name": instance.get("node-name")}, path
            )
        case "chardev":
            return YankChardev.from_qmp({"type": "chardev", "id": instance.get("id")}, path)
        case "migration":
            return YankMigration()
        case str():
            return None
        case other:
            raise ParseError(at(path, "type"), "be a string", other)

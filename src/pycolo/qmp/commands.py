"""The QMP commands that COLO needs, one frozen class each.

Field names are QEMU's argument names with underscores, and carry their unit. ``command_from_qmp``
parses the wire form.
"""

from __future__ import annotations

import functools
from typing import ClassVar, Final, Literal, Self, TypeAlias, final, get_args

import attrs
from typing_extensions import override

from pycolo._json import at, list_at, object_at, refuse_unknown
from pycolo.errors import DeclarationError, ParseError
from pycolo.qmp._base import QmpCommand, QmpRecord, QmpValue
from pycolo.qmp.blockdevs import BlockNode
from pycolo.qmp.chardevs import ChardevBackend, SocketAddress
from pycolo.qmp.objects import QomObject, YankInstance
from pycolo.qmp.replies import (
    BlockDevice,
    BlockExport,
    BlockGraph,
    BlockJob,
    Chardev,
    ColoStatus,
    Job,
    MigrationCapabilities,
    MigrationInfo,
    MigrationParameters,
    NamedBlockNode,
    NameInfo,
    QomProperty,
    ReplicationStatus,
    SchemaInfo,
    StatusInfo,
    VersionInfo,
    yank_instances,
)

__all__ = [
    "BlockExportAdd",
    "BlockExportDel",
    "BlockJobCancel",
    "BlockSetIoThrottle",
    "BlockdevAdd",
    "BlockdevDel",
    "BlockdevMirror",
    "CapabilityName",
    "ChardevAdd",
    "ChardevRemove",
    "Command",
    "Cont",
    "DriveMirror",
    "HumanMonitorCommand",
    "JobDismiss",
    "Migrate",
    "MigrateContinue",
    "MigrateIncoming",
    "MigrateSetCapabilities",
    "MigrateSetParameters",
    "MigrationCapability",
    "NbdServerAdd",
    "NbdServerStart",
    "NbdServerStop",
    "ObjectAdd",
    "ObjectDel",
    "QomGet",
    "QomList",
    "QomSet",
    "QueryBlock",
    "QueryBlockExports",
    "QueryBlockJobs",
    "QueryChardev",
    "QueryColoStatus",
    "QueryCommands",
    "QueryJobs",
    "QueryMigrate",
    "QueryMigrateCapabilities",
    "QueryMigrateParameters",
    "QueryName",
    "QueryNamedBlockNodes",
    "QueryQmpSchema",
    "QueryStatus",
    "QueryVersion",
    "QueryXenReplicationStatus",
    "QueryYank",
    "Quit",
    "Stop",
    "SystemPowerdown",
    "XBlockdevChange",
    "XColoLostHeartbeat",
    "XDebugQueryBlockGraph",
    "Yank",
    "command_from_qmp",
]

_RETURN: Final = "return"
_HIGHEST_UINT32: Final = 2**32 - 1
_HIGHEST_PORT: Final = 65535


class _Acknowledged(QmpCommand[None]):
    """A command whose reply carries nothing."""

    __slots__ = ()

    @override
    def parse_reply(self, value: object) -> None:
        object_at(value, _RETURN)


def _last_part(path: str) -> str:
    """Give an object's id from its QOM path."""
    return path.rpartition("/")[2]


# -- migration and COLO ----------------------------------------------------------------------------


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class Migrate(_Acknowledged):
    """Start the migration that becomes COLO if x-colo is on."""

    qmp_name: ClassVar[str] = "migrate"

    uri: str
    """The address on which the secondary listens, such as ``tcp:127.0.0.2:9998`` or
    ``unix:/run/pair/migration``."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class MigrateIncoming(_Acknowledged):
    """Listen for a migration, on a QEMU started with ``-incoming defer``."""

    qmp_name: ClassVar[str] = "migrate-incoming"

    uri: str
    """The address to listen on, such as ``tcp:0.0.0.0:9998``."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class MigrateContinue(_Acknowledged):
    """Continue a migration that is paused before the switchover (qemu-behaviour 17.6)."""

    qmp_name: ClassVar[str] = "migrate-continue"

    state: Literal["pre-switchover"]
    """The state in which the migration is paused."""


CapabilityName: TypeAlias = Literal[
    "x-colo", "events", "return-path", "pause-before-switchover", "multifd"
]
"""The migration capabilities that pycolo sets."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class MigrationCapability(QmpRecord):
    """A migration capability and whether it is to be on."""

    capability: CapabilityName
    """The capability's name."""
    state: bool
    """Whether it is to be on."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class MigrateSetCapabilities(_Acknowledged):
    """Turn migration capabilities on or off; a refusal changes nothing (qemu-behaviour 2.6)."""

    qmp_name: ClassVar[str] = "migrate-set-capabilities"

    capabilities: tuple[MigrationCapability, ...]
    """The capabilities to change."""

    @classmethod
    def turning_on(cls, *names: CapabilityName) -> Self:
        """Make the command that turns ``names`` on."""
        return cls(
            capabilities=tuple(MigrationCapability(capability=name, state=True) for name in names)
        )


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class MigrateSetParameters(_Acknowledged):
    """Set migration parameters; in COLO it forces a checkpoint (qemu-behaviour 4.11)."""

    qmp_name: ClassVar[str] = "migrate-set-parameters"

    x_checkpoint_delay_ms: int | None = attrs.field(
        default=None, metadata={"qmp_name": "x-checkpoint-delay"}
    )
    """Milliseconds between two checkpoints; 0 to 4294967295."""
    tls_creds: str | None = None
    """The id of TLS credentials; empty for none. QEMU does not check it before migrate
    (qemu-behaviour 10.3)."""
    tls_hostname: str | None = None
    """The name expected in the peer's certificate; empty for the name of the peer's host."""
    tls_authz: str | None = None
    """The id of the object that authorises clients; empty for none."""
    multifd_channels: int | None = None
    """The number of connections that multifd makes, 1 to 255."""
    max_bandwidth_bytes_per_s: int | None = attrs.field(
        default=None, metadata={"qmp_name": "max-bandwidth"}
    )
    """The highest rate of the migration, in bytes per second; 0 for no limit."""
    downtime_limit_ms: int | None = attrs.field(
        default=None, metadata={"qmp_name": "downtime-limit"}
    )
    """The longest expected pause of the guest at the end of the copy, in milliseconds."""

    def __attrs_post_init__(self) -> None:
        delay_ms = self.x_checkpoint_delay_ms
        if delay_ms is not None and not 0 <= delay_ms <= _HIGHEST_UINT32:
            raise DeclarationError("x_checkpoint_delay_ms", delay_ms, f"be 0 to {_HIGHEST_UINT32}")


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryMigrate(QmpCommand[MigrationInfo]):
    """Ask for the state of the migration."""

    qmp_name: ClassVar[str] = "query-migrate"

    @override
    def parse_reply(self, value: object) -> MigrationInfo:
        return MigrationInfo.from_qmp(value, _RETURN)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryMigrateCapabilities(QmpCommand[MigrationCapabilities]):
    """Ask which migration capabilities there are and which are on."""

    qmp_name: ClassVar[str] = "query-migrate-capabilities"

    @override
    def parse_reply(self, value: object) -> MigrationCapabilities:
        return MigrationCapabilities.from_qmp(value, _RETURN)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryMigrateParameters(QmpCommand[MigrationParameters]):
    """Ask for the migration parameters."""

    qmp_name: ClassVar[str] = "query-migrate-parameters"

    @override
    def parse_reply(self, value: object) -> MigrationParameters:
        return MigrationParameters.from_qmp(value, _RETURN)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryColoStatus(QmpCommand[ColoStatus]):
    """Ask which side of a pair this QEMU is."""

    qmp_name: ClassVar[str] = "query-colo-status"

    @override
    def parse_reply(self, value: object) -> ColoStatus:
        return ColoStatus.from_qmp(value, _RETURN)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryXenReplicationStatus(QmpCommand[ReplicationStatus]):
    """Ask whether a replication node failed."""

    qmp_name: ClassVar[str] = "query-xen-replication-status"

    @override
    def parse_reply(self, value: object) -> ReplicationStatus:
        return ReplicationStatus.from_qmp(value, _RETURN)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class XColoLostHeartbeat(_Acknowledged):
    """Let this QEMU continue without its peer.

    With a living peer that is a split brain (qemu-behaviour 8.6).
    """

    qmp_name: ClassVar[str] = "x-colo-lost-heartbeat"


# -- the virtual machine ---------------------------------------------------------------------------


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryStatus(QmpCommand[StatusInfo]):
    """Ask whether the guest runs."""

    qmp_name: ClassVar[str] = "query-status"

    @override
    def parse_reply(self, value: object) -> StatusInfo:
        return StatusInfo.from_qmp(value, _RETURN)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryName(QmpCommand[NameInfo]):
    """Ask for the guest's name."""

    qmp_name: ClassVar[str] = "query-name"

    @override
    def parse_reply(self, value: object) -> NameInfo:
        return NameInfo.from_qmp(value, _RETURN)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryVersion(QmpCommand[VersionInfo]):
    """Ask for QEMU's version."""

    qmp_name: ClassVar[str] = "query-version"

    @override
    def parse_reply(self, value: object) -> VersionInfo:
        return VersionInfo.from_qmp(value, _RETURN)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryCommands(QmpCommand[frozenset[str]]):
    """Ask for the names of the commands that this QEMU has."""

    qmp_name: ClassVar[str] = "query-commands"

    @override
    def parse_reply(self, value: object) -> frozenset[str]:
        return frozenset(list_at(value, _RETURN, _command_name))


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryQmpSchema(QmpCommand[SchemaInfo]):
    """Ask which commands, events and types this QEMU has."""

    qmp_name: ClassVar[str] = "query-qmp-schema"

    @override
    def parse_reply(self, value: object) -> SchemaInfo:
        return SchemaInfo.from_qmp(value, _RETURN)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class Stop(_Acknowledged):
    """Stop the guest's processors."""

    qmp_name: ClassVar[str] = "stop"


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class Cont(_Acknowledged):
    """Let the guest's processors run."""

    qmp_name: ClassVar[str] = "cont"


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class SystemPowerdown(_Acknowledged):
    """Press the guest's power button; a guest without ACPI does not react."""

    qmp_name: ClassVar[str] = "system_powerdown"


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class Quit(_Acknowledged):
    """End QEMU."""

    qmp_name: ClassVar[str] = "quit"


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class Yank(_Acknowledged):
    """Cut connections, so that nothing waits for a dead peer any more.

    If QEMU does not know one of the instances, it cuts none and answers DeviceNotFound. So send one
    command for each instance (qemu-behaviour 7.7).
    """

    qmp_name: ClassVar[str] = "yank"
    oob_capable: ClassVar[bool] = True

    instances: tuple[YankInstance, ...]
    """The connections to cut."""

    @property
    @override
    def subject(self) -> str:
        return ",".join(instance.subject for instance in self.instances)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryYank(QmpCommand[tuple[YankInstance, ...]]):
    """Ask which connections a yank could cut; those of monitors must never be yanked.

    Source: qemu-behaviour 7.7.
    """

    qmp_name: ClassVar[str] = "query-yank"
    oob_capable: ClassVar[bool] = True

    @override
    def parse_reply(self, value: object) -> tuple[YankInstance, ...]:
        return yank_instances(value, _RETURN)


# -- the secondary's disk server -------------------------------------------------------------------


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class NbdServerStart(_Acknowledged):
    """Start the NBD server; no query shows its address later (qemu-behaviour 18.3)."""

    qmp_name: ClassVar[str] = "nbd-server-start"

    addr: SocketAddress = attrs.field(metadata={"qmp_form": "wrapped"})
    """Where it listens."""
    tls_creds: str | None = None
    """The id of TLS credentials for a server endpoint."""
    tls_authz: str | None = None
    """The id of the object that authorises clients."""
    max_connections: int | None = None
    """The highest number of clients at once; 0 for no limit."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class NbdServerAdd(_Acknowledged):
    """Export a disk by its drive's id or node name; deprecated in favour of BlockExportAdd."""

    qmp_name: ClassVar[str] = "nbd-server-add"

    device: str
    """The drive's id or the node's name."""
    name: str | None = None
    """The export's name; ``device`` if absent."""
    writable: bool | None = None
    """Whether clients may write; not if absent."""

    @property
    @override
    def subject(self) -> str:
        return self.name or self.device


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class NbdServerStop(_Acknowledged):
    """Stop the NBD server with all its exports."""

    qmp_name: ClassVar[str] = "nbd-server-stop"


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockExportAdd(_Acknowledged):
    """Export a block node over NBD, by its node name only (qemu-behaviour 5.3)."""

    qmp_name: ClassVar[str] = "block-export-add"
    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("type", "nbd"),)

    id: str
    """The export's id, for BlockExportDel."""
    node_name: str
    """The name of the node to export."""
    name: str | None = None
    """The export's name for clients; ``node_name`` if absent."""
    writable: bool | None = None
    """Whether clients may write; not if absent."""

    @property
    @override
    def subject(self) -> str:
        return self.id


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockExportDel(_Acknowledged):
    """End an export."""

    qmp_name: ClassVar[str] = "block-export-del"

    id: str
    """The export's id."""
    mode: Literal["safe", "hard"] | None = None
    """``hard`` drops its clients; ``safe``, the default, refuses while there are any."""

    @property
    @override
    def subject(self) -> str:
        return self.id


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryBlockExports(QmpCommand[tuple[BlockExport, ...]]):
    """Ask for the exports."""

    qmp_name: ClassVar[str] = "query-block-exports"

    @override
    def parse_reply(self, value: object) -> tuple[BlockExport, ...]:
        return list_at(value, _RETURN, BlockExport.from_qmp)


# -- block nodes -----------------------------------------------------------------------------------


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockdevAdd(_Acknowledged):
    """Make a block node, with the nodes that its options hold.

    QEMU opens the files and connections before it replies, and refuses the command if one cannot be
    opened, a node has that name already, or an option is wrong; then no node is made.
    A node for an NBD server that does not answer blocks QEMU's main loop (qemu-behaviour 5.19).
    """

    qmp_name: ClassVar[str] = "blockdev-add"

    node: BlockNode = attrs.field(metadata={"qmp_form": "inline"})
    """The node's options."""

    @property
    @override
    def subject(self) -> str:
        return self.node.node_name or ""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockdevDel(_Acknowledged):
    """Delete a block node that nothing uses."""

    qmp_name: ClassVar[str] = "blockdev-del"

    node_name: str
    """The node's name."""

    @property
    @override
    def subject(self) -> str:
        return self.node_name


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class XBlockdevChange(_Acknowledged):
    """Give a quorum a further child, or take one away."""

    qmp_name: ClassVar[str] = "x-blockdev-change"

    parent: str
    """The quorum, by its drive's id or node name."""
    child: str | None = None
    """The child to remove, such as ``children.1``; read from QEMU, never guessed (qemu-behaviour
    5.8)."""
    node: str | None = None
    """The name of the node to add."""

    def __attrs_post_init__(self) -> None:
        if (self.child is None) == (self.node is None):
            raise DeclarationError("child", self.child, "be given or node be given, and not both")

    @property
    @override
    def subject(self) -> str:
        return f"{self.parent}.{self.child or self.node}"


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryNamedBlockNodes(QmpCommand[tuple[NamedBlockNode, ...]]):
    """Ask for the block nodes."""

    qmp_name: ClassVar[str] = "query-named-block-nodes"

    flat: bool | None = None
    """Whether to leave out the images beneath each node, which makes the reply shorter."""

    @override
    def parse_reply(self, value: object) -> tuple[NamedBlockNode, ...]:
        return list_at(value, _RETURN, NamedBlockNode.from_qmp)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryBlock(QmpCommand[tuple[BlockDevice, ...]]):
    """Ask for the guest's drives, with the limits of each."""

    qmp_name: ClassVar[str] = "query-block"

    @override
    def parse_reply(self, value: object) -> tuple[BlockDevice, ...]:
        return list_at(value, _RETURN, BlockDevice.from_qmp)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockSetIoThrottle(_Acknowledged):
    """Set all limits of a drive; 0 is no limit."""

    qmp_name: ClassVar[str] = "block_set_io_throttle"

    id: str
    """The id or QOM path of the guest's device."""
    bps: int
    """Bytes per second."""
    bps_rd: int = attrs.field(metadata={"qmp_name": "bps_rd"})
    """Bytes read per second."""
    bps_wr: int = attrs.field(metadata={"qmp_name": "bps_wr"})
    """Bytes written per second."""
    iops: int
    """Operations per second."""
    iops_rd: int = attrs.field(metadata={"qmp_name": "iops_rd"})
    """Reads per second."""
    iops_wr: int = attrs.field(metadata={"qmp_name": "iops_wr"})
    """Writes per second."""

    @property
    @override
    def subject(self) -> str:
        return self.id.strip("/").replace("/", ".")


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class XDebugQueryBlockGraph(QmpCommand[BlockGraph]):
    """Ask for the block graph."""

    qmp_name: ClassVar[str] = "x-debug-query-block-graph"

    @override
    def parse_reply(self, value: object) -> BlockGraph:
        return BlockGraph.from_qmp(value, _RETURN)


# -- jobs ------------------------------------------------------------------------------------------


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class DriveMirror(_Acknowledged):
    """Copy a disk to a file or an ``nbd://`` address, and then every new write."""

    qmp_name: ClassVar[str] = "drive-mirror"

    device: str
    """The disk, by its drive's id or node name."""
    job_id: str | None = None
    """The job's id; ``device`` if absent."""
    target: str
    """Where to copy to, such as ``nbd://127.0.0.2:9999/parent0``."""
    mode: Literal["existing", "absolute-paths"] | None = None
    """Whether the target exists."""
    format: str | None = None
    """The target's format."""
    sync: Literal["top", "full", "none"]
    """What to copy at first; ``full`` is everything."""
    speed: int | None = None
    """Bytes per second at most; without a limit if absent."""
    auto_dismiss: bool | None = None
    """Whether the job vanishes when it ends; if not, it stays as ``concluded`` (qemu-behaviour
    18.5)."""

    @property
    @override
    def subject(self) -> str:
        return self.job_id or self.device


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockdevMirror(_Acknowledged):
    """Copy a disk to a block node, and then every new write; the only mirror with TLS.

    Source: qemu-behaviour 10.4.
    """

    qmp_name: ClassVar[str] = "blockdev-mirror"

    device: str
    """The disk, by its drive's id or node name."""
    job_id: str | None = None
    """The job's id; must be given if ``device`` is a node name."""
    target: str
    """The name of the node to copy to."""
    sync: Literal["top", "full", "none"]
    """What to copy at first; ``full`` is everything."""
    speed: int | None = None
    """Bytes per second at most; without a limit if absent."""
    auto_dismiss: bool | None = None
    """Whether the job vanishes when it ends; if not, it stays as ``concluded`` (qemu-behaviour
    18.5)."""

    @property
    @override
    def subject(self) -> str:
        return self.job_id or self.device


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class BlockJobCancel(_Acknowledged):
    """Ask a mirror to end; its target is complete only if the job was ready and not forced.

    The answer comes before the job has ended; an event reports the end. Source: qemu-behaviour
    5.16.
    """

    qmp_name: ClassVar[str] = "block-job-cancel"

    device: str
    """The job's id."""
    force: bool | None = None
    """Whether to abort a mirror that is ready; None means False."""

    @property
    @override
    def subject(self) -> str:
        return self.device


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class JobDismiss(_Acknowledged):
    """Delete a concluded job."""

    qmp_name: ClassVar[str] = "job-dismiss"

    id: str
    """The job's id."""

    @property
    @override
    def subject(self) -> str:
        return self.id


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryBlockJobs(QmpCommand[tuple[BlockJob, ...]]):
    """Ask for the block jobs."""

    qmp_name: ClassVar[str] = "query-block-jobs"

    @override
    def parse_reply(self, value: object) -> tuple[BlockJob, ...]:
        return list_at(value, _RETURN, BlockJob.from_qmp)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryJobs(QmpCommand[tuple[Job, ...]]):
    """Ask for all jobs; concluded ones too."""

    qmp_name: ClassVar[str] = "query-jobs"

    @override
    def parse_reply(self, value: object) -> tuple[Job, ...]:
        return list_at(value, _RETURN, Job.from_qmp)


# -- objects and character devices -----------------------------------------------------------------


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class ObjectAdd(_Acknowledged):
    """Make an object."""

    qmp_name: ClassVar[str] = "object-add"

    object: QomObject = attrs.field(metadata={"qmp_form": "inline"})
    """The object with its properties."""

    @property
    @override
    def subject(self) -> str:
        return self.object.id


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class ObjectDel(_Acknowledged):
    """Delete an object; before its chardevs (qemu-behaviour 6.7)."""

    qmp_name: ClassVar[str] = "object-del"

    id: str
    """The object's id."""

    @property
    @override
    def subject(self) -> str:
        return self.id


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QomList(QmpCommand[tuple[QomProperty, ...]]):
    """Ask for the names and types of an object's properties, not for their values.

    Of ``/objects``, they are the objects that -object and object-add made, and perhaps some that
    QEMU made by itself.
    """

    qmp_name: ClassVar[str] = "qom-list"

    path: str
    """The object's QOM path."""

    @override
    def parse_reply(self, value: object) -> tuple[QomProperty, ...]:
        return list_at(value, _RETURN, QomProperty.from_qmp)

    @property
    @override
    def subject(self) -> str:
        return _last_part(self.path)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QomGet(QmpCommand[object]):
    """Ask for the value of an object's property."""

    qmp_name: ClassVar[str] = "qom-get"

    path: str
    """The object's QOM path, such as ``/objects/m0``."""
    property_name: str = attrs.field(metadata={"qmp_name": "property"})
    """The property's name."""

    @override
    def parse_reply(self, value: object) -> object:
        return value

    @property
    @override
    def subject(self) -> str:
        return f"{_last_part(self.path)}.{self.property_name}"


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QomSet(_Acknowledged):
    """Set an object's property, such as a filter's ``status``."""

    qmp_name: ClassVar[str] = "qom-set"

    path: str
    """The object's QOM path, such as ``/objects/m0``."""
    property_name: str = attrs.field(metadata={"qmp_name": "property"})
    """The property's name."""
    value: QmpValue
    """The property's new value."""

    @property
    @override
    def subject(self) -> str:
        return f"{_last_part(self.path)}.{self.property_name}"


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class ChardevAdd(_Acknowledged):
    """Make a socket chardev."""

    qmp_name: ClassVar[str] = "chardev-add"

    id: str
    """The chardev's id."""
    backend: ChardevBackend = attrs.field(metadata={"qmp_form": "wrapped"})
    """The socket behind the chardev."""

    @property
    @override
    def subject(self) -> str:
        return self.id


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class ChardevRemove(_Acknowledged):
    """Delete a chardev that no object uses any more."""

    qmp_name: ClassVar[str] = "chardev-remove"

    id: str
    """The chardev's id."""

    @property
    @override
    def subject(self) -> str:
        return self.id


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QueryChardev(QmpCommand[tuple[Chardev, ...]]):
    """Ask for the chardevs; the monitors are among them."""

    qmp_name: ClassVar[str] = "query-chardev"

    @override
    def parse_reply(self, value: object) -> tuple[Chardev, ...]:
        return list_at(value, _RETURN, Chardev.from_qmp)


# -- the human monitor -----------------------------------------------------------------------------

_UNSAFE_IN_HMP: Final = frozenset(" \t\r\n\"'\\")


def _command_name(value: object, path: str) -> str:
    name = object_at(value, path).get("name")
    if not isinstance(name, str):
        raise ParseError(at(path, "name"), "be a string", name)
    return name


def _hmp_value(field: str, value: str) -> str:
    """Escape a value for an option string of the human monitor: each comma is doubled.

    Raises:
        DeclarationError: The value is empty, or has a character that would end or quote the word.
    """
    if not value or not _UNSAFE_IN_HMP.isdisjoint(value) or not value.isprintable():
        raise DeclarationError(
            field, value, "be printable text without spaces, quotes and backslashes"
        )
    return value.replace(",", ",,")


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class HumanMonitorCommand(QmpCommand[str]):
    """A line for the human monitor; ``drive_add`` and ``drive_del`` make those of QEMU's document.

    QEMU reports an error of the line as text in a successful reply; the block graph shows whether
    the line took effect (qemu-behaviour 5.9, 11).
    """

    qmp_name: ClassVar[str] = "human-monitor-command"

    command_line: str
    """The whole command line."""

    @classmethod
    def drive_add(
        cls, *, node_name: str, host: str, port: int, export: str, nbd_node_name: str | None = None
    ) -> Self:
        """Make the line that adds the primary's replication node over NBD.

        Args:
            node_name: The replication node's name.
            host: The host of the secondary's NBD server.
            port: The port of that server, 1 to 65535.
            export: The export's name.
            nbd_node_name: The name of the NBD node beneath the replication node. If None, as in
                QEMU's COLO document, that node cannot be yanked (qemu-behaviour 5.6).

        Raises:
            DeclarationError: The port is out of range, or another value is empty or has a
                character that the line cannot carry.
        """
        if not 0 < port <= _HIGHEST_PORT:
            raise DeclarationError("port", port, f"be 1 to {_HIGHEST_PORT}")
        named = (
            []
            if nbd_node_name is None
            else [f"file.node-name={_hmp_value('nbd_node_name', nbd_node_name)}"]
        )
        options = [
            "driver=replication",
            "mode=primary",
            "file.driver=nbd",
            f"file.host={_hmp_value('host', host)}",
            f"file.port={port}",
            f"file.export={_hmp_value('export', export)}",
            *named,
            f"node-name={_hmp_value('node_name', node_name)}",
        ]
        return cls(command_line=f"drive_add -n buddy {','.join(options)}")

    @classmethod
    def drive_del(cls, node_name: str) -> Self:
        """Make the line that deletes a node.

        Raises:
            DeclarationError: The name is empty or has a character that the line cannot carry.
        """
        if "," in node_name:
            raise DeclarationError("node_name", node_name, "be without commas")
        return cls(command_line=f"drive_del {_hmp_value('node_name', node_name)}")

    @override
    def parse_reply(self, value: object) -> str:
        if not isinstance(value, str):
            raise ParseError(_RETURN, "be a string", value)
        return value

    @property
    @override
    def subject(self) -> str:
        verb, _, rest = self.command_line.partition(" ")
        node_name = (
            rest if verb == "drive_del" else rest.rpartition(",node-name=")[2].replace(",,", ",")
        )
        return f"{verb}:{node_name}" if verb in ("drive_add", "drive_del") else verb


# -- all of them -----------------------------------------------------------------------------------

Command: TypeAlias = (
    Migrate
    | MigrateIncoming
    | MigrateContinue
    | MigrateSetCapabilities
    | MigrateSetParameters
    | QueryMigrate
    | QueryMigrateCapabilities
    | QueryMigrateParameters
    | QueryColoStatus
    | QueryXenReplicationStatus
    | XColoLostHeartbeat
    | QueryStatus
    | QueryName
    | QueryVersion
    | QueryCommands
    | QueryQmpSchema
    | Stop
    | Cont
    | Quit
    | SystemPowerdown
    | Yank
    | QueryYank
    | NbdServerStart
    | NbdServerAdd
    | NbdServerStop
    | BlockExportAdd
    | BlockExportDel
    | QueryBlockExports
    | BlockdevAdd
    | BlockdevDel
    | XBlockdevChange
    | QueryNamedBlockNodes
    | QueryBlock
    | BlockSetIoThrottle
    | XDebugQueryBlockGraph
    | DriveMirror
    | BlockdevMirror
    | BlockJobCancel
    | JobDismiss
    | QueryBlockJobs
    | QueryJobs
    | ObjectAdd
    | ObjectDel
    | QomList
    | QomGet
    | QomSet
    | ChardevAdd
    | ChardevRemove
    | QueryChardev
    | HumanMonitorCommand
)
"""Every command pycolo sends; a closed union."""


@functools.cache
def _commands_by_name() -> dict[str, type[Command]]:
    kinds: tuple[type[Command], ...] = get_args(Command)
    return {kind.qmp_name: kind for kind in kinds}


def command_from_qmp(value: object, path: str = "") -> Command:
    """Parse a command's wire form, strictly.

    Args:
        value: The decoded JSON: ``{"execute": ..., "arguments": {...}}``.
        path: Where ``value`` stands in its document, for the error.

    Raises:
        ParseError: ``value`` is not a command of ``Command``, or an argument is unknown, missing or
            of the wrong type.
    """
    message = object_at(value, path)
    refuse_unknown(message, ("execute", "arguments"), path)
    name = message.get("execute")
    kind = _commands_by_name().get(name) if isinstance(name, str) else None
    if kind is None:
        raise ParseError(at(path, "execute"), "be a command that pycolo knows", name)
    return kind.from_arguments(message.get("arguments", {}), at(path, "arguments"))

"""The nodes of the block graph that COLO needs.

A child of a node is given in one of two forms. As the options of a node to make, it belongs to its
parent and cannot be deleted by itself (qemu-behaviour 5.6). As a node name, it must exist already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias, final

import attrs

from pycolo._json import frozen_json
from pycolo.errors import DeclarationError
from pycolo.qmp._base import Null, QmpRecord, QmpValue, form_of
from pycolo.qmp.chardevs import SocketAddress

__all__ = [
    "Aio",
    "BlockNode",
    "CacheOptions",
    "DetectZeroes",
    "Discard",
    "FileNode",
    "HostDeviceNode",
    "HttpNode",
    "HttpsNode",
    "IscsiNode",
    "LuksEncryption",
    "LuksNode",
    "NbdNode",
    "NfsNode",
    "NfsServer",
    "Qcow2Node",
    "QuorumNode",
    "RawNode",
    "RbdNode",
    "RbdServer",
    "ReplicationMode",
    "ReplicationNode",
    "option_names",
]

Aio: TypeAlias = Literal["threads", "native", "io_uring"]
"""The host's interface that a node uses for asynchronous reads and writes."""

DetectZeroes: TypeAlias = Literal["off", "on", "unmap"]
"""What a node does with a write of zeroes."""

Discard: TypeAlias = Literal["ignore", "unmap"]
"""What a node does with a discard."""

ReplicationMode: TypeAlias = Literal["primary", "secondary"]
"""Which side of a pair a replication node serves."""


def _rest() -> Mapping[str, QmpValue]:
    """The field of the options that no other field of a block node holds."""
    return attrs.field(factory=dict, converter=frozen_json, metadata={"qmp_form": "rest"})


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class CacheOptions(QmpRecord):
    """How a node uses the host's cache.

    The options also hold for the nodes below it that are made in the same command.
    """

    direct: bool | None = None
    """Whether it bypasses the host's page cache."""
    no_flush: bool | None = None
    """Whether it ignores flushes."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class FileNode(QmpRecord):
    """A file on the host."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("driver", "file"),)

    node_name: str | None = None
    """The node's name; QEMU makes one up if absent."""
    read_only: bool | None = None
    """Whether it refuses writes."""
    discard: Discard | None = None
    """``ignore`` if absent."""
    aio: Aio | None = None
    """``threads`` if absent."""
    filename: str
    """The file's path, as the QEMU process sees it."""
    options: Mapping[str, QmpValue] = _rest()
    """All other options of the driver, by QEMU's names."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class HostDeviceNode(QmpRecord):
    """A block device of the host."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("driver", "host_device"),)

    node_name: str | None = None
    """The node's name; QEMU makes one up if absent."""
    read_only: bool | None = None
    """Whether it refuses writes."""
    discard: Discard | None = None
    """``ignore`` if absent."""
    aio: Aio | None = None
    """``threads`` if absent."""
    filename: str
    """The device's path, as the QEMU process sees it."""
    options: Mapping[str, QmpValue] = _rest()
    """All other options of the driver, by QEMU's names."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class HttpNode(QmpRecord):
    """A file that is read over HTTP."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("driver", "http"),)

    node_name: str | None = None
    """The node's name; QEMU makes one up if absent."""
    read_only: bool | None = None
    """Whether it refuses writes; QEMU can write to none, so it must be true."""
    url: str
    """The file's URL, which begins with ``http://``."""
    options: Mapping[str, QmpValue] = _rest()
    """All other options of the driver, by QEMU's names."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class HttpsNode(QmpRecord):
    """A file that is read over HTTP inside TLS."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("driver", "https"),)

    node_name: str | None = None
    """The node's name; QEMU makes one up if absent."""
    read_only: bool | None = None
    """Whether it refuses writes; QEMU can write to none, so it must be true."""
    url: str
    """The file's URL, which begins with ``https://``."""
    options: Mapping[str, QmpValue] = _rest()
    """All other options of the driver, by QEMU's names."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class RbdServer(QmpRecord):
    """A monitor of a Ceph cluster."""

    host: str
    """Its host name or IP address."""
    port: int = attrs.field(metadata={"qmp_form": "text"})
    """Its TCP port; QMP carries it as a string."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class RbdNode(QmpRecord):
    """An image of a Ceph cluster."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("driver", "rbd"),)

    node_name: str | None = None
    """The node's name; QEMU makes one up if absent."""
    pool: str
    """The pool."""
    namespace: str | None = None
    """The namespace; the default one if absent."""
    image: str
    """The image's name."""
    conf: str | None = None
    """The path of Ceph's configuration."""
    user: str | None = None
    """The name of the user."""
    key_secret: str | None = None
    """The id of the secret that is the user's key."""
    server: tuple[RbdServer, ...] | None = None
    """The monitors; those of the configuration if absent."""
    options: Mapping[str, QmpValue] = _rest()
    """All other options of the driver, by QEMU's names."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class IscsiNode(QmpRecord):
    """A logical unit of an iSCSI target."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("driver", "iscsi"),)

    node_name: str | None = None
    """The node's name; QEMU makes one up if absent."""
    transport: Literal["tcp", "iser"]
    """How the target is reached."""
    portal: str
    """The target's host, perhaps with a port."""
    target: str
    """The target's name."""
    lun: int | None = None
    """The number of the logical unit; 0 if absent."""
    user: str | None = None
    """The name for CHAP."""
    password_secret: str | None = None
    """The id of the secret that is the password for CHAP."""
    initiator_name: str | None = None
    """The name by which QEMU introduces itself."""
    options: Mapping[str, QmpValue] = _rest()
    """All other options of the driver, by QEMU's names."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class NfsServer(QmpRecord):
    """An NFS server."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("type", "inet"),)

    host: str
    """Its host name or IP address."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class NfsNode(QmpRecord):
    """A file of an NFS server."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("driver", "nfs"),)

    node_name: str | None = None
    """The node's name; QEMU makes one up if absent."""
    server: NfsServer
    """The server."""
    path: str
    """The file's path on the server."""
    user: int | None = None
    """The user's number; that of the process if absent."""
    group: int | None = None
    """The group's number; that of the process if absent."""
    options: Mapping[str, QmpValue] = _rest()
    """All other options of the driver, by QEMU's names."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class NbdNode(QmpRecord):
    """An export of an NBD server: the primary's way to the secondary's disk."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("driver", "nbd"),)

    node_name: str | None = None
    """The node's name; give one, or it cannot be yanked by plan (qemu-behaviour 5.6)."""
    read_only: bool | None = None
    """Whether it refuses writes."""
    detect_zeroes: DetectZeroes | None = None
    """``on`` for a direct child of a quorum (qemu-behaviour 5.4); ``off`` if absent."""
    discard: Discard | None = None
    """``ignore`` if absent."""
    server: SocketAddress
    """Where the server listens."""
    export: str | None = None
    """The export's name."""
    open_timeout_s: int | None = attrs.field(default=None, metadata={"qmp_name": "open-timeout"})
    """The limit, in seconds, for connecting and negotiating. Without it a server that does not
    answer blocks QEMU's main loop for ever (qemu-behaviour 5.19, 5.22)."""
    tls_creds: str | None = None
    """The id of TLS credentials for a client endpoint."""
    tls_hostname: str | None = None
    """The name to find in the server's certificate, if it is not the host's."""
    options: Mapping[str, QmpValue] = _rest()
    """All other options of the driver, by QEMU's names."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class LuksEncryption(QmpRecord):
    """The encryption inside a qcow2 image."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("format", "luks"),)

    key_secret: str
    """The id of the secret that opens it."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class Qcow2Node(QmpRecord):
    """An image in the qcow2 format."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("driver", "qcow2"),)

    node_name: str | None = None
    """The node's name; QEMU makes one up if absent."""
    read_only: bool | None = None
    """Whether it refuses writes."""
    cache: CacheOptions | None = None
    """By the host's page cache, and with flushes, if absent."""
    detect_zeroes: DetectZeroes | None = None
    """``off`` if absent."""
    discard: Discard | None = None
    """``ignore`` if absent."""
    encrypt: LuksEncryption | None = None
    """The encryption of the image; absent if it is not encrypted."""
    file: BlockNode | str
    """The image's file."""
    backing: BlockNode | str | Null | None = None
    """The backing node; NULL for none; if absent, the backing file that the image itself names."""
    options: Mapping[str, QmpValue] = _rest()
    """All other options of the driver, by QEMU's names."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class RawNode(QmpRecord):
    """An image without a format."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("driver", "raw"),)

    node_name: str | None = None
    """The node's name; QEMU makes one up if absent."""
    read_only: bool | None = None
    """Whether it refuses writes."""
    cache: CacheOptions | None = None
    """By the host's page cache, and with flushes, if absent."""
    detect_zeroes: DetectZeroes | None = None
    """``off`` if absent."""
    discard: Discard | None = None
    """``ignore`` if absent."""
    file: BlockNode | str
    """The image's file."""
    options: Mapping[str, QmpValue] = _rest()
    """All other options of the driver, by QEMU's names."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class LuksNode(QmpRecord):
    """An image that is encrypted as a whole."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("driver", "luks"),)

    node_name: str | None = None
    """The node's name; QEMU makes one up if absent."""
    read_only: bool | None = None
    """Whether it refuses writes."""
    cache: CacheOptions | None = None
    """By the host's page cache, and with flushes, if absent."""
    detect_zeroes: DetectZeroes | None = None
    """``off`` if absent."""
    discard: Discard | None = None
    """``ignore`` if absent."""
    key_secret: str
    """The id of the secret that opens it."""
    file: BlockNode | str
    """The image's file."""
    options: Mapping[str, QmpValue] = _rest()
    """All other options of the driver, by QEMU's names."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class ReplicationNode(QmpRecord):
    """COLO's replication driver."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("driver", "replication"),)

    node_name: str | None = None
    """The node's name; QEMU makes one up if absent."""
    mode: ReplicationMode
    """The side it serves."""
    top_id: str | None = None
    """The id or node name of the quorum above it; required on a secondary, absent on a primary."""
    file: BlockNode | str
    """On a primary the NBD node; on a secondary the active image over the hidden image over the
    disk's own image."""

    def __attrs_post_init__(self) -> None:
        if self.mode == "secondary" and self.top_id is None:
            raise DeclarationError("top_id", self.top_id, "be given if mode is secondary")
        if self.mode == "primary" and self.top_id is not None:
            raise DeclarationError("top_id", self.top_id, "be absent if mode is primary")


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class QuorumNode(QmpRecord):
    """The top node of a replicated disk.

    The quorum writes to every child and reads from the first one that answers.
    """

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("driver", "quorum"),)

    node_name: str | None = None
    """The node's name; QEMU makes one up if absent."""
    read_pattern: Literal["quorum", "fifo"] | None = None
    """``fifo`` for COLO (qemu-behaviour 5.1)."""
    vote_threshold: int
    """The number of children that must agree; 1 for COLO."""
    children: tuple[BlockNode | str, ...]
    """The local disk first, then the NBD node of the peer's disk."""

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.vote_threshold <= len(self.children):
            raise DeclarationError(
                "vote_threshold", self.vote_threshold, "be 1 to the number of children"
            )


BlockNode: TypeAlias = (
    QuorumNode
    | ReplicationNode
    | NbdNode
    | Qcow2Node
    | RawNode
    | LuksNode
    | FileNode
    | HostDeviceNode
    | HttpNode
    | HttpsNode
    | RbdNode
    | IscsiNode
    | NfsNode
)
"""A block node that blockdev-add can make; a closed union."""


def option_names(*kinds: type[BlockNode]) -> frozenset[str]:
    """The options that the classes of block nodes have fields for, by QEMU's names."""
    return frozenset(key for kind in kinds for key in form_of(kind).keys)

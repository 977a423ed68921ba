"""The objects of COLO's network proxy, of TLS and of the RAM, and the connections of a yank."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias, final

import attrs

from pycolo.errors import DeclarationError
from pycolo.qmp._base import QmpRecord

__all__ = [
    "AuthZList",
    "AuthZRule",
    "ColoCompare",
    "FilterInsert",
    "FilterMirror",
    "FilterQueue",
    "FilterRedirector",
    "FilterRewriter",
    "FilterStatus",
    "IoThread",
    "MemoryBackendObject",
    "MemoryBackendType",
    "ProxyObject",
    "QomObject",
    "Secret",
    "TlsCredsPsk",
    "TlsCredsX509",
    "TlsEndpoint",
    "TlsObject",
    "YankBlockNode",
    "YankChardev",
    "YankInstance",
    "YankMigration",
]

FilterQueue: TypeAlias = Literal["all", "rx", "tx"]
"""Which packets a filter sees, ``tx`` towards the guest, ``rx`` from it (qemu-behaviour 6.1)."""

FilterInsert: TypeAlias = Literal["before", "behind"]
"""On which side of the filter that ``position`` names a new filter is inserted."""

FilterStatus: TypeAlias = Literal["on", "off"]
"""Whether a filter is switched on."""


def _check_position(position: str | None) -> None:
    """Refuse a position that QEMU does not know (qemu-behaviour 6.4)."""
    if (
        position is not None
        and position not in ("head", "tail")
        and (not position.removeprefix("id=") or not position.startswith("id="))
    ):
        raise DeclarationError("position", position, "be 'head', 'tail' or 'id=' and a filter's id")


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class FilterMirror(QmpRecord):
    """A filter that copies packets into a chardev."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("qom-type", "filter-mirror"),)

    id: str
    """The object's id."""
    insert: FilterInsert | None = None
    """On which side of ``position`` it goes; ``behind`` if absent."""
    position: str | None = None
    """``head``, ``tail`` or ``id=`` and the id of a filter on the same netdev; ``tail`` if
    absent."""
    netdev: str
    """The id of the network backend."""
    queue: FilterQueue | None = None
    """Which packets it sees; ``all`` if absent."""
    outdev: str
    """The id of the chardev it writes to."""
    status: FilterStatus | None = None
    """``on`` if absent."""
    vnet_hdr_support: bool | None = attrs.field(
        default=None, metadata={"qmp_name": "vnet_hdr_support"}
    )
    """Whether packets carry a vnet header; equal on every object of a card (qemu-behaviour 6.5)."""

    def __attrs_post_init__(self) -> None:
        _check_position(self.position)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class FilterRedirector(QmpRecord):
    """A filter that sends a netdev's packets into a chardev, or takes packets from one.

    ``indev`` or ``outdev`` must be given; if both are, they must differ.
    """

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (
        ("qom-type", "filter-redirector"),
    )

    id: str
    """The object's id."""
    insert: FilterInsert | None = None
    """On which side of ``position`` it goes; ``behind`` if absent."""
    position: str | None = None
    """``head``, ``tail`` or ``id=`` and the id of a filter on the same netdev; ``tail`` if
    absent."""
    netdev: str
    """The id of the network backend."""
    queue: FilterQueue | None = None
    """Which packets it sees; ``all`` if absent."""
    indev: str | None = None
    """The id of the chardev from which it takes packets, to send them in the direction that
    ``queue`` names; None for none."""
    outdev: str | None = None
    """The id of the chardev into which it sends the netdev's packets; None for none."""
    status: FilterStatus | None = None
    """``on`` if absent."""
    vnet_hdr_support: bool | None = attrs.field(
        default=None, metadata={"qmp_name": "vnet_hdr_support"}
    )
    """Whether packets carry a vnet header; equal on every object of a card (qemu-behaviour 6.5)."""

    def __attrs_post_init__(self) -> None:
        _check_position(self.position)
        if self.indev == self.outdev:
            raise DeclarationError(
                "indev", self.indev, "be given or outdev be given, and differ (qemu-behaviour 6.8)"
            )


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class FilterRewriter(QmpRecord):
    """A filter that translates the sequence numbers of the secondary's TCP connections."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("qom-type", "filter-rewriter"),)

    id: str
    """The object's id."""
    insert: FilterInsert | None = None
    """On which side of ``position`` it goes; ``behind`` if absent."""
    position: str | None = None
    """``head``, ``tail`` or ``id=`` and the id of a filter on the same netdev; ``tail`` if
    absent."""
    netdev: str
    """The id of the network backend."""
    queue: FilterQueue | None = None
    """Which packets it sees; ``all`` if absent."""
    status: FilterStatus | None = None
    """``on`` if absent."""
    vnet_hdr_support: bool | None = attrs.field(
        default=None, metadata={"qmp_name": "vnet_hdr_support"}
    )
    """Whether packets carry a vnet header; equal on every object of a card (qemu-behaviour 6.5)."""

    def __attrs_post_init__(self) -> None:
        _check_position(self.position)


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class ColoCompare(QmpRecord):
    """The comparison of the two guests' packets.

    QEMU aborts or hangs on a wrong object (qemu-behaviour 6.9), so its fields are checked as far as
    possible without QEMU.

    Raises:
        DeclarationError: Two of `primary_in`, `secondary_in` and `outdev` are the same one, or a
            time or size is not above 0; no object is made.
    """

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("qom-type", "colo-compare"),)

    id: str
    """The object's id."""
    primary_in: str = attrs.field(metadata={"qmp_name": "primary_in"})
    """The id of the chardev that brings the primary guest's packets."""
    secondary_in: str = attrs.field(metadata={"qmp_name": "secondary_in"})
    """The id of the chardev that brings the secondary guest's packets."""
    outdev: str
    """The id of the chardev to which released packets are written."""
    iothread: str
    """The id of the IoThread it runs in."""
    vnet_hdr_support: bool | None = attrs.field(
        default=None, metadata={"qmp_name": "vnet_hdr_support"}
    )
    """Whether packets carry a vnet header; equal on every object of a card (qemu-behaviour 6.5)."""
    notify_dev: str | None = attrs.field(default=None, metadata={"qmp_name": "notify_dev"})
    """The id of a chardev to another checkpoint controller; for Xen."""
    compare_timeout_ms: int | None = attrs.field(
        default=None, metadata={"qmp_name": "compare_timeout"}
    )
    """How long a packet waits for the same one of the other guest before a checkpoint is asked for,
    in milliseconds; 3000 if absent."""
    expired_scan_cycle_ms: int | None = attrs.field(
        default=None, metadata={"qmp_name": "expired_scan_cycle"}
    )
    """The time between two scans of the packets that wait, in milliseconds; 1000 if absent
    (qemu-behaviour 6.11)."""
    max_queue_size: int | None = attrs.field(default=None, metadata={"qmp_name": "max_queue_size"})
    """Packets held per connection; 1024 if absent, and one value for the whole QEMU."""

    def __attrs_post_init__(self) -> None:
        chardevs = (self.primary_in, self.secondary_in, self.outdev)
        if len(set(chardevs)) != len(chardevs):
            rule = "be three chardevs, none of them used twice"
            raise DeclarationError("primary_in, secondary_in and outdev", chardevs, rule)
        for field in ("compare_timeout_ms", "expired_scan_cycle_ms", "max_queue_size"):
            value: int | None = getattr(self, field)
            if value is not None and value <= 0:
                raise DeclarationError(field, value, "be above 0")


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class IoThread(QmpRecord):
    """A thread with an event loop of its own, for ColoCompare."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("qom-type", "iothread"),)

    id: str
    """The object's id."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class Secret(QmpRecord):
    """A secret, such as the passphrase of an encrypted image; on command lines only.

    QEMU reads the file when the object is made, and keeps the content.
    """

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("qom-type", "secret"),)

    id: str
    """The object's id."""
    file: str
    """The path of the file whose content is the secret, byte for byte."""
    format: Literal["raw", "base64"] | None = None
    """How the file holds the secret; ``raw`` if absent."""


MemoryBackendType: TypeAlias = Literal[
    "memory-backend-ram", "memory-backend-file", "memory-backend-memfd"
]
"""Anonymous memory, a file, or memory of the kernel's own file system."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class MemoryBackendObject(QmpRecord):
    """The memory backend of the guest's RAM; on command lines only.

    A migration names the RAM by the object's id, not by its path in QOM (qemu-behaviour 22.4).
    """

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (
        ("x-use-canonical-path-for-ramblock-id", False),
    )

    qom_type: MemoryBackendType
    """QEMU's type of the object."""
    id: str
    """The object's id."""
    size_bytes: int = attrs.field(metadata={"qmp_name": "size"})
    """The size of the memory."""
    mem_path: str | None = None
    """A file, or a folder in which QEMU makes a file without a name. With a slash at its end, only
    a folder is accepted."""
    hugetlb: bool | None = None
    """Whether a memfd is made of huge pages."""
    hugetlbsize_bytes: int | None = attrs.field(default=None, metadata={"qmp_name": "hugetlbsize"})
    """The size of a huge page."""
    prealloc: bool
    """Whether QEMU takes all of the memory from the host when it starts."""
    share: bool
    """Whether other processes could share it."""


TlsEndpoint: TypeAlias = Literal["client", "server"]
"""The end of a connection that credentials are for; the other end cannot use them (qemu-behaviour
10.1)."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class TlsCredsX509(QmpRecord):
    """Certificates and their keys, read when the object is made (qemu-behaviour 10.10).

    To have files read again, delete the object and add it again. Sockets that exist keep what they
    were made with. If the client's certificate or key is missing, QEMU makes the object all the
    same.
    """

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("qom-type", "tls-creds-x509"),)

    id: str
    """The object's id."""
    dir: str
    """The folder with ``ca-cert.pem`` and the end's certificate and key, as QEMU sees it."""
    endpoint: TlsEndpoint
    """Which end of a connection it is for."""
    verify_peer: bool | None = None
    """Whether the peer's certificate is verified; true if absent."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class TlsCredsPsk(QmpRecord):
    """Pre-shared keys; a client reads its key when the object is made (qemu-behaviour 10.10).

    A server reads the client's key at each handshake.
    """

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("qom-type", "tls-creds-psk"),)

    id: str
    """The object's id."""
    dir: str
    """The folder with ``keys.psk``, as QEMU sees it."""
    endpoint: TlsEndpoint
    """Which end of a connection it is for."""
    username: str | None = None
    """A client's name among the keys; ``qemu`` if absent."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class AuthZRule(QmpRecord):
    """One rule of an AuthZList."""

    match: str
    """A client's name; of a certificate its distinguished name (qemu-behaviour 10.9)."""
    policy: Literal["allow", "deny"]
    """Whether a client of that name is admitted."""
    format: Literal["exact", "glob"] | None = None
    """How the client's name is compared with that of the rule; ``exact`` if absent."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class AuthZList(QmpRecord):
    """Who may connect to a server with TLS; the first rule that matches decides."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("qom-type", "authz-list"),)

    id: str
    """The object's id."""
    policy: Literal["allow", "deny"] | None = None
    """Whether a client that no rule matches is admitted; ``deny`` if absent."""
    rules: tuple[AuthZRule, ...] | None = None
    """The rules, in the order in which they are tried."""


ProxyObject: TypeAlias = FilterMirror | FilterRedirector | FilterRewriter | ColoCompare | IoThread
"""A part of COLO's network proxy; a closed union."""

TlsObject: TypeAlias = TlsCredsX509 | TlsCredsPsk | AuthZList
"""An object that a connection with TLS refers to; a closed union."""

QomObject: TypeAlias = ProxyObject | TlsObject
"""An object that object-add can make; a closed union."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class YankBlockNode(QmpRecord):
    """The connection of an NBD node."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("type", "block-node"),)

    node_name: str
    """The NBD node's own name; not that of a node above it (qemu-behaviour 5.6)."""

    @property
    def subject(self) -> str:
        """The instance as addresses name it."""
        return f"block-node:{self.node_name}"


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class YankChardev(QmpRecord):
    """The connection of a socket chardev; never use that of a monitor (qemu-behaviour 7.7)."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("type", "chardev"),)

    id: str
    """The chardev's id."""

    @property
    def subject(self) -> str:
        """The instance as addresses name it."""
        return f"chardev:{self.id}"


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class YankMigration(QmpRecord):
    """The migration's connection; it cannot be yanked any more after COLO has ended.

    Source: qemu-behaviour 7.7.
    """

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("type", "migration"),)

    @property
    def subject(self) -> str:
        """The instance as addresses name it."""
        return "migration"


YankInstance: TypeAlias = YankBlockNode | YankChardev | YankMigration
"""A connection that a yank can cut; a closed union."""

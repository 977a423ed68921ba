"""Images that QEMU itself reaches over a network: Ceph's RBD, iSCSI, NFS and NBD.

Each names what QEMU's block driver requires. Its other options are `ReplicationDisk.file_options`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, final

import attrs

from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules
from pycolo.model._places import normal, normal_host
from pycolo.model.node import is_loopback

NBD_PORT = 10809
LUN_MAX = 16383
ID_MAX = 2**32 - 1
_CEPH_CONF = "/etc/ceph/ceph.conf"
_text = rules.Valid(rules.text)
_text_or_none = rules.Valid(rules.Optional(rules.text))
_path_or_none = rules.Valid(rules.Optional(rules.absolute_path))


@final
@attrs.frozen(kw_only=True)
class RbdMonitor:
    """A monitor of a Ceph cluster.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    host: str = attrs.field(validator=_text)
    "Its host name or IP address."
    port: int = attrs.field(default=6789, validator=rules.Valid(rules.port))
    "Its TCP port."


def _monitors(value: tuple[RbdMonitor, ...] | list[RbdMonitor]) -> tuple[RbdMonitor, ...]:
    return tuple(value) if isinstance(value, list) else value


@final
@attrs.frozen(kw_only=True)
class Rbd:
    """An image of a Ceph cluster.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    pool: str = attrs.field(validator=_text)
    "The pool."
    image: str = attrs.field(validator=_text)
    "The image in the pool."
    namespace: str | None = attrs.field(default=None, validator=_text_or_none)
    "The namespace in the pool; None for the default one."
    monitors: tuple[RbdMonitor, ...] = attrs.field(
        default=(),
        converter=_monitors,
        validator=rules.Valid(rules.Each(rules.instance_of(RbdMonitor))),
    )
    "The monitors of the cluster; empty for those of `conf`."
    conf: str | None = attrs.field(default=None, validator=_path_or_none)
    "Absolute path, on the node, of Ceph's configuration; None for /etc/ceph/ceph.conf."
    user: str | None = attrs.field(default=None, validator=_text_or_none)
    "The name of the Ceph user; None for admin."
    secret_file: str | None = attrs.field(default=None, validator=_path_or_none)
    "Absolute path, on the node, of a file with the user's key in base64; None for Ceph's keyring."

    @property
    def url(self) -> str:
        """The image in the manner of a URL, for people."""
        return "/".join(("rbd:", *filter(None, (self.pool, self.namespace, self.image))))

    def place(self, host: str) -> tuple[str, ...]:
        """An identity of the image, which is equal for two nodes that open the same one.

        Args:
            host: An identity of the node's host.
        """
        del host
        # The list of monitors may differ for one cluster; its configuration tells clusters apart.
        conf = normal(self.conf or _CEPH_CONF)
        cluster = "" if conf == _CEPH_CONF else conf
        return ("rbd", cluster, self.namespace or "", f"{self.pool}/{self.image}")


@final
@attrs.frozen(kw_only=True)
class Iscsi:
    """A logical unit of an iSCSI target.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    portal: str = attrs.field(validator=_text)
    "The target's address: HOST or HOST:PORT."
    target: str = attrs.field(validator=_text)
    "The target's name, such as `iqn.2026-01.com.example:shop-db`."
    lun: int = attrs.field(default=0, validator=rules.Valid(rules.Whole(0, LUN_MAX)))
    "The number of the logical unit."
    transport: Literal["tcp", "iser"] = attrs.field(
        default="tcp", validator=rules.Valid(rules.one_of("tcp", "iser"))
    )
    "How the target is reached."
    user: str | None = attrs.field(default=None, validator=_text_or_none)
    "The name for CHAP; None for no authentication."
    secret_file: str | None = attrs.field(default=None, validator=_path_or_none)
    "Absolute path, on the node, of a file with the password for CHAP."
    initiator_name: str | None = attrs.field(default=None, validator=_text_or_none)
    "The name by which QEMU introduces itself; None leaves it to QEMU."

    def __attrs_post_init__(self) -> None:
        if (self.user is None) != (self.secret_file is None):
            rule = "be given if user is, and only then"
            raise DeclarationError("Iscsi.secret_file", self.secret_file, rule)

    @property
    def url(self) -> str:
        """The image in the manner of a URL, for people."""
        return f"iscsi://{self.portal}/{self.target}/{self.lun}"

    def place(self, host: str) -> tuple[str, ...]:
        """An identity of the image; see `Rbd.place`."""
        del host
        # A target's name is unique in any case of its letters, and it may have several portals.
        return ("iscsi", f"{self.target.lower()}, LUN {self.lun}")


@final
@attrs.frozen(kw_only=True)
class Nfs:
    """A file of an NFS server that QEMU opens itself, without a mount.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    host: str = attrs.field(validator=_text)
    "The server's host name or IP address."
    path: str = attrs.field(validator=rules.Valid(rules.absolute_path))
    "The file's absolute path on the server."
    user: int | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.Whole(0, ID_MAX)))
    )
    "The user's number that QEMU gives the server; None for that of the QEMU process."
    group: int | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.Whole(0, ID_MAX)))
    )
    "The group's number; None for that of the QEMU process."

    @property
    def url(self) -> str:
        """The image in the manner of a URL, for people."""
        return f"nfs://{self.host}{self.path}"

    def place(self, host: str) -> tuple[str, ...]:
        """An identity of the image; see `Rbd.place`."""
        return ("nfs", _server(self.host, host), normal(self.path))


@final
@attrs.frozen(kw_only=True)
class Nbd:
    """An export of an NBD server; not the server by which a secondary offers its disk.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    host: str | None = attrs.field(default=None, validator=_text_or_none)
    "The server's host name or IP address; None for a Unix socket."
    port: int = attrs.field(default=NBD_PORT, validator=rules.Valid(rules.port))
    "The server's TCP port."
    path: str | None = attrs.field(default=None, validator=_path_or_none)
    "Absolute path, on the node, of the server's Unix socket; None for TCP."
    export: str = attrs.field(default="", validator=rules.Valid(rules.string))
    "The export's name; empty for the default one."

    def __attrs_post_init__(self) -> None:
        if (self.host is None) == (self.path is None):
            raise DeclarationError("Nbd.path", self.path, "be given if host is not, and only then")

    def place(self, host: str) -> tuple[str, ...]:
        """An identity of the image; see `Rbd.place`."""
        if self.host is None:
            return ("nbd", host, normal(self.path or ""), self.export)
        return ("nbd", _server(self.host, host), str(self.port), self.export)


Remote: TypeAlias = Rbd | Iscsi | Nfs | Nbd
"An image that QEMU reaches over a network; a closed union."


def _server(named: str, host: str) -> str:
    """An identity of a server: a loopback address is that of the node's own host."""
    return host if is_loopback(named) else normal_host(named)

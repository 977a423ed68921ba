"""One host of the pair, as the other host and the controller reach it."""

from __future__ import annotations

import ipaddress
from typing import TypeAlias, final

import attrs

from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules


@final
@attrs.frozen(kw_only=True)
class UnixMonitor:
    """A QMP monitor on a Unix socket."""

    path: str = attrs.field(validator=rules.Valid(rules.absolute_path))
    "Absolute path of the socket, at most 107 bytes."

    def __attrs_post_init__(self) -> None:
        rules.socket_path("UnixMonitor.path", self.path)


@final
@attrs.frozen(kw_only=True)
class TcpMonitor:
    """A QMP monitor on TCP, allowed on loopback only: whoever reaches it owns the guest."""

    host: str = attrs.field(validator=rules.Valid(rules.text))
    "A loopback address, or `localhost`."
    port: int = attrs.field(validator=rules.Valid(rules.port))
    "TCP port."

    def __attrs_post_init__(self) -> None:
        if not is_loopback(self.host):
            rule = "be a loopback address: QMP off the host needs TLS"
            raise DeclarationError("TcpMonitor.host", self.host, rule)


Monitor: TypeAlias = UnixMonitor | TcpMonitor


def is_loopback(host: str) -> bool:
    """Whether an address is this host's own, whoever reads it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host(field: str, value: object) -> None:
    rules.text(field, value)
    if any(character in str(value) for character in " ,\"'\\"):
        rule = "be a host name or an IP address"
        raise DeclarationError(field, value, rule)


@final
@attrs.frozen(kw_only=True)
class Node:
    """A host that can run one of the two QEMUs; its name is no role.

    Args:
        name: What plans, reports and the command line call it; an id in QEMU's sense.
        address: Host name or IP address at which the peer reaches it (replication traffic).
        image_folder: Absolute path of the folder with this node's images.
        listen_address: Address its listeners bind; by default `address`, so that nothing
            listens on networks other than the replication one.
        run_dir: Absolute path of this node's private run directory (made with mode 0700): monitor
            and compare sockets, pid file, log. By default `/run/pycolo/NAME`.
        control: Monitor for the one writer; by default a socket in `run_dir`.
        observer: Monitor for readers; by default a socket in `run_dir`.
        qemu_binary: QEMU on that host, a name on its PATH or an absolute path.
        qemu_img_binary: `qemu-img` on that host, likewise.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    name: str = attrs.field(validator=rules.Valid(rules.identifier))
    address: str = attrs.field(validator=rules.Valid(_host))
    image_folder: str = attrs.field(validator=rules.Valid(rules.absolute_path))
    listen_address: str = attrs.field(validator=rules.Valid(_host))
    run_dir: str = attrs.field(validator=rules.Valid(rules.absolute_path))
    control: Monitor | None = attrs.field(
        default=None,
        validator=rules.Valid(rules.Optional(rules.instance_of(UnixMonitor, TcpMonitor))),
    )
    observer: Monitor | None = attrs.field(
        default=None,
        validator=rules.Valid(rules.Optional(rules.instance_of(UnixMonitor, TcpMonitor))),
    )
    qemu_binary: str = attrs.field(default="qemu-system-x86_64", validator=rules.Valid(rules.text))
    qemu_img_binary: str = attrs.field(default="qemu-img", validator=rules.Valid(rules.text))

    @listen_address.default
    def _listen_where_the_peer_looks(self) -> str:
        return self.address

    @run_dir.default
    def _run_dir_by_name(self) -> str:
        return f"/run/pycolo/{self.name}"

    def __attrs_post_init__(self) -> None:
        rules.socket_path("Node.run_dir", f"{self.run_dir}/observer.qmp")
        if self.control_monitor == self.observer_monitor:
            rule = "differ from control: one monitor serves one client"
            raise DeclarationError("Node.observer", self.observer, rule)

    @property
    def control_monitor(self) -> Monitor:
        """Where the one writer connects."""
        return self.control or UnixMonitor(path=f"{self.run_dir}/control.qmp")

    @property
    def observer_monitor(self) -> Monitor:
        """Where readers connect, one at a time."""
        return self.observer or UnixMonitor(path=f"{self.run_dir}/observer.qmp")

    def image_path(self, name: str) -> str:
        """The path of one of this node's images."""
        return f"{self.image_folder.rstrip('/')}/{name}"

    def socket_path(self, name: str) -> str:
        """The path of a socket in this node's run directory; a pair refuses too long ones."""
        return f"{self.run_dir.rstrip('/')}/{name}.sock"

"""One host of the pair, as the other host and the controller reach it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final, TypeAlias, final

import attrs

from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules
from pycolo.model._places import normal_host

VNC_PORT: Final = 5900
"The port of VNC's display 0; display N has this port plus N."


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
    """A QMP monitor on TCP, only on loopback: who can connect to it controls the guest."""

    host: str = attrs.field(validator=rules.Valid(rules.text))
    "A loopback address such as `127.0.0.1` or `::1`, or `localhost`."
    port: int = attrs.field(validator=rules.Valid(rules.port))
    "TCP port."

    def __attrs_post_init__(self) -> None:
        if not is_loopback(self.host):
            rule = "be a loopback address: QMP off the host needs TLS"
            raise DeclarationError("TcpMonitor.host", self.host, rule)


Monitor: TypeAlias = UnixMonitor | TcpMonitor


def is_loopback(host: str) -> bool:
    """Whether an address is a loopback address or `localhost`: on each host it means that host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return normal_host(host) == "localhost"


def _host(field: str, value: object) -> None:
    rules.text(field, value)
    if any(character in str(value) for character in " ,\"'\\"):
        rule = "be a host name or an IP address"
        raise DeclarationError(field, value, rule)
    if re.fullmatch(r"[0-9.]+", str(value)):
        # No host name is of digits alone.
        try:
            ipaddress.IPv4Address(value)
        except ValueError:
            raise DeclarationError(field, value, "be an IPv4 address such as 192.0.2.11") from None


def _user(field: str, value: object) -> None:
    rules.text(field, value)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", str(value)):
        raise DeclarationError(field, value, "be a user's name")


@final
@attrs.frozen(kw_only=True)
class Ssh:
    """How a controller on another machine reaches a node's host over ssh.

    The server's key must be known beforehand. Only keys are offered; no password is ever asked for.
    Of its values only `python` is in a command line, as the program, quoted for the shell.

    Args:
        address: Host name or IP address of its sshd; None for the node's own `address`.
        port: TCP port of its sshd.
        user: The user to log in as. It must own the node's folders, and QEMU runs as this user.
        key_file: Absolute path of a private key, on the machine of the controller. None takes the
            keys that ssh would take: the agent's, then the user's own.
        known_hosts_file: Absolute path of a file with the server's key, on the machine of the
            controller; None for the user's own `known_hosts`.
        python: The command for Python 3.9 or later on that host.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    address: str | None = attrs.field(default=None, validator=rules.Valid(rules.Optional(_host)))
    port: int = attrs.field(default=22, validator=rules.Valid(rules.port))
    user: str = attrs.field(default="root", validator=rules.Valid(_user))
    key_file: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.absolute_path))
    )
    known_hosts_file: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.absolute_path))
    )
    python: str = attrs.field(
        default="/usr/bin/python3", validator=rules.Valid(rules.absolute_path)
    )


@final
@attrs.frozen(kw_only=True)
class Fence:
    """A command that ends all QEMUs of a node, such as by switching its host off.

    A supervisor runs it on its own machine, without a shell, if the node's host cannot show that
    its QEMU has ended. Exit code 0 must mean that no QEMU runs there any more: the other node then
    continues with the guest.

    Args:
        command: The program, then its arguments; the agents of `fence-agents` work as they are.
        input_file: Absolute path of the file that the command gets as its standard input; None for
            none. An agent of `fence-agents` reads its options there if `command` has no arguments.
        limit_s: How long the command may take, in seconds; then it is killed and counts as failed.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    command: tuple[str, ...] = attrs.field(
        converter=rules.as_tuple, validator=rules.Valid(rules.Each(rules.text))
    )
    input_file: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.absolute_path))
    )
    limit_s: float = attrs.field(default=60.0, validator=rules.Valid(rules.seconds))

    def __attrs_post_init__(self) -> None:
        if not self.command:
            raise DeclarationError("Fence.command", [], "name a program")


# Other URIs that libvirt accepts may lead to another host, or run a program.
_LIBVIRT_URI = re.compile(r"qemu(\+unix)?:///(system|session)(\?socket=/[\w./@:-]+)?\Z")


def _libvirt_uri(field: str, value: object) -> None:
    rules.text(field, value)
    if not _LIBVIRT_URI.match(str(value)):
        rule = "be qemu:///system or qemu:///session, on the node's own host"
        raise DeclarationError(field, value, rule)


@final
@attrs.frozen(kw_only=True)
class Libvirt:
    """The libvirt of a node's host that starts its QEMU, each time as a new transient domain.

    libvirt runs the QEMU as the user who owns the node's folders. The name of the domain is the
    identity of the QEMU (`PAIR:NODE:HEX`).

    Args:
        uri: The URI of that libvirt: `qemu:///system`, `qemu:///session`, or
            `qemu+unix:///system?socket=PATH`.
        virsh_binary: `virsh` on that host, a name on its PATH or an absolute path.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    uri: str = attrs.field(default="qemu:///system", validator=rules.Valid(_libvirt_uri))
    virsh_binary: str = attrs.field(default="virsh", validator=rules.Valid(rules.text))


@final
@attrs.frozen(kw_only=True)
class Vnc:
    """The VNC server on which a node shows the guest's screen; the guest does not see it.

    Everybody who can connect to it can use the guest's keyboard.

    Args:
        host: Address on which it listens. An address that is not loopback needs `password_file`.
            None for the socket `vnc.sock` in the run directory.
        port: TCP port, 5900 to 65535. It is required with `host`, and not allowed without.
        password_file: Absolute path, on the node's host, of a file that holds the password, of
            which VNC uses the first 8 bytes; None for no password.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    host: str | None = attrs.field(default=None, validator=rules.Valid(rules.Optional(_host)))
    port: int | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.Whole(VNC_PORT, rules.PORT_MAX)))
    )
    password_file: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.absolute_path))
    )

    def __attrs_post_init__(self) -> None:
        if (self.host is None) != (self.port is None):
            raise DeclarationError("Vnc.port", self.port, "be given with host, and only then")
        if self.host is not None and not is_loopback(self.host) and self.password_file is None:
            rule = "be given where others than this host reach the screen"
            raise DeclarationError("Vnc.password_file", None, rule)


def _in_folder(folder: str, name: str) -> str:
    return name if name.startswith("/") else f"{folder.rstrip('/')}/{name}"


def _fences(fences: Iterable[Fence]) -> tuple[Fence, ...]:
    return tuple(fences)


@final
@attrs.frozen(kw_only=True)
class Node:
    """A host that can run one of the two QEMUs, as primary or as secondary.

    All paths are paths on that host.

    Args:
        name: The node's name in plans, reports and on the command line; an id in QEMU's sense.
        address: Host name or IP address at which the peer reaches it (replication traffic).
        image_folder: Absolute path of the folder with this node's images.
        overlay_folder: Absolute path of the folder with its overlays, such as one in memory; by
            default the image folder.
        listen_address: Address to which QEMU's listening sockets are bound; by default `address`,
            so that nothing listens on networks other than the replication one.
        run_dir: Absolute path of this node's private run directory (made with mode 0700): monitor
            and compare sockets, log. A pair gives it the default `/run/pycolo/PAIR/NAME`.
        state_dir: Absolute path of the folder that keeps this node's record of the pair and the
            identity of its QEMU's process. It must outlive a reboot. It and the folders above it
            must belong to root or to the user as whom pycolo acts on the host, and nobody else may
            write to them; only a folder of root with the sticky bit may be open to others. By
            default the image folder.
        ssh: How the controller reaches the host; None if the controller runs on it.
        control: Monitor for the only client that sends commands; by default a socket in `run_dir`.
        observer: Monitor for clients that only read; by default a socket in `run_dir`. It must
            differ from `control`.
        vnc: The VNC server that shows the guest's screen; None for none.
        qemu_binary: QEMU on that host, a name on its PATH or an absolute path.
        qemu_img_binary: `qemu-img` on that host, likewise.
        libvirt: The libvirt that starts its QEMU; None if pycolo starts it. With `libvirt`,
            `qemu_binary` must be an absolute path, and `control` a Unix socket.
        fences: The commands that a supervisor tries, in this order, if the host cannot show that
            the node's QEMU has ended.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    name: str = attrs.field(validator=rules.Valid(rules.identifier))
    address: str = attrs.field(validator=rules.Valid(_host))
    image_folder: str = attrs.field(validator=rules.Valid(rules.absolute_path))
    overlay_folder: str = attrs.field(validator=rules.Valid(rules.absolute_path))
    listen_address: str = attrs.field(validator=rules.Valid(_host))
    run_dir: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.absolute_path))
    )
    state_dir: str = attrs.field(validator=rules.Valid(rules.absolute_path))
    ssh: Ssh | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.instance_of(Ssh)))
    )
    control: Monitor | None = attrs.field(
        default=None,
        validator=rules.Valid(rules.Optional(rules.instance_of(UnixMonitor, TcpMonitor))),
    )
    observer: Monitor | None = attrs.field(
        default=None,
        validator=rules.Valid(rules.Optional(rules.instance_of(UnixMonitor, TcpMonitor))),
    )
    vnc: Vnc | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.instance_of(Vnc)))
    )
    qemu_binary: str = attrs.field(default="qemu-system-x86_64", validator=rules.Valid(rules.text))
    qemu_img_binary: str = attrs.field(default="qemu-img", validator=rules.Valid(rules.text))
    libvirt: Libvirt | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.instance_of(Libvirt)))
    )
    fences: tuple[Fence, ...] = attrs.field(
        default=(),
        converter=_fences,
        validator=rules.Valid(rules.Each(rules.instance_of(Fence))),
    )

    @listen_address.default
    def _listen_where_the_peer_looks(self) -> str:
        return self.address

    @overlay_folder.default
    def _overlays_beside_the_images(self) -> str:
        return self.image_folder

    @state_dir.default
    def _state_beside_the_images(self) -> str:
        return self.image_folder

    def __attrs_post_init__(self) -> None:
        if self.run_dir is not None:
            rules.socket_path("Node.run_dir", self.run_path("observer.qmp"))
        if self.control is not None and self.control == self.observer:
            rule = "differ from control: one monitor serves one client"
            raise DeclarationError("Node.observer", self.observer, rule)
        if self.libvirt is not None:
            self._check_libvirt()

    def _check_libvirt(self) -> None:
        if not self.qemu_binary.startswith("/"):
            rule = "be an absolute path: libvirt takes no other"
            raise DeclarationError("Node.qemu_binary", self.qemu_binary, rule)
        if isinstance(self.control, TcpMonitor):
            rule = "be a Unix socket: it tells which process libvirt has started"
            raise DeclarationError("Node.control", self.control, rule)

    @property
    def control_monitor(self) -> Monitor:
        """The monitor of the one client that sends commands.

        Raises:
            DeclarationError: The node has no `run_dir` and declares no `control`.
        """
        return self.control or UnixMonitor(path=self.run_path("control.qmp"))

    @property
    def observer_monitor(self) -> Monitor:
        """The monitor for clients that only read, such as `status`; it serves one client at a time.

        It is `observer`, or the Unix socket `observer.qmp` in `run_dir` if that is None. A second
        client gets no greeting while the first one is connected: its connection fails with `Busy`.

        Raises:
            DeclarationError: The node has no `run_dir` and declares no `observer`.
        """
        return self.observer or UnixMonitor(path=self.run_path("observer.qmp"))

    @property
    def monitors(self) -> tuple[tuple[str, Monitor], ...]:
        """Both monitors, each after the name of its field.

        Raises:
            DeclarationError: The node has no `run_dir` and does not declare both monitors.
        """
        return (("control", self.control_monitor), ("observer", self.observer_monitor))

    def image_path(self, name: str) -> str:
        """The path of an image on this node.

        Args:
            name: A file name in the image folder, or an absolute path, which is returned unchanged.
        """
        return _in_folder(self.image_folder, name)

    def overlay_path(self, name: str) -> str:
        """The path of an overlay on this node.

        Args:
            name: A file name in the overlay folder, or an absolute path, which is returned
                unchanged.
        """
        return _in_folder(self.overlay_folder, name)

    def run_path(self, name: str) -> str:
        """The path of a file in this node's run directory.

        Raises:
            DeclarationError: The node has no `run_dir`: it gets the default from its pair.
        """
        if self.run_dir is None:
            raise DeclarationError("Node.run_dir", None, "be given for a node outside a pair")
        return f"{self.run_dir.rstrip('/')}/{name}"

    def state_path(self, name: str) -> str:
        """The path of a file in this node's state directory."""
        return f"{self.state_dir.rstrip('/')}/{name}"

    def socket_path(self, name: str) -> str:
        """The path of a socket in this node's run directory.

        A pair refuses a run directory in which such a path would be too long.

        Raises:
            DeclarationError: The node has no `run_dir`: it gets the default from its pair.
        """
        return self.run_path(f"{name}.sock")

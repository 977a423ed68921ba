"""Socket addresses, and the socket character devices through which COLO's packets travel."""

from __future__ import annotations

from typing import ClassVar, Final, Literal, TypeAlias, final

import attrs

from pycolo.errors import DeclarationError
from pycolo.qmp._base import QmpRecord

__all__ = [
    "ChardevBackend",
    "InetSocketAddress",
    "SocketAddress",
    "SocketClient",
    "SocketServer",
    "UnixSocketAddress",
]

_HIGHEST_PORT: Final = 65535


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class InetSocketAddress(QmpRecord):
    """A TCP address.

    ``to_qmp`` gives the flat nesting. A field that needs the older nesting has the metadata
    ``qmp_form="wrapped"`` (qemu-behaviour 3.13).
    """

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("type", "inet"),)

    host: str
    """A host name or an IP address; ``0.0.0.0`` to listen on every interface."""
    port: int = attrs.field(metadata={"qmp_form": "text"})
    """1 to 65535; QMP carries it as a string."""

    def __attrs_post_init__(self) -> None:
        if not 0 < self.port <= _HIGHEST_PORT:
            raise DeclarationError("port", self.port, f"be 1 to {_HIGHEST_PORT}")


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class UnixSocketAddress(QmpRecord):
    """The address of a socket in the file system; every channel of COLO can use one.

    Source: qemu-behaviour 3.9.
    """

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (("type", "unix"),)

    path: str
    """The socket's path, as the QEMU process sees it."""


SocketAddress: TypeAlias = InetSocketAddress | UnixSocketAddress
"""The address of a socket; a closed union."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class SocketServer(QmpRecord):
    """A socket chardev that listens."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (
        ("type", "socket"),
        ("server", True),
    )

    addr: SocketAddress = attrs.field(metadata={"qmp_form": "wrapped"})
    """Where it listens."""
    wait: Literal[False] | None = None
    """Whether QEMU waits for a client. True is not allowed, since it blocks QEMU's main loop
    (qemu-behaviour 3.2)."""
    tls_creds: str | None = None
    """The id of TLS credentials for a server endpoint."""
    tls_authz: str | None = None
    """The id of the object that authorises clients."""


@final
@attrs.frozen(kw_only=True, repr=False, eq=False)
class SocketClient(QmpRecord):
    """A socket chardev that connects."""

    qmp_constants: ClassVar[tuple[tuple[str, str | bool], ...]] = (
        ("type", "socket"),
        ("server", False),
    )

    addr: SocketAddress = attrs.field(metadata={"qmp_form": "wrapped"})
    """Where it connects to."""
    reconnect_s: int | None = attrs.field(default=None, metadata={"qmp_name": "reconnect"})
    """Seconds between attempts; QEMU before 10.2 only (qemu-behaviour 2.3)."""
    reconnect_ms: int | None = None
    """Milliseconds between attempts; QEMU 9.2 and later (qemu-behaviour 2.3)."""
    tls_creds: str | None = None
    """The id of TLS credentials for a client endpoint."""

    def __attrs_post_init__(self) -> None:
        if self.reconnect_s is not None and self.reconnect_ms is not None:
            raise DeclarationError(
                "reconnect_ms", self.reconnect_ms, "be absent if reconnect_s is given"
            )


ChardevBackend: TypeAlias = SocketServer | SocketClient
"""The socket behind a chardev of COLO; a closed union."""

"""The address at which a supervisor is served over HTTP."""

from __future__ import annotations

from typing import Final, Self, final

import attrs

from pycolo.errors import DeclarationError
from pycolo.model.node import is_loopback

PORT_MAX: Final = 65535


@final
@attrs.frozen(kw_only=True)
class HttpEndpoint:
    """The address of a supervisor's HTTP server: on loopback, since it authenticates no client.

    Raises:
        DeclarationError: The host is not a loopback address, or the port is out of range; no object
            is made.
    """

    host: str
    "A loopback address such as `127.0.0.1` or `::1`, or `localhost`."
    port: int
    "0 to 65535; 0 for any port that is free."

    def __attrs_post_init__(self) -> None:
        if not is_loopback(self.host):
            rule = "be a loopback address such as 127.0.0.1: nobody is asked who they are"
            raise DeclarationError("HttpEndpoint.host", self.host, rule)
        if not 0 <= self.port <= PORT_MAX:
            raise DeclarationError("HttpEndpoint.port", self.port, f"be within 0 to {PORT_MAX}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an endpoint from `HOST:PORT`, or `[HOST]:PORT` for IPv6.

        Args:
            text: The text.

        Raises:
            DeclarationError: The text has neither form, or a part of it breaks its rule.
        """
        host, _, port = text.rpartition(":")
        if not host or not (port.isascii() and port.isdecimal() and len(port) <= len("65535")):
            raise DeclarationError("HttpEndpoint", text, "be HOST:PORT, such as 127.0.0.1:9876")
        is_bracketed = host.startswith("[") and host.endswith("]")
        if ":" in host and not is_bracketed:
            raise DeclarationError("HttpEndpoint", text, "be [HOST]:PORT, such as [::1]:9876")
        return cls(host=host[1:-1] if is_bracketed else host, port=int(port))

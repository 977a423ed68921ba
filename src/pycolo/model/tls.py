"""TLS on every connection between the two hosts: the RAM, the disks and the guest's packets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias, final

import attrs

from pycolo._mapping import read_only_mappings
from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules

SERVER: Final = "tls-server"
"The id of a node's credentials for connections that it accepts."
CLIENT: Final = "tls-client"
"The id of a node's credentials for connections that it makes."
AUTHZ: Final = "tls-authz"
"The id of the list of clients that a node admits."
IDS: Final = (SERVER, CLIENT, AUTHZ)
"""The ids of all TLS objects, equal on every node.

At a failover a node becomes the other end of its connections, so each node has all of them."""


def _username(field: str, value: object) -> None:
    rules.text(field, value)
    if ":" in str(value):
        raise DeclarationError(field, value, "have no ':', which ends the name in keys.psk")


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class X509:
    """TLS with certificates: each node verifies that of the other.

    A server's certificate must hold, as a subject alternative name, the node's `address` as it is
    declared: an IP address as an address, a name as a DNS name.

    Args:
        folder: Absolute path of a folder on each node's host with `ca-cert.pem`,
            `server-cert.pem`, `server-key.pem`, `client-cert.pem` and `client-key.pem`.
        folders: Node name to the folder there, if it differs from `folder`.
        authz: The distinguished names of the client certificates that are admitted, each in the
            certificate's own order and without spaces between its parts (`O=Example,CN=alpha`). If
            it is empty, every certificate of the authority is admitted.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    folder: str = attrs.field(validator=rules.Valid(rules.absolute_path))
    folders: Mapping[str, str] = attrs.field(factory=dict)
    authz: tuple[str, ...] = attrs.field(
        default=(), converter=rules.as_tuple, validator=rules.Valid(rules.Each(rules.text))
    )

    def __attrs_post_init__(self) -> None:
        for node, folder in self.folders.items():
            rules.absolute_path(f"X509.folders.{node}", folder)
        names = [(f"authz[{n}]", name) for n, name in enumerate(self.authz)]
        rules.distinct("X509", names, "a name is given once")

    def folder_on(self, node: str) -> str:
        """The folder with the credentials on one node's host."""
        return self.folders.get(node, self.folder)

    def files_on(self, node: str) -> tuple[str, ...]:
        """The files that must be on one node's host."""
        keys = (f"{end}-{what}.pem" for end in ("server", "client") for what in ("cert", "key"))
        return tuple(_inside(self.folder_on(node), name) for name in ("ca-cert.pem", *keys))


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Psk:
    """TLS with a key that both nodes share.

    Args:
        folder: Absolute path of a folder on each node's host with `keys.psk`, whose lines are a
            user's name, a colon and the key in hexadecimal digits.
        folders: Node name to the folder there, if it differs from `folder`.
        username: The name of the key that both nodes use: the text before the colon in `keys.psk`.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    folder: str = attrs.field(validator=rules.Valid(rules.absolute_path))
    folders: Mapping[str, str] = attrs.field(factory=dict)
    username: str = attrs.field(default="qemu", validator=rules.Valid(_username))

    def __attrs_post_init__(self) -> None:
        for node, folder in self.folders.items():
            rules.absolute_path(f"Psk.folders.{node}", folder)

    def folder_on(self, node: str) -> str:
        """The folder with the key file on one node's host."""
        return self.folders.get(node, self.folder)

    def files_on(self, node: str) -> tuple[str, ...]:
        """The files that must be on one node's host."""
        return (_inside(self.folder_on(node), "keys.psk"),)


Tls: TypeAlias = X509 | Psk
"""How the connections between the hosts are encrypted; a closed union."""


def _inside(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"

"""The endpoints of an etcd cluster, and how its clients authenticate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, final
from urllib.parse import urlsplit

import attrs

from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules

_PREFIX: Final = re.compile(r"/?[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*\Z")


def _check_endpoint(field: str, value: object) -> None:
    rules.text(field, value)
    rule = "be http://HOST:PORT or https://HOST:PORT, such as https://10.0.0.1:2379"
    try:
        url = urlsplit(str(value))
        is_endpoint = bool(url.hostname and url.port) and "@" not in url.netloc
    except ValueError as error:
        raise DeclarationError(field, value, rule) from error
    if url.scheme not in ("http", "https") or not is_endpoint or value != _plain(str(value)):
        raise DeclarationError(field, value, rule)


def _plain(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _check_endpoints(field: str, value: object) -> None:
    rules.Each(_check_endpoint)(field, value)
    if not value:
        raise DeclarationError(field, value, "name at least one endpoint")


def _check_prefix(field: str, value: object) -> None:
    if not isinstance(value, str) or not _PREFIX.match(value):
        rule = "be names of letters, digits, '.', '_' or '-' with '/' between them"
        raise DeclarationError(field, value, rule)


@final
@attrs.frozen(kw_only=True)
class EtcdCluster:
    """An etcd cluster: its endpoints, and how its clients authenticate.

    Args:
        endpoints: The client URLs of its members, `https://HOST:PORT`; all of them, so that an
            agent finds one that answers.
        prefix: What the keys begin with; those of a pair are `PREFIX/PAIR/...`.
        ca: A file with the CA certificates for the members, in PEM; the system's if None.
        cert: A file with the client's certificate, in PEM. If etcd asks for passwords as well, the
            certificate must have no common name: etcd's gateway refuses one that has.
        key: A file with the private key of `cert`, in PEM.
        user: The name of the user for etcd's own authentication.
        password_file: A file with nothing but that user's password; read each time it is needed.

    Raises:
        DeclarationError: A field breaks its rule, only one of `cert` and `key` or of `user` and
            `password_file` is given, or `ca`, `cert` or `user` is given and an endpoint is not
            `https://`; no object is made.
    """

    endpoints: tuple[str, ...] = attrs.field(
        converter=rules.as_tuple, validator=rules.Valid(_check_endpoints)
    )
    prefix: str = attrs.field(default="pycolo", validator=rules.Valid(_check_prefix))
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    user: str | None = attrs.field(default=None, validator=rules.Valid(rules.Optional(rules.text)))
    password_file: Path | None = None

    def __attrs_post_init__(self) -> None:
        self._check_both("cert", "key")
        self._check_both("user", "password_file")
        secret = next((name for name in ("ca", "cert", "user") if getattr(self, name)), None)
        for place, endpoint in enumerate(self.endpoints):
            if secret is not None and not endpoint.startswith("https://"):
                rule = f"begin with https:// if {secret} is given"
                raise DeclarationError(f"EtcdCluster.endpoints[{place}]", endpoint, rule)

    def _check_both(self, first: str, second: str) -> None:
        for name, other in ((first, second), (second, first)):
            if getattr(self, name) is None and getattr(self, other) is not None:
                rule = f"be given with {other}"
                raise DeclarationError(f"EtcdCluster.{name}", None, rule)

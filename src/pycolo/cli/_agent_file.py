"""The agent file, which declares an agent: its node, its arbiter and its fuse."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final, final

import attrs
import click

from pycolo import _decode
from pycolo._forms import Document, Forms
from pycolo.errors import DeclarationError, ParseError
from pycolo.model import _rules as rules
from pycolo.supervise import Arbiter
from pycolo.supervise.arbiters import SqliteArbiter

_SIZE_MAX_BYTES: Final = 1 << 16


@final
@attrs.frozen(kw_only=True)
class SqlitePlace:
    """An arbiter in a file, for agents that run on one machine."""

    folder: str = attrs.field(validator=rules.Valid(rules.absolute_path))
    "Absolute path of the folder of its file, the same for every agent; made if missing."


@final
@attrs.frozen(kw_only=True)
class EtcdPlace:
    """An arbiter in etcd; the fields are those of `EtcdCluster`."""

    endpoints: tuple[str, ...] = attrs.field(converter=rules.as_tuple)
    "The client URLs of all members, such as `https://10.0.0.11:2379`."
    prefix: str = "pycolo"
    "The prefix of all keys in etcd; the same for every agent."
    ca: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.absolute_path))
    )
    "Absolute path of the authority's certificate; if absent, the system's authorities."
    cert: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.absolute_path))
    )
    "Absolute path of this agent's certificate, to be given with `key`."
    key: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.absolute_path))
    )
    "Absolute path of the private key of `cert`."
    user: str | None = None
    "The user of etcd's own authentication, to be given with `password_file`."
    password_file: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.absolute_path))
    )
    "Absolute path of a file that holds that user's password and nothing else."


@final
@attrs.frozen(kw_only=True)
class AgentFile:
    """What an agent is.

    Raises:
        DeclarationError: A field breaks its rule, or there is no arbiter, or there are two.
    """

    node: str = attrs.field(validator=rules.Valid(rules.identifier))
    "The node that runs on this host; every pair file of this agent declares a node of that name."
    etcd: EtcdPlace | None = None
    "The arbiter, if it is in etcd: give this or `sqlite`."
    sqlite: SqlitePlace | None = None
    "The arbiter, if it is in a file: for agents on one machine alone, such as in a test."
    fuse: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.absolute_path))
    )
    "Absolute path of the socket of this host's fuse; without one no lease is evidence."

    def __attrs_post_init__(self) -> None:
        if (self.etcd is None) == (self.sqlite is None):
            raise DeclarationError("AgentFile.etcd", self.etcd, "be given, or sqlite; not both")

    def arbiter(self) -> Arbiter:
        """Open the arbiter that this file names; the caller closes it with `aclose`.

        Raises:
            DeclarationError: A field of `etcd` breaks its rule.
            StoreError: The arbiter's file cannot be opened.
            click.UsageError: The arbiter is in etcd, and the extra `etcd` is not installed.
        """
        if self.sqlite is not None:
            return SqliteArbiter(Path(self.sqlite.folder))
        assert self.etcd is not None  # noqa: S101 - checked when the file was read
        try:
            from pycolo.supervise.arbiters import etcd  # noqa: PLC0415 - an extra, imported where it is used
        except ModuleNotFoundError as error:
            why = "an arbiter in etcd needs aiohttp: install pycolo with its extra etcd"
            raise click.UsageError(f"{why} ({error})") from error
        place = self.etcd
        return etcd.EtcdArbiter(
            etcd.EtcdCluster(
                endpoints=place.endpoints,
                prefix=place.prefix,
                ca=_path(place.ca),
                cert=_path(place.cert),
                key=_path(place.key),
                user=place.user,
                password_file=_path(place.password_file),
            )
        )


def load(path: Path) -> AgentFile:
    """Read an agent file.

    Raises:
        DeclarationError: The file is not an agent file, or breaks a rule; the error's field is the
            file, and the path of the key in it.
        OSError: The file cannot be read.
    """
    try:
        text = _decode.file_text(path, size_max_bytes=_SIZE_MAX_BYTES)
        found = _document().read(_decode.toml_value(text), "")
    except ParseError as error:
        field = f"{path}: {error.path or 'the agent file'}"
        raise DeclarationError(field, error.value, error.rule) from error
    assert isinstance(found, AgentFile)  # noqa: S101 - what the document's form makes
    return found


@functools.cache
def _document() -> Document:
    return Document("agent", Forms(omits="nothing").record(AgentFile))


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)

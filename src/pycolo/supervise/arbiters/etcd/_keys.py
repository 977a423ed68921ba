"""The keys of a pair in etcd: `PREFIX/PAIR/record`, `.../leases/NODE` and `.../ends/NODE`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Literal, TypeAlias, final

import attrs

from pycolo._json import JsonObject, array_at, at, object_at
from pycolo._mapping import read_only_mappings
from pycolo.errors import ParseError
from pycolo.evidence import Evidence
from pycolo.supervise.arbiter import Held
from pycolo.supervise.arbiters.text import load_end, load_shared
from pycolo.supervise.shared import SharedRecord

Folder: TypeAlias = Literal["leases", "ends"]


@final
@attrs.frozen
class Keys:
    """The keys in etcd under which the data of one pair is stored."""

    prefix: str
    pair: str

    @property
    def record(self) -> str:
        """The key of the pair's record."""
        return f"{self.prefix}/{self.pair}/record"

    def of(self, folder: Folder, node: str) -> str:
        """The key of a node's lease (`leases`), or of the evidence about its QEMU (`ends`)."""
        return f"{self.prefix}/{self.pair}/{folder}/{node}"

    @property
    def all(self) -> JsonObject:
        """The range of all keys of the pair, as members of a request."""
        # '0' follows '/' in ASCII, so every key that begins with `PREFIX/PAIR/` is in this range.
        first, last = f"{self.prefix}/{self.pair}/", f"{self.prefix}/{self.pair}0"
        return {"key": encoded(first), "range_end": encoded(last)}

    def parts(self, key: str) -> tuple[str, str]:
        """The folder and the node that a key names; the folder is empty for the record's key."""
        folder, _, node = key.removeprefix(f"{self.prefix}/{self.pair}/").rpartition("/")
        return folder, node


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class View:
    """What is held for a pair, and the revision of each of its keys."""

    held: Held
    revisions: Mapping[str, int]
    "Key to the revision at which it was last written, for every key that exists."
    revision: int
    "The cluster's revision at which the keys were read."

    @classmethod
    def read(cls, keys: Keys, answer: Mapping[str, object], revision: int) -> View:
        """Parse the answer to a request for `Keys.all`.

        Args:
            keys: The pair's keys.
            answer: The answer.
            revision: The cluster's revision when it answered.

        Raises:
            ParseError: The answer has another form, or a value is not as pycolo writes it.
        """
        revisions: dict[str, int] = {}
        leases: set[str] = set()
        ends: dict[str, Evidence] = {}
        shared: SharedRecord | None = None
        for place, item in array_at(answer.get("kvs", []), "kvs"):
            members = object_at(item, place)
            key, value = (decoded(members, name, place) for name in ("key", "value"))
            revisions[key] = number(members, "mod_revision", place)
            folder, node = keys.parts(key)
            if key == keys.record:
                shared = load_shared(value, keys.pair)
            elif folder == "leases":
                leases.add(node)
            elif folder == "ends":
                ends[node] = load_end(value, node)
        held = Held(
            revision=revisions.get(keys.record, 0),
            shared=shared,
            leases=frozenset(leases),
            ends=ends,
        )
        return cls(held=held, revisions=revisions, revision=revision)


def encoded(text: str) -> str:
    """Encode a text in base64, as the gateway writes keys and values."""
    return base64.b64encode(text.encode()).decode()


def decoded(members: Mapping[str, object], key: str, path: str) -> str:
    """The text of a member in base64 of a JSON object; empty if it is absent.

    Args:
        members: The members of the object.
        key: The key of the member.
        path: The path of the object, for the error.

    Raises:
        ParseError: The member is not text in base64.
    """
    # Protocol buffers leave out an empty value.
    value = members.get(key, "")
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        pass
    raise ParseError(at(path, key), "be text in base64", value)


def number(members: Mapping[str, object], key: str, path: str) -> int:
    """An integer member of a JSON object, which the gateway writes as a string; 0 if it is absent.

    Args:
        members: The members of the object.
        key: The key of the member.
        path: The path of the object, for the error.

    Raises:
        ParseError: The member is not a string of decimal digits.
    """
    value = members.get(key, "0")
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    raise ParseError(at(path, key), "be a whole number in a string", value)

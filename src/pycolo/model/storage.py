"""What an image stands on: the images that back it, read-only, from the top down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, final
from urllib.parse import urlsplit

import attrs

from pycolo._json import JsonValue, frozen_json
from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules
from pycolo.model._places import normal
from pycolo.model.hardware import INTEGER_MAX
from pycolo.qmp.blockdevs import (
    FileNode,
    HostDeviceNode,
    HttpsNode,
    IscsiNode,
    LuksNode,
    NbdNode,
    NfsNode,
    Qcow2Node,
    RawNode,
    RbdNode,
    option_names,
)

Driver: TypeAlias = Literal["file", "host_device"]
"QEMU's driver for an image, which is a file or a block device of the host."
BackingFormat: TypeAlias = Literal["qcow2", "raw"]
"The format of a backing image."

_SCHEME: Final = re.compile(r"https?://")


def is_url(place: str) -> bool:
    """Whether a backing image is read over http or https."""
    return _SCHEME.match(place) is not None


OPTION_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]*\Z")
DEPTH_MAX: Final = 8
# Options of a block node that other fields of the declaration decide, or that would let two QEMUs
# write to one image.
_OWNED: Final = (
    *("driver", "node-name", "read-only", "auto-read-only", "force-share", "cache", "discard"),
    *("detect-zeroes", "filename", "file", "backing"),
)
_FILE_NODES: Final = (*(FileNode, HostDeviceNode, HttpsNode, RbdNode, IscsiNode, NfsNode, NbdNode),)
# Options that name a further file, which no rule would keep apart from those of the other node.
_FURTHER_FILES: Final = ("data-file", "header")
_FORMAT_KEYS: Final = frozenset(
    (*_OWNED, *_FURTHER_FILES, *option_names(Qcow2Node, RawNode, LuksNode))
)
_FILE_KEYS: Final = frozenset((*_OWNED, *option_names(*_FILE_NODES)))


def frozen_options(value: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """A copy of options that cannot be changed; the validator refuses a value of another type."""
    if not isinstance(value, Mapping):
        return value
    try:
        return frozen_json(value)
    except RecursionError:
        # Too deep to be copied, or without an end; the validator refuses it.
        return value


def format_options(field: str, value: object) -> None:
    """Check that a value is a table of options for the block node of an image's format."""
    _check_options(field, value, _FORMAT_KEYS)


def file_options(field: str, value: object) -> None:
    """Check that a value is a table of options for the block node that opens an image."""
    _check_options(field, value, _FILE_KEYS)


def _check_options(field: str, value: object, owned: frozenset[str]) -> None:
    if not isinstance(value, Mapping):
        raise DeclarationError(field, value, "be a table")
    for name, item in value.items():
        if name in owned:
            rule = "not be set here: another key decides it, or pycolo does"
            raise DeclarationError(f"{field}.{name}", item, rule)
    _option(field, value, DEPTH_MAX)


def _option_name(field: str, name: object) -> None:
    if not isinstance(name, str) or not OPTION_NAME.match(name):
        raise DeclarationError(field, name, "be named as QEMU names options")


def _option(field: str, value: object, depth: int) -> None:
    """Check the value of an option, and what is in it."""
    if depth == 0:
        raise DeclarationError(field, value, f"be nested at most {DEPTH_MAX} deep")
    match value:
        case Mapping():
            for name, item in value.items():
                _option_name(field, name)
                _option(f"{field}.{name}", item, depth - 1)
        case list() | tuple():
            for n, item in enumerate(value):
                _option(f"{field}[{n}]", item, depth - 1)
        case str() if not value.isprintable():
            raise DeclarationError(field, value, "be a string of printable characters")
        case int() if abs(value) > INTEGER_MAX:
            raise DeclarationError(field, value, "be a whole number of 64 bits")
        case str() | int():
            pass
        case _:
            rule = "be a string, a whole number, true, false, a list or a table"
            raise DeclarationError(field, value, rule)


def _path_or_url(field: str, value: object) -> None:
    """Check that a value is an absolute path, or a URL of http or https."""
    rules.text(field, value)
    place = str(value)
    if not is_url(place):
        if not place.startswith("/") or place.endswith("/"):
            rule = "be an absolute path, or begin with http:// or https://"
            raise DeclarationError(field, value, rule)
        return
    try:
        parts = urlsplit(place)
        named, _ = parts.hostname, parts.port
    except ValueError as error:
        raise DeclarationError(field, value, f"be a URL ({error})") from error
    if not named or " " in place:
        raise DeclarationError(field, value, "be a URL with a host and without spaces")
    if parts.username is not None:
        rule = "hold no user or password, which every user of the host could read"
        raise DeclarationError(field, value, rule)


@final
@attrs.frozen(kw_only=True)
class BackingImage:
    """An image that is read where the image above it holds no data; never written to.

    Both nodes may use the same one.

    Args:
        image: Absolute path on the node, or a URL that begins with `http://` or `https://`, whose
            server must support ranges of bytes.
        image_format: `qcow2` or `raw`. Only below a `qcow2` there can be a further image.
        driver: `file`, or `host_device` if the image is a block device of the host. A URL needs
            `file`, the default; QEMU then opens it by its protocol.
        options: See `ReplicationDisk.options`.
        file_options: See `ReplicationDisk.file_options`.

    Raises:
        DeclarationError: A field breaks its rule; no object is made. A path must be absolute, a URL
            must have a host and no user, password or space, and its driver must be `file`.
    """

    image: str = attrs.field(validator=rules.Valid(_path_or_url))
    image_format: BackingFormat = attrs.field(
        default="qcow2", validator=rules.Valid(rules.one_of("qcow2", "raw"))
    )
    driver: Driver = attrs.field(
        default="file", validator=rules.Valid(rules.one_of("file", "host_device"))
    )
    options: Mapping[str, JsonValue] = attrs.field(
        factory=dict, converter=frozen_options, validator=rules.Valid(format_options)
    )
    file_options: Mapping[str, JsonValue] = attrs.field(
        factory=dict, converter=frozen_options, validator=rules.Valid(file_options)
    )

    def __attrs_post_init__(self) -> None:
        if self.driver != "file" and not self.is_local:
            raise DeclarationError("BackingImage.driver", self.driver, "be file for a URL")

    @property
    def has_options(self) -> bool:
        """Whether the image has options by QEMU's names."""
        return bool(self.options or self.file_options)

    @property
    def is_local(self) -> bool:
        """Whether the image is a path on the node, not a URL."""
        return not is_url(self.image)


def check_chain(owner: str, chain: tuple[BackingImage, ...]) -> None:
    """Check that each image of a chain but the last can have another one below it.

    Args:
        owner: The class that has the field `backing`.
        chain: The backing images, from the top down.

    Raises:
        DeclarationError: An image that is not the last is raw, or an image is there twice.
    """
    for n, layer in enumerate(chain[:-1]):
        if layer.image_format != "qcow2":
            field = f"{owner}.backing[{n}].image_format"
            rule = "be qcow2 if there is an image below it"
            raise DeclarationError(field, layer.image_format, rule)
    named = [
        (f"backing[{n}].image", normal(layer.image) if layer.is_local else layer.image)
        for n, layer in enumerate(chain)
    ]
    rules.distinct(owner, named, "an image cannot back itself")

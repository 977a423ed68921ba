"""What an image stands on: the images that back it, read-only, from the top down."""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias, final
from urllib.parse import urlsplit

import attrs

from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules

Driver: TypeAlias = Literal["file", "host_device"]
"QEMU's driver for an image, which is a file or a block device of the host."
BackingFormat: TypeAlias = Literal["qcow2", "raw"]
"The format of a backing image."

_SCHEME: Final = re.compile(r"https?://")


def is_url(place: str) -> bool:
    """Whether a backing image is read over http or https."""
    return _SCHEME.match(place) is not None


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
        driver: `file`, or `host_device` if the image is a block device of the host.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    image: str = attrs.field(validator=rules.Valid(_path_or_url))
    image_format: BackingFormat = attrs.field(
        default="qcow2", validator=rules.Valid(rules.one_of("qcow2", "raw"))
    )
    driver: Driver = attrs.field(
        default="file", validator=rules.Valid(rules.one_of("file", "host_device"))
    )

    def __attrs_post_init__(self) -> None:
        if self.driver != "file" and not self.is_local:
            raise DeclarationError("BackingImage.driver", self.driver, "be file for a URL")

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
    named = [(f"backing[{n}].image", layer.image) for n, layer in enumerate(chain)]
    rules.distinct(owner, named, "an image cannot back itself")

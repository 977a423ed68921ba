"""One replicated disk."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias, final

import attrs

from pycolo._json import JsonValue
from pycolo._mapping import read_only_mappings
from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules
from pycolo.model.hardware import Property, emulated, properties
from pycolo.model.node import Node
from pycolo.model.remote import Iscsi, Nbd, Nfs, Rbd, Remote
from pycolo.model.storage import (
    BackingImage,
    Driver,
    check_chain,
    file_options,
    format_options,
    frozen_options,
)
from pycolo.qmp.blockdevs import Aio, DetectZeroes, Discard

SECTOR_BYTES = 512
DEFAULT_IMAGE = "primary.qcow2"
SIZE_MAX_BYTES = 2**63 - SECTOR_BYTES

ImageFormat: TypeAlias = Literal["qcow2", "raw", "luks"]
"The format of an image."
Cache: TypeAlias = Literal["writeback", "writethrough", "none", "directsync", "unsafe"]
"QEMU's names for the ways in which an image uses the host's cache."

DIRECT: tuple[Cache, ...] = ("none", "directsync")
"The cache modes that bypass the host's page cache."
RESYNC_MIN_BYTES_PER_S = 2**20
"The lowest limit of a copy's rate; a slower copy would be taken for a stalled one."
THROUGH: tuple[Cache, ...] = ("writethrough", "directsync")
"The cache modes in which the guest's disk has no write cache."


@final
@attrs.frozen(kw_only=True)
class DiskIds:
    """QEMU's names for the parts of one disk, equal on every node and in both roles.

    Take `DiskIds.numbered(n)` for the n-th disk of the pair, from 0, and change single names with
    `attrs.evolve`. `ColoPair` refuses a name that is used twice.

    Raises:
        DeclarationError: A name breaks QEMU's rules for it; no object is made.
    """

    quorum: str = attrs.field(validator=rules.Valid(rules.block_node_name))
    "The quorum, the block node that the guest's device uses."
    parent: str = attrs.field(validator=rules.Valid(rules.block_node_name))
    "The block node of the image, and the export that a secondary offers."
    replication: str = attrs.field(validator=rules.Valid(rules.block_node_name))
    "The secondary's replication node."
    active: str = attrs.field(validator=rules.Valid(rules.block_node_name))
    "The secondary's active overlay."
    hidden: str = attrs.field(validator=rules.Valid(rules.block_node_name))
    "The secondary's hidden overlay."
    nbd: str = attrs.field(validator=rules.Valid(rules.block_node_name))
    "The primary's NBD client node."
    primary_replication: str = attrs.field(validator=rules.Valid(rules.block_node_name))
    "The primary's replication node, in dialect `doc` alone."
    device: str = attrs.field(validator=rules.Valid(rules.identifier))
    "The guest's disk device."
    secret: str = attrs.field(validator=rules.Valid(rules.identifier))
    "The secret that opens an encrypted image."
    access: str = attrs.field(validator=rules.Valid(rules.identifier))
    "The secret by which remote storage admits QEMU."
    throttle: str = attrs.field(validator=rules.Valid(rules.identifier))
    "The group of the guest's limits, and the drive that they are set on."

    @classmethod
    def numbered(cls, n: int) -> DiskIds:
        """The names of the n-th disk, from 0; those of disk 0 are as in QEMU's COLO document."""
        return cls(
            quorum=f"colo-disk{n}",
            parent=f"parent{n}",
            replication=f"childs{n}",
            active=f"active{n}",
            hidden=f"hidden{n}",
            nbd=f"nbd{n}",
            primary_replication=f"replication{n}",
            device=f"disk{n}",
            secret=f"secret{n}",
            access=f"access{n}",
            throttle=f"throttle{n}",
        )


LIMIT_MAX = 10**15
_limit = rules.Valid(rules.Optional(rules.Whole(1, LIMIT_MAX)))


@final
@attrs.frozen(kw_only=True)
class Throttle:
    """Limits for the guest's reads and writes; the copy to a new secondary is not limited by them.

    For operations, give either a total or limits for reads and writes; the same for bytes.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    iops_total: int | None = attrs.field(default=None, validator=_limit)
    "Operations per second."
    iops_read: int | None = attrs.field(default=None, validator=_limit)
    "Reads per second."
    iops_write: int | None = attrs.field(default=None, validator=_limit)
    "Writes per second."
    bps_total: int | None = attrs.field(default=None, validator=_limit)
    "Bytes per second."
    bps_read: int | None = attrs.field(default=None, validator=_limit)
    "Bytes read per second."
    bps_write: int | None = attrs.field(default=None, validator=_limit)
    "Bytes written per second."

    def __attrs_post_init__(self) -> None:
        given = self.limits()
        if not given:
            raise DeclarationError("Throttle", {}, "have one limit or more")
        for name, value in given.items():
            kind, _, what = name.partition("_")
            if what != "total" and f"{kind}_total" in given:
                rule = f"be absent if {kind}_total is given, which QEMU asks for"
                raise DeclarationError(f"Throttle.{name}", value, rule)

    def limits(self) -> dict[str, int]:
        """The limits that are set, by field name."""
        fields = (field.name for field in attrs.fields(Throttle))
        return {name: value for name in fields if (value := getattr(self, name)) is not None}


def _place(field: str, value: object) -> None:
    """Check that a value is a file name or an absolute path."""
    rules.text(field, value)
    text = str(value)
    is_folder = posixpath.basename(text) in ("", ".", "..")
    if is_folder or ("/" in text and not text.startswith("/")):
        rule = "be a file name in the node's folder, or an absolute path"
        raise DeclarationError(field, value, rule)


_LAYERS = rules.Each(rules.instance_of(BackingImage))


_Layers: TypeAlias = tuple[BackingImage, ...] | list[BackingImage]


def _chain(layers: _Layers) -> tuple[BackingImage, ...]:
    return tuple(layers) if isinstance(layers, list) else layers


def _chain_if_given(layers: _Layers | None) -> tuple[BackingImage, ...] | None:
    return None if layers is None else _chain(layers)


def _options_if_given(value: Mapping[str, JsonValue] | None) -> Mapping[str, JsonValue] | None:
    return None if value is None else frozen_options(value)


_REMOTE = rules.Valid(rules.Optional(rules.instance_of(Rbd, Iscsi, Nfs, Nbd)))
_OPTIONS = rules.Valid(rules.Optional(format_options))
_FILE_OPTIONS = rules.Valid(rules.Optional(file_options))


@final
@attrs.frozen(kw_only=True)
class DiskOnNode:
    """The values in which a disk differs on one node; those of the disk hold for absent keys.

    Args:
        image: See `ReplicationDisk.image`.
        image_format: See `ReplicationDisk.image_format`.
        backing: See `ReplicationDisk.backing`; an empty list for no declared backing images.
        driver: See `ReplicationDisk.driver`.
        remote: See `ReplicationDisk.remote`; `image` and `remote` replace each other.
        secret_file: See `ReplicationDisk.secret_file`.
        active_image: See `ReplicationDisk.active_image`.
        hidden_image: See `ReplicationDisk.hidden_image`.
        cache: See `ReplicationDisk.cache`.
        aio: See `ReplicationDisk.aio`.
        discard: See `ReplicationDisk.discard`.
        detect_zeroes: See `ReplicationDisk.detect_zeroes`.
        options: See `ReplicationDisk.options`.
        file_options: See `ReplicationDisk.file_options`.
    """

    image: str | None = None
    image_format: ImageFormat | None = None
    backing: tuple[BackingImage, ...] | None = attrs.field(
        default=None, converter=_chain_if_given, validator=rules.Valid(rules.Optional(_LAYERS))
    )
    driver: Driver | None = None
    remote: Remote | None = attrs.field(default=None, validator=_REMOTE)
    secret_file: str | None = None
    active_image: str | None = None
    hidden_image: str | None = None
    cache: Cache | None = None
    aio: Aio | None = None
    discard: Discard | None = None
    detect_zeroes: DetectZeroes | None = None
    options: Mapping[str, JsonValue] | None = attrs.field(
        default=None, converter=_options_if_given, validator=_OPTIONS
    )
    file_options: Mapping[str, JsonValue] | None = attrs.field(
        default=None, converter=_options_if_given, validator=_FILE_OPTIONS
    )

    def __attrs_post_init__(self) -> None:
        if self.remote is not None and self.image is not None:
            raise DeclarationError("DiskOnNode.image", self.image, "be absent with remote")

    def given(self) -> dict[str, object]:
        """The values that replace those of the disk, by field name."""
        fields = (field.name for field in attrs.fields(DiskOnNode))
        own = {name: value for name in fields if (value := getattr(self, name)) is not None}
        if self.remote is not None:
            return {"image": DEFAULT_IMAGE, "driver": "file", "aio": None, **own}
        return own if self.image is None else {"remote": None, **own}


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class ReplicationDisk:
    """A disk that both nodes hold and COLO keeps equal.

    Args:
        size_bytes: Virtual size, a multiple of 512; equal on both nodes (qemu-behaviour 5.2).
        image: The image: a file name in each node's image folder, or an absolute path.
        image_format: `qcow2`, `raw` or `luks`, which is raw and encrypted.
        backing: The images that back a `qcow2`, from the one directly below it down; QEMU opens
            them read-only. If it is empty, or below the last of them, QEMU opens what an image's
            own header names (qemu-behaviour 20.7, 20.9). Both must agree.
        driver: `file`, or `host_device` if the image is a block device of the host, which must
            exist on both nodes (qemu-behaviour 20.1).
        remote: An image on remote storage that QEMU itself opens, in place of a file or a block
            device. It must exist for each node, and no two nodes may have the same one.
        secret_file: Absolute path, on each node, of the file that holds the passphrase of an
            encrypted image; every byte counts, also a newline at its end. Required for `luks`. With
            `qcow2` it means that the image is encrypted by LUKS. The overlays are encrypted with
            the same passphrase (qemu-behaviour 20.4).
        active_image: The secondary's active overlay (qcow2): a file name in each node's overlay
            folder, or an absolute path.
        hidden_image: The secondary's hidden overlay (qcow2), likewise.
        cache: How the image uses the host's cache, as QEMU names it: `writeback`, `none`, which
            bypasses the page cache, `writethrough`, `directsync` or `unsafe`, which ignores the
            guest's flushes. Whether the guest sees a write cache must be equal on all nodes.
        aio: `threads`, `native`, which needs cache `none` or `directsync`, or `io_uring`; None
            leaves it to QEMU (qemu-behaviour 20.3).
        discard: `unmap` lets QEMU give space back to the host, which `detect_zeroes = "unmap"`
            needs; space that the guest itself discards is not given back (qemu-behaviour 20.2).
            None leaves it to QEMU, which gives nothing back.
        detect_zeroes: `on` writes blocks of zeroes as such, `unmap` also gives their space back to
            the host and needs discard `unmap`; None leaves it to QEMU, which does neither.
        options: Further options of QEMU's driver for the image's format, by the names of QMP's
            `blockdev-add`, such as `l2-cache-size`; they may be nested. Options that other keys
            decide are refused. Each is checked against the schema of the node's QEMU before
            anything is launched (qemu-behaviour 20.10).
        file_options: Likewise of the driver that opens the image, such as `locking` of `file`.
        throttle: Limits for the guest's reads and writes; None for none (qemu-behaviour 20.5).
        resync_bytes_per_s: Highest rate of the copy to a new secondary, in bytes per second, from
            1048576. If the guest writes faster, the copy never ends. None for no limit.
        device: QEMU's device model for the guest's disk.
        properties: Properties of that device, by QEMU's names, such as `bus`, `lun`, `serial` or
            `bootindex`. `write-cache` is refused, because `cache` decides it.
        nodes: Node name to the values that differ on that node.
        ids: QEMU's names for the disk's parts; None takes the names of its place in the pair.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    size_bytes: int = attrs.field(validator=rules.Valid(rules.Whole(SECTOR_BYTES, SIZE_MAX_BYTES)))
    image: str = attrs.field(default=DEFAULT_IMAGE, validator=rules.Valid(_place))
    image_format: ImageFormat = attrs.field(
        default="qcow2", validator=rules.Valid(rules.one_of("qcow2", "raw", "luks"))
    )
    backing: tuple[BackingImage, ...] = attrs.field(
        default=(), converter=_chain, validator=rules.Valid(_LAYERS)
    )
    driver: Driver = attrs.field(
        default="file", validator=rules.Valid(rules.one_of("file", "host_device"))
    )
    remote: Remote | None = attrs.field(default=None, validator=_REMOTE)
    secret_file: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.absolute_path))
    )
    active_image: str = attrs.field(default="secondary-active.qcow2", validator=rules.Valid(_place))
    hidden_image: str = attrs.field(default="secondary-hidden.qcow2", validator=rules.Valid(_place))
    cache: Cache = attrs.field(
        default="writeback",
        validator=rules.Valid(
            rules.one_of("writeback", "writethrough", "none", "directsync", "unsafe")
        ),
    )
    aio: Aio | None = attrs.field(
        default=None,
        validator=rules.Valid(rules.Optional(rules.one_of("threads", "native", "io_uring"))),
    )
    discard: Discard | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.one_of("ignore", "unmap")))
    )
    detect_zeroes: DetectZeroes | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.one_of("off", "on", "unmap")))
    )
    options: Mapping[str, JsonValue] = attrs.field(
        factory=dict, converter=frozen_options, validator=rules.Valid(format_options)
    )
    file_options: Mapping[str, JsonValue] = attrs.field(
        factory=dict, converter=frozen_options, validator=rules.Valid(file_options)
    )
    throttle: Throttle | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.instance_of(Throttle)))
    )
    resync_bytes_per_s: int | None = attrs.field(
        default=None,
        validator=rules.Valid(rules.Optional(rules.Whole(RESYNC_MIN_BYTES_PER_S, SIZE_MAX_BYTES))),
    )
    device: str = attrs.field(default="ide-hd", validator=rules.Valid(emulated))
    properties: Mapping[str, Property] = attrs.field(
        factory=dict, validator=rules.Valid(properties)
    )
    nodes: Mapping[str, DiskOnNode] = attrs.field(factory=dict)
    ids: DiskIds | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.instance_of(DiskIds)))
    )

    def __attrs_post_init__(self) -> None:
        if self.size_bytes % SECTOR_BYTES:
            rule = f"be a multiple of {SECTOR_BYTES}"
            raise DeclarationError("ReplicationDisk.size_bytes", self.size_bytes, rule)
        if self.driver != "file" and not self.image.startswith("/"):
            rule = f"be an absolute path if driver is {self.driver}"
            raise DeclarationError("ReplicationDisk.image", self.image, rule)
        self._check_remote()
        if self.backing and self.image_format != "qcow2":
            rule = f"be empty for {self.image_format}: only a qcow2 can have a backing image"
            raise DeclarationError("ReplicationDisk.backing", self.backing[0].image, rule)
        check_chain("ReplicationDisk", self.backing)
        if self.image_format == "luks" and self.secret_file is None:
            raise DeclarationError("ReplicationDisk.secret_file", None, "be given for luks")
        if self.image_format == "raw" and self.secret_file is not None:
            rule = "be absent for raw, which is not encrypted"
            raise DeclarationError("ReplicationDisk.secret_file", self.secret_file, rule)
        if self.aio == "native" and self.cache not in DIRECT:
            rule = f"be given with cache {' or '.join(DIRECT)}, which QEMU asks for"
            raise DeclarationError("ReplicationDisk.aio", self.aio, rule)
        if self.detect_zeroes == "unmap" and self.discard != "unmap":
            rule = "be given with discard unmap, which QEMU asks for"
            raise DeclarationError("ReplicationDisk.detect_zeroes", self.detect_zeroes, rule)
        if "write-cache" in self.properties:
            field = "ReplicationDisk.properties.write-cache"
            rule = "not be set: cache says whether the disk has a write cache"
            raise DeclarationError(field, self.properties["write-cache"], rule)
        why = "each image is a file of its own"
        rules.distinct("ReplicationDisk", self.images().items(), why)
        for name in self.nodes:
            self._check_node(name)

    def _check_remote(self) -> None:
        if self.remote is None:
            return
        if self.image != DEFAULT_IMAGE:
            raise DeclarationError("ReplicationDisk.image", self.image, "be absent with remote")
        if self.driver != "file":
            raise DeclarationError("ReplicationDisk.driver", self.driver, "be absent with remote")
        if self.aio is not None:
            rule = "be absent with remote: only a file and a block device have it"
            raise DeclarationError("ReplicationDisk.aio", self.aio, rule)

    def _check_node(self, name: str) -> None:
        field = f"ReplicationDisk.nodes.{name}"
        rules.instance_of(DiskOnNode)(field, self.nodes[name])
        try:
            cache = self.on(name).cache
        except DeclarationError as error:
            part = error.field.removeprefix("ReplicationDisk")
            raise DeclarationError(f"{field}{part}", error.value, error.rule) from error
        if (cache in THROUGH) != (self.cache in THROUGH):
            rule = f"not differ from {self.cache} in whether the guest's disk has a write cache"
            raise DeclarationError(f"{field}.cache", cache, rule)

    def on(self, node: str) -> ReplicationDisk:
        """The disk with the values that hold on one node."""
        if node not in self.nodes:
            return self
        changed: Callable[..., ReplicationDisk] = attrs.evolve
        return changed(self, nodes={}, **self.nodes[node].given())

    @property
    def has_options(self) -> bool:
        """Whether the disk, or an image that backs it, has options by QEMU's names."""
        own = bool(self.options or self.file_options)
        return own or any(layer.has_options for layer in self.backing)

    def images(self) -> dict[str, str]:
        """The names of the image and the two overlays, by field name; without a remote image."""
        names = {"active_image": self.active_image, "hidden_image": self.hidden_image}
        return names if self.remote is not None else {"image": self.image, **names}

    def paths(self, node: Node) -> dict[str, str]:
        """The absolute paths of a disk's image and its two overlays on a node.

        Args:
            node: The node.

        Returns:
            The keys `image`, `active_image` and `hidden_image`, each to its path. A remote image
            has no path on the node, and then there is no key `image`.
        """
        here = self.on(node.name)
        return {
            field: node.image_path(name) if field == "image" else node.overlay_path(name)
            for field, name in here.images().items()
        }

    @property
    def is_file(self) -> bool:
        """Whether the image is a file of the node, which pycolo can create."""
        return self.remote is None and self.driver == "file"

    @property
    def secret_files(self) -> tuple[str, ...]:
        """The paths of the files with the secrets of the encryption and of remote storage."""
        remote = None if isinstance(self.remote, Nfs | Nbd | None) else self.remote.secret_file
        return tuple(path for path in (self.secret_file, remote) if path is not None)

    @property
    def stem(self) -> str:
        """The first part of the names of files that belong to the image, such as the record."""
        if self.remote is not None:
            return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(self.remote.place("")))
        if self.driver == "file":
            return posixpath.basename(self.image)
        return self.image.strip("/").replace("/", "-")

    @property
    def names(self) -> DiskIds:
        """QEMU's names for the disk's parts; those of disk 0 for a disk outside a pair."""
        return self.ids or DiskIds.numbered(0)

"""One replicated disk."""

from __future__ import annotations

from typing import Literal, final

import attrs

from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules

SECTOR_BYTES = 512
SIZE_MAX_BYTES = 2**63 - SECTOR_BYTES


@final
@attrs.frozen(kw_only=True)
class DiskIds:
    """QEMU's names for the parts of one disk; the same on every node, whatever its role.

    Take `DiskIds.numbered(n)` and change single names with `attrs.evolve`.
    """

    quorum: str = attrs.field(validator=rules.Valid(rules.block_node_name))
    "The quorum: the node the guest's device sits on."
    parent: str = attrs.field(validator=rules.Valid(rules.block_node_name))
    "The image's node, and the export a secondary offers."
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

    @classmethod
    def numbered(cls, n: int) -> DiskIds:
        """The names of the n-th disk, from 0; those of disk 0 are the document's."""
        return cls(
            quorum=f"colo-disk{n}",
            parent=f"parent{n}",
            replication=f"childs{n}",
            active=f"active{n}",
            hidden=f"hidden{n}",
            nbd=f"nbd{n}",
            primary_replication=f"replication{n}",
            device=f"disk{n}",
        )


@final
@attrs.frozen(kw_only=True)
class ReplicationDisk:
    """A disk that both nodes hold and COLO keeps equal.

    Args:
        size_bytes: Virtual size, a multiple of 512; equal on both nodes (qemu-behaviour 5.2).
        image: File name of the image in each node's image folder.
        image_format: `qcow2` or `raw`.
        active_image: File name of the secondary's active overlay (qcow2).
        hidden_image: File name of the secondary's hidden overlay (qcow2).
        device: QEMU's device model for the guest's disk.
        ids: QEMU's names for its parts; None takes the names of its place in the pair.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    size_bytes: int = attrs.field(validator=rules.Valid(rules.Whole(SECTOR_BYTES, SIZE_MAX_BYTES)))
    image: str = attrs.field(default="primary.qcow2", validator=rules.Valid(rules.text))
    image_format: Literal["qcow2", "raw"] = attrs.field(
        default="qcow2", validator=rules.Valid(rules.one_of("qcow2", "raw"))
    )
    active_image: str = attrs.field(
        default="secondary-active.qcow2", validator=rules.Valid(rules.text)
    )
    hidden_image: str = attrs.field(
        default="secondary-hidden.qcow2", validator=rules.Valid(rules.text)
    )
    device: str = attrs.field(default="ide-hd", validator=rules.Valid(rules.identifier))
    ids: DiskIds | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.instance_of(DiskIds)))
    )

    def __attrs_post_init__(self) -> None:
        if self.size_bytes % SECTOR_BYTES:
            rule = f"be a multiple of {SECTOR_BYTES}"
            raise DeclarationError("ReplicationDisk.size_bytes", self.size_bytes, rule)
        for name, file_name in self.images().items():
            if "/" in file_name:
                rule = "be a file name: the folder is the node's image_folder"
                raise DeclarationError(f"ReplicationDisk.{name}", file_name, rule)
        why = "each image is a file of its own"
        rules.distinct("ReplicationDisk", self.images().items(), why)

    def images(self) -> dict[str, str]:
        """Its three file names, by field."""
        names = {"image": self.image, "active_image": self.active_image}
        return {**names, "hidden_image": self.hidden_image}

    @property
    def names(self) -> DiskIds:
        """QEMU's names for its parts; those of disk 0 for a disk outside a pair."""
        return self.ids or DiskIds.numbered(0)

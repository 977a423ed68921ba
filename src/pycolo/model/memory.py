"""The kind of memory on both hosts from which the guest's RAM is made."""

from __future__ import annotations

from typing import Literal, TypeAlias, final, get_args

import attrs

from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules

MemoryKind: TypeAlias = Literal["ram", "file", "memfd"]
HUGE_PAGES_MIB = (2, 1024)


def _huge_page(field: str, value: object) -> None:
    if not isinstance(value, int) or value not in HUGE_PAGES_MIB:
        raise DeclarationError(field, value, "be 2 or 1024, the sizes of a host's huge pages")


@final
@attrs.frozen(kw_only=True)
class MemoryBackend:
    """QEMU's memory backend for the guest's RAM, equal on both nodes.

    The backend can be changed on one node at a time: the RAM can be copied between any two backends
    of one size (qemu-behaviour 22.4).

    Args:
        kind: `ram` is anonymous memory; `file` is a file of its own, without a name, in `folder`;
            `memfd` is shared memory of the kernel, which needs no folder.
        folder: For `file` only: the absolute path of a folder that exists on both hosts, such as
            the mount point of a hugetlbfs.
        huge_page_size_mib: For `memfd` only: the size in MiB of the host's huge pages that the RAM
            is taken from, 2 or 1024; None for normal pages.
        prealloc: Take all of the RAM from the host when QEMU is launched. QEMU then ends at once
            if the host has too little.
        share: Map the RAM so that other processes could share it.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    kind: MemoryKind = attrs.field(
        default="ram", validator=rules.Valid(rules.one_of(*get_args(MemoryKind)))
    )
    folder: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.absolute_path))
    )
    huge_page_size_mib: int | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(_huge_page))
    )
    prealloc: bool = attrs.field(default=False, validator=rules.Valid(rules.boolean))
    share: bool = attrs.field(default=False, validator=rules.Valid(rules.boolean))

    def __attrs_post_init__(self) -> None:
        if (self.folder is None) == (self.kind == "file"):
            rule = "be given for kind file, and for no other"
            raise DeclarationError("MemoryBackend.folder", self.folder, rule)
        size_mib = self.huge_page_size_mib
        if size_mib is not None and self.kind != "memfd":
            rule = "go with kind memfd: a folder has the pages that its file system has"
            raise DeclarationError("MemoryBackend.huge_page_size_mib", size_mib, rule)

"""What all fakes of a world share: its version, images, cuts, and the writes of its guests."""

from __future__ import annotations

from typing import Final, final

import attrs

from pycolo.errors import HostRefused
from pycolo.model.node import Node
from pycolo.qmp.schema import PackagedVersion
from pycolo.testing._clock import Clock

LAUNCH: Final = "launch-qemu"


@final
@attrs.define(eq=False)
class Image:
    """A disk image on a host: its size, and the numbers of the writes it holds."""

    size_bytes: int
    records: set[int] = attrs.field(factory=set)


@attrs.define(eq=False, repr=False)
class Ground(Clock):
    """A world before any QEMU is launched in it."""

    version: PackagedVersion = "11.1.3"
    ram_copy_s: float = attrs.field(default=0.03, kw_only=True)
    disk_copy_s: float = attrs.field(default=0.2, kw_only=True)
    commit_s: float = attrs.field(default=0.2, kw_only=True)
    acknowledged: set[int] = attrs.field(factory=set, init=False)
    "The numbers of the writes that some client was told over IPv4 are done."
    acknowledged_over_ipv6: set[int] = attrs.field(factory=set, init=False)
    "The same over IPv6, which COLO does not hold back: they may be lost (qemu-behaviour 17.2)."
    written: set[int] = attrs.field(factory=set, init=False)
    "The numbers of all writes that guests were told to make."
    cuts: set[frozenset[str]] = attrs.field(factory=set, init=False)
    "The pairs of nodes between whose hosts every packet is lost."
    _images: dict[tuple[str, str], Image] = attrs.field(factory=dict, init=False)

    def carries(self, first: str, second: str) -> bool:
        """Whether packets go between two nodes' hosts."""
        return frozenset((first, second)) not in self.cuts

    def create_image(self, node: Node, path: str, size_bytes: int) -> None:
        """Put an empty image on a node's host; one that is there stays as it is.

        Args:
            node: The node.
            path: The image's path.
            size_bytes: Its virtual size.

        Raises:
            HostRefused: One of another size is there.
        """
        found = self._images.setdefault((node.name, path), Image(size_bytes=size_bytes))
        if found.size_bytes != size_bytes:
            why = f"{path} exists with {found.size_bytes} bytes, declared are {size_bytes}"
            raise HostRefused(node.name, "create-image", why)

    def image(self, node: Node, path: str) -> Image:
        """An image on a node's host.

        Raises:
            HostRefused: There is no such image.
        """
        found = self._images.get((node.name, path))
        if found is None:
            why = f"Could not open '{path}': No such file or directory"
            raise HostRefused(node.name, LAUNCH, why)
        return found

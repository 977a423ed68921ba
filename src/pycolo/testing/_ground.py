"""What all fakes of a world share: the version, images, network cuts, and the guests' writes."""

from __future__ import annotations

from typing import Final, final, get_args

import attrs

from pycolo.errors import HostRefused
from pycolo.model import _rules as rules
from pycolo.model.node import Node
from pycolo.qmp.schema import PackagedVersion
from pycolo.testing._clock import Clock

LAUNCH: Final = "launch-qemu"


@final
@attrs.define(eq=False)
class Image:
    """A disk image on a host: its virtual size, and the numbers of the writes it holds."""

    size_bytes: int
    records: set[int] = attrs.field(factory=set)


@attrs.define(eq=False, repr=False)
class Ground(Clock):
    """A world without QEMUs; the base of `Fleet`."""

    version: PackagedVersion = attrs.field(
        default="11.1.3", validator=rules.Valid(rules.one_of(*get_args(PackagedVersion)))
    )
    ram_copy_s: float = attrs.field(default=0.03, kw_only=True)
    disk_copy_s: float = attrs.field(default=0.2, kw_only=True)
    commit_s: float = attrs.field(default=0.2, kw_only=True)
    acknowledged: set[int] = attrs.field(factory=set, init=False)
    "The numbers of the writes that were acknowledged to a client over IPv4."
    acknowledged_over_ipv6: set[int] = attrs.field(factory=set, init=False)
    "Those over IPv6, which COLO does not hold back: they may be lost (qemu-behaviour 17.2)."
    written: set[int] = attrs.field(factory=set, init=False)
    "The numbers of all writes that `guest_write` began."
    cuts: set[frozenset[str]] = attrs.field(factory=set, init=False)
    "Each pair of node names between whose hosts every packet is lost."
    _images: dict[tuple[str, str], Image] = attrs.field(factory=dict, init=False)

    def carries(self, first: str, second: str) -> bool:
        """Whether packets go between two nodes' hosts."""
        return frozenset((first, second)) not in self.cuts

    def create_image(self, node: Node, path: str, size_bytes: int) -> None:
        """Make an empty image on a node's host; an existing image of this size stays as it is.

        Args:
            node: The node.
            path: The image's path.
            size_bytes: The image's virtual size.

        Raises:
            HostRefused: An image of another size exists at this path.
        """
        found = self._images.setdefault((node.name, path), Image(size_bytes=size_bytes))
        if found.size_bytes != size_bytes:
            why = f"{path} exists with {found.size_bytes} bytes, declared are {size_bytes}"
            raise HostRefused(node.name, "create-image", why)

    def image(self, node: Node, path: str) -> Image:
        """Return the image at a path on a node's host.

        Raises:
            HostRefused: There is no image at this path.
        """
        found = self._images.get((node.name, path))
        if found is None:
            why = f"Could not open '{path}': No such file or directory"
            raise HostRefused(node.name, LAUNCH, why)
        return found

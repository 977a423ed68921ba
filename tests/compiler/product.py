"""Disks, cards, wires and dialects in every combination; run as a script, it writes the plans.

The golden file has a line for each shape: how many steps each procedure has, and a digest of what
these steps and their recoveries do. Words for people are not part of it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, TypeAlias, final

import attrs
from tests.compiler.cases import (
    CERTIFICATES,
    GOLDEN,
    VERSIONS,
    Case,
    compiled,
    lines_of,
    one_of_each,
)
from typing_extensions import override

from pycolo.model import ColoPair, FilterChain, Netdev, Psk, ReplicationDisk, Tls
from pycolo.plan import DialectName, Plan

Wire: TypeAlias = Literal["tcp", "x509", "psk"]
FILE: Final = GOLDEN / "product.txt"
PROCEDURES: Final[tuple[Case, ...]] = (
    ("launch", None),
    ("start", None),
    ("failover", "alpha"),
    ("failover", "beta"),
    ("resume", "alpha"),
    ("resume", "beta"),
)
# Between the hosts; `auto` has Unix sockets inside the primary, where `doc` has TCP again.
WIRES: Final[Mapping[Wire, Tls | None]] = {
    "tcp": None,
    "x509": CERTIFICATES,
    "psk": Psk(folder="/etc/pycolo/tls", username="vm0"),
}
MODELS: Final = ("rtl8139", "virtio-net-pci", "e1000e")


@final
@attrs.frozen
class Block:
    """The lines of one dialect, version and wire."""

    dialect: DialectName
    version: str
    wire: Wire

    @override
    def __str__(self) -> str:
        return f"{self.dialect} {self.version} {self.wire}"


# The document does not say how to encrypt, so `doc` refuses to.
BLOCKS: Final = (
    *(Block("auto", version, wire) for version in VERSIONS for wire in WIRES),
    *(Block("doc", version, "tcp") for version in VERSIONS),
)


def shape(disks: int, cards: int, wire: Wire) -> ColoPair:
    """A pair with so many disks and cards, no two alike."""
    return attrs.evolve(
        one_of_each(),
        disks=[
            ReplicationDisk(
                size_bytes=(n + 1) * 2**30,
                image=f"disk{n}.qcow2",
                active_image=f"active{n}.qcow2",
                hidden_image=f"hidden{n}.qcow2",
            )
            for n in range(disks)
        ],
        chains=[
            FilterChain(netdev=Netdev(type="tap", options={"ifname": f"vm{n}"}), model=MODELS[n])
            for n in range(cards)
        ],
        tls=WIRES[wire],
    )


def plans(block: Block) -> Iterator[tuple[str, list[Plan]]]:
    """What each shape of a block is called, and its plans in the order of `PROCEDURES`."""
    for disks, cards in itertools.product(range(1, 4), range(4)):
        pair = shape(disks, cards, block.wire)
        made = [compiled(case, pair, block.version, block.dialect) for case in PROCEDURES]
        yield f"{block} {disks} disks {cards} cards", made


def line(name: str, made: Iterable[Plan]) -> str:
    """The golden line of a shape."""
    digest, counts = hashlib.sha256(), []
    for plan in made:
        counts.append(str(len(plan.steps)))
        digest.update("\n".join(lines_of(plan)).encode())
    return f"{name}: {' '.join(counts)} steps, {digest.hexdigest()[:16]}"


if __name__ == "__main__":
    written = (line(*one) for block in BLOCKS for one in plans(block))
    FILE.write_text("".join(f"{one}\n" for one in written))

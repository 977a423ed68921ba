"""The differences between a live pair and its declaration, as values."""

from __future__ import annotations

from typing import Literal, TypeAlias, final

import attrs

Kind: TypeAlias = Literal[
    "node",
    "block node",
    "cache",
    "limit",
    "child",
    "export",
    "job",
    "chardev",
    "object",
    "setting",
    "parameter",
]


@final
@attrs.frozen(kw_only=True)
class Difference:
    """One part that is not as declared."""

    node: str
    "The node that has the part, or should have it."
    kind: Kind
    "The kind of the part."
    owner: str | None = None
    "What it belongs to: the quorum of a child or a limit, the object of a setting; else None."
    name: str
    "The part's name, such as a block node's, or QEMU's name of a setting."
    declared: str | None
    "The declared value; None if the part is not declared."
    live: str | None
    "The value that the node shows; None if the node does not have the part."

    @property
    def label(self) -> str:
        """The part's name in messages, `OWNER.NAME`, or the name alone if it has no owner."""
        return self.name if self.owner is None else f"{self.owner}.{self.name}"


@final
@attrs.frozen(kw_only=True)
class Drift:
    """All differences, each in one of three lists; false if there is none."""

    missing: tuple[Difference, ...] = ()
    "Parts that are declared and do not exist."
    stray: tuple[Difference, ...] = ()
    "Parts that exist and are not declared."
    changed: tuple[Difference, ...] = ()
    "Parts that exist and differ from their declaration."

    def __bool__(self) -> bool:
        return bool(self.missing or self.stray or self.changed)

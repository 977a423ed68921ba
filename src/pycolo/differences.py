"""How a live pair differs from its declaration, as values."""

from __future__ import annotations

from typing import Literal, TypeAlias, final

import attrs

Kind: TypeAlias = Literal[
    "node", "block node", "child", "export", "job", "chardev", "object", "setting", "parameter"
]


@final
@attrs.frozen(kw_only=True)
class Difference:
    """One part that is not as declared."""

    node: str
    "The node."
    kind: Kind
    "What kind of part it is."
    owner: str | None = None
    "What it is a part of: the quorum of a child, the object of a setting; None for all others."
    name: str
    "Its own name, such as a block node's, or QEMU's name of a setting."
    declared: str | None
    "What the declaration asks for; None if it declares no such part."
    live: str | None
    "What the node shows; None if the part is not there."

    @property
    def label(self) -> str:
        """Its name in messages, after its owner's and a dot if it has one."""
        return self.name if self.owner is None else f"{self.owner}.{self.name}"


@final
@attrs.frozen(kw_only=True)
class Drift:
    """All differences, each in one of three lists; false if there is none."""

    missing: tuple[Difference, ...] = ()
    "Declared and not there."
    stray: tuple[Difference, ...] = ()
    "There and not declared."
    changed: tuple[Difference, ...] = ()
    "There, and not as declared."

    def __bool__(self) -> bool:
        return bool(self.missing or self.stray or self.changed)

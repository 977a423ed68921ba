"""The limits by which a supervisor tells a fault from a slow moment."""

from __future__ import annotations

from typing import Final, final

import attrs

from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules

# A host frees a lease late, never early; a second more than the fuse keeps the two apart.
LEASE_MARGIN_S: Final = 1.0


@final
@attrs.frozen(kw_only=True)
class Supervision:
    """How soon a supervisor acts; times in seconds, each greater than 0.

    A wrong suspicion costs redundancy, never data: nobody continues alone before the other QEMU is
    shown to have ended.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    silent_s: float = attrs.field(default=0.5, validator=rules.Valid(rules.seconds))
    "A QEMU that answers neither in nor out of band for so long is suspected."
    stuck_s: float = attrs.field(default=1.0, validator=rules.Valid(rules.seconds))
    "A QEMU whose main loop is silent for so long, plus 1 s for each GiB of RAM, is suspected."
    entry_s: float = attrs.field(default=10.0, validator=rules.Valid(rules.seconds))
    "Added to `stuck_s` and `no_checkpoint_s` until the second checkpoint: the first moves all RAM."
    no_checkpoint_s: float | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.seconds))
    )
    "No checkpoint for so long is a suspicion; None: 3 checkpoint delays, or 1 and 5 s if longer."
    primary_s: float = attrs.field(default=0.5, validator=rules.Valid(rules.seconds))
    "How long a suspicion stands before the primary acts on it."
    secondary_s: float = attrs.field(default=1.0, validator=rules.Valid(rules.seconds))
    "The same for the secondary; longer, since less is lost if the primary acts first."
    retake_s: float = attrs.field(default=10.0, validator=rules.Valid(rules.seconds))
    "The other node's claim may be taken over after it has led to nothing for so long."
    fuse_s: float = attrs.field(default=2.0, validator=rules.Valid(rules.seconds))
    "Agents: a fuse stops a primary after so long with neither a checkpoint nor a lease renewed."
    kill_s: float = attrs.field(default=10.0, validator=rules.Valid(rules.seconds))
    "Agents: a primary that its fuse has stopped is killed after so long."
    retry_s: float = attrs.field(default=1.0, validator=rules.Valid(rules.seconds))
    "How long to wait after a launch or a resync that failed; doubled each time, up to a minute."
    tries_per_hour: int = attrs.field(default=5, validator=rules.Valid(rules.Whole(1, 1000)))
    "How many launches and resyncs may fail within an hour before a person is needed."

    def __attrs_post_init__(self) -> None:
        if self.secondary_s <= self.primary_s:
            rule = f"be longer than primary_s ({self.primary_s:g}), or both sides act at once"
            raise DeclarationError("Supervision.secondary_s", self.secondary_s, rule)

    @property
    def lease_s(self) -> float:
        """How long a node's lease lasts, which is longer than its fuse."""
        return self.fuse_s + LEASE_MARGIN_S

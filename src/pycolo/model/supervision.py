"""The limits by which a supervisor distinguishes a fault from a slow moment."""

from __future__ import annotations

from typing import Final, final

import attrs

from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules

# An arbiter may free a lease late, never early. A second more than the fuse makes sure that the
# fuse acts first.
LEASE_MARGIN_S: Final = 1.0


@final
@attrs.frozen(kw_only=True)
class Supervision:
    """How soon a supervisor acts; times in seconds, each greater than 0.

    A wrong suspicion costs redundancy, never data: no node continues alone before there is evidence
    that the other QEMU has ended.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    silent_s: float = attrs.field(default=0.5, validator=rules.Valid(rules.seconds))
    """A QEMU that answers neither in nor out of band for so long is suspected. A healthy one
    answers out of band within milliseconds, even inside a checkpoint, so that only an overloaded
    host takes longer."""
    stuck_s: float = attrs.field(default=1.0, validator=rules.Valid(rules.seconds))
    """A QEMU whose main loop is silent for so long, plus 1 s for each GiB of RAM, is suspected. The
    main loop is silent for as long as a checkpoint pauses the guest, and the longest pauses grow
    with the RAM."""
    entry_s: float = attrs.field(default=10.0, validator=rules.Valid(rules.seconds))
    """Added to `stuck_s` and `no_checkpoint_s` until the second checkpoint, because the first one
    copies all RAM. Until then 1 s for each GiB of RAM is added to `no_checkpoint_s` as well."""
    no_checkpoint_s: float | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.seconds))
    )
    """How long without a checkpoint is a suspicion; longer than the pair's checkpoint delay. None
    for 3 checkpoint delays, or one checkpoint delay plus 5 s if that is longer."""
    primary_s: float = attrs.field(default=0.5, validator=rules.Valid(rules.seconds))
    """How long a suspicion must last before the primary acts on it. Meanwhile a checkpoint is
    forced, and one that ends takes the suspicion back."""
    secondary_s: float = attrs.field(default=1.0, validator=rules.Valid(rules.seconds))
    """How long a suspicion must last before the secondary acts on it. It must be longer than
    `primary_s`, because less is lost if the primary acts first."""
    retake_s: float = attrs.field(default=10.0, validator=rules.Valid(rules.seconds))
    """How long the other node's claim may stay without effect before this node may take it over:
    usually a claim has its effect within a lease and the time of a fence. It must not be longer
    than `kill_s`: the claim keeps the fuse of a primary from being renewed, and a primary that the
    fuse has killed can take nothing over."""
    fuse_s: float = attrs.field(default=2.0, validator=rules.Valid(rules.seconds))
    """With agents, a fuse stops a primary after so long with no checkpoint and no renewed lease. An
    etcd that lost its leader takes one to two seconds to answer again. The other node waits a
    second longer than this before it continues."""
    kill_s: float = attrs.field(default=10.0, validator=rules.Valid(rules.seconds))
    """With agents, a primary that its fuse has stopped is killed after so long. Until then the stop
    can be undone, if the arbiter answers again or the other node's claim is taken over."""
    retry_s: float = attrs.field(default=1.0, validator=rules.Valid(rules.seconds))
    """How long to wait after a launch or a resync that failed, because each try costs the guest a
    pause; doubled each time, up to a minute."""
    tries_per_hour: int = attrs.field(default=5, validator=rules.Valid(rules.Whole(1, 1000)))
    """How many launches and resyncs may fail within an hour before a person is needed: a fault that
    has outlived so many tries needs a repair."""

    def __attrs_post_init__(self) -> None:
        if self.secondary_s <= self.primary_s:
            rule = f"be longer than primary_s ({self.primary_s:g}), or both sides act at once"
            raise DeclarationError("Supervision.secondary_s", self.secondary_s, rule)
        if self.retake_s > self.kill_s:
            # The fuse stops the primary `fuse_s` after its last renewal, so that equal limits do.
            rule = f"not be longer than kill_s ({self.kill_s:g}), or a primary is killed before"
            rule = f"{rule} it takes over a claim that leads to nothing"
            raise DeclarationError("Supervision.retake_s", self.retake_s, rule)

    @property
    def lease_s(self) -> float:
        """How long a node's lease lasts, in seconds; longer than `fuse_s`."""
        return self.fuse_s + LEASE_MARGIN_S

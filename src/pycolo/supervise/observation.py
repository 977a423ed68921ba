"""What one node's supervisor knows at a moment, and since when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, final, get_args

import attrs

from pycolo._mapping import read_only_mappings
from pycolo.evidence import Evidence
from pycolo.model.supervision import Supervision

Qemu: TypeAlias = Literal["none", "joining", "colo", "alone"]
"""A node's QEMU: none runs, it waits as a new secondary, it is in COLO, or it has the guest alone.

One that does not answer stays what it was.
"""

Signal: TypeAlias = Literal["hung-up", "colo-exit", "silent", "stuck", "no-checkpoint"]
"""What may mean that the peer has ended:

`hung-up`: its monitor closed the connection. `colo-exit`: COLO has ended on this node.
`silent`: it answers neither in nor out of band. `stuck`: it answers out of band alone.
`no-checkpoint`: the last checkpoint was long ago.
"""
SIGNALS: Final[tuple[Signal, ...]] = get_args(Signal)
_ACTS_S: Final = 1.0
"How long a claim may take, from what is seen until it is written."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Observation:
    """What a node's supervisor knows; times are seconds of its own monotonic clock."""

    qemu: Qemu
    "The node's own QEMU."
    instance: str = ""
    "Its identity, `PAIR:NODE:HEX`; of no meaning if none runs."
    signals: Mapping[Signal, float] = attrs.field(factory=dict)
    "What may mean that the peer has ended, and since when it stands."
    silent: bool = False
    "Its own QEMU does not even answer out of band, as one that its fuse has stopped."
    stuck_since_s: float | None = None
    "Since when its own main loop has been silent, while it answers out of band; None for not."
    evidence: Evidence | None = None
    "What shows that the peer's QEMU has ended; it counts only about the QEMU the record means."
    arbiter_lost: bool = False
    "The record can neither be read nor written."
    claim_since_s: float | None = None
    "When the other node's claim was first seen; None for no such claim."
    lease_gone: bool = False
    "The arbiter has deleted the peer's lease."
    cut_since_s: float | None = None
    "When this node cut its own side of COLO, so that no checkpoint can end; None if it has not."
    shutdown: bool = False
    "The guest shut itself down, or panicked, on this node."
    peer_shutdown: bool = False
    "It did so on the other node, and not on this one: the two have diverged."
    replication_lost: bool = False
    "The secondary no longer gets this primary's writes."
    disk_failed: bool = False
    "A disk of this primary's own refused a write that its secondary has."


@final
@attrs.frozen(kw_only=True)
class Limits:
    """The limits of one pair at a moment; see `Supervision`."""

    declared: Supervision
    "What the pair file says."
    checkpoint_delay_s: float
    "The longest time between two checkpoints."
    ram_gib: float
    "The guest's RAM."
    entering: bool = False
    "The second checkpoint since the pair entered COLO has not been seen yet."

    def stands_s(self, signal: Signal) -> float:
        """How long a signal must stand before it is a suspicion."""
        stuck_s = self.declared.stuck_s + self.ram_gib
        if self.entering:
            stuck_s += self.declared.entry_s
        match signal:
            case "hung-up" | "colo-exit":
                return 0.0
            case "silent":
                return self.declared.silent_s
            case "stuck":
                return stuck_s
            case "no-checkpoint":
                delay_s = self.checkpoint_delay_s
                longest_s = max(3 * delay_s, delay_s + 5.0)
                return (self.declared.no_checkpoint_s or longest_s) + (
                    self.declared.entry_s + self.ram_gib if self.entering else 0.0
                )

    @property
    def yields_s(self) -> float:
        """How long a node whose own main loop is silent leaves the pair to the other one.

        The other one acts on it within that time, unless it cannot.
        """
        return self.stands_s("stuck") + self.declared.secondary_s + _ACTS_S

    def acts_s(self, *, holds: bool) -> float:
        """How long a suspicion must stand before this side acts on it."""
        return self.declared.primary_s if holds else self.declared.secondary_s

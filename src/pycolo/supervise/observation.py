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

A QEMU that does not answer keeps the value that it had.
"""

Signal: TypeAlias = Literal["hung-up", "colo-exit", "silent", "stuck", "no-checkpoint"]
"""A sign that the peer may have ended:

`hung-up`: the peer's monitor closed the connection. `colo-exit`: COLO has ended on a node.
`silent`: the peer answers neither in nor out of band. `stuck`: it answers out of band only, or
accepts connections and sends no greeting. `no-checkpoint`: the last checkpoint was long ago.
"""
SIGNALS: Final[tuple[Signal, ...]] = get_args(Signal)
_ACTS_S: Final = 1.0
"How long a claim may take, from the observation until it is written, in seconds."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Observation:
    """What a node's supervisor knows; times are seconds of its own monotonic clock."""

    qemu: Qemu
    "The node's own QEMU."
    instance: str = ""
    "The identity of that QEMU, `PAIR:NODE:HEX`; of no meaning if none runs."
    signals: Mapping[Signal, float] = attrs.field(factory=dict)
    "Each sign that the peer may have ended, to the time since when there is one."
    silent: bool = False
    "The node's own QEMU does not answer out of band either, as one that its fuse has stopped."
    stuck_since_s: float | None = None
    "Since when the main loop of that QEMU is silent while it answers out of band; None if not."
    evidence: Evidence | None = None
    "What shows that the peer's QEMU has ended; it counts only if the record names that QEMU."
    arbiter_lost: bool = False
    "The record can neither be read nor written."
    claim_since_s: float | None = None
    "When the other node's claim was first seen; None if the other node has no claim."
    lease_gone: bool = False
    "The arbiter holds no lease of the peer."
    cut_since_s: float | None = None
    "When this node cut its own side of COLO, so that no checkpoint can end; None if it has not."
    shutdown: bool = False
    "The guest shut itself down, or panicked, on this node."
    peer_shutdown: bool = False
    "The guest did so on the other node, and not on this one: the two have diverged."
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
    "The longest time between two checkpoints, in seconds."
    ram_gib: float
    "The size of the guest's RAM, in GiB."
    entering: bool = False
    "The second checkpoint since the pair entered COLO has not been seen yet."

    def stands_s(self, signal: Signal) -> float:
        """How long a signal must last before it is a suspicion, in seconds."""
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
        """How long a node whose own main loop is silent lets the other node act first, in seconds.

        The other node acts on that silence within this time, unless it cannot.
        """
        return self.stands_s("stuck") + self.declared.secondary_s + _ACTS_S

    def acts_s(self, *, holds: bool) -> float:
        """How long a suspicion must last before a node acts on it, in seconds.

        Args:
            holds: Whether the node is the holder, which is COLO's primary.
        """
        return self.declared.primary_s if holds else self.declared.secondary_s

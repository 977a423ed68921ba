"""What the supervisors of a pair share: its record, who claims it, and what is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, final

import attrs

from pycolo._mapping import read_only_mappings
from pycolo.model.supervision import LEASE_MARGIN_S, Supervision
from pycolo.reconcile import Want
from pycolo.record import PairRecord


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class SharedRecord:
    """The record of a pair as an arbiter holds it; a compare-and-swap replaces it as a whole."""

    record: PairRecord
    "Who has the newest data, and who may run alone."
    claimed_by: str | None = None
    "The node that is about to run alone and searches for evidence about its peer; None for none."
    want: Want = "protected"
    "What is wanted of the pair."
    paused: str | None = None
    "Who paused the supervision, when and why, so that agents only observe; None if nobody did."
    fuses: Mapping[str, float] = attrs.field(factory=dict)
    """Node whose fuse is armed to the seconds after which it stops the node's QEMU by itself.

    The seconds are those with which it was armed, whatever a pair file says since.
    """
    # Left out of the text if None, so that agents of earlier versions read the record.
    released: Literal["to-files", "wanted-back"] | None = attrs.field(
        default=None, metadata={"sparse": True}
    )
    """Whether the nodes' files count instead of this record, since the pair was released to them.

    `to-files`: agents only observe. `wanted-back`: the holder's agent is to adopt the files again.
    None: this record counts.
    """
    # Left out of the text if None, as above.
    moves_to: str | None = attrs.field(default=None, metadata={"sparse": True})
    "The spare on which the next secondary is to be launched; None for any node."

    def may_renew(self, node: str, instance: str) -> bool:
        """Whether a lease may be renewed: its QEMU may run alone, and no other node has a claim.

        Args:
            node: The node whose lease it is.
            instance: The identity of the node's QEMU.
        """
        return self.record.eligible.get(node) == instance and self.claimed_by in (None, node)

    def lease_s(self, node: str, declared: Supervision) -> float:
        """How long a node's lease lasts, in seconds: longer than its fuse waits.

        Args:
            node: The node.
            declared: The limits in the pair file.
        """
        return max(declared.lease_s, self.fuses.get(node, 0.0) + LEASE_MARGIN_S)

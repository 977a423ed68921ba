"""How the RAM is copied to a new secondary."""

from __future__ import annotations

from typing import final

import attrs

from pycolo.model import _rules as rules

# QEMU's own values: nothing is sent where nothing else is declared.
BANDWIDTH_BYTES_PER_S = 128 * 2**20
DOWNTIME_LIMIT_MS = 300
MULTIFD_CHANNELS = 2


@final
@attrs.frozen(kw_only=True)
class Migration:
    """The limits of the RAM's copy, which each start and resume makes.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    max_bandwidth_bytes_per_s: int = attrs.field(
        default=BANDWIDTH_BYTES_PER_S, validator=rules.Valid(rules.Whole(0, 2**63 - 1))
    )
    """How fast the RAM is copied at most, in bytes per second; 0 for no limit. It does not hold for
    checkpoints. Where the guest is paused during the copy, it decides for how long
    (qemu-behaviour 22.1)."""
    downtime_limit_ms: int = attrs.field(
        default=DOWNTIME_LIMIT_MS, validator=rules.Valid(rules.Whole(0, 2_000_000))
    )
    """The copy of a running guest ends with a pause once QEMU expects what is left to take no
    longer than this, in ms, 0 to 2000000."""
    multifd_channels: int | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.Whole(0, 255)))
    )
    """Over how many further connections the RAM is sent, 1 to 255, which needs QEMU 11.0; 0 for
    none; None: 2 from QEMU 11.0 on, and none before (qemu-behaviour 22.2)."""

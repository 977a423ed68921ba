"""How the RAM is copied to a new secondary."""

from __future__ import annotations

from typing import final

import attrs

from pycolo.model import _rules as rules

# QEMU's own defaults: if a declaration has these values, nothing is sent.
BANDWIDTH_BYTES_PER_S = 128 * 2**20
DOWNTIME_LIMIT_MS = 300
MULTIFD_CHANNELS = 2


@final
@attrs.frozen(kw_only=True)
class Migration:
    """The limits and the number of connections of the RAM's copy, at each start and resume.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    max_bandwidth_bytes_per_s: int = attrs.field(
        default=BANDWIDTH_BYTES_PER_S, validator=rules.Valid(rules.Whole(0, 2**63 - 1))
    )
    """The highest rate of the RAM's copy, in bytes per second, 0 to 2**63 - 1; 0 for no limit. It
    does not limit checkpoints. If the guest is paused during the copy, the rate decides how long
    the pause is (qemu-behaviour 22.1)."""
    downtime_limit_ms: int = attrs.field(
        default=DOWNTIME_LIMIT_MS, validator=rules.Valid(rules.Whole(0, 2_000_000))
    )
    """The longest expected pause at the end of the RAM's copy, in ms, 0 to 2000000. QEMU pauses the
    guest once it expects to copy the rest within this time."""
    multifd_channels: int | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.Whole(0, 255)))
    )
    """The number of further connections over which the RAM is sent, 0 to 255, of which 1 and more
    need QEMU 11.0. None for 2 from QEMU 11.0 on, and 0 before (qemu-behaviour 22.2)."""

"""Since when a pair waits for what may never come, so that a person is asked after a while."""

from __future__ import annotations

from typing import Literal, TypeAlias, final

Awaited: TypeAlias = Literal["other", "host", "evidence"]
"""What is waited for:

`other`: another program or a QEMU, before a node can do what it decided. `host`: a host on which a
secondary could be launched. `evidence`: that a QEMU has ended, while no search has found any.
"""


@final
class Waits:
    """How long a pair has waited for each thing; times are seconds of one clock."""

    def __init__(self) -> None:
        self._since_s: dict[tuple[Awaited, str], float] = {}

    def waited_s(self, what: Awaited, now_s: float, *, node: str = "") -> float:
        """How long something has been waited for, in seconds; 0 if the wait begins now.

        Args:
            what: What is waited for.
            now_s: Now.
            node: The node that waits; empty for the pair.
        """
        return now_s - self._since_s.setdefault((what, node), now_s)

    def end(self, what: Awaited, *, node: str = "") -> None:
        """Forget a wait, if there is one, so that the next one begins anew."""
        self._since_s.pop((what, node), None)

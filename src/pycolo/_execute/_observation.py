"""Whether a condition is true of an observation, and the observed state in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import attrs

from pycolo import conditions as c
from pycolo.evidence import Victim
from pycolo.snapshot import Dead, Live, Running, Snapshot, Unresponsive


@final
@attrs.frozen(kw_only=True)
class Observation:
    """The answers of the nodes at one moment; they suffice for the conditions asked about."""

    snapshot: Snapshot
    "The nodes; one that did not answer is `Unreachable`, or `Unresponsive` if its session is open."
    gone: frozenset[str] = frozenset()
    "Nodes whose session is closed or missing; a node that only gives no answer is not among them."
    powered_off: frozenset[str] = frozenset()
    "Nodes whose QEMU said that its guest has powered itself off."
    dead: frozenset[Victim] = frozenset()
    "QEMUs for whose end there is evidence."
    running: Mapping[str, Running] = attrs.field(factory=dict)
    """Node name to the QEMU that is known to run there.

    Only nodes of `PeerDead` and `NotRunning` conditions are asked about.
    """

    @property
    def stuck(self) -> tuple[str, ...]:
        """Nodes that are connected and did not answer."""
        nodes = self.snapshot.nodes.items()
        return tuple(name for name, state in nodes if isinstance(state, Unresponsive))

    def holds(self, condition: c.Condition) -> bool:
        """Whether the condition is true.

        If a node did not answer, every leaf about it is false except `Gone`, `PoweredOff`,
        `PeerDead` and `NotRunning`.
        """
        return c.evaluate(condition, self._true)

    def _true(self, leaf: c.Leaf) -> bool:
        match leaf:
            case c.Gone(node=node):
                return node in self.gone
            case c.PoweredOff(node=node):
                return node in self.powered_off
            case c.PeerDead(victim=victim):
                return victim in self.dead
            case c.NotRunning(node=node):
                return self.snapshot.live(node) is None and node not in self.running
            case _:
                live = self.snapshot.live(leaf.node)
                return live is not None and leaf.holds(live)

    def missing(self, condition: c.Condition) -> str:
        """The leaves that are not true, each with the state that was observed instead."""
        return ", ".join(
            f"{leaf.words()} ({self._seen(leaf)})"
            for leaf in c.leaves(condition)
            if not self.holds(leaf)
        )

    def present(self, condition: c.Condition) -> str:
        """The leaves that are true; a migration's with QEMU's error message, if there is one."""
        found = (leaf for leaf in c.leaves(condition) if self.holds(leaf))
        return ", ".join(f"{leaf.words()}{self._reason(leaf)}" for leaf in found)

    def _reason(self, leaf: c.Leaf) -> str:
        """The error message of a migration condition's migration, in brackets; empty if none."""
        live = self.snapshot.live(leaf.node)
        if not isinstance(leaf, c.MigrationIs) or live is None or live.migration_error is None:
            return ""
        return f" ({live.migration_error})"

    def _seen(self, leaf: c.Leaf) -> str:
        """The observed state of a leaf's node as a clause, for a leaf that is not true."""
        match self.snapshot.state(leaf.node):
            case _ if leaf.node in self.running:
                found = self.running[leaf.node]
                return f"{found.instance or 'one'} runs: {found.how}"
            case _ if isinstance(leaf, c.PeerDead):
                return c.NO_EVIDENCE
            case Live() as live:
                return leaf.seen(live)
            case Dead():
                return "it is dead"
            case other:
                return getattr(other, "why", "it is absent")

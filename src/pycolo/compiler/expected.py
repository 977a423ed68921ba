"""The state that a pair should have in its roles: that of a plan compiled offline."""

from __future__ import annotations

import attrs

from pycolo.compiler._assumed import AssumedLife
from pycolo.model.pair import ColoPair
from pycolo.snapshot import Live, Snapshot, role_of

SECONDARIES = ("secondary", "broken secondary", "fresh secondary", "prepared secondary")


def expected(pair: ColoPair, snapshot: Snapshot) -> Snapshot:
    """The state that the declaration asks of both nodes, given their roles and history.

    A node that was promoted keeps its rewriter and its replication node until its QEMU ends
    (qemu-behaviour 5.14, 6.3). These parts show that it was promoted.

    Args:
        pair: The declaration.
        snapshot: What both nodes show.

    Returns:
        The expected state; without any node if no primary answers.
    """
    live = {n.name: s for n in pair.nodes if (s := snapshot.live(n.name)) is not None}
    if not live:
        return Snapshot(nodes={})
    primary = next(
        (name for name, state in live.items() if role_of(state) not in SECONDARIES), None
    )
    if primary is None:
        return Snapshot(nodes={})
    version = live[primary].version
    promoted = _was_promoted(pair, live[primary])
    ordered = _with_first(pair, pair.peer_of(primary).name if promoted else primary)
    life = AssumedLife(ordered, version, "auto", (version,), None)
    return life.resume(primary, None, None).planned_state if promoted else life.started()


def _was_promoted(pair: ColoPair, live: Live) -> bool:
    """Whether a node has parts that only a former secondary has."""
    chains = any(chain.names.rewriter in live.objects for chain in pair.chains)
    return chains or any(disk.names.replication in live.block_nodes for disk in pair.disks)


def _with_first(pair: ColoPair, first: str) -> ColoPair:
    """The pair with the given node as its first one."""
    if pair.nodes[0].name == first:
        return pair
    return attrs.evolve(pair, nodes=(pair.nodes[1], pair.nodes[0]))

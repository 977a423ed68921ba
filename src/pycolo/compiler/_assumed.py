"""Procedures of a pair compiled offline, each from the planned state of the one before."""

from __future__ import annotations

from typing import final

from pycolo import record
from pycolo.compiler.procedures import failover, launch, resume, start
from pycolo.errors import compile_error
from pycolo.evidence import Evidence
from pycolo.model.pair import ColoPair
from pycolo.plan import DialectName, Plan
from pycolo.qmp.replies import Version
from pycolo.record import NoRecord
from pycolo.snapshot import Absent, Dead, Snapshot


def new_pair(pair: ColoPair) -> Snapshot:
    """The snapshot of a pair that was never launched: no QEMU and no record on any node."""
    nodes = pair.all_nodes
    return Snapshot(
        nodes={node.name: Absent() for node in pair.nodes},
        records={node.name: NoRecord() for node in nodes},
    )


@final
class AssumedLife:
    """The procedures of one pair, compiled as if every plan before had been executed."""

    def __init__(
        self,
        pair: ColoPair,
        version: Version,
        dialect: DialectName,
        assume_good: tuple[Version, ...],
        evidence: Evidence | None,
    ) -> None:
        self._pair = pair
        self._version = version
        self._dialect = dialect
        self._assume_good = assume_good
        self._evidence = evidence

    def launch(
        self, known: Snapshot, nodes: tuple[str, ...] = (), newest: str | None = None
    ) -> Plan:
        """The plan that launches nodes, from a snapshot.

        Args:
            known: The snapshot.
            nodes: The nodes; both if empty.
            newest: The node that holds the newest data by an operator's statement.
        """
        names = self._pair.names
        return launch(
            self._pair,
            known,
            qemu=dict.fromkeys(names, self._version),
            nodes=nodes,
            newest=newest,
            dialect=self._dialect,
            assume_good=self._assume_good,
        )

    def launched(self) -> Snapshot:
        """The snapshot of a new pair whose QEMUs were both just launched."""
        return self.launch(new_pair(self._pair)).planned_state

    def started(self) -> Snapshot:
        """The snapshot of a new pair that is protected."""
        plan = start(
            self._pair, self.launched(), dialect=self._dialect, assume_good=self._assume_good
        )
        return plan.planned_state

    def failover(self, survivor: str, known: Snapshot | None) -> Plan:
        """The plan by which one node continues; the other one counts as dead.

        Args:
            survivor: The node that continues.
            known: The snapshot to compile from; that of a protected new pair if None.
        """
        known = known or self.started()
        dead = _partner(self._pair, known, survivor)
        return failover(
            self._pair,
            known.with_node(dead, Dead(evidence=self._evidence)),
            survivor=survivor,
            dialect=self._dialect,
            assume_good=self._assume_good,
        )

    def resume(self, survivor: str, peer: str | None, known: Snapshot | None) -> Plan:
        """The plan by which the survivor is protected again.

        Args:
            survivor: The node with the guest.
            peer: The node that protects it, launched first if it does not answer; the survivor's
                partner if None.
            known: The snapshot to compile from; that after the survivor's failover if None.

        Raises:
            CompileError: The survivor does not answer.
        """
        known = known or self.failover(survivor, None).planned_state
        if known.live(survivor) is None:
            raise compile_error(
                "no-answer", f"{survivor} does not answer, so it cannot resume", node=survivor
            )
        second = peer or _partner(self._pair, known, survivor)
        if known.live(second) is None:
            known = self.launch(known.with_node(second, Absent()), (second,)).planned_state
        return resume(
            self._pair, known, peer=peer, dialect=self._dialect, assume_good=self._assume_good
        )


def _partner(pair: ColoPair, known: Snapshot, survivor: str) -> str:
    """The other node of the pair, by the record if it names the survivor as eligible."""
    top = record.highest(known.records)
    if top is not None and top.partner is not None and survivor in top.eligible:
        others = [node for node in (top.holder, top.partner) if node != survivor]
        return others[0]
    return pair.peer_of(survivor).name

"""Plans on paper: without a live node, from what the procedure before promises."""

from __future__ import annotations

from collections.abc import Collection

from pycolo.compiler.procedures import (
    compile_plan,
    failover,
    launch,
)
from pycolo.errors import CompileError
from pycolo.model.pair import ColoPair
from pycolo.plan import DialectName, Plan, Procedure
from pycolo.qmp.replies import Version
from pycolo.snapshot import Absent, Dead, DeathProof, OnPaper, Snapshot


def on_paper(
    procedure: Procedure,
    pair: ColoPair,
    *,
    version: Version,
    origin: Snapshot | None = None,
    survivor: str | None = None,
    peer: str | None = None,
    proof: DeathProof | None = None,
    checkpoint_delay_ms: int | None = None,
    nodes: Collection[str] | None = None,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """A plan compiled without asking anybody.

    Args:
        procedure: Its name. `start` begins with two QEMUs just launched, `failover` with what
            `start` promises and the other node dead, `resume` with what that failover promises
            and its peer launched anew, the rest with what `start` promises.
        pair: The declaration.
        version: QEMU's version on every node.
        origin: What to compile from instead: a snapshot, or another plan's promise.
        survivor: Who survives; the pair's second node if None.
        peer: Who takes the dead one's place in `resume`; the dead node itself, launched
            anew, if None.
        proof: Proof of the other node's death, kept in the plan; without one the plan
            does not execute.
        checkpoint_delay_ms: For `set-checkpoint-delay`; the declared one if None.
        nodes: For `launch`: which nodes; both if None.
        dialect: `auto` or `doc`.
        assume_good: Versions the operator vouches for.

    Raises:
        RefusedError: See the procedure.
        DeclarationError: A name is none of the pair's.
    """
    paper = _Paper(pair, version, dialect, tuple(assume_good), proof or OnPaper())
    name = survivor or _survivor(pair, origin)
    if procedure == "launch":
        return paper.launch(pair, origin or Snapshot(nodes={}), nodes)
    if procedure == "failover":
        return paper.failover(name, origin)
    if procedure == "resume":
        return paper.resume(name, peer, origin)
    if procedure == "converge":
        why = "on paper every pair is as declared"
        raise CompileError(why, "compile it from a snapshot of what is live")
    return compile_plan(
        procedure,
        pair,
        origin or (paper.launched() if procedure == "start" else paper.started()),
        checkpoint_delay_ms=checkpoint_delay_ms,
        dialect=dialect,
        assume_good=assume_good,
    )


def _survivor(pair: ColoPair, origin: Snapshot | None) -> str:
    live = [n.name for n in pair.nodes if origin is not None and origin.live(n.name) is not None]
    return live[0] if len(live) == 1 else pair.nodes[1].name


class _Paper:
    """One pair on paper, each procedure begun where the one before it ends."""

    def __init__(
        self,
        pair: ColoPair,
        version: Version,
        dialect: DialectName,
        assume_good: tuple[Version, ...],
        proof: DeathProof,
    ) -> None:
        self._pair = pair
        self._version = version
        self._dialect = dialect
        self._assume_good = assume_good
        self._proof = proof

    def launch(self, pair: ColoPair, known: Snapshot, nodes: Collection[str] | None) -> Plan:
        absent = {node.name: known.live(node.name) or Absent() for node in pair.nodes}
        return launch(
            pair,
            Snapshot(nodes=absent),
            qemu={node.name: self._version for node in pair.nodes},
            nodes=tuple(nodes) if nodes is not None else None,
            dialect=self._dialect,
            assume_good=self._assume_good,
        )

    def launched(self) -> Snapshot:
        return self.launch(self._pair, Snapshot(nodes={}), None).promise

    def started(self) -> Snapshot:
        return compile_plan(
            "start",
            self._pair,
            self.launched(),
            dialect=self._dialect,
            assume_good=self._assume_good,
        ).promise

    def failover(self, survivor: str, origin: Snapshot | None) -> Plan:
        dead = self._pair.peer_of(survivor).name
        known = origin or self.started()
        return failover(
            self._pair,
            known.with_node(dead, Dead(proof=self._proof)),
            survivor=survivor,
            dialect=self._dialect,
            assume_good=self._assume_good,
        )

    def resume(self, survivor: str, peer: str | None, origin: Snapshot | None) -> Plan:
        pair = self._pair
        known = origin or self.failover(survivor, None).promise
        if known.live(survivor) is None:
            raise CompileError(f"{survivor} does not answer, so it cannot resume")
        dead = pair.peer_of(survivor).name
        if peer is not None:
            pair = pair.replacing(dead, pair.node(peer))
        second = pair.peer_of(survivor).name
        if known.live(second) is None:
            known = self.launch(pair, known, (second,)).promise
        return compile_plan(
            "resume", pair, known, dialect=self._dialect, assume_good=self._assume_good
        )

"""Plans compiled offline: without a live node, from the planned state of the procedure before."""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

from pycolo.compiler._assumed import AssumedLife, new_pair
from pycolo.compiler.dispatch import compile_plan
from pycolo.errors import compile_error
from pycolo.evidence import Evidence
from pycolo.model import _rules as rules
from pycolo.model.pair import ColoPair
from pycolo.plan import DialectName, Options, Plan, Procedure
from pycolo.qmp.replies import Version
from pycolo.snapshot import Snapshot


def compile_offline(
    procedure: Procedure,
    pair: ColoPair,
    *,
    version: Version,
    prior_state: Snapshot | None = None,
    survivor: str | None = None,
    peer: str | None = None,
    evidence: Evidence | None = None,
    checkpoint_delay_ms: int | None = None,
    nodes: Collection[str] = (),
    newest: str | None = None,
    gone: str | None = None,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Compile a plan without asking any node or host.

    Args:
        procedure: Its name. `launch` begins with a new pair, `start` with two QEMUs just launched,
            `failover` with the planned state of `start` and the other node dead, `resume` with the
            planned state of that failover and its peer launched again, all others with the planned
            state of `start`.
        pair: The declaration.
        version: QEMU's version on every node.
        prior_state: What to compile from instead: a snapshot, or another plan's planned state;
            None for what `procedure` names.
        survivor: The node that survives. If None, the only node that answers in `prior_state`, or
            else the pair's second node.
        peer: The node that protects the guest in `start`, `resume` and `converge`; in `resume`, if
            None, the dead node itself, launched again.
        evidence: For `failover` and `resume`: evidence of the other node's death, kept in the
            plan; if None, the death is assumed, and the plan needs evidence to be executed.
        checkpoint_delay_ms: For `set-checkpoint-delay`; the declared one if None.
        nodes: For `launch`: which nodes; both if empty.
        newest: For `launch`: the node that holds the newest data by an operator's statement;
            None to follow the records.
        gone: For `forget`, which needs it: the node that will never come back.
        dialect: `auto` or `doc`.
        assume_good: Versions the operator vouches for.

    Raises:
        RefusedError: See the procedure. `converge` is refused without a `prior_state`, because
            nothing differs offline.
        DeclarationError: `procedure` is not one of `Procedure`, a name is not one of the pair's, or
            `forget` is given no `gone`.
    """
    rules.one_of(*get_args(Procedure))("procedure", procedure)
    good = tuple(assume_good)
    life = AssumedLife(pair, version, dialect, good, evidence)
    name = survivor or _survivor(pair, prior_state)
    match procedure:
        case "launch":
            return life.launch(prior_state or new_pair(pair), tuple(nodes), newest)
        case "failover":
            return life.failover(name, prior_state)
        case "resume":
            return life.resume(name, peer, prior_state)
        case "converge" if prior_state is None:
            why = "offline every pair is as declared"
            raise compile_error("needs-snapshot", why, "compile it from a snapshot of what is live")
        case _:
            known = prior_state or (life.launched() if procedure == "start" else life.started())
            options = Options(
                peer=peer, checkpoint_delay_ms=checkpoint_delay_ms, gone=gone, assume_good=good
            )
            return compile_plan(procedure, pair, known, options, dialect=dialect)


def _survivor(pair: ColoPair, prior_state: Snapshot | None) -> str:
    """The node that survives if the caller names none."""
    live = [
        n.name
        for n in pair.nodes
        if prior_state is not None and prior_state.live(n.name) is not None
    ]
    return live[0] if len(live) == 1 else pair.nodes[1].name

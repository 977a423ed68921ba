"""Procedures on what is live: connect, probe, compile, execute.

The command line is a thin face of this module, and scripts call it in the same way.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Collection, Mapping
from contextlib import AsyncExitStack
from typing import Final, final

import attrs

from pycolo import compiler, host
from pycolo.conditions import PeerDead, leaves
from pycolo.errors import (
    Busy,
    CompileError,
    ConnectionFailed,
    HostRefused,
    RemoteError,
)
from pycolo.errors import Unresponsive as UnresponsiveError
from pycolo.execute import execute
from pycolo.lineage import LineageFiles
from pycolo.model import ColoPair, Node
from pycolo.observers import Observer, Recorder
from pycolo.plan import Check, DialectName, Plan, Procedure
from pycolo.probe import probe
from pycolo.qmp.replies import Version
from pycolo.result import Report
from pycolo.session import Session
from pycolo.snapshot import (
    Dead,
    DeathProof,
    FenceProof,
    NodeState,
    Snapshot,
    Unreachable,
    Unresponsive,
    role_of,
)

CONNECT_S: Final = 5.0
# Nodes reach each other by these; nothing that ends a pair may depend on a resolver.
CONNECTING: Final = ("launch", "start", "resume", "converge")
VERSION_S: Final = 10.0


@final
@attrs.frozen(kw_only=True)
class Order:
    """What is to be done to a pair.

    Args:
        procedure: Its name.
        pair: The declaration.
        survivor: For `failover`: who goes on; None where only one node answers.
        peer: For `resume`: the spare that takes the missing node's place.
        fenced: For `failover`: somebody's word that the other node is dead.
        checkpoint_delay_ms: For `set-checkpoint-delay`; the declared one if None.
        nodes: For `launch`: which nodes; both if empty.
        newest: For `launch`: who holds the newest data, against what was recorded.
        dialect: `auto` or `doc`.
        assume_good: Versions the operator vouches for.
    """

    procedure: Procedure
    pair: ColoPair
    survivor: str | None = None
    peer: str | None = None
    fenced: FenceProof | None = None
    checkpoint_delay_ms: int | None = None
    nodes: tuple[str, ...] = ()
    newest: str | None = None
    dialect: DialectName = "auto"
    assume_good: Collection[Version] = ()


async def run(order: Order, observer: Observer, *, recorder: Recorder | None = None) -> Report:
    """Compile a procedure from what is live, and execute it.

    Raises:
        Busy: Somebody else holds a node's control monitor.
        RefusedError: No safe way leads on, or a person must decide.
        DeclarationError: A name is none of the pair's, or an address does not resolve.
    """
    if order.procedure in CONNECTING:
        await asyncio.to_thread(host.resolve, order.pair)
    async with AsyncExitStack() as stack:
        known = await _connected(order.pair, stack)
        if order.procedure == "launch":
            return await _executed(await _launch(order, known), known, {}, observer, recorder)
        pair = order.pair
        if order.procedure == "resume" and order.peer is not None:
            pair = _with_peer(order, known)
            known |= await _connected(pair, stack, [n for n in pair.nodes if n.name not in known])
        proofs: dict[str, DeathProof] = {}
        if order.procedure == "failover":
            proofs = _proofs(order, known)
        dead = {name: Dead(proof=proof) for name, proof in proofs.items()}
        snapshot = await probe({**known, **dead})
        if order.procedure == "converge":
            plan = compiler.converge(pair, snapshot, assume_good=order.assume_good)
            return await _executed(plan, known, proofs, observer, recorder)
        plan = compiler.compile_plan(
            order.procedure,
            _as_recorded(pair),
            snapshot,
            survivor=order.survivor,
            checkpoint_delay_ms=order.checkpoint_delay_ms,
            dialect=order.dialect,
            assume_good=order.assume_good,
        )
        return await _executed(plan, known, proofs, observer, recorder)


async def apply(plan: Plan, observer: Observer, *, recorder: Recorder | None = None) -> Report:
    """Execute a saved plan, exactly as it is.

    Raises:
        Busy: Somebody else holds a node's control monitor.
        ParseError: Its host actions are not those of its declaration.
    """
    compiler.rederive(plan)
    dead = [
        leaf.node
        for step in plan.steps
        if isinstance(step, Check)
        for leaf in leaves(step.condition)
        if isinstance(leaf, PeerDead)
    ]
    found = {name: host.death_proof(plan.pair.node(name)) for name in dead}
    proofs = {name: proof for name, proof in found.items() if proof is not None}
    async with AsyncExitStack() as stack:
        nodes = [plan.pair.node(name) for name in plan.qemu if name not in dead]
        known = await _connected(plan.pair, stack, nodes)
        return await _executed(plan, known, proofs, observer, recorder)


def _as_recorded(pair: ColoPair) -> ColoPair:
    """The pair, whose images are equal by the operator's word only until it first ran."""
    if pair.initial_sync == "identical" and LineageFiles(pair).known() is not None:
        return attrs.evolve(pair, initial_sync="full")
    return pair


async def _executed(
    plan: Plan,
    known: Mapping[str, Session | NodeState],
    proofs: Mapping[str, DeathProof],
    observer: Observer,
    recorder: Recorder | None,
) -> Report:
    sessions = {name: state for name, state in known.items() if isinstance(state, Session)}
    lineage = LineageFiles(plan.pair)
    holders = [n for n, s in plan.promise.nodes.items() if role_of(s) in ("primary", "unprotected")]
    return await execute(
        plan,
        sessions,
        observer=observer,
        recorder=recorder,
        # On another host the files are another pycolo's to keep.
        lineage=lineage if all(map(lineage.keeps, holders)) else None,
        proofs=proofs,
    )


# -- connections ---------------------------------------------------------------------------------


async def _connected(
    pair: ColoPair, stack: AsyncExitStack, nodes: Collection[Node] | None = None
) -> dict[str, Session | NodeState]:
    """Sessions with the nodes that answer, and what is known of the others."""
    wanted = pair.nodes if nodes is None else nodes
    states = await asyncio.gather(*(_connect(node) for node in wanted), return_exceptions=True)
    known: dict[str, Session | NodeState] = {}
    failed: list[BaseException] = []
    for node, state in zip(wanted, states, strict=True):
        if isinstance(state, BaseException):
            failed.append(state)
            continue
        if isinstance(state, Session):
            await stack.enter_async_context(state)
        known[node.name] = state
    if failed:
        raise failed[0]
    return known


async def _connect(node: Node) -> Session | NodeState:
    try:
        return await Session.connect(node.name, node.control_monitor, limit_s=CONNECT_S)
    except Busy:
        # The control monitor is the lock: whoever comes second changes nothing.
        raise
    except UnresponsiveError as error:
        return Unresponsive(why=str(error), oob=False)
    except ConnectionFailed as error:
        return Unreachable(why=str(error))


def _proofs(order: Order, known: Mapping[str, Session | NodeState]) -> dict[str, DeathProof]:
    """The proof of the other node's death, as far as there is one."""
    live = [name for name, state in known.items() if isinstance(state, Session)]
    survivor = order.survivor or (live[0] if len(live) == 1 else None)
    if survivor is None:
        return {}
    peer = order.pair.peer_of(survivor)
    if order.fenced is not None and peer.name in live:
        why = f"{peer.name} was said to be fenced, and its QEMU answers"
        raise CompileError(why, "end it, or name the right survivor")
    proof = order.fenced or host.death_proof(peer)
    return {} if proof is None else {peer.name: proof}


def _with_peer(order: Order, known: Mapping[str, Session | NodeState]) -> ColoPair:
    """The pair with the chosen node in the place of the one that is not there."""
    pair, peer = order.pair, order.peer
    if peer is None or peer in known:
        return pair
    live = [name for name, state in known.items() if isinstance(state, Session)]
    survivor = order.survivor or (live[0] if len(live) == 1 else None)
    if survivor is None:
        raise CompileError(f"it is not clear whose place {peer} takes", "name the survivor")
    return pair.replacing(pair.peer_of(survivor).name, pair.node(peer))


# -- launching -----------------------------------------------------------------------------------


async def _launch(order: Order, known: Mapping[str, Session | NodeState]) -> Plan:
    pair = order.pair
    wanted = order.nodes or tuple(node.name for node in pair.nodes)
    pair = _taking_in(pair, wanted, known)
    snapshot = await probe(known)
    versions = {node.name: await _version(node) for node in pair.nodes if node.name in wanted}
    answering = {name: live.version for name in known if (live := snapshot.live(name)) is not None}
    lineage = LineageFiles(pair).known()
    holder = order.newest or (None if lineage is None else lineage.newest)
    if holder is not None and holder not in [node.name for node in pair.nodes]:
        why = f"{holder} holds the newest data and is not one of the two nodes"
        raise CompileError(why, "launch it, or say who is to be believed with --newest NODE")
    return compiler.launch(
        pair,
        snapshot,
        qemu=versions | answering,
        nodes=wanted,
        primary=holder,
        instances={name: f"{pair.name}.{name}.{secrets.token_hex(4)}" for name in wanted},
        dialect=order.dialect,
        assume_good=order.assume_good,
    )


def _taking_in(
    pair: ColoPair, wanted: Collection[str], known: Mapping[str, Session | NodeState]
) -> ColoPair:
    """The pair with a spare that is to be launched in the place of the node that is not there."""
    for name in wanted:
        if name not in [node.name for node in pair.nodes]:
            missing = [n for n, state in known.items() if not isinstance(state, Session)]
            if len(missing) != 1:
                raise CompileError(f"it is not clear whose place {name} takes", "stop that node")
            pair = pair.replacing(missing[0], pair.node(name))
    return pair


async def _version(node: Node) -> Version:
    """The version of the QEMU installed for a node on this machine."""
    try:
        process = await asyncio.create_subprocess_exec(
            node.qemu_binary, "--version", stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(VERSION_S):
            output, _ = await process.communicate()
    except (OSError, TimeoutError) as error:
        raise HostRefused(node.name, "launch-qemu", f"{node.qemu_binary}: {error}") from error
    found = re.search(r"version (\d+\.\d+\.\d+)", output.decode(errors="replace"))
    if found is None:
        raise HostRefused(node.name, "launch-qemu", f"{node.qemu_binary} tells no version")
    return Version.parse(found[1])


async def status(pair: ColoPair) -> Snapshot:
    """Read both nodes over their observer monitors, which leaves the writers' free."""
    async with AsyncExitStack() as stack:
        known: dict[str, Session | NodeState] = {}
        for node in pair.nodes:
            try:
                known[node.name] = await stack.enter_async_context(
                    await Session.connect(node.name, node.observer_monitor, limit_s=CONNECT_S)
                )
            except UnresponsiveError as error:
                known[node.name] = Unresponsive(why=str(error), oob=False)
            except RemoteError as error:
                known[node.name] = Unreachable(why=str(error))
        return await probe(known, limit_s=CONNECT_S)

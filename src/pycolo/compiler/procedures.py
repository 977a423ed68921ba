"""The procedures as callers see them: roles are derived, versions accepted, then steps emitted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import assert_never

import attrs

from pycolo.compiler import document, tune
from pycolo.compiler._draft import Draft
from pycolo.compiler.failover import fail_over, tied
from pycolo.compiler.failover import stop as stop_protection
from pycolo.compiler.launch import Role, images, launch_argv, launch_node
from pycolo.compiler.protect import protect
from pycolo.dialect import Dialect, accept_pair, of
from pycolo.errors import CompileError, DeclarationError, ParseError
from pycolo.model.pair import ColoPair
from pycolo.plan import CreateImage, DialectName, LaunchQemu, Plan, Procedure, RunHost, StopQemu
from pycolo.qmp.replies import Version
from pycolo.snapshot import NodeState, Snapshot, Unreachable, Unresponsive, role_of

SECONDARIES = ("fresh secondary", "prepared secondary", "secondary", "broken secondary")
PRIMARIES = ("unprotected", "entering", "primary", "broken primary")


def launch(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    qemu: Mapping[str, Version],
    nodes: Sequence[str] | None = None,
    primary: str | None = None,
    instances: Mapping[str, str] | None = None,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Images and QEMUs, for both nodes or for some.

    Args:
        pair: The declaration.
        snapshot: What is known; a node that answers is left alone.
        qemu: Node name to the version of the QEMU installed there.
        nodes: The nodes to launch; both if None.
        primary: Who becomes primary where nobody is yet; the pair's first node if None. A node
            whose peer answers and serves becomes its secondary.
        instances: Node name to the identity its QEMU gets; a plain one from the names if not given,
            which two launches share.
        dialect: `auto`, or `doc` for the document's own command lines.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: A version cannot run COLO, or the two differ.
        DeclarationError: A name is none of the pair's.
    """
    spoken = _dialect(pair, qemu, dialect, assume_good)
    draft = Draft("launch", pair, snapshot, qemu, dialect)
    first = primary or pair.nodes[0].name
    pair.peer_of(first)
    for node in nodes or _in_turn(pair, first, dialect):
        peer = snapshot.live(pair.peer_of(node).name)
        role: Role = "primary" if node == first and peer is None else "secondary"
        if peer is not None and role_of(peer) in SECONDARIES:
            role = "primary"
        instance = (instances or {}).get(node, f"{pair.name}.{node}")
        launch_node(draft, node, role, instance=instance, dialect=spoken, dialect_name=dialect)
    return draft.plan()


def _in_turn(pair: ColoPair, primary: str, dialect: DialectName) -> tuple[str, str]:
    """Both nodes; in dialect `doc` the primary last, since it waits for its secondary (3.1)."""
    secondary = pair.peer_of(primary).name
    return (secondary, primary) if dialect == "doc" else (primary, secondary)


def start(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """From a primary that was never protected and a fresh secondary to a protected pair.

    Args:
        pair: The declaration.
        snapshot: What both nodes show. The primary's guest may run already.
        dialect: `auto` or `doc`.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: A version cannot run COLO, or the two differ.
        CompileError: No safe way leads there from the snapshot.
    """
    both = roles(pair, snapshot)
    return _protected("start", pair, snapshot, both, dialect=dialect, assume_good=assume_good)


def resume(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """From a survivor and a fresh secondary back to a protected pair.

    Args:
        pair: The declaration; for another peer take `pair.replacing(old, new)` first.
        snapshot: What both nodes show.
        dialect: `auto` or `doc`.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: A version cannot run COLO, or the two differ.
        CompileError: No safe way leads there from the snapshot.
    """
    both = roles(pair, snapshot)
    return _protected("resume", pair, snapshot, both, dialect=dialect, assume_good=assume_good)


def _protected(
    procedure: Procedure,
    pair: ColoPair,
    snapshot: Snapshot,
    roles: tuple[str, str],
    *,
    dialect: DialectName,
    assume_good: Collection[Version],
) -> Plan:
    qemu = _versions(snapshot, roles)
    spoken = _dialect(pair, qemu, dialect, assume_good)
    draft = Draft(procedure, pair, snapshot, qemu, dialect)
    if dialect == "doc":
        (document.start if procedure == "start" else document.resume)(draft, *roles)
        return draft.plan()
    if not _protected_already(snapshot, roles):
        draft.check_instances(roles)
        draft.check_parts(roles)
    protect(draft, *roles, spoken)
    return draft.plan()


def _protected_already(snapshot: Snapshot, roles: tuple[str, str]) -> bool:
    states = [snapshot.live(node) for node in roles]
    return all(
        live is not None and live.colo_mode != "none" and live.proven is not False and not live.jobs
        for live in states
    )


def set_checkpoint_delay(
    pair: ColoPair,
    snapshot: Snapshot,
    checkpoint_delay_ms: int,
    *,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """The longest time between two checkpoints, on the primary.

    Args:
        pair: The declaration.
        snapshot: What the primary shows.
        checkpoint_delay_ms: 1 to 4294967295.
        dialect: `auto` or `doc`.
        assume_good: Versions the operator vouches for.

    Raises:
        DeclarationError: The delay is out of range.
        VersionError: The version cannot run COLO.
        CompileError: Nobody is primary, or the change would wedge it.
    """
    attrs.evolve(pair, checkpoint_delay_ms=checkpoint_delay_ms)
    primary, _ = roles(pair, snapshot)
    qemu = _versions(snapshot, (primary,))
    spoken = _dialect(pair, qemu, dialect, assume_good)
    draft = Draft("set-checkpoint-delay", pair, snapshot, qemu, dialect)
    if dialect == "doc":
        document.set_delay(draft, primary, checkpoint_delay_ms)
    else:
        tune.set_delay(draft, primary, checkpoint_delay_ms, spoken)
    return draft.plan()


def failover(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    survivor: str | None = None,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """One node goes on alone after the other's death. Its first step checks that death.

    Args:
        pair: The declaration.
        snapshot: What the survivor shows; of the other node only its death counts, and only when
            the plan is executed.
        survivor: Who goes on; if None, the only node that answers.
        dialect: `auto` or `doc`.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: The version cannot run COLO.
        CompileError: It is not clear who survives, or the survivor has no guest to go on with.
    """
    name = survivor or _only_live(pair, snapshot)
    peer = pair.peer_of(name).name
    qemu = _versions(snapshot, (name,))
    _dialect(pair, qemu, dialect, assume_good)
    draft = Draft("failover", pair, snapshot, qemu, dialect)
    if dialect == "doc":
        document.fail_over(draft, name, peer)
        return draft.plan()
    fail_over(draft, name, peer)
    return draft.plan()


def stop(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Ends protection on purpose: the secondary quits, the primary's guest goes on alone.

    Args:
        pair: The declaration.
        snapshot: What both nodes show; the secondary may be gone already.
        dialect: `auto`; the document has no such procedure.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: The version cannot run COLO.
        CompileError: Nobody is primary, or the dialect is `doc`.
    """
    if dialect == "doc":
        why = "QEMU's document does not say how to end protection"
        raise CompileError(why, "use dialect auto")
    live = [node.name for node in pair.nodes if snapshot.live(node.name) is not None]
    if len(live) == 2:  # noqa: PLR2004 - both nodes
        primary, secondary = roles(pair, snapshot)
    else:
        primary, secondary = _only_live(pair, snapshot), None
    qemu = _versions(snapshot, tuple(live))
    _dialect(pair, qemu, dialect, assume_good)
    draft = Draft("stop", pair, snapshot, qemu, dialect)
    if secondary is not None or tied(draft, primary):
        bound = tuple(filter(None, (primary, secondary)))
        draft.check_instances(bound)
        draft.check_parts(bound)
        stop_protection(draft, primary, secondary)
    return draft.plan()


def compile_plan(
    procedure: Procedure,
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    survivor: str | None = None,
    checkpoint_delay_ms: int | None = None,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Any procedure but `launch` and `converge`, by its name.

    Args:
        procedure: Its name, as on the command line.
        pair: The declaration.
        snapshot: What is known.
        survivor: For `failover`.
        checkpoint_delay_ms: For `set-checkpoint-delay`; the declared one if None.
        dialect: `auto` or `doc`.
        assume_good: Versions the operator vouches for.

    Raises:
        DeclarationError: `launch` or `converge` was asked for: they have functions of their own.
        RefusedError: See the procedure.
    """
    match procedure:
        case "start":
            return start(pair, snapshot, dialect=dialect, assume_good=assume_good)
        case "resume":
            return resume(pair, snapshot, dialect=dialect, assume_good=assume_good)
        case "stop":
            return stop(pair, snapshot, dialect=dialect, assume_good=assume_good)
        case "failover":
            return failover(
                pair, snapshot, survivor=survivor, dialect=dialect, assume_good=assume_good
            )
        case "set-checkpoint-delay":
            delay = pair.checkpoint_delay_ms if checkpoint_delay_ms is None else checkpoint_delay_ms
            return set_checkpoint_delay(
                pair, snapshot, delay, dialect=dialect, assume_good=assume_good
            )
        case "launch" | "converge":
            rule = f"be compiled with compiler.{procedure}"
            raise DeclarationError("procedure", procedure, rule)
        case _:
            assert_never(procedure)


def rederive(plan: Plan) -> None:
    """Refuse a plan whose host actions are not those of its declaration.

    A plan file is not a shell: its command lines are for readers, and what runs is derived anew.

    Raises:
        ParseError: A step's command line or image differs from what the declaration gives.
    """
    for n, step in enumerate(plan.steps):
        if isinstance(step, RunHost) and not _derived(plan, step):
            rule = "be what the plan's own declaration gives"
            raise ParseError(f"steps[{n}]", rule, step.address)


def _derived(plan: Plan, step: RunHost) -> bool:
    node = plan.pair.node(step.node)
    match step.action:
        case LaunchQemu(role=role, instance=instance, argv=argv):
            return argv == launch_argv(
                plan.pair,
                step.node,
                role=role,
                instance=instance,
                dialect=of(plan.qemu[step.node]),
                dialect_name=plan.dialect,
            )
        case CreateImage() as action:
            made = images(node, plan.pair.disks, "secondary", plan.dialect)
            return action in [image for image, _ in made]
        case StopQemu():
            return True
        case _:
            assert_never(step.action)


def _dialect(
    pair: ColoPair,
    qemu: Mapping[str, Version],
    dialect: DialectName,
    assume_good: Collection[Version],
) -> Dialect:
    if dialect == "doc":
        # The document's words are the same on every version; running them is another matter.
        return of(next(iter(qemu.values())))
    return accept_pair(pair, qemu, assume_good=assume_good)


def _versions(snapshot: Snapshot, nodes: Sequence[str]) -> dict[str, Version]:
    versions: dict[str, Version] = {}
    for node in nodes:
        live = snapshot.live(node)
        if live is None:
            raise CompileError(f"{node} does not answer: {_stands(snapshot.state(node))}")
        versions[node] = live.version
    return versions


def _only_live(pair: ColoPair, snapshot: Snapshot) -> str:
    live = [node.name for node in pair.nodes if snapshot.live(node.name) is not None]
    if len(live) == 1:
        return live[0]
    told = f"{' and '.join(live)} answer" if live else "no node answers"
    raise CompileError(f"it is not clear who goes on: {told}", "name the survivor")


def roles(pair: ColoPair, snapshot: Snapshot) -> tuple[str, str]:
    """Who is primary and who is secondary, or a refusal that names what each node is."""
    roles = {node.name: role_of(snapshot.state(node.name)) for node in pair.nodes}
    first, second = roles
    for primary, secondary in ((first, second), (second, first)):
        if roles[primary] in PRIMARIES and roles[secondary] in SECONDARIES:
            _check_no_orphan(snapshot, primary, secondary)
            return primary, secondary
    told = ", ".join(f"{name}: {_stands(snapshot.state(name))}" for name in roles)
    why = f"there is no primary with a secondary here ({told})"
    raise CompileError(why, "launch what is missing, or fail over first")


def _check_no_orphan(snapshot: Snapshot, primary: str, secondary: str) -> None:
    """A secondary that lost its primary runs the only guest: a new QEMU there has none yet.

    Raises:
        CompileError: The primary is such a new QEMU.
    """
    live, peer = snapshot.live(primary), snapshot.live(secondary)
    anew = live is not None and (live.run_state, live.migration) == ("prelaunch", "none")
    if anew and peer is not None and peer.colo_mode == "secondary":
        why = f"{primary} was started anew, and the guest of {secondary} is the one that runs"
        raise CompileError(why, f"end the QEMU of {primary}, then fail over to {secondary}")


def _stands(state: NodeState) -> str:
    if isinstance(state, Unreachable | Unresponsive):
        return f"{role_of(state)}, {state.why}"
    return role_of(state)

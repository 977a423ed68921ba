"""The public procedures: each derives the roles, accepts the versions and emits the steps."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import attrs

from pycolo import record
from pycolo.compiler import dialects, tune
from pycolo.compiler._draft import Draft
from pycolo.compiler.failover import await_failover, end_primary, fail_over, prove, tied
from pycolo.compiler.failover import stop as stop_protection
from pycolo.compiler.launch import (
    Role,
    check_devices,
    check_not_running,
    check_options,
    claim_boot,
    claim_newest,
    forget_node,
    launch_node,
)
from pycolo.compiler.members import check, members
from pycolo.compiler.roles import (
    IN_COLO,
    PRIMARIES,
    leader,
    only_live,
    roles,
    stands,
    versions,
)
from pycolo.compiler.shutdown import shut_down
from pycolo.conditions import END_OR_LET_GO
from pycolo.errors import CompileError, DeclarationError, check_all, compile_error
from pycolo.evidence import instance_of
from pycolo.model import _rules as rules
from pycolo.model.pair import ColoPair
from pycolo.plan import OFFLINE_BIRTH, DialectName, Options, Plan, Procedure
from pycolo.qmp.replies import Version
from pycolo.snapshot import Live, Snapshot, Unresponsive, role_of

_BOTH = 2


def launch(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    qemu: Mapping[str, Version],
    nodes: Sequence[str] = (),
    newest: str | None = None,
    instances: Mapping[str, str] | None = None,
    birth: str = OFFLINE_BIRTH,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Compile the plan that creates images and starts QEMUs, for both nodes or for some.

    A node whose peer has a guest becomes its secondary. If no node has one, the node that holds the
    newest data by the record becomes primary; for a new pair that is the pair's first node, and
    the others are secondaries, whichever is launched first.

    Args:
        pair: The declaration.
        snapshot: The states of the nodes, and the records of all nodes. A node that answers is not
            launched.
        qemu: Node name to the version of the QEMU installed there.
        nodes: The nodes to launch; if empty, the two that the record names, or the two of the
            declaration if there is no record. If the record's secondary does not answer, and just
            one node answers as a fresh secondary, that node takes its place. A spare in `nodes`
            takes the place of the node that does not hold the newest data.
        newest: The node that holds the newest data by an operator's statement, which overrides the
            records. Its QEMU may run already. None to follow the records.
        instances: Node name to the identity its QEMU gets, `PAIR:NODE:HEX`, with eight lower-case
            hexadecimal digits, never used before. For a node without an entry, and for every node
            if None, the identity is counted up, which is enough for a plan that is not executed.
        birth: Random text by which a new pair differs from other pairs of its name. It is not used
            if the pair has a record.
        dialect: `auto`, or `doc` for the command lines of QEMU's COLO document.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: A version cannot run COLO, or not with the pair's machine, or the two differ.
        DeclarationError: A name in `nodes` or `qemu` is not one of the pair's, a name in
            `instances` is not one of the nodes to launch, an identity in `instances` has another
            form, a value of `qemu` is no `Version`, or `qemu` lacks a node that is launched.
        CompileError: Another node holds the newest data; a primary is in COLO (end protection or
            fail over first); a secondary in COLO has the guest, and its primary does not answer; a
            QEMU runs that gives no answer; `newest` is not one of the nodes to launch, or another
            node answers; a spare has no place; a QEMU lacks an option of an image; two nodes have
            one image folder; dialect `doc` cannot express the declaration; or a QEMU or a record
            belongs to another pair or node.
        UndecidedError: The records do not tell who holds the newest data, come from two births, or
            are managed by an arbiter.
    """
    check(pair, snapshot)
    _check_versions(pair, qemu)
    wanted = tuple(nodes) or tuple(node.name for node in members(pair, snapshot).nodes)
    if newest is not None and newest not in wanted:
        raise compile_error(
            "newest-not-launched",
            f"--newest names {newest}, and this launch starts only {' and '.join(wanted)}",
            f"launch {newest} too",
            node=newest,
        )
    declared = pair
    pair = _taking_in(members(pair, snapshot), wanted, snapshot, newest)
    given = _identities(pair, snapshot, wanted, instances or {})
    options = Options(
        nodes=tuple(nodes),
        newest=newest,
        instances=given,
        birth=birth,
        qemu=dict(qemu),
        assume_good=tuple(assume_good),
    )
    live = {n.name: one.version for n in pair.nodes if (one := snapshot.live(n.name)) is not None}
    missing = [name for name in wanted if snapshot.live(name) is None]
    for name in (name for name in missing if name not in qemu):
        raise DeclarationError("options.qemu", dict(qemu), f"name the QEMU version of {name}")
    style = dialects.of_name(dialect)
    features = style.accept(pair, {**live, **qemu}, assume_good)
    draft = Draft("launch", pair, snapshot, options, qemu=qemu, dialect=dialect)
    _refuse_unseen(draft, missing)
    _refuse_too_early(draft, missing)
    primary = newest or _new_primary(draft, declared, missing)
    check_not_running(draft, missing if primary is None else _silent(draft))
    for name in missing:
        check_options(draft, name, qemu[name])
        check_devices(draft, name)
    if newest is not None:
        running = snapshot.live(newest)
        claim_newest(draft, newest, given[newest] if running is None else running.instance, birth)
    elif primary is not None:
        claim_boot(draft, primary, given[primary], birth)
    copied = style.are_images_given(draft)
    ordered = sorted(missing, key=lambda name: (name == primary) == style.is_secondary_first)
    for name in ordered:
        role: Role = "primary" if name == primary else "secondary"
        argv = style.argv(pair, name, role, given[name], features)
        launch_node(draft, name, role, instance=given[name], argv=argv, given=copied)
    return draft.plan()


def _check_versions(pair: ColoPair, qemu: Mapping[str, object]) -> None:
    """Refuse a version for a node that the pair does not have, and one that is no `Version`.

    Raises:
        DeclarationError: As the first line says.
    """
    for name, version in qemu.items():
        if name not in pair.names:
            rule = f"be for one of {', '.join(pair.names)}"
            raise DeclarationError(f"qemu.{name}", version, rule)
        if not isinstance(version, Version):
            raise DeclarationError(f"qemu.{name}", version, "be a Version, as of Version.parse")


def _refuse_unseen(draft: Draft, missing: Sequence[str]) -> None:
    """Refuse to launch nodes if the QEMU of one of them runs and gives no answer.

    If no node that answers has the guest, every node of the pair is checked, not only those to
    launch: a QEMU that gives no answer may have the guest.

    Args:
        draft: The plan so far.
        missing: The nodes to launch.

    Raises:
        CompileError: The host of a checked node reports that a QEMU of it runs.
    """
    states = (draft.now.state(node.name) for node in draft.pair.nodes)
    guest = any(role_of(state) in PRIMARIES for state in states)
    names = missing if guest else _silent(draft)
    check_all(partial(_check_seen, draft, name) for name in names)


def _refuse_too_early(draft: Draft, missing: Sequence[str]) -> None:
    """Refuse to start a secondary while a primary is in COLO.

    The secondary would connect to sockets that the primary's failover removes, and not notice that
    (qemu-behaviour 3.16).

    Args:
        draft: The plan so far.
        missing: The nodes to launch.

    Raises:
        CompileError: A primary is in COLO.
    """
    names = draft.pair.names
    leading = [n for n in names if (one := draft.now.live(n)) and one.colo_mode == "primary"]
    if missing and leading:
        why = (
            f"{leading[0]} is still in COLO, and {missing[0]} would connect to what is removed then"
        )
        advice = f"launch {missing[0]} after a failover to {leading[0]}, or after stop"
        raise compile_error("too-early", why, advice, node=missing[0])


def _check_seen(draft: Draft, name: str) -> None:
    """Refuse to launch if the host of a node reports that a QEMU runs which gives no answer.

    Raises:
        CompileError: The host reports such a QEMU.
    """
    unseen = draft.now.running.get(name)
    if unseen is not None:
        what = f"{unseen.instance or 'a QEMU'} runs and gives no answer"
        why = f"{what} ({name}: {stands(draft.now, name)})"
        raise compile_error("runs-unseen", why, END_OR_LET_GO, node=name)


def _silent(draft: Draft) -> list[str]:
    """The names of all nodes that do not answer, spares included."""
    names = draft.pair.names
    return [name for name in names if draft.now.live(name) is None]


def _taking_in(
    pair: ColoPair, wanted: Sequence[str], snapshot: Snapshot, newest: str | None
) -> ColoPair:
    """The pair with every wanted spare as one of its two nodes.

    A spare takes the place of a node that does not hold the newest data and is not wanted.

    Raises:
        DeclarationError: A wanted name is not one of the pair's.
        CompileError: A spare is to begin a new pair, or no node can make room for it.
    """
    top = record.highest(snapshot.records)
    for name in wanted:
        pair.node(name)
        if name in [node.name for node in pair.nodes]:
            continue
        if top is None and newest is None:
            first = " and ".join(node.name for node in pair.nodes)
            raise compile_error(
                "spare-first",
                f"{name} is a spare and cannot begin a new pair",
                f"launch {first} first",
                node=name,
            )
        holder = newest or (top.holder if top is not None else name)
        leaving = [n.name for n in pair.nodes if n.name != holder and n.name not in wanted]
        if not leaving:
            raise compile_error(
                "place-unclear",
                f"it is not clear whose place {name} takes",
                "launch fewer nodes",
                node=name,
            )
        pair = pair.replacing(leaving[0], pair.node(name))
    return pair


def _identities(
    pair: ColoPair, snapshot: Snapshot, wanted: Sequence[str], given: Mapping[str, str]
) -> dict[str, str]:
    """The identity for each node to launch: the given one, or one that is counted up.

    Args:
        pair: The declaration.
        snapshot: The states of the nodes and their records.
        wanted: The nodes to launch; those that answer get no identity.
        given: Node name to identity, as the caller gives them.

    Raises:
        DeclarationError: An identity is for another node or has another form.
    """
    for name, instance in given.items():
        if name not in wanted:
            rule = f"be for a node that is launched, which are {', '.join(wanted)}"
            raise DeclarationError(f"instances.{name}", instance, rule)
        rules.string(f"instances.{name}", instance)
        if re.fullmatch(f"{re.escape(pair.name)}:{name}:[0-9a-f]{{8}}", instance) is None:
            rule = f"be {pair.name}:{name}:HEX, with HEX eight lower-case hexadecimal digits"
            raise DeclarationError(f"instances.{name}", instance, rule)
    missing = [name for name in wanted if snapshot.live(name) is None]
    return {name: given.get(name) or _counted(pair, snapshot, name) for name in missing}


def _counted(pair: ColoPair, snapshot: Snapshot, name: str) -> str:
    """An identity for a node, with a number above those in the records and that of its QEMU."""
    known = [instance for state in snapshot.records.values() for instance in _named(state)]
    live = snapshot.live(name)
    known += [] if live is None else [live.instance]
    prefix = f"{pair.name}:{name}:"
    numbers = [_number(i.removeprefix(prefix)) for i in known if i.startswith(prefix)]
    return instance_of(pair.name, name, 1 + max(numbers, default=0))


def _number(text: str) -> int:
    """The number at the end of an identity; 0 if it is not hexadecimal."""
    try:
        return int(text, 16)
    except ValueError:
        return 0


def _named(state: record.RecordState) -> tuple[str, ...]:
    """The identities that a record names; none if there is no readable record."""
    if not isinstance(state, record.PairRecord):
        return ()
    return (*state.eligible.values(), *(() if state.joining is None else (state.joining,)))


def _new_primary(draft: Draft, declared: ColoPair, missing: Sequence[str]) -> str | None:
    """The node that becomes primary; None if no launched node does.

    None does if a primary answers already, if no node is launched, or if only the second node of a
    new pair is.

    Args:
        draft: The plan so far.
        declared: The pair as declared.
        missing: The nodes to launch.

    Raises:
        CompileError: A secondary in COLO has the guest, and its primary is missing.
    """
    if not missing:
        return None
    names = declared.names
    has = {name: role_of(draft.now.state(name)) for name in names}
    if any(role in PRIMARIES for role in has.values()):
        return None
    for name in (name for name, role in has.items() if role in IN_COLO):
        _refuse_orphan(draft, name)
    records = draft.now.records
    top = record.highest(records)
    holder = draft.pair.nodes[0].name if top is None else top.holder
    if record.is_new(records) and holder not in missing:
        # In a new pair the first node becomes primary, even if others are launched before it.
        return None
    return holder if holder in missing else missing[0]


def _refuse_orphan(draft: Draft, name: str) -> None:
    """Refuse to start a primary while the secondary `name` has the guest, and say what to do.

    Raises:
        CompileError: Always.
    """
    why = f"{name} has the guest, as COLO's secondary, and its primary is missing"
    advice = f"fail over to {name}"
    instance = draft.live(name).instance
    try:
        record.may_run_alone(draft.now.records, name, instance, leads=False)
    except CompileError as error:
        # Only a record that was read shows that other nodes have all the writes of this one.
        if error.findings[0].code in ("not-eligible", "outdated"):
            why += ", and its record does not let it run alone"
            advice = f"end its QEMU, then launch again: {name} has no write that others lack"
    raise compile_error("primary-missing", why, advice, node=name)


def start(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    peer: str | None = None,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Compile the plan that protects a guest, running or just launched, by a fresh secondary.

    In dialect `auto` the plan is empty if the pair is protected already.

    Args:
        pair: The declaration.
        snapshot: What both nodes and their records show. The primary's guest may run already.
        peer: The node that will protect the guest. If None, the one that the record names or,
            if that does not answer, the only fresh secondary.
        dialect: `auto` or `doc`.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: A version cannot run COLO, or not with the pair's machine, or the two differ.
        DeclarationError: `peer` is not one of the pair's nodes.
        CompileError: No safe way leads there from the snapshot.
        UndecidedError: Only a person can decide, by the records.
    """
    options = Options(peer=peer, assume_good=tuple(assume_good))
    return _protected("start", pair, snapshot, options, dialect)


def resume(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    peer: str | None = None,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Compile the plan that protects the guest of a survivor by a fresh secondary.

    In dialect `auto` the plan is empty if the pair is protected already.

    Args:
        pair: The declaration.
        snapshot: What both nodes and their records show.
        peer: The node that will protect the guest. If None, the one that the record names or,
            if that does not answer, the only fresh secondary.
        dialect: `auto` or `doc`.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: A version cannot run COLO, or not with the pair's machine, or the two differ.
        DeclarationError: `peer` is not one of the pair's nodes.
        CompileError: No safe way leads there from the snapshot.
        UndecidedError: Only a person can decide, by the records.
    """
    options = Options(peer=peer, assume_good=tuple(assume_good))
    return _protected("resume", pair, snapshot, options, dialect)


def _protected(
    procedure: Procedure,
    pair: ColoPair,
    snapshot: Snapshot,
    options: Options,
    dialect: DialectName,
) -> Plan:
    """Compile `start` or `resume`, which differ in dialect `doc` only."""
    check(pair, snapshot)
    pair = members(pair, snapshot, peer=options.peer)
    primary, secondary = roles(pair, snapshot)
    qemu = versions(snapshot, (primary, secondary))
    style = dialects.of_name(dialect)
    features = style.accept(pair, qemu, options.assume_good)
    draft = Draft(procedure, pair, snapshot, options, qemu=qemu, dialect=dialect)
    style.protect(draft, procedure, primary, secondary, features)
    return draft.plan()


def set_checkpoint_delay(
    pair: ColoPair,
    snapshot: Snapshot,
    checkpoint_delay_ms: int,
    *,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Compile the plan that sets the longest time between two checkpoints, on the primary.

    In dialect `auto` the plan is empty if the primary has that delay already.

    Args:
        pair: The declaration.
        snapshot: What both nodes and their records show.
        checkpoint_delay_ms: 1 to 4294967295.
        dialect: `auto` or `doc`.
        assume_good: Versions the operator vouches for.

    Raises:
        DeclarationError: The delay is out of range.
        VersionError: The version cannot run COLO.
        CompileError: There is no primary with a secondary, the change would force a checkpoint
            that deadlocks this QEMU (dialect `auto`), or a QEMU or a record belongs to another pair
            or node.
        UndecidedError: The records come from two births, or are managed by an arbiter.
    """
    attrs.evolve(pair, checkpoint_delay_ms=checkpoint_delay_ms)
    check(pair, snapshot)
    pair = members(pair, snapshot)
    primary, _ = roles(pair, snapshot)
    qemu = versions(snapshot, (primary,))
    style = dialects.of_name(dialect)
    features = style.accept(pair, qemu, assume_good)
    options = Options(checkpoint_delay_ms=checkpoint_delay_ms, assume_good=tuple(assume_good))
    draft = Draft("set-checkpoint-delay", pair, snapshot, options, qemu=qemu, dialect=dialect)
    style.set_delay(draft, primary, checkpoint_delay_ms, features)
    return draft.plan()


def failover(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    survivor: str | None = None,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Compile the plan by which one node runs alone after the other one has died.

    If it runs alone already and nothing of the pair is left on it, the plan only checks that its
    QEMU is still the same.

    If the record lets the other node run alone too, the plan first checks evidence of its death.
    The plan can be compiled while the pair is protected, and kept ready: it is *armed*. After any
    change of the record, compile another one.

    Args:
        pair: The declaration.
        snapshot: The survivor's state and the records. Whether the other node is dead matters only
            when the plan is executed.
        survivor: The node that survives; if None, the only node that answers, fresh secondaries
            left out.
        dialect: `auto` or `doc`.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: The version cannot run COLO.
        DeclarationError: `survivor` is not one of the pair's nodes.
        CompileError: It is not clear which node survives, the survivor has no guest to run, the
            record does not let it run alone, or a QEMU or a record belongs to another pair or node.
        UndecidedError: Only a person can say whether the survivor may run alone.
    """
    check(pair, snapshot)
    pair = members(pair, snapshot)
    name = survivor or only_live(pair, snapshot)
    pair.node(name)
    if name not in [node.name for node in pair.nodes]:
        told = " or ".join(node.name for node in pair.nodes)
        raise compile_error(
            "not-a-member",
            f"{name} is not one of the two nodes of the record",
            f"name {told}",
            node=name,
        )
    qemu = versions(snapshot, (name,))
    style = dialects.of_name(dialect)
    style.accept(pair, qemu, assume_good)
    options = Options(survivor=survivor, assume_good=tuple(assume_good))
    draft = Draft("failover", pair, snapshot, options, qemu=qemu, dialect=dialect)
    style.fail_over(draft, name)
    return draft.plan()


def stop(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Compile the plan that ends protection on purpose.

    The secondary's QEMU ends, and the primary's guest runs alone. The secondary's record must be
    within reach; its QEMU need not answer, and the plan continues if that QEMU cannot be ended. The
    plan is empty if no secondary answers, the newest record names none, and nothing of the pair is
    left on the primary.

    Args:
        pair: The declaration.
        snapshot: What both nodes and their records show.
        dialect: `auto`; QEMU's COLO document has no such procedure.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: A version cannot run COLO, or not with the pair's machine, or the two differ.
        CompileError: No primary answers, or two do, the records do not let the primary run alone,
            the secondary's record cannot be written, somebody paused the guest, a migration is
            being cancelled, a QEMU or a record belongs to another pair or node, or the dialect is
            `doc`.
        UndecidedError: A disk of the primary has failed, so that it may lack a write, the primary's
            record is absent or damaged, the records come from two births, or an arbiter manages
            them.
    """
    dialects.refuse_ending(dialect, "end protection")
    check(pair, snapshot)
    pair = members(pair, snapshot)
    options = Options(assume_good=tuple(assume_good))
    if _is_off(pair, snapshot):
        return _nothing_runs("stop", pair, snapshot, options, dialect)
    primary = leader(pair, snapshot)
    peer = pair.peer_of(primary).name
    live = [node for node in (primary, peer) if snapshot.live(node) is not None]
    qemu = versions(snapshot, live)
    dialects.of_name(dialect).accept(pair, qemu, assume_good)
    draft = Draft("stop", pair, snapshot, options, qemu=qemu, dialect=dialect)
    top = record.highest(snapshot.records)
    named = top is not None and top.partner == peer
    secondary = peer if named or len(live) == _BOTH else None
    if secondary is not None or tied(draft, primary):
        draft.check_instances(live)
        draft.check_parts(live)
        stop_protection(draft, primary, secondary)
    return draft.plan()


def switch_over(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    left_to: str | None = None,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Compile the plan that moves the guest to the secondary on purpose, without a loss.

    The primary's QEMU ends. If only the secondary answers by then, such as after an execution that
    stopped half-way, the plan is the failover that is left.

    Args:
        pair: The declaration.
        snapshot: What both nodes and their records show.
        left_to: The secondary, if its own agent fails over: the plan ends the primary's QEMU, and
            waits until the secondary has the guest. None if the plan fails over.
        dialect: `auto`; QEMU's COLO document has no such procedure.
        assume_good: Versions the operator vouches for.

    Raises:
        DeclarationError: `left_to` is not one of the pair's nodes.
        VersionError: A version cannot run COLO, or not with the pair's machine, or the two differ.
        CompileError: The pair is not protected, `left_to` is not the secondary, this QEMU deadlocks
            at a checkpoint, a QEMU or a record belongs to another pair or node, or the dialect is
            `doc`.
        UndecidedError: A disk of the secondary has refused a write, the records come from two
            births, or an arbiter manages them.
    """
    dialects.refuse_ending(dialect, "switch over")
    check(pair, snapshot)
    pair = members(pair, snapshot)
    live = [node.name for node in pair.nodes if snapshot.live(node.name) is not None]
    both = roles(pair, snapshot) if len(live) == _BOTH else (only_live(pair, snapshot),)
    qemu = versions(snapshot, both)
    features = dialects.of_name(dialect).accept(pair, qemu, assume_good)
    _check_left_to(pair, both[-1], left_to)
    options = Options(left_to=left_to, assume_good=tuple(assume_good))
    draft = Draft("switch-over", pair, snapshot, options, qemu=qemu, dialect=dialect)
    if len(live) == _BOTH:
        tune.refuse_deadlock(draft, features)
        end_primary(draft, *both)
    else:
        _check_left(draft, *both)
    if left_to is None:
        fail_over(draft, both[-1])
    else:
        await_failover(draft, both[-1])
    return draft.plan()


def _check_left_to(pair: ColoPair, secondary: str, left_to: str | None) -> None:
    """Check, for `switch-over`, that the failover is left to the secondary, if to any node.

    Raises:
        DeclarationError: `left_to` is not one of the pair's nodes.
        CompileError: `left_to` is not the secondary.
    """
    if left_to is not None and pair.node(left_to).name != secondary:
        why = f"the failover is left to {left_to}, and {secondary} is to have the guest"
        raise compile_error("not-a-member", why, f"leave it to {secondary}", node=left_to)


def shutdown(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Compile the plan by which the guest powers itself off and both QEMUs end.

    The plan presses the guest's power button, and waits for up to `shutdown_s` of the pair's
    `timeouts` until the guest is off and the primary's QEMU has ended by itself. Then the
    secondary's QEMU is ended, if there is one; if the guest does not power off in time, no QEMU
    is, and the guest runs on. The records stay as they are, so `launch`
    boots the guest again from the newest data. If no QEMU of the pair is known to run, and the
    records of all nodes were read, the plan only checks that none runs.

    Args:
        pair: The declaration.
        snapshot: What both nodes and their records show.
        dialect: `auto`; QEMU's COLO document has no such procedure.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: A version cannot run COLO, or not with the pair's machine, or the two differ.
        CompileError: No primary answers, its guest does not run, a QEMU or a record belongs to
            another pair or node, or the dialect is `doc`. A secondary without its primary is
            refused too: nothing shows whether its guest was powered off or still has to continue in
            it.
        UndecidedError: The records come from two births, or an arbiter manages them.
    """
    dialects.refuse_ending(dialect, "shut a guest down")
    check(pair, snapshot)
    pair = members(pair, snapshot)
    options = Options(assume_good=tuple(assume_good))
    if _is_off(pair, snapshot):
        return _nothing_runs("shutdown", pair, snapshot, options, dialect)
    _refuse_left(pair, snapshot)
    primary = leader(pair, snapshot)
    live = [node.name for node in pair.nodes if snapshot.live(node.name) is not None]
    qemu = versions(snapshot, live)
    dialects.of_name(dialect).accept(pair, qemu, assume_good)
    draft = Draft("shutdown", pair, snapshot, options, qemu=qemu, dialect=dialect)
    shut_down(draft, primary)
    return draft.plan()


def _refuse_left(pair: ColoPair, snapshot: Snapshot) -> None:
    """Refuse to shut down a secondary whose primary is missing.

    Raises:
        CompileError: A secondary is in COLO, and no primary answers.
    """
    found = {node.name: role_of(snapshot.state(node.name)) for node in pair.nodes}
    if any(role in PRIMARIES for role in found.values()):
        return
    for name in (name for name, role in found.items() if role in IN_COLO):
        why = f"{name} is in COLO, and its primary is missing"
        advice = f"if the guest was powered off, end the QEMU of {name}; else fail over to {name}"
        raise compile_error("primary-missing", why, advice, node=name)


def _is_off(pair: ColoPair, snapshot: Snapshot) -> bool:
    """Whether no QEMU is known to run, by its monitor or its host, and all records were read."""
    files = [snapshot.records.get(name, record.NOT_READ) for name in pair.names]
    states = [snapshot.state(name) for name in pair.names]
    unread = any(isinstance(file, record.UnreadRecord) for file in files)
    runs = any(isinstance(state, Live | Unresponsive) for state in states)
    return not (unread or runs or snapshot.running)


def _nothing_runs(
    procedure: Procedure,
    pair: ColoPair,
    snapshot: Snapshot,
    options: Options,
    dialect: DialectName,
) -> Plan:
    """Compile the plan of a procedure that has nothing to do, since no QEMU of the pair runs."""
    draft = Draft(procedure, pair, snapshot, options, qemu={}, dialect=dialect)
    check_not_running(draft, pair.names)
    return draft.plan()


def checkpoint(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Compile the plan that forces one checkpoint, which proves that protection works.

    The plan waits until the checkpoint has ended on both nodes. A pair whose COLO has ended can
    look healthy (qemu-behaviour 18.4); this plan then fails. Compiled again, it forces another
    checkpoint.

    Args:
        pair: The declaration.
        snapshot: What both nodes and their records show.
        dialect: `auto`; QEMU's COLO document has no such procedure.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: A version cannot run COLO, or not with the pair's machine, or the two differ.
        CompileError: The pair is not protected, this QEMU deadlocks at a checkpoint, a QEMU or a
            record belongs to another pair or node, or the dialect is `doc`.
        UndecidedError: The records come from two births, or an arbiter manages them.
    """
    dialects.refuse_ending(dialect, "prove a pair")
    check(pair, snapshot)
    pair = members(pair, snapshot)
    both = roles(pair, snapshot)
    qemu = versions(snapshot, both)
    features = dialects.of_name(dialect).accept(pair, qemu, assume_good)
    options = Options(assume_good=tuple(assume_good))
    draft = Draft("checkpoint", pair, snapshot, options, qemu=qemu, dialect=dialect)
    tune.refuse_deadlock(draft, features)
    prove(draft, *both)
    return draft.plan()


def _check_left(draft: Draft, name: str) -> None:
    """Check, for `switch-over`, that the only node that answers is or was the secondary.

    Raises:
        CompileError: The node is the primary, and no other node can take its guest.
    """
    live = draft.live(name)
    if "secondary" in (live.colo_mode, live.last_colo_mode) and live.colo_mode != "primary":
        return
    why = f"only {name} answers, which has the guest, and no other node can take it over"
    advice = f"fail over to {name}, then protect it anew"
    raise compile_error("not-protected", why, advice, node=name)


def forget(pair: ColoPair, snapshot: Snapshot, gone: str) -> Plan:
    """Compile the plan that removes a node from the records because an operator says it is gone.

    Afterwards the other nodes can be started without the host of that node. If the record still
    lets that node run alone, the plan first checks evidence that its QEMU has ended. If the
    declaration still names it, the plan also checks that no QEMU of it is known to run. A record
    that could not be read is left as it is.

    Args:
        pair: The declaration; it need not name the node that is gone any more.
        snapshot: The states of the nodes, and the records of all other nodes.
        gone: The node's name.

    Raises:
        CompileError: The record of the node with the newest data cannot be read, or a QEMU or a
            record belongs to another pair or node.
        UndecidedError: The node that is gone holds the newest data or may have run alone, no record
            could be read, the records come from two births, or an arbiter manages them.
    """
    check(pair, snapshot, without=gone)
    draft = Draft("forget", pair, snapshot, Options(gone=gone), qemu={}, dialect="auto")
    forget_node(draft, gone)
    return draft.plan()

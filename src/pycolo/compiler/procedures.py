"""The procedures as callers see them: roles are derived, versions accepted, then steps emitted."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import attrs

from pycolo import record
from pycolo.compiler import dialects, tune
from pycolo.compiler._draft import Draft
from pycolo.compiler.failover import fail_over, prove, tied
from pycolo.compiler.failover import stop as stop_protection
from pycolo.compiler.failover import switch_over as switch
from pycolo.compiler.launch import (
    Role,
    check_devices,
    check_not_running,
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
from pycolo.model.pair import ColoPair
from pycolo.plan import OFFLINE_BIRTH, DialectName, Options, Plan, Procedure
from pycolo.qmp.replies import Version
from pycolo.snapshot import Snapshot, role_of

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
    """Images and QEMUs, for both nodes or for some.

    A node whose peer has a guest becomes its secondary. If no node has one, the node that holds the
    newest data by the record becomes primary; for a new pair that is the pair's first node, and
    the others are secondaries, whichever is launched first.

    Args:
        pair: The declaration.
        snapshot: What is known, the records of all nodes included; a node that answers is left
            alone.
        qemu: Node name to the version of the QEMU installed there.
        nodes: The nodes to launch; if empty, the two that the record names. A spare takes the
            place of the node that does not hold the newest data.
        newest: Who holds the newest data by an operator's statement, against what the records say;
            its QEMU may run already.
        instances: Node name to the identity its QEMU gets, `PAIR:NODE:HEX`, never used before; a
            counted one if none is given, which serves for plans that are not executed.
        birth: Random text that tells a new pair from others of its name; not used for one that has
            a record.
        dialect: `auto`, or `doc` for the document's own command lines.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: A version cannot run COLO, or the two differ.
        DeclarationError: A name in `nodes` or `instances` is none of the pair's, an identity in
            `instances` has another form, or `qemu` lacks a node that is launched.
        CompileError: Another node holds the newest data, one is in the way, or `newest` is not
            among those launched.
        UndecidedError: The records do not tell who holds the newest data.
    """
    check(pair, snapshot)
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


def _refuse_unseen(draft: Draft, missing: Sequence[str]) -> None:
    """Refuse to start anything for a node whose QEMU runs and gives no answer.

    Where nobody has the guest, no other node's QEMU may run unseen either: it may have it.

    Raises:
        CompileError: The host of such a node knows its process.
    """
    states = (draft.now.state(node.name) for node in draft.pair.nodes)
    guest = any(role_of(state) in PRIMARIES for state in states)
    names = missing if guest else _silent(draft)
    check_all(partial(_check_seen, draft, name) for name in names)


def _refuse_too_early(draft: Draft, missing: Sequence[str]) -> None:
    """Refuse to start a secondary while a primary is in COLO.

    It would connect to what a failover takes away, and not notice that (qemu-behaviour 3.16).

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
    unseen = draft.now.running.get(name)
    if unseen is not None:
        what = f"{unseen.instance or 'a QEMU'} runs and gives no answer"
        why = f"{what} ({name}: {stands(draft.now, name)})"
        raise compile_error("runs-unseen", why, END_OR_LET_GO, node=name)


def _silent(draft: Draft) -> list[str]:
    """Every node that does not answer: if one becomes primary, none of them may run unseen."""
    names = draft.pair.names
    return [name for name in names if draft.now.live(name) is None]


def _taking_in(
    pair: ColoPair, wanted: Sequence[str], snapshot: Snapshot, newest: str | None
) -> ColoPair:
    """The pair with a spare that is wanted in the place of the one that does not hold the data."""
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
    for name, instance in given.items():
        if name not in wanted:
            rule = f"be for a node that is launched, which are {', '.join(wanted)}"
            raise DeclarationError(f"instances.{name}", instance, rule)
        if re.fullmatch(f"{re.escape(pair.name)}:{name}:[0-9a-f]{{8}}", instance) is None:
            rule = f"be {pair.name}:{name}:HEX, with HEX eight lower-case hexadecimal digits"
            raise DeclarationError(f"instances.{name}", instance, rule)
    missing = [name for name in wanted if snapshot.live(name) is None]
    return {name: given.get(name) or _counted(pair, snapshot, name) for name in missing}


def _counted(pair: ColoPair, snapshot: Snapshot, name: str) -> str:
    known = [instance for state in snapshot.records.values() for instance in _named(state)]
    live = snapshot.live(name)
    known += [] if live is None else [live.instance]
    prefix = f"{pair.name}:{name}:"
    numbers = [_number(i.removeprefix(prefix)) for i in known if i.startswith(prefix)]
    return instance_of(pair.name, name, 1 + max(numbers, default=0))


def _number(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0


def _named(state: record.RecordState) -> tuple[str, ...]:
    if not isinstance(state, record.PairRecord):
        return ()
    return (*state.eligible.values(), *(() if state.joining is None else (state.joining,)))


def _new_primary(draft: Draft, declared: ColoPair, missing: Sequence[str]) -> str | None:
    """Who becomes primary; None if somebody has the guest, or nobody is launched.

    Raises:
        CompileError: A node of the declaration has the guest as a secondary without its primary.
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
        # Its first node begins a new pair, even if the others are started before it.
        return None
    return holder if holder in missing else missing[0]


def _refuse_orphan(draft: Draft, name: str) -> None:
    """Refuse to start a primary beside a secondary that has the guest, with the way that leads on.

    Raises:
        CompileError: Always.
    """
    why = f"{name} has the guest, as COLO's secondary, and its primary is missing"
    advice = f"fail over to {name}"
    instance = draft.live(name).instance
    try:
        record.may_go_on(draft.now.records, name, instance, leads=False)
    except CompileError as error:
        # Only a record that was read says that others have all that it has.
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

    Args:
        pair: The declaration.
        snapshot: What both nodes and their records show. The primary's guest may run already.
        peer: The node that will protect the guest. If None, the one that the record names or,
            if that does not answer, the only fresh secondary.
        dialect: `auto` or `doc`.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: A version cannot run COLO, or the two differ.
        DeclarationError: `peer` is none of the pair's nodes.
        CompileError: No safe way leads there from the snapshot.
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
    """From a survivor and a fresh secondary back to a protected pair.

    Args:
        pair: The declaration.
        snapshot: What both nodes and their records show.
        peer: The node that will protect the guest. If None, the one that the record names or,
            if that does not answer, the only fresh secondary.
        dialect: `auto` or `doc`.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: A version cannot run COLO, or the two differ.
        DeclarationError: `peer` is none of the pair's nodes.
        CompileError: No safe way leads there from the snapshot.
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
        CompileError: There is no primary with a secondary, or the change would wedge it.
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
    """One node runs alone after the other's death. Its first step looks for evidence of that.

    The plan can be compiled while all is well and kept ready: it is *armed*. After
    any change of the record, compile another one.

    Args:
        pair: The declaration.
        snapshot: What the survivor and the records show; of the other node only its death counts,
            and only when the plan is executed.
        survivor: The node that survives; if None, the only node that answers.
        dialect: `auto` or `doc`.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: The version cannot run COLO.
        DeclarationError: `survivor` is none of the pair's nodes.
        CompileError: It is not clear who survives, the survivor has no guest to run, or the
            record does not let it.
        UndecidedError: Only a person can say whether it may.
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
    """Ends protection on purpose: the secondary ends, the primary's guest runs alone.

    The secondary's record must be within reach; its QEMU need not answer.

    Args:
        pair: The declaration.
        snapshot: What both nodes and their records show.
        dialect: `auto`; the document has no such procedure.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: The version cannot run COLO.
        CompileError: No primary answers, the secondary's record cannot be written, or the dialect
            is `doc`.
    """
    dialects.refuse_ending(dialect, "end protection")
    check(pair, snapshot)
    pair = members(pair, snapshot)
    primary = leader(pair, snapshot)
    peer = pair.peer_of(primary).name
    live = [node for node in (primary, peer) if snapshot.live(node) is not None]
    qemu = versions(snapshot, live)
    dialects.of_name(dialect).accept(pair, qemu, assume_good)
    options = Options(assume_good=tuple(assume_good))
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
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Moves the guest to its secondary on purpose; the primary's QEMU ends. Nothing is lost.

    Compiled again after the primary has ended, it is the failover that is left.

    Args:
        pair: The declaration.
        snapshot: What both nodes and their records show.
        dialect: `auto`; the document has no such procedure.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: The version cannot run COLO, or deadlocks at a checkpoint.
        CompileError: The pair is not protected, or the dialect is `doc`.
    """
    dialects.refuse_ending(dialect, "switch over")
    check(pair, snapshot)
    pair = members(pair, snapshot)
    live = [node.name for node in pair.nodes if snapshot.live(node.name) is not None]
    both = roles(pair, snapshot) if len(live) == _BOTH else (only_live(pair, snapshot),)
    qemu = versions(snapshot, both)
    features = dialects.of_name(dialect).accept(pair, qemu, assume_good)
    options = Options(assume_good=tuple(assume_good))
    draft = Draft("switch-over", pair, snapshot, options, qemu=qemu, dialect=dialect)
    if len(live) == _BOTH:
        tune.refuse_deadlock(draft, features)
        switch(draft, *both)
    else:
        _check_left(draft, *both)
        fail_over(draft, *both)
    return draft.plan()


def shutdown(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Has the guest power itself off, and sees both QEMUs end; `launch` boots it again.

    The guest is asked by its power button. Once it is off, the secondary's QEMU is ended; if it
    does not power off in time, nothing is. The records stay as they are: the node with the newest
    data is still the one to boot.

    Args:
        pair: The declaration.
        snapshot: What both nodes and their records show.
        dialect: `auto`; the document has no such procedure.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: The version cannot run COLO.
        CompileError: No primary answers, its guest does not run, or the dialect is `doc`. A
            secondary that is left alone is not ended: whether its guest was powered off before, or
            lives on in it, is forgotten with the primary.
    """
    dialects.refuse_ending(dialect, "shut a guest down")
    check(pair, snapshot)
    pair = members(pair, snapshot)
    options = Options(assume_good=tuple(assume_good))
    if _is_off(pair, snapshot):
        draft = Draft("shutdown", pair, snapshot, options, qemu={}, dialect=dialect)
        check_not_running(draft, pair.names)
        return draft.plan()
    _refuse_left(pair, snapshot)
    primary = leader(pair, snapshot)
    live = [node.name for node in pair.nodes if snapshot.live(node.name) is not None]
    qemu = versions(snapshot, live)
    dialects.of_name(dialect).accept(pair, qemu, assume_good)
    draft = Draft("shutdown", pair, snapshot, options, qemu=qemu, dialect=dialect)
    shut_down(draft, primary)
    return draft.plan()


def _refuse_left(pair: ColoPair, snapshot: Snapshot) -> None:
    found = {node.name: role_of(snapshot.state(node.name)) for node in pair.nodes}
    if any(role in PRIMARIES for role in found.values()):
        return
    for name in (name for name, role in found.items() if role in IN_COLO):
        why = f"{name} is in COLO, and its primary is missing"
        advice = f"if the guest was powered off, end the QEMU of {name}; else fail over to {name}"
        raise compile_error("primary-missing", why, advice, node=name)


def _is_off(pair: ColoPair, snapshot: Snapshot) -> bool:
    """Whether no node answers, and every host was asked, so that none is known to run."""
    files = [snapshot.records.get(name, record.NOT_READ) for name in pair.names]
    unread = any(isinstance(file, record.UnreadRecord) for file in files)
    return not unread and all(snapshot.live(name) is None for name in pair.names)


def checkpoint(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    dialect: DialectName = "auto",
    assume_good: Collection[Version] = (),
) -> Plan:
    """Forces one checkpoint and sees it end on both nodes, which proves that protection works.

    A pair whose COLO has ended can look healthy (qemu-behaviour 18.4); this finds it out. It is
    never done: each time it is compiled, it is another checkpoint.

    Args:
        pair: The declaration.
        snapshot: What both nodes and their records show.
        dialect: `auto`; the document has no such procedure.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: The version cannot run COLO.
        CompileError: The pair is not protected, this QEMU deadlocks at a checkpoint, or the dialect
            is `doc`.
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
        CompileError: It is the node that has the guest and was to give it up.
    """
    live = draft.live(name)
    if "secondary" in (live.colo_mode, live.last_colo_mode) and live.colo_mode != "primary":
        return
    why = f"only {name} answers, which has the guest, and no other node can take it over"
    advice = f"fail over to {name}, then protect it anew"
    raise compile_error("not-protected", why, advice, node=name)


def forget(pair: ColoPair, snapshot: Snapshot, gone: str) -> Plan:
    """Takes a node that is gone for good out of the records, by an operator's statement.

    Afterwards the others can be started without its host. Evidence that its QEMU has ended is
    needed if it could still continue.

    Args:
        pair: The declaration; it need not name that node any more.
        snapshot: What is known, the records of all other nodes included.
        gone: The node's name.

    Raises:
        CompileError: The record of the node with the newest data cannot be read.
        UndecidedError: The node that is gone holds the newest data or may have run alone, or no
            record could be read.
    """
    check(pair, snapshot, without=gone)
    draft = Draft("forget", pair, snapshot, Options(gone=gone), qemu={}, dialect="auto")
    forget_node(draft, gone)
    return draft.plan()

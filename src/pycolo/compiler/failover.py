"""`failover`, `stop` and `switch-over`: one node runs alone.

A primary takes the same steps whether its secondary died or was dismissed: write its own record,
cut every connection to the secondary, give the guest its network and disk back, end COLO, then
remove the parts that are left. The steps that bring the guest back come first (qemu-behaviour 7.9,
7.10).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from pycolo import record, topology
from pycolo.compiler import _disks, _filters
from pycolo.compiler._draft import Draft
from pycolo.conditions import (
    AllOf,
    AnyOf,
    CheckpointSeen,
    ColoExited,
    ColoModeIs,
    Gone,
    MigrationIs,
    PeerDead,
    RunStateIs,
)
from pycolo.errors import compile_error, undecided
from pycolo.evidence import Victim, node_of
from pycolo.plan import Execute, Refusal, StopQemu
from pycolo.qmp.commands import (
    CapabilityName,
    Cont,
    MigrateContinue,
    MigrateSetCapabilities,
    MigrateSetParameters,
    MigrationCapability,
    NbdServerStop,
    Quit,
    XColoLostHeartbeat,
    Yank,
)
from pycolo.qmp.states import MIGRATION_MOVING, MIGRATION_OVER, RUN_PAUSED
from pycolo.record import PairRecord, UnreadRecord

CAPABILITIES: tuple[CapabilityName, ...] = get_args(CapabilityName)
NOT_IN_COLO = (
    Refusal(text="VM is not in COLO mode"),
    Refusal(text="The feature 'colo' is not enabled"),
    Refusal(text="COLO failover is already activated"),
)
LOST_HEARTBEAT_WHY = "ends COLO here and runs the guest (qemu-behaviour 8.1); its end is waited for"


def fail_over(draft: Draft, survivor: str) -> None:
    """Emit the steps by which `survivor` continues without its peer.

    Nothing is emitted if the survivor runs alone already and no parts of the pair are left.

    Raises:
        CompileError: The survivor has no guest that could continue, its guest was paused by
            somebody, a migration is being cancelled, or the records do not let it run alone.
        UndecidedError: Only a person can decide, such as when a disk of the survivor has refused
            a write.
    """
    live, role = draft.live(survivor), _survivors_role(draft, survivor)
    victim = _check_may(draft, survivor)
    if victim is None and not _is_unfinished(draft, survivor):
        return
    _check_can(draft, survivor)
    if victim is not None:
        _check_disks(draft, survivor, draft.pair.peer_of(survivor).name)
    commit = _commit_after(draft, survivor)
    claim = record.failed_over(draft.now.records, survivor, live.instance, commit=commit)
    promoted = role == "secondary"
    if not promoted or _was_promoted(draft, survivor):
        # The record comes first: a yanked disk lets hanging writes end without the secondary.
        _claim(draft, survivor, claim, victim)
        run_alone(draft, survivor)
        if promoted:
            clear_promoted(draft, survivor)
    else:
        promote(draft, survivor, claim, victim)
    peer = draft.pair.peer_of(survivor).name
    _tell_peer(draft, survivor, peer)
    if promoted or commit == "pending":
        settle(draft, survivor)


def _check_can(draft: Draft, node: str) -> None:
    """Check that nothing but pycolo has stopped the guest or its migration.

    Raises:
        CompileError: Somebody else paused the guest, or a migration is being cancelled.
    """
    live, own = draft.live(node), draft.now.records.get(node)
    joining = isinstance(own, PairRecord) and own.phase == "joining"
    if live.run_state == "paused" and not joining and not tied(draft, node):
        why = f"somebody paused the guest on {node}; pycolo did not"
        advice = "find out why, continue the guest, then run the procedure again"
        raise compile_error("paused", why, advice, node=node)
    check_not_cancelling(draft, node)


def check_not_cancelling(draft: Draft, node: str) -> None:
    """Check that no migration is being cancelled.

    Raises:
        CompileError: A migration is being cancelled.
    """
    live = draft.live(node)
    if live.migration == "cancelling" and live.colo_mode == "none":
        why = f"the migration of {node} is being cancelled"
        advice = (
            f"try again in a second; one that was cancelled inside COLO never ends"
            f" (qemu-behaviour 8.9): then end the QEMU of {node}, and fail over to its peer if that"
            " is still in COLO, else launch again"
        )
        raise compile_error("cancelling", why, advice, node=node)


def _check_disks(draft: Draft, node: str, peer: str) -> None:
    """Check that a node's own disks have every write that its peer has.

    Raises:
        UndecidedError: A disk of the node has failed.
    """
    if draft.live(node).disk_error:
        why = f"a disk of {node} has failed, and {peer} may have writes that it lacks"
        raise undecided("disk-failed", why, _advice(draft, node, peer), node=node)


def _advice(draft: Draft, node: str, peer: str) -> str:
    """What to do after a disk of a node has failed."""
    other = draft.now.live(peer)
    decide = "decide whose data is right, end both QEMUs, and launch that node with --newest and"
    if _is_lost(draft, node, peer):
        return f"{peer} lacks writes too: {decide} its name"
    if other is not None:
        return "run switch-over"
    return f"{decide} its name"


def _is_lost(draft: Draft, *nodes: str) -> bool:
    """Whether replication of a disk is known to have failed."""
    live = [draft.now.live(node) for node in nodes]
    return any(one is not None and one.replication_error for one in live)


def claim_alone(draft: Draft, survivor: str) -> None:
    """Emit the steps that must come before a survivor continues alone.

    If the record lets another QEMU run alone too, they first check the evidence of its end. They
    then check that the survivor's QEMU is still the same, and write the survivor's record, by which
    it alone is eligible. They do not end COLO.

    Raises:
        CompileError: The records do not let the survivor run alone.
        UndecidedError: Only a person can decide whether the survivor may run alone.
    """
    live = draft.live(survivor)
    victim = _check_may(draft, survivor)
    commit = _commit_after(draft, survivor)
    claim = record.failed_over(draft.now.records, survivor, live.instance, commit=commit)
    _claim(draft, survivor, claim, victim)


def _check_may(draft: Draft, survivor: str) -> Victim | None:
    """Emit the check of the evidence, then that of the survivor's instance, in this order.

    Returns:
        The QEMU whose end the evidence must show; None if the survivor needs no evidence.

    Raises:
        CompileError: The records do not let the survivor run alone.
        UndecidedError: Only a person can decide whether the survivor may run alone.
    """
    live = draft.live(survivor)
    leads = live.colo_mode != "secondary"
    victim = record.may_run_alone(draft.now.records, survivor, live.instance, leads=leads)
    if victim is not None:
        evidence = PeerDead(node=victim.node, instance=victim.instance, epoch=victim.epoch)
        why = "two guests serving at once is worse than none (qemu-behaviour 8.6)"
        draft.check(survivor, f"dead:{victim.node}", evidence, why)
    draft.check_instances((survivor,))
    return victim


def _claim(draft: Draft, node: str, claim: PairRecord, victim: Victim | None) -> None:
    """Emit the record by which a node alone is eligible, with the evidence that it needs."""
    why = f"before it runs alone, that is written down: {node} alone is eligible (record, rule 3)"
    draft.record(node, "sole", claim, why, needs=victim)


def _tell_peer(draft: Draft, survivor: str, peer: str) -> None:
    """Emit the copy of the survivor's record into the peer's file, if that file was read.

    The peer's file then gives the peer no right to run alone. The step may fail.
    """
    own, other = (draft.now.records.get(name) for name in (survivor, peer))
    if not isinstance(own, PairRecord) or own == other or isinstance(other, UnreadRecord | None):
        return
    why = f"{peer} learns that {survivor} took over; its host may be gone (record, rule 1)"
    draft.record(peer, "out", own, why, may_fail=True)


def settle(draft: Draft, node: str) -> None:
    """Emit the wait for a promotion's merge, its record, and the deletion of the overlay nodes.

    The steps come in this order, and only those that are missing are emitted.
    """
    _disks.ensure_committed(draft, node)
    ensure_clean(draft, node)
    for disk in draft.pair.disks:
        _disks.remove_overlays(draft, node, disk)


def ensure_clean(draft: Draft, node: str) -> None:
    """Emit the record that a node's image is complete without overlays, if its own says `pending`.

    Call it after the wait for the merge.
    """
    own = draft.now.records.get(node)
    if isinstance(own, PairRecord) and own.commit == "pending":
        why = "the image is complete without overlays now: it may be booted (qemu-behaviour 5.13)"
        draft.record(node, "clean", record.merged(draft.now.records, node), why)


def _commit_after(draft: Draft, survivor: str) -> record.Commit:
    """The `commit` for the record of a survivor that runs alone.

    Returns:
        `pending` if writes are still in overlays and not in the survivor's image.
    """
    live, own = draft.live(survivor), draft.now.records.get(survivor)
    if live.colo_mode == "secondary":
        return "pending" if draft.pair.disks else "clean"
    written = own.commit if isinstance(own, PairRecord) else "clean"
    return "pending" if live.commit_pending else written


def _is_unfinished(draft: Draft, survivor: str) -> bool:
    """Whether a lone survivor still has parts of the pair, a pending merge or a stopped guest."""
    live, own = draft.live(survivor), draft.now.records.get(survivor)
    pending = isinstance(own, PairRecord) and own.commit == "pending"
    booted = live.run_state == "prelaunch" and isinstance(own, PairRecord) and own.is_sole
    stands = live.run_state in (*RUN_PAUSED, "colo") or booted
    return tied(draft, survivor) or pending or stands or _has_secondary_parts(draft, survivor)


def _has_secondary_parts(draft: Draft, node: str) -> bool:
    """Whether a node still has redirectors, overlays, exports or an NBD server of a secondary."""
    pair, live = draft.pair, draft.live(node)
    names = [c.names for c in pair.chains]
    filters = {i for n in names for i in (n.redirector_from_primary, n.redirector_to_primary)}
    links = {i for n in names for i in (n.red_in, n.red_out)}
    overlays = {i for d in pair.disks for i in (d.names.active, d.names.hidden)}
    parts = (filters & set(live.objects)) | (links & set(live.chardevs))
    return bool(parts or overlays & live.block_nodes or live.exports or live.nbd_server)


def _was_promoted(draft: Draft, survivor: str) -> bool:
    """Whether a promoted survivor has left COLO and is connected to a new peer."""
    return draft.live(survivor).colo_mode == "none" and _linked(draft, survivor)


def stop(draft: Draft, primary: str, secondary: str | None) -> None:
    """Emit the steps that end protection on purpose: the secondary ends, the guest continues.

    Args:
        draft: The plan so far.
        primary: The node whose guest continues.
        secondary: The node whose QEMU ends; None if the primary has no partner.

    Raises:
        CompileError: The records do not let the primary run alone, the secondary's record cannot
            be written, somebody paused the guest, or a migration is being cancelled.
        UndecidedError: A disk of the primary has failed, so that it may lack a write, or the
            primary's record is absent or damaged.
    """
    records, instance = draft.now.records, draft.live(primary).instance
    record.may_lead(records, primary, instance, secondary)
    _check_can(draft, primary)
    if secondary is not None:
        _check_disks(draft, primary, secondary)
    named = instances_on(draft, secondary)
    narrowed = record.narrowed(records, primary, instance)
    if secondary is not None:
        why = f"{secondary} loses its right to run alone before {primary} does (record, rule 4)"
        draft.record(secondary, "out", narrowed, why)
    why = f"{primary} alone is eligible from here on (record, rule 3)"
    draft.record(primary, "sole", narrowed, why)
    if secondary is not None:
        why = "it has no rights any more; no second guest is left to run on (qemu-behaviour 8.8)"
        end_secondary(draft, secondary, named, why)
    run_alone(draft, primary)


def instances_on(draft: Draft, node: str | None) -> tuple[str, ...]:
    """The instances of a node that perhaps run: the one that answers, and those in the records.

    Args:
        draft: The plan so far.
        node: The node; for None the result is empty.

    Returns:
        Each instance once, the one that answers first; empty if none is known.
    """
    if node is None:
        return ()
    live = draft.now.live(node)
    found = [] if live is None else [live.instance]
    for state in draft.now.records.values():
        if isinstance(state, PairRecord):
            named = (*state.eligible.values(), state.joining or "")
            found += [instance for instance in named if node_of(instance) == node]
    return tuple(dict.fromkeys(instance for instance in found if instance))


def end_secondary(draft: Draft, secondary: str, instances: tuple[str, ...], why: str) -> None:
    """Emit the steps that end a secondary's QEMU, through its monitor and through its host.

    If the QEMU answers, its monitor is asked first. Then the host ends each of the instances, also
    if the monitor has worked. Each step may fail; the plan continues.

    Args:
        draft: The plan so far.
        secondary: The node.
        instances: The instances that the host ends, which perhaps run, as `instances_on` finds
            them; if empty, no step on the host is emitted.
        why: Why the QEMU is ended, for people.
    """
    limit_s = draft.timeouts.command_s
    if draft.now.live(secondary) is not None:
        draft.execute(secondary, Quit(), why, may_fail=True)
        why = "it has hung up, or its host ends it (qemu-behaviour 8.8)"
        gone = Gone(node=secondary)
        draft.wait(secondary, "gone", gone, why, limit_s=limit_s, may_fail=True)
    for instance in instances:
        why = "it is ended, whatever state it is in (qemu-behaviour 8.6)"
        action = StopQemu(instance=instance)
        draft.run_host(
            *(secondary, "stop-qemu", instance),
            action,
            why=why,
            limit_s=limit_s,
            may_fail=True,
        )


def end_primary(draft: Draft, primary: str, secondary: str) -> None:
    """Emit the steps that end a primary's QEMU, so that its secondary takes over without a loss.

    A forced checkpoint comes first, with the wait until both sides show it; if it fails, QEMU is
    not ended. QEMU is ended on its host. Its end is the evidence for the failover.

    Raises:
        CompileError: The records do not name both instances as eligible, replication of a disk has
            failed, or an external snapshot takes the guest's writes.
        UndecidedError: Replication has failed, and a disk of the primary as well.
    """
    prove(draft, primary, secondary)
    instance = draft.live(primary).instance
    why = f"it ends here, so that {secondary} takes over; its end is the evidence"
    draft.run_host(
        *(primary, "stop-qemu", instance),
        StopQemu(instance=instance),
        why=why,
        limit_s=draft.timeouts.command_s,
    )


def await_failover(draft: Draft, secondary: str) -> None:
    """Emit the wait for the failover that the secondary's own agent does."""
    why = f"the agent of {secondary} fails over: it alone writes the record for {secondary}"
    _wait_restored(draft, secondary, why)


def prove(draft: Draft, primary: str, secondary: str) -> None:
    """Emit a checkpoint, which shows that a protected pair works.

    Raises:
        CompileError: The records do not name both instances as eligible, replication of a disk has
            failed, or an external snapshot takes the guest's writes.
        UndecidedError: Replication has failed, and a disk of the primary as well.
    """
    instances = {node: draft.live(node).instance for node in (primary, secondary)}
    if not record.is_protected(draft.now.records, instances):
        why = f"{secondary} is not eligible by the record"
        raise compile_error("not-protected", why, "make the pair protected with resume first")
    _disks.check_not_overlaid(draft, primary)
    if _is_lost(draft, primary, secondary):
        # A checkpoint succeeds without the replication of a plain NBD node (qemu-behaviour 5.10).
        _check_disks(draft, primary, secondary)
        why = f"replication of a disk has failed, and {secondary} lacks writes"
        advice = f"run stop, launch {secondary} again, then run resume"
        raise compile_error("not-protected", why, advice, node=secondary)
    draft.check_instances((primary, secondary))
    force_checkpoint(draft, primary, secondary)
    # Last: a write that fails before it is known by then.
    _disks.check_replicates(draft, primary)


def force_checkpoint(draft: Draft, primary: str, secondary: str) -> str:
    """Emit a forced checkpoint and the wait until both sides show it (qemu-behaviour 4.4, 18.4).

    Returns:
        The address of the wait.
    """
    since = draft.execute(
        primary,
        MigrateSetParameters(x_checkpoint_delay_ms=draft.live(primary).checkpoint_delay_ms),
        "setting the same delay again forces a checkpoint (qemu-behaviour 4.11, 18.4)",
    )
    both = (primary, secondary)
    until = AllOf(conditions=tuple(CheckpointSeen(node=node, since=since) for node in both))
    return draft.wait(
        primary,
        "checkpoint",
        until,
        "a broken pair can look healthy; a checkpoint on both sides is proof (qemu-behaviour 18.4)",
        limit_s=draft.timeouts.checkpoint_s,
        unless=AnyOf(conditions=tuple(ColoExited(node=node) for node in both)),
    )


def _survivors_role(draft: Draft, survivor: str) -> str:
    """The role of the survivor: its role in COLO now, or else the one that it had last.

    Raises:
        CompileError: The survivor never ran in COLO and has no guest.
    """
    live = draft.live(survivor)
    if live.colo_mode != "none":
        return live.colo_mode
    if live.run_state == "inmigrate" or (live.incoming and live.last_colo_mode == "none"):
        why = f"{survivor} never ran in COLO, so it has no guest to run (qemu-behaviour 4.10)"
        raise compile_error(
            "never-in-colo",
            why,
            "launch the node with the newest data as primary instead",
            node=survivor,
        )
    return live.last_colo_mode if live.last_colo_mode == "secondary" else "primary"


def run_alone(draft: Draft, primary: str) -> None:
    """Emit the steps by which a primary continues without its secondary (qemu-behaviour 7.9).

    The step that writes the primary's record must have been emitted before.

    Args:
        draft: The plan so far.
        primary: The node.
    """
    pair = draft.pair
    why = "the guest is paused or has no network until COLO has ended"
    with draft.range(why, lambda: _alone_back(draft, primary)) as apart:
        draft.begin()
        live = draft.live(primary)
        moving = live.colo_mode == "none" and live.migration in MIGRATION_MOVING
        with draft.batch("cut"):
            if _linked(draft, primary):
                _yank(draft, primary, topology.primary_yanks(pair))
            for chain in pair.chains:
                _filters.switch_off(draft, primary, chain)
            # The guest does not wait for its disks: a child that is cut fails at once
            # (qemu-behaviour 7.9).
            ended = not moving and _end_colo(draft, primary, topology.primary_yanks(pair))
            for disk in pair.disks:
                _disks.check_child(draft, primary, disk)
        with draft.batch("detach"):
            for disk in pair.disks:
                _disks.detach(draft, primary, disk)
        if moving:
            _end_entry(draft, primary)
        if ended or moving:
            _wait_restored(draft, primary)
        else:
            apart.drop()
    for chain in pair.chains:
        _filters.remove_primary(draft, primary, chain)
    for disk in pair.disks:
        _disks.ensure_no_job(draft, primary, disk)
        _disks.remove_nbd(draft, primary, disk)
    _plain_migration(draft, primary)


def _alone_back(draft: Draft, primary: str) -> Iterator[Execute]:
    """The recovery of `run_alone`: end COLO, whichever of its steps was the last one."""
    yield from cut_recovery(draft, primary)
    for chain in draft.pair.chains:
        yield from _filters.off_recovery(draft, primary, chain)
    yield _lost_heartbeat(draft, primary)


def _lost_heartbeat(draft: Draft, node: str) -> Execute:
    """The recovery step that ends COLO on a node."""
    return draft.recovery_step(node, XColoLostHeartbeat(), LOST_HEARTBEAT_WHY, accepts=NOT_IN_COLO)


def tied(draft: Draft, primary: str) -> bool:
    """Whether capabilities, copy jobs or connections of COLO are left on a primary."""
    live = draft.live(primary)
    left = not live.capabilities.isdisjoint(CAPABILITIES)
    jobs = any(_disks.resync_jobs(live, disk) for disk in draft.pair.disks)
    return left or jobs or _linked(draft, primary)


def _linked(draft: Draft, primary: str) -> bool:
    """Whether a connection of COLO, a migration or an NBD node still leads to a peer."""
    live = draft.live(primary)
    ours = {disk.names.nbd for disk in draft.pair.disks}
    links = {c.names.mirror for c in draft.pair.chains} | {
        c.names.compare_in for c in draft.pair.chains
    }
    moving = live.migration in MIGRATION_MOVING
    return (
        live.colo_mode != "none"
        or moving
        or bool(ours & live.block_nodes)
        or bool(links & set(live.chardevs))
    )


def promote(draft: Draft, secondary: str, claim: PairRecord, victim: Victim | None) -> None:
    """Emit the steps by which a secondary continues without its primary (qemu-behaviour 7.10).

    The NBD server stops before COLO ends: a late write of the primary must not bypass the overlays
    and reach the image. QEMU itself announces the guest to the switches (qemu-behaviour 7.13).

    Args:
        draft: The plan so far.
        secondary: The node.
        claim: The record by which the node runs alone.
        victim: The primary's QEMU, whose end must be shown first; None if no evidence is needed.
    """
    in_colo = draft.live(secondary).colo_mode == "secondary"
    _claim(draft, secondary, claim, victim)
    with draft.batch("cut"):
        if in_colo:
            _yank(draft, secondary, topology.secondary_yanks(draft.pair))
        _stop_nbd(draft, secondary)
    if in_colo:
        why = "the guest does not serve until COLO has ended"
        with draft.range(why, lambda: [_lost_heartbeat(draft, secondary)]):
            draft.begin()
            _end_colo(draft, secondary, topology.secondary_yanks(draft.pair))
            _wait_restored(draft, secondary)
    clear_promoted(draft, secondary)


def clear_promoted(draft: Draft, node: str) -> None:
    """Emit the removal of a promoted node's NBD server, redirectors, sockets and capabilities.

    The capabilities are those of COLO. The node's rewriter stays (qemu-behaviour 6.3); its overlays
    are deleted by `settle`.
    """
    _stop_nbd(draft, node)
    for chain in draft.pair.chains:
        _filters.remove_secondary(draft, node, chain)
    _plain_migration(draft, node)


def _plain_migration(draft: Draft, node: str) -> None:
    """Switch COLO's capabilities off: left on, any later migration would enter COLO."""
    on = [name for name in CAPABILITIES if name in draft.live(node).capabilities]
    if on:
        off = tuple(MigrationCapability(capability=name, state=False) for name in on)
        why = "a migration of the survivor is a plain one again (qemu-behaviour 4.6)"
        draft.execute(node, MigrateSetCapabilities(capabilities=off), why)


def _stop_nbd(draft: Draft, secondary: str) -> None:
    """Stop the NBD server of a node, if it runs or has exports."""
    live = draft.live(secondary)
    if live.nbd_server or live.exports:
        why = "nobody writes to the image past the guest any more (qemu-behaviour 7.11)"
        accepts = (Refusal(text="NBD server not running"),)
        draft.execute(secondary, NbdServerStop(), why, accepts=accepts)


def _yank(draft: Draft, node: str, yanks: tuple[Yank, ...]) -> None:
    """Send yanks out of band, one command for each connection."""
    why = "nothing blocks on a dead peer; one instance a command (qemu-behaviour 7.3, 7.7)"
    for yank in yanks:
        draft.execute(node, yank, why, accepts=_disks.NO_INSTANCE, oob=True)


def cut_recovery(draft: Draft, primary: str) -> tuple[Execute, ...]:
    """Every yank of a primary, as recovery: execution may have ended before they were sent."""
    why = "nothing waits for the secondary any more (qemu-behaviour 7.3)"
    return tuple(
        draft.recovery_step(primary, yank, why, oob=True, accepts=_disks.NO_INSTANCE)
        for yank in topology.primary_yanks(draft.pair)
    )


def _end_entry(draft: Draft, primary: str) -> None:
    """Emit the steps that end an entry into COLO, after the migration's connection was yanked.

    The entry may then fail at once, pause before the switch-over, or still reach COLO; the steps
    cover all three.
    """
    settled = MigrationIs(node=primary, statuses=("pre-switchover", "colo", *MIGRATION_OVER))
    why = "what the yank has ended shows first (qemu-behaviour 17.10)"
    limit_s = draft.timeouts.command_s
    draft.wait(primary, "settled", settled, why, limit_s=limit_s)
    why = "one that was paused ends only by continuing (qemu-behaviour 17.10)"
    accepts = (Refusal(text="Migration not in expected state"),)
    draft.execute(primary, MigrateContinue(state="pre-switchover"), why, accepts=accepts)
    decided = MigrationIs(node=primary, statuses=("colo", *MIGRATION_OVER))
    why = "it fails on the cut connection, unless it was past it (qemu-behaviour 17.10)"
    draft.wait(primary, "decided", decided, why, limit_s=limit_s)
    why = "one that had reached COLO ends like that (qemu-behaviour 4.9, 4.10)"
    draft.execute(primary, XColoLostHeartbeat(), why, accepts=NOT_IN_COLO)
    over = MigrationIs(node=primary, statuses=MIGRATION_OVER)
    why = "till then the guest can neither be continued nor forget COLO (qemu-behaviour 17.10)"
    draft.wait(primary, "entry-over", over, why, limit_s=limit_s)
    why = "7.2 leaves the guest standing (qemu-behaviour 17.10)"
    draft.execute(primary, Cont(), why)


def _end_colo(draft: Draft, node: str, rescue: tuple[Yank, ...]) -> bool:
    """Emit the command that ends COLO, or the one that lets a stopped guest continue.

    Args:
        draft: The plan so far.
        node: The node.
        rescue: The yanks to send out of band if no answer comes in time.

    Returns:
        Whether the caller has to wait until the guest runs outside COLO.
    """
    live = draft.live(node)
    if live.colo_mode != "none":
        draft.execute(
            node, XColoLostHeartbeat(), LOST_HEARTBEAT_WHY, accepts=NOT_IN_COLO, rescue=rescue
        )
    elif live.run_state == "prelaunch":
        draft.execute(node, Cont(), "it was booted as the one with the newest data, and runs alone")
    elif live.run_state in RUN_PAUSED:
        why = "an entry or a resync that failed had stopped the guest (qemu-behaviour 5.18)"
        draft.execute(node, Cont(), why)
    else:
        # COLO was told to end before; the guest may still be inside its last checkpoint.
        return live.run_state == "colo"
    return True


def _wait_restored(
    draft: Draft,
    node: str,
    why: str = "the reply comes before the work is done (qemu-behaviour 8.2)",
) -> None:
    """Wait until the guest runs outside COLO, and mark that wait as where it serves again."""
    until = AllOf(
        conditions=(
            RunStateIs(node=node, states=("running",)),
            ColoModeIs(node=node, mode="none"),
        )
    )
    limit_s = draft.timeouts.failover_s
    draft.restored(draft.wait(node, "restored", until, why, limit_s=limit_s))

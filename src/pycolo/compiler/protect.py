"""`start` and `resume`: from a guest on one node to a guest on both.

Both procedures emit the same steps. At the first start the guest may not have run yet, and its
images may be equal because the operator declared them so. The order is that of qemu-behaviour 17.6:
the guest is paused only while the disk copy ends and while COLO is entered. Under TCG, and on a
QEMU that cannot pause before the switch-over, it is paused in between as well (qemu-behaviour
17.11, 18.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from pycolo import record, topology
from pycolo.compiler import _disks, _filters, _tls
from pycolo.compiler._draft import Draft
from pycolo.compiler.failover import (
    NOT_IN_COLO,
    check_not_cancelling,
    cut_recovery,
    ensure_clean,
    force_checkpoint,
)
from pycolo.conditions import (
    AllOf,
    AnyOf,
    ColoExited,
    ColoModeIs,
    Condition,
    MigrationIs,
    NoColoExit,
    RunStateIs,
)
from pycolo.errors import CompileError, check_all, compile_error
from pycolo.features import Features
from pycolo.model.migration import MULTIFD_CHANNELS
from pycolo.plan import CheckPorts, Execute, Refusal
from pycolo.qmp.chardevs import InetSocketAddress
from pycolo.qmp.commands import (
    CapabilityName,
    Cont,
    Migrate,
    MigrateContinue,
    MigrateIncoming,
    MigrateSetCapabilities,
    MigrateSetParameters,
    MigrationCapability,
    NbdServerStart,
    Stop,
    XColoLostHeartbeat,
    Yank,
)
from pycolo.qmp.objects import YankMigration
from pycolo.qmp.states import MIGRATION_BUSY, MIGRATION_ENDING, RUN_COPYABLE
from pycolo.record import PairRecord
from pycolo.snapshot import Live, role_of

# The migration was told to continue before, and has left the pause since the snapshot.
NOT_PAUSED = (Refusal(text="Migration not in expected state"),)
# The run states inside a checkpoint: for a moment, or for ever if the peer died in it; `prelaunch`
# if the guest reset itself while it was paused (qemu-behaviour 7.1, 19.14).
IN_CHECKPOINT = ("colo", "prelaunch")
FRESH = ("fresh secondary", "prepared secondary")
# Time for one packet to be lost and sent again: Linux repeats a SYN after one second.
REACH_S = 2.0


def protect(draft: Draft, primary: str, secondary: str, features: Features) -> None:
    """Emit the steps that are missing until `secondary` protects the guest of `primary`.

    Args:
        draft: The plan so far.
        primary: The node with the guest.
        secondary: The node that will protect the guest.
        features: What both QEMUs understand.

    Raises:
        CompileError: No safe way leads from the state of the nodes to a protected pair.
        UndecidedError: Only a person can decide, by the records.
    """
    entered = _entered(draft, primary, secondary)
    if entered:
        _check_filters(draft, primary, secondary)
        if any(draft.live(node).run_state in IN_CHECKPOINT for node in (primary, secondary)):
            _wait_entered(draft, primary, secondary)
    else:
        _check_ground(draft, primary, secondary)
        _ask_ports(draft, primary, secondary)
    if not entered or not is_recorded(draft, primary, secondary):
        join(draft, primary, secondary, alone=not entered)
        if not entered:
            if draft.live(primary).migration not in MIGRATION_BUSY:
                _prepare_secondary(draft, secondary, features)
                _prepare_primary(draft, primary, secondary, features)
            _enter(draft, primary, secondary, features)
        for chain in draft.pair.chains:
            _filters.wait_connected(draft, primary, secondary, chain)
        _prove(draft, primary, secondary, features)
        widen(draft, primary, secondary)
    for disk in draft.pair.disks:
        _disks.ensure_dismissed(draft, primary, disk)


def is_recorded(draft: Draft, primary: str, secondary: str) -> bool:
    """Whether the files of both nodes name these two instances, and no others, as eligible."""
    both = {node: draft.live(node).instance for node in (primary, secondary)}
    return record.is_protected(draft.now.records, both)


def join(draft: Draft, primary: str, secondary: str, *, alone: bool) -> None:
    """Emit the records that the secondary joins: until it is proven, only the primary is eligible.

    From then on the attempt can end in any way without a need to reach the secondary again.

    Args:
        draft: The plan so far.
        primary: The node whose guest runs.
        secondary: The node that joins.
        alone: Whether the primary has not entered COLO yet. If so, a record by which another node
            is still eligible is refused.

    Raises:
        CompileError: The records forbid it, or another node is still eligible.
    """
    records = draft.now.records
    instance, joins = draft.live(primary).instance, draft.live(secondary).instance
    record.may_lead(records, primary, instance, secondary)
    own = records.get(primary)
    if alone and isinstance(own, PairRecord) and not own.is_sole:
        why = f"the record of {primary} still lets {own.partner} take over"
        raise compile_error(
            "still-eligible", why, f"fail over to {primary} first, or stop", node=primary
        )
    written = own.commit if isinstance(own, PairRecord) else "clean"
    commit: record.Commit = "pending" if draft.live(primary).commit_pending else written
    joining = record.joined(records, primary, instance, joins, commit=commit)
    why = f"{secondary} is not eligible before a checkpoint has proven it (record, rule 4)"
    draft.record(secondary, "joining", joining, why)
    why = f"whatever ends this attempt, {primary} alone is eligible (record, rule 3)"
    draft.record(primary, "joining", joining, why)
    _disks.ensure_committed(draft, primary)
    ensure_clean(draft, primary)


def widen(draft: Draft, primary: str, secondary: str) -> None:
    """Emit the records that make the secondary eligible, the primary's file first.

    From then on only a failover or `stop`, which writes the secondary's file first, ends this.
    """
    joins = draft.live(secondary).instance
    protected = record.protected(draft.now.records, primary, secondary, joins)
    why = f"{secondary} has what {primary} has: either may take over (record, rule 4)"
    draft.record(primary, "protected", protected, why)
    draft.record(secondary, "protected", protected, why)


def _entered(draft: Draft, primary: str, secondary: str) -> bool:
    """Whether both sides are in COLO, with guests that run or are inside a checkpoint."""
    modes = draft.live(primary).colo_mode, draft.live(secondary).colo_mode
    states = {draft.live(node).run_state for node in (primary, secondary)}
    return modes == ("primary", "secondary") and states <= {"running", *IN_CHECKPOINT}


def _check_filters(draft: Draft, primary: str, secondary: str) -> None:
    """Check that no filter or compare is missing on a pair in COLO.

    Raises:
        CompileError: One is missing; only another entry into COLO can add it.
    """
    chains = draft.pair.chains
    mirroring = [o for chain in chains for o in topology.primary_objects(chain, promoted=False)]
    rewriting = [o for chain in chains for o in topology.secondary_objects(chain)]
    for node, objects in ((primary, mirroring), (secondary, rewriting)):
        missing = [o.id for o in objects if o.id not in draft.live(node).objects]
        if missing:
            raise lost_in_colo(f"{node} lacks {', '.join(missing)}")


def lost_in_colo(told: str) -> CompileError:
    """The error for parts that only another entry into COLO can put back.

    Its remedy is `stop`, the launch of a new secondary, then `resume`.

    Args:
        told: The missing parts, for the message.
    """
    why = f"what is missing cannot be put back while COLO runs: {told}"
    return compile_error(
        "lost-in-colo", why, "end protection with stop, launch a new secondary, then resume"
    )


def _check_ground(draft: Draft, primary: str, secondary: str) -> None:
    """Check the state of both nodes before an entry into COLO.

    Raises:
        CompileError: The entry cannot begin. All checks but the first are made, and the error has
            every finding.
    """
    _check_colo(draft, primary, secondary)
    disks = draft.pair.disks
    check_all(
        (
            partial(_check_secondary, draft, primary, secondary),
            partial(_check_blockers, draft, primary),
            partial(_disks.check_not_overlaid, draft, primary),
            *(partial(_check_sizes, draft, primary, secondary, d.names.parent) for d in disks),
            *(partial(_disks.check_ours, draft, primary, secondary, disk) for disk in disks),
            partial(_check_run_state, draft, primary),
            partial(check_not_cancelling, draft, primary),
            partial(_check_only_one, draft, secondary),
            *(partial(_check_images, draft, node) for node in (primary, secondary)),
        )
    )


def _check_secondary(draft: Draft, primary: str, secondary: str) -> None:
    """Check that the secondary's guest has not run, unless the entry is about to complete."""
    peer = draft.live(secondary)
    if peer.run_state != "inmigrate" and not _half_in(draft.live(primary), peer):
        why = f"{secondary} is no fresh secondary: its guest is in state {peer.run_state}"
        advice = "replace it by a newly launched one (qemu-behaviour 7.12)"
        raise compile_error("used-secondary", why, advice, node=secondary)


def _check_only_one(draft: Draft, secondary: str) -> None:
    """Check that no other secondary waits: the first one that connects would get the packets."""
    waiting = [name for name in draft.pair.names if role_of(draft.now.state(name)) in FRESH]
    others = [name for name in waiting if name != secondary]
    if others and draft.pair.chains:
        why = f"{others[0]} waits as a secondary too, and may connect in place of {secondary}"
        advice = f"end the QEMU of {others[0]}, or of {secondary} and launch it anew"
        raise compile_error("other-secondary", why, advice, node=others[0])


def _check_images(draft: Draft, name: str) -> None:
    """Check that no disk on a node uses the image that is declared for another disk."""
    node, live = draft.pair.node(name), draft.live(name)
    images = {
        path: disk.names.parent
        for disk in draft.pair.disks
        if (path := disk.paths(node).get("image")) is not None
    }
    for path, parent in images.items():
        shown = live.images.get(parent, path)
        if shown != path and shown in images:
            why = (
                f"block node {parent} on {name} uses {shown}, which is declared as {images[shown]}"
            )
            advice = f"list the disks in the order in which {name} was launched"
            raise compile_error("disks-exchanged", why, advice, node=name)


def _check_blockers(draft: Draft, primary: str) -> None:
    """Check that QEMU can migrate the primary's guest."""
    blockers = draft.live(primary).migration_blockers
    if blockers:
        why = f"QEMU cannot move the guest on {primary}: {'; '.join(blockers)}"
        advice = "take the device out of the declaration (qemu-behaviour 19.4)"
        raise compile_error("not-migratable", why, advice, node=primary)


def _check_run_state(draft: Draft, primary: str) -> None:
    """Check that the guest's run state allows a copy, and that nobody else paused it."""
    live = draft.live(primary)
    if live.run_state not in RUN_COPYABLE:
        why = f"the guest on {primary} is in state {live.run_state}, from which no copy starts"
        advice = "end the failed attempt with stop, then compile again"
        raise compile_error("failed-entry", why, advice, node=primary)
    ours = any(_disks.resync_jobs(live, disk) for disk in draft.pair.disks)
    if live.run_state == "paused" and not ours:
        why = f"somebody paused the guest on {primary}; pycolo did not"
        advice = "find out why, continue the guest, then run the procedure again"
        raise compile_error("paused", why, advice, node=primary)


def _check_colo(draft: Draft, primary: str, secondary: str) -> None:
    """Refuse states that look like an entry into COLO under way, and are not.

    Raises:
        CompileError: A guest was paused inside COLO, or the secondary of a primary in COLO is gone
            and a new one was launched.
    """
    live, peer = draft.live(primary), draft.live(secondary)
    if (live.colo_mode, peer.colo_mode) == ("primary", "secondary"):
        for node in (primary, secondary):
            if draft.live(node).run_state == "paused":
                why = f"the guest on {node} was paused inside COLO, which a checkpoint undoes"
                raise compile_error(
                    "paused",
                    why,
                    "continue it, or wait for a checkpoint, then compile again",
                    node=node,
                )
    # A primary runs in COLO only after its secondary does, so there was a secondary, which is gone
    # (qemu-behaviour 4.13).
    if live.colo_mode == "primary" and live.run_state == "running" and role_of(peer) in FRESH:
        why = f"the secondary of {primary} is gone, and {secondary} was launched anew"
        advice = f"end protection with stop, which ends {secondary}, and launch {secondary} anew"
        raise compile_error("secondary-gone", why, advice, node=primary)


def _half_in(live: Live, peer: Live) -> bool:
    """Whether the secondary is in COLO and the primary is about to be (qemu-behaviour 4.3)."""
    about_to = live.run_state == "finish-migrate" and live.migration in ("device", "colo")
    return about_to and peer.colo_mode == "secondary"


def _ask_ports(draft: Draft, primary: str, secondary: str) -> None:
    """Emit the checks that each host can reach the other's ports, before anything is changed.

    A port on which QEMU listens already is left out: QEMU would take the check for its peer
    (qemu-behaviour 19.8).
    """
    live, peer, pair = draft.live(primary), draft.live(secondary), draft.pair
    there: list[int] = []
    if not peer.incoming:
        there.append(pair.ports.migration)
    if pair.disks and not peer.nbd_server:
        there.append(pair.ports.nbd)
    here = [
        port
        for chain in pair.chains
        for chardev, port in (
            (chain.names.mirror, chain.proxy_ports.mirror),
            (chain.names.compare_in, chain.proxy_ports.compare_in),
        )
        if chardev not in live.chardevs
    ]
    for node, other, ports in ((primary, secondary, there), (secondary, primary, here)):
        if ports:
            draft.run_host(
                node,
                "check-ports",
                other,
                CheckPorts(host=pair.node(other).address, ports=tuple(ports)),
                why="QEMU would wait for minutes at a blocked port (qemu-behaviour 19.4)",
                limit_s=REACH_S,
            )


def _check_sizes(draft: Draft, primary: str, secondary: str, block_node: str) -> None:
    """Check that a disk has the same size on both nodes."""
    here = draft.live(primary).sizes_bytes.get(block_node)
    there = draft.live(secondary).sizes_bytes.get(block_node)
    if here is not None and there is not None and here != there:
        why = (
            f"{block_node} has {here} bytes on {primary} and {there} bytes on {secondary};"
            " QEMU would not notice (qemu-behaviour 4.12)"
        )
        declared = {disk.names.parent: disk.size_bytes for disk in draft.pair.disks}
        advice = f"give {secondary} an image of {here} bytes"
        if here != declared.get(block_node):
            advice = f"set size_bytes of the disk to {here}, or resize the image on {primary}"
        raise compile_error("sizes-differ", why, advice)


def capabilities(features: Features, *, multifd: bool, primary: bool) -> tuple[CapabilityName, ...]:
    """The migration capabilities that one side needs (qemu-behaviour 2.3, 4.1, 4.2).

    Args:
        features: What the QEMU understands.
        multifd: Whether the RAM is sent over several connections.
        primary: Whether the side is the primary.
    """
    wanted: list[CapabilityName] = ["x-colo", "events"]
    if features.return_path:
        wanted.insert(0, "return-path")
    if multifd:
        wanted.append("multifd")
    if primary and features.pause_before_switchover:
        wanted.append("pause-before-switchover")
    return tuple(wanted)


def _ensure_capabilities(draft: Draft, node: str, features: Features, *, primary: bool) -> None:
    """Switch the migration capabilities on that a side needs, if one is off."""
    multifd = _channels(draft, features) > 0
    wanted = capabilities(features, multifd=multifd, primary=primary)
    if not set(wanted) <= draft.live(node).capabilities:
        changes = tuple(MigrationCapability(capability=name, state=True) for name in wanted)
        why = "all in one call, and never ignored when refused (qemu-behaviour 2.6, 4.2, 4.6)"
        draft.execute(node, MigrateSetCapabilities(capabilities=changes), why)


def _channels(draft: Draft, features: Features) -> int:
    """The number of connections over which multifd sends the RAM; 0 without multifd."""
    declared = draft.pair.migration.multifd_channels
    if declared is not None:
        return declared
    return MULTIFD_CHANNELS if features.multifd else 0


def _ensure_channels(draft: Draft, node: str, features: Features) -> None:
    """Set the number of multifd's connections, if it is used and differs."""
    channels = _channels(draft, features)
    if channels and draft.live(node).multifd_channels != channels:
        why = "as many on both sides, before either connects (qemu-behaviour 22.2)"
        draft.execute(node, MigrateSetParameters(multifd_channels=channels), why)


def _ensure_limits(draft: Draft, primary: str) -> None:
    """Set the highest rate and the longest pause of the RAM's copy, if they differ."""
    live, declared = draft.live(primary), draft.pair.migration
    bandwidth, downtime_ms = declared.max_bandwidth_bytes_per_s, declared.downtime_limit_ms
    command = MigrateSetParameters(
        max_bandwidth_bytes_per_s=bandwidth
        if live.max_bandwidth_bytes_per_s != bandwidth
        else None,
        downtime_limit_ms=downtime_ms if live.downtime_limit_ms != downtime_ms else None,
    )
    if command != MigrateSetParameters():
        why = "how fast the RAM is copied, and with how long a pause (qemu-behaviour 22.1)"
        draft.execute(primary, command, why)


def _prepare_secondary(draft: Draft, secondary: str, features: Features) -> None:
    """Emit the steps that let a secondary accept the copy of the disks and the RAM."""
    _tls.ensure_credentials(draft, secondary)
    _ensure_capabilities(draft, secondary, features, primary=False)
    _ensure_channels(draft, secondary, features)
    node = draft.pair.node(secondary)
    if draft.pair.disks and not draft.live(secondary).nbd_server:
        address = InetSocketAddress(host=node.listen_address, port=draft.pair.ports.nbd)
        draft.execute(
            secondary,
            NbdServerStart(
                addr=address,
                tls_creds=topology.server_creds(draft.pair.tls),
                tls_authz=topology.server_authz(draft.pair.tls),
            ),
            "one server for all disks, before the primary connects (qemu-behaviour 4.1, 3.10)",
            accepts=(Refusal(text="NBD server already running"),),
        )
    for disk in draft.pair.disks:
        _disks.ensure_export(draft, secondary, disk)
    if not draft.live(secondary).incoming:
        _tls.ensure_parameters(draft, secondary, "secondary")
        uri = f"tcp:{_host(node.listen_address)}:{draft.pair.ports.migration}"
        why = "the secondary's last command, before the primary's first (qemu-behaviour 3.8, 4.1)"
        draft.execute(
            secondary,
            MigrateIncoming(uri=uri),
            why,
            accepts=(Refusal(text="The incoming migration has already been started"),),
        )


def _prepare_primary(draft: Draft, primary: str, secondary: str, features: Features) -> None:
    """Emit the steps before the pause: TLS, limits, filters, and the copy of the disks."""
    _tls.renew_credentials(draft, primary)
    _tls.ensure_parameters(draft, primary, "primary")
    _ensure_limits(draft, primary)
    _ensure_channels(draft, primary, features)
    for chain in draft.pair.chains:
        _filters.ensure_primary(draft, primary, secondary, chain)
    for disk in draft.pair.disks:
        _disks.dismiss_useless(draft, primary, secondary, disk)
        _disks.ensure_nbd(draft, primary, secondary, disk)
    if not _disks.is_identical(draft, primary):
        for disk in draft.pair.disks:
            _disks.ensure_mirror(draft, primary, secondary, disk)
        _disks.ensure_mirrored(draft, primary, secondary, draft.pair.disks)


def _enter(draft: Draft, primary: str, secondary: str, features: Features) -> None:
    """Emit the steps from the end of the disk copy until both guests run in COLO."""
    moves = draft.live(primary).run_state != "prelaunch"
    copied: list[Execute] = []

    def back() -> tuple[Execute, ...]:
        return _back(draft, primary, features, copied, resume_guest=moves)

    with draft.range(_BACK, back) as entry:
        if draft.live(primary).migration not in MIGRATION_BUSY:
            _prepare_disks(draft, primary, secondary, features, moves=moves)
            if entry.first is not None:
                disks = draft.pair.disks
                copied += [_disks.copy_end_recovery(draft, primary, secondary, d) for d in disks]
            _ensure_capabilities(draft, primary, features, primary=True)
            _migrate(draft, primary, secondary, features)
        if features.pause_before_switchover:
            _switch_over(draft, primary)
        draft.begin()
        draft.restored(_wait_entered(draft, primary, secondary))


_BACK = "COLO was not entered: the guest runs alone, with its plain network and disk"


def _prepare_disks(
    draft: Draft, primary: str, secondary: str, features: Features, *, moves: bool
) -> None:
    """Emit the end of the copies, the attaching of the peer's disks and the checkpoint delay.

    If QEMU can pause before the switch-over, a guest that ran continues after that; else it stays
    paused until COLO is entered.

    Args:
        draft: The plan so far.
        primary: The primary.
        secondary: The secondary.
        features: What both QEMUs understand.
        moves: Whether the guest has been started.
    """
    if not (moves and features.pause_before_switchover):
        _attach(draft, primary, secondary, stop=moves)
        _ensure_delay(draft, primary)
        return
    why = "the guest is paused while the copy ends"
    with draft.range(why, lambda: _paused_back(draft, primary, secondary)):
        _attach(draft, primary, secondary, stop=True)
        _ensure_delay(draft, primary)
        if draft.live(primary).run_state == "paused":
            why = "every write goes to both disks now, so the guest may run (qemu-behaviour 17.6)"
            draft.execute(primary, Cont(), why)


def _attach(draft: Draft, primary: str, secondary: str, *, stop: bool) -> None:
    """Emit the steps that stop the guest, end the copies and attach the peer's disks.

    Args:
        draft: The plan so far.
        primary: The primary.
        secondary: The secondary.
        stop: Whether to stop a guest that runs; it is done only if a disk is not attached yet.
    """
    pending = [d for d in draft.pair.disks if _disks.peer_child(draft.live(primary), d) is None]
    if stop and pending and draft.live(primary).run_state == "running":
        draft.begin()
        why = (
            "nothing is written between the end of the copy and the attaching (qemu-behaviour 5.15)"
        )
        draft.execute(primary, Stop(), why)
    _disks.ensure_mirror_ended(draft, primary, secondary, draft.pair.disks)
    for disk in draft.pair.disks:
        _disks.ensure_attached(draft, primary, disk)


def _ensure_delay(draft: Draft, primary: str) -> None:
    """Set the checkpoint delay, if it differs."""
    if draft.live(primary).checkpoint_delay_ms != draft.pair.checkpoint_delay_ms:
        command = MigrateSetParameters(x_checkpoint_delay_ms=draft.pair.checkpoint_delay_ms)
        draft.execute(
            primary, command, "before migrate: later it forces a checkpoint (qemu-behaviour 4.11)"
        )


def _paused_back(draft: Draft, primary: str, secondary: str) -> Iterator[Execute]:
    """The recovery of the pause in which the copies end: give up the copies, run the guest."""
    for disk in draft.pair.disks:
        yield from _disks.copy_recovery(draft, primary, secondary, disk)
    yield draft.recovery_step(primary, Cont(), "the guest continues (qemu-behaviour 5.18)")
    for disk in draft.pair.disks:
        yield from _disks.detach_recovery(draft, primary, disk)


def _migrate(draft: Draft, primary: str, secondary: str, features: Features) -> None:
    """Emit the command that starts the RAM's copy.

    If QEMU cannot pause before the switch-over, the filters are switched on before it.
    """
    draft.begin()
    if not features.pause_before_switchover:
        for chain in draft.pair.chains:
            _filters.switch_on(draft, primary, chain)
    host = _host(draft.pair.node(secondary).address)
    uri = f"tcp:{host}:{draft.pair.ports.migration}"
    why = "the RAM's first copy; success is seen in COLO's own state (qemu-behaviour 4.4, 4.6)"
    draft.execute(primary, Migrate(uri=uri), why, rescue=(Yank(instances=(YankMigration(),)),))


def _switch_over(draft: Draft, primary: str) -> None:
    """Emit the wait for the end of the RAM's copy, the filters' start, and the switch-over."""
    draft.begin()
    if draft.live(primary).migration in ("setup", "active"):
        draft.wait(
            primary,
            "pre-switchover",
            MigrationIs(node=primary, statuses=("pre-switchover",)),
            "the RAM is there but for its last pages (qemu-behaviour 17.6)",
            limit_s=draft.timeouts.migration_s,
            stall_s=draft.timeouts.stall_s,
            unless=MigrationIs(node=primary, statuses=MIGRATION_ENDING),
        )
    if draft.live(primary).migration == "pre-switchover":
        for chain in draft.pair.chains:
            _filters.switch_on(draft, primary, chain)
        why = "the guest is paused from here to its RESUME in COLO (qemu-behaviour 17.6)"
        command = MigrateContinue(state="pre-switchover")
        draft.execute(primary, command, why, accepts=NOT_PAUSED)


def _wait_entered(draft: Draft, primary: str, secondary: str) -> str:
    """Emit the wait until both guests run in COLO.

    Returns:
        The address of the wait.
    """
    until: tuple[Condition, ...] = (
        MigrationIs(node=primary, statuses=("colo",)),
        ColoModeIs(node=primary, mode="primary"),
        ColoModeIs(node=secondary, mode="secondary"),
        RunStateIs(node=primary, states=("running",)),
        RunStateIs(node=secondary, states=("running",)),
        NoColoExit(node=primary),
        NoColoExit(node=secondary),
    )
    unless = (
        MigrationIs(node=primary, statuses=MIGRATION_ENDING),
        ColoExited(node=primary),
        ColoExited(node=secondary),
    )
    # A secondary opens its encrypted overlays anew on its main loop, which gives no answer then.
    opening_s = _disks.opening_s(draft, secondary)
    return draft.wait(
        primary,
        "protected",
        AllOf(conditions=until),
        "both guests run and both sides say so; `colo` alone proves nothing (qemu-behaviour 4.4)",
        limit_s=draft.timeouts.entry_s + opening_s,
        answer_s=draft.timeouts.command_s + opening_s if opening_s else None,
        # If QEMU cannot pause before the switch-over, the RAM is copied during this wait.
        stall_s=draft.timeouts.stall_s,
        unless=AnyOf(conditions=unless),
    )


def _back(
    draft: Draft,
    primary: str,
    features: Features,
    copied: Iterable[Execute] = (),
    *,
    resume_guest: bool,
) -> tuple[Execute, ...]:
    """The recovery of an entry into COLO, from any point of it (qemu-behaviour 17.6, 17.10).

    The yanks free the main loop. A migration that is paused before its switch-over ends only when
    it continues into the yanked connection. If COLO was entered already, it is ended. The
    secondary cannot be used again and must be replaced. Its disk is removed from the guest's
    quorum: a second entry would not notice the writes that the disk missed.

    Args:
        draft: The plan so far.
        primary: The primary.
        features: What both QEMUs understand.
        copied: Recovery steps that cancel the copy jobs.
        resume_guest: Whether to send `cont`. It is not sent for a guest that never ran, which stays
            stopped.
    """
    end = "the entry ends here"
    steps = [*cut_recovery(draft, primary), *copied]
    if features.pause_before_switchover:
        command = MigrateContinue(state="pre-switchover")
        why = f"{end} if it was paused (qemu-behaviour 17.10)"
        steps.append(draft.recovery_step(primary, command, why, accepts=NOT_PAUSED))
    why = f"{end} if COLO was reached (qemu-behaviour 4.9, 4.10)"
    steps.append(draft.recovery_step(primary, XColoLostHeartbeat(), why, accepts=NOT_IN_COLO))
    for chain in draft.pair.chains:
        steps += _filters.off_recovery(draft, primary, chain)
    if resume_guest:
        why = "the guest runs alone (qemu-behaviour 5.18)"
        steps.append(draft.recovery_step(primary, Cont(), why))
    for disk in draft.pair.disks:
        steps += _disks.detach_recovery(draft, primary, disk)
    return tuple(steps)


def _prove(draft: Draft, primary: str, secondary: str, features: Features) -> None:
    """Emit a forced checkpoint that both sides must show; its recovery leaves COLO again.

    Nothing is emitted under TCG on a QEMU that deadlocks at a checkpoint.
    """
    # This pair has put checkpoints off because one would deadlock (qemu-behaviour 1.6).
    if draft.pair.machine.accelerator == "tcg" and not features.tcg:
        return
    # If the secondary stops responding, the guest's writes wait for it, and soon the main loop too.
    why = "the pair is not known to work: the guest runs alone, with its plain network and disk"
    with draft.range(why, lambda: _back(draft, primary, features, resume_guest=False)):
        draft.begin()
        force_checkpoint(draft, primary, secondary)


def _host(address: str) -> str:
    """An address for a URI: an IPv6 address gets brackets."""
    return f"[{address}]" if ":" in address else address

"""The migration, COLO and its end, between two fakes (qemu-behaviour 4, 7, 8, 17.6, 17.10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from pycolo import effects
from pycolo.model.pair import CHECKPOINTS_OFF_MS
from pycolo.qmp import commands as qmp
from pycolo.qmp.states import MIGRATION_BUSY
from pycolo.snapshot import Filter
from pycolo.testing._network import end, incoming_at
from pycolo.testing._process import Channel, Overlay, Process, Refused, Stuck

_POLL_S: Final = 0.05
_STEP_S: Final = 0.002
_LOAD_S: Final = 0.03
_RESUME_S: Final = 0.04


# -- entering COLO


def migrate(source: Process, command: qmp.Migrate) -> None:
    """Perform `migrate`: begin a migration, or refuse it as QEMU does.

    Args:
        source: The fake that gets the command.
        command: The command.

    Raises:
        Refused: The fake has a migration or COLO, waits for an incoming migration, or has completed
            one.
    """
    live = source.live
    if live.colo_mode != "none" or live.migration in MIGRATION_BUSY:
        _second_migrate(source)
    if live.run_state == "inmigrate":
        raise Refused("Guest is waiting for an incoming migration")
    if live.run_state == "postmigrate":
        raise Refused("Can't migrate the vm that was paused due to previous migration")
    target = incoming_at(source, command.uri)
    channel = Channel(
        source=source,
        target=target,
        origin=live.run_state,
        learns=_learns,
        up=target is not None,
    )
    source.accept(command)
    source.error_desc = None
    source.tell_migration("setup")
    source.channel = channel
    if target is None:
        _, _, address = command.uri.partition(":")
        why = f"Failed to connect to '{address}': Connection refused"
        source.later(_STEP_S, lambda: fail(channel, why))
        return
    target.channel = channel
    source.later(_STEP_S, lambda: _begin(channel))


def _second_migrate(source: Process) -> None:
    if source.live.colo_mode == "secondary" and source.quirks.aborts_on_second_migrate:
        end(source, -6)
    if source.quirks.second_migrate == "refused" and source.live.colo_mode != "secondary":
        raise Refused("There's a migration process in progress")
    if source.live.colo_mode == "primary":
        source.live = attrs.evolve(source.live, colo_mode="none", migration="setup")
    raise Refused("duplicate yank instance")


def _begin(channel: Channel) -> None:
    source, target = channel.source, _target(channel)
    if channel.stage != "setup":
        return
    if _broken(channel):
        fail(channel)
    elif source.is_cut(target):
        source.later(_POLL_S, lambda: _begin(channel))
    else:
        channel.stage = "active"
        target.attempt(lambda: target.tell_migration("active"))
        source.tell_migration("active")
        source.later(source.world.ram_copy_s, lambda: _copied(channel))


def _copied(channel: Channel) -> None:
    source = channel.source
    if channel.stage != "active":
        return
    if _broken(channel):
        fail(channel)
        return
    source.halt("finish-migrate")
    if not source.flush():
        fail(channel)
    elif "pause-before-switchover" in source.live.capabilities and _pauses(channel):
        channel.stage = "pre-switchover"
        source.tell_migration("pre-switchover")
    else:
        if source.quirks.shows_device:
            source.tell_migration("device")
        _switch(channel)


def _pauses(channel: Channel) -> bool:
    quirks = channel.source.quirks
    if quirks.pause_works or "x-colo" not in channel.source.live.capabilities:
        return True
    _complete(channel)
    target = _target(channel)
    target.live = attrs.evolve(target.live, migration="colo", run_state="inmigrate")
    target.colo_exit("error")
    return False


def continue_migration(source: Process, command: qmp.MigrateContinue) -> None:
    """Perform `migrate-continue`: leave the status pre-switchover."""
    if source.live.migration != command.state:
        raise Refused(f"Migration not in expected state: {source.live.migration}")
    source.accept(command)
    source.tell_migration("device")
    channel = source.channel
    assert channel is not None  # noqa: S101 - the status says so
    channel.stage = "device"
    source.later(_STEP_S, lambda: _switch(channel))


def _switch(channel: Channel) -> None:
    source, target = channel.source, _target(channel)
    if channel.stage not in ("active", "device"):
        return
    channel.stage = "device"
    if _broken(channel):
        fail(channel)
    elif "x-colo" not in source.live.capabilities:
        _complete(channel)
    elif "return-path" in source.live.capabilities and not source.quirks.needs_return_path:
        _wrong_path(channel)
    elif not source.talks(target):
        if not source.quirks.waits_in_device:
            _primary_enters(channel)
        source.later(_POLL_S, lambda: _switch_later(channel))
    elif "x-colo" in target.live.capabilities or source.quirks.secondary_needs_colo == "no":
        _enter(channel)
    elif source.quirks.secondary_needs_colo == "exits":
        end(target, 1)
        fail(channel, "Unable to write to socket: Broken pipe")
    else:
        _primary_enters(channel)
        target.tell_migration("completed")
        target.live = attrs.evolve(target.live, run_state="prelaunch")


def _switch_later(channel: Channel) -> None:
    source, target = channel.source, _target(channel)
    if channel.stage == "device":
        _switch(channel)
    elif channel.stage == "colo" and not channel.entered and not _broken(channel):
        if source.talks(target):
            _secondary_soon(channel)
        else:
            source.later(_POLL_S, lambda: _switch_later(channel))


def _complete(channel: Channel) -> None:
    """End a plain migration; neither guest runs afterwards (qemu-behaviour 4.6)."""
    source, target = channel.source, _target(channel)
    channel.stage, channel.up = "over", False
    source.live = attrs.evolve(source.live, run_state="postmigrate")
    source.tell_migration("completed")
    target.live = attrs.evolve(target.live, run_state="prelaunch")
    target.tell_migration("completed")


def _wrong_path(channel: Channel) -> None:
    """Fail as QEMU before 11.0 does with return-path: the target runs (qemu-behaviour 4.7)."""
    target = _target(channel)
    channel.target = None
    target.channel = None
    target.tell_migration("completed")
    target.resume_guest()
    fail(channel, "Received invalid message 0x0000 length 0x0000")


def _enter(channel: Channel) -> None:
    _primary_enters(channel)
    _secondary_soon(channel)


def _primary_enters(channel: Channel) -> None:
    source = channel.source
    channel.stage = "colo"
    source.live = attrs.evolve(source.live, colo_mode="primary", run_state="finish-migrate")
    source.tell_migration("colo")


def _secondary_soon(channel: Channel) -> None:
    target = _target(channel)
    target.later(0, lambda: _secondary_enters(channel))


def _secondary_enters(channel: Channel) -> None:
    target = _target(channel)
    if channel.stage != "colo" or not channel.up:
        return
    target.live = attrs.evolve(target.live, colo_mode="secondary")
    target.tell_migration("colo")
    if not _replicates(target):
        target.live = attrs.evolve(target.live, colo_mode="none")
        target.colo_exit("error")
        return
    target.overlays = {quorum: Overlay() for quorum in target.quorums}
    target.later(_STEP_S, target.resume_guest)
    channel.source.later(_RESUME_S, lambda: _primary_resumes(channel))


def _replicates(target: Process) -> bool:
    """Whether replication can start: equal sizes, and an export (qemu-behaviour 4.10, 5.2)."""
    exported = set(target.live.exports.values())
    for quorum in target.quorums:
        local = target.live.children[quorum][0].node
        chain = target.below(local)
        sizes = {target.live.sizes_bytes.get(block) for block in chain}
        if len(sizes) > 1 or (chain and chain[-1] not in exported):
            return False
    return True


def _primary_resumes(channel: Channel) -> None:
    source = channel.source
    if source.channel is not channel or source.live.colo_mode != "primary":
        return
    if _broken(channel):
        source.colo_exit("error")
        return
    if not _talks_or_later(channel, lambda: _primary_resumes(channel)):
        return
    channel.entered = True
    source.resume_guest()
    _announce(channel)


# -- checkpoints


def force_checkpoint(source: Process) -> None:
    """Do what a change of x-checkpoint-delay does in COLO: a checkpoint (qemu-behaviour 4.11)."""
    channel = source.channel
    if channel is not None and channel.entered and source.live.colo_mode == "primary":
        if channel.checkpoint:
            channel.again = True
            return
        channel.turn += 1
        turn = channel.turn
        source.later(_STEP_S, lambda: _checkpoint(channel, turn))


def _announce(channel: Channel) -> None:
    source, delay_ms = channel.source, channel.source.live.checkpoint_delay_ms
    channel.turn += 1
    turn = channel.turn
    if delay_ms < CHECKPOINTS_OFF_MS:
        source.later(max(delay_ms, 1) / 1000, lambda: _checkpoint(channel, turn))


def _checkpoint(channel: Channel, turn: int) -> None:
    source = channel.source
    if not _is_due(channel, turn) or source.live.colo_exited:
        return
    if source.line.accelerator == "tcg" and not source.quirks.tcg_checkpoints:
        raise Stuck(())
    if _broken(channel):
        source.colo_exit("error")
    elif _talks_or_later(channel, lambda: _checkpoint(channel, turn)):
        channel.checkpoint = True
        target = _target(channel)
        target.attempt(lambda: target.halt("colo"))
        source.later(_STEP_S, lambda: _primary_stops(channel, turn))


def _primary_stops(channel: Channel, turn: int) -> None:
    source = channel.source
    if not _can_continue(channel, turn):
        return
    source.halt("colo")
    source.flush()
    source.later(_LOAD_S, lambda: _secondary_loads(channel, turn))


def _secondary_loads(channel: Channel, turn: int) -> None:
    if not _can_continue(channel, turn):
        return
    if _talks_or_later(channel, lambda: _secondary_loads(channel, turn)):
        target = _target(channel)
        target.attempt(lambda: _load(target))
        channel.source.later(_RESUME_S, lambda: _checkpoint_ends(channel, turn))


def _load(target: Process) -> None:
    if target.live.colo_mode == "secondary":
        target.overlays = {quorum: Overlay() for quorum in target.quorums}
        target.resume_guest()


def _checkpoint_ends(channel: Channel, turn: int) -> None:
    if not _can_continue(channel, turn):
        return
    if _talks_or_later(channel, lambda: _checkpoint_ends(channel, turn)):
        channel.checkpoint = False
        channel.source.resume_guest()
        again, channel.again = channel.again, False
        if again:
            force_checkpoint(channel.source)
        else:
            _announce(channel)


def _can_continue(channel: Channel, turn: int) -> bool:
    if not _is_due(channel, turn):
        return False
    if _broken(channel):
        channel.source.colo_exit("error")
        return False
    return True


def _is_due(channel: Channel, turn: int) -> bool:
    """Whether the channel and the checkpoint that a timer was set for are still current."""
    source = channel.source
    same = source.channel is channel and turn == channel.turn
    return same and source.live.colo_mode == "primary"


# -- leaving COLO


def lost_heartbeat(qemu: Process, command: qmp.XColoLostHeartbeat) -> None:
    """Perform `x-colo-lost-heartbeat`: end COLO here, whatever the peer does (qemu-behaviour 8).

    Raises:
        Refused: The fake is not in COLO.
        Stuck: A disk connection does not answer.
    """
    mode = qemu.live.colo_mode
    if mode == "none":
        raise Refused(qemu.quirks.no_colo)
    if qemu.live.run_state == "running":
        qemu.halt("colo")
        qemu.flush()
    else:
        qemu.need(*(link for name, link in qemu.disk_links.items() if qemu.hangs_on(name)))
    channel = qemu.channel
    exited = qemu.live.colo_exited
    qemu.accept(command)
    qemu.tell_migration("completed")
    if not exited:
        qemu.live = attrs.evolve(qemu.live, colo_exited=True)
        qemu.event("COLO_EXIT", {"mode": mode, "reason": "request"})
    if mode == "secondary":
        _promote(qemu)
    qemu.later(_STEP_S, qemu.resume_guest)
    if channel is not None:
        qemu.channel = None
        channel.cut()


def _promote(qemu: Process) -> None:
    """Turn off all filters but the rewriter, and begin to merge the overlays (5.13, 6.7)."""
    objects = {
        name: attrs.evolve(item, on=False) if _goes_off(item) else item
        for name, item in qemu.live.objects.items()
    }
    qemu.live = attrs.evolve(qemu.live, objects=objects, incoming=False)
    qemu.promoted = True
    qemu.later(qemu.world.commit_s, lambda: _committed(qemu))


def _goes_off(item: Filter) -> bool:
    return item.qom_type in ("filter-mirror", "filter-redirector")


def _committed(qemu: Process) -> None:
    for disk, quorum in enumerate(qemu.quorums):
        data = qemu.guest_data(disk)
        image = qemu.quorum_image(quorum)
        image.records.clear()
        image.records |= data
    qemu.overlays = {}
    qemu.live = attrs.evolve(qemu.live, commit_pending=frozenset())


def fail(channel: Channel, why: str | None = None) -> None:
    """Fail a migration before COLO; the source's guest runs again if the version lets it.

    Args:
        channel: The migration.
        why: QEMU's error text; that of a cut channel if None.
    """
    source, target = channel.source, channel.target
    channel.stage, channel.up = "over", False
    quirks = source.quirks
    source.error_desc = why or quirks.failed_desc
    if quirks.shows_failing:
        source.tell_migration("failing")
        _as_before(channel)
        source.tell_migration("failed")
    else:
        source.tell_migration("failed")
        _as_before(channel)
    source.channel = None
    if target is not None:
        _used_up(target)


def _as_before(channel: Channel) -> None:
    source = channel.source
    runs_again = source.quirks.runs_after_failure or channel.origin == "prelaunch"
    source.resume_guest(channel.origin if runs_again else "postmigrate")


def _used_up(target: Process) -> None:
    def ends() -> None:
        if target.live.colo_mode == "none" and target.live.run_state == "inmigrate":
            target.tell_migration("failed")
            end(target, 1)

    target.later(_STEP_S, ends)


def cancel(source: Process) -> None:
    """Perform `migrate_cancel` (qemu-behaviour 9.3, 17.10)."""
    channel = source.channel
    if channel is None or source.live.migration not in MIGRATION_BUSY:
        return
    if source.live.colo_mode == "none":
        channel.stage, channel.up = "over", False
        source.tell_migration("cancelled")
        source.resume_guest(channel.origin)
        source.channel = None
        _used_up(_target(channel))
    elif source.quirks.second_migrate == "refused" and source.live.colo_mode == "primary":
        source.live = attrs.evolve(source.live, colo_mode="none")
        source.tell_migration("cancelling")
        channel.cut()


def _learns(channel: Channel, side: Process) -> None:
    if side.channel is not channel:
        return
    if side is channel.source:
        _source_learns(channel)
    elif side.is_cut(channel.source):
        side.later(_POLL_S, lambda: _learns(channel, side))
    elif side.live.colo_mode == "secondary":
        side.colo_exit("error")
    elif side.live.run_state == "inmigrate" and not side.live.colo_exited:
        side.tell_migration("failed")
        side.later(_STEP_S, lambda: end(side, 1))


def _source_learns(channel: Channel) -> None:
    if channel.stage in ("setup", "active", "device"):
        fail(channel)
    elif channel.stage == "colo" and (channel.checkpoint or not channel.entered):
        channel.source.colo_exit("error")


# -- what each side sees of the other


def _target(channel: Channel) -> Process:
    assert channel.target is not None  # noqa: S101 - set when the source connected
    return channel.target


def _broken(channel: Channel) -> bool:
    target = channel.target
    if not channel.up or target is None:
        return True
    return not target.alive and not channel.source.is_cut(target)


def _talks_or_later(channel: Channel, action: Callable[[], None]) -> bool:
    """Whether the target would answer the source; if not, `action` is tried again later."""
    if channel.source.talks(_target(channel)):
        return True
    channel.source.later(_POLL_S, action)
    return False


def capabilities(qemu: Process, command: qmp.MigrateSetCapabilities) -> None:
    """Perform `migrate-set-capabilities` by the version's rules (qemu-behaviour 2.3).

    Raises:
        Refused: The version does not accept the change now.
    """
    busy = qemu.live.migration in MIGRATION_BUSY and not qemu.live.incoming
    if busy and not qemu.quirks.capabilities_in_colo:
        raise Refused("There's a migration process in progress")
    then = effects.after(qemu.live, command).capabilities
    if qemu.quirks.needs_return_path and "x-colo" in then and "return-path" not in then:
        raise Refused("Capability 'x-colo' requires capability 'return-path'")
    qemu.accept(command)

"""`failover` and `stop`: one node goes on alone.

What a primary has to do is the same whether its secondary died or was dismissed: cut every
connection to it, give the guest its network and disk back, end COLO, then clear up. The steps that
bring the guest back come first (qemu-behaviour 7.9, 7.10).
"""

from __future__ import annotations

from typing import get_args

from pycolo import faces
from pycolo.compiler import _disks, _filters
from pycolo.compiler._draft import Draft
from pycolo.conditions import AllOf, ColoModeIs, Gone, MigrationIs, PeerDead, RunStateIs
from pycolo.errors import CompileError
from pycolo.plan import Execute, Refusal
from pycolo.qmp.commands import (
    CapabilityName,
    Cont,
    MigrateContinue,
    MigrateSetCapabilities,
    MigrationCapability,
    NbdServerStop,
    Quit,
    XColoLostHeartbeat,
    Yank,
)

CAPABILITIES: tuple[CapabilityName, ...] = get_args(CapabilityName)
MOVING = ("setup", "active", "pre-switchover", "device")
OVER = ("failed", "cancelled", "completed")
STOPPED = ("paused", "postmigrate", "finish-migrate")
NOT_IN_COLO = (
    Refusal(text="VM is not in COLO mode"),
    Refusal(text="The feature 'colo' is not enabled"),
    Refusal(text="COLO failover is already activated"),
)
LOST_HEARTBEAT_WHY = "ends COLO here and runs the guest (qemu-behaviour 8.1); its end is waited for"


def fail_over(draft: Draft, survivor: str, peer: str) -> None:
    """Emit the steps by which `survivor` goes on without `peer`.

    Raises:
        CompileError: The survivor has no guest that could go on.
    """
    role = _survivors_role(draft, survivor)
    why = "two guests serving at once is worse than none (qemu-behaviour 8.6)"
    draft.check(survivor, f"dead:{peer}", PeerDead(node=peer), why)
    draft.check_instances((survivor,))
    if role == "primary" or _was_promoted(draft, survivor):
        go_on_alone(draft, survivor)
    if role == "secondary":
        promote(draft, survivor)


def _was_promoted(draft: Draft, survivor: str) -> bool:
    """Whether it goes on alone already, and something leads to a peer of its own by now."""
    return draft.live(survivor).colo_mode == "none" and _linked(draft, survivor)


def stop(draft: Draft, primary: str, secondary: str | None) -> None:
    """Emit the steps that end protection on purpose: the secondary quits, the guest goes on."""
    if secondary is not None and draft.now.live(secondary) is not None:
        why = "first, so that no second guest is left to run on (qemu-behaviour 8.6, 8.8)"
        draft.execute(secondary, Quit(), why)
        why = "the secondary has hung up; nobody promotes it (qemu-behaviour 8.8)"
        draft.wait(secondary, "gone", Gone(node=secondary), why, limit_s=draft.timeouts.command_s)
    go_on_alone(draft, primary)


def _survivors_role(draft: Draft, survivor: str) -> str:
    live = draft.live(survivor)
    if live.colo_mode != "none":
        return live.colo_mode
    if live.run_state == "inmigrate" or (live.incoming and live.last_colo_mode == "none"):
        why = (
            f"{survivor} never ran in COLO, so it has no guest to go on with (qemu-behaviour 4.10)"
        )
        raise CompileError(why, "launch the node with the newest data as primary instead")
    return live.last_colo_mode if live.last_colo_mode == "secondary" else "primary"


def go_on_alone(draft: Draft, primary: str) -> None:
    """A primary without its secondary (qemu-behaviour 7.9)."""
    pair = draft.pair
    first = _yank(draft, primary, faces.primary_yanks(pair)) if _linked(draft, primary) else None
    for disk in pair.disks:
        _disks.check_child(draft, primary, disk)
    for disk in pair.disks:
        _disks.detach(draft, primary, disk)
    for chain in pair.chains:
        _filters.switch_off(draft, primary, chain)
    moving = draft.live(primary).colo_mode == "none" and draft.live(primary).migration in MOVING
    if moving:
        _end_entry(draft, primary)
    ended = moving or _end_colo(draft, primary, faces.primary_yanks(pair))
    if ended:
        restored = _wait_restored(draft, primary)
        cut = cut_relief(draft, primary)
        off = tuple(s for c in pair.chains for s in _filters.off_relief(draft, primary, c))
        lost = draft.relief_step(
            primary, XColoLostHeartbeat(), LOST_HEARTBEAT_WHY, accepts=NOT_IN_COLO
        )
        why = "the guest stands still or has no network until COLO has ended"
        draft.relieve(first, restored, (*cut, *off, lost), why)
    for chain in pair.chains:
        _filters.remove_primary(draft, primary, chain)
    for disk in pair.disks:
        _disks.ensure_no_job(draft, primary, disk)
        _disks.remove_nbd(draft, primary, disk)
    _plain_migration(draft, primary)


def tied(draft: Draft, primary: str) -> bool:
    """Whether anything of COLO is left on a node."""
    live = draft.live(primary)
    left = not live.capabilities.isdisjoint(CAPABILITIES)
    jobs = any(_disks.resync_jobs(live, disk) for disk in draft.pair.disks)
    return left or jobs or _linked(draft, primary)


def _linked(draft: Draft, primary: str) -> bool:
    """Whether anything still leads to a peer."""
    live = draft.live(primary)
    ours = {disk.names.nbd for disk in draft.pair.disks}
    links = {c.names.mirror for c in draft.pair.chains} | {
        c.names.compare_in for c in draft.pair.chains
    }
    moving = live.migration in MOVING
    return (
        live.colo_mode != "none"
        or moving
        or bool(ours & live.block_nodes)
        or bool(links & set(live.chardevs))
    )


def promote(draft: Draft, secondary: str) -> None:
    """A secondary without its primary (qemu-behaviour 7.10)."""
    pair = draft.pair
    if draft.live(secondary).colo_mode == "secondary":
        first = _yank(draft, secondary, faces.secondary_yanks(pair))
        _end_colo(draft, secondary, faces.secondary_yanks(pair))
        _stop_nbd(draft, secondary)
        restored = _wait_restored(draft, secondary)
        lost = draft.relief_step(
            secondary, XColoLostHeartbeat(), LOST_HEARTBEAT_WHY, accepts=NOT_IN_COLO
        )
        draft.relieve(first, restored, (lost,), "the guest does not serve until COLO has ended")
    else:
        _stop_nbd(draft, secondary)
    for chain in pair.chains:
        _filters.remove_secondary(draft, secondary, chain)
    _plain_migration(draft, secondary)
    _disks.ensure_committed(draft, secondary)
    for disk in pair.disks:
        _disks.remove_overlays(draft, secondary, disk)


def _plain_migration(draft: Draft, node: str) -> None:
    """Switch COLO's capabilities off: left on, any later migration would enter COLO."""
    on = [name for name in CAPABILITIES if name in draft.live(node).capabilities]
    if on:
        off = tuple(MigrationCapability(capability=name, state=False) for name in on)
        why = "a migration of the survivor is a plain one again (qemu-behaviour 4.6)"
        draft.execute(node, MigrateSetCapabilities(capabilities=off), why)


def _stop_nbd(draft: Draft, secondary: str) -> None:
    live = draft.live(secondary)
    if live.nbd_server or live.exports:
        why = "nobody writes to the image past the guest any more (qemu-behaviour 7.10)"
        accepts = (Refusal(text="NBD server not running"),)
        draft.execute(secondary, NbdServerStop(), why, accepts=accepts)


def _yank(draft: Draft, node: str, yanks: tuple[Yank, ...]) -> str:
    why = "nothing blocks on a dead peer; one instance a command (qemu-behaviour 7.3, 7.7)"
    addresses = [
        draft.execute(node, yank, why, accepts=_disks.NO_INSTANCE, oob=True) for yank in yanks
    ]
    return addresses[0]


def cut_relief(draft: Draft, primary: str) -> tuple[Execute, ...]:
    """The yanks as relief: whoever is relieved may have been left before they were sent."""
    why = "nothing waits for the secondary any more (qemu-behaviour 7.3)"
    return tuple(
        draft.relief_step(primary, yank, why, oob=True, accepts=_disks.NO_INSTANCE)
        for yank in faces.primary_yanks(draft.pair)
    )


def _end_entry(draft: Draft, primary: str) -> None:
    """End an entry under way, whichever way it takes once its connection is yanked."""
    settled = MigrationIs(node=primary, statuses=("pre-switchover", "colo", *OVER))
    why = "what the yank has ended shows first (qemu-behaviour 17.10)"
    limit_s = draft.timeouts.command_s
    draft.wait(primary, "settled", settled, why, limit_s=limit_s)
    why = "one that was paused ends only by going on (qemu-behaviour 17.10)"
    accepts = (Refusal(text="Migration not in expected state"),)
    draft.execute(primary, MigrateContinue(state="pre-switchover"), why, accepts=accepts)
    decided = MigrationIs(node=primary, statuses=("colo", *OVER))
    why = "it fails on the cut connection, unless it was past it (qemu-behaviour 17.10)"
    draft.wait(primary, "decided", decided, why, limit_s=limit_s)
    why = "one that had reached COLO ends like that (qemu-behaviour 4.9, 4.10)"
    draft.execute(primary, XColoLostHeartbeat(), why, accepts=NOT_IN_COLO)
    over = MigrationIs(node=primary, statuses=OVER)
    why = "till then the guest can neither be continued nor forget COLO (qemu-behaviour 17.10)"
    draft.wait(primary, "entry-over", over, why, limit_s=limit_s)
    why = "7.2 leaves the guest standing (qemu-behaviour 17.10)"
    draft.execute(primary, Cont(), why)


def _end_colo(draft: Draft, node: str, rescue: tuple[Yank, ...]) -> bool:
    """Emit what ends COLO or lets a stopped guest go on; whether there was anything to end."""
    live = draft.live(node)
    if live.colo_mode != "none":
        draft.execute(
            node, XColoLostHeartbeat(), LOST_HEARTBEAT_WHY, accepts=NOT_IN_COLO, rescue=rescue
        )
    elif live.run_state in STOPPED:
        why = "an entry or a resync that failed had stopped the guest (qemu-behaviour 5.18)"
        draft.execute(node, Cont(), why)
    else:
        # The order was given before; a guest inside its last checkpoint is still waited for.
        return live.run_state == "colo"
    return True


def _wait_restored(draft: Draft, node: str) -> str:
    """Wait for the running guest; returns the address after which it serves again."""
    until = AllOf(
        conditions=(
            RunStateIs(node=node, states=("running",)),
            ColoModeIs(node=node, mode="none"),
        )
    )
    why = "the reply comes before the work is done (qemu-behaviour 8.2)"
    limit_s = draft.timeouts.failover_s
    address = draft.wait(node, "restored", until, why, limit_s=limit_s)
    draft.restored(address)
    return address

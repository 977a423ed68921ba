"""The steps of one disk: export it, copy it, attach the peer's disk to it, detach that again."""

from __future__ import annotations

from pycolo import topology
from pycolo.compiler._draft import Draft
from pycolo.conditions import (
    AllOf,
    AnyOf,
    ChildIs,
    Committed,
    Condition,
    JobFailed,
    JobIs,
    Replicates,
)
from pycolo.errors import compile_error
from pycolo.model.disk import ReplicationDisk
from pycolo.plan import Execute, Refusal
from pycolo.qmp.commands import (
    BlockdevAdd,
    BlockdevDel,
    BlockdevMirror,
    BlockExportAdd,
    BlockJobCancel,
    JobDismiss,
    XBlockdevChange,
    Yank,
)
from pycolo.qmp.objects import YankBlockNode
from pycolo.record import PairRecord, highest
from pycolo.snapshot import Live

# Creating or opening the encrypted images of a disk takes seconds of computing, more on a busy host
# (qemu-behaviour 20.4).
ENCRYPTED_S = 60.0
LOCAL_CHILD = "children.0"
NO_INSTANCE = (Refusal(text="Instance not found", error_class="DeviceNotFound"),)
ENDING = ("waiting", "pending", "aborting")
# The job may have ended between the snapshot and the command that ends it. Whether the job
# succeeded is then found by the wait that follows the command.
ENDED = (Refusal(text="cannot accept command verb 'cancel'"),)


def opening_s(draft: Draft, node: str) -> float:
    """How much longer a node may take because its disks are encrypted, in seconds."""
    place = draft.pair.node(node)
    encrypted = [disk for disk in draft.pair.disks if topology.secret(place, disk) is not None]
    return ENCRYPTED_S * len(encrypted)


def job_id(draft: Draft, peer: str, disk: ReplicationDisk) -> str:
    """The id of the job that copies a disk to the secondary; it holds the secondary's identity.

    So a concluded job shows that the disk of *this* secondary is complete, and says nothing of the
    disk of another secondary.

    Args:
        draft: The plan so far.
        peer: The node of the secondary, whose QEMU answers.
        disk: The disk.

    Raises:
        CompileError: The QEMU of `peer` does not answer.
    """
    # QEMU takes no colon in a job's id.
    return f"{_job_prefix(disk)}{draft.live(peer).instance.replace(':', '.')}"


def _job_prefix(disk: ReplicationDisk) -> str:
    """The start of the ids of a disk's copy jobs, before the secondary's identity."""
    return f"resync-{disk.names.quorum}-"


def peer_child(live: Live, disk: ReplicationDisk) -> str | None:
    """QEMU's name of the quorum's child that is the peer's disk; None if it is not attached."""
    for child in live.children.get(disk.names.quorum, ()):
        if child.node == disk.names.nbd and child.name != LOCAL_CHILD:
            return child.name
    return None


def ensure_export(draft: Draft, node: str, disk: ReplicationDisk) -> None:
    """Export the secondary's image over NBD, so that the primary can write to it."""
    parent = disk.names.parent
    if parent not in draft.live(node).exports:
        command = BlockExportAdd(id=parent, node_name=parent, name=parent, writable=True)
        why = "the primary writes here; COLO needs the node exported (qemu-behaviour 5.2, 5.3)"
        # QEMU opens an image that it exports anew, if that has waited for a migration until now.
        limit_s = draft.timeouts.command_s + opening_s(draft, node)
        draft.execute(node, command, why, limit_s=limit_s)


def ensure_nbd(draft: Draft, node: str, peer: str, disk: ReplicationDisk) -> None:
    """Add the NBD node through which the primary writes to the secondary's image.

    Args:
        draft: The plan so far.
        node: The primary.
        peer: The secondary.
        disk: The disk.
    """
    command = BlockdevAdd(node=topology.nbd_node(draft.pair, draft.pair.node(peer), disk))
    if peer_child(draft.live(node), disk) is None and not resync_jobs(draft.live(node), disk):
        # Nothing shows to which host this NBD node leads: it may be that of another secondary.
        remove_nbd(draft, node, disk)
    if disk.names.nbd not in draft.live(node).block_nodes:
        why = "named, so that it can be yanked; limited in time (qemu-behaviour 5.4, 5.6, 5.22)"
        draft.execute(node, command, why)


def check_ours(draft: Draft, node: str, peer: str, disk: ReplicationDisk) -> None:
    """Check that an attached disk, or a copy under way, is that of this very secondary.

    Args:
        draft: The plan so far.
        node: The primary.
        peer: The secondary.
        disk: The disk.

    Raises:
        CompileError: The attached disk, or the copy, belongs to an attempt with another secondary.
    """
    live, ours = draft.live(node), job_id(draft, peer, disk)
    others = [job for job in resync_jobs(live, disk) if job != ours]
    vouched = ours in live.jobs or is_identical(draft, node)
    unvouched = peer_child(live, disk) is not None and not vouched
    if unvouched or (others and disk.names.nbd in live.block_nodes):
        why = f"{node}: {disk.names.nbd} is not known to hold a copy for {peer}"
        advice = f"undo that attempt with stop, which ends {peer}, and launch {peer} anew"
        raise compile_error("other-copy", why, advice, node=node)


def is_identical(draft: Draft, primary: str) -> bool:
    """Whether the images are equal because the operator declared them so (`initial_sync`).

    The declaration `identical` counts only until the guest has run: in the pair's first epoch, on
    a QEMU whose guest has not been started.
    """
    live, own = draft.live(primary), draft.now.records.get(primary)
    first = isinstance(own, PairRecord) and own.epoch == 1
    asked = draft.pair.initial_sync == "identical"
    return asked and first and live.run_state == "prelaunch"


def must_be_there(draft: Draft) -> bool:
    """Whether the operator must provide the secondary's image, so that `launch` creates none.

    The operator must if `start` will take the images for equal and not copy them. `start` would
    also take an empty image for equal, if `launch` created one in the place of a missing image.
    """
    top = highest(draft.now.records)
    holder = None if top is None else draft.now.live(top.holder)
    begins = (top is None or top.epoch == 1) and (holder is None or holder.run_state == "prelaunch")
    return draft.pair.initial_sync == "identical" and begins


def ensure_mirror(draft: Draft, node: str, peer: str, disk: ReplicationDisk) -> None:
    """Start the copy of a disk to the secondary, unless it has begun or is attached already.

    Args:
        draft: The plan so far.
        node: The primary.
        peer: The secondary.
        disk: The disk.
    """
    job = draft.live(node).jobs.get(job_id(draft, peer, disk))
    if job is None and peer_child(draft.live(node), disk) is None:
        command = BlockdevMirror(
            device=disk.names.quorum,
            job_id=job_id(draft, peer, disk),
            target=disk.names.nbd,
            sync="full",
            speed=disk.resync_bytes_per_s,
            auto_dismiss=False,
        )
        draft.execute(node, command, "the whole disk goes to the secondary (qemu-behaviour 5.15)")


def dismiss_useless(draft: Draft, node: str, peer: str, disk: ReplicationDisk) -> None:
    """Dismiss the job of a copy that failed, or that ended while the guest kept writing.

    Then `ensure_mirror` starts another copy. If the peer's disk is attached to the quorum already,
    its job is kept.

    Args:
        draft: The plan so far.
        node: The primary.
        peer: The secondary.
        disk: The disk.
    """
    job = draft.live(node).jobs.get(job_id(draft, peer, disk))
    if job is None or peer_child(draft.live(node), disk) is not None:
        return
    if job.error is not None:
        why = "it failed, and what it copied is not known to be complete (qemu-behaviour 18.5)"
    elif draft.live(node).run_state != "running" or job.status not in (*ENDING, "concluded"):
        return
    else:
        why = "the guest has written since it ended, and not to the secondary (qemu-behaviour 5.15)"
        if job.status in ENDING:
            _wait_ended(draft, node, peer, [disk])
    draft.execute(node, JobDismiss(id=job_id(draft, peer, disk)), why)


def ensure_mirrored(draft: Draft, node: str, peer: str, disks: tuple[ReplicationDisk, ...]) -> None:
    """Wait until every copy is ready: the secondary has the whole disk and gets each new write.

    Args:
        draft: The plan so far.
        node: The primary.
        peer: The secondary.
        disks: The disks that are copied.
    """
    running = [d for d in disks if _job(draft, node, peer, d) in ("created", "running")]
    if not running:
        return
    until = AllOf(
        conditions=tuple(
            JobIs(node=node, job=job_id(draft, peer, d), statuses=("ready",)) for d in running
        )
    )
    draft.wait(
        node,
        "mirrored",
        until,
        "both disks are equal from here on (qemu-behaviour 5.15)",
        limit_s=draft.timeouts.resync_s,
        stall_s=draft.timeouts.stall_s,
        unless=_failed(draft, node, peer, running),
    )


def ensure_mirror_ended(
    draft: Draft, node: str, peer: str, disks: tuple[ReplicationDisk, ...]
) -> str | None:
    """End the copies while the guest is paused, so that all disks are of one moment.

    Args:
        draft: The plan so far.
        node: The primary, whose guest is paused.
        peer: The secondary.
        disks: The disks that are copied.

    Returns:
        The address of the first step that ends a copy; None if no copy is ready.
    """
    first: str | None = None
    for disk in disks:
        if _job(draft, node, peer, disk) == "ready":
            why = "ends a ready copy; job-cancel would abort it (qemu-behaviour 5.16)"
            command = BlockJobCancel(device=job_id(draft, peer, disk))
            address = draft.execute(node, command, why, accepts=ENDED)
            first = first or address
    ending = [d for d in disks if _job(draft, node, peer, d) in ENDING]
    if ending:
        _wait_ended(draft, node, peer, ending)
    return first


def _wait_ended(draft: Draft, node: str, peer: str, disks: list[ReplicationDisk]) -> None:
    """Wait until the copy jobs of some disks are concluded; an error ends the wait."""
    until = AllOf(
        conditions=tuple(
            JobIs(node=node, job=job_id(draft, peer, d), statuses=("concluded",)) for d in disks
        )
    )
    draft.wait(
        node,
        "mirror-ended",
        until,
        "a copy that concluded without an error is complete (qemu-behaviour 18.5)",
        limit_s=draft.timeouts.command_s,
        unless=_failed(draft, node, peer, disks),
    )


def ensure_attached(draft: Draft, node: str, disk: ReplicationDisk) -> None:
    """Attach the peer's disk to the quorum: from then on every write goes to both disks."""
    if peer_child(draft.live(node), disk) is not None:
        return
    command = XBlockdevChange(parent=disk.names.quorum, node=disk.names.nbd)
    draft.execute(node, command, "writes go to both disks from here on (qemu-behaviour 5.4)")


def ensure_dismissed(draft: Draft, node: str, disk: ReplicationDisk) -> None:
    """Dismiss the finished copy jobs of a disk, after the entry into COLO is proven.

    Until then the concluded job shows that the copy was complete.
    """
    for job in resync_jobs(draft.live(node), disk):
        why = "until here the finished job showed that the copy was complete (qemu-behaviour 18.5)"
        draft.execute(node, JobDismiss(id=job), why)


def resync_jobs(live: Live, disk: ReplicationDisk) -> tuple[str, ...]:
    """Ids of a disk's copy jobs that were not dismissed, of every secondary."""
    return tuple(job for job in live.jobs if job.startswith(_job_prefix(disk)))


def ensure_no_job(draft: Draft, node: str, disk: ReplicationDisk) -> None:
    """Cancel and dismiss the copies that no longer have a target."""
    for job in resync_jobs(draft.live(node), disk):
        if draft.live(node).jobs[job].status != "concluded":
            why = "its target is gone (qemu-behaviour 5.17)"
            gone = (Refusal(text="not found", error_class="DeviceNotActive"), *ENDED)
            draft.execute(node, BlockJobCancel(device=job, force=True), why, accepts=gone)
            ended = JobIs(node=node, job=job, statuses=("concluded",))
            until = AnyOf(conditions=(ended, JobFailed(node=node, job=job)))
            why = "a job that still runs keeps its node busy (qemu-behaviour 5.9)"
            draft.wait(node, f"ended:{job}", until, why, limit_s=draft.timeouts.command_s)
        why = "the next copy gets a job of its own (qemu-behaviour 18.5)"
        draft.execute(node, JobDismiss(id=job), why, accepts=(Refusal(text="not found"),))


def check_child(draft: Draft, node: str, disk: ReplicationDisk) -> None:
    """Check that the child that will be detached from the quorum is still the peer's disk."""
    child = peer_child(draft.live(node), disk)
    if child is not None:
        ids = disk.names
        condition = ChildIs(node=node, quorum=ids.quorum, child=child, child_node=ids.nbd)
        why = "removing the wrong child would take the local disk away (qemu-behaviour 5.8)"
        draft.check(node, f"{ids.quorum}.{child}", condition, why)


def check_not_overlaid(draft: Draft, node: str) -> None:
    """Check that no external snapshot takes the guest's writes.

    Raises:
        CompileError: One does.
    """
    if draft.live(node).overlaid:
        why = f"a snapshot takes the guest's writes on {node}, and no node's image gets them"
        advice = "merge it into the disk with block-commit, and complete that job"
        raise compile_error("disk-overlaid", why, advice, node=node)


def check_replicates(draft: Draft, node: str) -> None:
    """Check that no write to the peer's disks has failed."""
    live = draft.live(node)
    attached = [d.names for d in draft.pair.disks if peer_child(live, d) is not None]
    conditions = tuple(
        Replicates(node=node, quorum=ids.quorum, child_node=ids.nbd) for ids in attached
    )
    if conditions:
        why = "over plain NBD a checkpoint succeeds without replication (qemu-behaviour 5.10)"
        draft.check(node, "replicates", AllOf(conditions=conditions), why)


def detach(draft: Draft, node: str, disk: ReplicationDisk) -> None:
    """Detach the peer's disk: from then on the quorum writes to the local disk alone."""
    child = peer_child(draft.live(node), disk)
    if child is None:
        return
    draft.execute(
        node,
        XBlockdevChange(parent=disk.names.quorum, child=child),
        "a dead child would block the guest's writes (qemu-behaviour 5.12, 7.3)",
        accepts=(Refusal(text="does not have child"),),
        rescue=draft.disk_yanks,
    )


def copy_recovery(draft: Draft, node: str, peer: str, disk: ReplicationDisk) -> tuple[Execute, ...]:
    """Abort a copy as recovery, so that the paused guest can be resumed even if the peer hangs.

    The connection to the peer is cut, so the copy is lost. Its job is cancelled, so that nothing
    takes the copy for complete.

    Args:
        draft: The plan so far.
        node: The primary.
        peer: The secondary.
        disk: The disk.
    """
    why = "a write of the copy that nobody confirms holds everything up (qemu-behaviour 5.23)"
    yank = draft.recovery_step(
        node,
        Yank(instances=(YankBlockNode(node_name=disk.names.nbd),)),
        why,
        oob=True,
        accepts=NO_INSTANCE,
    )
    return (yank, copy_end_recovery(draft, node, peer, disk))


def copy_end_recovery(draft: Draft, node: str, peer: str, disk: ReplicationDisk) -> Execute:
    """Cancel the job of a copy as recovery, after the NBD connection to the peer was yanked.

    If the job stayed, no other copy could begin.

    Args:
        draft: The plan so far.
        node: The primary.
        peer: The secondary.
        disk: The disk.
    """
    gone = (Refusal(text="not found", error_class="DeviceNotActive"), *ENDED)
    command = BlockJobCancel(device=job_id(draft, peer, disk), force=True)
    return draft.recovery_step(node, command, "it cannot complete any more", accepts=gone)


def detach_recovery(draft: Draft, node: str, disk: ReplicationDisk) -> tuple[Execute, ...]:
    """Detach the peer's disk as recovery, after the NBD connection to the peer was yanked."""
    child = peer_child(draft.live(node), disk)
    if child is None:
        return ()
    detach = XBlockdevChange(parent=disk.names.quorum, child=child)
    remove = BlockdevDel(node_name=disk.names.nbd)
    why = "what it misses from here on is not taken for copied (qemu-behaviour 5.10)"
    no_child = (Refusal(text="does not have child"),)
    no_node = (Refusal(text="Failed to find node"),)
    return (
        draft.recovery_step(node, detach, why, accepts=no_child),
        draft.recovery_step(node, remove, why, accepts=no_node),
    )


def remove_nbd(draft: Draft, node: str, disk: ReplicationDisk) -> None:
    """Delete the NBD node, which nothing may use any more (qemu-behaviour 5.9)."""
    if disk.names.nbd in draft.live(node).block_nodes:
        draft.execute(
            node,
            BlockdevDel(node_name=disk.names.nbd),
            "its name is free for the next generation (qemu-behaviour 5.9)",
            accepts=(Refusal(text="Failed to find node"),),
            rescue=draft.disk_yanks,
        )


def remove_overlays(draft: Draft, node: str, disk: ReplicationDisk) -> None:
    """Delete the overlay nodes of a promoted secondary, after their data was merged."""
    for overlay in (disk.names.active, disk.names.hidden):
        if overlay in draft.live(node).block_nodes:
            why = "its data is in the image now; its file is free (qemu-behaviour 5.13)"
            accepts = (Refusal(text="Failed to find node"),)
            draft.execute(node, BlockdevDel(node_name=overlay), why, accepts=accepts)


def ensure_committed(draft: Draft, node: str) -> None:
    """Wait until a promotion has merged its overlays: until then a crash loses their data."""
    pending = [d for d in draft.pair.disks if d.names.quorum in draft.live(node).commit_pending]
    if not pending:
        return
    conditions: tuple[Condition, ...] = tuple(
        Committed(
            node=node,
            quorum=d.names.quorum,
            replication=d.names.replication,
            parent=d.names.parent,
        )
        for d in pending
    )
    draft.wait(
        node,
        "committed",
        AllOf(conditions=conditions),
        "the overlays are merged; a crash before that loses data (qemu-behaviour 5.13)",
        limit_s=draft.timeouts.resync_s,
    )


def _job(draft: Draft, node: str, peer: str, disk: ReplicationDisk) -> str | None:
    """The status of a disk's copy to a peer; None if there is no job or it failed."""
    job = draft.live(node).jobs.get(job_id(draft, peer, disk))
    return None if job is None or job.error is not None else job.status


def _failed(draft: Draft, node: str, peer: str, disks: list[ReplicationDisk]) -> Condition:
    """The condition that one of the copy jobs has failed."""
    return AnyOf(conditions=tuple(JobFailed(node=node, job=job_id(draft, peer, d)) for d in disks))

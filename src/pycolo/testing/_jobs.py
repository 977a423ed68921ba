"""Mirror jobs, which copy a disk to the secondary and keep the copy equal until they end (5.15)."""

from __future__ import annotations

from typing import Final

import attrs

from pycolo.qmp import commands as qmp
from pycolo.qmp._base import QmpValue
from pycolo.snapshot import Job
from pycolo.testing._process import DiskLink, Process, Refused

CANCELLED: Final = "Operation canceled"
_POLL_S: Final = 0.05


def mirror(qemu: Process, command: qmp.BlockdevMirror) -> None:
    """Perform `blockdev-mirror`: begin to copy a disk.

    Raises:
        Refused: A node does not exist or is in use, or the job's name is taken.
    """
    job = command.job_id or command.device
    if command.device not in qemu.blocks and command.device not in qemu.line.drives:
        raise Refused(f"Cannot find device='{command.device}' nor node-name='{command.device}'")
    if job in qemu.live.jobs:
        raise Refused(f"Job ID '{job}' already in use")
    link = qemu.disk_links.get(command.target)
    if link is None:
        raise Refused(f"Cannot find device='{command.target}' nor node-name='{command.target}'")
    if command.target in qemu.targets.values():
        raise Refused("Need a root block node")
    qemu.accept(command)
    qemu.targets[job] = command.target
    qemu.kept[job] = command.auto_dismiss is False
    qemu.tell_job(job, "created")
    qemu.tell_job(job, "running")
    qemu.later(qemu.world.disk_copy_s, lambda: _copied(qemu, job, link))


def _is(qemu: Process, job: str, link: DiskLink, status: str) -> bool:
    """Whether a job has this status and is still the one that uses this connection.

    A job of the same name may have been started again since a timer was set.
    """
    target = qemu.targets.get(job)
    same = target is not None and qemu.disk_links.get(target) is link
    return same and qemu.live.jobs[job].status == status


def _copied(qemu: Process, job: str, link: DiskLink) -> None:
    if not _is(qemu, job, link, "running"):
        return
    if not link.up or not link.server.alive:
        fail(qemu, job, "Input/output error")
    elif link.silent:
        qemu.later(_POLL_S, lambda: _copied(qemu, job, link))
    else:
        _bring_up(qemu, link)
        _status(qemu, job, "ready")
        qemu.event("BLOCK_JOB_READY", _data(qemu, job))


def _bring_up(qemu: Process, link: DiskLink) -> None:
    records = next(
        qemu.guest_data(n)
        for n, quorum in enumerate(qemu.quorums)
        if _exported_as(qemu, quorum) == link.export or len(qemu.quorums) == 1
    )
    link.image.records.clear()
    link.image.records |= records


def _exported_as(qemu: Process, quorum: str) -> str:
    return qemu.parent_of(qemu.live.children[quorum][0].node)


def cancel(qemu: Process, command: qmp.BlockJobCancel) -> None:
    """Perform `block-job-cancel`: complete a copy that is ready, abort any other (5.16).

    Raises:
        Refused: There is no such job, or it is ending already.
    """
    job, known = command.device, qemu.live.jobs.get(command.device)
    if known is None:
        raise Refused(f"Block job '{job}' not found", "DeviceNotActive")
    if known.status not in ("running", "ready"):
        raise Refused(f"Job '{job}' in state '{known.status}' cannot accept command verb 'cancel'")
    if known.status == "running" or command.force:
        abort(qemu, job)
        return
    link = qemu.disk_links[qemu.targets[job]]
    _status(qemu, job, "waiting")
    qemu.later(0, lambda: _conclude(qemu, job, link))


def _conclude(qemu: Process, job: str, link: DiskLink) -> None:
    if not _is(qemu, job, link, "waiting"):
        return
    if not link.up or not link.server.alive:
        fail(qemu, job, "Input/output error")
    elif link.silent:
        qemu.later(_POLL_S, lambda: _conclude(qemu, job, link))
    else:
        _bring_up(qemu, link)
        _status(qemu, job, "pending")
        qemu.event("BLOCK_JOB_COMPLETED", _data(qemu, job))
        _over(qemu, job, None)


def abort(qemu: Process, job: str) -> None:
    """End a job before its copy is complete, with the error of a cancelled job."""
    _status(qemu, job, "aborting")
    qemu.event("BLOCK_JOB_CANCELLED", _data(qemu, job))
    _over(qemu, job, CANCELLED)


def fail(qemu: Process, job: str, why: str) -> None:
    """End a job with an error, as QEMU does when the job's target is gone (qemu-behaviour 5.17)."""
    error: dict[str, QmpValue] = {"device": job, "operation": "write", "action": "report"}
    qemu.event("BLOCK_JOB_ERROR", error)
    _status(qemu, job, "aborting")
    qemu.event("BLOCK_JOB_COMPLETED", {**_data(qemu, job), "error": why})
    _over(qemu, job, why)


def pause(qemu: Process) -> None:
    """Send the events that jobs which are ready send when the guest is stopped."""
    for job, known in qemu.live.jobs.items():
        if known.status == "ready":
            qemu.tell_job(job, "standby")
            qemu.tell_job(job, "ready")


def dismiss(qemu: Process, command: qmp.JobDismiss) -> None:
    """Perform `job-dismiss`: remove a job that has concluded.

    Raises:
        Refused: There is no such job, or it has not concluded.
    """
    known = qemu.live.jobs.get(command.id)
    if known is None:
        raise Refused("Job not found")
    if known.status != "concluded":
        verb = f"Job '{command.id}' in state '{known.status}' cannot accept command verb"
        raise Refused(f"{verb} 'dismiss'")
    qemu.accept(command)
    qemu.tell_job(command.id, "null")


def _over(qemu: Process, job: str, error: str | None) -> None:
    del qemu.targets[job]
    qemu.tell_job(job, "concluded")
    jobs = {**qemu.live.jobs, job: Job(status="concluded", error=error)}
    if not qemu.kept.pop(job):
        del jobs[job]
        qemu.tell_job(job, "null")
    qemu.live = attrs.evolve(qemu.live, jobs=jobs)


def _status(qemu: Process, job: str, status: str) -> None:
    qemu.live = attrs.evolve(qemu.live, jobs={**qemu.live.jobs, job: Job(status=status)})
    qemu.tell_job(job, status)


def _data(qemu: Process, job: str) -> dict[str, QmpValue]:
    size = size_bytes(qemu)
    return {"device": job, "len": size, "offset": size, "speed": 0, "type": "mirror"}


def size_bytes(qemu: Process) -> int:
    """The size of the largest disk, which the jobs report as their length."""
    return max((qemu.live.sizes_bytes.get(quorum, 0) for quorum in qemu.quorums), default=0)

"""The helper: acts on a node's host. Needs Python 3.9 and nothing else.

The code of this file reads and writes files, takes locks, and starts and ends processes. It always
runs on the host of the node that it acts for, in one of four ways:

- In the program that uses pycolo, if that runs on this host: `LocalHost` calls `perform` in a
  thread.
- In a helper process, if that program runs elsewhere: `SshHost` logs in once, starts a Python here,
  sends it the text of this file, and calls `serve`. From then on each request is a line of JSON on
  the helper's standard input, and each answer is a line on its standard output. The helper ends
  with the connection; nothing is installed.
- In a Python that a shell script from `pycolo.render.shell` starts: `main`, for one request.
- In the process that becomes QEMU, before it does: see `LAUNCHER`.

A request is the name of an operation (`OPERATIONS`, and `launch`) and its arguments. Arguments and
answers are plain JSON values, and every path is a path on that host. Operations run side by side;
those that change a node's record, images or process file hold the lock of its record.

No process of pycolo has to live as long as QEMU. A small file, the process file, identifies QEMU's
process by its number, its start time, and the boot and the name spaces in which that number is
valid. That process writes the file itself before it becomes QEMU; if libvirt starts QEMU, `launch`
writes the file. So a process that was given the same number later is never taken for QEMU. A
process file that other users may have written is no evidence of a QEMU's end.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import difflib
import errno
import fcntl
import hashlib
import json
import os
import re
import select
import selectors
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Dict, NamedTuple, Tuple, Union

POLL_S = 0.005
GREETING_S = 1.0
RELEASE_S = 1.0
KILL_S = 10.0
LIMIT_S = 10.0
TAIL_LINES = 5
# Most records and process files are shorter. A file with an allocated block can be rewritten on a
# full disk.
BLOCK_BYTES = 4096
READ_MAX_BYTES = 1 << 20
ENDED_KEPT = 32
# Kernel flags: PF_EXITING of a task that has begun to exit; PIDFD_THREAD makes a pidfd refer to one
# thread.
PF_EXITING = 0x4
PIDFD_THREAD = os.O_EXCL
# How many threads are watched. The first threads of a QEMU live as long as it does, and at most one
# of them is the thread that frees its memory.
THREADS_WATCHED = 4
# After one thread of a killed process has ended, the others end within milliseconds: check
# every LOOK_S for SETTLE_S.
LOOK_S = 0.002
SETTLE_S = 0.1
# How often to check without a hint: UNTOLD_S if the kernel reports no ends of threads, TOLD_S if
# it does.
UNTOLD_S = 0.05
TOLD_S = 1.0
OTHERS_MAY_WRITE = 0o022
PID_MAX = 1 << 22
OWNER_SUFFIX = ".owner.json"
# The most owner files that are read of a folder; far more than a pair has images.
OWNERS_READ = 1000
WIDER_THAN_OWNER = 0o077
MOUNTS = "/proc/self/mountinfo"
# On these, several hosts see the same files, with the same source and inode number.
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "ceph", "fuse.glusterfs", "lustre")
RAM_FILE_SYSTEMS = ("tmpfs", "ramfs", "devtmpfs")
RENAME_EXCHANGE = 2
AT_FDCWD = -100
CLONE_NEWNET = 0x40000000
# Results of a connection attempt that show that no firewall drops packets; a closed port refuses.
LET_THROUGH = (0, errno.ECONNREFUSED)

# Python 3.9 runs this file and knows no `|` between types, except in annotations.
Answer = Dict[str, object]
Monitor = Mapping[str, Union[str, int]]


class Refused(Exception):
    """The helper refused an operation, which had no effect; see `perform`."""


class Uncertain(Exception):
    """It is not known whether an operation of the helper was done."""


# -- which files can be trusted
# ------------------------------------------------------------------------


def _distrust(path: str) -> str | None:
    """Why a file cannot be trusted; None if only root and this user can write to it."""
    for candidate in dict.fromkeys((path, os.path.realpath(path))):
        found = os.lstat(candidate)
        if not stat.S_ISLNK(found.st_mode):
            if not stat.S_ISREG(found.st_mode):
                return f"{candidate} is no regular file"
            if found.st_nlink != 1:
                return f"{candidate} has another name, a hard link: remove the other name"
            if _is_writable_by_others(found):
                return f"{candidate} may be written by others than its owner"
        why = _distrust_parents(candidate)
        if why is not None:
            return why
    return None


def _distrust_parents(path: str) -> str | None:
    """Why the folders above a file let other users replace it; None if they do not."""
    for parent in Path(path).parents:
        found = os.stat(parent)
        sticky = found.st_mode & stat.S_ISVTX and found.st_uid == 0
        if _is_writable_by_others(found) and not sticky:
            return f"{parent} may be written by others than its owner"
    return None


def _is_writable_by_others(found: os.stat_result) -> bool:
    return found.st_uid not in (0, os.geteuid()) or bool(found.st_mode & OTHERS_MAY_WRITE)


def _check_state_dir(path: str) -> None:
    """Refuse a record's path if its folder is missing, not trusted, or on a RAM file system.

    Args:
        path: The record.

    Raises:
        Refused: The folder cannot keep a record.
    """
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise Refused(f"there is no folder {folder}")
    for candidate in dict.fromkeys((path, os.path.join(os.path.realpath(folder), "x"))):
        why = _distrust_parents(candidate)
        if why is not None:
            raise Refused(f"{why}: name a state_dir that is not")
    kind, _ = _mounted(folder)
    if kind in RAM_FILE_SYSTEMS:
        why = f"{folder} is on {kind}, which a reboot empties: name a state_dir on a disk"
        raise Refused(why)


def _mounted(folder: str, mounts: str = MOUNTS) -> tuple[str, str]:
    """The type and the source of the file system that a folder is on; empty if they are unknown."""
    found = os.stat(folder)
    device = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
    with open(mounts, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            if before.split()[2] == device:
                kind, source = after.split()[:2]
                return kind, source
    return "", ""


def place_of(folder: str, mounts: str = MOUNTS) -> str:
    """A text that identifies a folder: equal on all hosts that see this folder, else different.

    Args:
        folder: The folder.
        mounts: The file in which the kernel lists this host's file systems.
    """
    found = os.stat(folder)
    kind, source = _mounted(folder, mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        return f"{source} {found.st_ino}"
    return f"{_machine()} {found.st_dev}:{found.st_ino}"


# -- one file that is replaced as a whole --------------------------------------------------------


def _read(path: str) -> bytes | None:
    """The bytes of a file; None if there is no file.

    Raises:
        OSError: The path is not a regular file, or the file is longer than any that pycolo writes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        data = b""
        while chunk := os.read(descriptor, READ_MAX_BYTES):
            data += chunk
            if len(data) > READ_MAX_BYTES:
                raise OSError(errno.EFBIG, "it is longer than any that pycolo writes", path)
        return data
    finally:
        os.close(descriptor)


def _digest(data: bytes | None) -> str | None:
    """The SHA-256 of a file's bytes, which `expects` is compared with; None for no file."""
    return None if data is None else hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def _locked(path: str, limit_s: float) -> Iterator[int]:
    """Hold the lock file of a node's record, against other threads and processes.

    Args:
        path: The node's record; the lock file is beside it.
        limit_s: How long to wait for another holder, in seconds.

    Yields:
        The lock's descriptor: a process that inherits it holds the lock as well.

    Raises:
        Refused: The lock was still held at the limit.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(f"{path}.lock", flags, 0o600)
    try:
        end = time.monotonic() + limit_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    why = f"somebody else has held {path}.lock for {limit_s:g} s"
                    raise Refused(why) from None
                time.sleep(POLL_S)
        yield descriptor
    finally:
        os.close(descriptor)


def _replace(path: str, data: bytes) -> None:
    """Replace a file durably and atomically; needs no free space if the file exists.

    The new content goes into a spare file, whose disk space is allocated already; then the two
    files exchange their names.

    Raises:
        OSError: The content could not be written; nothing was changed.
        Uncertain: The file may have the old or the new content.
    """
    spare = f"{path}.spare"
    _write_spare(spare, data)
    try:
        if not os.path.exists(path):
            os.rename(spare, path)
            # Allocate the spare file's block for the next change; on a full disk there is none.
            with contextlib.suppress(OSError):
                _write_spare(spare, b"")
        elif not _exchange(spare, path):
            os.rename(spare, path)
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise Uncertain(f"{path} may have been written: {error}") from error


def _write_spare(spare: str, data: bytes) -> None:
    # If the spare file has a second name, a hard link, leave that file alone and make a new one.
    with contextlib.suppress(FileNotFoundError):
        if os.lstat(spare).st_nlink != 1:
            os.unlink(spare)
    # O_NONBLOCK: to open a pipe of that name would else wait for a reader.
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(spare, flags, 0o600)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", spare)
        if found.st_blocks == 0:
            os.posix_fallocate(descriptor, 0, BLOCK_BYTES)
        view = memoryview(data)
        written = 0
        while written < len(data):
            written += os.pwrite(descriptor, view[written:], written)
        os.ftruncate(descriptor, len(data) or BLOCK_BYTES)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: str, second: str) -> bool:
    """Exchange the names of two files atomically; false if this system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    if rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), second)


# -- the record ----------------------------------------------------------------------------------


def observe(
    *,
    record: str,
    process: str,
    image_folder: str,
    pair: str,
    node: str,
    owners: Sequence[str],
    monitors: Sequence[Monitor],
) -> Answer:
    """Read a node's record, and find out whether a QEMU of the node runs.

    Args:
        record: The node's record.
        process: The node's process file.
        image_folder: The folder of the node's images.
        pair: The pair's name.
        node: The node's name.
        owners: The owner files of the node's images.
        monitors: The node's monitors.

    Returns:
        `record`: the record in base64, or None. `unread`: why the record must not be used, or None.
            `lost`: how it is known that a missing record existed once, or None. `folder`: a text
            that identifies the image folder. `instance` and `how`: as `alive`.
    """
    answer: Answer = {"record": None, "unread": None, "lost": None, "folder": ""}
    answer.update(alive(process=process, monitors=monitors))
    try:
        answer["folder"] = place_of(image_folder)
        # A missing folder is an error, since its disk may not be mounted; it does not mean a new
        # pair.
        os.stat(os.path.dirname(record))
        data = _read(record)
        why = None if data is None else _distrust(record)
        paths = dict.fromkeys((*owners, *_beside(image_folder)))
        found_owners = [one for path in paths if (one := _owner(path)) is not None]
        why = why or _owned_by_another(found_owners, owners, (pair, node), record)
        lost = None if data is not None else _lost(found_owners, owners, (pair, node), record)
    except FileNotFoundError as error:
        return {**answer, "unread": f"there is no {error.filename}: make it, or mount its disk"}
    except OSError as error:
        return {**answer, "unread": str(error)}
    if why is not None:
        return {**answer, "unread": why}
    if data is None:
        return {**answer, "lost": lost}
    return {**answer, "record": base64.b64encode(data).decode()}


def alive(*, process: str, monitors: Sequence[Monitor]) -> Answer:
    """Find out whether a QEMU of a node runs here, from its process file and its monitors.

    The process file is read even if another user could have written it: such a file cannot prove
    that a QEMU has ended, but it can show that one runs.

    Args:
        process: The node's process file.
        monitors: The node's monitors.

    Returns:
        `instance`: the QEMU's identity; empty if it is not known. `how`: how it is known that a
            QEMU runs, or why that cannot be found out; empty if no QEMU was found.
    """
    current = None
    try:
        current = _known(process, is_trusted=False).current
    except PermissionError as error:
        return {"instance": "", "how": _unseen(error)}
    except (Refused, OSError):
        # A damaged process file shows no process here; `launch` refuses to work with it.
        pass
    if current is not None and _runs(current):
        return {"instance": current.instance, "how": f"its host knows it as process {current.pid}"}
    if current is not None and _keeps_sockets(process, current):
        return {"instance": "", "how": ""}
    for monitor in monitors:
        try:
            serves = _serves(monitor)
        except PermissionError as error:
            return {"instance": "", "how": _unseen(error, _place(monitor))}
        if serves:
            return {"instance": "", "how": f"something serves {_place(monitor)} on its host"}
    return {"instance": "", "how": ""}


def _keeps_sockets(path: str, process: _Process) -> bool:
    """Whether a QEMU that is over but not gone yet may still hold its monitors' sockets open.

    Args:
        path: The node's process file.
        process: The process that it names.
    """
    if _distrust(path) is not None:
        return False
    pidfd = _lingering(process)
    if pidfd is not None:
        pidfd.close()
    return pidfd is not None


def _unseen(error: PermissionError, place: str = "") -> str:
    """The answer if this user lacks the permission to find out whether a QEMU runs."""
    return f"its host cannot see the process, permission denied: {error.filename or place}"


def swap(
    *,
    record: str,
    expects: str | None,
    data: str,
    pair: str,
    node: str,
    owners: Sequence[str],
    limit_s: float,
) -> Answer:
    """Replace a node's record, if the record is still the one that the caller has read.

    Args:
        record: The node's record.
        expects: SHA-256 of the record that must still be there; None if there must be none.
        data: The new record, in base64.
        pair: The pair's name.
        node: The node's name.
        owners: The owner files of the node's images.
        limit_s: How long to wait for the lock, in seconds.

    Returns:
        `written`: true if the record was replaced; false if it was not the expected one, and
            nothing was changed.

    Raises:
        Refused: The record's folder cannot keep a record, or the lock was not free in time.
        Uncertain: It is not known whether the record was written.
    """
    _check_state_dir(record)
    with _locked(record, limit_s):
        if _digest(_read(record)) != expects:
            return {"written": False}
        _replace(record, base64.b64decode(data))
        _own(owners, pair=pair, node=node, record=record)
    return {"written": True}


# -- which node an image belongs to
# ---------------------------------------------------------------------------


def _own(owners: Sequence[str], *, pair: str, node: str, record: str) -> None:
    """Write the owner file of each image: its pair, its node, and the path of the record.

    The record is written before. A failure here is ignored: an owner file that cannot be written
    now, as on a full disk, is written with the next change of the record.

    Args:
        owners: The owner files.
        pair: The pair's name.
        node: The node's name.
        record: The node's record.
    """
    owner = {"format_version": 1, "pair": pair, "node": node, "record": record}
    data = json.dumps(owner).encode() + b"\n"
    for path in owners:
        with contextlib.suppress(OSError, Uncertain):
            if _read(path) != data:
                _replace(path, data)


def _beside(image_folder: str) -> list[str]:
    """The owner files in an image folder, also those of images that are not declared."""
    names = sorted(name for name in os.listdir(image_folder) if name.endswith(OWNER_SUFFIX))
    return [os.path.join(image_folder, name) for name in names[:OWNERS_READ]]


class _Owner(NamedTuple):
    """The content of an owner file, and its path."""

    path: str
    pair: str
    node: str
    record: str

    def speaks(self, own: Sequence[str], ours: tuple[str, str]) -> bool:
        """Whether the owner file is about a node: one of its image's, or one that names it.

        Args:
            own: The paths of the owner files of the node's declared images.
            ours: The names of the node's pair and of the node.
        """
        return self.path in own or (self.pair, self.node) == ours


def _owner(path: str) -> _Owner | None:
    """Read an owner file; None if it is missing, unreadable or damaged."""
    try:
        found = json.loads(_read(path) or b"{}")
        owner = _Owner(path, str(found["pair"]), str(found["node"]), str(found["record"]))
        _same(owner.record)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return owner


def _owned_by_another(
    found: Sequence[_Owner], own: Sequence[str], ours: tuple[str, str], record: str
) -> str | None:
    """Why the record must not be used with these images; None if no owner file speaks against it.

    Two things speak against it. An owner file of a declared image names another node of this pair.
    Or an owner file that is about this node (see `_Owner.speaks`) names a record at another path,
    and a file is there; in this way an image of another pair is found too.

    Args:
        found: The owner files in the image folder.
        own: The paths of the owner files of the declared images.
        ours: The names of the pair and of the node.
        record: The node's record.
    """
    for one in found:
        copied = f"or remove {one.path} if the image was copied here"
        if one.path in own and one.pair == ours[0] and one.node != ours[1]:
            return f"its image belongs to {one.pair}:{one.node}: correct the pair file, {copied}"
        elsewhere = _same(one.record) != _same(record) and os.path.lexists(one.record)
        if elsewhere and one.speaks(own, ours):
            move = f"correct the pair file, move the record to {record}, {copied}"
            return f"its image has its record in {one.record}: {move}"
    return None


def _lost(
    found: Sequence[_Owner], own: Sequence[str], ours: tuple[str, str], record: str
) -> str | None:
    """How it is known that a missing record existed once; None if no owner file says so.

    Args:
        found: The owner files in the image folder.
        own: The paths of the owner files of the declared images.
        ours: The names of the pair and of the node.
        record: The node's record.
    """
    for one in found:
        if one.speaks(own, ours):
            is_here = _same(one.record) == _same(record)
            was = "was there" if is_here else f"was in {one.record}"
            return f"it {was}, by {one.path}, and is gone: bring it back if it was moved"
    return None


# -- processes -----------------------------------------------------------------------------------


class _Boot(NamedTuple):
    """The machine, its boot, and the name spaces in which a process number is valid."""

    machine: str
    boot_id: str
    init_start: int | None
    pid_namespace: str
    time_namespace: str

    def restarted(self, later: _Boot) -> bool:
        """Whether PID 1 has been started again since; false if /proc hides PID 1."""
        starts = (self.init_start, later.init_start)
        return None not in starts and self.init_start != later.init_start

    def counts_like(self, now: _Boot) -> bool:
        """Whether a process number of this value means the same process in `now`."""
        return self._replace(init_start=now.init_start) == now and not self.restarted(now)


def _boot() -> _Boot:
    """The boot and the name spaces in which this code runs."""
    return _Boot(
        machine=_machine(),
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        init_start=_start_time(1),
        pid_namespace=os.readlink("/proc/self/ns/pid"),
        time_namespace=_namespace("time"),
    )


def _namespace(kind: str) -> str:
    try:
        return os.readlink(f"/proc/self/ns/{kind}")
    except OSError:
        return ""


def _machine() -> str:
    """A text that identifies this machine; empty if there is none."""
    try:
        machine_id = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return f"{machine_id} {os.uname().nodename}" if machine_id else ""


def _start_time(pid: int) -> int | None:
    """When a process started, in clock ticks after the boot; None if that cannot be read."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # Field 22. The second field is the program's name in parentheses, and may hold anything.
    return int(text.rpartition(")")[2].split()[19])


class _Process(NamedTuple):
    """The identity of a QEMU, and what identifies its process."""

    instance: str
    pid: int
    start_time: int
    boot: _Boot


class _Known(NamedTuple):
    """The content of a node's process file."""

    current: _Process | None
    ended: list[str]
    "The identities of earlier QEMUs that had ended when the next one was started, latest last."


def _known(path: str, *, is_trusted: bool = True) -> _Known:
    """Read a node's process file; a missing file names no process.

    Args:
        path: The file.
        is_trusted: Whether to refuse a file that other users may have written.

    Raises:
        Refused: The file is damaged, or other users may have written it.
    """
    data = _read(path)
    if data is None:
        return _Known(None, [])
    why = _distrust(path) if is_trusted else None
    if why is not None:
        raise Refused(why)
    try:
        found = json.loads(data)
        ended = [str(one) for one in found["ended"]]
        current = found["current"]
        if current is None:
            return _Known(None, ended)
        boot = _Boot(*(current["boot"][name] for name in _Boot._fields))
        pid, start_time = _process_number(current["pid"]), int(current["start_time"])
        return _Known(_Process(str(current["instance"]), pid, start_time, boot), ended)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        why = f"{path} is damaged; remove it once no QEMU of the node runs any more: {error}"
        raise Refused(why) from error


def _process_number(value: object) -> int:
    number = int(str(value))
    if not 0 < number <= PID_MAX:
        raise ValueError(f"{number} is no process number")
    return number


def _over(process: _Process, now: _Boot) -> str | None:
    """How it is known that a process has ended or is over; None if it may still run.

    Args:
        process: The process.
        now: The boot and the name spaces of this code.
    """
    then = process.boot
    if then.machine != now.machine:
        return None
    if then.boot_id != now.boot_id:
        # The same machine has been rebooted since.
        return "its host has booted since" if now.machine else None
    spaces = (now.pid_namespace, now.time_namespace)
    if (then.pid_namespace, then.time_namespace) != spaces:
        return None
    if then.restarted(now):
        # A pid name space of this number with another PID 1 is a new one: the kernel gives a number
        # again only after all processes of the old one have ended.
        return "its container has been started since"
    pidfd = _open(process)
    if pidfd is None:
        return f"process {process.pid} has ended"
    with contextlib.closing(pidfd):
        return pidfd.over()


def _open(process: _Process) -> Pidfd | None:
    """Open a handle of the process; None if it has ended."""
    try:
        pidfd = Pidfd(process.pid, os.pidfd_open(process.pid))
    except ProcessLookupError:
        return None
    started = _start_time(process.pid)
    if started is not None and started != process.start_time:
        pidfd.close()
        return None
    return pidfd


class Pidfd:
    """The kernel's handle of a process, which never comes to mean another process.

    A process is "over" before it is "gone". A killed process is over as soon as each of its threads
    has begun to exit: from then on the kernel runs none of its code, nor any guest in it. Its last
    thread then frees the memory, which takes about 70 ms per GiB, and closes the sockets and the
    images. After that the process is gone (qemu-behaviour 19.11).
    """

    def __init__(self, pid: int, descriptor: int) -> None:
        """Take a descriptor of a process, which `close` closes."""
        self.pid = pid
        "The process id."
        self._descriptor = descriptor

    def copy(self) -> Pidfd:
        """Open another handle of the same process, which must be closed separately."""
        return Pidfd(self.pid, os.dup(self._descriptor))

    def close(self) -> None:
        """Close the handle; the process keeps running. May be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def send(self, number: int) -> None:
        """Send a signal to the process; nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def gone(self, limit_s: float) -> bool:
        """Whether the process ends within the limit; a zombie has ended.

        Args:
            limit_s: How long to wait, in seconds; 0 to check once.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._descriptor, selectors.EVENT_READ)
            if not selector.select(limit_s):
                return False
        # If it is our child, reap it; a child of another process is reaped by that process.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOHANG)
        return True

    def over(self) -> str | None:
        """Say why no thread of the process can run again; None if one of them still can."""
        # In this order: if the process ends between the two checks, `gone` sees it.
        exiting = _all_exiting(self.pid)
        if self.gone(0):
            return f"process {self.pid} has ended"
        return f"all threads of process {self.pid} have ended or are exiting" if exiting else None

    def wait_over(self, limit_s: float) -> bool:
        """Wait until the process is over: no thread of it can run again, see `over`.

        It may still hold its memory, its sockets and its images; `gone` waits for their release.

        Args:
            limit_s: How long to wait, in seconds; 0 to check once.

        Returns:
            Whether the process is over; False if the limit passed first.
        """
        end = time.monotonic() + limit_s
        with contextlib.closing(self.lookout()) as lookout:
            while self.over() is None:
                left_s = end - time.monotonic()
                if left_s <= 0:
                    return False
                lookout.wait(min(lookout.arm(), left_s))
        return True

    def lookout(self) -> Lookout:
        """Make a `Lookout`, which tells when to call `over` again."""
        return Lookout(self.pid, self._descriptor)


def has_ended(pid: int) -> bool:
    """Whether a process of this machine is gone, or every thread of it has begun to exit.

    False if that cannot be seen.
    """
    return _all_exiting(pid) or (_shows_own_processes() and not os.path.exists(f"/proc/{pid}"))


def _shows_own_processes() -> bool:
    """Whether /proc belongs to this pid name space; in another, a number is another process."""
    return os.readlink("/proc/self") == str(os.getpid())


def _all_exiting(pid: int) -> bool:
    """Whether every thread of a process has begun to exit; false if that cannot be seen.

    A thread may start another thread before it exits, and the list of threads may lack some if one
    of them ends while it is read. So the threads must be listed until two lists in a row are equal
    and all threads of both still exist: then no thread is missing.
    """
    if not _shows_own_processes():
        return False
    before: set[str] | None = None
    while True:
        try:
            threads = set(os.listdir(f"/proc/{pid}/task"))
        except OSError:
            return False
        is_whole = bool(threads)
        for thread in threads:
            is_exiting = _is_exiting(pid, thread)
            if is_exiting is None:
                is_whole = False
            elif not is_exiting:
                return False
        if is_whole and threads == before:
            return True
        before = threads if is_whole else None


def _is_exiting(pid: int, thread: str) -> bool | None:
    """Whether a thread has begun to exit, or is a zombie; None if it is gone.

    The link to its program is read first: a thread has none from the moment at which it releases
    its memory. To read `stat` before that would hold a reference to the memory, and then this
    process might have to free it.
    """
    place = f"/proc/{pid}/task/{thread}"
    try:
        os.readlink(f"{place}/exe")
    except OSError:
        # The thread has no program any more, or this user may not see it; everybody may read
        # `stat`.
        pass
    else:
        return False
    try:
        text = Path(f"{place}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError:
        return False
    # Field 9; see `_start_time`.
    return bool(int(text.rpartition(")")[2].split()[6]) & PF_EXITING)


class Lookout:
    """Tells when to check next whether a process is over, see `Pidfd.over`.

    Call `arm` after each check that found the process not over. Check again when `fileno` is
    readable, but at the latest after the seconds that `arm` returned: a hint may never come.

    A hint is the end of one of the process's first threads. After SIGKILL at most one of them, the
    one that frees the process's memory, takes longer than milliseconds to end. A hint does not show
    that the process is over, so for `SETTLE_S` after it, checks follow each other every `LOOK_S`.
    """

    def __init__(self, pid: int, descriptor: int) -> None:
        """Watch a process; only `Pidfd.lookout` calls this."""
        self._pid = pid
        self._epoll = select.epoll()
        self._epoll.register(descriptor, select.EPOLLIN)
        self._threads: list[int] = []
        # The process may have been killed a moment ago, so that no thread is left to give a hint.
        self._hinted_until = time.monotonic() + SETTLE_S

    def fileno(self) -> int:
        """A descriptor that is readable if the process is gone or a watched thread has ended."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Close all descriptors of this object."""
        self._drop()
        self._epoll.close()

    def wait(self, limit_s: float) -> None:
        """Wait until `fileno` is readable, or the limit passes.

        Args:
            limit_s: How long to wait, in seconds.
        """
        self._epoll.poll(limit_s)

    def arm(self) -> float:
        """Watch for the next hint; return after how many seconds to check at the latest."""
        if self._epoll.poll(0):
            self._hint()
        if time.monotonic() < self._hinted_until:
            return LOOK_S
        if not self._threads and self._watch_threads():
            # A thread may have ended before it was watched: check now.
            return 0.0
        return TOLD_S if self._threads else UNTOLD_S

    def _hint(self) -> None:
        self._drop()
        self._hinted_until = time.monotonic() + SETTLE_S

    def _watch_threads(self) -> bool:
        """Watch the first threads; returns whether the kernel reports their ends (Linux 6.9 on)."""
        try:
            for thread in os.listdir(f"/proc/{self._pid}/task")[:THREADS_WATCHED]:
                self._threads.append(os.pidfd_open(int(thread), PIDFD_THREAD))
                self._epoll.register(self._threads[-1], select.EPOLLIN)
        except (FileNotFoundError, ProcessLookupError):
            self._hint()
        except OSError:
            self._drop()
        if len(self._threads) == 1:
            # A single thread may be the one that frees the memory, so its end is no early hint.
            self._drop()
        return bool(self._threads)

    def _drop(self) -> None:
        for descriptor in self._threads:
            os.close(descriptor)
        self._threads.clear()


def _dead(how: str) -> Answer:
    return {"dead": True, "how": how, "who": os.uname().nodename or "its host"}


def death(*, process: str, instance: str, limit_s: float) -> Answer:  # noqa: ARG001 - as `watch`
    """Find out whether one QEMU is known here to have ended.

    Args:
        process: The node's process file.
        instance: The identity of the QEMU.
        limit_s: Not used; present because `watch` takes the same arguments.

    Returns:
        `dead`: true if the QEMU has ended; false if it runs, or if nothing is known of it. `how`:
            how its end is known. `who`: the name of this host.

    Raises:
        Refused: The process file is damaged, or other users may have written it.
    """
    known = _known(process)
    if instance in known.ended:
        return _dead("its process had ended before the next one was started")
    how = None
    if known.current is not None and known.current.instance == instance:
        how = _over(known.current, _boot())
    return {"dead": False, "how": "", "who": ""} if how is None else _dead(how)


def watch(*, process: str, instance: str, limit_s: float) -> Answer:
    """Wait for one QEMU to end, if it runs here.

    Args:
        process: The node's process file.
        instance: The identity of the QEMU.
        limit_s: How long to wait, in seconds.

    Returns:
        As `death`; `dead` is false if the QEMU has not ended within the limit.

    Raises:
        Refused: The process file is damaged, or other users may have written it.
    """
    held = hold(process)
    if held is not None:
        with contextlib.closing(held[1]) as pidfd:
            if held[0] == instance:
                pidfd.wait_over(limit_s)
    return death(process=process, instance=instance, limit_s=limit_s)


def hold(process: str) -> tuple[str, Pidfd] | None:
    """Open a handle of the QEMU that runs for a node here.

    Args:
        process: The node's process file.

    Returns:
        The QEMU's identity and the handle, which the caller closes; None if none is known to run.
        None does not prove that none runs: it is also returned if there is no process file, or if
        the file is from another machine or another PID namespace.

    Raises:
        Refused: The process file is damaged, or other users may have written it.
    """
    current = _running(process)
    pidfd = None if current is None else _open(current)
    return None if current is None or pidfd is None else (current.instance, pidfd)


def _running(process: str) -> _Process | None:
    """The process that is known to run for a node here; None if there is none."""
    current = _known(process).current
    return current if current is not None and _runs(current) else None


def _runs(process: _Process) -> bool:
    """Whether a process is known to run, and can be seen under its number from here."""
    now = _boot()
    return process.boot.counts_like(now) and _over(process, now) is None


def stop(*, process: str, instance: str, at_once: bool, limit_s: float) -> Answer:
    """End one QEMU and wait for its end; no other process can be meant.

    Args:
        process: The node's process file.
        instance: The identity of the QEMU.
        at_once: If true, send SIGKILL and wait until the process is over (see `Pidfd`). If false,
            send SIGTERM, send SIGKILL if the process still exists after half of the limit, and wait
            until it is gone, so that its sockets and images are closed.
        limit_s: How long all of this may take, in seconds.

    Returns:
        As `death`; `dead` is true.

    Raises:
        Refused: The process file does not name this QEMU, is damaged, or may have been written by
            other users; or its process cannot be seen from here.
        Uncertain: The QEMU did not end in time.
    """
    found = death(process=process, instance=instance, limit_s=limit_s)
    if found["dead"]:
        return found
    current = _known(process).current
    if current is None or current.instance != instance:
        raise Refused(f"no process here is known to be {instance}")
    if not current.boot.counts_like(_boot()):
        raise Refused(f"the process of {instance} cannot be seen from here")
    pidfd = _open(current)
    if pidfd is not None:
        with contextlib.closing(pidfd):
            numbers = [signal.SIGKILL] if at_once else [signal.SIGTERM, signal.SIGKILL]
            wait = pidfd.wait_over if at_once else pidfd.gone
            for number in numbers:
                pidfd.send(number)
                if wait(limit_s / len(numbers)):
                    break
    found = death(process=process, instance=instance, limit_s=limit_s)
    if not found["dead"]:
        raise Uncertain(f"process {current.pid} did not end in {limit_s:g} s")
    return found


# -- launching -----------------------------------------------------------------------------------

# The program of the process that becomes QEMU. It gets the text of this file, writes the process
# file about itself, and replaces itself by QEMU. The process that started it may have ended by
# then. The program inherits the lock of the record, so that no second QEMU can be started
# meanwhile; the kernel releases the lock when the program becomes QEMU. If the program fails, it
# writes the reason to the status pipe; otherwise that pipe is closed empty.
LAUNCHER = """
import json, os, signal, sys
helper, path, instance, ended, lock, status, *argv = sys.argv[1:]
scope = {"__name__": "pycolo_helper"}
exec(helper, scope)
lock, status = int(lock), int(status)
for descriptor in (lock, status):
    os.set_inheritable(descriptor, False)
try:
    pid = os.getpid()
    current = {"instance": instance, "pid": pid, "start_time": scope["_start_time"](pid),
               "boot": scope["_boot"]()._asdict()}
    scope["_write_process"](path, current, json.loads(ended))
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.execvp(argv[0], argv)
except BaseException as error:
    os.write(status, str(error).encode()[:1000] or b"?")
    os._exit(127)
"""
LOCK_FD = 200
STATUS_FD = 201


def _write_process(path: str, current: Mapping[str, object] | None, ended: Sequence[str]) -> None:
    kept = list(ended[-ENDED_KEPT:])
    text = json.dumps({"format_version": 1, "current": current, "ended": kept})
    _replace(path, text.encode() + b"\n")


def launch(
    *,
    record: str,
    process: str,
    expects: str | None,
    instance: str,
    argv: Sequence[str],
    run_dir: str,
    log: str,
    address: str,
    ports: Sequence[int],
    monitors: Sequence[Monitor],
    sockets: Sequence[str],
    images: Sequence[str],
    written: Sequence[str],
    helper: str,
    limit_s: float,
    credentials: Sequence[str] = (),
    domain: Mapping[str, str] | None = None,
) -> Answer:
    """Start a QEMU in a session of its own, or have libvirt start it, and wait until it answers.

    Without libvirt, the process that is started here runs `LAUNCHER` and then becomes QEMU; no
    other process of pycolo stays.

    Args:
        record: The node's record; its lock is held until the process is QEMU, or until libvirt has
            started it.
        process: The node's process file.
        expects: SHA-256 of the record that must be there; None if any record, or none, will do.
        instance: The identity of the QEMU; must not have been used by an earlier one.
        argv: QEMU's command line.
        run_dir: QEMU's run directory; made if it is missing.
        log: The file to which QEMU's standard output and standard error are appended.
        address: The address at which QEMU will listen.
        ports: The TCP ports on which QEMU will listen there; they must be free.
        monitors: QEMU's monitors, the first of which must answer.
        sockets: The paths of sockets that an earlier QEMU may have left; they are removed.
        images: The images that QEMU opens.
        written: All other paths that are written; none of them may be an image.
        helper: The text of this file.
        limit_s: How long to wait for an earlier QEMU to be gone, then for the lock, and then for
            the answer; in seconds, each.
        credentials: Files for TLS that must be readable; QEMU does not check all of them at its
            start.
        domain: `uri`, `virsh` and `xml` of the libvirt domain that runs QEMU; None without libvirt.

    Returns:
        `pid`, the process id of QEMU.

    Raises:
        Refused: A condition does not hold, or QEMU ended or did not answer; it does not run.
        Uncertain: The process file may not have been written, or a QEMU that did not answer, or a
            libvirt domain, may run.
    """
    _check_credentials(credentials)
    _check_state_dir(record)
    _check_images(images, written)
    _make_run_dir(run_dir)
    await_gone(process, limit_s)
    with _locked(record, limit_s) as lock:
        ended = _refuse_second(process)
        if instance in ended:
            # The end of the earlier one would be evidence that this one has ended.
            raise Refused(f"{instance} has run here before: each start has an identity of its own")
        if expects is not None and _digest(_read(record)) != expects:
            raise Refused("the record has changed: another start or failover came first")
        _check_free(address, ports)
        _clear(monitors, sockets)
        before = os.stat(log).st_size if os.path.exists(log) else 0
        _write_process(process, None, ended)
        if domain is not None:
            current = _create_domain(domain, monitors[0], instance, limit_s)
            _write_process(process, current, ended)
            return {"pid": current["pid"]}
        words = (helper, process, instance, json.dumps(ended))
        pid = _spawn(words, argv, log, lock)
    with contextlib.closing(Pidfd(pid, os.pidfd_open(pid))) as pidfd:
        why = _await_answer(monitors[0], pidfd, limit_s)
        if why is None:
            return {"pid": pid}
        # A QEMU that does not answer is of no use, and only this process knows that it was started.
        pidfd.send(signal.SIGKILL)
        has_ended = pidfd.gone(KILL_S)
    if not has_ended:
        raise Uncertain(f"{why}; process {pid} was killed, and did not end in {KILL_S:g} s")
    raise Refused(f"{why}: {_tail(log, before) or 'it said nothing'}")


def _create_domain(
    domain: Mapping[str, str], monitor: Monitor, instance: str, limit_s: float
) -> Answer:
    """Have libvirt start a QEMU, and find its process.

    The kernel tells which process listens on the monitor, and the QEMU there tells its identity.

    Args:
        domain: `uri`, `virsh` and `xml` of the domain.
        monitor: The monitor of the domain's QEMU.
        instance: The identity of the QEMU, which is also the domain's name.
        limit_s: How long each step may take, in seconds.

    Returns:
        The part of the process file that identifies the process.

    Raises:
        Refused: The QEMU does not run.
        Uncertain: The domain may run.
    """
    virsh = (domain["virsh"], "--quiet", "--connect", domain["uri"])
    create = (*virsh, "create", "--paused", "--file", "/dev/stdin")
    try:
        code, why = _output(create, limit_s, domain["xml"])
    except FileNotFoundError:
        raise Refused(f"there is no program {virsh[0]}: install it, or set virsh_binary") from None
    if code > 0:
        raise Refused(f"libvirt: {why.strip() or f'virsh ended with {code}'}")
    if code == 0:
        try:
            return _listener(monitor, instance, limit_s)
        except (Refused, OSError, ValueError) as error:
            why = str(error)
    # A QEMU whose process is not known would keep the images open.
    code, text = _output((*virsh, "destroy", "--domain", instance), limit_s)
    if code != 0:
        raise Uncertain(f"{why}; the domain {instance} may run: {text.strip()}")
    raise Refused(f"libvirt: {why}")


def _listener(monitor: Monitor, instance: str, limit_s: float) -> Answer:
    """Find the process that listens on a monitor, and check the identity of its QEMU."""
    with contextlib.closing(_connected(monitor)) as client:
        client.settimeout(limit_s)
        given = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", given)[0]
        start_time = _start_time(pid) if pid > 0 else None
        if start_time is None:
            raise Refused(f"the process that serves {_place(monitor)} cannot be seen from here")
        # The answer comes after `_start_time`, so the process of that start time is the one that
        # serves.
        name = _name(client)
    if name != instance:
        raise Refused(f"{_place(monitor)} is served by {name}, not by {instance}")
    boot = _boot()._asdict()
    return {"instance": instance, "pid": pid, "start_time": start_time, "boot": boot}


def _name(client: socket.socket) -> object:
    """Ask the QEMU that serves a monitor for its name."""
    client.sendall(b'{"execute": "qmp_capabilities"}{"execute": "query-name"}')
    with client.makefile("r", encoding="utf-8") as lines:
        for line in lines:
            answer = json.loads(line).get("return")
            if answer:
                return answer.get("name")
    return None


def _refuse_second(process: str) -> list[str]:
    """Refuse if a QEMU runs for the node here; returns the identities of those that have ended.

    Raises:
        Refused: A QEMU runs, or the process file is damaged or may have been written by other
            users.
    """
    known = _known(process)
    if known.current is None:
        return known.ended
    over = _over(known.current, _boot())
    if _runs(known.current):
        raise Refused(f"QEMU runs there already, as process {known.current.pid}")
    return [*known.ended, known.current.instance] if over is not None else known.ended


def await_gone(process: str, limit_s: float) -> None:
    """Wait until a QEMU that is over is gone; only then its ports and its images are free.

    Args:
        process: The node's process file.
        limit_s: How long to wait, in seconds.

    Raises:
        Refused: The QEMU is not gone within the limit.
    """
    current = _known(process).current
    pidfd = None if current is None else _lingering(current)
    if pidfd is not None:
        with contextlib.closing(pidfd):
            if not pidfd.gone(limit_s):
                raise Refused(
                    f"process {pidfd.pid}, the QEMU before, has not freed its memory, its ports"
                    f" and its images within {limit_s:g} s: launch again once it is gone"
                )


def _lingering(process: _Process) -> Pidfd | None:
    """A handle of a process that is over but not gone; None for any other process."""
    now = _boot()
    pidfd = _open(process) if process.boot.counts_like(now) else None
    if pidfd is None or (pidfd.over() is not None and not pidfd.gone(0)):
        return pidfd
    pidfd.close()
    return None


def _check_free(address: str, ports: Sequence[int]) -> None:
    """Check that the ports on which a QEMU will listen are free; else QEMU would fail later.

    An address of another host or of another network namespace cannot be checked, and passes. The
    kernel may keep the ports of a QEMU in use for a moment after that QEMU was killed
    (qemu-behaviour 19.10), so a port is tried again for one second.

    Raises:
        Refused: A port is in use.
    """
    end = time.monotonic() + RELEASE_S
    for port in ports:
        while _is_in_use(address, port):
            if time.monotonic() > end:
                raise Refused(
                    f"TCP port {port} of {address} is in use: declare another one, or end who"
                    " listens there"
                )
            time.sleep(POLL_S)


def _is_in_use(address: str, port: int) -> bool:
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return False
    for family, _, _, _, place in found:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            # QEMU sets this too: connections in TIME_WAIT do not keep the port in use.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(place)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return True
    return False


def _clear(monitors: Sequence[Monitor], sockets: Sequence[str]) -> None:
    """Remove the sockets that an earlier QEMU has left; refuse if a monitor is served.

    Raises:
        Refused: Something serves one of the monitors.
    """
    for monitor in monitors:
        if _serves(monitor):
            raise Refused(f"something serves its monitor {_place(monitor)} already")
    for path in sockets:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)


def _same(path: str) -> str:
    """A text that is equal for two paths of the same file, also through links."""
    try:
        found = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    if stat.S_ISBLK(found.st_mode):
        return f"block device {found.st_rdev}"
    return f"{found.st_dev}:{found.st_ino}"


def _check_images(images: Sequence[str], written: Sequence[str]) -> None:
    """Refuse if two images are one file, or if a path that is written is an image, also by a link.

    Raises:
        Refused: Two paths are one file.
    """
    real = {_same(path): path for path in images}
    if len(real) < len(images):
        raise Refused(f"two of the images are one file: {', '.join(images)}")
    for path in written:
        image = real.get(_same(path))
        if image is not None:
            raise Refused(f"{path} and the image {image} are one file")


def _check_credentials(paths: Sequence[str]) -> None:
    """Check that every file for TLS can be read.

    Raises:
        Refused: A file cannot be read.
    """
    for path in paths:
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError as error:
            raise Refused(f"{path}, a file for TLS, cannot be read: {error.strerror}") from None


def _make_run_dir(path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        _check_run_dir(path)


def _check_run_dir(path: str) -> None:
    """Refuse a run directory that is no directory of this user, or that other users may use.

    Raises:
        Refused: The path is no directory (a symbolic link is none), it belongs to another user, or
            its mode lets other users in.
        OSError: There is nothing at the path.
    """
    found = os.lstat(path)
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        raise Refused(f"run_dir {path} is no directory")
    if found.st_uid != os.geteuid():
        raise Refused(f"run_dir {path} belongs to user {found.st_uid}, not to {os.geteuid()}")
    if mode & WIDER_THAN_OWNER:
        raise Refused(f"run_dir {path} has mode {mode:04o}, it must be 0700")


def _spawn(words: Sequence[str], argv: Sequence[str], log: str, lock: int) -> int:
    """Start the launcher, and wait until it has become QEMU.

    Args:
        words: The launcher's arguments: helper text, process file, identity, ended identities.
        argv: QEMU's command line.
        log: The file for QEMU's output.
        lock: The descriptor of the record's lock.

    Returns:
        The process id.

    Raises:
        Refused: The launcher failed.
    """
    heard, told = os.pipe2(os.O_CLOEXEC)
    python = sys.executable or "/usr/bin/python3"
    line = [python, "-I", "-S", "-c", LAUNCHER, *words, str(LOCK_FD), str(STATUS_FD), *argv]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    try:
        pid = os.posix_spawn(
            python,
            line,
            os.environ,
            file_actions=(
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, lock, LOCK_FD),
                (os.POSIX_SPAWN_DUP2, told, STATUS_FD),
            ),
            # A new session, so that signals from our terminal do not reach QEMU.
            setsid=True,
            setsigmask=(),
        )
    finally:
        os.close(told)
    with os.fdopen(heard, "rb") as stream:
        text = stream.read().decode(errors="replace")
    if text:
        os.waitpid(pid, 0)
        raise Refused(f"{argv[0]}: {text}")
    return pid


def _place(monitor: Monitor) -> str:
    if "path" in monitor:
        return str(monitor["path"])
    host = str(monitor["host"])
    return f"[{host}]:{monitor['port']}" if ":" in host else f"{host}:{monitor['port']}"


def _connected(monitor: Monitor) -> socket.socket:
    if "path" in monitor:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(GREETING_S)
        try:
            client.connect(str(monitor["path"]))
        except OSError:
            client.close()
            raise
        return client
    place = str(monitor["host"]), int(monitor["port"])
    return socket.create_connection(place, timeout=GREETING_S)


def _serves(monitor: Monitor) -> bool:
    """Whether a process listens at a monitor's address, even if its listen backlog is full.

    Raises:
        PermissionError: This user may not connect, so that nothing is known.
    """
    try:
        _connected(monitor).close()
    except (BlockingIOError, TimeoutError):
        return True
    except PermissionError:
        raise
    except OSError:
        return False
    return True


def _await_answer(monitor: Monitor, pidfd: Pidfd, limit_s: float) -> str | None:
    """Wait until QEMU answers a command; returns why it did not, or None if it did.

    QEMU sends its greeting before it makes its devices, and may end because of one of them. QEMU
    answers commands only after that.

    Args:
        monitor: QEMU's monitor.
        pidfd: The handle of QEMU's process.
        limit_s: How long to wait, in seconds.
    """
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        with contextlib.suppress(OSError), contextlib.closing(_connected(monitor)) as client:
            client.settimeout(max(end - time.monotonic(), POLL_S))
            if b'"QMP"' in client.recv(BLOCK_BYTES):
                client.sendall(b'{"execute": "qmp_capabilities"}')
                heard = b""
                while b'"return"' not in heard and (more := client.recv(BLOCK_BYTES)):
                    heard += more
                if b'"return"' in heard:
                    return None
        if pidfd.gone(POLL_S):
            return "QEMU ended"
    return f"no answer within {limit_s:g} s"


def _tail(log: str, offset: int) -> str:
    """The last lines of QEMU's log after an offset in bytes, joined into one line."""
    with open(log, "rb") as stream:
        stream.seek(offset)
        lines = stream.read(READ_MAX_BYTES).decode(errors="replace").strip().splitlines()
    return " | ".join(lines[-TAIL_LINES:])


# -- images and programs -------------------------------------------------------------------------


def create_image(
    *,
    record: str,
    path: str,
    argv: Sequence[str],
    image_format: str,
    size_bytes: int,
    is_encrypted: bool,
    qemu_img: str,
    limit_s: float,
) -> Answer:
    """Make an image under a temporary name, and give it its own name when it is complete.

    Args:
        record: The node's record, whose lock is held.
        path: The path of the image; an existing image is compared and never written to.
        argv: The command line that makes the image at `path`.
        image_format: The image's format.
        size_bytes: The image's virtual size.
        is_encrypted: Whether the image is encrypted.
        qemu_img: The `qemu-img` program, to examine an existing image.
        limit_s: How long to wait for the lock, and then for the program; in seconds, each.

    Returns:
        `there`: true if an image of this format, size and encryption existed already.

    Raises:
        Refused: Another image exists at `path`, or the program failed; no image was made.
    """
    _check_state_dir(record)
    with _locked(record, limit_s):
        if os.path.lexists(path):
            declared = _Image(image_format, size_bytes, is_encrypted)
            _compare([qemu_img, "info", "--output=json", "-U", path], declared)
            return {"there": True}
        partial = f"{path}.pycolo-partial"
        # Left by a process that was killed before the image was complete.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        os.close(os.open(partial, flags, 0o600))
        try:
            line = [partial if word == path else word for word in argv]
            code, text = _output(line, limit_s)
            if code != 0:
                raise Refused(text.strip() or f"{argv[0]} ended with {code}")
            os.link(partial, path)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(partial)
    return {"there": False}


class _Image(NamedTuple):
    """What an image must be like for a QEMU that is started with the declaration to open it."""

    image_format: str
    size_bytes: int
    is_encrypted: bool

    def words(self) -> str:
        kind = "encrypted" if self.is_encrypted else "unencrypted"
        return f"{kind} {self.image_format} of {self.size_bytes} bytes"


def _compare(argv: Sequence[str], declared: _Image) -> None:
    """Refuse an existing image whose format, size or encryption is not the declared one.

    Args:
        argv: The command line of `qemu-img info`, the image last.
        declared: The declared image.

    Raises:
        Refused: The image differs, or is no image.
    """
    path = argv[-1]
    code, text = _output(argv, LIMIT_S)
    try:
        found = json.loads(text) if code == 0 else {}
        there = _Image(found["format"], found["virtual-size"], found.get("encrypted", False))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Refused(f"{path} exists and is no image: {text.strip()}") from None
    if there != declared:
        why = f"{path} is {there.words()}, declared is {declared.words()}; it is not overwritten"
        raise Refused(why)


def version(*, binary: str, limit_s: float) -> Answer:
    """Run a QEMU binary to get its version.

    Args:
        binary: The program.
        limit_s: How long the program may take, in seconds.

    Returns:
        `text`, the output of the program.

    Raises:
        Refused: There is no such program, or it failed, or it did not end in time.
        OSError: The program cannot be run.
    """
    try:
        code, text = _output([binary, "--version"], limit_s)
    except FileNotFoundError:
        raise Refused(f"there is no program {binary}: install it, or set qemu_binary") from None
    if code != 0:
        raise Refused(f"{binary}: {text.strip() or code}")
    return {"text": text}


def check_devices(
    *, binary: str, devices: Sequence[Tuple[str, Mapping[str, object]]], limit_s: float
) -> Answer:
    """Check that a QEMU knows devices and their properties, by asking one that runs no guest.

    The properties `id`, `bus` and `addr` are not checked.

    Args:
        binary: The program.
        devices: For each device, its driver and the properties that it is given.
        limit_s: How long all answers together may take, in seconds. At the limit that QEMU is
            killed; what it answered before is checked.

    Returns:
        `note`: from which device on QEMU gave no answer; empty if all were checked.

    Raises:
        Refused: QEMU knows no such device or property, or a value has another type than its
            property, or is out of that type's range.
        OSError: The program cannot be run.
    """
    problems, note = _device_problems(binary, devices, limit_s)
    if problems:
        raise Refused(problems[0])
    return {"note": note}


def _device_problems(
    binary: str, devices: Sequence[Tuple[str, Mapping[str, object]]], limit_s: float
) -> Tuple[list[str], str]:
    """What a QEMU does not accept of devices, and from which device on it gave no answer.

    The arguments are those of `check_devices`.
    """
    drivers = list(dict.fromkeys(driver for driver, _ in devices))
    known, said = _properties(binary, drivers, limit_s)
    problems = [
        f"QEMU knows no device {driver}{_nearest(driver, known.get('') or {})}"
        for driver in drivers
        if driver in known and known[driver] is None
    ]
    for driver, wanted in devices:
        names = known.get(driver)
        if names is not None:
            found = (_property_problem(driver, names, name, wanted[name]) for name in wanted)
            problems += filter(None, found)
    silent = [driver for driver in drivers if driver not in known]
    if silent:
        return problems, f"not looked at from {silent[0]} on: QEMU gave no answer ({said[-200:]})"
    return problems, ""


def devices(
    *, binary: str, devices: Sequence[Tuple[str, Mapping[str, object]]], limit_s: float
) -> Answer:
    """Find all that a QEMU does not accept of devices; the arguments are those of `check_devices`.

    Returns:
        `refused`: each problem, as a main clause; `note`: as that of `check_devices`.
    """
    problems, note = _device_problems(binary, devices, limit_s)
    return {"refused": problems, "note": note}


def _properties(
    binary: str, drivers: Sequence[str], limit_s: float
) -> Tuple[Dict[str, Dict[str, str] | None], str]:
    """Ask a QEMU for the properties of devices.

    Args:
        binary: The program.
        drivers: The devices.
        limit_s: How long all answers together may take, in seconds; QEMU is killed then.

    Returns:
        For each device, the type of each property by name; None for an unknown device; absent if
        QEMU gave no answer. Under the empty name, all devices. Then QEMU's error output.
    """
    questions = [("qmp_capabilities", {}), ("qom-list-types", {"implements": "device"})]
    questions += [("device-list-properties", {"typename": driver}) for driver in drivers]
    questions += [("quit", {})]
    lines = (
        json.dumps({"execute": command, "arguments": arguments, "id": number})
        for number, (command, arguments) in enumerate(questions)
    )
    line = [binary, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none"]
    line += ["-S", "-qmp", "stdio"]
    asked = subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        text, said = asked.communicate("\n".join(lines).encode(), timeout=limit_s)
    except subprocess.TimeoutExpired:
        asked.kill()
        text, said = asked.communicate()
    found: Dict[str, Dict[str, str] | None] = {}
    for reply in filter(None, map(_json_object, text.splitlines())):
        place = reply.get("id")
        if place == 1:
            found[""] = _listed(reply)
        elif isinstance(place, int) and 1 < place < len(questions) - 1:
            found[drivers[place - 2]] = _listed(reply) if "return" in reply else None
    return found, said.decode(errors="replace").strip()


def _listed(reply: Mapping[str, object]) -> Dict[str, str]:
    """The names in a reply, each with its type."""
    items = reply.get("return")
    found = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return {str(item["name"]): str(item.get("type", "")) for item in found}


def _json_object(line: bytes) -> Dict[str, object]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _property_problem(
    driver: str, names: Mapping[str, str], name: str, value: object
) -> str | None:
    """What is wrong with a property that a device does not have, or whose value has another type.

    `id`, `bus` and `addr` place a device and are not checked.

    Args:
        driver: The device.
        names: The device's properties, with their types.
        name: The property.
        value: Its value.

    Returns:
        The problem as a main clause; None if the property fits.
    """
    if name in ("id", "bus", "addr"):
        return None
    if name not in names:
        return f"the device {driver} has no property {name}{_nearest(name, names)}"
    rule = _rule_of(names[name], value)
    if rule is not None:
        return f"the property {name} of {driver} must be {rule}, not {value!r}"
    return None


def _rule_of(kind: str, value: object) -> str | None:
    """What a value of a type of QEMU's must be; None if the value is of that type.

    Args:
        kind: The name of the type, such as `bool` or `uint32`.
        value: The value.
    """
    if kind == "bool":
        return None if isinstance(value, bool) else "true or false"
    bits = re.fullmatch(r"(u?)(?:int(\d*)|size)", kind)
    if bits is None:
        return None if isinstance(value, str) else f"a string ({kind})"
    if isinstance(value, bool) or not isinstance(value, int):
        return "a whole number"
    size = int(bits[2] or 64)
    lowest, highest = (0, 2**size - 1) if bits[1] else (-(2 ** (size - 1)), 2 ** (size - 1) - 1)
    return None if lowest <= value <= highest else f"from {lowest} to {highest}"


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {near[0]}?)" if near else ""


def _output(argv: Sequence[str], limit_s: float, given: str = "") -> tuple[int, str]:
    """Run a program that ends by itself.

    Args:
        argv: The command line.
        limit_s: How long the program may take, in seconds.
        given: The text for its standard input.

    Returns:
        The exit code and the output; the code -1 and a message if the program was killed at the
        limit.
    """
    done = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        text, _ = done.communicate(given.encode(), timeout=limit_s)
    except subprocess.TimeoutExpired:
        done.kill()
        done.communicate()
        return -1, f"it did not end within {limit_s:g} s"
    return done.returncode, text.decode(errors="replace")


def connect(*, monitor: Monitor) -> Answer:
    """Try to connect to a monitor of this host, to find out why a connection through ssh failed.

    Args:
        monitor: The monitor.

    Returns:
        `in_line`: true if a process listens there and its listen backlog is full; false if the
            connection succeeded.

    Raises:
        OSError: The connection failed.
    """
    try:
        _connected(monitor).close()
    except (BlockingIOError, TimeoutError):
        return {"in_line": True}
    return {"in_line": False}


def check_ports(*, process: str, address: str, ports: Sequence[int], limit_s: float) -> Answer:
    """Check that no firewall drops connections to another host's ports; closed ports pass.

    Args:
        process: The node's process file: the connections start in the network of its QEMU.
        address: The other host's address.
        ports: The other host's TCP ports.
        limit_s: How long the answers may take, in seconds.

    Returns:
        `note`: why nothing was checked; empty if all ports were checked.

    Raises:
        Refused: The address does not resolve, or a port cannot be reached.
    """
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refused(f"{address} does not resolve: {error}") from error
    # QEMU, too, tries each address of a name.
    ways = [
        Way(port, family, (at[0], port, *at[2:])) for family, _, _, _, at in found for port in ports
    ]
    network = _network(process)
    if network is None:
        blocked = blocked_among(ways, limit_s)
    else:
        try:
            blocked = _inside(network, lambda: blocked_among(ways, limit_s))
        except PermissionError as error:
            return {"note": f"not looked at: the QEMU has a network of its own ({error})"}
    if blocked:
        reasons = ", ".join(f"port {port}: {why}" for port, why in sorted(blocked.items()))
        raise Refused(f"{address} cannot be reached from {os.uname().nodename}, TCP {reasons}")
    return {"note": ""}


def _network(process: str) -> str | None:
    """The path of the network name space in which a node's QEMU runs; None if it is ours."""
    try:
        current = _running(process)
    except Refused:
        return None
    if current is None:
        return None
    theirs, ours = f"/proc/{current.pid}/ns/net", "/proc/self/ns/net"
    try:
        return None if os.readlink(theirs) == os.readlink(ours) else theirs
    except OSError:
        return None


def _inside(network: str, observe: Callable[[], Dict[int, str]]) -> Dict[int, str]:
    """Call a function in another network name space, in a thread of its own.

    Args:
        network: The path of the network name space.
        observe: The function.
    """
    found: Dict[int, str] = {}
    failed: list[Exception] = []

    def work() -> None:
        try:
            with open(network, "rb") as space:
                _enter(space.fileno())
            found.update(observe())
        except Exception as error:  # noqa: BLE001 - raised again after the join
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found


def _enter(network: int) -> None:
    """Move this thread alone into another network name space."""
    if ctypes.CDLL(None, use_errno=True).setns(network, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Way(NamedTuple):
    """One address at which a port may be reached."""

    port: int
    family: int
    place: tuple[object, ...]


def blocked_among(ways: Sequence[Way], limit_s: float) -> Dict[int, str]:
    """Find the ports that are reached at none of their addresses.

    A port that refuses the connection counts as reached: no firewall drops packets on the way.

    Args:
        ways: The addresses of each port, which are tried at once.
        limit_s: How long the answers may take, in seconds. One answer is enough for each port.

    Returns:
        Port to the reason; empty if all are reached.
    """
    passed = set()
    blocked: Dict[int, str] = {}

    def settle(port: int, number: int) -> None:
        if number in LET_THROUGH:
            passed.add(port)
        else:
            blocked[port] = os.strerror(number)

    with contextlib.ExitStack() as held, selectors.DefaultSelector() as selector:
        for way in ways:
            try:
                tried = held.enter_context(socket.socket(way.family, socket.SOCK_STREAM))
            except OSError as error:
                # This system does not support this address family.
                settle(way.port, error.errno or errno.EAFNOSUPPORT)
                continue
            tried.settimeout(0)
            number = tried.connect_ex(way.place)
            if number == errno.EINPROGRESS:
                selector.register(tried, selectors.EVENT_WRITE, (way.port, tried))
                blocked[way.port] = f"no answer within {limit_s:g} s"
            else:
                settle(way.port, number)
        end = time.monotonic() + limit_s
        while {key.data[0] for key in selector.get_map().values()} - passed:
            ready = selector.select(max(0.0, end - time.monotonic()))
            if not ready:
                break
            for key, _ in ready:
                selector.unregister(key.fileobj)
                port, tried = key.data
                settle(port, tried.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    return {port: why for port, why in blocked.items() if port not in passed}


def is_here(*, address: str) -> Answer:
    """Find out whether an address is an address of this host.

    Args:
        address: An address, or a name.

    Returns:
        `here`: true if it is.

    Raises:
        Refused: The name does not resolve.
    """
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refused(f"{address} does not resolve: {error}") from error
    for family, kind, protocol, _, place in found:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as tried:
            tried.bind((place[0], 0, *place[2:]))
            return {"here": True}
    return {"here": False}


# -- before anything is launched -----------------------------------------------------------------


def facts(*, program: str, request: Mapping[str, object], **launch: object) -> Answer:
    """Read the facts that a preflight needs; nothing is changed.

    Args:
        program: The text of `gather.py`, which is sent with each such request.
        request: The arguments of `gather`.
        launch: The other arguments of `facts_by`.

    Returns:
        As `facts_by`.
    """
    scope: Dict[str, object] = {"__name__": "pycolo_gather"}
    exec(program, scope)  # noqa: S102 - from the sender of this file
    return facts_by(scope["gather"], request, **launch)  # type: ignore[arg-type]  # by its name


def facts_by(
    gather: Callable[..., Answer],
    request: Mapping[str, object],
    *,
    asks_launch: bool,
    record: str,
    process: str,
    run_dir: str,
    monitors: Sequence[Monitor],
) -> Answer:
    """Read the parts of a preflight and, if asked, check what a launch would refuse.

    Nothing is changed and no lock is taken. A part that cannot be read raises no error.

    Args:
        gather: The function `gather` of `gather.py`.
        request: Its arguments, of which `parts` names the parts to read.
        asks_launch: Whether to make the checks of a launch too.
        record: The node's record.
        process: The node's process file.
        run_dir: The node's run directory.
        monitors: The node's monitors.

    Returns:
        Each part that was read, under its name; `unread`, the reason for each other part;
            `clock_s`, this host's wall clock when the reading ended, in seconds since 1970;
            `worked_s`, how long the reading took, in seconds. With `asks_launch` also `launch`,
            which maps `running`, `state_why` and `run_why` to the texts of `LaunchFacts`.
    """
    began = time.monotonic()
    answer = dict(gather(**request, beside={"devices": devices}))
    if asks_launch:
        answer["launch"] = {
            "running": alive(process=process, monitors=monitors)["how"] or _freeing(process),
            "state_why": _why(lambda: _check_state_dir(record)),
            "run_why": _why(lambda: _check_run_dir(run_dir)) if os.path.lexists(run_dir) else "",
        }
    return {**answer, "clock_s": time.time(), "worked_s": time.monotonic() - began}


def _freeing(process: str) -> str:
    """How it is known that the last QEMU is over but still has its memory, ports and images.

    Empty if that is not so.
    """
    try:
        current = _known(process, is_trusted=False).current
        pidfd = None if current is None else _lingering(current)
    except (Refused, OSError):
        return ""
    if pidfd is None:
        return ""
    pidfd.close()
    return f"process {pidfd.pid} has ended and is not gone yet"


def _why(check: Callable[[], None]) -> str:
    try:
        check()
    except (Refused, OSError) as error:
        return str(error)
    return ""


OPERATIONS: Dict[str, Callable[..., Answer]] = {
    "observe": observe,
    "swap": swap,
    "death": death,
    "watch": watch,
    "alive": alive,
    "stop": stop,
    "create_image": create_image,
    "version": version,
    "is_here": is_here,
    "connect": connect,
    "check_ports": check_ports,
    "facts": facts,
    "check_devices": check_devices,
}


def perform(name: str, request: Mapping[str, object], helper: str = "") -> Answer:
    """Perform one operation here, for this process, a helper process or a script.

    Args:
        name: One of `OPERATIONS`, or `launch`.
        request: The operation's arguments.
        helper: The text of this file, which a launch passes to the process that becomes QEMU.

    Returns:
        The operation's answer.

    Raises:
        Refused: The operation was not done. A QEMU that was started and gave no answer was killed;
            else nothing was changed.
        Uncertain: It is not known whether the operation was done.
        KeyError: There is no such operation.
        TypeError: The request has not the operation's arguments.
    """
    try:
        if name == "launch":
            return launch(helper=helper, **request)  # type: ignore[arg-type]  # JSON, as declared
        return OPERATIONS[name](**request)
    except OSError as error:
        raise Refused(str(error)) from error


# -- on the far side of an ssh connection --------------------------------------------------------


def serve(helper: str) -> None:
    """Run as the helper of an `SshHost`: answer requests from standard input until that ends.

    Each request is answered in a thread of its own, so that a slow one does not delay others. An
    answer has the `id` of its request, and `ok`, `refused` or `uncertain`.

    Args:
        helper: The text of this file.
    """
    lock = threading.Lock()

    def answer(line: bytes) -> None:
        message = {"id": None}
        try:
            message = json.loads(line)
            outcome: Answer = {"ok": perform(message["name"], message["request"], helper)}
        except Refused as refused:
            outcome = {"refused": str(refused)}
        except Exception as error:  # noqa: BLE001 - the other side waits for an answer
            outcome = {"uncertain": f"{type(error).__name__}: {error}"}
        text = json.dumps({"id": message["id"], **outcome}) + "\n"
        with lock:
            sys.stdout.write(text)
            sys.stdout.flush()

    for line in sys.stdin.buffer:
        threading.Thread(target=answer, args=(line,), daemon=True).start()


def main(arguments: Sequence[str]) -> int:
    """Perform one operation for a shell script.

    The answer goes to standard output as JSON; the reason of a failure goes to standard error.

    Args:
        arguments: The operation's name (a key of `OPERATIONS`, or `launch`), its arguments as a
            JSON object and, for a launch, the text of this file: the process that becomes QEMU
            runs it.

    Returns:
        The exit code: 0 if the operation was done, 1 if it was refused and nothing was changed,
        3 if it is not known whether it was done.
    """
    name, request = arguments[0], json.loads(arguments[1])
    try:
        found = perform(name, request, "".join(arguments[2:3]))
    except (Refused, Uncertain) as error:
        sys.stderr.write(f"   {error}\n")
        return 1 if isinstance(error, Refused) else 3
    sys.stdout.write(json.dumps(found) + "\n")
    return 0

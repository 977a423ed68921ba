"""What is done on a node's host: files, locks and processes. Needs Python 3.9 and nothing else.

The code of this file always runs on the host of the node that it is about, in one of four ways:

- In the program that uses pycolo, if that runs on this host: `LocalHost` calls `perform` in a
  thread.
- In a helper process, if that program runs elsewhere: `SshHost` logs in once, starts a Python here,
  sends it the text of this file, and calls `serve`. From then on each request is a line of JSON on
  the helper's standard input, and each answer one on its standard output. The helper ends with the
  connection; nothing is installed.
- In a Python that a shell script from `pycolo.render.shell` starts: `main`, for one request.
- In the process that becomes QEMU, for a moment: see `LAUNCHER`.

A request is the name of an operation (`OPERATIONS`, and `launch`) and its arguments. Arguments and
answers are plain JSON values, and every path is one on this host. Operations run side by side;
those that change a node's record, images or process file hold the lock of its record.

No process of pycolo's has to live as long as QEMU. QEMU's process is known by a small file, the
process file, which that process writes itself before it becomes QEMU: its number, when it started,
in which boot and in which name spaces. So a number that was given to another process later is never
taken for QEMU. A file that others than its owner may have written is no evidence of a death.
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
# Most records and identities are shorter; a block that is there already needs no free space.
BLOCK_BYTES = 4096
READ_MAX_BYTES = 1 << 20
ENDED_KEPT = 32
# Flags of the kernel: of a task that has begun to exit, and of a pidfd that means one thread.
PF_EXITING = 0x4
PIDFD_THREAD = os.O_EXCL
# The first threads of a QEMU live as long as it does, and only one of them can free its memory.
THREADS_WATCHED = 4
# After the end of one thread the others of a killed process follow within milliseconds.
LOOK_S = 0.002
SETTLE_S = 0.1
# Without a word from the kernel: where it tells of no thread, and where it should have told.
UNTOLD_S = 0.05
TOLD_S = 1.0
OTHERS_MAY_WRITE = 0o022
PID_MAX = 1 << 22
OWNER_SUFFIX = ".owner.json"
# Far more images than any pair has; a folder with more is not read to its end.
OWNERS_READ = 1000
WIDER_THAN_OWNER = 0o077
MOUNTS = "/proc/self/mountinfo"
# Several hosts see the same files there, under the same source and inode.
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "ceph", "fuse.glusterfs", "lustre")
RAM_FILE_SYSTEMS = ("tmpfs", "ramfs", "devtmpfs")
RENAME_EXCHANGE = 2
AT_FDCWD = -100
CLONE_NEWNET = 0x40000000
# A port that is closed answers: nothing between the hosts takes the question away.
LET_THROUGH = (0, errno.ECONNREFUSED)

# Run as it stands by Python 3.9, which knows no `|` between types outside annotations.
Answer = Dict[str, object]
Monitor = Mapping[str, Union[str, int]]


class Refused(Exception):
    """The helper refused an operation, and nothing was changed."""


class Uncertain(Exception):
    """It is not known whether an operation of the helper was done."""


# -- what may be believed ------------------------------------------------------------------------


def _distrust(path: str) -> str | None:
    """Why a file may not be believed; None if only root and this user can write to it."""
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
    """Why the folders above a file let others replace it; None if they do not."""
    for parent in Path(path).parents:
        found = os.stat(parent)
        sticky = found.st_mode & stat.S_ISVTX and found.st_uid == 0
        if _is_writable_by_others(found) and not sticky:
            return f"{parent} may be written by others than its owner"
    return None


def _is_writable_by_others(found: os.stat_result) -> bool:
    return found.st_uid not in (0, os.geteuid()) or bool(found.st_mode & OTHERS_MAY_WRITE)


def _check_state_dir(path: str) -> None:
    """Refuse a folder that cannot keep a record."""
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
    """The type of the file system a folder is on, and its source; empty if it cannot be told."""
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
    """A text that is the same for one folder, seen from any host, and differs for any other one.

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
    """The bytes of a file; None if there is none.

    Raises:
        OSError: It is something else than a file, or longer than any that is written here.
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
    """SHA-256 of a file's bytes, by which a change says what it expects; None for no file."""
    return None if data is None else hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def _locked(path: str, limit_s: float) -> Iterator[int]:
    """Hold the lock of a node's record, beside it, against other threads and processes.

    Args:
        path: The node's record.
        limit_s: How long to wait for whoever holds it.

    Yields:
        The lock's descriptor: a process that inherits it holds the lock as well.

    Raises:
        Refused: Somebody else still held it at the limit.
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
    """Replace a file durably, whole or not at all; needs no free space if it exists.

    The new content goes into a spare file, whose disk space is allocated already; then the two
    files exchange their names.

    Raises:
        OSError: Nothing was changed.
        Uncertain: The file may be the old or the new one.
    """
    spare = f"{path}.spare"
    _write_spare(spare, data)
    try:
        if not os.path.exists(path):
            os.rename(spare, path)
            # The next change finds its block there; it is made without one if the disk is full.
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
    # Under another name it may be anything: that keeps it, and a new file takes this name.
    with contextlib.suppress(FileNotFoundError):
        if os.lstat(spare).st_nlink != 1:
            os.unlink(spare)
    # Somebody's pipe of that name would have us wait for a reader.
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
    """Have two files exchange their names in one step; false if this system cannot."""
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
    """Read a node's record, and ask which process runs for it.

    Args:
        record: The node's record.
        process: The node's process file.
        image_folder: The folder of its images.
        pair: The pair's name.
        node: The node's name.
        owners: The owner files of its images.
        monitors: Its monitors.

    Returns:
        `record`, in base64, None for none; `unread`, why it must not be used, else None; `lost`,
        how it is known that there was one, else None; `folder`, what tells the image folder
        from every other one; `instance` and `how` of the QEMU that is known to run, empty for none.
    """
    answer: Answer = {"record": None, "unread": None, "lost": None, "folder": ""}
    answer.update(alive(process=process, monitors=monitors))
    try:
        answer["folder"] = place_of(image_folder)
        # If a disk is not mounted, its folder is missing: that is an error, and no new pair.
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
    """Whether a QEMU of a node runs here, by its process file or because it serves a monitor.

    The process file is read even if another user could have written it: such a file cannot prove
    that a QEMU has ended, but it can show one that runs.

    Args:
        process: The node's process file.
        monitors: Its monitors.

    Returns:
        `instance`: the QEMU's identity, empty if it is not known. `how`: how it is known that a
        QEMU runs, or why that cannot be known; empty if none was found.
    """
    current = None
    try:
        current = _known(process, is_trusted=False).current
    except PermissionError as error:
        return {"instance": "", "how": _unseen(error)}
    except (Refused, OSError):
        # A process file that cannot be used tells of no process; `launch` refuses it.
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
    """Whether what serves a monitor is left of a QEMU that is over, and closed once it is gone."""
    if _distrust(path) is not None:
        return False
    pidfd = _lingering(process)
    if pidfd is not None:
        pidfd.close()
    return pidfd is not None


def _unseen(error: PermissionError, place: str = "") -> str:
    """Whoever may not look cannot say that nothing runs."""
    return f"its host may not look, permission denied: {error.filename or place}"


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
    """Replace a node's record if it still is what was read.

    Args:
        record: The node's record.
        expects: SHA-256 of what it must still be; None if there must be none.
        data: What replaces it, in base64.
        pair: The pair's name.
        node: The node's name.
        owners: The owner files of its images.
        limit_s: How long the lock may take, in seconds.

    Returns:
        `written`: false if the record is not what was read; nothing was changed then.

    Raises:
        Refused: Its folder cannot keep a record, or the lock was not free in time.
        Uncertain: It is not known whether it was written.
    """
    _check_state_dir(record)
    with _locked(record, limit_s):
        if _digest(_read(record)) != expects:
            return {"written": False}
        _replace(record, base64.b64decode(data))
        _own(owners, pair=pair, node=node, record=record)
    return {"written": True}


# -- whose an image is ---------------------------------------------------------------------------


def _own(owners: Sequence[str], *, pair: str, node: str, record: str) -> None:
    """Write the owner file of each image: its pair, its node, and where the record lies.

    It comes after the record, and keeps nobody waiting: what cannot be written now, as on a full
    disk, is written with the next change of the record.

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
    """What an owner file says."""

    path: str
    pair: str
    node: str
    record: str

    def speaks(self, own: Sequence[str], ours: tuple[str, str]) -> bool:
        """Whether the file is one of `own`, or names the pair and node of `ours`."""
        return self.path in own or (self.pair, self.node) == ours


def _owner(path: str) -> _Owner | None:
    """What an owner file says; None of one that is not there, cannot be read or is damaged."""
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
    """Why the record must not be used with these images; None if no owner file objects.

    An owner file objects if it names this node's record in another place, and there is a record
    there. That of a declared image also objects if it names another node of this pair, or any
    record in another place: so an image of another pair is found by its record.

    Args:
        found: The owner files in the image folder.
        own: The paths of those of the declared images.
        ours: The pair's name and the node's.
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
    """How it is known that a record which is not there was there once; None if it is not."""
    for one in found:
        if one.speaks(own, ours):
            is_here = _same(one.record) == _same(record)
            was = "was there" if is_here else f"was in {one.record}"
            return f"it {was}, by {one.path}, and is gone: bring it back if it was moved"
    return None


# -- processes -----------------------------------------------------------------------------------


class _Boot(NamedTuple):
    """In which boot of which machine, and in which name spaces, process numbers are given."""

    machine: str
    boot_id: str
    init_start: int | None
    pid_namespace: str
    time_namespace: str

    def restarted(self, later: _Boot) -> bool:
        """Whether PID 1 is another one; if /proc hides it, nothing is known of that."""
        starts = (self.init_start, later.init_start)
        return None not in starts and self.init_start != later.init_start

    def counts_like(self, now: _Boot) -> bool:
        """Whether a process number of then means the same process now."""
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
    """What tells this machine from others; empty if nothing does."""
    try:
        machine_id = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return f"{machine_id} {os.uname().nodename}" if machine_id else ""


def _start_time(pid: int) -> int | None:
    """When a process started, in clock ticks after the boot; None if that cannot be seen."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses, and may hold anything. Field 22.
    return int(text.rpartition(")")[2].split()[19])


class _Process(NamedTuple):
    """What identifies the process of a QEMU."""

    instance: str
    pid: int
    start_time: int
    boot: _Boot


class _Known(NamedTuple):
    """What a node's process file says."""

    current: _Process | None
    ended: list[str]
    "Instances whose processes had ended when the next one was started, the latest last."


def _known(path: str, *, is_trusted: bool = True) -> _Known:
    """What a node's process file says.

    Args:
        path: The file.
        is_trusted: Refuse one that others than its owner may have written.

    Raises:
        Refused: It is damaged, or others than its owner may have written it.
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
    """How it is known, from this boot, that a process has ended; None if it may still run."""
    then = process.boot
    if then.machine != now.machine:
        return None
    if then.boot_id != now.boot_id:
        # Another boot of this very machine has ended it.
        return "its host has booted since" if now.machine else None
    spaces = (now.pid_namespace, now.time_namespace)
    if (then.pid_namespace, then.time_namespace) != spaces:
        return None
    if then.restarted(now):
        # The number of a name space is given again only when all of its processes have ended.
        return "its container has been started since"
    pidfd = _open(process)
    if pidfd is None:
        return f"process {process.pid} has ended"
    with contextlib.closing(pidfd):
        return pidfd.over()


def _open(process: _Process) -> Pidfd | None:
    """The handle of the process; None if it has ended."""
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
    """The kernel's own handle of a process: it never means another one.

    A process is over before it is gone. A killed one is over as soon as each of its threads has
    begun to exit: the kernel runs none of them outside itself again, and no guest in them. Then
    the last thread frees the memory, which takes some 70 ms a GiB, closes the sockets and the
    images, and only then is the process gone (qemu-behaviour 19.11).
    """

    def __init__(self, pid: int, descriptor: int) -> None:
        """Take a descriptor of a process; it is closed by `close`."""
        self.pid = pid
        "Its process id."
        self._descriptor = descriptor

    def copy(self) -> Pidfd:
        """Another handle of the same process, which is closed apart."""
        return Pidfd(self.pid, os.dup(self._descriptor))

    def close(self) -> None:
        """Let go of it; the process keeps running. May be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def send(self, number: int) -> None:
        """Send a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def gone(self, limit_s: float) -> bool:
        """Whether all of its threads end within the limit; those of a zombie have ended.

        Args:
            limit_s: How long to wait, in seconds; 0 to look once.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._descriptor, selectors.EVENT_READ)
            if not selector.select(limit_s):
                return False
        # Only a child of ours can be a zombie of ours; a child of another process is reaped there.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOHANG)
        return True

    def over(self) -> str | None:
        """Why none of its threads can run again, as a sentence; None if one of them still can."""
        # In this order: one that goes in between was seen while it was there, or is gone after.
        exiting = _all_exiting(self.pid)
        if self.gone(0):
            return f"process {self.pid} has ended"
        return f"all threads of process {self.pid} have ended or are exiting" if exiting else None

    def wait_over(self, limit_s: float) -> bool:
        """Whether it is over, now or within the limit."""
        end = time.monotonic() + limit_s
        with contextlib.closing(self.lookout()) as lookout:
            while self.over() is None:
                left_s = end - time.monotonic()
                if left_s <= 0:
                    return False
                lookout.wait(min(lookout.arm(), left_s))
        return True

    def lookout(self) -> Lookout:
        """What tells when to look again whether it is over."""
        return Lookout(self.pid, self._descriptor)


def _all_exiting(pid: int) -> bool:
    """Whether every thread of a process has begun to exit; false if that cannot be seen.

    A thread may make another one before it exits, and a list that is read while a thread of it ends
    may be cut short. So two lists in a row must be the same, with all of their threads still there:
    whoever is in neither was made by nobody.
    """
    if os.readlink("/proc/self") != str(os.getpid()):
        # That /proc is of another name space, where this number means another process.
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
    """Whether a thread has begun to exit, as a zombie's has; None if it is gone.

    Its program is asked for first: it has none from the moment at which it lets go of its memory.
    To read `stat` before would hold the memory meanwhile, and whoever lets go of it last frees it.
    """
    place = f"/proc/{pid}/task/{thread}"
    try:
        os.readlink(f"{place}/exe")
    except OSError:
        # It has none, or only its owner may know; `stat` tells everybody.
        pass
    else:
        return False
    try:
        text = Path(f"{place}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError:
        return False
    # As in `_start_time`. Field 9.
    return bool(int(text.rpartition(")")[2].split()[6]) & PF_EXITING)


class Lookout:
    """Tells when to look whether a process is over, by a descriptor that becomes readable.

    Of the first threads all but one end within milliseconds of SIGKILL, whatever the last one has
    to free. The end of a thread is only a hint: looks follow in quick succession, for a moment.
    """

    def __init__(self, pid: int, descriptor: int) -> None:
        """Watch a process; used by `Pidfd.lookout` alone."""
        self._pid = pid
        self._epoll = select.epoll()
        self._epoll.register(descriptor, select.EPOLLIN)
        self._threads: list[int] = []
        # The process may have been killed a moment ago, and have no thread left that could tell.
        self._hinted_until = time.monotonic() + SETTLE_S

    def fileno(self) -> int:
        """Readable if the process is gone, or one of the threads that are watched has ended."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Close the descriptors by which it watches."""
        self._drop()
        self._epoll.close()

    def wait(self, limit_s: float) -> None:
        """Wait until it is readable, no longer than the limit."""
        self._epoll.poll(limit_s)

    def arm(self) -> float:
        """Watch for the next hint; gives how long to wait for it before a look, in seconds."""
        if self._epoll.poll(0):
            self._hint()
        if time.monotonic() < self._hinted_until:
            return LOOK_S
        if not self._threads and self._watch_threads():
            # Whatever ended before they were watched is seen by a look now.
            return 0.0
        return TOLD_S if self._threads else UNTOLD_S

    def _hint(self) -> None:
        self._drop()
        self._hinted_until = time.monotonic() + SETTLE_S

    def _watch_threads(self) -> bool:
        """Whether the kernel tells of the ends of some threads; it does from Linux 6.9 on."""
        try:
            for thread in os.listdir(f"/proc/{self._pid}/task")[:THREADS_WATCHED]:
                self._threads.append(os.pidfd_open(int(thread), PIDFD_THREAD))
                self._epoll.register(self._threads[-1], select.EPOLLIN)
        except (FileNotFoundError, ProcessLookupError):
            self._hint()
        except OSError:
            self._drop()
        if len(self._threads) == 1:
            # It may be the one that frees the memory.
            self._drop()
        return bool(self._threads)

    def _drop(self) -> None:
        for descriptor in self._threads:
            os.close(descriptor)
        self._threads.clear()


def _dead(how: str) -> Answer:
    return {"dead": True, "how": how, "who": os.uname().nodename or "its host"}


def death(*, process: str, instance: str, limit_s: float) -> Answer:  # noqa: ARG001 - as `watch`
    """Whether it is known here that one QEMU has ended.

    Args:
        process: The node's process file.
        instance: The identity of the QEMU.
        limit_s: Not used: `watch` takes the same arguments.

    Returns:
        `dead`, with `how` and `who` says so; false if it runs, and if nothing is known.

    Raises:
        Refused: The process file is damaged, or others may have written it.
    """
    known = _known(process)
    if instance in known.ended:
        return _dead("its process had ended before the next one was started")
    how = None
    if known.current is not None and known.current.instance == instance:
        how = _over(known.current, _boot())
    return {"dead": False, "how": "", "who": ""} if how is None else _dead(how)


def watch(*, process: str, instance: str, limit_s: float) -> Answer:
    """Wait for the end of one QEMU, if it runs here.

    Args:
        process: The node's process file.
        instance: The identity of the QEMU.
        limit_s: How long to wait, in seconds.

    Returns:
        As `death`; `dead` is false if the limit passed.

    Raises:
        Refused: The process file is damaged, or others may have written it.
    """
    held = hold(process)
    if held is not None:
        with contextlib.closing(held[1]) as pidfd:
            if held[0] == instance:
                pidfd.wait_over(limit_s)
    return death(process=process, instance=instance, limit_s=limit_s)


def hold(process: str) -> tuple[str, Pidfd] | None:
    """The identity and the handle of the QEMU that runs for a node here; None for none.

    Args:
        process: The node's process file.

    Raises:
        Refused: The process file is damaged, or others may have written it.
    """
    current = _running(process)
    pidfd = None if current is None else _open(current)
    return None if current is None or pidfd is None else (current.instance, pidfd)


def _running(process: str) -> _Process | None:
    """The process that runs for a node here; None if none is known to run."""
    current = _known(process).current
    return current if current is not None and _runs(current) else None


def _runs(process: _Process) -> bool:
    """Whether a process is known to run, and its number means this process here."""
    now = _boot()
    return process.boot.counts_like(now) and _over(process, now) is None


def stop(*, process: str, instance: str, at_once: bool, limit_s: float) -> Answer:
    """End one QEMU, and no other, and see it end.

    Args:
        process: The node's process file.
        instance: The identity of the QEMU.
        at_once: Kill it, and wait only until it runs no more. Otherwise it is asked to end by
            SIGTERM for half of the limit before it is killed, and the wait is for the end of the
            process, which lets go of its sockets and its images.
        limit_s: How long its end may take in all, in seconds.

    Returns:
        As `death`; `dead` is true.

    Raises:
        Refused: It is not known here, or its process cannot be seen from here.
        Uncertain: It did not end in time.
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

# The program of the process that becomes QEMU: it is given the text of this file, writes the
# process file about itself, and replaces itself by QEMU. Whoever started it may be gone by then. It
# inherits the lock of the record, which the kernel lets go when it becomes QEMU: so nobody starts a
# second one meanwhile. If it fails, it writes why to the status pipe, which is closed empty
# otherwise.
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

    The process that is started here runs `LAUNCHER` and then QEMU; nobody else stays.

    Args:
        record: The node's record; its lock is held until the process is QEMU.
        process: The node's process file.
        expects: SHA-256 of what the record must still be; None for no matter what.
        instance: The identity of the QEMU.
        argv: Its command line.
        run_dir: Its run directory, made if it is not there.
        log: Where it writes what it has to say.
        address: Where it listens.
        ports: The TCP ports on which it comes to listen there; they must be free.
        monitors: Its monitors, the first of which must answer.
        sockets: What may be left of an earlier one, and is removed.
        images: Its images.
        written: What else is written by it or for it.
        helper: The text of this file.
        limit_s: How long the QEMU before it may take to be gone, then the lock, then the answer;
            in seconds, each.
        credentials: Files for TLS that must be there; QEMU does not miss all of them at its start.
        domain: `uri`, `virsh` and `xml` of the libvirt domain that runs it; None for none.

    Returns:
        `pid`, the number of its process.

    Raises:
        Refused: Something stands in the way, or QEMU ended or did not answer; it does not run.
    """
    _check_credentials(credentials)
    _check_state_dir(record)
    _check_images(images, written)
    _make_run_dir(run_dir)
    await_gone(process, limit_s)
    with _locked(record, limit_s) as lock:
        ended = _refuse_second(process)
        if instance in ended:
            # The end of the first would be taken for evidence that the second has ended.
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
        # A QEMU that nobody can speak to is of no use, and nobody else knows of it.
        pidfd.send(signal.SIGKILL)
        pidfd.gone(KILL_S)
    raise Refused(f"{why}: {_tail(log, before) or 'it said nothing'}")


def _create_domain(
    domain: Mapping[str, str], monitor: Monitor, instance: str, limit_s: float
) -> Answer:
    """Have libvirt start a QEMU, and find its process; gives what identifies it.

    The kernel tells which process listens on the monitor, and QEMU there tells its identity.
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
    # A QEMU that nobody knows of would keep the images open.
    code, text = _output((*virsh, "destroy", "--domain", instance), limit_s)
    if code != 0:
        raise Uncertain(f"{why}; the domain {instance} may run: {text.strip()}")
    raise Refused(f"libvirt: {why}")


def _listener(monitor: Monitor, instance: str, limit_s: float) -> Answer:
    """The process that listens on a monitor, whose QEMU has this identity."""
    with contextlib.closing(_connected(monitor)) as client:
        client.settimeout(limit_s)
        given = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", given)[0]
        start_time = _start_time(pid) if pid > 0 else None
        if start_time is None:
            raise Refused(f"the process that serves {_place(monitor)} cannot be seen from here")
        # An answer that comes after the look shows that the process of then is the one that serves.
        name = _name(client)
    if name != instance:
        raise Refused(f"{_place(monitor)} is served by {name}, not by {instance}")
    boot = _boot()._asdict()
    return {"instance": instance, "pid": pid, "start_time": start_time, "boot": boot}


def _name(client: socket.socket) -> object:
    """The name of the QEMU that serves a monitor."""
    client.sendall(b'{"execute": "qmp_capabilities"}{"execute": "query-name"}')
    with client.makefile("r", encoding="utf-8") as lines:
        for line in lines:
            answer = json.loads(line).get("return")
            if answer:
                return answer.get("name")
    return None


def _refuse_second(process: str) -> list[str]:
    """See that no QEMU runs for the node here; gives the instances that have ended."""
    known = _known(process)
    if known.current is None:
        return known.ended
    over = _over(known.current, _boot())
    if _runs(known.current):
        raise Refused(f"QEMU runs there already, as process {known.current.pid}")
    return [*known.ended, known.current.instance] if over is not None else known.ended


def await_gone(process: str, limit_s: float) -> None:
    """Wait until a QEMU that is over is gone: until then its ports and its images are not free."""
    current = _known(process).current
    pidfd = None if current is None else _lingering(current)
    if pidfd is not None:
        with contextlib.closing(pidfd):
            if not pidfd.gone(limit_s):
                raise Refused(
                    f"process {pidfd.pid}, the QEMU before, has not let go of its memory, its ports"
                    f" and its images within {limit_s:g} s: launch again once it is gone"
                )


def _lingering(process: _Process) -> Pidfd | None:
    """The handle of a process that is over and not gone; None of any other."""
    now = _boot()
    pidfd = _open(process) if process.boot.counts_like(now) else None
    if pidfd is None or (pidfd.over() is not None and not pidfd.gone(0)):
        return pidfd
    pidfd.close()
    return None


def _check_free(address: str, ports: Sequence[int]) -> None:
    """Check that the ports on which a QEMU will listen are free, or it would fail later.

    Nothing is known of an address that is not this host's, or is in another network namespace. The
    kernel may hold the ports of a QEMU that was killed for some moments after its end
    (qemu-behaviour 19.10).
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
            # As QEMU does: a connection that has ended is in nobody's way.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(place)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return True
    return False


def _clear(monitors: Sequence[Monitor], sockets: Sequence[str]) -> None:
    """Remove the sockets that an earlier QEMU has left: one that is there proves nothing."""
    for monitor in monitors:
        if _serves(monitor):
            raise Refused(f"something serves its monitor {_place(monitor)} already")
    for path in sockets:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)


def _same(path: str) -> str:
    """What is equal for two names of one file, whatever links lead to it."""
    try:
        found = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    if stat.S_ISBLK(found.st_mode):
        return f"block device {found.st_rdev}"
    return f"{found.st_dev}:{found.st_ino}"


def _check_images(images: Sequence[str], written: Sequence[str]) -> None:
    """Refuse to write a log, a socket or a record over an image, whatever link leads there."""
    real = {_same(path): path for path in images}
    if len(real) < len(images):
        raise Refused(f"two of the images are one file: {', '.join(images)}")
    for path in written:
        image = real.get(_same(path))
        if image is not None:
            raise Refused(f"{path} and the image {image} are one file")


def _check_credentials(paths: Sequence[str]) -> None:
    """See that every file for TLS can be read."""
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
    """Refuse a run directory that others may use."""
    found = os.lstat(path)
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        raise Refused(f"run_dir {path} is no directory")
    if found.st_uid != os.geteuid():
        raise Refused(f"run_dir {path} belongs to user {found.st_uid}, not to {os.geteuid()}")
    if mode & WIDER_THAN_OWNER:
        raise Refused(f"run_dir {path} has mode {mode:04o}, it must be 0700")


def _spawn(words: Sequence[str], argv: Sequence[str], log: str, lock: int) -> int:
    """Start the launcher and see it become QEMU."""
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
            # Signals to us are not for QEMU.
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
    return str(monitor.get("path") or f"{monitor['host']}:{monitor['port']}")


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
    """Whether something listens there, even if its queue is full: then nobody refuses.

    Raises:
        PermissionError: This user may not know.
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
    """Why QEMU never answered a command; None if it did.

    It greets before it makes its devices, and may end on one of them; it answers after that.
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
    """The last lines that QEMU has written to its log since it was that long."""
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
    qemu_img: str,
    limit_s: float,
) -> Answer:
    """Make an image under another name, and give it its name when it is whole.

    Args:
        record: The node's record, whose lock is held.
        path: Where the image shall be; one that is there is compared and never written to.
        argv: The command line that makes it at `path`.
        image_format: Its format.
        size_bytes: Its virtual size.
        qemu_img: The program that tells what one that is there is like.
        limit_s: How long the lock may take, and then the program; in seconds, each.

    Returns:
        `there`: true if an image was there already, as declared.

    Raises:
        Refused: There is another one, or the program failed; none was made.
    """
    _check_state_dir(record)
    with _locked(record, limit_s):
        if os.path.lexists(path):
            _compare([qemu_img, "info", "--output=json", "-U", path], image_format, size_bytes)
            return {"there": True}
        partial = f"{path}.pycolo-partial"
        # Left by somebody who was killed: it never had its name.
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


def _compare(argv: Sequence[str], image_format: str, size_bytes: int) -> None:
    """Refuse an image that is not as declared."""
    path = argv[-1]
    code, text = _output(argv, LIMIT_S)
    try:
        found = json.loads(text) if code == 0 else {}
        there = (found["format"], found["virtual-size"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Refused(f"{path} exists and is no image: {text.strip()}") from None
    if there != (image_format, size_bytes):
        why = (
            f"{path} exists with format {there[0]} and {there[1]} bytes, declared are"
            f" {image_format} and {size_bytes}; it is not overwritten"
        )
        raise Refused(why)


def version(*, binary: str, limit_s: float) -> Answer:
    """Ask an installed QEMU for its version.

    Args:
        binary: The program.
        limit_s: How long it may take, in seconds.

    Returns:
        `text`, what it says.

    Raises:
        Refused: There is no such program, or it failed.
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
    """See that a QEMU knows devices and their properties, by asking one that runs no guest.

    Args:
        binary: The program.
        devices: Each device's name, and what it is told.
        limit_s: How long the answers may take.
    """
    drivers = list(dict.fromkeys(driver for driver, _ in devices))
    known, said = _properties(binary, drivers, limit_s)
    unknown = [driver for driver in drivers if driver in known and known[driver] is None]
    if unknown:
        raise Refused(f"QEMU knows no device {unknown[0]}{_nearest(unknown[0], known[''] or {})}")
    for driver, told in devices:
        names = known.get(driver)
        if names is not None:
            for name, value in told.items():
                _check_property(driver, names, name, value)
    silent = [driver for driver in drivers if driver not in known]
    if silent:
        return {"note": f"not looked at from {silent[0]} on: QEMU gave no answer ({said[-200:]})"}
    return {"note": ""}


def _properties(
    binary: str, drivers: Sequence[str], limit_s: float
) -> Tuple[Dict[str, Dict[str, str] | None], str]:
    """The types of the properties of each device, by name; None for one that is not known.

    Under the empty name stand all devices. What QEMU gave no answer about is absent.
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


def _check_property(driver: str, names: Mapping[str, str], name: str, value: object) -> None:
    """Refuse a property that a device has not, or one of another type.

    What places a device on a bus is no property of it, and an address may be text or a number.
    """
    if name in ("id", "bus", "addr"):
        return
    if name not in names:
        raise Refused(f"the device {driver} has no property {name}{_nearest(name, names)}")
    rule = _rule_of(names[name], value)
    if rule is not None:
        raise Refused(f"the property {name} of {driver} must be {rule}, not {value!r}")


def _rule_of(kind: str, value: object) -> str | None:
    """What a value breaks that is not of a type of QEMU's; None where it breaks nothing."""
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
    """Run a program that ends by itself; gives its exit code and what it said.

    Args:
        argv: Its command line.
        limit_s: How long it may take.
        given: What it reads from its standard input.
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
    """Try to connect to a monitor of this host, to find out why nobody could through ssh.

    Args:
        monitor: The monitor.

    Returns:
        `in_line`: true if something listens there whose queue is full.

    Raises:
        OSError: The connection is refused.
    """
    try:
        _connected(monitor).close()
    except (BlockingIOError, TimeoutError):
        return {"in_line": True}
    return {"in_line": False}


def check_ports(*, process: str, address: str, ports: Sequence[int], limit_s: float) -> Answer:
    """See that another host lets connections to its ports through; a closed one is let through.

    Args:
        process: The node's process file: ports are checked from the network in which its QEMU runs.
        address: The other host's address.
        ports: Its TCP ports.
        limit_s: How long the answers may take, in seconds.

    Returns:
        `note`, why nothing was checked; empty if all ports were.

    Raises:
        Refused: The address does not resolve, or a port cannot be reached.
    """
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refused(f"{address} does not resolve: {error}") from error
    # QEMU, too, tries each address that a name stands for.
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
    """The name space of the network in which a node's QEMU runs, if it is not ours."""
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
    """Look from another network, by a thread that ends with it."""
    found: Dict[int, str] = {}
    failed: list[Exception] = []

    def work() -> None:
        try:
            with open(network, "rb") as space:
                _enter(space.fileno())
            found.update(observe())
        except Exception as error:  # noqa: BLE001 - it is raised where the thread is waited for
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found


def _enter(network: int) -> None:
    """Have this thread alone use another network."""
    if ctypes.CDLL(None, use_errno=True).setns(network, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Way(NamedTuple):
    """One address at which a port may be reached."""

    port: int
    family: int
    place: tuple[object, ...]


def blocked_among(ways: Sequence[Way], limit_s: float) -> Dict[int, str]:
    """Each port that is let through at none of its addresses, and why."""
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
                # The system knows nothing of addresses of this kind.
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
    """Find out whether an address is one of this host's.

    Args:
        address: An address, or a name.

    Returns:
        `here`.

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
    """Read what a preflight asks for; it changes nothing.

    Args:
        program: The text of `gather.py`, which is sent only when it is needed.
        request: What it shall read.
        launch: See `facts_by`.
    """
    scope: Dict[str, object] = {"__name__": "pycolo_gather"}
    exec(program, scope)  # noqa: S102 - it comes from whoever has sent this file
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
    """What is read, with what a launch would find first.

    Args:
        gather: Reads the parts.
        request: Its arguments.
        asks_launch: Whether the launch is asked about.
        record: The node's record.
        process: The node's process file.
        run_dir: The node's run directory.
        monitors: The node's monitors.

    Returns:
        The parts, `clock_s`, what the host's clock says now, and `worked_s`, how long it took.
    """
    began = time.monotonic()
    answer = dict(gather(**request))
    if asks_launch:
        answer["launch"] = {
            "running": alive(process=process, monitors=monitors)["how"] or _letting_go(process),
            "state_why": _why(lambda: _check_state_dir(record)),
            "run_why": _why(lambda: _check_run_dir(run_dir)) if os.path.lexists(run_dir) else "",
        }
    return {**answer, "clock_s": time.time(), "worked_s": time.monotonic() - began}


def _letting_go(process: str) -> str:
    """How it is known that the QEMU before still has its memory, ports and images; else empty."""
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
    """Perform one operation here: the one way in, from this process, a helper or a script.

    Args:
        name: One of `OPERATIONS`, or `launch`.
        request: Its arguments.
        helper: The text of this file: a launch hands it on to the process that becomes QEMU.

    Returns:
        What the operation returns.

    Raises:
        Refused: It was not done, and nothing was changed.
        Uncertain: It is not known whether it was done.
    """
    try:
        if name == "launch":
            return launch(helper=helper, **request)  # type: ignore[arg-type]  # JSON, as declared
        return OPERATIONS[name](**request)
    except OSError as error:
        raise Refused(str(error)) from error


# -- on the far side of an ssh connection --------------------------------------------------------


def serve(helper: str) -> None:
    """Be the helper of an `SshHost`: answer requests from standard input until that ends.

    Each request is answered in a thread of its own, so that a slow one holds up no other. An answer
    has the `id` of its request, and `ok`, `refused` or `uncertain`.

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
    """Perform one operation for a shell script; the answer goes to standard output as JSON.

    Args:
        arguments: The operation's name, its arguments as JSON, and the text of this file if it is
            a launch.

    Returns:
        The exit code: 0 if done, 1 if refused, 3 if it is not known whether it was done; the reason
        goes to standard error.
    """
    name, request = arguments[0], json.loads(arguments[1])
    try:
        found = perform(name, request, "".join(arguments[2:3]))
    except (Refused, Uncertain) as error:
        sys.stderr.write(f"   {error}\n")
        return 1 if isinstance(error, Refused) else 3
    sys.stdout.write(json.dumps(found) + "\n")
    return 0

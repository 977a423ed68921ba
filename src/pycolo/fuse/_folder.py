"""The fuse's folder: what is armed, for the next process after one that was killed.

Each QEMU has a file: what was asked for, with the latest renewal. So a deadline continues, and a
QEMU that was stopped is known by a deadline that has passed. The folder lies in memory: a disk that
does not answer must not keep the fuse from acting, and a reboot ends every QEMU.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from typing import Final

from pycolo.fuse._requests import Arm, Refused, arm

_SUFFIX: Final = ".json"
_WIDER_THAN_OWNER: Final = 0o077
_IN_MEMORY: Final = ("tmpfs", "ramfs")


class Folder:
    """The folder of one fuse process; held by it alone until it ends."""

    def __init__(self, path: str) -> None:
        """Take the folder, and make it if there is none.

        Args:
            path: Where it lies.

        Raises:
            Refused: It may be used by others, lies on a disk, or another fuse process holds it.
            OSError: It cannot be made or read.
        """
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        _check(path)
        self.path: Final = path
        "Where it lies."
        self._boot_id = _boot_id()
        self._lock = os.open(self.inside("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise Refused(f"another fuse process holds {path}") from error

    def inside(self, name: str) -> str:
        """The path of a file in it."""
        return os.path.join(self.path, name)

    def keep(self, armed: Arm) -> None:
        """Write what is armed.

        Raises:
            OSError: It could not be written; the file is as it was.
        """
        path = self._file(armed)
        text = json.dumps({"boot_id": self._boot_id, "arm": armed._asdict()})
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(f"{path}.new", path)

    def forget(self, armed: Arm) -> None:
        """Remove what was armed; it may be gone already.

        Raises:
            OSError: It could not be removed.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._file(armed))

    def kept(self) -> Iterator[Arm | str]:
        """What was armed in this boot; the error of a file that cannot be used."""
        for name in sorted(os.listdir(self.path)):
            if not name.endswith(_SUFFIX):
                continue
            path = self.inside(name)
            try:
                with open(path, encoding="utf-8") as file:
                    found = json.load(file)
                if found["boot_id"] == self._boot_id:
                    yield arm(found["arm"])
                else:
                    os.unlink(path)
            except (OSError, ValueError, TypeError, KeyError, RecursionError, Refused) as error:
                yield f"{path} CANNOT BE USED, its QEMU is not guarded: {error}"

    def _file(self, armed: Arm) -> str:
        # No name holds a colon.
        return self.inside(f"{armed.pair}:{armed.node}{_SUFFIX}")


def _check(path: str) -> None:
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise Refused(f"{path} must be a folder")
    if found.st_uid != os.geteuid():
        raise Refused(f"{path} must belong to user {os.geteuid()}, not to {found.st_uid}")
    mode = stat.S_IMODE(found.st_mode)
    if mode & _WIDER_THAN_OWNER:
        raise Refused(f"{path} must have mode 0700, not {mode:04o}")
    kind = _file_system(found.st_dev)
    if kind not in _IN_MEMORY:
        raise Refused(f"{path} must be on a tmpfs, as /run is, not on {kind or 'a disk'}")


def _file_system(device: int) -> str:
    """The type of a file system; empty if it cannot be told."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            if before.split()[2] == number:
                return after.split()[0]
    return ""


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()

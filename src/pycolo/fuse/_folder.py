"""The fuse's folder: a file for each guarded QEMU, from which the next fuse process continues.

Each file holds the `Arm` request of one QEMU, with the moment of its latest renewal. So the next
process knows the deadline, and stops QEMU if it has passed. The folder must be on a tmpfs: a disk
that does not answer would keep the fuse from acting. After a reboot nobody needs the files, since
every QEMU has ended.
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
    """The folder of one fuse process, which locks it until the process ends."""

    def __init__(self, path: str) -> None:
        """Lock the folder, and make it if there is none.

        Args:
            path: The path of the folder.

        Raises:
            Refused: The path is not a folder on a tmpfs that belongs to this user alone, or another
                fuse process has locked it.
            OSError: The folder cannot be made or read.
        """
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        _check(path)
        self.path: Final = path
        "The path of the folder."
        self._boot_id = _boot_id()
        self._lock = os.open(self.inside("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise Refused(f"another fuse process holds {path}") from error

    def inside(self, name: str) -> str:
        """The path of a file in the folder."""
        return os.path.join(self.path, name)

    def keep(self, armed: Arm) -> None:
        """Write the file of an armed fuse, or replace it.

        Raises:
            OSError: The file could not be written; an older one is unchanged.
        """
        path = self._file(armed)
        text = json.dumps({"boot_id": self._boot_id, "arm": armed._asdict()})
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(f"{path}.new", path)

    def forget(self, armed: Arm) -> None:
        """Remove the file of a fuse that is no longer armed, if there is one.

        Raises:
            OSError: The file could not be removed.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._file(armed))

    def kept(self) -> Iterator[Arm | str]:
        """Yield each fuse that was armed since boot, or a message for a file that cannot be used.

        Files of an earlier boot are removed.
        """
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
        # Names of pairs and nodes contain no colon, so that no two fuses share a file.
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
    """The type of the file system with this device number; empty if no mount shows it."""
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

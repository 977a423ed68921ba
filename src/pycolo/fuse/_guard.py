"""One guarded QEMU: when its process is stopped, continued or killed."""

from __future__ import annotations

import os
import select
import signal
from typing import Final

from pycolo.fuse._requests import Arm, FuseState, Gone, Refused

# If a kill is later than this, the fuse itself did not run: it reads its messages before it kills.
_LATE_S: Final = 0.5


class Guard:
    """One guarded QEMU: a handle on its process, and its deadline."""

    def __init__(self, arm: Arm) -> None:
        """Open a handle on the process, and check that it is the QEMU of the request.

        Args:
            arm: The request that names the process and the limits.

        Raises:
            Gone: The process has ended; its process ID may belong to another one by now.
            Refused: The process is another program, or cannot be read or signalled.
        """
        self.arm = arm
        "The request that armed the fuse, with the `as_of_s` of the latest renewal."
        self.state: FuseState = "armed"
        "What this guard has done to the process: nothing, stopped it, or killed it."
        self._stopped_s = 0.0
        self.pidfd: Final = _opened(arm)
        "The handle on the process; readable once the process has ended."

    @property
    def deadline_s(self) -> float:
        """The moment until which QEMU may run, in seconds on CLOCK_BOOTTIME."""
        return self.arm.as_of_s + self.arm.fuse_s

    @property
    def next_s(self) -> float | None:
        """When to call `act` next, in seconds on CLOCK_BOOTTIME; None once QEMU was killed."""
        match self.state:
            case "armed":
                return self.deadline_s
            case "stopped":
                return self._stopped_s + self.arm.kill_s
            case "killed":
                return None

    def act(self, now_s: float) -> str | None:
        """Stop QEMU if its deadline has passed, or kill it if it was stopped `kill_s` ago.

        If the fuse itself did not run when the kill was due, the time until the kill starts again:
        a renewal that was sent meanwhile can then still continue QEMU.

        Args:
            now_s: The time, in seconds on CLOCK_BOOTTIME.

        Returns:
            What was done, for the log; None for nothing.
        """
        late_s = now_s - self.deadline_s
        if self.next_s is None or now_s < self.next_s:
            return None
        if self.state == "armed":
            self.state, self._stopped_s = "stopped", now_s
            # The signal is sent first: what follows may have to wait for a page to be loaded.
            return f"{self._sent(signal.SIGSTOP, 'stopped')}, {late_s:.6f} s after its deadline"
        if now_s - self.next_s > _LATE_S:
            self._stopped_s = now_s
            return None
        self.state = "killed"
        return f"{self._sent(signal.SIGKILL, 'killed')}, {late_s:.6f} s after its deadline"

    def renew(self, as_of_s: float, now_s: float) -> bool:
        """Move the deadline to `fuse_s` after a moment; `let_run` then continues a stopped QEMU.

        Args:
            as_of_s: The moment, in seconds on CLOCK_BOOTTIME.
            now_s: The time, in seconds on CLOCK_BOOTTIME.

        Returns:
            Whether the deadline was moved. It is not moved if the renewal is not later than the
            latest one, if the new deadline would have passed already, or if QEMU was killed.
        """
        if as_of_s <= self.arm.as_of_s or as_of_s + self.arm.fuse_s <= now_s:
            return False
        if self.state == "killed":
            return False
        self.arm = self.arm._replace(as_of_s=as_of_s)
        return True

    def let_run(self) -> str | None:
        """Continue QEMU if this guard has stopped it.

        Returns:
            What was done, for the log; None for nothing.
        """
        if self.state != "stopped":
            return None
        self.state = "armed"
        return self._sent(signal.SIGCONT, "continues")

    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return _has_ended(self.pidfd)

    def close(self) -> None:
        """Close the handle on the process."""
        os.close(self.pidfd)

    def _sent(self, number: signal.Signals, done: str) -> str:
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return "has ended already"
        except OSError as error:
            return f"{number.name} WAS REFUSED: {error.strerror}"
        return done


def _opened(arm: Arm) -> int:
    try:
        pidfd = os.pidfd_open(arm.pid)
    except ProcessLookupError as error:
        raise Gone(f"there is no process {arm.pid}") from error
    except OSError as error:
        raise Refused(f"process {arm.pid} cannot be opened: {error.strerror}") from error
    try:
        _check(arm, pidfd)
    except BaseException:
        os.close(pidfd)
        raise
    return pidfd


def _check(arm: Arm, pidfd: int) -> None:
    """Check that a process is the QEMU that a request names.

    Args:
        arm: The request.
        pidfd: The handle on the process.

    Raises:
        Gone: The process has ended; its process ID may belong to another one by now.
        Refused: The process is another program, or cannot be read or signalled.
    """
    try:
        started = _start_time(arm.pid)
        words = _read(f"/proc/{arm.pid}/cmdline").split(b"\0")
        # A process that may not be signalled could not be stopped either.
        signal.pidfd_send_signal(pidfd, 0)
    except OSError as error:
        if _has_ended(pidfd):
            raise Gone(f"process {arm.pid} has ended") from error
        raise Refused(f"process {arm.pid} cannot be guarded: {error.strerror}") from error
    # Checked after /proc was read: if the process has not ended, what was read is about it.
    if _has_ended(pidfd):
        raise Gone(f"process {arm.pid} has ended")
    if started != arm.start_time:
        why = f"process {arm.pid} started at {started}, not at {arm.start_time}: it is another one"
        raise Gone(why)
    # QEMU's option is `-name [guest=]NAME[,...]`; NAME is the identity of the instance.
    names = {part for word in words for part in word.split(b",")}
    if not names & {arm.instance.encode(), b"guest=" + arm.instance.encode()}:
        raise Refused(f"process {arm.pid} is not {arm.instance}: its command line does not name it")


def _start_time(pid: int) -> int:
    # Field 22. The second field is the program's name in parentheses, which may contain anything.
    return int(_read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[19])


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))

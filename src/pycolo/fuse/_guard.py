"""One QEMU under guard: what is done to its process, and when."""

from __future__ import annotations

import os
import select
import signal
from typing import Final

from pycolo.fuse._requests import Arm, FuseState, Gone, Refused

# A fuse that acts so late did not run: what was sent to it meanwhile comes before a kill.
_LATE_S: Final = 0.5


class Guard:
    """One QEMU: its process, and until when it may run without a renewal."""

    def __init__(self, arm: Arm) -> None:
        """Open the process; nothing is done to it.

        Args:
            arm: Which process it is, and the limits.

        Raises:
            Gone: It has ended; its number may mean another one.
            Refused: It is another program, or may not be signalled.
        """
        self.arm = arm
        "What was asked for; its `as_of_s` is that of the latest renewal."
        self.state: FuseState = "armed"
        "Whether the process runs, as far as this guard has to do with it."
        self._stopped_s = 0.0
        self.pidfd: Final = _opened(arm)
        "Readable once the process has ended."

    @property
    def deadline_s(self) -> float:
        """Until when QEMU may run, on CLOCK_BOOTTIME."""
        return self.arm.as_of_s + self.arm.fuse_s

    @property
    def next_s(self) -> float | None:
        """When to act next; None if nothing is left to do."""
        match self.state:
            case "armed":
                return self.deadline_s
            case "stopped":
                return self._stopped_s + self.arm.kill_s
            case "killed":
                return None

    def act(self, now_s: float) -> str | None:
        """Stop or kill QEMU if it is time to.

        It is killed after `kill_s` in which it was stopped and a renewal could have been heard: a
        stop can be taken back.

        Args:
            now_s: The time on CLOCK_BOOTTIME.

        Returns:
            What was done; None for nothing.
        """
        late_s = now_s - self.deadline_s
        if self.next_s is None or now_s < self.next_s:
            return None
        if self.state == "armed":
            self.state, self._stopped_s = "stopped", now_s
            # The signal comes before anything that may have to be loaded.
            return f"{self._sent(signal.SIGSTOP, 'stopped')}, {late_s:.6f} s after its deadline"
        if now_s - self.next_s > _LATE_S:
            self._stopped_s = now_s
            return None
        self.state = "killed"
        return f"{self._sent(signal.SIGKILL, 'killed')}, {late_s:.6f} s after its deadline"

    def renew(self, as_of_s: float, now_s: float) -> bool:
        """Let QEMU run until `fuse_s` after a moment; one that was stopped continues.

        Args:
            as_of_s: The moment, on CLOCK_BOOTTIME.
            now_s: The time.

        Returns:
            Whether anything changed: a renewal that is older than the one before, or by which QEMU
            should have been stopped by now, changes nothing.
        """
        if as_of_s <= self.arm.as_of_s or as_of_s + self.arm.fuse_s <= now_s:
            return False
        if self.state == "killed":
            return False
        self.arm = self.arm._replace(as_of_s=as_of_s)
        return True

    def let_run(self) -> str | None:
        """Continue a QEMU that this guard has stopped; gives what was done, None for nothing."""
        if self.state != "stopped":
            return None
        self.state = "armed"
        return self._sent(signal.SIGCONT, "continues")

    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return _has_ended(self.pidfd)

    def close(self) -> None:
        """Let go of the process."""
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
    """See that a process is the QEMU it is said to be.

    Raises:
        Gone: It has ended; its number may mean another one.
        Refused: It is another program, or that cannot be seen.
    """
    try:
        started = _start_time(arm.pid)
        words = _read(f"/proc/{arm.pid}/cmdline").split(b"\0")
        # Whoever may not signal it could not stop it either.
        signal.pidfd_send_signal(pidfd, 0)
    except OSError as error:
        if _has_ended(pidfd):
            raise Gone(f"process {arm.pid} has ended") from error
        raise Refused(f"process {arm.pid} cannot be guarded: {error.strerror}") from error
    # In this order: as long as the process has not ended, its number means no other one.
    if _has_ended(pidfd):
        raise Gone(f"process {arm.pid} has ended")
    if started != arm.start_time:
        why = f"process {arm.pid} started at {started}, not at {arm.start_time}: it is another one"
        raise Gone(why)
    # QEMU's option is `-name [guest=]NAME[,...]`; launches give the identity of the instance.
    names = {part for word in words for part in word.split(b",")}
    if not names & {arm.instance.encode(), b"guest=" + arm.instance.encode()}:
        raise Refused(f"process {arm.pid} is not {arm.instance}: its command line does not name it")


def _start_time(pid: int) -> int:
    # The second field is the program's name in parentheses, and may hold anything. Field 22.
    return int(_read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[19])


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))

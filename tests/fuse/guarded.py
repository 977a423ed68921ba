"""A fuse process, and processes that it guards, for tests."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

from pycolo.fuse._kernel import Timer, boottime_s

LIMIT_S: Final = 20.0
FIRST, SECOND = "p:alpha:00000001", "p:alpha:00000002"
# Long enough for a busy machine to arm it before it blows, short enough to wait for.
FUSE_S: Final = 0.5
LONG_S: Final = 3600.0
# What it says where it has no right to come before others.
NO_PRECEDENCE: Final = (
    "no real-time priority",
    "it may be killed",
    "its memory is not locked",
)


def _without_rights() -> Sequence[str] | None:
    """A command that takes the rights of root from another one; None where there is none."""
    if os.geteuid():
        return ()
    drop = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    return drop if shutil.which(drop[0]) else None


WITHOUT_RIGHTS: Final = _without_rights()


@final
class Victim:
    """A process that stands for a QEMU: its command line names the instance."""

    def __init__(self, process: subprocess.Popen[bytes], instance: str) -> None:
        self.process = process
        self.pid = process.pid
        self.instance = instance
        self.start_time = start_time(process.pid)

    def wait_stopped(self) -> None:
        """Wait until the kernel has stopped it."""
        found = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert found is not None
        assert (os.CLD_STOPPED, signal.SIGSTOP) == (found.si_code, found.si_status)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def wait_continued(self) -> None:
        """Wait until the kernel has continued it."""
        found = os.waitid(os.P_PID, self.pid, os.WCONTINUED | os.WEXITED | os.WNOWAIT)
        assert found is not None
        assert os.CLD_CONTINUED == found.si_code
        os.waitid(os.P_PID, self.pid, os.WCONTINUED)

    def wait_killed(self) -> None:
        """Wait until SIGKILL has ended it."""
        assert -signal.SIGKILL == self.process.wait(LIMIT_S)

    def was_let_be(self) -> bool:
        """Whether nothing has stopped, continued or ended it since the last wait."""
        events = os.WSTOPPED | os.WCONTINUED | os.WEXITED
        return os.waitid(os.P_PID, self.pid, events | os.WNOHANG | os.WNOWAIT) is None


@contextmanager
def victim(instance: str = FIRST) -> Generator[Victim]:
    """A victim that runs; it is killed at the end."""
    # Its first word is free, and `sleep` starts at once.
    words = (f"guest={instance},debug-threads=on", "1000")
    with subprocess.Popen(words, executable=shutil.which("sleep")) as process:
        try:
            while not Path(f"/proc/{process.pid}/cmdline").read_bytes():
                # The kernel sets it up a moment after the start.
                pass
            yield Victim(process, instance)
        finally:
            process.kill()


@final
class Fuse:
    """The fuse process of a folder; may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        "Its folder."
        self.path = str(folder / "fuse.sock")
        "Its socket."
        self._process: subprocess.Popen[bytes] | None = None
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(folder.parent / "notify"))
        self._manager.settimeout(LIMIT_S)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that runs."""
        assert self._process is not None
        return self._process

    def start(self, *wrapper: str, watchdog_s: float = 0.0) -> None:
        """Start it, and wait until it says that it is ready.

        Args:
            wrapper: A command that it is started by.
            watchdog_s: How often the service manager wants to hear of it.
        """
        environ = {**os.environ, "NOTIFY_SOCKET": str(self.folder.parent / "notify")}
        environ["WATCHDOG_USEC"] = str(round(watchdog_s * 1e6))
        words = (*wrapper, *command(self.folder))
        self._process = subprocess.Popen(words, env=environ, stderr=subprocess.PIPE)
        assert "READY=1" == self.told()

    def told(self) -> str:
        """The next word to the service manager."""
        return self._manager.recv(100).decode()

    def lines(self, last: str) -> list[str]:
        """Its log from where it was read last up to the line with a text."""
        assert self.process.stderr is not None
        found: list[str] = []
        while not found or last not in found[-1]:
            line = self.process.stderr.readline().decode()
            assert line, f"{last!r} is not in its log: {found}"
            found.append(line)
        return found

    def freeze(self) -> None:
        """Stop it by SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Let it run again."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it, as a lack of memory does."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait(LIMIT_S)
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._process = None

    def close(self) -> None:
        """Kill it, and let go of what it has."""
        self.kill()
        self._manager.close()

    def connected(self) -> socket.socket:
        """A new connection to it."""
        way = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        way.settimeout(LIMIT_S)
        way.connect(self.path)
        return way

    def reply(self, data: bytes) -> dict[str, object]:
        """The reply to one message."""
        with contextlib.closing(self.connected()) as way:
            way.send(data)
            return reply(way)

    def ask(self, request: str, **fields: object) -> object:
        """What one request comes to; the refusal's text where it is refused."""
        found = self.reply(message(request, **fields))
        return found.get("ok", found.get("refused"))

    def arm(
        self,
        guarded: Victim,
        *,
        fuse_s: float = FUSE_S,
        kill_s: float = LONG_S,
        as_of_s: float | None = None,
        **other: object,
    ) -> float:
        """Have a victim guarded; gives its deadline."""
        moment = boottime_s() if as_of_s is None else as_of_s
        found = self.ask("arm", **armed(guarded, fuse_s, kill_s, moment), **other)
        assert isinstance(found, dict), found
        return float(found["as_of_s"]) + float(found["fuse_s"])

    def renew(self, guarded: Victim, as_of_s: float) -> object:
        """Renew a victim's fuse."""
        return self.ask("renew", **who(guarded.instance), as_of_s=as_of_s)

    def guarded(self) -> list[tuple[str, str]]:
        """What is guarded: instance and state of each."""
        found = self.ask("list")
        assert isinstance(found, list)
        return [(one["instance"], one["state"]) for one in found]


@contextmanager
def fuse_folder() -> Generator[Path]:
    """A folder that a fuse can use: in memory, and for its user alone."""
    with tempfile.TemporaryDirectory(prefix="fuse-", dir="/dev/shm") as name:
        made = Path(name) / "fuse"
        made.mkdir(mode=0o700)
        yield made


@contextmanager
def running(folder: Path) -> Generator[Fuse]:
    """A fuse that is started by the test; what runs at the end is killed."""
    made = Fuse(folder)
    try:
        yield made
    finally:
        made.close()


def command(folder: Path) -> Sequence[str]:
    """The command line of a fuse."""
    return (sys.executable, "-m", "pycolo.fuse", "--run-dir", str(folder))


def message(request: str, **fields: object) -> bytes:
    """A request as it is sent."""
    return json.dumps({"request": request, **fields}).encode()


def reply(way: socket.socket) -> dict[str, object]:
    """The next reply on a connection."""
    found: dict[str, object] = json.loads(way.recv(1 << 18))
    return found


def who(instance: str) -> dict[str, object]:
    """The fields that name an instance."""
    pair, node, _ = instance.split(":")
    return {"pair": pair, "node": node, "instance": instance}


def armed(guarded: Victim, fuse_s: float, kill_s: float, as_of_s: float) -> dict[str, object]:
    """The fields of a request to arm."""
    process = {"pid": guarded.pid, "start_time": guarded.start_time}
    limits = {"fuse_s": fuse_s, "kill_s": kill_s, "as_of_s": as_of_s}
    return {**who(guarded.instance), **process, **limits}


def start_time(pid: int) -> int:
    """When a process started, in clock ticks after the boot."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def wait_until(at_s: float) -> None:
    """Wait until a moment on CLOCK_BOOTTIME has passed."""
    timer = Timer()
    try:
        timer.set(at_s)
        os.set_blocking(timer.fileno(), True)
        os.read(timer.fileno(), 8)
    finally:
        timer.close()

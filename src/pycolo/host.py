"""Images and QEMU processes on this machine.

A process is known by its pid file, which tells more than a number: when the process started, in
which boot and in which name space of process ids. So a number that was given to another process is
never taken for QEMU, and the end of QEMU can be proven: by its pidfd, which the kernel makes
readable when all of its threads have ended. Nothing is ever looked for by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self, assert_never, final

import attrs

from pycolo.errors import CommandUnknown, DeclarationError, HostRefused, RemoteError
from pycolo.model.node import Monitor, Node, UnixMonitor
from pycolo.model.pair import ColoPair
from pycolo.plan import CreateImage, HostAction, LaunchQemu, StopQemu
from pycolo.session import Session
from pycolo.snapshot import ProcessExit

_CREATE: Final = "create-image"
_LAUNCH: Final = "launch-qemu"
_STOP: Final = "stop-qemu"
_PROC: Final = Path("/proc")
_POLL_S: Final = 0.02
_GREETING_S: Final = 1.0
_KILL_S: Final = 10.0
_TAIL_LINES: Final = 5
_WIDER_THAN_OWNER: Final = 0o077


async def run_action(node: Node, action: HostAction, *, limit_s: float) -> str:
    """Do what a plan's `RunHost` says, on this machine.

    Args:
        node: The node whose host this is.
        action: What to do.
        limit_s: How long it may take, in seconds.

    Returns:
        What there is to say about it; mostly nothing.

    Raises:
        HostRefused: It was not done, and nothing was changed.
        CommandUnknown: It is not known whether it was done.
    """
    try:
        match action:
            case CreateImage():
                return await _create_image(node, action, limit_s)
            case LaunchQemu():
                return await _launch(node, action, limit_s)
            case StopQemu():
                return await _stop(node, limit_s)
            case _:
                assert_never(action)
    except OSError as error:
        raise HostRefused(node.name, _name_of(action), str(error)) from error


def _name_of(action: HostAction) -> str:
    match action:
        case CreateImage():
            return _CREATE
        case LaunchQemu():
            return _LAUNCH
        case StopQemu():
            return _STOP
        case _:
            assert_never(action)


def resolve(pair: ColoPair) -> None:
    """See that the addresses of both nodes mean something here; blocks while it asks.

    Raises:
        DeclarationError: One does not resolve.
    """
    for index, node in enumerate(pair.nodes):
        for field in ("address", "listen_address"):
            value = node.address if field == "address" else node.listen_address
            try:
                socket.getaddrinfo(value, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                rule = "be an address that resolves on this machine"
                raise DeclarationError(f"nodes[{index}].{field}", value, rule) from error


# -- images


async def _create_image(node: Node, action: CreateImage, limit_s: float) -> str:
    try:
        # The name is taken first, and only by us: what exists is never written to.
        os.close(os.open(action.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        await _same_image(node, action, limit_s)
        return "it is there, as declared"
    try:
        code, text = await _output(action.argv, limit_s)
        if code != 0:
            raise HostRefused(node.name, _CREATE, text.strip() or f"it ended with {code}")  # noqa: TRY301
    except BaseException:
        os.unlink(action.path)  # noqa: PTH108 - no Path is needed for it
        raise
    return ""


async def _same_image(node: Node, action: CreateImage, limit_s: float) -> None:
    argv = (node.qemu_img_binary, "info", "--output=json", "-U", action.path)
    code, text = await _output(argv, limit_s)
    found: object = json.loads(text) if code == 0 else None
    if not isinstance(found, dict):
        raise HostRefused(node.name, _CREATE, f"{action.path} exists and is no image: {text}")
    there = (found.get("format"), found.get("virtual-size"))
    wanted = (action.image_format, action.size_bytes)
    if there != wanted:
        why = (
            f"{action.path} exists with format {there[0]} and {there[1]} bytes, declared are"
            f" {wanted[0]} and {wanted[1]}; it is not overwritten"
        )
        raise HostRefused(node.name, _CREATE, why)


async def _output(argv: Sequence[str], limit_s: float) -> tuple[int, str]:
    """Run a program that ends by itself."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - it starts at once and is awaited below
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            with _Pidfd.of(process.pid) as pidfd:
                ended = await pidfd.ended(limit_s, reap=False)
        finally:
            process.kill()
            code = process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    return (code, text) if ended else (code, f"it did not end within {limit_s:g} s")


# -- one process


@final
class _Pidfd:
    """The kernel's own handle of a process: it never means another one."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def of(cls, pid: int) -> Self:
        return cls(os.pidfd_open(pid))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def send(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._fd, number)

    @property
    def has_ended(self) -> bool:
        """Whether all of its threads have ended; a zombie has."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._fd, selectors.EVENT_READ)
            return bool(selector.select(0))

    async def ended(self, limit_s: float | None = None, *, reap: bool = True) -> bool:
        """Wait for its end; false when the limit passes first."""
        loop = asyncio.get_running_loop()
        # A loop watches a descriptor once: with one of its own each waiter is told.
        fd = os.dup(self._fd)
        over = asyncio.Event()
        loop.add_reader(fd, over.set)
        try:
            async with asyncio.timeout(limit_s):
                await over.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        if reap:
            self.reap()
        return True

    def reap(self) -> None:
        """Let the kernel forget it, so that it is no zombie."""
        # Only a child of ours can be; a child of another process is reaped there.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG)


@final
@attrs.frozen(kw_only=True)
class _PidFile:
    """What identifies a process for as long as its file exists."""

    pid: int
    start_time: int
    "In clock ticks after the boot, from /proc."
    boot_id: str
    pid_namespace: str
    machine: str
    instance: str

    @classmethod
    def of(cls, pid: int, instance: str) -> Self:
        started = _start_time(pid)
        return cls(
            pid=pid,
            start_time=-1 if started is None else started,
            boot_id=_boot_id(),
            pid_namespace=_pid_namespace(),
            machine=_machine(),
            instance=instance,
        )

    @classmethod
    def read(cls, node: Node) -> Self | None:
        """What the node's file says; None where there is none that can be read."""
        try:
            value: object = json.loads(_pid_path(node).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(value, dict):
            return None
        names = [field.name for field in attrs.fields(cls)]
        kinds = [int if name in ("pid", "start_time") else str for name in names]
        if any(type(value.get(name)) is not kind for name, kind in zip(names, kinds, strict=True)):
            return None
        return cls(**{name: value[name] for name in names})

    def write(self, node: Node) -> None:
        """Write it whole or not at all."""
        path = _pid_path(node)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(attrs.asdict(self)) + "\n", encoding="utf-8")
        fresh.replace(path)

    def open(self) -> _Pidfd | None:
        """A handle of the process; None where it is provably over or cannot be seen from here."""
        if self.boot_id != _boot_id() or self.pid_namespace != _pid_namespace():
            return None
        try:
            pidfd = _Pidfd.of(self.pid)
        except ProcessLookupError:
            return None
        if _start_time(self.pid) != self.start_time or pidfd.has_ended:
            pidfd.reap()
            pidfd.close()
            return None
        return pidfd

    @property
    def is_over(self) -> bool:
        """Whether the process has ended for certain."""
        if self.boot_id != _boot_id():
            # Another boot of this very machine ended it; of another machine it says nothing.
            return bool(self.machine) and self.machine == _machine()
        if self.pid_namespace != _pid_namespace():
            return False
        pidfd = self.open()
        if pidfd is None:
            return True
        pidfd.close()
        return False


def _pid_path(node: Node) -> Path:
    return Path(node.run_dir) / "qemu.pid"


def _start_time(pid: int) -> int | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses, and may hold anything. Field 22.
    return int(text.rpartition(")")[2].split()[19])


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _pid_namespace() -> str:
    return os.readlink(_PROC / "self/ns/pid")  # noqa: PTH115 - it leads to no path


def _machine() -> str:
    """What tells this machine from others; empty where nothing does."""
    try:
        machine_id = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
    return f"{machine_id} {socket.gethostname()}" if machine_id else ""


# -- its death


@final
class DeathWatch:
    """Holds the handle of a running QEMU: its end can be waited for, and is proof."""

    def __init__(self, pid: int, pidfd: _Pidfd) -> None:
        self.pid: Final = pid
        "Its process id."
        self._pidfd = pidfd

    async def exited(self) -> ProcessExit:
        """Wait until it has ended; may be waited for several times, also at once."""
        await self._pidfd.ended()
        return ProcessExit(pid=self.pid)

    def close(self) -> None:
        """Let go of the process; it keeps running."""
        self._pidfd.close()


def watch(node: Node) -> DeathWatch | None:
    """Take hold of the QEMU that was started for a node on this machine; None if none runs."""
    known = _PidFile.read(node)
    pidfd = None if known is None else known.open()
    return None if known is None or pidfd is None else DeathWatch(known.pid, pidfd)


def death_proof(node: Node) -> ProcessExit | None:
    """Prove that the QEMU started for a node on this machine has ended.

    Proof is its pid file, where that process has ended: its number is free or another process's,
    all of its threads have ended, or this machine has booted since. A monitor that still serves
    speaks against it, whatever the file says.

    Returns:
        The proof; None proves nothing.
    """
    known = _PidFile.read(node)
    if known is None or not known.is_over or _serves(node.control_monitor):
        return None
    return ProcessExit(pid=known.pid)


def _serves(monitor: Monitor) -> bool:
    if isinstance(monitor, UnixMonitor):
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(0)
            try:
                door.connect(monitor.path)
            except BlockingIOError:
                return True
            except OSError:
                return False
            return True
    try:
        socket.create_connection((monitor.host, monitor.port), timeout=1).close()
    except OSError:
        return False
    return True


# -- launching and stopping


async def _launch(node: Node, action: LaunchQemu, limit_s: float) -> str:
    _make_run_dir(node)
    _refuse_second(node)
    log = Path(node.run_dir) / "qemu.stderr"
    before = _size(log)
    pid = _spawn(action.argv, log)
    with _Pidfd.of(pid) as pidfd:
        try:
            _PidFile.of(pid, action.instance).write(node)
            await _await_greeting(node, pidfd, limit_s)
        except BaseException as error:
            # A QEMU that nobody can speak to is of no use, and nobody else knows of it.
            await _end(pidfd)
            _pid_path(node).unlink(missing_ok=True)
            if isinstance(error, _NoGreeting):
                why = f"{error}: {_tail(log, before) or 'it said nothing'}"
                raise HostRefused(node.name, _LAUNCH, why) from error
            raise
    return ""


class _NoGreeting(Exception):
    """QEMU's monitor did not come."""


async def _await_greeting(node: Node, pidfd: _Pidfd, limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            monitor = node.control_monitor
            session = await Session.connect(node.name, monitor, limit_s=_GREETING_S)
        except RemoteError:
            if await pidfd.ended(_POLL_S):
                raise _NoGreeting("QEMU ended") from None
        else:
            await session.aclose()
            return
    raise _NoGreeting(f"no greeting within {limit_s:g} s")


async def _end(pidfd: _Pidfd) -> None:
    if not pidfd.has_ended:
        pidfd.send(signal.SIGKILL)
    await pidfd.ended(_KILL_S)


def _make_run_dir(node: Node) -> None:
    path = Path(node.run_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise HostRefused(node.name, _LAUNCH, f"run_dir {path} is no directory") from None
        if found.st_uid != os.geteuid():
            why = f"run_dir {path} belongs to user {found.st_uid}, not to {os.geteuid()}"
            raise HostRefused(node.name, _LAUNCH, why) from None
        if stat.S_IMODE(found.st_mode) & _WIDER_THAN_OWNER:
            mode = stat.S_IMODE(found.st_mode)
            why = f"run_dir {path} has mode {mode:04o}, it must be 0700"
            raise HostRefused(node.name, _LAUNCH, why) from None


def _refuse_second(node: Node) -> None:
    running = watch(node)
    if running is not None:
        running.close()
        why = f"QEMU runs there already, as process {running.pid}"
        raise HostRefused(node.name, _LAUNCH, why)
    if _serves(node.control_monitor):
        why = "something serves its control monitor already"
        raise HostRefused(node.name, _LAUNCH, why)


def _spawn(argv: Sequence[str], log: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    return os.posix_spawnp(
        argv[0],
        tuple(argv),
        os.environ,
        file_actions=(
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ),
        # Signals to us are not for QEMU, and those that Python ignores are not to be ignored there.
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT),
    )


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _tail(log: Path, offset: int) -> str:
    with log.open("rb") as stream:
        stream.seek(offset)
        lines = stream.read().decode(errors="replace").strip().splitlines()
    return " | ".join(lines[-_TAIL_LINES:])


async def _stop(node: Node, limit_s: float) -> str:
    running = watch(node)
    if running is None:
        if _serves(node.control_monitor):
            why = "something serves its control monitor that was not started here"
            raise HostRefused(node.name, _STOP, why)
        return "it did not run"
    pidfd = running._pidfd  # noqa: SLF001 - same module
    with pidfd:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                pidfd.send(number)
            except ProcessLookupError:
                return ""
            if await pidfd.ended(limit_s / 2):
                return ""
    raise CommandUnknown(node.name, _STOP, f"process {running.pid} did not end in {limit_s:g} s")

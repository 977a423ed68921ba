"""Real QEMUs for tests: found or fetched by the project's own script, ended by their process."""

import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pycolo.demo.builds import RELEASES, QemuBuild, Release, fetch
from pycolo.model import UnixMonitor

__all__ = ["RELEASES", "BareQemu", "bare_qemu", "build_of"]


def build_of(release: Release, *extra: str) -> QemuBuild:
    """Find or fetch a QEMU, perhaps with further packages, or skip the test and say why."""
    try:
        return fetch(release, extra=extra)
    except Exception as error:  # noqa: BLE001 - whatever it is, the test cannot run
        pytest.skip(f"no QEMU {release} here: {error}")


class BareQemu:
    """A QEMU with two monitors and no guest to speak of."""

    def __init__(self, process: "subprocess.Popen[bytes]", run_dir: Path) -> None:
        self.process = process
        self.control = UnixMonitor(path=str(run_dir / "control.qmp"))
        self.observer = UnixMonitor(path=str(run_dir / "observer.qmp"))


@contextmanager
def bare_qemu(release: Release, run_dir: Path, *arguments: str) -> Generator[BareQemu]:
    """Run a stopped QEMU until the context is left.

    Args:
        release: Which QEMU.
        run_dir: Folder for its sockets; short, since the names of sockets are.
        arguments: What to add; a machine without devices is what it has otherwise.
    """
    argv = [str(build_of(release).qemu_system), "-nodefaults", "-display", "none", "-S"]
    argv += list(arguments) or ["-machine", "none"]
    for name in ("control", "observer"):
        argv += ["-qmp", f"unix:{run_dir}/{name}.qmp,server=on,wait=off"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        _await_socket(process, run_dir / "observer.qmp")
        yield BareQemu(process, run_dir)
    finally:
        process.kill()
        process.wait()


def _await_socket(process: "subprocess.Popen[bytes]", path: Path) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        assert process.poll() is None, "QEMU ended before its monitor was there"
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0 and _is_answered(probe):
                return
    raise AssertionError("QEMU's monitor was not there within 20 s")


def _is_answered(probe: socket.socket) -> bool:
    """Whether QEMU answers a command: it listens before its images are open, but answers after."""
    probe.settimeout(20)
    with probe.makefile("rwb") as stream:
        stream.write(b'{"execute":"qmp_capabilities"}\n')
        stream.flush()
        return bool(stream.readline() and stream.readline())

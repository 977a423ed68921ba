"""QEMU builds and guests for the tests of the demo, from the cache that the demo itself uses."""

import subprocess
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from pycolo.demo.builds import RELEASES, FetchError, QemuBuild, Release, fetch
from pycolo.demo.guests import LinuxGuest, linux_guest

StartQemu = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def qemu_builds() -> Mapping[Release, QemuBuild]:
    """Give all releases that can be fetched."""
    try:
        return {release: fetch(release) for release in RELEASES}
    except FetchError as error:
        pytest.skip(f"needs Debian's QEMU builds: {error}")


@pytest.fixture(scope="session")
def linux() -> LinuxGuest:
    """Give the Linux guest."""
    try:
        return linux_guest()
    except FetchError as error:
        pytest.skip(f"needs Debian's kernel and busybox: {error}")


@pytest.fixture
def start_qemu() -> Generator[StartQemu]:
    """Give a function that starts a QEMU whose standard output can be read; end it after."""
    with ExitStack() as stack:

        def start(build: QemuBuild, *arguments: str, accel: str = "tcg") -> "subprocess.Popen[str]":
            machine = ("-nodefaults", "-display", "none", "-accel", accel)
            process = stack.enter_context(_qemu(build.qemu_system, *machine, *arguments))
            stack.callback(process.kill)
            return process

        yield start


def _qemu(program: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(program), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )

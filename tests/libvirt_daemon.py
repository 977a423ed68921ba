"""A libvirt of a test's own: fetched as QEMU builds are, with folders and sockets of its own."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

import pytest

from pycolo.demo._apt import PrivateApt, debian_mirror, require_amd64_and_apt, unpack
from pycolo.demo.builds import complete_folder, default_cache
from pycolo.model import Libvirt

_SUITE: Final = "bookworm"
_FOLDER: Final = f"libvirt-{_SUITE}"
_PACKAGES: Final = (
    "libvirt-daemon",
    "libvirt-daemon-driver-qemu",
    "libvirt-clients",
    "libxml2-utils",
)
_NOT_NEEDED: Final = (
    "./etc",
    "./usr/share/doc",
    "./usr/share/icons",
    "./usr/share/locale",
    "./usr/share/man",
    "./var",
)
_HOOK: Final = Path(__file__).parent.parent / "packaging" / "libvirt-hook"
_LIMIT_S: Final = 60.0
# Nothing is asked of the machine's other daemons, and the log of a domain needs no third one.
_CONFIGURATION: Final = 'stdio_handler = "file"\n'
# libvirt finds tables, helpers and hooks where Debian installs them. Its daemon serves
# a user's session, with the user's own folders, unless it is root; a user name space makes another
# user of it.
_START: Final = """\
for folder in share lib; do
  mount -t overlay overlay -o "lowerdir=$1/over/$folder:/usr/$folder" "/usr/$folder"
done
mount -t overlay overlay -o "lowerdir=$2:/etc" /etc
shift 2
exec unshare --user --map-user=1000 --map-group=1000 "$@"
"""


def libvirt_folder() -> Path:
    """The root folder of libvirt's release, found or fetched; else the test skips and says why."""
    folder = default_cache() / _FOLDER
    try:
        with complete_folder(folder, on_progress=print) as partial:
            if partial is not None:
                _fill(partial)
    except Exception as error:  # noqa: BLE001 - whatever it is, the test cannot run
        pytest.skip(f"no libvirt here: {error}")
    return folder / "root"


def _fill(partial: Path) -> None:
    require_amd64_and_apt()
    scratch = partial / "apt"
    apt = PrivateApt.create(scratch, mirror=debian_mirror(), suites=(_SUITE,), on_progress=print)
    packages = apt.download_closure(_PACKAGES, suite=_SUITE)
    unpack(packages, partial / "root", leave_out=_NOT_NEEDED)
    # Of what libvirt drives, its daemon has QEMU alone.
    drivers = partial / "root/usr/lib/x86_64-linux-gnu/libvirt/connection-driver"
    for driver in drivers.iterdir():
        if driver.name != "libvirt_driver_qemu.so":
            driver.unlink()
    _lay_over(partial)
    shutil.rmtree(scratch)


def _lay_over(partial: Path) -> None:
    """Make what is laid over the machine's folders: nothing in it is the machine's already."""
    share = partial / "root/over/share"
    share.mkdir(parents=True)
    (partial / "root/usr/share/libvirt").rename(share / "libvirt")
    helper = partial / "root/over/lib/libvirt/libvirt_iohelper"
    helper.parent.mkdir(parents=True)
    words = command(default_cache() / _FOLDER / "root", "lib/libvirt/libvirt_iohelper")
    _write_program(helper, words)


def _write_program(path: Path, words: Sequence[str]) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    path.chmod(0o755)


def program(name: str) -> list[str]:
    """The command line that runs one of libvirt's programs with the libraries of its own release.

    Args:
        name: Its path below `/usr`.
    """
    return command(libvirt_folder(), name)


def command(root: Path, name: str) -> list[str]:
    """The command line that runs a program below a root folder of libvirt's release."""
    libraries = [root / "usr/lib/x86_64-linux-gnu", root / "lib/x86_64-linux-gnu"]
    paths = ":".join(map(str, libraries))
    # In bookworm a part of the libraries, their loader among them, still lies in /lib.
    loader = libraries[1] / "ld-linux-x86-64.so.2"
    return [str(loader), "--inhibit-cache", "--library-path", paths, str(root / "usr" / name)]


def schema() -> Path:
    """The schema of a domain, as libvirt has it."""
    return libvirt_folder() / "over/share/libvirt/schemas/domain.rng"


def wait_serving(daemon: subprocess.Popen[bytes], log: Path, serves: Callable[[], bool]) -> None:
    """Wait until a daemon serves, which nothing announces."""
    end_s = time.monotonic() + _LIMIT_S
    while not serves():
        said = log.read_text(errors="replace")[-2000:]
        assert daemon.poll() is None, f"libvirtd ended: {said}"
        assert time.monotonic() < end_s, f"libvirtd does not serve: {said}"
        time.sleep(0.05)  # nothing announces that it serves


@final
class Daemon:
    """A libvirt that serves, and what asks it.

    Args:
        folder: Where all its files lie; short, since the names of sockets are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder
        self.log: Final = folder / "libvirtd.log"
        runtime = folder / "run"
        self.socket: Final = runtime / "libvirt/libvirt-sock"
        self._environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(runtime),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "LIBVIRT_DRIVER_DIR": str(
                libvirt_folder() / "usr/lib/x86_64-linux-gnu/libvirt/connection-driver"
            ),
        }
        runtime.mkdir(0o700)
        self._etc = folder / "etc"
        hooks = self._etc / "libvirt/hooks/qemu.d"
        hooks.mkdir(parents=True)
        shutil.copy(_HOOK, hooks / "pycolo")
        (folder / "config/libvirt").mkdir(parents=True)
        (folder / "config/libvirt/qemu.conf").write_text(_CONFIGURATION, encoding="ascii")
        # Two of them are two hosts to each other: a domain may go from one to the other.
        host = f'host_uuid = "{uuid.uuid4()}"\n'
        (folder / "config/libvirt/libvirtd.conf").write_text(host, encoding="ascii")
        virsh = folder / "virsh"
        _write_program(virsh, program("bin/virsh"))
        self.declared: Final = Libvirt(
            uri=f"qemu+unix:///session?socket={self.socket}", virsh_binary=str(virsh)
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it serves."""
        apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-e", "-c", _START, "sh"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*apart, *map(str, (libvirt_folder(), self._etc)), *program("sbin/libvirtd")],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_serving(self._process, self.log, lambda: self.virsh("list").returncode == 0)

    def kill(self) -> None:
        """End it at once; the QEMUs that it has started keep running."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def virsh(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Ask it by `virsh`."""
        line = [self.declared.virsh_binary, "--quiet", "--connect", self.declared.uri, *words]
        environment = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(
            line, check=False, capture_output=True, text=True, timeout=_LIMIT_S, env=environment
        )

    def domains(self) -> list[str]:
        """The names of the domains that run."""
        done = self.virsh("list", "--name")
        assert 0 == done.returncode, done.stderr
        return sorted(done.stdout.split())


@contextmanager
def libvirt_daemon(folder: Path) -> Generator[Daemon]:
    """A libvirt that serves, until the context is left."""
    daemon = Daemon(folder)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.kill()

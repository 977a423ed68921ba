"""The libvirt of a system, a test's own: root's daemon, which runs QEMU as another user."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

import pytest
from tests.libvirt_daemon import command, libvirt_folder, wait_serving

import pycolo
from pycolo.demo.builds import QemuBuild, default_cache
from pycolo.model import Libvirt

USER: Final = "libvirt-qemu"
"The user as whom Debian's libvirt runs QEMU."
USER_ID: Final = 64055
_LIMIT_S: Final = 60.0
# The daemon keeps its files where Debian has them, in a mount name space of its own. What the user
# needs is bound below the test's folder, for the user may not enter root's. Without control groups
# libvirt makes none, in this machine's stead.
_START: Final = """\
folder=$1 root=$2; shift 2
mount --make-rprivate /
mkdir -p "$folder/run" "$folder/of" "$folder/over"
for name in share lib; do
  mount -t overlay overlay -o "lowerdir=$root/over/$name:/usr/$name" "/usr/$name"
done
mount -t overlay overlay -o "lowerdir=$folder/etc:/etc" /etc
for name in lib cache log; do
  mkdir -p "$folder/over/$name/libvirt" "$folder/of/$name"
  mount -t overlay overlay -o "lowerdir=$folder/over/$name:/var/$name" "/var/$name"
  mount --bind "$folder/of/$name" "/var/$name/libvirt"
done
for name in python cache site source; do
  mkdir -p "$folder/seen/$name"
  mount --bind "$1" "$folder/seen/$name"; shift
done
mount --bind "$folder/run" /run
umount -l /sys/fs/cgroup || true
exec "$@"
"""
# Its own group, since a host that has no group `kvm` runs QEMU on TCG.
_QEMU_CONF: Final = f"""\
stdio_handler = "file"
user = "+{USER_ID}"
group = "+{USER_ID}"
"""
_LIBVIRTD_CONF: Final = """\
auth_unix_rw = "none"
unix_sock_rw_perms = "0777"
"""


@final
class SystemDaemon:
    """A libvirt that serves a system, and what its user does.

    Args:
        folder: Where all its files lie; others than root may enter it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder
        self.log: Final = folder / "libvirtd.log"
        self.home: Final = folder / "home"
        self.socket: Final = folder / "run/libvirt/libvirt-sock"
        folder.chmod(0o755)
        self.home.mkdir()
        os.chown(self.home, USER_ID, USER_ID)
        etc = folder / "etc/libvirt"
        etc.mkdir(parents=True)
        (etc / "qemu.conf").write_text(_QEMU_CONF, encoding="ascii")
        (etc / "libvirtd.conf").write_text(_LIBVIRTD_CONF, encoding="ascii")
        self._add_user()
        self._seen = folder / "seen"
        virsh = folder / "virsh"
        words = command(
            self._seen / "cache" / libvirt_folder().relative_to(default_cache()), "bin/virsh"
        )
        virsh.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
        virsh.chmod(0o755)
        self.declared: Final = Libvirt(
            uri=f"qemu+unix:///system?socket={self.socket}", virsh_binary=str(virsh)
        )
        self._process: subprocess.Popen[bytes] | None = None

    def _add_user(self) -> None:
        for name, line in (
            ("passwd", f"{USER}:x:{USER_ID}:{USER_ID}::/nonexistent:/usr/sbin/nologin\n"),
            ("group", f"{USER}:x:{USER_ID}:\n"),
        ):
            lines = Path("/etc", name).read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [one for one in lines if not one.startswith(f"{USER}:")]
            (self.folder / "etc" / name).write_text("".join([*kept, line]), encoding="utf-8")

    def start(self) -> None:
        """Start it, and wait until it serves."""
        bound = (
            sys.base_prefix,
            default_cache(),
            sysconfig.get_paths()["purelib"],
            Path(pycolo.__file__).parent.parent,
        )
        drivers = libvirt_folder() / "usr/lib/x86_64-linux-gnu/libvirt/connection-driver"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("unshare", "--mount", "sh", "-e", "-c", _START, "sh"),
                    *map(str, (self.folder, libvirt_folder(), *bound)),
                    *command(libvirt_folder(), "sbin/libvirtd"),
                ],
                env={**os.environ, "LIBVIRT_DRIVER_DIR": str(drivers)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_serving(self._process, self.log, self._serves)

    def _serves(self) -> bool:
        return self.socket.exists() and self.virsh("list").returncode == 0

    def kill(self) -> None:
        """End it, and every domain that it runs."""
        if self._process is not None:
            for name in self.virsh("list", "--name").stdout.split():
                self.virsh("destroy", "--domain", name)
            self._process.kill()
            self._process.wait()
            self._process = None

    def build(self, build: QemuBuild) -> QemuBuild:
        """The same QEMU, where the user may execute it."""
        prefix = self._seen / "cache" / build.prefix.relative_to(default_cache())
        return QemuBuild(prefix=prefix, version=build.version)

    def virsh(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Ask it by `virsh`, as its user."""
        return self.run(
            self.declared.virsh_binary, "--quiet", "--connect", self.declared.uri, *words
        )

    def pycolo(self, *words: str, user: int = USER_ID) -> subprocess.CompletedProcess[str]:
        """Run pycolo beside the daemon, as its user or as another."""
        python = self._seen / "python/bin" / f"python3.{sys.version_info.minor}"
        return self.run(str(python), "-m", "pycolo", *words, user=user)

    def run(self, *words: str, user: int = USER_ID) -> subprocess.CompletedProcess[str]:
        """Run a program in the daemon's mount name space."""
        assert self._process is not None
        environment = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C",
            "HOME": str(self.home),
            "LD_LIBRARY_PATH": str(self._seen / "python/lib"),
            "PYTHONPATH": f"{self._seen / 'source'}:{self._seen / 'site'}",
        }
        become = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")
        return subprocess.run(
            ["nsenter", f"--target={self._process.pid}", "--mount", *become, *words],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_LIMIT_S * 4,
            env=environment,
        )


@contextmanager
def system_daemon(folder: Path) -> Generator[SystemDaemon]:
    """A libvirt that serves a system, until the context is left; without root the test skips."""
    if os.geteuid() != 0:
        pytest.skip("only root starts a system's libvirt")
    if any(one.pw_uid == USER_ID and one.pw_name != USER for one in pwd.getpwall()):
        pytest.skip(f"another user has the number {USER_ID}")
    daemon = SystemDaemon(folder)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.kill()

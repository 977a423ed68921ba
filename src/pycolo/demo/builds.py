"""QEMU builds to run pairs on: Debian's packages, unpacked into a private folder.

There are three releases, one for each variant of COLO that pycolo supports (qemu-behaviour 1.1):
7.2 from bookworm, 10.0 from trixie, 11.1 from trixie-backports. Debian updates their micro
versions, so a fetched QEMU is asked for its exact version.

A build is complete or absent: it is made in a folder of another name, which is renamed when it is
complete.
"""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, final

import attrs

from pycolo.demo._apt import (
    FetchError,
    PrivateApt,
    Progress,
    debian_mirror,
    require_amd64_and_apt,
    run_text,
    unpack,
)

__all__ = [
    "CACHE_VARIABLE",
    "RELEASES",
    "FetchError",
    "QemuBuild",
    "Release",
    "complete_folder",
    "default_cache",
    "fetch",
    "is_complete",
]

Release = Literal["7.2", "10.0", "11.1"]
"""A QEMU release that can be fetched."""

RELEASES: Final[tuple[Release, ...]] = ("7.2", "10.0", "11.1")
"""All releases that can be fetched, oldest first."""

CACHE_VARIABLE: Final = "PYCOLO_CACHE"
_STAMP: Final = "complete"
_LOCK_LIMIT_S: Final = 1800.0
_VERSION_LIMIT_S: Final = 30.0
_SUITES: Final[Mapping[Release, tuple[str, ...]]] = {
    "7.2": ("bookworm",),
    "10.0": ("trixie",),
    "11.1": ("trixie", "trixie-backports"),
}
_PACKAGES: Final = ("qemu-system-x86", "qemu-utils")
_NOT_NEEDED: Final = (
    "./etc",
    "./sbin",
    "./usr/sbin",
    "./usr/share/doc",
    "./usr/share/locale",
    "./usr/share/man",
    "./var",
)

# The build runs through its own loader with its own libraries only (qemu-behaviour 1.3). Bookworm
# still has a /lib beside /usr/lib. `exec` keeps the process id, by which QEMU processes are
# tracked.
_WRAPPER_HEAD: Final = """\
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/../root
usr=$root/usr/lib/x86_64-linux-gnu
lib=$root/lib/x86_64-linux-gnu
loader=$usr/ld-linux-x86-64.so.2
[ -e "$loader" ] || loader=$lib/ld-linux-x86-64.so.2
export QEMU_MODULE_DIR="$usr/qemu"
"""
_WRAPPER_EXEC: Final = (
    'exec "$loader" --inhibit-cache --library-path "$usr:$lib:$usr/ceph" '
    '"$root/usr/bin/{program}"{options} "$@"\n'
)
_FIRMWARE_OPTIONS: Final = "".join(
    f' -L "$root/{folder}"'
    for folder in ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
)


@final
@attrs.frozen(kw_only=True)
class QemuBuild:
    """One QEMU, unpacked and complete."""

    prefix: Path
    """The folder it is in; absolute."""
    version: str
    """The version that QEMU reports, such as `11.1.3`."""

    @property
    def qemu_system(self) -> Path:
        """The program to start a guest with; its process id is QEMU's."""
        return self.prefix / "bin/qemu-system-x86_64"

    @property
    def qemu_img(self) -> Path:
        """The program that makes and converts disk images."""
        return self.prefix / "bin/qemu-img"


def default_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder where builds and guests are kept.

    Args:
        environ: Environment variables.

    Returns:
        `$PYCOLO_CACHE`, else `$XDG_CACHE_HOME/pycolo`, else `~/.cache/pycolo`; absolute.
    """
    if given := environ.get(CACHE_VARIABLE):
        return Path(given).absolute()
    if base := environ.get("XDG_CACHE_HOME"):
        return Path(base).absolute() / "pycolo"
    return Path.home() / ".cache/pycolo"


def fetch(
    release: Release,
    cache: Path | None = None,
    mirror: str | None = None,
    *,
    extra: Sequence[str] = (),
    on_progress: Progress = lambda _: None,
) -> QemuBuild:
    """Return an unpacked QEMU build; fetch and unpack it if the cache does not have it.

    The call blocks: some milliseconds if the cache has the build, else a few seconds for about 40
    MB. Several processes may call it at once: one fetches, and the others wait for it.

    Args:
        release: Which release.
        cache: Folder that keeps builds; `default_cache()` when None.
        mirror: URI of a Debian archive; when None, `PYCOLO_DEBIAN_MIRROR` or this machine's own apt
            sources.
        extra: Further packages of the same version, such as `qemu-block-extra`; a build with them
            has a folder of its own.
        on_progress: Called with what is being done.

    Returns:
        The build, with the version it reports.

    Raises:
        FetchError: The machine is not amd64 or has no apt, no Debian archive or keyring is known, a
            download failed, or the archive now has another release under that suite. The cache
            holds no part of the build then.
    """
    prefix = (cache or default_cache()).absolute() / "-".join((f"qemu-{release}", *extra))
    with complete_folder(prefix, on_progress=on_progress) as partial:
        if partial is not None:
            _fill(partial, release, mirror, (*_PACKAGES, *extra), on_progress)
    return QemuBuild(prefix=prefix, version=_reported_version(prefix))


@contextmanager
def complete_folder(folder: Path, *, on_progress: Progress) -> Generator[Path | None]:
    """Give the block an empty folder to fill, and rename it to `folder` if the block succeeds.

    A folder counts as complete when it has a stamp file. The stamp is written after everything
    else, and the folder is renamed after that.

    Args:
        folder: The path of the complete folder; absolute.
        on_progress: Called if this process has to wait for another one that fills the folder.

    Yields:
        The folder to fill, or None if `folder` is complete already.

    Raises:
        FetchError: Another process kept the lock longer than half an hour.
    """
    if is_complete(folder):
        yield None
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock"), on_progress):
        if is_complete(folder):  # by the process we waited for
            yield None
            return
        # We hold the lock, so an unfinished folder here was left by a process that was killed.
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            (partial / _STAMP).touch()
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def is_complete(folder: Path) -> bool:
    """Whether a folder was filled to the end.

    Args:
        folder: A path that was given to `complete_folder`; it may be missing.
    """
    return (folder / _STAMP).is_file()


def _fill(
    partial: Path,
    release: Release,
    mirror: str | None,
    packages: Sequence[str],
    on_progress: Progress,
) -> None:
    require_amd64_and_apt()
    scratch = partial / "apt"
    suites = _SUITES[release]
    apt = PrivateApt.create(
        scratch, mirror=mirror or debian_mirror(), suites=suites, on_progress=on_progress
    )
    package_files = apt.download_closure(packages, suite=suites[-1])
    on_progress(f"unpacking {len(package_files)} packages")
    unpack(package_files, partial / "root", leave_out=_NOT_NEEDED)
    shutil.rmtree(scratch)
    _write_wrappers(partial)
    version = _reported_version(partial)
    if not version.startswith(f"{release}."):
        raise FetchError(
            f"release {release}: the archive's suite {suites[-1]} now has QEMU {version}"
        )
    on_progress(f"QEMU {version} is ready")


def _write_wrappers(prefix: Path) -> None:
    (prefix / "bin").mkdir()
    for program, options in (("qemu-system-x86_64", _FIRMWARE_OPTIONS), ("qemu-img", "")):
        wrapper = prefix / "bin" / program
        wrapper.write_text(_WRAPPER_HEAD + _WRAPPER_EXEC.format(program=program, options=options))
        wrapper.chmod(0o755)


def _reported_version(prefix: Path) -> str:
    text = run_text([str(prefix / "bin/qemu-system-x86_64"), "--version"], limit_s=_VERSION_LIMIT_S)
    found = re.match(r"QEMU emulator version (\d+\.\d+\.\d+)", text)
    if found is None:
        raise FetchError(
            f"{prefix}: `qemu-system-x86_64 --version` must name a version, not {text[:200]!r}"
        )
    return found[1]


@contextmanager
def _locked(path: Path, on_progress: Progress) -> Generator[None]:
    deadline_s = time.monotonic() + _LOCK_LIMIT_S
    told = False
    with path.open("w") as file:
        while not _try_lock(file.fileno()):
            if not told:
                on_progress(f"waiting for another process that holds {path}")
                told = True
            if time.monotonic() > deadline_s:
                raise FetchError(
                    f"lock {path}: held by another process for more than {_LOCK_LIMIT_S:g} s"
                )
            time.sleep(0.2)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""Programs of Debian packages for tests: fetched as the QEMU builds are, beside the system."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import pytest

from pycolo.demo._apt import PrivateApt, debian_mirror, require_amd64_and_apt, unpack
from pycolo.demo.builds import complete_folder, default_cache

_SUITE: Final = "trixie"
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
_NOT_NEEDED: Final = ("./etc", "./usr/share/doc", "./usr/share/locale", "./usr/share/man", "./var")


def program(name: str, package: str, *others: str) -> list[str]:
    """The command line that runs a program with the library of C of its own release.

    A test that cannot have it is skipped, and says why.

    Args:
        name: The program's name, in `/usr/bin`.
        package: Names the folder in which the packages are kept.
        others: Packages that are kept there as well.
    """
    # Of what they depend on, they need no more than the library of C to run.
    root = _root(package, lambda apt: apt.download_alone((package, *others, "libc6")))
    return [*loader(root), str(root / "usr/bin" / name)]


def closure(package: str, *others: str) -> Path:
    """The folder in which packages are unpacked with all that they depend on.

    A test that cannot have it is skipped, and says why.

    Args:
        package: Names the folder in which the packages are kept.
        others: Packages that are kept there as well.
    """
    return _root(package, lambda apt: apt.download_closure((package, *others), suite=_SUITE))


def loader(root: Path) -> list[str]:
    """What to put before a program of such a folder, so that it uses the libraries there."""
    libraries = root / _LIBRARIES
    return [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]


def _root(package: str, download: Callable[[PrivateApt], Iterable[Path]]) -> Path:
    folder = default_cache() / f"{package}-{_SUITE}"
    try:
        with complete_folder(folder, on_progress=print) as partial:
            if partial is not None:
                _fill(partial, download)
    except Exception as error:  # noqa: BLE001 - whatever it is, the test cannot run
        pytest.skip(f"no {package} here: {error}")
    return folder / "root"


def _fill(partial: Path, download: Callable[[PrivateApt], Iterable[Path]]) -> None:
    require_amd64_and_apt()
    scratch = partial / "apt"
    apt = PrivateApt.create(scratch, mirror=debian_mirror(), suites=(_SUITE,), on_progress=print)
    unpack(download(apt), partial / "root", leave_out=_NOT_NEEDED)
    shutil.rmtree(scratch)

"""Programs of Debian packages for tests: fetched as the QEMU builds are, beside the system."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from pycolo.demo._apt import PrivateApt, debian_mirror, require_amd64_and_apt, unpack
from pycolo.demo.builds import complete_folder, default_cache

_SUITE: Final = "trixie"
_LIBRARIES: Final = "root/usr/lib/x86_64-linux-gnu"


def program(name: str, package: str, *others: str) -> list[str]:
    """The command line that runs a program with the library of C of its own release.

    A test that cannot have it is skipped, and says why.

    Args:
        name: The program's name, in `/usr/bin`.
        package: Names the folder in which the packages are kept.
        others: Packages that are kept there as well.
    """
    folder = default_cache() / f"{package}-{_SUITE}"
    try:
        with complete_folder(folder, on_progress=print) as partial:
            if partial is not None:
                _fill(partial, (package, *others, "libc6"))
    except Exception as error:  # noqa: BLE001 - whatever it is, the test cannot run
        pytest.skip(f"no {package} here: {error}")
    libraries = folder / _LIBRARIES
    loader = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
    return [*loader, str(folder / "root/usr/bin" / name)]


def _fill(partial: Path, packages: Sequence[str]) -> None:
    require_amd64_and_apt()
    scratch = partial / "apt"
    apt = PrivateApt.create(scratch, mirror=debian_mirror(), suites=(_SUITE,), on_progress=print)
    # Of what they depend on, they need no more than the library of C to run.
    unpack(apt.download_alone(packages), partial / "root", leave_out=("./usr/share",))
    shutil.rmtree(scratch)

"""The fuse as a process and as a service."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tests.fuse.guarded import LIMIT_S, NO_PRECEDENCE, WITHOUT_RIGHTS, Fuse, command

UNIT = Path(__file__).parents[2] / "packaging" / "pycolo-fuse.service"
# What it takes when it is loaded for more than it needs.
HEAVY = ("asyncio", "attr", "attrs", "dataclasses", "inspect", "pathlib", "qemu", "subprocess")


def _refusal(folder: Path) -> str:
    ended = subprocess.run(
        command(folder), capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert (1, "") == (ended.returncode, ended.stdout)
    return ended.stderr


def _field(fuse: Fuse, file: str, name: str) -> str:
    lines = Path(f"/proc/{fuse.process.pid}/{file}").read_text().splitlines()
    return next(line for line in lines if line.startswith(name)).split()[1]


# -- its folder ----------------------------------------------------------------------------------


def test_folder_that_others_may_enter_is_refused(folder: Path) -> None:
    """What lies in it is accepted, and who reaches the socket is served."""
    folder.chmod(0o750)
    assert f"pycolo-fuse: {folder} must have mode 0700, not 0750\n" == _refusal(folder)


def test_folder_on_a_disk_is_refused() -> None:
    """A disk that gives no answer would keep the fuse from acting."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        assert f"pycolo-fuse: {name} must be on a tmpfs, as /run is, not on " in _refusal(
            Path(name)
        )


def test_folder_that_cannot_be_made_is_refused(folder: Path) -> None:
    """With the error of the system."""
    assert "No such file or directory" in _refusal(folder / "none" / "here")
    (folder / "file").touch(mode=0o700)
    assert f"{folder}/file must be a folder" in _refusal(folder / "file")


def test_second_fuse_is_refused(fuse: Fuse) -> None:
    """Two would act on the same QEMUs; the first one stays reachable."""
    assert f"pycolo-fuse: another fuse process holds {fuse.folder}\n" == _refusal(fuse.folder)
    assert [] == fuse.guarded()


# -- precedence ----------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to lock memory and to be scheduled")
def test_fuse_comes_before_others(fuse: Fuse) -> None:
    """It has a real-time priority, and all of its memory is locked."""
    assert os.SCHED_FIFO == os.sched_getscheduler(fuse.process.pid)
    assert _field(fuse, "status", "VmLck") != "0"


def test_deadline_counts_suspended_time(fuse: Fuse) -> None:
    """Its one timer is on the clock that continues while the machine is suspended."""
    folder = Path(f"/proc/{fuse.process.pid}/fdinfo")
    clocks = re.findall(r"clockid: (\d+)", "".join(path.read_text() for path in folder.iterdir()))
    assert [str(time.CLOCK_BOOTTIME)] == clocks


@pytest.mark.skipif(WITHOUT_RIGHTS is None, reason="no setpriv here")
def test_fuse_without_rights_says_so_and_works(stopped_fuse: Fuse) -> None:
    """It names what it lacks, and what may come of that."""
    assert WITHOUT_RIGHTS is not None
    stopped_fuse.start(*WITHOUT_RIGHTS)
    log = stopped_fuse.lines(NO_PRECEDENCE[-1])
    assert [True] * 3 == [found in line for found, line in zip(NO_PRECEDENCE, log, strict=True)]
    assert [] == stopped_fuse.guarded()


def test_fuse_is_small() -> None:
    """It loads no module that it can do without."""
    code = f"import sys, pycolo.fuse.__main__; print([m for m in {HEAVY} if m in sys.modules])"
    words = (sys.executable, "-S", "-c", code)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    found = subprocess.run(words, env=environ, capture_output=True, text=True, check=True)
    assert "[]\n" == found.stdout


# -- systemd -------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    """No key is unknown, and no value is refused, once pycolo is installed."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/pycolo/bin/pycolo-fuse", sys.executable))
    verify = ("systemd-analyze", "verify", "--man=no", str(unit))
    found = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (0, "") == (found.returncode, found.stderr)


def test_watchdog_hears_of_the_fuse_that_runs(stopped_fuse: Fuse) -> None:
    """Again and again, and no more from one that is frozen."""
    stopped_fuse.start(watchdog_s=0.02)
    assert ["WATCHDOG=1"] * 5 == [stopped_fuse.told() for _ in range(5)]

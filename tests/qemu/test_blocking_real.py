"""The runner with a real QEMU: from a synchronous program, and under eventlet."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.real_qemu import bare_qemu

from pycolo._probe import read
from pycolo.blocking import Runner
from pycolo.session import Session
from pycolo.snapshot import Live

pytestmark = pytest.mark.qemu
LIMIT_S = 20.0

_EVENTLET = """
import warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
import sys
from pycolo.blocking import Runner
from pycolo.model import UnixMonitor
from pycolo._probe import read
from pycolo.session import Session

async def probed():
    monitor = UnixMonitor(path=sys.argv[1])
    async with await Session.connect("alpha", monitor, limit_s=20) as session:
        return await read(session)

with Runner() as runner:
    print(*(runner.run(probed(), 60).run_state for _ in range(3)))
"""


def test_session_outlives_a_call(tmp_path: Path) -> None:
    """A session belongs to the runner's loop, and is used by one call after the other."""
    with bare_qemu("11.1", tmp_path) as qemu, Runner() as runner:
        opened = Session.connect("alpha", qemu.control, limit_s=LIMIT_S)
        session = runner.run(opened, LIMIT_S)
        assert isinstance(runner.run(read(session), LIMIT_S), Live)
        runner.run(session.aclose(), LIMIT_S)


def test_under_eventlet(tmp_path: Path) -> None:
    """With everything patched, a session and a probe work as they do without."""
    pytest.importorskip("eventlet")
    with bare_qemu("11.1", tmp_path) as qemu:
        argv = [sys.executable, "-c", _EVENTLET, qemu.control.path]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=50, check=False)
    assert "prelaunch prelaunch prelaunch" == done.stdout.strip(), done.stderr

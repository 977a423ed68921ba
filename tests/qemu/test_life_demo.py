"""The demo as a whole: a real guest outlives the QEMUs it runs on."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from subprocess import PIPE

import pytest

from pycolo.demo import network, testbed
from pycolo.demo.builds import FetchError
from pycolo.demo.life import LifeOptions, run
from pycolo.demo.listener import KEPT
from pycolo.demo.report import Fault, LifeReport
from pycolo.demo.testbed import fetched

pytestmark = [pytest.mark.qemu, pytest.mark.heavy, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    """Have QEMU and the guest on this machine, or skip."""
    try:
        fetched(None, print)
    except FetchError as error:
        pytest.skip(f"needs QEMU and the Linux guest: {error}")


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A folder that demos make theirs in, with a name as short as those of sockets need."""
    with tempfile.TemporaryDirectory(prefix="pc-", dir="/var/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setattr(testbed, "STATE_ROOT", folder)
        yield Path(folder)


def ends_of_logs(report: LifeReport) -> str:
    """What the guests and QEMUs wrote last, where a life did not go well."""
    logs = sorted(Path(report.logs).iterdir()) if report.logs is not None else []
    return "\n".join(f"-- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and ip"
)
def test_a_guest_outlives_both_of_its_hosts(scratch: Path) -> None:
    """QEMUs and the cable fail, with nobody at the keyboard: nothing ends, and none is lost."""
    faults: tuple[Fault, ...] = ("kill primary", "cut cable", "kill primary", "stop primary")
    report = run(LifeOptions(faults=faults, protected_s=3.0), print)
    assert None is report.error
    assert report.ok, ends_of_logs(report)
    assert report.isolated
    primary = "alpha"
    for failover in report.failovers:
        # After a cut either node may continue: the primary does not if it waits in a checkpoint.
        assert failover.fault == "cut cable" or failover.survivor != primary
        primary = failover.survivor
    assert [len(KEPT)] * 4 == [failover.survived for failover in report.failovers]
    assert 0 == report.lost_writes
    assert report.acknowledged > 50
    assert [] == network.leftovers()
    assert [] == list(scratch.iterdir())


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and ip"
)
@pytest.mark.parametrize(
    "card",
    [
        pytest.param("e1000e", marks=pytest.mark.nightly),
        pytest.param("igb", marks=pytest.mark.nightly),
        pytest.param("vmxnet3", marks=pytest.mark.nightly),
        pytest.param("virtio-net-pci", marks=pytest.mark.nightly),
        pytest.param("e1000", marks=pytest.mark.nightly),
    ],
)
def test_cards_with_virtio_headers_lose_nothing(scratch: Path, card: str) -> None:
    """Compare reads what such a card sends: connections live on, and no write is lost."""
    delay_ms = 2000
    options = LifeOptions(
        faults=("kill primary",), protected_s=6.0, card=card, checkpoint_delay_ms=delay_ms
    )
    report = run(options, print)
    assert None is report.error
    assert report.ok, ends_of_logs(report)
    assert [len(KEPT)] == [failover.survived for failover in report.failovers]
    assert 0 == report.lost_writes
    # Where nothing is compared none of the guest's replies asks for a checkpoint: only the delay.
    by_delay = [failover.protected_s * 1000 / delay_ms for failover in report.failovers]
    made = [failover.checkpoints for failover in report.failovers]
    assert all(some > 2 * few for some, few in zip(made, by_delay, strict=True)), (made, by_delay)
    assert [] == list(scratch.iterdir())


@pytest.mark.nightly
def test_without_namespaces_the_same_life_is_run(scratch: Path) -> None:
    """Where there is no root the guest continues, its connections do not, and nothing is cut."""
    options = LifeOptions(
        faults=("kill secondary", "cut cable", "kill primary"), protected_s=3.0, may_isolate=False
    )
    report = run(options, print)
    assert None is report.error
    assert report.ok, ends_of_logs(report)
    assert not report.isolated
    assert ["alpha", "beta"] == [failover.survivor for failover in report.failovers]
    assert [len(KEPT), 0] == [failover.survived for failover in report.failovers]
    assert report.not_shown
    assert [] == list(scratch.iterdir())


def test_a_life_that_ends_early_is_reported_with_its_logs(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the guest does not come up in time the report says so, and the logs are kept."""
    monkeypatch.setattr("pycolo.demo.life._BOOT_S", 0.0)
    report = run(LifeOptions(faults=()), print)
    assert not report.ok
    assert report.error is not None
    assert "the guest on alpha was not up" in report.error
    assert report.logs is not None
    assert [report.logs] == [str(path) for path in scratch.iterdir()]
    kept = {path.name for path in Path(report.logs).iterdir()}
    assert {"alpha-run-qemu.stderr", "alpha-run-serial.log"} == kept


LIVE = """
import sys
from pycolo.demo import testbed
testbed.STATE_ROOT = sys.argv[1]
from pycolo.demo.life import LifeOptions, run
run(LifeOptions(), lambda text: print(text, flush=True))
"""


def test_a_demo_that_is_told_to_end_leaves_nothing(scratch: Path) -> None:
    """In the midst of protection both QEMUs, the client and all that was made are cleared up."""
    environ = {**os.environ, "TMPDIR": str(scratch)}
    argv = (sys.executable, "-c", LIVE, str(scratch))
    with subprocess.Popen(argv, stdout=PIPE, stderr=PIPE, text=True, env=environ) as demo:
        assert demo.stdout is not None
        assert any("protected: alpha with beta" in line for line in demo.stdout)
        files = scratch.glob("*/*/*.process.json")
        pids = [json.loads(file.read_text())["current"]["pid"] for file in files]
        demo.terminate()
        _, messages = demo.communicate()
    assert "KeyboardInterrupt" in messages
    assert 2 == len(pids)
    assert [] == [pid for pid in pids if Path("/proc", str(pid)).exists()]
    assert [] == list(scratch.iterdir())
    assert [] == list(Path("/run/netns").glob(f"pycolo-{demo.pid}-*"))

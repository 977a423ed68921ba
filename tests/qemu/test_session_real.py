"""The session with real QEMUs, one of each kind that pycolo supports."""

import asyncio
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.real_qemu import RELEASES, BareQemu, bare_qemu

from pycolo import errors
from pycolo.demo.builds import Release
from pycolo.model import UnixMonitor
from pycolo.qmp import commands as qmp
from pycolo.qmp.objects import YankMigration
from pycolo.session import Session

pytestmark = pytest.mark.qemu
LIMIT_S = 10.0


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> Release:
    """Each supported kind of QEMU."""
    chosen: Release = request.param
    return chosen


@pytest.fixture
def qemu(release: Release, tmp_path: Path) -> Generator[BareQemu]:
    """A QEMU without a machine."""
    with bare_qemu(release, tmp_path) as running:
        yield running


async def _open(monitor: UnixMonitor, limit_s: float = LIMIT_S) -> Session:
    return await Session.connect("alpha", monitor, limit_s=limit_s)


async def test_version_and_typed_reply(qemu: BareQemu, release: Release) -> None:
    """A real greeting gives the version, a real reply its value."""
    async with await _open(qemu.control) as session:
        status = await session.execute(qmp.QueryStatus(), limit_s=LIMIT_S)
        version = session.version
    assert (release, "prelaunch") == (f"{version.major}.{version.minor}", status.status)


async def test_second_client_is_busy_and_then_served(qemu: BareQemu) -> None:
    """QEMU leaves a second client without greeting, and serves it when the first has gone."""
    async with await _open(qemu.control):
        with pytest.raises(errors.Busy):
            await _open(qemu.control, 0.2)
    async with await _open(qemu.control) as session:
        assert not session.closed


async def test_many_waiting_clients_are_busy_too(qemu: BareQemu) -> None:
    """However long the line before the monitor is, the answer is Busy, and it passes."""
    async with await _open(qemu.control):
        tried = [_open(qemu.control, 0.3) for _ in range(8)]
        found = await asyncio.gather(*tried, return_exceptions=True)
    assert {errors.Busy} == {type(one) for one in found}
    async with await _open(qemu.control) as session:
        assert not session.closed


async def test_yank_of_nothing_is_device_not_found_out_of_band(qemu: BareQemu) -> None:
    """An out-of-band yank is answered, with the class that failover plans accept."""
    async with await _open(qemu.control) as session:
        yank = qmp.Yank(instances=(YankMigration(),))
        with pytest.raises(errors.CommandRefused) as caught:
            await session.execute(yank, limit_s=LIMIT_S, oob=True)
    assert "DeviceNotFound" == caught.value.error_class


async def test_killed_qemu_hangs_up(qemu: BareQemu) -> None:
    """The end of QEMU closes the session and wakes who waits for a change."""
    async with await _open(qemu.control) as session:
        qemu.process.kill()
        await session.wait_change(LIMIT_S)
        assert session.closed
        with pytest.raises(errors.ConnectionFailed):
            await session.execute(qmp.Stop(), limit_s=LIMIT_S)


async def test_stopped_process_is_silent(qemu: BareQemu) -> None:
    """A QEMU that is silent leaves a command unknown, and answers it when it continues."""
    async with await _open(qemu.control) as session:
        qemu.process.send_signal(19)
        sent = session.send(qmp.QueryStatus())
        with pytest.raises(errors.CommandUnknown):
            await sent.reply(0.2)
        qemu.process.send_signal(18)
        assert "prelaunch" == (await sent.reply(LIMIT_S)).status


async def test_quit_ends_the_session(qemu: BareQemu) -> None:
    """`quit` is answered before QEMU hangs up."""
    async with await _open(qemu.control) as session:
        await session.execute(qmp.Quit(), limit_s=LIMIT_S)
        while not session.closed:
            await session.wait_change(LIMIT_S)
    assert 0 == qemu.process.wait(LIMIT_S)

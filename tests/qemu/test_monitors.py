"""Monitors on TCP: what QEMU takes as their address, release by release."""

from __future__ import annotations

import socket
import subprocess

import attrs
import pytest
from tests.qemu.life import LIMIT_S, bios_life
from tests.real_qemu import RELEASES, build_of

from pycolo.demo.builds import Release
from pycolo.model import ColoPair, TcpMonitor
from pycolo.qmp import commands as qmp

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(120)]
LOOPBACK = "::1"


@pytest.fixture
def ports() -> tuple[int, int]:
    """Two ports of the loopback address of IPv6 on which nobody listens now."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with socket.socket(socket.AF_INET6) as one, socket.socket(socket.AF_INET6) as two:
        for sock in (one, two):
            sock.bind((LOOPBACK, 0))
        return one.getsockname()[1], two.getsockname()[1]


@pytest.mark.parametrize("release", RELEASES)
async def test_monitors_are_served_on_ipv6(release: Release, ports: tuple[int, int]) -> None:
    """A QEMU that a plan launches serves both at `::1`, and neither is taken for a part of COLO."""

    def shape(pair: ColoPair) -> ColoPair:
        control, observer = (TcpMonitor(host=LOOPBACK, port=port) for port in ports)
        first, second = pair.nodes
        return attrs.evolve(
            pair, nodes=(attrs.evolve(first, control=control, observer=observer), second)
        )

    async with bios_life(release, "tcg", shape=shape) as life:
        await life.launch("alpha")
        reply = await life.sessions["alpha"].execute(qmp.QueryChardev(), limit_s=LIMIT_S)
        labels = {item.label for item in reply}
        assert {"charmonitor0", "charmonitor1"} <= labels
        assert set() == {name for name in (await life.live("alpha")).chardevs if "mon" in name}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("host", [LOOPBACK, f"[{LOOPBACK}]"])
def test_the_short_form_takes_no_ipv6(release: Release, host: str) -> None:
    """QEMU cuts the host at its first colon, and ends."""
    argv = [str(build_of(release).qemu_system), "-machine", "none", "-display", "none"]
    monitor = f"tcp:{host}:4444,server=on,wait=off"
    done = subprocess.run(
        [*argv, "-qmp", monitor], check=False, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert 1 == done.returncode
    assert "address resolution failed" in done.stderr

"""Networks that let a pair's connections through in part, or swallow what is sent.

Each host is a namespace of this kernel; a firewall that drops is a rule that loses the answers.
"""

from __future__ import annotations

import time

import attrs
import pytest
from tests.qemu.aftermath import differences, renew
from tests.qemu.life import NEEDS_KVM, LivePair, accelerator_of, bios_life, off_plan
from tests.qemu.namespaces import in_namespaces, let_through, swallow
from tests.watching import Watching

from pycolo._execute import execute
from pycolo.demo.builds import Release
from pycolo.demo.network import Network
from pycolo.model import ColoPair

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(180)]
STALL_S = 2.0


def _port(pair: ColoPair, what: str) -> int:
    match what:
        case "migration":
            return pair.ports.migration
        case "nbd":
            return pair.ports.nbd
        case _:
            return pair.chains[0].proxy_ports.mirror


async def _alone(life: LivePair) -> None:
    """A guest that runs on alpha, and a secondary that nobody spoke to."""
    await life.launch("alpha", "beta")
    await life.cont("alpha")
    await life.keeps_running("alpha")


@pytest.mark.parametrize(
    ("release", "host", "what"),
    [
        pytest.param("7.2", "beta", "migration", marks=NEEDS_KVM),
        pytest.param("10.0", "beta", "migration", marks=[NEEDS_KVM, pytest.mark.nightly]),
        pytest.param("11.1", "beta", "nbd"),
        pytest.param("11.1", "alpha", "mirror"),
    ],
)
async def test_a_blocked_port_is_told_before_anything_changes(
    network: Network, release: Release, host: str, what: str
) -> None:
    """The guest counts on, both QEMUs and both records are as they were; let through, it starts."""
    async with bios_life(release, accelerator_of(release), shape=in_namespaces(network)) as life:
        await _alone(life)
        port = _port(life.pair, what)
        swallow(network, host, port)
        before = {name: await life.live(name) for name in ("alpha", "beta")}
        records = (await life.probe()).records
        asking = {"alpha": "beta", "beta": "alpha"}[host]
        report = await execute(await life.compile("start"), life.sessions, life.hosts)
        assert f"{asking}/check-ports/{host}" == report.failed
        assert f"TCP port {port}: no answer within 2 s" in report.advice
        assert "nothing was changed" in report.advice
        assert 1 == report.exit_code
        assert records == (await life.probe()).records
        for name, clean in before.items():
            assert {} == differences(await life.live(name), clean)
        await life.keeps_running("alpha")
        let_through(network, host, port)
        plan = await life.run("start")
        assert {} == off_plan(plan.planned_state, await life.probe())
        await life.keeps_running("alpha", "beta")


def _hasty(pair: ColoPair) -> ColoPair:
    """A pair that notices a stall within a test; its other limits never pass."""
    return attrs.evolve(pair, timeouts=attrs.evolve(pair.timeouts, stall_s=STALL_S))


@pytest.mark.parametrize(
    ("release", "step", "what"),
    [
        pytest.param("7.2", "migrate", "migration", marks=[NEEDS_KVM, pytest.mark.nightly]),
        pytest.param("10.0", "migrate", "migration", marks=[NEEDS_KVM, pytest.mark.nightly]),
        pytest.param("11.1", "migrate", "migration"),
        pytest.param("11.1", "blockdev-mirror", "nbd"),
    ],
)
async def test_a_black_hole_on_the_way_is_a_stall(
    network: Network, release: Release, step: str, what: str
) -> None:
    """A copy that no byte arrives of ends within its stall limit; the guest runs alone."""
    move = in_namespaces(network)
    async with bios_life(release, accelerator_of(release), shape=lambda p: _hasty(move(p))) as life:
        await _alone(life)
        port = _port(life.pair, what)
        plan = await life.compile("start")
        (at,) = [s.address for s in plan.steps if s.address.startswith(f"alpha/{step}")][:1]
        hole = Watching(lambda address: swallow(network, "beta", port) if address == at else None)
        started = time.monotonic()
        report = await execute(plan, life.sessions, life.hosts, observer=hole)
        took_s = time.monotonic() - started
        assert report.failed is not None
        assert f"no byte has arrived for {STALL_S:g} s" in report.advice
        assert took_s < life.pair.timeouts.migration_s / 10
        await life.keeps_running("alpha")
        let_through(network, "beta", port)
        undone = await life.run("stop")
        broken = off_plan(undone.planned_state, await life.probe()).get("alpha", {})
        # QEMU tells how the entry that was under way has ended.
        assert set() == set(broken) - {"migration", "last_colo_mode"}
        await renew(life, "beta")
        await life.run("resume")
        await life.keeps_running("alpha", "beta")

"""A supervisor that reaches both hosts over ssh: QEMUs, cables, hosts and fences fail."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Generator
from typing import Final

import pytest
from tests.hosts.supervised import LIMIT_S, Fence, Kept, supervised
from tests.hosts.testbed import Testbed, separate_hosts, why_none
from tests.real_qemu import build_of

pytestmark = [pytest.mark.qemu, pytest.mark.heavy, pytest.mark.timeout(240)]
_LOG: Final = logging.getLogger(__name__)


@pytest.fixture
def hosts() -> Generator[Testbed]:
    """Two hosts of their own for each pair."""
    why = why_none()
    if why is not None:
        pytest.skip(why)
    with separate_hosts(build_of("11.1").prefix.parent, ("alpha", "beta")) as made:
        yield made


async def _continues(kept: Kept, survivor: str, since: int, at_s: float, what: str) -> int:
    """See a node continue alone, and note how long that took after a fault."""
    count = await kept.until("failover is done", since=since)
    _LOG.info("%s: %.3f s", what, kept.told[count - 1].at_s - at_s)
    await kept.keeps_running(survivor)
    return count


async def _fails_over(kept: Kept, victim: str, number: signal.Signals) -> None:
    """Hit a QEMU; see the other one continue, a new one take its place, and nobody asked."""
    survivor = "alpha" if victim == "beta" else "beta"
    count, first = len(kept.told), kept.qemu(victim)
    at_s = kept.hit(victim, number)
    await _continues(kept, survivor, count, at_s, f"{number.name} {victim}")
    await kept.protected(count)
    assert first != kept.qemu(victim)
    assert not kept.said("person", count)


PRIMARY_THEN_SECONDARY: Final = ("alpha", "alpha")
"The first one that is hit is the primary; it comes back as the secondary."


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["stop", "kill"])
async def test_each_side_ends(hosts: Testbed, number: signal.Signals) -> None:
    """The other one continues, what was stopped is ended, and the guest is protected again."""
    async with supervised(hosts) as kept:
        for victim in PRIMARY_THEN_SECONDARY:
            await _fails_over(kept, victim, number)


async def test_cut_between_the_hosts(hosts: Testbed) -> None:
    """The primary continues, the other QEMU ends, and protection comes back with the cable."""
    async with supervised(hosts) as kept:
        count, at_s = len(kept.told), time.monotonic()
        secondary = kept.qemu("beta")
        hosts.cut("repl", "beta")
        count = await _continues(kept, "alpha", count, at_s, "cut between the hosts")
        assert secondary != kept.qemu("beta")
        hosts.heal("repl", "beta")
        await kept.protected(count)
        await kept.keeps_running("alpha", "beta")


async def test_ways_to_the_hosts_are_lost(hosts: Testbed) -> None:
    """First to one, then to the other: both QEMUs live, so that nobody is ended."""
    async with supervised(hosts) as kept:
        count, before = len(kept.told), (kept.qemu("alpha"), kept.qemu("beta"))
        for name in ("alpha", "beta"):
            hosts.cut("mgmt", name)
            await kept.keeps_running("alpha", "beta", by=80)
            hosts.heal("mgmt", name)
            await kept.keeps_running("alpha", "beta", by=40)
        assert before == (kept.qemu("alpha"), kept.qemu("beta"))
        assert not kept.said("execution", count)
        # Whoever is reached again is asked again.
        await _fails_over(kept, "alpha", signal.SIGKILL)


def _lose(kept: Kept, name: str) -> None:
    """Cut every cable of a host."""
    for network in ("repl", "mgmt"):
        kept.hosts.cut(network, name)


async def _come_back(kept: Kept, name: str, count: int) -> None:
    """Switch a host on again that was switched off, and see it protect the guest."""
    for network in ("repl", "mgmt"):
        kept.hosts.heal(network, name)
    kept.hosts.hosts[name].boot()
    await kept.protected(count)
    await kept.keeps_running("alpha", "beta")


# One that hangs, and one that tells the truth.
FENCES: Final = (Fence(("sleep", "60"), limit_s=0.5), Fence(("test", "-e", "/tmp/off")))


@pytest.mark.parametrize(
    "lost", ["alpha", pytest.param("beta", marks=pytest.mark.nightly)], ids=["primary", "secondary"]
)
async def test_whole_host_is_fenced(hosts: Testbed, lost: str) -> None:
    """A fence that hangs is ended, the next one shows the death, and the other node continues."""
    survivor = "beta" if lost == "alpha" else "alpha"
    async with supervised(hosts, {lost: FENCES}) as kept:
        count, at_s = len(kept.told), time.monotonic()
        _lose(kept, lost)
        hosts.hosts[lost].power_off()
        hosts.controller.run("touch", "/tmp/off")
        after = await _continues(kept, survivor, count, at_s, f"host of {lost} is fenced")
        before = kept.told[count:after]
        assert any("it did not end within 0.5 s" in told.text for told in before)
        assert not [told.text for told in before if told.kind == "person"]
        await _come_back(kept, lost, after)


@pytest.mark.nightly
@pytest.mark.parametrize("lost", ["alpha", "beta"], ids=["primary", "secondary"])
async def test_whole_host_is_gone(hosts: Testbed, lost: str) -> None:
    """Nobody continues while no fence succeeds: a person is told; once one does, the guest does."""
    survivor = "beta" if lost == "alpha" else "alpha"
    async with supervised(hosts, {lost: FENCES}) as kept:
        count, at_s = len(kept.told), time.monotonic()
        _lose(kept, lost)
        kept.hit(lost, signal.SIGSTOP)
        await kept.until("no fence has ended it", since=count, node=lost)
        assert "it ended with exit code 1" in " ".join(kept.said("trouble", count))
        assert 1 == len(kept.said("person", count))
        assert not kept.said("execution", count)
        hosts.hosts[lost].power_off()
        hosts.controller.run("touch", "/tmp/off")
        after = await _continues(kept, survivor, count, at_s, f"host of {lost} gone")
        await _come_back(kept, lost, after)


@pytest.mark.nightly
@pytest.mark.parametrize("lost", ["alpha", "beta"], ids=["primary", "secondary"])
async def test_fence_lies(hosts: Testbed, lost: str) -> None:
    """It has ended nobody: the supervisor ends who was fenced as soon as it reaches its host."""
    survivor = "beta" if lost == "alpha" else "alpha"
    async with supervised(hosts, {lost: (Fence(("true",)),)}) as kept:
        count, at_s = len(kept.told), time.monotonic()
        _lose(kept, lost)
        count = await _continues(kept, survivor, count, at_s, f"fence of {lost} lies")
        fenced = kept.qemu(lost)
        assert fenced is not None
        at_s = time.monotonic()
        for network in ("repl", "mgmt"):
            hosts.heal(network, lost)
        while kept.qemu(lost) == fenced:
            assert time.monotonic() < at_s + LIMIT_S, "it runs on"
            await asyncio.sleep(0.02)
        _LOG.info("ended %.3f s after it was reached", time.monotonic() - at_s)
        await kept.protected(count)
        await kept.keeps_running("alpha", "beta")


async def test_supervisor_is_killed(hosts: Testbed) -> None:
    """Inside a failover, and inside a resync: the next one continues."""
    async with supervised(hosts) as kept:
        count = len(kept.told)
        at_s = kept.hit("alpha", signal.SIGKILL)
        await kept.until("continues alone", since=count)
        await kept.kill()
        await kept.begin()
        count = await _continues(kept, "beta", count, at_s, "supervisor killed in a failover")
        count = await kept.until("launch is done", since=count)
        await kept.kill()
        assert not kept.said("person")
        assert "resume is done" not in kept.said("execution", count)
        await kept.begin()
        await kept.protected(count)
        await kept.keeps_running("alpha", "beta")
        second = await kept.start()
        _, why = await second.process.communicate()
        assert b"another supervisor of shop runs" in why
        assert second.process.returncode not in (0, None)
        await _fails_over(kept, "beta", signal.SIGKILL)


@pytest.mark.nightly
async def test_supervisor_is_stopped(hosts: Testbed) -> None:
    """A healthy pair is left alone when it continues; a primary that died meanwhile is not."""
    async with supervised(hosts) as kept:
        count, before = len(kept.told), (kept.qemu("alpha"), kept.qemu("beta"))
        kept.send(signal.SIGSTOP)
        # Ten seconds of the guest.
        await kept.keeps_running("alpha", "beta", by=180)
        kept.send(signal.SIGCONT)
        await kept.keeps_running("alpha", "beta", by=40)
        assert before == (kept.qemu("alpha"), kept.qemu("beta"))
        assert not kept.said("execution", count)
        kept.send(signal.SIGSTOP)
        kept.hit("alpha", signal.SIGKILL)
        await kept.ended("alpha")
        at_s = time.monotonic()
        kept.send(signal.SIGCONT)
        await _continues(kept, "beta", count, at_s, "supervisor continued")
        await kept.protected(count)

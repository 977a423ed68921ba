"""A pair under a supervisor, on real QEMU: it is killed and stopped, and nobody types anything."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from pathlib import Path

import attrs
import pytest
from tests.qemu.life import LIMIT_S, ON_RELEASES, Accelerator, LivePair, bios_life
from tests.testing.test_supervisor import Watched, kept, protected, quiet

from pycolo.demo.builds import Release
from pycolo.model import ColoPair
from pycolo.qmp.events import StopEvent
from pycolo.session import Notice, Session
from pycolo.supervise import Store

FAULT_S = 120.0
_LOG = logging.getLogger(__name__)
pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]


@ON_RELEASES
async def test_pair_is_kept(release: Release, accelerator: Accelerator, tmp_path: Path) -> None:
    """Each node is killed, then stopped: the guest continues, and is protected again each time."""
    with Store(tmp_path) as store:
        async with bios_life(release, accelerator) as life, kept(life, store) as watched:
            await _lives(life, watched)


async def _lives(life: LivePair, watched: Watched) -> None:
    count = await protected(watched)
    await life.keeps_running("alpha", "beta")
    for number in (signal.SIGKILL, signal.SIGSTOP):
        for victim, survivor in (("alpha", "beta"), ("alpha", "beta"), ("beta", "alpha")):
            life.signal(victim, number)
            count = await watched.until("failover is done", since=count)
            await life.keeps_running(survivor)
            count = await protected(watched, count)


async def _checkpoint_begins(life: LivePair, name: str) -> None:
    """Wait until the guest is paused for a checkpoint."""
    begun = asyncio.Event()

    def note(notice: Notice) -> None:
        if isinstance(notice, StopEvent):
            begun.set()

    monitor = life.pair.node(name).observer_monitor
    async with await Session.connect(name, monitor, limit_s=LIMIT_S) as session:
        session.subscribe(note)
        async with asyncio.timeout(LIMIT_S):
            await begun.wait()


@pytest.mark.heavy
async def test_faults_at_the_entry_and_inside_checkpoints(tmp_path: Path) -> None:
    """As soon as the pair is protected, and as soon as a checkpoint begins, on either side."""
    with Store(tmp_path) as store:
        async with (
            bios_life("11.1", "tcg", shape=_without_spares) as life,
            kept(life, store) as watched,
        ):
            count = await protected(watched)
            for victim, survivor, is_inside, number in (
                ("alpha", "beta", False, signal.SIGSTOP),
                ("alpha", "beta", True, signal.SIGSTOP),
                ("beta", "alpha", True, signal.SIGKILL),
            ):
                if is_inside:
                    # Where the machine was so slow that a QEMU was taken for dead, it is back.
                    count = await quiet(watched)
                    await _checkpoint_begins(life, victim)
                life.signal(victim, number)
                async with asyncio.timeout(FAULT_S):
                    count = await watched.until("failover is done", since=count)
                    await life.keeps_running(survivor)
                    count = await protected(watched, count)
            assert not [event.text for event in watched.events if event.kind == "person"]


def _without_spares(pair: ColoPair) -> ColoPair:
    """A launch that fails on a slow machine is tried again on its node."""
    return attrs.evolve(pair, spares=())


async def _soaked(folder: Path, seed: int, count: int) -> None:
    """So many faults, each at a random moment, with supervisors that end in between."""
    chance = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    with Store(folder) as store:
        async with bios_life("11.1", "tcg", shape=_without_spares) as life:
            while count > 0:
                faults = min(count, chance.randint(1, 8))
                count -= faults
                async with kept(life, store) as watched:
                    for _ in range(faults):
                        async with asyncio.timeout(FAULT_S):
                            await _fault(life, watched, chance)
                    assert not [event.text for event in watched.events if event.kind == "person"]


async def _fault(life: LivePair, watched: Watched, chance: random.Random) -> None:
    """Hit either QEMU: the other one continues, and is protected again."""
    await quiet(watched)
    # The fault comes at a random moment between checkpoints, or inside one.
    await asyncio.sleep(chance.choice([0.0, 0.05, 0.5, 1.0, 2.0]))
    # Where the machine was so slow that the supervisor took a QEMU for dead, the pair comes back.
    told = await quiet(watched)
    victim, peer = chance.sample([node.name for node in life.pair.nodes], 2)
    number = chance.choice([signal.SIGKILL, signal.SIGSTOP])
    _LOG.info("%s to %s", number.name, victim)
    life.signal(victim, number)
    await watched.until("failover is done", since=told)
    await life.keeps_running(peer)
    await protected(watched, told)


@pytest.mark.heavy
@pytest.mark.timeout(900)
async def test_random_faults(tmp_path: Path) -> None:
    """Kills and stops of either side, between checkpoints and inside them: the guest continues."""
    await _soaked(tmp_path, seed=1, count=20)


@pytest.mark.heavy
@pytest.mark.nightly
@pytest.mark.timeout(3000)
async def test_many_random_faults(tmp_path: Path) -> None:
    """The same ten times over."""
    await _soaked(tmp_path, seed=2, count=200)

"""A pair under a supervisor, on real QEMU: it is killed and stopped, and nobody types anything."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from pathlib import Path

import pytest
from tests.qemu.life import ON_RELEASES, Accelerator, LivePair, bios_life
from tests.testing.test_supervisor import Watched, kept, protected, quiet

from pycolo.demo.builds import Release
from pycolo.supervise import Store

_LOG = logging.getLogger(__name__)
pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]


@ON_RELEASES
async def test_pair_is_kept(release: Release, accelerator: Accelerator, tmp_path: Path) -> None:
    """Each node is killed, then stopped: the guest goes on, and is protected again each time."""
    with Store(tmp_path) as store:
        async with bios_life(release, accelerator) as life, kept(life, store) as watched:
            await _lives(life, watched)


async def _lives(life: LivePair, watched: Watched) -> None:
    count = await protected(watched)
    await life.goes_on("alpha", "beta")
    for number in (signal.SIGKILL, signal.SIGSTOP):
        for victim, survivor in (("alpha", "beta"), ("alpha", "beta"), ("beta", "alpha")):
            life.signal(victim, number)
            count = await watched.until("failover is done", since=count)
            await life.goes_on(survivor)
            count = await protected(watched, count)


async def _soaked(life: LivePair, store: Store, seed: int, count: int) -> None:
    """So many faults, each at a random moment, with supervisors that end in between."""
    chance = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    while count > 0:
        async with kept(life, store) as watched:
            await quiet(watched)
            for _ in range(min(count, chance.randint(1, 8))):
                count -= 1
                told = len(watched.events)
                # The fault comes at a random moment between checkpoints, or inside one.
                await asyncio.sleep(chance.choice([0.0, 0.05, 0.5, 1.0, 2.0]))
                victim, peer = chance.sample([node.name for node in life.pair.nodes], 2)
                number = chance.choice([signal.SIGKILL, signal.SIGSTOP])
                _LOG.info("%s to %s", number.name, victim)
                life.signal(victim, number)
                await watched.until("failover is done", since=told)
                await life.goes_on(peer)
                await protected(watched, told)
            assert not [event.text for event in watched.events if event.kind == "person"]


@pytest.mark.heavy
async def test_random_faults(tmp_path: Path) -> None:
    """Kills and stops of either side, between checkpoints and inside them: the guest goes on."""
    with Store(tmp_path) as store:
        async with bios_life("11.1", "tcg") as life:
            await _soaked(life, store, seed=1, count=20)


@pytest.mark.heavy
@pytest.mark.nightly
@pytest.mark.timeout(3000)
async def test_many_random_faults(tmp_path: Path) -> None:
    """The same ten times over."""
    with Store(tmp_path) as store:
        async with bios_life("11.1", "tcg") as life:
            await _soaked(life, store, seed=2, count=200)

"""A pair under a supervisor, on real QEMU: it is killed and stopped, and nobody types anything."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

import pytest
from tests.qemu.life import ON_RELEASES, Accelerator, LivePair, bios_life
from tests.testing.test_supervisor import Watched, protected

from pycolo.demo.builds import Release
from pycolo.supervise import Store, Supervisor

_LOG = logging.getLogger(__name__)
pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]


@ON_RELEASES
async def test_pair_is_kept(release: Release, accelerator: Accelerator, tmp_path: Path) -> None:
    """Each node is killed, then stopped: the guest goes on, and is protected again each time."""
    async with bios_life(release, accelerator) as life:
        with Store(tmp_path) as store:
            watched = Watched(store)
            supervisor = Supervisor((life.pair,), {life.pair.name: life.hosts}, store)
            following = asyncio.create_task(watched.follow(supervisor))
            try:
                async with supervisor:
                    await _lives(life, watched)
            finally:
                following.cancel()
                for event in watched.events:
                    _LOG.info("%s %s %s: %s", event.when, event.node, event.kind, event.text)


async def _lives(life: LivePair, watched: Watched) -> None:
    count = await protected(watched)
    await life.goes_on("alpha", "beta")
    for number in (signal.SIGKILL, signal.SIGSTOP):
        for victim, survivor in (("alpha", "beta"), ("alpha", "beta"), ("beta", "alpha")):
            life.signal(victim, number)
            count = await watched.until("failover is done", since=count)
            await life.goes_on(survivor)
            count = await protected(watched, count)

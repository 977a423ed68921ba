"""Every host is rebooted while a promoted node merges its overlays, on fakes: a person decides."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest
from tests.testing.agents import NODES, Agents, Network
from tests.testing.agents import play as play_agents
from tests.testing.test_controller import write
from tests.testing.test_release import released
from tests.testing.test_supervisor import Watched, play, protected
from tests.testing.testbed import FakePair, time_passes

from pycolo.supervise.wishes import set_want

NAME: Final = "colo"
PERSON: Final = (
    "beta ended before its overlays were merged: its image lacks writes; merge its overlays by hand"
    " and launch it with --newest beta, or launch another node with --newest"
)


async def merges(life: FakePair) -> None:
    """End the primary, and wait until the secondary serves, and has begun a long merge."""
    write(life)
    life.world.commit_s = 600.0
    life.world.qemu("alpha").kill()
    async with asyncio.timeout(60.0):
        while not life.world.qemu("beta").live.commit_pending or not life.world.serving:
            await time_passes(0.1)


@pytest.mark.parametrize("newest", NODES)
def test_supervisor_asks_a_person_and_continues_with_what_was_decided(
    tmp_path: Path, newest: str
) -> None:
    """Nothing is launched meanwhile: by itself it would lose writes, or boot a torn disk."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        await merges(life)
        life.world.qemu("beta").kill()
        await watched.until(PERSON, since=count)
        await time_passes(120.0)
        assert [] == life.world.running
        # What the manual says: pause, merge by hand or not, launch, unpause.
        watched.store.pause(NAME, "by the test")
        await watched.until("supervision is paused", since=count)
        await life.launch(newest, newest=newest)
        await life.aclose()
        watched.store.pause(NAME, None)
        async with asyncio.timeout(100.0):
            while not watched.supervisor.status(NAME).is_protected:
                await time_passes(0.1)
        assert newest == next(iter(watched.supervisor.status(NAME).phases))
        assert "" == watched.supervisor.status(NAME).person

    play(tmp_path, scenario)


def test_agents_ask_a_person_and_continue_after_a_release() -> None:
    """Both hosts were rebooted: each agent finds its QEMU gone, and the arbiter a merge pending."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        await merges(life)
        for node in NODES:
            await network.lose(node)
        await time_passes(30.0)
        for node in NODES:
            await network.bring_back(node)
        await agents.until(PERSON, node="beta", since=count)
        await time_passes(120.0)
        assert [] == life.world.running
        # What the manual says: want, release, merge by hand, launch, want.
        await set_want(agents.arbiters["alpha"], NAME, "unprotected", limit_s=1.0)
        assert {} == (await released(life, network)).unwritten
        await life.launch("beta", newest="beta")
        await life.aclose()
        count = len(agents.events)
        await set_want(agents.arbiters["alpha"], NAME, "protected", limit_s=1.0)
        await agents.protected(count)
        assert ["beta"] == list(agents.running["beta"].status(NAME).phases)

    play_agents(scenario)

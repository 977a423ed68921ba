"""Pairs under a supervisor, on fakes: nobody types anything, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.testing.test_controller import has_all, write
from tests.testing.testbed import FakePair, declared, in_world

from pycolo.supervise import Store, Supervisor, SupervisorEvent

LIMIT_S = 120.0
Scenario = Callable[[FakePair, "Watched"], Awaitable[None]]


class Watched:
    """A supervisor of one pair, and all that it has told."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.events: list[SupervisorEvent] = []
        self.news = asyncio.Condition()

    async def follow(self, supervisor: Supervisor) -> None:
        """Take what it tells, until cancelled."""
        async for event in supervisor.events():
            async with self.news:
                self.events.append(event)
                self.news.notify_all()

    async def until(self, text: str, *, since: int = 0) -> int:
        """Wait for an event with these words; gives how many there were until then."""
        async with self.news, asyncio.timeout(LIMIT_S):
            while True:
                for count, event in enumerate(self.events[since:], since + 1):
                    if text in event.text:
                        return count
                await self.news.wait()


def play(folder: Path, scenario: Scenario) -> list[SupervisorEvent]:
    """Play a scenario with a new pair that is kept from the beginning; gives what was told."""
    told: list[SupervisorEvent] = []

    async def played(life: FakePair) -> None:
        with Store(folder) as store:
            watched = Watched(store)
            supervisor = Supervisor((life.pair,), {life.pair.name: life.hosts}, store)
            following = asyncio.create_task(watched.follow(supervisor))
            try:
                async with supervisor:
                    await scenario(life, watched)
            except BaseException:
                print(*watched.events[:60], sep="\n")
                raise
            finally:
                told.extend(watched.events)
                following.cancel()

    in_world("11.1.3", played)
    return told


async def protected(watched: Watched, since: int = 0) -> int:
    """Wait for a pair that is protected, and looked at since."""
    return await watched.until("protected: nothing is amiss", since=since)


@pytest.mark.parametrize(("victim", "survivor"), [("alpha", "beta"), ("beta", "alpha")])
def test_death_is_survived(tmp_path: Path, victim: str, survivor: str) -> None:
    """Whoever dies, the other one continues with every write, and is protected again."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        life.world.qemu(victim).kill()
        count = await watched.until("failover", since=count)
        assert survivor == has_all(life)
        await protected(watched, count)
        write(life)
        assert survivor == has_all(life)

    play(tmp_path, scenario)

"""A supervisor is killed at any step of a failover or a resync, on fakes, and the next one goes on.

From that moment on the killed one reaches nothing: its connections have ended, and no host does
anything for it, so that whatever it still runs is without effect. The next one opens the store
anew.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Final, final

import pytest
from tests.testing.agents import FarHost
from tests.testing.test_supervised_lives import Life
from tests.testing.test_supervisor import LIMIT_S, kept, quiet, serves
from tests.testing.testbed import FakePair, declared, in_world, time_passes
from typing_extensions import override

from pycolo.observers import Observer
from pycolo.plan import Plan, Step
from pycolo.supervise import Store, Supervisor

STEPS: Final = 80
"More than a failover, a launch and a resync have together."
_QUICK: Final = 9


@final
class Killer(Observer):
    """Kills a supervisor as it begins a step, counted from the moment at which this is armed."""

    def __init__(self, life: FakePair, step: int) -> None:
        self.hosts = {name: FarHost(host) for name, host in life.hosts.items()}
        self.killed = asyncio.Event()
        self.is_armed = False
        self.place = ""
        self._life = life
        self._left = step

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        if not self.is_armed or self.killed.is_set():
            return
        self._left -= 1
        if self._left >= 0:
            return
        self.place = f"{plan.procedure}: {step.address}"
        for host in self.hosts.values():
            host.is_cut = True
        for qemu in self._life.world.running:
            for monitor in qemu.monitors:
                monitor.hang_up()
        self.killed.set()


async def _killed(life: FakePair, folder: Path, victim: str, step: int) -> str:
    """Have a supervisor die in what it does about a death; gives the step, empty if it has none."""
    killer, name = Killer(life, step), life.pair.name
    with Store(folder) as store:
        hosts = {name: killer.hosts}
        async with Supervisor((life.pair,), hosts, store, observer=killer) as supervisor:
            await _protected(supervisor, killer)
            killer.is_armed = True
            life.world.qemu(victim).kill()
            async with asyncio.timeout(LIMIT_S):
                while supervisor.status(name).is_protected:
                    await time_passes(0.001)
            await _protected(supervisor, killer)
    return killer.place


async def _protected(supervisor: Supervisor, killer: Killer) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not killer.killed.is_set() and not supervisor.statuses[0].is_protected:
            await time_passes(0.01)


def _played(folder: Path, victim: str, step: int) -> str:
    places: list[str] = []

    async def played(life: FakePair) -> None:
        lived = Life(life, random.Random(0))  # noqa: S311 - nothing happens by chance here
        watching = asyncio.create_task(lived.watch())
        places.append(await _killed(life, folder, victim, step))
        with Store(folder) as store:
            async with kept(life, store) as watched:
                await quiet(watched)
                await serves(life)
        watching.cancel()
        assert [] == lived.wrong, places
        assert [] == [e.text for e in watched.events if e.kind == "person"], places

    in_world("11.1.3", played, declared(checkpoint_delay_ms=500))
    return places[0]


@pytest.mark.parametrize("victim", ["alpha", "beta"])
@pytest.mark.parametrize(
    "step",
    [pytest.param(n, marks=[pytest.mark.nightly] * (n % _QUICK > 0)) for n in range(STEPS)],
)
def test_killed_supervisor_loses_nothing(tmp_path: Path, victim: str, step: int) -> None:
    """No second guest, no lost write, and the pair is protected again without a person."""
    _played(tmp_path, victim, step)


@pytest.mark.parametrize("victim", ["alpha", "beta"])
def test_every_step_is_among_them(tmp_path: Path, victim: str) -> None:
    """The last number is beyond the last step, and the first one is in the failover."""
    assert not _played(tmp_path / "last", victim, STEPS)
    assert _played(tmp_path / "first", victim, 0).startswith("failover: ")

"""Random lives under a supervisor, on fakes: what operators trust it with, and what may happen.

Each schedule follows from its seed. While faults come, at most one guest answers and no write that
was acknowledged is missing from whoever serves; once they are over, the pair is protected again
within a bound, or stands where only a person can help, in a case that `tests.persons` names. A
schedule that fails names its seed, and `PYCOLO_SEED=SEED pytest -k test_random_lives` plays it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest
from tests.persons import is_for_a_person
from tests.testing.test_fence_devices import (
    Answer,
    FakeFence,
    evidence,
    hangs,
    raises,
    refuses,
)
from tests.testing.test_supervisor import Watched, kept
from tests.testing.testbed import FakePair, declared, in_world, time_passes

from pycolo.evidence import Evidence, Victim
from pycolo.model import ColoPair
from pycolo.supervise import FenceDevice, NotFenced, Store
from pycolo.testing import FakeQemu

STEPS: Final = 12
WRITE_S: Final = 0.25
HEALED_S: Final = 900.0
_ASKED: Final = os.environ.get("PYCOLO_SEED")
SEEDS: Final[Sequence[int]] = range(12) if _ASKED is None else (int(_ASKED),)
pytestmark = [pytest.mark.property, pytest.mark.timeout(900)]


class Life:
    """A pair, what happens to it, and who looks on."""

    def __init__(self, life: FakePair, chance: random.Random) -> None:
        self.life = life
        self.chance = chance
        self.number = 0
        self.log: list[str] = []
        self.wrong: list[str] = []

    async def watch(self) -> None:
        """Observe whenever anything changes, and have the guest write again and again."""
        self.life.world.waiting[self.observe] = None
        while True:
            self.write()
            await time_passes(WRITE_S)

    def observe(self) -> bool:
        """See that at most one guest answers, and has every write; what is wrong is kept."""
        serving = self.life.world.serving
        names = [q.node.name for q in serving]
        if len(serving) > 1:
            self.wrong.append(f"{self.life.world.now_s:.3f} two guests: {names}")
        for one in serving:
            lost = sorted(self.life.world.acknowledged - one.guest_data())
            if lost:
                self.wrong.append(f"{self.life.world.now_s:.3f} {names} lacks {lost[:5]}")
        return False

    def write(self) -> None:
        """Have whoever serves acknowledge a write, if it does."""
        for one in self.life.world.serving:
            self.number += 1
            one.guest_write(self.number)

    # -- faults

    def members(self) -> list[FakeQemu]:
        """Every QEMU that runs."""
        return [q for q in self.life.world.processes if q.alive]

    def kill(self) -> str:
        """A QEMU dies."""
        found = self.members()
        if not found:
            return "nobody to kill"
        one = self.chance.choice(found)
        one.kill()
        return f"kill {one.node.name}"

    def freeze(self) -> str:
        """A QEMU stops, and continues later, if it was not ended meanwhile."""
        found = self.members()
        if not found:
            return "nobody to freeze"
        one = self.chance.choice(found)
        one.freeze()
        self.life.world.later(self.chance.choice([0.2, 1.0, 5.0, 60.0]), lambda: self.thaw(one))
        return f"freeze {one.node.name}"

    def thaw(self, one: FakeQemu) -> None:
        """Let a frozen one continue."""
        if one.alive:
            one.thaw()

    def cut(self) -> str:
        """The network between two hosts loses every packet, for a while."""
        world, (first, second) = self.life.world, self.chance.sample(self.life.pair.names[:3], 2)
        world.cut(first, second)
        world.later(self.chance.choice([0.5, 5.0, 90.0]), lambda: world.heal(first, second))
        return f"cut {first} {second}"

    def leave(self) -> str:
        """A host is out of reach, for a while."""
        name = self.chance.choice(self.life.pair.names[:3])
        host = self.life.world.host(name)
        host.away = True

        def back() -> None:
            host.away = False

        self.life.world.later(self.chance.choice([0.5, 5.0, 90.0]), back)
        return f"{name} away"

    def hang_up(self) -> str:
        """Every monitor of a QEMU closes its connections."""
        found = self.members()
        if not found:
            return "nobody to hang up"
        one = self.chance.choice(found)
        for monitor in one.monitors:
            monitor.hang_up()
        return f"hang up {one.node.name}"

    # -- fences

    @property
    def fences(self) -> Mapping[str, Sequence[FenceDevice]]:
        """Two fences of each node, which do something else each time that they are used."""
        names = ("first fence", "second fence")
        return {
            node.name: [FakeFence(name, self._fenced, limit_s=2.0) for name in names]
            for node in self.life.pair.all_nodes
        }

    async def _fenced(self, victim: Victim) -> Evidence | NotFenced:
        ways: list[Answer] = [self._ends, self._lies, self._ends_late, refuses, hangs, raises]
        way = self.chance.choice(ways)
        self.log.append(f"{self.life.world.now_s:.3f} fence of {victim.node}: {way.__name__}")
        return await way(victim)

    async def _ends(self, victim: Victim) -> Evidence:
        """End the QEMU, as a fence should."""
        self._end(victim)
        return evidence(victim)

    async def _lies(self, victim: Victim) -> Evidence:
        """Say that the QEMU has ended, and do nothing."""
        return evidence(victim)

    async def _ends_late(self, victim: Victim) -> NotFenced:
        """End the QEMU once nobody waits for that any more."""
        self.life.world.later(self.chance.choice([0.1, 3.0, 10.0]), lambda: self._end(victim))
        return await hangs(victim)

    def _end(self, victim: Victim) -> None:
        for one in self.members():
            if one.line.name == victim.instance:
                one.kill()

    def nothing(self) -> str:
        """Nothing happens."""
        return "nothing"

    def fault(self) -> None:
        """One of them, by chance."""
        ways: list[Callable[[], str]] = [self.kill, self.freeze, self.cut, self.leave]
        ways += [self.hang_up, self.nothing]
        self.log.append(f"{self.life.world.now_s:.3f} {self.chance.choice(ways)()}")


async def _lived(life: FakePair, folder: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    lived = Life(life, chance)
    with Store(folder) as store:
        watching = asyncio.create_task(lived.watch())
        for _ in range(chance.randint(1, 3)):
            # Each supervisor but the last one ends in the midst of it.
            async with kept(life, store, lived.fences):
                await _faults(lived)
        async with kept(life, store, lived.fences) as watched:
            await _healed(lived, watched)
        watching.cancel()


async def _faults(lived: Life) -> None:
    for _ in range(lived.chance.randint(1, STEPS // 3)):
        await time_passes(lived.chance.choice([0.0, 0.002, 0.05, 0.5, 3.0, 30.0]))
        lived.fault()


async def _healed(lived: Life, watched: Watched) -> None:
    end_s = lived.life.world.now_s + 100.0 + HEALED_S
    while True:
        assert not lived.wrong, (lived.wrong[:5], lived.log)
        (status,) = watched.supervisor.statuses
        if lived.life.world.now_s > end_s - HEALED_S and status.is_protected:
            return
        if lived.life.world.now_s > end_s:
            texts = [f"{e.when} {e.node} {e.kind}: {e.text}" for e in watched.events[-30:]]
            assert is_for_a_person(status), (status, lived.log, texts)
            return
        await time_passes(1.0)


@contextlib.contextmanager
def named(seed: int) -> Iterator[None]:
    """Have a life that fails say which one it was."""
    try:
        yield
    except Exception as failure:
        failure.add_note(f"the seed is {seed}")
        raise


def _pair() -> ColoPair:
    return declared(checkpoint_delay_ms=500)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_lives(tmp_path: Path, seed: int) -> None:
    """Whatever comes, nothing is lost, and the pair comes back."""
    in_world("11.1.3", lambda life: _lived(life, tmp_path, seed), _pair())


@pytest.mark.nightly
@pytest.mark.parametrize("hundred", range(100))
def test_ten_thousand_random_lives(tmp_path: Path, hundred: int) -> None:
    """The same with ten thousand schedules."""
    for n in range(100):
        folder, seed = tmp_path / str(n), 100 + 100 * hundred + n
        with named(seed):
            in_world("11.1.3", lambda life: _lived(life, folder, seed), _pair())  # noqa: B023 - lived at once

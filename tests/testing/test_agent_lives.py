"""Random lives under two agents and an arbiter, on fakes: what may happen, and what must not.

Each schedule follows from its seed. While faults come, at most one guest answers and no write that
was acknowledged is missing from whoever serves; once they are over, the pair is protected again
within a bound, or stands where only a person can help, in a case that `tests.persons` names. A
schedule that fails names its seed, and `PYCOLO_SEED=SEED pytest -k test_random_lives` plays it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Final, final

import attrs
import pytest
from tests.persons import is_for_a_person
from tests.testing.agents import NODES, Network
from tests.testing.test_supervised_lives import HEALED_S, SEEDS, STEPS, Life, named
from tests.testing.testbed import FakePair, declared, in_world, time_passes
from typing_extensions import override

from pycolo.errors import CommandUnknown, RefusedError

pytestmark = [pytest.mark.property, pytest.mark.timeout(900)]
_LASTS_S: Final = (0.2, 1.0, 5.0, 60.0)


@final
class AgentsLife(Life):
    """A pair with two agents, what happens to all of them, and who looks on."""

    def __init__(self, life: FakePair, chance: random.Random) -> None:
        super().__init__(life, chance)
        self.network = Network(life)
        self.agents = self.network.agents
        self.agents.fences = self.fences
        self.tasks: set[asyncio.Task[None]] = set()

    @override
    def cut(self) -> str:
        """The cable between the two hosts is cut, for a while."""
        self.network.cut()
        self.life.world.later(self.chance.choice(_LASTS_S), self.network.heal)
        return "cut the hosts"

    def cut_arbiter(self) -> str:
        """One host, or both, cannot ask the arbiter, for a while."""
        nodes = self.chance.choice([("alpha",), ("beta",), NODES])
        lasts_s = self.chance.choice(_LASTS_S)
        for node in nodes:
            self.network.arbiter.cut(node)

        def back() -> None:
            for node in nodes:
                self.network.arbiter.heal(node)

        self.life.world.later(lasts_s, back)
        return f"cut the arbiter from {nodes} for {lasts_s}"

    def isolate(self) -> str:
        """A host is cut off from the other one and from the arbiter, until it is fenced."""
        node, lasts_s = self.chance.choice(NODES), self.chance.choice([10.0, 60.0])
        self.network.cut()
        self.network.arbiter.cut(node)

        def back() -> None:
            self.network.heal()
            self.network.arbiter.heal(node)

        self.life.world.later(lasts_s, back)
        return f"isolate {node} for {lasts_s}"

    def lose_answer(self) -> str:
        """What a host asks the arbiter for next is done, and it never hears of it."""
        node = self.chance.choice(NODES)
        self.network.arbiter.lose_answer(node)
        return f"lose an answer to {node}"

    def restart(self) -> str:
        """An agent dies, and is started again, for a while later."""
        node, after_s = self.chance.choice(NODES), self.chance.choice([0.0, 0.5, 1.0, 30.0])
        task = asyncio.get_running_loop().create_task(self._restarted(node, after_s))
        self.tasks.add(task)
        return f"restart the agent of {node} after {after_s}"

    async def _restarted(self, node: str, after_s: float) -> None:
        await self.agents.stop(node)
        await time_passes(after_s)
        await self.agents.stop(node)
        await self.agents.start(node)

    def switch_over(self) -> str:
        """A person asks an agent to move the guest, whatever else happens."""
        node = self.chance.choice(NODES)
        self.tasks.add(asyncio.get_running_loop().create_task(self._switched(node)))
        return f"ask the agent of {node} to switch over"

    async def _switched(self, node: str) -> None:
        with contextlib.suppress(RefusedError, CommandUnknown):
            await self.agents.running[node].switch_over(self.life.pair.name)

    @override
    def fault(self) -> None:
        ways: list[Callable[[], str]] = [self.kill, self.freeze, self.cut, self.cut_arbiter]
        ways += [self.isolate, self.lose_answer, self.restart, self.hang_up, self.nothing]
        ways.append(self.switch_over)
        self.log.append(f"{self.life.world.now_s:.3f} {self.chance.choice(ways)()}")

    async def healed(self) -> None:
        """Wait until nothing is broken any more, but for what the agents have to mend."""
        await asyncio.gather(*self.tasks)
        self.network.heal()
        for node in NODES:
            self.network.arbiter.heal(node)


async def _lived(life: FakePair, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    lived = AgentsLife(life, chance)
    watching = asyncio.create_task(lived.watch())
    try:
        for node in NODES:
            await lived.agents.start(node)
        for _ in range(chance.randint(1, STEPS // 2)):
            await time_passes(chance.choice([0.0, 0.002, 0.05, 0.5, 3.0, 30.0]))
            lived.fault()
        await _healed(lived)
    finally:
        watching.cancel()
        await lived.agents.aclose()


async def _healed(lived: AgentsLife) -> None:
    await time_passes(100.0)
    await lived.healed()
    end_s = lived.life.world.now_s + HEALED_S
    while True:
        assert not lived.wrong, (lived.wrong[:5], lived.log)
        last = {t: e.text for t, e in lived.agents.events if e.node == t and e.kind == "state"}
        if last == dict.fromkeys(NODES, "protected"):
            return
        if lived.life.world.now_s > end_s:
            told = [(t, e.when, e.kind, e.text) for t, e in lived.agents.events[-40:]]
            name, agents = lived.life.pair.name, lived.agents.running.values()
            statuses = [agent.status(name) for agent in agents]
            assert any(map(is_for_a_person, statuses)), (statuses, lived.log, told)
            return
        await time_passes(1.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_lives(seed: int) -> None:
    """Whatever comes, nothing is lost, and the pair comes back."""
    pair = attrs.evolve(declared(checkpoint_delay_ms=500), spares=())
    in_world("11.1.3", lambda life: _lived(life, seed), pair)


@pytest.mark.nightly
@pytest.mark.parametrize("hundred", range(100))
def test_ten_thousand_random_lives(hundred: int) -> None:
    """The same with ten thousand schedules."""
    pair = attrs.evolve(declared(checkpoint_delay_ms=500), spares=())
    for n in range(100):
        seed = 100 + 100 * hundred + n
        with named(seed):
            in_world("11.1.3", lambda life: _lived(life, seed), pair)  # noqa: B023 - lived at once

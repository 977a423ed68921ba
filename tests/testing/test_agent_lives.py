"""Random lives under two agents and an arbiter, on fakes: what may happen, and what must not.

Each schedule follows from its seed. While faults come, at most one guest answers and no write that
was acknowledged is missing from whoever serves; once they are over, the pair is protected again
within a bound, or stands where only a person can help, in a case that `tests.persons` names. A
schedule that fails names its seed, and `PYCOLO_SEED=SEED pytest -k test_random_lives` plays it.
"""

from __future__ import annotations

import asyncio
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

from pycolo.model import ColoPair
from pycolo.testing import ArbiterBackup, FakeArbiter

pytestmark = [pytest.mark.property, pytest.mark.timeout(900)]
_LASTS_S: Final = (0.2, 1.0, 5.0, 60.0)
_RESTORED_S: Final = 120.0


@final
class AgentsLife(Life):
    """A pair with two agents, what happens to all of them, and who looks on."""

    def __init__(self, life: FakePair, chance: random.Random) -> None:
        super().__init__(life, chance)
        self.network = Network(life)
        self.agents = self.network.agents
        self.agents.fences = self.fences
        self.nodes = self.agents.nodes
        "The two nodes, and the spare if there is one."
        self.turns = {node: asyncio.Lock() for node in self.nodes}
        "Held while an agent is ended and started again."
        self.copy: ArbiterBackup | None = None
        "What the arbiter held at some time; None if nobody has copied it."

    @override
    def cut(self) -> str:
        """The cable between two hosts is cut, for a while."""
        first, second = self.chance.sample(self.nodes, 2)
        self.network.cut(first, second)
        self.life.world.later(self.chance.choice(_LASTS_S), self.network.heal)
        return f"cut {first} {second}"

    def cut_arbiter(self) -> str:
        """One host, or each of them, cannot ask the arbiter, for a while."""
        nodes = self.chance.choice([*((node,) for node in self.nodes), self.nodes])
        lasts_s = self.chance.choice(_LASTS_S)
        for node in nodes:
            self.network.arbiter.cut(node)

        def back() -> None:
            for node in nodes:
                self.network.arbiter.heal(node)

        self.life.world.later(lasts_s, back)
        return f"cut the arbiter from {nodes} for {lasts_s}"

    def isolate(self) -> str:
        """A host is cut off from the others and from the arbiter, until it is fenced."""
        node, lasts_s = self.chance.choice(self.nodes), self.chance.choice([10.0, 60.0])
        for other in set(self.nodes) - {node}:
            self.network.cut(node, other)
        self.network.arbiter.cut(node)

        def back() -> None:
            self.network.heal()
            self.network.arbiter.heal(node)

        self.life.world.later(lasts_s, back)
        return f"isolate {node} for {lasts_s}"

    def lose_answer(self) -> str:
        """What a host asks the arbiter for next is done, and it never hears of it."""
        node = self.chance.choice(self.nodes)
        self.network.arbiter.lose_answer(node)
        return f"lose an answer to {node}"

    def restart(self) -> str:
        """An agent dies, and is started again, for a while later."""
        node, after_s = self.chance.choice(self.nodes), self.chance.choice([0.0, 0.5, 1.0, 30.0])
        task = asyncio.get_running_loop().create_task(self._restarted(node, after_s))
        self.tasks.add(task)
        return f"restart the agent of {node} after {after_s}"

    async def _restarted(self, node: str, after_s: float) -> None:
        async with self.turns[node]:
            await self.agents.stop(node)
            await time_passes(after_s)
            await self.agents.start(node)

    def reboot(self) -> str:
        """A host is lost, with its QEMU and its agent, and comes back without what was armed."""
        node, after_s = self.chance.choice(self.nodes), self.chance.choice([10.0, 60.0])
        self.tasks.add(asyncio.get_running_loop().create_task(self._rebooted(node, after_s)))
        return f"reboot {node} in {after_s}"

    async def _rebooted(self, node: str, after_s: float) -> None:
        async with self.turns[node]:
            await self.network.lose(node)
            self.network.guards[node].forget()
            await time_passes(after_s)
            await self.network.bring_back(node)

    def stop_fuse(self) -> str:
        """A fuse is stopped, and continued before systemd's watchdog would end it."""
        node, lasts_s = self.chance.choice(self.nodes), self.chance.choice([0.2, 0.5, 0.9])
        guard = self.network.guards[node]
        if guard.is_silent:
            return f"the fuse of {node} is stopped already"
        guard.freeze()
        self.life.world.later(lasts_s, guard.thaw)
        return f"stop the fuse of {node} for {lasts_s}"

    def copy_arbiter(self) -> str:
        """Somebody copies what the arbiter holds, and the copy is restored in the end."""
        self.copy = self.network.arbiter.backup()
        return "copy the arbiter"

    def switch_over(self) -> str:
        """A person asks an agent to move the guest, whatever else happens."""
        node = self.chance.choice(self.nodes)
        self.ask(self.agents.running[node].switch_over(self.life.pair.name))
        return f"ask the agent of {node} to switch over"

    @override
    def fault(self) -> None:
        ways: list[Callable[[], str]] = [self.kill, self.freeze, self.cut, self.cut_arbiter]
        ways += [self.isolate, self.lose_answer, self.restart, self.hang_up, self.nothing]
        ways += [self.switch_over, self.reboot, self.stop_fuse, self.copy_arbiter]
        self.log.append(f"{self.life.world.now_s:.3f} {self.chance.choice(ways)()}")

    @property
    def are_protected(self) -> bool:
        """Whether the agents of two nodes say protected, and that of a spare follows."""
        last = {t: e.text for t, e in self.agents.events if e.node == t and e.kind == "state"}
        phases = sorted(text.removesuffix(": its QEMU does not run") for text in last.values())
        spares = ["following"] * (len(self.nodes) - len(NODES))
        return [*spares, *(["protected"] * len(NODES))] == phases

    @property
    def is_for_a_person(self) -> bool:
        """Whether an agent asks for a person, in a case that the manual names."""
        agents = self.agents.running.values()
        return any(is_for_a_person(agent.status(self.life.pair.name)) for agent in agents)

    async def healed(self) -> None:
        """Wait until nothing is broken any more, but for what the agents have to mend."""
        await asyncio.gather(*self.tasks)
        self.network.heal()
        for node in self.nodes:
            self.network.arbiter.heal(node)


async def _lived(life: FakePair, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    lived = AgentsLife(life, chance)
    watching = asyncio.create_task(lived.watch())
    try:
        for node in lived.nodes:
            await lived.agents.start(node)
        for _ in range(chance.randint(1, STEPS // 2)):
            await time_passes(chance.choice([0.0, 0.002, 0.05, 0.5, 3.0, 30.0]))
            lived.fault()
        await _healed(lived)
        if lived.copy is not None:
            await _restored(lived, lived.copy)
        assert not watching.done()
    finally:
        watching.cancel()
        await lived.agents.aclose()


async def _healed(lived: AgentsLife) -> None:
    await time_passes(100.0)
    await lived.healed()
    end_s = lived.life.world.now_s + HEALED_S
    while True:
        assert not lived.wrong, (lived.wrong[:5], lived.log)
        if lived.are_protected:
            return
        if lived.life.world.now_s > end_s:
            told = [(t, e.when, e.kind, e.text) for t, e in lived.agents.events[-40:]]
            assert lived.is_for_a_person, (lived.log, told)
            return
        await time_passes(1.0)


async def _restored(lived: AgentsLife, copy: ArbiterBackup) -> None:
    """Restore a copy of an older epoch: no QEMU is ended for that, and a person is asked.

    A copy of the same epoch is not told from a late answer by an arbiter that has no counter, as
    this one; the clients of etcd notice any restored backup.
    """
    older = FakeArbiter()
    older.restore(copy)
    epochs = [await _epoch(arbiter) for arbiter in (older, lived.network.arbiter)]
    if epochs[0] is None or epochs[1] is None or epochs[0] >= epochs[1]:
        return
    before = [one for one in lived.life.world.running if not one.frozen]
    lived.network.arbiter.restore(copy)
    await time_passes(_RESTORED_S)
    assert not lived.wrong, (lived.wrong[:5], lived.log)
    told = [(t, e.when, e.kind, e.text) for t, e in lived.agents.events[-40:]]
    assert all(one.alive and not one.frozen for one in before), (lived.log, told)
    assert lived.is_for_a_person, (lived.log, told)


async def _epoch(arbiter: FakeArbiter) -> int | None:
    """The epoch of the record that an arbiter holds; None if it holds none."""
    held = await arbiter.client(NODES[0]).read("colo", limit_s=1.0)
    return None if held.shared is None else held.shared.record.epoch


def _pair(seed: int) -> ColoPair:
    """A pair, which has a spare in one life of three."""
    pair = declared(checkpoint_delay_ms=500)
    return attrs.evolve(pair, spares=pair.spares[: int(seed % 3 == 0)])


@pytest.mark.parametrize("seed", SEEDS)
def test_random_lives(seed: int) -> None:
    """Whatever comes, nothing is lost, and the pair comes back."""
    in_world("11.1.3", lambda life: _lived(life, seed), _pair(seed))


@pytest.mark.nightly
@pytest.mark.parametrize("hundred", range(100))
def test_ten_thousand_random_lives(hundred: int) -> None:
    """The same with ten thousand schedules."""
    for n in range(100):
        seed = 100 + 100 * hundred + n
        with named(seed):
            in_world("11.1.3", lambda life: _lived(life, seed), _pair(seed))  # noqa: B023 - lived at once

"""The host of the node with the newest data is lost for good, under agents, on fakes."""

from __future__ import annotations

from typing import Final

import attrs
import pytest
from tests.testing.agents import NODES, Agents, Network, play, started
from tests.testing.test_agent_spares import with_a_spare
from tests.testing.test_controller import write
from tests.testing.test_release import alone, put, record_of, released
from tests.testing.test_supervisor import serves
from tests.testing.testbed import FakePair, declared, in_world, time_passes

from pycolo.errors import ArbiterOvertaken, CompileError, UndecidedError
from pycolo.testing import ArbiterBackup

ABSENT: Final = (
    "may have run alone, and its record is absent: find out whose data is right, and see the manual"
    " on recovery"
)


async def lost(life: FakePair, agents: Agents, network: Network) -> None:
    """Have alpha run alone, and lose its host; then end the agents that are left."""
    await alone(life, agents, network)
    await network.lose("alpha")
    await time_passes(60.0)
    assert not life.world.running
    with pytest.raises(ArbiterOvertaken, match="the file of alpha cannot be read"):
        await released(life, network)
    await agents.aclose()
    with pytest.raises(UndecidedError, match="is managed by fake:1"):
        await life.compile_launch("beta", newest="beta")


async def forgotten(life: FakePair, network: Network, empty: ArbiterBackup) -> None:
    """Delete what the arbiter holds of the pair, and its name from beta's file."""
    network.arbiter.restore(empty)
    put(life, "beta", attrs.evolve(await record_of(life, "beta"), managed_by=None))


async def continued(life: FakePair) -> None:
    """Have the guest run on beta, by a person's word."""
    with pytest.raises(CompileError, match="alpha"):
        await life.launch("beta")
    await life.launch("beta", newest="beta")
    await life.run("failover", survivor="beta")
    await life.aclose()
    # Only the writes that beta has are those of its guest from now on.
    life.world.acknowledged.clear()
    write(life)


async def replaced(life: FakePair, network: Network) -> None:
    """Have another host take alpha's name and address, with an empty image folder."""
    life.hosts["alpha"].files.clear()
    await network.bring_back("alpha")


async def assert_protects(life: FakePair, agents: Agents, since: int, other: str) -> None:
    """The agents protect beta's guest by another node, which can continue with every write."""
    count = await agents.protected(since, nodes=("beta", other))
    # Two agents would hinder each other.
    acting = {teller for teller, event in agents.events[since:count] if event.kind == "execution"}
    assert {"beta"} == acting
    assert "beta" == await serves(life)
    write(life)
    life.world.qemu("beta").kill()
    await agents.until("failover is done", node=other, since=count)
    assert other == await serves(life)


@pytest.mark.parametrize(
    ("when", "is_new"),
    [("before", True), ("between", True), ("between", False), ("after", True), ("after", False)],
)
def test_person_continues_with_older_data_and_agents_protect_it(when: str, *, is_new: bool) -> None:
    """Whenever alpha's host is replaced, or is back after all, with its agent."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        empty = network.arbiter.backup()
        await lost(life, agents, network)
        count = len(agents.events)

        async def back(now: str) -> None:
            if now == when:
                await (replaced(life, network) if is_new else network.bring_back("alpha"))
            await time_passes(60.0)

        await forgotten(life, network, empty)
        await back("before")
        assert not life.world.running
        await continued(life)
        await back("between")
        assert ["beta"] == [qemu.node.name for qemu in life.world.running]
        await agents.start("beta")
        if when == "after":
            await agents.until("once every node's record can be read", node="beta", since=count)
            await time_passes(60.0)
            assert "beta" == await serves(life)
        await back("after")
        await assert_protects(life, agents, count, "alpha")
        told = [event.text for _, event in agents.events[count:] if event.kind == "person"]
        assert ([f"alpha {ABSENT}"] if when == "before" else []) == told

    play(scenario)


def test_host_that_is_back_in_time_keeps_the_newest_data() -> None:
    """Its file names the arbiter: no other node is launched, and its own guest runs again."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        empty = network.arbiter.backup()
        await lost(life, agents, network)
        await forgotten(life, network, empty)
        await network.bring_back("alpha")
        await agents.until("whose records are handed to it", node="alpha")
        with pytest.raises(UndecidedError, match="record of alpha is managed by fake:1"):
            await life.compile_launch("beta", newest="beta")
        await agents.aclose()
        put(life, "alpha", attrs.evolve(await record_of(life, "alpha"), managed_by=None))
        count = len(agents.events)
        for node in NODES:
            await agents.start(node)
        await agents.protected(count)
        assert "alpha" == await serves(life)

    play(scenario)


def test_person_has_a_spare_take_the_place_of_the_lost_host() -> None:
    """The lost node is taken out of the pair file."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        empty = network.arbiter.backup()
        await lost(life, agents, network)
        await forgotten(life, network, empty)
        await continued(life)
        beta, gamma = life.pair.node("beta"), life.pair.node("gamma")
        life.pair = attrs.evolve(life.pair, nodes=(beta, gamma), spares=())
        count = len(agents.events)
        for node in ("gamma", "beta"):
            await agents.start(node)
            await time_passes(60.0)
        await assert_protects(life, agents, count, "gamma")

    play(scenario, pair=with_a_spare())


@pytest.mark.parametrize("node", NODES)
def test_pair_is_not_adopted_while_the_record_of_a_node_is_absent_that_may_run(node: str) -> None:
    """It may have continued alone since: a person resumes the pair by its files."""

    async def scenario(life: FakePair) -> None:
        await life.launch(*NODES)
        await life.run("start")
        await life.aclose()
        kept = life.hosts[node].files.copy()
        life.hosts[node].files.clear()
        network = Network(life)
        async with started(network.agents) as agents:
            await agents.until(f"{node} {ABSENT}", node="alpha")
            await time_passes(10.0)
            assert ["person"] == [event.kind for _, event in agents.events]
            held = await network.arbiter.client("me").read(life.pair.name, limit_s=1.0)
            assert held.shared is None
            assert "alpha" == await serves(life)
            await agents.aclose()
            for name in NODES:
                await life.connect(name)
            await life.run("resume")
            await life.aclose()
            assert kept.keys() == life.hosts[node].files.keys()
            for name in NODES:
                await agents.start(name)
            await agents.protected()
            assert "alpha" == await serves(life)

    in_world("11.1.3", scenario, attrs.evolve(declared(), spares=()))

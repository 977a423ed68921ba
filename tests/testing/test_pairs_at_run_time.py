"""Pairs are given to a supervisor or agent, changed and taken from it, on fakes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import attrs
import pytest
from tests.testing.agents import Agents, Network
from tests.testing.agents import play as play_agents
from tests.testing.test_agent_spares import with_a_spare
from tests.testing.test_asked import codes
from tests.testing.test_controller import write
from tests.testing.test_supervisor import Scenario, Watched, kept, protected, quiet, serves
from tests.testing.testbed import FakePair, declared, in_world, time_passes

from pycolo.errors import CompileError, DeclarationError, StoreError
from pycolo.model import ColoPair
from pycolo.supervise import Agent, Store, Supervisor
from pycolo.supervise.control import find, served
from pycolo.supervise.wishes import set_want

NAME: Final = "colo"


def without_spares() -> ColoPair:
    """A pair that declares none."""
    return attrs.evolve(declared(), spares=())


def play(folder: Path, scenario: Scenario) -> None:
    """Play a scenario with a supervisor that keeps a pair without spares."""

    async def played(life: FakePair) -> None:
        with Store(folder) as store:
            async with kept(life, store) as watched:
                await scenario(life, watched)

    in_world("11.1.3", played, without_spares())


async def follows(folder: Path, *, is_asked: bool) -> None:
    """Wait until the pair can be asked for over a socket, or cannot."""
    async with asyncio.timeout(60.0):
        while is_asked != (find(folder, NAME) is not None):
            await time_passes(0.1)


def test_pair_is_added_and_removed(tmp_path: Path) -> None:
    """It is kept and asked from then on; when it is removed, its QEMUs run on, and nobody acts."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        supervisor = watched.supervisor
        async with served(supervisor, tmp_path):
            count = await protected(watched)
            await supervisor.remove(NAME)
            assert ((), (), ()) == (supervisor.pairs, supervisor.statuses, supervisor.measures)
            with pytest.raises(DeclarationError, match="pair"):
                supervisor.status(NAME)
            await follows(tmp_path, is_asked=False)
            assert {"alpha", "beta"} == {qemu.node.name for qemu in life.world.running}
            write(life)
            life.world.qemu("alpha").kill()
            await time_passes(60.0)
            assert count == len(watched.events)
            supervisor.add(life.pair, life.hosts)
            await follows(tmp_path, is_asked=True)
            await watched.until("failover is done", since=count)
            assert "beta" == await serves(life)
            await protected(watched, count)
            assert [life.pair] == list(supervisor.pairs)

    play(tmp_path, scenario)


def test_pair_is_added_before_the_supervisor_is_entered(tmp_path: Path) -> None:
    """It is kept as if it had been given at first."""

    async def scenario(life: FakePair) -> None:
        with Store(tmp_path) as store:
            supervisor = Supervisor((), {}, store)
            supervisor.add(life.pair, life.hosts)
            async with supervisor, asyncio.timeout(600.0):
                while not supervisor.status(NAME).is_protected:
                    await time_passes(0.1)

    in_world("11.1.3", scenario)


def test_pair_that_cannot_be_added_changes_nothing(tmp_path: Path) -> None:
    """Its name is taken, a host is missing, or another supervisor keeps it."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        supervisor = watched.supervisor
        other = attrs.evolve(life.pair, name="other")
        with pytest.raises(DeclarationError, match="be a name that is not kept here yet"):
            supervisor.add(life.pair, life.hosts)
        with pytest.raises(DeclarationError, match="have the host of beta"):
            supervisor.add(other, {"alpha": life.hosts["alpha"]})
        with pytest.raises(DeclarationError, match="be for a node of alpha, beta"):
            supervisor.add(other, life.hosts, fences={"omega": ()})
        with (
            Store(tmp_path) as second,
            second.alone("other"),
            pytest.raises(StoreError, match="another supervisor of other runs"),
        ):
            supervisor.add(other, life.hosts)
        assert [life.pair] == list(supervisor.pairs)
        with pytest.raises(DeclarationError, match="be one of colo"):
            await supervisor.remove("other")
        with pytest.raises(DeclarationError, match="be one of colo"):
            await supervisor.change(other, life.hosts)

    play(tmp_path, scenario)


def test_spare_that_is_declared_later_protects_the_guest(tmp_path: Path) -> None:
    """No QEMU is ended by the change; the host of the old secondary is lost."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        await protected(watched)
        write(life)
        guest = life.world.qemu("alpha")
        life.world.qemu("beta").kill()
        life.world.host("beta").away = True
        count = await watched.until("nobody can show", since=0)
        await watched.supervisor.state_fence(NAME, "beta", who="the test", how="power off")
        await watched.until("no host answers", since=count)
        spared = declared()
        await watched.supervisor.change(spared, life.hosts_of(spared))
        assert (spared,) == watched.supervisor.pairs
        await watched.until("protected", since=await watched.until("resume is done", since=count))
        assert guest is life.world.qemu("alpha")
        assert ["alpha", "gamma"] == list(watched.supervisor.status(NAME).phases)
        # The record names gamma now, so that it has to stay declared.
        with pytest.raises(DeclarationError, match="have gamma, which the record of colo names"):
            await watched.supervisor.change(life.pair, life.hosts)
        assert (spared,) == watched.supervisor.pairs

    play(tmp_path, scenario)


def test_change_of_a_protected_pair_is_no_outage(tmp_path: Path) -> None:
    """Its QEMUs run on, and a death just afterwards is survived."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        before = list(life.world.running)
        changed = attrs.evolve(life.pair, checkpoint_delay_ms=1000)
        await watched.supervisor.change(changed, life.hosts)
        assert before == life.world.running
        life.world.qemu("alpha").kill()
        await watched.until("failover is done", since=count)
        assert "beta" == await serves(life)
        await quiet(watched)

    play(tmp_path, scenario)


def test_pair_that_is_busy_is_kept(tmp_path: Path) -> None:
    """During a plan a pair is neither removed nor changed."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        supervisor = watched.supervisor
        await protected(watched)
        switching = asyncio.create_task(supervisor.switch_over(NAME))
        async with asyncio.timeout(60.0):
            while supervisor.underway(NAME) is None:
                await time_passes(0.001)
        for asked in (supervisor.remove(NAME), supervisor.change(life.pair, life.hosts)):
            with pytest.raises(CompileError) as error:
                await asked
            assert ["at-work"] == codes(error)
        assert 0 == (await switching).exit_code

    play(tmp_path, scenario)


def test_pair_is_taken_from_an_agent_and_given_back() -> None:
    """Not while its fuse is armed; without an agent its node does nothing, and then as before."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        alpha, arbiter = agents.running["alpha"], agents.arbiters["alpha"]
        count = await agents.protected()
        with pytest.raises(CompileError, match="the fuse of alpha guards its QEMU") as error:
            await alpha.remove(NAME)
        assert ["fuse-armed"] == codes(error)
        await set_want(arbiter, NAME, "unprotected", limit_s=1.0)
        await agents.until("alone", node="alpha", since=count)
        await agents.held(())
        guest = life.world.qemu("alpha")
        await alpha.remove(NAME)
        assert () == alpha.pairs
        await set_want(arbiter, NAME, "protected", limit_s=1.0)
        count = len(agents.events)
        await time_passes(60.0)
        assert [] == [text for teller, text in agents.events[count:] if teller == "alpha"]
        assert [guest] == life.world.running
        alpha.add(life.pair, "alpha", agents.hosts("alpha"), guard=network.guards["alpha"])
        await agents.protected(count)
        assert guest is life.world.qemu("alpha")
        write(life)
        guest.kill()
        await agents.until("failover is done", node="beta", since=count)
        assert "beta" == await serves(life)

    play_agents(scenario)


def test_spare_that_agents_learn_of_later_protects_the_guest() -> None:
    """The change of a protected pair is no outage: each agent renews lease and fuse after it."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        write(life)
        before = list(life.world.running)
        spared = with_a_spare()
        for node, agent in agents.running.items():
            hosts = {**agents.hosts(node), "gamma": life.hosts_of(spared)["gamma"]}
            await agent.change(spared, hosts, guard=network.guards[node])
            await time_passes(10.0)
        assert before == life.world.running
        await agents.protected(count)
        assert (spared,) == agents.running["alpha"].pairs
        count = len(agents.events)
        await network.lose("beta")
        await agents.until("resume is done", node="alpha", since=count)
        assert {"alpha", "gamma"} == {qemu.node.name for qemu in life.world.running}
        with pytest.raises(DeclarationError, match="have gamma, which the record of colo names"):
            await agents.running["alpha"].change(life.pair, agents.hosts("alpha"))

    play_agents(scenario)


def test_pair_that_cannot_be_added_to_an_agent_changes_nothing() -> None:
    """It has no such node, its name is taken, or a host is missing; no agent keeps it then."""

    async def scenario(life: FakePair) -> None:
        agent = Agent((), {}, {}, Network(life).arbiter.client("alpha"))
        async with agent:
            with pytest.raises(DeclarationError, match="name a node of colo: alpha, beta"):
                agent.add(life.pair, "omega", life.hosts)
            with pytest.raises(DeclarationError, match="have the host of beta"):
                agent.add(life.pair, "alpha", {"alpha": life.hosts["alpha"]})
            for asked in (agent.remove(NAME), agent.change(life.pair, life.hosts)):
                with pytest.raises(DeclarationError, match="pair must be one of"):
                    await asked
            assert () == agent.pairs
            agent.add(life.pair, "beta", life.hosts)
            with pytest.raises(DeclarationError, match="be a name that is not kept here yet"):
                agent.add(life.pair, "alpha", life.hosts)

    in_world("11.1.3", scenario, without_spares())

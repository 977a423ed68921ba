"""The fuse of an agent's host, on fakes: who renews it, and when it may be disarmed."""

from __future__ import annotations

import asyncio

import attrs
import pytest
from tests.testing.agents import NODES, Agents, Network, play, started
from tests.testing.test_controller import write
from tests.testing.test_supervisor import serves
from tests.testing.testbed import FakePair, declared, in_world, time_passes

from pycolo.model import Supervision
from pycolo.supervise import Arbiter, Held, SharedRecord

SELDOM = attrs.evolve(declared(checkpoint_delay_ms=20000), spares=())
"A pair that makes fewer checkpoints than its fuse needs."


def test_agent_that_is_started_in_an_outage_renews_the_fuse() -> None:
    """It takes over what the agent before it has armed, and has checkpoints made."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        before = list(life.world.running)
        for node in NODES:
            network.arbiter.cut(node)
            await agents.stop(node)
            await agents.start(node)
        await time_passes(120.0)
        assert network.guards["alpha"].stopped is None
        assert before == life.world.running
        assert not [e for _, e in agents.events[count:] if e.kind == "action"]
        for node in NODES:
            network.arbiter.heal(node)
        await agents.protected(count)
        assert before == life.world.running

    play(scenario, pair=SELDOM)


def test_agents_that_are_started_after_a_restore_renew_the_fuse() -> None:
    """The record is older than what the fuse was armed for: a person decides, in peace."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.until("following", node="beta")
        backup = network.arbiter.backup()
        count = await agents.protected(count)
        life.world.qemu("alpha").kill()
        count = await agents.until("failover is done", node="beta", since=count)
        count = await agents.protected(count)
        before = list(life.world.running)
        network.arbiter.restore(backup)
        for node in NODES:
            await agents.stop(node)
            await agents.start(node)
        await agents.until("was restored from a backup", node="beta", since=count)
        await time_passes(120.0)
        assert network.guards["beta"].stopped is None
        assert before == life.world.running
        assert "beta" == await serves(life)

    play(scenario, pair=SELDOM)


def test_fuse_of_an_adopted_pair_is_armed_at_once() -> None:
    """A pair that COLO protects already: its secondary may take over by a lease from now on."""

    async def scenario(life: FakePair) -> None:
        await life.launch("alpha", "beta")
        await life.run("start")
        await life.aclose()
        write(life)
        network = Network(life)
        async with started(network.agents) as agents:
            count = await agents.protected()
            held = await agents.held(NODES)
            assert held.shared is not None
            assert {"alpha": life.pair.supervision.fuse_s} == held.shared.fuses
            loser = life.world.qemu("alpha")
            assert loser.line.name == network.guards["alpha"].guarded
            network.cut()
            network.arbiter.cut("alpha")
            await agents.until("continues alone", node="beta", since=count)
            assert loser.frozen
            await agents.until("failover is done", node="beta", since=count)
            assert "beta" == await serves(life)

    in_world("11.1.3", scenario, SELDOM)


def test_fuse_is_disarmed_after_what_is_under_way_can_do_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A change that makes the secondary eligible is late, and changes nothing (Patroni's trap)."""
    late: list[SharedRecord] = []

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        arbiter, loop = network.arbiter.client("alpha"), asyncio.get_running_loop()
        right = type(arbiter).swap

        async def swap(
            self: Arbiter,
            pair: str,
            held: Held,
            shared: SharedRecord,
            *,
            no_lease_of: str | None = None,
            limit_s: float,
        ) -> Held:
            if shared.record.phase == "protected" and not late:
                late.append(shared)
                network.arbiter.delay("alpha", there_s=4.0)
                # What is asked after it is faster.
                loop.call_soon(network.arbiter.heal, "alpha")
            return await right(self, pair, held, shared, no_lease_of=no_lease_of, limit_s=limit_s)

        monkeypatch.setattr(type(arbiter), "swap", swap)
        while not late:
            await time_passes(0.01)
        primary = life.world.qemu("alpha")
        async with asyncio.timeout(30.0):
            while network.guards["alpha"].guarded:
                await time_passes(0.01)
        # From here its agent cannot renew anything.
        await agents.stop("alpha")
        await time_passes(10.0)
        held = await network.arbiter.client("beta").read("colo", limit_s=1.0)
        assert held.shared is not None
        assert {"alpha": primary.line.name} == held.shared.record.eligible
        assert "alpha" == await serves(life)

    play(scenario)


def test_checkpoint_renews_the_fuse_from_its_beginning() -> None:
    """The secondary took part in it then; it may have left COLO before the primary continued."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await agents.protected()
        primary, guard = life.world.qemu("alpha"), network.guards["alpha"]
        network.arbiter.cut("alpha")
        while primary.live.run_state != "colo":
            await time_passes(0.005)
        # It has what the secondary answered, and does not continue for a while.
        began_s = life.world.now_s
        await time_passes(0.04)
        primary.freeze()
        await time_passes(0.9)
        assert guard.renewed_s < began_s
        primary.thaw()
        life.world.cut(*NODES)
        await time_passes(0.2)
        assert primary.live.run_state != "colo"
        # The renewal came, and counts from no later moment.
        assert began_s - 0.5 <= guard.renewed_s <= began_s

    play(scenario, pair=attrs.evolve(declared(), spares=(), supervision=Supervision(fuse_s=8.0)))


def test_claimer_whose_host_is_gone_leaves_the_primary_to_its_agent() -> None:
    """The fuse stopped the primary because of the claim: its own claim lets it continue."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        write(life)
        primary, secondary = life.world.qemu("alpha"), life.world.qemu("beta")
        # It hangs for a while; and then the host of whoever has claimed the pair ends.
        primary.freeze()
        network.agents.cut_hosts()
        count = await agents.until("claims the pair from alpha", node="beta", since=count)
        network.cut()
        network.arbiter.cut("beta")
        secondary.freeze()
        await agents.stop("beta")
        primary.thaw()
        count = await agents.until("claims the pair from beta", node="alpha", since=count)
        assert primary.frozen
        await agents.until("failover is done", node="alpha", since=count)
        assert primary.alive
        assert not primary.frozen
        assert "alpha" == await serves(life)
        # Its host comes back: it finds that the other one serves.
        secondary.thaw()
        network.heal()
        network.arbiter.heal("beta")
        await agents.start("beta")
        await agents.protected(count)
        assert not secondary.alive
        assert "alpha" == await serves(life)

    play(scenario)

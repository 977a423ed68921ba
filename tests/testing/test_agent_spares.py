"""A pair with a spare under three agents, on fakes: the spare takes the place of a lost host."""

from __future__ import annotations

from typing import Final

import attrs
import pytest
from tests.testing.agents import NODES, Agents, Network, play
from tests.testing.test_controller import has_all, write
from tests.testing.test_supervisor import serves
from tests.testing.testbed import FakePair, declared, time_passes

from pycolo.errors import CompileError
from pycolo.model import ColoPair

NAME: Final = "colo"


def with_a_spare() -> ColoPair:
    """A pair with one spare, gamma."""
    pair = declared()
    return attrs.evolve(pair, spares=pair.spares[:1])


@pytest.mark.parametrize("lost", NODES)
def test_spare_takes_the_place_of_a_lost_host(lost: str) -> None:
    """The other node continues with every write, and the spare's agent becomes its secondary's."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        write(life)
        left = next(node for node in NODES if node != lost)
        await network.lose(lost)
        count = await agents.until("failover is done", node=left, since=count)
        assert left == await serves(life)
        await agents.protected(count, nodes=(left, "gamma"))
        write(life)
        # The spare is one of the pair: it takes over, and there is no guest on the lost host.
        life.world.qemu(left).kill()
        count = await agents.until("failover is done", node="gamma", since=count)
        assert "gamma" == await serves(life)
        await agents.protected(count, nodes=(left, "gamma"))
        assert not [e.text for _, e in agents.events[count:] if e.kind == "person"]

    play(scenario, pair=with_a_spare())


def test_host_that_is_back_is_the_spare() -> None:
    """What it held before gives no rights: its agent follows, and is used when a host is lost."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        await network.lose("beta")
        await agents.protected(count, nodes=("alpha", "gamma"))
        count = len(agents.events)
        await network.bring_back("beta")
        await agents.until("following", node="beta", since=count)
        await time_passes(120.0)
        assert {"alpha", "gamma"} == {qemu.node.name for qemu in life.world.running}
        write(life)
        await network.lose("alpha")
        count = await agents.until("failover is done", node="gamma", since=count)
        assert "gamma" == await serves(life)
        await agents.protected(count, nodes=("gamma", "beta"))

    play(scenario, pair=with_a_spare())


def test_agent_of_a_spare_is_not_asked_to_move_the_guest() -> None:
    """It says whom to ask; the two others are asked, with the spare as one of them, too."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await agents.protected()
        with pytest.raises(CompileError, match="gamma is a spare of colo now"):
            await agents.running["gamma"].switch_over(NAME)
        await network.lose("beta")
        await agents.protected(nodes=("alpha", "gamma"))
        report = await agents.running["alpha"].switch_over(NAME)
        assert 0 == report.exit_code
        assert "gamma" == has_all(life)

    play(scenario, pair=with_a_spare())

"""An agent on each host, on fakes: whoever continues alone has asked the arbiter first."""

from __future__ import annotations

import pytest
from tests.testing.agents import Agents, play
from tests.testing.test_controller import write
from tests.testing.test_supervisor import serves
from tests.testing.testbed import FakePair


def test_a_new_pair_is_protected() -> None:
    """Two agents and an empty arbiter: the first node is launched, and the second one protects."""

    async def scenario(life: FakePair, agents: Agents) -> None:
        await agents.protected()
        write(life)
        assert "alpha" == await serves(life)
        held = await agents.held({"alpha", "beta"})
        assert held.shared is not None
        assert "protected" == held.shared.record.phase
        assert {"alpha"} == held.shared.fuses

    play(scenario)


@pytest.mark.parametrize(("victim", "survivor"), [("alpha", "beta"), ("beta", "alpha")])
def test_death_is_survived(victim: str, survivor: str) -> None:
    """Whoever dies, the other one continues with every write, and is protected again."""

    async def scenario(life: FakePair, agents: Agents) -> None:
        count = await agents.protected()
        write(life)
        life.world.qemu(victim).kill()
        count = await agents.until("failover is done", node=survivor, since=count)
        assert survivor == await serves(life)
        await agents.protected(count)
        write(life)
        assert survivor == await serves(life)

    play(scenario)

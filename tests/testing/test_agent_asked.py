"""What agents do on request beside moves, on fakes: as a supervisor does, where the guest runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.testing.agents import NODES, Agents, Network, play
from tests.testing.test_agent_switch_over import NAME, codes
from tests.testing.test_supervisor import serves
from tests.testing.testbed import FakePair, time_passes

from pycolo.cli import _measure
from pycolo.errors import CompileError
from pycolo.plan import Options, Procedure
from pycolo.supervise.control import of_agents, served
from pycolo.supervise.wishes import read_wish, set_paused, set_want


@pytest.mark.parametrize("paused", [None, "by the test"])
def test_agent_of_the_primary_does_what_changes_no_record(paused: str | None) -> None:
    """Also during a pause: a supervisor leaves its monitors to `pycolo run` then, an agent not."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        count = await agents.protected()
        if paused is not None:
            await set_paused(agents.arbiters["alpha"], NAME, paused, limit_s=1.0)
            for node in NODES:
                await agents.until("supervision is paused", node=node, since=count)
        before = list(life.world.running)
        alpha, beta = (agents.running[node] for node in NODES)
        assert 0 == (await alpha.checkpoint(NAME)).exit_code
        report = await alpha.perform(
            NAME, "set-checkpoint-delay", options=Options(checkpoint_delay_ms=700)
        )
        assert 0 == report.exit_code
        await time_passes(30.0)
        assert 700 == life.world.qemu("alpha").live.checkpoint_delay_ms
        procedures: tuple[Procedure, ...] = ("checkpoint", "set-checkpoint-delay")
        for procedure in procedures:
            with pytest.raises(CompileError, match="ask it, on the host of alpha") as error:
                await beta.perform(NAME, procedure)
            assert ["not-a-member"] == codes(error)
        assert before == life.world.running
        assert "alpha" == await serves(life)
        assert not [e for _, e in agents.events[count:] if e.kind in ("person", "trouble")]

    play(scenario)


def test_agent_of_the_primary_shuts_the_guest_down() -> None:
    """Not during a pause, and not by the other agent; nobody boots it again until it is wanted."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        count = await agents.protected()
        arbiter = agents.arbiters["alpha"]
        await set_paused(arbiter, NAME, "by the test", limit_s=1.0)
        await agents.until("supervision is paused", node="alpha", since=count)
        with pytest.raises(CompileError, match="`pycolo unpause` with --agent first") as error:
            await agents.running["alpha"].shutdown(NAME)
        assert ["supervision-paused"] == codes(error)
        await set_paused(arbiter, NAME, None, limit_s=1.0)
        async with asyncio.timeout(60.0):
            while any(agents.running[node].status(NAME).paused is not None for node in NODES):
                await time_passes(0.1)
        with pytest.raises(CompileError, match="ask it, on the host of alpha"):
            await agents.running["beta"].shutdown(NAME)
        assert 0 == (await agents.running["alpha"].shutdown(NAME)).exit_code
        async with asyncio.timeout(60.0):
            while (await read_wish(arbiter, NAME, limit_s=1.0)).want != "stopped":
                await time_passes(0.1)
        await time_passes(60.0)
        assert [] == life.world.running
        count = len(agents.events)
        await set_want(arbiter, NAME, "protected", limit_s=1.0)
        await agents.protected(count)

    play(scenario)


def test_checkpoints_are_measured_by_the_agent_of_the_primary(tmp_path: Path) -> None:
    """The agents hold the observer monitors; the secondary's agent says whom to ask."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        await agents.protected()
        await agents.running["alpha"].perform(
            NAME, "set-checkpoint-delay", options=Options(checkpoint_delay_ms=500)
        )
        await time_passes(30.0)
        of_agents(tmp_path).mkdir()
        async with served(agents.running["beta"], of_agents(tmp_path)):
            with pytest.raises(CompileError, match="ask it, on the host of alpha"):
                await _measure.measured(life.pair, tmp_path, 5.0)
        async with served(agents.running["alpha"], of_agents(tmp_path)):
            pace = await _measure.measured(life.pair, tmp_path, 5.0)
        assert 500 == pace.delay_ms
        assert 8 <= len(pace.pauses_s) <= 11

    play(scenario)

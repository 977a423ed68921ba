"""A spare takes the place of the secondary on request, on fakes, while the guest runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest
from tests.testing.agents import Agents, Network
from tests.testing.agents import play as play_agents
from tests.testing.test_agent_spares import with_a_spare
from tests.testing.test_asked import codes
from tests.testing.test_controller import write
from tests.testing.test_supervisor import Watched, play, protected, serves
from tests.testing.testbed import FakePair, time_passes

from pycolo.cli._supervised import Move
from pycolo.errors import CompileError, DeclarationError
from pycolo.observers import Observer
from pycolo.supervise.control import find, served

NAME: Final = "colo"


def members(life: FakePair) -> set[str]:
    """The nodes whose QEMU runs."""
    return {qemu.node.name for qemu in life.world.running}


async def with_partner(watched: Watched, node: str) -> None:
    """Wait until alpha is protected by a node."""
    async with asyncio.timeout(600.0):
        while not (status := watched.supervisor.status(NAME)).is_protected or [
            "alpha",
            node,
        ] != list(status.phases):
            await time_passes(0.1)


def test_spare_becomes_the_secondary_while_the_guest_runs(tmp_path: Path) -> None:
    """The guest stays where it is, with every write; the old secondary is a spare."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        guest = life.world.qemu("alpha")
        async with served(watched.supervisor, tmp_path):
            control = find(tmp_path, NAME)
            assert control is not None
            report = await Move(control=control, to="delta")(Observer(), recorder=None)
        assert (0, "stop") == (report.exit_code, report.plan.procedure)
        await with_partner(watched, "delta")
        assert guest is life.world.qemu("alpha")
        assert {"alpha", "delta"} == members(life)
        # It takes over as any secondary does.
        write(life)
        life.world.qemu("alpha").kill()
        await watched.until("failover is done", since=count)
        assert "delta" == await serves(life)
        assert not [event for event in watched.events if event.kind in ("person", "trouble")]

    play(tmp_path, scenario)


def test_move_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """The secondary is not ended before it is known that the spare's host answers."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        before = list(life.world.running)
        for node, code, text in (
            ("alpha", "place-unclear", "alpha has the guest; name a spare"),
            ("beta", "place-unclear", "beta is the secondary already"),
            ("gamma", "no-host", "no secondary can be launched on gamma"),
        ):
            life.world.host("gamma").away = True
            with pytest.raises(CompileError, match=text) as error:
                await watched.supervisor.move(NAME, node)
            assert [code] == codes(error)
        with pytest.raises(DeclarationError, match="omega"):
            await watched.supervisor.move(NAME, "omega")
        watched.store.pause(NAME, "by the test")
        await watched.until("supervision is paused", since=count)
        with pytest.raises(CompileError, match="is paused by the test"):
            await watched.supervisor.move(NAME, "delta")
        assert before == life.world.running

    play(tmp_path, scenario)


def test_spare_that_fails_meanwhile_leaves_the_pair_to_another_node(tmp_path: Path) -> None:
    """It is said, and a secondary is launched where it can be."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        report = await watched.supervisor.move(NAME, "gamma")
        assert 0 == report.exit_code
        life.world.host("gamma").away = True
        for qemu in list(life.world.running):
            if qemu.node.name == "gamma":
                qemu.kill()
        await watched.until("the secondary is not moved to gamma", since=count)
        await with_partner(watched, "beta")
        assert {"alpha", "beta"} == members(life)
        assert "alpha" == await serves(life)

    play(tmp_path, scenario)


def test_agent_of_the_primary_moves_the_secondary() -> None:
    """The other agents say whom to ask; the spare's agent takes over later."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        count = await agents.protected()
        write(life)
        for node in ("beta", "gamma"):
            with pytest.raises(CompileError, match="on the host of alpha"):
                await agents.running[node].move(NAME, "gamma")
        assert 0 == (await agents.running["alpha"].move(NAME, "gamma")).exit_code
        await agents.protected(count, nodes=("alpha", "gamma"))
        await time_passes(60.0)
        assert {"alpha", "gamma"} == members(life)
        count = len(agents.events)
        write(life)
        life.world.qemu("alpha").kill()
        await agents.until("failover is done", node="gamma", since=count)
        assert "gamma" == await serves(life)

    play_agents(scenario, pair=with_a_spare())

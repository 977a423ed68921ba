"""A spare takes the place of the secondary on request, on fakes, while the guest runs."""

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
from tests.testing.test_supervisor import Watched, kept, play, protected, serves
from tests.testing.testbed import FakePair, in_world, time_passes
from typing_extensions import override

from pycolo.cli._supervised import Move
from pycolo.errors import CompileError, DeclarationError
from pycolo.observers import Observer
from pycolo.plan import Plan, Step
from pycolo.supervise import Store, Supervisor
from pycolo.supervise.control import find, served
from pycolo.supervise.wishes import read_wish, set_want

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


class Ends(Observer):
    """Takes note that a step has begun, at which the supervisor is ended."""

    def __init__(self, step: int) -> None:
        self._left = step
        self.begun = asyncio.Event()

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        self._left -= 1
        if self._left < 0:
            self.begun.set()


async def ended_at(supervisor: Supervisor, step: int) -> None:
    """Have the secondary moved to delta, until a step of its end has begun."""
    ends = Ends(step)
    moving = asyncio.create_task(supervisor.move(NAME, "delta", observer=ends))
    begun = asyncio.create_task(ends.begun.wait())
    await asyncio.wait((moving, begun), return_when=asyncio.FIRST_COMPLETED)
    for task in (moving, begun):
        task.cancel()
    await asyncio.gather(moving, begun, return_exceptions=True)


@pytest.mark.parametrize("step", [0, 3, 5, 8])
def test_next_supervisor_carries_a_move_on(tmp_path: Path, step: int) -> None:
    """Wherever the first one was ended: the spare becomes the secondary, or it is said to retry."""

    async def scenario(life: FakePair) -> None:
        with Store(tmp_path) as store:
            async with kept(life, store) as first:
                await protected(first)
                write(life)
                guest = life.world.qemu("alpha")
                await ended_at(first.supervisor, step)
            assert "delta" == store.read(NAME).moves_to
            async with kept(life, store) as second:
                async with asyncio.timeout(600.0):
                    while store.read(NAME).moves_to is not None:
                        await time_passes(0.1)
                asks = [e for e in second.events if "type `pycolo move PAIRFILE --to" in e.text]
                await with_partner(second, "beta" if asks else "delta")
                assert guest is life.world.qemu("alpha")
                assert "alpha" == await serves(life)

    in_world("11.1.3", scenario)


def test_move_that_was_not_begun_is_to_be_asked_for_again(tmp_path: Path) -> None:
    """The secondary is not ended by a supervisor that nobody has asked for that since."""

    async def scenario(life: FakePair) -> None:
        with Store(tmp_path) as store:
            async with kept(life, store) as first:
                await protected(first)
            # The first one has ended after it had stored the move, and before it did anything.
            store.move(NAME, "delta")
            async with kept(life, store) as second:
                await second.until("type `pycolo move PAIRFILE --to delta` again")
                await with_partner(second, "beta")
                assert store.read(NAME).moves_to is None

    in_world("11.1.3", scenario)


def test_other_wish_ends_a_move(tmp_path: Path) -> None:
    """The store says so before the supervisor reads it, and the supervisor says it."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        await protected(watched)
        await watched.supervisor.move(NAME, "delta")
        watched.store.want(NAME, "unprotected")
        assert watched.store.read(NAME).moves_to is None
        await watched.until("unprotected is wanted; the secondary moves to delta no more")
        watched.store.want(NAME, "protected")
        await with_partner(watched, "beta")
        assert {"alpha", "beta"} == members(life)

    play(tmp_path, scenario)


def test_agent_that_is_started_again_carries_a_move_on() -> None:
    """The arbiter holds it, until the spare protects the guest; another wish ends it, too."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        guest, arbiter = life.world.qemu("alpha"), network.arbiter.client("alpha")
        assert 0 == (await agents.running["alpha"].move(NAME, "gamma")).exit_code
        await agents.stop("alpha")
        shared = (await arbiter.read(NAME, limit_s=1.0)).shared
        assert shared is not None
        assert "gamma" == shared.moves_to
        await agents.start("alpha")
        await agents.protected(count, nodes=("alpha", "gamma"))
        assert guest is life.world.qemu("alpha")
        async with asyncio.timeout(600.0):
            while (await read_wish(arbiter, NAME, limit_s=1.0)).moves_to is not None:
                await time_passes(0.1)
        held = await arbiter.read(NAME, limit_s=1.0)
        assert held.shared is not None
        await arbiter.swap(NAME, held, attrs.evolve(held.shared, moves_to="beta"), limit_s=1.0)
        assert (await set_want(arbiter, NAME, "unprotected", limit_s=1.0)).moves_to is None

    play_agents(scenario, pair=with_a_spare())


def test_agent_refuses_a_move_that_the_arbiter_does_not_store() -> None:
    """Else nobody would know of it after the end of this agent: the secondary is kept."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await agents.protected()
        before = list(life.world.running)
        network.arbiter.cut("alpha")
        with pytest.raises(CompileError) as error:
            await agents.running["alpha"].move(NAME, "gamma")
        assert ["no-agent"] == codes(error)
        network.arbiter.heal("alpha")
        await time_passes(30.0)
        assert before == life.world.running

    play_agents(scenario, pair=with_a_spare())

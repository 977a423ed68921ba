"""The guest of a pair under agents is moved on purpose, on fakes: no write and no guest is lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, final

import attrs
import pytest
from tests.testing.agents import NODES, Agents, Network, play
from tests.testing.test_controller import has_all, refuse_a_write, write
from tests.testing.test_supervised_lives import Life
from tests.testing.test_supervisor import serves
from tests.testing.testbed import FakePair, time_passes
from typing_extensions import override

from pycolo import wire
from pycolo.cli._options import Asked
from pycolo.cli._supervised import acts
from pycolo.compiler import compile_plan
from pycolo.compiler.dispatch import check_compiled
from pycolo.errors import CommandUnknown, CompileError
from pycolo.observers import Observer
from pycolo.plan import Options, Plan, Step
from pycolo.supervise._arbitration import Arbitration
from pycolo.supervise.control import of_agents, served
from pycolo.supervise.wishes import set_paused

NAME: Final = "colo"
_ASKED: Final = Asked(
    survivor=None,
    peer=None,
    dialect="auto",
    fenced=None,
    ms=None,
    assume_good=(),
    nodes=(),
    newest=None,
)
_STOP: Final = 4
"The number of the step that ends the primary's QEMU."


@final
@attrs.define(eq=False)
class _At(Observer):
    """Calls a function as a step of a number, or with a text in its address, begins."""

    step: int | str
    call: Callable[[], None]
    begun: int = 0

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        is_it = self.step == self.begun if isinstance(self.step, int) else self.step in step.address
        self.begun += 1
        if is_it:
            self.call()


def codes(error: pytest.ExceptionInfo[CompileError]) -> list[str]:
    """What stood in the way."""
    return [finding.code for finding in error.value.findings]


@pytest.mark.parametrize("asked", NODES)
def test_switch_over_moves_the_guest_and_protects_it_again(tmp_path: Path, asked: str) -> None:
    """Whichever agent is asked, the secondary serves with every write, and has a new secondary."""
    of_agents(tmp_path).mkdir()

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        write(life)
        old = life.world.qemu("alpha")
        async with served(agents.running[asked], of_agents(tmp_path)):
            act = await asyncio.to_thread(acts, tmp_path, NAME, "switch-over", _ASKED)
            assert act is not None
            report = await act(Observer(), recorder=None)
        assert (0, "switch-over") == (report.exit_code, report.plan.procedure)
        assert not old.alive
        assert "beta" == has_all(life)
        await agents.protected(count)
        write(life)
        assert "beta" == await serves(life)
        assert ["beta"] == list(agents.running["beta"].status(NAME).phases)
        assert not [e for _, e in agents.events[count:] if e.kind in ("person", "trouble")]
        held = await agents.held(set(NODES))
        assert held.shared is not None
        assert "beta" == held.shared.record.holder
        assert None is network.guards["alpha"].stopped

    play(scenario)


def test_there_and_back_again() -> None:
    """One agent is asked each time, as the primary's and as the secondary's."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        count = await agents.protected()
        for holder in ("beta", "alpha", "beta"):
            write(life)
            await agents.running["alpha"].switch_over(NAME)
            assert holder == has_all(life)
            count = await agents.protected(count)

    play(scenario)


@pytest.mark.parametrize("asked", NODES)
def test_switch_over_of_what_is_not_protected_is_refused(asked: str) -> None:
    """While the secondary joins again, and while supervision is paused; nothing is changed."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        arbiter = network.arbiter.client("alpha")
        await set_paused(arbiter, NAME, "by the test", limit_s=1.0)
        await agents.until("supervision is paused", node=asked, since=count)
        with pytest.raises(CompileError) as error:
            await agents.running[asked].switch_over(NAME)
        assert ["supervision-paused"] == codes(error)
        await set_paused(arbiter, NAME, None, limit_s=1.0)
        count = await agents.until("protected is wanted", node=asked, since=len(agents.events))
        life.world.qemu("beta").kill()
        await agents.until("failover is done", node="alpha", since=count)
        with pytest.raises(CompileError) as error:
            await agents.running[asked].switch_over(NAME)
        assert codes(error)[0] in ("not-protected", "at-work")
        await agents.protected(count)
        assert "alpha" == await serves(life)

    play(scenario)


@pytest.mark.parametrize("asked", NODES)
def test_without_an_arbiter_it_is_refused(asked: str) -> None:
    """Nobody could fail over, and the guest would stop."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await agents.protected()
        before = list(life.world.running)
        network.arbiter.cut(asked)
        await time_passes(5.0)
        with pytest.raises(CompileError, match="the arbiter gives no answer") as error:
            await agents.running[asked].switch_over(NAME)
        assert ["no-agent"] == codes(error)
        assert before == life.world.running

    play(scenario)


def test_without_the_agent_that_would_fail_over_it_is_refused() -> None:
    """Its lease has run out: the primary is not ended."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        await agents.protected()
        before = list(life.world.running)
        await agents.stop("beta")
        await agents.held({"alpha"})
        await time_passes(1.0)
        with pytest.raises(CompileError, match="the agent of beta does not renew its lease"):
            await agents.running["alpha"].switch_over(NAME)
        assert before == life.world.running

    play(scenario)


@pytest.mark.parametrize("fault", ["pause", "arbiter", "agent"])
def test_primary_is_ended_only_if_somebody_fails_over(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The arbiter is asked at that very step; else the guest runs on where it is."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await agents.protected()
        before = list(life.world.running)
        tasks: list[asyncio.Task[object]] = []
        if fault == "agent":
            await agents.stop("beta")
            await agents.held({"alpha"})
            # As if the lease had run out during the checkpoint.
            monkeypatch.setattr(Arbitration, "lacks_lease", lambda *_: False)

        def happens() -> None:
            if fault == "arbiter":
                network.arbiter.cut("alpha")
            if fault == "pause":
                arbiter = network.arbiter.client("beta")
                pausing = set_paused(arbiter, NAME, "by the test", limit_s=1.0)
                tasks.append(asyncio.create_task(pausing))

        seen = _At("checkpoint", happens)
        report = await agents.running["alpha"].switch_over(NAME, observer=seen)
        await asyncio.gather(*tasks)
        assert "alpha/stop-qemu" == (report.failed or "").rpartition("/")[0]
        assert before == life.world.running
        assert "alpha" == await serves(life)

    play(scenario)


@pytest.mark.parametrize("says", [True, False])
def test_agent_that_cannot_ask_the_other_host_fails_over(
    monkeypatch: pytest.MonkeyPatch, *, says: bool
) -> None:
    """The other agent states the end; if it ends before that, its lease runs out."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        write(life)

        async def says_nothing(*_: object) -> None:
            network.arbiter.cut("alpha")
            monkeypatch.undo()

        if not says:
            monkeypatch.setattr(Arbitration, "say_end", says_nothing)
        begun_s = life.world.now_s
        ending = _At("stop-qemu", agents.cut_hosts)
        report = await agents.running["alpha"].switch_over(NAME, observer=ending)
        assert 0 == report.exit_code
        lease_s = life.pair.supervision.lease_s
        assert says == (life.world.now_s - begun_s < lease_s)
        assert "beta" == has_all(life)
        agents.heal_hosts()
        network.arbiter.heal("alpha")
        await agents.protected(count)
        assert "beta" == await serves(life)

    play(scenario)


async def _interrupted(life: FakePair, agents: Agents, asked: str, victim: str, step: int) -> int:
    """Have an agent end as a step of a switch-over begins; gives how many steps had begun.

    Also see that a guest serves soon, that there is only one at each moment, and that it has every
    write.
    """
    count = await agents.protected()
    lived = Life(life, random.Random(0))  # noqa: S311 - not used
    watching = asyncio.create_task(lived.watch())
    stopping: list[asyncio.Task[None]] = []
    seen = _At(step, lambda: stopping.append(asyncio.create_task(agents.stop(victim))))
    with contextlib.suppress(CommandUnknown):
        await agents.running[asked].switch_over(NAME, observer=seen)
    await asyncio.gather(*stopping)
    if stopping:
        await time_passes(0.5)
        await agents.start(victim)
    # If nothing has happened yet, no agent says anything.
    await time_passes(60.0)
    assert all(agents.running[node].status(NAME).is_protected for node in NODES)
    assert await serves(life) in NODES
    watching.cancel()
    assert not lived.wrong
    assert not [e.text for _, e in agents.events[count:] if e.kind == "person"]
    return seen.begun


_FEW = ("alpha", "alpha"), ("alpha", "beta"), ("beta", "beta")
_ALL = tuple((asked, victim) for asked in NODES for victim in NODES)


def _play_all(asked: str, victim: str, steps: Iterable[int]) -> int:
    """Play a switch-over once for each step; gives how many steps the last one had."""
    begun = 0
    for step in steps:

        async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
            nonlocal begun
            begun = await _interrupted(life, agents, asked, victim, step)  # noqa: B023 - played at once

        play(scenario)
        if begun <= step:
            break
    return begun


@pytest.mark.parametrize(("asked", "victim"), _FEW)
def test_agent_that_ends_as_the_primary_is_ended(asked: str, victim: str) -> None:
    """Either nothing has happened, or the guest moves; it is protected again, and lacks nothing."""
    _play_all(asked, victim, (_STOP,))


@pytest.mark.nightly
@pytest.mark.parametrize(("asked", "victim"), _ALL)
def test_agent_that_ends_at_any_step(asked: str, victim: str) -> None:
    """The same at each step."""
    assert _play_all(asked, victim, itertools.count()) > _STOP


def test_failed_disk_of_a_primary_moves_the_guest() -> None:
    """The primary's agent hands over, as on request, and the other one fails over."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        count = await agents.protected()
        refuse_a_write(life)
        await agents.until("switch-over is done", node="alpha", since=count)
        assert "beta" == has_all(life)
        await agents.protected(count)
        assert "beta" == await serves(life)
        told = [event.text for _, event in agents.events[count:] if event.kind == "trouble"]
        assert not told

    play(scenario)


def test_plan_that_leaves_the_failover_is_compiled_again() -> None:
    """Its option is in the plan; and it can be left to the secondary alone."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        await agents.protected()
        report = await agents.running["alpha"].switch_over(NAME)
        check_compiled(report.plan)
        written = wire.plan_to_json(report.plan)
        assert report.plan == wire.plan_from_json(written)
        options = Options(left_to="alpha")
        with pytest.raises(CompileError, match="beta is to have the guest"):
            compile_plan("switch-over", life.pair, report.plan.prior_state, options)

    play(scenario)

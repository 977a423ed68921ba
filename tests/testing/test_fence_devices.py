"""Fences of a program's own, on fakes: their order, what they answer, and what is made of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, final

import attrs
import pytest
from tests.testing.agents import NODES, Agents, Network, play
from tests.testing.test_controller import write
from tests.testing.test_supervisor import kept, protected, serves
from tests.testing.testbed import FakePair, declared, in_world, time_passes
from typing_extensions import override

from pycolo.errors import DeclarationError
from pycolo.evidence import Evidence, Victim
from pycolo.model import ColoPair, Fence
from pycolo.plan import HostAction, StopQemu
from pycolo.supervise import Agent, Arbiter, FenceDevice, NotFenced, Store, Supervisor
from pycolo.supervise.fences import fenced
from pycolo.testing import FakeArbiter, FakeHost, World

VICTIM: Final = Victim(node="alpha", instance="colo:alpha:00000001", epoch=7)


class Answer(Protocol):
    """What a fake fence does, and answers."""

    __name__: str

    async def __call__(self, victim: Victim, /) -> Evidence | NotFenced:
        """Fence a QEMU."""


@final
class FakeFence(FenceDevice):
    """A fence that answers as a test has it, and knows about whom it was asked."""

    def __init__(self, name: str, answer: Answer, *, limit_s: float = 5.0) -> None:
        self._name = name
        self._answer = answer
        self._limit_s = limit_s
        self.asked: list[Victim] = []

    @property
    @override
    def name(self) -> str:
        return self._name

    @property
    @override
    def limit_s(self) -> float:
        return self._limit_s

    @override
    async def fence(self, pair: ColoPair, victim: Victim) -> Evidence | NotFenced:
        self.asked.append(victim)
        return await self._answer(victim)


def evidence(victim: Victim) -> Evidence:
    """Evidence of a fence about a QEMU."""
    return Evidence.of(victim, kind="fence", who="the cloud", how="it is off", when="now")


async def says_off(victim: Victim) -> Evidence:
    """Answer that the QEMU has ended."""
    return evidence(victim)


async def refuses(_: Victim) -> NotFenced:
    """Answer that it cannot."""
    return NotFenced(why="the cloud\nrefuses it")


async def hangs(_: Victim) -> NotFenced:
    """Give no answer."""
    await asyncio.Event().wait()
    return NotFenced(why="never")


async def ignores_its_end(victim: Victim) -> NotFenced:
    """Give no answer, even if it is cancelled once."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    return await hangs(victim)


async def raises(_: Victim) -> NotFenced:
    """Fail with a defect of its own."""
    raise ZeroDivisionError("its own fault")


async def gives_up(_: Victim) -> NotFenced:
    """Cancel itself."""
    raise asyncio.CancelledError


async def names_another(victim: Victim) -> Evidence:
    """Answer about another QEMU of that node."""
    return evidence(attrs.evolve(victim, instance="colo:alpha:00000002"))


async def names_an_old_epoch(victim: Victim) -> Evidence:
    """Answer about that QEMU in an earlier epoch."""
    return evidence(attrs.evolve(victim, epoch=victim.epoch - 1))


async def claims_an_exit(victim: Victim) -> Evidence:
    """Answer as if it were the kernel of the QEMU's host."""
    return attrs.evolve(evidence(victim), kind="exit")


FAILING: Final[Mapping[str, Answer]] = {
    "failed: the cloud refuses it": refuses,
    "did not end within 5 s": hangs,
    "it did not end within 5 s": ignores_its_end,
    "raised ZeroDivisionError: its own fault": raises,
    "answered with None": gives_up,
    "about colo:alpha:00000002 in epoch 7, not of the kind fence about colo:alpha:00000001": (
        names_another
    ),
    "in epoch 6, not": names_an_old_epoch,
    "evidence of the kind exit": claims_an_exit,
}


@pytest.mark.parametrize(("text", "answer"), FAILING.items())
def test_fence_that_shows_nothing_is_told_and_the_next_one_is_tried(
    text: str, answer: Answer
) -> None:
    """It may refuse, hang, raise or speak of another QEMU: none of that is evidence."""
    told: list[str] = []
    answers: list[Answer] = [answer, says_off, says_off]
    fences = [FakeFence(f"fence {n}", one) for n, one in enumerate(answers)]

    async def main() -> Evidence | None:
        return await fenced(fences, declared(), VICTIM, told.append)

    world = World("11.1.3")
    assert evidence(VICTIM) == world.run(main())
    assert [[VICTIM], [VICTIM], []] == [fence.asked for fence in fences]
    (only,) = told
    assert only.startswith("the fence fence 0 of alpha failed: ")
    assert text in only
    assert world.now_s < 8.0


def test_fence_is_cancelled_with_whoever_waits_for_it() -> None:
    """A supervisor that ends, or gives its claim back, leaves no fence behind that acts later."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def acts_later(victim: Victim) -> NotFenced:
        begun.set()
        try:
            return await hangs(victim)
        finally:
            ended.set()

    async def main() -> None:
        fence = FakeFence("slow", acts_later)
        task = asyncio.create_task(fenced([fence], declared(), VICTIM, print))
        await begun.wait()
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        assert ended.is_set()

    World("11.1.3").run(main())


def _kills(life: FakePair, name: str = "cloud") -> FakeFence:
    """A fence that ends the QEMU that it is asked about."""

    async def answer(victim: Victim) -> Evidence:
        life.world.qemu(victim.node).kill()
        return evidence(victim)

    return FakeFence(name, answer)


@pytest.mark.parametrize(("victim", "survivor"), [("alpha", "beta"), ("beta", "alpha")])
def test_supervisor_continues_by_a_fence_in_code(
    tmp_path: Path, victim: str, survivor: str
) -> None:
    """The host is asked first, then come the fences of the pair file, then those in code."""

    async def played(life: FakePair) -> None:
        life.pair = _with_failing_fence(life.pair)
        cloud, unused = _kills(life), _kills(life)
        with Store(tmp_path) as store:
            fences = dict.fromkeys((victim, survivor), (cloud, unused))
            async with kept(life, store, fences) as watched:
                count = await protected(watched)
                life.world.qemu(survivor).freeze()
                count = await protected(watched, count)
                assert victim == await serves(life)
                assert [] == cloud.asked
                write(life)
                gone = life.world.qemu(victim)
                life.world.host(victim).away = True
                gone.freeze()
                await watched.until("failover is done", since=count)
                assert survivor == await serves(life)
                (asked,) = cloud.asked
                assert gone.line.name == asked.instance
                assert [] == unused.asked
                texts = [event.text for event in watched.events]
                assert any("the fence /nowhere/fence of" in text for text in texts)

    in_world("11.1.3", played)


def _with_failing_fence(pair: ColoPair) -> ColoPair:
    fence = Fence(command=("/nowhere/fence",))
    return attrs.evolve(pair, nodes=tuple(attrs.evolve(n, fences=(fence,)) for n in pair.nodes))


async def _restarted(agents: Agents, fence: FakeFence) -> int:
    """Give the agents a fence of alpha; gives how many events there were until both protect."""
    count = await agents.protected()
    agents.fences = {"alpha": (fence,)}
    for node in NODES:
        await agents.stop(node)
        await agents.start(node)
    return await agents.protected(count)


def test_agent_continues_by_a_fence_in_code() -> None:
    """The agent of the other host uses it after it has claimed the pair."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        cloud = _kills(life)
        count = await _restarted(agents, cloud)
        write(life)
        gone = life.world.qemu("alpha")
        network.cut()
        network.arbiter.cut("alpha")
        gone.freeze()
        count = await agents.until("claims the pair", node="beta", since=count)
        count = await agents.until("it is off, says the cloud", node="beta", since=count)
        await agents.until("failover is done", node="beta", since=count)
        assert "beta" == await serves(life)
        assert [gone.line.name] == [victim.instance for victim in cloud.asked]

    play(scenario, fuses=False)


def test_fence_that_lies_leaves_one_node_in_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """COLO keeps a fenced primary from answering, until its agent reads the record and ends it.

    It ends it once, and stores that once, although the peer's host gives no answer for a while.
    """
    done: list[str] = []
    client = type(FakeArbiter().client("alpha"))
    run, state = FakeHost.run, client.state

    async def runs(
        self: FakeHost, pair: ColoPair, node: str, action: HostAction, *, limit_s: float
    ) -> str:
        if isinstance(action, StopQemu):
            done.append(action.instance)
        return await run(self, pair, node, action, limit_s=limit_s)

    async def states(self: Arbiter, pair: str, end: Evidence, *, limit_s: float) -> None:
        done.append(f"{end.instance} has ended")
        await state(self, pair, end, limit_s=limit_s)

    monkeypatch.setattr(FakeHost, "run", runs)
    monkeypatch.setattr(client, "state", states)

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await _restarted(agents, FakeFence("a liar", says_off))
        write(life)
        fenced = life.world.qemu("alpha")
        network.cut()
        network.arbiter.cut("alpha")
        count = await agents.until("failover is done", node="beta", since=count)
        assert "beta" == await serves(life)
        write(life)
        assert fenced.alive
        network.arbiter.heal("alpha")
        await agents.until("the record gives the pair to another QEMU", node="alpha", since=count)
        async with asyncio.timeout(5.0):
            while fenced.alive:
                await time_passes(0.01)
        await time_passes(1.0)
        gone = fenced.line.name
        assert [gone, f"{gone} has ended"] == [one for one in done if gone in one]
        network.heal()
        await agents.protected(len(agents.events))
        assert "beta" == await serves(life)

    play(scenario, fuses=False)


@pytest.mark.parametrize(
    ("fences", "text"),
    [
        ({"other": {}}, r"fences\[other\].*be for a pair of colo"),
        ({"colo": {"omega": ()}}, r"fences\[colo\]\[omega\].*be for a node of alpha, beta"),
        ({"colo": {"alpha": (FakeFence("", refuses),)}}, r"\[alpha\]\[0\].name"),
        ({"colo": {"alpha": (FakeFence("a", refuses, limit_s=0.0),)}}, r"\[alpha\]\[0\].limit_s"),
    ],
)
def test_fences_that_could_never_be_used_are_refused(
    tmp_path: Path, fences: Mapping[str, Mapping[str, Sequence[FenceDevice]]], text: str
) -> None:
    """Nobody finds out at the moment of a fault that a name was misspelled."""
    pair, hosts = declared(), World("11.1.3").hosts(declared())
    with Store(tmp_path) as store, pytest.raises(DeclarationError, match=text):
        Supervisor((pair,), {"colo": hosts}, store, fences=fences)
    agent_arbiter = FakeArbiter().client("alpha")
    with pytest.raises(DeclarationError, match=text):
        Agent((pair,), {"colo": "alpha"}, {"colo": hosts}, agent_arbiter, fences=fences)

"""Procedures from what is live, on fakes: what an operator met on real hosts."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from tests import operating
from tests.operating import Compile, survives
from tests.testing.testbed import FakePair, in_world
from typing_extensions import override

from pycolo import operate
from pycolo._execute import execute
from pycolo._probe import probe
from pycolo.compiler import compile_offline
from pycolo.errors import CompileError
from pycolo.evidence import Evidence, Victim
from pycolo.facts import HostFacts, NoFacts, Part
from pycolo.hosts import Host, HostState
from pycolo.model import ColoPair
from pycolo.model.node import Monitor
from pycolo.observers import Observer
from pycolo.operate import Fenced
from pycolo.plan import HostAction
from pycolo.qmp.replies import Version
from pycolo.record import Change, PairRecord
from pycolo.result import Report
from pycolo.session import Session
from pycolo.standing import standing
from pycolo.testing import FakeHost

WORD = Fenced(who="alice", how="power off")
Scenario = Callable[[FakePair], Awaitable[None]]


class Forwarded:
    """A host that nobody reaches, while its monitors' sockets, forwarded long ago, still accept."""

    def __init__(self, life: FakePair, host: FakeHost) -> None:
        """Take the way to its host away."""
        self._life = life
        self._host = host
        host.away = True

    async def connect(self, node: str, monitor: Monitor) -> socket.socket:
        """See `Host`."""
        return await self._life.world.connector(node, monitor)

    async def observe(self, pair: ColoPair, node: str, *, limit_s: float) -> HostState:
        """See `Host`."""
        return await self._host.observe(pair, node, limit_s=limit_s)

    async def write(self, pair: ColoPair, node: str, change: Change, *, limit_s: float) -> None:
        """See `Host`."""
        await self._host.write(pair, node, change, limit_s=limit_s)

    async def run(self, pair: ColoPair, node: str, action: HostAction, *, limit_s: float) -> str:
        """See `Host`."""
        return await self._host.run(pair, node, action, limit_s=limit_s)

    async def death(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """See `Host`."""
        return await self._host.death(pair, victim, limit_s=limit_s)

    async def ended(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """See `Host`."""
        return await self._host.ended(pair, victim, limit_s=limit_s)

    async def version(self, pair: ColoPair, node: str, *, limit_s: float) -> Version:
        """See `Host`."""
        return await self._host.version(pair, node, limit_s=limit_s)

    async def facts(
        self, pair: ColoPair, node: str, parts: Collection[Part], *, limit_s: float
    ) -> HostFacts | NoFacts:
        """See `Host`."""
        return await self._host.facts(pair, node, parts, limit_s=limit_s)

    async def aclose(self) -> None:
        """See `Host`."""


class Unending(Forwarded):
    """A host that never says what lies there."""

    def __init__(self, life: FakePair, host: FakeHost) -> None:
        """Nobody has asked it yet."""
        super().__init__(life, host)
        self.asked = asyncio.Event()

    @override
    async def observe(self, pair: ColoPair, node: str, *, limit_s: float) -> HostState:
        """See `Host`."""
        self.asked.set()
        await asyncio.Event().wait()
        return await super().observe(pair, node, limit_s=limit_s)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Play a scenario in which the hosts of a pair are those of its world."""

    def played(scenario: Scenario, *, forwarded: str = "") -> None:
        async def protected(life: FakePair) -> None:
            @asynccontextmanager
            async def hosts_of(_: ColoPair) -> AsyncGenerator[Mapping[str, Host]]:
                hosts = life.hosts
                yield {n: Forwarded(life, h) if n == forwarded else h for n, h in hosts.items()}

            monkeypatch.setattr(operate, "hosts_of", hosts_of)
            await life.launch("alpha", "beta")
            await life.run("start")
            for name in tuple(life.sessions):
                await life.sessions.pop(name).aclose()
            await scenario(life)

        in_world("11.1.3", protected)

    return played


def _fence_of(victim: Victim) -> Evidence:
    """A program's word that a QEMU was fenced."""
    return Evidence.of(victim, kind="fence", who="a program", how="it believes so", when="now")


def _modes(life: FakePair) -> list[str]:
    return [life.world.qemu(name).live.colo_mode for name in ("alpha", "beta")]


def _files(life: FakePair) -> list[dict[str, bytes]]:
    return [dict(host.files) for host in life.hosts.values()]


async def _refused(life: FakePair, compile_: Compile) -> str:
    """Why a procedure does not compile."""
    with pytest.raises(CompileError) as caught:
        await operating.compiled(life.pair, compile_)
    return str(caught.value)


def _untouched(report: Report) -> str:
    """Why a report says that nothing was changed."""
    assert report.failed is not None
    assert not report.evidence
    assert "nothing was changed" in report.advice
    assert report.exit_code in (1, 4)
    return report.advice


def test_silent_monitor_of_a_fenced_node_blocks_nothing(play: Callable[..., None]) -> None:
    """It accepts and says nothing, as the forwarded socket of a dead host does."""

    async def scenario(life: FakePair) -> None:
        life.signal("alpha", signal.SIGSTOP)
        report = await operating.run(life.pair, survives("beta", WORD))
        assert 0 == report.exit_code, report.advice
        assert ("fence", "alice") == (report.evidence["alpha"].kind, report.evidence["alpha"].who)
        assert "beta" in [qemu.node.name for qemu in life.world.serving]

    play(scenario, forwarded="alpha")


def test_fenced_node_that_answers_is_not_left_behind(play: Callable[..., None]) -> None:
    """Somebody's word is wrong where the QEMU itself answers."""

    async def scenario(life: FakePair) -> None:
        told = _untouched(await operating.run(life.pair, survives("beta", WORD)))
        assert "its monitor answers" in told
        assert ["primary", "secondary"] == _modes(life)

    play(scenario)


def test_fenced_node_whose_observer_answers_is_not_left_behind(play: Callable[..., None]) -> None:
    """Somebody holds its control monitor, and its host is out of reach: the other one is asked."""

    async def scenario(life: FakePair) -> None:
        held = await life.connect("alpha")
        told = _untouched(await operating.run(life.pair, survives("beta", WORD)))
        assert "its monitor answers" in told
        await held.aclose()
        assert ["primary", "secondary"] == _modes(life)

    play(scenario, forwarded="alpha")


def test_fenced_node_whose_host_knows_better_is_not_left_behind(play: Callable[..., None]) -> None:
    """The QEMU is stopped and silent, and its host is there and knows that the process lives."""

    async def scenario(life: FakePair) -> None:
        life.signal("alpha", signal.SIGSTOP)
        told = _untouched(await operating.run(life.pair, survives("beta", WORD)))
        assert "its host knows it as process" in told
        life.signal("alpha", signal.SIGCONT)
        assert ["primary", "secondary"] == _modes(life)

    play(scenario)


@pytest.mark.parametrize("how", ["held", "stopped"])
def test_newest_is_not_accepted_while_another_qemu_runs_unseen(
    play: Callable[..., None], how: str
) -> None:
    """The promoted node's monitor is held, or its QEMU is stopped: it serves, or will again."""

    async def scenario(life: FakePair) -> None:
        life.world.qemu("alpha").kill()
        assert 0 == (await operating.run(life.pair, survives("beta"))).exit_code
        before = _files(life)
        if how == "held":
            await life.connect("beta")
        else:
            life.signal("beta", signal.SIGSTOP)
        told = await _refused(life, operating.newest("alpha"))
        assert "colo:beta:" in told
        assert "runs and gives no answer" in told
        assert before == _files(life)

    play(scenario)


def test_launch_leaves_a_pair_alone_that_runs_unseen(play: Callable[..., None]) -> None:
    """Neither node answers, as where their sockets were removed: no record is written."""

    async def scenario(life: FakePair) -> None:
        for name in ("alpha", "beta"):
            life.signal(name, signal.SIGSTOP)
        before = _files(life)
        assert "runs and gives no answer" in await _refused(life, operating.launch)
        assert before == _files(life)
        for name in ("alpha", "beta"):
            life.signal(name, signal.SIGCONT)
        assert ["primary", "secondary"] == _modes(life)

    play(scenario)


def test_secondary_that_runs_unseen_is_not_taken_for_gone(play: Callable[..., None]) -> None:
    """Its primary has died and its monitor is held: a launch would take its rights from it."""

    async def scenario(life: FakePair) -> None:
        life.world.qemu("alpha").kill()
        held = await life.connect("beta")
        before = _files(life)
        assert "gives no greeting: another client holds it" in await _refused(
            life, operating.launch
        )
        assert before == _files(life)
        await held.aclose()
        assert 0 == (await operating.run(life.pair, survives("beta"))).exit_code

    play(scenario)


def test_node_that_runs_is_not_forgotten(play: Callable[..., None]) -> None:
    """Whoever says that it is gone for good is wrong where its host knows its process."""

    async def scenario(life: FakePair) -> None:
        life.signal("beta", signal.SIGSTOP)
        before = _files(life)
        _untouched(await operating.run(life.pair, operating.forgets("beta", WORD)))
        assert before == _files(life)

    play(scenario)


def test_fence_that_is_handed_over_is_checked(play: Callable[..., None]) -> None:
    """A program's word is no better than a person's where the QEMU answers."""

    async def scenario(life: FakePair) -> None:
        session = await life.connect("beta")
        plan = await life.compile("failover", survivor="beta")
        given = {"alpha": _fence_of(plan.victims()[0])}
        report = await execute(plan, {"beta": session}, life.hosts, evidence=given)
        assert "its monitor answers" in _untouched(report)
        assert ["primary", "secondary"] == _modes(life)

    play(scenario)


def test_session_that_is_silent_contradicts_no_fence(play: Callable[..., None]) -> None:
    """It was asked who it is before its host died, and the connection still stands."""

    async def scenario(life: FakePair) -> None:
        sessions = {name: await life.connect(name) for name in ("alpha", "beta")}
        plan = await life.compile("failover", survivor="beta")
        assert plan.victims()[0].instance == await sessions["alpha"].instance(limit_s=1)
        life.signal("alpha", signal.SIGSTOP)
        hosts = {"beta": life.hosts["beta"]}
        given = {"alpha": _fence_of(plan.victims()[0])}
        report = await execute(plan, sessions, hosts, evidence=given)
        assert 0 == report.exit_code, report.advice

    play(scenario)


def test_status_knows_what_runs_and_does_not_answer(play: Callable[..., None]) -> None:
    """Somebody else holds what is read, and both hosts know a process: that is not "stopped"."""

    async def scenario(life: FakePair) -> None:
        async with AsyncExitStack() as stack:
            for node in life.pair.nodes:
                held = Session.connect(
                    node.name, node.observer_monitor, limit_s=5.0, connector=life.world.connector
                )
                await stack.enter_async_context(await held)
            found = standing(await operate.status(life.pair))
        assert "unknown" == found.state
        assert "its host knows it as process" in found.text
        for name in ("alpha", "beta"):
            life.world.qemu(name).kill()
        assert "stopped" == standing(await operate.status(life.pair)).state

    play(scenario)


def test_saved_launch_reads_again(play: Callable[..., None]) -> None:
    """Nothing ran when it was saved; what has been started since keeps its rights."""

    async def scenario(life: FakePair) -> None:
        for name in ("alpha", "beta"):
            life.world.qemu(name).kill()
        saved = await operating.compiled(life.pair, operating.launch)
        assert 0 == (await operating.run(life.pair, operating.launch)).exit_code
        before = _files(life)
        again = await operate.apply(saved, Observer())
        assert 4 == again.exit_code
        assert "no QEMU of alpha is known to run" in _untouched(again)
        assert before == _files(life)

    play(scenario)


def test_launch_that_was_compiled_offline_is_not_applied(play: Callable[..., None]) -> None:
    """Its birth and its identities are the same in every such plan."""

    async def scenario(life: FakePair) -> None:
        made = compile_offline("launch", life.pair, version=life.version)
        with pytest.raises(CompileError, match="compiled offline"):
            await operate.apply(made, Observer())

    play(scenario)


@pytest.mark.parametrize("away", ["alpha", "beta"])
def test_stop_needs_both_records(play: Callable[..., None], away: str) -> None:
    """With one host out of reach it is refused: nobody is promoted, and nothing is changed."""

    async def scenario(life: FakePair) -> None:
        life.world.host(away).away = True
        before = {n: dict(life.world.host(n).files) for n in ("alpha", "beta")}
        with pytest.raises(CompileError):
            await operating.run(life.pair, operating.stop)
        assert before == {n: dict(life.world.host(n).files) for n in ("alpha", "beta")}
        modes = [life.world.qemu(name).live.colo_mode for name in ("alpha", "beta")]
        assert ["primary", "secondary"] == modes

    play(scenario)


def test_stop_writes_the_secondary_out_before_the_primary_continues(
    play: Callable[..., None],
) -> None:
    """What the primary acknowledges afterwards no failover to the old secondary can lose."""

    async def scenario(life: FakePair) -> None:
        assert 0 == (await operating.run(life.pair, operating.stop)).exit_code
        alpha = life.world.qemu("alpha")
        assert all(alpha.guest_write(number) for number in range(200))
        alpha.kill()
        with pytest.raises(CompileError):
            await operating.run(life.pair, survives("beta"))

    play(scenario)


def test_saved_word_is_refused_once_the_qemu_answers(play: Callable[..., None]) -> None:
    """It was silent when somebody said that it was fenced; a saved plan asks it again."""

    async def scenario(life: FakePair) -> None:
        life.signal("alpha", signal.SIGSTOP)
        saved = await operating.compiled(life.pair, survives("beta", WORD))
        life.signal("alpha", signal.SIGCONT)
        assert "its monitor answers" in _untouched(await operate.apply(saved, Observer()))
        assert ["primary", "secondary"] == _modes(life)

    play(scenario, forwarded="alpha")


def test_plan_with_evidence_does_not_run_against_a_later_qemu(
    play: Callable[..., None],
) -> None:
    """Saved with the proof of one death, it says nothing about the QEMU that was started since."""

    async def scenario(life: FakePair) -> None:
        life.world.qemu("beta").kill()
        saved = await operating.compiled(life.pair, survives("alpha"))
        assert 0 == (await operate.apply(saved, Observer())).exit_code
        await life.connect("alpha")
        await life.launch("beta")
        await life.run("resume")
        for name in tuple(life.sessions):
            await life.sessions.pop(name).aclose()
        again = await operate.apply(saved, Observer())
        assert 1 == again.exit_code, again.advice
        life.world.advance(5.0)
        modes = [life.world.qemu(name).live.colo_mode for name in ("alpha", "beta")]
        assert ["primary", "secondary"] == modes

    play(scenario)


def test_probe_that_is_cancelled_leaves_nothing_under_way(play: Callable[..., None]) -> None:
    """A node and a host are both silent when it is interrupted: neither is waited for any more."""

    async def scenario(life: FakePair) -> None:
        session = await life.connect("alpha")
        life.signal("alpha", signal.SIGSTOP)
        host = Unending(life, life.hosts["alpha"])
        before = asyncio.all_tasks()
        task = asyncio.create_task(probe({"alpha": session}, pair=life.pair, hosts={"alpha": host}))
        await host.asked.wait()
        task.cancel()
        await asyncio.wait((task,))
        assert [] == [left for left in asyncio.all_tasks() - before if "_state" in repr(left)]

    play(scenario)


def test_report_says_what_it_left(play: Callable[..., None]) -> None:
    """After a success nobody has to read the pair again, and its record has the evidence."""

    async def scenario(life: FakePair) -> None:
        life.world.qemu("beta").kill()
        report = await operating.run(life.pair, survives("alpha"))
        await life.connect("alpha")
        found, left = await life.probe(), report.state_after
        assert left is not None
        assert found.live("alpha") == left.live("alpha")
        own = left.records["alpha"]
        assert isinstance(own, PairRecord)
        assert report.evidence["beta"] == own.evidence
        names = ("alpha", "beta")
        assert [found.records[n] for n in names] == [left.records[n] for n in names]

    play(scenario)

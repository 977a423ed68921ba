"""Procedures from what is live, on fakes: what an operator met on real hosts."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import pytest
from tests.testing.testbed import FakePair, in_world

from pycolo import operate
from pycolo.errors import CompileError
from pycolo.hosts import Host
from pycolo.model import ColoPair
from pycolo.observers import Silent
from pycolo.operate import Fenced, Order
from pycolo.plan import Options, Procedure

Scenario = Callable[[FakePair], Awaitable[None]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    """Play a scenario in which the hosts of a pair are those of its world."""

    def played(scenario: Scenario) -> None:
        async def protected(life: FakePair) -> None:
            @asynccontextmanager
            async def hosts_of(_: ColoPair) -> AsyncGenerator[Mapping[str, Host]]:
                yield life.hosts

            monkeypatch.setattr(operate, "hosts_of", hosts_of)
            await life.launch("alpha", "beta")
            await life.run("start")
            for name in tuple(life.sessions):
                await life.sessions.pop(name).aclose()
            await scenario(life)

        in_world("11.1.3", protected)

    return played


def _order(life: FakePair, procedure: Procedure, survivor: str | None = None) -> Order:
    return Order(procedure=procedure, pair=life.pair, options=Options(survivor=survivor))


def test_silent_monitor_of_a_fenced_node_blocks_nothing(
    play: Callable[[Scenario], None],
) -> None:
    """It accepts and says nothing, as the forwarded socket of a dead host does."""

    async def scenario(life: FakePair) -> None:
        life.signal("alpha", signal.SIGSTOP)
        order = Order(
            procedure="failover",
            pair=life.pair,
            options=Options(survivor="beta"),
            fenced=Fenced(who="alice", how="power off"),
        )
        report = await operate.run(order, Silent())
        assert 0 == report.exit_code, report.advice
        assert ("fence", "alice") == (report.evidence["alpha"].kind, report.evidence["alpha"].who)
        assert "beta" in [qemu.node.name for qemu in life.world.serving]

    play(scenario)


def test_fenced_node_that_answers_is_not_left_behind(play: Callable[[Scenario], None]) -> None:
    """Somebody's word is wrong where the QEMU itself answers."""

    async def scenario(life: FakePair) -> None:
        order = Order(
            procedure="failover",
            pair=life.pair,
            options=Options(survivor="beta"),
            fenced=Fenced(who="alice", how="power off"),
        )
        with pytest.raises(CompileError):
            await operate.run(order, Silent())
        assert ["alpha"] == [qemu.node.name for qemu in life.world.serving]

    play(scenario)


@pytest.mark.parametrize("away", ["alpha", "beta"])
def test_stop_needs_both_records(play: Callable[[Scenario], None], away: str) -> None:
    """With one host out of reach it is refused: nobody is promoted, and nothing is changed."""

    async def scenario(life: FakePair) -> None:
        life.world.host(away).away = True
        before = {n: dict(life.world.host(n).files) for n in ("alpha", "beta")}
        with pytest.raises(CompileError):
            await operate.run(_order(life, "stop"), Silent())
        assert before == {n: dict(life.world.host(n).files) for n in ("alpha", "beta")}
        modes = [life.world.qemu(name).live.colo_mode for name in ("alpha", "beta")]
        assert ["primary", "secondary"] == modes

    play(scenario)


def test_stop_writes_the_secondary_out_before_the_primary_goes_on(
    play: Callable[[Scenario], None],
) -> None:
    """What the primary acknowledges afterwards no failover to the old secondary can lose."""

    async def scenario(life: FakePair) -> None:
        assert 0 == (await operate.run(_order(life, "stop"), Silent())).exit_code
        alpha = life.world.qemu("alpha")
        assert all(alpha.guest_write(number) for number in range(200))
        alpha.kill()
        with pytest.raises(CompileError):
            await operate.run(_order(life, "failover", "beta"), Silent())

    play(scenario)


def test_saved_word_is_refused_once_the_qemu_answers(play: Callable[[Scenario], None]) -> None:
    """It was silent when somebody said that it was fenced; a saved plan asks it again."""

    async def scenario(life: FakePair) -> None:
        life.signal("alpha", signal.SIGSTOP)
        order = Order(
            procedure="failover",
            pair=life.pair,
            options=Options(survivor="beta"),
            fenced=Fenced(who="bob", how="power off"),
        )
        saved = await operate.plan_live(order)
        life.signal("alpha", signal.SIGCONT)
        with pytest.raises(CompileError, match=r"was said to be fenced, and its QEMU .* answers"):
            await operate.apply(saved, Silent())
        modes = [life.world.qemu(name).live.colo_mode for name in ("alpha", "beta")]
        assert ["primary", "secondary"] == modes

    play(scenario)


def test_plan_with_evidence_does_not_run_against_a_later_qemu(
    play: Callable[[Scenario], None],
) -> None:
    """Saved with the proof of one death, it says nothing about the QEMU that was started since."""

    async def scenario(life: FakePair) -> None:
        life.world.qemu("beta").kill()
        saved = await operate.plan_live(_order(life, "failover", "alpha"))
        assert 0 == (await operate.apply(saved, Silent())).exit_code
        await life.connect("alpha")
        await life.launch("beta")
        await life.run("resume")
        for name in tuple(life.sessions):
            await life.sessions.pop(name).aclose()
        again = await operate.apply(saved, Silent())
        assert 1 == again.exit_code, again.advice
        life.world.advance(5.0)
        modes = [life.world.qemu(name).live.colo_mode for name in ("alpha", "beta")]
        assert ["primary", "secondary"] == modes

    play(scenario)

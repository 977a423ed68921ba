"""`shutdown` on fakes: the guest powers itself off, or nothing is ended; `stop` if nothing runs."""

from __future__ import annotations

import attrs
import pytest
from tests.testing.testbed import FakePair, declared, in_world
from typing_extensions import override

from pycolo._execute import execute
from pycolo.compiler import compile_plan
from pycolo.errors import CompileError
from pycolo.model import Timeouts
from pycolo.observers import Observer
from pycolo.plan import Options, Plan, Procedure, Step
from pycolo.qmp import commands as qmp
from pycolo.record import PairRecord, highest
from pycolo.result import Report, TimedOut, Unknown
from pycolo.snapshot import Unresponsive
from pycolo.standing import standing

SHORT = attrs.evolve(declared(), timeouts=Timeouts(shutdown_s=2.0))


async def _protected(life: FakePair) -> None:
    await life.launch("alpha", "beta")
    await life.run("start")


async def _hang_up(life: FakePair) -> None:
    for name in tuple(life.sessions):
        await life.sessions.pop(name).aclose()


def _files(life: FakePair) -> dict[str, dict[str, bytes]]:
    return {name: dict(host.files) for name, host in life.hosts.items()}


async def _executed_while_paused(life: FakePair) -> Report:
    """Have somebody pause the guest after its shutdown was compiled, so that it does not react."""
    await _protected(life)
    plan = await life.compile("shutdown")
    await life.sessions["alpha"].execute(qmp.Stop(), limit_s=5.0)
    return await execute(plan, life.sessions, life.hosts)


def test_both_qemus_end_and_the_records_stay() -> None:
    """Afterwards nothing is left to do, and a launch boots the node with the newest data."""

    async def scenario(life: FakePair) -> None:
        await _protected(life)
        before = _files(life)
        alpha = life.world.qemu("alpha")
        plan = await life.run("shutdown")
        assert 0 == alpha.exit_code
        assert [] == [process for process in life.world.processes if process.alive]
        assert before == _files(life)
        assert {} == plan.planned_state.running
        await _hang_up(life)
        assert not (await life.run("shutdown")).acts
        assert "stopped" == standing(await life.probe()).state
        await life.launch("alpha", "beta")
        await life.run("start")
        top = highest((await life.probe()).records)
        assert isinstance(top, PairRecord)
        assert ("alpha", "protected") == (top.holder, top.phase)

    in_world("11.1.3", scenario)


def test_secondary_that_waits_for_its_guest_ends_as_well() -> None:
    """The guest runs unprotected: it is asked, and no QEMU of the pair is left."""

    async def scenario(life: FakePair) -> None:
        await life.launch("alpha")
        await life.sessions["alpha"].execute(qmp.Cont(), limit_s=5.0)
        await life.launch("beta")
        await life.run("shutdown")
        assert [] == [process for process in life.world.processes if process.alive]

    in_world("11.1.3", scenario)


def test_nothing_is_ended_where_the_guest_does_not_power_off() -> None:
    """The limit passes: both QEMUs run, and the report says what there is to do."""

    async def scenario(life: FakePair) -> None:
        report = await _executed_while_paused(life)
        assert ("alpha/wait/powered-off", 3) == (report.failed, report.exit_code)
        assert isinstance(report.outcomes["alpha/wait/powered-off"], TimedOut)
        assert "it has not powered off and no QEMU was ended" in report.advice
        assert "run stop" in report.advice
        assert all(life.world.qemu(name).alive for name in ("alpha", "beta"))

    in_world("11.1.3", scenario, SHORT)


def test_primary_that_dies_meanwhile_has_not_powered_off() -> None:
    """Its secondary has the guest, so that it is not ended."""

    async def scenario(life: FakePair) -> None:
        await _protected(life)
        plan = await life.compile("shutdown")

        class Killer(Observer):
            @override
            def step_started(self, plan: Plan, step: Step) -> None:
                if step.address == "alpha/wait/powered-off":
                    life.world.qemu("alpha").kill()

        report = await execute(plan, life.sessions, life.hosts, observer=Killer())
        assert ("alpha/wait/powered-off", 3) == (report.failed, report.exit_code)
        assert isinstance(report.outcomes["alpha/wait/powered-off"], Unknown)
        assert life.world.qemu("beta").alive

    in_world("11.1.3", scenario, SHORT)


def test_secondary_that_is_left_is_not_ended() -> None:
    """The guest may live on in it: a person says whether it does."""

    async def scenario(life: FakePair) -> None:
        await _protected(life)
        await life.kill("alpha")
        with pytest.raises(CompileError, match="else fail over to beta"):
            await life.compile("shutdown")

    in_world("11.1.3", scenario)


def test_guest_that_is_paused_is_not_asked() -> None:
    """It could not react."""

    async def scenario(life: FakePair) -> None:
        await life.launch("alpha")
        with pytest.raises(CompileError, match=r"does not run \(prelaunch\)"):
            await life.compile("shutdown")

    in_world("11.1.3", scenario)


@pytest.mark.parametrize("procedure", ["stop", "shutdown"])
@pytest.mark.parametrize("is_protected", [False, True])
def test_pair_that_is_off_has_nothing_to_end(procedure: Procedure, *, is_protected: bool) -> None:
    """Whichever nodes its records let run alone: they stay as they are."""

    async def scenario(life: FakePair) -> None:
        await _protected(life)
        if not is_protected:
            await life.run("stop")
        for qemu in list(life.world.running):
            qemu.kill()
        await _hang_up(life)
        before = _files(life)
        report = await life.execute(await life.compile(procedure))
        assert 0 == report.exit_code
        assert f"{procedure} is done: there was nothing to do" == report.advice
        assert before == _files(life)

    in_world("11.1.3", scenario)


@pytest.mark.parametrize("procedure", ["stop", "shutdown"])
def test_pair_whose_guest_may_run_is_not_taken_for_off(procedure: Procedure) -> None:
    """A host cannot be asked, or knows a QEMU whose monitor gives no answer."""

    async def scenario(life: FakePair) -> None:
        await _protected(life)
        await life.run("stop")
        await _hang_up(life)
        with pytest.raises(CompileError, match="its host knows it as process"):
            await life.compile(procedure)
        life.world.qemu("alpha").kill()
        life.world.host("alpha").away = True
        with pytest.raises(CompileError, match="no primary answers"):
            await life.compile(procedure)
        life.world.host("alpha").away = False
        stuck = Unresponsive(why="another client holds the monitor", oob=False)
        snapshot = (await life.probe()).with_node("alpha", stuck)
        with pytest.raises(CompileError, match="no primary answers"):
            compile_plan(procedure, life.pair, snapshot, Options())

    in_world("11.1.3", scenario)

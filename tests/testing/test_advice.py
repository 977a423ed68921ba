"""Whoever does what a report advises, word by word, gets where the procedure was to lead."""

from __future__ import annotations

import re

import pytest
from tests.testing.testbed import FakePair, in_world
from tests.watching import Watching

from pycolo._execute import execute
from pycolo.errors import CompileError
from pycolo.plan import Execute, Plan
from pycolo.result import Report
from pycolo.snapshot import role_of

ADVISED = re.compile(r"run (stop|launch|resume|start|the procedure again)(?: --node (\w+))?")


async def _interrupted(life: FakePair, plan: Plan, address: str, how: str) -> Report:
    """Execute a plan whose secondary dies or stops responding as a step begins."""

    def begins(at: str) -> None:
        if at == address:
            qemu = life.world.qemu("beta")
            qemu.kill() if how == "killed" else qemu.freeze()

    return await execute(plan, life.sessions, life.hosts, observer=Watching(begins))


async def _follow(life: FakePair, report: Report) -> list[str]:
    """Do what the advice says, in its order."""
    advice = report.advice.rpartition("; ")[2]
    done = []
    if "end the QEMU of beta" in advice:
        life.world.qemu("beta").kill()
        done.append("end")
    for what, node in ADVISED.findall(advice):
        done.append(what)
        for name in [n for n, s in life.sessions.items() if s.closed]:
            await life.sessions.pop(name).aclose()
        if what == "launch":
            await life.launch(node)
        elif what == "the procedure again":
            await life.run(report.plan.procedure)
        else:
            await life.run(what)
    return done


def _places() -> list[int]:
    """Every step of `start` at which a command is sent."""
    found: list[int] = []

    async def scenario(life: FakePair) -> None:
        await life.launch("alpha", "beta")
        plan = await life.compile("start")
        found.extend(n for n, step in enumerate(plan.steps) if isinstance(step, Execute))

    in_world("11.1.3", scenario)
    return found


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_advice_after_an_interrupted_start_leads_to_protection(how: str) -> None:
    """Wherever the secondary is lost on the way in, the report names the way that works."""
    seen: set[tuple[str, ...]] = set()

    for place in _places():

        async def scenario(life: FakePair, place: int = place) -> None:
            await life.launch("alpha", "beta")
            plan = await life.compile("start")
            report = await _interrupted(life, plan, plan.steps[place].address, how)
            if report.failed is None:
                return
            if how == "frozen":
                life.world.qemu("beta").thaw()
                life.world.advance(1.0)
            try:
                seen.add(tuple(await _follow(life, report)))
            except (CompileError, AssertionError) as error:
                raise AssertionError(f"{report.failed}: {report.advice}") from error
            roles = {name: role_of(await life.live(name)) for name in ("alpha", "beta")}
            assert {"alpha": "primary", "beta": "secondary"} == roles, report.advice

        in_world("11.1.3", scenario)
    assert {("end", "stop", "launch", "resume")} == seen

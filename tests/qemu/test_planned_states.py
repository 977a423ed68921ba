"""A procedure that a controller left after any step is finished by compiling it again.

Each case runs the first steps of a procedure on a real pair, without their recoveries, as if the
controller had died there; then it is compiled anew from what QEMU shows, and run to its end. What
was promised at first must be what is there then.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager

import attrs
import pytest
from tests.qemu.life import NAMES, LivePair, bios_life, bios_pair, commands, off_plan

from pycolo.compiler import compile_plan, failover, launch
from pycolo.evidence import instance_of
from pycolo.model import ColoPair, Node
from pycolo.plan import Options, Plan, Procedure
from pycolo.qmp.replies import Version
from pycolo.record import NoRecord
from pycolo.snapshot import Dead, Snapshot

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(120)]
VERSION = Version.parse("11.1.3")
DELAY_MS = 900


async def _launched(life: LivePair) -> None:
    await life.launch("alpha", "beta")


async def _running(life: LivePair) -> None:
    await _launched(life)
    await life.cont("alpha")
    await life.keeps_running("alpha")


async def _protected(life: LivePair) -> None:
    await _launched(life)
    await life.run("start")


async def _secondary_died(life: LivePair) -> None:
    await _protected(life)
    await life.kill("beta")


async def _primary_died(life: LivePair) -> None:
    await _protected(life)
    await life.kill("alpha")


async def _primary_survived(life: LivePair) -> None:
    await _secondary_died(life)
    await life.run("failover")
    await life.replace("beta", "gamma")


async def _secondary_survived(life: LivePair) -> None:
    await _primary_died(life)
    await life.run("failover")
    await life.replace("alpha", "gamma")


@attrs.frozen
class Case:
    """A procedure and what comes before it."""

    procedure: Procedure
    before: Callable[[LivePair], Awaitable[None]]
    primary: str


CASES: Mapping[str, Case] = {
    "start/fresh": Case("start", _launched, "alpha"),
    "start/running": Case("start", _running, "alpha"),
    "failover/primary": Case("failover", _secondary_died, "alpha"),
    "failover/secondary": Case("failover", _primary_died, "beta"),
    "resume/primary": Case("resume", _primary_survived, "alpha"),
    "resume/promoted": Case("resume", _secondary_survived, "beta"),
    "set-checkpoint-delay": Case("set-checkpoint-delay", _protected, "alpha"),
    "stop": Case("stop", _protected, "alpha"),
}


def _offline(name: str) -> Plan:
    """The plan that each case is expected to compile to."""
    pair = _offline_pair()
    case = CASES[name]
    new = Snapshot(nodes={}, records={name: NoRecord() for name in NAMES})
    launched = _launch(pair, new, "alpha", "beta")
    if name == "start/running":
        alpha = launched.live("alpha")
        assert alpha is not None
        launched = launched.with_node("alpha", attrs.evolve(alpha, run_state="running"))
    if case.procedure == "start":
        return compile_plan("start", pair, launched)
    started = compile_plan("start", pair, launched).planned_state
    if case.procedure in ("stop", "set-checkpoint-delay"):
        delayed = case.procedure == "set-checkpoint-delay"
        options = Options(checkpoint_delay_ms=DELAY_MS if delayed else None)
        return compile_plan(case.procedure, pair, started, options)
    dead = "beta" if case.primary == "alpha" else "alpha"
    over = failover(pair, started.with_node(dead, Dead(evidence=None)), survivor=case.primary)
    if case.procedure == "failover":
        return over
    pair = pair.replacing(dead, pair.node("gamma"))
    return compile_plan("resume", pair, _launch(pair, over.planned_state, "gamma"))


def _offline_pair() -> ColoPair:
    hosts = [
        Node(name=name, address=f"127.0.0.{n}", image_folder=f"/images/{name}")
        for n, name in enumerate(NAMES, 1)
    ]
    return bios_pair(tuple(hosts), "tcg")


def _launch(pair: ColoPair, known: Snapshot, *names: str) -> Snapshot:
    qemu = {node.name: VERSION for node in pair.nodes}
    instances = {name: instance_of(pair.name, name, 1) for name in names}
    return launch(pair, known, qemu=qemu, nodes=names, instances=instances).planned_state


def _places() -> Iterator[object]:
    for name in CASES:
        steps = _offline(name).steps
        handful = {len(steps) * n // 4 for n in range(1, 4)}
        for done in range(len(steps)):
            # Every place is tried on fakes each time; on QEMU each sixth one, the others at night.
            marks = () if done in handful or done % 6 == 0 else (pytest.mark.nightly,)
            at = steps[done].address.replace("/", ":")
            yield pytest.param(name, done, marks=marks, id=f"{name}-{done:02}-before-{at}")


@asynccontextmanager
async def _life(name: str) -> AsyncGenerator[tuple[LivePair, Plan]]:
    case = CASES[name]
    async with bios_life("11.1", "tcg") as life:
        await case.before(life)
        yield life, await _compiled(life, case)


async def _compiled(life: LivePair, case: Case) -> Plan:
    return await life.compile(
        case.procedure,
        survivor=case.primary if case.procedure == "failover" else None,
        checkpoint_delay_ms=DELAY_MS if case.procedure == "set-checkpoint-delay" else None,
    )


@pytest.mark.parametrize("name", CASES)
async def test_what_is_compiled_from_life_is_what_is_compiled_offline(name: str) -> None:
    """Step by step the plan is the one compiled offline, and after it nothing is left to send."""
    async with _life(name) as (life, plan):
        assert [s.address for s in _offline(name).steps] == [s.address for s in plan.steps]
        await life.execute(plan)
        assert {} == off_plan(plan.planned_state, await life.probe())
        if CASES[name].procedure != "failover":
            assert [] == commands(await _compiled(life, CASES[name]))


@pytest.mark.parametrize(("name", "done"), list(_places()))
async def test_a_procedure_left_after_any_step_is_finished(name: str, done: int) -> None:
    """Compiled again, it continues from what is there, to the first plan's planned state."""
    async with _life(name) as (life, plan):
        await life.execute(
            attrs.evolve(plan, steps=plan.steps[:done], recoveries=(), restored_after=None)
        )
        await life.execute(await _compiled(life, CASES[name]))
        assert {} == off_plan(plan.planned_state, await life.probe())
        if CASES[name].procedure != "start":
            await life.keeps_running(CASES[name].primary)

"""A controller that dies after any step of any procedure leaves what another one can finish."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

import attrs
import pytest
from tests.qemu.life import off_plan
from tests.testing.testbed import VERSIONS, FakePair, in_world

from pycolo._execute import execute
from pycolo.plan import Plan, Procedure
from pycolo.qmp.schema import PackagedVersion

Way: TypeAlias = Callable[[FakePair], Awaitable[None]]
Survivor: TypeAlias = Literal["alpha", "beta"]


async def launched(life: FakePair) -> None:
    """Two fresh QEMUs."""
    await life.launch("alpha", "beta")


async def protected(life: FakePair) -> None:
    """A protected pair whose guest has written."""
    await launched(life)
    await life.run("start")
    for number in range(3):
        assert life.world.qemu("alpha").guest_write(number)


async def secondary_dead(life: FakePair) -> None:
    """A primary whose secondary was killed."""
    await protected(life)
    await life.kill("beta")


async def primary_dead(life: FakePair) -> None:
    """A secondary whose primary was killed."""
    await protected(life)
    await life.kill("alpha")


async def primary_alone(life: FakePair) -> None:
    """A primary that continued alone, and a fresh secondary."""
    await secondary_dead(life)
    await life.run("failover")
    await life.replace("beta", "gamma")


async def secondary_alone(life: FakePair) -> None:
    """A secondary that was promoted, and a fresh one of its own."""
    await primary_dead(life)
    await life.run("failover")
    await life.replace("alpha", "gamma")


CASES: dict[str, tuple[Procedure, Way]] = {
    "start": ("start", launched),
    "primary failover": ("failover", secondary_dead),
    "secondary failover": ("failover", primary_dead),
    "resume on the primary": ("resume", primary_alone),
    "resume on a promoted secondary": ("resume", secondary_alone),
    "stop": ("stop", protected),
    "set-checkpoint-delay": ("set-checkpoint-delay", protected),
}
DELAY_MS = 900


def first(plan: Plan, count: int) -> Plan:
    """As much of a plan as a controller did that died then: its recoveries died with it."""
    return attrs.evolve(plan, steps=plan.steps[:count], recoveries=(), restored_after=None)


async def another_controller(life: FakePair) -> None:
    """Hang up everywhere, and connect anew where a QEMU is left."""
    names = list(life.sessions)
    for name in names:
        await life.sessions.pop(name).aclose()
    for name in names:
        if life.world.find(name) is not None:
            await life.connect(name)


async def ends_after(
    life: FakePair, case: tuple[Procedure, Way], count: int | None
) -> tuple[int, bool]:
    """Do `count` steps of a procedure, then have another controller finish it.

    Returns:
        How many steps the whole procedure has, and whether the guest serves in the end.
    """
    procedure, way = case
    await way(life)
    plan = await life.compile(procedure, checkpoint_delay_ms=DELAY_MS)
    if count is not None:
        report = await execute(first(plan, count), life.sessions, life.hosts)
        assert None is report.failed, report.advice
        await another_controller(life)
        if procedure != "stop" or "beta" in life.sessions:
            again = await life.compile(procedure, checkpoint_delay_ms=DELAY_MS)
            await life.execute(again)
        else:
            await life.run("stop")
    else:
        await life.execute(plan)
    assert {} == off_plan(plan.planned_state, await life.probe()), (
        count,
        plan.steps[count or 0],
    )
    return len(plan.steps), judged(life)


def judged(life: FakePair) -> bool:
    """Whether one guest serves, and has all that any client was told is written."""
    life.world.advance(0.2)
    served = life.world.serving
    assert len(served) <= 1
    for qemu in served:
        assert life.world.acknowledged <= qemu.guest_data()
    return bool(served)


@pytest.mark.parametrize(
    "version",
    # 10.0.13 plans as 11.1.3 does, but for a capability.
    [pytest.param(v, marks=[pytest.mark.nightly] * (v == "10.0.13")) for v in VERSIONS],
)
@pytest.mark.property
@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", CASES)
def test_a_procedure_left_after_any_step_is_finished_by_another_controller(
    case: str, version: PackagedVersion
) -> None:
    """The end is what the whole plan promised, wherever the first controller died."""
    steps = 1
    count: int | None = None
    while count is None or count < steps:
        found: list[tuple[int, bool]] = []

        async def scenario(life: FakePair, count: int | None = count) -> None:
            found.append(await ends_after(life, CASES[case], count))  # noqa: B023 - awaited at once

        in_world(version, scenario)
        steps = found[0][0]
        assert found[0][1], f"nobody serves after {count} steps"
        count = 0 if count is None else count + 1

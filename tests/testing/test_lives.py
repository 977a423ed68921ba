"""Random lives of pairs: whatever dies, falls silent or is left half done, the rules hold.

Never do two guests serve at once; never is a guest without network after a procedure that was
finished; never is a write lost that a client was told is done.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Literal, TypeAlias

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.testing.operator import GoneHome, Operator, hang_up
from tests.testing.stage import VERSIONS, FakePair, declared

from pycolo.model.pair import Timeouts
from pycolo.qmp.schema import PackagedVersion
from pycolo.testing import FakeQemu, World

EXAMPLES = int(os.environ.get("PYCOLO_LIVES", "60"))
WRITE_S = 0.05
# Copies take a fraction of a second here; one to a host that was cut off would take for ever.
LIMITS = Timeouts(resync_s=20, migration_s=20)
Who: TypeAlias = Literal["serving", "other"]


@attrs.frozen
class Write:
    """The guest's clients have it write so many records."""

    count: int


@attrs.frozen
class Pass:
    """Time passes."""

    seconds: float


@attrs.frozen
class Kill:
    """A QEMU dies."""

    who: Who


@attrs.frozen
class Freeze:
    """A QEMU falls silent."""

    who: Who


@attrs.frozen
class Thaw:
    """Whoever is silent goes on."""


@attrs.frozen
class Cut:
    """The network between the two hosts fails."""


@attrs.frozen
class Heal:
    """The network between the two hosts works again."""


@attrs.frozen
class Mend:
    """The operator sets to work, and dies after so many steps."""

    steps: int | None


@attrs.frozen
class Soon:
    """Something happens after a time, whatever goes on then."""

    seconds: float
    what: Kill | Freeze | Thaw | Cut | Heal


Happening: TypeAlias = Write | Pass | Kill | Freeze | Thaw | Cut | Heal | Mend | Soon
WHO: st.SearchStrategy[Who] = st.sampled_from(("serving", "other"))
BLOWS: st.SearchStrategy[Kill | Freeze | Thaw | Cut | Heal] = st.one_of(
    st.builds(Kill, WHO),
    st.builds(Freeze, WHO),
    st.builds(Thaw),
    st.builds(Cut),
    st.builds(Heal),
)
HAPPENINGS: st.SearchStrategy[Happening] = st.one_of(
    st.builds(Write, st.integers(1, 3)),
    st.builds(Pass, st.sampled_from((0.0, 0.001, 0.035, 0.1, 0.6, 2.0))),
    st.builds(Mend, st.none() | st.integers(0, 80)),
    BLOWS,
    st.builds(Soon, st.floats(0, 0.5) | st.floats(0, 2.5), BLOWS),
)


async def live(life: FakePair, happenings: Sequence[Happening]) -> None:
    """Play a life, and see the pair protected and complete in the end."""
    await life.launch("alpha", "beta")
    operator = Operator(life)
    keep_writing(life.world)
    for happening in happenings:
        await happen(life, operator, happening)
        operator.judge()
        assert [] == life.broken
    mend(life.world)
    operator.steps_left = None
    await operator.protect()
    assert [] == life.broken
    await happen(life, operator, Write(count=2))
    operator.judge()


async def happen(life: FakePair, operator: Operator, happening: Happening) -> None:
    """Have one thing happen."""
    world = life.world
    match happening:
        case Write(count=count):
            for _ in range(count):
                write(world)
        case Pass(seconds=seconds):
            await asyncio.sleep(seconds)  # of the world's clock: no time at all
        case Soon(seconds=seconds, what=what):
            world.later(seconds, lambda: strike(life, operator, what))
        case Kill() | Freeze() | Thaw() | Cut() | Heal():
            strike(life, operator, happening)
        case Mend(steps=steps):
            operator.steps_left = steps
            try:
                await operator.protect()
            except GoneHome:
                await hang_up(life)


def strike(life: FakePair, operator: Operator, what: Kill | Freeze | Thaw | Cut | Heal) -> None:
    """Have something go wrong, or right again."""
    world = life.world
    match what:
        case Kill(who=who):
            victim = find(life, who)
            if victim is not None and may_die(victim):
                victim.kill()
        case Freeze(who=who):
            victim = find(life, who)
            if victim is not None:
                victim.freeze()
        case Thaw():
            mend(world)
        case Cut():
            world.cut(*operator.names)
        case Heal():
            world.heal(*operator.names)


def keep_writing(world: World) -> None:
    """Have clients write all the time."""
    write(world)
    world.later(WRITE_S, lambda: keep_writing(world))


def write(world: World) -> None:
    """Have whoever runs a guest write a record that no guest wrote before."""
    number = max((*world.acknowledged, *world.written), default=0) + 1
    for qemu in world.processes:
        if qemu.alive and qemu.live.colo_mode != "secondary":
            qemu.guest_write(number)


def find(life: FakePair, who: Who) -> FakeQemu | None:
    """The QEMU that serves, or would if it had its network, or the other one."""
    here = [
        q
        for q in life.world.processes
        if q.alive and q.node.name in {node.name for node in life.pair.nodes}
    ]
    leading = [
        q for q in here if q.live.run_state != "inmigrate" and q.live.colo_mode != "secondary"
    ]
    chosen = leading if who == "serving" else [q for q in here if q not in leading]
    return chosen[0] if chosen else None


def may_die(victim: FakeQemu) -> bool:
    """Whether its data would outlive it: not while its overlays are merged (5.13)."""
    return not victim.live.commit_pending


def mend(world: World) -> None:
    """Whatever was cut or silent works again."""
    for qemu in world.processes:
        if qemu.alive and qemu.frozen:
            qemu.thaw()


@pytest.mark.property
@pytest.mark.timeout(60 if EXAMPLES <= 100 else 0)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= 100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(version=st.sampled_from(VERSIONS), happenings=st.lists(HAPPENINGS, max_size=10))
# The survivor dies between its failover and the launch of the spare.
@example(version="7.2.22", happenings=[Mend(None), Kill("serving"), Soon(0.375, Kill("serving"))])
# A QEMU dies before anybody has spoken to it.
@example(
    version="7.2.22",
    happenings=[Soon(0.5, Kill("serving")), Mend(0), Soon(0.5, Kill("serving"))],
)
def test_no_life_breaks_a_rule(version: PackagedVersion, happenings: list[Happening]) -> None:
    """Every life ends with one protected guest that has all that was acknowledged."""
    world = World(version)

    async def main() -> None:
        life = FakePair(world, attrs.evolve(declared(), timeouts=LIMITS))
        try:
            await live(life, happenings)
        finally:
            await hang_up(life)

    world.run(main())

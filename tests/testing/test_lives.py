"""Random lives of pairs: whatever dies, stops responding or is left half done, the rules hold.

Never do two guests serve at once; never is a guest without network after a procedure that was
finished; never is a write lost that a client was told is done.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.testing.operator import GoneHome, Operator, hang_up
from tests.testing.testbed import VERSIONS, FakePair, declared, in_world

from pycolo import compiler
from pycolo.errors import CompileError
from pycolo.evidence import Evidence, Victim
from pycolo.model.pair import ColoPair, Timeouts
from pycolo.plan import Plan
from pycolo.qmp.schema import PackagedVersion
from pycolo.record import Change, dumps
from pycolo.testing import FakeHost, FakeQemu, World

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
    """A QEMU stops responding."""

    who: Who


@attrs.frozen
class Thaw:
    """Whoever is silent continues."""


@attrs.frozen
class Cut:
    """The network between the two hosts fails."""


@attrs.frozen
class Heal:
    """The network between the two hosts works again."""


@attrs.frozen
class PowerOff:
    """A whole host dies: its QEMU ends, and nobody reaches its record."""

    who: Who


@attrs.frozen
class Unplug:
    """A host is out of reach for whoever controls it, and its QEMU lives."""

    who: Who


@attrs.frozen
class PowerOn:
    """Every host is back, with its disk."""


@attrs.frozen
class Stash:
    """A controller compiles, and pauses."""


@attrs.frozen
class Replay:
    """It continues with one of its plans."""

    number: int


@attrs.frozen
class Mend:
    """The operator sets to work, and dies after so many steps."""

    steps: int | None


@attrs.frozen
class Soon:
    """Something happens after a time, whatever continues then."""

    seconds: float
    what: Kill | Freeze | Thaw | Cut | Heal


Happening: TypeAlias = (
    Write
    | Pass
    | Kill
    | Freeze
    | Thaw
    | Cut
    | Heal
    | Mend
    | Soon
    | PowerOff
    | Unplug
    | PowerOn
    | Stash
    | Replay
)
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
    st.builds(PowerOff, WHO),
    st.builds(Unplug, WHO),
    st.builds(PowerOn),
    st.builds(Stash),
    st.builds(Replay, st.integers(0, 9)),
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
        operator.check_answer()
        assert [] == life.broken
    mend(life.world)
    for node in (*life.pair.nodes, *life.pair.spares):
        life.world.host(node.name).away = False
    operator.steps_left = None
    await operator.protect()
    assert [] == life.broken
    await happen(life, operator, Write(count=2))
    operator.check_answer()


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
        case PowerOff() | Unplug() | PowerOn():
            switch(life, happening)
        case Stash() | Replay() | Mend():
            await control(life, operator, happening)


async def control(life: FakePair, operator: Operator, what: Stash | Replay | Mend) -> None:
    """Have a controller do something."""
    match what:
        case Stash():
            await operator.stash()
        case Replay(number=number):
            await operator.replay(number)
        case Mend(steps=steps):
            operator.steps_left = steps
            try:
                await operator.protect()
            except GoneHome:
                await hang_up(life)


def switch(life: FakePair, what: PowerOff | Unplug | PowerOn) -> None:
    """Switch a host off or put it out of reach, one at a time, or have all of them back."""
    world = life.world
    hosts = [world.host(node.name) for node in (*life.pair.nodes, *life.pair.spares)]
    if isinstance(what, PowerOn):
        for host in hosts:
            host.away = False
        return
    victim = find(life, what.who)
    if victim is None or any(host.away for host in hosts):
        return
    if isinstance(what, PowerOff):
        if not may_die(victim):
            return
        victim.kill()
    world.host(victim.node.name).away = True


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
# A secondary that never joined stops, on a host that nobody reaches, after its primary has ended.
@example(
    version="7.2.22",
    happenings=[Unplug("other"), Kill("serving"), Freeze("other"), Mend(None)],
)
# The survivor stops as its peer's host is lost: the plan that was armed for it frees nobody.
@example(
    version="7.2.22",
    happenings=[Mend(None), PowerOff("serving"), Soon(0.0, Freeze("other"))],
)
# The secondary dies in the first copy of a guest that never ran.
@example(version="10.0.13", happenings=[Soon(0.25, Kill("other"))])
# The survivor dies between the observation that its peer's launch came from and that launch.
@example(
    version="7.2.22",
    happenings=[Mend(None), PowerOff("serving"), Soon(0.34375, Kill("serving"))],
)
# The only host with data is down before a secondary has any.
@example(version="7.2.22", happenings=[PowerOff("serving"), Mend(None)])
# One host of a protected pair is down, and the other one's QEMU has ended.
@example(version="7.2.22", happenings=[Mend(None), PowerOff("serving"), Kill("other"), Mend(None)])
# The primary's host is lost before its secondary was proven.
@example(version="7.2.22", happenings=[Mend(36), PowerOff("serving")])
# A promoted QEMU stops responding before its overlays are merged.
@example(
    version="10.0.13",
    happenings=[Soon(0.875, Freeze("serving")), Mend(None), PowerOff("serving")],
)
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


# -- what happens in them, and faults that are put in on purpose -----------------------------------


async def _lived(life: FakePair, happenings: Sequence[Happening], seen: Counter[str]) -> None:
    operator = Operator(life, seen=seen)
    await life.launch("alpha", "beta")
    keep_writing(life.world)
    for happening in happenings:
        await happen(life, operator, happening)
        operator.check_answer()
        assert [] == life.broken
    operator.steps_left = None
    await operator.protect()
    operator.check_answer()
    assert [] == life.broken


def play(*happenings: Happening, seen: Counter[str] | None = None) -> None:
    """Play one life to its end, and judge it."""

    async def scenario(life: FakePair) -> None:
        life.pair = attrs.evolve(life.pair, timeouts=LIMITS)
        await _lived(life, happenings, Counter() if seen is None else seen)

    in_world("11.1.3", scenario)


# A controller dies after each step of a failover, the survivor serves and dies, and who is started
# then must have all that it said.
DIES_IN_A_FAILOVER = [
    (Mend(None), Kill("serving"), Mend(k), Write(3), Pass(3.0), Kill("serving"))
    for k in range(0, 24, 2)
]
FAILS_OVER_LATER = [
    (
        *(Mend(None), Stash(), lost, Mend(None), PowerOn(), Write(2)),
        *(Replay(n), Write(3), Pass(0.3), Kill("serving")),
    )
    for lost in (Kill("other"), PowerOff("other"))
    for n in range(6)
]
LOSES_A_HOST = [
    (Mend(None), PowerOff(who), Mend(k), PowerOn(), Write(2), Kill("serving"))
    for who in ("serving", "other")
    for k in (None, 2, 5, 8, 13)
]
# The primary leaves a living secondary behind whose record nobody could write, and is lost.
LEAVES_BEHIND: list[tuple[Happening, ...]] = [
    (
        *(Mend(None), Stash(), Unplug("other"), Replay(0), PowerOn(), Write(3)),
        *(Pass(3.0), PowerOff("serving")),
    )
]
NOBODY_DIED = [(Mend(None), Stash(), Replay(n), Write(2), Pass(0.5), Write(2)) for n in range(4)]
STOPS_RESPONDING = [
    (Mend(None), Kill("other"), Soon(seconds, Freeze("other")), Mend(None), Write(2))
    for seconds in (0.05, 0.15, 0.25, 0.3, 0.35, 0.4)
]
DIRECTED: tuple[tuple[Happening, ...], ...] = (
    *DIES_IN_A_FAILOVER,
    *FAILS_OVER_LATER,
    *LOSES_A_HOST,
    *NOBODY_DIED,
    *LEAVES_BEHIND,
    *STOPS_RESPONDING,
)


@pytest.mark.property
@pytest.mark.timeout(300)
def test_every_kind_of_thing_happens_in_directed_lives() -> None:
    """Procedures, refusals, recoveries and words of a person are all met, and no rule is broken."""
    seen: Counter[str] = Counter()
    for happenings in DIRECTED:
        play(*happenings, seen=seen)
    met = {"failover", "resume", "launch of a secondary", "newest", "fence", "TimedOut in resume"}
    assert set() == met - set(seen), seen
    assert any(name.startswith("stale") and name.endswith("ended") for name in seen), seen


def _recorded_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The survivor's record is written after it has left COLO."""
    compiled = compiler.compile_plan

    def late(*args: object, **options: object) -> Plan:
        plan: Plan = compiled(*args, **options)  # type: ignore[arg-type]  # as they came
        places = [n for n, s in enumerate(plan.steps) if s.address.endswith("/record/sole")]
        ends = [n for n, s in enumerate(plan.steps) if s.address.endswith("/wait/restored")]
        if not places or not ends:
            return plan
        steps = list(plan.steps)
        steps.insert(ends[0], steps.pop(places[0]))
        return attrs.evolve(plan, steps=tuple(steps), recoveries=())

    monkeypatch.setattr(compiler, "compile_plan", late)


def _written_blindly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is replaced whatever it says."""

    async def write_over(
        self: FakeHost, pair: ColoPair, node: str, change: Change, *, limit_s: float
    ) -> None:
        del limit_s
        self.files[pair.record_path(node)] = dumps(change.becomes).encode()

    monkeypatch.setattr(FakeHost, "write", write_over)


def _taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is asked for is called dead."""

    async def dead(
        self: FakeHost, pair: ColoPair, victim: Victim, *, limit_s: float
    ) -> Evidence | None:
        del pair, limit_s
        return Evidence.of(victim, kind="exit", who=self.name, how="so it is said", when="now")

    monkeypatch.setattr(FakeHost, "death", dead)


@pytest.mark.property
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", [_recorded_too_late, _written_blindly, _taken_for_dead])
def test_fault_that_is_put_in_is_found(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lives that no fault of the library would disturb could not find one either."""
    fault(monkeypatch)
    with pytest.raises((AssertionError, CompileError)):
        _play_all()


def _play_all() -> None:
    for happenings in DIRECTED:
        play(*happenings)

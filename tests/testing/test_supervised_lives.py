"""Random lives under a supervisor, on fakes: what operators trust it with, and what may happen.

Each schedule follows from its seed. While faults come, at most one guest answers and no write that
was acknowledged is missing from whoever serves; once they are over, the pair is protected again
within a bound, or stands where only a person can help, in a case that `tests.persons` names. A
schedule that fails names its seed, and `PYCOLO_SEED=SEED pytest -k test_random_lives` plays it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, final

import attrs
import pytest
from tests.persons import is_for_a_person
from tests.testing.test_fence_devices import (
    Answer,
    FakeFence,
    evidence,
    hangs,
    raises,
    refuses,
)
from tests.testing.test_supervisor import Watched, kept
from tests.testing.testbed import FakePair, declared, in_world, time_passes
from typing_extensions import override

from pycolo.errors import CommandUnknown, RefusedError, StoreError
from pycolo.evidence import Evidence, Victim
from pycolo.model import ColoPair
from pycolo.supervise import FenceDevice, NotFenced, Store
from pycolo.testing import FakeQemu
from pycolo.testing._network import end
from pycolo.testing._process import Process

STEPS: Final = 12
WRITE_S: Final = 0.25
HEALED_S: Final = 900.0
_QUIET_S: Final = 3.0
_NOTICED_S: Final = 2.0
_BOTH: Final = 2
_TOLD_S: Final = WRITE_S + 0.1
_ASKED: Final = os.environ.get("PYCOLO_SEED")
SEEDS: Final[Sequence[int]] = range(12) if _ASKED is None else (int(_ASKED),)
pytestmark = [pytest.mark.property, pytest.mark.timeout(900)]


class Life:
    """A pair, what happens to it, and who looks on."""

    def __init__(self, life: FakePair, chance: random.Random) -> None:
        self.life = life
        self.chance = chance
        self.number = 0
        self.log: list[str] = []
        self.wrong: list[str] = []
        self.fault_s = 0.0
        "When the last fault came."
        self.tasks: set[asyncio.Task[None]] = set()
        "What people ask for, and other things that take time."

    async def watch(self) -> None:
        """Observe whenever anything changes, and have the guest write again and again."""
        self.life.world.waiting[self.observe] = None
        while True:
            self.write()
            await time_passes(WRITE_S)

    def observe(self) -> bool:
        """See that at most one guest answers, and has every write; what is wrong is kept."""
        serving = self.life.world.serving
        names = [q.node.name for q in serving]
        if len(serving) > 1:
            self.wrong.append(f"{self.life.world.now_s:.3f} two guests: {names}")
        for one in serving:
            lost = sorted(self.life.world.acknowledged - one.guest_data() - self.may_lack(one))
            if lost:
                self.wrong.append(f"{self.life.world.now_s:.3f} {names} lacks {lost[:5]}")
        return False

    def may_lack(self, one: FakeQemu) -> set[int]:  # noqa: ARG002 - for those that override it
        """The acknowledged writes that a QEMU which serves need not have."""
        return set()

    def write(self) -> None:
        """Have whoever serves acknowledge a write, if it does."""
        for one in self.life.world.serving:
            self.number += 1
            one.guest_write(self.number)

    def ask(self, request: Coroutine[object, object, object]) -> None:
        """Have somebody ask for something, which may be refused, or not be answered."""
        self.tasks.add(asyncio.get_running_loop().create_task(_asked(request)))

    # -- faults

    def members(self) -> list[FakeQemu]:
        """Every QEMU that runs."""
        return [q for q in self.life.world.processes if q.alive]

    def kill(self) -> str:
        """A QEMU dies."""
        found = self.members()
        if not found:
            return "nobody to kill"
        one = self.chance.choice(found)
        one.kill()
        return f"kill {one.node.name}"

    def freeze(self) -> str:
        """A QEMU stops, and continues later, if it was not ended meanwhile."""
        found = self.members()
        if not found:
            return "nobody to freeze"
        one = self.chance.choice(found)
        one.freeze()
        self.life.world.later(self.chance.choice([0.2, 1.0, 5.0, 60.0]), lambda: self.thaw(one))
        return f"freeze {one.node.name}"

    def thaw(self, one: FakeQemu) -> None:
        """Let a frozen one continue."""
        if one.alive:
            one.thaw()

    def cut(self) -> str:
        """The network between two hosts loses every packet, for a while."""
        world, (first, second) = self.life.world, self.chance.sample(self.life.pair.names[:3], 2)
        world.cut(first, second)
        world.later(self.chance.choice([0.5, 5.0, 90.0]), lambda: world.heal(first, second))
        return f"cut {first} {second}"

    def leave(self) -> str:
        """A host is out of reach, for a while."""
        name = self.chance.choice(self.life.pair.names[:3])
        host = self.life.world.host(name)
        host.away = True

        def back() -> None:
            host.away = False

        self.life.world.later(self.chance.choice([0.5, 5.0, 90.0]), back)
        return f"{name} away"

    def hang_up(self) -> str:
        """Every monitor of a QEMU closes its connections."""
        found = self.members()
        if not found:
            return "nobody to hang up"
        one = self.chance.choice(found)
        for monitor in one.monitors:
            monitor.hang_up()
        return f"hang up {one.node.name}"

    # -- fences

    @property
    def fences(self) -> Mapping[str, Sequence[FenceDevice]]:
        """Two fences of each node, which do something else each time that they are used."""
        names = ("first fence", "second fence")
        return {
            node.name: [FakeFence(name, self._fenced, limit_s=2.0) for name in names]
            for node in self.life.pair.all_nodes
        }

    async def _fenced(self, victim: Victim) -> Evidence | NotFenced:
        ways: list[Answer] = [self._ends, self._lies, self._ends_late, refuses, hangs, raises]
        way = self.chance.choice(ways)
        self.log.append(f"{self.life.world.now_s:.3f} fence of {victim.node}: {way.__name__}")
        return await way(victim)

    async def _ends(self, victim: Victim) -> Evidence:
        """End the QEMU, as a fence should."""
        self._end(victim)
        return evidence(victim)

    async def _lies(self, victim: Victim) -> Evidence:
        """Say that the QEMU has ended, and do nothing."""
        return evidence(victim)

    async def _ends_late(self, victim: Victim) -> NotFenced:
        """End the QEMU once nobody waits for that any more."""
        self.life.world.later(self.chance.choice([0.1, 3.0, 10.0]), lambda: self._end(victim))
        return await hangs(victim)

    def _end(self, victim: Victim) -> None:
        for one in self.members():
            if one.line.name == victim.instance:
                one.kill()

    def nothing(self) -> str:
        """Nothing happens."""
        return "nothing"

    def fault(self) -> None:
        """One of them, by chance."""
        ways: list[Callable[[], str]] = [self.kill, self.freeze, self.cut, self.leave]
        ways += [self.hang_up, self.nothing, *self.more]
        text = self.chance.choice(ways)()
        self.log.append(f"{self.life.world.now_s:.3f} {text}")
        self.fault_s = self.life.world.now_s

    @property
    def more(self) -> Sequence[Callable[[], str]]:
        """What else may happen, under this kind of program alone."""
        return ()


@final
@attrs.define(eq=False)
class _Risk:
    """Writes that one side of COLO alone has: a disk of the primary failed, or its link was lost.

    They may be lost if that side ends before a supervisor has heard of it, as the manual says.
    """

    primary: Process
    keeper: Process
    "The QEMU that has the writes."
    heard_by: Watched | None
    "The supervisor that surely heard of the first one of them; None if none did."
    since_s: float
    numbers: set[int] = attrs.field(factory=set)
    is_over: bool = False
    "Whether that side continues alone, or has ended."
    is_unknown: bool = False
    "Whether that side has ended, and no supervisor surely knew what it had."

    def see(self, watched: Watched | None, now_s: float) -> None:
        """Take note that the side which has the writes continues alone, or has ended."""
        if self.is_over or self.keeper.alive:
            self.is_over = self.is_over or self.keeper.live.colo_mode == "none"
            return
        is_known = self.heard_by is not None and self.heard_by is watched
        self.is_over, self.is_unknown = True, not (is_known and now_s >= self.since_s + _TOLD_S)

    def may_lack(self, one: Process) -> set[int]:
        """The writes that a QEMU which serves need not have."""
        is_primary = one is self.primary is not self.keeper and one.live.colo_mode == "primary"
        return self.numbers if self.is_unknown or is_primary else set()


@final
class SupervisedLife(Life):
    """A pair, its supervisors one after the other, and what people have them do."""

    def __init__(self, life: FakePair, chance: random.Random, store: Store) -> None:
        super().__init__(life, chance)
        self.store = store
        self.watched: Watched | None = None
        "The supervisor that runs; None between two of them."
        self.is_off = False
        "Whether no guest was wanted when the store was read last."
        self.shut: list[Process] = []
        "The QEMUs whose guests have shut themselves down."
        self.risks: list[_Risk] = []
        self.rests: int | None = None
        "How many QEMUs had been launched when the supervisor began to stand aside; None if not."

    @property
    @override
    def more(self) -> Sequence[Callable[[], str]]:
        return (
            *(self.shut_down, self.reset, self.reboot, self.fail_disk, self.lose_link),
            *(self.pause, self.state_fence, self.move, self.switch_over),
        )

    def heal(self) -> None:
        """Have people want a guest, and end a pause."""
        self.want()
        self.unpause()

    # -- what the guest and its hosts do

    def shut_down(self) -> str:
        """The guest shuts itself down or panics, on each side that runs it, and is wanted later."""
        sides = self.sides()
        if not sides:
            return "no guest to shut down"
        primary, is_heard, watched = sides[0], self.is_heard, self.watched
        reason = self.chance.choice(["guest-shutdown", "guest-panic"])
        later_s = self.chance.choice([0.0, 0.005, 0.02])
        self.chance.shuffle(sides)
        for one, wait_s in zip(sides, (0.0, later_s), strict=False):
            self.life.world.later(wait_s, functools.partial(self._shuts_down, one, reason))

        def must_be_off() -> None:
            is_shut = primary in self.shut and self.watched is watched
            if is_shut and self.is_wanted and not self.is_paused:
                self.wrong.append(f"{self.life.world.now_s:.3f} the guest is still wanted")

        if is_heard:
            self.life.world.later(_NOTICED_S, must_be_off)
        self.life.world.later(self.chance.choice([30.0, 90.0]), self.want)
        return f"{reason} of {[one.node.name for one in sides]}, heard: {is_heard}"

    def _shuts_down(self, one: Process, reason: str) -> None:
        """Have the guest of a QEMU shut itself down, if it runs."""
        if one.runs:
            if reason == "guest-panic":
                one.event("GUEST_PANICKED", {"action": "poweroff"})
            one.event("SHUTDOWN", {"guest": True, "reason": reason})
            self.shut.append(one)
            end(one, 0)

    def reset(self) -> str:
        """The guest resets, on each side that runs it."""
        sides = self.sides()
        for one in sides:
            one.event("RESET", {"guest": True, "reason": "guest-reset"})
        return f"reset of {[one.node.name for one in sides]}"

    def reboot(self) -> str:
        """A host reboots, or every host with a QEMU does: its QEMU ends, and its files stay."""
        everywhere = sorted({one.node.name for one in self.members()})
        names = self.chance.choice([[self.chance.choice(self.life.pair.names[:3])], everywhere])
        lasts_s = self.chance.choice([10.0, 60.0])
        for one in self.members():
            if one.node.name in names:
                one.kill()
        for name in names:
            self._away(name, lasts_s)
        return f"reboot of {names} in {lasts_s}"

    def _away(self, name: str, lasts_s: float) -> None:
        host = self.life.world.host(name)
        host.away = True

        def back() -> None:
            host.away = False

        self.life.world.later(lasts_s, back)

    def fail_disk(self) -> str:
        """From now on a disk of the primary refuses each write, which its secondary has."""
        sides = self.sides()
        if len(sides) != _BOTH:
            return "no primary whose disk could fail"
        return f"the disk of {self.risk(*sides, is_link=False)} fails"

    def lose_link(self) -> str:
        """The primary's connections to its secondary's disks end, and COLO continues."""
        sides = self.sides()
        if len(sides) != _BOTH:
            return "no connection to lose"
        for link in sides[0].disk_links.values():
            link.up = False
        return f"the link of {self.risk(*sides, is_link=True)} is lost"

    def sides(self) -> list[Process]:
        """The QEMUs that run the guest which serves: one, or two in lock-step; empty for none."""
        for one in self.life.world.serving:
            twin = None if one.channel is None else one.channel.target
            return [one] if one.live.colo_mode != "primary" or twin is None else [one, twin]
        return []

    def risk(self, primary: Process, secondary: Process, *, is_link: bool) -> str:
        """Have one side alone get the primary's writes from now on; gives the primary's node."""
        keeper = primary if is_link else secondary
        heard_by = self.watched if self.is_heard else None
        self.risks.append(_Risk(primary, keeper, heard_by, self.life.world.now_s))
        return primary.node.name

    # -- what people do

    def want(self) -> None:
        """Want a guest, if none is wanted."""
        self.is_off = False
        if not self.is_wanted:
            self.store.want(self.life.pair.name, "protected")

    def pause(self) -> str:
        """Supervision is paused, for a while."""
        lasts_s = self.chance.choice([0.5, 5.0, 60.0])
        self.store.pause(self.life.pair.name, "by the test")
        for risk in self.risks:
            # What was heard before a pause is forgotten, and told again at the next write.
            risk.heard_by = None
        self.life.world.later(lasts_s, self.unpause)
        return f"pause for {lasts_s}"

    def unpause(self) -> None:
        """End a pause."""
        if self.is_paused:
            self.store.pause(self.life.pair.name, None)

    def state_fence(self) -> str:
        """A host stops and is away; somebody switches it off after a while, and says so."""
        name = self.chance.choice(self.life.pair.names[:3])
        after_s, lasts_s = self.chance.choice([0.5, 5.0, 20.0]), self.chance.choice([30.0, 90.0])
        stopped = [one for one in self.members() if one.node.name == name]
        for one in stopped:
            one.freeze()
        self._away(name, lasts_s)

        def said() -> None:
            for one in stopped:
                one.kill()
            if self.watched is None or not stopped:
                return
            instance = stopped[-1].line.name
            self.ask(
                self.watched.supervisor.state_fence(
                    *(self.life.pair.name, name), who="the test", how="off", instance=instance
                )
            )

        self.life.world.later(after_s, said)
        return f"{name} is off, said after {after_s}"

    def move(self) -> str:
        """Somebody asks for a secondary on another node."""
        to = self.chance.choice(self.life.pair.names[:4])
        if self.watched is not None:
            self.ask(self.watched.supervisor.move(self.life.pair.name, to))
        return f"move to {to}"

    def switch_over(self) -> str:
        """Somebody asks for a switch-over."""
        if self.watched is not None:
            self.ask(self.watched.supervisor.switch_over(self.life.pair.name))
        return "switch over"

    # -- what must hold

    @override
    def observe(self) -> bool:
        if self.is_off and self.life.world.serving:
            self.wrong.append(f"{self.life.world.now_s:.3f} a guest serves, and none is wanted")
        for risk in self.risks:
            risk.see(self.watched, self.life.world.now_s)
        return super().observe()

    @override
    def may_lack(self, one: FakeQemu) -> set[int]:
        """See `_Risk.may_lack`."""
        return set[int]().union(*(risk.may_lack(one) for risk in self.risks))

    @override
    def write(self) -> None:
        self.is_off = not self.is_wanted
        self._see_rest()
        failed = [risk for risk in self.risks if risk.keeper is not risk.primary]
        for one in self.life.world.serving:
            refuses = any(risk.primary is one for risk in failed)
            if refuses and one.live.colo_mode != "primary":
                # Its guest is told of the error, and acknowledges nothing.
                continue
            self.number += 1
            if one.guest_write(self.number):
                self._note(one, refuses=refuses)

    def _note(self, one: FakeQemu, *, refuses: bool) -> None:
        """Take note of which side alone has the last write, and have a disk that failed lose it."""
        quorum = one.quorums[0]
        if refuses:
            one.quorum_image(quorum).records.discard(self.number)
            bad = {"node-name": one.live.children[quorum][0].node, "type": "write"}
            one.event("QUORUM_REPORT_BAD", {**bad, "sector-num": 1, "sectors-count": 1})
        for risk in self.risks:
            if risk.primary is one and one.live.colo_mode == "primary":
                risk.numbers.add(self.number)

    def _see_rest(self) -> None:
        """See that a supervisor which stands aside launches nothing."""
        count, watched = len(self.life.world.processes), self.watched
        (status,) = (None,) if watched is None else watched.supervisor.statuses
        if status is None or not status.are_monitors_free:
            self.rests = None
        elif self.rests not in (None, count):
            self.wrong.append(f"{self.life.world.now_s:.3f} a QEMU is launched during a pause")
        else:
            self.rests = count

    @property
    def is_heard(self) -> bool:
        """Whether a supervisor surely hears what both QEMUs of a protected pair tell."""
        if self.watched is None or self.life.world.now_s - self.fault_s < _QUIET_S:
            return False
        hosts = [self.life.world.host(name) for name in self.life.pair.names]
        (status,) = self.watched.supervisor.statuses
        are_here = not any(host.away for host in hosts)
        return status.is_protected and are_here and not self.is_paused

    @property
    def is_wanted(self) -> bool:
        """Whether a guest is wanted, by the store."""
        return self.store.read(self.life.pair.name).want != "stopped"

    @property
    def is_paused(self) -> bool:
        """Whether supervision is paused, by the store."""
        return self.store.read(self.life.pair.name).paused is not None


async def _asked(request: Coroutine[object, object, object]) -> None:
    with contextlib.suppress(RefusedError, CommandUnknown, StoreError):
        await request


async def _lived(life: FakePair, folder: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    with Store(folder) as store:
        lived = SupervisedLife(life, chance, store)
        watching = asyncio.create_task(lived.watch())
        for _ in range(chance.randint(1, 3)):
            # Each supervisor but the last one ends in the midst of it.
            async with _kept(lived):
                await _faults(lived)
        async with _kept(lived) as watched:
            await _healed(lived, watched)
        assert not watching.done()
        watching.cancel()
        await asyncio.gather(*lived.tasks)


@asynccontextmanager
async def _kept(lived: SupervisedLife) -> AsyncGenerator[Watched]:
    async with kept(lived.life, lived.store, lived.fences) as watched:
        lived.watched = watched
        try:
            yield watched
        finally:
            lived.watched = None


async def _faults(lived: Life) -> None:
    for _ in range(lived.chance.randint(1, STEPS // 3)):
        await time_passes(lived.chance.choice([0.0, 0.002, 0.05, 0.5, 3.0, 30.0]))
        lived.fault()


async def _healed(lived: SupervisedLife, watched: Watched) -> None:
    end_s = lived.life.world.now_s + 100.0 + HEALED_S
    lived.life.world.later(100.0, lived.heal)
    while True:
        assert not lived.wrong, (lived.wrong[:5], lived.log)
        (status,) = watched.supervisor.statuses
        if lived.life.world.now_s > end_s - HEALED_S and status.is_protected:
            return
        if lived.life.world.now_s > end_s:
            texts = [f"{e.when} {e.node} {e.kind}: {e.text}" for e in watched.events[-30:]]
            assert is_for_a_person(status), (status, lived.log, texts)
            return
        await time_passes(1.0)


@contextlib.contextmanager
def named(seed: int) -> Iterator[None]:
    """Have a life that fails say which one it was."""
    try:
        yield
    except Exception as failure:
        failure.add_note(f"the seed is {seed}")
        raise


def _pair() -> ColoPair:
    return declared(checkpoint_delay_ms=500)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_lives(tmp_path: Path, seed: int) -> None:
    """Whatever comes, nothing is lost, and the pair comes back."""
    in_world("11.1.3", lambda life: _lived(life, tmp_path, seed), _pair())


@pytest.mark.nightly
@pytest.mark.parametrize("hundred", range(100))
def test_ten_thousand_random_lives(tmp_path: Path, hundred: int) -> None:
    """The same with ten thousand schedules."""
    for n in range(100):
        folder, seed = tmp_path / str(n), 100 + 100 * hundred + n
        with named(seed):
            in_world("11.1.3", lambda life: _lived(life, folder, seed), _pair())  # noqa: B023 - lived at once

"""An operator who keeps a pair of fakes protected, whatever happens to it and to himself."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import final

import attrs
from tests.testing.testbed import FakePair

from pycolo._execute import execute
from pycolo._probe import probe
from pycolo.compiler import compile_plan
from pycolo.errors import Busy, CompileError, ConnectionFailed, RemoteError, UndecidedError
from pycolo.errors import Unresponsive as UnresponsiveError
from pycolo.evidence import Evidence
from pycolo.plan import Options, Plan, Procedure
from pycolo.result import Outcome, Report
from pycolo.session import Session
from pycolo.snapshot import (
    Absent,
    Live,
    NodeState,
    Snapshot,
    Unreachable,
    Unresponsive,
    role_of,
)
from pycolo.testing import FakeQemu

ROUNDS = 12
NEVER_IN_COLO = ("fresh secondary", "prepared secondary", "used up")


class GoneHome(Exception):
    """The controller died between two steps."""


@final
@attrs.define
class Operator:
    """Probes, fences, fails over, replaces and resumes; may die after any of his steps."""

    life: FakePair
    steps_left: int | None = None
    "How many steps he still does before he dies; None for as many as there are."
    armed: dict[str, Plan] = attrs.field(factory=dict)
    "Survivor's name to its failover plan, compiled when protection was reached."
    seen: Counter[str] = attrs.field(factory=Counter)
    "What happened, and how often: procedures, refusals, recoveries."
    stale: list[Plan] = attrs.field(factory=list)
    "Plans that a controller compiled before it paused."
    newest: str = "alpha"
    "Who served last, as clients have seen it; asked where no record tells."

    async def protect(self) -> None:
        """Bring the pair under protection, from whatever there is.

        Raises:
            GoneHome: He died before he was done.
        """
        for _ in range(ROUNDS):
            self.check_answer()
            if await self._round():
                self.check_answer()
                return
        raise AssertionError(f"not protected after {ROUNDS} rounds: {await self._known()}")

    # -- what he sees

    @property
    def names(self) -> tuple[str, str]:
        """The pair's two nodes."""
        first, second = self.life.pair.nodes
        return first.name, second.name

    def check_answer(self) -> None:
        """See that no two guests serve, and that who serves has every acknowledged write."""
        serving = self.life.world.serving
        assert len(serving) <= 1, [qemu.node.name for qemu in serving]
        for qemu in serving:
            self.newest = qemu.node.name
            lost = self.life.world.acknowledged - qemu.guest_data()
            assert not lost, f"{qemu.node.name} lost {sorted(lost)}"

    def _running(self, name: str) -> FakeQemu | None:
        return self.life.world.find(name)

    def _struck(self) -> bool:
        """Whether something has gone wrong since he looked."""
        died = any(self._running(name) is None for name in self.life.sessions)
        return died or bool(self._suspects())

    def _suspects(self) -> list[str]:
        """Nodes that do not answer, by another way than QMP: frozen, or cut off from the other."""
        first, second = (self._running(name) for name in self.names)
        suspects = [q for q in (first, second) if q is not None and q.frozen]
        if first and second and self.life.world.is_cut(first, second) and not suspects:
            # Either would do; he keeps the one that has served.
            suspects = [first if second.node.name == self.newest else second]
        return [qemu.node.name for qemu in suspects]

    async def _known(self) -> Snapshot:
        known: dict[str, Session | NodeState] = {}
        for name in self.names:
            known[name] = await self._one(name)
        life = self.life
        return await probe(known, pair=life.pair, hosts=life.hosts, limit_s=1.0)

    async def _one(self, name: str) -> Session | NodeState:
        if self._running(name) is None:
            return Absent()
        session = self.life.sessions.get(name)
        if session is None or session.closed:
            try:
                session = await self.life.connect(name)
            except RemoteError as error:
                return Unreachable(why=str(error))
        return session

    # -- what he does

    async def _round(self) -> bool:
        for name in self._suspects():
            await self._fence(name)
        for name in self.names:
            if self._running(name) is None and name in self.life.sessions:
                await self.life.sessions.pop(name).aclose()
        snapshot = await self._known()
        alive = [n for n in self.names if not isinstance(snapshot.state(n), Absent)]
        if len(alive) == 2:
            return await self._two(snapshot)
        if len(alive) == 1:
            await self._one_left(alive[0], snapshot)
        else:
            await self._none_left()
        return False

    async def _fence(self, name: str) -> None:
        running = self._running(name)
        if running is not None and running.frozen and running.live.commit_pending:
            # Its image lacks what its overlays hold until they are merged (5.13).
            self.seen["woken for its merge"] += 1
            running.thaw()
            return
        self.seen["fence"] += 1
        await self.life.kill(name)

    # -- controllers that pause

    async def stash(self) -> None:
        """Compile whatever can be compiled now, for a controller that continues later."""
        snapshot = await self._known()
        asked: list[tuple[Procedure, Options]] = [
            ("failover", Options(survivor=name)) for name in self.names
        ]
        asked += [("resume", Options()), ("stop", Options()), ("switch-over", Options())]
        for procedure, options in asked:
            try:
                plan = compile_plan(procedure, self.life.pair, snapshot, options)
            except CompileError:
                continue
            if plan.steps:
                self.stale.append(plan)

    async def replay(self, number: int) -> None:
        """Execute a plan that was compiled before, over sessions of its own."""
        if not self.stale:
            return
        plan = self.stale.pop(number % len(self.stale))
        await hang_up(self.life)
        for name in self.names:
            await self._one(name)
        self.armed.clear()
        # The commutation of these nodes may be another one by now; the plan has its own pair.
        report = await execute(
            plan, self.life.sessions, self.life.hosts_of(plan.pair), observer=_Watch(self)
        )
        ended = "ended" if report.failed else "done"
        self.seen[f"stale {plan.procedure} {ended}"] += 1

    async def _two(self, snapshot: Snapshot) -> bool:
        roles = {name: role_of(snapshot.state(name)) for name in self.names}
        bad = [n for n, role in roles.items() if role in ("used up", "broken secondary")]
        bad += [n for n, role in roles.items() if role in ("unresponsive", "unreachable")]
        if "broken primary" in roles.values() or "unprotected" in roles.values():
            bad += [n for n, role in roles.items() if role == "secondary"]
        spare = [n for n in bad if n != self.newest] or bad
        if spare:
            await self._fence(spare[0])
            return False
        report = await self._run("resume", snapshot)
        if report.failed is not None:
            # A secondary of an entry that failed is used up.
            await self._fence(next(n for n in self.names if n != self.newest))
            return False
        try:
            await self._arm()
        except CompileError:
            assert self._struck()
            return False
        self._serves()
        return True

    async def _one_left(self, name: str, snapshot: Snapshot) -> None:
        state = snapshot.state(name)
        peer = next(n for n in self.names if n != name)
        if isinstance(state, Unresponsive | Unreachable):
            if not await self._armed(name):
                return
        elif role_of(state) in NEVER_IN_COLO:
            await self._fence(name)
            return
        else:
            try:
                report = await self._run("failover", snapshot, survivor=name)
            except CompileError:
                # It never came to follow for sure, so that the lost one's image has everything.
                assert role_of(state) in ("secondary", "broken secondary")
                self.seen["no right to run alone"] += 1
                await self._fence(name)
                return
            if report.failed is not None:
                return
            if isinstance(state, Live) and state.run_state != "prelaunch":
                self._serves()
        self.newest = name
        await self._replace(peer)

    async def _none_left(self) -> None:
        for name in sorted(self.names, key=lambda name: name != self.newest):
            if self.life.world.host(name).away:
                continue
            try:
                await self._launch(name)
            except UndecidedError:
                # No record tells, so a person does, who has seen which one served.
                self.seen["newest"] += 1
                # Where its host is down it has to be switched on: nobody else has the data.
                self.life.world.host(self.newest).away = False
                await self._launch(self.newest, newest=self.newest)
            except CompileError:
                self.seen["launch refused"] += 1
                continue
            return
        # Who is up may not begin while the other one's record cannot be read.
        for name in self.names:
            self.life.world.host(name).away = False

    async def _launch(self, name: str, newest: str | None = None) -> None:
        try:
            await self.life.launch(name, newest=newest)
        except (Busy, ConnectionFailed, UnresponsiveError):
            # What died or stopped responding at its first moment is found so in the next round.
            return

    async def _armed(self, name: str) -> bool:
        plan = self.armed.pop(name, None)
        if plan is None:
            # Nothing was ready for it: its guest begins again from its image.
            await self._fence(name)
            return False
        report = await self._execute(plan)
        return report.failed is None

    async def _replace(self, dead: str) -> None:
        pair = self.life.pair
        spare = next(
            s.name
            for s in pair.spares
            if self._running(s.name) is None and not self.life.world.host(s.name).away
        )
        self.seen["replace"] += 1
        self.life.pair = pair.replacing(dead, pair.node(spare))
        await self._launch(spare)

    async def _arm(self) -> None:
        snapshot = await self._known()
        for survivor in self.names:
            options = Options(survivor=survivor)
            self.armed[survivor] = compile_plan("failover", self.life.pair, snapshot, options)

    # -- procedures

    async def _run(
        self, procedure: Procedure, snapshot: Snapshot, *, survivor: str | None = None
    ) -> Report:
        plan = compile_plan(procedure, self.life.pair, snapshot, Options(survivor=survivor))
        self.seen[procedure] += 1
        return await self._execute(plan)

    async def _execute(self, plan: Plan) -> Report:
        left = self.steps_left
        if left is not None and left < len(plan.steps):
            part = attrs.evolve(plan, steps=plan.steps[:left], recoveries=(), restored_after=None)
            await execute(part, self.life.sessions, self.life.hosts, observer=_Watch(self))
            raise GoneHome
        if left is not None:
            self.steps_left = left - len(plan.steps)
        report = await execute(
            plan,
            self.life.sessions,
            self.life.hosts,
            evidence=self._fences(plan),
            observer=_Watch(self),
        )
        self._count(report)
        return report

    def _count(self, report: Report) -> None:
        if report.recovery:
            self.seen["recovery"] += 1
        if report.failed is not None:
            outcome = report.outcomes[report.failed]
            self.seen[f"{type(outcome).__name__} in {report.plan.procedure}"] += 1

    def _fences(self, plan: Plan) -> dict[str, Evidence]:
        """The word of whoever switched a host off, for those that nobody can ask."""
        away = [v for v in plan.victims() if self.life.world.host(v.node).away]
        return {
            victim.node: Evidence.of(
                victim, kind="fence", who="the operator", how="its power is off", when="now"
            )
            for victim in away
        }

    def _serves(self) -> None:
        """After a procedure the guest runs and has its network, but for a checkpoint's moment."""
        for _ in range(20):
            if self.life.world.serving or self._struck():
                return
            self.life.world.advance(0.02)
        qemus = [q for q in self.life.world.processes if q.alive]
        raise AssertionError([(q.node.name, q.live, q.reachable) for q in qemus])


@final
@attrs.frozen
class _Watch:
    """Has every step judged."""

    operator: Operator

    def plan_started(self, plan: Plan) -> None:
        """Nothing to judge yet."""

    def step_started(self, step: object) -> None:
        """Nothing to judge yet."""

    def step_progress(
        self, address: str, done_bytes: int, total_bytes: int, rate_bytes_s: float
    ) -> None:
        """Nothing to judge yet."""

    def step_finished(self, address: str, _: Outcome) -> None:
        """Judge; an observer's error would only be logged, so it is kept."""
        try:
            self.operator.check_answer()
        except AssertionError as error:
            self.operator.life.broken.append(f"{address}: {error}")

    def recovery_started(self, recovery: object) -> None:
        """Nothing to judge yet."""

    def plan_finished(self, report: Report) -> None:
        """Nothing to judge yet."""


async def hang_up(life: FakePair) -> None:
    """What becomes of a controller's sessions when it dies."""
    for name in tuple(life.sessions):
        await life.sessions.pop(name).aclose()
    await asyncio.sleep(0)  # the monitors see that they are free

"""An operator who keeps a pair of fakes protected, whatever happens to it and to himself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import assert_never, final

import attrs
from tests.testing.testbed import FakePair
from typing_extensions import override

from pycolo._execute import execute
from pycolo._probe import probe
from pycolo.compiler import compile_plan
from pycolo.errors import Busy, CompileError, ConnectionFailed, RemoteError
from pycolo.errors import Unresponsive as UnresponsiveError
from pycolo.evidence import Evidence
from pycolo.findings import Finding
from pycolo.observers import Observer
from pycolo.plan import Options, Plan, Procedure, Record
from pycolo.reconcile import Act, Decide, End, Launch, Prove, Settled, next_step
from pycolo.result import Outcome, Report
from pycolo.session import Session
from pycolo.snapshot import Absent, Live, NodeState, Snapshot, Unreachable
from pycolo.testing import FakeQemu

ROUNDS = 12


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
    avoided: set[str] = attrs.field(factory=set)
    "Nodes that the network did not reach."
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
        here = [q for q in map(self._running, self.life.pair.names) if q is not None]
        return died or bool(self._cut_off()) or any(qemu.frozen for qemu in here)

    def _cut_off(self) -> list[str]:
        """Of two nodes between which the network fails, the one that he gives up."""
        first, second = (self._running(name) for name in self.names)
        if first is None or second is None or first.frozen or second.frozen:
            return []
        if not first.is_cut(second):
            return []
        # Either would do; he keeps the one that has served.
        return [first.node.name if second.node.name == self.newest else second.node.name]

    async def _known(self) -> Snapshot:
        life = self.life
        known = {name: await self._one(name) for name in life.pair.names}
        return await probe(known, pair=life.pair, hosts=life.hosts, limit_s=1.0)

    async def _one(self, name: str) -> Session | NodeState:
        session = self.life.sessions.get(name)
        if self._running(name) is None:
            if session is not None:
                await self.life.sessions.pop(name).aclose()
            return Absent()
        if session is None or session.closed:
            try:
                session = await self.life.connect(name)
            except RemoteError as error:
                return Unreachable(why=str(error))
        return session

    # -- what he does

    async def _round(self) -> bool:
        for name in self._cut_off():
            self.avoided.add(name)
            await self._fence(name)
        snapshot = await self._known()
        step = next_step(self.life.pair, snapshot, armed=self.armed, avoid=self.avoided)
        match step:
            case Settled(armed=armed):
                self.armed = dict(armed)
                self._serves()
                return True
            case Act(plan=plan):
                await self._act(plan, snapshot)
            case Prove(node=node, plan=plan):
                await self._prove(node, plan, snapshot)
            case End(node=node):
                await self._fence(node)
            case Launch(node=node):
                self.seen[f"launch of a {step.role}"] += 1
                await self._launch(node)
            case Decide(findings=findings):
                await self._decide(findings)
            case _:
                assert_never(step)
        return False

    async def _act(self, plan: Plan, snapshot: Snapshot) -> None:
        self.seen[plan.procedure] += 1
        self.armed.clear()
        report = await self._execute(plan)
        self.life.pair = plan.pair
        if plan.procedure != "failover" or report.failed is not None:
            return
        survivor = snapshot.live(next(s.node for s in plan.steps if isinstance(s, Record)))
        if survivor is not None and survivor.run_state != "prelaunch":
            self._serves()

    async def _prove(self, node: str, plan: Plan | None, snapshot: Snapshot) -> None:
        running = self._running(node)
        if running is not None:
            state = snapshot.state(node)
            if not running.frozen and isinstance(state, Live):
                # It is asked again: it notices the end of COLO at its next checkpoint.
                self.seen["asked again"] += 1
                await asyncio.sleep(self.life.pair.checkpoint_delay_ms / 1000)
            else:
                await self._fence(node)
        if plan is not None and self._running(node) is None:
            await self._act(plan, snapshot)

    async def _fence(self, name: str) -> None:
        running = self._running(name)
        if running is not None and running.frozen and running.live.commit_pending:
            # Its image lacks what its overlays hold until they are merged (5.13).
            self.seen["woken for its merge"] += 1
            running.thaw()
            return
        self.seen["fence"] += 1
        await self.life.kill(name)

    async def _decide(self, findings: Sequence[Finding]) -> None:
        """Switch every host on; where that is done, say who served last, as clients have seen."""
        hosts = [self.life.world.host(name) for name in self.life.pair.names]
        if any(host.away for host in hosts):
            for host in hosts:
                host.away = False
            return
        self.seen["newest"] += 1
        assert self._running(self.newest) is None, findings
        await self._launch(self.newest, newest=self.newest)

    async def _launch(self, name: str, newest: str | None = None) -> None:
        try:
            await self.life.launch(name, newest=newest)
        except (Busy, ConnectionFailed, UnresponsiveError):
            # What died or stopped responding at its first moment is found so in the next round.
            return
        except CompileError:
            # It was compiled from a later observation: something went wrong after the step's.
            assert self._struck()

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

    # -- procedures

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
class _Watch(Observer):
    """Has every step judged."""

    operator: Operator

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        """Judge; an observer's error would only be logged, so it is kept."""
        try:
            self.operator.check_answer()
        except AssertionError as error:
            self.operator.life.broken.append(f"{address}: {error}")


async def hang_up(life: FakePair) -> None:
    """What becomes of a controller's sessions when it dies."""
    for name in tuple(life.sessions):
        await life.sessions.pop(name).aclose()
    await asyncio.sleep(0)  # the monitors see that they are free

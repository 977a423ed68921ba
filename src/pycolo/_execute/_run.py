"""One execution of one plan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, assert_never, final

import attrs

from pycolo._execute._aftermath import Aftermath
from pycolo._execute._deaths import Deaths
from pycolo._execute._ended import (
    Ended,
    hindered,
    not_connected,
    outcome_of,
    refused,
    timed_out,
    unknown,
)
from pycolo._execute._observation import Observation
from pycolo._execute._observe import observe
from pycolo._execute._progress import Progress
from pycolo._execute._sender import Sender
from pycolo._execute._shield import shielded
from pycolo._probe import probe
from pycolo.conditions import (
    NO_EVIDENCE,
    CheckpointSeen,
    Condition,
    Gone,
    NotRunning,
    PeerDead,
    leaves,
)
from pycolo.errors import PycoloError
from pycolo.evidence import Evidence
from pycolo.features import refuse_document
from pycolo.hosts import Host
from pycolo.observers import Observer, Recorder
from pycolo.plan import Check, Execute, Plan, Record, RunHost, Step, StopQemu, Wait
from pycolo.qmp import commands as qmp
from pycolo.record import Change, PairRecord
from pycolo.result import Done, InUse, NotRun, Outcome, Report, Unknown
from pycolo.session import Session
from pycolo.snapshot import Dead, NodeState, Snapshot

_LOG: Final = logging.getLogger("pycolo.execute")
_AFTER_S: Final = 5.0
_FIRST_POLL_S: Final = 0.005
_SLOWEST_POLL_S: Final = 0.25


@final
class Run:
    """The state of one execution; used once."""

    def __init__(
        self,
        plan: Plan,
        sessions: Mapping[str, Session],
        observer: Observer,
        hosts: Mapping[str, Host],
        evidence: Mapping[str, Evidence],
        *,
        recorder: Recorder | None,
    ) -> None:
        self._plan = plan
        self._sessions = sessions
        self._observer = observer
        self._hosts = hosts
        self._sender = Sender(plan, recorder)
        self._promoted_by: Evidence | None = None
        self._written: dict[str, PairRecord] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._marks: dict[str, dict[str, int]] = {}
        self._marked = _referred_to(plan)
        self._spoken_to = _spoken_to(plan)
        self._place = {step.address: n for n, step in enumerate(plan.steps)}
        self._wake = asyncio.Event()
        self._stopping = False
        self._in_use: tuple[str, ...] = ()
        # A main loop that does not answer within a command's time limit is stuck.
        self._answer_s = plan.pair.timeouts.command_s
        self._deaths = Deaths(plan, sessions, hosts, evidence, self._answer_s)
        self._aftermath = Aftermath(
            plan,
            sessions,
            hosts,
            written=self._written,
            tell=self._tell,
            answer_s=self._answer_s,
        )

    def stop(self) -> None:
        """End execution as soon as no step is under way and no range with a recovery is entered."""
        self._stopping = True
        self._wake.set()

    async def to_the_end(self) -> Report:
        """Execute the plan, and return its report."""
        asked = {n: self._sessions[n] for n in self._spoken_to if n in self._sessions}
        claimed = [session for session in asked.values() if session.claim()]
        self._in_use = tuple(n for n, session in asked.items() if session not in claimed)
        ends = [session.subscribe(self._on_notice) for session in self._sessions.values()]
        ends += self._sender.listen(self._sessions)
        try:
            self._tell(lambda o: o.plan_started(self._plan))
            await self._steps()
            report = await self._report()
        finally:
            for end in ends:
                end()
            for session in claimed:
                session.release()
        self._tell(lambda o: o.plan_finished(report))
        return report

    def _on_notice(self, _: object) -> None:
        """Wake a wait: an event or the end of a connection came."""
        self._wake.set()

    # -- the loop

    async def _steps(self) -> None:
        """Execute the steps in batches, until one that must succeed is not done."""
        position = 0
        for batch in _batches(self._plan.steps):
            if self._stopping and not self._aftermath.is_inside(position):
                return
            outcomes = await self._attempt_all(batch, first=position == 0)
            for step, outcome in zip(batch, outcomes, strict=True):
                self._outcomes[step.address] = outcome
            for step, outcome in zip(batch, outcomes, strict=True):
                if _ends(step, outcome):
                    await self._end(self._place[step.address], step, outcome)
                    return
            position += len(batch)

    async def _attempt_all(self, batch: tuple[Step, ...], *, first: bool) -> list[Outcome]:
        """Execute the steps of a batch at once; `first` is whether it is the plan's first batch."""
        if len(batch) == 1:
            return [await self._attempt(batch[0], first=first)]
        # All steps are sent before any is awaited: tasks start in the order of their creation.
        return list(await asyncio.gather(*(self._attempt(step) for step in batch)))

    async def _attempt(self, step: Step, *, first: bool = False) -> Outcome:
        """Execute a step and return its outcome; every error becomes an outcome.

        Args:
            step: The step.
            first: Whether to check first that the plan fits these QEMUs.
        """
        self._tell(lambda o: o.step_started(self._plan, step))
        clock = asyncio.get_running_loop().time
        started = clock()
        outcome: Outcome
        try:
            if first:
                await self._fit()
            reply = await self._do(step)
            outcome = Done(took_s=clock() - started, reply=reply)
        except Ended as ended:
            outcome = ended.make(clock() - started)
        except PycoloError as error:
            outcome = outcome_of(error, clock() - started)
        except Exception as error:  # noqa: BLE001 - here errors become outcomes
            # A defect of pycolo: it is unknown what the step did, and the guest needs its recovery.
            _LOG.exception("%s failed", step.address)
            reason = f"{type(error).__name__}: {error}"
            outcome = Unknown(took_s=clock() - started, reason=reason)
        self._tell(lambda o: o.step_finished(self._plan, step.address, outcome))
        return outcome

    async def _do(self, step: Step) -> str:
        """Execute a step and return its reply; empty if it has none."""
        match step:
            case Execute():
                return await self._execute(step)
            case Wait():
                await self._wait(step)
            case Check():
                await self._check(step)
            case RunHost():
                return await self._run_host(step)
            case Record():
                await self._record(step)
            case _:
                assert_never(step)
        return ""

    # -- hosts, the record and evidence

    def _host(self, node: str) -> Host:
        host = self._hosts.get(node)
        if host is None:
            raise refused(f"there is no way to the host of {node}")
        return host

    async def _run_host(self, step: RunHost) -> str:
        """Execute an action on a host; after `StopQemu`, ask the host for evidence of the end."""
        pair, action, limit_s = self._plan.pair, step.action, step.limit_s
        host = self._host(step.node)
        told = await host.run(pair, step.node, action, limit_s=limit_s)
        if isinstance(action, StopQemu):
            for victim in self._plan.victims():
                if victim.instance == action.instance:
                    await self._deaths.find(victim)
        return told

    async def _record(self, step: Record) -> None:
        """Write a record, if there is the evidence that the step needs."""
        if step.needs is not None:
            evidence = await self._deaths.find(step.needs)
            if evidence is None:
                raise refused(f"{NO_EVIDENCE} that {step.needs.instance} has ended")
            self._promoted_by = evidence
        expects = step.change.expects
        if isinstance(expects, PairRecord):
            expects = self._filled(expects)
        change = Change(expects=expects, becomes=self._filled(step.change.becomes))
        host = self._host(step.node)
        await host.write(self._plan.pair, step.node, change, limit_s=step.limit_s)
        self._written[step.node] = change.becomes

    def _filled(self, record: PairRecord) -> PairRecord:
        """The record with the evidence that this execution's promotion rests on.

        A record of an epoch that is not newer than the evidence is returned unchanged.
        """
        if self._promoted_by is None or record.epoch <= self._promoted_by.epoch:
            return record
        return attrs.evolve(record, evidence=self._promoted_by)

    # -- before the first step

    async def _fit(self) -> None:
        """Check that the plan was compiled for these QEMUs and that they can run it.

        Raises:
            Ended: A session is in use or closed, or the plan is for other QEMUs.
            VersionError: QEMU cannot run the plan's dialect.
            RemoteError: A QEMU did not tell its identity.
        """
        if self._in_use:
            reason = f"another execution uses the session with {' and '.join(self._in_use)}"
            raise hindered(reason, InUse(nodes=self._in_use))
        if self._plan.dialect == "doc":
            for name, release in self._plan.qemu.items():
                refuse_document(self._plan.pair, release)
                if self._plan.pair.node(name).control is None:
                    raise refused(f"the document's monitor is stdio: declare one for {name}")
        for name in self._spoken_to:
            session = self._sessions.get(name)
            if session is None:
                raise not_connected(name)
            if session.closed:
                raise not_connected(name, session.why_closed)
            version = self._plan.qemu.get(name)
            if version is not None and version != session.version:
                raise refused(f"the plan is for QEMU {version}, {name} is {session.version}")
            await self._same_instance(name, session)

    async def _same_instance(self, name: str, session: Session) -> None:
        """Refuse the plan if another QEMU runs on a node than the one it was compiled for."""
        prior_state = self._plan.prior_state.live(name)
        if prior_state is None or not prior_state.instance:
            return
        found = await session.instance(limit_s=self._answer_s)
        if found != prior_state.instance:
            reason = f"the plan is for the QEMU {prior_state.instance}, on {name} runs {found}"
            raise refused(reason)

    # -- commands

    async def _execute(self, step: Execute) -> str:
        session = self._session(step.node)
        self._mark(step.address)
        if isinstance(step.command, qmp.Migrate | qmp.MigrateIncoming):
            session.begin_generation()
        return await self._sender.execute(step, session)

    def _mark(self, address: str) -> None:
        """Remember the event marks of this step if a `CheckpointSeen` condition names it."""
        if address in self._marked:
            self._marks[address] = {s.node: s.mark() for s in self._sessions.values()}

    def _session(self, name: str) -> Session:
        session = self._sessions.get(name)
        if session is None:
            raise not_connected(name)
        return session

    # -- conditions

    async def _wait(self, step: Wait) -> None:
        # The clock of the event loop, as for every other limit here: a test may replace the loop.
        clock = asyncio.get_running_loop().time
        end = clock() + step.limit_s
        longest_s = self._answer_s if step.answer_s is None else step.answer_s
        progress = Progress(clock)
        position = self._place[step.address]
        poll_s = _FIRST_POLL_S
        while True:
            self._wake.clear()
            left_s = end - clock()
            answer_s = max(min(left_s, longest_s), _FIRST_POLL_S)
            observed = await self._observe(_both(step), answer_s, progress.note)
            self._tell_progress(step, progress)
            if observed.holds(step.until):
                self._mark(step.address)
                return
            if step.unless is not None and observed.holds(step.unless):
                raise refused(f"waiting is pointless: {observed.present(step.unless)}")
            lost = _lost(step.until, observed)
            if lost:
                # The condition cannot be observed any more, and the limit may be a day.
                raise unknown(f"there is no connection to {', '.join(lost)} any more")
            if observed.stuck and answer_s == longest_s:
                # The recovery frees a stuck main loop; a longer wait would only delay it
                # (qemu-behaviour 7.3).
                raise unknown(f"no answer within {answer_s:g} s from {', '.join(observed.stuck)}")
            if step.stall_s is not None and progress.stands_s > step.stall_s:
                raise timed_out(f"no byte has arrived for {step.stall_s:g} s")
            left_s = end - clock()
            if left_s <= 0:
                reason = f"not within {step.limit_s:g} s: {observed.missing(step.until)}"
                raise timed_out(reason)
            if self._stopping and not self._aftermath.is_inside(position):
                raise Ended(lambda _: NotRun())
            if not await self._woken(min(poll_s, left_s)):
                poll_s = min(poll_s * 2, _SLOWEST_POLL_S)

    async def _woken(self, limit_s: float) -> bool:
        """Wait for an event or the end of a connection; False if the limit passes first."""
        try:
            async with asyncio.timeout(limit_s):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    async def _check(self, step: Check) -> None:
        observed = await self._observe((step.condition,), self._answer_s, _ignore)
        if not observed.holds(step.condition):
            raise refused(f"required, but not true: {observed.missing(step.condition)}")

    async def _observe(
        self, conditions: tuple[Condition, ...], limit_s: float, on_reply: Callable[[object], None]
    ) -> Observation:
        """Observe what some conditions need: the nodes, evidence of ends, and running QEMUs."""
        asked = [leaf for part in conditions for leaf in leaves(part)]
        victims = [leaf.victim for leaf in asked if isinstance(leaf, PeerDead)]
        found = {victim: await self._deaths.find(victim) for victim in victims}
        observed = await observe(conditions, self._sessions, self._marks, limit_s, on_reply)
        dead = frozenset(victim for victim, evidence in found.items() if evidence is not None)
        shown = {v.node: await self._deaths.alive(v) for v in victims if v not in dead}
        for node in (leaf.node for leaf in asked if isinstance(leaf, NotRunning)):
            shown[node] = await self._deaths.running(node)
        known = {node: one for node, one in shown.items() if one is not None}
        return attrs.evolve(observed, dead=dead, running=known)

    def _tell_progress(self, step: Wait, progress: Progress) -> None:
        """Tell the observer how far the copy is, if that has changed."""
        news = progress.news()
        if news is not None:
            self._tell(
                lambda o: o.step_progress(
                    self._plan, step.address, news.done_bytes, news.total_bytes, news.rate_bytes_s
                )
            )

    # -- after a step that was not done

    async def _end(self, position: int, step: Step, outcome: Outcome) -> None:
        """Recover the guest, and find out whether a command without an answer took effect.

        A connection that is still open may be the only way past a stuck main loop
        (qemu-behaviour 7.6). So it is kept, and the guest is recovered before anything is asked
        over it.
        """
        unknown = isinstance(step, Execute) and isinstance(outcome, Unknown)
        lost = unknown and isinstance(step, Execute) and self._sessions[step.node].closed
        happened = None
        if unknown and lost and isinstance(step, Execute):
            happened = await self._aftermath.happened(position, step)
        await self._aftermath.recover(position, self._attempt)
        if unknown and not lost and isinstance(step, Execute):
            found = await self._aftermath.happened(position, step)
            # A recovery may have undone the command's effect: then the state proves nothing.
            happened = None if self._aftermath.outcomes else found
        if isinstance(outcome, Unknown):
            self._outcomes[step.address] = attrs.evolve(outcome, happened=happened)

    # -- the report

    async def _report(self) -> Report:
        outcomes = {
            step.address: self._outcomes.get(step.address, NotRun()) for step in self._plan.steps
        }
        found = {v.node: self._deaths.known(v) for v in self._plan.victims()}
        report = Report(
            plan=self._plan,
            outcomes=outcomes,
            recovery=self._aftermath.outcomes,
            evidence={node: evidence for node, evidence in found.items() if evidence is not None},
        )
        return report if report.failed is None else attrs.evolve(report, after=await self._after())

    async def _after(self) -> Snapshot | None:
        """Read the state of all nodes after a failure; None if there is no session."""
        known: dict[str, Session | NodeState] = dict(self._sessions)
        for victim in self._plan.victims():
            evidence = self._deaths.known(victim)
            if evidence is not None:
                known[victim.node] = Dead(evidence=evidence)
        return await probe(known, limit_s=_AFTER_S) if known else None

    def _tell(self, what: Callable[[Observer], None]) -> None:
        shielded(lambda: what(self._observer))


def _batches(steps: Iterable[Step]) -> Iterator[tuple[Step, ...]]:
    """The steps in groups: consecutive steps of one batch together, every other step alone."""
    batch: list[Step] = []
    for step in steps:
        if batch and _batch(step) is not None and _batch(step) == _batch(batch[-1]):
            batch.append(step)
            continue
        if batch:
            yield tuple(batch)
        batch = [step]
    if batch:
        yield tuple(batch)


def _batch(step: Step) -> str | None:
    return step.batch if isinstance(step, Execute | Check) else None


def _ends(step: Step, outcome: Outcome) -> bool:
    """Whether execution ends at a step that had this outcome."""
    may_fail = not isinstance(step, Check) and step.may_fail
    return not isinstance(outcome, Done) and not may_fail


def _ignore(_: object) -> None:
    pass


def _lost(until: Condition, observed: Observation) -> tuple[str, ...]:
    """The nodes that hung up and that the condition requires to answer."""
    apart = Gone | PeerDead | NotRunning
    asked = (leaf.node for leaf in leaves(until) if not isinstance(leaf, apart))
    return tuple(dict.fromkeys(node for node in asked if node in observed.gone))


def _both(step: Wait) -> tuple[Condition, ...]:
    """The conditions of a wait: `until` and, if there is one, `unless`."""
    return (step.until,) if step.unless is None else (step.until, step.unless)


def _conditions(plan: Plan) -> list[Condition]:
    """The conditions of all waits and checks of a plan."""
    found: list[Condition] = []
    for step in plan.steps:
        match step:
            case Wait():
                found += _both(step)
            case Check():
                found.append(step.condition)
            case Execute() | RunHost() | Record():
                pass
            case _:
                assert_never(step)
    return found


def _referred_to(plan: Plan) -> frozenset[str]:
    """Addresses of the steps that a `CheckpointSeen` condition names."""
    found = (leaf for condition in _conditions(plan) for leaf in leaves(condition))
    return frozenset(leaf.since for leaf in found if isinstance(leaf, CheckpointSeen))


def _spoken_to(plan: Plan) -> tuple[str, ...]:
    """The nodes to which the plan sends commands or queries, each once."""
    commands = [step for step in plan.steps if isinstance(step, Execute)]
    commands += [step for recovery in plan.recoveries for step in recovery.steps]
    asked = (leaf for condition in _conditions(plan) for leaf in leaves(condition))
    names = [step.node for step in commands]
    names += [leaf.node for leaf in asked if not isinstance(leaf, PeerDead | NotRunning)]
    return tuple(dict.fromkeys(names))

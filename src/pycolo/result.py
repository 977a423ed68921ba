"""The result of executing a plan: one outcome per step, and a report of all of them.

Text from QEMU or a host is made one printable line when an outcome is made, since outcomes are
shown on terminals and written to logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, assert_never, final

import attrs
from typing_extensions import override

from pycolo._mapping import read_only_mappings
from pycolo._printable import brief
from pycolo.catalogue import Explanation, explain
from pycolo.conditions import (
    END_OR_LET_GO,
    ChardevConnected,
    Condition,
    Leaf,
    NotRunning,
    PeerDead,
    leaves,
)
from pycolo.errors import PycoloError
from pycolo.evidence import Evidence
from pycolo.plan import (
    Check,
    CheckDevices,
    CheckPorts,
    Execute,
    Plan,
    Procedure,
    Record,
    RunHost,
    Step,
    Wait,
)
from pycolo.qmp.replies import Version
from pycolo.record import PairRecord
from pycolo.snapshot import Dead, Live, NodeState, Snapshot, Unreachable, Unresponsive, role_of


@final
@attrs.frozen(kw_only=True)
class Done:
    """The step was done."""

    took_s: float
    "The time from sending to the reply, or until the condition was true, in seconds."
    reply: str = attrs.field(default="", converter=brief)
    "The refusal that the plan accepts, the human monitor's output, or the host's report."


@final
@attrs.frozen(kw_only=True)
class QemuError:
    """QEMU's answer to a command that it refused; a value of a report, not an exception."""

    text: str = attrs.field(converter=brief)
    """QEMU's message, as one line and cut if it is long.

    The wording differs between versions (qemu-behaviour 11).
    """
    error_class: str | None = None
    "QMP's error class, such as `GenericError`; None for an answer of the human monitor."


@final
@attrs.frozen(kw_only=True)
class InUse:
    """Another execution uses the sessions with these nodes."""

    nodes: tuple[str, ...]
    "The nodes."


@final
@attrs.frozen(kw_only=True)
class NotConnected:
    """The execution had no open session with a node."""

    node: str
    "The node's name."


Hindrance: TypeAlias = InUse | NotConnected
"Why an execution could not begin, whether or not its plan fits the state of the pair."


@final
@attrs.frozen(kw_only=True)
class Refused:
    """The step was not done, and changed nothing.

    A refused `MigrateIncoming` is an exception: its QEMU may no longer be able to join
    (qemu-behaviour 11.4).

    QEMU or the host refused it, a Check was false, a Wait became pointless, there was no
    connection, the monitor was busy, the record had changed or evidence was missing. The first step
    of a recovery is also refused if the recovery must not be sent.
    """

    took_s: float
    "The time until the refusal, in seconds; 0 for a recovery that must not be sent."
    reason: str = attrs.field(converter=brief)
    "Who refused what, with QEMU's own message."
    error: QemuError | None = None
    "QEMU's answer; None if it was not QEMU that refused."
    hindrance: Hindrance | None = attrs.field(default=None, metadata={"sparse": True})
    "What must be removed before anything can be executed; None if it was refused otherwise."


@final
@attrs.frozen(kw_only=True)
class Unknown:
    """No answer: the connection was lost or the limit passed. The step may have taken effect."""

    took_s: float
    "The time until the limit passed or the connection was lost, in seconds."
    reason: str = attrs.field(converter=brief)
    "What was not answered, and what ended the wait for the answer."
    happened: bool | None = None
    "Whether the command took effect, as read from the node afterwards; None if that is unknown."


@final
@attrs.frozen(kw_only=True)
class TimedOut:
    """A wait whose condition did not become true in time, or whose copy made no progress."""

    took_s: float
    "The time until execution stopped waiting, in seconds."
    reason: str = attrs.field(converter=brief)
    "Which part of the condition was not true, or for how long nothing was copied."


@final
@attrs.frozen(kw_only=True)
class NotRun:
    """The step was not begun, since execution ended before; or its wait was cancelled."""


JOINING: Final[tuple[Procedure, ...]] = ("start", "resume", "converge")
"The procedures that give a guest a secondary."

Outcome: TypeAlias = Done | Refused | Unknown | TimedOut | NotRun


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Report:
    """A plan and the outcome of each of its steps."""

    plan: Plan
    "The plan that was executed."
    outcomes: Mapping[str, Outcome]
    "A step's address to its outcome, in the plan's order."
    recovery: Mapping[str, Outcome] = attrs.field(factory=dict)
    "The same for the recovery steps that were executed, or refused."
    evidence: Mapping[str, Evidence] = attrs.field(factory=dict)
    "Node name to the evidence that its QEMU has ended, which the execution relied on."
    after: Snapshot | None = None
    "The state that was read after a failure; None if the plan was done or nothing could be read."

    @property
    def failed(self) -> str | None:
        """Address of the step that ended execution; None if all required steps were done.

        If execution was cancelled between two steps, it is the first step that was not run.
        """
        for address, outcome in self.outcomes.items():
            if not isinstance(outcome, Done | NotRun) and address not in self._may_fail:
                return address
        return next((a for a, o in self.outcomes.items() if isinstance(o, NotRun)), None)

    @property
    def state_after(self) -> Snapshot | None:
        """The planned state after the execution or, after a failure, the state that was read.

        None if, after a failure, nothing could be read. After a success nothing is read, and two
        things are not known, since no plan predicts them: whether each disk is replicated after a
        resync (`Live.replication_error` is None), and which QEMUs the hosts know to run
        (`Snapshot.running` is from before, without those whose end was proven). `PairController`
        reads the pair after each execution; without it, probe the pair before you rely on either.
        """
        if self.failed is not None:
            return self.after
        snapshot = self._without_stale(self.plan.planned_state)
        by = [self.evidence[v.node] for v in self.plan.victims() if v.node in self.evidence]
        for name, state in snapshot.records.items():
            if by and isinstance(state, PairRecord) and state.epoch > by[0].epoch:
                snapshot = snapshot.with_record(name, attrs.evolve(state, evidence=by[0]))
        return snapshot

    def _without_stale(self, planned: Snapshot) -> Snapshot:
        """The planned state without facts that were read before and are no longer true."""
        nodes = dict(planned.nodes)
        dead = {v.node for v in self.plan.victims() if v.node in self.evidence}
        # A plan that was compiled in advance has its victim as a live node.
        nodes |= {name: Dead(evidence=self.evidence[name]) for name in dead}
        if self.plan.procedure in JOINING:
            # Until the secondary joined, QEMU reported an error: replication had not begun.
            for name, state in nodes.items():
                if isinstance(state, Live):
                    nodes[name] = attrs.evolve(state, replication_error=None)
        running = {name: one for name, one in planned.running.items() if name not in dead}
        return attrs.evolve(planned, nodes=nodes, running=running)

    @property
    def left(self) -> tuple[str, ...]:
        """Addresses of the steps that may fail (`may_fail`) and did, in no particular order."""
        return tuple(
            address
            for address in self._may_fail
            if not isinstance(self.outcomes.get(address, NotRun()), Done | NotRun)
        )

    @property
    def _may_fail(self) -> frozenset[str]:
        steps = (s for s in self.plan.steps if not isinstance(s, Check))
        return frozenset(step.address for step in steps if step.may_fail)

    @property
    def changed(self) -> bool:
        """Whether the execution changed anything, or may have."""
        acting = {step.address for step in self.plan.steps if _acts(step)}
        outcomes = [self.outcomes.get(address) for address in acting] + [*self.recovery.values()]
        return any(isinstance(outcome, Done | Unknown) for outcome in outcomes)

    @property
    def exit_code(self) -> Literal[0, 1, 3, 4]:
        """The exit code for a command line.

        Returns:
            0 if done; 1 if refused or failed, and nothing was changed; 3 if changed but not
            finished, or unknown; 4 if nothing was changed and a person must decide whether a peer
            is dead, or what to do with a QEMU that does not answer.
        """
        if self.failed is None:
            return 0
        if self.changed:
            return 3
        return 4 if self._death_unproven() or self._untrue(NotRunning) else 1

    @property
    def advice(self) -> str:
        """One line with the step that ended execution, the answer, the state and what to do."""
        if self.failed is None:
            # Such a plan may wait for the end of a checkpoint, which changes nothing.
            if all(isinstance(step, Check | Wait) for step in self.plan.steps):
                return f"{self.plan.procedure} is done: there was nothing to do"
            return f"{self.plan.procedure} is done"
        parts = [f"{self.plan.procedure} ended at {self.failed}: {self._reason()}"]
        known = self.explanation(self.failed)
        if known is not None:
            parts += [f"{known.entry.meaning} ({known.entry.name})"]
        if self._may_be_refused_tls():
            parts += [_TLS_IS_SILENT]
        parts += self._stand()
        if known is not None:
            parts += [known.entry.remedy]
        return brief("; ".join([*parts, self._hindered() or self._next()]))

    def explanation(self, address: str) -> Explanation | None:
        """The explanation of a step's refusal in the catalogue of QEMU's messages.

        Args:
            address: The address of a step, of the plan or of its recovery.

        Returns:
            The best explanation; None if QEMU did not refuse the step, if the catalogue does not
            have the message, or if there is no step at this address.
        """
        outcome = self.outcomes.get(address) or self.recovery.get(address)
        step = self._step(address)
        if not isinstance(outcome, Refused):
            return None
        match step:
            case Execute(node=node):
                return explanation_of(step, outcome, self.plan.qemu.get(node))
            case Wait(node=node) if address == self.failed and self.after is not None:
                return _explained_migration(self.after.live(node))
            case _:
                return None

    def _step(self, address: str) -> Step | None:
        recovery = [step for recovery in self.plan.recoveries for step in recovery.steps]
        steps = (*self.plan.steps, *recovery)
        return next((step for step in steps if step.address == address), None)

    def _may_be_refused_tls(self) -> bool:
        """Whether a wait for connections that use TLS has timed out."""
        step = self._failed_step
        links = isinstance(step, Wait) and _asks_of(step.until, ChardevConnected)
        in_vain = isinstance(self.outcomes.get(self.failed or ""), TimedOut)
        return links and in_vain and self.plan.pair.tls is not None

    def raise_on_failure(self) -> Report:
        """Return the report itself, or raise an error if the plan failed.

        Raises:
            PlanFailed: Execution ended before the plan's end.
        """
        if self.failed is not None:
            raise PlanFailed(self)
        return self

    def _reason(self) -> str:
        """The reason of the step that ended execution."""
        outcome = self.outcomes.get(self.failed or "")
        reason = "" if outcome is None or isinstance(outcome, Done | NotRun) else outcome.reason
        return reason or "it was cancelled before this step"

    def _stand(self) -> list[str]:
        """What was changed, the recovery steps that were done, and the nodes' states."""
        said = [] if self.changed else ["nothing was changed"]
        if self.recovery:
            done = sum(isinstance(outcome, Done) for outcome in self.recovery.values())
            said.append(f"{done} of {len(self.recovery)} recovery steps were done")
        if self.after is not None:
            said += [f"{name} is {_stands(state)}" for name, state in self.after.nodes.items()]
        return said

    def _next(self) -> str:
        """What to do now."""
        if self._death_unproven():
            return (
                "make sure that the peer is dead: kill -9 its QEMU on its host, and run the"
                " procedure again; if that host is out of reach, have it fenced, and say who did"
                " so and how (--fenced 'WHO: HOW')"
            )
        if self._untrue(NotRunning):
            return f"{END_OR_LET_GO}; then run the procedure again"
        if self._stays_on():
            return (
                "if the guest still runs, it has not powered off and no QEMU was ended: power it"
                " off from inside, or run stop, which ends the secondary, and end the other QEMU"
                " by hand; if it is off, end a QEMU that is left by hand"
            )
        if self._unlike():
            return "it is not as it was when the plan was compiled: compile it again"
        spent = self._spent()
        if spent is not None:
            return f"correct the cause, then {spent}"
        match self.outcomes.get(self.failed or ""):
            case NotRun():
                return "run the procedure again: it continues from what is there"
            case Unknown(happened=True):
                return "the command took effect; run the procedure again: it continues after it"
            case Unknown(happened=False):
                return "the command took no effect; run the procedure again: it begins with it"
            case Unknown():
                return "the command may still take effect: never repeat it, run the procedure again"
            case _:
                pass
        return "correct the cause and run the procedure again: it continues from what is there"

    def _spent(self) -> str | None:
        """The advice if the secondary can no longer join; None if it can."""
        if self.after is None or self.plan.procedure not in JOINING:
            return None
        primaries = [node for recovery in self.plan.recoveries for node in recovery.nodes]
        peers = [node.name for node in self.plan.pair.nodes if node.name not in primaries]
        # If the secondary is in COLO, the procedure can continue with it.
        role = role_of(self.after.state(peers[0])) if len(peers) == 1 else "secondary"
        if role in ("fresh secondary", "prepared secondary") and self._unconnected():
            # A secondary that was launched too early does not notice that its server hung up
            # (qemu-behaviour 3.16).
            return f"run stop, run launch --node {peers[0]}, and run resume"
        if role in ("fresh secondary", "prepared secondary", "secondary"):
            return None
        # The parts made for the lost secondary block the next one: `stop` removes them.
        again = f"run stop, run launch --node {peers[0]}, and run resume"
        if role in ("unreachable", "unresponsive"):
            return f"end the QEMU of {peers[0]} if it still runs, {again}"
        return again

    def _death_unproven(self) -> bool:
        """Whether evidence that a peer has ended was missing."""
        return self._untrue(PeerDead)

    def _stays_on(self) -> bool:
        """Whether a guest was asked to power itself off, and the wait for its end failed."""
        asked = self.plan.procedure == "shutdown" and self.changed
        return asked and isinstance(self._failed_step, Wait)

    def _unconnected(self) -> bool:
        """Whether a wait for the peer's connection to a chardev ended execution."""
        step = self._failed_step
        return isinstance(step, Wait) and _asks_of(step.until, ChardevConnected)

    def _hindrance(self) -> Hindrance | None:
        """What hindered the execution; None if it ended for another reason."""
        outcome = self.outcomes.get(self.failed or "")
        return outcome.hindrance if isinstance(outcome, Refused) else None

    def _hindered(self) -> str | None:
        """The advice if something hindered the execution; None if nothing did."""
        hindrance = self._hindrance()
        match hindrance:
            case None:
                return None
            case InUse():
                remedy = "wait until the other execution has ended"
            case NotConnected(node=node):
                remedy = f"connect to {node}"
            case _:
                assert_never(hindrance)
        # The state may be another one by then, so the same plan may not fit any more.
        return f"{remedy}, then run the procedure again"

    def _unlike(self) -> bool:
        """Whether a refused check ended execution: the state is not the one compiled for."""
        outcome = self.outcomes.get(self.failed or "")
        refused = isinstance(outcome, Refused) and outcome.hindrance is None
        return refused and isinstance(self._failed_step, Check)

    def _untrue(self, kind: type[PeerDead | NotRunning]) -> bool:
        """Whether a refused check with a leaf of this kind ended execution."""
        step = self._failed_step
        return self._unlike() and isinstance(step, Check) and _asks_of(step.condition, kind)

    @property
    def _failed_step(self) -> Step | None:
        return next((step for step in self.plan.steps if step.address == self.failed), None)


def _asks_of(condition: Condition, kind: type[Leaf]) -> bool:
    """Whether a condition has a leaf of this kind."""
    return any(isinstance(leaf, kind) for leaf in leaves(condition))


def explanation_of(step: Execute, outcome: Outcome, version: Version | None) -> Explanation | None:
    """What the catalogue of QEMU's messages says about QEMU's answer to a step's command.

    Args:
        step: The step with the command.
        outcome: The step's outcome. QEMU's answer is its error, or the text that a command of the
            human monitor returned.
        version: QEMU's version; None if it is not known, and then entries of every version apply.

    Returns:
        The first explanation of `catalogue.explain` that applies to this command, error class and
        version. None if QEMU gave no error and no text, or if no entry applies.
    """
    match outcome:
        case Refused(error=QemuError() as error):
            said = error
        case Done(reply=reply) if reply:
            said = QemuError(text=reply)
        case _:
            return None
    found = explain(
        said.text,
        command=step.command.qmp_name,
        error_class=said.error_class,
        version=version,
    )
    return found[0] if found and found[0].fits else None


def _explained_migration(live: Live | None) -> Explanation | None:
    """The explanation of a failed migration's error in the catalogue of QEMU's messages."""
    if live is None or live.migration_error is None:
        return None
    found = explain(live.migration_error, command="query-migrate", version=live.version)
    return found[0] if found and found[0].fits else None


_TLS_IS_SILENT: Final = (
    "an end that refuses the other's credentials does not say so (qemu-behaviour 19.7): compare"
    " authority, names, dates and addresses of both nodes' certificates, or their keys, and authz"
)


def _acts(step: Step) -> bool:
    """Whether a step can change something."""
    match step:
        case Execute() | Record():
            return True
        case RunHost(action=action):
            return not isinstance(action, CheckPorts | CheckDevices)
        case Check() | Wait():
            return False
        case _:
            assert_never(step)


def _stands(state: NodeState) -> str:
    """A node's role, with its run state or the reason that it does not answer."""
    match state:
        case Live(run_state=run_state):
            return f"{role_of(state)} ({run_state})"
        case Unreachable(why=why) | Unresponsive(why=why):
            return f"{role_of(state)} ({why})"
        case _:
            return role_of(state)


class PlanFailed(PycoloError):
    """A plan was not executed to its end; `report` has the outcomes of its steps."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report

    @override
    def message(self) -> str:
        """Return the report's advice."""
        return self.report.advice

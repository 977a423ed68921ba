"""Who is told what an execution does, while it does it: the execution itself prints nothing."""

from __future__ import annotations

import json
import logging
from typing import TextIO, assert_never, final

import attrs
from typing_extensions import override

from pycolo._printable import brief
from pycolo.plan import Check, Execute, Plan, Record, Recovery, RunHost, Step, Wait
from pycolo.qmp.commands import Command
from pycolo.qmp.events import Event
from pycolo.result import Done, NotRun, Outcome, Refused, Report, TimedOut, Unknown


class Observer:
    """What an execution tells, in this order; each method does nothing until you override it.

    Each call must return quickly. One that raises is logged, and changes nothing of the execution.
    One observer may serve many executions at once: the plan, which holds the pair, says which one
    it is. A step is named by its address, which is unique in its plan and its recoveries.
    """

    def plan_started(self, plan: Plan) -> None:
        """The plan is about to begin."""

    def step_started(self, plan: Plan, step: Step) -> None:
        """The step is about to begin; also said of recovery steps."""

    def step_progress(
        self, plan: Plan, address: str, done_bytes: int, total_bytes: int, rate_bytes_s: float
    ) -> None:
        """A wait for a copy of a disk or of the RAM continues.

        Args:
            plan: The plan.
            address: The address of the step that waits.
            done_bytes: How much was copied so far.
            total_bytes: How much there is to copy; it may grow.
            rate_bytes_s: How fast the copy is, in bytes a second.
        """

    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        """The step ended; also said of recovery steps.

        Args:
            plan: The plan.
            address: The step's address.
            outcome: What became of it.
        """

    def recovery_started(self, plan: Plan, recovery: Recovery) -> None:
        """Execution ended inside a range of steps, and what brings the guest back begins.

        Args:
            plan: The plan.
            recovery: The range, and the steps that are sent now.
        """

    def plan_finished(self, report: Report) -> None:
        """Nothing more is done.

        Args:
            report: What became of every step, and how the nodes stand if one failed.
        """


class Recorder(Observer):
    """An observer that is told the conversation with QEMU as well."""

    def command_sent(
        self, plan: Plan, number: int, address: str, node: str, command: Command, *, oob: bool
    ) -> None:
        """A command of the step is about to be sent; it is sent when this returns.

        Args:
            plan: The plan.
            number: Rises from 1 in one execution; the answer has the same one.
            address: The step's address.
            node: The node it is sent to.
            command: The command.
            oob: Whether it is sent out of band.
        """

    def command_answered(self, plan: Plan, number: int, answer: object) -> None:
        """The command was answered, however late; may come after `plan_finished`.

        Args:
            plan: The plan.
            number: The command's.
            answer: A `CommandRefused`, or what was returned, unparsed.
        """

    def event_seen(self, plan: Plan, node: str, event: Event) -> None:
        """QEMU sent an event."""

    def connection_ended(self, plan: Plan, node: str, why: str) -> None:
        """The connection to the node's monitor ended."""


@final
@attrs.frozen
class Several(Observer):
    """Passes every call on to several observers, in order."""

    observers: tuple[Observer, ...]
    "The observers, in the order in which they are called."

    @override
    def plan_started(self, plan: Plan) -> None:
        """Pass it on to every observer."""
        for observer in self.observers:
            observer.plan_started(plan)

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        """Pass it on to every observer."""
        for observer in self.observers:
            observer.step_started(plan, step)

    @override
    def step_progress(
        self, plan: Plan, address: str, done_bytes: int, total_bytes: int, rate_bytes_s: float
    ) -> None:
        """Pass it on to every observer."""
        for observer in self.observers:
            observer.step_progress(plan, address, done_bytes, total_bytes, rate_bytes_s)

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        """Pass it on to every observer."""
        for observer in self.observers:
            observer.step_finished(plan, address, outcome)

    @override
    def recovery_started(self, plan: Plan, recovery: Recovery) -> None:
        """Pass it on to every observer."""
        for observer in self.observers:
            observer.recovery_started(plan, recovery)

    @override
    def plan_finished(self, report: Report) -> None:
        """Pass it on to every observer."""
        for observer in self.observers:
            observer.plan_finished(report)


@final
@attrs.frozen
class LogObserver(Observer):
    """Writes to a logger: a step that failed as a warning, the rest as information."""

    logger: logging.Logger = attrs.field(factory=lambda: logging.getLogger("pycolo.execute"))
    "Where it writes."

    @override
    def plan_started(self, plan: Plan) -> None:
        """Say how long the plan is."""
        self.logger.info("%s: %s: %d steps", plan.pair.name, plan.procedure, len(plan.steps))

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        """Say what begins and why, to those who debug."""
        self.logger.debug("%s: %s", plan.pair.name, brief(f"{step.address}: {step.why}"))

    @override
    def step_progress(
        self, plan: Plan, address: str, done_bytes: int, total_bytes: int, rate_bytes_s: float
    ) -> None:
        """Say how far it is, to those who debug."""
        self.logger.debug(
            "%s: %s: %d of %d bytes, %.0f bytes/s",
            plan.pair.name,
            brief(address),
            done_bytes,
            total_bytes,
            rate_bytes_s,
        )

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        """Say what became of it."""
        level = logging.INFO if isinstance(outcome, Done) else logging.WARNING
        self.logger.log(level, "%s: %s", plan.pair.name, brief(f"{address}: {words(outcome)}"))

    @override
    def recovery_started(self, plan: Plan, recovery: Recovery) -> None:
        """Warn that the guest has to be brought back."""
        self.logger.warning("%s: %s", plan.pair.name, brief(f"recovery: {recovery.why}"))

    @override
    def plan_finished(self, report: Report) -> None:
        """Say how it ended."""
        level = logging.INFO if report.failed is None else logging.ERROR
        self.logger.log(level, "%s: %s", report.plan.pair.name, report.advice)


@final
@attrs.frozen
class JsonLinesObserver(Observer):
    """Writes one JSON object a line, each at once, for programs that follow an execution."""

    stream: TextIO
    "Where it writes; not closed by it."

    @override
    def plan_started(self, plan: Plan) -> None:
        """Write `plan-started` with the addresses of all steps."""
        steps = [step.address for step in plan.steps]
        self._write(plan, "plan-started", procedure=plan.procedure, steps=steps)

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        """Write `step-started`."""
        self._write(
            plan,
            "step-started",
            address=step.address,
            node=step.node,
            kind=kind(step),
            why=step.why,
        )

    @override
    def step_progress(
        self, plan: Plan, address: str, done_bytes: int, total_bytes: int, rate_bytes_s: float
    ) -> None:
        """Write `step-progress`."""
        self._write(
            plan,
            "step-progress",
            address=address,
            done_bytes=done_bytes,
            total_bytes=total_bytes,
            rate_bytes_s=round(rate_bytes_s),
        )

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        """Write `step-finished`."""
        took_s = None if isinstance(outcome, NotRun) else round(outcome.took_s, 6)
        self._write(
            plan,
            "step-finished",
            address=address,
            outcome=verdict(outcome),
            took_s=took_s,
            text=words(outcome),
        )

    @override
    def recovery_started(self, plan: Plan, recovery: Recovery) -> None:
        """Write `recovery-started`."""
        self._write(
            plan, "recovery-started", first=recovery.first, last=recovery.last, why=recovery.why
        )

    @override
    def plan_finished(self, report: Report) -> None:
        """Write `plan-finished`."""
        self._write(
            report.plan,
            "plan-finished",
            procedure=report.plan.procedure,
            failed=report.failed,
            exit_code=report.exit_code,
            advice=report.advice,
        )

    def _write(self, plan: Plan, event: str, **members: object) -> None:
        line = {"event": event, "pair": plan.pair.name, **members}
        self.stream.write(json.dumps(line) + "\n")
        self.stream.flush()


def kind(step: Step) -> str:
    """What sort of step it is, as plan files call it."""
    match step:
        case Execute():
            return "execute"
        case Wait():
            return "wait"
        case Check():
            return "check"
        case RunHost():
            return "run-host"
        case Record():
            return "record"
        case _:
            assert_never(step)


def verdict(outcome: Outcome) -> str:
    """What became of a step, in one word or two."""
    match outcome:
        case Done():
            return "done"
        case Refused():
            return "refused"
        case Unknown():
            return "unknown"
        case TimedOut():
            return "timed-out"
        case NotRun():
            return "not-run"
        case _:
            assert_never(outcome)


def words(outcome: Outcome) -> str:
    """What became of a step, for a person."""
    match outcome:
        case Done(took_s=took_s, reply=""):
            return f"done in {took_s * 1000:.1f} ms"
        case Done(took_s=took_s, reply=reply):
            return f"done in {took_s * 1000:.1f} ms: {reply}"
        case Refused(reason=reason):
            return f"refused: {reason}"
        case Unknown(reason=reason):
            return f"unknown: {reason}"
        case TimedOut(reason=reason):
            return f"timed out: {reason}"
        case NotRun():
            return "not run"
        case _:
            assert_never(outcome)

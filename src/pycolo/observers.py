"""Observers of an execution; the execution itself prints nothing."""

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
    """Base class of observers: an execution calls its methods. Override those that you need.

    Each call must return quickly. An error that a call raises is logged, and does not change the
    execution. One observer may serve many executions at once: the argument `plan` tells them apart.
    A step is named by its address, which is unique in the plan and its recoveries.
    """

    def plan_started(self, plan: Plan) -> None:
        """The plan is about to begin."""

    def step_started(self, plan: Plan, step: Step) -> None:
        """A step of the plan or of a recovery is about to begin."""

    def step_progress(
        self, plan: Plan, address: str, done_bytes: int, total_bytes: int, rate_bytes_s: float
    ) -> None:
        """A copy of disks or of the RAM, which a wait waits for, has changed its numbers.

        Args:
            plan: The plan.
            address: The address of the wait.
            done_bytes: `total_bytes` less the number of bytes that remain. For the RAM it falls
                when the guest writes to pages that were copied already.
            total_bytes: The number of bytes to copy in all; it may grow. For disks, both numbers
                are sums over all block jobs of that QEMU.
            rate_bytes_s: The average speed since the wait's first reply, in bytes per second; 0 or
                more.
        """

    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        """A step of the plan or of a recovery ended.

        Called for each step that began, and for the step that was refused before it began; not for
        the steps after it.

        Args:
            plan: The plan; the same one for a step of its recovery.
            address: The step's address.
            outcome: How the step ended: done, refused, timed out or unknown.
        """

    def recovery_started(self, plan: Plan, recovery: Recovery) -> None:
        """Execution ended inside a range of steps, and the guest's recovery begins.

        Args:
            plan: The plan.
            recovery: The range, and the recovery steps that are executed now.
        """

    def plan_finished(self, report: Report) -> None:
        """The execution ended.

        Args:
            report: The outcome of every step and, after a failure, the state of the nodes.
        """


class Recorder(Observer):
    """An observer that is also called with each command, reply and event of QEMU."""

    def command_sent(
        self, plan: Plan, number: int, address: str, node: str, command: Command, *, oob: bool
    ) -> None:
        """A command of a step is about to be sent; it is sent when this call returns.

        Args:
            plan: The plan.
            number: Counts the commands of the execution from 1; the answer has the same number.
            address: The step's address.
            node: The node that the command is sent to.
            command: The command.
            oob: Whether the command is sent out of band.
        """

    def command_answered(self, plan: Plan, number: int, answer: object) -> None:
        """QEMU answered a command, however late; may be called after `plan_finished`.

        Args:
            plan: The plan.
            number: The command's number.
            answer: A `CommandRefused`, or the return value of the reply, unparsed.
        """

    def event_seen(self, plan: Plan, node: str, event: Event) -> None:
        """QEMU sent an event."""

    def connection_ended(self, plan: Plan, node: str, why: str) -> None:
        """The connection to a node's monitor ended; `why` is a clause without a full stop."""


@final
@attrs.frozen
class Several(Observer):
    """Passes every call on to several observers, in order.

    If one raises an error, those after it do not get that call.
    """

    observers: tuple[Observer, ...]
    "The observers, in the order in which they are called."

    @override
    def plan_started(self, plan: Plan) -> None:
        """Pass the call on to every observer."""
        for observer in self.observers:
            observer.plan_started(plan)

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        """Pass the call on to every observer."""
        for observer in self.observers:
            observer.step_started(plan, step)

    @override
    def step_progress(
        self, plan: Plan, address: str, done_bytes: int, total_bytes: int, rate_bytes_s: float
    ) -> None:
        """Pass the call on to every observer."""
        for observer in self.observers:
            observer.step_progress(plan, address, done_bytes, total_bytes, rate_bytes_s)

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        """Pass the call on to every observer."""
        for observer in self.observers:
            observer.step_finished(plan, address, outcome)

    @override
    def recovery_started(self, plan: Plan, recovery: Recovery) -> None:
        """Pass the call on to every observer."""
        for observer in self.observers:
            observer.recovery_started(plan, recovery)

    @override
    def plan_finished(self, report: Report) -> None:
        """Pass the call on to every observer."""
        for observer in self.observers:
            observer.plan_finished(report)


@final
@attrs.frozen
class LogObserver(Observer):
    """Writes to a logger.

    Beginning and progress of steps have the level DEBUG, the beginning and success of a plan and
    steps that are done INFO, other outcomes and recoveries WARNING, and a failed plan ERROR.
    """

    logger: logging.Logger = attrs.field(factory=lambda: logging.getLogger("pycolo.execute"))
    "The logger."

    @override
    def plan_started(self, plan: Plan) -> None:
        """Log the number of steps."""
        self.logger.info("%s: %s: %d steps", plan.pair.name, plan.procedure, len(plan.steps))

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        """Log the step's address and reason, with the level DEBUG."""
        self.logger.debug("%s: %s", plan.pair.name, brief(f"{step.address}: {step.why}"))

    @override
    def step_progress(
        self, plan: Plan, address: str, done_bytes: int, total_bytes: int, rate_bytes_s: float
    ) -> None:
        """Log how far the copy is, with the level DEBUG."""
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
        """Log the step's outcome."""
        level = logging.INFO if isinstance(outcome, Done) else logging.WARNING
        self.logger.log(level, "%s: %s", plan.pair.name, brief(f"{address}: {words(outcome)}"))

    @override
    def recovery_started(self, plan: Plan, recovery: Recovery) -> None:
        """Log the reason of the recovery."""
        self.logger.warning("%s: %s", plan.pair.name, brief(f"recovery: {recovery.why}"))

    @override
    def plan_finished(self, report: Report) -> None:
        """Log the report's advice."""
        level = logging.INFO if report.failed is None else logging.ERROR
        self.logger.log(level, "%s: %s", report.plan.pair.name, report.advice)


@final
@attrs.frozen
class JsonLinesObserver(Observer):
    """Writes one JSON object per line and flushes it, for programs that follow an execution."""

    stream: TextIO
    "The stream to write to; the observer does not close it."

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
    """The kind of a step, as it is written in plan files."""
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
    """The outcome of a step as a word for programs."""
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
    """The outcome of a step as text for a person."""
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

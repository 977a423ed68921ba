"""What became of a plan: one outcome a step, and a report of them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, final

import attrs
from typing_extensions import override

from pycolo.catalogue import Explanation, explain
from pycolo.conditions import PeerDead, leaves
from pycolo.errors import PycoloError
from pycolo.plan import Check, Execute, Plan, RunHost
from pycolo.snapshot import Live, NodeState, Snapshot, Unreachable, Unresponsive, role_of


@final
@attrs.frozen(kw_only=True)
class Done:
    """The step did what it says."""

    took_s: float
    "From sending to the reply, or until the condition held."
    reply: str = ""
    "QEMU's words, where it refused something that was so already."


@final
@attrs.frozen(kw_only=True)
class Refused:
    """QEMU said no, a Check did not hold, or the host could not: the step changed nothing."""

    took_s: float
    reason: str
    "Who refused what, with QEMU's own message."


@final
@attrs.frozen(kw_only=True)
class Unknown:
    """No answer: the connection went, or the limit passed. The command may have taken effect."""

    took_s: float
    reason: str
    happened: bool | None = None
    "Whether it took effect, as read over a new connection; None where that could not be told."


@final
@attrs.frozen(kw_only=True)
class TimedOut:
    """A wait that did not come true within its limit."""

    took_s: float
    reason: str


@final
@attrs.frozen(kw_only=True)
class NotRun:
    """Execution ended before this step."""


Outcome: TypeAlias = Done | Refused | Unknown | TimedOut | NotRun


@final
@attrs.frozen(kw_only=True)
class Report:
    """A plan and what became of each of its steps."""

    plan: Plan
    outcomes: Mapping[str, Outcome]
    "Step's address to its outcome, in the plan's order."
    relief: Mapping[str, Outcome] = attrs.field(factory=dict)
    "The same for the relief steps that ran."
    after: Snapshot | None = None
    "What was read after a failure; None where all was done or nothing could be read."

    @property
    def failed(self) -> str | None:
        """Address of the step that ended execution; None where all is done."""
        for address, outcome in self.outcomes.items():
            if not isinstance(outcome, Done | NotRun):
                return address
        return next((a for a, o in self.outcomes.items() if isinstance(o, NotRun)), None)

    @property
    def changed(self) -> bool:
        """Whether anything may have been changed."""
        acting = {s.address for s in self.plan.steps if isinstance(s, Execute | RunHost)}
        outcomes = [self.outcomes.get(address) for address in acting] + [*self.relief.values()]
        return any(isinstance(outcome, Done | Unknown) for outcome in outcomes)

    @property
    def exit_code(self) -> Literal[0, 1, 3, 4]:
        """What a command line ends with.

        Returns:
            0 done; 1 refused or failed, nothing changed; 3 changed but unfinished, or unknown; 4 a
            person must decide, namely whether the peer is dead.
        """
        if self.failed is None:
            return 0
        if self.changed:
            return 3
        return 4 if self._death_unproven() else 1

    @property
    def advice(self) -> str:
        """Which step ended it, what was answered, how things stand, and what to do now."""
        if self.failed is None:
            return f"{self.plan.procedure} is done"
        parts = [f"{self.plan.procedure} ended at {self.failed}: {self._reason()}"]
        known = self.explanation(self.failed)
        if known is not None:
            parts += [f"{known.entry.meaning} ({known.entry.name})"]
        parts += self._stand()
        if known is not None:
            parts += [known.entry.remedy]
        return "; ".join([*parts, self._next()])

    def explanation(self, address: str) -> Explanation | None:
        """What the refusal of a step means, by the catalogue.

        Args:
            address: A step's, of the plan or of its relief.

        Returns:
            The best explanation; None where QEMU refused nothing there, or nothing is known of it.
        """
        outcome = self.outcomes.get(address) or self.relief.get(address)
        step = self._command(address)
        if step is None or not isinstance(outcome, Refused):
            return None
        version = self.plan.qemu.get(step.node)
        found = explain(outcome.reason, command=step.command.qmp_name, version=version)
        return found[0] if found and found[0].fits else None

    def _command(self, address: str) -> Execute | None:
        relief = [step for relief in self.plan.reliefs for step in relief.steps]
        for step in (*self.plan.steps, *relief):
            if step.address == address and isinstance(step, Execute):
                return step
        return None

    def raise_on_failure(self) -> Report:
        """Give the report itself, for those who prefer errors.

        Raises:
            PlanFailed: Execution ended before the plan's end.
        """
        if self.failed is not None:
            raise PlanFailed(self)
        return self

    def _reason(self) -> str:
        outcome = self.outcomes.get(self.failed or "")
        reason = "" if outcome is None or isinstance(outcome, Done | NotRun) else outcome.reason
        return reason or "it was cancelled before this step"

    def _stand(self) -> list[str]:
        said = [] if self.changed else ["nothing was changed"]
        if self.relief:
            done = sum(isinstance(outcome, Done) for outcome in self.relief.values())
            said.append(f"{done} of {len(self.relief)} relief steps were done")
        if self.after is not None:
            said += [f"{name} is {_stands(state)}" for name, state in self.after.nodes.items()]
        return said

    def _next(self) -> str:
        if self._death_unproven():
            return "make sure that the peer is dead, and say who did so and how"
        match self.outcomes.get(self.failed or ""):
            case Unknown(happened=True):
                return "the command took effect; run the procedure again: it goes on after it"
            case Unknown(happened=False):
                return "the command took no effect; run the procedure again: it begins with it"
            case Unknown():
                return "the command may still take effect: never repeat it, run the procedure again"
            case _:
                pass
        return "correct the cause and run the procedure again: it goes on from what is there"

    def _death_unproven(self) -> bool:
        return any(
            isinstance(step, Check)
            and step.address == self.failed
            and isinstance(self.outcomes.get(step.address), Refused)
            and any(isinstance(leaf, PeerDead) for leaf in leaves(step.condition))
            for step in self.plan.steps
        )


def _stands(state: NodeState) -> str:
    match state:
        case Live(run_state=run_state):
            return f"{role_of(state)} ({run_state})"
        case Unreachable(why=why) | Unresponsive(why=why):
            return f"{role_of(state)} ({why})"
        case _:
            return role_of(state)


class PlanFailed(PycoloError):
    """A plan was not executed to its end; `report` says how far it came."""

    def __init__(self, report: Report) -> None:
        super().__init__(report)
        self.report = report

    @override
    def __str__(self) -> str:
        return self.report.advice

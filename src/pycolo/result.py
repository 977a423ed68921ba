"""What became of a plan: one outcome a step, and a report of them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, final

import attrs

from pycolo.plan import Plan
from pycolo.snapshot import Snapshot


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
Verdict: TypeAlias = Literal["done", "refused", "unfinished", "unknown"]


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
        acting = {s.address for s in self.plan.steps if type(s).__name__ in ("Execute", "RunHost")}
        return any(
            isinstance(outcome, Done | Unknown) and address in acting
            for address, outcome in self.outcomes.items()
        )

"""A journal as steps, calls and moments on one time axis, from which it is drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias, final

import attrs

from pycolo import journal
from pycolo._printable import one_line, printable
from pycolo.catalogue import Explanation
from pycolo.observers import kind, verdict
from pycolo.plan import Execute, Plan, Step
from pycolo.qmp.commands import Command
from pycolo.render._words import command_words
from pycolo.render.text import summary
from pycolo.result import Done, NotRun, Outcome, explanation_of

State: TypeAlias = Literal["done", "refused", "unknown", "timed-out", "not-run"]
Answer: TypeAlias = Literal["returned", "refused", "unknown"]
_COARSE_S: Final = 0.1


@final
@attrs.frozen(kw_only=True)
class Call:
    """One command that was sent, and its answer. Times are seconds as in `Timeline`."""

    node: str
    words: str
    "The command in words for people."
    command: str
    "The command, as QMP's JSON."
    oob: bool
    from_s: float
    to_s: float | None
    "When the answer came; None if the journal has no answer."
    answer: Answer
    "`unknown` if the journal has no answer; the command may have taken effect."
    said: str
    "The reply or the error, as text; empty without an answer."


@final
@attrs.frozen(kw_only=True)
class StepLine:
    """One step and its outcome. Times are seconds as in `Timeline`."""

    number: int | None
    "The step's place in the plan, from 1; None for a recovery step."
    address: str
    node: str
    kind: str
    why: str
    what: str
    state: State
    from_s: float | None
    "When the step began; None if it never did."
    to_s: float | None
    "When the step ended; None if it never did."
    words: str
    "The reply, or why the step failed; empty if it was not run."
    calls: tuple[Call, ...]
    explanation: Explanation | None
    "The explanation of the refusal with which the step ended; None if there is none."


@final
@attrs.frozen(kw_only=True)
class Moment:
    """An event of QEMU, or the end of a connection. Its time is in seconds as in `Timeline`."""

    at_s: float
    node: str
    name: str
    words: str


@final
@attrs.frozen(kw_only=True)
class Timeline:
    """An execution on one time axis: its times count seconds since its first line was written."""

    plan: Plan
    at: str
    "The wall-clock time at which the execution began."
    took_s: float
    "The time of the last line of the journal."
    steps: tuple[StepLine, ...]
    recovery: tuple[StepLine, ...]
    moments: tuple[Moment, ...]
    restored_s: float | None
    "When the guest served again; None if no step restores it, or that step was not done."
    end: Literal["done", "failed", "not-seen"]
    "How the execution ended; `not-seen` if the journal ends before the execution does."
    verdict: str
    "How the execution ended, in words for people."
    cut: bool
    "Whether the journal ends in the middle of a line."


def timeline(recording: journal.Recording) -> Timeline:
    """Put a journal on a time axis.

    Args:
        recording: The journal that was read; it may end anywhere.
    """
    return _Made(recording).timeline()


@final
class _Made:
    """Collects the lines of a journal and makes the timeline of them."""

    def __init__(self, recording: journal.Recording) -> None:
        self._recording = recording
        self._plan = recording.began.plan
        self._zero_s = recording.began.monotonic_s
        self._last_s = 0.0
        self._began: dict[str, float] = {}
        self._ended: dict[str, tuple[float, Outcome]] = {}
        self._sent: dict[str, list[journal.CommandSent]] = {}
        self._answers: dict[int, journal.CommandAnswered] = {}
        self._moments: list[Moment] = []
        for line in recording.lines:
            self._last_s = max(self._last_s, self._s(line))
            self._take(line)

    def _s(self, line: journal.Line) -> float:
        """The time of a line, in seconds since the journal's first line."""
        return line.monotonic_s - self._zero_s

    def _take(self, line: journal.Line) -> None:
        match line:
            case journal.StepBegan(address=address):
                self._began[address] = self._s(line)
            case journal.StepEnded(address=address, outcome=outcome):
                self._ended[address] = (self._s(line), outcome)
            case journal.CommandSent(address=address):
                self._sent.setdefault(address, []).append(line)
            case journal.CommandAnswered(number=number):
                self._answers[number] = line
            case journal.EventSeen(node=node, event=event, data=data):
                words = "" if data is None else _json(data)
                self._moments.append(Moment(at_s=self._s(line), node=node, name=event, words=words))
            case journal.ConnectionEnded(node=node, why=why):
                self._moment(line, node, "connection ended", why)
            case _:
                pass

    def _moment(self, line: journal.Line, node: str, name: str, words: str) -> None:
        at_s = self._s(line)
        moment = Moment(at_s=at_s, node=one_line(node), name=one_line(name), words=one_line(words))
        self._moments.append(moment)

    def timeline(self) -> Timeline:
        plan, ended = self._plan, self._recording.ended
        recovery = {
            s.address: s for r in plan.recoveries for s in r.steps if s.address in self._began
        }
        restored = self._ended.get(plan.restored_after or "")
        return Timeline(
            plan=plan,
            at=one_line(self._recording.began.at),
            took_s=self._last_s,
            steps=tuple(self._step(step, n) for n, step in enumerate(plan.steps, 1)),
            recovery=tuple(self._step(step, None) for step in recovery.values()),
            moments=tuple(self._moments),
            restored_s=restored[0] if restored and isinstance(restored[1], Done) else None,
            end="not-seen" if ended is None else "failed" if ended.failed else "done",
            verdict=self._verdict() if ended is None else one_line(ended.advice),
            cut=self._recording.cut is not None,
        )

    def _verdict(self) -> str:
        """How the execution ended, for a journal that does not say so."""
        parts = ["the journal ends before the execution does"]
        if self._recording.cut is not None:
            parts.append("its last line is cut off")
        open_calls = [
            f"{sent.command.qmp_name} on {sent.node}"
            for calls in self._sent.values()
            for sent in calls
            if sent.number not in self._answers
        ]
        if open_calls:
            parts.append(f"whether {', '.join(open_calls)} took effect is unknown")
        return "; ".join(parts)

    def _step(self, step: Step, number: int | None) -> StepLine:
        address = step.address
        ended = self._ended.get(address)
        outcome = ended[1] if ended else None
        return StepLine(
            number=number,
            address=one_line(address),
            node=step.node,
            kind=kind(step),
            why=one_line(step.why),
            what=summary(step).partition(": ")[2],
            state=self._state(address, outcome),
            from_s=self._began.get(address),
            to_s=ended[0] if ended else None,
            words=_words(outcome),
            calls=tuple(map(self._call, self._sent.get(address, []))),
            explanation=_explanation(self._plan, step, outcome),
        )

    def _state(self, address: str, outcome: Outcome | None) -> State:
        if outcome is None:
            return "unknown" if address in self._began else "not-run"
        return _STATES[verdict(outcome)]

    def _call(self, sent: journal.CommandSent) -> Call:
        answer = self._answers.get(sent.number)
        refused = answer is not None and answer.error_class is not None
        return Call(
            node=sent.node,
            words=command_words(sent.command),
            command=_wire(sent.command, oob=sent.oob),
            oob=sent.oob,
            from_s=self._s(sent),
            to_s=None if answer is None else self._s(answer),
            answer="unknown" if answer is None else "refused" if refused else "returned",
            said=_said(answer),
        )


_STATES: Mapping[str, State] = {
    "done": "done",
    "refused": "refused",
    "unknown": "unknown",
    "timed-out": "timed-out",
    "not-run": "not-run",
}


def _said(answer: journal.CommandAnswered | None) -> str:
    if answer is None:
        return ""
    if answer.error_class is not None:
        return printable(f"{answer.error_class}: {answer.text}")
    return _json(answer.value)


def _json(value: object) -> str:
    return printable(json.dumps(value, ensure_ascii=False))


def _wire(command: Command, *, oob: bool) -> str:
    message = command.to_qmp()
    return _json({"exec-oob": message.pop("execute"), **message} if oob else message)


def _words(outcome: Outcome | None) -> str:
    match outcome:
        case None | NotRun():
            return ""
        case Done(reply=reply):
            return one_line(reply)
        case other:
            return one_line(other.reason)


def _explanation(plan: Plan, step: Step, outcome: Outcome | None) -> Explanation | None:
    if outcome is None or not isinstance(step, Execute):
        return None
    return explanation_of(step, outcome, plan.qemu.get(step.node))


def ticks(took_s: float, most: int) -> Iterator[float]:
    """The moments to label on a time axis, in seconds from 0, at a round distance.

    Args:
        took_s: The end of the axis, in seconds.
        most: The most moments after 0, at least 1.
    """
    every_s = 0.001
    while took_s / every_s > most:
        for factor in (2, 2.5, 2):
            every_s *= factor
            if took_s / every_s <= most:
                break
    count = int(took_s / every_s + 1e-9)
    yield from (n * every_s for n in range(count + 1))


def duration(took_s: float) -> str:
    """A duration in words for people, in s or ms.

    Args:
        took_s: The duration, in seconds.
    """
    if took_s >= 1:
        return f"{took_s:.2f} s"
    return f"{took_s * 1000:.0f} ms" if took_s >= _COARSE_S else f"{took_s * 1000:.1f} ms"

"""The health of one node's QEMU as a supervisor sees it, with the time of each sign."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Final, final

import attrs

from pycolo.qmp.events import ColoExitEvent, ResumeEvent, ShutdownEvent, StopEvent
from pycolo.session import HungUp, Notice
from pycolo.snapshot import Role
from pycolo.supervise.observation import Qemu, Signal

SHUTDOWN_S: Final = 0.25
"How much later than on one side a guest may shut down on the other, in seconds; usual are 20 ms."
CHECKPOINTS: Final = 2
"Until this many checkpoints were seen, a pair may still be entering COLO."


@final
@attrs.define(kw_only=True, eq=False)
class NodeHealth:
    """What was seen of a node's QEMU; times are seconds of the clock of `Beat`."""

    instance: str = ""
    "The identity of the QEMU; empty if none was seen yet."
    qemu: Qemu = "none"
    "What the QEMU was when it last answered."
    shutdown_s: float | None = None
    "When the guest shut itself down, or panicked."
    colo_exit_s: float | None = None
    "When COLO ended on the node."
    cut_s: float | None = None
    "When the node's side of COLO was cut."
    checkpoints: int = 0
    "How many checkpoints were seen since the QEMU entered COLO."
    gone: asyncio.Event = attrs.field(factory=asyncio.Event)
    "Set while the connection to the QEMU has ended, so that no event comes from it."
    longest_s: float = 0.0
    """The longest time that the main loop took to answer, in seconds; begun anew at the second
    checkpoint in COLO."""
    _checkpoints_s: tuple[float, ...] = ()
    _longest_gap_s: float = 0.0
    _longest_silence_s: float = 0.0
    _stopped_s: float | None = None
    _hung_up_s: float | None = None
    _no_greeting_s: float | None = None
    _question_sent_s: float | None = None
    _oob_question_s: float | None = None
    _last_answer_s: float = -math.inf
    _is_main_loop_silent: bool = False

    def set_role(self, role: Role, now_s: float) -> None:
        """Take note of the role that a probe has shown."""
        before, self.qemu = self.qemu, _qemu(role, self.qemu)
        if self.qemu != before:
            # What was seen until now belongs to the earlier role.
            self._checkpoints_s, self.checkpoints, self._longest_gap_s = (now_s,), 0, 0.0
            self.colo_exit_s = self.cut_s = None
        if role in ("broken primary", "broken secondary") and self.colo_exit_s is None:
            self.colo_exit_s = now_s
        if role == "unreachable" and self._hung_up_s is None:
            self._hung_up_s = now_s
        if role == "unresponsive":
            self.greeting_missing(now_s)

    def observe(self, notice: Notice, now_s: float) -> None:
        """Take note of an event, or of the end of the connection."""
        match notice:
            case HungUp():
                self._hung_up_s = now_s
                self.gone.set()
            case StopEvent():
                self._stopped_s = now_s
            case ResumeEvent() if self._stopped_s is not None:
                self._stopped_s = None
                self._longest_gap_s = self.longest_gap_s(now_s) or 0.0
                self._checkpoints_s = (*self._checkpoints_s[-1:], now_s)
                self.checkpoints += 1
                if self.checkpoints == CHECKPOINTS:
                    # The limit was longer until now.
                    self.longest_s = 0.0
            case ColoExitEvent():
                self.colo_exit_s = now_s
            case ShutdownEvent(guest=True):
                self.shutdown_s = now_s
            case _:
                pass

    def pause_s(self, notice: Notice, now_s: float) -> float | None:
        """How long its guest was paused for the checkpoint that this notice ends, in seconds.

        It is None for every other notice. Call this before `observe` gets the notice.
        """
        is_whole = self.qemu == "colo" and self.colo_exit_s is None
        if isinstance(notice, ResumeEvent) and is_whole and self._stopped_s is not None:
            return now_s - self._stopped_s
        return None

    # -- questions and answers

    def question_sent(self, now_s: float) -> None:
        """Take note that a question to the main loop was sent, when none waited for an answer."""
        self._question_sent_s = now_s

    def question_answered(self, now_s: float) -> None:
        """Take note that the main loop has answered the question."""
        self.longest_s = max(self.longest_s, self.question_s(now_s))
        self._note_silence(now_s)
        self._last_answer_s, self._is_main_loop_silent = now_s, False
        self.gone.clear()
        self._question_sent_s = self._oob_question_s = self._hung_up_s = self._no_greeting_s = None

    def oob_question_sent(self, now_s: float) -> None:
        """Take note that a question was sent out of band, when none waited for an answer."""
        self._oob_question_s = now_s

    def oob_question_answered(self, now_s: float) -> None:
        """Take note that the out-of-band question was answered, and that to the main loop not."""
        self._note_silence(now_s)
        self._last_answer_s, self._is_main_loop_silent = now_s, True
        self._oob_question_s = None

    def _note_silence(self, now_s: float) -> None:
        if self._question_sent_s is not None:
            silence_s = now_s - max(self._question_sent_s, self._last_answer_s)
            self._longest_silence_s = max(self._longest_silence_s, silence_s)

    def other_monitor_answered(self) -> None:
        """Forget a hang-up or a missing greeting: another client merely holds the monitor."""
        self._hung_up_s = self._no_greeting_s = None

    def greeting_missing(self, now_s: float) -> None:
        """Take note that QEMU accepts a connection and sends no greeting.

        It is stuck, or other clients hold its monitors.
        """
        if self._no_greeting_s is None:
            self._no_greeting_s = now_s

    # -- conclusions

    @property
    def signals(self) -> Mapping[Signal, float]:
        """Each sign that this QEMU may have ended, to the time since when there is one."""
        found: dict[Signal, float] = {}
        if self._hung_up_s is not None:
            found["hung-up"] = self._hung_up_s
        if self._no_greeting_s is not None:
            found["stuck"] = self._no_greeting_s
        if self._question_sent_s is not None:
            if self._is_main_loop_silent:
                found["stuck"] = self._question_sent_s
            if self._oob_question_s is not None:
                found["silent"] = max(self._question_sent_s, self._last_answer_s)
        return found

    @property
    def stuck_since_s(self) -> float | None:
        """Since when its main loop has been silent while it answers out of band; None if not."""
        is_reached = self._hung_up_s is None and self._no_greeting_s is None
        return self._question_sent_s if is_reached and self._is_main_loop_silent else None

    def is_silent(self, now_s: float, silent_s: float) -> bool:
        """Whether QEMU answers neither in nor out of band.

        Args:
            now_s: Now.
            silent_s: How long an answer out of band may take, in seconds.
        """
        if self.stuck_since_s is None:
            return bool(self.signals)
        return now_s - self.signals.get("silent", now_s) >= silent_s

    def question_s(self, now_s: float) -> float:
        """How long the question to the main loop has had no answer, in seconds; 0 for none."""
        return 0.0 if self._question_sent_s is None else now_s - self._question_sent_s

    def longest_silence_s(self, now_s: float) -> float:
        """The longest time until now without an answer in or out of band, in seconds."""
        return max(self._longest_silence_s, now_s - self.signals.get("silent", now_s))

    @property
    def checkpoint_s(self) -> float | None:
        """When the last checkpoint ended, or COLO began; None if QEMU is not in COLO."""
        return self._checkpoints_s[-1] if self._checkpoints_s and self.qemu == "colo" else None

    def longest_gap_s(self, now_s: float) -> float | None:
        """The longest time without a checkpoint until now, in seconds.

        It counts from the second checkpoint in COLO on, since the limit is longer before that;
        None until then.
        """
        last_s = self.checkpoint_s
        if last_s is None or self.checkpoints < CHECKPOINTS:
            return None
        return max(self._longest_gap_s, now_s - last_s)

    def checkpoints_since(self, at_s: float) -> int:
        """How many of the last two checkpoints ended after a moment; 0 if COLO has ended.

        The peer took part in each of them.
        """
        if self.qemu != "colo" or self.colo_exit_s is not None:
            return 0
        return sum(ended_s > at_s for ended_s in self._checkpoints_s)


def _qemu(role: Role, before: Qemu) -> Qemu:
    match role:
        case "absent" | "dead":
            return "none"
        case "unreachable" | "unresponsive":
            return before
        case "fresh secondary" | "prepared secondary":
            return "joining"
        case "unprotected" | "used up":
            return "alone"
        case "secondary" | "broken secondary" | "primary" | "broken primary" | "entering":
            return "colo"

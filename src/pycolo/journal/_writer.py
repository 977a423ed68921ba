"""Write a journal while a plan is executed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self, TypedDict, final

from typing_extensions import override

from pycolo import _json
from pycolo._forms import Anything
from pycolo.errors import CommandRefused
from pycolo.journal._lines import (
    CommandAnswered,
    CommandSent,
    ConnectionEnded,
    EventSeen,
    Line,
    PlanBegan,
    PlanEnded,
    ProgressSeen,
    RecoveryBegan,
    StepBegan,
    StepEnded,
    line_to_json,
)
from pycolo.observers import Recorder
from pycolo.plan import Plan, Recovery, Step
from pycolo.qmp.commands import Command
from pycolo.qmp.events import Event
from pycolo.result import Outcome, Report

_LOG: Final = logging.getLogger(__name__)
_MODE: Final = 0o600


@final
class Journal(Recorder):
    """Records an execution in a new file, one JSON object per line; a context manager.

    Pass it to one `execute` as its recorder. A command's line is on disk before the command is
    sent, and the whole journal is on disk when the plan ends. In between, lines may be only in the
    kernel's cache: they survive the end of this process, but not a power failure. Commands of the
    plan and of its recoveries are recorded; the queries of waits and checks are not.

    If the file cannot be written, the journal ends and the execution continues: see `failure`. The
    same happens if a second plan begins, since a journal holds one plan.
    """

    def __init__(self, path: Path) -> None:
        """Create the file.

        Args:
            path: The file.

        Raises:
            OSError: The file cannot be created; FileExistsError if it exists.
        """
        self.path: Final = path
        "The file."
        self.failure: str | None = None
        "Why the journal ended early; None if it did not."
        self._file: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
        self._began = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; may be called again. A file without a plan is removed.

        After that nothing is written, and `failure` does not change.
        """
        if self._file is None:
            return
        if self._began and self.failure is None:
            self._attempt(os.fdatasync)
        os.close(self._file)
        self._file = None
        if not self._began:
            self.path.unlink(missing_ok=True)

    # -- the calls of an execution

    @override
    def plan_started(self, plan: Plan) -> None:
        """Write the plan."""
        if self._began and self.failure is None:
            self.failure = f"{self.path}: a journal holds one plan, and another one began"
            return
        self._began = True
        self._write(PlanBegan(**_now(), plan=plan))

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        """Write that the step begins."""
        self._write(StepBegan(**_now(), address=step.address))

    @override
    def step_progress(
        self, plan: Plan, address: str, done_bytes: int, total_bytes: int, rate_bytes_s: float
    ) -> None:
        """Write how far the step's copy is."""
        self._write(
            ProgressSeen(
                **_now(),
                address=address,
                done_bytes=done_bytes,
                total_bytes=total_bytes,
                rate_bytes_s=rate_bytes_s,
            )
        )

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        """Write the step's outcome."""
        self._write(StepEnded(**_now(), address=address, outcome=outcome))

    @override
    def recovery_started(self, plan: Plan, recovery: Recovery) -> None:
        """Write the range that execution ended in, and why it has a recovery."""
        first, last, why = recovery.first, recovery.last, recovery.why
        self._write(RecoveryBegan(**_now(), first=first, last=last, why=why))

    @override
    def plan_finished(self, report: Report) -> None:
        """Write how the execution ended, and flush the file to the disk."""
        failed, code, advice = report.failed, report.exit_code, report.advice
        self._write(PlanEnded(**_now(), failed=failed, exit_code=code, advice=advice))
        self._attempt(os.fdatasync)

    @override
    def command_sent(
        self, plan: Plan, number: int, address: str, node: str, command: Command, *, oob: bool
    ) -> None:
        """Write the command and flush it to the disk, before it is sent."""
        self._write(
            CommandSent(
                **_now(), number=number, address=address, node=node, command=command, oob=oob
            )
        )
        self._attempt(os.fdatasync)

    @override
    def command_answered(self, plan: Plan, number: int, answer: object) -> None:
        """Write QEMU's answer to a command."""
        if isinstance(answer, CommandRefused):
            kind, text = answer.error_class, answer.text
            self._write(CommandAnswered(**_now(), number=number, error_class=kind, text=text))
        else:
            self._write(CommandAnswered(**_now(), number=number, value=Anything().write(answer)))

    @override
    def event_seen(self, plan: Plan, node: str, event: Event) -> None:
        """Write the event."""
        message = event.to_qmp()
        data = Anything().write(message.get("data"))
        self._write(EventSeen(**_now(), node=node, event=str(message["event"]), data=data))

    @override
    def connection_ended(self, plan: Plan, node: str, why: str) -> None:
        """Write that the node's connection ended, and why."""
        self._write(ConnectionEnded(**_now(), node=node, why=why))

    # -- the file

    def _write(self, line: Line) -> None:
        text = _json.dumps(line_to_json(line))
        self._attempt(lambda file: _write_all(file, f"{text}\n".encode()))

    def _attempt(self, act: Callable[[int], None]) -> None:
        if self._file is None or self.failure is not None:
            return
        try:
            act(self._file)
        except OSError as error:
            # A line that was partly written must stay the last one.
            self.failure = f"{self.path}: {error.strerror}"
            _LOG.exception("the journal ends here")


class _Now(TypedDict):
    """The time at which a line is written, by both clocks."""

    at: str
    monotonic_s: float


def _now() -> _Now:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"at": at, "monotonic_s": time.monotonic()}


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]

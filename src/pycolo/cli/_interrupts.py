"""How Ctrl-C ends a command that executes a plan."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import final

from pycolo.cli import _say
from pycolo.cli._exits import UNFINISHED
from pycolo.cli._progress import Kept
from pycolo.plan import Check, Wait
from pycolo.render.text import summary
from pycolo.result import Report


async def interruptible(execution: Coroutine[object, object, Report], progress: Kept) -> Report:
    """Wait for an execution, and handle SIGINT while it runs.

    The first interrupt ends the execution after the current step; the second one ends this process
    at once.

    Args:
        execution: The execution.
        progress: The observer of the execution, which knows the current step.

    Returns:
        The report of the execution, also if it was interrupted.

    Raises:
        KeyboardInterrupt: The interrupt came before the plan was begun.
    """
    task = asyncio.ensure_future(execution)
    interrupts = _Interrupts(task, progress)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupts.came)
    try:
        return await task
    except asyncio.CancelledError:
        # The execution ended between two steps, and gave its report to `progress` before that.
        if progress.report is None:
            raise KeyboardInterrupt from None
        return progress.report
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@final
class _Interrupts:
    def __init__(self, task: asyncio.Future[Report], progress: Kept) -> None:
        self._task = task
        self._progress = progress
        self._has_come = False

    def came(self) -> None:
        """Handle an interrupt: the first cancels the execution, the second ends the process."""
        step = self._progress.step
        if self._has_come:
            self._leave()
        self._has_come = True
        if step is not None:
            # A wait or a check sends nothing that would have to be answered.
            what = "is given up" if isinstance(step, Wait | Check) else "is finished first"
            _say.note(f"interrupted: this step {what}: {summary(step)}")
            _say.note("  then the nodes are read for the report; every QEMU keeps running;")
            _say.note("  press Ctrl-C again to leave at once")
        self._task.cancel()

    def _leave(self) -> None:
        step = self._progress.step
        where = "before the first step" if step is None else f"in the middle of {step.address}"
        unknown = "whether it took effect is not known, and a guest may be paused"
        if isinstance(step, Wait | Check):
            unknown = "it changes nothing itself; a guest may be paused by the steps before it"
        _say.note(f"left {where}: {unknown}")
        _say.note("  run `pycolo status PAIRFILE`, then run the same procedure again")
        _say.flush()
        # End without waiting for the execution, whatever it is doing.
        os._exit(UNFINISHED)

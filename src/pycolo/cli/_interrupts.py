"""What Ctrl-C does while a plan is executed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import final

from pycolo.cli import _say
from pycolo.cli._exits import UNFINISHED
from pycolo.cli._progress import Kept
from pycolo.render.text import summary
from pycolo.result import Report


async def heeded(execution: Coroutine[object, object, Report], progress: Kept) -> Report:
    """Wait for an execution; the first interrupt ends it between two steps, the second at once.

    Args:
        execution: What is waited for.
        progress: What it tells; knows the step under way.

    Raises:
        KeyboardInterrupt: It was interrupted before it had begun with a plan.
    """
    task = asyncio.ensure_future(execution)
    interrupts = _Interrupts(task, progress)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupts.came)
    try:
        return await task
    except asyncio.CancelledError:
        # Execution ended between two steps, and reported before it did.
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
        """Say what is being finished; the second time, say what is left, and leave."""
        step = self._progress.step
        if self._has_come:
            self._leave()
        self._has_come = True
        if step is not None:
            _say.note(f"interrupted: this step is finished first: {summary(step)}")
            _say.note("  every QEMU keeps running; press Ctrl-C again to leave at once")
        self._task.cancel()

    def _leave(self) -> None:
        step = self._progress.step
        where = "before the first step" if step is None else f"in the middle of {step.address}"
        _say.note(f"left {where}: whether it took effect is not known, and a guest may be paused")
        _say.note("  look with `pycolo status PAIRFILE`, then run the same procedure again")
        _say.let_go()
        # Nothing of the execution is waited for, whatever it is doing.
        os._exit(UNFINISHED)

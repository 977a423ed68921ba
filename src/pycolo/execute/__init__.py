"""The only loop over the steps of a plan.

What went wrong in a session or on a host becomes the outcome of a step here and nowhere else. What
a caller gets is a `Report`, whatever happened; only cancellation is an exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from pycolo.execute._run import LineageKeeper, Run
from pycolo.observers import Observer, Recorder, Several, Silent
from pycolo.plan import Plan
from pycolo.result import Report
from pycolo.session import Session
from pycolo.snapshot import DeathProof

__all__ = ["LineageKeeper", "execute"]


async def execute(
    plan: Plan,
    sessions: Mapping[str, Session],
    *,
    observer: Observer | None = None,
    recorder: Recorder | None = None,
    lineage: LineageKeeper | None = None,
    proofs: Mapping[str, DeathProof] | None = None,
) -> Report:
    """Execute a plan, step by step, as it is written.

    At the first step that is not done, execution ends: the relief of the ranges it ends in is run,
    and what can be read is read. Cancelling takes effect between steps: a command that was sent
    keeps its reply, and a range of steps with a relief is finished first.

    Args:
        plan: What to do.
        sessions: Node name to a session on its control monitor, for each node that the plan speaks
            to; they are not closed.
        observer: Is told what happens; an error it raises is logged and changes nothing.
        recorder: Is told the same after the observer, and the conversation with QEMU: a `Journal`.
        lineage: Is told durably which node holds the newest data, before anything that makes it so.
        proofs: Node name to the proof of its death; a supposition on paper is none.

    Returns:
        What became of each step. Commands that QEMU refused, or did not answer, are in it.

    Raises:
        asyncio.CancelledError: It was cancelled; the observer was given the report before.
    """
    watching: Observer = observer or Silent()
    if recorder is not None:
        watching = Several((watching, recorder))
    run = Run(plan, sessions, watching, lineage, proofs or {}, recorder=recorder)
    task = asyncio.get_running_loop().create_task(run.to_the_end())
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            cancelled = True
            run.stop()
    if cancelled:
        raise asyncio.CancelledError
    return task.result()

"""Executes a plan: the only loop over its steps.

Only here does an error of a session or a host become the outcome of a step. The caller always gets
a `Report`, whatever happened; only cancellation is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from pycolo._execute._run import Run
from pycolo.evidence import Evidence
from pycolo.hosts import Host
from pycolo.observers import Observer, Recorder, Several
from pycolo.plan import Plan
from pycolo.result import Report
from pycolo.session import Session

__all__ = ["execute"]


async def execute(
    plan: Plan,
    sessions: Mapping[str, Session],
    hosts: Mapping[str, Host] | None = None,
    *,
    evidence: Mapping[str, Evidence] | None = None,
    observer: Observer | None = None,
    recorder: Recorder | None = None,
    limit_s: float | None = None,
) -> Report:
    """Execute a plan, step by step, as it is written.

    Steps of one batch are sent together. Execution ends at the first step that is not done, unless
    the step may fail. If it ends inside a range of steps with a recovery, that recovery is sent; it
    is withheld, and its first step refused, if there is no connection to its node, or if the
    connection was lost and the node's record is not the one written here. Then the nodes are read.

    Cancelling breaks a wait off. It waits for the reply of a command that was sent, and for the end
    of a range that has a recovery.

    A session serves one execution at a time: if a session is in use already, the first
    step is refused.

    Args:
        plan: What to do.
        sessions: Node name to a session on its control monitor, for each node that the plan speaks
            to. They are not closed; one that was lost is opened anew to find out what happened.
        hosts: Node name to its host, for each node whose record is read or written, on whose host
            something is done, or whose QEMU's end has to be shown.
        evidence: Node name to evidence that its QEMU has ended. If none is given that names the
            node, instance and epoch which the plan does, the host on which it ran is asked. A fence
            is refused if that QEMU answers within a second, or its host says within five that it
            runs.
        observer: Is called with what happens; an error it raises is logged and changes nothing.
        recorder: Called with the same after the observer, and with the conversation with QEMU: a
            `Journal`.
        limit_s: After how many seconds execution ends as if it were cancelled, and its report is
            given all the same; None for never.

    Returns:
        What became of each step. Commands that QEMU refused, or did not answer, are in it.

    Raises:
        asyncio.CancelledError: It was cancelled; the observer was given the report before.
    """
    watching: Observer = observer or Observer()
    if recorder is not None:
        watching = Several((watching, recorder))
    run = Run(plan, sessions, watching, hosts or {}, evidence or {}, recorder=recorder)
    loop = asyncio.get_running_loop()
    task = loop.create_task(run.to_the_end())
    limit = None if limit_s is None else loop.call_later(limit_s, run.stop)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            cancelled = True
            run.stop()
    if limit is not None:
        limit.cancel()
    if cancelled:
        raise asyncio.CancelledError
    return task.result()

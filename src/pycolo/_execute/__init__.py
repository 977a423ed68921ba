"""Executes a plan: the only loop over its steps.

Only this package turns an error of a session or a host into the outcome of a step. The caller
always gets a `Report`, whatever happened; only cancellation is raised.
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
    the step may fail. If execution ends inside a range of steps with a recovery, that recovery is
    sent. The recovery is not sent, and its first step is refused, if there is no connection to its
    node, or if the connection was lost and the node's record is not the one that this execution
    wrote. Then the nodes are read.

    Cancellation ends a wait at once. It takes effect only after the reply to a command that was
    sent, and after the end of a range that has a recovery.

    A session serves one execution at a time: if another execution uses one of the sessions, the
    first step is refused.

    Args:
        plan: What to do.
        sessions: Node name to a session on its control monitor, for each node to which the plan
            sends commands or questions. The sessions are not closed; a session that was lost is
            reopened to find out what happened.
        hosts: Node name to its host, for each node whose record is read or written, on whose host
            an action is executed, or whose QEMU must be shown to have ended.
        evidence: Node name to evidence that its QEMU has ended. The host of that QEMU is asked if
            no evidence here names the node, instance and epoch that the plan names. Evidence of
            kind `fence` is refused if that QEMU answers within 1 s, or if its host reports within
            5 s that it runs.
        observer: Called for each step and for the plan; an error that it raises is logged and
            changes nothing.
        recorder: Such as a `Journal`. Called as the observer is, after it, and also with each
            command to QEMU, each reply and each event.
        limit_s: The time limit in seconds. After it, execution ends as if it were cancelled, but
            returns its report; None for no limit.

    Returns:
        The outcome of each step. Commands that QEMU refused or did not answer are among them; they
        raise nothing.

    Raises:
        asyncio.CancelledError: The execution was cancelled; the observer got the report before.
            The sessions and hosts can still be used.
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

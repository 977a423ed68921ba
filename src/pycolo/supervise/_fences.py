"""Runs the fences that a node declares, until one of them succeeds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from pycolo._printable import brief
from pycolo.evidence import Evidence, Victim
from pycolo.hosts.requests import now
from pycolo.model.node import Fence

_KILLED_S: Final = 1.0


async def fenced(
    fences: tuple[Fence, ...], victim: Victim, tell: Callable[[str], None]
) -> Evidence | None:
    """Run a node's fences in their order, until one succeeds.

    Args:
        fences: The fences that the node declares.
        victim: The QEMU that must have ended after a fence succeeded.
        tell: Is called with the reason if a fence failed, a sentence without a full stop.

    Returns:
        Evidence from the first one that succeeded; None if none did.
    """
    for fence in fences:
        program = fence.command[0]
        why = await _run(fence)
        if why is None:
            return Evidence.of(
                victim,
                kind="fence",
                who=program,
                how=f"{program} ended with exit code 0",
                when=now(),
            )
        tell(f"the fence {program} of {victim.node} failed: {why}")
    return None


async def _run(fence: Fence) -> str | None:
    """Run a fence until it ends or its limit has passed.

    Returns:
        Why it failed; None if it succeeded.
    """
    try:
        with contextlib.ExitStack() as stack:
            source: int | IO[bytes] = subprocess.DEVNULL
            if fence.input_file is not None:
                path = Path(fence.input_file)
                source = stack.enter_context(await asyncio.to_thread(path.open, "rb"))
            # The fence has a session of its own: an interrupt at the terminal must not end it.
            process = await asyncio.create_subprocess_exec(
                *fence.command,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        return str(error)
    try:
        async with asyncio.timeout(fence.limit_s):
            said, _ = await process.communicate()
    except TimeoutError:
        await _killed(process)
        return f"it did not end within {fence.limit_s:g} s"
    except asyncio.CancelledError:
        await _killed(process)
        raise
    if process.returncode == 0:
        return None
    words = brief(said.decode(errors="replace").strip()) or "it said nothing"
    return f"it ended with exit code {process.returncode}: {words}"


async def _killed(process: asyncio.subprocess.Process) -> None:
    # The processes that the fence has started are killed as well: none of them may act later.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_KILLED_S):
            await process.wait()

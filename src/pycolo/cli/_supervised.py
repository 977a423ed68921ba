"""Commands about a pair that a supervisor on this machine keeps: sent to it, or refused."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Final, final

import attrs

from pycolo.cli import _say
from pycolo.cli._options import Asked
from pycolo.errors import CompileError, StoreError, compile_error
from pycolo.observers import Observer, Recorder
from pycolo.plan import Procedure
from pycolo.result import Report
from pycolo.supervise import Wish
from pycolo.supervise.control import Control, PairView, find, of_agents
from pycolo.supervise.supervisor import Keeping

_WAIT_S: Final = 60.0
_RELEASE_S: Final = 2.0
_INSTEAD: Final[Mapping[Procedure, str]] = {
    "launch": "it launches what is missing by itself",
    "start": "it protects the guest by itself",
    "resume": "it protects the guest by itself",
    "stop": "type `pycolo want unprotected PAIRFILE{agent}`",
    "failover": (
        "it fails over by itself; if it needs your word that a host is off, type"
        " `pycolo fenced PAIRFILE NODE --how TEXT`"
    ),
}
"What to do instead of a procedure that a supervisor or agent does not execute on request."


@final
@attrs.frozen(kw_only=True)
class Act:
    """Has a supervisor or agent execute a procedure, and observes it as if executed here."""

    control: Control
    procedure: Procedure
    ms: int | None

    async def __call__(self, observer: Observer, *, recorder: Recorder | None) -> Report:  # noqa: ARG002 - there is none
        """Send the request to the supervisor, and wait for the report.

        Args:
            observer: Is called with the progress.
            recorder: Not used: the supervisor sends no journal.
        """
        with _finished_by(self.control):
            return await self.control.perform(self.procedure, observer, checkpoint_delay_ms=self.ms)


@final
@attrs.frozen(kw_only=True)
class Move:
    """Has a supervisor or agent move the secondary to a spare."""

    control: Control
    to: str

    async def __call__(self, observer: Observer, *, recorder: Recorder | None) -> Report:  # noqa: ARG002 - there is none
        """Send the request, and wait for the report.

        Args:
            observer: Is called with the progress.
            recorder: Not used: the supervisor sends no journal.
        """
        with _finished_by(self.control):
            return await self.control.move(self.to, observer)


@contextmanager
def _finished_by(control: Control) -> Generator[None]:
    """If the block is interrupted, say which process finishes what was asked for."""
    try:
        yield
    except asyncio.CancelledError:
        _say.note(
            f"only this command ends: process {control.pid} finishes what was asked for, and keeps"
            f" {control.pair} as before; see `pycolo status --watch`"
        )
        raise


def acts(folder: Path, pair: str, procedure: Procedure, asked: Asked) -> Act | None:
    """Find out whether a supervisor or agent must execute a procedure in place of this process.

    This waits until a paused supervisor uses no control monitor any more.

    Args:
        folder: The supervisor's store.
        pair: The pair's name.
        procedure: The procedure.
        asked: The options of the procedure.

    Returns:
        A function that has the supervisor or agent execute it. None if neither keeps the pair, if
        its supervisor is paused, or if it was released to its files.

    Raises:
        CompileError: The pair's supervisor or agent does not execute this procedure on request, or
            not with these options.
        StoreError: The pair's supervisor or agent does not answer.
    """
    control = _in_the_way(folder, pair)
    agent = find(of_agents(folder), pair) if control is None else None
    if agent is not None and asyncio.run(_is_released(agent)):
        return None
    keeping = control or agent
    if keeping is None:
        return None
    if procedure not in Keeping.on_request or asked.dialect != "auto":
        raise _refusal(keeping, procedure, is_agent=agent is not None)
    return Act(control=keeping, procedure=procedure, ms=asked.ms)


def refuse(folder: Path, pair: str) -> None:
    """Refuse a command that needs the control monitors of a pair, if a supervisor keeps the pair.

    This waits until a paused supervisor uses no control monitor any more.

    Args:
        folder: The supervisor's store.
        pair: The pair's name.

    Raises:
        CompileError: A supervisor keeps the pair, and is not paused.
        StoreError: The pair's supervisor does not answer.
    """
    control = _in_the_way(folder, pair)
    if control is not None:
        raise _refusal(control, None, is_agent=False)


def _refusal(control: Control, procedure: Procedure | None, *, is_agent: bool) -> CompileError:
    """The error for what a supervisor or agent does not execute.

    Args:
        control: The connection to it.
        procedure: The procedure; None for a saved plan.
        is_agent: Whether it is an agent.
    """
    who = "an agent" if is_agent else "a supervisor"
    why = f"{who} (pid {control.pid}) keeps {control.pair} and holds its control monitors"
    hand = "type `pycolo pause PAIRFILE`, then this again, and `pycolo unpause PAIRFILE` at last"
    if is_agent:
        # The record lies in the arbiter, so that nobody else may act by the files.
        hand = "hand the pair back to its files: `pycolo release PAIRFILE --agent AGENTFILE`"
    instead = "" if procedure is None else _INSTEAD.get(procedure, "")
    instead = instead.replace("{agent}", " --agent AGENTFILE" if is_agent else "")
    return compile_error("supervised", why, f"{instead}; else {hand}" if instead else hand)


async def _is_released(agent: Control) -> bool:
    """Whether an agent's pair was released to its files, or the agent has ended.

    It waits a while until an agent that is paused uses no control monitor any more.
    """
    try:
        async with asyncio.timeout(_RELEASE_S), aclosing(agent.watch()) as views:
            async for view in views:
                if view.paused is None or view.are_monitors_free:
                    return view.are_monitors_free
    except TimeoutError:
        return False
    return True


def _in_the_way(folder: Path, pair: str) -> Control | None:
    """The supervisor that keeps a pair and is not paused; None if there is none.

    This waits until a paused supervisor uses no control monitor any more.
    """
    control = find(folder, pair)
    if control is None:
        return None
    view = asyncio.run(wait_monitors_free(control))
    return control if view is not None and view.paused is None else None


async def wait_monitors_free(control: Control) -> PairView | None:
    """Wait until a supervisor is not paused, or is paused and uses no control monitor any more.

    Args:
        control: The connection to the supervisor.

    Returns:
        The supervisor's view of the pair at that time; None if the supervisor has ended.

    Raises:
        StoreError: The supervisor does not answer, or still executes a plan after a minute.
    """
    try:
        async with asyncio.timeout(_WAIT_S), aclosing(control.watch()) as views:
            async for view in views:
                if view.paused is None or view.are_monitors_free:
                    return view
    except TimeoutError:
        why = f"the supervisor (pid {control.pid}) is paused, and still finishes a plan"
        raise StoreError(str(control.folder), f"{why}; try again later") from None
    return None


def unheard(folder: Path, pair: str) -> str:
    """Say that a wish is stored, and that no supervisor has read it.

    Args:
        folder: The supervisor's store.
        pair: The pair's name.

    Raises:
        StoreError: The socket of this host's agent cannot be opened.
    """
    if find(of_agents(folder), pair) is not None:
        return f"an agent keeps {pair} and does not read this: give --agent AGENTFILE"
    return (
        f"it is stored in {folder}; no supervisor of {pair} runs with this store, so that nobody"
        " acts on it until one does"
    )


async def wait_applied(control: Control, wish: Wish) -> None:
    """Wait until a supervisor has read a changed wish and, if it says paused, uses no monitor.

    If that takes longer than a minute, or the supervisor does not answer, a note is printed, and
    the wait ends.

    Args:
        control: The connection to the supervisor.
        wish: The wish, as the store now has it.
    """
    try:
        async with asyncio.timeout(_WAIT_S), aclosing(control.watch()) as views:
            async for view in views:
                is_free = view.are_monitors_free or wish.paused is None
                if (view.want, view.paused) == (wish.want, wish.paused) and is_free:
                    return
    except TimeoutError:
        _say.note(f"the supervisor (pid {control.pid}) finishes its current work first")
    except StoreError as error:
        # The wish is in the store all the same: the next supervisor reads it there.
        _say.note(str(error))

"""Commands about a pair that a supervisor of this machine keeps: asked of it, or refused."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final, final

import attrs

from pycolo.cli import _say
from pycolo.cli._options import Asked
from pycolo.errors import CompileError, StoreError, compile_error
from pycolo.observers import Observer, Recorder
from pycolo.plan import Procedure
from pycolo.result import Report
from pycolo.supervise import ON_REQUEST, Wish
from pycolo.supervise.control import Control, PairView, find

_LET_GO_S: Final = 60.0
_INSTEAD: Final[Mapping[Procedure, str]] = {
    "launch": "it launches what is missing by itself",
    "start": "it protects the guest by itself",
    "resume": "it protects the guest by itself",
    "stop": "type `pycolo want unprotected PAIRFILE`",
    "failover": (
        "it fails over by itself; if it needs your word that a host is off, type"
        " `pycolo fenced PAIRFILE NODE --how TEXT`"
    ),
}
"What there is in place of a procedure that a supervisor does not do on request."


@final
@attrs.frozen(kw_only=True)
class Act:
    """Has a supervisor execute a procedure; told and reported as if it were executed here."""

    control: Control
    procedure: Procedure
    ms: int | None

    async def __call__(self, observer: Observer, *, recorder: Recorder | None) -> Report:  # noqa: ARG002 - there is none
        """Ask, and wait for the end."""
        try:
            return await self.control.perform(self.procedure, observer, checkpoint_delay_ms=self.ms)
        except asyncio.CancelledError:
            pid = self.control.pid
            _say.note(f"the supervisor (pid {pid}) finishes it; see `pycolo status --watch`")
            raise


def acts(folder: Path, pair: str, procedure: Procedure, asked: Asked) -> Act | None:
    """What has a pair's supervisor execute a procedure; None if none is in the way.

    Args:
        folder: The supervisor's store.
        pair: The pair's name.
        procedure: What is to be done.
        asked: What it is asked for besides.

    Raises:
        CompileError: There is one, and it does not do this on request.
        StoreError: There is one, and it gives no answer.
    """
    control = _in_the_way(folder, pair)
    if control is None:
        return None
    if procedure not in ON_REQUEST or asked.dialect != "auto":
        raise _refusal(control, _INSTEAD.get(procedure, ""))
    return Act(control=control, procedure=procedure, ms=asked.ms)


def refuse(folder: Path, pair: str) -> None:
    """Refuse what needs the control monitors of a pair that a supervisor keeps.

    Raises:
        CompileError: One does.
        StoreError: One does, and gives no answer.
    """
    control = _in_the_way(folder, pair)
    if control is not None:
        raise _refusal(control, "")


def _refusal(control: Control, instead: str) -> CompileError:
    why = f"a supervisor (pid {control.pid}) keeps {control.pair} and holds its control monitors"
    pause = "type `pycolo pause PAIRFILE`, then this again, and `pycolo unpause PAIRFILE` at last"
    advice = f"{instead}; else {pause}" if instead else pause
    return compile_error("supervised", why, advice)


def _in_the_way(folder: Path, pair: str) -> Control | None:
    """The supervisor that keeps a pair and is not paused; waits until a paused one has let go."""
    control = find(folder, pair)
    if control is None:
        return None
    view = asyncio.run(let_go(control))
    return control if view is not None and view.paused is None else None


async def let_go(control: Control) -> PairView | None:
    """Wait until a supervisor that is paused uses no control monitor any more.

    Args:
        control: The way to it.

    Returns:
        How its pair stands: not paused, or with free monitors; None if it has ended meanwhile.

    Raises:
        StoreError: It gives no answer, or still executes a plan after a minute.
    """
    try:
        async with asyncio.timeout(_LET_GO_S), aclosing(control.watch()) as views:
            async for view in views:
                if view.paused is None or view.are_monitors_free:
                    return view
    except TimeoutError:
        why = f"the supervisor (pid {control.pid}) is paused, and still finishes a plan"
        raise StoreError(str(control.folder), f"{why}; try again later") from None
    return None


async def wait_heeded(control: Control, wish: Wish) -> None:
    """Wait until a supervisor has heard what is wanted, and, if it is paused, has let go.

    If it finishes a plan first, a person is told, and it is not waited for any longer.
    """
    try:
        async with asyncio.timeout(_LET_GO_S), aclosing(control.watch()) as views:
            async for view in views:
                is_free = view.are_monitors_free or wish.paused is None
                if (view.want, view.paused) == (wish.want, wish.paused) and is_free:
                    return
    except TimeoutError:
        _say.note(f"the supervisor (pid {control.pid}) finishes its current work first")
    except StoreError as error:
        # What is in the store holds: the next supervisor reads it.
        _say.note(str(error))

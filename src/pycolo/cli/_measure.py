"""`pycolo measure`: how often a pair's checkpoints come, and how long they pause the guest."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pycolo import operate
from pycolo._json import JsonObject
from pycolo.cli import _say
from pycolo.errors import CompileError, StoreError, compile_error
from pycolo.model import ColoPair
from pycolo.pace import Checkpoint, Pace
from pycolo.standing import Standing, standing
from pycolo.supervise.control import Control, find_keeper

_MS: Final = 1000.0
_STEP_S: Final = 0.2
_OBSERVED: Final = 20
"How many views of a pair may come before it has been observed for the first time."
_WIDTH: Final = 40
_EARLY: Final = 0.5
_PARTS: Final = (("median", 0.5), ("90 %", 0.9), ("99 %", 0.99), ("longest", 1.0))


async def measured(pair: ColoPair, folder: Path, seconds: float) -> Pace:
    """Listen to a pair's checkpoints for a while.

    Args:
        pair: The declaration.
        folder: The store of the supervisor that may keep the pair, or beside which agents listen.
        seconds: How long to listen; it ends earlier if COLO or the connection does.

    Raises:
        CompileError: The pair is not in COLO, or another host's agent keeps the primary.
        RemoteError: Neither a supervisor nor an agent keeps the pair, and its observer monitor
            cannot be used.
        StoreError: The pair's supervisor or agent does not answer.
    """
    control = find_keeper(folder, pair.name)
    heard: list[Checkpoint] = []
    if control is None:
        name, delay_ms = await _primary(pair)
        source = operate.checkpoints(pair, name)
    else:
        # It reports the checkpoints that it sees anyway, and the observer monitor stays free.
        delay_ms = await _delay_ms(control)
        source = control.checkpoints()
    took_s = await _listened(source, heard, seconds)
    return Pace.of(heard, seconds=took_s, delay_ms=delay_ms)


async def _delay_ms(control: Control) -> int:
    """The checkpoint delay of the primary, as its supervisor or this host's agent sees it.

    Raises:
        CompileError: There is no primary in COLO, or another host's agent keeps it.
        StoreError: No answer came.
    """
    async with aclosing(control.watch()) as views:
        left = _OBSERVED
        async for view in views:
            left -= 1
            if view.standing is None and left > 0:
                # The pair has not been observed yet; the next view comes half a second later.
                continue
            if view.primary is None or view.checkpoint_delay_ms is None:
                raise _unmeasured(control.pair, view.standing)
            if view.primary not in view.phases:
                why = f"the agent of {view.primary} hears the checkpoints, and no other one"
                remedy = f"ask it, on the host of {view.primary}"
                raise compile_error("not-a-member", why, remedy)
            return view.checkpoint_delay_ms
    raise StoreError(str(control.folder), f"process {control.pid} has ended")


def _unmeasured(pair: str, found: Standing | None) -> CompileError:
    words = "it was not observed yet" if found is None else found.words
    why = f"{pair} has no primary in COLO: {words}"
    return compile_error("no-pair", why, "measure it once it is protected")


async def _primary(pair: ColoPair) -> tuple[str, int]:
    """The primary of a pair in COLO, and its checkpoint delay in milliseconds.

    Raises:
        CompileError: There is none, or there are two.
    """
    snapshot = await operate.status(pair)
    primaries = [
        (name, live)
        for name in pair.names
        if (live := snapshot.live(name)) is not None and live.colo_mode == "primary"
    ]
    if len(primaries) != 1:
        raise _unmeasured(pair.name, standing(snapshot))
    ((name, live),) = primaries
    return name, live.checkpoint_delay_ms


async def _listened(
    source: AsyncGenerator[Checkpoint], heard: list[Checkpoint], seconds: float
) -> float:
    """Collect checkpoints for some seconds, or until COLO ends.

    Args:
        source: Yields each checkpoint; closed at the end.
        heard: The list that the checkpoints are appended to.
        seconds: How long to listen.

    Returns:
        How long it did listen, in seconds.
    """
    loop = asyncio.get_running_loop()
    began_s, take = loop.time(), heard.append

    async def listen() -> None:
        async with aclosing(source) as checkpoints:
            # Append one by one: the task is cancelled while it waits, and what came before counts.
            async for checkpoint in checkpoints:
                take(checkpoint)

    with _progress(seconds) as tell:
        listening = asyncio.ensure_future(listen())
        try:
            while not listening.done() and (past_s := loop.time() - began_s) < seconds:
                tell(past_s, len(heard))
                await asyncio.wait((listening,), timeout=min(_STEP_S, seconds - past_s))
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
    return loop.time() - began_s


class _Tell:
    """Shows the progress of the measurement: a bar on a terminal, nothing elsewhere."""

    def __init__(self, progress: Progress | None, seconds: float) -> None:
        self._progress = progress
        if progress is not None:
            self._task = progress.add_task("", total=seconds)

    def __call__(self, past_s: float, count: int) -> None:
        """Show how many seconds have passed, and how many checkpoints came."""
        if self._progress is not None:
            words = f"{count} checkpoints"
            self._progress.update(self._task, completed=past_s, description=words)


@contextlib.contextmanager
def _progress(seconds: float) -> Iterator[_Tell]:
    if not _say.in_colour(sys.stderr):
        _say.note(f"listening for {seconds:g} s")
        yield _Tell(None, seconds)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Tell(progress, seconds)


def text(pair: ColoPair, pace: Pace) -> str:
    """The measurement as text."""
    return "".join(f"{line}\n" for line in _lines(pair, pace))


def _lines(pair: ColoPair, pace: Pace) -> Iterator[str]:
    count = len(pace.pauses_s)
    rate = f"{pace.per_second:.2g} a second"
    yield f"{pair.name}: {count} checkpoints in {pace.seconds:.0f} s, {rate}"
    if not count:
        yield f"the delay is {pace.delay_ms} ms: measure for longer with --seconds"
        return
    pauses = ", ".join(f"{name} {pace.pause_s(part) * _MS:.1f} ms" for name, part in _PARTS)
    yield f"pause: {pauses}; {pace.share * 100:.2g} % of the time"
    yield from histogram(pace.pauses_s)
    yield (
        f"asked for by the delay of {pace.delay_ms} ms: {pace.timed}; forced by the supervisor:"
        f" {pace.forced}; earlier, as the guests' packets differed or another program forced one:"
        f" {pace.early}"
    )
    yield f"suggested delay: {pace.suggested_ms} ms; then they take 2 % of the time at most"
    if pace.early > _EARLY * (pace.early + pace.timed + pace.forced):
        yield "most came before the delay was over, so that the delay changes little"


def histogram(pauses_s: tuple[float, ...]) -> Iterator[str]:
    """Draw a bar for each doubling of the pause, from the shortest to the longest pause.

    Args:
        pauses_s: One or more pauses in seconds, ascending.
    """
    bound_ms = 1.0
    while bound_ms < pauses_s[0] * _MS:
        bound_ms *= 2
    counts: list[tuple[float, int]] = []
    left = list(pauses_s)
    while left:
        inside = sum(one * _MS <= bound_ms for one in left)
        counts.append((bound_ms, inside))
        left, bound_ms = left[inside:], bound_ms * 2
    most = max(count for _, count in counts)
    for bound, count in counts:
        bar = "█" * max(round(count / most * _WIDTH), 1 if count else 0)
        yield f"  up to {bound:>6g} ms {count:>6}  {bar}".rstrip()


def to_json(pair: ColoPair, pace: Pace) -> JsonObject:
    """The measurement as JSON."""
    percentiles: JsonObject = {name: round(pace.pause_s(p) * _MS, 3) for name, p in _PARTS}
    return {
        "format_version": 1,
        "pair": pair.name,
        "seconds": round(pace.seconds, 3),
        "checkpoints": len(pace.pauses_s),
        "checkpoints_per_second": round(pace.per_second, 4),
        "pause_ms": percentiles,
        "paused_share": round(pace.share, 6),
        "delay_ms": pace.delay_ms,
        "by_delay": pace.timed,
        "forced": pace.forced,
        "early": pace.early,
        "suggested_delay_ms": pace.suggested_ms,
    }

"""`pycolo status --watch`: the states of supervised pairs, shown each time that they change."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, final

import attrs
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pycolo import _json
from pycolo._json import JsonObject
from pycolo._printable import brief, one_line
from pycolo.cli import _say
from pycolo.errors import StoreError
from pycolo.standing import Standing
from pycolo.supervise import Underway
from pycolo.supervise.control import Control, PairView, find, find_keeper, found, of_agents

_AGAIN_S: Final = 1.0
_WINDOW_S: Final = 60.0
"The time over which the rate of checkpoints is computed, in seconds."
_MS: Final = 1000.0
_LEAST_S: Final = 1.0
_NOBODY: Final = "no supervisor or agent keeps it"
WIDE: Final = 80
"The least width for all columns; a narrower terminal shows neither wait nor want."


@final
@attrs.define
class Pace:
    """The rate and the pauses of checkpoints in the last minute; times are in seconds."""

    seen: deque[tuple[float, int, float]] = attrs.field(factory=deque)

    def take(self, at_s: float, view: PairView) -> None:
        """Add a supervisor's counters to the sample.

        Args:
            at_s: When the view came, by a monotonic clock.
            view: The view, with its counters.
        """
        if self.seen and view.checkpoints < self.seen[-1][1]:
            # The counters went back, so this is another supervisor, which began at 0.
            self.seen.clear()
        self.seen.append((at_s, view.checkpoints, view.pause_sum_s))
        while at_s - self.seen[0][0] > _WINDOW_S:
            self.seen.popleft()

    @property
    def per_second(self) -> float | None:
        """Checkpoints in a second; None until a second of samples is there."""
        took_s = self.seen[-1][0] - self.seen[0][0] if self.seen else 0.0
        return None if took_s < _LEAST_S else self._made / took_s

    @property
    def pause_ms(self) -> float | None:
        """The mean pause of the guest in a checkpoint, in ms; None if there was no checkpoint."""
        return (self.seen[-1][2] - self.seen[0][2]) * _MS / self._made if self._made else None

    @property
    def _made(self) -> int:
        return self.seen[-1][1] - self.seen[0][1] if self.seen else 0


@final
@attrs.define
class Row:
    """One pair, and what its supervisor or agent said last."""

    pair: str
    why: str = _NOBODY
    "If `view` is None: why."
    view: PairView | None = None
    pace: Pace = attrs.field(factory=Pace)


async def said_by_agent(folder: Path, pair: str) -> Standing | None:
    """The state of a pair as this host's agent sees it.

    Args:
        folder: The store beside which the agents listen.
        pair: The pair's name.

    Returns:
        The state; None if no agent keeps the pair, does not answer, or has not observed it yet.
    """
    try:
        control = find(of_agents(folder), pair)
        if control is None:
            return None
        async with aclosing(control.watch()) as views:
            view = await anext(views)
    except (StoreError, StopAsyncIteration):
        return None
    return view.standing


async def watch(folder: Path, pairs: Sequence[str], form: str) -> None:
    """Show pairs until cancelled.

    Args:
        folder: The supervisor's store.
        pairs: The pairs' names; if empty, every pair that a supervisor or agent keeps with this
            store.
        form: `text`, or `json` for one object at each change.

    Raises:
        StoreError: `pairs` is empty, and no supervisor or agent uses this store.
    """
    kept = (control.pair for place in (folder, of_agents(folder)) for control in found(place))
    names = pairs or sorted(set(kept))
    if not names:
        raise StoreError(str(folder), "no supervisor or agent that uses this store is running")
    rows = {name: Row(name) for name in names}
    console = _say.console()
    if form == "json" or not console.is_terminal:
        lines = Lines(rows, _json_line if form == "json" else text_line)
        await _followed(folder, rows, lines.changed)
        return
    with Live(console=console, auto_refresh=False, transient=False) as live:

        def draw(_: Row) -> None:
            live.update(table(tuple(rows.values()), console), refresh=True)

        await _followed(folder, rows, draw)


async def _followed(folder: Path, rows: Mapping[str, Row], changed: Callable[[Row], None]) -> None:
    await asyncio.gather(*(_follow(folder, row, changed) for row in rows.values()))


async def _follow(folder: Path, row: Row, changed: Callable[[Row], None]) -> None:
    """Follow one pair; if its supervisor ends, wait for the next one."""
    while True:
        try:
            control = find_keeper(folder, row.pair)
            row.why = _NOBODY
            if control is not None:
                await _views(control, row, changed)
        except StoreError as error:
            row.why = brief(str(error))
        row.view = None
        changed(row)
        await asyncio.sleep(_AGAIN_S)


async def _views(control: Control, row: Row, changed: Callable[[Row], None]) -> None:
    async with aclosing(control.watch()) as views:
        async for view in views:
            row.view = view
            row.pace.take(asyncio.get_running_loop().time(), view)
            changed(row)


# -- if standard output is no terminal


@final
@attrs.frozen
class Lines:
    """Prints a line for each change of a pair that is not only a change of figures."""

    rows: Mapping[str, Row]
    line: Callable[[Row], str]
    _last: dict[str, object] = attrs.field(factory=dict)

    def changed(self, row: Row) -> None:
        """Print a line, unless only figures have changed since the last one."""
        key = _key(row)
        if self._last.get(row.pair) != key:
            self._last[row.pair] = key
            _say.result(self.line(row) + "\n")


def _key(row: Row) -> object:
    view = row.view
    if view is None:
        return row.why
    underway = view.underway
    plan = underway and (underway.procedure, (underway.percent or 0) // 10)
    phases = tuple(view.phases.items())
    return (view.want, view.paused, phases, view.epoch, view.is_protected, view.person, plan)


def text_line(row: Row) -> str:
    """One line of text about a pair."""
    view = row.view
    if view is None:
        return one_line(f"{row.pair}: {row.why}")
    parts = [f"{node} {phase}" for node, phase in view.phases.items()]
    if view.epoch is not None:
        parts.append(f"epoch {view.epoch}")
    parts += [words for _, words in _remarks(row)]
    return one_line(f"{row.pair}: {'; '.join(parts) or 'it was not observed yet'}")


def _json_line(row: Row) -> str:
    view, pace = row.view, row.pace
    line: JsonObject = {"pair": row.pair, "supervised": view is not None}
    if view is not None:
        plan = view.underway
        line |= {
            "want": view.want,
            "paused": view.paused,
            "phases": dict(view.phases),
            "epoch": view.epoch,
            "protected": view.is_protected,
            "stands": "" if view.standing is None else view.standing.words,
            "person": view.person,
            "checkpoints_per_second": pace.per_second,
            "pause_ms": pace.pause_ms,
            "longest_wait_s": view.longest_s,
            "wait_limit_s": view.limit_s,
            "procedure": None if plan is None else plan.procedure,
            "percent": None if plan is None else plan.percent,
            "left_s": None if plan is None else plan.left_s,
        }
    return _json.dumps(line)


# -- on a terminal


def table(rows: Sequence[Row], console: Console) -> RenderableType:
    """A table with a row for each pair, and below it a line for each remark."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("pair", "nodes"):
        shown.add_column(name, overflow="fold")
    figures = ("epoch", "per s", "pause ms", "wait / limit", "wanted")
    left_out = 0 if console.width >= WIDE else 2
    for name in figures[: len(figures) - left_out]:
        shown.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = _cells(row)
        shown.add_row(*cells[: len(cells) - left_out])
    remarks = [
        Text(one_line(f"{row.pair}: {words}"), style=style)
        for row in rows
        for style, words in _remarks(row)
    ]
    return Group(shown, *remarks)


def _cells(row: Row) -> tuple[Text, ...]:
    view, pace = row.view, row.pace
    if view is None:
        return (Text(one_line(row.pair)), *[Text("-")] * 6)
    style = "green" if view.is_protected else "yellow"
    nodes = "\n".join(one_line(f"{node} {phase}") for node, phase in view.phases.items())
    rate, pause_ms = pace.per_second, pace.pause_ms
    return (
        Text(one_line(row.pair)),
        Text(nodes or "-", style=style),
        Text("-" if view.epoch is None else str(view.epoch)),
        Text("-" if rate is None else f"{rate:.2g}"),
        Text("-" if pause_ms is None else f"{pause_ms:.1f}"),
        Text(_wait(view)),
        Text(view.want),
    )


def _wait(view: PairView) -> str:
    limit = "-" if view.limit_s is None else f"{view.limit_s:.3g} s"
    return f"{view.longest_s:.3f} / {limit}"


def _remarks(row: Row) -> list[tuple[str, str]]:
    """The remarks about a pair, each with its style."""
    view = row.view
    if view is None:
        return [("yellow", row.why)]
    made: list[tuple[str, str]] = []
    if view.person:
        made.append(("bold red", f"! {brief(view.person)}"))
    if view.want != "protected":
        made.append(("yellow", f"{view.want} is wanted"))
    if view.paused is not None:
        free = "; `pycolo run` may act" if view.are_monitors_free else ""
        made.append(("yellow", f"supervision is paused {view.paused}{free}"))
    if view.underway is not None:
        made.append(("cyan", _underway(view.underway)))
    return made


def _underway(plan: Underway) -> str:
    parts = [f"{plan.procedure}: step {plan.number} of {plan.steps}"]
    if plan.percent is not None:
        parts.append(f"{plan.percent} %")
    if plan.left_s is not None:
        parts.append(f"{plan.left_s:.0f} s left")
    return ", ".join(parts)

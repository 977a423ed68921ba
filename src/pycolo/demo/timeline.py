"""The results of the demonstration as text: a time axis, and the details of each failover."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from rich.console import Console
from rich.text import Text

from pycolo.demo.client import BUSY, DISK, IDLE, NEW, NOTABLE_S, PING
from pycolo.demo.report import Failover, LifeReport, Protection, Role
from pycolo.demo.testbed import NODES

MAX_WIDTH: Final = 110
_LABEL: Final = 14
_GLYPHS: Final[Mapping[Role, tuple[str, str]]] = {
    "alone": ("a", "yellow"),
    "primary": ("P", "green"),
    "secondary": ("s", "cyan"),
    "joining": ("j", "dim"),
}
# How a column of the time axis shows its longest wait: the first row whose limit in seconds is
# above the wait gives the character and the style.
_LEVELS: Final = (
    (0.05, "▁", "green"),
    (0.1, "▂", "green"),
    (0.25, "▄", "yellow"),
    (0.5, "▆", "red"),
    (math.inf, "█", "red"),
)
_STREAMS: Final[Mapping[str, tuple[str, ...]]] = {
    "ping": (PING,),
    "echo": (BUSY,),
    "idle echoes": IDLE,
    "disk writes": (DISK,),
    "new": (NEW,),
}
_LEGEND: Final = (
    "P primary, s secondary: protected; a alone; j joining; ✗ SIGKILL, SIGSTOP or a cut.",
    "Longest wait of the client: · under 20 ms, ▁ 50, ▂ 100, ▄ 250, ▆ 500 ms, █ more.",
)


def show(report: LifeReport, console: Console) -> None:
    """Print a report, in colour if the console supports it.

    Args:
        report: The report.
        console: The console to print on.
    """
    for line in lines(report, min(console.width, MAX_WIDTH)):
        console.print(line, soft_wrap=True, highlight=False)


def lines(report: LifeReport, width: int) -> Iterator[Text]:
    """The lines of the drawing.

    Args:
        report: The report.
        width: The width of the drawing in columns, at least 60.
    """
    where = "network namespaces of their own" if report.isolated else "user-mode networks"
    yield Text(f"QEMU {report.qemu}, two hosts in {where}, {report.took_s:.0f} s", style="bold")
    yield from _axis(report, width - _LABEL)
    events: list[Protection | Failover] = [*report.protections, *report.failovers]
    for event in sorted(events, key=lambda event: event.at_s):
        yield Text()
        if isinstance(event, Protection):
            yield from _protection(event)
        else:
            yield from _failover(event, width)
    yield Text()
    yield from _verdict(report)


# -- the time axis


def _axis(report: LifeReport, columns: int) -> Iterator[Text]:
    column_s = max(report.took_s, 0.001) / columns
    yield _ticks(report.took_s, columns)
    for node in NODES:
        yield _node_lane(report, node, column_s, columns)
    for label, names in _STREAMS.items():
        if report.isolated or names != (PING,):
            yield _wait_lane(report, label, names, column_s, columns)
    for line in _LEGEND:
        yield Text(f"{'':{_LABEL}}{line}", style="dim")


def _ticks(took_s: float, columns: int) -> Text:
    every_s = next((s for s in (1, 2, 5, 10, 20, 60) if took_s / s <= columns / 6), 300)
    signs = [" "] * (columns + 8)
    for tick_s in range(0, int(took_s) + 1, every_s):
        at = round(tick_s / max(took_s, 0.001) * columns)
        signs[at : at + len(f"{tick_s}")] = f"{tick_s}"
    return Text(f"{'seconds':{_LABEL}}{''.join(signs).rstrip()}", style="dim")


def _node_lane(report: LifeReport, node: str, column_s: float, columns: int) -> Text:
    cells: list[tuple[str, str]] = [(" ", "")] * columns
    for span in sorted(report.spans, key=lambda span: span.from_s):
        if span.node == node:
            for column in _columns(span.from_s, span.to_s, column_s, columns):
                cells[column] = _GLYPHS[span.role]
    for failover in report.failovers:
        if failover.victim == node:
            cells[min(int(failover.at_s / column_s), columns - 1)] = ("✗", "bold red")
    return _lane(node, cells)


def _wait_lane(
    report: LifeReport, label: str, names: Iterable[str], column_s: float, columns: int
) -> Text:
    worst_s = [0.0] * columns
    for wait in report.waits:
        if wait.stream in names:
            for column in _columns(wait.from_s, wait.to_s, column_s, columns):
                worst_s[column] = max(worst_s[column], wait.took_s)
    return _lane(label, [_level(wait_s) for wait_s in worst_s])


def _level(wait_s: float) -> tuple[str, str]:
    if wait_s < NOTABLE_S:
        return "·", "dim"
    return next((sign, style) for below_s, sign, style in _LEVELS if wait_s < below_s)


def _columns(from_s: float, to_s: float, column_s: float, columns: int) -> range:
    first = max(0, min(int(from_s / column_s), columns - 1))
    return range(first, max(first + 1, min(int(to_s / column_s) + 1, columns)))


def _lane(label: str, cells: Iterable[tuple[str, str]]) -> Text:
    return Text.assemble(f"{label:{_LABEL}}", *cells)


# -- one event after the other


def _protection(event: Protection) -> Iterator[Text]:
    title = f"{event.at_s:.1f} s  Resync: {event.secondary} joins {event.primary}"
    yield Text(f"{title} ({event.steps} steps)", style="bold")
    stops = " + ".join(_ms(stop_s) for stop_s in event.stops_s) or "never"
    protected_s = event.launched_s + event.protected_s
    yield Text(f"  protected after {protected_s:.2f} s, proven {_ms(event.proven_s)} later")
    yield Text(f"  the guest was paused {stops}; longest wait {_worst(event.waits_s)}")


def _worst(waits_s: Mapping[str, float]) -> str:
    if not waits_s:
        return f"under {_ms(NOTABLE_S)}"
    stream = max(waits_s, key=lambda name: waits_s[name])
    return f"{_ms(waits_s[stream])} ({stream})"


def _failover(event: Failover, width: int) -> Iterator[Text]:
    title = f"{event.at_s:.1f} s  Failover: {_what(event)}"
    yield Text(f"{title}, survivor {event.survivor} ({event.steps} steps)", style="bold")
    yield Text(
        f"  after {event.protected_s:.1f} s under protection, with {event.checkpoints} checkpoints"
    )
    moments = [("its end is shown", event.seen_s), ("QEMU says RESUME", event.resumed_s)]
    moments += [("service restored", event.restored_s), ("plan finished", event.finished_s)]
    waits = [(f"{label}: waited", _longest(event, names)) for label, names in _STREAMS.items()]
    if PING not in event.outages_s:
        waits = waits[1:]
    most_s = max(event.finished_s, NOTABLE_S, *event.outages_s.values())
    columns = max(10, width - 40)
    for label, at_s in moments:
        if at_s is not None:
            yield _bar(label, at_s, " " * round(at_s / most_s * columns) + "●", "green")
    for label, wait_s in waits:
        style = "red" if wait_s >= _LEVELS[2][0] else "yellow"
        yield _bar(label, wait_s, "━" * max(1, round(wait_s / most_s * columns)), style)
    yield Text(
        f"  {event.survived} of {event.connections} connections live on;"
        f" {event.acknowledged} writes acknowledged so far, {_read_back(event)}"
    )


def _read_back(event: Failover) -> str:
    match event.missing:
        case None:
            return "which the guest could not read back"
        case 0:
            return "all read back"
        case missing:
            return f"{missing} not read back"


def _what(event: Failover) -> str:
    if event.fault == "cut cable":
        return "the cable between the hosts is cut"
    how, _, role = event.fault.partition(" ")
    number = "SIGKILL" if how == "kill" else "SIGSTOP"
    return f"{number} to the {role} on {event.victim}"


def _longest(event: Failover, names: Iterable[str]) -> float:
    return max((event.outages_s.get(name, 0.0) for name in names), default=0.0)


def _bar(label: str, took_s: float, drawing: str, style: str) -> Text:
    figure = f"{took_s * 1000:8.1f} ms" if took_s else "under 20 ms"
    return Text.assemble(f"  {label:22}{figure}  ", (drawing if took_s else "", style))


def _ms(took_s: float) -> str:
    return f"{took_s * 1000:.0f} ms"


def _verdict(report: LifeReport) -> Iterator[Text]:
    for what in report.not_shown:
        yield Text(f"Not shown here: {what}", style="dim")
    lost = "an unknown number" if report.lost_writes is None else str(report.lost_writes)
    done = f"{len(report.failovers)} of {report.failovers_wanted} failovers"
    style = "bold green" if report.ok else "bold red"
    yield Text(f"{done}, {report.acknowledged} acknowledged writes, {lost} lost", style=style)
    if report.error is not None:
        yield Text(f"It ended early: {report.error}", style="red")
    if report.logs is not None:
        yield Text(f"Logs: {report.logs}")

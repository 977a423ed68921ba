"""Figures, and how two ways to do the same are timed side by side."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import final

import attrs


@final
@attrs.frozen(kw_only=True)
class Figure:
    """One number that a benchmark found."""

    benchmark: str
    "Which benchmark."
    what: str
    "What was measured."
    value: float
    unit: str
    runs: int
    "How many runs it is the median of."
    goal: str = ""
    "What it should be; empty where nothing was promised."
    ratio: float | None = None
    "The value divided by the most that it should be; None where there is no such limit."
    spread: tuple[float, float] | None = None
    "The lowest and the highest run, if there were several."
    size: int | None = None
    "With how many pairs, disks and cards, or MiB of RAM; None where that is always the same."


def timed_s(work: Callable[[], object]) -> float:
    """How long a call takes, in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


async def async_timed_s(work: Callable[[], Awaitable[object]]) -> float:
    """How long it takes until what a call gives is there, in seconds."""
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


@contextmanager
def undisturbed() -> Generator[None]:
    """Keep the collector of garbage out of what is timed, whoever does it."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def compared(
    benchmark: str,
    ours: tuple[str, Sequence[float]],
    theirs: tuple[str, Sequence[float]],
    *,
    at_most: float | None = None,
) -> list[Figure]:
    """Both medians in milliseconds, and ours divided by theirs.

    Args:
        benchmark: Its name.
        ours: What pycolo did, and each run's seconds.
        theirs: What did the same without it; the same number of runs, in turns with ours.
        at_most: What the ratio should not exceed.
    """
    (our_name, our_s), (their_name, their_s) = ours, theirs
    ratio = statistics.median(our_s) / statistics.median(their_s)
    goal = "" if at_most is None else f"at most {at_most:g}"
    return [
        milliseconds(benchmark, our_name, our_s),
        milliseconds(benchmark, their_name, their_s),
        Figure(
            benchmark=benchmark,
            what=f"{our_name} / {their_name}",
            value=ratio,
            unit="",
            runs=len(our_s),
            goal=goal,
            ratio=None if at_most is None else ratio / at_most,
        ),
    ]


def milliseconds(benchmark: str, what: str, runs_s: Sequence[float]) -> Figure:
    """The median of some runs."""
    runs_ms = [run_s * 1000 for run_s in runs_s]
    return Figure(
        benchmark=benchmark,
        what=what,
        value=statistics.median(runs_ms),
        unit="ms",
        runs=len(runs_ms),
        spread=(min(runs_ms), max(runs_ms)) if len(runs_ms) > 1 else None,
    )


def table(figures: Sequence[Figure]) -> str:
    """The figures, one a line; those of many sizes with a column for each size."""
    single = [one for one in figures if one.size is None]
    names = dict.fromkeys(one.benchmark for one in figures if one.size is not None)
    sized = [
        _by_size([one for one in figures if one.size is not None and one.benchmark == name])
        for name in names
    ]
    return "\n\n".join([_aligned(_lines(single))] * bool(single) + sized)


def _lines(figures: Iterable[Figure]) -> list[Sequence[str]]:
    return [
        ("benchmark", "what", "median", "runs", "goal", "of goal"),
        *(
            (f.benchmark, f.what, _text(f.value, f.unit), str(f.runs), f.goal, _ratio(f.ratio))
            for f in figures
        ),
    ]


def _by_size(figures: Sequence[Figure]) -> str:
    """A line for each thing that was measured; its growth is the largest size by the smallest."""
    sizes = sorted({one.size for one in figures if one.size is not None})
    lines: list[Sequence[str]] = [
        (figures[0].benchmark, "unit", *map(str, sizes), "growth", "goal", "of goal")
    ]
    for what in dict.fromkeys(one.what for one in figures):
        found = {one.size: one for one in figures if one.what == what}
        measured = [found[size] for size in sizes if size in found]
        first, last = measured[0], measured[-1]
        growth = last.value / first.value if last is not first and first.value else None
        values = (f"{found[size].value:.4g}" if size in found else "" for size in sizes)
        lines.append((what, last.unit, *values, _ratio(growth), last.goal, _ratio(last.ratio)))
    return _aligned(lines)


def _text(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}".rstrip()


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )

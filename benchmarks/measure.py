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
        ),
    ]


def milliseconds(benchmark: str, what: str, runs_s: Sequence[float]) -> Figure:
    """The median of some runs."""
    value = statistics.median(runs_s) * 1000
    return Figure(benchmark=benchmark, what=what, value=value, unit="ms", runs=len(runs_s))


def table(figures: Iterable[Figure]) -> str:
    """The figures, one a line."""
    lines = [("benchmark", "what", "median", "runs", "goal")]
    lines += [
        (f.benchmark, f.what, f"{f.value:.4g} {f.unit}".rstrip(), str(f.runs), f.goal)
        for f in figures
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )

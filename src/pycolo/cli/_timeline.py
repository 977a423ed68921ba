"""`pycolo report` on a terminal: one line for each step, on a common time axis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.text import Text

from pycolo.catalogue import goal_words
from pycolo.render.timeline import Call, Moment, State, StepLine, Timeline, duration

_LEAST: Final = 10
_MOST: Final = 40
_BESIDE: Final = 62
_STYLES: Final[dict[State, tuple[str, str]]] = {
    "done": ("done     ", "green"),
    "refused": ("refused  ", "bold red"),
    "unknown": ("unknown  ", "bold yellow"),
    "timed-out": ("timed out", "bold red"),
    "not-run": ("not run  ", "dim"),
}


def lines(timeline: Timeline, width: int) -> Iterator[Text]:
    """The lines of the drawing.

    Args:
        timeline: The journal's contents.
        width: The width of the drawing in columns.
    """
    columns = max(_LEAST, min(_MOST, width - _BESIDE))
    plan = timeline.plan
    yield Text(f"{plan.procedure}: pair {plan.pair.name}, {timeline.at}", style="bold")
    yield Text(f"{'at':>9}  {'took':>9}  {'':{columns}}", style="dim")
    shown: list[StepLine | Moment] = [*timeline.steps, *timeline.recovery, *timeline.moments]
    reached = [one for one in shown if _at(one) is not None]
    for one in sorted(reached, key=lambda one: _at(one) or 0.0):
        yield from _shown(one, timeline, columns)
    left = sum(step.from_s is None for step in timeline.steps)
    if left:
        whole = len(timeline.steps)
        yield Text(f"{'':22}{'':{columns}}  not reached: {left} of {whole} steps", style="dim")
    if timeline.restored_s is not None:
        yield Text(f"the guest serves again after {duration(timeline.restored_s)}", style="green")
    yield Text(timeline.verdict, style="bold green" if timeline.end == "done" else "bold red")


def _at(one: StepLine | Moment) -> float | None:
    return one.at_s if isinstance(one, Moment) else one.from_s


def _shown(one: StepLine | Moment, timeline: Timeline, columns: int) -> Iterator[Text]:
    if isinstance(one, Moment):
        words = f"{one.node} {one.name} {one.words}".rstrip()
        place = min(int(one.at_s / max(timeline.took_s, 1e-6) * columns), columns - 1)
        bar = " " * place + "◆" + " " * (columns - place - 1)
        yield Text.assemble(f"{duration(one.at_s):>9}  {'':9}  ", (f"{bar}  {words}", "magenta"))
        return
    yield _step(one, timeline, columns)
    indent = f"{'':22}{'':{columns}}  "
    if one.words:
        yield Text(f"{indent}{one.words}", style="dim")
    if one.explanation is not None:
        entry = one.explanation.entry
        yield Text(f"{indent}{entry.name}: {entry.meaning}", style="yellow")
        yield Text(f"{indent}reached: {goal_words(entry)}; {entry.remedy}", style="yellow")
    yield from (
        Text(f"{indent}{_open(call)}", style="bold yellow") for call in one.calls if _is_open(call)
    )


def _is_open(call: Call) -> bool:
    return call.to_s is None


def _open(call: Call) -> str:
    return f"{call.words}: no answer is written, whether it took effect is unknown"


def _step(step: StepLine, timeline: Timeline, columns: int) -> Text:
    from_s = step.from_s or 0.0
    to_s = timeline.took_s if step.to_s is None else step.to_s
    word, style = _STYLES[step.state]
    whole = max(timeline.took_s, 1e-6)
    first = min(int(from_s / whole * columns), columns - 1)
    length = max(1, min(round((to_s - from_s) / whole * columns), columns - first))
    bar = " " * first + "━" * length + " " * (columns - first - length)
    took = "" if step.to_s is None else duration(to_s - from_s)
    return Text.assemble(
        f"{duration(from_s):>9}  {took:>9}  ", (bar, style), "  ", (word, style), f" {step.address}"
    )

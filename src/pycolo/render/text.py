"""Plans, reports, snapshots and differences for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias, assert_never, final

import attrs

from pycolo._printable import one_line, page, printable
from pycolo.catalogue import EVERY, Entry, Explanation, goal_words
from pycolo.conditions import describe
from pycolo.diff import Change, Diff
from pycolo.differences import Difference, Drift
from pycolo.plan import Check, Execute, Plan, Record, RunHost, Step, Wait
from pycolo.render._words import (
    action_words,
    change_words,
    command_words,
    record_words,
    recoveries_at,
    snapshot_words,
    state_words,
)
from pycolo.result import Done, NotRun, Outcome, Refused, Report, TimedOut, Unknown
from pycolo.snapshot import Live, Snapshot
from pycolo.standing import standing

WIDTH = 100

Style: TypeAlias = Literal["strong", "faint", "good", "bad", "node"]
_CODES: dict[Style, str] = {"strong": "1", "faint": "2", "good": "32", "bad": "31", "node": "36"}


@final
@attrs.frozen
class _Pen:
    """Puts ANSI styles around words, or returns them unchanged without `colour`."""

    colour: bool

    def __call__(self, style: Style, words: str) -> str:
        return f"\033[{_CODES[style]}m{words}\033[0m" if self.colour else words


def render(plan: Plan, *, colour: bool = False) -> str:
    """Show a plan: a header, then every step with its reason, its limit and its address.

    A bar before steps marks a range in which the guest is paused or has no network. Before its
    first step are the recovery steps that are sent if execution ends inside the range.

    Args:
        plan: Any plan.
        colour: Use ANSI styles.

    Returns:
        The text, which ends with a newline.
    """
    pen = _Pen(colour)
    lines = [*_header(plan, pen), ""]
    lines += _steps(plan, pen) if plan.steps else ["nothing to do"]
    return page(lines, colour=colour)


def _header(plan: Plan, pen: _Pen) -> Iterator[str]:
    names = " and ".join(node.name for node in plan.pair.nodes)
    yield pen("strong", f"{plan.procedure}: pair {plan.pair.name} on {names}")
    versions = ", ".join(f"{node} {version}" for node, version in plan.qemu.items())
    yield f"  qemu     {versions or 'not known'}"
    yield f"  dialect  {plan.dialect}"
    yield f"  from     {snapshot_words(plan.prior_state) or 'nothing known'}"
    yield f"  to       {snapshot_words(plan.planned_state) or 'nothing known'}"


def _steps(plan: Plan, pen: _Pen) -> Iterator[str]:
    open_until: list[str] = []
    digits = len(str(len(plan.steps)))
    for number, step in enumerate(plan.steps, 1):
        for recovery in recoveries_at(plan, step.address):
            open_until.append(recovery.last)
            yield pen("faint", f"  if execution ends before {one_line(recovery.last)} is done:")
            yield from (f"    {pen('node', r.node)}  {_what(r, pen)}" for r in recovery.steps)
            yield pen("faint", f"    {one_line(recovery.why)}")
        bar = "|" if open_until else " "
        head, *rest = _step(step, pen)
        yield f"{bar} {number:>{digits}}. {head}"
        yield from (f"{bar} {' ' * digits}  {line}" for line in rest)
        open_until = [last for last in open_until if last != step.address]
        if step.address == plan.restored_after:
            yield pen("good", "  -- the guest serves again --")


def _step(step: Step, pen: _Pen) -> Iterator[str]:
    yield f"{pen('node', step.node)}  {_what(step, pen)}"
    for line in textwrap.wrap(one_line(step.why), WIDTH - 8) or [""]:
        yield pen("faint", line)
    yield from _details(step)
    limit = "" if isinstance(step, Check) else f", at most {step.limit_s:g} s"
    # Consecutive steps with the same batch are sent together.
    batch = step.batch if isinstance(step, Execute | Check) else None
    together = "" if batch is None else f", batch {one_line(batch)}"
    yield pen("faint", f"[{one_line(step.address)}{limit}{together}]")


def _what(step: Step, pen: _Pen) -> str:
    match step:
        case Execute(command=command, oob=oob):
            return pen("strong", command_words(command)) + (" (out of band)" if oob else "")
        case Wait(until=until):
            return f"wait until {one_line(describe(until))}"
        case Check(condition=condition):
            return f"require that {one_line(describe(condition))}"
        case RunHost(action=action):
            return f"on its host: {action_words(action)}"
        case Record(change=change):
            return pen("strong", one_line(change_words(change)))
        case _:
            assert_never(step)


def _details(step: Step) -> Iterator[str]:
    if isinstance(step, Execute):
        for refusal in step.accepts:
            yield f"accepted reply: {refusal.error_class} with {refusal.text!r}"
        for yank in step.rescue:
            yield f"without an answer in time: {command_words(yank)} (out of band)"
    if isinstance(step, Wait) and step.unless is not None:
        yield f"give up if {one_line(describe(step.unless))}"
    if isinstance(step, Wait) and step.stall_s is not None:
        yield f"give up if no byte arrives for {step.stall_s:g} s"
    if isinstance(step, Wait) and step.answer_s is not None:
        yield f"give up if a QEMU gives no answer for {step.answer_s:g} s"
    if isinstance(step, Record) and step.needs is not None:
        yield one_line(f"with evidence that {step.needs.instance} has ended")
    if not isinstance(step, Check) and step.may_fail:
        yield "execution continues even if this step fails"


def render_report(report: Report, *, colour: bool = False, is_brief: bool = False) -> str:
    """Show the outcome of a plan: its steps, the recovery steps, and how execution ended.

    Each step has one line, and two more if the catalogue explains QEMU's message. The last line
    says how execution ended. If a step ended it, the last line says why, and the step's own line
    does not.

    Args:
        report: Any report.
        colour: Use ANSI styles.
        is_brief: Show no steps except one that failed, and no recovery steps.

    Returns:
        The text, which ends with a newline.
    """
    pen = _Pen(colour)
    failed = () if report.failed is None else (report.failed,)
    shown = failed if is_brief else report.outcomes
    lines = [line for address in shown for line in _outcome(report, address, pen)]
    if report.recovery and not is_brief:
        lines.append("recovery:")
        lines += [
            "  " + line for address in report.recovery for line in _outcome(report, address, pen)
        ]
    lines.append(pen("good" if report.failed is None else "bad", one_line(report.advice)))
    return page(lines, colour=colour)


def _outcome(report: Report, address: str, pen: _Pen) -> Iterator[str]:
    outcome = report.outcomes.get(address) or report.recovery[address]
    reason = "" if address == report.failed else _reason(outcome)
    yield f"{outcome_words(outcome, colour=pen.colour)}  {one_line(address)}{reason}"
    known = report.explanation(address)
    if known is not None:
        entry = known.entry
        yield pen("faint", f"  {entry.name}: {entry.meaning} (qemu-behaviour {entry.source})")
        yield pen("faint", f"  reached: {goal_words(entry)}; {entry.remedy}")


def render_explanations(explanations: Sequence[Explanation], *, colour: bool = False) -> str:
    """Show the explanations of a message of QEMU, the best one first.

    Args:
        explanations: The explanations from `pycolo.catalogue.explain`.
        colour: Use ANSI styles.

    Returns:
        The text, which ends with a newline; one line if there is no explanation.
    """
    pen = _Pen(colour)
    if not explanations:
        return "nothing is known of this message\n"
    return "\n".join(page(_explained(one, pen), colour=colour) for one in explanations)


def _explained(known: Explanation, pen: _Pen) -> Iterator[str]:
    entry = known.entry
    yield pen("strong", entry.name) + ("" if known.fits else " (not known from there)")
    yield f"  message  {one_line(known.text)}" + ("" if known.whole else " (a part of it)")
    yield f"  known    {_known_from(entry)}"
    yield f"  means    {entry.meaning}"
    yield f"  reached  {goal_words(entry)}"
    yield f"  do       {entry.remedy}"
    yield f"  source   qemu-behaviour {entry.source}"


def _known_from(entry: Entry) -> str:
    commands = ", ".join("any command" if c == EVERY else c for c in entry.commands)
    match entry.place:
        case "reply":
            return f"from {commands}"
        case "query":
            return f"from {commands}, as an error that it tells of"
        case "stderr":
            return "on QEMU's standard error"


def outcome_words(outcome: Outcome, *, colour: bool = False) -> str:
    """An outcome in a word or two, and how long the step took, in columns of equal width."""
    pen = _Pen(colour)
    match outcome:
        case Done(took_s=took_s):
            return pen("good", "done     ") + f"{took_s:8.3f} s"
        case Refused(took_s=took_s):
            return pen("bad", "refused  ") + f"{took_s:8.3f} s"
        case Unknown(took_s=took_s):
            return pen("bad", "unknown  ") + f"{took_s:8.3f} s"
        case TimedOut(took_s=took_s):
            return pen("bad", "timed out") + f"{took_s:8.3f} s"
        case NotRun():
            return pen("faint", "not run  ") + " " * 10
        case _:
            assert_never(outcome)


def _reason(outcome: Outcome) -> str:
    match outcome:
        case Done(reply=""):
            return ""
        case Done(reply=reply):
            return f": so already ({one_line(reply)})"
        case NotRun():
            return ""
        case Refused(reason=reason) | Unknown(reason=reason) | TimedOut(reason=reason):
            return f": {one_line(reason)}"
        case _:
            assert_never(outcome)


def render_snapshot(snapshot: Snapshot, *, colour: bool = False) -> str:
    """Show the state and the record of each node, and how the pair stands.

    Args:
        snapshot: Any snapshot.
        colour: Use ANSI styles.

    Returns:
        The text, which ends with a newline.
    """
    pen = _Pen(colour)
    lines: list[str] = []
    for name, state in snapshot.nodes.items():
        lines.append(f"{pen('node', name)}: {state_words(state)}")
        if isinstance(state, Live):
            lines += [f"  {label:<10}  {words}" for label, words in facts(state) if words]
        if name in snapshot.records:
            lines.append(f"  {'record':<10}  {record_words(snapshot.records[name])}")
    return page([*lines, verdict(snapshot)], colour=colour)


def facts(live: Live) -> tuple[tuple[str, str], ...]:
    """The facts about a QEMU that answers, each as a label and its words, which may be empty."""
    mode = f"{live.colo_mode}, COLO_EXIT seen" if live.colo_exited else live.colo_mode
    return (
        ("qemu", f"{live.version} {one_line(live.instance)}".strip()),
        ("run state", live.run_state),
        ("colo", mode),
        ("migration", _migration(live)),
        ("disks", _disks(live)),
        ("filters", _objects(live)),
        ("chardevs", _chardevs(live)),
        ("exports", ", ".join(sorted(live.exports))),
        ("jobs", _jobs(live)),
    )


def _disks(live: Live) -> str:
    disks = []
    for quorum, children in sorted(live.children.items()):
        pending = ", commit pending" if quorum in live.commit_pending else ""
        parts = ", ".join(f"{child.name} {child.node}" for child in children)
        disks.append(f"{quorum} ({parts}{pending})")
    return ", ".join(disks)


def _objects(live: Live) -> str:
    return ", ".join(name if o.on else f"{name} (off)" for name, o in sorted(live.objects.items()))


def _chardevs(live: Live) -> str:
    named = sorted(live.chardevs.items())
    return ", ".join(name if connected else f"{name} (not connected)" for name, connected in named)


def _jobs(live: Live) -> str:
    return ", ".join(
        f"{name} {job.status}" + ("" if job.error is None else f" ({one_line(job.error)})")
        for name, job in sorted(live.jobs.items())
    )


def _migration(live: Live) -> str:
    """The migration's status, with QEMU's error and the reasons that block a migration."""
    said = [live.migration_error or "", *live.migration_blockers]
    return one_line(": ".join([live.migration, *filter(None, said)]))


def verdict(snapshot: Snapshot) -> str:
    """How the pair in a snapshot stands, on one line: `STATE: ...`."""
    return one_line(standing(snapshot).words)


def render_drift(drift: Drift, *, colour: bool = False) -> str:
    """Show how a live pair differs from its declaration.

    `-` marks parts that are missing, `+` parts that are live and not declared, and `~` parts that
    differ from their declaration.

    Args:
        drift: The drift from `pycolo.compiler.drift`.
        colour: Use ANSI styles.

    Returns:
        The text, which ends with a newline; one line if there is no difference.
    """
    pen = _Pen(colour)
    lines = [pen("bad", f"- {_part(d)}") for d in drift.missing]
    lines += [pen("good", f"+ {_part(d)}") for d in drift.stray]
    lines += [f"~ {_part(d)}: {d.declared} declared, {d.live} live" for d in drift.changed]
    return page(lines or ["as declared"], colour=colour)


def _part(difference: Difference) -> str:
    return one_line(f"{difference.node}: {difference.kind} {difference.label}")


def render_diff(difference: Diff, *, colour: bool = False) -> str:
    """Show how a second plan differs from a first.

    `-` marks steps that only the first plan has, `+` steps that only the second has, `>` steps in
    another place, and `~` the differences within a step that both have.

    Args:
        difference: The difference from `pycolo.diff`.
        colour: Use ANSI styles.

    Returns:
        The text, which ends with a newline; one line if there is no difference.
    """
    pen = _Pen(colour)
    lines = [_changed("plan", change) for change in difference.header]
    lines += [pen("bad", f"- {summary(step)}") for step in difference.removed]
    lines += [pen("good", f"+ {summary(step)}") for step in difference.added]
    lines += [
        f"> {one_line(moved.address)}: step {moved.before + 1} -> {moved.after + 1}"
        for moved in difference.moved
    ]
    lines += [
        _changed(step.address, change) for step in difference.changed for change in step.changes
    ]
    return page(lines or ["no difference"], colour=colour)


def summary(step: Step) -> str:
    """One step on one line: its address and what it does."""
    return one_line(f"{step.address}: {_what(step, _Pen(colour=False))}")


def _changed(where: str, change: Change) -> str:
    return printable(f"~ {one_line(where)}: {change}")

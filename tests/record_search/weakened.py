"""The rules of the record, each weakened: what a search must find a counterexample for."""

from __future__ import annotations

import collections
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import attrs
import pytest
from tests.record_search.plans import Op, Ops, Rec
from tests.record_search.search import Limits, Rules

from pycolo import record
from pycolo.compiler import dialects, protect
from pycolo.compiler._draft import Draft
from pycolo.evidence import Victim
from pycolo.plan import Procedure
from pycolo.record import (
    DamagedRecord,
    Files,
    NoRecord,
    PairRecord,
    RecordState,
    UnreadRecord,
)

ALONE = ("failover", "switch-over")
JOIN = ("start", "resume", "converge")
SHORT = Limits(faults=1, procedures=3)
THREE = Limits(nodes=3, faults=1, procedures=3)
WIDEN = Limits(allowed=frozenset(("stop", "start", "failover", "launch", "dies")))
DROPS = Limits(
    faults=3, procedures=3, allowed=frozenset(("stop", "start", "failover", "drops", "dies"))
)
Patch = Callable[[pytest.MonkeyPatch], None]
Change = Callable[[Procedure, Ops], Ops]


class Weak(NamedTuple):
    """One rule that does not hold."""

    limits: Limits
    change: Change | None = None
    "What is done to the operations of each plan."
    patch: Patch | None = None
    "What is done to the compiler before it is asked."
    rules: Rules = Rules()
    "What hosts and the executor do not hold to."


# -- a step that the compiler does not emit --------------------------------------------------------


class Left(NamedTuple):
    """Record steps that the compiler does not emit."""

    procedures: tuple[str, ...]
    what: str
    "Their name."
    nth: int | None = None
    "Which one of that name in a plan, from 0; None for all."

    def has(self, procedure: str, what: str, nth: int) -> bool:
        """Whether a step is one of them."""
        named = procedure in self.procedures and what == self.what
        return named and self.nth in (None, nth)


def when_emitted(
    monkeypatch: pytest.MonkeyPatch, wanted: Callable[[Draft, str, str, PairRecord, int], bool]
) -> None:
    """Ask before each record step whether the compiler may emit it.

    Args:
        monkeypatch: Undoes it.
        wanted: Gets the draft, the node, the step's name, the record, and how many steps of that
            name came before it.
    """
    emit = Draft.record
    counts = weakref.WeakKeyDictionary[Draft, collections.Counter[str]]()

    def emitted(
        self: Draft,
        node: str,
        what: str,
        becomes: PairRecord,
        why: str,
        *,
        needs: Victim | None = None,
        may_fail: bool = False,
    ) -> str:
        count = counts.setdefault(self, collections.Counter())
        nth = count[what]
        count[what] += 1
        if not wanted(self, node, what, becomes, nth):
            return ""
        return emit(self, node, what, becomes, why, needs=needs, may_fail=may_fail)

    monkeypatch.setattr(Draft, "record", emitted)


def without(*left: Left) -> Patch:
    """Have the compiler leave out record steps."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        when_emitted(
            monkeypatch,
            lambda draft, _node, name, _becomes, nth: (
                not any(one.has(draft.procedure, name, nth) for one in left)
            ),
        )

    return patch


LEFT_OUT = {
    "start, the secondary's file: joining": (THREE, Left(JOIN, "joining", 0)),
    "start, the primary's file: joining": (SHORT, Left(JOIN, "joining", 1)),
    "start, the primary's file: protected": (WIDEN, Left(JOIN, "protected", 0)),
    "start, the secondary's file: protected": (SHORT, Left(JOIN, "protected", 1)),
    "failover, the survivor's file": (SHORT, Left(ALONE, "sole")),
    "stop, the secondary's file": (SHORT, Left(("stop",), "out")),
    "stop, the primary's file": (SHORT, Left(("stop",), "sole")),
    "launch, the others' files": (SHORT, Left(("launch",), "out")),
    "launch, the own file": (SHORT, Left(("launch",), "sole")),
    "clean, wherever it is written": (SHORT, Left((*ALONE, *JOIN), "clean")),
}
"Each record step of each procedure, taken out, and how far a search must go to see it."

SPARE = {
    "failover, the peer's file": Left(ALONE, "out"),
    "failover, clean": Left(ALONE, "clean"),
    "start, clean": Left(JOIN, "clean"),
}
"""Record steps without which nothing is lost and nobody is stuck, and why.

The peer's file only denies, and the survivor's own higher epoch denies as well. `clean` is written
by whichever of the two procedures comes first; without both of them it is never written.
"""


# -- steps in another order ------------------------------------------------------------------------


def _places(ops: tuple[Op, ...], kind: str, what: str = "") -> list[int]:
    return [n for n, op in enumerate(ops) if op.kind == kind and op.address.endswith(what)]


def before(procedures_: tuple[str, ...], first: tuple[str, str], second: tuple[str, str]) -> Change:
    """Put the first operation of one sort before the first one of another sort."""

    def change(procedure: Procedure, plan: Ops) -> Ops:
        moved, target = _places(plan.ops, *first), _places(plan.ops, *second)
        if procedure not in procedures_ or not moved or not target or moved[0] < target[0]:
            return plan
        ops = list(plan.ops)
        ops.insert(target[0], ops.pop(moved[0]))
        return attrs.evolve(plan, ops=tuple(ops))

    return change


def widened_secondary_first(procedure: Procedure, plan: Ops) -> Ops:
    """Make the secondary eligible by its own file first."""
    places = _places(plan.ops, "record", "/protected")
    if procedure not in JOIN or len(places) < 2:
        return plan
    ops = list(plan.ops)
    ops.insert(places[0], ops.pop(places[1]))
    return attrs.evolve(plan, ops=tuple(ops))


def widened_before_the_checkpoint(procedure: Procedure, plan: Ops) -> Ops:
    """Make the secondary eligible before a checkpoint was seen."""
    seen = _places(plan.ops, "checkpoint")
    if procedure not in JOIN or not seen:
        return plan
    moved = [op for op in plan.ops if op.address.endswith("/protected") and op.kind == "record"]
    rest = [op for op in plan.ops if op not in moved]
    place = next(n for n, op in enumerate(rest) if op.kind == "checkpoint")
    return attrs.evolve(plan, ops=tuple(rest[:place] + moved + rest[place:]), recovery=())


SWAPPED = {
    "the secondary's file first, when it becomes eligible": Weak(
        WIDEN, change=widened_secondary_first
    ),
    "eligible before a proven checkpoint": Weak(
        Limits(begin="alone"), change=widened_before_the_checkpoint
    ),
    "the survivor answers before the evidence": Weak(
        Limits(), change=before(ALONE, ("answers", ""), ("dead", ""))
    ),
    "the record after the guest continues": Weak(
        SHORT, change=before(ALONE, ("alone", ""), ("record", "/sole"))
    ),
    "clean before QEMU has shown the merge": Weak(
        Limits(procedures=3), change=before(ALONE, ("record", "/clean"), ("merged", ""))
    ),
}
"Steps that were swapped."


# -- rules that hosts, the executor or the compiler do not hold to ---------------------------------


def may_fail(procedures_: tuple[str, ...], what: str) -> Change:
    """Continue where a record cannot be written."""

    def change(procedure: Procedure, plan: Ops) -> Ops:
        if procedure not in procedures_:
            return plan
        places = _places(plan.ops, "record", what)
        ops = [op._replace(may_fail=op.may_fail or n in places) for n, op in enumerate(plan.ops)]
        return attrs.evolve(plan, ops=tuple(ops))

    return change


def evidence_for_others(procedure: Procedure, plan: Ops) -> Ops:
    """Boot with evidence that the others have ended, in place of writing their files."""
    if procedure != "launch":
        return plan
    ops: list[Op] = []
    for op in plan.ops:
        if op.kind != "record" or not op.address.endswith("/out"):
            ops.append(op)
        elif isinstance(op.expects, Rec) and op.node in dict(op.expects.eligible):
            ops.append(Op("dead", op.node, dict(op.expects.eligible)[op.node]))
    return attrs.evolve(plan, ops=tuple(ops))


def only_what_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write no record where the file says the same but for its revision."""

    def is_new(draft: Draft, node: str, _name: str, becomes: PairRecord, _nth: int) -> bool:
        found = draft.now.records.get(node)
        if not isinstance(found, PairRecord):
            return True
        return attrs.evolve(found, revision=becomes.revision) != becomes

    when_emitted(monkeypatch, is_new)


def proven_without_joining(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prove a pair again, with its way out of COLO, while the secondary is eligible."""
    without(Left(JOIN, "joining"))(monkeypatch)
    for module in (protect, dialects):
        monkeypatch.setattr(module, "is_recorded", lambda *_: False)


def unread_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a file that could not be read for one that is not there."""
    may_boot = record.may_boot

    def weak(files: Files, node: str, first: str) -> tuple[str, ...]:
        taken = {n: NoRecord() if isinstance(s, UnreadRecord) else s for n, s in files.items()}
        return may_boot(taken, node, first)

    monkeypatch.setattr(record, "may_boot", weak)


def sole_by_any_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boot a node that another one's file names as the only eligible one."""
    may_boot = record.may_boot

    def weak(files: Files, node: str, first: str) -> tuple[str, ...]:
        top = record.highest(files)
        if top is not None and top.is_sole and top.holder == node and top.commit == "clean":
            return ()
        return may_boot(files, node, first)

    monkeypatch.setattr(record, "may_boot", weak)


def vouched_by_any_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a node whose own file is damaged continue by its peer's."""
    may_run_alone = record.may_run_alone

    def weak(files: Files, node: str, instance: str, *, leads: bool) -> Victim | None:
        own: RecordState | None = files.get(node)
        top = record.highest(files)
        damaged = isinstance(own, DamagedRecord | NoRecord)
        if damaged and top is not None and top.eligible.get(node) == instance:
            others = [(n, i) for n, i in top.eligible.items() if n != node]
            found = [Victim(node=n, instance=i, epoch=top.epoch) for n, i in others]
            return found[0] if found else None
        return may_run_alone(files, node, instance, leads=leads)

    monkeypatch.setattr(record, "may_run_alone", weak)


WEAKENED = {
    "stop where the secondary's file cannot be written": Weak(
        SHORT, change=may_fail(("stop",), "/out")
    ),
    "launch where another file cannot be written": Weak(
        SHORT, change=may_fail(("launch",), "/out")
    ),
    "launch with evidence in place of a write": Weak(
        Limits(procedures=3), change=evidence_for_others
    ),
    "write only what changes": Weak(Limits(), patch=only_what_changes),
    "a way out of COLO while the secondary is eligible": Weak(SHORT, patch=proven_without_joining),
    "a recovery over a reopened session without reading the record": Weak(
        DROPS, rules=Rules(reads_after_reopening=False)
    ),
    "no compare-and-swap": Weak(SHORT, rules=Rules(compares=False)),
    "a spawn without reading the record": Weak(
        Limits(faults=3, procedures=5, allowed=frozenset(("launch", "failover", "start", "dies"))),
        rules=Rules(reads_before_spawn=False),
    ),
    "evidence that is not true": Weak(SHORT, rules=Rules(evidence_is_true=False)),
    "a file that is not read taken for absent": Weak(
        Limits(faults=1, procedures=3, damages=1), patch=unread_is_absent
    ),
    "sole by another's file": Weak(
        Limits(faults=1, procedures=4, damages=1), patch=sole_by_any_file
    ),
    "a peer's file that speaks for a damaged one": Weak(
        Limits(procedures=3, damages=1), patch=vouched_by_any_file
    ),
}
"The rules, each weakened in one place."


@contextmanager
def applied(weak: Weak) -> Iterator[None]:
    """Have the rule not hold inside."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if weak.patch is not None:
            weak.patch(monkeypatch)
        yield

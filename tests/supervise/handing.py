"""A search of what happens while a pair is handed from its files to an arbiter, and back.

Two nodes, their files, an arbiter, the two agents, and a person who acts by files. `release` is
decided by its own rules (`_refusal`), and so is a person's failover (`may_run_alone`). A hand-over
reads first and writes step by step, each by compare-and-swap, so that it may be ended, or others
may act, between any two of its steps. It is searched up to a number of steps, since the numbers of
epochs would grow for ever.

It asks two things. Two guests: clients get answers from both nodes. A lost write: a node runs alone
that lacks acknowledged ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeVar

import attrs

from pycolo.errors import CompileError
from pycolo.evidence import instance_of
from pycolo.record import NOT_READ, PairRecord, RecordState, check, may_run_alone
from pycolo.supervise.release import _is_released, _refusal
from pycolo.supervise.shared import SharedRecord

NODES: Final = ("alpha", "beta")
INSTANCES: Final = 2
_NAME: Final = "etcd:c"


class Entry(NamedTuple):
    """A record: in a file, or in the arbiter."""

    epoch: int = 1
    revision: int = 0
    holder: int = 0
    eligible: tuple[tuple[int, int], ...] = ((0, 1), (1, 1))
    managed: bool = False

    @property
    def order(self) -> tuple[int, int]:
        """The epoch and the revision."""
        return self.epoch, self.revision

    @property
    def is_sole(self) -> bool:
        """Whether one node alone may run."""
        return len(self.eligible) == 1

    def real(self) -> PairRecord:
        """The same, as pycolo has it."""
        return PairRecord(
            pair="p",
            birth="b",
            epoch=self.epoch,
            revision=self.revision,
            holder=NODES[self.holder],
            eligible={NODES[node]: _instance(node, n) for node, n in self.eligible},
            phase="alone" if self.is_sole else "protected",
            managed_by=_NAME if self.managed else None,
        )

    def alone(self, node: int, number: int) -> Entry:
        """A node runs alone by it, in the next epoch."""
        return self._replace(
            epoch=self.epoch + 1, revision=0, holder=node, eligible=((node, number),)
        )


class Held(NamedTuple):
    """What the arbiter holds."""

    record: Entry
    released: str = ""
    "Empty, to-files or wanted-back."


class State(NamedTuple):
    """All of it."""

    qemus: tuple[tuple[str, int], ...] = (("primary", 1), ("secondary", 1))
    "What each node runs (none, primary, secondary, alone), and the number of its QEMU."
    files: tuple[Entry, ...] = (Entry(), Entry())
    held: Held | None = None
    backup: Held | None = None
    newest: tuple[int, ...] = (0, 1)
    faults: int = 1
    steps: int = 8
    adopts: tuple[Held | None, tuple[Entry, ...]] | None = None
    "What the holder's agent has read, which is about to adopt the files."
    releases: tuple[tuple[Entry, ...], tuple[str, ...]] | None = None
    "What `release` has read: the files, and what runs."
    wrong: str = ""


def protected(faults: int, steps: int) -> State:
    """A pair that is protected, by its files."""
    return State(faults=faults, steps=steps)


def adopted(faults: int, steps: int) -> State:
    """A pair that is protected, by an arbiter."""
    own = Entry(epoch=2, managed=True)
    held = Held(own._replace(managed=False))
    return State(files=(own, own), held=held, faults=faults, steps=steps)


def unprotected(faults: int, steps: int) -> State:
    """A guest alone on the first node, by an arbiter."""
    own = Entry(epoch=2, eligible=((0, 1),), managed=True)
    held = Held(own._replace(managed=False))
    qemus = (("alone", 1), ("none", 1))
    return State(qemus, (own, own), held, newest=(0,), faults=faults, steps=steps)


def restored(faults: int, steps: int) -> State:
    """Beta has failed over, and then the arbiter was restored from an earlier backup."""
    old = Entry(epoch=2, managed=True)
    served = old.alone(1, 1)
    held = Held(old._replace(managed=False))
    qemus = (("none", 1), ("alone", 1))
    return State(qemus, (old, served), held, newest=(1,), faults=faults, steps=steps)


@attrs.frozen(kw_only=True)
class Rules:
    """What the hand-over holds to; each can be left out."""

    marks: bool = True
    "The files are marked before the arbiter gets the record."
    refuses: bool = True
    "A release is refused where `_refusal` says so."


def found(rules: Rules, start: State) -> tuple[str, list[str], int]:
    """What goes wrong, the way there, and how many states were searched."""
    seen: dict[State, tuple[State, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        s = queue.popleft()
        serving = sum(kind in ("alone", "primary") for kind, _ in s.qemus)
        wrong = s.wrong or ("two guests" if serving > 1 else "")
        if wrong:
            steps: list[str] = []
            at = s
            while (before := seen[at]) is not None:
                at, what = before
                steps.append(what)
            return wrong, steps[::-1], len(seen)
        for what, after in _following(rules, s):
            if after not in seen:
                seen[after] = (s, what)
                queue.append(after)
    return "", [], len(seen)


def _following(rules: Rules, s: State) -> Iterator[tuple[str, State]]:
    if s.faults:
        f = s._replace(faults=s.faults - 1)
        for i, (kind, number) in enumerate(s.qemus):
            if kind != "none":
                yield f"{NODES[i]} ends", f._replace(qemus=_put(s.qemus, i, ("none", number)))
        if s.backup is not None and s.backup != s.held:
            yield "the arbiter is restored", f._replace(held=s.backup)
    if not s.steps:
        return
    n = s._replace(steps=s.steps - 1)
    if s.held is not None and s.backup is None:
        yield "a backup is taken", n._replace(backup=s.held)
    yield from _adopts(rules, n)
    yield from _releases(rules, n)
    for i in (0, 1):
        if s.held is not None and not s.held.released:
            yield from _agent(n, s.held, i)
        yield from _person(n, i)


def _adopts(rules: Rules, s: State) -> Iterator[tuple[str, State]]:
    """The steps of the holder's agent, `Arbitration._adopted`."""
    if s.held is not None and s.held.released == "to-files":
        yield "want", s._replace(held=s.held._replace(released="wanted-back"))
    if s.held is None or s.held.released == "wanted-back":
        top = max(s.files, key=lambda one: one.order)
        own = s.files[top.holder]
        is_begun = s.held is not None and top.order == s.held.record.order
        is_later = s.held is None or top.order >= s.held.record.order
        # An agent that has ended since it marked the files does not go on by itself.
        if is_later and (is_begun or not own.managed):
            yield "adopt: read", s._replace(adopts=(s.held, s.files))
    if s.adopts is None or s.adopts[0] != s.held:
        return
    held, files = s.adopts
    top = max(files, key=lambda one: one.order)
    if held is not None and held.record != top._replace(managed=False):
        stored = held._replace(record=top._replace(managed=False))
        yield "adopt: store", s._replace(held=stored, adopts=(stored, files))
        return
    marked = True
    for i, _ in top.eligible:
        mine = files[i]._replace(managed=True)
        if s.files[i] == files[i] != mine:
            yield f"adopt: mark {NODES[i]}", s._replace(files=_put(s.files, i, mine))
        marked = marked and s.files[i] == mine
    if marked or not rules.marks:
        record = top._replace(epoch=top.epoch + 1, revision=0, managed=False)
        yield "adopt: swap", s._replace(held=Held(record), adopts=None)


def _releases(rules: Rules, s: State) -> Iterator[tuple[str, State]]:
    """The steps of `release`."""
    kinds = tuple(kind for kind, _ in s.qemus)
    if s.held is not None:
        yield "release: read", s._replace(releases=(s.files, kinds))
    if s.releases is None or s.held is None:
        return
    files, ran = s.releases
    record = s.held.record
    if s.held.released != "to-files":
        shared = SharedRecord(
            record=record.real(),
            want="unprotected",
            released="wanted-back" if s.held.released else None,
        )
        read = {NODES[i]: one.real() for i, one in enumerate(files)}
        running = {NODES[i] for i, kind in enumerate(ran) if kind != "none"}
        why = _refusal(shared, read, running, _NAME)
        if why is not None and rules.refuses:
            return
        if not s.held.released:
            record = record._replace(epoch=record.epoch + 1, revision=0)
        yield "release: swap", s._replace(held=Held(record, "to-files"))
        return
    others = [i for i in (0, 1) if i != record.holder]
    for i in (*others, record.holder):
        if s.files[i] == files[i] and not _is_released(files[i].real(), record.real()):
            yield f"release: write {NODES[i]}", s._replace(files=_put(s.files, i, record))


def _agent(s: State, held: Held, i: int) -> Iterator[tuple[str, State]]:
    """A node's agent, whose swap comes first, then its own file, then its QEMU."""
    record, own = held.record, s.files[i]
    if own.epoch > record.epoch:
        # It asks for a person.
        return
    kind, number = s.qemus[i]
    named = dict(record.eligible).get(i)
    mine = record._replace(managed=True)
    if record.is_sole and named is not None and own.order < record.order:
        files = _put(s.files, i, mine)
        if kind in ("primary", "secondary") and named == number:
            yield f"agent of {NODES[i]} serves", _alone(s._replace(files=files), i, number)
            return
        if kind == "none" and named == number + 1:
            yield f"agent of {NODES[i]} boots", _alone(s._replace(files=files), i, named)
            return
    if named is not None and own.order < record.order:
        yield f"agent of {NODES[i]} files", s._replace(files=_put(s.files, i, mine))
    if kind != "none" and named != number:
        # The record gives its QEMU no right.
        yield f"agent of {NODES[i]} ends it", s._replace(qemus=_put(s.qemus, i, ("none", number)))
    if own.order == record.order:
        # It changes only the record that it has in its file.
        yield from _swaps(s, record, i)


def _swaps(s: State, record: Entry, i: int) -> Iterator[tuple[str, State]]:
    """How a node's agent changes the arbiter's record."""
    j, (kind, number) = 1 - i, s.qemus[i]
    named = dict(record.eligible).get(i)
    ended = s.qemus[j][0] == "none"
    if kind in ("primary", "secondary") and named == number and ended and not record.is_sole:
        yield f"agent of {NODES[i]}: serve", _swap(s, record.alone(i, number))
    read_all = record.is_sole or s.files[j].epoch <= record.epoch
    if kind == "none" and ended and record.holder == i and number < INSTANCES and read_all:
        yield f"agent of {NODES[i]}: boot", _swap(s, record.alone(i, number + 1))
    if kind == "alone" and ended and record.holder == i and s.qemus[j][1] < INSTANCES:
        yield f"agent of {NODES[i]}: protect", _swap(*_protected(s, record, i))


def _person(s: State, i: int) -> Iterator[tuple[str, State]]:
    """A person with `pycolo run`, who reaches both hosts, or this one alone."""
    j = 1 - i
    kind, number = s.qemus[i]
    for read in ((0, 1), (i,)):
        files: dict[str, RecordState] = {
            NODES[n]: s.files[n].real() if n in read else NOT_READ for n in (0, 1)
        }
        try:
            check("p", NODES, files)
            if kind in ("primary", "secondary"):
                mine = _instance(i, number)
                victim = may_run_alone(files, NODES[i], mine, leads=kind == "primary")
        except CompileError:
            continue
        top = max((s.files[n] for n in read), key=lambda one: one.order)
        own = s.files[i]
        if kind in ("primary", "secondary"):
            if victim is None or s.qemus[j][0] == "none":
                after = s._replace(files=_put(s.files, i, top.alone(i, number)))
                yield f"person: failover of {NODES[i]}", _alone(after, i, number)
        elif kind == "none" and s.qemus[j][0] == "none" and own.holder == i and own == top:
            if number < INSTANCES and (own.is_sole or len(read) > 1):
                boot = top.alone(i, number + 1)
                # The other node loses its rights first.
                kept = s.files if own.is_sole else _put(s.files, j, boot)
                after = s._replace(files=_put(kept, i, boot))
                yield f"person: launch of {NODES[i]}", _alone(after, i, number + 1)
        elif kind == "alone" and own == top and own.holder == i and _may_join(s, j, len(read)):
            after, record = _protected(s, top, i)
            yield f"person: start of {NODES[j]}", after._replace(files=(record, record))


def _may_join(s: State, j: int, reached: int) -> bool:
    """Whether a person who reaches so many hosts can launch a secondary on a node."""
    return reached > 1 and s.qemus[j][0] == "none" and s.qemus[j][1] < INSTANCES


def _protected(s: State, record: Entry, i: int) -> tuple[State, Entry]:
    """A new secondary, and the record that lets it run alone too."""
    j = 1 - i
    number = s.qemus[j][1] + 1
    eligible = tuple(sorted((*record.eligible, (j, number))))
    qemus = _put(_put(s.qemus, i, ("primary", s.qemus[i][1])), j, ("secondary", number))
    changed = record._replace(revision=record.revision + 1, eligible=eligible)
    return s._replace(qemus=qemus, newest=(0, 1)), changed


def _swap(s: State, record: Entry) -> State:
    return s._replace(held=Held(record))


def _alone(s: State, i: int, number: int) -> State:
    lost = "" if i in s.newest else f"{NODES[i]} lacks writes"
    qemus = _put(s.qemus, i, ("alone", number))
    return s._replace(qemus=qemus, newest=(i,), wrong=s.wrong or lost)


_T = TypeVar("_T")


def _put(values: tuple[_T, ...], i: int, value: _T) -> tuple[_T, ...]:
    return (*values[:i], value, *values[i + 1 :])


def _instance(node: int, number: int) -> str:
    return instance_of("p", NODES[node], number)

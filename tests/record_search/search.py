"""An exhaustive search over what may happen to a pair whose record lies in files.

Nodes with one file each, and two controllers that execute plans of the real compiler, operation by
operation, in every interleaving. A controller may end for ever, or continue later, between any two
of them; any file may be out of reach when it is read; QEMUs die, sessions drop, COLO breaks and
files are damaged. It asks for

- `two serve`: two guests that clients can reach;
- `lost`: a guest that continues, or is booted, without writes that were acknowledged;
- `two holders`: two nodes that are called the holder of one epoch;
- `stuck`: a situation from which no procedures lead back to protection, although a node with all
  data runs or could be booted (`stuck` looks for that apart).
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

from tests.record_search.plans import UNREAD, Compiler, File, Op, Ops, Qemu, Rec

Verdict: TypeAlias = Literal["two serve", "lost", "two holders"]


ALL = frozenset(("launch", "start", "stop", "failover", "switch-over", "dies", "drops", "breaks"))


FAR = 2_000
"A way back that takes so many situations to find is none."


class Limits(NamedTuple):
    """How far the search goes."""

    nodes: int = 2
    faults: int = 2
    procedures: int = 4
    damages: int = 0
    controllers: int = 2
    instances: int = 4
    begin: Literal["protected", "alone", "new"] = "protected"
    states: int = 4_000_000
    allowed: frozenset[str] = ALL
    "Which procedures and faults happen at all, to look closely at a few."


class Rules(NamedTuple):
    """What hosts and the executor hold to; each can be weakened."""

    compares: bool = True
    "A file is written only if it still is what was read."
    reads_before_spawn: bool = True
    "A primary is started only while its own file says so."
    reads_after_reopening: bool = True
    "A recovery over a session that was lost continues only if the own file is unchanged."
    recovers_when_reopened: bool = True
    "A recovery may continue over a session that was lost and opened again."
    evidence_is_true: bool = True
    "Evidence means that the QEMU has ended."


class Colo(NamedTuple):
    """Two QEMUs in COLO."""

    primary: int
    primary_instance: int
    secondary: int
    secondary_instance: int
    in_sync: bool = True
    "Checkpoints work; else the secondary never has the primary's writes."
    stands: bool = True
    "The link; without it the primary's output waits."


class Controller(NamedTuple):
    """A controller inside a plan."""

    plan: Ops
    position: int
    wrote: tuple[tuple[int, File], ...] = ()
    "What it last wrote to each node's file."


class State(NamedTuple):
    """Everything that matters."""

    qemus: tuple[Qemu, ...]
    files: tuple[File, ...]
    colo: Colo | None
    newest: frozenset[int]
    "Nodes that have every acknowledged write, in a QEMU or in their image."
    sessions: tuple[int | None, ...]
    controllers: tuple[Controller | None, ...]
    faults: int
    procedures: int
    damages: int
    holders: frozenset[tuple[int, int]]
    "Epochs and who was written as holder into the holder's own file."
    counts: tuple[int, ...]
    "Instances ever started on each node."
    verdict: Verdict | None = None


class Found(NamedTuple):
    """What a search found."""

    verdict: Verdict | None
    states: int
    path: tuple[str, ...]
    whole: bool
    "Whether it saw everything within its limits."


def initial(limits: Limits) -> State:
    """Where a search begins."""
    n = limits.nodes
    qemus = [Qemu("off", 0, merged=True)] * n
    files: list[File] = [None] * n
    colo: Colo | None = None
    newest, holders = frozenset({0}), frozenset[tuple[int, int]]()
    match limits.begin:
        case "protected":
            qemus[0], qemus[1] = Qemu("prim", 1, merged=True), Qemu("sec", 1, merged=True)
            files[0] = files[1] = Rec(1, 1, 0, ((0, 1), (1, 1)), pending=False, joining=None)
            colo, newest, holders = Colo(0, 1, 1, 1), frozenset({0, 1}), frozenset({(1, 0)})
        case "alone":
            qemus[0] = Qemu("alone", 1, merged=True)
            files[0] = Rec(1, 0, 0, ((0, 1),), pending=False, joining=None)
            holders = frozenset({(1, 0)})
        case "new":
            pass
    return State(
        tuple(qemus),
        tuple(files),
        colo,
        newest,
        (None,) * n,
        (None,) * limits.controllers,
        limits.faults,
        limits.procedures,
        limits.damages,
        holders,
        tuple(qemu.instance for qemu in qemus),
    )


# -- what happens to QEMUs -------------------------------------------------------------------------


def _put(values: tuple[object, ...], n: int, value: object) -> tuple:  # type: ignore[type-arg]  # of whatever the tuple holds
    return (*values[:n], value, *values[n + 1 :])


def _break(colo: Colo | None, node: int) -> Colo | None:
    if colo is not None and node in (colo.primary, colo.secondary):
        return colo._replace(stands=False)
    return colo


def dies(s: State, n: int) -> State:
    """A QEMU ends; overlays that were not merged are lost for whoever boots the image."""
    qemu = s.qemus[n]
    return s._replace(
        qemus=_put(s.qemus, n, Qemu("off", qemu.instance, merged=True)),
        sessions=_put(s.sessions, n, None),
        colo=_break(s.colo, n),
        newest=s.newest if qemu.merged else s.newest - {n},
    )


def goes_alone(s: State, n: int) -> State:
    """A guest leaves COLO and serves: whatever the other one has is stale from now on."""
    qemu = s.qemus[n]
    if qemu.kind not in ("prim", "sec"):
        return s
    merged = qemu.kind != "sec"
    return s._replace(
        qemus=_put(s.qemus, n, Qemu("alone", qemu.instance, merged=merged)),
        newest=frozenset({n}),
        colo=_break(s.colo, n),
        verdict=s.verdict or (None if n in s.newest else "lost"),
    )


def serving(s: State) -> int:
    """How many guests clients can reach."""
    return sum(qemu.kind in ("alone", "prim") for qemu in s.qemus)


def check_answer(s: State) -> Verdict | None:
    """What is wrong with a state."""
    return s.verdict or ("two serve" if serving(s) > 1 else None)


# -- the search ------------------------------------------------------------------------------------


class Search:
    """A search with the compiler and the rules that it was given."""

    def __init__(self, limits: Limits, compiler: Compiler, rules: Rules | None = None) -> None:
        """Begin with nothing seen."""
        self.limits = limits
        self._compiler = compiler
        self._rules = rules or Rules()

    def run(self) -> Found:
        """Breadth first, so that what is found is as short as it can be."""
        begin = initial(self.limits)
        came: dict[State, tuple[State, str] | None] = {begin: None}
        waiting = collections.deque([begin])
        while waiting:
            state = waiting.popleft()
            wrong = check_answer(state)
            if wrong is not None:
                return Found(wrong, len(came), _path(came, state), whole=False)
            if len(came) > self.limits.states:
                return Found(None, len(came), (), whole=False)
            for what, then in self.successors(state):
                if then not in came:
                    came[then] = (state, what)
                    waiting.append(then)
        self.seen = came
        return Found(None, len(came), (), whole=True)

    # -- one step

    def successors(self, s: State) -> Iterator[tuple[str, State]]:
        """Everything that may happen next."""
        yield from self._faults(s)
        for c, controller in enumerate(s.controllers):
            if controller is None:
                if s.procedures:
                    yield from self._begin(s, c)
                continue
            yield f"{c}: ends", _ended(s, c)
            yield from self._operate(s, c, controller)

    def _faults(self, s: State) -> Iterator[tuple[str, State]]:
        for n, qemu in enumerate(s.qemus):
            if qemu.kind == "alone" and not qemu.merged:
                merged = _put(s.qemus, n, Qemu("alone", qemu.instance, merged=True))
                yield f"merged {n}", s._replace(qemus=merged)
            if s.damages and isinstance(s.files[n], Rec):
                damaged = _put(s.files, n, f"damaged {s.damages}")
                yield f"damaged {n}", s._replace(files=damaged, damages=s.damages - 1)
            if s.damages and qemu.kind == "off" and all(f is not None for f in s.files):
                yield (
                    f"disk of {n} replaced",
                    s._replace(
                        files=_put(s.files, n, None),
                        newest=s.newest - {n},
                        damages=s.damages - 1,
                    ),
                )
            if not s.faults:
                continue
            less = s._replace(faults=s.faults - 1)
            if qemu.kind != "off" and "dies" in self.limits.allowed:
                yield f"dies {n}", dies(less, n)
            if s.sessions[n] is not None and "drops" in self.limits.allowed:
                yield f"session of {n} drops", less._replace(sessions=_put(s.sessions, n, None))
        if s.faults and s.colo is not None and s.colo.stands and "breaks" in self.limits.allowed:
            yield "colo breaks", s._replace(faults=s.faults - 1, colo=s.colo._replace(stands=False))

    # -- procedures

    def _begin(self, s: State, c: int) -> Iterator[tuple[str, State]]:
        colo = None if s.colo is None else (s.colo.primary, s.colo.secondary)
        for n, qemu in enumerate(s.qemus):
            more = s.counts[n] < self.limits.instances and "launch" in self.limits.allowed
            if qemu.kind == "off" and more:
                yield from self._launches(s, c, n, colo)
            if qemu.kind in ("prim", "sec") and s.sessions[n] is None:
                yield from self._alone(s, c, n, colo)
            for other, peer in enumerate(s.qemus):
                joins = qemu.kind == "alone" and peer.kind == "fresh"
                again = qemu.kind == "prim" and peer.kind == "sec" and colo == (n, other)
                free = s.sessions[n] is None and s.sessions[other] is None
                if n != other and free and (joins or again):
                    yield from self._pairwise(s, c, n, other, colo)

    def _launches(
        self, s: State, c: int, n: int, colo: tuple[int, int] | None
    ) -> Iterator[tuple[str, State]]:
        instance = s.counts[n] + 1
        for reached in _subsets([m for m, q in enumerate(s.qemus) if m != n and q.kind != "off"]):
            nodes = tuple(
                q if m in reached or q.kind == "off" else None for m, q in enumerate(s.qemus)
            )
            for files in _reads(s.files, {n}):
                ops = self._compiler.compile("launch", nodes, files, colo, launch=(n, instance))
                if ops is not None:
                    counted = s._replace(counts=_put(s.counts, n, instance))
                    # A launch of a secondary asks nobody for leave: one way to read is enough.
                    yield f"{c}: launch {n}, reads {_told(files)}", self._started(counted, c, ops)
                    if not any(op.kind == "record" for op in ops.ops):
                        break

    def _alone(
        self, s: State, c: int, n: int, colo: tuple[int, int] | None
    ) -> Iterator[tuple[str, State]]:
        only = tuple(q if m == n or q.kind == "off" else None for m, q in enumerate(s.qemus))
        for files in _reads(s.files, {n}) if "failover" in self.limits.allowed else ():
            ops = self._compiler.compile("failover", only, files, colo, survivor=n)
            if ops is not None:
                yield f"{c}: failover {n}, reads {_told(files)}", self._started(s, c, ops)
        if s.qemus[n].kind != "prim" or colo is None or colo[0] != n:
            return
        if "stop" not in self.limits.allowed:
            return
        peer = colo[1]
        reachable = s.qemus[peer].kind == "off" or s.sessions[peer] is None
        for nodes in {only, s.qemus if reachable else only}:
            for files in _reads(s.files, {n, peer}):
                ops = self._compiler.compile("stop", nodes, files, colo)
                if ops is not None:
                    yield f"{c}: stop {n}, reads {_told(files)}", self._started(s, c, ops)

    def _pairwise(
        self, s: State, c: int, n: int, other: int, colo: tuple[int, int] | None
    ) -> Iterator[tuple[str, State]]:
        both = tuple(
            q if m in (n, other) or q.kind == "off" else None for m, q in enumerate(s.qemus)
        )
        for files in _reads(s.files, {n, other}):
            ops = None
            if "start" in self.limits.allowed:
                ops = self._compiler.compile("start", both, files, (n, other))
            if ops is not None and ops.ops:
                yield f"{c}: start {n}{other}, reads {_told(files)}", self._started(s, c, ops)
            if s.qemus[n].kind == "prim" and "switch-over" in self.limits.allowed:
                ops = self._compiler.compile("switch-over", both, files, colo)
                if ops is not None and ops.ops:
                    yield f"{c}: switch-over {n}{other}", self._started(s, c, ops)

    @staticmethod
    def _started(s: State, c: int, ops: Ops) -> State:
        sessions = tuple(c if n in ops.holds else held for n, held in enumerate(s.sessions))
        return s._replace(
            procedures=s.procedures - 1,
            sessions=sessions,
            controllers=_put(s.controllers, c, Controller(ops, 0)),
        )

    # -- operations

    def _operate(self, s: State, c: int, at: Controller) -> Iterator[tuple[str, State]]:
        plan = at.plan
        if at.position == len(plan.ops):
            return
        op = plan.ops[at.position]
        for first, last, node in plan.recovery:
            if first <= at.position <= last and self._may_recover(s, c, at, node):
                yield f"{c}: recovery, {node} continues", _ended(goes_alone(s, node), c)
        for what, then in self.done(s, c, at, op):
            yield f"{c}: {what}", _next(then, c)
        if op.may_fail:
            yield f"{c}: {op.kind} {op.node} left out", _next(s, c)

    def _may_recover(self, s: State, c: int, at: Controller, node: int) -> bool:
        if s.qemus[node].kind != "prim" and s.qemus[node].kind != "sec":
            return False
        instance = _instance(at.plan, node)
        if s.qemus[node].instance != instance:
            return False
        if s.sessions[node] == c:
            return True
        if s.sessions[node] is not None or not self._rules.recovers_when_reopened:
            return False
        if not self._rules.reads_after_reopening:
            return True
        wrote = dict(at.wrote)
        return node in wrote and wrote[node] == s.files[node]

    def done(self, s: State, c: int, at: Controller, op: Op) -> Iterator[tuple[str, State]]:
        """What an operation comes to; nothing where it cannot be done now."""
        match op.kind:
            case "record":
                return self._recorded(s, c, at, op)
            case "spawn":
                return self._spawned(s, op)
            case "enter":
                return _entered(s, c, op)
            case "dead" | "answers" | "checkpoint":
                return self._seen(s, c, op)
            case _:
                return _acted(s, c, at, op)

    def _seen(self, s: State, c: int, op: Op) -> Iterator[tuple[str, State]]:
        n, qemu = op.node, s.qemus[op.node]
        runs = qemu.kind != "off" and qemu.instance == op.instance
        if op.kind == "dead" and (not runs or not self._rules.evidence_is_true):
            yield f"evidence that {n} {op.instance} has ended", s
        if op.kind == "answers" and runs and s.sessions[n] == c:
            yield f"{n} answers", s
        works = s.colo is not None and s.colo.in_sync and s.colo.stands
        if op.kind == "checkpoint" and works and s.colo is not None and s.colo.primary == n:
            yield "checkpoint seen", s

    def _recorded(self, s: State, c: int, at: Controller, op: Op) -> Iterator[tuple[str, State]]:
        n, becomes = op.node, op.becomes
        assert becomes is not None
        if op.needs is not None:
            victim = s.qemus[op.needs[0]]
            runs = victim.kind != "off" and victim.instance == op.needs[1]
            if runs and self._rules.evidence_is_true:
                return
        if s.files[n] != op.expects and self._rules.compares:
            return
        holders = s.holders
        verdict = s.verdict
        if n == becomes.holder:
            holders |= {(becomes.epoch, n)}
            if sum(epoch == becomes.epoch for epoch, _ in holders) > 1:
                verdict = verdict or "two holders"
        wrote = {**dict(at.wrote), n: becomes}
        then = Controller(at.plan, at.position, tuple(sorted(wrote.items(), key=lambda w: w[0])))
        yield (
            f"record {n}: {_words(becomes)}",
            s._replace(
                files=_put(s.files, n, becomes),
                holders=holders,
                verdict=verdict,
                controllers=_put(s.controllers, c, then),
            ),
        )

    def _spawned(self, s: State, op: Op) -> Iterator[tuple[str, State]]:
        n = op.node
        if s.qemus[n].kind != "off":
            return
        if op.peer:
            started = Qemu("fresh", op.instance, merged=True)
            yield (
                f"secondary {n} {op.instance} started",
                s._replace(qemus=_put(s.qemus, n, started)),
            )
            return
        if s.files[n] != op.expects and self._rules.reads_before_spawn:
            return
        started = Qemu("alone", op.instance, merged=True)
        yield (
            f"primary {n} {op.instance} started",
            s._replace(
                qemus=_put(s.qemus, n, started),
                newest=frozenset({n}),
                verdict=s.verdict or (None if n in s.newest else "lost"),
            ),
        )


class Stuck:
    """Looks for situations that no procedures lead out of, without any more faults."""

    def __init__(self, search: Search) -> None:
        """Take a search that has seen everything within its limits."""
        self._search = search
        self._good: set[State] = set()

    def run(self) -> tuple[int, State | None]:
        """How many situations there are, and the first one that is stuck."""
        calm = {situation for s in self._search.seen if _has_data(situation := _calm(s))}
        for situation in calm:
            if not self._rescued(situation):
                return len(calm), situation
        return len(calm), None

    def _rescued(self, begin: State) -> bool:
        seen, waiting = {begin}, collections.deque([begin])
        while waiting and len(seen) < FAR:
            s = waiting.popleft()
            if s in self._good or _is_protected(s):
                self._good.add(begin)
                return True
            for then in self._moves(s):
                if then not in seen and check_answer(then) is None:
                    seen.add(then)
                    waiting.append(then)
        return False

    def _moves(self, s: State) -> Iterator[State]:
        """What one controller, or a person, does when nothing more goes wrong."""
        for n, qemu in enumerate(s.qemus):
            if qemu.kind == "alone" and not qemu.merged:
                yield s._replace(qemus=_put(s.qemus, n, qemu._replace(merged=True)))
            if qemu.kind in ("sec", "fresh"):
                # It is of no use any more, and a person may end it.
                yield _calm(dies(s, n))
        ready = s._replace(procedures=1)
        for what, begun in self._search.successors(ready):
            at = begun.controllers[0]
            reads_all = "reads" not in what or what.endswith(_told(s.files))
            if at is not None and at.position == 0 and reads_all:
                yield _calm(self._executed(begun))

    def _executed(self, s: State) -> State:
        while (at := s.controllers[0]) is not None:
            done = (
                list(self._search.done(s, 0, at, at.plan.ops[at.position])) if at.plan.ops else []
            )
            if done:
                s = _next(done[0][1], 0)
                continue
            if at.plan.ops and at.plan.ops[at.position].may_fail:
                s = _next(s, 0)
                continue
            return _ended(s, 0)
        return s


def _calm(s: State) -> State:
    """The situation without controllers, faults to come, and what was before."""
    return s._replace(
        sessions=(None,) * len(s.sessions),
        controllers=(None,) * len(s.controllers),
        faults=0,
        procedures=0,
        damages=0,
        holders=frozenset(),
        counts=tuple(qemu.instance for qemu in s.qemus),
    )


def _has_data(s: State) -> bool:
    """Whether some node has all data, and no person is needed for it.

    A person is: where the survivor ended before its overlays were merged, where a file is damaged,
    and where the file of a node whose QEMU has ended is lost.
    """
    if any(isinstance(file, str) for file in s.files):
        return False
    idle = [n for n, qemu in enumerate(s.qemus) if qemu.kind in ("off", "fresh")]
    top = max((f for f in s.files if isinstance(f, Rec)), key=lambda f: f[:2], default=None)
    if top is not None and top.pending and top.holder in idle:
        return False
    begun = top is not None
    lost = [n for n in range(2) if not isinstance(s.files[n], Rec) and s.qemus[n].kind != "alone"]
    few = max(s.counts) < 3
    return bool(s.newest) and few and not (begun and lost and _was_paired(s))


def _was_paired(s: State) -> bool:
    """Whether the pair has ever been joined, so that both nodes had a file."""
    return s.colo is not None or any(isinstance(f, Rec) and f.joining for f in s.files)


def _is_protected(s: State) -> bool:
    if s.colo is None or not s.colo.in_sync or not s.colo.stands:
        return False
    p, pi, q, qi = s.colo[:4]
    both = tuple(sorted(((p, pi), (q, qi))))
    files = (s.files[p], s.files[q])
    named = [isinstance(f, Rec) and f.eligible == both and not f.pending for f in files]
    kinds = (s.qemus[p][:2], s.qemus[q][:2])
    return all(named) and kinds == (("prim", pi), ("sec", qi))


def _acted(s: State, c: int, at: Controller, op: Op) -> Iterator[tuple[str, State]]:
    """What comes of an operation on one QEMU."""
    n, qemu = op.node, s.qemus[op.node]
    held = s.sessions[n] == c
    if op.kind == "end":
        runs = qemu.kind != "off" and qemu.instance == op.instance
        yield f"{n} {op.instance} is ended", dies(s, n) if runs else s
    same = qemu.kind != "off" and qemu.instance == _instance(at.plan, n)
    if op.kind == "alone" and held and same:
        yield f"{n} continues", goes_alone(s, n)
    if op.kind == "merged" and held and qemu.merged:
        yield f"{n} has merged", s
    if op.kind == "overlays" and held:
        lost = s.newest if qemu.merged else s.newest - {n}
        yield f"overlays of {n} deleted", s._replace(newest=lost)


def _entered(s: State, c: int, op: Op) -> Iterator[tuple[str, State]]:
    n, other = op.node, op.peer
    here, there = s.qemus[n], s.qemus[other]
    both = s.sessions[n] == c and s.sessions[other] == c
    if not both or (here.kind, there.kind) != ("alone", "fresh"):
        return
    for good in (True, False):
        qemus = _put(s.qemus, n, Qemu("prim", here.instance, merged=here.merged))
        qemus = _put(qemus, other, Qemu("sec", there.instance, merged=True))
        yield (
            f"{n} and {other} are in COLO" + ("" if good else ", not in sync"),
            s._replace(
                qemus=qemus,
                colo=Colo(n, here.instance, other, there.instance, in_sync=good),
                newest=frozenset({n, other}) if good else frozenset({n}),
            ),
        )


def _instance(plan: Ops, node: int) -> int:
    """The instance that a plan speaks to on a node."""
    return next((op.instance for op in plan.ops if op.kind == "answers" and op.node == node), 0)


def _ended(s: State, c: int) -> State:
    sessions = tuple(None if held == c else held for held in s.sessions)
    return s._replace(sessions=sessions, controllers=_put(s.controllers, c, None))


def _next(s: State, c: int) -> State:
    at = s.controllers[c]
    assert at is not None
    if at.position + 1 == len(at.plan.ops):
        return _ended(s, c)
    then = at._replace(position=at.position + 1)
    return s._replace(controllers=_put(s.controllers, c, then))


def _subsets(values: list[int]) -> Iterator[frozenset[int]]:
    for bits in range(1 << len(values)):
        yield frozenset(v for n, v in enumerate(values) if bits >> n & 1)


def _reads(files: tuple[File, ...], needed: set[int]) -> Iterator[tuple[File, ...]]:
    """Every way in which files can be read: the needed ones are, others may be out of reach."""
    others = [n for n in range(len(files)) if n not in needed]
    for unread in _subsets(others):
        yield tuple(UNREAD if n in unread else file for n, file in enumerate(files))


def _told(files: tuple[File, ...]) -> str:
    return "".join(str(n) for n, file in enumerate(files) if file != UNREAD)


def _words(record: Rec) -> str:
    names = ",".join(f"{n}.{i}" for n, i in record.eligible)
    return f"{record.epoch}.{record.revision} holder {record.holder}, eligible {names}"


def _path(came: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    path: list[str] = []
    before = came[state]
    while before is not None:
        state, what = before
        path.append(what)
        before = came[state]
    return tuple(reversed(path))

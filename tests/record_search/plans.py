"""The steps that the compiler emits, reduced to what matters for who may run alone.

A situation of the search is made into a snapshot, the real compiler compiles the real procedure
from it, and the plan's steps are read back as a few kinds of operations. What the compiler refuses
does not begin.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias, assert_never

import attrs

from pycolo.compiler import compile_offline, compile_plan
from pycolo.conditions import CheckpointSeen, ColoModeIs, Committed, InstanceIs, PeerDead, leaves
from pycolo.errors import RefusedError
from pycolo.evidence import instance_of, node_of
from pycolo.model import ColoPair, Node, ReplicationDisk
from pycolo.plan import (
    Check,
    Execute,
    LaunchQemu,
    Options,
    Plan,
    Procedure,
    Record,
    RunHost,
    Step,
    StopQemu,
    Wait,
)
from pycolo.qmp import commands as qmp
from pycolo.qmp.objects import YankBlockNode
from pycolo.qmp.replies import Version
from pycolo.record import DamagedRecord, NoRecord, PairRecord, Phase, RecordState, UnreadRecord
from pycolo.snapshot import Absent, Live, NodeState, Snapshot, Unreachable

NAMES = "abc"
VERSION = Version.parse("11.1.3")
BIRTH = "00000000"


class Rec(NamedTuple):
    """A record, as small as a state of a search has to be."""

    epoch: int
    revision: int
    holder: int
    eligible: tuple[tuple[int, int], ...]
    "Node and number of the instance."
    pending: bool
    joining: tuple[int, int] | None


File: TypeAlias = Rec | str | None
"A record; text for a damaged file; None for none."
UNREAD = "unread"
Kind: TypeAlias = Literal["off", "alone", "prim", "sec", "fresh"]


class Qemu(NamedTuple):
    """What runs on a node."""

    kind: Kind
    instance: int
    merged: bool
    "Its image holds everything by itself."


class Op(NamedTuple):
    """One operation of a plan."""

    kind: Literal[
        "dead",
        "answers",
        "record",
        "spawn",
        "enter",
        "checkpoint",
        "end",
        "alone",
        "merged",
        "overlays",
    ]
    node: int
    instance: int = 0
    expects: File = None
    becomes: Rec | None = None
    needs: tuple[int, int] | None = None
    may_fail: bool = False
    peer: int = -1
    address: str = ""
    "The step's, for whoever takes one out."


@attrs.frozen(eq=False)
class Ops:
    """A plan: its operations, and where it takes a guest out of COLO when it ends early.

    There is one object for equal ones, so that a situation is found again by that alone.
    """

    ops: tuple[Op, ...]
    recovery: tuple[tuple[int, int, int], ...]
    "First operation, last operation and node of each range."
    holds: tuple[int, ...]
    "The nodes whose sessions it holds."


def pair(count: int) -> ColoPair:
    """A pair on the first two of some nodes, the others being spares."""
    nodes = [
        Node(name=name, address=f"192.0.2.{n}", image_folder=f"/images/{name}")
        for n, name in enumerate(NAMES[:count], 1)
    ]
    return ColoPair(
        name="p", nodes=nodes[:2], spares=nodes[2:], disks=(ReplicationDisk(size_bytes=1 << 20),)
    )


# -- from a situation to a snapshot ----------------------------------------------------------------


class Templates:
    """What QEMUs in each kind of state show, as plans lead to it."""

    def __init__(self, declared: ColoPair) -> None:
        """Compile the plans that lead to them."""
        self._declared = declared
        names = [node.name for node in (*declared.nodes, *declared.spares)]
        kinds: tuple[tuple[Kind, bool], ...] = (
            *(("alone", True), ("alone", False), ("prim", True), ("sec", True)),
            ("fresh", True),
        )
        # All at once, from the compiler as it is: a search may change it afterwards.
        self._lives = {
            (kind, name, peer, merged): self._made(kind, name, peer, merged=merged)
            for kind, merged in kinds
            for name, peer in itertools.permutations(names, 2)
        }

    def live(self, kind: Kind, name: str, peer: str, *, merged: bool) -> Live:
        """One of them, with another identity to be put in."""
        return self._lives[kind, name, peer, merged or kind != "alone"]

    def _made(self, kind: Kind, name: str, peer: str, *, merged: bool) -> Live:
        primary = name if kind in ("alone", "prim") else peer
        secondary = peer if primary == name else name
        nodes = (self._declared.node(primary), self._declared.node(secondary))
        both = attrs.evolve(self._declared, nodes=nodes, spares=())
        match kind:
            case "fresh":
                plan = compile_offline("launch", both, version=VERSION)
            case "alone" if merged:
                plan = compile_offline("failover", both, version=VERSION, survivor=name)
            case "alone":
                other = attrs.evolve(both, nodes=both.nodes[::-1])
                plan = compile_offline("failover", other, version=VERSION, survivor=name)
                ends = [isinstance(s, Wait) and "committed" in s.address for s in plan.steps]
                return self._before(plan, ends.index(True), name)
            case _:
                plan = compile_offline("start", both, version=VERSION)
        live = plan.planned_state.live(name)
        assert live is not None
        return live

    @staticmethod
    def _before(plan: Plan, position: int, name: str) -> Live:
        from pycolo.effects import fold  # noqa: PLC0415 - used here alone

        live = fold(plan.pair, plan.qemu, plan.prior_state, plan.steps[:position]).live(name)
        assert live is not None
        return live


def record_state(file: File) -> RecordState:
    """A file as the compiler reads it."""
    if file is None:
        return NoRecord()
    if isinstance(file, str):
        return UnreadRecord(why="away") if file == UNREAD else DamagedRecord(why="x", digest=file)
    phase: Phase = "protected" if len(file.eligible) > 1 else "alone"
    return PairRecord(
        pair="p",
        birth=BIRTH,
        epoch=file.epoch,
        revision=file.revision,
        holder=NAMES[file.holder],
        eligible={NAMES[n]: instance_of("p", NAMES[n], i) for n, i in file.eligible},
        phase="joining" if file.joining is not None else phase,
        joining=None
        if file.joining is None
        else instance_of("p", NAMES[file.joining[0]], file.joining[1]),
        commit="pending" if file.pending else "clean",
    )


def file_of(state: object) -> File:
    """A record of a plan as the search keeps it."""
    match state:
        case PairRecord():
            eligible = [(NAMES.index(n), number(i)) for n, i in state.eligible.items()]
            joining = None
            if state.joining is not None:
                joining = (NAMES.index(node_of(state.joining)), number(state.joining))
            return Rec(
                epoch=state.epoch,
                revision=state.revision,
                holder=NAMES.index(state.holder),
                eligible=tuple(sorted(eligible)),
                pending=state.commit == "pending",
                joining=joining,
            )
        case DamagedRecord(digest=digest):
            return digest
        case _:
            return None


def number(instance: str) -> int:
    """The number of an identity."""
    return int(instance.rpartition(":")[2], 16)


# -- from a plan to operations ---------------------------------------------------------------------


def operations(plan: Plan) -> Ops:
    """A plan as operations."""
    found: list[Op] = []
    places: dict[str, int] = {}
    left: set[str] = set()
    for step in plan.steps:
        places[step.address] = len(found)
        found += _operations(step, left)
    ranges = []
    for recovery in plan.recoveries:
        ends = [s for s in recovery.steps if isinstance(s.command, qmp.XColoLostHeartbeat)]
        if ends:
            last = max(places[recovery.last], places[recovery.first])
            node = NAMES.index(ends[0].node)
            ranges.append((places[recovery.first], last, node))
    spoken = {s.node for s in plan.steps if isinstance(s, Execute | Wait | Check)}
    held = {n for n in spoken if plan.prior_state.live(n) is not None}
    return Ops(tuple(found), tuple(ranges), tuple(sorted(NAMES.index(n) for n in held)))


def _operations(step: Step, left: set[str]) -> Iterator[Op]:
    node = NAMES.index(step.node)
    match step:
        case Record():
            yield _recorded(step)
        case Check(condition=condition):
            yield from _checked(step.address, node, list(leaves(condition)))
        case RunHost():
            yield from _hosted(step)
        case Wait(until=until):
            yield from _waited(step.address, node, list(leaves(until)))
        case Execute(command=command):
            if _leaves_colo(command) and step.node not in left:
                left.add(step.node)
                yield Op("alone", node, address=step.address)
            if isinstance(command, qmp.BlockdevDel) and command.node_name == "active0":
                yield Op("overlays", node, address=step.address)
        case _:
            assert_never(step)


def _recorded(step: Record) -> Op:
    becomes, needs = file_of(step.change.becomes), step.needs
    assert isinstance(becomes, Rec)
    return Op(
        "record",
        NAMES.index(step.node),
        expects=file_of(step.change.expects),
        becomes=becomes,
        needs=None if needs is None else (NAMES.index(needs.node), number(needs.instance)),
        may_fail=step.may_fail,
        address=step.address,
    )


def _checked(address: str, node: int, asked: list[object]) -> Iterator[Op]:
    for leaf in asked:
        if isinstance(leaf, PeerDead):
            yield Op("dead", NAMES.index(leaf.node), number(leaf.instance), address=address)
        if isinstance(leaf, InstanceIs):
            yield Op("answers", node, number(leaf.instance), address=address)


def _hosted(step: RunHost) -> Iterator[Op]:
    node, action = NAMES.index(step.node), step.action
    if isinstance(action, LaunchQemu):
        yield Op(
            "spawn",
            node,
            number(action.instance),
            expects=file_of(action.record),
            peer=0 if action.role == "primary" else 1,
            address=step.address,
        )
    if isinstance(action, StopQemu):
        instance = number(action.instance)
        yield Op("end", node, instance, may_fail=step.may_fail, address=step.address)


def _waited(address: str, node: int, asked: list[object]) -> Iterator[Op]:
    sides = {leaf.mode: leaf.node for leaf in asked if isinstance(leaf, ColoModeIs)}
    if {"primary", "secondary"} <= sides.keys():
        peer = NAMES.index(sides["secondary"])
        yield Op("enter", NAMES.index(sides["primary"]), peer=peer, address=address)
    seen = [leaf.node for leaf in asked if isinstance(leaf, CheckpointSeen)]
    if seen:
        yield Op("checkpoint", node, peer=NAMES.index(seen[-1]), address=address)
    if any(isinstance(leaf, Committed) for leaf in asked):
        yield Op("merged", node, address=address)


def _leaves_colo(command: qmp.Command) -> bool:
    """Whether a command lets output or writes go without the peer, or ends COLO."""
    match command:
        case qmp.XColoLostHeartbeat():
            return True
        case qmp.Yank(instances=instances):
            return any(isinstance(one, YankBlockNode) for one in instances)
        case qmp.XBlockdevChange(node=None):
            return True
        case qmp.QomSet(property_name="status", value="off"):
            return True
        case _:
            return False


# -- compiling -------------------------------------------------------------------------------------

Change: TypeAlias = Callable[[Procedure, Ops], Ops]


class _Asked(NamedTuple):
    procedure: Procedure
    nodes: tuple[Qemu | None, ...]
    files: tuple[File, ...]
    colo: tuple[int, int] | None
    survivor: int | None
    launch: tuple[int, int] | None


class Compiler:
    """The real compiler, asked about situations of the search; it remembers its answers."""

    def __init__(self, count: int, change: Change | None = None) -> None:
        """Take the number of nodes, and what is done to the operations of each plan."""
        self.count = count
        self._pair = pair(count)
        self._templates = Templates(self._pair)
        self._change = change
        self._known: dict[_Asked, Ops | None] = {}
        self._same: dict[object, Ops] = {}

    def compile(
        self,
        procedure: Procedure,
        nodes: tuple[Qemu | None, ...],
        files: tuple[File, ...],
        colo: tuple[int, int] | None,
        *,
        survivor: int | None = None,
        launch: tuple[int, int] | None = None,
    ) -> Ops | None:
        """The operations of a procedure; None where the compiler refuses.

        Args:
            procedure: Its name.
            nodes: What runs where; None for a node that is out of reach.
            files: What was read of each node's file.
            colo: Primary and secondary of the COLO that there is.
            survivor: For `failover`.
            launch: For `launch`: the node, and the number of its instance.
        """
        asked = _Asked(procedure, nodes, files, colo, survivor, launch)
        if asked not in self._known:
            self._known[asked] = self._compiled(asked)
        return self._known[asked]

    def _compiled(self, asked: _Asked) -> Ops | None:
        states = {NAMES[n]: self._state(n, qemu, asked.colo) for n, qemu in enumerate(asked.nodes)}
        records = {NAMES[n]: record_state(file) for n, file in enumerate(asked.files)}
        snapshot = Snapshot(nodes=states, records=records)
        options = Options(survivor=None if asked.survivor is None else NAMES[asked.survivor])
        if asked.launch is not None:
            node, instance = asked.launch
            name = NAMES[node]
            qemu: Mapping[str, Version] = {name: VERSION}
            named = {name: instance_of("p", name, instance)}
            options = Options(nodes=(name,), qemu=qemu, instances=named, birth=BIRTH)
        try:
            plan = compile_plan(asked.procedure, self._pair, snapshot, options)
        except RefusedError:
            return None
        found = operations(plan)
        if self._change is not None:
            found = self._change(asked.procedure, found)
        return self._same.setdefault(attrs.astuple(found, recurse=False), found)

    def _state(self, n: int, qemu: Qemu | None, colo: tuple[int, int] | None) -> NodeState:
        if qemu is None:
            return Unreachable(why="out of reach")
        if qemu.kind == "off":
            return Absent()
        others = [other for other in range(self.count) if other != n]
        if colo is not None and n in colo:
            others = [other for other in colo if other != n]
        live = self._templates.live(qemu.kind, NAMES[n], NAMES[others[0]], merged=qemu.merged)
        return attrs.evolve(live, instance=instance_of("p", NAMES[n], qemu.instance))

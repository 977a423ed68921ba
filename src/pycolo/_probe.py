"""Read the state of a pair's QEMUs and records into a `Snapshot`; nothing is changed.

A probe sends several questions before it waits for the first reply, so that it does not wait for
eighty round trips to a far host. It does not send all at once, because that would block out-of-band
commands (qemu-behaviour 7.6). It never asks QEMU about the type colo-compare, because some versions
abort then (qemu-behaviour 6.10).
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias, TypeVar

import attrs

from pycolo import topology
from pycolo.conditions import Query
from pycolo.effects import shown
from pycolo.errors import CommandRefused, CommandUnknown, ParseError, RemoteError
from pycolo.hosts import Host, HostState
from pycolo.model import tls
from pycolo.model.pair import ColoPair
from pycolo.qmp import commands as qmp
from pycolo.qmp import replies
from pycolo.qmp.objects import YankBlockNode, YankChardev, YankMigration
from pycolo.record import UnreadRecord
from pycolo.session import Latched, Sent, Session
from pycolo.snapshot import (
    Child,
    Drive,
    Filter,
    Job,
    Live,
    NodeState,
    Snapshot,
    Unreachable,
    Unresponsive,
    limits_of,
    with_limits,
)

_R = TypeVar("_R")
# The drivers of images that can have a backing file.
_OVERLAYS: Final = frozenset({"qcow", "qcow2", "qed", "vmdk"})

Question: TypeAlias = (
    Query
    | qmp.QueryMigrateCapabilities
    | qmp.QueryMigrateParameters
    | qmp.QueryYank
    | qmp.QueryXenReplicationStatus
    | qmp.QueryBlock
    | qmp.QomGet
)
"The queries of a probe; the queries of conditions are among them."

QUESTIONS: Final[tuple[Question, ...]] = (
    qmp.QueryStatus(),
    qmp.QueryColoStatus(),
    qmp.QueryMigrate(),
    qmp.QueryMigrateCapabilities(),
    qmp.QueryMigrateParameters(),
    qmp.QueryBlockExports(),
    qmp.QueryNamedBlockNodes(flat=True),
    qmp.XDebugQueryBlockGraph(),
    qmp.QueryBlock(),
    qmp.QueryJobs(),
    qmp.QueryChardev(),
    qmp.QueryYank(),
    qmp.QueryXenReplicationStatus(),
    qmp.QomList(path="/objects"),
)
"""The queries that a probe sends to every node, in this order.

Before them, the identity and the schema are read, once per connection. After them, the properties
in `SETTINGS` are read of each object that was found, and whether each filter is switched on.
"""

GLANCED: Final[tuple[Question, ...]] = (
    qmp.QueryStatus(),
    qmp.QueryColoStatus(),
    qmp.QueryXenReplicationStatus(),
)
"The queries that a glance sends to every node."

UNDER_WAY: Final = 7
"How many queries of a probe await a reply at once; other commands wait behind these."

LIMIT_S: Final = 10.0
"The default time limit of one answer, in seconds."

_FILTERS: Final = frozenset({"filter-mirror", "filter-redirector", "filter-rewriter"})
_FILTER_SETTINGS: Final = ("netdev", "queue", "insert", "position", "vnet_hdr_support")
SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "filter-mirror": (*_FILTER_SETTINGS, "outdev"),
    "filter-redirector": (*_FILTER_SETTINGS, "indev", "outdev"),
    "filter-rewriter": _FILTER_SETTINGS,
    "colo-compare": (
        *("primary_in", "secondary_in", "outdev", "iothread", "notify_dev", "vnet_hdr_support"),
        *("compare_timeout", "expired_scan_cycle", "max_queue_size"),
    ),
    "iothread": (),
    "tls-creds-x509": ("dir", "endpoint", "verify-peer"),
    "tls-creds-psk": ("dir", "endpoint", "username"),
    "authz-list": ("policy", "rules"),
}
"The properties that are read of each type of object COLO uses."
# Objects of these types with other ids may belong to the operator, such as for VNC.
_TLS: Final = frozenset({"tls-creds-x509", "tls-creds-psk", "authz-list"})
# Ids of chardevs that are not part of COLO: those that QEMU and libvirt generate for monitors and
# the machine's ports, and those of the guest's channels.
_FOREIGN_CHARDEVS: Final = ("compat_monitor", "serial", "parallel", "charmonitor", "channel")


async def probe(
    nodes: Mapping[str, Session | NodeState],
    *,
    pair: ColoPair | None = None,
    hosts: Mapping[str, Host] | None = None,
    limit_s: float = LIMIT_S,
) -> Snapshot:
    """Read the state of all nodes, and their records, at once.

    Args:
        nodes: Node name to its session, or to its state if that is known without a session.
        pair: The declaration, which is needed to read records; None to read none.
        hosts: Node name to its host, from which the node's record is read. The record of a node of
            the pair that has no host here is an `UnreadRecord`.
        limit_s: The time limit of one answer, in seconds. A node that does not answer in time is
            not asked further questions.

    Returns:
        The state of each node and the content of its record file. A node is `Unreachable` if its
        connection ended or its reply cannot be read, and `Unresponsive` if it does not answer
        within the limit. A file that cannot be reached is an `UnreadRecord`. No error is raised.
    """
    states, kept = await asyncio.gather(_states(nodes, limit_s), _kept(pair, hosts, limit_s))
    return Snapshot(
        nodes=states,
        records={name: state.record for name, state in kept.items()},
        folders={name: state.folder for name, state in kept.items() if state.folder},
        running={name: state.running for name, state in kept.items() if state.running},
    )


async def glance(
    nodes: Mapping[str, Session | NodeState], seen: Snapshot, *, limit_s: float = LIMIT_S
) -> bool:
    """Whether all nodes still are as a snapshot shows them, by three questions to each node.

    It is for programs that read settled pairs again and again: a probe asks about eighty questions
    per node. A glance finds that a QEMU has gone, was replaced or does not answer, that a guest was
    paused, that COLO has ended, that a disk is not replicated or refused a write, and that a node
    answers that did not before. It reads the events that the sessions have latched. As a probe, it
    does not know of an event that came to another session, or before this session was opened.

    A glance does not find changes of the following, so probe from time to time:

    - the records, the folders, and QEMUs that only their host knows to run;
    - filters that were switched off or removed, and connections of chardevs that were lost: COLO
      then compares nothing, or ends at the next packet that differs;
    - block nodes, children of quorums, exports and jobs that were added or removed by hand: a
      detached child gets no more writes;
    - migration capabilities and parameters that were set by hand, such as the checkpoint delay;
    - a network between the hosts that carries nothing any more: both QEMUs answer, no checkpoint
      ends, and the guest may not serve. A probe does not find it either; it takes time to suspect
      it, as `Supervisor` does.

    An armed failover plan is still safe: its checks, and the compare-and-swap of its record, refuse
    it if the node is not in the state that the plan was compiled for.

    Args:
        nodes: Node name to its session, or to its state if that is known without a session.
        seen: The snapshot to compare with.
        limit_s: The time limit of one answer, in seconds.

    Returns:
        Whether no difference was found and every session of `nodes` answered. If not, probe.
    """
    same = await asyncio.gather(
        *(_is_same(known, seen.state(name), limit_s) for name, known in nodes.items())
    )
    return all(same)


async def _is_same(known: Session | NodeState, before: NodeState, limit_s: float) -> bool:
    """Whether a node still is as it was before, by its session or by its known state."""
    if not isinstance(known, Session):
        return known == before
    if not isinstance(before, Live):
        return False
    try:
        now = attrs.evolve(before, instance=await known.instance(limit_s=limit_s))
        for question, reply in await _replies(known, GLANCED, limit_s):
            now = with_reply(now, question, reply)
    except (RemoteError, ParseError):
        return False
    now = _settled(with_latched(now, known))
    # The comparison of `Live` leaves out these two, which no plan predicts. After a resync the
    # snapshot does not know whether each disk is replicated, which counts as replicated here.
    lost = bool(now.replication_error), now.disk_error
    return now == before and lost == (bool(before.replication_error), before.disk_error)


async def _states(nodes: Mapping[str, Session | NodeState], limit_s: float) -> dict[str, NodeState]:
    states = await asyncio.gather(*(_state(known, limit_s) for known in nodes.values()))
    return dict(zip(nodes, states, strict=True))


async def _kept(
    pair: ColoPair | None, hosts: Mapping[str, Host] | None, limit_s: float
) -> Mapping[str, HostState]:
    """What the hosts report of each node; empty without a declaration."""
    return {} if pair is None else await records(pair, hosts or {}, limit_s=limit_s)


async def records(
    pair: ColoPair, hosts: Mapping[str, Host], *, limit_s: float = LIMIT_S
) -> Mapping[str, HostState]:
    """Read the record of every declared node, spares included, at once.

    Args:
        pair: The declaration.
        hosts: Node name to its host; the record of a node without a host is an `UnreadRecord`.
        limit_s: The time limit of one host, in seconds.

    Returns:
        Node name to the record, the folder and the running QEMU that its host reports.
    """
    names = pair.names
    found = await asyncio.gather(*(_record(pair, name, hosts.get(name), limit_s) for name in names))
    return dict(zip(names, found, strict=True))


async def _record(pair: ColoPair, name: str, host: Host | None, limit_s: float) -> HostState:
    """What one host reports of its node; an `UnreadRecord` if there is no host."""
    if host is None:
        return HostState(record=UnreadRecord(why="there is no way to its host"))
    return await host.observe(pair, name, limit_s=limit_s)


async def _state(known: Session | NodeState, limit_s: float) -> NodeState:
    return await read(known, limit_s=limit_s) if isinstance(known, Session) else known


async def read(session: Session, *, limit_s: float = LIMIT_S) -> Live | Unreachable | Unresponsive:
    """Read the state of one node; see `probe`.

    Args:
        session: A session with the node; it can still be used afterwards, unless it was closed.
        limit_s: The time limit of one answer, in seconds.
    """
    try:
        identity = await session.instance(limit_s=limit_s)
        schema = await session.schema(limit_s=limit_s)
        live = attrs.evolve(greeted(session), instance=identity, schema=schema)
        for question, reply in await _replies(session, QUESTIONS, limit_s):
            live = with_reply(live, question, reply)
        asked = [question for item in sorted(live.objects) for question in _of_object(live, item)]
        for question, reply in await _replies(session, asked, limit_s):
            live = _without(live, question) if reply is None else with_reply(live, question, reply)
    except CommandUnknown as error:
        if session.closed:
            return Unreachable(why=str(error))
        return Unresponsive(why=str(error), oob=True)
    except (RemoteError, ParseError) as error:
        return Unreachable(why=str(error))
    return _shared(_settled(with_latched(live, session)))


def _shared(live: Live) -> Live:
    """An equal state whose names are interned: a program may hold the states of many nodes."""
    name = sys.intern
    return attrs.evolve(
        live,
        capabilities=frozenset(map(name, live.capabilities)),
        block_nodes=frozenset(map(name, live.block_nodes)),
        children={
            name(quorum): tuple(Child(name=name(c.name), node=name(c.node)) for c in children)
            for quorum, children in live.children.items()
        },
        sizes_bytes={name(node): size for node, size in live.sizes_bytes.items()},
        images={name(node): name(file) for node, file in live.images.items()},
        exports={name(export): name(node) for export, node in live.exports.items()},
        chardevs={name(chardev): connected for chardev, connected in live.chardevs.items()},
        objects={name(item): _shared_filter(known) for item, known in live.objects.items()},
        yanks=frozenset(map(name, live.yanks)),
    )


def _shared_filter(known: Filter) -> Filter:
    name = sys.intern
    settings = {name(key): name(value) for key, value in known.settings.items()}
    return attrs.evolve(known, qom_type=name(known.qom_type), settings=settings)


async def _replies(
    session: Session, questions: Sequence[Question], limit_s: float
) -> list[tuple[Question, object]]:
    """Send questions, `UNDER_WAY` at a time, and return each with its reply.

    The reply is None if the question is about an object that no longer exists.

    Raises:
        RemoteError: See `Sent.reply`.
        ParseError: See `Sent.reply`.
    """
    found: list[tuple[Question, object]] = []
    under_way: deque[tuple[Question, Sent[object]]] = deque()
    for question in questions:
        if len(under_way) == UNDER_WAY:
            found.append(await _reply(*under_way.popleft(), limit_s))
        under_way.append((question, session.send(question)))
    while under_way:
        found.append(await _reply(*under_way.popleft(), limit_s))
    return found


async def _reply(question: Question, sent: Sent[object], limit_s: float) -> tuple[Question, object]:
    """Wait for the reply to a question; None if the object that it is about is gone."""
    try:
        return question, await sent.reply(limit_s)
    except CommandRefused:
        if isinstance(question, qmp.QomGet):
            # The object was removed after the list of objects was read.
            return question, None
        raise


def _of_object(live: Live, item: str) -> Iterator[Question]:
    """The questions for the properties of an object, and for a filter's status."""
    kind = live.objects[item].qom_type
    for name in (*SETTINGS[kind], *(("status",) if kind in _FILTERS else ())):
        yield qmp.QomGet(path=f"/objects/{item}", property_name=name)


def _without(live: Live, question: Question) -> Live:
    """The state without the object that a question is about."""
    gone = question.path.rpartition("/")[2] if isinstance(question, qmp.QomGet) else ""
    left = {name: known for name, known in live.objects.items() if name != gone}
    return attrs.evolve(live, objects=left)


def with_latched(live: Live, session: Session) -> Live:
    """Add to a state what its session has latched.

    Call it after the last reply: events may have come while QEMU was asked.
    """
    latched = session.latched
    if latched == Latched(colo_exited=live.colo_exited) and not live.disk_error:
        return live
    # The loss of a plain NBD child is reported by this event alone (qemu-behaviour 5.10).
    own = {c.node for kin in live.children.values() for c in kin if c.name == "children.0"}
    error = True if set(latched.quorum_bad) - own else live.replication_error
    return attrs.evolve(
        live,
        colo_exited=latched.colo_exited,
        replication_error=error,
        disk_error=bool(own & set(latched.quorum_bad)),
    )


def greeted(session: Session) -> Live:
    """The state of a node as far as its session knows it without asking."""
    return Live(version=session.version, colo_exited=session.latched.colo_exited)


def with_reply(live: Live, question: Question, reply: object) -> Live:  # noqa: C901 - one line a question
    """Add one parsed reply to the state of a node.

    Args:
        live: The state known so far. From a reply about the block graph, only the children of those
            quorums are read that the state names already, by an earlier reply to
            query-named-block-nodes or by the caller.
        question: The question.
        reply: The reply, parsed by the question's `parse_reply`.

    Raises:
        TypeError: The reply does not fit the question.
    """
    match question, reply:
        case qmp.QueryStatus(), replies.StatusInfo(status=status):
            return attrs.evolve(live, run_state=status)
        case qmp.QueryColoStatus(), replies.ColoStatus(mode=mode, last_mode=last):
            return attrs.evolve(live, colo_mode=mode, last_colo_mode=last)
        case qmp.QueryMigrate(), replies.MigrationInfo() as info:
            incoming = info.socket_address is not None
            return attrs.evolve(
                live,
                migration=info.status or "none",
                migration_error=info.error_desc,
                migration_blockers=info.blocked_reasons,
                incoming=incoming,
            )
        case qmp.QueryMigrateCapabilities(), replies.MigrationCapabilities(enabled=enabled):
            return attrs.evolve(live, capabilities=enabled)
        case qmp.QueryMigrateParameters(), replies.MigrationParameters() as parameters:
            return _with_parameters(live, parameters)
        case qmp.QueryBlockExports(), tuple() as found:
            return _with_exports(live, _each(replies.BlockExport, found))
        case qmp.QueryNamedBlockNodes(), tuple() as found:
            return _with_block_nodes(live, _each(replies.NamedBlockNode, found))
        case qmp.XDebugQueryBlockGraph(), replies.BlockGraph() as graph:
            return _with_graph(live, graph)
        case qmp.QueryBlock(), tuple() as found:
            devices = _each(replies.BlockDevice, found)
            return attrs.evolve(live, drives=_drives(devices), overlaid=_is_overlaid(live, devices))
        case qmp.QueryJobs(), tuple() as found:
            jobs = _each(replies.Job, found)
            shown = {job.id: Job(status=job.status, error=job.error) for job in jobs}
            return attrs.evolve(live, jobs=shown)
        case qmp.QueryChardev(), tuple() as found:
            chardevs = {c.label: c.connected for c in _each(replies.Chardev, found)}
            return attrs.evolve(live, chardevs=_own(chardevs))
        case qmp.QomList(), tuple() as found:
            return attrs.evolve(live, objects=_objects(_each(replies.QomProperty, found)))
        case qmp.QueryYank(), tuple() as found:
            return attrs.evolve(live, yanks=frozenset(_yankable(found)))
        case qmp.QueryXenReplicationStatus(), replies.ReplicationStatus(error=error):
            return attrs.evolve(live, replication_error=error)
        case qmp.QomGet(path=path, property_name=name), (str() | int() | list()) as value:
            return _with_setting(live, path.rpartition("/")[2], name, value)
        case _:
            raise TypeError(f"{reply!r} is no reply to {question!r}")


def _each(kind: type[_R], found: Iterable[object]) -> tuple[_R, ...]:
    """Check that all items of a reply have a type, and return them."""
    items: list[_R] = []
    for item in found:
        if not isinstance(item, kind):
            raise TypeError(f"{item!r} is no {kind.__name__}")
        items.append(item)
    return tuple(items)


def _yankable(found: Iterable[object]) -> Iterator[str]:
    """The connections that can be yanked, without chardevs that are not part of COLO."""
    for instance in found:
        if isinstance(instance, YankChardev) and _is_foreign(instance.id):
            continue
        if isinstance(instance, YankChardev | YankBlockNode | YankMigration):
            yield instance.subject


def _with_parameters(live: Live, found: replies.MigrationParameters) -> Live:
    shown_tls = {
        "tls-creds": found.tls_creds,
        "tls-hostname": found.tls_hostname,
        "tls-authz": found.tls_authz,
    }
    shown = {name: value for name, value in shown_tls.items() if value}
    return attrs.evolve(with_limits(live, found), migration_tls=shown)


def _with_exports(live: Live, found: Iterable[replies.BlockExport]) -> Live:
    exports = {export.id: export.node_name for export in found if not export.shutting_down}
    return attrs.evolve(live, exports=exports, nbd_server=bool(exports))


def _with_block_nodes(live: Live, found: Iterable[replies.NamedBlockNode]) -> Live:
    named = [node for node in found if _is_given(node.node_name)]
    return attrs.evolve(
        live,
        block_nodes=frozenset(node.node_name for node in named),
        sizes_bytes={node.node_name: node.size_bytes for node in named},
        images={node.node_name: node.filename for node in named if node.filename[:1] == "/"},
        caches={
            node.node_name: topology.cache_words(
                direct=node.cache_direct, no_flush=node.cache_no_flush
            )
            for node in named
            if node.cache_direct is not None
        },
        children={
            node.node_name: live.children.get(node.node_name, ())
            for node in named
            if node.driver == "quorum"
        },
    )


def _drives(found: Iterable[replies.BlockDevice]) -> Mapping[str, Drive]:
    return {
        one.node_name: Drive(device=one.qdev, limits=limits_of(one))
        for one in found
        if one.qdev and _is_given(one.node_name)
    }


def _is_overlaid(live: Live, found: Iterable[replies.BlockDevice]) -> bool:
    """Whether a drive is on an image that was put above a quorum.

    A backup puts a node above it too, which changes nothing in what is written.
    """
    drives = {one.node_name: one.driver for one in found if one.qdev}
    return not live.children.keys() <= drives.keys() and not _OVERLAYS.isdisjoint(drives.values())


def _with_graph(live: Live, graph: replies.BlockGraph) -> Live:
    children = {quorum: _children(graph, quorum) for quorum in live.children}
    exports = {export: _given_below(graph, node) for export, node in live.exports.items()}
    pending = frozenset(quorum for quorum in children if _has_overlays(graph, quorum))
    return attrs.evolve(live, children=children, exports=exports, commit_pending=pending)


def _children(graph: replies.BlockGraph, quorum: str) -> tuple[Child, ...]:
    found = graph.children_of(quorum)
    return tuple(Child(name=child.child, node=child.node_name) for child in found)


def _has_overlays(graph: replies.BlockGraph, quorum: str) -> bool:
    """Whether a secondary's overlays still are between a quorum and its image.

    The overlays and the image are a chain of backing files below the quorum's first child, and
    pycolo named each of them. Two kinds of block nodes in such a chain have no given name: the node
    of the job that merges the overlays (qemu-behaviour 5.13), and an image's own backing files.
    """
    local = next((c.node for c in _children(graph, quorum) if c.name == "children.0"), None)
    files = () if local is None else _chain(graph, local, "file")[:1]
    chain = [node for file in files for node in (file, *_chain(graph, file, "backing"))]
    return sum(map(_is_given, chain)) > 1


def _chain(graph: replies.BlockGraph, node: str, role: str) -> tuple[str, ...]:
    """The block nodes below one node, by children of one role, from the top down."""
    below = next((c.node_name for c in graph.children_of(node) if c.child == role), None)
    return () if below is None else (below, *_chain(graph, below, role))


def _given_below(graph: replies.BlockGraph, node: str) -> str:
    """The first block node, from this one down, whose name QEMU did not generate.

    While COLO runs, QEMU has a filter node with a generated name above the secondary's image.
    """
    if _is_given(node):
        return node
    below = next(
        (c.node_name for c in graph.children_of(node) if c.child in ("file", "backing")), None
    )
    return node if below is None else _given_below(graph, below)


def _is_given(node: str) -> bool:
    """Whether a block node's name was given, and not generated by QEMU."""
    return bool(node) and not node.startswith("#")


def _own(chardevs: Mapping[str, bool]) -> dict[str, bool]:
    return {label: connected for label, connected in chardevs.items() if not _is_foreign(label)}


def _is_foreign(chardev: str) -> bool:
    """Whether a chardev is not part of COLO, by its id."""
    return chardev.rstrip("0123456789") in _FOREIGN_CHARDEVS


def _objects(found: Iterable[replies.QomProperty]) -> dict[str, Filter]:
    """The objects of a reply that COLO uses, as yet without properties."""
    kinds = {item.name: item.type.removeprefix("child<").removesuffix(">") for item in found}
    return {
        name: Filter(qom_type=kind)
        for name, kind in kinds.items()
        if kind in SETTINGS and (kind not in _TLS or name in tls.IDS)
    }


def _with_setting(live: Live, item: str, name: str, value: object) -> Live:
    """The state with one property of an object."""
    known = live.objects.get(item)
    if known is None:
        return live
    if name == "status":
        changed = attrs.evolve(known, on=value == "on")
    else:
        # QEMU reports a link property as the path of the object.
        setting = shown(value).removeprefix("/objects/")
        changed = attrs.evolve(known, settings={**known.settings, name: setting})
    return attrs.evolve(live, objects={**live.objects, item: changed})


def _settled(live: Live) -> Live:
    """The state without `commit_pending` if the node is a secondary, whose overlays are in use."""
    if live.colo_mode == "secondary" or live.run_state == "inmigrate":
        return attrs.evolve(live, commit_pending=frozenset())
    return live

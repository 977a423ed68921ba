"""Ask each QEMU the questions that a condition needs, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import attrs

from pycolo._execute._observation import Observation
from pycolo._probe import greeted, with_latched, with_reply
from pycolo.conditions import (
    CheckpointSeen,
    ChildIs,
    Committed,
    Condition,
    InstanceIs,
    Leaf,
    Query,
    Replicates,
    leaves,
)
from pycolo.errors import CommandUnknown, ParseError, RemoteError
from pycolo.qmp.commands import QueryYank
from pycolo.session import Session
from pycolo.snapshot import Live, NodeState, Snapshot, Unreachable, Unresponsive

Marks: TypeAlias = Mapping[str, Mapping[str, int]]
"Address of a step to each node's event mark (`Session.mark`) at the moment the step was sent."
Hear: TypeAlias = Callable[[object], None]
"Called with each parsed reply."


async def observe(
    condition: Iterable[Condition],
    sessions: Mapping[str, Session],
    marks: Marks,
    limit_s: float,
    on_reply: Hear,
) -> Observation:
    """Ask each node the questions that the conditions need, all nodes at once.

    The conditions are not evaluated here.

    Args:
        condition: The conditions that the caller evaluates afterwards.
        sessions: Node name to session.
        marks: The event marks of the steps that the conditions refer to.
        limit_s: The time limit of one answer, in seconds.
        on_reply: Called with each parsed reply, for progress.
    """
    needed: dict[str, list[Leaf]] = {}
    for part in condition:
        for leaf in leaves(part):
            needed.setdefault(leaf.node, []).append(leaf)
    seen = [
        _node(sessions.get(node), wanted, marks, limit_s, on_reply)
        for node, wanted in needed.items()
    ]
    # Usually there is one node; then no task is needed.
    states = [await seen[0]] if len(seen) == 1 else await asyncio.gather(*seen)
    gone = (node for node in needed if (known := sessions.get(node)) is None or known.closed)
    off = (node for node in needed if (known := sessions.get(node)) and known.latched.powered_off)
    snapshot = Snapshot(nodes=dict(zip(needed, states, strict=True)))
    return Observation(snapshot=snapshot, gone=frozenset(gone), powered_off=frozenset(off))


async def _node(
    session: Session | None, wanted: list[Leaf], marks: Marks, limit_s: float, on_reply: Hear
) -> NodeState:
    """Ask one node the questions of some leaves, and return its state."""
    if session is None or session.closed:
        return Unreachable(why="there is no connection to it")
    live = _with_quorums(greeted(session), wanted)
    asked: tuple[Query, ...] = tuple(
        dict.fromkeys(query for leaf in wanted for query in leaf.queries())
    )
    try:
        if any(isinstance(leaf, InstanceIs) for leaf in wanted):
            live = attrs.evolve(live, instance=await session.instance(limit_s=limit_s))
        for query, reply in zip(asked, await _answers(session, asked, limit_s), strict=True):
            live = with_reply(live, query, reply)
            on_reply(reply)
    except CommandUnknown as error:
        if session.closed:
            return Unreachable(why=str(error))
        return Unresponsive(why=str(error), oob=True)
    except (RemoteError, ParseError) as error:
        return Unreachable(why=str(error))
    return _latched(live, session, wanted, marks)


async def _answers(session: Session, asked: tuple[Query, ...], limit_s: float) -> list[object]:
    """Send all questions at once, and return the replies in the same order.

    query-yank is sent out of band: it only has to show that QEMU answers.
    """
    sent = [session.send(query, oob=isinstance(query, QueryYank)) for query in asked]
    return [await one.reply(limit_s) for one in sent]


def _with_quorums(live: Live, wanted: list[Leaf]) -> Live:
    """The node with the quorums that the conditions name, as yet without children.

    A reply about the block graph does not say which of its nodes are quorums.
    """
    named = {
        leaf.quorum: () for leaf in wanted if isinstance(leaf, ChildIs | Committed | Replicates)
    }
    return attrs.evolve(live, children=named) if named else live


def _latched(live: Live, session: Session, wanted: list[Leaf], marks: Marks) -> Live:
    """The node with what the session learned from events, checkpoints included."""
    seen = with_latched(live, session)
    since = [leaf.since for leaf in wanted if isinstance(leaf, CheckpointSeen)]
    if not since:
        return seen
    proven = all(_checkpoint(session, marks.get(address)) for address in since)
    return attrs.evolve(seen, proven=proven)


def _checkpoint(session: Session, mark: Mapping[str, int] | None) -> bool:
    """Whether a whole checkpoint came after a step; False if the step was not sent."""
    return mark is not None and session.checkpoint_since(mark[session.node])

"""An agent, which keeps the nodes of one host while other agents keep those of other hosts."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import final

from pycolo.errors import DeclarationError
from pycolo.hosts import Host
from pycolo.model import ColoPair
from pycolo.observers import Observer
from pycolo.qmp.replies import Version
from pycolo.supervise._arbitration import Arbitration
from pycolo.supervise._events import EventKind
from pycolo.supervise.arbiter import Arbiter
from pycolo.supervise.fences import FenceDevice
from pycolo.supervise.guard import Guard
from pycolo.supervise.supervisor import RESYNCS, Keeping


@final
class Agent(Keeping):
    """Keeps the nodes of its own host; every other host of the pairs has an agent of its own.

    The agents agree through an arbiter, which holds each pair's record, so that an agent can take
    over without reaching another host. The agent of the node with the newest data launches QEMUs
    and protects the guest; for that it reaches the other hosts. An async context manager, entered
    once; it keeps the pairs while the block lasts.

    If the arbiter holds no record of a pair and the hosts have some in files, the agent of the
    holder puts the newest one into the arbiter, once every node's file can be read. If the file of
    a node that may run alone is absent, a person must decide.

    Only one agent may keep a node at a time. `pycolo agent` holds a lock in its store for that; an
    `Agent` takes none. A program of your own must hold a lock for each node until its process ends,
    such as by `flock`: with two agents of a node, a guest that shut down might be booted again, and
    two guests might answer.

    Args:
        pairs: The declarations; each name once.
        nodes: Pair name to the node that runs on this host.
        hosts: Pair name to node name to its host, spares included. They are not closed.
        arbiter: Holds the pairs' records; it is not closed.
        guards: Pair name to this host's fuse for the pair's node. Without a fuse, the
            silence of this host's agent alone never lets the pair's other node take over.
        fences: Pair name to node name to the fences of that node, for the nodes of other hosts.
            They are tried in their order, after the node's host was asked and the fences of the
            pair file have failed.
        observer: Is called with what every execution does; None for none.
        resyncs: How many resyncs may run at once, 1 or more. A failover never waits for one.
        assume_good: QEMU versions that the operator vouches for.

    Raises:
        DeclarationError: Two pairs have one name, a node has no host, a pair has no such node,
            `fences` names a pair or node that there is not, a fence breaks a rule of `FenceDevice`,
            or `resyncs` is below 1. When the agent is entered: there are more pairs than this
            process may have files open for.
    """

    def __init__(
        self,
        pairs: Sequence[ColoPair],
        nodes: Mapping[str, str],
        hosts: Mapping[str, Mapping[str, Host]],
        arbiter: Arbiter,
        *,
        guards: Mapping[str, Guard] | None = None,
        fences: Mapping[str, Mapping[str, Sequence[FenceDevice]]] | None = None,
        observer: Observer | None = None,
        resyncs: int = RESYNCS,
        assume_good: Collection[Version] = (),
    ) -> None:
        self._arbiter = arbiter
        self._nodes = dict(nodes)
        known = guards or {}
        arbitrations = {
            pair.name: self._arbitration(
                pair, nodes.get(pair.name), hosts.get(pair.name, {}), known.get(pair.name)
            )
            for pair in pairs
        }
        super().__init__(
            pairs,
            {name: one.hosts for name, one in arbitrations.items()},
            arbitrations,
            fences=fences,
            observer=observer,
            resyncs=resyncs,
            assume_good=assume_good,
        )

    def _arbitration(
        self, pair: ColoPair, node: str | None, hosts: Mapping[str, Host], guard: Guard | None
    ) -> Arbitration:
        if node is None or node not in pair.names:
            rule = f"name a node of {pair.name}: {', '.join(pair.names)}"
            raise DeclarationError(f"nodes[{pair.name}]", node, rule)
        return Arbitration(
            pair,
            node,
            hosts,
            self._arbiter,
            guard=guard,
            wake=functools.partial(self._wake, pair.name),
            tell=functools.partial(self._report, pair.name, node),
        )

    def add(
        self,
        pair: ColoPair,
        node: str,
        hosts: Mapping[str, Host],
        *,
        guard: Guard | None = None,
        fences: Mapping[str, Sequence[FenceDevice]] | None = None,
    ) -> None:
        """Keep one more pair from now on.

        Args:
            pair: The declaration.
            node: The node of the pair that runs on this host.
            hosts: Node name to its host, spares included. They are not closed.
            guard: This host's fuse for that node; None for none.
            fences: Node name to the fences of that node, as for an `Agent`.

        Raises:
            DeclarationError: The agent has a pair of this name, the pair has no such node, a node
                has no host, `fences` names no node of the pair or a fence breaks a rule, or there
                are more pairs than this process may have files open for. Nothing was changed.
        """
        one = self._arbitration(pair, node, hosts, guard)
        self._add(pair, one.hosts, fences, one)
        self._nodes[pair.name] = node

    async def change(
        self,
        pair: ColoPair,
        hosts: Mapping[str, Host],
        *,
        guard: Guard | None = None,
        fences: Mapping[str, Sequence[FenceDevice]] | None = None,
    ) -> None:
        """Keep a pair by another declaration from now on, such as one with another spare.

        No QEMU is changed by that: each value takes effect when it is used next, as after a restart
        of the agent. The hosts that were given before are not used any more once this returns. The
        node of this host stays the same.

        Args:
            pair: The declaration; its name is that of a pair which the agent has.
            hosts: Node name to its host, spares included. They are not closed.
            guard: This host's fuse for its node; None for none. It replaces the one that was given
                before.
            fences: Node name to the fences of that node; they replace those that were given before.

        Raises:
            RefusedError: A plan is executed for the pair. Nothing was changed.
            DeclarationError: The agent has no such pair, a node has no host, `fences` names no node
                of the pair or a fence breaks a rule, or the declaration lacks this host's node or
                one that the pair's record names. Nothing was changed.
        """
        self._kept_by(pair.name)
        one = self._arbitration(pair, self._nodes[pair.name], hosts, guard)
        await self._change(pair, one.hosts, fences, one)

    def _wake(self, pair: str) -> None:
        """Have a pair observed again, since its arbiter may hold something new."""
        if pair in self._keepers:
            self._keepers[pair].wake()

    def _report(self, pair: str, node: str, kind: EventKind, text: str) -> None:
        """Tell what is wrong with the arbiter or the fuse, as this host sees it."""
        if pair in self._keepers:
            self._keepers[pair].report(kind, text, node)

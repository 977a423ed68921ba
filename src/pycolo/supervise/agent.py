"""An agent, which keeps the nodes of one host while other agents keep those of other hosts."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import final

from typing_extensions import override

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
    holder puts the newest one into the arbiter, once every node's file can be read.

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
            `fences` names a pair or node that there is not, a fence has no name or no limit, or
            `resyncs` is below 1. When the agent is entered: there are more pairs than this process
            may have files open for.
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
        self._nodes = nodes
        for pair in pairs:
            if nodes.get(pair.name) not in pair.names:
                rule = f"name a node of {pair.name}: {', '.join(pair.names)}"
                raise DeclarationError(f"nodes[{pair.name}]", nodes.get(pair.name), rule)
        self._arbitrations = {
            pair.name: Arbitration(
                pair,
                nodes[pair.name],
                hosts.get(pair.name, {}),
                arbiter,
                guard=(guards or {}).get(pair.name),
                wake=functools.partial(self._wake, pair.name),
                tell=functools.partial(self._report, pair.name),
            )
            for pair in pairs
        }
        super().__init__(
            pairs,
            {name: one.hosts for name, one in self._arbitrations.items()},
            self._arbitrations,
            fences=fences,
            observer=observer,
            resyncs=resyncs,
            assume_good=assume_good,
        )

    @override
    async def _enter(self, stack: contextlib.AsyncExitStack) -> None:
        for one in self._arbitrations.values():
            await stack.enter_async_context(one)

    def _wake(self, pair: str) -> None:
        """Have a pair observed again, since its arbiter may hold something new."""
        self._keepers[pair].wake()

    def _report(self, pair: str, kind: EventKind, text: str) -> None:
        """Tell what is wrong with the arbiter or the fuse, as this host sees it."""
        self._keepers[pair].report(kind, text, self._nodes[pair])

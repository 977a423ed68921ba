"""Make the `Host` of each node from the declaration."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import final

import attrs

from pycolo._json import kebab
from pycolo.errors import ConnectionFailed, HostRefused
from pycolo.evidence import Evidence, Victim
from pycolo.facts import HostFacts, NoFacts, Part
from pycolo.helper import far
from pycolo.hosts import Host, HostState
from pycolo.hosts.local import LocalHost
from pycolo.model.node import Monitor, Node
from pycolo.model.pair import ColoPair
from pycolo.plan import HostAction
from pycolo.qmp.replies import Version
from pycolo.record import Change, UnreadRecord
from pycolo.session import open_monitor


@asynccontextmanager
async def hosts_of(pair: ColoPair, own: str | None = None) -> AsyncGenerator[Mapping[str, Host]]:
    """Open the hosts of all nodes, spares included, as the declaration says how to reach them.

    A node with `ssh` is reached over ssh; any other node is taken to be on this machine. If the
    address of such a node is not an address of this machine, nothing can be read or done on its
    host, and each refusal says so.

    Args:
        pair: The declaration.
        own: The node that runs on this machine, even if it declares `ssh` for other machines; None
            if there is no such node.

    Yields:
        Node name to its host; all are closed when the block is left.

    Raises:
        ModuleNotFoundError: A node has `ssh`, and the extra `ssh` is not installed.
        DeclarationError: The pair has no node of the name `own`.
    """
    if own is not None:
        pair.node(own)
    async with AsyncExitStack() as stack:
        hosts: dict[str, Host] = {}
        for index, node in enumerate(pair.all_nodes):
            host = LocalHost() if node.name == own else await _host(node, f"nodes[{index}]")
            hosts[node.name] = host
            stack.push_async_callback(host.aclose)
        yield hosts


async def _host(node: Node, field: str) -> Host:
    if node.ssh is not None:
        from pycolo.hosts.ssh import SshHost  # noqa: PLC0415 - an extra, imported where it is used

        return SshHost(node)
    why = await asyncio.to_thread(_why_elsewhere, node, field)
    return LocalHost() if why is None else NoWay(why=why)


def _why_elsewhere(node: Node, field: str) -> str | None:
    try:
        here = far.is_here(address=node.address)["here"]
    except far.Refused as error:
        return f"{field}.address: {error}"
    if here:
        return None
    return f"{node.address} is no address of this machine: set {field}.ssh, the way to its host"


@final
@attrs.frozen(kw_only=True)
class NoWay:
    """A host that cannot be reached as declared; only forwarded monitors can be used."""

    why: str
    "Why the host cannot be reached."

    async def connect(self, node: str, monitor: Monitor) -> socket.socket:
        """Open a socket to a monitor, without the host; see `Host.connect`.

        The monitor may be a socket on this machine that is forwarded to the host.
        """
        try:
            return await open_monitor(node, monitor)
        except ConnectionFailed as error:
            raise ConnectionFailed(node, error.address, f"{error.why}; {self.why}") from error

    async def observe(self, pair: ColoPair, node: str, *, limit_s: float) -> HostState:  # noqa: ARG002 - a Host's
        """Return an `UnreadRecord` that says why."""
        return HostState(record=UnreadRecord(why=self.why))

    async def write(self, pair: ColoPair, node: str, change: Change, *, limit_s: float) -> None:  # noqa: ARG002 - a Host's
        """Raise HostRefused: no record can be written."""
        raise HostRefused(node, "write-record", self.why)

    async def run(self, pair: ColoPair, node: str, action: HostAction, *, limit_s: float) -> str:  # noqa: ARG002 - a Host's
        """Raise HostRefused: no action can be done."""
        raise HostRefused(node, kebab(type(action)), self.why)

    async def death(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:  # noqa: ARG002 - a Host's
        """Return None: there is no evidence."""
        return None

    async def ended(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:  # noqa: ARG002 - a Host's
        """Return None at once: there is no evidence."""
        return None

    async def version(self, pair: ColoPair, node: str, *, limit_s: float) -> Version:  # noqa: ARG002 - a Host's
        """Raise HostRefused: no version can be read."""
        raise HostRefused(node, "launch-qemu", self.why)

    async def facts(
        self,
        pair: ColoPair,  # noqa: ARG002 - a Host's
        node: str,  # noqa: ARG002 - a Host's
        parts: Collection[Part],  # noqa: ARG002 - a Host's
        *,
        limit_s: float,  # noqa: ARG002 - a Host's
    ) -> HostFacts | NoFacts:
        """Return `NoFacts` that say why."""
        return NoFacts(why=self.why)

    async def aclose(self) -> None:
        """Do nothing: nothing is kept open."""

"""Several pairs on the same hosts: which of their ports collide.

A pair declares its ports for itself, and a host may run QEMUs of many pairs. Nothing that one pair
knows tells that; whoever places the pairs does.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from typing import Final, final

import attrs
from typing_extensions import override

from pycolo.errors import DeclarationError
from pycolo.model.node import TcpMonitor
from pycolo.model.pair import BASE_MAX, ColoPair, host_key

_EVERY_ADDRESS: Final = ("0.0.0.0", "::", "")  # noqa: S104 - looked for, not bound
_ROUND: Final = 20


@final
@attrs.frozen(kw_only=True)
class Listener:
    """A TCP port on which a node's QEMU listens, now or after a failover."""

    pair: str
    "The pair's name."
    node: str
    "The node's name."
    field: str
    "What declares it, as a path from the pair."
    address: str
    "The address that it is bound to."
    port: int
    "The port."

    @override
    def __str__(self) -> str:
        """Name what declares it."""
        return f"{self.pair}/{self.node} {self.field}"


@final
@attrs.frozen(kw_only=True)
class PortCollision:
    """Two QEMUs that would listen on one port of one host."""

    host: str
    "The host, as the caller names it."
    port: int
    "The port."
    first: Listener
    "One of them."
    second: Listener
    "The other one, of another pair."

    @override
    def __str__(self) -> str:
        """Name the host, the port and both sides."""
        return f"port {self.port} of {self.host}: {self.first} and {self.second}"


def port_collisions(
    pairs: Collection[ColoPair], hosts: Mapping[str, Mapping[str, str]] | None = None
) -> tuple[PortCollision, ...]:
    """Find the ports that several pairs would use on one host, before anything is launched.

    Each node of a pair, spares included, may become primary or secondary, so it counts with all
    ports of its pair. Two that listen on different addresses of a host do not collide, unless one
    of these is the address of all.

    Args:
        pairs: The pairs, each under a name of its own.
        hosts: Pair name to node name to whatever tells one host from the others. If None, nodes
            with one address are on one host, and each with a loopback address is on this one.

    Returns:
        Each two that collide, by host and port; empty if every pair can be launched.

    Raises:
        DeclarationError: Two pairs have one name, or a node has no host.
    """
    return tuple(_collisions(pairs, hosts))


def _collisions(
    pairs: Collection[ColoPair], hosts: Mapping[str, Mapping[str, str]] | None
) -> Iterator[PortCollision]:
    if hosts is None:
        hosts = {p.name: {node.name: host_key(node) for node in p.all_nodes} for p in pairs}
    names = [pair.name for pair in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DeclarationError("pairs", twice, "be given once: a pair's name tells it from others")
    used: dict[tuple[str, int], list[Listener]] = {}
    for pair in pairs:
        for listener in _listeners(pair):
            host = hosts.get(pair.name, {}).get(listener.node)
            if host is None:
                rule = f"name the host of {listener.node}"
                raise DeclarationError(f"hosts.{pair.name}", listener.node, rule)
            used.setdefault((host, listener.port), []).append(listener)
    for (host, port), listeners in sorted(used.items()):
        for first, second in itertools.combinations(listeners, 2):
            if first.pair != second.pair and _meet(first.address, second.address):
                yield PortCollision(host=host, port=port, first=first, second=second)


def refuse_collisions(pairs: Collection[ColoPair]) -> None:
    """Refuse pairs that would use one port of one host; see `port_collisions`.

    The second one would not start, or, worse, its secondary would join the first one's primary.

    Args:
        pairs: The pairs, each under a name of its own.

    Raises:
        DeclarationError: Two pairs have one name, or collide.
    """
    found = next(_collisions(pairs, None), None)
    if found is None:
        return
    first, second = found.first, found.second
    raise DeclarationError(
        f"{second.pair}: {second.field}",
        second.port,
        f"differ from {first.field} of {first.pair} on their host {found.host} (give"
        f" {second.pair} ports of its own, such as ports.base = {_unused_base(pairs)})",
    )


def _unused_base(pairs: Collection[ColoPair]) -> int:
    """A base above every port of the pairs; a round one, since people write it down."""
    last = max(listener.port for pair in pairs for listener in _listeners(pair))
    return min(-(-(last + 1) // _ROUND) * _ROUND, BASE_MAX)


def _listeners(pair: ColoPair) -> Iterator[Listener]:
    for node in pair.all_nodes:
        for field, port in pair.listening_ports:
            yield Listener(
                pair=pair.name, node=node.name, field=field, address=node.listen_address, port=port
            )
        for field, monitor in node.monitors:
            if isinstance(monitor, TcpMonitor):
                yield Listener(
                    pair=pair.name,
                    node=node.name,
                    field=field,
                    address=monitor.host,
                    port=monitor.port,
                )
        if node.vnc is not None and node.vnc.host is not None and node.vnc.port is not None:
            yield Listener(
                pair=pair.name,
                node=node.name,
                field="vnc.port",
                address=node.vnc.host,
                port=node.vnc.port,
            )


def _meet(first: str, second: str) -> bool:
    return first == second or first in _EVERY_ADDRESS or second in _EVERY_ADDRESS

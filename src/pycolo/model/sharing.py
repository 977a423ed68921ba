"""Several pairs on the same hosts: which of their ports collide.

A declaration describes one pair, but a host may run QEMUs of many pairs, which need different
ports. So collisions are found from the declarations of all pairs that share hosts.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from typing import Final, final

import attrs
from typing_extensions import override

from pycolo.errors import DeclarationError
from pycolo.model._places import normal
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
    "The field that declares the port, as a path from the pair."
    address: str
    "The address that the port is bound to."
    port: int
    "The port."

    @override
    def __str__(self) -> str:
        """Name the pair and the field that declares the port."""
        return f"{self.pair}/{self.node} {self.field}"


@final
@attrs.frozen(kw_only=True)
class PortCollision:
    """Two listeners, of two pairs, that would use one port of one host."""

    host: str
    "The host, as the caller names it."
    port: int
    "The port."
    first: Listener
    "One of the two listeners."
    second: Listener
    "The other listener, of another pair."

    @override
    def __str__(self) -> str:
        """Name the host, the port and both sides."""
        return f"port {self.port} of {self.host}: {self.first} and {self.second}"


def port_collisions(
    pairs: Collection[ColoPair], hosts: Mapping[str, Mapping[str, str]] | None = None
) -> tuple[PortCollision, ...]:
    """Find the ports that several pairs would use on one host, before anything is launched.

    Each node of a pair, spares included, may become primary or secondary, so it counts with all
    ports of its pair. Two listeners on different addresses of a host do not collide, unless one of
    the addresses is `0.0.0.0` or `::`.

    Args:
        pairs: The pairs, each under a name of its own.
        hosts: For each pair's name, node name to a text that identifies the node's host. If None,
            nodes with equal addresses are on one host, and all nodes with loopback addresses too.

    Returns:
        Each two listeners that collide, ordered by host and port; empty if there are none.

    Raises:
        DeclarationError: Two pairs have one name, or a node has no host.
    """
    return tuple(_collisions(pairs, hosts))


def _collisions(
    pairs: Collection[ColoPair], hosts: Mapping[str, Mapping[str, str]] | None
) -> Iterator[PortCollision]:
    """The collisions one by one; see `port_collisions`."""
    if hosts is None:
        hosts = {p.name: {node.name: host_key(node) for node in p.all_nodes} for p in pairs}
    names = [pair.name for pair in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DeclarationError("pairs", twice, "be given once: a pair's name tells it from others")
    used: dict[tuple[str, int], list[Listener]] = {}
    for pair in pairs:
        for listener in _listeners(pair):
            known = hosts.get(pair.name, {})
            host = known.get(listener.node)
            if host is None:
                rule = f"have an entry for {listener.node}"
                raise DeclarationError(f"hosts.{pair.name}", dict(known), rule)
            used.setdefault((host, listener.port), []).append(listener)
    for (host, port), listeners in sorted(used.items()):
        for first, second in itertools.combinations(listeners, 2):
            if first.pair != second.pair and _meet(first.address, second.address):
                yield PortCollision(host=host, port=port, first=first, second=second)


def refuse_collisions(pairs: Collection[ColoPair]) -> None:
    """Refuse pairs that would use one port or one file of one host.

    The second pair's QEMU would not start. Or, worse, its secondary would connect to the primary of
    the first pair, or would empty overlays that hold the first pair's writes. Which nodes share a
    host is decided as by `port_collisions` without hosts; links between files are not followed.

    Args:
        pairs: The pairs, each under a name of its own.

    Raises:
        DeclarationError: Two pairs have one name, or collide.
    """
    found = next(_collisions(pairs, None), None)
    if found is None:
        _refuse_shared_files(pairs)
        return
    first, second = found.first, found.second
    raise DeclarationError(
        f"{second.pair}: {second.field}",
        second.port,
        f"differ from {first.field} of {first.pair} on their host {found.host} (give"
        f" {second.pair} ports of its own, such as ports.base = {_unused_base(pairs)})",
    )


def _refuse_shared_files(pairs: Collection[ColoPair]) -> None:
    """Refuse two pairs that write to one file of one host."""
    written: dict[tuple[str, str], tuple[str, str]] = {}
    for pair in pairs:
        for node in pair.all_nodes:
            for what, path in pair.paths(node.name):
                place = f"{node.name}: {what}"
                first, other = written.setdefault(
                    (host_key(node), normal(path)), (pair.name, place)
                )
                if first != pair.name:
                    rule = f"differ from {other} of {first}, on the same host"
                    raise DeclarationError(f"{pair.name}: {place}", path, rule)


def _unused_base(pairs: Collection[ColoPair]) -> int:
    """A round number above every port of the pairs, at most the highest base that is allowed."""
    last = max(listener.port for pair in pairs for listener in _listeners(pair))
    return min(-(-(last + 1) // _ROUND) * _ROUND, BASE_MAX)


def _listeners(pair: ColoPair) -> Iterator[Listener]:
    """Every TCP port on which a pair's QEMUs may listen, monitors and VNC included."""
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
    """Whether two addresses of one host cannot be used for the same port."""
    return first == second or first in _EVERY_ADDRESS or second in _EVERY_ADDRESS

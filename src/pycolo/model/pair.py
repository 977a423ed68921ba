"""The whole declaration of one fault-tolerant VM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, final

import attrs

from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules
from pycolo.model.disk import DiskIds, ReplicationDisk
from pycolo.model.filters import ChainIds, ChainPorts, FilterChain, Netdev
from pycolo.model.machine import Machine
from pycolo.model.node import Node, UnixMonitor

CHECKPOINT_DELAY_MAX_MS = 2**32 - 1


@final
@attrs.frozen(kw_only=True)
class Ports:
    """TCP ports on the secondary's host that all disks and the RAM share (qemu-behaviour 3.10)."""

    migration: int = attrs.field(default=9998, validator=rules.valid(rules.port))
    "RAM and device state."
    nbd: int = attrs.field(default=9999, validator=rules.valid(rules.port))
    "Disk writes."


@final
@attrs.frozen(kw_only=True)
class Timeouts:
    """How long the steps of a plan may take, in seconds, each greater than 0."""

    command_s: float = attrs.field(default=10.0, validator=rules.valid(rules.seconds))
    "One QMP command until its reply."
    connect_s: float = attrs.field(default=10.0, validator=rules.valid(rules.seconds))
    "The chain's sockets, from both ends up to connected."
    resync_s: float = attrs.field(default=86400.0, validator=rules.valid(rules.seconds))
    "A whole disk copied to the new secondary, or merged after a promotion."
    migration_s: float = attrs.field(default=3600.0, validator=rules.valid(rules.seconds))
    "The RAM's first copy, while the guest runs."
    entry_s: float = attrs.field(default=60.0, validator=rules.valid(rules.seconds))
    "From switch-over to both guests running in COLO, while the guest stands still."
    checkpoint_s: float = attrs.field(default=60.0, validator=rules.valid(rules.seconds))
    "A forced checkpoint on both sides."
    failover_s: float = attrs.field(default=30.0, validator=rules.valid(rules.seconds))
    "From the order to fail over to the guest running."


def _two(nodes: Iterable[Node]) -> tuple[Node, Node]:
    both = tuple(nodes)
    if len(both) != 2:  # noqa: PLR2004 - a pair
        raise DeclarationError("ColoPair.nodes", [n.name for n in both], "be exactly two nodes")
    return both[0], both[1]


def _numbered_disks(disks: Iterable[ReplicationDisk]) -> tuple[ReplicationDisk, ...]:
    return tuple(
        attrs.evolve(disk, ids=disk.ids or DiskIds.numbered(n)) for n, disk in enumerate(disks)
    )


def _numbered_chains(chains: Iterable[FilterChain]) -> tuple[FilterChain, ...]:
    return tuple(
        attrs.evolve(
            chain,
            ids=chain.ids or ChainIds.numbered(n),
            ports=chain.ports or ChainPorts.numbered(n),
        )
        for n, chain in enumerate(chains)
    )


@final
@attrs.frozen(kw_only=True)
class ColoPair:
    """One guest, run twice in lock-step on two nodes.

    Args:
        nodes: The two nodes. The first is primary at the very first launch; afterwards who is
            primary is read from QEMU, never from here.
        machine: The guest's hardware.
        disks: Replicated disks, in the guest's order; the first is number 0.
        chains: Network cards, in the guest's order; the first is number 0.
        spares: Further nodes that can take a dead one's place (`replacing`).
        name: What the pair is called, an id; part of each QEMU's identity.
        checkpoint_delay_ms: The longest time between two checkpoints, 1 to 4294967295.
            4294967295 puts checkpoints off for good (qemu-behaviour 1.7, 4.11).
        ports: Ports that all disks and the RAM share.
        timeouts: Limits of the plan's steps.
        multifd: Send the RAM over several connections; needs QEMU 11.0 (qemu-behaviour 2.4).
        initial_sync: `full` copies each disk to the secondary at the first start; `identical`
            is the operator's word that the images are equal.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    nodes: tuple[Node, Node] = attrs.field(
        converter=_two, validator=rules.valid(rules.each(rules.instance_of(Node)))
    )
    machine: Machine = attrs.field(
        factory=Machine, validator=rules.valid(rules.instance_of(Machine))
    )
    disks: tuple[ReplicationDisk, ...] = attrs.field(
        default=(),
        converter=_numbered_disks,
        validator=rules.valid(rules.each(rules.instance_of(ReplicationDisk))),
    )
    chains: tuple[FilterChain, ...] = attrs.field(
        default=(),
        converter=_numbered_chains,
        validator=rules.valid(rules.each(rules.instance_of(FilterChain))),
    )
    spares: tuple[Node, ...] = attrs.field(
        default=(),
        converter=rules.as_tuple,
        validator=rules.valid(rules.each(rules.instance_of(Node))),
    )
    name: str = attrs.field(default="colo", validator=rules.valid(rules.identifier))
    checkpoint_delay_ms: int = attrs.field(
        default=20000, validator=rules.valid(rules.whole(1, CHECKPOINT_DELAY_MAX_MS))
    )
    ports: Ports = attrs.field(factory=Ports, validator=rules.valid(rules.instance_of(Ports)))
    timeouts: Timeouts = attrs.field(
        factory=Timeouts, validator=rules.valid(rules.instance_of(Timeouts))
    )
    multifd: bool = attrs.field(default=False, validator=rules.valid(rules.boolean))
    initial_sync: Literal["full", "identical"] = attrs.field(
        default="full", validator=rules.valid(rules.one_of("full", "identical"))
    )

    def __attrs_post_init__(self) -> None:
        self._check_nodes()
        self._check_ids()
        self._check_ports()
        self._check_images()
        self._check_sockets()

    def node(self, name: str) -> Node:
        """The node of that name, spares included.

        Raises:
            DeclarationError: There is none.
        """
        for node in (*self.nodes, *self.spares):
            if node.name == name:
                return node
        known = ", ".join(node.name for node in (*self.nodes, *self.spares))
        raise DeclarationError("node", name, f"be one of {known}")

    def peer_of(self, name: str) -> Node:
        """The other node of the pair.

        Raises:
            DeclarationError: The name is not one of the pair's two.
        """
        first, second = self.nodes
        if name == first.name:
            return second
        if name == second.name:
            return first
        raise DeclarationError("node", name, f"be one of {first.name}, {second.name}")

    def replacing(self, old: str, new: Node) -> ColoPair:
        """The same pair with another node in the place of `old`.

        The one that leaves becomes a spare; one that was a spare no longer is.

        Raises:
            DeclarationError: `old` is not one of the pair's two, or the new pair breaks a rule.
        """
        leaving = self.node(old)
        self.peer_of(old)
        if leaving == new:
            return self
        nodes = tuple(new if node.name == old else node for node in self.nodes)
        spares = tuple(node for node in self.spares if node.name != new.name)
        return attrs.evolve(self, nodes=nodes, spares=(*spares, leaving))

    def _check_nodes(self) -> None:
        everyone = (*self.nodes, *self.spares)
        named = [(f"nodes[{n}]", node.name) for n, node in enumerate(everyone)]
        rules.distinct("ColoPair.nodes", named, "not be used twice")
        for chain in self.chains:
            for name, netdev in chain.netdevs.items():
                rules.instance_of(Netdev)(f"FilterChain.netdevs.{name}", netdev)
                self.node(name)

    def _check_ids(self) -> None:
        rules.distinct("ColoPair.ids", self._ids(), "not be used twice")

    def _ids(self) -> Iterator[tuple[str, object]]:
        # Block nodes, devices, netdevs, chardevs and objects have name spaces of their own in
        # QEMU; one space for all keeps a plan readable and costs nothing.
        for n, disk in enumerate(self.disks):
            yield from rules.fields_of(disk.names, f"disks[{n}].ids")
        for n, chain in enumerate(self.chains):
            yield from rules.fields_of(chain.names, f"chains[{n}].ids")

    def _check_ports(self) -> None:
        named = list(rules.fields_of(self.ports, "ports"))
        for n, chain in enumerate(self.chains):
            named += rules.fields_of(chain.proxy_ports, f"chains[{n}].ports")
        rules.distinct("ColoPair.ports", named, "not be used twice on one host")

    def _check_images(self) -> None:
        named = []
        for place, node in enumerate((*self.nodes, *self.spares)):
            host = node.address
            for n, disk in enumerate(self.disks):
                for kind in ("image", "active_image", "hidden_image"):
                    path = node.image_path(getattr(disk, kind))
                    named.append((f"nodes[{place}] disks[{n}].{kind}", (host, path)))
        rules.distinct("ColoPair.disks", named, "not be used twice on one host")
        self._check_one_machine()

    def _check_one_machine(self) -> None:
        # Loopback addresses differ and are one host all the same (qemu-behaviour 3.12).
        local = [node for node in (*self.nodes, *self.spares) if node.address.startswith("127.")]
        folders = [(node.name, node.image_folder.rstrip("/")) for node in local]
        if self.disks:
            rules.distinct("ColoPair.nodes", folders, "not be used by two nodes of one host")

    def _check_sockets(self) -> None:
        for node in (*self.nodes, *self.spares):
            for chain in self.chains:
                node.socket_path(chain.names.compare_local)
                node.socket_path(chain.names.compare_out)
        local = [
            (f"{node.name}.{kind}", monitor.path)
            for node in (*self.nodes, *self.spares)
            for kind, monitor in _monitors(node).items()
            if isinstance(monitor, UnixMonitor) and node.address.startswith("127.")
        ]
        rules.distinct("ColoPair.nodes", local, "not be used twice on one host")


def _monitors(node: Node) -> Mapping[str, object]:
    return {"control": node.control_monitor, "observer": node.observer_monitor}

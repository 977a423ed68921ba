"""The whole declaration of one fault-tolerant VM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, final

import attrs

from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules
from pycolo.model._places import normal, normal_host
from pycolo.model.disk import DiskIds, ReplicationDisk
from pycolo.model.filters import ChainIds, ChainPorts, FilterChain, Netdev
from pycolo.model.hardware import CHANNEL_ID
from pycolo.model.machine import Machine
from pycolo.model.migration import Migration
from pycolo.model.node import Node, TcpMonitor, UnixMonitor, is_loopback
from pycolo.model.supervision import Supervision
from pycolo.model.tls import IDS, X509, Psk, Tls

CHECKPOINTS_OFF_MS = 2**32 - 1
# Leaves room for the ports of a hundred cards.
BASE_MAX = 65000
# The kernel's folder of links that are named after each device's own identity.
ONE_DEVICE = "/dev/disk/by-id/"
RUN_ROOT = "/run/pycolo"
SERIAL_LOG = "serial.log"
QEMU_LOG = "qemu.stderr"
VNC_SOCKET = "vnc"
# The suffixes of the files that a host keeps beside a file that it replaces as a whole.
BESIDE = (".lock", ".spare")


def _migration_port(ports: Ports) -> int:
    return _following(ports, 0, otherwise=9998)


def _nbd_port(ports: Ports) -> int:
    return _following(ports, 1, otherwise=9999)


def _following(ports: Ports, n: int, *, otherwise: int) -> int:
    """The port `n` after the base, or `otherwise` without a base."""
    # This runs before the base is validated.
    return ports.base + n if isinstance(ports.base, int) else otherwise


@final
@attrs.frozen(kw_only=True)
class Ports:
    """Two TCP ports on the secondary's host, for the RAM and all disks (qemu-behaviour 3.10)."""

    base: int | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.Whole(1, BASE_MAX)))
    )
    """The first of the pair's ports, 1 to 65000. Ports that are not given are counted from it, two
    for the pair, then four for each card. Without a base they are those of QEMU's document, which
    are the same in each pair."""
    migration: int = attrs.field(
        default=attrs.Factory(_migration_port, takes_self=True), validator=rules.Valid(rules.port)
    )
    "The port for RAM and device state; if not given, `base`, or 9998 without a base."
    nbd: int = attrs.field(
        default=attrs.Factory(_nbd_port, takes_self=True), validator=rules.Valid(rules.port)
    )
    """The port for the disks, for the first copy and all writes after it; if not given, `base` + 1,
    or 9999 without a base."""

    def of_chain(self, n: int) -> ChainPorts:
        """The ports for the n-th chain, from 0, if it declares none."""
        return ChainPorts.numbered(n) if self.base is None else ChainPorts.from_base(self.base, n)


@final
@attrs.frozen(kw_only=True)
class Timeouts:
    """How long the steps of a plan may take, in seconds, each greater than 0."""

    command_s: float = attrs.field(default=10.0, validator=rules.Valid(rules.seconds))
    "A QMP command, until its reply."
    connect_s: float = attrs.field(default=10.0, validator=rules.Valid(rules.seconds))
    "The connecting of a chain's sockets, until both ends are connected."
    resync_s: float = attrs.field(default=86400.0, validator=rules.Valid(rules.seconds))
    "The copy of a whole disk to the new secondary, or the merge of its overlays after a promotion."
    migration_s: float = attrs.field(default=3600.0, validator=rules.Valid(rules.seconds))
    "The first copy of the RAM, while the guest runs."
    stall_s: float = attrs.field(default=30.0, validator=rules.Valid(rules.seconds))
    "How long a copy of a disk or of the RAM may receive no byte before it counts as stalled."
    entry_s: float = attrs.field(default=60.0, validator=rules.Valid(rules.seconds))
    "From switch-over to both guests running in COLO, while the guest is paused."
    checkpoint_s: float = attrs.field(default=60.0, validator=rules.Valid(rules.seconds))
    "A forced checkpoint on both sides."
    failover_s: float = attrs.field(default=30.0, validator=rules.Valid(rules.seconds))
    "From the command that ends COLO until the guest runs."
    shutdown_s: float = attrs.field(default=120.0, validator=rules.Valid(rules.seconds))
    "From the power button until the guest has powered itself off."


def _all(nodes: Iterable[Node]) -> tuple[Node, ...]:
    return tuple(nodes)


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
        attrs.evolve(chain, ids=chain.ids or ChainIds.numbered(n)) for n, chain in enumerate(chains)
    )


@final
@attrs.frozen(kw_only=True)
class ColoPair:
    """One guest, run twice in lock-step on two nodes.

    Each node without a run directory, and each card without ports, is given those of this pair. A
    copy by `attrs.evolve` keeps them.

    Args:
        name: The pair's name, an id in QEMU's sense; part of the identity of each QEMU and of the
            record.
        nodes: The two nodes. The first one is primary at the very first launch. Afterwards QEMU
            and the record show which node is primary, never the declaration.
        machine: The guest's hardware.
        disks: Replicated disks, in the guest's order; the first is number 0.
        chains: Network cards, in the guest's order; the first is number 0.
        spares: Further nodes that can take a dead one's place (`replacing`).
        checkpoint_delay_ms: The longest time between two checkpoints, 1 to 4294967295.
            4294967295, 49 days, in effect puts checkpoints off (qemu-behaviour 1.7, 4.11).
        ports: The pair's TCP ports; pairs that share a host need different ones.
        timeouts: Limits of the plan's steps.
        migration: How the RAM is copied to a new secondary.
        initial_sync: `full` copies each disk to the secondary at the first start. `identical`
            means that the operator has put an equal image on each node: pycolo then creates and
            copies none, until the guest has run.
        tls: How all connections between the nodes are encrypted; None for not at all.
        supervision: The limits by which a supervisor acts.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    name: str = attrs.field(validator=rules.Valid(rules.pair_name))
    nodes: tuple[Node, Node] = attrs.field(
        converter=_two, validator=rules.Valid(rules.Each(rules.instance_of(Node)))
    )
    machine: Machine = attrs.field(
        factory=Machine, validator=rules.Valid(rules.instance_of(Machine))
    )
    disks: tuple[ReplicationDisk, ...] = attrs.field(
        default=(),
        converter=_numbered_disks,
        validator=rules.Valid(rules.Each(rules.instance_of(ReplicationDisk))),
    )
    chains: tuple[FilterChain, ...] = attrs.field(
        default=(),
        converter=_numbered_chains,
        validator=rules.Valid(rules.Each(rules.instance_of(FilterChain))),
    )
    spares: tuple[Node, ...] = attrs.field(
        default=(),
        converter=_all,
        validator=rules.Valid(rules.Each(rules.instance_of(Node))),
    )
    checkpoint_delay_ms: int = attrs.field(
        default=20000, validator=rules.Valid(rules.Whole(1, CHECKPOINTS_OFF_MS))
    )
    ports: Ports = attrs.field(factory=Ports, validator=rules.Valid(rules.instance_of(Ports)))
    timeouts: Timeouts = attrs.field(
        factory=Timeouts, validator=rules.Valid(rules.instance_of(Timeouts))
    )
    migration: Migration = attrs.field(
        factory=Migration, validator=rules.Valid(rules.instance_of(Migration))
    )
    initial_sync: Literal["full", "identical"] = attrs.field(
        default="full", validator=rules.Valid(rules.one_of("full", "identical"))
    )
    tls: Tls | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.instance_of(X509, Psk)))
    )
    supervision: Supervision = attrs.field(
        factory=Supervision, validator=rules.Valid(rules.instance_of(Supervision))
    )

    def __attrs_post_init__(self) -> None:
        self._place_nodes()
        self._place_chains()
        self._check_nodes()
        self._check_libvirt()
        self._check_chains()
        self._check_tls()
        self._check_disks()
        self._check_ids()
        self._check_ports()
        self._check_sockets()
        self._check_paths()
        self._check_supervision()

    def _check_supervision(self) -> None:
        """Check that a pair which works is not suspected between two checkpoints."""
        limit_s = self.supervision.no_checkpoint_s
        if limit_s is not None and limit_s * 1000 <= self.checkpoint_delay_ms:
            rule = f"be longer than checkpoint_delay_ms ({self.checkpoint_delay_ms})"
            raise DeclarationError("Supervision.no_checkpoint_s", limit_s, rule)

    def _place_nodes(self) -> None:
        """Give each node without a run directory the one that only this pair uses."""
        for field in ("nodes", "spares"):
            nodes: tuple[Node, ...] = getattr(self, field)
            placed = (self._placed(node, f"{field}[{n}]") for n, node in enumerate(nodes))
            object.__setattr__(self, field, tuple(placed))

    def _place_chains(self) -> None:
        """Give each chain without ports those of its place in the pair."""
        placed = tuple(
            attrs.evolve(chain, ports=chain.ports or self.ports.of_chain(n))
            for n, chain in enumerate(self.chains)
        )
        object.__setattr__(self, "chains", placed)

    def _placed(self, node: Node, place: str) -> Node:
        if node.run_dir is not None:
            return node
        run_dir = f"{RUN_ROOT}/{self.name}/{node.name}"
        try:
            return attrs.evolve(node, run_dir=run_dir)
        except DeclarationError as error:
            rule = f"be shorter, or have a run_dir: {run_dir} is too long for the paths of sockets"
            raise DeclarationError(f"ColoPair.{place}.name", node.name, rule) from error

    @property
    def all_nodes(self) -> tuple[Node, ...]:
        """The pair's two nodes, then its spares."""
        return (*self.nodes, *self.spares)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the pair's two nodes, then of its spares, each in the declared order."""
        return tuple(node.name for node in self.all_nodes)

    def node(self, name: str) -> Node:
        """The node of that name, spares included.

        Raises:
            DeclarationError: There is no such node.
        """
        for node in self.all_nodes:
            if node.name == name:
                return node
        known = ", ".join(self.names)
        raise DeclarationError("node", name, f"be one of {known}")

    def record_path(self, name: str) -> str:
        """The path, on a node's host, of the node's record of the pair.

        The file is named after the first image, so that two pairs that use the same image find each
        other's record.

        Raises:
            DeclarationError: There is no such node.
        """
        return self._state_path(name, "record.json")

    def process_path(self, name: str) -> str:
        """The path, on a node's host, of the file with the identity of its QEMU's process.

        Raises:
            DeclarationError: There is no such node.
        """
        return self._state_path(name, "process.json")

    def owner_paths(self, name: str) -> tuple[str, ...]:
        """The paths of the owner files of a node's images, on its host; without disks, of one file.

        Each lies beside its image, or in the image folder if the image is no file. It names
        the pair, the node and the path of the record. So pycolo notices if an image belongs to
        another node, or if its record is in another place.

        Raises:
            DeclarationError: There is no such node.
        """
        node = self.node(name)
        disks = [disk.on(name) for disk in self.disks]
        # A file beside a device, in /dev, would be lost at the next boot.
        stems = [disk.image if disk.is_file else disk.stem for disk in disks]
        stems = stems or [f"{self.name}.{name}"]
        return tuple(node.image_path(f"{stem}.owner.json") for stem in stems)

    def firmware_path(self, name: str) -> str:
        """The path, on a node's host, of its copy of the firmware's variables.

        Raises:
            DeclarationError: There is no such node.
        """
        return self.node(name).image_path(f"{self.name}.firmware.raw")

    def _state_path(self, name: str, what: str) -> str:
        """The path of a file in a node's state directory, named after the first image."""
        stem = self.disks[0].on(name).stem if self.disks else f"{self.name}.{name}"
        return self.node(name).state_path(f"{stem}.{what}")

    def peer_of(self, name: str) -> Node:
        """The other one of the pair's two nodes.

        Args:
            name: The name of one of the two.

        Raises:
            DeclarationError: The name is not one of the two, such as that of a spare.
        """
        first, second = self.nodes
        if name == first.name:
            return second
        if name == second.name:
            return first
        raise DeclarationError("node", name, f"be one of {first.name}, {second.name}")

    def replacing(self, old: str, new: Node) -> ColoPair:
        """The same pair with another node in the place of `old`.

        `old` becomes a spare. If `new` was a spare, it no longer is.

        Raises:
            DeclarationError: `old` is not one of the pair's two, or the new pair breaks a rule.
        """
        leaving = self.node(old)
        self.peer_of(old)
        nodes = tuple(new if node.name == old else node for node in self.nodes)
        spares = [node for node in self.spares if node.name != new.name]
        if leaving.name != new.name:
            spares.append(leaving)
        return attrs.evolve(self, nodes=nodes, spares=spares)

    def _places(self) -> tuple[tuple[str, Node], ...]:
        """Each node after its place in the declaration, such as `spares[0]`."""
        places = [(f"nodes[{n}]", node) for n, node in enumerate(self.nodes)]
        return (*places, *((f"spares[{n}]", node) for n, node in enumerate(self.spares)))

    def _check_nodes(self) -> None:
        names = [(f"{place}.name", node.name) for place, node in self._places()]
        rules.distinct("ColoPair", names, "a name is given once")
        folders = [
            (f"{place}.image_folder", (host_key(node), normal(node.image_folder)))
            for place, node in self._places()
        ]
        if self.disks:
            why = "two QEMUs on one host must not open the same image"
            rules.distinct("ColoPair", folders, why)

    def _check_libvirt(self) -> None:
        backend = self.machine.memory_backend
        for place, node in self._places():
            if node.libvirt is not None and backend is not None:
                field = "ColoPair.machine.memory_backend"
                rule = f"be absent with {place}.libvirt, which makes the RAM itself"
                raise DeclarationError(field, backend.kind, rule)

    def _check_chains(self) -> None:
        for n, chain in enumerate(self.chains):
            for name, netdev in chain.netdevs.items():
                field = f"ColoPair.chains[{n}].netdevs.{name}"
                rules.instance_of(Netdev)(field, netdev)
                self._check_known(field, name)
        macs = [(f"chains[{n}].mac", c.mac.lower()) for n, c in enumerate(self.chains) if c.mac]
        rules.distinct("ColoPair", macs, "each card has an address of its own")

    def _check_tls(self) -> None:
        known = [node.name for _, node in self._places()]
        for name in self.tls.folders if self.tls is not None else ():
            if name not in known:
                field = f"ColoPair.tls.folders.{name}"
                raise DeclarationError(field, name, f"be for one of {', '.join(known)}")

    def _check_disks(self) -> None:
        for n, disk in enumerate(self.disks):
            for name in disk.nodes:
                self._check_known(f"ColoPair.disks[{n}].nodes.{name}", name)
        shared = [
            (f"{place}.disks[{n}].image", path)
            for place, node in self._places()
            for n, disk in enumerate(self.disks)
            if (path := normal(disk.on(node.name).image)).startswith(ONE_DEVICE)
        ]
        why = "it is one device for all hosts, and QEMU does not protect it from another host"
        rules.distinct("ColoPair", shared, why)
        remote = [
            (f"{place}.disks[{n}].remote", at.place(host_key(node)))
            for place, node in self._places()
            for n, disk in enumerate(self.disks)
            if (at := disk.on(node.name).remote) is not None
        ]
        why = "it is the same image, and QEMU does not protect it from another host"
        rules.distinct("ColoPair", remote, why)

    def _check_known(self, field: str, name: str) -> None:
        """Check that a field names one of the pair's nodes, spares included."""
        if name not in self.names:
            raise DeclarationError(field, name, f"be for one of {', '.join(self.names)}")

    def _check_ids(self) -> None:
        rules.distinct("ColoPair", self._ids(), "an id is used once")
        for n, chain in enumerate(self.chains):
            for name, value in rules.fields_of(chain.names, f"chains[{n}].ids"):
                if CHANNEL_ID.fullmatch(str(value)):
                    rule = "not be a channel's: those are channel0, channel1 ..."
                    raise DeclarationError(f"ColoPair.{name}", value, rule)

    def _ids(self) -> Iterator[tuple[str, object]]:
        """Every id in QEMU that the declaration names, each after its field."""
        # Block nodes, devices, netdevs, chardevs and objects have name spaces of their own in
        # QEMU; one space for all keeps a plan readable and costs nothing.
        if self.tls is not None:
            yield from (("tls", name) for name in IDS)
        yield from self.machine.ids()
        for n, disk in enumerate(self.disks):
            yield from rules.fields_of(disk.names, f"disks[{n}].ids")
        for n, chain in enumerate(self.chains):
            yield from rules.fields_of(chain.names, f"chains[{n}].ids")

    @property
    def listening_ports(self) -> tuple[tuple[str, int], ...]:
        """The TCP ports on which the QEMUs listen in dialect `auto`, as primary or as secondary.

        Each comes after the field that declares it. The ports of monitors and VNC are not included.
        """
        named = [("ports.migration", self.ports.migration), ("ports.nbd", self.ports.nbd)]
        for n, chain in enumerate(self.chains):
            named.append((f"chains[{n}].ports.mirror", chain.proxy_ports.mirror))
            named.append((f"chains[{n}].ports.compare_in", chain.proxy_ports.compare_in))
        return tuple(named)

    def _check_ports(self) -> None:
        named: list[tuple[str, object]] = [
            ("ports.migration", self.ports.migration),
            ("ports.nbd", self.ports.nbd),
        ]
        for n, chain in enumerate(self.chains):
            named += rules.fields_of(chain.proxy_ports, f"chains[{n}].ports")
        rules.distinct("ColoPair", named, "a port is used once on a host")
        # Either node may listen on any of these ports some day, so a monitor must use another one.
        for place, node in self._places():
            monitors = [(k, m) for k, m in node.monitors if isinstance(m, TcpMonitor)]
            if node.vnc is not None and node.vnc.port is not None:
                with_vnc = [*named, (f"{place}.vnc.port", node.vnc.port)]
                rules.distinct("ColoPair", with_vnc, "a port is used once on a host")
            for kind, monitor in monitors:
                with_monitor = [*named, (f"{place}.{kind}.port", monitor.port)]
                rules.distinct("ColoPair", with_monitor, "a port is used once on a host")

    def _check_sockets(self) -> None:
        for place, node in self._places():
            field = f"ColoPair.{place}.run_dir"
            rules.socket_path(field, node.run_path("observer.qmp"))
            for chain in self.chains:
                for name in (chain.names.compare_local, chain.names.compare_out):
                    rules.socket_path(field, node.socket_path(name))
            for name in self.machine.channel_ids:
                rules.socket_path(field, node.socket_path(name))
        folders = [
            (f"{place}.run_dir", (host_key(node), normal(node.run_path(""))))
            for place, node in self._places()
        ]
        rules.distinct("ColoPair", folders, "each QEMU has a run directory of its own")
        monitors = [
            (f"{place}.{kind}", (host_key(node), monitor))
            for place, node in self._places()
            for kind, monitor in node.monitors
            if isinstance(monitor, TcpMonitor)
        ]
        rules.distinct("ColoPair", monitors, "one monitor serves one client of one QEMU")

    def _check_paths(self) -> None:
        """Check that no two paths that QEMU or pycolo writes to on a host are the same file.

        Links are not followed here; the host follows them before it writes.
        """
        why = "each is a file of its own"
        images = [
            (f"disks[{n}].{kind}", file_name)
            for n, disk in enumerate(self.disks)
            for kind, file_name in disk.images().items()
            if kind != "image" or any(disk.on(name).remote is None for name in self.names)
        ]
        rules.distinct("ColoPair", images, why)
        used = [
            (f"{place}.{what}", (host_key(node), normal(path)))
            for place, node in self._places()
            for what, path in self.paths(node.name)
        ]
        rules.distinct("ColoPair", used, why)
        written = {key: what for what, key in used}
        for place, node in self._places():
            for n, disk in enumerate(self.disks):
                for k, layer in enumerate(disk.on(node.name).backing):
                    what = written.get((host_key(node), normal(layer.image)))
                    if layer.is_local and what is not None:
                        field = f"ColoPair.{place}.disks[{n}].backing[{k}].image"
                        rule = f"differ from {what}, which is written to"
                        raise DeclarationError(field, layer.image, rule)

    def paths(self, name: str) -> tuple[tuple[str, str], ...]:
        """Every path that a QEMU of the pair, or pycolo itself, writes to on a node's host.

        Args:
            name: The node's name.

        Returns:
            For each path the field that declares it or a description, and the path itself.

        Raises:
            DeclarationError: There is no such node.
        """
        node = self.node(name)
        images = [
            (f"disks[{n}].{kind}", path)
            for n, disk in enumerate(self.disks)
            for kind, path in disk.paths(node).items()
        ]
        monitors = [(kind, m.path) for kind, m in node.monitors if isinstance(m, UnixMonitor)]
        sockets = [
            (f"chains[{n}].ids.{part}", node.socket_path(getattr(chain.names, part)))
            for n, chain in enumerate(self.chains)
            for part in ("compare_local", "compare_out")
        ]
        sockets += [
            (f"machine.channels[{n}]", node.socket_path(channel))
            for n, channel in enumerate(self.machine.channel_ids)
        ]
        if node.vnc is not None and node.vnc.host is None:
            sockets.append(("vnc", node.socket_path(VNC_SOCKET)))
        if self.machine.firmware is not None:
            images = [*images, ("machine.firmware", self.firmware_path(name))]
        logs = [(f"run_dir ({log})", node.run_path(log)) for log in (SERIAL_LOG, QEMU_LOG)]
        kept = [("record", self.record_path(name)), ("process", self.process_path(name))]
        kept += [(f"owner of disk {n}", path) for n, path in enumerate(self.owner_paths(name))]
        kept += [(f"{what} {extra}", path + extra) for what, path in kept for extra in BESIDE]
        return (*images, *monitors, *sockets, *logs, *kept)


def host_key(node: Node) -> str:
    """A key that is equal for nodes on one host, as far as their addresses show."""
    # Different loopback addresses are all the same host (qemu-behaviour 3.12).
    return "localhost" if is_loopback(node.address) else normal_host(node.address)

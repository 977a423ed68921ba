"""One fake QEMU: what it shows, what it is tied to, and what becomes of its guest's writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, final

import attrs

from pycolo import effects
from pycolo.model.node import Node
from pycolo.qmp._base import QmpValue
from pycolo.qmp.blockdevs import BlockNode, QuorumNode
from pycolo.qmp.chardevs import ChardevBackend, SocketClient
from pycolo.qmp.commands import ChardevAdd, Command
from pycolo.qmp.replies import Version
from pycolo.snapshot import Child, Filter, Live
from pycolo.testing._argv import CommandLine
from pycolo.testing._links import Channel, DiskLink, Family, Image, Overlay, Stuck, Wire
from pycolo.testing._quirks import QUIRKS

if TYPE_CHECKING:
    from pycolo.testing._monitor import Monitor
    from pycolo.testing.world import World

# Clients of a fake try again after this long where they were given no time.
_NEVER: Final = None
_BAD: Final = "Input/output error"


@final
class FakeQemu:
    """A process that speaks QMP as QEMU does; made by `World.launch`.

    Its state is the `Live` a snapshot would show, plus what ties it to others. Whatever QEMU
    accepts changes that state by `pycolo.effects`, which the compiler counts on as well; what QEMU
    does by itself afterwards is played here.
    """

    def __init__(self, world: World, node: Node, pid: int, line: CommandLine) -> None:
        """Start; used by `World.launch` alone."""
        self.world: Final = world
        "The world it lives in."
        self.node: Final = node
        "The node it runs on."
        self.pid: Final = pid
        "A number like a process id, used once in a world."
        self.line: Final = line
        "The command line it was started with."
        self.quirks: Final = QUIRKS[world.version]
        self.exit_code: int | None = None
        "None while it runs; negative for a signal."
        self.frozen = False
        "Stopped as by SIGSTOP: it keeps its connections and does nothing."
        self.live = _started(line, Version.parse(world.version))
        "What a snapshot would show of it, but for what it cannot show."
        self._first: Final = {b.node_name: b for b in line.blocks if b.node_name}
        self.blocks: dict[str, BlockNode] = dict(self._first)
        self.backends: dict[str, ChardevBackend] = {c.id: c.backend for c in line.chardevs}
        self.wires: dict[str, Wire] = {}
        self.unnoticed: set[str] = set()
        "Chardevs that show a peer that has gone."
        self.disk_links: dict[str, DiskLink] = {}
        self.opening: dict[str, DiskLink] = {}
        "Disk connections that are being made."
        self.overlays: dict[str, Overlay] = {}
        self.targets: dict[str, str] = {}
        self.kept: dict[str, bool] = {}
        self.listens: dict[str, tuple[str, int]] = {}
        self.channel: Channel | None = None
        self.error_desc: str | None = None
        self.promoted = False
        "Its overlays were merged, or are being."
        self.monitors: list[Monitor] = []
        self._stuck: tuple[Stuck, Callable[[], None]] | None = None
        self._late: list[Callable[[], None]] = []
        self._hung: list[tuple[str, int]] = []

    # -- its process

    @property
    def alive(self) -> bool:
        """Whether the process exists; a frozen one does."""
        return self.exit_code is None

    @property
    def stuck(self) -> bool:
        """Whether its main loop hangs (qemu-behaviour 7.3)."""
        return self._stuck is not None

    @property
    def works(self) -> bool:
        """Whether it exists, is not frozen and its main loop does not hang."""
        return self.alive and not self.frozen and not self.stuck

    def kill(self) -> None:
        """End it as SIGKILL does; nothing happens where it has ended."""
        self.end(-9)

    def end(self, code: int) -> None:
        """End it with an exit code; its peers see their connections end."""
        if not self.alive:
            return
        self.exit_code = code
        self._late.clear()
        for monitor in self.monitors:
            monitor.hang_up()
        self.world.ended(self)

    def freeze(self) -> None:
        """Stop it as SIGSTOP does: silent, with all its connections."""
        self.frozen = True

    def thaw(self) -> None:
        """Let it continue after `freeze`."""
        self.frozen = False
        self._catch_up()
        self.world.settle()

    def attempt(self, action: Callable[[], None]) -> None:
        """Do something in its main loop, now or when it is free.

        Args:
            action: May raise `Stuck`; it is then begun again when what it waits for is over.
        """
        if not self.alive:
            return
        if not self.works:
            self._late.append(action)
            return
        try:
            action()
        except Stuck as stuck:
            self._stuck = (stuck, action)
            self.world.waiting[self.settle] = None

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something in its main loop after a time of the world's."""
        self.world.later(delay_s, lambda: self.attempt(action))

    def settle(self) -> bool:
        """Continue if what the main loop hung on is over; returns whether anything happened."""
        self._deliver()
        if self._stuck is None and not self._hung:
            self.world.waiting.pop(self.settle, None)
        if self._stuck is None or not self.alive or self.frozen:
            return False
        stuck, action = self._stuck
        if not stuck.links or any(link.silent for link in stuck.links):
            return False
        self._stuck = None
        self.attempt(action)
        self._catch_up()
        return True

    def _catch_up(self) -> None:
        while self.works and self._late:
            self.attempt(self._late.pop(0))
        for monitor in self.monitors:
            monitor.go_on()

    # -- what it says

    def event(self, name: str, data: Mapping[str, QmpValue] | None = None) -> None:
        """Send an event to everyone who has negotiated."""
        for monitor in self.monitors:
            monitor.event(name, data)

    def tell_migration(self, status: str) -> None:
        """Change the migration's status, and say so where the capability `events` is on."""
        self.live = attrs.evolve(self.live, migration=status)
        if "events" in self.live.capabilities:
            self.event("MIGRATION", {"status": status})

    def tell_job(self, job: str, status: str) -> None:
        """Say that a job's status changed."""
        self.event("JOB_STATUS_CHANGE", {"status": status, "id": job})

    def accept(self, command: Command) -> None:
        """Take over what a command that is accepted leaves behind."""
        self.live = effects.after(self.live, command)

    def colo_exit(self, reason: str) -> None:
        """Say that COLO ended here, unless that was said already (qemu-behaviour 8.5)."""
        if not self.live.colo_exited:
            mode = self.live.colo_mode if self.live.colo_mode != "none" else "secondary"
            self.live = attrs.evolve(self.live, colo_exited=True)
            self.event("COLO_EXIT", {"mode": mode, "reason": reason})

    # -- its guest's processors

    @property
    def runs(self) -> bool:
        """Whether the guest's processors run."""
        return self.alive and not self.frozen and self.live.run_state == "running"

    def halt(self, run_state: str) -> None:
        """Stop the guest and flush its disks.

        Raises:
            Stuck: A peer that is silent has to be flushed (qemu-behaviour 7.3).
        """
        if self.live.run_state == "running":
            self.event("STOP")
        self.live = attrs.evolve(self.live, run_state=run_state)

    def go_on(self, run_state: str = "running") -> None:
        """Let the guest run."""
        was = self.live.run_state
        self.live = attrs.evolve(self.live, run_state=run_state)
        if run_state == "running" != was:
            self.event("RESUME")

    def flush(self) -> bool:
        """Flush every disk connection; returns whether all went well.

        Raises:
            Stuck: One is silent.
        """
        self.need(*self.disk_links.values())
        fine = True
        for name, link in self.disk_links.items():
            if not link.up and self.is_child(name):
                fine = False
                self._report_bad(name, "flush", 0)
        return fine

    def need(self, *links: DiskLink) -> None:
        """Continue only if these connections answer.

        Raises:
            Stuck: One is silent.
        """
        silent = tuple(link for link in links if link.silent)
        if silent:
            raise Stuck(silent)

    def is_child(self, block: str) -> bool:
        """Whether a block node is a child of a quorum."""
        return any(c.node == block for children in self.live.children.values() for c in children)

    def _report_bad(self, block: str, kind: str, sectors: int) -> None:
        data: dict[str, QmpValue] = {"node-name": block, "type": kind, "error": _BAD}
        self.event("QUORUM_REPORT_BAD", {**data, "sector-num": sectors, "sectors-count": sectors})

    # -- its disks

    def image_of(self, block: str) -> Image:
        """The image a block node of an image stands on."""
        return self.world.image(self.node, block_file(self._first[block]))

    def quorum_image(self, quorum: str) -> Image:
        """The image below a quorum's local child."""
        local = self.live.children[quorum][0].node
        return self.image_of(self.parent_of(local))

    def parent_of(self, block: str) -> str:
        """The image's node below a local child: itself, or what its overlays stand on."""
        below = self.below(block)
        return block if not below else below[-1]

    def below(self, block: str) -> tuple[str, ...]:
        """The active and hidden overlay and the image's node below a replication node."""
        chain: list[str] = []
        name: object = getattr(self._first.get(block), "file", None)
        while isinstance(name, str):
            chain.append(name)
            name = getattr(self._first.get(name), "backing", None)
        return tuple(chain)

    def opens(self, image: Image) -> bool:
        """Whether one of its block nodes stands on an image."""
        files = [block_file(block) for block in self.line.blocks]
        return any(self.world.image(self.node, path) is image for path in files if path)

    def guest_data(self, disk: int = 0) -> frozenset[int]:
        """The numbers of the writes that the guest here would read back from a disk."""
        quorum = self.quorums[disk]
        records, overlay = self.quorum_image(quorum).records, self.overlays.get(quorum)
        if overlay is None:
            return frozenset(records)
        return frozenset((records - overlay.hidden) | overlay.active)

    @property
    def quorums(self) -> tuple[str, ...]:
        """The guest's disks, in its order."""
        return tuple(self.line.drives.values())

    def guest_write(self, number: int, disk: int = 0, family: Family = "ipv4") -> bool:
        """Have the guest write a record, and have it acknowledge that to its client.

        Args:
            number: What tells this write from others.
            disk: Which of the guest's disks, from 0.
            family: Over what the client hears of it.

        Returns:
            Whether the acknowledgement reached the client, that is, the guest runs here, the write
            came to an end, and COLO's proxy let the answer out (qemu-behaviour 5.12, 17.1).
        """
        if not self.runs or self.live.colo_mode == "secondary":
            return False
        self.world.written.add(number)
        quorum = self.quorums[disk]
        self._write_locally(quorum, number)
        # Every child gets the write, whatever became of it on the one before.
        ended = [self._write_to(c.node, number) for c in self.live.children[quorum][1:]]
        twin = self._twin()
        if twin is not None:
            twin.overlays[quorum].active.add(number)
        if not all(ended) or not self.reaches(family):
            return False
        world = self.world
        (world.acknowledged if family == "ipv4" else world.acknowledged_over_ipv6).add(number)
        return True

    def _write_locally(self, quorum: str, number: int) -> None:
        overlay = self.overlays.get(quorum)
        into = self.quorum_image(quorum).records if overlay is None else overlay.active
        into.add(number)
        for job, target in self.targets.items():
            link = self.disk_links.get(target)
            if link is not None and not link.up:
                self.world.fail_job(self, job, _BAD)
                break

    def _write_to(self, block: str, number: int) -> bool:
        link = self.disk_links[block]
        if link.silent:
            self._hung.append((block, number))
            self.world.waiting[self.settle] = None
            return False
        self._arrive(block, link, number)
        return True

    def _arrive(self, block: str, link: DiskLink, number: int) -> None:
        if not link.up:
            self._report_bad(block, "write", 1)
            return
        for quorum, overlay in link.server.overlays.items():
            if link.server.quorum_image(quorum) is link.image:
                overlay.hidden |= {number} - link.image.records
        link.image.records.add(number)

    def _deliver(self) -> None:
        """Finish the guest's writes that hung on a connection that is silent no more."""
        still: list[tuple[str, int]] = []
        for block, number in self._hung:
            link = self.disk_links.get(block)
            if link is not None and link.silent and self.alive:
                still.append((block, number))
            elif link is not None and self.alive:
                self._arrive(block, link, number)
        self._hung = still

    def hangs_on(self, block: str) -> bool:
        """Whether a write of the guest's waits for a disk connection."""
        return any(name == block for name, _ in self._hung)

    def _twin(self) -> FakeQemu | None:
        """The secondary whose guest does the same at this moment."""
        channel = self.channel
        if channel is None or channel.target is None or not self._lock_step(channel):
            return None
        mirrored = [f for f in self.live.objects.values() if f.qom_type == "filter-mirror"]
        return channel.target if all(f.on for f in mirrored) else None

    def _lock_step(self, channel: Channel) -> bool:
        peer = channel.target
        return (
            channel.entered
            and channel.up
            and channel.source is self
            and peer is not None
            and peer.live.colo_mode == "secondary"
            and self.live.colo_mode == "primary"
            and peer.runs
            and self.world.talk(self, peer)
        )

    # -- its guest's network

    @property
    def reachable(self) -> bool:
        """Whether what the guest sends over IPv4 gets out to clients."""
        return self.reaches("ipv4")

    def reaches(self, family: Family) -> bool:
        """Whether what the guest sends gets out to clients.

        A redirector that takes packets away from the guest and is on holds them until COLO's proxy
        has compared them, or lets through at once what is not IPv4 (qemu-behaviour 6.6, 17.2).
        """
        taken = [f for f in self.live.objects.values() if _takes_away(f)]
        if not taken:
            return True
        compares = any(f.qom_type == "colo-compare" for f in self.live.objects.values())
        return compares and (family == "ipv6" or self._twin() is not None)

    @property
    def serving(self) -> bool:
        """Whether the guest runs here and clients get its answers."""
        return self.runs and self.reachable

    # -- its chardevs

    def chardev(self, chardev: ChardevAdd) -> None:
        """Make a chardev; a client begins to connect."""
        self.backends[chardev.id] = chardev.backend
        if isinstance(chardev.backend, SocketClient):
            self.connect(chardev.id)

    def connect(self, chardev: str) -> None:
        """Connect a client's socket, now or again later."""
        backend = self.backends.get(chardev)
        if not isinstance(backend, SocketClient) or chardev in self.wires:
            return
        found = self.world.chardev_at(self, backend.addr)
        if found is not None:
            server, server_id = found
            wire = Wire(server=server, server_id=server_id, client=self, client_id=chardev)
            self.wires[chardev] = server.wires[server_id] = wire
            server.connected(server_id, now=True)
        self.connected(chardev, now=found is not None)
        again_s = _reconnect_s(backend)
        if found is None and again_s is not None:
            self.later(again_s, lambda: self.connect(chardev))

    def connected(self, chardev: str, *, now: bool) -> None:
        """Note whether a chardev has a peer."""
        if chardev in self.live.chardevs:
            changed = {**self.live.chardevs, chardev: now}
            self.live = attrs.evolve(self.live, chardevs=changed)

    def unplug(self, chardev: str) -> None:
        """End a chardev's connection; a client that was told to will connect again."""
        wire = self.wires.pop(chardev, None)
        if chardev in self.unnoticed:
            self.unnoticed.discard(chardev)
            self.connected(chardev, now=False)
        if wire is None:
            return
        for end, name in ((wire.server, wire.server_id), (wire.client, wire.client_id)):
            end.wires.pop(name, None)
            if end is not self and end.only_writes(name):
                # Who never reads does not learn that nobody is there any more.
                end.unnoticed.add(name)
            else:
                end.connected(name, now=False)
        backend = wire.client.backends.get(wire.client_id)
        again_s = _reconnect_s(backend) if isinstance(backend, SocketClient) else None
        if again_s is not None:
            wire.client.later(again_s, lambda: wire.client.connect(wire.client_id))

    def only_writes(self, chardev: str) -> bool:
        """Whether no object reads from a chardev."""
        used = [
            n for o in self.live.objects.values() for n, v in o.settings.items() if v == chardev
        ]
        return bool(used) and set(used) == {"outdev"}


def _takes_away(item: Filter) -> bool:
    redirects = item.qom_type == "filter-redirector" and bool(item.settings.get("outdev"))
    return redirects and item.on and item.settings.get("queue") in ("rx", "all")


def _reconnect_s(backend: SocketClient) -> float | None:
    if backend.reconnect_ms:
        return backend.reconnect_ms / 1000
    return float(backend.reconnect_s) if backend.reconnect_s else _NEVER


def block_file(node: BlockNode) -> str:
    """The path of the file a block node stands on; empty where it stands on none of its own."""
    below: object = node
    while below is not None and not isinstance(below, str):
        name = getattr(below, "filename", None)
        if isinstance(name, str):
            return name
        below = getattr(below, "file", None)
    return ""


def _started(line: CommandLine, version: Version) -> Live:
    objects = {
        item.id: Filter(
            qom_type=str(dict(item.qmp_constants)["qom-type"]),
            on=getattr(item, "status", None) != "off",
            settings=effects.settings(item),
        )
        for item in line.objects
    }
    return Live(
        version=version,
        instance=line.name,
        run_state="inmigrate" if line.incoming else "prelaunch",
        block_nodes=frozenset(b.node_name for b in line.blocks if b.node_name),
        children=dict(_quorums(line)),
        chardevs={c.id: False for c in line.chardevs},
        objects=objects,
    )


def _quorums(line: CommandLine) -> Iterator[tuple[str, tuple[Child, ...]]]:
    for block in line.blocks:
        if isinstance(block, QuorumNode) and block.node_name:
            names = [child for child in block.children if isinstance(child, str)]
            children = (Child(name=f"children.{n}", node=name) for n, name in enumerate(names))
            yield block.node_name, tuple(children)

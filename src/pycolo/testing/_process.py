"""The process of a fake QEMU: its state, its connections to others, and what it does by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol, final

import attrs

from pycolo import effects
from pycolo.model.node import Node
from pycolo.qmp._base import QmpValue
from pycolo.qmp.blockdevs import BlockNode
from pycolo.qmp.chardevs import ChardevBackend
from pycolo.qmp.commands import Command
from pycolo.qmp.replies import Version
from pycolo.testing._argv import CommandLine, block_file, started
from pycolo.testing._ground import Ground, Image
from pycolo.testing._quirks import QUIRKS

BAD: Final = "Input/output error"


class Refused(Exception):
    """The command is answered with an error of QEMU."""

    def __init__(self, text: str, error_class: str = "GenericError") -> None:
        """Keep the text and the class of the error."""
        super().__init__(text)
        self.text = text
        self.error_class = error_class


class Stuck(Exception):
    """The main loop hangs on a peer that does not respond; its action is repeated afterwards."""

    def __init__(self, links: tuple[DiskLink, ...]) -> None:
        """Keep the connections that the main loop waits for; without any, it waits for ever."""
        super().__init__()
        self.links = links


@final
@attrs.define(eq=False)
class Overlay:
    """The active and the hidden overlay above a secondary's image (qemu-behaviour 5.1)."""

    active: set[int] = attrs.field(factory=set)
    "The writes of the secondary's own guest since the last checkpoint."
    hidden: set[int] = attrs.field(factory=set)
    "The primary's writes since then, which the secondary's guest must not see yet."


@final
@attrs.define(eq=False)
class DiskLink:
    """An NBD connection of a primary to its secondary's export."""

    client: Process
    server: Process
    export: str
    up: bool = True

    @property
    def silent(self) -> bool:
        """Whether requests are never answered; a connection that is down fails them at once."""
        return self.up and not self.client.talks(self.server)

    @property
    def image(self) -> Image:
        """The image behind the export."""
        return self.server.image_of(self.server.live.exports[self.export])


@final
@attrs.define(eq=False)
class Wire:
    """A connection between two chardevs."""

    server: Process
    server_id: str
    client: Process
    client_id: str


Stage = Literal["setup", "active", "pre-switchover", "device", "colo", "over"]


@final
@attrs.define(eq=False)
class Channel:
    """A migration, and the COLO that it becomes, between two QEMUs."""

    source: Process
    target: Process | None
    origin: str
    "The source's run state before the migration."
    learns: Callable[[Channel, Process], None]
    "Called for each side when it learns that the channel is closed."
    stage: Stage = "setup"
    up: bool = True
    entered: bool = False
    "Whether both guests have run in COLO."
    checkpoint: bool = False
    "Whether a checkpoint is being made."
    again: bool = False
    "Whether another checkpoint was forced during this one, and follows it at once."
    turn: int = 0
    "The number of the next checkpoint; a timer that was set for another number does nothing."

    def cut(self) -> None:
        """Close the channel; each side learns of that in its own way (qemu-behaviour 7.1)."""
        self.up = False
        self.source.attempt(lambda: self.learns(self, self.source))
        target = self.target
        if target is not None:
            target.attempt(lambda: self.learns(self, target))


class Voice(Protocol):
    """What a process needs of each of its monitors."""

    @property
    def label(self) -> str:
        """The id of this monitor's chardev."""

    @property
    def filename(self) -> str:
        """The `filename` that query-chardev shows for this monitor."""

    def event(self, name: str, data: Mapping[str, QmpValue] | None) -> None:
        """Send an event to the client, if it has negotiated."""

    def continue_reading(self) -> None:
        """Greet the first client and process its input, unless QEMU is frozen."""

    def hang_up(self) -> None:
        """Close all connections, because QEMU has ended."""


class Process:
    """A fake QEMU, as other fakes and its own commands use it; the base of `FakeQemu`."""

    def __init__(
        self, world: Ground, processes: Sequence[Process], node: Node, pid: int, line: CommandLine
    ) -> None:
        """Start the process; only `World.launch` calls this."""
        self.world: Final = world
        "The world in which it runs."
        self.processes: Final = processes
        "Every process that was ever launched in this world."
        self.node: Final = node
        "The node it runs on."
        self.pid: Final = pid
        "A number like a process id, used once in a world."
        self.line: Final = line
        "The command line it was started with."
        self.quirks: Final = QUIRKS[world.version]
        self.monitors: Sequence[Voice] = ()
        self.exit_code: int | None = None
        "The exit code, negative for a signal; None while the process runs."
        self.frozen = False
        "Whether it is stopped as by SIGSTOP: it does nothing, and keeps its connections."
        self.live = started(line, Version.parse(world.version))
        "The state that a snapshot would show."
        self._first: Final = {b.node_name: b for b in line.blocks if b.node_name}
        self.blocks: dict[str, BlockNode] = dict(self._first)
        self.backends: dict[str, ChardevBackend] = {c.id: c.backend for c in line.chardevs}
        self.wires: dict[str, Wire] = {}
        self.unnoticed: set[str] = set()
        "The chardevs that still show a peer although it has gone."
        self.limits: dict[str, Mapping[str, int]] = dict(line.limits)
        "Device id to the limits of its drive, by QMP's names."
        self.disk_links: dict[str, DiskLink] = {}
        self.opening: dict[str, DiskLink] = {}
        "The disk connections that are being made, by node name."
        self.hung: list[tuple[str, int]] = []
        "The guest's writes that wait for a disk connection: block node and write number."
        self.overlays: dict[str, Overlay] = {}
        self.targets: dict[str, str] = {}
        self.kept: dict[str, bool] = {}
        self.listens: dict[str, tuple[str, int]] = {}
        self.channel: Channel | None = None
        self.error_desc: str | None = None
        self.promoted = False
        "Whether its overlays were merged, or are being merged."
        self._stuck: tuple[Stuck, Callable[[], None]] | None = None
        self._late: list[Callable[[], None]] = []

    # -- its process

    @property
    def alive(self) -> bool:
        """Whether the process exists; true for a frozen one."""
        return self.exit_code is None

    @property
    def stuck(self) -> bool:
        """Whether its main loop hangs (qemu-behaviour 7.3)."""
        return self._stuck is not None

    @property
    def works(self) -> bool:
        """Whether it exists, is not frozen and its main loop does not hang."""
        return self.alive and not self.frozen and not self.stuck

    def attempt(self, action: Callable[[], None]) -> None:
        """Perform an action in the main loop: now, or when the main loop is free.

        Args:
            action: May raise `Stuck`; it is then called again when the connections it waits for
                answer.
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
        """Perform an action in the main loop after some seconds of the world's clock."""
        self.world.later(delay_s, lambda: self.attempt(action))

    def settle(self) -> bool:
        """Resume the main loop if no connection that it waits for is silent any more.

        A connection that was cut is not silent, since it fails at once.

        Returns:
            Whether it was resumed. It may hang again meanwhile, at another connection.
        """
        self._deliver()
        if self._stuck is None and not self.hung:
            self.world.waiting.pop(self.settle, None)
        if self._stuck is None or not self.alive or self.frozen:
            return False
        stuck, action = self._stuck
        if not stuck.links or any(link.silent for link in stuck.links):
            return False
        self._stuck = None
        self.attempt(action)
        self.catch_up()
        return True

    def catch_up(self) -> None:
        """Perform the actions and commands that came while the process was stuck or frozen."""
        while self.works and self._late:
            self.attempt(self._late.pop(0))
        for monitor in self.monitors:
            monitor.continue_reading()

    # -- other processes

    @property
    def running(self) -> list[Process]:
        """All processes of the world that exist, those that are frozen included."""
        return [process for process in self.processes if process.alive]

    def at(self, host: str) -> list[Process]:
        """The running processes whose node has this address."""
        return [p for p in self.running if host in (p.node.address, p.node.listen_address)]

    def is_cut(self, other: Process) -> bool:
        """Whether every packet between the hosts of the two processes is lost."""
        return not self.world.carries(self.node.name, other.node.name)

    def talks(self, other: Process) -> bool:
        """Whether the other process would answer this one."""
        return other.works and not self.is_cut(other)

    # -- events

    def event(self, name: str, data: Mapping[str, QmpValue] | None = None) -> None:
        """Send an event to every client that has negotiated."""
        for monitor in self.monitors:
            monitor.event(name, data)

    def tell_migration(self, status: str) -> None:
        """Set the migration's status; send an event if the capability `events` is on."""
        self.live = attrs.evolve(self.live, migration=status)
        if "events" in self.live.capabilities:
            self.event("MIGRATION", {"status": status})

    def tell_job(self, job: str, status: str) -> None:
        """Send the event that a job's status has changed."""
        self.event("JOB_STATUS_CHANGE", {"status": status, "id": job})

    def accept(self, command: Command) -> None:
        """Apply the effect of an accepted command to `live`."""
        self.live = effects.after(self.live, command)

    def colo_exit(self, reason: str) -> None:
        """Send COLO_EXIT, unless it was sent already (qemu-behaviour 8.5)."""
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
        """Stop the guest's processors, and set the run state."""
        if self.live.run_state == "running":
            self.event("STOP")
        self.live = attrs.evolve(self.live, run_state=run_state)

    def resume_guest(self, run_state: str = "running") -> None:
        """Set the run state, by default to `running`, which lets the guest run."""
        was = self.live.run_state
        self.live = attrs.evolve(self.live, run_state=run_state)
        if run_state == "running" != was:
            self.event("RESUME")

    # -- its disk connections

    def flush(self) -> bool:
        """Flush every disk connection; returns whether none of them failed.

        Raises:
            Stuck: A connection does not answer (qemu-behaviour 7.3).
        """
        self.need(*self.disk_links.values())
        fine = True
        for name, link in self.disk_links.items():
            if not link.up and self.is_child(name):
                fine = False
                self._report_bad(name, "flush", 0)
        return fine

    def need(self, *links: DiskLink) -> None:
        """Return if all these connections answer.

        Raises:
            Stuck: A connection does not answer.
        """
        silent = tuple(link for link in links if link.silent)
        if silent:
            raise Stuck(silent)

    def is_child(self, block: str) -> bool:
        """Whether a block node is a child of a quorum."""
        return any(c.node == block for children in self.live.children.values() for c in children)

    def hangs_on(self, block: str) -> bool:
        """Whether a write of the guest waits for this disk connection."""
        return any(name == block for name, _ in self.hung)

    def arrive(self, block: str, link: DiskLink, number: int) -> None:
        """Perform a write of the guest on the peer's disk, or report an error if the link is down.

        Args:
            block: The block node of the disk connection.
            link: The disk connection.
            number: The number of the write.
        """
        if not link.up:
            self._report_bad(block, "write", 1)
            return
        for quorum, overlay in link.server.overlays.items():
            if link.server.quorum_image(quorum) is link.image:
                overlay.hidden |= {number} - link.image.records
        link.image.records.add(number)

    def _deliver(self) -> None:
        """Finish the guest's writes that hung on a connection which answers again, or is down."""
        still: list[tuple[str, int]] = []
        for block, number in self.hung:
            link = self.disk_links.get(block)
            if link is not None and link.silent and self.alive:
                still.append((block, number))
            elif link is not None and self.alive:
                self.arrive(block, link, number)
        self.hung = still

    def _report_bad(self, block: str, kind: str, sectors: int) -> None:
        data: dict[str, QmpValue] = {"node-name": block, "type": kind, "error": BAD}
        self.event("QUORUM_REPORT_BAD", {**data, "sector-num": sectors, "sectors-count": sectors})

    # -- its disks

    @property
    def quorums(self) -> tuple[str, ...]:
        """The quorum nodes of the guest's disks, in the order of the disks."""
        return tuple(self.line.drives.values())

    def guest_data(self, disk: int = 0) -> frozenset[int]:
        """The numbers of the writes that this guest would read back from a disk."""
        quorum = self.quorums[disk]
        records, overlay = self.quorum_image(quorum).records, self.overlays.get(quorum)
        if overlay is None:
            return frozenset(records)
        return frozenset((records - overlay.hidden) | overlay.active)

    def image_of(self, block: str) -> Image:
        """The image below the block node of an image."""
        return self.world.image(self.node, block_file(self._first[block]))

    def quorum_image(self, quorum: str) -> Image:
        """The image below the local child of a quorum."""
        local = self.live.children[quorum][0].node
        return self.image_of(self.parent_of(local))

    def parent_of(self, block: str) -> str:
        """The image's node below a quorum's local child; the child itself if it has no overlays."""
        below = self.below(block)
        return block if not below else below[-1]

    def below(self, block: str) -> tuple[str, ...]:
        """The nodes below a replication node: active overlay, hidden overlay, image."""
        chain: list[str] = []
        name: object = getattr(self._first.get(block), "file", None)
        while isinstance(name, str):
            chain.append(name)
            name = getattr(self._first.get(name), "backing", None)
        return tuple(chain)

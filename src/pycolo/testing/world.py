"""The world that fake QEMUs live in: hosts, images, the network between them, and time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Final, TypeVar, final

import attrs

from pycolo.errors import ConnectionFailed, HostRefused
from pycolo.model.node import Monitor as MonitorPlace
from pycolo.model.node import Node
from pycolo.model.pair import ColoPair
from pycolo.plan import LaunchQemu
from pycolo.qmp.chardevs import (
    InetSocketAddress,
    SocketAddress,
    SocketClient,
    SocketServer,
    UnixSocketAddress,
)
from pycolo.qmp.schema import PackagedVersion
from pycolo.session import Session
from pycolo.testing import _jobs, _serve
from pycolo.testing._argv import CommandLine, read
from pycolo.testing._clock import Clock, ClockLoop
from pycolo.testing._host import FakeHost
from pycolo.testing._links import Family, Image
from pycolo.testing._monitor import Monitor
from pycolo.testing._qemu import FakeQemu, block_file

_T = TypeVar("_T")
_LAUNCH: Final = "launch-qemu"
_FIRST_PID: Final = 1000
_SESSION_S: Final = 5.0
_AUTORUN_S: Final = 0.01


@final
class World(Clock):
    """Hosts on which fake QEMUs run; its clock stops unless it is advanced.

    Args:
        version: The QEMU version that every fake plays.
        ram_copy_s: How long the first copy of a guest's RAM takes.
        disk_copy_s: How long a mirror takes until it is ready.
        commit_s: How long a promoted secondary merges its overlays.
    """

    def __init__(
        self,
        version: PackagedVersion = "11.1.3",
        *,
        ram_copy_s: float = 0.03,
        disk_copy_s: float = 0.2,
        commit_s: float = 0.2,
    ) -> None:
        """Make an empty world."""
        super().__init__()
        self.version: Final = version
        self.ram_copy_s = ram_copy_s
        self.disk_copy_s = disk_copy_s
        self.commit_s = commit_s
        self.processes: list[FakeQemu] = []
        "Every QEMU that was ever launched, the dead ones too, in the order of their launches."
        self.acknowledged: set[int] = set()
        "The numbers of the writes that some client was told over IPv4 are done."
        self.acknowledged_over_ipv6: set[int] = set()
        "The same over IPv6, which COLO does not hold back: they may be lost (qemu-behaviour 17.2)."
        self.written: set[int] = set()
        "The numbers of all writes that guests were told to make."
        self._running: dict[str, FakeQemu] = {}
        self._at: dict[str, list[FakeQemu]] = {}
        self._images: dict[tuple[str, str], Image] = {}
        self._hosts: dict[str, FakeHost] = {}
        self._cuts: set[frozenset[str]] = set()

    # -- time

    def run(self, main: Coroutine[object, object, _T]) -> _T:
        """Run a coroutine on an event loop that has the world's clock.

        While everybody waits time passes at once, so that a limit of an hour takes no time; else
        it passes by a tenth of a millisecond a turn. The same program takes the same course every
        time. For sessions in memory: another program would go by another clock.

        Args:
            main: What `asyncio.run` would be given.
        """
        with asyncio.Runner(loop_factory=lambda: ClockLoop(self)) as runner:
            return runner.run(main)

    async def autorun(self) -> None:
        """Advance the clock as real time passes, until cancelled; for demonstrations."""
        while True:
            await asyncio.sleep(_AUTORUN_S)
            self.advance(_AUTORUN_S)

    # -- hosts

    def create_image(self, node: Node, path: str, size_bytes: int) -> None:
        """Put an empty image on a node's host; one that is there stays as it is.

        Args:
            node: The node.
            path: The image's path.
            size_bytes: Its virtual size.

        Raises:
            HostRefused: One of another size is there.
        """
        found = self._images.setdefault((node.name, path), Image(size_bytes=size_bytes))
        if found.size_bytes != size_bytes:
            why = f"{path} exists with {found.size_bytes} bytes, declared are {size_bytes}"
            raise HostRefused(node.name, "create-image", why)

    def install(self, pair: ColoPair, node: str) -> None:
        """Put the guest's images on a node's host: what an operator does before the first start."""
        place = pair.node(node)
        for disk in pair.disks:
            self.create_image(place, place.image_path(disk.image), disk.size_bytes)

    def image(self, node: Node, path: str) -> Image:
        """An image on a node's host.

        Raises:
            HostRefused: There is none.
        """
        found = self._images.get((node.name, path))
        if found is None:
            why = f"Could not open '{path}': No such file or directory"
            raise HostRefused(node.name, _LAUNCH, why)
        return found

    def host(self, node: str) -> FakeHost:
        """The host of a node."""
        return self._hosts.setdefault(node, FakeHost(self, node))

    def hosts(self, pair: ColoPair) -> Mapping[str, FakeHost]:
        """Node name to host, for `execute` and `probe`, spares included."""
        return {node.name: self.host(node.name) for node in pair.all_nodes}

    def launch(self, what: LaunchQemu | Sequence[str], node: Node) -> FakeQemu:
        """Start a QEMU.

        Args:
            what: A plan's action, or a command line of dialect `auto`, the binary first.
            node: The node on whose host it runs.

        Raises:
            HostRefused: It does not start, or one runs there already.
            ValueError: The command line is none that pycolo writes in dialect `auto`.
        """
        line = read(what.argv if isinstance(what, LaunchQemu) else what)
        if self.find(node.name) is not None:
            raise HostRefused(node.name, _LAUNCH, "QEMU runs there already")
        self._check(node, line)
        qemu = FakeQemu(self, node, _FIRST_PID + len(self.processes), line)
        qemu.monitors = [Monitor(qemu, place) for place in line.monitors]
        qemu.live = attrs.evolve(qemu.live, sizes_bytes=self._sizes(node, line))
        self.processes.append(qemu)
        self._running[node.name] = qemu
        for address in _addresses(node):
            self._at.setdefault(address, []).append(qemu)
        for chardev in line.chardevs:
            qemu.chardev(chardev)
        return qemu

    def _check(self, node: Node, line: CommandLine) -> None:
        for chardev in line.chardevs:
            backend = chardev.backend
            if isinstance(backend, SocketClient):
                given = {"reconnect": backend.reconnect_s, "reconnect-ms": backend.reconnect_ms}
                unknown = "reconnect-ms" if self.version == "7.2.22" else "reconnect"
                knows_both = self.version == "10.0.13"
                if given[unknown] is not None and not knows_both:
                    why = f"QEMU ended: Invalid parameter '{unknown}'"
                    raise HostRefused(node.name, _LAUNCH, why)
        opened = [self._file(node, path) for path in _files(line)]
        for other in self._running.values():
            if any(other.opens(image) for image in opened):
                why = 'QEMU ended: Failed to get "write" lock'
                raise HostRefused(node.name, _LAUNCH, why)

    def _file(self, node: Node, path: str) -> Image:
        return self.image(node, path)

    def _sizes(self, node: Node, line: CommandLine) -> dict[str, int]:
        sizes = {
            block.node_name: self.image(node, block_file(block)).size_bytes
            for block in line.blocks
            if block.node_name and block_file(block)
        }
        for block in line.blocks:
            below = getattr(block, "children", (getattr(block, "file", None),))[0]
            if block.node_name and isinstance(below, str):
                sizes[block.node_name] = sizes[below]
        return sizes

    def find(self, node: str) -> FakeQemu | None:
        """The QEMU that runs on a node, frozen or not; None if none does."""
        return self._running.get(node)

    def qemu(self, node: str) -> FakeQemu:
        """The QEMU that runs on a node, or the last that ran there.

        Raises:
            KeyError: None ever ran there.
        """
        for process in reversed(self.processes):
            if process.node.name == node:
                return process
        raise KeyError(node)

    # -- the network between hosts

    def cut(self, first: str, second: str) -> None:
        """Lose every packet between two nodes' hosts; no connection ends by that."""
        self._cuts.add(frozenset((first, second)))

    def heal(self, first: str, second: str) -> None:
        """Carry packets again."""
        self._cuts.discard(frozenset((first, second)))
        for process in self.processes:
            if not process.alive and process.node.name in (first, second):
                self.lost(process)
        self.settle()

    def carries(self, first: str, second: str) -> bool:
        """Whether packets go between two nodes' hosts."""
        return frozenset((first, second)) not in self._cuts

    def is_cut(self, a: FakeQemu, b: FakeQemu) -> bool:
        """Whether no packet goes between two QEMUs."""
        return not self.carries(a.node.name, b.node.name)

    def talk(self, a: FakeQemu, b: FakeQemu) -> bool:
        """Whether `b` would answer `a`."""
        return b.works and not self.is_cut(a, b)

    def ended(self, dead: FakeQemu) -> None:
        """A process has ended: it is found nowhere any more."""
        self.waiting.pop(dead.settle, None)
        self._running.pop(dead.node.name, None)
        for address in _addresses(dead.node):
            self._at[address].remove(dead)
        self.lost(dead)
        self.settle()

    def lost(self, dead: FakeQemu) -> None:
        """Whom the host of one that has ended can reach learns of it."""
        from pycolo.testing import _colo  # noqa: PLC0415 - it needs what is above

        for name, wire in tuple(dead.wires.items()):
            peer = wire.client if wire.server is dead else wire.server
            if not self.is_cut(dead, peer):
                dead.unplug(name)
        for process in self._running.values():
            for link in (*process.disk_links.values(), *process.opening.values()):
                if link.server is dead and not self.is_cut(dead, process):
                    link.up = False
        channel = dead.channel
        if channel is not None and channel.up and channel.target is not None:
            peer = channel.target if channel.source is dead else channel.source
            if not self.is_cut(dead, peer):
                _colo.cut(channel)

    def unserve(self, server: FakeQemu, exports: Iterable[str]) -> None:
        """Exports are gone: their clients' connections end."""
        gone = set(exports)
        for process in self._running.values():
            for link in process.disk_links.values():
                if link.server is server and link.export in gone:
                    link.up = False

    def listener(self, what: str, host: str, port: int) -> FakeQemu | None:
        """Who listens there, a silent one too; None where a connection would be refused."""
        for process in self._at.get(host, ()):
            place = process.listens.get(what)
            if place is None or place[1] != port:
                continue
            if host in (process.node.address, place[0]):
                return process
        return None

    def incoming_at(self, uri: str) -> FakeQemu | None:
        """Who waits for a migration there; one that had its own is of no use (7.12)."""
        host, _, port = uri.removeprefix("tcp:").rpartition(":")
        found = self.listener("migration", host.strip("[]"), int(port))
        if found is None or found.live.run_state != "inmigrate" or found.channel is not None:
            return None
        return found

    def chardev_at(self, seeker: FakeQemu, place: SocketAddress) -> tuple[FakeQemu, str] | None:
        """The server chardev there that has no client yet."""
        far = () if isinstance(place, UnixSocketAddress) else self._at.get(place.host, ())
        for process in far or (seeker,):
            if not process.works and process is not seeker:
                continue
            if self.is_cut(seeker, process):
                continue
            for name, backend in process.backends.items():
                if (
                    isinstance(backend, SocketServer)
                    and name not in process.wires
                    and name not in process.unnoticed
                    and _reaches(process, backend.addr, seeker, place)
                ):
                    return process, name
        return None

    def taken(self, qemu: FakeQemu, port: int) -> bool:
        """Whether somebody listens already where a node wants to."""
        for process in self._at[qemu.node.address]:
            if process.node.address == qemu.node.address:
                places = [*process.listens.values(), *_ports(process)]
                if any(port == other for _, other in places):
                    return True
        return False

    def fail_job(self, qemu: FakeQemu, job: str, why: str) -> None:
        """A copy meets an error."""
        _jobs.fail(qemu, job, why)

    # -- judging

    @property
    def serving(self) -> tuple[FakeQemu, ...]:
        """The QEMUs whose guest serves clients; two at once are a split brain."""
        return self.answering("ipv4")

    def answering(self, family: Family) -> tuple[FakeQemu, ...]:
        """The QEMUs whose guest a client reaches over IPv4 or IPv6 now.

        COLO holds back untagged IPv4 and nothing else (qemu-behaviour 17.2): a guest that is fenced
        by that answers IPv6 all the same, beside one that was promoted.
        """
        return tuple(q for q in self._running.values() if q.runs and q.reaches(family))

    # -- the way in for controllers

    async def session(self, node: Node, *, observer: bool = False) -> Session:
        """A real session with the QEMU on a node, in memory.

        Args:
            node: The node.
            observer: On the monitor for readers, instead of the one for the writer.

        Raises:
            RemoteError: As `Session.connect`.
        """
        place = node.observer_monitor if observer else node.control_monitor
        return await Session.connect(node.name, place, limit_s=_SESSION_S, connector=self.connector)

    @property
    def connector(self) -> Callable[[str, MonitorPlace], Awaitable[socket.socket]]:
        """How `Session.connect` reaches monitors of this world."""
        return self._connect

    async def _connect(self, node: str, place: MonitorPlace) -> socket.socket:
        process = self._running.get(node)
        for monitor in () if process is None else process.monitors:
            if monitor.place == place:
                return await _serve.connect(monitor)
        raise ConnectionFailed(node, str(place), "nobody listens on that socket")

    async def listen(self) -> tuple[asyncio.Server, ...]:
        """Serve the monitors of all that run, where their command lines say, for other programs.

        May be called again, after more were launched. A monitor is served until its QEMU ends.

        Returns:
            The servers that are new, to be closed by the caller; their sockets' folders must be
            there.
        """
        new = [m for process in self._running.values() for m in process.monitors if not m.server]
        servers = [await _serve.listen(monitor) for monitor in new]
        for monitor, server in zip(new, servers, strict=True):
            monitor.server = server
        return tuple(servers)


def _addresses(node: Node) -> frozenset[str]:
    return frozenset((node.address, node.listen_address or node.address))


def _files(line: CommandLine) -> tuple[str, ...]:
    return tuple(path for path in map(block_file, line.blocks) if path)


def _ports(qemu: FakeQemu) -> list[tuple[str, int]]:
    addresses = [b.addr for b in qemu.backends.values() if isinstance(b, SocketServer)]
    return [(a.host, a.port) for a in addresses if isinstance(a, InetSocketAddress)]


def _reaches(
    server: FakeQemu, listens: SocketAddress, seeker: FakeQemu, place: SocketAddress
) -> bool:
    if isinstance(listens, UnixSocketAddress) or isinstance(place, UnixSocketAddress):
        return server is seeker and listens == place
    return listens.port == place.port and place.host in (server.node.address, listens.host)

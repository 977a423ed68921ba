"""The fake QEMUs of a world: launching and finding them, and connecting to their monitors."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs

from pycolo.errors import ConnectionFailed, DeclarationError, HostRefused
from pycolo.model.node import Monitor as MonitorPlace
from pycolo.model.node import Node
from pycolo.plan import LaunchQemu
from pycolo.qmp.chardevs import SocketClient
from pycolo.testing import _chardevs, _serve
from pycolo.testing._argv import CommandLine, block_file, read
from pycolo.testing._ground import LAUNCH, Ground, Image
from pycolo.testing._monitor import Monitor
from pycolo.testing._qemu import FakeQemu

_FIRST_PID: Final = 1000


@attrs.define(eq=False, repr=False)
class Fleet(Ground):
    """A world with its fake QEMUs; the base of `World`."""

    processes: list[FakeQemu] = attrs.field(factory=list, init=False)
    "Every QEMU that was ever launched, also those that have ended, in the order of launch."

    @property
    def running(self) -> list[FakeQemu]:
        """The QEMUs that run, those that are frozen included."""
        return [process for process in self.processes if process.alive]

    def launch(self, what: LaunchQemu | Sequence[str], node: Node) -> FakeQemu:
        """Start a QEMU.

        Args:
            what: A plan's action, or a command line of dialect `auto`, the binary first.
            node: The node on whose host it runs.

        Raises:
            HostRefused: The QEMU does not start, or one runs on that node already.
            ValueError: The command line is not one that pycolo writes in dialect `auto`.
        """
        line = read(what.argv if isinstance(what, LaunchQemu) else what)
        if self.find(node.name) is not None:
            raise HostRefused(node.name, LAUNCH, "QEMU runs there already")
        self._check(node, line)
        qemu = FakeQemu(self, self.processes, node, _FIRST_PID + len(self.processes), line)
        qemu.monitors = [Monitor(qemu, *named) for named in line.monitors.items()]
        qemu.live = attrs.evolve(qemu.live, sizes_bytes=self._sizes(node, line))
        self.processes.append(qemu)
        for chardev in line.chardevs:
            _chardevs.add(qemu, chardev)
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
                    raise HostRefused(node.name, LAUNCH, why)
        opened = self._opened(node, line)
        locked = [i for other in self.running for i in self._opened(other.node, other.line)]
        if any(image in locked for image in opened):
            why = 'QEMU ended: Failed to get "write" lock'
            raise HostRefused(node.name, LAUNCH, why)

    def _opened(self, node: Node, line: CommandLine) -> list[Image]:
        return [self.image(node, path) for path in map(block_file, line.blocks) if path]

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
        """The QEMU that runs on a node, also a frozen one; None if there is none."""
        return next((q for q in self.running if q.node.name == node), None)

    def qemu(self, node: str) -> FakeQemu:
        """The QEMU that runs on a node, or else the last one that ran there.

        Raises:
            DeclarationError: No QEMU ever ran on that node.
        """
        for process in reversed(self.processes):
            if process.node.name == node:
                return process
        launched = dict.fromkeys(process.node.name for process in self.processes)
        names = ", ".join(launched) or "none yet"
        raise DeclarationError("node", node, f"be a node on which a QEMU was launched ({names})")

    @property
    def connector(self) -> Callable[[str, MonitorPlace], Awaitable[socket.socket]]:
        """A function that connects to the monitors of this world, for `Session.connect`."""
        return self._connect

    async def _connect(self, node: str, place: MonitorPlace) -> socket.socket:
        process = self.find(node)
        for monitor in () if process is None else process.monitors:
            if monitor.place == place:
                return await _serve.connect(monitor)
        raise ConnectionFailed(node, str(place), "nobody listens on that socket")

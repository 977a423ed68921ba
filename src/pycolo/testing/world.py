"""The world of fake QEMUs, as a test uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Final, TypeVar, final

import attrs

from pycolo import topology
from pycolo.errors import DeclarationError
from pycolo.model.node import Node
from pycolo.model.pair import ColoPair
from pycolo.session import Session
from pycolo.testing import _network, _serve
from pycolo.testing._argv import block_file
from pycolo.testing._clock import ClockLoop
from pycolo.testing._fleet import Fleet
from pycolo.testing._host import FakeHost
from pycolo.testing._qemu import FakeQemu, Family

_T = TypeVar("_T")
_SESSION_S: Final = 5.0
_AUTORUN_S: Final = 0.01


@final
@attrs.define(eq=False, repr=False)
class World(Fleet):
    """Simulated hosts on which fake QEMUs run, with a clock of their own.

    The clock moves only inside `run`, by `advance`, or while `autorun` runs.

    Args:
        version: The QEMU version that every fake simulates.
        ram_copy_s: How long the first copy of a guest's RAM takes, in seconds.
        disk_copy_s: How long a mirror job takes until it is ready, in seconds.
        commit_s: How long a promoted secondary takes to merge its overlays, in seconds.

    Raises:
        DeclarationError: No fake simulates this version.
    """

    _hosts: dict[str, FakeHost] = attrs.field(factory=dict, init=False)

    # -- time

    def run(self, main: Coroutine[object, object, _T]) -> _T:
        """Run a coroutine on an event loop that has the world's clock.

        While every task waits, the clock jumps to the next time at which an action or a timer is
        due, so that a limit of an hour takes no real time; if nothing is ever due, the loop waits
        for another thread, without a limit. Otherwise each turn of the loop advances the clock by a
        tenth of a millisecond. The same coroutine runs in the same way every time.
        Only sessions in memory can be used, because another program would use another clock.

        Args:
            main: The coroutine.

        Returns:
            The coroutine's result. The world can be used afterwards, and `run` can be called again.
        """
        loop = ClockLoop(self)
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            try:
                return runner.run(main)
            except RuntimeError:
                # The loop was stopped by it.
                if loop.fatal is not None:
                    raise loop.fatal from None
                raise

    async def autorun(self) -> None:
        """Advance the clock as real time passes, until cancelled; for demonstrations."""
        while True:
            await asyncio.sleep(_AUTORUN_S)
            self.advance(_AUTORUN_S)

    # -- hosts

    def install(self, pair: ColoPair, node: str) -> None:
        """Make the guest's images on a node's host, as an operator does before the first start.

        Args:
            pair: The declaration.
            node: The node's name.

        Raises:
            DeclarationError: The pair has no such node.
            HostRefused: An image of another size is there.
        """
        place = pair.node(node)
        self.hosts(pair)
        for disk in pair.disks:
            image = block_file(topology.image(place, disk))
            self.create_image(place, image, disk.size_bytes)

    def host(self, node: str) -> FakeHost:
        """The simulated host of a node; the same object at each call.

        Args:
            node: The node's name.

        Raises:
            DeclarationError: The world does not know the node: no pair with it was passed to
                `install` or `hosts`, and no QEMU was launched on it.
        """
        self._check_known("node", node)
        return self._host(node)

    def _host(self, node: str) -> FakeHost:
        return self._hosts.setdefault(node, FakeHost(self, node))

    def _check_known(self, field: str, node: str) -> None:
        launched = (process.node.name for process in self.processes)
        known = tuple(dict.fromkeys((*self._hosts, *launched)))
        if node not in known:
            names = ", ".join(known) or "none yet: call install or hosts with a pair"
            raise DeclarationError(field, node, f"be a node that the world knows ({names})")

    def hosts(self, pair: ColoPair) -> Mapping[str, FakeHost]:
        """Map each node name, spares included, to its host, as `execute` and `probe` take them.

        Args:
            pair: The declaration.
        """
        return {node.name: self._host(node.name) for node in pair.all_nodes}

    # -- the network between hosts

    def cut(self, first: str, second: str) -> None:
        """Lose every packet between two nodes' hosts, until `heal`; connections stay open.

        Args:
            first: The name of one node.
            second: The name of the other one.

        Raises:
            DeclarationError: The world does not know one of the nodes; see `host`.
        """
        self._check_known("first", first)
        self._check_known("second", second)
        self.cuts.add(frozenset((first, second)))

    def heal(self, first: str, second: str) -> None:
        """Carry packets between two nodes' hosts again.

        Connections that were open at `cut` continue, and what waited for a packet does so at once.
        If a QEMU of these nodes has ended meanwhile, its peers see now that their connections
        ended.

        Args:
            first: The name of one node.
            second: The name of the other one.

        Raises:
            DeclarationError: The world does not know one of the nodes; see `host`.
        """
        self._check_known("first", first)
        self._check_known("second", second)
        self.cuts.discard(frozenset((first, second)))
        for process in self.processes:
            if not process.alive and process.node.name in (first, second):
                _network.lost(process)
        self.settle()

    # -- what a test can check

    @property
    def serving(self) -> tuple[FakeQemu, ...]:
        """The QEMUs whose guest clients reach over IPv4 now; two at once are a split brain.

        Empty if there is none. A secondary in COLO runs but is not among them, since COLO holds its
        packets back.
        """
        return self.answering("ipv4")

    def answering(self, family: Family) -> tuple[FakeQemu, ...]:
        """The QEMUs whose guest a client reaches over IPv4 or IPv6 now.

        COLO holds back untagged IPv4 and nothing else (qemu-behaviour 17.2). So a guest whose IPv4
        packets are held back still answers over IPv6, beside one that was promoted.
        """
        return tuple(q for q in self.running if q.runs and q.reaches(family))

    # -- connections of controllers

    async def session(self, node: Node, *, observer: bool = False) -> Session:
        """Connect a real `Session` to the QEMU on a node, in memory.

        Args:
            node: The node.
            observer: Use the observer monitor instead of the control monitor.

        Raises:
            RemoteError: The connection failed, as for `Session.connect`.
        """
        place = node.observer_monitor if observer else node.control_monitor
        return await Session.connect(node.name, place, limit_s=_SESSION_S, connector=self.connector)

    async def listen(self) -> tuple[asyncio.Server, ...]:
        """Serve the monitors of all running QEMUs at their own addresses, for other programs.

        May be called again after more QEMUs were launched. A monitor is served until its QEMU ends.

        Returns:
            The new servers, which the caller closes.

        Raises:
            OSError: The folder of a Unix socket is missing, or an address cannot be listened at.
        """
        new = [m for process in self.running for m in process.monitors if not m.server]
        servers = [await _serve.listen(monitor) for monitor in new]
        for monitor, server in zip(new, servers, strict=True):
            monitor.server = server
        return tuple(servers)

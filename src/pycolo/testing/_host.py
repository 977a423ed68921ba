"""The simulated hosts of a world, for a controller."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Collection
from typing import Final, assert_never, final

from pycolo.errors import ConnectionFailed, HostRefused
from pycolo.evidence import Evidence, Victim
from pycolo.facts import HostFacts, NoFacts, Part
from pycolo.hosts import HostState
from pycolo.model.node import Monitor
from pycolo.model.pair import ColoPair
from pycolo.plan import (
    CheckDevices,
    CheckPorts,
    CreateImage,
    HostAction,
    LaunchQemu,
    StopQemu,
)
from pycolo.qmp.replies import Version
from pycolo.record import Change, NoRecord, UnreadRecord, digest, dumps, loads
from pycolo.snapshot import Running
from pycolo.testing._fleet import Fleet
from pycolo.testing._network import end

_AWAY: Final = "the host does not answer"


@final
class FakeHost:
    """The simulated host of a node, a `pycolo.hosts.Host`; made by `World.host`."""

    def __init__(self, world: Fleet, name: str) -> None:
        """Keep the world; only `World.host` calls this."""
        self._world: Final = world
        self.name: Final = name
        "The name of the node."
        self.away = False
        "If true, the host cannot be reached; its QEMUs keep running and its files stay."
        self.files: dict[str, bytes] = {}
        "The records on its disk, by path; a test may damage or remove one."

    async def connect(self, node: str, monitor: Monitor) -> socket.socket:
        """Open a connected, non-blocking socket to a monitor; see `Host.connect`."""
        if self.away:
            raise ConnectionFailed(node, str(monitor), _AWAY)
        return await self._world.connector(node, monitor)

    async def observe(self, pair: ColoPair, node: str, *, limit_s: float) -> HostState:  # noqa: ARG002 - a Host's
        """Read a node's record, and find out whether its QEMU runs; see `Host.observe`."""
        if self.away:
            return HostState(record=UnreadRecord(why=_AWAY))
        data = self.files.get(pair.record_path(node))
        record = NoRecord() if data is None else loads(data)
        folder = f"{self.name} {pair.node(node).image_folder}"
        return HostState(record=record, folder=folder, running=self._running(node))

    def _running(self, node: str) -> Running | None:
        alive = [q for q in self._world.processes if q.node.name == node and q.alive]
        if not alive:
            return None
        how = f"its host knows it as process {alive[-1].pid}"
        return Running(instance=alive[-1].line.name, how=how)

    async def write(self, pair: ColoPair, node: str, change: Change, *, limit_s: float) -> None:  # noqa: ARG002 - a Host's
        """Replace a node's record durably, if it is the expected one; see `Host.write`."""
        self._reached(node, "write-record")
        path = pair.record_path(node)
        data = self.files.get(path)
        found = NoRecord() if data is None else loads(data)
        if digest(found) != digest(change.expects):
            why = "the record is not what it was: somebody else has changed it; compile again"
            raise HostRefused(node, "write-record", why)
        self.files[path] = dumps(change.becomes).encode()

    async def run(self, pair: ColoPair, node: str, action: HostAction, *, limit_s: float) -> str:  # noqa: ARG002 - a Host's
        """Perform an action, such as to start or end a QEMU; see `Host.run`."""
        match action:
            case CreateImage(path=path, size_bytes=size_bytes):
                self._reached(node, "create-image")
                self._world.create_image(pair.node(node), path, size_bytes)
                return ""
            case LaunchQemu(record=record):
                self._reached(node, "launch-qemu")
                data = self.files.get(pair.record_path(node))
                if record is not None and data != dumps(record).encode():
                    why = "the record has changed: another start or failover came first"
                    raise HostRefused(node, "launch-qemu", why)
                self._world.launch(action, pair.node(node))
                return ""
            case StopQemu(instance=instance):
                self._reached(node, "stop-qemu")
                return self._stop(node, instance)
            case CheckDevices():
                self._reached(node, "check-devices")
                return "not looked at: these QEMUs are played"
            case CheckPorts(host=host):
                self._reached(node, "check-ports")
                return self._check_ports(pair, node, host)
            case _:
                assert_never(action)

    def _stop(self, node: str, instance: str) -> str:
        ours = [q for q in self._world.processes if q.node.name == node and q.line.name == instance]
        if not ours:
            raise HostRefused(node, "stop-qemu", f"no process here is known to be {instance}")
        # A frozen QEMU does not end by SIGTERM; a real host then sends SIGKILL.
        end(ours[-1], 0 if ours[-1].works else -9)
        return f"process {ours[-1].pid} has ended"

    def _check_ports(self, pair: ColoPair, node: str, host: str) -> str:
        others = [o.name for o in pair.all_nodes if o.address == host]
        if not any(self._world.carries(node, other) for other in others):
            why = f"{host} cannot be reached from {node}: no answer within the limit"
            raise HostRefused(node, "check-ports", why)
        return ""

    async def death(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:  # noqa: ARG002 - a Host's
        """Ask for evidence that a QEMU has ended; None if there is none; see `Host.death`."""
        return None if self.away else self.evidence(victim)

    def evidence(self, victim: Victim) -> Evidence | None:
        """Return evidence that a QEMU has ended, even if the host is `away`; None if it has not.

        Args:
            victim: The QEMU.
        """
        for process in self._world.processes:
            named = (process.node.name, process.line.name)
            if named == (victim.node, victim.instance) and not process.alive:
                return Evidence.of(
                    victim,
                    kind="exit",
                    who=self.name,
                    how=f"process {process.pid} has ended",
                    when=f"{self._world.now_s:.3f} s",
                )
        return None

    async def ended(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """Wait for evidence that a QEMU has ended; None if the limit passes; see `Host.ended`."""
        alive = [q for q in self._world.processes if q.line.name == victim.instance and q.alive]
        if self.away or not alive:
            return await self.death(pair, victim, limit_s=limit_s)
        over = asyncio.Event()

        def has_ended() -> bool:
            if alive[0].alive or over.is_set():
                return False
            over.set()
            return True

        self._world.waiting[has_ended] = None
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await over.wait()
        finally:
            del self._world.waiting[has_ended]
        return await self.death(pair, victim, limit_s=limit_s)

    async def version(self, pair: ColoPair, node: str, *, limit_s: float) -> Version:  # noqa: ARG002 - a Host's
        """Ask the QEMU binary for its version; see `Host.version`."""
        self._reached(node, "launch-qemu")
        return Version.parse(self._world.version)

    async def facts(
        self,
        pair: ColoPair,  # noqa: ARG002 - a Host's
        node: str,  # noqa: ARG002 - a Host's
        parts: Collection[Part],  # noqa: ARG002 - a Host's
        *,
        limit_s: float,  # noqa: ARG002 - a Host's
    ) -> HostFacts | NoFacts:
        """See `Host`; the facts are empty, since the host is not real."""
        return NoFacts(why=_AWAY) if self.away else HostFacts()

    async def aclose(self) -> None:
        """Do nothing: nothing is kept open."""

    def _reached(self, node: str, action: str) -> None:
        if self.away:
            raise HostRefused(node, action, _AWAY)

"""The host on which this very process runs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, final

from pycolo import helper
from pycolo._json import JsonObject
from pycolo.evidence import Evidence, Victim
from pycolo.facts import HostFacts, NoFacts, Part
from pycolo.helper import far, gather
from pycolo.hosts import HostState, requests
from pycolo.model.node import Monitor
from pycolo.model.pair import ColoPair
from pycolo.plan import HostAction
from pycolo.qmp.replies import Version
from pycolo.record import Change
from pycolo.session import open_monitor

# The operations that a failover waits for have threads of their own, so that they are not queued
# behind a launch that waits for QEMU's greeting.
_QUICK: Final = ThreadPoolExecutor(16, "pycolo-record")
_QUICKLY: Final = ("observe", "swap", "death")


@final
class LocalHost:
    """This machine: its files, its processes and its sockets."""

    async def connect(self, node: str, monitor: Monitor) -> socket.socket:
        """Open a connected, non-blocking socket to a monitor; see `Host.connect`."""
        return await open_monitor(node, monitor)

    async def observe(self, pair: ColoPair, node: str, *, limit_s: float) -> HostState:
        """Read a node's record, and find out whether its QEMU runs; see `Host.observe`."""
        return await requests.observe(_ask, pair, node, limit_s)

    async def write(self, pair: ColoPair, node: str, change: Change, *, limit_s: float) -> None:
        """Replace a node's record durably, if it is the expected one; see `Host.write`."""
        await requests.write(_ask, pair, node, change, limit_s)

    async def run(self, pair: ColoPair, node: str, action: HostAction, *, limit_s: float) -> str:
        """Perform an action, such as to start or end a QEMU; see `Host.run`."""
        return await requests.run(_ask, pair, node, action, limit_s)

    async def death(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """Ask for evidence that a QEMU has ended; None if there is none; see `Host.death`."""
        return await requests.death(_ask, pair, victim, limit_s)

    async def ended(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """Wait for evidence that a QEMU has ended; None if the limit passes; see `Host.ended`."""
        running = self.watch(pair, victim.node)
        if running is None or running.instance != victim.instance:
            return await self.death(pair, victim, limit_s=limit_s)
        with contextlib.closing(running), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await running.wait_ended()
        return await self.death(pair, victim, limit_s=limit_s)

    async def version(self, pair: ColoPair, node: str, *, limit_s: float) -> Version:
        """Ask the QEMU binary for its version; see `Host.version`."""
        return await requests.version(_ask, pair, node, limit_s)

    async def facts(
        self, pair: ColoPair, node: str, parts: Collection[Part], *, limit_s: float
    ) -> HostFacts | NoFacts:
        """Read the facts that a preflight needs; see `Host.facts`."""
        return await requests.facts(_ask, pair, node, parts, limit_s)

    async def aclose(self) -> None:
        """Do nothing: nothing is kept open."""

    def watch(self, pair: ColoPair, node: str) -> QemuWatch | None:
        """Open a handle of the QEMU process that runs for a node on this machine.

        Args:
            pair: The declaration.
            node: The node's name.

        Returns:
            A handle, which the caller closes; None if no QEMU is known to run for the node, or if
            its process file cannot be used.

        Raises:
            DeclarationError: The pair has no such node.
        """
        try:
            held = far.hold(pair.process_path(node))
        except (far.Refused, OSError):
            return None
        return None if held is None else QemuWatch(pair, node, *held)


@final
class QemuWatch:
    """The kernel's handle of a running QEMU, to wait for its end and to get evidence of it."""

    def __init__(self, pair: ColoPair, node: str, instance: str, pidfd: far.Pidfd) -> None:
        """Keep the handle; only `LocalHost.watch` calls this."""
        self._pair = pair
        self.node: Final = node
        "The node that the QEMU runs for."
        self.pid: Final = pidfd.pid
        "The process id of the QEMU."
        self.instance: Final = instance
        "The identity of the QEMU."
        self._pidfd = pidfd

    async def wait_ended(self) -> None:
        """Wait, without a limit, until no thread of the QEMU can run again.

        Several tasks may wait at once, and `close` does not disturb a wait that has begun. The
        process may still exist for a while after that, with its sockets and images open, until its
        memory is freed.

        Raises:
            OSError: The handle was closed before this was called.
        """
        loop = asyncio.get_running_loop()
        with (
            contextlib.closing(self._pidfd.copy()) as pidfd,
            contextlib.closing(pidfd.lookout()) as lookout,
        ):
            # `over` may block in the kernel, so that it runs in a thread and not in the event loop.
            while await loop.run_in_executor(_QUICK, pidfd.over) is None:
                await _readable(lookout, lookout.arm())

    def evidence(self, epoch: int) -> Evidence | None:
        """Return evidence that the QEMU has ended; may also be called after `close`.

        Args:
            epoch: The epoch of the record in which this QEMU could have run alone.

        Returns:
            The evidence. None while the QEMU runs, and if its process file cannot be trusted.
        """
        victim = Victim(node=self.node, instance=self.instance, epoch=epoch)
        request: JsonObject = {
            "process": self._pair.process_path(self.node),
            "instance": self.instance,
            "limit_s": 0.0,
        }
        try:
            return requests.evidence_of(victim, far.perform("death", request))
        except far.Refused:
            return None

    def close(self) -> None:
        """Close the handle; the QEMU keeps running. May be called again."""
        self._pidfd.close()


async def _readable(lookout: far.Lookout, limit_s: float) -> None:
    loop = asyncio.get_running_loop()
    hint = asyncio.Event()
    loop.add_reader(lookout.fileno(), hint.set)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await hint.wait()
    finally:
        loop.remove_reader(lookout.fileno())


async def _ask(name: str, request: JsonObject, limit_s: float) -> Mapping[str, object]:
    del limit_s  # the operation applies it
    loop = asyncio.get_running_loop()
    where = _QUICK if name in _QUICKLY else None
    perform = _facts if name == "facts" else _perform
    try:
        return await loop.run_in_executor(where, perform, name, request)
    except far.Refused as error:
        raise requests.Refused(str(error)) from error
    except far.Uncertain as error:
        raise requests.Uncertain(str(error)) from error


def _facts(_: str, request: JsonObject) -> Mapping[str, object]:
    launch = {key: value for key, value in request.items() if key not in ("program", "request")}
    facts_by: Callable[..., Mapping[str, object]] = far.facts_by
    return facts_by(gather.gather, request["request"], **launch)


def _perform(name: str, request: JsonObject) -> Mapping[str, object]:
    return far.perform(name, request, helper.text())

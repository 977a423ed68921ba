"""The fuse of a node's host, as an agent uses it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final, Protocol, final

from typing_extensions import override

from pycolo.errors import FuseLost, FuseRefused
from pycolo.fuse.client import FuseClient, boottime_s
from pycolo.hosts.local import LocalHost
from pycolo.model import ColoPair

_ANSWER_S: Final = 1.0
_START_TIME_FIELD: Final = 22


class Guard(Protocol):
    """The fuse of a node's host, for one node. Each method ends within a second or so.

    The guard stays usable after each error.
    """

    def now_s(self) -> float:
        """The present time, in seconds on the clock to which `renew` refers."""

    async def arm(self, instance: str) -> float:
        """Arm the fuse for a QEMU of the node: without a renewal in time, it stops QEMU.

        Arming the fuse again for the same QEMU changes nothing.

        Args:
            instance: The identity of the QEMU.

        Returns:
            After how many seconds without a renewal the fuse stops QEMU. If it was armed already,
            this is the value with which it was armed.

        Raises:
            FuseRefused: The fuse cannot guard this QEMU, such as when it does not run here.
            FuseLost: No answer came: it is not known whether the fuse is armed.
        """

    async def armed(self) -> str | None:
        """The identity of the node's QEMU that the fuse guards; None if it guards none.

        The identity is `PAIR:NODE:HEX`. An earlier agent may have armed the fuse.

        Raises:
            FuseLost: The fuse gave no answer.
            FuseRefused: The fuse does not know the request, as one of another version may not.
        """

    async def renew(self, instance: str, *, as_of_s: float) -> None:
        """Let a QEMU run until `fuse_s` after a moment, and continue it if the fuse stopped it.

        Args:
            instance: The identity of the QEMU.
            as_of_s: The moment, in seconds on the clock of `now_s`. A moment that is not later than
                the latest one, or is `fuse_s` or more ago, changes nothing.

        Raises:
            FuseRefused: The fuse is not armed for this QEMU, or the moment is in the future.
            FuseLost: No answer came: it is not known whether the fuse was renewed.
        """

    async def disarm(self, instance: str) -> None:
        """Stop guarding a QEMU, and continue it if the fuse has stopped it.

        Args:
            instance: The identity of the QEMU.

        Raises:
            FuseRefused: The fuse is armed for another QEMU of the node, or cannot write its folder.
            FuseLost: No answer came: it is not known whether the fuse was disarmed.
        """

    async def aclose(self) -> None:
        """Close the connection to the fuse, which stays armed. May be called again."""


@final
class FuseGuard(Guard):
    """A guard by the process `pycolo-fuse` on this machine; it reconnects after `FuseLost`."""

    def __init__(self, pair: ColoPair, node: str, host: LocalHost, socket: Path) -> None:
        """Store the arguments; the first call of a method connects to the fuse.

        Args:
            pair: The declaration.
            node: The node whose QEMU runs on this machine.
            host: This machine.
            socket: The path of the fuse's socket.
        """
        self._pair: Final = pair
        self._node: Final = node
        self._host: Final = host
        self._socket: Final = socket
        self._client: FuseClient | None = None

    @override
    def now_s(self) -> float:
        return boottime_s()

    @override
    async def arm(self, instance: str) -> float:
        pid, started = self._process(instance)
        declared = self._pair.supervision
        async with self._fuse() as fuse:
            # A fuse that was armed with the limits of another pair file keeps them.
            for armed in await fuse.armed(limit_s=_ANSWER_S):
                if armed.instance == instance:
                    return armed.fuse_s
            made = await fuse.arm(
                self._pair.name,
                self._node,
                instance,
                pid=pid,
                start_time=started,
                fuse_s=declared.fuse_s,
                kill_s=declared.kill_s,
                limit_s=_ANSWER_S,
            )
            return made.fuse_s

    @override
    async def armed(self) -> str | None:
        mine = (self._pair.name, self._node)
        async with self._fuse() as fuse:
            found = await fuse.armed(limit_s=_ANSWER_S)
        return next((one.instance for one in found if (one.pair, one.node) == mine), None)

    @override
    async def renew(self, instance: str, *, as_of_s: float) -> None:
        pair, node = self._pair.name, self._node
        async with self._fuse() as fuse:
            await fuse.renew(pair, node, instance, as_of_s=as_of_s, limit_s=_ANSWER_S)

    @override
    async def disarm(self, instance: str) -> None:
        async with self._fuse() as fuse:
            await fuse.disarm(self._pair.name, self._node, instance, limit_s=_ANSWER_S)

    @override
    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _process(self, instance: str) -> tuple[int, int]:
        """The process ID of a QEMU, and when it started, in clock ticks since boot.

        Raises:
            FuseRefused: This QEMU does not run on this machine.
        """
        held = self._host.watch(self._pair, self._node)
        if held is None:
            raise FuseRefused(str(self._socket), f"{instance} does not run on this machine")
        with contextlib.closing(held):
            if held.instance != instance:
                raise FuseRefused(str(self._socket), f"{held.instance} runs, not {instance}")
            try:
                return held.pid, _start_time(held.pid)
            except OSError as error:
                raise FuseRefused(str(self._socket), f"{instance} has ended") from error

    @contextlib.asynccontextmanager
    async def _fuse(self) -> AsyncGenerator[FuseClient]:
        """The connection to the fuse; after `FuseLost`, the next use opens another one."""
        if self._client is None:
            self._client = await FuseClient.connect(str(self._socket), limit_s=_ANSWER_S)
        try:
            yield self._client
        except FuseLost:
            self._client = None
            raise


def _start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot."""
    # The name of the program, in parentheses, may contain spaces and parentheses itself.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[_START_TIME_FIELD - 3])

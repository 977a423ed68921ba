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

    It stays usable after each error.
    """

    def now_s(self) -> float:
        """Now, in seconds, on the clock by which renewals count."""

    async def arm(self, instance: str) -> float:
        """Arm the fuse for a QEMU of the node: it is stopped unless it is renewed; may be repeated.

        Args:
            instance: The identity of the QEMU.

        Returns:
            After how many seconds without a renewal it is stopped, as it was armed first.

        Raises:
            FuseRefused: It cannot be guarded.
            FuseLost: It is not known whether it is.
        """

    async def armed(self) -> str | None:
        """The QEMU of the node that is guarded, whoever has armed the fuse; None for none.

        Raises:
            FuseLost: There is no answer.
        """

    async def renew(self, instance: str, *, as_of_s: float) -> None:
        """Let a QEMU run for another `fuse_s` from a moment on.

        Args:
            instance: The identity of the QEMU.
            as_of_s: The moment, on the clock of `now_s`. One that is older than the latest changes
                nothing.

        Raises:
            FuseRefused: This QEMU is not armed.
            FuseLost: It is not known whether it was renewed.
        """

    async def disarm(self, instance: str) -> None:
        """Stop guarding a QEMU. If the fuse has stopped it, it continues.

        Args:
            instance: The identity of the QEMU.

        Raises:
            FuseRefused: Another QEMU of the node is armed.
            FuseLost: It is not known whether it was disarmed.
        """

    async def aclose(self) -> None:
        """Close the connection to the fuse; what is armed stays so. May be called again."""


@final
class FuseGuard(Guard):
    """The process `pycolo-fuse` on this machine. A connection that was lost is made again."""

    def __init__(self, pair: ColoPair, node: str, host: LocalHost, socket: Path) -> None:
        """Keep the fuse's place.

        Args:
            pair: The declaration.
            node: The node whose QEMU runs on this machine.
            host: This machine.
            socket: The fuse's socket.
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
            # One that an agent with another pair file has armed keeps its limits.
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
        """The process of a QEMU, and when it started."""
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
        """The fuse; one that is lost is connected to again the next time."""
        if self._client is None:
            self._client = await FuseClient.connect(str(self._socket), limit_s=_ANSWER_S)
        try:
            yield self._client
        except FuseLost:
            self._client = None
            raise


def _start_time(pid: int) -> int:
    """When a process started, in clock ticks since the machine did."""
    # The name of the program, in parentheses, may hold spaces and parentheses of its own.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[_START_TIME_FIELD - 3])

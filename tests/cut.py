"""A wire to a QEMU monitor that breaks at a chosen command.

`CutWire` stands between a session and a real monitor. It passes everything on, both ways, until a
command comes at which it is to break: before QEMU gets it, as soon as QEMU got it, or when QEMU
has answered. Whoever connects again finds a new wire to the same monitor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias, final

import attrs

from pycolo.model import UnixMonitor
from pycolo.qmp.commands import Command

Moment: TypeAlias = Literal["before the send", "after the send", "after the execution"]
"When a wire breaks, seen from the command."
MOMENTS: tuple[Moment, ...] = ("before the send", "after the send", "after the execution")
# One line of QEMU's may be long: a list of block nodes, say.
LINE_BYTES = 1 << 24


@final
@attrs.frozen(kw_only=True)
class Order:
    """At which command to break, and when."""

    message: Mapping[str, object]
    "The command as it is sent, without its id."
    moment: Moment


@final
class CutWire:
    """One wire after the other to one monitor, each whole until it breaks."""

    def __init__(self, path: str, monitor: UnixMonitor) -> None:
        self.monitor = UnixMonitor(path=path)
        "Where the session connects."
        self.cuts = 0
        "How often it broke."
        self._real = monitor
        self._order: Order | None = None
        self._passed = 0
        # What serves, and the end that makes it stop.
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def cut_at(
        self, command: Command, moment: Moment, *, oob: bool = False, occurrence: int = 1
    ) -> None:
        """Break once, at a command still to come.

        Args:
            command: The command; its arguments count, too.
            moment: When, with respect to it.
            oob: Whether it goes out of band.
            occurrence: Which one of those that are equal to it, from 1.
        """
        told = {"exec-oob" if oob else "execute": command.qmp_name}
        arguments = command.arguments()
        self._order = Order(
            message={**told, "arguments": arguments} if arguments else told, moment=moment
        )
        self._passed = 1 - occurrence

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Be the wire of one who connected, until it breaks."""
        serving = asyncio.current_task()
        assert serving is not None
        self._serving[serving] = to_client
        try:
            qemu, to_qemu = await asyncio.open_unix_connection(self._real.path, limit=LINE_BYTES)
            await _One(self, client, to_client, qemu, to_qemu).pass_on()
            await _closed(to_qemu)
        except OSError:
            # Nobody is there to be connected to: whoever connected is told by the hang-up.
            pass
        finally:
            await _closed(to_client)
            del self._serving[serving]

    async def aclose(self) -> None:
        """End what still serves."""
        for end in self._serving.values():
            end.close()
        if self._serving:
            await asyncio.wait(tuple(self._serving))

    def asked_for(self, message: Mapping[str, object]) -> Moment | None:
        """When to break at this command; None if the wire is to hold."""
        order = self._order
        if order is None or {k: v for k, v in message.items() if k != "id"} != order.message:
            return None
        self._passed += 1
        if self._passed < 1:
            return None
        self._order = None
        self.cuts += 1
        return order.moment


async def _closed(end: asyncio.StreamWriter) -> None:
    end.close()
    with contextlib.suppress(OSError):
        await end.wait_closed()


@final
class _One:
    """One connection, both ways."""

    def __init__(
        self,
        wire: CutWire,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        qemu: asyncio.StreamReader,
        to_qemu: asyncio.StreamWriter,
    ) -> None:
        self._wire = wire
        self._client = client
        self._to_client = to_client
        self._qemu = qemu
        self._to_qemu = to_qemu
        self._silenced: object = None

    async def pass_on(self) -> None:
        """Pass on what is said until one end hangs up or the wire is to break."""
        ways = {asyncio.create_task(self._commands()), asyncio.create_task(self._replies())}
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
            self._to_qemu.close()

    async def _commands(self) -> None:
        said = ""
        with contextlib.suppress(OSError):
            while data := await self._client.read(LINE_BYTES):
                # A client's messages end where their JSON does (qemu-behaviour 14.1).
                messages, said = _whole(said + data.decode("ascii"))
                for message in messages:
                    if await self._breaks(message):
                        return

    async def _breaks(self, message: Mapping[str, object]) -> bool:
        moment = self._wire.asked_for(message)
        if moment == "before the send":
            return True
        if moment == "after the execution":
            self._silenced = message["id"]
        self._to_qemu.write(json.dumps(message).encode())
        await self._to_qemu.drain()
        return moment == "after the send"

    async def _replies(self) -> None:
        with contextlib.suppress(OSError):
            while line := await self._qemu.readline():
                if self._silenced is not None and json.loads(line).get("id") == self._silenced:
                    return
                self._to_client.write(line)
                await self._to_client.drain()


def _whole(text: str) -> tuple[list[Mapping[str, object]], str]:
    """The messages that are complete, and what is left of the text."""
    decoder = json.JSONDecoder()
    found: list[Mapping[str, object]] = []
    text = text.lstrip()
    while text:
        try:
            message, end = decoder.raw_decode(text)
        except json.JSONDecodeError:
            break
        found.append(message)
        text = text[end:].lstrip()
    return found, text


@asynccontextmanager
async def cut_wire(path: str, monitor: UnixMonitor) -> AsyncGenerator[CutWire]:
    """A wire to a monitor, for as long as the context is not left.

    Args:
        path: Of the socket that stands for the monitor; short, since names of sockets are.
        monitor: The real one.
    """
    wire = CutWire(path, monitor)
    server = await asyncio.start_unix_server(wire.serve, path, limit=LINE_BYTES)
    try:
        yield wire
    finally:
        server.close()
        await wire.aclose()
        await server.wait_closed()

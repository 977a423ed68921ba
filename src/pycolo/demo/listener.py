"""Run the demo's client as a process, collect its messages, and answer questions about them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, assert_never, final

from pycolo.demo.client import BUSY, DISK, IDLE, NOTABLE_S, READ
from pycolo.demo.messages import Lost, Message, ReadBack, State, Waited, from_line
from pycolo.demo.network import Network, Service
from pycolo.errors import ParseError, PycoloError

KEPT: Final = (BUSY, *IDLE, DISK)
"The streams whose connections should outlive a failover."
_END_S: Final = 5.0
_READ_S: Final = 70.0


class ClientError(PycoloError):
    """The client ended, or did not send an expected message in time."""


class UnreadDiskError(ClientError):
    """The guest's disk could not be read through the guest, or not in time; the client runs on."""


@final
class Listener:
    """The messages that the client has sent so far; more come while it runs."""

    def __init__(self) -> None:
        self.state = State(at_s=0.0, acknowledged=0, streams={})
        self.waits: list[Waited] = []
        self.lost: list[Lost] = []
        self.readings: list[ReadBack] = []
        self._process: Process | None = None
        self._news = asyncio.Event()
        self._broken = ""

    def take(self, message: Message) -> None:
        """Store one message of the client, and wake the tasks that wait in `until`."""
        match message:
            case State():
                self.state = message
            case Waited():
                self.waits.append(message)
            case Lost():
                self.lost.append(message)
            case ReadBack():
                self.readings.append(message)
            case _:
                assert_never(message)
        self._news.set()

    # -- questions

    def worst(self, stream: str, from_s: float, to_s: float) -> Waited | None:
        """The longest wait of a stream that overlaps a span of time; None if there is none.

        Args:
            stream: The stream's name.
            from_s: The beginning of the span, by the monotonic clock.
            to_s: The end of the span.
        """
        touching = [
            wait
            for wait in self.waits
            if wait.stream == stream and wait.to_s > from_s and wait.from_s < to_s
        ]
        return max(touching, key=lambda wait: wait.took_s, default=None)

    def connections(self) -> dict[str, int]:
        """For each stream of `KEPT`, the number of the connection that it uses now."""
        return {name: self.state.streams[name].connection for name in KEPT}

    def answered_since(self, at_s: float) -> bool:
        """Whether every stream has got an answer after a time of the monotonic clock."""
        streams = self.state.streams
        return set(KEPT) <= set(streams) and all(s.last_s > at_s for s in streams.values())

    # -- waiting and asking

    async def until(self, come_true: Callable[[], bool], limit_s: float) -> bool:
        """Wait until a condition on the client's messages holds, or the limit passes.

        Args:
            come_true: The condition; tested after each message.
            limit_s: How long to wait, in seconds.

        Returns:
            Whether the condition holds.

        Raises:
            ClientError: The client ended.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not come_true():
                    self._refuse_if_broken()
                    self._news.clear()
                    await self._news.wait()
        return come_true()

    async def read_back(self) -> ReadBack:
        """Have the client read the guest's disk through the guest.

        Returns:
            How many acknowledged records the disk lacks.

        Raises:
            UnreadDiskError: The disk could not be read, or not in time.
            ClientError: The client ended.
        """
        count, failed = len(self.readings), self._failed_readings()
        await self._ask(READ)
        await self.until(
            lambda: len(self.readings) > count or self._failed_readings() > failed, _READ_S
        )
        if len(self.readings) == count:
            why = self.lost[-1].why if self._failed_readings() > failed else "no answer in time"
            raise UnreadDiskError(f"the guest's disk could not be read through the guest: {why}")
        return self.readings[-1]

    def _failed_readings(self) -> int:
        return sum(lost.stream == READ for lost in self.lost)

    async def go_to(self, service: Service) -> None:
        """Have the client make new connections to another address, where the guest is reached now.

        Connections that are open are kept.

        Raises:
            ClientError: The client ended.
        """
        await self._ask(f"target {service.host} {service.echo_port} {service.disk_port}")

    async def _ask(self, line: str) -> None:
        self._refuse_if_broken()
        assert self._process is not None and self._process.stdin is not None  # noqa: PT018, S101 - it runs
        self._process.stdin.write(f"{line}\n".encode())
        with contextlib.suppress(ConnectionError):
            await self._process.stdin.drain()

    def _refuse_if_broken(self) -> None:
        if self._broken:
            raise ClientError(self._broken)

    # -- the process

    async def follow(self, process: Process) -> None:
        """Take the messages of a client's process until that process ends."""
        self._process = process
        assert process.stdout is not None  # noqa: S101 - it was started with a pipe
        try:
            while line := await process.stdout.readline():
                self.take(from_line(line.decode()))
            self._broken = "the client ended"
        except ParseError as error:
            self._broken = f"the client wrote {error}"
        finally:
            self._news.set()


@asynccontextmanager
async def listening(
    network: Network,
    service: Service,
    log: Path,
    *,
    writes_from: int = 1,
    writers: int = 0,
    notable_s: float = NOTABLE_S,
) -> AsyncGenerator[Listener]:
    """Run the client as a process while the block lasts.

    Args:
        network: The network that the client is in.
        service: The address and ports at which the client reaches the guest.
        log: The file for the client's standard error.
        writes_from: The number of the first record that the client writes.
        writers: If not 0, the client only writes, over this many connections; if 0, it runs all
            streams, one of which writes.
        notable_s: The client reports each wait that is longer than this, in seconds.

    Yields:
        What is known from the client's lines; it is brought up to date while the block lasts.

    Raises:
        ClientError: The client could not be started.
    """
    listener = Listener()
    argv = (*_argv(network, service, writes_from, writers), "--notable-s", str(notable_s))
    process = await _started(argv, log)
    following = asyncio.create_task(listener.follow(process))
    try:
        yield listener
    finally:
        await _ended(process)
        await following


def _argv(network: Network, service: Service, writes_from: int, writers: int) -> Sequence[str]:
    program = (sys.executable, "-m", "pycolo.demo.client")
    target = (service.host, str(service.echo_port), str(service.disk_port))
    writes = ("--writes-from", str(writes_from), "--writers", str(writers))
    ping = ("--ping",) if network.isolated and not writers else ()
    return (*network.client, *program, *target, *writes, *ping)


async def _started(argv: Sequence[str], log: Path) -> Process:
    # The client has a session of its own, so that Ctrl-C reaches only the demo, which then ends the
    # client.
    with log.open("ab") as stderr:
        try:
            return await asyncio.create_subprocess_exec(
                *argv, stdin=PIPE, stdout=PIPE, stderr=stderr, start_new_session=True
            )
        except OSError as error:
            raise ClientError(f"{argv[0]}: {error}") from error


async def _ended(process: Process) -> None:
    assert process.stdin is not None  # noqa: S101 - it was started with a pipe
    process.stdin.close()
    try:
        async with asyncio.timeout(_END_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()

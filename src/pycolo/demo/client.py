"""The client of the demo: sends requests to the guest all the time, and reports how long it waited.

It runs as a program, `python -m pycolo.demo.client HOST ECHO_PORT DISK_PORT [--ping]`, so that it
can run in a network namespace of its own. With `--writers K` it only writes, over K connections at
once, beginning with record `--writes-from` and pausing after each record, so that two such clients
do not overload a slow guest. It reports each wait that is longer than `--notable-s`. It writes its
messages to standard output, as `pycolo.demo.messages` describes them; times are those of the
machine's monotonic clock, in seconds.

On standard input it takes two commands, one a line: `target HOST ECHO_PORT DISK_PORT` (from now on
the guest is reached at this address), and `read` (compare all records on the guest's disk with
those that were acknowledged before). The client ends when its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final, TextIO, final

import attrs

from pycolo.demo.guests import MAX_SLOTS
from pycolo.demo.messages import Counters, Lost, Message, ReadBack, State, Waited, to_line
from pycolo.demo.network import Service

NOTABLE_S: Final = 0.02
"A wait that is not longer than this is not reported, unless another limit is asked for."
PING_EVERY_S: Final = 0.005
IDLE_EVERY_S: Final = 0.1
WRITE_PAUSE_S: Final = 0.1
"The pause after each record in a client that only writes."
IDLE: Final = tuple(f"echo-{n}" for n in range(1, 8))
"Connections with one request every `IDLE_EVERY_S`."
BUSY: Final = "echo-busy"
"The connection that always has a request in flight."
PING: Final = "ping"
DISK: Final = "disk"
NEW: Final = "new"
"The stream that makes a new connection for each request."
READ: Final = "read"
"The name under which a failed reading of the whole disk is reported."

_STATE_EVERY_S: Final = 0.2
_CONNECT_LIMIT_S: Final = 5.0
_NEW_LIMIT_S: Final = 0.25
# After an outage the client's kernel may wait for as long again before it repeats a request. A cut
# lasts until the supervisor's limits have passed.
_REPLY_LIMIT_S: Final = 40.0
_READ_LIMIT_S: Final = 60.0
_RETRY_S: Final = 0.1
_ECHO_REQUEST: Final = 8
_ICMP_HEADER: Final = struct.Struct("!BBHHH")
_READ_LINE_BYTES: Final = 1 << 16


class WrongReplyError(Exception):
    """The guest's reply is not the expected one."""


@final
@attrs.define
class Stream:
    """One kind of request that the client repeats, such as an echo on one connection."""

    name: str
    answered: int = 0
    last_s: float = 0.0
    connection: int = 0

    def counters(self) -> Counters:
        """The counters of this stream, as a message reports them."""
        return Counters(answered=self.answered, last_s=self.last_s, connection=self.connection)


@final
class Client:
    """The state that all streams share, and the output that they report to.

    A stream is one kind of request that the client repeats; see `Stream`.
    """

    def __init__(
        self, target: Service, out: TextIO, first: int = 1, notable_s: float = NOTABLE_S
    ) -> None:
        self.target = target
        self.acknowledged: set[int] = set()
        "The numbers of the disk records that the guest acknowledged."
        self.numbers = iter(range(first, MAX_SLOTS))
        "The numbers of the next records; no two share a slot on the disk."
        self.may_write = asyncio.Event()
        "Cleared while the disk is read: a slow guest could not finish if it had to write as well."
        self.may_write.set()
        self.streams: dict[str, Stream] = {}
        self._out = out
        self._notable_s = notable_s

    def stream(self, name: str) -> Stream:
        """Return the stream of this name, made at the first call."""
        return self.streams.setdefault(name, Stream(name))

    def answered(self, stream: Stream, asked_s: float) -> None:
        """Count an answer, and report the wait if it was notably long.

        Args:
            stream: The stream whose request was answered.
            asked_s: When the request was first sent, by the monotonic clock.
        """
        stream.last_s = time.monotonic()
        stream.answered += 1
        if stream.last_s - asked_s > self._notable_s:
            self.tell(Waited(stream=stream.name, from_s=asked_s, to_s=stream.last_s))

    def lost(self, stream: Stream, error: Exception) -> None:
        """Report that a stream's connection has ended, and why, and count the next connection."""
        self.tell(Lost(stream=stream.name, at_s=time.monotonic(), why=_why(error)))
        stream.connection += 1

    def state(self) -> None:
        """Report the counters of all streams."""
        streams = {name: stream.counters() for name, stream in self.streams.items()}
        at_s = time.monotonic()
        self.tell(State(at_s=at_s, acknowledged=len(self.acknowledged), streams=streams))

    def tell(self, message: Message) -> None:
        """Write a message to the output, as one line."""
        self._out.write(to_line(message))
        self._out.flush()


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


# -- connections


@final
class Line:
    """A connection over which lines of text are sent and received."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, host: str, port: int, limit_s: float) -> Line:
        """Connect to a service of the guest; raises OSError if that fails or takes too long."""
        async with asyncio.timeout(limit_s):
            return cls(*await asyncio.open_connection(host, port, limit=_READ_LINE_BYTES))

    async def ask(self, request: str, limit_s: float = _REPLY_LIMIT_S) -> str:
        """Send a line and return the next line that comes.

        Raises:
            OSError: The connection ended, or no line came within `limit_s`.
        """
        self._writer.write(f"{request}\n".encode())
        return await self.next(limit_s)

    async def next(self, limit_s: float = _REPLY_LIMIT_S) -> str:
        """Return the next line that comes; raises OSError as `ask` does."""
        async with asyncio.timeout(limit_s):
            line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the guest's end closed the connection")
        return line.decode("ascii", "replace").rstrip("\n")

    def close(self) -> None:
        """Abort the connection at once; data that is not sent yet is dropped."""
        self._writer.transport.abort()


async def echo(client: Client, name: str, every_s: float) -> None:
    """Send echo requests on one connection, and on a new one each time that the connection ends.

    It does so until it is cancelled. A request without an answer is sent again on the new one.

    Args:
        client: The client.
        name: The name of the stream.
        every_s: The pause after each answer, in seconds.
    """
    stream = client.stream(name)

    async def asks(line: Line, asked: Asked) -> None:
        while True:
            request = f"{name} {stream.answered}"
            await _expect(line, request, request)
            client.answered(stream, asked.since_s)
            await asyncio.sleep(every_s)
            asked.now()

    await _for_ever(client, stream, lambda: client.target.echo_port, asks)


async def write(client: Client, pause_s: float = 0.0) -> None:
    """Write records to the guest's disk; each is sent when the one before is acknowledged.

    It does so until it is cancelled. If the connection ends, the record without an acknowledgement
    is sent again on a new one. While the disk is read back, and once each place on the disk has its
    record, nothing is sent.

    Args:
        client: The client.
        pause_s: The pause after each acknowledgement, in seconds.
    """
    stream = client.stream(DISK)
    number = next(client.numbers)

    async def asks(line: Line, asked: Asked) -> None:
        nonlocal number
        while True:
            await _expect(line, f"w {number}", f"ok {number}")
            client.acknowledged.add(number)
            client.answered(stream, asked.since_s)
            number = next(client.numbers, 0)
            if number == 0:
                # Every slot of the disk has its record; one more would replace the first: wait
                # until cancelled.
                await asyncio.Event().wait()
            await asyncio.sleep(pause_s)
            await client.may_write.wait()
            asked.now()

    await _for_ever(client, stream, lambda: client.target.disk_port, asks)


@final
class Asked:
    """The time at which the request that has no answer yet was first sent."""

    def __init__(self) -> None:
        self.since_s = time.monotonic()

    def now(self) -> None:
        """Note that a new request is sent now."""
        self.since_s = time.monotonic()


async def _for_ever(
    client: Client,
    stream: Stream,
    port: Callable[[], int],
    asks: Callable[[Line, Asked], Awaitable[None]],
) -> None:
    asked = Asked()
    while True:
        line: Line | None = None
        try:
            line = await Line.to(client.target.host, port(), _CONNECT_LIMIT_S)
            await asks(line, asked)
        except (OSError, WrongReplyError) as error:
            if line is not None:
                client.lost(stream, error)
            await asyncio.sleep(_RETRY_S)
        finally:
            if line is not None:
                line.close()


async def _expect(line: Line, request: str, reply: str) -> None:
    found = await line.ask(request)
    if found != reply:
        raise WrongReplyError(f"{request!r} was answered with {found!r}")


async def connect(client: Client) -> None:
    """Make a new connection for each echo request, until it is cancelled."""
    stream = client.stream(NEW)
    asked = Asked()
    while True:
        with contextlib.suppress(OSError, WrongReplyError):
            # The limit is short, and the next attempt follows soon, because the kernel repeats a
            # lost SYN only after a second.
            line = await Line.to(client.target.host, client.target.echo_port, _NEW_LIMIT_S)
            try:
                await _expect(line, NEW, NEW)
            finally:
                line.close()
            client.answered(stream, asked.since_s)
            await asyncio.sleep(IDLE_EVERY_S)
            asked.now()
            continue
        await asyncio.sleep(PING_EVERY_S)


async def read_back(client: Client) -> None:
    """Read the whole disk through the guest, and report how many acknowledged records it lacks.

    `write` sends no further record meanwhile.

    Raises:
        OSError: There is no connection to the guest, or it ended or was silent for too long.
        WrongReplyError: The guest could not read its disk.
    """
    written = frozenset(client.acknowledged)
    found: set[str] = set()
    line = await Line.to(client.target.host, client.target.disk_port, _CONNECT_LIMIT_S)
    client.may_write.clear()
    try:
        answer = await line.ask("r", _READ_LIMIT_S)
        while answer != "end":
            if answer.startswith("failed"):
                raise WrongReplyError(f"the guest could not read its disk: {answer}")
            found.add(answer)
            answer = await line.next(_READ_LIMIT_S)
    finally:
        client.may_write.set()
        line.close()
    missing = sum(f"record {number}" not in found for number in written)
    client.tell(ReadBack(at_s=time.monotonic(), acknowledged=len(written), missing=missing))


# -- ping


async def ping(client: Client) -> None:
    """Send an ICMP echo request every 5 ms, whether or not the ones before were answered.

    It does so until it is cancelled.

    Raises:
        PermissionError: This process may not open a raw socket.
    """
    stream = client.stream(PING)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.setblocking(False)  # noqa: FBT003 - the name of the method says it
        loop = asyncio.get_running_loop()
        loop.add_reader(sock, _on_pong, client, stream, sock)
        try:
            await _pings(client, sock)
        finally:
            loop.remove_reader(sock)


async def _pings(client: Client, sock: socket.socket) -> None:
    sequence = 0
    next_s = time.monotonic()
    while True:
        with contextlib.suppress(OSError):  # no way to the guest: not answered
            sock.sendto(echo_request(_identifier(), sequence), (client.target.host, 0))
        sequence = (sequence + 1) % 65536
        now_s = time.monotonic()
        # If this loop is late, it does not send the missed requests: a burst would measure nothing.
        next_s = max(next_s + PING_EVERY_S, now_s)
        await asyncio.sleep(next_s - now_s)


def _on_pong(client: Client, stream: Stream, sock: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            if is_echo_reply(sock.recv(2048), _identifier()):
                client.answered(stream, stream.last_s or time.monotonic())


def _identifier() -> int:
    return os.getpid() % 65536


def echo_request(identifier: int, sequence: int) -> bytes:
    """Make an ICMP echo request.

    Args:
        identifier: 0 to 65535; the reply has the same one.
        sequence: 0 to 65535.
    """
    bare = _ICMP_HEADER.pack(_ECHO_REQUEST, 0, 0, identifier, sequence)
    total = sum(struct.unpack("!4H", bare))
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return _ICMP_HEADER.pack(_ECHO_REQUEST, 0, checksum, identifier, sequence)


def is_echo_reply(packet: bytes, identifier: int) -> bool:
    """Whether an IPv4 packet is the reply to one of our ICMP echo requests.

    Args:
        packet: The packet, with its IPv4 header.
        identifier: The identifier of our requests.
    """
    header_bytes = (packet[0] & 15) * 4 if packet else 0
    if len(packet) < header_bytes + _ICMP_HEADER.size:
        return False
    kind, code, _, whose, _ = _ICMP_HEADER.unpack_from(packet, header_bytes)
    return (kind, code, whose) == (0, 0, identifier)


# -- the program


async def run(client: Client, *, with_ping: bool, writers: int = 0) -> None:
    """Send the requests of all streams until standard input ends.

    Standard input holds a command a line: `target HOST ECHO_PORT DISK_PORT` names the service to
    use from now on, and `read` reads the disk back once. The client reports its state regularly.

    Args:
        client: The client.
        with_ping: Also send ICMP echo requests; needs root.
        writers: If not 0, only this many streams that write to the disk are run, and the pings if
            `with_ping` is true.

    Raises:
        SystemExit: A line is no such command.
    """
    does = [_states(client)]
    if writers:
        does += [write(client, WRITE_PAUSE_S) for _ in range(writers)]
    else:
        does += [write(client), echo(client, BUSY, 0), connect(client)]
        does += [echo(client, name, IDLE_EVERY_S) for name in IDLE]
    if with_ping:
        does.append(ping(client))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in does]
        await _commands(client)
        for task in tasks:
            task.cancel()


async def _states(client: Client) -> None:
    while True:
        client.state()
        await asyncio.sleep(_STATE_EVERY_S)


async def _commands(client: Client) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        match line.decode().split():
            case ["target", host, echo_port, disk_port]:
                client.target = Service(
                    host=host, echo_port=int(echo_port), disk_port=int(disk_port)
                )
            case ["read"]:
                await _try_to_read(client)
            case words:
                raise SystemExit(f"not a command: {' '.join(words)}")


async def _try_to_read(client: Client) -> None:
    try:
        await read_back(client)
    except (OSError, WrongReplyError) as error:
        client.tell(Lost(stream=READ, at_s=time.monotonic(), why=_why(error)))


def main() -> None:
    """Run the client as a program of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("echo_port", type=int)
    parser.add_argument("disk_port", type=int)
    parser.add_argument("--ping", action="store_true")
    parser.add_argument("--writes-from", type=int, default=1)
    parser.add_argument("--writers", type=int, default=0)
    parser.add_argument("--notable-s", type=float, default=NOTABLE_S)
    options = parser.parse_args()
    target = Service(host=options.host, echo_port=options.echo_port, disk_port=options.disk_port)
    client = Client(target, sys.stdout, options.writes_from, options.notable_s)
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        asyncio.run(run(client, with_ping=options.ping, writers=options.writers))


if __name__ == "__main__":
    main()

"""The demo's client and its listener, against a guest's services made of asyncio."""

import asyncio
import os
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pycolo.demo.client import BUSY, DISK, IDLE, NEW, PING, echo_request, is_echo_reply
from pycolo.demo.listener import KEPT, ClientError, Listener, UnreadDiskError, listening
from pycolo.demo.messages import (
    Counters,
    Lost,
    Message,
    ReadBack,
    State,
    Waited,
    from_line,
    to_line,
)
from pycolo.demo.network import Network, Service
from pycolo.errors import ParseError

LIMIT_S = 20.0


class Guest:
    """What the Linux guest answers, with faults on demand."""

    def __init__(self) -> None:
        self.records: set[int] = set()
        self.forgets = 0
        "A record that is acknowledged and not kept."
        self.unreadable = False
        "Whether the disk cannot be read."
        self.slow_s = 0.0
        self.served: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self.service = Service(host="", echo_port=0, disk_port=0)

    # Not coroutines: a connection is known from the moment in which it is accepted, not only once
    # its task has begun, so that whoever ends this ends all of them.

    def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one echo connection."""
        self._begin(reader, writer, lambda line: line)

    def disk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to the disk."""
        self._begin(reader, writer, self._disk_answer)

    def _disk_answer(self, line: str) -> str:
        if line == "r" and self.unreadable:
            return "failed dd: /dev/vda: I/O error\nend"
        if line == "r":
            return "\n".join([*(f"record {n}" for n in sorted(self.records)), "end"])
        number = int(line.removeprefix("w "))
        if number != self.forgets:
            self.records.add(number)
        return f"ok {number}"

    def _begin(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer: Callable[[str], str],
    ) -> None:
        self.served[writer] = asyncio.create_task(self._serve(reader, writer, answer))

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer: Callable[[str], str],
    ) -> None:
        try:
            while line := await reader.readline():
                if self.slow_s:
                    slow_s, self.slow_s = self.slow_s, 0.0
                    await asyncio.sleep(slow_s)  # the slowness that the test asks for
                writer.write(f"{answer(line.decode().rstrip())}\n".encode())
        except ConnectionError:
            pass
        finally:
            del self.served[writer]
            writer.close()

    def hang_up(self) -> None:
        """End all connections."""
        for writer in self.served:
            writer.transport.abort()

    async def end(self) -> None:
        """End all connections, and wait until each of them was closed."""
        self.hang_up()
        await asyncio.gather(*self.served.values())


@asynccontextmanager
async def serving() -> AsyncGenerator[Guest]:
    """Run a guest's services on loopback."""
    guest = Guest()
    host = "127.0.0.1"
    echo = await asyncio.start_server(guest.echo, host, 0)
    disk = await asyncio.start_server(guest.disk, host, 0)
    ports = [server.sockets[0].getsockname()[1] for server in (echo, disk)]
    guest.service = Service(host=host, echo_port=ports[0], disk_port=ports[1])
    try:
        yield guest
    finally:
        for server in (echo, disk):
            server.close()
        await guest.end()


@asynccontextmanager
async def talking(tmp_path: Path, *, ping: bool = False) -> AsyncGenerator[tuple[Guest, Listener]]:
    """Run the client against a guest until each of its streams was answered."""
    network = Network(places={}, client=(), guest_address="", isolated=ping)
    async with (
        serving() as guest,
        listening(network, guest.service, tmp_path / "client.log") as listener,
    ):
        assert await listener.until(lambda: listener.answered_since(0.0), LIMIT_S)
        yield guest, listener


async def test_client_counts_what_is_answered(tmp_path: Path) -> None:
    """Every stream continues and on, each on its first connection, and writes are counted."""
    async with talking(tmp_path) as (guest, listener):
        assert {BUSY, *IDLE, DISK, NEW} == set(listener.state.streams)
        assert await listener.until(lambda: listener.state.acknowledged > 20, LIMIT_S)
        assert dict.fromkeys(KEPT, 0) == listener.connections()
        assert set(range(1, listener.state.acknowledged + 1)) <= guest.records
    assert "" == (tmp_path / "client.log").read_text()


async def test_client_tells_of_a_long_wait(tmp_path: Path) -> None:
    """An answer that takes longer than 20 ms is told with when it was asked for and came."""
    async with talking(tmp_path) as (guest, listener):
        guest.slow_s = 0.2
        assert await listener.until(
            lambda: any(wait.took_s >= 0.2 for wait in listener.waits), LIMIT_S
        )
        slow = max(listener.waits, key=lambda wait: wait.took_s)
        assert slow == listener.worst(slow.stream, slow.from_s, slow.to_s)
        assert None is listener.worst(slow.stream, slow.to_s + 100, slow.to_s + 200)


async def test_client_connects_anew_and_tells_which_connections_ended(tmp_path: Path) -> None:
    """Connections that are reset count as lost, and the streams continue with others."""
    async with talking(tmp_path) as (guest, listener):
        guest.hang_up()
        assert await listener.until(
            lambda: all(number == 1 for number in listener.connections().values()), LIMIT_S
        )
        hung_up_s = listener.state.at_s
        assert await listener.until(lambda: listener.answered_since(hung_up_s), LIMIT_S)
        assert set(KEPT) == {lost.stream for lost in listener.lost}


async def test_client_finds_a_write_that_was_acknowledged_and_is_not_there(tmp_path: Path) -> None:
    """Reading back compares all that was acknowledged with what the disk holds."""
    async with talking(tmp_path) as (guest, listener):
        assert 0 == (await listener.read_back()).missing
        guest.forgets = listener.state.acknowledged + 50
        assert await listener.until(lambda: listener.state.acknowledged > guest.forgets, LIMIT_S)
        reading = await listener.read_back()
        assert reading.acknowledged > guest.forgets
        assert 1 == reading.missing


async def test_disk_that_cannot_be_read_is_no_lost_write(tmp_path: Path) -> None:
    """An error of the guest's disk is reported in its words, and nothing is counted as missing."""
    async with talking(tmp_path) as (guest, listener):
        guest.unreadable = True
        with pytest.raises(UnreadDiskError, match="failed dd: /dev/vda: I/O error"):
            await listener.read_back()


async def test_second_client_writes_records_of_its_own(tmp_path: Path) -> None:
    """From a first record on it does nothing but write, each record once, by some writer."""
    network = Network(places={}, client=(), guest_address="", isolated=True)
    log = tmp_path / "client.log"
    async with (
        serving() as guest,
        listening(network, guest.service, log, writes_from=1000, writers=3) as listener,
    ):
        guest.forgets = 1005
        assert await listener.until(lambda: listener.state.acknowledged > 10, LIMIT_S)
        reading = await listener.read_back()
        assert {DISK} == set(listener.state.streams)
        assert 1 == reading.missing
        assert 1000 == min(guest.records)
    assert "" == log.read_text()


async def test_client_goes_where_it_is_told(tmp_path: Path) -> None:
    """New connections reach the guest at its new address."""
    async with serving() as other, talking(tmp_path) as (guest, listener):
        await listener.go_to(other.service)
        guest.hang_up()
        assert await listener.until(lambda: len(other.records) > 0, LIMIT_S)


@pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets need root")
async def test_client_pings(tmp_path: Path) -> None:
    """Pings are answered by the kernel of whoever has the address."""
    async with talking(tmp_path, ping=True) as (_, listener):
        assert await listener.until(lambda: listener.state.streams[PING].answered > 10, LIMIT_S)


async def test_reading_back_from_a_guest_that_hangs_up_fails(tmp_path: Path) -> None:
    """A disk that cannot be read is an error, never an empty disk."""
    async with talking(tmp_path) as (guest, listener):
        await listener.go_to(Service(host=guest.service.host, echo_port=1, disk_port=1))
        with pytest.raises(UnreadDiskError, match="could not be read through the guest"):
            await listener.read_back()


async def test_a_client_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    """A program that is not there is named."""
    network = Network(places={}, client=("/nowhere/at/all",), guest_address="", isolated=False)
    service = Service(host="127.0.0.1", echo_port=1, disk_port=1)
    with pytest.raises(ClientError, match="/nowhere/at/all"):
        async with listening(network, service, tmp_path / "client.log"):
            pass


async def test_a_client_that_ends_is_noticed(tmp_path: Path) -> None:
    """Who waits for news of a client that ended is told so at once."""
    network = Network(places={}, client=("true",), guest_address="", isolated=False)
    service = Service(host="127.0.0.1", echo_port=1, disk_port=1)
    async with listening(network, service, tmp_path / "client.log") as listener:
        with pytest.raises(ClientError, match="the client ended"):
            await listener.until(lambda: False, LIMIT_S)


def test_echo_request_has_the_checksum_of_its_words() -> None:
    """A receiver adds up all 16-bit words of a right ICMP message to all ones."""
    for sequence in (0, 1, 0x7FFF, 0xFFFF):
        total = sum(struct.unpack("!4H", echo_request(0xF7FE, sequence)))
        assert 0xFFFF == (total & 0xFFFF) + (total >> 16)


def test_only_answers_to_ours_are_pongs() -> None:
    """Requests, other processes' answers and broken packets are passed over."""
    header = bytes([0x45]) + bytes(19)
    answer = header + struct.pack("!BBHHH", 0, 0, 0, 77, 1)
    assert is_echo_reply(answer, 77)
    assert not is_echo_reply(answer, 78)
    assert not is_echo_reply(header + echo_request(77, 1), 77)
    assert not is_echo_reply(answer[:-1], 77)
    assert not is_echo_reply(b"", 77)


@pytest.mark.parametrize(
    "message",
    [
        Waited(stream="ping", from_s=1.25, to_s=1.5),
        Lost(stream="echo-1", at_s=2.0, why="reset"),
        State(
            at_s=3.5,
            acknowledged=7,
            streams={"disk": Counters(answered=7, last_s=3.25, connection=1)},
        ),
        ReadBack(at_s=4.0, acknowledged=7, missing=0),
    ],
)
def test_messages_survive_the_pipe(message: Message) -> None:
    """A line is read as what was written."""
    assert message == from_line(to_line(message))


@pytest.mark.parametrize("line", ["", "{}", '{"kind": "lost"}', "[1]"])
def test_a_line_that_no_client_writes_is_refused(line: str) -> None:
    """Nothing is guessed from a broken line."""
    with pytest.raises(ParseError):
        from_line(line)

"""A node's host over ssh: one connection carries the helper's requests and all monitors.

Each monitor is a channel of that connection. The login shell starts Python once, the text of the
helper is sent over its standard input, and each request to the helper is one line. If the
connection is lost, all requests and monitors end with it; that proves nothing about the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shlex
import socket
from collections.abc import Collection, Mapping
from typing import Final, TypeAlias, assert_never, final

import asyncssh
import attrs

from pycolo import helper
from pycolo._json import JsonObject
from pycolo._printable import brief, reason
from pycolo.errors import ConnectionFailed, DeclarationError
from pycolo.evidence import Evidence, Victim
from pycolo.facts import ForwardingFacts, HostFacts, NoFacts, Part
from pycolo.hosts import HostState, requests
from pycolo.model.node import Monitor, Node, Ssh, TcpMonitor, UnixMonitor
from pycolo.model.pair import ColoPair
from pycolo.plan import HostAction
from pycolo.qmp.replies import Version
from pycolo.record import Change

OPEN_S: Final = 5.0
# How long after a failed attempt to connect no other one is made: a request in that time fails at
# once instead of waiting for a host that does not answer.
AGAIN_S: Final = 1.0
KEEPALIVE_S: Final = 0.5
KEEPALIVES: Final = 2
# How long after a request's own limit an answer of the helper is still waited for.
GRACE_S: Final = 2.0
LINE_S: Final = 0.05
CHUNK_BYTES: Final = 1 << 16
LINE_MAX_BYTES: Final = 1 << 22

# The session has a terminal, because sshd then sends each piece of output at once; without one, a
# reply that follows an event would be delayed by 40 ms. The terminal is set to raw mode before the
# first byte is sent to it.
BOOTSTRAP: Final = (
    "import sys,tty;"
    "tty.setraw(0);"
    "print('ready',flush=True);"
    "text=sys.stdin.buffer.read(int(sys.stdin.buffer.readline())).decode();"
    "scope={'__name__':'pycolo_helper'};"
    "exec(text,scope);"
    "scope['serve'](text)"
)

_Connection: TypeAlias = asyncssh.SSHClientConnection
_Process: TypeAlias = asyncssh.SSHClientProcess[bytes]
_Channel: TypeAlias = tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]


@final
class SshHost:
    """The host of a node that declares `ssh`; connects at the first use, and again after a loss."""

    def __init__(self, node: Node) -> None:
        """Keep the node's ssh settings; no connection is made yet.

        Args:
            node: A node with `ssh`.

        Raises:
            DeclarationError: The node has no `ssh`; no object is made.
        """
        if node.ssh is None:
            raise DeclarationError(f"ssh of node {node.name}", None, "be set")
        self._name: Final = node.name
        self._ssh: Final = node.ssh
        self._address: Final = node.ssh.address or node.address
        self._link: _Link | None = None
        self._opening: asyncio.Task[_Link] | None = None
        self._failed: tuple[str, float] | None = None

    async def connect(self, node: str, monitor: Monitor) -> socket.socket:
        """Open a connected, non-blocking socket to a monitor; see `Host.connect`."""
        place = monitor.path if isinstance(monitor, UnixMonitor) else str(monitor)
        try:
            link = await self._linked()
        except requests.OutOfReach as error:
            raise ConnectionFailed(node, place, str(error)) from error
        while True:
            try:
                return await link.forward(monitor)
            except asyncssh.ChannelOpenError as error:
                # The server does not say why it failed. The helper tries the same connection to
                # learn the reason.
                why = await self._why_closed(monitor)
                if why is not None:
                    raise ConnectionFailed(node, place, why) from error
            except (OSError, asyncssh.Error) as error:
                raise ConnectionFailed(node, place, brief(reason(error))) from error
            await asyncio.sleep(LINE_S)

    async def _why_closed(self, monitor: Monitor) -> str | None:
        """Why no channel could be opened; None if the listen backlog is full: try again then."""
        request: JsonObject = {"monitor": helper.monitor_json(monitor)}
        try:
            found = await self._ask("connect", request, OPEN_S)
        except (requests.Refused, requests.Uncertain, requests.OutOfReach) as error:
            return str(error)
        if found["in_line"] is True:
            return None
        return self._not_forwarded(monitor)

    def _not_forwarded(self, monitor: Monitor) -> str:
        if isinstance(monitor, UnixMonitor):
            return f"the sshd of {self._address} forwards no socket: AllowStreamLocalForwarding"
        return f"the sshd of {self._address} forwards no port: AllowTcpForwarding"

    async def _forwarding(self, monitor: Monitor) -> ForwardingFacts:
        """Find out whether sshd forwards a connection to a socket like a monitor's.

        The helper listens on such a socket for a moment, and a channel to that socket is opened.

        Raises:
            OSError: It is not known whether a channel can be opened.
            asyncssh.Error: The connection was lost.
            requests.Refused: The helper refused the request.
            requests.Uncertain: The host cannot listen, or gave no answer.
            requests.OutOfReach: The host cannot be reached.
        """
        is_unix = isinstance(monitor, UnixMonitor)
        asked: JsonObject = {"is_unix": is_unix, "limit_s": OPEN_S}
        request = helper.gather_request({"forwarding": asked}, OPEN_S)
        found = await self._ask("facts", request, OPEN_S)
        at = found.get("forwarding")
        if not isinstance(at, dict):
            raise requests.Uncertain(f"the host cannot listen: {found.get('unread')}")
        way: Monitor
        if is_unix:
            way = UnixMonitor(path=str(at["path"]))
        else:
            way = TcpMonitor(host="127.0.0.1", port=int(at["port"]))
        link = await self._linked()
        try:
            (await link.forward(way)).close()
        except asyncssh.ChannelOpenError:
            return ForwardingFacts(why=self._not_forwarded(monitor))
        return ForwardingFacts(why="")

    async def observe(self, pair: ColoPair, node: str, *, limit_s: float) -> HostState:
        """Read a node's record, and find out whether its QEMU runs; see `Host.observe`."""
        return await requests.observe(self._ask, pair, node, limit_s)

    async def write(self, pair: ColoPair, node: str, change: Change, *, limit_s: float) -> None:
        """Replace a node's record durably, if it is the expected one; see `Host.write`."""
        await requests.write(self._ask, pair, node, change, limit_s)

    async def run(self, pair: ColoPair, node: str, action: HostAction, *, limit_s: float) -> str:
        """Perform an action, such as to start or end a QEMU; see `Host.run`."""
        return await requests.run(self._ask, pair, node, action, limit_s)

    async def death(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """Ask for evidence that a QEMU has ended; None if there is none; see `Host.death`."""
        return await requests.death(self._ask, pair, victim, limit_s)

    async def ended(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """Wait for evidence that a QEMU has ended; None if the limit passes; see `Host.ended`."""
        return await requests.watch(self._ask, pair, victim, limit_s)

    async def version(self, pair: ColoPair, node: str, *, limit_s: float) -> Version:
        """Ask the QEMU binary for its version; see `Host.version`."""
        return await requests.version(self._ask, pair, node, limit_s)

    async def facts(
        self, pair: ColoPair, node: str, parts: Collection[Part], *, limit_s: float
    ) -> HostFacts | NoFacts:
        """Read the facts that a preflight needs; see `Host.facts`."""
        found = await requests.facts(self._ask, pair, node, parts, limit_s)
        if isinstance(found, NoFacts) or "forwarding" not in parts:
            return found
        try:
            forwarding = await self._forwarding(pair.node(node).control_monitor)
        except (OSError, asyncssh.Error, *requests.FAILED) as error:
            unread = {**found.unread, "forwarding": brief(reason(error))}
            return attrs.evolve(found, unread=unread)
        return attrs.evolve(found, forwarding=forwarding)

    async def aclose(self) -> None:
        """Close what is open to the host; see `Host.aclose`."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait((self._opening,))
        await self._close()

    async def _close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.aclose()

    async def _ask(self, name: str, request: JsonObject, limit_s: float) -> Mapping[str, object]:
        link = await self._linked()
        return await link.ask(name, request, limit_s + GRACE_S)

    async def _linked(self) -> _Link:
        if self._link is not None and self._link.lost is None:
            return self._link
        now_s = asyncio.get_running_loop().time()
        if self._failed is not None and now_s < self._failed[1] + AGAIN_S:
            raise requests.OutOfReach(self._failed[0])
        if self._opening is None:
            # All requests that wait for a connection share one attempt.
            self._opening = asyncio.create_task(self._reopen())
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    def _opened(self, opening: asyncio.Task[_Link]) -> None:
        self._opening = None
        if not opening.cancelled():
            # Nobody may be waiting any more: fetch the error, or asyncio warns that it was never
            # retrieved.
            opening.exception()

    async def _reopen(self) -> _Link:
        await self._close()
        try:
            self._link = await self._open()
        except requests.OutOfReach as error:
            self._failed = str(error), asyncio.get_running_loop().time()
            raise
        return self._link

    async def _open(self) -> _Link:
        where = f"{self._ssh.user}@{self._address}, port {self._ssh.port}"
        try:
            async with asyncio.timeout(OPEN_S):
                return await _Link.open(self._address, self._ssh)
        except TimeoutError as error:
            raise requests.OutOfReach(f"{where}: no answer within {OPEN_S:g} s") from error
        except asyncssh.HostKeyNotVerifiable as error:
            known = self._ssh.known_hosts_file or "the user's known_hosts"
            why = f"{where}: its key is not in {known}; compare it on the host, then add it"
            raise requests.OutOfReach(why) from error
        except asyncssh.PermissionDenied as error:
            key = self._ssh.key_file or "the user's keys and agent"
            why = f"{where}: it does not take {key} for {self._ssh.user}"
            raise requests.OutOfReach(why) from error
        except (OSError, asyncssh.Error, asyncssh.KeyImportError, _NoHelper) as error:
            raise requests.OutOfReach(f"{where}: {brief(reason(error))}") from error


class _NoHelper(Exception):
    """The Python on the host did not start the helper."""


@final
class _Link:
    """One ssh connection, the helper at its far end, and the requests and channels over it."""

    def __init__(self, connection: _Connection, process: _Process) -> None:
        """Take the connection; only `open` calls this."""
        self._connection = connection
        self._process = process
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Mapping[str, object]]] = {}
        self._pumps: set[asyncio.Task[None]] = set()
        self.lost: str | None = None
        "Why the connection cannot be used any more; None while it can."
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, address: str, ssh: Ssh) -> _Link:
        """Connect, log in, and start the helper.

        Args:
            address: The host to connect to.
            ssh: The declared settings.

        Raises:
            OSError: The host does not answer.
            asyncssh.Error: The host's key is not a known one, or the host refuses the login.
            _NoHelper: The host's Python did not start the helper.
        """
        connection = await asyncssh.connect(
            address,
            ssh.port,
            username=ssh.user,
            # Only the declaration counts: no ssh configuration file is read.
            config=None,
            client_keys=() if ssh.key_file is None else [ssh.key_file],
            agent_path=() if ssh.key_file is None else None,
            known_hosts=() if ssh.known_hosts_file is None else ssh.known_hosts_file,
            preferred_auth=("publickey",),
            keepalive_interval=KEEPALIVE_S,
            keepalive_count_max=KEEPALIVES,
        )
        try:
            _bound_silence(connection)
            return cls(connection, await _start_helper(connection, ssh.python))
        except BaseException:
            connection.abort()
            raise

    # -- requests

    async def ask(self, name: str, request: JsonObject, limit_s: float) -> Mapping[str, object]:
        """Send the helper a request and wait for its answer.

        Args:
            name: The name of the operation.
            request: Its arguments.
            limit_s: How long to wait for the answer, in seconds.

        Raises:
            OutOfReach: The connection was lost before the request; nothing was sent.
            Refused: The helper refused the operation.
            Uncertain: No answer came in time, or the connection was lost during the wait.
        """
        if self.lost is not None:
            raise requests.OutOfReach(self.lost)
        number = next(self._numbers)
        answer: asyncio.Future[Mapping[str, object]]
        answer = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        line = json.dumps({"id": number, "name": name, "request": request})
        self._process.stdin.write(line.encode() + b"\n")
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except TimeoutError:
            why = f"no answer from the host within {limit_s:g} s"
            raise requests.Uncertain(why) from None
        finally:
            del self._waiting[number]

    async def _read(self) -> None:
        why = "the connection to the host was lost"
        try:
            while True:
                line = await self._process.stdout.readuntil(b"\n")
                self._answered(line)
        except asyncio.IncompleteReadError as ended:
            if ended.partial.strip():
                why = f"the helper ended: {brief(ended.partial.decode(errors='replace'))}"
        except (OSError, asyncssh.Error) as error:
            why = f"{why}: {brief(reason(error))}"
        finally:
            self._lose(why)

    def _answered(self, line: bytes) -> None:
        try:
            found = json.loads(line)
            answer = self._waiting[found["id"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            # Output of the login shell, or an answer that came after its limit.
            return
        if answer.done():
            return
        match found:
            case {"ok": dict() as done}:
                answer.set_result(done)
            case {"refused": str(why)}:
                answer.set_exception(requests.Refused(brief(why)))
            case _:
                answer.set_exception(requests.Uncertain(brief(str(found.get("uncertain")))))

    def _lose(self, why: str) -> None:
        self.lost = self.lost or why
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(requests.Uncertain(why))
        for pump in self._pumps:
            pump.cancel()
        self._connection.abort()

    # -- monitors

    async def forward(self, monitor: Monitor) -> socket.socket:
        """Open a channel to a monitor, and return a socket that is connected to the channel.

        Raises:
            asyncssh.ChannelOpenError: The server could not connect to the monitor.
        """
        channel = await self._channel(monitor)
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        theirs.settimeout(0)
        pump = asyncio.create_task(_pump(channel, theirs))
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)
        return ours

    async def _channel(self, monitor: Monitor) -> _Channel:
        match monitor:
            case UnixMonitor(path=path):
                return await self._connection.open_unix_connection(path, encoding=None)
            case TcpMonitor(host=host, port=port):
                return await self._connection.open_connection(host, port, encoding=None)
            case _:
                assert_never(monitor)

    async def aclose(self) -> None:
        """Close the connection, and end all requests and channels; may be called again."""
        self._reader.cancel()
        self._lose("it was closed")
        tasks = (self._reader, *self._pumps)
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.wait_closed()


def _bound_silence(connection: _Connection) -> None:
    """Have the kernel end a connection whose peer stops acknowledging, as fast as keepalives do."""
    sock = connection.get_extra_info("socket")
    limit_ms = round(KEEPALIVE_S * (KEEPALIVES + 1) * 1000)
    if isinstance(sock, socket.socket) or hasattr(sock, "setsockopt"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)


async def _start_helper(connection: _Connection, python: str) -> _Process:
    command = shlex.join((python, "-I", "-S", "-c", BOOTSTRAP))
    process = await connection.create_process(
        command, encoding=None, term_type="dumb", request_pty="force", bufsize=LINE_MAX_BYTES
    )
    said: list[str] = []
    while True:
        line = (await process.stdout.readline()).decode(errors="replace").strip()
        if line == "ready":
            break
        if not line and process.stdout.at_eof():
            raise _NoHelper(f"{python} did not start: {' '.join(said) or 'no output'}")
        said.append(line)
    text = helper.text().encode()
    process.stdin.write(f"{len(text)}\n".encode() + text)
    return process


async def _pump(channel: _Channel, sock: socket.socket) -> None:
    """Copy bytes between a channel and a socket until either side has ended, then close both."""
    reader, writer = channel
    loop = asyncio.get_running_loop()

    async def inward() -> None:
        while data := await reader.read(CHUNK_BYTES):
            await loop.sock_sendall(sock, data)

    async def outward() -> None:
        while data := await loop.sock_recv(sock, CHUNK_BYTES):
            writer.write(data)
            await writer.drain()

    tasks = (asyncio.create_task(inward()), asyncio.create_task(outward()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(OSError, asyncssh.Error):
            writer.close()
        sock.close()

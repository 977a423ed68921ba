"""The client of qemu.qmp, with a short way for what is sent and received after the negotiation.

The client of qemu.qmp has three tasks and two queues between a command and its reply, which take
four fifths of the time that a supervisor of many pairs works. So after the negotiation, commands
are written at once, and each line that QEMU sends is taken in the turn of the event loop in which
it arrives. Greeting, negotiation, errors and the end of a connection are left to qemu.qmp.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, TypeAlias, final

from qemu.qmp import ExecInterruptedError, ExecuteError, Message, QMPClient, Runstate, StateError
from qemu.qmp.models import ErrorResponse
from qemu.qmp.qmp_client import BadReplyError
from typing_extensions import override

from pycolo.session._socket import peer_of

Incoming: TypeAlias = Mapping[str, object]
"A message of QEMU, as JSON."
IN_BAND: Final = 7
"""How many commands in band may await their replies. At the eighth QEMU stops to read, so that it
executes nothing out of band either while its main loop is blocked (qemu-behaviour 7.6)."""


_BUFFER_BYTES: Final = 64 * 1024


class _Issued(NamedTuple):
    """A command that has no reply yet."""

    reply: asyncio.Future[object]
    line: bytes
    oob: bool


@final
class Client(QMPClient):
    """The QMP client.

    It formats messages for its debug log only if that log is enabled, because formatting takes
    longer than most of its other work. And `cut` ends its connection at once: the `disconnect` of
    qemu.qmp waits until the server has read everything, which a stopped QEMU never does.
    """

    def __init__(self, name: str, on_event: Callable[[Incoming], None]) -> None:
        """Make a client that is not connected yet.

        Args:
            name: The name of the node, for the log.
            on_event: Is called with each event; must be quick and must not raise.
        """
        super().__init__(name)
        self.on_event = on_event
        self.peer: int | None = None
        "The process at the other end of the connection, as `peer_of` finds it."
        self._socket: socket.socket | None = None
        self._issued: dict[str, _Issued] = {}
        "The id of each command that has no reply yet."
        self._issues = 0
        self._in_band = 0
        "How many commands in band were written and have no reply yet."
        self._held: deque[bytes] = deque()
        "Commands in band that are written once one of those before has its reply."
        self._lines_passed = 0
        "How many lines qemu.qmp was passed that it has not handed back yet."

    async def connect_to(self, opened: socket.socket) -> None:
        """Read the greeting from a connected socket, and negotiate; errors as of `connect`.

        If it raises, the socket is closed.
        """
        self._socket, self.peer = opened, peer_of(opened)
        try:
            await self.connect(opened)
        except BaseException:
            # qemu.qmp closes what it has begun to use, and may have been cancelled before that.
            if self._writer is None:
                opened.close()
            raise
        if self._writer is not None:
            # The client's reader takes what came before (qemu-behaviour 14.11).
            transport = self._writer.transport
            behind = transport.get_protocol()
            assert isinstance(behind, asyncio.Protocol)  # noqa: S101 - a stream's
            transport.set_protocol(_Lines(self._take_line, behind, self.readbuflen))

    def cut(self) -> None:
        """Shut the socket down; data that was not sent yet is lost."""
        if self._socket is not None:
            # OSError: either side has closed it already.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def issue(self, command: str, *, oob: bool = False) -> asyncio.Future[object]:
        """Send a command: at once, or in band as soon as QEMU's queue has a place for it.

        Args:
            command: The message as JSON, an object without an id.
            oob: Whether it is sent out of band, which never waits.

        Returns:
            The future of its return value. It raises an ExecuteError if QEMU refuses the command, a
            BadReplyError if the reply is no QMP, an ExecInterruptedError if the connection is lost,
            and a StateError if it was lost before, so that nothing was sent.
        """
        reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if self.runstate is not Runstate.RUNNING or self._writer is None:
            _fail(reply, StateError("QMPClient is not connected.", self.runstate, Runstate.RUNNING))
            return reply
        self._issues += 1
        number = f"pycolo#{self._issues}"
        line = f'{command[:-1]},"id":"{number}"}}'.encode()
        self._issued[number] = _Issued(reply, line, oob)
        if not oob:
            self._held.append(line)
            self._write_held()
        else:
            self._write(line)
        return reply

    def _write_held(self) -> None:
        """Write the commands in band for which QEMU has a place."""
        while self._held and self._in_band < IN_BAND:
            self._in_band += 1
            self._write(self._held.popleft())

    def _write(self, line: bytes) -> None:
        if self._writer is None:
            return
        if self.logger.isEnabledFor(logging.DEBUG):
            self._cb_outbound(Message(line))
        self._writer.write(line)

    def interrupt(self) -> None:
        """Let every command that has no reply yet fail, since none can come any more."""
        issued, self._issued = self._issued, {}
        self._held.clear()
        for one in issued.values():
            _fail(one.reply, ExecInterruptedError("the connection was lost"))

    # -- receiving

    def _take_line(self, line: bytes) -> bool:
        """Take a line that QEMU has sent; False for one that qemu.qmp must take, such as no QMP."""
        # Its reader may hold the beginning of a line. So the rest is passed to it, and those that
        # come before it has taken that as well: else they would be taken in the wrong order.
        is_taken = not self._lines_passed and self._takes(line)
        if not is_taken:
            self._lines_passed += 1
        return is_taken

    def _takes(self, line: bytes) -> bool:
        """Take a line if it is a message that belongs here."""
        try:
            # A string, since the encoding of bytes would be guessed first.
            message = json.loads(line.decode())
        except (ValueError, RecursionError):
            return False
        if not isinstance(message, dict):
            return False
        if self.logger.isEnabledFor(logging.DEBUG):
            self._cb_inbound(Message(message))
        return self._take(message)

    def _take(self, message: Incoming) -> bool:
        if "event" in message:
            self.on_event(message)
            return True
        number = message.get("id")
        issued = self._issued.pop(number, None) if isinstance(number, str) else None
        if issued is None:
            return False
        if not issued.oob:
            self._in_band -= 1
            self._write_held()
        if "return" in message:
            issued.reply.set_result(message["return"])
        else:
            _fail(issued.reply, _refusal(message, Message(issued.line)))
        return True

    # -- hooks of QMPClient

    @override
    async def _on_message(self, msg: Message) -> None:
        # Those that came before the short way were not counted.
        self._lines_passed = max(0, self._lines_passed - 1)
        if not self._take(msg):
            await super()._on_message(msg)

    @override
    def _cb_outbound(self, msg: Message) -> Message:
        return super()._cb_outbound(msg) if self.logger.isEnabledFor(logging.DEBUG) else msg

    @override
    def _cb_inbound(self, msg: Message) -> Message:
        return super()._cb_inbound(msg) if self.logger.isEnabledFor(logging.DEBUG) else msg


@final
class _Buffer(threading.local):
    """Where each thread receives what QEMU sends.

    Without it, asyncio allocates 256 KiB for each line. One is enough for all connections: what was
    received is used in the same turn.
    """

    def __init__(self) -> None:
        self.view: Final = memoryview(bytearray(_BUFFER_BYTES))


_BUFFER: Final = _Buffer()


@final
class _Lines(asyncio.BufferedProtocol):
    """Hands on each line that arrives, and passes everything else to the protocol behind it.

    Args:
        take: Is called with a line, without its end; returns whether the line is dealt with.
        behind: The protocol that gets every other line.
        limit_bytes: A longer line is passed on before its end has come.
    """

    def __init__(
        self, take: Callable[[bytes], bool], behind: asyncio.Protocol, limit_bytes: int
    ) -> None:
        self._take = take
        self._behind: Final = behind
        self._limit_bytes = limit_bytes
        self._rest = b""

    @override
    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER.view

    @override
    def buffer_updated(self, nbytes: int) -> None:
        *lines, self._rest = (self._rest + _BUFFER.view[:nbytes]).split(b"\n")
        for line in lines:
            if not self._take(line):
                self._behind.data_received(line + b"\n")
        if len(self._rest) > self._limit_bytes:
            self._pass_rest()

    @override
    def eof_received(self) -> bool | None:
        self._pass_rest()
        return self._behind.eof_received()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        # QEMU ended before it had read everything: a hang-up like any other. Of an error, qemu.qmp
        # would format a traceback, even if its log is off, while a failover is to begin.
        self._behind.connection_lost(None if isinstance(exc, ConnectionResetError) else exc)

    @override
    def pause_writing(self) -> None:
        self._behind.pause_writing()

    @override
    def resume_writing(self) -> None:
        self._behind.resume_writing()

    def _pass_rest(self) -> None:
        rest, self._rest = self._rest, b""
        self._behind.data_received(rest)


def _refusal(reply: Incoming, command: Message) -> Exception:
    """The error of a reply that has no return value."""
    try:
        return ExecuteError(ErrorResponse(reply), command, Message(reply))
    except (KeyError, TypeError):
        return BadReplyError("QMP error reply is malformed", Message(reply), command)


def _fail(reply: asyncio.Future[object], error: Exception) -> None:
    reply.set_exception(error)
    # Perhaps nobody waits for the reply any more: asyncio need not report the error then.
    reply.exception()

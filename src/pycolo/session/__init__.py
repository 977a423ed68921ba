"""The only way to QEMU: a QMP connection to one node, with typed commands and typed events.

COLO needs three things that other QMP clients do not do, for these reasons:

- Out-of-band execution is negotiated when the session is opened: a connection that is opened while
  QEMU's main loop is stuck is useless (qemu-behaviour 7.6).
- A command whose limit passes is not withdrawn. Its reply is still read when it comes, so that it
  is never mistaken for the reply to another command (qemu-behaviour 7.5).
- Events are parsed as they arrive, passed to subscribers and then forgotten. Events that must not
  be missed are latched: COLO_EXIT, which QEMU forgets (qemu-behaviour 18.4), QUORUM_REPORT_BAD,
  and the SHUTDOWN of a guest that has powered itself off.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
from collections.abc import Callable, Mapping
from typing import Final, Generic, NoReturn, Self, TypeAlias, TypeVar, final

import attrs
from qemu.qmp import (
    ExecInterruptedError,
    ExecuteError,
    QMPClient,
    QMPError,
    Runstate,
    StateError,
)

from pycolo.errors import CommandRefused, CommandUnknown, ConnectionFailed, ParseError
from pycolo.model.node import Monitor
from pycolo.qmp import events
from pycolo.qmp._base import QmpCommand
from pycolo.qmp.commands import QueryCommands, QueryName, QueryQmpSchema
from pycolo.qmp.schema import Schema
from pycolo.session._client import Incoming
from pycolo.session._dial import Dialled, dial, disconnected
from pycolo.session._schemas import Build, SchemaCache
from pycolo.session._socket import Connector, address_of, open_monitor

__all__ = (
    "Build",
    "Connector",
    "HungUp",
    "Latched",
    "Notice",
    "SchemaCache",
    "Sent",
    "Session",
    "Subscriber",
    "open_monitor",
    "wait_any_change",
)

_R = TypeVar("_R")
_LOG: Final = logging.getLogger(__name__)
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))
# QEMU sends QUORUM_REPORT_BAD for one block node at most once a second.
HELD_BACK_S: Final = 1.1


@final
@attrs.frozen(kw_only=True)
class HungUp:
    """The connection ended; that does not prove that the node is dead."""

    why: str
    "What ended the connection, as a sentence without a full stop."


Notice: TypeAlias = events.Event | HungUp
"A subscriber is called with an event of QEMU, or with the end of the connection."
Subscriber: TypeAlias = Callable[[Notice], None]


@final
@attrs.frozen(kw_only=True)
class Latched:
    """What only events report and no query returns; a session keeps it when it is reopened."""

    colo_exited: bool = False
    "COLO_EXIT was seen since the session was opened, or since `begin_generation`."
    quorum_bad: tuple[str, ...] = ()
    """Block nodes that QUORUM_REPORT_BAD named, each once, in the order they were first named.

    Since the session was opened, or since `begin_generation`.
    """
    powered_off: bool = False
    "SHUTDOWN said that the guest has powered itself off; `begin_generation` does not clear it."


@final
class Sent(Generic[_R]):
    """A command that was sent; its reply can be waited for more than once."""

    def __init__(
        self, session: Session, command: QmpCommand[_R], reply: asyncio.Future[object]
    ) -> None:
        self._session = session
        self._command = command
        self._reply = reply

    @property
    def pending(self) -> bool:
        """Whether the reply is still awaited; False after the reply or the connection's end."""
        return not self._reply.done()

    def when_answered(self, on_answer: Callable[[object], None]) -> None:
        """Call a function with the answer when it comes, however late; never if none comes.

        Args:
            on_answer: Called with the return value of the reply, unparsed, or with a
                CommandRefused. It runs in the event loop; it must be quick and must not raise.
        """
        self._reply.add_done_callback(lambda _: self._hand_on(on_answer))

    def _hand_on(self, on_answer: Callable[[object], None]) -> None:
        """Call a function with the answer; not if the connection was lost."""
        match self._reply.exception():
            case None:
                on_answer(self._reply.result())
            case ExecuteError() as error:
                name = self._command.qmp_name
                on_answer(CommandRefused(self._session.node, name, error.error_class, str(error)))
            case _:
                pass

    async def reply(self, limit_s: float) -> _R:
        """Wait for the reply.

        Args:
            limit_s: How long to wait, in seconds from now; 0 or less not to wait.

        Returns:
            The reply, parsed; the same one each time.

        Raises:
            CommandRefused: QEMU answered with an error; the session stays usable.
            CommandUnknown: The command may have taken effect. If the limit passed, `pending` is
                true, the session stays usable, and you can call `reply` again. If the connection
                was lost, the session is closed.
            ConnectionFailed: The connection had been lost before, so the command was not sent; the
                session is closed.
            ParseError: The reply does not fit this command; the session stays usable.
        """
        if self.pending:
            await asyncio.wait((self._reply,), timeout=limit_s)
        if self.pending:
            why = f"there was no reply within {limit_s:g} s"
            raise CommandUnknown(self._session.node, self._command.qmp_name, why)
        try:
            value = self._reply.result()
        except QMPError as error:
            self._fail(error)
        return self._command.parse_reply(value)

    def _fail(self, error: QMPError) -> NoReturn:
        """Raise pycolo's error for an error of the QMP client."""
        node, name = self._session.node, self._command.qmp_name
        match error:
            case ExecuteError():
                raise CommandRefused(node, name, error.error_class, str(error)) from error
            case StateError():
                raise ConnectionFailed(node, self._session.address, "it ended before") from error
            case ExecInterruptedError():
                raise CommandUnknown(node, name, "the connection was lost") from error
            case _:
                raise CommandUnknown(node, name, f"the reply was no QMP: {error}") from error


@final
class Session:
    """A connection to one node's monitor: an asynchronous context manager, made by `connect`."""

    def __init__(
        self,
        node: str,
        monitor: Monitor,
        dialled: Dialled,
        connector: Connector,
        schemas: SchemaCache | None,
    ) -> None:
        self.node: Final = node
        "Name of the node at the other end."
        self.address: Final = address_of(monitor)
        "The monitor's address."
        self.version: Final = dialled.version.version
        "QEMU's version, from its greeting."
        self._monitor = monitor
        self._connector = connector
        self._schemas = schemas
        self._reported = dialled.version
        self._client = dialled.client
        self._latched = Latched()
        self._why_closed: str | None = None
        self._instance: str | None = None
        self._schema: Schema | None = None
        self._count = 0
        self._stop_at = 0
        self._checkpoint_at = 0
        self._subscribers: dict[object, Subscriber] = {}
        self._claimed = False
        self._held_back_until: dict[str, float] = {}
        self._close_asked = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        node: str,
        monitor: Monitor,
        *,
        limit_s: float,
        connector: Connector | None = None,
        schemas: SchemaCache | None = None,
    ) -> Self:
        """Open a session and negotiate out-of-band execution.

        Args:
            node: Name of the node, for messages.
            monitor: The address on which the node's QMP server listens.
            limit_s: How long connecting and negotiating may take together, in seconds.
            connector: Opens the socket to the monitor, now and when the session is reopened. None
                to connect to the monitor's address from this machine.
            schemas: A cache that is shared with other sessions, so that a QEMU build's schema is
                read once; None to read it for this session alone.

        Returns:
            The session. Close it with `aclose`, or use it in an `async with` statement.

        Raises:
            ConnectionFailed: There is no such socket, no process listens on it, or the process is
                not a QEMU that offers QMP with out-of-band execution.
            Busy: No greeting came within the limit: another client holds the monitor, or the
                process is stopped.
            Unresponsive: The greeting came, but the negotiation was not answered within the limit:
                the main loop is stuck.
        """
        way = connector or open_monitor
        dialled = await dial(node, monitor, limit_s, way)
        session = cls(node, monitor, dialled, way, schemas)
        session._begin(dialled.early)
        return session

    async def reopen(self, *, limit_s: float) -> None:
        """Close the connection, and connect to the same monitor again.

        QEMU answers the new negotiation after it has executed everything that was sent before, so
        that afterwards no older command is pending. Subscribers stay subscribed, and are called
        with the end of the old connection. A COLO_EXIT that this session had received stays
        latched; one that it had not received when it closed is lost: QEMU does not repeat it.
        Another QEMU of the same version at that address is not noticed: see `instance`. If `reopen`
        raises, the session is closed and can be reopened later.

        Args:
            limit_s: How long connecting and negotiating may take together, in seconds. The time of
                closing (see `aclose`) is not counted.

        Raises:
            ConnectionFailed: No QEMU listens there, or one of another version answers.
            Busy: No greeting came within the limit: another client holds the monitor, or the
                process is stopped.
            Unresponsive: An older command still blocks the main loop.
        """
        await self.aclose()
        dialled = await dial(self.node, self._monitor, limit_s, self._connector)
        if dialled.version.version != self.version:
            await disconnected(dialled.client)
            why = f"QEMU {dialled.version.version} answers there"
            raise ConnectionFailed(self.node, self.address, why)
        self._reported = dialled.version
        self._client = dialled.client
        self._why_closed = None
        self._instance = None
        self._schema = None
        self._close_asked = asyncio.Event()
        self._begin(dialled.early)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection; may be called again. QEMU keeps running.

        For one second, data that QEMU has not read yet can still be sent; then it is dropped.
        """
        self._closing("it was closed")
        self._close_asked.set()
        if self._watcher is not None:
            await asyncio.wait((self._watcher,))

    # -- commands

    def send(self, command: QmpCommand[_R], *, oob: bool = False) -> Sent[_R]:
        """Send a command and do not wait for its reply.

        While seven commands in band await their replies, a further one is sent only after one of
        these replies: with more of them, a QEMU whose main loop is blocked reads nothing out of
        band.

        Args:
            command: The command.
            oob: Whether to send it out of band, at once: QEMU then executes it even if its main
                loop is blocked. QEMU refuses this for most commands (qemu-behaviour 7.6).

        Returns:
            The command that was sent. If the connection is lost, `send` does not raise, but
            `Sent.reply` does.
        """
        text = _text(command.qmp_name, command.arguments(), oob=oob)
        return Sent(self, command, self._client.issue(text, oob=oob))

    async def execute(self, command: QmpCommand[_R], *, limit_s: float, oob: bool = False) -> _R:
        """Send a command and wait for its reply.

        Args:
            command: The command.
            limit_s: How long the reply may take, in seconds.
            oob: Whether to send it out of band; see `send`.

        Returns:
            The reply, parsed.

        Raises:
            CommandRefused: QEMU answered with an error; the session stays usable.
            CommandUnknown: The command may have taken effect: no reply came within the limit, and
                the session stays usable; or the connection was lost, and the session is closed.
            ConnectionFailed: The connection had been lost before, so nothing was sent; the session
                is closed.
            ParseError: The reply does not fit this command; the session stays usable.
        """
        return await self.send(command, oob=oob).reply(limit_s)

    async def instance(self, *, limit_s: float) -> str:
        """The identity that this QEMU got at launch; empty if it got none.

        The identity cannot change during a connection, so QEMU is asked only once. Later calls
        return it even if QEMU's main loop does not answer.

        Args:
            limit_s: How long the reply to the first call may take, in seconds.

        Raises:
            RemoteError: The first call got no reply, or QEMU refused it; see `execute`.
            ParseError: The reply is not one to this question; the session stays usable.
        """
        if self._instance is None:
            found = await self.execute(QueryName(), limit_s=limit_s)
            self._instance = found.name or ""
        return self._instance

    async def schema(self, *, limit_s: float) -> Schema:
        """The commands, events and types of this QEMU.

        The schema cannot change during a connection, so QEMU is asked only once. If the session's
        `SchemaCache` has the schema of this QEMU's build, only the names of the commands are read.

        Args:
            limit_s: How long each reply to the first call may take, in seconds.

        Raises:
            RemoteError: The first call got no reply, or QEMU refused it; see `execute`.
            ParseError: The reply is not one to this question; the session stays usable.
        """
        if self._schema is None:
            self._schema = await self._found_schema(limit_s)
        return self._schema

    async def _found_schema(self, limit_s: float) -> Schema:
        async def read() -> Schema:
            found = await self.execute(QueryQmpSchema(), limit_s=limit_s)
            return Schema.from_reply(found.entries)

        if self._schemas is None:
            return await read()
        commands = await self.execute(QueryCommands(), limit_s=limit_s)
        build = Build(version=self._reported, commands=commands)
        return await self._schemas.of(build, read, limit_s=limit_s)

    # -- reservation

    def claim(self) -> bool:
        """Reserve the session for one execution, until `release`.

        If two plans were executed over one session at once, each would meet changes of the other.

        Returns:
            False if another execution has reserved the session.
        """
        if self._claimed:
            return False
        self._claimed = True
        return True

    def release(self) -> None:
        """End the reservation that `claim` made."""
        self._claimed = False

    # -- state and events

    @property
    def closed(self) -> bool:
        """Whether the connection is known to have ended, by either side.

        Nothing is asked: a host that was cut off leaves the connection open.
        """
        return self._why_closed is not None

    @property
    def why_closed(self) -> str | None:
        """Why the connection ended, as a sentence without a full stop; None if it is not closed."""
        return self._why_closed

    @property
    def peer(self) -> int | None:
        """The process at the other end of a monitor's Unix socket on this machine.

        It is None for any other monitor. If the connection is forwarded, it is the process that
        forwards it.
        """
        return self._client.peer

    @property
    def latched(self) -> Latched:
        """What QEMU has reported so far by events alone; no query returns it.

        Remembered, and kept when the session is reopened; `begin_generation` clears a part of it.
        """
        return self._latched

    def begin_generation(self) -> None:
        """Forget the latched COLO_EXIT and QUORUM_REPORT_BAD, before COLO starts again.

        Call it when you send `migrate` or `migrate-incoming` (qemu-behaviour 4.17). QEMU may send a
        QUORUM_REPORT_BAD up to a second late, when the block node has already been replaced. So a
        report about a block node that was latched is ignored for 1.1 s (qemu-behaviour 5.10).
        """
        until = asyncio.get_running_loop().time() + HELD_BACK_S
        self._held_back_until = dict.fromkeys(self._latched.quorum_bad, until)
        self._latched = attrs.evolve(self._latched, colo_exited=False, quorum_bad=())

    def mark(self) -> int:
        """The current position in the order of events, for `checkpoint_since` and `wait_change`."""
        return self._count

    def checkpoint_since(self, mark: int) -> bool:
        """Whether the events STOP and then RESUME came after a `mark`.

        Source: qemu-behaviour 4.13.
        """
        return self._checkpoint_at > mark

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call a function with each event, and with the end of the connection.

        An event that cannot be parsed is logged and not passed on. The end of a connection is
        passed on once, also if this program ends it with `aclose`. A session that is already closed
        calls nothing until it is reopened.

        Args:
            subscriber: The function. It runs in the event loop; it must be quick and must not
                raise.

        Returns:
            A function that ends the subscription; a second call does nothing.
        """
        key = object()
        self._subscribers[key] = subscriber

        def unsubscribe() -> None:
            self._subscribers.pop(key, None)

        return unsubscribe

    async def wait_change(self, limit_s: float, *, since: int | None = None) -> None:
        """Wait for an event, the end of the connection or the limit, whichever is first.

        On a closed session the call returns at once.

        Args:
            limit_s: How long to wait, in seconds.
            since: A `mark`: the call returns at once if an event came after it; None for now.
        """
        if self.closed:
            return
        await wait_any_change({self: self._count if since is None else since}, limit_s)

    # -- receiving

    def _begin(self, early: list[Incoming]) -> None:
        """Begin to receive events over a new connection; `early` came before."""
        self._client.on_event = self._on_message
        for message in early:
            self._on_message(message)
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        """Wait for the end of the connection, and disconnect the client."""
        # After a hang-up the client stays half open until it is disconnected, which must be done
        # exactly once (qemu-behaviour 14.8).
        loop = asyncio.get_running_loop()
        asked = loop.create_task(self._close_asked.wait())
        while self._client.runstate is Runstate.RUNNING and not asked.done():
            changed = loop.create_task(_runstate_change(self._client))
            await asyncio.wait((changed, asked), return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
        asked.cancel()
        why = "this program failed at what it sent"
        try:
            why = await disconnected(self._client) or "QEMU hung up"
        finally:
            self._closing(why)
            # Whoever waits for a reply finds the session closed.
            self._client.interrupt()

    def _closing(self, why: str) -> None:
        """Mark the session as closed, and tell the subscribers once."""
        if self._why_closed is None:
            self._why_closed = why
            self._tell(HungUp(why=why))

    def _on_message(self, message: Incoming) -> None:
        """Parse, latch and pass on an event."""
        try:
            event = events.event_from_qmp(message)
        except ParseError as error:
            _LOG.warning("%s sent an event that cannot be read: %s", self.node, error)
            return
        self._count += 1
        self._latch(event)
        self._tell(event)

    def _latch(self, event: events.Event) -> None:
        """Keep what only events report, and the positions of checkpoints."""
        match event:
            case events.StopEvent():
                self._stop_at = self._count
            case events.ResumeEvent():
                self._checkpoint_at = self._stop_at
            case events.ColoExitEvent():
                self._latched = attrs.evolve(self._latched, colo_exited=True)
            case events.ShutdownEvent(guest=True, reason="guest-shutdown"):
                self._latched = attrs.evolve(self._latched, powered_off=True)
            case events.QuorumReportBadEvent(node_name=node):
                now = asyncio.get_running_loop().time()
                held_back = now < self._held_back_until.get(node, now)
                if node not in self._latched.quorum_bad and not held_back:
                    bad = (*self._latched.quorum_bad, node)
                    self._latched = attrs.evolve(self._latched, quorum_bad=bad)
            case _:
                pass

    def _tell(self, notice: Notice) -> None:
        for subscriber in tuple(self._subscribers.values()):
            subscriber(notice)


def _text(name: str, arguments: Mapping[str, object], *, oob: bool) -> str:
    """A command's message as JSON, without an id."""
    if not arguments:
        return _bare_text(name, oob=oob)
    return _ENCODER.encode({"exec-oob" if oob else "execute": name, "arguments": arguments})


@functools.cache
def _bare_text(name: str, *, oob: bool) -> str:
    """The message of a command without arguments."""
    # Cached, since a supervisor sends the same questions thousands of times a second.
    return _ENCODER.encode({"exec-oob" if oob else "execute": name})


async def wait_any_change(since: Mapping[Session, int], limit_s: float) -> None:
    """Wait for an event or a hang-up of any of these sessions, or the limit.

    Args:
        since: Session to its `mark`. The wait ends when an event comes after the mark of one of
            them, or when a connection ends during the wait. A session that was closed before does
            not end it.
        limit_s: How long to wait, in seconds.
    """
    changed = asyncio.Event()
    if any(session.mark() != mark for session, mark in since.items()):
        return
    ends = [session.subscribe(lambda _: changed.set()) for session in since]
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await changed.wait()
    finally:
        for end in ends:
            end()


async def _runstate_change(client: QMPClient) -> None:
    # `runstate_changed` waits for a later change, so the current state is looked at first.
    if client.runstate is Runstate.RUNNING:
        await client.runstate_changed()

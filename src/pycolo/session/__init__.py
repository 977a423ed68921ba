"""The only way to QEMU: a QMP connection to one node, with typed commands and typed events.

What is particular to COLO control, and the reason for each:

- Out-of-band execution is negotiated when the session is opened, since a connection that is opened
  while QEMU is wedged is useless (qemu-behaviour 7.6).
- A command whose limit passes stays sent. Its reply is still received when it comes, so that it is
  never mistaken for the reply to another command (qemu-behaviour 7.5, 14.5).
- Events are parsed as they arrive, handed to subscribers and then forgotten. What must not be
  missed is latched: COLO_EXIT, which QEMU forgets (qemu-behaviour 18.4), QUORUM_REPORT_BAD, and
  the SHUTDOWN of a guest that has powered itself off.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Final, Generic, NoReturn, Self, TypeAlias, TypeVar, final

import attrs
from qemu.qmp import (
    ExecInterruptedError,
    ExecuteError,
    Message,
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
# QEMU reports the loss of a node at most once a second.
HELD_BACK_S: Final = 1.1


@final
@attrs.frozen(kw_only=True)
class HungUp:
    """The connection ended, which proves nothing about the node's death."""

    why: str
    "What ended it, as a sentence without a full stop."


Notice: TypeAlias = events.Event | HungUp
"What a subscriber is told."
Subscriber: TypeAlias = Callable[[Notice], None]


@final
@attrs.frozen(kw_only=True)
class Latched:
    """What events told and no query tells: a session keeps it, also when it is reopened."""

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
        self, session: Session, command: QmpCommand[_R], task: asyncio.Task[object]
    ) -> None:
        self._session = session
        self._command = command
        self._task = task

    @property
    def pending(self) -> bool:
        """Whether the reply has not come yet; False too once the connection is lost."""
        return not self._task.done()

    def when_answered(self, on_answer: Callable[[object], None]) -> None:
        """Call a function with the answer as it came, however late; never if none comes.

        Args:
            on_answer: Is given what was returned, unparsed, or a CommandRefused. Called from the
                event loop; must be quick and must not raise.
        """
        self._task.add_done_callback(lambda _: self._hand_on(on_answer))

    def _hand_on(self, on_answer: Callable[[object], None]) -> None:
        if self._task.cancelled():
            return
        match self._task.exception():
            case None:
                on_answer(self._task.result())
            case ExecuteError() as error:
                name = self._command.qmp_name
                on_answer(CommandRefused(self._session.node, name, error.error_class, str(error)))
            case _:
                pass

    async def reply(self, limit_s: float) -> _R:
        """Wait for the reply.

        Args:
            limit_s: How long to wait, in seconds from now; 0 or less for not at all.

        Returns:
            The reply, parsed; the same one each time.

        Raises:
            CommandRefused: QEMU answered with an error; the session stays usable.
            CommandUnknown: The command may have taken effect. Either the limit passed: `pending` is
                true, the session stays usable, and you can wait again. Or the connection was lost:
                the session is closed.
            ConnectionFailed: The connection was lost before, so the command was not sent; the
                session is closed.
            ParseError: The reply is not one to this command; the session stays usable.
        """
        task = self._task
        if not task.done():
            await asyncio.wait((task,), timeout=limit_s)
        if not task.done():
            why = f"there was no reply within {limit_s:g} s"
            raise CommandUnknown(self._session.node, self._command.qmp_name, why)
        try:
            value = task.result()
        except (QMPError, asyncio.CancelledError) as error:
            self._fail(error)
        return self._command.parse_reply(value)

    def _fail(self, error: BaseException) -> NoReturn:
        node, name = self._session.node, self._command.qmp_name
        match error:
            case ExecuteError():
                raise CommandRefused(node, name, error.error_class, str(error)) from error
            case StateError():
                raise ConnectionFailed(node, self._session.address, "it ended before") from error
            case ExecInterruptedError() | asyncio.CancelledError():
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
        self._sent: set[asyncio.Task[object]] = set()
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
            monitor: Where its QMP server listens.
            limit_s: How long it may take in all, in seconds.
            connector: How the monitor is reached, now and when the session is reopened; by its
                address if None.
            schemas: Where the schema is looked up before it is read, and kept for others; if None,
                this session reads its own.

        Returns:
            The session. Close it with `aclose`, or enter it as a context.

        Raises:
            ConnectionFailed: There is no such socket, nobody listens there, or what listens there
                is no QEMU that offers QMP with out-of-band execution.
            Busy: No greeting came within the limit: another client holds the monitor, or the
                process is stopped.
            Unresponsive: Greeted, but the negotiation was never answered: the main loop is stuck.
        """
        way = connector or open_monitor
        dialled = await dial(node, monitor, limit_s, way)
        session = cls(node, monitor, dialled, way, schemas)
        session._begin(dialled.early)
        return session

    async def reopen(self, *, limit_s: float) -> None:
        """Close the connection and open it anew, on the same monitor.

        QEMU answers the new negotiation after it is done with everything that was sent before,
        so from then on nothing older is pending. Subscribers stay, and are told the end of the old
        connection; a COLO_EXIT that came in between was missed, one that came before is still
        latched. If it fails, the session is closed and can be reopened later.

        Args:
            limit_s: How long opening may take in all, in seconds. Closing comes before that, see
                `aclose`.

        Raises:
            ConnectionFailed: See `connect`; or a QEMU of another version answers there.
            Busy: See `connect`.
            Unresponsive: What was sent before still holds up the main loop.
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

        What was sent and not yet taken by QEMU has a second to leave; then it is dropped.
        """
        self._closing("it was closed")
        self._close_asked.set()
        if self._watcher is not None:
            await asyncio.wait((self._watcher,))

    # -- commands

    def send(self, command: QmpCommand[_R], *, oob: bool = False) -> Sent[_R]:
        """Send a command and do not wait for its reply.

        Args:
            command: What to send.
            oob: Send it out of band: QEMU then executes it while its main loop is blocked. QEMU
                refuses it for most commands (qemu-behaviour 7.6).

        Returns:
            The command under way. If the connection is lost, its `reply` says so, not this.
        """
        call = self._client.execute_msg(_message(command.qmp_name, command.arguments(), oob=oob))
        task = asyncio.get_running_loop().create_task(call)
        self._sent.add(task)
        task.add_done_callback(self._take)
        return Sent(self, command, task)

    async def execute(self, command: QmpCommand[_R], *, limit_s: float, oob: bool = False) -> _R:
        """Send a command and take its reply.

        Args:
            command: What to send.
            limit_s: How long the reply may take, in seconds.
            oob: Send it out of band; see `send`.

        Returns:
            The reply, parsed.

        Raises:
            CommandRefused: QEMU answered with an error; the session stays usable.
            CommandUnknown: The command may have taken effect: no reply came within the limit, and
                the session stays usable; or the connection was lost, and the session is closed.
            ConnectionFailed: The connection was lost before, so nothing was sent; the session is
                closed.
            ParseError: The reply is not one to this command; the session stays usable.
        """
        return await self.send(command, oob=oob).reply(limit_s)

    async def instance(self, *, limit_s: float) -> str:
        """The identity this QEMU was given at launch; empty if it was given none.

        It cannot change over one connection, so it is asked for once: later it is known without
        a main loop that answers.

        Args:
            limit_s: How long the reply may take, in seconds, the first time.

        Raises:
            RemoteError: See `execute`.
            ParseError: See `execute`.
        """
        if self._instance is None:
            found = await self.execute(QueryName(), limit_s=limit_s)
            self._instance = found.name or ""
        return self._instance

    async def schema(self, *, limit_s: float) -> Schema:
        """The commands, events and types of this QEMU.

        They cannot change over one connection, so they are asked for once, as is `instance`. If a
        `SchemaCache` knows this QEMU's build, only the names of the commands are asked for.

        Args:
            limit_s: How long the reply may take, in seconds, the first time.

        Raises:
            RemoteError: See `execute`.
            ParseError: See `execute`.
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

    def _take(self, task: asyncio.Task[object]) -> None:
        # Whoever waits reads the task itself; this is for the reply nobody waits for any more.
        self._sent.discard(task)
        if not task.cancelled():
            task.exception()

    # -- who uses it

    def claim(self) -> bool:
        """Take the session for one execution, until `release`; False if another one has it.

        Two plans that were executed over one session at once would each find what the other one
        has just changed.
        """
        if self._claimed:
            return False
        self._claimed = True
        return True

    def release(self) -> None:
        """Let another execution have the session."""
        self._claimed = False

    # -- what was seen

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, by either side."""
        return self._why_closed is not None

    @property
    def latched(self) -> Latched:
        """What QEMU has reported so far in events only; no query returns it."""
        return self._latched

    def begin_generation(self) -> None:
        """Forget the latched COLO_EXIT and lost disks: they say nothing of the next COLO.

        Call it when `migrate` or `migrate-incoming` is sent (qemu-behaviour 4.17). QEMU may hold a
        report of a lost disk back for a second, even if the disk was replaced meanwhile: for that
        long another report of the same block node is ignored (qemu-behaviour 5.10).
        """
        until = asyncio.get_running_loop().time() + HELD_BACK_S
        self._held_back_until = dict.fromkeys(self._latched.quorum_bad, until)
        self._latched = attrs.evolve(self._latched, colo_exited=False, quorum_bad=())

    def mark(self) -> int:
        """A point in the order of events, for `checkpoint_since` and `wait_change`."""
        return self._count

    def checkpoint_since(self, mark: int) -> bool:
        """Whether STOP and then RESUME were seen after `mark`.

        Source: qemu-behaviour 4.13.
        """
        return self._checkpoint_at > mark

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Hand each event, and the end of the connection, to a subscriber as they come.

        An event that cannot be parsed is logged and left out. The end of a connection is told once,
        even if it is this program that calls `aclose`; a session that is closed already tells
        nothing until it is reopened.

        Args:
            subscriber: Called from the event loop; must be quick and must not raise.

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

        On a session that is closed it returns at once: nothing happens there any more.

        Args:
            limit_s: How long to wait, in seconds.
            since: A `mark`; returns at once if there was an event after it. None means from now.
        """
        if self.closed:
            return
        await wait_any_change({self: self._count if since is None else since}, limit_s)

    # -- how it is told

    def _begin(self, early: list[Message]) -> None:
        # From here on each event is used up by its filter: the client would keep it for ever.
        self._client.events.event_filter = self._on_message
        for message in early:
            self._on_message(message)
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        # After a hang-up the client stays half open until somebody disconnects it, once
        # (qemu-behaviour 14.8).
        loop = asyncio.get_running_loop()
        asked = loop.create_task(self._close_asked.wait())
        while self._client.runstate is Runstate.RUNNING and not asked.done():
            changed = loop.create_task(_runstate_change(self._client))
            await asyncio.wait((changed, asked), return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
        asked.cancel()
        self._closing(await disconnected(self._client) or "QEMU hung up")

    def _closing(self, why: str) -> None:
        if self._why_closed is None:
            self._why_closed = why
            self._tell(HungUp(why=why))

    def _on_message(self, message: Mapping[str, object]) -> bool:
        try:
            event = events.event_from_qmp(message)
        except ParseError as error:
            _LOG.warning("%s sent an event that cannot be read: %s", self.node, error)
            return False
        self._count += 1
        self._latch(event)
        self._tell(event)
        return False

    def _latch(self, event: events.Event) -> None:
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


def _message(name: str, arguments: Mapping[str, object], *, oob: bool) -> Message:
    if arguments:
        return QMPClient.make_execute_msg(name, arguments, oob=oob)
    return _without_arguments(name, oob=oob)


@functools.cache
def _without_arguments(name: str, *, oob: bool) -> Message:
    # The client copies it before it gives it an id. It is made anew for each question otherwise,
    # and a supervisor asks the same one thousands of times a second.
    return QMPClient.make_execute_msg(name, oob=oob)


async def wait_any_change(since: Mapping[Session, int], limit_s: float) -> None:
    """Wait for an event or a hang-up of any of these sessions, or the limit.

    Args:
        since: Sessions, each with a `mark`; an event after it ends the wait, and so does a session
            whose connection ends meanwhile. One that was closed before does not.
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
    # Changes are not kept: one that happened before this runs would be missed.
    if client.runstate is Runstate.RUNNING:
        await client.runstate_changed()

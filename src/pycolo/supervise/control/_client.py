"""The client's side: one request for each connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final, assert_never, final

import attrs

from pycolo.errors import CommandUnknown, CompileError, ParseError, RefusedError, StoreError
from pycolo.evidence import Evidence
from pycolo.observers import Observer
from pycolo.pace import Checkpoint
from pycolo.plan import Plan, Procedure, Step
from pycolo.result import Report
from pycolo.supervise.control import _messages as msg
from pycolo.supervise.control._place import SUFFIX, of_agents, place

_FIRST_S: Final = 30.0
"How long the first answer may take, in seconds: the supervisor reads the pair before it."
ENDED: Final = "it has ended"
_CREDENTIALS: Final = struct.Struct("3i")


@final
@attrs.frozen(kw_only=True)
class Control:
    """A client of the supervisor or agent that keeps a pair; `find` makes it.

    Every method raises `StoreError` if the supervisor has ended before it was asked.
    """

    pair: str
    "The pair's name."
    folder: Path
    "The folder of the supervisor's socket."
    pid: int
    "The process ID of the supervisor."

    async def perform(
        self,
        procedure: Procedure,
        observer: Observer,
        *,
        checkpoint_delay_ms: int | None = None,
    ) -> Report:
        """Have the supervisor execute a procedure; see `Supervisor.perform`.

        Args:
            procedure: The procedure.
            observer: Is called with what the execution does.
            checkpoint_delay_ms: The delay for `set-checkpoint-delay`, in milliseconds; the declared
                one if None.

        Returns:
            The report; a step that failed is in it.

        Raises:
            RefusedError: The procedure is not begun; nothing was changed.
            CommandUnknown: The supervisor has ended, or gives no answer: it is not known what was
                done. Observe the pair before you repeat the request.
        """
        request = msg.Perform(procedure=procedure, checkpoint_delay_ms=checkpoint_delay_ms)
        return await self._executed(request, procedure, observer)

    async def move(self, to: str, observer: Observer) -> Report:
        """Have a spare take the place of the secondary; see `Supervisor.move`.

        Args:
            to: The spare.
            observer: Is called with what the execution does.

        Returns:
            The report; a step that failed is in it.

        Raises:
            RefusedError: It is not begun; nothing was changed.
            CommandUnknown: The supervisor has ended, or gives no answer: it is not known what was
                done. Observe the pair before you repeat the request.
        """
        return await self._executed(msg.Move(to=to), "move", observer)

    async def _executed(self, request: msg.Request, asked: str, observer: Observer) -> Report:
        told = _Told(observer)
        async with aclosing(self._answers(request, asked=asked)) as answers:
            async for answer in answers:
                if isinstance(answer, msg.Ended):
                    observer.plan_finished(answer.report)
                    return answer.report
                told.take(answer)
        raise self._lost(asked, ENDED)

    async def state_fence(
        self, node: str, *, who: str, how: str, instance: str | None = None
    ) -> Evidence:
        """State that a QEMU has ended; see `Supervisor.state_fence`.

        Raises:
            RefusedError: The supervisor does not accept the statement.
            CommandUnknown: The supervisor has ended, or gives no answer: make the statement again.
        """
        request = msg.StateFence(node=node, who=who, how=how, instance=instance)
        async with aclosing(self._answers(request, asked="fenced")) as answers:
            async for answer in answers:
                if isinstance(answer, msg.Noted):
                    return answer.evidence
        raise self._lost("fenced", ENDED)

    async def watch(self) -> AsyncGenerator[msg.PairView]:
        """Yield the pair's view twice a second, until closed or until the supervisor ends.

        Raises:
            StoreError: The first view has not come within 30 s, or an answer cannot be read.
        """
        async with aclosing(self._answers(msg.Watch())) as answers:
            async for answer in answers:
                if isinstance(answer, msg.Shown):
                    yield answer.view

    async def checkpoints(self) -> AsyncGenerator[Checkpoint]:
        """Yield each checkpoint as it ends, until closed or until the supervisor ends.

        Raises:
            StoreError: An answer cannot be read.
        """
        async with aclosing(self._answers(msg.Listen(), first_s=None)) as answers:
            async for answer in answers:
                if isinstance(answer, msg.Heard):
                    yield answer.checkpoint

    async def _answers(
        self, request: msg.Request, *, asked: str = "", first_s: float | None = _FIRST_S
    ) -> AsyncGenerator[msg.Answer]:
        """Yield the answers to a request, until the supervisor closes the connection.

        Args:
            request: The request.
            asked: The name of the request, for errors; empty if the request changes nothing.
            first_s: How long the first answer may take, in seconds; None for no limit.

        Raises:
            RefusedError: The supervisor refused the request.
            CommandUnknown: The connection was lost or is of no use, after a request that may have
                changed something.
            StoreError: The supervisor has ended before it was asked, or the connection was lost
                or is of no use after a request that changes nothing.
        """
        async with self._connected() as (reader, writer):
            writer.write(msg.request_line(request))
            limit_s = first_s
            while line := await self._line(reader, asked, limit_s):
                limit_s = None
                try:
                    answer = msg.read_answer(line)
                except ParseError as error:
                    raise self._lost(asked, f"it answers what cannot be read: {error}") from error
                if isinstance(answer, msg.NotDone):
                    raise _refusal(answer)
                yield answer

    async def _line(self, reader: asyncio.StreamReader, asked: str, limit_s: float | None) -> bytes:
        try:
            async with asyncio.timeout(limit_s):
                return await reader.readline()
        except TimeoutError:
            raise self._lost(asked, f"it gives no answer within {limit_s:g} s") from None
        except (OSError, ValueError) as error:
            raise self._lost(asked, ENDED) from error

    def _lost(self, asked: str, why: str) -> CommandUnknown | StoreError:
        """Make the error for a connection that has ended or is of no use.

        Args:
            asked: The name of the request; empty if it has changed nothing.
            why: What is wrong with the connection, as a clause.
        """
        who = f"the supervisor (pid {self.pid})"
        if asked:
            return CommandUnknown(who, asked, why)
        return StoreError(str(self.folder), f"{who}: {why}")

    @asynccontextmanager
    async def _connected(
        self,
    ) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        try:
            with place(self.folder, self.pair) as path:
                reader, writer = await asyncio.open_unix_connection(path, limit=msg.LINE_BYTES)
        except OSError as error:
            raise self._lost("", ENDED) from error
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _refusal(answer: msg.NotDone) -> RefusedError:
    return CompileError(*answer.findings) if answer.findings else RefusedError(answer.why)


def find(folder: Path, pair: str) -> Control | None:
    """Find the supervisor or agent that keeps a pair; None if none listens in this folder.

    Args:
        folder: The folder of a supervisor's store, or that of the agents.
        pair: The pair's name.

    Raises:
        StoreError: The socket cannot be opened, such as one of another user.
    """
    try:
        with place(folder, pair) as path, socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(str(folder), f"the socket of {pair}: {error.strerror}") from error
    pid: int = _CREDENTIALS.unpack(found)[0]
    return Control(pair=pair, folder=folder, pid=pid)


def find_keeper(folder: Path, pair: str) -> Control | None:
    """Find the supervisor that keeps a pair, or else this host's agent; None if neither listens.

    Args:
        folder: The folder of a supervisor's store, below which the agents listen.
        pair: The pair's name.

    Raises:
        StoreError: See `find`.
    """
    return find(folder, pair) or find(of_agents(folder), pair)


def found(folder: Path) -> Iterator[Control]:
    """Yield a client for each pair that is kept with a store, in the order of the pairs' names.

    Args:
        folder: The folder of a supervisor's store, or that of the agents.

    Raises:
        StoreError: A socket cannot be opened.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        control = find(folder, path.name.removesuffix(SUFFIX))
        if control is not None:
            yield control


@final
class _Told:
    """Passes what the supervisor reports of an execution to an observer of this process."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._plan: Plan | None = None

    def take(self, answer: msg.Answer) -> None:
        """Pass an answer to the observer; ignore one that does not fit the plan."""
        if isinstance(answer, msg.PlanStarted):
            self._plan = answer.plan
            self._observer.plan_started(answer.plan)
        elif self._plan is not None:
            self._take(self._plan, answer)

    def _take(self, plan: Plan, answer: msg.Answer) -> None:
        match answer:
            case msg.StepStarted(address=address):
                for step in (one for one in _steps(plan) if one.address == address):
                    self._observer.step_started(plan, step)
            case msg.StepProgress():
                self._observer.step_progress(
                    plan,
                    answer.address,
                    answer.done_bytes,
                    answer.total_bytes,
                    answer.rate_bytes_s,
                )
            case msg.StepFinished(address=address, outcome=outcome):
                self._observer.step_finished(plan, address, outcome)
            case msg.RecoveryStarted(first=first):
                for recovery in (one for one in plan.recoveries if one.first == first):
                    self._observer.recovery_started(plan, recovery)
            case msg.PlanStarted() | msg.Ended() | msg.Noted() | msg.Shown() | msg.Heard():
                pass
            case msg.NotDone():
                pass
            case _:
                assert_never(answer)


def _steps(plan: Plan) -> Iterator[Step]:
    yield from plan.steps
    for recovery in plan.recoveries:
        yield from recovery.steps

"""A person's side: one request a connection."""

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
from pycolo.supervise.control._place import SUFFIX, place

_FIRST_S: Final = 30.0
"How long the first answer may take: the supervisor reads the pair before."
ENDED: Final = "it has ended"
_CREDENTIALS: Final = struct.Struct("3i")


@final
@attrs.frozen(kw_only=True)
class Control:
    """The way to the supervisor that keeps a pair; see `find`.

    Every method raises `StoreError` if the supervisor has ended before it was asked.
    """

    pair: str
    "The pair's name."
    folder: Path
    "The folder of the supervisor's store."
    pid: int
    "The supervisor's process."

    async def perform(
        self,
        procedure: Procedure,
        observer: Observer,
        *,
        checkpoint_delay_ms: int | None = None,
    ) -> Report:
        """Have the supervisor execute a procedure; see `Supervisor.perform`.

        Args:
            procedure: What to do.
            observer: Is called with what happens.
            checkpoint_delay_ms: For `set-checkpoint-delay`; the declared one if None.

        Raises:
            RefusedError: It is not begun.
            CommandUnknown: The supervisor has ended, or gives no answer: look at the pair.
        """
        request = msg.Perform(procedure=procedure, checkpoint_delay_ms=checkpoint_delay_ms)
        told = _Told(observer)
        async with aclosing(self._answers(request, asked=procedure)) as answers:
            async for answer in answers:
                if isinstance(answer, msg.Ended):
                    observer.plan_finished(answer.report)
                    return answer.report
                told.take(answer)
        raise self._lost(procedure, ENDED)

    async def state_fence(
        self, node: str, *, who: str, how: str, instance: str | None = None
    ) -> Evidence:
        """State that a QEMU has ended; see `Supervisor.state_fence`.

        Raises:
            RefusedError: The supervisor does not take it.
            CommandUnknown: The supervisor has ended, or gives no answer: say it again.
        """
        request = msg.StateFence(node=node, who=who, how=how, instance=instance)
        async with aclosing(self._answers(request, asked="fenced")) as answers:
            async for answer in answers:
                if isinstance(answer, msg.Noted):
                    return answer.evidence
        raise self._lost("fenced", ENDED)

    async def watch(self) -> AsyncGenerator[msg.PairView]:
        """How the pair stands, twice a second; ends when it is closed, or the supervisor ends."""
        async with aclosing(self._answers(msg.Watch())) as answers:
            async for answer in answers:
                if isinstance(answer, msg.Shown):
                    yield answer.view

    async def checkpoints(self) -> AsyncGenerator[Checkpoint]:
        """Each checkpoint as it ends; ends when it is closed, or the supervisor ends."""
        async with aclosing(self._answers(msg.Listen(), first_s=None)) as answers:
            async for answer in answers:
                if isinstance(answer, msg.Heard):
                    yield answer.checkpoint

    async def _answers(
        self, request: msg.Request, *, asked: str = "", first_s: float | None = _FIRST_S
    ) -> AsyncGenerator[msg.Answer]:
        """The answers to a request, until the supervisor closes the connection.

        Args:
            request: What is asked.
            asked: Its name, if it may change something.
            first_s: How long the first answer may take; None for any time.
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
        """What to say if a connection has ended, or is of no use."""
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
    """The way to the supervisor that keeps a pair; None if none does with this store.

    Args:
        folder: The folder of its store.
        pair: The pair's name.

    Raises:
        StoreError: Its socket cannot be opened, as by another user.
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


def found(folder: Path) -> Iterator[Control]:
    """The ways to all supervised pairs of a store, by name.

    Args:
        folder: The store's folder.

    Raises:
        StoreError: A socket cannot be opened.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        control = find(folder, path.name.removesuffix(SUFFIX))
        if control is not None:
            yield control


@final
class _Told:
    """Tells an observer here what the supervisor's was told there."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._plan: Plan | None = None

    def take(self, answer: msg.Answer) -> None:
        """Take an answer; what does not fit the plan is nobody's."""
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

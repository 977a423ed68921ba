"""The side of a supervisor or an agent, which listens on a socket for each of its pairs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Final, Self, assert_never, final

from typing_extensions import override

from pycolo.errors import CommandUnknown, CompileError, PycoloError
from pycolo.observers import Observer
from pycolo.plan import Options, Plan, Recovery, Step
from pycolo.result import Outcome
from pycolo.supervise.control import _messages as msg
from pycolo.supervise.control._place import place
from pycolo.supervise.supervisor import Keeping

_ASKED_S: Final = 10.0
"How long a request may take to arrive, in seconds."
_SHOW_S: Final = 0.5
_LOG: Final = logging.getLogger("pycolo.supervise")


@asynccontextmanager
async def served(supervisor: Keeping, folder: Path) -> AsyncGenerator[None]:
    """Listen for people's requests about a supervisor's pairs while the block lasts.

    Enter this inside the supervisor's own block: a socket that already exists in the folder was
    then left by a supervisor that has ended, and is replaced. A pair that is added later gets a
    socket as well; if that cannot be made, an error is logged.

    Args:
        supervisor: The supervisor or agent that is asked; an agent executes `switch-over`
            alone on request.
        folder: The folder of the supervisor's store, or that of the agents.

    Raises:
        OSError: A socket cannot be made; none is open afterwards.
    """
    changed = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(supervisor.watching_pairs(changed.set))
        sockets = await stack.enter_async_context(_Sockets(supervisor, folder))
        await sockets.follow()
        following = asyncio.create_task(_followed(sockets, changed))
        stack.push_async_callback(_ended, following)
        yield


async def _followed(sockets: _Sockets, changed: asyncio.Event) -> None:
    while True:
        await changed.wait()
        changed.clear()
        try:
            await sockets.follow()
        except OSError:
            _LOG.exception("a pair that was added cannot be asked for anything")


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))


@final
class _Sockets:
    """The sockets of a supervisor's pairs; an async context manager, which closes them."""

    def __init__(self, supervisor: Keeping, folder: Path) -> None:
        self._supervisor = supervisor
        self._folder = folder
        self._stacks: dict[str, AsyncExitStack] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in tuple(self._stacks):
            await self._stacks.pop(name).aclose()

    async def follow(self) -> None:
        """Make the sockets of pairs that have none, and close those of pairs that are gone.

        Raises:
            OSError: A socket cannot be made; those that were made before are open.
        """
        names = {pair.name for pair in self._supervisor.pairs}
        for gone in self._stacks.keys() - names:
            await self._stacks.pop(gone).aclose()
        for name in sorted(names - self._stacks.keys()):
            async with AsyncExitStack() as stack:
                desk = _Desk(self._supervisor, name)
                await stack.enter_async_context(_listening(desk, self._folder))
                self._stacks[name] = stack.pop_all()


@asynccontextmanager
async def _listening(desk: _Desk, folder: Path) -> AsyncGenerator[None]:
    with place(folder, desk.pair) as path, contextlib.ExitStack() as stack:
        sock = stack.enter_context(_bound(Path(path)))
        server = await asyncio.start_unix_server(desk.serve, sock=sock)
        try:
            yield
        finally:
            server.close()
            await desk.aclose()


@contextlib.contextmanager
def _bound(path: Path) -> Generator[socket.socket]:
    """A socket bound to a path, which only this user may open; removed after the block.

    A file that is at the path already is removed first, even if a process still listens there.
    """
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        # `bind` makes the file with the socket's mode, so that it never has another mode.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(str(path))
        try:
            yield sock
        finally:
            path.unlink(missing_ok=True)


@final
class _Desk:
    """Answers the requests about one pair."""

    def __init__(self, supervisor: Keeping, pair: str) -> None:
        self.pair: Final = pair
        self._supervisor = supervisor
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the request of a connection, until the connection has ended."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        await asyncio.wait((task,))

    async def aclose(self) -> None:
        """End all connections."""
        tasks = tuple(self._serving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        way = _Way(writer)
        try:
            async with asyncio.timeout(_ASKED_S):
                line = await reader.readline()
            if line:
                await self._answer(msg.read_request(line), reader, way)
        except CommandUnknown:
            # A client whose connection ends without an answer does not know what was done either.
            return
        except CompileError as error:
            way.tell(msg.NotDone(why=str(error), findings=error.findings))
        except (PycoloError, ValueError, TimeoutError) as error:
            way.tell(msg.NotDone(why=str(error) or "no request came"))
        except OSError:
            # The client has disconnected.
            return
        finally:
            writer.close()

    async def _answer(self, request: msg.Request, reader: asyncio.StreamReader, way: _Way) -> None:
        supervisor, pair = self._supervisor, self.pair
        match request:
            case msg.Perform(procedure=procedure, checkpoint_delay_ms=delay_ms):
                options = Options(checkpoint_delay_ms=delay_ms)
                report = await supervisor.perform(pair, procedure, options=options, observer=way)
                way.tell(msg.Ended(report=report))
            case msg.Move(to=to):
                way.tell(msg.Ended(report=await supervisor.move(pair, to, observer=way)))
            case msg.StateFence(node=node, who=who, how=how, instance=instance):
                evidence = await supervisor.state_fence(
                    pair, node, who=who, how=how, instance=instance
                )
                way.tell(msg.Noted(evidence=evidence))
            case msg.Watch():
                await _until_gone(reader, way, self._views())
            case msg.Listen():
                await _until_gone(reader, way, self._checkpoints())
            case _:
                assert_never(request)

    async def _views(self) -> AsyncGenerator[msg.Answer]:
        while True:
            yield msg.Shown(view=_view(self._supervisor, self.pair))
            await asyncio.sleep(_SHOW_S)

    async def _checkpoints(self) -> AsyncGenerator[msg.Answer]:
        async with aclosing(self._supervisor.checkpoints(self.pair)) as checkpoints:
            async for checkpoint in checkpoints:
                yield msg.Heard(checkpoint=checkpoint)


async def _until_gone(
    reader: asyncio.StreamReader, way: _Way, answers: AsyncGenerator[msg.Answer]
) -> None:
    """Send the answers, until the client closes the connection."""
    async with aclosing(answers):
        telling = asyncio.ensure_future(_told(way, answers))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((telling, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (telling, gone):
                task.cancel()
            await asyncio.gather(telling, gone, return_exceptions=True)


async def _told(way: _Way, answers: AsyncIterator[msg.Answer]) -> None:
    async for answer in answers:
        way.tell(answer)
        await way.drain()


@final
class _Way(Observer):
    """The connection to a client; as an observer, it sends what an execution does.

    If the client has disconnected, nothing is sent.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def tell(self, answer: msg.Answer) -> None:
        """Send an answer."""
        if not self._writer.is_closing():
            self._writer.write(msg.answer_line(answer))

    async def drain(self) -> None:
        """Wait until the client can take more answers."""
        await self._writer.drain()

    @override
    def plan_started(self, plan: Plan) -> None:
        self.tell(msg.PlanStarted(plan=plan))

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        self.tell(msg.StepStarted(address=step.address))

    @override
    def step_progress(
        self, plan: Plan, address: str, done_bytes: int, total_bytes: int, rate_bytes_s: float
    ) -> None:
        self.tell(
            msg.StepProgress(
                address=address,
                done_bytes=done_bytes,
                total_bytes=total_bytes,
                rate_bytes_s=rate_bytes_s,
            )
        )

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        self.tell(msg.StepFinished(address=address, outcome=outcome))

    @override
    def recovery_started(self, plan: Plan, recovery: Recovery) -> None:
        self.tell(msg.RecoveryStarted(first=recovery.first))


def _view(supervisor: Keeping, pair: str) -> msg.PairView:
    status, measures = supervisor.status(pair), supervisor.measure(pair)
    silence, pauses = measures.silence, measures.checkpoint_pause
    return msg.PairView(
        pair=pair,
        want=status.want,
        paused=status.paused,
        are_monitors_free=status.are_monitors_free,
        phases=status.phases,
        epoch=None if status.record is None else status.record.epoch,
        standing=status.standing,
        primary=status.primary,
        checkpoint_delay_ms=status.checkpoint_delay_ms,
        is_protected=status.is_protected,
        person=status.person,
        checkpoints=sum(pauses.counts),
        pause_sum_s=pauses.sum_s,
        longest_s=max(silence.longest_question_s.values(), default=0.0),
        limit_s=silence.limits_s.get("stuck"),
        underway=supervisor.underway(pair),
    )

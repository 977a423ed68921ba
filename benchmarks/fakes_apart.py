"""Fakes in processes of their own, so that the process that keeps them works for nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import pickle
import socket
import time
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeAlias, TypeVar, final

import attrs

from benchmarks.compiling import declared
from benchmarks.fleet import TICK_S, set_delay, world_of
from pycolo.evidence import Evidence, Victim
from pycolo.facts import HostFacts, NoFacts, Part
from pycolo.hosts import HostState
from pycolo.model import ColoPair
from pycolo.model.node import Monitor
from pycolo.plan import HostAction, LaunchQemu
from pycolo.qmp.replies import Version
from pycolo.record import Change
from pycolo.session import open_monitor
from pycolo.supervise import _open_files

PROCESSES: Final = 2
_READY_S: Final = 60.0
_POLL_S: Final = 0.05
_LENGTH: Final = 4
# Two monitors of each node, as both ends and as listeners.
_FILES_PER_PAIR: Final = 16


@final
@attrs.frozen
class _Kill:
    """End the QEMU of a node of each pair; answered with the moment at which all had ended."""

    nodes: Sequence[tuple[str, str]]


@final
@attrs.frozen
class _Pace:
    """Have the checkpoints of the primary of each pair come that often."""

    nodes: Sequence[tuple[str, str]]
    delay_ms: int


@final
@attrs.frozen
class _Cpu:
    """Say how many seconds the processor has worked for the fakes."""


@final
@attrs.frozen
class _Ask:
    """Call a method of a node's host."""

    pair: str
    node: str
    method: str
    arguments: tuple[object, ...]
    limit_s: float


_Request: TypeAlias = _Kill | _Pace | _Cpu | _Ask
_T = TypeVar("_T")


def pairs_in(folder: Path, numbers: range) -> list[ColoPair]:
    """The declarations of some pairs, whose monitors are in a folder."""
    return [_pair(folder, number) for number in numbers]


def _pair(folder: Path, number: int) -> ColoPair:
    pair, name = declared(), f"pair{number}"
    nodes = [attrs.evolve(node, run_dir=f"{folder}/{name}/{node.name}") for node in pair.nodes]
    return attrs.evolve(pair, name=name, nodes=nodes)


# -- the process of the fakes ----------------------------------------------------------------------


@final
class _Fakes:
    """Some pairs, and what is asked of them."""

    def __init__(self, pairs: Sequence[ColoPair]) -> None:
        self._pairs = {pair.name: pair for pair in pairs}
        self._worlds = {pair.name: world_of(pair) for pair in pairs}
        for pair in pairs:
            self._worlds[pair.name].advance(time.monotonic())
            for node in pair.nodes:
                Path(str(node.run_dir)).mkdir(parents=True)

    async def tick(self) -> None:
        """Advance all clocks as real time passes, until cancelled."""
        while True:
            now_s = time.monotonic()
            for world in self._worlds.values():
                world.advance(now_s - world.now_s)
            await asyncio.sleep(TICK_S)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests, until the other end closes."""
        async with asyncio.TaskGroup() as group:
            with contextlib.suppress(asyncio.IncompleteReadError):
                while True:
                    number, request = await _received(reader)
                    group.create_task(self._reply(writer, number, request))

    async def _reply(self, writer: asyncio.StreamWriter, number: int, request: object) -> None:
        try:
            answer = await self._answer(request)
        except Exception as error:  # noqa: BLE001 - raised where it was asked
            answer = error
        _send(writer, number, answer)

    async def _answer(self, request: object) -> object:
        match request:
            case _Kill(nodes=nodes):
                for name, node in nodes:
                    self._worlds[name].qemu(node).kill()
                return time.perf_counter()
            case _Pace(nodes=nodes, delay_ms=delay_ms):
                for name, node in nodes:
                    set_delay(self._worlds[name], self._worlds[name].qemu(node), delay_ms)
                return None
            case _Cpu():
                return time.process_time()
            case _Ask():
                return await self._ask(request)
            case _:
                raise TypeError(f"{request!r} was received")

    async def _ask(self, request: _Ask) -> object:
        pair, world = self._pairs[request.pair], self._worlds[request.pair]
        ask = getattr(world.host(request.node), request.method)
        found: object = await ask(pair, *request.arguments, limit_s=request.limit_s)
        if any(isinstance(argument, LaunchQemu) for argument in request.arguments):
            await world.listen()
        return found


def _play(folder: Path, first: int, end: int) -> None:
    """Play some pairs until the process is killed."""
    asyncio.run(_played(folder, first, end))


async def _played(folder: Path, first: int, end: int) -> None:
    _open_files.allow((end - first) * _FILES_PER_PAIR // _open_files.PER_PAIR)
    fakes = _Fakes(pairs_in(folder, range(first, end)))
    await asyncio.start_unix_server(fakes.serve, _hosts_socket(folder, first))
    await fakes.tick()


def _hosts_socket(folder: Path, first: int) -> Path:
    return folder / f"hosts{first}"


# -- the process that keeps them -------------------------------------------------------------------


@final
class _Wire:
    """The connection to one process of fakes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._waiting: dict[int, asyncio.Future[object]] = {}
        self._count = 0

    async def ask(self, request: _Request) -> object:
        """Send a request, and wait for its answer."""
        self._count += 1
        answer = self._waiting[self._count] = asyncio.get_running_loop().create_future()
        _send(self._writer, self._count, request)
        return await answer

    async def listen(self) -> None:
        """Hand on the answers, until cancelled."""
        while True:
            number, answer = await _received(self._reader)
            waiting = self._waiting.pop(number)
            if waiting.done():
                continue
            if isinstance(answer, Exception):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)


@final
@attrs.frozen(eq=False)
class _FarHost:
    """The host of one node, in a process of fakes."""

    node: str
    wire: _Wire

    async def connect(self, node: str, monitor: Monitor) -> socket.socket:
        return await open_monitor(node, monitor)

    async def observe(self, pair: ColoPair, node: str, *, limit_s: float) -> HostState:
        return _checked(await self._ask("observe", pair, node, limit_s=limit_s), HostState)

    async def write(self, pair: ColoPair, node: str, change: Change, *, limit_s: float) -> None:
        await self._ask("write", pair, node, change, limit_s=limit_s)

    async def run(self, pair: ColoPair, node: str, action: HostAction, *, limit_s: float) -> str:
        return str(await self._ask("run", pair, node, action, limit_s=limit_s))

    async def death(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        found = await self._ask("death", pair, victim, limit_s=limit_s)
        return None if found is None else _checked(found, Evidence)

    async def ended(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        found = await self._ask("ended", pair, victim, limit_s=limit_s)
        return None if found is None else _checked(found, Evidence)

    async def version(self, pair: ColoPair, node: str, *, limit_s: float) -> Version:
        return _checked(await self._ask("version", pair, node, limit_s=limit_s), Version)

    async def facts(
        self,
        pair: ColoPair,  # noqa: ARG002 - a Host's
        node: str,  # noqa: ARG002 - a Host's
        parts: Collection[Part],  # noqa: ARG002 - a Host's
        *,
        limit_s: float,  # noqa: ARG002 - a Host's
    ) -> HostFacts | NoFacts:
        return HostFacts()

    async def aclose(self) -> None:
        pass

    async def _ask(self, method: str, pair: ColoPair, *arguments: object, limit_s: float) -> object:
        return await self.wire.ask(_Ask(pair.name, self.node, method, arguments, limit_s))


@final
@attrs.frozen(eq=False)
class Apart:
    """Pairs whose fakes are in other processes."""

    pairs: Sequence[ColoPair]
    _wires: dict[str, _Wire]
    "Pair name to the process that plays it."

    def hosts(self, pair: ColoPair) -> dict[str, _FarHost]:
        """Node name to its host."""
        return {node.name: _FarHost(node.name, self._wires[pair.name]) for node in pair.nodes}

    async def kill(self, nodes: Sequence[tuple[str, str]]) -> dict[str, float]:
        """End the QEMU of a node of each pair; gives the pair's name to when it had ended.

        Those that one process plays have ended before anybody can notice the first of them.
        """
        ended_s: dict[str, float] = {}

        async def kill(wire: _Wire) -> None:
            ours = [(name, node) for name, node in nodes if self._wires[name] is wire]
            at_s = _checked(await wire.ask(_Kill(ours)), float)
            ended_s.update(dict.fromkeys((name for name, _ in ours), at_s))

        await asyncio.gather(*map(kill, self._processes))
        return ended_s

    async def set_delay(self, primaries: Sequence[tuple[str, str]], delay_ms: int) -> None:
        """Have the checkpoints of the primary of each pair come that often."""
        for wire in self._processes:
            ours = [(name, node) for name, node in primaries if self._wires[name] is wire]
            await wire.ask(_Pace(ours, delay_ms))

    async def cpu_s(self) -> float:
        """How many seconds the processor has worked for the fakes until now."""
        return sum([_checked(await wire.ask(_Cpu()), float) for wire in self._processes])

    @property
    def _processes(self) -> Collection[_Wire]:
        return dict.fromkeys(self._wires.values())


@asynccontextmanager
async def apart(pairs: int) -> AsyncGenerator[Apart]:
    """Play so many pairs in other processes, which end with the block."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="colo")))
        wires: dict[str, _Wire] = {}
        declarations: list[ColoPair] = []
        bounds = [pairs * n // PROCESSES for n in range(PROCESSES + 1)]
        for first, end in itertools.pairwise(bounds):
            if first == end:
                continue
            wire = await _started(stack, folder, first, end)
            listening = asyncio.get_running_loop().create_task(wire.listen())
            stack.callback(listening.cancel)
            ours = pairs_in(folder, range(first, end))
            declarations += ours
            wires |= dict.fromkeys((pair.name for pair in ours), wire)
        yield Apart(declarations, wires)


async def _started(stack: contextlib.AsyncExitStack, folder: Path, first: int, end: int) -> _Wire:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_play, args=(folder, first, end), daemon=True)
    process.start()
    stack.callback(process.join)
    stack.callback(process.kill)
    path = _hosts_socket(folder, first)
    async with asyncio.timeout(_READY_S):
        while not path.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(_POLL_S)
        reader, writer = await asyncio.open_unix_connection(path)
    stack.callback(writer.close)
    return _Wire(reader, writer)


# -- the messages between them ---------------------------------------------------------------------


def _send(writer: asyncio.StreamWriter, number: int, message: object) -> None:
    data = pickle.dumps((number, message))
    writer.write(len(data).to_bytes(_LENGTH) + data)


async def _received(reader: asyncio.StreamReader) -> tuple[int, object]:
    length = int.from_bytes(await reader.readexactly(_LENGTH))
    number, message = pickle.loads(await reader.readexactly(length))  # noqa: S301 - our own process
    return number, message


def _checked(found: object, kind: type[_T]) -> _T:
    """What was received, if it is of the kind that belongs there.

    Raises:
        TypeError: It is not.
    """
    if isinstance(found, kind):
        return found
    raise TypeError(f"{found!r} was received")

"""An arbiter in memory, and the connections of its clients, which a test can break."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeVar, final

import attrs

from pycolo._mapping import read_only_mappings
from pycolo.errors import ArbiterLost, ArbiterOvertaken
from pycolo.evidence import Evidence
from pycolo.supervise.arbiter import Arbiter, Held
from pycolo.supervise.arbiters import checks
from pycolo.supervise.shared import SharedRecord

_R = TypeVar("_R")


@final
@attrs.frozen(field_transformer=read_only_mappings)
class _Pair:
    """What the arbiter holds for one pair."""

    revision: int = 0
    shared: SharedRecord | None = None
    until_s: Mapping[str, float] = attrs.field(factory=dict)
    "Node name to the time at which its lease runs out."
    ends: Mapping[str, Evidence] = attrs.field(factory=dict)

    def held(self, now_s: float) -> Held:
        leases = frozenset(node for node, until_s in self.until_s.items() if until_s > now_s)
        return Held(revision=self.revision, shared=self.shared, leases=leases, ends=self.ends)


@final
@attrs.frozen
class ArbiterBackup:
    """A copy of everything that a `FakeArbiter` held at one time."""

    pairs: Mapping[str, object]
    revision: int


@final
@attrs.define(eq=False)
class _Contents:
    """What the arbiter holds for all pairs, and the events of clients that wait for a change."""

    pairs: dict[str, _Pair] = attrs.field(factory=dict)
    revision: int = 0
    waiting: set[asyncio.Event] = attrs.field(factory=set)

    def pair(self, name: str) -> _Pair:
        return self.pairs.get(name, _Pair())

    def put(self, name: str, pair: _Pair) -> None:
        self.revision += 1
        self.pairs[name] = pair
        self.tell()

    def tell(self) -> None:
        for event in self.waiting:
            event.set()


@final
@attrs.define(eq=False)
class _Way:
    """The connection of one node to the arbiter, with the faults that a test has asked for."""

    is_cut: bool = False
    there_s: float = 0.0
    back_s: float = 0.0
    loses_answer: bool = False


@final
class FakeArbiter:
    """An arbiter in memory. Each node has its own connection to it, which a test can cut or delay.

    Leases run out by the clock of the running event loop.
    """

    def __init__(self) -> None:
        self._contents = _Contents()
        self._ways: dict[str, _Way] = {}

    def client(self, node: str) -> Arbiter:
        """The `Arbiter` for a node's agent, over the connection of that node.

        Args:
            node: The node.
        """
        return _Client(self._contents, self._way(node))

    def cut(self, node: str) -> None:
        """Lose all requests of a node, and all answers on their way to it, until `heal`.

        Args:
            node: The node.
        """
        self._way(node).is_cut = True
        self._contents.tell()

    def heal(self, node: str) -> None:
        """Undo `cut`, `delay` and `lose_answer` for a node.

        Args:
            node: The node.
        """
        way = self._way(node)
        way.is_cut = way.loses_answer = False
        way.there_s = way.back_s = 0.0

    def delay(self, node: str, *, there_s: float = 0.0, back_s: float = 0.0) -> None:
        """Delay the requests of a node and the answers to them.

        Args:
            node: The node.
            there_s: How long a request is on its way, in seconds. It is carried out even if the
                node has stopped waiting for the answer by then.
            back_s: How long an answer is on its way, in seconds.
        """
        way = self._way(node)
        way.there_s, way.back_s = there_s, back_s

    def lose_answer(self, node: str) -> None:
        """Lose the answer to the next `swap`, `renew`, `release` or `state` of a node.

        Args:
            node: The node.
        """
        self._way(node).loses_answer = True

    def backup(self) -> ArbiterBackup:
        """Copy everything that the arbiter holds, for `restore`."""
        return ArbiterBackup(dict(self._contents.pairs), self._contents.revision)

    def restore(self, backup: ArbiterBackup) -> None:
        """Go back to a backup, leases included; revisions given since then are given again.

        Args:
            backup: The value that `backup` returned.
        """
        pairs = {name: pair for name, pair in backup.pairs.items() if isinstance(pair, _Pair)}
        self._contents.pairs, self._contents.revision = pairs, backup.revision
        self._contents.tell()

    def _way(self, node: str) -> _Way:
        return self._ways.setdefault(node, _Way())


@final
class _Client:
    """An `Arbiter` over the connection of one node."""

    def __init__(self, contents: _Contents, way: _Way) -> None:
        self._contents = contents
        self._way = way
        self._is_closed = False

    async def identity(self, *, limit_s: float) -> str:
        return await self._ask("all", lambda: "fake:1", limit_s)

    async def read(self, pair: str, *, limit_s: float) -> Held:
        checks.check_pair(pair)
        return await self._ask(pair, lambda: self._held(pair), limit_s)

    async def swap(
        self,
        pair: str,
        held: Held,
        shared: SharedRecord,
        *,
        no_lease_of: str | None = None,
        limit_s: float,
    ) -> Held:
        checks.check_swap(pair, shared)

        def work() -> Held | ArbiterOvertaken:
            refusal = checks.overtaken(pair, self._held(pair), held, no_lease_of)
            if refusal is not None:
                return refusal
            revision = self._contents.revision + 1
            found = self._contents.pair(pair)
            self._contents.put(pair, attrs.evolve(found, revision=revision, shared=shared))
            return self._held(pair)

        answer = await self._ask(pair, work, limit_s, is_change=True)
        if isinstance(answer, ArbiterOvertaken):
            raise answer
        return answer

    async def renew(
        self, pair: str, node: str, instance: str, *, lease_s: float, limit_s: float
    ) -> bool:
        checks.check_lease(pair, node, lease_s)

        def work() -> bool:
            found = self._contents.pair(pair)
            if found.shared is None or not found.shared.may_renew(node, instance):
                return False
            until_s = {**found.until_s, node: _now_s() + lease_s}
            self._contents.put(pair, attrs.evolve(found, until_s=until_s))
            return True

        return await self._ask(pair, work, limit_s, is_change=True)

    async def release(self, pair: str, node: str, *, limit_s: float) -> None:
        checks.check_node(pair, node)

        def work() -> None:
            found = self._contents.pair(pair)
            until_s = {name: s for name, s in found.until_s.items() if name != node}
            self._contents.put(pair, attrs.evolve(found, until_s=until_s))

        await self._ask(pair, work, limit_s, is_change=True)

    async def state(self, pair: str, end: Evidence, *, limit_s: float) -> None:
        checks.check_node(pair, end.node)

        def work() -> None:
            found = self._contents.pair(pair)
            self._contents.put(pair, attrs.evolve(found, ends={**found.ends, end.node: end}))

        await self._ask(pair, work, limit_s, is_change=True)

    async def changed(self, pair: str, held: Held, *, limit_s: float) -> Held:
        end_s = _now_s() + limit_s
        news = asyncio.Event()
        self._contents.waiting.add(news)
        try:
            while True:
                news.clear()
                current = await self.read(pair, limit_s=end_s - _now_s())
                if current != held:
                    return current
                # A lease that has run out or was released since the read is a change: then this
                # does not wait.
                until_s = self._contents.pair(pair).until_s
                await _wait(news, min([end_s, *(until_s.get(n, 0.0) for n in current.leases)]))
                if _now_s() >= end_s:
                    return current
        finally:
            self._contents.waiting.remove(news)

    async def aclose(self) -> None:
        self._is_closed = True

    # -- the connection

    async def _ask(
        self, pair: str, work: Callable[[], _R], limit_s: float, *, is_change: bool = False
    ) -> _R:
        if self._is_closed:
            raise ArbiterLost(pair, "this way to it was closed")
        loop, way = asyncio.get_running_loop(), self._way
        answer: asyncio.Future[_R] = loop.create_future()

        def arrive() -> None:
            if way.is_cut:
                return
            result = work()
            if is_change and way.loses_answer:
                way.loses_answer = False
            else:
                loop.call_later(way.back_s, deliver, result)

        def deliver(result: _R) -> None:
            if not way.is_cut and not answer.done():
                answer.set_result(result)

        loop.call_later(way.there_s, arrive)
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except TimeoutError as error:
            raise ArbiterLost(pair, f"no answer within {limit_s:g} s") from error

    def _held(self, pair: str) -> Held:
        return self._contents.pair(pair).held(_now_s())


async def _wait(news: asyncio.Event, until_s: float) -> None:
    """Wait until the event is set, or until a time of the event loop's clock."""
    try:
        async with asyncio.timeout_at(until_s):
            await news.wait()
    except TimeoutError:
        pass


def _now_s() -> float:
    return asyncio.get_running_loop().time()

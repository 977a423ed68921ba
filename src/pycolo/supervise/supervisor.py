"""A supervisor: it keeps pairs as they are wanted, without an operator."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Final, Self, final

from typing_extensions import override

from pycolo._printable import brief
from pycolo.errors import DeclarationError
from pycolo.hosts import Host
from pycolo.model import ColoPair
from pycolo.observers import Observer
from pycolo.qmp.replies import Version
from pycolo.session import SchemaCache
from pycolo.supervise._authority import Authority, FilesAuthority
from pycolo.supervise._events import PairStatus, SupervisorEvent
from pycolo.supervise._keeper import Keeper
from pycolo.supervise._measures import Measures, Tally
from pycolo.supervise.store import Store

RESYNCS: Final = 2
_AGAIN_S: Final = 1.0
_KEPT: Final = 1000
_LOG: Final = logging.getLogger("pycolo.supervise")


class Keeping:
    """Keeps pairs, each by an authority of its own: what `Supervisor` and `Agent` have in common.

    An async context manager, entered once; it keeps the pairs while the block lasts.
    """

    def __init__(
        self,
        pairs: Sequence[ColoPair],
        hosts: Mapping[str, Mapping[str, Host]],
        authorities: Mapping[str, Authority],
        *,
        observer: Observer | None,
        resyncs: int,
        assume_good: Collection[Version],
    ) -> None:
        """Take the pairs; errors as `Supervisor`."""
        names = [pair.name for pair in pairs]
        if len(set(names)) != len(names):
            raise DeclarationError("pairs", names, "have each name once")
        self._pairs = tuple(pairs)
        self._hosts = hosts
        self._authorities = authorities
        self._observer = observer
        self._assume_good = tuple(assume_good)
        self._turns = asyncio.Semaphore(resyncs)
        self._schemas = SchemaCache()
        self._listeners: dict[object, asyncio.Queue[SupervisorEvent]] = {}
        self._stack = contextlib.AsyncExitStack()
        self._tallies = {name: Tally(pair=name, clock=_now_s) for name in names}
        # What is wrong with a declaration is said before anything is kept.
        self._keepers = {pair.name: self._keeper(pair) for pair in self._pairs}

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            await self._enter(stack)
            for pair in self._pairs:
                stack.push_async_callback(_ended, asyncio.create_task(self._keep(pair)))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def statuses(self) -> tuple[PairStatus, ...]:
        """How each pair stands now, in the order in which they were given."""
        return tuple(keeper.status for keeper in self._keepers.values())

    @property
    def measures(self) -> tuple[Measures, ...]:
        """What was counted and timed of each pair since the supervisor was made."""
        found = [(self._tallies[name], one.silence) for name, one in self._keepers.items()]
        return tuple(tally.measures(silence) for tally, silence in found)

    async def events(self) -> AsyncGenerator[SupervisorEvent]:
        """What happens from the first read on, as it happens; ends when it is closed.

        At most a thousand events wait for a slow reader; then the oldest ones are dropped.
        """
        queue: asyncio.Queue[SupervisorEvent] = asyncio.Queue(_KEPT)
        key = object()
        self._listeners[key] = queue
        try:
            while True:
                yield await queue.get()
        finally:
            del self._listeners[key]

    def _tell(self, event: SupervisorEvent) -> None:
        for queue in self._listeners.values():
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    def _keeper(self, pair: ColoPair) -> Keeper:
        return Keeper(
            pair,
            self._hosts.get(pair.name, {}),
            self._authorities[pair.name],
            self._tell,
            tally=self._tallies[pair.name],
            observer=self._observer,
            resyncs=self._turns,
            schemas=self._schemas,
            assume_good=self._assume_good,
        )

    async def _enter(self, stack: contextlib.AsyncExitStack) -> None:
        """Take what the authorities need while the pairs are kept."""

    async def _keep(self, pair: ColoPair) -> None:
        """Keep one pair, whatever goes wrong: whoever fails is started anew, and looks again."""
        while True:
            try:
                await self._keepers[pair.name].run()
            except Exception as error:  # noqa: BLE001 - as the next line says
                # Nobody waits for this task: whatever ended it would leave the pair unprotected.
                _LOG.exception("what kept %s has failed", pair.name)
                text = f"what kept the pair has failed, and begins anew: {brief(str(error))}"
                self._tell(SupervisorEvent(pair=pair.name, kind="person", text=text))
            await asyncio.sleep(_AGAIN_S)
            self._keepers[pair.name] = self._keeper(pair)


@final
class Supervisor(Keeping):
    """Keeps pairs protected: notices that a QEMU has ended, fails over, and makes a new secondary.

    An async context manager, entered once; it keeps the pairs while the block lasts. QEMUs keep
    running after the block, and the next supervisor continues from what it finds. It must reach the
    hosts of all nodes, and be the only supervisor of its pairs: with one store `Store.alone`
    ensures that.

    Args:
        pairs: The declarations; each name once.
        hosts: Pair name to node name to its host, spares included; not closed by it.
        store: What is wanted of each pair; read about once a second, since other processes may
            change it.
        observer: Is called with what every execution does; None for none.
        resyncs: How many resyncs may run at once, 1 or more. A failover never waits for one.
        assume_good: QEMU versions that the operator vouches for.

    Raises:
        DeclarationError: Two pairs have one name, or a node has no host.
    """

    def __init__(
        self,
        pairs: Sequence[ColoPair],
        hosts: Mapping[str, Mapping[str, Host]],
        store: Store,
        *,
        observer: Observer | None = None,
        resyncs: int = RESYNCS,
        assume_good: Collection[Version] = (),
    ) -> None:
        self._store = store
        super().__init__(
            pairs,
            hosts,
            {pair.name: FilesAuthority(pair.name, store) for pair in pairs},
            observer=observer,
            resyncs=resyncs,
            assume_good=assume_good,
        )

    @override
    async def _enter(self, stack: contextlib.AsyncExitStack) -> None:
        for pair in self._pairs:
            stack.enter_context(self._store.alone(pair.name))


def _now_s() -> float:
    return asyncio.get_running_loop().time()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))

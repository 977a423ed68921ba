"""A supervisor, which keeps pairs as they are wanted without an operator."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping, Sequence
from typing import ClassVar, Final, Self, final

from typing_extensions import override

from pycolo._printable import brief
from pycolo.controller import check_hosts
from pycolo.errors import DeclarationError, StoreError, compile_error
from pycolo.evidence import Evidence
from pycolo.hosts import Host
from pycolo.model import ColoPair
from pycolo.observers import Observer, Several
from pycolo.pace import Checkpoint
from pycolo.plan import Options, Procedure
from pycolo.qmp.replies import Version
from pycolo.result import Report
from pycolo.session import SchemaCache
from pycolo.supervise import _open_files
from pycolo.supervise._authority import Authority, FilesAuthority
from pycolo.supervise._beat import Beat
from pycolo.supervise._events import PairStatus, SupervisorEvent
from pycolo.supervise._keeper import Keeper
from pycolo.supervise._measures import Measures, Tally
from pycolo.supervise._outages import Outages
from pycolo.supervise._streams import Stream
from pycolo.supervise._underway import Following, Underway
from pycolo.supervise.fences import FenceDevice, fences_of
from pycolo.supervise.store import Store

RESYNCS: Final = 2
_AGAIN_S: Final = 1.0
_FOLLOW_S: Final = 1.0
_AT_ONCE: Final = 16
_BEGIN_S: Final = 1.0
_LOG: Final = logging.getLogger("pycolo.supervise")


class Keeping:
    """The common base of `Supervisor` and `Agent`: keeps pairs, each by a keeper.

    The two differ in where a pair's record is, and so in the `Authority` of each pair.

    An async context manager, entered once; it keeps the pairs while the block lasts.
    """

    on_request: ClassVar[tuple[Procedure, ...]] = (
        "switch-over",
        "checkpoint",
        "shutdown",
        "set-checkpoint-delay",
    )
    "The procedures that are executed on request; all others are executed without one, or not."

    def __init__(
        self,
        pairs: Sequence[ColoPair],
        hosts: Mapping[str, Mapping[str, Host]],
        authorities: Mapping[str, Authority],
        *,
        fences: Mapping[str, Mapping[str, Sequence[FenceDevice]]] | None,
        observer: Observer | None,
        resyncs: int,
        assume_good: Collection[Version],
    ) -> None:
        """Make a keeper for each pair; arguments and errors as those of `Supervisor`.

        `authorities` gives the authority of each pair by the pair's name.
        """
        names = [pair.name for pair in pairs]
        if len(set(names)) != len(names):
            raise DeclarationError("pairs", names, "have each name once")
        if resyncs < 1:
            raise DeclarationError("resyncs", resyncs, "be 1 or more")
        given = fences or {}
        strangers = sorted(given.keys() - set(names))
        if strangers:
            rule = f"be for a pair of {', '.join(names)}"
            raise DeclarationError(f"fences[{strangers[0]}]", strangers[0], rule)
        self._fences = {pair.name: fences_of(pair, given.get(pair.name, {})) for pair in pairs}
        self._hosts = dict(hosts)
        self._authorities = dict(authorities)
        self._observer = observer
        self._assume_good = tuple(assume_good)
        self._turns = asyncio.Semaphore(resyncs)
        self._schemas = SchemaCache()
        self._beat = Beat()
        self._outages = Outages(clock=_now_s)
        self._events: Stream[SupervisorEvent] = Stream()
        self._stack = contextlib.AsyncExitStack()
        self._tallies = {name: Tally(pair=name, clock=_now_s) for name in names}
        self._following = {name: Following() for name in names}
        # An error in a declaration is raised here, before any pair is kept.
        self._keepers = {pair.name: self._keeper(pair) for pair in pairs}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_entered = False
        self._on_pairs: list[Callable[[], None]] = []

    async def __aenter__(self) -> Self:
        _open_files.check(len(self._keepers))
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._end_authorities)
            for authority in self._authorities.values():
                authority.begin()
            await self._enter(stack)
            stack.push_async_callback(self._end_all)
            stack.push_async_callback(_ended, asyncio.create_task(self._begin_all()))
            self._stack = stack.pop_all()
        self._is_entered = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_entered = False
        await self._stack.aclose()

    @property
    def pairs(self) -> tuple[ColoPair, ...]:
        """The declarations, in the order in which they were given."""
        return tuple(keeper.pair for keeper in self._keepers.values())

    @contextlib.contextmanager
    def watching_pairs(self, call: Callable[[], None]) -> Generator[None]:
        """Call a function after each change of `pairs`, while the block lasts.

        Args:
            call: Must be quick and must not raise.
        """
        self._on_pairs.append(call)
        try:
            yield
        finally:
            self._on_pairs.remove(call)

    @property
    def statuses(self) -> tuple[PairStatus, ...]:
        """The status of each pair, in the order in which the pairs were given.

        As of the supervisor's last observation of the pair; no QEMU is asked.
        """
        return tuple(keeper.status for keeper in self._keepers.values())

    @property
    def measures(self) -> tuple[Measures, ...]:
        """The measures of each pair since this object was made, in the order of the pairs."""
        return tuple(self.measure(name) for name in self._keepers)

    async def events(self) -> AsyncGenerator[SupervisorEvent]:
        """Yield each event from the first read on, until the generator is closed.

        At most a thousand events wait for a slow reader; then the oldest ones are dropped.
        """
        async with contextlib.aclosing(self._events.listen()) as events:
            async for event in events:
                yield event

    # -- one pair

    def status(self, pair: str) -> PairStatus:
        """The status of a pair, as of the supervisor's last observation of it; no QEMU is asked.

        Before the first observation, `phases` is empty, and `standing` and `record` are None.

        Args:
            pair: The pair's name.

        Raises:
            DeclarationError: The supervisor has no such pair.
        """
        return self._kept_by(pair).status

    def underway(self, pair: str) -> Underway | None:
        """The progress of the plan that is executed for a pair; None if none is executed.

        Args:
            pair: The pair's name.

        Raises:
            DeclarationError: The supervisor has no such pair.
        """
        self._kept_by(pair)
        return self._following[pair].underway

    def measure(self, pair: str) -> Measures:
        """The measures of a pair since this object was made.

        Args:
            pair: The pair's name.

        Raises:
            DeclarationError: The supervisor has no such pair.
        """
        keeper = self._kept_by(pair)
        return self._tallies[pair].measures(
            keeper.silence, self._following[pair].underway, is_queued=keeper.is_queued
        )

    def checkpoints(self, pair: str) -> AsyncGenerator[Checkpoint]:
        """The checkpoints of a pair, each as it ends, until the generator is closed.

        At most a thousand wait for a slow reader; then the oldest ones are dropped.

        Args:
            pair: The pair's name.

        Raises:
            DeclarationError: The supervisor has no such pair.
        """
        self._kept_by(pair)
        return self._tallies[pair].checkpoints.listen()

    async def switch_over(self, pair: str, *, observer: Observer | None = None) -> Report:
        """Move the guest to its secondary on purpose; then the old primary becomes a new secondary.

        No write is lost. The agent of either node may be asked. Like every procedure on request,
        this one is finished even if the caller is cancelled meanwhile.

        Args:
            pair: The pair's name.
            observer: Is called with what the execution does, as is the supervisor's own observer;
                None for none.

        Returns:
            What came of each step. A step that failed is in the report and is not raised.

        Raises:
            RefusedError: The procedure is not begun: the pair is not protected, its supervision is
                paused, or other work on it comes first. For an agent also: its node is a spare, the
                arbiter gives no answer, or the agent of the secondary does not renew its lease.
                Nothing was changed.
            CommandUnknown: The supervisor or agent has ended meanwhile: it is not known what was
                done.
            DeclarationError: The supervisor has no such pair.
        """
        return await self.perform(pair, "switch-over", observer=observer)

    async def checkpoint(self, pair: str, *, observer: Observer | None = None) -> Report:
        """Force a checkpoint, and wait until it is seen on both nodes.

        Args:
            pair: The pair's name.
            observer: Is called with what the execution does; None for none.

        Returns:
            What came of each step. A step that failed is in the report and is not raised.

        Raises:
            RefusedError: The procedure is not begun: the pair cannot make one, its supervision is
                paused (an agent makes one all the same), or other work on it comes first. For an
                agent also: its node does not have the guest. Nothing was changed.
            CommandUnknown: The supervisor or agent has ended meanwhile: it is not known what was
                done.
            DeclarationError: There is no such pair.
        """
        return await self.perform(pair, "checkpoint", observer=observer)

    async def shutdown(self, pair: str, *, observer: Observer | None = None) -> Report:
        """Have the guest shut itself down, and keep it off.

        Once the guest is off, the supervisor writes into its store that no guest is wanted, or an
        agent into the arbiter. To boot the guest again, change that with `Store.want`, or
        `pycolo.supervise.wishes.set_want`.

        Args:
            pair: The pair's name.
            observer: Is called with what the execution does; None for none.

        Returns:
            What came of each step. A step that failed is in the report and is not raised.

        Raises:
            RefusedError: The procedure is not begun: there is no safe way, the pair's supervision
                is paused, or other work on it comes first. For an agent also: its node does not
                have the guest. Nothing was changed.
            CommandUnknown: The supervisor or agent has ended meanwhile: it is not known what was
                done.
            DeclarationError: There is no such pair.
        """
        return await self.perform(pair, "shutdown", observer=observer)

    async def move(self, pair: str, to: str, *, observer: Observer | None = None) -> Report:
        """Have a spare take the place of the secondary, while the guest runs.

        The secondary loses its rights, then its QEMU is ended, and the guest runs alone until the
        spare protects it: that is for as long as a resync takes. If the spare cannot, a secondary
        is launched where it can be. The move is stored before: if this object ends meanwhile, the
        next one carries it on, or reports that it was not begun. It ends once another state than
        `protected` is wanted. An agent does this only if its node has the guest.

        Args:
            pair: The pair's name.
            to: The spare.
            observer: Is called with what the execution does; None for none.

        Returns:
            What came of each step of the plan that ends the secondary. A step that failed is in the
            report and is not raised. What follows is shown by `events` and `status`.

        Raises:
            RefusedError: It is not begun: `to` is no spare or its host gives no answer, the pair is
                not protected, its supervision is paused, or other work on it comes first. For an
                agent also: its node does not have the guest, or the arbiter has not stored the
                move. Nothing was changed.
            CommandUnknown: The supervisor or agent has ended meanwhile: it is not known what was
                done.
            StoreError: The supervisor's store cannot be written. Nothing was changed.
            DeclarationError: There is no such pair, or the pair has no such node.
        """
        return await self._kept_by(pair).move(to, observer)

    async def perform(
        self,
        pair: str,
        procedure: Procedure,
        *,
        options: Options | None = None,
        observer: Observer | None = None,
    ) -> Report:
        """Execute a procedure of `on_request`.

        Args:
            pair: The pair's name.
            procedure: The procedure, one of `on_request`.
            options: The options of the procedure; the defaults if None.
            observer: Is called with what the execution does; None for none.

        Returns:
            What came of each step. A step that failed is in the report and is not raised.

        Raises:
            RefusedError: The procedure is not begun: there is no safe way, the pair's supervision
                is paused, or other work on it comes first. Nothing was changed.
            CommandUnknown: The supervisor or agent has ended meanwhile: it is not known what was
                done.
            DeclarationError: There is no such pair, this is not done on request, or an
                option breaks its rule.
        """
        if procedure not in self.on_request:
            raise DeclarationError(
                "procedure", procedure, f"be one of {', '.join(self.on_request)}"
            )
        return await self._kept_by(pair).perform(procedure, options or Options(), observer)

    async def state_fence(
        self, pair: str, node: str, *, who: str, how: str, instance: str | None = None
    ) -> Evidence:
        """Accept a person's statement that a QEMU has ended and cannot run any more.

        The statement has the effect of a fence that succeeded. An agent acts for its own node only:
        make the statement to the agent of the node that is left.

        Args:
            pair: The pair's name.
            node: The node on which the QEMU ran.
            who: Who made sure that it has ended.
            how: How that person made sure, such as `power switched off` or `host rebooted`.
            instance: The identity of the QEMU; None for the one that the record names.

        Returns:
            The evidence that is used from now on.

        Raises:
            RefusedError: The QEMU still accepts connections or makes checkpoints, the record names
                no such QEMU, or the pair's supervision is paused. Nothing was changed.
            DeclarationError: There is no such pair, the pair no such node, or `who` or
                `how` is empty or not printable.
        """
        return await self._kept_by(pair).state_fence(node, instance, who=who, how=how)

    # -- other pairs

    def _add(
        self,
        pair: ColoPair,
        hosts: Mapping[str, Host],
        fences: Mapping[str, Sequence[FenceDevice]] | None,
        authority: Authority,
    ) -> None:
        """Keep one more pair from now on; errors as those of `Supervisor.add`.

        Args:
            pair: The declaration.
            hosts: Node name to its host, spares included.
            fences: Node name to the fences of that node.
            authority: The authority of the pair, which was not begun.
        """
        name = pair.name
        if name in self._keepers:
            raise DeclarationError("pair", name, "be a name that is not kept here yet")
        _open_files.check(len(self._keepers) + 1)
        check_hosts(pair, hosts)
        devices = fences_of(pair, fences or {})
        if self._is_entered:
            authority.begin()
        self._hosts[name], self._fences[name] = hosts, devices
        self._authorities[name] = authority
        self._tallies[name] = Tally(pair=name, clock=_now_s)
        self._following[name] = Following()
        self._keepers[name] = self._keeper(pair)
        self._tell_pairs()
        if self._is_entered:
            self._begin(name)

    async def remove(self, pair: str) -> None:
        """Keep a pair no more; its QEMUs keep running, and what is wanted of it stays stored.

        To have its QEMUs end, want `stopped` first, and wait until they have ended. An agent keeps
        a pair as long as its host's fuse guards the node's QEMU: want `unprotected` first, and wait
        until its status says `alone`.

        Args:
            pair: The pair's name.

        Raises:
            RefusedError: A plan is executed for the pair, or, for an agent, the fuse would stop the
                node's QEMU. Nothing was changed.
            DeclarationError: There is no such pair.
        """
        self._kept_by(pair).refuse_acting()
        authority = self._authorities[pair]
        if authority.hinders_removal:
            remedy = "have the guest run alone first, by `pycolo want unprotected` with --agent"
            raise compile_error("fuse-armed", authority.hinders_removal, remedy)
        del self._keepers[pair]
        self._tell_pairs()
        await self._end(pair)
        await authority.end()
        if pair in self._keepers:
            # It was added again meanwhile.
            return
        for known in (self._hosts, self._fences, self._authorities, self._tallies, self._following):
            known.pop(pair, None)

    async def _change(
        self,
        pair: ColoPair,
        hosts: Mapping[str, Host],
        fences: Mapping[str, Sequence[FenceDevice]] | None,
        authority: Authority | None,
    ) -> None:
        """Keep a pair by another declaration from now on; errors as those of `Supervisor.change`.

        Args:
            pair: The declaration.
            hosts: Node name to its host, spares included.
            fences: Node name to the fences of that node.
            authority: The authority of the pair by this declaration, which was not begun; None to
                keep the present one.
        """
        name = pair.name
        keeper = self._kept_by(name)
        keeper.refuse_acting()
        check_hosts(pair, hosts)
        record = keeper.status.record
        lacking = sorted((frozenset() if record is None else record.named) - set(pair.names))
        if lacking:
            rule = f"have {lacking[0]}, which the record of {name} names"
            raise DeclarationError("pair.nodes", list(pair.names), rule)
        devices, before = fences_of(pair, fences or {}), self._authorities[name]
        self._hosts[name], self._fences[name] = hosts, devices
        self._authorities[name] = authority or before
        self._keepers[name] = self._keeper(pair)
        self._tell_pairs()
        is_begun = name in self._tasks
        await self._end(name)
        if authority is not None:
            await before.end()
        if not self._is_entered or name not in self._keepers:
            return
        self._authorities[name].begin()
        if is_begun:
            self._begin(name)

    def _kept_by(self, pair: str) -> Keeper:
        if pair not in self._keepers:
            raise DeclarationError("pair", pair, f"be one of {', '.join(self._keepers)}")
        return self._keepers[pair]

    def _tell_pairs(self) -> None:
        for call in self._on_pairs:
            call()

    def _tell(self, event: SupervisorEvent) -> None:
        self._events.tell(event)

    def _keeper(self, pair: ColoPair) -> Keeper:
        following = self._following[pair.name]
        told: tuple[Observer, ...] = (following, self._outages)
        if self._observer is not None:
            told += (self._observer,)
        return Keeper(
            pair,
            self._hosts.get(pair.name, {}),
            self._fences[pair.name],
            self._authorities[pair.name],
            self._tell,
            beat=self._beat,
            tally=self._tallies[pair.name],
            outages=self._outages,
            observer=Several(told),
            resyncs=self._turns,
            schemas=self._schemas,
            assume_good=self._assume_good,
        )

    async def _enter(self, stack: contextlib.AsyncExitStack) -> None:
        """Enter what is needed while the pairs are kept; nothing unless overridden.

        Args:
            stack: Takes each context manager and callback; closed after the keepers have ended.
        """

    async def _begin_all(self) -> None:
        """Begin to keep all pairs; a few at a time, and fewer while this process is late.

        With a thousand at once, each answer would come so late that limits pass.
        """
        places = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for name in tuple(self._keepers):
                await places.acquire()
                await self._beat.wait_on_time(_BEGIN_S)
                if name not in self._keepers:
                    # The pair was removed meanwhile.
                    places.release()
                    continue
                self._begin(name)
                group.create_task(self._leave(places, self._keepers[name]))

    def _begin(self, name: str) -> None:
        """Begin to keep a pair, unless that was begun."""
        if name not in self._tasks:
            self._tasks[name] = asyncio.create_task(self._keep(self._keepers[name].pair))

    async def _end(self, name: str) -> None:
        """End the keeper of a pair, and wait for it; QEMUs keep running."""
        task = self._tasks.pop(name, None)
        if task is not None:
            await _ended(task)

    async def _end_all(self) -> None:
        await asyncio.gather(*map(self._end, tuple(self._tasks)))

    async def _end_authorities(self) -> None:
        await asyncio.gather(*(one.end() for one in tuple(self._authorities.values())))

    async def _leave(self, places: asyncio.Semaphore, keeper: Keeper) -> None:
        """Let the next pair begin once this one has, or after a second, as with a dead host.

        A time in which this process was late does not count, so that fewer begin while it is busy.

        Args:
            places: Limits how many pairs begin at once.
            keeper: The keeper of this pair.
        """
        until_s = self._beat.now_s() + _BEGIN_S
        while not keeper.begun.is_set() and (left_s := until_s - self._beat.now_s()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await keeper.begun.wait()
        places.release()

    async def _keep(self, pair: ColoPair) -> None:
        """Run the keeper of one pair; report an error it raises, and start a new keeper."""
        while True:
            try:
                await self._keepers[pair.name].run()
            except Exception as error:  # noqa: BLE001 - as the next line says
                # Nobody awaits this task: if it stayed ended, the pair would be left unprotected.
                _LOG.exception("the keeper of %s failed", pair.name)
                what = f"the keeper of the pair failed and is started again: {brief(str(error))}"
                text = f"{what}; report this as a defect, with the log of that moment"
                self._tell(SupervisorEvent(pair=pair.name, kind="person", text=text))
            await asyncio.sleep(_AGAIN_S)
            self._keepers[pair.name] = self._keeper(pair)


@final
class Supervisor(Keeping):
    """Keeps pairs protected: notices that a QEMU has ended, fails over, and makes a new secondary.

    An async context manager, entered once; it keeps the pairs while the block lasts. QEMUs keep
    running after the block, and the next supervisor continues from what it finds. A supervisor must
    reach the hosts of all nodes, and be the only one for its pairs. Among supervisors that use the
    same store, `Store.alone` ensures this.

    Args:
        pairs: The declarations; each name once.
        hosts: Pair name to node name to its host, spares included. They are not closed.
        store: What is wanted of each pair; read about once a second, since other processes may
            change it.
        fences: Pair name to node name to the fences of that node. They are tried in their order,
            after the node's host was asked and the fences of the pair file have failed.
        observer: Is called with what every execution does; None for none.
        resyncs: How many resyncs may run at once, 1 or more. A failover never waits for one.
        assume_good: QEMU versions that the operator vouches for.

    Raises:
        DeclarationError: Two pairs have one name, a node has no host, `fences` names a pair or node
            that there is not, a fence breaks a rule of `FenceDevice`, or `resyncs` is below 1. When
            the supervisor is entered: there are more pairs than this process may have files open
            for.
        StoreError: When the supervisor is entered: another supervisor with this store keeps one of
            the pairs, or the lock of a pair cannot be made.
    """

    def __init__(
        self,
        pairs: Sequence[ColoPair],
        hosts: Mapping[str, Mapping[str, Host]],
        store: Store,
        *,
        fences: Mapping[str, Mapping[str, Sequence[FenceDevice]]] | None = None,
        observer: Observer | None = None,
        resyncs: int = RESYNCS,
        assume_good: Collection[Version] = (),
    ) -> None:
        self._store = store
        super().__init__(
            pairs,
            hosts,
            {pair.name: FilesAuthority(pair.name, store) for pair in pairs},
            fences=fences,
            observer=observer,
            resyncs=resyncs,
            assume_good=assume_good,
        )

    @override
    async def _enter(self, stack: contextlib.AsyncExitStack) -> None:
        following = asyncio.create_task(self._follow_store())
        stack.push_async_callback(_ended, following)

    async def _follow_store(self) -> None:
        """Wake every keeper each time the store was changed or cannot be read."""
        known = self._store_version()
        while True:
            await asyncio.sleep(_FOLLOW_S)
            version = self._store_version()
            if version is None or version != known:
                # Each keeper reads the wish of its pair, and tells it if that cannot be read.
                for keeper in self._keepers.values():
                    keeper.wake()
            known = version

    def _store_version(self) -> tuple[int, int] | None:
        try:
            return self._store.version
        except StoreError:
            return None

    # -- other pairs

    def add(
        self,
        pair: ColoPair,
        hosts: Mapping[str, Host],
        *,
        fences: Mapping[str, Sequence[FenceDevice]] | None = None,
    ) -> None:
        """Keep one more pair from now on.

        Args:
            pair: The declaration.
            hosts: Node name to its host, spares included. They are not closed.
            fences: Node name to the fences of that node, as for a `Supervisor`.

        Raises:
            DeclarationError: The supervisor has a pair of this name, a node has no host, `fences`
                names no node of the pair or a fence breaks a rule, or there are more pairs than
                this process may have files open for. Nothing was changed.
            StoreError: Another supervisor with this store keeps the pair, or its lock cannot be
                made. Nothing was changed.
        """
        self._add(pair, hosts, fences, FilesAuthority(pair.name, self._store))

    async def change(
        self,
        pair: ColoPair,
        hosts: Mapping[str, Host],
        *,
        fences: Mapping[str, Sequence[FenceDevice]] | None = None,
    ) -> None:
        """Keep a pair by another declaration from now on, such as one with another spare.

        No QEMU is changed by that: each value takes effect when it is used next, as after a restart
        of the supervisor. The hosts that were given before are not used any more once this returns.

        Args:
            pair: The declaration; its name is that of a pair which the supervisor has.
            hosts: Node name to its host, spares included. They are not closed.
            fences: Node name to the fences of that node; they replace those that were given before.

        Raises:
            RefusedError: A plan is executed for the pair. Nothing was changed.
            DeclarationError: The supervisor has no such pair, a node has no host, `fences` names no
                node of the pair or a fence breaks a rule, or the declaration lacks a node that the
                pair's record names. Nothing was changed.
        """
        await self._change(pair, hosts, fences, None)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))

"""Watching the QEMUs of one pair: each is asked again and again, and its end is waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Final, TypeVar, final

from pycolo.controller import PairController
from pycolo.errors import ParseError, RemoteError
from pycolo.evidence import Evidence, Victim, node_of
from pycolo.hosts import Host
from pycolo.model import ColoPair
from pycolo.qmp.commands import QueryStatus, Yank
from pycolo.session import HungUp, Notice, Sent, Session
from pycolo.snapshot import Snapshot, role_of
from pycolo.supervise._eyes import Eyes

_R = TypeVar("_R")
DRAIN_S: Final = 0.05
"How long the last words of a QEMU that has ended may take: a guest that shut down says so."
_WATCH_S: Final = 30.0
_UNKNOWN_S: Final = 1.0
_REACH_S: Final = 2.0


@final
class Senses:
    """What is seen of one pair's QEMUs.

    Args:
        pair: The declaration.
        hosts: Node name to its host.
        wake: Is called whenever something was seen; must be quick and must not raise.
    """

    def __init__(self, pair: ColoPair, hosts: Mapping[str, Host], wake: Callable[[], None]) -> None:
        self._pair = pair
        self._hosts = hosts
        self._wake = wake
        self._interval_s = pair.supervision.silent_s / 2
        self._gone: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._sessions: dict[str, Session] = {}
        self._links = frozenset(disk.names.nbd for disk in pair.disks)
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.eyes: dict[str, Eyes] = {}
        "What is seen of each node."
        self.ended: dict[str, Evidence] = {}
        "The QEMUs that are shown to have ended, by identity."

    def hear(self, node: str, notice: Notice) -> None:
        """Take note of an event, or of the end of a connection."""
        self._eyes(node).hear(notice, self._now_s())
        if isinstance(notice, HungUp):
            self._gone[node].set()
        self._wake()

    def session(self, node: str) -> Session | None:
        """The session over which a node was asked last; None where it never was."""
        return self._sessions.get(node)

    def has_lost_replication(self, primary: str) -> bool:
        """Whether the other node no longer gets a primary's writes."""
        return not self._links.isdisjoint(self._bad(primary))

    def has_lost_disk(self, primary: str) -> bool:
        """Whether a disk of a primary's own refused a write that the other node has."""
        return not self._links.issuperset(self._bad(primary))

    def _bad(self, node: str) -> frozenset[str]:
        """The children of its quorums that a node in COLO has reported."""
        session = self._sessions.get(node)
        if session is None or self._eyes(node).qemu != "colo":
            return frozenset()
        return frozenset(session.latched.quorum_bad)

    def look(self, controller: PairController, snapshot: Snapshot, named: Collection[str]) -> None:
        """Take note of what a look has shown, and watch those QEMUs from here on.

        Args:
            controller: Who holds the sessions.
            snapshot: What was seen.
            named: The QEMUs whose end matters.
        """
        for node in self._pair.names:
            live = snapshot.live(node)
            if live is not None and live.instance != self._eyes(node).instance:
                self.eyes[node] = Eyes(instance=live.instance)
            self._eyes(node).show(role_of(snapshot.state(node)), self._now_s())
        wanted = {("ask", eyes.instance) for eyes in self.eyes.values() if eyes.instance}
        wanted |= {("watch", instance) for instance in named if instance not in self.ended}
        for key in tuple(self._tasks):
            if key not in wanted or self._tasks[key].done():
                self._tasks.pop(key).cancel()
        for kind, instance in wanted - self._tasks.keys():
            is_ask = kind == "ask"
            work = self._ask(controller, instance) if is_ask else self._watch(instance)
            self._tasks[kind, instance] = asyncio.get_running_loop().create_task(work)

    async def aclose(self) -> None:
        """End the watching."""
        tasks = tuple(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _eyes(self, node: str) -> Eyes:
        return self.eyes.setdefault(node, Eyes())

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    # -- its end

    async def _watch(self, instance: str) -> None:
        node = node_of(instance)
        victim = Victim(node=node, instance=instance, epoch=0)
        while True:
            evidence = await self._hosts[node].ended(self._pair, victim, limit_s=_WATCH_S)
            if evidence is not None:
                break
            await asyncio.sleep(_UNKNOWN_S)
        if self._eyes(node).instance == instance:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    await self._gone[node].wait()
        self.ended[instance] = evidence
        self._wake()

    # -- its answers

    async def _ask(self, controller: PairController, instance: str) -> None:
        node = node_of(instance)
        while True:
            session = await controller.reach(node, limit_s=_REACH_S)
            if session is None:
                await asyncio.sleep(self._interval_s)
                continue
            self._sessions[node] = session
            self._gone[node].clear()
            await self._ask_over(session, node)

    async def _ask_over(self, session: Session, node: str) -> None:
        """Ask one question, and wait for its answer; ask out of band while there is none.

        No second question waits behind the first: they would keep out what is sent out of band
        (qemu-behaviour 7.6).
        """
        eyes = self._eyes(node)
        eyes.asked(self._now_s())
        sent = session.send(QueryStatus())
        again: Sent[None] | None = None
        while not await self._is_answered(sent):
            if session.closed:
                return
            if again is None or not again.pending:
                eyes.asked_again(self._now_s())
                again = session.send(Yank(instances=()), oob=True)
                again.when_answered(lambda _: eyes.told_again(self._now_s()))
            self._wake()
        if not session.closed:
            eyes.told(self._now_s())
            await asyncio.sleep(self._interval_s)

    async def _is_answered(self, sent: Sent[_R]) -> bool:
        """Whether a question is answered, or never will be, within one interval."""
        with contextlib.suppress(RemoteError, ParseError):
            await sent.reply(self._interval_s)
        return not sent.pending

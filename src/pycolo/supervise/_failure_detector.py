"""Detects failures of one pair's QEMUs: asks each again and again, and waits for its end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Final, final

import attrs

from pycolo.controller import PairController
from pycolo.errors import Busy, ParseError, RemoteError, Unresponsive
from pycolo.evidence import Evidence, Victim, node_of
from pycolo.helper.far import has_ended
from pycolo.hosts import Host
from pycolo.model import ColoPair
from pycolo.qmp.commands import QueryStatus, Yank
from pycolo.qmp.replies import StatusInfo
from pycolo.record import PairRecord
from pycolo.session import Notice, Sent, Session
from pycolo.snapshot import Snapshot, role_of
from pycolo.supervise._beat import Beat
from pycolo.supervise._node_health import SHUTDOWN_S, NodeHealth
from pycolo.supervise.observation import Qemu

DRAIN_S: Final = 0.005
"""How long the last events of a QEMU that has ended may be under way from its host, in seconds.

One of them may say that the guest shut down. The connection itself may stay open for seconds, while
the memory of a big guest is freed.
"""
_QUESTION: Final = QueryStatus()
_OOB_QUESTION: Final = Yank(instances=())
_WATCH_S: Final = 30.0
_UNKNOWN_S: Final = 1.0
_REACH_S: Final = 2.0
_GREETED_S: Final = 1.0


@final
class FailureDetector:
    """Observes the QEMUs of one pair.

    Args:
        pair: The declaration.
        hosts: Node name to its host.
        wake: Is called when the detector itself has found something, not for a notice that
            `observe` is given; must be quick and must not raise.
        beat: The timer by which the questions are asked.
        observed: Nodes of which only the observer monitors are used; any other client may hold
            those.
    """

    def __init__(
        self,
        pair: ColoPair,
        hosts: Mapping[str, Host],
        wake: Callable[[], None],
        beat: Beat,
        *,
        observed: Collection[str] = (),
    ) -> None:
        self._pair = pair
        self._hosts = hosts
        self._wake = wake
        self._beat = beat
        self._observed = frozenset(observed)
        self._interval_s = pair.supervision.silent_s / 2
        self._sessions: dict[str, Session] = {}
        self._links = frozenset(disk.names.nbd for disk in pair.disks)
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._asking: dict[str, _Asking] = {}
        self._failure: Exception | None = None
        self._last_snapshot: Snapshot | None = None
        self._is_back = False
        self._is_aside = False
        self.health: dict[str, NodeHealth] = {}
        "What is seen of each node."
        self.ended: dict[str, Evidence] = {}
        "The QEMUs that are shown to have ended, by identity."

    @property
    def is_aside(self) -> bool:
        """Whether no QEMU is asked or heard, so that every monitor is free for others."""
        return self._is_aside

    def stand_aside(self, seen: Snapshot | None, *, is_aside: bool) -> None:
        """Leave the monitors to other programs, or use them again; forget what was seen before.

        In both cases the end of a QEMU is still noticed.

        Args:
            seen: The snapshot of the last observation, which is not used any more.
            is_aside: Whether to leave the monitors to other programs.
        """
        self._is_aside, self._last_snapshot = is_aside, seen
        self._sessions.clear()
        self.health.clear()
        self._ask_only(frozenset())

    def observe(self, node: str, notice: Notice) -> None:
        """Take note of an event, or of the end of a connection."""
        if self._is_aside:
            return
        self._health(node).observe(notice, self._now_s())

    def pop_recovered(self) -> bool:
        """Return whether a QEMU that had not answered has answered since the last call."""
        found, self._is_back = self._is_back, False
        return found

    def pause_s(self, node: str, notice: Notice) -> float | None:
        """See `NodeHealth.pause_s`."""
        return self._health(node).pause_s(notice, self._now_s())

    def session(self, node: str) -> Session | None:
        """The session over which a node was asked last; None if it never was."""
        return self._sessions.get(node)

    def has_lost_replication(self, primary: str) -> bool:
        """Whether the other node no longer gets a primary's writes."""
        return not self._links.isdisjoint(self._bad(primary))

    def has_lost_disk(self, primary: str) -> bool:
        """Whether a disk of a primary's own refused a write that the other node has."""
        return not self._links.issuperset(self._bad(primary))

    def forget_shutdowns(self) -> None:
        """Forget that guests have shut themselves down, since a guest is wanted again."""
        for health in self.health.values():
            health.shutdown_s = None

    @property
    def has_shutdown(self) -> bool:
        """Whether a guest has shut itself down since `forget_shutdowns` was called."""
        return any(health.shutdown_s is not None for health in self.health.values())

    @property
    def is_shutting_down(self) -> bool:
        """Whether a guest has just shut itself down, so that both QEMUs may still end."""
        now_s = self._now_s()
        at_s = (health.shutdown_s for health in self.health.values())
        return any(one is not None and now_s - one <= SHUTDOWN_S for one in at_s)

    def _bad(self, node: str) -> frozenset[str]:
        """The quorum children that a node's QEMU has reported as failed; empty outside COLO."""
        session = self._sessions.get(node)
        if session is None or self._health(node).qemu != "colo":
            return frozenset()
        return frozenset(session.latched.quorum_bad)

    def update(self, controller: PairController, snapshot: Snapshot, record: PairRecord) -> None:
        """Take note of what a probe has shown, and watch the QEMUs that may run alone.

        Args:
            controller: Holds the sessions to the QEMUs.
            snapshot: What the probe has shown; one that was given before is ignored.
            record: The record by which the keeper acts.
        """
        if snapshot is self._last_snapshot:
            return
        self._last_snapshot = snapshot
        if self._is_aside:
            # Nothing is heard between two observations, so the earlier one says nothing.
            self.health.clear()
        assumed: Qemu = "colo" if record.phase == "protected" else "alone"
        for node in self._pair.names:
            live = snapshot.live(node)
            if live is not None and live.instance != self._health(node).instance:
                self.health[node] = NodeHealth(instance=live.instance)
            elif not self._health(node).instance and node in record.eligible:
                # The node's QEMU has not answered yet; the record says which one it should be.
                self.health[node] = NodeHealth(instance=record.eligible[node], qemu=assumed)
            role = role_of(snapshot.state(node))
            if role == "unresponsive" and node in self._observed:
                self._health(node).other_monitor_answered()
            else:
                self._health(node).set_role(role, self._now_s())
        self._follow(controller, record)

    def _follow(self, controller: PairController, record: PairRecord) -> None:
        """Ask the QEMUs that were seen, and wait for the end of those that may run alone."""
        asked = () if self._is_aside else self.health.values()
        instances = {health.instance for health in asked if health.instance}
        self._ask_only(instances)
        for instance in instances - self._asking.keys():
            asking = _Asking(controller=controller, node=node_of(instance), instance=instance)
            self._ask(asking)
        # If a node is not declared, there is no host that could be asked about its QEMU.
        named = {one for one in record.eligible.values() if node_of(one) in self._hosts}
        wanted = named - self.ended.keys()
        for instance in tuple(self._watching):
            if instance not in wanted or self._watching[instance].done():
                self._watching.pop(instance).cancel()
        for instance in wanted - self._watching.keys():
            self._watching[instance] = self._task(self._watch(instance))

    def check(self) -> None:
        """Raise the error that has ended a part of the detector, which is not started again."""
        if self._failure is not None:
            raise self._failure

    async def aclose(self) -> None:
        """End all tasks of the detector and stop asking."""
        tasks = [*self._watching.values()]
        tasks += [one.reaching for one in self._asking.values() if one.reaching is not None]
        self._watching.clear()
        self._ask_only(frozenset())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _task(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._take)
        return task

    def _take(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._wake()

    def _health(self, node: str) -> NodeHealth:
        found = self.health.get(node)
        if found is None:
            found = self.health[node] = NodeHealth()
        return found

    def _now_s(self) -> float:
        return self._beat.now_s()

    # -- the end of a QEMU

    async def _watch(self, instance: str) -> None:
        node = node_of(instance)
        victim = Victim(node=node, instance=instance, epoch=0)
        while True:
            asked_s = self._now_s()
            evidence = await self._hosts[node].ended(self._pair, victim, limit_s=_WATCH_S)
            if evidence is not None:
                break
            # A host that has waited is asked again at once: QEMU may end at any moment. One that
            # could not be asked is left in peace, so that the way to it can be opened again.
            if self._now_s() - asked_s < _WATCH_S / 2:
                await asyncio.sleep(_UNKNOWN_S)
        if self._health(node).instance == instance:
            await self._receive_last(node)
            if self._health(node).shutdown_s is not None:
                # The other side's guest shuts down as well, unless the two have diverged.
                await asyncio.sleep(SHUTDOWN_S)
        self.ended[instance] = evidence
        self._wake()

    async def _receive_last(self, node: str) -> None:
        """Receive the last events of a QEMU that has ended."""
        session = self._sessions.get(node)
        if session is not None and session.peer is not None and has_ended(session.peer):
            # No other program is between, so that all of them lie in the socket: in the first turn
            # of the event loop the socket is found readable, in the second one it is read.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._health(node).gone.wait()

    # -- questions to a QEMU

    def _ask_only(self, instances: Collection[str]) -> None:
        """Stop asking every QEMU except these."""
        for instance in self._asking.keys() - instances:
            asking = self._asking.pop(instance)
            if asking.reaching is not None:
                asking.reaching.cancel()

    def _ask(self, asking: _Asking) -> None:
        """Begin to ask a QEMU again and again."""
        self._asking[asking.instance] = asking
        self._turn(asking)

    def _turn(self, asking: _Asking) -> None:
        """Ask a QEMU one question, by a session that is opened if needed; repeat after a while."""
        if self._asking.get(asking.instance) is not asking:
            return
        try:
            session = self._sessions.get(asking.node)
            if session is None or session.closed:
                asking.reaching = self._task(self._reach(asking))
                return
            self._ask_over(session, asking)
        except Exception as error:  # noqa: BLE001 - `check` raises it in the keeper
            self._fail(error)
            return
        self._turn_later(asking)

    def _turn_later(self, asking: _Asking) -> None:
        self._beat.call_later(self._interval_s, functools.partial(self._turn, asking))

    async def _reach(self, asking: _Asking) -> None:
        """Open a session to a QEMU, and ask over it."""
        session = await self._reached(asking.controller, asking.node)
        if session is None:
            await self._ask_elsewhere(asking.node)
            self._turn_later(asking)
            return
        self._sessions[asking.node] = session
        self._turn(asking)

    async def _reached(self, controller: PairController, node: str) -> Session | None:
        """Open the session to a node; None if it fails. Meanwhile ask over the other monitor."""
        opening = asyncio.ensure_future(controller.reach(node, limit_s=_REACH_S))
        try:
            while not (await asyncio.wait((opening,), timeout=self._interval_s))[0]:
                await self._ask_elsewhere(node)
            return opening.result()
        finally:
            opening.cancel()

    async def _ask_elsewhere(self, node: str) -> None:
        """Ask over the observer monitor, since another client may merely hold the first one."""
        monitor, way = self._pair.node(node).observer_monitor, self._hosts[node].connect
        is_observed = node in self._observed
        # The limit is short, so that a hang-up is not acted on before this shows that QEMU works.
        limit_s = min(self._interval_s, _GREETED_S) if is_observed else _GREETED_S
        try:
            session = await Session.connect(node, monitor, limit_s=limit_s, connector=way)
        except (Busy, Unresponsive):
            if is_observed:
                # A person may hold this monitor, and no other one is used: checkpoints show whether
                # QEMU works.
                self._health(node).other_monitor_answered()
            else:
                self._health(node).greeting_missing(self._now_s())
            self._wake()
            return
        except RemoteError:
            # Nothing listens there, so the hang-up counts.
            return
        async with session:
            with contextlib.suppress(RemoteError, ParseError):
                await session.execute(QueryStatus(), limit_s=_GREETED_S)
                self._health(node).other_monitor_answered()

    def _ask_over(self, session: Session, asking: _Asking) -> None:
        """Send a query; while the previous one has no reply, send an out-of-band probe instead.

        No second query is queued behind the first one: queued commands would keep QEMU from
        reading out-of-band ones (qemu-behaviour 7.6).
        """
        health, now_s = self._health(asking.node), self._now_s()
        if asking.sent is None or not asking.sent.pending:
            health.question_sent(now_s)
            asking.sent = session.send(_QUESTION)
            asking.sent.when_answered(lambda _: self._answered(session, asking))
            return
        if health.question_s(now_s) < self._interval_s / 2:
            # Only this process was late, and more questions would make it later.
            return
        if asking.again is None or not asking.again.pending:
            health.oob_question_sent(now_s)
            asking.again = session.send(_OOB_QUESTION, oob=True)
            asking.again.when_answered(lambda _: health.oob_question_answered(self._now_s()))
        self._wake()

    def _answered(self, session: Session, asking: _Asking) -> None:
        if session.closed or self._asking.get(asking.instance) is not asking:
            return
        health = self._health(asking.node)
        self._is_back = self._is_back or bool(health.signals)
        health.question_answered(self._now_s())
        found = self.ended.get(health.instance)
        if found is not None and found.kind == "fence":
            # The QEMU answers: the fence had no effect, whatever it reported.
            del self.ended[health.instance]


@final
@attrs.define(kw_only=True, eq=False)
class _Asking:
    """The questions to one QEMU, which is asked again and again."""

    controller: PairController
    node: str
    instance: str
    sent: Sent[StatusInfo] | None = None
    again: Sent[None] | None = None
    reaching: asyncio.Task[None] | None = None

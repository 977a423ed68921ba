"""The agents of a pair, one a host, on fakes: what cuts them off, and what stops them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, final

import attrs
from tests.testing.testbed import FakePair, Pair, declared, in_world
from typing_extensions import override

from pycolo.errors import ConnectionFailed, FuseLost, FuseRefused, HostRefused
from pycolo.evidence import Evidence, Victim
from pycolo.facts import HostFacts, NoFacts, Part
from pycolo.hosts import Host, HostState
from pycolo.model import ColoPair
from pycolo.model.node import Monitor
from pycolo.plan import HostAction
from pycolo.qmp.replies import Version
from pycolo.record import Change, UnreadRecord
from pycolo.supervise import Agent, Arbiter, FenceDevice, Guard, Held, SupervisorEvent
from pycolo.supervise._authority import Authority
from pycolo.testing import FakeArbiter, FakeQemu, World

NODES: Final = ("alpha", "beta")
LIMIT_S: Final = 600.0
_AWAY: Final = "the host cannot be reached"
Scenario = Callable[[FakePair, "Agents", "Network"], Awaitable[None]]


@final
class FarHost:
    """A host as another host's agent reaches it: not at all while the cable is cut."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.is_cut = False
        self.answers = asyncio.Event()
        "Clear while the host gives no answer to whether a QEMU has ended."
        self.answers.set()

    async def connect(self, node: str, monitor: Monitor) -> socket.socket:
        """See `Host`."""
        if self.is_cut:
            raise ConnectionFailed(node, str(monitor), _AWAY)
        return await self._host.connect(node, monitor)

    async def observe(self, pair: ColoPair, node: str, *, limit_s: float) -> HostState:
        """See `Host`."""
        if self.is_cut:
            return HostState(record=UnreadRecord(why=_AWAY))
        return await self._host.observe(pair, node, limit_s=limit_s)

    async def write(self, pair: ColoPair, node: str, change: Change, *, limit_s: float) -> None:
        """See `Host`."""
        self._reached(node, "write-record")
        await self._host.write(pair, node, change, limit_s=limit_s)

    async def run(self, pair: ColoPair, node: str, action: HostAction, *, limit_s: float) -> str:
        """See `Host`."""
        self._reached(node, "launch-qemu")
        return await self._host.run(pair, node, action, limit_s=limit_s)

    async def death(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """See `Host`."""
        await self.answers.wait()
        return None if self.is_cut else await self._host.death(pair, victim, limit_s=limit_s)

    async def ended(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """See `Host`."""
        found = None if self.is_cut else await self._host.ended(pair, victim, limit_s=limit_s)
        return None if self.is_cut else found

    async def version(self, pair: ColoPair, node: str, *, limit_s: float) -> Version:
        """See `Host`."""
        self._reached(node, "launch-qemu")
        return await self._host.version(pair, node, limit_s=limit_s)

    async def facts(
        self, pair: ColoPair, node: str, parts: Collection[Part], *, limit_s: float
    ) -> HostFacts | NoFacts:
        """See `Host`."""
        if self.is_cut:
            return NoFacts(why=_AWAY)
        return await self._host.facts(pair, node, parts, limit_s=limit_s)

    async def aclose(self) -> None:
        """Nothing is held."""

    def _reached(self, node: str, action: str) -> None:
        if self.is_cut:
            raise HostRefused(node, action, _AWAY)


@final
class FakeGuard(Guard):
    """A fuse by the world's clock: it freezes a QEMU that is not renewed, and kills it later."""

    def __init__(self, world: World, node: str, pair: ColoPair) -> None:
        self._world = world
        self._node = node
        self._limits = pair.supervision
        self.guarded: str | None = None
        self.renewed_s = 0.0
        "The moment from which the latest renewal counts."
        self._until_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self.stopped: FakeQemu | None = None
        self.fails = 0
        "How many times it gives no answer to `disarm`."
        self.is_silent = False
        "Whether it gives no answer at all, as one that is stopped."

    @override
    def now_s(self) -> float:
        return self._world.now_s

    @override
    async def arm(self, instance: str) -> float:
        await self._answers()
        if self.guarded != instance:
            self.guarded = instance
            self._set(self._world.now_s)
        return self._limits.fuse_s

    @override
    async def armed(self) -> str | None:
        await self._answers()
        return self.guarded

    @override
    async def renew(self, instance: str, *, as_of_s: float) -> None:
        await self._answers()
        if self.guarded != instance:
            raise FuseRefused("the fake fuse", f"{instance} is not armed")
        until_s = as_of_s + self._limits.fuse_s
        # One that is older than the latest, or too late, changes nothing.
        if until_s > max(self._until_s, self._world.now_s):
            self._set(as_of_s)
            self._let_run()

    @override
    async def disarm(self, instance: str) -> None:
        await self._answers()
        if self.fails > 0:
            self.fails -= 1
            raise FuseLost("fuse.sock", "it gives no answer")
        if self.guarded == instance:
            self._let_run()
            self.guarded = None
            self._set(self._world.now_s)

    @override
    async def aclose(self) -> None:
        return

    def freeze(self) -> None:
        """Stop it, as SIGSTOP does."""
        self.is_silent = True

    def thaw(self) -> None:
        """Continue it: what is overdue is done before anything else."""
        self.is_silent = False
        if self.guarded is not None and self._until_s <= self._world.now_s:
            self._blow()

    def forget(self) -> None:
        """Lose what is armed, as a fuse whose files are gone when it is started again."""
        self.guarded = None
        self._set(self._world.now_s)

    async def _answers(self) -> None:
        if self.is_silent:
            await asyncio.sleep(1.0)  # of the world's clock
            raise FuseLost("fuse.sock", "it did not answer within 1 s")

    def _set(self, as_of_s: float) -> None:
        self.renewed_s = as_of_s
        self._until_s = as_of_s + self._limits.fuse_s
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self.guarded is None:
            return
        wait_s = self._until_s - self._world.now_s
        self._alarm = asyncio.get_running_loop().call_later(max(0.0, wait_s), self._blow)

    def _blow(self) -> None:
        if self.is_silent:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        for qemu in self._world.running:
            if qemu.line.name == self.guarded:
                self.stopped = qemu
                qemu.freeze()
                loop = asyncio.get_running_loop()
                self._alarm = loop.call_later(self._limits.kill_s, self._kill, qemu)

    def _kill(self, qemu: FakeQemu) -> None:
        # One that is stopped kills nobody: `kill_s` counts anew once it is continued.
        if not self.is_silent:
            qemu.kill()

    def _let_run(self) -> None:
        stopped, self.stopped = self.stopped, None
        if stopped is not None and stopped.alive:
            stopped.thaw()


@final
class Agents:
    """The agents of a pair's hosts, and all that they have told.

    Args:
        life: The pair.
        arbiters: Node to the arbiter as its agent reaches it; each of these nodes has an agent.
        guards: Node to its host's fuse.
    """

    def __init__(
        self, life: Pair, arbiters: Mapping[str, Arbiter], guards: Mapping[str, Guard]
    ) -> None:
        self.life = life
        self.arbiters = arbiters
        self.guards = guards
        self.fences: Mapping[str, Sequence[FenceDevice]] = {}
        "Node to its fences, for agents that are started from now on."
        self.nodes = tuple(arbiters)
        self.far = {
            (me, other): FarHost(life.hosts[other])
            for me in self.nodes
            for other in self.nodes
            if me != other
        }
        self.events: list[tuple[str, SupervisorEvent]] = []
        self.news = asyncio.Condition()
        self.running: dict[str, Agent] = {}
        self._stacks: dict[str, contextlib.AsyncExitStack] = {}

    def hosts(self, me: str) -> Mapping[str, Host]:
        """The hosts as one node's agent reaches them."""
        own = self.life.hosts[me]
        others = {other: far for (mine, other), far in self.far.items() if mine == me}
        return {me: own, **others}

    async def start(self, node: str) -> None:
        """Start a node's agent."""
        pair = self.life.pair
        guard = self.guards.get(node)
        agent = Agent(
            (pair,),
            {pair.name: node},
            {pair.name: self.hosts(node)},
            self.arbiters[node],
            guards={} if guard is None else {pair.name: guard},
            fences={pair.name: self.fences},
        )
        stack = contextlib.AsyncExitStack()
        following = asyncio.create_task(self._follow(node, agent))
        stack.callback(following.cancel)
        await stack.enter_async_context(agent)
        self._stacks[node] = stack
        self.running[node] = agent

    async def stop(self, node: str) -> None:
        """End a node's agent; its QEMU runs on."""
        stack = self._stacks.pop(node, None)
        if stack is not None:
            await stack.aclose()

    async def aclose(self) -> None:
        """End all."""
        for node in self.nodes:
            await self.stop(node)

    def cut_hosts(self) -> None:
        """Cut the way of each agent to the other host."""
        for far in self.far.values():
            far.is_cut = True

    def heal_hosts(self) -> None:
        """Mend it."""
        for far in self.far.values():
            far.is_cut = False

    async def until(self, text: str, *, node: str | None = None, since: int = 0) -> int:
        """Wait for an event with these words; gives how many there were until then."""
        async with self.news, asyncio.timeout(LIMIT_S):
            while True:
                for count, (teller, event) in enumerate(self.events[since:], since + 1):
                    if text in event.text and node in (None, teller):
                        return count
                await self.news.wait()

    async def protected(self, since: int = 0, *, nodes: Collection[str] = NODES) -> int:
        """Wait until the agents of two nodes say protected; gives how many events there were."""
        async with self.news, asyncio.timeout(LIMIT_S):
            while True:
                last = {
                    teller: event.text
                    for teller, event in self.events[since:]
                    if event.node == teller and teller in nodes and event.kind == "state"
                }
                if last == dict.fromkeys(nodes, "protected"):
                    return len(self.events)
                await self.news.wait()

    async def held(self, leases: Collection[str]) -> Held:
        """What the arbiter holds, once these nodes alone have a lease."""
        arbiter = self.arbiters[NODES[0]]
        async with asyncio.timeout(LIMIT_S):
            held = await arbiter.read(self.life.pair.name, limit_s=1.0)
            while held.leases != set(leases):
                held = await arbiter.changed(self.life.pair.name, held, limit_s=1.0)
        return held

    async def _follow(self, node: str, agent: Agent) -> None:
        async for event in agent.events():
            async with self.news:
                self.events.append((node, event))
                self.news.notify_all()


@asynccontextmanager
async def started(agents: Agents) -> AsyncGenerator[Agents]:
    """Have the agents keep a pair while the block lasts."""
    try:
        for node in agents.nodes:
            await agents.start(node)
        yield agents
    except BaseException as failure:
        told = (f"{teller}: {e.node} {e.kind}: {e.text}" for teller, e in agents.events[-100:])
        failure.add_note("\n".join(told))
        raise
    finally:
        await agents.aclose()


@asynccontextmanager
async def begun(authority: Authority) -> AsyncGenerator[None]:
    """Have an authority read and renew what it needs while the block lasts."""
    authority.begin()
    try:
        yield
    finally:
        await authority.end()


@final
class Network:
    """What joins the fake hosts of a pair and their arbiter, and can be cut."""

    def __init__(self, life: FakePair, *, fuses: bool = True) -> None:
        self.life = life
        self.arbiter = FakeArbiter()
        names = life.pair.names
        self.guards = {n: FakeGuard(life.world, n, life.pair) for n in names} if fuses else {}
        arbiters = {node: self.arbiter.client(node) for node in names}
        self.agents = Agents(life, arbiters, self.guards)

    def cut(self, first: str = NODES[0], second: str = NODES[1]) -> None:
        """Cut the cable between two hosts."""
        self.life.world.cut(first, second)
        for one, other in ((first, second), (second, first)):
            self.agents.far[one, other].is_cut = True

    def heal(self) -> None:
        """Mend every cable."""
        self.agents.heal_hosts()
        for first, second in itertools.combinations(self.agents.nodes, 2):
            self.life.world.heal(first, second)

    async def lose(self, node: str) -> None:
        """End a node's host: its QEMU, its agent and its fuse end, and nothing reaches it."""
        for qemu in list(self.life.world.running):
            if qemu.node.name == node:
                qemu.kill()
        self.life.world.host(node).away = True
        for (me, other), far in self.agents.far.items():
            if node in (me, other):
                far.is_cut = True
        self.arbiter.cut(node)
        await self.agents.stop(node)

    async def bring_back(self, node: str) -> None:
        """Start a node's host again, and its agent."""
        self.life.world.host(node).away = False
        for (me, other), far in self.agents.far.items():
            if node in (me, other):
                far.is_cut = False
        self.arbiter.heal(node)
        await self.agents.start(node)


def play(scenario: Scenario, *, fuses: bool = True, pair: ColoPair | None = None) -> None:
    """Play a scenario with a new pair that agents keep from the beginning, each one node."""

    async def played(life: FakePair) -> None:
        network = Network(life, fuses=fuses)
        async with started(network.agents) as agents:
            await scenario(life, agents, network)

    in_world("11.1.3", played, pair or attrs.evolve(declared(), spares=()))

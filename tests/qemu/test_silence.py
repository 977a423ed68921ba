"""Peers that die or stop responding, while the guest writes to its disk all the time.

A peer is killed, stopped with its connections open, cut off by the network, or its NBD server takes
what it is sent and never answers. In COLO an armed failover brings the guest back: it was compiled
before, over sessions that were opened before. During `start` and `resume` the recovery does.
Nothing stays behind, and the next secondary protects the guest again.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal, TypeAlias, final

import attrs
import pytest
from tests.qemu.aftermath import renew
from tests.qemu.life import (
    NAMES,
    NEEDS_KVM,
    Accelerator,
    LivePair,
    bios_life,
    bios_pair,
    off_plan,
    until,
)
from tests.qemu.namespaces import in_namespaces, plug
from tests.relay import Relay, relays
from tests.watching import Watching

from pycolo._execute import execute
from pycolo.compiler import compile_offline
from pycolo.demo.builds import Release
from pycolo.demo.network import Network
from pycolo.errors import CompileError
from pycolo.evidence import Evidence
from pycolo.model import ColoPair, Node
from pycolo.plan import Plan
from pycolo.qmp.events import StopEvent
from pycolo.qmp.replies import Version
from pycolo.result import Report
from pycolo.session import Notice

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(180)]
Silence: TypeAlias = Literal["killed", "stopped", "links silent", "nbd silent"]
SILENCES: tuple[Silence, ...] = ("killed", "stopped", "links silent", "nbd silent")
STALL_S = 1.0
RESUMED_S = 5.0


def _impatient(pair: ColoPair) -> ColoPair:
    """The pair with limits that pass within a test."""
    limits = attrs.evolve(
        pair.timeouts,
        command_s=3.0,
        connect_s=5.0,
        resync_s=4.0,
        migration_s=4.0,
        entry_s=4.0,
        checkpoint_s=4.0,
        failover_s=10.0,
    )
    return attrs.evolve(pair, timeouts=limits)


def _behind_relays(name: str) -> Callable[[ColoPair], ColoPair]:
    """Let others reach one node at an address where it does not listen itself."""

    def fronted(node: Node) -> Node:
        return attrs.evolve(node, address=f"{node.address}1") if node.name == name else node

    def shaped(pair: ColoPair) -> ColoPair:
        nodes, spares = (tuple(map(fronted, part)) for part in (pair.nodes, pair.spares))
        return attrs.evolve(_impatient(pair), nodes=nodes, spares=spares)

    return shaped


@final
class Silenced:
    """A pair whose primary writes to its secondary over relays."""

    def __init__(self, life: LivePair, fronts: tuple[Relay, ...]) -> None:
        self.life = life
        self._fronts = fronts

    def silence(self, name: str, how: Silence) -> None:
        """Make a peer silent, at once."""
        match how:
            case "killed":
                self.life.signal(name, signal.SIGKILL)
            case "stopped":
                self.life.signal(name, signal.SIGSTOP)
            case "links silent":
                for relay in self._fronts:
                    relay.hold_back()
            case "nbd silent":
                for relay in self._fronts:
                    if relay.port == self.life.pair.ports.nbd:
                        relay.hold_back()

    async def silence_at(self, plan: Plan, at: str, name: str, how: Silence) -> Report:
        """Execute a plan in which a peer stops responding as a step begins."""

        def begins(address: str) -> None:
            if address == at:
                self.silence(name, how)

        watching = Watching(begins)
        return await execute(plan, self.life.sessions, self.life.hosts, observer=watching)

    async def resumes_soon(self, name: str) -> None:
        """See the guest count on, and not because its BIOS gave the disk up after half a minute."""
        mark = self.life.counter(name)
        await until(lambda: self.life.counter(name) > mark, "the guest continues", RESUMED_S)
        await self.life.keeps_running(name)

    async def fence(self, name: str) -> None:
        """End a peer for good, and the network is whole again."""
        running = self.life.host.watch(self.life.pair, name)
        if running is not None:
            running.close()
            await self.life.kill(name)
        session = self.life.sessions.pop(name, None)
        if session is not None:
            await session.aclose()
        for relay in self._fronts:
            relay.speak()

    async def stalls(self, name: str) -> None:
        """See the guest paused, with a write in flight that nobody confirms."""
        loop = asyncio.get_running_loop()
        seen, since = self.life.counter(name), loop.time()

        def stands() -> bool:
            nonlocal seen, since
            if self.life.counter(name) != seen:
                seen, since = self.life.counter(name), loop.time()
            return loop.time() - since > STALL_S

        await until(stands, f"the guest on {name} is paused")

    async def at_stop(self, name: str, act: Callable[[], None]) -> None:
        """Do something in the very moment in which a node's guest stops for a checkpoint."""
        done = asyncio.Event()

        def told(notice: Notice) -> None:
            if isinstance(notice, StopEvent) and not done.is_set():
                act()
                done.set()

        end = self.life.sessions[name].subscribe(told)
        async with asyncio.timeout(30):
            await done.wait()
        end()

    async def strike(self, survivor: str, peer: str, how: Silence, when: str) -> None:
        """Make a peer silent, at once or as the survivor's guest stops for a checkpoint."""
        if when == "inside a checkpoint":
            await self.at_stop(survivor, lambda: self.silence(peer, how))
        else:
            self.silence(peer, how)


@asynccontextmanager
async def silenced_life(
    release: Release = "11.1", accelerator: Accelerator = "tcg", *, front: str = "beta"
) -> AsyncGenerator[Silenced]:
    """A pair, nothing of it launched yet, of which one node is reached over relays.

    Args:
        release: Which QEMU.
        accelerator: What runs the guest.
        front: The node that stops responding as a secondary.
    """
    async with (
        bios_life(release, accelerator, shape=_behind_relays(front)) as life,
        AsyncExitStack() as stack,
    ):
        node, ports = life.pair.node(front), life.pair.ports
        both = (ports.nbd, ports.migration)
        fronts = await stack.enter_async_context(relays(node.address, both, node.listen_address))
        yield Silenced(life, fronts)


async def protected(silenced: Silenced) -> None:
    """Launch the pair and start its protection."""
    await silenced.life.launch("alpha", "beta")
    await silenced.life.run("start")
    await silenced.life.keeps_running("alpha", "beta")


def fenced(armed: Plan) -> Mapping[str, Evidence]:
    """The test's word that whoever has to have ended has, since it ends the process afterwards."""
    return {
        victim.node: Evidence.of(
            victim,
            kind="fence",
            who="the test",
            how="it ends the process afterwards",
            when="2026-01-01T00:00Z",
        )
        for victim in armed.victims()
    }


async def failed_over(life: LivePair, armed: Plan, survivor: str) -> Report:
    """Execute a failover where nobody reaches the peer or its host, which could contradict."""
    sessions, hosts = {survivor: life.sessions[survivor]}, {survivor: life.hosts[survivor]}
    return await execute(armed, sessions, hosts, evidence=fenced(armed))


async def failed_over_and_resumed(
    silenced: Silenced, armed: Plan, survivor: str, peer: str, spare: str = "gamma"
) -> None:
    """Execute an armed failover; the guest continues, clean, and a spare protects it again."""
    life = silenced.life
    report = await failed_over(life, armed, survivor)
    assert None is report.failed, report.advice
    await life.keeps_running(survivor)
    await silenced.fence(peer)
    # The peer was alive when the plan was armed; of the survivor all that was promised is true.
    assert {} == off_plan(armed.planned_state, await life.probe()).get(survivor, {})
    await life.image_follows(survivor)
    # Others reach the survivor itself: the relays stood for the replication to it.
    nodes = (attrs.evolve(node, address=node.listen_address) for node in life.pair.nodes)
    life.pair = attrs.evolve(life.pair, nodes=tuple(nodes))
    await life.replace(peer, spare)
    plan = await life.run("resume")
    assert {} == off_plan(plan.planned_state, await life.probe())
    await life.keeps_running(survivor, spare)


@pytest.mark.parametrize("when", ["between checkpoints", "inside a checkpoint"])
@pytest.mark.parametrize("how", SILENCES)
async def test_a_primary_outlives_its_secondary(how: Silence, when: str) -> None:
    """The armed failover brings its guest back, whatever hangs on the secondary's silence."""
    async with silenced_life() as silenced:
        await protected(silenced)
        armed = await silenced.life.compile("failover", survivor="alpha")
        await silenced.strike("alpha", "beta", how, when)
        if how != "killed":
            await silenced.stalls("alpha")
        await failed_over_and_resumed(silenced, armed, "alpha", "beta")


@pytest.mark.parametrize("when", ["between checkpoints", "inside a checkpoint"])
@pytest.mark.parametrize("how", ["killed", "stopped", "links silent"])
async def test_a_secondary_outlives_its_primary(how: Silence, when: str) -> None:
    """The armed failover promotes it; a silent primary holds up nothing."""
    async with silenced_life() as silenced:
        await protected(silenced)
        armed = await silenced.life.compile("failover", survivor="beta")
        await silenced.strike("beta", "alpha", how, when)
        await failed_over_and_resumed(silenced, armed, "beta", "alpha")


def _older(regular: Mapping[Release, tuple[Silence, str] | None], *hows: Silence) -> list[object]:
    """Each older QEMU, each silence and each moment; all but the regular ones at night."""
    cases: list[object] = []
    for release, every_time in regular.items():
        for how in hows:
            for when in ("between checkpoints", "inside a checkpoint"):
                marks = () if every_time == (how, when) else (pytest.mark.nightly,)
                cases.append(pytest.param(release, how, when, marks=marks))
    return cases


@NEEDS_KVM
@pytest.mark.parametrize(
    ("release", "how", "when"),
    _older(
        {
            "7.2": ("stopped", "inside a checkpoint"),
            "10.0": None,
        },
        *SILENCES,
    ),
)
async def test_older_primaries_outlive_their_secondary(
    release: Release, how: Silence, when: str
) -> None:
    """The same armed failover brings the guest back on QEMU before 11.0."""
    async with silenced_life(release, "kvm") as silenced:
        await protected(silenced)
        armed = await silenced.life.compile("failover", survivor="alpha")
        await silenced.strike("alpha", "beta", how, when)
        if how != "killed":
            await silenced.stalls("alpha")
        await failed_over_and_resumed(silenced, armed, "alpha", "beta")


@NEEDS_KVM
@pytest.mark.parametrize(
    ("release", "how", "when"),
    _older(
        {
            "7.2": ("stopped", "between checkpoints"),
            "10.0": None,
        },
        "killed",
        "stopped",
        "links silent",
    ),
)
async def test_older_secondaries_outlive_their_primary(
    release: Release, how: Silence, when: str
) -> None:
    """The same armed failover promotes them on QEMU before 11.0."""
    async with silenced_life(release, "kvm") as silenced:
        await protected(silenced)
        armed = await silenced.life.compile("failover", survivor="beta")
        await silenced.strike("beta", "alpha", how, when)
        await failed_over_and_resumed(silenced, armed, "beta", "alpha")


# -- a real network, cut between two hosts


# Where a cable is pulled on the way into COLO.
CUT_AT = (
    "blockdev-add",
    "blockdev-mirror",
    "block-job-cancel",
    "migrate",
    "wait/protected",
    "wait/checkpoint",
)


@pytest.mark.nightly
@pytest.mark.parametrize("when", ["between checkpoints", "inside a checkpoint"])
@pytest.mark.parametrize("survivor", ["alpha", "beta"])
async def test_either_node_outlives_a_cut_network(
    network: Network, survivor: str, when: str
) -> None:
    """Nothing is refused and nothing answers; fenced, the other one runs alone all the same."""
    async with bios_life("11.1", "tcg", shape=in_namespaces(network)) as life:
        silenced = Silenced(life, ())
        await protected(silenced)
        armed = await life.compile("failover", survivor=survivor)
        peer = life.pair.peer_of(survivor).name
        if when == "inside a checkpoint":
            await silenced.at_stop(survivor, lambda: plug(network, "alpha", "down"))
        else:
            plug(network, "alpha", "down")
        if survivor == "alpha":
            await silenced.stalls("alpha")
        report = await failed_over(life, armed, survivor)
        assert None is report.failed, report.advice
        await life.keeps_running(survivor)
        await silenced.fence(peer)
        plug(network, "alpha", "up")
        assert {} == off_plan(armed.planned_state, await life.probe()).get(survivor, {})
        await renew(life, peer)
        plan = await life.run("resume")
        assert {} == off_plan(plan.planned_state, await life.probe())
        await life.keeps_running("alpha", "beta")


def _hasty(network: Network) -> Callable[[ColoPair], ColoPair]:
    move = in_namespaces(network)
    return lambda pair: _impatient(move(pair))


@pytest.mark.nightly
@pytest.mark.parametrize("point", CUT_AT)
@pytest.mark.parametrize("primary", ["alpha", "beta"])
async def test_a_primary_outlives_a_cut_network_on_its_way(
    network: Network, primary: str, point: str
) -> None:
    """During `start`, and as a promoted node during `resume`, its guest runs alone."""
    async with bios_life("11.1", "tcg", shape=_hasty(network)) as life:
        silenced = Silenced(life, ())
        await life.launch("alpha", "beta")
        peer = life.pair.peer_of(primary).name
        if primary == "beta":
            await life.run("start")
            await life.keeps_running("beta")
            await life.kill("alpha")
            await life.run("failover", survivor="beta")
            await renew(life, "alpha")
        else:
            await life.cont("alpha")
        await life.keeps_running(primary)
        plan = await life.compile("resume" if primary == "beta" else "start")
        at = step_at(plan, primary, point)
        assert at is not None
        cut = Watching(lambda address: plug(network, peer, "down") if address == at else None)
        report = await execute(plan, life.sessions, life.hosts, observer=cut)
        assert None is not report.failed
        await silenced.resumes_soon(primary)
        await silenced.fence(peer)
        plug(network, peer, "up")
        undone = await life.run("stop")
        assert {} == off_plan(undone.planned_state, await life.probe())
        await renew(life, peer)
        plan = await life.run("resume")
        assert {} == off_plan(plan.planned_state, await life.probe())
        await life.keeps_running("alpha", "beta")


# -- on the way into COLO

# Micro versions for plans compiled offline: they tell which steps each QEMU's plan has.
VERSIONS: Mapping[Release, str] = {"7.2": "7.2.22", "10.0": "10.0.13", "11.1": "11.1.3"}
# A peer stops responding as one of these begins; which of them there are depends on the QEMU.
POINTS = (
    "blockdev-add",
    "blockdev-mirror",
    "wait/mirrored",
    "stop",
    "block-job-cancel",
    "x-blockdev-change",
    "cont",
    "migrate",
    "wait/pre-switchover",
    "migrate-continue",
    "wait/protected",
    "wait/checkpoint",
)
Regular: TypeAlias = Mapping[tuple[Release, Accelerator], Mapping[str, Silence]]
# Each QEMU; of its points those that run every time, and by which silence.
REGULAR: Regular = {
    ("11.1", "tcg"): {
        "blockdev-add": "killed",
        "blockdev-mirror": "stopped",
        "stop": "links silent",
        "block-job-cancel": "nbd silent",
        "x-blockdev-change": "killed",
        "migrate": "links silent",
        "wait/protected": "stopped",
        "wait/checkpoint": "links silent",
    },
    ("11.1", "kvm"): {"migrate-continue": "killed"},
    ("10.0", "kvm"): {"cont": "stopped"},
    ("7.2", "kvm"): {"migrate": "nbd silent"},
}


def step_at(plan: Plan, primary: str, point: str) -> str | None:
    """The address of a plan's first step of a kind on a node, if it has one."""
    name = f"{primary}/{point}"
    found = (s.address for s in plan.steps if s.address == name or s.address.startswith(f"{name}/"))
    return next(found, None)


def places(regular: Regular) -> Iterator[object]:
    """Each QEMU, each silence and each point of its plan; all but the regular ones at night."""
    for (release, accelerator), every_time in regular.items():
        there = _points(release, accelerator)
        assert set() == set(every_time) - set(there)
        for how in SILENCES:
            for point in there:
                night = [] if every_time.get(point) == how else [pytest.mark.nightly]
                marks = [NEEDS_KVM, *night] if accelerator == "kvm" else night
                name = f"{release}-{accelerator}-{how}-{point.replace('/', ':')}"
                yield pytest.param(release, accelerator, how, point, marks=marks, id=name)


def _points(release: Release, accelerator: Accelerator) -> list[str]:
    """The points of a plan by which a running guest is protected."""
    hosts = (
        Node(name=name, address=f"127.0.0.{n}", image_folder=f"/images/{name}")
        for n, name in enumerate(NAMES, 1)
    )
    pair = bios_pair(tuple(hosts), accelerator)
    version = Version.parse(VERSIONS[release])
    plan = compile_offline("resume", pair, version=version, survivor="alpha")
    return [point for point in POINTS if step_at(plan, "alpha", point) is not None]


@pytest.mark.parametrize(("release", "accelerator", "how", "point"), list(places(REGULAR)))
async def test_a_primary_outlives_its_start(
    release: Release, accelerator: Accelerator, how: Silence, point: str
) -> None:
    """The guest that ran before it continues; with `stop` nothing stays of the attempt."""
    async with silenced_life(release, accelerator) as silenced:
        life = silenced.life
        await life.launch("alpha", "beta")
        await life.cont("alpha")
        await life.keeps_running("alpha")
        plan = await life.compile("start")
        at = step_at(plan, "alpha", point)
        assert at is not None
        await silenced.silence_at(plan, at, "beta", how)
        await silenced.resumes_soon("alpha")
        await silenced.fence("beta")
        undone = await life.run("stop")
        await life.keeps_running("alpha")
        assert {} == off_plan(undone.planned_state, await life.probe())
        await renew(life, "beta")
        plan = await life.run("resume")
        assert {} == off_plan(plan.planned_state, await life.probe())
        await life.keeps_running("alpha", "beta")


@pytest.mark.parametrize(
    ("release", "accelerator", "how"),
    [
        ("11.1", "tcg", "killed"),
        pytest.param("11.1", "tcg", "stopped", marks=pytest.mark.nightly),
        pytest.param("10.0", "kvm", "killed", marks=[NEEDS_KVM, pytest.mark.nightly]),
        pytest.param("10.0", "kvm", "stopped", marks=[NEEDS_KVM, pytest.mark.nightly]),
        pytest.param("7.2", "kvm", "killed", marks=[NEEDS_KVM, pytest.mark.nightly]),
        pytest.param("7.2", "kvm", "stopped", marks=[NEEDS_KVM, pytest.mark.nightly]),
    ],
)
async def test_a_secondary_that_was_not_proven_does_not_run_alone(
    release: Release, accelerator: Accelerator, how: Silence
) -> None:
    """In COLO, but no checkpoint has shown that it follows: the primary's image has everything."""
    async with silenced_life(release, accelerator, front="gamma") as silenced:
        life = silenced.life
        await life.launch("alpha", "beta")
        await life.cont("alpha")
        await life.keeps_running("alpha")
        plan = await life.compile("start")
        at = step_at(plan, "alpha", "wait/checkpoint")
        assert at is not None
        report = await silenced.silence_at(plan, at, "alpha", how)
        assert at == report.failed
        await silenced.fence("alpha")
        with pytest.raises(CompileError, match="does not let colo:beta:00000001 run alone"):
            await life.compile("failover", survivor="beta")
        await silenced.fence("beta")
        await life.launch("alpha")
        await life.cont("alpha")
        await life.keeps_running("alpha")
        await life.launch("gamma")
        life.pair = life.pair.replacing("beta", life.pair.node("gamma"))
        plan = await life.run("resume")
        assert {} == off_plan(plan.planned_state, await life.probe())
        await life.keeps_running("alpha", "gamma")

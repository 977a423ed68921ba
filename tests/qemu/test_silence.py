"""Peers that die or fall silent, while the guest writes to its disk all the time.

A peer is killed, stopped with its connections open, cut off by the network, or its NBD server takes
what it is sent and never answers. In COLO an armed failover brings the guest back: it was compiled
before, over sessions that were opened before. During `start` and `resume` the relief does. Nothing
stays behind, and the next secondary protects the guest again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal, TypeAlias, final

import attrs
import pytest
from tests.qemu.aftermath import renew
from tests.qemu.life import (
    HAS_KVM,
    Accelerator,
    LivePair,
    bios_life,
    broken_promises,
    until,
)
from tests.relay import Relay, relays
from tests.watching import Watching

from pycolo import host
from pycolo.demo.builds import Release
from pycolo.demo.network import Network, NetworkError, Place, namespaces, wrapper
from pycolo.execute import execute
from pycolo.model import ColoPair, Node
from pycolo.plan import Plan
from pycolo.qmp.events import StopEvent
from pycolo.result import Report
from pycolo.session import Notice
from pycolo.snapshot import FenceProof

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(180)]
Silence: TypeAlias = Literal["killed", "stopped", "links silent", "nbd silent"]
SILENCES: tuple[Silence, ...] = ("killed", "stopped", "links silent", "nbd silent")
FENCED = FenceProof(who="the test", how="it ends the process afterwards", when="2026-01-01T00:00Z")
STALL_S = 1.0
GONE_ON_S = 5.0


def _impatient(pair: ColoPair) -> ColoPair:
    """The pair with its secondary behind relays, and with limits that pass within a test."""
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
    first, second = pair.nodes
    front = attrs.evolve(second, address=f"{second.address}1")
    return attrs.evolve(pair, timeouts=limits, nodes=(first, front))


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
                    relay.fall_silent()
            case "nbd silent":
                for relay in self._fronts:
                    if relay.port == self.life.pair.ports.nbd:
                        relay.fall_silent()

    async def fence(self, name: str) -> None:
        """End a peer for good, and the network is whole again."""
        node = self.life.pair.node(name)
        if (running := host.watch(node)) is not None:
            running.close()
            await self.life.kill(name)
        proof = host.death_proof(node)
        assert proof is not None
        self.life.dead[name] = proof
        session = self.life.sessions.pop(name, None)
        if session is not None:
            await session.aclose()
        for relay in self._fronts:
            relay.speak()

    async def stalls(self, name: str) -> None:
        """See the guest stand still, with a write in flight that nobody confirms."""
        loop = asyncio.get_running_loop()
        seen, since = self.life.counter(name), loop.time()

        def stands() -> bool:
            nonlocal seen, since
            if self.life.counter(name) != seen:
                seen, since = self.life.counter(name), loop.time()
            return loop.time() - since > STALL_S

        await until(stands, f"the guest on {name} stands still")

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


@asynccontextmanager
async def _silenced(release: Release = "11.1") -> AsyncGenerator[Silenced]:
    accelerator: Accelerator = "tcg" if release == "11.1" else "kvm"
    async with (
        bios_life(release, accelerator, shape=_impatient) as life,
        AsyncExitStack() as stack,
    ):
        second, ports = life.pair.nodes[1], life.pair.ports
        both = (ports.nbd, ports.migration)
        fronts = await stack.enter_async_context(
            relays(second.address, both, second.listen_address)
        )
        yield Silenced(life, fronts)


async def _protected(silenced: Silenced) -> None:
    await silenced.life.launch("alpha", "beta")
    await silenced.life.run("start")
    await silenced.life.goes_on("alpha", "beta")


async def _outlived(silenced: Silenced, armed: Plan, survivor: str, peer: str) -> None:
    """Execute an armed failover; the guest goes on, clean, and is protected again."""
    life = silenced.life
    report = await execute(armed, life.sessions, proofs={peer: FENCED})
    assert None is report.failed, report.advice
    await life.goes_on(survivor)
    await silenced.fence(peer)
    # The peer was alive when the plan was armed; of the survivor all that was promised is true.
    assert {} == broken_promises(armed.promise, await life.probe()).get(survivor, {})
    await life.image_follows(survivor)
    # Others reach the survivor itself: the relays stood for the replication to it.
    nodes = (attrs.evolve(node, address=node.listen_address) for node in life.pair.nodes)
    life.pair = attrs.evolve(life.pair, nodes=tuple(nodes))
    await life.replace(peer, "gamma")
    plan = await life.run("resume")
    assert {} == broken_promises(plan.promise, await life.probe())
    await life.goes_on(survivor, "gamma")


@pytest.mark.parametrize("when", ["between checkpoints", "inside a checkpoint"])
@pytest.mark.parametrize("how", SILENCES)
async def test_a_primary_outlives_its_secondary(how: Silence, when: str) -> None:
    """The armed failover brings its guest back, whatever hangs on the secondary's silence."""
    async with _silenced() as silenced:
        await _protected(silenced)
        armed = await silenced.life.compile("failover", survivor="alpha")
        if when == "inside a checkpoint":
            await silenced.at_stop("alpha", lambda: silenced.silence("beta", how))
        else:
            silenced.silence("beta", how)
        if how != "killed":
            await silenced.stalls("alpha")
        await _outlived(silenced, armed, "alpha", "beta")


@pytest.mark.parametrize("when", ["between checkpoints", "inside a checkpoint"])
@pytest.mark.parametrize("how", ["killed", "stopped", "links silent"])
async def test_a_secondary_outlives_its_primary(how: Silence, when: str) -> None:
    """The armed failover promotes it; a silent primary holds up nothing."""
    async with _silenced() as silenced:
        await _protected(silenced)
        armed = await silenced.life.compile("failover", survivor="beta")
        if when == "inside a checkpoint":
            await silenced.at_stop("beta", lambda: silenced.silence("alpha", how))
        else:
            silenced.silence("alpha", how)
        await _outlived(silenced, armed, "beta", "alpha")


@pytest.mark.skipif(not HAS_KVM, reason="QEMU before 11.0 takes checkpoints with KVM only")
@pytest.mark.nightly
@pytest.mark.parametrize("when", ["between checkpoints", "inside a checkpoint"])
@pytest.mark.parametrize("how", ["killed", "stopped", "nbd silent"])
@pytest.mark.parametrize("release", ["7.2", "10.0"])
async def test_older_primaries_outlive_their_secondary(
    release: Release, how: Silence, when: str
) -> None:
    """The same armed failover brings the guest back on QEMU before 11.0."""
    async with _silenced(release) as silenced:
        await _protected(silenced)
        armed = await silenced.life.compile("failover", survivor="alpha")
        if when == "inside a checkpoint":
            await silenced.at_stop("alpha", lambda: silenced.silence("beta", how))
        else:
            silenced.silence("beta", how)
        if how != "killed":
            await silenced.stalls("alpha")
        await _outlived(silenced, armed, "alpha", "beta")


# -- a real network, cut between two hosts


def _in_namespaces(network: Network) -> Callable[[ColoPair], ColoPair]:
    """Move a pair's nodes into the hosts of a network."""

    def moved(pair: ColoPair) -> ColoPair:
        nodes = tuple(_moved(node, network.places[node.name]) for node in pair.nodes)
        (chain,) = pair.chains
        netdevs = {name: place.netdev for name, place in network.places.items()}
        chain = attrs.evolve(chain, netdev=netdevs["alpha"], netdevs=netdevs)
        return attrs.evolve(pair, nodes=nodes, spares=(), chains=(chain,))

    return moved


def _moved(node: Node, place: Place) -> Node:
    program = Path(node.image_folder) / "qemu"
    wrapper(program, place.enter, Path(node.qemu_binary))
    address = place.address
    return attrs.evolve(node, address=address, listen_address=address, qemu_binary=str(program))


def _cable(network: Network, name: str, state: str) -> None:
    """Plug a host's cable to the other one in or out."""
    link = ("ip", "link", "set", "dev", "colo", state)
    subprocess.run((*network.places[name].enter, *link), check=True)


@pytest.fixture
def network() -> Iterator[Network]:
    """Two hosts, which are namespaces of this kernel."""
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    try:
        with namespaces(("alpha", "beta")) as made:
            yield made
    except NetworkError as error:
        pytest.skip(f"no network namespaces here: {error}")


@pytest.mark.nightly
@pytest.mark.parametrize("when", ["between checkpoints", "inside a checkpoint"])
@pytest.mark.parametrize("survivor", ["alpha", "beta"])
async def test_either_node_outlives_a_cut_network(
    network: Network, survivor: str, when: str
) -> None:
    """Nothing is refused and nothing answers; fenced, the other one is outlived all the same."""
    async with bios_life("11.1", "tcg", shape=_in_namespaces(network)) as life:
        silenced = Silenced(life, ())
        await _protected(silenced)
        armed = await life.compile("failover", survivor=survivor)
        peer = life.pair.peer_of(survivor).name
        if when == "inside a checkpoint":
            await silenced.at_stop(survivor, lambda: _cable(network, "alpha", "down"))
        else:
            _cable(network, "alpha", "down")
        if survivor == "alpha":
            await silenced.stalls("alpha")
        report = await execute(armed, life.sessions, proofs={peer: FENCED})
        assert None is report.failed, report.advice
        await life.goes_on(survivor)
        await silenced.fence(peer)
        _cable(network, "alpha", "up")
        assert {} == broken_promises(armed.promise, await life.probe()).get(survivor, {})
        await renew(life, peer)
        plan = await life.run("resume")
        assert {} == broken_promises(plan.promise, await life.probe())
        await life.goes_on("alpha", "beta")


# -- on the way into COLO

POINTS = (
    "alpha/blockdev-add",
    "alpha/blockdev-mirror",
    "alpha/stop",
    "alpha/block-job-cancel",
    "alpha/x-blockdev-change",
    "alpha/cont",
    "alpha/migrate",
    "alpha/wait/pre-switchover",
    "alpha/migrate-continue",
    "alpha/wait/protected",
    "alpha/wait/checkpoint",
)


def _places() -> Iterator[object]:
    for how in SILENCES:
        for n, point in enumerate(POINTS):
            few = SILENCES.index(how) == n % len(SILENCES)
            marks = () if few else (pytest.mark.nightly,)
            yield pytest.param(how, point, marks=marks, id=f"{how}-{point.replace('/', ':')}")


@pytest.mark.parametrize(("how", "point"), list(_places()))
async def test_a_primary_outlives_its_start(how: Silence, point: str) -> None:
    """The guest that ran before it goes on; with `stop` nothing stays of the attempt."""
    async with _silenced() as silenced:
        life = silenced.life
        await life.launch("alpha", "beta")
        await life.cont("alpha")
        await life.goes_on("alpha")
        plan = await life.compile("start")
        await _fall_silent_at(silenced, plan, point, how)
        mark = life.counter("alpha")
        # Soon, and not because its BIOS gave up on the disk, which it does after half a minute.
        await until(lambda: life.counter("alpha") > mark, "the guest goes on", GONE_ON_S)
        await life.goes_on("alpha")
        await silenced.fence("beta")
        undone = await life.run("stop")
        await life.goes_on("alpha")
        assert {} == broken_promises(undone.promise, await life.probe())
        await renew(life, "beta")
        plan = await life.run("resume")
        assert {} == broken_promises(plan.promise, await life.probe())
        await life.goes_on("alpha", "beta")


async def _fall_silent_at(silenced: Silenced, plan: Plan, point: str, how: Silence) -> Report:
    place = next(s.address for s in plan.steps if s.address.startswith(point))

    def begins(address: str) -> None:
        if address == place:
            silenced.silence("beta", how)

    sessions = silenced.life.sessions
    return await execute(plan, sessions, observer=Watching(begins), proofs=silenced.life.dead)

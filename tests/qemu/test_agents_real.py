"""A pair under two agents, on real QEMU: etcd of three members, and a fuse that is a process."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
from tests.etcd import ETCD, members
from tests.fuse.guarded import fuse_folder, running
from tests.qemu.life import LivePair, bios_life, until
from tests.qemu.namespaces import in_namespaces, plug
from tests.testing.agents import NODES, Agents, started

from pycolo.demo.network import Network
from pycolo.model import ColoPair, Supervision
from pycolo.supervise import FuseGuard
from pycolo.supervise.arbiters.etcd import EtcdArbiter, EtcdCluster

pytestmark = [pytest.mark.qemu, *ETCD, pytest.mark.timeout(400)]


# A cut shows itself sooner than with the limit that a long delay needs.
_SOON = Supervision(no_checkpoint_s=3.0, entry_s=0.5)


def _on_two_hosts(pair: ColoPair) -> ColoPair:
    return attrs.evolve(pair, spares=(), supervision=_SOON)


def _with_a_spare(pair: ColoPair) -> ColoPair:
    return attrs.evolve(pair, spares=pair.spares[:1], supervision=_SOON)


Shape = Callable[[ColoPair], ColoPair]


def _on_a_network(network: Network) -> Shape:
    move = in_namespaces(network)
    return lambda pair: _on_two_hosts(move(pair))


def _state(life: LivePair, node: str) -> str:
    """The state of a QEMU's first thread; empty where it has ended."""
    held = life.host.watch(life.pair, node)
    if held is None:
        return ""
    with contextlib.closing(held):
        try:
            stat = Path(f"/proc/{held.pid}/stat").read_text()
        except OSError:
            return ""
    return stat.rpartition(")")[2].split()[0]


@asynccontextmanager
async def _kept(
    folder: Path, shape: Shape = _on_two_hosts
) -> AsyncGenerator[tuple[LivePair, Agents]]:
    """A pair on QEMU 11.1 that two agents keep, each with the fuse of its host."""
    async with contextlib.AsyncExitStack() as stack:
        cluster = stack.enter_context(members(folder))
        fuse = stack.enter_context(running(stack.enter_context(fuse_folder())))
        fuse.start()
        life = await stack.enter_async_context(bios_life("11.1", "tcg", shape=shape))
        socket = Path(fuse.path)
        names = life.pair.names
        guards = {node: FuseGuard(life.pair, node, life.host, socket) for node in names}
        arbiters = {node: EtcdArbiter(EtcdCluster(endpoints=cluster.endpoints)) for node in names}
        for guard, arbiter in zip(guards.values(), arbiters.values(), strict=True):
            stack.push_async_callback(guard.aclose)
            stack.push_async_callback(arbiter.aclose)
        yield life, await stack.enter_async_context(started(Agents(life, arbiters, guards)))


async def test_deaths_are_survived(tmp_path: Path) -> None:
    """Each node is killed, then stopped: the other one continues, and is protected again."""
    async with _kept(tmp_path) as (life, agents):
        count = await agents.protected()
        for number in (signal.SIGKILL, signal.SIGSTOP):
            for victim, survivor in (("alpha", "beta"), ("beta", "alpha")):
                await life.keeps_running("alpha", "beta")
                life.signal(victim, number)
                count = await agents.until("failover is done", node=survivor, since=count)
                await life.keeps_running(survivor)
                count = await agents.protected(count)
        assert not [event.text for _, event in agents.events if event.kind == "person"]


async def test_cut_between_the_hosts_ends_one_guest(tmp_path: Path, network: Network) -> None:
    """Both live and reach etcd: the first to claim continues, and the other one's QEMU is ended."""
    async with _kept(tmp_path, _on_a_network(network)) as (life, agents):
        count = await agents.protected()
        await life.keeps_running("alpha", "beta")
        agents.cut_hosts()
        plug(network, "alpha", "down")
        at = await agents.until("failover is done", since=count)
        survivor = agents.events[at - 1][0]
        loser = next(node for node in NODES if node != survivor)
        await agents.until("the record gives the pair to another QEMU", node=loser, since=count)
        await until(lambda: not _state(life, loser), f"the QEMU of {loser} ends")
        await life.keeps_running(survivor)
        plug(network, "alpha", "up")
        agents.heal_hosts()
        await agents.protected(len(agents.events))


async def test_isolated_primary_is_stopped_before_the_other_one_continues(
    tmp_path: Path, network: Network
) -> None:
    """Its agent is gone and its cable is cut: its fuse stops it, and kills it later."""
    async with _kept(tmp_path, _on_a_network(network)) as (life, agents):
        count = await agents.protected()
        await life.keeps_running("alpha", "beta")
        await agents.stop("alpha")
        agents.cut_hosts()
        plug(network, "alpha", "down")
        await agents.until("continues alone", node="beta", since=count)
        assert "T" == _state(life, "alpha")
        await agents.until("failover is done", node="beta", since=count)
        await life.keeps_running("beta")
        limit_s = life.pair.supervision.kill_s + 20.0
        await until(lambda: not _state(life, "alpha"), "its fuse kills it", limit_s)
        plug(network, "alpha", "up")
        agents.heal_hosts()
        await agents.start("alpha")
        await agents.protected(len(agents.events))


@pytest.mark.nightly
async def test_guest_is_moved_there_and_back(tmp_path: Path) -> None:
    """The agent of alpha is asked both times, as the primary's and as the secondary's."""
    async with _kept(tmp_path) as (life, agents):
        count = await agents.protected()
        for holder in ("beta", "alpha"):
            await life.keeps_running(*NODES)
            report = await agents.running["alpha"].switch_over(life.pair.name)
            assert 0 == report.exit_code, report.advice
            await life.keeps_running(holder)
            count = await agents.protected(count)
        assert not [event.text for _, event in agents.events if event.kind == "person"]


@pytest.mark.nightly
async def test_spare_takes_the_place_of_a_lost_host(tmp_path: Path) -> None:
    """The secondary's QEMU, its agent and the way to its host are gone."""
    async with _kept(tmp_path, _with_a_spare) as (life, agents):
        count = await agents.protected()
        spare = life.pair.spares[0].name
        await life.keeps_running(*NODES)
        for (me, other), far in agents.far.items():
            far.is_cut = "beta" in (me, other)
        await agents.stop("beta")
        life.signal("beta", signal.SIGKILL)
        count = await agents.until("failover is done", node="alpha", since=count)
        await agents.protected(count, nodes=("alpha", spare))
        await life.keeps_running("alpha", spare)

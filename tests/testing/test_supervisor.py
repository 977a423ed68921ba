"""Pairs under a supervisor, on fakes: nobody types anything, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import ParamSpec

import pytest
from tests.testing.test_controller import has_all, refuse_a_write, write
from tests.testing.testbed import FakePair, Pair, declared, in_world, time_passes

from pycolo.controller import PairController
from pycolo.errors import DeclarationError, HostRefused, StoreError
from pycolo.evidence import Evidence
from pycolo.hosts import HostState
from pycolo.model import ColoPair
from pycolo.qmp import QmpValue
from pycolo.result import Report
from pycolo.supervise import Decision, FenceDevice, Store, Supervisor, SupervisorEvent, decide
from pycolo.supervise._node_health import NodeHealth
from pycolo.supervise.store import Wish
from pycolo.testing import _colo, _jobs
from pycolo.testing._monitor import Client
from pycolo.testing._network import end

LIMIT_S = 7200.0
QUIET = "protected"
_P = ParamSpec("_P")
Scenario = Callable[[FakePair, "Watched"], Awaitable[None]]


class Watched:
    """A supervisor of one pair, and all that it has told."""

    def __init__(self, store: Store, supervisor: Supervisor) -> None:
        self.store = store
        self.supervisor = supervisor
        self.events: list[SupervisorEvent] = []
        self.news = asyncio.Condition()

    async def follow(self) -> None:
        """Take what it tells, until cancelled."""
        async for event in self.supervisor.events():
            async with self.news:
                self.events.append(event)
                self.news.notify_all()

    async def until(self, text: str, *, since: int = 0) -> int:
        """Wait for an event with these words; gives how many there were until then."""
        async with self.news, asyncio.timeout(LIMIT_S):
            while True:
                for count, event in enumerate(self.events[since:], since + 1):
                    if text in event.text:
                        return count
                await self.news.wait()


@asynccontextmanager
async def kept(
    life: Pair, store: Store, fences: Mapping[str, Sequence[FenceDevice]] = MappingProxyType({})
) -> AsyncGenerator[Watched]:
    """Have a supervisor keep a pair, with these fences by node, while the block lasts."""
    name = life.pair.name
    supervisor = Supervisor((life.pair,), {name: life.hosts}, store, fences={name: fences})
    watched = Watched(store, supervisor)
    following = asyncio.create_task(watched.follow())
    try:
        async with supervisor:
            yield watched
    except BaseException as failure:
        told = (f"{e.when} {e.node} {e.kind}: {e.text}" for e in watched.events[-100:])
        failure.add_note("\n".join(told))
        raise
    finally:
        following.cancel()


def play(folder: Path, scenario: Scenario) -> None:
    """Play a scenario with a new pair that is kept from the beginning."""

    async def played(life: FakePair) -> None:
        with Store(folder) as store:
            async with kept(life, store) as watched:
                await scenario(life, watched)

    in_world("11.1.3", played)


async def protected(watched: Watched, since: int = 0) -> int:
    """Wait for a resync, and until two nodes are protected; gives how many events there were."""
    await watched.until("resume is done", since=since)
    return await quiet(watched)


async def serves(life: FakePair) -> str:
    """Wait for the end of a checkpoint; gives the node that serves, which has every write."""
    async with asyncio.timeout(5.0):
        while not life.world.serving:
            await time_passes(0.01)
    return has_all(life)


async def freezes_as_a_checkpoint_begins(life: FakePair, name: str) -> None:
    """Freeze a secondary that has stopped its guest, while the primary is about to flush to it."""
    secondary = life.world.qemu(name)
    async with asyncio.timeout(LIMIT_S):
        while secondary.live.run_state != "colo":
            await time_passes(0.001)
    secondary.freeze()


async def quiet(watched: Watched) -> int:
    """Wait until two nodes are protected; gives how many events there were."""
    async with watched.news, asyncio.timeout(LIMIT_S):
        while True:
            told = [e for e in watched.events if e.node and e.kind in ("state", "person")]
            last = {event.node: event.text for event in told}
            if [QUIET, QUIET] == list(last.values()):
                return len(watched.events)
            await watched.news.wait()


@pytest.mark.parametrize(("victim", "survivor"), [("alpha", "beta"), ("beta", "alpha")])
def test_death_is_survived(tmp_path: Path, victim: str, survivor: str) -> None:
    """Whoever dies, the other one continues with every write, and is protected again."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        life.world.qemu(victim).kill()
        count = await watched.until("failover", since=count)
        assert survivor == await serves(life)
        await protected(watched, count)
        write(life)
        assert survivor == await serves(life)

    play(tmp_path, scenario)


@pytest.mark.parametrize(("victim", "survivor"), [("alpha", "beta"), ("beta", "alpha")])
def test_silence_is_ended_by_the_host(tmp_path: Path, victim: str, survivor: str) -> None:
    """A QEMU that stops answering is killed by its host before the other one continues."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        frozen, began_s = life.world.qemu(victim), life.world.now_s
        frozen.freeze()
        count = await watched.until("failover is done", since=count)
        assert not frozen.alive
        assert survivor == await serves(life)
        declared = life.pair.supervision
        limit_s = declared.primary_s if survivor == "alpha" else declared.secondary_s
        assert declared.silent_s <= life.world.now_s - began_s < declared.silent_s + limit_s + 0.5
        await protected(watched, count)

    play(tmp_path, scenario)


@pytest.mark.parametrize("observation_s", [0.2, 0.3, 0.5, 0.7, 1.1])
def test_silence_during_an_observation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observation_s: float
) -> None:
    """An observation that waits for an answer holds nobody up: the silence has its own limit."""
    monkeypatch.setattr("pycolo.supervise._keeper.OBSERVATION_S", observation_s)

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        began_s = life.world.now_s
        life.world.qemu("beta").freeze()
        await watched.until("failover is done", since=count)
        declared = life.pair.supervision
        limit_s = declared.silent_s + declared.primary_s + 0.5
        assert life.world.now_s - began_s < limit_s

    play(tmp_path, scenario)


def test_connection_that_ends_is_no_death(tmp_path: Path) -> None:
    """Whoever loses its monitor's connection and answers over a new one is not failed over."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        await protected(watched)
        before = life.world.processes
        for name in ("alpha", "beta"):
            for monitor in life.world.qemu(name).monitors:
                monitor.hang_up()
            await time_passes(30.0)
        assert list(before) == list(life.world.processes)
        assert "alpha" == await serves(life)
        assert not [e for e in watched.events if e.kind == "action"]

    play(tmp_path, scenario)


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_only_the_way_to_a_host_is_lost(tmp_path: Path, name: str) -> None:
    """Checkpoints continue, so that both QEMUs live: the guest serves, and nobody is killed."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        await protected(watched)
        before, host = tuple(life.world.processes), life.world.host(name)
        host.away = True
        for monitor in life.world.qemu(name).monitors:
            monitor.hang_up()
        for _ in range(200):
            await time_passes(1.0)
            assert "alpha" == await serves(life)
        host.away = False
        await time_passes(60.0)
        assert before == tuple(q for q in life.world.processes if q.alive)
        await quiet(watched)
        modes = [life.world.qemu(one).live.colo_mode for one in ("alpha", "beta")]
        assert ["primary", "secondary"] == modes

    play(tmp_path, scenario)


def test_nobody_continues_while_nothing_shows_the_death(tmp_path: Path) -> None:
    """The primary's host is out of reach: a person is told, and no second guest is begun."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        host = life.world.host("alpha")
        host.away = True
        life.world.qemu("alpha").freeze()
        count = await watched.until("nobody can show", since=count)
        assert "person" == watched.events[count - 1].kind
        await time_passes(600.0)
        assert not [q for q in life.world.serving if q.node.name == "beta"]
        host.away = False
        await watched.until("failover is done", since=count)
        assert "beta" == await serves(life)

    play(tmp_path, scenario)


def test_person_is_told_of_two_qemus_that_give_no_answer(tmp_path: Path) -> None:
    """Neither is ended while the other one may not continue; as soon as one answers, it does."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        both = [life.world.qemu(name) for name in ("alpha", "beta")]
        for qemu in both:
            qemu.freeze()
        count = await watched.until("its own QEMU gives no answer", since=count)
        await time_passes(60.0)
        assert "person" in {event.kind for event in watched.events[count:]}
        assert all(qemu.alive for qemu in both)
        both[1].thaw()
        count = await watched.until("failover is done", since=count)
        assert "beta" == await serves(life)
        await protected(watched, count)

    play(tmp_path, scenario)


def test_person_is_told_of_a_disk_that_failed_while_nobody_can_take_over(tmp_path: Path) -> None:
    """The secondary alone has every write, and gives no answer."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        refuse_a_write(life)
        life.world.qemu("beta").freeze()
        count = await watched.until("beta may have writes that it lacks", since=count)
        assert "person" == watched.events[count - 1].kind
        await time_passes(60.0)
        assert not [q for q in life.world.serving if q.node.name == "alpha"]

    play(tmp_path, scenario)


def test_person_is_told_what_to_do_with_a_secondary_that_lacks_writes(tmp_path: Path) -> None:
    """Its primary has ended before it could continue alone: what the line says boots that one."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        lost = {"node-name": life.pair.disks[0].names.nbd, "type": "write"}
        sectors = {"sector-num": 1, "sectors-count": 1}
        life.world.qemu("alpha").event("QUORUM_REPORT_BAD", {**lost, **sectors})
        life.world.qemu("alpha").kill()
        told = "end the QEMU of beta, and alpha is booted"
        count = await watched.until(told, since=count)
        assert "person" == watched.events[count - 1].kind
        await time_passes(60.0)
        assert not life.world.serving
        life.world.qemu("beta").kill()
        count = await watched.until("launch is done", since=count)
        assert "alpha" == await serves(life)
        await protected(watched, count)

    play(tmp_path, scenario)


@pytest.mark.parametrize("is_short", [True, False])
def test_hosts_that_are_away_for_long_are_told_to_a_person(
    tmp_path: Path, *, is_short: bool
) -> None:
    """No secondary can be launched meanwhile; hosts that are soon back need nobody."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        life.world.qemu("beta").kill()
        count = await watched.until("failover is done", since=count)
        for name in ("beta", *(node.name for node in life.pair.spares)):
            life.world.host(name).away = True
        async with asyncio.timeout(120.0):
            count = await watched.until("no host answers", since=count)
        if not is_short:
            await time_passes(60.0)
        for name in ("beta", *(node.name for node in life.pair.spares)):
            life.world.host(name).away = False
        await protected(watched, count)
        why = "no host answers on which a secondary for alpha could be launched"
        expected = [] if is_short else [f"{why}; bring one back, or declare a spare"]
        assert expected == _persons(watched)

    play(tmp_path, scenario)


def test_both_are_booted_again(tmp_path: Path) -> None:
    """Both hosts lose power: the holder is booted, and protected again."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        for name in ("beta", "alpha"):
            life.world.qemu(name).kill()
        await protected(watched, count)
        await serves(life)

    play(tmp_path, scenario)


@pytest.mark.parametrize("first", ["alpha", "beta"])
def test_guest_that_shuts_down_stays_down(tmp_path: Path, first: str) -> None:
    """Its own end is no death: whoever's QEMU ends first, nothing is failed over or booted."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        second = "beta" if first == "alpha" else "alpha"
        for name in (first, second):
            qemu = life.world.qemu(name)
            qemu.event("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})
            end(qemu, 0)
            await time_passes(0.02)
        await watched.until("stopped is wanted", since=count)
        await time_passes(600.0)
        assert not life.world.running
        assert "stopped" == watched.store.read(life.pair.name).want
        watched.store.want(life.pair.name, "protected")
        await protected(watched, len(watched.events))

    play(tmp_path, scenario)


@pytest.mark.parametrize("apart_s", [0.0, 0.02, 0.4])
@pytest.mark.parametrize("first", ["alpha", "beta"])
def test_nobody_is_asked_about_a_guest_that_ended(
    tmp_path: Path, first: str, apart_s: float
) -> None:
    """The primary's last writes may miss a secondary that is ending too: none of them is lost."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        for name in ("beta", "alpha"):
            life.world.qemu(name).event("SHUTDOWN", {"guest": True, "reason": "guest-panic"})
        lost = {"node-name": life.pair.disks[0].names.nbd, "type": "flush"}
        sectors = {"sector-num": 0, "sectors-count": 0}
        life.world.qemu("alpha").event("QUORUM_REPORT_BAD", {**lost, **sectors})
        for name in (first, "beta" if first == "alpha" else "alpha"):
            end(life.world.qemu(name), 0)
            await time_passes(apart_s)
        await watched.until("stopped is wanted", since=count)
        await time_passes(60.0)
        assert [] == _persons(watched)
        assert not life.world.running
        watched.store.want(life.pair.name, "protected")
        await protected(watched, len(watched.events))

    play(tmp_path, scenario)


def test_guest_that_shut_down_does_not_continue_on_the_other_side(tmp_path: Path) -> None:
    """The secondary's guest has not shut down: its QEMU is ended, and the primary is booted."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        alpha = life.world.qemu("alpha")
        alpha.event("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})
        end(alpha, 0)
        await time_passes(60.0)
        assert not life.world.running
        assert not [e for e in watched.events[count:] if "failover" in e.text]
        assert [] == _persons(watched)
        watched.store.want(life.pair.name, "protected")
        await protected(watched, len(watched.events))
        assert "alpha" == await serves(life)

    play(tmp_path, scenario)


@pytest.mark.parametrize("later_s", [0.0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.5])
def test_guest_is_booted_as_soon_as_it_is_wanted_again(tmp_path: Path, later_s: float) -> None:
    """However soon after its end, and though its last writes did not reach the secondary."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        for name in ("beta", "alpha"):
            qemu = life.world.qemu(name)
            qemu.event("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})
            if name == "alpha":
                lost = {"node-name": life.pair.disks[0].names.nbd, "type": "write"}
                qemu.event("QUORUM_REPORT_BAD", {**lost, "sector-num": 1, "sectors-count": 1})
            end(qemu, 0)
        await watched.until("stopped is wanted", since=count)
        await time_passes(later_s)
        watched.store.want(life.pair.name, "protected")
        began_s = life.world.now_s
        await protected(watched, len(watched.events))
        assert life.world.now_s - began_s < 10.0

    play(tmp_path, scenario)


def test_pause_holds_everything(tmp_path: Path) -> None:
    """A pair that is paused is not failed over; once it is not, it is."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        watched.store.pause(life.pair.name, "maintenance, said by the test")
        count = await watched.until("supervision is paused", since=count)
        life.world.qemu("alpha").kill()
        await time_passes(600.0)
        assert not life.world.serving
        watched.store.pause(life.pair.name, None)
        await watched.until("failover is done", since=count)
        assert "beta" == await serves(life)

    play(tmp_path, scenario)


def test_failover_that_cannot_be_compiled_is_tried_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The survivor's host gives no answer: it is not asked without a break until it does."""
    tried: list[str] = []
    died = PairController.died

    async def counted(controller: PairController, evidence: Evidence) -> Report | None:
        tried.append(evidence.node)
        return await died(controller, evidence)

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        watched.store.pause(life.pair.name, "said by the test")
        count = await watched.until("supervision is paused", since=count)
        life.world.qemu("alpha").kill()
        life.world.qemu("beta").kill()
        life.world.host("beta").away = True
        monkeypatch.setattr(PairController, "died", counted)
        watched.store.pause(life.pair.name, None)
        await time_passes(20.0)
        assert 1 <= len(tried) <= 20.0 / life.pair.supervision.retry_s + 2
        life.world.host("beta").away = False
        await protected(watched, count)

    play(tmp_path, scenario)


def test_launches_that_fail_are_tried_later_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five in an hour, ever further apart; then a person is told, and the guest runs on."""
    tried: list[float] = []

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)

        async def version(*_: object, **__: object) -> None:
            tried.append(life.world.now_s)
            raise HostRefused("beta", "launch-qemu", "there is no QEMU")

        for name in life.pair.names:
            monkeypatch.setattr(life.world.host(name), "version", version)
        life.world.qemu("beta").kill()
        await watched.until("have failed within an hour", since=count)
        waits = [later - sooner for sooner, later in itertools.pairwise(tried)]
        assert 5 == len(tried)
        assert sorted(waits) == waits
        assert waits[-1] >= 2 * waits[1]
        assert "alpha" == await serves(life)

    play(tmp_path, scenario)


@pytest.mark.parametrize("victim", ["alpha", "beta"])
@pytest.mark.parametrize("how", ["kill", "freeze"])
@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.003, 0.01, 0.05, 0.3, 0.8, 1.6, 2.0])
def test_next_supervisor_continues(tmp_path: Path, victim: str, how: str, after_s: float) -> None:
    """Whenever one ends after a fault, the next one brings the pair back, and loses nothing."""

    async def played(life: FakePair) -> None:
        with Store(tmp_path) as store:
            async with kept(life, store) as watched:
                await protected(watched)
                write(life)
                qemu = life.world.qemu(victim)
                if how == "kill":
                    qemu.kill()
                else:
                    qemu.freeze()
                await time_passes(after_s)
            async with kept(life, store) as watched:
                await quiet(watched)
                await serves(life)

    in_world("11.1.3", played)


def test_one_supervisor_a_pair(tmp_path: Path) -> None:
    """A second one that uses the same store is refused, and keeps nothing."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        await protected(watched)
        second = Supervisor((life.pair,), {life.pair.name: life.hosts}, watched.store)
        with pytest.raises(StoreError, match="another supervisor of colo runs"):
            await second.__aenter__()

    play(tmp_path, scenario)


def test_pair_that_is_none_of_its_own_is_refused(tmp_path: Path) -> None:
    """Whatever is asked of a pair that the supervisor does not have names those that it has."""

    async def scenario(_: FakePair, watched: Watched) -> None:
        supervisor = watched.supervisor
        asked = (supervisor.status, supervisor.underway, supervisor.measure, supervisor.checkpoints)
        for ask in asked:
            with pytest.raises(DeclarationError, match="pair must be one of colo, not 'nope'"):
                ask("nope")
        with pytest.raises(DeclarationError, match="pair must be one of colo, not 'nope'"):
            await supervisor.switch_over("nope")

    play(tmp_path, scenario)


@pytest.mark.parametrize("resyncs", [0, -1])
def test_supervisor_without_resyncs_is_refused(tmp_path: Path, resyncs: int) -> None:
    """It could never make a pair protected."""

    async def played(life: FakePair) -> None:
        hosts = {life.pair.name: life.hosts}
        with (
            Store(tmp_path) as store,
            pytest.raises(DeclarationError, match=f"resyncs must be 1 or more, not {resyncs}"),
        ):
            Supervisor((life.pair,), hosts, store, resyncs=resyncs)

    in_world("11.1.3", played)


def test_cut_between_the_hosts(tmp_path: Path) -> None:
    """No checkpoint comes any more: one side is ended, the other one continues, and is joined."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        life.world.cut("alpha", "beta")
        count = await watched.until("failover is done", since=count)
        await serves(life)
        life.world.heal("alpha", "beta")
        await protected(watched, count)
        await serves(life)

    play(tmp_path, scenario)


def test_disk_of_the_primary_fails(tmp_path: Path) -> None:
    """The guest moves to the node that has the write."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        refuse_a_write(life)
        await watched.until("switch-over is done", since=count)
        assert "beta" == await serves(life)

    play(tmp_path, scenario)


def test_replication_is_lost(tmp_path: Path) -> None:
    """The secondary that lacks writes never continues: it is ended, and joined anew."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        before = life.world.qemu("beta")
        for link in life.world.qemu("alpha").disk_links.values():
            link.up = False
        write(life)
        await protected(watched, count)
        assert not before.alive
        assert "alpha" == await serves(life)

    play(tmp_path, scenario)


@pytest.mark.parametrize("before_s", [0.0, 0.4])
def test_secondary_that_lacks_writes_stops_responding(tmp_path: Path, before_s: float) -> None:
    """It is ended, since the guest would wait for its evidence for ever, and nobody is asked."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        secondary = life.world.qemu("beta")
        secondary.freeze()
        await time_passes(before_s)
        for link in life.world.qemu("alpha").disk_links.values():
            link.up = False
        write(life)
        async with asyncio.timeout(60.0):
            count = await watched.until("failover is done", since=count)
        assert not secondary.alive
        assert "alpha" == await serves(life)
        await protected(watched, count)
        assert [] == _persons(watched)

    play(tmp_path, scenario)


def _persons(watched: Watched) -> list[str]:
    return [event.text for event in watched.events if event.kind == "person"]


def test_stop_is_applied_while_a_death_is_not_shown(tmp_path: Path) -> None:
    """A claim that leads to nothing does not keep what is wanted from being brought about."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        life.world.host("alpha").away = True
        life.world.qemu("alpha").freeze()
        await watched.until("nobody can show", since=count)
        watched.store.want(life.pair.name, "stopped")
        await time_passes(5.0)
        life.world.host("alpha").away = False
        await time_passes(120.0)
        assert not life.world.running

    play(tmp_path, scenario)


def test_stop_ends_a_qemu_that_gives_no_answer(tmp_path: Path) -> None:
    """Both QEMUs end where no guest is wanted, also the one that is stuck."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        await protected(watched)
        life.world.qemu("alpha").freeze()
        watched.store.want(life.pair.name, "stopped")
        await time_passes(120.0)
        assert not life.world.running

    play(tmp_path, scenario)


def test_secondary_that_stops_responding_as_a_checkpoint_begins(tmp_path: Path) -> None:
    """The primary's main loop waits for it (qemu-behaviour 7.3), and the primary continues."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        await freezes_as_a_checkpoint_begins(life, "beta")
        async with asyncio.timeout(10.0):
            count = await watched.until("failover is done", since=count)
        assert "alpha" == await serves(life)
        await protected(watched, count)

    play(tmp_path, scenario)


@pytest.mark.parametrize("after_s", [0.05, 0.7])
def test_new_secondary_that_gets_stuck_holds_nothing_up(tmp_path: Path, after_s: float) -> None:
    """The guest runs, and another node protects it."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await watched.until("launch is done")
        count = await watched.until("launch is done", since=count)
        await time_passes(after_s)
        life.world.qemu("beta").freeze()
        await protected(watched, count)
        assert "alpha" == await serves(life)

    play(tmp_path, scenario)


def test_guest_alone_that_gets_stuck_is_told_to_a_person(tmp_path: Path) -> None:
    """Nobody else can continue, so that a person has to know that nobody serves."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        watched.store.want(life.pair.name, "unprotected")
        count = await watched.until("stop is done", since=count)
        life.world.qemu("alpha").freeze()
        await time_passes(60.0)
        assert ["alpha runs and gives no answer"] == _persons(watched)

    play(tmp_path, scenario)


@pytest.mark.parametrize("is_paused", [True, False])
def test_pair_without_a_record_is_not_observed_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_paused: bool
) -> None:
    """Where nothing may be done, or no host answers, an observation comes every twenty seconds."""
    observed: list[float] = []

    async def played(life: FakePair) -> None:
        host = life.world.host("alpha")
        real = host.observe

        async def observe(pair: ColoPair, node: str, *, limit_s: float) -> HostState:
            observed.append(life.world.now_s)
            return await real(pair, node, limit_s=limit_s)

        monkeypatch.setattr(host, "observe", observe)
        with Store(tmp_path) as store:
            if is_paused:
                store.pause(life.pair.name, "said by the test")
            else:
                for name in life.pair.names:
                    life.world.host(name).away = True
            async with kept(life, store):
                await time_passes(61.0)

    in_world("11.1.3", played)
    assert 2 <= len(observed) <= 10


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_monitor_that_another_client_holds_is_no_death(tmp_path: Path, node: str) -> None:
    """Whoever came first after the connection ended keeps it: nobody is ended for that."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        await protected(watched)
        before = list(life.world.processes)
        place = life.pair.node(node).control_monitor
        held = next(one for one in life.world.qemu(node).monitors if one.place == place)
        other = Client(send=lambda _: None, close=lambda: None)
        held.hang_up()
        held.join(other)
        await time_passes(120.0)
        held.leave(other)
        await time_passes(60.0)
        assert before == list(life.world.processes)
        assert not [e for e in watched.events if e.kind == "action"]

    play(tmp_path, scenario)


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_supervisor_that_was_stopped_ends_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str
) -> None:
    """The time in which it did not run says nothing about a question that was under way."""
    stops: list[float] = []

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        before = list(life.world.processes)
        real = NodeHealth.question_sent

        def question_sent(health: NodeHealth, now_s: float) -> None:
            real(health, now_s)
            if node in health.instance and now_s > len(stops) * 7.0:
                stops.append(now_s)
                asyncio.get_running_loop().call_soon(life.world.advance, 3.0)

        monkeypatch.setattr(NodeHealth, "question_sent", question_sent)
        await time_passes(100.0)
        assert before == list(life.world.processes)
        assert not [e for e in watched.events[count:] if e.kind == "action"]

    async def played(life: FakePair) -> None:
        with Store(tmp_path) as store:
            async with kept(life, store) as watched:
                await scenario(life, watched)

    # A checkpoint would show that both live.
    in_world("11.1.3", played, declared(checkpoint_delay_ms=20000))
    assert len(stops) > 10


@pytest.mark.parametrize("turn_s", [0.03, 0.06, 0.09, 0.2])
def test_supervisor_that_is_always_late_suspects_nobody(tmp_path: Path, turn_s: float) -> None:
    """The time that its own loop takes to read an answer is no silence of QEMU."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        before, loop, is_over = list(life.world.processes), asyncio.get_running_loop(), False

        def work() -> None:
            life.world.advance(turn_s)
            if not is_over:
                loop.call_soon(work)

        loop.call_soon(work)
        await time_passes(60.0)
        is_over = True
        assert before == list(life.world.processes)
        assert [] == [e.text for e in watched.events[count:] if e.kind in ("action", "state")]

    async def played(life: FakePair) -> None:
        with Store(tmp_path) as store:
            async with kept(life, store) as watched:
                await scenario(life, watched)

    # A checkpoint would show that both live.
    in_world("11.1.3", played, declared(checkpoint_delay_ms=20000))


@pytest.mark.parametrize("method", ["observe", "death", "run", "ended"])
def test_defect_of_a_host_ends_no_supervision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Whatever it raises, a person is told, and the pair is kept again once it is over."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        with monkeypatch.context() as patched:

            async def raises(*_: object, **__: object) -> None:
                raise ValueError("said by the test")

            patched.setattr(life.world.host("alpha"), method, raises)
            life.world.qemu("alpha").freeze()
            await time_passes(60.0)
        await protected(watched, count)
        await serves(life)
        assert "the keeper of the pair failed" in "; ".join(_persons(watched))

    play(tmp_path, scenario)


def test_store_that_cannot_be_read_is_in_no_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pair is failed over by what was wanted before, and a person is told."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        monkeypatch.setattr(Store, "read", _fails)
        await watched.until("what was wanted before still is", since=count)
        life.world.qemu("alpha").kill()
        await protected(watched, count)
        assert "beta" == await serves(life)
        why = "what is wanted cannot be read: test: the disk is full"
        assert [f"{why}; repair the store, what was wanted before still is"] == _persons(watched)

    play(tmp_path, scenario)


def test_guest_that_shut_down_stays_down_where_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is full: the guest is not booted again, and it is written once there is room."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        with monkeypatch.context() as patched:
            patched.setattr(Store, "want", _fails)
            for name in ("alpha", "beta"):
                qemu = life.world.qemu(name)
                qemu.event("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})
                end(qemu, 0)
                await time_passes(0.02)
            await time_passes(60.0)
            assert not life.world.running
            why = "what is wanted cannot be kept: test: the disk is full"
            assert [f"{why}; repair the store, nothing is done until then"] == _persons(watched)
        await watched.until("stopped is wanted", since=count)

    play(tmp_path, scenario)


def _fails(*_: object) -> Wish:
    raise StoreError("test", "the disk is full")


def test_pair_at_rest_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing changes, each observation decides once, and what is wanted is not read."""
    decided = list[str]()
    monkeypatch.setattr("pycolo.supervise._keeper.decide", _counted(decide, decided))

    async def scenario(life: FakePair, watched: Watched) -> None:
        await protected(watched)
        # The observation after a resync.
        await time_passes(30.0)
        statements = list[str]()
        watched.store._database.set_trace_callback(statements.append)  # noqa: SLF001 - a look inside
        decided.clear()
        before = _checkpoints(watched)
        await time_passes(60.0)
        assert _checkpoints(watched) - before >= 100
        # Three observations, and whenever a checkpoint could be overdue: every five seconds here.
        assert 2 <= len(decided) <= 50
        assert set() == {one for one in statements if one.startswith("SELECT")}
        watched.store.pause(life.pair.name, "by jo")
        count = await watched.until("paused by jo")
        assert count

    play(tmp_path, scenario)


def _checkpoints(watched: Watched) -> int:
    (measures,) = watched.supervisor.measures
    return sum(measures.checkpoint_pause.counts)


def _counted(decide: Callable[_P, Decision], decided: list[str]) -> Callable[_P, Decision]:
    def counted(*values: _P.args, **named: _P.kwargs) -> Decision:
        decided.append(str(values[0]))
        return decide(*values, **named)

    return counted


def _guest_events(events: Sequence[SupervisorEvent]) -> list[tuple[str | None, str]]:
    return [(event.node, event.text) for event in events if event.kind == "guest"]


def test_reset_of_the_guest_is_told(tmp_path: Path) -> None:
    """Each time, once for both sides, and COLO runs on: nothing is done about it."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        before = tuple(life.world.running)
        for _ in range(2):
            for name in ("beta", "alpha"):
                life.world.qemu(name).event("RESET", {"guest": True, "reason": "guest-reset"})
            await time_passes(60.0)
        assert [("alpha", "the guest was reset: guest-reset")] * 2 == _guest_events(watched.events)
        assert before == tuple(life.world.running)
        assert {"guest"} == {event.kind for event in watched.events[count:]}

    play(tmp_path, scenario)


def test_panic_of_the_guest_is_told(tmp_path: Path) -> None:
    """Both QEMUs end after it, and it is no death: nobody fails over or boots the guest."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        for name in ("alpha", "beta"):
            qemu = life.world.qemu(name)
            qemu.event("GUEST_PANICKED", {"action": "poweroff"})
            qemu.event("SHUTDOWN", {"guest": True, "reason": "guest-panic"})
            end(qemu, 0)
            await time_passes(0.02)
        await watched.until("stopped is wanted", since=count)
        await time_passes(60.0)
        told = "the guest has panicked, and QEMU's reaction is poweroff"
        assert [("alpha", told)] == _guest_events(watched.events)
        assert not life.world.running

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("MIGRATION", {"status": "failed"}),
        ("BLOCK_JOB_ERROR", {"device": "resync0", "operation": "write", "action": "report"}),
    ],
)
@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_event_of_a_fault_begins_an_observation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str, name: str, data: dict[str, QmpValue]
) -> None:
    """The event itself proves nothing: what is found decides, which is that all is well here."""
    observed: list[float] = []

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        # The observation after a resync has been made, and the next one is not due yet.
        await time_passes(25.0)
        host, before = life.world.host("alpha"), tuple(life.world.running)
        real = host.observe

        async def observe(pair: ColoPair, node: str, *, limit_s: float) -> HostState:
            observed.append(life.world.now_s)
            return await real(pair, node, limit_s=limit_s)

        monkeypatch.setattr(host, "observe", observe)
        life.world.qemu(node).event(name, data)
        at_s = life.world.now_s
        await time_passes(2.0)
        assert observed
        assert observed[0] - at_s < 0.1
        assert before == tuple(life.world.running)
        assert not watched.events[count:]

    play(tmp_path, scenario)


async def resyncs(life: FakePair, watched: Watched) -> int:
    """Lose beta, and wait until it is launched anew; gives the number of events until then."""
    count = await protected(watched)
    life.world.qemu("beta").kill()
    count = await watched.until("failover is done", since=count)
    return await watched.until("launch is done", since=count)


def test_resync_whose_migration_fails_is_undone_and_done_again(tmp_path: Path) -> None:
    """The guest runs on, and is protected by the next resync."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await resyncs(life, watched)
        async with asyncio.timeout(LIMIT_S):
            while (channel := life.world.qemu("alpha").channel) is None:
                await time_passes(0.001)
        _colo.fail(channel, "Unable to write to socket: Broken pipe")
        await protected(watched, count)
        (told,) = (e.text for e in watched.events[count:] if e.kind == "trouble")
        assert told.startswith("resume ended at alpha/")
        assert "alpha" == await serves(life)

    play(tmp_path, scenario)


def test_resync_whose_copy_of_a_disk_fails_is_undone_and_done_again(tmp_path: Path) -> None:
    """The guest runs on, and is protected by the next resync."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await resyncs(life, watched)
        async with asyncio.timeout(LIMIT_S):
            while not life.world.qemu("alpha").live.jobs:
                await time_passes(0.001)
        (job,) = life.world.qemu("alpha").live.jobs
        _jobs.fail(life.world.qemu("alpha"), job, "No space left on device")
        await protected(watched, count)
        (told,) = (e.text for e in watched.events[count:] if e.kind == "trouble")
        assert "resume ended at alpha/wait/mirrored" in told
        assert "alpha" == await serves(life)

    play(tmp_path, scenario)


def test_supervisor_leaves_signals_and_logging_to_its_program(tmp_path: Path) -> None:
    """It is embedded: whoever runs the event loop says what a signal does, and what is logged."""

    def own() -> tuple[object, ...]:
        root = logging.getLogger()
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return (*handlers, signal.getsignal(signal.SIGCHLD), root.level, *root.handlers)

    async def scenario(life: FakePair) -> None:
        before = own()
        with Store(tmp_path) as store:
            async with kept(life, store) as watched:
                count = await protected(watched)
                life.world.qemu("alpha").kill()
                await protected(watched, count)
                assert before == own()
        assert before == own()

    in_world("11.1.3", scenario)

"""A pair is handed from its agents' arbiter back to its nodes' files: one of them counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, final

import attrs
import pytest
from tests.testing.agents import NODES, Agents, FarHost, Network, begun, play
from tests.testing.test_controller import write
from tests.testing.test_supervisor import serves
from tests.testing.testbed import FakePair, in_world, time_passes

from pycolo.errors import ArbiterLost, ArbiterOvertaken, HostRefused, UndecidedError
from pycolo.hosts import Host, HostState
from pycolo.model import ColoPair
from pycolo.plan import StopQemu
from pycolo.record import (
    Change,
    DamagedRecord,
    NoRecord,
    PairRecord,
    RecordState,
    UnreadRecord,
    dumps,
)
from pycolo.supervise import Held, SharedRecord
from pycolo.supervise._arbitration import Arbitration
from pycolo.supervise.arbiters import SqliteArbiter
from pycolo.supervise.release import Release, release
from pycolo.supervise.wishes import read_wish, set_paused, set_want
from pycolo.testing import FakeArbiter

PAIR: Final = "colo"
LIMIT_S: Final = 1.0


async def alone(life: FakePair, agents: Agents, network: Network) -> None:
    """Have the guest run alone, with its fuse disarmed, as `want unprotected` does."""
    await agents.protected()
    write(life)
    await set_want(network.arbiter.client("alpha"), PAIR, "unprotected", limit_s=LIMIT_S)
    async with asyncio.timeout(600.0):
        while len(life.world.running) > 1 or any(g.guarded for g in network.guards.values()):
            await time_passes(1.0)


async def released(life: FakePair, network: Network) -> Release:
    """Release the pair over a connection to the arbiter of its own."""
    return await release(life.pair, life.hosts, network.arbiter.client("me"), limit_s=LIMIT_S)


async def stored(network: Network) -> SharedRecord:
    """What the arbiter holds."""
    shared = (await network.arbiter.client("me").read(PAIR, limit_s=LIMIT_S)).shared
    assert shared is not None
    return shared


async def files(life: FakePair) -> dict[str, RecordState]:
    """What each node's file holds."""
    found = {}
    for node, host in life.hosts.items():
        found[node] = (await host.observe(life.pair, node, limit_s=LIMIT_S)).record
    return found


async def record_of(life: FakePair, node: str) -> PairRecord:
    """What a node's file holds, which is a record."""
    found = (await files(life))[node]
    assert isinstance(found, PairRecord)
    return found


def put(life: FakePair, node: str, record: PairRecord) -> None:
    """Write a node's file, as another program does."""
    life.hosts[node].files[life.pair.record_path(node)] = dumps(record).encode()


def test_fuse_is_disarmed_when_an_adoption_is_undone() -> None:
    """The agent armed it before, and does not use the monitor any more by which it is renewed."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await agents.protected()
        me = network.arbiter.client("me")
        async with asyncio.timeout(600.0):
            while (await stored(network)).released is None:
                held = await me.read(PAIR, limit_s=LIMIT_S)
                undone = attrs.evolve(await stored(network), released="to-files")
                with contextlib.suppress(ArbiterOvertaken):
                    await me.swap(PAIR, held, undone, limit_s=LIMIT_S)
        await time_passes(60.0)
        assert network.guards["alpha"].guarded is None
        assert "alpha" == await serves(life)

    play(scenario)


def test_person_acts_on_a_released_pair() -> None:
    """The agents that still run let go of the monitors, and do nothing about what happens then."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await alone(life, agents, network)
        with pytest.raises(UndecidedError, match="is managed by fake:1"):
            await life.compile("failover", survivor="alpha")
        before = await stored(network)
        done = await released(life, network)
        assert {} == done.unwritten
        assert (before.record.epoch + 1, 0) == done.record.order
        assert {"alpha": done.record, "beta": done.record} == await files(life)
        for node in NODES:
            await agents.until("since it was released to its files", node=node)
        await time_passes(60.0)
        count = len(agents.events)
        marked = await stored(network)
        await life.connect("alpha")
        await life.launch("beta")
        await life.run("start")
        write(life)
        await time_passes(60.0)
        assert "alpha" == await serves(life)
        await life.kill("alpha")
        await time_passes(60.0)
        assert ["beta"] == [q.line.name.split(":")[1] for q in life.world.running]
        await life.run("failover", survivor="beta")
        assert "beta" == await serves(life)
        await time_passes(60.0)
        assert marked == await stored(network)
        assert [] == [e.text for _, e in agents.events[count:] if e.kind in ("action", "person")]

    play(scenario)


def test_released_pair_is_taken_back_by_want() -> None:
    """The agents adopt the newest file, whatever was done by files since, and protect the guest."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await alone(life, agents, network)
        mark = (await released(life, network)).record
        await time_passes(60.0)
        await life.connect("alpha")
        await life.launch("beta")
        await life.run("start")
        write(life)
        await life.kill("alpha")
        await life.run("failover", survivor="beta")
        moved = await record_of(life, "beta")
        assert moved.order > mark.order
        await life.aclose()
        await set_paused(network.arbiter.client("me"), PAIR, "by me", limit_s=LIMIT_S)
        await set_paused(network.arbiter.client("me"), PAIR, None, limit_s=LIMIT_S)
        await time_passes(60.0)
        assert "to-files" == (await stored(network)).released
        count = len(agents.events)
        await set_want(network.arbiter.client("me"), PAIR, "protected", limit_s=LIMIT_S)
        await agents.protected(count)
        held = await agents.held(set(NODES))
        assert held.shared is not None
        assert (None, "beta") == (held.shared.released, held.shared.record.holder)
        assert held.shared.record.epoch > moved.epoch
        assert "beta" == network.guards["beta"].guarded.split(":")[1]  # type: ignore[union-attr]  # it is armed
        assert "beta" == await serves(life)

    play(scenario)


@pytest.mark.parametrize("is_undone", [False, True])
@pytest.mark.parametrize("are_both", [False, True])
def test_adoption_that_was_killed_is_finished_or_undone(
    *, is_undone: bool, are_both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder's agent has marked one file or both, and ended before it changed the arbiter."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await alone(life, agents, network)
        await released(life, network)
        await time_passes(60.0)
        await life.connect("alpha")
        await life.launch("beta")
        await life.run("start")
        await life.aclose()
        moved = await files(life)
        marked: list[str] = []
        write_ = Arbitration._filed  # noqa: SLF001 - an agent ends between two of its steps
        last = "beta" if are_both else "alpha"

        async def filed(one: Arbitration, node: str, record: PairRecord) -> bool:
            if last in marked or not await write_(one, node, record):
                return False
            marked.append(node)
            return node != last

        with monkeypatch.context() as patch:
            patch.setattr(Arbitration, "_filed", filed)
            await set_want(network.arbiter.client("me"), PAIR, "protected", limit_s=LIMIT_S)
            async with asyncio.timeout(600.0):
                while last not in marked:
                    await time_passes(0.1)
            await agents.aclose()
        assert "fake:1" == (await record_of(life, "alpha")).managed_by
        assert "wanted-back" == (await stored(network)).released
        with pytest.raises(UndecidedError, match="is managed by fake:1"):
            await life.compile("failover", survivor="beta")
        if is_undone:
            await released(life, network)
            assert moved == await files(life)
        count = len(agents.events)
        await set_want(network.arbiter.client("me"), PAIR, "protected", limit_s=LIMIT_S)
        for node in NODES:
            await agents.start(node)
        await agents.protected(count)
        assert (await stored(network)).released is None
        assert "alpha" == await serves(life)

    play(scenario)


def test_arbiter_from_a_backup_that_wants_the_pair_back_is_for_a_person() -> None:
    """The agents had adopted the files since: their files are newer, and are not adopted again."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await alone(life, agents, network)
        await released(life, network)
        await agents.aclose()
        await set_want(network.arbiter.client("me"), PAIR, "protected", limit_s=LIMIT_S)
        backup = network.arbiter.backup()
        for node in NODES:
            await agents.start(node)
        count = len(agents.events)
        await agents.protected(count)
        network.arbiter.restore(backup)
        await agents.until("was restored from a backup", node="alpha", since=count)
        await time_passes(60.0)
        assert backup.pairs["colo"] == network.arbiter.backup().pairs["colo"]
        with pytest.raises(ArbiterOvertaken, match="is newer"):
            await released(life, network)

    play(scenario)


class Killed(Exception):
    """The process that releases the pair has ended."""


@final
class Life:
    """How many changes one call of `release` makes before its process is killed."""

    def __init__(self, changes: int, *, is_last_done: bool) -> None:
        self._left = changes
        self._is_last_done = is_last_done

    def before(self) -> None:
        """End the process before the last change."""
        self._left -= 1
        if self._left == 0 and not self._is_last_done:
            raise Killed

    def after(self) -> None:
        """End the process after the last change, of which it does not hear any more."""
        if self._left == 0:
            raise Killed


async def killed(
    life: FakePair, network: Network, one: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Release the pair, and be killed at a change."""
    arbiter = network.arbiter.client("me")
    hosts = {name: FarHost(host) for name, host in life.hosts.items()}
    swap = arbiter.swap

    async def swapped(pair: str, held: Held, shared: SharedRecord, *, limit_s: float) -> Held:
        one.before()
        found = await swap(pair, held, shared, limit_s=limit_s)
        one.after()
        return found

    async def written(pair: ColoPair, node: str, change: Change, *, limit_s: float) -> None:
        one.before()
        await life.hosts[node].write(pair, node, change, limit_s=limit_s)
        one.after()

    monkeypatch.setattr(arbiter, "swap", swapped)
    for host in hosts.values():
        monkeypatch.setattr(host, "write", written)
    with pytest.raises(Killed):
        await release(life.pair, hosts, arbiter, limit_s=LIMIT_S)


@pytest.mark.parametrize("is_last_done", [False, True])
@pytest.mark.parametrize("changes", [1, 2, 3])
@pytest.mark.parametrize("are_running", [False, True])
def test_release_that_was_killed_is_repeated(
    changes: int, *, is_last_done: bool, are_running: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each moment either the arbiter counts, or the files do; with and without agents."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await alone(life, agents, network)
        before = await stored(network)
        if not are_running:
            await agents.aclose()
        count = len(agents.events)
        await killed(life, network, Life(changes, is_last_done=is_last_done), monkeypatch)
        # The agents, if they run, have time to do what they must not do.
        await time_passes(60.0)
        is_marked = (changes, is_last_done) != (1, False)
        assert ("to-files" if is_marked else None) == (await stored(network)).released
        is_free = (changes, is_last_done) == (3, True)
        assert is_free == ((await record_of(life, "alpha")).managed_by is None)
        if not is_marked:
            assert before == await stored(network)
        if not is_free:
            with pytest.raises(UndecidedError, match="is managed by fake:1"):
                await life.compile("stop")
        done = await released(life, network)
        assert (before.record.epoch + 1, {}) == (done.record.epoch, done.unwritten)
        assert {"alpha": done.record, "beta": done.record} == await files(life)
        # Once more, after the pair was changed by its files: nothing is written.
        await life.connect("alpha")
        await life.launch("beta")
        await life.run("start")
        moved = await files(life)
        assert done == await released(life, network)
        assert moved == await files(life)
        assert "alpha" == await serves(life)
        assert [] == [e.text for _, e in agents.events[count:] if e.kind in ("action", "person")]

    play(scenario)


def test_want_waits_for_a_release_that_is_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are behind the arbiter's record then: nothing is adopted, a person is asked."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await alone(life, agents, network)
        count = len(agents.events)
        await killed(life, network, Life(1, is_last_done=True), monkeypatch)
        marked = await stored(network)
        await set_want(network.arbiter.client("me"), PAIR, "protected", limit_s=LIMIT_S)
        await agents.until("the pair was not released whole", node="alpha", since=count)
        await time_passes(60.0)
        assert marked.record == (await stored(network)).record
        done = await released(life, network)
        assert {"alpha": done.record, "beta": done.record} == await files(life)
        await set_want(network.arbiter.client("me"), PAIR, "protected", limit_s=LIMIT_S)
        await agents.protected(count)
        assert "alpha" == await serves(life)

    play(scenario)


def test_file_that_cannot_be_written_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives no rights meanwhile, and the result names it."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await alone(life, agents, network)
        far = FarHost(life.hosts["beta"])

        async def refused(*_: object, **__: object) -> None:
            raise HostRefused("beta", "write-record", "its disk is full")

        monkeypatch.setattr(far, "write", refused)
        hosts: Mapping[str, Host] = {**life.hosts, "beta": far}
        me = network.arbiter.client("me")
        done = await release(life.pair, hosts, me, limit_s=LIMIT_S)
        assert ["beta"] == list(done.unwritten)
        assert "its disk is full" in done.unwritten["beta"]
        assert done.record == await record_of(life, "alpha")
        assert "fake:1" == (await record_of(life, "beta")).managed_by
        assert {} == (await released(life, network)).unwritten
        assert done.record == await record_of(life, "beta")

    play(scenario)


def test_pair_is_not_released_while_its_secondary_is_about_to_end() -> None:
    """The record names the primary alone before: the agent must still be able to end the QEMU."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await alone(life, agents, network)
        await agents.aclose()
        await life.connect("alpha")
        beta = await record_of(life, "beta")
        put(life, "alpha", attrs.evolve(await record_of(life, "alpha"), managed_by=None))
        put(life, "beta", attrs.evolve(beta, managed_by=None))
        await life.launch("beta")
        with pytest.raises(ArbiterOvertaken, match="a QEMU of beta still runs"):
            await released(life, network)
        await life.kill("beta")
        await released(life, network)

    play(scenario)


def test_answer_that_was_lost_is_no_release() -> None:
    """Whether the arbiter has the mark is not known: no file is written until it is known."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await alone(life, agents, network)
        before = await files(life)
        network.arbiter.lose_answer("me")
        with pytest.raises(ArbiterLost):
            await released(life, network)
        assert before == await files(life)
        assert {} == (await released(life, network)).unwritten

    play(scenario)


def test_agent_does_nothing_by_a_record_that_was_released() -> None:
    """Neither one that has not heard of the release yet, nor one that has."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await alone(life, agents, network)
        await agents.aclose()
        one = Arbitration(
            life.pair,
            "alpha",
            agents.hosts("alpha"),
            network.arbiter.client("alpha"),
            guard=None,
            wake=lambda: None,
            tell=lambda _, __: None,
        )
        async with begun(one):
            await time_passes(0.1)
            await one.hosts["alpha"].observe(life.pair, "alpha", limit_s=LIMIT_S)
            own = await record_of(life, "alpha")
            assert one.drives(own)
            bare = attrs.evolve(own, managed_by=None)
            later = Change(expects=bare, becomes=attrs.evolve(bare, revision=own.revision + 1))
            end = StopQemu(instance=life.world.qemu("alpha").line.name)
            network.arbiter.delay("alpha", back_s=0.5)
            mark = (await released(life, network)).record
            # The change of the arbiter is still on its way to this agent.
            with pytest.raises(HostRefused, match="was not changed"):
                await one.hosts["alpha"].write(life.pair, "alpha", later, limit_s=LIMIT_S)
            assert not await one.claim("alpha")
            network.arbiter.heal("alpha")
            await time_passes(2.0)
            assert one.frees_monitors
            assert not one.drives(bare)
            assert not one.drives(None)
            assert not await one.claim("alpha")
            with pytest.raises(HostRefused, match="was released from the arbiter to its files"):
                await one.hosts["alpha"].write(life.pair, "alpha", later, limit_s=LIMIT_S)
            with pytest.raises(HostRefused, match="was released from the arbiter to its files"):
                await one.hosts["alpha"].run(life.pair, "alpha", end, limit_s=LIMIT_S)
            await one.hosts["alpha"].observe(life.pair, "alpha", limit_s=LIMIT_S)
            assert "" == one.doubt
            assert not await one.settle(await life.probe())
            assert mark == (await stored(network)).record
            assert mark == await record_of(life, "alpha")
            # A person acts by the files; the other file shows an arbiter from a backup.
            later_epoch = attrs.evolve(mark, epoch=mark.epoch + 1)
            put(life, "alpha", later_epoch)
            await one.hosts["alpha"].observe(life.pair, "alpha", limit_s=LIMIT_S)
            assert "" == one.doubt
            put(life, "alpha", attrs.evolve(later_epoch, managed_by="fake:1"))
            await one.hosts["alpha"].observe(life.pair, "alpha", limit_s=LIMIT_S)
            assert "was restored from a backup" in one.doubt

    play(scenario)


def test_fuse_is_disarmed_after_a_release_too() -> None:
    """It gave no answer before: the guest must not be stopped while its files count."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await agents.protected()
        network.guards["alpha"].fails = 1000
        await set_want(network.arbiter.client("me"), PAIR, "unprotected", limit_s=LIMIT_S)
        async with asyncio.timeout(600.0):
            while (await stored(network)).released is None:
                with contextlib.suppress(ArbiterOvertaken):
                    await released(life, network)
                await time_passes(0.05)
        assert network.guards["alpha"].guarded is not None
        network.guards["alpha"].fails = 0
        await time_passes(60.0)
        assert network.guards["alpha"].guarded is None
        assert "alpha" == await serves(life)

    play(scenario)


def test_node_whose_file_is_lost_does_not_begin_a_released_pair_anew() -> None:
    """Its image may be lost with it: only a person knows."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await alone(life, agents, network)
        await released(life, network)
        await agents.aclose()
        life.world.qemu("alpha").kill()
        life.hosts["alpha"].files.clear()
        for node in NODES:
            await agents.start(node)
        await time_passes(60.0)
        await set_want(network.arbiter.client("me"), PAIR, "protected", limit_s=LIMIT_S)
        await time_passes(60.0)
        assert not life.world.running
        assert "wanted-back" == (await stored(network)).released

    play(scenario)


RECORD: Final = PairRecord(
    pair=PAIR,
    birth="1",
    epoch=4,
    revision=2,
    holder="alpha",
    eligible={"alpha": "colo:alpha:00000001"},
    phase="alone",
)
SHARED: Final = SharedRecord(record=RECORD, want="unprotected")
FILE: Final = attrs.evolve(RECORD, managed_by="fake:1")
BOTH: Final = attrs.evolve(
    RECORD, eligible={**RECORD.eligible, "beta": "colo:beta:00000002"}, phase="protected"
)
JOINING: Final = attrs.evolve(RECORD, phase="joining", joining="colo:beta:00000002")


@pytest.mark.parametrize(
    ("shared", "changed", "why"),
    [
        (None, {}, "it holds none"),
        (attrs.evolve(SHARED, want="protected"), {}, "protected is wanted"),
        (attrs.evolve(SHARED, record=BOTH), {}, "does not run alone yet"),
        (attrs.evolve(SHARED, record=JOINING), {}, "does not run alone yet"),
        (attrs.evolve(SHARED, claimed_by="beta"), {}, "does not run alone yet"),
        (
            attrs.evolve(SHARED, released="wanted-back"),
            {"alpha": attrs.evolve(RECORD, epoch=5)},
            "about to take it back",
        ),
        (
            attrs.evolve(SHARED, released="wanted-back"),
            {"alpha": attrs.evolve(FILE, epoch=5)},
            "alpha is newer",
        ),
        (SHARED, {"gamma": UnreadRecord(why="away")}, "gamma cannot be read: away"),
        (SHARED, {"beta": DamagedRecord(why="edited", digest="0")}, "beta cannot be read: edited"),
        (SHARED, {"gamma": NoRecord(lost="its disk is new")}, "gamma cannot be read: its disk is"),
        (SHARED, {"alpha": NoRecord()}, "alpha cannot be read: it is absent"),
        (SHARED, {"alpha": attrs.evolve(FILE, revision=1)}, "alpha is not up to date"),
        (SHARED, {"gamma": attrs.evolve(FILE, epoch=5)}, "gamma is newer"),
        (SHARED, {"beta": attrs.evolve(RECORD, epoch=5)}, "beta is newer"),
        (SHARED, {"beta": attrs.evolve(FILE, birth="2")}, "beta belongs to another pair"),
        (SHARED, {"beta": attrs.evolve(FILE, managed_by="fake:2")}, "beta is handed to fake:2"),
        (
            attrs.evolve(SHARED, released="to-files"),
            {"beta": attrs.evolve(FILE, epoch=5)},
            "beta is newer",
        ),
        (
            attrs.evolve(SHARED, released="to-files"),
            {"gamma": UnreadRecord(why="away")},
            "gamma cannot be read: away",
        ),
    ],
)
def test_refusal_changes_nothing(
    shared: SharedRecord | None,
    changed: Mapping[str, RecordState],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever keeps a pair from being released is named, and neither arbiter nor file changes."""

    def fixed(host: Host, file: RecordState) -> FarHost:
        async def observe(*_: object, **__: object) -> HostState:
            return HostState(record=file)

        async def written(*_: object, **__: object) -> None:
            pytest.fail("a file was written")

        far = FarHost(host)
        monkeypatch.setattr(far, "observe", observe)
        monkeypatch.setattr(far, "write", written)
        return far

    async def scenario(life: FakePair) -> None:
        arbiter = FakeArbiter().client("me")
        if shared is not None:
            await arbiter.swap(PAIR, Held(), shared, limit_s=LIMIT_S)
        before = await arbiter.read(PAIR, limit_s=LIMIT_S)
        found = {"alpha": FILE, "beta": FILE, **changed}
        hosts = {n: fixed(host, found.get(n, NoRecord())) for n, host in life.hosts.items()}
        with pytest.raises(ArbiterOvertaken, match=why):
            await release(life.pair, hosts, arbiter, limit_s=LIMIT_S)
        assert before == await arbiter.read(PAIR, limit_s=LIMIT_S)

    in_world("11.1.3", scenario)


def test_arbiter_may_be_a_file(tmp_path: Path) -> None:
    """It keeps the mark; a spare that has never joined has no file, and gets none."""

    async def scenario(life: FakePair) -> None:
        arbiter = SqliteArbiter(tmp_path)
        file = attrs.evolve(FILE, managed_by=await arbiter.identity(limit_s=LIMIT_S))
        for node in NODES:
            put(life, node, file)
        await arbiter.swap(PAIR, Held(), SHARED, limit_s=LIMIT_S)
        done = await release(life.pair, life.hosts, arbiter, limit_s=LIMIT_S)
        absent = dict.fromkeys(life.pair.names, NoRecord())
        assert {**absent, "alpha": done.record, "beta": done.record} == await files(life)
        await arbiter.aclose()
        again = SqliteArbiter(tmp_path)
        held = await again.read(PAIR, limit_s=LIMIT_S)
        assert attrs.evolve(SHARED, record=done.record, released="to-files") == held.shared
        assert done == await release(life.pair, life.hosts, again, limit_s=LIMIT_S)
        wish = await read_wish(again, PAIR, limit_s=LIMIT_S)
        assert wish.paused is not None
        assert "released to its files" in wish.paused
        await again.aclose()

    in_world("11.1.3", scenario)

"""An agent on each host, on fakes: whoever continues alone has asked the arbiter first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import attrs
import pytest
from tests.testing.agents import NODES, Agents, Network, begun, play, started
from tests.testing.test_controller import write
from tests.testing.test_supervisor import freezes_as_a_checkpoint_begins, serves
from tests.testing.testbed import FakePair, declared, in_world, time_passes

from pycolo.cli._watch import said_by_agent
from pycolo.errors import ArbiterOvertaken, HostRefused, RefusedError, UndecidedError
from pycolo.model import Supervision
from pycolo.observers import Observer
from pycolo.plan import StopQemu
from pycolo.record import PairRecord, dumps, loads
from pycolo.supervise import Arbiter, Held, LeaseAge
from pycolo.supervise._arbitration import Arbitration
from pycolo.supervise.control import find, of_agents, served
from pycolo.supervise.wishes import read_wish, set_paused, set_want
from pycolo.testing._monitor import Client
from pycolo.testing._network import end


def test_a_new_pair_is_protected() -> None:
    """Two agents and an empty arbiter: the first node is launched, and the second one protects."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        await agents.protected()
        write(life)
        assert "alpha" == await serves(life)
        held = await agents.held({"alpha", "beta"})
        assert held.shared is not None
        assert "protected" == held.shared.record.phase
        assert {"alpha": life.pair.supervision.fuse_s} == held.shared.fuses

    play(scenario)


@pytest.mark.parametrize(("victim", "survivor"), [("alpha", "beta"), ("beta", "alpha")])
def test_death_is_survived(victim: str, survivor: str) -> None:
    """Whoever dies, the other one continues with every write, and is protected again."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        count = await agents.protected()
        write(life)
        life.world.qemu(victim).kill()
        count = await agents.until("failover is done", node=survivor, since=count)
        assert survivor == await serves(life)
        await agents.protected(count)
        write(life)
        assert survivor == await serves(life)

    play(scenario)


@pytest.mark.parametrize("is_cut", [False, True])
def test_secondary_that_stops_responding_as_a_checkpoint_begins(*, is_cut: bool) -> None:
    """The primary's main loop waits for it (qemu-behaviour 7.3), and the primary continues."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        count = await agents.protected()
        write(life)
        await freezes_as_a_checkpoint_begins(life, "beta")
        if is_cut:
            agents.cut_hosts()
        async with asyncio.timeout(30.0):
            await agents.until("failover is done", node="alpha", since=count)
        assert "alpha" == await serves(life)

    play(scenario)


def test_claimer_that_has_not_read_its_file_since_ends_the_other_qemu() -> None:
    """It acts by the arbiter's record: nobody is asked for, and no lease is waited for."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        count = await agents.protected()
        (inside,) = agents.running["beta"]._authorities.values()  # noqa: SLF001 - as if not read
        assert isinstance(inside, Arbitration)
        file = inside._files["beta"]  # noqa: SLF001 - as above
        assert isinstance(file, PairRecord)
        # As it was read before the pair was protected, and not since.
        inside._files = {"beta": attrs.evolve(file, revision=file.revision - 1)}  # noqa: SLF001 - as above
        inside._written = None  # noqa: SLF001 - as above
        life.world.qemu("alpha").freeze()
        await agents.until("continues alone", node="beta", since=count)
        told = [event.text for _, event in agents.events[count:] if event.kind == "person"]
        assert not told
        assert "beta" == await serves(life)

    play(scenario)


def test_cut_between_the_hosts_ends_one_guest() -> None:
    """The first to claim continues, once the other one's lease has run out; the loser is ended."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        write(life)
        loser = life.world.qemu("beta")
        network.cut()
        await agents.until("failover is done", node="alpha", since=count)
        assert "alpha" == await serves(life)
        await agents.until("the record gives the pair to another QEMU", node="beta", since=count)
        assert not loser.alive
        assert network.guards["alpha"].stopped is None
        network.heal()
        await agents.protected(len(agents.events))
        assert "alpha" == await serves(life)
        assert not [event.text for _, event in agents.events[count:] if event.kind == "person"]

    play(scenario)


def test_lease_that_is_no_evidence_in_time_is_for_a_person(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until then nobody is asked, since the claim keeps the other node from renewing it."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        limits = life.pair.supervision
        await agents.stop("beta")
        network.cut()
        count = await agents.until("claims the pair", since=count)
        # As if the arbiter did not delete a lease that has run out.
        monkeypatch.setattr(Arbitration, "lacks_lease", lambda *_: False)
        claimed_s = life.world.now_s
        await agents.until("continues when the lease of beta has run out", since=count)
        async with asyncio.timeout(60.0):
            count = await agents.until("bring its host back", node="alpha", since=count)
        assert "person" == agents.events[count - 1][1].kind
        assert life.world.now_s - claimed_s >= limits.lease_s + limits.retake_s

    play(scenario)


def test_isolated_primary_is_stopped_before_the_other_one_continues() -> None:
    """Cut from the arbiter and its peer, it is stopped by its fuse, and killed later."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        write(life)
        loser = life.world.qemu("alpha")
        network.cut()
        network.arbiter.cut("alpha")
        count = await agents.until("continues alone", node="beta", since=count)
        assert loser.frozen
        assert "the lease of alpha has run out" in agents.events[count - 1][1].text
        await agents.until("failover is done", node="beta", since=count)
        assert "beta" == await serves(life)
        await time_passes(life.pair.supervision.kill_s)
        assert not loser.alive
        network.heal()
        network.arbiter.heal("alpha")
        await agents.protected(len(agents.events))
        assert "beta" == await serves(life)

    play(scenario)


def test_secondary_that_lacks_writes_is_claimed_against_without_a_way_to_its_host() -> None:
    """Its QEMU gives no answer, and nobody else can end it: the claim ends its lease."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        count = await agents.protected()
        agents.cut_hosts()
        life.world.qemu("beta").freeze()
        for link in life.world.qemu("alpha").disk_links.values():
            link.up = False
        write(life)
        count = await agents.until("continues alone", node="alpha", since=count)
        assert "the lease of beta has run out" in agents.events[count - 1][1].text
        await agents.until("failover is done", node="alpha", since=count)
        assert "alpha" == await serves(life)

    play(scenario)


def test_without_a_fuse_a_lease_is_no_evidence() -> None:
    """Nothing has stopped the primary: the secondary waits for a person (Patroni's trap)."""

    async def scenario(_: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        network.cut()
        network.arbiter.cut("alpha")
        count = await agents.until("nobody can show", node="beta", since=count)
        await time_passes(60.0)
        assert {"beta"} == (await network.arbiter.client("beta").read("colo", limit_s=1.0)).leases
        assert not [event for _, event in agents.events if "continues alone" in event.text]
        assert "nobody can show" in agents.running["beta"].status("colo").person
        network.heal()
        network.arbiter.heal("alpha")
        await agents.protected(count)
        async with asyncio.timeout(60.0):
            while agents.running["beta"].status("colo").person:
                await time_passes(1.0)

    play(scenario, fuses=False)


def test_claimer_whose_qemu_gives_no_answer_leaves_the_pair_to_the_other_one() -> None:
    """It ends nobody, and gives its claim back before the other node would take the claim over."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        network.cut()
        count = await agents.until("nobody can show", node="alpha", since=count)
        life.world.qemu("alpha").freeze()
        count = await agents.until("claims the pair from alpha", node="beta", since=count)
        held = await network.arbiter.client("beta").read("colo", limit_s=1.0)
        assert held.shared is not None
        assert "beta" == held.shared.claimed_by
        network.heal()
        count = await agents.until("continues alone", node="beta", since=count)
        assert "beta" == await serves(life)
        await agents.protected(count)

    play(scenario, fuses=False)


@pytest.mark.parametrize("nodes", [("alpha",), ("beta",), ("alpha", "beta")])
def test_arbiter_outage_stops_nobody_in_healthy_colo(nodes: tuple[str, ...]) -> None:
    """Checkpoints renew the fuse, asked for if they are too rare (as in Proxmox and vSphere FT)."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await agents.protected()
        before = {q.line.name for q in life.world.running}
        for node in nodes:
            network.arbiter.cut(node)
        await time_passes(120.0)
        assert before == {q.line.name for q in life.world.running}
        assert network.guards["alpha"].stopped is None
        assert "alpha" == await serves(life)
        for node in nodes:
            network.arbiter.heal(node)
        await time_passes(5.0)
        assert before == {q.line.name for q in life.world.running}

    play(scenario, pair=attrs.evolve(declared(checkpoint_delay_ms=20000), spares=()))


def test_age_of_a_lease_is_measured() -> None:
    """It grows while the arbiter gives no answer, and its longest time stays afterwards."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        def lease() -> LeaseAge:
            (measures,) = agents.running["alpha"].measures
            assert measures.silence.lease is not None
            return measures.silence.lease

        await agents.protected()
        await time_passes(10.0)
        before = lease()
        assert life.pair.supervision.lease_s == before.limit_s
        assert before.age_s <= before.longest_s < life.pair.supervision.fuse_s / 2
        network.arbiter.cut("alpha")
        await time_passes(20.0)
        assert 20.0 <= lease().age_s == lease().longest_s
        network.arbiter.heal("alpha")
        await time_passes(5.0)
        assert lease().age_s < 1.0
        assert 20.0 <= lease().longest_s

    play(scenario)


def test_frozen_agent_of_a_secondary_changes_nothing() -> None:
    """Its lease runs out while checkpoints come: nobody fails over (Patroni's trap)."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        count = await agents.protected()
        before = {q.line.name for q in life.world.running}
        await agents.stop("beta")
        await agents.held({"alpha"})
        await time_passes(60.0)
        assert before == {q.line.name for q in life.world.running}
        assert "alpha" == await serves(life)
        await agents.start("beta")
        await agents.held({"alpha", "beta"})
        assert not [e for _, e in agents.events[count:] if "continues alone" in e.text]

    play(scenario)


@pytest.mark.parametrize("victim", NODES)
def test_agent_that_reads_of_another_protection_late_ends_nobody(victim: str) -> None:
    """The end of COLO that it has seen meanwhile belongs to the protection before."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        survivor = next(name for name in NODES if name != victim)
        network.arbiter.cut(victim)
        life.world.qemu(victim).kill()
        await agents.until(
            "protected",
            node=survivor,
            since=await agents.until("resume is done", node=survivor, since=count),
        )
        before = {q.line.name for q in life.world.running}
        network.arbiter.heal(victim)
        await time_passes(30.0)
        assert before == {q.line.name for q in life.world.running}
        assert survivor == await serves(life)

    play(scenario)


def test_files_are_handed_to_the_arbiter() -> None:
    """A pair that was launched without one is adopted, and its files give no right from then on."""

    async def scenario(life: FakePair) -> None:
        await life.launch("alpha", "beta")
        await life.run("start")
        await life.aclose()
        write(life)
        network = Network(life)
        async with started(network.agents) as agents:
            await agents.protected()
            held = await agents.held({"alpha", "beta"})
            assert held.shared is not None
            assert 2 == held.shared.record.epoch
            with pytest.raises(UndecidedError, match="is managed by fake:1"):
                await life.compile("failover", survivor="beta")
            life.world.qemu("alpha").kill()
            await agents.until("failover is done", node="beta")
            assert "beta" == await serves(life)

    in_world("11.1.3", scenario, attrs.evolve(declared(), spares=()))


def test_arbiter_restored_from_a_backup_is_for_a_person() -> None:
    """Its epoch is below that of a file: nothing is killed, and nothing is done by itself."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        backup = network.arbiter.backup()
        life.world.qemu("alpha").kill()
        count = await agents.until("failover is done", node="beta", since=count)
        count = await agents.protected(count)
        before = {q.line.name for q in life.world.running}
        network.arbiter.restore(backup)
        await agents.until("nothing is safe by itself", node="beta", since=count)
        count = await agents.until("was restored from a backup", node="beta", since=count)
        assert "person" == agents.events[count - 1][1].kind
        await time_passes(60.0)
        assert before == {q.line.name for q in life.world.running}

    play(scenario)


def test_arbiter_that_lost_its_data_is_for_a_person() -> None:
    """It holds no record of a pair whose files name it: a person is told what to do."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        empty = network.arbiter.backup()
        count = await agents.protected()
        before = {q.line.name for q in life.world.running}
        network.arbiter.restore(empty)
        count = await agents.until("holds nothing of this pair", node="alpha", since=count)
        assert "person" == agents.events[count - 1][1].kind
        assert before == {q.line.name for q in life.world.running}

    play(scenario)


def test_pair_without_a_later_backup_is_adopted_from_its_files() -> None:
    """A person deletes its old record and clears the files' mark: its QEMUs run on, protected."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        empty = network.arbiter.backup()
        count = await agents.protected()
        backup = network.arbiter.backup()
        life.world.qemu("alpha").kill()
        count = await agents.until("failover is done", node="beta", since=count)
        count = await agents.protected(count)
        write(life)
        before = list(life.world.running)
        network.arbiter.restore(backup)
        count = await agents.until("was restored from a backup", node="beta", since=count)
        network.arbiter.restore(empty)
        for node in NODES:
            path = life.pair.record_path(node)
            held = loads(life.hosts[node].files[path])
            assert isinstance(held, PairRecord)
            life.hosts[node].files[path] = dumps(attrs.evolve(held, managed_by=None)).encode()
        for node in NODES:
            await agents.stop(node)
            await agents.start(node)
        await agents.protected(count)
        await time_passes(60.0)
        assert before == life.world.running
        assert network.guards["beta"].stopped is None
        assert "beta" == await serves(life)

    play(scenario)


def test_arbiter_that_lost_an_adopted_pair_is_for_a_person() -> None:
    """The agent that has adopted the files does not adopt them once more."""

    async def scenario(life: FakePair) -> None:
        await life.launch("alpha", "beta")
        await life.run("start")
        await life.aclose()
        network = Network(life)
        empty = network.arbiter.backup()
        async with started(network.agents) as agents:
            count = await agents.protected()
            network.arbiter.restore(empty)
            await agents.until("holds nothing of this pair", node="alpha", since=count)
            held = await network.arbiter.client("beta").read("colo", limit_s=1.0)
            assert held.shared is None

    in_world("11.1.3", scenario, attrs.evolve(declared(), spares=()))


def test_agents_that_have_ended_leave_a_protected_primary_to_its_fuse() -> None:
    """So agents must not be ended for long while a pair is protected."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await agents.protected()
        primary = life.world.qemu("alpha")
        await agents.aclose()
        limits = life.pair.supervision
        await time_passes(limits.fuse_s + 0.1)
        assert primary.frozen
        assert primary is network.guards["alpha"].stopped
        await time_passes(limits.kill_s)
        assert not primary.alive

    play(scenario)


def test_agents_may_end_while_the_guest_runs_alone() -> None:
    """Its fuse is disarmed; when they are back, it is protected again where that is wanted."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        arbiter = network.arbiter.client("alpha")
        await set_want(arbiter, "colo", "unprotected", limit_s=1.0)
        async with asyncio.timeout(600.0):
            while len(life.world.running) > 1 or network.guards["alpha"].guarded:
                await time_passes(1.0)
        await agents.aclose()
        await time_passes(600.0)
        assert "alpha" == await serves(life)
        for node in NODES:
            await agents.start(node)
        await set_want(arbiter, "colo", "protected", limit_s=1.0)
        await agents.protected(count)
        assert "alpha" == await serves(life)

    play(scenario)


def test_fuse_that_has_lost_what_was_armed_is_armed_again() -> None:
    """The arbiter says that the primary has a fuse, so that one has to guard it."""

    async def scenario(_: FakePair, agents: Agents, network: Network) -> None:
        await agents.protected()
        guard = network.guards["alpha"]
        armed = guard.guarded
        guard.forget()
        await time_passes(2.0)
        assert armed == guard.guarded

    play(scenario)


def test_silent_fuse_delays_no_lease() -> None:
    """Else the lease runs out, which tells the other node that the fuse has stopped this one."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await agents.protected()
        await agents.held(NODES)
        network.guards["alpha"].is_silent = True
        arbiter = network.arbiter.client("beta")
        for _ in range(80):
            await time_passes(0.25)
            assert "alpha" in (await arbiter.read(life.pair.name, limit_s=1.0)).leases
        assert "trouble" in {event.kind for _, event in agents.events}

    play(scenario, pair=attrs.evolve(declared(), spares=(), supervision=Supervision(fuse_s=1.0)))


def test_why_the_arbiter_gives_no_answer_is_told_once() -> None:
    """Else nobody could see what is wrong with the way to it."""

    async def scenario(_: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        network.arbiter.cut("beta")
        count = await agents.until("no certain answer of the arbiter", node="beta", since=count)
        assert "trouble" == agents.events[count - 1][1].kind
        await time_passes(60.0)
        assert not [e for _, e in agents.events[count:] if "no certain answer" in e.text]

    play(scenario)


def test_what_is_wanted_is_in_the_arbiter() -> None:
    """While it is paused nobody continues; what is wanted is brought about by whoever may."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        arbiter = network.arbiter.client("alpha")
        with pytest.raises(ArbiterOvertaken, match="holds none; start the agents first"):
            await set_paused(arbiter, "other", "by the test", limit_s=1.0)
        count = await agents.protected()
        assert (
            "by the test" == (await set_paused(arbiter, "colo", "by the test", limit_s=1.0)).paused
        )
        await agents.until("supervision is paused by the test", node="beta", since=count)
        life.world.qemu("alpha").kill()
        await time_passes(60.0)
        assert not [e for _, e in agents.events if "continues alone" in e.text]
        await set_paused(arbiter, "colo", None, limit_s=1.0)
        await agents.until("failover is done", node="beta", since=count)
        count = await agents.protected(len(agents.events))
        assert "stopped" == (await set_want(arbiter, "colo", "stopped", limit_s=1.0)).want
        async with asyncio.timeout(600.0):
            while life.world.running:
                await time_passes(1.0)
        assert "stopped" == (await read_wish(arbiter, "colo", limit_s=1.0)).want

    play(scenario)


def test_guest_that_shuts_down_in_a_pause_stays_down() -> None:
    """The agents hear that during the pause, and write it down once that has ended."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        arbiter, count = network.arbiter.client("alpha"), await agents.protected()
        await time_passes(5.0)
        await set_paused(arbiter, "colo", "by the test", limit_s=1.0)
        await agents.until("supervision is paused by the test", node="alpha", since=count)
        for name in NODES:
            life.world.qemu(name).event("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})
            end(life.world.qemu(name), 0)
        await time_passes(5.0)
        assert "protected" == (await read_wish(arbiter, "colo", limit_s=1.0)).want
        await set_paused(arbiter, "colo", None, limit_s=1.0)
        await agents.until("stopped is wanted", since=count)
        await time_passes(60.0)
        assert not life.world.running

    play(scenario)


def test_outage_of_the_arbiter_spends_no_tries() -> None:
    """A resync that waits for the arbiter for a minute is done when it answers again."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await agents.until("following", node="beta")
        for node in NODES:
            network.arbiter.cut(node)
        await time_passes(60.0)
        for node in NODES:
            network.arbiter.heal(node)
        since_s = life.world.now_s
        await agents.protected()
        assert life.world.now_s - since_s < 60.0
        assert not [e.text for _, e in agents.events if "within an hour" in e.text]

    play(scenario)


def test_evidence_of_an_earlier_failover_is_in_nobodys_way() -> None:
    """Who continued by a lease can give up its next secondary, which has a lease of its own."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        network.cut()
        network.arbiter.cut("alpha")
        await agents.until("failover is done", node="beta", since=count)
        await time_passes(life.pair.supervision.kill_s)
        network.heal()
        network.arbiter.heal("alpha")
        await agents.protected(len(agents.events))
        await set_want(network.arbiter.client("beta"), "colo", "unprotected", limit_s=1.0)
        async with asyncio.timeout(60.0):
            while len(life.world.running) > 1:
                await time_passes(1.0)
        assert "beta" == await serves(life)

    play(scenario)


def test_qemu_is_not_ended_for_a_claim_that_was_taken_over() -> None:
    """The host took its time to say that the QEMU runs: by then it serves, by its own claim."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        agents.far["beta", "alpha"].answers.clear()
        network.arbiter.cut("alpha")
        life.world.cut(*NODES)
        count = await agents.until("claims the pair", node="beta", since=count)
        network.arbiter.heal("alpha")
        await agents.until("failover is done", node="alpha", since=count)
        survivor = life.world.qemu("alpha")
        agents.far["beta", "alpha"].answers.set()
        await time_passes(5.0)
        assert survivor.alive
        assert "alpha" == await serves(life)

    play(scenario, fuses=False)


def test_fuse_that_is_armed_with_other_limits_is_waited_for() -> None:
    """Agents with a changed pair file: the fuse keeps the limit with which it was armed."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        life.pair = attrs.evolve(life.pair, supervision=Supervision(fuse_s=1.0))
        for node in NODES:
            await agents.stop(node)
            await agents.start(node)
        count = await agents.protected(count)
        write(life)
        loser = life.world.qemu("alpha")
        network.cut()
        network.arbiter.cut("alpha")
        for monitor in loser.monitors:
            monitor.hang_up()
        await agents.until("continues alone", node="beta", since=count)
        assert loser.frozen
        await agents.until("failover is done", node="beta", since=count)
        assert "beta" == await serves(life)

    slow = attrs.evolve(declared(), spares=(), supervision=Supervision(fuse_s=8.0))
    play(scenario, pair=slow)


def test_fuse_that_is_armed_with_a_shorter_limit_is_renewed_in_time() -> None:
    """Agents with a changed pair file renew as often as the armed fuse needs it."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        before = list(life.world.running)
        life.pair = attrs.evolve(life.pair, supervision=Supervision(fuse_s=40.0))
        for node in NODES:
            await agents.stop(node)
            await agents.start(node)
        await agents.protected(count)
        await time_passes(60.0)
        assert network.guards["alpha"].stopped is None
        assert before == life.world.running

    play(scenario, pair=attrs.evolve(declared(checkpoint_delay_ms=60000), spares=()))


def test_fuse_is_disarmed_though_it_gave_no_answer_at_first() -> None:
    """A guest that runs alone is stopped by no fuse."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        survivor = life.world.qemu("alpha")
        network.guards["alpha"].fails = 2
        life.world.qemu("beta").kill()
        agents.far["alpha", "beta"].is_cut = True
        await agents.until("failover is done", node="alpha", since=count)
        await time_passes(60.0)
        assert survivor.alive
        assert not survivor.frozen

    play(scenario)


def test_fuse_that_an_earlier_agent_left_armed_is_disarmed() -> None:
    """An agent may end between its failover and that."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        survivor = life.world.qemu("alpha")
        life.world.qemu("beta").kill()
        agents.far["alpha", "beta"].is_cut = True
        await agents.until("failover is done", node="alpha", since=count)
        await agents.stop("alpha")
        await network.guards["alpha"].arm(survivor.line.name)
        await agents.start("alpha")
        await time_passes(60.0)
        assert survivor.alive
        assert not survivor.frozen

    play(scenario)


@pytest.mark.parametrize("node", NODES)
def test_observer_monitor_that_another_client_holds_is_no_death(node: str) -> None:
    """The other host's agent has no second way to a QEMU: nobody is ended for that."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        await agents.protected()
        before = list(life.world.processes)
        place = life.pair.node(node).observer_monitor
        held = next(one for one in life.world.qemu(node).monitors if one.place == place)
        other = Client(send=lambda _: None, close=lambda: None)
        held.hang_up()
        held.join(other)
        await time_passes(120.0)
        held.leave(other)
        await time_passes(60.0)
        assert before == list(life.world.processes)
        assert not [e for _, e in agents.events if e.kind == "action"]

    play(scenario, pair=attrs.evolve(declared(checkpoint_delay_ms=20000), spares=()))


@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize("first", NODES)
def test_guest_that_ends_is_not_a_death(first: str, *, is_slow: bool) -> None:
    """Whoever's QEMU ends first, no agent asks a person, and the secondary does not continue."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        await agents.protected()
        # The round after that, which would stop what is wanted no more.
        await time_passes(5.0)
        count = len(agents.events)
        for name in reversed(NODES):
            life.world.qemu(name).event("SHUTDOWN", {"guest": True, "reason": "guest-panic"})
        lost = {"node-name": life.pair.disks[0].names.nbd, "type": "flush"}
        sectors = {"sector-num": 0, "sectors-count": 0}
        life.world.qemu("alpha").event("QUORUM_REPORT_BAD", {**lost, **sectors})
        for name in sorted(NODES, key=lambda name: name != first):
            end(life.world.qemu(name), 0)
            await time_passes(0.4 if is_slow else 0.02)
        await agents.until("stopped is wanted", since=count)
        await time_passes(60.0)
        # A primary that is slow to end may leave COLO before.
        assert {"state", "execution"} >= {event.kind for _, event in agents.events[count:]}
        assert not life.world.running
        shared = (await agents.arbiters["alpha"].read(life.pair.name, limit_s=1.0)).shared
        assert shared is not None
        assert ("alpha", "stopped") == (shared.record.holder, shared.want)

    play(scenario)


def test_person_is_told_of_what_may_never_come() -> None:
    """The other node's agent is gone, so that nobody continues: the wait alone tells of it."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        count = await agents.protected()
        await agents.stop("beta")
        life.world.qemu("alpha").kill()
        await time_passes(60.0)
        persons = [e.text for _, e in agents.events[count:] if e.kind == "person"]
        assert ["waiting: its QEMU does not run"] == persons

    play(scenario)


@pytest.mark.parametrize("phase", ["alone", "joining"])
def test_host_of_an_unprotected_guest_that_is_gone_is_for_a_person(phase: str) -> None:
    """The other node may not continue, and its agent is the only one that can report it."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        if phase == "alone":
            await set_want(network.arbiter.client("beta"), "colo", "unprotected", limit_s=1.0)
            count = await agents.until("stop is done", node="alpha", since=count)
            await time_passes(1.0)
        else:
            life.world.qemu("beta").kill()
            count = await agents.until("failover is done", node="alpha", since=count)
            count = await agents.until("launch is done", node="alpha", since=count)
        await network.lose("alpha")
        await time_passes(60.0)
        persons = [e.text for _, e in agents.events[count:] if e.kind == "person"]
        assert ["following: alpha alone may run the guest, and gives no answer"] == persons

    play(scenario, pair=attrs.evolve(declared(), spares=()))


def test_outage_of_the_arbiter_is_told() -> None:
    """While COLO works nothing is missing, and yet somebody has to mend it."""

    async def scenario(_: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        network.arbiter.cut("beta")
        await time_passes(60.0)
        told = [e.text for _, e in agents.events[count:] if e.kind == "trouble"]
        assert len(told) == 1
        assert "no answer within" in told[0]

    play(scenario)


def test_records_of_another_arbiter_are_not_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that is told of a new arbiter: the other agent still goes by the one before."""

    async def scenario(_: FakePair, agents: Agents, network: Network) -> None:
        nothing = network.arbiter.backup()
        await agents.protected()
        await agents.stop("alpha")
        network.arbiter.restore(nothing)

        async def identity(_: object, *, limit_s: float) -> str:  # noqa: ARG001 - an Arbiter's
            return "fake:2"

        monkeypatch.setattr("pycolo.testing._arbiter._Client.identity", identity)
        await agents.start("alpha")
        await agents.until("are handed over to fake:1, not to fake:2", node="alpha")
        await time_passes(60.0)
        assert (await network.arbiter.client("beta").read("colo", limit_s=1.0)).shared is None

    play(scenario, fuses=False)


def test_file_that_its_own_agent_has_written_first_is_as_good() -> None:
    """The answer to a swap is on its way while the other agent already writes its node's file."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        network.arbiter.delay("alpha", back_s=0.5)
        await agents.protected()
        assert not [e.text for _, e in agents.events if e.kind == "trouble"]
        assert 2 == len(life.world.processes)

    play(scenario)


def test_what_speaks_to_the_arbiter_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw is told, and the agent follows the record again."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        arbiter = network.arbiter.client("beta")
        right, calls = type(arbiter).changed, 0

        async def once_wrong(self: Arbiter, pair: str, held: Held, *, limit_s: float) -> Held:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ValueError("nobody foresaw it")
            return await right(self, pair, held, limit_s=limit_s)

        monkeypatch.setattr(type(arbiter), "changed", once_wrong)
        await agents.until("failed and is started again: nobody foresaw it", since=count)
        life.world.qemu("alpha").kill()
        await agents.until("failover is done", node="beta", since=count)
        await agents.protected(len(agents.events))

    play(scenario)


@pytest.mark.parametrize("node", NODES)
def test_file_that_was_lost_while_its_qemu_runs_is_written_again(node: str) -> None:
    """Else no plan of its agent is permitted any more, and nobody continues on that node."""

    async def scenario(life: FakePair, agents: Agents, _: Network) -> None:
        count = await agents.protected()
        path = life.pair.record_path(node)
        before = life.hosts[node].files.pop(path)
        await agents.stop(node)
        await agents.start(node)
        count = await agents.until("protected", node=node, since=count)
        await time_passes(1.0)
        assert before == life.hosts[node].files[path]
        other = next(one for one in NODES if one != node)
        life.world.qemu(other).kill()
        await agents.until("failover is done", node=node, since=count)
        assert node == await serves(life)

    play(scenario)


def test_qemu_of_another_host_is_ended_only_with_the_arbiters_word() -> None:
    """Its node claims the pair by now, or the arbiter gives no answer: it is let be."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await agents.protected()
        await agents.aclose()
        network.guards["alpha"].forget()
        other, peer = network.arbiter.client("beta"), life.world.qemu("beta")
        one = Arbitration(
            life.pair,
            "alpha",
            agents.hosts("alpha"),
            network.arbiter.client("alpha"),
            guard=None,
            wake=lambda: None,
            tell=lambda _, __: None,
        )
        end = StopQemu(instance=peer.line.name)

        async def ended() -> None:
            await one.hosts["beta"].run(life.pair, "beta", end, limit_s=1.0)

        async with begun(one):
            await time_passes(0.1)
            with pytest.raises(HostRefused, match="a later record than the one that was read"):
                await ended()
            await one.hosts["alpha"].observe(life.pair, "alpha", limit_s=1.0)
            held = await other.read("colo", limit_s=1.0)
            assert held.shared is not None
            claimed = attrs.evolve(held.shared, claimed_by="beta")
            held = await other.swap("colo", held, claimed, limit_s=1.0)
            with pytest.raises(
                HostRefused, match="the arbiter does not respond, or its record has changed"
            ):
                await ended()
            await time_passes(0.1)
            with pytest.raises(HostRefused, match="beta claims the pair"):
                await ended()
            await other.swap("colo", held, attrs.evolve(claimed, claimed_by=None), limit_s=1.0)
            await time_passes(0.1)
            network.arbiter.cut("alpha")
            with pytest.raises(
                HostRefused, match="the arbiter does not respond, or its record has changed"
            ):
                await ended()
            assert peer.alive
            network.arbiter.heal("alpha")
            await time_passes(1.0)
            await ended()
            assert not peer.alive

    play(scenario)


def test_claim_of_an_agent_that_is_gone_does_not_keep_the_guest_running() -> None:
    """No guest is wanted, so that nobody has to continue: the other agent ends what runs."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await agents.protected()
        arbiter = network.arbiter.client("alpha")
        await agents.stop("beta")
        held = await arbiter.read("colo", limit_s=1.0)
        assert held.shared is not None
        claimed = attrs.evolve(held.shared, claimed_by="beta")
        await arbiter.swap("colo", held, claimed, limit_s=1.0)
        await set_want(arbiter, "colo", "stopped", limit_s=1.0)
        async with asyncio.timeout(60.0):
            while life.world.running:
                await time_passes(1.0)

    play(scenario, fuses=False)


def test_agent_is_asked_by_people(tmp_path: Path) -> None:
    """How the pair stands, as nobody else can see it; and it takes their word for a dead host."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        write(life)
        place = of_agents(tmp_path)
        place.mkdir()
        async with served(agents.running["beta"], place):
            control = find(place, "colo")
            assert control is not None
            said = await said_by_agent(tmp_path, "colo")
            assert said is not None
            assert ("protected", 0) == (said.state, said.code)
            with pytest.raises(RefusedError, match="ask it, on the host of alpha"):
                await control.perform("checkpoint", Observer())
            with pytest.raises(RefusedError, match="it takes connections"):
                await control.state_fence("alpha", who="alice", how="power off")
            life.world.qemu("alpha").kill()
            life.world.host("alpha").away = True
            network.cut()
            await agents.stop("alpha")
            await agents.until("type `pycolo fenced PAIRFILE alpha", node="beta", since=count)
            evidence = await control.state_fence("alpha", who="alice", how="power off")
            assert ("alice", "power off") == (evidence.who, evidence.how)
            await agents.until("failover is done", node="beta", since=count)
        assert "beta" == await serves(life)

    play(scenario, fuses=False)

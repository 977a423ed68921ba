"""A pair under a controller, on fakes: nobody types anything, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable

import attrs
import pytest
from tests.testing.testbed import FakePair, declared, in_world
from tests.watching import Watching
from typing_extensions import override

from pycolo.controller import (
    AWAY_S,
    FULL_OBSERVATION_S,
    ControllerClosed,
    PairController,
    Round,
)
from pycolo.errors import DeclarationError, HostRefused
from pycolo.evidence import Evidence, Victim
from pycolo.hosts import HostState
from pycolo.model import ColoPair, Monitor
from pycolo.observers import Observer
from pycolo.plan import Options, Plan, Step
from pycolo.qmp._base import QmpCommand
from pycolo.qmp.commands import MigrateSetParameters
from pycolo.reconcile import Act, Decide, End, Launch, Prove, Settled, Want, next_step
from pycolo.record import NoRecord, UnreadRecord
from pycolo.result import Done
from pycolo.session import Notice, Sent, Session
from pycolo.testing import FakeHost, World

ROUNDS = 12
Scenario = Callable[[FakePair, PairController], Awaitable[None]]


def play(scenario: Scenario, *, want: Want = "protected") -> None:
    """Play a scenario with a new pair of which nothing runs yet."""

    async def played(life: FakePair) -> None:
        async with PairController(life.pair, life.hosts, want=want) as controller:
            await scenario(life, controller)

    in_world("11.1.3", played)


async def settled(controller: PairController) -> list[Round]:
    """Every round until the pair is settled, or until it needs somebody."""
    rounds: list[Round] = []
    for _ in range(ROUNDS):
        rounds.append(await controller.reconcile())
        last = rounds[-1]
        if isinstance(last.step, Settled | Decide) or last.why:
            return rounds
    raise AssertionError([type(found.step).__name__ for found in rounds])


def kinds(rounds: list[Round]) -> list[str]:
    """What was next, round by round."""
    return [
        found.step.plan.procedure if isinstance(found.step, Act) else type(found.step).__name__
        for found in rounds
    ]


def exit_of(plan: Plan) -> Evidence:
    """The word of whoever saw the process end."""
    (victim,) = plan.victims()
    return Evidence.of(victim, kind="exit", who="the test", how="it has ended", when="now")


def has_all(life: FakePair) -> str:
    """The node that serves; it has every write that was acknowledged."""
    (serving,) = life.world.serving
    assert not life.world.acknowledged - serving.guest_data()
    return serving.node.name


def write(life: FakePair) -> None:
    """Have the guest acknowledge three writes."""
    before = len(life.world.acknowledged)
    for qemu in life.world.processes:
        if qemu.alive and qemu.live.colo_mode != "secondary":
            for number in range(before, before + 3):
                qemu.guest_write(1 + number)


def test_new_pair_becomes_protected() -> None:
    """Two launches and a resume; both failovers are armed then."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        assert ["Launch", "Launch", "resume", "Settled"] == kinds(await settled(controller))
        assert {"alpha", "beta"} == set(controller.armed)
        assert controller.standing is not None
        assert "protected" == controller.standing.state
        assert "alpha" == has_all(life)

    play(scenario)


@pytest.mark.parametrize("victim", ["alpha", "beta"])
def test_death_is_failed_over_at_once_and_made_good(victim: str) -> None:
    """Who saw the process end says so: the armed plan runs, then the node is launched again."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        write(life)
        survivor = life.pair.peer_of(victim).name
        armed = controller.armed[survivor]
        life.world.qemu(victim).kill()
        report = await controller.died(exit_of(armed))
        assert report is not None
        assert None is report.failed, report.advice
        assert armed is report.plan
        assert survivor == has_all(life)
        write(life)
        assert ["Launch", "resume", "Settled"] == kinds(await settled(controller))
        assert survivor == has_all(life)

    play(scenario)


def test_death_that_nobody_tells_is_found_by_its_host() -> None:
    """The monitor hangs up, the controller wakes, and the host shows that the process has ended."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        write(life)
        life.world.qemu("alpha").kill()
        assert await controller.wait(5.0)
        rounds = await settled(controller)
        assert ["Prove", "Launch", "resume", "Settled"] == kinds(rounds)
        assert rounds[0].report is not None
        assert "beta" == has_all(life)

    play(scenario)


def test_silent_node_is_given_back_until_it_is_fenced() -> None:
    """Its host knows that it runs: nothing is done before somebody has fenced it."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        write(life)
        armed = controller.armed["beta"]
        life.signal("alpha", signal.SIGSTOP)
        found = await controller.reconcile()
        assert isinstance(found.step, Prove)
        assert ("alpha", None) == (found.step.node, found.report)
        assert "nobody shows" in found.why
        life.world.qemu("alpha").kill()
        report = await controller.died(exit_of(armed))
        assert report is not None
        assert "beta" == has_all(life)

    play(scenario)


def test_end_of_a_qemu_that_no_plan_speaks_of_changes_nothing() -> None:
    """Evidence about an older QEMU of the node executes nothing."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        old = Victim(node="alpha", instance="colo:alpha:00000000", epoch=1)
        word = Evidence.of(old, kind="exit", who="the test", how="it has ended", when="now")
        assert None is await controller.died(word)
        assert "alpha" == has_all(life)
        assert ["Settled"] == kinds(await settled(controller))

    play(scenario)


def test_node_that_the_pair_lacks_is_refused_while_a_plan_is_executed() -> None:
    """A session is not opened then; a name that is wrong is an error all the same."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        armed = controller.armed["beta"]
        life.world.qemu("alpha").kill()
        executing = asyncio.create_task(controller.died(exit_of(armed)))
        while not executing.done():
            with pytest.raises(DeclarationError, match="omega"):
                await controller.reach("omega", limit_s=1.0)
            await asyncio.sleep(0)  # a turn of the loop
        assert await executing is not None

    play(scenario)


def test_death_during_a_resync_ends_it() -> None:
    """The secondary dies while its disk is copied: the resync gives up at once, the guest runs."""

    async def scenario(life: FakePair, _: PairController) -> None:
        copying = asyncio.Event()
        watching = Watching(lambda at: copying.set() if "blockdev-mirror" in at else None)
        async with PairController(life.pair, life.hosts, observer=watching) as controller:
            await controller.reconcile()
            await controller.reconcile()
            resync = asyncio.get_running_loop().create_task(controller.reconcile())
            await copying.wait()
            beta = life.world.qemu("beta")
            victim = Victim(node="beta", instance=beta.live.instance, epoch=1)
            beta.kill()
            word = Evidence.of(victim, kind="exit", who="the test", how="it has ended", when="now")
            assert None is await controller.died(word)
            found = await resync
            assert found.report is not None
            assert found.report.failed is not None
            await settled(controller)
            assert "alpha" == has_all(life)

    play(scenario)


def test_what_is_wanted_can_change() -> None:
    """Protection is stopped, then all QEMUs are ended, and the pair comes back with its data."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        write(life)
        controller.want("unprotected")
        assert await controller.wait(0.0)
        assert ["stop", "Settled"] == kinds(await settled(controller))
        controller.want("stopped")
        assert ["End", "Settled"] == kinds(await settled(controller))
        assert [] == [qemu for qemu in life.world.processes if qemu.alive]
        controller.want("protected")
        await settled(controller)
        assert "alpha" == has_all(life)

    play(scenario)


def test_one_resync_at_a_time_among_pairs_that_share_a_semaphore() -> None:
    """While another pair has it nothing is copied, and a failover does not wait for it."""

    async def scenario(life: FakePair, _: PairController) -> None:
        one = asyncio.Semaphore(1)
        async with PairController(life.pair, life.hosts, resyncs=one) as controller:
            await controller.reconcile()
            await controller.reconcile()
            async with one:
                waiting = asyncio.get_running_loop().create_task(controller.reconcile())
                await asyncio.sleep(1.0)  # of the world's clock
                assert not waiting.done()
                assert controller.is_queued
                assert "none" == life.world.qemu("alpha").live.migration
            assert isinstance((await waiting).step, Act)
            assert not controller.is_queued
            await settled(controller)
            async with one:
                armed = controller.armed["alpha"]
                life.world.qemu("beta").kill()
                report = await controller.died(exit_of(armed))
                assert report is not None
                assert None is report.failed

    play(scenario)


def test_differences_are_taken_back_once_approved() -> None:
    """The plan is shown first; refused, nothing is sent."""
    shown: list[str] = []

    async def scenario(life: FakePair, controller: PairController) -> None:
        async def answer(plan: Plan, *, approved: bool) -> bool:
            shown.append(plan.digest)
            return approved

        await settled(controller)
        alpha = life.world.qemu("alpha")
        assert None is await controller.converge(lambda plan: answer(plan, approved=True))
        assert [] == shown
        await _set_delay(controller, 7000)
        assert None is await controller.converge(lambda plan: answer(plan, approved=False))
        assert 7000 == alpha.live.checkpoint_delay_ms
        report = await controller.converge(lambda plan: answer(plan, approved=True))
        assert report is not None
        assert life.pair.checkpoint_delay_ms == alpha.live.checkpoint_delay_ms
        assert 2 == len(shown)

    play(scenario)


def test_nobody_decides_for_a_person() -> None:
    """A damaged record is told as a finding, and nothing is done."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        for name in ("alpha", "beta"):
            life.world.qemu(name).kill()
            life.world.host(name).files[life.pair.record_path(name)] = b"?"
        last = (await settled(controller))[-1]
        assert isinstance(last.step, Decide)
        assert last.why

    play(scenario)


def test_node_without_a_host_is_refused() -> None:
    """Every node's host is needed, spares included."""

    async def scenario(life: FakePair, _: PairController) -> None:
        hosts = {name: host for name, host in life.hosts.items() if name != "gamma"}
        with pytest.raises(DeclarationError, match="gamma"):
            PairController(life.pair, hosts)

    play(scenario)


def test_word_that_nobody_can_want_is_refused() -> None:
    """A misspelled wish must not end a pair; what was wanted before still is."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        rule = "want must be one of protected, unprotected, stopped, not 'protcted'"
        misspelled: str = "protcted"
        with pytest.raises(DeclarationError, match=rule):
            controller.want(misspelled)  # type: ignore[arg-type]  # a caller's mistake
        with pytest.raises(DeclarationError, match=rule):
            PairController(
                life.pair,
                life.hosts,
                want=misspelled,  # type: ignore[arg-type]  # a caller's mistake
            )
        assert ["Launch", "Launch", "resume", "Settled"] == kinds(await settled(controller))

    play(scenario)


def test_what_is_no_evidence_is_refused() -> None:
    """The error names the argument, and nothing is noted."""

    async def scenario(_: FakePair, controller: PairController) -> None:
        with pytest.raises(DeclarationError, match="evidence must be an Evidence, not 'x'"):
            await controller.died("x")  # type: ignore[arg-type]  # a caller's mistake
        assert not await controller.wait(0.0)

    play(scenario)


def test_wait_is_over_until_the_next_round() -> None:
    """What happened since the last round ends each wait; an observation alone changes nothing."""

    async def scenario(_: FakePair, controller: PairController) -> None:
        assert not await controller.wait(1.0)
        controller.want("protected")
        await controller.observe()
        assert [True, True] == [await controller.wait(1.0), await controller.wait(1.0)]
        await controller.arm()
        assert not await controller.wait(1.0)

    play(scenario)


def test_controller_can_be_used_after_its_sessions_were_closed() -> None:
    """Inside its block it connects anew; only a node that the pair does not have is refused."""

    async def scenario(_: FakePair, controller: PairController) -> None:
        await settled(controller)
        await controller.aclose()
        assert ["Settled"] == kinds(await settled(controller))
        assert await controller.reach("alpha", limit_s=1.0) is not None
        with pytest.raises(DeclarationError, match=r"node must be one of alpha, .* not 'nobody'"):
            await controller.reach("nobody", limit_s=1.0)

    play(scenario)


def test_controller_refuses_to_act_outside_its_block() -> None:
    """Nobody would close the monitors; what was read stays, and the block can be entered again."""

    async def played(life: FakePair) -> None:
        controller = PairController(life.pair, life.hosts)
        with pytest.raises(ControllerClosed, match="use it inside its async with block"):
            await controller.reconcile()
        async with controller:
            await settled(controller)
            armed = controller.armed["alpha"]
            compiled = await controller.compile("stop", Options())
            with pytest.raises(RuntimeError, match="entered once at a time"):
                await controller.__aenter__()
        evidence = exit_of(armed)
        for refused in (
            controller.reconcile,
            controller.arm,
            controller.observe,
            controller.observe_aside,
            lambda: controller.reach("alpha", limit_s=1.0),
            lambda: controller.died(evidence),
            lambda: controller.compile("stop", Options()),
            lambda: controller.execute(compiled),
        ):
            with pytest.raises(ControllerClosed):
                await refused()
        assert controller.standing is not None
        assert "protected" == controller.standing.state
        async with controller:
            assert ["Settled"] == kinds(await settled(controller))

    in_world("11.1.3", played)


def test_caller_that_fails_on_an_event_ends_no_session(caplog: pytest.LogCaptureFixture) -> None:
    """A fault in a controller's own logging must not take the fault tolerance away."""

    def fails(node: str, notice: Notice) -> None:
        raise ZeroDivisionError(f"{node}: {notice}")

    async def played(life: FakePair) -> None:
        async with PairController(life.pair, life.hosts, on_event=fails) as controller:
            await settled(controller)
            assert controller.standing is not None
            assert "protected" == controller.standing.state

    in_world("11.1.3", played)
    assert "ZeroDivisionError: alpha" in caplog.text


def test_session_that_opens_after_the_block_is_closed() -> None:
    """A call that still connects when its block is left holds no monitor afterwards."""

    async def played(life: FakePair) -> None:
        async with PairController(life.pair, life.hosts) as controller:
            await settled(controller)
            await controller.aclose()
            late = asyncio.get_running_loop().create_task(controller.reach("alpha", limit_s=5.0))
            await asyncio.sleep(0)  # a turn of the loop
        with pytest.raises(ControllerClosed):
            await late
        place, way = life.pair.node("alpha").control_monitor, life.world.connector
        async with await Session.connect("alpha", place, limit_s=5.0, connector=way):
            pass

    in_world("11.1.3", played)


async def _set_delay(controller: PairController, checkpoint_delay_ms: int) -> None:
    """Have somebody set another delay by hand."""
    session = controller._sessions["alpha"]  # noqa: SLF001 - nobody else can hold the monitor
    command = MigrateSetParameters(x_checkpoint_delay_ms=checkpoint_delay_ms)
    await session.execute(command, limit_s=1.0)


def test_qemu_that_somebody_else_launches_is_seen() -> None:
    """The evidence was of the one before; the new one is taken in."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        armed = controller.armed["alpha"]
        life.world.qemu("beta").kill()
        assert await controller.died(exit_of(armed)) is not None
        # The controller holds the control monitor; others read over the other one.
        observer, way = life.pair.node("alpha").observer_monitor, life.world.connector
        read = Session.connect("alpha", observer, limit_s=5.0, connector=way)
        life.sessions["alpha"] = await read
        await life.launch("beta")
        for name in ("alpha", "beta"):
            await life.sessions.pop(name).aclose()
        assert ["resume", "Settled"] == kinds(await settled(controller))

    play(scenario)


def test_rounds_that_are_asked_for_at_once_come_one_after_another() -> None:
    """A monitor serves one client: the second observation would find it held by the first."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await controller.reconcile()
        both = await asyncio.gather(controller.reconcile(), controller.reconcile())
        assert [True, True] == [found.report is not None for found in both]
        await settled(controller)
        assert "alpha" == has_all(life)

    play(scenario)


def test_host_that_fails_has_shown_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that raises where it is asked for a death gives no evidence, and ends no round."""

    async def fails(*_: object, **__: object) -> Evidence | None:
        raise HostRefused("alpha", "death", "its agent is being updated")

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        life.world.qemu("alpha").kill()
        monkeypatch.setattr(FakeHost, "death", fails)
        found = await controller.reconcile()
        assert isinstance(found.step, Prove)
        assert "nobody shows" in found.why

    play(scenario)


def test_one_observer_serves_several_pairs() -> None:
    """Each call says by its plan which pair it is about."""
    seen: dict[str, list[str]] = {"one": [], "two": []}

    class Names(Observer):
        @override
        def step_started(self, plan: Plan, step: Step) -> None:
            seen[plan.pair.name].append(step.address.split("/")[1])

    watching = Names()
    for name in seen:
        world = World("11.1.3")
        pair = attrs.evolve(declared(), name=name)
        world.install(pair, "alpha")
        world.run(_launched(pair, world, watching))
    assert seen["one"] == seen["two"] != []


async def _launched(pair: ColoPair, world: World, observer: Observer) -> None:
    async with PairController(pair, world.hosts(pair), observer=observer) as controller:
        await settled(controller)


@pytest.mark.parametrize("victim", ["alpha", "beta"])
def test_report_leads_to_the_step_that_an_observation_leads_to(victim: str) -> None:
    """After each plan, what it left says what is next: no dead QEMU lives on in it."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        rounds = await settled(controller)
        survivor = life.pair.peer_of(victim).name
        armed = controller.armed[survivor]
        life.world.qemu(victim).kill()
        failover = await controller.died(exit_of(armed))
        assert failover is not None
        after = await settled(controller)
        reports = [failover, *(found.report for found in after)]
        left = [report.state_after for report in reports if report is not None]
        said = [next_step(life.pair, state) for state in left if state is not None]
        assert [type(found.step) for found in after] == [type(step) for step in said]
        assert kinds(after) == kinds([Round(step=step) for step in said])
        assert "Settled" == kinds(rounds)[-1]

    play(scenario)


# -- a pair that is settled


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all commands that any session sends from now on."""
    sent: list[str] = []
    send = Session.send

    def noted(session: Session, command: QmpCommand[str], *, oob: bool = False) -> Sent[str]:
        sent.append(command.qmp_name)
        return send(session, command, oob=oob)

    monkeypatch.setattr(Session, "send", noted)
    return sent


def test_checkpoint_is_no_news() -> None:
    """A protected pair makes one every delay; nobody has to observe it for that."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        before = life.world.qemu("alpha").channel
        assert before is not None
        turn = before.turn
        assert not await controller.wait(10.0)
        assert turn + 10 < before.turn

    play(scenario)


def test_settled_pair_is_glanced_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three questions a node, until ten minutes have passed; the plans stay armed."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await read_as_a_whole(life, controller)
        armed = controller.armed
        sent = counted(monkeypatch)
        await between_checkpoints(life)
        assert isinstance((await controller.reconcile()).step, Settled)
        asked = ["query-status", "query-colo-status", "query-xen-replication-status"]
        assert sorted(2 * asked) == sorted(sent)
        assert set(armed) == set(controller.armed)
        await asyncio.sleep(FULL_OBSERVATION_S)  # of the world's clock
        sent.clear()
        await between_checkpoints(life)
        assert isinstance((await controller.reconcile()).step, Settled)
        assert "query-named-block-nodes" in sent

    play(scenario)


def test_resync_arms_by_what_it_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A glance shows that it holds; the pair is read as a whole in the round after that."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        for _ in range(3):
            found = await controller.reconcile()
        assert ["resume"] == kinds([found])
        await between_checkpoints(life)
        sent = counted(monkeypatch)
        assert ["Settled"] == kinds([await controller.reconcile()])
        assert {"alpha", "beta"} == set(controller.armed)
        assert 6 == len(sent)
        planned = controller.armed["beta"]
        await between_checkpoints(life)
        assert ["Settled"] == kinds([await controller.reconcile()])
        assert "query-named-block-nodes" in sent
        assert planned.steps == controller.armed["beta"].steps

    play(scenario)


def test_resync_whose_disk_is_lost_at_once_arms_nothing() -> None:
    """What it planned does not hold: the pair is read as a whole, and protection is stopped."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        for _ in range(3):
            await controller.reconcile()
        not_replicated(life, "beta")
        assert ["stop"] == kinds([await controller.reconcile()])
        assert not controller.armed

    play(scenario)


async def read_as_a_whole(life: FakePair, controller: PairController) -> None:
    """Settle a pair, and have it read after its resync: from then on it is glanced at."""
    await settled(controller)
    await between_checkpoints(life)
    await controller.reconcile()
    await between_checkpoints(life)


async def between_checkpoints(life: FakePair) -> None:
    """Wait until both guests run: inside a checkpoint a glance sees that they do not."""
    while any(not qemu.runs for qemu in life.world.running):  # noqa: ASYNC110 - a fake's state
        await asyncio.sleep(0.01)  # of the world's clock


def paused(life: FakePair, name: str) -> None:
    """Somebody has paused the guest."""
    qemu = life.world.qemu(name)
    qemu.live = attrs.evolve(qemu.live, run_state="paused")


def not_replicated(life: FakePair, name: str) -> None:
    """The replication node has failed."""
    qemu = life.world.qemu(name)
    qemu.live = attrs.evolve(qemu.live, commit_pending=frozenset(qemu.quorums))


def left_alone(life: FakePair) -> None:
    """The secondary was promoted by hand."""
    qemu = life.world.qemu("beta")
    qemu.live = attrs.evolve(qemu.live, colo_mode="none", last_colo_mode="secondary")


@pytest.mark.parametrize(
    ("change", "then"),
    [
        pytest.param(lambda life: paused(life, "alpha"), "Decide", id="a guest that was paused"),
        pytest.param(lambda life: not_replicated(life, "beta"), "stop", id="a disk that is lost"),
        pytest.param(lambda life: life.signal("alpha", signal.SIGSTOP), "Prove", id="silence"),
        pytest.param(left_alone, "Decide", id="COLO that has ended"),
    ],
)
def test_glance_sees_what_an_observation_must_not_miss(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[FakePair], None], then: str
) -> None:
    """What came without an event: the pair is read as a whole, and what is next is done."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await read_as_a_whole(life, controller)
        change(life)
        controller._changed.clear()  # noqa: SLF001 - as if its event had been lost
        sent = counted(monkeypatch)
        found = await controller.reconcile()
        assert then == kinds([found])[0]
        assert "query-named-block-nodes" in sent

    play(scenario)


def test_qemu_on_a_spare_is_seen_at_a_glance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spare that did not answer, and does, is read as a whole."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await read_as_a_whole(life, controller)
        # Its identity and its images are nobody's: only that it answers is of interest.
        other = World("11.1.3")
        elsewhere = FakePair(other, life.pair.replacing("alpha", life.pair.node("gamma")))
        await elsewhere.launch("gamma")
        await elsewhere.aclose()
        life.world.processes.append(other.qemu("gamma"))
        sent = counted(monkeypatch)
        await controller.reconcile()
        assert "query-named-block-nodes" in sent

    play(scenario)


def drop_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody answer for a host that is away, as where it has lost its power."""
    connect, observe = FakeHost.connect, FakeHost.observe

    async def connected(host: FakeHost, node: str, monitor: Monitor) -> socket.socket:
        if host.away:
            await asyncio.sleep(3600.0)  # of the world's clock
        return await connect(host, node, monitor)

    async def observed(host: FakeHost, pair: ColoPair, node: str, *, limit_s: float) -> HostState:
        if host.away:
            await asyncio.sleep(limit_s)  # of the world's clock
        return await observe(host, pair, node, limit_s=limit_s)

    monkeypatch.setattr(FakeHost, "connect", connected)
    monkeypatch.setattr(FakeHost, "observe", observed)


def test_host_that_is_away_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for at the first observation; then a death beside it is found within seconds."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        clock = asyncio.get_running_loop().time
        await read_as_a_whole(life, controller)
        life.world.host("zeta").away = True
        drop_packets(monkeypatch)
        controller.want("protected")
        await settled(controller)
        await asyncio.sleep(30.0)  # of the world's clock
        glancing = asyncio.get_running_loop().create_task(controller.reconcile())
        await asyncio.sleep(1.0)  # of the world's clock
        assert not glancing.done()
        began_s = clock()
        life.world.qemu("alpha").kill()
        found = await glancing
        assert isinstance(found.step, Prove)
        assert found.report is not None
        assert None is found.report.failed
        assert clock() - began_s < 2 * AWAY_S + 1.0

    play(scenario)


def test_host_that_came_back_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes to answer, after ten minutes it is waited for again."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        zeta = life.world.host("zeta")
        zeta.away = True
        controller.want("protected")
        await settled(controller)
        zeta.away = False
        observe = FakeHost.observe

        async def slow(host: FakeHost, pair: ColoPair, node: str, *, limit_s: float) -> HostState:
            if host is zeta and limit_s < AWAY_S + 1.0:
                return HostState(record=UnreadRecord(why="no answer yet"))
            return await observe(host, pair, node, limit_s=limit_s)

        monkeypatch.setattr(FakeHost, "observe", slow)
        for _ in range(2):
            await asyncio.sleep(FULL_OBSERVATION_S + 1.0)  # of the world's clock
            await controller.reconcile()
        seen = controller._snapshot  # noqa: SLF001 - no public name has the records
        assert seen is not None
        assert NoRecord() == seen.records["zeta"]

    play(scenario)


def test_nodes_that_were_replaced_leave_nothing() -> None:
    """The guest moves on from spare to spare: the declaration stays, and two sessions are open."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        declared_pair, gone = controller.pair, list[str]()
        await settled(controller)
        for _ in range(4):
            write(life)
            victim = has_all(life)
            survivor = next(name for name in controller.armed if name != victim)
            armed = controller.armed[survivor]
            life.world.qemu(victim).kill()
            assert await controller.died(exit_of(armed)) is not None
            gone.append(victim)
            for _ in range(ROUNDS):
                found = await controller.reconcile(avoid=gone)
                if isinstance(found.step, Settled):
                    break
            assert 2 == len(controller.armed)
        assert declared_pair is controller.pair
        assert 2 == len([one for one in controller._sessions.values() if not one.closed])  # noqa: SLF001
        assert set(controller._dead) <= set(gone)  # noqa: SLF001 - what could accumulate
        assert set(controller._instances) <= set(declared_pair.names)  # noqa: SLF001

    play(scenario)


# -- what goes wrong between two observations


def refuse_a_write(life: FakePair) -> int:
    """The primary's own disk refuses a write that its secondary has; gives the write's number."""
    alpha = life.world.qemu("alpha")
    number = 1 + max(life.world.acknowledged, default=0)
    assert alpha.guest_write(number)
    quorum = alpha.quorums[0]
    alpha.quorum_image(quorum).records.discard(number)
    own = alpha.live.children[quorum][0].node
    alpha.event(
        "QUORUM_REPORT_BAD",
        {"node-name": own, "type": "write", "sector-num": 1, "sectors-count": 1},
    )
    return number


def test_disk_that_refused_a_write_is_remembered_over_a_lost_connection() -> None:
    """QEMU tells it once; the session is opened anew, and the guest moves to who has the write."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        refuse_a_write(life)
        await controller.wait(1.0)
        await controller._sessions["alpha"].aclose()  # noqa: SLF001 - as if ssh were lost
        found = await controller.reconcile()
        assert isinstance(found.step, Act)
        assert "switch-over" == found.step.plan.procedure
        assert "beta" == has_all(life)

    play(scenario)


def test_switch_over_stops_before_a_secondary_that_lacks_a_write() -> None:
    """The write failed after the plan was compiled: the checkpoint succeeds all the same."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        alpha = life.world.qemu("alpha")
        nbd = alpha.live.children[alpha.quorums[0]][1].node
        sectors = {"sector-num": 1, "sectors-count": 1}

        @attrs.define
        class Losing(Observer):
            @override
            def step_started(self, plan: Plan, step: Step) -> None:
                if "checkpoint" in step.address:
                    alpha.event("QUORUM_REPORT_BAD", {"node-name": nbd, "type": "write", **sectors})

        compiled = await controller.compile("switch-over", Options())
        report = await controller.execute(compiled, Losing())
        assert report is not None
        assert "a write to the secondary's disk failed" in str(report.outcomes)
        assert "alpha" == has_all(life)

    play(scenario)


def test_armed_plan_of_a_survivor_that_lacks_a_write_is_not_executed() -> None:
    """It was armed before its own disk refused the write: the secondary alone has it."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        armed = controller.armed["alpha"]
        refuse_a_write(life)
        await controller.wait(1.0)
        life.world.qemu("beta").kill()
        assert None is await controller.died(exit_of(armed))
        assert isinstance((await controller.reconcile()).step, Decide)

    play(scenario)


def test_late_word_of_an_older_qemu_ends_no_resync() -> None:
    """A supervisor repeats what it has said of the QEMU before."""

    async def scenario(life: FakePair, _: PairController) -> None:
        copying = asyncio.Event()
        watching = Watching(lambda at: copying.set() if "blockdev-mirror" in at else None)
        async with PairController(life.pair, life.hosts, observer=watching) as controller:
            await controller.reconcile()
            await controller.reconcile()
            resync = asyncio.get_running_loop().create_task(controller.reconcile())
            await copying.wait()
            old = Victim(node="beta", instance="colo:beta:0dead000", epoch=1)
            word = Evidence.of(old, kind="exit", who="the test", how="it has ended", when="now")
            assert None is await controller.died(word)
            report = (await resync).report
            assert report is not None
            assert None is report.failed

    play(scenario)


def test_resync_that_waits_for_its_turn_gives_way() -> None:
    """The only guest dies while another pair copies: the round ends, and the next one boots it."""

    async def scenario(life: FakePair, _: PairController) -> None:
        one = asyncio.Semaphore(1)
        async with PairController(life.pair, life.hosts, resyncs=one) as controller:
            await controller.reconcile()
            await controller.reconcile()
            async with one:
                waiting = asyncio.get_running_loop().create_task(controller.reconcile())
                await asyncio.sleep(0.1)  # of the world's clock
                life.world.qemu("alpha").kill()
                assert "waited for its turn" in (await waiting).why
                found = [(await controller.reconcile()).step for _ in range(2)]
                assert any(isinstance(step, End | Launch | Prove) for step in found)
            assert not one.locked()

    play(scenario)


def test_end_that_a_failover_has_overtaken_ends_nobody() -> None:
    """It was decided from a slow observation; meanwhile the secondary has become the guest's."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        beta = life.world.qemu("beta")
        stale = End(node="beta", instance=beta.live.instance, why="an older observation")
        since = controller._executions  # noqa: SLF001 - as a slow observation has it
        armed = controller.armed["beta"]
        life.world.qemu("alpha").kill()
        assert await controller.died(exit_of(armed)) is not None
        done = await controller._do(stale, since)  # noqa: SLF001 - the same
        assert "another plan" in done.why
        assert "beta" == has_all(life)

    play(scenario)


def test_word_in_the_moment_a_resync_begins_is_no_cancellation() -> None:
    """The execution had not begun: the round ends with a reason, and is not cancelled itself."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await controller.reconcile()
        await controller.reconcile()
        resync = asyncio.get_running_loop().create_task(controller.reconcile())
        while controller._current is None:  # noqa: ASYNC110, SLF001 - the very moment
            await asyncio.sleep(0)  # a turn of the loop
        beta = Victim(node="beta", instance=life.world.qemu("beta").live.instance, epoch=1)
        word = Evidence.of(beta, kind="exit", who="the test", how="it has ended", when="now")
        assert None is await controller.died(word)
        assert (await resync).report is None

    play(scenario)


def test_controller_that_is_closed_during_a_resync_has_its_report() -> None:
    """It ends between two steps, before the sessions are closed, and says where."""
    address, begun = "beta/nbd-server-start", asyncio.Event()
    watching = Watching(begins=lambda step: begun.set() if step == address else None)

    async def scenario(life: FakePair, _: PairController) -> None:
        async with PairController(life.pair, life.hosts, observer=watching) as controller:
            await controller.reconcile()
            await controller.reconcile()
            resync = asyncio.get_running_loop().create_task(controller.reconcile())
            await begun.wait()
            await controller.aclose()
            report = (await resync).report
            assert report is not None
            assert isinstance(report.outcomes[address], Done)
            assert "beta/block-export-add/parent0" == report.failed

    play(scenario)


def test_fenced_host_whose_connection_never_ends_is_dead() -> None:
    """Its power is off and no FIN came: the pair can be stopped and booted without it."""

    async def scenario(life: FakePair, controller: PairController) -> None:
        await settled(controller)
        write(life)
        (victim,) = controller.armed["beta"].victims()
        life.signal("alpha", signal.SIGSTOP)
        life.world.host("alpha").away = True
        word = Evidence.of(victim, kind="fence", who="the test", how="power off", when="now")
        assert await controller.died(word) is not None
        assert "beta" == has_all(life)
        controller.want("stopped")
        assert "Settled" == kinds(await settled(controller))[-1]

    play(scenario)

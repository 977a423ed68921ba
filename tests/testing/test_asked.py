"""What a person asks a supervisor for while it keeps a pair, on fakes."""

from __future__ import annotations

import asyncio
import itertools
import stat
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import final

import attrs
import pytest
from tests.testing.test_controller import has_all, write
from tests.testing.test_supervisor import Watched, kept, play, protected, quiet, serves
from tests.testing.testbed import FakePair, in_world, time_passes
from typing_extensions import override

from pycolo import operate
from pycolo.errors import CommandUnknown, CompileError, DeclarationError, RefusedError, StoreError
from pycolo.hosts import Host
from pycolo.observers import Observer
from pycolo.plan import Plan, Procedure, Step
from pycolo.result import Outcome, Report
from pycolo.supervise import Store, Supervisor
from pycolo.supervise.control import Control, find, found, served

NAME = "colo"


def codes(error: pytest.ExceptionInfo[CompileError]) -> list[str]:
    """What stood in the way."""
    return [finding.code for finding in error.value.findings]


# -- procedures


def test_switch_over_moves_the_guest_and_protects_it_again(tmp_path: Path) -> None:
    """The secondary serves with every write, and the old primary's node becomes its secondary."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        report = await watched.supervisor.switch_over(NAME)
        assert (0, "switch-over") == (report.exit_code, report.plan.procedure)
        assert "beta" == has_all(life)
        await protected(watched, count)
        write(life)
        assert "beta" == await serves(life)
        assert ["beta", "alpha"] == list(watched.supervisor.status(NAME).phases)
        assert not [e for e in watched.events if e.kind in ("person", "trouble")]

    play(tmp_path, scenario)


def test_there_and_back_again(tmp_path: Path) -> None:
    """Each switch-over that finds the pair protected is done."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        for holder in ("beta", "alpha", "beta"):
            write(life)
            await watched.supervisor.switch_over(NAME)
            assert holder == has_all(life)
            count = await protected(watched, count)

    play(tmp_path, scenario)


def test_switch_over_of_what_is_not_protected_is_refused(tmp_path: Path) -> None:
    """While the secondary joins, and with a finding that says how the pair stands."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        life.world.qemu("beta").kill()
        await watched.until("failover is done", since=count)
        with pytest.raises(CompileError) as error:
            await watched.supervisor.switch_over(NAME)
        assert codes(error)[0] in ("not-protected", "at-work")
        await protected(watched, count)
        assert "alpha" == await serves(life)

    play(tmp_path, scenario)


def test_whoever_asked_may_go(tmp_path: Path) -> None:
    """The procedure is finished, whoever waits for it."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        begun = _Begun()
        asking = asyncio.create_task(watched.supervisor.switch_over(NAME, observer=begun))
        await begun.step.wait()
        asking.cancel()
        await watched.until("switch-over is done", since=count)
        assert "beta" == has_all(life)
        await protected(watched, count)

    play(tmp_path, scenario)


@final
@attrs.define(eq=False)
class _Begun(Observer):
    """Knows when the first step begins."""

    step: asyncio.Event = attrs.field(factory=asyncio.Event)

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        self.step.set()


def test_one_thing_at_a_time(tmp_path: Path) -> None:
    """What is asked for during a plan is refused, and the plan is done."""

    async def scenario(_: FakePair, watched: Watched) -> None:
        await protected(watched)
        begun = _Begun()
        asking = asyncio.create_task(watched.supervisor.switch_over(NAME, observer=begun))
        await begun.step.wait()
        with pytest.raises(CompileError) as error:
            await watched.supervisor.checkpoint(NAME)
        assert ["at-work"] == codes(error)
        assert 0 == (await asking).exit_code

    play(tmp_path, scenario)


def test_checkpoint_is_forced(tmp_path: Path) -> None:
    """It is seen on both nodes, and the pair stays protected."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        await protected(watched)
        report = await watched.supervisor.checkpoint(NAME)
        assert 0 == report.exit_code
        await quiet(watched)
        assert "alpha" == await serves(life)

    play(tmp_path, scenario)


def test_shutdown_keeps_the_guest_off(tmp_path: Path) -> None:
    """The guest powers itself off; both QEMUs end, and nothing is booted until it is wanted."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        report = await watched.supervisor.shutdown(NAME)
        assert 0 == report.exit_code
        await watched.until("stopped is wanted", since=count)
        await time_passes(600.0)
        assert not life.world.running
        watched.store.want(NAME, "protected")
        await protected(watched, len(watched.events))

    play(tmp_path, scenario)


@pytest.mark.parametrize("procedure", ["launch", "failover", "stop", "converge"])
def test_what_it_does_by_itself_is_not_done_on_request(
    tmp_path: Path, procedure: Procedure
) -> None:
    """With an error that names what is."""

    async def scenario(_: FakePair, watched: Watched) -> None:
        await protected(watched)
        with pytest.raises(DeclarationError, match="must be one of switch-over, checkpoint"):
            await watched.supervisor.perform(NAME, procedure)
        with pytest.raises(DeclarationError, match="must be one of colo"):
            await watched.supervisor.switch_over("another")

    play(tmp_path, scenario)


# -- pause


async def paused(watched: Watched, count: int) -> None:
    """Pause the pair, and wait until its monitors are free."""
    watched.store.pause(NAME, "by the test")
    await watched.until("supervision is paused", since=count)
    async with asyncio.timeout(60.0):
        while not watched.supervisor.status(NAME).are_monitors_free:
            await time_passes(0.1)


def test_pause_leaves_the_monitors_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person's procedure gets them and acts; after the pause the pair is kept as it is then."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        await paused(watched, count)
        report = await person_runs(life, monkeypatch, lambda way: way.switch_over())
        assert (0, "switch-over") == (report.exit_code, report.plan.procedure)
        assert "beta" == has_all(life)
        await time_passes(100.0)
        assert ["beta"] == [qemu.node.name for qemu in life.world.running]
        with pytest.raises(CompileError) as error:
            await watched.supervisor.switch_over(NAME)
        assert ["supervision-paused"] == codes(error)
        assert "paused by the test; type `pycolo unpause`" in str(error.value)
        watched.store.pause(NAME, None)
        await protected(watched, count)
        assert "beta" == await serves(life)
        assert not [e for e in watched.events if e.kind in ("person", "trouble")]

    play(tmp_path, scenario)


async def person_runs(
    life: FakePair,
    monkeypatch: pytest.MonkeyPatch,
    compiled: Callable[[operate.Connection], Awaitable[Plan]],
) -> Report:
    """Do what `pycolo run` does, with the world's hosts."""
    with monkeypatch.context() as patched:
        patched.setattr(operate, "hosts_of", lambda pair: _Hosts(life.hosts_of(pair)))
        async with operate.connect(life.pair) as way:
            return await way.execute(await compiled(way), Observer())


@final
@attrs.frozen
class _Hosts:
    """The hosts of a pair, as `hosts_of` gives them."""

    hosts: Mapping[str, Host]

    async def __aenter__(self) -> Mapping[str, Host]:
        return self.hosts

    async def __aexit__(self, *_: object) -> None:
        pass


def test_long_pause_raises_no_alarm(tmp_path: Path) -> None:
    """What is not heard during it means nothing, also in the moment after it."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        before = list(life.world.processes)
        for paused_s in (100.0, 0.5, 10.0):
            await paused(watched, len(watched.events))
            await time_passes(paused_s)
            watched.store.pause(NAME, None)
            await time_passes(30.0)
        assert before == list(life.world.processes)
        told = {e.text for e in watched.events[count:]}
        assert {"protected is wanted"} == {text for text in told if "paused" not in text}

    play(tmp_path, scenario)


@pytest.mark.parametrize("victim", ["alpha", "beta"])
def test_end_during_a_pause_is_told(tmp_path: Path, victim: str) -> None:
    """A person has to know that nobody fails over; once it is over, it is failed over."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        await paused(watched, count)
        life.world.qemu(victim).kill()
        count = await watched.until("protected: the other QEMU has ended", since=count)
        await time_passes(600.0)
        assert 1 == len(life.world.running)
        watched.store.pause(NAME, None)
        await watched.until("failover is done", since=count)
        survivor = "beta" if victim == "alpha" else "alpha"
        assert survivor == await serves(life)

    play(tmp_path, scenario)


# -- a person's word


def test_word_of_a_person_is_evidence(tmp_path: Path) -> None:
    """Nobody can show the end of a QEMU whose host is away: on a person's word it is continued."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        write(life)
        frozen = life.world.qemu("alpha")
        life.world.host("alpha").away = True
        frozen.kill()
        count = await watched.until("nobody can show", since=count)
        evidence = await watched.supervisor.state_fence(
            NAME, "alpha", who="alice", how="power off at the rack"
        )
        assert ("fence", "alice") == (evidence.kind, evidence.who)
        count = await watched.until("failover is done", since=count)
        report = watched.events[count - 1].report
        assert report is not None
        assert "power off at the rack" == report.evidence["alpha"].how
        assert "beta" == await serves(life)

    play(tmp_path, scenario)


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_word_against_a_qemu_that_answers_is_refused(tmp_path: Path, node: str) -> None:
    """Also while it is frozen: its host still takes connections for it."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        await protected(watched)
        for freeze in (False, True):
            if freeze:
                life.world.qemu(node).freeze()
            with pytest.raises(CompileError) as error:
                await watched.supervisor.state_fence(NAME, node, who="alice", how="said so")
            assert ["answers"] == codes(error)

    play(tmp_path, scenario)


def test_word_against_checkpoints_is_refused(tmp_path: Path) -> None:
    """The way to a host is lost, and both QEMUs live: checkpoints show that."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        await protected(watched)
        life.world.host("beta").away = True
        for monitor in life.world.qemu("beta").monitors:
            monitor.hang_up()
        await time_passes(10.0)
        with pytest.raises(CompileError, match="checkpoints with alpha go on") as error:
            await watched.supervisor.state_fence(NAME, "beta", who="alice", how="said so")
        assert ["answers"] == codes(error)
        assert "alpha" == await serves(life)

    play(tmp_path, scenario)


def test_word_about_another_qemu_is_refused(tmp_path: Path) -> None:
    """The record names which QEMUs there are to speak of."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        await protected(watched)
        life.world.host("alpha").away = True
        life.world.qemu("alpha").kill()
        state = watched.supervisor.state_fence
        for node, instance in (("alpha", "colo:alpha:00000000"), ("gamma", None)):
            with pytest.raises(CompileError, match="the record does not name") as error:
                await state(NAME, node, who="alice", how="said so", instance=instance)
            assert ["not-eligible"] == codes(error)
        with pytest.raises(DeclarationError):
            await state(NAME, "omega", who="alice", how="said so")
        with pytest.raises(DeclarationError):
            await state(NAME, "alpha", who="alice", how=" ")

    play(tmp_path, scenario)


# -- over the socket


Asked = Callable[[FakePair, Watched, Control], Awaitable[None]]


def ask(folder: Path, scenario: Asked) -> None:
    """Play a scenario with a new pair whose supervisor listens."""

    async def played(life: FakePair) -> None:
        with Store(folder) as store:
            async with kept(life, store) as watched, served(watched.supervisor, folder):
                control = find(folder, NAME)
                assert control is not None
                await scenario(life, watched, control)

    in_world("11.1.3", played)


@final
@attrs.define(eq=False)
class _Heard(Observer):
    """What an observer is told, in words."""

    lines: list[str] = attrs.field(factory=list)

    @override
    def plan_started(self, plan: Plan) -> None:
        self.lines.append(f"{plan.procedure} begins")

    @override
    def step_started(self, plan: Plan, step: Step) -> None:
        self.lines.append(f"{step.address} begins")

    @override
    def step_finished(self, plan: Plan, address: str, outcome: Outcome) -> None:
        self.lines.append(f"{address}: {type(outcome).__name__}")

    @override
    def plan_finished(self, report: Report) -> None:
        self.lines.append(f"{report.plan.procedure} has ended")


def test_progress_and_report_come_over_the_socket(tmp_path: Path) -> None:
    """An observer there is told what one here is, and the report is the same."""

    async def scenario(life: FakePair, watched: Watched, control: Control) -> None:
        count = await protected(watched)
        write(life)
        heard = _Heard()
        report = await control.perform("switch-over", heard)
        count = await watched.until("switch-over is done", since=count)
        assert watched.events[count - 1].report == report
        steps = [step.address for step in report.plan.steps]
        both = [line for one in steps for line in (f"{one} begins", f"{one}: Done")]
        assert ["switch-over begins", "switch-over has ended"] == [heard.lines[0], heard.lines[-1]]
        assert sorted(both) == sorted(heard.lines[1:-1])
        assert "beta" == has_all(life)

    ask(tmp_path, scenario)


def test_supervisor_that_ends_in_the_midst_leaves_it_unknown(tmp_path: Path) -> None:
    """Whoever asked is told so, and the next supervisor brings the pair back with every write."""

    async def played(life: FakePair) -> None:
        with Store(tmp_path) as store:
            async with kept(life, store) as watched, served(watched.supervisor, tmp_path):
                await protected(watched)
                write(life)
                control = find(tmp_path, NAME)
                assert control is not None
                begun = _Begun()
                asking = asyncio.create_task(control.perform("switch-over", begun))
                await begun.step.wait()
            with pytest.raises(CommandUnknown, match="switch-over, its effect is unknown"):
                await asking
            async with kept(life, store) as watched:
                await quiet(watched)
                await serves(life)

    in_world("11.1.3", played)


def test_keeper_that_ends_in_the_midst_leaves_it_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor lives on, and does not call refused what may have been done."""

    async def ends(*_: object, **__: object) -> Report:
        raise CommandUnknown("the supervisor", "switch-over", "it has ended meanwhile")

    async def scenario(_: FakePair, watched: Watched, control: Control) -> None:
        await protected(watched)
        monkeypatch.setattr(Supervisor, "perform", ends)
        with pytest.raises(CommandUnknown, match="switch-over, its effect is unknown"):
            await control.perform("switch-over", Observer())

    ask(tmp_path, scenario)


def test_refusal_comes_over_the_socket(tmp_path: Path) -> None:
    """With its findings, so that it ends a command as it does without a supervisor."""

    async def scenario(life: FakePair, watched: Watched, control: Control) -> None:
        count = await protected(watched)
        await paused(watched, count)
        with pytest.raises(CompileError, match="type `pycolo unpause`") as error:
            await control.perform("checkpoint", Observer())
        assert ["supervision-paused"] == codes(error)
        with pytest.raises(RefusedError, match="must be one of switch-over"):
            await control.perform("stop", Observer())
        assert "alpha" == await serves(life)

    ask(tmp_path, scenario)


def test_word_goes_over_the_socket(tmp_path: Path) -> None:
    """And is answered by what the supervisor rests on."""

    async def scenario(life: FakePair, watched: Watched, control: Control) -> None:
        count = await protected(watched)
        with pytest.raises(CompileError, match="it takes connections"):
            await control.state_fence("alpha", who="alice", how="power off")
        life.world.host("alpha").away = True
        life.world.qemu("alpha").kill()
        evidence = await control.state_fence("alpha", who="alice", how="power off")
        assert ("alice", "power off") == (evidence.who, evidence.how)
        await watched.until("failover is done", since=count)
        assert "beta" == await serves(life)

    ask(tmp_path, scenario)


def test_pair_is_watched(tmp_path: Path) -> None:
    """From the launch until it is protected, with checkpoints that are counted."""

    async def scenario(_: FakePair, __: Watched, control: Control) -> None:
        seen = []
        async with aclosing(control.watch()) as views:
            async for view in views:
                seen.append(view)
                if view.is_protected and view.checkpoints > 2:
                    break
        (resume,) = {view.underway.procedure for view in seen if view.underway} - {"launch"}
        assert "resume" == resume
        last = seen[-1]
        assert {"alpha": "protected", "beta": "protected"} == last.phases
        assert ("protected", None, "") == (last.want, last.paused, last.person)
        assert last.standing is not None
        assert last.standing.words.startswith("protected: ")
        assert last.limit_s is not None
        assert 0.0 <= last.longest_s < last.limit_s
        assert last.pause_sum_s > 0.0

    ask(tmp_path, scenario)


def test_checkpoints_are_told(tmp_path: Path) -> None:
    """Each one as it ends, one delay after the one before where nobody asked for it."""

    async def scenario(life: FakePair, watched: Watched, control: Control) -> None:
        await protected(watched)
        heard = []
        async with aclosing(control.checkpoints()) as checkpoints:
            async for checkpoint in checkpoints:
                heard.append(checkpoint)
                if len(heard) == 5:
                    break
        delay_s = life.pair.checkpoint_delay_ms / 1000
        begins = [one.began_s for one in heard]
        between = [later - sooner for sooner, later in itertools.pairwise(begins)]
        assert all(0.9 * delay_s < one < 1.5 * delay_s for one in between), between

    ask(tmp_path, scenario)


def test_socket_is_the_users_alone_and_goes_with_its_supervisor(tmp_path: Path) -> None:
    """Nobody else may open it; one that a killed supervisor has left is no way to it."""
    path = tmp_path / f"{NAME}.sock"

    async def scenario(_: FakePair, __: Watched, control: Control) -> None:
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        assert [NAME] == [one.pair for one in found(tmp_path)]
        path.rename(tmp_path / "left.sock")
        with pytest.raises(StoreError, match="has ended"):
            await control.perform("checkpoint", Observer())

    ask(tmp_path, scenario)
    (tmp_path / "left.sock").rename(path)
    assert find(tmp_path, NAME) is None
    assert not list(found(tmp_path))
    ask(tmp_path, _nothing)
    assert not path.exists()


async def _nothing(_: FakePair, __: Watched, ___: Control) -> None:
    """Do nothing."""


def test_nonsense_is_answered(tmp_path: Path) -> None:
    """A line that is no request is refused, and the next one is served."""

    async def scenario(life: FakePair, watched: Watched, control: Control) -> None:
        await protected(watched)
        for line in (b"{}\n", b"no json\n", b'{"format_version":2,"kind":"watch"}\n', b"\xff\n"):
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / f"{NAME}.sock"))
            writer.write(line)
            answer = await reader.read()
            assert b'"kind":"not-done"' in answer, answer
            writer.close()
        assert 0 == (await control.perform("checkpoint", Observer())).exit_code
        assert "alpha" == await serves(life)

    ask(tmp_path, scenario)

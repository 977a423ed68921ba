"""What is counted and timed of a pair under its supervisor, in a world of fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from tests.testing.test_supervisor import Watched, kept, protected
from tests.testing.testbed import FakePair, in_world, time_passes

from pycolo.errors import HostRefused
from pycolo.pace import Checkpoint
from pycolo.plan import Options
from pycolo.qmp.events import ResumeEvent, StopEvent
from pycolo.supervise import Histogram, Measures, Store, Supervisor
from pycolo.supervise._node_health import NodeHealth

Scenario = Callable[[FakePair, Watched, Supervisor], Awaitable[None]]


def play(folder: Path, scenario: Scenario) -> None:
    """Play a scenario with a new pair, which a supervisor keeps."""

    async def played(life: FakePair) -> None:
        with Store(folder) as store:
            async with kept(life, store) as watched:
                await scenario(life, watched, watched.supervisor)

    in_world("11.1.3", played)


def measured(supervisor: Supervisor) -> Measures:
    """What was measured of the only pair."""
    (measures,) = supervisor.measures
    return measures


def done(measures: Measures) -> Mapping[str, int]:
    """How often each procedure was done."""
    return {name: n for (name, result), n in measures.executions.items() if result == "done"}


def test_histogram_counts_a_bound_into_its_bucket() -> None:
    """A duration that equals a bound is not above it; one above all bounds is counted too."""
    found = Histogram.of((0.1, 1.0)).plus(0.1).plus(0.5).plus(7.0)
    assert [(0.1, 1), (1.0, 2), (float("inf"), 3)] == list(found.cumulative)
    assert 7.6 == found.sum_s


@pytest.mark.parametrize(("victim", "survivor"), [("alpha", "secondary"), ("beta", "primary")])
def test_failover_is_counted_once(tmp_path: Path, victim: str, survivor: str) -> None:
    """With what continued, what it rested on, and how long the guest waited for it."""

    async def scenario(life: FakePair, watched: Watched, supervisor: Supervisor) -> None:
        count = await protected(watched)
        assert {"launch": 2, "resume": 1} == done(measured(supervisor))
        assert {} == measured(supervisor).failovers
        life.world.qemu(victim).kill()
        count = await watched.until("failover is done", since=count)
        found = measured(supervisor)
        assert {(survivor, "exit"): 1} == found.failovers
        assert 1 == sum(found.failover.counts)
        assert 0.0 < found.failover.sum_s < 0.1
        await protected(watched, count)
        assert {"launch": 3, "resume": 2, "failover": 1} == done(measured(supervisor))

    play(tmp_path, scenario)


def test_time_without_protection_is_counted_while_protection_is_wanted(tmp_path: Path) -> None:
    """From the beginning, and after a death; neither while protected nor while it is not wanted."""

    async def scenario(life: FakePair, watched: Watched, supervisor: Supervisor) -> None:
        count = await protected(watched)
        first_s = measured(supervisor).unprotected_s
        assert 0.0 < first_s <= life.world.now_s
        await time_passes(100.0)
        assert first_s == measured(supervisor).unprotected_s
        died_s = life.world.now_s
        life.world.qemu("beta").kill()
        count = await watched.until("failover is done", since=count)
        await protected(watched, count)
        lost_s = measured(supervisor).unprotected_s - first_s
        assert 0.3 < lost_s < life.world.now_s - died_s
        watched.store.want(life.pair.name, "unprotected")
        await watched.until("unprotected is wanted")
        before_s = measured(supervisor).unprotected_s
        await time_passes(100.0)
        assert not supervisor.statuses[0].is_protected
        assert before_s == measured(supervisor).unprotected_s

    play(tmp_path, scenario)


def test_death_ends_protection_also_while_paused(tmp_path: Path) -> None:
    """A pair whose supervision is paused is not called protected after a QEMU has ended."""

    async def scenario(life: FakePair, watched: Watched, supervisor: Supervisor) -> None:
        await protected(watched)
        watched.store.pause(life.pair.name, "by the test")
        await watched.until("supervision is paused")
        await time_passes(10.0)
        assert supervisor.statuses[0].is_protected
        before_s = measured(supervisor).unprotected_s
        life.world.qemu("beta").kill()
        await time_passes(100.0)
        assert not supervisor.statuses[0].is_protected
        assert 99.0 < measured(supervisor).unprotected_s - before_s < 100.0

    play(tmp_path, scenario)


def test_pauses_of_the_primary_are_timed(tmp_path: Path) -> None:
    """Each checkpoint once, with the 70 ms for which a fake's guest is paused."""

    async def scenario(life: FakePair, watched: Watched, supervisor: Supervisor) -> None:
        await protected(watched)
        before = measured(supervisor).checkpoint_pause
        await time_passes(60.0)
        found = measured(supervisor).checkpoint_pause
        count = sum(found.counts) - sum(before.counts)
        expected = 60.0 / (life.pair.checkpoint_delay_ms / 1000.0 + 0.072)
        assert expected == pytest.approx(count, abs=2)
        assert 0.07 == pytest.approx((found.sum_s - before.sum_s) / count, abs=0.001)

    play(tmp_path, scenario)


def test_launch_that_was_not_begun_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host refuses it, so that there is no plan to report of."""

    async def scenario(life: FakePair, watched: Watched, supervisor: Supervisor) -> None:
        count = await protected(watched)

        async def version(*_: object, **__: object) -> None:
            raise HostRefused("beta", "launch-qemu", "there is no QEMU")

        for name in life.pair.names:
            monkeypatch.setattr(life.world.host(name), "version", version)
        life.world.qemu("beta").kill()
        await watched.until("have failed within an hour", since=count)
        assert 5 == measured(supervisor).executions["launch", "not-begun"]

    play(tmp_path, scenario)


def test_silence_is_seen_while_it_lasts_and_afterwards(tmp_path: Path) -> None:
    """The age of the question, and the longest one, beside the limits that it stays below."""

    async def scenario(life: FakePair, watched: Watched, supervisor: Supervisor) -> None:
        await protected(watched)
        await time_passes(3.0 * life.pair.checkpoint_delay_ms / 1000.0)
        silence = measured(supervisor).silence
        assert {"alpha", "beta"} == set(silence.question_s)
        assert life.pair.supervision.silent_s == silence.limits_s["silent"]
        assert all(longest_s < 0.1 for longest_s in silence.longest_s.values())
        assert all(longest_s < 0.1 for longest_s in silence.longest_question_s.values())
        silent_s = 0.8 * life.pair.supervision.silent_s
        life.world.qemu("beta").freeze()
        await time_passes(silent_s)
        silence = measured(supervisor).silence
        assert 0.0 < silence.question_s["beta"] <= silent_s
        assert 0.0 < silence.question_s["beta"] == silence.longest_question_s["beta"]
        life.world.qemu("beta").thaw()
        await time_passes(5.0)
        after = measured(supervisor).silence
        assert 0.0 == after.question_s["beta"]
        question_s = silence.question_s["beta"]
        assert question_s <= after.longest_s["beta"] <= after.longest_question_s["beta"]
        assert after.longest_question_s["beta"] <= silent_s + 0.1
        assert after.checkpoint_s is not None
        assert after.checkpoint_s < after.limits_s["no-checkpoint"]

    play(tmp_path, scenario)


def test_answer_out_of_band_ends_a_silence() -> None:
    """The wait for the main loop continues: the two have a limit each."""
    health = NodeHealth()
    health.question_sent(10.0)
    health.oob_question_sent(10.25)
    health.oob_question_answered(10.26)
    assert pytest.approx(0.26) == health.longest_silence_s(10.4)
    health.oob_question_sent(10.5)
    assert pytest.approx(0.64) == health.longest_silence_s(10.9)
    health.question_answered(11.0)
    assert pytest.approx(0.74) == health.longest_silence_s(20.0)
    assert 1.0 == health.longest_s


def test_waits_while_a_pair_enters_colo_are_not_kept() -> None:
    """The limit is longer until the second checkpoint."""
    health = NodeHealth(qemu="colo")
    pauses_s = (5.0, 0.3, 0.2)
    longest_s = []
    for number, pause_s in enumerate(pauses_s):
        began_s = 10.0 * number
        ended_s = began_s + pause_s
        health.question_sent(began_s)
        health.observe(StopEvent(), began_s)
        health.observe(ResumeEvent(), ended_s)
        health.question_answered(ended_s)
        longest_s.append(health.longest_s)
    assert [5.0, pytest.approx(0.3), pytest.approx(0.3)] == longest_s


def test_longest_time_without_a_checkpoint_is_kept(tmp_path: Path) -> None:
    """From the second checkpoint on; it stays when checkpoints come more often again."""

    async def scenario(life: FakePair, watched: Watched, supervisor: Supervisor) -> None:
        await protected(watched)
        delays_s = [(life.pair.checkpoint_delay_ms / 1000.0) * times for times in (1, 2, 1)]
        longest_s = []
        for delay_s in delays_s:
            options = Options(checkpoint_delay_ms=int(delay_s * 1000))
            await supervisor.perform(life.pair.name, "set-checkpoint-delay", options=options)
            await time_passes(5 * delay_s)
            found = measured(supervisor).silence
            assert found.longest_checkpoint_s is not None
            assert found.longest_checkpoint_s < found.limits_s["no-checkpoint"]
            longest_s.append(found.longest_checkpoint_s)
        assert delays_s[0] <= longest_s[0] < delays_s[1] <= longest_s[1] == longest_s[2]
        assert None is measured(supervisor).silence.lease

    play(tmp_path, scenario)


def test_forced_checkpoint_is_known(tmp_path: Path) -> None:
    """One that a person asks for is forced, and those that the delay asks for are not."""

    async def scenario(life: FakePair, watched: Watched, supervisor: Supervisor) -> None:
        await protected(watched)
        await time_passes(10.0)
        heard: list[Checkpoint] = []
        take = heard.append

        async def hear() -> None:
            # One by one: the task is cancelled while it waits.
            async for one in supervisor.checkpoints(life.pair.name):
                take(one)

        hearing = asyncio.create_task(hear())
        await time_passes(5.0 * life.pair.checkpoint_delay_ms / 1000.0)
        assert heard
        assert [] == [one for one in heard if one.forced]
        await supervisor.checkpoint(life.pair.name)
        await time_passes(5.0 * life.pair.checkpoint_delay_ms / 1000.0)
        assert 1 == sum(one.forced for one in heard)
        hearing.cancel()

    play(tmp_path, scenario)


def test_dead_qemu_is_not_called_silent(tmp_path: Path) -> None:
    """Nobody waits for the answer of one that has ended."""

    async def scenario(life: FakePair, watched: Watched, supervisor: Supervisor) -> None:
        await protected(watched)
        watched.store.pause(life.pair.name, "by the test")
        await watched.until("supervision is paused")
        life.world.qemu("beta").kill()
        await time_passes(100.0)
        assert {"alpha"} == set(measured(supervisor).silence.question_s)

    play(tmp_path, scenario)

"""One timer for many pairs, by a clock that does not run between what is due."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter

import pytest

from pycolo.supervise._beat import Beat
from pycolo.testing import World

SLOT_S = 0.01


def test_what_is_due_at_about_the_same_time_takes_one_timer() -> None:
    """A hundred questions of a hundredth of a second are asked eight in a turn of the loop."""
    world, beat, asked_s = World("11.1.3"), Beat(), list[float]()

    async def ask() -> None:
        for n in range(100):
            beat.call_later(1.0 + n * SLOT_S / 100, lambda: asked_s.append(world.now_s))
        await asyncio.sleep(2.0)  # of the world's clock

    world.run(ask())
    assert 100 == len(asked_s)
    in_a_turn = Counter(asked_s)
    assert 8 == max(in_a_turn.values())
    assert len(in_a_turn) <= 100 / 8 + 2
    assert 1.0 <= min(asked_s) <= max(asked_s) < 1.0 + 3 * SLOT_S


def test_other_work_waits_for_a_few_calls_only() -> None:
    """What takes several turns, as a failover does, is not as late as a thousand questions."""
    world, beat, asked, turns = World("11.1.3"), Beat(), list[int](), list[int]()

    async def fail_over() -> None:
        for _ in range(5):
            await asyncio.sleep(0)  # a turn of the loop
            turns.append(len(asked))

    async def ask() -> None:
        async with asyncio.TaskGroup() as group:

            def begin() -> None:
                group.create_task(fail_over())

            beat.call_later(1.0, begin)
            for n in range(1000):
                beat.call_later(1.0, functools.partial(asked.append, n))
            await asyncio.sleep(2.0)  # of the world's clock

    world.run(ask())
    assert list(range(1000)) == asked
    assert 5 == len(turns)
    assert turns[-1] <= 8 * 7


def test_earlier_call_is_made_first() -> None:
    """What is due earlier than all that was due before is not called late."""
    world, beat, called_s = World("11.1.3"), Beat(), dict[str, float]()

    async def call() -> None:
        beat.call_later(1.0, lambda: called_s.update(late=world.now_s))
        beat.call_later(0.1, lambda: called_s.update(early=world.now_s))
        await asyncio.sleep(2.0)  # of the world's clock

    world.run(call())
    assert ["early", "late"] == list(called_s)
    assert 0.1 <= called_s["early"] < 0.1 + 2 * SLOT_S


def test_call_that_fails_takes_no_other_with_it(caplog: pytest.LogCaptureFixture) -> None:
    """Questions to other QEMUs are asked whatever goes wrong with one, which is logged."""
    world, beat, called = World("11.1.3"), Beat(), list[str]()

    def fail() -> None:
        raise ValueError("a defect")

    async def call() -> None:
        beat.call_later(1.0, fail)
        beat.call_later(1.0, lambda: called.append("same"))
        beat.call_later(2.0, lambda: called.append("later"))
        await asyncio.sleep(3.0)  # of the world's clock

    world.run(call())
    assert ["same", "later"] == called
    assert "a defect" in caplog.text


def test_clock_excludes_the_time_in_which_the_process_did_not_run() -> None:
    """The clock goes on from where it was, and goes as fast as before."""
    world, beat, shown_s = World("11.1.3"), Beat(), list[float]()

    async def stop() -> None:
        with beat.joined():
            await asyncio.sleep(10.0)  # of the world's clock
            shown_s.append(beat.now_s())
            world.advance(5.0)
            shown_s.append(beat.now_s())
            await asyncio.sleep(10.0)  # of the world's clock
            shown_s.append(beat.now_s())

    world.run(stop())
    # While somebody has joined, the timer is at most a twentieth of a second ahead.
    assert [10.0, 10.0, 20.0] == pytest.approx(shown_s, abs=0.06)


def test_clock_includes_what_the_timer_may_be_late() -> None:
    """A loop that is late by a few milliseconds now and then delays no conclusion."""
    world, beat, shown_s = World("11.1.3"), Beat(), list[float]()

    async def work() -> None:
        with beat.joined():
            for _ in range(100):
                world.advance(0.01)
                await asyncio.sleep(0.05)  # of the world's clock
            shown_s.append(beat.now_s())

    world.run(work())
    assert [world.now_s] == pytest.approx(shown_s, abs=0.001)


@pytest.mark.parametrize("turn_s", [0.03, 0.06, 0.1, 0.3])
def test_clock_of_a_loop_that_is_always_late_goes_slowly_and_never_back(turn_s: float) -> None:
    """Two turns of the loop, in which an answer is read, take less than any limit."""
    world, beat, shown_s = World("11.1.3"), Beat(), list[float]()

    async def work() -> None:
        with beat.joined():
            for _ in range(300):
                world.advance(turn_s)
                shown_s.append(beat.now_s())
                await asyncio.sleep(0)  # a turn of the loop

    world.run(work())
    two_s = [later - earlier for earlier, later in zip(shown_s, shown_s[2:], strict=False)]
    assert min(two_s) >= 0.0
    assert max(two_s) < 0.2
    assert shown_s[-1] > shown_s[0] + 1.0


def test_less_is_called_while_the_loop_is_late() -> None:
    """What is due again and again would otherwise keep a loop late that has too much to do."""
    world, beat, called_s = World("11.1.3"), Beat(), list[float]()

    def call() -> None:
        called_s.append(world.now_s)
        beat.call_later(0.25, call)

    async def work() -> None:
        with beat.joined():
            call()
            for _ in range(100):
                world.advance(0.5)
                await asyncio.sleep(0)  # a turn of the loop

    world.run(work())
    # Each turn takes two of these quarters of a second.
    assert 5 <= len(called_s) <= 30


@pytest.mark.parametrize(("turn_s", "least_s", "most_s"), [(0.0, 0.0, 0.02), (0.1, 1.0, 4.0)])
def test_moment_on_time_is_waited_for_up_to_a_limit(
    turn_s: float, least_s: float, most_s: float
) -> None:
    """A loop that is never on time lets the wait end after the limit, by its slow clock."""
    world, beat = World("11.1.3"), Beat()

    async def work() -> None:
        while True:
            world.advance(turn_s)
            await asyncio.sleep(0)  # a turn of the loop

    async def wait() -> float:
        with beat.joined():
            working = asyncio.create_task(work())
            began_s = world.now_s
            await beat.wait_on_time(1.0)
            working.cancel()
            return world.now_s - began_s

    assert least_s <= world.run(wait()) <= most_s

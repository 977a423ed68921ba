"""One timer for many pairs, by a clock that does not run between what is due."""

from __future__ import annotations

import asyncio

import pytest

from pycolo.supervise._beat import Beat
from pycolo.testing import World

SLOT_S = 0.01


def test_what_is_due_at_about_the_same_time_takes_one_timer() -> None:
    """A hundred questions of a hundredth of a second are asked in two turns of the loop."""
    world, beat, asked_s = World("11.1.3"), Beat(), list[float]()

    async def ask() -> None:
        for n in range(100):
            beat.call_later(1.0 + n * SLOT_S / 100, lambda: asked_s.append(world.now_s))
        await asyncio.sleep(2.0)  # of the world's clock

    world.run(ask())
    assert 100 == len(asked_s)
    assert len(set(asked_s)) <= 2
    assert 1.0 <= min(asked_s) <= max(asked_s) < 1.0 + 3 * SLOT_S


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


def test_time_in_which_the_process_did_not_run_is_told_once() -> None:
    """Whoever joined is told before anything is concluded, and the timer does not tell it again."""
    world, beat, told = World("11.1.3"), Beat(), list[float]()

    async def stop() -> None:
        with beat.joined(lambda late_s, _: told.append(late_s)):
            await asyncio.sleep(10.0)  # of the world's clock
            assert told == []
            world.advance(5.0)
            beat.exclude_own_delay()
            beat.exclude_own_delay()
            await asyncio.sleep(10.0)  # of the world's clock
        world.advance(5.0)
        beat.exclude_own_delay()

    world.run(stop())
    # While somebody has joined, some timer is at most a quarter of a second ahead.
    (late_s,) = told
    assert 4.7 < late_s <= 5.0

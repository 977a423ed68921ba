"""The arbiter in memory: its ways to the agents, which a test breaks."""

from __future__ import annotations

import asyncio

import pytest
from tests.supervise.arbitration import (
    ALPHA,
    BETA,
    CLAIMED,
    LEASE_S,
    LIMIT_S,
    PAIR,
    SHARED,
    renewed,
    written,
)

from pycolo.errors import ArbiterLost, ArbiterOvertaken
from pycolo.testing import FakeArbiter, World


def test_a_node_that_is_cut_off_gets_no_answer_and_others_do() -> None:
    """What it asks does not arrive, and its limit passes; healed, it is as before."""

    async def scenario() -> None:
        arbiter = FakeArbiter()
        alpha, beta = arbiter.client("alpha"), arbiter.client("beta")
        held = await written(alpha)
        arbiter.cut("alpha")
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(ArbiterLost, match=r"no answer within 1\.5 s"):
            await alpha.swap(PAIR, held, CLAIMED, limit_s=1.5)
        assert 1.5 == pytest.approx(asyncio.get_running_loop().time() - began_s, abs=0.01)
        assert held == await beta.read(PAIR, limit_s=LIMIT_S)
        arbiter.heal("alpha")
        assert CLAIMED == (await alpha.swap(PAIR, held, CLAIMED, limit_s=LIMIT_S)).shared

    World().run(scenario())


def test_a_node_that_is_cut_off_while_it_waits_is_lost_at_its_limit() -> None:
    """It is told of nothing, so that its wait ends without an answer."""

    async def scenario() -> None:
        arbiter = FakeArbiter()
        alpha, beta = arbiter.client("alpha"), arbiter.client("beta")
        held = await written(alpha)
        waiting = asyncio.create_task(alpha.changed(PAIR, held, limit_s=5.0))
        assert held == await beta.changed(PAIR, held, limit_s=1.0)
        arbiter.cut("alpha")
        await written(beta, CLAIMED)
        with pytest.raises(ArbiterLost):
            await waiting

    World().run(scenario())


def test_the_lease_of_a_node_that_is_cut_off_runs_out() -> None:
    """The others see its lease end, and may then swap on that condition."""

    async def scenario() -> None:
        arbiter = FakeArbiter()
        alpha, beta = arbiter.client("alpha"), arbiter.client("beta")
        await written(alpha)
        assert await renewed(alpha)
        arbiter.cut("alpha")
        held = await beta.read(PAIR, limit_s=LIMIT_S)
        with pytest.raises(ArbiterLost):
            await alpha.renew(PAIR, "alpha", ALPHA, lease_s=LEASE_S, limit_s=0.5)
        held = await beta.changed(PAIR, held, limit_s=LIMIT_S)
        assert frozenset() == held.leases
        await beta.swap(PAIR, held, CLAIMED, no_lease_of="alpha", limit_s=LIMIT_S)

    World().run(scenario())


def test_an_answer_can_be_lost_after_the_change_took_place() -> None:
    """Only the answer to the next change is lost; reading shows that the change was made."""

    async def scenario() -> None:
        arbiter = FakeArbiter()
        alpha = arbiter.client("alpha")
        held = await written(alpha)
        arbiter.lose_answer("alpha")
        assert held == await alpha.read(PAIR, limit_s=LIMIT_S)
        with pytest.raises(ArbiterLost):
            await alpha.swap(PAIR, held, CLAIMED, limit_s=1.0)
        held = await alpha.read(PAIR, limit_s=LIMIT_S)
        assert CLAIMED == held.shared
        assert SHARED == (await alpha.swap(PAIR, held, SHARED, limit_s=LIMIT_S)).shared

    World().run(scenario())


def test_an_answer_can_come_late() -> None:
    """An answer that is on its way longer than the limit is none; a shorter way only takes time."""

    async def scenario() -> None:
        arbiter = FakeArbiter()
        alpha = arbiter.client("alpha")
        held = await written(alpha)
        arbiter.delay("alpha", back_s=2.0)
        with pytest.raises(ArbiterLost):
            await alpha.swap(PAIR, held, CLAIMED, limit_s=1.0)
        assert CLAIMED == (await alpha.read(PAIR, limit_s=3.0)).shared

    World().run(scenario())


def test_a_question_can_arrive_after_nobody_waits_for_its_answer() -> None:
    """What was asked takes effect later than the one who asked gave up, and read again."""

    async def scenario() -> None:
        arbiter = FakeArbiter()
        alpha, beta = arbiter.client("alpha"), arbiter.client("beta")
        held = await written(alpha)
        arbiter.delay("alpha", there_s=2.0)
        with pytest.raises(ArbiterLost):
            await alpha.swap(PAIR, held, CLAIMED, limit_s=1.0)
        assert held == await beta.read(PAIR, limit_s=LIMIT_S)
        told = await beta.changed(PAIR, held, limit_s=LIMIT_S)
        assert CLAIMED == told.shared

    World().run(scenario())


def test_a_restored_backup_is_what_was_held_then() -> None:
    """The record is older again, waiting agents are told, and a stale swap is still overtaken."""

    async def scenario() -> None:
        arbiter = FakeArbiter()
        alpha = arbiter.client("alpha")
        old = await written(alpha)
        backup = arbiter.backup()
        newer = await alpha.swap(PAIR, old, CLAIMED, limit_s=LIMIT_S)
        waiting = asyncio.create_task(alpha.changed(PAIR, newer, limit_s=LIMIT_S))
        assert newer == await alpha.changed(PAIR, newer, limit_s=0.1)
        arbiter.restore(backup)
        assert old == await waiting
        again = await alpha.swap(PAIR, old, SHARED, limit_s=LIMIT_S)
        assert newer.revision == again.revision
        with pytest.raises(ArbiterOvertaken):
            await alpha.swap(PAIR, newer, CLAIMED, limit_s=LIMIT_S)

    World().run(scenario())


def test_ways_are_per_node() -> None:
    """Each node's way is its own: one that is slow leaves the other as it is."""

    async def scenario() -> None:
        arbiter = FakeArbiter()
        alpha, beta = arbiter.client("alpha"), arbiter.client("beta")
        await written(alpha)
        arbiter.delay("alpha", back_s=5.0)
        assert await beta.renew(PAIR, "beta", BETA, lease_s=LEASE_S, limit_s=0.1)
        with pytest.raises(ArbiterLost):
            await alpha.renew(PAIR, "alpha", ALPHA, lease_s=LEASE_S, limit_s=0.1)

    World().run(scenario())

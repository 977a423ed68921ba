"""What every arbiter does: the contract of `Arbiter`, on each implementation."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path

import attrs
import pytest
from examples.own_arbiter import OwnArbiter, Row
from tests.etcd import ETCD, Members, members
from tests.supervise.arbitration import (
    ALPHA,
    BETA,
    CLAIMED,
    END,
    LEASE_S,
    LIMIT_S,
    PAIR,
    SHARED,
    Run,
    Scenario,
    renewed,
    written,
)

from pycolo.errors import ArbiterLost, ArbiterOvertaken, DeclarationError
from pycolo.supervise import Arbiter, Held, SharedRecord
from pycolo.supervise.arbiters import SqliteArbiter
from pycolo.supervise.arbiters.etcd import EtcdArbiter, EtcdCluster
from pycolo.testing import FakeArbiter, World

ONE_ALONE = attrs.evolve(
    SHARED,
    record=attrs.evolve(
        SHARED.record, epoch=5, holder="beta", eligible={"beta": BETA}, phase="alone"
    ),
)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Generator[Members]:
    """An etcd cluster, of which each test has a part for itself."""
    with members(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture(params=["fake", "sqlite", "example", pytest.param("etcd", marks=ETCD)])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a scenario of two agents with one arbiter."""
    world = World()

    def in_memory(scenario: Scenario) -> None:
        arbiter = FakeArbiter()
        world.run(_scenario(scenario, arbiter.client("alpha"), arbiter.client("beta")))

    def in_a_file(scenario: Scenario) -> None:
        first, second = (SqliteArbiter(tmp_path, clock=lambda: world.now_s) for _ in range(2))
        world.run(_scenario(scenario, first, second))

    def in_the_example(scenario: Scenario) -> None:
        rows: dict[str, Row] = {}
        world.run(_scenario(scenario, OwnArbiter(rows), OwnArbiter(rows)))

    def in_etcd(scenario: Scenario) -> None:
        endpoints = request.getfixturevalue("etcd").endpoints
        cluster = EtcdCluster(endpoints=endpoints, prefix=f"/tests/{uuid.uuid4()}")
        asyncio.run(_scenario(scenario, EtcdArbiter(cluster), EtcdArbiter(cluster)))

    runs: dict[str, Run] = {
        "fake": in_memory,
        "sqlite": in_a_file,
        "example": in_the_example,
        "etcd": in_etcd,
    }
    return runs[request.param]


async def _scenario(scenario: Scenario, first: Arbiter, second: Arbiter) -> None:
    try:
        await scenario(first, second)
    finally:
        await first.aclose()
        await second.aclose()


# -- the record


def test_at_first_nothing_is_held(run: Run) -> None:
    """A pair that nobody has written has revision 0, no record, no leases and no statements."""

    async def scenario(alpha: Arbiter, _: Arbiter) -> None:
        assert Held() == await alpha.read(PAIR, limit_s=LIMIT_S)

    run(scenario)


def test_a_swap_is_seen_by_everybody_at_once(run: Run) -> None:
    """Whoever asks after a change was acknowledged sees it, and what the swap gave is that."""

    async def scenario(alpha: Arbiter, beta: Arbiter) -> None:
        first = await alpha.swap(PAIR, Held(), SHARED, limit_s=LIMIT_S)
        assert first == await beta.read(PAIR, limit_s=LIMIT_S)
        assert SHARED == first.shared
        second = await beta.swap(PAIR, first, ONE_ALONE, limit_s=LIMIT_S)
        assert second == await alpha.read(PAIR, limit_s=LIMIT_S)
        assert ONE_ALONE == second.shared

    run(scenario)


def test_a_swap_on_another_record_changes_nothing(run: Run) -> None:
    """A swap on what is no longer held, or never was, is overtaken, and the record stays."""

    async def scenario(alpha: Arbiter, beta: Arbiter) -> None:
        first = await written(alpha)
        second = await alpha.swap(PAIR, first, ONE_ALONE, limit_s=LIMIT_S)
        for stale in (first, Held()):
            with pytest.raises(ArbiterOvertaken):
                await beta.swap(PAIR, stale, SHARED, limit_s=LIMIT_S)
        never = attrs.evolve(second, revision=second.revision + 1000)
        with pytest.raises(ArbiterOvertaken):
            await beta.swap(PAIR, never, SHARED, limit_s=LIMIT_S)
        assert second == await beta.read(PAIR, limit_s=LIMIT_S)

    run(scenario)


def test_of_swaps_on_the_same_record_one_takes_place(run: Run) -> None:
    """However many swap what they read at once, one wins, and the others are overtaken."""

    async def scenario(alpha: Arbiter, beta: Arbiter) -> None:
        held = await written(alpha)
        swaps = [
            who.swap(PAIR, held, attrs.evolve(SHARED, claimed_by=name), limit_s=LIMIT_S)
            for who, name in ((alpha, "alpha"), (beta, "beta"))
            for _ in range(8)
        ]
        results = await asyncio.gather(*swaps, return_exceptions=True)
        won = [result for result in results if isinstance(result, Held)]
        lost = [result for result in results if isinstance(result, ArbiterOvertaken)]
        assert (1, 15) == (len(won), len(lost))
        assert won[0] == await alpha.read(PAIR, limit_s=LIMIT_S)

    run(scenario)


def test_each_record_has_a_revision_of_its_own(run: Run) -> None:
    """The revision is another one after each change of the record, also to one that was before."""

    async def scenario(alpha: Arbiter, _: Arbiter) -> None:
        states = [await written(alpha, shared) for shared in (SHARED, CLAIMED, SHARED, SHARED)]
        assert len({0, *(held.revision for held in states)}) == 5

    run(scenario)


def test_leases_and_statements_leave_the_revision(run: Run) -> None:
    """Only changes of the record change its revision: a swap on it is not overtaken by others."""

    async def scenario(alpha: Arbiter, beta: Arbiter) -> None:
        held = await written(alpha)
        assert await renewed(beta, "beta", BETA)
        await beta.state(PAIR, END, limit_s=LIMIT_S)
        now = await alpha.read(PAIR, limit_s=LIMIT_S)
        expected = attrs.evolve(held, leases=frozenset(["beta"]), ends={"beta": END})
        assert expected == now
        swapped = await alpha.swap(PAIR, held, CLAIMED, limit_s=LIMIT_S)
        assert attrs.evolve(now, shared=CLAIMED, revision=swapped.revision) == swapped

    run(scenario)


def test_everything_that_a_record_says_is_kept(run: Run) -> None:
    """A record with every field set, and text of any script, comes back equal."""
    full = SharedRecord(
        record=attrs.evolve(
            SHARED.record,
            joining=BETA,
            commit="pending",
            evidence=attrs.evolve(END, how='outlet 4 "off", Größe \\ 大'),
            managed_by="arbiter",
        ),
        claimed_by="alpha",
        want="unprotected",
        paused="by the test",
        fuses={"alpha": 2.0, "beta": 10.0},
    )

    async def scenario(alpha: Arbiter, beta: Arbiter) -> None:
        await written(alpha, full)
        await alpha.state(PAIR, attrs.evolve(END, how='Größe "大"'), limit_s=LIMIT_S)
        held = await beta.read(PAIR, limit_s=LIMIT_S)
        assert full == held.shared
        assert 'Größe "大"' == held.ends["beta"].how

    run(scenario)


def test_pairs_do_not_mix(run: Run) -> None:
    """One arbiter holds the records, leases and statements of many pairs, each its own."""
    other = "shop-db.2"
    record = attrs.evolve(SHARED, record=attrs.evolve(SHARED.record, pair=other))

    async def scenario(alpha: Arbiter, _: Arbiter) -> None:
        await written(alpha)
        assert await renewed(alpha)
        await alpha.state(PAIR, END, limit_s=LIMIT_S)
        assert Held() == await alpha.read(other, limit_s=LIMIT_S)
        held = await alpha.swap(other, Held(), record, no_lease_of="alpha", limit_s=LIMIT_S)
        assert (record, frozenset(), {}) == (held.shared, held.leases, held.ends)

    run(scenario)


def test_only_names_of_pairs_and_nodes_are_taken(run: Run) -> None:
    """A name that could be a path, and a record under another pair's name, are refused unasked."""

    async def scenario(alpha: Arbiter, _: Arbiter) -> None:
        held = await written(alpha)
        with pytest.raises(DeclarationError, match=r"pair must .* not '\.\./x'"):
            await alpha.read("../x", limit_s=LIMIT_S)
        with pytest.raises(DeclarationError, match=r"pair must .* not '\.\./x'"):
            await alpha.changed("../x", held, limit_s=LIMIT_S)
        with pytest.raises(DeclarationError, match=r"node must .* not 'a/b'"):
            await alpha.renew(PAIR, "a/b", ALPHA, lease_s=LEASE_S, limit_s=LIMIT_S)
        with pytest.raises(DeclarationError, match=r"node must .* not ''"):
            await alpha.release(PAIR, "", limit_s=LIMIT_S)
        with pytest.raises(DeclarationError, match=r"node must .* not '-x'"):
            await alpha.state(PAIR, attrs.evolve(END, node="-x"), limit_s=LIMIT_S)
        with pytest.raises(DeclarationError, match=r"record\.pair must be other, not 'shop-db'"):
            await alpha.swap("other", Held(), SHARED, limit_s=LIMIT_S)
        with pytest.raises(DeclarationError, match="lease_s must be a positive number"):
            await alpha.renew(PAIR, "alpha", ALPHA, lease_s=0.0, limit_s=LIMIT_S)
        assert held == await alpha.read(PAIR, limit_s=LIMIT_S)

    run(scenario)


# -- leases


def test_a_lease_is_there_until_it_is_released(run: Run) -> None:
    """A renewal begins a lease, which everybody sees; a release ends it, and may be repeated."""

    async def scenario(alpha: Arbiter, beta: Arbiter) -> None:
        await written(alpha)
        assert await renewed(alpha)
        assert frozenset(["alpha"]) == (await beta.read(PAIR, limit_s=LIMIT_S)).leases
        assert await renewed(beta, "beta", BETA)
        await alpha.release(PAIR, "alpha", limit_s=LIMIT_S)
        assert frozenset(["beta"]) == (await beta.read(PAIR, limit_s=LIMIT_S)).leases
        await alpha.release(PAIR, "alpha", limit_s=LIMIT_S)
        assert await renewed(alpha)
        assert frozenset(["alpha", "beta"]) == (await beta.read(PAIR, limit_s=LIMIT_S)).leases

    run(scenario)


def test_a_lease_runs_out_by_itself_and_never_early(run: Run) -> None:
    """A lease ends some time after `lease_s` have passed since its last renewal, and not before.

    Closing the way to the arbiter does not end it either.
    """

    async def scenario(alpha: Arbiter, beta: Arbiter) -> None:
        loop = asyncio.get_running_loop()
        await written(alpha)
        assert await renewed(alpha)
        held = await beta.read(PAIR, limit_s=LIMIT_S)
        # Renewed when a part of it has passed: what is held stays the same.
        assert held == await beta.changed(PAIR, held, limit_s=LEASE_S / 4)
        asked_s = loop.time()
        assert await renewed(alpha)
        await alpha.aclose()
        gone = await beta.changed(PAIR, held, limit_s=LIMIT_S)
        assert attrs.evolve(held, leases=frozenset()) == gone
        assert LEASE_S <= loop.time() - asked_s < LEASE_S + 5.0

    run(scenario)


def _refused() -> list[tuple[str, SharedRecord]]:
    record = SHARED.record
    newer = attrs.evolve(record, eligible={"alpha": "shop-db:alpha:00000009", "beta": BETA})
    return [
        ("another instance", attrs.evolve(SHARED, record=newer)),
        ("not eligible", ONE_ALONE),
        ("claimed by another node", CLAIMED),
    ]


@pytest.mark.parametrize(
    "shared", [shared for _, shared in _refused()], ids=[name for name, _ in _refused()]
)
def test_a_lease_needs_a_record_that_permits_it(run: Run, shared: SharedRecord) -> None:
    """A renewal that the record does not permit is refused and changes nothing: no lease begins."""

    async def scenario(alpha: Arbiter, _: Arbiter) -> None:
        assert not await renewed(alpha)
        held = await written(alpha, shared)
        assert not await renewed(alpha)
        assert held == await alpha.read(PAIR, limit_s=LIMIT_S)

    run(scenario)


def test_a_claim_lets_the_others_lease_run_out(run: Run) -> None:
    """After another node's claim a lease is not renewed, and not ended either: it runs out."""

    async def scenario(alpha: Arbiter, beta: Arbiter) -> None:
        loop = asyncio.get_running_loop()
        await written(alpha)
        asked_s = loop.time()
        assert await renewed(alpha)
        held = await beta.read(PAIR, limit_s=LIMIT_S)
        held = await beta.swap(PAIR, held, CLAIMED, limit_s=LIMIT_S)
        assert frozenset(["alpha"]) == held.leases
        assert held == await beta.changed(PAIR, held, limit_s=LEASE_S / 4)
        assert not await renewed(alpha)
        gone = await beta.changed(PAIR, held, limit_s=LIMIT_S)
        assert frozenset() == gone.leases
        assert LEASE_S <= loop.time() - asked_s < LEASE_S + 5.0

    run(scenario)


def test_who_claims_renews_its_own_lease(run: Run) -> None:
    """A node's own claim does not keep it from renewing its lease."""

    async def scenario(_: Arbiter, beta: Arbiter) -> None:
        await written(beta, CLAIMED)
        assert await renewed(beta, "beta", BETA)

    run(scenario)


def test_a_swap_can_demand_that_a_node_has_no_lease(run: Run) -> None:
    """Where the node has a lease nothing is changed; where it has none, the record is."""

    async def scenario(alpha: Arbiter, beta: Arbiter) -> None:
        await written(alpha)
        assert await renewed(alpha)
        assert await renewed(beta, "beta", BETA)
        held = await beta.read(PAIR, limit_s=LIMIT_S)
        with pytest.raises(ArbiterOvertaken, match="alpha has a lease"):
            await beta.swap(PAIR, held, CLAIMED, no_lease_of="alpha", limit_s=LIMIT_S)
        assert held == await beta.read(PAIR, limit_s=LIMIT_S)
        await alpha.release(PAIR, "alpha", limit_s=LIMIT_S)
        # What was read had the lease: only what is held at that very moment counts.
        swapped = await beta.swap(PAIR, held, CLAIMED, no_lease_of="alpha", limit_s=LIMIT_S)
        assert CLAIMED == swapped.shared

    run(scenario)


# -- statements


def test_the_latest_statement_about_each_node_is_held(run: Run) -> None:
    """A statement replaces the one about the same node, and leaves the others."""
    later = attrs.evolve(END, instance="shop-db:beta:00000007", epoch=5)
    of_alpha = attrs.evolve(END, node="alpha", instance=ALPHA, who="alpha")

    async def scenario(alpha: Arbiter, beta: Arbiter) -> None:
        await beta.state(PAIR, END, limit_s=LIMIT_S)
        assert {"beta": END} == (await alpha.read(PAIR, limit_s=LIMIT_S)).ends
        await alpha.state(PAIR, of_alpha, limit_s=LIMIT_S)
        await beta.state(PAIR, later, limit_s=LIMIT_S)
        held = await alpha.read(PAIR, limit_s=LIMIT_S)
        assert {"alpha": of_alpha, "beta": later} == held.ends
        assert (0, None) == (held.revision, held.shared)

    run(scenario)


# -- waiting


async def _swap(arbiter: Arbiter) -> None:
    await written(arbiter, CLAIMED)


async def _renew(arbiter: Arbiter) -> None:
    assert await renewed(arbiter, "beta", BETA)


async def _release(arbiter: Arbiter) -> None:
    await arbiter.release(PAIR, "alpha", limit_s=LIMIT_S)


async def _state(arbiter: Arbiter) -> None:
    await arbiter.state(PAIR, END, limit_s=LIMIT_S)


@pytest.mark.parametrize("by_itself", [False, True], ids=["other", "same"])
@pytest.mark.parametrize("change", [_swap, _renew, _release, _state])
def test_who_waits_is_told_of_each_change(
    run: Run, change: Callable[[Arbiter], Awaitable[None]], *, by_itself: bool
) -> None:
    """A change, by whomever, ends the wait with what is held then; one from before, at once."""

    async def scenario(alpha: Arbiter, beta: Arbiter) -> None:
        await written(alpha)
        assert await renewed(alpha)
        held = await alpha.read(PAIR, limit_s=LIMIT_S)
        waiting = asyncio.create_task(alpha.changed(PAIR, held, limit_s=LIMIT_S))
        # It waits by then: nothing is held but what it knows.
        assert held == await beta.changed(PAIR, held, limit_s=0.3)
        assert not waiting.done()
        await change(alpha if by_itself else beta)
        told = await waiting
        assert held != told
        assert told == await beta.read(PAIR, limit_s=LIMIT_S)
        assert told == await beta.changed(PAIR, held, limit_s=LIMIT_S)

    run(scenario)


def test_a_wait_ends_at_its_limit(run: Run) -> None:
    """Where nothing changes, what is held is given when the limit has passed."""

    async def scenario(alpha: Arbiter, beta: Arbiter) -> None:
        loop = asyncio.get_running_loop()
        held = await written(alpha)
        began_s = loop.time()
        assert held == await beta.changed(PAIR, held, limit_s=0.5)
        assert 0.4 <= loop.time() - began_s < 0.7

    run(scenario)


# -- its end


def test_a_closed_way_says_so(run: Run) -> None:
    """It may be closed again; whoever asks over it gets no answer, and others are not disturbed."""

    async def scenario(alpha: Arbiter, beta: Arbiter) -> None:
        held = await written(alpha)
        await alpha.aclose()
        await alpha.aclose()
        with pytest.raises(ArbiterLost):
            await alpha.read(PAIR, limit_s=LIMIT_S)
        with pytest.raises(ArbiterLost):
            await alpha.changed(PAIR, held, limit_s=LIMIT_S)
        assert held == await beta.read(PAIR, limit_s=LIMIT_S)

    run(scenario)

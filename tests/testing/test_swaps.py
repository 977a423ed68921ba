"""What the agents swap into the arbiter, against the table of the manual on safety, on fakes."""

from __future__ import annotations

import asyncio

import attrs
import pytest
from tests.testing.agents import Agents, Network, play
from tests.testing.test_controller import write
from tests.testing.test_supervisor import serves
from tests.testing.testbed import FakePair, time_passes

from pycolo.supervise import Arbiter, Held, SharedRecord
from pycolo.supervise.wishes import set_want


def _noted(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[SharedRecord, SharedRecord]]:
    """Every record that is swapped from now on: what it was, and what it becomes."""
    arbiter = network.arbiter.client("alpha")
    real, swaps = type(arbiter).swap, list[tuple[SharedRecord, SharedRecord]]()

    async def swap(
        self: Arbiter,
        pair: str,
        held: Held,
        shared: SharedRecord,
        *,
        no_lease_of: str | None = None,
        limit_s: float,
    ) -> Held:
        found = await real(self, pair, held, shared, no_lease_of=no_lease_of, limit_s=limit_s)
        if held.shared is not None:
            swaps.append((held.shared, shared))
        return found

    monkeypatch.setattr(type(arbiter), "swap", swap)
    return swaps


def _is_alone(before: SharedRecord, after: SharedRecord, node: str, *, raised: int = 1) -> None:
    """See that a node became the sole holder, as the manual says of `serve` and `narrow`."""
    record = after.record
    assert before.record.epoch + raised == record.epoch
    assert node == record.holder
    assert {node} == set(record.eligible)
    assert ("alone", None) == (record.phase, record.joining)
    assert (None, {}) == (after.claimed_by, after.fuses)


def _first_alone(
    swaps: list[tuple[SharedRecord, SharedRecord]],
) -> tuple[SharedRecord, SharedRecord]:
    return next(
        (old, new)
        for old, new in swaps
        if old.record.phase == "protected" and new.record.phase == "alone"
    )


@pytest.mark.parametrize(("victim", "survivor"), [("alpha", "beta"), ("beta", "alpha")])
def test_claim_and_serve_are_swapped_in(
    monkeypatch: pytest.MonkeyPatch, victim: str, survivor: str
) -> None:
    """A claim changes nothing else; who serves is alone eligible, in the next epoch."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        swaps = _noted(network, monkeypatch)
        life.world.qemu(victim).freeze()
        await agents.until("failover is done", node=survivor, since=count)
        before, after = next((old, new) for old, new in swaps if new.claimed_by is not None)
        assert attrs.evolve(before, claimed_by=survivor) == after
        before, after = _first_alone(swaps)
        assert survivor == before.claimed_by
        _is_alone(before, after, survivor)
        # A promoted secondary has yet to merge its overlays.
        assert ("pending" if survivor == "beta" else "clean") == after.record.commit

    play(scenario)


def test_narrow_is_swapped_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A primary whose secondary gets no writes any more continues without a claim."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        swaps = _noted(network, monkeypatch)
        for link in life.world.qemu("alpha").disk_links.values():
            link.up = False
        write(life)
        await agents.until("no longer gets the writes", node="alpha", since=count)
        async with asyncio.timeout(60.0):
            while not any(new.record.phase == "alone" for _, new in swaps):
                await time_passes(0.01)
        before, after = _first_alone(swaps)
        _is_alone(before, after, "alpha", raised=0)
        assert "clean" == after.record.commit

    play(scenario)


def test_boot_and_stop_are_swapped_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder that is booted is named by its new QEMU; a stop leaves the record as it is."""

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        await agents.protected()
        swaps = _noted(network, monkeypatch)
        for name in ("beta", "alpha"):
            life.world.qemu(name).kill()
        await agents.protected(len(agents.events))
        _, narrowed = _first_alone(swaps)
        before, after = next((old, new) for old, new in swaps if old == narrowed)
        holder = narrowed.record.holder
        _is_alone(before, after, holder)
        assert before.record.eligible[holder] != after.record.eligible[holder]
        await serves(life)
        swaps.clear()
        held = await set_want(network.arbiter.client("alpha"), "colo", "stopped", limit_s=1.0)
        assert "stopped" == held.want
        before, after = swaps[0]
        assert attrs.evolve(before, want="stopped", claimed_by=None) == after

    play(scenario)

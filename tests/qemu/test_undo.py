"""The way back: what is left of protection once it was ended, or its making was given up.

Field by field a node is then what it was before, or, where it was promoted, what it was right
after that. Attempts are given up at many points, as by a controller that died there: nothing was
recovered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import attrs
import pytest
from tests.qemu.aftermath import differences, renew
from tests.qemu.life import (
    CHECKPOINTING,
    HAS_KVM,
    Accelerator,
    LivePair,
    accelerator_of,
    bios_life,
    off_plan,
)

from pycolo.demo.builds import Release
from pycolo.plan import Plan
from pycolo.snapshot import Live

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(120)]
Fate: TypeAlias = Literal["lives", "is killed"]
# With KVM a guest runs while its RAM is copied; under TCG it is paused (qemu-behaviour 17.11).
RUNNING = ("cont", "wait/pre-switchover", "migrate-continue")
# The last step that was done.
POINTS = (
    "migrate-incoming",
    "chardev-add/compare1",
    "object-add/comp0",
    "blockdev-add",
    "blockdev-mirror",
    "wait/mirrored",
    "stop",
    "block-job-cancel",
    "wait/mirror-ended",
    "x-blockdev-change",
    "cont",
    "migrate-set-capabilities",
    "migrate",
    "wait/pre-switchover",
    "qom-set/redire1",
    "migrate-continue",
    "wait/protected",
    "job-dismiss",
)


def _accelerator(point: str) -> Accelerator:
    return "kvm" if point in RUNNING else "tcg"


async def _never_protected(life: LivePair) -> Live:
    """A primary whose guest runs, and that had nothing to do with a secondary."""
    await life.launch("alpha")
    await life.cont("alpha")
    await life.keeps_running("alpha")
    return await life.live("alpha")


async def _promoted(life: LivePair) -> Live:
    """A secondary that was promoted, and had nothing to do with another one since."""
    await life.launch("alpha", "beta")
    await life.run("start")
    await life.keeps_running("beta")
    await life.kill("alpha")
    await life.run("failover", survivor="beta")
    await life.keeps_running("beta")
    return await life.live("beta")


def _until(plan: Plan, node: str, point: str) -> Plan:
    """The plan up to a step, without what would bring the guest back."""
    names = [s.address.removeprefix(f"{s.node}/") for s in plan.steps]
    last = [n for n, name in enumerate(names) if _is(name, point)][-1]
    assert node in (plan.steps[last].node, *plan.nodes())
    return attrs.evolve(plan, steps=plan.steps[: last + 1], recoveries=(), restored_after=None)


def _is(name: str, point: str) -> bool:
    return name == point or name.startswith((f"{point}/", f"{point}."))


async def _undone(life: LivePair, survivor: str, secondary: str, fate: Fate) -> None:
    """Take back what is there: with `stop` while the secondary answers, else with `failover`."""
    if fate == "is killed":
        await life.kill(secondary)
        undone = await life.run("failover", survivor=survivor)
    else:
        undone = await life.run("stop")
        await _forget(life, secondary)
    broken = off_plan(undone.planned_state, await life.probe()).get(survivor, {})
    # An entry that was under way may end by failing or by COLO, and QEMU tells which.
    assert set() == set(broken) - {"migration", "last_colo_mode"}
    await life.keeps_running(survivor)


async def _forget(life: LivePair, name: str) -> None:
    """Forget a secondary that has quit."""
    session = life.sessions.pop(name, None)
    if session is not None:
        await session.aclose()


def _cases() -> Iterator[object]:
    for n, point in enumerate(p for p in POINTS if HAS_KVM or p not in RUNNING):
        for fate in ("lives", "is killed"):
            few = (fate == "lives") == bool(n % 2)
            marks = () if few else (pytest.mark.nightly,)
            yield pytest.param(point, fate, marks=marks, id=f"{point.replace('/', ':')}-{fate}")


@pytest.mark.parametrize(("point", "fate"), list(_cases()))
async def test_a_start_that_is_given_up_leaves_nothing(point: str, fate: Fate) -> None:
    """After any step the primary becomes one that was never protected, its guest running."""
    async with bios_life("11.1", _accelerator(point)) as life:
        clean = await _never_protected(life)
        await life.launch("beta")
        plan = await life.compile("start")
        await life.execute(_until(plan, "alpha", point))
        await _undone(life, "alpha", "beta", fate)
        assert {} == differences(await life.live("alpha"), clean)


@pytest.mark.nightly
@pytest.mark.parametrize(("point", "fate"), list(_cases()))
async def test_a_resume_that_is_given_up_leaves_nothing(point: str, fate: Fate) -> None:
    """After any step a promoted node becomes one that was just promoted, its guest running."""
    async with bios_life("11.1", _accelerator(point)) as life:
        clean = await _promoted(life)
        await life.replace("alpha", "gamma")
        plan = await life.compile("resume")
        await life.execute(_until(plan, "beta", point))
        await _undone(life, "beta", "gamma", fate)
        assert {} == differences(await life.live("beta"), clean)


@pytest.mark.parametrize("release", CHECKPOINTING)
async def test_stop_leaves_nothing(release: Release) -> None:
    """Once protected and stopped, twice over, a node is what it was before, on every QEMU."""
    async with bios_life(release, accelerator_of(release)) as life:
        clean = await _never_protected(life)
        for _ in range(2):
            await renew(life, "beta")
            await life.run("start")
            await _undone(life, "alpha", "beta", "lives")
            assert {} == differences(await life.live("alpha"), clean)


@pytest.mark.parametrize("release", CHECKPOINTING)
async def test_stop_leaves_a_promoted_node_as_it_was_promoted(release: Release) -> None:
    """It keeps its rewriter and its replication node, and nothing else."""
    async with bios_life(release, accelerator_of(release)) as life:
        clean = await _promoted(life)
        kept = {chain.names.rewriter for chain in life.pair.chains}
        assert (kept, {}, {}, {}) == (set(clean.objects), clean.chardevs, clean.exports, clean.jobs)
        await life.replace("alpha", "gamma")
        await life.run("resume")
        await _undone(life, "beta", "gamma", "lives")
        assert {} == differences(await life.live("beta"), clean)

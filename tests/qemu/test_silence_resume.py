"""The next secondary dies or stops responding: a promoted node outlives it, and finds another one.

What `test_silence` shows of a pair's first protection, for its second one: the survivor was itself
a secondary, and keeps the rewriter and the replication node of that life.
"""

from __future__ import annotations

import pytest
from tests.qemu.aftermath import differences, stands_alone
from tests.qemu.life import Accelerator, LivePair, off_plan
from tests.qemu.test_silence import (
    SILENCES,
    Regular,
    Silence,
    Silenced,
    failed_over_and_resumed,
    places,
    protected,
    silenced_life,
    step_at,
)

from pycolo.demo.builds import Release
from pycolo.snapshot import Live

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(180)]
# Each QEMU; of the points of its `resume` those that run every time, and by which silence.
REGULAR: Regular = {
    ("11.1", "tcg"): {
        "blockdev-mirror": "nbd silent",
        "block-job-cancel": "killed",
        "migrate": "stopped",
        "wait/checkpoint": "nbd silent",
    },
    ("11.1", "kvm"): {},
    ("10.0", "kvm"): {"migrate-continue": "killed"},
    ("7.2", "kvm"): {"wait/protected": "killed"},
}


async def _promoted(silenced: Silenced) -> Live:
    """A node that was a secondary, and a spare that is about to be the next one."""
    life = silenced.life
    await protected(silenced)
    await life.kill("alpha")
    await life.run("failover", survivor="beta")
    await life.keeps_running("beta")
    clean = await life.live("beta")
    await life.replace("alpha", "gamma")
    return clean


async def _given_up(life: LivePair) -> None:
    """Take back with `stop` what the recovery left; what it took off needs nothing more."""
    (disk,) = life.pair.disks
    if disk.names.nbd in (await life.live("beta")).block_nodes:
        undone = await life.run("stop")
        assert {} == off_plan(undone.planned_state, await life.probe())


@pytest.mark.parametrize(("release", "accelerator", "how", "point"), list(places(REGULAR)))
async def test_a_promoted_node_outlives_its_resume(
    release: Release, accelerator: Accelerator, how: Silence, point: str
) -> None:
    """Its guest continues with plain network and disk, and another spare protects it."""
    async with silenced_life(release, accelerator, front="gamma") as silenced:
        life = silenced.life
        clean = await _promoted(silenced)
        plan = await life.compile("resume")
        at = step_at(plan, "beta", point)
        assert at is not None
        await silenced.silence_at(plan, at, "gamma", how)
        await silenced.resumes_soon("beta")
        assert stands_alone(life.pair, await life.live("beta"))
        await life.image_follows("beta")
        await silenced.fence("gamma")
        await _given_up(life)
        await life.replace("gamma", "delta")
        plan = await life.run("resume")
        assert {} == off_plan(plan.planned_state, await life.probe())
        await life.keeps_running("beta", "delta")
        await life.run("stop")
        assert {} == differences(await life.live("beta"), clean)


@pytest.mark.parametrize(
    "when",
    ["between checkpoints", pytest.param("inside a checkpoint", marks=pytest.mark.nightly)],
)
@pytest.mark.parametrize(
    "how", [pytest.param(h, marks=() if h == "stopped" else pytest.mark.nightly) for h in SILENCES]
)
async def test_a_promoted_node_outlives_its_next_secondary(how: Silence, when: str) -> None:
    """Once resumed it is a primary like any other, and its guest comes back."""
    async with silenced_life(front="gamma") as silenced:
        life = silenced.life
        await _promoted(silenced)
        await life.run("resume")
        await life.keeps_running("beta", "gamma")
        armed = await life.compile("failover", survivor="beta")
        await silenced.strike("beta", "gamma", how, when)
        if how != "killed":
            await silenced.stalls("beta")
        await failed_over_and_resumed(silenced, armed, "beta", "gamma", "delta")


@pytest.mark.nightly
@pytest.mark.parametrize("when", ["between checkpoints", "inside a checkpoint"])
@pytest.mark.parametrize("how", ["killed", "stopped", "links silent"])
async def test_a_next_secondary_outlives_the_promoted_node(how: Silence, when: str) -> None:
    """The guest moves on to a third node."""
    async with silenced_life(front="gamma") as silenced:
        life = silenced.life
        await _promoted(silenced)
        await life.run("resume")
        await life.keeps_running("beta", "gamma")
        armed = await life.compile("failover", survivor="gamma")
        await silenced.strike("gamma", "beta", how, when)
        await failed_over_and_resumed(silenced, armed, "gamma", "beta", "delta")

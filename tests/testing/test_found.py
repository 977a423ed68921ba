"""What random lives have found, each as its shortest life."""

from __future__ import annotations

import attrs
from tests.testing.testbed import FakePair, in_world

from pycolo._execute import execute
from pycolo.result import Unknown


def test_a_wait_ends_when_its_node_hangs_up() -> None:
    """A primary that dies in the middle of a copy is not waited for as long as a copy may take."""

    async def scenario(life: FakePair) -> None:
        await life.launch("alpha", "beta")
        plan = await life.compile("start")
        life.world.later(0.3, life.world.qemu("alpha").kill)
        report = await execute(plan, life.sessions, life.hosts)
        assert isinstance(report.outcomes[str(report.failed)], Unknown)
        assert life.world.now_s < 60

    in_world("11.1.3", scenario)


def test_a_promoted_primary_that_was_left_in_a_resync_fails_over_as_a_primary() -> None:
    """It was a secondary once; what it has to get rid of now is a primary's."""

    async def scenario(life: FakePair) -> None:
        await life.launch("alpha", "beta")
        await life.run("start")
        await life.kill("alpha")
        await life.run("failover")
        await life.replace("alpha", "gamma")
        plan = await life.compile("resume")
        addresses = [step.address for step in plan.steps]
        part = plan.steps[: addresses.index("beta/stop") + 1]
        left = attrs.evolve(plan, steps=part, recoveries=(), restored_after=None)
        await execute(left, life.sessions, life.hosts)
        await life.kill("gamma")
        await life.run("failover")
        live = await life.live("beta")
        assert ("running", {}, {}) == (live.run_state, live.chardevs, live.jobs)
        assert ("beta",) == tuple(qemu.node.name for qemu in life.world.serving)

    in_world("11.1.3", scenario)


def test_a_primary_whose_secondary_dies_while_it_pauses_fails_over() -> None:
    """Between the copy of the RAM and the switch-over a yank alone does not let the guest go."""

    async def scenario(life: FakePair) -> None:
        await life.launch("alpha", "beta")
        plan = await life.compile("start")
        addresses = [step.address for step in plan.steps]
        part = plan.steps[: addresses.index("alpha/wait/pre-switchover") + 1]
        left = attrs.evolve(plan, steps=part, recoveries=(), restored_after=None)
        await execute(left, life.sessions, life.hosts)
        await life.kill("beta")
        await life.run("failover")
        assert ("alpha",) == tuple(qemu.node.name for qemu in life.world.serving)
        assert () == (await life.compile("failover")).steps[2:]

    in_world("11.1.3", scenario)

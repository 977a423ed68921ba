"""Images that the operator copied by hand, on real QEMU."""

from __future__ import annotations

import shutil

import attrs
import pytest
from tests.qemu.aftermath import write, written
from tests.qemu.life import ON_RELEASES, Accelerator, bios_life

from pycolo._execute import execute
from pycolo.demo.builds import Release
from pycolo.model import ColoPair
from pycolo.plan import Execute, Plan
from pycolo.qmp.commands import BlockdevMirror

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(180)]
ALONE = 0x3C


def identical(pair: ColoPair) -> ColoPair:
    """The pair, by an operator who copies the images."""
    return attrs.evolve(pair, initial_sync="identical")


def copies(plan: Plan) -> bool:
    """Whether a plan copies a disk."""
    commands = (step.command for step in plan.steps if isinstance(step, Execute))
    return any(isinstance(command, BlockdevMirror) for command in commands)


@ON_RELEASES
async def test_identical_images_are_accepted_once(
    release: Release, accelerator: Accelerator
) -> None:
    """A forgotten image is refused, one that was copied serves, and what came later is copied."""
    async with bios_life(release, accelerator, shape=identical) as life:
        await life.launch("alpha")
        forgotten = await execute(await life.compile_launch("beta"), {}, life.hosts)
        assert forgotten.failed is not None
        assert str(life.image("beta")) in forgotten.advice
        assert not life.image("beta").exists()

        shutil.copyfile(life.image("alpha"), life.image("beta"))
        await life.launch("beta")
        assert not copies(await life.run("start"))
        await life.keeps_running("alpha")

        await life.kill("beta")
        await life.run("failover", survivor="alpha")
        await write(life, "alpha", ALONE)
        await life.launch("beta")
        assert copies(await life.run("resume"))
        await life.kill("alpha")
        await life.run("failover", survivor="beta")
        assert {ALONE} == written(life, "beta")
        await life.keeps_running("beta")

"""A pair under a controller, on real QEMU: it dies twice, and nobody types anything."""

from __future__ import annotations

import pytest
from tests.qemu.life import ON_RELEASES, Accelerator, bios_life
from tests.testing.test_controller import kinds, settled

from pycolo.controller import PairController
from pycolo.demo.builds import Release

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]
NEW = ["Launch", "Launch", "resume", "Settled"]
AGAIN = ["Prove", "Launch", "resume", "Settled"]


@ON_RELEASES
async def test_pair_is_kept_protected(release: Release, accelerator: Accelerator) -> None:
    """Either node dies in turn: its host shows it, the guest continues, and is protected again."""
    async with (
        bios_life(release, accelerator) as life,
        PairController(life.pair, life.hosts) as controller,
    ):
        assert NEW == kinds(await settled(controller))
        await life.keeps_running("alpha", "beta")
        for victim, survivor in (("alpha", "beta"), ("alpha", "beta"), ("beta", "alpha")):
            await life.kill(victim)
            assert await controller.wait(10.0)
            rounds = await settled(controller)
            assert AGAIN == kinds(rounds), [r.report.advice for r in rounds if r.report]
            await life.keeps_running(survivor)
        controller.want("unprotected")
        assert ["stop", "Settled"] == kinds(await settled(controller))
        await life.keeps_running("alpha")
        controller.want("stopped")
        assert ["End", "Settled"] == kinds(await settled(controller))

"""`shutdown` on real QEMU: a guest that obeys its power button, and one that does not."""

from __future__ import annotations

import attrs
import pytest
from tests import operating
from tests.qemu.life import LIMIT_S, ON_RELEASES, Accelerator, LivePair, bios_life, until

from pycolo import operate
from pycolo.demo.builds import Release
from pycolo.demo.guests import bios_disk_counter
from pycolo.model import ColoPair, Timeouts
from pycolo.model.pair import CHECKPOINTS_OFF_MS
from pycolo.qmp import commands as qmp
from pycolo.result import TimedOut
from pycolo.snapshot import role_of
from pycolo.standing import standing

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(180)]


def _rarely(pair: ColoPair) -> ColoPair:
    """Without a checkpoint between the button and the end of the guest."""
    return attrs.evolve(pair, chains=(), checkpoint_delay_ms=CHECKPOINTS_OFF_MS)


def _impatient(pair: ColoPair) -> ColoPair:
    return attrs.evolve(pair, timeouts=Timeouts(shutdown_s=3.0))


async def _protected(life: LivePair) -> None:
    await life.launch("alpha", "beta")
    await life.run("start")


@ON_RELEASES
async def test_guest_that_obeys_ends_on_both_nodes(
    release: Release, accelerator: Accelerator
) -> None:
    """All that it wrote is in its image, and a launch boots the same node again."""
    async with bios_life(release, accelerator) as life:
        await _protected(life)
        await life.keeps_running("alpha", "beta")
        await life.disconnect()
        report = await operating.run(life.pair, lambda c: c.shutdown())
        assert 0 == report.exit_code, f"{report.advice}\n{life.stderr()}"
        assert None is life.host.watch(life.pair, "alpha")
        assert None is life.host.watch(life.pair, "beta")
        assert bios_disk_counter(life.image("alpha")) >= life.counter("alpha")
        assert "stopped" == standing(await operate.status(life.pair)).state
        again = await operating.run(life.pair, lambda c: c.shutdown())
        assert not again.plan.acts
        for procedure in (operating.launch, operating.start):
            assert 0 == (await operating.run(life.pair, procedure)).exit_code
        assert "protected" == standing(await operate.status(life.pair)).state
        await life.keeps_running("alpha", "beta")


@ON_RELEASES
async def test_secondary_does_not_see_the_button(
    release: Release, accelerator: Accelerator
) -> None:
    """Pressed on the primary alone, it ends the primary alone (qemu-behaviour 19.12)."""
    async with bios_life(release, accelerator, shape=_rarely) as life:
        await _protected(life)
        await life.keeps_running("alpha", "beta")
        alpha, beta = life.sessions["alpha"], life.sessions["beta"]
        await alpha.execute(qmp.SystemPowerdown(), limit_s=LIMIT_S)
        await until(lambda: alpha.closed, "alpha has ended")
        assert alpha.latched.powered_off
        await until(lambda: beta.latched.colo_exited, "beta has noticed")
        assert "broken secondary" == role_of(await life.live("beta"))
        assert not beta.latched.powered_off


async def test_nothing_is_ended_where_a_guest_does_not_obey() -> None:
    """A BIOS without anything to boot has no ACPI driver: the limit passes, and both run on."""
    async with bios_life("11.1", "tcg", shape=_impatient) as life:
        life.image("alpha").unlink()
        life.create_image("alpha")
        await _protected(life)
        await life.disconnect()
        report = await operating.run(life.pair, lambda c: c.shutdown())
        assert ("alpha/wait/powered-off", 3) == (report.failed, report.exit_code), report.advice
        assert isinstance(report.outcomes["alpha/wait/powered-off"], TimedOut)
        assert "no QEMU was ended" in report.advice
        assert "protected" == standing(await operate.status(life.pair)).state

"""States from which no procedure seemed to lead out, or led on in silence, on real QEMU."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import attrs
import pytest
from tests import operating
from tests.qemu.life import LIMIT_S, ON_RELEASES, Accelerator, LivePair, bios_life

from pycolo import operate
from pycolo.compiler import compile_plan
from pycolo.demo.builds import Release
from pycolo.errors import CommandRefused, CompileError, UndecidedError
from pycolo.model import ColoPair
from pycolo.plan import Options, Procedure
from pycolo.qmp import commands as qmp
from pycolo.qmp.events import QuorumReportBadEvent
from pycolo.reconcile import Act, next_step
from pycolo.standing import standing

Shape: TypeAlias = Callable[[ColoPair], ColoPair]
ENDING: tuple[Procedure, ...] = ("stop", "failover")
pytestmark = [pytest.mark.qemu, pytest.mark.timeout(180)]


async def _protected(life: LivePair) -> None:
    await life.launch("alpha", "beta")
    await life.run("start")
    await life.keeps_running("alpha", "beta")


async def _refused(life: LivePair, compile_: operating.Compile) -> str:
    """The code of what is refused when a procedure is compiled."""
    with pytest.raises(CompileError) as caught:
        await operating.compiled(life.pair, compile_)
    return caught.value.findings[0].code


@ON_RELEASES
async def test_migration_that_was_cancelled_inside_colo_is_named(
    release: Release, accelerator: Accelerator
) -> None:
    """No procedure tries in vain; the primary is ended, and its secondary takes over."""
    async with bios_life(release, accelerator) as life:
        await _protected(life)
        cancel = qmp.HumanMonitorCommand(command_line="migrate_cancel")
        await life.sessions["alpha"].execute(cancel, limit_s=LIMIT_S)
        if release == "7.2":
            await life.run("stop")
            await life.keeps_running("alpha")
            return
        with pytest.raises(CommandRefused, match="VM is not in COLO mode"):
            await life.sessions["alpha"].execute(qmp.XColoLostHeartbeat(), limit_s=LIMIT_S)
        assert "cancelling" == (await life.live("alpha")).migration
        await life.disconnect()
        for compile_ in (operating.survives("alpha"), operating.stop):
            assert "cancelling" == await _refused(life, compile_)
        assert "being cancelled" in standing(await operate.status(life.pair)).text
        await life.kill("alpha")
        assert 0 == (await operating.run(life.pair, operating.survives("beta"))).exit_code
        await life.connect("beta")
        await life.keeps_running("beta")


@ON_RELEASES
async def test_guest_that_was_booted_alone_is_continued(
    release: Release, accelerator: Accelerator
) -> None:
    """Both hosts lost power, and one is back: its guest serves without a secondary."""
    async with bios_life(release, accelerator) as life:
        await _protected(life)
        for name in ("beta", "alpha"):
            await life.kill(name)
        await life.launch("alpha")
        # By this QEMU's own word: a disk that is another one's image is refused.
        assert str(life.image("alpha")) == (await life.live("alpha")).images["parent0"]
        await life.disconnect()
        assert 0 == (await operating.run(life.pair, operating.survives("alpha"))).exit_code
        await life.connect("alpha")
        await life.keeps_running("alpha")
        await life.launch("beta")
        await life.run("resume")
        await life.keeps_running("alpha", "beta")


@ON_RELEASES
async def test_guest_that_somebody_paused_stays_paused(
    release: Release, accelerator: Accelerator
) -> None:
    """Neither a failover nor a stop continues what nothing of ours has stopped."""
    async with bios_life(release, accelerator) as life:
        await life.launch("alpha")
        alpha = life.sessions["alpha"]
        await alpha.execute(qmp.Cont(), limit_s=LIMIT_S)
        await alpha.execute(qmp.Stop(), limit_s=LIMIT_S)
        await life.launch("beta")
        await life.disconnect()
        for compile_ in (operating.survives("alpha"), operating.stop):
            assert "paused" == await _refused(life, compile_)


@ON_RELEASES
async def test_second_secondary_that_waits_is_refused(
    release: Release, accelerator: Accelerator
) -> None:
    """It was launched first and would take the packets of the one that is wanted."""
    async with bios_life(release, accelerator) as life:
        await life.launch("alpha")
        await life.launch("gamma")
        await life.launch("beta")
        await life.disconnect()
        wanted = "other-secondary"
        assert wanted == await _refused(life, lambda c: c.start(peer="beta"))
        await life.kill("gamma")
        report = await operating.run(life.pair, lambda c: c.start(peer="beta"))
        assert 0 == report.exit_code, report.advice
        await life.connect("alpha")
        await life.keeps_running("alpha")


# -- the primary's own disk


@contextmanager
def _small_disk(name: str) -> Generator[Shape]:
    """A shape in which one node's images lie on a file system of 256 KiB, its record elsewhere."""
    with tempfile.TemporaryDirectory(prefix="colo-", dir="/var/tmp") as place:
        images, state = Path(place, "images"), Path(place, "state")
        images.mkdir()
        state.mkdir()
        options = "size=256k,mode=700"
        subprocess.run(("mount", "-t", "tmpfs", "-o", options, "tmpfs", images), check=True)

        def shaped(pair: ColoPair) -> ColoPair:
            small = attrs.evolve(pair.node(name), image_folder=str(images), state_dir=str(state))
            nodes = tuple(small if one.name == name else one for one in pair.nodes)
            return attrs.evolve(pair, nodes=nodes)

        try:
            yield shaped
        finally:
            subprocess.run(("umount", "--lazy", images), check=True)


def _fill(folder: str) -> None:
    """Leave no room in a file system."""
    with Path(folder, "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
@ON_RELEASES
async def test_primary_whose_own_disk_fails_is_not_left_alone(
    release: Release, accelerator: Accelerator
) -> None:
    """The quorum hides it: the guest is told that all is written; its secondary alone has it."""
    with _small_disk("alpha") as shape:
        async with bios_life(release, accelerator, shape=shape) as life:
            await _protected(life)
            alpha, bad = life.sessions["alpha"], asyncio.Event()
            alpha.subscribe(lambda n: bad.set() if isinstance(n, QuorumReportBadEvent) else None)
            _fill(life.pair.node("alpha").image_folder)
            write = 'qemu-io -d disk0 "write -P 0x66 640k 64k"'
            await alpha.execute(qmp.HumanMonitorCommand(command_line=write), limit_s=LIMIT_S)
            async with asyncio.timeout(LIMIT_S):
                await bad.wait()

            found = await life.probe()
            assert "at risk" == standing(found).state
            why = "a disk of alpha has failed, and beta may have writes that it lacks"
            assert why in standing(found).text
            for procedure in ENDING:
                options = Options(survivor="alpha" if procedure == "failover" else None)
                with pytest.raises(UndecidedError) as caught:
                    compile_plan(procedure, life.pair, found, options)
                assert "disk-failed" == caught.value.findings[0].code
            step = next_step(life.pair, found)
            assert isinstance(step, Act)
            assert "switch-over" == step.plan.procedure
            await life.execute(step.plan)
            await life.keeps_running("beta")
            await life.image_follows("beta")
            with life.image("beta").open("rb") as image:
                image.seek(640 << 10)
                assert bytes([0x66]) * 16 == image.read(16)

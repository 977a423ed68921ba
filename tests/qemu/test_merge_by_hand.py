"""A promoted node that ended before its overlays were merged, brought back as the manual says."""

from __future__ import annotations

import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from tests.qemu.aftermath import write, written
from tests.qemu.life import LIMIT_S, ON_RELEASES, Accelerator, LivePair, bios_life
from tests.real_qemu import build_of
from tests.watching import Watching

from pycolo._execute import execute
from pycolo.compiler import launch
from pycolo.demo.builds import Release
from pycolo.errors import UndecidedError
from pycolo.evidence import instance_of
from pycolo.model import ReplicationDisk
from pycolo.plan import Plan
from pycolo.qmp.commands import Cont, HumanMonitorCommand
from pycolo.record import PairRecord

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(180)]
PATTERN = 0x5A
MANUAL = Path(__file__).parents[2] / "docs" / "explanation" / "record.md"


def documented() -> list[list[str]]:
    """The commands of the manual, word by word."""
    lines = MANUAL.read_text().splitlines()
    return [shlex.split(line) for line in lines if line.startswith("      qemu-img ")]


def run_in(life: LivePair, release: Release, node: str, words: list[str]) -> None:
    """Run one of them in a node's image folder, with the names of this pair's images."""
    disk, manual = life.pair.disks[0], ReplicationDisk(size_bytes=life.pair.disks[0].size_bytes)
    names = {
        manual.image: disk.image,
        manual.active_image: disk.active_image,
        manual.hidden_image: disk.hidden_image,
    }
    program, *rest = words
    assert program == "qemu-img"
    named = [names.get(word, word) for word in rest]
    if disk.image in named and "-F" in named:
        named[named.index("-F") + 1] = disk.image_format
    folder = life.pair.node(node).image_folder
    qemu_img = str(build_of(release).qemu_img)
    subprocess.run([qemu_img, *named], cwd=folder, check=True, capture_output=True)


async def relaunch(life: LivePair, name: str, *, newest: str | None = None) -> Plan:
    """The plan that starts a node's QEMU once more."""
    return launch(
        life.pair,
        await life.probe(),
        qemu={name: life.version},
        nodes=(name,),
        newest=newest,
        instances={name: instance_of(life.pair.name, name, 9)},
    )


@ON_RELEASES
async def test_the_manual_brings_back_a_node_with_a_pending_commit(
    release: Release, accelerator: Accelerator
) -> None:
    """Refused until its overlays are merged; by hand, its image becomes what its guest saw."""
    async with bios_life(release, accelerator) as life:
        await life.launch("alpha", "beta")
        await life.run("start")
        await life.kill("alpha")
        await write(life, "beta", PATTERN)
        # As a guest that wants to keep it does; what is not flushed ends with QEMU.
        flush = HumanMonitorCommand(command_line='qemu-io -d disk0 "flush"')
        await life.sessions["beta"].execute(flush, limit_s=LIMIT_S)
        plan = await life.compile("failover", survivor="beta")

        def kill(address: str) -> None:
            if address == "beta/x-colo-lost-heartbeat":
                life.signal("beta", signal.SIGKILL)

        report = await execute(plan, life.sessions, life.hosts, observer=Watching(kill))
        assert report.failed == "beta/x-colo-lost-heartbeat"
        await life.sessions.pop("beta").aclose()
        own = (await life.probe()).records["beta"]
        assert isinstance(own, PairRecord)
        assert ("beta", "alone", "pending") == (own.holder, own.phase, own.commit)

        with pytest.raises(UndecidedError, match=r"merge its overlays by hand.*--newest beta"):
            await relaunch(life, "beta")

        rebase, commit = documented()[:2], documented()[2:]
        assert (2, 2) == (len(rebase), len(commit))
        for words in rebase:
            run_in(life, release, "beta", words)
        disk, folder = life.pair.disks[0], Path(life.pair.node("beta").image_folder)
        seen, to_raw = folder / "seen.raw", ["qemu-img", "convert", "-O", "raw"]
        run_in(life, release, "beta", [*to_raw, disk.active_image, str(seen)])
        assert {PATTERN} != written(life, "beta")
        for words in commit:
            run_in(life, release, "beta", words)
        assert {PATTERN} == written(life, "beta")
        assert seen.read_bytes() == (folder / disk.image).read_bytes()

        await life.execute(await relaunch(life, "beta", newest="beta"))
        session = await life.connect("beta")
        await session.execute(Cont(), limit_s=LIMIT_S)
        await life.keeps_running("beta")

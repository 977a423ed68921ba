"""A primary that loses its connection to the secondary's disk while COLO continues."""

from __future__ import annotations

import asyncio

import pytest
from tests.qemu.life import LIMIT_S, ON_RELEASES, Accelerator, bios_life

from pycolo import operate
from pycolo.demo.builds import Release
from pycolo.qmp import commands as qmp
from pycolo.qmp.events import QuorumReportBadEvent
from pycolo.qmp.objects import YankBlockNode
from pycolo.session import Notice
from pycolo.standing import standing

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(120)]


@ON_RELEASES
async def test_a_lost_disk_link_is_no_protection(
    release: Release, accelerator: Accelerator
) -> None:
    """QEMU's queries show nothing of it; its event does, to whoever is connected when it comes."""
    async with bios_life(release, accelerator) as life:
        await life.launch("alpha", "beta")
        await life.run("start")
        assert "protected" == standing(await operate.status(life.pair)).state

        session, bad = life.sessions["alpha"], asyncio.Event()

        def note(notice: Notice) -> None:
            if isinstance(notice, QuorumReportBadEvent):
                bad.set()

        session.subscribe(note)
        link = YankBlockNode(node_name=life.pair.disks[0].names.nbd)
        await session.execute(qmp.Yank(instances=(link,)), limit_s=LIMIT_S, oob=True)
        async with asyncio.timeout(LIMIT_S):
            await bad.wait()

        held, fresh = await life.probe(), await operate.status(life.pair)
        asked = await session.execute(qmp.QueryXenReplicationStatus(), limit_s=LIMIT_S)
        assert not asked.error
        for seen in (held, fresh):
            assert ("primary", "secondary") == tuple(
                live.colo_mode for name in ("alpha", "beta") if (live := seen.live(name))
            )
            stands = standing(seen)
            assert "at risk" == stands.state
            assert "replication of a disk has failed" in stands.text

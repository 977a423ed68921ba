"""The fuse of a real QEMU."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from tests.fuse.guarded import FIRST, FUSE_S, Fuse, Victim, fuse_folder, running
from tests.real_qemu import RELEASES, bare_qemu

from pycolo.demo.builds import Release
from pycolo.errors import CommandUnknown
from pycolo.fuse.client import boottime_s
from pycolo.qmp.commands import QueryName
from pycolo.session import Session

pytestmark = pytest.mark.qemu
LIMIT_S = 20.0
SILENT_S = 0.1
LONG_ENOUGH_S = 2.0


@pytest.fixture
def fuse() -> Generator[Fuse]:
    """A fuse that runs."""
    with fuse_folder() as folder, running(folder) as made:
        made.start()
        yield made


def _states(pid: int) -> set[str]:
    """The states of its threads."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return {stat.rpartition(")")[2].split()[0] for stat in stats}


@pytest.mark.parametrize("release", RELEASES)
async def test_qemu_is_stopped_continued_and_killed(fuse: Fuse, release: Release) -> None:
    """A stopped one answers nothing, with each of its threads; a renewed one answers again."""
    named = ("-machine", "none", "-name", f"guest={FIRST}")
    with bare_qemu(release, fuse.folder.parent, *named) as qemu:
        async with (
            await Session.connect("alpha", qemu.observer, limit_s=LIMIT_S) as observer,
            await Session.connect("alpha", qemu.control, limit_s=LIMIT_S) as control,
        ):
            guarded = Victim(qemu.process, FIRST)
            as_of_s = boottime_s() - LONG_ENOUGH_S + FUSE_S
            fuse.arm(guarded, fuse_s=LONG_ENOUGH_S, kill_s=FUSE_S, as_of_s=as_of_s)
            guarded.wait_stopped()
            assert {"T"} == _states(guarded.pid)
            with pytest.raises(CommandUnknown):
                await observer.execute(QueryName(), limit_s=SILENT_S)
            fuse.renew(guarded, boottime_s())
            guarded.wait_continued()
            assert FIRST == (await control.execute(QueryName(), limit_s=LIMIT_S)).name
            guarded.wait_stopped()
            guarded.wait_killed()

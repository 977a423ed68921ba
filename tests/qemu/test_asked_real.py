"""What a person asks a supervisor for, and does while it is paused, on real QEMU."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.qemu.life import ON_RELEASES, Accelerator, LivePair, bios_life
from tests.testing.test_supervisor import Watched, kept, protected, quiet

from pycolo import operate
from pycolo.demo.builds import Release
from pycolo.observers import Observer
from pycolo.pace import Pace
from pycolo.supervise import Store
from pycolo.supervise.control import find, served

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]
NAME = "colo"


@ON_RELEASES
async def test_a_person_moves_the_guest(
    release: Release, accelerator: Accelerator, tmp_path: Path
) -> None:
    """Through the supervisor's socket, then in a pause without it: the guest keeps running."""
    with Store(tmp_path) as store:
        async with (
            bios_life(release, accelerator) as life,
            kept(life, store) as watched,
            served(watched.supervisor, tmp_path),
        ):
            count = await _asked(life, watched, tmp_path)
            await _in_a_pause(life, watched, store, count)


async def _asked(life: LivePair, watched: Watched, folder: Path) -> int:
    count = await protected(watched)
    await life.keeps_running("alpha", "beta")
    control = find(folder, NAME)
    assert control is not None
    report = await control.perform("switch-over", Observer())
    assert 0 == report.exit_code, report.advice
    await life.keeps_running("beta")
    return await protected(watched, count)


async def _in_a_pause(life: LivePair, watched: Watched, store: Store, count: int) -> None:
    store.pause(NAME, "by the test")
    while not watched.supervisor.status(NAME).are_monitors_free:
        await watched.until("supervision is paused", since=count)
        await asyncio.sleep(0.05)
    async with operate.connect(life.pair) as way:
        report = await way.execute(await way.switch_over(), Observer())
        assert 0 == report.exit_code, report.advice
    await life.keeps_running("alpha")
    store.pause(NAME, None)
    await protected(watched, count)
    await life.keeps_running("alpha", "beta")
    assert not [event.text for event in watched.events if event.kind == "person"]


@ON_RELEASES
async def test_checkpoints_begin_one_delay_apart(
    release: Release, accelerator: Accelerator, tmp_path: Path
) -> None:
    """As the supervisor hears them, and as anybody does over the observer monitor."""
    with Store(tmp_path) as store:
        async with bios_life(release, accelerator) as life, kept(life, store) as watched:
            await protected(watched)
            await quiet(watched)
            for source in (
                watched.supervisor.checkpoints(NAME),
                operate.checkpoints(life.pair, "alpha"),
            ):
                heard = []
                async with aclosing(source) as checkpoints:
                    async for checkpoint in checkpoints:
                        heard.append(checkpoint)
                        if len(heard) == 12:
                            break
                took_s = heard[-1].began_s - heard[0].began_s
                pace = Pace.of(heard, seconds=took_s, delay_ms=life.pair.checkpoint_delay_ms)
                # A host that is busy with something else begins one late, and the next in time.
                assert pace.timed >= 9, heard
                # The delay counts from beginning to beginning: the pause is no part of it.
                assert took_s < 11 * 0.5 * 1.3
                assert 0.0 < pace.pause_s(0.5) < 0.3

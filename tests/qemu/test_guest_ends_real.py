"""What a guest does of its own under a supervisor, on real QEMU: it powers off, panics or resets.

A port is written through a monitor as a guest writes it: each of the two devices does what it would
have done for its guest, on both sides within milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
from tests.qemu.life import (
    LIMIT_S,
    ON_RELEASES,
    Accelerator,
    LivePair,
    bios_life,
    until,
)
from tests.testing.test_supervisor import Watched, kept, protected

from pycolo.demo.builds import Release
from pycolo.errors import PycoloError
from pycolo.model import ColoPair, Device
from pycolo.qmp import commands as qmp
from pycolo.session import Session
from pycolo.supervise import Store

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(240)]
POWER_OFF = "o /h 0x604 0x2000"
PANIC = "o /b 0x505 1"
PANICKED = "the guest has panicked, and QEMU's reaction is poweroff"
RESET = "o /b 0x64 0xfe"
CASE_S = 200.0


def _with_pvpanic(pair: ColoPair) -> ColoPair:
    return attrs.evolve(
        pair, machine=attrs.evolve(pair.machine, devices=(Device(driver="pvpanic"),))
    )


@asynccontextmanager
async def _protected(
    release: Release, accelerator: Accelerator, folder: Path
) -> AsyncGenerator[tuple[LivePair, Watched, int]]:
    """A pair that a supervisor keeps, and how much that has told."""
    with Store(folder) as store:
        async with (
            bios_life(release, accelerator, shape=_with_pvpanic) as life,
            kept(life, store) as watched,
        ):
            async with asyncio.timeout(CASE_S):
                count = await protected(watched)
                await life.keeps_running("alpha", "beta")
                yield life, watched, count


async def _both(life: LivePair, line: str, *names: str) -> None:
    """Write to a port of each of these nodes, at the same moment."""
    command = qmp.HumanMonitorCommand(command_line=line)
    async with contextlib.AsyncExitStack() as stack:
        sessions = []
        for name in names:
            monitor = life.pair.node(name).observer_monitor
            session = await Session.connect(name, monitor, limit_s=LIMIT_S)
            sessions.append(await stack.enter_async_context(session))
        # Whoever powers off may end before it has answered.
        with contextlib.suppress(PycoloError):
            await asyncio.gather(*(s.execute(command, limit_s=LIMIT_S) for s in sessions))


@ON_RELEASES
@pytest.mark.parametrize(
    "line",
    [
        pytest.param(POWER_OFF, id="power-off"),
        pytest.param(PANIC, id="panic", marks=pytest.mark.nightly),
    ],
)
async def test_guest_that_ends_is_not_a_death(
    release: Release, accelerator: Accelerator, line: str, tmp_path: Path
) -> None:
    """Both QEMUs end, nobody fails over, and it is not booted until it is wanted again."""
    async with _protected(release, accelerator, tmp_path) as (life, watched, count):
        await _both(life, line, "alpha", "beta")
        await watched.until("stopped is wanted", since=count)
        for name in ("alpha", "beta"):
            await until(lambda: life.host.watch(life.pair, name) is None, f"{name} ends")  # noqa: B023 - awaited here
        assert "stopped" == watched.store.read(life.pair.name).want
        told = watched.events[count:]
        panics = [event.text for event in told if event.kind == "guest"]
        assert ([PANICKED] if line == PANIC else []) == panics
        assert not [event.text for event in told if "failover" in event.text]
        assert not [event.text for event in told if event.kind == "person"]
        watched.store.want(life.pair.name, "protected")
        await protected(watched, len(watched.events))
        await life.keeps_running("alpha", "beta")


@ON_RELEASES
async def test_guest_that_resets_stays_protected(
    release: Release, accelerator: Accelerator, tmp_path: Path
) -> None:
    """Its QEMUs run on, and the guest counts from the beginning on both sides."""
    async with _protected(release, accelerator, tmp_path) as (life, watched, count):
        await life.keeps_running("alpha", "beta", by=40)
        before = life.counter("alpha")
        await _both(life, RESET, "alpha", "beta")
        for name in ("alpha", "beta"):
            await until(lambda: life.counter(name) < before, f"{name} counts anew")  # noqa: B023 - awaited here
        await life.keeps_running("alpha", "beta", by=40)
        assert watched.supervisor.statuses[0].is_protected
        told = {(e.kind, e.text) for e in watched.events[count:] if e.kind != "state"}
        # The firmware may reset the machine once more.
        assert {("guest", "the guest was reset: guest-reset")} == told

"""The shapes of QEMU's own COLO tests, over pycolo's plans (qemu-behaviour 15.1).

The guest runs before it is protected, checkpoints come every 300 ms, three of them pass with both
sides alive, then one side is killed: between checkpoints or inside one. QEMU's tests have neither
disks nor filters; here they are run both ways. TCG, so that they run everywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Literal

import attrs
import pytest
from tests.qemu.life import LIMIT_S, LivePair, bios_life, off_plan

from pycolo.demo.guests import bios_guest
from pycolo.model import ColoPair, Migration, Node
from pycolo.qmp.events import StopEvent
from pycolo.session import Notice, Session

pytestmark = pytest.mark.qemu
FLOPPY_BYTES = 1474560


def _full(pair: ColoPair) -> ColoPair:
    return attrs.evolve(pair, checkpoint_delay_ms=300)


def _bare(pair: ColoPair) -> ColoPair:
    """No disk of the pair's: the guest boots from a floppy and finds that it cannot write."""
    floppy = Path(pair.nodes[0].image_folder) / "floppy.img"
    bios_guest(floppy, size_bytes=FLOPPY_BYTES)
    drive = '{"driver":"raw","file":{"driver":"file","locking":"off","filename":"%s"}}'
    nodes = tuple(_with_floppy(node, "json:" + drive % floppy) for node in pair.nodes)
    return attrs.evolve(_full(pair), nodes=nodes, disks=(), chains=())


def _with_floppy(node: Node, floppy: str) -> Node:
    """A node whose QEMU has a drive that no pair may declare."""
    program = Path(node.image_folder) / "qemu"
    program.write_text(f"#!/bin/sh\nexec {node.qemu_binary} \"$@\" -fda '{floppy}'\n")
    program.chmod(0o755)
    return attrs.evolve(node, qemu_binary=str(program))


SHAPES = {"bare": _bare, "full": _full}


@pytest.fixture(params=["plain", "multifd"])
def multifd(request: pytest.FixtureRequest) -> bool:
    """How the RAM is sent."""
    return bool(request.param == "multifd")


@pytest.fixture(params=SHAPES)
async def life(request: pytest.FixtureRequest, *, multifd: bool) -> AsyncGenerator[LivePair]:
    """A protected pair whose guest ran before it was protected."""

    def shape(pair: ColoPair) -> ColoPair:
        migration = Migration(multifd_channels=2 if multifd else 0)
        return attrs.evolve(SHAPES[request.param](pair), migration=migration)

    async with bios_life("11.1", "tcg", shape=shape) as living:
        await living.launch("alpha", "beta")
        await living.cont("alpha")
        await living.keeps_running("alpha")
        await living.run("start")
        yield living


@pytest.mark.parametrize("moment", ["between", "inside"])
@pytest.mark.parametrize("survivor", ["primary", "secondary"])
async def test_failover_after_three_checkpoints(
    life: LivePair,
    survivor: Literal["primary", "secondary"],
    moment: Literal["between", "inside"],
) -> None:
    """The survivor's guest continues, whether its peer died between checkpoints or inside one."""
    stays, goes = ("alpha", "beta") if survivor == "primary" else ("beta", "alpha")
    await asyncio.gather(*(_checkpoints(life.sessions[name], 3) for name in (stays, goes)))
    await life.keeps_running(stays, goes)
    if moment == "inside":
        await _stopped(life.sessions["beta"])
    await life.kill(goes)
    plan = await life.run("failover", survivor=stays)
    await life.keeps_running(stays)
    assert {} == off_plan(plan.planned_state, await life.probe())


async def _checkpoints(session: Session, count: int) -> None:
    """See checkpoints made (qemu-behaviour 4.13)."""
    for _ in range(count):
        mark = session.mark()
        async with asyncio.timeout(LIMIT_S):
            while not session.checkpoint_since(mark):
                await session.wait_change(LIMIT_S)


async def _stopped(session: Session) -> None:
    """Wait until a checkpoint begins on the secondary: it is the first to stop."""
    stopped = asyncio.Event()

    def hear(notice: Notice) -> None:
        if isinstance(notice, StopEvent):
            stopped.set()

    end = session.subscribe(hear)
    async with asyncio.timeout(LIMIT_S):
        await stopped.wait()
    end()

"""What a pair is like after an attempt or a pair has ended: whole, and clean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs
from tests.qemu.life import LIMIT_S, LivePair

from pycolo.model import ColoPair
from pycolo.qmp import commands as qmp
from pycolo.snapshot import Live

WRITTEN_AT: Final = 512 << 10
WRITTEN_BYTES: Final = 4 << 10
# What QEMU cannot forget, or what is no part of a pair: field by field, and why.
UNFORGETTABLE: Final[Mapping[str, str]] = {
    "instance": "each QEMU has its own",
    "last_colo_mode": "QEMU tells which side it was for as long as it runs (qemu-behaviour 4.14)",
    "migration": "QEMU tells how its last migration ended",
    "migration_error": "and why it failed",
    "checkpoint_delay_ms": "a parameter without meaning outside COLO",
    "colo_exited": "the latch of the generation that ended stays until the next migrate",
    "proven": "nothing is to be proven outside COLO",
}


async def renew(life: LivePair, name: str) -> None:
    """Put a fresh QEMU in the place of a node's, whether that runs, stands or has ended."""
    running = life.host.watch(life.pair, name)
    if running is not None:
        running.close()
        await life.kill(name)
    session = life.sessions.pop(name, None)
    if session is not None:
        await session.aclose()
    await life.launch(name)


async def write(life: LivePair, name: str, pattern: int) -> None:
    """Write to the disk as the guest does, at a place where the BIOS guest does not."""
    line = f'qemu-io -d disk0 "write -P {pattern} {WRITTEN_AT} {WRITTEN_BYTES}"'
    command = qmp.HumanMonitorCommand(command_line=line)
    told = await life.sessions[name].execute(command, limit_s=LIMIT_S)
    assert "rror" not in told, told


def written(life: LivePair, name: str) -> set[int]:
    """What was written there, as a node's image holds it."""
    with life.image(name).open("rb") as image:
        image.seek(WRITTEN_AT)
        return set(image.read(WRITTEN_BYTES))


def differences(live: Live, clean: Live) -> Mapping[str, tuple[object, object]]:
    """Field to what is there and what a clean node of the same history has instead."""
    pairs = {
        field.name: (getattr(live, field.name), getattr(clean, field.name))
        for field in attrs.fields(Live)
        if field.name not in (*UNFORGETTABLE, "yanks", "replication_error")
    }
    pairs["yanks"] = (live.yanks, clean.yanks)
    return {name: both for name, both in pairs.items() if both[0] != both[1]}


def stands_alone(pair: ColoPair, live: Live) -> bool:
    """Whether a guest has its plain network and disk: nothing of it waits for a peer."""
    nbd = {disk.names.nbd for disk in pair.disks}
    disks = {child.node for children in live.children.values() for child in children}
    between = {i for c in pair.chains for i in (c.names.filter_mirror, c.names.redirector_in)}
    on = {name for name in between if name in live.objects and live.objects[name].on}
    alone = live.run_state == "running" and live.colo_mode == "none"
    return alone and not on and nbd.isdisjoint(disks)

"""Everything that a pair may have at once: two disks, two cards, TLS on every wire."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest
from tests.qemu.life import (
    NEEDS_KVM,
    LivePair,
    bios_life,
    commands,
    leave,
    loopback,
    nodes,
    off_plan,
    pair_folder,
    until,
)
from tests.qemu.test_life import (
    DEATHS,
    DISK_AT,
    ECHO_AT,
    LINUX_DISK_BYTES,
    Writer,
    alone,
    answers,
    kept,
    linux,
    outlive,
)
from tests.qemu.test_storage import LIVING, MEMORY, block_devices, with_folders
from tests.qemu.test_tls import psk, x509
from tests.real_qemu import build_of

from pycolo.demo.builds import Release
from pycolo.demo.guests import DISK_PORT, ECHO_PORT, READY_LINE, acknowledged_in_image
from pycolo.model import (
    ColoPair,
    DiskOnNode,
    FilterChain,
    Machine,
    Migration,
    Netdev,
    Node,
    ReplicationDisk,
)
from pycolo.qmp.replies import Version

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.heavy,
    pytest.mark.nightly,
    pytest.mark.timeout(600),
]
CARDS: Final = ("virtio-net-pci", "e1000e")
BOOT_S: Final = 120.0
CHANNELS: Final = 3
_LOG: Final = logging.getLogger(__name__)


# -- the Linux guest


def _card(number: int, model: str, hosts: tuple[Node, ...]) -> FilterChain:
    """A card whose services are reached at two ports of whichever node runs the guest."""
    netdevs = {
        node.name: Netdev(
            type="user",
            options={
                "net": f"10.0.{2 + number}.0/24",
                "hostfwd": (
                    f"tcp:{node.address}:{ECHO_AT + number}-:{ECHO_PORT}",
                    f"tcp:{node.address}:{DISK_AT + number}-:{DISK_PORT}",
                ),
            },
        )
        for node in hosts
    }
    return FilterChain(netdev=netdevs[hosts[0].name], netdevs=netdevs, model=model)


def _declared(hosts: tuple[Node, ...], devices: Mapping[str, str], memory: str) -> ColoPair:
    guest = linux()
    addresses = tuple(f"10.0.{2 + number}.15/24" for number in range(len(CARDS)))
    block_device = ReplicationDisk(
        size_bytes=LINUX_DISK_BYTES,
        device="virtio-blk-pci",
        image="/dev/not-there",
        image_format="raw",
        driver="host_device",
        cache="none",
        nodes={name: DiskOnNode(image=device) for name, device in devices.items()},
    )
    file = ReplicationDisk(
        size_bytes=LINUX_DISK_BYTES,
        image="data.qcow2",
        active_image="data-active.qcow2",
        hidden_image="data-hidden.qcow2",
    )
    pair = ColoPair(
        name="colo",
        nodes=hosts[:2],
        spares=hosts[2:],
        machine=Machine(
            memory_mib=128,
            accelerator="tcg",
            serial_log=True,
            kernel=str(guest.kernel),
            initrd=str(guest.initrd),
            append=guest.kernel_arguments(addresses=addresses, disks=2),
        ),
        disks=(block_device, file),
        chains=[_card(number, model, hosts) for number, model in enumerate(CARDS)],
        migration=Migration(multifd_channels=CHANNELS),
        checkpoint_delay_ms=1000,
    )
    return x509(with_folders(pair, memory))


@asynccontextmanager
async def _linux_life() -> AsyncGenerator[LivePair]:
    """A pair with all of it on this machine, nothing of it launched yet."""
    build = build_of("11.1")
    with (
        block_devices(LINUX_DISK_BYTES) as devices,
        tempfile.TemporaryDirectory(dir=MEMORY) as memory,
        pair_folder() as folder,
        loopback() as net,
    ):
        hosts = nodes(folder, "11.1", net)[: len(LIVING)]
        life = LivePair(_declared(hosts, devices, memory), Version.parse(build.version))
        life.create_image("alpha", 1)
        try:
            yield life
        finally:
            await life.aclose()


async def test_a_linux_guest_with_all_of_it_loses_no_acknowledged_write(
    record_property: Callable[[str, object], None],
) -> None:
    """Three generations on a block device and a file, over two cards, TLS and several channels.

    Each card answers in each generation and after each failover, and each record that the guest
    acknowledged over either card is on both of the last survivor's disks.
    """
    async with _linux_life() as life:
        await life.launch("alpha", "beta")
        await life.cont("alpha")
        await until(lambda: READY_LINE in life.serial("alpha"), "Linux is up", limit_s=BOOT_S)
        numbers = itertools.count(1)
        address = life.pair.node("alpha").address
        writers = [Writer(address, DISK_AT + n, numbers) for n in range(len(CARDS))]
        tasks = [asyncio.create_task(writer.run()) for writer in writers]
        waits: list[float] = []
        try:
            await kept(life, await life.run("start"))
            await _protected(life, "alpha", writers)
            survivor = await _outlives_three(life, writers, waits)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await leave(life.sessions[survivor])
        acknowledged = frozenset().union(*(writer.acknowledged for writer in writers))
        lost = [
            len(acknowledged - acknowledged_in_image(life.image(survivor, n), _qemu_img()))
            for n in range(len(life.pair.disks))
        ]
        measured = {
            "acknowledged by each card": [len(writer.acknowledged) for writer in writers],
            "lost on each disk": lost,
            "seconds until both cards acknowledged again": waits,
        }
        record_property("measured", json.dumps(measured))
        _LOG.info("MEASURED %s", json.dumps(measured))
        assert [0, 0] == lost
        assert "panic" not in life.serial(survivor)


def _qemu_img() -> Path:
    return build_of("11.1").qemu_img


async def _outlives_three(life: LivePair, writers: list[Writer], waits: list[float]) -> str:
    """Lose a side of three generations, of which two are resumed, and say who is left."""
    primary, secondary = "alpha", "beta"
    for who, spare in (("secondary", "gamma"), ("primary", "delta"), ("primary", None)):
        victim = primary if who == "primary" else secondary
        survivor = secondary if who == "primary" else primary
        begun_s = time.monotonic()
        await life.kill(victim)
        plan = await life.run("failover", survivor=survivor)
        await _served(life, survivor, writers)
        waits.append(round(time.monotonic() - begun_s, 1))
        assert {} == off_plan(plan.planned_state, await life.probe())
        primary = survivor
        if spare is not None:
            secondary = spare
            await life.replace(victim, spare)
            await kept(life, await life.run("resume"))
            assert [] == commands(await life.compile("resume"))
            await _protected(life, primary, writers)
    return primary


async def _protected(life: LivePair, primary: str, writers: list[Writer]) -> None:
    """See a protected guest serve, on wires that are as they were declared."""
    await _served(life, primary, writers)
    live = await life.live(primary)
    assert "multifd" in live.capabilities
    assert CHANNELS == live.multifd_channels
    assert "tls-client" == live.migration_tls["tls-creds"]
    assert "colo" == live.migration


async def _served(life: LivePair, primary: str, writers: list[Writer]) -> None:
    """See the guest echo and acknowledge writes over each card."""
    host = life.pair.node(primary).address
    for number, writer in enumerate(writers):
        writer.host = host
        await answers(host, ECHO_AT + number)
    await asyncio.gather(*(writer.keeps_running() for writer in writers))


# -- the BIOS guest on the releases that take checkpoints with KVM only


def _two_of_each(pair: ColoPair) -> ColoPair:
    """Two disks, to both of which the guest writes, and two cards, over connections with a key."""
    second = attrs.evolve(
        pair.disks[0],
        ids=None,
        image="data.qcow2",
        image_format="qcow2",
        active_image="data-active.qcow2",
        hidden_image="data-hidden.qcow2",
    )
    nets = (Netdev(type="hubport", options={"hubid": str(n)}) for n in range(len(CARDS)))
    cards = [FilterChain(netdev=net, model=m) for net, m in zip(nets, CARDS, strict=True)]
    return psk(attrs.evolve(pair, disks=(pair.disks[0], second), chains=cards))


@pytest.mark.parametrize("release", [pytest.param(r, marks=NEEDS_KVM) for r in ("7.2", "10.0")])
async def test_a_bios_guest_with_two_of_each_outlives_four_of_its_hosts(release: Release) -> None:
    """Start, four failovers both ways over TLS with a key, stop; both disks have each count."""
    async with bios_life(release, "kvm", shape=_two_of_each) as life:
        await life.launch("alpha", "beta")
        await kept(life, await life.run("start"))
        primary = await outlive(life, "alpha", "beta", DEATHS)
        await alone(life, await life.run("stop"), primary)
        await leave(life.sessions[primary])
        last = life.counter(primary)
        for disk in range(len(life.pair.disks)):
            assert life.disk_counter(primary, disk) in (last, last + 1)
        assert "!" not in life.serial(primary)

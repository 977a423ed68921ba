"""Whole lives of pairs on real QEMUs: five generations, four deaths, always on new nodes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import final

import pytest
from tests.qemu.life import (
    NAMES,
    NEEDS_KVM,
    Accelerator,
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
from tests.real_qemu import build_of

from pycolo.demo.builds import RELEASES, FetchError, Release
from pycolo.demo.guests import (
    DISK_PORT,
    ECHO_PORT,
    READY_LINE,
    LinuxGuest,
    acknowledged_in_image,
    bios_disk_counter,
    linux_guest,
)
from pycolo.model import ColoPair, FilterChain, Machine, Netdev, Node, ReplicationDisk, tls
from pycolo.plan import Plan
from pycolo.qmp.replies import Version

pytestmark = [pytest.mark.qemu, pytest.mark.heavy, pytest.mark.timeout(300)]
# Firmware under KVM may boot slowly, so that two releases live with it at night.
LIVES = (
    *((release, "tcg") for release in RELEASES),
    pytest.param("7.2", "kvm", marks=NEEDS_KVM),
    pytest.param("10.0", "kvm", marks=[NEEDS_KVM, pytest.mark.nightly]),
    pytest.param("11.1", "kvm", marks=[NEEDS_KVM, pytest.mark.nightly]),
)
# Who dies in each generation, and who takes the place; the life begins with the first two nodes.
DEATHS = (
    ("secondary", "gamma"),
    ("primary", "delta"),
    ("primary", "epsilon"),
    ("secondary", "zeta"),
)
LINUX_DISK_BYTES = 16 << 20
ECHO_AT, DISK_AT = 7007, 7090


@pytest.mark.parametrize(("release", "accelerator"), LIVES)
async def test_the_bios_guest_outlives_four_of_its_hosts(
    release: Release, accelerator: Accelerator, record_property: Callable[[str, object], None]
) -> None:
    """Start, four failovers both ways, each resumed on a new node, a new delay, stop.

    The guest counts on through all of it, each plan reaches its planned state, nothing of an
    ended pair stays behind, and the last count is on the survivor's disk.
    """
    async with bios_life(release, accelerator) as life:
        if not life.pair.chains:
            told = "TCG before 11.0: without cards and checkpoints (qemu-behaviour 1.7)"
            record_property("shape", told)
            print(told)  # noqa: T201 - so that a run without KVM says what it left out
        await life.launch("alpha", "beta")
        await kept(life, await life.run("start"))
        primary = await outlive(life, "alpha", "beta")
        if life.pair.chains:
            await kept(life, await life.run("set-checkpoint-delay", checkpoint_delay_ms=900))
            await kept(life, await life.run("checkpoint"))
        await alone(life, await life.run("stop"), primary)
        await leave(life.sessions[primary])
        last = life.counter(primary)
        assert bios_disk_counter(life.image(primary)) in (last, last + 1)
        assert "!" not in life.serial(primary)


async def outlive(
    life: LivePair, primary: str, secondary: str, deaths: Iterable[tuple[str, str]] = DEATHS
) -> str:
    """Have each of some deaths happen, and say who is primary in the end."""
    for who, spare in deaths:
        await life.keeps_running(primary, secondary)
        victim = primary if who == "primary" else secondary
        survivor = secondary if who == "primary" else primary
        await life.kill(victim)
        await alone(life, await life.run("failover", survivor=survivor), survivor)
        await life.replace(victim, spare)
        await kept(life, await life.run("resume"))
        assert [] == commands(await life.compile("resume"))
        primary, secondary = survivor, spare
    return primary


async def kept(life: LivePair, plan: Plan) -> None:
    """See the pair protected, exactly as the plan promised."""
    assert {} == off_plan(plan.planned_state, await life.probe())


async def alone(life: LivePair, plan: Plan, survivor: str) -> None:
    """See a guest that runs alone, with its data, and nothing left of the pair."""
    seen = await life.probe()
    assert {} == off_plan(plan.planned_state, seen)
    live = await life.live(survivor)
    disks, chains = life.pair.disks, life.pair.chains
    left = set(live.objects) - {chain.names.rewriter for chain in chains} - set(tls.IDS)
    left -= {item.id for item in life.pair.machine.objects}
    assert (set(), {}, {}, {}) == (left, live.chardevs, live.exports, live.jobs)
    assert all(disk.names.nbd not in live.block_nodes for disk in disks)
    assert all(1 == len(live.children[disk.names.quorum]) for disk in disks)
    await life.image_follows(survivor)


# -- the Linux guest


@final
class Writer:
    """Writes records through the guest's disk service, and knows which were acknowledged."""

    def __init__(
        self, host: str, port: int = DISK_AT, numbers: Iterator[int] | None = None
    ) -> None:
        self.host = host
        self.acknowledged: set[int] = set()
        self._port = port
        # Shared by writers to the same disks.
        self._numbers = itertools.count(1) if numbers is None else numbers

    async def run(self) -> None:
        """Write for ever; whatever ends a connection, a new one continues."""
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                await self._talk()
            await asyncio.sleep(0.05)

    async def _talk(self) -> None:
        async with connected(self.host, self._port) as (reader, writer):
            while True:
                number = next(self._numbers)
                writer.write(f"w {number}\n".encode())
                async with asyncio.timeout(10):
                    if f"ok {number}\n".encode() != await reader.readline():
                        return
                self.acknowledged.add(number)

    async def keeps_running(self) -> None:
        """See more writes acknowledged."""
        mark = len(self.acknowledged)
        what = f"writes are acknowledged by port {self._port} of {self.host}"
        await until(lambda: len(self.acknowledged) >= mark + 5, what, limit_s=60)


@asynccontextmanager
async def connected(
    host: str, port: int
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to one of the guest's services."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _echoed(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(2), connected(host, port) as (reader, writer):
            writer.write(b"are you there?\n")
            return b"are you there?\n" == await reader.readline()
    except (OSError, TimeoutError):
        return False


async def answers(host: str, port: int = ECHO_AT) -> None:
    """See the guest answer a new connection, now or soon."""
    for _ in range(20):
        if await _echoed(host, port):
            return
    raise AssertionError(f"nobody echoes at port {port} of {host}")


def linux() -> LinuxGuest:
    """The Linux guest, or skip the test and say why."""
    try:
        return linux_guest()
    except FetchError as error:
        pytest.skip(f"needs Debian's kernel and busybox: {error}")


def _reached_at(node: Node) -> Netdev:
    forwarded = (
        f"tcp:{node.address}:{ECHO_AT}-:{ECHO_PORT}",
        f"tcp:{node.address}:{DISK_AT}-:{DISK_PORT}",
    )
    return Netdev(type="user", options={"hostfwd": forwarded})


def _linux_pair(hosts: tuple[Node, ...]) -> ColoPair:
    guest = linux()
    machine = Machine(
        memory_mib=128,
        accelerator="tcg",
        serial_log=True,
        kernel=str(guest.kernel),
        initrd=str(guest.initrd),
        append=guest.kernel_arguments(addresses=("10.0.2.15/24",), gateway="10.0.2.2"),
    )
    netdevs = {node.name: _reached_at(node) for node in hosts}
    return ColoPair(
        name="colo",
        nodes=hosts[:2],
        spares=hosts[2:],
        machine=machine,
        disks=(ReplicationDisk(size_bytes=LINUX_DISK_BYTES),),
        chains=(FilterChain(netdev=netdevs[NAMES[0]], netdevs=netdevs),),
        checkpoint_delay_ms=1000,
    )


@asynccontextmanager
async def linux_life() -> AsyncGenerator[LivePair]:
    """A pair for the Linux guest on this machine, nothing of it launched yet."""
    build = build_of("11.1")
    with pair_folder() as folder, loopback() as net:
        life = LivePair(_linux_pair(nodes(folder, "11.1", net)), Version.parse(build.version))
        life.create_image("alpha")
        try:
            yield life
        finally:
            await life.aclose()


async def test_the_linux_guest_loses_no_acknowledged_write() -> None:
    """It answers after every failover, and all it ever acknowledged is on the last disk."""
    async with linux_life() as life:
        await life.launch("alpha", "beta")
        # It boots alone, so that its services are up before there is anything to wait for.
        await life.cont("alpha")
        await until(lambda: READY_LINE in life.serial("alpha"), "Linux is up", limit_s=60)
        writer = Writer(life.pair.node("alpha").address)
        writing = asyncio.get_running_loop().create_task(writer.run())
        try:
            await kept(life, await life.run("start"))
            survivor = await _linux_outlives_all(life, writer)
            await life.run("stop")
            await writer.keeps_running()
        finally:
            writing.cancel()
            await asyncio.wait((writing,))
        await leave(life.sessions[survivor])
        found = acknowledged_in_image(life.image(survivor), build_of("11.1").qemu_img)
        assert set() == writer.acknowledged - found
        assert "panic" not in life.serial(survivor)


async def _linux_outlives_all(life: LivePair, writer: Writer) -> str:
    primary, secondary = "alpha", "beta"
    for who, spare in DEATHS:
        await writer.keeps_running()
        victim = primary if who == "primary" else secondary
        survivor = secondary if who == "primary" else primary
        await life.kill(victim)
        plan = await life.run("failover", survivor=survivor)
        writer.host = life.pair.node(survivor).address
        await answers(writer.host)
        await writer.keeps_running()
        assert {} == off_plan(plan.planned_state, await life.probe())
        await life.replace(victim, spare)
        await kept(life, await life.run("resume"))
        assert [] == commands(await life.compile("resume"))
        await answers(writer.host)
        primary, secondary = survivor, spare
    return primary

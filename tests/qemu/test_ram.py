"""The RAM of a pair on real QEMU: how it is copied, and what it is made of."""

from __future__ import annotations

import asyncio
import re
import statistics
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
import pytest
from tests.qemu.life import (
    KEEPS_RUNNING_S,
    LIMIT_S,
    NEEDS_KVM,
    ON_RELEASES,
    Accelerator,
    LivePair,
    accelerator_of,
    bios_life,
    off_plan,
)
from tests.qemu.namespaces import acknowledge_at_once, hold_at_most, in_namespaces
from tests.qemu.test_life import alone, kept, outlive
from tests.real_qemu import RELEASES, build_of

from pycolo._execute import execute
from pycolo.demo.builds import Release
from pycolo.demo.network import Network
from pycolo.model import ColoPair, MemoryBackend, Migration, Node
from pycolo.model.machine import DIRTY_RING_SIZES
from pycolo.qmp import commands as qmp
from pycolo.qmp.events import ResumeEvent, StopEvent
from pycolo.session import Notice

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]
LIMITS: Final = Migration(max_bandwidth_bytes_per_s=0, downtime_limit_ms=50)
RING: Final = DIRTY_RING_SIZES[2]
ACKNOWLEDGED_LATE_S: Final = 0.04
CHECKPOINTS: Final = 12
ENTRIES: Final = 3
# The kernel's default, and what is no more than a few pages of RAM.
LARGE_BUFFER_BYTES: Final = 4 << 20
SMALL_BUFFER_BYTES: Final = 64 << 10
DEATHS: Final = (("secondary", "gamma"), ("primary", "delta"))
# None of these is likely to have been set aside, and none can be found by chance.
HUGE: Final = MemoryBackend(kind="memfd", huge_page_size_mib=1024)


def large(pair: ColoPair) -> ColoPair:
    """What a large guest is declared with, where nothing depends on the release."""
    return with_memory(
        attrs.evolve(pair, migration=LIMITS), memory_backend=MemoryBackend(prealloc=True)
    )


def larger(pair: ColoPair) -> ColoPair:
    """The same with more channels than QEMU would take by itself."""
    return attrs.evolve(large(pair), migration=attrs.evolve(LIMITS, multifd_channels=3))


def with_memory(
    pair: ColoPair, *, memory_backend: MemoryBackend, memory_mib: int | None = None
) -> ColoPair:
    """The pair with other RAM."""
    machine, size_mib = pair.machine, memory_mib or pair.machine.memory_mib
    machine = attrs.evolve(machine, memory_backend=memory_backend, memory_mib=size_mib)
    return attrs.evolve(pair, machine=machine)


LIVES = (
    ("11.1", "tcg", larger),
    pytest.param("7.2", "kvm", large, marks=[NEEDS_KVM, pytest.mark.nightly]),
    pytest.param("10.0", "kvm", large, marks=[NEEDS_KVM, pytest.mark.nightly]),
    pytest.param("11.1", "kvm", larger, marks=[NEEDS_KVM, pytest.mark.nightly]),
)


@pytest.mark.parametrize(("release", "accelerator", "shape"), LIVES)
async def test_a_life_with_what_a_large_guest_needs(
    release: Release, accelerator: Accelerator, shape: Callable[[ColoPair], ColoPair]
) -> None:
    """Start, a failover each way, each resumed on a new node, with what is declared in force."""
    async with bios_life(release, accelerator, shape=shape) as life:
        await life.launch("alpha", "beta")
        await kept(life, await life.run("start"))
        primary = await outlive(life, "alpha", "beta", DEATHS)
        live = await life.live(primary)
        assert (0, 50) == (live.max_bandwidth_bytes_per_s, live.downtime_limit_ms)
        channels = life.pair.migration.multifd_channels
        assert (channels is not None) == ("multifd" in live.capabilities)
        assert (channels or 2) == live.multifd_channels


def larger_with_ring(pair: ColoPair) -> ColoPair:
    """The same with KVM's dirty ring."""
    pair = larger(pair)
    return attrs.evolve(pair, machine=attrs.evolve(pair.machine, dirty_ring_size=RING))


@NEEDS_KVM
@pytest.mark.nightly
async def test_a_life_with_the_dirty_ring() -> None:
    """The guest outlives four of its hosts, and its count is on the disk each time."""
    async with bios_life("11.1", "kvm", shape=larger_with_ring) as life:
        await life.launch("alpha")
        await life.cont("alpha")
        # Where KVM is backed by software, firmware that starts while COLO runs hardly gets on.
        await life.keeps_running("alpha")
        await life.launch("beta")
        await kept(life, await life.run("start"))
        primary = await outlive(life, "alpha", "beta")
        await alone(life, await life.run("stop"), primary)
        assert "!" not in life.serial(primary)


@ON_RELEASES
async def test_ram_moves_between_any_two_backends(
    release: Release, accelerator: Accelerator
) -> None:
    """From what QEMU makes by itself to a memfd, and from that to a file without a name."""
    async with bios_life(release, accelerator) as life:
        await life.launch("alpha")
        life.pair = with_memory(life.pair, memory_backend=MemoryBackend(kind="memfd", share=True))
        await life.launch("beta")
        await life.cont("alpha")
        await life.run("start")
        await life.kill("alpha")
        await life.run("failover", survivor="beta")
        file = MemoryBackend(kind="file", folder="/dev/shm")
        life.pair = with_memory(life.pair, memory_backend=file)
        await life.replace("alpha", "gamma")
        plan = await life.run("resume")
        assert {} == off_plan(plan.planned_state, await life.probe())
        await life.keeps_running("beta", "gamma")


@pytest.mark.parametrize("release", RELEASES)
def test_numa_nodes_need_backends_of_their_own(release: Release) -> None:
    """Neither RAM that QEMU makes by itself nor the machine's own backend is for a node (22.8)."""
    line = [str(build_of(release).qemu_system), "-nodefaults", "-display", "none", "-S", "-m", "64"]
    backend = (
        "-object",
        "memory-backend-ram,id=pc.ram,size=64M",
        "-machine",
        "memory-backend=pc.ram",
    )
    refused = {
        ("-numa", "node,nodeid=0,cpus=0"): "total memory for NUMA nodes",
        ("-numa", "node,nodeid=0,cpus=0,mem=64"): "not supported by this machine type",
        (*backend, "-numa", "node,cpus=0,memdev=pc.ram"): "properties are mutually exclusive",
    }
    for words, why in refused.items():
        done = subprocess.run(
            [*line, *words], capture_output=True, text=True, check=False, timeout=30
        )
        assert 1 == done.returncode
        assert why in done.stderr


BACKENDS_REFUSED = {
    "huge pages that are not there": (HUGE, "guest RAM: Cannot allocate memory"),
    "a folder that is not there": (
        MemoryBackend(kind="file", folder="/nonexistent/hugepages"),
        "can't open backing store /nonexistent/hugepages/ for guest RAM",
    ),
    "a file in place of a folder": (
        MemoryBackend(kind="file", folder=__file__),
        "can't open backing store .* for guest RAM: Not a directory",
    ),
}


@ON_RELEASES
@pytest.mark.parametrize("case", BACKENDS_REFUSED)
async def test_ram_that_the_host_has_not_ends_the_launch(
    case: str, release: Release, accelerator: Accelerator
) -> None:
    """The launch fails with QEMU's own words, and no QEMU is left."""
    backend, words = BACKENDS_REFUSED[case]

    def shape(pair: ColoPair) -> ColoPair:
        return with_memory(pair, memory_backend=backend, memory_mib=1024)

    async with bios_life(release, accelerator, shape=shape) as life:
        plan = await life.compile_launch("alpha")
        report = await execute(plan, life.sessions, life.hosts)
        assert report.failed == "alpha/launch-qemu/primary"
        assert re.search(words, report.advice)
        assert None is life.host.watch(life.pair, "alpha")


async def test_a_limit_forces_no_checkpoint() -> None:
    """In COLO the limits of the copy are changed in place, and the guest is not paused for it."""

    def shape(pair: ColoPair) -> ColoPair:
        return attrs.evolve(pair, chains=(), checkpoint_delay_ms=3_600_000)

    async with bios_life("11.1", "tcg", shape=shape) as life:
        await life.launch("alpha", "beta")
        await life.run("start")
        stops = Counter[str]()

        def count(notice: Notice) -> None:
            stops["alpha"] += isinstance(notice, StopEvent)

        end = life.sessions["alpha"].subscribe(count)
        life.pair = attrs.evolve(life.pair, migration=LIMITS)
        plan = await life.run("converge")
        assert ["alpha/migrate-set-parameters", "alpha/migrate-set-parameters/2"] == [
            step.address for step in plan.steps
        ]
        assert {} == off_plan(plan.planned_state, await life.probe())
        # Had one begun, it would be seen before the one that is asked for now.
        await life.run("checkpoint")
        end()
        assert 1 == stops["alpha"]


@NEEDS_KVM
@pytest.mark.nightly
@pytest.mark.parametrize("release", ["7.2", "10.0"])
async def test_a_dirty_ring_ends_a_primary_before_11(release: Release) -> None:
    """It aborts at the first checkpoint, which the features know."""

    def shape(pair: ColoPair) -> ColoPair:
        return attrs.evolve(pair, nodes=tuple(map(_with_ring, pair.nodes)), chains=())

    async with bios_life(release, accelerator_of(release), shape=shape) as life:
        await life.launch("alpha", "beta")
        report = await execute(await life.compile("start"), life.sessions, life.hosts)
        assert report.failed is not None
        assert "kvm_dirty_ring_flush" in life.stderr()


def _with_ring(node: Node) -> Node:
    """A node whose QEMU gets what no pair may declare for it."""
    program = Path(node.image_folder) / "qemu"
    ring = f'for word; do [ "$word" != kvm ] || word=kvm,dirty-ring-size={RING}'
    again = f'{ring}; shift; set -- "$@" "$word"; done'
    program.write_text(f'#!/bin/sh\n{again}\nexec {node.qemu_binary} "$@"\n')
    program.chmod(0o755)
    return attrs.evolve(node, qemu_binary=str(program))


# -- what is in it

FIRST: Final = 0x10000
PAGES: Final = 128
PAGE_BYTES: Final = 4096
ROM_BYTES: Final = 1 << 16
# Firmware that goes from page to page of the RAM and writes into each how often it has begun anew.
# Between two pages it writes so often to a port, which takes a CPU long.
CODE: Final = (
    "fa31c08ed86631c0"  # cli; ds = 0; eax = 0
    "6640bb0010"  # again: eax += 1; bx = the first page
    "8ec32666a30000"  # next: the first word of the page at bx = eax
    "66b9{times}e6806649"  # wait for so many writes to port 0x80
    "75fa"
    "81c3000181fb0090"  # bx = the page behind it, up to the last
    "72e3ebdc"
)
RESET: Final = bytes.fromhex("ea000000f0")  # begin at its first byte
TIMES: Final = {"tcg": 30_000, "kvm": 300}


def sweeping(pair: ColoPair) -> ColoPair:
    """A pair that runs that firmware alone, with checkpoints only where they are asked for."""
    times = TIMES[pair.machine.accelerator].to_bytes(4, "little").hex()
    code = bytes.fromhex(CODE.format(times=times)).ljust(ROM_BYTES - 16, b"\0")
    rom = Path(pair.nodes[0].image_folder) / "rom"
    rom.write_bytes((code + RESET).ljust(ROM_BYTES, b"\0"))
    machine = attrs.evolve(pair.machine, arguments=("-bios", str(rom)))
    return attrs.evolve(pair, machine=machine, disks=(), chains=(), checkpoint_delay_ms=3_600_000)


def sweeping_with_ring(pair: ColoPair) -> ColoPair:
    """The same with KVM's dirty ring."""
    pair = sweeping(pair)
    return attrs.evolve(pair, machine=attrs.evolve(pair.machine, dirty_ring_size=RING))


SWEEPS = (
    ("11.1", "tcg", sweeping),
    pytest.param("11.1", "kvm", sweeping_with_ring, marks=[NEEDS_KVM, pytest.mark.nightly]),
    pytest.param("11.1", "kvm", sweeping, marks=[NEEDS_KVM, pytest.mark.nightly]),
    pytest.param("10.0", "kvm", sweeping, marks=[NEEDS_KVM, pytest.mark.nightly]),
    pytest.param("7.2", "kvm", sweeping, marks=[NEEDS_KVM, pytest.mark.nightly]),
)


@pytest.mark.parametrize(("release", "accelerator", "shape"), SWEEPS)
async def test_what_the_secondary_wrote_by_itself_is_gone_after_a_checkpoint(
    release: Release, accelerator: Accelerator, shape: Callable[[ColoPair], ColoPair]
) -> None:
    """Its RAM is that of one guest: behind one page all are of the sweep before."""
    async with bios_life(release, accelerator, shape=shape) as life:
        await life.launch("alpha", "beta")
        await life.cont("alpha")
        await life.run("start")
        for _ in range(8):
            await _moves_on(life, "beta")
            await life.run("checkpoint")
            await life.sessions["beta"].execute(qmp.Stop(), limit_s=LIMIT_S)
            words = await _words(life, "beta")
            await life.cont("beta")
            assert sorted(words, reverse=True) == words
            assert words[0] - words[-1] in (0, 1)


async def _moves_on(life: LivePair, name: str) -> None:
    """Wait until the guest has written to a few pages more."""
    before = sum(await _words(life, name))
    async with asyncio.timeout(KEEPS_RUNNING_S):
        while sum(await _words(life, name)) < before + PAGES // 8:
            pass


async def _words(life: LivePair, name: str) -> list[int]:
    """The first word of each page that the guest writes to."""
    saved = Path(life.pair.node(name).image_folder) / "ram"
    saved.unlink(missing_ok=True)
    line = f'pmemsave {FIRST} {PAGES * PAGE_BYTES} "{saved}"'
    command = qmp.HumanMonitorCommand(command_line=line)
    assert "" == await life.sessions[name].execute(command, limit_s=LIMIT_S)
    return [words[0] for words in struct.iter_unpack(f"<I{PAGE_BYTES - 4}x", saved.read_bytes())]


# -- the network's part


@NEEDS_KVM
@pytest.mark.nightly
@pytest.mark.parametrize("release", RELEASES)
async def test_a_late_acknowledgement_lengthens_each_checkpoint(
    release: Release, network: Network
) -> None:
    """Linux acknowledges after 40 ms what it has no answer to; a route can ask for more haste."""

    def shape(pair: ColoPair) -> ColoPair:
        return attrs.evolve(in_namespaces(network)(pair), disks=(), checkpoint_delay_ms=200)

    async with bios_life(release, "kvm", shape=shape) as life:
        await life.launch("alpha", "beta")
        await life.cont("alpha")
        await life.run("start")
        late_s = await _pauses_s(life, "alpha")
        acknowledge_at_once(network, "alpha")
        soon_s = await _pauses_s(life, "alpha")
        assert ACKNOWLEDGED_LATE_S <= statistics.median(late_s)
        assert min(soon_s) < ACKNOWLEDGED_LATE_S


@NEEDS_KVM
@pytest.mark.heavy
@pytest.mark.nightly
async def test_small_socket_buffers_shorten_the_entry(network: Network) -> None:
    """What waits there holds up the end of the copy, and a page of zeroes takes a few bytes."""

    def shape(pair: ColoPair) -> ColoPair:
        pair = with_memory(
            in_namespaces(network)(pair),
            memory_backend=MemoryBackend(prealloc=True),
            memory_mib=2048,
        )
        timeouts = attrs.evolve(pair.timeouts, command_s=60.0, connect_s=60.0)
        return attrs.evolve(pair, disks=(), timeouts=timeouts, checkpoint_delay_ms=3_600_000)

    async with bios_life("10.0", "kvm", shape=shape) as life:
        await life.launch("alpha")
        await life.cont("alpha")
        paused_s: dict[int, list[float]] = {LARGE_BUFFER_BYTES: [], SMALL_BUFFER_BYTES: []}
        for _ in range(ENTRIES):
            for most_bytes, found_s in paused_s.items():
                hold_at_most(network, most_bytes)
                await life.launch("beta")
                # The first of them listens before the other one begins.
                entry, _ = await asyncio.gather(_pauses_s(life, "alpha", 1), life.run("resume"))
                found_s.extend(entry)
                await life.kill("beta")
                await life.run("failover", survivor="alpha")
        large_s, small_s = map(statistics.median, paused_s.values())
        assert small_s < large_s / 1.5


async def _pauses_s(life: LivePair, name: str, number: int = CHECKPOINTS) -> list[float]:
    """How long each of some pauses of the guest takes, in seconds."""
    found: list[float] = []
    stopped_at: list[float] = []
    enough = asyncio.Event()

    def note(notice: Notice) -> None:
        if isinstance(notice, StopEvent):
            stopped_at.append(time.perf_counter())
        elif isinstance(notice, ResumeEvent) and stopped_at:
            found.append(time.perf_counter() - stopped_at.pop())
            if len(found) == number:
                enough.set()

    end = life.sessions[name].subscribe(note)
    async with asyncio.timeout(KEEPS_RUNNING_S):
        await enough.wait()
    end()
    return found

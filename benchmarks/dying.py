"""From SIGKILL to the evidence of a death, beside the end of the process, by the size of the guest.

Both are of the same death of a real QEMU whose memory has been touched, with pages of 4 KiB. The
threads end at once; the kernel then frees the memory, and only after that its pidfd of the process
tells of the end, and the monitor hangs up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Figure, compared, undisturbed
from benchmarks.pairs import LIMIT_S, NODES, RELEASE
from pycolo.demo.builds import QemuBuild, fetch
from pycolo.evidence import Victim, instance_of
from pycolo.hosts.local import LocalHost
from pycolo.model import ColoPair, Node
from pycolo.plan import LaunchQemu

SIZES_MIB = (128, 512, 2048, 8192)
RUNS = 5
START_S = 60.0


def run() -> list[Figure]:
    """Start, touch and kill, for each size that fits into half of the memory that is free."""
    return asyncio.run(_measured(fitting_mib(SIZES_MIB)))


def fitting_mib(sizes_mib: Sequence[int]) -> list[int]:
    """The sizes that fit twice into the memory that is free, in MiB."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free_mib = next(int(line.split()[1]) >> 10 for line in lines if line.startswith("MemAvailable"))
    return [size for size in sizes_mib if size <= free_mib / 2]


async def _measured(sizes_mib: list[int]) -> list[Figure]:
    build = fetch(RELEASE)
    seen_s: dict[int, list[float]] = {size: [] for size in sizes_mib}
    gone_s: dict[int, list[float]] = {size: [] for size in sizes_mib}
    for number in range(RUNS):
        for size in sizes_mib:
            with tempfile.TemporaryDirectory(prefix="pycolo-", dir="/var/tmp") as folder:
                seen, gone = await _death_s(_pair(Path(folder), build), size, number)
            seen_s[size].append(seen)
            gone_s[size].append(gone)
    figures = []
    for size in sizes_mib:
        ours = (f"evidence of the death, {size} MiB", seen_s[size])
        figures += compared("death", ours, (f"end of the process, {size} MiB", gone_s[size]))
    least, most = sizes_mib[0], sizes_mib[-1]
    by_size = [(f"evidence of the death, {size} MiB", seen_s[size]) for size in (most, least)]
    return [*figures, *compared("death", *by_size)[2:]]


def _pair(folder: Path, build: QemuBuild) -> ColoPair:
    alpha = Node(
        name=NODES[0],
        address="127.0.0.1",
        image_folder=str(folder),
        run_dir=str(folder / "run"),
        qemu_binary=str(build.qemu_system),
    )
    beta = Node(name=NODES[1], address="127.0.0.2", image_folder=str(folder / "beta"))
    return ColoPair(name="colo", nodes=(alpha, beta))


async def _death_s(pair: ColoPair, size_mib: int, number: int) -> tuple[float, float]:
    """When the evidence was there and when the process had gone, from SIGKILL on."""
    host, (node, _) = LocalHost(), pair.nodes
    instance = instance_of(pair.name, node.name, number)
    memory = f"memory-backend-memfd,id=m,size={size_mib}M,prealloc=on"
    machine = ("-object", memory, "-machine", "q35,memory-backend=m", "-m", str(size_mib))
    monitor = ("-qmp", f"unix:{node.run_path('control.qmp')},server=on,wait=off")
    bare = ("-nodefaults", "-display", "none", "-accel", "kvm", "-smp", "2")
    argv = (node.qemu_binary, *bare, *machine, *monitor)
    launch = LaunchQemu(role="secondary", instance=instance, argv=argv)
    await host.run(pair, node.name, launch, limit_s=START_S)
    held = host.watch(pair, node.name)
    if held is None:
        raise RuntimeError(f"QEMU with {size_mib} MiB does not run")
    with contextlib.closing(held):
        process = os.pidfd_open(held.pid)
        victim = Victim(node=node.name, instance=instance, epoch=1)
        ended = asyncio.create_task(host.ended(pair, victim, limit_s=LIMIT_S))
        # Whoever waits for a death has waited for long when it comes.
        await asyncio.sleep(0.2)
        with undisturbed():
            started = time.perf_counter()
            os.kill(held.pid, signal.SIGKILL)
            gone = asyncio.create_task(asyncio.to_thread(_gone_at, process))
            evidence = await ended
            seen_s = time.perf_counter() - started
            gone_s = await gone - started
    if evidence is None:
        raise RuntimeError(f"no evidence within {LIMIT_S:g} s")
    return seen_s, gone_s


def _gone_at(process: int) -> float:
    """Wait for the end of a process, by its pidfd."""
    # It is ours to reap, unless the host that looked for evidence has done so.
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, process, os.WEXITED)
    ended_at = time.perf_counter()
    os.close(process)
    return ended_at

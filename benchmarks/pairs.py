"""A real pair on this machine, that is killed and made whole again as often as one likes."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, final

from pycolo._execute import execute
from pycolo._probe import probe
from pycolo.compiler import compile_plan, launch
from pycolo.demo.builds import QemuBuild, Release, fetch
from pycolo.demo.guests import READY_LINE, bios_counter, bios_guest, linux_guest
from pycolo.demo.testbed import Testbed, fetched, open_testbed
from pycolo.evidence import instance_of
from pycolo.hosts.local import LocalHost
from pycolo.model import ColoPair, FilterChain, Machine, Netdev, Node, ReplicationDisk
from pycolo.plan import CreateImage, Options, Plan, Procedure
from pycolo.qmp.commands import Cont
from pycolo.qmp.replies import Version
from pycolo.session import Session
from pycolo.snapshot import Snapshot

NODES = ("alpha", "beta")
RELEASE: Final[Release] = "11.1"
DISK = "disk.raw"
DISK_BYTES = 1 << 20
LIMIT_S = 10.0
BOOT_S = 120.0


@final
class LivePair:
    """The pair, and the sessions with whatever of it runs."""

    def __init__(self, pair: ColoPair, version: Version) -> None:
        self.pair = pair
        self.sessions: dict[str, Session] = {}
        self.host = LocalHost()
        self.hosts = {node.name: self.host for node in pair.nodes}
        self._version = version
        self._launches = 0

    async def launch(self, *names: str) -> None:
        """Start QEMUs and connect to them."""
        self._launches += 1
        plan = launch(
            self.pair,
            await self.snapshot(),
            qemu=dict.fromkeys(NODES, self._version),
            nodes=names,
            instances={n: instance_of(self.pair.name, n, self._launches) for n in names},
            birth="00000001",
        )
        await self.execute(plan)
        for name in names:
            monitor = self.pair.node(name).control_monitor
            self.sessions[name] = await Session.connect(name, monitor, limit_s=LIMIT_S)

    async def kill(self, name: str) -> None:
        """End a QEMU with SIGKILL, and see it end."""
        running = self.host.watch(self.pair, name)
        if running is None:
            raise RuntimeError(f"{name} does not run")
        os.kill(running.pid, signal.SIGKILL)
        await running.wait_ended()
        running.close()
        session = self.sessions.pop(name, None)
        if session is not None:
            await session.aclose()

    async def snapshot(self) -> Snapshot:
        """What is there."""
        return await probe(self.sessions, pair=self.pair, hosts=self.hosts)

    async def execute(self, plan: Plan) -> None:
        """Execute a plan to its end."""
        report = await execute(plan, self.sessions, self.hosts)
        if report.failed is not None:
            raise RuntimeError(f"{report.failed}: {report.outcomes[report.failed]}")

    async def cont(self, name: str) -> None:
        """Run the guest of a QEMU that was launched, alone."""
        await self.sessions[name].execute(Cont(), limit_s=LIMIT_S)

    async def boot(self, name: str) -> None:
        """Run the guest of a QEMU that was launched, alone, until it counts or serves."""
        await self.cont(name)
        log = Path(self.pair.node(name).run_path("serial.log"))
        await asyncio.to_thread(_wait_booted, log)

    async def protect_booted(self, primary: str, secondary: str) -> None:
        """Boot the guest alone, and protect it."""
        await self.launch(primary)
        await self.boot(primary)
        await self.launch(secondary)
        await self.run("resume")

    async def disconnect(self) -> None:
        """Close all sessions, so that somebody else can have them."""
        while self.sessions:
            _, session = self.sessions.popitem()
            await session.aclose()

    async def run(self, procedure: Procedure, *, survivor: str | None = None) -> None:
        """Compile a procedure from what is there and execute it to its end."""
        options = Options(survivor=survivor)
        await self.execute(compile_plan(procedure, self.pair, await self.snapshot(), options))

    async def whole_again(self, survivor: str, peer: str) -> None:
        """Finish what a script left undone, and protect the guest anew."""
        await self.run("failover", survivor=survivor)
        await self.launch(peer)
        await self.run("resume")

    async def aclose(self) -> None:
        """End whatever runs."""
        for node in self.pair.nodes:
            running = self.host.watch(self.pair, node.name)
            if running is not None:
                running.close()
                await self.kill(node.name)


@asynccontextmanager
async def bios_pair(memory_mib: int = 64, release: Release = RELEASE) -> AsyncGenerator[LivePair]:
    """A pair with the guest that counts, on KVM; nothing runs yet."""
    machine = Machine(memory_mib=memory_mib, cpu="qemu64,kvmclock=on", serial_log=True)
    async with _pair(machine, release) as living:
        bios_guest(Path(living.pair.node(NODES[0]).image_path(DISK)), size_bytes=DISK_BYTES)
        yield living


@asynccontextmanager
async def linux_pair(memory_mib: int) -> AsyncGenerator[LivePair]:
    """A pair with the Linux guest, on TCG; nothing runs yet."""
    guest = linux_guest()
    machine = Machine(
        memory_mib=memory_mib,
        accelerator="tcg",
        kernel=str(guest.kernel),
        initrd=str(guest.initrd),
        append=guest.kernel_arguments(),
        serial_log=True,
    )
    async with _pair(machine) as living:
        _empty(Path(living.pair.node(NODES[0]).image_path(DISK)))
        yield living


@asynccontextmanager
async def networked_pair() -> AsyncGenerator[tuple[LivePair, Testbed]]:
    """A pair with the Linux guest, on TCG, on two hosts in a network; nothing runs yet.

    Raises:
        RuntimeError: This machine has no network namespaces for us.
    """
    programs = fetched(None, lambda _: None)
    with open_testbed(programs, checkpoint_delay_ms=2000, disk_mib=16, may_isolate=True) as testbed:
        if testbed.not_shown:
            raise RuntimeError(f"cannot be measured here: {testbed.not_shown[0]}")
        living = LivePair(testbed.pair, programs.version)
        node, (disk,) = testbed.pair.node(NODES[0]), testbed.pair.disks
        path, form, size_bytes = node.image_path(disk.image), disk.image_format, disk.size_bytes
        argv = (node.qemu_img_binary, "create", "-f", form, path, str(size_bytes))
        empty = CreateImage(path=path, image_format=form, size_bytes=size_bytes, argv=argv)
        await living.host.run(testbed.pair, node.name, empty, limit_s=LIMIT_S)
        try:
            yield living, testbed
        finally:
            await living.aclose()


@asynccontextmanager
async def _pair(machine: Machine, release: Release = RELEASE) -> AsyncGenerator[LivePair]:
    build = fetch(release)
    with tempfile.TemporaryDirectory(prefix="pycolo-", dir="/var/tmp") as folder:
        living = LivePair(
            ColoPair(
                name="colo",
                nodes=[_node(Path(folder), build, n, name) for n, name in enumerate(NODES, 1)],
                machine=machine,
                disks=(ReplicationDisk(size_bytes=DISK_BYTES, image=DISK, image_format="raw"),),
                chains=(FilterChain(netdev=Netdev(type="hubport", options={"hubid": "0"})),),
                checkpoint_delay_ms=500,
            ),
            Version.parse(build.version),
        )
        try:
            yield living
        finally:
            await living.aclose()


def _node(folder: Path, build: QemuBuild, n: int, name: str) -> Node:
    home = folder / name
    home.mkdir()
    # Loopback addresses of this process's own, so that two runs never meet on a port.
    high, low = divmod(os.getpid() % 65000, 250)
    return Node(
        name=name,
        address=f"127.{n}.{high % 250 + 1}.{low + 1}",
        image_folder=str(home),
        run_dir=str(home / "run"),
        qemu_binary=str(build.qemu_system),
        qemu_img_binary=str(build.qemu_img),
    )


def _empty(image: Path) -> None:
    image.write_bytes(bytes(DISK_BYTES))


def _wait_booted(log: Path) -> None:
    end = time.monotonic() + BOOT_S
    while True:
        said = log.read_text(errors="replace")
        if READY_LINE in said or bios_counter(said) is not None:
            return
        if time.monotonic() > end:
            raise TimeoutError(f"the guest did not boot within {BOOT_S:g} s")
        time.sleep(0.2)

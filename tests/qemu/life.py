"""Whole pairs on real QEMUs: declared, launched, protected, killed and read, by the library alone.

Each pair lives in a folder of its own and on loopback addresses of its own, so that tests that run
at the same time never meet; whatever happens, its QEMUs are ended by their pid files.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal, TypeAlias, final

import attrs
import pytest
from tests.real_qemu import build_of

from pycolo import topology
from pycolo._execute import execute
from pycolo._probe import probe
from pycolo.compiler import compile_plan, launch
from pycolo.demo.builds import Release
from pycolo.demo.guests import bios_counter, bios_disk_counter, bios_guest
from pycolo.evidence import Victim, instance_of
from pycolo.hosts.local import LocalHost, QemuWatch
from pycolo.model import (
    ColoPair,
    FilterChain,
    Iscsi,
    Machine,
    Nbd,
    Netdev,
    Nfs,
    Node,
    Rbd,
    ReplicationDisk,
)
from pycolo.model.pair import CHECKPOINTS_OFF_MS
from pycolo.plan import DialectName, Execute, Options, Plan, Procedure
from pycolo.qmp import commands as qmp
from pycolo.qmp.replies import Version
from pycolo.result import Report
from pycolo.session import Session
from pycolo.snapshot import Live, Snapshot

Accelerator: TypeAlias = Literal["kvm", "tcg"]
LIMIT_S = 10.0
KEEPS_RUNNING_S = 30.0
BOOT_S = 120.0
SIZE_BYTES = 1 << 20
NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
HAS_KVM = os.access("/dev/kvm", os.R_OK | os.W_OK)
NEEDS_KVM = pytest.mark.skipif(
    not HAS_KVM, reason="QEMU before 11.0 takes checkpoints with KVM only"
)
# One release every time, the others at night: for what hardly differs between them.
ON_RELEASES = pytest.mark.parametrize(
    ("release", "accelerator"),
    [
        ("11.1", "tcg"),
        pytest.param("10.0", "kvm", marks=[NEEDS_KVM, pytest.mark.nightly]),
        pytest.param("7.2", "kvm", marks=[NEEDS_KVM, pytest.mark.nightly]),
    ],
)
# What takes checkpoints here; where releases hardly differ, the middle one is for the night.
CHECKPOINTING = (
    "11.1",
    *(("7.2", pytest.param("10.0", marks=pytest.mark.nightly)) if HAS_KVM else ()),
)
# One port of an address that nothing else uses tells that the block of addresses is taken.
CLAIM_PORT = 9997


@final
@attrs.frozen(kw_only=True)
class Loopback:
    """A block of loopback addresses that is this test's alone while it runs."""

    block: int

    def address(self, n: int) -> str:
        """The n-th address, from 1."""
        return f"127.0.{self.block}.{n}"


@contextmanager
def loopback() -> Generator[Loopback]:
    """Claim a block of loopback addresses: whoever holds its claim socket has it."""
    for attempt in range(254):
        block = (os.getpid() + attempt) % 254 + 1
        with socket.socket() as claim:
            try:
                claim.bind((f"127.0.{block}.254", CLAIM_PORT))
            except OSError:
                continue
            yield Loopback(block=block)
            return
    raise AssertionError("all blocks of loopback addresses are in use")


async def until(holds: Callable[[], bool], what: str, limit_s: float = KEEPS_RUNNING_S) -> None:
    """Wait for something that nothing announces, such as the growth of a file."""
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, f"not within {limit_s:g} s: {what}"
        await asyncio.sleep(0.02)


@contextmanager
def pair_folder() -> Generator[Path]:
    """A folder for a pair's files, on a disk: records are refused where a reboot empties them."""
    with tempfile.TemporaryDirectory(prefix="colo-", dir="/var/tmp") as folder:
        yield Path(folder)


def nodes(folder: Path, release: Release, net: Loopback) -> tuple[Node, ...]:
    """Six hosts that are this machine, each with folders and an address of its own."""
    build = build_of(release)
    made = []
    for number, name in enumerate(NAMES, 1):
        (folder / name).mkdir()
        node = Node(
            name=name,
            address=net.address(number),
            image_folder=str(folder / name),
            run_dir=str(folder / name / "run"),
            qemu_binary=str(build.qemu_system),
            qemu_img_binary=str(build.qemu_img),
        )
        made.append(node)
    return tuple(made)


def accelerator_of(release: Release) -> Accelerator:
    """What takes checkpoints: TCG from 11.0 on, and KVM (qemu-behaviour 1.6)."""
    return "tcg" if release == "11.1" else "kvm"


def machine(accelerator: Accelerator) -> Machine:
    """The machine of the BIOS guest."""
    cpu = "qemu64,kvmclock=on" if accelerator == "kvm" else None
    return Machine(memory_mib=64, accelerator=accelerator, serial_log=True, cpu=cpu)


def bios_pair(hosts: tuple[Node, ...], accelerator: Accelerator) -> ColoPair:
    """A pair with one disk and one card for the BIOS guest."""
    disk = ReplicationDisk(size_bytes=SIZE_BYTES, image="disk.raw", image_format="raw")
    chain = FilterChain(netdev=Netdev(type="hubport", options={"hubid": "0"}))
    return ColoPair(
        name="colo",
        nodes=hosts[:2],
        spares=hosts[2:],
        machine=machine(accelerator),
        disks=(disk,),
        chains=(chain,),
        checkpoint_delay_ms=500,
    )


def without_checkpoints(pair: ColoPair) -> ColoPair:
    """The only shape in which TCG before 11.0 does not deadlock (qemu-behaviour 1.7)."""
    return attrs.evolve(pair, chains=(), checkpoint_delay_ms=CHECKPOINTS_OFF_MS)


@final
class LivePair:
    """A declared pair and whatever of it runs."""

    def __init__(self, pair: ColoPair, version: Version) -> None:
        self.pair = pair
        self.version = version
        self.sessions: dict[str, Session] = {}
        self.host = LocalHost()
        self._launches: Counter[str] = Counter()

    @property
    def hosts(self) -> Mapping[str, LocalHost]:
        """This machine plays every host."""
        return {node.name: self.host for node in (*self.pair.nodes, *self.pair.spares)}

    # -- what acts

    async def launch(self, *names: str) -> Report:
        """Start QEMUs by a plan, and connect to them."""
        report = await self.execute(await self.compile_launch(*names))
        for name in names:
            await self.connect(name)
        return report

    async def compile_launch(self, *names: str, dialect: DialectName = "auto") -> Plan:
        """The plan that starts these nodes' QEMUs, each with an identity never used before."""
        self._launches.update(names)
        return launch(
            self.pair,
            await self.probe(),
            qemu=dict.fromkeys(names, self.version),
            nodes=names,
            # The first is the one that plans compiled offline have.
            instances={n: instance_of(self.pair.name, n, self._launches[n]) for n in names},
            dialect=dialect,
        )

    async def connect(self, name: str) -> Session:
        """Open the control session of a node whose QEMU runs."""
        monitor = self.pair.node(name).control_monitor
        session = await Session.connect(name, monitor, limit_s=LIMIT_S)
        self.sessions[name] = session
        return session

    async def victim(self, survivor: str) -> Victim:
        """Whose end has to be shown before a node runs alone."""
        return (await self.compile("failover", survivor=survivor)).victims()[0]

    def watch(self, name: str) -> QemuWatch:
        """The handle of a node's QEMU, which runs."""
        running = self.host.watch(self.pair, name)
        assert running is not None, f"{name} does not run"
        return running

    async def kill(self, name: str) -> None:
        """End a QEMU the hard way."""
        running = self.watch(name)
        os.kill(running.pid, signal.SIGKILL)
        await running.wait_ended()
        running.close()
        session = self.sessions.pop(name, None)
        if session is not None:
            await session.aclose()

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a node's QEMU."""
        running = self.watch(name)
        os.kill(running.pid, number)
        running.close()

    async def replace(self, name: str, spare: str) -> None:
        """Put a spare in a dead node's place, and start its QEMU."""
        self.pair = self.pair.replacing(name, self.pair.node(spare))
        await self.launch(spare)

    async def compile(
        self,
        procedure: Procedure,
        *,
        survivor: str | None = None,
        checkpoint_delay_ms: int | None = None,
        dialect: DialectName = "auto",
    ) -> Plan:
        """A plan from what is there."""
        options = Options(survivor=survivor, checkpoint_delay_ms=checkpoint_delay_ms)
        return compile_plan(procedure, self.pair, await self.probe(), options, dialect=dialect)

    async def execute(self, plan: Plan) -> Report:
        """Execute a plan to its end."""
        report = await execute(plan, self.sessions, self.hosts)
        assert None is report.failed, f"{report.advice}\n{self.stderr()}"
        return report

    async def run(
        self,
        procedure: Procedure,
        *,
        survivor: str | None = None,
        checkpoint_delay_ms: int | None = None,
        dialect: DialectName = "auto",
    ) -> Plan:
        """Compile a procedure, execute it to its end, and give the plan."""
        plan = await self.compile(
            procedure,
            survivor=survivor,
            checkpoint_delay_ms=checkpoint_delay_ms,
            dialect=dialect,
        )
        await self.execute(plan)
        return plan

    async def cont(self, name: str) -> None:
        """Let a guest run that was not protected yet."""
        await self.sessions[name].execute(qmp.Cont(), limit_s=LIMIT_S)

    def create_image(self, name: str, disk: int = 0) -> None:
        """Make an empty image for a disk of a node."""
        node, of = self.pair.node(name), self.pair.disks[disk]
        made = [node.qemu_img_binary, "create", "-q", "-f", of.image_format]
        subprocess.run([*made, str(self.image(name, disk)), str(of.size_bytes)], check=True)

    async def disconnect(self) -> None:
        """Close the sessions: each procedure of an operator opens its own."""
        for name in tuple(self.sessions):
            await self.sessions.pop(name).aclose()

    async def aclose(self) -> None:
        """End whatever runs, by pid."""
        for session in self.sessions.values():
            await session.aclose()
        for node in (*self.pair.nodes, *self.pair.spares):
            running = self.host.watch(self.pair, node.name)
            if running is not None:
                os.kill(running.pid, signal.SIGKILL)
                await running.wait_ended()
                running.close()

    # -- what looks

    async def probe(self) -> Snapshot:
        """What is there."""
        known = {name: session for name, session in self.sessions.items() if not session.closed}
        return await probe(known, pair=self.pair, hosts=self.hosts)

    async def live(self, name: str) -> Live:
        """What one node shows."""
        state = (await self.probe()).state(name)
        assert isinstance(state, Live), state
        return state

    def serial(self, name: str) -> str:
        """What the guest wrote to its serial port on one node."""
        log = Path(self.pair.node(name).run_path("serial.log"))
        return log.read_text(encoding="ascii", errors="replace") if log.exists() else ""

    def counter(self, name: str) -> int:
        """How far the BIOS guest counted on one node."""
        return bios_counter(self.serial(name)) or 0

    async def keeps_running(self, *names: str, by: int = 3) -> None:
        """See the BIOS guest count on, on each of these nodes."""
        marks = {name: self.counter(name) for name in names}
        for name, mark in marks.items():
            what = f"the guest on {name} counts on from {mark}"
            # A BIOS whose card has a network asks there first, for as long as that takes.
            limit_s = BOOT_S if mark == 0 else KEEPS_RUNNING_S
            await until(lambda: self.counter(name) >= mark + by, what, limit_s)  # noqa: B023 - awaited here

    def image(self, name: str, disk: int = 0) -> Path:
        """The image of a disk on one node."""
        return image_file(self.pair.node(name), self.pair.disks[disk])

    def disk_counter(self, name: str, disk: int = 0) -> int:
        """How far the BIOS guest has counted by an image of one node."""
        node, here = self.pair.node(name), self.pair.disks[disk].on(name)
        if here.image_format == "raw" and not isinstance(here.remote, Iscsi | Rbd):
            return bios_disk_counter(self.image(name, disk))
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            line = [node.qemu_img_binary, "convert", "-U", *opened(node, here)]
            subprocess.run([*line, "-O", "raw", str(copy)], check=True)
            return bios_disk_counter(copy)

    async def image_follows(self, name: str) -> None:
        """See that what the BIOS guest has counted is in each image of a node."""
        await self.keeps_running(name)
        counted = self.counter(name)
        for disk in range(len(self.pair.disks)):
            # A promoted QEMU that no plan waits for may still be merging its overlays.
            await until(
                lambda: counted <= self.disk_counter(name, disk),  # noqa: B023 - awaited here
                f"image {disk} on {name} holds what was counted up to {counted}",
            )

    def stderr(self) -> str:
        """What the QEMUs said, for a failing test."""
        nodes = (*self.pair.nodes, *self.pair.spares)
        logs = (Path(node.run_path("qemu.stderr")) for node in nodes)
        return "\n".join(f"{p}: {p.read_text(errors='replace')}" for p in logs if p.exists())


def image_file(node: Node, disk: ReplicationDisk) -> Path:
    """The file or device of a node's image, also where a server on this machine has it.

    An NBD server has it beside its socket, as X.sock; an NFS server exports it under its own path.
    """
    match disk.on(node.name).remote:
        case Nbd(path=str(path)):
            return Path(path).with_suffix("")
        case Nfs(path=path):
            return Path(path)
        case remote:
            assert remote is None, f"no file here is {remote}"
            return Path(disk.paths(node)["image"])


def opened(node: Node, disk: ReplicationDisk) -> list[str]:
    """How `qemu-img` is told to open an image as a node's QEMU does, with its secrets."""
    secrets = [key.to_qmp() for key in topology.secrets(node, disk)]
    objects = [word for key in secrets for word in ("--object", json.dumps(key))]
    return [*objects, f"json:{json.dumps(topology.image(node, disk).to_qmp())}"]


def install(node: Node, disks: Sequence[ReplicationDisk]) -> None:
    """Put the BIOS guest onto a node's first image, and make the others, to which it writes too."""
    for number, disk in enumerate(disks):
        here = disk.on(node.name)
        if isinstance(here.remote, Iscsi | Rbd):
            with tempfile.TemporaryDirectory() as folder:
                content = _content(Path(folder) / "content", number, len(disks))
                line = [node.qemu_img_binary, "convert", "-n", "-f", "raw", str(content)]
                subprocess.run([*line, *opened(node, here)], check=True)
            continue
        image = image_file(node, disk)
        if here.image_format == "raw" and not image.is_block_device():
            # With holes, as an image has them.
            _content(image, number, len(disks))
            continue
        with tempfile.TemporaryDirectory() as folder:
            content = _content(Path(folder) / "content", number, len(disks))
            if here.image_format == "raw":
                image.write_bytes(content.read_bytes())
                continue
            line = [node.qemu_img_binary, "convert", "-f", "raw", "-O", here.image_format]
            subprocess.run([*line, *encrypting(here), str(content), str(image)], check=True)


def _content(path: Path, number: int, disks: int) -> Path:
    if number == 0:
        return bios_guest(path, size_bytes=SIZE_BYTES, disks=disks)
    path.touch()
    os.truncate(path, SIZE_BYTES)
    return path


def encrypting(disk: ReplicationDisk) -> list[str]:
    """What `qemu-img` is told so that it encrypts an image as a disk has it, without long ado."""
    if disk.secret_file is None:
        return []
    secret = ["--object", f"secret,id=key,file={disk.secret_file}", "-o"]
    if disk.image_format == "luks":
        return [*secret, "key-secret=key,iter-time=10"]
    return [*secret, "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"]


def as_it_is(pair: ColoPair) -> ColoPair:
    """Leave a pair unchanged."""
    return pair


@asynccontextmanager
async def bios_life(
    release: Release,
    accelerator: Accelerator,
    *,
    shape: Callable[[ColoPair], ColoPair] = as_it_is,
) -> AsyncGenerator[LivePair]:
    """A pair for the BIOS guest on this machine, nothing of it launched yet.

    Args:
        release: Which QEMU.
        accelerator: What runs the guest; TCG before 11.0 goes without cards and checkpoints.
        shape: Changes the declaration.
    """
    version = Version.parse(build_of(release).version)
    with pair_folder() as folder, loopback() as net:
        pair = shape(bios_pair(nodes(folder, release, net), accelerator))
        if accelerator == "tcg" and release != "11.1":
            pair = without_checkpoints(pair)
        life = LivePair(pair, version)
        install(pair.nodes[0], pair.disks)
        try:
            yield life
        finally:
            await life.aclose()


# What a probe shows and no plan promises, field by field, and why.
UNPROMISED: Mapping[str, str] = {
    "proven": "QEMU does not tell whether a checkpoint was ever made (qemu-behaviour 18.4)",
    "colo_exited": "the latch of the generation that ended stays until the next migrate",
}


def off_plan(
    promised: Snapshot, seen: Snapshot
) -> Mapping[str, Mapping[str, tuple[object, object]]]:
    """Node to field to what was promised and what is there instead."""
    found: dict[str, dict[str, tuple[object, object]]] = {}
    for name, state in promised.nodes.items():
        other = seen.state(name)
        if isinstance(state, Live) and isinstance(other, Live):
            pairs = _compared(state, other)
            found[name] = {field: both for field, both in pairs.items() if both[0] != both[1]}
        elif isinstance(state, Live) or isinstance(other, Live):
            found[name] = {"state": (state, other)}
    return {name: fields for name, fields in found.items() if fields}


def _compared(promised: Live, seen: Live) -> Mapping[str, tuple[object, object]]:
    pairs: dict[str, tuple[object, object]] = {
        field.name: (getattr(promised, field.name), getattr(seen, field.name))
        for field in attrs.fields(Live)
        if field.eq and field.name not in UNPROMISED
    }
    # In a checkpoint a guest is paused for a moment: it is protected all the same.
    if promised.colo_mode != "none":
        pairs["run_state"] = (_settled(promised.run_state), _settled(seen.run_state))
    # Sizes are planned of images alone; offline nobody knows a node of the peer's.
    told = {name: size for name, size in seen.sizes_bytes.items() if name in promised.sizes_bytes}
    pairs["sizes_bytes"] = (promised.sizes_bytes, told)
    # Which sockets there are is promised; a client that keeps trying connects when it can.
    waited_for = {label for label, connected in promised.chardevs.items() if connected}
    connected = {label for label in waited_for if seen.chardevs.get(label)}
    pairs["chardevs"] = (set(promised.chardevs), set(seen.chardevs))
    pairs["chardevs that are connected"] = (waited_for, connected)
    return pairs


def _settled(run_state: str) -> str:
    return "running" if run_state == "colo" else run_state


async def leave(session: Session) -> None:
    """Have a QEMU quit, flushing its images, and see it hang up."""
    await session.execute(qmp.Quit(), limit_s=LIMIT_S)
    while not session.closed:
        await session.wait_change(LIMIT_S)


def commands(plan: Plan) -> list[str]:
    """What a plan would send."""
    return [step.address for step in plan.steps if isinstance(step, Execute)]

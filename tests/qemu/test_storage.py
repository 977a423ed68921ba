"""Disks that are not files in a folder of images, on real QEMU."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest
from tests.qemu.life import (
    LIMIT_S,
    NAMES,
    ON_RELEASES,
    SIZE_BYTES,
    Accelerator,
    LivePair,
    bios_life,
    encrypting,
    until,
)
from tests.qemu.test_life import DEATHS, alone, kept, outlive
from tests.real_qemu import RELEASES, bare_qemu, build_of

from pycolo import preflight, topology
from pycolo._probe import read
from pycolo.compiler._options import device_json, throttled_option
from pycolo.compiler.document import image_words
from pycolo.demo.builds import Release
from pycolo.demo.guests import bios_disk_counter
from pycolo.errors import CommandRefused, CompileError
from pycolo.model import (
    BackingImage,
    ColoPair,
    DiskOnNode,
    Nbd,
    Node,
    ReplicationDisk,
    Throttle,
    UnixMonitor,
)
from pycolo.qmp import commands as qmp
from pycolo.qmp._base import QmpRecord
from pycolo.qmp.blockdevs import (
    CacheOptions,
    FileNode,
    HostDeviceNode,
    LuksNode,
    QuorumNode,
    RawNode,
)
from pycolo.qmp.objects import Secret
from pycolo.session import Session
from pycolo.snapshot import Live
from pycolo.standing import standing

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]
# What stays in memory on every Linux: a folder for the overlays of a test.
MEMORY: Final = "/dev/shm"
LIVING: Final = NAMES[:4]
"The first two nodes of a pair, and the two that take the places of the dead."
LIMITED_BYTES: Final = 16 << 20


# -- whole lives


@contextmanager
def block_devices(size_bytes: int = SIZE_BYTES) -> Generator[Mapping[str, str]]:
    """A block device for each node, which is a file that the kernel shows as one."""
    made: dict[str, str] = {}
    # What is in memory cannot be opened past the page cache by every kernel.
    with tempfile.TemporaryDirectory(prefix="colo-", dir="/var/tmp") as folder:
        try:
            for name in LIVING:
                made[name] = _loop_device(Path(folder) / name, size_bytes)
            yield made
        finally:
            for device in made.values():
                subprocess.run(["losetup", "--detach", device], check=True)


def _loop_device(file: Path, size_bytes: int) -> str:
    file.write_bytes(bytes(size_bytes))
    line = ["losetup", "--find", "--show", str(file)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop devices here: {error}")
    return done.stdout.strip()


def with_folders(pair: ColoPair, memory: str) -> ColoPair:
    """The pair of the four nodes, with the overlays of each in a folder in memory."""
    placed = {}
    for name in LIVING:
        folder = Path(memory) / name
        folder.mkdir()
        placed[name] = attrs.evolve(pair.node(name), overlay_folder=str(folder))
    first, second, *spares = placed.values()
    return attrs.evolve(pair, nodes=(first, second), spares=spares)


def files_in(folder: str) -> set[str]:
    """The names of the files in a folder and those below it."""
    return {path.name for path in Path(folder).rglob("*") if path.is_file()}


async def outlive_both(life: LivePair) -> None:
    """Launch, protect, lose each side once, resume on a new node each time, stop."""
    await life.launch("alpha", "beta")
    await kept(life, await life.run("start"))
    primary = await outlive(life, "alpha", "beta", DEATHS[:2])
    await alone(life, await life.run("stop"), primary)


@pytest.mark.heavy
@ON_RELEASES
async def test_a_pair_lives_on_block_devices(release: Release, accelerator: Accelerator) -> None:
    """Past the page cache, throttled, with overlays in memory, the guest outlives each side."""
    with block_devices() as devices, tempfile.TemporaryDirectory(dir=MEMORY) as memory:

        def shape(pair: ColoPair) -> ColoPair:
            disk = attrs.evolve(
                pair.disks[0],
                image="/dev/not-there",
                driver="host_device",
                cache="none",
                aio="native",
                discard="unmap",
                detect_zeroes="unmap",
                throttle=Throttle(iops_total=1000),
                resync_bytes_per_s=SIZE_BYTES,
                nodes={name: DiskOnNode(image=device) for name, device in devices.items()},
            )
            return attrs.evolve(with_folders(pair, memory), disks=(disk,))

        async with bios_life(release, accelerator, shape=shape) as life:
            await outlive_both(life)
            assert {"secondary-active.qcow2", "secondary-hidden.qcow2"} == files_in(memory)


@pytest.mark.heavy
@ON_RELEASES
async def test_a_pair_lives_on_encrypted_images(release: Release, accelerator: Accelerator) -> None:
    """One node's image is LUKS and the others' qcow2, the overlays too: the guest outlives each."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as memory:
        secret = Path(memory) / "key"
        secret.write_text("not so secret", encoding="ascii")

        def shape(pair: ColoPair) -> ColoPair:
            disk = attrs.evolve(
                pair.disks[0],
                image_format="qcow2",
                secret_file=str(secret),
                nodes={"alpha": DiskOnNode(image_format="luks")},
            )
            return attrs.evolve(with_folders(pair, memory), disks=(disk,))

        async with bios_life(release, accelerator, shape=shape) as life:
            make_encrypted(life)
            await outlive_both(life)


def make_encrypted(life: LivePair) -> None:
    """Make the secondaries' local images beforehand: QEMU takes seconds over each, on purpose."""
    disk = attrs.evolve(life.pair.disks[0], image_format="qcow2")
    made = Path(life.pair.nodes[0].image_folder) / "made"
    program = life.pair.nodes[0].qemu_img_binary
    line = [program, "create", "-q", "-f", "qcow2", *encrypting(disk), str(made), str(SIZE_BYTES)]
    subprocess.run(line, check=True)
    for node in (life.pair.nodes[1], *life.pair.spares):
        for path in disk.paths(node).values():
            shutil.copyfile(made, path)


@pytest.mark.heavy
@ON_RELEASES
async def test_an_image_may_stand_on_another(release: Release, accelerator: Accelerator) -> None:
    """QEMU opens what an image is backed by, and the copy on the other node is whole."""

    def shape(pair: ColoPair) -> ColoPair:
        disk = attrs.evolve(pair.disks[0], image_format="qcow2")
        return attrs.evolve(pair, disks=(disk,))

    async with bios_life(release, accelerator, shape=shape) as life:
        back(life.image("alpha"), build_of(release).qemu_img)
        await life.launch("alpha", "beta")
        await kept(life, await life.run("start"))
        await life.keeps_running("alpha", "beta")
        await life.kill("alpha")
        life.image("alpha").with_name("base").unlink()
        await alone(life, await life.run("failover", survivor="beta"), "beta")


def back(image: Path, qemu_img: Path) -> None:
    """Make an image the base of an empty one that takes its place."""
    base = image.rename(image.with_name("base"))
    line = [str(qemu_img), "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2"]
    subprocess.run([*line, str(image)], check=True)


@pytest.mark.heavy
@pytest.mark.nightly
@ON_RELEASES
async def test_a_pair_lives_on_a_declared_chain(release: Release, accelerator: Accelerator) -> None:
    """All nodes read one chain of images, which no QEMU changes; the guest outlives each side."""
    with tempfile.TemporaryDirectory(prefix="colo-", dir="/var/tmp") as folder:
        chain = tuple(BackingImage(image=f"{folder}/{name}") for name in ("middle", "base"))

        def shape(pair: ColoPair) -> ColoPair:
            disk = attrs.evolve(pair.disks[0], image_format="qcow2", backing=chain)
            return attrs.evolve(pair, disks=(disk,))

        async with bios_life(release, accelerator, shape=shape) as life:
            qemu_img = build_of(release).qemu_img
            stack(life.image("alpha"), *(layer.image for layer in chain), qemu_img=qemu_img)
            content = contents(chain)
            assert not await preflight(life.pair, {"alpha": life.host}, before="launch")
            await outlive_both(life)
            assert content == contents(chain)


def contents(chain: Iterable[BackingImage]) -> list[bytes]:
    """What the images of a chain hold."""
    return [Path(layer.image).read_bytes() for layer in chain]


def stack(image: Path, middle: str, base: str, *, qemu_img: Path) -> None:
    """Make an image the base of two empty ones, the upper of which takes its place."""
    image.rename(base)
    for below, made in ((base, middle), (middle, str(image))):
        line = [str(qemu_img), "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2"]
        subprocess.run([*line, made], check=True)


@pytest.mark.heavy
@pytest.mark.nightly
@ON_RELEASES
async def test_a_pair_lives_on_images_of_nbd_servers(
    release: Release, accelerator: Accelerator
) -> None:
    """Each node has a server of its own, and pycolo makes no image; the guest outlives each."""
    with nbd_servers(release, *LIVING) as sockets:

        def shape(pair: ColoPair) -> ColoPair:
            remotes = {name: DiskOnNode(remote=Nbd(path=path)) for name, path in sockets.items()}
            disk = attrs.evolve(pair.disks[0], image="unused", nodes=remotes)
            first, second, *spares = (pair.node(name) for name in LIVING)
            return attrs.evolve(pair, nodes=(first, second), spares=spares, disks=(disk,))

        async with bios_life(release, accelerator, shape=shape) as life:
            await outlive_both(life)


@contextmanager
def nbd_servers(release: Release, *names: str) -> Generator[Mapping[str, str]]:
    """Servers on Unix sockets, each of which offers an empty file that is beside its socket."""
    root = build_of(release).prefix / "root"
    libraries = [root / "usr/lib/x86_64-linux-gnu", root / "lib/x86_64-linux-gnu"]
    loader = next(one for at in libraries if (one := at / "ld-linux-x86-64.so.2").exists())
    line = [str(loader), "--inhibit-cache", "--library-path", ":".join(map(str, libraries))]
    line += [str(root / "usr/bin/qemu-nbd"), "--persistent", "--format", "raw", "--socket"]
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="colo-", dir="/var/tmp") as folder:
        sockets = {name: f"{folder}/{name}.sock" for name in names}
        try:
            for name, path in sockets.items():
                (Path(folder) / name).write_bytes(bytes(SIZE_BYTES))
                running.append(subprocess.Popen([*line, path, f"{folder}/{name}"]))
            await_sockets(sockets.values())
            yield sockets
        finally:
            for server in running:
                server.kill()
                server.wait()


def await_sockets(paths: Iterable[str]) -> None:
    """Wait until somebody listens on each Unix socket."""
    end = time.monotonic() + LIMIT_S
    for path in paths:
        with socket.socket(socket.AF_UNIX) as client:
            while client.connect_ex(path) != 0:
                assert time.monotonic() < end, f"nobody listens on {path}"
                time.sleep(0.02)  # nothing announces that it listens


@pytest.mark.heavy
@ON_RELEASES
async def test_a_protected_primary_can_be_backed_up(
    release: Release, accelerator: Accelerator
) -> None:
    """A backup of the quorum leaves the pair protected; a snapshot above it puts it at risk."""
    async with bios_life(release, accelerator) as life:
        await life.launch("alpha", "beta")
        plan = await life.run("start")
        await life.keeps_running("alpha", "beta")
        counted = life.counter("alpha")
        folder = Path(life.pair.node("alpha").image_folder)
        quorum = {"device": "colo-disk0", "job-id": "backup"}

        internal = await told(
            life, "blockdev-snapshot-internal-sync", device="colo-disk0", name="now"
        )
        assert "does not support internal snapshots" in str(internal)
        file = {"target": f"{folder}/backup", "format": "raw"}
        assert {} == await told(life, "drive-backup", **quorum, **file, sync="full")
        await until(lambda: counted <= counter_in(folder / "backup"), "the backup is made")
        await kept(life, plan)

        over = {"node-name": "colo-disk0", "snapshot-node-name": "over"}
        file = {"snapshot-file": f"{folder}/over"}
        assert {} == await told(life, "blockdev-snapshot-sync", **over, **file)
        await life.keeps_running("alpha", "beta")
        counted = life.disk_counter("alpha")
        await life.keeps_running("alpha", "beta")
        assert {counted} == {life.disk_counter("alpha"), life.disk_counter("beta")}
        assert "a failover would lose them" in standing(await life.probe()).text
        with pytest.raises(CompileError, match="merge it into the disk with block-commit"):
            await life.run("checkpoint")
        assert {} == await told(life, "block-commit", **{"device": "over", "job-id": "merge"})
        await until_ready(life, "merge")
        assert {} == await told(life, "job-complete", id="merge")
        await merged(life)
        assert "protected" == standing(await life.probe()).state
        await life.run("checkpoint")
        await kept(life, plan)


async def until_ready(life: LivePair, job: str) -> None:
    """Wait until a job has copied all that there was."""
    async with asyncio.timeout(LIMIT_S):
        while (live := (await life.probe()).live("alpha")) is None or (
            live.jobs[job].status != "ready"
        ):
            pass


async def merged(life: LivePair) -> None:
    """Wait until a snapshot is merged into the disk again."""
    async with asyncio.timeout(LIMIT_S):
        while standing(await life.probe()).state != "protected":
            pass


async def told(life: LivePair, name: str, /, **arguments: str) -> object:
    """What a primary's monitor for readers says to a command that no plan has."""
    place = life.pair.node("alpha").observer_monitor
    assert isinstance(place, UnixMonitor)
    reader, writer = await asyncio.open_unix_connection(place.path)
    try:
        for command in ({"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}):
            writer.write(json.dumps(command).encode() + b"\n")
        replies: list[dict[str, object]] = []
        while len(replies) < len(("capabilities", name)):
            line = json.loads(await asyncio.wait_for(reader.readline(), LIMIT_S))
            replies += [line] if line.keys() & {"return", "error"} else []
        return replies[-1].get("return", replies[-1].get("error"))
    finally:
        writer.close()


def counter_in(backup: Path) -> int:
    """How far the guest had counted by a backup; 0 while there is none."""
    return bios_disk_counter(backup) if backup.exists() else 0


# -- what QEMU does


def disk_of(*nodes: QmpRecord) -> tuple[str, ...]:
    """The arguments for a machine with one disk on the last of some block nodes."""
    blocks = [word for node in nodes for word in ("-blockdev", json.dumps(node.to_qmp()))]
    return ("-accel", "tcg", "-m", "32", *blocks, "-device", "ide-hd,drive=top,id=disk0")


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A folder with a short name: it holds sockets."""
    with tempfile.TemporaryDirectory(prefix="colo-", dir="/var/tmp") as folder:
        yield Path(folder)


def refusal(release: Release, *nodes: QmpRecord, before: tuple[str, ...] = ()) -> str:
    """What a QEMU says that does not start with a disk."""
    line = [str(build_of(release).qemu_system), "-nodefaults", "-display", "none", "-S"]
    done = subprocess.run(
        [*line, *before, *disk_of(*nodes)], capture_output=True, text=True, check=False, timeout=30
    )
    assert 1 == done.returncode
    return done.stderr


@pytest.mark.parametrize("release", RELEASES)
def test_a_block_device_is_opened_as_such_and_locked(release: Release, run_dir: Path) -> None:
    """A second QEMU does not get it, and neither driver takes what is of the other kind (20.1)."""
    with block_devices() as devices:
        device = devices["alpha"]
        node = RawNode(node_name="top", file=HostDeviceNode(filename=device))
        with bare_qemu(release, run_dir, *disk_of(node)):
            assert 'Failed to get "write" lock' in refusal(release, node)
        wrong = RawNode(node_name="top", file=FileNode(filename=device))
        assert "to be a regular file" in refusal(release, wrong)
    file = run_dir / "file"
    file.write_bytes(bytes(SIZE_BYTES))
    wrong = RawNode(node_name="top", file=HostDeviceNode(filename=str(file)))
    assert "to be either a character or block device" in refusal(release, wrong)


@pytest.mark.parametrize("release", RELEASES)
def test_a_declared_chain_takes_the_place_of_the_headers(release: Release, run_dir: Path) -> None:
    """QEMU asks for no header, opens what is declared without writing, and says so (20.9)."""
    chain = (
        BackingImage(image=str(run_dir / "middle")),
        BackingImage(image=str(run_dir / "base"), image_format="raw"),
    )
    (run_dir / "base").write_bytes(bytes(SIZE_BYTES))
    for name in ("image", "middle"):
        line = [str(build_of(release).qemu_img), "create", "-q", "-f", "qcow2"]
        subprocess.run([*line, str(run_dir / name), str(SIZE_BYTES)], check=True)
    disk = ReplicationDisk(size_bytes=SIZE_BYTES, image=str(run_dir / "image"), backing=chain)
    node = Node(name="alpha", address="127.0.0.1", image_folder=str(run_dir))
    argv = disk_of(attrs.evolve(topology.image(node, disk), node_name="top"))
    with bare_qemu(release, run_dir, *argv) as bare:
        read_only = asyncio.run(_read_only(bare.control))
    expected = {"image": False, "middle": True, "base": True}
    assert expected == {Path(file).name: is_read_only for file, is_read_only in read_only.items()}


@pytest.mark.parametrize("release", RELEASES)
def test_an_image_is_opened_over_nbd(release: Release, run_dir: Path) -> None:
    """QEMU opens the export that is declared, and does not start if there is none (20.11)."""
    with nbd_servers(release, "alpha") as sockets:
        at = Nbd(path=sockets["alpha"])
        disk = ReplicationDisk(size_bytes=SIZE_BYTES, image_format="raw", remote=at)
        node = Node(name="alpha", address="127.0.0.1", image_folder=str(run_dir))
        opened = attrs.evolve(topology.image(node, disk), node_name="top")
        with bare_qemu(release, run_dir, *disk_of(opened)):
            pass
        other = attrs.evolve(disk, remote=attrs.evolve(at, export="other"))
        absent = attrs.evolve(topology.image(node, other), node_name="top")
        assert "export 'other' not present" in refusal(release, absent)


@pytest.mark.parametrize("release", RELEASES)
def test_options_reach_qemu_in_both_dialects(release: Release, run_dir: Path) -> None:
    """As JSON and as words, a number, a switch and a nested word are taken (20.10)."""
    disk = ReplicationDisk(
        size_bytes=SIZE_BYTES,
        image=str(run_dir / "image"),
        options={
            "l2-cache-size": SIZE_BYTES,
            "lazy-refcounts": True,
            "overlap-check": {"template": "all"},
        },
        file_options={"locking": "on"},
    )
    node = Node(name="alpha", address="127.0.0.1", image_folder=str(run_dir))
    line = [str(build_of(release).qemu_img), "create", "-q", "-f", "qcow2"]
    subprocess.run([*line, disk.image, str(SIZE_BYTES)], check=True)
    drive = f"if=none,id=top,{image_words(node, disk, '')}"
    as_json = disk_of(attrs.evolve(topology.image(node, disk), node_name="top"))
    as_words = ("-accel", "tcg", "-m", "32", "-drive", drive, "-device", "ide-hd,drive=top")
    for argv in (as_json, as_words):
        with bare_qemu(release, run_dir, *argv):
            pass


async def _read_only(monitor: UnixMonitor) -> dict[str, bool]:
    """File to whether the block node that opens it refuses writes."""
    session = await Session.connect("bare", monitor, limit_s=LIMIT_S)
    try:
        query = qmp.QueryNamedBlockNodes(flat=True)
        found = await session.execute(query, limit_s=LIMIT_S)
        return {node.filename: node.read_only for node in found if node.filename[:1] == "/"}
    finally:
        await session.aclose()


@pytest.mark.parametrize("release", RELEASES)
async def test_a_quorum_passes_zeroes_on_and_no_discard(release: Release, run_dir: Path) -> None:
    """What the guest discards stays allocated; zeroes that it writes are given back (20.2)."""
    file = run_dir / "image"
    file.write_bytes(b"x" * SIZE_BYTES)
    image = RawNode(
        node_name="image",
        cache=CacheOptions(direct=True),
        discard="unmap",
        detect_zeroes="unmap",
        file=FileNode(filename=str(file), aio="native"),
    )
    quorum = QuorumNode(node_name="top", vote_threshold=1, children=("image",))
    with bare_qemu(release, run_dir, *disk_of(image, quorum)) as bare:
        session = await Session.connect("bare", bare.control, limit_s=LIMIT_S)
        try:
            await _io(session, "discard 0 512k")
            assert SIZE_BYTES <= file.stat().st_blocks * 512
            await _io(session, "write -P 0 0 512k")
            assert SIZE_BYTES > file.stat().st_blocks * 512
        finally:
            await session.aclose()


async def _io(session: Session, command: str) -> None:
    line = qmp.HumanMonitorCommand(command_line=f'qemu-io -d disk0 "{command}"')
    told = await session.execute(line, limit_s=LIMIT_S)
    assert "rror" not in told, told


@pytest.mark.parametrize("release", RELEASES)
async def test_limits_of_a_drive_hold_up_no_copy(release: Release, run_dir: Path) -> None:
    """The guest waits, a copy does not; above a quorum nothing else may stand (20.5)."""
    for name in ("image", "copy"):
        (run_dir / name).write_bytes(os.urandom(LIMITED_BYTES))
    disk = ReplicationDisk(
        size_bytes=LIMITED_BYTES,
        image=str(run_dir / "image"),
        image_format="raw",
        throttle=Throttle(bps_total=LIMITED_BYTES // 8),
    )
    argv = _throttled(disk, run_dir)
    with bare_qemu(release, run_dir, *argv) as bare:
        session = await Session.connect("bare", bare.control, limit_s=LIMIT_S)
        try:
            begun = time.monotonic()
            await _io(session, f"write 0 {LIMITED_BYTES // 8}")
            await _io(session, "write 0 512")
            assert 0.5 < time.monotonic() - begun
            copy = RawNode(node_name="copy", file=FileNode(filename=str(run_dir / "copy")))
            await session.execute(qmp.BlockdevAdd(node=copy), limit_s=LIMIT_S)
            begun = time.monotonic()
            mirror = qmp.BlockdevMirror(
                device=disk.names.quorum, job_id="job", target="copy", sync="full"
            )
            await session.execute(mirror, limit_s=LIMIT_S)
            await _until_ready(session)
            assert 4 > time.monotonic() - begun
        finally:
            await session.aclose()


def _throttled(disk: ReplicationDisk, run_dir: Path) -> tuple[str, ...]:
    """The arguments of a QEMU whose only disk has the limits that are declared."""
    node = Node(name="alpha", address="127.0.0.1", image_folder=str(run_dir))
    image, quorum = topology.primary_blocks(node, disk)
    assert isinstance(quorum, QuorumNode)
    words = ("-blockdev", json.dumps(image.to_qmp()), "-drive", throttled_option(disk, quorum))
    return ("-accel", "tcg", "-m", "32", *words, "-device", device_json(topology.disk_device(disk)))


async def _until_ready(session: Session) -> None:
    end = time.monotonic() + LIMIT_S
    while (await session.execute(qmp.QueryJobs(), limit_s=LIMIT_S))[0].status != "ready":
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("device", ["ide-hd", "virtio-blk-pci"])
@pytest.mark.parametrize("release", RELEASES)
async def test_a_probe_shows_caches_and_limits(
    release: Release, device: str, run_dir: Path
) -> None:
    """As they are set at the start, and the limits as they are set later (20.12)."""
    (run_dir / "image").write_bytes(bytes(SIZE_BYTES))
    disk = ReplicationDisk(
        size_bytes=SIZE_BYTES,
        image=str(run_dir / "image"),
        image_format="raw",
        cache="unsafe",
        device=device,
        throttle=Throttle(iops_total=100, bps_read=SIZE_BYTES),
    )
    argv = _throttled(disk, run_dir)
    with bare_qemu(release, run_dir, *argv) as bare:
        session = await Session.connect("bare", bare.control, limit_s=LIMIT_S)
        try:
            first = await _live(session)
            assert "unsafe" == (first.caches or {})[disk.names.parent]
            drive = (first.drives or {})[disk.names.quorum]
            assert {"iops_total": 100, "bps_read": SIZE_BYTES} == drive.limits
            free = topology.limits_command(attrs.evolve(disk, throttle=None), drive.device)
            await session.execute(free, limit_s=LIMIT_S)
            then = (await _live(session)).drives or {}
            assert {} == then[disk.names.quorum].limits
            await session.execute(topology.limits_command(disk, drive.device), limit_s=LIMIT_S)
            assert first.drives == (await _live(session)).drives
        finally:
            await session.aclose()


async def _live(session: Session) -> Live:
    state = await read(session)
    assert isinstance(state, Live), state
    return state


@pytest.mark.parametrize("release", RELEASES)
async def test_no_copy_begins_below_a_throttle_node(release: Release, run_dir: Path) -> None:
    """A node above the quorum takes its place: a mirror of the quorum is refused (20.5)."""
    for name in ("image", "copy"):
        (run_dir / name).write_bytes(bytes(SIZE_BYTES))
    image = RawNode(node_name="image", file=FileNode(filename=str(run_dir / "image")))
    quorum = QuorumNode(node_name="quorum", vote_threshold=1, children=("image",))
    copy = RawNode(node_name="copy", file=FileNode(filename=str(run_dir / "copy")))
    group = ("-object", '{"qom-type": "throttle-group", "id": "limits"}')
    above = {"driver": "throttle", "node-name": "top", "throttle-group": "limits", "file": "quorum"}
    blocks = [json.dumps(node.to_qmp()) for node in (image, quorum, copy)] + [json.dumps(above)]
    words = [word for block in blocks for word in ("-blockdev", block)]
    argv = ("-accel", "tcg", "-m", "32", *group, *words, "-device", "ide-hd,drive=top")
    with bare_qemu(release, run_dir, *argv) as bare:
        session = await Session.connect("bare", bare.control, limit_s=LIMIT_S)
        try:
            mirror = qmp.BlockdevMirror(device="quorum", job_id="job", target="copy", sync="full")
            with pytest.raises(CommandRefused, match="Need a root block node"):
                await session.execute(mirror, limit_s=LIMIT_S)
        finally:
            await session.aclose()


@pytest.mark.nightly
@pytest.mark.parametrize("release", RELEASES)
def test_an_encrypted_image_opens_by_the_bytes_of_a_file(release: Release, run_dir: Path) -> None:
    """A line's end in the file counts, and an image in the clear is refused (20.4)."""
    key = run_dir / "key"
    key.write_text("secret", encoding="ascii")
    disk = ReplicationDisk(size_bytes=SIZE_BYTES, image_format="luks", secret_file=str(key))
    image, clear = run_dir / "image", run_dir / "clear"
    line = [str(build_of(release).qemu_img), "create", "-q", "-f"]
    made = [*line, "luks", *encrypting(disk), str(image), str(SIZE_BYTES)]
    subprocess.run(made, check=True)
    clear.write_bytes(bytes(SIZE_BYTES))
    node = LuksNode(node_name="top", key_secret="key", file=FileNode(filename=str(image)))  # noqa: S106 - an id
    opened = ("-object", json.dumps(Secret(id="key", file=str(key)).to_qmp()))
    with bare_qemu(release, run_dir, *opened, *disk_of(node)):
        pass
    key.write_text("secret\n", encoding="ascii")
    assert "Invalid password" in refusal(release, node, before=opened)
    wrong = attrs.evolve(node, file=FileNode(filename=str(clear)))
    assert "not in LUKS format" in refusal(release, wrong, before=opened)


@pytest.mark.parametrize("release", RELEASES)
def test_options_that_go_together_are_asked_for_together(release: Release, run_dir: Path) -> None:
    """`aio=native` needs the direct cache, and unmapping of zeroes that of discards (20.3)."""
    file = run_dir / "image"
    file.write_bytes(bytes(SIZE_BYTES))
    native = RawNode(node_name="top", file=FileNode(filename=str(file), aio="native"))
    assert "it requires cache.direct=on" in refusal(release, native)
    unmap = RawNode(node_name="top", detect_zeroes="unmap", file=FileNode(filename=str(file)))
    assert "without setting discard operation to unmap" in refusal(release, unmap)

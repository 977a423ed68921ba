"""Pairs on storage that QEMU itself reaches over a network, with real servers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest
from tests.certificates import Authority
from tests.qemu.life import (
    LIMIT_S,
    NEEDS_KVM,
    ON_RELEASES,
    SIZE_BYTES,
    Accelerator,
    LivePair,
    Loopback,
    as_it_is,
    bios_life,
    encrypting,
    loopback,
    pair_folder,
    until,
)
from tests.qemu.test_life import kept
from tests.qemu.test_storage import LIVING, make_encrypted, outlive_both
from tests.real_qemu import build_of
from tests.storage_servers import (
    IscsiServer,
    WebServer,
    ceph_cluster,
    iscsi_server,
    nfs_server,
    own_network,
    web_server,
)

from pycolo import preflight
from pycolo.demo.builds import Release
from pycolo.demo.network import wrapper
from pycolo.model import (
    BackingImage,
    ColoPair,
    DiskOnNode,
    Iscsi,
    Nfs,
    Node,
    Rbd,
    RbdMonitor,
    Remote,
    ReplicationDisk,
)
from pycolo.qmp import commands as qmp

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.heavy,
    pytest.mark.nightly,
    pytest.mark.timeout(300),
]
WEB_BYTES: Final = 32 << 20
# QEMU still knows what it has read last over http, but not around all of these places. They are
# fewer than its connections (20.14).
WEB_PLACES: Final = range(2 << 20, 26 << 20, 4 << 20)
WEB_LIMIT_S: Final = 4
TRUSTED: Final = Path("/etc/ssl/certs/ca-certificates.crt")
"The authorities that a host trusts, on Debian."
MODULES: Final = "qemu-block-extra"
"Debian's package with QEMU's drivers for these servers."


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for the files of a server."""
    with pair_folder() as made:
        yield made


@pytest.fixture
def net() -> Iterator[Loopback]:
    """Addresses for a server."""
    with loopback() as made:
        yield made


def with_modules(pair: ColoPair, release: Release, enter: Sequence[str] = ()) -> ColoPair:
    """The pair of the four nodes, with QEMU's modules, and in a network if one is to be entered."""
    build = build_of(release, MODULES)
    placed: list[Node] = []
    for node in map(pair.node, LIVING):
        programs = [build.qemu_system, build.qemu_img]
        if enter:
            folder = Path(node.image_folder)
            programs = [wrapper(folder / program.name, enter, program) for program in programs]
        system, img = map(str, programs)
        placed.append(attrs.evolve(node, qemu_binary=system, qemu_img_binary=img))
    return attrs.evolve(pair, nodes=placed[:2], spares=placed[2:])


def on_remote(pair: ColoPair, remotes: Mapping[str, Remote], **changes: object) -> ColoPair:
    """The pair with an image on remote storage for each node."""
    nodes = {name: DiskOnNode(remote=at) for name, at in remotes.items()}
    changed: Callable[..., ReplicationDisk] = attrs.evolve
    return attrs.evolve(pair, disks=(changed(pair.disks[0], nodes=nodes, **changes),))


@ON_RELEASES
async def test_a_pair_lives_on_disks_of_iscsi_targets(
    release: Release, accelerator: Accelerator, folder: Path, net: Loopback
) -> None:
    """Each node has a target of its own, which admits it by CHAP; the guest outlives each side."""
    with iscsi_server(folder, net.address(9), LIVING, SIZE_BYTES) as server:
        remotes = {name: iscsi_unit(server, name) for name in LIVING}

        def shape(pair: ColoPair) -> ColoPair:
            return on_remote(with_modules(pair, release), remotes, file_options={"timeout": 30})

        async with bios_life(release, accelerator, shape=shape) as life:
            await outlive_both(life)


async def test_a_protected_guest_waits_for_a_frozen_target(folder: Path, net: Loopback) -> None:
    """Its QEMU does not answer until the server continues, and then is protected (20.14)."""
    with iscsi_server(folder, net.address(9), LIVING, SIZE_BYTES) as server:
        alone = {"alpha": iscsi_unit(server, "alpha")}

        def shape(pair: ColoPair) -> ColoPair:
            return on_remote(with_modules(pair, "11.1"), alone)

        async with bios_life("11.1", "tcg", shape=shape) as life:
            await life.launch("alpha", "beta")
            protected = await life.run("start")
            await life.keeps_running("alpha", "beta")
            server.stop()
            while await answers(life):
                pass
            counted = life.counter("alpha")
            assert not await answers(life)
            assert counted == life.counter("alpha")
            server.resume()
            await life.keeps_running("alpha", "beta")
            await kept(life, protected)


async def answers(life: LivePair) -> bool:
    """Whether the primary's QEMU answers soon."""
    try:
        async with asyncio.timeout(2):
            await life.sessions["alpha"].execute(qmp.QueryStatus(), limit_s=LIMIT_S)
    except TimeoutError:
        return False
    return True


def iscsi_unit(server: IscsiServer, name: str) -> Iscsi:
    """A node's unit on a server."""
    return Iscsi(
        portal=server.portal,
        target=server.target(name),
        lun=1,
        user=server.user,
        secret_file=str(server.secret_file),
        initiator_name=f"iqn.2026-01.com.example:{name}-host",
    )


@ON_RELEASES
async def test_a_pair_lives_on_files_of_an_nfs_server(
    release: Release, accelerator: Accelerator, folder: Path
) -> None:
    """QEMU opens a file of each node without a mount, and pycolo makes none; the guest outlives."""
    with own_network("nfs") as enter, nfs_server(enter, folder) as exported:
        remotes = nfs_files(exported)
        make_empty(remotes)

        def shape(pair: ColoPair) -> ColoPair:
            options = {"readahead-size": 65536}
            return on_remote(with_modules(pair, release, enter), remotes, file_options=options)

        async with bios_life(release, accelerator, shape=shape) as life:
            await outlive_both(life)


async def test_a_pair_lives_on_encrypted_files_of_an_nfs_server(folder: Path) -> None:
    """Neither the images nor the overlays are in the clear, and the guest outlives each side."""
    secret = folder / "passphrase"
    secret.write_text("not so secret", encoding="ascii")
    with own_network("nfs") as enter, nfs_server(enter, folder) as exported:
        remotes = nfs_files(exported)

        def shape(pair: ColoPair) -> ColoPair:
            placed = with_modules(pair, "11.1", enter)
            return on_remote(placed, remotes, image_format="luks", secret_file=str(secret))

        async with bios_life("11.1", "tcg", shape=shape) as life:
            make_encrypted(life)
            make_luks(life, remotes)
            await outlive_both(life)


def make_empty(remotes: Mapping[str, Nfs]) -> None:
    """Make each file on its server, empty."""
    for at in remotes.values():
        Path(at.path).write_bytes(bytes(SIZE_BYTES))


def make_luks(life: LivePair, remotes: Mapping[str, Nfs]) -> None:
    """Make each file but the first node's on its server, empty and encrypted."""
    disk, program = life.pair.disks[0].on("beta"), life.pair.node("beta").qemu_img_binary
    for name in LIVING[1:]:
        line = [program, "create", "-q", "-f", "luks", *encrypting(disk), remotes[name].path]
        subprocess.run([*line, str(SIZE_BYTES)], check=True)


def nfs_files(exported: Path) -> Mapping[str, Nfs]:
    """A file for each node, which need not exist."""
    return {name: Nfs(host="127.0.0.1", path=str(exported / name)) for name in LIVING}


@ON_RELEASES
async def test_a_pair_lives_on_images_of_a_ceph_cluster(
    release: Release, accelerator: Accelerator, folder: Path
) -> None:
    """Each node has an image of its own in one pool; the guest outlives each side."""
    with (
        own_network("ceph") as enter,
        ceph_cluster(enter, folder, LIVING, SIZE_BYTES) as key,
    ):
        monitors = (RbdMonitor(host="127.0.0.1", port=6789),)
        remotes = {
            name: Rbd(
                pool="guests", image=name, monitors=monitors, user="admin", secret_file=str(key)
            )
            for name in LIVING
        }

        def shape(pair: ColoPair) -> ColoPair:
            return on_remote(with_modules(pair, release, enter), remotes)

        async with bios_life(release, accelerator, shape=shape) as life:
            await outlive_both(life)


# -- what a preflight finds


async def found_of(life: LivePair) -> list[tuple[str, str]]:
    """What stops a launch, as code and clause."""
    found = await preflight(life.pair, life.hosts, before="launch")
    return [(finding.code, finding.what) for finding in found]


async def test_a_preflight_finds_what_is_wrong_with_a_target(folder: Path, net: Loopback) -> None:
    """A unit that is absent, of another size, or refused, and a server that is away (20.13)."""

    def at(**changes: object) -> Callable[[ColoPair], ColoPair]:
        def shape(pair: ColoPair) -> ColoPair:
            changed: Callable[..., Iscsi] = attrs.evolve
            given = {**remotes, "alpha": changed(remotes["alpha"], **changes)}
            return on_remote(with_modules(pair, "11.1"), given)

        return shape

    with iscsi_server(folder, net.address(9), LIVING, SIZE_BYTES) as server:
        remotes = {name: iscsi_unit(server, name) for name in LIVING}
        wrong = folder / "wrong"
        wrong.write_text("not the password", encoding="ascii")
        async with bios_life("11.1", "tcg", shape=at()) as life:
            assert [] == await found_of(life)
            life.pair = at(lun=7)(life.pair)
            ((code, what),) = await found_of(life)
            assert "no-image" == code
            assert f"{remotes['alpha'].url[:-1]}7 on alpha cannot be read: " in what
            assert "LOGICAL_UNIT_NOT_SUPPORTED" in what
            life.pair = at(secret_file=str(wrong))(life.pair)
            ((code, what),) = await found_of(life)
            assert ("no-image", True) == (code, "Authentication failure" in what)
            life.pair = at()(life.pair)
            twice = attrs.evolve(life.pair.disks[0], size_bytes=2 * SIZE_BYTES)
            life.pair = attrs.evolve(life.pair, disks=(twice,))
            assert ["image-differs"] * len(LIVING) == [code for code, _ in await found_of(life)]
    async with bios_life("11.1", "tcg", shape=as_it_is) as life:
        life.pair = at()(life.pair)
        assert ["no-image"] * len(LIVING) == [code for code, _ in await found_of(life)]


# -- the web


def on_web(pair: ColoPair, release: Release, url: str, enter: Sequence[str] = ()) -> ColoPair:
    """The pair with an image of a web server below those of its first two nodes."""
    base = BackingImage(image=url, image_format="raw", file_options={"timeout": WEB_LIMIT_S})
    disk = attrs.evolve(
        pair.disks[0],
        size_bytes=WEB_BYTES,
        image="disk.qcow2",
        image_format="qcow2",
        backing=(base,),
        nodes={name: DiskOnNode(backing=()) for name in LIVING[2:]},
    )
    return attrs.evolve(with_modules(pair, release, enter), disks=(disk,))


def trusting(authority: Authority) -> tuple[str, ...]:
    """Words that run a program on a host that trusts one authority alone."""
    if os.geteuid() != 0 or not TRUSTED.exists():
        pytest.skip(f"only root can replace {TRUSTED}, which must be there")
    mounted = f'mount --bind "$0" {TRUSTED} && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", mounted, str(authority.cert))


def why_unread(release: Release, url: str, enter: Sequence[str]) -> str:
    """Why `qemu-img` does not read an image of a web server."""
    argv = [*enter, str(build_of(release, MODULES).qemu_img), "info", url]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stderr


def put_on_web(life: LivePair, folder: Path, url: str) -> None:
    """Have the guest's image be an empty one on that of a web server."""
    image, base = life.image("alpha"), folder / "base"
    line = [life.pair.node("alpha").qemu_img_binary, "convert", "-O", "raw", str(image), str(base)]
    subprocess.run(line, check=True)
    os.truncate(base, WEB_BYTES)
    image.unlink()
    line = [life.pair.node("alpha").qemu_img_binary, "create", "-q", "-f", "qcow2"]
    subprocess.run([*line, "-b", url, "-F", "raw", str(image)], check=True)


@ON_RELEASES
async def test_a_pair_lives_on_an_image_of_a_web_server(
    release: Release, accelerator: Accelerator, folder: Path, net: Loopback
) -> None:
    """Two nodes read one image of a server below their own; the guest outlives each side."""
    with web_server(folder, net.address(9)) as server:
        url = server.url("base")

        async with bios_life(
            release, accelerator, shape=lambda pair: on_web(pair, release, url)
        ) as life:
            put_on_web(life, folder, url)
            content = (folder / "base").read_bytes()
            await outlive_both(life)
            assert server.asked
            assert content == (folder / "base").read_bytes()


@ON_RELEASES
async def test_a_pair_lives_on_an_image_of_a_web_server_with_tls(
    release: Release, accelerator: Accelerator, folder: Path, net: Loopback
) -> None:
    """QEMU reads over https from a server that its host's authorities vouch for (20.15)."""
    own, other = (Authority(folder, name) for name in ("own", "other"))
    address = net.address(9)
    with web_server(folder, address, own.sign("server", address)) as server:
        url = server.url("base")

        def shape(pair: ColoPair) -> ColoPair:
            return on_web(pair, release, url, trusting(own))

        async with bios_life(release, accelerator, shape=shape) as life:
            put_on_web(life, folder, url)
            assert "verification failed" in why_unread(release, url, trusting(other))
            await outlive_both(life)
            assert server.asked


@ON_RELEASES
async def test_a_protected_guest_outlives_its_web_server(
    release: Release, accelerator: Accelerator, folder: Path, net: Loopback
) -> None:
    """The secondary serves what the server does not; then the guest moves there (20.14)."""
    async with web_life(release, accelerator, folder, net) as (life, _, stack):
        stack.close()
        await moves_off(life)


@pytest.mark.parametrize(
    ("release", "accelerator"), [("11.1", "tcg"), pytest.param("10.0", "kvm", marks=NEEDS_KVM)]
)
async def test_a_protected_guest_outlives_a_frozen_web_server(
    release: Release, accelerator: Accelerator, folder: Path, net: Loopback
) -> None:
    """QEMU waits for it as long as the image's `timeout` says; 7.2 waits for good (20.14)."""
    async with web_life(release, accelerator, folder, net) as (life, server, _):
        server.answers.clear()
        begun_s = time.monotonic()
        await moves_off(life)
        assert WEB_LIMIT_S <= time.monotonic() - begun_s


async def test_a_guest_alone_gets_an_error_without_its_web_server(
    folder: Path, net: Loopback
) -> None:
    """There is no other node that could serve its reads (20.14)."""
    with ExitStack() as stack:
        url = stack.enter_context(web_server(folder, net.address(9))).url("base")
        async with bios_life("11.1", "tcg", shape=lambda pair: on_web(pair, "11.1", url)) as life:
            put_on_web(life, folder, url)
            await life.launch("alpha")
            stack.close()
            await read(life)
            await until(lambda: "failed: Input/output error" in life.stderr(), "it fails")


@asynccontextmanager
async def web_life(
    release: Release, accelerator: Accelerator, folder: Path, net: Loopback
) -> AsyncGenerator[tuple[LivePair, WebServer, ExitStack]]:
    """A protected pair on a web server, that server, and what closes it."""
    with ExitStack() as stack:
        server = stack.enter_context(web_server(folder, net.address(9)))
        url = server.url("base")
        async with bios_life(
            release, accelerator, shape=lambda pair: on_web(pair, release, url)
        ) as life:
            put_on_web(life, folder, url)
            await life.launch("alpha", "beta")
            await kept(life, await life.run("start"))
            await life.keeps_running("alpha", "beta")
            yield life, server, stack


async def moves_off(life: LivePair) -> None:
    """See the secondary serve the primary's reads, and the guest move there."""
    await read(life)
    served = "read 512/512 bytes"
    await until(lambda: len(WEB_PLACES) == life.stderr().count(served), "all is served")
    assert "curl: " in life.stderr()
    await life.keeps_running("alpha", "beta")
    # QEMU's own word for it does not tell whether a write failed as well (5.11).
    assert (await life.live("alpha")).disk_error
    await life.run("switch-over")
    await life.keeps_running("beta")


async def read(life: LivePair) -> None:
    """Have the primary read where only the web server has data, as its guest would."""
    for place in WEB_PLACES:
        line = qmp.HumanMonitorCommand(command_line=f'qemu-io -d disk0 "aio_read {place} 512"')
        await life.sessions["alpha"].execute(line, limit_s=LIMIT_S)

"""What a preflight reads of a host, on this machine: real files, ports, locks and certificates."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Final

import attrs
import pytest
from tests.certificates import Authority
from tests.real_qemu import RELEASES, bare_qemu, build_of

from pycolo import preflight, rules
from pycolo._json import JsonValue
from pycolo.compiler.launch import images as images_made
from pycolo.demo.builds import Release
from pycolo.facts import HostFacts, LaunchFacts, LibvirtFacts, NoFacts, PairFacts, Part
from pycolo.hosts import Host
from pycolo.hosts.local import LocalHost
from pycolo.hosts.ways import NoWay
from pycolo.model import (
    BackingImage,
    ColoPair,
    DiskOnNode,
    Iscsi,
    Machine,
    Nbd,
    Nfs,
    Rbd,
    Remote,
    ReplicationDisk,
)
from pycolo.model.memory import MemoryBackend
from pycolo.model.node import Fence, Libvirt
from pycolo.model.tls import X509, Psk

LIMIT_S: Final = 20.0

LISTENER: Final = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def _running(program: str, *words: str) -> Generator[int]:
    """Run a program until the block is left; gives its process number."""
    argv = [sys.executable, "-c", program, *words]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"ready\n" == process.stdout.readline()
        yield process.pid
        assert process.stdin is not None
        process.stdin.close()


async def _read(pair: ColoPair, *parts: Part, limit_s: float = LIMIT_S) -> HostFacts:
    found = await LocalHost().facts(pair, "alpha", parts, limit_s=limit_s)
    assert isinstance(found, HostFacts), found
    return found


@pytest.fixture
def apart(pair: ColoPair) -> ColoPair:
    """The pair at addresses of its own, so that its ports are nobody else's."""
    addresses = dict(zip(pair.names, ("127.78.3.1", "127.78.3.2"), strict=True))
    nodes = [
        attrs.evolve(node, address=addresses[node.name], listen_address=addresses[node.name])
        for node in pair.nodes
    ]
    return attrs.evolve(pair, nodes=nodes)


async def test_every_host_tells_of_itself(pair: ColoPair) -> None:
    """Its identity, its memory and its clock, which is our own here."""
    found = await _read(pair, "system", "memory", "launch", "folders")
    assert found.system is not None
    assert found.memory is not None
    assert found.clock is not None
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    assert (os.geteuid(), boot_id) == (found.system.user_id, found.system.boot_id)
    buffer = Path("/proc/sys/net/ipv4/tcp_wmem").read_text(encoding="ascii").split()
    assert int(buffer[2]) == found.system.send_buffer_bytes
    assert 0 < found.memory.available_bytes <= found.memory.total_bytes
    assert found.clock.least_s <= 0 <= found.clock.most_s
    assert LaunchFacts(running="", state_why="", run_why="") == found.launch
    assert [True] == [folder.is_writable for folder in found.folders or ()]


async def test_host_tells_of_its_huge_pages(pair: ColoPair, folder: Path) -> None:
    """Those that are free, of the size that the guest's RAM is taken from; none for other RAM."""

    async def told(backend: MemoryBackend) -> int | None:
        machine = attrs.evolve(pair.machine, memory_backend=backend)
        found = await _read(attrs.evolve(pair, machine=machine), "memory")
        assert found.memory is not None
        return found.memory.huge_bytes

    pages = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    names = ("free_hugepages", "nr_overcommit_hugepages")
    free = sum(int((pages / name).read_text("ascii")) for name in names) if pages.exists() else 0
    assert free * 2 * 2**20 == await told(MemoryBackend(kind="memfd", huge_page_size_mib=2))
    assert None is await told(MemoryBackend(kind="file", folder=str(folder)))
    assert None is await told(MemoryBackend())


async def test_launch_tells_what_it_would_refuse(pair: ColoPair) -> None:
    """A run directory that others may enter, and a state folder that is missing."""
    run_dir = Path(pair.node("alpha").run_path(""))
    run_dir.mkdir(mode=0o755)
    nodes = (attrs.evolve(pair.nodes[0], state_dir="/nowhere"), pair.nodes[1])
    found = (await _read(attrs.evolve(pair, nodes=nodes), "launch")).launch
    assert found is not None
    assert "there is no folder /nowhere" == found.state_why
    assert f"run_dir {run_dir} has mode 0755, it must be 0700" == found.run_why


async def test_part_that_does_not_end_leaves_the_others(pair: ColoPair, folder: Path) -> None:
    """The answer comes in time, and says which part is missing."""
    os.mkfifo(folder / "keys.psk")
    keyed = attrs.evolve(pair, tls=Psk(folder=str(folder)))
    found = await _read(keyed, "psk", "memory", limit_s=1.0)
    assert {"psk": "no answer within 0.5 s"} == found.unread
    assert found.memory is not None
    # Whoever waits for a writer is let go.
    os.close(os.open(folder / "keys.psk", os.O_WRONLY))


async def test_host_without_a_way_tells_nothing(pair: ColoPair) -> None:
    """It is one finding, and the other host is looked at all the same."""
    hosts: dict[str, Host] = {"alpha": LocalHost(), "beta": NoWay(why="set nodes[1].ssh")}
    asked: tuple[Part, ...] = ("system",)
    told = await hosts["beta"].facts(pair, "beta", asked, limit_s=LIMIT_S)
    assert NoFacts(why="set nodes[1].ssh") == told
    codes = {(one.code, one.node) for one in await preflight(pair, hosts, before=None)}
    assert ("host-unread", "beta") in codes
    assert ("no-image", "alpha") in codes


CAPABILITIES: Final = """\
<capabilities><host>
  <secmodel><model>apparmor</model><doi>0</doi></secmodel>
  <secmodel><model>dac</model><doi>0</doi>
    <baselabel type='kvm'>+64055:+108</baselabel><baselabel type='qemu'>+64055:+108</baselabel>
  </secmodel>
</host></capabilities>
"""
NO_MODEL: Final = """\
<capabilities><host><secmodel><model>none</model></secmodel></host></capabilities>
"""


async def test_libvirt_tells_as_whom_it_runs_qemu(pair: ColoPair, folder: Path) -> None:
    """By the user of its base label; a session's libvirt has none, and one that fails says why."""
    virsh = folder / "virsh"
    declared = Libvirt(uri="qemu:///system", virsh_binary=str(virsh))
    place = attrs.evolve(pair.nodes[0], libvirt=declared, qemu_binary="/usr/bin/qemu")
    nodes = (place, attrs.evolve(pair.nodes[1], libvirt=declared, qemu_binary="/usr/bin/qemu"))
    by_libvirt = attrs.evolve(pair, nodes=nodes)

    async def told(answer: str, code: int) -> LibvirtFacts | None:
        asked = 'test "$*" = "--quiet --connect qemu:///system capabilities"'
        virsh.write_text(f"#!/bin/sh\n{asked} || exit 9\n{answer}\nexit {code}\n")
        virsh.chmod(0o755)
        return (await _read(by_libvirt, "libvirt")).libvirt

    def said(text: str) -> str:
        return f"cat <<'END'\n{text}END"

    labelled = LibvirtFacts(why="", user_id=64055, confinement=("apparmor",))
    assert labelled == await told(said(CAPABILITIES), 0)
    assert LibvirtFacts(why="") == await told(said(NO_MODEL), 0)
    assert LibvirtFacts(why="access denied") == await told("echo access denied >&2", 1)
    virsh.unlink()
    assert (
        LibvirtFacts(why=f"there is no program {virsh}")
        == (await _read(by_libvirt, "libvirt")).libvirt
    )
    assert None is (await _read(pair, "libvirt")).libvirt


async def test_fence_is_looked_for_here(pair: ColoPair) -> None:
    """The program and the file that it reads."""
    fence = Fence(command=("no-such-fence",), input_file="/nowhere/options")
    nodes = (attrs.evolve(pair.nodes[0], fences=(fence,)), pair.nodes[1])
    found = await preflight(attrs.evolve(pair, nodes=nodes), {"alpha": LocalHost()})
    assert [
        "to fence alpha: there is no program no-such-fence on this machine",
        "to fence alpha: /nowhere/options cannot be read on this machine",
    ] == [one.what for one in found if one.code == "no-fence"]


async def test_credentials_that_are_missing_are_reported_once(pair: ColoPair, folder: Path) -> None:
    """As files, or as the folder that they should be in, and not by what would read them."""
    for tls in (X509(folder=str(folder)), Psk(folder=f"{folder}/none")):
        found = await _read(attrs.evolve(pair, tls=tls), "files", "tls", "psk")
        assert ({}, None, None) == (found.unread, found.tls, found.psk)
        assert {isinstance(tls, X509)} == {file.is_folder_there for file in found.files or ()}


# -- ports ----------------------------------------------------------------------------------------


async def test_peers_ports_are_refused_open_or_silent(apart: ColoPair) -> None:
    """A closed port refuses, a listener is open, and one whose backlog is full drops packets."""
    migration, nbd = apart.ports.migration, apart.ports.nbd
    peer = apart.nodes[1].address
    with contextlib.ExitStack() as held:
        full = held.enter_context(socket.create_server((peer, nbd), backlog=0))
        for _ in range(3):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)  # noqa: FBT003 - the socket module's
            waiting.connect_ex(full.getsockname())
        (way,) = (await _read(apart, "reach")).reach or ()
        assert {migration: "refused", nbd: "silent"} == {p.port: p.answer for p in way.ports}
        assert ("beta", True) == (way.node, way.is_carried)
        held.enter_context(socket.create_server((peer, migration)))
        (way,) = (await _read(apart, "reach")).reach or ()
        assert {migration: "open", nbd: "silent"} == {p.port: p.answer for p in way.ports}


async def test_ways_are_tried_only_while_nobody_listens(apart: ColoPair) -> None:
    """Whoever listens may be a QEMU, which takes a connection for its peer's."""
    hosts = {"alpha": LocalHost(), "beta": LocalHost()}
    peer, port = apart.nodes[1].address, apart.ports.migration
    with socket.create_server((peer, port)) as listener:
        listener.settimeout(0)
        found = {one.code: one for one in await preflight(apart, hosts)}
        assert found["ways-untried"].what.endswith(f"TCP port {port} of beta is in use")
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert {"port-in-use", "port-conflict"} & set(found) == {"port-in-use"}
    codes = {one.code for one in await preflight(apart, hosts)}
    assert not codes & {"ways-untried", "port-in-use", "port-blocked", "port-conflict"}


async def test_port_in_use_names_who_listens(apart: ColoPair) -> None:
    """So that it can be ended."""
    address, port = apart.nodes[0].address, apart.ports.nbd
    assert () == (await _read(apart, "ports")).ports
    with _running(LISTENER, address, str(port)) as pid:
        (used,) = (await _read(apart, "ports")).ports or ()
    assert port == used.port
    assert [f"process {pid} ("] == [holder[: len(f"process {pid} (")] for holder in used.holders]


async def test_names_are_resolved_and_own_ones_known(apart: ColoPair) -> None:
    """An address of documentation is nobody's."""
    nodes = (apart.nodes[0], attrs.evolve(apart.nodes[1], listen_address="192.0.2.1"))
    found = (await _read(attrs.evolve(apart, nodes=nodes), "names")).names or ()
    assert {"127.78.3.1": True, "127.78.3.2": True, "192.0.2.1": False} == {
        one.name: one.is_own for one in found
    }


# -- images ---------------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("release", RELEASES)
async def test_image_tells_what_it_is_and_who_has_it(
    pair: ColoPair, folder: Path, release: Release
) -> None:
    """Its format and size by qemu-img, its lock without taking it, and the QEMU that holds it."""
    build = build_of(release)
    nodes = [attrs.evolve(node, qemu_img_binary=str(build.qemu_img)) for node in pair.nodes]
    made = attrs.evolve(pair, nodes=nodes)
    path = made.nodes[0].image_path(made.disks[0].image)
    (missing,) = (await _read(made, "images")).images or ()
    assert not missing.is_there
    argv = [str(build.qemu_img), "create", "-q", "-f", "qcow2", path, str(1 << 20)]
    subprocess.run(argv, check=True)
    (image,) = (await _read(made, "images")).images or ()
    assert ("qcow2", 1 << 20, False, ()) == (
        image.image_format,
        image.size_bytes,
        image.is_locked,
        image.holders,
    )
    opened = f"driver=qcow2,node-name=d,file.driver=file,file.filename={path}"
    with bare_qemu(release, folder, "-machine", "none", "-blockdev", opened) as qemu:
        (held,) = (await _read(made, "images")).images or ()
    assert held.is_locked
    assert [str(qemu.process.pid)] == [holder.split()[1] for holder in held.holders]
    (free,) = (await _read(made, "images")).images or ()
    assert not free.is_locked


@pytest.mark.qemu
async def test_image_names_what_backs_it(pair: ColoPair, folder: Path) -> None:
    """A backing image of the declaration is read too, and the header gives its full path."""
    build = build_of("11.1")
    base = BackingImage(image=str(folder / "base"), image_format="raw")
    disks = [attrs.evolve(disk, backing=(base,)) for disk in pair.disks]
    nodes = [attrs.evolve(node, qemu_img_binary=str(build.qemu_img)) for node in pair.nodes]
    made = attrs.evolve(pair, nodes=nodes, disks=disks)
    (folder / "base").write_bytes(bytes(1 << 20))
    ((action, _), *_) = images_made(made.nodes[0], made.disks, "secondary", given=False)
    subprocess.run(action.argv, check=True, capture_output=True)
    image, below = (await _read(made, "images")).images or ()
    assert ("qcow2", base.image) == (image.image_format, image.backing)
    assert (base.image, "raw", "") == (below.path, below.image_format, below.backing)


# -- QEMU -----------------------------------------------------------------------------------------


@pytest.mark.qemu
@pytest.mark.parametrize("release", RELEASES)
async def test_options_are_checked_against_the_schema_of_the_host(
    pair: ColoPair, release: Release
) -> None:
    """The QEMU there is asked before a launch, if an image has options (20.10)."""
    binary = str(build_of(release).qemu_system)
    nodes = [attrs.evolve(node, qemu_binary=binary) for node in pair.nodes]

    async def codes(options: dict[str, JsonValue]) -> list[str]:
        disk = ReplicationDisk(size_bytes=1 << 20, options=options)
        made = attrs.evolve(pair, nodes=nodes, disks=(disk,))
        read = {"alpha": await _read(made, "block_schema")}
        found = rules.evaluate(made, PairFacts(hosts=read, now_s=0), before="launch")
        return [f"{finding.code}: {finding.what}" for finding in found]

    assert [] == await codes({"lazy-refcounts": True, "overlap-check": {"template": "all"}})
    (refused,) = await codes({"overlap-check": {"templat": "all"}})
    expected = "unknown-option: the QEMU of alpha refuses disks[0]: overlap-check.templat"
    assert f"{expected} must be absent (did you mean template?)" == refused


@pytest.mark.qemu
@pytest.mark.parametrize("release", RELEASES)
async def test_qemu_tells_what_it_lacks(pair: ColoPair, release: Release) -> None:
    """A build has all that a pair needs, and not a card, a machine or a model that nobody makes."""
    build = build_of(release)
    nodes = [attrs.evolve(node, qemu_binary=str(build.qemu_system)) for node in pair.nodes]
    disks = (ReplicationDisk(size_bytes=1 << 20, device="virtio-blk"),)
    machine = Machine(accelerator="tcg", cpu="qemu64")
    good = attrs.evolve(pair, nodes=nodes, disks=disks, machine=machine)
    found = (await _read(good, "qemu")).qemu
    assert found is not None
    assert ((), True, True) == (found.lacks, found.has_cpu, found.machine.startswith("pc-i440fx-"))
    assert found.version.startswith(release)
    wrong = attrs.evolve(
        good,
        disks=(ReplicationDisk(size_bytes=1 << 20, device="no-such-disk"),),
        machine=Machine(accelerator="tcg", cpu="no-such-cpu", machine_type="no-such-machine"),
    )
    lacking = (await _read(wrong, "qemu")).qemu
    assert lacking is not None
    assert (("no-such-disk",), "", False) == (lacking.lacks, lacking.machine, lacking.has_cpu)
    (bios, *_) = (await _read(good, "firmware")).firmware or ()
    assert ("bios-256k.bin", 262144) == (bios.path, bios.size_bytes)


@pytest.mark.qemu
@pytest.mark.parametrize("release", RELEASES)
async def test_qemu_without_a_module_lacks_its_driver(pair: ColoPair, release: Release) -> None:
    """Its schema has the drivers of all networks; these builds have that of NBD alone (20.11)."""
    binary = str(build_of(release).qemu_system)
    alpha, beta = (attrs.evolve(node, qemu_binary=binary) for node in pair.nodes)
    remotes: list[Remote] = [
        Iscsi(portal="192.0.2.1", target="a"),
        Nfs(host="192.0.2.1", path="/a"),
        Rbd(pool="a", image="a"),
        Nbd(path="/a"),
    ]
    chains = [[BackingImage(image=f"{scheme}://192.0.2.1/a")] for scheme in ("http", "https")]
    parts = [DiskOnNode(remote=at) for at in remotes] + [DiskOnNode(backing=at) for at in chains]
    disks = [
        ReplicationDisk(
            size_bytes=1 << 20,
            image=f"{n}",
            active_image=f"{n}.active",
            hidden_image=f"{n}.hidden",
            nodes={"alpha": part},
        )
        for n, part in enumerate(parts)
    ]
    machine = Machine(accelerator="tcg", cpu="qemu64")
    made = attrs.evolve(pair, nodes=(alpha, beta), disks=disks, machine=machine)
    found = (await _read(made, "qemu")).qemu
    assert found is not None
    expected = {f"block driver {name}" for name in ("iscsi", "nfs", "rbd", "http", "https")}
    assert expected == set(found.lacks)


# -- TLS ------------------------------------------------------------------------------------------


def _credentials(folder: Path, *addresses: str, valid: timedelta = timedelta(days=90)) -> X509:
    """Credentials of one node, whose server is good for some addresses."""
    made = folder / "made"
    made.mkdir()
    authority = Authority(made, "ca")
    server = authority.sign("server", *addresses, valid=valid)
    client = authority.sign("client", common_name="alpha")
    (folder / "ca-cert.pem").write_bytes(authority.cert.read_bytes())
    for end, signed in (("server", server), ("client", client)):
        (folder / f"{end}-cert.pem").write_bytes(signed.cert.read_bytes())
        (folder / f"{end}-key.pem").write_bytes(signed.key.read_bytes())
    return X509(folder=str(folder))


async def _tls_why(pair: ColoPair, tls: X509) -> str:
    found = (await _read(attrs.evolve(pair, tls=tls), "tls")).tls
    assert found is not None
    return found.why


async def test_good_certificates_tell_their_end_and_their_name(
    pair: ColoPair, tmp_path: Path
) -> None:
    """They are tried on each other in memory, as the two QEMUs would."""
    tls = _credentials(tmp_path, "127.0.0.1")
    found = (await _read(attrs.evolve(pair, tls=tls), "tls")).tls
    assert found is not None
    assert ("", "O=pycolo,CN=alpha") == (found.why, found.client_name)
    assert 88 * 86400 < found.server_ends_s - found.client_ends_s < 90 * 86400


async def test_certificate_for_another_address_is_refused(pair: ColoPair, tmp_path: Path) -> None:
    """The peer calls alpha by the address that is declared."""
    assert "IP address mismatch" in await _tls_why(pair, _credentials(tmp_path, "127.0.0.9"))


async def test_certificate_that_has_expired_is_refused(pair: ColoPair, tmp_path: Path) -> None:
    """Before QEMU refuses it, in the middle of a start."""
    tls = _credentials(tmp_path, "127.0.0.1", valid=timedelta(hours=-1))
    assert "the certificate of the server: certificate has expired" == await _tls_why(pair, tls)


async def test_certificate_of_another_authority_is_refused(pair: ColoPair, tmp_path: Path) -> None:
    """So is one that does not go with its key."""
    tls = _credentials(tmp_path, "127.0.0.1")
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "other").sign("server", "127.0.0.1")
    (tmp_path / "server-cert.pem").write_bytes(other.cert.read_bytes())
    assert "does not go with" in await _tls_why(pair, tls)
    (tmp_path / "server-key.pem").write_bytes(other.key.read_bytes())
    assert "the certificate of the server" in await _tls_why(pair, tls)


async def test_shared_key_is_told_apart_and_not_told(pair: ColoPair, tmp_path: Path) -> None:
    """The digest is not the key, and a key of another user is none."""
    keyed = attrs.evolve(pair, tls=Psk(folder=str(tmp_path)))
    digests = []
    for line in ("qemu:00ff", "qemu:00FF", "qemu:00fe", "other:00ff"):
        (tmp_path / "keys.psk").write_text(f"{line}\n", encoding="ascii")
        found = (await _read(keyed, "psk")).psk
        assert found is not None
        digests.append(found.digest)
    same, again, different, none = digests
    assert same == again != different
    assert ("", False) == (none, "00ff" in same)
    (file,) = (await _read(keyed, "files")).files or ()
    assert ("", 0o644) == (file.digest, file.mode)

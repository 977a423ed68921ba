"""The machines of the cookbook on real QEMU, with stand-ins for what this machine lacks."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs
import pytest
from tests.qemu.life import SIZE_BYTES, LivePair, bios_life, encrypting
from tests.qemu.test_life import kept
from tests.qemu.test_storage import block_devices
from tests.qemu.test_tls import psk, x509
from tests.real_qemu import build_of
from tests.test_cookbook import declared, sections

from pycolo.model import X509, ColoPair, DiskOnNode, Machine, Netdev, ReplicationDisk

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.heavy,
    pytest.mark.nightly,
    pytest.mark.timeout(300),
]
NODES: Final = ("alpha", "beta")
VARIABLES_BYTES: Final = 128 << 10


@pytest.mark.parametrize("name", sections())
async def test_a_machine_of_the_cookbook_outlives_its_primary(name: str) -> None:
    """It is launched, protected and promoted, with the hardware that its file declares."""
    machine = declared(name)
    with (
        tempfile.TemporaryDirectory(prefix="colo-", dir="/var/tmp") as folder,
        block_devices() as devices,
    ):
        async with bios_life(
            "11.1", "tcg", shape=lambda pair: _here(machine, pair, Path(folder), devices)
        ) as life:
            _make_encrypted(life)
            await life.launch("alpha", "beta")
            await kept(life, await life.run("start"))
            await life.keeps_running("alpha", "beta")
            await life.kill("alpha")
            await life.run("failover", survivor="beta")
            await life.keeps_running("beta")


def _here(machine: ColoPair, pair: ColoPair, folder: Path, devices: Mapping[str, str]) -> ColoPair:
    """A machine of the cookbook on the nodes, and with the guest, of this test."""
    memory = folder / "overlays"
    nodes = []
    for node, given in zip(pair.nodes, machine.nodes, strict=True):
        has_own = given.overlay_folder != given.image_folder
        place = memory / node.name if has_own else Path(node.image_folder)
        place.mkdir(parents=True, exist_ok=True)
        nodes.append(attrs.evolve(node, overlay_folder=str(place), vnc=given.vnc))
    nets = (Netdev(type="hubport", options={"hubid": str(n)}) for n in range(9))
    made = attrs.evolve(
        pair,
        nodes=nodes,
        spares=(),
        machine=_hardware(machine.machine, folder),
        disks=[_disk(disk, folder, devices) for disk in machine.disks],
        chains=[
            attrs.evolve(card, netdev=net, netdevs={})
            for card, net in zip(machine.chains, nets, strict=False)
        ],
        migration=machine.migration,
    )
    match machine.tls:
        case None:
            return made
        case X509():
            return x509(made)
        case _:
            return psk(made)


def _hardware(machine: Machine, folder: Path) -> Machine:
    """The same, but for the size of the RAM, huge pages, KVM, UEFI and the disc's content."""
    firmware, backend = machine.firmware, machine.memory_backend
    if firmware is not None:
        bios = next(build_of("11.1").prefix.rglob("bios-256k.bin"))
        variables = folder / "variables.fd"
        variables.write_bytes(b"\xff" * VARIABLES_BYTES)
        firmware = attrs.evolve(
            firmware,
            code=str(shutil.copy(bios, folder / "code.fd")),
            variables=str(variables),
            variables_bytes=VARIABLES_BYTES,
        )
    if backend is not None:
        backend = attrs.evolve(backend, huge_page_size_mib=None)
    return attrs.evolve(
        machine,
        memory_mib=64,
        accelerator="tcg",
        serial_log=True,
        firmware=firmware,
        memory_backend=backend,
        cdroms=[attrs.evolve(cdrom, image=_file(folder / "disc.iso")) for cdrom in machine.cdroms],
    )


def _disk(disk: ReplicationDisk, folder: Path, devices: Mapping[str, str]) -> ReplicationDisk:
    """The same, with the size of the guest's disk, a device of this machine and a key here."""
    if disk.driver == "host_device":
        places = {name: DiskOnNode(image=devices[name]) for name in NODES}
        disk = attrs.evolve(disk, nodes=places)
    if disk.secret_file is not None:
        key = folder / "key"
        key.write_text("not so secret", encoding="ascii")
        disk = attrs.evolve(disk, secret_file=str(key))
    return attrs.evolve(disk, size_bytes=SIZE_BYTES)


def _make_encrypted(life: LivePair) -> None:
    """Make the secondary's encrypted images beforehand: QEMU takes seconds over each."""
    node = life.pair.node("beta")
    for disk in life.pair.disks:
        if disk.secret_file is not None:
            for kind, path in disk.paths(node).items():
                # An overlay is a qcow2, whatever the image is.
                made = disk if kind == "image" else attrs.evolve(disk, image_format="qcow2")
                line = [node.qemu_img_binary, "create", "-q", "-f", made.image_format]
                subprocess.run([*line, *encrypting(made), path, str(SIZE_BYTES)], check=True)


def _file(path: Path) -> str:
    path.touch()
    os.truncate(path, SIZE_BYTES)
    return str(path)

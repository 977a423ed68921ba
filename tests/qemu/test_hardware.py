"""The guest's hardware on real QEMU: what lives through failovers, and what is refused before."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs
import pytest
from tests.qemu.life import (
    LIMIT_S,
    ON_RELEASES,
    Accelerator,
    LivePair,
    bios_life,
)
from tests.qemu.test_life import DEATHS, alone, kept, outlive
from tests.real_qemu import RELEASES, build_of

from pycolo.demo.builds import Release
from pycolo.errors import CompileError, HostRefused
from pycolo.facts import HostFacts, Part
from pycolo.hosts.local import LocalHost
from pycolo.model import (
    Cdrom,
    Channel,
    ColoPair,
    Device,
    DeviceObject,
    Firmware,
    Machine,
    Node,
    Vnc,
)
from pycolo.model.hardware import GuestDevice, Property
from pycolo.plan import CheckDevices

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]
VARIABLES_BYTES: Final = 128 << 10
MARK: Final = b"the variables of alpha"


# -- whole lives


async def outlive_both(life: LivePair) -> None:
    """Launch, protect, lose each side once, resume on a new node each time."""
    await life.launch("alpha", "beta")
    await kept(life, await life.run("start"))
    primary = await outlive(life, "alpha", "beta", DEATHS[:2])
    await life.keeps_running(primary, "delta")
    await life.image_follows(primary)


def full(release: Release, folder: Path) -> Machine:
    """All that a guest may have beside its disk and its card; SeaBIOS stands in for UEFI."""
    for name, content in (("image.iso", bytes(1 << 20)), ("variables.fd", b"")):
        (folder / name).write_bytes(content.ljust(VARIABLES_BYTES, b"\xff"))
    # Before 10.0 a disk in an iothread is refused.
    served: dict[str, Property] = {} if release == "7.2" else {"iothread": "io0"}
    firmware = next(build_of(release).prefix.rglob("bios-256k.bin"))
    return Machine(
        vcpus=2,
        cores=2,
        firmware=Firmware(
            code=str(shutil.copy(firmware, folder / "code.fd")),
            variables=str(folder / "variables.fd"),
            variables_bytes=VARIABLES_BYTES,
        ),
        objects=(
            DeviceObject(kind="iothread", id="io0"),
            DeviceObject(kind="rng-random", id="rng0", properties={"filename": "/dev/urandom"}),
        ),
        devices=(
            Device(
                driver="virtio-scsi-pci",
                id="scsi0",
                properties={"addr": "0x10", "num_queues": 1, **served},
            ),
            Device(driver="virtio-serial-pci"),
            Device(driver="virtio-rng-pci", properties={"rng": "rng0"}),
            Device(driver="virtio-balloon-pci"),
            Device(driver="i6300esb"),
            Device(driver="qemu-xhci", id="usb0"),
            Device(driver="usb-tablet", properties={"bus": "usb0.0"}),
            Device(driver="VGA"),
        ),
        cdroms=(Cdrom(image=str(folder / "image.iso")), Cdrom()),
        channels=(
            Channel(properties={"name": "org.qemu.guest_agent.0"}),
            Channel(device="isa-serial", properties={"index": 1}),
        ),
    )


def with_machine(pair: ColoPair, machine: Machine) -> ColoPair:
    """The pair of the BIOS guest with the hardware of another machine."""
    ours = pair.machine
    given = attrs.evolve(
        machine,
        memory_mib=ours.memory_mib,
        accelerator=ours.accelerator,
        cpu=ours.cpu,
        serial_log=ours.serial_log,
    )
    return attrs.evolve(pair, machine=given)


def with_disk(pair: ColoPair, device: str, **properties: Property) -> ColoPair:
    """The pair with another model of its disk."""
    disk = attrs.evolve(pair.disks[0], device=device, properties=properties)
    return attrs.evolve(pair, disks=(disk,))


def with_screens(pair: ColoPair) -> ColoPair:
    """The pair with a screen of each node's own: sockets, one TCP port, one password."""
    first, second = pair.nodes
    secret = Path(second.image_folder) / "vnc-password"
    secret.write_text("secret", encoding="ascii")
    other = Vnc(host=second.address, port=5977, password_file=str(secret))
    spares = tuple(attrs.evolve(node, vnc=Vnc()) for node in pair.spares)
    nodes = (attrs.evolve(first, vnc=Vnc()), attrs.evolve(second, vnc=other))
    return attrs.evolve(pair, nodes=nodes, spares=spares)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for what all nodes read."""
    with tempfile.TemporaryDirectory(prefix="colo-", dir="/var/tmp") as made:
        yield Path(made)


@pytest.mark.heavy
@ON_RELEASES
async def test_a_guest_with_all_hardware_outlives_both_sides(
    release: Release, accelerator: Accelerator, folder: Path
) -> None:
    """Controllers, firmware, channels, drives, screens: all at once, through two failovers."""

    def shape(pair: ColoPair) -> ColoPair:
        pair = with_screens(with_machine(pair, full(release, folder)))
        placed: dict[str, Property] = {"bus": "scsi0.0", "lun": 2, "scsi-id": 1}
        named: dict[str, Property] = {"serial": "a,b", "bootindex": 1}
        disk = attrs.evolve(pair.disks[0], device="scsi-hd", properties={**placed, **named})
        cards = tuple(
            attrs.evolve(
                card,
                model="virtio-net-pci",
                properties={"csum": False, "vectors": 3, "addr": "0x11", "bootindex": 2},
            )
            for card in pair.chains
        )
        return attrs.evolve(pair, disks=(disk,), chains=cards)

    async with bios_life(release, accelerator, shape=shape) as life:
        await outlive_both(life)
        for node in life.pair.nodes:
            for name in ("channel0", "channel1", "vnc"):
                if name != "vnc" or node.vnc == Vnc():
                    _connect(node.socket_path(name))


def _connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(LIMIT_S)
        client.connect(path)


@pytest.mark.heavy
@ON_RELEASES
async def test_both_nodes_have_the_same_firmware_variables(
    release: Release, accelerator: Accelerator, folder: Path
) -> None:
    """What is in the primary's flash gets into the secondary's own file (23.4)."""

    def shape(pair: ColoPair) -> ColoPair:
        return with_machine(pair, attrs.evolve(full(release, folder), cdroms=()))

    async with bios_life(release, accelerator, shape=shape) as life:
        own, other = (Path(life.pair.firmware_path(name)) for name in ("alpha", "beta"))
        _write(own, MARK.ljust(VARIABLES_BYTES, b"\xff"))
        await life.launch("alpha", "beta")
        assert MARK not in _read(other)
        await kept(life, await life.run("start"))
        assert _read(own) == _read(other)
        await life.kill("alpha")
        await alone(life, await life.run("failover", survivor="beta"), "beta")
        assert MARK in _read(other)


def _read(file: Path) -> bytes:
    return file.read_bytes()


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


# Disk models whose whole lives differ in where the guest's writes come from.
MODELS: Final[Mapping[str, tuple[Machine, str, Mapping[str, Property]]]] = {
    "ahci": (
        Machine(devices=(Device(driver="ahci", id="sata0"),)),
        "ide-hd",
        {"bus": "sata0.0"},
    ),
    "virtio-blk-iothread": (
        Machine(objects=(DeviceObject(kind="iothread", id="io0"),)),
        "virtio-blk-pci",
        {"iothread": "io0"},
    ),
    "virtio-blk-queues": (Machine(vcpus=2), "virtio-blk-pci", {"num-queues": 2}),
    "lsi": (
        Machine(devices=(Device(driver="lsi53c895a", id="scsi0"),)),
        "scsi-hd",
        {"bus": "scsi0.0"},
    ),
    "usb": (
        Machine(devices=(Device(driver="qemu-xhci", id="usb0"),)),
        "usb-storage",
        {"bus": "usb0.0"},
    ),
}


@pytest.mark.heavy
@pytest.mark.nightly
@pytest.mark.parametrize("model", MODELS)
@ON_RELEASES
async def test_a_guest_outlives_both_sides_on_each_disk(
    release: Release, accelerator: Accelerator, model: str
) -> None:
    """Whatever the guest's disk is, its writes are on the survivor's image."""
    if release == "7.2" and "iothread" in model:
        pytest.skip("a disk in an iothread is refused before 10.0 (qemu-behaviour 23.3)")
    machine, device, properties = MODELS[model]

    def shape(pair: ColoPair) -> ColoPair:
        return with_disk(with_machine(pair, machine), device, **properties)

    async with bios_life(release, accelerator, shape=shape) as life:
        await outlive_both(life)


@pytest.mark.nightly
@pytest.mark.heavy
async def test_a_guest_outlives_both_sides_on_nvme_and_q35() -> None:
    """From 11.1 on QEMU moves an NVMe disk, and a q35."""

    def shape(pair: ColoPair) -> ColoPair:
        machine = Machine(machine_type="q35", devices=(Device(driver="pcie-root-port"),))
        return with_disk(with_machine(pair, machine), "nvme", serial="n0")

    async with bios_life("11.1", "tcg", shape=shape) as life:
        await outlive_both(life)


@pytest.mark.parametrize("release", RELEASES)
async def test_a_device_that_cannot_be_moved_is_refused_before_anything_is_copied(
    release: Release,
) -> None:
    """QEMU names it in `blocked-reasons`, and `start` refuses by that (23.2)."""
    machine = Machine(devices=(Device(driver="qemu-xhci"), Device(driver="usb-wacom-tablet")))

    def shape(pair: ColoPair) -> ColoPair:
        return with_machine(pair, machine)

    async with bios_life(release, "tcg", shape=shape) as life:
        await life.launch("alpha", "beta")
        with pytest.raises(CompileError, match=r"non-migratable device: .*usb-wacom") as refused:
            await life.compile("start")
        assert ["not-migratable"] == [finding.code for finding in refused.value.findings]


# -- what a QEMU is asked before a launch


def _pair(release: Release, folder: Path) -> ColoPair:
    node = Node(
        name="alpha",
        address="127.0.0.1",
        image_folder=str(folder),
        qemu_binary=str(build_of(release).qemu_system),
    )
    other = attrs.evolve(node, name="beta", image_folder=f"{folder}/other")
    return ColoPair(name="colo", nodes=(node, other))


async def _checked(release: Release, folder: Path, driver: str, **told: Property) -> str:
    pair = _pair(release, folder)
    action = CheckDevices(devices=(GuestDevice(driver=driver, properties=told),))
    return await LocalHost().run(pair, "alpha", action, limit_s=LIMIT_S)


@pytest.mark.parametrize("release", RELEASES)
async def test_properties_that_qemu_has_are_known(release: Release, folder: Path) -> None:
    """A known device with properties of the right types passes (23.1)."""
    told: dict[str, Property] = {"bootindex": 1, "serial": "x", "addr": "0x8", "num-queues": 1}
    assert "" == await _checked(release, folder, "virtio-blk-pci", **told)


WRONG: Final[Mapping[str, tuple[str, dict[str, Property], str]]] = {
    "device": ("virtio-blk-pcie", {}, r"no device virtio-blk-pcie \(did you mean virtio-blk-pci"),
    "property": ("ide-hd", {"bootidx": 1}, r"no property bootidx \(did you mean bootindex"),
    "truth": ("virtio-net-pci", {"csum": "off"}, "csum of virtio-net-pci must be true or false"),
    "number": ("ide-hd", {"bootindex": "1"}, "bootindex of ide-hd must be a whole number"),
    "size": ("virtio-net-pci", {"vectors": -1}, "must be from 0 to 4294967295, not -1"),
    "text": ("ide-hd", {"serial": 1}, "serial of ide-hd must be a string"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("release", RELEASES)
async def test_what_qemu_does_not_know_is_refused(
    release: Release, folder: Path, case: str
) -> None:
    """A wrong device, property or type is told before a launch, with the nearest name (23.1)."""
    driver, told, said = WRONG[case]
    with pytest.raises(HostRefused, match=said):
        await _checked(release, folder, driver, **told)


async def test_a_check_names_all_that_qemu_does_not_know(folder: Path) -> None:
    """Each wrong device and property of a node; a pair without its own hardware has none (23.1)."""
    pair = _pair("11.1", folder)
    devices = (Device(driver="virtio-blk-pcie"), Device(driver="ide-hd", properties={"bootidx": 1}))
    wrong = attrs.evolve(pair, machine=Machine(devices=devices))

    async def refused(pair: ColoPair) -> tuple[str, ...] | None:
        parts: tuple[Part, ...] = ("devices",)
        read = await LocalHost().facts(pair, "alpha", parts, limit_s=LIMIT_S)
        assert isinstance(read, HostFacts)
        assert {} == read.unread
        return None if read.devices is None else read.devices.refused

    assert None is await refused(pair)
    assert () == await refused(attrs.evolve(pair, machine=Machine(devices=(Device(driver="VGA"),))))
    assert (
        "QEMU knows no device virtio-blk-pcie (did you mean virtio-blk-pci?)",
        "the device ide-hd has no property bootidx (did you mean bootindex?)",
    ) == await refused(wrong)


async def test_a_qemu_that_ends_on_a_question_is_left_to_the_launch(folder: Path) -> None:
    """7.2 aborts when it is asked about a device whose module is not installed (23.1)."""
    note = await _checked("7.2", folder, "virtio-gpu-gl-pci")
    assert note.startswith("not looked at from virtio-gpu-gl-pci on")

"""The guests do what is counted on: echo, acknowledge what is durable, count."""

import gzip
import json
import lzma
import os
import socket
import stat
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import pytest

from pycolo.demo import _initrd
from pycolo.demo.builds import RELEASES, FetchError, QemuBuild, Release
from pycolo.demo.guests import (
    DISK_PORT,
    ECHO_PORT,
    READY_LINE,
    RECORD_BYTES,
    LinuxGuest,
    acknowledged_in_image,
    bios_counter,
    bios_disk_counter,
    bios_guest,
    boot_sector,
    load_order,
)

StartQemu = Callable[..., "subprocess.Popen[str]"]
ACCELERATORS = ["tcg", "kvm"] if os.access("/dev/kvm", os.R_OK | os.W_OK) else ["tcg"]


def test_an_archive_reads_back_as_it_was_written() -> None:
    """Files, folders and device nodes keep their paths, modes, contents and numbers."""
    entries = (
        _initrd.folder("dev"),
        _initrd.character_device("dev/console", 5, 1),
        _initrd.program("init", b"#!/bin/sh\n"),
        _initrd.program("empty", b""),
    )
    assert entries == _initrd.from_newc(_initrd.to_newc(entries))


def test_an_archive_has_the_kernels_layout() -> None:
    """Magic number, hexadecimal fields and four-byte alignment are those of the newc format."""
    archive = _initrd.to_newc([_initrd.program("init", b"12345")])
    assert b"070701" == archive[:6]
    assert b"%08X" % (stat.S_IFREG | 0o755) == archive[14:22]
    assert b"%08X" % 5 == archive[54:62]
    assert b"init\0\0" == archive[110:116]
    assert b"12345" + bytes(3) + b"070701" == archive[116:130]
    assert 0 == len(archive) % 4


def test_what_is_no_archive_is_refused() -> None:
    """The error names the place and what is there."""
    with pytest.raises(ValueError, match="at byte 0 must hold a newc header"):
        _initrd.from_newc(b"0" * 200)


def test_the_same_archive_compresses_to_the_same_bytes() -> None:
    """No clock gets into the file, and what comes out is what went in."""
    compressed = _initrd.compressed(b"archive")
    assert b"\0\0\0\0" == compressed[4:8]
    assert b"archive" == gzip.decompress(compressed)


def test_modules_are_loaded_after_what_they_depend_on(tmp_path: Path) -> None:
    """Dependencies come first, each once, whether files are compressed or not."""
    contents = {
        "virtio_net": b"\0license=GPL\0depends=net-failover,virtio\0",
        "net_failover": b"\0depends=failover\0",
        "failover": b"\0depends=\0",
        "virtio": b"no information at all",
    }
    files = {name: tmp_path / f"{name}.ko.xz" for name in contents}
    for name, content in contents.items():
        files[name].write_bytes(lzma.compress(content))
    order = load_order(("virtio-net", "failover"), files)
    assert ["failover", "net_failover", "virtio", "virtio_net"] == list(order)
    assert contents == order


def test_a_module_that_is_missing_is_named() -> None:
    """A kernel without a driver is noticed when the guest is made, not when it boots."""
    with pytest.raises(FetchError, match="'e1000': not in the kernel package"):
        load_order(("e1000",), {})


def test_kernel_arguments_carry_one_address_for_each_card() -> None:
    """Cards are told apart by their order."""
    expected = (
        "console=ttyS0 panic=1 quiet pycolo.addr=10.1.0.2/24,10.2.0.2/24 pycolo.gateway=10.1.0.1"
    )
    two = ("10.1.0.2/24", "10.2.0.2/24")
    assert expected == LinuxGuest.kernel_arguments(addresses=two, gateway="10.1.0.1")
    asked = LinuxGuest.kernel_arguments(addresses=two, gateway="10.1.0.1", ipv6=True)
    assert f"{expected} pycolo.ipv6" == asked
    written = LinuxGuest.kernel_arguments(addresses=two, gateway="10.1.0.1", disks=2)
    assert f"{expected} pycolo.disks=2" == written


@pytest.mark.parametrize("disks", [1, 4])
def test_the_boot_sector_is_one_that_a_bios_starts(disks: int) -> None:
    """It has the size of a sector and ends with the signature, however many disks it writes to."""
    sector = boot_sector(disks)
    assert 512 == len(sector)
    assert b"\x55\xaa" == sector[-2:]


def test_the_bios_guests_image_has_the_size_asked_for(tmp_path: Path) -> None:
    """Its disk must be as large as the pair's disk is declared."""
    image = bios_guest(tmp_path / "bios.img", size_bytes=4096)
    assert 4096 == image.stat().st_size
    assert boot_sector() == image.read_bytes()[:512]
    assert 0 == bios_disk_counter(image)


@pytest.mark.parametrize("size_bytes", [512, 1500])
def test_a_size_that_is_no_disk_is_refused(size_bytes: int, tmp_path: Path) -> None:
    """The second sector must be there, and sectors are whole."""
    with pytest.raises(ValueError, match=f"not {size_bytes}"):
        bios_guest(tmp_path / "bios.img", size_bytes=size_bytes)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("serial_text", "expected"),
    [
        ("", None),
        ("SeaBIOS\r\n", None),
        ("00000009 \r\n0000000A \r\n0000", 10),
        ("0000000A \n0000000B!\n", 11),
    ],
)
def test_the_counter_is_read_from_complete_lines(serial_text: str, expected: int | None) -> None:
    """A line that is still being written does not count; a failed disk write does."""
    assert expected == bios_counter(serial_text)


@pytest.mark.qemu
def test_records_count_only_in_their_own_slot(
    tmp_path: Path, qemu_builds: Mapping[Release, QemuBuild]
) -> None:
    """A record is found in its slot, not in another, and not where it is damaged."""
    image = tmp_path / "disk.img"
    records = {0: b"record 8", 3: b"record 3", 4: b"record 3", 5: b"recor"}
    sectors = [records.get(slot, b"").ljust(RECORD_BYTES - 1) + b"\n" for slot in range(8)]
    image.write_bytes(b"".join(sectors))
    assert {3, 8} == acknowledged_in_image(image, qemu_builds["7.2"].qemu_img)


@pytest.mark.qemu
@pytest.mark.parametrize("accel", ACCELERATORS)
@pytest.mark.parametrize("release", RELEASES)
def test_the_bios_guest_counts_on_its_serial_port_and_its_disk(
    accel: str,
    release: Release,
    tmp_path: Path,
    qemu_builds: Mapping[Release, QemuBuild],
    start_qemu: StartQemu,
) -> None:
    """What it has printed, it has written before."""
    image = bios_guest(tmp_path / "bios.img")
    drive = ("-drive", f"file={image},format=raw,if=ide", "-serial", "stdio")
    process = start_qemu(qemu_builds[release], "-M", "pc", "-m", "64", *drive, accel=accel)
    text = _serial_until(process, "0000000A ")
    process.kill()
    process.wait()
    assert 10 == bios_counter(text)
    assert bios_disk_counter(image) >= 10


@pytest.mark.qemu
def test_the_bios_guest_counts_on_each_of_its_disks(
    tmp_path: Path, qemu_builds: Mapping[Release, QemuBuild], start_qemu: StartQemu
) -> None:
    """The disk that it is booted from and the next one have what it has printed."""
    image, other = bios_guest(tmp_path / "bios.img", disks=2), tmp_path / "other.img"
    other.touch()
    os.truncate(other, 1 << 20)
    drives = [
        word for path in (image, other) for word in ("-drive", f"file={path},format=raw,if=ide")
    ]
    process = start_qemu(qemu_builds["11.1"], "-M", "pc", "-m", "64", *drives, "-serial", "stdio")
    text = _serial_until(process, "0000000A ")
    process.kill()
    process.wait()
    assert "!" not in text.split("00000001", 1)[1]
    assert bios_disk_counter(image) >= 10
    assert bios_disk_counter(other) >= 10


@pytest.mark.qemu
@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "devices",
    [("rtl8139", "ide-hd"), ("e1000", "ide-hd"), ("virtio-net-pci", "virtio-blk-pci")],
)
def test_the_linux_guest_echoes_and_keeps_what_it_acknowledged(
    devices: tuple[str, str],
    tmp_path: Path,
    linux: LinuxGuest,
    qemu_builds: Mapping[Release, QemuBuild],
    start_qemu: StartQemu,
) -> None:
    """Two connections echo at once; after SIGKILL each acknowledged write is in the image."""
    card, disk = devices
    build = qemu_builds["11.1"]
    image = tmp_path / "disk.qcow2"
    subprocess.run([build.qemu_img, "create", "-q", "-f", "qcow2", image, "32M"], check=True)
    echo_port, disk_port = _free_ports()
    forwards = f"hostfwd=tcp:127.0.0.1:{echo_port}-:{ECHO_PORT}"
    forwards += f",hostfwd=tcp:127.0.0.1:{disk_port}-:{DISK_PORT}"
    process = start_qemu(
        build,
        *("-M", "pc", "-m", "128", "-serial", "stdio"),
        *("-kernel", str(linux.kernel), "-initrd", str(linux.initrd)),
        *("-append", LinuxGuest.kernel_arguments(addresses=("10.0.2.15/24",), gateway="10.0.2.2")),
        *("-netdev", f"user,id=n0,{forwards}", "-device", f"{card},netdev=n0"),
        *("-drive", f"file={image},if=none,id=d0", "-device", f"{disk},drive=d0"),
    )
    _serial_until(process, READY_LINE)
    with _Dialogue(echo_port) as first, _Dialogue(echo_port) as second:
        assert ["one", "two", "three"] == [
            first.ask("one"),
            second.ask("two"),
            first.ask("three"),
        ]
    with _Dialogue(disk_port) as service:
        answers = [service.ask(f"w {number}") for number in range(1, 41)]
        assert [f"ok {number}" for number in range(1, 41)] == answers
        process.kill()
        process.wait()
    assert set(range(1, 41)) == acknowledged_in_image(image, build.qemu_img)


@pytest.mark.qemu
@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_the_linux_guest_reads_its_records_back(
    tmp_path: Path,
    linux: LinuxGuest,
    qemu_builds: Mapping[Release, QemuBuild],
    start_qemu: StartQemu,
) -> None:
    """The disk service lists what is on the disk, and says where the disk cannot be read."""
    build = qemu_builds["11.1"]
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, 1 << 20)
    _, disk_port = _free_ports()
    process = start_qemu(
        build,
        *("-M", "pc", "-m", "128", "-serial", "stdio"),
        *("-kernel", str(linux.kernel), "-initrd", str(linux.initrd)),
        *("-append", LinuxGuest.kernel_arguments(addresses=("10.0.2.15/24",))),
        *("-netdev", f"user,id=n0,hostfwd=tcp:127.0.0.1:{disk_port}-:{DISK_PORT}"),
        *("-device", "rtl8139,netdev=n0", "-device", "ide-hd,drive=d0"),
        *("-blockdev", json.dumps(_unreadable_at(1000, image))),
    )
    _serial_until(process, "tick 1")
    with _Dialogue(disk_port) as service:
        assert ["ok 7", "ok 2050"] == [service.ask("w 7"), service.ask("w 2050")]
        answers = [service.ask("r"), *(service.next_line() for _ in range(3))]
    assert ["record 2050", "record 7", "end"] == [*answers[:2], answers[3]]
    assert answers[2].startswith("failed dd: ")


def _unreadable_at(sector: int, image: Path) -> Mapping[str, object]:
    """Declare a disk on which one sector cannot be read."""
    return {
        "driver": "blkdebug",
        "node-name": "d0",
        "image": {"driver": "file", "filename": str(image)},
        "inject-error": [{"event": "none", "iotype": "read", "errno": 5, "sector": sector}],
    }


class _Dialogue:
    """A connection on which lines are asked and answered."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._lines = self._socket.makefile("r")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, line: str) -> str:
        self._socket.sendall(f"{line}\n".encode())
        return self.next_line()

    def next_line(self) -> str:
        return self._lines.readline().rstrip("\n")


def _serial_until(process: "subprocess.Popen[str]", wanted: str) -> str:
    """Read the serial port until a line that begins with `wanted`; give all that was read."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith(wanted):
            return text
    raise AssertionError(f"QEMU ended without {wanted!r}: {text[-2000:]}")


def _free_ports() -> tuple[int, int]:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        return one.getsockname()[1], two.getsockname()[1]

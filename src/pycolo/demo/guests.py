"""Two guests that show whether fault tolerance works: a small Linux, and a 512-byte boot sector.

`linux_guest` echoes TCP, and acknowledges a disk write only when it is durable, so that a program
outside can count lost connections and lost writes. It needs TCG that can run Linux, or real KVM
(qemu-behaviour 1.8, 1.9).

`bios_guest` needs only a BIOS and runs wherever QEMU does. It counts on its serial port and on its
disk.
"""

import hashlib
import lzma
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, final

import attrs

from pycolo.demo import _initrd
from pycolo.demo._apt import (
    FetchError,
    PrivateApt,
    Progress,
    debian_mirror,
    require_amd64_and_apt,
    run_text,
    unpack,
)
from pycolo.demo.builds import complete_folder, default_cache

ECHO_PORT: Final = 7
"""TCP port on which the Linux guest sends back what it receives."""

DISK_PORT: Final = 9000
"""TCP port of the Linux guest's disk service; see `linux_guest`."""

DEFAULT_ADDRESS: Final = "10.77.0.2/24"
"""Address of the Linux guest's first network card if none is given."""

READY_LINE: Final = "pycolo: ready"
"""What the Linux guest writes to its serial port when its services listen."""

RECORD_BYTES: Final = 512
"""Size of one record that the disk service writes."""

MAX_SLOTS: Final = 32768
"""The most slots for records on the disk: record N is in slot N modulo the number of slots."""

# 6.1: the kernel on which behaviour under COLO was measured (qemu-behaviour 1.11, 17).
_KERNEL_SUITE: Final = "bookworm"
_CONVERT_LIMIT_S: Final = 120.0
_RECORD: Final = re.compile(rb"record (\d+) *\n")
_COUNTER_LINE: Final = re.compile(r"^([0-9A-F]{8})[ !]\r?\n", re.MULTILINE)
_MODULE_DEPENDS: Final = re.compile(rb"\0depends=([^\0]*)\0")
_MODULES: Final = (
    *("virtio_pci", "virtio_net", "e1000", "8139cp", "8139too"),
    *("e1000e", "igb", "vmxnet3", "tulip", "e100", "pcnet32", "ne2k_pci"),
    *("xhci_pci", "cdc_ether"),
    *("ata_piix", "ahci", "sd_mod", "virtio_blk"),
)

# PID 1. busybox's shell has all commands used here built in.
_INIT: Final = """\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module 2>/dev/null; done

addresses={default_address}
for word in $(cat /proc/cmdline); do
  case $word in
    pycolo.addr=*) addresses=${word#*=} ;;
    pycolo.gateway=*) gateway=${word#*=} ;;
    pycolo.ipv6) ipv6=1 ;;
    pycolo.disks=*) disks=${word#*=} ;;
  esac
done
# COLO fences IPv4 only (qemu-behaviour 17.2): this guest speaks nothing else unless it is asked to.
[ -n "$ipv6" ] || echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
ip link set lo up
card=0
for address in $(echo $addresses | tr , ' '); do
  ip addr add $address dev eth$card && ip link set eth$card up
  card=$((card + 1))
done
[ -z "$gateway" ] || ip route add default via $gateway

# As many -l as connections may be waiting; more than one also means: serve many, one process each.
nc -llllllllllllllll -p {echo_port} -e /bin/busybox cat &
nc -llllllllllllllll -p {disk_port} -e /bin/busybox sh /disk &

# Linux draws the secret of its TCP timestamps at the first TCP connection. Drawn under COLO it
# would differ in the two guests and connections would die at a failover (qemu-behaviour 17.8): so
# it is drawn here, before COLO.
until echo warm | timeout 5 nc -w 2 127.0.0.1 {echo_port} >/dev/null; do usleep 50000; done

for attempt in $(seq 100); do
  found=
  for disk in vda vdb sda sdb; do
    [ ! -b /dev/$disk ] || found="$found /dev/$disk"
  done
  echo $found | cut -d ' ' -f 1-${disks:-1} >/run/disks
  [ $(wc -w </run/disks) -lt ${disks:-1} ] || break
  [ -n "$(ls /sys/class/block)" ] || [ $attempt -lt 20 ] || break
  usleep 100000
done
echo "{ready}"
tick=0
while :; do
  echo "tick $tick"
  tick=$((tick + 1))
  sleep 1
done
"""

# One connection to the disk service. A write is answered after the flushes of all disks have ended.
_DISK_SERVICE: Final = """\
disks=$(cat /run/disks 2>/dev/null)
first=${disks%% *}
sectors=$(cat /sys/class/block/${first#/dev/}/size 2>/dev/null)
sectors=${sectors:-1}  # without a disk every write answers `failed`
slots=$((sectors < {max_slots} ? sectors : {max_slots}))
while read -r verb number; do
  case $verb in
    w)
      answer=failed
      for disk in $disks; do
        if printf '%-511s\\n' "record $number" |
          dd of=$disk bs={record_bytes} seek=$((number % slots)) conv=notrunc,fsync 2>/dev/null
        then answer=ok
        else answer=failed; break
        fi
      done
      echo "$answer $number" ;;
    r)
      # Read the disk, not what memory remembers of it.
      echo 1 >/proc/sys/vm/drop_caches
      {
        dd if=$first bs=64k count=$((slots * {record_bytes} / 65536 + 1)) 2>/run/dd.$$ ||
          echo "failed $(head -n 1 /run/dd.$$)"
      } | tr -d '\\0' | grep -o '^record [0-9]*\\|^failed.*'
      echo end ;;
    *) echo "unknown $verb" ;;
  esac
done
"""


@final
@attrs.frozen(kw_only=True)
class LinuxGuest:
    """The files QEMU boots the Linux guest from."""

    kernel: Path
    """For `-kernel`."""
    initrd: Path
    """For `-initrd`."""

    @staticmethod
    def kernel_arguments(
        *,
        addresses: Sequence[str] = (DEFAULT_ADDRESS,),
        gateway: str = "",
        ipv6: bool = False,
        disks: int = 1,
    ) -> str:
        """Make the kernel's command line, for QEMU's option `-append`.

        Args:
            addresses: IPv4 address and prefix length of each network card, in the order of the
                cards.
            gateway: IPv4 address of the default router; no default route if empty.
            ipv6: Also serve on each card's link-local IPv6 address. COLO does not hold back replies
                over IPv6.
            disks: How many disks the guest waits for and writes each record to, 1 to 4.

        Returns:
            The kernel's command line: console on the first serial port, reboot 1 s after a panic.
        """
        route = f" pycolo.gateway={gateway}" if gateway else ""
        others = " pycolo.ipv6" if ipv6 else ""
        others += f" pycolo.disks={disks}" if disks > 1 else ""
        return f"console=ttyS0 panic=1 quiet pycolo.addr={','.join(addresses)}{route}{others}"


def linux_guest(
    cache: Path | None = None, mirror: str | None = None, *, on_progress: Progress = lambda _: None
) -> LinuxGuest:
    """Return the Linux guest; make it from Debian's kernel and busybox if the cache lacks it.

    The guest needs 128 MB of memory, `-kernel` and `-initrd`. It has drivers for the network cards
    rtl8139, e1000 and virtio-net, and for IDE, AHCI and virtio-blk disks. It answers ICMP, echoes
    TCP on `ECHO_PORT`, writes `READY_LINE` and then one line `tick N` a second to its serial port.
    On `DISK_PORT` each connection is a dialogue of lines:

    - `w N` writes record N to each disk, flushes it, and then answers `ok N` (or `failed N`);
    - `r` answers one line `record N` for each record read from the first disk, then one line
      `failed WHY` if the disk could not be read to its end, then `end`.

    The call blocks: some milliseconds if the cache has the guest, else a few seconds for about 75
    MB.

    Args:
        cache: Folder that keeps guests; `default_cache()` when None.
        mirror: URI of a Debian archive; when None, `PYCOLO_DEBIAN_MIRROR` or this machine's own apt
            sources.
        on_progress: Called with what is being done.

    Returns:
        The guest's files.

    Raises:
        FetchError: As for `fetch`; the cache holds no part of the guest then.
    """
    folder = (cache or default_cache()).absolute() / f"guest-{_recipe_digest()}"
    with complete_folder(folder, on_progress=on_progress) as partial:
        if partial is not None:
            _make_linux_guest(partial, mirror, on_progress)
    return LinuxGuest(kernel=folder / "vmlinuz", initrd=folder / "initrd.gz")


def acknowledged_in_image(image: Path, qemu_img: Path) -> frozenset[int]:
    """Read which records of the Linux guest's disk service are in a disk image.

    No QEMU may be using the image. A record replaces an earlier one in the same slot: see
    `MAX_SLOTS`. Meanwhile a raw copy of the image is in the folder for temporary files.

    Args:
        image: A disk image of any format QEMU knows, with its backing files.
        qemu_img: The `qemu-img` program.

    Returns:
        The numbers of the records found in their slots.

    Raises:
        FetchError: qemu-img could not read the image, or needed more than 120 s.
    """
    with tempfile.TemporaryDirectory(prefix="pycolo-") as scratch:
        raw = Path(scratch, "disk.raw")
        run_text(
            [str(qemu_img), "convert", "-O", "raw", str(image), str(raw)], limit_s=_CONVERT_LIMIT_S
        )
        return frozenset(_records(raw))


def bios_guest(path: Path, *, size_bytes: int = 1 << 20, disks: int = 1) -> Path:
    """Write a raw disk image that boots a guest which counts on its serial port and on its disk.

    At each tick of the BIOS clock (18.2 a second) the guest adds one to its counter, writes the
    counter to the second sector of the disk it was booted from and of those that the BIOS numbers
    after it, and prints it on COM1. It powers off when its power button is pressed (qemu-behaviour
    1.10).

    Args:
        path: The path of the image; an existing file is replaced.
        size_bytes: Size of the image: a multiple of 512, at least 1024.
        disks: How many disks the guest has and writes to, 1 to 4.

    Returns:
        `path`.

    Raises:
        ValueError: `size_bytes` is too small or not a multiple of 512; nothing was written.
    """
    if size_bytes < 2 * RECORD_BYTES or size_bytes % RECORD_BYTES:
        raise ValueError(
            f"size_bytes must be a multiple of 512 and at least 1024, not {size_bytes}"
        )
    with path.open("wb") as image:
        image.write(boot_sector(disks))
        image.truncate(size_bytes)
    return path


def bios_counter(serial_text: str) -> int | None:
    """Find the last number that the BIOS guest has printed.

    Args:
        serial_text: The guest's output on its serial port so far; an incomplete last line is
            ignored.

    Returns:
        The number; None if the guest has printed none yet.
    """
    found = _COUNTER_LINE.findall(serial_text)
    return int(found[-1], 16) if found else None


def bios_disk_counter(image: Path) -> int:
    """Read the counter that the BIOS guest wrote to its disk.

    Args:
        image: A raw image that `bios_guest` made, or a raw copy of one.

    Returns:
        The counter; 0 when it was never written.
    """
    with image.open("rb") as file:
        file.seek(RECORD_BYTES)
        return int.from_bytes(file.read(4), "little")


def _recipe_digest() -> str:
    recipe = repr((_KERNEL_SUITE, _MODULES, _init(), _disk_service()))
    return hashlib.sha256(recipe.encode()).hexdigest()[:8]


def _init() -> str:
    return (
        _INIT.replace("{default_address}", DEFAULT_ADDRESS)
        .replace("{echo_port}", str(ECHO_PORT))
        .replace("{disk_port}", str(DISK_PORT))
        .replace("{ready}", READY_LINE)
    )


def _disk_service() -> str:
    return _DISK_SERVICE.replace("{max_slots}", str(MAX_SLOTS)).replace(
        "{record_bytes}", str(RECORD_BYTES)
    )


def _make_linux_guest(partial: Path, mirror: str | None, on_progress: Progress) -> None:
    require_amd64_and_apt()
    scratch = partial / "apt"
    apt = PrivateApt.create(
        scratch, mirror=mirror or debian_mirror(), suites=(_KERNEL_SUITE,), on_progress=on_progress
    )
    # The generic kernel: the cloud kernel has no driver for rtl8139 and e1000 (qemu-behaviour
    # 1.11).
    kernel_package = apt.first_dependency("linux-image-amd64")
    root = scratch / "root"
    unpack(apt.download_alone((kernel_package, "busybox-static")), root)
    on_progress("packing the initial RAM disk")
    modules = load_order(_MODULES, _module_files(root))
    shutil.move(_only(root.glob("boot/vmlinuz-*"), root), partial / "vmlinuz")
    archive = _initrd.to_newc(_initrd_entries(_only(root.glob("*bin/busybox"), root), modules))
    (partial / "initrd.gz").write_bytes(_initrd.compressed(archive))
    shutil.rmtree(scratch)


def _only(found: Iterable[Path], root: Path) -> Path:
    paths = list(found)
    if len(paths) != 1:
        raise FetchError(
            f"kernel and busybox packages below {root}: expected one file, found {paths}"
        )
    return paths[0]


def _initrd_entries(busybox: Path, modules: Mapping[str, bytes]) -> Iterator[_initrd.Entry]:
    for name in ("bin", "dev", "modules", "proc", "run", "sys"):
        yield _initrd.folder(name)
    # The kernel opens /dev/console for PID 1 before anything is mounted.
    yield _initrd.character_device("dev/console", 5, 1)
    yield _initrd.program("bin/busybox", busybox.read_bytes())
    yield _initrd.program("init", _init().encode())
    yield _initrd.program("disk", _disk_service().encode())
    yield _initrd.program("modules/order", "".join(f"{name}\n" for name in modules).encode())
    for name, content in modules.items():
        yield _initrd.program(f"modules/{name}", content)


def _module_files(root: Path) -> dict[str, Path]:
    found = [*root.glob("lib/modules/**/*.ko"), *root.glob("lib/modules/**/*.ko.xz")]
    found += [*root.glob("usr/lib/modules/**/*.ko"), *root.glob("usr/lib/modules/**/*.ko.xz")]
    return {_module_name(path.name.partition(".")[0]): path for path in found}


def load_order(wanted: Sequence[str], files: Mapping[str, Path]) -> dict[str, bytes]:
    """Sort kernel modules and all their dependencies into an order in which they can be loaded.

    Debian makes modules.dep only when a kernel is installed, so the dependencies are read from the
    modules themselves.

    Args:
        wanted: Names of modules.
        files: Where each module is, by name with underscores; `.ko` or `.ko.xz`.

    Returns:
        The modules' contents, uncompressed, by name; each module comes after its dependencies.

    Raises:
        FetchError: There is no file for a wanted module or a dependency.
    """
    ordered: dict[str, bytes] = {}
    for name in wanted:
        _add_module(_module_name(name), files, ordered)
    return ordered


def _add_module(name: str, files: Mapping[str, Path], ordered: dict[str, bytes]) -> None:
    if name in ordered:
        return
    if name not in files:
        raise FetchError(f"kernel module {name!r}: not in the kernel package")
    content = files[name].read_bytes()
    if files[name].suffix == ".xz":
        content = lzma.decompress(content)
    depends = _MODULE_DEPENDS.search(content)
    for dependency in (depends[1].decode() if depends else "").split(","):
        if dependency:
            _add_module(_module_name(dependency), files, ordered)
    ordered[name] = content


def _module_name(name: str) -> str:
    return name.replace("-", "_")


def _records(raw: Path) -> Iterator[int]:
    size_bytes = raw.stat().st_size
    slots = min(size_bytes // RECORD_BYTES, MAX_SLOTS)
    with raw.open("rb") as file:
        for slot in range(slots):
            found = _RECORD.match(file.read(RECORD_BYTES))
            if found is not None and int(found[1]) % slots == slot:
                yield int(found[1])


def boot_sector(disks: int = 1) -> bytes:
    """Assemble the BIOS guest.

    Args:
        disks: How many disks it writes to, 1 to 4.

    Returns:
        512 bytes with the boot signature at the end.
    """
    code = bytearray(b"\xeb")  # jmp short over the subroutine:
    subroutine = b"".join(_PRINT)
    code += bytes([len(subroutine)]) + subroutine
    code += b"".join(_SET_UP)
    each_tick = len(code)
    code += b"".join(_WAIT_AND_WRITE)
    for further in range(1, disks):
        code += b"".join(_WRITE_FURTHER).replace(_FURTHER, bytes([further]))
    code += b"".join(_OBEY_BUTTON)
    code += bytes.fromhex("66 8B1E 0080")  # mov ebx, [counter]
    code += bytes.fromhex("B9 0800")  # mov cx, 8: hexadecimal digits
    each_digit = len(code)
    code += bytes.fromhex("66 C1C3 04")  # rol ebx, 4: the highest digit comes lowest
    code += bytes.fromhex("88D8 240F")  # mov al, bl; and al, 15
    code += bytes.fromhex("3C0A 1C69 2F")  # cmp al, 10; sbb al, 0x69; das: number to ASCII digit
    code += _back_to(0xE8, _PRINT_AT, code)  # call print
    code += _back_to(0xE2, each_digit, code)  # loop each_digit
    code += bytes.fromhex("A0 0182 0420")  # mov al, [failed]; add al, ' ': a space, or "!"
    code += _back_to(0xE8, _PRINT_AT, code)
    for character in b"\r\n":
        code += bytes([0xB0, character])  # mov al, character
        code += _back_to(0xE8, _PRINT_AT, code)
    code += _back_to(0xE9, each_tick, code)  # jmp each_tick
    return bytes(code.ljust(RECORD_BYTES - 2, b"\0")) + b"\x55\xaa"


# The BIOS guest, in bytes of 16-bit code that runs at 0x7C00. Its variables lie where the BIOS
# leaves memory free: 0x8000 a sector that begins with the counter, 0x8200 the drive, 0x8201 whether
# the last write failed, 0x8210 the packet that describes a write. The BIOS itself adds one to the
# word at 0x046C at each tick of its clock.
_PRINT_AT: Final = 2
_PRINT: Final = (  # the character in al, to COM1
    bytes.fromhex("88C4"),  # mov ah, al
    bytes.fromhex("BA FD03 EC A820 74FB"),  # until bit 5 of port 0x3FD is set: room for a character
    bytes.fromhex("88E0 BA F803 EE C3"),  # mov al, ah; out 0x3F8, al; ret
)
_SET_UP: Final = (
    bytes.fromhex("FA 31C0 8ED8 8EC0 8ED0 BC 007C FB"),  # all segments 0, stack below the code
    bytes.fromhex("8816 0082"),  # mov [drive], dl: the BIOS says where it booted from
    bytes.fromhex("66 C706 0080 00000000"),  # counter = 0
    # The packet of an extended write: 16 bytes long, 1 sector, from 0000:8000, to sector 1.
    bytes.fromhex("66 C706 1082 10000100"),
    bytes.fromhex("66 C706 1482 00800000"),
    bytes.fromhex("66 C706 1882 01000000"),
    bytes.fromhex("66 C706 1C82 00000000"),
    bytes.fromhex("BA 0206 B8 0001 EF"),  # mov dx, 0x602; mov ax, 0x100; out dx, ax: the button
)
_WAIT_AND_WRITE: Final = (
    bytes.fromhex("A1 6C04 F4 3B06 6C04 74F9"),  # mov ax, [ticks]; hlt until the word is another
    bytes.fromhex("66 FF06 0080"),  # inc dword [counter]
    bytes.fromhex("BE 1082 8A16 0082 B8 0043 CD13"),  # int 13h, function 43h: write by that packet
    bytes.fromhex("0F92 06 0182"),  # setc [failed]
)
_FURTHER: Final = b"\xff"
_WRITE_FURTHER: Final = (
    bytes.fromhex("BE 1082 8A16 0082 80C2"),  # mov si, packet; mov dl, [drive]; add dl,
    _FURTHER,  # how many drives after the first
    bytes.fromhex("B8 0043 CD13"),  # the same write to that drive
    bytes.fromhex("7305 C606 0182 01"),  # jnc over; mov byte [failed], 1
)
# On QEMU's PC machines SeaBIOS puts the power management at port 0x600: its events, at 0x602 which
# of them are on, and at 0x604 its control.
_OBEY_BUTTON: Final = (
    bytes.fromhex("BA 0006 ED F6C4 01 7407"),  # mov dx, 0x600; in ax, dx; test ah, 1; jz over
    bytes.fromhex("BA 0406 B8 0020 EF"),  # mov dx, 0x604; mov ax, 0x2000; out dx, ax: power off
)


def _back_to(opcode: int, target: int, code: bytearray) -> bytes:
    """Encode a jump or call from the end of `code` back to `target`."""
    width = 1 if opcode == 0xE2 else 2  # noqa: PLR2004 - `loop` has a short distance
    distance = target - (len(code) + 1 + width)
    return bytes([opcode]) + distance.to_bytes(width, "little", signed=True)

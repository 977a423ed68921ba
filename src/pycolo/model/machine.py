"""The virtual machine that both QEMUs emulate; declared once, so it is equal on both nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, TypeAlias, final, get_args

import attrs

from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules
from pycolo.model.hardware import FIRMWARE_IDS, Cdrom, Channel, Device, DeviceObject, Firmware
from pycolo.model.memory import MemoryBackend

Accelerator: TypeAlias = Literal["kvm", "tcg"]
MEMORY_MAX_MIB = 16 * 1024 * 1024
# The sizes that KVM accepts: powers of two, above the entries that it reserves for itself.
DIRTY_RING_SIZES = tuple(1 << power for power in range(10, 17))

# The options that may be added to a node's command line. The forbidden parts of values are to keep
# them from opening a monitor or a disk, from writing a file, from waiting for a client, and from
# giving one side hardware of its own.
OPTIONS: Mapping[str, tuple[str, ...] | None] = {
    "-action": ("shutdown=pause", "panic=pause"),
    "-bios": (),
    "-boot": (),
    "-display": ("p2p=", "unix:", "vc", "vnc", "spice", "dbus"),
    "-fw_cfg": ("file=",),
    "-global": ("filename",),
    "-k": (),
    "-no-reboot": None,
    "-nodefaults": None,
    "-numa": (),
    "-overcommit": (),
    "-rtc": (),
    "-sandbox": (),
    "-serial": (
        *("mon:", "tcp:", "udp:", "telnet:", "tn3270:", "websocket:", "unix:"),
        *("file:", "pipe:", "/dev/", "chardev:"),
    ),
    "-smbios": ("file=", "path="),
    "-usb": None,
    "-uuid": (),
    "-vga": (),
    "-watchdog-action": ("pause",),
}
"Option to the texts that its value must not contain; None for an option without a value."

_cpus = rules.Valid(rules.Optional(rules.Whole(1, 255)))


# One converter for each kind, because type checkers cannot follow a generic one.
def _objects(objects: Iterable[DeviceObject]) -> tuple[DeviceObject, ...]:
    return tuple(objects)


def _devices(devices: Iterable[Device]) -> tuple[Device, ...]:
    return tuple(devices)


def _cdroms(cdroms: Iterable[Cdrom]) -> tuple[Cdrom, ...]:
    return tuple(cdroms)


def _channels(channels: Iterable[Channel]) -> tuple[Channel, ...]:
    return tuple(channels)


def _dirty_ring(field: str, value: object) -> None:
    if not isinstance(value, int) or value not in DIRTY_RING_SIZES:
        known = ", ".join(map(str, DIRTY_RING_SIZES))
        raise DeclarationError(field, value, f"be one of {known}, as KVM asks")


@final
@attrs.frozen(kw_only=True)
class Machine:
    """The guest's hardware without its disks and cards.

    Args:
        memory_mib: RAM of the guest in MiB, from 1; the secondary needs twice that
            (qemu-behaviour 3.11).
        memory_backend: The kind of memory on the host for the RAM; None leaves it to QEMU, which
            takes anonymous memory page by page when the guest first writes to it.
        dirty_ring_size: With KVM, from QEMU 11.0 on: keep the pages that a CPU has changed in a
            ring of so many entries, 1024 to 65536, in place of a bitmap of the whole RAM. The
            first checkpoint is then as short as the others. Nobody has run every procedure of a
            pair with it on real KVM: try it before you rely on it (qemu-behaviour 22.3). None for
            the bitmap.
        vcpus: Virtual CPUs, 1 to 255.
        sockets: Processor sockets, 1 to 255. If `sockets`, `cores` or `threads` is given, `vcpus`
            must be the product of the three, and one that is absent counts as 1. Without them QEMU
            decides.
        cores: Cores of a socket, 1 to 255.
        threads: Threads of a core, 1 to 255.
        accelerator: `kvm` or `tcg`. TCG is for trials: a guest may not work after a failover
            (qemu-behaviour 1.12).
        machine_type: QEMU's machine type; `q35` needs QEMU 11.0 (qemu-behaviour 2.4).
        cpu: QEMU's CPU model with its flags; None leaves it to QEMU.
        firmware: Firmware in flash chips, such as UEFI; None for the machine's own BIOS.
        objects: Objects that devices, disks and cards name in their properties, such as an
            iothread.
        devices: Further devices, such as controllers, in the order in which they are made: they
            come before the cards and the disks.
        cdroms: CD-ROM drives, made after the disks.
        channels: Ports that lead to a socket on each node, such as a guest agent's; made last.
        kernel: Absolute path of a kernel to boot directly, on both nodes; None boots from disk.
        initrd: Absolute path of its initial RAM disk.
        append: The kernel's command line.
        serial_log: Write the first serial port to `serial.log` in the run directory.
        arguments: Further arguments, word by word, for settings without a field here, such as the
            RTC: options of `OPTIONS` with their values. An option that opens a monitor or a disk,
            or writes a file, is refused. A file that QEMU only reads, as with `-bios`, must be the
            same on both nodes. `-no-shutdown` is refused as well: with it a guest that was powered
            off seems protected, and the next checkpoint runs it again (qemu-behaviour 19.3).

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    memory_mib: int = attrs.field(
        default=512, validator=rules.Valid(rules.Whole(1, MEMORY_MAX_MIB))
    )
    memory_backend: MemoryBackend | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.instance_of(MemoryBackend)))
    )
    dirty_ring_size: int | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(_dirty_ring))
    )
    vcpus: int = attrs.field(default=1, validator=rules.Valid(rules.Whole(1, 255)))
    sockets: int | None = attrs.field(default=None, validator=_cpus)
    cores: int | None = attrs.field(default=None, validator=_cpus)
    threads: int | None = attrs.field(default=None, validator=_cpus)
    accelerator: Accelerator = attrs.field(
        default="kvm", validator=rules.Valid(rules.one_of(*get_args(Accelerator)))
    )
    machine_type: str = attrs.field(default="pc", validator=rules.Valid(rules.text))
    cpu: str | None = attrs.field(default=None, validator=rules.Valid(rules.Optional(rules.text)))
    firmware: Firmware | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.instance_of(Firmware)))
    )
    objects: tuple[DeviceObject, ...] = attrs.field(
        default=(),
        converter=_objects,
        validator=rules.Valid(rules.Each(rules.instance_of(DeviceObject))),
    )
    devices: tuple[Device, ...] = attrs.field(
        default=(), converter=_devices, validator=rules.Valid(rules.Each(rules.instance_of(Device)))
    )
    cdroms: tuple[Cdrom, ...] = attrs.field(
        default=(), converter=_cdroms, validator=rules.Valid(rules.Each(rules.instance_of(Cdrom)))
    )
    channels: tuple[Channel, ...] = attrs.field(
        default=(),
        converter=_channels,
        validator=rules.Valid(rules.Each(rules.instance_of(Channel))),
    )
    kernel: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.absolute_path))
    )
    initrd: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.absolute_path))
    )
    append: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.text))
    )
    serial_log: bool = attrs.field(default=False, validator=rules.Valid(rules.boolean))
    arguments: tuple[str, ...] = attrs.field(
        default=(), converter=rules.as_tuple, validator=rules.Valid(rules.Each(rules.text))
    )

    def __attrs_post_init__(self) -> None:
        self._check_arguments()
        self._check_memory()
        self._check_processors()
        for name in ("initrd", "append"):
            if getattr(self, name) is not None and self.kernel is None:
                rule = "go with a kernel"
                raise DeclarationError(f"Machine.{name}", getattr(self, name), rule)

    def _check_memory(self) -> None:
        page_mib = self.memory_backend.huge_page_size_mib if self.memory_backend else None
        if page_mib is not None and self.memory_mib % page_mib:
            rule = f"be a multiple of memory_backend.huge_page_size_mib ({page_mib})"
            raise DeclarationError("Machine.memory_mib", self.memory_mib, rule)
        if self.dirty_ring_size is not None and self.accelerator != "kvm":
            rule = "go with accelerator kvm: the ring is KVM's"
            raise DeclarationError("Machine.dirty_ring_size", self.dirty_ring_size, rule)

    @property
    def channel_ids(self) -> tuple[str, ...]:
        """QEMU's names for the sockets of its channels, in order."""
        return tuple(f"channel{n}" for n, _ in enumerate(self.channels))

    @property
    def cdrom_ids(self) -> tuple[str, ...]:
        """QEMU's names for the images of its CD-ROM drives, in order."""
        return tuple(f"cdrom{n}" for n, _ in enumerate(self.cdroms))

    def ids(self) -> Iterator[tuple[str, str]]:
        """The ids and block node names of its parts, each after the field that it comes from."""
        for n, item in enumerate(self.objects):
            yield f"machine.objects[{n}].id", item.id
        for n, device in enumerate(self.devices):
            if device.id is not None:
                yield f"machine.devices[{n}].id", device.id
        for n, name in enumerate(self.cdrom_ids):
            yield f"machine.cdroms[{n}]", name
        for n, name in enumerate(self.channel_ids):
            yield f"machine.channels[{n}]", name
        if self.firmware is not None:
            yield from (("machine.firmware", name) for name in FIRMWARE_IDS)

    def _check_processors(self) -> None:
        product = (self.sockets or 1) * (self.cores or 1) * (self.threads or 1)
        if self.processors and product != self.vcpus:
            shape = ", ".join(f"{name} = {count}" for name, count in self.processors.items())
            rule = f"be {product}, the product of {shape}"
            raise DeclarationError("Machine.vcpus", self.vcpus, rule)

    @property
    def processors(self) -> Mapping[str, int]:
        """The declared numbers of sockets, cores and threads, by these names."""
        counts = {"sockets": self.sockets, "cores": self.cores, "threads": self.threads}
        return {name: count for name, count in counts.items() if count is not None}

    def _check_arguments(self) -> None:
        words = iter(enumerate(self.arguments))
        for place, word in words:
            field = f"Machine.arguments[{place}]"
            # QEMU accepts an option with one dash or two.
            option = word.replace("--", "-", 1) if word.startswith("--") else word
            if option not in OPTIONS:
                rule = f"be one of {', '.join(OPTIONS)}: the rest is the pair's, or not safe"
                raise DeclarationError(field, word, rule)
            refused = OPTIONS[option]
            if refused is None:
                continue
            after, value = next(words, (place, ""))
            if not value or value.startswith("-"):
                raise DeclarationError(field, word, "be followed by its value")
            for part in refused:
                if part in value:
                    rule = f"not contain {part!r}"
                    raise DeclarationError(f"Machine.arguments[{after}]", value, rule)

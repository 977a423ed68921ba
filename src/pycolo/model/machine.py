"""The virtual machine both QEMUs emulate: equal on both nodes by construction."""

from __future__ import annotations

from typing import Literal, final

import attrs

from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules

# What the command line of a node already carries, or what would let a second writer in.
OWNED_OPTIONS = frozenset(
    {"-S", "-name", "-qmp", "-qmp-pretty", "-monitor", "-mon", "-incoming", "-loadvm", "-snapshot"}
    | {"-daemonize", "-pidfile", "-m", "-smp", "-cpu", "-accel", "-enable-kvm", "-machine", "-M"}
    | {"-kernel", "-initrd", "-append", "-netdev", "-nic", "-net", "-chardev", "-object"}
    | {"-blockdev", "-drive", "-hda", "-hdb", "-hdc", "-hdd", "-cdrom", "-device"}
)
MEMORY_MAX_MIB = 16 * 1024 * 1024


def _argument(field: str, value: object) -> None:
    rules.text(field, value)
    # QEMU takes an option with one dash or two.
    if str(value).replace("--", "-", 1) in OWNED_OPTIONS:
        raise DeclarationError(field, value, "not be an option that the pair itself sets")


@final
@attrs.frozen(kw_only=True)
class Machine:
    """The guest's hardware without its disks and cards.

    Args:
        memory_mib: RAM of the guest in MiB, from 1; the secondary needs twice that
            (qemu-behaviour 3.11).
        vcpus: Virtual CPUs, 1 to 255.
        accelerator: `kvm` or `tcg`.
        machine_type: QEMU's machine type; `q35` needs QEMU 11.0 (qemu-behaviour 2.4).
        cpu: QEMU's CPU model with its flags; None leaves it to QEMU.
        devices: Further `-device` arguments, one string each, in QEMU's syntax.
        kernel: Absolute path of a kernel to boot directly, on both nodes; None boots from disk.
        initrd: Absolute path of its initial RAM disk.
        append: The kernel's command line.
        serial_log: Write the first serial port to `serial.log` in the run directory.
        arguments: Further arguments, word by word, for what has no field here (display, RTC);
            options that the pair itself sets are refused.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    memory_mib: int = attrs.field(
        default=512, validator=rules.Valid(rules.Whole(1, MEMORY_MAX_MIB))
    )
    vcpus: int = attrs.field(default=1, validator=rules.Valid(rules.Whole(1, 255)))
    accelerator: Literal["kvm", "tcg"] = attrs.field(
        default="kvm", validator=rules.Valid(rules.one_of("kvm", "tcg"))
    )
    machine_type: str = attrs.field(default="pc", validator=rules.Valid(rules.text))
    cpu: str | None = attrs.field(default=None, validator=rules.Valid(rules.Optional(rules.text)))
    devices: tuple[str, ...] = attrs.field(
        default=(), converter=rules.as_tuple, validator=rules.Valid(rules.Each(rules.text))
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
        default=(), converter=rules.as_tuple, validator=rules.Valid(rules.Each(_argument))
    )

    def __attrs_post_init__(self) -> None:
        for name in ("initrd", "append"):
            if getattr(self, name) is not None and self.kernel is None:
                rule = "go with a kernel"
                raise DeclarationError(f"Machine.{name}", getattr(self, name), rule)

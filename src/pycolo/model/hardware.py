"""Devices of the guest beside its disks and cards, each as a name and its properties.

The guest sees them, so a pair declares them once for both nodes. Only QEMU knows which properties a
device has: `launch` asks the QEMU of each node that it launches (qemu-behaviour 23.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, final, get_args

import attrs

from pycolo._mapping import read_only_mappings
from pycolo.errors import DeclarationError
from pycolo.model import _rules as rules

Property: TypeAlias = str | int | bool
"The value of a property, of the type that QEMU gives it."
ObjectKind: TypeAlias = Literal["iothread", "rng-random", "rng-builtin"]
"The kinds of objects that a device may name in a property."

PROPERTY_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9\-._]*\Z")
FIRMWARE_IDS: Final = ("firmware-code", "firmware-variables")
"QEMU's block node names for the two files of a firmware."
CHANNEL_ID: Final = re.compile(r"channel\d+")
"The form of the ids of channels' sockets; no other chardev may have such an id."
INTEGER_MAX: Final = 2**63 - 1

# Devices of the host on which a QEMU runs: the other host has others, and COLO moves no state of
# them.
HOST_DEVICES: Final = (
    *("vfio", "usb-host", "vhost", "ivshmem", "pci-assign", "scsi-generic", "scsi-block"),
    *("usb-redir", "usb-mtp", "virtio-input-host", "u2f-passthru", "ccid-card", "xen"),
)
# Devices that read a file of the host into the guest's memory.
LOADERS: Final = ("loader", "guest-loader")
_OTHER_KEYS: Final[Mapping[str, str]] = {
    "driver": "the driver has a key of its own",
    "id": "the id has a key of its own, or is the pair's",
    "drive": "declare a disk or a cdrom",
    "netdev": "declare a chain",
    "chardev": "declare a channel",
    "memdev": "the guest's memory is that of the machine",
}
"Names that are refused as properties, each with what to do instead."


def properties(field: str, value: object) -> None:
    """Check that a value maps names of properties to strings, whole numbers, true or false."""
    if not isinstance(value, Mapping):
        raise DeclarationError(field, value, "be a table")
    for name, one in value.items():
        _property(f"{field}.{name}", name, one)


def _property(field: str, name: object, value: object) -> None:
    if not isinstance(name, str) or not PROPERTY_NAME.match(name):
        raise DeclarationError(field, name, "be named as QEMU names properties")
    if name in _OTHER_KEYS:
        raise DeclarationError(field, value, f"not be set: {_OTHER_KEYS[name]}")
    if isinstance(value, str):
        if not value.isprintable():
            raise DeclarationError(field, value, "be a string of printable characters")
    elif not isinstance(value, int):
        raise DeclarationError(field, value, "be a string, a whole number, true or false")
    elif abs(value) > INTEGER_MAX:
        raise DeclarationError(field, value, "be a whole number of 64 bits")
    if name == "romfile" and value != "":
        rule = "be empty, which leaves the ROM out: a file of the host may differ"
        raise DeclarationError(field, value, rule)


def emulated(field: str, value: object) -> None:
    """Check that a value is the name of a device that QEMU emulates."""
    rules.identifier(field, value)
    if str(value).startswith(HOST_DEVICES):
        rule = "be a device that QEMU emulates: one of the host is not on the other side"
        raise DeclarationError(field, value, rule)
    if value in LOADERS:
        rule = "not read a file of the host, which may differ on the other side"
        raise DeclarationError(field, value, rule)


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Device:
    """A device of the guest: a controller, a USB tablet, a watchdog.

    Args:
        driver: QEMU's name of the device. A device of the host, such as `vfio-pci`, and one that
            reads a file of the host into the guest's memory are refused.
        id: The name by which other devices name it or its bus (`scsi0.0`); None for none.
        properties: Its properties, by QEMU's names: a string, a whole number of 64 bits, true or
            false, as QEMU types it. `id`, `driver`, a `romfile` that is not empty, and properties
            that connect it to the host, such as `drive`, are refused.

    Raises:
        DeclarationError: A field breaks its rule; no object is made. Whether QEMU has the device
            and its properties is only checked by `launch`.
    """

    driver: str = attrs.field(validator=rules.Valid(emulated))
    id: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.identifier))
    )
    properties: Mapping[str, Property] = attrs.field(
        factory=dict, validator=rules.Valid(properties)
    )


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class GuestDevice:
    """A device as it is passed to QEMU, whether a disk, a card or `Device` declares it."""

    driver: str
    "QEMU's name of the device."
    properties: Mapping[str, Property]
    "All its properties in order, including the id and those that connect it to the host."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class DeviceObject:
    """An object that a device names in a property, such as a disk's `iothread`.

    Args:
        kind: `iothread`, `rng-random` or `rng-builtin`.
        id: Its name.
        properties: Its properties, by QEMU's names, with the types of those of `Device`; the same
            ones are refused.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    kind: ObjectKind = attrs.field(validator=rules.Valid(rules.one_of(*get_args(ObjectKind))))
    id: str = attrs.field(validator=rules.Valid(rules.identifier))
    properties: Mapping[str, Property] = attrs.field(
        factory=dict, validator=rules.Valid(properties)
    )


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Channel:
    """A port of the guest that leads to a Unix socket in each node's run directory.

    The n-th channel, from 0, has the socket `channelN.sock`. QEMU listens on it and serves one
    client at a time; the guest also runs without a client. A port of virtio needs a controller
    among the machine's devices, such as `virtio-serial-pci`; an `isa-serial` needs none. After a
    failover, connect to the socket of the other node.

    Args:
        device: QEMU's name of the port: `virtserialport`, `virtconsole`, `isa-serial` ...
        properties: The port's properties, by QEMU's names, such as `name` of a `virtserialport`,
            with the types of those of `Device`; the same ones are refused.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    device: str = attrs.field(default="virtserialport", validator=rules.Valid(emulated))
    properties: Mapping[str, Property] = attrs.field(
        factory=dict, validator=rules.Valid(properties)
    )


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Cdrom:
    """A CD-ROM drive, empty or with a read-only image.

    Args:
        image: Absolute path, on each node, of the image. The images must have the same content on
            all nodes, which pycolo does not check. None for an empty drive.
        device: QEMU's name of the drive: `ide-cd` or `scsi-cd`.
        properties: The drive's properties, by QEMU's names, with the types of those of `Device`;
            the same ones are refused.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    image: str | None = attrs.field(
        default=None, validator=rules.Valid(rules.Optional(rules.absolute_path))
    )
    device: str = attrs.field(
        default="ide-cd", validator=rules.Valid(rules.one_of("ide-cd", "scsi-cd"))
    )
    properties: Mapping[str, Property] = attrs.field(
        factory=dict, validator=rules.Valid(properties)
    )


@final
@attrs.frozen(kw_only=True)
class Firmware:
    """Firmware in two flash chips, such as UEFI: read-only code, and variables.

    Args:
        code: Absolute path, on each node, of the code. The files must have the same content on all
            nodes; a preflight reports a difference.
        variables: Absolute path, on each node, of a file with the initial variables. Each node gets
            a copy of its own, `PAIR.firmware.raw` in its image folder. An entry into COLO makes
            them equal, a checkpoint does not (qemu-behaviour 23.4).
        variables_bytes: Size of that file, a multiple of 4096.

    Raises:
        DeclarationError: A field breaks its rule; no object is made.
    """

    code: str = attrs.field(validator=rules.Valid(rules.absolute_path))
    variables: str = attrs.field(validator=rules.Valid(rules.absolute_path))
    variables_bytes: int = attrs.field(
        default=540672, validator=rules.Valid(rules.Whole(4096, 2**23))
    )

    def __attrs_post_init__(self) -> None:
        if self.variables_bytes % 4096:
            rule = "be a multiple of 4096, the size of a flash chip's block"
            raise DeclarationError("Firmware.variables_bytes", self.variables_bytes, rule)

"""The QEMU of a node as a libvirt domain.

The domain contains pycolo's own command line, unchanged. libvirt adds options to watch the process;
`TAKEN_BACK` undoes those that would change the guest.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import Final

from pycolo.errors import DeclarationError
from pycolo.model.pair import ColoPair
from pycolo.plan import LaunchQemu

NAMESPACE: Final = "http://libvirt.org/schemas/domain/qemu/1.0"
# libvirt has each domain show the guest an identity of its own, boot only from what it knows of,
# and wait after a power-off. The last word counts, so the pair's own arguments come after these.
TAKEN_BACK: Final = (
    *("-uuid", "00000000-0000-0000-0000-000000000000"),
    *("-boot", "strict=off"),
    *("-action", "shutdown=poweroff"),
)


def domain(pair: ColoPair, launch: LaunchQemu) -> str:
    """The XML of a transient libvirt domain that runs a QEMU as pycolo would start it.

    It is for `virsh create --paused`: QEMU must not run the guest before pycolo says so. Its
    monitors and sockets are those of the declaration, beside libvirt's own monitor.

    Args:
        pair: The declaration.
        launch: Which QEMU: an action of a plan `launch` of this pair.

    Returns:
        The document, indented. Every value is escaped, and each argument is one of its own.

    Raises:
        DeclarationError: The program is not named by an absolute path.
    """
    program, *arguments = launch.argv
    if not program.startswith("/"):
        rule = "be an absolute path: libvirt takes no other"
        raise DeclarationError("Node.qemu_binary", program, rule)
    machine = pair.machine
    root = ET.Element("domain", {"type": "kvm" if machine.accelerator == "kvm" else "qemu"})
    # ElementTree keeps the prefixes of namespaces for the whole process; this is one of ours alone.
    root.set("xmlns:qemu", NAMESPACE)
    _put(root, "name", launch.instance)
    _put(root, "memory", str(machine.memory_mib), unit="MiB")
    _put(root, "vcpu", str(machine.vcpus))
    _put(_put(root, "os"), "type", "hvm", machine=machine.machine_type.partition(",")[0])
    # Without it libvirt turns ACPI off.
    _put(_put(root, "features"), "acpi")
    devices = _put(root, "devices")
    _put(devices, "emulator", program)
    # libvirt adds these two to a domain that says nothing of them.
    _put(devices, "controller", type="usb", model="none")
    _put(devices, "memballoon", model="none")
    _put_arguments(root, (*TAKEN_BACK, *arguments))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _put(parent: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    made = ET.SubElement(parent, tag, attributes)
    made.text = text
    return made


def _put_arguments(root: ET.Element, words: Iterable[str]) -> None:
    commandline = _put(root, "qemu:commandline")
    for word in words:
        _put(commandline, "qemu:arg", value=word)

"""The QEMU of a node as a libvirt domain.

The domain contains pycolo's own command line, unchanged. libvirt adds options of its own to it;
`TAKEN_BACK` overrides those that would change the guest.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import Final

from pycolo.errors import DeclarationError
from pycolo.model.pair import ColoPair
from pycolo.plan import LaunchQemu

NAMESPACE: Final = "http://libvirt.org/schemas/domain/qemu/1.0"
# By libvirt's options, the guest would see a UUID of libvirt's, boot only from devices that libvirt
# knows, and stay paused after a power-off. These options override them. Of repeated options the
# last one counts, so the pair's own arguments come after these.
TAKEN_BACK: Final = (
    *("-uuid", "00000000-0000-0000-0000-000000000000"),
    *("-boot", "strict=off"),
    *("-action", "shutdown=poweroff"),
)


def domain(pair: ColoPair, launch: LaunchQemu) -> str:
    """The XML of a transient libvirt domain that runs a QEMU as pycolo would start it.

    Create the domain with `virsh create --paused`: QEMU must not run the guest before pycolo starts
    it. QEMU has the monitors and sockets of the declaration, and libvirt's monitor in addition.

    Args:
        pair: The declaration.
        launch: The launch of the QEMU, from a plan `launch` of this pair.

    Returns:
        The document, indented. Every value is escaped, and each argument is a separate element.

    Raises:
        DeclarationError: The QEMU program of the node is not given as an absolute path.
    """
    program, *arguments = launch.argv
    if not program.startswith("/"):
        rule = "be an absolute path: libvirt takes no other"
        raise DeclarationError("Node.qemu_binary", program, rule)
    machine = pair.machine
    root = ET.Element("domain", {"type": "kvm" if machine.accelerator == "kvm" else "qemu"})
    # Set by hand: `register_namespace` would register the prefix for the whole process.
    root.set("xmlns:qemu", NAMESPACE)
    _put(root, "name", launch.instance)
    _put(root, "memory", str(machine.memory_mib), unit="MiB")
    _put(root, "vcpu", str(machine.vcpus))
    _put(_put(root, "os"), "type", "hvm", machine=machine.machine_type.partition(",")[0])
    # Without this element libvirt turns ACPI off.
    _put(_put(root, "features"), "acpi")
    devices = _put(root, "devices")
    _put(devices, "emulator", program)
    # Without these two elements libvirt adds a USB controller and a memory balloon.
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

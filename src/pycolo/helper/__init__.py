"""Requests to the helper, the small program that acts on a node's host.

The helper is `far`: one file that needs Python 3.9 and nothing else. On this machine its functions
are called in threads; to another machine its text is sent over ssh; and its text is part of the
shell scripts that plans are rendered as.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import resources
from typing import Final, assert_never

from pycolo import libvirt, record, topology
from pycolo._json import JsonObject, JsonValue, dumps, kebab
from pycolo.facts import Part
from pycolo.model.disk import ReplicationDisk
from pycolo.model.filters import Netdev
from pycolo.model.hardware import GuestDevice
from pycolo.model.machine import Machine
from pycolo.model.memory import MemoryBackend
from pycolo.model.node import Monitor, Node, UnixMonitor
from pycolo.model.pair import QEMU_LOG, ColoPair
from pycolo.model.tls import X509, Psk
from pycolo.plan import CheckDevices, CheckPorts, CreateImage, HostAction, LaunchQemu, StopQemu

__all__ = ("facts_request", "gather_request", "kept_by", "monitor_json", "request_of", "text")

# REACH_S: how long a part of a preflight waits for other hosts. MARGIN_S: how much earlier than the
# request's limit the parts must end. DEVICES_S: how long a QEMU may take to list its devices.
REACH_S: Final = 1.0
DEVICES_S: Final = 15.0
MARGIN_S: Final = 0.5


@functools.cache
def text() -> str:
    """The text of `far.py`."""
    return resources.files("pycolo.helper").joinpath("far.py").read_text(encoding="utf-8")


@functools.cache
def _gather_text() -> str:
    return resources.files("pycolo.helper").joinpath("gather.py").read_text(encoding="utf-8")


def kept_by(pair: ColoPair, node: str) -> JsonObject:
    """The members that every request about a record has.

    Args:
        pair: The declaration.
        node: The node's name.

    Returns:
        `pair` and `node`, their names; `record`, the path of the record; and `owners`, the list of
        the paths of the owner files.

    Raises:
        DeclarationError: The pair has no such node.
    """
    return {
        "pair": pair.name,
        "node": node,
        "record": pair.record_path(node),
        "owners": list(pair.owner_paths(node)),
    }


def request_of(
    pair: ColoPair, node: str, action: HostAction, limit_s: float
) -> tuple[str, JsonObject]:
    """Make the helper's request for an action.

    Args:
        pair: The declaration.
        node: The node's name.
        action: The action.
        limit_s: How long the action may take, in seconds.

    Returns:
        The name of the operation, and its arguments.
    """
    match action:
        case CreateImage():
            return "create_image", _create(pair, node, action, limit_s)
        case LaunchQemu():
            return "launch", _launch(pair, node, action, limit_s)
        case StopQemu(instance=instance, at_once=at_once):
            return "stop", {
                "process": pair.process_path(node),
                "instance": instance,
                "at_once": at_once,
                "limit_s": limit_s,
            }
        case CheckDevices(devices=devices):
            return "check_devices", {
                "binary": pair.node(node).qemu_binary,
                "devices": _named(devices),
                "limit_s": limit_s,
            }
        case CheckPorts(host=host, ports=ports):
            return "check_ports", {
                "process": pair.process_path(node),
                "address": host,
                "ports": list(ports),
                "limit_s": limit_s,
            }
        case _:
            assert_never(action)


def _create(pair: ColoPair, node: str, action: CreateImage, limit_s: float) -> JsonObject:
    return {
        "record": pair.record_path(node),
        "path": action.path,
        "argv": list(action.argv),
        "image_format": action.image_format,
        "size_bytes": action.size_bytes,
        "is_encrypted": _is_encrypted(pair, node, action.path),
        "qemu_img": pair.node(node).qemu_img_binary,
        "limit_s": limit_s,
    }


def _is_encrypted(pair: ColoPair, node: str, path: str) -> bool:
    """Whether the image or overlay at a path of a node is declared to be encrypted."""
    place = pair.node(node)
    encrypted = (disk for disk in pair.disks if topology.secret(place, disk) is not None)
    return any(path in disk.paths(place).values() for disk in encrypted)


# `ColoPair.paths` names the paths that QEMU opens as images with these prefixes.
IMAGES: Final = ("disks[", "machine.firmware")


def _launch(pair: ColoPair, node: str, action: LaunchQemu, limit_s: float) -> JsonObject:
    place = pair.node(node)
    paths = pair.paths(node)
    images = [path for what, path in paths if what.startswith(IMAGES)]
    written = [path for what, path in paths if not what.startswith(IMAGES)]
    own = [m.path for _, m in place.monitors if isinstance(m, UnixMonitor)]
    sockets = [path for path in written if path.endswith(".sock") or path in own]
    return {
        "record": pair.record_path(node),
        "process": pair.process_path(node),
        "expects": None if action.record is None else record.digest(action.record),
        "instance": action.instance,
        "argv": list(action.argv),
        "run_dir": place.run_path("").rstrip("/"),
        "log": place.run_path(QEMU_LOG),
        "address": place.listen_address,
        "ports": list(_ports(pair, node)),
        "monitors": [monitor_json(monitor) for _, monitor in place.monitors],
        "sockets": list(sockets),
        "images": list(images),
        "written": list(written),
        "limit_s": limit_s,
        **_domain(pair, place, action),
        **({} if pair.tls is None else {"credentials": list(pair.tls.files_on(node))}),
    }


def _domain(pair: ColoPair, place: Node, action: LaunchQemu) -> JsonObject:
    if place.libvirt is None:
        return {}
    where: JsonObject = {"uri": place.libvirt.uri, "virsh": place.libvirt.virsh_binary}
    return {"domain": {**where, "xml": libvirt.domain(pair, action)}}


def _ports(pair: ColoPair, node: str) -> tuple[int, ...]:
    """The ports that must be free at a launch; none if two nodes of the pair share an address.

    Both nodes of such a pair, which is meant for trials, listen on the same ports.
    """
    place = pair.node(node)
    others = [other.listen_address for other in pair.all_nodes if other.name != node]
    free = place.listen_address not in others
    return tuple(port for _, port in pair.listening_ports) if free else ()


def monitor_json(monitor: Monitor) -> JsonObject:
    """A monitor's address, as the helper's operations take it."""
    if isinstance(monitor, UnixMonitor):
        return {"path": monitor.path}
    return {"host": monitor.host, "port": monitor.port}


# -- before anything is launched -----------------------------------------------------------------


def facts_request(pair: ColoPair, node: str, parts: Collection[Part], limit_s: float) -> JsonObject:
    """Make the helper's request for the facts that a preflight needs.

    Args:
        pair: The declaration.
        node: The node's name.
        parts: The parts to read; a part that does not apply to the pair is left out.
        limit_s: How long the request may take, in seconds.
    """
    asked: JsonObject = {}
    for part, arguments in _PARTS.items():
        found = arguments(pair, node) if part in parts else None
        if found is not None:
            asked[part] = found
    place = pair.node(node)
    return {
        **gather_request(asked, limit_s),
        "asks_launch": "launch" in parts,
        "record": pair.record_path(node),
        "process": pair.process_path(node),
        "run_dir": place.run_path("").rstrip("/"),
        "monitors": [monitor_json(monitor) for _, monitor in place.monitors],
    }


def gather_request(parts: JsonObject, limit_s: float) -> JsonObject:
    """Make a request of the operation `facts` that reads some parts, but nothing about a launch.

    Args:
        parts: The name of each part, and its arguments.
        limit_s: How long the request may take, in seconds.
    """
    return {
        "program": _gather_text(),
        "request": {"parts": parts, "limit_s": max(limit_s - MARGIN_S, MARGIN_S)},
        "asks_launch": False,
        "record": "",
        "process": "",
        "run_dir": "",
        "monitors": [],
    }


def _nothing(_pair: ColoPair, _node: str) -> JsonObject:
    return {}


def _memory(pair: ColoPair, _node: str) -> JsonObject:
    backend = pair.machine.memory_backend or MemoryBackend()
    return {"page_mib": backend.huge_page_size_mib, "folder": backend.folder}


def _programs(pair: ColoPair, node: str) -> JsonObject:
    place = pair.node(node)
    names = [place.qemu_binary, place.qemu_img_binary]
    names += [] if place.libvirt is None else [place.libvirt.virsh_binary]
    return {"names": [*names]}


def _folders(pair: ColoPair, node: str) -> JsonObject:
    place = pair.node(node)
    named = (place.image_folder, place.overlay_folder, place.state_dir)
    return {"paths": list(dict.fromkeys(named))}


def _files(pair: ColoPair, node: str) -> JsonObject | None:
    machine = pair.machine
    booted = [path for path in (machine.kernel, machine.initrd) if path is not None]
    if machine.firmware is not None:
        booted += [machine.firmware.code, machine.firmware.variables]
    named = [drive.image for drive in machine.cdroms if drive.image is not None]
    named += [path for disk in pair.disks for path in disk.on(node).secret_files]
    named += () if pair.tls is None else pair.tls.files_on(node)
    paths = [*dict.fromkeys([*booted, *named])]
    return {"paths": [*paths], "digested": [*booted]} if paths else None


def _images(pair: ColoPair, node: str) -> JsonObject | None:
    place = pair.node(node)
    paths = [path for d in pair.disks if (path := d.paths(place).get("image")) is not None]
    below = [layer for disk in pair.disks for layer in disk.on(node).backing]
    paths = [*dict.fromkeys([*paths, *(layer.image for layer in below if layer.is_local)])]
    remotes = {url: words for disk in pair.disks for url, words in _remotes(place, disk)}
    if not paths and not remotes:
        return None
    return {
        "paths": list(paths),
        "remotes": {**remotes},
        "qemu_img": place.qemu_img_binary,
        "own_process": pair.process_path(node),
    }


def _overlays(pair: ColoPair, node: str) -> JsonObject | None:
    place = pair.node(node)
    named = (disk.paths(place) for disk in pair.disks)
    paths = [one[which] for one in named for which in ("active_image", "hidden_image")]
    if not paths:
        return None
    return {
        "paths": [*paths],
        "remotes": {},
        "qemu_img": place.qemu_img_binary,
        "own_process": pair.process_path(node),
    }


def _remotes(node: Node, disk: ReplicationDisk) -> Iterator[tuple[str, JsonValue]]:
    """The remote images of a disk by URL, with the words by which `qemu-img` opens each."""
    secrets = [dumps(key.to_qmp()) for key in topology.secrets(node, disk)]
    objects = [word for key in secrets for word in ("--object", key)]
    for url, file in topology.remote_images(node, disk):
        # Without a driver for the format, it finds out which one the image has.
        yield url, [*objects, f"json:{dumps({'file': file.to_qmp()})}"]


def _qemu(pair: ColoPair, node: str) -> JsonObject:
    types = [disk.device for disk in pair.disks]
    types += [device.driver for device in pair.machine.devices]
    for chain in pair.chains:
        types += [chain.model, "filter-mirror", "filter-redirector", "filter-rewriter"]
        types += ["colo-compare", "iothread"]
    match pair.tls:
        case X509():
            types.append("tls-creds-x509")
        case Psk():
            types.append("tls-creds-psk")
        case None:
            pass
        case _:
            assert_never(pair.tls)
    return {
        "binary": pair.node(node).qemu_binary,
        "accelerator": pair.machine.accelerator,
        "types": [*dict.fromkeys(types)],
        "drivers": [*dict.fromkeys(_drivers(pair, node))],
        "capabilities": ["x-colo"],
        "machine": pair.machine.machine_type.partition(",")[0],
        "cpu": (pair.machine.cpu or "").partition(",")[0],
    }


def _devices(pair: ColoPair, node: str) -> JsonObject | None:
    devices = topology.checked_devices(pair)
    if not devices:
        return None
    return {
        "binary": pair.node(node).qemu_binary,
        "devices": _named(devices),
        "limit_s": DEVICES_S,
    }


def _named(devices: Collection[GuestDevice]) -> JsonValue:
    return [[device.driver, dict(device.properties)] for device in devices]


def _block_schema(pair: ColoPair, node: str) -> JsonObject | None:
    """The QEMU whose schema is read; None if no image has options that need it."""
    has_options = any(disk.on(node).has_options for disk in pair.disks)
    return {"binary": pair.node(node).qemu_binary} if has_options else None


def _drivers(pair: ColoPair, node: str) -> Iterator[str]:
    """The block drivers that the pair's disks need on a node, beside those that every QEMU has."""
    if pair.disks:
        yield from ("replication", "quorum", "nbd")
    remotes = [disk.on(node).remote for disk in pair.disks]
    yield from (kebab(type(at)) for at in remotes if at is not None)
    layers = [layer for disk in pair.disks for layer in disk.on(node).backing]
    yield from (layer.image.partition(":")[0] for layer in layers if not layer.is_local)


# The ROM files that QEMU loads for a network card and for a VGA card.
_CARD_ROMS: Final[Mapping[str, str]] = {
    "e1000": "efi-e1000.rom",
    "e1000e": "efi-e1000e.rom",
    "ne2k_pci": "efi-ne2k_pci.rom",
    "pcnet": "efi-pcnet.rom",
    "rtl8139": "efi-rtl8139.rom",
    "virtio-net-pci": "efi-virtio.rom",
    "vmxnet3": "efi-vmxnet3.rom",
}
_SCREEN_ROMS: Final[Mapping[str, str]] = {
    "cirrus": "vgabios-cirrus.bin",
    "qxl": "vgabios-qxl.bin",
    "std": "vgabios-stdvga.bin",
    "virtio": "vgabios-virtio.bin",
}


def _firmware(pair: ColoPair, node: str) -> JsonObject:
    machine = pair.machine
    bios, screen = _argument(machine, "-bios"), _argument(machine, "-vga")
    named = [bios or "bios-256k.bin", "kvmvapic.bin"]
    named += [] if machine.kernel is None else ["linuxboot_dma.bin"]
    named += [rom for chain in pair.chains if (rom := _CARD_ROMS.get(chain.model)) is not None]
    named += [_SCREEN_ROMS[screen]] if screen in _SCREEN_ROMS else []
    return {"binary": pair.node(node).qemu_binary, "names": [*dict.fromkeys(named)]}


def _argument(machine: Machine, option: str) -> str:
    words = iter(machine.arguments)
    return next((next(words, "") for word in words if word.lstrip("-") == option[1:]), "")


def _names(pair: ColoPair, _node: str) -> JsonObject:
    named = [name for place in pair.all_nodes for name in (place.address, place.listen_address)]
    return {"asked": list(dict.fromkeys(named))}


def _used_ports(pair: ColoPair, node: str) -> JsonObject | None:
    free = _ports(pair, node)
    return {"address": pair.node(node).listen_address, "numbers": list(free)} if free else None


def _reach(pair: ColoPair, node: str) -> JsonObject | None:
    """The ports of the nodes at other addresses; None if there are none."""
    own = pair.node(node).address
    numbers: list[JsonValue] = [port for _, port in pair.listening_ports]
    peers: JsonObject = {
        peer.name: {"address": peer.address, "ports": numbers}
        for peer in pair.all_nodes
        if peer.address != own
    }
    return {"peers": peers, "limit_s": REACH_S} if peers else None


def _interfaces(pair: ColoPair, node: str) -> JsonObject | None:
    named = [name for chain in pair.chains for name in interface_names(chain.netdev_on(node))]
    kinds = [chain.netdev_on(node).type for chain in pair.chains]
    if not {"tap", "bridge"} & set(kinds):
        return None
    return {"names": [*dict.fromkeys(named)], "needs_tun": "tap" in kinds}


def interface_names(netdev: Netdev) -> Iterator[str]:
    """The names of the host's network interfaces that a netdev uses."""
    named = {"tap": ("ifname", "br"), "bridge": ("br",)}.get(netdev.type, ())
    for option in named:
        value = netdev.options.get(option, "br0" if netdev.type == "bridge" else None)
        if isinstance(value, str):
            yield value


def _tls(pair: ColoPair, node: str) -> JsonObject | None:
    if not isinstance(pair.tls, X509):
        return None
    return {"folder": pair.tls.folder_on(node), "address": pair.node(node).address}


def _psk(pair: ColoPair, node: str) -> JsonObject | None:
    if not isinstance(pair.tls, Psk):
        return None
    (path,) = pair.tls.files_on(node)
    return {"path": path, "username": pair.tls.username, "salt": pair.name}


def _libvirt(pair: ColoPair, node: str) -> JsonObject | None:
    declared = pair.node(node).libvirt
    return None if declared is None else {"uri": declared.uri, "virsh": declared.virsh_binary}


def _kvm(pair: ColoPair, _node: str) -> JsonObject | None:
    return {} if pair.machine.accelerator == "kvm" else None


_PARTS: Final[Mapping[Part, Callable[[ColoPair, str], JsonObject | None]]] = {
    "system": _nothing,
    "memory": _memory,
    "kvm": _kvm,
    "programs": _programs,
    "folders": _folders,
    "files": _files,
    "images": _images,
    "overlays": _overlays,
    "qemu": _qemu,
    "devices": _devices,
    "block_schema": _block_schema,
    "firmware": _firmware,
    "names": _names,
    "ports": _used_ports,
    "reach": _reach,
    "interfaces": _interfaces,
    "tls": _tls,
    "psk": _psk,
    "libvirt": _libvirt,
}
"Makes the arguments of each part; None if the part does not apply to the pair."

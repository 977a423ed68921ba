"""Wrong declarations and plan files: refused, by a rule that names the field and the value."""

# ruff: noqa: E501 - one case a line is what makes the tables readable
from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import jsonschema
import pytest

from pycolo import pairfile, wire
from pycolo._json import JsonObject, JsonValue
from pycolo.compiler import compile_offline
from pycolo.errors import DeclarationError, ParseError
from pycolo.qmp.replies import Version

EXAMPLES = Path(__file__).parent.parent / "examples"
GONE = "(gone)"
"""Stands for a key that is taken out."""

Edits: TypeAlias = Mapping[str, object]
"""Path in the document to what is put there; a plan's paths may begin with a step's address."""

# A case: what is changed in examples/pair.toml; the field and words of the rule that the refusal
# must name; whether the JSON Schema refuses it as well.
# fmt: off
PAIR_CASES: dict[str, tuple[Edits, str, str, bool]] = {
    "unknown key": ({"colour": "red"}, "colour", "be a known key", True),
    "unknown key of a netdev": ({"chains[0].netdev.typ": "tap"}, "chains[0].netdev.typ", "be a known key", True),
    "unknown key of a node": ({"nodes[1].adress": "h"}, "nodes[1].adress", "be a known key", True),
    "unknown id": ({"disks[0].ids": {"quorom": "q"}}, "disks[0].ids.quorom", "be a known key", True),
    "spares of its own": ({"spares": []}, "spares", "stand in nodes", True),
    "no version": ({"format_version": GONE}, "format_version", "be 1", True),
    "another version": ({"format_version": 2}, "format_version", "be 1", True),
    "a version in words": ({"format_version": "1"}, "format_version", "be 1", True),
    "no nodes": ({"nodes": GONE}, "nodes", "be two nodes or more", True),
    "one node": ({"nodes[2]": GONE, "nodes[1]": GONE}, "nodes", "be two nodes or more", True),
    "nodes as a word": ({"nodes": "alpha"}, "nodes", "be an array", True),
    "no address": ({"nodes[0].address": GONE}, "nodes[0].address", "be present", True),
    "no image folder": ({"nodes[2].image_folder": GONE}, "nodes[2].image_folder", "be present", True),
    "TLS of another kind": ({"tls": {"kind": "ssl", "folder": "/a"}}, "tls.kind", "be one of x509, psk", True),
    "TLS without a folder": ({"tls": {"kind": "psk"}}, "tls.folder", "be present", True),
    "a relative folder for TLS": ({"tls": {"kind": "x509", "folder": "a"}}, "tls.folder", "be an absolute path", True),
    "a relative folder of a node": ({"tls": {"kind": "psk", "folder": "/a", "folders": {"beta": "b"}}}, "tls.folders.beta", "be an absolute path", False),
    "TLS for a stranger": ({"tls": {"kind": "x509", "folder": "/a", "folders": {"zeta": "/b"}}}, "tls.folders.zeta", "be for one of alpha, beta, gamma", False),
    "a user of certificates": ({"tls": {"kind": "x509", "folder": "/a", "username": "u"}}, "tls.username", "be a known key", True),
    "a user of two parts": ({"tls": {"kind": "psk", "folder": "/a", "username": "a:b"}}, "tls.username", "have no ':'", False),
    "an empty name to admit": ({"tls": {"kind": "x509", "folder": "/a", "authz": [""]}}, "tls.authz[0]", "be a non-empty string", True),
    "a name admitted twice": ({"tls": {"kind": "x509", "folder": "/a", "authz": ["CN=a", "CN=a"]}}, "tls.authz[1]", "differ from authz[0]", False),
    "an id that TLS has": ({"tls": {"kind": "psk", "folder": "/a"}, "disks[0].ids": {"quorum": "tls-server"}}, "disks[0].ids.quorum", "differ from tls", False),
    "no size": ({"disks[1].size_bytes": GONE}, "disks[1].size_bytes", "be present", True),
    "no netdev": ({"chains[0].netdev": GONE}, "chains[0].netdev", "be present", True),
    "equal node names": ({"nodes[1].name": "alpha"}, "nodes[1].name", "differ from nodes[0].name", False),
    "a spare of the same name": ({"nodes[2].name": "beta"}, "nodes[2].name", "differ from nodes[1].name", False),
    "a node's name with a space": ({"nodes[0].name": "al pha"}, "nodes[0].name", "be a letter followed by", True),
    "a node's name of nothing": ({"nodes[0].name": ""}, "nodes[0].name", "be a letter followed by", True),
    "an address with a comma": ({"nodes[0].address": "a,server=on"}, "nodes[0].address", "be a host name", False),
    "a relative image folder": ({"nodes[0].image_folder": "images"}, "nodes[0].image_folder", "be an absolute path", True),
    "an image folder with a line break": ({"nodes[0].image_folder": "/images\n-S"}, "nodes[0].image_folder", "printable", False),
    "an image with a line break": ({"disks[0].image": "a\nb"}, "disks[0].image", "printable", False),
    "an image elsewhere": ({"disks[0].image": "../a"}, "disks[0].image", "be a file name", False),
    "the folder above for an image": ({"disks[0].image": ".."}, "disks[0].image", "be a file name", False),
    "a folder for an image": ({"disks[0].image": "/a/"}, "disks[0].image", "an absolute path", False),
    "a device by a mere name": ({"disks[0].driver": "host_device"}, "disks[0].image", "be an absolute path if driver is host_device", False),
    "an unknown driver": ({"disks[0].driver": "floppy"}, "disks[0].driver", "be one of file, host_device", True),
    "aio that the cache forbids": ({"disks[0].aio": "native"}, "disks[0].aio", "be given with cache none or directsync", False),
    "zeroes to unmap without discard": ({"disks[0].detect_zeroes": "unmap"}, "disks[0].detect_zeroes", "be given with discard unmap", False),
    "a disk on an unknown node": ({"disks[0].nodes": {"omega": {"image": "b"}}}, "disks[0].nodes.omega", "be for one of alpha, beta", False),
    "a bad image on one node": ({"disks[0].nodes": {"beta": {"image": "b/c"}}}, "disks[0].nodes.beta.image", "be a file name", False),
    "a write cache on one side": ({"disks[0].nodes": {"beta": {"cache": "directsync"}}}, "disks[0].nodes.beta.cache", "not differ from writeback", False),
    "luks without a secret": ({"disks[0].image_format": "luks"}, "disks[0].secret_file", "be given for luks", False),
    "a secret for a raw image": ({"disks[1].secret_file": "/key"}, "disks[1].secret_file", "be absent for raw", False),
    "a secret by a mere name": ({"disks[0].secret_file": "key"}, "disks[0].secret_file", "be an absolute path", True),
    "a throttle without a limit": ({"disks[0].throttle": {}}, "disks[0].throttle", "have one limit or more", False),
    "a limit twice": ({"disks[0].throttle": {"bps_total": 1, "bps_read": 1}}, "disks[0].throttle.bps_read", "be absent if bps_total is given", False),
    "a limit of nothing": ({"disks[0].throttle": {"iops_write": 0}}, "disks[0].throttle.iops_write", "be a whole number from 1", True),
    "a resync that stalls": ({"disks[0].resync_bytes_per_s": 1000}, "disks[0].resync_bytes_per_s", "be a whole number from 1048576", True),
    "one LUN for both nodes": ({"disks[0].driver": "host_device", "disks[0].image": "/dev/disk/by-id/wwn-0x5"}, "nodes[1].disks[0].image", "differ from nodes[0].disks[0].image (it is one device for all hosts", False),
    "an overlay folder by a mere name": ({"nodes[0].overlay_folder": "overlays"}, "nodes[0].overlay_folder", "be an absolute path", True),
    "an image for two disks": ({"disks[1].image": "system.qcow2"}, "disks[1].image", "differ from disks[0].image", False),
    "an image for two parts": ({"disks[0].hidden_image": "system.qcow2"}, "disks[0].hidden_image", "differ from image", False),
    "one image for both nodes": ({"nodes[1].address": "192.0.2.11"}, "nodes[1].image_folder", "differ from nodes[0].image_folder", False),
    "one image for both nodes, in other words": ({"nodes[0].address": "127.0.0.1", "nodes[1].address": "::1", "nodes[1].image_folder": "/var/lib/../lib/pycolo/shop-db/"}, "nodes[1].image_folder", "differ from nodes[0].image_folder", False),
    "a size that is no sectors": ({"disks[0].size_bytes": 1000}, "disks[0].size_bytes", "be a multiple of 512", False),
    "a size of nothing": ({"disks[0].size_bytes": 0}, "disks[0].size_bytes", "be a whole number from 512", True),
    "a size in words": ({"disks[0].size_bytes": "20G"}, "disks[0].size_bytes", "be a whole number", True),
    "an unknown image format": ({"disks[0].image_format": "vmdk"}, "disks[0].image_format", "be one of qcow2, raw", True),
    "a port too high": ({"ports.nbd": 65536}, "ports.nbd", "be a whole number from 1 to 65535", True),
    "a port of nothing": ({"ports.nbd": 0}, "ports.nbd", "be a whole number from 1 to 65535", True),
    "a port in words": ({"ports.nbd": "9999"}, "ports.nbd", "be a whole number", True),
    "a port for two": ({"ports.nbd": 9198}, "ports.nbd", "differ from ports.migration", False),
    "a chain's port for two": ({"chains[0].ports.mirror": 9199}, "chains[0].ports.mirror", "differ from ports.nbd", False),
    "a monitor's port for two": ({"nodes[2].control": {"host": "::1", "port": 9199}}, "nodes[2].control.port", "differ from ports.nbd", False),
    "a monitor off the host": ({"nodes[0].control": {"host": "192.0.2.1", "port": 4444}}, "nodes[0].control.host", "be a loopback address", False),
    "a monitor of two kinds": ({"nodes[0].control": {"path": "/q", "port": 4444}}, "nodes[0].control.port", "be a known key", True),
    "a monitor of no kind": ({"nodes[0].control": {}}, "nodes[0].control", "have a path, or host and port", True),
    "one monitor for two clients": ({"nodes[2].observer": {"path": "/run/pycolo/shop-db/writer.qmp"}}, "nodes[2].observer", "differ from control", False),
    "a socket path too long": ({"nodes[0].run_dir": "/" + 100 * "r"}, "nodes[0].run_dir", "107 bytes", False),
    "an id QEMU does not take": ({"disks[0].ids": {"quorum": "0disk"}}, "disks[0].ids.quorum", "be a letter followed by", True),
    "an id with a comma": ({"chains[0].ids": {"mirror": "m,x=y"}}, "chains[0].ids.mirror", "be a letter followed by", True),
    "a node name too long": ({"disks[0].ids": {"nbd": 32 * "n"}}, "disks[0].ids.nbd", "at most 31 characters", True),
    "an id used twice": ({"disks[1].ids": {"parent": "parent0"}}, "disks[1].ids.parent", "differ from disks[0].ids.parent", False),
    "an id used by a disk and a chain": ({"chains[0].ids": {"compare": "colo-disk1"}}, "chains[0].ids.compare", "differ from disks[1].ids.quorum", False),
    "vhost": ({"chains[0].netdev.options.vhost": "on"}, "chains[0].netdev.options.vhost", "be off", False),
    "vhost by force": ({"chains[0].netdev.options.vhostforce": "on"}, "chains[0].netdev.options.vhostforce", "not be set", False),
    "several queues": ({"chains[0].netdev.options.queues": "4"}, "chains[0].netdev.options.queues", "not be set", False),
    "an id among the options": ({"chains[0].netdev.options.id": "x"}, "chains[0].netdev.options.id", "not its id", False),
    "an option that is no string": ({"chains[0].netdev.options.vhost": False}, "chains[0].netdev.options.vhost", "be a string", True),
    "a netdev for nobody": ({"chains[0].netdevs.delta": {"type": "user"}}, "chains[0].netdevs.delta", "be for one of alpha, beta, gamma", False),
    "no vnet headers for virtio": ({"chains[0].vnet_hdr": False}, "chains[0].vnet_hdr", "not be false for virtio-net-pci", False),
    "a card that nobody knows": ({"chains[0].model": "frobnicator"}, "chains[0].vnet_hdr", "say whether frobnicator writes", False),
    "a MAC address of a group": ({"chains[0].mac": "53:54:00:12:34:56"}, "chains[0].mac", "have an even first byte", False),
    "a MAC address too short": ({"chains[0].mac": "52:54:00"}, "chains[0].mac", "be six bytes", False),
    "a delay of nothing": ({"checkpoint_delay_ms": 0}, "checkpoint_delay_ms", "from 1 to 4294967295", True),
    "a delay below nothing": ({"checkpoint_delay_ms": -500}, "checkpoint_delay_ms", "from 1 to 4294967295", True),
    "a delay too long": ({"checkpoint_delay_ms": 2**32}, "checkpoint_delay_ms", "from 1 to 4294967295", True),
    "a delay of half": ({"checkpoint_delay_ms": 0.5}, "checkpoint_delay_ms", "be a whole number", True),
    "a delay of truth": ({"checkpoint_delay_ms": True}, "checkpoint_delay_ms", "be a whole number", True),
    "a timeout of nothing": ({"timeouts.failover_s": 0}, "timeouts.failover_s", "be a positive number of seconds", True),
    "a timeout below nothing": ({"timeouts.entry_s": -1.5}, "timeouts.entry_s", "be a positive number of seconds", True),
    "a timeout without end": ({"timeouts.entry_s": float("inf")}, "timeouts.entry_s", "be a finite number", False),
    "a timeout in words": ({"timeouts.entry_s": "60"}, "timeouts.entry_s", "be a finite number", True),
    "an unknown way to begin": ({"initial_sync": "none"}, "initial_sync", "be one of full, identical", True),
    "an option that pycolo sets": ({"machine.arguments": ["-vga", "none", "-incoming", "defer"]}, "machine.arguments[2]", "be one of -action", False),
    "a monitor for everybody": ({"machine.arguments": ["-serial", "mon:tcp:0.0.0.0:4444,server"]}, "machine.arguments[1]", "not contain 'mon:'", False),
    "an address with a digit too many": ({"nodes[0].address": "10.0.0.999"}, "nodes[0].address", "be an IPv4 address such as", False),
    "another screen for everybody": ({"machine.arguments": ["-display", "vnc=0.0.0.0:1"]}, "machine.arguments[1]", "not contain 'vnc'", False),
    "a port for everybody": ({"machine.arguments": ["-serial", "websocket:0.0.0.0:4444,server=on"]}, "machine.arguments[1]", "not contain 'websocket:'", False),
    "another file of options": ({"machine.arguments": ["-readconfig", "/etc/x"]}, "machine.arguments[0]", "be one of -action", False),
    "a disk without an option": ({"machine.arguments": ["/dev/sda"]}, "machine.arguments[0]", "be one of -action", False),
    "an option with two dashes": ({"machine.arguments": ["--monitor", "stdio"]}, "machine.arguments[0]", "be one of -action", False),
    "an option without its value": ({"machine.arguments": ["-vga"]}, "machine.arguments[0]", "be followed by its value", False),
    "a guest that stays when it is off": ({"machine.arguments": ["-no-shutdown"]}, "machine.arguments[0]", "be one of -action", False),
    "the same in other words": ({"machine.arguments": ["-action", "reboot=reset,shutdown=pause"]}, "machine.arguments[1]", "not contain 'shutdown=pause'", False),
    "a device of one host": ({"machine.devices": [{"driver": "vfio-pci"}]}, "machine.devices[0].driver", "be a device that QEMU emulates", False),
    "a device that reads a file": ({"machine.devices": [{"driver": "loader"}]}, "machine.devices[0].driver", "not read a file of the host", False),
    "a device that is words": ({"machine.devices": [{"driver": "VGA,id=x"}]}, "machine.devices[0].driver", "be a letter followed by", True),
    "a device in one string": ({"machine.devices": ["usb-tablet"]}, "machine.devices[0]", "be an object", True),
    "a disk of the host": ({"disks[0].device": "scsi-block"}, "disks[0].device", "be a device that QEMU emulates", False),
    "a card of the host": ({"chains[0].model": "vfio-pci"}, "chains[0].model", "be a device that QEMU emulates", False),
    "a disk's own drive": ({"disks[0].properties": {"drive": "x"}}, "disks[0].properties.drive", "not be set", False),
    "a second cache": ({"disks[0].properties": {"write-cache": "on"}}, "disks[0].properties.write-cache", "not be set: cache", False),
    "a property that is words": ({"disks[0].properties": {"lun,id": 1}}, "disks[0].properties.lun,id", "be named as QEMU", False),
    "a property of half": ({"disks[0].properties": {"lun": 0.5}}, "disks[0].properties.lun", "be a string or a whole number or", True),
    "a property on two lines": ({"disks[0].properties": {"serial": "a\nb"}}, "disks[0].properties.serial", "printable characters", False),
    "a property too long": ({"disks[0].properties": {"lun": 2**64}}, "disks[0].properties.lun", "64 bits", False),
    "a ROM of the host": ({"chains[0].properties": {"romfile": "/tmp/rom"}}, "chains[0].properties.romfile", "be empty", False),
    "several queues of a card": ({"chains[0].properties": {"mq": True}}, "chains[0].properties.mq", "be false", False),
    "a second MAC address": ({"chains[0].properties": {"mac": "52:54:00:12:34:56"}}, "chains[0].properties.mac", "not be set", False),
    "a netdev of a device": ({"machine.devices": [{"driver": "e1000", "properties": {"netdev": "hn0"}}]}, "machine.devices[0].properties.netdev", "declare a chain", False),
    "a chardev of a channel": ({"machine.channels": [{"properties": {"chardev": "x"}}]}, "machine.channels[0].properties.chardev", "not be set", False),
    "an object of another kind": ({"machine.objects": [{"kind": "secret", "id": "x"}]}, "machine.objects[0].kind", "be one of iothread", True),
    "an object's id used twice": ({"machine.objects": [{"kind": "iothread", "id": "nbd0"}]}, "disks[0].ids.nbd", "differ from machine.objects[0].id", False),
    "a chardev that is a channel's": ({"chains[0].ids": {"mirror": "channel7"}}, "chains[0].ids.mirror", "not be a channel's", False),
    "a drive's image elsewhere": ({"machine.cdroms": [{"image": "a.iso"}]}, "machine.cdroms[0].image", "be an absolute path", True),
    "a drive that is a disk": ({"machine.cdroms": [{"device": "ide-hd"}]}, "machine.cdroms[0].device", "be one of ide-cd, scsi-cd", False),
    "processors that are not there": ({"machine.vcpus": 3, "machine.cores": 2}, "machine.vcpus", "be 2, the product of cores = 2", False),
    "flash of half a block": ({"machine.firmware": {"code": "/c", "variables": "/v", "variables_bytes": 5000}}, "machine.firmware.variables_bytes", "be a multiple of 4096", False),
    "a screen for everybody": ({"nodes[0].vnc": {"host": "192.0.2.1", "port": 5901}}, "nodes[0].vnc.password_file", "be given where others", False),
    "a screen's port without a host": ({"nodes[0].vnc": {"port": 5901}}, "nodes[0].vnc.port", "be given with host", False),
    "a screen's port too low": ({"nodes[0].vnc": {"host": "127.0.0.1", "port": 590}}, "nodes[0].vnc.port", "from 5900 to 65535", True),
    "a screen by an option": ({"machine.arguments": ["-vnc", ":1"]}, "machine.arguments[0]", "be one of -action", False),
    "no memory": ({"machine.memory_mib": 0}, "machine.memory_mib", "be a whole number from 1", True),
    "an initrd without a kernel": ({"machine.initrd": "/initrd"}, "machine.initrd", "go with a kernel", False),
    "devices as a word": ({"machine.devices": "usb-tablet"}, "machine.devices", "be an array", True),
}
# fmt: on

FIRST = "steps[0]"
# fmt: off
PLAN_CASES: dict[str, tuple[Edits, str, str, bool]] = {
    "no version": ({"format_version": GONE}, "format_version", "be 1", True),
    "another version": ({"format_version": 2}, "format_version", "be 1", True),
    "an unknown key": ({"dry_run": True}, "dry_run", "be a known key", True),
    "no steps": ({"steps": GONE}, "steps", "be present", True),
    "steps that are no list": ({"steps": {}}, "steps", "be an array", True),
    "a step that is no object": ({FIRST: "cont"}, FIRST, "be an object", True),
    "an unknown kind": ({f"{FIRST}.kind": "shell"}, f"{FIRST}.kind", "be one of execute, wait", True),
    "no kind": ({f"{FIRST}.kind": GONE}, f"{FIRST}.kind", "be one of execute, wait", True),
    "an unknown key of a step": ({f"{FIRST}.retry": 3}, f"{FIRST}.retry", "be a known key", True),
    "a step without a reason": ({f"{FIRST}.why": GONE}, f"{FIRST}.why", "be present", True),
    "an address given twice": ({f"{FIRST}.address": "(last)"}, "steps[-1].address", "differ from", False),
    "a step on nobody's node": ({f"{FIRST}.node": "delta"}, f"{FIRST}.node", "be one of alpha, beta, gamma", False),
    "an unknown procedure": ({"procedure": "destroy"}, "procedure", "be one of launch, start", True),
    "an unknown dialect": ({"dialect": "hmp"}, "dialect", "be one of auto, doc", True),
    "a version that is none": ({"qemu.alpha": "eleven"}, "qemu.alpha", "be a version such as", True),
    "restored after nothing": ({"restored_after": "alpha/pray"}, "restored_after", "be the address of", False),
    "a wrong pair": ({"pair.checkpoint_delay_ms": 0}, "pair.checkpoint_delay_ms", "from 1 to", True),
    "a pair's further node": ({"pair.nodes[2].name": "beta"}, "pair.nodes[2].name", "differ from nodes[1].name", False),
    "a pair of another version": ({"pair.format_version": 2}, "pair.format_version", "be 1", True),
    "an unknown command": ({"@execute.command.execute": "system_reset"}, "@execute.command.execute", "be a command that pycolo knows", True),
    "an unknown argument": ({"@execute.command.arguments.sudo": True}, "@execute.command.arguments.sudo", "be a known key", True),
    "a command that is a string": ({"@execute.command": "cont"}, "@execute.command", "be an object", True),
    "arguments that are a list": ({"@execute.command.arguments": []}, "@execute.command.arguments", "be an object", True),
    "a command with an id": ({"@execute.command.id": 7}, "@execute.command.id", "be a known key", True),
    "oob in words": ({"@execute.oob": "yes"}, "@execute.oob", "be true or false", True),
    "a limit of nothing": ({"@execute.limit_s": 0}, "@execute.limit_s", "be a positive number of seconds", False),
    "a limit below nothing": ({"@wait.limit_s": -1}, "@wait.limit_s", "be a positive number of seconds", False),
    "a limit in words": ({"@wait.limit_s": "1"}, "@wait.limit_s", "be a finite number", True),
    "a rescue that is no yank": ({"@execute.rescue": [{"execute": "quit"}]}, "@execute.rescue[0].execute", "be yank", True),
    "a condition of no kind": ({"@wait.until": {}}, "@wait.until.kind", "be one of run-state-is", True),
    "an unknown condition": ({"@wait.until.kind": "moon-is-full"}, "@wait.until.kind", "be one of run-state-is", True),
    "an unknown part of a condition": ({"@check.condition.not": True}, "@check.condition.not", "be a known key", True),
    "a wait without end": ({"@wait.until": GONE}, "@wait.until", "be present", True),
    "a recovery outside the plan": ({"recoveries[0].last": "nowhere"}, "recoveries[0].last", "be the address of", False),
    "a planned state of nonsense": ({"planned_state.nodes.alpha.kind": "happy"}, "planned_state.nodes.alpha.kind", "be one of absent, live", True),
    "a planned state of an unknown mode": ({"planned_state.nodes.alpha.colo_mode": "both"}, "planned_state.nodes.alpha.colo_mode", "be one of none", True),
}
# fmt: on
# fmt: off
LAUNCH_CASES: dict[str, tuple[Edits, str, str, bool]] = {
    "an unknown action": ({"@run-host.action": "run-shell"}, "@run-host.action", "be one of create-image", True),
    "an unknown key of an action": ({"@run-host.shell": "rm"}, "@run-host.shell", "be a known key", True),
    "no command line": ({"@run-host.argv": GONE}, "@run-host.argv", "be present", True),
    "a command line in one word": ({"@run-host.argv": "qemu-img create"}, "@run-host.argv", "be an array", True),
}
# fmt: on


def parts(path: str) -> list[str | int]:
    """The keys and places of a path."""
    return [
        int(place) if place else key for key, place in re.findall(r"([\w-]+)|\[(-?\d+)\]", path)
    ]


def edited(document: JsonObject, edits: Edits) -> JsonObject:
    """A copy of the document with the edits made by hand."""
    document = copy.deepcopy(document)
    for path, value in edits.items():
        *parents, last = parts(path)
        place: object = document
        for part in parents:
            place = child(place, part)
        if isinstance(place, list) and isinstance(last, int):
            place[last : last + 1] = [] if value == GONE else [value]
        elif isinstance(place, dict) and value == GONE:
            del place[last]
        elif isinstance(place, dict):
            place[last] = value
    return document


def child(place: object, part: str | int) -> object:
    """What stands at a key, made where it is missing, or at a place."""
    if isinstance(place, list) and isinstance(part, int):
        return place[part]
    assert isinstance(place, dict)
    return place.setdefault(part, {})


def assert_says(error: DeclarationError | ParseError, field: str, rule: str) -> None:
    """The refusal names the field, the rule and the value."""
    assert field == (error.field if isinstance(error, DeclarationError) else error.path)
    assert rule in error.rule
    assert str(error).startswith(f"{field} must {error.rule}, not {repr(error.value)[:100]}")


def value_at(document: JsonValue, path: str) -> object:
    """What stands at a path; None where nothing does."""
    place: object = document
    for part in parts(path):
        if isinstance(place, dict):
            place = place.get(part)
        elif isinstance(place, list) and isinstance(part, int) and part < len(place):
            place = place[part]
        else:
            return None
    return place


def pair_document() -> JsonObject:
    """The example of a pair file, as an editor sees it."""
    return tomllib.loads((EXAMPLES / "pair.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", PAIR_CASES)
def test_a_wrong_pair_file_is_refused(case: str) -> None:
    """The refusal names the key's path, what stands there and the rule that it breaks."""
    edits, field, rule, in_schema = PAIR_CASES[case]
    document = edited(pair_document(), edits)
    with pytest.raises(DeclarationError) as caught:
        pairfile.loads(json.dumps(document), "json")
    assert_says(caught.value, field, rule)
    assert in_schema is not jsonschema.Draft202012Validator(pairfile.json_schema()).is_valid(
        document
    )


@pytest.fixture(scope="module")
def saved() -> dict[str, JsonObject]:
    """Plan files as pycolo writes them, one with every kind of step, one of a launch."""
    pair = pairfile.load(EXAMPLES / "pair.toml")
    version = Version.parse("11.1.3")
    made = {
        "resume": compile_offline("resume", pair, version=version, survivor="alpha"),
        "launch": compile_offline("launch", pair, version=version),
    }
    return {name: wire.plan_to_json(plan) for name, plan in made.items()}


def located(document: JsonObject, path: str) -> str:
    """The path with `@kind` made the first step of that kind that has arguments or is one."""
    steps = document["steps"]
    assert isinstance(steps, list)
    for kind in ("execute", "wait", "check", "run-host"):
        places = [n for n, step in enumerate(steps) if kind_of(step) == kind]
        if path.startswith(f"@{kind}") and places:
            path = path.replace(f"@{kind}", f"steps[{places[0]}]", 1)
    return path.replace("[-1]", f"[{len(steps) - 1}]")


def kind_of(step: JsonValue) -> JsonValue:
    """The kind of a step; of an Execute only where it has arguments."""
    assert isinstance(step, dict)
    bare = step["kind"] == "execute" and value_at(step, "command.arguments") is None
    return None if bare else step["kind"]


@pytest.mark.parametrize(
    ("plan", "case"),
    [*(("resume", case) for case in PLAN_CASES), *(("launch", case) for case in LAUNCH_CASES)],
)
def test_a_plan_file_edited_into_nonsense_is_refused(
    plan: str, case: str, saved: dict[str, JsonObject]
) -> None:
    """The refusal names the path, what stands there and the rule: such a plan cannot run."""
    document = saved[plan]
    edits, field, rule, in_schema = (PLAN_CASES | LAUNCH_CASES)[case]
    last = value_at(document, located(document, "steps[-1].address"))
    edits = {
        located(document, path): last if value == "(last)" else value
        for path, value in edits.items()
    }
    field = located(document, field)
    document = edited(document, edits)
    with pytest.raises(ParseError) as caught:
        wire.plan_from_json(document)
    assert_says(caught.value, field, rule)
    assert in_schema is not jsonschema.Draft202012Validator(wire.json_schema("plan")).is_valid(
        document
    )


def test_the_unedited_files_are_accepted(saved: dict[str, JsonObject]) -> None:
    """What the cases edit is right before they do."""
    pairfile.loads(json.dumps(pair_document()), "json")
    for document in saved.values():
        wire.plan_from_json(document)


@pytest.mark.parametrize(
    "name", ["a,b", "a b", "it's", 'the "one"', "back\\slash", "100%", "$HOME", "é"]
)
def test_a_file_name_may_have_any_printable_character(name: str) -> None:
    """Commas, spaces and quotes are escaped where they must be, so they are no reason to refuse."""
    document = edited(
        pair_document(), {"disks[0].image": name, "nodes[0].image_folder": f"/{name}"}
    )
    pair = pairfile.loads(json.dumps(document), "json")
    assert f"/{name}/{name}" == pair.nodes[0].image_path(pair.disks[0].image)


def test_a_report_that_contradicts_its_outcomes_is_refused() -> None:
    """Who edits the summary of a report is told what the outcomes say."""
    pair = pairfile.load(EXAMPLES / "pair.toml")
    plan = compile_offline(
        "set-checkpoint-delay", pair, version=Version.parse("11.1.3"), checkpoint_delay_ms=9
    )
    address = plan.steps[0].address
    document: JsonObject = {
        "format_version": 1,
        "failed": None,
        "changed": True,
        "plan": wire.plan_to_json(plan),
        "outcomes": {address: {"kind": "refused", "took_s": 0.1, "reason": "no"}},
    }
    with pytest.raises(ParseError, match=f"failed must be '{address}'"):
        wire.report_from_json(document)
    with pytest.raises(ParseError, match="outcomes must be the address of a step"):
        wire.report_from_json({**document, "outcomes": {"nowhere": {"kind": "not-run"}}})


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ({"machine": {"memory_mb": 32}}, "known key (did you mean memory_mib?), not 32"),
        ({"colour": "red"}, "colour must be a known key (one of name, nodes, "),
    ],
)
def test_an_unknown_key_is_met_with_the_nearest_known_one(
    edits: Mapping[str, JsonValue], says: str
) -> None:
    """A slip of the finger is named; where no key is near, all of them are."""
    with pytest.raises(DeclarationError) as caught:
        pairfile.loads(json.dumps(edited(pair_document(), edits)), "json")
    assert says in str(caught.value)

"""Arguments of QEMU's command line: as JSON, or as option strings with commas doubled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, assert_never

from pycolo import topology
from pycolo.model.disk import ReplicationDisk
from pycolo.model.filters import FilterChain
from pycolo.model.hardware import FIRMWARE_IDS, DeviceObject, GuestDevice, Property
from pycolo.model.machine import Machine
from pycolo.model.node import VNC_PORT, Monitor, Node, TcpMonitor, UnixMonitor, Vnc
from pycolo.model.pair import VNC_SOCKET
from pycolo.qmp.blockdevs import QuorumNode
from pycolo.qmp.chardevs import (
    InetSocketAddress,
    SocketClient,
    SocketServer,
    UnixSocketAddress,
)
from pycolo.qmp.commands import ChardevAdd
from pycolo.qmp.objects import Secret
from pycolo.topology import MONITOR_ID, VNC_SECRET

_SERVES: Final = "server=on,wait=off"


def monitor_options(monitors: Iterable[Monitor]) -> Iterator[str]:
    """The arguments for monitors that QEMU serves."""
    for n, monitor in enumerate(monitors):
        match monitor:
            case UnixMonitor(path=path):
                yield from ("-qmp", f"unix:{escaped(path)},{_SERVES}")
            case TcpMonitor(host=host, port=port) if ":" in host:
                # `-qmp` reads an IPv4 address or a name only (qemu-behaviour 3.17).
                chardev = f"{MONITOR_ID}{n}"
                place = f"host={host},port={port}"
                yield from ("-chardev", f"socket,id={chardev},{place},{_SERVES}")
                yield from ("-qmp", f"chardev:{chardev}")
            case TcpMonitor(host=host, port=port):
                yield from ("-qmp", f"tcp:{host}:{port},{_SERVES}")
            case _:
                assert_never(monitor)


def netdev_option(chain: FilterChain, node: str) -> str:
    """The argument of `-netdev` for a chain's card on a node."""
    netdev = chain.netdev_on(node)
    parts = [netdev.type, f"id={chain.names.netdev}"]
    for name, value in netdev.options.items():
        values = value if isinstance(value, tuple) else (value,)
        parts += [f"{name}={escaped(one)}" for one in values]
    if netdev.type == "tap" and "vhost" not in netdev.options:
        parts.append("vhost=off")
    return ",".join(parts)


def device_words(device: GuestDevice) -> str:
    """The argument of `-device` as an option string, which dialect `doc` uses."""
    words = (f"{name}={escaped(_word(value))}" for name, value in device.properties.items())
    return ",".join((device.driver, *words))


def device_json(device: GuestDevice) -> str:
    """The argument of `-device` as JSON, in which no value can become another option."""
    return as_json({"driver": device.driver, **device.properties})


def object_json(item: DeviceObject) -> str:
    """The argument of `-object`, as JSON, for an object that a device names."""
    return as_json({"qom-type": item.kind, "id": item.id, **dict(sorted(item.properties.items()))})


def as_json(value: Mapping[str, object]) -> str:
    """JSON without spaces, for a command line."""
    return json.dumps(value, separators=(",", ":"))


def _word(value: Property) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def processors_option(machine: Machine) -> str:
    """The argument of `-smp` for the machine's virtual CPUs."""
    counts = (f"{name}={count}" for name, count in machine.processors.items())
    return ",".join((str(machine.vcpus), *counts))


def vnc_option(node: Node, vnc: Vnc) -> str:
    """The argument of `-vnc` for a node's screen."""
    if vnc.host is None or vnc.port is None:
        place = f"unix:{node.socket_path(VNC_SOCKET)}"
    else:
        host = f"[{vnc.host}]" if ":" in vnc.host else vnc.host
        place = f"{host}:{vnc.port - VNC_PORT}"
    secret = "" if vnc.password_file is None else f",password-secret={VNC_SECRET}"
    return escaped(place) + secret


def server_option(chardev: ChardevAdd) -> str:
    """The argument of `-chardev` for a Unix socket that a node serves."""
    backend = chardev.backend
    assert isinstance(backend, SocketServer)  # noqa: S101 - whoever calls has made it
    assert isinstance(backend.addr, UnixSocketAddress)  # noqa: S101 - likewise
    path = escaped(backend.addr.path)
    return f"socket,id={chardev.id},path={path},server=on,wait=off"


def throttled_option(disk: ReplicationDisk, quorum: QuorumNode) -> str:
    """The argument of `-drive` for a quorum with limits for what the guest reads and writes.

    The limits are set on the drive. A throttle node above the quorum would slow copies of the disk
    too, and no copy could begin at the quorum (qemu-behaviour 20.5).
    """
    assert disk.throttle is not None  # noqa: S101 - whoever calls has looked
    parts = ["if=none", f"id={disk.names.throttle}", f"node-name={quorum.node_name}"]
    parts += ["driver=quorum", f"read-pattern={quorum.read_pattern}"]
    parts.append(f"vote-threshold={quorum.vote_threshold}")
    parts += [f"children.{n}={child}" for n, child in enumerate(quorum.children)]
    return ",".join([*parts, *throttling(disk)])


def throttling(disk: ReplicationDisk) -> list[str]:
    """The options of `-drive` that limit what the guest reads and writes; empty without limits."""
    limits = {} if disk.throttle is None else disk.throttle.limits()
    return [f"throttling.{name.replace('_', '-')}={value}" for name, value in limits.items()]


def secret_option(secret: Secret) -> str:
    """The argument of `--object` of `qemu-img`, and of QEMU's `-object`, for a secret."""
    form = "" if secret.format is None else f",format={secret.format}"
    return f"secret,id={secret.id},file={escaped(secret.file)}{form}"


def machine_options(machine: Machine) -> Iterator[str]:
    """The arguments for the machine, its memory backend and its firmware."""
    memory = topology.memory(machine)
    if memory is not None:
        yield from ("-object", as_json(memory.to_qmp()))
    parts = [machine.machine_type]
    if memory is not None:
        parts.append(f"memory-backend={memory.id}")
    if machine.firmware is not None:
        parts += [f"pflash{n}={name}" for n, name in enumerate(FIRMWARE_IDS)]
    yield from ("-machine", ",".join(parts))


def chardev_option(chardev: ChardevAdd) -> str:
    """The argument of `-chardev` for a client socket."""
    backend = chardev.backend
    assert isinstance(backend, SocketClient)  # noqa: S101 - the secondary's are all clients
    assert isinstance(backend.addr, InetSocketAddress)  # noqa: S101 - and reach another host
    parts = [f"socket,id={chardev.id}", f"host={escaped(backend.addr.host)}"]
    parts.append(f"port={backend.addr.port}")
    if backend.reconnect_ms is not None:
        parts.append(f"reconnect-ms={backend.reconnect_ms}")
    if backend.reconnect_s is not None:
        parts.append(f"reconnect={backend.reconnect_s}")
    if backend.tls_creds is not None:
        parts.append(f"tls-creds={backend.tls_creds}")
    return ",".join(parts)


def escaped(value: str) -> str:
    """A value for an option string: each comma is doubled, which QEMU reads as one comma."""
    return value.replace(",", ",,")

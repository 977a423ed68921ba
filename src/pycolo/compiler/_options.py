"""Parts of a command line that have no JSON form: strings in which a comma is doubled."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pycolo import topology
from pycolo.model.disk import THROUGH, ReplicationDisk
from pycolo.model.filters import FilterChain
from pycolo.model.machine import Machine
from pycolo.model.node import Monitor, UnixMonitor
from pycolo.qmp.blockdevs import QuorumNode
from pycolo.qmp.chardevs import InetSocketAddress, SocketClient
from pycolo.qmp.commands import ChardevAdd
from pycolo.qmp.objects import Secret


def monitor_option(monitor: Monitor) -> str:
    """The argument of `-qmp` for a monitor."""
    if isinstance(monitor, UnixMonitor):
        return f"unix:{escaped(monitor.path)},server=on,wait=off"
    return f"tcp:{monitor.host}:{monitor.port},server=on,wait=off"


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


def disk_option(disk: ReplicationDisk) -> str:
    """The argument of `-device` for a disk."""
    drive = disk.names.quorum if disk.throttle is None else disk.names.throttle
    option = f"{disk.device},id={disk.names.device},drive={drive}"
    return f"{option},write-cache=off" if disk.cache in THROUGH else option


def throttled_option(disk: ReplicationDisk, quorum: QuorumNode) -> str:
    """The argument of `-drive` for a quorum whose guest is held to limits.

    They are the drive's: a throttle node above the quorum would hold up copies of the disk too,
    and a copy could not begin at the quorum (qemu-behaviour 20.5).
    """
    assert disk.throttle is not None  # noqa: S101 - whoever calls has looked
    parts = ["if=none", f"id={disk.names.throttle}", f"node-name={quorum.node_name}"]
    parts += ["driver=quorum", f"read-pattern={quorum.read_pattern}"]
    parts.append(f"vote-threshold={quorum.vote_threshold}")
    parts += [f"children.{n}={child}" for n, child in enumerate(quorum.children)]
    return ",".join([*parts, *throttling(disk)])


def throttling(disk: ReplicationDisk) -> list[str]:
    """The options of `-drive` that hold the guest to its limits."""
    limits = {} if disk.throttle is None else disk.throttle.limits()
    return [f"throttling.{name.replace('_', '-')}={value}" for name, value in limits.items()]


def secret_option(secret: Secret) -> str:
    """The argument of `--object` of `qemu-img`, and of QEMU's `-object`, for a secret."""
    return f"secret,id={secret.id},file={escaped(secret.file)}"


def machine_options(machine: Machine) -> Iterator[str]:
    """The words that give QEMU its machine and the machine its RAM."""
    memory = topology.memory(machine)
    if memory is not None:
        yield from ("-object", json.dumps(memory.to_qmp(), separators=(",", ":")))
    made_of = "" if memory is None else f",memory-backend={memory.id}"
    yield from ("-machine", f"{machine.machine_type}{made_of}")


def card_option(chain: FilterChain) -> str:
    """The argument of `-device` for a chain's card."""
    option = f"{chain.model},id={chain.names.device},netdev={chain.names.netdev}"
    return option if chain.mac is None else f"{option},mac={chain.mac}"


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
    """A value inside an option string: QEMU reads a doubled comma as one."""
    return value.replace(",", ",,")

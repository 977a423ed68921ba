"""Networks for a pair on one machine: two hosts and a client, with or without network namespaces.

With namespaces each QEMU has a host of its own: a bridge with the guest's tap device, a virtual
cable (veth) to the client's bridge, and a second cable between the hosts for COLO's replication. At
a failover the guest's one MAC address moves from one host to the other, so connections continue,
and the bridges learn of the move as the switches of a rack would.

Without namespaces each QEMU has its own user-mode network: the guest is reached through a port of
the QEMU it runs on, so connections end with that QEMU.
"""

from __future__ import annotations

import os
import random
import shlex
import socket
import subprocess
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, final

import attrs

from pycolo._mapping import read_only_mappings
from pycolo.demo.guests import DISK_PORT, ECHO_PORT
from pycolo.errors import PycoloError
from pycolo.model import Netdev

GUEST_ADDRESS: Final = "10.77.0.2"
"The guest's address if there are namespaces."
_CLIENT: Final = "client"
_CABLE: Final = "colo"
_CLIENT_ADDRESS: Final = "10.77.0.1/24"
_HOST_PREFIX: Final = "10.77.1."
_USER_GUEST_ADDRESS: Final = "10.0.2.15/24"
_LIMIT_S: Final = 20.0
_FOLDER_OF_NAMESPACES: Final = Path("/run/netns")


class NetworkError(PycoloError):
    """A network could not be made; the parts that were made have been deleted again."""


@final
@attrs.frozen(kw_only=True)
class Service:
    """The address and ports at which the client reaches the guest."""

    host: str
    echo_port: int
    disk_port: int


@final
@attrs.frozen(kw_only=True)
class Place:
    """One node's part of the network."""

    address: str
    "The address at which the peer node reaches this node."
    netdev: Netdev
    "The backend of the guest's network card on this host."
    enter: tuple[str, ...]
    "The words to put before a command so that it runs on this host."
    service: Service
    "Where the client reaches the guest while it runs on this node."


@final
@attrs.frozen(kw_only=True)
class Cable:
    """The cable between two hosts, over which COLO's replication runs."""

    namespace: str
    "The network namespace of one of its ends."

    def cut(self) -> None:
        """Pull one end: both hosts lose the link, and no packet passes.

        Raises:
            NetworkError: The link could not be set down.
        """
        _ip("-n", self.namespace, "link", "set", "dev", _CABLE, "down")

    def mend(self) -> None:
        """Plug it in again.

        Raises:
            NetworkError: The link could not be set up.
        """
        _up(self.namespace, _CABLE)


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Network:
    """The network of the demo: the parts of both nodes, and that of the client."""

    places: Mapping[str, Place]
    "Node name to its place."
    client: tuple[str, ...]
    "The words to put before the client's command."
    guest_address: str
    "The guest's address with its prefix length."
    isolated: bool
    "Whether each host has a namespace; only then connections outlive a failover."
    cable: Cable | None = None
    "The cable between the hosts; None if it cannot be cut."


def wrapper(path: Path, enter: Sequence[str], program: Path) -> Path:
    """Write a shell script that becomes a program on a node's host, with the same process id.

    Args:
        path: Where to write the script.
        enter: `Place.enter` of the node, or other words to put before the program.
        program: The program that the script runs.

    Returns:
        `path`.
    """
    path.write_text(f'#!/bin/sh\nexec {shlex.join((*enter, str(program)))} "$@"\n')
    path.chmod(0o755)
    return path


@contextmanager
def namespaces(nodes: Sequence[str]) -> Generator[Network]:
    """Make the network out of namespaces, and delete it when the block is left.

    The call blocks for some tenths of a second. A process that still runs inside a deleted
    namespace keeps using it until the process ends.

    Args:
        nodes: Names of the two nodes.

    Yields:
        The network. `isolated` is true, and `cable` is the one between the two nodes.

    Raises:
        NetworkError: This process is not root, there is no `ip`, or the kernel refuses; nothing is
            left behind.
    """
    _delete_orphans()
    with ExitStack() as stack:
        names = {name: f"pycolo-{os.getpid()}-{name}" for name in (_CLIENT, *nodes)}
        for name in names.values():
            _ip("netns", "add", name)
            stack.callback(_delete, name)
            _without_ipv6(name)
            _ip("-n", name, "link", "set", "lo", "up")
        _make_bridge(names[_CLIENT], _CLIENT_ADDRESS)
        for node in nodes:
            _make_host(names[node], names[_CLIENT], node)
        _make_cable(*(names[node] for node in nodes))
        yield _of_namespaces(names, nodes)


def _of_namespaces(names: Mapping[str, str], nodes: Sequence[str]) -> Network:
    options = {"ifname": "tap0", "script": "no", "downscript": "no"}
    service = Service(host=GUEST_ADDRESS, echo_port=ECHO_PORT, disk_port=DISK_PORT)
    places = {
        node: Place(
            address=f"{_HOST_PREFIX}{n}",
            netdev=Netdev(type="tap", options=options),
            enter=_enter(names[node]),
            service=service,
        )
        for n, node in enumerate(nodes, start=1)
    }
    return Network(
        places=places,
        client=_enter(names[_CLIENT]),
        guest_address=f"{GUEST_ADDRESS}/24",
        isolated=True,
        cable=Cable(namespace=names[nodes[0]]),
    )


def _enter(namespace: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", namespace)


def _without_ipv6(namespace: str) -> None:
    # IPv6 packets of the hosts would reach both guests, and COLO does not compare IPv6.
    script = "for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do [ ! -w $f ] || echo 1 >$f; done"
    _run(*_enter(namespace), "sh", "-c", script)


def _make_bridge(namespace: str, address: str | None = None) -> None:
    _ip("-n", namespace, "link", "add", "lan", "type", "bridge", "mcast_snooping", "0")
    _up(namespace, "lan")
    if address is not None:
        _ip("-n", namespace, "address", "add", address, "dev", "lan")


def _make_host(namespace: str, client: str, node: str) -> None:
    _make_bridge(namespace)
    port = f"to-{node}"[:15]
    _ip(
        "-n",
        namespace,
        "link",
        "add",
        "uplink",
        "type",
        "veth",
        "peer",
        "name",
        port,
        "netns",
        client,
    )
    _ip("-n", namespace, "tuntap", "add", "tap0", "mode", "tap")
    for where, name in ((namespace, "uplink"), (namespace, "tap0"), (client, port)):
        _ip("-n", where, "link", "set", "dev", name, "master", "lan")
        _up(where, name)


def _make_cable(first: str, second: str) -> None:
    far = ("type", "veth", "peer", "name", _CABLE, "netns", second)
    _ip("-n", first, "link", "add", _CABLE, *far)
    for n, namespace in enumerate((first, second), start=1):
        _ip("-n", namespace, "address", "add", f"{_HOST_PREFIX}{n}/24", "dev", _CABLE)
        _up(namespace, _CABLE)


def _up(namespace: str, link: str) -> None:
    _ip("-n", namespace, "link", "set", "dev", link, "up")


def _delete(name: str) -> None:
    # A failure to delete one namespace must not keep the others from being deleted; `ip netns`
    # shows one that is left.
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _delete_orphans() -> None:
    """Delete the namespaces of demos that were killed before they could delete them."""
    for path in _FOLDER_OF_NAMESPACES.glob("pycolo-*-*"):
        pid = path.name.split("-")[1]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            _delete(path.name)


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*argv: str) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkError(f"{shlex.join(argv)}: {error}") from error
    if done.returncode:
        raise NetworkError(f"{shlex.join(argv)}: {done.stderr.strip()}")


@contextmanager
def user_networks(nodes: Sequence[str]) -> Generator[Network]:
    """Give each node a user-mode network and a loopback address of its own, for the block.

    Root is not needed, no namespace is made, and nothing has to be deleted afterwards. QEMU
    forwards two free TCP ports of the node's address to the guest. So the client has to connect to
    another address after a failover, and the cable between the nodes cannot be cut.

    Args:
        nodes: Names of the two nodes.

    Yields:
        The network. `isolated` is false, and `cable` is None.

    Raises:
        NetworkError: An address has no free port.
    """
    hosts = _free_addresses(len(nodes))
    yield Network(
        places={node: _user_place(host) for node, host in zip(nodes, hosts, strict=True)},
        client=(),
        guest_address=_USER_GUEST_ADDRESS,
        isolated=False,
    )


def _user_place(host: str) -> Place:
    echo_port, disk_port = _free_ports(host, 2)
    forwarded = ((echo_port, ECHO_PORT), (disk_port, DISK_PORT))
    options = {"hostfwd": tuple(f"tcp:{host}:{here}-:{there}" for here, there in forwarded)}
    return Place(
        address=host,
        netdev=Netdev(type="user", options=options),
        enter=(),
        service=Service(host=host, echo_port=echo_port, disk_port=disk_port),
    )


def _free_addresses(count: int) -> list[str]:
    # All of 127.0.0.0/8 is this machine's, so that each of several demos can have its own
    # addresses.
    third, fourth = random.randint(1, 254), random.randint(1, 200)  # noqa: S311 - no secret
    return [f"127.77.{third}.{fourth + n}" for n in range(count)]


def _free_ports(host: str, count: int) -> list[int]:
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        try:
            for sock in socks:
                sock.bind((host, 0))
        except OSError as error:
            raise NetworkError(f"a port on {host}: {error}") from error
        return [_port(sock.getsockname()) for sock in socks]


def _port(name: Iterable[object]) -> int:
    _, port = name
    assert isinstance(port, int)  # noqa: S101 - an IPv4 socket's name is an address and a port
    return port


def leftovers() -> list[str]:
    """The names of the network namespaces that this process made and that still exist."""
    return sorted(path.name for path in _FOLDER_OF_NAMESPACES.glob(f"pycolo-{os.getpid()}-*"))

"""A pair whose two nodes are hosts of their own to the network."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import attrs

from pycolo.demo.network import Network, Place, wrapper
from pycolo.model import ColoPair, Node


def in_namespaces(network: Network) -> Callable[[ColoPair], ColoPair]:
    """Move a pair's nodes into the hosts of a network."""

    def moved(pair: ColoPair) -> ColoPair:
        nodes = tuple(_moved(node, network.places[node.name]) for node in pair.nodes)
        (chain,) = pair.chains
        netdevs = {name: place.netdev for name, place in network.places.items()}
        chain = attrs.evolve(chain, netdev=netdevs["alpha"], netdevs=netdevs)
        return attrs.evolve(pair, nodes=nodes, spares=(), chains=(chain,))

    return moved


def _moved(node: Node, place: Place) -> Node:
    program = Path(node.image_folder) / "qemu"
    wrapper(program, place.enter, Path(node.qemu_binary))
    address = place.address
    return attrs.evolve(node, address=address, listen_address=address, qemu_binary=str(program))


def plug(network: Network, name: str, state: str) -> None:
    """Plug a host's cable to the other one in (`up`) or out (`down`)."""
    _on(network, name, "ip", "link", "set", "dev", "colo", state)


def acknowledge_at_once(network: Network, name: str) -> None:
    """Have a host acknowledge what the other one sends without waiting for data of its own."""
    (peer,) = (place.address for node, place in network.places.items() if node != name)
    route = ("ip", "route", "replace", f"{peer}/32", "dev", "colo", "quickack", "1")
    _on(network, name, *route)


def hold_at_most(network: Network, most_bytes: int) -> None:
    """Let each new TCP connection hold no more than this on either host, to be sent or read."""
    for name in network.places:
        for buffer in ("net.ipv4.tcp_wmem=4096 16384", "net.ipv4.tcp_rmem=4096 65536"):
            _on(network, name, "sysctl", "-qw", f"{buffer} {most_bytes}")


def swallow(network: Network, name: str, port: int) -> None:
    """Lose what a host answers from a TCP port: to others the port seems to take all in silence."""
    _on(network, name, *_rule("add", port))


def let_through(network: Network, name: str, port: int) -> None:
    """Undo `swallow`."""
    _on(network, name, *_rule("delete", port))


def _rule(verb: str, port: int) -> tuple[str, ...]:
    return ("ip", "rule", verb, "ipproto", "tcp", "sport", str(port), "blackhole")


def _on(network: Network, name: str, *command: str) -> None:
    subprocess.run((*network.places[name].enter, *command), check=True)

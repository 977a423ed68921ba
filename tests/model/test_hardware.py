"""The guest's hardware in a declaration; what is refused of it is in tests/test_bad_input.py."""

from __future__ import annotations

import attrs
import pytest
from tests.compiler.cases import with_hardware

from pycolo import topology
from pycolo.errors import DeclarationError
from pycolo.model import Channel, Vnc, port_collisions


def test_devices_are_made_in_the_order_of_what_stands_on_what() -> None:
    """Controllers first, then cards and disks, then drives and channels."""
    drivers = [device.driver for device in topology.guest_devices(with_hardware())]

    assert drivers[:2] == ["virtio-scsi-pci", "virtio-serial-pci"]
    assert drivers[-6:-4] == ["virtio-net-pci", "scsi-hd"]
    assert drivers[-4:] == ["ide-cd", "ide-cd", "virtserialport", "isa-serial"]


def test_what_a_device_is_told_has_one_order() -> None:
    """Whatever the order in a file, a saved plan and a new one have the same command line."""
    disk = with_hardware().disks[0]
    turned = attrs.evolve(disk, properties=dict(reversed([*disk.properties.items()])))

    assert list(topology.disk_device(disk).properties) == list(
        topology.disk_device(turned).properties
    )


def test_sockets_of_channels_fit_into_the_kernels_limit() -> None:
    """The run directory of a node may be too long for one of many channels."""
    pair = with_hardware()
    first, second = pair.nodes
    long = attrs.evolve(first, vnc=None, run_dir="/" + 92 * "r")
    machine = attrs.evolve(pair.machine, channels=tuple(Channel() for _ in range(11)))

    attrs.evolve(pair, nodes=(long, second), chains=())
    with pytest.raises(DeclarationError, match="107 bytes"):
        attrs.evolve(pair, nodes=(long, second), chains=(), machine=machine)


def test_screens_of_two_pairs_collide_on_one_port() -> None:
    """Whoever places pairs on hosts is told of their screens as of their other ports."""
    pair = with_hardware()
    screen = Vnc(host="127.0.0.1", port=5901)
    nodes = tuple(
        attrs.evolve(node, vnc=None, address=f"198.51.100.{n}", listen_address=f"198.51.100.{n}")
        for n, node in enumerate(pair.nodes, 1)
    )
    one = attrs.evolve(pair, spares=(), nodes=(attrs.evolve(nodes[0], vnc=screen), nodes[1]))
    ports = attrs.evolve(one.ports, base=7000, migration=7000, nbd=7001)
    chains = tuple(attrs.evolve(chain, ports=None) for chain in one.chains)
    other = attrs.evolve(one, name="vm1", ports=ports, chains=chains)

    (collision,) = port_collisions((one, other))
    assert (5901, "vnc.port") == (collision.port, collision.first.field)

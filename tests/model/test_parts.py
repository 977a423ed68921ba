"""The machine, its disks and its cards."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycolo.errors import DeclarationError
from pycolo.model import (
    ChainIds,
    ChainPorts,
    DiskIds,
    FilterChain,
    Machine,
    Netdev,
    ReplicationDisk,
)

CHAIN = FilterChain(netdev=Netdev(type="tap"))


def test_the_first_disk_and_chain_have_the_documents_names() -> None:
    """Who knows QEMU's document finds its names in every plan."""
    disk, chain, ports = DiskIds.numbered(0), ChainIds.numbered(0), ChainPorts.numbered(0)
    assert ("colo-disk0", "parent0", "childs0") == (disk.quorum, disk.parent, disk.replication)
    assert ("hn0", "e0", "m0", "comp0") == (
        chain.netdev,
        chain.device,
        chain.filter_mirror,
        chain.compare,
    )
    assert (9003, 9004, 9001, 9005) == attrs.astuple(ports)


@pytest.mark.property
@given(st.sets(st.integers(0, 90), min_size=2, max_size=2))
def test_no_two_places_share_a_name_or_port(places: set[int]) -> None:
    """Ids and ports of different disks and chains differ by construction."""
    for numbered in (DiskIds.numbered, ChainIds.numbered, ChainPorts.numbered):
        used = [value for n in places for value in attrs.astuple(numbered(n))]
        assert len(set(used)) == len(used)


@pytest.mark.property
@given(st.integers(0, 90))
def test_the_ports_of_a_chain_are_not_those_of_the_pair(n: int) -> None:
    """However many cards there are, migration and NBD keep the document's ports."""
    assert not {9998, 9999} & set(attrs.astuple(ChainPorts.numbered(n)))


@pytest.mark.parametrize(
    ("model", "vnet_hdr", "expected"),
    [
        ("rtl8139", None, False),
        ("rtl8139", True, True),
        ("e1000", False, False),
        ("virtio-net-pci", None, True),
        ("virtio-net-pci", True, True),
        ("virtio-net", None, True),
    ],
)
def test_one_fact_decides_about_vnet_headers(
    *, model: str, vnet_hdr: bool | None, expected: bool
) -> None:
    """The card decides, and the declaration may add headers where the card needs none."""
    chain = attrs.evolve(CHAIN, model=model, vnet_hdr=vnet_hdr)
    assert expected is chain.vnet_hdr_support


def test_a_virtio_card_without_vnet_headers_is_refused() -> None:
    """The guest's connections would die with the first failover (qemu-behaviour 6.5)."""
    with pytest.raises(DeclarationError, match=r"FilterChain\.vnet_hdr must not be false"):
        attrs.evolve(CHAIN, model="virtio-net-pci", vnet_hdr=False)


def test_a_nodes_own_netdev_goes_before_the_common_one() -> None:
    """Hosts name their taps differently."""
    own = Netdev(type="tap", options={"ifname": "tap7"})
    chain = attrs.evolve(CHAIN, netdevs={"gamma": own})
    assert (CHAIN.netdev, own) == (chain.netdev_on("alpha"), chain.netdev_on("gamma"))


@pytest.mark.parametrize("name", ["vhostforce", "vhostfd", "vhostfds", "queues", "fds", "ifnames"])
def test_what_filters_cannot_see_is_refused(name: str) -> None:
    """Packets that go past QEMU's filters would reach one guest and not the other."""
    with pytest.raises(DeclarationError, match=rf"Netdev\.options\.{name} must not be set"):
        Netdev(type="tap", options={name: "1"})


def test_lists_become_tuples() -> None:
    """What was declared cannot be changed through the list it was made from."""
    arguments, forwards = ["-vga", "none"], ["tcp::22-:22"]
    machine = Machine(arguments=arguments)
    netdev = Netdev(type="user", options={"hostfwd": forwards})
    arguments.append("-S")
    forwards.append("x")
    assert ("-vga", "none") == machine.arguments
    assert {"hostfwd": ("tcp::22-:22",)} == netdev.options


@pytest.mark.parametrize(
    "option", ["-incoming", "--incoming", "-S", "-qmp", "-drive", "-daemonize"]
)
def test_options_that_are_not_known_to_be_safe_are_refused(option: str) -> None:
    """A second `-incoming` or a monitor of one's own would undo what the plan rests on."""
    with pytest.raises(DeclarationError, match=r"Machine\.arguments\[0\] must be one of -action"):
        Machine(arguments=(option, "x"))


def test_a_kernels_companions_need_a_kernel() -> None:
    """QEMU refuses them alone, and only when it starts."""
    with pytest.raises(DeclarationError, match=r"Machine\.initrd must go with a kernel"):
        Machine(initrd="/initrd")
    with pytest.raises(DeclarationError, match=r"Machine\.append must go with a kernel"):
        Machine(append="quiet")


def test_images_of_a_disk_are_three_files() -> None:
    """The overlays are not the image."""
    with pytest.raises(
        DeclarationError, match=r"ReplicationDisk\.active_image must differ from image"
    ):
        ReplicationDisk(size_bytes=512, image="a", active_image="a")


@pytest.mark.parametrize("size_bytes", [512, 10 * 2**30, 2**63 - 512])
def test_sizes_are_whole_sectors(size_bytes: int) -> None:
    """From one sector to the largest image that QEMU addresses."""
    assert size_bytes == ReplicationDisk(size_bytes=size_bytes).size_bytes
    with pytest.raises(DeclarationError, match=r"ReplicationDisk\.size_bytes must be a"):
        ReplicationDisk(size_bytes=size_bytes + 1)

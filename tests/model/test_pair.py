"""A pair as a whole: what its parts may not share, and how nodes change places."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from tests.strategies import pairs

from pycolo.errors import DeclarationError
from pycolo.model import (
    ChainIds,
    ChainPorts,
    ColoPair,
    DiskIds,
    FilterChain,
    Netdev,
    Node,
    Ports,
    ReplicationDisk,
    Supervision,
)

ALPHA, BETA, GAMMA = (
    Node(name=name, address=f"192.0.2.{n}", image_folder="/images", run_dir=f"/run/{name}")
    for n, name in enumerate(("alpha", "beta", "gamma"), start=1)
)
DISK = ReplicationDisk(size_bytes=512)
OTHER = ReplicationDisk(size_bytes=512, image="b", active_image="b-active", hidden_image="b-hidden")
CHAIN = FilterChain(netdev=Netdev(type="user"))
PAIR = ColoPair(
    name="colo", nodes=(ALPHA, BETA), spares=(GAMMA,), disks=(DISK, OTHER), chains=(CHAIN, CHAIN)
)


def test_parts_are_numbered_by_their_place() -> None:
    """Names and ports that are not given are those of the disk's and the chain's place."""
    assert [DiskIds.numbered(0), DiskIds.numbered(1)] == [disk.names for disk in PAIR.disks]
    assert [ChainIds.numbered(0), ChainIds.numbered(1)] == [chain.names for chain in PAIR.chains]
    ports = [chain.proxy_ports for chain in PAIR.chains]
    assert [ChainPorts.numbered(0), ChainPorts.numbered(1)] == ports


def test_names_set_by_hand_are_kept() -> None:
    """Numbering fills in and never overwrites."""
    ids = attrs.evolve(DiskIds.numbered(0), quorum="data")
    pair = attrs.evolve(
        PAIR,
        disks=(DISK, attrs.evolve(OTHER, ids=attrs.evolve(DiskIds.numbered(1), quorum="data"))),
    )
    assert "data" == pair.disks[1].names.quorum
    assert "data" == attrs.evolve(PAIR, disks=(attrs.evolve(DISK, ids=ids),)).disks[0].names.quorum


def test_nodes_are_found_by_name() -> None:
    """Spares are nodes as well, but nobody's peer."""
    assert [ALPHA, BETA, GAMMA] == [PAIR.node(name) for name in ("alpha", "beta", "gamma")]
    assert (BETA, ALPHA) == (PAIR.peer_of("alpha"), PAIR.peer_of("beta"))
    with pytest.raises(
        DeclarationError, match="node must be one of alpha, beta, gamma, not 'delta'"
    ):
        PAIR.node("delta")
    with pytest.raises(DeclarationError, match="node must be one of alpha, beta, not 'gamma'"):
        PAIR.peer_of("gamma")


def test_a_spare_takes_a_dead_nodes_place() -> None:
    """The spare is in the pair, and the node that left is a spare."""
    pair = PAIR.replacing("alpha", GAMMA)
    assert (GAMMA, BETA) == pair.nodes
    assert (ALPHA,) == pair.spares
    assert PAIR == pair.replacing("gamma", ALPHA)


def test_a_new_node_takes_a_dead_nodes_place() -> None:
    """A node that nobody declared before is as good as a spare."""
    delta = attrs.evolve(GAMMA, name="delta", address="192.0.2.4", run_dir="/run/pycolo/delta")
    pair = PAIR.replacing("beta", delta)
    assert (ALPHA, delta) == pair.nodes
    assert (GAMMA, BETA) == pair.spares


def test_a_node_replaced_by_itself_changes_nothing() -> None:
    """A host that came back takes its own place, also as it was declared without folders."""
    assert PAIR == PAIR.replacing("alpha", ALPHA)
    alpha = attrs.evolve(ALPHA, run_dir=None)
    pair = attrs.evolve(PAIR, nodes=(alpha, BETA))
    assert pair == pair.replacing("alpha", alpha)


def test_only_a_node_of_the_pair_can_be_replaced() -> None:
    """A spare holds no place to take."""
    with pytest.raises(DeclarationError, match="node must be one of alpha, beta, not 'gamma'"):
        PAIR.replacing("gamma", GAMMA)


@pytest.mark.property
@given(pairs())
def test_no_id_and_no_port_is_used_twice(pair: ColoPair) -> None:
    """Whatever is declared, every id of QEMU and every port of a host has one owner."""
    ids = [
        *(value for disk in pair.disks for value in attrs.astuple(disk.names)),
        *(value for chain in pair.chains for value in attrs.astuple(chain.names)),
    ]
    ports = [
        *attrs.astuple(pair.ports),
        *(value for chain in pair.chains for value in attrs.astuple(chain.proxy_ports)),
    ]
    assert len(set(ids)) == len(ids)
    assert len(set(ports)) == len(ports)


@pytest.mark.property
@given(pairs())
def test_no_id_depends_on_a_nodes_name(pair: ColoPair) -> None:
    """Names are not roles: after a failover the same ids are right on the other node."""
    first, second = pair.nodes
    swapped = attrs.evolve(pair, nodes=(second, first))
    assert [d.names for d in pair.disks] == [d.names for d in swapped.disks]
    assert [c.names for c in pair.chains] == [c.names for c in swapped.chains]


def test_an_id_of_a_disk_and_one_of_a_chain_are_in_one_space() -> None:
    """The refusal names both places."""
    chain = attrs.evolve(CHAIN, ids=attrs.evolve(ChainIds.numbered(0), device="disk1"))
    rule = r"chains\[0\]\.ids\.device must differ from disks\[1\]\.ids\.device"
    with pytest.raises(DeclarationError, match=rule):
        attrs.evolve(PAIR, chains=(chain,))


def test_a_port_has_one_owner() -> None:
    """Either node comes to listen on every one of them."""
    rule = r"ColoPair\.chains\[1\]\.ports\.mirror must differ from ports\.nbd"
    with pytest.raises(DeclarationError, match=rule):
        attrs.evolve(PAIR, ports=Ports(nbd=9013))


def test_two_nodes_of_one_host_keep_apart() -> None:
    """Folders are compared as the kernel reads them, hosts by address, loopback as one host."""
    rule = r"ColoPair\.nodes\[1\]\.image_folder must differ from nodes\[0\]\.image_folder"
    spelled = (("fd00::1", "FD00:0::1"), ("a.example.org", "A.example.org."))
    for first, second in (*spelled, ("192.0.2.1", "192.0.2.1"), ("127.0.0.1", "Localhost")):
        alpha = attrs.evolve(ALPHA, address=first)
        beta = attrs.evolve(BETA, address=second, image_folder="/images/./")
        with pytest.raises(DeclarationError, match=rule):
            attrs.evolve(PAIR, nodes=(alpha, beta))
    rule = r"ColoPair\.nodes\[1\]\.run_dir must differ from nodes\[0\]\.run_dir"
    alpha = attrs.evolve(ALPHA, run_dir="/run/vm")
    beta = attrs.evolve(BETA, address=ALPHA.address, image_folder="/other", run_dir="/run/vm/")
    with pytest.raises(DeclarationError, match=rule):
        attrs.evolve(PAIR, nodes=(alpha, beta))


def test_two_cards_have_two_addresses() -> None:
    """Case makes no other MAC address."""
    first, second = (
        attrs.evolve(CHAIN, mac=mac) for mac in ("52:54:00:00:00:ab", "52:54:00:00:00:AB")
    )
    with pytest.raises(
        DeclarationError, match=r"chains\[1\]\.mac must differ from chains\[0\]\.mac"
    ):
        attrs.evolve(PAIR, chains=(first, second))


def test_a_socket_path_of_a_chain_is_held_to_the_kernels_limit() -> None:
    """A run directory that is short enough for monitors may be too long for a chain's sockets."""
    folder = "/" + "r" * 90
    assert folder == attrs.evolve(ALPHA, run_dir=folder).run_dir
    with pytest.raises(DeclarationError, match=r"nodes\[0\]\.run_dir must not make a socket path"):
        attrs.evolve(PAIR, nodes=(attrs.evolve(ALPHA, run_dir=folder), BETA))


@pytest.mark.parametrize("nodes", [(), (ALPHA,), (ALPHA, BETA, GAMMA)])
def test_a_pair_has_two_nodes(nodes: tuple[Node, ...]) -> None:
    """Not fewer and not more; further ones are spares."""
    with pytest.raises(DeclarationError, match=r"ColoPair\.nodes must be exactly two nodes"):
        attrs.evolve(PAIR, nodes=nodes)


def test_limit_that_each_checkpoint_delay_exceeds_is_refused() -> None:
    """A pair that works would be suspected again and again."""
    limits = Supervision(no_checkpoint_s=20.0)
    rule = "no_checkpoint_s must be longer than checkpoint_delay_ms \\(20000\\), not 20"
    with pytest.raises(DeclarationError, match=rule):
        attrs.evolve(PAIR, checkpoint_delay_ms=20000, supervision=limits)
    longer = attrs.evolve(PAIR, checkpoint_delay_ms=19999, supervision=limits)
    assert longer.checkpoint_delay_ms == 19999

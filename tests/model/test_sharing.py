"""Several pairs on the same hosts."""

import attrs
import pytest

from pycolo.errors import DeclarationError
from pycolo.model import (
    ChainPorts,
    ColoPair,
    FilterChain,
    Netdev,
    Node,
    Ports,
    ReplicationDisk,
    TcpMonitor,
)
from pycolo.model.sharing import port_collisions, refuse_collisions

ONE = {"alpha": "rack1", "beta": "rack2"}
OTHER = {"alpha": "rack2", "beta": "rack1"}


def declared(name: str, *, base: int = 9990, address: str = "192.0.2") -> ColoPair:
    """A pair with one card, whose ports stand together."""
    return ColoPair(
        name=name,
        nodes=[
            Node(name=node, address=f"{address}.{n}", image_folder=f"/images/{name}")
            for n, node in enumerate(("alpha", "beta"), 1)
        ],
        chains=[
            FilterChain(
                netdev=Netdev(type="user"),
                ports=ChainPorts(
                    mirror=base + 2,
                    compare_in=base + 3,
                    compare_local=base + 4,
                    compare_out=base + 5,
                ),
            )
        ],
        ports=Ports(migration=base, nbd=base + 1),
    )


def test_two_pairs_of_one_declaration_collide_on_all_ports() -> None:
    """Both nodes of each may listen on all of them; what is a unix socket is none."""
    found = port_collisions([declared("one"), declared("two")], {"one": ONE, "two": ONE})
    assert [(host, port) for host in ("rack1", "rack2") for port in range(9990, 9994)] == [
        (collision.host, collision.port) for collision in found
    ]
    assert "port 9990 of rack1: one/alpha ports.migration and two/alpha ports.migration" == str(
        found[0]
    )


def test_pairs_with_ports_of_their_own_share_hosts() -> None:
    """Nothing collides, whichever node is on which host."""
    pairs = [declared("one"), declared("two", base=9980)]
    assert () == port_collisions(pairs, {"one": ONE, "two": OTHER})


def test_addresses_of_one_host_have_ports_of_their_own() -> None:
    """They collide only where one of them listens on all addresses."""
    one, two = declared("one"), declared("two", address="198.51.100")
    hosts = {"one": ONE, "two": ONE}
    assert () == port_collisions([one, two], hosts)
    everywhere = [attrs.evolve(node, listen_address="0.0.0.0") for node in two.nodes]  # noqa: S104
    assert port_collisions([one, attrs.evolve(two, nodes=everywhere)], hosts)


def test_spares_and_monitors_count() -> None:
    """A spare may become a node tomorrow, and a monitor listens today."""
    spare = Node(name="gamma", address="192.0.2.1", image_folder="/spare")
    one = attrs.evolve(declared("one"), spares=[spare])
    two = declared("two", base=9980)
    monitor = TcpMonitor(host="127.0.0.1", port=9990)
    nodes = [attrs.evolve(two.nodes[0], control=monitor), two.nodes[1]]
    everywhere = attrs.evolve(one, spares=[attrs.evolve(spare, listen_address="0.0.0.0")])  # noqa: S104
    hosts = {"one": {"alpha": "a", "beta": "b", "gamma": "c"}, "two": {"alpha": "c", "beta": "d"}}
    (found,) = port_collisions([everywhere, attrs.evolve(two, nodes=nodes)], hosts)
    assert ("gamma", "control") == (found.first.node, found.second.field)


def test_pair_without_a_name_or_a_host_of_its_own_is_refused() -> None:
    """Nobody could tell which one collides, or where."""
    with pytest.raises(DeclarationError, match="be given once"):
        port_collisions([declared("one"), declared("one")], {"one": ONE})
    with pytest.raises(DeclarationError, match=r"hosts\.one must have an entry for beta"):
        port_collisions([declared("one")], {"one": {"alpha": "rack1"}})


def test_base_gives_a_pair_ports_of_its_own() -> None:
    """One number for each pair; what is given beside it stays."""
    alike = attrs.evolve(declared("one"), chains=[FilterChain(netdev=Netdev(type="user"))] * 2)
    fresh = [attrs.evolve(chain, ids=None, ports=None) for chain in alike.chains]
    pair = attrs.evolve(alike, chains=fresh, ports=Ports(base=9100, nbd=7))
    assert (9100, 7) == (pair.ports.migration, pair.ports.nbd)
    assert [(9102, 9103, 9104, 9105), (9106, 9107, 9108, 9109)] == [
        attrs.astuple(chain.proxy_ports) for chain in pair.chains
    ]


@pytest.mark.parametrize("base", [0, 65001, True, "9100"])
def test_base_that_is_none_is_refused_by_its_name(base: int) -> None:
    """Whatever follows from it is not looked at first."""
    with pytest.raises(
        DeclarationError, match=r"Ports\.base must be a whole number from 1 to 65000"
    ):
        Ports(base=base)


def test_pairs_that_collide_are_refused_with_what_to_write() -> None:
    """Which ports, on which host, and a base that nobody uses; with it they run."""
    one, two = declared("one"), declared("two")
    with pytest.raises(DeclarationError) as refused:
        refuse_collisions([one, two])
    assert (
        "two: ports.migration must differ from ports.migration of one on their host 192.0.2.1"
        " (give two ports of its own, such as ports.base = 10000), not 9990"
    ) == str(refused.value)
    own = [attrs.evolve(chain, ports=None) for chain in two.chains]
    refuse_collisions([one, attrs.evolve(two, ports=Ports(base=10000), chains=own)])


def test_pairs_that_write_to_one_file_are_refused() -> None:
    """The second pair would empty overlays that hold the first pair's writes."""

    def overlays_in(folder: str, name: str, base: int) -> ColoPair:
        pair = declared(name, base=base)
        nodes = [attrs.evolve(node, overlay_folder=folder) for node in pair.nodes]
        return attrs.evolve(pair, nodes=nodes, disks=[ReplicationDisk(size_bytes=2**30)])

    first = overlays_in("/dev/shm/one", "one", 9990)
    refuse_collisions([first, overlays_in("/dev/shm/two", "two", 9980)])
    rule = (
        r"two: alpha: disks\[0\]\.active_image must differ from alpha: .* of one, on the same host"
    )
    with pytest.raises(DeclarationError, match=rule):
        refuse_collisions([first, overlays_in("/dev/shm/one", "two", 9980)])


def test_loopback_addresses_are_one_host_without_collisions() -> None:
    """A port of 127.0.0.1 is another one than that of 127.0.0.2, unless all are listened on."""
    one, two = declared("one", address="127.0.1"), declared("two", address="127.0.2")
    refuse_collisions([one, two])
    nodes = [attrs.evolve(node, listen_address="0.0.0.0") for node in two.nodes]  # noqa: S104
    with pytest.raises(DeclarationError, match="on their host localhost"):
        refuse_collisions([one, attrs.evolve(two, nodes=nodes)])


def test_node_without_a_host_is_refused_by_what_is_missing() -> None:
    """The error shows the entries that were given; the node's name is not the wrong value."""
    rule = r"hosts\.one must have an entry for alpha, not \{\}"
    with pytest.raises(DeclarationError, match=rule):
        port_collisions([declared("one")], {})

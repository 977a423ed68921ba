"""A node: where it is, what it is reached at and where its files are."""

from __future__ import annotations

import attrs
import pytest

from pycolo.errors import DeclarationError
from pycolo.model import ColoPair, Node, TcpMonitor, UnixMonitor

ALPHA = Node(
    name="alpha", address="192.0.2.1", image_folder="/images/", run_dir="/run/pycolo/p/alpha"
)


def test_what_is_not_given_follows_from_name_and_address() -> None:
    """Listeners bind the replication address alone, the record lies beside the images."""
    assert ("192.0.2.1", "/images/") == (ALPHA.listen_address, ALPHA.state_dir)
    assert UnixMonitor(path="/run/pycolo/p/alpha/control.qmp") == ALPHA.control_monitor
    assert UnixMonitor(path="/run/pycolo/p/alpha/observer.qmp") == ALPHA.observer_monitor


def test_run_directory_is_the_pairs_own() -> None:
    """Two pairs may name their nodes alike: no socket of one is taken for the other's."""
    nodes = (
        Node(name="alpha", address="192.0.2.1", image_folder="/images"),
        Node(name="beta", address="192.0.2.2", image_folder="/images"),
    )
    folders = [ColoPair(name=name, nodes=nodes).node("alpha").run_dir for name in ("p", "q")]
    assert ["/run/pycolo/p/alpha", "/run/pycolo/q/alpha"] == folders
    with pytest.raises(DeclarationError, match="must be given for a node outside a pair"):
        nodes[0].run_path("m0")


def test_monitors_can_be_set_by_hand() -> None:
    """A monitor that is declared is the one that is used."""
    control, observer = UnixMonitor(path="/run/c"), TcpMonitor(host="127.0.0.1", port=4444)
    node = attrs.evolve(ALPHA, control=control, observer=observer)
    assert (control, observer) == (node.control_monitor, node.observer_monitor)


def test_paths_are_those_of_its_folders() -> None:
    """A slash at a folder's end makes no double one."""
    assert "/images/primary.qcow2" == ALPHA.image_path("primary.qcow2")
    assert "/run/pycolo/p/alpha/m0.sock" == ALPHA.socket_path("m0")


def test_one_monitor_cannot_serve_two_clients() -> None:
    """The writer's monitor is not the readers', whichever way both are named."""
    monitor = UnixMonitor(path="/run/pycolo/p/alpha/observer.qmp")
    beta = Node(name="beta", address="192.0.2.2", image_folder="/images/")
    with pytest.raises(
        DeclarationError, match=r"nodes\[0\]\.observer must differ from nodes\[0\]\.c"
    ):
        ColoPair(name="p", nodes=(attrs.evolve(ALPHA, control=monitor), beta))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_tcp_monitor_is_on_loopback(host: str) -> None:
    """Whoever reaches a monitor owns the guest, so it is reached from the host alone."""
    assert host == TcpMonitor(host=host, port=4444).host


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example"])  # noqa: S104 - refused
def test_a_tcp_monitor_elsewhere_is_refused(host: str) -> None:
    """QMP has neither password nor encryption here."""
    with pytest.raises(DeclarationError, match=r"TcpMonitor\.host must be a loopback address"):
        TcpMonitor(host=host, port=4444)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "node-1.example", "fe80::1%eth0"])
def test_an_address_is_a_name_or_an_ip_address(address: str) -> None:
    """Names and addresses of both families are taken as they are; nothing is looked up."""
    assert address == attrs.evolve(ALPHA, address=address).address


def test_the_longest_socket_path_is_admitted() -> None:
    """107 bytes fit into the kernel's address, 108 do not, and bytes are not characters."""
    folder = "/" + "r" * (107 - len("/" + "/observer.qmp"))
    assert folder == attrs.evolve(ALPHA, run_dir=folder).run_dir
    with pytest.raises(DeclarationError, match=r"Node\.run_dir must not make a socket path"):
        attrs.evolve(ALPHA, run_dir=folder + "r")
    with pytest.raises(DeclarationError, match=r"Node\.run_dir must not make a socket path"):
        attrs.evolve(ALPHA, run_dir=folder[:-1] + "é")

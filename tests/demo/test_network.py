"""The demo's networks, on the real kernel."""

import os
import subprocess
from pathlib import Path

import pytest

from pycolo.demo import network
from pycolo.demo.network import NetworkError, namespaces, user_networks, wrapper

NODES = ("alpha", "beta")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


def said(*argv: str) -> str:
    """Run a program that must end well, and give what it says."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_wrapper_runs_its_program_under_its_own_process_id(tmp_path: Path) -> None:
    """The process that was started becomes the program, with all arguments, in its place."""
    script = tmp_path / "the program"
    script.write_text('#!/bin/sh\necho "$$ $PLACE $1"\n')
    script.chmod(0o755)
    program = wrapper(tmp_path / "wrapped", ("env", "PLACE=here"), script)
    with subprocess.Popen([program, "two words"], stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate()
    assert f"{process.pid} here two words\n" == output


def test_user_networks_give_each_node_an_address_and_ports_of_its_own() -> None:
    """Two QEMUs on one machine share no address, and each forwards two ports to the guest."""
    with user_networks(NODES) as made:
        alpha, beta = (made.places[node] for node in NODES)
        assert not made.isolated
        assert made.cable is None
        assert alpha.address != beta.address
        assert alpha.address.startswith("127.")
        service = alpha.service
        assert service.host == alpha.address
        assert service.echo_port != service.disk_port
        expected = (
            f"tcp:{service.host}:{service.echo_port}-:7",
            f"tcp:{service.host}:{service.disk_port}-:9000",
        )
        assert expected == alpha.netdev.options["hostfwd"]


@needs_root
def test_namespaces_connect_the_hosts_and_leave_nothing() -> None:
    """Host reaches host, host and client share a bridge, and all of it is gone afterwards."""
    with namespaces(NODES) as made:
        assert 3 == len(network.leftovers())
        alpha, beta = (made.places[node] for node in NODES)
        route = said(*alpha.enter, "ip", "route", "get", beta.address)
        assert "dev colo" in route
        ports = said(*made.client, "ip", "-brief", "link", "show", "master", "lan")
        assert ["to-alpha", "to-beta"] == sorted(line.split("@")[0] for line in ports.splitlines())
        ports = said(*beta.enter, "ip", "-brief", "link", "show", "master", "lan")
        assert ["tap0", "uplink"] == sorted(
            line.split()[0].split("@")[0] for line in ports.splitlines()
        )
        assert "inet6" not in said(*alpha.enter, "ip", "address")
    assert [] == network.leftovers()


@needs_root
def test_cable_that_is_cut_is_down_at_both_ends_until_it_is_mended() -> None:
    """Neither host has a link then, and both keep their addresses."""
    with namespaces(NODES) as made:
        assert made.cable is not None
        ends = [made.places[node].enter for node in NODES]

        def links() -> list[bool]:
            return ["state UP" in said(*end, "ip", "link", "show", "colo") for end in ends]

        made.cable.cut()
        assert [False, False] == links()
        made.cable.mend()
        assert [True, True] == links()
        route = said(*ends[0], "ip", "route", "get", made.places["beta"].address)
        assert "dev colo" in route


@needs_root
def test_namespaces_are_deleted_after_an_error() -> None:
    """Whatever ends the block, the namespaces end with it."""
    with pytest.raises(KeyboardInterrupt), namespaces(NODES):
        raise KeyboardInterrupt
    assert [] == network.leftovers()


@needs_root
def test_namespaces_that_cannot_be_made_whole_are_not_made() -> None:
    """An error in the middle of the making names the command and leaves nothing behind."""
    with pytest.raises(NetworkError, match="File exists"), namespaces(("alpha", "alpha")):
        pass
    assert [] == network.leftovers()


@needs_root
def test_namespaces_of_a_demo_that_was_killed_are_deleted_by_the_next() -> None:
    """What a process could not clear up is recognised by its process id, and cleared up."""
    with subprocess.Popen(["true"]) as ended:
        pass
    orphan = f"pycolo-{ended.pid}-alpha"
    said("ip", "netns", "add", orphan)
    with namespaces(NODES):
        assert orphan not in said("ip", "netns")


def test_without_ip_the_error_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without iproute2 is told apart from one that refuses."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NetworkError, match=r"ip netns add .*No such file"), namespaces(NODES):
        pass

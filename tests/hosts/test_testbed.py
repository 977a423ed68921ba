"""What the tests of several hosts rest on: nothing that one writes reaches another one."""

from __future__ import annotations

import itertools

import pytest
from tests.hosts.testbed import STATE, Host, Testbed

pytestmark = [pytest.mark.qemu]


def _writable(host: Host) -> frozenset[tuple[str, str]]:
    """The file systems, and the folders of them, that a host can write to; its devices aside."""
    found = host.run("cat", "/proc/self/mountinfo")
    assert 0 == found.returncode, found.stderr
    places = []
    for line in found.stdout.splitlines():
        _, _, device, folder, place, options, *_ = line.split()
        if "rw" in options.split(",") and not place.startswith(("/proc", "/dev")):
            places.append((device, folder))
    return frozenset(places)


def test_no_writable_place_is_shared(hosts: Testbed) -> None:
    """Each host writes to file systems and folders that no other one has, the controller too."""
    places = {name: _writable(host) for name, host in hosts.hosts.items()}
    assert all(places.values())
    for first, second in itertools.combinations(places, 2):
        assert not places[first] & places[second], (first, second)


def test_controller_sees_no_files_of_a_host(hosts: Testbed) -> None:
    """What a host keeps is seen there alone, and outlives its power."""
    alpha = hosts.hosts["alpha"]
    alpha.run("touch", f"{STATE}/kept", "/tmp/lost")
    for host in (hosts.controller, hosts.hosts["beta"]):
        assert 0 != host.run("ls", f"{STATE}/kept").returncode
    alpha.power_off()
    alpha.boot()
    assert (True, False) == (
        0 == alpha.run("ls", f"{STATE}/kept").returncode,
        0 == alpha.run("ls", "/tmp/lost").returncode,
    )
    alpha.run("rm", f"{STATE}/kept")


def test_processes_and_names_are_apart(hosts: Testbed) -> None:
    """Each host has a name, a machine id and a boot of its own, and sees its own processes."""
    told = {
        name: host.run("sh", "-c", "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id")
        for name, host in hosts.hosts.items()
    }
    lines = [done.stdout.splitlines() for done in told.values()]
    assert list(told) == [line[0] for line in lines]
    assert [4, 4] == [len({line[n] for line in lines}) for n in (1, 2)]
    for host in hosts.hosts.values():
        assert "pytest" not in host.run("ps", "ax").stdout

"""A whole life of a pair on three hosts, from a controller that reaches nothing but their sshds."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import NamedTuple

import pytest
from tests.hosts.testbed import NODE, STATE, Testbed, separate_hosts, why_none
from tests.real_qemu import build_of

from pycolo.demo.builds import Release

SIZE_BYTES = 1 << 20
PAIR = "/tmp/pair.toml"
REST = """
[machine]
accelerator = "{accelerator}"
memory_mib = 32

[[disks]]
size_bytes = {size_bytes}

[[chains]]
model = "rtl8139"
[chains.netdev]
type = "tap"
options = {{ ifname = "tap0", script = "no", downscript = "no" }}
"""


class Said(NamedTuple):
    """What a command has written."""

    out: str
    err: str


class Life:
    """A pair whose controller has only its file and the way to the hosts."""

    def __init__(self, hosts: Testbed, release: Release, accelerator: str) -> None:
        """Write the pair file, and put the guest's image where its first primary is."""
        self.hosts = hosts
        build = build_of(release).prefix
        nodes = [
            NODE.format(
                name=name,
                address=host.address,
                management=host.management,
                state=STATE,
                build=build,
            )
            for name, host in hosts.hosts.items()
            if host is not hosts.controller
        ]
        head = 'format_version = 1\nname = "shop"\n'
        rest = REST.format(accelerator=accelerator, size_bytes=SIZE_BYTES)
        # A script of the build finds its libraries by its own place.
        self._write("".join((head, *nodes, rest)))
        image = ("create", "-q", "-f", "qcow2", f"{STATE}/primary.qcow2", str(SIZE_BYTES))
        done = hosts.hosts["alpha"].run(f"{build}/bin/qemu-img", *image)
        assert 0 == done.returncode, done.stderr

    def _write(self, text: str) -> None:
        done = self.hosts.controller.run("sh", "-c", f"cat >{PAIR} <<'END'\n{text}\nEND")
        assert 0 == done.returncode, done.stderr

    def does(self, verb: str, *words: str, code: int = 0) -> Said:
        """Run a command of `pycolo` on the pair, and see it end with a code."""
        order, *rest = words or ("",)
        argv = (verb, order, PAIR, *rest) if order else (verb, PAIR)
        done = self.hosts.pycolo(*argv)
        said = f"{' '.join(argv)}\n{done.stdout}\n{done.stderr}"
        assert code == done.returncode, said
        return Said(done.stdout, done.stderr)

    def roles(self) -> dict[str, str]:
        """What each node is that has a QEMU."""
        done = self.hosts.pycolo("status", PAIR, "--as", "json")
        assert 0 == done.returncode, done.stderr
        roles: dict[str, str] = json.loads(done.stdout)["roles"]
        return {name: role for name, role in roles.items() if role != "unreachable"}

    def kill_qemu(self, name: str) -> None:
        """End the QEMU of a host, and nothing else there."""
        known = self.hosts.hosts[name].run("cat", f"{STATE}/primary.qcow2.process.json")
        pid = json.loads(known.stdout)["current"]["pid"]
        done = self.hosts.hosts[name].run("kill", "-9", str(pid))
        assert 0 == done.returncode, done.stderr

    def record(self, name: str) -> dict[str, object]:
        """What a host keeps."""
        known = self.hosts.hosts[name].run("cat", f"{STATE}/primary.qcow2.record.json")
        found: dict[str, object] = json.loads(known.stdout)
        return found


@pytest.fixture
def hosts() -> Generator[Testbed]:
    """Three hosts of their own for each life."""
    why = why_none()
    if why is not None:
        pytest.skip(why)
    with separate_hosts(build_of("11.1").prefix.parent, ("alpha", "beta", "gamma")) as made:
        yield made


def _live(life: Life) -> None:
    life.does("run", "launch")
    life.does("run", "start")
    assert "shop: protected" in life.does("status", "--check").out

    # A QEMU alone dies: its host says so, and nobody has to.
    life.kill_qemu("alpha")
    report = json.loads(life.does("run", "failover", "--as", "json").out)
    assert ("exit", "alpha") == (
        report["evidence"]["alpha"]["kind"],
        report["evidence"]["alpha"]["who"],
    )
    assert {"beta": "unprotected"} == life.roles()

    # A spare takes its place.
    life.does("run", "launch", "--node", "gamma")
    life.does("run", "resume", "--peer", "gamma")
    assert {"beta": "primary", "gamma": "secondary"} == life.roles()

    # A whole host dies: somebody has to say so.
    life.hosts.hosts["beta"].power_off()
    assert "shop:beta:" in life.does("run", "failover", code=4).err
    life.does("run", "failover", "--fenced", "test: power off")
    assert "unprotected" == life.roles()["gamma"]
    assert ("gamma", ["gamma"]) == (
        life.record("gamma")["holder"],
        list(_mapping(life.record("gamma")["eligible"])),
    )

    # It comes back with its disk, and does not become primary by that.
    life.hosts.hosts["beta"].boot()
    assert "beta" == life.record("beta")["holder"]
    life.does("run", "launch", "--node", "beta")
    assert {"beta": "fresh secondary", "gamma": "unprotected"} == life.roles()
    life.does("run", "resume", "--peer", "beta")
    life.does("status", "--check")

    # The end of protection, and then of everything: who comes back alone must have been last.
    life.does("run", "stop")
    assert {"gamma": "unprotected"} == life.roles()
    for name in ("alpha", "beta", "gamma"):
        life.hosts.hosts[name].power_off()
        life.hosts.hosts[name].boot()
    assert "gamma holds the newest" in life.does("run", "launch", "--node", "beta", code=4).err
    life.does("run", "launch", "--node", "gamma")
    assert {"gamma": "unprotected"} == life.roles()


def _mapping(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


@pytest.mark.qemu
@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_pair_lives_on_three_hosts(hosts: Testbed) -> None:
    """Launch, protection, two deaths, a spare, a host that comes back, and the end."""
    _live(Life(hosts, "11.1", "tcg"))


@pytest.mark.qemu
@pytest.mark.heavy
@pytest.mark.nightly
@pytest.mark.timeout(300)
@pytest.mark.parametrize("release", ["7.2", "10.0"])
def test_pair_lives_on_three_hosts_with_older_qemus(hosts: Testbed, release: Release) -> None:
    """The same with what Debian 12 and 13 have; under TCG these cannot live."""
    if "kvm" not in hosts.hosts["alpha"].run("ls", "/dev").stdout:
        pytest.skip("there is no /dev/kvm here")
    _live(Life(hosts, release, "kvm"))

"""`pycolo check` over ssh: what each of two hosts finds of itself, and of the way to the other."""

from __future__ import annotations

import json
import subprocess

import pytest
from tests.hosts.testbed import NODE, STATE, SWITCH, Host, Testbed
from tests.real_qemu import build_of

pytestmark = [pytest.mark.qemu]

PAIR = "/tmp/check.toml"
REST = """
[machine]
accelerator = "tcg"
memory_mib = 32

[[disks]]
size_bytes = 1048576
"""


@pytest.fixture(scope="module")
def declared(hosts: Testbed) -> Testbed:
    """The hosts with a pair on two of them, whose image lies on the first."""
    build = build_of("11.1").prefix
    nodes = "".join(
        NODE.format(
            name=name,
            address=hosts.hosts[name].address,
            management=hosts.hosts[name].management,
            state=STATE,
            build=build,
        )
        for name in ("alpha", "beta")
    )
    text = f'format_version = 1\nname = "shop"\n{nodes}{REST}'
    _done(hosts.controller, "sh", "-c", f"cat >{PAIR} <<'END'\n{text}\nEND")
    image = f"{STATE}/primary.qcow2"
    _done(hosts.hosts["alpha"], f"{build}/bin/qemu-img", "create", "-f", "qcow2", image, "1M")
    return hosts


def _done(host: Host, *argv: str) -> None:
    done = host.run(*argv)
    assert 0 == done.returncode, done.stderr


def _checked(hosts: Testbed, code: int) -> list[tuple[str, str | None]]:
    """What is found besides TCG, by code and node; the command must end with an exit code."""
    done = hosts.pycolo("check", PAIR, "--as", "json")
    assert code == done.returncode, done.stdout + done.stderr
    (pair,) = json.loads(done.stdout)["pairs"]
    found = [(one["code"], one["node"]) for one in pair["findings"]]
    return [one for one in found if one != ("emulated", None)]


def _switch(hosts: Testbed, *words: str) -> None:
    subprocess.run(["ip", "-n", hosts.namespace(SWITCH), *words], check=True)


def test_hosts_that_are_ready_have_no_finding(declared: Testbed) -> None:
    """Both are read over ssh, monitors are carried, and each port refuses from the other host."""
    assert [] == _checked(declared, 0)


def test_packets_that_are_lost_are_a_firewall(declared: Testbed) -> None:
    """Silence is told apart from a port that is closed, from each side."""
    declared.cut("repl", "beta")
    try:
        assert [("port-blocked", "alpha"), ("port-blocked", "beta")] == _checked(declared, 4)
    finally:
        declared.heal("repl", "beta")


def test_sshd_and_large_packets_are_found(declared: Testbed) -> None:
    """An sshd that carries no sockets, and a switch that drops what is large."""
    beta = declared.hosts["beta"]
    config = beta.keys / "sshd_config"
    before = config.read_text()
    beta.power_off()
    config.write_text(before + "AllowStreamLocalForwarding no\n")
    beta.boot()
    _switch(declared, "link", "set", "r-beta", "mtu", "1000")
    try:
        expected = [
            ("not-forwarded", "beta"),
            ("mtu-not-carried", "alpha"),
            ("mtu-not-carried", "beta"),
        ]
        assert expected == _checked(declared, 4)
    finally:
        _switch(declared, "link", "set", "r-beta", "mtu", "1500")
        beta.power_off()
        config.write_text(before)
        beta.boot()

"""A pair whose QEMUs a real system's libvirt runs as the user whom Debian has for that."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path

import attrs
import pytest
from tests.libvirt_system import USER_ID, SystemDaemon, system_daemon
from tests.qemu.life import bios_pair, install, loopback, nodes, pair_folder
from tests.real_qemu import build_of

from pycolo.demo.guests import bios_counter
from pycolo.model import ColoPair
from pycolo.pairfile import dumps

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.heavy,
    pytest.mark.nightly,
    pytest.mark.timeout(900),
]


@pytest.fixture
def daemon() -> Generator[SystemDaemon]:
    """A libvirt of its own."""
    with pair_folder() as folder, system_daemon(folder) as made:
        yield made


@pytest.fixture
def pair(daemon: SystemDaemon) -> Generator[ColoPair]:
    """Two nodes of this libvirt, whose folders belong to its user."""
    with loopback() as net:
        build = daemon.build(build_of("11.1"))
        made = bios_pair(nodes(daemon.folder, "11.1", net)[:2], "tcg")
        install(made.nodes[0], made.disks)
        for node in made.nodes:
            for path in (Path(node.image_folder), *Path(node.image_folder).iterdir()):
                os.chown(path, USER_ID, USER_ID)
        by_libvirt = [
            attrs.evolve(
                node,
                qemu_binary=str(build.qemu_system),
                qemu_img_binary=str(build.qemu_img),
                libvirt=daemon.declared,
            )
            for node in made.nodes
        ]
        yield attrs.evolve(made, nodes=by_libvirt)


def _counter(pair: ColoPair, name: str) -> int:
    log = Path(pair.node(name).run_path("serial.log"))
    return bios_counter(log.read_text(encoding="ascii", errors="replace")) or 0


def test_a_whole_life_as_the_user_libvirt_qemu(daemon: SystemDaemon, pair: ColoPair) -> None:
    """As libvirt's user, with no right of root's, each node is lost once.

    libvirt changes no owner: it knows of no file of the pair.
    """
    file = daemon.folder / "pair.json"
    file.write_text(dumps(pair), encoding="utf-8")

    def run(procedure: str, *words: str) -> None:
        done = daemon.pycolo("run", procedure, str(file), *words)
        assert 0 == done.returncode, done.stderr

    def destroy(name: str) -> None:
        (domain,) = [d for d in daemon.virsh("list", "--name").stdout.split() if f":{name}:" in d]
        assert 0 == daemon.virsh("destroy", "--domain", domain).returncode

    run("launch")
    run("start")
    for lost, survivor in (("alpha", "beta"), ("beta", "alpha")):
        destroy(lost)
        run("failover", "--survivor", survivor)
        before = _counter(pair, survivor)
        run("launch")
        run("resume")
        assert _counter(pair, survivor) > before
    assert 0 == daemon.pycolo("status", str(file), "--check").returncode
    owners = {
        path.stat().st_uid for node in pair.nodes for path in Path(node.image_folder).rglob("*")
    }
    assert {USER_ID} == owners


def test_another_user_than_libvirts_is_found(daemon: SystemDaemon, pair: ColoPair) -> None:
    """By `pycolo check`, before a launch is refused; as libvirt's user there is no error."""
    file = daemon.folder / "pair.json"
    file.write_text(dumps(pair), encoding="utf-8")

    def errors(user: int) -> set[str]:
        done = daemon.pycolo("check", str(file), "--as", "json", user=user)
        said = json.loads(done.stdout)
        findings = [one for told in said["pairs"] for one in told["findings"]]
        return {one["code"] for one in findings if one["level"] == "error"}

    assert set() == errors(USER_ID)
    assert {"libvirt-user", "state-folder"} == errors(0)

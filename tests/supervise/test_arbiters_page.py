"""The page on arbiters: what it has an operator type makes a cluster, and clears a pair from it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Final

import attrs
import pytest
from tests.etcd import ETCD, Member, program
from tests.qemu.life import loopback
from tests.supervise.arbitration import LIMIT_S, PAIR, SHARED, renewed, written

from pycolo.errors import ArbiterLost
from pycolo.record import dumps, loads
from pycolo.supervise import Held
from pycolo.supervise.arbiters.etcd import EtcdArbiter, EtcdCluster

pytestmark = ETCD
PAGE: Final = Path(__file__).parents[2] / "docs/how-to/arbiters.md"
NAMES: Final = ("one", "two", "three")
START_S: Final = 30.0


def blocks(language: str) -> list[str]:
    """The page's blocks of a language, in order."""
    text = PAGE.read_text(encoding="utf-8")
    found: list[str] = re.findall(
        rf"^ *```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL
    )
    return [re.sub(r"^   ", "", block, flags=re.MULTILINE) for block in found]


def bash(script: str, folder: Path) -> None:
    """Run what the page has typed, in a folder, with etcd's program at hand."""
    (folder / "bin").mkdir(exist_ok=True)
    control = folder / "bin/etcdctl"
    control.write_text(f'#!/bin/sh\nexec {shlex.join(program("etcdctl"))} "$@"\n')
    control.chmod(0o755)
    path = f"{folder}/bin{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        check=False,
        capture_output=True,
        text=True,
    )
    assert 0 == done.returncode, done.stdout + done.stderr


def settings_of(name: str, address: str, first: str, text: str) -> dict[str, str]:
    """The page's settings, which are those of its first member, for any of them."""
    given = dict(line.split("=", 1) for line in text.splitlines())
    # What Debian's package has started by itself must not be continued as one of the three.
    assert given.pop("ETCD_DATA_DIR") != "/var/lib/etcd/default"
    everybodys = {"ETCD_INITIAL_CLUSTER": given.pop("ETCD_INITIAL_CLUSTER"), "ETCD_NAME": name}
    return {**{key: value.replace(first, address) for key, value in given.items()}, **everybodys}


def assert_clears(script: str, folder: Path) -> None:
    """A record whose arbiter's name is taken out as the page says is a record without it."""
    handed = attrs.evolve(SHARED.record, managed_by="etcd:1")
    (folder / "record.json").write_text(dumps(handed), encoding="utf-8")
    path = "/images/primary.qcow2.record.json"
    assert path in script
    bash(script.replace(path, "record.json"), folder)
    assert SHARED.record == loads((folder / "record.json").read_bytes())


async def test_what_the_page_has_typed_makes_a_cluster_for_agents(tmp_path: Path) -> None:
    """Certificates, settings and users as on the page let an agent in, with its password."""
    with loopback() as net:
        addresses = [net.address(number) for number in (1, 2, 3)]

        def here(text: str) -> str:
            for number, address in enumerate(addresses, 1):
                text = text.replace(f"10.0.0.1{number}", address)
            return text.replace("/etc/etcd", str(tmp_path))

        certificates, way, users, user, forget, clear = map(here, blocks("bash"))
        (settings,) = map(here, blocks("ini"))
        # On loopback, members reach each other from 127.0.0.1, which they check.
        bash(certificates.replace("IP:$host", "IP:$host,IP:127.0.0.1"), tmp_path)
        members = [
            Member(
                name,
                address,
                tmp_path / name,
                environment=settings_of(name, address, addresses[0], settings),
            )
            for name, address in zip(NAMES, addresses, strict=True)
        ]
        cluster = EtcdCluster(
            endpoints=tuple(f"https://{address}:2379" for address in addresses),
            ca=tmp_path / "ca.crt",
            cert=tmp_path / "agent.crt",
            key=tmp_path / "agent.key",
        )
        agent = attrs.evolve(cluster, user="pycolo", password_file=tmp_path / "agent.password")
        before, stranger, arbiter = map(EtcdArbiter, (cluster, cluster, agent))
        try:
            for member in members:
                member.start()
            await before.read(PAIR, limit_s=START_S)
            bash(way + users, tmp_path)
            await written(arbiter)
            assert await renewed(arbiter)
            bash(way + user + "etcdctl endpoint health", tmp_path)
            bash(way + user + forget, tmp_path)
            assert Held() == await arbiter.read(PAIR, limit_s=LIMIT_S)
            assert_clears(clear, tmp_path)
            with pytest.raises(ArbiterLost, match="user name is empty"):
                await stranger.read(PAIR, limit_s=LIMIT_S)
        finally:
            for one in (before, stranger, arbiter):
                await one.aclose()
            for member in members:
                member.kill()

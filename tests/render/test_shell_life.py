"""Scripts of whole procedures on a real pair."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from tests.real_qemu import build_of

from pycolo import host
from pycolo.compiler import on_paper
from pycolo.model import ColoPair, FilterChain, Machine, Netdev, Node, ReplicationDisk
from pycolo.plan import Procedure, RunHost, StopQemu
from pycolo.qmp.replies import Version
from pycolo.render import shell

SIZE_BYTES = 1048576
# A network of its own, so that ports cannot collide with anybody's.
UNSHARE = ("unshare", "--map-root-user", "--net")


@pytest.fixture
def pair() -> Iterator[ColoPair]:
    """A declared pair whose QEMUs, should they run, are ended afterwards."""
    build = build_of("11.1")
    if subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network namespace can be made here")
    with tempfile.TemporaryDirectory(prefix="py colo") as name:
        folder = Path(name)
        nodes = []
        for number, called in enumerate(("alpha", "beta"), 1):
            (folder / called).mkdir()
            nodes.append(
                Node(
                    name=called,
                    address=f"127.0.0.{number}",
                    image_folder=str(folder / called),
                    run_dir=str(folder / called / "run"),
                    qemu_binary=str(build.qemu_system),
                    qemu_img_binary=str(build.qemu_img),
                )
            )
        yield ColoPair(
            nodes=(nodes[0], nodes[1]),
            machine=Machine(accelerator="tcg", memory_mib=32),
            disks=(ReplicationDisk(size_bytes=SIZE_BYTES),),
            chains=(FilterChain(netdev=Netdev(type="user")),),
        )
        for node in nodes:
            asyncio.run(_end(node))


async def _end(node: Node) -> None:
    stop = host.watch(node)
    if stop is not None:
        stop.close()
        await host.run_action(node, StopQemu(), limit_s=10)


@pytest.mark.qemu
def test_a_pair_lives_by_scripts_alone(pair: ColoPair, tmp_path: Path) -> None:
    """Launched, protected, failed over after a kill, and resumed, by four scripts and a shell."""
    alpha = pair.nodes[0]
    image = ["create", "-q", "-f", "qcow2", alpha.image_path("primary.qcow2"), str(SIZE_BYTES)]
    subprocess.run([alpha.qemu_img_binary, *image], check=True)
    version = Version.parse(build_of("11.1").version)
    procedures: tuple[Procedure, ...] = ("launch", "start", "failover", "resume")
    for procedure in procedures:
        plan = on_paper(procedure, pair, version=version)
        (tmp_path / procedure).write_text(shell.render(plan))
    # The old primary comes back as a secondary, with images that are there already.
    launch_again = on_paper(
        "launch",
        pair,
        version=version,
        origin=on_paper("failover", pair, version=version).promise,
        nodes=("alpha",),
    )
    (tmp_path / "again").write_text(shell.render(launch_again))
    stop = RunHost(
        address="alpha/stop-qemu", node="alpha", action=StopQemu(), why="a host dies", limit_s=10
    )
    launched = on_paper("launch", pair, version=version)
    dies = attrs.evolve(launched, steps=(stop,))
    (tmp_path / "stop-qemu").write_text(shell.render(dies))
    life = """
set -e
ip link set lo up
sh launch
sh start
sh stop-qemu
echo yes | sh failover
sh again
sh resume
"""
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", life],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    ends = [line.partition(" of pair")[0] for line in done.stderr.splitlines()]
    assert ["launch", "start", "launch", "failover", "launch", "resume"] == [
        end for end in ends if end in procedures
    ]

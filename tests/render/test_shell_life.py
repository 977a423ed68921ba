"""Scripts of whole procedures on a real pair."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from tests.ending import end_all
from tests.real_qemu import build_of

from pycolo import wire
from pycolo.compiler import compile_offline
from pycolo.evidence import instance_of
from pycolo.model import ColoPair, FilterChain, Machine, Netdev, Node, ReplicationDisk
from pycolo.plan import Procedure, RunHost, StopQemu
from pycolo.qmp.replies import Version
from pycolo.render import shell

SIZE_BYTES = 1048576
# A network of its own, so that ports cannot collide with anybody's.
UNSHARE = ("unshare", "--map-root-user", "--net")
# The record says now what a person answered: what comes next is compiled from what is there. The
# old primary comes back as a secondary, with images that are there already.
AFTER_FAILOVER = """
import json, attrs
from pathlib import Path
from pycolo import record, wire
from pycolo.compiler import launch, compile_offline
from pycolo.evidence import instance_of
from pycolo.render import shell
done = wire.plan_from_json(json.loads(Path("failover.json").read_text()))
pair, version = done.pair, done.qemu["beta"]
files = {n.name: record.loads(Path(pair.record_path(n.name)).read_bytes()) for n in pair.nodes}
prior_state = attrs.evolve(done.planned_state, records=files)
# Each start has an identity of its own: the end of the first one is on record.
again = launch(pair, prior_state, qemu={"alpha": version}, nodes=("alpha",),
               instances={"alpha": instance_of("colo", "alpha", 2)})
Path("again").write_text(shell.render(again))
resume = compile_offline("resume", pair, version=version, prior_state=again.planned_state)
Path("resume").write_text(shell.render(resume))
"""


@pytest.fixture
def pair() -> Iterator[ColoPair]:
    """A declared pair whose QEMUs, should they run, are ended afterwards."""
    build = build_of("11.1")
    if subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network namespace can be made here")
    with tempfile.TemporaryDirectory(prefix="py colo", dir="/var/tmp") as name:
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
        declared = ColoPair(
            name="colo",
            nodes=(nodes[0], nodes[1]),
            machine=Machine(accelerator="tcg", memory_mib=32),
            disks=(ReplicationDisk(size_bytes=SIZE_BYTES),),
            chains=(FilterChain(netdev=Netdev(type="user")),),
        )
        yield declared
        asyncio.run(end_all(declared))


@pytest.mark.qemu
def test_a_pair_lives_by_scripts_alone(pair: ColoPair, tmp_path: Path) -> None:
    """Launched, protected, failed over after a kill, and resumed, by four scripts and a shell."""
    alpha = pair.nodes[0]
    image = ["create", "-q", "-f", "qcow2", alpha.image_path("primary.qcow2"), str(SIZE_BYTES)]
    subprocess.run([alpha.qemu_img_binary, *image], check=True)
    version = Version.parse(build_of("11.1").version)
    procedures: tuple[Procedure, ...] = ("launch", "start", "failover")
    for procedure in procedures:
        plan = compile_offline(procedure, pair, version=version)
        (tmp_path / procedure).write_text(shell.render(plan))
    failed_over = wire.plan_to_json(compile_offline("failover", pair, version=version))
    (tmp_path / "failover.json").write_text(wire.dumps(failed_over))
    stop = RunHost(
        address="alpha/stop-qemu",
        node="alpha",
        action=StopQemu(instance=instance_of("colo", "alpha", 1)),
        why="a host dies",
        limit_s=10,
    )
    launched = compile_offline("launch", pair, version=version)
    dies = attrs.evolve(launched, steps=(stop,))
    (tmp_path / "stop-qemu").write_text(shell.render(dies))
    life = """
set -e
ip link set lo up
sh launch
sh start
sh stop-qemu
echo yes | sh failover
"$python" -c "$after_failover"
sh again
sh resume
"""
    given = (f"python={sys.executable}", f"after_failover={AFTER_FAILOVER}")
    done = subprocess.run(
        [*UNSHARE, "env", *given, "sh", "-c", life],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    ends = [line.partition(" of pair")[0] for line in done.stderr.splitlines()]
    assert ["launch", "start", "launch", "failover", "launch", "resume"] == [
        end for end in ends if end in (*procedures, "resume")
    ]

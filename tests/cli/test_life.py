"""`pycolo run`, `apply` and `status` on a real pair, from launch to stop."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest
from tests.ending import end_all
from tests.real_qemu import build_of

from pycolo import journal, pairfile
from pycolo.render import html, timeline

PAIR = """\
format_version = 1
name = "colo"

[[nodes]]
name = "alpha"
address = "127.0.0.1"
image_folder = "{folder}/alpha"
run_dir = "{folder}/run-alpha"
qemu_binary = "{qemu}"
qemu_img_binary = "{qemu_img}"

[[nodes]]
name = "beta"
address = "127.0.0.2"
image_folder = "{folder}/beta"
run_dir = "{folder}/run-beta"
qemu_binary = "{qemu}"
qemu_img_binary = "{qemu_img}"

[machine]
accelerator = "tcg"
memory_mib = 32

[[disks]]
size_bytes = 1048576

[[chains]]
netdev = {{ type = "user" }}
"""

# A network of its own, so that ports cannot collide with anybody's.
UNSHARE = ("unshare", "--map-root-user", "--net")

# What is asked for, and on standard output what each command ended with.
LIFE = """
ip link set lo up
pycolo() { "$python" -c 'from pycolo.cli import main; main()' "$@"; }
ended() { echo "$1 $2"; }
pycolo run launch pair.toml >launch.txt; ended launch $?
pycolo run start pair.toml --journal start.jsonl --as json >start.json; ended start $?
pycolo status pair.toml --as json >protected.json; ended status $?
pycolo plan set-checkpoint-delay pair.toml --ms 700 --from protected.json --as json >delay.json
pycolo apply delay.json >delay.txt; ended apply $?
sed 's/"x-checkpoint-delay": 700/&, "x-more": 1/' delay.json >more.json
pycolo apply more.json; ended apply-unknown-key $?
pycolo run failover pair.toml --survivor beta >unproven.txt; ended unproven $?
pycolo run failover pair.toml --survivor beta --fenced 'ops: said so' >alive.txt
ended fenced-alive $?
"$python" -c "
import json, os, signal
known = json.load(open('alpha/primary.qcow2.process.json'))
os.kill(known['current']['pid'], signal.SIGKILL)"
pycolo run start pair.toml; ended start-without-peer $?
pycolo run failover pair.toml --journal failover.jsonl --as json >failover.json; ended failover $?
pycolo report failover.jsonl --as html >failover.html; ended report $?
pycolo run launch pair.toml >again.txt; ended launch $?
pycolo run resume pair.toml >resume.txt; ended resume $?
pycolo run resume pair.toml --as json >resumed.json; ended resume-again $?
pycolo run stop pair.toml >stop.txt; ended stop $?
pycolo status pair.toml >status.txt; ended status $?
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a pair file and the primary's image; QEMUs are ended afterwards."""
    build = build_of("11.1")
    if subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network namespace can be made here")
    with tempfile.TemporaryDirectory(prefix="pycolo", dir="/var/tmp") as name:
        path = Path(name)
        text = PAIR.format(folder=name, qemu=build.qemu_system, qemu_img=build.qemu_img)
        (path / "pair.toml").write_text(text)
        for node in ("alpha", "beta"):
            (path / node).mkdir()
        image = ["create", "-q", "-f", "qcow2", str(path / "alpha/primary.qcow2"), "1048576"]
        subprocess.run([build.qemu_img, *image], check=True)
        yield path
        asyncio.run(end_all(pairfile.load(path / "pair.toml")))


@pytest.mark.qemu
def test_a_pair_lives_from_launch_to_stop(folder: Path) -> None:
    """Every command does what its exit code says, and refuses what would lose data."""
    done = subprocess.run(
        [*UNSHARE, "env", f"python={sys.executable}", "sh", "-c", LIFE],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        """\
launch 0
start 0
status 0
apply 0
apply-unknown-key 1
unproven 4
fenced-alive 4
start-without-peer 4
failover 0
report 0
launch 0
resume 0
resume-again 0
stop 0
status 0
"""
        == done.stdout
    ), done.stdout + done.stderr
    protected = json.loads((folder / "protected.json").read_text())["snapshot"]["nodes"]
    modes = {name: node["colo_mode"] for name, node in protected.items()}
    assert {"alpha": "primary", "beta": "secondary"} == modes
    failover = json.loads((folder / "failover.json").read_text())
    assert "exit" == failover["evidence"]["alpha"]["kind"]
    assert [] == json.loads((folder / "resumed.json").read_text())["plan"]["steps"]
    last = (folder / "status.txt").read_text().splitlines()[-1]
    assert "unprotected: beta has the guest alone (running)" == last
    start, recording = (journal.load(folder / f"{name}.jsonl") for name in ("start", "failover"))
    assert start.ended is not None
    assert (None, 0) == (start.ended.failed, start.ended.exit_code)
    assert {"alpha", "beta"} == {line.node for line in start.lines if _is_resume(line)}
    drawn = timeline.timeline(recording)
    answers = [call.answer for step in drawn.steps for call in step.calls]
    assert {"returned"} == set(answers)
    assert len([s for s in drawn.steps if s.kind == "execute"]) == len(answers)
    assert drawn.restored_s is not None
    assert (folder / "failover.html").read_text() == html.render(drawn)


def _is_resume(line: journal.Line) -> TypeGuard[journal.EventSeen]:
    return isinstance(line, journal.EventSeen) and line.event == "RESUME"

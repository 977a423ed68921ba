"""docs/how-to/recover.md, section by section, on a real QEMU."""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.ending import end_all
from tests.real_qemu import build_of

import pycolo

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "recover.md"
FOLDER = "/var/tmp/pycolo-tutorial"
# A network of its own, so that ports cannot collide with anybody's.
UNSHARE = ("unshare", "--map-root-user", "--net")
SECTION = re.compile(r"^#{2,3} (.*?)\n(.*?)(?=^#{2,3} |\Z)", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
CODE = re.compile(r"# exit code (\d+)")
SPARE = """
[[nodes]]
name = "gamma"
address = "127.0.0.3"
image_folder = "{place}/gamma"
run_dir = "{place}/run-gamma"
"""
PROTECT = """
kill_qemu() { kill -9 "$(sed 's/.*"pid": \\([0-9]*\\).*/\\1/' $1/primary.qcow2.process.json)"; }
ip link set lo up
mkdir alpha beta gamma
qemu-img create -q -f qcow2 alpha/primary.qcow2 1M
pycolo run launch shop-db.toml
pycolo run start shop-db.toml
"""
LOSE_ALPHA = "kill_qemu alpha\nrm -r alpha run-alpha\nmkdir alpha"
# What has happened before a reader comes to a section.
BEFORE: Mapping[str, str] = {
    "Both are back": "kill_qemu alpha\nkill_qemu beta",
    "Only one is back, and it ran alone": (
        "pycolo run stop shop-db.toml\nkill_qemu alpha\nmv beta beta.away"
    ),
    "Only one is back, and the pair was protected": (
        "kill_qemu alpha\nkill_qemu beta\nmv beta beta.away"
    ),
    "A new host under the same name": LOSE_ALPHA,
    "A spare takes its place": LOSE_ALPHA,
    "The lost host held the newest data": f"kill_qemu beta\n{LOSE_ALPHA}",
    "The guest is protected": "echo damaged >alpha/primary.qcow2.record.json",
    "The guest runs on one node": (
        "kill_qemu alpha\npycolo run failover shop-db.toml\nrm beta/primary.qcow2.record.json"
    ),
    "No guest runs": "kill_qemu alpha\nkill_qemu beta\nrm */primary.qcow2.record.json",
}
# It needs agents and an arbiter: `tests/testing/test_lost_holder.py` plays it.
UNDER_AGENTS = "The same under agents"


def sections() -> dict[str, list[str]]:
    """Heading to the commands below it, for each section whose commands of pycolo are run here."""
    page = PAGE.read_text(encoding="utf-8")
    found = {heading: "".join(SHELL.findall(text)) for heading, text in SECTION.findall(page)}
    del found[UNDER_AGENTS]
    return {heading: block.splitlines() for heading, block in found.items() if "pycolo " in block}


def script(heading: str) -> str:
    """A shell program for a section; it ends where a command's code is not its comment's."""
    lines = ["set -e", *PROTECT.splitlines(), *BEFORE[heading].splitlines(), "set +e"]
    for line in sections()[heading]:
        code = CODE.search(line)
        lines += [line, f"[ $? = {code[1] if code else 0} ] || exit 99"]
    return "\n".join(lines)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A place for a pair with a spare; whatever QEMU is left there is ended."""
    if subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network namespace can be made here")
    with tempfile.TemporaryDirectory(prefix="pycolo-", dir="/var/tmp") as name:
        place = Path(name)
        pair_file = place / "shop-db.toml"
        declared = (ROOT / "examples" / "tutorial.toml").read_text(encoding="utf-8")
        declared = declared.replace(FOLDER, name)
        declared = declared.replace("\n[[disks]]", f"{SPARE.format(place=name)}\n[[disks]]")
        pair_file.write_text(declared, encoding="utf-8")
        yield place
        asyncio.run(end_all(pycolo.load(pair_file)))


@pytest.mark.qemu
@pytest.mark.parametrize("heading", sections())
def test_each_recovery_ends_as_the_page_says(heading: str, folder: Path) -> None:
    """A reader who types a section's commands after its disaster sees the codes it names."""
    programs = (str(build_of("11.1").qemu_system.parent), str(Path(sys.executable).parent))
    done = subprocess.run(
        [*UNSHARE, "bash", "-xc", script(heading)],
        cwd=folder,
        env={**os.environ, "PATH": ":".join((*programs, os.environ["PATH"]))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"

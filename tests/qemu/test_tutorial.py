"""docs/tutorial.md, command by command, on a real QEMU."""

import asyncio
import doctest
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ending import end_all
from tests.real_qemu import build_of

import pycolo

ROOT = Path(__file__).parent.parent.parent
FOLDER = "/var/tmp/pycolo-tutorial"
PAIR_FILE = "examples/tutorial.toml"
# A network of its own, so that ports cannot collide with anybody's.
UNSHARE = ("unshare", "--map-root-user", "--net")


def conversation() -> list[tuple[str, str]]:
    """Each command of the page with what it is said to print."""
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    said: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            said.append((command, output))
    return said


# A start that finds a guest in the middle of a checkpoint waits for its end.
CHECKPOINT = re.compile(r"^done .* alpha/wait/protected\n(?=start is done: )", re.MULTILINE)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A place for the page's files, with its pair file; whatever QEMU is left is ended."""
    if subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network namespace can be made here")
    with tempfile.TemporaryDirectory(prefix="pycolo-", dir="/var/tmp") as name:
        place = Path(name)
        pair_file = place / "pair.toml"
        declared = (ROOT / PAIR_FILE).read_text(encoding="utf-8")
        pair_file.write_text(declared.replace(FOLDER, f"{place}/own"), encoding="utf-8")
        yield place
        asyncio.run(end_all(pycolo.load(pair_file)))


@pytest.mark.qemu
def test_the_tutorial_prints_what_it_says(folder: Path) -> None:
    """A reader who types the page's commands sees the page's output."""
    expected = conversation()
    programs = (str(build_of("11.1").qemu_system.parent), str(Path(sys.executable).parent))
    script = ["ip link set lo up", "exec 2>>errors"]
    for command, _ in expected:
        here = command.replace(FOLDER, f"{folder}/own").replace(PAIR_FILE, "pair.toml")
        script += ["printf '\\001'", here]
    done = subprocess.run(
        [*UNSHARE, "bash", "-c", "\n".join(script)],
        cwd=folder,
        env={**os.environ, "PATH": ":".join((*programs, os.environ["PATH"]))},
        capture_output=True,
        text=True,
        check=False,
    )
    printed = done.stdout.replace(f"{folder}/own", FOLDER).split("\001")[1:]
    assert not (folder / "own").exists()
    assert len(expected) == len(printed)
    for (command, output), said in zip(expected, printed, strict=True):
        got = CHECKPOINT.sub("", said)
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        same = doctest.OutputChecker().check_output(output, got, flags)
        assert same, f"$ {command}\n{got}\n{(folder / 'errors').read_text()[-2000:]}"

"""The command line, called in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from pycolo.cli import main

PAIR = """\
format_version = 1
name = "colo"

[[nodes]]
name = "alpha"
address = "127.0.0.1"
image_folder = "/vms/alpha"
run_dir = "{run_dir}/alpha"

[[nodes]]
name = "beta"
address = "127.0.0.2"
image_folder = "/vms/beta"
run_dir = "{run_dir}/beta"

[[nodes]]
name = "gamma"
address = "127.0.0.3"
image_folder = "/vms/gamma"
run_dir = "{run_dir}/gamma"

[[disks]]
size_bytes = 1048576

[[chains]]
netdev = {{ type = "user" }}
"""


@attrs.frozen
class Ended:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


Pycolo = Callable[..., Ended]


@pytest.fixture
def pycolo(capsys: pytest.CaptureFixture[str]) -> Pycolo:
    """Run a command and give its exit code and its output."""

    def run(*words: str | Path) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def pair_file(tmp_path: Path) -> Path:
    """A pair of two nodes and a spare, none of which runs."""
    path = tmp_path / "pair.toml"
    path.write_text(PAIR.format(run_dir="/nowhere"))
    return path

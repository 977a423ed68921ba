"""`pycolo check`, and what `run` looks for before it changes anything."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Pycolo
from tests.real_qemu import build_of

PAIR = """\
format_version = 1
name = "colo"

[[nodes]]
name = "alpha"
address = "127.78.4.1"
image_folder = "{folder}/alpha"
run_dir = "{folder}/run-alpha"
qemu_binary = "{qemu}"
qemu_img_binary = "{qemu_img}"

[[nodes]]
name = "beta"
address = "127.78.4.2"
image_folder = "{folder}/beta"
run_dir = "{folder}/run-beta"
qemu_binary = "{qemu}"
qemu_img_binary = "{qemu_img}"

[machine]
accelerator = "tcg"
memory_mib = 32

[[disks]]
size_bytes = 1048576
"""


def test_check_shows_each_finding_with_its_remedy(pycolo: Pycolo, pair_file: Path) -> None:
    """An error ends it with 4: a person must do something."""
    ended = pycolo("check", pair_file)
    assert (4, "") == (ended.code, ended.err)
    assert "  error no-folder: /vms/alpha on alpha is no folder\n    make it" in ended.out
    assert ended.out.startswith("colo: ")


def test_check_as_json_has_codes_and_levels(pycolo: Pycolo, pair_file: Path) -> None:
    """For programs; a code is one that `explain` knows."""
    ended = pycolo("check", pair_file, "--as", "json")
    (pair,) = json.loads(ended.out)["pairs"]
    levels = {(one["code"], one["node"]): one["level"] for one in pair["findings"]}
    assert ("colo", "error") == (pair["pair"], levels["no-folder", "gamma"])
    assert "warning" == levels["one-machine", None]
    assert 0 == pycolo("explain", "one-machine").code


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("launch", "--force", "no-imag"), "'no-imag' is no code: did you mean no-image?"),
        (("launch", "--force", "runs-unseen"), "nobody may override it"),
        (("launch", "--force", "same-machine-id"), "nobody may override it"),
        (("launch", "--force", "clocks-apart"), "it does not stop launch"),
        (("stop", "--force", "no-image"), "stop has no --force: it is for launch, start, resume"),
    ],
)
def test_only_what_may_be_overridden_is_taken(
    pycolo: Pycolo, pair_file: Path, words: tuple[str, ...], why: str
) -> None:
    """Never a refusal that comes from the record, from evidence or from an identity."""
    procedure, *options = words
    ended = pycolo("run", procedure, pair_file, *options)
    assert 64 == ended.code
    assert why in " ".join(ended.err.split())


@pytest.fixture
def without_image() -> Iterator[Path]:
    """The file of a pair whose first node has no image."""
    build = build_of("11.1")
    with tempfile.TemporaryDirectory(prefix="colo-", dir="/var/tmp") as name:
        folder = Path(name)
        for node in ("alpha", "beta"):
            (folder / node).mkdir(mode=0o700)
        path = folder / "pair.toml"
        places = {"qemu": build.qemu_system, "qemu_img": build.qemu_img}
        path.write_text(PAIR.format(folder=folder, **places))
        yield path


@pytest.mark.qemu
def test_launch_is_refused_before_anything_is_written(pycolo: Pycolo, without_image: Path) -> None:
    """No record says that alpha has been launched; forced, it is QEMU that refuses."""
    folder = without_image.parent
    ended = pycolo("run", "launch", without_image, "--as", "json")
    refused = json.loads(ended.out)["refused"]
    assert (4, ["no-image"]) == (ended.code, [one["code"] for one in refused["findings"]])
    assert ["alpha", "beta", "pair.toml"] == sorted(path.name for path in folder.iterdir())
    assert [] == list((folder / "alpha").iterdir())
    forced = pycolo("run", "launch", without_image, "--force", "no-image")
    assert 3 == forced.code
    assert forced.err.startswith(f"continued in spite of no-image: there is no {folder}/alpha/")
    assert "No such file or directory" in forced.err

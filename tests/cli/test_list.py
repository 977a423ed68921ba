"""The pairs of a folder, and files that come from standard input."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from tests.cli.conftest import PAIR, Pycolo


def test_pairs_are_listed_one_line_each(pycolo: Pycolo, pair_file: Path) -> None:
    """A pair, a broken one and files that are none."""
    folder = pair_file.parent
    (folder / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (folder / "plan.json").write_text('{"steps": []}')
    (folder / "torn.toml").write_text("[[nodes")
    broken = PAIR.format(run_dir="/nowhere").replace('name = "colo"', 'name = "0"')
    (folder / "wrong.toml").write_text(broken)
    ended = pycolo("list", folder)
    lines = ended.out.splitlines()
    assert (0, 3) == (ended.code, len(lines))
    assert re.match("colo +stopped", lines[0])
    assert re.match(r"\S+torn\.toml +unknown +.*TOML", lines[1])
    assert re.match(r"\S+wrong\.toml +unknown +.*'0'", lines[2])


def test_files_of_one_pair_name_are_named(pycolo: Pycolo, pair_file: Path) -> None:
    """Else nobody knows which of them counts."""
    copy = pair_file.with_name("copy.toml")
    copy.write_text(pair_file.read_text())
    lines = pycolo("list", pair_file.parent).out.splitlines()
    assert [str(copy), str(pair_file)] == [line.split()[0] for line in lines]


def test_pairs_are_listed_as_json(pycolo: Pycolo, pair_file: Path) -> None:
    """For programs: file, pair, state, roles."""
    ended = pycolo("list", pair_file.parent, "--as", "json")
    nodes = ("alpha", "beta", "gamma")
    why = "; ".join(f"there is no /vms/{n}: make it, or mount its disk" for n in nodes)
    assert [
        {
            "file": str(pair_file),
            "pair": "colo",
            "state": "stopped",
            "text": f"no QEMU is known to run, and no record can be used: {why}",
            "roles": {"alpha": "unreachable", "beta": "unreachable", "gamma": "unreachable"},
        }
    ] == json.loads(ended.out)["pairs"]


def test_an_empty_folder_has_no_pairs(pycolo: Pycolo, tmp_path: Path) -> None:
    """That is said."""
    assert "no pair file lies here\n" == pycolo("list", tmp_path).out


@pytest.mark.parametrize("form", ["toml", "json"])
def test_a_pair_file_comes_from_standard_input(
    form: str, pycolo: Pycolo, pair_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-` stands for it, in either format."""
    text = pair_file.read_text()
    if form == "json":
        text = pycolo("validate", pair_file, "--as", "json").out
    given = pycolo("plan", "start", pair_file).out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert given == pycolo("plan", "start", "-").out


def test_standard_input_that_is_no_text_is_no_pair_file(
    pycolo: Pycolo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused as a file of that content is."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    refused = pycolo("validate", "-")
    assert "pycolo: -: the pair file must be text in UTF-8" in refused.err
    assert 1 == refused.code


def test_a_plan_comes_from_standard_input(
    pycolo: Pycolo, pair_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read as a file is, and refused as one."""
    plan = pycolo("plan", "start", pair_file, "--as", "json").out
    path = pair_file.parent / "plan.json"
    path.write_text(plan)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(plan.encode())))
    assert 0 == pycolo("diff", "-", path).code
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"{")))
    refused = pycolo("apply", "-")
    assert 1 == refused.code
    assert "pycolo: - must be JSON" in refused.err

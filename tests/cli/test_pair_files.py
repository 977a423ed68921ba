"""Pair files from the command line: written for a person to edit, and checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Pycolo

from pycolo import pairfile


def test_new_pair_file_is_valid_and_overwrites_nothing(pycolo: Pycolo, tmp_path: Path) -> None:
    """What `init` writes compiles as it is; a second `init` leaves it alone."""
    path = tmp_path / "shop.toml"
    assert 0 == pycolo("init", path, "--name", "shop-db").code
    assert "shop-db" == pairfile.load(path).name
    assert 0 == pycolo("plan", "start", path).code
    before = path.read_text()
    again = pycolo("init", path)
    assert 64 == again.code
    assert "is there: move it away, or give another name" in again.err
    assert before == path.read_text()


@pytest.mark.parametrize("file", ["-", "missing/shop.toml"])
def test_new_pair_file_that_cannot_be_made_is_refused(
    pycolo: Pycolo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """No file is named like standard output, and no folder is made."""
    monkeypatch.chdir(tmp_path)
    ended = pycolo("init", file)
    assert 64 == ended.code
    assert "Errno" not in ended.err
    assert [] == list(tmp_path.iterdir())


def test_name_that_is_none_writes_no_file(pycolo: Pycolo, tmp_path: Path) -> None:
    """The rule for names is that of pair files, and nothing the user wrote becomes TOML."""
    ended = pycolo("init", tmp_path / "x.toml", "--name", 'x"\ny = 1')
    assert 1 == ended.code
    assert [] == list(tmp_path.iterdir())


def test_pair_file_is_checked_without_asking_anybody(pycolo: Pycolo, pair_file: Path) -> None:
    """One that is valid is summed up; one that is not is refused by its key."""
    ended = pycolo("validate", pair_file)
    assert 0 == ended.code
    assert "pair colo on alpha, beta, gamma; 1 disk, 1 network card" in ended.out
    written = json.loads(pycolo("validate", pair_file, "--as", "json").out)
    assert pairfile.load(pair_file) == pairfile.from_json_value(written)
    pair_file.write_text(pair_file.read_text().replace("size_bytes", "size_byte"))
    wrong = pycolo("validate", pair_file)
    assert 1 == wrong.code
    assert "size_bytes" in wrong.err


def test_pairs_that_cannot_share_a_host_are_refused(
    pycolo: Pycolo, pair_file: Path, tmp_path: Path
) -> None:
    """Both by `validate` and before `supervise` begins; with the base that is named they can."""
    other = tmp_path / "other.toml"
    text = pair_file.read_text().replace('name = "colo"', 'name = "other"')
    text = text.replace(' = "/', ' = "/other/')
    other.write_text(text)
    # What a service manager starts says with 4 that it need not be started again.
    for code, *words in ((1, "validate"), (4, "supervise", "--store", tmp_path / "store")):
        ended = pycolo(*words, pair_file, other)
        assert code == ended.code
        assert "must differ from" in ended.err
        assert "give other ports of its own, such as ports.base = " in ended.err
    assert not (tmp_path / "store").exists()
    base = ended.err.split("ports.base = ")[1].split(")")[0]
    other.write_text(f"{text}\n[ports]\nbase = {base}\n")
    ended = pycolo("validate", pair_file, other)
    assert 0 == ended.code
    assert 2 == len(ended.out.splitlines())
    assert 64 == pycolo("validate", pair_file, other, "--as", "json").code
    other.write_text(other.read_text().replace("/other/", "/"))
    ended = pycolo("validate", pair_file, other)
    assert 1 == ended.code
    assert "other: alpha: disks[0].image must differ from alpha: disks[0].image" in ended.err


def test_byte_order_mark_is_no_part_of_a_pair_file(pycolo: Pycolo, pair_file: Path) -> None:
    """Some editors put one at the beginning."""
    pair_file.write_bytes(b"\xef\xbb\xbf" + pair_file.read_bytes())
    assert 0 == pycolo("validate", pair_file).code


def test_name_that_is_too_long_is_refused_by_its_key(pycolo: Pycolo, pair_file: Path) -> None:
    """Not by a run directory that nobody has written."""
    text = pair_file.read_text().replace('run_dir = "/nowhere/alpha"', "")
    pair_file.write_text(text.replace('name = "colo"', f'name = "{"n" * 300}"'))
    assert f"{pair_file}: name must have at most 64 char" in pycolo("validate", pair_file).err
    pair_file.write_text(text.replace('name = "alpha"', f'name = "{"n" * 90}"'))
    assert (
        f"{pair_file}: nodes[0].name must be shorter, or have a"
        in pycolo("validate", pair_file).err
    )


def test_each_pair_file_is_reported(pycolo: Pycolo, pair_file: Path, tmp_path: Path) -> None:
    """Also behind one that is wrong; of two pairs with one name, the message names both files."""
    wrong, same, empty = (tmp_path / f"{name}.toml" for name in ("wrong", "same", "empty"))
    wrong.write_text("{no toml")
    same.write_text(pair_file.read_text())
    empty.write_text("")
    ended = pycolo("validate", wrong, pair_file, same, empty, pair_file)
    assert 1 == ended.code
    assert f"{pair_file}: pair colo on alpha, beta, gamma; 1 disk, 1 network card\n" == ended.out
    of_wrong, of_same, of_empty, twice = ended.err.splitlines()
    assert of_wrong.startswith(f"pycolo: {wrong}: the pair file must be TOML")
    assert of_same.startswith(f"pycolo: {same}: name must differ from the name in {pair_file} (")
    assert of_empty.startswith(f"pycolo: {empty}: ")
    assert twice.startswith(f"pycolo: {pair_file}: the pair file must be given once")


def test_wrong_pair_file_keeps_no_other_from_being_checked(
    pycolo: Pycolo, pair_file: Path, tmp_path: Path
) -> None:
    """The exit code is the worst of all files', and JSON has both the findings and the refusals."""
    wrong, other = tmp_path / "wrong.toml", tmp_path / "other.toml"
    wrong.write_text("{no toml")
    other.write_text("")
    ended = pycolo("check", wrong, pair_file, other, "--as", "json")
    written = json.loads(ended.out)
    assert (4, 4) == (ended.code, written["refused"]["exit_code"])
    assert ["colo"] == [one["pair"] for one in written["pairs"]]
    assert 2 == len(written["refused"]["errors"]) == len(ended.err.splitlines())
    ended = pycolo("check", wrong)
    assert (1, "") == (ended.code, ended.out)


@pytest.mark.parametrize(
    "said",
    [
        (("run", "start", "PAIR", "--journal", "PAIR"), 64, "--journal: PAIR is there: give the"),
        (("run", "start", "PAIR", "--journal", "/no/x"), 64, "--journal: /no/x cannot be made (No"),
        (
            ("want", "stopped", "PAIR", "--store", "/proc/no"),
            1,
            "--store /proc/no: the folder cann",
        ),
        (("pause", "PAIR", "--store", "JUNK"), 1, "--store JUNK: supervisor.db is no SQLite data"),
        (("supervise", "PAIR", "--store", "JUNK"), 1, "--store JUNK: supervisor.db is no SQLite d"),
        (("agent", "/no/agent.toml", "PAIR"), 4, "/no/agent.toml: No such file or directory"),
        (("agent", "PAIR", "PAIR"), 4, "PAIR: "),
        (("init", "PAIR/new.toml"), 64, "PAIR/new.toml cannot be made (Not a directory)"),
    ],
)
def test_path_that_cannot_be_used_is_named_with_what_to_do(
    pycolo: Pycolo, pair_file: Path, tmp_path: Path, said: tuple[tuple[str, ...], int, str]
) -> None:
    """The system's number and SQLite's words help nobody."""

    def put(text: str) -> str:
        return text.replace("PAIR", str(pair_file)).replace("JUNK", str(tmp_path / "junk"))

    words, code, why = said
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "supervisor.db").write_text("no database" * 1000)
    ended = pycolo(*map(put, words))
    assert code == ended.code
    assert put(why) in ended.err
    assert "Errno" not in ended.err


def test_result_that_nobody_reads_to_its_end_is_no_failure(pair_file: Path) -> None:
    """`pycolo plan ... | head -1` ends well."""
    command = f"set -o pipefail; {sys.executable} -m pycolo plan start {pair_file} | head -1"
    done = subprocess.run(["/bin/bash", "-c", command], check=False, capture_output=True, text=True)
    assert (0, "") == (done.returncode, done.stderr)

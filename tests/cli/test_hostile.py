"""What stands in a file, or on the command line itself, never reaches the terminal as it came."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from tests.cli.conftest import Pycolo
from tests.test_observers import PLAN
from tests.test_printable import HOSTILE, assert_harmless

from pycolo import wire
from pycolo.cli import _exits


@pytest.fixture
def hostile_file(tmp_path: Path) -> Path:
    """A pair file with a key that no terminal should see, in a file with such a name."""
    path = tmp_path / "a\x1b[2J\u202eb.json"
    path.write_text(json.dumps({"format_version": 1, HOSTILE: HOSTILE, "nodes": [{}, {}]}))
    return path


def test_a_refusal_of_a_file_is_harmless(pycolo: Pycolo, hostile_file: Path) -> None:
    """The message names key and value, and neither moves the cursor."""
    ended = pycolo("plan", "start", hostile_file)
    assert _exits.REFUSED == ended.code
    assert "evil" in ended.err
    assert_harmless(ended.err, lines=True)


def test_a_refusal_as_json_is_harmless(pycolo: Pycolo, hostile_file: Path) -> None:
    """The JSON for programs can be read on a terminal, too."""
    ended = pycolo("plan", "start", hostile_file, "--as", "json")
    assert "parse-error" != json.loads(ended.out)["refused"]["kind"]
    assert_harmless(ended.out + ended.err, lines=True)


DEEP = "[" * 50_000 + "]" * 50_000
ENDLESS = "x" * 20_000_000
NINES = "9" * 5_000
CONDITION = '{"kind": "all-of", "conditions": [' * 200 + "]}" * 200


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("pair.toml", f"a = 1\nname = {DEEP}", "be nested at most 64 levels deep, not 'name = [[["),
        ("pair.toml", f"a = 1\nname = {NINES}", "be TOML: Exceeds the limit (4300 digits)"),
        ("pair.toml", f'name = "{ENDLESS}"', "be a file of at most 262144 bytes"),
        ("pair.toml", "a.b = 1\na.b.c = 2", "be TOML: "),
        ("pair.json", DEEP, "be nested at most 64 levels deep, not '[[["),
        ("pair.json", f'{{"checkpoint_delay_ms": {NINES}}}', "be JSON: Exceeds the limit"),
        ("plan.json", DEEP, "be nested at most 64 levels deep, not '[[["),
        ("pair.toml", f"a = 1\nname = {NINES}", "digits, not 'name = 999"),
        ("pair.toml", f"a = 1\nname = {DEEP[49_900:50_100]}", ": name must be nested at most 64"),
        ("pair.toml", "\ufeff \n", "the pair file must declare a pair (`pycolo init FILE` writes"),
        ("pair.toml", "nodes = []", "(the key is missing), not None"),
        ("plan.json", f'{{"format_version": {NINES}}}', "be JSON: Exceeds the limit"),
        ("plan.json", f'{{"procedure": "{ENDLESS}"}}', "be a file of at most 16777216 bytes"),
        ("plan.json", f'{{"steps": [{CONDITION}]}}', "be nested at most 64 levels deep"),
        ("plan.json", '{"format_version": 1, "steps": []}', "be present"),
        ("plan.json", "\udcff", "be text in UTF-8"),
    ],
)
def test_a_file_that_nobody_could_mean_is_refused_in_one_line(
    pycolo: Pycolo, tmp_path: Path, name: str, text: str, rule: str
) -> None:
    """Neither its depth nor its length nor its numbers end in a traceback."""
    path = tmp_path / name
    path.write_bytes(text.encode(errors="surrogateescape"))
    words = ("apply", path) if name == "plan.json" else ("plan", "start", path)
    ended = pycolo(*words)
    assert _exits.REFUSED == ended.code
    assert rule in ended.err
    assert str(path) in ended.err
    assert 1 == len(ended.err.splitlines())
    assert len(ended.err) < 600


@pytest.mark.parametrize(
    "words",
    [
        ("explain", f"Device '{HOSTILE}' not found", "--command", "object-del"),
        ("explain", f"Device '{HOSTILE}' not found", "--command", "object-del", "--as", "json"),
        ("explain", "x", "--qemu", HOSTILE),
        (HOSTILE,),
        ("plan", "start", HOSTILE),
        ("plan", HOSTILE, "x"),
    ],
)
def test_words_of_the_command_line_are_harmless(words: tuple[str, ...], pycolo: Pycolo) -> None:
    """A message that was pasted from a log, or a file name from a wildcard, is shown safely."""
    ended = pycolo(*(word.replace("\0", "") for word in words))
    assert ended.out or ended.err
    assert_harmless(ended.out + ended.err, lines=True)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_difference_of_plans_is_harmless(form: str, pycolo: Pycolo, tmp_path: Path) -> None:
    """Two plan files of somebody else's are compared safely."""
    step = attrs.evolve(PLAN.steps[0], why=HOSTILE, address=f"alpha/{HOSTILE}")
    for name, plan in (("a", PLAN), ("b", attrs.evolve(PLAN, steps=(step,)))):
        (tmp_path / name).write_text(wire.dumps(wire.plan_to_json(plan)))
    ended = pycolo("diff", tmp_path / "a", tmp_path / "b", "--as", form)
    assert _exits.DIFFERENT == ended.code
    assert "evil" in ended.out
    assert_harmless(ended.out + ended.err, lines=True)


TELLS = """
import sys
from pycolo import cli
from pycolo.cli import _app, _progress, _say
from tests.test_observers import PLAN, REPORT

async def act(observer, *, recorder):
    observer.plan_started(PLAN)
    observer.step_started(PLAN, PLAN.steps[0])
    observer.step_finished(PLAN, PLAN.steps[0].address, REPORT.outcomes[PLAN.steps[0].address])
    return REPORT

cli._run = lambda words: 40 + _app._reported(act, "usual", None, "text")
cli.main([])
"""


@pytest.mark.parametrize("full", ["stdout", "stderr", "both"])
def test_what_cannot_be_written_changes_nothing(full: str) -> None:
    """Output on a full disk ends no execution, and does not hide how it ended."""
    with Path("/dev/full").open("w") as disk:
        ended = subprocess.run(
            [sys.executable, "-c", TELLS],
            check=False,
            cwd=Path(__file__).parents[2],
            stdout=disk if full != "stderr" else subprocess.PIPE,
            stderr=disk if full != "stdout" else subprocess.PIPE,
            text=True,
        )
    assert 41 == ended.returncode
    assert "Traceback" not in f"{ended.stdout}{ended.stderr}"
    if full == "stdout":
        assert "the report cannot be written: No space left on device\n" in ended.stderr


def test_refusal_as_json_on_a_full_disk_is_one_line() -> None:
    """Neither the result nor the refusal can be written: no traceback, and the exit code."""
    with Path("/dev/full").open("w") as disk:
        ended = subprocess.run(
            [sys.executable, "-m", "pycolo", "schema", "plan", "--as", "json"],
            check=False,
            cwd=Path(__file__).parents[2],
            stdout=disk,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert 1 == ended.returncode
    assert ["pycolo: No space left on device"] == ended.stderr.splitlines()

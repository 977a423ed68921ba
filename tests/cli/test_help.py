"""What the command line says of itself, and of words that it does not know."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest
from tests.cli.conftest import Pycolo

from pycolo.cli._app import app

COMMANDS = app.list_commands(click.Context(app))


def _lines(*words: str) -> list[str]:
    context = click.Context(app, info_name="pycolo", terminal_width=80)
    for word in words:
        command = app.get_command(context, word)
        assert command is not None
        context = click.Context(command, parent=context, info_name=word, terminal_width=80)
    return context.get_help().splitlines()


def test_summaries_are_whole_on_80_columns() -> None:
    """No command's summary is cut off in the list of all."""
    lines = _lines()
    summaries = lines[lines.index("Commands:") + 1 :]
    assert len(COMMANDS) == len(summaries)
    assert [] == [line for line in summaries if line.endswith("...") or len(line) > 80]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns(command: str) -> None:
    """Nothing in a command's help is wider than a terminal."""
    assert [] == [line for line in _lines(command) if len(line) > 80]


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("stauts",), "Did you mean 'status'?"),
        (("run", "strat"), "did you mean 'start'?"),
        (("plan", "switchover"), "did you mean 'switch-over'?"),
        (("run", "start", "--per", "beta"), "Did you mean '--peer'?"),
    ],
)
def test_the_nearest_known_word_is_named(
    pycolo: Pycolo, pair_file: Path, words: tuple[str, ...], near: str
) -> None:
    """A command, a procedure and an option that do not exist."""
    ended = pycolo(*words, pair_file)
    assert (64, "") == (ended.code, ended.out)
    assert near in ended.err


def test_procedure_in_place_of_a_command_is_shown_its_way(pycolo: Pycolo, pair_file: Path) -> None:
    """Who forgets `run` learns of it, and of `plan`."""
    ended = pycolo("start", pair_file)
    assert (64, "") == (ended.code, ended.out)
    assert "`pycolo plan start` shows it, `pycolo run start` does it" in ended.err


def test_all_procedures_are_named_where_none_is_near(pycolo: Pycolo, pair_file: Path) -> None:
    """A word that is like none of them."""
    assert "one of launch, start" in pycolo("run", "xyz", pair_file).err


def test_the_manual_page_has_every_command_and_option(pycolo: Pycolo) -> None:
    """It is made from the commands themselves, and `man` finds nothing wrong with it."""
    page = pycolo("manual").out
    for name in COMMANDS:
        command = app.get_command(click.Context(app), name)
        assert command is not None
        assert f"\n.SS {name.replace('-', chr(92) + '-')} " in page
        for option in (o for p in command.params for o in p.opts if o.startswith("--")):
            assert option.replace("-", "\\-") in page
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is not installed, which Debian has with man")
    checked = subprocess.run(
        [groff, "-man", "-Tutf8", "-ww", "-z"],
        input=page,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "" == checked.stderr

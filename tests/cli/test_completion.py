"""Completion of the command line, as shells ask for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def ask(**environment: str) -> str:
    """What the command prints for a shell."""
    done = subprocess.run(
        [sys.executable, "-m", "pycolo"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return done.stdout


@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [
        ("pycolo pl", "1", "plan"),
        ("pycolo plan fail", "2", "failover"),
        ("pycolo run start --p", "3", "--peer"),
        ("pycolo export lib", "2", "libvirt"),
    ],
)
def test_a_word_is_completed(words: str, place: str, expected: str) -> None:
    """Commands, procedures and options are completed."""
    said = ask(_PYCOLO_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=place)
    assert f"plain,{expected}" in said.splitlines()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    """The documented line evaluates what is printed here."""
    assert "_PYCOLO_COMPLETE" in ask(_PYCOLO_COMPLETE=f"{shell}_source")

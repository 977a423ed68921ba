"""What goes where: results to standard output, all else to standard error."""

from __future__ import annotations

import os
import sys
from typing import TextIO

import click
from rich.console import Console


def result(text: str) -> None:
    """Write a command's result."""
    click.echo(text, nl=not text.endswith("\n"))


def note(text: str) -> None:
    """Tell the person at the terminal something."""
    click.echo(text, err=True)


def in_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal that wants colour."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def results_in_colour() -> bool:
    """Whether results are read on a terminal that wants colour."""
    return in_colour(sys.stdout)


def console() -> Console:
    """Rich's console for results."""
    return Console(file=sys.stdout, highlight=False)

"""Output of the command line: results to standard output, all else to standard error.

Everything that the command line writes passes through here, where control characters are escaped,
so that no text can move a cursor.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

import click
from rich.console import Console

from pycolo._printable import page


def result(text: str) -> None:
    """Write a command's result."""
    click.echo(_page(text, colour=results_in_colour()), nl=False)


def note(text: str) -> None:
    """Write text to standard error; an error of writing is ignored."""
    with contextlib.suppress(OSError):
        click.echo(_page(text, colour=in_colour(sys.stderr)), err=True, nl=False)


def flush() -> None:
    """Flush both output streams; an error of writing does not change the exit code."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            # Python flushes again when it ends, and would end with exit code 120 if that failed.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _page(text: str, *, colour: bool) -> str:
    return page(text.removesuffix("\n").split("\n"), colour=colour)


def in_colour(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal and NO_COLOR is unset; false for None, a closed stream."""
    return stream is not None and stream.isatty() and not os.environ.get("NO_COLOR")


def is_one_stream() -> bool:
    """Whether standard output and standard error are the same file, pipe or terminal."""
    try:
        ours = [os.fstat(stream.fileno()) for stream in (sys.stdout, sys.stderr)]
    except (OSError, ValueError, AttributeError):
        return False
    return os.path.samestat(*ours)


def results_in_colour() -> bool:
    """Whether standard output is a terminal and NO_COLOR is unset."""
    return in_colour(sys.stdout)


def console() -> Console:
    """Make Rich's console on standard output."""
    return Console(file=sys.stdout, highlight=False)

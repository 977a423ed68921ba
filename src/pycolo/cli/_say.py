"""What goes where: results to standard output, all else to standard error.

All that the command line writes goes through here, so that nothing in it can move a cursor.
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
    """Write a line to standard error; an error of writing is ignored."""
    with contextlib.suppress(OSError):
        click.echo(_page(text, colour=in_colour(sys.stderr)), err=True, nl=False)


def let_go() -> None:
    """Write what is left; what cannot be written does not change how the command ends."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            # Python would try once more at its end, and end with a code of its own.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _page(text: str, *, colour: bool) -> str:
    return page(text.removesuffix("\n").split("\n"), colour=colour)


def in_colour(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal that wants colour; one that was closed before us is none."""
    return stream is not None and stream.isatty() and not os.environ.get("NO_COLOR")


def is_one_stream() -> bool:
    """Whether results and all else end in the same file, pipe or terminal."""
    try:
        ours = [os.fstat(stream.fileno()) for stream in (sys.stdout, sys.stderr)]
    except (OSError, ValueError, AttributeError):
        return False
    return os.path.samestat(*ours)


def results_in_colour() -> bool:
    """Whether standard output is a terminal and NO_COLOR is unset."""
    return in_colour(sys.stdout)


def console() -> Console:
    """Rich's console for results."""
    return Console(file=sys.stdout, highlight=False)

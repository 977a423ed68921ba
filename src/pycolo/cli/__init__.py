"""The command line: parses, calls and prints, and decides nothing.

It needs the extra `cli` (click and rich).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from pycolo.cli import _exits
from pycolo.cli._app import app
from pycolo.errors import PycoloError

__all__ = ("main",)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process.

    Args:
        arguments: The words after the program's name; those of this process if None.

    Raises:
        SystemExit: Always, with one of the documented exit codes.
    """
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        words = None if arguments is None else list(arguments)
        code: object = app.main(args=words, prog_name="pycolo", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return _exits.USAGE
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return _exits.UNFINISHED
    except BrokenPipeError:
        # Whoever read the result has gone; nothing can be written, not even at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _exits.REFUSED
    except (PycoloError, OSError) as error:
        click.echo(f"pycolo: {error}", err=True)
        return _exits.of_error(error)
    return code if isinstance(code, int) else _exits.DONE

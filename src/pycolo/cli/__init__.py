"""The command line: it parses arguments, calls the library and prints; it decides nothing itself.

It needs the extra `cli` (click and rich).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click
from click.shell_completion import shell_complete

from pycolo import _json
from pycolo.cli import _exits, _refusal, _say
from pycolo.cli._app import app
from pycolo.cli._options import ERROR_CODE, FORM
from pycolo.errors import Busy, PycoloError

__all__ = ("main",)

COMPLETING: Final = "_PYCOLO_COMPLETE"
"The environment variable that a shell sets to ask for completions of a command line."

HELD: Final = (
    "if a supervisor holds it, run the command as the supervisor's user, and with its --store"
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process.

    Args:
        arguments: The words after the program's name; those of this process if None.

    Raises:
        SystemExit: Always, with one of the documented exit codes.
    """
    completing = os.environ.get(COMPLETING)
    if completing:
        sys.exit(shell_complete(app, {}, "pycolo", COMPLETING, completing))
    code = _run(arguments)
    _say.flush()
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _invoked(words)
    except click.UsageError as error:
        # A monitoring system takes any code above 3 for a state of its own making.
        code = _exits.UNKNOWN if "--check" in words else _exits.USAGE
        _refuse(error, code, is_json=_wants_json(words))
        return code
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say.note("interrupted")
        return _exits.UNFINISHED
    except BrokenPipeError:
        # The reader of the result closed the pipe because it had read enough, as `head` does.
        return _exits.DONE


def _invoked(words: list[str]) -> int:
    with app.make_context("pycolo", words) as context:
        try:
            code: object = app.invoke(context)
        except (PycoloError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            if isinstance(error, Busy):
                _say.note(HELD)
            found: int = context.meta.get(ERROR_CODE, _exits.of_error(error))
            _refuse(error, found, is_json=context.meta.get(FORM) == "json")
            return found
    return code if isinstance(code, int) else _exits.DONE


def _refuse(error: PycoloError | OSError | click.UsageError, code: int, *, is_json: bool) -> None:
    _refusal.note(error)
    # If the error is that standard output cannot be written, this cannot be written either.
    with contextlib.suppress(OSError):
        if is_json:
            _say.result(_json.dumps(_refusal.to_json(error, code), indent=2))


def _wants_json(words: Sequence[str]) -> bool:
    """Whether a command line that could not be parsed asks for JSON."""
    options = list(itertools.takewhile(lambda word: word != "--", words))
    return "--as=json" in options or ("--as", "json") in itertools.pairwise(options)

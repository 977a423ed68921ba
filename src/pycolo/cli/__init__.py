"""The command line: it parses arguments, calls the library and prints; it decides nothing itself.

It needs the extra `cli` (click and rich).
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click
from click.shell_completion import shell_complete

from pycolo import _json
from pycolo._json import JsonObject, kebab
from pycolo._printable import brief
from pycolo.cli import _exits, _say
from pycolo.cli._app import app
from pycolo.cli._check import finding_to_json
from pycolo.cli._options import ERROR_CODE, FORM
from pycolo.errors import Busy, CompileError, PycoloError

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
        told = io.StringIO()
        error.show(told)
        _say.note(told.getvalue())
        # A monitoring system takes any code above 3 for a state of its own making.
        return _exits.UNKNOWN if "--check" in words else _exits.USAGE
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
            _say.note(brief(f"pycolo: {error}"))
            # If the error is that standard output cannot be written, this cannot be written either.
            with contextlib.suppress(OSError):
                if context.meta.get(FORM) == "json":
                    _say.result(_json.dumps(_refusal(error, found), indent=2))
            return found
    return code if isinstance(code, int) else _exits.DONE


def _refusal(error: PycoloError | OSError, code: int) -> JsonObject:
    """The JSON that reports an error to a program that asked for JSON."""
    refused: JsonObject = {
        "kind": kebab(type(error)),
        "message": brief(str(error)),
        "exit_code": code,
    }
    if isinstance(error, CompileError):
        refused["findings"] = [finding_to_json(found) for found in error.findings]
    return {"format_version": 1, "refused": refused}

"""An error that ends a command: as lines for a person, and as JSON for a program."""

from __future__ import annotations

import io

import click

from pycolo._json import JsonObject, JsonValue, kebab
from pycolo._printable import brief, reason
from pycolo.cli import _say
from pycolo.cli._check import finding_to_json
from pycolo.cli._files import BadFiles
from pycolo.errors import CompileError, PycoloError


def note(error: PycoloError | OSError | click.UsageError) -> None:
    """Write an error to standard error: one line, or one for each file that is wrong."""
    if isinstance(error, click.UsageError):
        shown = io.StringIO()
        error.show(shown)
        _say.note(shown.getvalue())
        return
    for one in error.errors if isinstance(error, BadFiles) else (error,):
        _say.note(brief(f"pycolo: {_text(one)}"))


def to_json(error: PycoloError | OSError | click.UsageError, code: int) -> JsonObject:
    """The JSON of an error, for a program that asked for JSON.

    Args:
        error: The error.
        code: The exit code of the command.
    """
    refused: JsonObject = {**_words(error), "exit_code": code}
    if isinstance(error, CompileError):
        refused["findings"] = [finding_to_json(found) for found in error.findings]
    if isinstance(error, BadFiles):
        errors: list[JsonValue] = [_words(one) for one in error.errors]
        refused["errors"] = errors
    return {"format_version": 1, "refused": refused}


def _words(error: PycoloError | OSError | click.UsageError) -> JsonObject:
    kind = "usage-error" if isinstance(error, click.UsageError) else kebab(type(error))
    return {"kind": kind, "message": brief(_text(error))}


def _text(error: PycoloError | OSError | click.UsageError) -> str:
    return error.format_message() if isinstance(error, click.UsageError) else reason(error)

"""The manual page, made from the commands' own help."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

import pycolo


def page(app: click.Group) -> str:
    """Make the manual page of a group of commands, as roff for `man`.

    Args:
        app: The group. Its own commands are described, hidden ones too; of a group among them only
            the help of the group itself.

    Returns:
        The text of the page.
    """
    context = click.Context(app, info_name="pycolo")
    return "\n".join(_lines(app, context)) + "\n"


def _lines(app: click.Group, context: click.Context) -> Iterator[str]:
    yield f'.TH PYCOLO 1 "" "pycolo {_roff(pycolo.__version__)}"'
    summary, _, rest = (app.help or "").partition("\n\n")
    yield from (".SH NAME", f"pycolo \\- {_roff(summary.rstrip('.'))}")
    yield from (".SH SYNOPSIS", ".B pycolo", "COMMAND [OPTIONS] [ARGUMENTS]")
    yield from (".SH DESCRIPTION", *_paragraphs(rest))
    yield ".SH COMMANDS"
    for name in app.list_commands(context):
        command = app.get_command(context, name)
        assert command is not None  # noqa: S101 - the group has just listed it
        yield from _command(click.Context(command, parent=context, info_name=name))


def _command(context: click.Context) -> Iterator[str]:
    usage = " ".join(context.command.collect_usage_pieces(context))
    yield f".SS {_roff(context.info_name or '')} {_roff(usage)}"
    yield from _paragraphs(context.command.help or "")
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        # An argument is shown in the heading; click keeps no help text for it.
        if record is not None and record[1]:
            option, meaning = record
            yield from (".TP", f".B {_roff(option)}", _roff(meaning))


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield ".PP"
        yield _roff(" ".join(paragraph.split()))


def _roff(text: str) -> str:
    """Escape text for roff, so that dashes can be copied and no line is taken for a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped)

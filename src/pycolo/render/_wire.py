"""A step's command as a line of QMP, shared by the readers that print QMP."""

from __future__ import annotations

import json

from pycolo.plan import Execute
from pycolo.qmp.commands import Command


def wire_line(command: Command, *, oob: bool = False) -> str:
    """One line of JSON, as a monitor takes it.

    Args:
        command: The command.
        oob: Whether it goes out of band.
    """
    key = "exec-oob" if oob else "execute"
    line: dict[str, object] = {key: command.qmp_name}
    arguments = command.arguments()
    if arguments:
        line["arguments"] = arguments
    return json.dumps(line)


def step_line(step: Execute) -> str:
    """The line of one step."""
    return wire_line(step.command, oob=step.oob)


def capabilities_line(*, oob: bool) -> str:
    """What opens a QMP connection, with or without out-of-band commands."""
    line: dict[str, object] = {"execute": "qmp_capabilities"}
    if oob:
        line["arguments"] = {"enable": ["oob"]}
    return json.dumps(line)

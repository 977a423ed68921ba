"""Commands as lines of QMP, for the renderers that print QMP."""

from __future__ import annotations

import json

from pycolo.plan import Execute
from pycolo.qmp.commands import Command


def wire_line(command: Command, *, oob: bool = False) -> str:
    """A command as one line of JSON, as QEMU's monitor reads it.

    Args:
        command: The command.
        oob: Whether the command is sent out of band.
    """
    key = "exec-oob" if oob else "execute"
    line: dict[str, object] = {key: command.qmp_name}
    arguments = command.arguments()
    if arguments:
        line["arguments"] = arguments
    return json.dumps(line)


def step_line(step: Execute) -> str:
    """The command of a step as one line of JSON."""
    return wire_line(step.command, oob=step.oob)


def capabilities_line(*, oob: bool) -> str:
    """The first line of a QMP connection, which allows out-of-band commands if `oob` is set."""
    line: dict[str, object] = {"execute": "qmp_capabilities"}
    if oob:
        line["arguments"] = {"enable": ["oob"]}
    return json.dumps(line)

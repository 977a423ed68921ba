"""The human monitor's refusals: QMP reports success, and the text of the reply is an error.

Source: qemu-behaviour 5.9, 11.
"""

from __future__ import annotations

from typing import Final

from pycolo.qmp.commands import HumanMonitorCommand

# Printed when a block node is deleted while its peer is dead; the deletion took place.
_NOISE: Final = "Failed flush for"
_FINE: Final = "OK"
_DELETE: Final = "drive_del:"


def refusal(reply: str) -> str:
    """The refusal in a reply of the human monitor; empty if it reports success."""
    lines = (line.strip() for line in reply.splitlines())
    return " ".join(line for line in lines if line and line != _FINE and _NOISE not in line)


def deleted_node(command: HumanMonitorCommand) -> str | None:
    """The block node that a command line deletes; None if the line is not a deletion.

    The caller checks whether this node is gone.
    """
    subject = command.subject
    return subject.removeprefix(_DELETE) if subject.startswith(_DELETE) else None

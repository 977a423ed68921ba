"""The human monitor's refusals: words in a reply that says success.

Source: qemu-behaviour 5.9, 11.
"""

from __future__ import annotations

from typing import Final

from pycolo.qmp.commands import HumanMonitorCommand

# A node that is deleted while its peer is dead says so; the deletion took place.
_NOISE: Final = "Failed flush for"
_FINE: Final = "OK"
_DELETE: Final = "drive_del:"


def refusal(reply: str) -> str:
    """What remains of a reply when it is rid of what is no refusal; empty for a success."""
    lines = (line.strip() for line in reply.splitlines())
    return " ".join(line for line in lines if line and line != _FINE and _NOISE not in line)


def deleted_node(command: HumanMonitorCommand) -> str | None:
    """The node a line deletes, by which its effect is seen; None for other lines."""
    subject = command.subject
    return subject.removeprefix(_DELETE) if subject.startswith(_DELETE) else None

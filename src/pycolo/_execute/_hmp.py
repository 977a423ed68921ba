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
    """The refusal in a reply of the human monitor; empty if it reports success."""
    lines = (line.strip() for line in reply.splitlines())
    return " ".join(line for line in lines if line and line != _FINE and _NOISE not in line)


def deleted_node(command: HumanMonitorCommand) -> str | None:
    """The node that a line deletes, to check its effect by; None for other lines."""
    subject = command.subject
    return subject.removeprefix(_DELETE) if subject.startswith(_DELETE) else None

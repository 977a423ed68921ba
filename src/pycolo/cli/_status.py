"""`pycolo status` as a table."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from pycolo import wire
from pycolo._json import JsonObject
from pycolo._printable import one_line
from pycolo.render._words import record_words
from pycolo.render.text import facts
from pycolo.snapshot import Live, NodeState, Snapshot, Unreachable, Unresponsive, role_of
from pycolo.standing import Standing


def table(snapshot: Snapshot) -> Table:
    """A table of a snapshot: a column for each node, a row for each fact that some node has."""
    shown = Table(show_header=True, header_style="bold")
    shown.add_column("node")
    columns = {name: _column(state) for name, state in snapshot.nodes.items()}
    for name, record in snapshot.records.items():
        columns[name] = columns.get(name, {}) | {"record": record_words(record)}
    for name in columns:
        shown.add_column(Text(one_line(name)), overflow="fold")
    labels = dict.fromkeys(label for column in columns.values() for label in column)
    for label in labels:
        cells = [column.get(label, "") for column in columns.values()]
        if any(cells):
            shown.add_row(label, *(Text(one_line(cell)) for cell in cells))
    return shown


def to_json(snapshot: Snapshot, found: Standing) -> JsonObject:
    """A snapshot and the state of its pair as JSON; a plan can be compiled from it.

    Args:
        snapshot: The snapshot.
        found: The state of the pair.
    """
    return {
        "format_version": 1,
        "state": found.state,
        "text": found.text,
        "roles": {name: role_of(state) for name, state in snapshot.nodes.items()},
        "snapshot": wire.snapshot_to_json(snapshot),
    }


def _column(state: NodeState) -> dict[str, str]:
    column: dict[str, str] = {"role": role_of(state)}
    match state:
        case Live():
            return column | dict(facts(state))
        case Unreachable(why=why):
            return column | {"why": why}
        case Unresponsive(why=why, oob=oob):
            return column | {"why": why, "remedy": _remedy(oob=oob)}
        case _:
            return column


def _remedy(*, oob: bool) -> str:
    """How to free a main loop that is stuck (qemu-behaviour 7.5, 7.6).

    Args:
        oob: Whether a session from before is left that can send out-of-band commands.
    """
    kill = "kill this QEMU and fail over to the other node"
    if oob:
        return f"yank the dead peer's connections over the session that is open, or {kill}"
    return f"let the controller whose session was open before fail over, or {kill}"

"""`pycolo status`: what both nodes show, as a table."""

from __future__ import annotations

import asyncio

from rich.table import Table
from rich.text import Text

from pycolo import probe
from pycolo.errors import RemoteError
from pycolo.model import ColoPair, Node
from pycolo.render.text import facts
from pycolo.session import Session
from pycolo.snapshot import Live, NodeState, Snapshot, Unreachable, role_of

LIMIT_S = 5.0


async def read(pair: ColoPair) -> Snapshot:
    """Read both nodes over their observer monitors, which leaves the writers' free."""
    states = await asyncio.gather(*(_read(node) for node in pair.nodes))
    names = [node.name for node in pair.nodes]
    return Snapshot(nodes=dict(zip(names, states, strict=True)))


async def _read(node: Node) -> NodeState:
    try:
        async with await Session.connect(
            node.name, node.observer_monitor, limit_s=LIMIT_S
        ) as session:
            return await probe.read(session, limit_s=LIMIT_S)
    except RemoteError as error:
        return Unreachable(why=str(error))


def table(snapshot: Snapshot) -> Table:
    """One column a node, one row a fact; facts that no node has are left out."""
    shown = Table(show_header=True, header_style="bold")
    shown.add_column("node")
    columns = {name: _column(state) for name, state in snapshot.nodes.items()}
    for name in columns:
        shown.add_column(Text(name), overflow="fold")
    labels = dict.fromkeys(label for column in columns.values() for label in column)
    for label in labels:
        cells = [column.get(label, "") for column in columns.values()]
        if any(cells):
            shown.add_row(label, *map(Text, cells))
    return shown


def _column(state: NodeState) -> dict[str, str]:
    column: dict[str, str] = {"role": role_of(state)}
    match state:
        case Live():
            return column | dict(facts(state))
        case Unreachable(why=why):
            return column | {"why": why}
        case _:
            return column

"""A pair as a Mermaid diagram: block graphs, filter chains, and the links between both nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import final

import attrs

from pycolo.model.disk import ReplicationDisk
from pycolo.model.filters import FilterChain
from pycolo.model.pair import ColoPair
from pycolo.plan import Plan
from pycolo.snapshot import Live, NodeState, role_of

_WORD = re.compile(r"[A-Za-z0-9]")
_ENTITIES = {"&": "#amp;", "#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;"}


def render(what: Plan | ColoPair) -> str:
    """Draw a pair.

    Args:
        what: A plan, whose pair is drawn in its planned state; or a declaration, whose pair is
            drawn as protected, with the first node as the primary.

    Returns:
        A Mermaid flowchart, which ends with a newline.
    """
    sides = _planned(what) if isinstance(what, Plan) else _declared(what)
    pair = what.pair if isinstance(what, Plan) else what
    lines = ["flowchart LR"]
    for side in sides:
        lines += _side(pair, side)
    first, second = sides
    lines += [*_links(pair, first, second), *_links(pair, second, first)]
    return "\n".join(lines) + "\n"


@final
@attrs.frozen(kw_only=True)
class _Side:
    """One node in the diagram, and the names of its parts."""

    place: int
    name: str
    role: str
    parts: frozenset[str]

    def id(self, part: str) -> str:
        """The id of a part in the diagram; characters except letters and digits become hex."""
        return f"n{self.place}_" + "".join(
            ch if _WORD.match(ch) else f"_{ord(ch):x}_" for ch in part
        )


def _declared(pair: ColoPair) -> tuple[_Side, _Side]:
    """Both sides with all parts of a protected pair, the first node as the primary."""
    primary, secondary = pair.nodes
    ours: set[str] = set()
    theirs: set[str] = set()
    for disk in pair.disks:
        names = disk.names
        ours |= {names.device, names.quorum, names.parent, names.nbd}
        theirs |= {names.device, names.quorum, names.replication}
        theirs |= {names.active, names.hidden, names.parent}
    for chain in pair.chains:
        ours |= {chain.names.device, chain.names.netdev, *_primary_parts(chain)}
        theirs |= {chain.names.device, chain.names.netdev, *_secondary_parts(chain)}
    return (
        _Side(place=0, name=primary.name, role="primary", parts=frozenset(ours)),
        _Side(place=1, name=secondary.name, role="secondary", parts=frozenset(theirs)),
    )


def _primary_parts(chain: FilterChain) -> tuple[str, ...]:
    i = chain.names
    loops = (i.compare_local, i.compare_local_client, i.compare_out, i.compare_out_client)
    return (
        i.mirror,
        i.compare_in,
        *loops,
        i.filter_mirror,
        i.redirector_out,
        i.redirector_in,
        i.compare,
    )


def _secondary_parts(chain: FilterChain) -> tuple[str, ...]:
    i = chain.names
    return (i.red_in, i.red_out, i.redirector_from_primary, i.redirector_to_primary, i.rewriter)


def _planned(plan: Plan) -> tuple[_Side, _Side]:
    """Both sides with the parts that they have in a plan's planned state."""
    first, second = (_one_planned(plan, n, node.name) for n, node in enumerate(plan.pair.nodes))
    return first, second


def _one_planned(plan: Plan, place: int, name: str) -> _Side:
    state = plan.planned_state.state(name)
    return _Side(place=place, name=name, role=role_of(state), parts=_parts(plan.pair, state))


def _parts(pair: ColoPair, state: NodeState) -> frozenset[str]:
    if not isinstance(state, Live):
        return frozenset()
    guest = {disk.names.device for disk in pair.disks}
    guest |= {name for chain in pair.chains for name in (chain.names.device, chain.names.netdev)}
    return frozenset({*guest, *state.block_nodes, *state.children, *state.chardevs, *state.objects})


def _side(pair: ColoPair, side: _Side) -> Iterator[str]:
    yield f'  subgraph n{side.place}["{_label(side.name)}: {side.role}"]'
    yield f'    n{side.place}__guest(["{"guest" if side.parts else "no QEMU"}"])'
    for disk in pair.disks:
        yield from _disk(side, disk)
    for chain in pair.chains:
        yield from _chain(side, chain)
    yield "  end"


def _disk(side: _Side, disk: ReplicationDisk) -> Iterator[str]:
    i, here = disk.names, disk.on(side.name)
    kinds = {
        i.device: disk.device,
        i.quorum: "quorum",
        i.replication: "replication",
        i.active: f"active: {here.active_image}",
        i.hidden: f"hidden: {here.hidden_image}",
        i.parent: f"image: {here.image}",
        i.nbd: "nbd client",
        i.primary_replication: "replication",
    }
    yield from _boxes(side, kinds)
    if i.device in side.parts:
        yield f"    n{side.place}__guest --> {side.id(i.device)}"
    yield from _arrows(side, (i.device, i.quorum))
    first_child = i.replication if i.replication in side.parts else i.parent
    yield from _arrows(side, (i.quorum, first_child))
    yield from _arrows(side, (i.quorum, i.nbd), (i.quorum, i.primary_replication))
    overlays = i.active in side.parts
    yield from _arrows(side, (i.replication, i.active if overlays else i.parent))
    yield from _arrows(side, (i.active, i.hidden), (i.hidden, i.parent))


def _chain(side: _Side, chain: FilterChain) -> Iterator[str]:
    i = chain.names
    loops = (i.compare_local, i.compare_local_client, i.compare_out, i.compare_out_client)
    sockets = (i.mirror, i.compare_in, *loops, i.red_in, i.red_out)
    kinds = {
        i.device: chain.model,
        i.netdev: chain.netdev_on(side.name).type,
        **dict.fromkeys(sockets, "chardev"),
        i.filter_mirror: "filter-mirror",
        i.redirector_out: "filter-redirector",
        i.redirector_in: "filter-redirector",
        i.compare: "colo-compare",
        i.redirector_from_primary: "filter-redirector",
        i.redirector_to_primary: "filter-redirector",
        i.rewriter: "filter-rewriter",
    }
    yield from _boxes(side, kinds)
    if i.device in side.parts:
        yield f"    n{side.place}__guest <--> {side.id(i.device)}"
        yield f"    {side.id(i.device)} <--> {side.id(i.netdev)}"
    yield from _arrows(side, (i.netdev, i.filter_mirror), (i.filter_mirror, i.mirror))
    yield from _arrows(side, (i.device, i.redirector_in), (i.redirector_in, i.compare_local))
    yield from _arrows(side, (i.compare_local, i.compare_local_client))
    yield from _arrows(side, (i.compare_local_client, i.compare), (i.compare_in, i.compare))
    yield from _arrows(side, (i.compare, i.compare_out_client))
    yield from _arrows(side, (i.compare_out_client, i.compare_out))
    yield from _arrows(side, (i.compare_out, i.redirector_out), (i.redirector_out, i.netdev))
    yield from _arrows(side, (i.red_in, i.redirector_from_primary))
    inward = i.rewriter if i.rewriter in side.parts else i.device
    yield from _arrows(side, (i.redirector_from_primary, inward), (i.rewriter, i.device))
    yield from _arrows(side, (i.device, i.redirector_to_primary))
    yield from _arrows(side, (i.redirector_to_primary, i.red_out))


def _boxes(side: _Side, kinds: dict[str, str]) -> Iterator[str]:
    for name, kind in kinds.items():
        if name in side.parts:
            yield f'    {side.id(name)}["{_label(name)}<br/>{_label(kind)}"]'


def _arrows(side: _Side, *pairs: tuple[str, str]) -> Iterator[str]:
    for source, target in pairs:
        if source in side.parts and target in side.parts:
            yield f"    {side.id(source)} --> {side.id(target)}"


def _links(pair: ColoPair, ours: _Side, theirs: _Side) -> Iterator[str]:
    """The connections between both nodes, if one side is the primary and the other the secondary.

    Args:
        pair: The declaration.
        ours: The side that counts as the primary.
        theirs: The side that counts as the secondary.
    """
    if "primary" in ours.role and "secondary" in theirs.role:
        label = f"RAM and devices, port {pair.ports.migration}"
        yield f'  n{ours.place}__guest == "{label}" ==> n{theirs.place}__guest'
    for disk in pair.disks:
        ids = disk.names
        client = ids.nbd if ids.nbd in ours.parts else ids.primary_replication
        yield from _link(ours, client, theirs, ids.parent, pair.ports.nbd)
    for chain in pair.chains:
        i = chain.names
        yield from _link(ours, i.mirror, theirs, i.red_in, chain.proxy_ports.mirror)
        yield from _link(theirs, i.red_out, ours, i.compare_in, chain.proxy_ports.compare_in)


def _link(source: _Side, part: str, target: _Side, other: str, port: int) -> Iterator[str]:
    if part in source.parts and other in target.parts:
        yield f'  {source.id(part)} == "port {port}" ==> {target.id(other)}'


def _label(text: str) -> str:
    return "".join(_ENTITIES.get(character, character) for character in text)

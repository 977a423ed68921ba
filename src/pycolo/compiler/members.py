"""Which two nodes are the pair now, and whether the QEMUs and records found belong to it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from pycolo import record
from pycolo.errors import check_all, compile_error
from pycolo.evidence import node_of, pair_of
from pycolo.model.pair import ColoPair
from pycolo.snapshot import Snapshot, role_of

JOINABLE = ("fresh secondary", "prepared secondary")


def check(pair: ColoPair, snapshot: Snapshot, *, without: str | None = None) -> None:
    """Refuse QEMUs, records and folders that are not this pair's.

    All checks are made, and the error has the findings of all that fail.

    Args:
        pair: The declaration.
        snapshot: The states of the nodes and their records.
        without: A node that records may name although it is not declared any more; None for none.

    Raises:
        UndecidedError: The records come from two births, or an arbiter manages them.
        CompileError: A QEMU or a record belongs to another pair or node, a QEMU has no identity,
            or two nodes of a pair with disks have one image folder; and no check raised
            UndecidedError.
    """
    names = pair.names
    check_all(
        (
            *(partial(_check_identity, pair, name, snapshot) for name in names),
            partial(record.check, pair.name, (*names, without or ""), snapshot.records),
            partial(_check_folders, pair, snapshot.folders),
            *(partial(_check_process, name, snapshot) for name in names),
        )
    )


def _check_folders(pair: ColoPair, folders: Mapping[str, str]) -> None:
    """Check that no two nodes have the same image folder."""
    seen: dict[str, str] = {}
    for name, folder in folders.items():
        if folder in seen and pair.disks:
            why = f"{seen[folder]} and {name} have one image folder, under two names"
            advice = f"give {name} an image_folder of its own"
            raise compile_error("shared-image-folder", why, advice, node=name)
        seen[folder] = name


def _check_process(name: str, snapshot: Snapshot) -> None:
    """Check that the process file of a node names a QEMU of that node."""
    found = snapshot.running.get(name)
    if found is not None and node_of(found.instance) not in ("", name):
        why = f"the process file of {name} names {found.instance}, a QEMU of another node"
        raise compile_error("foreign-qemu", why, f"give {name} a state_dir of its own", node=name)


def _check_identity(pair: ColoPair, name: str, snapshot: Snapshot) -> None:
    """Check that the QEMU that answers for a node has that node's identity."""
    live = snapshot.live(name)
    if live is None:
        return
    owner, node = pair_of(live.instance), node_of(live.instance)
    if not owner:
        why = f"the QEMU on {name} has no identity: it calls itself {live.instance!r}"
        raise compile_error(
            "no-identity",
            why,
            f"start it with -name guest={pair.name}:{name}:HEX, as launch does",
            node=name,
        )
    if owner != pair.name:
        why = f"the QEMU that answers for {name} belongs to the pair {owner}, not to {pair.name}"
        raise compile_error(
            "foreign-qemu",
            why,
            f"give {name} a run_dir, or monitors, that only this pair uses",
            node=name,
        )
    if node != name:
        why = f"the QEMU that answers for {name} is that of {node}"
        raise compile_error(
            "foreign-qemu", why, f"give {name} a run_dir, or monitors, of its own", node=name
        )


def members(pair: ColoPair, snapshot: Snapshot, *, peer: str | None = None) -> ColoPair:
    """The pair with the two nodes that the newest record names.

    A spare that protects the holder, or is about to, is then one of the two nodes, and the node
    that it replaced is a spare.

    Args:
        pair: The declaration.
        snapshot: The states of the nodes and their records.
        peer: The node that will protect the holder. If None, the one that the record names or,
            if that does not answer, the only fresh secondary.

    Raises:
        DeclarationError: `peer` is not one of the pair's nodes.
        CompileError: `peer` holds the newest data itself.
    """
    if peer is not None:
        pair.node(peer)
    top = record.highest(snapshot.records)
    if top is None:
        return pair
    if peer == top.holder:
        why = f"{peer} holds the newest data, by its record, and cannot protect itself"
        raise compile_error("peer-is-holder", why, "name another node as peer", node=peer)
    pair = _with(pair, top.holder, keeping=top.partner)
    partner = peer or _partner(pair, snapshot, top)
    if partner is None:
        return pair
    return _with(pair, partner, keeping=top.holder)


def _partner(pair: ColoPair, snapshot: Snapshot, top: record.PairRecord) -> str | None:
    """The node that protects the holder, or will; None if it is not clear which."""
    known = top.partner or pair.peer_of(top.holder).name
    holder = snapshot.live(top.holder)
    if snapshot.live(known) is not None or (holder is not None and holder.colo_mode != "none"):
        # A holder in COLO must fail over or stop before another node can take the partner's place,
        # even if the partner is dead.
        return known
    names = pair.names
    fresh = [name for name in names if role_of(snapshot.state(name)) in JOINABLE]
    return fresh[0] if len(fresh) == 1 else top.partner


def _with(pair: ColoPair, name: str, *, keeping: str | None) -> ColoPair:
    """The pair with the node `name` as one of its two.

    The second node becomes a spare, or the first one if the second is `keeping`.
    """
    first, second = (node.name for node in pair.nodes)
    if name in (first, second):
        return pair
    leaving = first if second == keeping else second
    return pair.replacing(leaving, pair.node(name))

"""Hand a pair from its agents' arbiter back to the files of its nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import final

import attrs

from pycolo._mapping import read_only_mappings
from pycolo.errors import ArbiterOvertaken, RemoteError
from pycolo.hosts import Host
from pycolo.model import ColoPair
from pycolo.record import (
    Change,
    DamagedRecord,
    NoRecord,
    PairRecord,
    RecordState,
    UnreadRecord,
)
from pycolo.supervise.arbiter import Arbiter
from pycolo.supervise.shared import SharedRecord


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Release:
    """What `release` has done."""

    record: PairRecord
    "The arbiter's record as it was released; every file has it, or a later one."
    unwritten: Mapping[str, str] = attrs.field(factory=dict)
    "Node to why its file was not written: it gives no rights until `release` is called again."


async def release(
    pair: ColoPair, hosts: Mapping[str, Host], arbiter: Arbiter, *, limit_s: float
) -> Release:
    """Hand a pair from its arbiter back to the files of its nodes.

    The arbiter's record counts until it is marked as released, in one swap; from then on the files
    count, each as soon as it is written. Agents only observe from then on, until `set_want` has
    them adopt the pair again. If this was ended at any moment, or a file could not be written, call
    it again. It writes no file that is newer than the release.

    Args:
        pair: The declaration.
        hosts: Node name to its host, spares included. They are not closed.
        arbiter: Holds the pair's record; it is not closed.
        limit_s: How long each answer may take, in seconds.

    Raises:
        ArbiterOvertaken: The arbiter holds no record of the pair; the record names two nodes, a
            secondary that joins or a node that claims the pair; `protected` is wanted; a QEMU runs
            on a node that is not the holder; the files are about to be adopted; a file cannot be
            read, is newer than the arbiter's record, or belongs to another pair or arbiter; the
            holder's file is not up to date; or an agent changed the record meanwhile. Nothing was
            changed.
        ArbiterLost: No answer came: it is not known whether the pair is released. Call it again.
    """
    name = await arbiter.identity(limit_s=limit_s)
    found = await asyncio.gather(
        *(hosts[n.name].observe(pair, n.name, limit_s=limit_s) for n in pair.all_nodes)
    )
    files = {node.name: state.record for node, state in zip(pair.all_nodes, found, strict=True)}
    # Later than the files: an agent changes the arbiter first, so that no file is newer.
    held = await arbiter.read(pair.name, limit_s=limit_s)
    shared = held.shared
    running = {
        node.name for node, state in zip(pair.all_nodes, found, strict=True) if state.running
    }
    why = "it holds none" if shared is None else _refusal(shared, files, running, name)
    if shared is None or why is not None:
        raise ArbiterOvertaken(pair.name, why or "")
    record = shared.record
    if shared.released is None:
        record = attrs.evolve(record, epoch=record.epoch + 1, revision=0, managed_by=None)
    if shared.released != "to-files":
        marked = attrs.evolve(shared, record=record, released="to-files")
        await arbiter.swap(pair.name, held, marked, limit_s=limit_s)
    unwritten: dict[str, str] = {}
    # The holder's file comes last: once it is written, its node may run alone by it.
    for node in sorted(files, key=lambda one: one == record.holder):
        file = files[node]
        if not isinstance(file, PairRecord) or _is_released(file, record):
            continue
        change = Change(expects=file, becomes=record)
        try:
            await hosts[node].write(pair, node, change, limit_s=limit_s)
        except RemoteError as error:
            unwritten[node] = str(error)
    return Release(record=record, unwritten=unwritten)


def _refusal(
    shared: SharedRecord, files: Mapping[str, RecordState], running: Collection[str], name: str
) -> str | None:
    """Why a pair must not be released, or not once more, as a clause; None if it may.

    Args:
        shared: What the arbiter holds.
        files: Every node's own file, spares included.
        running: The nodes on which a QEMU is known to run.
        name: The arbiter's name in files.
    """
    record = shared.record
    own = files.get(record.holder)
    is_whole = isinstance(own, PairRecord) and _is_released(own, record)
    if shared.released == "wanted-back" and is_whole:
        # Its agent may have begun to write the arbiter's name into the files again.
        return "the agents are about to take it back: wait until they have done so"
    strangers = sorted(record.named - files.keys())
    if strangers:
        return f"it names {', '.join(strangers)}, which is not declared"
    if shared.released is None:
        why = _unready(shared, files, running)
        if why is not None:
            return why
    refused = (_file_refusal(node, files[node], shared, name) for node in sorted(files))
    return next((why for why in refused if why is not None), None)


def _unready(
    shared: SharedRecord, files: Mapping[str, RecordState], running: Collection[str]
) -> str | None:
    """Why a pair is not ready to be released for the first time; None if it is."""
    record = shared.record
    if shared.want == "protected":
        return "protected is wanted: type `pycolo want unprotected` with --agent first"
    if not record.is_sole or record.phase != "alone" or shared.claimed_by is not None:
        return "its guest does not run alone yet: wait until its agent says `alone`"
    others = sorted(node for node in running if node != record.holder)
    if others:
        # The agent may be about to end it, which it cannot do once the pair is released.
        return f"a QEMU of {others[0]} still runs: wait until its agent says `following`"
    own = files[record.holder]
    if isinstance(own, PairRecord) and own.order < record.order:
        # A failover may be under way: the holder's guest continues only after its file is written.
        return f"the file of {record.holder} is not up to date: have its agent run until it is"
    return None


def _file_refusal(node: str, file: RecordState, shared: SharedRecord, name: str) -> str | None:
    """Why a node's file keeps a pair from being released, as a clause; None if it does not."""
    record = shared.record
    match file:
        case UnreadRecord(why=why) | DamagedRecord(why=why):
            return f"the file of {node} cannot be read: {why}"
        case NoRecord(lost=None) if node != record.holder:
            # A spare that has never joined.
            return None
        case NoRecord(lost=lost):
            return f"the file of {node} cannot be read: {lost or 'it is absent'}"
        case PairRecord():
            if (file.pair, file.birth) != (record.pair, record.birth):
                return f"the file of {node} belongs to another pair"
            if file.managed_by not in (None, name):
                return f"the file of {node} is handed to {file.managed_by}, not to {name}"
            may_be_newer = shared.released is not None and file.managed_by is None
            if file.order > record.order and not may_be_newer:
                return (
                    f"the file of {node} is newer, as if {name} was restored from a backup: see the"
                    " manual on arbiters"
                )
            return None


def _is_released(file: PairRecord, record: PairRecord) -> bool:
    """Whether a node's file needs no writing: it has the released record, or a later one."""
    return file.managed_by is None and file.order >= record.order

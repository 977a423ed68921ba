"""The record of a pair: who holds the newest data, and who may run alone.

QEMU does not know whose data is newest. So each node keeps one small file on its own host, and the
rules below say what the file allows. `tests/record_search` checks them: two controllers, which may
die or pause between any two steps, execute the compiler's steps in every order, within limits. No
two guests serve at once, no acknowledged write is lost, and no pair is stuck.

1. A node's rights come from its own file. Other files can only deny, with one exception: if the
   holder's own file was lost or damaged while its guest runs, the newest record may name it.
2. Records are ordered by epoch, then revision. A change takes the highest that was read and adds
   one to its revision, or begins a new epoch. It is written by compare-and-swap, durably.
3. A node leaves COLO alone only after its own file names it as the only eligible node.
4. A secondary becomes eligible after a proven checkpoint, its primary's file first. It stops being
   eligible, its own file first, before anything that lets its primary continue without it.
5. A file that could not be read is not written. If any record exists, a file that is absent or
   damaged gives its node no right, and does not show that the node has none. The file may be
   written again, such as when the node joins.
6. A node is started as primary only after its own file names it as the only eligible node. Before
   that, the file of every other node that may run alone is rewritten; by a person's decision
   (`--newest`), every file within reach.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Literal, TypeAlias, final

import attrs

from pycolo import _decode
from pycolo._forms import Document, Forms
from pycolo._mapping import read_only_mappings
from pycolo.errors import ParseError, check_all, compile_error, undecided
from pycolo.evidence import Evidence, Victim, node_of

Phase: TypeAlias = Literal["alone", "joining", "protected"]
Commit: TypeAlias = Literal["clean", "pending"]
SIZE_MAX_BYTES = 65536
# Added to the epoch, so that a person's decision outranks every file that was out of reach then.
NEWEST_EPOCHS = 1000


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class PairRecord:
    """The content of one node's record file."""

    pair: str
    "The pair's name."
    birth: str
    "Drawn at random at the pair's first launch; it tells two pairs of the same name apart."
    epoch: int
    """Grows when a node takes over or is started as primary, when a person decides, or when the
    holder's lost file is written again; higher is later."""
    revision: int
    "Counts the changes within an epoch, from 0."
    holder: str
    "The node with the newest data."
    eligible: Mapping[str, str]
    "Node to the instance of its QEMU, for each that may run alone."
    phase: Phase
    "Whether the holder is alone, is being joined by a secondary, or is protected by it."
    joining: str | None = None
    "The instance of the secondary that joins."
    commit: Commit = "clean"
    "`pending` until a promoted node's overlays are merged into its image (qemu-behaviour 5.13)."
    evidence: Evidence | None = None
    """The evidence that the last failover, to either node, or the last `forget` rested on.

    None once a node was started as primary.
    """
    managed_by: str | None = None
    "The arbiter that manages the pair; then the files give no rights. None if there is none."

    @property
    def order(self) -> tuple[int, int]:
        """The epoch and the revision; of two records, the one with the greater order is later."""
        return self.epoch, self.revision

    @property
    def is_sole(self) -> bool:
        """Whether the holder alone is eligible."""
        return tuple(self.eligible) == (self.holder,)

    @property
    def named(self) -> frozenset[str]:
        """Every node that the record names."""
        joining = () if self.joining is None else (node_of(self.joining),)
        return frozenset((self.holder, *self.eligible, *joining))

    @property
    def partner(self) -> str | None:
        """The node that protects the holder or is joining it; None if the record names none."""
        others = [node for node in self.eligible if node != self.holder]
        if not others and self.joining is not None:
            return node_of(self.joining)
        return others[0] if others else None


@final
@attrs.frozen(kw_only=True)
class NoRecord:
    """The host was asked, and there is no file."""

    lost: str | None = None
    """How it is known that there was a file; None if that is not known.

    If there was one, the node does not begin a new pair.
    """


@final
@attrs.frozen(kw_only=True)
class DamagedRecord:
    """There is a file, but not byte for byte as pycolo writes it; it gives no rights."""

    why: str
    "What is wrong with the file."
    digest: str
    "SHA-256 of the file's bytes, which a compare-and-swap can expect."


@final
@attrs.frozen(kw_only=True)
class UnreadRecord:
    """The file was not asked for, its host was out of reach, or the file must not be used."""

    why: str
    "The reason."
    is_host_reached: bool = False
    "Whether the host answered, and also said which QEMU runs there."


RecordState: TypeAlias = PairRecord | NoRecord | DamagedRecord | UnreadRecord
ReadState: TypeAlias = PairRecord | NoRecord | DamagedRecord
Files: TypeAlias = Mapping[str, RecordState]
"Node to what its own file says."

NOT_READ = UnreadRecord(why="not read")


@final
@attrs.frozen(kw_only=True)
class Change:
    """A compare-and-swap of one file: the content it must have, byte for byte, and the new one."""

    expects: ReadState
    becomes: PairRecord


@functools.cache
def document() -> Document:
    """The JSON form of a record file."""
    return Document("record", Forms(omits="nothing").record(PairRecord))


def dumps(record: PairRecord) -> str:
    """The text of a record file: one line of JSON with its keys in a fixed order."""
    return json.dumps(document().write(record), ensure_ascii=False) + "\n"


def loads(data: bytes) -> PairRecord | DamagedRecord:
    """Read the bytes of a record file; they are damaged if `dumps` would not write the same."""
    why = "it is longer than any record"
    if len(data) <= SIZE_MAX_BYTES:
        try:
            record = document().read(_decode.json_value(data), "")
        except ParseError as error:
            why = str(error).partition("\n")[0]
        else:
            assert isinstance(record, PairRecord)  # noqa: S101 - the form makes no other type
            if dumps(record).encode() == data:
                return record
            why = "it was edited"
    return DamagedRecord(why=why, digest=hashlib.sha256(data).hexdigest())


def digest(state: ReadState) -> str | None:
    """SHA-256 of the bytes of a file in this state; None if there is no file."""
    match state:
        case PairRecord():
            return hashlib.sha256(dumps(state).encode()).hexdigest()
        case DamagedRecord(digest=known):
            return known
        case NoRecord():
            return None


def highest(files: Files) -> PairRecord | None:
    """The latest record that was read; None if no record was read."""
    return max(_read(files.values()), key=lambda record: record.order, default=None)


def _read(states: Iterable[RecordState]) -> list[PairRecord]:
    return [state for state in states if isinstance(state, PairRecord)]


# -- checks of every procedure -------------------------------------------------------------------


def check(pair: str, nodes: Iterable[str], files: Files) -> None:
    """Refuse files that belong to another pair, or to a pair that an arbiter manages.

    Args:
        pair: The pair's name.
        nodes: Every node that the declaration knows, spares included.
        files: What was read.

    Raises:
        CompileError: A file has the name of another pair, or names a node that is not declared.
        UndecidedError: The files have this pair's name and differ in their birth, so that they come
            from two pairs; or an arbiter manages the pair.
    """
    known = frozenset(nodes)
    read = {node: record for node, record in files.items() if isinstance(record, PairRecord)}
    check_all(
        (
            *(partial(_check_file, pair, known, node, record) for node, record in read.items()),
            partial(_check_births, {r.birth: n for n, r in read.items() if r.pair == pair}),
        )
    )


def _check_file(pair: str, known: frozenset[str], node: str, record: PairRecord) -> None:
    """Check one node's record: its pair, that no arbiter manages it, and the nodes it names."""
    if record.pair != pair:
        why = f"the record of {node} belongs to the pair {record.pair}, not to {pair}"
        advice = f"give {node} images, or a state_dir, of its own"
        raise compile_error("foreign-record", why, advice, node=node)
    if record.managed_by is not None:
        why = f"the record of {node} is managed by {record.managed_by}"
        advice = (
            "say what you want to the agents: `pycolo want` or `pycolo pause`, with --agent; to act"
            " without them, type `pycolo release`"
        )
        raise undecided("managed-record", why, advice, node=node)
    strangers = sorted(record.named - known)
    if strangers:
        why = f"the record of {node} names {', '.join(strangers)}, which is not declared"
        advice = f"declare it, or take it out with forget {strangers[0]}"
        if record.holder in strangers:
            why += f"; {record.holder} holds the newest data"
            advice = (
                f"declare {record.holder}; if it is gone for good, keep it declared and launch"
                " another node with --newest"
            )
        raise compile_error("undeclared-node", why, advice, node=node)


def _check_births(births: Mapping[str, str]) -> None:
    """Check that all records come from one pair; `births` maps a birth to a node."""
    if len(births) > 1:
        first, second = list(births.values())[:2]
        why = f"the records of {first} and {second} come from two pairs of the same name"
        advice = (
            "keep the owner files, and remove the record of the node whose data you do not need"
        )
        raise undecided("two-births", why, advice)


# -- who may run alone -------------------------------------------------------------------------


def may_run_alone(files: Files, node: str, instance: str, *, leads: bool) -> Victim | None:
    """Check that a node in COLO may run alone, and find which QEMU must have ended before.

    Args:
        files: The files that were read.
        node: The node.
        instance: The identity of its QEMU.
        leads: Whether the node is COLO's primary, or its guest runs unprotected. Then the newest
            record can take the place of the node's own file, if that is absent or damaged.

    Returns:
        The QEMU that must have ended; None if the record names no other QEMU.

    Raises:
        CompileError: The node may not run alone, or its own file could not be read.
        UndecidedError: Its own file is absent or damaged, and the node does not lead or the newest
            record does not name it as the holder.
    """
    own, top = files.get(node, NOT_READ), highest(files)
    if isinstance(own, UnreadRecord):
        why = f"the record of {node} cannot be read: {own.why}"
        raise compile_error(
            "unread-record", why, f"{node} may run alone only by its own record", node=node
        )
    if not isinstance(own, PairRecord):
        return _vouched(top, node, own, leads=leads)
    if own.eligible.get(node) != instance:
        why = f"the record of {node} does not let {instance} run alone"
        raise compile_error("not-eligible", why, _instead(own, node), node=node)
    if top is not None and top.epoch > own.epoch and top.eligible.get(node) != instance:
        why = f"{top.holder} took over without {node} in epoch {top.epoch}"
        raise compile_error("outdated", why, _instead(top, node), node=node)
    others = [(name, other) for name, other in own.eligible.items() if name != node]
    if not others:
        return None
    return Victim(node=others[0][0], instance=others[0][1], epoch=own.epoch)


def _vouched(
    top: PairRecord | None, node: str, own: NoRecord | DamagedRecord, *, leads: bool
) -> Victim | None:
    """`may_run_alone` for a node whose own file is absent or damaged."""
    what = "is absent" if isinstance(own, NoRecord) else f"is damaged ({own.why})"
    if not leads or top is None or top.holder != node:
        why = f"the record of {node} {what}, and no other one speaks for it"
        advice = f"end its QEMU, then launch {node} or its peer with --newest"
        if leads:
            word = f"launch --node {node} --newest {node}"
            advice = f"if its data is right, {word}, and do this again; else {advice}"
        raise undecided("lost-record", why, advice, node=node)
    partner = top.partner
    if partner is None:
        return None
    instance = top.eligible.get(partner, top.joining or "")
    return Victim(node=partner, instance=instance, epoch=top.epoch)


def _instead(record: PairRecord, node: str) -> str:
    """The remedy if a record lets other nodes run alone."""
    return f"{_who_may(record)}; if that has ended, end the QEMU of {node} and launch again"


def _who_may(record: PairRecord) -> str:
    names = " or ".join(f"{node} ({instance})" for node, instance in record.eligible.items())
    return f"only {names} may"


def failed_over(
    files: Files,
    node: str,
    instance: str,
    *,
    commit: Commit,
) -> PairRecord:
    """The record of a node that runs alone from now on.

    If the node's own file already names it as the only eligible node, only the revision grows.
    Otherwise the record begins a new epoch: the node leaves another one behind, or its own file is
    absent or damaged.

    Raises:
        UndecidedError: No record was read.
    """
    own = files.get(node)
    repeated = isinstance(own, PairRecord) and own.is_sole and own.holder == node
    top = _top(files)
    epoch, revision = _next(top, promote=not repeated)
    return attrs.evolve(
        top,
        epoch=epoch,
        revision=revision,
        holder=node,
        eligible={node: instance},
        phase="alone",
        joining=None,
        commit=commit,
        evidence=top.evidence if repeated else None,
    )


# -- who may be started as primary ---------------------------------------------------------------


def is_new(files: Files) -> bool:
    """Whether the file of every node was looked for, and none of them ever existed."""
    return all(isinstance(state, NoRecord) and state.lost is None for state in files.values())


def may_boot(files: Files, node: str, first: str) -> tuple[str, ...]:
    """Check that a node may be started as primary, and find whose rights must end before.

    Args:
        files: The file of every declared node, spares included.
        node: The node.
        first: The node that must be started first if the pair is new.

    Returns:
        The nodes whose own files must be written before, in order.

    Raises:
        CompileError: Another node holds the newest data, or must begin the new pair.
        UndecidedError: The files do not show which node holds the newest data, the holder's image
            lacks writes, or another node may have run alone and its file was not read.
    """
    own, top = files.get(node, NOT_READ), highest(files)
    if is_new(files):
        if node == first:
            return ()
        raise compile_error(
            "not-first-node", f"{first} begins a new pair, not {node}", f"launch {first}", node=node
        )
    if top is None:
        advice = f"correct what keeps them from being read; if they are lost, {_newest()}"
        raise undecided("unread-records", f"no record can be read: {_unread(files)}", advice)
    held = files.get(top.holder, NOT_READ)
    if isinstance(held, PairRecord) and held.commit == "pending":
        why = f"{top.holder} ended before its overlays were merged: its image lacks writes"
        advice = (
            f"merge its overlays by hand and launch it with --newest {top.holder}, or launch"
            " another node with --newest"
        )
        raise undecided("commit-pending", why, advice, node=top.holder)
    if isinstance(own, PairRecord) and own.holder == node and own.is_sole:
        rivals = [r for r in _read(files.values()) if r.epoch >= own.epoch and r.holder != node]
        if not rivals:
            return ()
    _check_holder(files, node, top)
    named = {name for record in _read(files.values()) for name in record.eligible}
    for name in sorted(named):
        state = files.get(name, NOT_READ)
        if not isinstance(state, PairRecord):
            why = f"{name} may have run alone without {node}, and its record cannot be read: "
            advice = (
                f"bring the host of {name} back; if its data is lost, launch {node} with --newest"
                f" {node}, which gives up what {name} may have written"
            )
            raise undecided("rival-unread", why + _why(state), advice, node=name)
    return tuple(sorted(named - {node}))


def _check_holder(files: Files, node: str, top: PairRecord) -> None:
    """Check that the newest record names the node as the holder, and that its own file was read.

    Raises:
        CompileError: The newest record names another holder.
        UndecidedError: Two nodes are the holder of the newest epoch, or the node's own file was not
            read.
    """
    if any(r.epoch == top.epoch and r.holder != top.holder for r in _read(files.values())):
        why = f"two nodes are called the holder of epoch {top.epoch}"
        raise undecided("two-holders", why, _newest())
    if top.holder != node:
        raise compile_error(
            "not-holder",
            f"{top.holder} holds the newest data, not {node}",
            _other(top.holder),
            node=node,
        )
    own = files.get(node, NOT_READ)
    if not isinstance(own, PairRecord):
        raise undecided(
            "unread-record",
            f"the record of {node} cannot be read: {_why(own)}",
            _newest(),
            node=node,
        )


def _other(holder: str) -> str:
    """The remedy if another node is the holder."""
    return f"launch {holder} as primary, or say who is to be believed with --newest NODE"


def _newest() -> str:
    """The remedy if a person must say whose data is right."""
    return "find out whose data is right, then launch that node with --newest and its name"


def _why(state: RecordState) -> str:
    """Why a file does not count as read, as a clause."""
    match state:
        case UnreadRecord(why=why) | DamagedRecord(why=why):
            return why
        case NoRecord(lost=lost):
            return lost or "it is absent"
        case PairRecord():
            return "it was read"


def _unread(files: Files) -> str:
    """Why each file does not count as read, as text."""
    return ", ".join(f"{node}: {_why(state)}" for node, state in files.items())


def booted(files: Files, node: str, instance: str, birth: str, pair: str) -> PairRecord:
    """The record of a node that is about to be started as primary; it begins a new epoch.

    Args:
        files: The files that were read.
        node: The node.
        instance: The identity that its QEMU will have.
        birth: The birth of the pair if no record was read; otherwise that of the newest record.
        pair: The pair's name.
    """
    top = highest(files)
    epoch = 1 if top is None else top.epoch + 1
    known = birth if top is None else top.birth
    return _sole(pair, known, epoch, node, instance)


def accepted(files: Files, node: str, instance: str, birth: str, pair: str) -> PairRecord:
    """The record of a person's decision that a node holds the newest data.

    It outranks files that were out of reach (`NEWEST_EPOCHS`). The arguments are those of `booted`.
    """
    top = highest(files)
    epoch = NEWEST_EPOCHS if top is None else top.epoch + NEWEST_EPOCHS
    known = birth if top is None else top.birth
    return _sole(pair, known, epoch, node, instance)


def _sole(pair: str, birth: str, epoch: int, node: str, instance: str) -> PairRecord:
    return PairRecord(
        pair=pair,
        birth=birth,
        epoch=epoch,
        revision=0,
        holder=node,
        eligible={node: instance},
        phase="alone",
    )


def others_revoked(files: Files, node: str) -> PairRecord:
    """The record that ends the rights of all other nodes, before a node is started as primary.

    Raises:
        UndecidedError: No record was read.
    """
    top = _top(files)
    _, revision = _next(top, promote=False)
    eligible = {name: instance for name, instance in top.eligible.items() if name == node}
    return attrs.evolve(
        top, revision=revision, holder=node, eligible=eligible, phase="alone", joining=None
    )


# -- joining a secondary, protection, and its end ------------------------------------------------


def may_lead(files: Files, primary: str, instance: str, secondary: str | None) -> None:
    """Check that a running guest may get a secondary, or continue without its secondary.

    Args:
        files: The files that were read.
        primary: The node with the guest.
        instance: The identity of its QEMU.
        secondary: The other node, if its file is going to be written too; None if not.

    Raises:
        CompileError: The primary's own file was not read, names another holder or, unless it names
            the primary alone, another QEMU of the primary; another node holds newer data; or the
            secondary's file was not read.
        UndecidedError: The primary's own file is absent or damaged, and the newest record does not
            name the primary.
    """
    own, top = files.get(primary, NOT_READ), highest(files)
    if isinstance(own, UnreadRecord):
        raise compile_error(
            "unread-record", f"the record of {primary} cannot be read: {own.why}", node=primary
        )
    if secondary is not None:
        other = files.get(secondary, NOT_READ)
        if isinstance(other, UnreadRecord):
            why = f"the record of {secondary} cannot be written: {other.why}"
            advice = f"bring its host back; if {secondary} is dead, fail over to {primary}"
            raise compile_error("unwritten-record", why, advice, node=secondary)
    if not isinstance(own, PairRecord):
        speaks = top is not None and (
            top.holder == primary or top.eligible.get(primary) == instance
        )
        if not speaks:
            why = f"the record of {primary} cannot be read ({_why(own)}), nor one that names it"
            raise undecided("lost-record", why, _newest(), node=primary)
        return
    # A record with one eligible node may name a QEMU that never started: another start won.
    names_it = own.is_sole or own.eligible.get(primary) == instance
    if own.holder != primary or not names_it:
        why = f"the record of {primary} does not name {instance} as the one with the newest data"
        raise compile_error("not-eligible", why, _who_may(own), node=primary)
    rivals = [r for r in _read(files.values()) if r.epoch > own.epoch and r.holder != primary]
    if own.is_sole:
        rivals += [r for r in _read(files.values()) if r.epoch == own.epoch and r.holder != primary]
    if rivals:
        why = f"{rivals[0].holder} took over in epoch {rivals[0].epoch}, without {primary}"
        raise compile_error("outdated", why, _other(rivals[0].holder), node=primary)


def joined(
    files: Files, primary: str, instance: str, secondary_instance: str, *, commit: Commit
) -> PairRecord:
    """The record while a secondary joins: only the primary is eligible.

    It follows the newest of the records that were read: the same epoch and the next revision, or
    the next epoch if the primary's own record is absent or was not read.

    Args:
        files: What was read of each node's record.
        primary: The node with the guest; the holder from then on.
        instance: The identity of its QEMU, which alone is eligible.
        secondary_instance: The identity of the QEMU that joins.
        commit: `pending` while overlays of the primary are not merged into its image.

    Raises:
        UndecidedError: No record was read.
    """
    top = _top(files)
    promote = not isinstance(files.get(primary), PairRecord)
    epoch, revision = _next(top, promote=promote)
    return attrs.evolve(
        top,
        epoch=epoch,
        revision=revision,
        holder=primary,
        eligible={primary: instance},
        phase="joining",
        joining=secondary_instance,
        commit=commit,
    )


def protected(files: Files, primary: str, secondary: str, secondary_instance: str) -> PairRecord:
    """The record after a proven checkpoint: both nodes are eligible.

    It follows the newest of the records that were read, which names the primary's QEMU as eligible:
    the same epoch and the next revision.

    Args:
        files: What was read of each node's record.
        primary: The node with the guest.
        secondary: The node that protects it from then on.
        secondary_instance: The identity of the secondary's QEMU.

    Raises:
        UndecidedError: No record was read.
    """
    top = _top(files)
    _, revision = _next(top, promote=False)
    both = {primary: top.eligible[primary], secondary: secondary_instance}
    return attrs.evolve(top, revision=revision, eligible=both, phase="protected", joining=None)


def narrowed(files: Files, primary: str, instance: str) -> PairRecord:
    """The record of a primary that is to continue without its secondary, on purpose.

    It follows the newest of the records that were read: the same epoch and the next revision, or
    the next epoch if the primary's own record is absent or was not read.

    Args:
        files: What was read of each node's record.
        primary: The node that continues; the holder from then on.
        instance: The identity of its QEMU, which alone is eligible.

    Raises:
        UndecidedError: No record was read.
    """
    top = _top(files)
    promote = not isinstance(files.get(primary), PairRecord)
    epoch, revision = _next(top, promote=promote)
    return attrs.evolve(
        top,
        epoch=epoch,
        revision=revision,
        holder=primary,
        eligible={primary: instance},
        phase="alone",
        joining=None,
    )


def merged(files: Files, node: str) -> PairRecord:
    """A node's own record after its overlays were merged into its image, as QEMU has shown."""
    own = files[node]
    assert isinstance(own, PairRecord)  # noqa: S101 - an earlier step wrote the record
    _, revision = _next(_top(files), promote=False)
    return attrs.evolve(own, revision=revision, commit="clean")


def is_protected(files: Files, both: Mapping[str, str]) -> bool:
    """Whether the files of both nodes say that exactly these two QEMUs may run alone.

    Args:
        files: The files that were read.
        both: Node name to the identity of its QEMU.
    """
    states = [files.get(node) for node in both]
    return all(isinstance(s, PairRecord) and dict(s.eligible) == dict(both) for s in states)


def forgotten(files: Files, node: str, gone: str) -> PairRecord:
    """The record without a node that will not return, by an operator's statement.

    Args:
        files: The files that were read.
        node: The node that remains; its own record is the one that is changed.
        gone: The node to remove.

    Raises:
        CompileError: The record of the remaining node was not read.
        UndecidedError: The node to remove holds the newest data.
    """
    own, top = files.get(node, NOT_READ), highest(files)
    if not isinstance(own, PairRecord) or top is None:
        raise compile_error(
            "unread-record", f"the record of {node} cannot be read: {_why(own)}", node=node
        )
    if own.holder == gone:
        why = f"{gone} holds the newest data, by the record of {node}"
        raise undecided(
            "holder-forgotten",
            why,
            f"to continue with older data, launch with --newest {node}",
            node=gone,
        )
    epoch, revision = _next(top, promote=True)
    left = {name: instance for name, instance in own.eligible.items() if name != gone}
    joining = None if own.joining is None or node_of(own.joining) == gone else own.joining
    phase: Phase = "alone" if len(left) == 1 and joining is None else own.phase
    return attrs.evolve(
        own, epoch=epoch, revision=revision, eligible=left, joining=joining, phase=phase
    )


def _top(files: Files) -> PairRecord:
    """The latest record.

    Raises:
        UndecidedError: No record was read.
    """
    top = highest(files)
    if top is None:
        raise undecided("unread-records", f"no record can be read: {_unread(files)}")
    return top


def _next(top: PairRecord, *, promote: bool) -> tuple[int, int]:
    """The next epoch and revision; `promote` is whether a new epoch begins."""
    return (top.epoch + 1, 0) if promote else (top.epoch, top.revision + 1)

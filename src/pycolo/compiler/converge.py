"""`converge`: the smallest plan that makes a live pair what its declaration says.

If QEMU can change a part in place, replication continues. A part that is missing from a pair in
COLO cannot be added while COLO runs: `converge` is refused then, and the error says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from pycolo import topology
from pycolo.compiler import _disks, _tls
from pycolo.compiler._draft import Draft
from pycolo.compiler.drift import BANDWIDTH, DELAY, DOWNTIME, STATUS, drift
from pycolo.compiler.members import check, members
from pycolo.compiler.protect import is_recorded, lost_in_colo, protect
from pycolo.compiler.roles import roles, versions
from pycolo.conditions import ChildIs
from pycolo.differences import Difference
from pycolo.errors import compile_error
from pycolo.features import accept_pair
from pycolo.model.pair import ColoPair
from pycolo.plan import Options, Plan, Refusal
from pycolo.qmp.commands import (
    BlockdevDel,
    BlockExportDel,
    ChardevRemove,
    Command,
    MigrateSetParameters,
    ObjectDel,
    QomSet,
    XBlockdevChange,
)
from pycolo.qmp.replies import Version
from pycolo.snapshot import Snapshot

# Properties of compare that QEMU can change while it works; all others are fixed when it is made.
NUMBERS = ("compare_timeout", "expired_scan_cycle", "max_queue_size")
# Parameters that may change during COLO, and the command that sets each to its declared value.
LIMITS: Mapping[str, Callable[[ColoPair], Command]] = {
    DELAY: lambda pair: MigrateSetParameters(x_checkpoint_delay_ms=pair.checkpoint_delay_ms),
    BANDWIDTH: lambda pair: MigrateSetParameters(
        max_bandwidth_bytes_per_s=pair.migration.max_bandwidth_bytes_per_s
    ),
    DOWNTIME: lambda pair: MigrateSetParameters(downtime_limit_ms=pair.migration.downtime_limit_ms),
}
GONE = (
    Refusal(text="not found"),
    Refusal(text="not found", error_class="DeviceNotFound"),
    Refusal(text="Failed to find node"),
)
# A part is changed or deleted before the parts that it uses: objects before their chardevs,
# children before their block nodes.
ORDER = ("setting", "parameter", "limit", "object", "chardev", "export", "child", "block node")


def _repair(draft: Draft, primary: str) -> None:
    """Emit the steps that remove every difference between a protected pair and its declaration.

    Raises:
        CompileError: A difference cannot be removed while replication runs.
    """
    for disk in draft.pair.disks:
        _disks.ensure_dismissed(draft, primary, disk)
    for node in draft.pair.nodes:
        # Credentials can be added now: no connection uses them before the next entry into COLO.
        _tls.ensure_credentials(draft, node.name)
    found = drift(draft.pair, draft.now)
    if found.missing:
        parts = ", ".join(f"{d.kind} {d.label} of {d.node}" for d in found.missing)
        raise lost_in_colo(parts)
    differences = (*found.changed, *found.stray)
    sent: dict[str, list[Command]] = {node.name: [] for node in draft.pair.nodes}
    for difference in sorted(differences, key=_place):
        command = _command(draft, difference)
        why = "not as declared, and changed in place"
        if command in sent[difference.node]:
            # One command sets all limits of a drive.
            continue
        sent[difference.node].append(command)
        draft.execute(difference.node, command, why, accepts=GONE if _is_stray(difference) else ())


def _place(difference: Difference) -> tuple[int, str, str]:
    """The sort key by which differences are removed in the right order."""
    known = difference.kind in ORDER
    place = ORDER.index(difference.kind) if known else len(ORDER)
    return place, difference.node, difference.label


def _is_stray(difference: Difference) -> bool:
    """Whether a part is live and not declared."""
    return difference.declared is None


def _command(draft: Draft, difference: Difference) -> Command:
    """The command that removes a difference in place.

    Raises:
        CompileError: The difference cannot be removed while COLO runs.
    """
    name, owner, declared = difference.name, difference.owner, difference.declared
    match difference.kind:
        case "setting" if declared is not None and name == STATUS:
            return QomSet(path=f"/objects/{owner}", property_name=STATUS, value=declared)
        case "setting" if declared is not None and name in NUMBERS:
            return QomSet(path=f"/objects/{owner}", property_name=name, value=int(declared))
        case "parameter" if name in LIMITS:
            return LIMITS[name](draft.pair)
        case "limit":
            return _limit(draft, difference)
        case "child" if _is_stray(difference):
            return _detach(draft, difference)
        case "object" if _is_stray(difference):
            return ObjectDel(id=name)
        case "chardev" if _is_stray(difference):
            return ChardevRemove(id=name)
        case "export" if _is_stray(difference):
            return BlockExportDel(id=name)
        case "block node" if _is_stray(difference):
            return BlockdevDel(node_name=name)
        case _:
            what = f"{difference.kind} {difference.label} of {difference.node}"
            stands = f"is {difference.live or 'absent'}, and declared {declared or 'absent'}"
            why = f"{what} {stands}, which cannot change while COLO runs"
            raise compile_error("not-in-place", why, _remedy(difference), node=difference.node)


def _limit(draft: Draft, difference: Difference) -> Command:
    """The command that sets the limits of a drive to the declared ones."""
    drives = draft.live(difference.node).drives or {}
    disk = next(d for d in draft.pair.disks if d.names.quorum == difference.owner)
    return topology.limits_command(disk, drives[disk.names.quorum].device)


def _detach(draft: Draft, difference: Difference) -> Command:
    """The command that detaches a stray child of a quorum, after a check of its name.

    Raises:
        CompileError: The guest's disk is read from that child.
    """
    node, quorum = difference.node, difference.owner or ""
    for child in draft.live(node).children[quorum]:
        if child.node == difference.name and child.name != _disks.LOCAL_CHILD:
            condition = ChildIs(node=node, quorum=quorum, child=child.name, child_node=child.node)
            why = "removing the wrong child would take a disk away (qemu-behaviour 5.8)"
            draft.check(node, f"{quorum}.{child.name}", condition, why)
            return XBlockdevChange(parent=quorum, child=child.name)
    why = f"{difference.label} of {node}, which the guest's disk is read from, is not declared"
    raise compile_error("not-in-place", why, _remedy(difference), node=node)


def _remedy(difference: Difference) -> str:
    """What the operator can do about a difference that cannot be removed, for the error."""
    if difference.kind == "job":
        return "wait for that job, or cancel and dismiss it; then run converge again"
    if difference.kind == "cache":
        node = difference.node
        return (
            f"replace the QEMU of {node}, which keeps the mode until it ends: if it is the primary,"
            " run switch-over first; else run stop; then launch it again and run resume"
        )
    return "run stop, launch a new secondary, then run resume"


def converge(
    pair: ColoPair,
    snapshot: Snapshot,
    *,
    peer: str | None = None,
    assume_good: Collection[Version] = (),
) -> Plan:
    """Compile the smallest plan that makes the live pair what its declaration says.

    A pair in COLO is repaired in place, while replication runs: the status of a filter, numbers of
    `colo-compare`, migration parameters and limits of a drive are set, and parts that are not
    declared are removed. A part that is missing, or that differs in another way, is refused, and
    the error says which procedures replace it. An unprotected guest with a fresh secondary is
    protected. If nothing differs, the plan is empty.

    Args:
        pair: The declaration.
        snapshot: What both nodes and their records show.
        peer: The node that will protect the guest. If None, the one that the record names or,
            if that does not answer, the only fresh secondary.
        assume_good: Versions the operator vouches for.

    Raises:
        VersionError: A version cannot run COLO, or not with the pair's machine, or the two differ.
        DeclarationError: `peer` is not one of the pair's nodes.
        CompileError: A difference cannot be removed, a node is missing, or a QEMU or a record
            belongs to another pair or node.
        UndecidedError: Only a person can decide, by the records.
    """
    check(pair, snapshot)
    pair = members(pair, snapshot, peer=peer)
    primary, secondary = roles(pair, snapshot)
    qemu = versions(snapshot, (primary, secondary))
    features = accept_pair(pair, qemu, assume_good=assume_good)
    options = Options(peer=peer, assume_good=tuple(assume_good))
    draft = Draft("converge", pair, snapshot, options, qemu=qemu, dialect="auto")
    in_colo = {draft.live(node).colo_mode for node in (primary, secondary)} == {
        "primary",
        "secondary",
    }
    if not in_colo or not is_recorded(draft, primary, secondary):
        draft.check_instances((primary, secondary))
        draft.check_parts((primary, secondary))
        protect(draft, primary, secondary, features)
    if in_colo:
        _repair(draft, primary)
    return draft.plan()

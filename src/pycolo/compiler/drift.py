"""Drift: how the live pair differs from its declaration, part by part.

The state to compare with is the one that the compiler plans for a pair in these roles and with this
history, so drift and plans cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from pycolo import topology
from pycolo.compiler._disks import LOCAL_CHILD
from pycolo.compiler.expected import expected
from pycolo.compiler.members import members
from pycolo.compiler.roles import all_stand
from pycolo.differences import Difference, Drift, Kind
from pycolo.errors import compile_error
from pycolo.model.disk import ReplicationDisk
from pycolo.model.node import Node
from pycolo.model.pair import ColoPair
from pycolo.qmp.blockdevs import CacheOptions
from pycolo.snapshot import Drive, Live, Snapshot, role_of

STATUS: Final = "status"
"QEMU's name of the setting that switches a filter on and off."
DELAY: Final = "x-checkpoint-delay"
"QEMU's name of the parameter for the longest time between two checkpoints."
BANDWIDTH: Final = "max-bandwidth"
"QEMU's name of the parameter for the speed of the RAM's copy."
DOWNTIME: Final = "downtime-limit"
"QEMU's name of the parameter for the longest pause at the end of the RAM's copy."
CHANNELS: Final = "multifd-channels"
"QEMU's name of the parameter for the number of connections of multifd."
NO_LIMIT: Final = "none"
"A limit of a drive that is not set."
_Part: TypeAlias = tuple[str | None, str]
"The name of the part that owns a part, None for none, and the part's own name."


def drift(pair: ColoPair, snapshot: Snapshot) -> Drift:
    """Compare a declaration with the live pair.

    The two nodes that the newest record names are compared: a spare that has taken a node's place
    is one of them, and that node is not.

    Args:
        pair: The declaration.
        snapshot: What both nodes and their records show.

    Returns:
        The differences; none are found if no primary answers.

    Raises:
        CompileError: No node answers, so there is nothing to compare with. Declaration and snapshot
            stay usable.
    """
    pair = members(pair, snapshot)
    if all(snapshot.live(node.name) is None for node in pair.nodes):
        why = f"no node answers ({all_stand(pair, snapshot)})"
        raise compile_error(
            "no-answer", why, "make one of them answer, or launch a node whose QEMU has ended"
        )
    wanted = expected(pair, snapshot)
    found = [
        difference
        for node in pair.nodes
        for difference in (
            *_of_node(node.name, wanted.live(node.name), snapshot),
            *_of_disks(pair, node, snapshot),
        )
    ]
    return Drift(
        missing=tuple(d for d in found if d.live is None),
        stray=tuple(d for d in found if d.declared is None),
        changed=tuple(d for d in found if d.live is not None and d.declared is not None),
    )


def _of_node(name: str, wanted: Live | None, snapshot: Snapshot) -> Iterator[Difference]:
    """The differences on one node; none if no state of it is expected."""
    live = snapshot.live(name)
    if wanted is None:
        return
    if live is None:
        yield Difference(node=name, kind="node", name="role", declared=role_of(wanted), live=None)
        return
    if role_of(live) != role_of(wanted):
        yield Difference(
            node=name, kind="node", name="role", declared=role_of(wanted), live=role_of(live)
        )
    for kind, declared, shown in _parts(wanted, live):
        for part in sorted(declared.keys() | shown.keys(), key=str):
            then, now = declared.get(part), shown.get(part)
            if then != now:
                owner, own = part
                yield Difference(
                    node=name, kind=kind, owner=owner, name=own, declared=then, live=now
                )


def _of_disks(pair: ColoPair, node: Node, snapshot: Snapshot) -> Iterator[Difference]:
    """The differences in what a node's QEMU shows of caches and limits, and no plan does.

    A part that does not exist is a difference of another kind.
    """
    live = snapshot.live(node.name)
    if live is None:
        return
    for disk in pair.disks:
        yield from _of_cache(node, disk, live)
        drive = (live.drives or {}).get(disk.names.quorum)
        if drive is not None:
            yield from _of_limits(node, disk, drive)


def _of_cache(node: Node, disk: ReplicationDisk, live: Live) -> Iterator[Difference]:
    """The difference in how the image of a disk uses the host's cache."""
    declared = topology.image(node, disk).cache or CacheOptions()
    mode = topology.cache_words(direct=declared.direct, no_flush=declared.no_flush)
    parent = disk.names.parent
    shown = (live.caches or {}).get(parent, mode)
    if shown != mode:
        yield Difference(node=node.name, kind="cache", name=parent, declared=mode, live=shown)


def _of_limits(node: Node, disk: ReplicationDisk, drive: Drive) -> Iterator[Difference]:
    """The differences in the limits of the guest's drive."""
    limits = {} if disk.throttle is None else disk.throttle.limits()
    for name in sorted(limits.keys() | drive.limits.keys()):
        then, now = (str(one.get(name, NO_LIMIT)) for one in (limits, drive.limits))
        if then != now:
            yield Difference(
                node=node.name,
                kind="limit",
                owner=disk.names.quorum,
                name=name,
                declared=then,
                live=now,
            )


def _parts(
    wanted: Live, live: Live
) -> Iterator[tuple[Kind, Mapping[_Part, str], Mapping[_Part, str]]]:
    """The expected and the live parts of a node, one kind after the other."""
    yield "block node", _there(wanted.block_nodes), _there(live.block_nodes)
    yield "child", _children(wanted), _children(live)
    yield "export", _named(wanted.exports), _named(live.exports)
    yield "job", _there(wanted.jobs), _there(live.jobs)
    yield "chardev", _there(wanted.chardevs), _there(live.chardevs)
    yield "object", _kinds(wanted), _kinds(live)
    both = wanted.objects.keys() & live.objects.keys()
    yield "setting", _settings(wanted, both), _settings(live, both)
    # Without the capability multifd the number of its connections has no meaning.
    multifd = "multifd" in wanted.capabilities & live.capabilities
    declared, shown = (_parameters(state, multifd=multifd) for state in (wanted, live))
    yield "parameter", _named(declared), _named(shown)


def _named(values: Mapping[str, str]) -> dict[_Part, str]:
    """Values by name, as parts without an owner."""
    return {(None, name): value for name, value in values.items()}


def _there(names: frozenset[str] | Mapping[str, object]) -> dict[_Part, str]:
    """Names of parts that either exist or do not, as parts without an owner."""
    return _named(dict.fromkeys(names, "there"))


def _children(live: Live) -> dict[_Part, str]:
    """The children of each quorum: the first, which is read from, and the others."""
    # QEMU reads from the first child; the numbers of the others may change.
    return {
        (quorum, child.node): "first" if child.name == LOCAL_CHILD else "behind the first"
        for quorum, children in live.children.items()
        for child in children
    }


def _kinds(live: Live) -> dict[_Part, str]:
    """The type of each object."""
    return _named({name: item.qom_type for name, item in live.objects.items()})


def _settings(live: Live, names: set[str]) -> dict[_Part, str]:
    """The settings of some objects, and whether they are switched on."""
    return {
        (name, key): value
        for name in names
        for key, value in {
            **live.objects[name].settings,
            STATUS: "on" if live.objects[name].on else "off",
        }.items()
    }


def _parameters(live: Live, *, multifd: bool) -> dict[str, str]:
    """The migration's capabilities, parameters and TLS settings that are compared."""
    shown = {"capabilities": ", ".join(sorted(live.capabilities)) or "none"}
    if live.colo_mode == "primary":
        shown[DELAY] = str(live.checkpoint_delay_ms)
        shown[BANDWIDTH] = str(live.max_bandwidth_bytes_per_s)
        shown[DOWNTIME] = str(live.downtime_limit_ms)
    if multifd:
        shown[CHANNELS] = str(live.multifd_channels)
    return {**shown, **live.migration_tls}

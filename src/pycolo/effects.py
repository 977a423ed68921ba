"""The effect of a step, as a pure function from a snapshot to a snapshot.

The compiler relies on the effects of the steps before, and a report is compared with them. The
effect of a command is what QEMU has done when it replies `{}`. What happens later is the effect of
the Wait that waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar, assert_never

import attrs

from pycolo import topology
from pycolo.conditions import assume
from pycolo.features import of
from pycolo.model.pair import ColoPair
from pycolo.plan import (
    Check,
    CheckDevices,
    CheckPorts,
    CreateImage,
    Execute,
    HostAction,
    LaunchQemu,
    Record,
    RunHost,
    Step,
    StopQemu,
    Wait,
)
from pycolo.qmp import commands as qmp
from pycolo.qmp.chardevs import SocketClient
from pycolo.qmp.objects import FilterMirror, FilterRedirector, FilterRewriter, QomObject
from pycolo.qmp.replies import Version
from pycolo.snapshot import Absent, Child, Filter, Job, Live, Snapshot, limits_of, with_limits

_T = TypeVar("_T")


def fold(
    pair: ColoPair, qemu: Mapping[str, Version], snapshot: Snapshot, steps: Iterable[Step]
) -> Snapshot:
    """The snapshot after a sequence of steps; see `apply`."""
    for step in steps:
        snapshot = apply(pair, qemu, snapshot, step)
    return snapshot


def apply(pair: ColoPair, qemu: Mapping[str, Version], snapshot: Snapshot, step: Step) -> Snapshot:
    """The snapshot after one step.

    Args:
        pair: The declaration; it defines the parts of a QEMU that is launched.
        qemu: Node name to QEMU version.
        snapshot: The state before the step.
        step: The step, which is assumed to be done.
    """
    match step:
        case Execute(node=node, command=command):
            live = snapshot.live(node)
            return snapshot if live is None else snapshot.with_node(node, after(live, command))
        case Wait(until=until):
            return assume(until, snapshot)
        case Check():
            return snapshot
        case RunHost(node=node, action=action):
            return _host(pair, qemu, snapshot, node, action)
        case Record(node=node, change=change):
            return snapshot.with_record(node, change.becomes)
        case _:
            assert_never(step)


def _host(
    pair: ColoPair,
    qemu: Mapping[str, Version],
    snapshot: Snapshot,
    node: str,
    action: HostAction,
) -> Snapshot:
    """The snapshot after an action on a host."""
    match action:
        case CreateImage() | CheckPorts() | CheckDevices():
            return snapshot
        case LaunchQemu():
            return snapshot.with_node(node, launched(pair, node, action, qemu[node]))
        case StopQemu():
            return snapshot.with_node(node, Absent())
        case _:
            assert_never(action)


def launched(pair: ColoPair, node: str, action: LaunchQemu, version: Version) -> Live:
    """The state of a QEMU that was just started with pycolo's command line.

    Args:
        pair: The declaration.
        node: The node's name.
        action: The launch.
        version: The version of the node's QEMU.
    """
    place = pair.node(node)
    secondary = action.role == "secondary"
    blocks: set[str] = set()
    children: dict[str, tuple[Child, ...]] = {}
    sizes: dict[str, int] = {}
    objects: dict[str, Filter] = {}
    chardevs: dict[str, bool] = {}
    for disk in pair.disks:
        made = (topology.secondary_blocks if secondary else topology.primary_blocks)(place, disk)
        names = [block.node_name for block in made if block.node_name is not None]
        blocks.update(names)
        ids = disk.names
        child = ids.replication if secondary else ids.parent
        children[ids.quorum] = (Child(name="children.0", node=child),)
        sizes.update(dict.fromkeys(names, disk.size_bytes))
    blocks.update(b.node_name for b in topology.machine_blocks(pair, node) if b.node_name)
    for own in pair.machine.objects:
        if own.kind == "iothread":
            objects[own.id] = Filter(qom_type=own.kind)
    for part in topology.tls_objects(pair.tls, node):
        objects[part.id] = _object(part)
    if secondary:
        for chain in pair.chains:
            for chardev in topology.secondary_chardevs(pair, node, chain, of(version)):
                chardevs[chardev.id] = False
            for item in topology.secondary_objects(chain):
                objects[item.id] = _object(item)
    return Live(
        version=version,
        instance=action.instance,
        run_state="inmigrate" if secondary else "prelaunch",
        block_nodes=frozenset(blocks),
        children=children,
        sizes_bytes=sizes,
        chardevs=chardevs,
        objects=objects,
    )


def _object(item: QomObject) -> Filter:
    """The state of an object right after it was added."""
    kind = dict(item.qmp_constants)["qom-type"]
    filters = (FilterMirror, FilterRedirector, FilterRewriter)
    on = not (isinstance(item, filters) and item.status == "off")
    return Filter(qom_type=str(kind), on=on, settings=settings(item))


# The values that QEMU reports for properties that were not given (qemu-behaviour 6.11).
_FILTER_DEFAULTS: Final = {
    "insert": "behind",
    "position": "tail",
    "queue": "all",
    "vnet_hdr_support": "false",
}
_DEFAULTS: Final[Mapping[str, Mapping[str, str]]] = {
    "filter-mirror": _FILTER_DEFAULTS,
    "filter-redirector": {**_FILTER_DEFAULTS, "indev": "", "outdev": ""},
    "filter-rewriter": _FILTER_DEFAULTS,
    "colo-compare": {
        "vnet_hdr_support": "false",
        "notify_dev": "",
        "compare_timeout": "3000",
        "expired_scan_cycle": "1000",
        "max_queue_size": "1024",
    },
    "iothread": {},
    "tls-creds-x509": {},
    "tls-creds-psk": {"username": ""},
    "authz-list": {},
}
_NO_SETTINGS: Final = ("qom-type", "id", "status")


def settings(item: QomObject) -> Mapping[str, str]:
    """The properties of an object that a snapshot will hold, by QEMU's names, defaults included.

    The type, the id and `status` are not among them. A string is unchanged; another value is JSON.
    """
    given = item.to_qmp()
    told = {name: shown(value) for name, value in given.items() if name not in _NO_SETTINGS}
    return {**_DEFAULTS[str(given["qom-type"])], **told}


def shown(value: object) -> str:
    """A property's value as text for a snapshot: a string unchanged, any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def after(live: Live, command: qmp.Command) -> Live:  # noqa: C901 - one line a command
    """The state of a node after QEMU has accepted a command."""
    match command:
        case qmp.MigrateSetCapabilities(capabilities=changes):
            on = {c.capability for c in changes if c.state}
            off = {c.capability for c in changes if not c.state}
            return attrs.evolve(live, capabilities=(live.capabilities - off) | on)
        case qmp.MigrateSetParameters():
            return _with_parameters(live, command)
        case qmp.Migrate():
            return attrs.evolve(live, migration="setup", colo_exited=False, proven=False)
        case qmp.MigrateContinue():
            return attrs.evolve(live, migration="device")
        case qmp.MigrateIncoming():
            return attrs.evolve(live, incoming=True, colo_exited=False)
        case qmp.Stop():
            return attrs.evolve(live, run_state="paused")
        case qmp.Cont():
            return attrs.evolve(live, run_state="running")
        case qmp.XColoLostHeartbeat():
            return _lost_heartbeat(live)
        case qmp.NbdServerStart():
            return attrs.evolve(live, nbd_server=True)
        case qmp.NbdServerStop():
            return attrs.evolve(live, nbd_server=False, exports={})
        case qmp.NbdServerAdd(device=device):
            return attrs.evolve(live, exports={**live.exports, device: device})
        case qmp.BlockExportAdd(id=export, node_name=node):
            return attrs.evolve(live, exports={**live.exports, export: node})
        case qmp.BlockExportDel(id=export):
            return attrs.evolve(live, exports=_without(live.exports, export))
        case qmp.BlockdevAdd(node=block):
            name = block.node_name
            return (
                live if name is None else attrs.evolve(live, block_nodes=live.block_nodes | {name})
            )
        case qmp.BlockdevDel(node_name=node):
            sizes = _without(live.sizes_bytes, node)
            return attrs.evolve(live, block_nodes=live.block_nodes - {node}, sizes_bytes=sizes)
        case qmp.XBlockdevChange(parent=parent, child=child, node=node):
            return attrs.evolve(
                live, children={**live.children, parent: _children(live, parent, child, node)}
            )
        case qmp.BlockSetIoThrottle():
            return _limited(live, command)
        case qmp.BlockdevMirror(job_id=job) | qmp.DriveMirror(job_id=job):
            return attrs.evolve(live, jobs={**live.jobs, str(job): Job(status="running")})
        case qmp.BlockJobCancel(device=job):
            return attrs.evolve(live, jobs={**live.jobs, job: Job(status="waiting")})
        case qmp.JobDismiss(id=job):
            return attrs.evolve(live, jobs=_without(live.jobs, job))
        case qmp.ObjectAdd(object=item):
            return attrs.evolve(live, objects={**live.objects, item.id: _object(item)})
        case qmp.ObjectDel(id=item):
            return attrs.evolve(live, objects=_without(live.objects, item))
        case qmp.QomSet():
            return _set(live, command)
        case qmp.ChardevAdd(id=chardev, backend=backend):
            connected = isinstance(backend, SocketClient)
            return attrs.evolve(live, chardevs={**live.chardevs, chardev: connected})
        case qmp.ChardevRemove(id=chardev):
            return attrs.evolve(live, chardevs=_without(live.chardevs, chardev))
        case (
            qmp.Quit()
            | qmp.SystemPowerdown()
            | qmp.Yank()
            | qmp.HumanMonitorCommand()
            | qmp.QueryMigrate()
            | qmp.QueryMigrateCapabilities()
            | qmp.QueryMigrateParameters()
            | qmp.QueryColoStatus()
            | qmp.QueryXenReplicationStatus()
            | qmp.QueryStatus()
            | qmp.QueryName()
            | qmp.QueryVersion()
            | qmp.QueryCommands()
            | qmp.QueryQmpSchema()
            | qmp.QueryYank()
            | qmp.QueryBlockExports()
            | qmp.QueryNamedBlockNodes()
            | qmp.QueryBlock()
            | qmp.XDebugQueryBlockGraph()
            | qmp.QueryBlockJobs()
            | qmp.QueryJobs()
            | qmp.QomList()
            | qmp.QomGet()
            | qmp.QueryChardev()
        ):
            # Queries, and commands whose effect a Wait waits for.
            return live
        case _:
            assert_never(command)


def took_effect(before: Live, command: qmp.Command, found: Live) -> bool | None:
    """Whether a command whose reply did not come has taken effect, by the node's present state.

    Args:
        before: The state of the node before the command, as read or planned.
        command: The command.
        found: The state of the node, read when no older command was pending.

    Returns:
        Whether the command took effect. None if that cannot be known, since the command leaves no
        trace, or since the activity that it starts may not have begun yet.
    """
    expected = after(before, command)
    told = [
        _field_took_effect(getattr(before, name), getattr(expected, name), getattr(found, name))
        for name in _TRACES
    ]
    seen = [answer for answer in told if answer is not None]
    if isinstance(command, _SETS_IN_MOTION) and not all(seen):
        return None
    return all(seen) if seen else None


# QEMU replies to these before the activity that they start has begun (qemu-behaviour 5.16, 8.2).
_SETS_IN_MOTION: Final = (qmp.BlockJobCancel, qmp.MigrateContinue, qmp.XColoLostHeartbeat)


# Fields of `Live` that do not show whether a command took effect: they are latched, are effects of
# a Wait, may change again before they are read (a small merge), or are not reported by any query
# (an NBD server; qemu-behaviour 18.3).
_TRACELESS: Final = ("colo_exited", "proven", "last_colo_mode", "commit_pending", "nbd_server")
_TRACES: Final = tuple(
    field.name for field in attrs.fields(Live) if field.eq is True and field.name not in _TRACELESS
)


def _field_took_effect(before: object, expected: object, found: object) -> bool | None:
    """Whether one field shows the effect of a command; None if the effect does not change it."""
    if before == expected:
        return None
    match before, expected, found:
        case dict(), dict(), dict():
            changed = {k for k in before | expected if before.get(k) != expected.get(k)}
            return all((k in expected) == (k in found) for k in changed) and all(
                found[k] != before[k] for k in changed if k in before and k in expected
            )
        case frozenset(), frozenset(), frozenset():
            return (expected - before) <= found and not (before - expected) & found
        case _:
            # The value may have changed again since: any value but the old one shows an effect.
            return found != before


def _limited(live: Live, command: qmp.BlockSetIoThrottle) -> Live:
    """The state after the limits of a drive were set; unchanged if its drives are not known."""
    drives = {
        node: attrs.evolve(drive, limits=limits_of(command))
        if drive.device == command.id
        else drive
        for node, drive in (live.drives or {}).items()
    }
    return live if live.drives is None else attrs.evolve(live, drives=drives)


def _with_parameters(live: Live, command: qmp.MigrateSetParameters) -> Live:
    given = {
        "tls-creds": command.tls_creds,
        "tls-hostname": command.tls_hostname,
        "tls-authz": command.tls_authz,
    }
    changed = {name: value for name, value in given.items() if value is not None}
    tls = {name: value for name, value in {**live.migration_tls, **changed}.items() if value}
    return attrs.evolve(with_limits(live, command), migration_tls=tls)


def _lost_heartbeat(live: Live) -> Live:
    """The state of a node after x-colo-lost-heartbeat, which ends COLO."""
    pending = frozenset(live.children) if live.colo_mode == "secondary" else frozenset[str]()
    return attrs.evolve(
        live,
        colo_mode="none",
        last_colo_mode=live.colo_mode,
        commit_pending=pending,
        migration="completed",
        incoming=False,
        proven=None,
    )


def _children(live: Live, parent: str, child: str | None, node: str | None) -> tuple[Child, ...]:
    """A quorum's children after x-blockdev-change: one is removed, or one is added."""
    now = live.children.get(parent, ())
    if node is None:
        return tuple(c for c in now if c.name != child)
    highest = max((int(c.name.rpartition(".")[2]) for c in now), default=-1)
    return (*now, Child(name=f"children.{highest + 1}", node=node))


def _set(live: Live, command: qmp.QomSet) -> Live:
    """The state of a node after qom-set on an object that COLO uses."""
    item = command.path.removeprefix("/objects/")
    known = live.objects.get(item)
    if known is None:
        return live
    name = command.property_name
    changed = (
        attrs.evolve(known, on=command.value == "on")
        if name == "status"
        else attrs.evolve(known, settings={**known.settings, name: shown(command.value)})
    )
    return attrs.evolve(live, objects={**live.objects, item: changed})


def _without(mapping: Mapping[str, _T], key: str) -> dict[str, _T]:
    # A plan of a hundred disks copies a hundred times what a hundred disks have: not item by item.
    left = dict(mapping)
    left.pop(key, None)
    return left

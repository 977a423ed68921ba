"""Replies to queries, in the shape in which QEMU gives them."""

from __future__ import annotations

import json
from typing import Final, assert_never

from pycolo.qmp import commands as qmp
from pycolo.qmp._base import QmpValue
from pycolo.qmp.blockdevs import (
    BlockNode,
    CacheOptions,
    LuksNode,
    Qcow2Node,
    QuorumNode,
    RawNode,
    ReplicationNode,
)
from pycolo.qmp.chardevs import InetSocketAddress, SocketServer
from pycolo.qmp.objects import ColoCompare, FilterMirror, FilterRedirector, FilterRewriter, IoThread
from pycolo.qmp.schema import Schema, packaged_entries
from pycolo.snapshot import Filter, Job
from pycolo.testing._argv import LIMIT_NAMES, block_file
from pycolo.testing._jobs import size_bytes
from pycolo.testing._process import Process, Refused

Question = (
    qmp.QueryMigrate
    | qmp.QueryMigrateCapabilities
    | qmp.QueryMigrateParameters
    | qmp.QueryColoStatus
    | qmp.QueryXenReplicationStatus
    | qmp.QueryStatus
    | qmp.QueryName
    | qmp.QueryVersion
    | qmp.QueryYank
    | qmp.QueryBlockExports
    | qmp.QueryNamedBlockNodes
    | qmp.QueryBlock
    | qmp.XDebugQueryBlockGraph
    | qmp.QueryBlockJobs
    | qmp.QueryJobs
    | qmp.QomList
    | qmp.QomGet
    | qmp.QueryChardev
    | qmp.QueryCommands
    | qmp.QueryQmpSchema
)
Object = dict[str, QmpValue]

# In QEMU's order; a version lacks its `Quirks.gone_capabilities`.
_CAPABILITIES: Final = (
    *("xbzrle", "rdma-pin-all", "auto-converge", "zero-blocks", "compress", "events"),
    *("postcopy-ram", "x-colo", "release-ram", "block", "return-path"),
    *("pause-before-switchover", "multifd", "dirty-bitmaps", "postcopy-blocktime"),
    *("late-block-activate", "x-ignore-shared", "validate-uuid", "background-snapshot"),
    *("zero-copy-send", "postcopy-preempt", "switchover-ack", "dirty-limit", "mapped-ram"),
)
_RAM_BYTES: Final = 67641344
_FILE_SIZE_BYTES: Final = 262144
_CLIENT_PORT: Final = 40000
_TOP: Final = "#block80"
"The prefix of the name of the node that QEMU itself puts above a disk's image."


def answer(qemu: Process, question: Question) -> QmpValue:  # noqa: C901 - one line a question
    """Make the reply to a query from the state of a fake.

    Args:
        qemu: The fake.
        question: The query.

    Raises:
        Refused: `qom-get` or `qom-list` names an object that does not exist, or `qom-get` a
            property that the object does not have.
    """
    live = qemu.live
    match question:
        case qmp.QueryStatus():
            status: Object = {"status": live.run_state, "running": live.run_state == "running"}
            return {**status, "singlestep": False} if qemu.quirks.has_singlestep else status
        case qmp.QueryName():
            return {"name": live.instance} if live.instance else {}
        case qmp.QueryVersion():
            return version(qemu)
        case qmp.QueryColoStatus():
            over = live.colo_mode == "none" and live.last_colo_mode != "none"
            reason = "request" if over else "none"
            return {"mode": live.colo_mode, "last-mode": live.last_colo_mode, "reason": reason}
        case qmp.QueryMigrate():
            return _migration(qemu)
        case qmp.QueryMigrateCapabilities():
            known = (c for c in _CAPABILITIES if c not in qemu.quirks.gone_capabilities)
            return [{"state": c in live.capabilities, "capability": c} for c in known]
        case qmp.QueryMigrateParameters():
            return {
                "x-checkpoint-delay": live.checkpoint_delay_ms,
                "multifd-channels": live.multifd_channels,
                **dict.fromkeys(("tls-creds", "tls-hostname", "tls-authz"), ""),
                **live.migration_tls,
                "max-bandwidth": live.max_bandwidth_bytes_per_s,
                "downtime-limit": live.downtime_limit_ms,
            }
        case qmp.QueryXenReplicationStatus():
            return _replication(qemu)
        case qmp.QueryYank():
            return [dict(instance) for instance in yankable(qemu)]
        case qmp.QueryBlockExports():
            return [_export(qemu, name, node) for name, node in live.exports.items()]
        case qmp.QueryNamedBlockNodes():
            return _Graph(qemu).named()
        case qmp.QueryBlock():
            return [_drive(qemu, device, node) for device, node in qemu.line.drives.items()]
        case qmp.XDebugQueryBlockGraph():
            return _Graph(qemu).graph()
        case qmp.QueryJobs():
            return [_job(qemu, name, job) for name, job in live.jobs.items()]
        case qmp.QueryBlockJobs():
            return [_block_job(qemu, name, job) for name, job in live.jobs.items()]
        case qmp.QomList():
            return _qom_list(qemu, question.path)
        case qmp.QomGet():
            return _qom_get(qemu, question)
        case qmp.QueryChardev():
            return _chardevs(qemu)
        case qmp.QueryCommands():
            names = Schema.packaged(qemu.world.version).commands
            return [{"name": name} for name in sorted(names)]
        case qmp.QueryQmpSchema():
            return packaged_entries(qemu.world.version)
        case _:
            assert_never(question)


def _drive(qemu: Process, device: str, node: str) -> Object:
    limits = {**dict.fromkeys(LIMIT_NAMES.values(), 0), **qemu.limits.get(device, {})}
    return {"device": "", "qdev": device, "inserted": {"node-name": node, **limits}}


def version(qemu: Process) -> Object:
    """The version object of the greeting and of query-version."""
    v = qemu.live.version
    triple: Object = {"major": v.major, "minor": v.minor, "micro": v.micro}
    return {"qemu": triple, "package": qemu.quirks.package}


def yankable(qemu: Process) -> list[dict[str, str]]:
    """The instances that query-yank lists, the monitors among them (qemu-behaviour 7.7)."""
    chardevs = (*(monitor.label for monitor in qemu.monitors), *qemu.live.chardevs)
    found = [{"type": "chardev", "id": name} for name in chardevs]
    found += [
        {"type": "block-node", "node-name": name} for name in (*qemu.disk_links, *qemu.opening)
    ]
    if qemu.live.incoming or qemu.channel is not None:
        found.append({"type": "migration"})
    return found


def _migration(qemu: Process) -> Object:
    live, found = qemu.live, Object()
    if live.migration != "none":
        found["status"] = live.migration
    elif live.incoming:
        found["status"] = "setup"
    if live.incoming:
        host, port = qemu.listens.get("migration", ("", 0))
        address: Object = {"port": str(port), "ipv4": True, "host": host, "type": "inet"}
        found["socket-address"] = [address]
    elif live.migration not in ("none", "colo"):
        done = live.migration not in ("setup", "active")
        ram: Object = {"total": _RAM_BYTES, "remaining": 0 if done else _RAM_BYTES}
        found["ram"] = {**ram, "transferred": 357771 if done else 0, "mbps": 0}
    if live.migration == "failed" and qemu.error_desc is not None:
        found["error-desc"] = qemu.error_desc
    return found


def _replication(qemu: Process) -> Object:
    secondary = any(isinstance(b, ReplicationNode) for b in qemu.blocks.values())
    if qemu.live.commit_pending:
        return {"error": True, "desc": "I/O error occurred"}
    if secondary and qemu.live.run_state == "inmigrate":
        return {"error": True, "desc": "Block replication is not running"}
    return {"error": False}


def _export(qemu: Process, name: str, node: str) -> Object:
    secondary = qemu.overlays and qemu.live.colo_mode == "secondary"
    shown = _top(qemu, node) if secondary else node
    return {"node-name": shown, "shutting-down": False, "type": "nbd", "id": name}


def _top(qemu: Process, image: str) -> str:
    """The name of the node that QEMU itself puts above a disk's image."""
    images = [qemu.parent_of(qemu.live.children[quorum][0].node) for quorum in qemu.quorums]
    return f"{_TOP}{images.index(image)}"


def _job(qemu: Process, name: str, job: Job) -> Object:
    size = size_bytes(qemu)
    done = 0 if job.status in ("created", "running") else size
    found: Object = {"id": name, "type": "mirror", "status": job.status}
    found |= {"current-progress": done, "total-progress": size}
    return found if job.error is None else {**found, "error": job.error}


def _block_job(qemu: Process, name: str, job: Job) -> Object:
    size, ready = size_bytes(qemu), job.status == "ready"
    found: Object = {"device": name, "type": "mirror", "status": job.status, "ready": ready}
    found |= {"len": size, "offset": size, "speed": 0, "paused": False, "busy": False}
    found |= {"io-status": "ok", "auto-finalize": True, "auto-dismiss": False}
    return found if job.error is None else {**found, "error": job.error}


# -- objects ---------------------------------------------------------------------------------------

_BUILT_IN: Final = (("type", "string"), ("pc.ram", "child<memory-backend-ram>"))
_NUMBERS: Final = ("compare_timeout", "expired_scan_cycle", "max_queue_size")


def _qom_list(qemu: Process, path: str) -> QmpValue:
    name = path.removeprefix("/objects").strip("/")
    if not name:
        monitors = [(monitor.label, "monitor-qmp") for monitor in qemu.monitors]
        made = [(item, known.qom_type) for item, known in qemu.live.objects.items()]
        listed = [*_BUILT_IN, *((item, f"child<{kind}>") for item, kind in (*monitors, *made))]
    else:
        listed = [("type", "string"), *((p, "string") for p in _object(qemu, name).settings)]
    return [{"name": item, "type": kind} for item, kind in listed]


def _qom_get(qemu: Process, question: qmp.QomGet) -> QmpValue:
    known = _object(qemu, question.path.removeprefix("/objects/"))
    name = question.property_name
    if name == "status" and known.qom_type.startswith("filter-"):
        return "on" if known.on else "off"
    value = known.settings.get(name)
    if value is None:
        raise Refused(f"Property '{known.qom_type}.{name}' not found")
    if name in ("vnet_hdr_support", "verify-peer"):
        return value == "true"
    if name == "rules":
        rules: QmpValue = json.loads(value)
        return rules
    if name == "iothread":
        return f"/objects/{value}"
    return int(value) if name in _NUMBERS else value


def _object(qemu: Process, name: str) -> Filter:
    known = qemu.live.objects.get(name)
    if known is None:
        raise Refused(f"Device '/objects/{name}' not found", "DeviceNotFound")
    return known


def used_chardevs(
    item: FilterMirror | FilterRedirector | FilterRewriter | ColoCompare | IoThread,
) -> tuple[str, ...]:
    """The names of the chardevs that an object uses."""
    match item:
        case FilterMirror(outdev=outdev):
            return (outdev,)
        case FilterRedirector(indev=indev, outdev=outdev):
            return tuple(filter(None, (indev, outdev)))
        case ColoCompare(primary_in=primary, secondary_in=secondary, outdev=outdev):
            return primary, secondary, outdev
        case FilterRewriter() | IoThread():
            return ()
        case _:
            assert_never(item)


# -- chardevs --------------------------------------------------------------------------------------


def _chardevs(qemu: Process) -> QmpValue:
    users = {value for item in qemu.live.objects.values() for value in item.settings.values()}
    found: list[Object] = [
        {"frontend-open": True, "filename": monitor.filename, "label": monitor.label}
        for monitor in qemu.monitors
    ]
    for name in qemu.live.chardevs:
        opened = name in users
        found.append({"frontend-open": opened, "filename": _filename(qemu, name), "label": name})
    return [*found]


def _filename(qemu: Process, name: str) -> str:
    backend, connected = qemu.backends[name], qemu.live.chardevs[name]
    server = isinstance(backend, SocketServer)
    end = ",server=on" if server else ""
    if isinstance(backend.addr, InetSocketAddress):
        place = f"tcp:{backend.addr.host}:{backend.addr.port}"
        port = _CLIENT_PORT + qemu.pid
        mine, theirs = f"{backend.addr.host}:{port}", f"{backend.addr.host}:{backend.addr.port}"
        if connected:
            return f"{place}{end} <-> {mine}" if server else f"tcp:{mine} <-> {theirs}"
    else:
        place = f"unix:{backend.addr.path}"
    return f"{place}{end}" if connected else f"disconnected:{place}{end}"


# -- the block graph -------------------------------------------------------------------------------


class _Graph:
    """The block nodes of a fake, those that QEMU makes by itself included, and their edges."""

    def __init__(self, qemu: Process) -> None:
        self.qemu = qemu
        self.drivers: dict[str, str] = {}
        self.edges: list[tuple[str, str, str]] = []
        self.extra: list[tuple[str, str]] = []
        for name, block in qemu.blocks.items():
            self.drivers[name] = str(dict(block.qmp_constants)["driver"])
            self._below(name, block)
        for device, node in qemu.line.drives.items():
            self.extra.append((device, "block-backend"))
            self.edges.append((device, "root", node))
        for job, target in qemu.targets.items():
            self.extra.append((job, "block-job"))
            self.edges.append((job, "target", target))

    def _below(self, name: str, block: BlockNode) -> None:
        match block:
            case QuorumNode():
                for child in self.qemu.live.children[name]:
                    self.edges.append((name, child.name, child.node))
            case ReplicationNode():
                self._replication(name)
            case Qcow2Node(file=file, backing=backing) if not isinstance(file, str):
                self._file(name, file)
                if isinstance(backing, str):
                    self.edges.append((name, "backing", backing))
            case RawNode(file=file) | LuksNode(file=file) if not isinstance(file, str):
                self._file(name, file)
            case _:
                pass

    def _file(self, name: str, block: BlockNode) -> None:
        file = f"#block{len(self.drivers):03}"
        self.drivers[file] = str(dict(block.qmp_constants)["driver"])
        self.edges.append((name, "file", file))

    def _replication(self, name: str) -> None:
        live = self.qemu.live
        active, hidden, parent = self.qemu.below(name)
        top = _top(self.qemu, parent)
        if live.colo_mode == "secondary" and self.qemu.overlays:
            self.drivers[top] = "copy-before-write"
            self.edges += [(top, "file", parent), (top, "target", hidden)]
            self.edges += [(name, "file", active), (name, "hidden disk", hidden)]
            self.edges.append((name, "secondary disk", top))
        elif live.commit_pending:
            self.drivers[top] = "mirror_top"
            self.edges += [(top, "backing", active), (name, "file", top)]
            self.edges += [(name, "hidden disk", hidden), (name, "secondary disk", parent)]
        elif self.qemu.promoted:
            self.edges.append((name, "file", parent))
        else:
            self.edges.append((name, "file", active))

    def named(self) -> QmpValue:
        """Make the reply to query-named-block-nodes."""
        return [self._entry(name, driver) for name, driver in self.drivers.items()]

    def _entry(self, name: str, driver: str) -> Object:
        sizes = self.qemu.live.sizes_bytes
        block = self.qemu.blocks.get(name)
        size = sizes.get(name, _FILE_SIZE_BYTES)
        file = "" if block is None else block_file(block)
        if isinstance(block, Qcow2Node) and block.backing is not None:
            # QEMU shows a node that no file name describes as JSON.
            file = f"json:{json.dumps({'driver': driver, 'file': file})}"
        entry: Object = {"node-name": name, "drv": driver, "file": file, "ro": False}
        cache = getattr(block, "cache", None) or CacheOptions()
        entry["cache"] = {
            "writeback": True,
            "direct": bool(cache.direct),
            "no-flush": bool(cache.no_flush),
        }
        entry["image"] = {"virtual-size": size, "filename": file, "format": driver}
        if self.qemu.quirks.has_children:
            edges = [(edge, child) for parent, edge, child in self.edges if parent == name]
            entry["children"] = [{"node-name": child, "child": edge} for edge, child in edges]
        return entry

    def graph(self) -> QmpValue:
        """Make the reply to x-debug-query-block-graph."""
        points = [*((name, "block-driver") for name in self.drivers), *self.extra]
        ids = {name: n for n, (name, _) in enumerate(points, 1)}
        nodes: list[Object] = [
            {"name": name, "type": kind, "id": ids[name]} for name, kind in points
        ]
        edges: list[Object] = [
            {"name": edge, "parent": ids[parent], "child": ids[child]}
            for parent, edge, child in self.edges
            if parent in ids and child in ids
        ]
        return {"nodes": [*nodes], "edges": [*edges]}

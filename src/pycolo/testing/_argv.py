"""Parse a command line that pycolo starts QEMU with, and make the state of the started QEMU."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, final

import attrs

from pycolo import effects
from pycolo.model.hardware import CHANNEL_ID
from pycolo.model.node import Monitor, TcpMonitor, UnixMonitor
from pycolo.qmp.blockdevs import BlockNode, IscsiNode, NbdNode, NfsNode, QuorumNode, RbdNode
from pycolo.qmp.chardevs import InetSocketAddress, SocketClient
from pycolo.qmp.commands import BlockdevAdd, ChardevAdd, ObjectAdd
from pycolo.qmp.objects import QomObject
from pycolo.qmp.replies import Version
from pycolo.snapshot import Child, Filter, Live
from pycolo.topology import MONITOR_ID


@final
@attrs.frozen(kw_only=True)
class CommandLine:
    """The parts of QEMU's command line that a fake uses."""

    name: str
    accelerator: str
    incoming: bool
    monitors: Mapping[str, Monitor]
    "Chardev id to the monitor's place."
    netdevs: tuple[str, ...]
    drives: Mapping[str, str]
    "Device id to the name of its block node."
    limits: Mapping[str, Mapping[str, int]]
    "Device id to the limits of its drive, by QMP's names."
    chardevs: tuple[ChardevAdd, ...]
    blocks: tuple[BlockNode, ...]
    objects: tuple[QomObject, ...]


def read(argv: Sequence[str]) -> CommandLine:
    """Read a command line of dialect `auto`.

    Args:
        argv: The arguments, the binary first.

    Raises:
        ValueError: An option has a form that pycolo does not write in dialect `auto`.
    """
    options = list(_options(argv[1:]))
    chardevs = {_parts(text)["id"]: text for text in _all(options, "chardev")}
    throttled = [_parts(text) for text in _all(options, "drive")]
    return CommandLine(
        name=_one(options, "name").removeprefix("guest="),
        accelerator=_split(_one(options, "accel"))[0],
        incoming="defer" in _all(options, "incoming"),
        monitors=dict(_monitors(_all(options, "qmp"), chardevs)),
        netdevs=tuple(_parts(text)["id"] for text in _all(options, "netdev")),
        drives=dict(_drives(_all(options, "device"), {t["id"]: t["node-name"] for t in throttled})),
        limits=dict(_limits(_all(options, "device"), {t["id"]: t for t in throttled})),
        chardevs=tuple(
            _chardev(text)
            for name, text in chardevs.items()
            if not CHANNEL_ID.fullmatch(name) and not name.startswith(MONITOR_ID)
        ),
        blocks=(
            *(BlockdevAdd.from_arguments(json.loads(t)).node for t in _all(options, "blockdev")),
            *map(_quorum, throttled),
        ),
        objects=tuple(
            ObjectAdd.from_arguments(members).object
            for members in map(_known, map(json.loads, _all(options, "object")))
            if not str(members["qom-type"]).startswith(_NOT_ADDED_LATER)
        ),
    )


def _known(members: dict[str, object]) -> dict[str, object]:
    """An object's members; of an iothread only type and id, since the fakes know no polling."""
    if members["qom-type"] != "iothread":
        return members
    return {name: members[name] for name in ("qom-type", "id")}


def _quorum(parts: Mapping[str, str]) -> QuorumNode:
    children = tuple(value for name, value in parts.items() if name.startswith("children."))
    return QuorumNode(
        node_name=parts["node-name"],
        vote_threshold=int(parts["vote-threshold"]),
        children=children,
    )


# The types of objects that exist only on a command line.
_NOT_ADDED_LATER = ("secret", "memory-backend-", "rng-")
_FLAGS = ("-S", "-nodefaults", "-no-user-config")


def _options(arguments: Sequence[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    rest = iter(arguments)
    for option in rest:
        if option in _FLAGS or not option.startswith("-"):
            continue
        value = next(rest, "")
        if option == "-drive" and "throttling." not in value:
            raise ValueError("FakeQemu plays the command lines of dialect auto: no plain -drive")
        found.append((option.removeprefix("-"), value))
    return found


def _all(options: Sequence[tuple[str, str]], name: str) -> list[str]:
    return [value for option, value in options if option == name]


def _one(options: Sequence[tuple[str, str]], name: str) -> str:
    return next(iter(_all(options, name)), "")


def _split(text: str) -> list[str]:
    # QEMU reads two commas as one comma inside a value.
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def _parts(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in _split(text))
    return {name: value for name, _, value in pairs}


def _monitors(texts: Sequence[str], chardevs: Mapping[str, str]) -> Iterator[tuple[str, Monitor]]:
    for n, text in enumerate(texts):
        kind, _, where = _split(text)[0].partition(":")
        if kind == "unix":
            yield f"compat_monitor{n}", UnixMonitor(path=where)
        elif kind == "chardev":
            parts = _parts(chardevs[where])
            yield where, TcpMonitor(host=parts["host"], port=int(parts["port"]))
        else:
            host, _, port = where.rpartition(":")
            yield f"compat_monitor{n}", TcpMonitor(host=host, port=int(port))


def _drives(devices: Sequence[str], nodes: Mapping[str, str]) -> list[tuple[str, str]]:
    told = [json.loads(text) for text in devices]
    drives = [(one["id"], one["drive"]) for one in told if "drive" in one and "id" in one]
    return [(device, nodes.get(drive, drive)) for device, drive in drives]


LIMIT_NAMES: Final[Mapping[str, str]] = {
    "iops-total": "iops",
    "iops-read": "iops_rd",
    "iops-write": "iops_wr",
    "bps-total": "bps",
    "bps-read": "bps_rd",
    "bps-write": "bps_wr",
}
"The limits of a drive, by their names on a command line and in QMP."


def _limits(
    devices: Sequence[str], throttled: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[str, Mapping[str, int]]]:
    for one in (json.loads(text) for text in devices):
        parts = throttled.get(one.get("drive", ""), {})
        limits = {
            LIMIT_NAMES[name.removeprefix("throttling.")]: int(value)
            for name, value in parts.items()
            if name.startswith("throttling.")
        }
        if limits:
            yield one["id"], limits


def _chardev(text: str) -> ChardevAdd:
    parts = _parts(text)
    reconnect_s, reconnect_ms = parts.get("reconnect"), parts.get("reconnect-ms")
    return ChardevAdd(
        id=parts["id"],
        backend=SocketClient(
            addr=InetSocketAddress(host=parts["host"], port=int(parts["port"])),
            reconnect_s=None if reconnect_s is None else int(reconnect_s),
            reconnect_ms=None if reconnect_ms is None else int(reconnect_ms),
            tls_creds=parts.get("tls-creds"),
        ),
    )


def block_file(node: BlockNode) -> str:
    """The path of the file below a block node; empty if the node names no file itself.

    A remote image has the text of its block node in the place of a path.
    """
    below: object = node
    while below is not None and not isinstance(below, str):
        name = getattr(below, "filename", None)
        if isinstance(name, str):
            return name
        if isinstance(below, RbdNode | IscsiNode | NfsNode | NbdNode):
            return json.dumps(below.to_qmp())
        below = getattr(below, "file", None)
    return ""


def started(line: CommandLine, version: Version) -> Live:
    """Make the state that a snapshot would show of a QEMU that was just started.

    Args:
        line: Its command line.
        version: Its version.
    """
    objects = {
        item.id: Filter(
            qom_type=str(dict(item.qmp_constants)["qom-type"]),
            on=getattr(item, "status", None) != "off",
            settings=effects.settings(item),
        )
        for item in line.objects
    }
    return Live(
        version=version,
        instance=line.name,
        run_state="inmigrate" if line.incoming else "prelaunch",
        block_nodes=frozenset(b.node_name for b in line.blocks if b.node_name),
        children=dict(_quorums(line)),
        chardevs={c.id: False for c in line.chardevs},
        objects=objects,
    )


def _quorums(line: CommandLine) -> Iterator[tuple[str, tuple[Child, ...]]]:
    for block in line.blocks:
        if isinstance(block, QuorumNode) and block.node_name:
            names = [child for child in block.children if isinstance(child, str)]
            children = (Child(name=f"children.{n}", node=name) for n, name in enumerate(names))
            yield block.node_name, tuple(children)

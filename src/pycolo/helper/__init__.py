"""What is done on a node's host, as requests to a small program that runs there.

`far` is that program: one file that needs Python 3.9 and nothing else. It is called in threads on
this machine, sent over ssh to another one, and written into the scripts that plans are shown as.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import assert_never

from pycolo import libvirt, record
from pycolo._json import JsonObject
from pycolo.model.node import Monitor, Node, UnixMonitor
from pycolo.model.pair import QEMU_LOG, ColoPair
from pycolo.plan import CheckPorts, CreateImage, HostAction, LaunchQemu, StopQemu

__all__ = ("kept_by", "monitor_json", "request_of", "text")


@functools.cache
def text() -> str:
    """The text of the program."""
    return resources.files("pycolo.helper").joinpath("far.py").read_text(encoding="utf-8")


def kept_by(pair: ColoPair, node: str) -> JsonObject:
    """Whose record it is and where it lies, as every request about a record tells it."""
    return {
        "pair": pair.name,
        "node": node,
        "record": pair.record_path(node),
        "owners": list(pair.owner_paths(node)),
    }


def request_of(
    pair: ColoPair, node: str, action: HostAction, limit_s: float
) -> tuple[str, JsonObject]:
    """The operation that does an action, and its request.

    Args:
        pair: The declaration.
        node: The node's name.
        action: What to do.
        limit_s: How long it may take, in seconds.
    """
    match action:
        case CreateImage():
            return "create_image", _create(pair, node, action, limit_s)
        case LaunchQemu():
            return "launch", _launch(pair, node, action, limit_s)
        case StopQemu(instance=instance, at_once=at_once):
            return "stop", {
                "process": pair.process_path(node),
                "instance": instance,
                "at_once": at_once,
                "limit_s": limit_s,
            }
        case CheckPorts(host=host, ports=ports):
            return "check_ports", {
                "process": pair.process_path(node),
                "address": host,
                "ports": list(ports),
                "limit_s": limit_s,
            }
        case _:
            assert_never(action)


def _create(pair: ColoPair, node: str, action: CreateImage, limit_s: float) -> JsonObject:
    return {
        "record": pair.record_path(node),
        "path": action.path,
        "argv": list(action.argv),
        "image_format": action.image_format,
        "size_bytes": action.size_bytes,
        "qemu_img": pair.node(node).qemu_img_binary,
        "limit_s": limit_s,
    }


def _launch(pair: ColoPair, node: str, action: LaunchQemu, limit_s: float) -> JsonObject:
    place = pair.node(node)
    images = [path for what, path in pair.paths(node) if what.startswith("disks[")]
    written = [path for what, path in pair.paths(node) if not what.startswith("disks[")]
    own = [m.path for _, m in place.monitors if isinstance(m, UnixMonitor)]
    sockets = [path for path in written if path.endswith(".sock") or path in own]
    return {
        "record": pair.record_path(node),
        "process": pair.process_path(node),
        "expects": None if action.record is None else record.digest(action.record),
        "instance": action.instance,
        "argv": list(action.argv),
        "run_dir": place.run_path("").rstrip("/"),
        "log": place.run_path(QEMU_LOG),
        "address": place.listen_address,
        "ports": list(_ports(pair, node)),
        "monitors": [monitor_json(monitor) for _, monitor in place.monitors],
        "sockets": list(sockets),
        "images": list(images),
        "written": list(written),
        "limit_s": limit_s,
        **_domain(pair, place, action),
        **({} if pair.tls is None else {"credentials": list(pair.tls.files_on(node))}),
    }


def _domain(pair: ColoPair, place: Node, action: LaunchQemu) -> JsonObject:
    if place.libvirt is None:
        return {}
    where: JsonObject = {"uri": place.libvirt.uri, "virsh": place.libvirt.virsh_binary}
    return {"domain": {**where, "xml": libvirt.domain(pair, action)}}


def _ports(pair: ColoPair, node: str) -> tuple[int, ...]:
    """The ports that must be free at a launch; none if another node of the pair may have them.

    A pair that runs at one address is for trying it out.
    """
    place = pair.node(node)
    others = [other.listen_address for other in pair.all_nodes if other.name != node]
    free = place.listen_address not in others
    return tuple(port for _, port in pair.listening_ports) if free else ()


def monitor_json(monitor: Monitor) -> JsonObject:
    """A monitor as the program takes it."""
    if isinstance(monitor, UnixMonitor):
        return {"path": monitor.path}
    return {"host": monitor.host, "port": monitor.port}

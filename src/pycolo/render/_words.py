"""Words for commands, actions, records and nodes that several renderers share."""

from __future__ import annotations

import json
import re
import shlex
from typing import assert_never

from pycolo._printable import one_line, printable
from pycolo.evidence import Evidence
from pycolo.model.hardware import GuestDevice
from pycolo.plan import (
    CheckDevices,
    CheckPorts,
    CreateImage,
    HostAction,
    LaunchQemu,
    Plan,
    Recovery,
    StopQemu,
)
from pycolo.qmp.commands import Command
from pycolo.record import (
    Change,
    DamagedRecord,
    NoRecord,
    PairRecord,
    RecordState,
    UnreadRecord,
)
from pycolo.snapshot import (
    Dead,
    NodeState,
    Snapshot,
    Unreachable,
    Unresponsive,
    role_of,
)

_BARE = re.compile(r"[A-Za-z0-9_./:@%+\-]+\Z")


def command_words(command: Command) -> str:
    """A command for people: its name and its arguments as `key=value`."""
    arguments = [f"{key}={_value(value)}" for key, value in command.arguments().items()]
    return printable(" ".join([command.qmp_name, *arguments]))


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}={_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    if isinstance(value, str) and _BARE.match(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def action_words(action: HostAction) -> str:
    """An action on a host, in words for people."""
    match action:
        case CreateImage(path=path, argv=argv):
            return printable(f"create image {path}: {shlex.join(argv)}")
        case LaunchQemu(role=role, instance=instance, argv=argv):
            return printable(f"launch {role} {instance}: {shlex.join(argv)}")
        case StopQemu(instance=instance, at_once=at_once):
            return printable(f"{'kill' if at_once else 'stop'} {instance}")
        case CheckDevices(devices=devices):
            return printable(f"check that QEMU knows {devices_words(devices)}")
        case CheckPorts(host=host, ports=ports):
            return printable(f"check that {host} lets through TCP {ports_words(ports)}")
        case _:
            assert_never(action)


def ports_words(ports: tuple[int, ...]) -> str:
    """Ports in words for people, such as `ports 9998, 9999`."""
    return f"port{'s' * (len(ports) > 1)} {', '.join(map(str, ports))}"


def devices_words(devices: tuple[GuestDevice, ...]) -> str:
    """The QEMU names of devices, each once, separated by commas."""
    return ", ".join(dict.fromkeys(device.driver for device in devices))


def state_words(state: NodeState) -> str:
    """The role of a node, and why it does not answer or how its death is known."""
    role = role_of(state)
    match state:
        case Unreachable(why=why) | Unresponsive(why=why):
            return f"{role} ({one_line(why)})"
        case Dead(evidence=evidence):
            return f"{role} ({evidence_words(evidence)})"
        case _:
            return role


def evidence_words(evidence: Evidence | None) -> str:
    """Who reports the end of a QEMU, and how it ended; "assumed" if there is no evidence."""
    match evidence:
        case Evidence(kind="exit", who=who, how=how):
            return one_line(f"seen by {who}: {how}")
        case Evidence(who=who, how=how, when=when):
            return one_line(f"fenced by {who}, {when}: {how}")
        case None:
            return "assumed"
        case _:
            assert_never(evidence)


def change_words(change: Change) -> str:
    """The new record of a change, in a few words."""
    becomes = change.becomes
    may = " or ".join(becomes.eligible) or "nobody"
    pending = ", commit pending" if becomes.commit == "pending" else ""
    place = f"epoch {becomes.epoch}.{becomes.revision}"
    return f"record {place}: {becomes.holder} is {becomes.phase}, eligible: {may}{pending}"


def record_words(state: RecordState) -> str:
    """The record of a node, or why there is none to show, in a few words."""
    match state:
        case PairRecord(epoch=epoch, revision=revision, holder=holder, phase=phase):
            may = ", ".join(state.eligible) or "nobody"
            pending = ", commit pending" if state.commit == "pending" else ""
            return f"{epoch}.{revision}: {holder} {phase}, eligible: {may}{pending}"
        case NoRecord(lost=lost):
            return "none" if lost is None else one_line(f"none: {lost}")
        case DamagedRecord(why=why):
            return one_line(f"damaged: {why}")
        case UnreadRecord(why=why):
            return one_line(f"not read: {why}")
        case _:
            assert_never(state)


def snapshot_words(snapshot: Snapshot) -> str:
    """Each node of a snapshot with its role, on one line."""
    return "; ".join(f"{name} {state_words(state)}" for name, state in snapshot.nodes.items())


def recoveries_at(plan: Plan, address: str) -> tuple[Recovery, ...]:
    """The recoveries whose range begins with the step of an address."""
    return tuple(recovery for recovery in plan.recoveries if recovery.first == address)

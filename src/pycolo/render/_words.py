"""Small things that several readers say in the same words."""

from __future__ import annotations

import json
import re
import shlex
from typing import assert_never

from pycolo.plan import CreateImage, HostAction, LaunchQemu, Plan, Relief, StopQemu
from pycolo.qmp.commands import Command
from pycolo.snapshot import (
    Dead,
    DeathProof,
    FenceProof,
    NodeState,
    OnPaper,
    ProcessExit,
    Snapshot,
    Unreachable,
    Unresponsive,
    role_of,
)

_BARE = re.compile(r"[A-Za-z0-9_./:@%+\-]+\Z")


def printable(text: str) -> str:
    """The text with a space for each line end and whatever else moves a cursor."""
    return "".join(character if character.isprintable() else " " for character in text)


def one_line(text: str) -> str:
    """The printable text with single spaces between its words."""
    return " ".join(printable(text).split())


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
    """What is done on a host, for people."""
    match action:
        case CreateImage(path=path, argv=argv):
            return printable(f"create image {path}: {shlex.join(argv)}")
        case LaunchQemu(role=role, instance=instance, argv=argv):
            return printable(f"launch {role} {instance}: {shlex.join(argv)}")
        case StopQemu():
            return "stop QEMU"
        case _:
            assert_never(action)


def state_words(state: NodeState) -> str:
    """What is known of a node, in a few words."""
    role = role_of(state)
    match state:
        case Unreachable(why=why) | Unresponsive(why=why):
            return f"{role} ({one_line(why)})"
        case Dead(proof=proof):
            return f"{role} ({proof_words(proof)})"
        case _:
            return role


def proof_words(proof: DeathProof) -> str:
    """What proves a death."""
    match proof:
        case ProcessExit(pid=pid):
            return f"process {pid} ended"
        case FenceProof(who=who, how=how, when=when):
            return one_line(f"fenced by {who}, {when}: {how}")
        case OnPaper():
            return "supposed, on paper"
        case _:
            assert_never(proof)


def snapshot_words(snapshot: Snapshot) -> str:
    """Each node and what is known of it."""
    return "; ".join(f"{name} {state_words(state)}" for name, state in snapshot.nodes.items())


def reliefs_at(plan: Plan, address: str) -> tuple[Relief, ...]:
    """The relief ranges that begin with a step."""
    return tuple(relief for relief in plan.reliefs if relief.first == address)

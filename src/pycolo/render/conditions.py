"""Conditions in words."""

from __future__ import annotations

from typing import assert_never

from pycolo import conditions as c


def describe(condition: c.Condition) -> str:
    """Say in words what a condition asks for.

    Args:
        condition: Any condition; parts of `AllOf` are joined by "and", those of `AnyOf` by "or".

    Returns:
        One line without a full stop.
    """
    match condition:
        case c.AllOf(conditions=parts):
            return _joined(parts, " and ", "nothing more")
        case c.AnyOf(conditions=parts):
            return _joined(parts, " or ", "what never comes")
        case leaf:
            return _leaf(leaf)


def _joined(parts: tuple[c.Condition, ...], word: str, none: str) -> str:
    if not parts:
        return none
    return word.join(_part(part) if len(parts) > 1 else describe(part) for part in parts)


def _part(part: c.Condition) -> str:
    compound = isinstance(part, c.AllOf | c.AnyOf) and len(part.conditions) > 1
    return f"({describe(part)})" if compound else describe(part)


def _leaf(leaf: c.Leaf) -> str:  # noqa: C901 - one line a leaf
    node = leaf.node
    match leaf:
        case c.RunStateIs(states=states):
            return f"{node} has run state {_either(states)}"
        case c.ColoModeIs(mode="none"):
            return f"{node} is outside COLO"
        case c.ColoModeIs(mode=mode):
            return f"{node} is COLO's {mode}"
        case c.NoColoExit():
            return f"{node} has sent no COLO_EXIT"
        case c.ColoExited():
            return f"{node} has sent COLO_EXIT"
        case c.CheckpointSeen(since=since):
            return f"{node} has gone through a whole checkpoint since {since}"
        case c.MigrationIs(statuses=statuses):
            return f"{node}'s migration is {_either(statuses)}"
        case c.JobIs(job=job, statuses=statuses):
            return f"{node}'s job {job} is {_either(statuses)} without an error"
        case c.JobFailed(job=job):
            return f"{node}'s job {job} has failed or is gone"
        case c.ChardevConnected(chardev=chardev):
            return f"{node}'s chardev {chardev} is connected"
        case c.ChildIs(quorum=quorum, child=child, child_node=child_node):
            return f"{node}'s {quorum} has {child_node} as {child}"
        case c.SizeIs(block_node=block_node, size_bytes=size_bytes):
            return f"{node}'s {block_node} has {size_bytes} bytes"
        case c.Committed(quorum=quorum, parent=parent):
            return f"{node}'s {quorum} has merged its overlays into {parent}"
        case c.PartsAre():
            return f"{node} has just these parts: {_parts(leaf)}"
        case c.InstanceIs(instance=instance):
            return f"{node} is still the QEMU {instance!r}, and answers"
        case c.VersionIs(version=version):
            return f"{node} runs QEMU {version}"
        case c.Gone():
            return f"{node} has hung up"
        case c.PeerDead(instance=instance):
            return f"there is evidence that {instance} on {node} has ended"
        case _:
            assert_never(leaf)


def _either(words: tuple[str, ...]) -> str:
    return " or ".join(words)


def _parts(leaf: c.PartsAre) -> str:
    kinds = {
        "block nodes": leaf.block_nodes,
        "exports": leaf.exports,
        "jobs": leaf.jobs,
        "chardevs": leaf.chardevs,
        "objects": leaf.objects,
    }
    told = [f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names]
    return "; ".join(told) or "none"

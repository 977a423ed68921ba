"""Plan against plan: which steps are new, gone, moved or changed, and in what.

Steps are matched by their address, and compared in their JSON form, so that every difference has
the path at which it stands in a plan file.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import final

import attrs
from typing_extensions import override

from pycolo import wire
from pycolo._json import JsonObject, JsonValue, at, list_of, object_of
from pycolo.plan import Plan, Step


@final
@attrs.frozen(kw_only=True)
class Change:
    """One value that differs."""

    path: str
    "Where it stands, such as `command.arguments.addr.data.port`."
    before: JsonValue
    "What it was; None if there was nothing."
    after: JsonValue
    "What it is; None if there is nothing."

    @override
    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.before)} -> {_shown(self.after)}"


@final
@attrs.frozen(kw_only=True)
class ChangedStep:
    """A step that both plans have, and that differs."""

    address: str
    changes: tuple[Change, ...]
    "At least one; paths begin at the step."


@final
@attrs.frozen(kw_only=True)
class MovedStep:
    """A step that both plans have, in another order."""

    address: str
    before: int
    "Its place among the first plan's steps, from 0."
    after: int
    "Its place among the second plan's steps, from 0."


@final
@attrs.frozen(kw_only=True)
class Diff:
    """How a second plan differs from a first; false if it does not.

    Two plans without a difference are equal.
    """

    header: tuple[Change, ...] = ()
    "What differs outside the steps: procedure, versions, declaration, snapshots, recoveries."
    removed: tuple[Step, ...] = ()
    "Steps of the first plan alone, in its order."
    added: tuple[Step, ...] = ()
    "Steps of the second plan alone, in its order."
    moved: tuple[MovedStep, ...] = ()
    "As few as explain the order, in that of the second plan."
    changed: tuple[ChangedStep, ...] = ()
    "In the order of the second plan."

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in attrs.fields(Diff))

    def to_json(self) -> JsonObject:
        """The difference as JSON; steps are named by their addresses."""
        changed: list[JsonValue] = [
            {"address": step.address, "changes": _json_of(step.changes)} for step in self.changed
        ]
        moved: list[JsonValue] = [
            {"address": step.address, "before": step.before, "after": step.after}
            for step in self.moved
        ]
        return {
            "header": _json_of(self.header),
            "removed": [step.address for step in self.removed],
            "added": [step.address for step in self.added],
            "moved": moved,
            "changed": changed,
        }


def diff(first: Plan, second: Plan) -> Diff:
    """Compare two plans.

    Args:
        first: The plan that is compared with.
        second: The plan that is described.

    Returns:
        What has to be done to the first to get the second.
    """
    before, after = wire.plan_to_json(first), wire.plan_to_json(second)
    old, new = _by_address(before), _by_address(after)
    common = [address for address in new if address in old]
    changed = [(address, tuple(_changes(old[address], new[address], ""))) for address in common]
    return Diff(
        header=tuple(_changes(before, after, "")),
        removed=tuple(step for step in first.steps if step.address not in new),
        added=tuple(step for step in second.steps if step.address not in old),
        moved=tuple(_moved(list(old), list(new), common)),
        changed=tuple(ChangedStep(address=a, changes=changes) for a, changes in changed if changes),
    )


def lines(difference: Diff) -> tuple[str, ...]:
    """The difference in plain text, a line for each: `-` gone, `+` new, `>` moved, `~` changed."""
    return (
        *(str(change) for change in difference.header),
        *(f"- {step.address}" for step in difference.removed),
        *(f"+ {step.address}" for step in difference.added),
        *(f"> {step.address}: step {step.before} -> {step.after}" for step in difference.moved),
        *(f"~ {step.address}: {change}" for step in difference.changed for change in step.changes),
    )


def _by_address(plan: JsonObject) -> dict[str, JsonObject]:
    steps = [object_of(step) for step in list_of(plan.pop("steps"))]
    return {str(step["address"]): step for step in steps}


def _json_of(changes: Sequence[Change]) -> list[JsonValue]:
    return [{"path": c.path, "before": c.before, "after": c.after} for c in changes]


def _moved(old: Sequence[str], new: Sequence[str], common: Sequence[str]) -> Iterator[MovedStep]:
    place = {address: n for n, address in enumerate(old)}
    unmoved = _longest_rising([place[address] for address in common])
    for address in common:
        if place[address] not in unmoved:
            yield MovedStep(address=address, before=place[address], after=new.index(address))


def _longest_rising(numbers: Sequence[int]) -> frozenset[int]:
    """The numbers of a longest rising subsequence: what can be said to have kept its order."""
    tails: list[int] = []
    previous: dict[int, int | None] = {}
    for number in numbers:
        length = bisect_left(tails, number)
        previous[number] = tails[length - 1] if length else None
        tails[length:] = [number, *tails[length + 1 :]]
    found, number_or_none = set[int](), tails[-1] if tails else None
    while number_or_none is not None:
        found.add(number_or_none)
        number_or_none = previous[number_or_none]
    return frozenset(found)


def _changes(before: JsonValue, after: JsonValue, path: str) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from _changes(before.get(key), after.get(key), at(path, key))
    elif isinstance(before, list) and isinstance(after, list):
        yield from _changed_items(before, after, path)
    elif before != after or isinstance(before, bool) is not isinstance(after, bool):
        yield Change(path=path, before=before, after=after)


def _changed_items(before: list[JsonValue], after: list[JsonValue], path: str) -> Iterator[Change]:
    old, new = [_shown(item) for item in before], [_shown(item) for item in after]
    for what, i, i_end, j, j_end in SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if what == "equal":
            continue
        if i_end - i == j_end - j:
            for n in range(j_end - j):
                yield from _changes(before[i + n], after[j + n], f"{path}[{j + n}]")
            continue
        for n in range(i, i_end):
            yield Change(path=f"{path}[{n}]", before=before[n], after=None)
        for n in range(j, j_end):
            yield Change(path=f"{path}[{n}]", before=None, after=after[n])


def _shown(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)

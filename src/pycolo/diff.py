"""Compare two plans: which steps are new, removed, moved or changed, and which values differ.

Steps are matched by their address and compared in their JSON form, so that every difference has a
path in a plan file.
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
    """One value that differs between two plans."""

    path: str
    "The value's path, such as `command.arguments.addr.data.port`."
    before: JsonValue
    "The value in the first plan; None if there is none."
    after: JsonValue
    "The value in the second plan; None if there is none."

    @override
    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.before)} -> {_shown(self.after)}"


@final
@attrs.frozen(kw_only=True)
class ChangedStep:
    """A step that both plans have, with different values."""

    address: str
    changes: tuple[Change, ...]
    "The values that differ, at least one; their paths begin at the step."


@final
@attrs.frozen(kw_only=True)
class MovedStep:
    """A step that both plans have, but at another place in the order."""

    address: str
    before: int
    "The step's index in the first plan, from 0."
    after: int
    "The step's index in the second plan, from 0."


@final
@attrs.frozen(kw_only=True)
class Diff:
    """The differences between a first and a second plan; false if there is none.

    Two plans without a difference are equal.
    """

    header: tuple[Change, ...] = ()
    "Values that differ outside the steps: procedure, versions, declaration, snapshots, recoveries."
    removed: tuple[Step, ...] = ()
    "The steps that only the first plan has, in its order."
    added: tuple[Step, ...] = ()
    "The steps that only the second plan has, in its order."
    moved: tuple[MovedStep, ...] = ()
    "The fewest steps whose move explains the new order, in the order of the second plan."
    changed: tuple[ChangedStep, ...] = ()
    "The steps whose values differ, in the order of the second plan."

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in attrs.fields(Diff))

    def to_json(self) -> JsonObject:
        """The differences as JSON; steps are named by their addresses."""
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
        first: The old plan.
        second: The new plan.

    Returns:
        The changes that lead from the first plan to the second.
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
    """The differences in plain text, one per line.

    Lines about steps begin with `-` (removed), `+` (added), `>` (moved) or `~` (changed).
    """
    return (
        *(str(change) for change in difference.header),
        *(f"- {step.address}" for step in difference.removed),
        *(f"+ {step.address}" for step in difference.added),
        *(f"> {step.address}: step {step.before} -> {step.after}" for step in difference.moved),
        *(f"~ {step.address}: {change}" for step in difference.changed for change in step.changes),
    )


def _by_address(plan: JsonObject) -> dict[str, JsonObject]:
    """Remove the steps from a plan's JSON, and return them by their addresses."""
    steps = [object_of(step) for step in list_of(plan.pop("steps"))]
    return {str(step["address"]): step for step in steps}


def _json_of(changes: Sequence[Change]) -> list[JsonValue]:
    return [{"path": c.path, "before": c.before, "after": c.after} for c in changes]


def _moved(old: Sequence[str], new: Sequence[str], common: Sequence[str]) -> Iterator[MovedStep]:
    """The steps of `common` whose order changed, with their old and new index."""
    place = {address: n for n, address in enumerate(old)}
    unmoved = _longest_rising([place[address] for address in common])
    for address in common:
        if place[address] not in unmoved:
            yield MovedStep(address=address, before=place[address], after=new.index(address))


def _longest_rising(numbers: Sequence[int]) -> frozenset[int]:
    """The numbers of a longest rising subsequence: the steps that have kept their order."""
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
    """The values that differ between two JSON values, each with its path."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from _changes(before.get(key), after.get(key), at(path, key))
    elif isinstance(before, list) and isinstance(after, list):
        yield from _changed_items(before, after, path)
    elif before != after or isinstance(before, bool) is not isinstance(after, bool):
        yield Change(path=path, before=before, after=after)


def _changed_items(before: list[JsonValue], after: list[JsonValue], path: str) -> Iterator[Change]:
    """The items that differ between two arrays, matched by their text."""
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

"""Mappings in frozen values: nothing changes them, and they are dicts in all else."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Mapping, MutableMapping

import attrs
import pytest
from tests.compiler.cases import CASES, PAIRS, compiled

from pycolo import plan, record, result, snapshot
from pycolo._mapping import ReadOnlyDict, read_only
from pycolo.model import filters
from pycolo.snapshot import Absent, Snapshot

CHANGES: Mapping[str, Callable[[MutableMapping[str, object]], object]] = {
    "set": lambda m: m.__setitem__("alpha", None),
    "delete": lambda m: m.__delitem__("alpha"),
    "clear": lambda m: m.clear(),
    "pop": lambda m: m.pop("alpha"),
    "popitem": lambda m: m.popitem(),
    "setdefault": lambda m: m.setdefault("beta", 1),
    "update": lambda m: m.update({"beta": 1}),
}


def mappings() -> Iterator[tuple[str, str]]:
    """Class and field of every mapping in the values that users hold."""
    for module in (plan, record, result, snapshot, filters):
        for name, cls in vars(module).items():
            if attrs.has(cls) and cls.__module__ == module.__name__:
                for field in attrs.fields(cls):
                    if str(field.type).startswith("Mapping["):
                        assert field.converter is not None, f"{name}.{field.name}"
                        yield name, field.name


def test_every_mapping_of_a_value_is_read_only() -> None:
    """No class forgets it, whatever field is added."""
    found = set(mappings())
    assert {
        ("Snapshot", "nodes"),
        ("Live", "jobs"),
        ("Plan", "qemu"),
        ("Report", "outcomes"),
    } <= found


@pytest.mark.parametrize("change", CHANGES)
def test_a_compiled_plan_cannot_be_changed(change: str) -> None:
    """What a plan was compiled from stays what it was."""
    nodes = compiled(CASES["start/first"], PAIRS["one"], "11.1.3").prior_state.nodes
    before = dict(nodes)
    assert isinstance(nodes, MutableMapping)
    with pytest.raises(TypeError, match="frozen value"):
        CHANGES[change](nodes)
    assert before == nodes


def test_a_later_change_of_what_it_was_made_from_does_not_reach_it() -> None:
    """The caller's own dict stays the caller's."""
    mine = {"alpha": Absent()}
    value = Snapshot(nodes=mine)
    mine.clear()
    assert {"alpha": Absent()} == value.nodes


def test_it_is_a_dict_in_all_else() -> None:
    """It can be merged, copied, pickled and compared, and is not copied a second time."""
    value = read_only({"a": 1})
    assert {"a": 1, "b": 2} == {**value, "b": 2}
    assert value is read_only(value)
    for twin in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):  # noqa: S301
        assert isinstance(twin, ReadOnlyDict)
        assert value == twin
    absent = Snapshot(nodes={"alpha": Absent()})
    assert absent == pickle.loads(pickle.dumps(absent))  # noqa: S301 - made a moment ago

"""What `diff` says of two plans."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.strategies import offline_plans, pairs, versions

from pycolo import pairfile, wire
from pycolo.compiler import compile_offline
from pycolo.diff import Change, ChangedStep, Diff, MovedStep, diff, lines
from pycolo.errors import RefusedError
from pycolo.model import ColoPair
from pycolo.plan import Execute, Plan, Step
from pycolo.qmp.chardevs import InetSocketAddress
from pycolo.qmp.commands import Cont, NbdServerStart, Stop
from pycolo.qmp.replies import Version
from pycolo.snapshot import Snapshot

EXAMPLE = Path(__file__).parent.parent / "examples" / "pair.toml"
SOME = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def step(address: str, *, why: str = "So.") -> Execute:
    """A step at an address."""
    return Execute(address=address, node="alpha", command=Cont(), why=why, limit_s=1.0)


def plan_of(*steps: Step) -> Plan:
    """A plan of the given steps."""
    return Plan(
        procedure="start",
        pair=pairfile.load(EXAMPLE),
        qemu={"alpha": Version.parse("11.1.3")},
        dialect="auto",
        prior_state=Snapshot(nodes={}),
        planned_state=Snapshot(nodes={}),
        steps=steps,
    )


@pytest.mark.property
@SOME
@given(offline_plans())
def test_a_plan_does_not_differ_from_itself(plan: Plan) -> None:
    """The same plan, read from its file, is no difference, and so says nothing."""
    found = diff(plan, wire.plan_from_json(json.loads(wire.dumps(wire.plan_to_json(plan)))))
    assert not found
    assert Diff() == found
    assert () == lines(found)


@pytest.mark.property
@SOME
@given(pairs(), versions, versions, st.integers(1, 9), st.integers(1, 9))
def test_plans_differ_exactly_where_they_are_not_equal(
    pair: ColoPair, old: Version, new: Version, old_ms: int, new_ms: int
) -> None:
    """Whatever makes two plans unequal is found, and nothing else is."""
    try:
        plans = [
            compile_offline("set-checkpoint-delay", pair, version=version, checkpoint_delay_ms=ms)
            for version, ms in ((old, old_ms), (new, new_ms))
        ]
    except RefusedError:
        return
    found = diff(plans[0], plans[1])
    assert (plans[0] != plans[1]) is bool(found)
    json.dumps(found.to_json())


def test_steps_are_matched_by_address() -> None:
    """A step with another address is another step: the old one is gone, the new one added."""
    old, kept, new = step("alpha/a"), step("alpha/b"), step("alpha/c")
    found = diff(plan_of(old, kept), plan_of(kept, new))
    assert Diff(removed=(old,), added=(new,)) == found
    assert ("- alpha/a", "+ alpha/c") == lines(found)


def test_a_changed_argument_is_named_by_its_path() -> None:
    """The path is that of the value in the plan file, down to the single argument."""
    old, new = (
        Execute(
            address="beta/nbd-server-start",
            node="beta",
            command=NbdServerStart(addr=InetSocketAddress(host="192.0.2.12", port=port)),
            why="So.",
            limit_s=10.0,
        )
        for port in (9999, 9998)
    )
    path = "command.arguments.addr.data.port"
    change = Change(path=path, before="9999", after="9998")
    found = diff(plan_of(old), plan_of(new))
    assert Diff(changed=(ChangedStep(address=old.address, changes=(change,)),)) == found
    assert (f'~ beta/nbd-server-start: {path}: "9999" -> "9998"',) == lines(found)


def test_reasons_limits_and_ways_are_changes_too() -> None:
    """All of a step is compared, not its command alone; what was not there was null."""
    old = step("alpha/x")
    new = attrs.evolve(old, why="Else.", limit_s=2.0, oob=True, command=Stop())
    expected = (
        '~ alpha/x: why: "So." -> "Else."',
        '~ alpha/x: command.execute: "cont" -> "stop"',
        "~ alpha/x: limit_s: 1.0 -> 2.0",
        "~ alpha/x: oob: null -> true",
    )
    assert expected == lines(diff(plan_of(old), plan_of(new)))


def test_a_whole_number_is_no_change_of_a_limit() -> None:
    """10 s and 10.0 s are the same limit."""
    old = step("alpha/x")
    assert not diff(plan_of(old), plan_of(attrs.evolve(old, limit_s=1)))


def test_as_few_steps_as_possible_have_moved() -> None:
    """One step that went to the front has moved; the three behind it have kept their order."""
    steps = [step(f"alpha/{letter}") for letter in "abcd"]
    found = diff(plan_of(*steps), plan_of(steps[3], *steps[:3]))
    assert Diff(moved=(MovedStep(address="alpha/d", before=3, after=0),)) == found
    assert ("> alpha/d: step 3 -> 0",) == lines(found)


def test_an_added_step_moves_none_behind_it() -> None:
    """Order is that of the steps that both plans have."""
    steps = [step(f"alpha/{letter}") for letter in "abc"]
    found = diff(plan_of(*steps[1:]), plan_of(*steps))
    assert Diff(added=(steps[0],)) == found


def test_the_head_is_compared_as_well() -> None:
    """Procedure, versions, dialect, declaration and what is restored are named by their paths."""
    old = plan_of(step("alpha/a"))
    new = attrs.evolve(
        old,
        procedure="resume",
        pair=attrs.evolve(old.pair, checkpoint_delay_ms=250),
        qemu={"alpha": Version.parse("10.0.13")},
        dialect="doc",
        restored_after="alpha/a",
    )
    expected = (
        'procedure: "start" -> "resume"',
        "pair.checkpoint_delay_ms: 500 -> 250",
        'qemu.alpha: "11.1.3" -> "10.0.13"',
        'dialect: "auto" -> "doc"',
        'restored_after: null -> "alpha/a"',
    )
    assert expected == lines(diff(old, new))


def test_an_inserted_word_of_a_command_line_is_one_change() -> None:
    """A list is compared as a sequence: what stands behind an insertion has not changed."""
    old = plan_of()
    machine = old.pair.machine
    longer = attrs.evolve(machine, arguments=("-no-reboot", *machine.arguments))
    new = attrs.evolve(old, pair=attrs.evolve(old.pair, machine=longer))
    assert ('pair.machine.arguments[0]: null -> "-no-reboot"',) == lines(diff(old, new))


def test_a_difference_is_json() -> None:
    """Programs get the same difference, steps named by their addresses."""
    a, b, c, d = (step(f"alpha/{letter}") for letter in "abcd")
    found = diff(plan_of(a, b, c), plan_of(c, attrs.evolve(b, limit_s=9.0), d))
    expected = {
        "header": [],
        "removed": ["alpha/a"],
        "added": ["alpha/d"],
        "moved": [{"address": "alpha/c", "before": 2, "after": 0}],
        "changed": [
            {"address": "alpha/b", "changes": [{"path": "limit_s", "before": 1.0, "after": 9.0}]}
        ],
    }
    assert expected == found.to_json()


def test_a_procedure_on_two_versions_differs_where_the_versions_do() -> None:
    """Compiling one pair for two QEMUs and comparing shows what the newer one does otherwise."""
    pair = pairfile.load(EXAMPLE)
    old, new = (
        compile_offline("start", pair, version=Version.parse(v)) for v in ("7.2.22", "11.1.3")
    )
    found = diff(old, new)
    assert {"qemu.alpha", "qemu.beta"} <= {change.path for change in found.header}
    assert found.added or found.changed

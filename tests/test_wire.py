"""Plans, reports and snapshots as JSON, and the way back from there."""

from __future__ import annotations

import functools
import json
from typing import get_args

import attrs
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from tests.strategies import offline_plans, plans, reports, snapshots

from pycolo import pairfile, wire
from pycolo._json import JsonValue
from pycolo.conditions import AllOf, PeerDead, RunStateIs
from pycolo.evidence import Evidence
from pycolo.model import ColoPair, Node
from pycolo.plan import CreateImage, Execute, Plan, Refusal, RunHost, Step, StopQemu, Wait
from pycolo.qmp.commands import Cont, JobDismiss, Yank
from pycolo.qmp.objects import YankMigration
from pycolo.qmp.replies import Version
from pycolo.result import Done, NotRun, Report
from pycolo.snapshot import Absent, Dead, Drive, Live, NodeState, Snapshot, Unreachable
from pycolo.wire import DocumentName

QEMU = Version.parse("11.1.3")
SOME = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def plan_of(*steps: Step) -> Plan:
    """A plan of the given steps."""
    nodes = [Node(name=n, address=f"{n}.example", image_folder="/i") for n in ("alpha", "beta")]
    return Plan(
        procedure="start",
        pair=ColoPair(name="colo", nodes=(nodes[0], nodes[1])),
        qemu={"beta": QEMU, "alpha": QEMU},
        dialect="auto",
        prior_state=Snapshot(nodes={}),
        planned_state=Snapshot(nodes={}),
        steps=steps,
    )


def written(step: Step) -> JsonValue:
    """The step as it stands in a plan file."""
    steps = wire.plan_to_json(plan_of(step))["steps"]
    assert isinstance(steps, list)
    return steps[0]


@functools.cache
def validator(name: DocumentName) -> jsonschema.Draft202012Validator:
    """What holds documents to the published schema."""
    return jsonschema.Draft202012Validator(wire.json_schema(name))


@pytest.mark.property
@SOME
@given(plans())
def test_a_plan_comes_back_from_its_text(plan: Plan) -> None:
    """A plan that was saved and read is the plan, and saves to the same text again."""
    text = wire.dumps(wire.plan_to_json(plan))
    assert plan == wire.plan_from_json(wire.loads(text))
    assert text == wire.dumps(wire.plan_to_json(wire.plan_from_json(json.loads(text))))
    assert validator("plan").is_valid(json.loads(text))


@pytest.mark.property
@SOME
@given(offline_plans())
def test_a_compiled_plan_comes_back_from_its_text(plan: Plan) -> None:
    """What the compiler makes of any pair can be saved, read and described by the schema."""
    value = json.loads(wire.dumps(wire.plan_to_json(plan)))
    assert plan == wire.plan_from_json(value)
    assert validator("plan").is_valid(value)


@pytest.mark.property
@SOME
@given(reports())
def test_a_report_comes_back_from_its_text(report: Report) -> None:
    """A report that was saved and read is the report, its outcomes in the same order."""
    value = json.loads(wire.dumps(wire.report_to_json(report)))
    read = wire.report_from_json(value)
    assert report == read
    assert list(report.outcomes) == list(read.outcomes)
    assert validator("report").is_valid(value)


@pytest.mark.property
@SOME
@given(snapshots)
def test_a_snapshot_comes_back_from_its_text(snapshot: Snapshot) -> None:
    """A snapshot that was saved and read is the snapshot."""
    value = json.loads(wire.dumps(wire.snapshot_to_json(snapshot)))
    assert snapshot == wire.snapshot_from_json(value)
    assert validator("snapshot").is_valid(value)


@pytest.mark.parametrize("name", get_args(DocumentName))
def test_schemas_are_schemas(name: DocumentName) -> None:
    """Each published schema is itself valid, and refers to nothing outside of it."""
    schema = wire.json_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    references = [part.split('"')[0] for part in json.dumps(schema).split('"$ref": "')[1:]]
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    assert {f"#/$defs/{key}" for key in definitions} >= set(references)


def test_a_plan_has_the_keys_that_other_programs_read() -> None:
    """The head of a plan file has the keys of the contract, in its order, then pycolo's own."""
    value = wire.plan_to_json(plan_of())
    contract = ["format_version", "procedure", "pair", "qemu", "dialect", "restored_after", "steps"]
    assert [*contract, "recoveries", "prior_state", "planned_state", "options"] == list(value)
    assert {"alpha": "11.1.3", "beta": "11.1.3"} == value["qemu"]
    assert value["restored_after"] is None


def test_an_execute_is_written_as_its_command() -> None:
    """A command stands in QMP's form, without `arguments` or `oob` where there are none."""
    step = Execute(address="alpha/cont", node="alpha", command=Cont(), why="Go.", limit_s=10.0)
    expected = {
        "address": "alpha/cont",
        "node": "alpha",
        "kind": "execute",
        "why": "Go.",
        "command": {"execute": "cont"},
        "limit_s": 10.0,
    }
    assert expected == written(step)


def test_an_execute_is_written_with_all_that_it_may_do() -> None:
    """What is sent when the limit passes stands in the plan as the commands that are sent."""
    step = Execute(
        address="alpha/job-dismiss/resync",
        node="alpha",
        command=JobDismiss(id="resync"),
        why="Done.",
        limit_s=5.0,
        oob=True,
        accepts=(Refusal(text="not found"),),
        rescue=(Yank(instances=(YankMigration(),)),),
    )
    expected = {
        "address": "alpha/job-dismiss/resync",
        "node": "alpha",
        "kind": "execute",
        "why": "Done.",
        "command": {"execute": "job-dismiss", "arguments": {"id": "resync"}},
        "limit_s": 5.0,
        "oob": True,
        "accepts": [{"text": "not found", "error_class": "GenericError"}],
        "rescue": [{"execute": "yank", "arguments": {"instances": [{"type": "migration"}]}}],
    }
    assert expected == written(step)


def test_conditions_are_written_by_kind() -> None:
    """A condition is an object with its kind, the condition's name in small letters."""
    running = RunStateIs(node="alpha", states=("running",))
    both = AllOf(
        conditions=(running, PeerDead(node="beta", instance="colo:beta:00000001", epoch=4))
    )
    step = Wait(address="w", node="alpha", until=both, why="So.", limit_s=1.0)
    expected = {
        "kind": "all-of",
        "conditions": [
            {"kind": "run-state-is", "node": "alpha", "states": ["running"]},
            {
                "kind": "peer-dead",
                "node": "beta",
                "instance": "colo:beta:00000001",
                "epoch": 4,
            },
        ],
    }
    found = written(step)
    assert isinstance(found, dict)
    assert expected == found["until"]
    assert "unless" not in found


def test_a_host_action_stands_beside_its_step() -> None:
    """`action` is a word, and what belongs to the action stands in the step itself."""
    image = CreateImage(path="/i/a", image_format="raw", size_bytes=512, argv=("qemu-img", "x"))
    step = RunHost(address="beta/create-image/a", node="beta", action=image, why="W.", limit_s=9.0)
    expected = {
        "address": "beta/create-image/a",
        "node": "beta",
        "kind": "run-host",
        "why": "W.",
        "limit_s": 9.0,
        "action": "create-image",
        "path": "/i/a",
        "image_format": "raw",
        "size_bytes": 512,
        "argv": ["qemu-img", "x"],
    }
    assert expected == written(step)
    stop = attrs.evolve(step, action=StopQemu(instance="x"))
    members = {"address", "node", "kind", "why", "limit_s", "action", "instance", "at_once"}
    assert members == set(dict_of(written(stop)))


def dict_of(value: JsonValue) -> dict[str, JsonValue]:
    """Narrow to an object."""
    assert isinstance(value, dict)
    return value


def test_a_snapshot_is_written_in_full() -> None:
    """Other programs need not know a default: every field of a node stands there, sets sorted.

    The one that came later stands there where it holds something.
    """
    words = {"who": "ops", "how": "power off", "when": "2026-01-02T03:04:05Z"}
    evidence = Evidence(kind="fence", node="b", instance="colo:b:00000001", epoch=4, **words)
    live = Live(version=QEMU, capabilities=frozenset({"x-colo", "events"}))
    drives = {"q": Drive(device="disk0", limits={})}
    full = attrs.evolve(
        live,
        migration_tls={"tls-creds": "tls-client"},
        caches={"p": "none"},
        drives=drives,
        overlaid=True,
    )
    states: dict[str, NodeState] = {
        "c": Unreachable(why="silent"),
        "b": Dead(evidence=evidence),
        "a": Absent(),
        "d": live,
        "e": full,
    }
    nodes = dict_of(wire.snapshot_to_json(Snapshot(nodes=states))["nodes"])
    assert ["a", "b", "c", "d", "e"] == list(nodes)
    assert {"kind": "absent"} == nodes["a"]
    said = {"kind": "fence", "node": "b", "instance": "colo:b:00000001", "epoch": 4, **words}
    assert {"kind": "dead", "evidence": said} == nodes["b"]
    assert {"kind": "unreachable", "why": "silent"} == nodes["c"]
    assert ["events", "x-colo"] == dict_of(nodes["d"])["capabilities"]
    fields = {"kind", *attrs.fields_dict(Live)}
    later = {"migration_tls", "caches", "drives", "overlaid"}
    assert fields - later == set(dict_of(nodes["d"]))
    assert fields == set(dict_of(nodes["e"]))


def test_documents_inside_a_document_can_be_cut_out() -> None:
    """The pair in a plan is a pair file, the plan in a report a plan file, and so on."""
    step = Execute(address="a", node="alpha", command=Cont(), why="Go.", limit_s=1.0)
    plan = plan_of(step)
    outcomes = {"a": Done(took_s=0.1)}
    report = Report(plan=plan, outcomes=outcomes, after=Snapshot(nodes={"alpha": Absent()}))
    value = wire.report_to_json(report)
    inner = dict_of(value["plan"])
    assert plan == wire.plan_from_json(inner)
    assert plan.pair == pairfile.loads(json.dumps(inner["pair"]), "json")
    assert plan.prior_state == wire.snapshot_from_json(inner["prior_state"])
    assert report.after == wire.snapshot_from_json(value["after"])


def test_a_report_says_first_how_it_ended() -> None:
    """What a program asks of a report first is in it and need not be worked out."""
    step = Execute(address="a", node="alpha", command=Cont(), why="Go.", limit_s=1.0)
    value = wire.report_to_json(Report(plan=plan_of(step), outcomes={"a": NotRun()}))
    assert ["format_version", "failed", "changed"] == list(value)[:3]
    assert ("a", False) == (value["failed"], value["changed"])

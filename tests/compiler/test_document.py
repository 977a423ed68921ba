"""Dialect `doc` gives the document's own commands, to the letter."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.compiler.cases import PAIRS

from pycolo.compiler import compile_offline
from pycolo.errors import CompileError, DeclarationError, VersionError
from pycolo.features import refuse_document
from pycolo.model import ColoPair
from pycolo.pairfile import load
from pycolo.plan import Check, Execute, LaunchQemu, Plan, Procedure, RunHost
from pycolo.qmp.replies import Version

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = ROOT / "tests" / "golden" / "document"
RUNS = Version.parse("10.0.13")
Commands: TypeAlias = list[dict[str, object]]


@pytest.fixture(scope="module")
def pair() -> ColoPair:
    """The document's pair."""
    return load(ROOT / "examples" / "qemu-doc.toml")


def _plan(pair: ColoPair, procedure: Procedure, survivor: str | None = None) -> Plan:
    delay_ms = 2000 if procedure == "set-checkpoint-delay" else None
    return compile_offline(
        procedure,
        pair,
        version=RUNS,
        survivor=survivor,
        checkpoint_delay_ms=delay_ms,
        dialect="doc",
    )


def _commands(plan: Plan, node: str | None = None) -> Commands:
    steps = [s for s in plan.steps if isinstance(s, Execute)]
    return [dict(s.command.to_qmp()) for s in steps if node in (None, s.node)]


PROCEDURES: dict[str, tuple[Procedure, str | None, str]] = {
    "start.secondary": ("start", None, "secondary"),
    "start.primary": ("start", None, "primary"),
    "primary_failover": ("failover", "primary", "primary"),
    "secondary_failover": ("failover", "secondary", "secondary"),
    "primary_resume": ("resume", "primary", "primary"),
    "secondary_resume": ("resume", "secondary", "secondary"),
    "checkpoint_delay": ("set-checkpoint-delay", None, "primary"),
}


def test_all_procedures_of_the_document_are_compared() -> None:
    """No procedure of the document is left out of the comparison."""
    golden = json.loads((DOCUMENT / "doc-procedures.json").read_text())

    assert set(golden) == set(PROCEDURES)


@pytest.mark.parametrize("name", PROCEDURES)
def test_the_commands_are_the_documents(pair: ColoPair, name: str) -> None:
    """Each procedure's commands on a node equal the document's, as JSON and in order."""
    procedure, survivor, node = PROCEDURES[name]
    golden = json.loads((DOCUMENT / "doc-procedures.json").read_text())[name]

    assert golden == _commands(_plan(pair, procedure, survivor), node)


def test_the_secondary_is_prepared_before_the_primary_begins(pair: ColoPair) -> None:
    """In `start` all of the secondary's commands precede the primary's."""
    golden = json.loads((DOCUMENT / "doc-procedures.json").read_text())
    expected = [*golden["start.secondary"], *golden["start.primary"]]

    assert expected == _commands(_plan(pair, "start"))


def test_resume_prepares_the_new_secondary_as_step_3_does(pair: ColoPair) -> None:
    """The document's resume begins with its step 3 on the new secondary."""
    golden = json.loads((DOCUMENT / "doc-procedures.json").read_text())["start.secondary"]

    assert golden == _commands(_plan(pair, "resume", "primary"), "secondary")


@pytest.mark.parametrize("node", ["primary", "secondary"])
def test_the_command_lines_are_the_documents(pair: ColoPair, node: str) -> None:
    """Each command line equals the document's, argument by argument, but for QEMU's identity."""
    golden = json.loads((DOCUMENT / "doc-command-lines.json").read_text())[node]
    folder = {"$imagefolder": f"/mnt/vms/colo-test-{node}", "$primary_ip": "127.0.0.1"}
    expected = [[_filled(word, folder) for word in line] for line in golden]
    for line in expected:
        if "-name" in line:
            line[line.index("-name") + 1] = f"colo:{node}:00000001"
    plan = _plan(pair, "launch")
    lines = [
        list(step.action.argv)
        for step in plan.steps
        if isinstance(step, RunHost) and step.node == node and hasattr(step.action, "argv")
    ]

    assert expected == lines


def _filled(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


@pytest.mark.parametrize("survivor", ["primary", "secondary"])
def test_a_failover_begins_with_the_check_of_death(pair: ColoPair, survivor: str) -> None:
    """In this dialect too the first step of a failover is the Check that the peer is dead."""
    first = _plan(pair, "failover", survivor).steps[0]

    assert isinstance(first, Check)
    assert first.address.startswith(f"{survivor}/check/dead:")


def test_the_document_knows_no_stop(pair: ColoPair) -> None:
    """Ending protection on purpose is refused, since the document does not say how."""
    with pytest.raises(CompileError, match="does not say how to end protection"):
        _plan(pair, "stop")


@pytest.mark.parametrize("procedure", ["start", "stop"])
def test_a_dialect_that_there_is_not_is_refused(pair: ColoPair, procedure: Procedure) -> None:
    """A misspelled dialect names the two that there are."""
    with pytest.raises(DeclarationError, match="dialect must be one of auto, doc, not 'docs'"):
        compile_offline(
            procedure,
            pair,
            version=Version.parse("10.0.13"),
            dialect="docs",  # type: ignore[arg-type]  # what a caller without type checks may give
        )


@pytest.mark.parametrize(
    ("version", "why"),
    [("7.2.22", "reconnect-ms"), ("11.1.3", "capabilities"), ("10.0.2", "never entered")],
)
def test_it_is_printed_for_every_version_and_run_on_few(
    pair: ColoPair, version: str, why: str
) -> None:
    """The plan compiles for any version; running it is refused where QEMU would refuse it."""
    plan = compile_offline("start", pair, version=Version.parse(version), dialect="doc")

    assert _commands(_plan(pair, "start")) == _commands(plan)
    with pytest.raises(VersionError, match=why):
        refuse_document(pair, Version.parse(version))


def test_it_runs_where_its_commands_are_accepted(pair: ColoPair) -> None:
    """10.0.13 with KVM accepts the document's commands, so nothing is refused."""
    refuse_document(pair, RUNS)


def test_other_storage_has_the_documents_form() -> None:
    """What the document lacks is said in its own form, and defaults of QEMU are left out."""
    plan = _plan(PAIRS["storage"], "launch")
    argv = _argv(plan, "alpha")
    drives = [value for option, value in itertools.pairwise(argv) if option == "-drive"]
    head = "if=ide,id=colo-disk{},driver=quorum,read-pattern=fifo,vote-threshold=1,"
    expected = [
        head.format(0) + "cache.writeback=off,children.0.file.filename=/dev/vg0/vm0,"
        "children.0.driver=raw,children.0.cache.direct=on,children.0.detect-zeroes=unmap,"
        "children.0.discard=unmap,children.0.file.driver=host_device,children.0.file.aio=native",
        head.format(1) + "children.0.file.filename=/srv/vm0/data.qcow2,children.0.driver=qcow2,"
        "children.0.cache.no-flush=on",
        head.format(2) + "throttling.iops-total=500,throttling.bps-read=10000000,"
        "throttling.bps-write=5000000,children.0.file.filename=/var/lib/vm0/secret.luks,"
        "children.0.driver=luks,children.0.key-secret=secret2",
    ]
    assert expected == drives
    assert "secret,id=secret2,file=/etc/vm0,,key" in argv


def _argv(plan: Plan, node: str) -> tuple[str, ...]:
    for step in plan.steps:
        match step:
            case RunHost(node=where, action=LaunchQemu(argv=argv)) if where == node:
                return argv
            case _:
                pass
    raise AssertionError(f"the plan launches no {node}")

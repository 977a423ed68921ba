"""`pycolo plan`, `diff` and `schema`: what needs no QEMU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
from tests.cli.conftest import Pycolo

from pycolo import wire
from pycolo.plan import Procedure

PROCEDURES = tuple(name for name in get_args(Procedure) if name != "converge")


def options(procedure: str) -> list[str]:
    """What a procedure cannot do without."""
    needed = {"set-checkpoint-delay": ["--ms", "500"], "forget": ["--node", "beta"]}
    return needed.get(procedure, [])


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_the_json_of_a_plan_keeps_the_contract(
    pycolo: Pycolo, pair_file: Path, procedure: str
) -> None:
    """Other programs find the promised keys, and steps in the promised form."""
    ended = pycolo("plan", procedure, pair_file, *options(procedure), "--as", "json")
    assert (0, "") == (ended.code, ended.err)
    plan = json.loads(ended.out)
    assert (1, procedure, "auto") == (plan["format_version"], plan["procedure"], plan["dialect"])
    assert ["alpha", "beta"] == [node["name"] for node in plan["pair"]["nodes"][:2]]
    # No QEMU is asked where only records are written.
    assert ({"11.1.3"} if procedure != "forget" else set()) == set(plan["qemu"].values())
    addresses = [step["address"] for step in plan["steps"]]
    assert plan["restored_after"] in [None, *addresses]
    for step in plan["steps"]:
        assert {"address", "node", "kind", "why"} <= set(step)
        if step["kind"] == "execute":
            assert {"execute", "arguments"} >= set(step["command"])
            assert step["command"].get("arguments") != {}
        if step["kind"] == "run-host":
            assert step["action"] in ("create-image", "launch-qemu", "stop-qemu", "check-ports")
    jsonschema.validate(plan, json.loads(pycolo("schema", "plan").out))
    assert procedure == wire.plan_from_json(plan).procedure


@pytest.mark.parametrize("procedure", PROCEDURES)
@pytest.mark.parametrize("form", ["text", "qmp", "shell", "mermaid"])
def test_every_procedure_reads_in_every_form(
    pycolo: Pycolo, pair_file: Path, procedure: str, form: str
) -> None:
    """No procedure has a step that a reader cannot show."""
    ended = pycolo("plan", procedure, pair_file, *options(procedure), "--as", form)
    assert (0, "") == (ended.code, ended.err)
    assert ended.out.endswith("\n")


@pytest.mark.parametrize("procedure", ["start", "failover", "resume", "set-checkpoint-delay"])
def test_the_documents_dialect_can_be_shown(
    pycolo: Pycolo, pair_file: Path, procedure: str
) -> None:
    """`--dialect doc` gives the document's commands."""
    ended = pycolo(
        "plan", procedure, pair_file, *options(procedure), "--dialect", "doc", "--as", "json"
    )
    assert (0, "doc") == (ended.code, json.loads(ended.out)["dialect"])


def test_a_plan_continues_from_another_or_from_a_snapshot(
    pycolo: Pycolo, pair_file: Path, tmp_path: Path
) -> None:
    """--from takes what a plan file promises, and a snapshot file alike."""
    start = tmp_path / "start.json"
    start.write_text(pycolo("plan", "start", pair_file, "--as", "json").out)
    planned_state = tmp_path / "planned.json"
    planned_state.write_text(json.dumps(json.loads(start.read_text())["planned_state"]))
    words = ("plan", "failover", pair_file, "--survivor", "alpha", "--as", "json", "--from")
    first, second = pycolo(*words, start), pycolo(*words, planned_state)
    assert 0 == first.code, first.err
    assert first.out == second.out
    assert {"alpha"} == set(json.loads(first.out)["qemu"])


def test_a_spare_can_take_the_dead_ones_place(pycolo: Pycolo, pair_file: Path) -> None:
    """Resume --peer protects the survivor with another node."""
    words = ("plan", "resume", pair_file, "--survivor", "alpha", "--peer", "gamma")
    ended = pycolo(*words, "--as", "json")
    assert (0, {"alpha", "gamma"}) == (ended.code, set(json.loads(ended.out)["qemu"]))


def test_one_node_can_be_launched(pycolo: Pycolo, pair_file: Path) -> None:
    """Launch --node leaves the other one alone."""
    ended = pycolo("plan", "launch", pair_file, "--node", "beta", "--as", "json")
    assert {"beta"} == {step["node"] for step in json.loads(ended.out)["steps"]}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("plan", "explode", "PAIR"), "'explode' is no procedure: one of"),
        (("plan", "start", "/no/such/file"), "does not exist"),
        (("plan", "start", "PAIR", "--as", "html"), "'html' is not one of"),
        (("plan", "start", "PAIR", "--qemu", "eleven"), "be a version such as"),
        (("plan", "start", "PAIR", "--ms", "5"), "start has no --ms: it is for set-checkpoint-"),
        (("plan", "stop", "PAIR", "--newest", "alpha"), "stop has no --newest: it is for launch"),
        (("run", "start", "PAIR", "--fenced", "me: x"), "start has no --fenced: it is for fail"),
        (("plan", "set-checkpoint-delay", "PAIR"), "set-checkpoint-delay needs --ms N"),
        (("plan", "forget", "PAIR"), "forget needs --node NODE"),
        (("plan", "failover", "PAIR", "--survivor", "delta"), "--survivor: node must be one of"),
        (("plan", "failover", "PAIR", "--fenced", "me: x"), "--fenced needs --live"),
        (("run", "failover", "PAIR", "--fenced", " "), "--fenced must say who fenced the node"),
        (("run", "failover", "PAIR", "--fenced", "me"), "power off at the rack', not 'me'"),
        (("plan", "failover", "PAIR", "--survivor", "gamma"), "gamma is a spare, and offline the"),
        (("plan", "resume", "PAIR", "--survivor", "gamma"), "name one of them, or give --live if"),
        (("diff", "PAIR", "PAIR"), "compared with --procedure"),
        (("move", "PAIR", "--to", "delta"), "--to: node must be one of alpha, beta, gamma, not"),
        (("fenced", "PAIR", "delta", "--how", "x"), "NODE: node must be one of alpha, beta, gam"),
        (("schema", "life"), "'life' is not one of"),
        (("frobnicate",), "No such command"),
    ],
)
def test_wrong_usage_ends_with_64(
    pycolo: Pycolo, pair_file: Path, words: tuple[str, ...], complaint: str
) -> None:
    """What cannot be meant is refused on standard error, and nothing is printed."""
    ended = pycolo(*(pair_file if word == "PAIR" else word for word in words))
    assert (64, "") == (ended.code, ended.out)
    assert complaint in " ".join(ended.err.split())


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "start", "--as", "json"),
        ("plan", "start", "PAIR", "--as=json", "--frob"),
        ("frobnicate", "--as", "json"),
        ("plan", "failover", "PAIR", "--survivor", "delta", "--as", "json"),
    ],
)
def test_wrong_usage_is_json_where_json_was_asked_for(
    pycolo: Pycolo, pair_file: Path, words: tuple[str, ...]
) -> None:
    """Wherever the mistake is, a program reads it as it reads any other refusal."""
    ended = pycolo(*(pair_file if word == "PAIR" else word for word in words))
    refused = json.loads(ended.out)["refused"]
    assert (64, 64, "usage-error") == (ended.code, refused["exit_code"], refused["kind"])
    assert refused["message"] in " ".join(ended.err.split())
    assert "" == pycolo("explain", "--", "--as", "json").out


def test_a_wrong_pair_file_is_refused_in_one_line(pycolo: Pycolo, tmp_path: Path) -> None:
    """The line names the file, the field and the rule."""
    path = tmp_path / "wrong.toml"
    path.write_text("format_version = 1\nnodes = []\n")
    ended = pycolo("plan", "start", path)
    assert (1, "", 1) == (ended.code, ended.out, ended.err.count("\n"))
    assert ended.err.startswith(f"pycolo: {path}: ")


def test_a_version_that_cannot_run_colo_is_refused(pycolo: Pycolo, pair_file: Path) -> None:
    """A known-broken QEMU is refused with 1, until somebody vouches for it."""
    words = ("plan", "start", pair_file, "--qemu", "10.0.2")
    assert 1 == pycolo(*words).code
    assert 0 == pycolo(*words, "--assume-good", "10.0.2").code


def test_a_state_that_needs_a_person_ends_with_4(
    pycolo: Pycolo, pair_file: Path, tmp_path: Path
) -> None:
    """Where no safe way leads on, a person must decide."""
    snapshot = tmp_path / "snapshot.json"
    plan = json.loads(pycolo("plan", "launch", pair_file, "--as", "json").out)
    snapshot.write_text(json.dumps(plan["prior_state"]))
    ended = pycolo("plan", "start", pair_file, "--from", snapshot)
    assert (4, "") == (ended.code, ended.out)
    assert ended.err.startswith("pycolo: ")


def test_plans_are_compared(pycolo: Pycolo, pair_file: Path, tmp_path: Path) -> None:
    """Equal plans end with 0, different ones with 2 and say what differs."""
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(pycolo("plan", "start", pair_file, "--qemu", "10.0.13", "--as", "json").out)
    new.write_text(pycolo("plan", "start", pair_file, "--as", "json").out)
    assert (0, "no difference\n") == ((same := pycolo("diff", old, old)).code, same.out)
    ended = pycolo("diff", old, new)
    assert 2 == ended.code
    assert '~ plan: qemu.alpha: "10.0.13" -> "11.1.3"' in ended.out.splitlines()
    found = json.loads(pycolo("diff", old, new, "--as", "json").out)
    assert {"path": "qemu.alpha", "before": "10.0.13", "after": "11.1.3"} in found["header"]


def test_pair_files_are_compared_by_what_a_procedure_does(
    pycolo: Pycolo, pair_file: Path, tmp_path: Path
) -> None:
    """--procedure compiles both and compares the plans."""
    other = tmp_path / "other.toml"
    other.write_text(pair_file.read_text() + "vnet_hdr = true\n")
    ended = pycolo("diff", pair_file, other, "--procedure", "start")
    assert 2 == ended.code
    assert "~ alpha/object-add/m0: command.arguments.vnet_hdr_support: null -> true" in (
        ended.out.splitlines()
    )
    assert 0 == pycolo("diff", pair_file, pair_file, "--procedure", "start").code
    plan = tmp_path / "plan.json"
    plan.write_text(pycolo("plan", "start", pair_file, "--as", "json").out)
    assert 64 == pycolo("diff", plan, plan, "--procedure", "start").code


@pytest.mark.parametrize("document", ["plan", "report", "snapshot", "pairfile"])
def test_schemas_are_json_schemas(pycolo: Pycolo, document: str) -> None:
    """Each document's schema is a valid JSON Schema."""
    ended = pycolo("schema", document, "--as", "json")
    assert 0 == ended.code
    jsonschema.Draft202012Validator.check_schema(json.loads(ended.out))


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("plan",),
        ("diff",),
        ("run",),
        ("apply",),
        ("status",),
        ("demo",),
        ("schema",),
        ("report",),
        ("explain",),
    ],
)
def test_every_command_explains_itself(pycolo: Pycolo, words: tuple[str, ...]) -> None:
    """--help says what the command does, on standard output."""
    ended = pycolo(*words, "--help")
    assert (0, "") == (ended.code, ended.err)
    assert "Usage: pycolo" in ended.out


def test_the_version_is_the_packages(pycolo: Pycolo) -> None:
    """--version ends with 0."""
    assert 0 == pycolo("--version").code


def test_the_package_runs_as_a_program(pair_file: Path) -> None:
    """`python -m pycolo` is the command line."""
    argv = [sys.executable, "-m", "pycolo", "plan", "start", str(pair_file)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("start: pair colo on alpha and beta\n")

"""Golden plans, found by directory: each is compiled again from what its file holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.compiler.cases import CASES, GOLDEN, PAIRS, VERSIONS, as_text, compiled, golden_plans

from pycolo.compiler import check_compiled, compile_plan
from pycolo.plan import Execute
from pycolo.qmp.schema import Schema
from pycolo.wire import plan_from_json

FILES = sorted(p for p in GOLDEN.glob("*/*.json") if p.parent.name != "document")
IDS = [f"{path.parent.name}/{path.stem}" for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_a_plan_is_what_its_own_declaration_and_origin_compile_to(path: Path) -> None:
    """A golden plan, read and compiled again from its pair and prior state, is the same plan."""
    plan = plan_from_json(json.loads(path.read_text()))

    again = compile_plan(plan.procedure, plan.pair, plan.prior_state, plan.options)
    assert as_text(plan) == as_text(again)
    check_compiled(plan)


def test_every_case_has_its_file() -> None:
    """Every case of every version lies in the golden folder, and nothing else does."""
    assert sorted(name for name, _ in golden_plans()) == sorted(f"{name}.json" for name in IDS)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("case", CASES)
def test_every_command_is_one_that_its_qemu_accepts(case: str, pair: str, version: str) -> None:
    """Each command of each plan passes the schema of the very QEMU it is compiled for."""
    schema = Schema.packaged(version)  # type: ignore[arg-type]  # the versions are the packaged ones
    plan = compiled(CASES[case], PAIRS[pair], version)
    steps = [s for s in plan.steps if isinstance(s, Execute)]
    steps += [s for recovery in plan.recoveries for s in recovery.steps]
    yanks = [yank for s in steps for yank in s.rescue]
    problems = [
        *(p for s in steps for p in schema.check(s.command, oob=s.oob)),
        *(p for yank in yanks for p in schema.check(yank, oob=True)),
    ]

    assert [] == problems
    assert case.startswith("launch") or steps

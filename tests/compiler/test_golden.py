"""Golden plans: what each case compiles to, and that each plan is compiled again alike."""

from __future__ import annotations

import pytest
from tests.compiler.cases import (
    CASES,
    EVERY_PAIR,
    GOLDEN,
    OVER_TLS,
    VERSIONS,
    as_text,
    commands_of,
    compiled,
    golden_plans,
    golden_text,
)

from pycolo.compiler import check_compiled, compile_plan
from pycolo.qmp.schema import Schema
from pycolo.wire import loads, plan_from_json

PLANS = {f"{name}, {variant}": plan for name, variant, plan in golden_plans()}


@pytest.mark.parametrize("name", [*CASES, *OVER_TLS])
def test_a_case_compiles_to_its_golden_file(name: str) -> None:
    """What is done, in order, for each version, and the two states, are what its file holds."""
    assert (GOLDEN / f"{name}.txt").read_text() == golden_text(name)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_what_its_own_declaration_and_prior_state_compile_to(name: str) -> None:
    """A plan, read from its text and compiled again from what it holds, is the same plan."""
    plan = plan_from_json(loads(as_text(PLANS[name])))

    again = compile_plan(plan.procedure, plan.pair, plan.prior_state, plan.options)
    assert as_text(plan) == as_text(again)
    check_compiled(plan)


def test_every_case_has_its_file() -> None:
    """Every case lies in the golden folder, and nothing else does."""
    files = (p for p in GOLDEN.glob("*/*") if p.parent.name != "document")
    expected = [f"{name}.txt" for name in (*CASES, *OVER_TLS)]
    assert sorted(expected) == sorted(str(path.relative_to(GOLDEN)) for path in files)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pair", EVERY_PAIR)
@pytest.mark.parametrize("case", CASES)
def test_every_command_is_one_that_its_qemu_accepts(case: str, pair: str, version: str) -> None:
    """Each command of each plan passes the schema of the very QEMU it is compiled for."""
    schema = Schema.packaged(version)  # type: ignore[arg-type]  # the versions are the packaged ones
    commands = list(commands_of(compiled(CASES[case], EVERY_PAIR[pair], version)))

    assert commands
    assert [] == [p for command, oob in commands for p in schema.check(command, oob=oob)]

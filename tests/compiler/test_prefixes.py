"""A procedure that stopped after any step is finished by compiling again."""

from __future__ import annotations

import pytest
from tests.compiler.cases import CASES, PAIRS, VERSIONS, compiled, settled

from pycolo import effects
from pycolo.compiler import compile_plan
from pycolo.errors import CompileError
from pycolo.model import tls
from pycolo.plan import Check, Execute, Plan

# What is left of a shutdown is decided by a person: see the last test.
RESUMABLE = [name for name in CASES if not name.startswith(("launch", "set-", "shutdown"))]


def _again(plan: Plan, done: int) -> Plan:
    snapshot = effects.fold(plan.pair, plan.qemu, plan.prior_state, plan.steps[:done])
    return compile_plan(plan.procedure, plan.pair, snapshot, plan.options)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("case", RESUMABLE)
def test_continuing_after_any_step_keeps_the_promise(case: str, pair: str, version: str) -> None:
    """For every k, the plan compiled from the fold of the first k steps plans the same state."""
    plan = compiled(CASES[case], PAIRS[pair], version)

    for done in range(len(plan.steps) + 1):
        assert settled(plan) == settled(_again(plan, done)), f"after {done} steps"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("case", RESUMABLE)
def test_nothing_is_done_twice(case: str, pair: str, version: str) -> None:
    """Finished after any step, a procedure sends none again but yanks, proofs and quit.

    An NBD node that nothing was copied over is made anew, too: nobody knows for which secondary it
    was made. So are credentials that nothing uses yet: nobody knows when their files were read.
    """
    survivor = CASES[case][1]
    plan = compiled(CASES[case], PAIRS[pair], version)
    repeatable = ("yank", "migrate-set-parameters", "x-colo-lost-heartbeat", "quit", "blockdev-add")

    for done in range(len(plan.steps) + 1):
        sent = {s.address for s in plan.steps[:done] if isinstance(s, Execute)}
        again = {s.address for s in _again(plan, done).steps if isinstance(s, Execute)}
        twice = {a for a in sent & again if a.split("/")[1] not in repeatable}
        twice -= {f"{survivor}/object-{verb}/{item}" for verb in ("add", "del") for item in tls.IDS}
        assert set() == twice, f"after {done} steps"


@pytest.mark.parametrize("case", RESUMABLE)
def test_a_finished_procedure_compiles_to_no_command(case: str) -> None:
    """From its own planned state a procedure has nothing left to send, but for another proof."""
    plan = compiled(CASES[case], PAIRS["one"], "11.1.3")

    left = _again(plan, len(plan.steps)).steps
    if plan.procedure == "checkpoint":
        assert left == plan.steps
        return
    assert [] == [step.address for step in left if not isinstance(step, Check)]


@pytest.mark.parametrize("pair", PAIRS)
def test_a_shutdown_is_not_finished_where_only_a_secondary_is_left(pair: str) -> None:
    """Its guest may live on in it; before and after that the same state is planned again."""
    plan = compiled(CASES["shutdown/protected"], PAIRS[pair], "11.1.3")
    refused: dict[str, str] = {}

    for done in range(len(plan.steps) + 1):
        try:
            assert settled(plan) == settled(_again(plan, done)), f"after {done} steps"
        except CompileError as error:
            refused[plan.steps[done].address] = error.findings[0].code

    assert dict.fromkeys(("beta/quit", "beta/wait/gone"), "primary-missing") == refused

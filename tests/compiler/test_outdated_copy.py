"""A copy of a disk that ended is complete only as long as the guest has not run since."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pytest
from tests.compiler.cases import CASES, PAIRS, VERSIONS, compiled, settled

from pycolo.compiler import compile_plan
from pycolo.effects import fold
from pycolo.plan import Execute, Plan, Wait
from pycolo.qmp import commands as qmp
from pycolo.snapshot import Job, Snapshot


def _after_the_copy(plan: Plan, *, run_state: str, status: str) -> Snapshot:
    """How it looks behind the end of the copy, with the guest and the job as given."""
    ends = [
        isinstance(s, Execute) and isinstance(s.command, qmp.BlockJobCancel) for s in plan.steps
    ]
    steps = plan.steps[: ends.index(True) + 1]
    snapshot = fold(plan.pair, plan.qemu, plan.prior_state, steps)
    live = snapshot.live("alpha")
    assert live is not None
    jobs: Mapping[str, Job] = {job: Job(status=status) for job in live.jobs}
    return snapshot.with_node("alpha", attrs.evolve(live, run_state=run_state, jobs=jobs))


def _sent(plan: Plan) -> list[str]:
    kinds = (qmp.JobDismiss, qmp.BlockdevMirror, qmp.XBlockdevChange)
    found = [s.command for s in plan.steps if isinstance(s, Execute)]
    return [command.qmp_name for command in found if isinstance(command, kinds)]


@pytest.mark.parametrize("status", ["concluded", "waiting"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_guest_that_ran_on_is_copied_again(version: str, status: str) -> None:
    """What it wrote since the copy ended would be missing on the secondary."""
    plan = compiled(CASES["resume/on-the-primary"], PAIRS["one"], version)
    snapshot = _after_the_copy(plan, run_state="running", status=status)

    again = compile_plan(plan.procedure, plan.pair, snapshot)

    assert ["job-dismiss", "blockdev-mirror", "x-blockdev-change", "job-dismiss"] == _sent(again)
    waits = [step.address for step in again.steps if isinstance(step, Wait)]
    first = "alpha/wait/mirrored" if status == "concluded" else "alpha/wait/mirror-ended"
    assert first == waits[0]
    assert settled(plan) == settled(again)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_guest_that_stands_is_not_copied_again(version: str) -> None:
    """While it stands, nothing is written: the copy that ended is complete."""
    plan = compiled(CASES["resume/on-the-primary"], PAIRS["one"], version)
    snapshot = _after_the_copy(plan, run_state="paused", status="concluded")

    again = compile_plan(plan.procedure, plan.pair, snapshot)

    assert ["x-blockdev-change", "job-dismiss"] == _sent(again)

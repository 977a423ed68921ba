"""Lines to paste into monitors."""

from __future__ import annotations

import json
from collections.abc import Callable

from pycolo.conditions import JobFailed
from pycolo.plan import Check, Execute, Plan
from pycolo.qmp.commands import Cont
from pycolo.render import qmp

MakePlan = Callable[..., Plan]


def test_every_line_is_json_or_a_comment(plan: Plan) -> None:
    """A monitor takes every line that is no comment."""
    lines = [line for line in qmp.render(plan).splitlines() if line and line[0] != "#"]
    assert ["execute", "exec-oob", "execute"] == [next(iter(json.loads(line))) for line in lines]


def test_out_of_band_is_asked_for_only_where_it_is_used(make_plan: MakePlan) -> None:
    """A node without out-of-band commands opens its monitor plainly."""
    step = Execute(address="a", node="alpha", command=Cont(), why="so\n{\n", limit_s=1)
    assert [
        "# node alpha",
        '{"execute": "qmp_capabilities"}',
        '{"execute": "cont"}',
    ] == qmp.render(make_plan(step)).splitlines()[-3:]


def test_an_empty_plan_says_so(make_plan: MakePlan) -> None:
    """Nothing to paste is a comment."""
    assert "# failover of pair colo\n# nothing to do\n" == qmp.render(make_plan())


def test_no_text_of_a_plan_becomes_a_line_for_the_monitor(make_plan: MakePlan) -> None:
    """Line ends in names and reasons stay inside their comments."""
    check = Check(
        address="a",
        node="alpha",
        condition=JobFailed(node="alpha", job='x\n{"execute": "quit"}'),
        why="so",
    )
    assert (
        '# require that alpha\'s job x {"execute": "quit"} has failed or is gone'
        == (qmp.render(make_plan(check)).splitlines()[-1])
    )

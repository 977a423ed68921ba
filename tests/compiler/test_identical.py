"""`initial_sync = "identical"`: an operator's word about the images, accepted once."""

from __future__ import annotations

import attrs
from tests.compiler.cases import CASES, compiled, one_of_each

from pycolo.compiler import launch, start
from pycolo.plan import CreateImage, Execute, Plan, RunHost
from pycolo.qmp.commands import BlockdevMirror
from pycolo.qmp.replies import Version

PAIR = attrs.evolve(one_of_each(), initial_sync="identical")
QEMU = Version.parse("11.1.3")


def made(plan: Plan) -> list[str]:
    """The images that a plan makes."""
    actions = [step.action for step in plan.steps if isinstance(step, RunHost)]
    return [a.path.rpartition("/")[2] for a in actions if isinstance(a, CreateImage)]


def copied(plan: Plan) -> list[str]:
    """The disks that a plan copies."""
    commands = [step.command for step in plan.steps if isinstance(step, Execute)]
    return [c.device for c in commands if isinstance(c, BlockdevMirror)]


def test_a_new_pair_copies_nothing_and_makes_no_image_to_be_taken_for_equal() -> None:
    """The secondary's image is the operator's: an empty one in its place would be accepted."""
    assert ["secondary-active.qcow2", "secondary-hidden.qcow2"] == made(
        compiled(CASES["launch/both"], PAIR, "11.1.3")
    )
    assert [] == copied(compiled(CASES["start/first"], PAIR, "11.1.3"))


def test_a_pair_that_has_lived_is_copied() -> None:
    """After a failover the word is about the past: the survivor's disk has moved on."""
    after = compiled(CASES["failover/primary-survives"], PAIR, "11.1.3").planned_state
    again = launch(PAIR, after, qemu={"beta": QEMU}, nodes=("beta",))
    assert "primary.qcow2" in made(again)
    assert ["colo-disk0"] == copied(compiled(CASES["resume/on-the-primary"], PAIR, "11.1.3"))


def test_a_guest_that_has_run_is_copied() -> None:
    """In its first epoch too, once its primary was started by hand."""
    launched = compiled(CASES["launch/both"], PAIR, "11.1.3").planned_state
    primary = launched.live("alpha")
    assert primary is not None
    ran = launched.with_node("alpha", attrs.evolve(primary, run_state="running"))
    assert ["colo-disk0"] == copied(start(PAIR, ran))

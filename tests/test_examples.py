"""The scripts in examples/, run as a reader would run them."""

import asyncio
import doctest
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from examples.keep_protected import fakes, keep

from pycolo import Evidence
from pycolo.controller import PairController
from pycolo.reconcile import Prove
from pycolo.testing import World

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
DOCUMENT = str(EXAMPLES / "qemu-doc.toml")


def run(script: str, *arguments: str) -> str:
    """What a script prints; it must end well and complain of nothing."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_without_arguments_shows_what_it_does(script: str) -> None:
    """Each example prints something, and harms nobody, when it is just started."""
    assert run(script).strip()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_how_it_is_called(script: str) -> None:
    """Each example begins with what it is and its command line."""
    text = (EXAMPLES / script).read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert f"    python examples/{script}" in text


def test_a_plan_of_any_procedure_is_printed() -> None:
    """The first example takes a pair file and a procedure."""
    assert run("print_plan.py", DOCUMENT, "stop").startswith("stop: pair colo on primary")


def test_equal_declarations_have_equal_plans() -> None:
    """A pair compared with itself has no difference; with another it has."""
    assert "the plans are equal\n" == run("compare_plans.py", DOCUMENT, DOCUMENT)
    other = run("compare_plans.py", DOCUMENT, str(EXAMPLES / "pair.toml"))
    assert "+ alpha/migrate" in other


def test_nobody_fails_over_to_a_node_that_is_not_there() -> None:
    """A survivor that cannot be asked is none, whoever was fenced."""
    said = run("fail_over.py", str(EXAMPLES / "pair.toml"), "beta", "me", "power off")
    assert said.startswith("no connection to beta")


def test_nodes_that_are_not_there_are_unreachable() -> None:
    """Reading pairs from threads ends; on this machine no QEMU is known, elsewhere nobody asked."""
    said = run("threads.py", DOCUMENT, str(EXAMPLES / "pair.toml"))
    assert [[DOCUMENT, "stopped"], [str(EXAMPLES / "pair.toml"), "unknown"]] == [
        line.split(": ")[:2] for line in said.splitlines()
    ]


def test_the_readme_shows_a_real_plan() -> None:
    """What the README says that `pycolo plan` prints is what the example prints."""
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    _, _, behind = readme.partition("    $ pycolo plan failover examples/pair.toml\n")
    shown = textwrap.dedent(behind.partition("\n\n`pycolo run")[0]) + "\n"
    printed = run("print_plan.py", str(EXAMPLES / "pair.toml"), "failover")
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(shown, printed, flags), printed


def test_a_program_that_embeds_a_supervisor_hears_what_it_does() -> None:
    """It fails over, protects the guest again, moves it when asked, and ends it when told to."""
    printed = run("supervised.py")
    marks = ("shop-db: execution: failover is done", "as asked: switch-over is done")
    assert [1, 1] == [printed.count(mark) for mark in marks]
    assert printed.endswith("shop-db/alpha: state: stopped: its QEMU does not run\n")


def test_agents_agree_by_the_arbiter_of_a_controller() -> None:
    """After a death the controller's own database says who has the newest data, and why."""
    record = json.loads(run("own_arbiter.py").splitlines()[-1].partition(": ")[2])["record"]
    assert ("beta", "protected", 2) == (record["holder"], record["phase"], record["epoch"])
    assert ("exit", "alpha") == (record["evidence"]["kind"], record["evidence"]["node"])


@pytest.mark.parametrize(("frozen_s", "fenced"), [(15.0, []), (600.0, ["alpha"])])
def test_only_a_death_that_stays_unproven_is_fenced(frozen_s: float, fenced: list[str]) -> None:
    """A QEMU that does not answer for a moment is left alone; one that never does is fenced."""
    asked: list[str] = []
    pair, world = fakes(), World("11.1.3")
    world.install(pair, "alpha")

    async def fence(step: Prove) -> Evidence | None:
        asked.append(step.node)
        world.qemu(step.node).kill()
        assert step.plan is not None
        (victim,) = step.plan.victims()
        return Evidence.of(victim, kind="fence", who="the test", how="kill", when="now")

    async def played() -> None:
        async with PairController(pair, world.hosts(pair)) as controller:
            keeping = asyncio.get_running_loop().create_task(keep(controller, fence))
            await asyncio.sleep(60.0)  # of the world's clock
            alpha = world.qemu("alpha")
            alpha.freeze()
            controller.want("protected")
            await asyncio.sleep(frozen_s)  # of the world's clock
            alpha.thaw()
            await asyncio.sleep(60.0)  # of the world's clock
            keeping.cancel()
            assert controller.standing is not None
            assert "protected" == controller.standing.state

    world.run(played())
    assert fenced == asked

"""Fences, as programs that really run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from json import dumps
from pathlib import Path

import attrs
import pytest
from tests.testing.test_supervisor import Watched, kept
from tests.testing.testbed import FakePair, declared

from pycolo.errors import DeclarationError
from pycolo.evidence import Evidence, Victim
from pycolo.helper.far import has_ended
from pycolo.model import ColoPair, Fence
from pycolo.supervise import CommandFence, Store
from pycolo.supervise.fences import fenced
from pycolo.supervise.http._health import pairs_to_json
from pycolo.supervise.http._metrics import exposition
from pycolo.supervise.http._page import page
from pycolo.testing import World
from pycolo.wire import report_to_json

VICTIM = Victim(node="alpha", instance="colo:alpha:00000001", epoch=7)
# It outlives its limit.
HANGING = Fence(command=(sys.executable, "-c", "import time; time.sleep(60)"), limit_s=0.5)


async def tried(fences: Sequence[Fence], tell: Callable[[str], None] = print) -> Evidence | None:
    """Run the fences of a pair file."""
    return await fenced([CommandFence(one) for one in fences], declared(), VICTIM, tell)


async def test_the_first_fence_that_succeeds_is_the_evidence() -> None:
    """They are tried in their order: a controller may have died with its host (CloudStack)."""
    told: list[str] = []
    fences = (
        Fence(command=("/nowhere/fence",)),
        Fence(command=("sh", "-c", "echo no route to the controller; exit 3")),
        HANGING,
        Fence(command=("true",)),
        Fence(command=("sh", "-c", "exit 9")),
    )
    evidence = await tried(fences, told.append)
    assert evidence is not None
    assert ("fence", "true", VICTIM.instance) == (evidence.kind, evidence.who, evidence.instance)
    assert evidence.proves(VICTIM)
    assert 3 == len(told)
    assert "No such file" in told[0]
    assert "exit code 3: no route to the controller" in told[1]
    assert "did not end within 0.5 s" in told[2]


async def test_no_fence_is_no_evidence() -> None:
    """Nor are fences that all fail: a person is needed (CloudStack's trap)."""
    assert None is await tried(())
    assert None is await tried((Fence(command=("false",)),))


async def test_a_fence_reads_its_options_from_a_file(tmp_path: Path) -> None:
    """As an agent of fence-agents takes its password; nothing goes through a shell."""
    options, copy = tmp_path / "options", tmp_path / "$(copy)"
    options.write_text("password=secret\n")
    copying = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
    fence = Fence(command=(sys.executable, "-c", copying, str(copy)), input_file=str(options))
    assert await tried((fence,)) is not None
    assert "password=secret\n" == copy.read_text()


async def test_an_interrupted_fence_is_killed(tmp_path: Path) -> None:
    """What ends the supervisor leaves no fence behind that would act later, nor what it started."""
    started = tmp_path / "started"
    inner = f"sh -c 'echo $$ >>{started}; exec sleep 60' &"
    script = f"echo $$ >>{started}; {inner} wait"
    task = asyncio.create_task(tried((Fence(command=("sh", "-c", script)),)))
    async with asyncio.timeout(10):
        while len(_numbers(started)) < 2:  # noqa: ASYNC110 - the processes announce it by that alone
            await asyncio.sleep(0.01)  # nothing else announces it
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        while not all(map(has_ended, _numbers(started))):  # noqa: ASYNC110 - they are not ours to wait for
            await asyncio.sleep(0.01)  # nothing else announces it


def _numbers(started: Path) -> list[int]:
    return [int(line) for line in started.read_text().split()] if started.exists() else []


INPUT = """\
# The controller of alpha, as of the inventory
action=off
ip=bmc.example
username=admin
passwrd=hunter2 and more
password="p"
ssl_insecure=1
a token without a name: 7e1c
"""


async def test_output_of_a_fence_holds_nothing_secret_of_its_input(tmp_path: Path) -> None:
    """An agent repeats an option that it does not know; what it says is told to everybody."""
    options = tmp_path / "options"
    options.write_text(INPUT)
    script = "cat; echo; echo admin of bmc.example: hunter2 and more, p, 1, 7e1c; exit 1"
    told: list[str] = []
    await tried((Fence(command=("sh", "-c", script), input_file=str(options)),), told.append)
    (text,) = told
    for secret in ("hunter2", '"p"', "7e1c", "inventory"):
        assert secret not in text
    said = "admin of bmc.example: ***, ***, 1, ***"
    for line in ("action=off", "ip=bmc.example", "passwrd=***", said):
        assert line in text


def test_a_fence_names_a_program() -> None:
    """An empty command would do nothing, with success."""
    with pytest.raises(DeclarationError, match="name a program"):
        Fence(command=())
    with pytest.raises(DeclarationError, match="command"):
        Fence(command=("fence", ""))


def _with_fences(pair: ColoPair, *fences: Fence) -> ColoPair:
    first, second = pair.nodes
    return attrs.evolve(pair, nodes=(attrs.evolve(first, fences=fences), second))


def _shown(watched: Watched) -> str:
    """Everything that a supervisor shows of its pair: events, reports, pages and metrics."""
    statuses, measures = watched.supervisor.statuses, watched.supervisor.measures
    reports = [event.report for event in watched.events if event.report is not None]
    texts = [event.text for event in watched.events]
    texts += [dumps(report_to_json(report)) for report in reports]
    texts += [dumps(pairs_to_json(statuses)), page(statuses, "now")]
    return "\n".join([*texts, exposition(statuses, measures).decode()])


async def test_a_host_out_of_reach_is_fenced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its fences are run, then the secondary continues; no password is shown anywhere."""
    caplog.set_level("DEBUG")
    options = tmp_path / "options"
    options.write_text("password=hunter2\n")
    marker = tmp_path / "fenced"
    world = World("11.1.3")
    failing = Fence(command=("sh", "-c", "cat; exit 1"), input_file=str(options))
    pair = _with_fences(declared(), failing, Fence(command=("touch", str(marker))))
    life = FakePair(world, pair)
    time_passes = asyncio.create_task(world.autorun())
    try:
        with Store(tmp_path / "store") as store:
            async with asyncio.timeout(50), kept(life, store) as watched:
                await watched.until("protected")
                world.host("alpha").away = True
                world.qemu("alpha").kill()
                await watched.until("failover is done")
                assert marker.exists()
                (serving,) = world.serving
                assert "beta" == serving.node.name
                shown = _shown(watched)
                assert "failed: it ended with exit code 1: password=***" in shown
                files = [*life.world.host("beta").files.values()]
                assert "hunter2" not in f"{shown}\n{caplog.text}\n{files}"
    finally:
        time_passes.cancel()
        await life.aclose()

"""QEMUs that run and do not answer: nobody's word ends their rights, on real QEMU."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import pytest
from tests import operating
from tests.operating import Compile
from tests.qemu.life import LIMIT_S, ON_RELEASES, Accelerator, LivePair, bios_life

from pycolo import operate
from pycolo.demo.builds import Release
from pycolo.errors import CompileError
from pycolo.operate import Fenced
from pycolo.session import Session
from pycolo.standing import standing

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(180)]
WORD = Fenced(who="alice", how="power off")
How = Literal["held", "stopped", "sockets removed"]


def _records(life: LivePair) -> dict[str, bytes]:
    names = [node.name for node in (*life.pair.nodes, *life.pair.spares)]
    paths = [Path(life.pair.record_path(name)) for name in names]
    return {str(path): path.read_bytes() for path in paths if path.exists()}


def _instance(life: LivePair, name: str) -> str:
    running = life.watch(name)
    running.close()
    return running.instance


async def _hide(life: LivePair, stack: AsyncExitStack, how: How, *names: str) -> None:
    """Have these QEMUs give no answer on their control monitors until the stack is left."""
    for name in names:
        node = life.pair.node(name)
        if how == "held":
            held = await Session.connect(name, node.control_monitor, limit_s=LIMIT_S)
            await stack.enter_async_context(held)
        elif how == "stopped":
            life.signal(name, signal.SIGSTOP)
            stack.callback(life.signal, name, signal.SIGCONT)
        else:
            for path in (node.run_path("control.qmp"), node.run_path("observer.qmp")):
                Path(path).rename(f"{path}.hidden")  # noqa: ASYNC240 - it does not wait
                stack.callback(Path(f"{path}.hidden").rename, path)


async def _refused(life: LivePair, compile_: Compile) -> str:
    """A procedure ends with nothing changed; gives why."""
    try:
        report = await operating.run(life.pair, compile_)
    except CompileError as error:
        return str(error)
    assert report.failed is not None
    assert not report.changed, report.advice
    return report.advice


@ON_RELEASES
@pytest.mark.parametrize("how", ["held", "stopped", "sockets removed"])
async def test_pair_that_runs_unseen_is_left_alone(
    release: Release, accelerator: Accelerator, how: How
) -> None:
    """No launch, no word and no forgetting touches a pair whose QEMUs run; then it fails over."""
    async with bios_life(release, accelerator) as life:
        await life.launch("alpha", "beta")
        await life.run("start")
        for name in tuple(life.sessions):
            await life.sessions.pop(name).aclose()
        before, names = _records(life), ("alpha", "beta")
        instances = {name: _instance(life, name) for name in names}
        async with AsyncExitStack() as stack:
            await _hide(life, stack, how, *names)
            told = await _refused(life, operating.launch)
            assert instances["alpha"] in told
            assert instances["alpha"] in await _refused(life, operating.newest("beta"))
            if how != "held":
                assert "unknown" == standing(await operate.status(life.pair)).state
        async with AsyncExitStack() as stack:
            await _hide(life, stack, how, "alpha")
            told = await _refused(life, operating.survives("beta", WORD))
            assert instances["alpha"] in told
        async with AsyncExitStack() as stack:
            await _hide(life, stack, how, "beta")
            told = await _refused(life, operating.forgets("beta", WORD))
            assert instances["beta"] in told
        assert before == _records(life)
        await life.kill("alpha")
        assert 0 == (await operating.run(life.pair, operating.survives("beta"))).exit_code
        await life.keeps_running("beta")


@ON_RELEASES
async def test_secondary_is_not_launched_before_the_failover(
    release: Release, accelerator: Accelerator
) -> None:
    """It would cling to what the failover takes away; launched afterwards it protects the guest."""
    async with bios_life(release, accelerator) as life:
        await life.launch("alpha", "beta")
        await life.run("start")
        await life.kill("beta")
        with pytest.raises(CompileError, match="alpha is still in COLO, and beta would connect"):
            await life.compile_launch("beta")
        await life.run("failover", survivor="alpha")
        await life.launch("beta")
        await life.run("resume")
        await life.keeps_running("alpha", "beta")

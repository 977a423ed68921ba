"""QEMU's document, run to its end where QEMU accepts it, and refused where it does not.

What is put in the place of the document's own: the monitor's address instead of stdio, a hubport
instead of a tap, ports, no display and a serial log (qemu-behaviour 18.2).
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import pytest
from tests.qemu.life import HAS_KVM, LivePair, bios_life

from pycolo import errors
from pycolo._execute import execute
from pycolo.demo.builds import Release
from pycolo.features import refuse_document
from pycolo.model import ColoPair, Node, UnixMonitor
from pycolo.model.filters import ChainPorts
from pycolo.plan import Execute, LaunchQemu, RunHost

pytestmark = pytest.mark.qemu
LOOP_PORTS_FROM = 20000


def _as_the_document_has_it(pair: ColoPair) -> ColoPair:
    # Compare's loops are on 127.0.0.1 there, whichever pair's: each test takes ports of its own.
    block = int(pair.nodes[0].address.split(".")[2])
    free = LOOP_PORTS_FROM + 2 * block
    ports = attrs.evolve(ChainPorts.numbered(0), compare_local=free, compare_out=free + 1)
    chain = attrs.evolve(pair.chains[0], ports=ports)
    machine = attrs.evolve(pair.machine, arguments=("-display", "none"))
    first, second, *spares = (_monitored(node) for node in (*pair.nodes, *pair.spares))
    return attrs.evolve(
        pair, nodes=(first, second), spares=spares, machine=machine, chains=(chain,)
    )


def _monitored(node: Node) -> Node:
    return attrs.evolve(node, control=UnixMonitor(path=f"{node.run_dir}/control.qmp"))


@asynccontextmanager
async def _document_life(release: Release) -> AsyncGenerator[LivePair]:
    async with bios_life(release, "kvm", shape=_as_the_document_has_it) as life:
        yield life


async def _launch(life: LivePair, *names: str) -> None:
    """Copy the image by hand, as the document has it done, then start the QEMUs in turn.

    The primary greets nobody until the secondary connects (qemu-behaviour 3.1), so it is last.
    """
    for name in names:
        if not life.image(name).exists():
            shutil.copy(life.image("alpha"), life.image(name))
    await life.execute(await life.compile_launch(*names, dialect="doc"))
    for name in names:
        await life.connect(name)


@pytest.mark.heavy
@pytest.mark.timeout(180)
@pytest.mark.skipif(not HAS_KVM, reason="the document's plans run with KVM alone")
async def test_the_document_runs_to_its_end_on_10_0() -> None:
    """Start, delay, either failover, either resume: each of the document's seven procedures."""
    async with _document_life("10.0") as life:
        refuse_document(life.pair, life.version)
        await _launch(life, "beta", "alpha")
        await life.run("start", dialect="doc")
        await life.run("set-checkpoint-delay", checkpoint_delay_ms=900, dialect="doc")
        await life.keeps_running("alpha", "beta")
        await _dies(life, "beta", "alpha")
        await _joins(life, "beta", "gamma")
        await _dies(life, "alpha", "gamma")
        await _joins(life, "alpha", "delta")
        await _dies(life, "delta", "gamma")


async def _dies(life: LivePair, victim: str, survivor: str) -> None:
    await life.keeps_running(victim, survivor)
    await life.kill(victim)
    await life.run("failover", survivor=survivor, dialect="doc")
    await life.image_follows(survivor)
    live = await life.live(survivor)
    left = {name: item.qom_type for name, item in live.objects.items()}
    assert set(left.values()) <= {"filter-rewriter"}
    assert life.pair.disks[0].names.primary_replication not in live.block_nodes


async def _joins(life: LivePair, dead: str, spare: str) -> None:
    life.pair = life.pair.replacing(dead, life.pair.node(spare))
    await _launch(life, spare)
    await life.run("resume", dialect="doc")


@pytest.mark.parametrize(("release", "word"), [("7.2", "reconnect-ms"), ("11.1", "capabilities")])
async def test_elsewhere_the_document_is_refused(release: Release, word: str) -> None:
    """Its plans compile, and are refused before anything runs, naming what QEMU would not take."""
    async with _document_life(release) as life:
        with pytest.raises(errors.VersionError, match=word):
            refuse_document(life.pair, life.version)
        report = await execute(await life.compile_launch("beta", dialect="doc"), {}, life.hosts)
        assert ("beta/check/not-running", False) == (report.failed, report.changed)
        assert word in report.advice


async def test_7_2_does_not_start_from_the_document_s_command_line() -> None:
    """The refusal tells the truth: that QEMU ends at once (qemu-behaviour 3.5, 18.2)."""
    async with _document_life("7.2") as life:
        # The machine is not reached; without KVM the line would be refused for that.
        machine = attrs.evolve(life.pair.machine, accelerator="tcg", cpu=None)
        life.pair = attrs.evolve(life.pair, machine=machine)
        for step in (await life.compile_launch("beta", dialect="doc")).steps:
            if isinstance(step, RunHost) and isinstance(step.action, LaunchQemu):
                with pytest.raises(errors.HostRefused, match="Invalid parameter 'reconnect-ms'"):
                    await life.host.run(life.pair, "beta", step.action, limit_s=10)


async def test_11_1_refuses_the_document_s_capabilities() -> None:
    """The refusal tells the truth: x-colo is not taken without return-path (2.6, 18.2)."""
    async with bios_life("11.1", "tcg") as life:
        await life.launch("alpha", "beta")
        steps = (await life.compile("start", dialect="doc")).steps
        first = next(step for step in steps if isinstance(step, Execute))
        with pytest.raises(errors.CommandRefused, match="requires capability 'return-path'"):
            await life.sessions["beta"].execute(first.command, limit_s=10)

"""Compiled from states that nobody planned: what hands and accidents leave behind.

Either a plan comes, which leads to what was asked for and leaves nothing to send after it, or the
refusal names what is there and what a person can do about it.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
from typing import Final, Literal, TypeAlias

import attrs
import pytest
from tests.qemu.aftermath import renew
from tests.qemu.life import (
    CHECKPOINTING,
    LIMIT_S,
    NEEDS_KVM,
    LivePair,
    accelerator_of,
    bios_life,
    commands,
)

from pycolo import features, wire
from pycolo._execute import execute
from pycolo.compiler import converge, drift, launch_argv
from pycolo.compiler.launch import Role
from pycolo.demo.builds import Release
from pycolo.errors import CompileError
from pycolo.evidence import instance_of
from pycolo.model import ColoPair, Netdev
from pycolo.plan import LaunchQemu, Plan, Procedure
from pycolo.qmp import commands as qmp
from pycolo.qmp.blockdevs import FileNode, RawNode
from pycolo.qmp.events import ResumeEvent, StopEvent
from pycolo.result import Refused, Report
from pycolo.session import Notice
from pycolo.snapshot import Live

pytestmark = [pytest.mark.qemu, pytest.mark.heavy, pytest.mark.timeout(240)]
FILTERS: Final = ("m0", "redire0", "redire1")
QUORUM: Final = "colo-disk0"
ENOUGH: Final = 5
BEGINNING_OR_ENDING: Final[tuple[Procedure, ...]] = ("start", "resume", "stop")
Moment: TypeAlias = Literal["unprotected", "protected"]


def _with_filters_listed(pair: ColoPair) -> ColoPair:
    """QEMU lists the filters of a card whose other end is not a hub."""
    chains = tuple(attrs.evolve(chain, netdev=Netdev(type="user")) for chain in pair.chains)
    return attrs.evolve(pair, chains=chains)


async def _order(life: LivePair, name: str) -> tuple[str, ...]:
    """The filters of a node's card, first to last, as QEMU lists them."""
    command = qmp.HumanMonitorCommand(command_line="info network")
    told = await life.sessions[name].execute(command, limit_s=LIMIT_S)
    return tuple(re.findall(r"- (\w+): type=filter-", told))


async def _delete(life: LivePair, name: str, *objects: str) -> None:
    for item in objects:
        await life.sessions[name].execute(qmp.ObjectDel(id=item), limit_s=LIMIT_S)


async def _protected(life: LivePair) -> None:
    await life.launch("alpha", "beta")
    await life.run("start")


async def _launched(life: LivePair, moment: Moment) -> None:
    await life.launch("alpha", "beta")
    await life.cont("alpha")
    if moment == "protected":
        await life.run("start")


async def _do_until(life: LivePair, plan: Plan, last: str) -> None:
    """Do a plan's steps up to one, as a controller does that dies there."""
    done = [step.address for step in plan.steps].index(last) + 1
    await life.execute(
        attrs.evolve(plan, steps=plan.steps[:done], recoveries=(), restored_after=None)
    )


async def _finished(life: LivePair, procedure: Procedure) -> Plan:
    """Run a procedure, and see that nothing is left of it and that the pair is as declared."""
    plan = await life.run(procedure)
    assert [] == commands(await life.compile(procedure))
    assert not drift(life.pair, await life.probe())
    await life.keeps_running(*(node.name for node in life.pair.nodes))
    return plan


async def _converged(life: LivePair) -> Plan:
    plan = converge(life.pair, await life.probe())
    await life.execute(plan)
    assert not drift(life.pair, await life.probe())
    return plan


async def _old(life: LivePair, plan: Plan) -> Report:
    """Execute a plan as it comes back from a file."""
    saved = wire.plan_from_json(json.loads(wire.dumps(wire.plan_to_json(plan))))
    return await execute(saved, life.sessions, life.hosts)


def _reason(report: Report) -> str:
    outcome = report.outcomes[str(report.failed)]
    assert isinstance(outcome, Refused), outcome
    return outcome.reason


# -- filters


@pytest.mark.parametrize(
    ("release", "gone"),
    [
        ("11.1", ("m0", "comp0")),
        ("11.1", ("redire1", "comp0", "iothread1")),
        ("11.1", ("comp0", "redire0")),
        pytest.param("10.0", ("comp0", "redire0"), marks=[NEEDS_KVM, pytest.mark.nightly]),
        pytest.param("7.2", ("comp0", "redire0"), marks=[NEEDS_KVM, pytest.mark.nightly]),
    ],
)
async def test_filters_that_went_in_a_prepared_start_come_back_in_order(
    release: Release, gone: tuple[str, ...]
) -> None:
    """Some are taken away by hand: they are made again, and each stands where it belongs."""
    async with bios_life(release, accelerator_of(release), shape=_with_filters_listed) as life:
        await _launched(life, "unprotected")
        await _do_until(life, await life.compile("start"), "alpha/object-add/comp0")
        await _delete(life, "alpha", *gone)
        plan = await _finished(life, "start")
        assert {f"alpha/object-add/{item}" for item in gone} <= set(commands(plan))
        assert FILTERS == await _order(life, "alpha")


@pytest.mark.parametrize("survivor", ["alpha", "beta"])
async def test_filters_that_a_failover_left_are_whole_after_a_resume(survivor: str) -> None:
    """A controller died between two deletions: the survivor's filters stand in order again."""
    async with bios_life("11.1", "tcg", shape=_with_filters_listed) as life:
        await _protected(life)
        kept: tuple[str, ...] = ()
        lost = "beta"
        if survivor == "beta":
            await life.kill("alpha")
            await life.run("failover")
            await life.replace("alpha", "gamma")
            await life.run("resume")
            kept, lost = ("rew0",), "gamma"
        await life.kill(lost)
        await _do_until(life, await life.compile("failover"), f"{survivor}/object-del/redire0")
        assert ("redire1", *kept) == await _order(life, survivor)
        await life.replace(lost, "delta")
        await _finished(life, "resume")
        assert (*FILTERS, *kept) == await _order(life, survivor)


@pytest.mark.parametrize("release", CHECKPOINTING)
async def test_filters_that_went_under_colo_are_named(release: Release) -> None:
    """The drift and the refusal name each, and the way that the refusal tells leads out."""
    async with bios_life(release, accelerator_of(release)) as life:
        await _protected(life)
        await _delete(life, "alpha", "comp0", "redire1")
        snapshot = await life.probe()
        assert ["comp0", "redire1"] == [d.label for d in drift(life.pair, snapshot).missing]
        with pytest.raises(CompileError) as refused:
            converge(life.pair, snapshot)
        for word in ("object comp0 of alpha", "object redire1 of alpha", "stop", "resume"):
            assert word in str(refused.value)
        await life.run("stop")
        await renew(life, "beta")
        await _finished(life, "resume")


# -- disks


async def _extra_node(life: LivePair) -> None:
    image = life.image("alpha").with_name("extra.raw")
    image.touch()
    node = RawNode(node_name="extra", file=FileNode(filename=str(image)))
    with image.open("r+b") as file:
        file.truncate(life.pair.disks[0].size_bytes)
    await life.sessions["alpha"].execute(qmp.BlockdevAdd(node=node), limit_s=LIMIT_S)


@pytest.mark.parametrize(
    ("release", "moment"),
    [
        ("11.1", "protected"),
        ("11.1", "unprotected"),
        pytest.param("10.0", "unprotected", marks=[NEEDS_KVM, pytest.mark.nightly]),
        pytest.param("7.2", "unprotected", marks=[NEEDS_KVM, pytest.mark.nightly]),
    ],
)
async def test_a_child_that_somebody_attached_is_named_and_detached(
    release: Release, moment: Moment
) -> None:
    """It keeps nobody from being protected, and it is told from the peer's disk."""
    async with bios_life(release, accelerator_of(release)) as life:
        await _launched(life, moment)
        await _extra_node(life)
        attach = qmp.XBlockdevChange(parent=QUORUM, node="extra")
        await life.sessions["alpha"].execute(attach, limit_s=LIMIT_S)
        await life.run("start")
        found = drift(life.pair, await life.probe())
        assert {"extra", f"{QUORUM}.extra"} == {d.label for d in found.stray}
        place = "children.1" if moment == "unprotected" else "children.2"
        assert [
            f"alpha/x-blockdev-change/{QUORUM}.{place}",
            "alpha/blockdev-del/extra",
        ] == commands(await _converged(life))
        assert [] == commands(await life.compile("start"))
        await life.keeps_running("alpha", "beta")


async def _stray_mirror(life: LivePair) -> None:
    await _extra_node(life)
    command = qmp.BlockdevMirror(device=QUORUM, job_id="mine", target="extra", sync="full")
    await life.sessions["alpha"].execute(command, limit_s=LIMIT_S)


async def _cancel_stray(life: LivePair) -> None:
    session = life.sessions["alpha"]
    await session.execute(qmp.BlockJobCancel(device="mine", force=True), limit_s=LIMIT_S)
    while "mine" in (await life.live("alpha")).jobs:
        await session.wait_change(LIMIT_S)


@pytest.mark.parametrize("release", CHECKPOINTING)
async def test_a_start_ends_before_a_job_that_is_not_ours(release: Release) -> None:
    """The advice names what to do; the guest ran all the while; once it is done start continues."""
    async with bios_life(release, accelerator_of(release)) as life:
        await _launched(life, "unprotected")
        await _stray_mirror(life)
        report = await execute(await life.compile("start"), life.sessions, life.hosts)
        assert "alpha/blockdev-mirror/resync-colo-disk0-colo.beta.00000001" == report.failed
        assert "cancel and dismiss it" in report.advice
        await life.keeps_running("alpha")
        assert "mine" in (await life.live("alpha")).jobs
        await _cancel_stray(life)
        await life.run("start")
        assert ["alpha/blockdev-del/extra"] == commands(await _converged(life))


async def test_a_job_that_is_not_ours_is_left_alone_under_colo() -> None:
    """Nobody cancels what somebody else began: converge says what to do about it."""
    async with bios_life("11.1", "tcg") as life:
        await _launched(life, "protected")
        await _stray_mirror(life)
        assert [] == commands(await life.compile("start"))
        with pytest.raises(CompileError, match=r"job mine of alpha .* cancel and dismiss it"):
            converge(life.pair, await life.probe())
        await _cancel_stray(life)
        assert ["alpha/blockdev-del/extra"] == commands(await _converged(life))


# -- guests that are paused


def _seldom(pair: ColoPair) -> ColoPair:
    """With no checkpoint but those that are asked for."""
    return attrs.evolve(pair, checkpoint_delay_ms=3_600_000)


async def _ask_for_a_checkpoint(life: LivePair) -> None:
    again = qmp.MigrateSetParameters(x_checkpoint_delay_ms=life.pair.checkpoint_delay_ms)
    await life.sessions["alpha"].execute(again, limit_s=LIMIT_S)


async def _observe(life: LivePair) -> str:
    """See that there is nothing to send; gives `colo` if either node was in a checkpoint."""
    plan = await life.compile("start")
    assert [] == commands(plan)
    await life.execute(plan)
    assert () == converge(life.pair, plan.prior_state).steps
    states = {live.run_state for live in plan.prior_state.nodes.values() if isinstance(live, Live)}
    return "colo" if "colo" in states else "running"


@pytest.mark.parametrize("release", CHECKPOINTING)
async def test_a_pair_in_a_checkpoint_is_a_protected_one(release: Release) -> None:
    """However often it is compiled while checkpoints are made, there is nothing to send."""
    async with bios_life(release, accelerator_of(release), shape=_seldom) as life:
        await _protected(life)
        paused: set[str] = set()
        changed = asyncio.Event()

        def note(name: str, notice: Notice) -> None:
            if isinstance(notice, StopEvent):
                paused.add(name)
            if isinstance(notice, ResumeEvent):
                paused.discard(name)
            changed.set()

        for name, session in life.sessions.items():
            session.subscribe(functools.partial(note, name))
        seen = {"colo": 0, "running": 0}
        # Looks by the clock may miss each pause, or on a slow machine all that is between them.
        async with asyncio.timeout(LIMIT_S * 12):
            while min(seen.values()) < ENOUGH:
                await _ask_for_a_checkpoint(life)
                for begins in (True, False):
                    while bool(paused) != begins:
                        changed.clear()
                        await changed.wait()
                    seen[await _observe(life)] += 1


async def test_a_guest_that_somebody_paused_is_not_continued() -> None:
    """Unprotected and paused, it is refused with the cause; continued, it is protected."""
    async with bios_life("11.1", "tcg") as life:
        await _launched(life, "unprotected")
        await life.sessions["alpha"].execute(qmp.Stop(), limit_s=LIMIT_S)
        why = "somebody paused the guest on alpha; pycolo did not; find out why"
        with pytest.raises(CompileError, match=why):
            await life.compile("start")
        await life.cont("alpha")
        await _finished(life, "start")


@pytest.mark.parametrize("node", ["alpha", "beta"])
async def test_a_checkpoint_continues_what_somebody_paused(node: str) -> None:
    """Under COLO nothing is sent for a paused guest: the next checkpoint lets it run again."""
    async with bios_life("11.1", "tcg", shape=_seldom) as life:
        await _protected(life)
        await life.sessions[node].execute(qmp.Stop(), limit_s=LIMIT_S)
        with pytest.raises(CompileError, match=f"guest on {node} was paused inside COLO"):
            await life.compile("start")
        await _ask_for_a_checkpoint(life)
        await life.keeps_running("alpha", "beta")
        assert [] == commands(await _finished(life, "start"))


# -- nodes that are others now


async def test_an_old_plan_is_not_executed_on_a_node_that_was_started_anew() -> None:
    """It names both instances and changes nothing; compiled again, it is for the new one."""
    async with bios_life("11.1", "tcg") as life:
        await life.launch("alpha", "beta")
        plan = await life.compile("start")
        await renew(life, "beta")
        before = await life.probe()
        report = await _old(life, plan)
        first, second = instance_of("colo", "beta", 1), instance_of("colo", "beta", 2)
        assert f"the plan is for the QEMU {first}, on beta runs {second}" == _reason(report)
        assert before == await life.probe()
        await _finished(life, "start")


@pytest.mark.parametrize("rebooted", ["alpha", "beta"])
async def test_a_rebooted_node_is_the_survivors_next_secondary(rebooted: str) -> None:
    """The plan to stop the old pair is refused; failover, launch and resume lead back."""
    async with bios_life("11.1", "tcg") as life:
        await _protected(life)
        stop = await life.compile("stop")
        await life.kill(rebooted)
        await life.run("failover")
        await life.launch(rebooted)
        second = instance_of("colo", rebooted, 2)
        assert f"{rebooted} runs {second}" in _reason(await _old(life, stop))
        await _finished(life, "resume")


async def _start_by_hand(life: LivePair, name: str, role: Role = "primary") -> None:
    """Start a QEMU as somebody does who asks no record."""
    instance = instance_of(life.pair.name, name, 0xABC)
    known = features.of(life.version)
    argv = launch_argv(life.pair, name, role=role, instance=instance, features=known)
    action = LaunchQemu(role=role, instance=instance, argv=argv)
    await life.host.run(life.pair, name, action, limit_s=LIMIT_S)
    await life.connect(name)


async def test_a_primary_that_was_started_anew_does_not_cost_the_guest() -> None:
    """Nobody failed over yet: the secondary runs the only guest, and the refusals say so."""
    async with bios_life("11.1", "tcg") as life:
        await _protected(life)
        await life.kill("alpha")
        with pytest.raises(CompileError, match="its primary is missing; fail over to beta"):
            await life.launch("alpha")
        await _start_by_hand(life, "alpha")
        for procedure in BEGINNING_OR_ENDING:
            with pytest.raises(CompileError, match="end the QEMU of alpha, then fail over to beta"):
                await life.compile(procedure)
        await life.kill("alpha")
        await life.run("failover")
        await life.keeps_running("beta")
        await life.launch("alpha")
        await _finished(life, "resume")


async def test_a_secondary_that_was_started_anew_is_not_taken_for_the_old_one() -> None:
    """Nobody failed over yet: it is refused, and the stop that the refusal names leads out."""
    async with bios_life("11.1", "tcg") as life:
        await _protected(life)
        await life.kill("beta")
        with pytest.raises(CompileError, match=r"launch beta after a failover to alpha"):
            await life.launch("beta")
        await _start_by_hand(life, "beta", "secondary")
        with pytest.raises(CompileError, match=r"secondary of alpha is gone.* with stop, which"):
            await life.compile("resume")
        await life.run("stop")
        await life.keeps_running("alpha")
        await renew(life, "beta")
        await _finished(life, "resume")


async def test_a_secondary_that_was_there_before_the_failover_is_replaced() -> None:
    """It clings to a socket that the failover removed; the way that the report names leads out."""
    async with bios_life("11.1", "tcg") as life:
        await _protected(life)
        await life.kill("beta")
        await _start_by_hand(life, "beta", "secondary")
        await life.run("failover")
        report = await execute(await life.compile("resume"), life.sessions, life.hosts)
        assert "compare1 is connected (disconnected)" in report.advice
        assert "run stop, run launch --node beta, and run resume" in report.advice
        await life.run("stop")
        await renew(life, "beta")
        await _finished(life, "resume")


async def test_a_spare_takes_the_place_of_a_spare() -> None:
    """A plan for the first one is refused by its name; the second one is protected by a new."""
    async with bios_life("11.1", "tcg") as life:
        await _protected(life)
        await life.kill("alpha")
        await life.run("failover")
        await life.replace("alpha", "gamma")
        plan = await life.compile("resume")
        await life.kill("gamma")
        await life.replace("gamma", "delta")
        report = await _old(life, plan)
        assert _reason(report).startswith("there is no connection to gamma")
        await _finished(life, "resume")

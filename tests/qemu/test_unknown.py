"""Commands without an answer: the executor finds out what they did, and one compiles again.

Each procedure is led to its end over wires that break at every one of its commands in turn. A
command of which no answer came is `Unknown`, with what became of it; compiled again, the procedure
continues with that command, or with the one behind it.

Where the guest is paused or has no network, execution that ends there is followed by a recovery.
What may follow then differs from command to command, so each of these is cut in a life of its own;
nightly runs do that with all of them, and others with some.
"""

from __future__ import annotations

import json
import signal
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import final

import attrs
import pytest
from tests.cut import MOMENTS, CutWire, Moment, cut_wire
from tests.qemu.aftermath import renew, write, written
from tests.qemu.life import (
    LIMIT_S,
    NAMES,
    NEEDS_KVM,
    LivePair,
    accelerator_of,
    bios_life,
    bios_pair,
    commands,
    off_plan,
)
from tests.qemu.test_planned_states import CASES, DELAY_MS, Case
from tests.real_qemu import RELEASES, bare_qemu
from tests.watching import Watching

from pycolo._execute import execute
from pycolo.compiler import compile_offline
from pycolo.demo.builds import Release
from pycolo.effects import apply, fold
from pycolo.model import ColoPair, Node
from pycolo.model.node import UnixMonitor
from pycolo.plan import Execute, Plan
from pycolo.qmp import commands as qmp
from pycolo.qmp.blockdevs import NbdNode
from pycolo.qmp.chardevs import InetSocketAddress
from pycolo.qmp.replies import Version
from pycolo.result import Report, Unknown
from pycolo.session import Session

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(120)]
# What no reader sees: what was yanked looks as before, a QEMU that quit answers nobody, and no
# query shows an NBD server (qemu-behaviour 18.3).
TRACELESS = (qmp.Yank, qmp.Quit, qmp.NbdServerStart)
# What QEMU answers before it has begun with it: only that it happened can be seen.
SLOW = (qmp.BlockJobCancel, qmp.MigrateContinue, qmp.XColoLostHeartbeat)
PATTERN = 0xAB
ANSWER_S = 1.0


@final
class Wired:
    """A pair whose sessions go over wires that can be cut."""

    def __init__(self, life: LivePair, stack: AsyncExitStack) -> None:
        self.life = life
        self.wires: dict[str, CutWire] = {}
        self._stack = stack
        self._made = 0

    async def wire(self) -> None:
        """Replace each session by one over a wire."""
        for name, session in self.life.sessions.items():
            monitor = self.life.pair.node(name).control_monitor
            assert isinstance(monitor, UnixMonitor)
            self._made += 1
            path = str(Path(monitor.path).with_name(f"cut{self._made}"))
            wire = await self._stack.enter_async_context(cut_wire(path, monitor))
            await session.aclose()
            again = await Session.connect(name, wire.monitor, limit_s=LIMIT_S)
            self.life.sessions[name], self.wires[name] = again, wire

    async def cut(self, plan: Plan, step: Execute, moment: Moment) -> Report:
        """Execute a plan, and break the wire at one of its steps."""
        wire = self.wires[step.node]
        cuts = wire.cuts
        before = plan.steps[: plan.steps.index(step)]
        alike = [s for s in before if isinstance(s, Execute) and _alike(s, step)]
        wire.cut_at(step.command, moment, oob=step.oob, occurrence=len(alike) + 1)
        report = await execute(plan, self.life.sessions, self.life.hosts)
        assert cuts + 1 == wire.cuts, report.advice
        return report


def _alike(one: Execute, other: Execute) -> bool:
    return (one.node, one.oob, one.command) == (other.node, other.oob, other.command)


def _from_the_end(plan: Plan) -> Mapping[tuple[str, int], Execute]:
    """Each command by how often it is still to come: a plan that continues has the same names."""
    found: dict[tuple[str, int], Execute] = {}
    times: Counter[str] = Counter()
    for step in reversed(plan.steps):
        if isinstance(step, Execute):
            name = f"{step.node}/{step.command.qmp_name}/{step.command.subject}"
            times[name] += 1
            found[name, times[name]] = step
    return dict(reversed(found.items()))


def _recovered(plan: Plan) -> list[Execute]:
    """The commands after which, without an answer, a recovery follows."""
    place = {step.address: n for n, step in enumerate(plan.steps)}
    ranges = [range(place[r.first], place[r.last] + 1) for r in plan.recoveries]
    return [
        step
        for n, step in enumerate(plan.steps)
        if isinstance(step, Execute) and any(n in covered for covered in ranges)
    ]


async def _compiled(life: LivePair, case: Case) -> Plan:
    return await life.compile(
        case.procedure,
        survivor=case.primary if case.procedure == "failover" else None,
        checkpoint_delay_ms=DELAY_MS if case.procedure == "set-checkpoint-delay" else None,
    )


@asynccontextmanager
async def _life(name: str, release: Release = "11.1") -> AsyncGenerator[Wired]:
    async with (
        bios_life(release, accelerator_of(release)) as life,
        AsyncExitStack() as stack,
    ):
        await CASES[name].before(life)
        wired = Wired(life, stack)
        await wired.wire()
        yield wired


def _tell(plan: Plan, step: Execute, moment: Moment) -> set[bool | None]:
    """What may be said of a command of which no answer came."""
    before = fold(plan.pair, plan.qemu, plan.prior_state, plan.steps[: plan.steps.index(step)])
    # The delay of before, sent again, forces a checkpoint and leaves nothing else.
    proves = isinstance(step.command, qmp.MigrateSetParameters) and (
        before == apply(plan.pair, plan.qemu, before, step)
    )
    if isinstance(step.command, TRACELESS) or proves:
        return {None}
    slow: set[bool | None] = {None} if isinstance(step.command, SLOW) else set()
    match moment:
        case "before the send":
            return slow or {False}
        case "after the execution":
            return slow | {True}
        case "after the send":
            return slow | {True, False}


async def _cut(wired: Wired, plan: Plan, step: Execute, moment: Moment) -> Report:
    report = await wired.cut(plan, step, moment)
    outcome = report.outcomes[step.address]
    if step.may_fail:
        # Whatever became of it, execution continued.
        assert step.address in report.left
        return report
    ended = plan.step(report.failed or "")
    if isinstance(ended, Execute) and ended.batch is not None and ended.batch == step.batch:
        # They go out one behind the other: with one reply others before it may be lost.
        outcome = report.outcomes[ended.address]
    else:
        assert step == ended, report.advice
    assert isinstance(outcome, Unknown), outcome
    if ended == step:
        assert outcome.happened in _tell(plan, step, moment), (step.address, outcome)
    return report


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", CASES)
async def test_no_command_without_an_answer_stops_a_procedure(name: str, moment: Moment) -> None:
    """Cut at every command in turn, it continues after each, and ends in its planned state."""
    case = CASES[name]
    async with _life(name) as wired:
        life = wired.life
        first = plan = await _compiled(life, case)
        recovered, continued, sent = _recovered(first), False, set[str]()
        for key, planned in _from_the_end(first).items():
            if planned in recovered:
                continue
            step = _from_the_end(plan).get(key)
            if step is None and (continued or planned.batch in sent):
                continue
            assert step is not None, f"{key} is not in {commands(plan)}"
            report = await _cut(wired, plan, step, moment)
            # What did not have to be done has not ended the execution.
            continued |= step.may_fail
            # What is in a batch with it was sent as well, and may have been done.
            sent |= {step.batch} if step.batch else set()
            plan = await _compiled(life, case)
            outcome = report.outcomes[step.address]
            if not isinstance(outcome, Unknown):
                continue
            # An NBD node that nothing was copied over is made anew.
            if outcome.happened is not None and not isinstance(step.command, qmp.BlockdevAdd):
                assert outcome.happened == (key not in _from_the_end(plan)), step.address
        await life.execute(plan)
        assert {} == off_plan(first.planned_state, await life.probe())
        if name != "start/fresh":
            await life.keeps_running(case.primary)


# -- where a recovery follows


def _offline_pair() -> ColoPair:
    hosts = [
        Node(name=name, address=f"127.0.0.{n}", image_folder=f"/images/{name}")
        for n, name in enumerate(NAMES, 1)
    ]
    return bios_pair(tuple(hosts), "tcg")


def _recovered_cases() -> Iterator[object]:
    version = Version.parse("11.1.3")
    for name in CASES:
        procedure, _, kind = name.partition("/")
        # A guest that runs already is protected as one that survived is.
        if procedure == "set-checkpoint-delay" or name == "start/running":
            continue
        survivor = "beta" if kind in ("secondary", "promoted") else "alpha"
        plan = compile_offline(
            CASES[name].procedure, _offline_pair(), version=version, survivor=survivor
        )
        for n, step in enumerate(_recovered(plan)):
            for moment in MOMENTS:
                few = name in ("start/fresh", "stop", "failover/secondary")
                marks = () if few and moment == MOMENTS[n % 3] else (pytest.mark.nightly,)
                at = step.address.replace("/", ":")
                yield pytest.param(name, n, moment, marks=marks, id=f"{name}-{at}-{moment}")


@pytest.mark.parametrize(("name", "n", "moment"), list(_recovered_cases()))
async def test_a_command_without_an_answer_is_recovered(name: str, n: int, moment: Moment) -> None:
    """The guest is brought back, and what was promised is reached by compiling again."""
    case = CASES[name]
    async with _life(name) as wired:
        life = wired.life
        plan = await _compiled(life, case)
        step = _recovered(plan)[n]
        report = await _cut(wired, plan, step, moment)
        assert {} != report.recovery
        if name != "start/fresh":
            await life.keeps_running(case.primary)
        plan = await _finish(life, case, plan, report)
        assert {} == off_plan(plan.planned_state, await life.probe())
        await life.keeps_running(case.primary)


async def _finish(life: LivePair, case: Case, plan: Plan, report: Report) -> Plan:
    """Lead a procedure to its end whose recovery used the secondary up, if it did."""
    used_up = any(address.endswith("/x-colo-lost-heartbeat") for address in report.recovery)
    if plan.procedure not in ("start", "resume") or not used_up:
        await life.execute(await _compiled(life, case))
        return plan
    await life.run("stop")
    secondary = life.pair.peer_of(case.primary).name
    await renew(life, secondary)
    return await life.run("resume")


@pytest.mark.parametrize("moment", ["before the send", "after the execution"])
@pytest.mark.parametrize(
    "command", [qmp.Stop, qmp.BlockJobCancel, qmp.XBlockdevChange, qmp.Migrate]
)
async def test_what_the_guest_writes_meanwhile_reaches_the_secondary(
    command: type[qmp.Command], moment: Moment
) -> None:
    """The recovery lets it run, and what it writes before one compiles again is copied, too."""
    async with _life("start/running") as wired:
        life = wired.life
        plan = await _compiled(life, CASES["start/running"])
        step = next(s for s in _recovered(plan) if isinstance(s.command, command))
        report = await _cut(wired, plan, step, moment)
        await write(life, "alpha", PATTERN)
        await _finish(life, CASES["start/running"], plan, report)
        assert {PATTERN} == written(life, "beta")


# -- QEMUs that do not answer in time


def _impatient(pair: ColoPair) -> ColoPair:
    return attrs.evolve(pair, timeouts=attrs.evolve(pair.timeouts, command_s=ANSWER_S))


FROZEN = ("beta/block-export-add", "alpha/object-add/m0", "alpha/blockdev-mirror", "alpha/migrate")


@pytest.mark.parametrize("address", FROZEN)
@pytest.mark.parametrize(
    "wakes", ["in time to be asked", pytest.param("when all is over", marks=pytest.mark.nightly)]
)
async def test_a_reply_that_comes_late_is_no_other_commands(address: str, wakes: str) -> None:
    """A QEMU that stops over a command is `Unknown`, and answers later what it was asked."""
    async with bios_life("11.1", "tcg", shape=_impatient) as life:
        await life.launch("alpha", "beta")
        await life.cont("alpha")
        plan = await life.compile("start")
        step = next(s for s in plan.steps if s.address.startswith(address))
        assert isinstance(step, Execute)

        def begins(at: str) -> None:
            if at == step.address:
                life.signal(step.node, signal.SIGSTOP)

        def ends(at: str) -> None:
            if at == step.address and wakes == "in time to be asked":
                life.signal(step.node, signal.SIGCONT)

        watching = Watching(begins, ends)
        report = await execute(plan, life.sessions, life.hosts, observer=watching)
        life.signal(step.node, signal.SIGCONT)
        outcome = report.outcomes[step.address]
        assert isinstance(outcome, Unknown), report.advice
        # A recovery may have undone it, so nothing is said of it then.
        told = wakes == "in time to be asked" and not report.recovery
        assert (True if told else None) == outcome.happened
        await life.keeps_running("alpha")
        plan = await _finish(life, CASES["start/running"], plan, report)
        assert {} == off_plan(plan.planned_state, await life.probe())


# -- older QEMUs


@NEEDS_KVM
@pytest.mark.nightly
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("command", [qmp.BlockJobCancel, qmp.Migrate, qmp.XColoLostHeartbeat])
@pytest.mark.parametrize("release", ["7.2", "10.0"])
async def test_older_qemus_are_recovered_alike(
    release: Release, command: type[qmp.Command], moment: Moment
) -> None:
    """On 7.2 one recovery covers the stretch from `stop` to the entry."""
    name = "failover/primary" if command is qmp.XColoLostHeartbeat else "resume/primary"
    async with _life(name, release) as wired:
        life = wired.life
        plan = await _compiled(life, CASES[name])
        step = next(s for s in _recovered(plan) if isinstance(s.command, command))
        report = await _cut(wired, plan, step, moment)
        await life.keeps_running("alpha")
        plan = await _finish(life, CASES[name], plan, report)
        assert {} == off_plan(plan.planned_state, await life.probe())
        await life.keeps_running("alpha")


# -- the next connection


@pytest.mark.parametrize("release", RELEASES)
async def test_a_client_that_hung_up_does_not_spoil_the_next_connection(
    release: Release, tmp_path: Path
) -> None:
    """Its last command is still at work; its reply is not taken for the one to a negotiation."""
    with bare_qemu(release, tmp_path, "-machine", "none") as qemu, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host, port = silent.getsockname()
        server = InetSocketAddress(host=host, port=port)
        node = NbdNode(node_name="nbd0", server=server, export="parent0", open_timeout_s=1)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(LIMIT_S)
            sock.connect(qemu.control.path)
            _exchange(sock, {"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}})
            sock.sendall(json.dumps(qmp.BlockdevAdd(node=node).to_qmp()).encode())
            # It has begun when somebody is connected to the silent server.
            silent.settimeout(LIMIT_S)
            connected, _ = silent.accept()
        with connected:
            async with await Session.connect("alpha", qemu.control, limit_s=LIMIT_S) as session:
                status = await session.execute(qmp.QueryStatus(), limit_s=LIMIT_S)
        assert "prelaunch" == status.status


def _exchange(sock: socket.socket, message: Mapping[str, object]) -> None:
    """Take the greeting, send a message and take its reply."""
    with sock.makefile("rb") as lines:
        lines.readline()
        sock.sendall(json.dumps(message).encode())
        lines.readline()

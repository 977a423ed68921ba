"""The executor with real QEMUs: refusals, a wedge and its cure, and the end of QEMU."""

import asyncio
import signal
import socket
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import attrs
import pytest
from tests.real_qemu import RELEASES, BareQemu, bare_qemu

from pycolo import conditions as c
from pycolo._execute import execute
from pycolo.demo.builds import Release
from pycolo.model import ColoPair, Node
from pycolo.plan import Check, Execute, Plan, Refusal, Step, Wait
from pycolo.qmp import commands as qmp
from pycolo.qmp.blockdevs import NbdNode
from pycolo.qmp.chardevs import InetSocketAddress, UnixSocketAddress
from pycolo.qmp.objects import IoThread, YankBlockNode
from pycolo.result import Done, Refused, Report, Unknown
from pycolo.session import Session
from pycolo.snapshot import Live, Snapshot

pytestmark = pytest.mark.qemu
LIMIT_S = 20.0
WEDGE_S = 0.5
PAIR = ColoPair(
    name="colo",
    nodes=(
        Node(name="alpha", address="127.0.0.1", image_folder="/a"),
        Node(name="beta", address="127.0.0.2", image_folder="/b"),
    ),
)


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> Release:
    """Each supported kind of QEMU."""
    chosen: Release = request.param
    return chosen


@pytest.fixture
def qemu(release: Release, tmp_path: Path) -> Generator[BareQemu]:
    """One with a machine that has a guest to run."""
    machine = ("-machine", "pc", "-accel", "tcg", "-m", "32", "-name", "guest=token")
    with bare_qemu(release, tmp_path, *machine) as running:
        yield running


@pytest.fixture
async def session(qemu: BareQemu) -> AsyncGenerator[Session]:
    """A session with it."""
    async with await Session.connect("alpha", qemu.control, limit_s=LIMIT_S) as opened:
        yield opened


async def _executed(session: Session, *steps: Step) -> Report:
    prior_state = Snapshot(nodes={"alpha": Live(version=session.version, instance="token")})
    plan = Plan(
        procedure="start",
        pair=PAIR,
        qemu={"alpha": session.version},
        dialect="auto",
        prior_state=prior_state,
        planned_state=prior_state,
        steps=steps,
    )
    return await execute(plan, {"alpha": session})


def _execute(
    command: qmp.Command,
    *,
    address: str | None = None,
    limit_s: float = LIMIT_S,
    accepts: tuple[Refusal, ...] = (),
    rescue: tuple[qmp.Yank, ...] = (),
) -> Execute:
    return Execute(
        address=address or f"alpha/{command.qmp_name}/{command.subject}",
        node="alpha",
        command=command,
        why="",
        limit_s=limit_s,
        accepts=accepts,
        rescue=rescue,
    )


def _wait(until: c.Condition) -> Wait:
    return Wait(address="wait", node="alpha", until=until, why="", limit_s=LIMIT_S)


async def test_guest_runs_and_stops(session: Session) -> None:
    """Commands take effect, waits see it, a checkpoint's two events are counted in order."""
    stop = _execute(qmp.Stop())
    report = await _executed(
        session,
        _execute(qmp.Cont(), address="first"),
        _wait(c.RunStateIs(node="alpha", states=("running",))),
        stop,
        Check(
            address="stands",
            node="alpha",
            condition=c.RunStateIs(node="alpha", states=("paused",)),
            why="",
        ),
        _execute(qmp.Cont(), address="again"),
        _wait_for_checkpoint(stop),
    )
    assert None is report.failed, report.advice


def _wait_for_checkpoint(since: Execute) -> Wait:
    """Wait for STOP and RESUME after a step."""
    seen = c.CheckpointSeen(node="alpha", since=since.address)
    return Wait(address="seen", node="alpha", until=seen, why="", limit_s=LIMIT_S)


async def test_repeated_object_is_accepted_where_the_plan_says_so(session: Session) -> None:
    """QEMU's own words for "there already" are accepted, and refused where nobody expects them."""
    add = qmp.ObjectAdd(object=IoThread(id="iothread1"))
    already = Refusal(text="attempt to add duplicate property 'iothread1'")
    report = await _executed(
        session,
        _execute(add, address="first"),
        _execute(add, address="second", accepts=(already,)),
        _execute(add, address="third"),
    )
    kinds = [type(outcome).__name__ for outcome in report.outcomes.values()]
    assert ["Done", "Done", "Refused"] == kinds
    assert (3, "iothread") == (report.exit_code, _objects(report)["iothread1"])


def _objects(report: Report) -> dict[str, str]:
    live = None if report.after is None else report.after.live("alpha")
    return {} if live is None else {name: x.qom_type for name, x in live.objects.items()}


async def test_human_monitor_refuses_in_words(session: Session) -> None:
    """A line that QEMU does not know is refused, on each version in its own form."""
    unknown = qmp.HumanMonitorCommand(command_line="no_such_line")
    report = await _executed(session, _execute(unknown))
    assert "unknown command: 'no_such_line'" in report.advice


async def test_deleting_an_absent_drive_is_done(session: Session) -> None:
    """What the human monitor says about a node that is gone does not matter: it is gone."""
    report = await _executed(session, _execute(qmp.HumanMonitorCommand.drive_del("replication0")))
    assert None is report.failed, report.advice


async def test_wedge_is_cured_by_the_plans_own_rescue(
    session: Session, release: Release, tmp_path: Path
) -> None:
    """A silent peer wedges QEMU; the yank goes past it, and the command sent once is answered."""
    export = tmp_path / "peer" / "nbd"
    export.parent.mkdir()
    disk = ("-machine", "none", "-blockdev", "null-co,node-name=parent0,size=1048576")
    with bare_qemu(release, export.parent, *disk) as peer:
        await _serve(peer, export)
        add = qmp.BlockdevAdd(node=_nbd(UnixSocketAddress(path=str(export))))
        assert None is (await _executed(session, _execute(add))).failed
        peer.process.send_signal(signal.SIGSTOP)
        rescue = (qmp.Yank(instances=(YankBlockNode(node_name="nbd0"),)),)
        delete = qmp.BlockdevDel(node_name="nbd0")
        step = _execute(delete, limit_s=WEDGE_S, rescue=rescue)
        report = await _executed(session, step)
    outcome = report.outcomes[step.address]
    assert isinstance(outcome, Done), report.advice
    assert WEDGE_S <= outcome.took_s < LIMIT_S


async def _serve(peer: BareQemu, path: Path) -> None:
    """Have a QEMU export an empty disk."""
    async with await Session.connect("peer", peer.control, limit_s=LIMIT_S) as session:
        address = UnixSocketAddress(path=str(path))
        await session.execute(qmp.NbdServerStart(addr=address), limit_s=LIMIT_S)
        export = qmp.BlockExportAdd(id="parent0", node_name="parent0", writable=True)
        await session.execute(export, limit_s=LIMIT_S)


def _nbd(server: InetSocketAddress | UnixSocketAddress) -> NbdNode:
    return NbdNode(node_name="nbd0", server=server, export="parent0")


async def test_wedge_in_a_negotiation_is_unknown(session: Session) -> None:
    """QEMU cannot yank a peer that is silent from the first: nobody knows what will come of it.

    So the plan's own rescue does not help, and the command is answered when the peer gives up.
    """
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host, port = silent.getsockname()
        rescue = (qmp.Yank(instances=(YankBlockNode(node_name="nbd0"),)),)
        add = qmp.BlockdevAdd(node=_nbd(InetSocketAddress(host=host, port=port)))
        step = _execute(add, limit_s=WEDGE_S, rescue=rescue)
        task = asyncio.create_task(_executed(session, step))
        await asyncio.wait((task,), timeout=WEDGE_S * 3)
    report = await task
    assert 3 == report.exit_code
    assert isinstance(report.outcomes[step.address], Unknown)


async def test_an_nbd_node_gives_up_on_a_silent_server(session: Session) -> None:
    """With an open timeout the command is refused in time, and the main loop is free again."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host, port = silent.getsockname()
        node = attrs.evolve(_nbd(InetSocketAddress(host=host, port=port)), open_timeout_s=1)
        step = _execute(qmp.BlockdevAdd(node=node))
        report = await _executed(session, step)
    assert isinstance(report.outcomes[step.address], Refused)
    assert "prelaunch" == (await session.execute(qmp.QueryStatus(), limit_s=LIMIT_S)).status


async def test_quit_is_done_and_then_gone(session: Session, qemu: BareQemu) -> None:
    """A plan may end QEMU and wait for its end."""
    quitting = _execute(qmp.Quit())
    report = await _executed(session, quitting, _wait(c.Gone(node="alpha")))
    assert None is report.failed, report.advice
    assert 0 == qemu.process.wait(LIMIT_S)

"""What pycolo relies on in QEMU and no other test shows, release by release.

The numbers are those of docs/qemu-behaviour.md.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncGenerator, Iterable, Iterator
from pathlib import Path

import attrs
import pytest
from tests.compiler.cases import PAIRS
from tests.qemu.life import HAS_KVM, LIMIT_S, Accelerator, LivePair, bios_life, without_checkpoints
from tests.real_qemu import RELEASES, bare_qemu, build_of

from pycolo import errors
from pycolo.compiler import compile_offline
from pycolo.demo.builds import Release
from pycolo.model import ColoPair
from pycolo.plan import Execute, Plan, Recovery, Refusal
from pycolo.qmp import commands as qmp
from pycolo.qmp.blockdevs import FileNode, QuorumNode, RawNode
from pycolo.qmp.chardevs import (
    ChardevBackend,
    InetSocketAddress,
    SocketClient,
    SocketServer,
    UnixSocketAddress,
)
from pycolo.qmp.events import ColoExitEvent, Event, MigrationEvent, ResumeEvent, StopEvent
from pycolo.qmp.objects import ColoCompare, FilterRedirector, FilterRewriter, IoThread
from pycolo.qmp.replies import MigrationInfo, Version
from pycolo.session import HungUp, Notice, Session
from pycolo.snapshot import Child

pytestmark = pytest.mark.qemu
MACHINE = ("-machine", "pc", "-accel", "tcg", "-m", "32", "-netdev", "hubport,id=hn0,hubid=0")
INCOMING = (*MACHINE, "-incoming", "defer")
LONG_MS = 600_000
MAKING = (qmp.NbdServerStart, qmp.MigrateIncoming)


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> Release:
    """Each supported kind of QEMU."""
    chosen: Release = request.param
    return chosen


@pytest.fixture
async def session(release: Release, tmp_path: Path) -> AsyncGenerator[Session]:
    """A session with a stopped machine that has a network backend and no disk."""
    with bare_qemu(release, tmp_path, *MACHINE) as running:
        async with await Session.connect("alpha", running.control, limit_s=LIMIT_S) as opened:
            yield opened


@pytest.fixture
async def waiting(release: Release, tmp_path: Path) -> AsyncGenerator[Session]:
    """A session with the same machine waiting for an incoming state."""
    folder = tmp_path / "in"
    folder.mkdir()
    with bare_qemu(release, folder, *INCOMING) as running:
        async with await Session.connect("beta", running.control, limit_s=LIMIT_S) as opened:
            yield opened


async def _refusal(session: Session, command: qmp.Command) -> errors.CommandRefused:
    with pytest.raises(errors.CommandRefused) as caught:
        await session.execute(command, limit_s=LIMIT_S)
    return caught.value


def _is_among(refusal: errors.CommandRefused, accepted: Iterable[Refusal]) -> bool:
    return any(
        one.text in refusal.text and one.error_class == refusal.error_class for one in accepted
    )


def _version(release: Release) -> Version:
    return Version.parse(build_of(release).version)


# -- refusals that count as done


def _forgiving(release: Release) -> Iterator[tuple[str, Execute]]:
    """All steps of all plans that end something, and that accept its being gone."""
    pair, version = PAIRS["one"], _version(release)
    plans = (
        compile_offline("failover", pair, version=version, survivor="alpha"),
        compile_offline("failover", pair, version=version, survivor="beta"),
        compile_offline("stop", pair, version=version),
        compile_offline("start", pair, version=version),
    )
    for plan in plans:
        promoted = plan.procedure == "failover" and plan.steps[0].node == "beta"
        for step in (*plan.steps, *_recovering(plan)):
            if isinstance(step, Execute) and step.accepts and not _needs_more(step.command):
                # The overlays that a promoted node deletes are what a fresh one works with.
                here = "beta" if promoted and not isinstance(step.command, qmp.BlockdevDel) else ""
                yield here or "alpha", step


def _recovering(plan: Plan) -> tuple[Execute, ...]:
    recoveries: tuple[Recovery, ...] = plan.recoveries
    return tuple(step for recovery in recoveries for step in recovery.steps)


def _needs_more(command: qmp.Command) -> bool:
    # What makes something is asked for twice, and a job's end needs a job: tests of their own.
    return isinstance(command, (*MAKING, qmp.BlockJobCancel))


async def test_what_is_gone_already_is_refused_in_the_words_that_plans_accept(
    release: Release,
) -> None:
    """Each command that may find nothing to end is refused with one of its accepted texts (11)."""
    async with bios_life(release, "tcg", shape=without_checkpoints) as life:
        await life.launch("alpha", "beta")
        seen = set()
        for node, step in _forgiving(release):
            with pytest.raises(errors.CommandRefused) as caught:
                await life.sessions[node].execute(step.command, limit_s=LIMIT_S, oob=step.oob)
            assert _is_among(caught.value, step.accepts), f"{step.address}: {caught.value}"
            seen.add(step.command.qmp_name)
    assert {"yank", "x-colo-lost-heartbeat", "object-del", "chardev-remove", "qom-set"} <= seen
    assert {"blockdev-del", "x-blockdev-change", "nbd-server-stop"} <= seen


async def test_what_is_there_already_is_refused_in_the_words_that_plans_accept(
    release: Release,
) -> None:
    """The NBD server and the listener, started twice, say that they are there (3.8, 11)."""
    async with bios_life(release, "tcg", shape=without_checkpoints) as life:
        await life.launch("alpha", "beta")
        steps = [
            step
            for step in (await life.compile("start")).steps
            if isinstance(step, Execute) and step.node == "beta"
        ]
        for step in steps:
            await life.sessions["beta"].execute(step.command, limit_s=LIMIT_S)
        twice = [step for step in steps if isinstance(step.command, MAKING)]
        for step in twice:
            assert _is_among(await _refusal(life.sessions["beta"], step.command), step.accepts)
    assert ["nbd-server-start", "migrate-incoming"] == [s.command.qmp_name for s in twice]


async def test_lost_heartbeat_outside_colo(session: Session, release: Release) -> None:
    """A node that is not in COLO says so, in two wordings (8.3)."""
    refusal = await _refusal(session, qmp.XColoLostHeartbeat())
    old, new = "The feature 'colo' is not enabled", "VM is not in COLO mode"
    assert (old if release == "7.2" else new) == refusal.text


async def test_a_job_that_is_gone(session: Session) -> None:
    """Cancelling and dismissing what is no job are refused in words of their own (11)."""
    cancel = await _refusal(session, qmp.BlockJobCancel(device="resync"))
    dismiss = await _refusal(session, qmp.JobDismiss(id="resync"))
    assert ("DeviceNotActive", "Block job 'resync' not found") == (cancel.error_class, cancel.text)
    assert ("GenericError", "Job not found") == (dismiss.error_class, dismiss.text)


# -- capabilities, of the releases


def _capabilities(*names: qmp.CapabilityName) -> qmp.MigrateSetCapabilities:
    changes = tuple(qmp.MigrationCapability(capability=name, state=True) for name in names)
    return qmp.MigrateSetCapabilities(capabilities=changes)


async def test_x_colo_alone(session: Session, release: Release) -> None:
    """Up to 10 it is taken; from 11 it needs return-path, and the refusal changes nothing (2.6)."""
    if release == "11.1":
        refusal = await _refusal(session, _capabilities("x-colo", "events"))
        assert "Capability 'x-colo' requires capability 'return-path'" == refusal.text
    else:
        await session.execute(_capabilities("x-colo", "events"), limit_s=LIMIT_S)
    found = await session.execute(qmp.QueryMigrateCapabilities(), limit_s=LIMIT_S)
    assert (release != "11.1") == ({"x-colo", "events"} <= found.enabled)
    assert release == "11.1" or "return-path" not in found.enabled


@pytest.mark.parametrize("release", ["11.1"], indirect=True)
async def test_capabilities_stay_when_a_call_is_refused(session: Session) -> None:
    """All or nothing: a refused call leaves what was set before (2.6)."""
    await session.execute(_capabilities("events"), limit_s=LIMIT_S)
    await _refusal(session, _capabilities("x-colo", "multifd"))
    found = await session.execute(qmp.QueryMigrateCapabilities(), limit_s=LIMIT_S)
    assert "events" in found.enabled
    assert not {"x-colo", "multifd"} & found.enabled


async def _ended(session: Session) -> MigrationInfo:
    """Wait until a migration is over, or in COLO, and say how it ended."""
    ends = ("completed", "failed", "cancelled", "colo")
    async with asyncio.timeout(LIMIT_S):
        while True:
            mark = session.mark()
            info: MigrationInfo = await session.execute(qmp.QueryMigrate(), limit_s=LIMIT_S)
            if info.status in ends:
                return info
            await session.wait_change(0.05, since=mark)


async def _migrated(
    source: Session, target: Session, folder: Path, capabilities: tuple[qmp.CapabilityName, ...]
) -> str:
    """Migrate with the same capabilities on both sides, checkpoints off, and say how it ended."""
    if capabilities:
        for session in (target, source):
            await session.execute(_capabilities(*capabilities), limit_s=LIMIT_S)
    off = qmp.MigrateSetParameters(x_checkpoint_delay_ms=2**32 - 1)
    await source.execute(off, limit_s=LIMIT_S)
    uri = f"unix:{folder}/ram"
    await target.execute(qmp.MigrateIncoming(uri=uri), limit_s=LIMIT_S)
    await source.execute(qmp.Migrate(uri=uri), limit_s=LIMIT_S)
    return (await _ended(source)).status or ""


async def test_without_x_colo_it_is_a_plain_migration(
    session: Session, waiting: Session, tmp_path: Path
) -> None:
    """It completes, nobody is in COLO and the secondary is used up: never a success (4.6)."""
    assert "completed" == await _migrated(session, waiting, tmp_path, ("events",))
    for node in (session, waiting):
        assert "none" == (await node.execute(qmp.QueryColoStatus(), limit_s=LIMIT_S)).mode


async def test_a_connection_to_the_incoming_port_is_taken_for_the_migration(
    waiting: Session, tmp_path: Path
) -> None:
    """A connection that is opened and closed again uses the secondary up (19.8)."""
    await waiting.execute(qmp.MigrateIncoming(uri=f"unix:{tmp_path}/ram"), limit_s=LIMIT_S)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/ram")
    async with asyncio.timeout(LIMIT_S):
        while not waiting.closed:
            await waiting.wait_change(0.05)


async def test_the_capabilities_of_the_release_enter_colo(
    session: Session, waiting: Session, tmp_path: Path, release: Release
) -> None:
    """Neither disks nor cards are needed for it (1.12, 2.3)."""
    wanted: tuple[qmp.CapabilityName, ...] = ("x-colo", "events")
    if release == "11.1":
        wanted = ("return-path", *wanted)
    assert "colo" == await _migrated(session, waiting, tmp_path, wanted)


@pytest.mark.parametrize("release", ["7.2", "10.0"], indirect=True)
async def test_return_path_breaks_the_entry_before_11(
    session: Session, waiting: Session, tmp_path: Path
) -> None:
    """With it COLO is never entered, so a plan for these must not set it (4.7)."""
    wanted: tuple[qmp.CapabilityName, ...] = ("return-path", "x-colo", "events")
    assert await _migrated(session, waiting, tmp_path, wanted) in ("failed", "completed")


@pytest.mark.parametrize("release", ["7.2"], indirect=True)
async def test_pausing_before_the_switch_over_breaks_the_entry_on_7_2(
    session: Session, waiting: Session, tmp_path: Path
) -> None:
    """There the migration completes instead of entering COLO (18.1)."""
    await waiting.execute(_capabilities("x-colo", "events"), limit_s=LIMIT_S)
    wanted: tuple[qmp.CapabilityName, ...] = ("x-colo", "events", "pause-before-switchover")
    await session.execute(_capabilities(*wanted), limit_s=LIMIT_S)
    uri = f"unix:{tmp_path}/ram"
    await waiting.execute(qmp.MigrateIncoming(uri=uri), limit_s=LIMIT_S)
    await session.execute(qmp.Migrate(uri=uri), limit_s=LIMIT_S)
    async with asyncio.timeout(LIMIT_S):
        while "pre-switchover" != (await _status(session)):
            await session.wait_change(0.05)
    await session.execute(qmp.MigrateContinue(state="pre-switchover"), limit_s=LIMIT_S)
    assert "completed" == (await _ended(session)).status


async def _status(session: Session) -> str | None:
    info: MigrationInfo = await session.execute(qmp.QueryMigrate(), limit_s=LIMIT_S)
    return info.status


# -- sockets and filters


async def _add_chardev(session: Session, name: str, backend: ChardevBackend) -> None:
    await session.execute(qmp.ChardevAdd(id=name, backend=backend), limit_s=LIMIT_S)


async def test_a_server_without_wait_blocks_nobody_and_shows_its_peer(
    session: Session, tmp_path: Path
) -> None:
    """It is `disconnected:` until a client is there, and QEMU answers all the while (3.2, 3.4)."""
    address = UnixSocketAddress(path=str(tmp_path / "loop"))
    await _add_chardev(session, "server", SocketServer(addr=address))
    assert (await _filenames(session))["server"].startswith("disconnected:unix:")
    await _add_chardev(session, "client", SocketClient(addr=address))
    async with asyncio.timeout(LIMIT_S):
        while (await _filenames(session))["server"].startswith("disconnected:"):
            await session.wait_change(0.01)


async def _filenames(session: Session) -> dict[str, str]:
    found = await session.execute(qmp.QueryChardev(), limit_s=LIMIT_S)
    return {chardev.label: chardev.filename for chardev in found}


async def test_each_release_has_its_way_to_reconnect(session: Session, release: Release) -> None:
    """Seconds up to 10, milliseconds from 10 on; the other is refused by name (2.3, 3.5)."""
    nobody = InetSocketAddress(host="127.0.0.1", port=1)
    seconds = SocketClient(addr=nobody, reconnect_s=1)
    milliseconds = SocketClient(addr=nobody, reconnect_ms=200)
    refused = {"7.2": milliseconds, "11.1": seconds}.get(release)
    for name, client in (("seconds", seconds), ("milliseconds", milliseconds)):
        if client is refused:
            word = "reconnect-ms" if client is milliseconds else "reconnect"
            refusal = await _refusal(session, qmp.ChardevAdd(id=name, backend=client))
            assert f"Parameter 'backend.data.{word}' is unexpected" == refusal.text
        else:
            await _add_chardev(session, name, client)


async def test_a_client_without_reconnect_needs_its_server(session: Session) -> None:
    """Nobody listens: the chardev is refused, so either side could not start first (3.3)."""
    client = SocketClient(addr=InetSocketAddress(host="127.0.0.1", port=1))
    refusal = await _refusal(session, qmp.ChardevAdd(id="red0", backend=client))
    assert "Connection refused" in refusal.text


async def test_a_compare_without_its_sockets_is_the_end(session: Session, release: Release) -> None:
    """It aborts QEMU up to 10 and hangs it from 11: never sent before they are there (6.9)."""
    await session.execute(qmp.ObjectAdd(object=IoThread(id="iothread1")), limit_s=LIMIT_S)
    compare = ColoCompare(
        id="comp0", primary_in="a", secondary_in="b", outdev="c", iothread="iothread1"
    )
    with pytest.raises(errors.CommandUnknown):
        await session.execute(qmp.ObjectAdd(object=compare), limit_s=1.0)
    assert (release != "11.1") == session.closed


async def test_filters_are_switched_by_their_status(session: Session, tmp_path: Path) -> None:
    """Off and on, twice the same too, for the redirector and for a rewriter alone (6.3, 17.6)."""
    address = UnixSocketAddress(path=str(tmp_path / "out"))
    await _add_chardev(session, "out", SocketServer(addr=address))
    redirector = FilterRedirector(
        id="redire1", netdev="hn0", queue="rx", outdev="out", status="off"
    )
    rewriter = FilterRewriter(id="rew0", netdev="hn0", queue="all")
    for item, first in ((redirector, "off"), (rewriter, "on")):
        await session.execute(qmp.ObjectAdd(object=item), limit_s=LIMIT_S)
        path = f"/objects/{item.id}"
        shown = qmp.QomGet(path=path, property_name="status")
        assert first == await session.execute(shown, limit_s=LIMIT_S)
        for value in ("on", "off", "off", "on"):
            change = qmp.QomSet(path=path, property_name="status", value=value)
            await session.execute(change, limit_s=LIMIT_S)
            assert value == await session.execute(shown, limit_s=LIMIT_S)


# -- disks


async def test_the_local_child_of_a_quorum_could_be_removed(
    session: Session, release: Release, tmp_path: Path
) -> None:
    """QEMU takes children.0 away when asked, and numbers on: names are looked up first (5.8)."""
    for name in ("local", "remote", "third"):
        await _add_image(session, release, tmp_path, name)
    quorum = QuorumNode(
        node_name="disk0", read_pattern="fifo", vote_threshold=1, children=("local",)
    )
    await session.execute(qmp.BlockdevAdd(node=quorum), limit_s=LIMIT_S)
    await _change(session, node="remote")
    await _change(session, node="third")
    await _change(session, child="children.1")
    await _change(session, node="remote")
    assert ["children.0", "children.2", "children.3"] == await _children(session)
    await _change(session, child="children.0")
    assert ["children.2", "children.3"] == await _children(session)


async def test_a_child_taken_off_and_put_back_keeps_its_place(
    session: Session, release: Release, tmp_path: Path
) -> None:
    """As the promises have it, each generation's peer is children.1 again (5.8)."""
    for name in ("local", "remote"):
        await _add_image(session, release, tmp_path, name)
    quorum = QuorumNode(
        node_name="disk0", read_pattern="fifo", vote_threshold=1, children=("local",)
    )
    await session.execute(qmp.BlockdevAdd(node=quorum), limit_s=LIMIT_S)
    for _ in range(3):
        await _change(session, node="remote")
        assert ["children.0", "children.1"] == await _children(session)
        await _change(session, child="children.1")


async def _change(session: Session, *, child: str | None = None, node: str | None = None) -> None:
    command = qmp.XBlockdevChange(parent="disk0", child=child, node=node)
    await session.execute(command, limit_s=LIMIT_S)


async def _children(session: Session) -> list[str]:
    graph = await session.execute(qmp.XDebugQueryBlockGraph(), limit_s=LIMIT_S)
    return [found.child for found in graph.children_of("disk0")]


async def _add_image(session: Session, release: Release, folder: Path, name: str) -> None:
    path = folder / f"{name}.raw"
    made = [str(build_of(release).qemu_img), "create", "-q", "-f", "raw", str(path), "1M"]
    subprocess.run(made, check=True)  # noqa: ASYNC221 - it takes milliseconds
    node = RawNode(node_name=name, file=FileNode(filename=str(path)))
    await session.execute(qmp.BlockdevAdd(node=node), limit_s=LIMIT_S)


async def test_a_mirror_that_is_not_dismissed_tells_that_it_is_complete(
    session: Session, release: Release, tmp_path: Path
) -> None:
    """Ended when ready, it stays as concluded without an error; its target is free (5.16, 18.5)."""
    for name in ("source", "target"):
        await _add_image(session, release, tmp_path, name)
    mirror = qmp.BlockdevMirror(
        device="source", job_id="resync", target="target", sync="full", auto_dismiss=False
    )
    await session.execute(mirror, limit_s=LIMIT_S)
    await _until_job(session, "ready")
    await session.execute(qmp.BlockJobCancel(device="resync"), limit_s=LIMIT_S)
    assert None is await _until_job(session, "concluded")
    again = await _refusal(session, qmp.BlockJobCancel(device="resync"))
    assert _is_among(again, _cancelling(release).accepts)
    await session.execute(qmp.JobDismiss(id="resync"), limit_s=LIMIT_S)
    assert () == await session.execute(qmp.QueryJobs(), limit_s=LIMIT_S)


def _cancelling(release: Release) -> Execute:
    """The step that ends a copy, as plans have it."""
    plan = compile_offline("start", PAIRS["one"], version=_version(release))
    steps = (step for step in plan.steps if isinstance(step, Execute))
    return next(step for step in steps if isinstance(step.command, qmp.BlockJobCancel))


async def test_a_mirror_that_is_forced_to_end_is_not_complete(
    session: Session, release: Release, tmp_path: Path
) -> None:
    """Taken back, it is concluded with an error, which is what compiling looks at (18.5)."""
    for name in ("source", "target"):
        await _add_image(session, release, tmp_path, name)
    mirror = qmp.BlockdevMirror(
        device="source", job_id="resync", target="target", sync="full", auto_dismiss=False
    )
    await session.execute(mirror, limit_s=LIMIT_S)
    await _until_job(session, "ready")
    await session.execute(qmp.BlockJobCancel(device="resync", force=True), limit_s=LIMIT_S)
    assert "Operation canceled" == await _until_job(session, "concluded")


async def _until_job(session: Session, status: str) -> str | None:
    """Wait for the only job to have a status; give its error."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            (job,) = await session.execute(qmp.QueryJobs(), limit_s=LIMIT_S)
            if job.status == status:
                error: str | None = job.error
                return error
            await session.wait_change(0.01)


async def test_the_disk_is_copied_while_the_guest_has_not_run(release: Release) -> None:
    """JSON on the command line, an export below an overlay, a copy in prelaunch (5.1, 5.2, 5.3)."""
    async with bios_life(release, "tcg", shape=without_checkpoints) as life:
        await life.launch("alpha", "beta")
        plan = await life.compile("start")
        until = [step.address for step in plan.steps].index("alpha/wait/mirrored") + 1
        await life.execute(
            attrs.evolve(plan, steps=plan.steps[:until], recoveries=(), restored_after=None)
        )
        alpha, beta = await life.live("alpha"), await life.live("beta")
        graph = await life.sessions["beta"].execute(qmp.XDebugQueryBlockGraph(), limit_s=LIMIT_S)
    assert ("prelaunch", ["ready"]) == (alpha.run_state, [j.status for j in alpha.jobs.values()])
    assert (Child(name="children.0", node="parent0"),) == alpha.children["colo-disk0"]
    assert (Child(name="children.0", node="childs0"),) == beta.children["colo-disk0"]
    below = {child.child: child.node_name for child in graph.children_of("hidden0")}
    assert ("parent0", {"parent0": "parent0"}) == (below["backing"], beta.exports)


async def test_stopping_the_nbd_server_takes_its_exports_away(release: Release) -> None:
    """So one command ends the disk side of a promoted secondary (7.10)."""
    async with bios_life(release, "tcg", shape=without_checkpoints) as life:
        await life.launch("alpha", "beta")
        for step in (await life.compile("start")).steps:
            if isinstance(step, Execute) and step.node == "beta":
                await life.sessions["beta"].execute(step.command, limit_s=LIMIT_S)
        await life.sessions["beta"].execute(qmp.NbdServerStop(), limit_s=LIMIT_S)
        assert {} == (await life.live("beta")).exports


# -- COLO itself


def _told(session: Session) -> list[Notice]:
    seen: list[Notice] = []
    session.subscribe(seen.append)
    return seen


def _until_resume(seen: Iterable[Notice]) -> list[str]:
    # What follows is the checkpoint that proves the entry, where one can be made.
    words = [word for notice in seen if (word := _word(notice))]
    return words[: words.index("RESUME") + 1]


def _word(notice: Event | HungUp) -> str:
    match notice:
        case MigrationEvent(status=status):
            return status
        case StopEvent() | ResumeEvent() | ColoExitEvent():
            return str(notice.qmp_name)
        case _:
            return ""


async def test_the_events_of_an_entry(release: Release) -> None:
    """The primary passes the states that waits look for and resumes once; so does the other (4.3).

    A guest that never ran is not stopped for it. Under TCG no entry pauses (17.11).
    """
    async with bios_life(release, "tcg", shape=without_checkpoints) as life:
        await life.launch("alpha", "beta")
        alpha, beta = _told(life.sessions["alpha"]), _told(life.sessions["beta"])
        await life.run("start")
    device = [] if release == "7.2" else ["device"]
    assert ["setup", "active", *device, "colo", "RESUME"] == _until_resume(alpha)
    assert ["active", "colo", "RESUME"] == [w for w in _until_resume(beta) if w != "setup"]


async def test_the_secondary_notices_the_primary_s_death_and_not_the_other_way_round(
    release: Release,
) -> None:
    """COLO_EXIT comes at once to the secondary, to the primary only at a checkpoint (7.1, 7.2)."""
    async with bios_life(release, "tcg", shape=without_checkpoints) as life:
        await life.launch("alpha", "beta")
        await life.run("start")
        await life.kill("alpha")
        await _exited(life.sessions["beta"])
        beta = await life.live("beta")
    assert ("secondary", "running") == (beta.colo_mode, beta.run_state)
    async with bios_life(release, "tcg", shape=without_checkpoints) as life:
        await life.launch("alpha", "beta")
        await life.run("start")
        await life.kill("beta")
        await life.keeps_running("alpha")
        alpha = await life.live("alpha")
    assert ("primary", "running", False) == (alpha.colo_mode, alpha.run_state, alpha.colo_exited)


async def _exited(session: Session) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not session.latched.colo_exited:
            await session.wait_change(LIMIT_S)


async def test_a_failover_that_is_over_is_refused_as_outside_colo(release: Release) -> None:
    """A second lost-heartbeat is what plans accept, and the guest runs on (8.3)."""
    async with bios_life(release, "tcg", shape=without_checkpoints) as life:
        await life.launch("alpha", "beta")
        await life.run("start")
        await life.kill("beta")
        plan = await life.run("failover")
        (step,) = (
            step
            for step in plan.steps
            if isinstance(step, Execute) and isinstance(step.command, qmp.XColoLostHeartbeat)
        )
        assert _is_among(await _refusal(life.sessions["alpha"], step.command), step.accepts)
        await life.keeps_running("alpha")


def _rarely(pair: ColoPair) -> ColoPair:
    return attrs.evolve(pair, checkpoint_delay_ms=LONG_MS)


@pytest.mark.parametrize(
    ("release", "accelerator"),
    [("7.2", "kvm"), ("10.0", "kvm"), ("11.1", "tcg")],
    indirect=["release"],
)
async def test_the_same_delay_again_forces_a_checkpoint(
    release: Release, accelerator: Accelerator
) -> None:
    """Checkpoints are minutes apart, and one comes at once when asked for (4.11, 18.4)."""
    if accelerator == "kvm" and not HAS_KVM:
        pytest.skip("a checkpoint under TCG deadlocks this release (1.6), and there is no KVM")
    async with bios_life(release, accelerator, shape=_rarely) as life:
        await life.launch("alpha", "beta")
        await life.run("start")
        await _forced(life)


async def _forced(life: LivePair) -> None:
    marks = {session: session.mark() for session in life.sessions.values()}
    again = qmp.MigrateSetParameters(x_checkpoint_delay_ms=LONG_MS)
    await life.sessions["alpha"].execute(again, limit_s=LIMIT_S)
    async with asyncio.timeout(LIMIT_S):
        for session, mark in marks.items():
            while not session.checkpoint_since(mark):
                await session.wait_change(LIMIT_S)


async def test_continuing_where_nothing_waits(session: Session) -> None:
    """It is refused in the words that recoveries accept (17.10)."""
    refusal = await _refusal(session, qmp.MigrateContinue(state="pre-switchover"))
    assert "Migration not in expected state" in refusal.text

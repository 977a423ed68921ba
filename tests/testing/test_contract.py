"""What a controller may count on, of the fakes and of the real QEMUs alike."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

import attrs
import pytest
from tests.qemu.life import off_plan
from tests.testing.testbed import TESTBEDS, Pair, Testbed

from pycolo._execute import execute
from pycolo._probe import read
from pycolo.errors import Busy, CommandRefused, CommandUnknown, Unresponsive
from pycolo.evidence import Evidence
from pycolo.model.node import Node
from pycolo.model.pair import CHECKPOINTS_OFF_MS
from pycolo.plan import Plan, Wait
from pycolo.qmp import commands as qmp
from pycolo.qmp.chardevs import InetSocketAddress, SocketClient, SocketServer, UnixSocketAddress
from pycolo.qmp.commands import Command
from pycolo.qmp.objects import (
    FilterMirror,
    FilterRedirector,
    IoThread,
    YankBlockNode,
    YankChardev,
    YankMigration,
)
from pycolo.result import Report
from pycolo.session import Session
from pycolo.snapshot import Live, Snapshot, role_of
from pycolo.testing import World

LIMIT_S = 10.0
SHORT_S = 0.5
Answer = tuple[str, str] | None
GENERIC = "GenericError"
ON_TESTBEDS = pytest.mark.parametrize("testbed", TESTBEDS)


async def told(session: Session, command: Command, limit_s: float = LIMIT_S) -> Answer:
    """How QEMU refuses a command; None if it accepts it."""
    oob = command.oob_capable
    try:
        await session.execute(command, limit_s=limit_s, oob=oob)
    except CommandRefused as refused:
        return refused.error_class, refused.text
    return None


async def expect(session: Session, answers: Sequence[tuple[Command, Answer]]) -> None:
    """Send commands in order and see each answered as it should be."""
    found = [(command, await told(session, command)) for command, _ in answers]
    assert list(answers) == found


def acting(plan: Plan) -> list[str]:
    """The steps that act; a checkpoint in which a plan is compiled is waited for."""
    return [step.address for step in plan.steps if not isinstance(step, Wait)]


async def colo_exit(session: Session) -> None:
    """Wait until COLO_EXIT was seen."""
    end = asyncio.get_running_loop().time() + LIMIT_S
    while not session.latched.colo_exited:
        assert asyncio.get_running_loop().time() < end, "no COLO_EXIT"
        await session.wait_change(SHORT_S)


async def becomes(life: Pair, name: str, run_state: str) -> Live:
    """Wait for a node's run state, and give what it shows then."""
    end = asyncio.get_running_loop().time() + LIMIT_S
    while (live := await alone(life, name)).run_state != run_state:
        assert asyncio.get_running_loop().time() < end, live
    return live


async def at_rest(life: Pair) -> Snapshot:
    """What is there while no checkpoint is being made: in one, run states are of a moment."""
    while True:
        snapshot = await life.probe()
        states = [s for s in snapshot.nodes.values() if isinstance(s, Live)]
        if all(live.run_state != "colo" for live in states):
            return snapshot


async def alone(life: Pair, name: str) -> Live:
    """What one node shows, without asking the other."""
    live = await read(life.sessions[name])
    assert isinstance(live, Live), live
    return live


async def observer(life: Pair, name: str, limit_s: float = LIMIT_S) -> Session:
    """Open another session, on the monitor for readers."""
    return await reach(life, life.pair.node(name), limit_s, control=False)


async def reach(life: Pair, node: Node, limit_s: float, *, control: bool = True) -> Session:
    """Open a session on either monitor."""
    world = getattr(life, "world", None)
    monitor = node.control_monitor if control else node.observer_monitor
    way = world.connector if isinstance(world, World) else None
    return await Session.connect(node.name, monitor, limit_s=limit_s, connector=way)


async def protected(life: Pair) -> None:
    """Bring alpha and beta under protection."""
    await life.launch("alpha", "beta")
    await life.run("start")


async def protected_at_rest(life: Pair) -> None:
    """The same with no checkpoint after the start's own.

    Silence inside a checkpoint is another matter: a primary whose guest stands has flushed its disk
    already, and the main loops hang elsewhere (qemu-behaviour 7.3).
    """
    life.pair = attrs.evolve(life.pair, checkpoint_delay_ms=CHECKPOINTS_OFF_MS)
    await protected(life)


# -- connections


@ON_TESTBEDS
def test_a_monitor_serves_one_client(testbed: Testbed) -> None:
    """A second client gets no greeting until the first has left; the other monitor is free."""

    async def scenario(life: Pair) -> None:
        await life.launch("alpha")
        node = life.pair.node("alpha")
        with pytest.raises(Busy):
            await reach(life, node, SHORT_S)
        other = await reach(life, node, LIMIT_S, control=False)
        assert life.version == other.version
        await other.aclose()
        await life.sessions["alpha"].aclose()
        again = await reach(life, node, LIMIT_S)
        life.sessions["alpha"] = again
        assert (await life.live("alpha")).instance == await again.instance(limit_s=LIMIT_S)

    testbed.play(scenario)


# -- fresh QEMUs


@ON_TESTBEDS
def test_fresh_qemus_are_what_their_launch_promises(testbed: Testbed) -> None:
    """A probe of both shows what the compiler counts on after a launch."""

    async def scenario(life: Pair) -> None:
        done = await life.launch("alpha", "beta")
        plan = done.plan if isinstance(done, Report) else done
        assert isinstance(plan, Plan)
        assert {} == off_plan(plan.planned_state, await life.probe())
        assert "unprotected" == role_of(await life.live("alpha"))
        assert "fresh secondary" == role_of(await life.live("beta"))

    testbed.play(scenario)


@ON_TESTBEDS
def test_a_fresh_primary_refuses_what_it_lacks(testbed: Testbed) -> None:
    """Each command on a thing that is not there is refused in QEMU's words."""

    async def scenario(life: Pair) -> None:
        await life.launch("alpha", "beta")
        seven = life.version.major < 10
        no_colo = "The feature 'colo' is not enabled" if seven else "VM is not in COLO mode"
        no_pair = "'-incoming' was not specified on the command line"
        refused = "Failed to connect to '127.0.0.99:9999': Connection refused"
        far = InetSocketAddress(host="127.0.0.99", port=9999)
        answers: list[tuple[Command, Answer]] = [
            (qmp.XColoLostHeartbeat(), (GENERIC, no_colo)),
            (qmp.MigrateIncoming(uri="tcp:127.0.0.99:9998"), (GENERIC, no_pair)),
            (qmp.NbdServerStop(), (GENERIC, "NBD server not running")),
            (qmp.ObjectDel(id="m0"), (GENERIC, "object 'm0' not found")),
            (qmp.ChardevRemove(id="mirror0"), (GENERIC, "Chardev 'mirror0' not found")),
            (
                qmp.BlockdevDel(node_name="nbd0"),
                (GENERIC, "Failed to find node with node-name='nbd0'"),
            ),
            (
                qmp.XBlockdevChange(parent="colo-disk0", child="children.1"),
                (GENERIC, "Node 'colo-disk0' does not have child 'children.1'"),
            ),
            (
                qmp.XBlockdevChange(parent="colo-disk0", child="children.0"),
                (
                    GENERIC,
                    "The number of children cannot be lower than the vote threshold 1",
                ),
            ),
            (
                qmp.XBlockdevChange(parent="colo-disk0", node="nbd0"),
                (GENERIC, "Node 'nbd0' not found"),
            ),
            (
                qmp.BlockJobCancel(device="resync"),
                ("DeviceNotActive", "Block job 'resync' not found"),
            ),
            (qmp.JobDismiss(id="resync"), (GENERIC, "Job not found")),
            (
                qmp.QomGet(path="/objects/m0", property_name="status"),
                ("DeviceNotFound", "Device '/objects/m0' not found"),
            ),
            (
                qmp.QomSet(path="/objects/m0", property_name="status", value="on"),
                ("DeviceNotFound", "Device '/objects/m0' not found"),
            ),
            (
                qmp.Yank(instances=(YankBlockNode(node_name="nbd0"),)),
                ("DeviceNotFound", "Instance not found"),
            ),
            (
                qmp.Yank(instances=(YankMigration(),)),
                ("DeviceNotFound", "Instance not found"),
            ),
            (
                qmp.ChardevAdd(id="client", backend=SocketClient(addr=far)),
                (GENERIC, f"Failed to add chardev 'client': {refused}"),
            ),
            (
                qmp.ObjectAdd(
                    object=FilterMirror(id="m0", netdev="none", queue="tx", outdev="mirror0")
                ),
                (GENERIC, "Parameter 'netdev' expects a network backend id"),
            ),
            (
                qmp.ObjectAdd(
                    object=FilterMirror(id="m0", netdev="hn0", queue="tx", outdev="mirror0")
                ),
                ("DeviceNotFound", "Device 'mirror0' not found"),
            ),
            (
                qmp.ObjectAdd(
                    object=FilterRedirector(id="r", netdev="hn0", queue="rx", outdev="mirror0")
                ),
                ("DeviceNotFound", "OUT Device 'mirror0' not found"),
            ),
            (
                qmp.ObjectAdd(
                    object=FilterRedirector(
                        id="r",
                        netdev="hn0",
                        queue="rx",
                        insert="before",
                        position="id=rew0",
                        outdev="mirror0",
                    )
                ),
                (GENERIC, "filter 'rew0' not found"),
            ),
        ]
        await expect(life.sessions["alpha"], answers)
        assert "unprotected" == role_of(await life.live("alpha"))

    testbed.play(scenario)


@ON_TESTBEDS
def test_what_is_there_is_not_made_again(testbed: Testbed) -> None:
    """The second of two equal commands is refused, and the first one's work stays."""

    async def scenario(life: Pair) -> None:
        await life.launch("alpha", "beta")
        path = life.pair.node("alpha").socket_path("twice")
        chardev = qmp.ChardevAdd(
            id="twice", backend=SocketServer(addr=UnixSocketAddress(path=path), wait=False)
        )
        thread = qmp.ObjectAdd(object=IoThread(id="thread"))
        text = "attempt to add duplicate property 'thread' to object (type 'container')"
        mirror = qmp.ObjectAdd(
            object=FilterMirror(id="m9", netdev="hn0", queue="tx", outdev="twice")
        )
        second = qmp.ObjectAdd(
            object=FilterMirror(id="m8", netdev="hn0", queue="tx", outdev="twice")
        )
        seven = life.version.major < 10
        taken = "Device 'twice' is in use" if seven else "chardev 'twice' is already in use"
        await expect(
            life.sessions["alpha"],
            [
                (chardev, None),
                (chardev, (GENERIC, "Chardev with id 'twice' already exists")),
                (thread, None),
                (thread, (GENERIC, text)),
                (mirror, None),
                (second, (GENERIC, taken)),
                (qmp.ChardevRemove(id="twice"), (GENERIC, "Chardev 'twice' is busy")),
                (qmp.ObjectDel(id="m9"), None),
                (qmp.ChardevRemove(id="twice"), None),
                (qmp.ObjectDel(id="thread"), None),
            ],
        )

    testbed.play(scenario)


@ON_TESTBEDS
def test_a_secondary_is_prepared_once(testbed: Testbed) -> None:
    """NBD server, export and listener are made, and made again they are refused."""

    async def scenario(life: Pair) -> None:
        await life.launch("alpha", "beta")
        host = life.pair.node("beta").address
        start = qmp.NbdServerStart(addr=InetSocketAddress(host=host, port=9999))
        export = qmp.BlockExportAdd(id="parent0", node_name="parent0", writable=True)
        other = qmp.BlockExportAdd(id="other", node_name="parent0", writable=True)
        absent = qmp.BlockExportAdd(id="absent", node_name="absent")
        incoming = qmp.MigrateIncoming(uri=f"tcp:{host}:9998")
        already = "NBD server already has export named 'parent0'"
        await expect(
            life.sessions["beta"],
            [
                (export, (GENERIC, "NBD server not running")),
                (start, None),
                (start, (GENERIC, "NBD server already running")),
                (absent, (GENERIC, "Cannot find device='' nor node-name='absent'")),
                (export, None),
                (export, (GENERIC, "Block export id 'parent0' is already in use")),
                (other, (GENERIC, already)),
                (incoming, None),
                (incoming, (GENERIC, "The incoming migration has already been started")),
            ],
        )
        assert "prepared secondary" == role_of(await life.live("beta"))
        await expect(life.sessions["beta"], [(qmp.NbdServerStop(), None)])
        assert {} == (await life.live("beta")).exports

    testbed.play(scenario)


@ON_TESTBEDS
def test_capabilities_follow_the_version(testbed: Testbed) -> None:
    """x-colo alone is refused from 11.0 on, and a refusal changes nothing."""

    async def scenario(life: Pair) -> None:
        await life.launch("alpha")
        alone = qmp.MigrateSetCapabilities.turning_on("x-colo", "events")
        both = qmp.MigrateSetCapabilities.turning_on("return-path", "x-colo", "events")
        new = life.version.major >= 11
        text = "Capability 'x-colo' requires capability 'return-path'"
        await expect(life.sessions["alpha"], [(alone, (GENERIC, text) if new else None)])
        on = (await life.live("alpha")).capabilities
        assert (set() if new else {"x-colo", "events"}) == on
        await expect(life.sessions["alpha"], [(both, None)])

    testbed.play(scenario)


@ON_TESTBEDS
def test_a_client_socket_reconnects_by_the_versions_word(testbed: Testbed) -> None:
    """The option of the other versions is unexpected."""

    async def scenario(life: Pair) -> None:
        await life.launch("alpha")
        far = InetSocketAddress(host="127.0.0.99", port=9999)
        in_s = qmp.ChardevAdd(id="in_s", backend=SocketClient(addr=far, reconnect_s=1))
        in_ms = qmp.ChardevAdd(id="in_ms", backend=SocketClient(addr=far, reconnect_ms=900))
        wrong = {7: "reconnect-ms", 11: "reconnect"}.get(life.version.major)
        text = f"Parameter 'backend.data.{wrong}' is unexpected"
        refused = (GENERIC, text)
        answers: list[tuple[Command, Answer]] = [
            (in_s, refused if wrong == "reconnect" else None),
            (in_ms, refused if wrong == "reconnect-ms" else None),
        ]
        await expect(life.sessions["alpha"], answers)

    testbed.play(scenario)


# -- protection


@ON_TESTBEDS
def test_start_keeps_its_promise(testbed: Testbed) -> None:
    """A pair that was started is what the plan promised, and nothing is left to do."""

    async def scenario(life: Pair) -> None:
        await life.launch("alpha", "beta")
        plan = await life.run("start")
        assert {} == off_plan(plan.planned_state, await at_rest(life))
        assert [] == acting(await life.compile("start"))

    testbed.play(scenario)


@ON_TESTBEDS
def test_a_protected_primary_refuses_what_would_break_it(testbed: Testbed) -> None:
    """Repeated commands are refused or do nothing, by version."""

    async def scenario(life: Pair) -> None:
        await protected(life)
        session = life.sessions["alpha"]
        progress = (GENERIC, "There's a migration process in progress")
        again = qmp.MigrateSetCapabilities.turning_on("events")
        seven = life.version.major < 10
        proceed = qmp.MigrateContinue(state="pre-switchover")
        have_chain = bool(life.pair.chains)
        answers: list[tuple[Command, Answer]] = [
            (proceed, (GENERIC, "Migration not in expected state: colo")),
            (again, None if seven else progress),
            (
                qmp.XBlockdevChange(parent="colo-disk0", node="nbd0"),
                (GENERIC, "The node nbd0 already has a parent"),
            ),
            (qmp.BlockdevDel(node_name="nbd0"), (GENERIC, "Block device nbd0 is in use")),
        ]
        if have_chain:
            on = qmp.QomSet(path="/objects/m0", property_name="status", value="on")
            busy = (GENERIC, "Chardev 'mirror0' is busy")
            answers += [(on, None), (qmp.ChardevRemove(id="mirror0"), busy)]
        if not seven:
            uri = f"tcp:{life.pair.node('beta').address}:9998"
            answers.append((qmp.Migrate(uri=uri), progress))
        await expect(session, answers)
        assert "primary" == role_of(await life.live("alpha"))

    testbed.play(scenario)


# -- deaths


@ON_TESTBEDS
def test_a_primary_runs_alone_after_its_secondary_died(testbed: Testbed) -> None:
    """Its primary shows nothing at first, fails over as promised, and is protected anew."""

    async def scenario(life: Pair) -> None:
        await protected(life)
        await life.kill("beta")
        assert "primary" == (await life.live("alpha")).colo_mode
        plan = await life.run("failover")
        assert {} == off_plan(plan.planned_state, await life.probe())
        await life.replace("beta", "gamma")
        plan = await life.run("resume")
        assert {} == off_plan(plan.planned_state, await at_rest(life))
        assert [] == acting(await life.compile("resume"))

    testbed.play(scenario)


@ON_TESTBEDS
def test_a_secondary_runs_alone_after_its_primary_died(testbed: Testbed) -> None:
    """Its secondary says COLO_EXIT at once, is promoted as promised, and is protected anew."""

    async def scenario(life: Pair) -> None:
        await protected(life)
        await life.kill("alpha")
        await colo_exit(life.sessions["beta"])
        assert "secondary" == (await life.live("beta")).colo_mode
        plan = await life.run("failover")
        assert {} == off_plan(plan.planned_state, await life.probe())
        await life.replace("alpha", "gamma")
        plan = await life.run("resume")
        assert {} == off_plan(plan.planned_state, await at_rest(life))
        assert [] == acting(await life.compile("resume"))

    testbed.play(scenario)


@ON_TESTBEDS
def test_a_primary_notices_at_its_next_checkpoint(testbed: Testbed) -> None:
    """COLO_EXIT comes when it is told to make one; the guest stays as it is, and mode primary."""

    async def scenario(life: Pair) -> None:
        if not life.pair.chains:
            pytest.skip("checkpoints deadlock this QEMU under TCG (qemu-behaviour 1.6)")
        await protected(life)
        await life.kill("beta")
        await colo_exit(life.sessions["alpha"])
        live = await life.live("alpha")
        assert ("primary", "colo") == (live.colo_mode, live.migration)
        assert "broken primary" == role_of(live)

    testbed.play(scenario)


@ON_TESTBEDS
def test_a_primary_continues_after_its_secondary_quits(testbed: Testbed) -> None:
    """`stop` ends protection, and the guest's primary is as it was before."""

    async def scenario(life: Pair) -> None:
        await protected(life)
        plan = await life.run("stop")
        assert {} == off_plan(plan.planned_state, await life.probe())
        assert "unprotected" == role_of(await life.live("alpha"))

    testbed.play(scenario)


@ON_TESTBEDS
def test_whoever_ends_colo_does_not_end_it_for_the_other(testbed: Testbed) -> None:
    """The peer of a primary that runs alone exits COLO, and its guest runs on (8.6)."""

    async def scenario(life: Pair) -> None:
        await protected(life)
        await expect(life.sessions["alpha"], [(qmp.XColoLostHeartbeat(), None)])
        await colo_exit(life.sessions["beta"])
        live = await becomes(life, "alpha", "running")
        assert ("none", "primary") == (live.colo_mode, live.last_colo_mode)
        live = await life.live("beta")
        assert "broken secondary" == role_of(live)
        again = await told(life.sessions["alpha"], qmp.XColoLostHeartbeat())
        assert again is not None

    testbed.play(scenario)


# -- silence


@ON_TESTBEDS
def test_a_silent_secondary_hangs_its_primary_until_the_disk_is_yanked(testbed: Testbed) -> None:
    """Yanking the migration does not help; yanking the disk does, and the late reply comes."""

    async def scenario(life: Pair) -> None:
        await protected_at_rest(life)
        session = life.sessions["alpha"]
        life.signal("beta", signal.SIGSTOP)
        sent = session.send(qmp.XColoLostHeartbeat())
        with pytest.raises(CommandUnknown):
            await sent.reply(SHORT_S)
        assert sent.pending
        with pytest.raises(Unresponsive):
            await observer(life, "alpha", SHORT_S)
        assert None is await told(session, qmp.Yank(instances=(YankMigration(),)))
        with pytest.raises(CommandUnknown):
            await sent.reply(SHORT_S)
        nbd = qmp.Yank(instances=(YankBlockNode(node_name="nbd0"),))
        assert None is await told(session, nbd)
        await sent.reply(LIMIT_S)
        live = await becomes(life, "alpha", "running")
        assert "none" == live.colo_mode
        life.signal("beta", signal.SIGCONT)

    testbed.play(scenario)


@ON_TESTBEDS
def test_many_questions_to_a_hung_primary_do_not_keep_a_yank_from_it(testbed: Testbed) -> None:
    """However many commands wait for its main loop, it is asked and yanked out of band."""

    async def scenario(life: Pair) -> None:
        await protected_at_rest(life)
        session = life.sessions["alpha"]
        life.signal("beta", signal.SIGSTOP)
        sent = session.send(qmp.XColoLostHeartbeat())
        asked = [session.send(qmp.QueryStatus()) for _ in range(20)]
        with pytest.raises(CommandUnknown):
            await sent.reply(SHORT_S)
        nbd = qmp.Yank(instances=(YankBlockNode(node_name="nbd0"),))
        assert None is await told(session, nbd)
        await sent.reply(LIMIT_S)
        for question in asked:
            await question.reply(LIMIT_S)
        life.signal("beta", signal.SIGCONT)

    testbed.play(scenario)


@ON_TESTBEDS
def test_a_failover_does_not_hang_on_a_silent_secondary(testbed: Testbed) -> None:
    """The plan's yanks come before anything that would hang."""

    async def scenario(life: Pair) -> None:
        await protected_at_rest(life)
        life.signal("beta", signal.SIGSTOP)
        silent = life.sessions.pop("beta")
        plan = await life.compile("failover")
        victim = plan.victims()[0]
        fence = Evidence.of(victim, kind="fence", who="the test", how="stopped", when="now")
        # Nobody reaches the host of what was fenced.
        hosts = {"alpha": life.hosts["alpha"]}
        report = await execute(plan, life.sessions, hosts, evidence={"beta": fence})
        assert None is report.failed, report.advice
        assert {} == off_plan(plan.planned_state, await life.probe())
        life.signal("beta", signal.SIGCONT)
        await silent.aclose()

    testbed.play(scenario)


@ON_TESTBEDS
def test_a_silent_primary_does_not_hang_its_secondary(testbed: Testbed) -> None:
    """The secondary runs alone at once, without a yank (qemu-behaviour 7.4)."""

    async def scenario(life: Pair) -> None:
        await protected_at_rest(life)
        session = life.sessions["beta"]
        life.signal("alpha", signal.SIGSTOP)
        await expect(session, [(qmp.NbdServerStop(), None), (qmp.XColoLostHeartbeat(), None)])
        live = await becomes(life, "beta", "running")
        assert ("none", "secondary") == (live.colo_mode, live.last_colo_mode)
        life.signal("alpha", signal.SIGCONT)

    testbed.play(scenario)


@ON_TESTBEDS
def test_making_a_disk_of_a_silent_peer_hangs_until_the_peer_ends(testbed: Testbed) -> None:
    """A yank of the node that is being made does not end the command (qemu-behaviour 5.19)."""

    async def scenario(life: Pair) -> None:
        await life.launch("alpha", "beta")
        host = life.pair.node("beta").address
        server = InetSocketAddress(host=host, port=9999)
        await expect(life.sessions["beta"], [(qmp.NbdServerStart(addr=server), None)])
        life.signal("beta", signal.SIGSTOP)
        session = life.sessions["alpha"]
        add = qmp.BlockdevAdd.from_arguments(
            {
                "driver": "nbd",
                "node-name": "nbd0",
                "server": {"type": "inet", "host": host, "port": "9999"},
                "export": "parent0",
            }
        )
        sent = session.send(add)
        with pytest.raises(CommandUnknown):
            await sent.reply(SHORT_S)
        nbd = qmp.Yank(instances=(YankBlockNode(node_name="nbd0"),))
        assert None is await told(session, nbd)
        with pytest.raises(CommandUnknown):
            await sent.reply(SHORT_S)
        await life.kill("beta")
        reset = "Failed to read initial magic: Unable to read from socket: Connection reset by peer"
        with pytest.raises(CommandRefused, match=reset):
            await sent.reply(LIMIT_S)
        assert None is await told(session, qmp.QueryStatus())

    testbed.play(scenario)


@ON_TESTBEDS
def test_a_yank_is_all_or_nothing(testbed: Testbed) -> None:
    """One unknown instance among several, and none is cut (qemu-behaviour 7.7)."""

    async def scenario(life: Pair) -> None:
        if not life.pair.chains:
            pytest.skip("this shape has no chardevs")
        await protected(life)
        session = life.sessions["alpha"]
        both = qmp.Yank(instances=(YankChardev(id="mirror0"), YankChardev(id="none")))
        assert ("DeviceNotFound", "Instance not found") == await told(session, both)
        assert (await life.live("alpha")).chardevs["mirror0"]

    testbed.play(scenario)

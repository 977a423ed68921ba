"""The session against a scripted monitor: every way in which a connection can go wrong."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.scripted_qmp import HANG_UP, SILENCE, Refuse, ScriptedQmp, scripted_qmp

from pycolo import errors
from pycolo.model import TcpMonitor, UnixMonitor
from pycolo.model.node import Monitor
from pycolo.qmp import commands as qmp
from pycolo.qmp import events
from pycolo.qmp.replies import Version
from pycolo.session import HungUp, Latched, Notice, Session, open_monitor, wait_any_change

LIMIT_S = 5.0
SHORT_S = 0.1


@pytest.fixture
async def script(tmp_path: Path) -> AsyncGenerator[ScriptedQmp]:
    """A scripted monitor."""
    async with scripted_qmp(tmp_path / "qmp") as served:
        yield served


@pytest.fixture
async def session(script: ScriptedQmp) -> AsyncGenerator[Session]:
    """A session with the scripted monitor."""
    async with await _connect(script.path) as opened:
        yield opened


async def _connect(path: Path, limit_s: float = LIMIT_S) -> Session:
    return await Session.connect("alpha", UnixMonitor(path=str(path)), limit_s=limit_s)


async def test_greeting_gives_the_version(session: Session) -> None:
    """The version comes from the greeting, without a command."""
    assert Version(major=11, minor=1, micro=3) == session.version


async def test_missing_socket_is_named(tmp_path: Path) -> None:
    """A path without a socket fails the connection and says so."""
    with pytest.raises(errors.ConnectionFailed) as caught:
        await _connect(tmp_path / "none")
    assert ("alpha", "there is no such socket") == (caught.value.node, caught.value.why)


async def test_regular_file_is_no_socket(tmp_path: Path) -> None:
    """A path to something else than a socket is told from a socket nobody serves."""
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.ConnectionFailed, match="it is no socket"):
        await _connect(tmp_path / "file")


async def test_socket_left_behind_is_refused(tmp_path: Path) -> None:
    """A socket whose server ended is told from one that never was."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "qmp"))
    with pytest.raises(errors.ConnectionFailed, match="nobody listens"):
        await _connect(tmp_path / "qmp")


async def test_other_protocol_is_named(script: ScriptedQmp) -> None:
    """A server that does not speak QMP fails the connection."""
    script.first_bytes = b"220 mail.example.org ESMTP\r\n"
    with pytest.raises(errors.ConnectionFailed, match="does not speak QMP"):
        await _connect(script.path)


async def test_reply_to_a_client_before_us_is_passed_over(script: ScriptedQmp) -> None:
    """Somebody hung up on a command, and QEMU answers whoever comes next before it greets."""
    script.first_bytes = b'{"return": {}, "id": "__qmp#00007"}\r\n'
    reached = []

    async def reach(node: str, _: Monitor) -> socket.socket:
        reached.append(node)
        if len(reached) > 1:
            script.first_bytes = None
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(0)
        sock.connect(str(script.path))
        return sock

    monitor = UnixMonitor(path=str(script.path))
    async with await Session.connect("alpha", monitor, limit_s=LIMIT_S, connector=reach) as session:
        assert (False, ["alpha", "alpha"]) == (session.closed, reached)


async def test_monitor_without_out_of_band_is_refused(script: ScriptedQmp) -> None:
    """A monitor that cannot run commands out of band is of no use in an emergency."""
    script.offers = []
    with pytest.raises(errors.ConnectionFailed, match="out-of-band"):
        await _connect(script.path)


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_connect_leaves_no_socket_open(script: ScriptedQmp, turns: int) -> None:
    """At whatever turn of the event loop the caller is cancelled."""
    opened = list[socket.socket]()

    async def connector(node: str, monitor: Monitor) -> socket.socket:
        opened.append(await open_monitor(node, monitor))
        return opened[-1]

    monitor = UnixMonitor(path=str(script.path))
    connecting = Session.connect("alpha", monitor, limit_s=LIMIT_S, connector=connector)
    task = asyncio.create_task(connecting)
    for _ in range(turns):
        await asyncio.sleep(0)  # a turn of the loop
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        await task.result().aclose()
    await asyncio.sleep(0)  # the transport closes a socket in the turn after its own end
    assert [-1] * len(opened) == [one.fileno() for one in opened]


async def test_hang_up_before_the_greeting_fails(script: ScriptedQmp) -> None:
    """A server that closes at once fails the connection, and says nothing about the node."""
    script.first_bytes = b""
    task = asyncio.create_task(_connect(script.path))
    await script.greeted.wait()
    script.hang_up()
    with pytest.raises(errors.ConnectionFailed, match="hung up"):
        await task


async def test_qemu_that_ends_before_it_reads_a_command_has_hung_up(
    session: Session, script: ScriptedQmp, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that is reset has ended as any other, and no error is logged."""
    script.stop_reading()
    sent = session.send(qmp.QueryStatus())
    script.hang_up()
    with pytest.raises(errors.CommandUnknown, match="lost"):
        await sent.reply(LIMIT_S)
    assert "QEMU hung up" == session.why_closed
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_hang_up_right_after_the_negotiation_fails(script: ScriptedQmp) -> None:
    """A server that closes the moment it is ready fails the connection, not the program."""
    script.leaves_after_negotiation = True
    with pytest.raises(errors.ConnectionFailed, match="hung up"):
        await _connect(script.path)


@pytest.mark.usefixtures("session")
async def test_second_client_is_busy(script: ScriptedQmp) -> None:
    """A monitor that is held by somebody gives no greeting: Busy, which names the address."""
    with pytest.raises(errors.Busy) as caught:
        await _connect(script.path, SHORT_S)
    assert str(script.path) == caught.value.address


async def test_unanswered_negotiation_is_unresponsive(script: ScriptedQmp) -> None:
    """Greeted and then silent means a stuck main loop, not a busy monitor."""
    script.negotiates = False
    with pytest.raises(errors.Unresponsive):
        await _connect(script.path, SHORT_S)


async def test_tcp_port_without_server_is_refused() -> None:
    """A monitor on TCP is told to be absent in words, with host and port."""
    with pytest.raises(errors.ConnectionFailed, match=r"127\.0\.0\.1:1: Connection refused"):
        await Session.connect("alpha", TcpMonitor(host="127.0.0.1", port=1), limit_s=LIMIT_S)


async def test_refusal_carries_class_and_text(script: ScriptedQmp, session: Session) -> None:
    """QEMU's refusal keeps its class and words, and the session continues."""
    script.replies["object-del"] = Refuse("object 'm0' not found", "DeviceNotFound")
    with pytest.raises(errors.CommandRefused) as caught:
        await session.execute(qmp.ObjectDel(id="m0"), limit_s=LIMIT_S)
    refused = ("object-del", "DeviceNotFound", "object 'm0' not found")
    assert refused == (caught.value.command, caught.value.error_class, caught.value.text)
    await session.execute(qmp.Stop(), limit_s=LIMIT_S)


async def test_silence_is_unknown_and_the_late_reply_is_no_other_commands(
    script: ScriptedQmp, session: Session
) -> None:
    """A reply that comes late is taken by its own command, which may be waited for again."""
    script.replies["query-name"] = SILENCE
    sent = session.send(qmp.QueryName())
    with pytest.raises(errors.CommandUnknown):
        await sent.reply(SHORT_S)
    assert sent.pending
    script.replies["query-status"] = {"running": True, "status": "running"}
    status = await session.execute(qmp.QueryStatus(), limit_s=LIMIT_S)
    script.release("query-name", {"name": "late"})
    assert ("running", "late") == (status.status, (await sent.reply(LIMIT_S)).name)


async def test_lost_connection_leaves_the_effect_unknown(
    script: ScriptedQmp, session: Session
) -> None:
    """A hang-up while a command is in flight is unknown; a command after it was never sent."""
    script.replies["migrate"] = HANG_UP
    with pytest.raises(errors.CommandUnknown, match="connection was lost"):
        await session.execute(qmp.Migrate(uri="tcp:127.0.0.2:1"), limit_s=LIMIT_S)
    await session.wait_change(LIMIT_S, since=-1)
    with pytest.raises(errors.ConnectionFailed):
        await session.execute(qmp.Stop(), limit_s=LIMIT_S)
    assert ["migrate"] == script.commands


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b'{"return": {"name": "' + b"x" * 20_000_000 + b'"}}', id="20 MB"),
        pytest.param(b'{"return": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", id="deep"),
        pytest.param(b'{"return": ' + b"9" * 5_000 + b"}", id="a huge number"),
        pytest.param(b'{"return": "\xff"}', id="no text"),
        pytest.param(b"[1, 2]", id="no message"),
    ],
)
async def test_what_no_client_can_take_in_ends_the_connection(
    script: ScriptedQmp, session: Session, sent: bytes
) -> None:
    """The command's effect is unknown at once, and whoever listens is told of the end."""
    told: list[Notice] = []
    session.subscribe(told.append)
    script.replies["query-name"] = SILENCE
    asked = session.send(qmp.QueryName())
    await script.until_seen("query-name")
    script.say_raw(sent + b"\r\n")
    with pytest.raises(errors.CommandUnknown, match="the connection was lost"):
        await asked.reply(LIMIT_S)
    await session.wait_change(LIMIT_S, since=0)
    assert session.closed
    assert [True] == [isinstance(notice, HungUp) for notice in told]


async def test_reply_of_another_kind_is_a_parse_error(
    script: ScriptedQmp, session: Session
) -> None:
    """A reply that is not one to the command is refused with the path of what is wrong."""
    script.replies["query-status"] = {"running": "yes", "status": "running"}
    with pytest.raises(errors.ParseError, match=r"return\.running"):
        await session.execute(qmp.QueryStatus(), limit_s=LIMIT_S)


async def test_out_of_band_is_sent_as_such(script: ScriptedQmp, session: Session) -> None:
    """An out-of-band command has the key of one."""
    script.replies["query-yank"] = []
    await session.execute(qmp.QueryYank(), limit_s=LIMIT_S, oob=True)
    assert "query-yank" == script.seen[0]["exec-oob"]


async def _told(session: Session, script: ScriptedQmp) -> list[Notice]:
    """Everything a subscriber was told, up to the hang-up."""
    notices: list[Notice] = []
    ended = asyncio.Event()

    def take(notice: Notice) -> None:
        notices.append(notice)
        if isinstance(notice, HungUp):
            ended.set()

    session.subscribe(take)
    script.hang_up()
    await ended.wait()
    return notices


@pytest.mark.parametrize("cut_at", [1, 20, -3, -1])
async def test_event_that_is_cut_by_the_negotiation_comes_in_order(
    script: ScriptedQmp, cut_at: int
) -> None:
    """A part of its line comes with the reply to the negotiation, and the rest with later lines."""
    lines = [
        json.dumps({"event": name, "timestamp": {"seconds": 1, "microseconds": 2}}).encode()
        for name in ("STOP", "RESUME", "STOP", "RESUME")
    ]
    stop, cut, *later = [line + b"\r\n" for line in lines]
    script.after_negotiation = stop + cut[:cut_at]
    async with await _connect(script.path) as session:
        script.say_raw(b"".join((cut[cut_at:], *later)))
        told = await _told(session, script)
    kinds = [events.ResumeEvent, events.StopEvent, events.ResumeEvent, HungUp]
    assert kinds == [type(notice) for notice in told]


async def test_subscriber_that_raises_ends_the_connection(
    script: ScriptedQmp, session: Session
) -> None:
    """Whoever waits for a reply learns at once that none can come, and the session is closed."""

    def take(notice: Notice) -> None:
        if not isinstance(notice, HungUp):
            raise TypeError(notice)

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    session.subscribe(take)
    script.replies["query-name"] = SILENCE
    asked = session.send(qmp.QueryName())
    await script.until_seen("query-name")
    script.event("STOP")
    with pytest.raises(errors.CommandUnknown, match="the connection was lost"):
        await asked.reply(LIMIT_S)
    assert session.closed


async def test_events_are_typed_latched_and_told(script: ScriptedQmp, session: Session) -> None:
    """Subscribers see typed events in order and then the hang-up; some events are latched."""
    script.event("STOP")
    script.event("COLO_EXIT", mode="primary", reason="error")
    script.event("VSERPORT_CHANGE", id="x", open=True)
    notices = await _told(session, script)
    kinds = (events.StopEvent, events.ColoExitEvent, events.OtherEvent, HungUp)
    assert kinds == tuple(type(notice) for notice in notices)
    assert Latched(colo_exited=True) == session.latched
    assert session.closed


async def test_new_generation_forgets_the_old_exit(script: ScriptedQmp, session: Session) -> None:
    """A COLO_EXIT of the generation before is forgotten when a new one begins."""
    script.event("COLO_EXIT", mode="secondary", reason="request")
    await session.wait_change(LIMIT_S, since=0)
    session.begin_generation()
    assert Latched() == session.latched


async def test_bad_children_are_latched_once(script: ScriptedQmp, session: Session) -> None:
    """However often a child fails, its name is kept once: memory is bounded."""
    bad = {"node-name": "nbd0", "type": "write", "sector-num": 0, "sectors-count": 8}
    for _ in range(3):
        script.event("QUORUM_REPORT_BAD", **bad)
    while session.mark() < 3:
        await session.wait_change(LIMIT_S, since=session.mark())
    assert ("nbd0",) == session.latched.quorum_bad


async def test_report_that_was_held_back_is_no_news(script: ScriptedQmp, session: Session) -> None:
    """A report of the disk before, sent again within a second, says nothing of the new one."""
    bad = {"type": "write", "sector-num": 0, "sectors-count": 8}

    async def report(node: str) -> None:
        mark = session.mark()
        script.event("QUORUM_REPORT_BAD", **{"node-name": node, **bad})
        await session.wait_change(LIMIT_S, since=mark)

    await report("nbd0")
    session.begin_generation()
    await report("nbd0")
    assert [] == [*session.latched.quorum_bad]
    await report("parent0")
    assert ["parent0"] == [*session.latched.quorum_bad]


async def test_unreadable_event_does_not_end_the_session(
    script: ScriptedQmp, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that cannot be parsed is logged and left out."""
    script.event("MIGRATION", status=7)
    script.replies["query-name"] = {}
    await session.execute(qmp.QueryName(), limit_s=LIMIT_S)
    assert "cannot be read" in caplog.text
    assert 0 == session.mark()


async def test_checkpoint_is_stop_and_then_resume(script: ScriptedQmp, session: Session) -> None:
    """A RESUME alone, or one whose STOP was before the mark, is no checkpoint since the mark."""

    async def happen(*names: str) -> None:
        for name in names:
            mark = session.mark()
            script.event(name)
            await session.wait_change(LIMIT_S, since=mark)

    await happen("STOP")
    mark = session.mark()
    await happen("RESUME")
    half = session.checkpoint_since(mark)
    await happen("STOP", "RESUME")
    assert (False, True) == (half, session.checkpoint_since(mark))


async def test_closing_waits_no_longer_than_a_second_for_what_was_sent(
    script: ScriptedQmp, session: Session
) -> None:
    """A QEMU that is stopped never reads what was sent; the session is closed all the same."""
    script.stop_reading()
    long = session.send(qmp.HumanMonitorCommand(command_line="x" * (1 << 22)))
    with pytest.raises(errors.CommandUnknown, match="no reply"):
        await long.reply(SHORT_S)
    async with asyncio.timeout(LIMIT_S):
        await session.aclose()
    with pytest.raises(errors.CommandUnknown, match="connection was lost"):
        await long.reply(LIMIT_S)


async def test_session_stays_usable_after_a_limit(script: ScriptedQmp, session: Session) -> None:
    """A command that was not answered in time holds up neither the session nor its own reply."""
    script.replies["query-name"] = SILENCE
    sent = session.send(qmp.QueryName())
    with pytest.raises(errors.CommandUnknown, match="no reply within 0 s"):
        await sent.reply(0)
    assert sent.pending
    await session.execute(qmp.Stop(), limit_s=LIMIT_S)
    script.release("query-name", {"name": "guest"})
    assert "guest" == (await sent.reply(LIMIT_S)).name


async def test_wait_on_a_closed_session_ends_at_once(session: Session) -> None:
    """Nothing happens on it any more; a wait for another session as well is not ended by it."""
    await session.aclose()
    async with asyncio.timeout(SHORT_S):
        await session.wait_change(LIMIT_S)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SHORT_S):
            await wait_any_change({session: session.mark()}, LIMIT_S)


async def test_closing_twice_is_closing_once(session: Session) -> None:
    """A session can be closed again, and knows that it is closed."""
    await session.aclose()
    await session.aclose()
    assert session.closed

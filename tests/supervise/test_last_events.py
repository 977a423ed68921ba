"""The last events of a QEMU that has ended are heard, and nothing is waited for after them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import pytest

from pycolo.hosts.local import LocalHost
from pycolo.model import ColoPair, Node, TcpMonitor, UnixMonitor
from pycolo.session import Session, open_monitor
from pycolo.session._socket import peer_of
from pycolo.supervise import _failure_detector
from pycolo.supervise._beat import Beat
from pycolo.supervise._failure_detector import FailureDetector

LIMIT_S: Final = 30.0
QEMU: Final = r"""
import json, os, signal, socket, sys

GREETING = {"QMP": {"version": {"qemu": {"major": 11, "minor": 1, "micro": 3}, "package": ""},
                    "capabilities": ["oob"]}}
SHUTDOWN = {"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"},
            "timestamp": {"seconds": 1, "microseconds": 0}}
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
print("listens", flush=True)
connection, _ = listening.accept()

def say(message):
    connection.sendall(json.dumps(message).encode() + b"\n")

say(GREETING)
connection.recv(65536)
say({"return": {}})
sys.stdin.readline()
if os.fork() == 0:
    # The memory of a guest is freed: the connection stays open meanwhile.
    sys.stdin.read()
    os._exit(0)
say(SHUTDOWN)
os.kill(os.getpid(), signal.SIGKILL)
"""
"Serves one client, and ends by SIGKILL after its last event, if a line is written to it."


@contextmanager
def _qemu(path: Path) -> Generator[subprocess.Popen[bytes]]:
    """A process that serves a monitor; whatever of it is left ends with its standard input."""
    argv = (sys.executable, "-c", QEMU, str(path))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listens\n"
        try:
            yield process
        finally:
            process.kill()


@asynccontextmanager
async def _detecting(monitor: UnixMonitor) -> AsyncGenerator[tuple[FailureDetector, Session]]:
    """A detector that hears one QEMU over a session that is open."""
    folder = str(Path(monitor.path).parent)
    nodes = [Node(name=n, address="127.0.0.1", image_folder=folder) for n in ("alpha", "beta")]
    pair = ColoPair(name="colo", nodes=nodes)
    host = LocalHost()
    hosts = dict.fromkeys(pair.names, host)
    detector = FailureDetector(pair, hosts, lambda: None, Beat())
    async with await Session.connect("alpha", monitor, limit_s=LIMIT_S) as session:
        session.subscribe(lambda notice: detector.observe("alpha", notice))
        detector._sessions["alpha"] = session  # noqa: SLF001 - no question is asked here
        yield detector, session


async def test_last_event_is_heard_while_the_connection_stays_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The shutdown that lies in the socket is read, and no hang-up is waited for."""
    monkeypatch.setattr(_failure_detector, "DRAIN_S", 2 * LIMIT_S)
    with tempfile.TemporaryDirectory(prefix="colo-", dir="/var/tmp") as folder:
        monitor = UnixMonitor(path=str(Path(folder, "qmp")))
        with _qemu(Path(monitor.path)) as process:
            async with _detecting(monitor) as (detector, session):
                assert process.pid == session.peer
                assert process.stdin is not None
                process.stdin.write(b"\n")
                process.stdin.flush()
                # The event loop does nothing meanwhile, so that the event is still unread.
                process.wait()
                async with asyncio.timeout(LIMIT_S):
                    await detector._receive_last("alpha")  # noqa: SLF001 - a part of `_watch`
                assert detector.has_shutdown
                assert not detector.health["alpha"].gone.is_set()


async def test_other_end_of_a_tcp_monitor_is_not_known() -> None:
    """A process of another machine has no number here."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        opened = await open_monitor("alpha", TcpMonitor(host="127.0.0.1", port=port))
        with opened:
            assert peer_of(opened) is None

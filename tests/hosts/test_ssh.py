"""`SshHost` against an OpenSSH server on a host of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Generator, Mapping

import pytest
from tests.hosts.testbed import MANAGEMENT, REPLICATION, ROOT, STATE, Testbed

pytestmark = [pytest.mark.qemu]

# Runs on the controller: what a test asks is a coroutine over the host of alpha.
FRAME = """
import asyncio, dataclasses, json, sys, time
import attrs
from pycolo import Evidence
from pycolo.errors import ConnectionFailed, HostRefused, PycoloError
from pycolo.evidence import Victim
from pycolo.hosts.ssh import SshHost
from pycolo.model import ColoPair, Node, Ssh, TcpMonitor, UnixMonitor
from pycolo.plan import LaunchQemu, StopQemu
from pycolo.qmp import commands as qmp
from pycolo.record import Change, NoRecord, PairRecord, UnreadRecord
from pycolo.session import Session

WAY = Ssh(
    address="{management}1",
    key_file="/etc/ssh/user_key",
    known_hosts_file="/etc/ssh/known_hosts",
)
ALPHA = Node(
    name="alpha", address="{replication}1", image_folder="{state}/alpha", run_dir="/run/a", ssh=WAY
)
BETA = Node(name="beta", address="{replication}2", image_folder="{state}/beta")
PAIR = ColoPair(name="p", nodes=(ALPHA, BETA))
FIRST = "p:alpha:00000001"

def record(epoch):
    return PairRecord(
        pair="p", birth="1", epoch=epoch, revision=0, holder="alpha",
        eligible={{"alpha": FIRST}}, phase="alone",
    )

async def why(coroutine):
    try:
        return await coroutine
    except PycoloError as error:
        return f"{{type(error).__name__}}: {{error}}"

def other(**changed):
    return SshHost(attrs.evolve(ALPHA, ssh=attrs.evolve(WAY, **changed)))

async def connected(host, monitor):
    return await Session.connect("alpha", monitor, limit_s=5, connector=host.connect)

async def read_record(host):
    return (await host.observe(PAIR, "alpha", limit_s=5)).record

async def main(host):
{body}

async def all_of_it():
    host = SshHost(ALPHA)
    try:
        print(json.dumps(await main(host), default=str))
    finally:
        await host.aclose()

asyncio.run(all_of_it())
"""


def _program(body: str) -> list[str]:
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    text = FRAME.format(management=MANAGEMENT, replication=REPLICATION, state=STATE, body=lines)
    return [sys.executable, "-c", text]


ENVIRONMENT: Mapping[str, str] = {"PYTHONPATH": str(ROOT / "src")}


def ask(hosts: Testbed, body: str) -> object:
    """Run the body of a coroutine on the controller, and give what it returns."""
    hosts.hosts["alpha"].run("mkdir", "-p", f"{STATE}/alpha")
    done = hosts.controller.run(*_program(body), environment=ENVIRONMENT)
    assert 0 == done.returncode, done.stderr
    found: object = json.loads(done.stdout)
    return found


def _qemu(hosts: Testbed) -> str:
    return str(hosts.builds / "qemu-11.1" / "bin" / "qemu-system-x86_64")


def _launch(hosts: Testbed, instance: str) -> str:
    """The words that launch a bare QEMU on alpha."""
    monitor = "unix:/run/a/control.qmp,server=on,wait=off"
    argv = [_qemu(hosts), "-nodefaults", "-display", "none", "-machine", "none", "-S"]
    return (
        f"launch = LaunchQemu(role='secondary', instance=(FIRST := {instance}),"
        f" argv=({argv} + ['-qmp', '{monitor}', '-name', {instance}]))\n"
        f"launch = attrs.evolve(launch, argv=tuple(launch.argv))\n"
    )


def test_record_is_compared_and_swapped(hosts: Testbed) -> None:
    """What is written over ssh is read over ssh; of two writers one is told that it was late."""
    body = """
    before = await read_record(host)
    await host.write(PAIR, "alpha", Change(expects=NoRecord(), becomes=record(1)), limit_s=5)
    second = SshHost(ALPHA)
    changes = [Change(expects=record(1), becomes=record(n)) for n in (2, 3)]
    tries = [why(h.write(PAIR, "alpha", c, limit_s=5)) for h, c in zip((host, second), changes)]
    told = await asyncio.gather(*tries)
    found = await read_record(second)
    await second.aclose()
    return [str(before), told.count(None), [t for t in told if t], found.epoch]
    """
    before, written, told, epoch = _list(ask(hosts, _dedented(body)))
    assert "NoRecord(lost=None)" == before
    assert (1, True) == (written, epoch in (2, 3))
    assert "somebody else has changed it" in str(told)


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _dedented(body: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in body.splitlines())


def test_qemu_lives_and_dies_over_ssh(hosts: Testbed) -> None:
    """Launched, spoken to, stopped, and its death told by its host, for that instance alone."""
    body = _launch(hosts, "'p:alpha:00000001'") + _dedented("""
    await host.run(PAIR, "alpha", launch, limit_s=20)
    second = await why(host.run(PAIR, "alpha", launch, limit_s=20))
    control = UnixMonitor(path="/run/a/control.qmp")
    async with await connected(host, control) as session:
        version = str(session.version)
        status = await session.execute(qmp.QueryStatus(), limit_s=5)
        alive = await host.death(PAIR, Victim(node="alpha", instance=FIRST, epoch=1), limit_s=5)
    await host.run(PAIR, "alpha", StopQemu(instance=FIRST), limit_s=5)
    dead = await host.death(PAIR, Victim(node="alpha", instance=FIRST, epoch=1), limit_s=5)
    unknown = await host.death(PAIR, Victim(node="alpha", instance="x", epoch=1), limit_s=5)
    closed = await why(connected(host, control))
    return [second, version, status.status, alive, dead.who, unknown, closed]
    """)
    second, version, status, alive, who, unknown, closed = _list(ask(hosts, body))
    assert "runs there already" in str(second)
    assert ("11.1.3", "prelaunch", None, "alpha", None) == (version, status, alive, who, unknown)
    assert "No such file" in str(closed)


def test_reboot_is_evidence(hosts: Testbed) -> None:
    """A host that lost its power knows, once it is back, that its QEMU has ended."""
    start = _launch(hosts, "'p:alpha:00000009'") + _dedented("""
    await host.run(PAIR, "alpha", launch, limit_s=20)
    return "ok"
    """)
    assert "ok" == ask(hosts, start)
    hosts.hosts["alpha"].power_off()
    hosts.hosts["alpha"].boot()
    end = _dedented("""
    victim = Victim(node="alpha", instance="p:alpha:00000009", epoch=1)
    return (await host.death(PAIR, victim, limit_s=5)).how
    """)
    assert "its host has booted since" == ask(hosts, end)


def test_reply_behind_an_event_is_not_late(hosts: Testbed) -> None:
    """The session with a terminal keeps the server from holding back what it has."""
    body = _launch(hosts, "'p:alpha:00000002'") + _dedented("""
    await host.run(PAIR, "alpha", launch, limit_s=20)
    control = UnixMonitor(path="/run/a/control.qmp")
    took = []
    async with await connected(host, control) as session:
        for command in (qmp.Cont(), qmp.Stop()) * 15:
            started = time.perf_counter()
            await session.execute(command, limit_s=5)
            took.append(time.perf_counter() - started)
    await host.run(PAIR, "alpha", StopQemu(instance=FIRST), limit_s=5)
    return sorted(took)[len(took) // 2]
    """)
    # The delay that this is about is one of 40 ms; a round trip here takes one or two.
    median_s = ask(hosts, body)
    assert isinstance(median_s, float)
    assert median_s < 0.03


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ('known_hosts_file="/etc/ssh/user_key.pub"', "its key is not in /etc/ssh/user_key.pub"),
        ('key_file="/etc/ssh/other_key"', "it does not take /etc/ssh/other_key for root"),
        ('key_file="/no/such/key"', "No such file"),
        ('user="nobody"', "for nobody"),
        ('python="/usr/bin/false"', "/usr/bin/false did not start"),
        ('python="/no/such/python"', "/no/such/python did not start"),
        ("port=23", "Connect call failed"),
        (f'address="{MANAGEMENT}77"', f"root@{MANAGEMENT}77, port 22:"),
    ],
)
def test_way_that_does_not_lead_there_is_named(hosts: Testbed, changed: str, says: str) -> None:
    """Where the host cannot be asked its record is unread, and the reason names what to mend."""
    key = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/other_key")
    if "other_key" in changed and hosts.controller.run("ls", "/etc/ssh/other_key").returncode:
        hosts.controller.run(*key)
    body = f"""
    host = other({changed})
    found = await read_record(host)
    await host.aclose()
    return [type(found).__name__, found.why]
    """
    kind, why = _list(ask(hosts, _dedented(body)))
    assert "UnreadRecord" == kind
    assert says in str(why)


LISTENER = """
import socket, time
door = socket.socket(socket.AF_UNIX)
door.bind("/run/many")
door.listen(64)
print("ready", flush=True)
time.sleep(600)
"""


def test_many_monitors_need_no_sessions(hosts: Testbed) -> None:
    """The server's limit of ten sessions does not count what goes through one connection."""
    body = """
    doors = [await host.connect("alpha", UnixMonitor(path="/run/many")) for _ in range(40)]
    for door in doors:
        door.close()
    return len(doors)
    """
    argv = hosts.hosts["alpha"].entering("/usr/bin/python3", "-c", LISTENER)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert listener.stdout is not None
            assert "ready\n" == listener.stdout.readline()
            assert 40 == ask(hosts, _dedented(body))
        finally:
            listener.kill()


def test_lost_connection_ends_what_is_under_way_and_proves_nothing(hosts: Testbed) -> None:
    """A cut is noticed in seconds: a write may have been done, a death is not told."""
    body = _dedented("""
    await read_record(host)
    print("ready", flush=True)
    sys.stdin.readline()
    started = time.monotonic()
    change = Change(expects=await read_record(host), becomes=record(99))
    told = await why(host.write(PAIR, "alpha", change, limit_s=30))
    victim = Victim(node="alpha", instance=FIRST, epoch=1)
    deaths = await asyncio.gather(*(host.death(PAIR, victim, limit_s=5) for _ in range(4)))
    took_s = time.monotonic() - started
    print("cut", flush=True)
    sys.stdin.readline()
    # For a second after it could not be reached nobody tries again.
    async with asyncio.timeout(10):
        while isinstance(after := await read_record(host), UnreadRecord):
            await asyncio.sleep(0.1)
    return [told, deaths, took_s, type(after).__name__]
    """)
    with _talk(hosts, body) as program:
        assert "ready" == program.hear()
        hosts.cut("mgmt", "alpha")
        try:
            program.say()
            assert "cut" == program.hear()
        finally:
            _heal(hosts)
        program.say()
        told, deaths, took_s, after = _list(json.loads(program.hear()))
    assert str(told).startswith(("CommandUnknown", "HostRefused"))
    assert [None] * 4 == deaths
    assert isinstance(took_s, float)
    assert took_s < 15
    assert after in ("PairRecord", "NoRecord")


def _heal(hosts: Testbed) -> None:
    with contextlib.suppress(OSError):
        hosts.heal("mgmt", "alpha")


class _Talk:
    """A program on the controller that waits for a word of the test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def hear(self) -> str:
        """The next line that it says."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def say(self) -> None:
        """Have it continue."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()


@contextlib.contextmanager
def _talk(hosts: Testbed, body: str) -> Generator[_Talk]:
    hosts.hosts["alpha"].run("mkdir", "-p", f"{STATE}/alpha")
    argv = hosts.controller.entering(*_program(body), environment=ENVIRONMENT)
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield _Talk(process)
            assert 0 == process.wait(30)
        finally:
            process.kill()


def test_server_that_was_restarted_is_found_again(hosts: Testbed) -> None:
    """The connection ends with its server's process; the next use makes a new one."""
    body = _dedented("""
    first = type(await read_record(host)).__name__
    # The helper's parent is the server's process for this connection.
    print("ready", flush=True)
    sys.stdin.readline()
    found = []
    for _ in range(3):
        found.append(type(await read_record(host)).__name__)
    return [first, found]
    """)
    kill = "for p in /proc/[0-9]*; do grep -q pycolo_helper $p/cmdline && kill -9 ${p#*c/}; done"
    with _talk(hosts, body) as program:
        assert "ready" == program.hear()
        hosts.hosts["alpha"].run("sh", "-c", kill)
        program.say()
        first, found = _list(json.loads(program.hear()))
    assert first == _list(found)[-1]


def test_asyncssh_is_imported_where_it_is_used_alone() -> None:
    """Who has no host over ssh needs no library for it."""
    program = (
        "import sys, pycolo.hosts.ways, pycolo.operate, pycolo.cli;"
        "assert 'asyncssh' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd="/")
    assert 0 == done.returncode

"""A Linux guest on two hosts, and clients outside that count its acknowledged writes.

One client writes over IPv4, whose replies COLO holds back until both guests agree. A second one
writes over IPv6, which COLO lets pass. At the switch each frame that a guest sends is noted with
the host that it came from, so that a second guest that answers is seen.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias, final

import attrs
from tests.etcd import Members
from tests.hosts.supervised import AGENT_FILE, MAC, NAMES, PAIR, Declared, Fence, Kept, Program
from tests.hosts.testbed import (
    CLIENT_LINK,
    CONTROLLER,
    MANAGEMENT,
    NAMESPACES,
    OTHERS_FROM,
    SWITCH,
    Testbed,
)
from tests.persons import Case

from pycolo.demo.client import DISK
from pycolo.demo.guests import (
    DISK_PORT,
    ECHO_PORT,
    READY_LINE,
    RECORD_BYTES,
    LinuxGuest,
    linux_guest,
)
from pycolo.demo.listener import Listener, listening
from pycolo.demo.network import GUEST_ADDRESS, Service
from pycolo.model.pair import Ports

LIMIT_S: Final = 90.0
BOOT_S: Final = 240.0
WRITES: Final = 50
"How many writes are acknowledged before a fault, and after it, at least."
FUSES: Final = "/run/pycolo-fuse"
SIZE_BYTES: Final = 4 << 20
FIRST_OVER_IPV6: Final = SIZE_BYTES // RECORD_BYTES // 2
"The first record of the client over IPv6; the other one writes those before it."
_GUEST_IPV6: Final = "fe80::5054:ff:fe77:2"
_LOG: Final = logging.getLogger(__name__)

# Notes who sends frames as the guest: port, kind, first and last moment, number. By the kernel's
# own time stamps, so that two ports are compared however late they are read.
_FRAMES: Final = """
import json, select, socket, struct, sys, time
KINDS = {0x0800: "ipv4", 0x86dd: "ipv6", 0x8035: "rarp"}
STAMPS, OUTGOING = 35, 4
mac, ports = bytes.fromhex(sys.argv[1].replace(":", "")), {}
offset_s = time.monotonic() - time.time()
for name in sys.argv[2:]:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sock.setsockopt(socket.SOL_SOCKET, STAMPS, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind((name, 0))
    ports[sock] = name
print("ready", flush=True)
seen, due_s = {}, 0.0
while True:
    for sock in select.select(list(ports), [], [], 0.05)[0]:
        frame, extra, _, address = sock.recvmsg(64, 64)
        if address[2] == OUTGOING or frame[6:12] != mac:
            continue
        seconds, nanoseconds = struct.unpack("ll", extra[0][2])
        at_s = seconds + nanoseconds / 1e9 + offset_s
        kind = KINDS.get(int.from_bytes(frame[12:14], "big"), "other")
        first_s, _, count = seen.get((ports[sock], kind), (at_s, at_s, 0))
        seen[ports[sock], kind] = (first_s, at_s, count + 1)
    if seen and time.monotonic() > due_s:
        for (port, kind), found in seen.items():
            print(json.dumps([port, kind, *found]))
        sys.stdout.flush()
        seen, due_s = {}, time.monotonic() + 0.05
"""

# Sends a signal to a process inside a checkpoint: as soon as the secondary has sent a word of
# COLO's protocol, alone in a packet. Says when that was, and whether it had the whole state before.
_INSIDE: Final = """
import contextlib, json, os, socket, struct, sys, time
port, source, word, pid, number = sys.argv[1], *map(int, sys.argv[2:])
STAMPS, PACKET, IGNORE_OUTGOING, LOADED = 35, 263, 23, 6
with contextlib.suppress(PermissionError):
    os.nice(-20)  # a checkpoint takes a tenth of a second, and the machine may be busy
# A port of a bridge shows what it gets only to who listens to every kind.
sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
sock.setsockopt(socket.SOL_SOCKET, STAMPS, 1)
sock.setsockopt(PACKET, IGNORE_OUTGOING, 1)
sock.bind((port, 0))

def heard(wanted, within_s):
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        sock.settimeout(within_s)
        try:
            packet, extra, _, address = sock.recvmsg(256, 64)
        except TimeoutError:
            break
        if address[1] != 0x0800 or packet[9] != socket.IPPROTO_TCP:
            continue
        head = (packet[0] & 15) * 4
        payload = packet[head + (packet[head + 12] >> 4) * 4:int.from_bytes(packet[2:4], "big")]
        if int.from_bytes(packet[head:head + 2], "big") != source or len(payload) != 4:
            continue
        if int.from_bytes(payload, "big") == wanted:
            seconds, nanoseconds = struct.unpack("ll", extra[0][2])
            return seconds + nanoseconds / 1e9

said_s = heard(word, 60.0)
os.kill(pid, number)
at_s, now_s = time.monotonic(), time.time()
over_s = heard(LOADED, 0.3)
is_over = over_s is not None and over_s < now_s
print(json.dumps([at_s, now_s - said_s, is_over]))
"""
Moment: TypeAlias = Literal["both stop", "the state has come"]
"A moment inside a checkpoint: before the state is sent, and before the secondary has loaded it."
_WORDS: Final[Mapping[Moment, int]] = MappingProxyType({"both stop": 2, "the state has come": 5})
"By which word of COLO's protocol the secondary says so (qapi/migration.json, COLOMessage)."


class Frames(NamedTuple):
    """Frames of one kind that came from one host, one soon after the other."""

    host: str
    kind: str
    first_s: float
    last_s: float
    frames: int


@final
class Watcher:
    """Notes which host a guest answers from."""

    def __init__(self) -> None:
        self.frames: list[Frames] = []

    async def follow(self, process: asyncio.subprocess.Process) -> None:
        """Take down what is seen until the process ends."""
        assert process.stdout is not None
        async for line in process.stdout:
            port, kind, first_s, last_s, frames = json.loads(line)
            self.frames.append(Frames(port.removeprefix("l-"), kind, first_s, last_s, frames))

    def first(self, host: str, since_s: float) -> float | None:
        """When the first frame came from a host after a moment; None if none did."""
        found = [one for one in self.frames if one.host == host and one.last_s > since_s]
        return max(found[0].first_s, since_s) if found else None

    def announces(self, host: str, since_s: float) -> bool:
        """Whether a guest's address was announced from a host after a moment, by RARP."""
        found = [one for one in self.frames if (one.host, one.kind) == (host, "rarp")]
        return any(one.last_s > since_s for one in found)

    def others(self, host: str, since_s: float) -> list[Frames]:
        """What came from another host after a moment."""
        return [one for one in self.frames if one.host != host and one.last_s > since_s]


@final
class Addresses:
    """Addresses of what is on the network that both hosts and the controller share."""

    def address(self, n: int) -> str:
        """See `tests.etcd.Addresses`."""
        return f"{MANAGEMENT}{OTHERS_FROM - 1 + n}"


@final
@attrs.define
class Fault:
    """One fault, and what came of it."""

    name: str
    at_s: float
    "When it struck."
    since: int
    "How much was said before."
    primary: str
    "Who had the guest before."
    survivor: str
    "Who had it afterwards."
    is_failover: bool = False
    may_ask: tuple[Case, ...] = ()
    "For what it may ask a person before the pair is protected again."
    may_stray: bool = False
    "Whether the other node's guest may run on and send frames."
    notes: list[str] = attrs.field(factory=list)


@final
class LinuxLife:
    """A protected Linux guest, what keeps it, and its clients."""

    def __init__(self, kept: Kept, over_ipv4: Listener, over_ipv6: Listener) -> None:
        self.kept: Final = kept
        self.over_ipv4: Final = over_ipv4
        self.over_ipv6: Final = over_ipv6
        self.watcher: Final = Watcher()
        self.fuses: Final[dict[str, Program]] = {}
        self.has_fuses = False
        self.etcd: Members | None = None
        self.primary = "alpha"
        self._lost_over_ipv6 = 0
        self._known_over_ipv6 = 0
        self._known_over_ipv4 = 0

    @property
    def hosts(self) -> Testbed:
        """The hosts, and their cables."""
        return self.kept.hosts

    @property
    def secondary(self) -> str:
        """The node that is not the primary."""
        return next(name for name in NAMES if name != self.primary)

    async def written(self, count: int = WRITES) -> None:
        """See so many more writes acknowledged over IPv4."""
        goal = self.over_ipv4.state.acknowledged + count
        await self.until(lambda: self.over_ipv4.state.acknowledged >= goal, f"write {goal}")

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for something that shows itself while the client tells how far it is."""
        assert await self.over_ipv4.until(holds, LIMIT_S), f"{what}\n{self.kept.last()}"

    async def passed(self, duration_s: float) -> None:
        """Let a while pass, whatever the guest does meanwhile."""
        end_s = time.monotonic() + duration_s
        await self.until(lambda: time.monotonic() >= end_s, "time passes")

    # -- hosts

    async def have_fuse(self, name: str) -> None:
        """Start the fuse of a host."""
        argv = (sys.executable, "-m", "pycolo.fuse", "--run-dir", FUSES)
        self.fuses[name] = await Program.start(self.hosts.hosts[name], *argv)

    async def end_fuses(self) -> None:
        """End the fuses that run."""
        for name in tuple(self.fuses):
            await self.fuses.pop(name).kill()

    async def lose_power(self, name: str) -> None:
        """Switch a host off, with everything that runs there."""
        await self.kept.lose_power(name)
        if name in self.fuses:
            await self.fuses.pop(name).process.communicate()

    async def boot(self, name: str) -> None:
        """Switch a host on, and start what it runs by itself: its fuse and its agent."""
        self.kept.boot(name)
        if self.has_fuses:
            await self.have_fuse(name)
        if self.etcd is not None:
            await self.kept.begin(name)

    def cut_off(self, name: str) -> None:
        """Cut every cable of a host but that to the clients."""
        for network in ("repl", "mgmt"):
            self.hosts.cut(network, name)

    def mend(self, name: str) -> None:
        """Undo `cut_off`."""
        for network in ("repl", "mgmt"):
            self.hosts.heal(network, name)

    def touch(self, name: str, path: str) -> None:
        """Make a file on a host."""
        assert 0 == self.hosts.hosts[name].run("touch", path).returncode

    def remove(self, name: str, *paths: str) -> None:
        """Remove files of a host."""
        assert 0 == self.hosts.hosts[name].run("rm", *paths).returncode

    async def shows(self, name: str, path: str) -> None:
        """Wait until a host has a file."""
        await self.until(
            lambda: self.hosts.hosts[name].run("test", "-e", path).returncode == 0, path
        )

    # -- faults

    @asynccontextmanager
    async def fault(self, name: str) -> AsyncGenerator[Fault]:
        """Strike a protected guest in the block; then see it serve, protected, with every write."""
        await self.written()
        known = self.over_ipv4.state.acknowledged
        before, self._known_over_ipv4 = known - self._known_over_ipv4, known
        struck = Fault(
            name=name,
            at_s=time.monotonic(),
            since=len(self.kept.told),
            primary=self.primary,
            survivor=self.primary,
        )
        yield struck
        await self.until(
            lambda: self.over_ipv4.state.streams[DISK].last_s > struck.at_s, "a write is answered"
        )
        await self._protected(struck)
        again_s = time.monotonic() - struck.at_s
        await self.written()
        await self._judge(struck, before, self.over_ipv4.state.acknowledged - known, again_s)

    async def _protected(self, struck: Fault) -> None:
        if struck.is_failover:
            await self.kept.protected(struck.since, LIMIT_S)
        else:
            await self.kept.quiet(limit_s=LIMIT_S)
            done = self.kept.said("execution", struck.since)
            assert not done, f"{done}\n{self.kept.last()}"

    async def _judge(self, struck: Fault, before: int, after: int, again_s: float) -> None:
        """Count what was lost, and see that one guest alone answered."""
        wait = self.over_ipv4.worst(DISK, struck.at_s, time.monotonic())
        reading, other = await asyncio.gather(
            self.over_ipv4.read_back(), self.over_ipv6.read_back()
        )
        lost_6, self._lost_over_ipv6 = other.missing - self._lost_over_ipv6, other.missing
        done_6 = other.acknowledged - self._known_over_ipv6
        self._known_over_ipv6 = other.acknowledged
        assert max(reading.acknowledged, other.acknowledged) < FIRST_OVER_IPV6, (
            "no record's place is taken"
        )
        began_s = self.watcher.first(struck.survivor, struck.at_s)
        assert began_s is not None
        strays = self.watcher.others(struck.survivor, began_s)
        persons = self.kept.said("person", struck.since)
        row: dict[str, object] = {
            "fault": struck.name,
            "survivor": "primary" if struck.survivor == struck.primary else "secondary",
            "answered_s": None if wait is None else round(wait.took_s, 2),
            "before": before,
            "after": after,
            "lost": reading.missing,
            "ipv6": done_6,
            "ipv6_lost": lost_6,
            "strays": dict(sum((Counter({one.kind: one.frames}) for one in strays), Counter())),
            "protected_s": round(again_s, 1) if struck.is_failover else None,
            "persons": sorted(set(persons)),
            "notes": struck.notes,
        }
        _LOG.info("MEASURED %s", json.dumps(row))
        unasked = [one for one in persons if not any(case.asks(one) for case in struck.may_ask)]
        assert not unasked, f"{unasked}\n{self.kept.last()}"
        # QEMU announces a promoted guest by itself (qemu-behaviour 7.13).
        is_promoted = struck.survivor != struck.primary
        assert not is_promoted or self.watcher.announces(struck.survivor, struck.at_s)
        assert not strays or struck.may_stray, f"{strays}\n{self.kept.last()}"
        assert 0 == reading.missing, self.kept.last()

    async def serves(self, struck: Fault) -> int:
        """Wait until a node is to continue alone, and know who; gives how much was said by then."""
        said = "continues alone"
        count = await self.kept.until(said, since=struck.since, limit_s=LIMIT_S)
        node = self.kept.told[count - 1].node
        assert node is not None
        struck.survivor = self.primary = node
        struck.is_failover = True
        return count

    async def fails_over(self, struck: Fault) -> None:
        """Wait until a node has continued alone, and know who."""
        count = await self.serves(struck)
        await self.kept.until("failover is done", since=count, limit_s=LIMIT_S)

    async def hit_inside(
        self, struck: Fault, victim: str, number: signal.Signals, moment: Moment
    ) -> None:
        """Send a signal to the QEMU of a host inside a checkpoint."""
        host, pid = self.hosts.hosts[victim], self.kept.qemu(victim)
        space = NAMESPACES / self.hosts.namespace(SWITCH)
        words = (f"r-{self.secondary}", Ports().migration, _WORDS[moment], pid, number.value)
        process = await asyncio.create_subprocess_exec(
            *("nsenter", "--target", str(host.pid), "--pid", f"--net={space}"),
            *(sys.executable, "-I", "-c", _INSIDE, *map(str, words)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(LIMIT_S):
                said, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            raise
        at_s, after_s, is_over = json.loads(said)
        assert not is_over, f"the checkpoint was over {after_s:.3f} s after its moment"
        struck.notes.append(f"{after_s * 1000:.0f} ms after {moment}")
        struck.at_s = at_s

    async def boots(self, struck: Fault) -> None:
        """Wait until the guest is booted again, by the node that had it."""
        count = await self.kept.until("launch is done", since=struck.since, limit_s=LIMIT_S)
        struck.since = count
        struck.is_failover = True

    def continued(self, struck: Fault, victim: str, pid: int | None) -> None:
        """Let a QEMU that was stopped run again, if it still is there."""
        is_there = self.kept.qemu(victim) == pid
        if is_there:
            self.kept.hit(victim, signal.SIGCONT)
        struck.notes.append("continued" if is_there else "ended before it was continued")


def declared(fences: Mapping[str, tuple[Fence, ...]] = MappingProxyType({})) -> Declared:
    """The Linux guest, with a disk that has a place for each record of both clients."""
    guest = linux_guest()
    arguments = LinuxGuest.kernel_arguments(addresses=(f"{GUEST_ADDRESS}/24",), ipv6=True)
    lines = [
        "memory_mib = 128",
        f'kernel = "{guest.kernel}"',
        f'initrd = "{guest.initrd}"',
        f'append = "{arguments}"',
    ]
    machine = "\n".join(lines)
    return Declared(machine=machine, size_bytes=SIZE_BYTES, delay_ms=2000, fences=fences)


@asynccontextmanager
async def _serving(hosts: Testbed, folder: Path, asked: Declared) -> AsyncGenerator[LinuxLife]:
    """Have a supervisor run the guest alone, and clients talk to it."""
    kept = Kept(hosts)
    kept.declare(asked)
    (hosts.hosts["alpha"].disk / "disk.raw").touch()
    os.truncate(hosts.hosts["alpha"].disk / "disk.raw", asked.size_bytes)
    want(hosts, "unprotected")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(kept.aclose)
        await kept.begin()
        end_s = time.monotonic() + BOOT_S
        await kept.until("launch is done", limit_s=LIMIT_S)
        while READY_LINE not in kept.serial("alpha"):
            assert time.monotonic() < end_s, f"the guest boots\n{kept.last()}"
            await asyncio.sleep(0.05)  # nothing announces what is written to a serial port
        clients: list[Listener] = []
        ipv6 = f"{_GUEST_IPV6}%{CLIENT_LINK}"
        for host, first, writers in ((GUEST_ADDRESS, 1, 4), (ipv6, FIRST_OVER_IPV6, 1)):
            service = Service(host=host, echo_port=ECHO_PORT, disk_port=DISK_PORT)
            log = folder / f"client-{len(clients)}.log"
            talk = listening(hosts.client, service, log, writes_from=first, writers=writers)
            clients.append(await stack.enter_async_context(talk))
        life = LinuxLife(kept, *clients)
        await stack.enter_async_context(_watching(hosts, life.watcher))
        for client in clients:
            assert await client.until(lambda: client.state.acknowledged > 5, LIMIT_S), log  # noqa: B023 - awaited here
        yield life


@asynccontextmanager
async def _watching(hosts: Testbed, watcher: Watcher) -> AsyncGenerator[None]:
    space = ("ip", "netns", "exec", hosts.namespace(SWITCH))
    ports = [f"l-{name}" for name in NAMES]
    process = await asyncio.create_subprocess_exec(
        *(*space, sys.executable, "-I", "-c", _FRAMES, MAC, *ports),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert b"ready\n" == await process.stdout.readline()
    following = asyncio.create_task(watcher.follow(process))
    try:
        yield
    finally:
        process.kill()
        await following
        await process.wait()


def want(hosts: Testbed, wanted: str) -> None:
    """Tell the supervisor what is wanted."""
    done = hosts.pycolo("want", wanted, PAIR)
    assert 0 == done.returncode, done.stderr


def want_of_agents(hosts: Testbed, wanted: str) -> None:
    """Tell the agents what is wanted."""
    done = hosts.pycolo("want", wanted, PAIR, "--agent", AGENT_FILE, on=NAMES[0])
    assert 0 == done.returncode, done.stderr


@asynccontextmanager
async def under_supervisor(hosts: Testbed, folder: Path) -> AsyncGenerator[LinuxLife]:
    """Have one supervisor protect the guest, by ssh from a machine of its own."""
    async with _serving(hosts, folder, declared()) as life:
        count = len(life.kept.told)
        want(hosts, "protected")
        await life.kept.protected(count, LIMIT_S)
        yield life


@asynccontextmanager
async def under_agents(
    hosts: Testbed, folder: Path, fences: Mapping[str, tuple[Fence, ...]] | None = None
) -> AsyncGenerator[LinuxLife]:
    """Have an agent on each host protect the guest, with three members of etcd.

    Each host has a fuse, or else fences of the other one.
    """
    async with AsyncExitStack() as stack:
        asked = declared(fences or {})
        life = await stack.enter_async_context(_serving(hosts, folder, asked))
        await life.kept.kill(CONTROLLER)
        life.etcd = etcd = Members(folder, Addresses(), enter=functools.partial(_entering, hosts))
        stack.callback(etcd.kill)
        etcd.start()
        etcd.leader()
        stack.push_async_callback(life.end_fuses)
        life.has_fuses = fences is None
        if life.has_fuses:
            for name in NAMES:
                await life.have_fuse(name)
        life.kept.be_agents(etcd.endpoints, f"{FUSES}/fuse.sock" if life.has_fuses else None)
        stack.push_async_callback(life.kept.aclose)
        count = len(life.kept.told)
        for name in NAMES:
            await life.kept.begin(name)
        await life.kept.protected(count, LIMIT_S)
        yield life


def _entering(hosts: Testbed, name: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", hosts.namespace(name))

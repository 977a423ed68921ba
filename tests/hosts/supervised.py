"""A pair on hosts of its own, and what keeps it: real supervisors, or a real agent on each host."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, final

import attrs
from tests.hosts.testbed import CONTROLLER, ROOT, STATE, Host, Testbed
from tests.real_qemu import build_of

from pycolo.demo.guests import bios_counter, bios_guest

LIMIT_S: Final = 40.0
SIZE_BYTES: Final = 1 << 20
PAIR: Final = "/tmp/pair.toml"
RUN: Final = "/run/shop"
MAC: Final = "52:54:00:77:00:02"
QUIET: Final = "protected"
NAMES: Final = ("alpha", "beta")
HEAD: Final = """
format_version = 1
name = "shop"
checkpoint_delay_ms = {delay_ms}
"""
NODE: Final = """
[[nodes]]
name = "{name}"
address = "{address}"
image_folder = "{state}"
run_dir = "{run}"
qemu_binary = "{build}/bin/qemu-system-x86_64"
qemu_img_binary = "{build}/bin/qemu-img"

[nodes.ssh]
address = "{management}"
key_file = "/etc/ssh/user_key"
known_hosts_file = "/etc/ssh/known_hosts"
"""
FENCE: Final = """
[[nodes.fences]]
command = {command}
limit_s = {limit_s}
"""
REST: Final = """
[machine]
accelerator = "tcg"
serial_log = true
{machine}

[[disks]]
size_bytes = {size_bytes}
image = "disk.raw"
image_format = "raw"

[[chains]]
model = "rtl8139"
mac = "{mac}"
[chains.netdev]
type = "tap"
options = {{ ifname = "tap0", script = "no", downscript = "no" }}
"""


AGENT_FILE: Final = "/tmp/agent.toml"
AGENT: Final = """
format_version = 1
node = "{name}"
{fuse}

[etcd]
endpoints = {endpoints}
"""


class Fence(NamedTuple):
    """A command that is to end what runs on a host."""

    command: tuple[str, ...]
    limit_s: float = 60.0


@final
@attrs.frozen(kw_only=True)
class Declared:
    """What the pair file says of the guest, and how the hosts are reached."""

    machine: str = "memory_mib = 64"
    "Lines of the machine."
    size_bytes: int = SIZE_BYTES
    delay_ms: int = 500
    fences: Mapping[str, tuple[Fence, ...]] = MappingProxyType({})
    "Node to its fences."

    def text(self, hosts: Testbed, *, is_for_agents: bool = False) -> str:
        """The pair file: agents reach the other host by the cable between the two."""
        build, nodes = build_of("11.1").prefix, []
        for name in NAMES:
            host = hosts.hosts[name]
            nodes.append(
                NODE.format(
                    name=name,
                    address=host.address,
                    management=host.address if is_for_agents else host.management,
                    state=STATE,
                    run=RUN,
                    build=build,
                )
            )
            for fence in self.fences.get(name, ()):
                command = json.dumps(fence.command)
                nodes.append(FENCE.format(command=command, limit_s=fence.limit_s))
        head = HEAD.format(delay_ms=self.delay_ms)
        rest = REST.format(size_bytes=self.size_bytes, machine=self.machine, mac=MAC)
        return "".join((head, *nodes, rest))


class Told(NamedTuple):
    """What a supervisor or an agent said, and when that was read, by this machine's clock."""

    node: str | None
    kind: str
    text: str
    at_s: float
    teller: str
    "The host that it runs on."

    @property
    def is_first_hand(self) -> bool:
        """Whether it is said of a node by who decides for it."""
        return self.node is not None and self.teller in (self.node, CONTROLLER)


@final
class Program:
    """A process on a host, as this machine starts and signals it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process: Final = process
        "What brings it onto the host, with its output."

    @classmethod
    async def start(
        cls, host: Host, *argv: str, environment: Mapping[str, str] = MappingProxyType({})
    ) -> Program:
        """Start a program of this project on a host that may read it."""
        known = {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1", **environment}
        return cls(
            await asyncio.create_subprocess_exec(
                *host.entering(*argv, environment=known),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )

    @property
    def pid(self) -> int:
        """The process, as this machine counts."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)
        if number == signal.SIGCONT:
            # What brought it onto its host stops with it, and does not see that it continues.
            self.process.send_signal(number)

    async def kill(self) -> None:
        """End it the hard way, whether it is stopped or not."""
        self.send(signal.SIGKILL)
        self.process.send_signal(signal.SIGCONT)
        await self.process.communicate()


@final
class Kept:
    """A pair on two hosts, and what keeps it: on each host one supervisor or agent at a time."""

    def __init__(self, hosts: Testbed) -> None:
        self.hosts = hosts
        self.told: list[Told] = []
        self.programs: dict[str, Program] = {}
        "Host to the supervisor or agent that runs there."
        self._news = asyncio.Condition()
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._files: dict[tuple[str, str], str] = {}

    def declare(self, declared: Declared) -> None:
        """Write the pair file, also for agents where hosts may have one."""
        self._put(CONTROLLER, PAIR, declared.text(self.hosts))
        if self.hosts.has_agents:
            for name in NAMES:
                self._put(name, PAIR, declared.text(self.hosts, is_for_agents=True))

    def be_agents(self, endpoints: Sequence[str], fuse: str | None) -> None:
        """Write the file of each host's agent; without the socket of a fuse it has none."""
        line = "" if fuse is None else f"fuse = {json.dumps(fuse)}"
        for name in NAMES:
            text = AGENT.format(name=name, fuse=line, endpoints=json.dumps(endpoints))
            self._put(name, AGENT_FILE, text)

    def boot(self, name: str) -> None:
        """Switch a host on again, and write its files, as they were."""
        self.hosts.hosts[name].boot()
        for (host, path), text in tuple(self._files.items()):
            if host == name:
                self._put(host, path, text)

    def _put(self, name: str, path: str, text: str) -> None:
        self._files[name, path] = text
        done = self.hosts.hosts[name].run("sh", "-c", f"cat >{path} <<'END'\n{text}\nEND")
        assert 0 == done.returncode, done.stderr

    # -- supervisors and agents

    async def begin(self, name: str = CONTROLLER) -> None:
        """Start a supervisor, or the agent of a host, and take down what it says."""
        self.programs[name] = made = await self.start(name)
        self._reading[name] = asyncio.create_task(self._read(name, made.process))

    async def start(self, name: str = CONTROLLER) -> Program:
        """Start one, whatever else runs."""
        words = ("supervise", PAIR) if name == CONTROLLER else ("agent", AGENT_FILE, PAIR)
        program = "from pycolo.cli import main; main()"
        argv = (sys.executable, "-c", program, *words, "--as", "json")
        return await Program.start(self.hosts.hosts[name], *argv)

    async def _read(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            said = json.loads(line)
            at_s = time.monotonic()
            async with self._news:
                self.told.append(Told(said["node"], said["kind"], said["text"], at_s, name))
                self._news.notify_all()

    def send(self, number: signal.Signals, name: str = CONTROLLER) -> None:
        """Send a signal to the supervisor, or to a host's agent."""
        self.programs[name].send(number)

    async def kill(self, name: str = CONTROLLER) -> None:
        """End the supervisor, or a host's agent, the hard way."""
        program = self.programs.pop(name)
        program.send(signal.SIGKILL)
        program.process.send_signal(signal.SIGCONT)
        await self._reading.pop(name)
        await program.process.communicate()

    async def lose_power(self, name: str) -> None:
        """Switch a host off, with its QEMU and what keeps the pair there."""
        self.hosts.hosts[name].power_off()
        if name in self.programs:
            program = self.programs.pop(name)
            await self._reading.pop(name)
            await program.process.communicate()

    async def aclose(self) -> None:
        """End whatever keeps it."""
        for name in tuple(self.programs):
            await self.kill(name)

    # -- what it says

    async def until(
        self, text: str, *, since: int = 0, node: str | None = None, limit_s: float = LIMIT_S
    ) -> int:
        """Wait until it says this of a node, or of any; gives how much it had said until then."""
        with self._shown():
            async with self._news, asyncio.timeout(limit_s):
                while True:
                    for count, told in enumerate(self.told[since:], since + 1):
                        if text in told.text and node in (None, told.node):
                            return count
                    await self._news.wait()

    async def quiet(self, since: int = 0, limit_s: float = LIMIT_S) -> int:
        """Wait until two nodes are protected; gives how much it had said until then."""
        with self._shown():
            async with self._news, asyncio.timeout(limit_s):
                while True:
                    states = [t for t in self.told[since:] if t.is_first_hand]
                    last = {told.node: told.text for told in states if told.kind == "state"}
                    if [QUIET, QUIET] == list(last.values()):
                        return len(self.told)
                    await self._news.wait()

    async def protected(self, since: int = 0, limit_s: float = LIMIT_S) -> int:
        """Wait for a resync, and until two nodes are protected."""
        resumed = await self.until("resume is done", since=since, limit_s=limit_s)
        return await self.quiet(resumed - 1, limit_s)

    def said(self, kind: str, since: int = 0) -> list[str]:
        """What it has said of one kind."""
        return [told.text for told in self.told[since:] if told.kind == kind]

    @contextlib.contextmanager
    def _shown(self) -> Generator[None]:
        try:
            yield
        except TimeoutError:
            raise AssertionError(f"nothing of this sort was said:\n{self.last()}") from None

    def last(self) -> str:
        """What was said last, for a failing test."""
        lines = [f"{t.at_s:.3f} {t.teller}: {t.node} {t.kind}: {t.text}" for t in self.told[-80:]]
        return "\n".join(lines)

    # -- the nodes

    def qemu(self, name: str) -> int | None:
        """The QEMU of a host, as that host counts; None for none that runs."""
        path = self.hosts.hosts[name].disk / "disk.raw.process.json"
        if not path.exists():
            return None
        current = json.loads(path.read_text())["current"]
        if current is None:
            return None
        status = self._root(name) / f"proc/{current['pid']}/stat"
        try:
            state = status.read_text().rpartition(") ")[2][0]
        except OSError:
            return None
        pid: int = current["pid"]
        return None if state in "ZX" else pid

    def hit(self, name: str, number: signal.Signals) -> float:
        """Send a signal to the QEMU of a host; gives the moment."""
        pid = self.qemu(name)
        assert pid is not None, f"{name} does not run"
        done = self.hosts.hosts[name].run("kill", f"-{number.value}", str(pid))
        assert 0 == done.returncode, done.stderr
        return time.monotonic()

    def _root(self, name: str) -> Path:
        return Path(f"/proc/{self.hosts.hosts[name].pid}/root")

    def counter(self, name: str) -> int:
        """How far the guest counted on a host."""
        return bios_counter(self.serial(name)) or 0

    def serial(self, name: str) -> str:
        """What the guest wrote to its serial port on a host."""
        log = self._root(name) / RUN.removeprefix("/") / "serial.log"
        return log.read_text(encoding="ascii", errors="replace") if log.exists() else ""

    async def keeps_running(self, *names: str, by: int = 3) -> None:
        """See the guest count on, on each of these hosts: up to 18 times a second."""
        marks, end = {name: self.counter(name) for name in names}, time.monotonic() + LIMIT_S
        for name, mark in marks.items():
            while self.counter(name) < mark + by:
                assert time.monotonic() < end, f"the guest on {name} counts on from {mark}"
                await asyncio.sleep(0.02)

    async def ended(self, name: str, limit_s: float = LIMIT_S) -> float:
        """Wait until no QEMU runs on a host; gives the moment."""
        end = time.monotonic() + limit_s
        while self.qemu(name) is not None:
            assert time.monotonic() < end, f"the QEMU of {name} still runs"
            await asyncio.sleep(0.02)
        return time.monotonic()


@asynccontextmanager
async def supervised(
    hosts: Testbed, fences: Mapping[str, tuple[Fence, ...]] = MappingProxyType({})
) -> AsyncGenerator[Kept]:
    """Have a supervisor keep a new pair with the BIOS guest, and wait until it is protected."""
    kept = Kept(hosts)
    kept.declare(Declared(fences=fences))
    bios_guest(hosts.hosts["alpha"].disk / "disk.raw", size_bytes=SIZE_BYTES)
    try:
        await kept.begin()
        await kept.protected()
        # Until the second checkpoint the limits are longer.
        await kept.keeps_running("alpha", "beta", by=30)
        yield kept
    finally:
        await kept.aclose()

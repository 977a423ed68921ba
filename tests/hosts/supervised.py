"""A pair on hosts of its own, and a real `pycolo supervise` that reaches their sshds alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, final

from tests.hosts.testbed import ROOT, STATE, Testbed
from tests.real_qemu import build_of

from pycolo.demo.guests import bios_counter, bios_guest

LIMIT_S: Final = 40.0
SIZE_BYTES: Final = 1 << 20
PAIR: Final = "/tmp/pair.toml"
RUN: Final = "/run/shop"
QUIET: Final = "protected"
NAMES: Final = ("alpha", "beta")
HEAD: Final = """
format_version = 1
name = "shop"
checkpoint_delay_ms = 500
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
memory_mib = 64
serial_log = true

[[disks]]
size_bytes = {size_bytes}
image = "disk.raw"
image_format = "raw"

[[chains]]
model = "rtl8139"
[chains.netdev]
type = "tap"
options = {{ ifname = "tap0", script = "no", downscript = "no" }}
"""


class Fence(NamedTuple):
    """A command that is to end what runs on a host."""

    command: tuple[str, ...]
    limit_s: float = 60.0


class Told(NamedTuple):
    """What a supervisor said, and when it was read, by this machine's monotonic clock."""

    node: str | None
    kind: str
    text: str
    at_s: float


@final
class Supervised:
    """A pair on two hosts, and the supervisors that keep it, one after the other."""

    def __init__(self, hosts: Testbed, fences: Mapping[str, tuple[Fence, ...]]) -> None:
        """Write the pair file, and put the guest's image where its first primary is."""
        self.hosts = hosts
        self.told: list[Told] = []
        self._news = asyncio.Condition()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        build = build_of("11.1").prefix
        nodes = []
        for name in NAMES:
            host = hosts.hosts[name]
            nodes.append(
                NODE.format(
                    name=name,
                    address=host.address,
                    management=host.management,
                    state=STATE,
                    run=RUN,
                    build=build,
                )
            )
            for fence in fences.get(name, ()):
                command = json.dumps(fence.command)
                nodes.append(FENCE.format(command=command, limit_s=fence.limit_s))
        rest = REST.format(size_bytes=SIZE_BYTES)
        text = "".join((HEAD, *nodes, rest))
        done = hosts.controller.run("sh", "-c", f"cat >{PAIR} <<'END'\n{text}\nEND")
        assert 0 == done.returncode, done.stderr
        bios_guest(hosts.hosts["alpha"].disk / "disk.raw", size_bytes=SIZE_BYTES)

    # -- supervisors

    @property
    def pid(self) -> int:
        """The supervisor that runs, as this machine counts."""
        assert self._process is not None
        pid = self._process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    async def begin(self) -> asyncio.subprocess.Process:
        """Start a supervisor, and take down what it says."""
        self._process = await self.start()
        self._reading = asyncio.create_task(self._read(self._process))
        return self._process

    async def start(self) -> asyncio.subprocess.Process:
        """Start a supervisor, whatever else runs."""
        program = "from pycolo.cli import main; main()"
        environment = {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
        argv = (sys.executable, "-c", program, "supervise", PAIR, "--as", "json")
        return await asyncio.create_subprocess_exec(
            *self.hosts.controller.entering(*argv, environment=environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            said = json.loads(line)
            at_s = time.monotonic()
            async with self._news:
                self.told.append(Told(said["node"], said["kind"], said["text"], at_s))
                self._news.notify_all()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        os.kill(self.pid, number)
        if number == signal.SIGCONT:
            # What brought it into its namespaces stops with it, and does not see that it continues.
            assert self._process is not None
            self._process.send_signal(number)

    async def kill(self) -> None:
        """End the supervisor the hard way."""
        assert self._process is not None
        assert self._reading is not None
        self.send(signal.SIGKILL)
        await self._reading
        await self._process.communicate()
        self._process = None

    async def aclose(self) -> None:
        """End the supervisor, if one runs."""
        if self._process is not None:
            self.send(signal.SIGCONT)
            await self.kill()

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

    async def quiet(self, since: int = 0) -> int:
        """Wait until two nodes are protected; gives how much it had said until then."""
        with self._shown():
            async with self._news, asyncio.timeout(LIMIT_S):
                while True:
                    states = [t for t in self.told[since:] if t.node and t.kind == "state"]
                    last = {told.node: told.text for told in states}
                    if [QUIET, QUIET] == list(last.values()):
                        return len(self.told)
                    await self._news.wait()

    async def protected(self, since: int = 0) -> int:
        """Wait for a resync, and until two nodes are protected."""
        return await self.quiet(await self.until("resume is done", since=since) - 1)

    def said(self, kind: str, since: int = 0) -> list[str]:
        """What it has said of one kind."""
        return [told.text for told in self.told[since:] if told.kind == kind]

    @contextlib.contextmanager
    def _shown(self) -> Generator[None]:
        try:
            yield
        except TimeoutError:
            lines = "\n".join(f"{t.at_s:.3f} {t.node} {t.kind}: {t.text}" for t in self.told[-60:])
            raise AssertionError(f"nothing of this sort was said:\n{lines}") from None

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
        log = self._root(name) / RUN.removeprefix("/") / "serial.log"
        text = log.read_text(encoding="ascii", errors="replace") if log.exists() else ""
        return bios_counter(text) or 0

    async def goes_on(self, *names: str, by: int = 3) -> None:
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
) -> AsyncGenerator[Supervised]:
    """Have a supervisor keep a new pair, and wait until it is protected."""
    kept = Supervised(hosts, fences)
    try:
        await kept.begin()
        await kept.protected()
        # Until the second checkpoint the limits are longer.
        await kept.goes_on("alpha", "beta", by=30)
        yield kept
    finally:
        await kept.aclose()

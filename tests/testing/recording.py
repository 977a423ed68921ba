"""Exchanges with real QEMUs: recorded once, small, and read back for the fakes.

`python -m tests.testing.recording` lives a pair's life on each real QEMU and writes
`recorded/VERSION.jsonl`. A line is what was sent to a node with the reply, an event of a node, a
launch or a death, in the order in which they passed. Replies keep what pycolo reads of them.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import final

import attrs
from tests.qemu.life import HAS_KVM, LivePair, bios_life

from pycolo.demo.builds import Release
from pycolo.errors import ParseError
from pycolo.model.node import Monitor, UnixMonitor
from pycolo.plan import LaunchQemu, RunHost
from pycolo.qmp._base import QmpRecord
from pycolo.qmp.commands import command_from_qmp
from pycolo.qmp.schema import PackagedVersion
from pycolo.session import Session

FOLDER = Path(__file__).parent / "recorded"
RELEASES: dict[PackagedVersion, Release] = {"7.2.22": "7.2", "10.0.13": "10.0", "11.1.3": "11.1"}
LIMIT_S = 10.0
Line = dict[str, object]


def load(version: PackagedVersion) -> list[Line]:
    """The recorded life of a version."""
    text = (FOLDER / f"{version}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@final
@attrs.define
class Recorder:
    """Stands between sessions and QEMUs and writes down what passes."""

    life: LivePair
    lines: list[Line] = attrs.field(factory=list)
    _pending: dict[tuple[str, str], Line] = attrs.field(factory=dict)
    _last: dict[tuple[str, str], str] = attrs.field(factory=dict)
    _tasks: list[asyncio.Task[None]] = attrs.field(factory=list)

    async def connect(self, name: str) -> Session:
        """Open the control session of a node through the recorder."""
        monitor = self.life.pair.node(name).control_monitor
        session = await Session.connect(name, monitor, limit_s=LIMIT_S, connector=self._reach)
        self.life.sessions[name] = session
        self.lines.append({"connect": name})
        return session

    async def _reach(self, node: str, monitor: Monitor) -> socket.socket:
        assert isinstance(monitor, UnixMonitor)
        reader, writer = await asyncio.open_unix_connection(monitor.path, limit=1 << 24)
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        theirs.settimeout(0)
        near, to_near = await asyncio.open_connection(sock=theirs, limit=1 << 24)
        loop = asyncio.get_running_loop()
        self._tasks += [
            loop.create_task(self._down(node, near, writer)),
            loop.create_task(self._up(node, reader, to_near)),
        ]
        return ours

    async def _down(
        self, node: str, near: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        text = ""
        while data := await near.read(1 << 16):
            text += data.decode()
            while text.strip():
                try:
                    message, end = json.JSONDecoder().raw_decode(text.lstrip())
                except json.JSONDecodeError:
                    break
                text = text.lstrip()[end:]
                self._sent(node, message)
            writer.write(data)
        writer.close()

    async def _up(
        self, node: str, reader: asyncio.StreamReader, to_near: asyncio.StreamWriter
    ) -> None:
        while data := await reader.readline():
            self._came(node, json.loads(data))
            to_near.write(data)
        to_near.close()

    def _sent(self, node: str, message: Line) -> None:
        key = "exec-oob" if "exec-oob" in message else "execute"
        sent = {key: message[key]}
        if message.get("arguments"):
            sent["arguments"] = message["arguments"]
        if message[key] != "qmp_capabilities":
            self._pending[node, str(message["id"])] = {"node": node, "send": sent}

    def _came(self, node: str, message: Line) -> None:
        if "event" in message:
            event = {"node": node, "event": message["event"]}
            self.lines.append({**event, "data": message.get("data", {})})
            return
        line = self._pending.pop((node, str(message.get("id"))), None)
        if line is None:
            return
        sent = line["send"]
        assert isinstance(sent, dict)
        reply = {"error": message["error"]} if "error" in message else {}
        reply = reply or {"return": read_part(sent, message["return"])}
        question = json.dumps(sent)
        told = json.dumps(reply)
        if is_query(sent) and self._last.get((node, question)) == told:
            return
        self._last[node, question] = told
        self.lines.append({**line, **reply})

    def launched(self, name: str, argv: tuple[str, ...]) -> None:
        """Write down a command line."""
        self.lines.append({"launch": name, "argv": list(argv)})

    async def aclose(self) -> None:
        """Stop passing anything on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def is_query(sent: Line) -> bool:
    """Whether a command only asks."""
    name = str(sent.get("execute", sent.get("exec-oob")))
    return name.startswith(("query-", "x-debug-query", "qom-list", "qom-get"))


def read_part(sent: Line, value: object) -> object:
    """What pycolo reads of a reply."""
    name = sent.get("execute", sent.get("exec-oob"))
    try:
        command = command_from_qmp({"execute": name, "arguments": sent.get("arguments", {})})
    except ParseError:
        return value
    parsed: object = command.parse_reply(value)
    if isinstance(parsed, QmpRecord):
        return parsed.to_qmp()
    if isinstance(parsed, tuple) and name != "query-yank":
        return [item.to_qmp() for item in parsed if isinstance(item, QmpRecord)]
    return value


async def record(version: PackagedVersion) -> list[Line]:
    """Live a life on a real QEMU: both failovers, both resumed, then the end of protection."""
    async with bios_life(RELEASES[version], "kvm" if HAS_KVM else "tcg") as life:
        recorder = Recorder(life)
        setattr(life, "connect", recorder.connect)  # noqa: B010 - the pair connects through us
        first = life.pair.nodes[0]

        async def launch(*names: str) -> None:
            plan = await life.compile_launch(*names)
            for step in plan.steps:
                if isinstance(step, RunHost) and isinstance(step.action, LaunchQemu):
                    recorder.launched(step.node, step.action.argv)
            await life.execute(plan)
            for name in names:
                await life.connect(name)

        await launch("alpha", "beta")
        await life.run("start")
        for victim, spare in (("beta", "gamma"), ("alpha", "delta")):
            await life.kill(victim)
            recorder.lines.append({"kill": victim})
            await life.run("failover")
            life.pair = life.pair.replacing(victim, life.pair.node(spare))
            await launch(spare)
            await life.run("resume")
        await life.run("stop")
        await life.probe()
        await recorder.aclose()
        folder = str(Path(first.image_folder).parent)
        return [plain(line, folder) for line in recorder.lines]


def plain(line: Line, folder: str) -> Line:
    """A line without the paths of this machine."""
    text = json.dumps(line).replace(folder, "/pair")
    found: Line = json.loads(text)
    argv = found.get("argv")
    if isinstance(argv, list):
        argv[0] = "qemu-system-x86_64"
    return found


def written(lines: list[Line]) -> Iterator[str]:
    """The lines as a file has them."""
    for line in lines:
        yield json.dumps(line, separators=(",", ":"), sort_keys=True)


def main() -> None:
    """Record every version."""
    FOLDER.mkdir(exist_ok=True)
    for version in RELEASES:
        lines = asyncio.run(record(version))
        text = "\n".join(written(lines)) + "\n"
        (FOLDER / f"{version}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

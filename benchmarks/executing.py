"""What a plan costs above the QMP library that carries it: quick commands to a real QEMU."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from qemu.qmp import QMPClient

from benchmarks.measure import Figure, async_timed_s, compared
from pycolo._execute import execute
from pycolo.demo.builds import fetch
from pycolo.errors import ConnectionFailed
from pycolo.model import ColoPair, Node, UnixMonitor
from pycolo.plan import Execute, Plan, Step
from pycolo.qmp.commands import Command, ObjectAdd, ObjectDel
from pycolo.qmp.objects import IoThread
from pycolo.session import Session
from pycolo.snapshot import Snapshot

RUNS = 15
COMMANDS = 200
AT_MOST = 1.3
NODE = "alpha"
LIMIT_S = 10.0


def run() -> list[Figure]:
    """Send the same commands as a plan and by the library alone, in turns."""
    with tempfile.TemporaryDirectory(prefix="pycolo-") as folder, _bare_qemu(Path(folder)):
        return asyncio.run(_measured(Path(folder)))


async def _measured(folder: Path) -> list[Figure]:
    plan = _plan()
    commands = [step.command for step in plan.steps if isinstance(step, Execute)]
    client = QMPClient("bare")

    async def bare() -> None:
        for command in commands:
            await client.execute(command.qmp_name, command.arguments())

    async def planned() -> None:
        report = await execute(plan, {NODE: session})
        if report.failed is not None:
            raise RuntimeError(f"{report.failed}: {report.outcomes[report.failed]}")

    ours: list[float] = []
    theirs: list[float] = []
    async with await _connected(UnixMonitor(path=str(folder / "pycolo.qmp"))) as session:
        await client.connect(str(folder / "bare.qmp"))
        for _ in range(RUNS):
            ours.append(await async_timed_s(planned))
            theirs.append(await async_timed_s(bare))
    await client.disconnect()
    return compared(
        "execute",
        (f"a plan of {COMMANDS} commands", ours),
        ("the same by qemu.qmp", theirs),
        at_most=AT_MOST,
    )


def _plan() -> Plan:
    commands: list[Command] = []
    for n in range(COMMANDS // 2):
        commands += [ObjectAdd(object=IoThread(id=f"io{n}")), ObjectDel(id=f"io{n}")]
    steps: list[Step] = [
        Execute(
            address=f"{NODE}/{command.qmp_name}/{command.subject}",
            node=NODE,
            command=command,
            why="a command that takes QEMU no time",
            limit_s=LIMIT_S,
        )
        for command in commands
    ]
    nothing = Snapshot(nodes={})
    return Plan(
        procedure="start",
        pair=ColoPair(
            name="colo",
            nodes=[
                Node(name=name, address="127.0.0.1", run_dir=f"/run/{name}", image_folder="/srv")
                for name in (NODE, "beta")
            ],
        ),
        qemu={},
        dialect="auto",
        prior_state=nothing,
        planned_state=nothing,
        steps=tuple(steps),
    )


@contextmanager
def _bare_qemu(folder: Path) -> Generator[None]:
    """Run a QEMU without a machine, with a monitor for each way."""
    argv = [str(fetch("11.1").qemu_system), "-nodefaults", "-display", "none", "-machine", "none"]
    for name in ("pycolo", "bare"):
        argv += ["-qmp", f"unix:{folder}/{name}.qmp,server=on,wait=off"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)  # noqa: S603 - the build just found
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def _connected(monitor: UnixMonitor) -> Session:
    """Connect as soon as QEMU listens."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                return await Session.connect(NODE, monitor, limit_s=LIMIT_S)
            except ConnectionFailed:
                await asyncio.sleep(0.02)

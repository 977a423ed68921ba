"""From the order to fail over until the guest runs again, beside a script that does only that.

Both begin when the peer has ended, with everything made ready before: the plan compiled and the
sessions open, the script's socket connected. The QMP library alone, with the plan's own commands,
tells how much of the difference is its. What pycolo does more is to make sure: of the peer's
death, of the QEMU it speaks to, of the disk's child that it removes, and one yank a command, since
in a list an unknown instance keeps the others from being yanked (qemu-behaviour 7.7).
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Self, TypeAlias

from qemu.qmp import Message, QMPClient

from benchmarks.measure import Figure, compared
from benchmarks.pairs import LivePair, bios_pair
from pycolo.compiler import failover
from pycolo.faces import primary_yanks, secondary_yanks
from pycolo.model import ColoPair, UnixMonitor
from pycolo.plan import Execute, Plan
from pycolo.qmp.commands import (
    Command,
    NbdServerStop,
    QomSet,
    XBlockdevChange,
    XColoLostHeartbeat,
    Yank,
)
from pycolo.qmp.events import ResumeEvent
from pycolo.session import Notice

RUNS = 12
AT_MOST = 1.3
KINDS = ("primary", "secondary")
LIMIT_S = 10.0
_Way: TypeAlias = Callable[[LivePair, str, str, str], Awaitable[float]]


def run() -> list[Figure]:
    """Kill and fail over, in turns with the plan and with the script, for each kind of survivor."""
    return asyncio.run(_measured())


async def _measured() -> list[Figure]:
    times_s: dict[_Way, dict[str, list[float]]] = {
        way: {kind: [] for kind in KINDS} for way in (_planned, _scripted, _by_library)
    }
    async with bios_pair() as living:
        primary, secondary = (node.name for node in living.pair.nodes)
        await living.launch(primary, secondary)
        await living.run("start")
        for _ in range(RUNS):
            for way, found in times_s.items():
                found["primary"].append(await way(living, primary, secondary, "primary"))
                await _whole_again(living, primary, secondary)
                found["secondary"].append(await way(living, secondary, primary, "secondary"))
                await _whole_again(living, secondary, primary)
                primary, secondary = secondary, primary
    figures: list[Figure] = []
    for kind in KINDS:
        ours = (f"plan, {kind} survives", times_s[_planned][kind])
        script = (f"script, {kind} survives", times_s[_scripted][kind])
        library = (f"its commands by qemu.qmp, {kind} survives", times_s[_by_library][kind])
        figures += compared("failover", ours, script, at_most=AT_MOST)
        figures += compared("failover", ours, library)[1:]
    return figures


async def _whole_again(living: LivePair, survivor: str, peer: str) -> None:
    """Finish what the script left undone, and protect the guest anew."""
    await living.run("failover", survivor=survivor)
    await living.launch(peer)
    await living.run("resume")


# -- the plan


async def _planned(living: LivePair, survivor: str, peer: str, _: str) -> float:
    plan = failover(living.pair, await living.snapshot(), survivor=survivor)
    running_at: list[float] = []

    def note(notice: Notice) -> None:
        if isinstance(notice, ResumeEvent):
            running_at.append(time.perf_counter())

    await living.kill(peer)
    end = living.sessions[survivor].subscribe(note)
    started = time.perf_counter()
    await living.execute(plan)
    end()
    # The last one: COLO's checkpoints resume the guest too, up to the peer's death.
    return running_at[-1] - started


# -- the QMP library alone


async def _by_library(living: LivePair, survivor: str, peer: str, _: str) -> float:
    """The commands of the plan, without its checks, by the library that pycolo stands on."""
    plan = failover(living.pair, await living.snapshot(), survivor=survivor)
    commands = [step for step in plan.steps[: _restored(plan)] if isinstance(step, Execute)]
    running = asyncio.Event()

    def note(message: Message) -> bool:
        if message["event"] == "RESUME":
            running.set()
        return False

    client = QMPClient("script")
    client.events.event_filter = note
    await client.connect(_observer(living.pair, survivor))
    await living.kill(peer)
    started = time.perf_counter()
    for step in commands:
        # Only what comes after the last command counts: checkpoints resume the guest too.
        running.clear()
        arguments = step.command.arguments() or None
        await client.execute(step.command.qmp_name, arguments, oob=step.oob)
    await running.wait()
    took_s = time.perf_counter() - started
    await client.disconnect()
    return took_s


def _restored(plan: Plan) -> int:
    addresses = [step.address for step in plan.steps]
    return addresses.index(str(plan.restored_after))


# -- the script


async def _scripted(living: LivePair, survivor: str, peer: str, kind: str) -> float:
    child = await _child(living, survivor)
    commands = _primary(living.pair, child) if kind == "primary" else _secondary(living.pair)
    with _Script(_observer(living.pair, survivor)) as script:
        await living.kill(peer)
        return script.run(commands)


async def _child(living: LivePair, survivor: str) -> str:
    """The disk's place that the peer's image has, looked up while nothing is wrong."""
    live = (await living.snapshot()).live(survivor)
    children = () if live is None else live.children[living.pair.disks[0].names.quorum]
    return children[-1].name


def _observer(pair: ColoPair, node: str) -> str:
    monitor = pair.node(node).observer_monitor
    if not isinstance(monitor, UnixMonitor):
        raise TypeError("the scripts speak to unix sockets")
    return monitor.path


class _Script:
    """Blocking sockets and JSON."""

    def __init__(self, path: str) -> None:
        self._door = socket.socket(socket.AF_UNIX)
        self._door.settimeout(LIMIT_S)
        self._door.connect(path)
        self._lines = self._door.makefile("rb")

    def __enter__(self) -> Self:
        self._lines.readline()
        self._send({"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}})
        self._lines.readline()
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._door.close()

    def run(self, commands: Sequence[Command]) -> float:
        """Send the commands one after the other; how long it takes to RESUME, in seconds."""
        wire = [_oob(c.to_qmp()) if isinstance(c, Yank) else c.to_qmp() for c in commands]
        resumed = False
        started = time.perf_counter()
        for members in wire:
            # Only what comes after the last command counts: checkpoints resume the guest too.
            self._send(members)
            resumed = self._read_until("return")
        if not resumed:
            self._read_until("event")
        return time.perf_counter() - started

    def _send(self, members: object) -> None:
        self._door.sendall(json.dumps(members).encode() + b"\n")

    def _read_until(self, key: str) -> bool:
        """Read up to a reply, or up to the event RESUME; whether RESUME came."""
        resumed = False
        while True:
            members = json.loads(self._lines.readline())
            if "error" in members:
                raise RuntimeError(members["error"])
            resumed = resumed or members.get("event") == "RESUME"
            if key in members and (key != "event" or resumed):
                return resumed


def _oob(members: Mapping[str, object]) -> dict[str, object]:
    return {"exec-oob": members["execute"], "arguments": members["arguments"]}


def _all_at_once(yanks: Sequence[Yank]) -> Yank:
    return Yank(instances=tuple(instance for yank in yanks for instance in yank.instances))


def _primary(pair: ColoPair, child: str) -> list[Command]:
    (disk,), (chain,) = pair.disks, pair.chains
    filters = (chain.names.redirector_in, chain.names.filter_mirror)
    return [
        _all_at_once(primary_yanks(pair)),
        *(QomSet(path=f"/objects/{f}", property_name="status", value="off") for f in filters),
        XBlockdevChange(parent=disk.names.quorum, child=child),
        XColoLostHeartbeat(),
    ]


def _secondary(pair: ColoPair) -> list[Command]:
    return [_all_at_once(secondary_yanks(pair)), NbdServerStop(), XColoLostHeartbeat()]

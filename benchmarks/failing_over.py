"""From the order to fail over until the guest runs again, beside a script that does only that.

Both begin when the peer has ended, with everything made ready before: the plan compiled and the
sessions open, the script's socket connected. The QMP library alone, with the plan's own commands,
tells how much of the difference is its. What pycolo does more is to make sure: of the peer's
death, of the QEMU it speaks to, of the disk's child that it removes, and one yank a command, since
in a list an unknown instance keeps the others from being yanked (qemu-behaviour 7.7).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from qemu.qmp import Message, QMPClient

from benchmarks.measure import Figure, compared, undisturbed
from benchmarks.pairs import LivePair, bios_pair
from benchmarks.script import Script, observer_path
from pycolo.compiler import failover
from pycolo.model import ColoPair
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
from pycolo.topology import primary_yanks, secondary_yanks

RUNS = 12
WARM_UPS = 1
AT_MOST = 1.3
KINDS = ("primary", "secondary")
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
        for _ in range(WARM_UPS + RUNS):
            for way, found in times_s.items():
                found["primary"].append(await way(living, primary, secondary, "primary"))
                await living.whole_again(primary, secondary)
                found["secondary"].append(await way(living, secondary, primary, "secondary"))
                await living.whole_again(secondary, primary)
                primary, secondary = secondary, primary
    figures: list[Figure] = []
    for kind in KINDS:
        planned, scripted, by_library = (found[kind][WARM_UPS:] for found in times_s.values())
        ours = (f"plan, {kind} survives", planned)
        script = (f"script, {kind} survives", scripted)
        library = (f"its commands by qemu.qmp, {kind} survives", by_library)
        figures += compared("failover", ours, script, at_most=AT_MOST)
        figures += compared("failover", ours, library)[1:]
    return figures


# -- the plan


async def _planned(living: LivePair, survivor: str, peer: str, _: str) -> float:
    plan = failover(living.pair, await living.snapshot(), survivor=survivor)
    running_at: list[float] = []

    def note(notice: Notice) -> None:
        if isinstance(notice, ResumeEvent):
            running_at.append(time.perf_counter())

    await living.kill(peer)
    end = living.sessions[survivor].subscribe(note)
    with undisturbed():
        started = time.perf_counter()
        await living.execute(plan)
    end()
    # The last one: COLO's checkpoints resume the guest too, up to the peer's death.
    return running_at[-1] - started


# -- the QMP library alone


async def _by_library(living: LivePair, survivor: str, peer: str, _: str) -> float:
    """The commands of the plan, without its checks, by the library that pycolo stands on."""
    plan = failover(living.pair, await living.snapshot(), survivor=survivor)
    commands = _up_to_the_end_of_colo(plan)
    running = asyncio.Event()

    def note(message: Message) -> bool:
        if message["event"] == "RESUME":
            running.set()
        return False

    client = QMPClient("script")
    client.events.event_filter = note
    await client.connect(observer_path(living.pair, survivor))
    await living.kill(peer)
    with undisturbed():
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


def _up_to_the_end_of_colo(plan: Plan) -> list[Execute]:
    """The commands up to the one by which the guest runs again."""
    commands = [step for step in plan.steps if isinstance(step, Execute)]
    ends = [isinstance(step.command, XColoLostHeartbeat) for step in commands]
    return commands[: ends.index(True) + 1]


# -- the script


async def _scripted(living: LivePair, survivor: str, peer: str, kind: str) -> float:
    commands = await script_commands(living, survivor, kind)
    with Script(observer_path(living.pair, survivor)) as script:
        await living.kill(peer)
        with undisturbed():
            started = time.perf_counter()
            script.fail_over(commands)
            return time.perf_counter() - started


async def script_commands(living: LivePair, survivor: str, kind: str) -> list[Command]:
    """What a script sends that knows of the death beforehand, looked up while nothing is wrong.

    Args:
        living: The pair, protected.
        survivor: Who continues.
        kind: What it is: `primary` or `secondary`.
    """
    if kind == "secondary":
        return _secondary(living.pair)
    return _primary(living.pair, await _child(living, survivor))


def filters_off(pair: ColoPair) -> list[Command]:
    """What gives the guest of a surviving primary its network back."""
    (chain,) = pair.chains
    filters = (chain.names.redirector_in, chain.names.filter_mirror)
    return [QomSet(path=f"/objects/{f}", property_name="status", value="off") for f in filters]


async def _child(living: LivePair, survivor: str) -> str:
    """The disk's place that the peer's image has, looked up while nothing is wrong."""
    live = (await living.snapshot()).live(survivor)
    children = () if live is None else live.children[living.pair.disks[0].names.quorum]
    return children[-1].name


def _all_at_once(yanks: Sequence[Yank]) -> Yank:
    return Yank(instances=tuple(instance for yank in yanks for instance in yank.instances))


def _primary(pair: ColoPair, child: str) -> list[Command]:
    (disk,) = pair.disks
    return [
        _all_at_once(primary_yanks(pair)),
        XBlockdevChange(parent=disk.names.quorum, child=child),
        XColoLostHeartbeat(),
    ]


def _secondary(pair: ColoPair) -> list[Command]:
    return [_all_at_once(secondary_yanks(pair)), NbdServerStop(), XColoLostHeartbeat()]

"""From the order to fail over until the guest answers a ping, beside a script of fewest commands.

A Linux guest on TCG runs on two hosts in network namespaces, and a client pings it every
millisecond. One of the QEMUs is killed with SIGKILL. The clock starts with the order to fail over,
just before the first command: the death is known, and nothing was sent to the survivor yet. It
stops when the client has the first echo reply to a request that it sent after that. In both ways
the guest must continue answering; what else a failover is for, the script leaves undone.

Everything is made ready before: the plan compiled and the sessions open, the script's socket
connected.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, final

from benchmarks.failing_over import filters_off
from benchmarks.measure import Figure, compared, undisturbed
from benchmarks.pairs import LivePair, networked_pair
from benchmarks.script import Script, observer_path
from pycolo.compiler import failover
from pycolo.demo.network import GUEST_ADDRESS
from pycolo.demo.testbed import Testbed
from pycolo.qmp.commands import XColoLostHeartbeat

RUNS = 8
WARM_UPS = 1
AT_MOST = 1.3
KINDS = ("primary", "secondary")
ANSWER_S = 10.0
STAYS_S = 0.3
_Way: TypeAlias = Callable[[LivePair, str, str, str], Awaitable[float]]
"Kills the peer and fails over; when that was ordered."


def run() -> list[Figure]:
    """Kill and fail over, in turns with the plan and with the script, for each kind of survivor."""
    return asyncio.run(_measured())


async def _measured() -> list[Figure]:
    times_s: dict[_Way, dict[str, list[float]]] = {
        way: {kind: [] for kind in KINDS} for way in (_planned, _scripted)
    }
    async with networked_pair() as (living, testbed):
        primary, secondary = (node.name for node in living.pair.nodes)
        await living.protect_booted(primary, secondary)
        with _pinging(testbed) as pings:
            for _ in range(WARM_UPS + RUNS):
                for way, found in times_s.items():
                    took_s = await _outage(way, living, pings, (primary, secondary, "primary"))
                    found["primary"].append(took_s)
                    took_s = await _outage(way, living, pings, (secondary, primary, "secondary"))
                    found["secondary"].append(took_s)
                    primary, secondary = secondary, primary
    planned, scripted = times_s.values()
    figures: list[Figure] = []
    for kind in KINDS:
        ours = (f"plan, {kind} survives", planned[kind][WARM_UPS:])
        script = (f"script, {kind} survives", scripted[kind][WARM_UPS:])
        figures += compared("failover-ping", ours, script, at_most=AT_MOST)
    return figures


async def _outage(way: _Way, living: LivePair, pings: _Pings, who: tuple[str, str, str]) -> float:
    """Fail over one way, and make the pair whole again; how long the client had no answer."""
    survivor, peer, kind = who
    await pings.first_answer(sent_after_s=time.monotonic())
    ordered_s = await way(living, survivor, peer, kind)
    answered_s = await pings.first_answer(sent_after_s=ordered_s)
    await pings.first_answer(sent_after_s=answered_s + STAYS_S)
    await living.whole_again(survivor, peer)
    return answered_s - ordered_s


# -- the plan


async def _planned(living: LivePair, survivor: str, peer: str, _: str) -> float:
    plan = failover(living.pair, await living.snapshot(), survivor=survivor)
    await living.kill(peer)
    with undisturbed():
        ordered_s = time.monotonic()
        await living.execute(plan)
    return ordered_s


# -- the script


async def _scripted(living: LivePair, survivor: str, peer: str, kind: str) -> float:
    off = filters_off(living.pair) if kind == "primary" else []
    commands = [XColoLostHeartbeat(), *off]
    with Script(observer_path(living.pair, survivor)) as script:
        await living.kill(peer)
        with undisturbed():
            ordered_s = time.monotonic()
            for command in commands:
                script.call(command)
    return ordered_s


# -- the client


@final
class _Pings:
    """What the client writes down."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0

    async def first_answer(self, *, sent_after_s: float) -> float:
        """When the first answer came to a request that was sent after a moment.

        Raises:
            TimeoutError: None came; what is on the other end is not the guest any more.
        """
        async with asyncio.timeout(ANSWER_S):
            while True:
                for sent_s, answered_s in self._news():
                    if sent_s > sent_after_s:
                        return answered_s
                await asyncio.sleep(0.01)

    def _news(self) -> Iterable[tuple[float, float]]:
        """What was written since it was last asked for; a line that is not complete yet waits."""
        with self._path.open() as file:
            file.seek(self._read_bytes)
            while (line := file.readline()).endswith("\n"):
                self._read_bytes += len(line)
                sent, answered = line.split()
                yield float(sent), float(answered)


@contextmanager
def _pinging(testbed: Testbed) -> Generator[_Pings]:
    """Have the client ping."""
    path = testbed.folder / "pings"
    argv = [*testbed.network.client, sys.executable, "-m", "benchmarks.pinger", GUEST_ADDRESS]
    with path.open("w") as file:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file)  # noqa: S603
        try:
            yield _Pings(path)
        finally:
            process.kill()
            process.wait()

"""From a fault until clients of the guest have answers again, with nobody at the keyboard.

A Linux guest on TCG runs on two hosts in network namespaces, under a supervisor. Its clients ping
it, keep a request in flight on one connection, and ask on another one 100 ms after each answer,
just after which the fault comes. A QEMU is killed, or the cable between the hosts is cut.
Beside it stands a script that knows of the death beforehand,
with the same guest and the same clients. A request that was in flight is sent again by the client's
kernel, after 200 ms at the earliest, whatever is done about the fault.

A cut shows only by the limits that the pair declares; it comes just after a checkpoint, from which
they count. They are given apart, and so is what the evidence takes: the host ends the other QEMU.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from benchmarks.failing_over import filters_off, script_commands
from benchmarks.measure import Figure, compared, milliseconds
from benchmarks.pairs import LivePair, networked_pair
from benchmarks.supervising import KINDS, Fault, Watched, after_limits, kept, scripted
from pycolo.demo.client import BUSY, IDLE, PING
from pycolo.demo.listener import Listener, listening
from pycolo.demo.network import Cable
from pycolo.model import ColoPair
from pycolo.qmp.commands import Command
from pycolo.supervise import Limits

NAME: Final = "supervise-client"
RUNS: Final = 20
CUTS: Final = 5
ANSWER_S: Final = 60.0
_Answered: TypeAlias = Callable[[Listener, float, float], float | None]
"""When the answer came: from the moments of the fault and of the guest's RESUME, by the monotonic
clock; None before it has come."""


def run() -> list[Figure]:
    """Kill each side in turn by the script, then under the supervisor; then cut the cable."""
    return asyncio.run(_measured())


async def _measured() -> list[Figure]:
    async with networked_pair() as (living, testbed):
        primary, secondary = (node.name for node in living.pair.nodes)
        await living.protect_booted(primary, secondary)
        service = testbed.network.places[primary].service
        log, cable = testbed.folder / "client.log", testbed.network.cable
        if cable is None:
            raise RuntimeError("cannot be measured here: there is no cable to cut")
        async with listening(testbed.network, service, log, notable_s=0.0) as client:
            by_script = await _by_script(living, client, primary)
            await living.disconnect()
            async with kept(living) as watched:
                killed = await _killed(watched, client)
                cut, answered = await _cut(watched, client, cable)
    figures: list[Figure] = []
    for kind in KINDS:
        for what in ANSWERS:
            ours = (f"SIGKILL to {what}, {kind} survives", killed[kind][what])
            script = (f"script, {what}, {kind} survives", by_script[kind][what])
            figures += compared(NAME, ours, script)
    for kind in KINDS:
        shown = [one for one in cut if one.survivor == kind]
        if shown:
            what = f"cable cut to RESUME, {kind} survives"
            figures += after_limits(NAME, what, _declared_s(living.pair, kind), shown)
    figures += [milliseconds(NAME, f"cable cut to {what}", answered[what]) for what in ANSWERS]
    return figures


def _declared_s(pair: ColoPair, kind: str) -> float:
    """How long a cut lasts by the pair's limits if it comes just after a checkpoint, in seconds.

    The next checkpoint may hold up the primary (qemu-behaviour 7.3), which has a shorter limit: the
    failover may begin earlier.
    """
    limits = Limits(
        declared=pair.supervision,
        checkpoint_delay_s=pair.checkpoint_delay_ms / 1000,
        ram_gib=pair.machine.memory_mib / 1024,
    )
    return limits.stands_s("no-checkpoint") + limits.acts_s(holds=kind == "primary")


# -- the client


def _longest(stream: str) -> _Answered:
    """The end of the longest wait for a stream's answer that began before the guest ran again."""

    def answered_s(client: Listener, struck_s: float, resumed_s: float) -> float | None:
        wait = client.worst(stream, struck_s, resumed_s)
        return None if wait is None or not client.answered_since(resumed_s) else wait.to_s

    return answered_s


def _next_of_idle(client: Listener, struck_s: float, _: float) -> float | None:
    """The first answer to a request that was sent after the fault on a connection."""
    found = (w.to_s for w in client.waits if w.stream == IDLE[0] and w.from_s > struck_s)
    return next(found, None)


ANSWERS: Final[Mapping[str, _Answered]] = {
    "an answered ping": _longest(PING),
    "a reply to a request in flight": _longest(BUSY),
    "a reply on an idle connection": _next_of_idle,
}
_Times: TypeAlias = dict[str, list[float]]


def _no_times() -> _Times:
    return {what: [] for what in ANSWERS}


async def _settled(client: Listener) -> None:
    """Wait until every connection has an answer, and one of them has just become idle."""
    now_s = time.monotonic()
    await _until(client, lambda: client.answered_since(now_s))
    client.waits.clear()
    await _until(client, lambda: any(wait.stream == IDLE[0] for wait in client.waits))


async def _note(client: Listener, times_s: _Times, struck_s: float, resumed_s: float) -> None:
    """Wait for each kind of answer, and note how long it took."""

    def answers() -> list[float | None]:
        return [answered(client, struck_s, resumed_s) for answered in ANSWERS.values()]

    await _until(client, lambda: None not in answers())
    for what, answered_s in zip(ANSWERS, answers(), strict=True):
        if answered_s is not None:
            times_s[what].append(answered_s - struck_s)


async def _until(client: Listener, come_true: Callable[[], bool]) -> None:
    if not await client.until(come_true, ANSWER_S):
        raise RuntimeError(f"no answer within {ANSWER_S:g} s")


# -- the supervisor


async def _killed(watched: Watched, client: Listener) -> dict[str, _Times]:
    found = {kind: _no_times() for kind in KINDS}
    for _ in range(RUNS):
        for kind, times_s in found.items():
            await watched.protected()
            await _settled(client)
            fault = await watched.signal(watched.survivor(kind), signal.SIGKILL)
            await _note(client, times_s, fault.at_s, fault.at_s + fault.resumed_s)
    return found


async def _cut(
    watched: Watched, client: Listener, cable: Cable
) -> tuple[Sequence[Fault], Mapping[str, Sequence[float]]]:
    faults: list[Fault] = []
    times_s = _no_times()
    for _ in range(CUTS):
        await watched.protected()
        await _settled(client)
        fault = await watched.fault(cable.cut, after_checkpoint=True)
        cable.mend()
        await _note(client, times_s, fault.at_s, fault.at_s + fault.resumed_s)
        faults.append(fault)
    return faults, times_s


# -- the script


async def _by_script(living: LivePair, client: Listener, primary: str) -> dict[str, _Times]:
    found = {kind: _no_times() for kind in KINDS}
    for _ in range(RUNS):
        for kind, times_s in found.items():
            secondary = living.pair.peer_of(primary).name
            survivor, peer = (primary, secondary) if kind == "primary" else (secondary, primary)
            commands = await _commands(living, survivor, kind)
            await _settled(client)
            struck_s, took_s = await scripted(living, survivor, peer, commands)
            await _note(client, times_s, struck_s, struck_s + took_s)
            await living.whole_again(survivor, peer)
            primary = survivor
    return found


async def _commands(living: LivePair, survivor: str, kind: str) -> Sequence[Command]:
    """What gives the guest its network back as well; the last one lets it run."""
    *first, last = await script_commands(living, survivor, kind)
    return [*first, *(filters_off(living.pair) if kind == "primary" else ()), last]

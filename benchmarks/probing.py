"""Reading what is live: one real node, a thousand fake ones, a session's memory, a live compile."""

from __future__ import annotations

import asyncio
import tracemalloc

from benchmarks.compiling import VERSION, declared
from benchmarks.measure import Figure, async_timed_s, milliseconds, timed_s
from benchmarks.pairs import NODES, bios_pair
from pycolo.compiler import launch, start
from pycolo.evidence import instance_of
from pycolo.execute import execute
from pycolo.model import ColoPair
from pycolo.probe import probe
from pycolo.session import Session
from pycolo.testing import World

FAKES = 1000
RUNS = 15


def run() -> list[Figure]:
    """Probe, count and compile."""
    return [*asyncio.run(_one_real_node()), *asyncio.run(_many_fakes())]


async def _one_real_node() -> list[Figure]:
    async with bios_pair() as pair:
        await pair.launch(*NODES)
        unprotected = await probe(pair.sessions)
        compiles = [timed_s(lambda: start(pair.pair, unprotected)) for _ in range(RUNS)]
        await pair.run("start")
        one = dict(list(pair.sessions.items())[:1])
        probes = [await async_timed_s(lambda: probe(one)) for _ in range(RUNS)]
    return [
        milliseconds("probe", "one node in COLO, all of it", probes),
        milliseconds("probe", "compile start from a live snapshot", compiles),
    ]


async def _many_fakes() -> list[Figure]:
    worlds = [await _launched(declared()) for _ in range(FAKES // 2)]
    places = [(world, node) for world, pair in worlds for node in pair.nodes]
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    sessions: dict[str, Session] = {}
    for n, (world, node) in enumerate(places):
        sessions[str(n)] = await world.session(node)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    seconds = [await async_timed_s(lambda: probe(sessions)) for _ in range(3)]
    for session in sessions.values():
        await session.aclose()
    return [
        milliseconds("probe", f"{FAKES} fake nodes at once, one process", seconds),
        Figure(
            benchmark="probe",
            what="memory per open session, its fake monitor's end included",
            value=(after - before) / len(sessions) / 1024,
            unit="KiB",
            runs=len(sessions),
        ),
    ]


async def _launched(pair: ColoPair) -> tuple[World, ColoPair]:
    world = World()
    world.install(pair, pair.nodes[0].name)
    await _launch(world, pair)
    return world, pair


async def _launch(world: World, pair: ColoPair) -> None:
    hosts = world.hosts(pair)
    found = await probe({}, pair=pair, hosts=hosts)
    qemu = {node.name: VERSION for node in pair.nodes}
    instances = {node.name: instance_of(pair.name, node.name, 1) for node in pair.nodes}
    plan = launch(pair, found, qemu=qemu, instances=instances, birth="00000001")
    (await execute(plan, {}, hosts)).raise_on_failure()

"""A supervisor over HTTP by a real clock, whose three pairs stand in three ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
from tests.qemu.life import until
from tests.testing.testbed import declared

from pycolo.model import ColoPair, Node
from pycolo.supervise import HttpEndpoint, Store, Supervisor
from pycolo.supervise.http import served
from pycolo.testing import World

_LIMIT_S: Final = 60.0
_PAIRS: Final = {
    "shop-db": ("rack1", "rack2"),
    "shop-mail": ("rack3", "rack4"),
    "shop-web": ("rack5", "rack6"),
}


def _pair(name: str, racks: tuple[str, str]) -> ColoPair:
    # No two of all racks have one address.
    nodes = (
        Node(name=rack, address=f"127.0.6.{rack[-1]}", image_folder=f"/images/{rack}")
        for rack in racks
    )
    return attrs.evolve(declared(), name=name, nodes=tuple(nodes), spares=())


async def _until(holds: Callable[[], bool]) -> None:
    await until(holds, "the pairs stand as they are to be shown", _LIMIT_S)


async def _fails_over(supervisor: Supervisor, kill: Callable[[], None]) -> None:
    """Kill a QEMU, and return before another one is launched in its place."""
    async with asyncio.timeout(_LIMIT_S), aclosing(supervisor.events()) as events:
        asyncio.get_running_loop().call_soon(kill)
        async for event in events:
            if event.text == "failover is done":
                return


@asynccontextmanager
async def three_pairs(folder: Path) -> AsyncGenerator[str]:
    """Keep a protected pair, one whose other host is gone, and one that needs a person.

    shop-db is protected. The guest of shop-mail runs alone, since rack3 ended before its host went.
    The host of rack5 is gone with shop-web's primary, so that nobody can say whether that ended.

    Args:
        folder: Where the supervisor's store is.

    Yields:
        The URL of the status page, once the pairs stand like this.
    """
    world = World("11.1.3", ram_copy_s=0.1, disk_copy_s=0.1)
    pairs = [_pair(name, nodes) for name, nodes in _PAIRS.items()]
    for pair in pairs:
        world.install(pair, pair.nodes[0].name)
    time_passes = asyncio.create_task(world.autorun())
    try:
        with Store(folder) as store:
            supervisor = Supervisor(pairs, {pair.name: world.hosts(pair) for pair in pairs}, store)
            endpoint = HttpEndpoint(host="127.0.0.1", port=0)
            async with served(supervisor, endpoint) as url, supervisor:
                await _until(lambda: all(one.is_protected for one in supervisor.statuses))
                await _fails_over(supervisor, world.qemu("rack3").kill)
                world.host("rack3").away = True
                world.host("rack5").away = True
                world.qemu("rack5").kill()
                await _until(lambda: bool(supervisor.status("shop-web").person))
                yield url
    finally:
        time_passes.cancel()

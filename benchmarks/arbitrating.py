"""How long an arbiter takes to replace a record, beside the least that replaces a text there."""

from __future__ import annotations

import asyncio
import base64
import itertools
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from tests.etcd import members
from tests.supervise.arbitration import CLAIMED, PAIR, SHARED, renewed, written

from benchmarks.measure import Figure, async_timed_s, compared, milliseconds
from pycolo.supervise import Arbiter
from pycolo.supervise.arbiters import SqliteArbiter, dump_shared
from pycolo.supervise.arbiters.etcd import EtcdArbiter, EtcdCluster

RUNS = 200
LIMIT_S = 10.0
START_S = 30.0


def run() -> list[Figure]:
    """Swap in a file and in an etcd cluster of three members on this machine."""
    with tempfile.TemporaryDirectory(prefix="colo-", dir="/var/tmp") as folder:
        figures = asyncio.run(_in_a_file(Path(folder)))
        with members(Path(folder)) as cluster:
            return [*figures, *asyncio.run(_in_etcd(cluster.endpoints))]


async def _in_a_file(folder: Path) -> list[Figure]:
    arbiter = SqliteArbiter(folder)
    database = sqlite3.connect(folder / "bare.db", isolation_level=None)
    for line in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "CREATE TABLE t (v TEXT)"):
        database.execute(line)
    database.execute("INSERT INTO t VALUES ('')")

    # One that changes nothing would not reach the disk.
    texts = itertools.cycle((dump_shared(SHARED), dump_shared(CLAIMED)))

    async def bare() -> None:
        database.execute("UPDATE t SET v = ?", (next(texts),))

    try:
        return await _figures("SqliteArbiter", arbiter, "an UPDATE of a text", bare)
    finally:
        database.close()
        await arbiter.aclose()


async def _in_etcd(endpoints: tuple[str, ...]) -> list[Figure]:
    arbiter = EtcdArbiter(EtcdCluster(endpoints=endpoints))
    key, value = (base64.b64encode(text.encode()).decode() for text in ("k", dump_shared(SHARED)))
    body = {
        "compare": [{"key": key, "target": "VERSION", "result": "GREATER", "version": "-1"}],
        "success": [{"request_put": {"key": key, "value": value}}],
    }
    async with aiohttp.ClientSession() as session:

        async def bare() -> None:
            async with session.post(f"{endpoints[0]}/v3/kv/txn", json=body) as answer:
                await answer.read()

        try:
            await arbiter.read(PAIR, limit_s=START_S)
            return await _figures("EtcdArbiter", arbiter, "a transaction of etcd's", bare)
        finally:
            await arbiter.aclose()


async def _figures(
    name: str, arbiter: Arbiter, least: str, bare: Callable[[], Awaitable[None]]
) -> list[Figure]:
    swaps_s: list[float] = []
    bare_s: list[float] = []
    held = await written(arbiter)
    for number in range(RUNS):
        began = asyncio.get_running_loop().time()
        held = await arbiter.swap(PAIR, held, (CLAIMED, SHARED)[number % 2], limit_s=LIMIT_S)
        swaps_s.append(asyncio.get_running_loop().time() - began)
        bare_s.append(await async_timed_s(bare))
    renewals_s = [await async_timed_s(lambda: renewed(arbiter)) for _ in range(RUNS)]
    return [
        *compared("arbiter", (f"a swap, {name}", swaps_s), (least, bare_s)),
        milliseconds("arbiter", f"a renewal, {name}", renewals_s),
    ]

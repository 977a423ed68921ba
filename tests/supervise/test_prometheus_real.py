"""A real Prometheus reads a supervisor, and answers what the rules and the dashboard ask."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import final
from urllib.parse import urlsplit

import aiohttp
import pytest
from tests.debian import program
from tests.qemu.life import loopback
from tests.supervise.packaged import RULES, queries
from tests.supervise.three_pairs import three_pairs

pytestmark = [pytest.mark.heavy, pytest.mark.nightly, pytest.mark.timeout(600)]
LIMIT_S = 60.0
POLL_S = 0.1
# `for` counts in rounds of evaluation: nobody waits for ten minutes here.
CONFIGURATION = """\
global: {scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}
rule_files: [rules.yml]
scrape_configs: [{job_name: pycolo, static_configs: [{targets: ["TARGET"]}]}]
"""


@final
class Prometheus:
    """One Prometheus, asked over its HTTP API."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def ask(self, path: str, **parameters: str) -> dict[str, object]:
        """What it says, which may be no error and no warning."""
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as found:
            said: dict[str, object] = json.loads(await found.text())
        assert ("success", None) == (said["status"], said.get("warnings")), (parameters, said)
        data = said["data"]
        assert isinstance(data, dict)
        return data

    async def until(self, holds: Callable[[str], bool], path: str, **parameters: str) -> str:
        """Ask until the answer, as JSON, is what is waited for; gives that."""
        end_s = time.monotonic() + LIMIT_S
        while True:
            said = json.dumps(await self.ask(path, **parameters))
            if holds(said):
                return said
            assert time.monotonic() < end_s, (parameters, said)
            await asyncio.sleep(POLL_S)  # Prometheus announces nothing


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncGenerator[Prometheus]:
    """Run one on a loopback address, with the rules of `packaging`, until the block is left."""
    rules = RULES.read_text(encoding="utf-8").replace("for: 10m", "for: 1s")
    (folder / "rules.yml").write_text(rules, encoding="utf-8")
    file = folder / "prometheus.yml"
    file.write_text(CONFIGURATION.replace("TARGET", target), encoding="utf-8")
    with loopback() as net, (folder / "log").open("wb") as log:
        place = f"{net.address(1)}:9090"
        options = [f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
        argv = [*program("prometheus", "prometheus"), *options, f"--web.listen-address={place}"]
        process = await asyncio.create_subprocess_exec(*argv, stdout=log, stderr=log)
        try:
            async with aiohttp.ClientSession() as session:
                await _ready(f"http://{place}", session)
                yield Prometheus(f"http://{place}", session)
        finally:
            process.kill()
            await process.wait()


async def _ready(url: str, session: aiohttp.ClientSession) -> None:
    end_s = time.monotonic() + LIMIT_S
    while True:
        try:
            async with session.get(f"{url}/-/ready") as found:
                if found.ok:
                    return
        except aiohttp.ClientError:
            pass
        assert time.monotonic() < end_s, "Prometheus is not ready"
        await asyncio.sleep(POLL_S)  # Prometheus announces nothing


def _firing(said: str) -> set[tuple[str, str]]:
    """The names of alerts that are firing, each with its pair."""
    alerts = json.loads(said)["alerts"]
    return {
        (one["labels"]["alertname"], one["labels"]["pair"])
        for one in alerts
        if one["state"] == "firing"
    }


async def test_prometheus_reads_asks_and_alerts(tmp_path: Path) -> None:
    """The pairs' series arrive, each query has an answer, and who lacks protection is alerted on.

    A query for what has happened may have an empty answer; every other one has values.
    """
    async with (
        three_pairs(tmp_path / "store") as page,
        prometheus(tmp_path, urlsplit(page).netloc) as server,
    ):
        await server.until(lambda said: '"shop-web"' in said, "query", query="pycolo_pair_epoch")
        for pair, value in (("shop-db", "1"), ("shop-mail", "0"), ("shop-web", "0")):
            query = f'pycolo_pair_protected{{pair="{pair}"}}'
            said = await server.until(lambda said: "value" in said, "query", query=query)
            assert f'"{value}"]' in said
        for query in queries():
            if query.endswith("> 0"):
                await server.ask("query", query=query)
            else:
                await server.until(lambda said: '"value"' in said, "query", query=query)
        unprotected = {
            ("PycoloPairUnprotected", "shop-mail"),
            ("PycoloPairUnprotected", "shop-web"),
        }
        expected = {*unprotected, ("PycoloPersonNeeded", "shop-web")}
        said = await server.until(lambda said: expected <= _firing(said), "alerts")
        assert "shop-db" not in said
        rules = await server.until(lambda said: '"unknown"' not in said, "rules")
        assert 5 == rules.count('"health": "ok"')

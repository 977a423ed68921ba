"""Alert rules and dashboard in `packaging`: what they ask for is there, and rules alert in time."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.debian import program
from tests.supervise.packaged import RULES, queries
from tests.testing.testbed import FakePair, in_world

from pycolo.supervise import Store, Supervisor
from pycolo.supervise.http._metrics import exposition

CASES = Path(__file__).parent / "pycolo.rules.test.yml"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "monitoring.md"


@pytest.fixture
def metrics(tmp_path: Path) -> frozenset[str]:
    """The names of all metrics that a supervisor has, as a query names them."""
    names: set[str] = set()

    async def played(life: FakePair) -> None:
        with Store(tmp_path) as store:
            supervisor = Supervisor((life.pair,), {life.pair.name: life.hosts}, store)
            async with supervisor:
                await asyncio.sleep(60.0)  # of the world's clock
                text = exposition(supervisor.statuses, supervisor.measures).decode()
        for family in text_string_to_metric_families(text):
            is_counter = family.type == "counter"
            names.add(f"{family.name}_total" if is_counter else family.name)

    in_world("11.1.3", played)
    return frozenset(names)


def test_rules_watch_what_is_there(metrics: frozenset[str]) -> None:
    """Each metric in them is one that a supervisor has."""
    watched = set(re.findall(r"\bpycolo_\w+", RULES.read_text(encoding="utf-8")))
    assert len(watched) > 3
    assert set() == watched - metrics


def test_dashboard_shows_what_is_there(metrics: frozenset[str]) -> None:
    """Each metric in it is one that a supervisor has, and none is left out but the epoch."""
    asked = set(re.findall(r"\bpycolo_\w+", " ".join(queries())))
    histograms = {name for name in metrics if name not in asked}
    parts = {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    assert set() == asked - metrics - parts
    shown = {name for name in metrics if any(one.startswith(name) for one in asked)}
    assert {"pycolo_pair_epoch"} == metrics - shown


def test_manual_lists_every_metric(metrics: frozenset[str]) -> None:
    """Each one, and none that is not there."""
    rows = re.findall(r"^\| `(pycolo_\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(metrics) == sorted(rows)


@pytest.fixture
def promtool(tmp_path: Path) -> list[str]:
    """Prometheus's own checker, beside copies of the rules and of their cases."""
    shutil.copy(RULES, tmp_path)
    shutil.copy(CASES, tmp_path)
    return program("promtool", "promtool")


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_rules_alert_in_time(promtool: list[str], tmp_path: Path) -> None:
    """Prometheus takes them, and each alerts when it should, and not before."""
    for words in (("check", "rules", RULES.name), ("test", "rules", CASES.name)):
        done = subprocess.run(
            [*promtool, *words], cwd=tmp_path, check=False, capture_output=True, text=True
        )
        assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_dashboard_asks_in_the_language_of_prometheus(promtool: list[str], tmp_path: Path) -> None:
    """Each of its queries is one that a rule could record."""
    # JSON is YAML.
    rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries())]
    (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "q", "rules": rules}]}))
    argv = [*promtool, "check", "rules", "--lint=none", "queries.yml"]
    done = subprocess.run(argv, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert 0 == done.returncode, done.stdout + done.stderr

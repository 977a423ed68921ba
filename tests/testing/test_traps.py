"""Traps that others fell into: each has a test whose docstring names the project that met it."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path
from typing import Final

import attrs
import pytest
from tests.testing.agents import NODES, Agents, Network, play, started
from tests.testing.test_controller import write
from tests.testing.test_supervisor import Watched, kept, protected, quiet, serves
from tests.testing.test_supervisor import play as play_supervised
from tests.testing.testbed import FakePair, declared, in_world, time_passes

from pycolo.supervise import Store
from pycolo.supervise.wishes import set_paused

_ROOT: Final = Path(__file__).parents[2]
_TRAPS: Final = (
    ("Stolon", "tests/testing/test_traps.py::test_outdated_node_is_not_promoted"),
    ("PAF", "tests/testing/test_traps.py::test_outdated_node_is_not_promoted"),
    ("Patroni", "tests/testing/test_agent_fuses.py::test_fuse_is_disarmed_after_what_is_under_way"),
    ("Patroni", "tests/testing/test_agents.py::test_without_a_fuse_a_lease_is_no_evidence"),
    ("Patroni", "tests/supervise/test_etcd_gateway.py::test_an_unknown_answer_to_a_change_is_no"),
    ("Patroni", "tests/testing/test_agents.py::test_frozen_agent_of_a_secondary_changes_nothing"),
    ("Patroni", "tests/testing/test_traps.py::test_frozen_agent_of_a_primary_leaves_the_guest"),
    ("Patroni", "tests/testing/test_traps.py::test_pause_outlives_everything"),
    ("Patroni", "tests/testing/test_traps.py::test_pause_outlives_both_agents"),
    ("CloudStack", "tests/supervise/test_fences.py::test_the_first_fence_that_succeeds"),
    ("CloudStack", "tests/supervise/test_fences.py::test_no_fence_is_no_evidence"),
    ("pg_auto_failover", "tests/supervise/test_search.py::test_one_fault_breaks_nothing"),
    ("repmgr", "tests/testing/test_traps.py::test_old_primary_that_is_back_stays_down"),
    ("medik8s", "tests/supervise/test_decision.py::test_a_lease_is_computed_from_the_fuse"),
    ("Proxmox", "tests/testing/test_agents.py::test_arbiter_outage_stops_nobody_in_healthy_colo"),
    ("vSphere", "tests/testing/test_agents.py::test_arbiter_outage_stops_nobody_in_healthy_colo"),
    ("systemd", "tests/testing/test_traps.py::test_units_leave_qemu_running"),
)


@pytest.mark.parametrize(("project", "place"), _TRAPS)
def test_each_trap_is_named_by_its_test(project: str, place: str) -> None:
    """A reader finds why the test is there, and nobody removes it by mistake."""
    path, name = place.split("::")
    tree = ast.parse((_ROOT / path).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    (found,) = (n for n in tree.body if isinstance(n, kinds) and n.name.startswith(name))
    assert project in (ast.get_docstring(found) or "")


@pytest.mark.parametrize("unit", ["supervise", "agent", "fuse"])
def test_units_leave_qemu_running(unit: str) -> None:
    """By default systemd ends every process of a service that is restarted, each QEMU too."""
    lines = (_ROOT / "packaging" / f"pycolo-{unit}.service").read_text().splitlines()
    begin = lines.index("[Service]")
    assert "KillMode=process" in lines[begin : lines.index("[Install]")]
    assert 1 == sum(re.match(r"\s*KillMode\s*=", line) is not None for line in lines)


def _only(life: FakePair, *names: str) -> None:
    """Have these hosts alone be in reach."""
    for node in life.pair.all_nodes:
        life.world.host(node.name).away = node.name not in names


def test_outdated_node_is_not_promoted(tmp_path: Path) -> None:
    """Also after both nodes were restarted, and the newer one is away (as in Stolon and PAF)."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        life.world.qemu("beta").kill()
        count = await watched.until("failover is done", since=count)
        _only(life, "alpha")
        write(life)
        assert "alpha" == await serves(life)
        for qemu in tuple(life.world.running):
            qemu.kill()
        # The node that lacks the write is back first.
        _only(life, "beta")
        await time_passes(600.0)
        assert not life.world.serving
        _only(life, "alpha", "beta")
        await protected(watched, count)
        assert "alpha" == await serves(life)

    play_supervised(tmp_path, scenario)


def test_old_primary_that_is_back_stays_down(tmp_path: Path) -> None:
    """Its host reboots after the other node has continued: it serves nobody (as in repmgr)."""

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        life.world.qemu("alpha").kill()
        count = await watched.until("failover is done", since=count)
        _only(life, "beta")
        write(life)
        await time_passes(60.0)
        assert "beta" == await serves(life)
        _only(life, "alpha", "beta")
        async with asyncio.timeout(600.0):
            while life.world.find("alpha") is None:
                await time_passes(0.5)
        assert "inmigrate" == life.world.qemu("alpha").live.run_state
        await quiet(watched)
        assert "beta" == await serves(life)
        assert "secondary" == life.world.qemu("alpha").live.colo_mode

    play_supervised(tmp_path, scenario)


def test_pause_outlives_everything(tmp_path: Path) -> None:
    """The supervisor and both hosts restart: the pair stays paused (as in Patroni)."""

    async def played(life: FakePair) -> None:
        with Store(tmp_path) as store:
            async with kept(life, store) as watched:
                await protected(watched)
                store.pause(life.pair.name, "by the test")
                await watched.until("supervision is paused")
            for qemu in tuple(life.world.running):
                qemu.kill()
        with Store(tmp_path) as store:
            async with kept(life, store) as watched:
                await time_passes(600.0)
                (status,) = watched.supervisor.statuses
                assert "by the test" in (status.paused or "")
                assert not life.world.running
                store.pause(life.pair.name, None)
                await quiet(watched)
                await serves(life)

    in_world("11.1.3", played)


def test_pause_outlives_both_agents() -> None:
    """It is in the arbiter: agents that are started later read it (as in Patroni)."""

    async def scenario(life: FakePair) -> None:
        network = Network(life)
        async with started(network.agents) as agents:
            count = await agents.protected()
            arbiter = network.arbiter.client("alpha")
            await set_paused(arbiter, "colo", "by the test", limit_s=1.0)
            await agents.until("supervision is paused by the test", node="beta", since=count)
            await agents.aclose()
            for qemu in tuple(life.world.running):
                qemu.kill()
            for node in NODES:
                await agents.start(node)
            await time_passes(600.0)
            assert not life.world.running
            await set_paused(arbiter, "colo", None, limit_s=1.0)
            await agents.protected(len(agents.events))
            await serves(life)

    in_world("11.1.3", scenario, attrs.evolve(declared(), spares=()))


def test_frozen_agent_of_a_primary_leaves_the_guest_to_its_fuse() -> None:
    """Nobody renews the fuse, though checkpoints go on: only then the other node continues.

    So a frozen agent never leaves two guests, and costs no write (as Patroni's watchdog).
    """

    async def scenario(life: FakePair, agents: Agents, network: Network) -> None:
        count = await agents.protected()
        write(life)
        loser = life.world.qemu("alpha")
        await agents.stop("alpha")
        count = await agents.until("continues alone", node="beta", since=count)
        assert loser.frozen or not loser.alive
        assert network.guards["alpha"].stopped in (loser, None)
        await agents.until("failover is done", node="beta", since=count)
        assert "beta" == await serves(life)

    play(scenario)

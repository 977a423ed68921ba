"""Where fakes once told a test something else than QEMU would."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from tests.testing.testbed import VERSIONS, FakePair, declared, in_world

from pycolo._execute import execute
from pycolo._probe import probe
from pycolo.compiler import launch
from pycolo.compiler.drift import drift
from pycolo.model import ColoPair, UnixMonitor
from pycolo.qmp import commands as qmp
from pycolo.qmp.replies import Version
from pycolo.qmp.schema import PackagedVersion
from pycolo.result import Done
from pycolo.testing import World


async def protected(life: FakePair) -> None:
    """A protected pair."""
    await life.launch("alpha", "beta")
    await life.run("start")


def test_timer_of_an_ended_pair_breaks_no_later_one() -> None:
    """A checkpoint that was due on the old channel says nothing about the next secondary."""

    async def scenario(life: FakePair) -> None:
        await protected(life)
        await life.kill("beta")
        await life.run("failover")
        await life.replace("beta", "gamma")
        await life.run("resume")
        life.world.advance(60)
        assert (False, False) == (
            (await life.live("alpha")).colo_exited,
            (await life.live("gamma")).colo_exited,
        )

    in_world("11.1.3", scenario, declared(checkpoint_delay_ms=20_000))


@pytest.mark.parametrize("version", VERSIONS)
def test_pair_with_two_disks_does_not_drift(version: PackagedVersion) -> None:
    """Each export shows its own disk: what was just started is as it was declared."""

    async def scenario(life: FakePair) -> None:
        await protected(life)
        found = drift(life.pair, await life.probe())
        assert not found, found

    in_world(version, scenario, declared(disks=2, chains=2))


def test_a_cut_between_hosts_is_seen_before_a_start_changes_anything() -> None:
    """Each host's look at the other's ports goes through the same network as the QEMUs'."""

    async def scenario(life: FakePair) -> None:
        await life.launch("alpha", "beta")
        before = await life.probe()
        life.world.cut("alpha", "beta")
        plan = await life.compile("start")
        report = await execute(plan, life.sessions, life.hosts)
        assert "alpha/check-ports/beta" == report.failed
        assert (1, False) == (report.exit_code, report.changed)
        assert before == await life.probe()
        life.world.heal("alpha", "beta")
        await life.run("start")

    in_world("11.1.3", scenario)


def test_ipv6_passes_what_holds_ipv4_back() -> None:
    """A primary that is cut off answers no IPv4 any more, and IPv6 as before (17.2)."""

    async def scenario(life: FakePair) -> None:
        world = life.world
        await protected(life)
        alpha, beta = world.qemu("alpha"), world.qemu("beta")
        world.cut("alpha", "beta")
        assert ((), (alpha,)) == (world.answering("ipv4"), world.answering("ipv6"))
        # Whoever promotes without a proof has two guests, and only IPv6 shows it.
        await life.sessions["beta"].execute(qmp.XColoLostHeartbeat(), limit_s=5)
        world.advance(1.0)
        assert ((beta,), (alpha, beta)) == (world.answering("ipv4"), world.answering("ipv6"))

    in_world("11.1.3", scenario)


def test_write_that_was_acknowledged_over_ipv6_may_be_lost() -> None:
    """Without its secondary a primary answers IPv6 alone: what it said there no failover keeps."""

    async def scenario(life: FakePair) -> None:
        world = life.world
        await protected(life)
        await life.kill("beta")
        alpha = world.qemu("alpha")
        assert not alpha.guest_write(7)
        assert alpha.guest_write(8, family="ipv6")
        assert (set(), {8}) == (world.acknowledged, world.acknowledged_over_ipv6)

    in_world("11.1.3", scenario)


def test_times_of_a_report_are_the_worlds() -> None:
    """A copy that takes two seconds of the world's clock is told to have taken them."""

    async def scenario(life: FakePair) -> None:
        await life.launch("alpha", "beta")
        life.world.disk_copy_s = 2.0
        report = await life.execute(await life.compile("start"))
        took = [o.took_s for o in report.outcomes.values() if isinstance(o, Done)]
        assert 2.0 <= max(took) < 2.5
        assert sum(took) <= life.world.now_s + 1.0

    in_world("11.1.3", scenario)


def _make_folders(folder: str) -> None:
    for name in ("alpha", "beta"):
        Path(folder, name).mkdir()


async def test_monitors_are_served_once_and_until_the_end() -> None:
    """Serving again serves what is new, and nobody listens for a QEMU that has ended."""
    with tempfile.TemporaryDirectory(prefix="colo-") as folder:
        pair = declared()
        nodes = tuple(attrs.evolve(n, run_dir=f"{folder}/{n.name}") for n in pair.nodes)
        pair = attrs.evolve(pair, nodes=nodes)
        _make_folders(folder)
        world = World("11.1.3")
        world.install(pair, "alpha")
        hosts = world.hosts(pair)
        prior_state = await probe({}, pair=pair, hosts=hosts)
        version = Version.parse(world.version)
        plan = launch(pair, prior_state, qemu={n.name: version for n in nodes})
        assert 0 == (await execute(plan, {}, hosts)).exit_code
        first = await world.listen()
        assert (4, ()) == (len(first), await world.listen())
        control = nodes[0].control_monitor
        assert isinstance(control, UnixMonitor)
        world.qemu("alpha").kill()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_unix_connection(control.path)
        for server in first:
            server.close()
            await server.wait_closed()


def test_events_do_not_cost_more_where_more_pairs_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that passes for one pair asks only those that hang on somebody."""
    world = World("11.1.3")
    asked: list[str] = []

    async def main() -> None:
        pairs = [FakePair(world, renamed(n)) for n in range(5)]
        for pair in pairs:
            await pair.launch(*(node.name for node in pair.pair.nodes))
            await pair.run("start")
        for qemu in world.processes:
            settle = qemu.settle

            def counted(name: str = qemu.node.name, real: Callable[[], bool] = settle) -> bool:
                asked.append(name)
                return real()

            monkeypatch.setattr(qemu, "settle", counted)
        world.advance(1.0)
        for pair in pairs:
            await pair.aclose()

    def renamed(n: int) -> ColoPair:
        pair = declared()
        nodes = tuple(
            attrs.evolve(
                node,
                name=f"{node.name}{n}",
                address=f"127.0.{10 + n}.{k}",
                listen_address=f"127.0.{10 + n}.{k}",
                image_folder=f"/images/{node.name}{n}",
                state_dir=f"/images/{node.name}{n}",
                run_dir=None,
            )
            for k, node in enumerate(pair.nodes, 1)
        )
        return attrs.evolve(pair, name=f"colo{n}", nodes=nodes, spares=())

    world.run(main())
    assert [] == asked

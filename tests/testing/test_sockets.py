"""Fakes behind real sockets, with time passing by itself, for programs that are not ours."""

from __future__ import annotations

import asyncio
import tempfile

import attrs
from tests.testing.testbed import declared

from pycolo._execute import execute
from pycolo._probe import probe
from pycolo.compiler import compile_plan, launch
from pycolo.qmp.replies import Version
from pycolo.session import Session
from pycolo.testing import World


async def test_a_pair_is_protected_over_sockets() -> None:
    """Sessions that know nothing of a world find its fakes where their command lines say."""
    with tempfile.TemporaryDirectory(prefix="colo-") as folder:
        pair = declared(checkpoint_delay_ms=100)
        nodes = tuple(attrs.evolve(n, run_dir=tempfile.mkdtemp(dir=folder)) for n in pair.nodes)
        pair = attrs.evolve(pair, nodes=nodes)
        world = World("11.1.3", disk_copy_s=0.02)
        version = Version.parse(world.version)
        world.install(pair, "alpha")
        qemu = {node.name: version for node in nodes}
        hosts = world.hosts(pair)
        started = await execute(
            launch(pair, await probe({}, pair=pair, hosts=hosts), qemu=qemu), {}, hosts
        )
        assert None is started.failed, started.advice
        servers = await world.listen()
        clock = asyncio.get_running_loop().create_task(world.autorun())
        sessions = {
            node.name: await Session.connect(node.name, node.control_monitor, limit_s=5)
            for node in nodes
        }
        plan = compile_plan("start", pair, await probe(sessions, pair=pair, hosts=hosts))
        report = await execute(plan, sessions, hosts)
        assert None is report.failed, report.advice
        assert ("alpha",) == tuple(qemu.node.name for qemu in world.serving)
        clock.cancel()
        for session in sessions.values():
            await session.aclose()
        for server in servers:
            server.close()
            await server.wait_closed()

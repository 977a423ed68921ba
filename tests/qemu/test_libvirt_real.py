"""Pairs whose QEMUs are domains of a real libvirt, with a real QEMU in them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
from tests.libvirt_daemon import Daemon, libvirt_daemon, program, schema
from tests.qemu.life import (
    LIMIT_S,
    LivePair,
    bios_life,
    pair_folder,
    until,
)

from pycolo import drift, libvirt
from pycolo.demo.builds import Release
from pycolo.errors import HostRefused, PycoloError
from pycolo.evidence import instance_of
from pycolo.model import ColoPair
from pycolo.plan import LaunchQemu, RunHost
from pycolo.qmp import commands as qmp
from pycolo.session import Session

pytestmark = [pytest.mark.qemu, pytest.mark.heavy, pytest.mark.timeout(240)]
RELEASE: Release = "11.1"
LAUNCH_S = 70.0
POWER_OFF = "o /h 0x604 0x2000"
FENCE = Path(__file__).parent.parent.parent / "examples" / "virsh-fence"


@pytest.fixture(scope="module")
def daemon() -> Generator[Daemon]:
    """One libvirt for all of these tests: it looks at each QEMU program for seconds, once."""
    with pair_folder() as folder, libvirt_daemon(folder) as made:
        yield made


@asynccontextmanager
async def _life(daemon: Daemon, release: Release = RELEASE) -> AsyncGenerator[LivePair]:
    """A pair whose nodes declare this libvirt; no domain of it is left behind."""

    def shape(pair: ColoPair) -> ColoPair:
        nodes = [attrs.evolve(node, libvirt=daemon.declared) for node in pair.nodes]
        spares = [attrs.evolve(node, libvirt=daemon.declared) for node in pair.spares]
        return attrs.evolve(pair, nodes=nodes, spares=spares)

    async with bios_life(release, "tcg", shape=shape) as life:
        yield life
    # The next pair has domains of the same names.
    await until(lambda: [] == daemon.domains(), "no domain is left")


async def _protected(life: LivePair) -> None:
    await life.launch("alpha", "beta")
    await life.run("start")
    await life.keeps_running("alpha", "beta")


async def _proven(life: LivePair, *names: str) -> None:
    """See the guest count on, and the pair protected, by a checkpoint that both sides confirm."""
    await life.run("checkpoint")
    await life.keeps_running(*names)


async def test_a_pair_of_domains_outlives_a_host_and_its_libvirt(daemon: Daemon) -> None:
    """A domain is destroyed, libvirt itself ends: failover and resume need nobody's word.

    The evidence of the death is that of the host on which the process ran, as without libvirt.
    """
    async with _life(daemon) as life:
        await _protected(life)
        assert not drift(life.pair, await life.probe())
        first = [instance_of("colo", name, 1) for name in ("alpha", "beta")]
        assert first == daemon.domains()
        assert 0 == daemon.virsh("destroy", "--domain", first[0]).returncode
        await life.run("failover", survivor="beta")
        await life.keeps_running("beta")
        await life.replace("alpha", "gamma")
        await life.run("resume")
        await _proven(life, "beta", "gamma")
        daemon.kill()
        await life.kill("beta")
        await life.run("failover", survivor="gamma")
        await life.keeps_running("gamma")
        daemon.start()
        assert [instance_of("colo", "gamma", 1)] == daemon.domains()
        await life.launch("beta")
        await life.run("resume")
        await _proven(life, "beta", "gamma")
        await life.image_follows("gamma")


async def test_a_guest_that_powers_off_is_off_on_both_sides(daemon: Daemon) -> None:
    """Without the `-no-shutdown` of libvirt, whose next word may come too late, or not at all."""
    async with _life(daemon) as life:
        await _protected(life)
        daemon.kill()
        watches = [life.watch(name) for name in ("alpha", "beta")]
        command = qmp.HumanMonitorCommand(command_line=POWER_OFF)
        async with contextlib.AsyncExitStack() as stack:
            sessions = []
            for name in ("alpha", "beta"):
                monitor = life.pair.node(name).observer_monitor
                session = await Session.connect(name, monitor, limit_s=LIMIT_S)
                sessions.append(await stack.enter_async_context(session))
            with contextlib.suppress(PycoloError):
                await asyncio.gather(*(s.execute(command, limit_s=LIMIT_S) for s in sessions))
        async with asyncio.timeout(LIMIT_S):
            for watch in watches:
                await watch.wait_ended()
                watch.close()
        daemon.start()


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["alpha", "beta"])
async def test_what_libvirt_does_with_a_domain_in_colo(
    daemon: Daemon, name: str, tmp_path: Path
) -> None:
    """A checkpoint undoes `suspend`; `save`, `dump` and `migrate` are refused, COLO continues."""
    async with contextlib.AsyncExitStack() as stack:
        other = stack.enter_context(libvirt_daemon(stack.enter_context(pair_folder())))
        life = await stack.enter_async_context(_life(daemon))
        await _protected(life)
        domain = instance_of("colo", name, 1)
        assert 0 == daemon.virsh("suspend", domain).returncode
        await _proven(life, "alpha", "beta")
        refused = {
            words[0]: daemon.virsh(*words).returncode
            for words in (
                ("save", domain, str(tmp_path / "saved")),
                ("managedsave", domain),
                ("dump", domain, str(tmp_path / "dumped")),
                ("migrate", "--live", domain, other.declared.uri),
            )
        }
        assert {"save": 1, "managedsave": 1, "dump": 1, "migrate": 1} == refused
        await _proven(life, "alpha", "beta")


@pytest.mark.nightly
async def test_a_saved_qemu_is_not_run_again(daemon: Daemon, tmp_path: Path) -> None:
    """The hook refuses it: its identity is that of a QEMU which is known to have ended."""
    # This libvirt knows no `migrate` of 11.1, and saves by one.
    async with _life(daemon, "10.0") as life:
        await life.launch("alpha")
        await life.cont("alpha")
        await life.keeps_running("alpha")
        saved = tmp_path / "saved"
        assert 0 == daemon.virsh("save", instance_of("colo", "alpha", 1), str(saved)).returncode
        restored = daemon.virsh("restore", str(saved))
        assert 1 == restored.returncode
        assert "is a QEMU of pycolo's" in restored.stderr
        assert [] == daemon.domains()


async def test_a_domain_that_cannot_be_created_leaves_nothing(daemon: Daemon) -> None:
    """What QEMU said comes through libvirt; the next launch finds the way free."""
    async with _life(daemon) as life:
        image = life.image("alpha")
        away = image.rename(image.with_name("away"))
        action = await _action(life, "alpha")
        with pytest.raises(HostRefused, match=r"libvirt: .*Could not open .*disk\.raw"):
            await life.host.run(life.pair, "alpha", action, limit_s=LAUNCH_S)
        assert [] == daemon.domains()
        away.rename(image)
        await life.launch("alpha")


@pytest.mark.nightly
async def test_a_qemu_that_is_not_the_one_meant_is_ended(daemon: Daemon) -> None:
    """A QEMU that names itself otherwise than its domain has no process that pycolo knows."""
    async with _life(daemon) as life:
        action = await _action(life, "alpha")
        other = instance_of("colo", "alpha", 9)
        words = tuple(f"guest={other}" if w.startswith("guest=") else w for w in action.argv)
        with pytest.raises(HostRefused, match=f"is served by {other}, not by {action.instance}"):
            await life.host.run(
                life.pair, "alpha", attrs.evolve(action, argv=words), limit_s=LAUNCH_S
            )
        assert [] == daemon.domains()


async def _action(life: LivePair, name: str) -> LaunchQemu:
    plan = await life.compile_launch(name)
    (step,) = [s for s in plan.steps if isinstance(s, RunHost)]
    assert isinstance(step.action, LaunchQemu)
    return attrs.evolve(step.action, record=None)


async def test_the_domain_is_what_libvirts_own_schema_asks_for(
    daemon: Daemon, tmp_path: Path
) -> None:
    """Both roles' documents are valid, and libvirt hands every argument on as it is."""
    async with _life(daemon) as life:
        plan = await life.compile_launch("alpha", "beta")
        actions = [s.action for s in plan.steps if isinstance(s, RunHost)]
        for action in (one for one in actions if isinstance(one, LaunchQemu)):
            path = tmp_path / f"{action.role}.xml"
            path.write_text(libvirt.domain(life.pair, action), encoding="utf-8")
            line = [*program("bin/xmllint"), "--noout", "--relaxng", str(schema()), str(path)]
            await asyncio.to_thread(subprocess.run, line, check=True, timeout=LIMIT_S)
        await life.execute(plan)
        for action in (one for one in actions if isinstance(one, LaunchQemu)):
            told = ET.fromstring(daemon.virsh("dumpxml", action.instance).stdout)  # noqa: S314 - libvirt's
            spaces = {"qemu": libvirt.NAMESPACE}
            words = [arg.attrib["value"] for arg in told.findall("*/qemu:arg", spaces)]
            assert [*libvirt.TAKEN_BACK, *action.argv[1:]] == words


@pytest.mark.nightly
async def test_a_fence_by_virsh_ends_what_runs_for_a_node_and_nothing_else(
    daemon: Daemon,
) -> None:
    """A QEMU that is stopped is ended too; without libvirt's answer the fence fails."""
    line = [str(FENCE), daemon.declared.uri, "colo", "alpha"]
    path = f"{Path(daemon.declared.virsh_binary).parent}:{os.environ['PATH']}"

    def fence() -> int:
        environment = {**os.environ, "PATH": path}
        return subprocess.run(line, check=False, env=environment, timeout=60).returncode

    async with _life(daemon) as life:
        await life.launch("alpha", "beta")
        life.signal("alpha", signal.SIGSTOP)
        assert 0 == await asyncio.to_thread(fence)
        assert [instance_of("colo", "beta", 1)] == daemon.domains()
        assert 0 == await asyncio.to_thread(fence)
        daemon.kill()
        assert 0 != await asyncio.to_thread(fence)
        daemon.start()

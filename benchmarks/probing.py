"""Reading what is live: a real node, here and over ssh, a thousand fake ones, a live compile."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import attrs

from benchmarks.compiling import VERSION, declared
from benchmarks.measure import Figure, async_timed_s, compared, milliseconds, timed_s
from benchmarks.pairs import LIMIT_S, NODES, LivePair, bios_pair
from pycolo._execute import execute
from pycolo._probe import probe
from pycolo.compiler import launch, start
from pycolo.evidence import instance_of
from pycolo.hosts import Host
from pycolo.hosts.ssh import SshHost
from pycolo.model import ColoPair, Ssh
from pycolo.qmp.commands import QueryStatus
from pycolo.session import Session
from pycolo.testing import World

FAKES = 1000
RUNS = 15
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def run() -> list[Figure]:
    """Probe, count and compile."""
    return [*asyncio.run(_one_real_node()), *asyncio.run(_many_fakes())]


async def _one_real_node() -> list[Figure]:
    commands: dict[str, list[float]] = {"ssh": [], "here": []}
    probes: dict[str, list[float]] = {"ssh": [], "here": []}
    async with bios_pair() as pair:
        await pair.launch(*NODES)
        unprotected = await pair.snapshot()
        compiles = [timed_s(lambda: start(pair.pair, unprotected)) for _ in range(RUNS)]
        await pair.run("start")
        async with _over_ssh(pair, NODES[0]) as (host, session):
            ways: dict[str, tuple[Mapping[str, Session], Mapping[str, Host]]] = {
                "ssh": ({NODES[0]: session}, {NODES[0]: host}),
                "here": ({NODES[0]: pair.sessions[NODES[0]]}, {NODES[0]: pair.host}),
            }
            for _ in range(RUNS):
                for way, (sessions, hosts) in ways.items():
                    commands[way].append(await async_timed_s(lambda: _asked(sessions)))  # noqa: B023
                    probes[way].append(
                        await async_timed_s(lambda: probe(sessions, pair=pair.pair, hosts=hosts))  # noqa: B023
                    )
    return [
        *_compared("one command", commands),
        *_compared("a node in COLO and its host, all of it", probes),
        milliseconds("probe", "compile start from a live snapshot", compiles),
    ]


def _compared(what: str, runs_s: Mapping[str, Sequence[float]]) -> list[Figure]:
    return compared(
        "probe", (f"{what}, over ssh", runs_s["ssh"]), (f"{what}, here", runs_s["here"])
    )


async def _asked(sessions: Mapping[str, Session]) -> None:
    for session in sessions.values():
        await session.execute(QueryStatus(), limit_s=LIMIT_S)


@asynccontextmanager
async def _over_ssh(pair: LivePair, name: str) -> AsyncGenerator[tuple[SshHost, Session]]:
    """The host of a node, and a session with its observers' monitor, over an sshd of our own."""
    node = pair.pair.node(name)
    with tempfile.TemporaryDirectory(prefix="pycolo-") as folder:
        ssh, argv = _sshd(Path(folder), node.address)
        process = await asyncio.create_subprocess_exec(*argv, stdin=subprocess.DEVNULL)
        host = SshHost(attrs.evolve(node, ssh=ssh))
        try:
            await _listens(node.address, ssh.port)
            session = await Session.connect(
                name, node.observer_monitor, limit_s=LIMIT_S, connector=host.connect
            )
            async with session:
                yield host, session
        finally:
            await host.aclose()
            if process.returncode is None:
                process.kill()
            await process.wait()


def _sshd(folder: Path, address: str) -> tuple[Ssh, Sequence[str]]:
    """The way to an OpenSSH server that lets in us alone, and what starts it."""
    keys = {name: asyncssh.generate_private_key("ssh-ed25519") for name in ("host", "user")}
    for name, key in keys.items():
        key.write_private_key(folder / name)
        (folder / name).chmod(0o600)
    port = _free_port(address)
    known = keys["host"].export_public_key().decode()
    (folder / "known_hosts").write_text(f"[{address}]:{port} {known}")
    keys["user"].write_public_key(folder / "authorized_keys")
    settings = {
        "ListenAddress": address,
        "Port": port,
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PasswordAuthentication": "no",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
        "LogLevel": "ERROR",
    }
    config = folder / "sshd_config"
    config.write_text("".join(f"{field} {value}\n" for field, value in settings.items()))
    ssh = Ssh(
        port=port,
        user=getpass.getuser(),
        key_file=str(folder / "user"),
        known_hosts_file=str(folder / "known_hosts"),
        python=sys.executable,
    )
    if os.geteuid() == 0:
        # What a service manager makes for sshd before it starts one.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    # sshd starts itself anew for each client, by the path that it was started with.
    return ssh, (shutil.which("sshd", path=SBIN) or "sshd", "-D", "-e", "-f", str(config))


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def _listens(address: str, port: int) -> None:
    """Wait until somebody takes connections there."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(address, port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


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

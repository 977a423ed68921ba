"""What the switches of a network learn when a guest continues on another host."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias

import attrs
import pytest
from tests.qemu.life import (
    CHECKPOINTING,
    NEEDS_KVM,
    LivePair,
    accelerator_of,
    bios_life,
    until,
)
from tests.qemu.namespaces import in_namespaces
from tests.qemu.test_silence import failed_over

from pycolo.demo.builds import Release
from pycolo.demo.network import Network
from pycolo.model import ColoPair

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(120)]
Death: TypeAlias = Literal["killed", "stopped and continued"]
MAC = "52:54:00:77:00:01"
ANNOUNCEMENTS = 5
RARP = 0x8035
# The last of five announcements comes 0.8 s after the first.
ALL_S = 2.0
# Says whence each frame of the guest came to the client's switch.
_FRAMES = """
import json, select, socket, sys
mac, ports = bytes.fromhex(sys.argv[1].replace(":", "")), {}
for name in sys.argv[2:]:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sock.bind((name, 0))
    ports[sock] = name
print("ready", flush=True)
while True:
    for sock in select.select(list(ports), [], [])[0]:
        frame, address = sock.recvfrom(64)
        if address[2] != socket.PACKET_OUTGOING and frame[6:12] == mac:
            print(json.dumps([ports[sock], int.from_bytes(frame[12:14], "big")]), flush=True)
"""


@asynccontextmanager
async def _frames(network: Network) -> AsyncGenerator[list[tuple[str, int]]]:
    """The frames of the guest at the client's switch: from which port, and of which type."""
    found: list[tuple[str, int]] = []
    argv = (*network.client, sys.executable, "-I", "-c", _FRAMES, MAC, "to-alpha", "to-beta")
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    stdout = process.stdout
    assert stdout is not None
    assert b"ready\n" == await stdout.readline()

    async def follow() -> None:
        async for line in stdout:
            port, kind = json.loads(line)
            found.append((port, kind))

    following = asyncio.create_task(follow())
    try:
        yield found
    finally:
        process.kill()
        await following
        await process.wait()


def _port_of_the_guest(network: Network) -> str:
    """The port of the client's switch to which it sends what is for the guest."""
    argv = (*network.client, "bridge", "-json", "fdb", "show", "br", "lan")
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    (port,) = {str(entry["ifname"]) for entry in json.loads(said) if entry["mac"] == MAC}
    return port


def _learns(network: Network) -> bool:
    """Let the switch know the guest on alpha, as if the guest had sent something there.

    A port takes no entry before it forwards; then the answer is False.
    """
    argv = ("bridge", "fdb", "replace", MAC, "dev", "to-alpha", "master", "dynamic")
    return subprocess.run((*network.client, *argv), check=False).returncode == 0


@asynccontextmanager
async def _protected(network: Network, release: Release) -> AsyncGenerator[LivePair]:
    """A guest that sends nothing by itself, protected, and known to the switch."""

    def shape(pair: ColoPair) -> ColoPair:
        pair = in_namespaces(network)(pair)
        return attrs.evolve(pair, chains=(attrs.evolve(pair.chains[0], mac=MAC),))

    async with bios_life(release, accelerator_of(release), shape=shape) as life:
        await life.launch("alpha", "beta")
        await life.cont("alpha")
        await life.run("start")
        await until(lambda: _learns(network), "the switch takes an entry for the guest")
        yield life


@pytest.mark.parametrize(
    ("release", "death"),
    [
        ("11.1", "killed"),
        pytest.param("11.1", "stopped and continued", marks=pytest.mark.nightly),
        *(
            pytest.param(release, death, marks=[NEEDS_KVM, pytest.mark.nightly])
            for release in ("10.0", "7.2")
            for death in ("killed", "stopped and continued")
        ),
    ],
)
async def test_promoted_guest_is_announced(
    network: Network, release: Release, death: Death
) -> None:
    """QEMU sends five RARPs by itself, and the old primary does not win the address back."""
    async with _protected(network, release) as life, _frames(network) as frames:
        armed = await life.compile("failover", survivor="beta")
        if death == "killed":
            await life.kill("alpha")
        else:
            life.signal("alpha", signal.SIGSTOP)
        assert "to-alpha" == _port_of_the_guest(network)
        report = await failed_over(life, armed, "beta")
        assert None is report.failed, report.advice
        if death != "killed":
            life.signal("alpha", signal.SIGCONT)
        await until(lambda: len(frames) >= ANNOUNCEMENTS, "the guest is announced", ALL_S)
        assert [("to-beta", RARP)] * ANNOUNCEMENTS == frames
        assert "to-beta" == _port_of_the_guest(network)


@pytest.mark.nightly
@pytest.mark.parametrize("release", CHECKPOINTING)
async def test_primary_that_continues_is_not_announced(network: Network, release: Release) -> None:
    """It need not be: its guest answers from where the switch knows it."""
    async with _protected(network, release) as life, _frames(network) as frames:
        armed = await life.compile("failover", survivor="alpha")
        await life.kill("beta")
        report = await failed_over(life, armed, "alpha")
        assert None is report.failed, report.advice
        await life.keeps_running("alpha")
        assert [] == frames
        assert "to-alpha" == _port_of_the_guest(network)

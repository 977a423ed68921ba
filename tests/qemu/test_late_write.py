"""A write of the old primary that comes after the secondary has been promoted."""

from __future__ import annotations

import asyncio
import struct

import pytest
from tests.qemu.aftermath import WRITTEN_AT, WRITTEN_BYTES, written
from tests.qemu.life import LIMIT_S, ON_RELEASES, LivePair, bios_life

from pycolo.demo.builds import Release
from pycolo.qmp import commands as qmp

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(120)]
PATTERN = 0xA7
OPTION, REQUEST, EXPORT_NAME, WRITE = b"IHAVEOPT", 0x25609513, 1, 1


class NbdClient:
    """As much of the NBD protocol as a write needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, life: LivePair, node: str) -> NbdClient:
        """Open the export of a node's first disk, as its primary does."""
        address, port = life.pair.node(node).address, life.pair.ports.nbd
        client = cls(*await asyncio.open_connection(address, port))
        name = life.pair.disks[0].names.parent.encode()
        await client._reader.readexactly(18)
        option = struct.pack(">8sII", OPTION, EXPORT_NAME, len(name))
        client._writer.write(struct.pack(">I", 3) + option + name)
        await client._reader.readexactly(10)
        return client

    async def write(self) -> int:
        """Write the pattern; gives the error that the server answers, 0 for none."""
        head = struct.pack(">IHHQQI", REQUEST, 0, WRITE, 1, WRITTEN_AT, WRITTEN_BYTES)
        self._writer.write(head + bytes([PATTERN]) * WRITTEN_BYTES)
        _, error, _ = struct.unpack(">IIQ", await self._reader.readexactly(16))
        return int(error)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


@pytest.mark.parametrize("stops", [False, True])
@ON_RELEASES
async def test_late_write_reaches_the_image_unless_the_server_is_stopped(
    release: Release, accelerator: str, *, stops: bool
) -> None:
    """Without `nbd-server-stop` it goes past the promoted guest into its image."""
    assert accelerator in ("tcg", "kvm")
    async with bios_life(release, "tcg" if accelerator == "tcg" else "kvm") as life:
        await life.launch("alpha", "beta")
        await life.run("start")
        client = await NbdClient.connect(life, "beta")
        beta = life.sessions["beta"]
        if stops:
            await beta.execute(qmp.NbdServerStop(), limit_s=LIMIT_S)
        await beta.execute(qmp.XColoLostHeartbeat(), limit_s=LIMIT_S)
        await life.image_follows("beta")
        if stops:
            with pytest.raises(asyncio.IncompleteReadError):
                await client.write()
        else:
            assert 0 == await client.write()
        client.close()
        assert ({PATTERN} == written(life, "beta")) is not stops

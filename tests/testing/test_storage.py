"""Pairs on other storage than files of a folder, played by fakes."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from tests.testing.testbed import VERSIONS, FakePair, declared, in_world

from pycolo.compiler import drift
from pycolo.model import ColoPair, DiskOnNode, Nbd, Rbd, Throttle
from pycolo.qmp.schema import PackagedVersion
from pycolo.snapshot import role_of


def on_other_storage() -> ColoPair:
    """A pair with a block device and an encrypted image, both of which have limits."""
    pair = declared(disks=2)
    limits = Throttle(iops_total=100)
    device = attrs.evolve(
        pair.disks[0],
        driver="host_device",
        image="/dev/vg0/disk",
        throttle=limits,
        nodes={"gamma": DiskOnNode(image="/dev/vg1/disk")},
    )
    encrypted = attrs.evolve(
        pair.disks[1],
        image_format="luks",
        secret_file="/key",  # noqa: S106 - a path
        throttle=limits,
        resync_bytes_per_s=1 << 30,
    )
    # The hosts of this pair have addresses of their own: loopback is one host.
    nodes = [
        attrs.evolve(node, address=f"192.0.2.{n}", listen_address=f"192.0.2.{n}")
        for n, node in enumerate(pair.all_nodes, 1)
    ]
    return attrs.evolve(pair, nodes=nodes[:2], spares=nodes[2:], disks=(device, encrypted))


def on_remote_storage() -> ColoPair:
    """A pair whose disks are images of a Ceph cluster and of NBD servers."""
    pair = declared(disks=2)
    rbd = {name: DiskOnNode(remote=Rbd(pool=name, image="a")) for name in pair.names}
    nbd = {name: DiskOnNode(remote=Nbd(host=f"{name}.example")) for name in pair.names}
    disks = [
        attrs.evolve(disk, image_format="raw", nodes=nodes)
        for disk, nodes in zip(pair.disks, (rbd, nbd), strict=True)
    ]
    return attrs.evolve(pair, disks=disks)


@pytest.mark.parametrize("shape", [on_other_storage, on_remote_storage])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_pair_on_other_storage_outlives_a_secondary(
    version: PackagedVersion, shape: Callable[[], ColoPair]
) -> None:
    """Launched, protected, and protected again by another node, as each plan promises."""

    async def live(life: FakePair) -> None:
        # What is no file is made by the operator, on every node.
        for name in ("beta", "gamma"):
            life.world.install(life.pair, name)
        await life.launch("alpha", "beta")
        started = await life.run("start")
        seen = await life.probe()
        assert role_of(started.planned_state.state("beta")) == role_of(seen.state("beta"))
        assert not drift(life.pair, seen)
        await life.kill("beta")
        await life.run("failover", survivor="alpha")
        await life.replace("beta", "gamma")
        await life.run("resume")
        assert "secondary" == (await life.live("gamma")).colo_mode

    in_world(version, live, shape())

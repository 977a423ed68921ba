"""Hosts for the tests of this folder."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.hosts.testbed import Testbed, separate_hosts, why_none
from tests.real_qemu import build_of

from pycolo.hosts.local import LocalHost
from pycolo.model import ColoPair, Node, ReplicationDisk


@pytest.fixture(scope="module")
def hosts() -> Generator[Testbed]:
    """Three hosts and a controller."""
    why = why_none()
    if why is not None:
        pytest.skip(why)
    with separate_hosts(build_of("11.1").prefix.parent, ("alpha", "beta", "gamma")) as made:
        yield made


@pytest.fixture
def folder() -> Generator[Path]:
    """A folder on a disk: what is kept in memory alone is refused for records."""
    with tempfile.TemporaryDirectory(prefix="colo-", dir="/var/tmp") as name:
        yield Path(name)


@pytest.fixture
def pair(folder: Path) -> Generator[ColoPair]:
    """A pair of this machine; what runs there at the end is killed."""
    nodes = []
    for name, address in (("alpha", "127.0.0.1"), ("beta", "127.0.0.2")):
        (folder / name).mkdir()
        run_dir = str(folder / f"run-{name}")
        node = Node(name=name, address=address, image_folder=str(folder / name), run_dir=run_dir)
        nodes.append(node)
    declared = ColoPair(name="p", nodes=nodes, disks=(ReplicationDisk(size_bytes=1 << 20),))
    yield declared
    watch = LocalHost().watch(declared, "alpha")
    if watch is not None:
        os.kill(watch.pid, signal.SIGKILL)
        watch.close()

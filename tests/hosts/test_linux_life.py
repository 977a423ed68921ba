"""A Linux guest under two agents, or one supervisor, through every fault: no write is lost."""

from __future__ import annotations

import signal
from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest
from tests.etcd import ETCD
from tests.hosts.linux_life import LinuxLife, under_agents
from tests.hosts.testbed import Testbed, separate_hosts, why_none
from tests.real_qemu import build_of

pytestmark = [pytest.mark.qemu, *ETCD, pytest.mark.timeout(300)]


@pytest.fixture
def hosts() -> Generator[Testbed]:
    """Two hosts with an agent each, and a client."""
    why = why_none()
    if why is not None:
        pytest.skip(why)
    builds = build_of("11.1").prefix.parent
    with separate_hosts(builds, ("alpha", "beta"), has_client=True, has_agents=True) as made:
        yield made


async def test_primary_is_killed(hosts: Testbed, tmp_path: Path) -> None:
    """The secondary continues, with every write that a client outside saw acknowledged."""
    async with under_agents(hosts, tmp_path) as life, life.fault("kill primary") as struck:
        struck.at_s = life.kept.hit(life.primary, signal.SIGKILL)
        await life.fails_over(struck)

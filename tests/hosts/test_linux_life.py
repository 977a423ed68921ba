"""A Linux guest under two agents, or one supervisor, through every fault: no write is lost.

`docs/explanation/measured.md` has what was measured; `-o log_cli=true -o log_cli_level=INFO` shows
a line for each fault.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Final

import pytest
from tests import etcd
from tests.hosts import linux_faults as faults
from tests.hosts.linux_faults import KILL, STOP, Strike
from tests.hosts.linux_life import under_agents, under_supervisor
from tests.hosts.supervised import NAMES
from tests.hosts.testbed import Testbed, separate_hosts, why_none
from tests.real_qemu import build_of

pytestmark = [pytest.mark.qemu, *etcd.ETCD, pytest.mark.timeout(900)]

QEMUS: Final = (
    faults.qemu(KILL, "primary"),
    faults.qemu(STOP, "primary"),
    faults.qemu(KILL, "secondary"),
    faults.qemu(STOP, "secondary"),
)
AT_THE_ENTRY: Final = (
    faults.early(KILL, "primary"),
    faults.early(STOP, "primary"),
    faults.early(KILL, "secondary"),
    faults.early(STOP, "secondary"),
)
IN_A_CHECKPOINT: Final = tuple(
    faults.inside(number, role, moment)
    for role in ("primary", "secondary")
    for number in (KILL, STOP)
    for moment in ("both stop", "the state has come")
)
CABLES: Final = (faults.hosts_apart, faults.away("primary"), faults.away("secondary"))
UNDER_AGENTS: Final[Mapping[str, tuple[Strike, ...]]] = {
    "qemus": (*QEMUS, faults.stopped_until_claimed),
    "entry": AT_THE_ENTRY,
    "checkpoint": IN_A_CHECKPOINT,
    "cables": (*CABLES, faults.leader(KILL), faults.leader(STOP), faults.fuse_stopped),
    "members": (
        faults.member_cut("follows"),
        faults.member_cut("leads"),
        *(
            faults.host_apart(role, with_member=with_member)
            for with_member in (False, True)
            for role in ("primary", "secondary")
        ),
        faults.split("primary"),
        faults.split("secondary"),
        faults.leader_in_a_failover,
    ),
    "agents": tuple(
        faults.agent(number, role) for number in (KILL, STOP) for role in ("primary", "secondary")
    ),
    "phases": tuple(
        faults.agent_while(number, phase)
        for number in (KILL, STOP)
        for phase in ("joining", "claim", "alone")
    ),
    "further-phases": tuple(
        faults.agent_while(number, phase)
        for number in (KILL, STOP)
        for phase in ("waiting", "suspect", "serving", "following")
    ),
    "both-agents": tuple(
        strike
        for number in (KILL, STOP)
        for strike in (
            faults.agent_while(number, "claim, the other one"),
            faults.agent_while(number, "claim, both"),
            faults.agents_while_stopped(number),
        )
    ),
    "reboot": (faults.both_reboot, faults.both_reboot),
}
WITH_FENCES: Final = (
    faults.host_fenced("primary"),
    faults.host_fenced("secondary"),
    faults.fence_lies,
)
UNDER_A_SUPERVISOR: Final[Mapping[str, tuple[Strike, ...]]] = {
    "qemus": (
        *QEMUS,
        faults.supervisor_in_a_failover,
        faults.supervisor_in_a_resync,
        faults.two_supervisors,
    ),
    "cables": (*CABLES, *AT_THE_ENTRY),
    "checkpoint": IN_A_CHECKPOINT,
    "reboot": (faults.both_reboot, faults.both_reboot),
}

FAULTS: Final = 8
"The number of faults of one life that are drawn at random."


def _drawn(strikes: Mapping[str, tuple[Strike, ...]], seed: int) -> list[tuple[float, Strike]]:
    """Draw faults of every kind, and how long to wait before each, in seconds."""
    chance = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    return [
        (chance.uniform(0.0, 2.5), chance.choice(strikes[chance.choice([*strikes])]))
        for _ in range(FAULTS)
    ]


def _hosts(*, have_agents: bool) -> Generator[Testbed]:
    why = why_none()
    if why is not None:
        pytest.skip(why)  # this machine cannot make hosts of its own
    builds, names = build_of("11.1").prefix.parent, ("alpha", "beta")
    others = etcd.NAMES if have_agents else ()
    with separate_hosts(
        builds, names, has_client=True, has_agents=have_agents, others=others
    ) as made:
        yield made


@pytest.fixture
def bare_hosts() -> Generator[Testbed]:
    """Two hosts with nothing but an sshd, and a client."""
    yield from _hosts(have_agents=False)


@pytest.fixture
def agents_hosts() -> Generator[Testbed]:
    """Two hosts that can run agents, and a client."""
    yield from _hosts(have_agents=True)


async def test_killed_primary_loses_no_write(agents_hosts: Testbed, tmp_path: Path) -> None:
    """Two agents, etcd and fuses: the secondary continues with every acknowledged write.

    The promoted guest is announced on the network, so that switches send frames to its host.
    """
    async with under_agents(agents_hosts, tmp_path) as life:
        await faults.qemu(KILL, "primary")(life)


@pytest.mark.nightly
@pytest.mark.parametrize("name", UNDER_AGENTS)
async def test_faults_under_agents(agents_hosts: Testbed, tmp_path: Path, name: str) -> None:
    """One guest at most answers, no acknowledged write is lost, and protection comes back."""
    async with under_agents(agents_hosts, tmp_path) as life:
        for strike in UNDER_AGENTS[name]:
            await strike(life)


@pytest.mark.nightly
async def test_fences_under_agents(agents_hosts: Testbed, tmp_path: Path) -> None:
    """Without fuses, fences show that a host's QEMU has ended; one that lies is found out later."""
    fences = dict.fromkeys(NAMES, faults.FENCES)
    async with under_agents(agents_hosts, tmp_path, fences) as life:
        for strike in WITH_FENCES:
            await strike(life)


@pytest.mark.nightly
@pytest.mark.parametrize("name", UNDER_A_SUPERVISOR)
async def test_faults_under_a_supervisor(bare_hosts: Testbed, tmp_path: Path, name: str) -> None:
    """The same, decided by one supervisor that reaches both hosts over ssh."""
    async with under_supervisor(bare_hosts, tmp_path) as life:
        for strike in UNDER_A_SUPERVISOR[name]:
            await strike(life)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10))
async def test_random_faults_under_agents(agents_hosts: Testbed, tmp_path: Path, seed: int) -> None:
    """Faults of all kinds, in any order and at any moment between checkpoints, lose nothing."""
    async with under_agents(agents_hosts, tmp_path) as life:
        for wait_s, strike in _drawn(UNDER_AGENTS, seed):
            await life.passed(wait_s)
            await strike(life)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10))
async def test_random_faults_under_a_supervisor(
    bare_hosts: Testbed, tmp_path: Path, seed: int
) -> None:
    """The same with one supervisor."""
    async with under_supervisor(bare_hosts, tmp_path) as life:
        for wait_s, strike in _drawn(UNDER_A_SUPERVISOR, seed):
            await life.passed(wait_s)
            await strike(life)

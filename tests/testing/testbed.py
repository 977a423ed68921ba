"""Where a scenario is played: in a world of fakes, or on real QEMUs, in the same words."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Protocol, TypeAlias, final

import attrs
import pytest
from tests.qemu.life import HAS_KVM, bios_life

from pycolo._execute import execute
from pycolo._probe import probe
from pycolo.compiler import compile_plan, launch
from pycolo.demo.builds import Release
from pycolo.evidence import Victim, instance_of
from pycolo.hosts import Host
from pycolo.model import ColoPair, FilterChain, Machine, Netdev, Node, ReplicationDisk
from pycolo.plan import Options, Plan, Procedure
from pycolo.qmp.replies import Version
from pycolo.qmp.schema import PackagedVersion
from pycolo.result import Report
from pycolo.session import Session
from pycolo.snapshot import Live, Snapshot
from pycolo.testing import FakeHost, World

VERSIONS: tuple[PackagedVersion, ...] = ("7.2.22", "10.0.13", "11.1.3")
RELEASES: tuple[Release, ...] = ("7.2", "10.0", "11.1")
NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
SIZE_BYTES = 1 << 20


def declared(*, checkpoint_delay_ms: int = 500, disks: int = 1, chains: int = 1) -> ColoPair:
    """A pair with four spares."""
    nodes = tuple(
        Node(
            name=name,
            address=f"127.0.5.{n}",
            image_folder=f"/images/{name}",
        )
        for n, name in enumerate(NAMES, 1)
    )
    return ColoPair(
        name="colo",
        nodes=nodes[:2],
        spares=nodes[2:],
        machine=Machine(memory_mib=64, accelerator="kvm"),
        disks=tuple(_disk(n) for n in range(disks)),
        chains=tuple(
            FilterChain(netdev=Netdev(type="hubport", options={"hubid": str(n)}))
            for n in range(chains)
        ),
        checkpoint_delay_ms=checkpoint_delay_ms,
    )


def _disk(n: int) -> ReplicationDisk:
    return ReplicationDisk(
        size_bytes=SIZE_BYTES,
        image=f"disk{n}.raw",
        image_format="raw",
        active_image=f"active{n}.qcow2",
        hidden_image=f"hidden{n}.qcow2",
    )


class Pair(Protocol):
    """A declared pair and whatever of it runs."""

    pair: ColoPair
    version: Version
    sessions: dict[str, Session]

    @property
    def hosts(self) -> Mapping[str, Host]:
        """The hosts of all nodes."""

    async def launch(self, *names: str) -> object:
        """Start QEMUs by a plan, and connect to them."""

    async def kill(self, name: str) -> None:
        """End a QEMU the hard way."""

    async def victim(self, survivor: str) -> Victim:
        """Whose end has to be shown before a node runs alone."""

    async def replace(self, name: str, spare: str) -> None:
        """Put a spare in a dead node's place, and start its QEMU."""

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a node's QEMU."""

    async def probe(self) -> Snapshot:
        """What is there."""

    async def live(self, name: str) -> Live:
        """What one node shows."""

    async def run(self, procedure: Procedure) -> Plan:
        """Compile a procedure, execute it to its end, and give the plan."""

    async def compile(self, procedure: Procedure) -> Plan:
        """A plan from what is there."""


@final
class FakePair:
    """A pair in a world of fakes; used inside `World.run`."""

    def __init__(self, world: World, pair: ColoPair) -> None:
        """Put the guest's images where its first primary is."""
        self.world = world
        self.pair = pair
        self.version = Version.parse(world.version)
        self.sessions: dict[str, Session] = {}
        self.broken: list[str] = []
        "Rules that were seen broken where nobody could be told."
        self._launches = 0
        world.install(pair, pair.nodes[0].name)

    @property
    def hosts(self) -> Mapping[str, FakeHost]:
        """The hosts of all nodes."""
        return self.world.hosts(self.pair)

    def hosts_of(self, pair: ColoPair) -> Mapping[str, FakeHost]:
        """The hosts of all nodes of a declaration."""
        return self.world.hosts(pair)

    async def launch(self, *names: str, newest: str | None = None) -> Plan:
        """Start QEMUs by a plan, and connect to them."""
        plan = await self.compile_launch(*names, newest=newest)
        await self.execute(plan)
        for name in names:
            await self.connect(name)
        return plan

    async def compile_launch(self, *names: str, newest: str | None = None) -> Plan:
        """The plan that starts these nodes' QEMUs, each with an identity never used before."""
        self._launches += 1
        return launch(
            self.pair,
            await self.probe(),
            qemu=dict.fromkeys(names, self.version),
            nodes=names,
            newest=newest,
            instances={n: instance_of(self.pair.name, n, self._launches) for n in names},
            birth=f"{self._launches:08x}",
        )

    async def connect(self, name: str) -> Session:
        """Open the control session of a node whose QEMU runs."""
        before = self.sessions.pop(name, None)
        if before is not None:
            await before.aclose()
        session = await self.world.session(self.pair.node(name))
        self.sessions[name] = session
        return session

    async def victim(self, survivor: str) -> Victim:
        """Whose end has to be shown before a node runs alone."""
        return (await self.compile("failover", survivor=survivor)).victims()[0]

    async def kill(self, name: str) -> None:
        """End a QEMU the hard way."""
        self.world.qemu(name).kill()
        session = self.sessions.pop(name, None)
        if session is not None:
            await session.aclose()

    async def replace(self, name: str, spare: str) -> None:
        """Put a spare in a dead node's place, and start its QEMU."""
        self.pair = self.pair.replacing(name, self.pair.node(spare))
        await self.launch(spare)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Freeze a node's QEMU or let it continue."""
        qemu = self.world.qemu(name)
        if number is signal.SIGSTOP:
            qemu.freeze()
        else:
            qemu.thaw()

    async def probe(self) -> Snapshot:
        """What is there."""
        known = {name: session for name, session in self.sessions.items() if not session.closed}
        return await probe(known, pair=self.pair, hosts=self.hosts)

    async def live(self, name: str) -> Live:
        """What one node shows."""
        state = (await self.probe()).state(name)
        assert isinstance(state, Live), state
        return state

    async def compile(
        self,
        procedure: Procedure,
        *,
        survivor: str | None = None,
        checkpoint_delay_ms: int | None = None,
    ) -> Plan:
        """A plan from what is there."""
        options = Options(survivor=survivor, checkpoint_delay_ms=checkpoint_delay_ms)
        return compile_plan(procedure, self.pair, await self.probe(), options)

    async def execute(self, plan: Plan) -> Report:
        """Execute a plan to its end."""
        report = await execute(plan, self.sessions, self.hosts)
        assert None is report.failed, report.advice
        return report

    async def run(
        self,
        procedure: Procedure,
        *,
        survivor: str | None = None,
        checkpoint_delay_ms: int | None = None,
    ) -> Plan:
        """Compile a procedure, execute it to its end, and give the plan."""
        plan = await self.compile(
            procedure, survivor=survivor, checkpoint_delay_ms=checkpoint_delay_ms
        )
        await self.execute(plan)
        return plan

    async def aclose(self) -> None:
        """Hang up."""
        for session in self.sessions.values():
            await session.aclose()


async def time_passes(seconds: float) -> None:
    """Let the world's clock run for a while; nobody waits for that."""
    await asyncio.sleep(seconds)  # of the world's clock, which leaps while all wait


def in_world(
    version: PackagedVersion,
    scenario: Callable[[FakePair], Awaitable[None]],
    pair: ColoPair | None = None,
) -> World:
    """Play a scenario in a new world, and give the world as it is then."""
    world = World(version)

    async def main() -> None:
        life = FakePair(world, pair or declared())
        try:
            await scenario(life)
        finally:
            await life.aclose()

    world.run(main())
    return world


Scenario: TypeAlias = Callable[[Pair], Awaitable[None]]
Kind: TypeAlias = Literal["fake", "real"]


@final
@attrs.frozen(kw_only=True)
class Testbed:
    """One of the six places where a contract is checked."""

    __test__ = False

    kind: Kind
    number: int

    def play(self, scenario: Scenario) -> None:
        """Play a scenario to its end."""
        if self.kind == "fake":
            in_world(VERSIONS[self.number], scenario)
        else:
            asyncio.run(self._really(scenario))

    async def _really(self, scenario: Scenario) -> None:
        accelerator: Literal["kvm", "tcg"] = "kvm" if HAS_KVM else "tcg"
        async with bios_life(RELEASES[self.number], accelerator) as life:
            await scenario(life)


FAKES = [pytest.param(Testbed(kind="fake", number=n), id=f"fake-{VERSIONS[n]}") for n in range(3)]
REALS = [
    pytest.param(
        Testbed(kind="real", number=n),
        id=f"real-{RELEASES[n]}",
        marks=[pytest.mark.qemu, pytest.mark.timeout(180)],
    )
    for n in range(3)
]
TESTBEDS = [*FAKES, *REALS]

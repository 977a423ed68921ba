"""The same demonstration without QEMU: on fakes, which its output says.

Plans, compiler, executor and sessions are the real ones; only QEMU is simulated. The fakes have a
clock of their own, whose times say nothing about any machine and are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, final

import attrs

from pycolo._execute import execute
from pycolo._json import JsonObject
from pycolo._probe import probe
from pycolo.compiler import compile_plan, launch
from pycolo.model import ColoPair, FilterChain, Machine, Netdev, Node, ReplicationDisk
from pycolo.plan import Options, Plan, Procedure
from pycolo.qmp.replies import Version
from pycolo.session import Session
from pycolo.snapshot import Snapshot
from pycolo.testing import World

Progress: TypeAlias = Callable[[str], None]
KILLS = ("primary", "secondary", "primary")
WRITES = 20


@final
@attrs.frozen(kw_only=True)
class Chapter:
    """One thing that happened to the pair."""

    what: str
    "`start`, `failover` or `resume`."
    who: str
    "The node whose guest serves clients after that."
    steps: int
    "The number of steps of the plan."
    acknowledged: int
    "How many writes were acknowledged to clients so far."
    lost: int
    "How many of these the guest does not have."


@final
@attrs.frozen(kw_only=True)
class FakeLife:
    """The result of the demonstration on fakes."""

    why: str
    "Why fakes were used in place of QEMU."
    version: str
    "The QEMU version that the fakes simulate."
    chapters: tuple[Chapter, ...]

    @property
    def ok(self) -> bool:
        """Whether no acknowledged write was ever missing."""
        return all(chapter.lost == 0 for chapter in self.chapters)

    def to_json(self) -> JsonObject:
        """The result as JSON, with `fake` and `ok`."""
        return {"fake": True, "ok": self.ok, **attrs.asdict(self)}

    def lines(self) -> list[str]:
        """The result as lines of text."""
        told = (
            f"{c.what:9} {c.who} has the guest after {c.steps} steps;"
            f" {c.acknowledged} writes acknowledged, {c.lost} lost"
            for c in self.chapters
        )
        return [f"FakeQemu {self.version}, not a real QEMU: {self.why}", "", *told]


def run(why: str, progress: Progress) -> FakeLife:
    """Run the demonstration on fakes; takes about a second.

    Args:
        why: Why QEMU cannot be used; kept in the result.
        progress: Called with what is being done.
    """
    world = World()
    return FakeLife(
        why=why, version=world.version, chapters=tuple(world.run(_life(world, progress)))
    )


def _declared() -> ColoPair:
    nodes = tuple(
        Node(
            name=name,
            address=f"192.0.2.{n}",
            image_folder=f"/images/{name}",
        )
        for n, name in enumerate(("alpha", "beta"), 1)
    )
    return ColoPair(
        name="demo",
        nodes=(nodes[0], nodes[1]),
        machine=Machine(memory_mib=128),
        disks=(ReplicationDisk(size_bytes=1 << 26),),
        chains=(FilterChain(netdev=Netdev(type="tap")),),
        checkpoint_delay_ms=2000,
    )


@final
class _Life:
    """A pair of fakes, and the chapters of its life so far."""

    def __init__(self, world: World, progress: Progress) -> None:
        self.world = world
        self.pair = _declared()
        self.progress = progress
        self.sessions: dict[str, Session] = {}
        self.chapters: list[Chapter] = []
        self._written = 0

    async def seen(self) -> Snapshot:
        return await probe(self.sessions, pair=self.pair, hosts=self.world.hosts(self.pair))

    async def execute(self, plan: Plan) -> None:
        hosts = self.world.hosts(self.pair)
        (await execute(plan, self.sessions, hosts)).raise_on_failure()

    async def launch(self, *names: str) -> None:
        version = Version.parse(self.world.version)
        qemu = dict.fromkeys(names, version)
        await self.execute(launch(self.pair, await self.seen(), qemu=qemu, nodes=names))
        for name in names:
            self.sessions[name] = await self.world.session(self.pair.node(name))

    async def kill(self, name: str) -> None:
        self.progress(f"the fake QEMU on {name} is killed")
        self.world.qemu(name).kill()
        await self.sessions.pop(name).aclose()

    async def procedure(self, procedure: Procedure, holder: str) -> None:
        survivor = holder if procedure == "failover" else None
        options = Options(survivor=survivor)
        plan = compile_plan(procedure, self.pair, await self.seen(), options)
        await self.execute(plan)
        self.progress(f"{procedure} is done: {holder} has the guest")
        self.write(holder)
        world = self.world
        lost = world.acknowledged - world.qemu(holder).guest_data()
        self.chapters.append(
            Chapter(
                what=procedure,
                who=holder,
                steps=len(plan.steps),
                acknowledged=len(world.acknowledged),
                lost=len(lost),
            )
        )

    def write(self, holder: str) -> None:
        for _ in range(WRITES):
            self._written += 1
            self.world.qemu(holder).guest_write(self._written)
            self.world.advance(0.01)


async def _life(world: World, progress: Progress) -> list[Chapter]:
    life = _Life(world, progress)
    holder, other = (node.name for node in life.pair.nodes)
    world.install(life.pair, holder)
    await life.launch(holder, other)
    await life.procedure("start", holder)
    for number, kill in enumerate(KILLS):
        victim, survivor = (holder, other) if kill == "primary" else (other, holder)
        await life.kill(victim)
        await life.procedure("failover", survivor)
        holder, other = survivor, victim
        if number < len(KILLS) - 1:
            await life.launch(other)
            await life.procedure("resume", holder)
    for session in life.sessions.values():
        await session.aclose()
    return life.chapters

"""A controller that holds its pairs' records itself: an arbiter of its own, for the pairs' agents.

    python examples/own_arbiter.py

Plays a pair with two agents on fakes: its primary is killed, and the other node takes over.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import attrs

from pycolo import ColoPair, Evidence, Node
from pycolo.errors import ArbiterLost
from pycolo.model import Machine
from pycolo.supervise import Agent, Held, SharedRecord, arbiters
from pycolo.testing import World

T = TypeVar("T")
POLL_S = 0.05


@attrs.define
class Row:
    """What the controller's database has of one pair: texts, and when each node's lease ends."""

    revision: int = 0
    record: str | None = None
    until_s: dict[str, float] = attrs.field(factory=dict)
    ends: dict[str, str] = attrs.field(factory=dict)

    def held(self, pair: str, now_s: float) -> Held:
        """What an agent reads of it."""
        return Held(
            revision=self.revision,
            shared=None if self.record is None else arbiters.load_shared(self.record, pair),
            leases=frozenset(node for node, until_s in self.until_s.items() if until_s > now_s),
            ends={node: arbiters.load_end(text, node) for node, text in self.ends.items()},
        )


class OwnArbiter:
    """An `Arbiter`, which says what each method promises. A dictionary stands for the database."""

    def __init__(self, rows: dict[str, Row]) -> None:
        self._rows = rows
        self._is_closed = False

    async def _transact(self, pair: str, work: Callable[[Row, float], T], limit_s: float) -> T:
        """Do all of some work on a row, or nothing of it, with nobody else in between.

        With a database, whatever leaves it uncertain what was done is `ArbiterLost`.
        """
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.sleep(0)  # a database is asked here
                if self._is_closed:
                    raise ArbiterLost(pair, "it is closed")
                return work(self._rows.setdefault(pair, Row()), asyncio.get_running_loop().time())
        except TimeoutError as error:
            raise ArbiterLost(pair, f"no answer within {limit_s:g} s") from error

    async def identity(self, *, limit_s: float) -> str:
        """Another name for each database that was made anew."""
        return await self._transact("all", lambda *_: "controller:1", limit_s)

    async def read(self, pair: str, *, limit_s: float) -> Held:
        """Read what is held."""
        arbiters.check_pair(pair)
        return await self._transact(pair, lambda row, now_s: row.held(pair, now_s), limit_s)

    async def swap(
        self,
        pair: str,
        held: Held,
        shared: SharedRecord,
        *,
        no_lease_of: str | None = None,
        limit_s: float,
    ) -> Held:
        """Replace the record, if it is still what was read."""
        arbiters.check_swap(pair, shared)

        def work(row: Row, now_s: float) -> Held:
            refusal = arbiters.overtaken(pair, row.held(pair, now_s), held, no_lease_of)
            if refusal is not None:
                raise refusal
            row.revision, row.record = row.revision + 1, arbiters.dump_shared(shared)
            return row.held(pair, now_s)

        return await self._transact(pair, work, limit_s)

    async def renew(
        self, pair: str, node: str, instance: str, *, lease_s: float, limit_s: float
    ) -> bool:
        """Renew a lease, if the record permits it; a lease is never shortened."""
        arbiters.check_lease(pair, node, lease_s)

        def work(row: Row, now_s: float) -> bool:
            shared = row.held(pair, now_s).shared
            if shared is None or not shared.may_renew(node, instance):
                return False
            row.until_s[node] = max(now_s + lease_s, row.until_s.get(node, 0.0))
            return True

        return await self._transact(pair, work, limit_s)

    async def release(self, pair: str, node: str, *, limit_s: float) -> None:
        """End a lease now."""
        arbiters.check_node(pair, node)
        await self._transact(pair, lambda row, _: row.until_s.pop(node, None), limit_s)

    async def state(self, pair: str, end: Evidence, *, limit_s: float) -> None:
        """Store evidence that a QEMU has ended."""
        arbiters.check_node(pair, end.node)
        text = {end.node: arbiters.dump_end(end)}
        await self._transact(pair, lambda row, _: row.ends.update(text), limit_s)

    async def changed(self, pair: str, held: Held, *, limit_s: float) -> Held:
        """Wait until something else is held; a lease may also have run out."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + limit_s
        found = await self.read(pair, limit_s=limit_s)
        while found == held and loop.time() < end_s:
            await asyncio.sleep(POLL_S)
            found = await self.read(pair, limit_s=limit_s)
        return found

    async def aclose(self) -> None:
        """Hang up; leases run out by themselves."""
        self._is_closed = True


async def keep(agent: Agent, node: str, protected: asyncio.Event) -> None:
    """Print what the agent of one host says, until cancelled."""
    async with agent:
        async for event in agent.events():
            print(f"the agent of {node}: {event.text}")
            if agent.statuses[0].is_protected:
                protected.set()


async def demonstration(world: World, pair: ColoPair) -> None:
    """Run the agents of both hosts, which real ones do on these hosts."""
    rows: dict[str, Row] = {}
    protected = asyncio.Event()
    agents = {
        node: Agent([pair], {pair.name: node}, {pair.name: world.hosts(pair)}, OwnArbiter(rows))
        for node in pair.names
    }
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(keep(agent, node, protected)) for node, agent in agents.items()]
        await protected.wait()
        world.qemu("alpha").kill()
        await asyncio.sleep(60.0)  # of the world's clock
        for task in tasks:
            task.cancel()
    print(f"{pair.name}: {rows[pair.name].record}")


if __name__ == "__main__":
    places = {"alpha": "192.0.2.1", "beta": "192.0.2.2"}
    nodes = [Node(name=n, address=a, image_folder="/images") for n, a in places.items()]
    world = World("11.1.3")
    fakes = ColoPair(name="shop-db", nodes=nodes, machine=Machine(accelerator="kvm"))
    world.run(demonstration(world, fakes))

"""An asyncio controller that embeds a supervisor: it hears each event, and says what it wants.

    python examples/supervised.py [PAIRFILE ...]

Without arguments it keeps a pair of fakes, whose first primary is killed, in a world whose clock
takes no time.
"""

import asyncio
import sys
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from pycolo import ColoPair, Node, hosts_of, load
from pycolo.model import Machine
from pycolo.supervise import PairStatus, Store, Supervisor
from pycolo.testing import World

# What is wanted of each pair, and the locks of its supervisor, are here.
STORE = Path.home() / ".local/state/pycolo"


async def keep(supervisor: Supervisor) -> None:
    """Keep the pairs until cancelled. Their QEMUs run on, and the next supervisor continues."""
    async with supervisor as s:
        async for event in s.events():
            # A controller would wake somebody here if the kind is `person`.
            place = event.pair if event.node is None else f"{event.pair}/{event.node}"
            print(f"{place}: {event.kind}: {event.text}")


async def wait_until(
    supervisor: Supervisor, pair: str, is_wanted: Callable[[PairStatus], bool]
) -> None:
    """Read the status after each event, until it is what is waited for."""
    async with aclosing(supervisor.events()) as events:
        async for _ in events:
            if is_wanted(supervisor.status(pair)):
                return


async def main(*pair_files: Path) -> None:
    """Keep the pairs of some files, until interrupted."""
    with Store(STORE) as store:
        async with AsyncExitStack() as stack:
            pairs = [load(file) for file in pair_files]
            hosts = {p.name: await stack.enter_async_context(hosts_of(p)) for p in pairs}
            await keep(Supervisor(pairs, hosts, store))


async def demonstration(world: World, pair: ColoPair, store: Store) -> None:
    """Protect a new pair, kill its primary, move the guest back on request, and end it."""
    supervisor = Supervisor([pair], {pair.name: world.hosts(pair)}, store)
    keeping = asyncio.get_running_loop().create_task(keep(supervisor))
    await wait_until(supervisor, pair.name, lambda status: status.is_protected)
    world.qemu("alpha").kill()
    await wait_until(supervisor, pair.name, lambda status: status.is_protected)
    report = await supervisor.switch_over(pair.name)
    print(f"as asked: {report.advice}")
    store.want(pair.name, "stopped")
    await wait_until(supervisor, pair.name, lambda _: not world.running)
    keeping.cancel()


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(main(*map(Path, sys.argv[1:])))
    else:
        places = {"alpha": "192.0.2.1", "beta": "192.0.2.2"}
        nodes = [Node(name=n, address=a, image_folder="/images") for n, a in places.items()]
        fakes = ColoPair(name="shop-db", nodes=nodes, machine=Machine(accelerator="kvm"))
        world = World("11.1.3")
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder)) as store:
            world.run(demonstration(world, fakes, store))

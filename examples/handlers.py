"""The handlers of an operator, as a framework such as kopf calls them: one pair an object.

    python examples/handlers.py

Each handler returns what the object's status is to say. Run like this it plays one object's life on
fakes: created, its primary killed, deleted.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack

from pycolo import ColoPair, Host, Node
from pycolo.controller import PairController
from pycolo.model import Machine
from pycolo.reconcile import Decide, Settled
from pycolo.testing import World

# As many disks are copied at once as the network between the hosts takes.
RESYNCS = asyncio.Semaphore(2)
CONTROLLERS: dict[str, PairController] = {}
STACKS: dict[str, AsyncExitStack] = {}


async def on_create(pair: ColoPair, hosts: Mapping[str, Host]) -> None:
    """The object was made, or the operator was started: nothing is read or changed here."""
    controller = PairController(pair, hosts, resyncs=RESYNCS)
    STACKS[pair.name] = AsyncExitStack()
    CONTROLLERS[pair.name] = await STACKS[pair.name].enter_async_context(controller)


async def on_timer(name: str) -> str:
    """Every few seconds, and on each change: one step towards what is wanted."""
    done = await CONTROLLERS[name].reconcile()
    match done.step:
        case Settled():
            standing = CONTROLLERS[name].standing
            return "unknown" if standing is None else standing.state
        case Decide():
            return f"a person must decide: {done.why}"
        case _:
            return f"{type(done.step).__name__}: {done.why or 'done'}"


async def on_delete(name: str) -> str:
    """The object is to go: its QEMUs are ended, its images and records stay."""
    CONTROLLERS[name].want("stopped")
    while (status := await on_timer(name)) != "stopped":
        print(status)
    del CONTROLLERS[name]
    await STACKS.pop(name).aclose()
    return status


async def demonstration(world: World, pair: ColoPair) -> None:
    """What a framework would call, in the order in which it would."""
    await on_create(pair, world.hosts(pair))
    for tick in range(9):
        print(await on_timer(pair.name))
        if tick == 3:  # noqa: PLR2004 - by then it is protected
            world.qemu("alpha").kill()
    print(await on_delete(pair.name))


if __name__ == "__main__":
    nodes = [
        Node(name=name, address=f"192.0.2.{n}", image_folder="/images")
        for n, name in ((1, "alpha"), (2, "beta"))
    ]
    world = World("11.1.3")
    world.run(
        demonstration(
            world, ColoPair(name="shop-db", nodes=nodes, machine=Machine(accelerator="kvm"))
        )
    )

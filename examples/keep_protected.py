"""A controller: it keeps pairs protected, and says what it cannot do by itself.

    python examples/keep_protected.py [PAIRFILE ...]

Without arguments it keeps a pair of fakes, which dies twice, in a world whose clock takes no time.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from pycolo import ColoPair, Evidence, FilterChain, Node, ReplicationDisk, hosts_of, load
from pycolo.controller import PairController
from pycolo.model import Machine, Netdev
from pycolo.reconcile import Decide, Prove, Settled
from pycolo.testing import World

# How often a pair that sends no event is observed, and how long to wait after a failure.
OBSERVATION_S = 20.0
BACK_OFF_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
# How many rounds in a row must fail to prove a death before that QEMU is fenced. It may be about to
# end or to answer, or another plan came first.
UNPROVEN = 3
# More would share one network; a failover waits for none of them.
RESYNCS = 2
MINUTE_S = 60.0

Fence = Callable[[Prove], Awaitable[Evidence | None]]


async def keep(controller: PairController, fence: Fence) -> None:
    """Keep one pair as it is wanted, until cancelled."""
    name, failures, unproven = controller.pair.name, 0, 0
    while True:
        found = await controller.reconcile()
        is_unproven = isinstance(found.step, Prove) and found.report is None
        unproven = unproven + 1 if is_unproven else 0
        match found.step:
            case Settled():
                failures = 0
                await controller.wait(OBSERVATION_S)
                continue
            case Prove(node=node) if unproven >= UNPROVEN:
                if (await controller.observe_aside()).live(node) is not None:
                    print(f"{name}: another client holds the control monitor of {node}: end it")
                elif (evidence := await fence(found.step)) is not None:
                    await controller.died(evidence)
                    continue
            case Decide():
                print(f"{name}: a person must decide: {found.why}")
            case _:
                pass
        if found.report is not None:
            print(f"{name}: {found.report.advice}")
        if found.why or (found.report is not None and found.report.failed is not None):
            await controller.wait(BACK_OFF_S[min(failures, len(BACK_OFF_S) - 1)])
            failures += 1


async def ask_a_person(step: Prove) -> None:
    """Where no fence is at hand: say what has to be made sure of."""
    print(f"{step.node}: make sure that {step.instance} has ended, then use pycolo run failover")


async def main(*pair_files: Path) -> None:
    """Keep the pairs of some files, until interrupted."""
    resyncs = asyncio.Semaphore(RESYNCS)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for pair in map(load, pair_files):
            hosts = await stack.enter_async_context(hosts_of(pair))
            controller = PairController(pair, hosts, resyncs=resyncs)
            await stack.enter_async_context(controller)
            group.create_task(keep(controller, ask_a_person))


# -- the same on fakes --------------------------------------------------------------------------


def fakes() -> ColoPair:
    """A pair that needs no QEMU."""
    return ColoPair(
        name="shop-db",
        nodes=(
            Node(name="alpha", address="192.0.2.11", image_folder="/images"),
            Node(name="beta", address="192.0.2.12", image_folder="/images"),
        ),
        machine=Machine(accelerator="kvm"),
        disks=(ReplicationDisk(size_bytes=1 << 30),),
        chains=(FilterChain(netdev=Netdev(type="user")),),
    )


async def demonstration(world: World) -> None:
    """Kill each node once, while somebody keeps the pair."""
    pair = fakes()
    async with PairController(pair, world.hosts(pair)) as controller:
        keeping = asyncio.get_running_loop().create_task(keep(controller, ask_a_person))
        for victim in ("alpha", "beta"):
            await asyncio.sleep(MINUTE_S)  # of the world's clock
            print(f"{victim} is killed")
            world.qemu(victim).kill()
        await asyncio.sleep(MINUTE_S)
        keeping.cancel()
        if controller.standing is not None:
            print(f"{controller.standing.state}: {controller.standing.text}")


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(main(*map(Path, sys.argv[1:])))
    else:
        world = World("11.1.3")
        world.install(fakes(), "alpha")
        world.run(demonstration(world))

"""pycolo in a program that is not asynchronous: one Runner, used by many threads.

    python examples/threads.py [PAIRFILE ...]

Reads several pairs at once, each from a thread of its own, over the observer monitors: whoever
holds the control monitors is not disturbed. Nothing is changed.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pycolo import ColoPair, Node, Session, Snapshot, load, probe
from pycolo.blocking import Runner
from pycolo.errors import RemoteError
from pycolo.render import text
from pycolo.snapshot import NodeState, Unreachable

EXAMPLE = Path(__file__).parent / "pair.toml"
CONNECT_S = 5.0
READ_S = 30.0


def main(*pair_files: Path) -> None:
    """Print how each pair stands."""
    with Runner() as runner, ThreadPoolExecutor() as pool:

        def read(pair_file: Path) -> Snapshot:
            return runner.run(snapshot_of(load(pair_file)), limit_s=READ_S)

        for pair_file, snapshot in zip(pair_files, pool.map(read, pair_files), strict=True):
            print(f"{pair_file}: {text.verdict(snapshot)}")


async def snapshot_of(pair: ColoPair) -> Snapshot:
    """Read both nodes at once."""
    states = await asyncio.gather(*map(state_of, pair.nodes))
    names = (node.name for node in pair.nodes)
    return Snapshot(nodes=dict(zip(names, states, strict=True)))


async def state_of(node: Node) -> NodeState:
    """What one node shows; not to be reached is an answer as well."""
    monitor = node.observer_monitor
    try:
        async with await Session.connect(node.name, monitor, limit_s=CONNECT_S) as session:
            return (await probe({node.name: session})).state(node.name)
    except RemoteError as error:
        return Unreachable(why=str(error))


if __name__ == "__main__":
    main(*(map(Path, sys.argv[1:]) if sys.argv[1:] else (EXAMPLE,)))

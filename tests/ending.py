"""The end of the QEMUs that a test has started by a pair."""

from __future__ import annotations

from pycolo.hosts.local import LocalHost
from pycolo.model import ColoPair
from pycolo.plan import StopQemu


async def end_all(pair: ColoPair) -> None:
    """End whatever runs for a pair on this machine, by its identity."""
    host = LocalHost()
    for node in (*pair.nodes, *pair.spares):
        watch = host.watch(pair, node.name)
        if watch is not None:
            watch.close()
            await host.run(pair, node.name, StopQemu(instance=watch.instance), limit_s=10)

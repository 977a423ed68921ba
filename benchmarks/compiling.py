"""How many plans a second one core compiles, and what that is in JSON written."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from benchmarks.measure import Figure, compared
from pycolo.compiler import compile_offline, start
from pycolo.model import ColoPair, FilterChain, Netdev, Node, ReplicationDisk
from pycolo.plan import Execute
from pycolo.qmp.replies import Version

RUNS = 15
BATCH = 200
VERSION = Version.parse("11.1.3")
GOAL_PLANS_S = 2000


def run() -> list[Figure]:
    """Compile `start` from two QEMUs just launched, in turns with writing the same commands."""
    offline = compile_offline("start", declared(), version=VERSION)
    commands = [step.command.to_qmp() for step in offline.steps if isinstance(step, Execute)]

    def compile_start() -> object:
        return start(offline.pair, offline.prior_state)

    def dump() -> object:
        return json.dumps(commands)

    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(RUNS):
        ours.append(_each_s(compile_start))
        theirs.append(_each_s(dump))
    figures = compared("compile", ("start", ours), ("json.dumps of its commands", theirs))
    plans_s = Figure(
        benchmark="compile",
        what=f"start, {len(offline.steps)} steps, on one core",
        value=1000 / figures[0].value,
        unit="plans/s",
        runs=RUNS,
        goal=f"at least {GOAL_PLANS_S}",
    )
    return [plans_s, *figures]


def _each_s(work: Callable[[], object]) -> float:
    # The processor's time, not the clock's: this is a question about one core.
    started = time.process_time()
    for _ in range(BATCH):
        work()
    return (time.process_time() - started) / BATCH


def declared() -> ColoPair:
    """A pair with one disk and one card."""
    nodes = [
        Node(
            name=name,
            address=f"192.0.2.{n}",
            run_dir=f"/run/pycolo/{name}",
            image_folder="/var/lib/pycolo",
        )
        for n, name in enumerate(("alpha", "beta"), 1)
    ]
    return ColoPair(
        name="colo",
        nodes=nodes,
        disks=(ReplicationDisk(size_bytes=1 << 30),),
        chains=(FilterChain(netdev=Netdev(type="user")),),
    )

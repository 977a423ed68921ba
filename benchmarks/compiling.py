"""How many plans a second one core compiles, and what each disk and card costs."""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable

from benchmarks.measure import Figure, compared, undisturbed
from pycolo.compiler import compile_offline, compile_plan, start
from pycolo.model import ColoPair, FilterChain, Netdev, Node, ReplicationDisk
from pycolo.plan import Execute, Procedure
from pycolo.qmp.replies import Version

RUNS = 15
BATCH = 200
VERSION = Version.parse("11.1.3")
GOAL_PLANS_S = 2000
SIZES = (1, 10, 100)
RUNS_BY_SIZE = 5
LINEAR = 1.5
"What a disk and a card may cost among a hundred, by what they cost among ten."


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
    return [plans_s, *figures, *_by_size()]


def _by_size() -> list[Figure]:
    """What each disk and its card cost, in turns with other numbers of them."""
    works = {size: _works(size) for size in SIZES}
    found: dict[tuple[str, int], list[float]] = {}
    with undisturbed():
        for _ in range(RUNS_BY_SIZE):
            for size, each in works.items():
                for what, work in each.items():
                    took_s = _each_s(work, max(SIZES) // size)
                    found.setdefault((what, size), []).append(took_s / size)
    medians = {case: statistics.median(runs_s) for case, runs_s in found.items()}
    return [
        Figure(
            benchmark="compile",
            what=what,
            value=value * 1000,
            unit="ms per disk and card",
            runs=RUNS_BY_SIZE,
            size=size,
            goal=f"at most {LINEAR:g} times that of {SIZES[-2]}",
            ratio=value / (LINEAR * medians[what, SIZES[-2]]),
        )
        for (what, size), value in medians.items()
    ]


def _works(size: int) -> dict[str, Callable[[], object]]:
    """What is timed for a pair with so many disks and cards."""
    pair = declared(size)
    cases: dict[str, tuple[Procedure, str | None]] = {
        "start": ("start", None),
        "failover, primary": ("failover", "alpha"),
        "failover, secondary": ("failover", "beta"),
        "resume": ("resume", "beta"),
    }
    works: dict[str, Callable[[], object]] = {
        "declaration": lambda: declared(size),
        "launch": lambda: compile_offline("launch", pair, version=VERSION),
    }
    for what, (procedure, survivor) in cases.items():
        plan = compile_offline(procedure, pair, version=VERSION, survivor=survivor)
        works[what] = functools.partial(
            compile_plan, procedure, pair, plan.prior_state, plan.options
        )
    return works


def _each_s(work: Callable[[], object], batch: int = BATCH) -> float:
    # The processor's time, not the clock's: this is a question about one core.
    started = time.process_time()
    for _ in range(batch):
        work()
    return (time.process_time() - started) / batch


def declared(size: int = 1) -> ColoPair:
    """A pair with so many disks and cards."""
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
        disks=[
            ReplicationDisk(
                size_bytes=1 << 30,
                image=f"disk{n}.qcow2",
                active_image=f"active{n}.qcow2",
                hidden_image=f"hidden{n}.qcow2",
                # The machine's own controller has four places.
                device="virtio-blk-pci" if size > 1 else "ide-hd",
            )
            for n in range(size)
        ],
        chains=[FilterChain(netdev=Netdev(type="user")) for _ in range(size)],
    )

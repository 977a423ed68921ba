"""For a controller that owns QEMU's life cycle: it takes command lines and plans, no more.

    python examples/own_qemu.py [PAIRFILE]

Such a controller makes disks, starts QEMU and ends it itself, in its own cgroups and under its own
user. From pycolo it takes the words: which arguments each QEMU gets, which images must exist with
which size, which record each host keeps of who has the newest data, and which QMP commands go where
in which order.
"""

import secrets
import shlex
import sys
from pathlib import Path

import pycolo
from pycolo import wire
from pycolo.evidence import instance_of
from pycolo.plan import (
    CheckDevices,
    CheckPorts,
    CreateImage,
    LaunchQemu,
    Plan,
    Record,
    RunHost,
    StopQemu,
)
from pycolo.record import NoRecord, dumps
from pycolo.snapshot import Absent

EXAMPLE = Path(__file__).parent / "pair.toml"
INSTALLED = pycolo.Version.parse("11.1.3")


def main(pair_file: Path = EXAMPLE) -> None:
    """Print what the controller has to do on each host, and the plan it then has executed."""
    pair = pycolo.load(pair_file)
    nodes = [node.name for node in pair.nodes]
    everybody = [node.name for node in (*pair.nodes, *pair.spares)]
    launch = pycolo.launch(
        pair,
        pycolo.Snapshot(
            nodes={name: Absent() for name in nodes}, records=dict.fromkeys(everybody, NoRecord())
        ),
        qemu=dict.fromkeys(nodes, INSTALLED),
        # The identity tells a QEMU from one that was started anew: give each start its own.
        instances={name: instance_of(pair.name, name, secrets.randbits(32)) for name in nodes},
        # It tells this pair from another one of its name; drawn once, at the first launch.
        birth=secrets.token_hex(4),
    )
    for step in launch.steps:
        if isinstance(step, RunHost):
            describe(step)
        if isinstance(step, Record):
            print(f"{step.node}: keeps {dumps(step.change.becomes).strip()}")
    # `start` begins with what `launch` promises; a real one is compiled from what is read.
    start = pycolo.start(pair, launch.planned_state)
    save(start)


def describe(step: RunHost) -> None:
    """Say what is to be done on a host."""
    match step.action:
        case CreateImage(path=path, image_format=image_format, size_bytes=size_bytes):
            print(f"{step.node}: needs {path}, {image_format}, {size_bytes} bytes")
        case LaunchQemu(role=role, argv=argv):
            print(f"{step.node}: starts as {role}: {shlex.join(argv)}")
        case StopQemu():
            print(f"{step.node}: is ended")
        case CheckDevices(devices=devices):
            print(f"{step.node}: its QEMU must know {', '.join(d.driver for d in devices)}")
        case CheckPorts(host=host, ports=ports):
            print(f"{step.node}: must reach {host}, TCP {ports}")


def save(plan: Plan) -> None:
    """Show that a plan is a document: it can be kept, sent to a worker and read back."""
    document = wire.dumps(wire.plan_to_json(plan))
    print(f"{plan.procedure}: {len(plan.steps)} steps in {len(document) // 1024} KiB of JSON")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))

"""What compiling costs grows with the number of disks and cards, and no faster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import attrs
import pytest
from tests.compiler.cases import Case, one_of_each

from pycolo.compiler import compile_offline, compile_plan
from pycolo.model import ColoPair, FilterChain, Netdev, ReplicationDisk
from pycolo.qmp.replies import Version

VERSION = Version.parse("11.1.3")
FEW, MANY = 20, 40
CASES: tuple[Case, ...] = (
    ("start", None),
    ("failover", "alpha"),
    ("failover", "beta"),
    ("resume", "beta"),
    ("stop", None),
    ("switch-over", None),
)


def _pair(size: int) -> ColoPair:
    disks = [
        ReplicationDisk(
            size_bytes=2**30,
            image=f"disk{n}.qcow2",
            active_image=f"active{n}.qcow2",
            hidden_image=f"hidden{n}.qcow2",
            device="virtio-blk-pci",
        )
        for n in range(size)
    ]
    chains = [FilterChain(netdev=Netdev(type="user")) for _ in range(size)]
    return attrs.evolve(one_of_each(), disks=disks, chains=chains)


def _calls(work: Callable[[], object]) -> int:
    """How many functions of Python are called: the same number however busy the machine is."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(filter(None, case)))
def test_twice_the_disks_and_cards_take_twice_the_calls(case: Case) -> None:
    """No procedure does for each disk something about each of the others."""
    procedure, survivor = case
    few, many = (
        compile_offline(procedure, _pair(size), version=VERSION, survivor=survivor)
        for size in (FEW, MANY)
    )
    counts = [
        _calls(lambda: compile_plan(procedure, p.pair, p.prior_state, p.options))  # noqa: B023 - called here
        for p in (few, many)
    ]
    assert counts[1] < 1.02 * MANY / FEW * counts[0]

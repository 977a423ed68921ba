"""How the RAM is declared, and what a plan makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypedDict

import attrs
import pytest
from tests.compiler.cases import one_of_each
from typing_extensions import Unpack

from pycolo.compiler import compile_offline
from pycolo.model import ColoPair, Machine, MemoryBackend, Migration
from pycolo.plan import Execute, LaunchQemu, Plan, Procedure, RunHost
from pycolo.qmp.replies import Version

NOTHING_ELSE = {"x-use-canonical-path-for-ramblock-id": False, "id": "pc.ram"}


class _Limits(TypedDict, total=False):
    max_bandwidth_bytes_per_s: int
    downtime_limit_ms: int
    multifd_channels: int | None


def _pair(**limits: Unpack[_Limits]) -> ColoPair:
    return attrs.evolve(one_of_each(), migration=Migration(**limits))


def _plan(pair: ColoPair, version: str, procedure: Procedure = "start") -> Plan:
    return compile_offline(procedure, pair, version=Version.parse(version))


def _set(plan: Plan) -> list[tuple[str, Mapping[str, object]]]:
    """The parameters that are set, each time with the node, without the checkpoint delay."""
    found = [
        (step.node, step.command.arguments())
        for step in plan.steps
        if isinstance(step, Execute) and step.command.qmp_name == "migrate-set-parameters"
    ]
    return [(node, arguments) for node, arguments in found if "x-checkpoint-delay" not in arguments]


def _place(plan: Plan, address: str) -> int:
    return [step.address for step in plan.steps].index(address)


def _uses_multifd(plan: Plan) -> dict[str, bool]:
    return {
        step.node: "multifd" in json.dumps(step.command.to_qmp())
        for step in plan.steps
        if isinstance(step, Execute) and step.command.qmp_name == "migrate-set-capabilities"
    }


def _argv(machine: Machine, version: str = "11.1.3") -> list[list[str]]:
    pair = attrs.evolve(one_of_each(), machine=machine)
    actions = [s.action for s in _plan(pair, version, "launch").steps if isinstance(s, RunHost)]
    return [list(action.argv) for action in actions if isinstance(action, LaunchQemu)]


@pytest.mark.parametrize("version", ["7.2.22", "10.0.13", "11.1.3"])
def test_limits_of_the_copy_are_set_on_the_primary_before_it(version: str) -> None:
    """Only what is not QEMU's own value already, and before `migrate`."""
    assert [] == _set(_plan(_pair(), version))

    plan = _plan(_pair(max_bandwidth_bytes_per_s=0, downtime_limit_ms=50), version)

    assert [("alpha", {"max-bandwidth": 0, "downtime-limit": 50})] == _set(plan)
    assert _place(plan, "alpha/migrate-set-parameters") < _place(plan, "alpha/migrate")
    live = plan.planned_state.live("alpha")
    assert live is not None
    assert (0, 50) == (live.max_bandwidth_bytes_per_s, live.downtime_limit_ms)


@pytest.mark.parametrize(
    ("version", "uses"), [("7.2.22", False), ("10.0.13", False), ("11.1.3", True)]
)
def test_multifd_is_used_where_it_works(version: str, *, uses: bool) -> None:
    """Where nothing is declared: from QEMU 11.0 on, on both sides; and nowhere if it is off."""
    assert {"alpha": uses, "beta": uses} == _uses_multifd(_plan(_pair(), version))
    assert {"alpha": False, "beta": False} == _uses_multifd(
        _plan(_pair(multifd_channels=0), version)
    )


def test_channels_are_set_on_both_sides_before_the_secondary_listens() -> None:
    """QEMU's own number is not set; another one is, on each side, in time."""
    assert [] == _set(_plan(_pair(multifd_channels=2), "11.1.3"))

    plan = _plan(_pair(multifd_channels=5), "11.1.3")

    assert [("beta", {"multifd-channels": 5}), ("alpha", {"multifd-channels": 5})] == _set(plan)
    set_at = _place(plan, "beta/migrate-set-parameters")
    assert _place(plan, "beta/migrate-set-capabilities") < set_at
    assert set_at < _place(plan, "beta/migrate-incoming")


@pytest.mark.parametrize(
    ("backend", "members"),
    [
        (
            MemoryBackend(prealloc=True),
            {"qom-type": "memory-backend-ram", "prealloc": True, "share": False},
        ),
        (
            MemoryBackend(kind="file", folder="/dev/hugepages,vm0", share=True),
            {
                "qom-type": "memory-backend-file",
                "prealloc": False,
                "share": True,
                # A comma needs no care in JSON; the slash has QEMU refuse what is no folder.
                "mem-path": "/dev/hugepages,vm0/",
            },
        ),
        (
            MemoryBackend(kind="memfd", huge_page_size_mib=2, prealloc=True),
            {
                "qom-type": "memory-backend-memfd",
                "prealloc": True,
                "share": False,
                "hugetlb": True,
                "hugetlbsize": 2 << 20,
            },
        ),
    ],
)
def test_memory_backends_stand_on_both_command_lines(
    backend: MemoryBackend, members: dict[str, object]
) -> None:
    """The machine takes its RAM from the backend, which has the size and the name of QEMU's own."""
    for argv in _argv(Machine(memory_mib=64, memory_backend=backend)):
        made = [json.loads(argv[n + 1]) for n, word in enumerate(argv) if word == "-object"]
        size = {"size": 64 << 20}
        assert {**NOTHING_ELSE, **size, **members} == made[0]
        assert "pc,memory-backend=pc.ram" == argv[argv.index("-machine") + 1]
        assert "64" == argv[argv.index("-m") + 1]


def test_a_dirty_ring_is_part_of_the_accelerator() -> None:
    """It is an option of KVM, on both sides."""
    for argv in _argv(Machine(dirty_ring_size=4096)):
        assert "kvm,dirty-ring-size=4096" == argv[argv.index("-accel") + 1]

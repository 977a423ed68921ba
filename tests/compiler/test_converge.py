"""Drift, and the smallest plan that takes it back."""

from __future__ import annotations

import attrs
import pytest
from tests.compiler.cases import CASES, EVERY_PAIR, PAIRS, VERSIONS, compiled, one_of_each

from pycolo.compiler import compile_offline, converge, drift
from pycolo.errors import CompileError
from pycolo.model import Throttle
from pycolo.plan import Execute
from pycolo.qmp.commands import BlockSetIoThrottle
from pycolo.qmp.replies import Version
from pycolo.snapshot import Child, Drive, Filter, Job, Live, Snapshot
from pycolo.wire import dumps, plan_to_json

PAIR = one_of_each()
PROTECTED = compiled(CASES["start/first"], PAIR, "11.1.3").planned_state


def _changed(node: str, **changes: object) -> Snapshot:
    live = PROTECTED.live(node)
    assert live is not None
    return PROTECTED.with_node(node, attrs.evolve(live, **changes))  # type: ignore[arg-type]  # fields by name


def _alpha() -> Live:
    live = PROTECTED.live("alpha")
    assert live is not None
    return live


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("case", ["start/first", "resume/on-the-primary", "resume/on-the-promoted"])
def test_a_protected_pair_is_as_declared(case: str, pair: str, version: str) -> None:
    """What start and resume lead to differs in nothing from the declaration."""
    planned_state = compiled(CASES[case], PAIRS[pair], version).planned_state

    assert not drift(PAIRS[pair], planned_state)
    assert () == converge(PAIRS[pair], planned_state).steps


def test_spare_that_protects_the_guest_is_compared() -> None:
    """The node whose place it has taken is not, and lacks nothing."""
    version = Version.parse("11.1.3")
    alone = compile_offline("failover", PAIR, version=version, survivor="alpha").planned_state
    plan = compile_offline(
        "resume", PAIR, version=version, prior_state=alone, survivor="alpha", peer="gamma"
    )
    found = plan.planned_state
    assert not drift(PAIR, found)
    live = found.live("gamma")
    assert live is not None
    odd = attrs.evolve(live, objects={**live.objects, "odd": Filter(qom_type="iothread")})
    assert ["gamma"] == [d.node for d in drift(PAIR, found.with_node("gamma", odd)).stray]


def test_declared_hardware_is_no_drift() -> None:
    """Firmware, drives, objects and channels of a protected guest are as declared."""
    pair = EVERY_PAIR["hardware"]
    planned_state = compiled(CASES["start/first"], pair, "11.1.3").planned_state

    assert not drift(pair, planned_state)
    assert () == converge(pair, planned_state).steps


def test_what_was_set_by_hand_is_named_and_set_back() -> None:
    """A compare timeout, a delay and limits set by hand: named with both values, all set back."""
    comp = attrs.evolve(
        _alpha().objects["comp0"],
        settings={**_alpha().objects["comp0"].settings, "compare_timeout": "1234"},
    )
    objects = {**_alpha().objects, "comp0": comp}
    limits = {"max_bandwidth_bytes_per_s": 5, "downtime_limit_ms": 7}
    snapshot = _changed("alpha", objects=objects, checkpoint_delay_ms=9, **limits)

    found = [(d.label, d.declared, d.live) for d in drift(PAIR, snapshot).changed]
    plan = converge(PAIR, snapshot)

    assert [
        ("comp0.compare_timeout", "3000", "1234"),
        ("downtime-limit", "300", "7"),
        ("max-bandwidth", "134217728", "5"),
        ("x-checkpoint-delay", "1000", "9"),
    ] == found
    assert [
        "alpha/qom-set/comp0.compare_timeout",
        "alpha/migrate-set-parameters",
        "alpha/migrate-set-parameters/2",
        "alpha/migrate-set-parameters/3",
    ] == [step.address for step in plan.steps]
    assert not drift(PAIR, plan.planned_state)


def test_a_filter_that_is_off_is_switched_on() -> None:
    """A mirror that is off leaves the secondary blind; converge turns it on and nothing else."""
    off = attrs.evolve(_alpha().objects["m0"], on=False)
    snapshot = _changed("alpha", objects={**_alpha().objects, "m0": off})

    plan = converge(PAIR, snapshot)

    assert ["alpha/qom-set/m0.status"] == [step.address for step in plan.steps]
    assert not drift(PAIR, plan.planned_state)


def test_strays_go_objects_before_chardevs() -> None:
    """What is there and not declared is taken away in an order that QEMU accepts."""
    snapshot = _changed(
        "alpha",
        objects={**_alpha().objects, "odd": Filter(qom_type="iothread")},
        chardevs={**_alpha().chardevs, "extra": True},
        block_nodes=_alpha().block_nodes | {"left"},
    )

    plan = converge(PAIR, snapshot)

    assert [
        "alpha/object-del/odd",
        "alpha/chardev-remove/extra",
        "alpha/blockdev-del/left",
    ] == [step.address for step in plan.steps]
    assert not drift(PAIR, plan.planned_state)


@pytest.mark.parametrize(("extra", "place"), [("first", "children.1"), ("last", "children.9")])
def test_a_stray_child_is_detached_wherever_it_is(extra: str, place: str) -> None:
    """A child that nobody declared goes by its own place, then its block node; the peer's stays."""
    quorum = PAIR.disks[0].names.quorum
    stray = Child(name=place, node="extra")
    local, peer = _alpha().children[quorum]
    found = (local, stray, attrs.evolve(peer, name="children.2"))
    if extra == "last":
        found = (local, peer, stray)
    children = {**_alpha().children, quorum: found}
    snapshot = _changed("alpha", children=children, block_nodes=_alpha().block_nodes | {"extra"})

    plan = converge(PAIR, snapshot)

    assert [
        f"alpha/check/{quorum}.{place}",
        f"alpha/x-blockdev-change/{quorum}.{place}",
        "alpha/blockdev-del/extra",
    ] == [step.address for step in plan.steps]
    assert not drift(PAIR, plan.planned_state)


def test_a_stray_child_that_is_read_from_is_refused() -> None:
    """The first place of a quorum is never emptied: the guest's disk is read from there."""
    quorum = PAIR.disks[0].names.quorum
    local, peer = _alpha().children[quorum]
    found = (attrs.evolve(local, node="extra"), attrs.evolve(local, name="children.2"), peer)

    with pytest.raises(CompileError, match=rf"{quorum}\.extra of alpha, which .* is read from"):
        converge(PAIR, _changed("alpha", children={**_alpha().children, quorum: found}))


def test_a_copy_that_was_not_dismissed_is() -> None:
    """A concluded copy of ours is all that is left of an unfinished start."""
    job = {"resync-colo-disk0-vm0.beta.00000001": Job(status="concluded")}

    plan = converge(PAIR, _changed("alpha", jobs=job))

    assert "alpha/job-dismiss/resync-colo-disk0-vm0.beta.00000001" in [
        s.address for s in plan.steps
    ]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"objects": {}}, "missing cannot be put back while COLO runs: object comp0 of alpha"),
        ({"jobs": {"mine": Job(status="running")}}, "job mine of alpha .* cancel and dismiss it"),
        ({"capabilities": frozenset({"x-colo"})}, "capabilities of alpha"),
        ({"multifd_channels": 7}, "parameter multifd-channels of alpha is 7, and declared 2"),
    ],
)
def test_what_cannot_be_taken_back_under_colo_is_refused(
    changes: dict[str, object], why: str
) -> None:
    """The refusal names the part and says what leads there."""
    with pytest.raises(CompileError, match=why):
        converge(PAIR, _changed("alpha", **changes))


LIMITED = attrs.evolve(
    PAIR,
    disks=[attrs.evolve(disk, throttle=Throttle(iops_total=100)) for disk in PAIR.disks],
)
STORED = compiled(CASES["start/first"], LIMITED, "11.1.3").planned_state


def _stored(**changes: object) -> Snapshot:
    live = STORED.live("alpha")
    assert live is not None
    return STORED.with_node("alpha", attrs.evolve(live, **changes))  # type: ignore[arg-type]  # fields by name


def test_limits_that_differ_are_set_by_one_command() -> None:
    """One that is too high and one that nobody declared, of one drive; nothing then differs."""
    disk = LIMITED.disks[0]
    drive = Drive(device="disk0", limits={"iops_total": 500, "bps_read": 7})
    found = _stored(drives={disk.names.quorum: drive})

    shown = [(d.label, d.declared, d.live) for d in drift(LIMITED, found).changed]
    assert [("colo-disk0.bps_read", "none", "7"), ("colo-disk0.iops_total", "100", "500")] == shown
    plan = converge(LIMITED, found)
    command = BlockSetIoThrottle(
        id="disk0", bps=0, bps_rd=0, bps_wr=0, iops=100, iops_rd=0, iops_wr=0
    )
    assert [command] == [step.command for step in plan.steps if isinstance(step, Execute)]
    assert not drift(LIMITED, plan.planned_state)


def test_another_cache_mode_is_shown_and_needs_another_qemu() -> None:
    """QEMU keeps the mode in which it has opened an image; what was not read differs in nothing."""
    parent = LIMITED.disks[0].names.parent
    assert not drift(LIMITED, _stored(caches={parent: "writeback"}))
    found = _stored(caches={parent: "none"})
    (difference,) = drift(LIMITED, found).changed
    assert ("cache", parent, "writeback", "none") == (
        difference.kind,
        difference.name,
        difference.declared,
        difference.live,
    )
    with pytest.raises(
        CompileError, match=r"cache parent0 of alpha is none.*run switch-over first"
    ):
        converge(LIMITED, found)


def test_an_unprotected_guest_with_a_fresh_secondary_is_protected() -> None:
    """Converge goes the whole way when nothing is protected yet."""
    launched = compiled(CASES["start/first"], PAIR, "11.1.3").prior_state

    plan = converge(PAIR, launched)

    assert drift(PAIR, launched).missing
    assert not drift(PAIR, plan.planned_state)


def test_a_missing_node_is_missing() -> None:
    """With the secondary gone, the drift says so first of all."""
    alone = compiled(CASES["failover/primary-survives"], PAIR, "11.1.3").planned_state

    missing = drift(PAIR, alone).missing

    assert ("beta", "node", "role") in [(d.node, d.kind, d.name) for d in missing]


def test_pair_of_which_no_node_answers_is_refused() -> None:
    """There is nothing to compare with, which is no agreement."""
    with pytest.raises(CompileError, match="no node answers"):
        drift(PAIR, Snapshot(nodes={}))


ENCRYPTING = PAIRS["x509"]
ENCRYPTED = compiled(CASES["start/first"], ENCRYPTING, "11.1.3").planned_state


def _encrypted(node: str, **changes: object) -> Snapshot:
    live = ENCRYPTED.live(node)
    assert live is not None
    return ENCRYPTED.with_node(node, attrs.evolve(live, **changes))  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_credentials_that_were_deleted_are_made_again(node: str) -> None:
    """The connections do not need them any more, and the next ones will."""
    live = ENCRYPTED.live(node)
    assert live is not None
    left = {name: item for name, item in live.objects.items() if name != "tls-client"}
    snapshot = _encrypted(node, objects=left)

    plan = converge(ENCRYPTING, snapshot)

    assert ["tls-client"] == [found.name for found in drift(ENCRYPTING, snapshot).missing]
    assert [f"{node}/object-add/tls-client"] == [step.address for step in plan.steps]
    assert not drift(ENCRYPTING, plan.planned_state)


def test_connections_that_are_not_encrypted_as_declared_are_seen() -> None:
    """A pair that was started without TLS lacks its credentials, and cannot get them in COLO."""
    found = drift(ENCRYPTING, PROTECTED)

    lacking = {("alpha", "tls-creds", "tls-client"), ("beta", "tls-creds", "tls-server")}
    assert lacking <= {(d.node, d.name, d.declared) for d in found.missing}
    with pytest.raises(CompileError, match="what is missing cannot be put back while COLO runs"):
        converge(ENCRYPTING, PROTECTED)


@pytest.mark.parametrize(("setting", "value"), [("dir", "/elsewhere"), ("verify-peer", "false")])
def test_other_credentials_need_a_new_entry(setting: str, value: str) -> None:
    """Connections keep what they were made with: another folder is seen, and refused in COLO."""
    live = ENCRYPTED.live("alpha")
    assert live is not None
    known = live.objects["tls-server"]
    changed = attrs.evolve(known, settings={**known.settings, setting: value})
    snapshot = _encrypted("alpha", objects={**live.objects, "tls-server": changed})

    assert [f"tls-server.{setting}"] == [d.label for d in drift(ENCRYPTING, snapshot).changed]
    with pytest.raises(CompileError, match="run stop, launch a new secondary, then run resume"):
        converge(ENCRYPTING, snapshot)


def test_an_empty_authz_is_never_sent() -> None:
    """To a QEMU before 11 it is the id of an object (qemu-behaviour 10.9)."""
    for pair in ("x509", "psk"):
        plan = compiled(CASES["resume/on-the-promoted"], EVERY_PAIR[pair], "7.2.22")
        assert '"tls-authz": ""' not in dumps(plan_to_json(plan))

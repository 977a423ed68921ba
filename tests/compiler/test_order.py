"""The orders that keep a guest served and its data whole, step by step."""

from __future__ import annotations

from typing import TypeGuard

import attrs
import pytest
from tests.compiler.cases import CASES, PAIRS, VERSIONS, compiled

from pycolo.conditions import ChardevConnected, Leaf, leaves
from pycolo.model import Machine
from pycolo.plan import Check, Execute, Plan, Wait


def _addresses(case: str, version: str = "11.1.3", pair: str = "one") -> list[str]:
    return [step.address for step in compiled(CASES[case], PAIRS[pair], version).steps]


def _in_order(addresses: list[str], *wanted: str) -> bool:
    places = [addresses.index(address) for address in wanted]
    return places == sorted(places)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", ["failover/primary-survives", "failover/secondary-survives"])
def test_every_failover_begins_with_the_proof_of_death(case: str, version: str) -> None:
    """The first step of every failover plan is the Check that the peer is dead."""
    first = compiled(CASES[case], PAIRS["one"], version).steps[0]

    assert isinstance(first, Check)
    assert "dead:" in first.address


@pytest.mark.parametrize("version", VERSIONS)
def test_a_primary_is_cut_off_before_anything_that_could_block(version: str) -> None:
    """The record, the yanks, the plain network and the end of COLO; only then the disk."""
    addresses = _addresses("failover/primary-survives", version)

    assert _in_order(
        addresses,
        "alpha/record/sole",
        "alpha/yank/block-node:nbd0",
        "alpha/yank/migration",
        "alpha/qom-set/redire1.status",
        "alpha/qom-set/m0.status",
        "alpha/x-colo-lost-heartbeat",
        "alpha/check/colo-disk0.children.1",
        "alpha/x-blockdev-change/colo-disk0.children.1",
        "alpha/wait/restored",
        "alpha/object-del/comp0",
        "alpha/chardev-remove/mirror0",
        "alpha/blockdev-del/nbd0",
    )


@pytest.mark.parametrize(
    ("case", "restored"),
    [
        ("failover/primary-survives", "alpha/wait/restored"),
        ("failover/secondary-survives", "beta/wait/restored"),
        ("start/first", "alpha/wait/protected"),
    ],
)
def test_service_counts_as_restored_when_the_guest_runs_with_its_network(
    case: str, restored: str
) -> None:
    """`restored_after` names the wait for the running guest, whose filters are off by then."""
    plan = compiled(CASES[case], PAIRS["one"], "11.1.3")
    addresses = [step.address for step in plan.steps]
    off = [a for a in addresses if a.endswith(".status")]

    assert restored == plan.restored_after
    assert all(addresses.index(a) < addresses.index(restored) for a in off)


def test_every_yank_names_one_instance_and_goes_out_of_band() -> None:
    """A list with one unknown instance would yank nothing, so each has a command of its own."""
    plan = compiled(CASES["failover/primary-survives"], PAIRS["two"], "11.1.3")
    yanks = [s for s in plan.steps if isinstance(s, Execute) and s.command.qmp_name == "yank"]

    assert [1] * 7 == [len(s.command.arguments()["instances"]) for s in yanks]  # type: ignore[arg-type]  # a yank's instances are a list
    assert all(step.oob for step in yanks)


@pytest.mark.parametrize("version", ["10.0.13", "11.1.3"])
def test_the_guest_runs_while_its_ram_is_copied(version: str) -> None:
    """Where QEMU can pause before the switch-over, the guest runs but for two moments."""
    addresses = _addresses("resume/on-the-promoted", version)

    assert _in_order(
        addresses,
        "beta/wait/mirrored",
        "beta/stop",
        "beta/wait/mirror-ended",
        "beta/x-blockdev-change/colo-disk0.nbd0",
        "beta/cont",
        "beta/migrate",
        "beta/wait/pre-switchover",
        "beta/qom-set/m0.status",
        "beta/qom-set/redire1.status",
        "beta/migrate-continue",
        "beta/wait/protected",
    )


def test_on_7_2_the_guest_is_paused_until_colo_runs() -> None:
    """QEMU 7.2 cannot pause before the switch-over: no cont, and filters follow in the pause."""
    addresses = _addresses("resume/on-the-promoted", "7.2.22")

    assert "beta/cont" not in addresses
    assert "beta/migrate-continue" not in addresses
    assert _in_order(
        addresses,
        "beta/stop",
        "beta/x-blockdev-change/colo-disk0.nbd0",
        "beta/qom-set/m0.status",
        "beta/migrate",
        "beta/wait/protected",
    )


def test_under_tcg_the_guest_is_paused_from_the_mirror_to_colo() -> None:
    """TCG would lose pages that a running guest writes, so there it runs again in COLO only."""
    pair = attrs.evolve(PAIRS["one"], machine=Machine(accelerator="tcg"))
    plan = compiled(CASES["resume/on-the-promoted"], pair, "11.1.3")
    addresses = [step.address for step in plan.steps]

    assert "beta/cont" not in addresses
    assert "beta/wait/pre-switchover" not in addresses
    assert _in_order(addresses, "beta/stop", "beta/migrate", "beta/wait/protected")


def test_a_promoted_nodes_filters_go_before_its_rewriter() -> None:
    """The rewriter of a former secondary stays last; a primary that never was one has none."""
    promoted = compiled(CASES["resume/on-the-promoted"], PAIRS["one"], "11.1.3")
    never = compiled(CASES["resume/on-the-primary"], PAIRS["one"], "11.1.3")

    assert ["id=rew0"] * 3 == _positions(promoted)
    assert [None] * 3 == _positions(never)


def _positions(plan: Plan) -> list[object]:
    added = [s.command.arguments() for s in plan.steps if "/object-add/" in s.address]  # type: ignore[union-attr]  # object-add is an Execute
    return [a.get("position") for a in added if str(a["qom-type"]).startswith("filter")]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_nothing_ever_waits_for_ever(case: str, version: str) -> None:
    """Every step but a Check has a limit above zero."""
    plan = compiled(CASES[case], PAIRS["two"], version)

    assert all(step.limit_s > 0 for step in plan.steps if not isinstance(step, Check))


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith(("start", "resume"))])
def test_a_paused_guest_has_a_way_back(case: str) -> None:
    """Every stretch in which the guest is paused or has no network names its recovery."""
    plan = compiled(CASES[case], PAIRS["one"], "11.1.3")
    addresses = [step.address for step in plan.steps]
    covered = {
        address
        for recovery in plan.recoveries
        for address in addresses[
            addresses.index(recovery.first) : addresses.index(recovery.last) + 1
        ]
    }
    risky = {a for a in addresses if a.endswith(("/stop", ".status", "/migrate-continue"))}

    assert risky <= covered


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", ["failover/primary-survives", "stop/protected", "start/first"])
def test_a_recovery_cuts_the_peer_off_before_it_ends_colo(case: str, version: str) -> None:
    """It may be all that was ever sent: without the yanks a silent peer would wedge it."""
    recoveries = compiled(CASES[case], PAIRS["one"], version).recoveries
    for sent in ([step.address for step in recovery.steps] for recovery in recoveries):
        assert ["alpha/recovery/yank/block-node:nbd0"] == sent[:1]
        assert _in_order(
            sent, "alpha/recovery/yank/migration", "alpha/recovery/x-colo-lost-heartbeat"
        )


@pytest.mark.parametrize("version", VERSIONS)
def test_a_half_made_entry_leaves_no_disk_that_could_be_taken_for_a_copy(version: str) -> None:
    """The secondary's disk goes with the recovery: what it misses would never be noticed."""
    recoveries = compiled(CASES["resume/on-the-primary"], PAIRS["two"], version).recoveries
    sent = [step.address for step in recoveries[-1].steps]

    assert [
        "alpha/recovery/x-blockdev-change/colo-disk0.children.1",
        "alpha/recovery/blockdev-del/nbd0",
        "alpha/recovery/x-blockdev-change/colo-disk1.children.1",
        "alpha/recovery/blockdev-del/nbd1",
    ] == sent[-4:]


@pytest.mark.parametrize("version", VERSIONS)
def test_wait_true_is_never_sent(version: str) -> None:
    """A chardev that waits for its client would wedge the main loop."""
    plan = compiled(CASES["resume/on-the-promoted"], PAIRS["two"], version)
    sent = [s.command.to_qmp() for s in plan.steps if isinstance(s, Execute)]

    assert '"wait": True' not in str(sent).replace("'", '"')


def test_links_stand_by_the_word_of_both_ends() -> None:
    """A link that one end calls connected may be refused at the other: both are waited for."""
    step = compiled(CASES["start/first"], PAIRS["one"], "11.1.3").step("alpha/wait/connected:hn0")
    assert isinstance(step, Wait)
    asked = {(leaf.node, leaf.chardev) for leaf in leaves(step.until) if _is_link(leaf)}
    far = {("beta", "red0"), ("beta", "red1")}
    near = {("alpha", "mirror0"), ("alpha", "compare1")}
    own = {("alpha", f"compare{end}") for end in ("0", "0-0", "_out", "_out0")}
    assert far | near | own == asked


def _is_link(leaf: Leaf) -> TypeGuard[ChardevConnected]:
    return isinstance(leaf, ChardevConnected)

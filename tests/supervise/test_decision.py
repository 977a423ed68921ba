"""What a node's supervisor decides, and by which limits."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from tests.supervise.search import NAMES

from pycolo.errors import DeclarationError
from pycolo.evidence import Evidence, instance_of
from pycolo.model.supervision import Supervision
from pycolo.record import PairRecord
from pycolo.supervise import TABLE, Decision, Limits, Observation, SharedRecord, decide
from pycolo.supervise.observation import Signal
from pycolo.supervise.table import EVENTS, ROWS, STATES

ALPHA, BETA = (instance_of("shop-db", name, 1) for name in NAMES)
RECORD = PairRecord(
    pair="shop-db",
    birth="9f2c61d0",
    epoch=4,
    revision=0,
    holder="alpha",
    eligible={"alpha": ALPHA, "beta": BETA},
    phase="protected",
)
SHARED = SharedRecord(record=RECORD)
STOPPED = attrs.evolve(SHARED, want="stopped")
LIMITS = Limits(declared=Supervision(), checkpoint_delay_s=20.0, ram_gib=2.0)
IN_COLO = Observation(qemu="colo", instance=ALPHA)
SECONDARY = Observation(qemu="colo", instance=BETA)
END = Evidence(
    kind="exit", node="beta", instance=BETA, epoch=4, who="beta", how="its process", when="now"
)


def _at(
    node: str,
    seen: Observation,
    now_s: float,
    shared: SharedRecord = SHARED,
    own_file: PairRecord = RECORD,
) -> Decision:
    return decide(node, shared, own_file, seen, limits=LIMITS, now_s=now_s)


def test_the_table_has_a_row_for_every_state_and_event() -> None:
    """Each pair of state and event stands in exactly one row of the table."""
    assert {(state, event) for state in STATES for event in EVENTS} == set(TABLE)
    assert len(TABLE) == sum(len(row.events) for row in ROWS)


def test_a_pair_that_works_needs_no_action_but_to_be_kept() -> None:
    """Without any signal, what is next is left to `next_step`."""
    assert ("reconcile",) == _at("alpha", IN_COLO, 10.0).actions
    assert ("reconcile",) == _at("beta", SECONDARY, 10.0).actions


@pytest.mark.parametrize(
    ("node", "seen", "acts_at_s"), [("alpha", IN_COLO, 101.0), ("beta", SECONDARY, 101.5)]
)
def test_silence_is_suspected_and_then_acted_upon(
    node: str, seen: Observation, acts_at_s: float
) -> None:
    """Silence since 100 s: suspected at 100.5, claimed by the primary before the secondary."""
    silent = attrs.evolve(seen, signals={"silent": 100.0})
    assert "quiet" == _at(node, silent, 100.4).event
    assert ("ask",) == _at(node, silent, 100.6).actions
    assert "suspicion" == _at(node, silent, acts_at_s - 0.01).event
    assert ("cut", "claim") == _at(node, silent, acts_at_s).actions


def test_a_large_guest_may_be_stuck_for_longer() -> None:
    """A second for each GiB is added, and until the second checkpoint that of entering COLO."""
    assert pytest.approx(3.0) == LIMITS.stands_s("stuck")
    assert pytest.approx(13.0) == attrs.evolve(LIMITS, entering=True).stands_s("stuck")


@pytest.mark.parametrize(("delay_s", "stands_s"), [(0.5, 5.5), (20.0, 60.0)])
def test_a_missing_checkpoint_is_suspected_by_the_delay(delay_s: float, stands_s: float) -> None:
    """After three delays, at least a delay and five seconds."""
    limits = attrs.evolve(LIMITS, checkpoint_delay_s=delay_s)
    assert pytest.approx(stands_s) == limits.stands_s("no-checkpoint")


def test_evidence_leads_to_serving_at_once() -> None:
    """A QEMU that is shown to have ended is waited for no longer."""
    seen = attrs.evolve(IN_COLO, evidence=END)
    decision = _at("alpha", seen, 10.0)
    assert (("claim", "serve"), "serving") == (decision.actions, decision.phase)


def test_a_guest_that_shut_down_is_not_started_again() -> None:
    """Both QEMUs end when the guest powers off, and that is no death."""
    seen = Observation(qemu="none", shutdown=True, evidence=END)
    assert ("stop",) == _at("alpha", seen, 10.0).actions


def test_a_primary_whose_disk_failed_hands_over() -> None:
    """Only its secondary has every write, so that its own claim would lose some."""
    seen = attrs.evolve(IN_COLO, disk_failed=True, signals={"no-checkpoint": 0.0})
    assert ("tell", "hand-over") == _at("alpha", seen, 500.0).actions


@pytest.mark.parametrize(
    ("event", "lacks"),
    [
        ("replication-lost", attrs.evolve(IN_COLO, replication_lost=True)),
        ("peer-shutdown", attrs.evolve(IN_COLO, peer_shutdown=True)),
    ],
)
@pytest.mark.parametrize("signal", ["silent", "stuck", "hung-up"])
def test_a_secondary_that_has_to_go_and_gives_no_answer_is_claimed_against(
    event: str, lacks: Observation, signal: Signal
) -> None:
    """No plan withdraws its rights while it gives no answer, and a fence comes after a claim."""
    seen = attrs.evolve(lacks, signals={signal: 100.0})
    due_s = 100.0 + LIMITS.stands_s(signal) + LIMITS.declared.primary_s
    assert (event, ("cut", "narrow")) == _answer("alpha", seen, due_s - 0.01)
    assert ("limit", ("cut", "claim")) == _answer("alpha", seen, due_s)
    # The end of COLO is what the node's own cut has led to.
    cut = attrs.evolve(seen, signals={"colo-exit": 100.0, "no-checkpoint": 0.0})
    assert ("cut", "narrow") == _answer("alpha", cut, 500.0)[1]
    # The other node's claim may still end the matter.
    rival = attrs.evolve(seen, claim_since_s=due_s - 9.99)
    assert ("cut", "narrow") == _answer("alpha", rival, due_s)[1]
    old = attrs.evolve(rival, claim_since_s=due_s - 10.0)
    assert ("cut", "claim") == _answer("alpha", old, due_s)[1]


@pytest.mark.parametrize(
    ("node", "seen"),
    [
        ("alpha", attrs.evolve(IN_COLO, disk_failed=True, evidence=END)),
        ("alpha", attrs.evolve(IN_COLO, disk_failed=True, replication_lost=True)),
        (
            "beta",
            attrs.evolve(
                SECONDARY,
                replication_lost=True,
                evidence=attrs.evolve(END, node="alpha", instance=ALPHA),
            ),
        ),
        ("alpha", attrs.evolve(IN_COLO, qemu="alone")),
    ],
)
def test_who_lacks_writes_does_not_continue_by_itself(node: str, seen: Observation) -> None:
    """Where no node has every write, or a guest runs that the record knows nothing of."""
    decision = _at(node, seen, 10.0)
    assert ("undecidable", ("tell",), "person") == (
        decision.event,
        decision.actions,
        decision.phase,
    )


def test_a_holder_that_has_every_write_is_booted() -> None:
    """Both QEMUs have ended, and the secondary lacked writes: it needs nobody's decision."""
    end = attrs.evolve(END, node="alpha", instance=ALPHA)
    ended = attrs.evolve(SECONDARY, qemu="none", replication_lost=True, evidence=end)
    assert ("own-ended", ("say-exit", "tell")) == _answer("beta", ended)
    ended = attrs.evolve(IN_COLO, qemu="none", replication_lost=True, evidence=END)
    assert ("both-ended", ("boot",)) == _answer("alpha", ended)


_LEFT = attrs.evolve(SECONDARY, evidence=attrs.evolve(END, node="alpha", instance=ALPHA))
_LACKING = attrs.evolve(_LEFT, replication_lost=True)
_DIVERGED = attrs.evolve(_LEFT, peer_shutdown=True)


@pytest.mark.parametrize(
    ("shared", "seen", "answer"),
    [
        (STOPPED, _LACKING, ("lacks-writes", ("end-own", "reconcile"))),
        (STOPPED, _DIVERGED, ("lacks-writes", ("end-own", "reconcile"))),
        (SHARED, attrs.evolve(_LACKING, shutdown=True), ("lacks-writes", ("tell",))),
        (SHARED, attrs.evolve(_LACKING, peer_shutdown=True), ("lacks-writes", ("tell",))),
        # The secondary alone has the writes that a disk of the primary refused.
        (STOPPED, attrs.evolve(_DIVERGED, disk_failed=True), ("peer-ended", ("reconcile",))),
        (STOPPED, attrs.evolve(_LACKING, disk_failed=True), ("undecidable", ("tell",))),
    ],
)
def test_a_primary_that_ended_with_its_guest_has_every_write(
    shared: SharedRecord, seen: Observation, answer: tuple[str, tuple[str, ...]]
) -> None:
    """Its secondary still runs: nobody has to decide, and that one neither continues nor claims."""
    decision = _at("beta", seen, 10.0, shared)
    assert answer == (decision.event, decision.actions)


def _answer(node: str, seen: Observation, now_s: float = 10.0) -> tuple[str, tuple[str, ...]]:
    decision = _at(node, seen, now_s)
    return decision.event, decision.actions


def test_evidence_about_another_qemu_is_none() -> None:
    """An older QEMU of the peer has ended, or one of a node that left the pair."""
    older = attrs.evolve(END, instance=instance_of("shop-db", "beta", 0))
    spare = attrs.evolve(END, node="gamma", instance=instance_of("shop-db", "gamma", 1))
    for evidence in (older, spare, attrs.evolve(END, node="alpha", instance=ALPHA)):
        seen = attrs.evolve(IN_COLO, evidence=evidence)
        assert "quiet" == _at("alpha", seen, 10.0).event
    over = SharedRecord(record=attrs.evolve(RECORD, holder="beta", eligible={"beta": BETA}))
    end = attrs.evolve(END, node="alpha", instance=ALPHA)
    handed = attrs.evolve(SECONDARY, evidence=end)
    assert "peer-ended" == _at("beta", handed, 10.0, over).event
    before = attrs.evolve(handed, evidence=attrs.evolve(end, epoch=3))
    assert "quiet" == _at("beta", before, 10.0, over).event


def test_a_promoted_guest_is_not_booted_without_its_overlays() -> None:
    """Its image lacks writes until they are merged, so that a person decides."""
    sole = attrs.evolve(RECORD, holder="beta", eligible={"beta": BETA}, phase="alone")
    merging = SharedRecord(record=attrs.evolve(sole, commit="pending"))
    ended = Observation(qemu="none")
    assert ("tell",) == _at("beta", ended, 10.0, merging).actions
    assert "person" == _at("beta", ended, 10.0, merging).phase
    assert ("boot",) == _at("beta", ended, 10.0, SharedRecord(record=sole)).actions
    off = attrs.evolve(ended, shutdown=True)
    assert ("stop",) == _at("beta", off, 10.0, merging).actions


def test_a_claim_that_was_left_behind_holds_nobody_back() -> None:
    """A node that is alone by the record continues, whatever claim still stands."""
    sole = attrs.evolve(RECORD, holder="beta", eligible={"beta": BETA}, phase="alone")
    left = SharedRecord(record=sole, claimed_by="beta")
    assert ("fail-over",) == _at("beta", SECONDARY, 10.0, left).actions


def test_a_node_that_lacks_writes_gives_its_claim_back() -> None:
    """Evidence could only come from a fence that ends the one node which has them."""
    by_beta = SharedRecord(record=RECORD, claimed_by="beta")
    behind = attrs.evolve(SECONDARY, replication_lost=True, signals={"colo-exit": 100.0})
    assert ("give-back",) == _at("beta", behind, 200.0, by_beta).actions
    assert ("tell",) == _at("beta", behind, 200.0).actions
    by_alpha = SharedRecord(record=RECORD, claimed_by="alpha")
    broken = attrs.evolve(IN_COLO, disk_failed=True)
    assert ("give-back",) == _at("alpha", broken, 200.0, by_alpha).actions


def test_whoever_waits_tells_a_person() -> None:
    """A peer that never comes back, or a fence that never works, is not waited for in silence."""
    ended = Observation(qemu="none")
    assert ("say-exit", "tell") == _at("alpha", ended, 10.0).actions
    claimed = SharedRecord(record=RECORD, claimed_by="alpha")
    assert "tell" in _at("alpha", IN_COLO, 10.0, claimed).actions
    waits = [row for row in ROWS if row.phase == "waiting"]
    assert all("tell" in row.actions for row in waits)


def test_a_record_that_is_older_than_the_own_file_ends_no_qemu() -> None:
    """An arbiter that was restored from a backup must not have the newest guest killed."""
    own = attrs.evolve(RECORD, epoch=6, eligible={"alpha": ALPHA}, phase="alone")
    old = SharedRecord(record=attrs.evolve(RECORD, holder="beta", eligible={"beta": BETA}))
    seen = attrs.evolve(IN_COLO, qemu="alone")
    assert ("tell",) == _at("alpha", seen, 10.0, old, own).actions


def test_a_guest_that_the_record_gives_to_another_qemu_is_ended() -> None:
    """The same node with another instance has no rights either."""
    took_over = attrs.evolve(RECORD, epoch=5, holder="beta", eligible={"beta": BETA}, phase="alone")
    lost = SharedRecord(record=took_over)
    assert ("tell", "end-own") == _at("alpha", IN_COLO, 10.0, lost).actions
    other = attrs.evolve(IN_COLO, instance=instance_of("shop-db", "alpha", 2))
    assert "outdated" == _at("alpha", other, 10.0).event


def test_a_lease_is_evidence_only_after_a_whole_one_without_checkpoints() -> None:
    """A checkpoint renews the fuse too, so that the time counts from the node's own cut."""
    claimed = SharedRecord(record=RECORD, claimed_by="beta", fuses={"alpha": 2.0})
    seen = attrs.evolve(SECONDARY, lease_gone=True, cut_since_s=100.0)
    assert "quiet" == _at("beta", seen, 102.9, claimed).event
    assert ("serve",) == _at("beta", seen, 103.0, claimed).actions
    unarmed = attrs.evolve(claimed, fuses={})
    assert "quiet" == _at("beta", seen, 103.0, unarmed).event
    handed = attrs.evolve(RECORD, holder="beta", eligible={"beta": BETA})
    over = SharedRecord(record=handed, claimed_by="beta")
    assert "quiet" == _at("beta", seen, 103.0, over).event
    armed = attrs.evolve(over, fuses={"alpha": 2.0})
    assert "lease-gone" == _at("beta", seen, 103.0, armed).event
    # It was armed by an agent with another pair file, and its lease lasts as long.
    longer = attrs.evolve(claimed, fuses={"alpha": 10.0})
    assert "quiet" == _at("beta", seen, 110.9, longer).event
    assert "lease-gone" == _at("beta", seen, 111.0, longer).event


def test_a_claim_is_taken_over_only_when_it_leads_to_nothing() -> None:
    """The other node's claim is left alone for a while, however sure the suspicion is."""
    claimed = SharedRecord(record=RECORD, claimed_by="alpha")
    seen = attrs.evolve(SECONDARY, signals={"colo-exit": 100.0}, claim_since_s=100.0)
    assert "claimed" == _at("beta", seen, 109.0, claimed).event
    assert "limit" == _at("beta", seen, 110.0, claimed).event


def test_a_primary_that_its_fuse_stopped_takes_over_a_claim_that_nobody_stands_by() -> None:
    """It cannot be cut before: a stopped QEMU does nothing, and its own claim lets it continue."""
    claimed = SharedRecord(record=RECORD, claimed_by="beta", fuses={"alpha": 2.0})
    seen = attrs.evolve(IN_COLO, silent=True, lease_gone=True, claim_since_s=100.0)
    assert "claimed" == _at("alpha", seen, 109.9, claimed).event
    assert ("claim",) == _at("alpha", seen, 110.0, claimed).actions
    # As long as the other node stands by its claim, it is that one which continues.
    stands = attrs.evolve(seen, lease_gone=False)
    assert "claimed" == _at("alpha", stands, 200.0, claimed).event
    # One that no fuse has stopped hangs, and would gain nothing by a claim.
    unarmed = attrs.evolve(claimed, fuses={})
    assert "claimed" == _at("alpha", seen, 200.0, unarmed).event
    answers = attrs.evolve(seen, silent=False)
    assert "claimed" == _at("alpha", answers, 200.0, claimed).event


def test_a_node_whose_qemu_gives_no_answer_leaves_the_pair_to_the_other_one() -> None:
    """It neither claims nor keeps a claim, and tells a person: perhaps nobody can continue."""
    seen = attrs.evolve(IN_COLO, silent=True, signals={"silent": 100.0})
    assert ("ask", "tell") == _at("alpha", seen, 200.0).actions
    by_alpha = SharedRecord(record=RECORD, claimed_by="alpha")
    for claimer in (seen, attrs.evolve(seen, lease_gone=True, cut_since_s=0.0), IN_COLO):
        given_back = ("give-back",) if claimer.silent else ("tell", "cut", "seek-evidence")
        assert given_back == _at("alpha", claimer, 200.0, by_alpha).actions
    # The end of the other QEMU is known: no fence is needed, and nothing is gained by waiting.
    assert ("serve",) == _at("alpha", attrs.evolve(seen, evidence=END), 200.0, by_alpha).actions


def test_without_the_arbiter_nothing_is_missing_while_colo_works() -> None:
    """An outage of the arbiter alone changes nothing; with a suspicion it is waited for."""
    lost = attrs.evolve(IN_COLO, arbiter_lost=True)
    assert "quiet" == _at("alpha", lost, 10.0).event
    silent = attrs.evolve(lost, signals={"silent": 1.0})
    assert "waiting" == _at("alpha", silent, 10.0).phase


def test_a_paused_pair_is_only_observed() -> None:
    """Whatever happens during maintenance is told, and nothing is done."""
    paused = attrs.evolve(SHARED, paused="by the test")
    seen = attrs.evolve(IN_COLO, evidence=END)
    decision = _at("alpha", seen, 10.0, paused)
    assert (("tell",), "protected") == (decision.actions, decision.phase)
    assert () == _at("alpha", IN_COLO, 10.0, paused).actions


def test_a_pair_that_was_released_to_its_files_is_only_observed() -> None:
    """Another program acts on it by the files."""
    released = attrs.evolve(SHARED, released="to-files")
    seen = attrs.evolve(IN_COLO, evidence=END)
    assert ("tell",) == _at("alpha", seen, 10.0, released).actions


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Supervision(primary_s=1.0, secondary_s=1.0), "be longer than primary_s (1)"),
        (lambda: Supervision(retake_s=10.1), "not be longer than kill_s (10)"),
        (lambda: Supervision(kill_s=9.9), "not be longer than kill_s (9.9)"),
        (lambda: Supervision(silent_s=0.0), "be a positive number of seconds"),
        (lambda: Supervision(tries_per_hour=0), "be a whole number from 1 to 1000"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(
    make: Callable[[], Supervision], rule: str
) -> None:
    """An impossible combination never becomes a declaration."""
    with pytest.raises(DeclarationError, match="Supervision") as caught:
        make()
    assert rule in str(caught.value)


@pytest.mark.parametrize("fuse_s", [0.5, 2.0, 60.0])
def test_a_lease_is_computed_from_the_fuse(fuse_s: float) -> None:
    """A second longer, whatever is declared, so that the fuse acts first (as in medik8s)."""
    declared = Supervision(fuse_s=fuse_s)
    assert fuse_s + 1.0 == declared.lease_s
    assert "lease_s" not in {field.name for field in attrs.fields(Supervision)}
    armed = attrs.evolve(SHARED, fuses={"alpha": fuse_s + 3.0})
    assert fuse_s + 4.0 == armed.lease_s("alpha", declared)
    assert fuse_s + 1.0 == armed.lease_s("beta", declared)

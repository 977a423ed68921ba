"""The table is safe in every interleaving, and no row or rule of it can be left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs
import pytest
from tests.supervise.search import (
    FULL,
    NOW_S,
    OLD,
    Decide,
    Rules,
    Search,
    State,
    abandoned,
    again,
    alone,
    claimed,
    cut_off,
    doubled,
    handed_over,
    lacking,
    promoted,
    promotes,
    protected,
    returned,
    severed,
    shut_down,
    unanswered,
    without_fuses,
)

from pycolo.evidence import Evidence
from pycolo.record import PairRecord
from pycolo.supervise import TABLE, Action, Decision, Limits, Observation, SharedRecord, decide
from pycolo.supervise.table import ROWS, Event, Row
from pycolo.supervise.table import State as Standing

pytestmark = [pytest.mark.property, pytest.mark.timeout(600)]

BEGINNINGS: Final[Mapping[str, Callable[[int], State]]] = {
    "a protected pair": protected,
    "a guest alone that was promoted": promoted,
}
NO_LEASE = attrs.evolve(FULL, self_fence=False)
NO_FENCE = attrs.evolve(FULL, fences=False)
RESTORED = attrs.evolve(FULL, restores=True)
WITHOUT_ONE: Final[Mapping[str, Rules]] = {
    "leases and fences": FULL,
    "fences alone": NO_LEASE,
    "leases alone": NO_FENCE,
}


def _found(rules: Rules = FULL, decided: Decide = decide, *, faults: int = 1) -> str:
    """What the search finds wrong; empty for nothing."""
    for begin in BEGINNINGS.values():
        search = Search(rules, decided)
        wrong, path = search.run(begin(faults))
        if wrong:
            return f"{wrong}: {'; '.join(path)}"
        stuck = search.stuck(arbiter_returns=faults > 1)
        if stuck is not None:
            return f"stuck: {'; '.join(search.path(stuck))}"
    return ""


@pytest.mark.parametrize("deployment", WITHOUT_ONE)
def test_one_fault_breaks_nothing(deployment: str) -> None:
    """No two guests, no lost write, no epoch with two holders; service comes back by itself.

    So every phase can be left, which others had to learn (pg_auto_failover).
    """
    assert _found(WITHOUT_ONE[deployment]) == ""


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("deployment", WITHOUT_ONE)
def test_two_faults_break_nothing(deployment: str) -> None:
    """The same with any two faults; only an arbiter that is away is waited for."""
    assert _found(WITHOUT_ONE[deployment], faults=2) == ""


def test_the_search_goes_where_something_happens() -> None:
    """It reaches a pair that is protected again after a failover, and thousands of states."""
    search = Search()
    assert ("", []) == search.run(protected(1))
    assert len(search.seen) > 5000
    kept = [s for s in search.seen if s.record.epoch > 1 and s.record.phase == "protected"]
    assert any({node.qemu for node in s.nodes} == {"primary", "secondary"} for s in kept)


def test_a_restored_arbiter_ends_no_guest() -> None:
    """The holder's own file knows of a later epoch, so that a person is told."""
    search = Search(RESTORED)
    assert ("", []) == search.run(alone(1))
    assert search.stuck() is None
    restored = [s for s in search.seen if s.restored]
    assert any(s.told for s in restored)
    assert all(s.nodes[0].qemu != "none" for s in restored)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("rule", ["fences", "self_fence"])
@pytest.mark.parametrize("fault", ["link cut", "alpha is killed", "alpha stops responding"])
def test_an_arbiter_that_is_restored_after_a_fault_breaks_nothing(fault: str, rule: str) -> None:
    """At any moment of the failover: who runs then notices, and takes no answer any more."""
    begin = dict(Search().faults(protected(2)))[fault]
    search = Search(attrs.evolve(RESTORED, **{rule: False}))
    assert ("", []) == search.run(begin)
    assert search.stuck(arbiter_returns=True) is None


def test_whoever_runs_must_notice_that_the_arbiter_is_restored() -> None:
    """Else a primary that its fuse has stopped is renewed, although its peer serves."""
    begin = promotes(1)
    assert ("", []) == Search(RESTORED).run(begin)
    wrong, path = Search(attrs.evolve(RESTORED, notices=False)).run(begin)
    assert "two guests" == wrong
    assert "arbiter restored" in path


# -- an old node that is back, beside a pair that a spare has joined

OLD_NODES: Final = [(q, c) for q in ("primary", "secondary", "none") for c in (False, True)]


@pytest.mark.parametrize(("qemu", "has_claimed"), OLD_NODES)
def test_old_node_that_is_back_serves_nobody(qemu: str, *, has_claimed: bool) -> None:
    """Its guest never answers again, and the pair of the two others is protected all the same."""
    search = Search()
    assert ("", []) == search.run(returned(0, qemu, has_claimed=has_claimed))
    assert search.stuck(arbiter_returns=True) is None
    assert any(s.record.phase == "protected" for s in search.seen)
    old = [s.nodes[OLD] for s in search.seen]
    assert any(node.qemu == "none" for node in old)
    assert all(node.qemu == "none" or node.halted or node.qemu == "secondary" for node in old)


# Searched whole: `none` with 47,557 states each, `secondary` with 68,226 each. For `primary` with a
# claim no whole run is known.
@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("qemu", "has_claimed"), OLD_NODES)
def test_old_node_that_is_back_serves_nobody_after_another_fault(
    qemu: str, *, has_claimed: bool
) -> None:
    """The same with any one fault of the two others besides."""
    search = Search()
    assert ("", []) == search.run(returned(1, qemu, has_claimed=has_claimed))
    assert search.stuck(arbiter_returns=True) is None


@pytest.mark.parametrize(
    ("rule", "qemu", "wrong"),
    [
        ("renewal", "primary", "the guest of an old node is back"),
        ("swap", "secondary", "gamma lacks writes"),
    ],
)
def test_old_node_that_is_back_is_held_by_rules(rule: str, qemu: str, wrong: str) -> None:
    """A lease that anybody may renew, or a record that anybody may replace, brings it back."""
    rules = attrs.evolve(FULL, **{rule: False})
    assert wrong == Search(rules).run(returned(0, qemu, has_claimed=True))[0]


# -- a second supervisor for one node

DOUBLED: Final = attrs.evolve(NO_FENCE, doubles=True)
_UNLOCKED: Final = attrs.evolve(DOUBLED, lock=False)


def test_second_program_of_a_node_breaks_nothing() -> None:
    """It is refused while the first one runs or is stopped, and continues once that has ended."""
    search = Search(DOUBLED)
    assert ("", []) == search.run(protected(1))
    assert search.stuck() is None
    assert any(s.second is not None and s.second[1].knows is not None for s in search.seen)


# Searched whole: `leases alone` from a protected pair, with 170,713 states (0.6 GB of memory). Of
# the others no whole run is known; `Search.run` fails where one has more states than it may.
@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("deployment", WITHOUT_ONE)
@pytest.mark.parametrize("begin", [protected, alone])
def test_second_program_of_a_node_breaks_nothing_with_two_faults(
    begin: Callable[[int], State], deployment: str
) -> None:
    """The same with any two faults, in every deployment."""
    search = Search(attrs.evolve(WITHOUT_ONE[deployment], doubles=True))
    assert ("", []) == search.run(begin(2))
    assert search.stuck(arbiter_returns=True) is None


def test_second_program_must_be_refused() -> None:
    """It boots a guest that shut down, which only the program with the monitors has seen."""
    wrong, path = Search(_UNLOCKED).run(alone(1))
    assert "alpha is booted though its guest shut down" == wrong
    assert "a second supervisor of alpha is started" in path


def test_second_program_disarms_a_fuse_by_an_old_record() -> None:
    """It was stopped before it disarmed it; the first one has armed it again meanwhile."""
    begin = doubled(0)
    assert ("", []) == Search(NO_FENCE).run(begin._replace(second=None))
    wrong, path = Search(_UNLOCKED).run(begin)
    assert "two guests" == wrong
    assert "the second alpha disarms its fuse" in path


# -- ports that are switched off instead of a fence, which pycolo does not accept

PORTS: Final = attrs.evolve(NO_LEASE, fuse=False, equipped=False, ports=True)


@pytest.mark.nightly
def test_ports_that_stay_off_can_leave_no_guest_that_serves() -> None:
    """Each node has switched off the other one's port; the one that continues has no network."""
    search = Search(PORTS)
    assert ("", []) == search.run(without_fuses(protected(1)))
    stuck = search.stuck()
    assert stuck is not None
    assert all(node.off and node.qemu != "none" for node in stuck.nodes)


def test_port_that_is_given_back_makes_a_second_guest() -> None:
    """Evidence of an earlier claim names the same QEMU, whose port was switched on since."""
    wrong, path = Search(attrs.evolve(PORTS, given_back=True)).run(without_fuses(protected(1)))
    assert "two guests" == wrong
    assert ["port of alpha is switched on"] == [step for step in path if "port" in step]


@pytest.mark.parametrize("cause", ["too early", "by a command that comes late"])
def test_port_that_is_switched_on_makes_a_second_guest(cause: str) -> None:
    """The QEMU behind it still runs; a command of a program that has ended may still act."""
    is_late = cause != "too early"
    begin = without_fuses(protected(1))
    first = begin.nodes[0]._replace(late=is_late)
    search = Search(attrs.evolve(PORTS, kept_off=is_late))
    wrong, path = search.run(begin._replace(nodes=(first, begin.nodes[1])))
    assert "two guests" == wrong
    assert any("port of alpha is switched on" in step for step in path)


@pytest.mark.parametrize("hosts", ["with fuses", "without fuses"])
def test_a_primary_that_has_handed_over_is_waited_for(hosts: str) -> None:
    """It is the primary until it is ended, so that its lease is no evidence without a fuse."""
    equipped = hosts == "with fuses"
    begin = handed_over(1) if equipped else without_fuses(handed_over(1))
    search = Search(attrs.evolve(FULL, fuse=equipped, equipped=equipped))
    assert ("", []) == search.run(begin)
    assert search.stuck(arbiter_returns=True) is None


def test_a_secondary_that_lacks_writes_ends_no_primary() -> None:
    """It claims nothing once it knows, so that no fence ends the only node with every write."""
    search = Search(attrs.evolve(NO_LEASE, sees_both=True))
    assert ("", []) == search.run(protected(1))
    assert search.stuck() is None
    assert ("protected", "lacks-writes") in search.events


@pytest.mark.nightly
@pytest.mark.parametrize("deployment", WITHOUT_ONE)
def test_one_fault_after_a_lost_replication_breaks_nothing(deployment: str) -> None:
    """The primary withdraws the secondary's rights, or claims the pair if that gives no answer."""
    search = Search(WITHOUT_ONE[deployment])
    assert ("", []) == search.run(lacking(1))
    assert search.stuck(arbiter_returns=True) is None


def _unhurried(seen: Observation) -> Observation:
    """As if a primary that withdraws its secondary's rights were in no hurry to get an answer."""
    return attrs.evolve(seen, signals={}) if seen.replication_lost else seen


@pytest.mark.parametrize("deployment", WITHOUT_ONE)
def test_a_secondary_that_lacks_writes_and_gives_no_answer_is_claimed_against(
    deployment: str,
) -> None:
    """Its rights are withdrawn only when it answers or has ended, so that nothing would go on."""
    for decided, is_stuck in ((decide, False), (_changed(_unhurried), True)):
        search = Search(WITHOUT_ONE[deployment], decided)
        assert ("", []) == search.run(unanswered(0))
        assert is_stuck == (search.stuck() is not None)


# -- rules


@pytest.mark.parametrize("rule", ["swap", "fuse", "armed", "proven", "evidence", "renewal"])
def test_no_rule_can_be_left_out(rule: str) -> None:
    """Without it there are two guests, or a write is lost, or the pair is stuck."""
    # A fence does without a lease that runs out.
    rules = NO_FENCE if rule == "renewal" else FULL
    assert _found(attrs.evolve(rules, **{rule: False}))


def _blind(
    node: str,
    shared: SharedRecord,
    own_file: PairRecord | None,
    seen: Observation,
    *,
    limits: Limits,
    now_s: float,
) -> Decision:
    """Believes that its peer has ended as soon as it is suspected."""
    if seen.signals and seen.evidence is None:
        peer = next((n for n in shared.record.eligible if n != node), None)
        if peer is not None:
            instance = shared.record.eligible[peer]
            end = Evidence(
                kind="exit", node=peer, instance=instance, epoch=1, who="-", how="-", when="-"
            )
            seen = attrs.evolve(seen, evidence=end)
    return decide(node, shared, own_file, seen, limits=limits, now_s=now_s)


def _changed(change: Callable[[Observation], Observation], *, left_out: str = "") -> Decide:
    """Decides on something else than what was observed, and leaves an action out."""

    def decided(
        node: str,
        shared: SharedRecord,
        own_file: PairRecord | None,
        seen: Observation,
        *,
        limits: Limits,
        now_s: float,
    ) -> Decision:
        decision = decide(node, shared, own_file, change(seen), limits=limits, now_s=now_s)
        actions = tuple(action for action in decision.actions if action != left_out)
        return attrs.evolve(decision, actions=actions)

    return decided


def _patient(seen: Observation) -> Observation:
    """As if a node left the pair to the other one for as long as its own main loop is silent."""
    return attrs.evolve(seen, silent=seen.silent or seen.stuck_since_s is not None)


def _rash(seen: Observation) -> Observation:
    """As if a node that claims the pair did not see that its own QEMU gives no answer."""
    return attrs.evolve(seen, silent=False, stuck_since_s=None)


@pytest.mark.parametrize("deployment", WITHOUT_ONE)
def test_a_primary_that_waits_for_a_silent_secondary_continues(deployment: str) -> None:
    """If it left the pair to the secondary, the guest would stay paused for ever."""
    assert "beta stops responding" in _found(WITHOUT_ONE[deployment], _changed(_patient))


def test_a_silent_node_claims_nothing() -> None:
    """Its supervisor would end the only QEMU that can continue."""
    # A supervisor of both nodes cuts nothing before a claim.
    assert "alpha stops responding" in _found(NO_LEASE, _changed(_rash, left_out="cut"))


@pytest.mark.nightly
@pytest.mark.parametrize("deployment", WITHOUT_ONE)
def test_a_claim_of_a_node_that_gives_no_answer_ends_nobody(deployment: str) -> None:
    """It leaves the pair to the other node, whose QEMU may be able to continue."""
    search = Search(WITHOUT_ONE[deployment])
    assert ("", []) == search.run(claimed(1))
    assert search.stuck(arbiter_returns=True) is None
    assert ("claiming", "unresponsive") in search.events


def test_a_node_that_gives_no_answer_must_give_its_claim_back() -> None:
    """If it sought evidence as any other node does, it would end the QEMU that can continue."""
    heedless = _with(TABLE["claiming", "unresponsive"], TABLE["claiming", "quiet"].actions)
    wrong, path = Search(decided=heedless).run(claimed(1))
    assert "alpha gives no answer, and ends the QEMU of beta" == wrong
    assert "alpha stops responding" in path


def test_a_lease_that_was_renewed_meanwhile_is_no_evidence() -> None:
    """The swap of `serve` checks that it is absent: what was read of it may be old."""
    rules = attrs.evolve(NO_FENCE, old_leases=True)
    assert ("", []) == Search(rules).run(severed(0))
    assert "two guests" == Search(attrs.evolve(rules, same_lease=False)).run(severed(0))[0]


def _impatient(seen: Observation) -> Observation:
    """As if a lease that ran out were evidence at once, and not only long after the own cut."""
    return attrs.evolve(seen, cut_since_s=0.0)


def test_a_lease_that_ran_out_before_the_own_cut_is_no_evidence() -> None:
    """Checkpoints have renewed the fuse until then, so that the other guest still answers."""
    search = Search(NO_FENCE)
    assert ("", []) == search.run(cut_off(0))
    assert search.stuck(arbiter_returns=True) is None
    assert "two guests" == Search(NO_FENCE, _changed(_impatient)).run(cut_off(0))[0]


def _careless(
    node: str,
    shared: SharedRecord,
    own_file: PairRecord | None,
    seen: Observation,
    *,
    limits: Limits,
    now_s: float,
) -> Decision:
    """Takes evidence about any QEMU of the peer for evidence about the present one."""
    end, named = seen.evidence, shared.record.eligible
    if end is not None and end.node in named:
        found = attrs.evolve(end, instance=named[end.node], epoch=shared.record.epoch)
        seen = attrs.evolve(seen, evidence=found)
    return decide(node, shared, own_file, seen, limits=limits, now_s=now_s)


def test_evidence_about_an_earlier_qemu_is_none() -> None:
    """The primary was booted again since, and its guest answers."""
    assert ("", []) == Search().run(again(1))
    assert "two guests" == Search(decided=_careless).run(again(0))[0]


def _respectful(seen: Observation) -> Observation:
    """As if the other node's claim were always made just now."""
    return attrs.evolve(seen, claim_since_s=None if seen.claim_since_s is None else NOW_S)


@pytest.mark.parametrize("deployment", WITHOUT_ONE)
def test_a_claim_that_leads_to_nothing_must_be_taken_over(deployment: str) -> None:
    """The node that made it is out of reach for ever, and the guest answers nobody."""
    for decided, is_stuck in ((decide, False), (_changed(_respectful), True)):
        search = Search(WITHOUT_ONE[deployment], decided)
        assert ("", []) == search.run(abandoned(0))
        found = search.stuck()
        # Elsewhere an arbiter that is out of reach is waited for.
        assert is_stuck == (found is not None and search.path(found) == [])


def test_a_suspicion_is_no_evidence() -> None:
    """Whoever serves on a suspicion alone makes two guests."""
    assert "two guests" in _found(attrs.evolve(FULL, same_lease=False), _blind)


# -- rows

_CANNOT: Final = "cannot happen: who is outdated is following, or stopped"
_ALIVE: Final = "cannot happen: who is serving has its QEMU, which ends with its guest"
_TOLD: Final = "only tells a person, which changes nothing"
SAFE_WITHOUT: Final[Mapping[tuple[Standing, Event], str]] = {
    **{(state, "outdated"): _CANNOT for state in ("alone", "joining", "protected", "claiming")},
    ("serving", "outdated"): _CANNOT,
    ("serving", "shutdown"): _ALIVE,
    ("serving", "both-ended"): _ALIVE,
    **{
        (state, "undecidable"): _TOLD
        for state in ("alone", "joining", "protected", "claiming", "serving", "following")
    },
    **{
        (state, "no-arbiter"): _TOLD
        for state in ("alone", "joining", "protected", "claiming", "following", "stopped")
    },
    ("stopped", "undecidable"): _TOLD,
    ("alone", "disk-failed"): _TOLD,
    ("joining", "disk-failed"): _TOLD,
    ("protected", "unresponsive"): _TOLD,
    ("protected", "claimed"): _TOLD,
    ("protected", "lacks-writes"): _TOLD,
    ("protected", "halted"): "only sooner: here every host comes back",
    ("claiming", "disk-failed"): "only sooner: the peer narrows, or takes the claim over",
    ("protected", "suspicion"): "asks whether the peer answers, which only saves redundancy",
    ("protected", "quiet"): "keeps what is declared; the search has no drift",
    ("following", "both-ended"): "only sooner: the holder's supervisor asks the host by itself",
}


def _key(row: Row) -> tuple[Standing, Event]:
    return row.state, row.events[0]


def _with(row: Row, actions: tuple[Action, ...]) -> Decide:
    def change(decision: Decision) -> Decision:
        if TABLE[decision.state, decision.event] is not row:
            return decision
        return attrs.evolve(decision, actions=actions)

    return _changing(change)


def _changing(change: Callable[[Decision], Decision]) -> Decide:
    """The table, each decision of which is changed before it is followed."""

    def weakened(
        node: str,
        shared: SharedRecord,
        own_file: PairRecord | None,
        seen: Observation,
        *,
        limits: Limits,
        now_s: float,
    ) -> Decision:
        return change(decide(node, shared, own_file, seen, limits=limits, now_s=now_s))

    return weakened


ACTING: Final = {_key(row): row for row in ROWS if row.actions}
# What only shows where there is no lease, or no fence, to do the same.
_SHOWN_BY: Final[Mapping[tuple[Standing, Event], Rules]] = {
    ("claiming", "peer-shutdown"): NO_LEASE,
}
# What only shows where a secondary's supervisor sees what has become of its primary.
_SEEN_BY_BOTH: Final[frozenset[tuple[Standing, Event]]] = frozenset({("stopped", "lacks-writes")})
# What only a second fault shows.
_SECOND_FAULT: Final[frozenset[tuple[Standing, Event]]] = frozenset(
    {
        ("claiming", "shutdown"),
        ("claiming", "both-ended"),
        ("claiming", "unresponsive"),
        ("stopped", "outdated"),
    }
)


ONE_FAULT = [key for key in ACTING if key not in {*SAFE_WITHOUT, *_SECOND_FAULT, *_SEEN_BY_BOTH}]


@pytest.mark.parametrize("key", ONE_FAULT)
def test_no_row_can_be_left_out(key: tuple[Standing, Event]) -> None:
    """Without it something goes wrong at the first fault."""
    row = ACTING[key]
    assert _found(_SHOWN_BY.get(key, FULL), _with(row, ()))


@pytest.mark.parametrize("key", sorted(_SEEN_BY_BOTH))
def test_no_row_can_be_left_out_while_both_guests_shut_down(key: tuple[Standing, Event]) -> None:
    """The secondary's runs on by itself after the primary's has shut down, until it is ended."""
    rules = attrs.evolve(FULL, sees_both=True)
    for decided, is_stuck in ((decide, False), (_with(TABLE[key], ()), True)):
        search = Search(rules, decided)
        assert ("", []) == search.run(shut_down(0))
        assert is_stuck == (search.stuck() is not None)
        assert key in search.events


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("key", sorted(_SECOND_FAULT))
def test_no_row_can_be_left_out_with_two_faults(key: tuple[Standing, Event]) -> None:
    """These rows answer a second fault."""
    assert _found(decided=_with(TABLE[key], ()), faults=2)


@pytest.mark.nightly
@pytest.mark.parametrize("key", sorted(SAFE_WITHOUT))
def test_the_named_rows_can_be_left_out(key: tuple[Standing, Event]) -> None:
    """What is called safe without is safe without."""
    assert _found(decided=_with(TABLE[key], ())) == ""


def _reversed(*, cuts_first: bool) -> Decide:
    def change(decision: Decision) -> Decision:
        actions = decision.actions[::-1]
        if cuts_first:
            actions = tuple(sorted(actions, key=lambda action: action != "cut"))
        return attrs.evolve(decision, actions=actions)

    return _changing(change)


def test_a_cut_comes_before_what_can_fail() -> None:
    """A lease is evidence only after a cut: one that waits for other evidence is never made."""
    assert "stuck" in _found(NO_FENCE, _reversed(cuts_first=False))


@pytest.mark.parametrize(
    ("deployment", "cuts_first"), [("fences alone", False), ("leases alone", True)]
)
def test_no_other_order_of_actions_matters(deployment: str, *, cuts_first: bool) -> None:
    """Whatever changes the record needs evidence, or rights, and is decided upon anew."""
    assert any(len(row.actions) > 1 for row in ROWS)
    assert _found(WITHOUT_ONE[deployment], _reversed(cuts_first=cuts_first)) == ""


def test_what_is_named_stands_in_the_table() -> None:
    """Every named row acts, and is named once."""
    assert set() == {*SAFE_WITHOUT, *_SHOWN_BY, *_SECOND_FAULT, *_SEEN_BY_BOTH} - set(ACTING)
    assert set() == set(SAFE_WITHOUT) & (_SECOND_FAULT | _SEEN_BY_BOTH)

"""No action of the table can be exchanged for another one, nor left out beside others.

Each case begins where the row is needed, so that a search of a few states shows what goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, get_args

import attrs
import pytest
from tests.supervise.search import (
    FULL,
    Rules,
    Search,
    State,
    after,
    alone,
    claimed,
    claimed_and_shut_down,
    handed_over,
    joining,
    lacking,
    promoted,
    protected,
    shut_down,
    stopped_and_handed_over,
)

from pycolo.supervise import TABLE, Action, Decision, decide
from pycolo.supervise.table import ROWS, Event, Row
from pycolo.supervise.table import State as Standing

pytestmark = pytest.mark.property

FENCES: Final = attrs.evolve(FULL, self_fence=False)
LEASES: Final = attrs.evolve(FULL, fences=False)
SEEN_BY_BOTH: Final = attrs.evolve(FULL, sees_both=True)


class Exchange(NamedTuple):
    """Other actions for a row, and where they show what they do."""

    state: Standing
    event: Event
    actions: str
    begin: Callable[[int], State]
    faults: tuple[str, ...] = ()
    rules: Rules = FULL

    @property
    def row(self) -> Row:
        """The row of the table."""
        return TABLE[self.state, self.event]

    @property
    def instead(self) -> tuple[Action, ...]:
        """The actions instead of those of the row."""
        known: dict[str, Action] = {name: name for name in get_args(Action)}
        return tuple(known[name] for name in self.actions.split())

    def search(self) -> tuple[str, bool]:
        """What goes wrong; and whether the pair can get stuck."""

        def decided(*known: object, **at: object) -> Decision:
            found: Decision = decide(*known, **at)  # type: ignore[arg-type] # passed on as it is
            is_here = TABLE[found.state, found.event] is self.row
            return attrs.evolve(found, actions=self.instead) if is_here else found

        search = Search(self.rules, decided)
        wrong, _ = search.run(after(self.begin, *self.faults))
        return wrong, not wrong and search.stuck() is not None


_LINK: Final = ("link cut",)
_ALPHA, _BETA = ("alpha is killed",), ("beta is killed",)
_LOST: Final = ("replication lost",)
_DISK: Final = ("disk of the primary fails",)
_OFF: Final = ("guest shuts down",)
_BOTH: Final = ("both hosts restart",)

WRONG: Final = (
    Exchange("alone", "shutdown", "boot", alone, ("guest on alpha shuts down",)),
    Exchange("alone", "shutdown", "reconcile", alone, ("guest on alpha shuts down",)),
    Exchange("alone", "own-ended", "reconcile", alone, _ALPHA),
    Exchange("alone", "own-ended", "stop", alone, _ALPHA),
    Exchange("alone", "quiet", "boot", promoted),
    Exchange("alone", "quiet", "end-own", alone, ("arbiter cut off alpha",)),
    Exchange("joining", "shutdown", "boot", joining, ("guest on alpha shuts down",)),
    Exchange("joining", "own-ended", "reconcile", joining, _ALPHA),
    Exchange("joining", "own-ended", "stop", joining, _ALPHA),
    Exchange("joining", "limit", "fail-over", joining, _BETA),
    Exchange("joining", "quiet", "fail-over", joining),
    Exchange("joining", "quiet", "narrow", joining),
    Exchange("protected", "shutdown", "boot", protected, _OFF),
    Exchange("protected", "shutdown", "reconcile", protected, _OFF),
    Exchange("protected", "shutdown", "give-back", protected, _OFF),
    Exchange("protected", "both-ended", "say-exit tell", protected, _BOTH),
    Exchange("protected", "both-ended", "stop", protected, _BOTH),
    Exchange("protected", "own-ended", "tell", protected, _BOTH),
    Exchange("protected", "own-ended", "boot", protected, _BETA),
    Exchange("protected", "own-ended", "stop", protected, _BETA),
    Exchange("protected", "peer-ended", "fail-over", protected, _BETA),
    Exchange("protected", "limit", "cut", protected, _LINK, LEASES),
    Exchange("protected", "limit", "cut serve", protected, _LINK, LEASES),
    Exchange("protected", "limit", "cut fail-over", protected, _LINK, LEASES),
    Exchange("protected", "limit", "cut narrow", protected, _LOST, LEASES),
    Exchange("protected", "limit", "cut seek-evidence", protected, _LINK, FENCES),
    Exchange("protected", "limit", "hand-over", protected, _LINK, LEASES),
    Exchange("protected", "replication-lost", "cut", lacking, (), SEEN_BY_BOTH),
    Exchange("protected", "replication-lost", "cut hand-over", lacking, (), SEEN_BY_BOTH),
    Exchange("protected", "replication-lost", "cut serve", lacking, (), SEEN_BY_BOTH),
    Exchange("protected", "replication-lost", "cut fail-over", lacking, (), SEEN_BY_BOTH),
    Exchange("protected", "replication-lost", "cut seek-evidence", lacking, (), FENCES),
    Exchange("protected", "replication-lost", "end-own", lacking, (), SEEN_BY_BOTH),
    Exchange("protected", "disk-failed", "tell", protected, _DISK, FENCES),
    Exchange("protected", "disk-failed", "tell serve", protected, _DISK, FENCES),
    Exchange("protected", "disk-failed", "tell claim", protected, _DISK, FENCES),
    Exchange("protected", "disk-failed", "tell narrow", protected, _DISK, FENCES),
    Exchange("protected", "disk-failed", "fail-over", protected, _DISK, FENCES),
    Exchange("claiming", "shutdown", "boot", claimed_and_shut_down),
    Exchange("claiming", "both-ended", "tell cut seek-evidence", claimed, _BOTH),
    Exchange(
        "claiming", "unresponsive", "tell cut seek-evidence", claimed, ("alpha stops responding",)
    ),
    Exchange("claiming", "peer-ended", "fail-over", protected, _LINK, LEASES),
    Exchange("claiming", "peer-ended", "narrow", protected, _LINK, LEASES),
    Exchange("claiming", "peer-ended", "give-back", protected, _LINK, LEASES),
    Exchange("claiming", "quiet", "tell cut", claimed, (), FENCES),
    Exchange("claiming", "quiet", "fail-over", claimed, (), FENCES),
    Exchange("claiming", "quiet", "narrow", claimed, (), FENCES),
    Exchange("claiming", "quiet", "give-back", claimed, (), FENCES),
    Exchange("serving", "quiet", "reconcile", protected, _BETA),
    Exchange("serving", "quiet", "boot", protected, _ALPHA),
    Exchange("following", "outdated", "tell", handed_over),
    Exchange("following", "outdated", "tell fail-over", handed_over),
    Exchange("following", "own-ended", "boot", handed_over, _ALPHA),
    Exchange("stopped", "shutdown", "stop", shut_down),
    Exchange("stopped", "outdated", "tell", stopped_and_handed_over),
)
_LATER: Final = "the next decision does what is left out"
_ENDS: Final = "either action ends it, `reconcile` only after a failover"
SAFE: Final = {
    Exchange("protected", "peer-ended", "serve", protected, _BETA): "it is one swap with the claim",
    Exchange("protected", "peer-ended", "claim", protected, _BETA): _LATER,
    Exchange("protected", "both-ended", "serve", protected, _BOTH): _LATER,
    Exchange("protected", "limit", "claim", protected, _LINK, LEASES): _LATER,
    Exchange("protected", "replication-lost", "narrow", lacking): (
        "the plan cuts as well; the search counts no write that is acknowledged before"
    ),
    Exchange("protected", "replication-lost", "cut claim", lacking): (
        "the secondary is ended, with evidence"
    ),
    Exchange(
        "protected", "unresponsive", "cut claim", protected, ("alpha stops responding",), LEASES
    ): "a QEMU that gives no answer cannot be cut, and the claim is left out",
    Exchange("protected", "claimed", "cut claim", protected, _LINK, LEASES): (
        "whoever has the claim serves, and only with evidence"
    ),
    Exchange("claiming", "quiet", "tell seek-evidence", protected, _LINK, LEASES): (
        "it was cut before the claim"
    ),
    Exchange("claiming", "quiet", "serve", protected, _LINK, LEASES): (
        "the swap demands evidence, and waits for the lease"
    ),
    Exchange("claiming", "shutdown", "stop", claimed_and_shut_down): (
        "the same swap withdraws the claim"
    ),
    Exchange("claiming", "shutdown", "give-back", claimed_and_shut_down): _LATER,
    Exchange("stopped", "lacks-writes", "end-own", shut_down, (), SEEN_BY_BOTH): _ENDS,
    Exchange("stopped", "lacks-writes", "reconcile", shut_down, (), SEEN_BY_BOTH): _ENDS,
}
# Whoever is outdated is in one of these states.
_OUTDATED: Final = ("following", "stopped")
# These tell or ask somebody: in the search they change nothing.
_SAYS: Final[frozenset[Action]] = frozenset({"tell", "ask"})


def _name(case: Exchange) -> str:
    return f"{case.state}/{case.event}-{'+'.join(case.instead)}"


@pytest.mark.parametrize("case", WRONG, ids=_name)
def test_no_action_can_be_exchanged(case: Exchange) -> None:
    """With other actions than its own, the row leads to a fault, or to where no way leads on."""
    wrong, is_stuck = case.search()
    assert wrong or is_stuck


@pytest.mark.parametrize("case", SAFE, ids=_name)
def test_the_named_exchanges_are_safe(case: Exchange) -> None:
    """For the reason that is given."""
    assert case.search() == ("", False)


def test_every_begin_is_safe_with_the_table_as_it_is() -> None:
    """So it is the exchange that shows."""
    for case in dict.fromkeys((one.begin, one.faults, one.rules) for one in WRONG):
        begin, faults, rules = case
        table = Exchange("alone", "quiet", "reconcile", begin, faults, rules)
        assert table.search() == ("", False)


def test_each_of_several_actions_is_left_out_once() -> None:
    """Each action but those that only tell or ask, in each row that can be reached."""
    tried = {(case.row, case.instead) for case in (*WRONG, *SAFE)}
    for row in ROWS:
        if len(row.actions) == 1 or ("outdated" in row.events and row.state not in _OUTDATED):
            continue
        for left in set(row.actions) - _SAYS:
            rest = tuple(action for action in row.actions if action != left)
            assert (row, rest) in tried, (row.state, row.events, rest)

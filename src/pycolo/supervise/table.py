"""What a node's supervisor does: for each state of the pair and each event, what follows.

A state follows from the record and the node's own QEMU alone, so that a supervisor that was started
a moment ago finds the right one. The table is total: it has a row even for an event that changes
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, final, get_args

import attrs

State: TypeAlias = Literal[
    "alone", "joining", "protected", "claiming", "serving", "following", "stopped"
]
"""The state of a node in its pair, by the record and the node's own QEMU:

`alone`: the node is the holder, and runs the guest alone, or is to. `joining`: the same, and a
secondary joins. `protected`: the node may run alone, and so may its peer. `claiming`: the node has
claimed the pair and searches for evidence about its peer. `serving`: the record lets this node
alone run, and its QEMU still has to leave COLO. `following`: the node has no rights. `stopped`: no
guest is wanted.
"""

Phase: TypeAlias = Literal[State, "suspect", "waiting", "person"]
"""A state, or one of three more words for a node after a decision:

`suspect`: the peer may have ended. `waiting`: evidence or the arbiter is missing. `person`: nothing
is safe before a person has decided.
"""

Event: TypeAlias = Literal[
    "undecidable",
    "outdated",
    "no-arbiter",
    "shutdown",
    "both-ended",
    "own-ended",
    "peer-ended",
    "unresponsive",
    "lease-gone",
    "peer-shutdown",
    "replication-lost",
    "disk-failed",
    "lacks-writes",
    "halted",
    "claimed",
    "limit",
    "suspicion",
    "quiet",
]
"""What a node's supervisor reacts to, the gravest event first.

`undecidable`: the record and the node's own file or QEMU exclude each other, or the node that is
left lacks writes, or the image of this node does. `outdated`: this node has a guest, and the record
gives its QEMU no right to it. `no-arbiter`: something has to be done, and the record is out of
reach. `shutdown`: the guest shut down. `both-ended`, `own-ended`, `peer-ended`: there is evidence
that these QEMUs have ended; `both-ended` only for the holder. `unresponsive`: this node claims the
pair, or would do so now, and its own QEMU gives no answer. `lease-gone`: the peer's lease ran out,
long enough after this node cut its side of COLO. `peer-shutdown`: the secondary's guest alone shut
down. `replication-lost`: the secondary no longer gets the writes. Neither is the event any more
once that secondary has given no answer for this node's limit: this is `limit`. `disk-failed`: this
primary's own disk failed. `lacks-writes`: this secondary no longer gets the writes, so that its
primary has to continue; or no guest is wanted, and the primary's has shut down before this one's.
`halted`: the other node's claim has led to nothing and that node's lease ran out, while the QEMU of
this primary gives no answer: its fuse has stopped it, since the claim kept its lease from being
renewed. `claimed`: the other node claims the pair. `limit`: a suspicion has lasted for its limit.
`suspicion`: there is one. `quiet`: none of these.
"""

Action: TypeAlias = Literal[
    "tell",
    "ask",
    "cut",
    "claim",
    "seek-evidence",
    "serve",
    "fail-over",
    "narrow",
    "hand-over",
    "give-back",
    "end-own",
    "boot",
    "reconcile",
    "stop",
    "say-exit",
]
"""What is to be done, in the order given, each of them safe to repeat.

`tell`: tell a person. `ask`: force a checkpoint. `cut`: yank the own side of COLO, so that no
checkpoint can end any more. `claim`: write the claim. `seek-evidence`: ask the peer's host, then
the fences in their order. `serve`: write that this node alone may run, with the evidence.
`fail-over`: execute the failover plan. `narrow`: write that the peer may not run alone.
`hand-over`: write, after a proven checkpoint, that the peer is the holder and that it alone may
run, once the QEMU of this node has ended. `give-back`: withdraw the claim. `end-own`: kill the own
QEMU. `boot`: launch the holder. `reconcile`: do what `next_step` says. `stop`: write that no guest
is wanted. `say-exit`: tell the peer's supervisor that the own QEMU has ended.
"""

STATES: Final[tuple[State, ...]] = get_args(State)
EVENTS: Final[tuple[Event, ...]] = get_args(Event)


@final
@attrs.frozen
class Row:
    """The actions and the phase to which some events lead in one state."""

    state: State
    events: tuple[Event, ...]
    actions: tuple[Action, ...]
    phase: Phase
    "The phase of the node afterwards, if every action succeeds."


def _row(state: State, events: str, actions: str, phase: Phase) -> Row:
    known = {name: name for name in get_args(Action)}
    return Row(
        state,
        tuple(event for event in EVENTS if event in events.split()),
        tuple(known[name] for name in actions.split()),
        phase,
    )


_PEER = "peer-ended lease-gone peer-shutdown replication-lost"

ROWS: Final[tuple[Row, ...]] = (
    # The node runs the guest alone, or is to: what happens to its peer changes nothing.
    _row("alone", "undecidable", "tell", "person"),
    _row("alone", "outdated", "tell end-own", "following"),
    _row("alone", "no-arbiter", "tell", "waiting"),
    _row("alone", "shutdown", "stop", "stopped"),
    _row("alone", "both-ended own-ended", "boot", "alone"),
    _row("alone", "disk-failed", "tell", "alone"),
    _row(
        "alone",
        f"{_PEER} unresponsive lacks-writes halted claimed limit suspicion quiet",
        "reconcile",
        "alone",
    ),
    # The secondary is not eligible yet, so that what happens to it needs no evidence.
    _row("joining", "undecidable", "tell", "person"),
    _row("joining", "outdated", "tell end-own", "following"),
    _row("joining", "no-arbiter", "tell", "waiting"),
    _row("joining", "shutdown", "stop", "stopped"),
    _row("joining", "both-ended own-ended", "boot", "alone"),
    _row("joining", "disk-failed", "tell", "joining"),
    _row("joining", f"{_PEER} limit", "reconcile", "alone"),
    _row(
        "joining",
        "unresponsive lacks-writes halted claimed suspicion quiet",
        "reconcile",
        "joining",
    ),
    # Both nodes may run alone: the first one to change the record does, and only with evidence.
    _row("protected", "undecidable", "tell", "person"),
    _row("protected", "outdated", "tell end-own", "following"),
    _row("protected", "no-arbiter", "tell", "waiting"),
    _row("protected", "shutdown", "stop", "stopped"),
    _row("protected", "both-ended", "boot", "alone"),
    _row("protected", "own-ended", "say-exit tell", "waiting"),
    _row("protected", "peer-ended", "claim serve", "serving"),
    _row("protected", "lease-gone limit", "cut claim", "claiming"),
    _row("protected", "peer-shutdown replication-lost", "cut narrow", "serving"),
    _row("protected", "disk-failed", "tell hand-over", "following"),
    _row("protected", "lacks-writes", "tell", "waiting"),
    # A QEMU that is stopped cannot be cut. With its node's claim the fuse is renewed, which
    # continues it.
    _row("protected", "halted", "claim", "claiming"),
    # The other node may be able to continue, and if not, nobody can.
    _row("protected", "unresponsive", "ask tell", "waiting"),
    _row("protected", "claimed", "tell", "suspect"),
    _row("protected", "suspicion", "ask", "suspect"),
    _row("protected", "quiet", "reconcile", "protected"),
    # While this node claims the pair, the other one continues only if it takes the claim over.
    _row("claiming", "undecidable", "tell", "person"),
    _row("claiming", "outdated", "tell end-own", "following"),
    _row("claiming", "no-arbiter", "tell", "waiting"),
    _row("claiming", "shutdown", "give-back stop", "stopped"),
    _row("claiming", "both-ended own-ended", "give-back", "protected"),
    # The node's peer has every write: a fence would end the only node that can continue.
    _row("claiming", "disk-failed lacks-writes", "give-back", "protected"),
    # A fence would end the only QEMU that may be able to continue. A fuse that has stopped this
    # QEMU is renewed without a claim as well.
    _row("claiming", "unresponsive", "give-back", "protected"),
    _row("claiming", "peer-ended lease-gone", "serve", "serving"),
    _row(
        "claiming",
        "peer-shutdown replication-lost halted claimed limit suspicion quiet",
        "tell cut seek-evidence",
        "waiting",
    ),
    # The record lets this node alone run, so that nothing prevents its failover.
    _row("serving", "undecidable", "tell", "person"),
    _row("serving", "outdated", "tell end-own", "following"),
    _row("serving", "shutdown", "stop", "stopped"),
    _row("serving", "both-ended own-ended", "boot", "alone"),
    _row(
        "serving",
        f"no-arbiter {_PEER} unresponsive disk-failed lacks-writes halted claimed limit suspicion"
        " quiet",
        "fail-over",
        "alone",
    ),
    # The node has no rights: the holder's supervisor launches and ends its QEMU.
    _row("following", "undecidable", "tell", "person"),
    _row("following", "outdated", "tell end-own", "following"),
    _row("following", "no-arbiter", "tell", "following"),
    _row("following", "own-ended both-ended", "say-exit", "following"),
    _row("following", f"shutdown {_PEER} disk-failed", "", "following"),
    _row(
        "following",
        "unresponsive lacks-writes halted claimed limit suspicion quiet",
        "",
        "following",
    ),
    # No guest is wanted: a QEMU that still runs is ended.
    _row("stopped", "undecidable", "tell", "person"),
    _row("stopped", "outdated", "tell end-own", "following"),
    _row("stopped", "no-arbiter", "tell", "stopped"),
    _row(
        "stopped",
        f"shutdown both-ended own-ended {_PEER} unresponsive disk-failed halted claimed limit"
        " suspicion quiet",
        "reconcile",
        "stopped",
    ),
    # Else the pair would fail over to this secondary, and end it only then.
    _row("stopped", "lacks-writes", "end-own reconcile", "stopped"),
)
"""The table as it is written: each combination of state and event is in exactly one row."""

TABLE: Final[Mapping[tuple[State, Event], Row]] = MappingProxyType(
    {(row.state, event): row for row in ROWS for event in row.events}
)
"""The row of every state and event."""

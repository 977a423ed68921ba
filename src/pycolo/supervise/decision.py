"""What a node's supervisor does next: a pure function of what it knows.

The function keeps nothing from one decision to the next, so that a supervisor can be killed at any
moment and started again.
"""

from __future__ import annotations

from typing import Final, final

import attrs

from pycolo.record import PairRecord
from pycolo.supervise.observation import SIGNALS, Limits, Observation, Signal
from pycolo.supervise.shared import SharedRecord
from pycolo.supervise.table import TABLE, Action, Event, Phase, State

# The only actions for a pair whose supervision is paused.
_WHILE_PAUSED: Final[frozenset[Action]] = frozenset({"tell", "say-exit"})
_GUEST: Final = frozenset({"colo", "alone"})
_NO_ANSWER: Final[frozenset[Signal]] = frozenset({"hung-up", "silent", "stuck"})
"The signals that the node's own cut does not cause."


@final
@attrs.frozen(kw_only=True)
class Decision:
    """What a node's supervisor has to do."""

    state: State
    "The state of the node, by the record and its own QEMU."
    event: Event
    "The gravest event at that moment."
    actions: tuple[Action, ...]
    "What to do, in this order; if one action fails, those after it are left out."
    phase: Phase
    "The phase of the node afterwards, if every action succeeds."


def decide(
    node: str,
    shared: SharedRecord,
    own_file: PairRecord | None,
    observation: Observation,
    *,
    limits: Limits,
    now_s: float,
) -> Decision:
    """Decide what the supervisor of a node has to do now.

    Ask again after each action that changed something, whenever an event comes, and at least every
    quarter of the shortest limit. A decision is made on the record as it was last read: `claim`,
    `serve`, `narrow`, `hand-over`, `give-back`, `boot` and `stop` are compare-and-swaps on that
    very record. Read the record again after one that found another record, or got no answer.

    Args:
        node: The node.
        shared: The record as it was last read; after a QEMU was launched on the node, or a
            session to it was opened, it must be read again first.
        own_file: The record in the node's own file, read before `shared` was; None if there is
            none, or it cannot be read.
        observation: What is known at `now_s`.
        limits: The limits that hold for the pair.
        now_s: Now, in seconds, by the clock of the observation.
    """
    state = state_of(node, shared, observation)
    event = event_of(node, shared, own_file, observation, limits=limits, now_s=now_s)
    row = TABLE[state, event]
    if shared.paused is not None or shared.released is not None:
        left = tuple(action for action in row.actions if action in _WHILE_PAUSED)
        if "tell" not in left and event != "quiet" and left != row.actions:
            # A person paused the pair, and must learn what is not done meanwhile.
            left = ("tell", *left)
        return Decision(state=state, event=event, actions=left, phase=state)
    return Decision(state=state, event=event, actions=row.actions, phase=row.phase)


def state_of(node: str, shared: SharedRecord, observation: Observation) -> State:
    """The state of a node, by the record and its own QEMU."""
    record = shared.record
    if shared.want == "stopped":
        return "stopped"
    if not _has_rights(node, record, observation):
        return "following"
    if shared.claimed_by == node and record.phase == "protected":
        # In every other phase one node alone may run alone, and nothing is left to claim.
        return "claiming"
    if record.phase != "alone":
        return record.phase
    return "serving" if observation.qemu == "colo" else "alone"


def event_of(
    node: str,
    shared: SharedRecord,
    own_file: PairRecord | None,
    observation: Observation,
    *,
    limits: Limits,
    now_s: float,
) -> Event:
    """The gravest event for a node's supervisor; arguments as those of `decide`."""
    seen, record = observation, shared.record
    # While both may run alone, the holder is COLO's primary.
    holds = record.holder == node
    pending = _pending(seen, limits, now_s, holds=holds)
    if pending in ("claimed", "limit") and holds and _is_halted(node, shared, seen, limits, now_s):
        pending = "halted"
    if _excludes(node, shared, own_file, seen):
        return "undecidable"
    if _is_outdated(node, record, seen):
        return "outdated"
    ended, peer_ended = seen.qemu == "none", _peer_ended(node, record, seen)
    if seen.arbiter_lost and (pending != "quiet" or ended or peer_ended):
        return "no-arbiter"
    if seen.shutdown and holds:
        return "shutdown"
    if ended:
        return "both-ended" if peer_ended and holds else "own-ended"
    if not holds and _is_behind(shared, seen, peer_ended=peer_ended):
        return "lacks-writes"
    if peer_ended:
        return "peer-ended"
    if pending != "halted" and _lease_gone(node, shared, seen, limits, now_s):
        pending = "lease-gone"
    return (
        pending
        if record.phase != "protected"
        else _unless_unfit(pending, seen, limits, now_s, has_claimed=shared.claimed_by == node)
    )


def suspicion_s(observation: Observation, limits: Limits, now_s: float) -> float | None:
    """How long the oldest suspicion has lasted, in seconds; None if there is none.

    A signal becomes a suspicion once it has lasted for `Limits.stands_s`.
    """
    return _stood_s(observation, limits, now_s, frozenset(SIGNALS))


def _stood_s(
    seen: Observation, limits: Limits, now_s: float, among: frozenset[Signal]
) -> float | None:
    """How long the oldest suspicion by some of the signals has lasted, in seconds."""
    signals = [(signal, at_s) for signal, at_s in seen.signals.items() if signal in among]
    since = [at_s + limits.stands_s(signal) for signal, at_s in signals]
    stood_s = [now_s - at_s for at_s in since if at_s <= now_s]
    return max(stood_s, default=None)


def _pending(seen: Observation, limits: Limits, now_s: float, *, holds: bool) -> Event:
    """The gravest event apart from the end of a QEMU and of a lease; `holds`: for the holder."""
    may_claim = _may_claim(seen, limits, now_s)
    acts_s = limits.acts_s(holds=holds)
    if holds and (seen.peer_shutdown or seen.replication_lost):
        # The peer's rights are withdrawn while that one answers, or once it has ended. One that
        # gives no answer must be claimed against, or nobody would ever end it.
        unanswered_s = _stood_s(seen, limits, now_s, _NO_ANSWER)
        if may_claim and unanswered_s is not None and unanswered_s >= acts_s:
            return "limit"
        return "peer-shutdown" if seen.peer_shutdown else "replication-lost"
    if holds and seen.disk_failed:
        return "disk-failed"
    if not holds and seen.replication_lost:
        return "lacks-writes"
    stood_s = suspicion_s(seen, limits, now_s)
    is_due = stood_s is not None and stood_s >= acts_s
    if seen.claim_since_s is not None:
        return "limit" if is_due and may_claim else "claimed"
    if stood_s is None:
        return "quiet"
    return "limit" if is_due else "suspicion"


def _may_claim(seen: Observation, limits: Limits, now_s: float) -> bool:
    """Whether the other node has no claim, or one that has led to nothing for `retake_s`."""
    return seen.claim_since_s is None or now_s - seen.claim_since_s >= limits.declared.retake_s


def _unless_unfit(
    pending: Event, seen: Observation, limits: Limits, now_s: float, *, has_claimed: bool
) -> Event:
    """The event, or another one if this node leaves the pair to the other one for now."""
    if not has_claimed and pending not in ("limit", "lease-gone"):
        return pending
    if seen.silent:
        return "unresponsive"
    return "suspicion" if not has_claimed and _yields(seen, limits, now_s) else pending


def _yields(seen: Observation, limits: Limits, now_s: float) -> bool:
    """Whether this node lets the other one claim the pair, since its own main loop is silent.

    That may wait for the other QEMU, inside a checkpoint (qemu-behaviour 7.3), or for a disk of its
    own. The node acts itself if the other QEMU does not answer out of band either, or if the other
    node would have claimed the pair by now, and has not.
    """
    if seen.stuck_since_s is None:
        return False
    silent_s = now_s - seen.signals.get("silent", now_s)
    return silent_s < limits.stands_s("silent") and now_s - seen.stuck_since_s < limits.yields_s


def _has_rights(node: str, record: PairRecord, seen: Observation) -> bool:
    """Whether the record lets the node run alone and, if it runs a QEMU, names that QEMU."""
    named = record.eligible.get(node)
    return named is not None and (seen.qemu == "none" or named == seen.instance)


def _is_outdated(node: str, record: PairRecord, seen: Observation) -> bool:
    """Whether the node's QEMU has a guest, and the record gives that QEMU no right to it."""
    joins = record.joining == seen.instance
    return seen.qemu in _GUEST and not joins and not _has_rights(node, record, seen)


def _excludes(
    node: str, shared: SharedRecord, own_file: PairRecord | None, seen: Observation
) -> bool:
    """Whether a person must decide: the record excludes file or QEMU, or writes are missing."""
    record = shared.record
    if own_file is not None and (own_file.birth, own_file.pair) != (record.birth, record.pair):
        return True
    if own_file is not None and own_file.epoch > record.epoch:
        # The record is older than this node's file: the arbiter was restored from a backup.
        return True
    if not _has_rights(node, record, seen):
        return False
    is_off = shared.want == "stopped" or seen.shutdown
    if record.commit == "pending" and seen.qemu == "none" and not is_off:
        # The image of a promoted node lacks the writes that are still in its overlays.
        return True
    if record.phase != "protected":
        return False
    # A node that lacks writes cannot continue without its peer: it must hand over to that.
    peer_lost = _peer_ended(node, record, seen) or seen.peer_shutdown
    peer_lost = peer_lost or (seen.disk_failed and seen.replication_lost)
    lacks = _lacks_writes(node, record, seen) and not _is_over(node, shared, seen)
    return seen.qemu == "alone" or (peer_lost and lacks)


def _is_over(node: str, shared: SharedRecord, seen: Observation) -> bool:
    """Whether a secondary has ended, or is to end, while its holder has every write.

    Nobody has to decide then: the holder is booted once a guest is wanted again.
    """
    if shared.record.holder == node:
        return False
    ends = shared.want == "stopped" or seen.shutdown or seen.peer_shutdown
    return seen.qemu == "none" or (ends and not seen.disk_failed)


def _is_behind(shared: SharedRecord, seen: Observation, *, peer_ended: bool) -> bool:
    """Whether the primary of this secondary has ended, or its guest has, with more writes."""
    if seen.disk_failed:
        return False
    is_left = seen.peer_shutdown and shared.want == "stopped"
    return is_left or (peer_ended and seen.replication_lost)


def _peer_ended(node: str, record: PairRecord, seen: Observation) -> bool:
    """Whether there is evidence about the very QEMU that this node would have to wait for."""
    if seen.evidence is None:
        return False
    others = [named for other, named in record.eligible.items() if other != node]
    if not others:
        # The record names no QEMU of the peer as eligible: the peer has handed over, or joins.
        return seen.evidence.node != node and seen.evidence.epoch == record.epoch
    return seen.evidence.instance in others


def _lacks_writes(node: str, record: PairRecord, seen: Observation) -> bool:
    """Whether this node lacks acknowledged writes, which its peer has."""
    return seen.disk_failed if record.holder == node else seen.replication_lost


def _is_halted(
    node: str, shared: SharedRecord, seen: Observation, limits: Limits, now_s: float
) -> bool:
    """Whether the fuse has stopped this primary because of a claim that has led to nothing.

    The claim is older than `retake_s`, and the lease of the node that made it has run out.
    """
    if seen.claim_since_s is None or not seen.silent or not seen.lease_gone:
        return False
    return _may_claim(seen, limits, now_s) and node in shared.fuses


def _lease_gone(
    node: str, shared: SharedRecord, seen: Observation, limits: Limits, now_s: float
) -> bool:
    """Whether the peer's lease has run out, and its guest serves no client any more.

    A checkpoint renews the peer's fuse as well. So a whole lease must have passed since this node
    cut its side of COLO: since then no checkpoint has renewed that fuse.
    """
    if not seen.lease_gone or seen.cut_since_s is None:
        return False
    if _lacks_writes(node, shared.record, seen):
        return False
    fused = shared.fuses.keys() - {node}
    lease_s = max((shared.lease_s(one, limits.declared) for one in fused), default=0.0)
    if now_s - seen.cut_since_s < max(lease_s, limits.declared.lease_s):
        return False
    # A secondary that was not promoted serves no client. Any other peer, such as a primary that has
    # handed over, still does, unless its fuse has stopped it.
    is_primary = shared.record.holder == node and not shared.record.is_sole
    return is_primary or bool(fused)

"""Checks that all arbiters have in common."""

from __future__ import annotations

from pycolo.errors import ArbiterOvertaken, DeclarationError
from pycolo.model import _rules as rules
from pycolo.supervise.arbiter import Held
from pycolo.supervise.shared import SharedRecord


def check_pair(pair: str) -> None:
    """Check the name of a pair, before anything is sent.

    Raises:
        DeclarationError: No pair can have this name.
    """
    rules.identifier("pair", pair)


def check_node(pair: str, node: str) -> None:
    """Check the names of a pair and a node, before anything is sent.

    Raises:
        DeclarationError: No pair, or no node, can have this name.
    """
    check_pair(pair)
    rules.identifier("node", node)


def check_lease(pair: str, node: str, lease_s: float) -> None:
    """Check the names and the length of a lease, before anything is sent.

    Raises:
        DeclarationError: A name is wrong, or the lease is not above 0 s.
    """
    check_node(pair, node)
    rules.seconds("lease_s", lease_s)


def check_swap(pair: str, shared: SharedRecord) -> None:
    """Check that a record is that of a pair, before anything is sent.

    Raises:
        DeclarationError: No pair can have this name, or the record is that of another pair.
    """
    check_pair(pair)
    if shared.record.pair != pair:
        raise DeclarationError("shared.record.pair", shared.record.pair, f"be {pair}")


def overtaken(
    pair: str, current: Held, held: Held, no_lease_of: str | None
) -> ArbiterOvertaken | None:
    """Make the error of a compare-and-swap that must change nothing; None if it may be done.

    Args:
        pair: The pair's name.
        current: What the arbiter holds now.
        held: What the caller has read.
        no_lease_of: A node that must have no lease now; None for no such condition.
    """
    # An arbiter that was restored from a backup may give the same revision to another record.
    if (current.revision, current.shared) != (held.revision, held.shared):
        why = f"it is at revision {current.revision}, and was read at {held.revision}"
        return ArbiterOvertaken(pair, why)
    if no_lease_of in current.leases:
        return ArbiterOvertaken(pair, f"{no_lease_of} has a lease")
    return None

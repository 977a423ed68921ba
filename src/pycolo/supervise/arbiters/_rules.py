"""What every arbiter checks in the same way."""

from __future__ import annotations

from pycolo.errors import ArbiterOvertaken, DeclarationError
from pycolo.model import _rules as rules
from pycolo.supervise.arbiter import Held
from pycolo.supervise.shared import SharedRecord


def check_pair(pair: str) -> None:
    """Refuse what is no name of a pair.

    Raises:
        DeclarationError: It is none; nothing was asked.
    """
    rules.identifier("pair", pair)


def check_node(pair: str, node: str) -> None:
    """Refuse what is no name of a pair or of a node; see `check_pair`."""
    check_pair(pair)
    rules.identifier("node", node)


def check_lease(pair: str, node: str, lease_s: float) -> None:
    """Refuse a lease that could not be kept; see `check_pair`."""
    check_node(pair, node)
    rules.seconds("lease_s", lease_s)


def check_swap(pair: str, shared: SharedRecord) -> None:
    """Refuse a record under another pair's name; see `check_pair`."""
    check_pair(pair)
    if shared.record.pair != pair:
        raise DeclarationError("shared.record.pair", shared.record.pair, f"be {pair}")


def overtaken(
    pair: str, current: Held, held: Held, no_lease_of: str | None
) -> ArbiterOvertaken | None:
    """Why a compare-and-swap must change nothing; None if it may."""
    # An arbiter that was restored from a backup gives the same revision to another record.
    if (current.revision, current.shared) != (held.revision, held.shared):
        why = f"it is at revision {current.revision}, and was read at {held.revision}"
        return ArbiterOvertaken(pair, why)
    if no_lease_of in current.leases:
        return ArbiterOvertaken(pair, f"{no_lease_of} has a lease")
    return None

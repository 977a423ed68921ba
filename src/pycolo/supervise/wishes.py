"""What is wanted of a pair whose record an arbiter holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from pycolo.errors import ArbiterOvertaken
from pycolo.reconcile import Want, check_want
from pycolo.supervise.arbiter import Arbiter
from pycolo.supervise.shared import SharedRecord
from pycolo.supervise.store import Wish

_TRIES: Final = 5
_RELEASED: Final = "since it was released to its files: `pycolo want` with --agent takes it back"


async def read_wish(arbiter: Arbiter, pair: str, *, limit_s: float) -> Wish:
    """Read what is wanted of a pair.

    Args:
        arbiter: Holds the pair's record.
        pair: The pair's name.
        limit_s: How long the answer may take, in seconds.

    Returns:
        The wish; `protected`, and not paused, until somebody asks for something else. A pair that
        was released to its files counts as paused.

    Raises:
        ArbiterOvertaken: The arbiter holds no record of this pair. Start the agents first.
        ArbiterLost: No answer came. The arbiter can still be used.
        DeclarationError: No pair can have this name.
    """
    held = await arbiter.read(pair, limit_s=limit_s)
    return wish_of(_known(pair, held.shared))


async def set_want(arbiter: Arbiter, pair: str, want: Want, *, limit_s: float) -> Wish:
    """Set what is wanted of a pair; its agents bring it about from now on.

    If the pair was released to its files, its agents adopt them again.

    Args:
        arbiter: Holds the pair's record.
        pair: The pair's name.
        want: What is wanted from now on.
        limit_s: How long each answer may take, in seconds.

    Returns:
        What is wanted now.

    Raises:
        ArbiterOvertaken: The arbiter holds no record of this pair, or the agents changed it during
            each of several tries; nothing was changed.
        ArbiterLost: No answer came: it is not known whether the arbiter has the change.
        DeclarationError: `want` is not one of `Want`, or no pair can have this name; nothing was
            changed.
    """
    check_want("want", want)
    return await _changed(arbiter, pair, lambda held: _wanted(held, want), limit_s)


async def set_paused(arbiter: Arbiter, pair: str, paused: str | None, *, limit_s: float) -> Wish:
    """Pause a pair's agents, or end the pause; what is wanted of the pair stays.

    Args:
        arbiter: Holds the pair's record.
        pair: The pair's name.
        paused: Who paused it, when and why, in words that follow "paused", such as `by root`; None
            ends the pause.
        limit_s: How long each answer may take, in seconds.

    Returns:
        What is wanted now.

    Raises:
        ArbiterOvertaken: The arbiter holds no record of this pair, or the agents changed it during
            each of several tries; nothing was changed.
        ArbiterLost: No answer came: it is not known whether the arbiter has the change.
        DeclarationError: No pair can have this name.
    """
    return await _changed(arbiter, pair, lambda held: attrs.evolve(held, paused=paused), limit_s)


async def _changed(
    arbiter: Arbiter, pair: str, change: Callable[[SharedRecord], SharedRecord], limit_s: float
) -> Wish:
    tries = _TRIES
    while True:
        held = await arbiter.read(pair, limit_s=limit_s)
        new = change(_known(pair, held.shared))
        try:
            found = await arbiter.swap(pair, held, new, limit_s=limit_s)
        except ArbiterOvertaken:
            tries -= 1
            if tries == 0:
                raise
            continue
        return wish_of(_known(pair, found.shared))


def _known(pair: str, shared: SharedRecord | None) -> SharedRecord:
    if shared is None:
        why = "the arbiter holds none; start the agents first"
        raise ArbiterOvertaken(pair, why)
    return shared


def wish_of(shared: SharedRecord) -> Wish:
    """What a shared record says is wanted; a pair that was released to its files is paused."""
    paused = _RELEASED if shared.released == "to-files" else shared.paused
    return Wish(want=shared.want, paused=paused, moves_to=shared.moves_to)


def _wanted(shared: SharedRecord, want: Want) -> SharedRecord:
    if shared.released is not None:
        shared = attrs.evolve(shared, released="wanted-back")
    moves_to = shared.moves_to if want == "protected" else None
    return attrs.evolve(shared, want=want, moves_to=moves_to)

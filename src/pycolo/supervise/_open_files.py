"""Compares how many files this process may have open with how many its pairs need."""

from __future__ import annotations

import resource
from typing import Final

from pycolo.errors import DeclarationError

# Of each pair: two sessions, the handles of two processes, each twice, the lock, one to spare.
PER_PAIR: Final = 8
_OWN: Final = 64


def allow(pairs: int) -> None:
    """Let this process open as many files as its pairs need, as far as its hard limit allows.

    The limit is not raised further, since the processes that this one starts inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _OWN + pairs * PER_PAIR
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def check(pairs: int) -> None:
    """Refuse more pairs than this process may have files open for.

    Raises:
        DeclarationError: There are too many pairs.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(0, soft - _OWN) // PER_PAIR
    if soft != resource.RLIM_INFINITY and pairs > most:
        rule = (
            f"be at most {most} in number where a process may have {soft} files open:"
            " raise that limit (`ulimit -n`, `LimitNOFILE=` of a unit)"
        )
        raise DeclarationError("pairs", pairs, rule)

"""What the rules have in common."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias, TypeVar, final

import attrs

from pycolo.facts import HostFacts, PairFacts, Part
from pycolo.findings import Code, Finding, Level
from pycolo.model.pair import ColoPair
from pycolo.plan import Procedure

Check: TypeAlias = Callable[[ColoPair, PairFacts], Iterator[Finding]]
_T = TypeVar("_T")

MIB = 2**20


@final
@attrs.frozen(kw_only=True)
class Rule:
    """One rule: what it finds, and when it is asked."""

    codes: tuple[Code, ...]
    "What it may find."
    check: Check
    "Finds, or not; each finding that it makes comes from the facts alone."
    parts: tuple[Part, ...] = ()
    "What must have been read for it."
    before: tuple[Procedure, ...] = ()
    "Procedures of the command line that an error of it stops."


def found(level: Level, code: Code, node: str | None, what: str, remedy: str) -> Finding:
    """A finding; see `Finding`."""
    return Finding(code=code, node=node, what=what, remedy=remedy, level=level)


def both(
    facts: PairFacts, pick: Callable[[HostFacts], _T | None]
) -> Iterator[tuple[tuple[str, _T], tuple[str, _T]]]:
    """Each two hosts of which something is known, with that."""
    known = [(name, one) for name, host in facts.read.items() if (one := pick(host)) is not None]
    return itertools.combinations(known, 2)


def size_words(size_bytes: int) -> str:
    """A size as a person reads it."""
    return f"{size_bytes / MIB:.0f} MiB" if size_bytes >= MIB else f"{size_bytes} bytes"


def by_name(values: Mapping[str, str]) -> str:
    """Values of several nodes, in a sentence."""
    return ", ".join(f"{value} on {name}" for name, value in values.items())

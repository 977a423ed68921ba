"""Helpers that the rules share."""

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
    """One rule: its function, and when the rule is applied."""

    codes: tuple[Code, ...]
    "The codes of the findings that the rule can make."
    check: Check
    "Yields the rule's findings; a pure function of the declaration and the facts."
    parts: tuple[Part, ...] = ()
    "The parts of the facts that the rule reads."
    before: tuple[Procedure, ...] = ()
    "The procedures that an error of this rule stops."


def found(level: Level, code: Code, node: str | None, what: str, remedy: str) -> Finding:
    """Make a `Finding`; `node` is None for a finding about the pair."""
    return Finding(code=code, node=node, what=what, remedy=remedy, level=level)


def both(
    facts: PairFacts, pick: Callable[[HostFacts], _T | None]
) -> Iterator[tuple[tuple[str, _T], tuple[str, _T]]]:
    """Every pair of hosts that have a certain fact.

    Args:
        facts: The facts.
        pick: Returns the fact of a host; None if it was not read.

    Returns:
        Two (node name, fact) items for each pair of hosts.
    """
    known = [(name, one) for name, host in facts.read.items() if (one := pick(host)) is not None]
    return itertools.combinations(known, 2)


def size_words(size_bytes: int) -> str:
    """A size in MiB, or in bytes if it is smaller than 1 MiB."""
    return f"{size_bytes / MIB:.0f} MiB" if size_bytes >= MIB else f"{size_bytes} bytes"


def by_name(values: Mapping[str, str]) -> str:
    """Values of several nodes as text: `VALUE on NODE, VALUE on NODE`."""
    return ", ".join(f"{value} on {name}" for name, value in values.items())

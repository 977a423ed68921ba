"""Derive findings about a pair from the facts about its hosts, by a table of rules.

Every function is pure. Each rule is one function, and names the parts of the facts that it reads;
it finds nothing in a part that was not read.
"""

from __future__ import annotations

from typing import Final

from pycolo.facts import PairFacts, Part
from pycolo.findings import Code, Finding
from pycolo.model.pair import ColoPair
from pycolo.plan import Procedure
from pycolo.rules import _host, _network, _qemu, _storage, _tls
from pycolo.rules._found import Rule

__all__ = ("NEVER_FORCED", "TABLE", "Rule", "codes", "evaluate", "parts_for")

TABLE: Final[tuple[Rule, ...]] = (
    *_host.RULES,
    *_qemu.RULES,
    *_storage.RULES,
    *_network.RULES,
    *_tls.RULES,
)
"Every rule, in the order in which findings are given."

NEVER_FORCED: Final[frozenset[Code]] = frozenset({"same-machine-id", "state-folder"})
"Codes of findings that nobody may override: they concern records, evidence or identity."


def parts_for(before: Procedure | None = None) -> frozenset[Part]:
    """The parts of the facts that the rules read.

    Args:
        before: A procedure, for only the rules that can stop it; None for all rules.
    """
    return frozenset(part for rule in _chosen(before) for part in rule.parts)


def evaluate(
    pair: ColoPair, facts: PairFacts, *, before: Procedure | None = None
) -> tuple[Finding, ...]:
    """Apply the rules.

    Args:
        pair: The declaration.
        facts: The facts that were read.
        before: A procedure, for only the errors that stop it; None for all findings.

    Returns:
        The findings, each once, in the order of `TABLE`.
    """
    found = [finding for rule in _chosen(before) for finding in rule.check(pair, facts)]
    if before is not None:
        found = [finding for finding in found if finding.level == "error"]
    return tuple(dict.fromkeys(found))


def codes(before: Procedure | None = None) -> frozenset[Code]:
    """The codes of findings that the rules can make, of every level.

    Args:
        before: A procedure, for only the rules that can stop it; None for all rules. Codes of
            warnings and notes of these rules are among them, though only errors stop a procedure.
    """
    return frozenset(code for rule in _chosen(before) for code in rule.codes)


def _chosen(before: Procedure | None) -> tuple[Rule, ...]:
    return tuple(rule for rule in TABLE if before is None or before in rule.before)

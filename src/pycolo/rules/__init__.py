"""What the facts of hosts mean for a pair: from facts to findings, by a table of rules.

Everything here is computed from its arguments. Each rule is one function, and names the parts of
the facts that it reads; where a part was not read it finds nothing.
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
"Findings of rules that are about records, evidence and identity: nobody may override them."


def parts_for(before: Procedure | None = None) -> frozenset[Part]:
    """What must be read for the rules.

    Args:
        before: Only for those that can stop this procedure; None for all.
    """
    return frozenset(part for rule in _chosen(before) for part in rule.parts)


def evaluate(
    pair: ColoPair, facts: PairFacts, *, before: Procedure | None = None
) -> tuple[Finding, ...]:
    """Apply the rules.

    Args:
        pair: The declaration.
        facts: What was read.
        before: Only the errors that stop this procedure; None for everything that is found.

    Returns:
        What was found, in the order of `TABLE`.
    """
    found = [finding for rule in _chosen(before) for finding in rule.check(pair, facts)]
    if before is not None:
        found = [finding for finding in found if finding.level == "error"]
    return tuple(dict.fromkeys(found))


def codes(before: Procedure | None = None) -> frozenset[Code]:
    """What the rules may find.

    Args:
        before: Only by those that can stop this procedure; None for all.
    """
    return frozenset(code for rule in _chosen(before) for code in rule.codes)


def _chosen(before: Procedure | None) -> tuple[Rule, ...]:
    return tuple(rule for rule in TABLE if before is None or before in rule.before)

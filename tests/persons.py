"""The cases in which a supervisor or an agent asks for a person: in no other one may it."""

from __future__ import annotations

import re
from typing import Final, final

import attrs

from pycolo.supervise import PairStatus


@final
@attrs.frozen
class Case:
    """A case, as a page of the manual names it."""

    page: str
    "The page, below `docs`."
    text: str
    "The text that the page quotes; `...` stands for what varies."

    def asks(self, text: str) -> bool:
        """Whether a text for a person is about this case."""
        pattern = ".*".join(map(re.escape, self.text.split("...")))
        return re.search(pattern, text) is not None


# Neither its host nor a fence shows the end of a QEMU, and no lease does.
NO_EVIDENCE: Final = Case(
    "how-to/supervise.md", "nobody can show that ... has ended, and no fence has ended it"
)
TRIES_SPENT: Final = Case(
    "how-to/supervise.md", "... launches or resyncs have failed within an hour"
)
# No node is left on which a secondary could run, and that lasts.
NO_HOST: Final = Case(
    "how-to/supervise.md", "no host answers on which a secondary for ... could be launched"
)
# Record, file and QEMU exclude each other, neither node has every write, or overlays are unmerged.
UNDECIDABLE: Final = Case("how-to/supervise.md", "person: nothing is safe by itself")
OWN_SILENT: Final = Case("how-to/supervise.md", "... runs and gives no answer")
# The arbiter, or the agent of the other node, has given no answer for `retake_s`.
WAITS: Final = Case("how-to/agents.md", "waiting: ...")
# Only the other node may run the guest, and its host or its QEMU is away.
HOLDER_AWAY: Final = Case(
    "how-to/agents.md", "following: ... alone may run the guest, and gives no answer"
)
CLAIM_WAITS: Final = Case("how-to/agents.md", "suspect: ...")
RESTORED: Final = Case("how-to/agents.md", "the arbiter was restored from a backup that is too old")
CASES: Final = (
    NO_EVIDENCE,
    TRIES_SPENT,
    NO_HOST,
    UNDECIDABLE,
    OWN_SILENT,
    WAITS,
    HOLDER_AWAY,
    CLAIM_WAITS,
    RESTORED,
)


def is_for_a_person(status: PairStatus) -> bool:
    """Whether a pair stands where only a person can help, and says so, in one of the cases."""
    if not status.person:
        return False
    return "person" in status.phases.values() or any(case.asks(status.person) for case in CASES)

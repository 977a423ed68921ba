"""What a supervisor tells of the pairs that it keeps."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, TypeAlias, final

import attrs

from pycolo.result import Report

EventKind: TypeAlias = Literal["state", "action", "execution", "trouble", "person"]
"""What an event is about:

`state`: what a node's part of the pair is now in, and why. `action`: something is done about it.
`execution`: a plan was executed. `trouble`: something failed, and is tried again. `person`: nothing
is safe, or of use, before a person has acted.
"""


@final
@attrs.frozen(kw_only=True)
class SupervisorEvent:
    """Something that a supervisor saw or did."""

    pair: str
    "The pair's name."
    kind: EventKind
    "What it is about."
    text: str
    "A sentence without a full stop."
    node: str | None = None
    "The node that it is about; None for the pair as a whole."
    report: Report | None = None
    "What came of a plan."
    when: str = attrs.field(
        factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"), eq=False
    )
    "ISO 8601."

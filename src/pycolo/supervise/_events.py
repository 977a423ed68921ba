"""What a supervisor reports about the pairs that it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, TypeAlias, final

import attrs

from pycolo._mapping import read_only_mappings
from pycolo.reconcile import Want
from pycolo.record import PairRecord
from pycolo.result import Report
from pycolo.standing import Standing
from pycolo.supervise.table import Phase

EventKind: TypeAlias = Literal["state", "action", "execution", "trouble", "guest", "person"]
"""What an event is about:

`state`: the phase that a node is in now, and why, or what is wanted of the pair. `action`:
something is done about it. `execution`: a plan was executed. `trouble`: something failed, and is
tried again. `guest`: the guest was reset, or has panicked. `person`: a person must act; until then
nothing else is safe or of use.
"""


@final
@attrs.frozen(kw_only=True)
class SupervisorEvent:
    """Something that a supervisor saw or did."""

    pair: str
    "The pair's name."
    kind: EventKind
    "What the event is about."
    text: str
    "A sentence without a full stop."
    node: str | None = None
    "The node that the event is about; None for the pair as a whole."
    report: Report | None = None
    "The report of the plan that was executed; None if the event is not about a plan."
    when: str = attrs.field(
        factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"), eq=False
    )
    "When the event was made, in UTC, as ISO 8601."


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class PairStatus:
    """The status of a pair under its supervisor."""

    pair: str
    "The pair's name."
    want: Want
    "What is wanted of the pair."
    paused: str | None
    "Who paused the pair's supervision, and when; None if it is not paused."
    phases: Mapping[str, Phase]
    "Node to its phase, the holder first; empty before the first observation."
    standing: Standing | None
    "How the pair stood at the last observation; None before the first one."
    record: PairRecord | None
    "The latest record at the last observation; None for none."
    primary: str | None
    "The node of the primary in COLO at the last observation; None for none."
    checkpoint_delay_ms: int | None
    "The primary's checkpoint delay at the last observation, in milliseconds; None without one."
    is_protected: bool
    "Each node may continue alone, and nothing says that a QEMU has ended or that a write is lost."
    is_busy: bool
    "A plan is executed, or the pair is observed."
    are_monitors_free: bool
    "Supervision is paused, and the supervisor uses no control monitor, so that `pycolo run` may."
    person: str
    "What a person has to do about the pair; empty for nothing."

"""What an execution did, line by line, written down while it did it.

A `Journal` is given to `execute`; `load` reads what it wrote, also after a crash. The first line
holds the plan, the last one how it ended, each line the wall clock and the monotonic one.
"""

from __future__ import annotations

from pycolo.journal._lines import (
    CommandAnswered,
    CommandSent,
    ConnectionEnded,
    EventSeen,
    Line,
    PlanBegan,
    PlanEnded,
    ProgressSeen,
    RecoveryBegan,
    StepBegan,
    StepEnded,
    json_schema,
    line_from_json,
    line_to_json,
)
from pycolo.journal._reader import Recording, load, loads
from pycolo.journal._writer import Journal

__all__ = [
    "CommandAnswered",
    "CommandSent",
    "ConnectionEnded",
    "EventSeen",
    "Journal",
    "Line",
    "PlanBegan",
    "PlanEnded",
    "ProgressSeen",
    "Recording",
    "RecoveryBegan",
    "StepBegan",
    "StepEnded",
    "json_schema",
    "line_from_json",
    "line_to_json",
    "load",
    "loads",
]

"""A file that records an execution, line by line, while it happens.

Pass a `Journal` to `execute` as its recorder; `load` reads the file, also after a crash. The first
line holds the plan, and the last line how its execution ended. Each line has the time of the wall
clock and of the monotonic clock.
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

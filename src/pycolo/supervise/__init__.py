"""Keeping a pair without anybody at the keyboard: what is decided, and by what limits.

`decide` is the whole of it, pure: for a program that has high availability of its own.
"""

from pycolo.supervise.decision import Decision, decide
from pycolo.supervise.observation import Limits, Observation, Qemu, Signal
from pycolo.supervise.shared import SharedRecord
from pycolo.supervise.table import TABLE, Action, Event, Phase, Row, State

__all__ = (
    "TABLE",
    "Action",
    "Decision",
    "Event",
    "Limits",
    "Observation",
    "Phase",
    "Qemu",
    "Row",
    "SharedRecord",
    "Signal",
    "State",
    "decide",
)

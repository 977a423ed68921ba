"""Keeping a pair without anybody at the keyboard: what is decided, and by what limits.

`Supervisor` does it all, for any number of pairs, from a machine that reaches both hosts of each.
`decide` is what it decides by, pure: for a program that has high availability of its own.
"""

from pycolo.supervise._events import EventKind, PairStatus, SupervisorEvent
from pycolo.supervise._measures import Histogram, Measures, Silence
from pycolo.supervise.decision import Decision, decide
from pycolo.supervise.endpoint import HttpEndpoint
from pycolo.supervise.observation import Limits, Observation, Qemu, Signal
from pycolo.supervise.shared import SharedRecord
from pycolo.supervise.store import Store, Wish
from pycolo.supervise.supervisor import Supervisor
from pycolo.supervise.table import TABLE, Action, Event, Phase, Row, State

__all__ = (
    "TABLE",
    "Action",
    "Decision",
    "Event",
    "EventKind",
    "Histogram",
    "HttpEndpoint",
    "Limits",
    "Measures",
    "Observation",
    "PairStatus",
    "Phase",
    "Qemu",
    "Row",
    "SharedRecord",
    "Signal",
    "Silence",
    "State",
    "Store",
    "Supervisor",
    "SupervisorEvent",
    "Wish",
    "decide",
)

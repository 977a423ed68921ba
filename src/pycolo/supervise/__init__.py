"""Keep pairs protected without an operator.

`Supervisor` does this for any number of pairs, from a machine that reaches the hosts of all nodes.
`decide` is the pure function by which a supervisor decides, for programs that bring their own high
availability.
"""

from pycolo.supervise._events import EventKind, PairStatus, SupervisorEvent
from pycolo.supervise._measures import Histogram, LeaseAge, Measures, Silence
from pycolo.supervise._underway import Underway
from pycolo.supervise.agent import Agent
from pycolo.supervise.arbiter import Arbiter, Held
from pycolo.supervise.decision import Decision, decide
from pycolo.supervise.endpoint import HttpEndpoint
from pycolo.supervise.fences import CommandFence, FenceDevice, NotFenced
from pycolo.supervise.guard import FuseGuard, Guard
from pycolo.supervise.observation import Limits, Observation, Qemu, Signal
from pycolo.supervise.shared import SharedRecord
from pycolo.supervise.store import Store, Wish
from pycolo.supervise.supervisor import Supervisor
from pycolo.supervise.table import TABLE, Action, Event, Phase, Row, State

__all__ = (
    "TABLE",
    "Action",
    "Agent",
    "Arbiter",
    "CommandFence",
    "Decision",
    "Event",
    "EventKind",
    "FenceDevice",
    "FuseGuard",
    "Guard",
    "Held",
    "Histogram",
    "HttpEndpoint",
    "LeaseAge",
    "Limits",
    "Measures",
    "NotFenced",
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
    "Underway",
    "Wish",
    "decide",
)

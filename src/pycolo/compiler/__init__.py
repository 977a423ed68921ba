"""Pure functions from a declaration, and a snapshot of its nodes, to a plan.

Each procedure is a function from `(pair, snapshot)` to a `Plan`. It compares the snapshot, records
included, with the state that it is for, and emits the steps that are missing. So if an execution
stops half-way, compiling again gives the plan that finishes the procedure.
"""

from pycolo.compiler.converge import converge
from pycolo.compiler.dialects import launch_argv
from pycolo.compiler.dispatch import check_compiled, compile_plan, refuse_offline
from pycolo.compiler.drift import drift
from pycolo.compiler.members import check as check_members
from pycolo.compiler.members import members
from pycolo.compiler.offline import compile_offline
from pycolo.compiler.procedures import (
    checkpoint,
    failover,
    forget,
    launch,
    resume,
    set_checkpoint_delay,
    shutdown,
    start,
    stop,
    switch_over,
)

__all__ = (
    "check_compiled",
    "check_members",
    "checkpoint",
    "compile_offline",
    "compile_plan",
    "converge",
    "drift",
    "failover",
    "forget",
    "launch",
    "launch_argv",
    "members",
    "refuse_offline",
    "resume",
    "set_checkpoint_delay",
    "shutdown",
    "start",
    "stop",
    "switch_over",
)

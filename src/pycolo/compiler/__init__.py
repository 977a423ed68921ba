"""From a declaration and what is known of its nodes to a plan: pure.

Six procedures, each a function from `(pair, snapshot)` to a `Plan`. Each looks at what is there and
emits what is missing, so that compiling again after a half-finished run finishes it, and after
a finished one gives an empty plan.
"""

from pycolo.compiler.converge import converge
from pycolo.compiler.drift import Difference, Drift, drift
from pycolo.compiler.launch import launch_argv
from pycolo.compiler.paper import on_paper
from pycolo.compiler.procedures import (
    compile_plan,
    failover,
    launch,
    rederive,
    resume,
    set_checkpoint_delay,
    start,
    stop,
)

__all__ = (
    "Difference",
    "Drift",
    "compile_plan",
    "converge",
    "drift",
    "failover",
    "launch",
    "launch_argv",
    "on_paper",
    "rederive",
    "resume",
    "set_checkpoint_delay",
    "start",
    "stop",
)

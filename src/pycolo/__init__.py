"""Declarative fault tolerance of virtual machines: QEMU COLO pairs, from Python.

The names of everyday use, most important first; each is documented in its own module. A name is
imported when it is first used, so that a program that only declares pairs does not import the
modules that talk to QEMU.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pycolo._execute import execute
    from pycolo._preflight import preflight
    from pycolo._probe import glance, probe
    from pycolo.blocking import Runner
    from pycolo.compiler.converge import converge
    from pycolo.compiler.drift import drift
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
    from pycolo.controller import PairController
    from pycolo.errors import (
        Busy,
        CommandRefused,
        CommandUnknown,
        CompileError,
        ConnectionFailed,
        DeclarationError,
        HostRefused,
        ParseError,
        PycoloError,
        RefusedError,
        RemoteError,
        SchemaError,
        UndecidedError,
        Unresponsive,
        VersionError,
    )
    from pycolo.evidence import Evidence
    from pycolo.findings import Finding
    from pycolo.hosts import Host
    from pycolo.hosts.local import LocalHost
    from pycolo.hosts.ways import hosts_of
    from pycolo.model import (
        ColoPair,
        FilterChain,
        Machine,
        MemoryBackend,
        Migration,
        Netdev,
        Node,
        Ports,
        ReplicationDisk,
        Ssh,
        TcpMonitor,
        Timeouts,
        UnixMonitor,
    )
    from pycolo.observers import Observer
    from pycolo.pairfile import load
    from pycolo.plan import Plan
    from pycolo.qmp.replies import Version
    from pycolo.reconcile import next_step
    from pycolo.record import PairRecord
    from pycolo.result import PlanFailed, Report
    from pycolo.session import Session
    from pycolo.snapshot import Dead, Snapshot

__version__ = "0.1.0"

__all__ = (  # noqa: RUF022 - most important first
    "ColoPair",
    "Node",
    "FilterChain",
    "ReplicationDisk",
    "Machine",
    "MemoryBackend",
    "Migration",
    "Netdev",
    "Ports",
    "Timeouts",
    "UnixMonitor",
    "TcpMonitor",
    "Ssh",
    "load",
    "launch",
    "start",
    "failover",
    "resume",
    "stop",
    "switch_over",
    "shutdown",
    "checkpoint",
    "set_checkpoint_delay",
    "forget",
    "converge",
    "compile_offline",
    "drift",
    "Plan",
    "Snapshot",
    "Version",
    "Report",
    "Session",
    "preflight",
    "Finding",
    "probe",
    "glance",
    "execute",
    "next_step",
    "PairController",
    "Observer",
    "Runner",
    "PairRecord",
    "Evidence",
    "Dead",
    "Host",
    "hosts_of",
    "LocalHost",
    "PycoloError",
    "DeclarationError",
    "ParseError",
    "SchemaError",
    "RefusedError",
    "CompileError",
    "UndecidedError",
    "VersionError",
    "PlanFailed",
    "RemoteError",
    "CommandRefused",
    "CommandUnknown",
    "Busy",
    "Unresponsive",
    "ConnectionFailed",
    "HostRefused",
)

# The module of each name. Type checkers read the imports above; a test compares the two.
_NAMES: Final = {
    "pycolo.model": (
        *("ColoPair", "Node", "FilterChain", "ReplicationDisk", "Machine", "Netdev"),
        *("MemoryBackend", "Migration", "Ports", "Timeouts", "UnixMonitor", "TcpMonitor", "Ssh"),
    ),
    "pycolo.pairfile": ("load",),
    "pycolo.compiler.procedures": (
        *("launch", "start", "failover", "resume", "stop", "switch_over"),
        *("shutdown", "checkpoint", "set_checkpoint_delay", "forget"),
    ),
    "pycolo.compiler.offline": ("compile_offline",),
    "pycolo.compiler.converge": ("converge",),
    "pycolo.compiler.drift": ("drift",),
    "pycolo.plan": ("Plan",),
    "pycolo.snapshot": ("Snapshot", "Dead"),
    "pycolo.record": ("PairRecord",),
    "pycolo.evidence": ("Evidence",),
    "pycolo.hosts": ("Host",),
    "pycolo.hosts.local": ("LocalHost",),
    "pycolo.hosts.ways": ("hosts_of",),
    "pycolo.qmp.replies": ("Version",),
    "pycolo.observers": ("Observer",),
    "pycolo.result": ("PlanFailed", "Report"),
    "pycolo.session": ("Session",),
    "pycolo._preflight": ("preflight",),
    "pycolo.findings": ("Finding",),
    "pycolo._probe": ("glance", "probe"),
    "pycolo._execute": ("execute",),
    "pycolo.reconcile": ("next_step",),
    "pycolo.controller": ("PairController",),
    "pycolo.blocking": ("Runner",),
    "pycolo.errors": (
        *("PycoloError", "DeclarationError", "ParseError", "SchemaError"),
        *("RefusedError", "CompileError", "UndecidedError", "VersionError"),
        *("RemoteError", "CommandRefused", "CommandUnknown", "Busy"),
        *("Unresponsive", "ConnectionFailed", "HostRefused"),
    ),
}
_HOMES: Final = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name from its module when it is first used."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

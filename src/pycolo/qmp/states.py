"""The states that QEMU reports of a guest, a migration or a block job.

pycolo's code names only these states. A state that a QEMU reports is read as text, so that a state
that a later QEMU adds does not make the node unreadable.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

__all__ = [
    "MIGRATION_BUSY",
    "MIGRATION_ENDING",
    "MIGRATION_MOVING",
    "MIGRATION_OVER",
    "RUN_COPYABLE",
    "RUN_PAUSED",
    "RUN_STANDING",
    "JobStatus",
    "MigrationStatus",
    "RunState",
]

RunState: TypeAlias = Literal[
    "colo",
    "debug",
    "finish-migrate",
    "guest-panicked",
    "inmigrate",
    "internal-error",
    "io-error",
    "paused",
    "postmigrate",
    "prelaunch",
    "restore-vm",
    "running",
    "save-vm",
    "shutdown",
    "suspended",
    "watchdog",
]
"""The run states that query-status gives."""

RUN_COPYABLE: Final[tuple[RunState, ...]] = ("prelaunch", "running", "paused", "finish-migrate")
"""The run states of a guest before its RAM is copied, and during the copy."""

RUN_PAUSED: Final[tuple[RunState, ...]] = ("paused", "postmigrate", "finish-migrate")
"""The run states that `cont` ends; the guest was paused by somebody or by a migration."""

RUN_STANDING: Final[tuple[RunState, ...]] = (
    *("prelaunch", "paused", "shutdown", "suspended"),
    *("guest-panicked", "internal-error", "io-error", "watchdog"),
)
"""The run states in which a guest does not run and does not continue by itself."""

MigrationStatus: TypeAlias = Literal[
    "active",
    "cancelled",
    "cancelling",
    "colo",
    "completed",
    "device",
    "failed",
    "failing",
    "none",
    "postcopy-active",
    "postcopy-device",
    "postcopy-paused",
    "postcopy-recover",
    "postcopy-recover-setup",
    "pre-switchover",
    "setup",
    "wait-unplug",
]
"""The statuses that query-migrate gives."""

MIGRATION_MOVING: Final[tuple[MigrationStatus, ...]] = (
    *("setup", "active", "pre-switchover", "device"),
)
"""The statuses of a migration that is under way and has not entered COLO."""

MIGRATION_BUSY: Final[tuple[MigrationStatus, ...]] = (*MIGRATION_MOVING, "colo")
"""The statuses of a migration that is under way or has entered COLO."""

MIGRATION_OVER: Final[tuple[MigrationStatus, ...]] = ("failed", "completed", "cancelled")
"""The statuses of a migration that has ended and is not in COLO."""

MIGRATION_ENDING: Final[tuple[MigrationStatus, ...]] = (*MIGRATION_OVER, "cancelling")
"""The statuses of a migration that has ended or is being cancelled, so it will not enter COLO."""

JobStatus: TypeAlias = Literal[
    "aborting",
    "concluded",
    "created",
    "null",
    "paused",
    "pending",
    "ready",
    "running",
    "standby",
    "undefined",
    "waiting",
]
"""The statuses that query-jobs gives."""

"""The states in which QEMU says that a guest, a migration or a block job is.

Whoever names a state names one of these. What a QEMU reports is read as text, so that a state that
a later QEMU adds does not make the node unreadable.
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
"""Where a guest may stand before its RAM is copied, and where a copy under way leaves it."""

RUN_PAUSED: Final[tuple[RunState, ...]] = ("paused", "postmigrate", "finish-migrate")
"""A guest that `cont` continues: somebody paused it, or a migration did."""

RUN_STANDING: Final[tuple[RunState, ...]] = (
    *("prelaunch", "paused", "shutdown", "suspended"),
    *("guest-panicked", "internal-error", "io-error", "watchdog"),
)
"""A guest that does not run, and does not continue by itself."""

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
"""A migration that is under way and has not entered COLO."""

MIGRATION_BUSY: Final[tuple[MigrationStatus, ...]] = (*MIGRATION_MOVING, "colo")
"""A migration that is under way or has entered COLO."""

MIGRATION_OVER: Final[tuple[MigrationStatus, ...]] = ("failed", "completed", "cancelled")
"""A migration that has ended without COLO."""

MIGRATION_ENDING: Final[tuple[MigrationStatus, ...]] = (*MIGRATION_OVER, "cancelling")
"""A migration that enters COLO no more."""

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

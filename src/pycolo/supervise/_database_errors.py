"""Why the folder of a SQLite file, or the file, cannot be used: the reason and what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

from pycolo._printable import reason

_DAMAGED: Final = (
    "is no SQLite database, or is damaged: move it away, or give another folder; a new file has"
    " nothing of what this one held"
)
_UNWRITABLE: Final = (
    "cannot be opened and written: correct the permissions of the file and its folder, run as their"
    " owner, or give another folder"
)
_LOCKED: Final = "is in use by another process: try again later"
_REASONS: Final[Mapping[int, str]] = {
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_READONLY: _UNWRITABLE,
    sqlite3.SQLITE_PERM: _UNWRITABLE,
    sqlite3.SQLITE_CANTOPEN: _UNWRITABLE,
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_FULL: "cannot grow, since the disk is full: free some space",
}


def code_of(error: Exception) -> int:
    """SQLite's code of an error, without its details; 0 if SQLite did not raise the error."""
    # Errors that SQLite does not raise, such as that of a closed database, have no code.
    code: object = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF if isinstance(code, int) else 0


def why_unusable(error: OSError | sqlite3.Error, name: str) -> str:
    """Say why a file cannot be used, and what to do.

    Args:
        error: The error of the file, or of making its folder.
        name: The file's name in its folder.
    """
    if isinstance(error, OSError):
        return f"the folder cannot be used ({reason(error)}): make it, or give another one"
    return f"{name} {_REASONS.get(code_of(error), f'cannot be used: {error}')}"

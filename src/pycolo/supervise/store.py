"""What a person wants of each pair and which are paused: one SQLite file for a supervisor."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Self, final, get_args

import attrs

from pycolo.errors import StoreError
from pycolo.model import _rules as rules
from pycolo.reconcile import Want, check_want
from pycolo.supervise._database_errors import why_unusable

_FILE: Final = "supervisor.db"
_BUSY_S: Final = 5.0
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS pairs (name TEXT PRIMARY KEY, want TEXT NOT NULL, paused TEXT)",
    "CREATE TABLE IF NOT EXISTS moves (name TEXT PRIMARY KEY, node TEXT NOT NULL)",
)
_READ: Final = """SELECT name, coalesce(want, 'protected'), paused, node
    FROM (SELECT name FROM pairs UNION SELECT name FROM moves)
    LEFT JOIN pairs USING (name) LEFT JOIN moves USING (name)
"""


@final
@attrs.frozen(kw_only=True)
class Wish:
    """What is wanted of a pair, and whether its supervision is paused."""

    want: Want = "protected"
    "A protected guest, one that runs alone, or no QEMU."
    paused: str | None = None
    "Who paused the pair's supervision, and when; None if it is not paused."
    moves_to: str | None = None
    "The spare on which the next secondary is to be launched; None for any node."


@contextmanager
def locked(folder: Path, name: str, held: str) -> Generator[None]:
    """Hold a lock inside the block; it does not wait for it, and ends with the process.

    Args:
        folder: The folder of the lock's file, which must exist.
        name: The name of the lock.
        held: Why the lock cannot be had if another program holds it, as a clause.

    Raises:
        StoreError: The lock is held, also if by this process itself.
        OSError: The lock's file cannot be made or opened.
    """
    descriptor = os.open(folder / f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(str(folder), held) from error
        yield
    finally:
        os.close(descriptor)


@final
class Store:
    """What is wanted of each pair of one supervisor, in a file that other processes may change.

    A change is on the disk when its method returns. A context manager, which closes the store; not
    for several threads. A method waits for up to 5 s while another process changes the file, and
    then raises `StoreError`. After a `StoreError` the store can be used again once the cause is
    gone. A method that takes a pair's name raises `DeclarationError` for a name that no pair can
    have.
    """

    def __init__(self, folder: Path) -> None:
        """Open the store; make it if there is none.

        Args:
            folder: The folder of the store's file; made if missing.

        Raises:
            StoreError: The file cannot be made or opened.
        """
        self.folder: Final = folder
        "The folder of the store's file."
        with self._as_store_error():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = sqlite3.connect(folder / _FILE, timeout=_BUSY_S, isolation_level=None)
            # A wish that was acknowledged survives the loss of power.
            for line in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", *_TABLES):
                self._database.execute(line)
        self._rows: dict[str, tuple[str, str | None, str | None]] = {}
        self._read_version: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    @property
    def version(self) -> tuple[int, int]:
        """A value that is another one after each change, by this or another process.

        Compare it only with earlier values of the same `Store` object: another one counts
        otherwise. A greater value means nothing.

        Raises:
            StoreError: The file cannot be read.
        """
        with self._as_store_error():
            row = self._database.execute("PRAGMA data_version").fetchone()
        # The pragma does not count this connection's own changes.
        return row[0], self._database.total_changes

    def read(self, pair: str) -> Wish:
        """Read what is wanted of a pair: a protected guest if nothing else was set.

        The file is read for all pairs at once, and again only after a change.

        Args:
            pair: The pair's name.

        Raises:
            StoreError: The file cannot be read, or it holds a value that pycolo does not know.
        """
        rules.identifier("pair", pair)
        # The version is taken before the file is read: a change in between causes another read.
        version = self.version
        if version != self._read_version:
            with self._as_store_error():
                found = self._database.execute(_READ).fetchall()
            self._rows = {name: (want, paused, node) for name, want, paused, node in found}
            self._read_version = version
        row = self._rows.get(pair)
        if row is None:
            return Wish()
        known = {name: name for name in get_args(Want)}
        want: Want | None = known.get(row[0])
        if want is None:
            raise StoreError(str(self.folder), f"{row[0]!r} is nothing that can be wanted")
        return Wish(want=want, paused=row[1], moves_to=row[2])

    def want(self, pair: str, want: Want) -> None:
        """Set what is wanted of a pair; unless it is `protected`, a move of its secondary ends.

        Args:
            pair: The pair's name.
            want: What its supervisor brings about from now on.

        Raises:
            StoreError: The file cannot be written; what was wanted before still is.
            DeclarationError: `want` is not one of `Want`; what was wanted before still is.
        """
        rules.identifier("pair", pair)
        check_want("want", want)
        # The connection's own block ends the transaction.
        with self._as_store_error(), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            if want != "protected":
                self._database.execute("DELETE FROM moves WHERE name = ?", (pair,))
            self._database.execute(
                "INSERT INTO pairs (name, want) VALUES (?, ?)"
                " ON CONFLICT (name) DO UPDATE SET want = excluded.want",
                (pair, want),
            )

    def pause(self, pair: str, paused: str | None) -> None:
        """Pause a pair's supervision, or end the pause.

        Of a pair that the store does not know, `protected` is then wanted.

        Args:
            pair: The pair's name.
            paused: Who paused it, when and why, in words that follow "paused", such as `by root`;
                None ends the pause.

        Raises:
            StoreError: The file cannot be written; nothing was changed.
        """
        rules.identifier("pair", pair)
        with self._as_store_error():
            self._database.execute(
                "INSERT INTO pairs (name, want, paused) VALUES (?, 'protected', ?)"
                " ON CONFLICT (name) DO UPDATE SET paused = excluded.paused",
                (pair, paused),
            )

    def move(self, pair: str, to: str | None) -> None:
        """Set on which spare the next secondary of a pair is to be launched.

        Args:
            pair: The pair's name.
            to: The spare; None for any node.

        Raises:
            StoreError: The file cannot be written; nothing was changed.
        """
        rules.identifier("pair", pair)
        with self._as_store_error():
            if to is None:
                self._database.execute("DELETE FROM moves WHERE name = ?", (pair,))
            else:
                self._database.execute("INSERT OR REPLACE INTO moves VALUES (?, ?)", (pair, to))

    @contextmanager
    def alone(self, pair: str) -> Generator[None]:
        """Hold a pair's lock inside the block, so that one supervisor of this store keeps the pair.

        It does not wait for the lock.

        Args:
            pair: The pair's name.

        Raises:
            StoreError: The lock is held, also if by this store itself, or it cannot be made.
        """
        rules.identifier("pair", pair)
        with ExitStack() as stack:
            with self._as_store_error():
                stack.enter_context(locked(self.folder, pair, f"another supervisor of {pair} runs"))
            yield

    @contextmanager
    def _as_store_error(self) -> Generator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise StoreError(str(self.folder), why_unusable(error, _FILE)) from error

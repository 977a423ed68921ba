"""An arbiter in a file, for agents that run on one machine."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar, final

from pycolo.errors import ArbiterLost, ParseError, StoreError
from pycolo.evidence import Evidence
from pycolo.supervise._database_errors import code_of, why_unusable
from pycolo.supervise.arbiter import Held
from pycolo.supervise.arbiters import checks
from pycolo.supervise.arbiters.text import dump_end, dump_shared, load_end, load_shared
from pycolo.supervise.shared import SharedRecord

_R = TypeVar("_R")
_FILE: Final = "arbiter.db"
# What was changed last is in the second one, and its index in the third one.
_BESIDE: Final = ("", "-wal", "-shm")
_OPEN_S: Final = 5.0
_POLL_S: Final = 0.05
# A write by another process takes a millisecond or two.
_BUSY_S: Final = 0.005
_BUSY_CODES: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_AGAIN: Final = "see the manual on arbiters, and start every program that uses it again"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_TABLES: Final = (
    """
    CREATE TABLE IF NOT EXISTS records
    (pair TEXT PRIMARY KEY, revision INTEGER NOT NULL, record TEXT NOT NULL) STRICT
    """,
    """
    CREATE TABLE IF NOT EXISTS leases
    (pair TEXT, node TEXT, lease_s REAL NOT NULL, until_s REAL NOT NULL, boot TEXT NOT NULL,
    PRIMARY KEY (pair, node)) STRICT
    """,
    """
    CREATE TABLE IF NOT EXISTS ends
    (pair TEXT, node TEXT, statement TEXT NOT NULL, PRIMARY KEY (pair, node)) STRICT
    """,
    "CREATE TABLE IF NOT EXISTS identity (id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT",
)


def boottime_s() -> float:
    """The seconds since boot, including those in which the machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@final
class SqliteArbiter:
    """An `Arbiter` in a file, for agents that run on one machine.

    Each change is on the disk when it is acknowledged. The machine should be neither node's host:
    if a node is lost together with the arbiter, a person must act. The folder has to be on a disk
    of the machine, not on a network file system. Calls block the event loop while the disk writes.

    After the machine was restarted, each lease in the file runs for its whole length once more.

    Args:
        folder: The folder of the file; made if missing.
        clock: Gives the time, in seconds, by which leases run out; every agent must use the same.

    Raises:
        StoreError: The file cannot be made or opened.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = boottime_s) -> None:
        self._path = folder / _FILE
        self._clock = clock
        # Pair to the latest revision that was read, and its record; and those of a transaction.
        self._latest: dict[str, tuple[int, str | None]] = {}
        self._found: dict[str, tuple[int, str | None]] = {}
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._boot = _BOOT_ID.read_text(encoding="ascii").strip()
            self._database = sqlite3.connect(self._path, timeout=_OPEN_S, isolation_level=None)
            self._open()
            # From the first transaction on there are all of them, until the last program ends.
            self._files = _identities(self._path)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(str(folder), why_unusable(error, _FILE)) from error

    def _open(self) -> None:
        execute = self._database.execute
        # A change that was acknowledged survives the loss of power.
        for line in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "BEGIN IMMEDIATE"):
            execute(line)
        for table in _TABLES:
            execute(table)
        execute("INSERT OR IGNORE INTO identity VALUES (1, lower(hex(randomblob(8))))")
        # The clock started at 0 again, so it is not known how long ago these leases were renewed.
        execute(
            "UPDATE leases SET until_s = lease_s + ?, boot = ? WHERE boot != ?",
            (self._clock(), self._boot, self._boot),
        )
        # From here on SQLite does not wait for a lock: that would block the event loop.
        for line in ("COMMIT", "PRAGMA busy_timeout=0"):
            execute(line)

    async def identity(self, *, limit_s: float) -> str:
        """The name by which records refer to this arbiter; see `Arbiter.identity`."""

        def work(_: float) -> str:
            row = self._database.execute("SELECT name FROM identity").fetchone()
            return f"sqlite:{row[0]}"

        return await self._transact("all", "BEGIN", work, limit_s)

    async def read(self, pair: str, *, limit_s: float) -> Held:
        """Read what is held for a pair; see `Arbiter.read`."""
        checks.check_pair(pair)
        return await self._transact(pair, "BEGIN", lambda now_s: self._held(pair, now_s), limit_s)

    async def swap(
        self,
        pair: str,
        held: Held,
        shared: SharedRecord,
        *,
        no_lease_of: str | None = None,
        limit_s: float,
    ) -> Held:
        """Replace a pair's record, if it is still the one that was read; see `Arbiter.swap`."""
        checks.check_swap(pair, shared)

        def work(now_s: float) -> Held:
            current = self._held(pair, now_s)
            refusal = checks.overtaken(pair, current, held, no_lease_of)
            if refusal is not None:
                raise refusal
            self._database.execute(
                "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT (pair)"
                " DO UPDATE SET revision = excluded.revision, record = excluded.record",
                (pair, current.revision + 1, dump_shared(shared)),
            )
            return self._held(pair, now_s)

        return await self._transact(pair, "BEGIN IMMEDIATE", work, limit_s)

    async def renew(
        self, pair: str, node: str, instance: str, *, lease_s: float, limit_s: float
    ) -> bool:
        """Renew or begin a lease; False if the record does not allow it; see `Arbiter.renew`."""
        checks.check_lease(pair, node, lease_s)

        def work(now_s: float) -> bool:
            shared = self._held(pair, now_s).shared
            if shared is None or not shared.may_renew(node, instance):
                return False
            self._database.execute(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?)",
                (pair, node, lease_s, now_s + lease_s, self._boot),
            )
            return True

        return await self._transact(pair, "BEGIN IMMEDIATE", work, limit_s)

    async def release(self, pair: str, node: str, *, limit_s: float) -> None:
        """End a node's lease now; see `Arbiter.release`."""
        checks.check_node(pair, node)
        line = "DELETE FROM leases WHERE pair = ? AND node = ?"
        await self._write(pair, line, (pair, node), limit_s)

    async def state(self, pair: str, end: Evidence, *, limit_s: float) -> None:
        """Store evidence that a QEMU has ended; see `Arbiter.state`."""
        checks.check_node(pair, end.node)
        line = "INSERT OR REPLACE INTO ends VALUES (?, ?, ?)"
        await self._write(pair, line, (pair, end.node, dump_end(end)), limit_s)

    async def changed(self, pair: str, held: Held, *, limit_s: float) -> Held:
        """Wait until what is held is not `held`, or the limit passes; see `Arbiter.changed`."""
        checks.check_pair(pair)
        loop = asyncio.get_running_loop()
        end_s = loop.time() + limit_s
        while True:
            # The mark is taken before the read: a change in between then causes another read.
            mark = self._mark(pair)
            current, runs_out_s = await self._transact(
                pair, "BEGIN", lambda now_s: self._read_held(pair, now_s), end_s - loop.time()
            )
            if current != held:
                return current
            while self._mark(pair) == mark and self._clock() < runs_out_s:
                left_s = end_s - loop.time()
                if left_s <= 0:
                    return current
                await asyncio.sleep(min(_POLL_S, left_s))

    async def aclose(self) -> None:
        """Close the connection; see `Arbiter.aclose`."""
        self._database.close()

    # -- the database

    async def _write(
        self, pair: str, line: str, parameters: tuple[str, ...], limit_s: float
    ) -> None:
        def work(_: float) -> None:
            self._database.execute(line, parameters)

        await self._transact(pair, "BEGIN IMMEDIATE", work, limit_s)

    async def _transact(
        self, pair: str, begin: str, work: Callable[[float], _R], limit_s: float
    ) -> _R:
        """Do work in a transaction; try again while another process holds the lock.

        Args:
            pair: The pair's name, for the error.
            begin: The statement that begins the transaction.
            work: Is called inside the transaction with the time, by `clock`.
            limit_s: How long to try, in seconds.

        Raises:
            ArbiterLost: The lock was held for all that time, or the file cannot be used.
        """
        loop = asyncio.get_running_loop()
        end_s = loop.time() + limit_s
        while True:
            try:
                return self._transact_once(begin, work)
            except (OSError, sqlite3.Error, ParseError) as error:
                left_s = end_s - loop.time()
                if not _is_busy(error) or left_s <= 0:
                    raise ArbiterLost(pair, f"{self._path}: {error}") from error
            # Another process holds the lock, and nothing was changed.
            await asyncio.sleep(min(_BUSY_S, left_s))

    def _transact_once(self, begin: str, work: Callable[[float], _R]) -> _R:
        self._database.execute(begin)
        self._found = {}
        try:
            # A refusal, too, says what the file holds.
            self._check_files()
            result = work(self._clock())
            self._check_files()
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise
        self._latest |= self._found
        return result

    def _check_files(self) -> None:
        """Check that the paths still name the files that this connection has open.

        Raises:
            OSError: One of them was deleted or replaced.
        """
        if not self._are_files_own:
            raise OSError(f"it was deleted or replaced, or a file beside it was; {_AGAIN}")

    @property
    def _are_files_own(self) -> bool:
        # If not, this connection uses the old files, and programs that are started later others.
        try:
            return _identities(self._path) == self._files
        except FileNotFoundError:
            return False

    def _held(self, pair: str, now_s: float) -> Held:
        return self._read_held(pair, now_s)[0]

    def _read_held(self, pair: str, now_s: float) -> tuple[Held, float]:
        """Read what is held at a time, and when the next lease runs out, both by `clock`."""
        execute = self._database.execute
        row = execute("SELECT revision, record FROM records WHERE pair = ?", (pair,)).fetchone()
        leases = execute(
            "SELECT node, until_s FROM leases WHERE pair = ? AND until_s > ?", (pair, now_s)
        ).fetchall()
        ends = execute("SELECT node, statement FROM ends WHERE pair = ?", (pair,)).fetchall()
        held = Held(
            revision=row[0] if row else 0,
            shared=load_shared(row[1], pair) if row else None,
            leases=frozenset(node for node, _ in leases),
            ends={node: load_end(statement, node) for node, statement in ends},
        )
        self._check_later(pair, (held.revision, row[1] if row else None))
        return held, min((until_s for _, until_s in leases), default=math.inf)

    def _check_later(self, pair: str, found: tuple[int, str | None]) -> None:
        """Check that a pair's record is the one that was read last, or a later one.

        Args:
            pair: The pair's name.
            found: The revision of the record that is held now, and its text.

        Raises:
            OSError: It is an earlier one, so that changes which others know as done are undone.
        """
        latest = self._latest.get(pair, found)
        if found != latest and found[0] <= latest[0]:
            why = f"it holds revision {found[0]}, and another record was read at {latest[0]} before"
            raise OSError(f"{why}: it was restored from a backup; {_AGAIN}")
        self._found[pair] = found

    def _mark(self, pair: str) -> tuple[object, ...]:
        """A value that is another one after each change of the file, by any connection.

        Raises:
            ArbiterLost: The file cannot be read.
        """
        try:
            row = self._database.execute("PRAGMA data_version").fetchone()
            # The version does not count this connection's own changes.
            return (self._are_files_own, row[0], self._database.total_changes)
        except (OSError, sqlite3.Error) as error:
            raise ArbiterLost(pair, f"{self._path}: {error}") from error


def _identities(path: Path) -> list[tuple[int, int]]:
    found = [Path(f"{path}{suffix}").stat() for suffix in _BESIDE]
    return [(one.st_dev, one.st_ino) for one in found]


def _is_busy(error: Exception) -> bool:
    return code_of(error) in _BUSY_CODES

"""The arbiter in a file: what a file can be, beyond the contract of every arbiter."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from tests.supervise.arbitration import (
    ALPHA,
    CLAIMED,
    END,
    LEASE_S,
    LIMIT_S,
    PAIR,
    SHARED,
    renewed,
    written,
)

from pycolo.errors import ArbiterLost, ArbiterOvertaken, StoreError
from pycolo.supervise import Held
from pycolo.supervise.arbiters import SqliteArbiter
from pycolo.supervise.arbiters.sqlite import boottime_s


@contextmanager
def database(folder: Path) -> Generator[sqlite3.Connection]:
    """The arbiter's file, as another program opens it."""
    connection = sqlite3.connect(folder / "arbiter.db", isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


async def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    """A new object with the same folder finds record, lease and statement of the old one."""
    first = SqliteArbiter(tmp_path)
    await written(first)
    assert await renewed(first)
    await first.state(PAIR, END, limit_s=LIMIT_S)
    held = await first.read(PAIR, limit_s=LIMIT_S)
    await first.aclose()
    second = SqliteArbiter(tmp_path)
    assert held == await second.read(PAIR, limit_s=LIMIT_S)
    assert (SHARED, frozenset(["alpha"]), {"beta": END}) == (held.shared, held.leases, held.ends)
    await second.aclose()


def _swap_and_wait(folder: Path, ready: Connection) -> None:
    """Swap in a process of its own, say so, and wait to be killed."""

    async def swap() -> None:
        await written(SqliteArbiter(folder), CLAIMED)

    asyncio.run(swap())
    ready.send("swapped")
    ready.recv()


async def test_a_change_outlives_the_process_that_made_it(tmp_path: Path) -> None:
    """What a process was told is done is there after it was killed, and others may write."""
    arbiter = SqliteArbiter(tmp_path)
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_swap_and_wait, args=(tmp_path, theirs))
    process.start()
    try:
        assert ours.poll(30)
    finally:
        process.kill()
        process.join()
    held = await arbiter.read(PAIR, limit_s=LIMIT_S)
    assert CLAIMED == held.shared
    assert SHARED == (await arbiter.swap(PAIR, held, SHARED, limit_s=LIMIT_S)).shared
    await arbiter.aclose()


async def test_whoever_holds_the_lock_is_waited_for_until_the_limit(tmp_path: Path) -> None:
    """A change waits for another process that writes, while the event loop continues."""
    arbiter = SqliteArbiter(tmp_path)
    held = await written(arbiter)
    with database(tmp_path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ArbiterLost, match="database is locked"):
            await arbiter.swap(PAIR, held, CLAIMED, limit_s=0.05)
        # Readers need no lock.
        assert held == await arbiter.read(PAIR, limit_s=0.0)
        swap = asyncio.create_task(arbiter.swap(PAIR, held, CLAIMED, limit_s=LIMIT_S))
        done, _ = await asyncio.wait([swap], timeout=0.05)
        assert not done
        other.execute("ROLLBACK")
        assert CLAIMED == (await swap).shared
    await arbiter.aclose()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE records SET record = '{}'", "format_version must be 1, .*, not None"),
        (
            "UPDATE records SET record = replace(record, 'protected', 'sure')",
            "record.phase must be one of alone, joining, protected, not 'sure'",
        ),
        ("UPDATE ends SET statement = '[]'", r"ends.beta must be an object, not \[\]"),
        ("UPDATE ends SET node = 'alpha'", "ends.alpha.node must be alpha, not 'beta'"),
        ("DROP TABLE ends", "no such table: ends"),
    ],
)
async def test_a_damaged_file_is_no_answer(tmp_path: Path, change: str, message: str) -> None:
    """What pycolo would not write like that says nothing for certain, and is not written over."""
    arbiter = SqliteArbiter(tmp_path)
    held = await written(arbiter)
    await arbiter.state(PAIR, END, limit_s=LIMIT_S)
    with database(tmp_path) as other:
        other.execute(change)
        before = list(other.iterdump())
        with pytest.raises(ArbiterLost, match=message):
            await arbiter.read(PAIR, limit_s=LIMIT_S)
        with pytest.raises(ArbiterLost, match=message):
            await arbiter.swap(PAIR, held, CLAIMED, limit_s=LIMIT_S)
        with pytest.raises(ArbiterLost, match=message):
            await renewed(arbiter)
        assert before == list(other.iterdump())
    await arbiter.aclose()


def deleted(folder: Path, _: Path) -> None:
    """Take the file away, and leave what is beside it."""
    (folder / "arbiter.db").unlink()


def exchanged(folder: Path, backup: Path) -> None:
    """Put the backup in the file's place."""
    (backup / "arbiter.db").rename(folder / "arbiter.db")


def folder_exchanged(folder: Path, backup: Path) -> None:
    """Put the backup's folder in the place of the file's folder."""
    folder.rename(folder.with_name("old"))
    backup.rename(folder)


def copied(folder: Path, backup: Path) -> None:
    """Copy the backup over the file, which stays the same one, and delete what is beside it."""
    for suffix in ("-wal", "-shm"):
        (folder / f"arbiter.db{suffix}").unlink()
    shutil.copyfile(backup / "arbiter.db", folder / "arbiter.db")


def restored(folder: Path, backup: Path) -> None:
    """Restore the backup by SQLite itself, as one large change."""
    with database(backup) as source, database(folder) as target:
        source.backup(target)


@pytest.mark.parametrize("replace", [deleted, exchanged, folder_exchanged, copied, restored])
async def test_a_file_that_was_lost_or_restored_is_no_answer(
    tmp_path: Path, replace: Callable[[Path, Path], None]
) -> None:
    """What was acknowledged may be undone, or others may use another file: nothing is certain."""
    folder, backup = tmp_path / "arbiter", tmp_path / "backup"
    arbiter = SqliteArbiter(folder)
    first = await written(arbiter)
    backup.mkdir()
    with database(folder) as source, database(backup) as target:
        source.backup(target)
    held = await arbiter.swap(PAIR, first, CLAIMED, limit_s=LIMIT_S)
    waiting = asyncio.create_task(arbiter.changed(PAIR, held, limit_s=LIMIT_S))
    replace(folder, backup)
    message = "start every program that uses it again"
    for _ in range(2):
        for known in (first, held):
            with pytest.raises(ArbiterLost, match=message):
                await arbiter.swap(PAIR, known, SHARED, limit_s=LIMIT_S)
        with pytest.raises(ArbiterLost, match=message):
            await arbiter.read(PAIR, limit_s=LIMIT_S)
        with pytest.raises(ArbiterLost, match=message):
            await renewed(arbiter)
    with pytest.raises(ArbiterLost):
        await waiting
    await arbiter.aclose()


async def test_a_program_that_is_started_later_uses_the_file_that_is_there(tmp_path: Path) -> None:
    """It was restored from a backup: the record in it is what is held."""
    arbiter = SqliteArbiter(tmp_path / "arbiter")
    await written(arbiter)
    shutil.copytree(tmp_path / "arbiter", tmp_path / "backup")
    folder_exchanged(tmp_path / "arbiter", tmp_path / "backup")
    await arbiter.aclose()
    anew = SqliteArbiter(tmp_path / "arbiter")
    assert SHARED == (await anew.read(PAIR, limit_s=LIMIT_S)).shared
    await anew.aclose()


async def test_a_revision_that_was_given_twice_does_not_let_a_swap_through(tmp_path: Path) -> None:
    """After a restored backup the same revision may name another record: that is overtaken."""
    arbiter = SqliteArbiter(tmp_path)
    held = await written(arbiter)
    assert 1 == held.revision
    with database(tmp_path) as other:
        other.execute("DELETE FROM records")
    anew = SqliteArbiter(tmp_path)
    again = await written(anew, CLAIMED)
    assert held.revision == again.revision
    with pytest.raises(ArbiterOvertaken, match="it is at revision 1"):
        await anew.swap(PAIR, held, SHARED, limit_s=LIMIT_S)
    with pytest.raises(ArbiterLost, match="another record was read at 1 before"):
        await arbiter.read(PAIR, limit_s=LIMIT_S)
    await arbiter.aclose()
    await anew.aclose()


async def test_leases_run_once_more_after_the_machine_was_restarted(tmp_path: Path) -> None:
    """A clock that began anew does not tell how old a lease is, so it lasts its whole length."""
    now_s = 5000.0
    before = SqliteArbiter(tmp_path, clock=lambda: now_s)
    await written(before)
    assert await before.renew(PAIR, "alpha", ALPHA, lease_s=LEASE_S, limit_s=LIMIT_S)
    await before.aclose()
    with database(tmp_path) as other:
        # What a machine writes that has started only once since.
        other.execute("UPDATE leases SET boot = 'the boot before'")
    now_s = 7.0
    after = SqliteArbiter(tmp_path, clock=lambda: now_s)
    assert frozenset(["alpha"]) == (await after.read(PAIR, limit_s=LIMIT_S)).leases
    now_s = 7.0 + LEASE_S - 0.01
    # It is opened once more, by another agent, which makes it no longer.
    again = SqliteArbiter(tmp_path, clock=lambda: now_s)
    assert frozenset(["alpha"]) == (await again.read(PAIR, limit_s=LIMIT_S)).leases
    now_s = 7.0 + LEASE_S
    assert frozenset() == (await after.read(PAIR, limit_s=LIMIT_S)).leases
    await after.aclose()
    await again.aclose()


async def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """The error names the folder and what is wrong with it."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file: the folder .*exists.*another"):
        SqliteArbiter(tmp_path / "file")
    (tmp_path / "arbiter.db").write_text("no database, though it is long enough to be one" * 100)
    with pytest.raises(StoreError, match=r"arbiter\.db is no SQLite database.*: move it away"):
        SqliteArbiter(tmp_path)


async def test_a_wait_asks_the_file_seldom(tmp_path: Path) -> None:
    """Who waits for a change leaves the event loop to others: it asks some times a second."""
    arbiter = SqliteArbiter(tmp_path)
    asked = 0

    def count(_: str) -> None:
        nonlocal asked
        asked += 1

    arbiter._database.set_trace_callback(count)  # noqa: SLF001 - nothing else sees what is asked
    assert Held() == await arbiter.changed(PAIR, Held(), limit_s=0.5)
    assert 5 <= asked <= 30
    await arbiter.aclose()


def test_leases_expire_while_the_machine_is_suspended() -> None:
    """The clock is that of the kernel which counts suspended time, too."""
    before_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before_s <= boottime_s() <= time.clock_gettime(time.CLOCK_BOOTTIME)

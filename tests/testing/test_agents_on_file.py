"""Agents whose arbiter is a file, on fakes: it is lost, or restored from a backup, under them."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import attrs
import pytest
from tests.testing.agents import NODES, Agents, Network, started
from tests.testing.test_controller import write
from tests.testing.test_supervisor import serves
from tests.testing.testbed import FakePair, declared, in_world, time_passes

from pycolo.supervise.arbiters import SqliteArbiter


def delete(folder: Path, _: Path) -> None:
    """Take the file away."""
    (folder / "arbiter.db").unlink()


def exchange(folder: Path, backup: Path) -> None:
    """Put the backup in its place."""
    backup.rename(folder / "arbiter.db")


def copy_over(folder: Path, backup: Path) -> None:
    """Copy the backup over it, and delete what belonged to the old one."""
    for suffix in ("-wal", "-shm"):
        (folder / f"arbiter.db{suffix}").unlink()
    shutil.copyfile(backup, folder / "arbiter.db")


def restore(folder: Path, backup: Path) -> None:
    """Have SQLite restore the backup, while the agents have the file open."""
    with (
        closing(sqlite3.connect(backup)) as source,
        closing(sqlite3.connect(folder / "arbiter.db")) as target,
    ):
        source.backup(target)


@pytest.mark.parametrize("lose", [delete, exchange, copy_over, restore])
def test_file_that_is_lost_counts_as_no_answer(
    tmp_path: Path, lose: Callable[[Path, Path], None]
) -> None:
    """The guest runs on, protected; when its QEMU ends, nobody continues by what is in a file."""
    folder, backup = tmp_path / "arbiter", tmp_path / "backup.db"

    async def played(life: FakePair) -> None:
        network = Network(life)
        arbiters = {node: SqliteArbiter(folder, clock=lambda: life.world.now_s) for node in NODES}
        with (
            closing(sqlite3.connect(folder / "arbiter.db")) as source,
            closing(sqlite3.connect(backup)) as target,
        ):
            # The backup is as old as can be: it holds no record.
            source.backup(target)
        async with started(Agents(life, arbiters, network.guards)) as agents:
            count = await agents.protected()
            write(life)
            lose(folder, backup)
            for node in NODES:
                since = await agents.until("no certain answer", node=node, since=count)
                event = agents.events[since - 1][1]
                assert "trouble" == event.kind
                assert "start every program that uses it again" in event.text
            await time_passes(60.0)
            assert "alpha" == await serves(life)
            life.world.qemu("alpha").kill()
            await time_passes(60.0)
            texts = [event.text for _, event in agents.events[count:]]
            assert not [text for text in texts if "continues alone" in text or "launch" in text]
        for arbiter in arbiters.values():
            await arbiter.aclose()

    in_world("11.1.3", played, attrs.evolve(declared(), spares=()))

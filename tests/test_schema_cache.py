"""Schemas that the QEMUs of one build share."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.scripted_qmp import SILENCE, ScriptedQmp, scripted_qmp

from pycolo import errors
from pycolo.model import UnixMonitor
from pycolo.qmp.schema import Schema, packaged_entries
from pycolo.session import SchemaCache, Session

LIMIT_S = 5.0
SHORT_S = 0.1
ENTRIES = packaged_entries("11.1.3")
NAMES = sorted(Schema.packaged("11.1.3").commands)
FULL, NAMES_ONLY = ["query-commands", "query-qmp-schema"], ["query-commands"]


@asynccontextmanager
async def qemu(
    path: Path, cache: SchemaCache, *, package: str = "", without: str = ""
) -> AsyncGenerator[tuple[ScriptedQmp, Session]]:
    """A QEMU that tells its schema, and a session with it."""
    async with scripted_qmp(path) as script:
        script.package = package
        script.replies["query-commands"] = [{"name": name} for name in NAMES if name != without]
        script.replies["query-qmp-schema"] = ENTRIES
        monitor = UnixMonitor(path=str(path))
        async with await Session.connect(
            "alpha", monitor, limit_s=LIMIT_S, schemas=cache
        ) as opened:
            yield script, opened


async def test_second_qemu_of_a_build_is_asked_for_its_commands_alone(tmp_path: Path) -> None:
    """Its version, package and commands are those of the first, so its schema is too."""
    cache = SchemaCache()
    async with (
        qemu(tmp_path / "one", cache) as (one, first),
        qemu(tmp_path / "two", cache) as (two, second),
    ):
        assert await first.schema(limit_s=LIMIT_S) is await second.schema(limit_s=LIMIT_S)
        assert (FULL, NAMES_ONLY) == (one.commands, two.commands)


@pytest.mark.parametrize(
    ("package", "without"), [("Debian 1:11.1.3", ""), ("", "xen-set-replication")]
)
async def test_qemu_of_another_build_is_read(tmp_path: Path, package: str, without: str) -> None:
    """A distribution's own build, and one that was configured to have fewer commands."""
    cache = SchemaCache()
    async with qemu(tmp_path / "one", cache) as (_, first):
        await first.schema(limit_s=LIMIT_S)
        other = qemu(tmp_path / "two", cache, package=package, without=without)
        async with other as (script, second):
            await second.schema(limit_s=LIMIT_S)
            assert FULL == script.commands


async def test_connection_that_is_opened_anew_reads_no_schema_again(tmp_path: Path) -> None:
    """What answers there now is asked for its commands: it may have been replaced meanwhile."""
    async with qemu(tmp_path / "one", SchemaCache()) as (script, session):
        await session.schema(limit_s=LIMIT_S)
        await session.reopen(limit_s=LIMIT_S)
        await session.schema(limit_s=LIMIT_S)
        assert [*FULL, *NAMES_ONLY] == script.commands


async def test_two_that_ask_at_once_read_one_schema(tmp_path: Path) -> None:
    """The second waits for the first: a controller that starts anew connects to all at once."""
    cache = SchemaCache()
    async with (
        qemu(tmp_path / "one", cache) as (one, first),
        qemu(tmp_path / "two", cache) as (two, second),
    ):
        await asyncio.gather(first.schema(limit_s=LIMIT_S), second.schema(limit_s=LIMIT_S))
        assert 1 == [*one.commands, *two.commands].count("query-qmp-schema")


async def test_qemu_that_gives_no_schema_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Whoever has waited to its own limit reads for itself."""
    cache = SchemaCache()
    async with (
        qemu(tmp_path / "one", cache) as (one, first),
        qemu(tmp_path / "two", cache) as (_, second),
    ):
        one.replies["query-qmp-schema"] = SILENCE
        stuck = asyncio.create_task(first.schema(limit_s=LIMIT_S))
        await one.until_seen("query-qmp-schema")
        assert Schema.packaged("11.1.3") == await second.schema(limit_s=SHORT_S)
        one.hang_up()
        with pytest.raises(errors.CommandUnknown):
            await stuck

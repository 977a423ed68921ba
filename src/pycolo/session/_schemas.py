"""The schema of each QEMU build, read once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import final

import attrs

from pycolo.qmp.replies import VersionInfo
from pycolo.qmp.schema import Schema


@final
@attrs.frozen(kw_only=True)
class Build:
    """A build of QEMU, identified by its version and its commands."""

    version: VersionInfo
    "QEMU's version and the distribution's package, from its greeting."
    commands: frozenset[str]
    "The names of all commands that it has."


@final
class SchemaCache:
    """A cache of schemas: the schema of each QEMU build is read and parsed once.

    A schema is a reply of about 200 KiB, and reading it takes most of the time of opening a
    connection. Pass one cache to all sessions of an event loop. QEMUs share a schema if their
    version, their package and the names of all their commands are equal.

    The version alone is not enough: a QEMU that was configured without replication, or patched, may
    have the same version, but it has other commands (qemu-behaviour 19.9). Two builds that differ
    only in a command's arguments count as one; then QEMU, and not the compiler, refuses an argument
    that it does not know.
    """

    def __init__(self) -> None:
        self._known: dict[Build, Schema] = {}
        self._reading: dict[Build, asyncio.Lock] = {}

    async def of(
        self, build: Build, read: Callable[[], Awaitable[Schema]], *, limit_s: float
    ) -> Schema:
        """The schema of a build; the first call for a build reads it.

        Args:
            build: The build.
            read: Reads the schema of this build from a QEMU.
            limit_s: How long to wait for another call that reads the schema of this build, in
                seconds; after that this call reads it too.

        Raises:
            RemoteError: As `read`.
            ParseError: As `read`.
        """
        lock = self._reading.setdefault(build, asyncio.Lock())
        async with contextlib.AsyncExitStack() as held:
            # The QEMU that the other call asks may hang; this call must not wait for ever.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await held.enter_async_context(lock)
            if build not in self._known:
                self._known[build] = await read()
        return self._known[build]

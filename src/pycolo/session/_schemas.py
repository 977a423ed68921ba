"""Schemas that are read once for all QEMUs of one build."""

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
    """What tells one build of QEMU from another, by what it says of itself."""

    version: VersionInfo
    "Its version and the distribution's package, from its greeting."
    commands: frozenset[str]
    "The names of all its commands."


@final
class SchemaCache:
    """The schemas of the QEMUs that a program talks to, each build's read and parsed once.

    A schema is a reply of some 200 KiB, and to read it takes most of the time that a connection
    takes. Hand one cache to all sessions of an event loop: QEMUs share a schema if their
    version, their package and the names of all their commands are equal.

    The version alone would not be enough: a QEMU that was configured without replication, or
    patched, may have the same one. Such a QEMU has other commands (qemu-behaviour 19.9), so that
    its own schema is read. Two builds that differ in a command's arguments alone are taken for one;
    what only one of them accepts is then refused by QEMU and not by the compiler.
    """

    def __init__(self) -> None:
        self._known: dict[Build, Schema] = {}
        self._reading: dict[Build, asyncio.Lock] = {}

    async def of(
        self, build: Build, read: Callable[[], Awaitable[Schema]], *, limit_s: float
    ) -> Schema:
        """The schema of a build; whoever asks for it first reads it.

        Args:
            build: The build.
            read: Reads the schema of this build.
            limit_s: How long to wait for somebody else who reads it, in seconds; then it is read
                here as well.

        Raises:
            RemoteError: As `read`.
            ParseError: As `read`.
        """
        lock = self._reading.setdefault(build, asyncio.Lock())
        async with contextlib.AsyncExitStack() as held:
            # Its QEMU may hang while it is asked, which is no reason for others to wait for ever.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await held.enter_async_context(lock)
            if build not in self._known:
                self._known[build] = await read()
        return self._known[build]

"""The hosts that nodes run on: what pycolo can ask of a host, and do there.

A `Host` is a protocol. Its implementations are this machine (`LocalHost`), a machine over ssh
(`SshHost`, extra `ssh`), a simulated host (`pycolo.testing`), or one of the program that uses
pycolo. Evidence of a QEMU's end, and the record that says which node has the newest data, always
come from the host on which that QEMU ran.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from typing import Protocol, final

import attrs

from pycolo.evidence import Evidence, Victim
from pycolo.facts import HostFacts, NoFacts, Part
from pycolo.model.node import Monitor
from pycolo.model.pair import ColoPair
from pycolo.plan import HostAction
from pycolo.qmp.replies import Version
from pycolo.record import Change, RecordState
from pycolo.snapshot import Running

__all__ = ("Host", "HostState")


@final
@attrs.frozen(kw_only=True)
class HostState:
    """What a node's host knows of the pair."""

    record: RecordState
    "The node's record, as its file on this host says."
    folder: str = ""
    "A text that identifies the node's image folder among all hosts; empty if it is not known."
    running: Running | None = None
    "The QEMU that is known to run there for the node; None does not prove that none runs."


class Host(Protocol):
    """What pycolo needs of the host of a node. Every path is a path on that host.

    A host stays usable after each of the errors named below. A method that takes a pair raises
    `DeclarationError` if the pair has no node of the given name. A limit begins once a connection
    to the host is open: over ssh, opening it may take up to 5 s more.
    """

    async def connect(self, node: str, monitor: Monitor) -> socket.socket:
        """Open a connected, non-blocking socket to a monitor.

        While the monitor's listen backlog is full, this waits without a limit.

        Args:
            node: The node's name, for messages.
            monitor: Where QEMU listens on that host.

        Returns:
            The socket; the caller closes it.

        Raises:
            ConnectionFailed: Nothing listens there, or the host cannot be reached.
        """

    async def observe(self, pair: ColoPair, node: str, *, limit_s: float) -> HostState:
        """Read a node's record, and find out whether a QEMU of the node runs on the host.

        A host that cannot be reached raises no error: the returned record says so.

        Args:
            pair: The declaration.
            node: The node's name.
            limit_s: How long the answer may take, in seconds.

        Returns:
            The state of the node on its host. Its record is an `UnreadRecord` if the host cannot be
            asked, if the record's file cannot be read or its folder is missing, or if the images
            belong to another node or to a record in another place.
        """

    async def write(self, pair: ColoPair, node: str, change: Change, *, limit_s: float) -> None:
        """Replace a node's record durably, if the record is still the one that the change expects.

        Args:
            pair: The declaration.
            node: The node's name.
            change: What the record must still be, and what it becomes.
            limit_s: How long it may take, in seconds.

        Raises:
            HostRefused: The record on the host is another one, or it could not be written, or the
                host cannot be reached; nothing was changed.
            CommandUnknown: It is not known whether the record was written.
        """

    async def run(self, pair: ColoPair, node: str, action: HostAction, *, limit_s: float) -> str:
        """Create an image, start or end a QEMU, or check ports or devices.

        Args:
            pair: The declaration.
            node: The node's name.
            action: The action to perform.
            limit_s: How long it may take, in seconds.

        Returns:
            A note for the report, usually empty. For `StopQemu`, how it is known that the QEMU
            ended.

        Raises:
            HostRefused: The action was not done, or the host cannot be reached. A QEMU that was
                started and gave no answer was killed; else nothing was changed.
            CommandUnknown: It is not known whether the action was done.
        """

    async def death(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """Ask the host whether this QEMU has ended.

        Args:
            pair: The declaration.
            victim: Which QEMU.
            limit_s: How long the answer may take, in seconds.

        Returns:
            Evidence of the QEMU's end, if the host has it. None if the QEMU runs, if the host does
            not know this QEMU, or if the host cannot be reached.
        """

    async def ended(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """Wait until a QEMU has ended.

        Args:
            pair: The declaration.
            victim: Which QEMU.
            limit_s: How long to wait, in seconds.

        Returns:
            Evidence of the QEMU's end, as soon as the host has it. None if the limit passes first,
            and at once if the host does not know this QEMU or cannot be reached.
        """

    async def version(self, pair: ColoPair, node: str, *, limit_s: float) -> Version:
        """Ask the QEMU binary that the node declares for its version; no guest is started.

        Args:
            pair: The declaration.
            node: The node's name.
            limit_s: How long the answer may take, in seconds.

        Raises:
            HostRefused: The binary is missing or fails, or prints no version, or the host cannot be
                reached.
            CommandUnknown: The host gave no answer.
        """

    async def facts(
        self, pair: ColoPair, node: str, parts: Collection[Part], *, limit_s: float
    ) -> HostFacts | NoFacts:
        """Read the facts that a preflight needs of a node's host; nothing is changed there.

        Args:
            pair: The declaration.
            node: The node's name.
            parts: The parts to read; the host's clock is always read.
            limit_s: How long the answer may take, in seconds.

        Returns:
            The facts that were read, or `NoFacts` with the reason why the host could not be asked.
            A part that was not read in time, or could not be read, is None, and
            `HostFacts.unread` has the reason.
        """

    async def aclose(self) -> None:
        """Close the connection to the host; may be called again. QEMUs keep running."""

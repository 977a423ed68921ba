"""The hosts that nodes run on: what can be asked of them, and done there.

A `Host` is a protocol: this machine (`LocalHost`), a machine over ssh (`SshHost`, extra `ssh`), the
hosts of fakes (`pycolo.testing`), or an embedder's own. Everything that proves a death or says who
has the newest data comes from the host on which it happened.
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
    "What the node's own file says."
    folder: str = ""
    "What tells its image folder from every other one; empty if that is not known."
    running: Running | None = None
    "The QEMU whose process is known to run there for the node; None proves nothing."


class Host(Protocol):
    """What pycolo needs of the host of a node. Every path is a path on that host.

    A host stays usable after each of these errors. A method that is given a pair raises
    `DeclarationError` for a node that the pair does not have.
    """

    async def connect(self, node: str, monitor: Monitor) -> socket.socket:
        """Open a connected, non-blocking socket to a monitor.

        Args:
            node: The node's name, for messages.
            monitor: Where QEMU listens on that host.

        Returns:
            The socket; the caller closes it.

        Raises:
            ConnectionFailed: There is no such socket, or the host is out of reach.
        """

    async def observe(self, pair: ColoPair, node: str, *, limit_s: float) -> HostState:
        """Read a node's record, and ask whether a process of its QEMU runs there.

        A host that is out of reach is no error.

        Args:
            pair: The declaration.
            node: The node's name.
            limit_s: How long the answer may take, in seconds.

        Returns:
            What lies there. The record is an `UnreadRecord` if the host cannot be asked, if its
            folder is missing, and if the images belong to another node or to a record in another
            place.
        """

    async def write(self, pair: ColoPair, node: str, change: Change, *, limit_s: float) -> None:
        """Replace a node's record if it still is what the change expects, durably.

        Args:
            pair: The declaration.
            node: The node's name.
            change: What the record must still be, and what it becomes.
            limit_s: How long it may take, in seconds.

        Raises:
            HostRefused: It is another one, or could not be written; nothing was changed.
            CommandUnknown: It is not known whether it was written.
        """

    async def run(self, pair: ColoPair, node: str, action: HostAction, *, limit_s: float) -> str:
        """Create an image, start a QEMU, end a QEMU, or check ports.

        Args:
            pair: The declaration.
            node: The node's name.
            action: What to do.
            limit_s: How long it may take, in seconds.

        Returns:
            A note for the report, usually empty. For `StopQemu`, how the QEMU ended.

        Raises:
            HostRefused: It was not done, and nothing was changed.
            CommandUnknown: It is not known whether it was done.
        """

    async def death(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """Ask the host whether this QEMU has ended.

        Args:
            pair: The declaration.
            victim: Which QEMU.
            limit_s: How long the answer may take, in seconds.

        Returns:
            Evidence, if the host can show it. None if the QEMU runs, if the host does not know it,
            or if the host cannot be reached.
        """

    async def ended(self, pair: ColoPair, victim: Victim, *, limit_s: float) -> Evidence | None:
        """Wait until a QEMU has ended.

        Args:
            pair: The declaration.
            victim: Which QEMU.
            limit_s: How long to wait, in seconds.

        Returns:
            Evidence, as soon as the host can show it. None if the limit passes, and at once if the
            host does not know the QEMU or cannot be reached.
        """

    async def version(self, pair: ColoPair, node: str, *, limit_s: float) -> Version:
        """The version of the QEMU that is installed for a node.

        Args:
            pair: The declaration.
            node: The node's name.
            limit_s: How long the answer may take, in seconds.

        Raises:
            HostRefused: The host cannot find it out.
        """

    async def facts(
        self, pair: ColoPair, node: str, parts: Collection[Part], *, limit_s: float
    ) -> HostFacts | NoFacts:
        """Read what a preflight asks of a node's host; it changes nothing.

        Args:
            pair: The declaration.
            node: The node's name.
            parts: What to read; the clock is always read.
            limit_s: How long the answer may take, in seconds; what is not read then is left out.

        Returns:
            What was read, or why the host could not be asked.
        """

    async def aclose(self) -> None:
        """Close the way to the host; may be called again. QEMUs keep running."""

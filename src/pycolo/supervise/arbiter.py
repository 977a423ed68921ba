"""The interface of an arbiter, which holds each pair's record outside the pair's hosts.

An arbiter serves the agents of several hosts, which may not reach each other: before a node runs
alone, its agent changes the record there. `SqliteArbiter` serves agents on one machine,
`EtcdArbiter` (extra `etcd`) agents on many. A cloud controller can implement another one, such as
by a row of its database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, final

import attrs

from pycolo._mapping import read_only_mappings
from pycolo.evidence import Evidence
from pycolo.supervise.shared import SharedRecord


@final
@attrs.frozen(kw_only=True, field_transformer=read_only_mappings)
class Held:
    """What an arbiter holds for one pair, as of one read."""

    revision: int = 0
    "The number of this state of the record, different after each change. 0: there is no record."
    shared: SharedRecord | None = None
    "The record; None if no record was written yet."
    leases: frozenset[str] = frozenset()
    "The nodes that have a lease which has not run out."
    ends: Mapping[str, Evidence] = attrs.field(factory=dict)
    "Node name to the latest evidence, stored by its agent, that a QEMU of the node has ended."


class Arbiter(Protocol):
    """Holds the records of any number of pairs, and changes them by compare-and-swap.

    Every answer is linearizable: it shows each change that was acknowledged before the question.
    Each method ends within its `limit_s`, which is above 0. `ArbiterLost` is raised if no answer
    came, or none that can be used, so that it is uncertain what was done; after a change the caller
    then reads again before it acts. `DeclarationError` is raised, and nothing is sent, for a name
    that no pair or no node can have, for a record under another pair's name, and for a lease that
    is not above 0 s.
    """

    async def identity(self, *, limit_s: float) -> str:
        """The name by which the files of records refer to this arbiter, such as `etcd:CLUSTER`.

        An arbiter that was set up again has another name, so that it is not taken for the old one.

        Args:
            limit_s: How long the answer may take, in seconds.

        Returns:
            The same name each time.

        Raises:
            ArbiterLost: No answer came.
        """

    async def read(self, pair: str, *, limit_s: float) -> Held:
        """Read what is held for a pair.

        Args:
            pair: The pair's name.
            limit_s: How long the answer may take, in seconds.

        Returns:
            What is held; revision 0 and no record for a pair that the arbiter does not know.

        Raises:
            ArbiterLost: No answer came.
        """

    async def swap(
        self,
        pair: str,
        held: Held,
        shared: SharedRecord,
        *,
        no_lease_of: str | None = None,
        limit_s: float,
    ) -> Held:
        """Replace a pair's record durably, if it still is the one that was read.

        Args:
            pair: The pair's name.
            held: What was read, which the arbiter must still hold.
            shared: The new record.
            no_lease_of: A node that must have no lease at the moment of the change; None for no
                such condition.
            limit_s: How long the answer may take, in seconds.

        Returns:
            What is held now.

        Raises:
            ArbiterOvertaken: Another record is held, or that node has a lease; nothing was changed.
            ArbiterLost: No answer came: it is not known whether the record was replaced.
        """

    async def renew(
        self, pair: str, node: str, instance: str, *, lease_s: float, limit_s: float
    ) -> bool:
        """Renew or begin a node's lease if the record allows it, in one transaction.

        Args:
            pair: The pair's name.
            node: The node.
            instance: The identity of the node's QEMU.
            lease_s: After how many seconds without a renewal the lease runs out; never earlier.
            limit_s: How long the answer may take, in seconds.

        Returns:
            True if the lease was renewed, because the record lets this QEMU run alone and no
            other node claims the pair. Otherwise nothing was changed.

        Raises:
            ArbiterLost: No answer came: it is not known whether the lease was renewed.
        """

    async def release(self, pair: str, node: str, *, limit_s: float) -> None:
        """End a node's lease now, before it runs out by itself.

        Call it only when the node's QEMU has ended, or when the record lets one node alone run, so
        that no lease is needed.

        Args:
            pair: The pair's name.
            node: The node.
            limit_s: How long the answer may take, in seconds.

        Raises:
            ArbiterLost: No answer came: it is not known whether the lease was ended. It runs out by
                itself.
        """

    async def state(self, pair: str, end: Evidence, *, limit_s: float) -> None:
        """Store evidence that a QEMU of the caller's host has ended.

        It replaces earlier evidence about a QEMU of the same node.

        Args:
            pair: The pair's name.
            end: The evidence.
            limit_s: How long the answer may take, in seconds.

        Raises:
            ArbiterLost: No answer came: it is not known whether the evidence was stored.
        """

    async def changed(self, pair: str, held: Held, *, limit_s: float) -> Held:
        """Wait until what is held for a pair is no longer what was read.

        Args:
            pair: The pair's name.
            held: What was read.
            limit_s: How long to wait, in seconds.

        Returns:
            What is held at the end of the wait; equal to `held` if nothing changed in time.

        Raises:
            ArbiterLost: It is not known whether anything has changed; read again.
        """

    async def aclose(self) -> None:
        """Close the connection to the arbiter. May be called again.

        Every other method raises `ArbiterLost` from then on. Leases run out by themselves.
        """

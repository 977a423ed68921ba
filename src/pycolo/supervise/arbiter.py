"""The arbiter's contract: it holds each pair's record outside the pair's hosts.

An arbiter serves the agents of several hosts, of which none reaches all others: whoever wants to
run alone changes the record there first. SQLite serves one machine (`SqliteArbiter`), etcd many
(`EtcdArbiter`, extra `etcd`); a cloud controller brings its own, such as a row of its database.
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
    "The record; None as long as nobody has written one."
    leases: frozenset[str] = frozenset()
    "Nodes whose agent has a lease that has not run out."
    ends: Mapping[str, Evidence] = attrs.field(factory=dict)
    "Node name to what its agent states of the end of its QEMU: the latest statement of each."


class Arbiter(Protocol):
    """Reads, and compare-and-swaps, over any number of pairs.

    Every answer is linearizable: it shows each change that was acknowledged before the question.
    Each method ends within its `limit_s`, which is above 0. `ArbiterLost` is raised if no answer
    came, or one that says nothing for certain; whoever changed something then reads again before it
    acts on it. `DeclarationError` is raised, and nothing asked, for a name that no pair or no node
    can have, for a record under another pair's name, and for a lease that is not above 0 s.
    """

    async def identity(self, *, limit_s: float) -> str:
        """The name that the records' files have for this arbiter, such as `etcd:CLUSTER`.

        An arbiter that was set up anew has another name, so that it is not taken for the old one.

        Args:
            limit_s: How long the answer may take, in seconds.

        Returns:
            The same name each time.

        Raises:
            ArbiterLost: There is no answer.
        """

    async def read(self, pair: str, *, limit_s: float) -> Held:
        """What is held for a pair.

        Args:
            pair: The pair's name.
            limit_s: How long the answer may take, in seconds.

        Returns:
            What is held; of a pair of which it knows nothing, revision 0 and no record.

        Raises:
            ArbiterLost: There is no answer.
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
        """Replace a pair's record if it still is the one that was read, durably.

        Args:
            pair: The pair's name.
            held: What was read.
            shared: The new record.
            no_lease_of: A node that must have no lease at that very moment; None for any.
            limit_s: How long the answer may take, in seconds.

        Returns:
            What is held now.

        Raises:
            ArbiterOvertaken: Another record is held, or that node has a lease; nothing was changed.
            ArbiterLost: It is not known whether it was changed.
        """

    async def renew(
        self, pair: str, node: str, instance: str, *, lease_s: float, limit_s: float
    ) -> bool:
        """Renew a node's lease, or begin it, in one transaction with a look at the record.

        Args:
            pair: The pair's name.
            node: The node.
            instance: Its QEMU.
            lease_s: After how many seconds without a renewal the lease runs out; never earlier.
            limit_s: How long the answer may take, in seconds.

        Returns:
            Whether it was renewed, because the record lets this QEMU run alone and no other node
            claims the pair. Otherwise nothing was changed.

        Raises:
            ArbiterLost: It is not known whether it was renewed.
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
            ArbiterLost: It is not known whether it was ended; it runs out by itself.
        """

    async def state(self, pair: str, end: Evidence, *, limit_s: float) -> None:
        """State that a QEMU of one's own host has ended: the statement about its node is replaced.

        Args:
            pair: The pair's name.
            end: What was seen.
            limit_s: How long the answer may take, in seconds.

        Raises:
            ArbiterLost: It is not known whether it was written.
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
            ArbiterLost: Changes cannot be followed any more; read again.
        """

    async def aclose(self) -> None:
        """Close the way to the arbiter; may be called again. Leases run out by themselves.

        Every other method raises ArbiterLost from then on.
        """

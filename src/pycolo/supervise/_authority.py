"""Where a keeper reads and writes a pair's record, what is wanted of the pair, and who claims it.

A supervisor that reaches both hosts decides for both nodes, by the nodes' own files. An agent
decides for one node, by an arbiter's record; see `pycolo.supervise._arbitration`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import Final, Protocol, final

from typing_extensions import override

from pycolo.evidence import Evidence
from pycolo.record import PairRecord, highest
from pycolo.snapshot import Snapshot
from pycolo.supervise._measures import LeaseAge
from pycolo.supervise.store import Store, Wish


class Authority(Protocol):
    """The source of a pair's record, wish and claim, which a keeper asks before it acts."""

    @property
    def claimed_by(self) -> str | None:
        """The node that claims the pair, which is about to run alone; None for none."""

    @property
    def is_lost(self) -> bool:
        """Whether the record can neither be read nor written."""

    @property
    def fuses(self) -> Mapping[str, float]:
        """Each node whose fuse is armed, to the seconds after which the fuse stops its QEMU."""

    @property
    def ends(self) -> Mapping[str, Evidence]:
        """The identity of a QEMU to the evidence, stored by an agent, that it has ended."""

    @property
    def observed(self) -> frozenset[str]:
        """The nodes of which this keeper uses only the observer monitors."""

    @property
    def needs_checkpoints(self) -> bool:
        """Whether a node's fuse is armed that only checkpoints renew now, since no lease does."""

    @property
    def cuts(self) -> bool:
        """Whether a node cuts its side of COLO before it claims the pair.

        It does if the other node may have a fuse: a checkpoint would renew that.
        """

    @property
    def doubt(self) -> str:
        """Why the record cannot be right, and what a person must do; empty for no doubt."""

    @property
    def frees_monitors(self) -> bool:
        """Whether the keeper uses no control monitor during a pause, so that other programs may.

        False for an agent: it hears over a control monitor the checkpoints that renew its fuse.
        After the pair was released to its files no fuse is needed, and it is True.
        """

    @property
    def hinders_removal(self) -> str:
        """Why the pair must not be removed now, as a clause; empty if it may be."""

    def begin(self) -> None:
        """Take what keeping the pair needs, such as a lock; nothing if that was done before.

        Call it in a running event loop, and `end` afterwards.

        Raises:
            StoreError: Another supervisor with the same store keeps the pair, or its lock cannot be
                made; not under an agent.
        """

    async def end(self) -> None:
        """Give back what `begin` took; nothing if there is none."""

    def wish(self) -> Wish:
        """What is wanted of the pair, and whether its supervision is paused.

        Until an agent's arbiter has answered for the first time, the pair is paused; afterwards
        this is what the arbiter said last.

        Raises:
            StoreError: A supervisor's store cannot be read; not under an agent.
        """

    def record(self, snapshot: Snapshot) -> PairRecord | None:
        """The record by which the keeper acts; None if there is none, or none could be read.

        Args:
            snapshot: What the last observation has shown, with the records of the nodes' files.
        """

    @property
    def lease(self) -> LeaseAge | None:
        """The age of the lease that this agent renews; None without one."""

    def decides(self, members: Collection[str]) -> tuple[str, ...]:
        """The nodes for which this keeper decides.

        Args:
            members: The nodes that the record names, the holder first.
        """

    def drives(self, record: PairRecord | None) -> bool:
        """Whether this keeper brings about what is wanted; if not, it only reads the pair."""

    def lacks_lease(self, node: str) -> bool:
        """Whether a node is known to have no lease; False if there are no leases."""

    async def is_current(self) -> bool:
        """Read the record once more.

        Call it before a QEMU is ended, or a host is fenced, because of the record.

        Returns:
            Whether the record is still the one that was read before.
        """

    async def claim(self, node: str) -> bool:
        """Claim the pair for a node.

        Returns:
            Whether the node claims the pair now.
        """

    async def give_back(self) -> bool:
        """Withdraw the claim of this keeper's node; if no guest is wanted, that of any node.

        Returns:
            False if there is such a claim, and it could not be withdrawn.
        """

    async def stop(self) -> bool:
        """Write that no guest is wanted.

        Returns:
            Whether it was written.

        Raises:
            StoreError: The store cannot be written.
        """

    async def move(self, to: str | None) -> bool:
        """Store on which spare the next secondary is to be launched; None for any node.

        Returns:
            Whether it was stored.

        Raises:
            StoreError: The store cannot be written; not under an agent.
        """

    async def settle(self, snapshot: Snapshot) -> bool:
        """Make the record and the node's own file agree.

        Args:
            snapshot: What the last observation has shown.

        Returns:
            Whether the pair must be observed again: the record or the file was changed, or the
            record is another one than at the last observation.
        """

    async def say_exit(self, end: Evidence) -> None:
        """Store evidence that the QEMU of this node has ended, for the other agents to read.

        It does not raise: an agent whose arbiter does not answer tells that as an event. A
        supervisor has nothing to do.
        """

    def lease_evidence(self, peer: str, instance: str, epoch: int) -> Evidence | None:
        """Evidence that a QEMU has ended because its node's lease ran out; None without leases.

        Call it only for the decision `lease-gone`: it does not check the lease itself.
        """

    def lease_s(self, node: str) -> float | None:
        """How long a node's lease lasts, in seconds, if its end is evidence.

        None if it is none: there are no leases, or the node has the guest and no fuse.
        """

    def way_out(self, node: str) -> str:
        """What a person can do if nothing shows that a node's QEMU has ended."""

    def checkpoint_begins(self) -> None:
        """Take note that the guest of COLO's primary was paused, such as for a checkpoint."""

    def checkpoint(self) -> None:
        """Take note that COLO's primary has finished the checkpoint that began last."""


@final
class FilesAuthority(Authority):
    """The authority of the one supervisor that reaches all hosts: the nodes' files, and a store.

    No other program acts on the pair, so the supervisor keeps a claim in memory only.
    """

    def __init__(self, pair: str, store: Store) -> None:
        """Store the arguments; nothing is read yet.

        Args:
            pair: The pair's name.
            store: Holds what is wanted of the pair.
        """
        self._pair: Final = pair
        self._store: Final = store
        self._claimed_by: str | None = None
        self._lock = contextlib.ExitStack()
        self._is_begun = False

    @override
    def begin(self) -> None:
        if not self._is_begun:
            self._lock.enter_context(self._store.alone(self._pair))
            self._is_begun = True

    @override
    async def end(self) -> None:
        self._is_begun = False
        self._lock.close()

    @property
    @override
    def hinders_removal(self) -> str:
        return ""

    @property
    @override
    def claimed_by(self) -> str | None:
        return self._claimed_by

    @property
    @override
    def is_lost(self) -> bool:
        return False

    @property
    @override
    def fuses(self) -> Mapping[str, float]:
        return {}

    @property
    @override
    def ends(self) -> Mapping[str, Evidence]:
        return {}

    @property
    @override
    def observed(self) -> frozenset[str]:
        return frozenset()

    @property
    @override
    def needs_checkpoints(self) -> bool:
        return False

    @property
    @override
    def cuts(self) -> bool:
        return False

    @property
    @override
    def doubt(self) -> str:
        return ""

    @property
    @override
    def frees_monitors(self) -> bool:
        return True

    @override
    def wish(self) -> Wish:
        return self._store.read(self._pair)

    @override
    def record(self, snapshot: Snapshot) -> PairRecord | None:
        return highest(snapshot.records)

    @override
    def decides(self, members: Collection[str]) -> tuple[str, ...]:
        return tuple(members)

    @override
    def drives(self, record: PairRecord | None) -> bool:
        return True

    @property
    @override
    def lease(self) -> LeaseAge | None:
        return None

    @override
    def lacks_lease(self, node: str) -> bool:
        return False

    @override
    async def is_current(self) -> bool:
        # Each observation reads the files, and no other program acts on the pair.
        return True

    @override
    async def claim(self, node: str) -> bool:
        self._claimed_by = node
        return True

    @override
    async def give_back(self) -> bool:
        self._claimed_by = None
        return True

    @override
    async def stop(self) -> bool:
        self._store.want(self._pair, "stopped")
        return True

    @override
    async def move(self, to: str | None) -> bool:
        self._store.move(self._pair, to)
        return True

    @override
    async def settle(self, snapshot: Snapshot) -> bool:
        return False

    @override
    async def say_exit(self, end: Evidence) -> None:
        # One keeper decides for both nodes, so that no other one has to read this.
        return

    @override
    def lease_evidence(self, peer: str, instance: str, epoch: int) -> Evidence | None:
        return None

    @override
    def lease_s(self, node: str) -> float | None:
        return None

    @override
    def way_out(self, node: str) -> str:
        said = f"type `pycolo fenced PAIRFILE {node} --how TEXT`"
        return f"bring its host back, or switch that host off and {said}"

    @override
    def checkpoint_begins(self) -> None:
        return

    @override
    def checkpoint(self) -> None:
        return

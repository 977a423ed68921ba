"""Who may act on a pair, on whose word: its record, what is wanted of it, and who claims it.

A supervisor that reaches both hosts decides for both nodes, by the nodes' own files. An agent
decides for one node, by an arbiter's record; see `pycolo.supervise._arbitration`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Protocol, final

from typing_extensions import override

from pycolo.evidence import Evidence
from pycolo.record import PairRecord, highest
from pycolo.snapshot import Snapshot
from pycolo.supervise.store import Store, Wish


class Authority(Protocol):
    """What a keeper asks before it acts."""

    @property
    def claimed_by(self) -> str | None:
        """The node that claims the pair."""

    @property
    def is_lost(self) -> bool:
        """Whether the record can neither be read nor written."""

    @property
    def fuses(self) -> Mapping[str, float]:
        """The nodes whose fuse is armed, and after how many seconds it stops their QEMU."""

    @property
    def ends(self) -> Mapping[str, Evidence]:
        """Identity to what others state of the end of that QEMU."""

    @property
    def observed(self) -> frozenset[str]:
        """The nodes that are reached over their observer monitors alone."""

    @property
    def needs_checkpoints(self) -> bool:
        """Whether a node's fuse is armed that nothing but a checkpoint can renew now."""

    @property
    def cuts(self) -> bool:
        """Whether a node cuts its side of COLO before it claims.

        A checkpoint renews the other node's fuse.
        """

    @property
    def doubt(self) -> str:
        """Why the record cannot be right, and what a person does about it; empty for no doubt."""

    @property
    def lets_go(self) -> bool:
        """Whether no control monitor is used during a pause, so that other programs may act.

        Not if a fuse is renewed by the checkpoints that are heard over one.
        """

    def wish(self) -> Wish:
        """What is wanted.

        Raises:
            StoreError: It cannot be read.
        """

    def record(self, snapshot: Snapshot) -> PairRecord | None:
        """The record that holds; None if there is none, or none could be read."""

    def decides(self, members: Collection[str]) -> tuple[str, ...]:
        """The nodes for which this keeper decides, of those that the record names."""

    def drives(self, record: PairRecord | None) -> bool:
        """Whether this keeper brings about what is wanted; it looks otherwise."""

    def lacks_lease(self, node: str) -> bool:
        """Whether a node's lease has run out."""

    async def is_current(self) -> bool:
        """Read the record once more; whether it still is what it was known to be.

        Asked before a QEMU is ended, or a host is fenced, because of the record.
        """

    async def claim(self, node: str) -> bool:
        """Claim the pair for a node; whether the claim stands."""

    async def give_back(self) -> bool:
        """Withdraw this keeper's claim, or any where no guest is wanted; whether that was done."""

    async def stop(self) -> bool:
        """Write that no guest is wanted; whether that was done.

        Raises:
            StoreError: It cannot be written.
        """

    async def settle(self, snapshot: Snapshot) -> bool:
        """Bring the record and the node's own file together; whether either was changed."""

    async def say_exit(self, end: Evidence) -> None:
        """Store evidence that the QEMU of this node has ended, for the other agents to read."""

    def lease_evidence(self, peer: str, instance: str, epoch: int) -> Evidence | None:
        """Evidence that a QEMU has ended because its node's lease ran out; None without leases.

        Call it only for the decision `lease-gone`: it does not look at the lease itself.
        """

    def way_out(self, node: str) -> str:
        """What a person can do if nothing shows that a node's QEMU has ended."""

    def checkpoint_begins(self) -> None:
        """Take note that the node's guest was paused, such as for a checkpoint."""

    def checkpoint(self) -> None:
        """Take note that the node, as primary, has finished the checkpoint that began last."""


@final
class FilesAuthority(Authority):
    """The nodes' own files, and a store: for the one supervisor that reaches all hosts.

    Nobody else acts on the pair, so that a claim is in its memory alone.
    """

    def __init__(self, pair: str, store: Store) -> None:
        """Keep the wishes' place.

        Args:
            pair: The pair's name.
            store: What is wanted of it.
        """
        self._pair: Final = pair
        self._store: Final = store
        self._claimed_by: str | None = None

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
    def lets_go(self) -> bool:
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

    @override
    def lacks_lease(self, node: str) -> bool:
        return False

    @override
    async def is_current(self) -> bool:
        # Each look reads the files, and nobody else acts on the pair.
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
    async def settle(self, snapshot: Snapshot) -> bool:
        return False

    @override
    async def say_exit(self, end: Evidence) -> None:
        # Both nodes' decisions are made in one place.
        return

    @override
    def lease_evidence(self, peer: str, instance: str, epoch: int) -> Evidence | None:
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

"""What the tests of arbiters share: a record, statements, and how a scenario is run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import attrs

from pycolo.evidence import Evidence, instance_of
from pycolo.record import PairRecord
from pycolo.supervise import Arbiter, Held, SharedRecord

PAIR: Final = "shop-db"
ALPHA: Final = instance_of(PAIR, "alpha", 1)
BETA: Final = instance_of(PAIR, "beta", 2)
SHARED: Final = SharedRecord(
    record=PairRecord(
        pair=PAIR,
        birth="9f2c61d0",
        epoch=4,
        revision=0,
        holder="alpha",
        eligible={"alpha": ALPHA, "beta": BETA},
        phase="protected",
    )
)
CLAIMED: Final = attrs.evolve(SHARED, claimed_by="beta")
END: Final = Evidence(
    kind="exit", node="beta", instance=BETA, epoch=4, who="beta", how="its process", when="now"
)
LIMIT_S: Final = 10.0
"Far longer than any arbiter that is reached takes to answer."
LEASE_S: Final = 2.0
"The shortest that etcd grants."

Scenario = Callable[[Arbiter, Arbiter], Awaitable[None]]
"What the agents of two nodes do with one arbiter."
Run = Callable[[Scenario], None]


async def written(arbiter: Arbiter, shared: SharedRecord = SHARED) -> Held:
    """Replace the record, whatever it is."""
    held = await arbiter.read(PAIR, limit_s=LIMIT_S)
    return await arbiter.swap(PAIR, held, shared, limit_s=LIMIT_S)


async def renewed(arbiter: Arbiter, node: str = "alpha", instance: str = ALPHA) -> bool:
    """Renew a node's lease."""
    return await arbiter.renew(PAIR, node, instance, lease_s=LEASE_S, limit_s=LIMIT_S)

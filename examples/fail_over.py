"""Fail over with the asynchronous API: connect, read, compile, show, execute.

    python examples/fail_over.py PAIRFILE SURVIVOR [FENCED_BY HOW]

The dead node's QEMU is proven dead by its process, if it ran on this machine, or by the word of
whoever fenced it. Without either, nothing is done. Without arguments it prints this text.
"""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from pycolo import (
    ColoPair,
    Dead,
    FenceProof,
    Report,
    Session,
    execute,
    failover,
    host,
    load,
    probe,
)
from pycolo.lineage import LineageFiles
from pycolo.render import text
from pycolo.snapshot import DeathProof

CONNECT_S = 5.0


def main(pair_file: Path, survivor: str, fence: FenceProof | None = None) -> Report | None:
    """Have the survivor go on alone; None if the other node is not known to be dead."""
    pair = load(pair_file)
    peer = pair.peer_of(survivor)
    proof = fence or host.death_proof(peer)
    if proof is None:
        print(f"{peer.name} may be alive: fence it first")
        return None
    return asyncio.run(fail_over(pair, survivor, proof))


async def fail_over(pair: ColoPair, survivor: str, proof: DeathProof) -> Report:
    """Read the survivor, compile the failover from what is there, and execute it."""
    peer = pair.peer_of(survivor).name
    control = pair.node(survivor).control_monitor
    async with await Session.connect(survivor, control, limit_s=CONNECT_S) as session:
        snapshot = await probe({survivor: session, peer: Dead(proof=proof)})
        plan = failover(pair, snapshot, survivor=survivor)
        print(text.render(plan))
        report = await execute(
            plan, {survivor: session}, lineage=LineageFiles(pair), proofs={peer: proof}
        )
    print(report.advice)
    return report


def fence_proof(who: str, how: str) -> FenceProof:
    """What a fencing agent says, with the time."""
    return FenceProof(who=who, how=how, when=datetime.now(UTC).isoformat(timespec="seconds"))


if __name__ == "__main__":
    match sys.argv[1:]:
        case [file, node]:
            main(Path(file), node)
        case [file, node, who, how]:
            main(Path(file), node, fence_proof(who, how))
        case _:
            print(__doc__)

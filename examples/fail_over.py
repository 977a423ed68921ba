"""Fail over with the asynchronous API: connect, read, compile, show, execute.

    python examples/fail_over.py PAIRFILE SURVIVOR [FENCED_BY HOW]

Evidence that the other node's QEMU has ended comes from the host on which it ran, or from the
operator who fenced it. Without either, nothing is done. Without arguments it prints this text.
"""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from pycolo import (
    ColoPair,
    Evidence,
    PycoloError,
    Report,
    Session,
    execute,
    failover,
    hosts_of,
    load,
    probe,
)
from pycolo.plan import Plan
from pycolo.render import text

CONNECT_S = 5.0


async def fail_over(pair: ColoPair, survivor: str, fence: tuple[str, str] | None = None) -> Report:
    """Read the survivor and the records, compile the failover from that, and execute it."""
    control = pair.node(survivor).control_monitor
    async with hosts_of(pair) as hosts:
        connector = hosts[survivor].connect
        session = await Session.connect(survivor, control, limit_s=CONNECT_S, connector=connector)
        async with session:
            snapshot = await probe({survivor: session}, pair=pair, hosts=hosts)
            plan = failover(pair, snapshot, survivor=survivor)
            print(text.render(plan))
            given = {} if fence is None else evidence_for(plan, *fence)
            return await execute(plan, {survivor: session}, hosts, evidence=given)


def evidence_for(plan: Plan, who: str, how: str) -> dict[str, Evidence]:
    """What a fencing agent says, of the very QEMU that the plan asks about."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        victim.node: Evidence.of(victim, kind="fence", who=who, how=how, when=when)
        for victim in plan.victims()
    }


def main(pair_file: Path, survivor: str, fence: tuple[str, str] | None = None) -> None:
    """Have the survivor run alone, and say what came of it."""
    try:
        print(asyncio.run(fail_over(load(pair_file), survivor, fence)).advice)
    except PycoloError as error:
        print(error)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [file, node]:
            main(Path(file), node)
        case [file, node, who, how]:
            main(Path(file), node, (who, how))
        case _:
            print(__doc__)

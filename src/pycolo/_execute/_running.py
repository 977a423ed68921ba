"""Whether a QEMU that does not answer here is known to run all the same."""

from __future__ import annotations

import asyncio
from typing import Final

from pycolo.errors import ParseError, RemoteError
from pycolo.hosts import Host
from pycolo.model.pair import ColoPair
from pycolo.session import Session
from pycolo.snapshot import Running

# How long what may be off may take to show that it is not.
MONITOR_S: Final = 1.0
HOST_S: Final = 3.0


async def running(
    pair: ColoPair, node: str, session: Session | None, host: Host | None
) -> Running | None:
    """The QEMU of a node that is known to run: by its monitors, or by its host.

    Args:
        pair: The declaration.
        node: The node's name; it may be declared no more.
        session: A session with it, if there is one.
        host: The node's host; None where there is no way to it.

    Returns:
        None where neither monitor answers and the host, if it is within reach, knows of none.
    """
    asked = [_answering(session)] if session is not None and not session.closed else []
    if host is not None:
        asked += [_observed(pair, node, host), _known_there(pair, node, host)]
    found = await asyncio.gather(*asked)
    return next((one for one in found if one is not None), None)


async def _answering(session: Session) -> Running | None:
    try:
        instance = await session.instance(limit_s=MONITOR_S)
    except (RemoteError, ParseError):
        return None
    return Running(instance=instance, how="its monitor answers")


async def _observed(pair: ColoPair, node: str, host: Host) -> Running | None:
    monitor = pair.node(node).observer_monitor
    try:
        async with await Session.connect(
            node, monitor, limit_s=MONITOR_S, connector=host.connect
        ) as observer:
            return await _answering(observer)
    except RemoteError:
        return None


async def _known_there(pair: ColoPair, node: str, host: Host) -> Running | None:
    try:
        async with asyncio.timeout(HOST_S):
            return (await host.observe(pair, node, limit_s=HOST_S)).running
    except TimeoutError:
        return None

"""Find out whether a node's QEMU runs, even if this execution gets no answer from it."""

from __future__ import annotations

import asyncio
from typing import Final

from pycolo.errors import ParseError, RemoteError, Unresponsive
from pycolo.hosts import Host
from pycolo.model.pair import ColoPair
from pycolo.qmp.commands import QueryName
from pycolo.session import Session
from pycolo.snapshot import Running

# Short limits: the QEMU, or its whole host, may be off.
MONITOR_S: Final = 1.0
HOST_S: Final = 5.0


async def running(
    pair: ColoPair, node: str, session: Session | None, host: Host | None
) -> Running | None:
    """Find the QEMU that runs for a node, by a monitor or by the process file on its host.

    Args:
        pair: The declaration.
        node: The name of a declared node.
        session: An open session with its control monitor; None for none.
        host: The node's host; None if there is no way to it.

    Returns:
        The QEMU. None if the session gives no answer within 1 s, the observer monitor gives no
        greeting within 1 s, and the host does not name a process within 5 s. A monitor that another
        client holds gives no greeting.
    """
    asked = [_answering(session)] if session is not None and not session.closed else []
    if host is not None:
        asked += [_observed(pair, node, host), _known_there(pair, node, host)]
    found = await asyncio.gather(*asked)
    return next((one for one in found if one is not None), None)


async def _answering(session: Session) -> Running | None:
    """The QEMU that answers over a session; None if it gives no answer."""
    # Asked again: the identity that the session remembers does not show that QEMU runs now.
    try:
        found = await session.execute(QueryName(), limit_s=MONITOR_S)
    except RemoteError:
        return None
    except ParseError:
        return Running(instance="", how="its monitor answers")
    return Running(instance=found.name or "", how="its monitor answers")


async def _observed(pair: ColoPair, node: str, host: Host) -> Running | None:
    """The QEMU that greets over the node's observer monitor; None if none does."""
    monitor = pair.node(node).observer_monitor
    # A greeting shows that QEMU runs, even if it does not answer afterwards.
    greets = Running(instance="", how="its monitor greets, and does not answer")
    try:
        async with await Session.connect(
            node, monitor, limit_s=MONITOR_S, connector=host.connect
        ) as observer:
            return await _answering(observer) or greets
    except Unresponsive:
        return greets
    except RemoteError:
        return None


async def _known_there(pair: ColoPair, node: str, host: Host) -> Running | None:
    """The QEMU that the host knows to run, by the node's process file; None if none."""
    try:
        async with asyncio.timeout(HOST_S):
            return (await host.observe(pair, node, limit_s=HOST_S)).running
    except TimeoutError:
        return None

"""Find the obstacles to a pair by reading its hosts, before anything is launched."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Final

import attrs

from pycolo import rules
from pycolo.facts import HostFacts, NoFacts, PairFacts, Part
from pycolo.findings import Finding
from pycolo.hosts import Host
from pycolo.model.node import Node
from pycolo.model.pair import ColoPair
from pycolo.plan import Procedure

LIMIT_S: Final = 20.0
# The time after the limit in which an answer may still arrive.
GRACE_S: Final = 3.0


async def preflight(
    pair: ColoPair,
    hosts: Mapping[str, Host],
    *,
    before: Procedure | None = None,
    boots: Collection[str] | None = None,
    limit_s: float = LIMIT_S,
) -> tuple[Finding, ...]:
    """Find the obstacles to a pair; nothing is changed.

    All hosts are read at once, each by itself. Without `before`, a host or a part that cannot be
    read is a finding too, and the network paths between the hosts are tried afterwards, but only if
    no QEMU of the pair runs and no process listens on its ports: a QEMU that listens would take the
    connection for its peer's (qemu-behaviour 19.8). With `before`, what cannot be read adds no
    finding, and no network path is tried.

    Args:
        pair: The declaration.
        hosts: Node name to its host, for the nodes to examine.
        before: The procedure (`launch`, `start` or `resume`), for only the errors that stop it;
            None for all findings.
        boots: The nodes that are about to be launched as primary; None if no launch is planned.
        limit_s: The time limit for the answer of each host, in seconds.

    Returns:
        The errors, warnings and notes that were found; empty if there are none.

    Raises:
        DeclarationError: A name in `hosts` is not one of the pair's nodes.
    """
    facts = await gather(pair, hosts, rules.parts_for(before), boots=boots, limit_s=limit_s)
    return rules.evaluate(pair, facts, before=before)


async def gather(
    pair: ColoPair,
    hosts: Mapping[str, Host],
    parts: Collection[Part],
    *,
    boots: Collection[str] | None = None,
    limit_s: float = LIMIT_S,
) -> PairFacts:
    """Read the facts about a pair's hosts; see `preflight`.

    Args:
        pair: The declaration.
        hosts: Node name to its host.
        parts: The parts to read.
        boots: See `preflight`.
        limit_s: The time limit for each answer of a host, in seconds.
    """
    first = frozenset(parts) - {"reach"}
    found, lacking = await asyncio.gather(
        _read_all(pair, hosts, first, limit_s),
        asyncio.to_thread(lambda: {n: tuple(_fences(pair.node(n))) for n in hosts}),
    )
    untried = ""
    if "reach" in parts:
        untried = _why_untried(pair, found)
        found = found if untried else await _with_ways(pair, hosts, found, limit_s)
    return PairFacts(
        hosts=found,
        now_s=time.time(),
        no_fences=lacking,
        boots=None if boots is None else frozenset(boots),
        untried=untried,
    )


def _why_untried(pair: ColoPair, found: Mapping[str, HostFacts | NoFacts]) -> str:
    """Why no connection may be opened to the nodes' ports; empty if connections may be opened.

    A QEMU that listens, of this or another pair, would take the connection for its peer's
    (qemu-behaviour 19.8). So it must be known of each port that no process listens on it.
    """
    for name in pair.names:
        host = found.get(name)
        if not isinstance(host, HostFacts) or host.launch is None:
            return f"it is not known what runs on {name}"
        if host.running:
            return f"a QEMU runs on {name}, and would take a connection for its peer's"
        if host.ports is None:
            return f"it is not known which ports of {name} are in use"
        if host.ports:
            return f"TCP port {host.ports[0].port} of {name} is in use"
    return ""


async def _with_ways(
    pair: ColoPair,
    hosts: Mapping[str, Host],
    found: Mapping[str, HostFacts | NoFacts],
    limit_s: float,
) -> Mapping[str, HostFacts | NoFacts]:
    """The facts, completed by the network paths between the hosts, which are tried here."""
    ways = await _read_all(pair, hosts, frozenset({"reach"}), limit_s)
    merged = dict(found)
    for name, host in found.items():
        way = ways[name]
        if isinstance(host, HostFacts) and isinstance(way, HostFacts):
            unread = {**host.unread, **way.unread}
            merged[name] = attrs.evolve(host, reach=way.reach, unread=unread)
        elif isinstance(way, NoFacts):
            merged[name] = way
    return merged


async def _read_all(
    pair: ColoPair, hosts: Mapping[str, Host], parts: frozenset[Part], limit_s: float
) -> Mapping[str, HostFacts | NoFacts]:
    asked = (_read(pair, name, host, parts, limit_s) for name, host in hosts.items())
    return dict(zip(hosts, await asyncio.gather(*asked), strict=True))


async def _read(
    pair: ColoPair, name: str, host: Host, parts: Collection[Part], limit_s: float
) -> HostFacts | NoFacts:
    """Read facts about one host; `NoFacts` if it does not answer in time."""
    try:
        async with asyncio.timeout(limit_s + GRACE_S):
            return await host.facts(pair, name, parts, limit_s=limit_s)
    except TimeoutError:
        return NoFacts(why=f"no answer within {limit_s:g} s")


def _fences(node: Node) -> Iterator[str]:
    """The programs and input files of a node's fences that this machine lacks, as clauses."""
    for fence in node.fences:
        if shutil.which(fence.command[0]) is None:
            yield f"there is no program {fence.command[0]} on this machine"
        if fence.input_file is not None and not os.access(fence.input_file, os.R_OK):
            yield f"{fence.input_file} cannot be read on this machine"

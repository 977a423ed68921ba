"""Procedures on what is live, as callers of `pycolo.operate` use them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from pycolo import operate
from pycolo.model import ColoPair
from pycolo.observers import Observer
from pycolo.operate import Connection, Fenced
from pycolo.plan import Plan
from pycolo.result import Report

Compile: TypeAlias = Callable[[Connection], Awaitable[Plan]]
"What a caller asks of a connection."


async def compiled(pair: ColoPair, compile_: Compile) -> Plan:
    """The plan of a procedure, from what is live."""
    async with operate.connect(pair) as connection:
        return await compile_(connection)


async def run(pair: ColoPair, compile_: Compile) -> Report:
    """What came of a procedure."""
    async with operate.connect(pair) as connection:
        return await connection.execute(await compile_(connection), Observer())


def launch(connection: Connection) -> Awaitable[Plan]:
    """Launch what the record names."""
    return connection.launch()


def start(connection: Connection) -> Awaitable[Plan]:
    """Start the pair."""
    return connection.start()


def stop(connection: Connection) -> Awaitable[Plan]:
    """Stop protection."""
    return connection.stop()


def newest(node: str) -> Compile:
    """Launch a node by a person's word that it holds the newest data."""
    return lambda connection: connection.launch(nodes=(node,), newest=node)


def survives(node: str, fenced: Fenced | None = None) -> Compile:
    """Fail over to a node."""
    return lambda connection: connection.failover(survivor=node, fenced=fenced)


def forgets(node: str, fenced: Fenced) -> Compile:
    """Forget a node by a person's word."""
    return lambda connection: connection.forget(node, fenced=fenced)

"""Read and change what is wanted of a pair: in a supervisor's store, or in the agents' arbiter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol, final

import click

from pycolo.cli import _agent_file
from pycolo.hosts.ways import hosts_of
from pycolo.model import ColoPair
from pycolo.reconcile import Want
from pycolo.supervise import Arbiter, Store, Wish
from pycolo.supervise.release import Release, release
from pycolo.supervise.wishes import read_wish, set_paused, set_want

_LIMIT_S: Final = 10.0

option = click.option(
    "--agent",
    "agent_file",
    metavar="AGENTFILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Agents keep the pair: change it in the arbiter that this file names.",
)

required = click.option(
    "--agent",
    "agent_file",
    metavar="AGENTFILE",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file of this host's agent, which names the arbiter.",
)


class Wishes(Protocol):
    """What is wanted of pairs, by pair name; raises the errors of `Store`, or of the arbiter."""

    def read(self, pair: str) -> Wish:
        """Read what is wanted of a pair, and whether the pair is paused."""

    def want(self, pair: str, want: Want) -> None:
        """Change what is wanted of a pair."""

    def pause(self, pair: str, paused: str | None) -> None:
        """Pause a pair, or end its pause.

        Args:
            pair: The pair's name.
            paused: Who pauses the pair, when and why; None to end the pause.
        """


@contextmanager
def wishes(folder: Path, agent_file: Path | None) -> Generator[Wishes]:
    """Open the place where wishes are kept.

    Args:
        folder: The store; not used if there is an agent file.
        agent_file: The agent file that names the arbiter; None if a supervisor keeps the pair.
    """
    if agent_file is not None:
        yield _InArbiter(_agent_file.load(agent_file))
    else:
        with Store(folder) as store:
            yield store


def released(pair: ColoPair, agent_file: Path) -> Release:
    """Hand a pair from the arbiter that an agent file names back to the files of its nodes.

    Raises: as `pycolo.supervise.release.release` does.
    """
    own = _agent_file.load(agent_file)

    async def done() -> Release:
        arbiter = own.arbiter()
        try:
            async with hosts_of(pair, own.node) as hosts:
                return await release(pair, hosts, arbiter, limit_s=_LIMIT_S)
        finally:
            await arbiter.aclose()

    return asyncio.run(done())


@final
class _InArbiter:
    def __init__(self, own: _agent_file.AgentFile) -> None:
        self._own = own

    def read(self, pair: str) -> Wish:
        return self._asked(lambda arbiter: read_wish(arbiter, pair, limit_s=_LIMIT_S))

    def want(self, pair: str, want: Want) -> None:
        self._asked(lambda arbiter: set_want(arbiter, pair, want, limit_s=_LIMIT_S))

    def pause(self, pair: str, paused: str | None) -> None:
        self._asked(lambda arbiter: set_paused(arbiter, pair, paused, limit_s=_LIMIT_S))

    def _asked(self, question: Callable[[Arbiter], Awaitable[Wish]]) -> Wish:
        async def asked() -> Wish:
            arbiter = self._own.arbiter()
            try:
                return await question(arbiter)
            finally:
                await arbiter.aclose()

        return asyncio.run(asked())

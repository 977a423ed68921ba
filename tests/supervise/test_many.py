"""Many pairs in one process: how many files they may have open, and how they begin."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest
from tests.testing.testbed import declared

from pycolo.errors import DeclarationError
from pycolo.model.node import Monitor
from pycolo.supervise import Store, Supervisor, _open_files
from pycolo.testing import World
from pycolo.testing._host import FakeHost


@contextmanager
def files(soft: int) -> Generator[int]:
    """Have this process's soft limit of open files at a number; gives the hard one."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


def supervisor(world: World, store: Store, pairs: int) -> Supervisor:
    """A supervisor of so many pairs, none of which runs yet."""
    all_pairs = [attrs.evolve(declared(), name=f"pair{n}") for n in range(pairs)]
    return Supervisor(all_pairs, {pair.name: world.hosts(pair) for pair in all_pairs}, store)


def test_more_pairs_than_files_may_be_open_are_refused(tmp_path: Path) -> None:
    """The message names the limit, before anything is opened or locked."""
    world = World("11.1.3")

    async def enter(store: Store) -> None:
        async with supervisor(world, store, 30):
            pass

    with Store(tmp_path) as store, files(256):
        with pytest.raises(DeclarationError, match=r"at most 24 in number .* 256 files open.*30"):
            world.run(enter(store))
        assert [] == list(tmp_path.glob("*.lock"))
        _open_files.check(24)


def test_program_takes_the_files_that_its_pairs_need() -> None:
    """The low default of the soft limit keeps nobody from many pairs; it is raised by no more."""
    with files(256) as hard:
        _open_files.allow(24)
        assert (256, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)
        _open_files.allow(30)
        assert (304, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)
        _open_files.check(30)


def test_pairs_begin_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen pairs are observed first, and those that take long hold up the others for 1 s."""
    world, reached = World("11.1.3"), list[str]()

    async def never(_: FakeHost, node: str, __: Monitor) -> socket.socket:
        reached.append(node)
        await asyncio.Event().wait()
        raise AssertionError

    async def begin() -> list[int]:
        counts = list[int]()
        with Store(tmp_path) as store:
            async with supervisor(world, store, 40):
                for wait_s in (0.5, 1.0, 1.0):
                    await asyncio.sleep(wait_s)  # of the world's clock
                    counts.append(len(reached))
        return counts

    monkeypatch.setattr(FakeHost, "connect", never)
    # Each pair has three nodes, the spare included.
    assert [96, 192, 240] == world.run(begin())

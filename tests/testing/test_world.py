"""Names that a world does not know are refused: a misspelled fault would make a test pass."""

from __future__ import annotations

import asyncio

import pytest
from tests.compiler.cases import one_of_each

from pycolo.errors import DeclarationError
from pycolo.testing import World


def test_world_refuses_names_that_it_does_not_know() -> None:
    """The error names what is known; a cut may come before any launch."""
    pair, world = one_of_each(), World()
    with pytest.raises(DeclarationError, match=r"knows \(none yet: call install or hosts .*alpha"):
        world.cut("alpha", "beta")
    world.install(pair, "alpha")
    world.cut("alpha", "beta")
    assert not world.carries("alpha", "beta")
    known = r"must be a node that the world knows \(alpha, beta, gamma\), not 'bate'"
    with pytest.raises(DeclarationError, match=f"second {known}"):
        world.heal("alpha", "bate")
    with pytest.raises(DeclarationError, match=f"first {known}"):
        world.cut("bate", "alpha")
    with pytest.raises(DeclarationError, match=f"node {known}"):
        world.host("bate")
    with pytest.raises(DeclarationError, match=r"a QEMU was launched \(none yet\), not 'alpha'"):
        world.qemu("alpha")
    assert world.host("beta") is world.hosts(pair)["beta"]


def test_world_refuses_a_version_that_no_fake_simulates() -> None:
    """The error names those that can be simulated."""
    with pytest.raises(DeclarationError, match=r"version must be one of 7\.2\.22, .* not 'banana'"):
        World("banana")  # type: ignore[arg-type]  # a caller's mistake


def test_limit_of_a_test_ends_the_world() -> None:
    """A signal's exception may hit any callback of the event loop, which would swallow it."""

    class TimeIsOver(BaseException):
        pass

    def ring() -> None:
        raise TimeIsOver

    async def main() -> None:
        asyncio.get_running_loop().call_later(1.0, ring)
        await asyncio.Event().wait()

    with pytest.raises(TimeIsOver):
        World("11.1.3").run(main())

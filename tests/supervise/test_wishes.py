"""What is wanted of pairs, as a supervisor's store and an arbiter hold it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.supervise.arbitration import LIMIT_S, PAIR, written

from pycolo.errors import DeclarationError
from pycolo.supervise import Store, Wish
from pycolo.supervise.arbiters import SqliteArbiter
from pycolo.supervise.wishes import read_wish, set_want

MISSPELLED: str = "protcted"
RULE = "want must be one of protected, unprotected, stopped, not 'protcted'"


def test_store_refuses_what_nobody_can_want(tmp_path: Path) -> None:
    """What was wanted before still is."""
    with Store(tmp_path) as store:
        store.want(PAIR, "stopped")
        with pytest.raises(DeclarationError, match=RULE):
            store.want(PAIR, MISSPELLED)  # type: ignore[arg-type]  # a caller's mistake
        assert Wish(want="stopped") == store.read(PAIR)


def test_store_takes_no_path_for_a_name(tmp_path: Path) -> None:
    """Its files stay in its folder."""
    folder = tmp_path / "store"
    with Store(folder) as store:
        for ask in (
            lambda: store.read("../x"),
            lambda: store.want("../x", "stopped"),
            lambda: store.pause("../x", "by root"),
            lambda: store.alone("../x").__enter__(),
        ):
            with pytest.raises(DeclarationError, match=r"pair must .* not '\.\./x'"):
                ask()
    assert [folder] == list(tmp_path.iterdir())


def test_arbiter_is_not_asked_for_what_nobody_can_want(tmp_path: Path) -> None:
    """It is no loss of the arbiter: the caller is told what is wrong, and nothing is changed."""

    async def scenario() -> None:
        arbiter = SqliteArbiter(tmp_path)
        await written(arbiter)
        with pytest.raises(DeclarationError, match=RULE):
            await set_want(
                arbiter,
                PAIR,
                MISSPELLED,  # type: ignore[arg-type]  # a caller's mistake
                limit_s=LIMIT_S,
            )
        assert Wish() == await read_wish(arbiter, PAIR, limit_s=LIMIT_S)
        await arbiter.aclose()

    asyncio.run(scenario())

"""An agent's connection to the fuse."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path

import pytest
from tests.fuse.guarded import FIRST, FUSE_S, LIMIT_S, LONG_S, SECOND, Fuse, Victim, victim, who

from pycolo.errors import FuseError, FuseLost, FuseRefused
from pycolo.fuse.client import ArmedFuse, FuseClient, boottime_s

SHORT_S = 0.05
P, ALPHA = "p", "alpha"


async def _arm(client: FuseClient, qemu: Victim, *, fuse_s: float = LONG_S) -> ArmedFuse:
    return await client.arm(
        *(P, ALPHA, qemu.instance),
        pid=qemu.pid,
        start_time=qemu.start_time,
        fuse_s=fuse_s,
        kill_s=LONG_S,
        limit_s=LIMIT_S,
    )


async def test_agent_arms_renews_and_disarms(fuse: Fuse) -> None:
    """Each answer says what holds from then on."""
    with victim() as qemu:
        async with await FuseClient.connect(fuse.path, limit_s=LIMIT_S) as client:
            made = await _arm(client, qemu, fuse_s=FUSE_S)
            assert (made,) == await client.armed(limit_s=LIMIT_S)
            assert ("armed", made.as_of_s + FUSE_S) == (made.state, made.deadline_s)
            qemu.wait_stopped()
            (stopped,) = await client.armed(limit_s=LIMIT_S)
            assert "stopped" == stopped.state
            now_s = boottime_s()
            renewed = await client.renew(P, ALPHA, FIRST, as_of_s=now_s, limit_s=LIMIT_S)
            assert (now_s, "armed") == (renewed.as_of_s, renewed.state)
            qemu.wait_continued()
            await client.disarm(P, ALPHA, FIRST, limit_s=LIMIT_S)
            assert () == await client.armed(limit_s=LIMIT_S)


async def test_refusal_leaves_the_client_usable(fuse: Fuse) -> None:
    """It says what is wrong with which value."""
    with victim() as qemu:
        async with await FuseClient.connect(fuse.path, limit_s=LIMIT_S) as client:
            with pytest.raises(FuseRefused, match=f"refused: {FIRST} is not armed"):
                await client.renew(P, ALPHA, FIRST, as_of_s=boottime_s(), limit_s=LIMIT_S)
            with pytest.raises(FuseRefused, match=r"fuse_s must be .*, not 0"):
                await _arm(client, qemu, fuse_s=0)
            await _arm(client, qemu)
            with pytest.raises(FuseRefused, match=f"{FIRST} is armed, not {SECOND}"):
                await client.disarm(P, ALPHA, SECOND, limit_s=LIMIT_S)


async def test_requests_at_the_same_time_get_their_own_answers(fuse: Fuse) -> None:
    """Also where somebody has given up one in between."""
    with victim() as qemu:
        async with await FuseClient.connect(fuse.path, limit_s=LIMIT_S) as client:
            await _arm(client, qemu)
            given_up = asyncio.create_task(client.disarm(P, ALPHA, SECOND, limit_s=LIMIT_S))
            await asyncio.sleep(0)
            given_up.cancel()
            moments = [boottime_s() for _ in range(20)]
            renewals = [
                client.renew(P, ALPHA, FIRST, as_of_s=moment, limit_s=LIMIT_S) for moment in moments
            ]
            found = await asyncio.gather(*renewals)
            assert moments == [one.as_of_s for one in found]


async def test_end_of_the_fuse_is_noticed_at_once(fuse: Fuse) -> None:
    """By who waits for it, and by who asks; what was armed is there once it is started again."""
    with victim() as qemu:
        async with await FuseClient.connect(fuse.path, limit_s=LIMIT_S) as client:
            made = await _arm(client, qemu)
            waiting = asyncio.create_task(client.wait_lost())
            fuse.kill()
            assert "the fuse has ended" == await asyncio.wait_for(waiting, LIMIT_S)
            with pytest.raises(FuseLost, match="is lost: the fuse has ended"):
                await client.armed(limit_s=LIMIT_S)
        fuse.start()
        async with await FuseClient.connect(fuse.path, limit_s=LIMIT_S) as client:
            assert made == await _arm(client, qemu)


async def test_end_of_the_fuse_answers_who_waits(fuse: Fuse) -> None:
    """No limit has to pass."""
    async with await FuseClient.connect(fuse.path, limit_s=LIMIT_S) as client:
        fuse.freeze()
        waiting = asyncio.create_task(client.disarm(P, ALPHA, FIRST, limit_s=LONG_S))
        await asyncio.sleep(0)
        fuse.kill()
        with pytest.raises(FuseLost, match="the fuse has ended"):
            await asyncio.wait_for(waiting, LIMIT_S)


async def test_fuse_that_is_frozen_is_lost(fuse: Fuse) -> None:
    """It gives no answer within the limit, and the connection is closed for good."""
    async with await FuseClient.connect(fuse.path, limit_s=LIMIT_S) as client:
        fuse.freeze()
        with pytest.raises(FuseLost, match=f"it did not answer within {SHORT_S} s"):
            await client.renew(P, ALPHA, FIRST, as_of_s=boottime_s(), limit_s=SHORT_S)
        fuse.thaw()
        with pytest.raises(FuseLost, match=f"it did not answer within {SHORT_S} s"):
            await client.armed(limit_s=LIMIT_S)
        assert f"it did not answer within {SHORT_S} s" == await client.wait_lost()


async def test_fuse_that_is_frozen_gets_no_new_client(fuse: Fuse) -> None:
    """The kernel takes the connection; the first question shows that nobody is there."""
    fuse.freeze()
    with pytest.raises(FuseLost, match=f"it did not answer within {SHORT_S} s"):
        await FuseClient.connect(fuse.path, limit_s=SHORT_S)


async def test_no_fuse_is_there(folder: Path) -> None:
    """Nobody has started one."""
    with pytest.raises(FuseLost, match=r"start it: .* No such file or directory"):
        await FuseClient.connect(f"{folder}/fuse.sock", limit_s=LIMIT_S)


async def test_closed_client_is_of_no_use(fuse: Fuse) -> None:
    """And what it armed stays armed."""
    with victim() as qemu:
        client = await FuseClient.connect(fuse.path, limit_s=LIMIT_S)
        await _arm(client, qemu)
        for _ in range(2):
            await client.aclose()
        with pytest.raises(FuseLost, match="the client was closed"):
            await client.armed(limit_s=LIMIT_S)
        assert [(FIRST, "armed")] == fuse.guarded()
        assert fuse.ask("disarm", **who(FIRST)) is None


@pytest.mark.parametrize("kind", [FuseRefused, FuseLost])
def test_errors_keep_what_they_are_made_from(kind: type[FuseError]) -> None:
    """They can be pickled, and are one line."""
    error = kind("/run/pycolo-fuse/fuse.sock", "the reason")
    twin = pickle.loads(pickle.dumps(error))  # noqa: S301 - made a moment ago
    assert (error.path, error.why) == (twin.path, twin.why)
    assert str(error).startswith("the fuse at /run/pycolo-fuse/fuse.sock ")
    assert str(error).endswith(": the reason")

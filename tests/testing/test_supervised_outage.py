"""What a supervisor does from a death until the guest runs alone, counted on fakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import attrs
import pytest
from tests.testing.test_supervisor import Watched, play, protected
from tests.testing.testbed import FakePair, time_passes

from pycolo.hosts import HostState
from pycolo.model import ColoPair
from pycolo.plan import Plan
from pycolo.qmp._base import QmpCommand
from pycolo.qmp.commands import QueryYank
from pycolo.reconcile import next_step
from pycolo.record import Change
from pycolo.result import Done
from pycolo.session import Sent, Session
from pycolo.supervise import Store, _failure_detector
from pycolo.testing import FakeHost

_P = ParamSpec("_P")
_T = TypeVar("_T")
LAST: Final = "x-colo-lost-heartbeat"
QUESTION: Final = "query-status"
TURN: Final = "a turn, which reads what is wanted"
TURNS_MAX: Final = 3
NOTICED_S: Final = 0.05
FAILOVERS: Final[Mapping[str, list[str]]] = {
    "alpha": [
        *("query-yank", "query-yank is answered", "write the record of alpha"),
        *("yank", "yank", "yank", "yank", "qom-set", "qom-set", LAST),
    ],
    "beta": [
        *("query-yank", "query-yank is answered", "write the record of beta"),
        *("yank", "yank", "yank", "nbd-server-stop", LAST),
    ],
}


@pytest.mark.parametrize("survivor", FAILOVERS)
def test_nothing_but_the_failover_is_done_in_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survivor: str
) -> None:
    """The guest waits for one answer, one durable write and what frees it: no more."""
    done = list[str]()

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        # As long as a pair at rest goes without an observation, and longer.
        await time_passes(30.0)
        with monkeypatch.context() as patched:
            _note_all(patched, done, survivor)
            life.world.qemu(life.pair.peer_of(survivor).name).kill()
            await watched.until("failover is done", since=count)

    play(tmp_path, scenario)
    until_it_runs = done[: done.index(LAST) + 1]
    assert FAILOVERS[survivor] == [one for one in until_it_runs if one not in (QUESTION, TURN)]
    # At the first signs, at the evidence, and when the failover has begun.
    assert until_it_runs.count(TURN) <= TURNS_MAX


@pytest.mark.parametrize("after_s", [0.1, 0.6, 1.1, 1.6])
def test_death_is_noticed_at_once_whenever_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_s: float
) -> None:
    """There is no moment in which nobody waits for the end of a QEMU, by the fakes' clock."""
    monkeypatch.setattr(_failure_detector, "_WATCH_S", 1.0)

    async def scenario(life: FakePair, watched: Watched) -> None:
        count = await protected(watched)
        await time_passes(after_s)
        began_s = life.world.now_s
        life.world.qemu("beta").kill()
        await watched.until("continues alone", since=count)
        assert life.world.now_s - began_s < NOTICED_S

    play(tmp_path, scenario)


def test_pair_that_has_failed_over_lets_the_others_do_so_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read and compiled for once every other guest runs, or a second later."""
    read = list[str]()
    observe = FakeHost.observe

    async def noted_observe(
        host: FakeHost, pair: ColoPair, node: str, *, limit_s: float
    ) -> HostState:
        read.append(node)
        return await observe(host, pair, node, limit_s=limit_s)

    async def failed_over(life: FakePair, watched: Watched, since: int) -> Plan:
        holder = next(iter(watched.supervisor.status(life.pair.name).phases))
        life.world.qemu(holder).kill()
        count = await watched.until("failover is done", since=since)
        report = watched.events[count - 1].report
        assert report is not None
        read.clear()
        return report.plan

    async def scenario(life: FakePair, watched: Watched) -> None:
        monkeypatch.setattr(FakeHost, "observe", noted_observe)
        outages = watched.supervisor._outages  # noqa: SLF001 - another pair is played by its plan
        plan = await failed_over(life, watched, await protected(watched))
        other = attrs.evolve(plan, pair=attrs.evolve(plan.pair, name="other"))
        assert other.restored_after is not None

        count = await protected(watched, len(watched.events))
        outages.plan_started(other)
        await failed_over(life, watched, count)
        await time_passes(0.5)
        assert [] == read
        outages.step_finished(other, other.restored_after, Done(took_s=0.0))
        await time_passes(0.1)
        assert read

        count = await protected(watched, count)
        outages.plan_started(other)
        await failed_over(life, watched, count)
        await time_passes(2.5)
        assert read

    play(tmp_path, scenario)


def _note_all(patched: pytest.MonkeyPatch, done: list[str], survivor: str) -> None:
    """Note what hosts are asked, what is sent to the survivor, and each search for a next step."""
    send, observe, write = Session.send, FakeHost.observe, FakeHost.write

    def noted_send(session: Session, command: QmpCommand[_T], *, oob: bool = False) -> Sent[_T]:
        if session.node == survivor:
            done.append(command.qmp_name)
        sent = send(session, command, oob=oob)
        if isinstance(command, QueryYank):
            sent.when_answered(lambda _: done.append("query-yank is answered"))
        return sent

    async def noted_observe(
        host: FakeHost, pair: ColoPair, node: str, *, limit_s: float
    ) -> HostState:
        done.append(f"read the record of {node}")
        return await observe(host, pair, node, limit_s=limit_s)

    async def noted_write(
        host: FakeHost, pair: ColoPair, node: str, change: Change, *, limit_s: float
    ) -> None:
        done.append(f"write the record of {node}")
        await write(host, pair, node, change, limit_s=limit_s)

    patched.setattr(Store, "read", _noted(Store.read, done, TURN))
    patched.setattr(Session, "send", noted_send)
    patched.setattr(FakeHost, "observe", noted_observe)
    patched.setattr(FakeHost, "write", noted_write)
    for module in ("controller", "supervise._keeper"):
        noted = _noted(next_step, done, f"next_step of {module}")
        patched.setattr(f"pycolo.{module}.next_step", noted)


def _noted(call: Callable[_P, _T], done: list[str], what: str) -> Callable[_P, _T]:
    def noted(*values: _P.args, **named: _P.kwargs) -> _T:
        done.append(what)
        return call(*values, **named)

    return noted

"""The runner: from many threads, under eventlet, and through its end."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pycolo.blocking import Cancelled, Runner, RunnerClosed

THREADS = 20
LIMIT_S = 20.0


async def _give(value: int) -> int:
    await asyncio.sleep(0)  # the loop has to come round
    return value


async def _fail() -> None:
    await asyncio.sleep(0)  # the loop has to come round
    raise LookupError("inside")


async def _for_ever(began: threading.Event | None = None) -> None:
    if began is not None:
        began.set()
    await asyncio.Event().wait()


def test_result_comes_back() -> None:
    """What a coroutine returns is what `run` returns, again and again."""
    with Runner() as runner:
        assert [1, 2] == [runner.run(_give(1)), runner.run(_give(2), LIMIT_S)]


@pytest.mark.parametrize("way", [Runner.run, Runner.start])
def test_function_that_was_not_called_is_refused(way: Callable[[Runner, object], object]) -> None:
    """Nothing waits for what never runs, and the runner stays usable."""
    with Runner() as runner:
        with pytest.raises(TypeError, match="a Runner runs a coroutine, not 5: call the function"):
            way(runner, 5)
        assert runner.run(_give(7)) == 7


def test_error_comes_back() -> None:
    """What a coroutine raises is what `run` raises, and the runner continues."""
    with Runner() as runner:
        with pytest.raises(LookupError, match="inside"):
            runner.run(_fail())
        assert 3 == runner.run(_give(3))


def test_limit_cancels() -> None:
    """When the limit passes the coroutine has been cancelled and has ended."""
    ended = []

    async def stubborn() -> None:
        try:
            await _for_ever()
        finally:
            ended.append("cancelled")

    with Runner() as runner:
        with pytest.raises(TimeoutError, match=r"not end within 0\.01 s, and was cancelled"):
            runner.run(stubborn(), 0.01)
        assert ["cancelled"] == ended


def test_many_threads_at_once() -> None:
    """Twenty threads that need each other's coroutines to continue are served at once."""
    arrived = 0
    all_here = asyncio.Event()

    async def meet(value: int) -> int:
        nonlocal arrived
        arrived += 1
        if arrived == THREADS:
            all_here.set()
        await all_here.wait()
        return value

    with Runner() as runner, ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda n: runner.run(meet(n), LIMIT_S), range(THREADS)))
    assert list(range(THREADS)) == found


def test_closing_cancels_what_runs() -> None:
    """A thread that waits while the runner is closed is told so."""
    began = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with Runner() as runner:
            waiting = pool.submit(runner.run, _for_ever(began))
            began.wait(LIMIT_S)
        with pytest.raises(RunnerClosed):
            waiting.result(LIMIT_S)


def test_use_after_close_is_an_error() -> None:
    """A closed runner refuses, and leaves no coroutine behind that was never awaited."""
    runner = Runner()
    with runner:
        pass
    runner.close()
    with pytest.raises(RunnerClosed):
        runner.run(_give(1))


def test_closed_runner_is_not_entered() -> None:
    """It would have a thread that nobody ends any more."""
    runner = Runner()
    runner.close()
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="not after it was closed"), runner:
        pass
    assert before == threading.active_count()


def test_every_closing_waits_for_the_end() -> None:
    """Whoever closes a runner that another thread is closing returns no earlier than that one."""
    began, cancelled, released = threading.Event(), threading.Event(), threading.Event()

    async def slow() -> None:
        try:
            await _for_ever(began)
        finally:
            cancelled.set()
            await asyncio.to_thread(released.wait, LIMIT_S)

    with ThreadPoolExecutor(2) as pool, Runner() as runner:
        started = runner.start(slow())
        began.wait(LIMIT_S)
        first = pool.submit(runner.close)
        cancelled.wait(LIMIT_S)
        second = pool.submit(runner.close)
        with pytest.raises(TimeoutError):
            second.result(0.05)
        released.set()
        second.result(LIMIT_S)
        assert started.done
        first.result(LIMIT_S)


def test_own_loop_cannot_close_the_runner() -> None:
    """It would wait for itself for ever; the runner stays as it is."""
    with Runner() as runner:

        async def inside() -> None:
            runner.close()

        with pytest.raises(RuntimeError, match="itself"):
            runner.run(inside(), LIMIT_S)
        assert 1 == runner.run(_give(1), LIMIT_S)


def test_coroutine_that_cancels_itself_says_so() -> None:
    """It has no result, and the runner continues."""

    async def inside() -> None:
        raise asyncio.CancelledError

    with Runner() as runner:
        with pytest.raises(Cancelled):
            runner.run(inside(), LIMIT_S)
        assert 1 == runner.run(_give(1), LIMIT_S)


def test_use_before_entering_is_an_error() -> None:
    """A runner that was not entered has no thread."""
    with pytest.raises(RunnerClosed):
        Runner().run(_give(1))


def test_runner_does_not_wait_for_itself() -> None:
    """Called from its own loop it would wait for ever, so it refuses."""
    with Runner() as runner:

        async def inside() -> int:
            return runner.run(_give(1))

        with pytest.raises(RuntimeError, match="itself"):
            runner.run(inside(), LIMIT_S)


def test_started_continues_past_a_limit() -> None:
    """A limit on the wait ends the wait only: whoever asks again gets the result."""
    with Runner() as runner:
        gate = asyncio.Event()

        async def wait() -> int:
            await gate.wait()
            return 4

        async def open_gate() -> None:
            gate.set()

        started = runner.start(wait())
        with pytest.raises(TimeoutError, match=r"not ended within 0\.01 s, and continues"):
            started.result(0.01)
        assert not started.done
        runner.run(open_gate(), LIMIT_S)
        assert [4, 4] == [started.result(LIMIT_S), started.result(LIMIT_S)]
        assert started.done


def test_started_serves_several_threads() -> None:
    """Twenty threads that wait for one coroutine all get its result."""
    with Runner() as runner, ThreadPoolExecutor(THREADS) as pool:
        started = runner.start(_give(5))
        found = list(pool.map(lambda _: started.result(LIMIT_S), range(THREADS)))
    assert [5] * THREADS == found


def test_started_is_cancelled() -> None:
    """What is cancelled says so, even where it had no time to begin."""
    with Runner() as runner:
        began = threading.Event()
        running, at_once = runner.start(_for_ever(began)), runner.start(_for_ever())
        at_once.cancel()
        began.wait(LIMIT_S)
        running.cancel()
        for started in (running, at_once):
            with pytest.raises(Cancelled):
                started.result(LIMIT_S)


def test_closing_ends_what_was_started() -> None:
    """Closing the runner ends what it runs, and a closed runner starts nothing."""
    with Runner() as runner:
        started = runner.start(_for_ever())
    for ended in (started, runner.start(_give(1))):
        assert ended.done
        ended.cancel()
        with pytest.raises(RunnerClosed):
            ended.result(LIMIT_S)


_EVENTLET = """
import warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
import asyncio, contextlib, sys, threading
sys.path.insert(0, sys.argv[2])
from pycolo.blocking import Runner
from pycolo.model import UnixMonitor
from pycolo.qmp import commands as qmp
from pycolo.session import Session

ticks = 0
def tick():
    global ticks
    while True:
        ticks += 1
        eventlet.sleep(0.001)  # what other green threads would do

async def ask(n):
    if sys.argv[1]:
        session = await Session.connect("alpha", UnixMonitor(path=sys.argv[1]), limit_s=20)
        async with session:
            await session.execute(qmp.QueryStatus(), limit_s=20)
    await asyncio.sleep(0.05)  # long enough for the others to tick
    return n

eventlet.spawn(tick)
with Runner() as runner:
    pool = eventlet.GreenPool(20)
    found = list(pool.imap(lambda n: runner.run(ask(n), 60), range(20)))
    started = runner.start(ask(20))
    try:
        started.result(0.001)
    except TimeoutError:
        found.append(started.result(60))
    at_work, ends = ticks, asyncio.Event()

    async def slow():
        try:
            await ends.wait()
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    while ticks <= closing + 10:
                        await asyncio.sleep(0.001)  # until the others have ticked

    ending = runner.start(slow())
    runner.run(ask(21), 60)
    closing = ticks
print(found == list(range(21)), at_work > 10, ticks > closing + 10)
"""


def _under_eventlet(monitor: str) -> str:
    pytest.importorskip("eventlet")
    argv = [sys.executable, "-c", _EVENTLET, monitor, "src"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=50, check=False)
    return done.stdout.strip() or done.stderr


def test_under_eventlet_others_continue() -> None:
    """Patched by eventlet, twenty green threads wait at once and others run meanwhile."""
    assert "True True True" == _under_eventlet("")

"""pycolo for programs that are not asynchronous: one thread with an event loop, and `run`.

There is no second interface: whatever is asynchronous in pycolo is run by a `Runner`. It works from
any number of threads at once, and under eventlet, where a green thread waits without holding up the
others. For that nothing in here uses a lock or a queue: patched ones belong to green threads and
must not be met by a real one. What crosses over is a call into the loop, and the end of a pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import selectors
import sys
import threading
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Generic, Protocol, Self, TypeVar, final

from pycolo.errors import PycoloError

_R = TypeVar("_R")


class RunnerClosed(PycoloError):
    """The runner is closed: what it ran was cancelled, and it runs nothing any more."""


@final
class Runner:
    """An event loop in a real thread of its own; a context manager, entered once."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: _Thread | None = None
        self._calls: set[_Waiting] = set()
        self._closed = False

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError("a Runner is entered once")
        with _Signal() as ready:
            self._thread = _real_thread(lambda: self._main(ready))
            self._thread.start()
            ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, coro: Coroutine[object, object, _R], limit_s: float | None = None) -> _R:
        """Run a coroutine to its end and give its result.

        May be called from several threads at once, and by green threads; not from the loop itself.
        An interrupted caller (Ctrl-C) has the coroutine cancelled before it continues.

        Args:
            coro: What to run; its errors are raised here.
            limit_s: After how many seconds it is cancelled; None for never.

        Raises:
            TimeoutError: The limit passed; the coroutine was cancelled and has ended.
            RunnerClosed: The runner is closed, or was closed meanwhile.
            RuntimeError: It was called from the runner's own loop, which cannot wait for itself.
        """
        with _Signal() as over:
            call = _Call(coro, limit_s, over)
            self._calls.add(call)
            try:
                self._submit(call)
                self._await(call, over)
            finally:
                self._calls.discard(call)
        return call.result()

    def close(self) -> None:
        """Cancel what runs, wait for it to end, end the thread; may be called again."""
        loop, thread, closed = self._loop, self._thread, self._closed
        self._closed = True
        if loop is None or thread is None or closed:
            return
        loop.call_soon_threadsafe(self._end)
        thread.join()

    def _submit(self, call: _Call[_R]) -> None:
        loop = self._loop
        if loop is None or self._closed:
            call.refuse()
            return
        if asyncio._get_running_loop() is loop:  # noqa: SLF001 - documented, and None where none is
            call.refuse()
            raise RuntimeError("a Runner cannot wait for itself")
        try:
            loop.call_soon_threadsafe(self._begin, call)
        except RuntimeError:
            call.refuse()

    def _await(self, call: _Call[_R], over: _Signal) -> None:
        try:
            over.wait()
        except BaseException:
            # What the caller asked for must not continue behind its back.
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(call.cancel)
            over.wait()
            raise

    # -- in the thread

    def _main(self, ready: _Signal) -> None:
        loop = asyncio.SelectorEventLoop(_real_selector())
        self._loop = loop
        loop.call_soon(ready.give)
        try:
            loop.run_forever()
        finally:
            loop.close()
            # Those that came between the loop's last round and its end.
            for call in tuple(self._calls):
                call.refuse()

    def _begin(self, call: _Call[_R]) -> None:
        if self._closed:
            call.refuse()
        else:
            call.start()

    def _end(self) -> None:
        loop = asyncio.get_running_loop()
        self._ending = loop.create_task(self._cancel_all())
        self._ending.add_done_callback(lambda _: loop.stop())

    async def _cancel_all(self) -> None:
        mine = asyncio.current_task()
        while others := [task for task in asyncio.all_tasks() if task is not mine]:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
        await asyncio.get_running_loop().shutdown_asyncgens()


class _Waiting(Protocol):
    def refuse(self) -> None: ...


class _Thread(Protocol):
    def start(self) -> None: ...

    def join(self) -> None: ...


@final
class _Call(Generic[_R]):
    """One `run`: what it runs, and what came of it."""

    def __init__(
        self, coro: Coroutine[object, object, _R], limit_s: float | None, over: _Signal
    ) -> None:
        self._coro = coro
        self._limit_s = limit_s
        self._over = over
        self._results: list[_R] = []
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._main())

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def refuse(self) -> None:
        """Say that it will not run; does nothing where it ran."""
        if self._task is None and self._error is None:
            self._error = RunnerClosed("the runner is closed")
            self._coro.close()
            self._over.give()

    def result(self) -> _R:
        if self._error is not None:
            raise self._error
        return self._results[0]

    async def _main(self) -> None:
        try:
            async with asyncio.timeout(self._limit_s):
                self._results.append(await self._coro)
        except asyncio.CancelledError as error:
            self._error = RunnerClosed("the runner was closed while it ran")
            self._error.__cause__ = error
        except BaseException as error:  # noqa: BLE001 - all of it is the caller's
            self._error = error
        finally:
            self._over.give()


@final
class _Signal:
    """The end of a pipe: one thread closes it, another waits for that, once.

    Each of its two ends is closed by the side that uses it, so neither side can meet a descriptor
    that was given to something else meanwhile.
    """

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        self._writer = [writer]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._reader)

    def give(self) -> None:
        with contextlib.suppress(IndexError):
            os.close(self._writer.pop())

    def wait(self) -> None:
        if _is_patched("os"):
            # Only this green thread waits.
            importlib.import_module("eventlet.hubs").trampoline(self._reader, read=True)
        os.read(self._reader, 1)


# -- what eventlet may have replaced


def _patcher() -> ModuleType | None:
    return sys.modules.get("eventlet.patcher")


def _is_patched(module: str) -> bool:
    patcher = _patcher()
    return patcher is not None and bool(patcher.is_monkey_patched(module))


def _real_thread(target: Callable[[], None]) -> _Thread:
    patcher = _patcher()
    threads = threading if patcher is None else patcher.original("threading")
    made: _Thread = threads.Thread(target=target, name="pycolo", daemon=True)
    return made


def _real_selector() -> selectors.BaseSelector:
    patcher = _patcher()
    if patcher is None:
        return selectors.DefaultSelector()
    # eventlet takes epoll away from both `select` and `selectors`; this brings it back for one.
    real = patcher.inject("selectors", None, ("select", patcher.original("select")))
    made: selectors.BaseSelector = real.DefaultSelector()
    return made

"""pycolo for programs that are not asynchronous: one thread with an event loop, `run` and `start`.

There is no second interface: a `Runner` runs every coroutine of pycolo. It can be used from any
number of threads at once, and under eventlet, where a green thread waits without blocking the
others. For this reason the module uses no lock and no queue: eventlet replaces them by ones for
green threads, which the real thread of the event loop must not use. The threads communicate only by
`call_soon_threadsafe`, and by pipes that one side closes.
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
    """The runner was never entered, or it was closed, which cancels its coroutines."""


class Cancelled(PycoloError):
    """The coroutine was cancelled, by `Started.cancel` or by itself, and has no result."""


@final
class Runner:
    """An event loop in a separate real thread; a context manager that is entered once.

    >>> import asyncio
    >>> from pycolo.blocking import Runner
    >>> with Runner() as runner:
    ...     runner.run(asyncio.sleep(0, "a result"))
    'a result'
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: _Thread | None = None
        self._calls: set[_Refusable] = set()
        self._closed = False
        self._over = _End()

    def __enter__(self) -> Self:
        if self._thread is not None or self._closed:
            raise RuntimeError("a Runner is entered once, and not after it was closed")
        with _Signal() as ready:
            self._thread = _real_thread(lambda: self._main(ready))
            self._thread.start()
            ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, coro: Coroutine[object, object, _R], limit_s: float | None = None) -> _R:
        """Run a coroutine to its end and return its result.

        May be called from several threads at once, and by green threads; not from the loop itself.
        If the caller is interrupted (Ctrl-C), the coroutine is cancelled and has ended before the
        interruption is raised.

        Args:
            coro: The coroutine; its errors are raised here, and the runner stays usable.
            limit_s: After how many seconds the coroutine is cancelled; None for never.

        Returns:
            What the coroutine returned.

        Raises:
            TimeoutError: The limit passed; the coroutine was cancelled and has ended. The runner
                stays usable.
            Cancelled: The coroutine cancelled itself. The runner stays usable.
            RunnerClosed: The runner was not entered, is closed, or was closed meanwhile.
            RuntimeError: `run` was called from the runner's own loop, which cannot wait for itself.
                The coroutine was not started, and the runner stays usable.
            TypeError: `coro` is no coroutine, such as a function that was not called. The runner
                stays usable.
        """
        _check_coroutine(coro)
        if self._is_inside():
            coro.close()
            raise RuntimeError("a Runner cannot wait for itself")
        call = self._submit(_Call(coro, limit_s))
        try:
            call.end.wait(None)
        except BaseException:
            # The caller was interrupted: its coroutine must not continue.
            self._cancel(call)
            call.end.wait(None)
            raise
        return call.result()

    def start(self, coro: Coroutine[object, object, _R]) -> Started[_R]:
        """Run a coroutine without waiting for it; from any thread, and by green threads.

        It has no time limit: it runs until it ends, `Started.cancel` is called, or the runner is
        closed. An error of the coroutine is kept for `Started.result`, and is reported nowhere if
        that is never called.

        Args:
            coro: The coroutine.

        Returns:
            The running coroutine. If the runner is not open, it is not run, and `Started.result`
            raises RunnerClosed.

        Raises:
            TypeError: `coro` is no coroutine. The runner stays usable.
        """
        _check_coroutine(coro)
        return Started(self, self._submit(_Call(coro, None)))

    def close(self) -> None:
        """Cancel all running coroutines, wait for them to end, and end the thread.

        May be called again, and from several threads at once: each call returns when the thread has
        ended.

        Raises:
            RuntimeError: `close` was called from the runner's own loop, which cannot wait for
                itself.
                The runner stays open.
        """
        if self._is_inside():
            raise RuntimeError("a Runner cannot wait for itself")
        loop, thread, closed = self._loop, self._thread, self._closed
        self._closed = True
        if loop is None or thread is None:
            return
        if not closed:
            loop.call_soon_threadsafe(self._end)
        # Under eventlet this blocks only the calling green thread; `join` alone would block all.
        self._over.wait(None)
        thread.join()

    def _submit(self, call: _Call[_R]) -> _Call[_R]:
        """Pass a call to the loop; if the runner is not open, settle it with RunnerClosed."""
        loop = self._loop
        if loop is None or self._closed:
            call.refuse()
            return call
        self._calls.add(call)
        try:
            loop.call_soon_threadsafe(self._begin, call)
        except RuntimeError:
            self._calls.discard(call)
            call.refuse()
        return call

    def _cancel(self, call: _Call[_R]) -> None:
        if self._loop is not None:
            # RuntimeError: the loop is closed, so the call has ended already.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(call.cancel)

    def _is_inside(self) -> bool:
        """Whether the caller runs in the runner's own loop."""
        running = asyncio._get_running_loop()  # noqa: SLF001 - documented, and None if none is
        return running is not None and running is self._loop

    # -- in the thread

    def _main(self, ready: _Signal) -> None:
        loop = asyncio.SelectorEventLoop(_real_selector())
        self._loop = loop
        loop.call_soon(ready.give)
        try:
            loop.run_forever()
        finally:
            loop.close()
            # The calls that were submitted after the loop's last iteration.
            for call in tuple(self._calls):
                call.refuse()
            self._over.come()

    def _begin(self, call: _Call[_R]) -> None:
        """Start a call in the loop, unless the runner was closed meanwhile."""
        self._calls.discard(call)
        if self._closed:
            call.refuse()
        else:
            call.start(lambda: self._closed)

    def _end(self) -> None:
        loop = asyncio.get_running_loop()
        self._ending = loop.create_task(self._cancel_all())
        self._ending.add_done_callback(lambda _: loop.stop())

    async def _cancel_all(self) -> None:
        """Cancel all tasks of the loop until none is left."""
        mine = asyncio.current_task()
        while others := [task for task in asyncio.all_tasks() if task is not mine]:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
        await asyncio.get_running_loop().shutdown_asyncgens()


def _check_coroutine(coro: object) -> None:
    if not asyncio.iscoroutine(coro):
        raise TypeError(f"a Runner runs a coroutine, not {coro!r}: call the function")


class _Refusable(Protocol):
    def refuse(self) -> None: ...


class _Thread(Protocol):
    def start(self) -> None: ...

    def join(self) -> None: ...


@final
class Started(Generic[_R]):
    """A coroutine that was passed to `Runner.start`; may be used from several threads."""

    def __init__(self, runner: Runner, call: _Call[_R]) -> None:
        """Made by `Runner.start`."""
        self._runner = runner
        self._call = call

    @property
    def done(self) -> bool:
        """Whether the coroutine has ended, with a result, an error or a cancellation."""
        return self._call.end.is_here

    def result(self, limit_s: float | None = None) -> _R:
        """Wait until the coroutine has ended, and return its result.

        May be called again: each call returns the result, or raises the error of the coroutine.

        Args:
            limit_s: For how many seconds to wait; None for no limit.

        Returns:
            The value that the coroutine returned.

        Raises:
            TimeoutError: The limit passed. The coroutine continues, and you can call `result`
                again.
            Cancelled: The coroutine was cancelled.
            RunnerClosed: The runner was closed before the coroutine ended, or was not open when
                the coroutine was started.
            RuntimeError: `result` was called from the runner's own loop, which cannot wait for
                itself, and the coroutine has not ended. The coroutine continues.
        """
        if not self.done and self._runner._is_inside():  # noqa: SLF001 - the runner's other half
            raise RuntimeError("a Runner cannot wait for itself")
        try:
            self._call.end.wait(limit_s)
        except TimeoutError:
            why = f"the coroutine has not ended within {limit_s:g} s, and continues"
            raise TimeoutError(why) from None
        return self._call.result()

    def cancel(self) -> None:
        """Request the cancellation of the coroutine, and return at once.

        Does nothing if the coroutine has ended. To wait for the end, call `result`: it raises
        `Cancelled`, unless the coroutine ended before it was cancelled, or catches the cancellation
        and returns a value or raises another error.
        """
        self._runner._cancel(self._call)  # noqa: SLF001 - the runner's other half


@final
class _Call(Generic[_R]):
    """One coroutine, its result or error, and the event of its end.

    Args:
        coro: The coroutine.
        limit_s: After how many seconds the coroutine is cancelled; None for never.
    """

    def __init__(self, coro: Coroutine[object, object, _R], limit_s: float | None) -> None:
        self.end = _End()
        self._coro = coro
        self._limit_s = limit_s
        self._results: list[_R] = []
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, is_closed: Callable[[], bool]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._main())
        # Not at the end of `_main`: a task that is cancelled at once never starts it.
        self._task.add_done_callback(lambda _: self._settle(closed=is_closed()))

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def refuse(self) -> None:
        """Settle the call with RunnerClosed; does nothing if the coroutine was started."""
        if self._task is None and not self.end.is_here:
            self._settle(closed=True)

    def result(self) -> _R:
        if self._error is not None:
            raise self._error
        return self._results[0]

    async def _main(self) -> None:
        """Run the coroutine within its limit, and keep its result or error."""
        limit = asyncio.timeout(self._limit_s)
        try:
            async with limit:
                self._results.append(await self._coro)
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - every error is passed to the caller
            self._error = error
            # The coroutine may raise a TimeoutError of its own, which keeps its text.
            if limit.expired() and isinstance(error, TimeoutError) and not error.args:
                why = f"the coroutine did not end within {self._limit_s:g} s, and was cancelled"
                self._error = TimeoutError(why)

    def _settle(self, *, closed: bool) -> None:
        """Set the end; without a result or an error, the error says why."""
        self._coro.close()
        if not self._results and self._error is None:
            why = RunnerClosed("the runner is not open: use it inside its with block")
            self._error = why if closed else Cancelled("the coroutine was cancelled")
        self.end.come()


@final
class _End:
    """An event that one thread sets once with `come`, and that several threads can wait for."""

    def __init__(self) -> None:
        self.is_here = False
        self._waiting: list[_Signal] = []

    def come(self) -> None:
        self.is_here = True
        for signal in tuple(self._waiting):
            signal.give()

    def wait(self, limit_s: float | None) -> None:
        with _Signal() as signal:
            # Register, then read the flag; `come` sets the flag, then reads the registered signals.
            # In this order no lock is needed.
            self._waiting.append(signal)
            if self.is_here:
                signal.give()
            try:
                signal.wait(limit_s)
            finally:
                self._waiting.remove(signal)


@final
class _Signal:
    """A pipe by which one thread wakes another, once: `give` closes the end that `wait` watches.

    The writing end is removed from a list before it is closed, so that two threads cannot close the
    same descriptor, which may belong to another file by then. The thread that waits closes the
    reading end.
    """

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        self._writer = [writer]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give()
        os.close(self._reader)

    def give(self) -> None:
        with contextlib.suppress(IndexError):
            os.close(self._writer.pop())

    def wait(self, limit_s: float | None = None) -> None:
        if _is_patched("os"):
            # Blocks only this green thread.
            hubs = importlib.import_module("eventlet.hubs")
            hubs.trampoline(self._reader, read=True, timeout=limit_s, timeout_exc=TimeoutError)
            return
        with _real_selector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            if not selector.select(limit_s):
                raise TimeoutError


# -- modules that eventlet may have replaced


def _patcher() -> ModuleType | None:
    return sys.modules.get("eventlet.patcher")


def _is_patched(module: str) -> bool:
    """Whether eventlet has replaced a module's functions."""
    patcher = _patcher()
    return patcher is not None and bool(patcher.is_monkey_patched(module))


def _real_thread(target: Callable[[], None]) -> _Thread:
    """A thread of the operating system, even if eventlet has replaced `threading`."""
    patcher = _patcher()
    threads = threading if patcher is None else patcher.original("threading")
    made: _Thread = threads.Thread(target=target, name="pycolo", daemon=True)
    return made


def _real_selector() -> selectors.BaseSelector:
    """A selector that blocks a real thread, even if eventlet has replaced `select`."""
    patcher = _patcher()
    if patcher is None:
        return selectors.DefaultSelector()
    # eventlet removes epoll from `select` and `selectors`; this `selectors` has it again.
    real = patcher.inject("selectors", None, ("select", patcher.original("select")))
    made: selectors.BaseSelector = real.DefaultSelector()
    return made

"""An agent's connection to the fuse of its host, by which it arms, renews and disarms the fuse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import deque
from collections.abc import Mapping
from typing import Final, Self, final

import attrs

from pycolo.errors import FuseLost, FuseRefused
from pycolo.fuse import _requests
from pycolo.fuse._kernel import boottime_s
from pycolo.fuse._requests import FuseState

__all__ = ("ArmedFuse", "FuseClient", "FuseState", "boottime_s")


@final
@attrs.frozen(kw_only=True)
class ArmedFuse:
    """One guarded QEMU, as the fuse reports it."""

    pair: str
    "The pair's name."
    node: str
    "The node's name."
    instance: str
    "The identity of the node's QEMU, `PAIR:NODE:HEX`."
    pid: int
    "The process ID of QEMU."
    start_time: int
    "When that process started, in clock ticks since boot: field 22 of /proc/PID/stat."
    fuse_s: float
    "How long QEMU may run without a renewal, in seconds."
    kill_s: float
    "How long after QEMU was stopped it is killed, in seconds."
    as_of_s: float
    "The moment from which `fuse_s` counts, in seconds on CLOCK_BOOTTIME."
    state: FuseState
    "What the fuse has done to QEMU: nothing yet, stopped it, or killed it."

    @property
    def deadline_s(self) -> float:
        """The moment until which QEMU may run without a renewal, in seconds on CLOCK_BOOTTIME.

        As of the fuse's answer, not live: a later renewal moves it, and only a new answer shows
        that. The fuse then stops QEMU, and kills it `kill_s` later.
        """
        return self.as_of_s + self.fuse_s


@final
class FuseClient:
    """A connection to the fuse of this host. An asynchronous context manager, for one event loop.

    After `FuseRefused` the connection is usable. Once a method has raised `FuseLost`, the
    connection is closed: every request that waits for an answer, and every later one, raises
    `FuseLost` as well. Methods may be called while others of the same client wait.
    """

    def __init__(self, path: str, way: socket.socket) -> None:
        """Use a connected socket. Only `connect` calls this.

        Args:
            path: The path of the fuse's socket.
            way: A socket that is connected to it.
        """
        self.path: Final = path
        "The path of the fuse's socket."
        self._way = way
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, path: str, *, limit_s: float) -> Self:
        """Connect to a fuse, and check that it answers.

        Args:
            path: The path of the fuse's socket, `fuse.sock` in its folder.
            limit_s: How long the fuse's answer may take, in seconds.

        Returns:
            The connection. Close it with `aclose`, or enter it as a context.

        Raises:
            FuseLost: No fuse listens there, or it gives no valid answer in time.
            FuseRefused: The fuse refused to list what it guards, as one of another version may.
                In each case nothing is left open.
        """
        way = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            way.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            way.close()
            raise FuseLost(path, f"no pycolo-fuse runs there, start it: {error}") from error
        except OSError as error:
            way.close()
            raise FuseLost(path, str(error)) from error
        client = cls(path, way)
        try:
            await client.armed(limit_s=limit_s)
        except BaseException:
            await client.aclose()
            raise
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def arm(
        self,
        pair: str,
        node: str,
        instance: str,
        *,
        pid: int,
        start_time: int,
        fuse_s: float,
        kill_s: float,
        limit_s: float,
    ) -> ArmedFuse:
        """Arm the fuse for a QEMU: without a renewal, it stops QEMU `fuse_s` after this call.

        If this instance is armed already with the same values, nothing changes: only `renew` moves
        its deadline.

        Args:
            pair: The pair's name.
            node: The node's name.
            instance: The identity of the node's QEMU, `PAIR:NODE:HEX`, which its command line
                contains.
            pid: The process ID of that QEMU.
            start_time: When that process started, in clock ticks since boot: field 22 of
                /proc/PID/stat.
            fuse_s: How long QEMU may run without a renewal, 0.01 to 3600 s.
            kill_s: How long after QEMU was stopped it is killed, 0 to 3600 s.
            limit_s: How long the answer may take, in seconds.

        Returns:
            The QEMU as the fuse guards it now.

        Raises:
            FuseRefused: A value is wrong, the process is not that instance or cannot be signalled,
                another instance of that node is armed and has not ended, this one is armed with
                other values, or the fuse cannot guard it. What is armed stays as it was.
            FuseLost: No answer came: it is not known whether the fuse is armed.
        """
        request: dict[str, object] = {"request": "arm", "pair": pair, "node": node}
        request |= {"instance": instance, "pid": pid, "start_time": start_time}
        request |= {"fuse_s": fuse_s, "kill_s": kill_s, "as_of_s": boottime_s()}
        return self._armed(await self._ask(request, limit_s))

    async def renew(
        self, pair: str, node: str, instance: str, *, as_of_s: float, limit_s: float
    ) -> ArmedFuse:
        """Let a QEMU run until `fuse_s` after a moment, and continue it if the fuse stopped it.

        Args:
            pair: The pair's name.
            node: The node's name.
            instance: The identity of the node's QEMU.
            as_of_s: A moment, in seconds on CLOCK_BOOTTIME, at which QEMU was allowed to run for
                certain: when the renewal of the lease was sent, or the checkpoint began. A moment
                that is not later than the latest one, or is `fuse_s` or more ago, changes nothing.
            limit_s: How long the answer may take, in seconds.

        Returns:
            The QEMU as the fuse guards it now. `state` says whether it runs: a QEMU that the fuse
            has killed is not renewed, which is no error.

        Raises:
            FuseRefused: The fuse is not armed for this instance, the moment is in the future, or a
                name is wrong.
            FuseLost: No answer came: it is not known whether the fuse was renewed.
        """
        request = {"request": "renew", "pair": pair, "node": node, "instance": instance}
        return self._armed(await self._ask({**request, "as_of_s": as_of_s}, limit_s))

    async def disarm(self, pair: str, node: str, instance: str, *, limit_s: float) -> None:
        """Stop guarding a QEMU, and continue it if the fuse has stopped it.

        If the fuse is not armed for that node, nothing is done.

        Args:
            pair: The pair's name.
            node: The node's name.
            instance: The identity of the node's QEMU.
            limit_s: How long the answer may take, in seconds.

        Raises:
            FuseRefused: Another instance of that node is armed and has not ended, a name is wrong,
                or the fuse cannot write its folder. The fuse stays armed. In the last case a QEMU
                that it had stopped was continued, and is stopped again if its deadline has passed.
            FuseLost: No answer came: it is not known whether the fuse was disarmed.
        """
        request = {"request": "disarm", "pair": pair, "node": node, "instance": instance}
        await self._ask(request, limit_s)

    async def armed(self, *, limit_s: float) -> tuple[ArmedFuse, ...]:
        """List every guarded QEMU, whichever agent armed the fuse for it.

        Args:
            limit_s: How long the answer may take, in seconds.

        Returns:
            The guarded QEMUs. One that the fuse has stopped or killed is among them until its
            process has ended; its `state` says so.

        Raises:
            FuseLost: The fuse gave no valid answer; the connection has ended.
            FuseRefused: The fuse does not know the request, as one of another version may not.
        """
        found = await self._ask({"request": "list"}, limit_s)
        if not isinstance(found, list):
            raise self._failed("its answer is none to this request")
        return tuple(map(self._armed, found))

    async def wait_lost(self) -> str:
        """Wait until the connection has ended; return the reason as text.

        It ends with the fuse, after an answer that was late or wrong, and by `aclose`.
        """
        return await asyncio.shield(self._lost)

    async def aclose(self) -> None:
        """Close the connection; the fuse stays armed. May be called again."""
        self._end("the client was closed")
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        self._way.close()

    async def _ask(self, request: Mapping[str, object], limit_s: float) -> object:
        if self._lost.done():
            raise FuseLost(self.path, self._lost.result())
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        try:
            self._way.send(json.dumps(request).encode())
            found: object = json.loads(await asyncio.wait_for(answer, limit_s))
        except TimeoutError as error:
            raise self._failed(f"it did not answer within {limit_s:g} s") from error
        except OSError as error:
            raise self._failed(str(error)) from error
        except ValueError as error:
            raise self._failed("its answer is no JSON") from error
        match found:
            case {"ok": result}:
                return result
            case {"refused": str(why)}:
                raise FuseRefused(self.path, why)
            case _:
                raise self._failed("its answer is none of a fuse")

    def _armed(self, found: object) -> ArmedFuse:
        try:
            match found:
                case {"state": ("armed" | "stopped" | "killed") as state, **rest}:
                    return ArmedFuse(**_requests.arm(rest)._asdict(), state=state)
                case _:
                    raise self._failed("its answer is none to this request")
        except _requests.Refused as error:
            raise self._failed(f"in its answer {error}") from error

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionResetError):
            while data := await loop.sock_recv(self._way, _requests.REPLY_MAX_BYTES):
                # Answers come in the order of the requests. The caller may have been cancelled.
                answer = self._waiting.popleft() if self._waiting else None
                if answer is not None and not answer.done():
                    answer.set_result(data)
        self._end("the fuse has ended")

    def _failed(self, why: str) -> FuseLost:
        """End the connection, and return the error to raise.

        Args:
            why: The reason, as a sentence without a full stop.
        """
        self._end(why)
        self._reader.cancel()
        return FuseLost(self.path, self._lost.result())

    def _end(self, why: str) -> None:
        if not self._lost.done():
            self._lost.set_result(why)
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(ConnectionError(self._lost.result()))

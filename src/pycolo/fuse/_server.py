"""The main loop of the fuse: it acts on every deadline that has passed, then on one event."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
from typing import Final, NoReturn, assert_never

from pycolo._notify import Notify
from pycolo._printable import one_line
from pycolo.fuse._folder import Folder
from pycolo.fuse._guard import Guard
from pycolo.fuse._kernel import Timer, boottime_s
from pycolo.fuse._requests import REQUEST_MAX_BYTES, Arm, Disarm, Gone, List, Refused, Renew, parse

SOCKET: Final = "fuse.sock"
_CLIENTS_MAX: Final = 64
_GUARDS_MAX: Final = 256
# struct ucred: process, user, group.
_UCRED: Final = struct.Struct("3i")
# A pipe that polls as writable accepts this many bytes without blocking.
_LINE_MAX: Final = 512


def log(text: str) -> None:
    """Write a line to standard error, or drop it if writing would block."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    with contextlib.suppress(OSError):
        if poll.poll(0):
            os.write(2, f"{one_line(text)}"[: _LINE_MAX - 1].encode(errors="replace") + b"\n")


class Server:
    """Guards QEMUs, and answers the requests of agents."""

    def __init__(self, folder: Folder) -> None:
        """Guard the QEMUs that an earlier process guarded, and listen for agents.

        Args:
            folder: The fuse's folder.

        Raises:
            OSError: The folder cannot be listed, or the socket cannot be made.
        """
        self._folder = folder
        self._guards: dict[int, Guard] = {}
        self._clients: dict[int, socket.socket] = {}
        self._timer = Timer()
        self._epoll = select.epoll()
        self._notify = Notify()
        self._said_s = boottime_s()
        for kept in folder.kept():
            self._take_up(kept)
        # A deadline that passed while no fuse ran is acted on before any renewal is read.
        self._act()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        path = folder.inside(SOCKET)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._listener.bind(path)
        self._listener.listen(_CLIENTS_MAX)
        self._epoll.register(self._timer, select.EPOLLIN)
        self._epoll.register(self._listener, select.EPOLLIN)

    def run(self) -> NoReturn:
        """Guard QEMUs and answer agents until a signal ends the process."""
        self._notify.say("READY=1")
        while True:
            self._timer.set(self._next_s())
            # One event at a time: handling one may close a descriptor, whose number is used again.
            events = self._epoll.poll(-1, 1)
            # This process may have been stopped: deadlines come before any message.
            self._act()
            for descriptor, _ in events:
                self._handle(descriptor)

    def _take_up(self, kept: Arm | str) -> None:
        if isinstance(kept, str):
            log(kept)
            return
        try:
            guard = Guard(kept)
        except Gone as gone:
            log(f"{kept.instance}: is guarded no more: {gone}")
            self._forget(kept)
            return
        except Refused as refused:
            log(f"{kept.instance}: CANNOT BE GUARDED: {refused}")
            return
        self._add(guard)
        log(f"{kept.instance}: is guarded again, {guard.deadline_s - boottime_s():.3f} s are left")

    def _next_s(self) -> float | None:
        moments = [guard.next_s for guard in self._guards.values()]
        if self._notify.watchdog_s > 0:
            moments.append(self._said_s + self._notify.watchdog_s / 2)
        return min((moment for moment in moments if moment is not None), default=None)

    def _act(self) -> None:
        for guard in self._guards.values():
            done = guard.act(boottime_s())
            if done is not None:
                log(f"{guard.arm.instance}: {done}")
        half_s = self._notify.watchdog_s / 2
        if half_s > 0 and boottime_s() >= self._said_s + half_s:
            self._said_s = boottime_s()
            self._notify.say("WATCHDOG=1")

    def _handle(self, descriptor: int) -> None:
        if descriptor == self._listener.fileno():
            self._accept()
        elif descriptor in self._guards:
            self._end(self._guards[descriptor])
        elif descriptor in self._clients:
            self._serve(self._clients[descriptor])

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            # The client has disconnected already.
            return
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, user, _ = _UCRED.unpack(credentials)
        if user not in (0, os.geteuid()) or len(self._clients) >= _CLIENTS_MAX:
            log(f"process {pid} of user {user} is refused")
            client.close()
            return
        client.settimeout(0)
        self._clients[client.fileno()] = client
        self._epoll.register(client, select.EPOLLIN)

    def _serve(self, client: socket.socket) -> None:
        try:
            # One byte above the limit, by which a request that is too long is noticed.
            data = client.recv(REQUEST_MAX_BYTES + 1)
            if data:
                client.send(json.dumps(self._reply(data)).encode())
                return
        except OSError:
            # The client has disconnected, or reads no replies.
            pass
        self._epoll.unregister(client)
        del self._clients[client.fileno()]
        client.close()

    def _reply(self, data: bytes) -> dict[str, object]:
        try:
            return {"ok": self._answer(data)}
        except Refused as refused:
            return {"refused": str(refused)}

    def _answer(self, data: bytes) -> object:
        request = parse(data)
        match request:
            case Arm():
                return _described(self._arm(request))
            case Renew():
                return _described(self._renew(request))
            case Disarm():
                self._disarm(request)
                return None
            case List():
                return [_described(guard) for guard in self._guards.values()]
            case _:
                assert_never(request)

    def _arm(self, arm: Arm) -> Guard:
        _check_moment(arm.as_of_s)
        found = self._find(arm)
        if found is not None:
            # The deadline stays: a repeated request does not show that QEMU may still run.
            if found.arm._replace(as_of_s=arm.as_of_s) != arm:
                raise Refused(f"{arm.instance} is armed with other values: disarm it first")
            return found
        if arm.as_of_s + arm.fuse_s <= boottime_s():
            raise Refused("as_of_s + fuse_s must be in the future: the request came too late")
        if len(self._guards) >= _GUARDS_MAX:
            raise Refused(f"{_GUARDS_MAX} QEMUs are guarded already")
        guard = Guard(arm)
        try:
            self._folder.keep(arm)
        except OSError as error:
            guard.close()
            raise Refused(f"{self._folder.path} cannot be written: {error.strerror}") from error
        self._add(guard)
        log(f"{arm.instance}: process {arm.pid} is guarded, fuse {arm.fuse_s:g} s")
        return guard

    def _renew(self, renew: Renew) -> Guard:
        _check_moment(renew.as_of_s)
        guard = self._find(renew)
        if guard is None:
            raise Refused(f"{renew.instance} is not armed")
        if guard.renew(renew.as_of_s, boottime_s()):
            # QEMU before the file: if this process ends between the two, the next one stops QEMU.
            self._let_run(guard)
            try:
                self._folder.keep(guard.arm)
            except OSError as error:
                # The next process then reads an older deadline: it acts too early, never too late.
                log(f"{renew.instance}: the renewal cannot be written: {error.strerror}")
        return guard

    def _disarm(self, disarm: Disarm) -> None:
        guard = self._find(disarm)
        if guard is None:
            return
        self._let_run(guard)
        try:
            self._folder.forget(guard.arm)
        except OSError as error:
            raise Refused(f"{self._folder.path} cannot be written: {error.strerror}") from error
        self._drop(guard)
        log(f"{disarm.instance}: is guarded no more")

    def _find(self, request: Arm | Renew | Disarm) -> Guard | None:
        """The guard of the instance that a request names; None if its node has none.

        The guard of another instance of that node is removed if its process has ended.

        Raises:
            Refused: Another instance of the node is guarded, and its process has not ended.
        """
        for guard in self._guards.values():
            if (guard.arm.pair, guard.arm.node) == (request.pair, request.node):
                if guard.arm.instance == request.instance:
                    return guard
                if not guard.has_ended():
                    raise Refused(f"{guard.arm.instance} is armed, not {request.instance}")
                self._end(guard)
                return None
        return None

    def _let_run(self, guard: Guard) -> None:
        done = guard.let_run()
        if done is not None:
            log(f"{guard.arm.instance}: {done}")

    def _add(self, guard: Guard) -> None:
        self._guards[guard.pidfd] = guard
        self._epoll.register(guard.pidfd, select.EPOLLIN)

    def _end(self, guard: Guard) -> None:
        log(f"{guard.arm.instance}: process {guard.arm.pid} has ended")
        self._drop(guard)
        self._forget(guard.arm)

    def _drop(self, guard: Guard) -> None:
        self._epoll.unregister(guard.pidfd)
        del self._guards[guard.pidfd]
        guard.close()

    def _forget(self, arm: Arm) -> None:
        try:
            self._folder.forget(arm)
        except OSError as error:
            # The next process sees as well that this QEMU has ended.
            log(f"{arm.instance}: its file cannot be removed: {error.strerror}")


def _check_moment(as_of_s: float) -> None:
    if as_of_s > boottime_s():
        raise Refused("as_of_s must not be in the future, on this host's CLOCK_BOOTTIME")


def _described(guard: Guard) -> dict[str, object]:
    told: dict[str, object] = guard.arm._asdict()
    return {**told, "state": guard.state}

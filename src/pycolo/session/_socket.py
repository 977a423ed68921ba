"""Connect to a monitor's socket on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeAlias, assert_never

from pycolo.errors import ConnectionFailed
from pycolo.model.node import Monitor, TcpMonitor, UnixMonitor

Connector: TypeAlias = Callable[[str, Monitor], Awaitable[socket.socket]]
"Opens a connected, non-blocking socket to a node's monitor; raises ConnectionFailed."

# `localhost` is this machine, whatever the resolver says, so no thread is needed to resolve it.
_LOCALHOST: Final = ("127.0.0.1", "::1")
_LINE_S: Final = 0.01
# struct ucred: the process, its user and its group.
_CREDENTIALS: Final = struct.Struct("3i")


def address_of(monitor: Monitor) -> str:
    """A monitor's address as it is written in messages."""
    match monitor:
        case UnixMonitor(path=path):
            return path
        case TcpMonitor(host=host, port=port):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case _:
            assert_never(monitor)


async def open_monitor(node: str, monitor: Monitor) -> socket.socket:
    """Open a non-blocking socket, connected to a monitor's address from this machine.

    Args:
        node: The node's name, for the error.
        monitor: The monitor.

    Raises:
        ConnectionFailed: There is no such socket, or no process listens on it.
    """
    match monitor:
        case UnixMonitor(path=path):
            return await _open_unix(node, path)
        case TcpMonitor():
            return await _open_tcp(node, monitor)
        case _:
            assert_never(monitor)


async def _open_unix(node: str, path: str) -> socket.socket:
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(0)
        try:
            sock.connect(path)
        except BlockingIOError:
            # EAGAIN: the listen backlog is full. Retry until the limit.
            sock.close()
            await asyncio.sleep(_LINE_S)
        except OSError as error:
            sock.close()
            raise ConnectionFailed(node, path, _why_no_unix(path, error)) from error
        else:
            return sock


def _why_no_unix(path: str, error: OSError) -> str:
    """Why a Unix socket cannot be connected, as a clause."""
    if error.errno != errno.ECONNREFUSED:
        return "there is no such socket" if error.errno == errno.ENOENT else os_text(error)
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return "it is no socket"
    return "nobody listens on that socket"


async def _open_tcp(node: str, monitor: TcpMonitor) -> socket.socket:
    hosts = _LOCALHOST if monitor.host == "localhost" else (monitor.host,)
    why = ""
    for host in hosts:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(0)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (host, monitor.port))
        except OSError as error:
            sock.close()
            why = why or os_text(error)
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise ConnectionFailed(node, address_of(monitor), why)


def peer_of(opened: socket.socket) -> int | None:
    """The process at the other end of a Unix socket; None for another socket, or if it is hidden.

    For a socket that this machine forwards to another one, it is the process that forwards it.
    """
    if opened.family != socket.AF_UNIX:
        return None
    credentials = opened.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid: int
    pid, _, _ = _CREDENTIALS.unpack(credentials)
    return pid or None


def os_text(error: OSError) -> str:
    """The operating system's text of an error, without the name of the file."""
    return os.strerror(error.errno) if error.errno else str(error)

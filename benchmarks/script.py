"""What somebody writes who needs one failover and no library: blocking sockets and JSON."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from typing import Self, final

from pycolo.model import ColoPair, UnixMonitor
from pycolo.qmp.commands import Command, Yank

LIMIT_S = 10.0


@final
class Script:
    """A connection to a monitor, opened before anything happens."""

    def __init__(self, path: str) -> None:
        self._door = socket.socket(socket.AF_UNIX)
        self._door.settimeout(LIMIT_S)
        self._door.connect(path)
        self._lines = self._door.makefile("rb")

    def __enter__(self) -> Self:
        self._lines.readline()
        self._send({"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}})
        self._lines.readline()
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._door.close()

    def call(self, command: Command) -> bool:
        """Send a command and take its reply; whether RESUME came before that."""
        members = command.to_qmp()
        self._send(_oob(members) if isinstance(command, Yank) else members)
        return self._read_until("return")

    def fail_over(self, commands: Sequence[Command]) -> None:
        """Send these commands, and wait until the guest runs."""
        # Only what comes after the last command counts: checkpoints resume the guest too.
        resumed = [self.call(command) for command in commands][-1]
        if not resumed:
            self.wait_resumed()

    def wait_resumed(self) -> None:
        """Wait for the next RESUME."""
        while not self._read_until("event"):
            pass

    def _send(self, members: object) -> None:
        self._door.sendall(json.dumps(members).encode() + b"\n")

    def _read_until(self, key: str) -> bool:
        """Read up to a message of a kind; whether RESUME was among what was read."""
        resumed = False
        while True:
            members = json.loads(self._lines.readline())
            if "error" in members:
                raise RuntimeError(members["error"])
            resumed = resumed or members.get("event") == "RESUME"
            if key in members:
                return resumed


def observer_path(pair: ColoPair, node: str) -> str:
    """Where a script connects while pycolo has the control monitor."""
    monitor = pair.node(node).observer_monitor
    if not isinstance(monitor, UnixMonitor):
        raise TypeError("the scripts speak to unix sockets")
    return monitor.path


def _oob(members: Mapping[str, object]) -> dict[str, object]:
    return {"exec-oob": members["execute"], "arguments": members["arguments"]}

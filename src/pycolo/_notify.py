"""The notifications that a systemd service of `Type=notify` sends to its manager."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final, final

_USEC: Final = 1e6
_LIMIT_S: Final = 0.05


@final
class Notify:
    """Notifies the service manager that started this process, if there is one."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        # A leading @ means an abstract socket.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        period = os.environ.get("WATCHDOG_USEC", "")
        self.watchdog_s: Final = int(period) / _USEC if period.isdecimal() else 0.0
        "The longest time between two `WATCHDOG=1`, in seconds; 0 if the manager expects none."

    def say(self, state: str) -> None:
        """Send one state, such as `READY=1`; nothing is raised if the manager is gone or stuck."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
            way.settimeout(_LIMIT_S)
            way.connect(self._address)
            way.send(state.encode())

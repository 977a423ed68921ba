"""The notifications that a service of `Type=notify` sends to systemd."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final, final

_USEC: Final = 1e6
_LIMIT_S: Final = 0.05


@final
class Notify:
    """Notifies the service manager that started this process; does nothing without one."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        # A leading @ is how an abstract socket is written.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        period = os.environ.get("WATCHDOG_USEC", "")
        self.watchdog_s: Final = int(period) / _USEC if period.isdecimal() else 0.0
        "How often `WATCHDOG=1` must be said at least, in seconds; 0 if nobody waits for it."

    def say(self, state: str) -> None:
        """Send one state, such as `READY=1`; a manager that is gone or stuck is no error."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
            way.settimeout(_LIMIT_S)
            way.connect(self._address)
            way.send(state.encode())

"""The notifications that a service of `Type=notify` sends to systemd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Final, final

_USEC: Final = 1e6


@final
class Notify:
    """Tells the service manager that started this process; nobody, where none did."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        # A leading @ is how an abstract socket is written.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        period = os.environ.get("WATCHDOG_USEC", "")
        self._period_s = int(period) / _USEC if period.isdecimal() else 0.0

    def say(self, state: str) -> None:
        """Send one state, such as `READY=1`; a manager that is gone is no error."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
            way.connect(self._address)
            way.send(state.encode())

    async def keep_alive(self) -> None:
        """Say twice in each period that the event loop still turns; until cancelled."""
        while self._period_s > 0:
            self.say("WATCHDOG=1")
            await asyncio.sleep(self._period_s / 2)

"""Call the caller's observers and recorders; their errors must not change the execution."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

_LOG: Final = logging.getLogger("pycolo.execute")


def shielded(call: Callable[[], None]) -> None:
    """Call an observer or a recorder; an error that it raises is logged."""
    try:
        call()
    except Exception:  # noqa: BLE001 - the caller's code may raise any error
        _LOG.exception("the observer failed")
